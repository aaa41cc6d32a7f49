//! What lines do beside losing a packet now and then: others share them, they stall, they lose every second packet, they
//! are narrower than they look, they are declared wrongly.

use std::thread;
use std::time::{Duration, Instant};

use tram_lab::model::{Loss, Profile, Rate};
use tram_lab::{Both, End, Lab, Machine};
use tram_proto::envelope::Precedence;

use crate::blast::{Blast, Ends, PORT, Transport};
use crate::nodes::{Nodes, Odd, Shape};
use crate::report::{Section, median, plot};
use crate::wan::{Chosen, MS, System, Wan, cells, line, once, several};

const MBIT: u64 = 20;
const RTT_MS: u64 = 50;
const FAIR: Duration = Duration::from_secs(45);
/// Of ours: who began when decides much of it.
const FAIR_ROUNDS: usize = 3;
/// Until then they find their places.
const START: Duration = Duration::from_secs(15);
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Below this a flow is some acknowledgements.
const FLOW_BYTES: u64 = 10_000;

/// Two flows over one line, with one bandwidth-delay product of queue.
pub(crate) fn fair(chosen: &Chosen) -> Result<(), String> {
    let title = format!("Fairness: {MBIT} Mbit/s, {RTT_MS} ms, one BDP of queue, after {} s", START.as_secs());
    let columns = ["flows", "shares, median", "the first: least – most", "target", "both ÷ line", "n", "machine idle"];
    let mut section = Section::new("fair", &title, &columns);
    let rounds = chosen.rounds.unwrap_or(FAIR_ROUNDS);
    let cubic =
        |lab: &Lab, port: u16| Blast::start(Transport::TcpCubic, Ends::of(lab, port), End::Left, u64::MAX, None);
    let blast = |lab: &Lab, transport, port| Blast::start(transport, Ends::of(lab, port), End::Left, u64::MAX, None);
    shared(&mut section, "**Tram** and TCP Cubic", "each ≥ 0.35", rounds, |lab| {
        Ok((tram(lab, Shape::One), cubic(lab, PORT)?))
    })?;
    shared(&mut section, "**Tram** and **Tram**", "60:40", rounds, |lab| Ok(tram(lab, Shape::Pair)))?;
    if !chosen.ours_only {
        shared(&mut section, "TCP BBR and TCP Cubic", "", 1, |lab| {
            Ok((blast(lab, Transport::TcpBbr, PORT)?, cubic(lab, PORT + 1)?))
        })?;
        shared(&mut section, "quinn, BBR, and TCP Cubic", "", 1, |lab| {
            Ok((blast(lab, Transport::QuinnBbr, PORT)?, cubic(lab, PORT)?))
        })?;
    }
    Ok(())
}

/// Children that send bulk for longer than anybody looks.
fn tram(lab: &Lab, shape: Shape) -> (Vec<crate::nodes::Application>, Nodes) {
    let nodes = Nodes::start(shape, Some(lab), &Odd::default());
    let children: &[&str] = if shape == Shape::Pair { &["CT", "AG"] } else { &["CT"] };
    let bytes = MBIT * 1_000_000 / 8 * FAIR.as_secs() * 2;
    let send = |node: &&str| {
        let application = nodes.application(node);
        application.send("vanban@central", Precedence::Bulk, bytes, Instant::now());
        application
    };
    (children.iter().map(send).collect(), nodes)
}

