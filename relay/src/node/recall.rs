//! Taking a message back: at its origin, at the relays its copies pass, at its destinations.
//!
//! A recall is a message of its own, signed by the origin, flash, that goes after the copies that left. Copies that meet
//! it stop. Only the destination says what came of it: `recalled`, or that it was too late. DESIGN §5.

use tram_proto::envelope::{Body, MessageKind, Precedence};
use tram_proto::id::{Digest, MessageId, NodeId};
use tram_proto::name::Address;
use tram_proto::receipt::{Ordinal, Reason, Receipt, State};
use tram_proto::row::Phase;

use crate::input::Row;
use crate::limits;
use crate::node::Node;
use crate::output::{CommandRefused, Outcome};
use crate::routing::Hop;

/// A tombstone lives at least so long, in milliseconds, also when its message is about to end.
const LIFETIME_MIN_MS: u64 = 3_600_000;

impl Node {
    /// Ends the recipients whose copy has not left, and with a nonce sends a tombstone after the others.
    pub(super) fn withdraw(
        &mut self,
        message: MessageId,
        user: Option<u32>,
        tombstone: Option<[u8; 16]>,
    ) -> Result<Outcome, CommandRefused> {
        let row = self.custody.find(message);
        let live = row.and_then(|row| Some((row, self.custody.get(row)?)));
        let Some((row, live)) = live.filter(|(_, l)| l.is_own() && l.message.recalls.is_none()) else {
            let ended = self.custody.settled(message).is_some();
            return Err(if ended { CommandRefused::TooLate(message) } else { CommandRefused::UnknownMessage(message) });
        };
        if user.is_some() && live.message.user != user {
            return Err(CommandRefused::NotYours(message));
        }
        let (mut here, mut inboxes, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (index, r) in live.message.recipients.iter().enumerate() {
            let ordinal = r.recipient.ordinal;
            match r.phase {
                Phase::Forward if !live.may_have_left(index) => here.push(index),
                Phase::Forward | Phase::Handed => gone.push(ordinal),
                Phase::Inbox => inboxes.extend(live.address(ordinal).map(|a| a.inbox.clone())),
                Phase::Ended => {}
            }
        }
        inboxes.retain(|inbox| !self.inboxes.is_held(inbox, row));
        let changed = here.len() + inboxes.len();
        if changed == 0 && gone.is_empty() {
            return Err(CommandRefused::TooLate(message));
        }
        if changed == 0 && tombstone.is_none() {
            return Err(CommandRefused::AlreadyLeft(message));
        }
        let sent = match tombstone {
            Some(nonce) => self.send_tombstone(row, nonce, &gone)?,
            None => None,
        };
        for index in here {
            self.state_recipient(row, index, State::Recalled, Reason::None, Phase::Ended);
        }
        for inbox in inboxes {
            self.end_in_inbox(row, &inbox, State::Recalled, Reason::None);
        }
        self.charge(row);
        self.update(row);
        self.settle_if_done(row);
        Ok(Outcome { changed, following: if tombstone.is_some() { gone.len() } else { 0 }, tombstone: sent })
    }

    /// Submits the tombstone for recipients that none goes after yet.
    fn send_tombstone(
        &mut self,
        target: Row,
        nonce: [u8; 16],
        gone: &[Ordinal],
    ) -> Result<Option<MessageId>, CommandRefused> {
        let Some(live) = self.custody.get(target) else { return Ok(None) };
        let (message, origin) = (live.message.id, live.origin);
        let (to, user, deadline_ms) = (live.to.to_vec(), live.message.user, live.deadline_ms);
        let new: Vec<Ordinal> = gone.iter().copied().filter(|o| !self.tombstones.covers(message, origin, *o)).collect();
        if new.is_empty() {
            return Ok(None);
        }
        let created_ms = self.clock.corrected_ms(self.now);
        let body = Body {
            nonce,
            origin: self.config.node,
            incarnation: self.row.incarnation,
            origin_name: self.config.name.clone(),
            sender: None,
            to,
            precedence: Precedence::Flash,
            sequence: 0,
            created_ms,
            clock_offset_ms: self.clock.offset_ms(),
            lifetime_ms: deadline_ms.saturating_sub(created_ms).max(LIFETIME_MIN_MS),
            deliver_by_ms: 0,
            label: String::new(),
            network: tram_proto::envelope::Network::Unspecified,
            kind: MessageKind::Tombstone,
            subject: String::new(),
            file_name: String::new(),
            content_type: String::new(),
            attributes: Vec::new(),
            business_id: String::new(),
            idempotency_key: String::new(),
            traceparent: String::new(),
            sealed: false,
            payload_bytes: 0,
            payload_root: tram_proto::manifest::root_of(&[]),
            recalls: Some(message),
            pair_sequences: Vec::new(),
        };
        let id = self
            .put_own(body, Some(&new), (user, None), Some(bytes::Bytes::new()))
            .map_err(CommandRefused::NotSubmitted)?;
        self.tombstones.put(message, origin, new);
        Ok(Some(id))
    }

    /// Copies of what a tombstone takes back, and that only pass through here, stop.
    pub(super) fn stop_copies(&mut self, row: Row) {
        let Some(live) = self.custody.get(row) else { return };
        let (Some(target), origin) = (live.message.recalls, live.origin) else { return };
        let ordinals: Vec<Ordinal> = live.message.recipients.iter().map(|r| r.recipient.ordinal).collect();
        self.tombstones.put(target, origin, ordinals.iter().copied());
        let copy = self.custody.find(target).and_then(|row| Some((row, self.custody.get(row)?)));
        let Some((copy, live)) = copy.filter(|(_, l)| l.origin == origin && !l.is_own()) else { return };
        let passing: Vec<Ordinal> = live
            .message
            .recipients
            .iter()
            .filter(|r| self.routing.next(r.recipient.node) != Hop::Here)
            .map(|r| r.recipient.ordinal)
            .filter(|o| ordinals.contains(o))
            .collect();
        if !passing.is_empty() {
            self.let_go(copy, &passing);
        }
    }

    /// A tombstone has reached the recipient it is for: takes the message back, or says that it is too late.
    pub(super) fn take_back(&mut self, row: Row, index: usize, target: MessageId) {
        let Some(live) = self.custody.get(row) else { return };
        let Some(ordinal) = live.message.recipients.get(index).map(|r| r.recipient.ordinal) else { return };
        let Some(address) = live.address(ordinal).cloned() else { return };
        let (origin, deadline_ms) = (live.origin, live.deadline_ms);
        let in_time = self.take_back_here(target, origin, ordinal, &address, deadline_ms);
        let (state, reason) =
            if in_time { (State::Delivered, Reason::None) } else { (State::Refused, Reason::TooLate) };
        self.state_recipient(row, index, state, reason, Phase::Ended);
    }

    fn take_back_here(
        &mut self,
        target: MessageId,
        origin: NodeId,
        ordinal: Ordinal,
        address: &Address,
        deadline_ms: u64,
    ) -> bool {
        let has_it = |state| matches!(state, State::Delivered | State::Status);
        if let Some(copy) = self.custody.find(target) {
            let Some(live) = self.custody.get(copy).filter(|l| l.origin == origin) else { return false };
            let found = live.message.recipients.iter().enumerate().find(|(_, r)| r.recipient.ordinal == ordinal);
            if let Some((index, r)) = found {
                match r.phase {
                    // An application works on it.
                    Phase::Inbox if self.inboxes.is_held(&address.inbox, copy) => return false,
                    Phase::Inbox => self.end_in_inbox(copy, &address.inbox, State::Recalled, Reason::None),
                    Phase::Forward | Phase::Handed => {
                        self.state_recipient(copy, index, State::Recalled, Reason::None, Phase::Ended);
                    }
                    Phase::Ended => return !has_it(r.state),
                }
                self.update(copy);
                self.settle_if_done(copy);
                return true;
            }
        }
        let settled = self.custody.settled(target);
        if let Some(ended) = settled.and_then(|s| s.recipients.iter().find(|r| r.ordinal == ordinal)) {
            return !has_it(ended.state);
        }
        let at_ms = self.clock.corrected_ms(self.now);
        let until_ms = deadline_ms.saturating_add(limits::REMEMBER_MS);
        self.custody.settle_recalled(target, until_ms, &[ordinal], at_ms);
        let receipt = Receipt {
            message: target,
            origin,
            ordinal,
            address: address.clone(),
            state: State::Recalled,
            reason: Reason::None,
            detail: String::new(),
            code: 0,
            node: self.config.node,
            name: self.config.name.clone(),
            at_ms,
            stamps: Vec::new(),
            // It never came.
            payload_root: Digest([0; 32]),
            payload_bytes: 0,
        };
        self.send_home(receipt, until_ms);
        true
    }
}
