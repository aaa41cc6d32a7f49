//! P2: how long a flash document of 4 KiB takes from `send` to the news of `arrived` while bulk fills the line, against
//! the same on an idle line. Open loop through the client library: a document is due each 60 ms whatever became of the
//! one before. Over one hop, over three, and over one whose disk takes 10 ms for each sync.
//!
//! The plain transports do it without a disk: a message of 4 KiB, echoed by a byte, beside one bulk stream.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tram_lab::model::{Profile, Rate};
use tram_lab::{Both, End, Lab, Machine};
use tram_proto::envelope::Precedence;

use crate::blast::{Blast, Ends, PORT, Transport, URGENT_BYTES, Urgent};
use crate::nodes::{Nodes, Odd, Shape};
use crate::report::{Section, distribution, percentile, plot};
use crate::wan::{Chosen, MS};

const RATE: u64 = 20_000_000;
const RTT_MS: u64 = 60;
const QUEUE_MS: u64 = 200;
const EVERY: Duration = Duration::from_millis(60);
const SAMPLES: usize = 500;
const IDLE_SAMPLES: usize = 110;
/// Bulk alone, until it fills the line.
const RAMP: Duration = Duration::from_secs(4);
/// After the last: what has not arrived by then is counted as missing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a sync takes with a slow disk, in microseconds.
const SLOW_SYNC_US: u64 = 10_000;

const SLOW_DISK: &str = include_str!("slow_disk.c");

