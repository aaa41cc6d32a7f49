//! The pump of one link: receipts before all payload, then offers and runs, the most urgent class first.
//!
//! Within a class whose turn it is says `turns`. Every class that has something to send has a run under way, and none
//! more than a few: how their bytes share the line is decided by `shares`, where the daemon writes them.

use tram_proto::envelope::Precedence;
use tram_proto::frame::{Range, Recipient, Verdict, Visit};
use tram_proto::limits as wire_limits;
use tram_proto::receipt::{Ordinal, Reason, Stamp, State};
use tram_proto::row::{Phase, RecipientRow};

use crate::custody::{Live, ROW_BYTES};
use crate::input::{LinkId, Row};
use crate::links::Held;
use crate::node::Node;
use crate::output::{CloseReason, Event, Op, Output};
use crate::ranges::Ranges;
use crate::routing::Hop;

/// Why a link ends whose peer speaks of an offer that it never got on this link.
const NEVER_OFFERED: &str = "an answer to an offer that was never made on this link";

impl Node {
    pub(super) fn pump_dirty(&mut self) {
        while let Some(link) = self.dirty.pop_first() {
            self.pump(link);
        }
    }

    fn pump(&mut self, link: LinkId) {
        if let Some(hop) = self.links.served_by(link) {
            self.pump_receipts(link, hop);
            let classes = if self.is_paused(hop) { &[][..] } else { &Precedence::ALL[..] };
            for precedence in classes {
                while self.pump_offer(link, hop, *precedence) {}
            }
        }
        while self.pump_run(link) {}
    }

    fn pump_receipts(&mut self, id: LinkId, hop: Hop) {
        while let Some(link) = self.links.get_mut(id).filter(|l| l.may_send_receipt()) {
            let Some(row) = self.transit.next(hop, id) else { break };
            let number = link.give(Held::Receipt { row });
            self.outputs.push_back(Output::SendReceipt { link: id, number, row });
        }
    }

    /// Holds out the first waiting message of a class; false when there is none or the link has enough.
    fn pump_offer(&mut self, id: LinkId, hop: Hop, precedence: Precedence) -> bool {
        let Some(row) = self.queues.first(hop, precedence) else { return false };
        let indices = self.waiting_for(row, hop);
        let Some(live) = self.custody.get(row).filter(|_| !indices.is_empty()) else {
            self.queues.remove_first(hop, precedence);
            // It may wait for another hop by now.
            self.place(row);
            return true;
        };
        if live.message.visit.hops as usize >= wire_limits::HOPS - 1 {
            let message = live.message.id;
            self.queues.remove_first(hop, precedence);
            let place = live.turn();
            self.queues.push(Hop::Hold, precedence, row, place);
            self.outputs.push_back(Output::Event(Event::HopLimit { message }));
            return true;
        }
        let place = live.turn();
        let inline_bytes = if live.is_inline() { live.layout.bytes() } else { 0 };
        let (recipients, stamps, visit) = routing_header(live, &indices, self.own_stamp(live));
        let Some(link) = self.links.get_mut(id).filter(|l| l.may_offer(precedence, inline_bytes)) else {
            return false;
        };
        let ordinals = recipients.iter().map(|r| r.ordinal).collect();
        let held = Held::Message { row, visit, ordinals, precedence, inline_bytes, wanted: Ranges::default(), place };
        let number = link.give(held);
        if let Some(live) = self.custody.get_mut(row) {
            for index in &indices {
                if let Some(copy) = live.copied_mut(*index) {
                    (copy.offered, copy.left) = (Some((id, number)), true);
                }
            }
        }
        self.queues.served(hop, precedence, row, place, inline_bytes + ROW_BYTES);
        self.queues.remove(hop, precedence, row, place);
        let link = id;
        self.outputs.push_back(Output::SendOffer { link, number, row, precedence, visit, recipients, stamps });
        true
    }

    /// Where a recipient's copy goes next. What the uplink brought does not go straight back up unless this node knows why:
    /// one whose spool was lost would throw its children's mail to and fro.
    pub(super) fn next_hop(&self, live: &Live, r: &RecipientRow) -> Hop {
        let hop = self.routing.way(r.recipient.node, live.address(r.recipient.ordinal).map(|address| &address.node));
        let back = hop == Hop::Up && live.message.from.is_some() && self.links.active_peer() == live.message.from;
        let known = r.recipient.node.is_some_and(|node| self.routing.record(node).is_some());
        if back && !known { Hop::Hold } else { hop }
    }

    /// Whether a recipient's copy may be offered now.
    pub(super) fn waits(&self, live: &Live, index: usize, r: &RecipientRow) -> bool {
        let (copy, ordinal) = (live.copied(index), r.recipient.ordinal);
        r.phase == Phase::Forward
            && copy.offered.is_none()
            && !copy.parked
            && !self.tombstones.covers(live.message.id, live.origin, ordinal)
    }

