//! `tramd`, the relay daemon.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Every exit code of the command line fits; anything else would be a bug, and 70 says so.
    ExitCode::from(u8::try_from(tramd::command::main(std::env::args_os())).unwrap_or(70))
}