/// What two flows got in one run.
struct Shared {
    /// Their protocols and parts of both, UDP first.
    shares: Vec<(&'static str, f64)>,
    filled: f64,
    idle: f64,
}

fn shared<T>(
    section: &mut Section,
    name: &str,
    target: &str,
    rounds: usize,
    start: impl Fn(&Lab) -> Result<T, String>,
) -> Result<(), String> {
    let runs = (0..rounds as u64).map(|round| shared_once(round + 1, &start)).collect::<Result<Vec<_>, _>>()?;
    let all = |pick: fn(&Shared) -> f64| runs.iter().map(pick).collect::<Vec<f64>>();
    let first = all(|run| run.shares.first().map_or(0.0, |(_, share)| *share));
    let median_of = |nth: usize| median(runs.iter().filter_map(|run| Some(run.shares.get(nth)?.1)).collect());
    let names = runs.first().map(|run| run.shares.clone()).unwrap_or_default();
    let shares = names.iter().enumerate().map(|(nth, (name, _))| format!("{name} {:.2}", median_of(nth)));
    let (least, most) = first.iter().fold((f64::INFINITY, 0.0_f64), |(l, m), share| (l.min(*share), m.max(*share)));
    section.row(&[
        name.to_owned(),
        shares.collect::<Vec<_>>().join(", "),
        format!("{least:.2} – {most:.2}"),
        target.to_owned(),
        format!("{:.3}", median(all(|run| run.filled))),
        rounds.to_string(),
        format!("{:.0} %", median(all(|run| run.idle)) * 100.0),
    ]);
    Ok(())
}

fn shared_once<T>(seed: u64, start: &impl Fn(&Lab) -> Result<T, String>) -> Result<Shared, String> {
    let profile = Profile::new(Rate::Fixed(MBIT * 1_000_000), RTT_MS / 2 * MS, RTT_MS * MS);
    let lab = Lab::chain(&[Both::alike(profile)], seed)?;
    let flows = start(&lab)?;
    let machine = Machine::now();
    thread::sleep(START);
    let before = lab.line(0).flows(End::Left);
    thread::sleep(FAIR - START);
    let after = lab.line(0).flows(End::Left);
    let idle = machine.idle_since();
    drop(flows);
    let since = |flow, bytes: u64| bytes - before.get(flow).copied().unwrap_or(0);
    let mut carried: Vec<(u8, u64)> = after.iter().map(|(flow, bytes)| (flow.0, since(flow, *bytes))).collect();
    carried.retain(|(_, bytes)| *bytes > FLOW_BYTES);
    carried.sort_unstable();
    carried.reverse();
    let all: u64 = carried.iter().map(|(_, bytes)| bytes).sum();
    let name = |protocol| match protocol {
        TCP => "TCP",
        UDP => "UDP",
        _ => "other",
    };
    let shares = carried.iter().map(|(protocol, bytes)| (name(*protocol), *bytes as f64 / all.max(1) as f64)).collect();
    let line_bytes = (MBIT * 1_000_000 / 8) as f64 * (FAIR - START).as_secs_f64();
    Ok(Shared { shares, filled: all as f64 / line_bytes, idle })
}

/// A rate declared ten times too high for a line of 20 Mbit/s.
const DECLARED: &str = "\n[[plan.line]]\nlink = \"uplink\"\nrate = \"200mbit\"\n";

/// Lines that are worse than bad.
pub(crate) fn rough(chosen: &Chosen) -> Result<(), String> {
    let base = line(MBIT as f64, 40, 0.0);
    let wan = |name, title, profile: Profile| Wan {
        name,
        title,
        both: Both::alike(profile),
        from: End::Left,
        target: 0.0,
        seconds: chosen.seconds.unwrap_or(15.0),
        rounds: chosen.rounds.unwrap_or(1),
        moves: false,
        stall: None,
    };
    let lines = [
        wan("loss-20", "20 % of loss", Profile { loss: Loss::Random(0.2), ..base }),
        wan("loss-50", "50 % of loss", Profile { loss: Loss::Random(0.5), ..base }),
        wan(
            "bursts",
            "2 % of loss in bursts of 8",
            Profile { loss: Loss::Bursts { share: 0.02, length: 8.0 }, ..base },
        ),
        wan("mtu-1280", "path MTU 1280, longer packets vanish", Profile { mtu: 1280, ..base }),
        wan("declared", "declared ten times too fast", base),
    ];
    let columns = [
        "line",
        "payload ÷ line",
        "packets ÷ line",
        "least – most",
        "",
        "ping idle p50, p95",
        "ping loaded p95",
        "queue drops",
        "n (void)",
        "machine idle, packets late",
    ];
    let mut section = Section::new("rough", "Tram on rough lines: 20 Mbit/s, 40 ms, and", &columns);
    let wanted = |name: &str| chosen.only.is_empty() || chosen.only.iter().any(|only| only == name);
    for wan in lines.iter().filter(|wan| wanted(wan.name)) {
        let config = if wan.name == "declared" { DECLARED } else { "" };
        let odd = Odd { config: config.to_owned(), ..Odd::default() };
        match several(System::Tram, wan, wan.rounds, &odd) {
            Ok(runs) => {
                let mut cells = cells(System::Tram, &runs, f64::NAN);
                wan.title.clone_into(&mut cells[0]);
                cells[4].clear();
                section.row(&cells);
            }
            Err(error) => section.row(&[wan.title.to_owned(), format!("not measured: {error}")]),
        }
    }
    if wanted("stall") {
        stall(
            &mut section,
            &Wan { seconds: 30.0, stall: Some((8.0, 20.0)), ..wan("stall", "20 s without a packet", base) },
        )?;
    }
    Ok(())
}

/// After a stall: seconds until the line is as full again as it was before.
fn stall(section: &mut Section, wan: &Wan) -> Result<(), String> {
    let run = once(System::Tram, wan, 1, &Odd::default())?;
    let (after, length) = wan.stall.unwrap_or_default();
    let rate = |from: f64, to: f64| {
        let values: Vec<f64> =
            run.series.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, mbit)| *mbit).collect();
        crate::report::median(values)
    };
    let (full, healed) = (rate(2.0, after), after + length);
    let again = run.series.iter().find(|(at, mbit)| *at >= healed && *mbit >= full * 0.9).map(|(at, _)| at - healed);
    let again = again.map_or("never".to_owned(), |seconds| format!("within {:.0} s", seconds + 1.0));
    section.say(&format!(
        "\nA stall of {length:.0} s: {full:.1} Mbit/s before it, as much again {again} (target 5 s); {}.",
        if run.ended { "the document arrived" } else { "the document had not arrived when the run was cut off" }
    ));
    plot("stall", wan.title, "seconds", "Mbit/s of IP packets", &[("Tram".to_owned(), run.series.clone())]);
    Ok(())
}
