//! Passphrases: from a file, a pipe or a terminal, where they are not shown.

use std::fs::File;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use tram_pki::lock::{PASSPHRASE_BYTES, Passphrase};
use zeroize::Zeroizing;

use crate::exit::{BAD_DATA, Failure, NO_INPUT};

/// The one in the file, if one was named; `-` is standard input.
pub(crate) fn given(file: Option<&Path>) -> Result<Option<Passphrase>, Failure> {
    let Some(file) = file else { return Ok(None) };
    if file == Path::new("-") {
        return line(std::io::stdin().lock()).map(Some);
    }
    let open = File::open(file).map_err(|error| Failure::new(NO_INPUT, format!("{}: {error}", file.display())))?;
    line(open).map(Some)
}

/// The same; without a file a person is asked, or standard input is read.
pub(crate) fn needed(file: Option<&Path>, what: &str) -> Result<Passphrase, Failure> {
    if let Some(passphrase) = given(file)? {
        return Ok(passphrase);
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return line(stdin.lock());
    }
    let failed = |error: std::io::Error| Failure::io(format!("cannot ask for the passphrase: {error}"));
    let before = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(|error| failed(error.into()))?;
    let mut talk = std::io::stderr();
    let asked = write!(talk, "{what}: ").and_then(|()| talk.flush());
    let read = line(stdin.lock());
    let shown = tcsetattr(&stdin, OptionalActions::Flush, &before);
    // The line break that was typed was not shown either.
    let _ = writeln!(talk);
    asked.map_err(failed)?;
    shown.map_err(|error| failed(error.into()))?;
    read
}

fn line(from: impl Read) -> Result<Passphrase, Failure> {
    // One byte more than is allowed, and a line break: what is longer is told, not cut.
    let most = PASSPHRASE_BYTES + 3;
    let mut text = Zeroizing::new(Vec::with_capacity(most));
    let mut from = BufReader::with_capacity(most, from.take(most as u64));
    from.read_until(b'\n', &mut text).map_err(|error| Failure::new(NO_INPUT, format!("the passphrase: {error}")))?;
    Passphrase::of(&text).map_err(|error| Failure::new(BAD_DATA, error.to_string()))
}
