//! The rows of the performance table that go over lines: each is one command, with its baselines in the same run.
//!
//! `scripts/bench ROW [OPTION]...`, as root for those that need a lab. This program is also the daemon, the command and
//! the plain transports that it measures.

mod blast;
mod bytes;
mod hops;
mod nats;
mod nodes;
mod peers;
mod ping;
mod report;
mod rough;
mod stores;
mod urgent;
mod wan;

use std::ffi::OsString;
use std::process::ExitCode;

use wan::Chosen;

const USAGE: &str = "usage: ROW [OPTION]...

  p1 [LINE]...   a large document over bad lines: 200-100-1, 200-250-2, 20-40-0.5, 2-40-0.5, 4g
  p2 [WHICH]...  flash beside bulk: one, three, slow-disk, plain, nats
  p3             three hops beside one
  p5             1 GiB over two hops on loopback; also P9, the relay's CPU
  fair           two flows on one line
  rough [LINE].. loss-20, loss-50, bursts, mtu-1280, declared, stall
  check          P1 and P2 short; fails when they are missed by far

  --rounds N     instead of each row's own
  --seconds S    worth of bytes, instead of each line's own
  --ours         without the baselines";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let code = match words.first().copied() {
        Some("tramd") => tramd::command::main(arguments),
        Some("tram") => tram::run(arguments),
        _ => rows(&words),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn rows(words: &[&str]) -> i32 {
    let result = chosen(words).and_then(|(row, chosen)| match row {
        "p1" => wan::p1(&chosen),
        "p2" => urgent::p2(&chosen),
        "p3" => hops::p3(&chosen),
        "p5" | "p9" => hops::p5(&chosen),
        "fair" => rough::fair(&chosen),
        "rough" => rough::rough(&chosen),
        "check" => wan::check().and_then(|()| urgent::check()),
        "quinn-both" => hops::quinn_both(),
        other => Err(format!("{other:?} is no row\n\n{USAGE}")),
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

fn chosen<'a>(words: &[&'a str]) -> Result<(&'a str, Chosen), String> {
    let (row, rest) = words.split_first().ok_or(USAGE)?;
    let mut chosen = Chosen::default();
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        let mut number = || {
            let value = rest.next().and_then(|value| value.parse::<f64>().ok()).filter(|value| *value > 0.0);
            value.ok_or_else(|| format!("{word} needs a number"))
        };
        match *word {
            "--rounds" => chosen.rounds = Some(number()?.ceil() as usize),
            "--seconds" => chosen.seconds = Some(number()?),
            "--ours" => chosen.ours_only = true,
            option if option.starts_with("--") => return Err(format!("{option} is no option\n\n{USAGE}")),
            name => chosen.only.push(name.to_owned()),
        }
    }
    Ok((row, chosen))
}
