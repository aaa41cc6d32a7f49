//! The binary `tram`; everything is in the library, so that the whole-system tests can call it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    u8::try_from(tram::run(std::env::args_os())).map_or(ExitCode::FAILURE, ExitCode::from)
}
