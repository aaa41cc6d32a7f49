//! How classes share a line: strict from flash down to priority, with a floor for those below.
//!
//! Pure counting of bytes, used wherever something is chosen for a link. While lower classes wait, the upper three take
//! at most 85 % of what is sent; of the rest routine has two parts and bulk one. Below routine, bulk has its 5 % too. A
//! class that waits earns its floor with every byte that others send; when it has earned a piece it goes first. What it
//! does not use while nothing of it waits is not earned, so no class saves up. DESIGN §6.

use tram_proto::envelope::Precedence;

/// Of what is sent while they wait, in thousandths: a little above the 10 % and 5 % that are promised, for what is lost
/// between two pieces.
const ROUTINE_FLOOR: u64 = 105;
const BULK_FLOOR: u64 = 52;
/// A class never has more than this to its credit, in bytes: flash that comes waits for no more. A quarter of a second
/// at 2 Mbit/s.
const MOST_BYTES: i64 = 64 * 1024;
/// A class with so much to its credit goes ahead, in bytes: less would be shreds. It may send more at once, on credit.
const DUE_BYTES: i64 = 4 * 1024;

/// A set of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes(u8);

impl Classes {
    /// With one more.
    #[must_use]
    pub const fn with(self, precedence: Precedence) -> Self {
        Self(self.0 | 1 << precedence as u8)
    }

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it is among them.
    #[must_use]
    pub const fn has(self, precedence: Precedence) -> bool {
        self.0 & 1 << precedence as u8 != 0
    }

    /// Whether one more urgent than this is among them.
    #[must_use]
    pub const fn has_above(self, precedence: Precedence) -> bool {
        self.0 >> (precedence as u8 + 1) != 0
    }

    const fn has_upper(self) -> bool {
        self.has(Precedence::Flash) || self.has(Precedence::Immediate) || self.has(Precedence::Priority)
    }
}

/// The account of one link.
#[derive(Debug, Clone, Default)]
pub struct Shares {
    routine: Credit,
    bulk: Credit,
}

/// In thousandths of a byte.
#[derive(Debug, Clone, Copy, Default)]
struct Credit(i64);

impl Credit {
    const fn is_due(self) -> bool {
        self.0 >= DUE_BYTES * 1000
    }

    fn earn(&mut self, bytes: u64, thousandths: u64) {
        let earned = i64::try_from(bytes.saturating_mul(thousandths)).unwrap_or(i64::MAX);
        self.0 = self.0.saturating_add(earned).min(MOST_BYTES * 1000);
    }

    fn spend(&mut self, bytes: u64) {
        self.0 = self.0.saturating_sub(i64::try_from(bytes.saturating_mul(1000)).unwrap_or(i64::MAX));
    }
}

impl Shares {
    /// Who sends next of those that are ready.
    #[must_use]
    pub fn next(&self, ready: Classes) -> Option<Precedence> {
        let due = [(Precedence::Routine, self.routine), (Precedence::Bulk, self.bulk)];
        let due = due.into_iter().filter(|(class, credit)| ready.has(*class) && credit.is_due());
        // Of two that are due, the one with more to its credit.
        let due = due.max_by_key(|(_, credit)| credit.0).map(|(class, _)| class);
        due.or_else(|| Precedence::ALL.into_iter().find(|class| ready.has(*class)))
    }

