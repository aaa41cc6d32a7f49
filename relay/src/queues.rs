//! What waits for each next hop, the most urgent first, then in the order of turns.
//!
//! Owns the order in which rows wait; the rows themselves are custody's. Whoever puts a row in or takes it out says its
//! place, which follows from the row.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tram_proto::envelope::Precedence;

use crate::input::Row;
use crate::routing::Hop;
use crate::turns::{Place, Turns};

/// What waits for each next hop, the most urgent first, then in the order of turns.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    hops: BTreeMap<Hop, BTreeMap<Reverse<Precedence>, Turns<Row>>>,
}

impl Queues {
    pub(crate) fn push(&mut self, hop: Hop, precedence: Precedence, row: Row, place: Place) {
        self.hops.entry(hop).or_default().entry(Reverse(precedence)).or_default().push(row, place);
    }

    /// Counts what was sent for a row that waits.
    pub(crate) fn served(&mut self, hop: Hop, precedence: Precedence, row: Row, place: Place, bytes: u64) {
        if let Some(rows) = self.hops.get_mut(&hop).and_then(|classes| classes.get_mut(&Reverse(precedence))) {
            rows.served(row, place, bytes);
        }
    }

    /// Takes a row out; false when it was not there.
    pub(crate) fn remove(&mut self, hop: Hop, precedence: Precedence, row: Row, place: Place) -> bool {
        self.take(hop, precedence, |rows| rows.remove(row, place))
    }

    /// Takes out what is first, also where it is in nobody's custody any more.
    pub(crate) fn remove_first(&mut self, hop: Hop, precedence: Precedence) {
        self.take(hop, precedence, |rows| {
            rows.remove_first();
            true
        });
    }

    fn take(&mut self, hop: Hop, precedence: Precedence, out: impl FnOnce(&mut Turns<Row>) -> bool) -> bool {
        let Some(classes) = self.hops.get_mut(&hop) else { return false };
        let Some(rows) = classes.get_mut(&Reverse(precedence)) else { return false };
        let there = out(rows);
        if rows.is_empty() {
            classes.remove(&Reverse(precedence));
            if classes.is_empty() {
                self.hops.remove(&hop);
            }
        }
        there
    }

    /// A row takes its turns at another place from now on, wherever it waits.
    pub(crate) fn change(&mut self, precedence: Precedence, row: Row, from: Place, to: Place) {
        for rows in self.hops.values_mut().filter_map(|classes| classes.get_mut(&Reverse(precedence))) {
            if rows.remove(row, from) {
                rows.push(row, to);
            }
        }
    }

    pub(crate) fn first(&self, hop: Hop, precedence: Precedence) -> Option<Row> {
        self.hops.get(&hop)?.get(&Reverse(precedence))?.first()
    }

    pub(crate) fn holds(&self, hop: Hop) -> bool {
        self.hops.contains_key(&hop)
    }

    /// Takes every row out.
    pub(crate) fn drain(&mut self) -> BTreeSet<Row> {
        let rows = self.iter().map(|(_, _, row)| row).collect();
        self.hops.clear();
        rows
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Hop, Precedence, Row)> {
        let classes =
            self.hops.iter().flat_map(|(hop, classes)| classes.iter().map(|(class, rows)| (*hop, class.0, rows)));
        classes.flat_map(|(hop, class, rows)| rows.iter().map(move |row| (hop, class, row)))
    }
}

#[cfg(test)]
mod tests {
    use tram_proto::id::NodeId;

    use super::*;

    #[test]
    fn the_most_urgent_goes_first_then_the_oldest() {
        let mut queues = Queues::default();
        let place = Place { source: None, by_ms: None };
        queues.push(Hop::Up, Precedence::Bulk, Row(1), place);
        queues.push(Hop::Up, Precedence::Flash, Row(9), place);
        queues.push(Hop::Up, Precedence::Flash, Row(4), place);
        let order: Vec<_> = queues.iter().map(|(_, class, row)| (class, row.0)).collect();
        assert_eq!(order, [(Precedence::Flash, 4), (Precedence::Flash, 9), (Precedence::Bulk, 1)]);
        queues.remove(Hop::Up, Precedence::Flash, Row(4), place);
        assert_eq!(queues.first(Hop::Up, Precedence::Flash), Some(Row(9)));
        assert_eq!(queues.first(Hop::Hold, Precedence::Flash), None);
    }

    #[test]
    fn a_row_that_comes_from_another_waits_once_and_among_those_of_that_one() {
        let mut queues = Queues::default();
        let place = |source: u8| Place { source: Some(NodeId([source; 16])), by_ms: None };
        queues.push(Hop::Up, Precedence::Bulk, Row(1), place(1));
        queues.push(Hop::Up, Precedence::Bulk, Row(2), place(2));
        queues.change(Precedence::Bulk, Row(1), place(1), place(2));
        assert_eq!(queues.iter().map(|(_, _, row)| row.0).collect::<Vec<_>>(), [1, 2]);
        assert!(!queues.remove(Hop::Up, Precedence::Bulk, Row(1), place(1)));
        assert!(queues.remove(Hop::Up, Precedence::Bulk, Row(1), place(2)));
        queues.remove_first(Hop::Up, Precedence::Bulk);
        assert!(!queues.holds(Hop::Up));
    }
}
