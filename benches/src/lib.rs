//! Measurements, each with its baseline in the same run.
//!
//! A figure alone says little on a shared machine: what counts is its ratio to a baseline that ran beside it, round by
//! round, and the median of the rounds. Nothing here is a test; a slow machine fails nobody.

use std::time::Instant;

/// Rounds of every measurement; an odd number, so that the median is one of them.
pub const ROUNDS: usize = 9;

/// One line of the result.
#[derive(Debug, Clone)]
pub struct Measured {
    what: &'static str,
    ns: f64,
    ratio: f64,
    spread: f64,
}

impl Measured {
    /// The median, in nanoseconds.
    #[must_use]
    pub const fn ns(&self) -> f64 {
        self.ns
    }
}

/// Runs `once`, which says how often it did the thing, and answers the nanoseconds that each took.
pub fn ns_each(once: impl FnOnce() -> usize) -> f64 {
    let began = Instant::now();
    let times = once();
    began.elapsed().as_nanos() as f64 / times.max(1) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Measures `subject` beside `baseline`, in turns. Both answer nanoseconds for each time; the first turn is not counted.
pub fn beside(what: &'static str, mut subject: impl FnMut() -> f64, mut baseline: impl FnMut() -> f64) -> Measured {
    let _ = (subject(), baseline());
    let turns: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (subject(), baseline())).collect();
    let ratios: Vec<f64> = turns.iter().map(|(ours, theirs)| ours / theirs).collect();
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let ratio = median(ratios);
    Measured { what, ns: median(turns.iter().map(|(ours, _)| *ours).collect()), ratio, spread: (most - least) / ratio }
}

/// The result as a table on standard output.
pub fn print(baseline: &str, baseline_ns: f64, lines: &[Measured]) {
    println!("{:<44} {:>10} {:>8} {:>8}", "median of 9 rounds", "ns", "ratio", "spread");
    println!("{baseline:<44} {baseline_ns:>10.0} {:>8} {:>8}", "1.00", "");
    for Measured { what, ns, ratio, spread } in lines {
        println!("{what:<44} {ns:>10.0} {ratio:>8.2} {:>7.0}%", spread * 100.0);
    }
}

/// Clock ticks of `/proc/PID/stat` in a second.
const TICKS: f64 = 100.0;

/// User and system time of a process so far, in seconds.
///
/// # Panics
/// When it does not run.
#[must_use]
pub fn cpu_seconds(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(path).expect("the process runs");
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ').collect::<Vec<_>>();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS
}