    fn waiting_for(&self, row: Row, hop: Hop) -> Vec<usize> {
        let Some(live) = self.custody.get(row).filter(|l| l.durable) else { return Vec::new() };
        let recipients = live.message.recipients.iter().enumerate();
        recipients
            .filter(|(index, r)| self.waits(live, *index, r) && self.next_hop(live, r) == hop)
            .map(|(index, _)| index)
            .take(wire_limits::RECIPIENTS)
            .collect()
    }

    fn own_stamp(&self, live: &Live) -> Stamp {
        Stamp { node: self.config.node, name: self.config.name.clone(), at_ms: live.message.received_ms }
    }

    /// Starts the run that is wanted most; false when there is none or the link has enough under way.
    fn pump_run(&mut self, id: LinkId) -> bool {
        let next = Precedence::ALL.into_iter().find_map(|class| self.next_run(id, class));
        let (Some((precedence, number, units)), Some(link)) = (next, self.links.get_mut(id)) else { return false };
        let Some(Held::Message { row, wanted, place, .. }) = link.offered.get_mut(&number) else { return false };
        let Some(live) = self.custody.get(*row) else { return false };
        wanted.remove(units);
        let (done, place) = (wanted.is_empty(), *place);
        link.served(precedence, number, place, units.count * wire_limits::CHUNK_BYTES as u64, done);
        link.run_begun(precedence);
        let (root, payload_bytes) = (live.root, live.layout.bytes());
        let count = u32::try_from(units.count).unwrap_or(wire_limits::RUN_UNITS);
        let first = units.first;
        self.outputs.push_back(Output::SendRun { link: id, root, payload_bytes, first, count, precedence });
        true
    }

    /// The units of a class that go next over a link: of the first offer in turn that has what is wanted of it.
    fn next_run(&self, id: LinkId, class: Precedence) -> Option<(Precedence, u64, Range)> {
        let link = self.links.get(id).filter(|link| link.may_run(class))?;
        link.wanted(class).find_map(|number| {
            let Some(Held::Message { row, wanted, .. }) = link.offered.get(&number) else { return None };
            Some((class, number, available(self.custody.get(*row)?, wanted, link.run_units.into())?))
        })
    }

    pub(super) fn run_sent(&mut self, id: LinkId, precedence: Precedence, run_units: u32) {
        if let Some(link) = self.links.get_mut(id) {
            link.run_sent(precedence, run_units);
            self.dirty.insert(id);
        }
    }

    /// Units of a row became available: links that wait for them may go on.
    pub(super) fn touch_offers(&mut self, row: Row) {
        if let Some(live) = self.custody.get(row) {
            self.dirty.extend(live.offers().map(|(link, _)| link));
        }
    }

    pub(super) fn wanted(&mut self, id: LinkId, number: u64, units: &[Range]) {
        let Some(link) = self.links.get_mut(id) else { return };
        if !link.was_offered(number) {
            return self.close(id, CloseReason::Protocol(NEVER_OFFERED));
        }
        let Some(Held::Message { row, wanted, precedence, place, .. }) = link.offered.get_mut(&number) else {
            return;
        };
        if units.is_empty() {
            return self.offer_once_more(id, number);
        }
        let Some(live) = self.custody.get(*row) else { return };
        let in_payload = units.iter().all(|r| r.end() <= live.layout.units());
        if live.is_inline() || !in_payload {
            return self.close(id, CloseReason::Protocol("a want for units the payload does not have"));
        }
        *wanted = Ranges::of(units);
        let (precedence, place) = (*precedence, *place);
        link.want(precedence, number, place);
        self.dirty.insert(id);
    }

    pub(super) fn offer_once_more(&mut self, id: LinkId, number: u64) {
        let held = self.links.get_mut(id).and_then(|l| l.take_back(number));
        if let Some(Held::Message { row, ordinals, .. }) = held {
            self.no_longer_offered(row, id, number, &ordinals);
            self.place(row);
        }
    }

    pub(super) fn no_longer_offered(&mut self, row: Row, link: LinkId, number: u64, ordinals: &[Ordinal]) {
        let Some(live) = self.custody.get_mut(row) else { return };
        for index in 0..live.message.recipients.len() {
            let named = live.message.recipients.get(index).is_some_and(|r| ordinals.contains(&r.recipient.ordinal));
            let copy = live.copied_mut(index).filter(|copy| named && copy.offered == Some((link, number)));
            if let Some(copy) = copy {
                copy.offered = None;
            }
        }
    }

