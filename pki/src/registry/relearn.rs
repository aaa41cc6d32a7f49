//! What the registry of a restored CA learns from its own audit log: who was admitted, renewed, renamed and revoked after
//! the backup. Tokens are not in it: their secrets never were in the log.
//!
//! Never takes anything back: what is revoked stays so, and a node is replaced by another one of its name only when it was
//! revoked. A line that cannot be read teaches nothing.

use serde::Deserialize;
use tram_proto::id::NodeId;
use tram_proto::name::{NodeName, Role};

use super::record::CertificateRecord;
use super::{AuditLog, Content, NodeRecord, RevocationRecord, TokenState};
use crate::authority::Subject;
use crate::clock::Utc;
use crate::crl::Reason;
use crate::files::FileError;

/// Lines read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// A line, as far as it is of use here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    at: String,
    event: String,
    node: String,
    name: String,
    token: String,
    role: String,
    serial: String,
    key: String,
    reason: String,
    former: String,
    until: String,
}

/// Takes up the lines after number `after`; answers how many certificates they revoked.
pub(super) fn relearn(content: &mut Content, audit: &mut AuditLog, after: u64) -> Result<usize, FileError> {
    let (mut number, mut revoked) = (after.saturating_add(1), 0);
    loop {
        let lines = audit.since(number, READ_BYTES)?;
        if lines.is_empty() {
            return Ok(revoked);
        }
        number += lines.len() as u64;
        for line in &lines {
            if let Ok(told) = serde_json::from_slice::<Told>(line) {
                revoked += told.take_up(content).unwrap_or(0);
            }
        }
    }
}

impl Told {
    /// Answers how many certificates it revoked; `None` when it says nothing that is of use.
    fn take_up(&self, content: &mut Content) -> Option<usize> {
        let (id, name): (NodeId, NodeName) = (self.node.parse().ok()?, self.name.parse().ok()?);
        for token in content.tokens.values_mut().filter(|token| token.id.to_string() == self.token) {
            // In the backup it may still be live.
            match self.event.as_str() {
                "certificate_issued" => token.state = TokenState::Used,
                "token_cancelled" | "token_frozen_wrong_proofs" | "token_frozen_second_key" => token.end(),
                _ => {}
            }
        }
        match self.event.as_str() {
            "certificate_issued" | "certificate_renewed" => {
                let role: Role = self.role.parse().ok()?;
                let record = CertificateRecord {
                    serial: self.serial.clone(),
                    issued_at_ms: Utc::parse(&self.at)?.0,
                    not_after_ms: Utc::parse(&self.until)?.0,
                    key: self.key.parse().ok()?,
                };
                let is_barred = |id| content.more.revocations.iter().any(|one| one.node == Some(id) && one.bars);
                let another = content.nodes.get(&name).is_some_and(|known| known.id != id && !is_barred(known.id));
                if another || content.nodes.values().any(|known| known.id == id && known.name != name) {
                    return None;
                }
                let new = || NodeRecord::new(&Subject { id, name: name.clone(), role });
                let node = content.nodes.entry(name.clone()).or_insert_with(new);
                if node.id != id {
                    *node = new();
                }
                node.role = role;
                if node.certificates.iter().all(|known| known.serial != record.serial) {
                    node.certificates.push(record);
                    // The certificate itself is not in the log; who asks again gets a new one.
                    node.latest = None;
                }
                Some(0)
            }
            "renamed" => {
                let former: NodeName = self.former.parse().ok()?;
                if content.nodes.contains_key(&name) || content.nodes.get(&former)?.id != id {
                    return None;
                }
                let node = content.nodes.remove(&former)?;
                content.nodes.insert(name.clone(), NodeRecord { name, ..node });
                Some(0)
            }
            "revoked" => {
                let reason = Reason::ALL.into_iter().find(|one| one.as_str() == self.reason)?;
                let at_ms = Utc::parse(&self.at)?.0;
                let known = |serial: &str| content.more.revocations.iter().any(|one| one.serial == serial);
                let serials: Vec<_> = self.serial.split_whitespace().filter(|serial| !known(serial)).collect();
                let count = serials.len();
                for serial in serials {
                    // Whether the node or only this certificate was meant is not in the log: the careful reading is the node.
                    let (serial, name) = (serial.to_owned(), self.name.clone());
                    let record = RevocationRecord { serial, name, node: Some(id), at_ms, reason, bars: true };
                    content.more.revocations.push(record);
                }
                for one in content.more.revocations.iter_mut().filter(|one| one.node == Some(id)) {
                    one.bars = true;
                }
                for token in content.tokens.values_mut().filter(|token| token.node == id) {
                    token.end();
                }
                Some(count)
            }
            _ => None,
        }
    }
}
