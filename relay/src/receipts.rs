//! Receipts on their way to their origin: queued per next hop, kept until the next hop has them.

use std::collections::{BTreeMap, BTreeSet};

use tram_proto::id::{MessageId, NodeId};
use tram_proto::receipt::{Ordinal, State};

use crate::input::{LinkId, Row};
use crate::routing::Hop;

#[derive(Debug)]
struct Waiting {
    origin: NodeId,
    /// The neighbour that brought it, if that was in this life of ours.
    from: Option<NodeId>,
    offered: Option<LinkId>,
    says: Option<Says>,
}

/// What a receipt says, of whom: one of a kind is enough on its way.
pub(crate) type Says = (MessageId, Ordinal, State);

#[derive(Debug, Default)]
pub(crate) struct Transit {
    rows: BTreeMap<Row, Waiting>,
    queues: BTreeMap<Hop, BTreeSet<Row>>,
    /// What those say that came in this life of ours.
    said: BTreeSet<Says>,
    /// Rows that wait for a moment, in monotonic milliseconds.
    parked: BTreeSet<(u64, Row)>,
}

impl Transit {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn insert(&mut self, row: Row, origin: NodeId, from: Option<NodeId>, says: Option<Says>) {
        self.said.extend(says);
        self.rows.insert(row, Waiting { origin, from, offered: None, says });
    }

    /// Whether one that says the same is on its way here.
    pub(crate) fn is_said(&self, says: &Says) -> bool {
        self.said.contains(says)
    }

    /// Who brought it, told once.
    pub(crate) fn take_from(&mut self, row: Row) -> Option<NodeId> {
        self.rows.get_mut(&row)?.from.take()
    }

    pub(crate) fn park(&mut self, row: Row, until_ms: u64) {
        self.parked.insert((until_ms, row));
    }

    pub(crate) fn next_unpark_ms(&self) -> Option<u64> {
        self.parked.first().map(|(at, _)| *at)
    }

    /// Rows that have waited long enough.
    pub(crate) fn unpark(&mut self, now_ms: u64) -> Vec<Row> {
        let mut due = Vec::new();
        while let Some((at, row)) = self.parked.first().copied().filter(|(at, _)| *at <= now_ms) {
            self.parked.remove(&(at, row));
            due.push(row);
        }
        due
    }

    pub(crate) fn origin(&self, row: Row) -> Option<NodeId> {
        self.rows.get(&row).map(|w| w.origin)
    }

    /// Lets a receipt wait for a next hop.
    pub(crate) fn queue(&mut self, row: Row, hop: Hop) {
        if let Some(waiting) = self.rows.get_mut(&row) {
            waiting.offered = None;
            self.queues.entry(hop).or_default().insert(row);
        }
    }

    /// The next receipt for a hop; it counts as offered on that link.
    pub(crate) fn next(&mut self, hop: Hop, link: LinkId) -> Option<Row> {
        let rows = self.queues.get_mut(&hop)?;
        let row = rows.pop_first()?;
        if rows.is_empty() {
            self.queues.remove(&hop);
        }
        if let Some(waiting) = self.rows.get_mut(&row) {
            waiting.offered = Some(link);
        }
        Some(row)
    }

    pub(crate) fn remove(&mut self, row: Row) -> bool {
        let waiting = self.rows.remove(&row);
        if let Some(says) = waiting.as_ref().and_then(|w| w.says) {
            self.said.remove(&says);
        }
        waiting.is_some()
    }

    /// Takes every waiting row out, to be queued anew.
    pub(crate) fn drain(&mut self) -> Vec<(Row, NodeId)> {
        let rows: Vec<Row> = std::mem::take(&mut self.queues).into_values().flatten().collect();
        rows.into_iter().filter_map(|row| Some((row, self.origin(row)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_waits_until_the_next_hop_has_it() {
        let mut transit = Transit::default();
        let says = (MessageId([1; 32]), Ordinal::body(0), State::Arrived);
        transit.insert(Row(1), NodeId([1; 16]), None, Some(says));
        assert!(transit.is_said(&says));
        transit.queue(Row(1), Hop::Up);
        assert_eq!(transit.next(Hop::Hold, LinkId(1)), None);
        assert_eq!(transit.next(Hop::Up, LinkId(1)), Some(Row(1)));
        assert_eq!(transit.next(Hop::Up, LinkId(1)), None);
        transit.queue(Row(1), Hop::Up);
        assert_eq!(transit.drain(), [(Row(1), NodeId([1; 16]))]);
        assert!(transit.remove(Row(1)) && !transit.remove(Row(1)));
        assert!(!transit.is_said(&says));
    }
}