/// A library that makes every sync slow, and the environment that has it loaded.
pub(crate) fn slow_disk(folder: &std::path::Path) -> Result<Odd, String> {
    let (source, library) = (folder.join("slow_disk.c"), folder.join("slow_disk.so"));
    std::fs::write(&source, SLOW_DISK).map_err(|error| error.to_string())?;
    let mut cc = Command::new("cc");
    crate::peers::run(cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl"))?;
    let environment = vec![
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        ("SLOW_SYNC_US".to_owned(), SLOW_SYNC_US.to_string()),
    ];
    Ok(Odd { environment, config: String::new() })
}

struct Measured {
    idle: Vec<f64>,
    loaded: Vec<f64>,
    missing: usize,
    /// Of the line, for everything but the small messages, while these were sent.
    bulk: f64,
    machine_idle: f64,
}

fn line() -> Both {
    Both::alike(Profile::new(Rate::Fixed(RATE), RTT_MS / 2 * MS, QUEUE_MS * MS))
}

fn ours(shape: Shape, samples: usize, odd: &Odd) -> Result<Measured, String> {
    let (hops, near, to) = if shape == Shape::One { (1, "CT", "central") } else { (3, "NK", "an-giang") };
    let lab = Lab::chain(&vec![line(); hops], 1)?;
    let nodes = Nodes::start(shape, Some(&lab), odd);
    let to = format!("vanban@{to}");
    let flash = |samples: usize| -> Result<(Vec<f64>, usize), String> {
        let application = nodes.application(near);
        let began = Instant::now();
        for number in 0..samples as u32 {
            application.send(&to, Precedence::Flash, URGENT_BYTES as u64, began + EVERY * number);
        }
        let paced = EVERY * samples as u32;
        thread::sleep(paced);
        while application.arrivals().len() < samples && began.elapsed() < paced + PATIENCE {
            thread::sleep(Duration::from_millis(50));
        }
        application.failures().iter().for_each(|failure| eprintln!("Tram: {failure}"));
        let took: Vec<f64> = application.arrivals().iter().map(|(_, arrived)| arrived.as_secs_f64() * 1e3).collect();
        Ok((took.clone(), samples - took.len()))
    };
    let _ = flash(5)?;
    let (idle, _) = flash(IDLE_SAMPLES)?;
    let bulk = nodes.application(near);
    let worth = RAMP + EVERY * samples as u32 + PATIENCE * 2;
    bulk.send(&to, Precedence::Bulk, (RATE as f64 / 8.0 * worth.as_secs_f64()) as u64, Instant::now());
    thread::sleep(RAMP);
    let last = lab.line(hops - 1);
    let (machine, before, from) = (Machine::now(), last.counts(End::Left), Instant::now());
    // Measured until the last is due; what comes later is read from the same run.
    let share = thread::scope(|scope| {
        let share = scope.spawn(|| {
            thread::sleep(EVERY * samples as u32);
            let bits = last.counts(End::Left).since(before).delivered_bytes as f64 * 8.0;
            bits / from.elapsed().as_secs_f64() / RATE as f64
        });
        let loaded = flash(samples);
        (loaded, share.join().unwrap_or(f64::NAN))
    });
    let ((loaded, missing), all) = (share.0?, share.1);
    Ok(Measured { idle, loaded, missing, bulk: all - small_share(), machine_idle: machine.idle_since() })
}

/// What the small messages take of the line.
fn small_share() -> f64 {
    URGENT_BYTES as f64 * 8.0 / EVERY.as_secs_f64() / RATE as f64
}

fn plain(transport: Transport, samples: usize) -> Result<Measured, String> {
    let once = |bytes: u64, samples: usize| -> Result<(Vec<f64>, f64), String> {
        let lab = Lab::chain(&[line()], 1)?;
        let urgent = Urgent { every: EVERY, count: samples, after: RAMP };
        let blast = Blast::start(transport, Ends::of(&lab, PORT), End::Left, bytes, Some(urgent))?;
        thread::sleep(RAMP);
        let (before, from) = (lab.line(0).counts(End::Left), Instant::now());
        thread::sleep(EVERY * samples as u32);
        let bits = lab.line(0).counts(End::Left).since(before).delivered_bytes as f64 * 8.0;
        let share = bits / from.elapsed().as_secs_f64() / RATE as f64;
        while blast.echoes().len() < samples && from.elapsed() < EVERY * samples as u32 + PATIENCE {
            thread::sleep(Duration::from_millis(50));
        }
        Ok((blast.echoes(), share))
    };
    let machine = Machine::now();
    // A first byte makes the stream known; then it is idle.
    let (idle, _) = once(1, IDLE_SAMPLES)?;
    let (loaded, all) = once(u64::MAX, samples)?;
    let missing = samples - loaded.len();
    Ok(Measured { idle, loaded, missing, bulk: all - small_share(), machine_idle: machine.idle_since() })
}

fn nats(samples: usize) -> Result<Measured, String> {
    let machine = Machine::now();
    let once =
        |bulk_bytes, samples| crate::nats::urgent(line(), bulk_bytes, URGENT_BYTES, EVERY, samples, RAMP, PATIENCE);
    let (idle, _) = once(0, IDLE_SAMPLES)?;
    let worth = RAMP + EVERY * samples as u32 + PATIENCE * 2;
    let (loaded, all) = once((RATE as f64 / 8.0 * worth.as_secs_f64()) as u64, samples)?;
    let missing = samples - loaded.len();
    Ok(Measured { idle, loaded, missing, bulk: all - small_share(), machine_idle: machine.idle_since() })
}

pub(crate) fn p2(chosen: &Chosen) -> Result<(), String> {
    let title = format!(
        "P2: flash of 4 KiB beside bulk, {} Mbit/s, {RTT_MS} ms, {QUEUE_MS} ms of queue; target p99 ÷ idle p50 ≤ 1.25, bulk ≥ 0.85",
        RATE / 1_000_000
    );
    let columns = [
        "system",
        "idle p50",
        "idle p99",
        "p50",
        "p99",
        "p99 ÷ idle p50",
        "bulk ÷ line",
        "n (missing)",
        "machine idle",
    ];
    let mut section = Section::new("p2", &title, &columns);
    let samples = chosen.seconds.map_or(SAMPLES, |seconds| (seconds / EVERY.as_secs_f64()) as usize);
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let plain_nodes = Odd::default();
    let slow = slow_disk(folder.path());
    let mut plots = Vec::new();
    let mut take = |name: &str, measured: Result<Measured, String>| match measured {
        Ok(measured) => {
            let ms = |values: &[f64], percent: f64| percentile(values.to_vec(), percent);
            let ratio = ms(&measured.loaded, 99.0) / ms(&measured.idle, 50.0);
            section.row(&[
                name.to_owned(),
                format!("{:.1} ms", ms(&measured.idle, 50.0)),
                format!("{:.1} ms", ms(&measured.idle, 99.0)),
                format!("{:.1} ms", ms(&measured.loaded, 50.0)),
                format!("{:.1} ms", ms(&measured.loaded, 99.0)),
                format!("{ratio:.2}"),
                format!("{:.3}", measured.bulk),
                format!("{} ({})", measured.loaded.len(), measured.missing),
                format!("{:.0} %", measured.machine_idle * 100.0),
            ]);
            plots.push(distribution(&name.replace('*', ""), &measured.loaded));
        }
        Err(error) => section.row(&[name.to_owned(), format!("not measured: {error}")]),
    };
    let wanted = |name: &str| chosen.only.is_empty() || chosen.only.iter().any(|only| only == name);
    if wanted("one") {
        take("**Tram**, one hop", ours(Shape::One, samples, &plain_nodes));
    }
    if wanted("three") {
        take("**Tram**, three hops", ours(Shape::Three, samples, &plain_nodes));
    }
    if wanted("slow-disk") {
        take("**Tram**, one hop, a sync takes 10 ms", slow.and_then(|slow| ours(Shape::One, samples, &slow)));
    }
    if !chosen.ours_only && wanted("plain") {
        for transport in [Transport::TcpBbr, Transport::TcpCubic, Transport::QuinnBbr, Transport::QuinnCubic] {
            let how = if transport.name().starts_with("TCP") { "two connections" } else { "a stream with priority" };
            take(&format!("{}, {how}", transport.name()), plain(transport, samples));
        }
    }
    if !chosen.ours_only && wanted("nats") {
        take("NATS, a leaf node's stream and a message", nats(samples));
    }
    plot("p2", "flash beside bulk: so many percent took at most so long", "percent", "ms", &plots);
    Ok(())
}

/// What the check allows: far above the targets, far below what a line without precedence does to flash (3 and more).
const CHECKED_RATIO: f64 = 2.0;
const CHECKED_BULK: f64 = 0.6;
const CHECKED_SAMPLES: usize = 150;

/// One hop, short, for `scripts/check full`. The 95th percentile: too few samples for a 99th.
pub(crate) fn check() -> Result<(), String> {
    let measured = ours(Shape::One, CHECKED_SAMPLES, &Odd::default())?;
    let (idle, loaded) = (percentile(measured.idle, 50.0), percentile(measured.loaded, 95.0));
    let found = format!(
        "flash beside bulk: {} of {CHECKED_SAMPLES} arrived, p95 {loaded:.0} ms beside {idle:.0} ms idle, bulk {:.2} of the line, machine {:.0} % idle",
        CHECKED_SAMPLES - measured.missing,
        measured.bulk,
        measured.machine_idle * 100.0
    );
    println!("{found}");
    let good = measured.missing == 0 && loaded / idle <= CHECKED_RATIO && measured.bulk >= CHECKED_BULK;
    let wanted = format!("all within {CHECKED_RATIO} times idle, bulk at least {CHECKED_BULK}, were expected");
    if good { Ok(()) } else { Err(format!("{wanted}; {found}")) }
}
