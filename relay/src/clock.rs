//! Whether this machine's clock may be believed, and what it would say if it were right.
//!
//! Reads no clock. The uplink's clock is the measure: a message's times are corrected by the last difference to it, and
//! nothing expires while the difference, or a jump of the own clock, is beyond [`CLOCK_TRUST_MS`]. A node passes on the
//! corrected time, not its own, so that one wrong clock on the way does not mislead the nodes below it. DESIGN §5.

use crate::limits::{CLOCK_NOISE_MS, CLOCK_TRUST_MS};
use crate::time::Now;

#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// The uplink's clock minus ours, as last measured.
    offset_ms: i64,
    /// Unix time minus monotonic time at the last look.
    base_ms: Option<i64>,
    jumped: bool,
    /// There is an uplink to learn from.
    follows: bool,
    /// There is an uplink to learn from, and nothing was learned yet.
    ignorant: bool,
    /// The latest time the spool remembers.
    floor_ms: u64,
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl Clock {
    pub(crate) fn start(&mut self, floor_ms: u64, has_uplink: bool, now: Now) {
        self.floor_ms = floor_ms;
        (self.follows, self.ignorant) = (has_uplink, has_uplink);
        self.base_ms = Some(signed(now.wall_ms) - signed(now.mono_ms));
        self.jumped = now.wall_ms.saturating_add(CLOCK_TRUST_MS) < floor_ms;
    }

    /// Looks for a jump against monotonic time.
    pub(crate) fn look(&mut self, now: Now) {
        let base = signed(now.wall_ms) - signed(now.mono_ms);
        if let Some(before) = self.base_ms.filter(|before| before.abs_diff(base) > CLOCK_TRUST_MS) {
            self.jumped = true;
            if self.follows {
                // The uplink's clock did not jump: what was learned of it still holds.
                self.offset_ms = self.offset_ms.saturating_add(before - base);
            }
        }
        self.base_ms = Some(base);
    }

    /// Takes the uplink's time, read `round_trip_ms` ago there and back.
    pub(crate) fn measure(&mut self, theirs_ms: u64, round_trip_ms: u64, now: Now) {
        self.ignorant = false;
        let offset_ms = signed(theirs_ms) + signed(round_trip_ms / 2) - signed(now.wall_ms);
        self.offset_ms = if offset_ms.unsigned_abs() <= CLOCK_NOISE_MS { 0 } else { offset_ms };
        if self.offset_ms.unsigned_abs() <= CLOCK_TRUST_MS {
            self.jumped = false;
        }
    }

    pub(crate) const fn offset_ms(&self) -> i64 {
        self.offset_ms
    }

    pub(crate) const fn trusted(&self) -> bool {
        !self.jumped && !self.ignorant && self.offset_ms.unsigned_abs() <= CLOCK_TRUST_MS
    }

    /// The time to tell a neighbour: what the top of the tree would say, or 0 while that is not known here.
    pub(crate) const fn told_ms(&self, now: Now) -> u64 {
        if self.ignorant { 0 } else { self.corrected_ms(now) }
    }

    /// Unix time as the uplink would say.
    pub(crate) const fn corrected_ms(&self, now: Now) -> u64 {
        now.wall_ms.saturating_add_signed(self.offset_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600_000;
    const START: Now = Now { mono_ms: 1_000, wall_ms: 100 * DAY };

    fn later(ms: u64, jump: i64) -> Now {
        Now { mono_ms: START.mono_ms + ms, wall_ms: (START.wall_ms + ms).saturating_add_signed(jump) }
    }

    #[track_caller]
    fn check(steps: impl FnOnce(&mut Clock), trusted: bool) -> Clock {
        let mut clock = Clock::default();
        clock.start(START.wall_ms, false, START);
        steps(&mut clock);
        assert_eq!(clock.trusted(), trusted);
        clock
    }

    #[test]
    fn a_clock_is_trusted_until_it_jumps_or_the_uplink_disagrees() {
        check(|c| c.look(later(DAY, 0)), true);
        check(|c| c.look(later(DAY, 3 * DAY as i64)), false);
        check(|c| c.measure(START.wall_ms + 3 * DAY, 0, START), false);
        check(|c| c.start(START.wall_ms + DAY, false, START), false);
        check(|c| c.start(START.wall_ms, true, START), false);
    }

    #[test]
    fn a_jump_does_not_change_what_the_uplink_would_say() {
        let mut clock = Clock::default();
        clock.start(START.wall_ms, true, START);
        clock.measure(START.wall_ms, 0, START);
        for jump in [3 * DAY as i64, -2 * DAY as i64, 0] {
            clock.look(later(DAY, jump));
            assert_eq!(clock.corrected_ms(later(DAY, jump)), START.wall_ms + DAY);
            assert!(!clock.trusted());
        }
    }

    #[test]
    fn agreement_with_the_uplink_restores_trust() {
        check(
            |c| {
                c.look(later(0, DAY as i64));
                c.measure(later(0, DAY as i64).wall_ms, 0, later(0, DAY as i64));
            },
            true,
        );
    }

    #[test]
    fn a_difference_within_the_noise_of_measuring_is_not_corrected() {
        let near = |ms: u64| check(|c| c.measure(START.wall_ms + ms, 0, START), true).corrected_ms(START);
        assert_eq!((near(1_000), near(1_001)), (START.wall_ms, START.wall_ms + 1_001));
    }

    #[test]
    fn times_are_corrected_by_the_uplinks_clock() {
        let clock = check(|c| c.measure(START.wall_ms + 3 * DAY, 200, START), false);
        assert_eq!(clock.corrected_ms(START), START.wall_ms + 3 * DAY + 100);
    }
}
