//! Local delivery: handing out under leases, acknowledgements, and the statements about recipients that end here.

use bytes::Bytes;
use tram_proto::envelope::Body;
use tram_proto::id::MessageId;
use tram_proto::name::Inbox;
use tram_proto::receipt::{Reason, Receipt, Stamp, State};
use tram_proto::row::{Phase, ReceiptRow};
use tram_proto::statement::Kind;

use crate::custody::Ended;
use crate::input::{Consumer, Row, Ticket};
use crate::limits;
use crate::node::{After, Node};
use crate::output::{Event, InboxRefused, Op, Output, Statement};

impl Node {
    pub(super) fn take(&mut self, consumer: Consumer, inbox: Inbox, credit: u32, lease_ms: u64) {
        self.inboxes.take(consumer, inbox, credit, lease_ms);
        self.hand_out();
    }

    /// Gives waiting messages to whoever has credit.
    pub(super) fn hand_out(&mut self) {
        while let Some((consumer, inbox, row, redelivered)) = self.inboxes.hand_out(self.now.mono_ms) {
            let Some(live) = self.custody.get(row) else { continue };
            // Under whatever name of this node it was sent.
            let waiting = live.message.recipients.iter().filter(|r| r.phase == Phase::Inbox);
            let mut addresses = waiting.filter_map(|r| live.address(r.recipient.ordinal));
            if let Some(address) = addresses.find(|a| a.inbox == inbox).cloned() {
                let id = live.message.id;
                self.outputs.push_back(Output::Deliver { consumer, row, id, address, redelivered });
            }
        }
    }

    pub(super) fn took(&mut self, consumer: Consumer, row: Row, ticket: Ticket) {
        let Some(inbox) = self.inboxes.holds(consumer, row) else {
            return self.outputs.push_back(Output::TookDone { ticket, held: false });
        };
        self.end_in_inbox(row, &inbox, State::Delivered, Reason::None);
        self.update(row);
        self.settle_if_done(row);
        self.then(After::Took(ticket));
    }

    /// Ends the recipients of a message that wait in one inbox, and takes it out of there.
    pub(super) fn end_in_inbox(&mut self, row: Row, inbox: &Inbox, state: State, reason: Reason) {
        let Some(live) = self.custody.get(row) else { return };
        let precedence = live.precedence;
        let waiting: Vec<usize> = live
            .message
            .recipients
            .iter()
            .enumerate()
            .filter(|(_, r)| r.phase == Phase::Inbox)
            .filter(|(_, r)| live.address(r.recipient.ordinal).is_some_and(|a| a.inbox == *inbox))
            .map(|(index, _)| index)
            .collect();
        for index in waiting {
            self.state_recipient(row, index, state, reason, Phase::Ended);
        }
        self.inboxes.withdraw(inbox, precedence, row);
    }

    pub(super) fn gave_back(&mut self, consumer: Consumer, row: Row) {
        if let Some(inbox) = self.inboxes.give_back(consumer, row) {
            self.put_back(vec![(inbox, row)]);
        }
    }

    /// It leaves every inbox, and its credit serves the next: else what cannot be read would keep all behind it. Its row
    /// stays, for whoever can repair it.
    pub(super) fn unreadable(&mut self, consumer: Consumer, row: Row) {
        if !self.inboxes.pass_over(consumer, row) {
            return;
        }
        let Some(live) = self.custody.get(row) else { return };
        let (message, precedence) = (live.message.id, live.precedence);
        let inboxes: Vec<Inbox> = live.to.iter().map(|address| address.inbox.clone()).collect();
        inboxes.iter().for_each(|inbox| self.inboxes.withdraw(inbox, precedence, row));
        self.outputs.push_back(Output::Event(Event::MessageDamaged { message }));
        self.hand_out();
    }

    pub(super) fn left(&mut self, consumer: Consumer) {
        let rows = self.inboxes.leave(consumer);
        self.put_back(rows);
    }

    pub(super) fn put_back(&mut self, rows: Vec<(Inbox, Row)>) {
        for (inbox, row) in rows {
            if let Some(live) = self.custody.get(row) {
                self.inboxes.put(&inbox, live.precedence, row);
                // Else one who never acknowledges, and is there for more, would keep it for ever.
                self.expire_if_due(row);
            }
        }
        self.hand_out();
    }

    pub(super) fn create_inbox(&mut self, ticket: Ticket, inbox: Inbox) {
        let new = !self.inboxes.exists(&inbox);
        if !self.inboxes.declare(inbox.clone()) {
            let result = Err(InboxRefused::TooMany(limits::INBOXES));
            return self.outputs.push_back(Output::InboxDone { ticket, result });
        }
        if new {
            self.op(Op::PutInbox(inbox));
            self.announce();
        }
        self.then(After::Inbox(ticket, Ok(())));
    }