    /// The next hop has these durably: custody passes on, the origin remembers.
    pub(super) fn acknowledged(&mut self, id: LinkId, ranges: &[Range]) {
        let Some(link) = self.links.get_mut(id) else { return };
        if !ranges.iter().all(|r| r.count > 0 && link.was_offered(r.end() - 1)) {
            return self.close(id, CloseReason::Protocol(NEVER_OFFERED));
        }
        let known: Vec<u64> =
            ranges.iter().flat_map(|r| link.offered.range(r.first..r.end()).map(|(n, _)| *n)).collect();
        for number in known {
            let Some(held) = self.links.get_mut(id).and_then(|l| l.take_back(number)) else { continue };
            match held {
                Held::Receipt { row } => {
                    if self.transit.remove(row) {
                        self.op(Op::DeleteReceipt { row });
                    }
                }
                Held::Message { row, visit, ordinals, .. } => {
                    self.no_longer_offered(row, id, number, &ordinals);
                    self.handed_over(row, id, visit, &ordinals);
                }
            }
        }
        self.dirty.insert(id);
    }

    fn handed_over(&mut self, row: Row, link: LinkId, visit: Visit, ordinals: &[Ordinal]) {
        let at_ms = self.clock.corrected_ms(self.now);
        let Some(peer) = self.links.get(link).map(|l| l.peer.node) else { return };
        let hop = self.links.served_by(link).unwrap_or(Hop::Up);
        let Some(live) = self.custody.get_mut(row) else { return };
        let current = Visit { attempt: live.message.visit.attempt, hops: live.message.visit.hops + 1 };
        if visit != current {
            // A newer visit came meanwhile; this acknowledgement frees only its own.
            return self.place(row);
        }
        let (id, own) = (live.message.id, live.is_own());
        let gone = |r: &RecipientRow| r.phase == Phase::Forward && ordinals.contains(&r.recipient.ordinal);
        if own {
            for recipient in live.message.recipients.iter_mut().filter(|r| gone(r)) {
                recipient.phase = Phase::Handed;
                if State::Relayed.overrides(recipient.state) {
                    recipient.state = State::Relayed;
                    recipient.at_ms = at_ms;
                }
            }
            self.custody.handed(row, peer, at_ms);
        } else {
            live.forget(gone);
            let came = Visit { hops: visit.hops - 1, ..visit };
            for ordinal in ordinals {
                self.custody.release(id, *ordinal, came, hop, at_ms);
            }
        }
        self.charge(row);
        self.room_freed();
        self.update(row);
        self.settle_if_done(row);
    }

    pub(super) fn replied(&mut self, id: LinkId, number: u64, verdict: Verdict, reason: Reason, ordinals: &[u32]) {
        let Some(link) = self.links.get(id) else { return };
        if !link.was_offered(number) {
            return self.close(id, CloseReason::Protocol(NEVER_OFFERED));
        }
        if verdict == Verdict::Pending {
            // Without names it is the whole offer, which its receiver asks for again.
            return self.put_off_by(id, number, ordinals);
        }
        let by = link.peer.name.clone();
        let held = self.links.get_mut(id).and_then(|l| l.take_back(number));
        if let Some(Held::Message { row, ordinals, precedence, .. }) = held {
            self.no_longer_offered(row, id, number, &ordinals);
            if let Some(message) = self.custody.get(row).map(|l| l.message.id) {
                self.outputs.push_back(Output::Event(Event::OfferRefused { message, by, reason }));
            }
            let junk = reason == Reason::NotTrusted && self.custody.get(row).is_some_and(|l| !l.is_own());
            if junk {
                // What nobody will believe is in no one's custody; the origin offers the true one again.
                return self.let_go(row, &ordinals);
            }
            if let Some(place) = self.custody.get(row).map(Live::turn) {
                self.queues.push(Hop::Hold, precedence, row, place);
            }
        }
    }

    /// Drops recipients of a copy that is only passing through.
    pub(super) fn let_go(&mut self, row: Row, ordinals: &[Ordinal]) {
        let Some(live) = self.custody.get_mut(row) else { return };
        live.forget(|r| r.phase == Phase::Forward && ordinals.contains(&r.recipient.ordinal));
        self.charge(row);
        self.room_freed();
        self.update(row);
        self.settle_if_done(row);
    }
}

fn routing_header(live: &Live, indices: &[usize], stamp: Stamp) -> (Vec<Recipient>, Vec<Stamp>, Visit) {
    let recipients = live.message.recipients.iter();
    let recipients = recipients.enumerate().filter(|(i, _)| indices.contains(i)).map(|(_, r)| r.recipient).collect();
    let mut stamps = live.message.stamps.clone();
    stamps.push(stamp);
    let visit = Visit { attempt: live.message.visit.attempt, hops: live.message.visit.hops + 1 };
    (recipients, stamps, visit)
}

fn available(live: &Live, wanted: &Ranges, most: u64) -> Option<Range> {
    if live.message.complete {
        wanted.first_common(&Ranges::all(live.layout.units()), most)
    } else {
        wanted.first_common(&live.coming()?.have, most)
    }
}
