//! What passes between two nodes, and what becomes of it on the way.

use std::collections::BTreeMap;

use bytes::Bytes;
use tram_proto::envelope::{Body, Precedence};
use tram_proto::frame::{Frame, Offer, Range, Recipient, Verdict, Visit};
use tram_proto::id::{Digest, MessageId};
use tram_proto::manifest::Layout;
use tram_proto::receipt::{NodeRecord, Receipt, Stamp, State};
use tram_proto::statement::Signed;
use tram_relay::Input;
use tram_relay::input::{Held, LinkId, Row, Signer};
use tramd::spool::SpoolError;

use super::Place;
use super::world::{Happening, World};

/// What a true signature looks like here.
pub(super) const SIGNED: Bytes = Bytes::from_static(b"simulated");

/// One end of a link.
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) peer: Place,
    twin: LinkId,
    /// Which of the child's uplinks it is.
    index: usize,
    /// Nothing passes any more, and this end does not know it yet.
    dead: bool,
    /// What this end held out, by number.
    out: BTreeMap<u64, Out>,
}

/// What an offer of a number was.
enum Out {
    Message(MessageId, Vec<u32>),
    Receipt(MessageId, u32, State),
}

impl World {
    pub(super) fn connect(&mut self, child: Place, parent: Place, index: usize) -> (LinkId, LinkId) {
        let (ours, theirs) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        let line = |place, peer, twin| Line { place, peer, twin, index, dead: false, out: BTreeMap::new() };
        self.lines.insert(ours, line(child, parent, theirs));
        self.lines.insert(theirs, line(parent, child, ours));
        (ours, theirs)
    }

    pub(super) fn is_cut(&self, a: Place, b: Place) -> bool {
        self.cuts.contains_key(&(a.min(b), a.max(b)))
    }

    /// The line between two nodes is cut for a while.
    pub fn cut(&mut self, a: Place, b: Place, for_ms: u64) {
        *self.cuts.entry((a.min(b), a.max(b))).or_default() += 1;
        let links = self.lines.iter().filter(|(_, l)| l.place == a && l.peer == b).map(|(link, _)| *link);
        for link in links.collect::<Vec<_>>() {
            self.break_line(link, false);
        }
        self.at(for_ms, Happening::Heal { a, b });
    }

