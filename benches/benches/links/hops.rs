//! P3, P5 and P9: documents over several hops.
//!
//! P3 is one document of 64 MiB over three equal lines beside one such line: hops are worth nothing when a node sends on
//! what it has of a document. P5 is 1 GiB over two hops of this machine's loopback, from `tram send` until `tram recv`
//! has synced the file, every node durable. P9 is the relay's CPU in that run beside a program that receives and sends
//! as much by plain quinn.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tram_benches::cpu_seconds;
use tram_lab::{Both, End, Lab, Machine};
use tram_proto::envelope::Precedence;
use tram_tests::overlay::Ran;

use crate::blast::{Blast, Ends, Transport};
use crate::nodes::{Nodes, Odd, Shape};
use crate::peers;
use crate::report::{Section, median};
use crate::wan::{Chosen, line};

const P3_BYTES: u64 = 64 << 20;
const P3_MBIT: f64 = 100.0;
const P3_RTT_MS: u64 = 20;
const GIB: u64 = 1 << 30;
const ROUNDS: usize = 5;
const LOOK: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn p3(chosen: &Chosen) -> Result<(), String> {
    let title = format!("P3: 64 MiB over three lines of {P3_MBIT} Mbit/s, {P3_RTT_MS} ms, beside one; target 0.95");
    let mut section =
        Section::new("p3", &title, &["system", "one hop", "three hops", "one ÷ three", "n", "machine idle"]);
    let machine = Machine::now();
    let rounds = chosen.rounds.unwrap_or(ROUNDS);
    let once = |shape: Shape| -> Result<f64, String> {
        let (hops, near, to) =
            if shape == Shape::One { (1, "CT", "vanban@central") } else { (3, "NK", "vanban@an-giang") };
        let lab = Lab::chain(&vec![Both::alike(line(P3_MBIT, P3_RTT_MS, 0.0)); hops], 1)?;
        let nodes = Nodes::start(shape, Some(&lab), &Odd::default());
        let application = nodes.application(near);
        application.send(to, Precedence::Routine, P3_BYTES, Instant::now());
        let began = Instant::now();
        loop {
            if let Some((_, arrived)) = application.arrivals().first() {
                return Ok(arrived.as_secs_f64());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("not arrived: {:?}", application.failures()));
            }
            thread::sleep(LOOK);
        }
    };
    let pairs =
        (0..rounds).map(|_| Ok((once(Shape::One)?, once(Shape::Three)?))).collect::<Result<Vec<_>, String>>()?;
    let (one, three) = (median(pairs.iter().map(|p| p.0).collect()), median(pairs.iter().map(|p| p.1).collect()));
    section.row(&[
        "**Tram**".to_owned(),
        format!("{one:.2} s"),
        format!("{three:.2} s"),
        format!("{:.3}", median(pairs.iter().map(|p| p.0 / p.1).collect())),
        rounds.to_string(),
        format!("{:.0} %", machine.idle_since() * 100.0),
    ]);
    let least = P3_BYTES as f64 * 8.0 / (P3_MBIT * 1e6);
    section.row(&[
        "whole objects stored, then forwarded (by arithmetic)".to_owned(),
        format!("{least:.2} s"),
        format!("{:.2} s", least * 3.0),
        "0.333".to_owned(),
        String::new(),
        String::new(),
    ]);
    Ok(())
}

struct Passed {
    seconds: f64,
    /// Of the node in the middle.
    relay_cpu: f64,
}

/// 1 GiB from a file to a file, by the command line, over loopback.
fn ours(shape: Shape, source: &Path) -> Result<Passed, String> {
    let nodes = Nodes::start(shape, None, &Odd::default());
    let overlay = &nodes.overlay;
    let near = if shape == Shape::Two { "NK" } else { "CT" };
    let out = overlay.path("out");
    let mut recv = overlay.tram_command("C");
    recv.args(["recv", "--inbox", "vanban", "--count", "1", "--timeout", "300s", "--out"]).arg(&out);
    let mut recv = peers::Running::start(&mut recv)?;
    let cpu = cpu_seconds(overlay.pid("CT"));
    let began = Instant::now();
    let sent: Ran = overlay.send(near, "vanban@central", source, &[]);
    if sent.code != 0 {
        return Err(format!("{sent:?}"));
    }
    while !recv.has_ended() {
        if began.elapsed() > PATIENCE {
            return Err("tram recv did not end".to_owned());
        }
        thread::sleep(LOOK);
    }
    let seconds = began.elapsed().as_secs_f64();
    let there = std::fs::metadata(out.join("document")).map_or(0, |file| file.len());
    if there != GIB {
        return Err(format!("{there} bytes arrived"));
    }
    Ok(Passed { seconds, relay_cpu: cpu_seconds(overlay.pid("CT")) - cpu })
}

