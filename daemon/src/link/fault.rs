//! Why a link ends: whose fault it is, and what the peer is told.

use quinn::{ConnectionError, ReadError, ReadExactError, WriteError};
use tram_proto::error::WireError;
use tram_proto::id::NodeId;
use tram_relay::output::CloseReason;

use crate::engine::handle::Stopped;
use crate::link::trust::Lapse;
use crate::metrics::tally::{self, Kind};
use crate::spool::SpoolError;

/// A reason without what is another one each second: the time by this machine's clock.
pub(crate) fn timeless(why: &str) -> &str {
    why.split_once("machine's clock says").map_or(why, |(before, _)| before)
}

/// Codes of `Bye` and of the QUIC close that the daemon adds to [`CloseReason::code`].
const PROTOCOL: u32 = CloseReason::Protocol("").code();
const TWO_BOOTS: u32 = CloseReason::TwoBoots(NodeId([0; 16])).code();
const ROLLED_BACK: u32 = CloseReason::RolledBack { theirs: 0, known: 0 }.code();
const WRONG_BYTES: u32 = 7;
const SPOOL_FULL: u32 = 8;
const SPOOL: u32 = 9;
const NOT_TRUSTED: u32 = 10;
const STALLED: u32 = 11;
const WITHDRAWN: u32 = 13;
/// Its reason holds a name, so that the code cannot be taken from it here; a test compares.
const HELD: u32 = 12;
const LAPSED: u32 = 0x52;

/// Why a link ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("protocol error: {0}")]
    Wire(#[from] WireError),
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("protocol error: a {frame} frame has no place on a {stream} stream")]
    Misplaced { frame: &'static str, stream: &'static str },
    /// The peer broke off a stream; it usually says why a moment later.
    #[error("protocol error: the peer broke off a stream that lasts as long as the link")]
    Broken,
    #[error("{0} runs with bytes that are not those of the payload; the last: {1}")]
    WrongBytes(u32, String),
    #[error("a record was not believed: {0}")]
    Record(String),
    #[error("spool full")]
    SpoolFull,
    #[error("the spool failed: {0}")]
    Spool(String),
    #[error("the peer takes nothing: no stream was free for {0} s")]
    Stalled(u64),
    /// The peer's certificate was good when the link began.
    #[error("{0}")]
    Lapsed(Lapse),
    /// The engine gave the link up: more waited for it than may wait.
    #[error("this node's link tasks fell behind")]
    Dropped,
    /// The core wants it so.
    #[error("{0}")]
    Core(CloseReason),
    /// The peer said bye.
    #[error("the peer closed the link: {reason} (code {code})")]
    Bye { code: u32, reason: String },
    #[error("{}", explain(.0))]
    Lost(ConnectionError),
    /// The config no longer names this uplink, or names it otherwise.
    #[error("this uplink was changed in the config")]
    Withdrawn,
    #[error("the daemon is stopping")]
    Stopped,
}

impl Fault {
    /// What to tell the peer, when it does not know yet.
    pub(crate) fn farewell(&self) -> Option<(u32, String)> {
        let code = match self {
            Self::Wire(_) | Self::Protocol(_) | Self::Misplaced { .. } | Self::Broken => PROTOCOL,
            Self::WrongBytes(..) => WRONG_BYTES,
            Self::Record(_) => NOT_TRUSTED,
            Self::SpoolFull => SPOOL_FULL,
            Self::Spool(_) => SPOOL,
            Self::Stalled(_) | Self::Dropped => STALLED,
            Self::Lapsed(_) => LAPSED,
            Self::Core(reason) => reason.code(),
            Self::Withdrawn => WITHDRAWN,
            Self::Stopped => CloseReason::Shutdown.code(),
            Self::Bye { .. } | Self::Lost(_) => return None,
        };
        let text = match self {
            // What went wrong on this disk is nobody else's business.
            Self::Spool(_) => "the spool failed".to_owned(),
            // With the time and the clock, by which the peer can see which of the two is wrong.
            Self::Lapsed(lapse @ Lapse::Expired(_)) => lapse.to_string(),
            Self::Lapsed(lapse) => lapse.reason().to_owned(),
            other => other.to_string(),
        };
        Some((code, text))
    }

    /// This node is stopping, or has left this uplink; it is not dialled again.
    pub(crate) const fn is_shutdown(&self) -> bool {
        matches!(self, Self::Stopped | Self::Withdrawn | Self::Core(CloseReason::Shutdown))
    }

