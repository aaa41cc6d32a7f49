//! The rows of the registry and their form in `registry.json`.

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tram_proto::id::NodeId;
use tram_proto::join::{HostPort, TokenId, Uplink};
use tram_proto::limits;
use tram_proto::name::{NodeName, Role};
use tram_proto::pki::{Alias, Door, Notice, Transfer};

use super::TokenOrder;
use crate::authority::{Issued, Scope, Subject};
use crate::crl::{Reason, Revoked};
use crate::hash::Sha256;
use crate::token::Token;

/// Types of the wire know no serde; they are kept in their text form.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The same for what may be missing.
mod optional {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRecord {
    /// 32 hexadecimal digits.
    pub serial: String,
    /// When it was made, Unix milliseconds.
    pub issued_at_ms: u64,
    /// When it expires, Unix milliseconds.
    pub not_after_ms: u64,
    /// SHA-256 of its public key.
    #[serde(with = "text")]
    pub key: Sha256,
}

impl CertificateRecord {
    pub(super) fn new(issued: &Issued) -> Self {
        Self {
            serial: issued.serial.clone(),
            issued_at_ms: issued.issued_at_ms,
            not_after_ms: issued.not_after_ms,
            key: issued.key,
        }
    }
}

/// A node that holds or has held a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// Never changes.
    #[serde(with = "text")]
    pub id: NodeId,
    /// Without the zone.
    #[serde(with = "text")]
    pub name: NodeName,
    /// Its place in the tree.
    #[serde(with = "text")]
    pub role: Role,
    /// Oldest first.
    pub certificates: Vec<CertificateRecord>,
    /// The newest one, DER in hexadecimal, to be given again when the answer was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) latest: Option<String>,
}

impl NodeRecord {
    pub(super) fn new(subject: &Subject) -> Self {
        Self { id: subject.id, name: subject.name.clone(), role: subject.role, certificates: Vec::new(), latest: None }
    }

    /// Its newest certificate.
    #[must_use]
    pub fn latest(&self) -> Option<CertificateDer<'static>> {
        unhex(self.latest.as_ref()?).map(CertificateDer::from)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// A certificate that was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationRecord {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Whose it was.
    pub name: String,
    /// The node; `None` for a CA.
    #[serde(with = "optional", default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// When it was revoked, Unix milliseconds.
    pub at_ms: u64,
    /// Why.
    pub reason: Reason,
    /// The node itself was revoked: its id gets no certificate any more.
    pub bars: bool,
}

impl RevocationRecord {
    pub(super) fn to_list(&self) -> Option<Revoked> {
        Some(Revoked { serial: unhex(&self.serial)?, at_ms: self.at_ms, reason: self.reason })
    }
}

/// A province that wants to be a CA for the names below its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityRequest {
    /// The province.
    #[serde(with = "text")]
    pub name: NodeName,
    /// SHA-256 of the public key.
    #[serde(with = "text")]
    pub key: Sha256,
    /// PKCS #10, DER in hexadecimal.
    pub csr: String,
    /// When it came, Unix milliseconds.
    pub at_ms: u64,
}

impl AuthorityRequest {
    pub(crate) fn new(name: &NodeName, key: Sha256, csr: &[u8], now_ms: u64) -> Self {
        Self { name: name.clone(), key, csr: hex(csr), at_ms: now_ms }
    }

    /// The request, DER.
    #[must_use]
    pub fn csr(&self) -> Option<Vec<u8>> {
        unhex(&self.csr)
    }
}

/// A former name, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AliasRecord {
    #[serde(with = "text")]
    pub(crate) old: NodeName,
    #[serde(with = "text")]
    pub(crate) new: NodeName,
    #[serde(with = "text")]
    pub(crate) node: NodeId,
    pub(crate) until_ms: u64,
}

/// A transfer, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransferRecord {
    #[serde(with = "text")]
    pub(crate) node: NodeId,
    /// Empty: central's.
    pub(crate) to: String,
    pub(crate) at_ms: u64,
}

/// A door, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DoorRecord {
    #[serde(with = "text")]
    pub(crate) node: NodeId,
    pub(crate) until_ms: u64,
    pub(crate) to: Vec<String>,
}

