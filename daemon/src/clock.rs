//! The one place where the daemon reads a clock.
//!
//! An offset lets a test run a node whose clock is wrong; the monotonic time is never shifted.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tram_relay::time::Now;

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// This node's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    offset_ms: i64,
    /// Runs with tokio's time, which a test may pause, from this moment and Unix time on.
    #[cfg(test)]
    virtual_since: Option<(tokio::time::Instant, u64)>,
}

impl Clock {
    /// A clock that is wrong by so much; 0 for the machine's own.
    #[must_use]
    pub const fn new(offset_ms: i64) -> Self {
        Self {
            offset_ms,
            #[cfg(test)]
            virtual_since: None,
        }
    }

    /// A right clock for a runtime whose time is paused.
    #[cfg(test)]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub(crate) fn virtual_time() -> Self {
        Self { offset_ms: 0, virtual_since: Some((tokio::time::Instant::now(), Self::default().wall_ms())) }
    }

    /// Unix milliseconds by this node's clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn wall_ms(self) -> u64 {
        #[cfg(test)]
        if let Some((since, wall_ms)) = self.virtual_since {
            return wall_ms + u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add_signed(self.offset_ms)
    }

    /// Milliseconds since about the start of the process; never goes back.
    #[must_use]
    pub fn mono_ms(self) -> u64 {
        #[cfg(test)]
        if let Some((since, _)) = self.virtual_since {
            return u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        }
        u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The same, as fine as the machine has it.
    #[must_use]
    pub fn mono(self) -> Duration {
        #[cfg(test)]
        if let Some((since, _)) = self.virtual_since {
            return since.elapsed();
        }
        START.elapsed()
    }

    /// Both, as the core takes them.
    #[must_use]
    pub fn now(self) -> Now {
        Now { mono_ms: self.mono_ms(), wall_ms: self.wall_ms() }
    }

    /// The form in which the PKI takes it.
    #[must_use]
    pub fn for_pki(self) -> tram_pki::clock::Clock {
        Arc::new(move || self.wall_ms())
    }
}

/// Counts a rate against the monotonic time.
pub(crate) type Limiter = governor::RateLimiter<
    governor::state::NotKeyed,
    governor::state::InMemoryState,
    Clock,
    governor::middleware::NoOpMiddleware<Duration>,
>;

impl governor::clock::Clock for Clock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.mono()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_shifts_the_wall_clock_alone() {
        let (right, wrong) = (Clock::default(), Clock::new(-3_600_000));
        assert!(right.wall_ms().abs_diff(wrong.wall_ms() + 3_600_000) < 5_000);
        assert!(wrong.mono_ms() >= right.mono_ms().saturating_sub(5_000));
    }
}
