//! Where is this message? A question follows the way the copies took; every node on it tells what it knows.

use std::collections::BTreeMap;

use tram_proto::frame::{Frame, Recipient, TraceHop};
use tram_proto::id::MessageId;
use tram_proto::receipt::State;
use tram_proto::row::Phase;

use crate::input::{LinkId, Ticket};
use crate::limits;
use crate::node::{After, Node};
use crate::routing::Hop;

/// Who waits for the answer to a question of ours.
#[derive(Debug, Clone, Copy)]
enum Asker {
    Here(Ticket),
    Neighbor(LinkId, u64),
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    /// Questions of the same asker that are still open, this one included, share its key.
    group: u64,
    until_ms: u64,
}

/// Questions under way.
#[derive(Debug, Default)]
pub(super) struct Asks {
    pending: BTreeMap<u64, Pending>,
    next: u64,
}

impl Asks {
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.pending.values().map(|p| p.until_ms).min()
    }
}

impl Node {
    pub(super) fn trace(&mut self, ticket: Ticket, message: MessageId) {
        let recipients: Vec<Recipient> = self
            .custody
            .find(message)
            .and_then(|row| self.custody.get(row))
            .into_iter()
            .flat_map(|l| &l.message.recipients)
            .filter(|r| r.phase == Phase::Handed && !r.state.is_terminal())
            .map(|r| r.recipient)
            .collect();
        let hops: Vec<_> = recipients.iter().map(|r| (self.routing.next(r.node), *r)).collect();
        self.ask(Asker::Here(ticket), message, hops, Vec::new());
    }

    pub(super) fn asked(&mut self, link: LinkId, number: u64, message: MessageId, recipients: &[Recipient]) {
        let (hops, told) = self.tell(message, recipients);
        self.ask(Asker::Neighbor(link, number), message, hops, told);
    }

    /// What this node knows of a message's recipients, and where the rest of the way leads.
    fn tell(&self, message: MessageId, recipients: &[Recipient]) -> (Vec<(Hop, Recipient)>, Vec<TraceHop>) {
        let mut onward = Vec::new();
        let mut known: Option<(State, u64)> = None;
        let live = self.custody.find(message).and_then(|row| self.custody.get(row));
        for r in recipients {
            let here = live.and_then(|l| l.message.recipients.iter().find(|k| k.recipient.ordinal == r.ordinal));
            if let (Some(here), Some(live)) = (here, live) {
                let state = if here.phase == Phase::Forward { State::Relayed } else { here.state };
                let at_ms = if here.phase == Phase::Inbox { here.at_ms } else { live.message.received_ms };
                known = Some((state, at_ms));
                let slot = live.message.recipients.iter().position(|k| k.recipient.ordinal == r.ordinal);
                let offered = slot.and_then(|at| live.copied(at).offered);
                // The next hop may have it already, its acknowledgement being on the way.
                onward.extend(offered.and_then(|(link, _)| self.links.served_by(link)).map(|hop| (hop, *r)));
                continue;
            }
            let released = self.custody.released(message).iter().find(|(o, ..)| *o == r.ordinal);
            if let Some((_, _, hop, at_ms)) = released {
                known = known.or(Some((State::Relayed, *at_ms)));
                onward.push((*hop, *r));
            } else if let Some(settled) = self.custody.settled(message) {
                let state = settled.recipients.iter().find(|known| known.ordinal == r.ordinal);
                known = state.map(|ended| (ended.state, ended.at_ms)).or(known);
            }
        }
        let told = known.map(|(state, at_ms)| TraceHop {
            node: self.config.node,
            name: self.config.name.clone(),
            state,
            at_ms,
            detail: String::new(),
        });
        (onward, told.into_iter().collect())
    }

    /// Asks on along the way, or answers at once when it ends here.
    fn ask(&mut self, asker: Asker, message: MessageId, hops: Vec<(Hop, Recipient)>, told: Vec<TraceHop>) {
        let mut by_link: BTreeMap<LinkId, Vec<Recipient>> = BTreeMap::new();
        for (hop, recipient) in hops {
            if let Some(link) = self.links.serving(hop) {
                by_link.entry(link).or_default().push(recipient);
            }
        }
        let group = self.asks.next;
        if by_link.is_empty() || self.asks.pending.len() + by_link.len() > limits::ASKS {
            return self.answer(asker, told, true);
        }
        if !told.is_empty() {
            self.answer(asker, told, false);
        }
        for (link, recipients) in by_link {
            let number = self.asks.next;
            self.asks.next += 1;
            let until_ms = self.now.mono_ms + limits::ASK_MS;
            self.asks.pending.insert(number, Pending { asker, group, until_ms });
            self.send(link, Frame::Ask { number, message, recipients });
        }
    }

    pub(super) fn answered(&mut self, _link: LinkId, number: u64, hops: Vec<TraceHop>, last: bool) {
        let Some(pending) = self.asks.pending.get(&number) else { return };
        let (asker, group) = (pending.asker, pending.group);
        if last {
            self.asks.pending.remove(&number);
        }
        let over = last && !self.asks.pending.values().any(|p| p.group == group);
        self.answer(asker, hops, over);
    }

    pub(super) fn give_up_asks(&mut self) {
        let now_ms = self.now.mono_ms;
        let late: Vec<u64> = self.asks.pending.iter().filter(|(_, p)| p.until_ms <= now_ms).map(|(n, _)| *n).collect();
        for number in late {
            let Some(pending) = self.asks.pending.remove(&number) else { continue };
            let over = !self.asks.pending.values().any(|p| p.group == pending.group);
            if over {
                self.answer(pending.asker, Vec::new(), true);
            }
        }
    }

    fn answer(&mut self, asker: Asker, hops: Vec<TraceHop>, last: bool) {
        match asker {
            // Whoever asked reads the spool once more then, and is to find what is known here.
            Asker::Here(ticket) => self.then(After::Traced(ticket, hops, last)),
            Asker::Neighbor(link, number) => {
                if self.links.get(link).is_some() {
                    self.send(link, Frame::Answer { number, hops, last });
                }
            }
        }
    }
}
