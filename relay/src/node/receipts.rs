//! Receipts come in: on their way through, or home.

use tram_proto::name::Role;
use tram_proto::receipt::{Reason, Receipt, State};
use tram_proto::row::{Phase, ReceiptRow};
use tram_proto::statement::Signed;

use crate::input::{LinkId, Row, Signer};
use crate::limits;
use crate::node::{After, Node};
use crate::output::{Event, Op, Output, Statement};
use crate::routing::{Hop, is_below};

impl Node {
    pub(super) fn receipt(
        &mut self,
        link: LinkId,
        number: u64,
        receipt: Receipt,
        signed: Signed,
        signer: Option<Signer>,
    ) {
        let Some(peer) = self.links.get(link).map(|l| l.peer.clone()) else { return };
        let from = peer.name;
        if receipt.origin == self.config.node {
            if signer.is_some_and(|s| may_state(&s, &receipt)) {
                self.came_home(&receipt, signed);
            } else {
                let event = Event::ReceiptNotTrusted { message: receipt.message, from };
                self.outputs.push_back(Output::Event(event));
            }
        } else {
            self.tell_where(link, std::iter::once(receipt.origin));
            // Of two statuses either may be the newer.
            let says = (receipt.message, receipt.ordinal, receipt.state);
            let says = Some(says).filter(|(.., state)| *state != State::Status);
            if says.is_some_and(|says| self.transit.is_said(&says)) {
                return self.then(After::Ack(link, number));
            }
            let row = self.row();
            let until_ms = self.now.wall_ms.saturating_add(limits::REMEMBER_MS);
            let value = ReceiptRow { message: receipt.message, origin: receipt.origin, until_ms };
            self.transit.insert(row, receipt.origin, Some(peer.node), says);
            self.op(Op::PutReceipt { row, receipt: value, statement: Statement::Signed(signed) });
            self.then(After::Receipt(row));
        }
        self.then(After::Ack(link, number));
    }

    fn came_home(&mut self, receipt: &Receipt, signed: Signed) {
        let Some(row) = self.custody.find(receipt.message) else {
            return self.came_late(receipt, signed);
        };
        let Some(live) = self.custody.get_mut(row) else { return };
        let addressed = live.address(receipt.ordinal) == Some(&receipt.address);
        let known = live.message.recipients.iter_mut().find(|r| r.recipient.ordinal == receipt.ordinal);
        let Some(recipient) = known.filter(|_| addressed) else { return };
        let both_status = receipt.state == State::Status && recipient.state == State::Status;
        if !receipt.state.overrides(recipient.state) && (!both_status || receipt.at_ms <= recipient.at_ms) {
            return;
        }
        recipient.state = receipt.state;
        recipient.reason = receipt.reason;
        recipient.detail.clone_from(&receipt.detail);
        recipient.at_ms = receipt.at_ms;
        if receipt.state.is_terminal() {
            recipient.phase = Phase::Ended;
        } else if recipient.phase == Phase::Forward {
            // It arrived by another copy than the one that still waits here.
            recipient.phase = Phase::Handed;
        }
        let until_ms = live.deadline_ms.saturating_add(limits::REMEMBER_MS);
        self.charge(row);
        self.keep(receipt, signed, until_ms);
        self.update(row);
        self.settle_if_done(row);
    }

    /// A receipt for a message that is settled: kept if it says more than what was known.
    fn came_late(&mut self, receipt: &Receipt, signed: Signed) {
        let Some(settled) = self.custody.settled_mut(receipt.message) else { return };
        let until_ms = settled.until_ms;
        let known = settled.recipients.iter_mut().find(|(ordinal, ..)| *ordinal == receipt.ordinal);
        let Some((_, state, at_ms)) = known else { return };
        let newer = receipt.state == State::Status && *state == State::Status && receipt.at_ms > *at_ms;
        if receipt.state.overrides(*state) || newer {
            (*state, *at_ms) = (receipt.state, receipt.at_ms);
            self.keep(receipt, signed, until_ms);
        }
    }

    fn keep(&mut self, receipt: &Receipt, signed: Signed, until_ms: u64) {
        let (message, ordinal, state) = (receipt.message, receipt.ordinal.index, receipt.state);
        self.op(Op::KeepReceipt { message, ordinal, state, statement: Statement::Signed(signed), until_ms });
        self.progress(receipt);
    }

    /// The receipt is durable: it may go on.
    pub(super) fn receipt_stored(&mut self, row: Row) {
        if let Some(origin) = self.transit.origin(row) {
            let hop = self.routing.next(Some(origin));
            let from = self.transit.take_from(row);
            let back = match hop {
                Hop::Up => from.is_some() && from == self.links.active_peer(),
                Hop::Child(node) => from == Some(node),
                Hop::Here | Hop::Hold => false,
            };
            if back {
                // Two nodes that each take the other for the way would throw it to and fro until a record settles it.
                return self.transit.park(row, self.now.mono_ms + limits::PUT_OFF_MS);
            }
            self.transit.queue(row, hop);
            self.touch(hop);
        }
    }
}

/// Only the destination speaks of a recipient, but for a name that never was: that is said by the names' owner, central or
/// the province above the name.
fn may_state(signer: &Signer, receipt: &Receipt) -> bool {
    let by_signer = signer.node == receipt.node && signer.name == receipt.name;
    let owner = match signer.role {
        Role::Central => true,
        Role::Province => is_below(&receipt.address.node, &signer.name),
        _ => false,
    };
    let by_owner = receipt.state == State::Undeliverable && receipt.reason == Reason::NoSuchNode && owner;
    by_signer && (by_owner || signer.name == receipt.address.node)
}