    pub(super) fn heal_line(&mut self, a: Place, b: Place) {
        let key = (a.min(b), a.max(b));
        if let Some(count) = self.cuts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.cuts.remove(&key);
            }
        }
    }

    /// A child hangs under other parents from now on: its old links end.
    pub fn move_to(&mut self, place: Place, parents: &[Place]) {
        self.nodes[place].parents = parents.to_vec();
        let up = self.lines.iter().filter(|(_, l)| l.place == place && l.peer < place).map(|(link, _)| *link);
        for link in up.collect::<Vec<_>>() {
            self.break_line(link, false);
        }
        let life = self.nodes[place].life;
        for parent in 0..parents.len() {
            self.at(5, Happening::Dial { place, life, parent });
        }
    }

    /// Nothing passes any more; each end notices in its own time, the one that knows at once.
    pub(super) fn break_line(&mut self, link: LinkId, known: bool) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        line.dead = true;
        let (place, twin, peer) = (line.place, line.twin, line.peer);
        if let Some(line) = self.lines.get_mut(&twin) {
            line.dead = true;
        }
        let most = self.manners.notice_ms;
        let (ours, theirs) = (self.random.below(most), self.random.below(most));
        if known || most == 0 {
            self.end(place, link);
        } else {
            self.at(ours, Happening::Notice { place, link });
        }
        if most == 0 {
            self.end(peer, twin);
        } else {
            self.at(theirs, Happening::Notice { place: peer, link: twin });
        }
    }

    pub(super) fn end(&mut self, place: Place, link: LinkId) {
        let Some(line) = self.lines.remove(&link) else { return };
        self.tell(place, Input::LinkDown { link });
        // The lower node dials.
        if line.peer < place {
            let (life, again) = (self.nodes[place].life, 250 + self.random.below(1000));
            for parent in 0..self.nodes[place].parents.len().max(line.index) {
                self.at(again, Happening::Dial { place, life, parent });
            }
        }
    }

    /// Brings something to the other end: frames of the control stream in order, all else sooner or later.
    fn carry(&mut self, link: LinkId, on_control: bool, make: impl Fn(LinkId, Place, u64) -> Happening) {
        let Some(line) = self.lines.get(&link).filter(|l| !l.dead) else { return };
        let (peer, twin) = (line.peer, line.twin);
        let life = self.nodes[peer].life;
        let mut wait = self.manners.latency_ms;
        if self.manners.overtaking && !on_control {
            let spread = 4 * self.manners.latency_ms;
            wait = self.random.below(spread);
        }
        self.at(wait, make(twin, peer, life));
    }

    fn again(&mut self) -> usize {
        if self.manners.doubling && self.random.once_in(10) { 2 } else { 1 }
    }

    fn lies(&mut self, place: Place, once_in: u64) -> bool {
        self.manners.liar == Some(place) && self.random.once_in(once_in)
    }

    pub(super) fn send_frame(&mut self, place: Place, link: LinkId, frame: &Frame) {
        let bytes = frame.encode();
        if let Frame::Ack(ranges) = frame {
            self.check_acks(place, link, ranges);
        }
        if let Frame::Reply { offer, verdict: Verdict::Pending, ordinals, .. } = frame
            && let Some(twin) = self.lines.get(&link).map(|l| l.twin)
            && let Some(Out::Message(_, held)) = self.lines.get_mut(&twin).and_then(|l| l.out.get_mut(offer))
        {
            held.retain(|index| !ordinals.contains(index));
        }
        if let Frame::Reply { offer, verdict: Verdict::Refused, .. } = frame
            && let Some(line) = self.lines.get(&link).and_then(|l| self.lines.get(&l.twin))
            && let Some(Out::Message(id, held)) = line.out.get(offer)
        {
            // What nobody believes is in no one's custody: whoever passed it on says so to those before.
            self.model.hears_acknowledged(line.place, *id, held);
        }
        if matches!(frame, Frame::Want { .. }) && self.lies(place, 8) {
            // It offered to take something and is silent now.
            return;
        }
        let double = matches!(frame, Frame::Ack(_) | Frame::Want { .. } | Frame::Reply { .. });
        for _ in 0..if double { self.again() } else { 1 } {
            self.carry(link, true, |link, place, life| {
                let frame = Frame::decode(bytes.slice(4..)).expect("our own frames decode");
                Happening::Input { place, life, input: Box::new(Input::Frame { link, frame }) }
            });
        }
        if matches!(frame, Frame::Pong { .. }) && self.lies(place, 2) {
            let frame = match self.random.below(3) {
                0 => Frame::Ack(vec![Range { first: 100_000, count: 3 }]),
                1 => Frame::Want { offer: 99_999, units: vec![Range { first: 0, count: 1 }] },
                _ => Frame::Answer { number: 77, hops: vec![], last: true },
            };
            self.carry(link, true, |link, place, life| {
                let input = Box::new(Input::Frame { link, frame: frame.clone() });
                Happening::Input { place, life, input }
            });
        }
    }

    /// Whoever acknowledges has it on its disk, or had.
    fn check_acks(&mut self, place: Place, link: LinkId, ranges: &[Range]) {
        let Some(twin) = self.lines.get(&link).map(|l| l.twin) else { return };
        let (name, true_ms) = (self.name(place), self.true_ms());
        let Some(line) = self.lines.get(&twin) else { return };
        for (_, out) in ranges.iter().flat_map(|r| line.out.range(r.first..r.end())) {
            match out {
                Out::Message(id, ordinals) => {
                    self.model.acknowledges(place, &name, *id, ordinals, true_ms);
                    self.model.hears_acknowledged(line.place, *id, ordinals);
                }
                Out::Receipt(id, ordinal, state) => {
                    self.model.acknowledges_receipt(place, &name, *id, *ordinal, *state);
                }
            }
        }
    }

    pub(super) fn send_offer(
        &mut self,
        place: Place,
        link: LinkId,
        row: Row,
        (number, visit, recipients, stamps): (u64, Visit, Vec<Recipient>, Vec<Stamp>),
    ) {
        let read = self.on_spool(place, "load an envelope", |s| Ok((s.envelope(row)?, s.inline(row)?)));
        let Some((mut envelope, inline)) = read else { return };
        if self.lies(place, 4) {
            envelope.signature.signature = Bytes::from_static(b"junk");
        }
        let ordinals = recipients.iter().map(|r| r.ordinal.index).collect();
        let id = Body::id(&envelope.statement);
        if let Some(line) = self.lines.get_mut(&link) {
            line.out.insert(number, Out::Message(id, ordinals));
        }
        let bytes = Frame::Offer(Offer { number, envelope, visit, recipients, stamps, inline }).encode();
        for _ in 0..self.again() {
            self.carry(link, false, |link, place, life| {
                let Ok(Frame::Offer(offer)) = Frame::decode(bytes.slice(4..)) else { panic!("an offer decodes") };
                Happening::Offer { place, life, link, offer: Box::new(offer) }
            });
        }
    }

    /// The link task reads an offer: what the spool holds, and whether the origin's signature holds.
    pub(super) fn offered(&mut self, place: Place, link: LinkId, offer: Offer) {
        if self.lies(place, 6) {
            let ordinals: Vec<u32> = offer.recipients.iter().map(|r| r.ordinal.index).collect();
            if let Some(line) = self.lines.get(&link) {
                self.model.hears_acknowledged(line.peer, Body::id(&offer.envelope.statement), &ordinals);
            }
            let frame = Frame::Ack(vec![Range { first: offer.number, count: 1 }]);
            return self.carry(link, true, |link, place, life| Happening::Input {
                place,
                life,
                input: Box::new(Input::Frame { link, frame: frame.clone() }),
            });
        }
        let body = Body::decode(&offer.envelope.statement).expect("it decodes");
        let id = Body::id(&offer.envelope.statement);
        let held = if body.is_inline() {
            Some(Held::default())
        } else {
            let layout = Layout::new(body.payload_bytes).expect("small");
            self.on_spool(place, "look for units", |s| s.held(body.payload_root, layout))
        };
        let Some(held) = held else { return };
        let here = self.nodes[place].id;
        let is_here = |r: &Recipient| {
            r.node == Some(here) || self.place_of(&body.to[r.ordinal.index as usize].node) == Some(place)
        };
        let is_recipient = offer.recipients.iter().any(is_here);
        let trusted = (is_recipient || body.recalls.is_some()).then(|| offer.envelope.signature.signature == SIGNED);
        let (offer, body) = (Box::new(offer), Box::new(body));
        self.tell(place, Input::Offer { link, offer, id, body, trusted, held });
    }

    pub(super) fn send_receipt(&mut self, place: Place, link: LinkId, number: u64, row: Row) {
        let Some(signed) = self.on_spool(place, "load a receipt", |s| s.receipt(row)) else { return };
        let receipt = Receipt::decode(&signed.statement).expect("it decodes");
        // By the certificate that it had then.
        let signer = Signer { name: receipt.name.clone(), ..self.said_by(&signed) };
        if let Some(line) = self.lines.get_mut(&link) {
            line.out.insert(number, Out::Receipt(receipt.message, receipt.ordinal.index, receipt.state));
        }
        for _ in 0..self.again() {
            self.carry(link, false, |link, place, life| {
                let (receipt, signed, signer) = (Box::new(receipt.clone()), signed.clone(), Some(signer.clone()));
                let input = Box::new(Input::Receipt { link, number, receipt, signed, signer });
                Happening::Input { place, life, input }
            });
        }
    }

    pub(super) fn send_record(&mut self, link: LinkId, signed: Signed, flood: bool) {
        let record = NodeRecord::decode(&signed.statement).expect("it decodes");
        self.carry(link, true, |link, place, life| {
            let (record, signed) = (record.clone(), signed.clone());
            Happening::Input { place, life, input: Box::new(Input::Record { link, record, signed, flood }) }
        });
    }

    pub(super) fn send_run(
        &mut self,
        place: Place,
        link: LinkId,
        precedence: Precedence,
        (root, bytes, first, count): (Digest, u64, u64, u32),
    ) {
        let layout = Layout::new(bytes).expect("small");
        let life = self.nodes[place].life;
        // The line is fast and slow by turns.
        let run_units = 1 + u32::try_from(self.random.below(16)).expect("small");
        let sent = Input::RunSent { link, precedence, run_units };
        self.at(2 * u64::from(count), Happening::Input { place, life, input: Box::new(sent) });
        let mut units = Vec::new();
        for unit in first..first + u64::from(count) {
            match self.unit(place, root, layout, unit) {
                Some(bytes) => units.push(bytes),
                None => break,
            }
        }
        // A run that is cut off half-way brings what came before.
        if self.manners.broken_runs && self.random.once_in(40) {
            let kept = self.random.place(units.len() + 1);
            units.truncate(kept);
        }
        if !units.is_empty() {
            self.carry(link, false, |_, place, life| Happening::Run {
                place,
                life,
                root,
                layout,
                first,
                units: units.clone(),
            });
        }
    }

    /// A unit of a payload. A damaged one is forgotten by the spool, and the core hears of what is left.
    pub(super) fn unit(&mut self, place: Place, root: Digest, layout: Layout, unit: u64) -> Option<Bytes> {
        let spool = self.nodes[place].spool.clone()?;
        let read = spool.unit(root, layout, unit);
        drop(spool);
        match read {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let lost = matches!(error, SpoolError::Damaged { .. } | SpoolError::Missing { .. });
                self.disk_failed(place, "read a unit", &error);
                if lost && let Some(held) = self.on_spool(place, "look for units", |s| s.held(root, layout)) {
                    self.tell(place, Input::UnitsLost { root, held });
                }
                None
            }
        }
    }

    pub(super) fn run_came(&mut self, place: Place, root: Digest, layout: Layout, first: u64, units: Vec<Bytes>) {
        let range = Range { first, count: units.len() as u64 };
        let bytes = units.iter().map(|unit| unit.len() as u64).sum();
        if !self.has_room(place, bytes) {
            return self.tell(place, Input::RunStopped { root });
        }
        // The daemon takes no unit before what vouches for it: the head for a page, the pages for chunks.
        let vouching = if first < layout.manifest_units() { 1 } else { layout.manifest_units() };
        if first > 0 {
            let Some(held) = self.on_spool(place, "look for units", |s| s.held(root, layout)) else { return };
            if !held.units.first().is_some_and(|r| r.first == 0 && r.count >= vouching) {
                return;
            }
        }
        if self.on_spool(place, "store units", |s| s.store(root, layout, first, units)).is_some() {
            self.tell(place, Input::UnitsDurable { root, units: range });
            self.look_after(place);
        } else {
            // The daemon tells a full disk from a failing one; a node that failed hears nothing.
            self.tell(place, Input::RunStopped { root });
        }
    }
}