/// What a CA announces, as it stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoticeRecord {
    /// Counts its notices; 0: none yet.
    pub version: u64,
    /// When it was changed, Unix milliseconds.
    pub at_ms: u64,
    pub(crate) aliases: Vec<AliasRecord>,
    pub(crate) transfers: Vec<TransferRecord>,
    pub(crate) doors: Vec<DoorRecord>,
}

impl NoticeRecord {
    /// A node has a new name; the old one is understood until then.
    pub fn alias(&mut self, old: &NodeName, new: &NodeName, node: NodeId, until_ms: u64) {
        self.aliases.retain(|alias| alias.old != *old && alias.old != *new);
        for alias in self.aliases.iter_mut().filter(|alias| alias.node == node) {
            alias.new = new.clone();
        }
        self.aliases.push(AliasRecord { old: old.clone(), new: new.clone(), node, until_ms });
    }

    /// The alias by which mail to `name` is for another node than `node`, if there is one.
    pub(crate) fn former(&self, name: &NodeName, node: Option<NodeId>, now_ms: u64) -> Option<&AliasRecord> {
        self.aliases.iter().find(|a| a.old == *name && a.until_ms > now_ms && Some(a.node) != node)
    }

    /// Whether the node of this name is understood by another one as well.
    #[must_use]
    pub fn has_aliases(&self, name: &NodeName, now_ms: u64) -> bool {
        self.aliases.iter().any(|alias| alias.new == *name && alias.until_ms > now_ms)
    }

    /// The node of this name is no more: its names are free for others.
    pub fn end_aliases(&mut self, name: &NodeName, now_ms: u64) {
        for alias in self.aliases.iter_mut().filter(|alias| alias.new == *name) {
            alias.until_ms = alias.until_ms.min(now_ms);
        }
    }

    /// Another CA may certify this node from now on.
    pub fn transfer(&mut self, node: NodeId, to: &Scope, now_ms: u64) {
        let to = to.apex().map(ToString::to_string).unwrap_or_default();
        self.transfers.retain(|one| one.node != node);
        self.transfers.push(TransferRecord { node, to, at_ms: now_ms });
    }

    /// A node is to pass on what comes to its join port until then.
    pub fn door(&mut self, node: NodeId, until_ms: u64, to: &[HostPort]) {
        let to: Vec<String> = to.iter().map(ToString::to_string).collect();
        let until_ms =
            self.doors.iter().filter(|d| d.node == node).map(|d| d.until_ms).max().unwrap_or(0).max(until_ms);
        self.doors.retain(|door| door.node != node);
        self.doors.push(DoorRecord { node, until_ms, to });
    }

    /// What is still of use, to be signed.
    #[must_use]
    pub fn to_notice(&self, authority: Sha256, now_ms: u64) -> Notice {
        let alias =
            |a: &AliasRecord| Alias { old: a.old.clone(), new: a.new.clone(), node: a.node, until_ms: a.until_ms };
        let transfer = |t: &TransferRecord| {
            let to = if t.to.is_empty() { None } else { Some(t.to.parse().ok()?) };
            Some(Transfer { node: t.node, to, at_ms: t.at_ms })
        };
        let door = |d: &DoorRecord| {
            let to: Option<Vec<HostPort>> = d.to.iter().map(|text| text.parse().ok()).collect();
            Some(Door { node: d.node, until_ms: d.until_ms, to: to? })
        };
        Notice {
            version: self.version,
            authority: authority.0,
            at_ms: self.at_ms,
            // Ended ones, too: they prove receipts for what was sent in their time. The newest, if there is no room for all.
            aliases: self.aliases.iter().rev().map(alias).take(limits::ALIASES).collect(),
            transfers: self.transfers.iter().filter_map(transfer).take(limits::ALIASES).collect(),
            doors: self.doors.iter().filter(|d| d.until_ms > now_ms).filter_map(door).take(limits::DOORS).collect(),
        }
    }
}

