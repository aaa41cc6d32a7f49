use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::config::Config;

use Precedence::{Bulk, Flash, Immediate, Priority, Routine};

/// A line that sends what was written at a steady rate, with headers besides.
struct Pipe {
    clock: Clock,
    rate: u64,
    written: Arc<AtomicU64>,
    sent: Mutex<(Duration, u64)>,
}

impl Line for Pipe {
    fn figures(&self) -> Figures {
        let (now, mut sent) = (self.clock.mono(), self.sent.lock().expect("whole"));
        let could = carried(self.rate, now.saturating_sub(sent.0));
        *sent = (now, (sent.1 + could).min(self.written.load(Ordering::Relaxed)));
        let queued = self.written.load(Ordering::Relaxed) > sent.1;
        Figures {
            sent_bytes: sent.1 * 36 / 35,
            rate_bytes_per_s: self.rate,
            window_bytes: 100_000,
            in_flight_bytes: if queued { 100_000 } else { 0 },
            min_rtt: Duration::from_millis(40),
            ..Figures::default()
        }
    }
}

struct Bench {
    gate: Arc<Gate>,
    clock: Clock,
    written: Arc<AtomicU64>,
    by_class: Arc<[AtomicU64; 5]>,
    plan: watch::Sender<Arc<Plan>>,
    tasks: tokio::task::JoinSet<()>,
}

fn plan(text: &str) -> Arc<Plan> {
    let top = "[[uplink]]\nnode = \"central\"\naddresses = [\"h:1\"]\n";
    Arc::new(Config::from_text(Path::new("tramd.toml"), &format!("{top}{text}")).expect("valid").plan)
}

fn limit(classes: &str, most: &str) -> String {
    format!("[[plan.limit]]\nlink = \"uplink\"\nclasses = [{classes}]\nmost = \"{most}\"\n")
}

impl Bench {
    fn new(rate: u64, text: &str) -> Self {
        let (clock, written) = (Clock::virtual_time(), Arc::<AtomicU64>::default());
        let pipe = Pipe { clock, rate, written: written.clone(), sent: Mutex::default() };
        let (plan, in_force) = watch::channel(plan(text));
        let peer = ("central".parse().expect("a name"), Side::Up(0));
        let gate = Arc::new(Gate::new(Box::new(pipe), clock, in_force, peer));
        let mut tasks = tokio::task::JoinSet::new();
        let keeper = gate.clone();
        tasks.spawn(async move { keeper.keep().await });
        Self { gate, clock, written, by_class: Arc::default(), plan, tasks }
    }

    /// One stream that always has something to write, in requests of so many bytes.
    fn flood(&mut self, class: Precedence, lane: Lane, bytes: usize) {
        *self.gate.state().posted.entry(class).or_default() += 1;
        let (gate, written, by_class) = (self.gate.clone(), self.written.clone(), self.by_class.clone());
        self.tasks.spawn(async move {
            loop {
                let mut left = bytes;
                while left > 0 {
                    let piece = gate.pass(class, lane, left).await;
                    written.fetch_add(piece as u64, Ordering::Relaxed);
                    by_class[class as usize].fetch_add(piece as u64, Ordering::Relaxed);
                    left -= piece;
                }
            }
        });
    }

    /// What each class has written after so long.
    async fn after(&self, time: Duration) -> [u64; 5] {
        tokio::time::sleep(time).await;
        std::array::from_fn(|class| self.by_class[class].load(Ordering::Relaxed))
    }
}

