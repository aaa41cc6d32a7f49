//! A message comes in: an offer, its units, and what the node owes each recipient.
//!
//! An offer is acknowledged when the whole message is durable here. A newer visit replaces an older one in the live row;
//! one that is not newer is acknowledged; a destination takes each recipient once. DESIGN §5.

use std::collections::BTreeSet;

use tram_proto::envelope::Body;
use tram_proto::frame::{Frame, Offer, Range, Recipient, Verdict};
use tram_proto::id::{Digest, MessageId, NodeId};
use tram_proto::manifest::Layout;
use tram_proto::receipt::{Ordinal, Reason, State};
use tram_proto::row::{MessageRow, Phase};

use crate::custody::{Custody, Ended, Hops, Live, ROW_BYTES, Settled, Source};
use crate::input::{Held, LinkId, Row, Side};
use crate::limits;
use crate::links::PutOff;
use crate::node::submit::new_recipient;
use crate::node::{After, Node};
use crate::output::{CloseReason, Event, Op, Output, Statement};
use crate::ranges::Ranges;
use crate::routing::{Existence, Hop};

/// An offer as the link task read it.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) link: LinkId,
    pub(super) offer: Offer,
    pub(super) id: MessageId,
    pub(super) body: Body,
    pub(super) trusted: Option<bool>,
    pub(super) held: Held,
}

impl Node {
    pub(super) fn offer(&mut self, mut o: Offered) {
        if self.links.get(o.link).is_none() {
            return;
        }
        let in_body = |r: &Recipient| r.ordinal.list.is_none() && (r.ordinal.index as usize) < o.body.to.len();
        if !o.offer.recipients.iter().all(in_body) {
            return self.close(o.link, CloseReason::Protocol("an offer for a recipient its envelope does not name"));
        }
        // Every custody transfer adds one of each, and what goes on from here has to fit the limits of the next.
        let hops = o.offer.visit.hops as usize;
        if hops != o.offer.stamps.len() || hops == 0 || hops >= tram_proto::limits::HOPS {
            return self.close(o.link, CloseReason::Protocol("an offer whose stamps do not fit its hops"));
        }
        if o.trusted == Some(false) {
            return self.distrust(o.link, o.offer.number, o.id);
        }
        self.tell_where(o.link, o.offer.recipients.iter().filter_map(|r| r.node));
        self.drop_known(&mut o);
        if o.offer.recipients.is_empty() {
            return self.then(After::Ack(o.link, o.offer.number));
        }
        match self.custody.find(o.id) {
            Some(row) => self.offer_again(row, o),
            None => self.offer_new(o),
        }
    }

    /// An uplink sends mail or receipts for nodes that are not below here any more: it hears what is known here of those.
    pub(super) fn tell_where(&mut self, link: LinkId, nodes: impl Iterator<Item = NodeId>) {
        if self.links.get(link).is_none_or(|l| l.side == Side::Down) {
            return;
        }
        let nodes: BTreeSet<NodeId> = nodes.filter(|node| self.routing.next(Some(*node)) == Hop::Up).collect();
        for record in nodes.iter().filter_map(|node| self.routing.record(*node)).map(|known| known.signed.clone()) {
            self.outputs.push_back(Output::SendRecord { link, record, flood: false });
        }
    }

    /// Leaves out recipients that were settled here or taken back, and those that went on with this or a newer visit.
    fn drop_known(&mut self, o: &mut Offered) {
        let released = self.custody.released(o.id).to_vec();
        o.offer
            .recipients
            .retain(|r| !released.iter().any(|(ordinal, visit, ..)| *ordinal == r.ordinal && *visit >= o.offer.visit));
        let (id, origin) = (o.id, o.body.origin);
        o.offer.recipients.retain(|r| !self.tombstones.covers(id, origin, r.ordinal));
        let Some(settled) = self.custody.settled(o.id) else { return };
        let known = settled.recipients.clone();
        let is_known = |r: &Recipient| known.iter().any(|k| k.ordinal == r.ordinal);
        if o.offer.visit.attempt > 0 && o.offer.recipients.iter().any(is_known) {
            // The origin asks again, so a receipt may have been lost with a relay's disk: say it once more.
            self.state_again(&o.body, o.id, &known);
        }
        o.offer.recipients.retain(|r| !is_known(r));
    }

