//! Asks the program `tramd` about a node whose daemon does not answer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tram_proto::local::Answer;

use crate::exit::{Failure, UNREACHABLE};

const PROGRAM: &str = "tramd";
/// Where the package puts it; the path of a user who is not root often lacks it.
const INSTALLED: &str = "/usr/sbin/tramd";

/// What `tramd ARGUMENTS` answers about the node.
pub(crate) fn ask<A: Answer>(dir: Option<&Path>, arguments: &[&str]) -> Result<A, Failure> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let places = [Some(PathBuf::from(PROGRAM)), beside, Some(INSTALLED.into())];
    for program in places.into_iter().flatten() {
        let mut command = Command::new(program);
        command.args(arguments).env_remove("TRAM_DIR").stdin(Stdio::null()).stderr(Stdio::inherit());
        if let Some(dir) = dir {
            command.arg("--dir").arg(dir);
        }
        let output = match command.output() {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::io(format!("cannot start {PROGRAM}: {error}"))),
        };
        let code = output.status.code().unwrap_or(UNREACHABLE);
        return match A::of_bytes(&output.stdout).filter(|_| output.status.success()) {
            Some(answer) => Ok(answer),
            // It has said why.
            None => Err(Failure::new(if code == 0 { UNREACHABLE } else { code }, "")),
        };
    }
    let why =
        format!("no daemon answers, and the program {PROGRAM} is not here to look at its files: put it into the PATH");
    Err(Failure::new(UNREACHABLE, why))
}
