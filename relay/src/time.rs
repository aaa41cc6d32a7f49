//! Time, handed in. The core never reads a clock.

/// One moment, on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Milliseconds since an arbitrary start; never goes back, stands still for nobody. Timers use it.
    pub mono_ms: u64,
    /// Unix milliseconds by this machine's clock, which may be wrong. Statements and deadlines use it.
    pub wall_ms: u64,
}