    fn offer_new(&mut self, mut o: Offered) {
        if self.lacks_room(&mut o) {
            return;
        }
        let created = self.clock.corrected_ms(self.now);
        let from = self.links.get(o.link).map(|l| l.peer.node);
        let recipients = o.offer.recipients.iter().map(|r| {
            let node = self.node_of(&o, r);
            new_recipient(Recipient { node, ..*r }, State::Relayed, created)
        });
        let message = MessageRow {
            id: o.id,
            visit: o.offer.visit,
            from,
            received_ms: created,
            recipients: recipients.collect(),
            stamps: o.offer.stamps.clone(),
            complete: o.body.is_inline(),
            handed_ms: 0,
            handed_to: None,
            user: None,
            recalls: o.body.recalls,
            demoted_from: None,
        };
        let Some(mut live) = Live::new(message, o.body.gist(), &o.held, false) else { return };
        if !o.body.is_inline() && live.has_all_units() {
            live.message.complete = true;
            drop(live.has_come());
        }
        if !live.message.complete {
            live.coming_mut().progress_ms = self.now.mono_ms;
        }
        let row = self.row();
        self.custody.insert(row, live);
        self.stop_copies(row);
        self.judge(row);
        self.put_message(row, Statement::Signed(o.offer.envelope), o.offer.inline);
        self.then(After::Stored(row));
        // Where every recipient ended at once, the payload is not worth its way.
        if self.custody.get(row).is_none_or(|l| l.message.complete || l.all_ended()) {
            self.then(After::Ack(o.link, o.offer.number));
        } else {
            self.offered_by(row, o.link, Source { number: o.offer.number, hops: o.offer.visit.hops });
        }
    }

    /// The same message once more: after a cut, by another branch, or from an origin that lost patience.
    fn offer_again(&mut self, row: Row, mut o: Offered) {
        let Some(live) = self.custody.get(row) else { return };
        let known: Vec<Ordinal> = live.message.recipients.iter().map(|r| r.recipient.ordinal).collect();
        if self.hops_lack_room(&mut o, &known) {
            return;
        }
        let Some(live) = self.custody.get(row) else { return };
        let newer = o.offer.visit > live.message.visit && !live.is_own();
        let known = |r: &Recipient| live.message.recipients.iter().any(|k| k.recipient.ordinal == r.ordinal);
        let added: Vec<Recipient> = o.offer.recipients.iter().filter(|r| !known(r)).copied().collect();
        let complete = live.message.complete;
        if live.is_own() && added.is_empty() {
            return self.acks.entry(o.link).or_default().push(o.offer.number);
        }
        if newer || !added.is_empty() {
            let created = self.clock.corrected_ms(self.now);
            let resolved: Vec<_> = added.iter().map(|r| Recipient { node: self.node_of(&o, r), ..*r }).collect();
            if let Some(peer) = self.links.get(o.link).map(|l| l.peer.node).filter(|_| newer) {
                // Where it came from decides whether it may go up, and among whose it waits.
                let turn = |custody: &Custody| custody.get(row).map(|live| (live.precedence, live.turn()));
                let before = turn(&self.custody);
                self.custody.comes_from(row, peer);
                if let (Some((precedence, before)), Some((_, now))) = (before, turn(&self.custody)) {
                    self.queues.change(precedence, row, before, now);
                }
            }
            if let Some(live) = self.custody.get_mut(row) {
                if newer {
                    live.message.visit = o.offer.visit;
                    live.message.stamps.clone_from(&o.offer.stamps);
                }
                for r in resolved {
                    live.message.recipients.push(new_recipient(r, State::Relayed, created));
                }
            }
            self.judge(row);
            self.update(row);
            self.then(After::Stored(row));
        }
        if complete {
            self.then(After::Ack(o.link, o.offer.number));
        } else {
            self.offered_by(row, o.link, Source { number: o.offer.number, hops: o.offer.visit.hops });
        }
    }