/// Percent of what was written, after a minute at 2 Mbit/s.
#[track_caller]
fn check(had: [u64; 5], expect: &[(Precedence, std::ops::RangeInclusive<u64>)]) {
    let all: u64 = had.iter().sum();
    assert!((250_000 * 60 * 99 / 100..250_000 * 60 + 700_000).contains(&all), "the line is full: {all}");
    for (class, percent) in expect {
        let got = had[*class as usize] * 1000 / all;
        assert!((percent.start() * 10..=percent.end() * 10).contains(&got), "{class}: {got} of 1000: {had:?}");
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_minute_of_routine_leaves_bulk_its_share() {
    let mut bench = Bench::new(250_000, "");
    bench.flood(Routine, Lane::Envelopes, 60_000);
    bench.flood(Routine, Lane::Run(1), CHUNK_BYTES);
    bench.flood(Bulk, Lane::Run(2), CHUNK_BYTES);
    check(bench.after(MINUTE).await, &[(Bulk, 5..=6), (Routine, 94..=95)]);
}

#[tokio::test(start_paused = true)]
async fn the_upper_classes_leave_a_seventh_to_the_lower_ones_and_go_strictly_before_one_another() {
    let mut bench = Bench::new(250_000, "");
    for (nth, class) in [(1, Flash), (2, Immediate), (3, Priority), (4, Routine), (5, Bulk)] {
        bench.flood(class, Lane::Run(nth), CHUNK_BYTES);
    }
    let parts = [(Flash, 83..=85), (Immediate, 0..=1), (Priority, 0..=1), (Routine, 10..=11), (Bulk, 5..=6)];
    check(bench.after(MINUTE).await, &parts);
}

#[tokio::test(start_paused = true)]
async fn alone_a_class_has_the_whole_line() {
    let mut bench = Bench::new(250_000, "");
    bench.flood(Bulk, Lane::Run(1), CHUNK_BYTES);
    check(bench.after(MINUTE).await, &[(Bulk, 100..=100)]);
}

#[tokio::test(start_paused = true)]
async fn flash_passes_at_once_though_bulk_fills_the_line() {
    let mut bench = Bench::new(250_000, "");
    bench.flood(Bulk, Lane::Run(1), CHUNK_BYTES);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(77)).await;
        let before = bench.clock.mono();
        assert_eq!(bench.gate.pass(Flash, Lane::Envelopes, 4096).await, 4096);
        assert_eq!(bench.clock.mono(), before, "it did not wait");
        bench.written.fetch_add(4096, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_written_ahead_than_the_line_needs() {
    // What is written before the line is seen to have sent as much: pieces, at 20 Mbit/s in the millisecond of a timer.
    let pieces = 4 * PIECE_BYTES.start();
    for (bytes_per_s, most) in
        [(250_000, SLOW_AHEAD_BYTES + pieces), (2_500_000, 10_000 + pieces), (25_000_000, 500_000 + 2 * 125_000)]
    {
        let mut bench = Bench::new(bytes_per_s, "");
        bench.flood(Bulk, Lane::Run(1), CHUNK_BYTES);
        bench.flood(Routine, Lane::Run(2), CHUNK_BYTES);
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(7)).await;
            let sent = bench.gate.line.figures().sent_bytes * 35 / 36;
            let ahead = bench.written.load(Ordering::Relaxed).saturating_sub(sent);
            assert!(ahead <= most, "{bytes_per_s} bytes/s: {ahead} ahead");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_ceiling_holds_whoever_else_is_there_and_a_new_plan_takes_its_place() {
    let mut bench = Bench::new(2_500_000, &limit("\"bulk\"", "1mbit"));
    bench.flood(Bulk, Lane::Run(1), CHUNK_BYTES);
    let ten = Duration::from_secs(10);
    let within = |bytes: u64, bits: u64, seconds: u64| {
        // What was written is without headers.
        let most = bits / 8 * seconds;
        assert!(bytes <= most && bytes >= most * 94 / 100, "{bytes} of {most}");
    };
    within(bench.after(ten).await[Bulk as usize], 1_000_000, 10);
    bench.plan.send_replace(plan(&limit("\"bulk\"", "4mbit")));
    let before = bench.after(Duration::from_millis(100)).await;
    let later = bench.after(ten).await;
    within(later[Bulk as usize] - before[Bulk as usize], 4_000_000, 10);

    bench.plan.send_replace(plan(&limit("\"bulk\"", "1mbit")));
    bench.flood(Routine, Lane::Run(2), CHUNK_BYTES);
    let before = bench.after(Duration::from_millis(100)).await;
    let now = bench.after(ten).await;
    within(now[Bulk as usize] - before[Bulk as usize], 1_000_000, 10);
    assert!(now[Routine as usize] > 22_000_000, "the rest is routine's: {now:?}");
}

#[tokio::test(start_paused = true)]
async fn the_sum_of_all_classes_has_a_ceiling_too() {
    let all = "[[plan.limit]]\nlink = \"uplink\"\nmost = \"2mbit\"\n";
    let mut bench = Bench::new(2_500_000, all);
    bench.flood(Bulk, Lane::Run(1), CHUNK_BYTES);
    bench.flood(Immediate, Lane::Run(2), CHUNK_BYTES);
    let had = bench.after(MINUTE).await;
    let sum: u64 = had.iter().sum();
    assert!(sum <= 250_000 * 60 && sum > 250_000 * 56, "{sum}");
    assert!(had[Bulk as usize] * 100 / sum >= 14, "floors hold below it: {had:?}");
}

#[tokio::test(start_paused = true)]
async fn runs_are_short_on_a_slow_line_and_long_on_a_fast_one() {
    let units = |rate| Bench::new(rate, "").gate.run_units(Bulk);
    assert_eq!((units(250_000), units(2_500_000), units(1 << 30)), (1, 2, RUN_UNITS));
    assert_eq!(Bench::new(1 << 30, &limit("\"bulk\"", "2mbit")).gate.run_units(Bulk), 1);
}
