//! Receipts come in: on their way through, or home.

use tram_proto::id::NodeId;
use tram_proto::name::Role;
use tram_proto::receipt::{Reason, Receipt, State};
use tram_proto::row::{Phase, ReceiptRow};
use tram_proto::statement::Signed;

use crate::custody::Ended;
use crate::input::{LinkId, Row, Signer};
use crate::limits;
use crate::node::{After, Node};
use crate::output::{Event, Op, Output, Statement};
use crate::routing::{Existence, Hop, is_below};

impl Node {
    pub(super) fn receipt(
        &mut self,
        link: LinkId,
        number: u64,
        receipt: Box<Receipt>,
        signed: Signed,
        signer: Option<Signer>,
    ) {
        let Some(peer) = self.links.get(link).map(|l| l.peer.clone()) else { return };
        let from = peer.name;
        if receipt.origin == self.config.node {
            if signer.as_ref().is_some_and(|s| self.may_state(s, &receipt)) {
                self.came_home(&receipt, signed);
            } else {
                let event = Event::ReceiptNotTrusted { message: receipt.message, from };
                self.outputs.push_back(Output::Event(event));
                if let Some(signer) = signer {
                    self.doubted.push_back((receipt, signed, signer));
                    self.doubted.drain(..self.doubted.len().saturating_sub(limits::DOUBTED));
                }
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

    /// Looks again at receipts that came before the proof of their signer's other name did.
    pub(super) fn look_at_doubted(&mut self) {
        for (receipt, signed, signer) in std::mem::take(&mut self.doubted) {
            if self.may_state(&signer, &receipt) {
                self.came_home(&receipt, signed);
            } else {
                self.doubted.push_back((receipt, signed, signer));
            }
        }
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
        if receipt.state != State::Undeliverable {
            recipient.recipient.node.get_or_insert(receipt.node);
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
        let known = settled.recipients.iter_mut().find(|r| r.ordinal == receipt.ordinal);
        let Some(known) = known else { return };
        let newer = receipt.state == State::Status && known.state == State::Status && receipt.at_ms > known.at_ms;
        if receipt.state.overrides(known.state) || newer {
            (known.state, known.at_ms) = (receipt.state, receipt.at_ms);
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

    /// Only the destination speaks of a recipient, but for a name that never was: that is said by the names' owner,
    /// central or the province above the name.
    fn may_state(&self, signer: &Signer, receipt: &Receipt) -> bool {
        let name = &receipt.address.node;
        let by_signer = signer.node == receipt.node && signer.name == receipt.name;
        let owner = match signer.role {
            Role::Central => true,
            Role::Province => is_below(name, &signer.name),
            _ => false,
        };
        let by_owner = receipt.state == State::Undeliverable && receipt.reason == Reason::NoSuchNode && owner;
        let renamed = || self.routing.aliases.are_one(signer.node, name, &signer.name);
        let by_destination = match self.meant(receipt) {
            // A name may have been given to another node since, or before.
            Some(node) => node == signer.node && (signer.name == *name || renamed()),
            None => {
                let is_known = self.routing.resolve(name) == Existence::Known(signer.node);
                signer.name == *name || (is_known && renamed())
            }
        };
        by_signer && (by_owner || by_destination)
    }

    /// The node that the receipt's address meant when the message was sent, as far as that was known here.
    fn meant(&self, receipt: &Receipt) -> Option<NodeId> {
        let live = self.custody.find(receipt.message).and_then(|row| self.custody.get(row));
        let mut live = live.into_iter().flat_map(|live| &live.message.recipients).map(Ended::of);
        let settled = self.custody.settled(receipt.message).into_iter().flat_map(|s| &s.recipients);
        let mut settled = settled.copied();
        let is_it = |r: &Ended| r.ordinal == receipt.ordinal;
        live.find(is_it).or_else(|| settled.find(is_it))?.node
    }
}

#[cfg(test)]
mod tests;