    /// Counts bytes of a class that were sent. `ready` could have been sent instead; `waiting` are those too that have
    /// something on its way.
    pub fn sent(&mut self, precedence: Precedence, bytes: u64, ready: Classes, waiting: Classes) {
        let waiting = waiting.with(precedence);
        let (routine, bulk) = (waiting.has(Precedence::Routine), waiting.has(Precedence::Bulk));
        let (to_routine, to_bulk) = match (waiting.has_upper(), routine, bulk) {
            (true, true, true) => (ROUTINE_FLOOR, BULK_FLOOR),
            (true, true, false) => (ROUTINE_FLOOR + BULK_FLOOR, 0),
            (true, false, true) => (0, ROUTINE_FLOOR + BULK_FLOOR),
            (false, true, true) => (0, BULK_FLOOR),
            _ => (0, 0),
        };
        self.routine.earn(bytes, to_routine);
        self.bulk.earn(bytes, to_bulk);
        match precedence {
            // What goes when nothing more urgent is ready is nobody's loss.
            _ if !ready.has_above(precedence) => {}
            Precedence::Routine => self.routine.spend(bytes),
            Precedence::Bulk => self.bulk.spend(bytes),
            Precedence::Flash | Precedence::Immediate | Precedence::Priority => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Precedence::{Bulk, Flash, Immediate, Priority, Routine};
    use proptest::prelude::*;

    /// Four pieces of the longest.
    const MARGIN: u64 = 4 * 65_536;

    fn classes(all: &[Precedence]) -> Classes {
        all.iter().fold(Classes::default(), |set, one| set.with(*one))
    }

    /// What each class gets of `total` bytes when all of them always wait.
    fn shares(all: &[Precedence], total: u64, mut piece: impl FnMut() -> u64) -> [u64; 5] {
        let (mut shares, ready, mut had, mut sent) = (Shares::default(), classes(all), [0; 5], 0);
        while sent < total {
            let (next, bytes) = (shares.next(ready).expect("all wait"), piece());
            shares.sent(next, bytes, ready, ready);
            had[next as usize] += bytes;
            sent += bytes;
        }
        had
    }

    #[track_caller]
    fn check(all: &[Precedence], expect: &[(Precedence, u64)]) {
        let had = shares(all, 100_000_000, || 16 * 1024);
        for (class, thousandths) in expect {
            let got = had[*class as usize] / 100_000;
            assert!(got.abs_diff(*thousandths) <= 1, "{class} has {got} of 1,000, not {thousandths}: {had:?}");
        }
    }

    #[test]
    fn classes_that_always_wait_get_what_the_design_says() {
        check(&[Flash, Immediate, Priority, Routine, Bulk], &[(Flash, 843), (Routine, 105), (Bulk, 52), (Priority, 0)]);
        check(&[Immediate, Bulk], &[(Immediate, 843), (Bulk, 157)]);
        check(&[Priority, Routine], &[(Priority, 843), (Routine, 157)]);
        check(&[Routine, Bulk], &[(Routine, 948), (Bulk, 52)]);
        check(&[Flash, Priority], &[(Flash, 1000)]);
        check(&[Bulk], &[(Bulk, 1000)]);
    }

    proptest! {
        /// Whatever the pieces: the floors hold, the upper classes never pass 85 %, and the highest one gets that.
        #[test]
        fn floors_hold_for_pieces_of_any_size(sizes in prop::collection::vec(1u64..=65_536, 100), all in 0u8..32) {
            let all: Vec<Precedence> = Precedence::ALL.into_iter().filter(|c| all & 1 << *c as u8 != 0).collect();
            prop_assume!(!all.is_empty());
            let mut sizes = sizes.iter().cycle();
            let total = 20_000_000;
            let had = shares(&all, total, || *sizes.next().expect("endless"));
            let sent: u64 = had.iter().sum();
            let at_least = |class: Precedence, percent: u64| had[class as usize] + MARGIN >= sent * percent / 100;
            let upper = [Flash, Immediate, Priority].iter().map(|c| had[*c as usize]).sum::<u64>();
            if all.contains(&Routine) {
                prop_assert!(at_least(Routine, 10), "{had:?}");
            }
            if all.contains(&Bulk) {
                prop_assert!(at_least(Bulk, 5), "{had:?}");
            }
            if all.contains(&Routine) || all.contains(&Bulk) {
                prop_assert!(upper <= sent * 85 / 100 + MARGIN, "{had:?}");
            }
            if let Some(first) = all.iter().find(|c| !matches!(c, Routine | Bulk)) {
                prop_assert!(at_least(*first, 84), "{had:?}");
            }
        }

        /// No history makes a class that comes fresh wait for more than what one floor may have saved up.
        #[test]
        fn flash_that_comes_waits_for_one_credit_at_most(
            history in prop::collection::vec((0u8..5, 1u64..65_536, 0u8..32), 0..200),
        ) {
            let mut shares = Shares::default();
            for (class, bytes, waiting) in history {
                shares.sent(Precedence::ALL[usize::from(class)], bytes, Classes(waiting), Classes(waiting));
            }
            let ready = classes(&Precedence::ALL);
            let mut before = 0;
            while shares.next(ready) != Some(Flash) {
                let next = shares.next(ready).expect("all wait");
                shares.sent(next, 1024, ready, ready);
                before += 1024;
            }
            prop_assert!(before <= 3 * MOST_BYTES as u64, "{before}");
        }
    }
}
