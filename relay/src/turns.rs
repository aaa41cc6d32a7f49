//! Whose turn it is within one class: what has to be there by a time goes first, the earliest of it ahead; after that
//! the neighbours that brought the rest take turns by bytes, each in the order of arrival.
//!
//! Owns the order only. Start-time fair queueing: the source that was served least is next, and one that comes back
//! begins where the others are, so that nobody saves up turns. What waits does not remember its place: whoever asks says
//! it, always the same one, for a million that wait would take 100 MB to remember.

use std::collections::{BTreeMap, BTreeSet};

use tram_proto::id::NodeId;

/// Who brought it; `None`: it was submitted here.
pub(crate) type Source = Option<NodeId>;

/// Where something stands in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) source: Source,
    /// By when it has to be there, Unix milliseconds.
    pub(crate) by_ms: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Turns<T> {
    timed: BTreeSet<(u64, T)>,
    sources: BTreeMap<Source, (u64, BTreeSet<T>)>,
    /// The sources by what they were served, in bytes.
    order: BTreeSet<(u64, Source)>,
    /// What the source served last had had: a new one begins there.
    begin: u64,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { timed: BTreeSet::new(), sources: BTreeMap::new(), order: BTreeSet::new(), begin: 0 }
    }
}

impl<T: Ord + Copy> Turns<T> {
    /// Something waits, or waits already.
    pub(crate) fn push(&mut self, one: T, place: Place) {
        if let Some(by_ms) = place.by_ms {
            self.timed.insert((by_ms, one));
            return;
        }
        let (_, waiting) = self.sources.entry(place.source).or_insert_with(|| {
            self.order.insert((self.begin, place.source));
            (self.begin, BTreeSet::new())
        });
        waiting.insert(one);
    }

    /// It waits no longer; false when it did not.
    pub(crate) fn remove(&mut self, one: T, place: Place) -> bool {
        if let Some(by_ms) = place.by_ms {
            return self.timed.remove(&(by_ms, one));
        }
        let Some((served, waiting)) = self.sources.get_mut(&place.source) else { return false };
        let there = waiting.remove(&one);
        if waiting.is_empty() {
            self.order.remove(&(*served, place.source));
            self.sources.remove(&place.source);
        }
        there
    }

    /// What is first waits no longer.
    pub(crate) fn remove_first(&mut self) {
        if self.timed.pop_first().is_some() {
            return;
        }
        let Some((_, source)) = self.order.first().copied() else { return };
        if let Some(one) = self.sources.get(&source).and_then(|(_, waiting)| waiting.first().copied()) {
            self.remove(one, Place { source, by_ms: None });
        }
    }

    /// Counts what was done for one that waits. Call it before it is removed.
    pub(crate) fn served(&mut self, one: T, place: Place, bytes: u64) {
        if place.by_ms.is_some() {
            return;
        }
        if let Some((served, _)) = self.sources.get_mut(&place.source).filter(|(_, waiting)| waiting.contains(&one)) {
            self.order.remove(&(*served, place.source));
            self.begin = self.begin.max(*served);
            *served = served.saturating_add(bytes);
            self.order.insert((*served, place.source));
        }
    }

    /// What waits, in the order of its turns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> {
        let timed = self.timed.iter().map(|(_, one)| *one);
        let by_source = self.order.iter().filter_map(|(_, source)| self.sources.get(source));
        timed.chain(by_source.flat_map(|(_, waiting)| waiting.iter().copied()))
    }

    pub(crate) fn first(&self) -> Option<T> {
        self.iter().next()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.timed.is_empty() && self.sources.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn from(source: u8) -> Place {
        Place { source: Some(NodeId([source; 16])), by_ms: None }
    }

    #[test]
    fn the_earliest_deadline_goes_first_and_what_has_none_after_it() {
        let mut turns = Turns::default();
        turns.push(1, from(1));
        turns.push(2, Place { by_ms: Some(900), ..from(1) });
        turns.push(3, Place { by_ms: Some(800), ..from(2) });
        assert_eq!(turns.iter().collect::<Vec<_>>(), [3, 2, 1]);
        turns.remove_first();
        assert!(turns.remove(1, from(1)) && !turns.remove(1, from(1)));
        assert_eq!(turns.iter().collect::<Vec<_>>(), [2]);
        turns.remove_first();
        assert!(turns.is_empty());
    }

    #[test]
    fn one_who_was_away_has_saved_up_nothing() {
        let mut turns = Turns::default();
        turns.push(0, from(1));
        turns.served(0, from(1), 1_000_000);
        turns.served(0, from(1), 1);
        turns.push(1, from(2));
        // It begins where the other is: one turn ahead at most.
        turns.served(1, from(2), 10);
        assert_eq!(turns.first(), Some(0));
    }

    proptest! {
        /// Whoever always has something waiting gets as much as every other, but for one piece, whatever the pieces are.
        #[test]
        fn sources_that_always_wait_get_equal_shares(sizes in prop::collection::vec((1u64..1000, 1u64..1000), 50..300)) {
            let mut turns = Turns::default();
            let (mut next, mut had) = (0u64, [0u64; 3]);
            let mut waiting: BTreeMap<u64, u8> = BTreeMap::new();
            for source in 0..3u8 {
                turns.push(next, from(source));
                waiting.insert(next, source);
                next += 1;
            }
            for (one, other) in sizes {
                let first = turns.first().expect("all wait");
                let source = waiting.remove(&first).expect("known");
                let bytes = if source == 0 { one } else { other };
                had[usize::from(source)] += bytes;
                // The next of the same source waits before this one goes.
                turns.push(next, from(source));
                waiting.insert(next, source);
                next += 1;
                turns.served(first, from(source), bytes);
                turns.remove(first, from(source));
            }
            let (least, most) = (had.iter().min().expect("three"), had.iter().max().expect("three"));
            prop_assert!(most - least <= 1000, "{had:?}");
        }
    }
}
