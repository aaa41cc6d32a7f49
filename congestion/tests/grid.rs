//! The grid: every rate, round trip, loss and queue, one flow of ours.

mod sim;

use sim::{Loss, MS, Net, OURS, S, run};

const RATES: [f64; 5] = [0.4, 2.0, 20.0, 200.0, 1000.0];
const TRIPS_MS: [u64; 4] = [2, 60, 250, 600];
const QUEUES: [f64; 3] = [0.25, 1.0, 4.0];
const LOSSES: [Loss; 7] = [
    Loss::Random(0.0),
    Loss::Random(0.01),
    Loss::Random(0.02),
    Loss::Random(0.05),
    Loss::Random(0.2),
    Loss::Random(0.5),
    Loss::Bursts(0.02, 8.0),
];

#[test]
#[ignore = "prints the whole grid in several minutes"]
fn whole() {
    let only: Option<f64> = std::env::var("RATE").ok().and_then(|text| text.parse().ok());
    println!("rate rtt queue | util/(1-p) settled, whole; p95 wait ms; drops %, for each loss");
    for rate in RATES.into_iter().filter(|rate| only.is_none_or(|only| only == *rate)) {
        for rtt in TRIPS_MS {
            for queue in QUEUES {
                let mut line = format!("{rate:>6} {rtt:>4} {queue:>5} |");
                for loss in LOSSES {
                    let share = match loss {
                        Loss::Random(share) | Loss::Bursts(share, _) => share,
                    };
                    let for_ns = if rate > 500.0 { 20 * S } else { 60 * S };
                    let settled = (20 * rtt * MS).max(2 * S);
                    let out = run(&Net::new(rate, rtt, loss, queue), &[OURS], for_ns);
                    line += &format!(
                        " {:.2} {:.2} {:>5.1} {:.1} |",
                        out.share(0, settled, for_ns) / (1.0 - share),
                        out.share(0, 0, for_ns) / (1.0 - share),
                        out.p95_wait_ms(S),
                        100.0 * out.drop_share()
                    );
                }
                println!("{line}");
            }
        }
    }
}
