//! `tramd` and `tram` in one program: `cargo test` builds no other package's binaries, so the tests start this one.
//!
//! The first argument picks the program. `tramd-at OFFSET_MS --dir DIR` runs a node whose clock is wrong by so much;
//! `crash ROUNDS` runs crash tests, with the seed `TRAM_SEED` or a new one.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use tram_tests::crash;
use tramd::clock::Clock;
use tramd::paths::Paths;

/// The daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let code = match arguments.first().and_then(|first| first.to_str()) {
        Some("tramd") => tramd::command::main(arguments),
        Some("tram") => tram::run(arguments),
        Some("tramd-at") => run_at(&arguments),
        Some("crash") => crash(&arguments),
        _ => {
            eprintln!("tram-tests: the first argument is tramd, tram, tramd-at or crash");
            tramd::command::exit::USAGE
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn run_at(arguments: &[OsString]) -> i32 {
    let [_, offset_ms, option, dir] = arguments else { return tramd::command::exit::USAGE };
    let Some(offset_ms) = offset_ms.to_str().and_then(|ms| ms.parse().ok()) else { return tramd::command::exit::USAGE };
    assert_eq!(option, "--dir");
    tramd::run::command(Paths::new(Some(Path::new(dir))), Clock::new(offset_ms)).unwrap_or_else(|failure| {
        eprintln!("tramd: {}", failure.text);
        failure.code
    })
}

fn crash(arguments: &[OsString]) -> i32 {
    let rounds = arguments.get(1).and_then(|rounds| rounds.to_str()?.parse().ok());
    let (Some(rounds), 2) = (rounds, arguments.len()) else {
        eprintln!("usage: [TRAM_SEED=NUMBER] crash ROUNDS");
        return tramd::command::exit::USAGE;
    };
    // This very file, even if somebody builds another meanwhile.
    crash::run("/proc/self/exe", rounds, crash::seed().unwrap_or(std::process::id().into()));
    0
}
