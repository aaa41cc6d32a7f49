//! P1: one large document over one bad line, cold, beside the plain transports over the very same line.
//!
//! The figure is payload divided by what the line could have carried from `send` to the news of `arrived`; of a plain
//! transport, from dialling to the last byte read. Small datagrams are echoed beside it. What does not end in time is
//! judged by what had come by then.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use tram_lab::model::{Counts, Loss, Profile, Rate};
use tram_lab::{Both, End, IDLE_LEAST, Lab, Machine};
use tram_proto::envelope::Precedence;

use crate::blast::{Blast, Ends, PORT, Transport};
use crate::nodes::{Application, Nodes, Odd, Shape};
use crate::peers::Rsync;
use crate::ping::{Ping, Trips};
use crate::report::{Section, Series, median, percentile, plot};

/// Echoes before the load.
const IDLE: Duration = Duration::from_secs(2);
/// The first second of the load is the start's.
const START: f64 = 1.0;
/// A transfer gets so many times the time that the line needs.
const PATIENCE: f64 = 1.6;
const LOOK: Duration = Duration::from_millis(5);
/// Payload in a packet of ours, for what is judged by the line because it did not end.
const PAYLOAD_SHARE: f64 = 0.93;
/// A mobile network gives another address so often.
const MOVES: Duration = Duration::from_secs(60);

pub(crate) const MS: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Wan {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) both: Both,
    /// Where the payload enters.
    pub(crate) from: End,
    pub(crate) target: f64,
    /// Worth of payload.
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    pub(crate) moves: bool,
    /// The line is cut so long after the beginning, for so long, in seconds.
    pub(crate) stall: Option<(f64, f64)>,
}

/// A line with half the round trip each way and 100 ms of queue.
pub(crate) fn line(mbit: f64, rtt_ms: u64, loss: f64) -> Profile {
    let clean = Profile::new(Rate::Fixed((mbit * 1e6) as u64), rtt_ms / 2 * MS, 100 * MS);
    Profile { loss: Loss::Random(loss), ..clean }
}

pub(crate) fn lines() -> Vec<Wan> {
    let plain = |name, title, mbit, rtt_ms, loss, target, seconds, rounds| {
        let both = Both::alike(line(mbit, rtt_ms, loss));
        Wan { name, title, both, from: End::Left, target, seconds, rounds, moves: false, stall: None }
    };
    let mobile = |mbit: u64| Profile {
        rate: Rate::Varying { mean: mbit * 1_000_000, swing: 0.5 },
        ..line(mbit as f64, 120, 0.03)
    };
    vec![
        plain("200-100-1", "200 Mbit/s, 100 ms, 1 %", 200.0, 100, 0.01, 0.90, 25.0, 5),
        plain("200-250-2", "200 Mbit/s, 250 ms, 2 %", 200.0, 250, 0.02, 0.85, 25.0, 5),
        plain("20-40-0.5", "20 Mbit/s, 40 ms, 0.5 %", 20.0, 40, 0.005, 0.90, 20.0, 3),
        plain("2-40-0.5", "2 Mbit/s, 40 ms, 0.5 %", 2.0, 40, 0.005, 0.85, 20.0, 3),
        Wan {
            name: "4g",
            title: "4G: 5 Mbit/s down, 2 up, ±50 %, 120 ms, 3 %, an address change each minute; down",
            both: Both { there: mobile(2), back: mobile(5) },
            from: End::Right,
            target: 0.60,
            seconds: 70.0,
            rounds: 1,
            moves: true,
            stall: None,
        },
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Tram,
    Plain(Transport),
    Rsync,
}

impl System {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tram => "**Tram**",
            Self::Plain(transport) => transport.name(),
            Self::Rsync => "rsync over ssh, BBR",
        }
    }
}

