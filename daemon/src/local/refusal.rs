//! How a "no" looks on the socket: a gRPC status with a stable word and whether to try again.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tram_proto::error::WireError;
use tram_relay::output::{CommandRefused, InboxRefused, SubmitRefused};

use super::station::{IssuerError, ReloadError};
use crate::engine::handle::Stopped;
use crate::spool::SpoolError;

fn make(code: Code, word: &'static str, retryable: bool, message: impl Into<String>) -> Status {
    let mut status = Status::new(code, message);
    let metadata = status.metadata_mut();
    metadata.insert("tram-code", MetadataValue::from_static(word));
    metadata.insert("tram-retryable", MetadataValue::from_static(if retryable { "true" } else { "false" }));
    status
}

/// The caller's credentials do not allow it.
pub(super) fn not_permitted(message: impl Into<String>) -> Status {
    make(Code::PermissionDenied, "not_permitted", false, message)
}

/// The request cannot be meant.
pub(super) fn invalid(message: impl std::fmt::Display) -> Status {
    make(Code::InvalidArgument, "invalid", false, message.to_string())
}

pub(super) fn no_such_inbox(inbox: &tram_proto::name::Inbox) -> Status {
    inbox_refused(&InboxRefused::Unknown(inbox.clone()))
}

pub(super) fn no_such_message() -> Status {
    make(Code::NotFound, "no_such_message", false, "this node does not know a message of that id")
}

pub(super) fn no_authority() -> Status {
    issuer_refused(&IssuerError::NoAuthority)
}

/// The caller fell behind in a stream that cannot be repeated from where it was.
pub(super) fn lagged() -> Status {
    make(Code::Aborted, "lagged", true, "events came faster than they were read; watch again")
}

/// The daemon is going down.
pub(super) fn stopping() -> Status {
    make(Code::Unavailable, "stopping", true, Stopped.to_string())
}

/// A task of this module failed.
pub(super) fn broken(error: impl std::fmt::Display) -> Status {
    make(Code::Internal, "failed", false, error.to_string())
}

pub(super) fn submit_refused(why: &SubmitRefused) -> Status {
    let message = why.to_string();
    match why {
        SubmitRefused::Invalid(_) => make(Code::InvalidArgument, "invalid", false, message),
        SubmitRefused::LabelNotPermitted(_) => make(Code::PermissionDenied, "label_not_permitted", false, message),
        SubmitRefused::KeyTaken { .. } => make(Code::AlreadyExists, "key_taken", false, message),
        SubmitRefused::SpoolFull { .. } | SubmitRefused::Watermark { .. } => {
            make(Code::ResourceExhausted, "spool_full", true, message)
        }
        SubmitRefused::HopFull { .. } => make(Code::ResourceExhausted, "hop_full", true, message),
        SubmitRefused::Quota { .. } => make(Code::ResourceExhausted, "quota", true, message),
        SubmitRefused::TooMany(_) => make(Code::ResourceExhausted, "too_many", true, message),
        SubmitRefused::Starting => make(Code::Unavailable, "starting", true, message),
    }
}

pub(super) fn inbox_refused(why: &InboxRefused) -> Status {
    let message = why.to_string();
    match why {
        InboxRefused::Unknown(_) => make(Code::NotFound, "no_such_inbox", false, message),
        InboxRefused::NotEmpty { .. } => make(Code::FailedPrecondition, "inbox_not_empty", false, message),
        InboxRefused::TooMany(_) => make(Code::ResourceExhausted, "too_many", false, message),
    }
}

pub(super) fn command_refused(why: &CommandRefused) -> Status {
    let message = why.to_string();
    match why {
        CommandRefused::UnknownMessage(_) => make(Code::NotFound, "no_such_message", false, message),
        CommandRefused::NotYours(_) => make(Code::PermissionDenied, "not_permitted", false, message),
        CommandRefused::TooLate(_) => make(Code::FailedPrecondition, "too_late", false, message),
        CommandRefused::AlreadyLeft(_) => make(Code::FailedPrecondition, "already_left", false, message),
        CommandRefused::NotDelivered(_) => make(Code::FailedPrecondition, "not_delivered", false, message),
        CommandRefused::Invalid(_) => make(Code::InvalidArgument, "invalid", false, message),
        CommandRefused::UnknownHop(_) => make(Code::NotFound, "no_such_hop", false, message),
        CommandRefused::UnknownNode(_) => make(Code::NotFound, "no_such_node", false, message),
        CommandRefused::NotHeld(_) => make(Code::FailedPrecondition, "not_held", false, message),
        CommandRefused::NotSubmitted(why) => submit_refused(why),
        CommandRefused::Starting => make(Code::Unavailable, "starting", true, message),
    }
}

pub(super) fn scrubbing() -> Status {
    make(Code::ResourceExhausted, "scrubbing", true, "the spool is being scrubbed already; wait for that")
}

/// The new config cannot be used; the old one is still in force.
pub(super) fn not_reloaded(why: &ReloadError) -> Status {
    make(Code::InvalidArgument, "config", false, why.to_string())
}

pub(super) fn issuer_refused(why: &IssuerError) -> Status {
    let message = why.to_string();
    match why {
        IssuerError::Invalid(_) => make(Code::InvalidArgument, "invalid", false, message),
        IssuerError::Taken(_) => make(Code::FailedPrecondition, "name_taken", false, message),
        IssuerError::NoSuchToken(_) => make(Code::NotFound, "no_such_token", false, message),
        IssuerError::Locked(_) => make(Code::FailedPrecondition, "ca_locked", false, message),
        IssuerError::WrongPassphrase(_) => make(Code::PermissionDenied, "wrong_passphrase", false, message),
        IssuerError::NotLocked(_) => make(Code::FailedPrecondition, "not_locked", false, message),
        IssuerError::NoAuthority => make(Code::FailedPrecondition, "no_authority", false, message),
        IssuerError::Failed(_) => make(Code::Internal, "failed", false, message),
    }
}

impl From<SpoolError> for Status {
    fn from(why: SpoolError) -> Self {
        let message = why.to_string();
        match why {
            SpoolError::Full { .. } => make(Code::ResourceExhausted, "spool_full", true, message),
            SpoolError::Damaged { .. } | SpoolError::Unreadable { .. } => {
                make(Code::DataLoss, "spool_damaged", false, message)
            }
            _ => make(Code::Internal, "spool_failed", false, message),
        }
    }
}

/// A record of the spool cannot be read.
pub(super) fn damaged(error: &WireError) -> Status {
    make(Code::DataLoss, "spool_damaged", false, format!("the spool holds a record that does not decode: {error}"))
}
