//! The grid: every rate, round trip, loss and queue, one flow of ours.

use crate::sim::{Loss, MS, Net, OURS, S, run};

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

/// What decision 14 promises, on a part of the grid that takes seconds. Bursts may cost a little more than random loss.
#[test]
fn a_part_keeps_what_is_promised() {
    let part = [(0.4, 60), (0.4, 250), (2.0, 60), (2.0, 250), (20.0, 2), (20.0, 60), (20.0, 250), (200.0, 60)];
    for (rate, rtt) in part {
        for loss in LOSSES {
            let (share, least) = match loss {
                Loss::Random(share) if share <= 0.05 => (share, 0.96),
                Loss::Random(share) if share <= 0.2 => (share, 0.9),
                Loss::Random(share) => (share, 0.6),
                Loss::Bursts(share, _) => (share, 0.92),
            };
            let out = run(&Net::new(rate, rtt, loss, 1.0), &[OURS], 30 * S);
            let filled = out.share(0, (20 * rtt * MS).max(2 * S), 30 * S) / (1.0 - share);
            assert!(filled >= least, "{rate} Mbit/s, {rtt} ms, {loss:?}: {filled:.3} of what can be");
            let drops = out.drop_share();
            assert!(
                drops <= 0.02 || share > 0.2 || rate < 1.0,
                "{rate} Mbit/s, {rtt} ms, {loss:?}: {drops:.3} dropped"
            );
        }
    }
}

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
                    let carried = out.share(0, settled, for_ns);
                    assert!(carried > 0.0, "{rate} Mbit/s, {rtt} ms, {loss:?}: nothing passes");
                    line += &format!(
                        " {:.2} {:.2} {:>5.1} {:.1} |",
                        carried / (1.0 - share),
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
