//! Whose queue it is that does not go away.
//!
//! While a queue stands, the controller sends less and less. If others fill what it leaves, or the line only became
//! longer, that goes on until nothing is left. So after a while it lets the window fall at once, faster than anyone can
//! fill the gap, and what becomes of the round trip tells.

/// Rounds with a queue, and the part of the window given up in them, before it is looked into.
const ROUNDS: u32 = 4;
const GIVEN: f64 = 0.9;
/// The window while it is looked into.
pub const FALL: f64 = 0.7;
/// A round trip that falls by less than this part of what it would if the queue were all ours did not fall.
const STILL: f64 = 0.1;

/// What the standing queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Ours, or so little of others' that nothing need be done.
    Ours,
    /// Filled by others too.
    Shared,
    /// None: the line is longer than was thought.
    None,
}

/// Watches a standing queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watch {
    rounds: u32,
    window: f64,
}

impl Watch {
    /// A round ended with a queue: whether to look into it, and the window before we began to give way.
    pub fn stands(&mut self, window: f64) -> Option<f64> {
        self.rounds += 1;
        self.window = self.window.max(window);
        let before = self.window;
        if self.rounds < ROUNDS || window > GIVEN * before {
            return None;
        }
        self.clear();
        Some(before)
    }

    /// The queue is gone.
    pub const fn clear(&mut self) {
        *self = Self { rounds: 0, window: 0.0 };
    }
}

/// The round trip before the window fell to [`FALL`], and after; the wait that is left of it; how long a wait
/// may be ours and that of others like us. Seconds.
#[must_use]
pub fn judge(before: f64, after: f64, wait: f64, most: f64) -> Queue {
    if before - after < STILL * (1.0 - FALL) * before {
        Queue::None
    } else if wait > most {
        Queue::Shared
    } else {
        Queue::Ours
    }
}
