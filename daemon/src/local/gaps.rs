//! The check of the register: which numbers are missing among the messages that came to an inbox.
//!
//! An origin numbers what a sender inbox sends to one address, from 1, anew in each life of its spool. One call reads
//! the spool once, from the newest message to the oldest, and keeps the numbers of the first pairs behind the cursor as
//! ranges. So memory is bounded by [`PAIRS`] and [`RANGES`], whatever the spool holds.

use std::collections::BTreeMap;

use tonic::Status;
use tram_proto::envelope::Body;
use tram_proto::local::{GapsAnswer, GapsRequest, Numbers, SequenceView};
use tram_proto::name::{Address, Inbox};

use super::access::Grant;
use super::known::{body_of, here};
use super::{Door, blocking, refusal};

/// Pairs of one answer; the others come with the next call.
const PAIRS: usize = 1024;
/// Ranges of numbers kept at once, 16 bytes each. Beyond them the last pairs go to the next call; what one pair alone
/// has beyond them is cut at its low end.
const RANGES: usize = 65_536;
/// Messages read from the spool at once.
const AT_ONCE: usize = 256;

/// One pair of sender inbox and address, in one life of an origin.
#[derive(Debug, Default)]
struct Pair {
    origin: String,
    origin_id: String,
    incarnation: String,
    sender: String,
    address: String,
    /// First and last of each range seen, apart.
    seen: BTreeMap<u64, u64>,
    /// Numbers up to here are not looked at any more.
    cut: u64,
}

impl Pair {
    fn note(&mut self, number: u64) {
        if number <= self.cut {
            return;
        }
        let below = self.seen.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if below.is_some_and(|(_, last)| last >= number) {
            return;
        }
        let first = below.filter(|(_, last)| last + 1 == number).map_or(number, |(first, _)| first);
        let last = self.seen.remove(&(number + 1)).unwrap_or(number);
        self.seen.insert(first, last);
    }

    /// Forgets the lowest range and all below it.
    fn cut(&mut self) {
        if let Some((_, last)) = self.seen.pop_first() {
            self.cut = last;
        }
    }

    fn into_view(self) -> SequenceView {
        let mut gaps = Vec::new();
        let mut end: Option<u64> = None;
        for (first, last) in &self.seen {
            gaps.extend(end.map(|end| Numbers { first: end + 1, last: first - 1 }));
            end = Some(*last);
        }
        SequenceView {
            origin: self.origin,
            origin_id: self.origin_id,
            incarnation: self.incarnation,
            sender: self.sender,
            address: self.address,
            lowest: self.seen.first_key_value().map_or(0, |(first, _)| *first),
            highest: end.unwrap_or(0),
            seen: self.seen.iter().map(|(first, last)| last - first + 1).sum(),
            missing: gaps.iter().map(|gap| gap.last - gap.first + 1).sum(),
            gaps,
            cut: self.cut > 0,
        }
    }
}

/// The pairs of one answer: the first ones behind the cursor.
#[derive(Debug)]
struct Pairs {
    after: String,
    most: usize,
    ranges_most: usize,
    pairs: BTreeMap<String, Pair>,
    ranges: usize,
    /// Some pair had to go to the next call.
    more: bool,
}

impl Pairs {
    const fn new(after: String, most: usize, ranges_most: usize) -> Self {
        Self { after, most, ranges_most, pairs: BTreeMap::new(), ranges: 0, more: false }
    }

    /// `here`: the addresses that count, with their places in the body's list.
    fn note<'a>(&mut self, body: &Body, here: impl Iterator<Item = (usize, &'a Address)>) {
        for (at, to) in here {
            let Some(number) = body.pair_sequences.get(at).filter(|number| !matches!(**number, 0 | u64::MAX)) else {
                continue;
            };
            let sender = body.sender.as_ref().map(ToString::to_string).unwrap_or_default();
            // None of these words has a blank. The id goes first: a node's name may change, its counter goes on.
            let key = format!("{} {} {sender} {to}", body.origin, body.incarnation);
            if key <= self.after || (self.more && self.pairs.last_key_value().is_none_or(|(last, _)| key > *last)) {
                continue;
            }
            let pair = self.pairs.entry(key).or_insert_with(|| Pair {
                origin: body.origin_name.to_string(),
                origin_id: body.origin.to_string(),
                incarnation: body.incarnation.to_string(),
                sender,
                address: to.to_string(),
                ..Pair::default()
            });
            let before = pair.seen.len();
            pair.note(*number);
            self.ranges = self.ranges + pair.seen.len() - before;
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        while self.pairs.len() > self.most || (self.ranges > self.ranges_most && self.pairs.len() > 1) {
            if let Some((_, pair)) = self.pairs.pop_last() {
                self.ranges -= pair.seen.len();
                self.more = true;
            }
        }
        if self.ranges > self.ranges_most
            && let Some(mut only) = self.pairs.first_entry()
        {
            only.get_mut().cut();
            self.ranges -= 1;
        }
    }

    fn into_answer(self) -> GapsAnswer {
        let next = self.pairs.last_key_value().filter(|_| self.more).map(|(last, _)| last.clone());
        let sequences = self.pairs.into_values().map(Pair::into_view).collect();
        GapsAnswer { sequences, next: next.unwrap_or_default() }
    }
}

