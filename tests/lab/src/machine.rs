//! Whether the machine had room: an emulator that fights for the cores measures the fight.

/// A run with less of the machine idle is void.
pub const IDLE_LEAST: f64 = 0.2;

/// The machine's clock ticks up to now.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    idle: u64,
    all: u64,
}

impl Machine {
    /// Reads `/proc/stat`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").expect("Linux has it");
        let ticks = |line: &str| line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect::<Vec<u64>>();
        let ticks = text.lines().next().map(ticks).unwrap_or_default();
        // user nice system idle iowait irq softirq steal; guest times are in user already.
        Self { idle: ticks.iter().skip(3).take(2).sum(), all: ticks.iter().take(8).sum() }
    }

    /// The part of all cores' time that was idle since then.
    #[must_use]
    pub fn idle_since(self) -> f64 {
        let now = Self::now();
        (now.idle - self.idle) as f64 / (now.all - self.all).max(1) as f64
    }
}