    /// One of the two holds the other's mail until a person has looked: its spool went back in time or was cloned.
    pub(crate) const fn holds_mail(&self) -> bool {
        match self {
            Self::Core(CloseReason::RolledBack { .. } | CloseReason::TwoBoots(_) | CloseReason::Held(_)) => true,
            Self::Bye { code, .. } => is_hold(*code as u64),
            Self::Lost(ConnectionError::ApplicationClosed(close)) => is_hold(close.error_code.into_inner()),
            _ => false,
        }
    }

    /// What it counts as; nothing when it is in order.
    pub(crate) const fn kind(&self) -> Option<Kind> {
        Some(match self {
            _ if self.is_orderly() => return None,
            Self::Core(reason) => return tally::of_close(reason),
            Self::Wire(_) | Self::Protocol(_) | Self::Misplaced { .. } | Self::Broken | Self::WrongBytes(..) => {
                Kind::LinkProtocol
            }
            Self::Record(_) | Self::Lapsed(_) => Kind::LinkNotTrusted,
            Self::SpoolFull | Self::Spool(_) => Kind::LinkSpool,
            Self::Stalled(_) | Self::Dropped => Kind::LinkStalled,
            Self::Bye { .. } => Kind::LinkRefused,
            Self::Lost(_) | Self::Withdrawn | Self::Stopped => Kind::LinkLost,
        })
    }

    /// Nobody's fault: not worth a warning.
    pub(crate) const fn is_orderly(&self) -> bool {
        matches!(
            self,
            Self::Stopped
                | Self::Withdrawn
                | Self::Core(CloseReason::Shutdown | CloseReason::Replaced)
                | Self::Bye { code: 0 | WITHDRAWN, .. }
        )
    }
}

/// Whether a link ended, or did not come to be, because a certificate was revoked: by our words or the peer's.
pub(crate) fn says_revoked(why: &str) -> bool {
    why.contains("certificate revoked") || why.contains("has been revoked")
}

/// Whether it was the peer who said so, of this node's certificate.
pub(crate) fn refuses_us(why: &str) -> bool {
    says_revoked(why) && (why.contains("the peer refused") || why.contains("the peer closed the link"))
}

/// Whether a peer that closes with this code holds our mail.
const fn is_hold(code: u64) -> bool {
    code == TWO_BOOTS as u64 || code == ROLLED_BACK as u64 || code == HELD as u64
}

impl From<Stopped> for Fault {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<SpoolError> for Fault {
    fn from(fault: SpoolError) -> Self {
        match fault {
            SpoolError::Full { .. } => Self::SpoolFull,
            other => Self::Spool(other.to_string()),
        }
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(error),
            _ => Self::Broken,
        }
    }
}

impl From<ReadExactError> for Fault {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Protocol("a stream ended in the middle"),
            ReadExactError::ReadError(error) => error.into(),
        }
    }
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Lost(error),
            _ => Self::Broken,
        }
    }
}

/// The reason in the text of a TLS error. rustls has a word of its own for the one refusal that has an alert of its own.
fn plain(text: &str) -> &str {
    if text.contains("peer certificate: Revoked") {
        "the certificate has been revoked"
    } else {
        tram_pki::verify::plain_reason(text)
    }
}

/// A connection's end in words: TLS refusals as the PKI put them, no Rust in them.
pub(crate) fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TransportError(error) => plain(&error.reason).to_owned(),
        ConnectionError::ConnectionClosed(close) => {
            let text = String::from_utf8_lossy(&close.reason);
            let reason = plain(&text);
            if reason.is_empty() {
                format!("the peer refused: {}", close.error_code)
            } else {
                format!("the peer refused: {reason}")
            }
        }
        ConnectionError::ApplicationClosed(close) => {
            format!("the peer closed the link: {} (code {})", String::from_utf8_lossy(&close.reason), close.error_code)
        }
        ConnectionError::Reset => "the peer has restarted".to_owned(),
        ConnectionError::TimedOut => "the peer has not been heard of for too long".to_owned(),
        ConnectionError::LocallyClosed => "this node closed it".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_ends_because_mail_is_held_is_known_from_either_side() {
        let peer = "can-tho".parse().expect("a name");
        let two_boots = CloseReason::TwoBoots(NodeId([1; 16]));
        for reason in [CloseReason::Held(peer), two_boots, CloseReason::RolledBack { theirs: 1, known: 2 }] {
            let bye = Fault::Bye { code: reason.code(), reason: reason.to_string() };
            let close = quinn::ApplicationClose { error_code: reason.code().into(), reason: "".into() };
            let lost = Fault::Lost(ConnectionError::ApplicationClosed(close));
            assert!([Fault::Core(reason), bye, lost].iter().all(Fault::holds_mail));
        }
        assert!(!Fault::Bye { code: 3, reason: String::new() }.holds_mail() && !Fault::Withdrawn.holds_mail());
    }
}
