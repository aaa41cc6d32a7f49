//! Exit codes, and which failure gets which. Scripts depend on them (DESIGN §10).

use tram_client::{Error, Kind};

/// Done.
pub(crate) const OK: i32 = 0;
/// A negative answer: refused, undeliverable, degraded, not valid.
pub(crate) const NEGATIVE: i32 = 1;
/// The command line cannot be meant.
pub(crate) const USAGE: i32 = 64;
/// What was given cannot be taken.
pub(crate) const BAD_DATA: i32 = 65;
/// The input cannot be read.
pub(crate) const NO_INPUT: i32 = 66;
/// No daemon answers.
pub(crate) const UNREACHABLE: i32 = 69;
/// Reading or writing failed.
pub(crate) const IO: i32 = 74;
/// The same may succeed later.
pub(crate) const TRY_AGAIN: i32 = 75;
/// Not permitted.
pub(crate) const NOT_PERMITTED: i32 = 77;
/// The config cannot be used.
pub(crate) const CONFIG: i32 = 78;
/// `--timeout` passed.
pub(crate) const TIMEOUT: i32 = 124;

/// Why the command does not end well: an exit code and a text for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn io(message: impl Into<String>) -> Self {
        Self::new(IO, message)
    }

    /// Says it on stderr; returns the exit code.
    pub(crate) fn report(&self) -> i32 {
        use std::io::Write as _;
        if !self.message.is_empty() {
            // Nothing can be done about a closed stderr.
            let _ = writeln!(std::io::stderr(), "tram: {}", self.message);
        }
        self.code
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Unreachable { .. } | Error::Lost(_) => UNREACHABLE,
            Error::Payload(_) => IO,
            Error::Refused(refusal) => match refusal.kind {
                _ if refusal.code == "config" => CONFIG,
                Kind::NotPermitted => NOT_PERMITTED,
                Kind::Busy => TRY_AGAIN,
                Kind::Invalid => BAD_DATA,
                Kind::Negative => NEGATIVE,
                _ => IO,
            },
            _ => BAD_DATA,
        };
        let message = match &error {
            Error::Refused(refusal) if !refusal.message.contains(&refusal.code) => {
                format!("{}: {}", refusal.code, refusal.message)
            }
            _ => error.to_string(),
        };
        Self { code, message }
    }
}
