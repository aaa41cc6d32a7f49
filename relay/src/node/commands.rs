//! What people and applications ask beside sending and taking. Each is answered when what it changed is durable.

use std::collections::BTreeSet;

use tram_proto::envelope::Body;
use tram_proto::error::WireError;
use tram_proto::id::MessageId;
use tram_proto::name::{Inbox, NodeName};
use tram_proto::receipt::{Ordinal, Reason, Receipt, State};
use tram_proto::row::Phase;

use crate::custody::Ended;
use crate::input::{Command, HopName, Row, Ticket};
use crate::limits;
use crate::node::{After, Node};
use crate::output::{CommandRefused, Event, Op, Outcome, Output};
use crate::routing::{Existence, Hop};

impl Node {
    pub(super) fn command(&mut self, ticket: Ticket, command: Command) {
        let result = if self.started { self.carry_out(command) } else { Err(CommandRefused::Starting) };
        self.then(After::Commanded(ticket, result));
    }

    fn carry_out(&mut self, command: Command) -> Result<Outcome, CommandRefused> {
        match command {
            Command::Cancel { message, user } => self.withdraw(message, user, None),
            Command::Recall { message, user, nonce } => self.withdraw(message, user, Some(nonce)),
            Command::SetStatus { message, body, inboxes, code, text } => {
                self.set_status(message, &body, &inboxes, code, &text)
            }
            Command::Pause(hop) => self.pause(hop, true),
            Command::Resume(hop) => self.pause(hop, false),
            Command::Retry(Some(message)) => {
                let row = self.custody.find(message).ok_or(CommandRefused::UnknownMessage(message))?;
                self.retry(row);
                Ok(Outcome { changed: 1, ..Outcome::default() })
            }
            Command::Retry(None) => {
                let rows: Vec<Row> = self.custody.rows().map(|(row, _)| row).collect();
                let changed = rows.into_iter().filter(|row| self.retry(*row)).count();
                Ok(Outcome { changed, ..Outcome::default() })
            }
            Command::Retire(name) => self.retire(&name),
            Command::Accept(name) => self.accept(name),
        }
    }

    fn set_status(
        &mut self,
        message: MessageId,
        body: &Body,
        inboxes: &[Inbox],
        code: u32,
        text: &str,
    ) -> Result<Outcome, CommandRefused> {
        WireError::limit("status text", text.len(), tram_proto::limits::REASON_BYTES)
            .map_err(CommandRefused::Invalid)?;
        let has_it = |state: State| matches!(state, State::Delivered | State::Status);
        let settled = self.custody.settled(message).into_iter().flat_map(|s| &s.recipients);
        let settled = settled.copied().filter(|r| has_it(r.state));
        let live = self.custody.find(message).and_then(|row| self.custody.get(row));
        let live = live.into_iter().flat_map(|l| &l.message.recipients);
        let live = live.filter(|r| r.phase == Phase::Ended && has_it(r.state)).map(Ended::of);
        let ours = |r: &Ended| {
            let address = body.to.get(r.ordinal.index as usize).filter(|_| r.ordinal.list.is_none());
            r.node == Some(self.config.node) && address.is_some_and(|a| inboxes.contains(&a.inbox))
        };
        let ordinals: BTreeSet<Ordinal> = settled.chain(live).filter(ours).map(|r| r.ordinal).collect();
        if ordinals.is_empty() {
            return Err(CommandRefused::NotDelivered(message));
        }
        let at_ms = self.clock.corrected_ms(self.now);
        for ordinal in &ordinals {
            let Some(address) = body.to.get(ordinal.index as usize).cloned() else { continue };
            let receipt = Receipt {
                message,
                origin: body.origin,
                ordinal: *ordinal,
                address,
                state: State::Status,
                reason: Reason::None,
                detail: text.to_owned(),
                code,
                node: self.config.node,
                name: self.config.name.clone(),
                at_ms,
                stamps: Vec::new(),
                payload_root: body.payload_root,
                payload_bytes: body.payload_bytes,
            };
            self.send_home(receipt, body.deadline_ms().saturating_add(limits::REMEMBER_MS));
        }
        Ok(Outcome { changed: ordinals.len(), ..Outcome::default() })
    }

    fn pause(&mut self, hop: HopName, pause: bool) -> Result<Outcome, CommandRefused> {
        let next = match &hop {
            HopName::Uplink if self.config.has_uplink => Hop::Up,
            HopName::Uplink => return Err(CommandRefused::UnknownHop(self.config.name.clone())),
            HopName::Child(name) => match self.routing.resolve(name) {
                Existence::Known(node) if self.routing.next(Some(node)) == Hop::Child(node) => Hop::Child(node),
                _ if !pause && self.paused.contains(&hop) => Hop::Hold,
                _ => return Err(CommandRefused::UnknownHop(name.clone())),
            },
        };
        let changed = if pause { self.paused.insert(hop.clone()) } else { self.paused.remove(&hop) };
        if changed {
            self.op(if pause { Op::PutPause(hop) } else { Op::DeletePause(hop) });
            self.touch(next);
        }
        Ok(Outcome { changed: usize::from(changed), ..Outcome::default() })
    }

    /// Offers a message at once, whatever it waited for; false when it waits for nothing that can be hurried.
    fn retry(&mut self, row: Row) -> bool {
        let Some(live) = self.custody.get_mut(row) else { return false };
        let parked = live.unpark();
        let (precedence, place) = (live.precedence, live.turn());
        // A neighbour that forgot what it was offered would be waited for as long as the link lives.
        let offered: Vec<_> = live.offers().collect();
        let held = self.queues.remove(Hop::Hold, precedence, row, place);
        offered.iter().for_each(|(link, number)| self.offer_once_more(*link, *number));
        let again = self.offer_own_again(row);
        self.place(row);
        parked || held || again || !offered.is_empty()
    }

    fn retire(&mut self, name: &NodeName) -> Result<Outcome, CommandRefused> {
        let known = match self.routing.resolve(name) {
            Existence::Known(node) => self.routing.record(node),
            Existence::Never | Existence::Unknown => None,
        };
        let Some(known) = known else { return Err(CommandRefused::UnknownNode(name.clone())) };
        let life = (known.record.node, known.record.incarnation);
        if !self.retired.insert(life) {
            return Ok(Outcome::default());
        }
        self.retired_here.push(life);
        if self.retired_here.len() > tram_proto::limits::RECORD_RETIRED {
            self.retired_here.remove(0);
        }
        self.flood_own = true;
        self.announce();
        let event = Event::Retired { node: life.0, by: self.config.name.clone() };
        self.outputs.push_back(Output::Event(event));
        let changed = self.offer_all_own_again();
        Ok(Outcome { changed, ..Outcome::default() })
    }

    fn accept(&mut self, name: NodeName) -> Result<Outcome, CommandRefused> {
        let node = match self.routing.resolve(&name) {
            Existence::Known(node) => Some(node),
            Existence::Never | Existence::Unknown => None,
        };
        let accepted = node.and_then(|node| Some((node, self.links.accept(node)?)));
        let Some((node, neighbor)) = accepted else { return Err(CommandRefused::NotHeld(name)) };
        self.op(Op::PutNeighbor { node, neighbor });
        Ok(Outcome { changed: 1, ..Outcome::default() })
    }
}
