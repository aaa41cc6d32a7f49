//! Inboxes: what waits for local applications, and who holds what under a lease.
//!
//! Handing out is at least once; a message stays in its inbox until the application's acknowledgement is durable. The
//! spool is not touched here. DESIGN §5.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tram_proto::envelope::Precedence;
use tram_proto::name::Inbox;

use crate::input::{Consumer, Row};
use crate::limits;

#[derive(Debug)]
struct Taker {
    inbox: Inbox,
    credit: u32,
    lease_ms: u64,
    /// What it holds, with the lease's end in monotonic milliseconds.
    held: BTreeMap<Row, u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Inboxes {
    waiting: BTreeMap<Inbox, BTreeSet<(Reverse<Precedence>, Row)>>,
    takers: BTreeMap<Consumer, Taker>,
    /// Handed out before in this life.
    touched: BTreeSet<(Inbox, Row)>,
}

impl Inboxes {
    pub(crate) fn declare(&mut self, inbox: Inbox) -> bool {
        let room = self.waiting.len() < limits::INBOXES;
        if room {
            self.waiting.entry(inbox).or_default();
        }
        room
    }

    pub(crate) fn exists(&self, inbox: &Inbox) -> bool {
        self.waiting.contains_key(inbox)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Inbox> {
        self.waiting.keys()
    }

    /// Messages that wait or are held.
    pub(crate) fn count(&self, inbox: &Inbox) -> usize {
        let held = self.takers.values().filter(|t| t.inbox == *inbox).map(|t| t.held.len());
        self.waiting.get(inbox).map_or(0, BTreeSet::len) + held.sum::<usize>()
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&Inbox, Precedence, Row)> {
        self.waiting.iter().flat_map(|(inbox, rows)| rows.iter().map(move |(p, row)| (inbox, p.0, *row)))
    }

    pub(crate) fn forget(&mut self, inbox: &Inbox) {
        self.waiting.remove(inbox);
    }

    pub(crate) fn put(&mut self, inbox: &Inbox, precedence: Precedence, row: Row) {
        if let Some(rows) = self.waiting.get_mut(inbox) {
            rows.insert((Reverse(precedence), row));
        }
    }

    /// Takes a message out of an inbox, whoever holds it.
    pub(crate) fn withdraw(&mut self, inbox: &Inbox, precedence: Precedence, row: Row) {
        if let Some(rows) = self.waiting.get_mut(inbox) {
            rows.remove(&(Reverse(precedence), row));
        }
        for taker in self.takers.values_mut().filter(|t| t.inbox == *inbox) {
            taker.held.remove(&row);
        }
        self.touched.remove(&(inbox.clone(), row));
    }

    pub(crate) fn take(&mut self, consumer: Consumer, inbox: Inbox, credit: u32, lease_ms: u64) -> bool {
        if !self.takers.contains_key(&consumer) && self.takers.len() >= limits::CONSUMERS {
            return false;
        }
        let lease_ms = lease_ms.clamp(*limits::LEASE_MS.start(), *limits::LEASE_MS.end());
        let held = self.takers.remove(&consumer).map(|t| t.held).unwrap_or_default();
        self.takers.insert(consumer, Taker { inbox, credit, lease_ms, held });
        true
    }

    /// The next message to hand out, and to whom; `touched` says it was handed out before.
    pub(crate) fn hand_out(&mut self, now_ms: u64) -> Option<(Consumer, Inbox, Row, bool)> {
        for (consumer, taker) in self.takers.iter_mut().filter(|(_, t)| t.credit > 0) {
            let Some((_, row)) = self.waiting.get_mut(&taker.inbox).and_then(BTreeSet::pop_first) else {
                continue;
            };
            taker.credit -= 1;
            taker.held.insert(row, now_ms.saturating_add(taker.lease_ms));
            let before = !self.touched.insert((taker.inbox.clone(), row));
            return Some((*consumer, taker.inbox.clone(), row, before));
        }
        None
    }

    /// Whether anyone holds the message from that inbox.
    pub(crate) fn is_held(&self, inbox: &Inbox, row: Row) -> bool {
        self.takers.values().any(|t| t.inbox == *inbox && t.held.contains_key(&row))
    }

    /// The inbox a consumer holds the message from, if its lease still runs.
    pub(crate) fn holds(&self, consumer: Consumer, row: Row) -> Option<Inbox> {
        let taker = self.takers.get(&consumer)?;
        taker.held.contains_key(&row).then(|| taker.inbox.clone())
    }

    pub(crate) fn renew(&mut self, consumer: Consumer, row: Row, now_ms: u64) {
        if let Some(taker) = self.takers.get_mut(&consumer)
            && let Some(until) = taker.held.get_mut(&row)
        {
            *until = now_ms.saturating_add(taker.lease_ms);
        }
    }

    /// Ends one hold; the message has to be put back.
    pub(crate) fn give_back(&mut self, consumer: Consumer, row: Row) -> Option<Inbox> {
        let taker = self.takers.get_mut(&consumer)?;
        taker.held.remove(&row).map(|_| taker.inbox.clone())
    }

    /// Ends one hold that brought nothing; whether there was one.
    pub(crate) fn pass_over(&mut self, consumer: Consumer, row: Row) -> bool {
        let Some(taker) = self.takers.get_mut(&consumer) else { return false };
        let held = taker.held.remove(&row).is_some();
        if held {
            taker.credit = taker.credit.saturating_add(1);
        }
        held
    }

    /// Ends a consumer; what it held has to be put back.
    pub(crate) fn leave(&mut self, consumer: Consumer) -> Vec<(Inbox, Row)> {
        let taker = self.takers.remove(&consumer);
        taker.into_iter().flat_map(|t| t.held.into_keys().map(move |row| (t.inbox.clone(), row))).collect()
    }

    /// Ends the leases that ran out; the messages have to be put back.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<(Inbox, Row)> {
        let mut out = Vec::new();
        for taker in self.takers.values_mut() {
            taker.held.retain(|row, until| {
                let keep = *until > now_ms;
                if !keep {
                    out.push((taker.inbox.clone(), *row));
                }
                keep
            });
        }
        out
    }