pub(crate) struct Run {
    pub(crate) figure: f64,
    /// IP bytes that left the far end, also those sent again, divided by what the line could have carried.
    pub(crate) filled: f64,
    pub(crate) ended: bool,
    pub(crate) idle_ms: (f64, f64),
    pub(crate) loaded_p95_ms: f64,
    pub(crate) counts: Counts,
    pub(crate) machine_idle: f64,
    /// The part of all packets that the emulator forwarded too late.
    pub(crate) late: f64,
    /// Mbit/s of IP packets that left the far end, each second.
    pub(crate) series: Vec<(f64, f64)>,
}

impl Run {
    pub(crate) fn is_void(&self) -> bool {
        self.machine_idle < IDLE_LEAST
    }
}

enum Load {
    /// With the nodes, which run as long.
    Tram(Application, #[allow(dead_code, reason = "held")] Nodes),
    Blast(Blast),
    Rsync(Rsync),
}

impl Load {
    /// Payload that is where it should be.
    fn received(&mut self, bytes: u64) -> u64 {
        match self {
            Self::Tram(application, _) => bytes * application.arrivals().len() as u64,
            Self::Blast(blast) => blast.received(),
            Self::Rsync(rsync) => rsync.received(),
        }
    }
}

/// Measures one transfer over a lab of its own.
pub(crate) fn once(system: System, wan: &Wan, seed: u64, odd: &Odd) -> Result<Run, String> {
    // The link comes up on a line that loses nothing, so that 50 % of loss measures the transfer and not the dialling.
    let gentle = |profile: Profile| Profile { loss: Loss::Random(0.0), mtu: usize::MAX, ..profile };
    let lab = Lab::chain(&[Both { there: gentle(wan.both.there), back: gentle(wan.both.back) }], seed)?;
    let line = lab.line(0);
    let rate = if wan.from == End::Left { wan.both.there.rate } else { wan.both.back.rate };
    let bytes = (rate.mean() as f64 * wan.seconds / 8.0) as u64;
    let nodes = (system == System::Tram).then(|| Nodes::start(Shape::One, Some(&lab), odd));
    let (near, far) = if wan.from == End::Left { ("CT", "vanban@central") } else { ("C", "vanban@can-tho") };
    let application = nodes.as_ref().map(|nodes| nodes.application(near));
    let rsync = (system == System::Rsync).then(|| Rsync::prepare(&lab, wan.from, bytes)).transpose()?;
    let pace = if rate.mean() < 10_000_000 { 100 } else { 20 };
    let ping = Ping::start(&lab, wan.from, Duration::from_millis(pace))?;
    thread::sleep(IDLE);

    line.set(End::Left, |profile| *profile = wan.both.there);
    line.set(End::Right, |profile| *profile = wan.both.back);
    let (machine, before, began_ns) = (Machine::now(), line.counts(wan.from), line.now_ns());
    let (began, pinged) = (Instant::now(), ping.seconds());
    let mut load = match (system, application, nodes, rsync) {
        (_, Some(application), Some(nodes), _) => {
            application.send(far, Precedence::Bulk, bytes, began);
            Load::Tram(application, nodes)
        }
        (_, _, _, Some(mut rsync)) => {
            rsync.start()?;
            Load::Rsync(rsync)
        }
        (System::Plain(transport), ..) => {
            Load::Blast(Blast::start(transport, Ends::of(&lab, PORT), wan.from, bytes, None)?)
        }
        _ => return Err("no such system".to_owned()),
    };
    let stalled = wan.stall.map_or(0.0, |(_, length)| length);
    let deadline = began + Duration::from_secs_f64(wan.seconds * PATIENCE + stalled);
    let mut moved = 0;
    while load.received(bytes) < bytes && Instant::now() < deadline {
        thread::sleep(LOOK);
        if let Some((after, length)) = wan.stall {
            line.cut((after..after + length).contains(&began.elapsed().as_secs_f64()));
        }
        if wan.moves && began.elapsed() > MOVES * (moved + 1) {
            let address = |number: u32| Ipv4Addr::new(10, 77, 0, if number == 0 { 1 } else { 100 + number as u8 });
            lab.move_to(0, End::Left, address(moved), address(moved + 1))?;
            moved += 1;
        }
    }
    let (took, ended_ns) = (began.elapsed(), line.now_ns());
    let (machine_idle, counts) = (machine.idle_since(), line.counts(wan.from).since(before));
    let (received, timing) = (load.received(bytes), line.timing());
    if let Load::Tram(application, _) = &load {
        application.failures().iter().for_each(|failure| eprintln!("Tram: {failure}"));
    }
    drop(load);
    let trips = ping.stop();
    let ended = received >= bytes;
    let payload = match system {
        System::Tram if !ended => counts.delivered_bytes as f64 * PAYLOAD_SHARE,
        _ => received as f64,
    };
    let first = (began_ns / 1_000_000_000) as usize;
    let series = line.seconds(wan.from).into_iter().skip(first).take(took.as_secs() as usize + 1).enumerate();
    Ok(Run {
        figure: payload * 8.0 / rate.capacity_bits(began_ns, ended_ns),
        filled: counts.delivered_bytes as f64 * 8.0 / rate.capacity_bits(began_ns, ended_ns),
        ended,
        idle_ms: (of(&trips, 0.0, pinged, 50.0), of(&trips, 0.0, pinged, 95.0)),
        loaded_p95_ms: of(&trips, pinged + START, pinged + took.as_secs_f64(), 95.0),
        counts,
        machine_idle,
        late: timing.late as f64 / timing.packets.max(1) as f64,
        series: series.map(|(second, counts)| (second as f64, counts.delivered_bytes as f64 * 8e-6)).collect(),
    })
}

/// A percentile of the round trips that began in this time.
fn of(trips: &Trips, from: f64, to: f64, percent: f64) -> f64 {
    percentile(trips.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, ms)| *ms).collect(), percent)
}

