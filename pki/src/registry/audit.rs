//! The audit log: one JSON object a line, synced before what it tells of takes effect, never rewritten.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tram_proto::id::NodeId;
use tram_proto::name::{NodeName, Role};

use super::TokenRecord;
use crate::authority::{Issued, Subject};
use crate::clock::Utc;
use crate::files::{self, FileError};

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
}

impl Entry<'_> {
    pub(super) fn of(what: &str, event: &'static str, now_ms: u64) -> Self {
        Self { at: Utc(now_ms).to_string(), event, name: Some(what.to_owned()), ..Self::default() }
    }

    pub(super) fn of_node(id: NodeId, name: &NodeName, role: Role, event: &'static str, now_ms: u64) -> Self {
        Self { node: Some(id.to_string()), role: Some(role.as_str()), ..Self::of(name.as_str(), event, now_ms) }
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

#[derive(Debug)]
pub(super) struct AuditLog {
    path: PathBuf,
    file: File,
    /// The last line may be incomplete: the next one begins with a line break.
    torn: bool,
}

impl AuditLog {
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let at = || files::io_at(path);
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(at())?;
        let mut torn = false;
        if file.metadata().map_err(at())?.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last)).map_err(at())?;
            torn = last != *b"\n";
        }
        files::sync_parent(path)?;
        Ok(Self { path: path.to_owned(), file, torn })
    }

    pub(super) fn append(&mut self, entry: &Entry<'_>) -> Result<(), FileError> {
        let mut line = if self.torn { b"\n".to_vec() } else { Vec::new() };
        serde_json::to_writer(&mut line, entry).map_err(|error| files::io_at(&self.path)(error.into()))?;
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        self.torn = written.is_err();
        written.map_err(files::io_at(&self.path))
    }
}