    /// When the next lease runs out, monotonic milliseconds.
    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        self.takers.values().flat_map(|t| t.held.values()).min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> Inbox {
        "vanban".parse().expect("a name")
    }

    fn with(rows: &[(Precedence, u64)]) -> Inboxes {
        let mut inboxes = Inboxes::default();
        inboxes.declare(inbox());
        rows.iter().for_each(|(p, row)| inboxes.put(&inbox(), *p, Row(*row)));
        inboxes
    }

    #[track_caller]
    fn check(inboxes: &mut Inboxes, now_ms: u64, expect: Option<(u64, u64, bool)>) {
        let got = inboxes.hand_out(now_ms).map(|(c, _, row, before)| (c.0, row.0, before));
        assert_eq!(got, expect);
    }

    #[test]
    fn messages_go_out_by_urgency_within_credit() {
        let mut inboxes = with(&[(Precedence::Routine, 1), (Precedence::Flash, 2), (Precedence::Routine, 3)]);
        check(&mut inboxes, 0, None);
        inboxes.take(Consumer(7), inbox(), 2, 5_000);
        check(&mut inboxes, 0, Some((7, 2, false)));
        check(&mut inboxes, 0, Some((7, 1, false)));
        check(&mut inboxes, 0, None);
        assert_eq!(inboxes.count(&inbox()), 3);
    }

    #[test]
    fn a_lease_that_ran_out_gives_the_message_to_another() {
        let mut inboxes = with(&[(Precedence::Routine, 1)]);
        inboxes.take(Consumer(7), inbox(), 1, 5_000);
        check(&mut inboxes, 0, Some((7, 1, false)));
        inboxes.renew(Consumer(7), Row(1), 3_000);
        assert!(inboxes.expire(7_999).is_empty());
        assert_eq!(inboxes.expire(8_000), [(inbox(), Row(1))]);
        inboxes.put(&inbox(), Precedence::Routine, Row(1));
        inboxes.take(Consumer(8), inbox(), 1, 5_000);
        check(&mut inboxes, 8_000, Some((8, 1, true)));
        assert_eq!(inboxes.holds(Consumer(7), Row(1)), None);
    }

    #[test]
    fn what_a_consumer_held_comes_back_when_it_leaves() {
        let mut inboxes = with(&[(Precedence::Routine, 1)]);
        inboxes.take(Consumer(7), inbox(), 1, 5_000);
        check(&mut inboxes, 0, Some((7, 1, false)));
        assert_eq!(inboxes.leave(Consumer(7)), [(inbox(), Row(1))]);
    }
}