/// What a run is told on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chosen {
    pub(crate) rounds: Option<usize>,
    pub(crate) seconds: Option<f64>,
    /// Names of lines, of systems; none: all.
    pub(crate) only: Vec<String>,
    pub(crate) ours_only: bool,
}

/// The baselines, each with its rounds, and the part of the time it gets: those that creep get less. On a mobile line
/// that is about its change of address there are the first two only.
const BASELINES: [(System, usize, f64); 5] = [
    (System::Plain(Transport::TcpBbr), 2, 1.0),
    (System::Plain(Transport::QuinnBbr), 1, 1.0),
    (System::Plain(Transport::QuinnCubic), 1, 0.4),
    (System::Plain(Transport::TcpCubic), 1, 0.4),
    (System::Rsync, 1, 0.5),
];

pub(crate) fn p1(chosen: &Chosen) -> Result<(), String> {
    for wan in lines().iter().filter(|wan| chosen.only.is_empty() || chosen.only.iter().any(|name| name == wan.name)) {
        let wan =
            Wan { rounds: chosen.rounds.unwrap_or(wan.rounds), seconds: chosen.seconds.unwrap_or(wan.seconds), ..*wan };
        row(&wan, chosen)?;
    }
    Ok(())
}

fn row(wan: &Wan, chosen: &Chosen) -> Result<(), String> {
    let title = format!("P1: {}, {:.0} s worth of bytes; target {:.2}", wan.title, wan.seconds, wan.target);
    let columns = [
        "system",
        "payload ÷ line",
        "packets ÷ line",
        "least – most",
        "Tram ÷ it",
        "ping idle p50, p95",
        "ping loaded p95",
        "queue drops",
        "n (void)",
        "machine idle, packets late",
    ];
    let mut section = Section::new(&format!("p1-{}", wan.name), &title, &columns);
    let mut plots: Vec<Series> = Vec::new();
    let mut ours = f64::NAN;
    let count = if chosen.ours_only {
        0
    } else if wan.moves {
        2
    } else {
        BASELINES.len()
    };
    let baselines = BASELINES[..count].iter();
    for (system, rounds, part) in [(System::Tram, wan.rounds, 1.0)].iter().chain(baselines) {
        let wan = Wan { seconds: wan.seconds * part, ..*wan };
        let rounds = (*rounds).min(wan.rounds);
        match several(*system, &wan, rounds, &Odd::default()) {
            Ok(runs) => {
                let figure = median(runs.iter().map(|run| run.figure).collect());
                if *system == System::Tram {
                    ours = figure;
                }
                section.row(&cells(*system, &runs, ours));
                let middle = runs.iter().find(|run| run.figure.total_cmp(&figure).is_eq()).unwrap_or(&runs[0]);
                plots.push((system.name().replace('*', ""), middle.series.clone()));
            }
            Err(error) => section.row(&[system.name().to_owned(), format!("not measured: {error}")]),
        }
    }
    plot(&format!("p1-{}", wan.name), wan.title, "seconds", "Mbit/s of IP packets", &plots);
    Ok(())
}