    /// Puts an offer off, or some of its recipients, for which there is no room now; true if nothing is left of it.
    fn lacks_room(&mut self, o: &mut Offered) -> bool {
        let (link, number, precedence) = (o.link, o.offer.number, o.body.precedence);
        let missing = if o.body.is_inline() { o.body.payload_bytes } else { missing_bytes(&o.body, &o.held) };
        let bytes = missing.saturating_add(ROW_BYTES);
        let admitted = o.body.recalls.is_some() || self.admits(precedence, bytes).is_ok();
        if self.custody.is_full() || !admitted || !self.child_may_bring(link, bytes) {
            self.put_off(link, number, Reason::SpoolFull, PutOff { precedence, bytes, hop: None });
            return true;
        }
        self.hops_lack_room(o, &[])
    }

    /// Puts off the recipients whose next hop has no room, but for those this node has already; true if none is left.
    fn hops_lack_room(&mut self, o: &mut Offered, known: &[Ordinal]) -> bool {
        let (link, number, precedence) = (o.link, o.offer.number, o.body.precedence);
        let size = o.body.payload_bytes.saturating_add(ROW_BYTES);
        let hops: Vec<(Recipient, Hop)> = o
            .offer
            .recipients
            .iter()
            .map(|r| {
                let name = o.body.to.get(r.ordinal.index as usize).map(|address| &address.node);
                (*r, self.routing.way(self.node_of(o, r), name))
            })
            .collect();
        let (fit, full): (Vec<_>, Vec<_>) =
            hops.into_iter().partition(|(r, hop)| known.contains(&r.ordinal) || self.hop_takes(*hop, size).is_ok());
        let Some((_, hop)) = full.first().copied() else { return false };
        if fit.is_empty() {
            self.put_off(link, number, Reason::HopFull, PutOff { precedence, bytes: size, hop: Some(hop) });
            return true;
        }
        let ordinals = full.iter().map(|(r, _)| r.ordinal.index).collect();
        let verdict = Verdict::Pending;
        self.send(link, Frame::Reply { offer: number, verdict, reason: Reason::HopFull, ordinals });
        o.offer.recipients = fit.into_iter().map(|(r, _)| r).collect();
        false
    }

    /// The node of a recipient, as far as anyone knows. What turns out to be for this node by a name that the link did not
    /// know when it read the offer goes up, and is looked at when it comes back.
    fn node_of(&self, o: &Offered, r: &Recipient) -> Option<NodeId> {
        let resolve = || match self.routing.resolve(&o.body.to.get(r.ordinal.index as usize)?.node) {
            Existence::Known(node) => Some(node).filter(|node| *node != self.config.node || o.trusted == Some(true)),
            Existence::Never | Existence::Unknown => None,
        };
        r.node.or_else(resolve)
    }

    /// Sends a message away whose signature does not hold. It says nothing of the true message of that id, which may
    /// still come another way.
    fn distrust(&mut self, link: LinkId, offer: u64, message: MessageId) {
        let Some(from) = self.links.get(link).map(|l| l.peer.name.clone()) else { return };
        self.outputs.push_back(Output::Event(Event::EnvelopeNotTrusted { message, from }));
        let (verdict, reason) = (Verdict::Refused, Reason::NotTrusted);
        self.send(link, Frame::Reply { offer, verdict, reason, ordinals: Vec::new() });
    }

