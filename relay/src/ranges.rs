//! Sets of unit numbers, kept as ranges: a payload that arrives in order is one range, however large.

use std::collections::BTreeMap;

use tram_proto::frame::Range;

/// A set of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ranges {
    /// Start to end (exclusive); apart from each other.
    spans: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(crate) fn all(count: u64) -> Self {
        let mut out = Self::default();
        out.insert(Range { first: 0, count });
        out
    }

    pub(crate) fn of(ranges: &[Range]) -> Self {
        let mut out = Self::default();
        ranges.iter().for_each(|r| out.insert(*r));
        out
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range> {
        self.spans.iter().map(|(first, end)| Range { first: *first, count: end - first })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(crate) fn insert(&mut self, range: Range) {
        if range.count == 0 {
            return;
        }
        let (mut first, mut end) = (range.first, range.end());
        let touching: Vec<u64> =
            self.spans.range(..=end).rev().take_while(|(_, e)| **e >= first).map(|(s, _)| *s).collect();
        for start in touching {
            if let Some(e) = self.spans.remove(&start) {
                first = first.min(start);
                end = end.max(e);
            }
        }
        self.spans.insert(first, end);
    }

    pub(crate) fn remove(&mut self, range: Range) {
        let (first, end) = (range.first, range.end());
        let cut: Vec<(u64, u64)> =
            self.spans.range(..end).rev().take_while(|(_, e)| **e > first).map(|(s, e)| (*s, *e)).collect();
        for (s, e) in cut {
            self.spans.remove(&s);
            if s < first {
                self.spans.insert(s, first);
            }
            if e > end {
                self.spans.insert(end, e);
            }
        }
    }

    pub(crate) fn covers(&self, range: Range) -> bool {
        range.count == 0 || self.spans.range(..=range.first).next_back().is_some_and(|(_, e)| *e >= range.end())
    }

    /// The first numbers that are in both sets, at most `most` of them in one range.
    pub(crate) fn first_common(&self, other: &Self, most: u64) -> Option<Range> {
        for (s, e) in &self.spans {
            let from = other.spans.range(..=s).next_back().map_or(*s, |(os, _)| *os);
            for (os, oe) in other.spans.range(from..*e) {
                let (first, end) = ((*s).max(*os), (*e).min(*oe));
                if first < end {
                    return Some(Range { first, count: (end - first).min(most) });
                }
            }
        }
        None
    }

    /// What of `range` is not in the set, as at most `most` ranges.
    pub(crate) fn missing(&self, range: Range, most: usize) -> Vec<Range> {
        let mut out = Vec::new();
        let mut at = range.first;
        let before = self.spans.range(..=at).next_back().filter(|(_, e)| **e > at);
        if let Some((_, e)) = before {
            at = *e;
        }
        for (s, e) in self.spans.range(at..) {
            if *s >= range.end() || out.len() == most {
                break;
            }
            if *s > at {
                out.push(Range { first: at, count: s - at });
            }
            at = *e;
        }
        if at < range.end() && out.len() < most {
            out.push(Range { first: at, count: range.end() - at });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn numbers(set: &Ranges) -> BTreeSet<u64> {
        set.spans.iter().flat_map(|(s, e)| *s..*e).collect()
    }

    proptest! {
        #[test]
        fn ranges_behave_like_a_set_of_numbers(
            steps in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..40),
            other in proptest::collection::vec((0u64..60, 1u64..9), 0..8),
            most in 1u64..20,
        ) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (insert, first, count) in steps {
                let range = Range { first, count };
                if insert {
                    ranges.insert(range);
                    model.extend(first..first + count);
                } else {
                    ranges.remove(range);
                    model.retain(|n| !(first..first + count).contains(n));
                }
                prop_assert_eq!(numbers(&ranges), model.clone());
                prop_assert_eq!(ranges.covers(range), (first..first + count).all(|n| model.contains(&n)));
            }
            let whole = Range { first: 3, count: 50 };
            let missing: BTreeSet<u64> =
                ranges.missing(whole, usize::MAX).iter().flat_map(|r| r.first..r.end()).collect();
            prop_assert_eq!(missing, (3..53).filter(|n| !model.contains(n)).collect::<BTreeSet<_>>());

            let mut theirs = Ranges::default();
            other.iter().for_each(|(first, count)| theirs.insert(Range { first: *first, count: *count }));
            let common: Vec<u64> = numbers(&theirs).intersection(&model).copied().collect();
            let found = ranges.first_common(&theirs, most);
            prop_assert_eq!(found.map(|r| r.first), common.first().copied());
            if let Some(r) = found {
                prop_assert!(r.count <= most && (r.first..r.end()).all(|n| common.contains(&n)));
            }
        }
    }
}