/// So many runs, each with other losses. A void one is repeated, once.
pub(crate) fn several(system: System, wan: &Wan, rounds: usize, odd: &Odd) -> Result<Vec<Run>, String> {
    let mut runs = Vec::new();
    for round in 0..rounds as u64 {
        let run = once(system, wan, round * 2 + 1, odd)?;
        let again = run.is_void().then(|| once(system, wan, round * 2 + 2, odd)).transpose()?;
        runs.push(again.filter(|again| again.machine_idle > run.machine_idle).unwrap_or(run));
    }
    Ok(runs)
}

pub(crate) fn cells(system: System, runs: &[Run], ours: f64) -> Vec<String> {
    let all = |pick: fn(&Run) -> f64| runs.iter().map(pick).collect::<Vec<f64>>();
    let figures = all(|run| run.figure);
    let figure = median(figures.clone());
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    let unended = if runs.iter().all(|run| run.ended) { "" } else { " (cut off)" };
    let void = runs.iter().filter(|run| run.is_void()).count();
    vec![
        system.name().to_owned(),
        format!("{figure:.3}{unended}"),
        format!("{:.3}", median(all(|run| run.filled))),
        format!("{least:.3} – {most:.3}"),
        format!("{:.2}", ours / figure),
        format!("{:.1}, {:.1} ms", median(all(|run| run.idle_ms.0)), median(all(|run| run.idle_ms.1))),
        format!("{:.1} ms", median(all(|run| run.loaded_p95_ms))),
        format!("{:.2} %", median(all(|run| run.counts.drop_share() * 100.0))),
        format!("{} ({void})", runs.len()),
        format!("{:.0} %, {:.1} %", median(all(|run| run.machine_idle * 100.0)), median(all(|run| run.late * 100.0))),
    ]
}

/// Below this share of the line the check fails: far under the target, so that a busy machine does not fail it.
const CHECKED_SHARE: f64 = 0.5;
const CHECKED_SECONDS: f64 = 10.0;

/// The first line once, for `scripts/check full`.
pub(crate) fn check() -> Result<(), String> {
    let wan = Wan { seconds: CHECKED_SECONDS, rounds: 1, ..lines()[0] };
    let run = several(System::Tram, &wan, 1, &Odd::default())?.remove(0);
    let found = format!(
        "{}: {:.3} of the line as payload, ping {:.0} ms beside {:.0}, {:.1} % dropped by the queue, machine {:.0} % idle",
        wan.title,
        run.figure,
        run.loaded_p95_ms,
        run.idle_ms.0,
        run.counts.drop_share() * 100.0,
        run.machine_idle * 100.0
    );
    println!("{found}");
    if run.figure >= CHECKED_SHARE { Ok(()) } else { Err(format!("at least {CHECKED_SHARE} was expected; {found}")) }
}