    pub(super) fn remove_inbox(&mut self, ticket: Ticket, inbox: Inbox) {
        let messages = self.inboxes.count(&inbox);
        let refused = if !self.inboxes.exists(&inbox) {
            Some(InboxRefused::Unknown(inbox.clone()))
        } else if messages > 0 {
            Some(InboxRefused::NotEmpty { inbox: inbox.clone(), messages })
        } else {
            None
        };
        if let Some(why) = refused {
            return self.outputs.push_back(Output::InboxDone { ticket, result: Err(why) });
        }
        self.inboxes.forget(&inbox);
        self.op(Op::DeleteInbox(inbox));
        self.announce();
        self.then(After::Inbox(ticket, Ok(())));
    }

    /// States what became of a recipient: changes the row in memory and puts the receipt into the commit being gathered.
    /// The row itself is written by the caller.
    pub(super) fn state_recipient(&mut self, row: Row, index: usize, state: State, reason: Reason, phase: Phase) {
        let at_ms = self.clock.corrected_ms(self.now);
        let Some(live) = self.custody.get_mut(row) else { return };
        let Some(recipient) = live.message.recipients.get_mut(index) else { return };
        recipient.state = state;
        recipient.reason = reason;
        recipient.phase = phase;
        recipient.at_ms = at_ms;
        let ordinal = recipient.recipient.ordinal;
        let Some(address) = live.address(ordinal).cloned() else { return };
        let mut stamps = live.message.stamps.clone();
        if !live.is_own() {
            let node = self.config.node;
            stamps.push(Stamp { node, name: self.config.name.clone(), at_ms: live.message.received_ms });
        }
        let receipt = Receipt {
            message: live.message.id,
            origin: live.origin,
            ordinal,
            address,
            state,
            reason,
            detail: String::new(),
            code: 0,
            node: self.config.node,
            name: self.config.name.clone(),
            at_ms,
            stamps,
            payload_root: live.root,
            payload_bytes: live.layout.bytes(),
        };
        let until_ms = live.deadline_ms.saturating_add(limits::REMEMBER_MS);
        self.send_home(receipt, until_ms);
    }

    /// Says again what was said about a message that is settled here.
    pub(super) fn state_again(&mut self, body: &Body, message: MessageId, known: &[Ended]) {
        let at_ms = self.clock.corrected_ms(self.now);
        for Ended { ordinal, node, state, .. } in known {
            let Some(address) = body.to.get(ordinal.index as usize) else { continue };
            // Who may say so depends on why: the owner of the names, or the destination.
            let reason = match state {
                State::Undeliverable if *node == Some(self.config.node) => Reason::NoSuchInbox,
                State::Undeliverable => Reason::NoSuchNode,
                State::Expired => Reason::LifetimeEnded,
                _ => Reason::None,
            };
            let receipt = Receipt {
                message,
                origin: body.origin,
                ordinal: *ordinal,
                address: address.clone(),
                state: *state,
                reason,
                detail: String::new(),
                code: 0,
                node: self.config.node,
                name: self.config.name.clone(),
                at_ms,
                stamps: Vec::new(),
                payload_root: body.payload_root,
                payload_bytes: body.payload_bytes,
            };
            self.send_home(receipt, body.deadline_ms().saturating_add(limits::REMEMBER_MS));
        }
    }

    pub(super) fn send_home(&mut self, receipt: Receipt, until_ms: u64) {
        let bytes: Bytes = receipt.encode();
        let statement = Statement::ToSign(Kind::Receipt, bytes);
        let message = receipt.message;
        if receipt.origin == self.config.node {
            let (ordinal, state) = (receipt.ordinal.index, receipt.state);
            self.op(Op::KeepReceipt { message, ordinal, state, statement, until_ms });
            return self.progress(&receipt);
        }
        let row = self.row();
        let value = ReceiptRow { message, origin: receipt.origin, until_ms };
        self.transit.insert(row, receipt.origin, None, None);
        self.op(Op::PutReceipt { row, receipt: value, statement });
        self.then(After::Receipt(row));
    }

    /// Tells watchers, once what they will read is durable.
    pub(super) fn progress(&mut self, receipt: &Receipt) {
        let live = self.custody.find(receipt.message).and_then(|row| self.custody.get(row));
        let submitted = live.map(|live| (live.precedence, live.created_ms));
        self.then(After::Event(Event::Progress {
            message: receipt.message,
            address: receipt.address.clone(),
            state: receipt.state,
            reason: receipt.reason,
            at_ms: receipt.at_ms,
            submitted,
        }));
    }
}