/// One hop of plain quinn, both ends in this process; prints seconds.
pub(crate) fn quinn_both() -> Result<(), String> {
    let began = Instant::now();
    let blast = Blast::start(Transport::QuinnCubic, Ends::loopback(), End::Left, GIB, None)?;
    while blast.received() < GIB {
        if began.elapsed() > PATIENCE {
            return Err("plain quinn did not end".to_owned());
        }
        thread::sleep(LOOK);
    }
    println!("{} {}", began.elapsed().as_secs_f64(), cpu_seconds(std::process::id()));
    Ok(())
}

/// Seconds and CPU seconds of one hop of plain quinn, in a process of its own.
fn quinn() -> Result<(f64, f64), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let said = Ran::of(Command::new(program).arg("quinn-both"));
    let mut numbers = said.out.split_whitespace().filter_map(|number| number.parse::<f64>().ok());
    numbers.next().zip(numbers.next()).ok_or_else(|| format!("{said:?}"))
}

pub(crate) fn p5(chosen: &Chosen) -> Result<(), String> {
    let rounds = chosen.rounds.unwrap_or(ROUNDS);
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let source = folder.path().join("document");
    let machine = Machine::now();
    let (mut two, mut one, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        peers::file(&source, GIB)?;
        two.push(ours(Shape::Two, &source)?);
        one.push(ours(Shape::One, &source)?);
        plain.push(quinn()?);
    }
    let seconds = |passed: &[Passed]| median(passed.iter().map(|p| p.seconds).collect());
    let (took, hop, quinn_s) = (seconds(&two), seconds(&one), median(plain.iter().map(|p| p.0).collect()));
    let title =
        "P5: 1 GiB A → B → C on loopback, durable at each, file to synced file; target ≤ 6 s, one hop ≥ 0.5 of quinn";
    let mut section = Section::new("p5", title, &["system", "two hops", "it ÷ Tram", "one hop", "n"]);
    let mut row = |name: &str, two: Result<f64, String>, one: Option<f64>, n: usize| {
        let figure = |s: f64| format!("{s:.2} s");
        let (two, ratio) = two.map_or_else(
            |e| (format!("not measured: {e}"), String::new()),
            |s| (figure(s), format!("{:.2}", s / took)),
        );
        section.row(&[name.to_owned(), two, ratio, one.map(figure).unwrap_or_default(), n.to_string()]);
    };
    row("**Tram**", Ok(took), Some(hop), rounds);
    row("plain quinn, one hop, nothing stored", Err("it has no hops".to_owned()), Some(quinn_s), rounds);
    if !chosen.ours_only {
        let several = |once: &dyn Fn(&Path) -> Result<f64, String>| -> Result<f64, String> {
            Ok(median((0..rounds.min(3)).map(|_| once(&source)).collect::<Result<Vec<_>, _>>()?))
        };
        row("rsync over ssh, -W --fsync, hop after hop", several(&rsync), None, rounds.min(3));
        row(
            "NATS, streams taken from leaf nodes, no fsync",
            several(&|_| crate::nats::two_hops(GIB)),
            None,
            rounds.min(3),
        );
        row("NNCP", several(&crate::stores::nncp), None, rounds.min(3));
        row("Syncthing", several(&crate::stores::syncthing), None, rounds.min(3));
    }
    section.say(&format!(
        "\nOne hop: {:.2} of plain quinn's {:.2} Gbit/s. Machine idle {:.0} %.",
        quinn_s / hop,
        GIB as f64 * 8e-9 / quinn_s,
        machine.idle_since() * 100.0
    ));
    let per_gb = |cpu: f64| cpu / (GIB as f64 / 1e9);
    let relay = median(two.iter().map(|p| per_gb(p.relay_cpu)).collect());
    let both = median(plain.iter().map(|p| per_gb(p.1)).collect());
    let title = "P9: CPU seconds for each GB relayed; target ≤ 1.5 of plain quinn";
    let mut section = Section::new("p9", title, &["system", "CPU s/GB", "÷ quinn", "n"]);
    section.row(&[
        "**Tram**'s relay, durable".to_owned(),
        format!("{relay:.2}"),
        format!("{:.2}", relay / both),
        rounds.to_string(),
    ]);
    section.row(&[
        "plain quinn, receive and send".to_owned(),
        format!("{both:.2}"),
        "1".to_owned(),
        rounds.to_string(),
    ]);
    Ok(())
}

fn rsync(source: &Path) -> Result<f64, String> {
    let at = std::net::Ipv4Addr::LOCALHOST;
    let ssh = peers::Ssh::start(None, at)?;
    ssh.await_up(None, at)?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (b, c) = (folder.path().join("b"), folder.path().join("c"));
    for path in [&b, &c] {
        std::fs::create_dir(path).map_err(|error| error.to_string())?;
    }
    let began = Instant::now();
    peers::run(&mut ssh.rsync(None, source, at, &b))?;
    peers::run(&mut ssh.rsync(None, &b.join("document"), at, &c))?;
    Ok(began.elapsed().as_secs_f64())
}
