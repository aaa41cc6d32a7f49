//! What is written into the audit log: one JSON object a line, synced before what it tells of takes effect, chained by
//! [`crate::journal`].

use std::path::Path;

use bytes::Bytes;
use serde::Serialize;
use tram_proto::id::NodeId;
use tram_proto::limits;
use tram_proto::name::{NodeName, Role};

use super::TokenRecord;
use crate::authority::{Issued, Subject};
use crate::clock::Utc;
use crate::files::FileError;
use crate::journal::{ExtendError, Head, Log};

/// One line. Empty parts are left out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Entry<'a> {
    /// When, RFC 3339.
    pub at: String,
    /// What happened: a word that never changes its meaning.
    pub event: &'static str,
    /// Who asked, a user name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub actor: &'a str,
    /// From which network address.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source: &'a str,
    /// Token id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Node id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Node name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// A certificate's serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SHA-256 of a public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why something was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The number of a revocation list or notice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<u64>,
    /// A node's name before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former: Option<String>,
    /// When the certificate or token ends, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// An entry with its place in the chain.
#[derive(Serialize)]
struct Line<'a> {
    n: u64,
    prev: String,
    #[serde(flatten)]
    entry: &'a Entry<'a>,
}

impl Entry<'_> {
    pub(super) fn of(what: &str, event: &'static str, now_ms: u64) -> Self {
        Self { name: Some(what.to_owned()), ..Self::new(event, now_ms) }
    }

    pub(super) fn of_node(id: NodeId, name: &NodeName, role: Role, event: &'static str, now_ms: u64) -> Self {
        Self { node: Some(id.to_string()), role: Some(role.as_str()), ..Self::of(name.as_str(), event, now_ms) }
    }

    /// An entry without particulars: fill in what there is.
    #[must_use]
    pub fn new(event: &'static str, now_ms: u64) -> Self {
        Self { at: Utc(now_ms).to_string(), event, ..Self::default() }
    }

    pub(super) fn of_token(token: &TokenRecord, event: &'static str, now_ms: u64) -> Self {
        Self {
            at: Utc(now_ms).to_string(),
            event,
            token: Some(token.id.to_string()),
            node: Some(token.node.to_string()),
            name: Some(token.name.to_string()),
            role: Some(token.role.as_str()),
            until: Some(Utc(token.expires_ms).to_string()),
            ..Self::default()
        }
    }

    pub(super) fn of_certificate(subject: &Subject, issued: &Issued, event: &'static str) -> Self {
        Self {
            at: Utc(issued.issued_at_ms).to_string(),
            event,
            node: Some(subject.id.to_string()),
            name: Some(subject.name.to_string()),
            role: Some(subject.role.as_str()),
            serial: Some(issued.serial.clone()),
            key: Some(issued.key.to_string()),
            until: Some(Utc(issued.not_after_ms).to_string()),
            ..Self::default()
        }
    }
}

/// This node's audit log, open for more.
#[derive(Debug)]
pub struct AuditLog(Log);

impl AuditLog {
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        Log::open(path).map(Self)
    }

    #[cfg(test)]
    pub(super) fn fill_disk(&mut self) {
        self.0.fill_disk();
    }

    /// Appends a line; it is on disk when this returns.
    ///
    /// # Errors
    /// [`FileError`]: nothing was appended.
    pub fn append(&mut self, entry: &Entry<'_>) -> Result<(), FileError> {
        let cut = self.0.take_cut();
        if cut > 0 {
            let detail = format!("{cut} bytes of a line that had not taken effect were cut off");
            let told = Entry { at: entry.at.clone(), event: "torn_line_cut", detail, ..Entry::default() };
            self.add(&told)?;
        }
        self.add(entry)
    }

    fn add(&mut self, entry: &Entry<'_>) -> Result<(), FileError> {
        self.0.append(|n, prev| serde_json::to_vec(&Line { n, prev: prev.to_string(), entry }))
    }

    /// Where it ends.
    #[must_use]
    pub fn head(&self) -> Head {
        self.0.head()
    }

    /// Where it ended when it had so many lines; `None` when it never had.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn head_at(&self, number: u64) -> Result<Option<Head>, FileError> {
        self.0.head_at(number)
    }

    /// Whole lines from number `number` on, without their line breaks: at most `max_bytes` of them, and at least one where
    /// there is one. All are on disk.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn since(&mut self, number: u64, max_bytes: usize) -> Result<Vec<Bytes>, FileError> {
        self.0.since(number, max_bytes, limits::JOURNAL_LINES)
    }

    /// Takes back lines that a restored log lost and the parent's copy has.
    ///
    /// # Errors
    /// [`ExtendError`].
    pub fn extend(&mut self, first: u64, lines: &[Bytes]) -> Result<Head, ExtendError> {
        self.0.extend(first, lines)
    }
}
