//! Whose queue it is that does not go away.
//!
//! While a queue stands, the controller sends less and less. What that does to the rate it is delivered at tells where
//! the queue is: if it is all ours, the rate stays; if there is none and the line became longer, the rate falls as the
//! window does; if it is shared, something between.

/// A judgement needs the window to have fallen to this.
const FALLEN: f64 = 0.75;
/// Below this share of the fall in the rate too, the queue is ours; above the other one there is none.
const OURS: f64 = 0.2;
const NONES: f64 = 0.8;

/// What the standing queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Ours: it goes away by itself.
    Ours,
    /// Filled by others too.
    Shared,
    /// None: the line is longer than was thought.
    None,
}

/// Watches a standing queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watch(Option<(f64, f64)>);

impl Watch {
    /// A round ended with a queue: the window that was in force, and the rate.
    pub fn stands(&mut self, window: f64, rate: f64) -> Option<Queue> {
        let (first_window, first_rate) = *self.0.get_or_insert((window, rate));
        if window > first_window {
            self.0 = Some((window, rate));
        }
        if window > FALLEN * first_window {
            return None;
        }
        self.0 = None;
        let fall = (rate / first_rate).ln() / (window / first_window).ln();
        Some(if fall < OURS {
            Queue::Ours
        } else if fall < NONES {
            Queue::Shared
        } else {
            Queue::None
        })
    }

    /// The queue is gone.
    pub const fn clear(&mut self) {
        self.0 = None;
    }
}