/// What has become of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// Nobody has used it.
    New,
    /// One key has its certificate; the same key gets the same one again until the token expires.
    Bound,
    /// A second key tried to use it.
    FrozenByKey,
    /// Too many wrong proofs of its secret.
    FrozenByProofs,
    /// An admin or a newer token ended it before it was used.
    Cancelled,
    /// A newer token for the same name took its place after it was used.
    Used,
}

impl TokenState {
    /// The word for people and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Bound => "bound",
            Self::FrozenByKey => "frozen: a second machine tried to use it",
            Self::FrozenByProofs => "frozen: too many wrong attempts",
            Self::Cancelled => "cancelled",
            Self::Used => "used",
        }
    }
}

/// The key a token is bound to, and what it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// SHA-256 of the public key.
    #[serde(with = "text")]
    pub key: Sha256,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// From which address.
    pub source: String,
    /// The certificate, DER in hexadecimal, to be given again when the first answer was lost.
    certificate: String,
}

/// A token as the server remembers it: never the secret, only its hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Which token.
    #[serde(with = "text")]
    pub id: TokenId,
    /// SHA-256 of the secret: the key of the join request's mac, so as good as the secret until the token ends.
    #[serde(with = "text")]
    pub(crate) secret: Sha256,
    /// The new node's name.
    #[serde(with = "text")]
    pub name: NodeName,
    /// Its role.
    #[serde(with = "text")]
    pub role: Role,
    /// The id it has or will have.
    #[serde(with = "text")]
    pub node: NodeId,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// By whom.
    pub created_by: String,
    /// When it ends, Unix milliseconds.
    pub expires_ms: u64,
    uplink: String,
    uplink_addresses: Vec<String>,
    /// What has become of it.
    pub state: TokenState,
    /// How many wrong proofs of its secret were seen.
    pub wrong_proofs: u32,
    /// The key it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
}

impl std::fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRecord")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl TokenRecord {
    pub(super) fn new(token: &Token, order: &TokenOrder, node: NodeId, now_ms: u64) -> Self {
        Self {
            id: token.id,
            secret: token.secret.hash(),
            name: order.name.clone(),
            role: order.role,
            node,
            created_ms: now_ms,
            created_by: order.by.clone(),
            expires_ms: token.expires_ms,
            uplink: order.uplink.node.to_string(),
            uplink_addresses: order.uplink.addresses.iter().map(ToString::to_string).collect(),
            state: TokenState::New,
            wrong_proofs: 0,
            binding: None,
        }
    }

    /// Whether it can still bring a certificate.
    #[must_use]
    pub fn is_live(&self, now_ms: u64) -> bool {
        matches!(self.state, TokenState::New | TokenState::Bound) && now_ms < self.expires_ms
    }

    /// Whom the new node is to dial; `None` when the file was edited into nonsense.
    #[must_use]
    pub fn uplink(&self) -> Option<Uplink> {
        let addresses: Result<Vec<HostPort>, _> = self.uplink_addresses.iter().map(|text| text.parse()).collect();
        Some(Uplink { node: self.uplink.parse().ok()?, addresses: addresses.ok()? })
    }

    pub(crate) fn subject(&self) -> Subject {
        Subject { id: self.node, name: self.name.clone(), role: self.role }
    }

    /// The certificate the token's key was given.
    pub(crate) fn certificate(&self) -> Option<CertificateDer<'static>> {
        unhex(&self.binding.as_ref()?.certificate).map(CertificateDer::from)
    }

    pub(super) fn bind(&mut self, issued: &Issued, source: &str) {
        self.binding = Some(Binding {
            key: issued.key,
            at_ms: issued.issued_at_ms,
            source: source.to_owned(),
            certificate: hex(&issued.certificate),
        });
    }

    /// A newer token or an admin ends this one.
    pub(super) fn end(&mut self) {
        self.state = match self.state {
            TokenState::New => TokenState::Cancelled,
            TokenState::Bound => TokenState::Used,
            ended => ended,
        };
    }

    /// Freezes a token that has not ended; answers whether it did.
    pub(super) fn freeze(&mut self, how: TokenState) -> bool {
        let live = matches!(self.state, TokenState::New | TokenState::Bound);
        if live {
            self.state = how;
        }
        live
    }
}