    fn recipients_toward(&self, row: Row, hop: Hop) -> Vec<usize> {
        let Some(live) = self.custody.get(row) else { return Vec::new() };
        let recipients = live.message.recipients.iter().enumerate();
        recipients
            .filter(|(_, r)| {
                let name = live.address(r.recipient.ordinal).map(|address| &address.node);
                r.phase == Phase::Forward && self.routing.way(r.recipient.node, name) == hop
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// Decides for every recipient that ends, or has arrived, at this node. What it states goes into the same commit.
    pub(super) fn judge(&mut self, row: Row) {
        let Some(live) = self.custody.get(row) else { return };
        let complete = live.message.complete;
        let unresolved: Vec<usize> = live
            .message
            .recipients
            .iter()
            .enumerate()
            .filter(|(_, r)| r.phase == Phase::Forward && r.recipient.node.is_none())
            .filter(|(_, r)| {
                live.address(r.recipient.ordinal).is_some_and(|a| self.routing.resolve(&a.node) == Existence::Never)
            })
            .map(|(index, _)| index)
            .collect();
        for index in unresolved {
            self.state_recipient(row, index, State::Undeliverable, Reason::NoSuchNode, Phase::Ended);
        }
        for index in self.recipients_toward(row, Hop::Here) {
            let Some(live) = self.custody.get(row) else { return };
            if let Some(target) = live.message.recalls {
                self.take_back(row, index, target);
                continue;
            }
            let inbox = live.message.recipients.get(index).and_then(|r| live.address(r.recipient.ordinal));
            if inbox.is_none_or(|a| !self.inboxes.exists(&a.inbox)) {
                self.state_recipient(row, index, State::Undeliverable, Reason::NoSuchInbox, Phase::Ended);
            } else if complete {
                self.state_recipient(row, index, State::Arrived, Reason::None, Phase::Inbox);
            }
        }
    }

    /// The row is durable: send it on, hand it out.
    pub(super) fn stored(&mut self, row: Row) {
        let Some(live) = self.custody.get_mut(row) else { return };
        live.durable = true;
        let precedence = live.precedence;
        let inboxes: Vec<_> = live
            .message
            .recipients
            .iter()
            // One that arrived and lost units to the disk since waits until those have come again.
            .filter(|r| r.phase == Phase::Inbox && live.message.complete)
            .filter_map(|r| live.address(r.recipient.ordinal).map(|a| a.inbox.clone()))
            .collect();
        for inbox in inboxes {
            if !self.inboxes.is_held(&inbox, row) {
                self.inboxes.put(&inbox, precedence, row);
            }
        }
        self.place(row);
        self.settle_if_done(row);
        self.hand_out();
    }

    /// Puts a row into the queues of its recipients' next hops.
    pub(super) fn place(&mut self, row: Row) {
        self.charge(row);
        let Some(live) = self.custody.get(row).filter(|l| l.durable) else { return };
        let (precedence, place) = (live.precedence, live.turn());
        let waiting = live.message.recipients.iter().enumerate().filter(|(index, r)| self.waits(live, *index, r));
        let hops: Hops = waiting.map(|(_, r)| self.next_hop(live, r)).filter(|hop| *hop != Hop::Here).collect();
        for hop in hops.as_slice() {
            self.queues.push(*hop, precedence, row, place);
            self.touch(*hop);
        }
    }

    pub(super) fn update(&mut self, row: Row) {
        if let Some(live) = self.custody.get(row) {
            let message = live.message.clone();
            self.op(Op::UpdateMessage { row, message });
        }
    }

    /// A link holds out a payload that is not whole here. Of two, the one nearer to the origin is asked: the other may
    /// have but a part, and wait for it as we do.
    fn offered_by(&mut self, row: Row, link: LinkId, source: Source) {
        let Some(live) = self.custody.get_mut(row) else { return };
        let coming = live.coming_mut();
        let last = coming.sources.entry(link).or_insert(source);
        // Of two offers on one link the later holds: the sender has taken the other back.
        if source.number > last.number {
            *last = source;
        }
        let asked = coming.asked_of.filter(|other| *other != link).and_then(|other| coming.sources.get(&other));
        if asked.is_none_or(|asked| source.hops < asked.hops) {
            self.want(row, link);
        }
    }

    fn want(&mut self, row: Row, link: LinkId) {
        let now_ms = self.now.mono_ms;
        let Some(live) = self.custody.get_mut(row) else { return };
        let source = live.coming().and_then(|coming| coming.sources.get(&link));
        let Some(offer) = source.map(|source| source.number) else { return };
        if live.has_all_units() {
            let root = live.root;
            return self.completed(row, root);
        }
        let units = live.to_want();
        let coming = live.coming_mut();
        (coming.progress_ms, coming.asked_of, coming.asked) = (now_ms, Some(link), Ranges::of(&units));
        self.send(link, Frame::Want { offer, units });
    }

    pub(super) fn units_durable(&mut self, root: Digest, units: Range) {
        self.room_taken(units.count.saturating_mul(tram_proto::limits::CHUNK_BYTES as u64));
        for row in self.custody.receiving(root) {
            let Some(live) = self.custody.get_mut(row) else { continue };
            let coming = live.coming_mut();
            coming.have.insert(units);
            coming.asked.remove(units);
            coming.progress_ms = self.now.mono_ms;
            let asked_all = coming.asked.is_empty();
            if live.has_all_units() {
                self.completed(row, root);
            } else if asked_all {
                self.want_again(row, false);
            }
            self.touch_offers(row);
        }
    }

    /// Wants what is missing from the link that was asked, or from the next that offers it: two neighbours that hold a
    /// part each may wait for one another while a third has the whole.
    pub(super) fn want_again(&mut self, row: Row, next: bool) {
        if let Some(link) = self.custody.get(row).and_then(|l| l.source(next)) {
            self.want(row, link);
        }
    }

    /// The whole payload is durable: state what arrived, and free whoever offered it.
    pub(super) fn completed(&mut self, row: Row, root: Digest) {
        self.custody.no_longer_receiving(row, root);
        let Some(live) = self.custody.get_mut(row) else { return };
        live.message.complete = true;
        let sources = live.has_come();
        self.judge(row);
        self.update(row);
        self.then(After::Stored(row));
        for (link, source) in sources {
            self.then(After::Ack(link, source.number));
        }
    }

    /// A payload that was whole here has lost units to a damaged disk. It waits for whoever offers it again.
    pub(super) fn units_lost(&mut self, root: Digest, held: &Held) {
        for row in self.custody.with_payload(root) {
            let Some(live) = self.custody.get(row) else { continue };
            if Ranges::of(&held.units).covers(Range { first: 0, count: live.layout.units() }) {
                continue;
            }
            let was_complete = live.message.complete;
            let (message, precedence) = (live.message.id, live.precedence);
            let inboxes: Vec<_> = live.to.iter().map(|a| a.inbox.clone()).collect();
            self.custody.damaged(row, held);
            let missing_bytes = self.custody.get(row).map_or(0, Live::missing_bytes);
            inboxes.iter().for_each(|inbox| self.inboxes.withdraw(inbox, precedence, row));
            if was_complete {
                self.update(row);
                self.outputs.push_back(Output::Event(Event::PayloadDamaged { message, missing_bytes }));
            }
            self.want_again(row, false);
        }
    }

    /// Takes a row with nothing left to do out of custody: remembered where a recipient ended here, forgotten otherwise.
    pub(super) fn settle_if_done(&mut self, row: Row) {
        let Some(live) = self.custody.get(row) else { return };
        if !live.durable || !live.all_ended() {
            return;
        }
        let Some(mut live) = self.custody.remove(row) else { return };
        self.room_freed();
        let sources = live.has_come();
        if live.message.recipients.is_empty() && live.message.recalls.is_none() {
            self.op(Op::DeleteMessage { row });
        } else {
            let until_ms = live.deadline_ms.saturating_add(limits::REMEMBER_MS);
            let recipients: Vec<_> = live.message.recipients.iter().map(Ended::of).collect();
            // Of a tombstone that only passed through, the spool remembers what it takes back.
            if !recipients.is_empty() {
                self.custody.settle(live.message.id, Settled { until_ms, recipients });
            }
            self.op(Op::SettleMessage { row, message: live.message, until_ms });
        }
        // Its payload may still have been on the way; whoever sends it is free of it all the same.
        for (link, source) in sources {
            self.then(After::Ack(link, source.number));
        }
    }
}

/// Bytes of a payload that are still to come, counted in whole chunks.
fn missing_bytes(body: &Body, held: &Held) -> u64 {
    let have: u64 = held.units.iter().map(|r| r.count).sum();
    let units = Layout::new(body.payload_bytes).map_or(0, |layout| layout.units());
    units.saturating_sub(have).saturating_mul(tram_proto::limits::CHUNK_BYTES as u64)
}