pub(super) async fn gaps(door: &Door, grant: &Grant, asked: GapsRequest) -> Result<GapsAnswer, Status> {
    let only = match asked.inbox.as_str() {
        "" => None,
        inbox => Some(inbox.parse::<Inbox>().map_err(refusal::invalid)?),
    };
    if let Some(inbox) = only.as_ref().filter(|inbox| !grant.inbox(inbox)) {
        return Err(refusal::not_permitted(format!("user {} may not receive from inbox {inbox}", grant.uid)));
    }
    let mut pairs = Pairs::new(asked.after, PAIRS, RANGES);
    let mut before = None;
    loop {
        let spool = door.spool.clone();
        let page = blocking(move || Ok(spool.list(AT_ONCE, before)?)).await?;
        let Some(last) = page.last() else { return Ok(pairs.into_answer()) };
        before = Some(last.row);
        for stored in &page {
            let body = body_of(stored)?;
            if body.created_ms >= asked.since_ms {
                let wanted = |inbox: &Inbox| only.as_ref().map_or_else(|| grant.inbox(inbox), |only| only == inbox);
                pairs.note(&body, here(door, &stored.message, &body).filter(|(_, to)| wanted(&to.inbox)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(pairs: &mut Pairs, sender: &str, number: u64) {
        let body = super::super::tests::fake::body_from(sender, number);
        pairs.note(&body, body.to.iter().enumerate().skip(1));
    }

    /// Sender, lowest, highest, missing, which, cut.
    type Told = (String, u64, u64, u64, Vec<(u64, u64)>, bool);

    fn told(pairs: Pairs) -> (Vec<Told>, String) {
        let answer = pairs.into_answer();
        let one = |s: SequenceView| {
            let gaps = s.gaps.iter().map(|gap| (gap.first, gap.last)).collect();
            assert_eq!(s.missing, s.highest + 1 - s.lowest - s.seen);
            (s.sender, s.lowest, s.highest, s.missing, gaps, s.cut)
        };
        (answer.sequences.into_iter().map(one).collect(), answer.next)
    }

    #[test]
    fn numbers_in_any_order_leave_the_ranges_that_are_missing() {
        for numbers in [[3, 4, 5, 9, 11, 12], [12, 11, 9, 5, 4, 3], [4, 12, 3, 9, 5, 11]] {
            let mut pairs = Pairs::new(String::new(), 10, 10);
            // Twice the same number is once seen.
            numbers.into_iter().chain(numbers).for_each(|n| note(&mut pairs, "khan", n));
            assert_eq!(told(pairs).0, [("khan".to_owned(), 3, 12, 4, vec![(6, 8), (10, 10)], false)]);
        }
    }

    #[test]
    fn pairs_beyond_the_bound_come_with_the_next_call_each_once() {
        let senders = ["a", "b", "c", "d", "e"];
        let (mut after, mut seen) = (String::new(), Vec::new());
        for _ in 0..3 {
            let mut pairs = Pairs::new(after, 2, 1000);
            for number in (1..=20).rev() {
                senders.iter().for_each(|sender| note(&mut pairs, sender, number));
                assert!(pairs.pairs.len() <= 2);
            }
            let (told, next) = told(pairs);
            seen.extend(told.iter().map(|t| (t.0.clone(), t.1, t.2)));
            after = next;
        }
        assert_eq!(after, "");
        assert_eq!(seen, senders.map(|s| (s.to_owned(), 1, 20)));
    }

    #[test]
    fn so_many_gaps_that_they_do_not_fit_are_cut_at_the_low_end_and_said() {
        let mut pairs = Pairs::new(String::new(), 10, 3);
        for number in (1..=20).rev().step_by(2) {
            note(&mut pairs, "khan", number);
            assert!(pairs.ranges <= 3);
        }
        assert_eq!(told(pairs).0, [("khan".to_owned(), 16, 20, 2, vec![(17, 17), (19, 19)], true)]);
        // Among several pairs the last one waits instead.
        let mut pairs = Pairs::new(String::new(), 10, 3);
        for number in [9, 7, 5] {
            ["a", "b"].iter().for_each(|sender| note(&mut pairs, sender, number));
        }
        let (told, next) = told(pairs);
        assert_eq!(told, [("a".to_owned(), 5, 9, 2, vec![(6, 6), (8, 8)], false)]);
        assert!(next.contains(" a "));
    }
}
