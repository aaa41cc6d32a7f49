//! Why bytes were not accepted, and whose fault that is.

use crate::id::IdError;
use crate::name::NameError;

/// A frame, statement or record that cannot be taken as it stands. Carries no text chosen by a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes are not the encoding of what they should be. The sender's fault.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A part is longer, or there are more of them, than the protocol allows. The sender's fault.
    #[error("{what} has {got} bytes or entries; at most {max} are allowed")]
    Limit {
        /// What was being read.
        what: &'static str,
        /// How much there was.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// A kind or version this release does not know. Nobody's fault: one side is newer.
    #[error("unknown {what}: {value}")]
    Unknown {
        /// What was being read.
        what: &'static str,
        /// The value met.
        value: u64,
    },
    /// An identifier has the wrong length.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A name breaks the rules for names.
    #[error("{0}")]
    Name(#[from] NameError),
}

impl WireError {
    /// Refuses `got` when it is over `max`.
    ///
    /// # Errors
    /// [`WireError::Limit`].
    pub const fn limit(what: &'static str, got: usize, max: usize) -> Result<(), Self> {
        if got > max { Err(Self::Limit { what, got, max }) } else { Ok(()) }
    }
}
