//! Why a call did not succeed, so that the caller can act on it.

use std::path::PathBuf;

use tonic::Code;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No node answers on the socket, or it went away during the call.
    #[error("no Tram node answers at {path}: {why}", path = path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What is wrong, with the cure.
        why: String,
    },
    /// The connection ended during the call: the node stopped.
    #[error("the Tram node stopped during the call: {0}")]
    Lost(String),
    /// The node says no.
    #[error("{0}")]
    Refused(Refusal),
    /// The payload could not be read.
    #[error("cannot read the payload: {0}")]
    Payload(std::io::Error),
    /// The node answered something this release does not understand.
    #[error("{0}")]
    Protocol(&'static str),
}

/// What the node said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The stable word, such as `no_such_inbox`, `label_not_permitted`, `spool_full`, `key_taken`.
    pub code: String,
    /// For people.
    pub message: String,
    /// The same call may succeed later.
    pub retryable: bool,
    /// Which sort of no.
    pub kind: Kind,
}

/// The sorts of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// This user may not, or nobody may.
    NotPermitted,
    /// Not now.
    Busy,
    /// What was given cannot be taken.
    Invalid,
    /// What was named is not there, or is in a state that forbids it.
    Negative,
    /// The node failed.
    Failed,
}

impl Error {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) => true,
            Self::Refused(refusal) => refusal.retryable,
            Self::Payload(_) | Self::Protocol(_) => false,
        }
    }

    /// What this library refuses by itself, as the node would.
    pub(crate) fn invalid(message: &str) -> Self {
        let (code, message) = ("invalid".to_owned(), message.to_owned());
        Self::Refused(Refusal { code, message, retryable: false, kind: Kind::Invalid })
    }

    /// The stable word of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(&refusal.code),
            _ => None,
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let metadata = |key: &str| status.metadata().get(key).and_then(|value| value.to_str().ok());
        let Some(code) = metadata("tram-code") else {
            return Self::Lost(status.message().to_owned());
        };
        let kind = match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Kind::NotPermitted,
            Code::ResourceExhausted | Code::Unavailable | Code::Aborted => Kind::Busy,
            Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange => Kind::Invalid,
            Code::NotFound | Code::FailedPrecondition => Kind::Negative,
            _ => Kind::Failed,
        };
        Self::Refused(Refusal {
            code: code.to_owned(),
            message: status.message().to_owned(),
            retryable: metadata("tram-retryable") == Some("true"),
            kind,
        })
    }
}
