//! Why the registry cannot be read, or refuses a change.

use super::*;

/// Why the registry cannot be read or a change was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A file of the registry.
    #[error(transparent)]
    File(#[from] FileError),
    /// Randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another process has it.
    #[error("{path} is held by another process: while tramd runs, use `tram token`, which asks it", path = path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
    },
    /// The file is damaged or newer than this release.
    #[error("{path} cannot be used: {why}", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No token makes a central node.
    #[error("{0} is or would be a central node; a token admits a province, district or commune")]
    Central(NodeName),
    /// The name is not this CA's to certify.
    #[error("{name} is not below {scope}, whose CA this is: make the token at the node whose CA certifies that name")]
    OutOfScope {
        /// The name asked for.
        name: NodeName,
        /// What this CA may certify.
        scope: Scope,
    },
    /// The lifetime is out of range.
    #[error("a token is good for at least a minute and at most 7 days")]
    Lifetime,
    /// No address to join at, or no uplink address, or too many.
    #[error("a token needs 1 to {max} join addresses and 1 to {max} uplink addresses", max = tram_proto::limits::HELLO_ADDRESSES)]
    Addresses,
    /// No such node or certificate.
    #[error(
        "{0:?} is neither the name of a node nor the serial number of a certificate that this CA has issued; `tram pki list` shows them"
    )]
    Unknown(String),
    /// A CA does not revoke itself.
    #[error(
        "{0} holds this CA: a CA does not revoke its own node. Exchange its key with `tram pki rotate ca begin`, or let the root's holder revoke the CA"
    )]
    Own(NodeName),
    /// Its certificates are not this CA's.
    #[error(
        "{0} is certified by a CA of its own: revoke that with `tram pki revoke --ca {0}`, and with it all below {0}"
    )]
    Elsewhere(NodeName),
    /// The name is another node's, or it is not below this CA.
    #[error("{name} cannot be the new name: {why}")]
    NewName {
        /// The name asked for.
        name: NodeName,
        /// What is wrong with it.
        why: String,
    },
    /// The name still means a node that had it.
    #[error("{name} is still understood as the former name of {new}, until {}", Utc(*.until_ms))]
    Former {
        /// The name asked for.
        name: NodeName,
        /// What that node is called now.
        new: NodeName,
        /// Until when, Unix milliseconds.
        until_ms: u64,
    },
    /// No such live token.
    #[error("there is no live token for {0}; `tram token list` shows them")]
    NoToken(String),
}
