//! Links come and go; control frames.

use tram_proto::frame::{Frame, Hello, VERSION};
use tram_proto::id::NodeId;

use crate::input::{Input, LinkId, Side, Signer};
use crate::limits;
use crate::links::Held;
use crate::node::Node;
use crate::output::{CloseReason, Event, Op, Output};

impl Node {
    pub(super) fn link_up(&mut self, link: LinkId, peer: Signer, side: Side) {
        let highest_of_yours = self.links.remembered(peer.node).map_or(0, |n| n.counter);
        self.links.open(link, peer, side);
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            features: self.config.features,
            node: self.config.node,
            name: self.config.name.clone(),
            incarnation: self.row.incarnation,
            boot: self.config.boot,
            counter: self.row.starts,
            highest_of_yours,
            spool_room_bytes: self.room.free_bytes,
            clock_ms: self.clock.told_ms(self.now),
            addresses: self.config.addresses.clone(),
        };
        self.send(link, Frame::Hello(hello));
    }

    /// Everything that was held out on the link waits again.
    pub(super) fn link_down(&mut self, id: LinkId) {
        let Some(mut link) = self.links.close(id) else { return };
        self.dirty.remove(&id);
        self.acks.remove(&id);
        while let Some(number) = link.offered.first_key_value().map(|(n, _)| *n) {
            match link.take_back(number) {
                Some(Held::Message { row, ordinals, .. }) => {
                    self.no_longer_offered(row, id, number, &ordinals);
                    self.place(row);
                }
                Some(Held::Receipt { row }) => self.receipt_stored(row),
                None => {}
            }
        }
        for row in self.custody.all_receiving() {
            let Some(live) = self.custody.get_mut(row) else { continue };
            let coming = live.coming_mut();
            if coming.sources.remove(&id).is_some() && coming.asked_of == Some(id) {
                self.want_again(row, false);
            }
        }
        if matches!(link.side, Side::Up(_)) {
            self.uplink_changed();
        }
    }

    pub(super) fn frame(&mut self, link: LinkId, frame: Frame) {
        let Some(known) = self.links.get(link) else { return };
        if !known.is_up() && !matches!(frame, Frame::Hello(_) | Frame::Bye { .. }) {
            return self.close(link, CloseReason::Protocol("the first frame is not hello"));
        }
        match frame {
            Frame::Hello(hello) => self.hello(link, hello),
            Frame::Ping { number, .. } => {
                let clock_ms = self.clock.told_ms(self.now);
                self.send(link, Frame::Pong { number, clock_ms });
            }
            Frame::Pong { number, clock_ms } => self.pong(link, number, clock_ms),
            Frame::Want { offer, units } => self.wanted(link, offer, &units),
            Frame::Reply { offer, verdict, reason, ordinals } => {
                self.replied(link, offer, verdict, reason, &ordinals);
            }
            Frame::Ack(ranges) => self.acknowledged(link, &ranges),
            Frame::Ask { number, message, recipients } => self.asked(link, number, message, &recipients),
            Frame::Answer { number, hops, last } => self.answered(link, number, hops, last),
            Frame::Bye { .. } => {}
            Frame::Chain(_) | Frame::Record { .. } | Frame::Offer(_) | Frame::Receipt { .. } | Frame::Run { .. } => {
                self.close(link, CloseReason::Protocol("a frame that does not belong on the control stream"));
            }
        }
    }

    /// Keeps what overtook the hello.
    pub(super) fn keep_early(&mut self, id: LinkId, input: Input) {
        let Some(link) = self.links.get_mut(id) else { return };
        if link.early.len() < limits::EARLY {
            link.early.push(input);
        } else {
            self.close(id, CloseReason::Protocol("too many offers before hello"));
        }
    }

    fn hello(&mut self, id: LinkId, hello: Hello) {
        let (theirs_ms, node) = (hello.clock_ms, hello.node);
        let incarnation = hello.incarnation;
        let greeted = match self.links.greet(id, hello) {
            Ok(greeted) => greeted,
            Err(reason) => return self.not_greeted(id, node, reason),
        };
        for old in greeted.replaced {
            self.close(old, CloseReason::Replaced);
        }
        if let Some(neighbor) = greeted.remember {
            self.op(Op::PutNeighbor { node, neighbor });
        }
        let Some((peer, side)) = self.links.get(id).map(|l| (l.peer.name.clone(), l.side)) else { return };
        if greeted.new_incarnation {
            self.to_flood.insert(node);
            let event = Event::NewIncarnation { peer: peer.clone(), incarnation };
            self.outputs.push_back(Output::Event(event));
        }
        self.outputs.push_back(Output::Event(Event::LinkUp { link: id, peer }));
        self.measured(id, theirs_ms, 0);
        self.ping(id);
        self.dirty.insert(id);
        match side {
            Side::Up(_) => self.uplink_changed(),
            Side::Down => {
                self.send_own_record(id);
                if greeted.new_incarnation {
                    // Of those below it that are off now, it knows nothing any more.
                    for record in self.routing.beyond(node) {
                        self.outputs.push_back(Output::SendRecord { link: id, record, flood: false });
                    }
                }
            }
        }
        // What a dead link had held out may go over this one.
        self.touch_all();
        let early = self.links.get_mut(id).map(|l| std::mem::take(&mut l.early)).unwrap_or_default();
        early.into_iter().for_each(|input| self.route(input));
    }

    /// A spool that went back in time, or that two machines have, keeps out until somebody has looked; its mail waits.
    fn not_greeted(&mut self, id: LinkId, node: NodeId, reason: CloseReason) {
        if let (CloseReason::RolledBack { .. } | CloseReason::TwoBoots(_), Some(neighbor)) =
            (&reason, self.links.remembered(node))
        {
            self.op(Op::PutNeighbor { node, neighbor });
            if let Some(peer) = self.links.get(id).map(|l| l.peer.name.clone()) {
                self.outputs.push_back(Output::Event(Event::Held { peer, why: reason.clone() }));
            }
        }
        self.close(id, reason);
    }

    fn touch_all(&mut self) {
        self.dirty.extend(self.links.iter().filter(|l| l.is_up()).map(|l| l.id));
    }

    pub(super) fn ping(&mut self, id: LinkId) {
        let (number, clock_ms) = (self.now.mono_ms, self.clock.told_ms(self.now));
        if let Some(link) = self.links.get_mut(id) {
            link.pinged_ms = Some(number);
            self.send(id, Frame::Ping { number, clock_ms });
        }
    }

    fn pong(&mut self, id: LinkId, number: u64, clock_ms: u64) {
        if self.links.get(id).is_some_and(|l| l.pinged_ms == Some(number)) {
            let round_trip_ms = self.now.mono_ms.saturating_sub(number);
            self.measured(id, clock_ms, round_trip_ms);
        }
    }

    fn measured(&mut self, id: LinkId, theirs_ms: u64, round_trip_ms: u64) {
        if theirs_ms == 0 {
            return;
        }
        let there = i64::try_from(theirs_ms.saturating_add(round_trip_ms / 2)).unwrap_or(i64::MAX);
        let offset = there.saturating_sub(i64::try_from(self.now.wall_ms).unwrap_or(i64::MAX));
        let Some(link) = self.links.get_mut(id) else { return };
        let before = link.offset_ms.replace(offset);
        let (peer, up) = (link.peer.name.clone(), matches!(link.side, Side::Up(_)));
        let off = |offset: i64| offset.unsigned_abs() > limits::CLOCK_TRUST_MS;
        if off(offset) && !before.is_some_and(off) {
            let ours_ms = self.now.wall_ms;
            self.outputs.push_back(Output::Event(Event::ClockOff { peer, ours_ms, theirs_ms }));
        }
        if up && self.links.active().is_none_or(|active| active == id) {
            self.clock.measure(theirs_ms, round_trip_ms, self.now);
        }
    }
}
