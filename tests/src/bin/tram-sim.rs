//! Runs many seeds of the simulator on all cores: `tram-sim COUNT [FIRST]`. Ends at the first that fails, or with
//! `TRAM_SIM_GO_ON` at none, and says how to run that one again.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tram_tests::sim::{Ran, storm};

/// Pause between two lines of progress.
const TELL: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Sums {
    seeds: AtomicU64,
    steps: AtomicU64,
    promised: AtomicU64,
    on_disks: AtomicU64,
    drained_ms: Mutex<Vec<u64>>,
    failed: AtomicBool,
}

impl Sums {
    fn add(&self, ran: Ran) {
        self.seeds.fetch_add(1, Ordering::Relaxed);
        self.steps.fetch_add(ran.steps, Ordering::Relaxed);
        self.promised.fetch_add(ran.promised, Ordering::Relaxed);
        self.on_disks.fetch_add(u64::from(ran.on_disks), Ordering::Relaxed);
        self.drained_ms.lock().unwrap_or_else(PoisonError::into_inner).push(ran.drained_ms);
    }

    fn tell(&self, began: Instant) -> String {
        let (seeds, steps) = (self.seeds.load(Ordering::Relaxed), self.steps.load(Ordering::Relaxed));
        let (promised, on_disks) = (self.promised.load(Ordering::Relaxed), self.on_disks.load(Ordering::Relaxed));
        let seconds = began.elapsed().as_secs_f64();
        format!(
            "{seeds} seeds ({on_disks} on modelled disks), {promised} messages, {steps} steps in {seconds:.0} s: \
             {:.1} seeds/s",
            seeds as f64 / seconds.max(0.001)
        )
    }

    fn drained(&self) -> String {
        let mut all = self.drained_ms.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_unstable();
        let at = |part: usize| all.get((all.len() * part / 1000).min(all.len().saturating_sub(1))).copied();
        let minutes = |part| at(part).unwrap_or(0) / 60_000;
        let (half, most, last) = (minutes(500), minutes(990), minutes(1000));
        format!(
            "nothing left after healing: half of them within {half} min, 99 % within {most} min, all within {last} min"
        )
    }
}

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (count, first) = match (numbers.next(), numbers.next()) {
        (Some(Ok(count)), None) => (count, 0),
        (Some(Ok(count)), Some(Ok(first))) => (count, first),
        _ => {
            eprintln!("usage: tram-sim COUNT [FIRST]");
            return ExitCode::from(64);
        }
    };
    let (sums, next, began) = (Sums::default(), AtomicU64::new(first), Instant::now());
    let go_on = std::env::var_os("TRAM_SIM_GO_ON").is_some();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let working = AtomicU64::new(threads as u64);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while go_on || !sums.failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    match std::panic::catch_unwind(|| storm(seed)) {
                        Ok(ran) => sums.add(ran),
                        Err(_) => {
                            sums.failed.store(true, Ordering::Relaxed);
                            eprintln!("seed {seed} failed; replay: scripts/sim 1 {seed}");
                        }
                    }
                }
                working.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let mut told = Instant::now();
        while working.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(Duration::from_millis(50));
            if told.elapsed() > TELL {
                told = Instant::now();
                eprintln!("{}", sums.tell(began));
            }
        }
    });
    println!("{}", sums.tell(began));
    println!("{}", sums.drained());
    if sums.failed.load(Ordering::Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
