//! The shortest round trip: what a packet takes when no queue stands.
//!
//! It falls at once and rises only when someone says so: what looks like a longer line is most often a queue.

use std::time::{Duration, Instant};

/// One not seen again in so long may be of a route that is gone.
const STALE: Duration = Duration::from_secs(10);
/// Seen again: within a fiftieth, or within what timers and the kernel add.
const NEARLY: u32 = 50;
const TIMERS: Duration = Duration::from_micros(250);

/// The shortest round trip and when it was last seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Floor(Option<(Duration, Instant)>);

impl Floor {
    /// A round trip was measured.
    pub fn saw(&mut self, now: Instant, rtt: Duration) {
        match &mut self.0 {
            Some((least, seen)) if rtt >= *least => {
                if rtt <= *least + (*least / NEARLY).max(TIMERS) {
                    *seen = now;
                }
            }
            _ => self.0 = Some((rtt, now)),
        }
    }

    /// It is this one from now on.
    pub const fn set(&mut self, now: Instant, rtt: Duration) {
        self.0 = Some((rtt, now));
    }

    /// The shortest, once there was one.
    #[must_use]
    pub fn get(&self) -> Option<Duration> {
        self.0.map(|(least, _)| least)
    }

    /// Whether it has to be looked for again.
    #[must_use]
    pub fn is_stale(&self, now: Instant) -> bool {
        self.0.is_some_and(|(_, seen)| now.saturating_duration_since(seen) > STALE)
    }
}
