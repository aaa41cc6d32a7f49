//! Which nodes exist, which tokens are live and what was revoked: the durable memory of a node that holds a CA.
//!
//! Owns `registry.json`, `registry.lock` and `audit.log` in the pki directory, apart from the spool, so they survive it.
//! Guarantees that a change is on disk before the call returns, that one process at a time holds it, that a name has at
//! most one live token, that a name keeps its node id until that is barred, and that nothing is ever un-revoked. A failed
//! write changes nothing, in memory or on disk. Never issues a certificate. DESIGN §5 and §7, `research/pki.md` §4.

mod audit;
mod error;
mod record;
mod relearn;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tram_proto::id::NodeId;
use tram_proto::join::{HostPort, TokenId, Uplink};
use tram_proto::name::{NodeName, Role};

use crate::authority::{Authority, Issued, Scope, Subject};
use crate::clock::{DAY_MS, Utc};
use crate::crl::{Reason, Revoked};
use crate::files::{self, Access, FileError};
use crate::hash::Sha256;
use crate::keystore::{self, KeyError};
use crate::token::{Secret, Token};

pub use audit::{AuditLog, Entry};
pub use error::RegistryError;
pub use record::{
    AuthorityRequest, Binding, CertificateRecord, NodeRecord, NoticeRecord, RevocationRecord, TokenRecord, TokenState,
};

/// The registry's file.
pub const REGISTRY_JSON: &str = "registry.json";
/// Held by the process that has the registry open.
pub const REGISTRY_LOCK: &str = "registry.lock";
/// One JSON object a line, only ever added to.
pub const AUDIT_LOG: &str = "audit.log";

/// How long a token is good unless said otherwise, in milliseconds: a day.
pub const TOKEN_MS: u64 = DAY_MS;
/// How long a token may be good at most, in milliseconds: a week.
pub const TOKEN_MAX_MS: u64 = 7 * DAY_MS;
/// Wrong proofs of a token's secret after which it is frozen.
pub const WRONG_PROOFS: u32 = 10;
/// How long a token that has ended is remembered, in milliseconds, so that its holder hears why it is refused.
const REMEMBER_MS: u64 = 30 * DAY_MS;
/// How long a revocation stays on the list, in milliseconds: ten years, as long as what the key signed may be looked at.
const REVOKED_MS: u64 = 3653 * DAY_MS;
/// Version of `registry.json`. Version 1 knew no revocations and is read.
const VERSION: u32 = 2;

/// What `tram token new` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOrder {
    /// The new node's name.
    pub name: NodeName,
    /// Its role; not central.
    pub role: Role,
    /// How long the token is good, in milliseconds; at most [`TOKEN_MAX_MS`].
    pub lifetime_ms: u64,
    /// Whom the new node will dial.
    pub uplink: Uplink,
    /// Where it can join.
    pub join: Vec<HostPort>,
    /// Who asked, for the audit log: a user name.
    pub by: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    version: u32,
    nodes: Vec<NodeRecord>,
    tokens: Vec<TokenRecord>,
    #[serde(flatten)]
    more: More,
}

/// What version 2 knows beside nodes and tokens.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct More {
    /// What this CA has revoked, oldest first.
    #[serde(default)]
    revocations: Vec<RevocationRecord>,
    /// Of the list made last.
    #[serde(default)]
    crl_number: u64,
    /// What the root has revoked, where its key is or was.
    #[serde(default)]
    root_revocations: Vec<RevocationRecord>,
    #[serde(default)]
    root_crl_number: u64,
    /// Provinces that wait for a CA certificate.
    #[serde(default)]
    requests: Vec<AuthorityRequest>,
    /// What this CA announces.
    #[serde(default)]
    notice: NoticeRecord,
}

#[derive(Debug, Clone, Default)]
struct Content {
    nodes: BTreeMap<NodeName, NodeRecord>,
    tokens: BTreeMap<TokenId, TokenRecord>,
    more: More,
}

/// The open registry.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    content: Content,
    audit: AuditLog,
    _lock: File,
}

impl Registry {
    /// Opens the registry in `dir`, an empty one where there is none yet, and holds it against other processes.
    ///
    /// # Errors
    /// [`RegistryError::Held`], [`RegistryError::Damaged`] or a file's error.
    pub fn open(dir: &Path) -> Result<Self, RegistryError> {
        files::check_dir(dir)?;
        let lock = hold(&dir.join(REGISTRY_LOCK))?;
        let path = dir.join(REGISTRY_JSON);
        let content = match files::read(&path, Access::Secret) {
            Ok(bytes) => parse(&bytes).map_err(|why| RegistryError::Damaged { path: path.clone(), why })?,
            Err(FileError::Missing { .. }) => Content::default(),
            Err(error) => return Err(error.into()),
        };
        let audit = AuditLog::open(&dir.join(AUDIT_LOG))?;
        Ok(Self { path, content, audit, _lock: lock })
    }

    /// The directory it is in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// The nodes that hold or have held a certificate, by name: which names exist.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.content.nodes.values()
    }

    /// One node, by name.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&NodeRecord> {
        self.content.nodes.get(name)
    }

    /// All tokens that are remembered, also those that have ended.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.content.tokens.values()
    }

    /// One token.
    #[must_use]
    pub fn token(&self, id: &TokenId) -> Option<&TokenRecord> {
        self.content.tokens.get(id)
    }

    /// When the join port may close: the latest end of a token that could still be answered with a certificate, Unix
    /// milliseconds. `None` when there is none at `now_ms`.
    #[must_use]
    pub fn join_open_until_ms(&self, now_ms: u64) -> Option<u64> {
        self.tokens().filter(|token| token.is_live(now_ms)).map(|token| token.expires_ms).max()
    }

    /// Makes a token. A live token for the same name ends; a name that exists keeps its node id.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing has changed then.
    pub fn new_token(
        &mut self,
        authority: &Authority,
        order: &TokenOrder,
        now_ms: u64,
    ) -> Result<Token, RegistryError> {
        let node = self.id_for(&order.name, order.role, now_ms)?;
        if !authority.scope().covers(&order.name) {
            return Err(RegistryError::OutOfScope { name: order.name.clone(), scope: authority.scope().clone() });
        }
        if !(60_000..=TOKEN_MAX_MS).contains(&order.lifetime_ms) {
            return Err(RegistryError::Lifetime);
        }
        let counts = 1..=tram_proto::limits::HELLO_ADDRESSES;
        if !counts.contains(&order.join.len()) || !counts.contains(&order.uplink.addresses.len()) {
            return Err(RegistryError::Addresses);
        }
        let token = Token {
            id: TokenId(keystore::random()?),
            secret: Secret::new(keystore::random()?),
            root: Sha256::of(authority.root()),
            expires_ms: now_ms.saturating_add(order.lifetime_ms),
            zone: authority.zone().clone(),
            name: order.name.clone(),
            join: order.join.clone(),
            uplink: order.uplink.clone(),
        };
        let mut next = self.content.clone();
        next.tokens.retain(|_, old| old.expires_ms.saturating_add(REMEMBER_MS) > now_ms);
        for old in next.tokens.values_mut().filter(|old| old.name == order.name) {
            old.end();
        }
        next.tokens.insert(token.id, TokenRecord::new(&token, order, node, now_ms));
        let entry = Entry { actor: &order.by, ..Entry::of_token(&next.tokens[&token.id], "token_created", now_ms) };
        self.commit(next, &entry)?;
        Ok(token)
    }

    /// Cancels the live token of a name.
    ///
    /// # Errors
    /// [`RegistryError::NoToken`] when there is none.
    pub fn cancel_token(&mut self, name: &NodeName, by: &str, now_ms: u64) -> Result<TokenId, RegistryError> {
        let mut next = self.content.clone();
        let live = next.tokens.values_mut().find(|token| token.name == *name && token.is_live(now_ms));
        let Some(token) = live else {
            return Err(RegistryError::NoToken(name.to_string()));
        };
        token.end();
        let cancelled = token.clone();
        self.commit(next, &Entry { actor: by, ..Entry::of_token(&cancelled, "token_cancelled", now_ms) })?;
        Ok(cancelled.id)
    }

    /// The audit log, for what changes nothing here but has to be told, and for the copy at the parent.
    pub const fn audit(&mut self) -> &mut AuditLog {
        &mut self.audit
    }

    /// The id under which a name is known: by a certificate, or promised by a token. One that was revoked is not given
    /// again: the name then is a new node's.
    fn id_of(&self, name: &NodeName) -> Option<NodeId> {
        // A renamed node keeps the id that a token promised under its former name.
        let promised = || {
            let id = self.tokens().find(|token| token.name == *name).map(|token| token.node);
            id.filter(|id| self.node_by_id(*id).is_none())
        };
        self.node(name).map(|node| node.id).or_else(promised).filter(|id| !self.is_barred(*id))
    }

    /// One node, by id.
    #[must_use]
    pub fn node_by_id(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes().find(|node| node.id == id)
    }

    /// Whether this node was revoked: it gets no certificate any more.
    #[must_use]
    pub fn is_barred(&self, id: NodeId) -> bool {
        self.content.more.revocations.iter().any(|one| one.node == Some(id) && one.bars)
    }

    /// What this CA has revoked, for its list.
    #[must_use]
    pub fn revoked(&self) -> Vec<Revoked> {
        self.content.more.revocations.iter().filter_map(RevocationRecord::to_list).collect()
    }

    /// What the root has revoked, for its list.
    #[must_use]
    pub fn root_revoked(&self) -> Vec<Revoked> {
        self.content.more.root_revocations.iter().filter_map(RevocationRecord::to_list).collect()
    }

    /// The revocations of this CA, oldest first.
    pub fn revocations(&self) -> impl Iterator<Item = &RevocationRecord> {
        self.content.more.revocations.iter()
    }

    /// The number of the CA's revocation list made last; 0: none yet.
    #[must_use]
    pub const fn crl_number(&self) -> u64 {
        self.content.more.crl_number
    }

    /// The same of the root's.
    #[must_use]
    pub const fn root_crl_number(&self) -> u64 {
        self.content.more.root_crl_number
    }

    /// Provinces that wait for a CA certificate.
    pub fn requests(&self) -> impl Iterator<Item = &AuthorityRequest> {
        self.content.more.requests.iter()
    }

    /// What this CA announces to all.
    #[must_use]
    pub const fn notice(&self) -> &NoticeRecord {
        &self.content.more.notice
    }

    /// Revokes a node by its name (all its certificates, and its id for ever), or one certificate by its serial number.
    /// `own` is the node that holds this CA. Live tokens of the node end. Answers the serial numbers.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing has changed then.
    pub fn revoke(
        &mut self,
        which: &str,
        reason: Reason,
        own: NodeId,
        by: &str,
        now_ms: u64,
    ) -> Result<Vec<String>, RegistryError> {
        let mut next = self.content.clone();
        let node = next
            .nodes
            .values()
            .find(|node| node.name.as_str() == which || node.certificates.iter().any(|one| one.serial == which));
        let node = node.cloned().ok_or_else(|| RegistryError::Unknown(which.chars().take(200).collect()))?;
        if node.id == own {
            return Err(RegistryError::Own(node.name));
        }
        if node.certificates.is_empty() {
            return Err(RegistryError::Elsewhere(node.name));
        }
        let bars = node.name.as_str() == which;
        let known = |serial: &str| next.more.revocations.iter().any(|one| one.serial == serial);
        let serials: Vec<String> = node
            .certificates
            .iter()
            .filter(|one| (bars || one.serial == which) && !known(&one.serial))
            .map(|one| one.serial.clone())
            .collect();
        next.more.revocations.retain(|one| one.at_ms.saturating_add(REVOKED_MS) > now_ms);
        for serial in &serials {
            let record = RevocationRecord {
                serial: serial.clone(),
                name: node.name.to_string(),
                node: Some(node.id),
                at_ms: now_ms,
                reason,
                bars,
            };
            next.more.revocations.push(record);
        }
        if bars {
            for one in next.more.revocations.iter_mut().filter(|one| one.node == Some(node.id)) {
                one.bars = true;
            }
            for token in next.tokens.values_mut().filter(|token| token.node == node.id) {
                token.end();
            }
        }
        next.more.crl_number += 1;
        let event = Entry {
            actor: by,
            reason: Some(reason.as_str()),
            serial: Some(serials.join(" ")),
            ..Entry::of_node(node.id, &node.name, node.role, "revoked", now_ms)
        };
        self.commit(next, &event)?;
        Ok(serials)
    }

    /// Notes a CA certificate that the root has revoked.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn revoke_authority(
        &mut self,
        serials: &[Vec<u8>],
        scope: &Scope,
        reason: Reason,
        by: &str,
        now_ms: u64,
    ) -> Result<(), RegistryError> {
        let mut next = self.content.clone();
        for serial in serials {
            let serial: String = serial.iter().map(|b| format!("{b:02x}")).collect();
            let (name, node, bars) = (format!("the CA of {scope}"), None, false);
            next.more.root_revocations.push(RevocationRecord { serial, name, node, at_ms: now_ms, reason, bars });
        }
        next.more.root_crl_number += 1;
        let entry =
            Entry { actor: by, reason: Some(reason.as_str()), ..Entry::of(&format!("{scope}"), "ca_revoked", now_ms) };
        self.commit(next, &entry)
    }

    /// Takes the next number for a revocation list: of the root's, or of this CA's. `at_least` is what neighbours have
    /// seen of it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn next_crl(&mut self, of_root: bool, at_least: u64, now_ms: u64) -> Result<u64, RegistryError> {
        let mut next = self.content.clone();
        let number = if of_root { &mut next.more.root_crl_number } else { &mut next.more.crl_number };
        *number = at_least.max(*number) + 1;
        let number = *number;
        let what = if of_root { "root" } else { "ca" };
        self.commit(next, &Entry { list: Some(number), ..Entry::of(what, "crl_issued", now_ms) })?;
        Ok(number)
    }

    /// Changes what this CA announces, and raises its number above `at_least`.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn announce(
        &mut self,
        at_least: u64,
        now_ms: u64,
        by: &str,
        change: impl FnOnce(&mut NoticeRecord),
    ) -> Result<(), RegistryError> {
        let mut next = self.content.clone();
        change(&mut next.more.notice);
        next.more.notice.version = next.more.notice.version.max(at_least) + 1;
        next.more.notice.at_ms = now_ms;
        let entry =
            Entry { actor: by, list: Some(next.more.notice.version), ..Entry::of("notice", "notice_issued", now_ms) };
        self.commit(next, &entry)
    }

    /// Keeps a certificate that was made for the next key of a node.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn renewed(&mut self, subject: &Subject, issued: &Issued, source: &str) -> Result<(), RegistryError> {
        let mut next = self.content.clone();
        next.add_certificate(subject, issued);
        self.commit(next, &Entry { source, ..Entry::of_certificate(subject, issued, "certificate_renewed") })
    }

    /// Notes a province that asks for a CA certificate, until one is made.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn request_authority(&mut self, request: AuthorityRequest, now_ms: u64) -> Result<(), RegistryError> {
        if self.requests().any(|one| one.key == request.key) {
            return Ok(());
        }
        let mut next = self.content.clone();
        next.more.requests.retain(|one| one.name != request.name);
        let name = request.name.to_string();
        let key = Some(request.key.to_string());
        next.more.requests.push(request);
        self.commit(next, &Entry { key, ..Entry::of(&name, "ca_requested", now_ms) })
    }

    /// Notes that the root has made a CA certificate for this key.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn certified(&mut self, key: Sha256, scope: &Scope, by: &str, now_ms: u64) -> Result<(), RegistryError> {
        let mut next = self.content.clone();
        next.more.requests.retain(|one| one.key != key);
        let entry =
            Entry { actor: by, key: Some(key.to_string()), ..Entry::of(&scope.to_string(), "ca_certified", now_ms) };
        self.commit(next, &entry)
    }

    /// After a restore: takes up what the audit log tells after line `after`, which its parent may have sent back, adds
    /// what others know to be revoked, bars the nodes it was of, and raises the number of the list. Answers how many
    /// revocations were new.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn restored(
        &mut self,
        after: u64,
        revoked: &[Revoked],
        number: u64,
        now_ms: u64,
    ) -> Result<usize, RegistryError> {
        let mut next = self.content.clone();
        let mut count = relearn::relearn(&mut next, &mut self.audit, after)?;
        for one in revoked {
            let serial = record::hex(&one.serial);
            if next.more.revocations.iter().any(|known| known.serial == serial) {
                continue;
            }
            count += 1;
            let of = next.nodes.values().find(|node| node.certificates.iter().any(|c| c.serial == serial));
            let (name, node) = (of.map(|n| n.name.to_string()).unwrap_or_default(), of.map(|n| n.id));
            let (at_ms, reason) = (one.at_ms, one.reason);
            // Whether the node or only this certificate was meant is not on the list: the careful reading is the node.
            next.more.revocations.push(RevocationRecord { serial, name, node, at_ms, reason, bars: node.is_some() });
        }
        next.more.crl_number = next.more.crl_number.max(number);
        self.commit(next, &Entry { list: Some(number), ..Entry::of("ca", "restored", now_ms) })?;
        Ok(count)
    }

    /// The names that are in use here, with their ids: of nodes that were not revoked, and of live tokens.
    #[must_use]
    pub fn names(&self, now_ms: u64) -> Vec<(NodeName, NodeId)> {
        let nodes = self.nodes().filter(|node| !self.is_barred(node.id)).map(|node| (node.name.clone(), node.id));
        let tokens = self.tokens().filter(|token| token.is_live(now_ms)).map(|token| (token.name.clone(), token.node));
        nodes.chain(tokens).collect()
    }

    /// Notes a province that began alone: it exists, though nothing was issued to it here. A name or id that is known
    /// stays as it is, unless it was revoked.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn adopt(&mut self, subject: &Subject, now_ms: u64) -> Result<(), RegistryError> {
        let lives = self.node(&subject.name).is_some_and(|node| !self.is_barred(node.id));
        if lives || self.node_by_id(subject.id).is_some() || self.is_barred(subject.id) {
            return Ok(());
        }
        let mut next = self.content.clone();
        next.nodes.insert(subject.name.clone(), NodeRecord::new(subject));
        self.commit(next, &Entry::of_node(subject.id, &subject.name, subject.role, "province_adopted", now_ms))
    }

    /// Gives a node another name from its next certificate on; the id stays.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::NewName`].
    pub fn rename(&mut self, old: &NodeName, new: &NodeName, by: &str, now_ms: u64) -> Result<NodeId, RegistryError> {
        let refused = |why: &str| RegistryError::NewName { name: new.clone(), why: why.to_owned() };
        let Some(node) = self.node(old).cloned() else {
            return Err(RegistryError::Unknown(old.to_string()));
        };
        if self.node(new).is_some() || self.tokens().any(|token| token.name == *new && token.is_live(now_ms)) {
            return Err(refused("another node has it, or a token for it is live"));
        }
        if self.notice().former(new, Some(node.id), now_ms).is_some() {
            return Err(refused("it is still understood as another node's former name"));
        }
        let mut next = self.content.clone();
        next.nodes.remove(old);
        next.nodes.insert(new.clone(), NodeRecord { name: new.clone(), ..node.clone() });
        for token in next.tokens.values_mut().filter(|token| token.node == node.id) {
            token.end();
        }
        let entry = Entry { actor: by, ..Entry::of_node(node.id, new, node.role, "renamed", now_ms) };
        self.commit(next, &Entry { former: Some(old.to_string()), ..entry })?;
        Ok(node.id)
    }

    /// Writes a line of the audit log about something that changes no registry.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn note(&mut self, what: &str, event: &'static str, by: &str, now_ms: u64) -> Result<(), RegistryError> {
        Ok(self.audit.append(&Entry { actor: by, ..Entry::of(what, event, now_ms) })?)
    }

    pub(crate) fn record_founder(&mut self, subject: &Subject, issued: &Issued) -> Result<(), RegistryError> {
        let mut next = self.content.clone();
        next.add_certificate(subject, issued);
        self.commit(next, &Entry::of_certificate(subject, issued, "overlay_founded"))
    }

    /// The name under which another node than `name` uses a key, if there is one.
    pub(crate) fn other_holder(&self, key: Sha256, name: &NodeName) -> Option<&NodeName> {
        self.nodes()
            .find(|node| node.name != *name && node.certificates.iter().any(|c| c.key == key))
            .map(|node| &node.name)
    }

    /// Whether a certificate on this key was revoked: somebody else may have the key.
    pub(crate) fn is_revoked_key(&self, key: Sha256) -> bool {
        let revoked = |serial: &str| self.revocations().any(|one| one.serial == serial);
        self.nodes().flat_map(|node| &node.certificates).any(|one| one.key == key && revoked(&one.serial))
    }

    /// Binds a token to a key and keeps the certificate made for it.
    pub(crate) fn bind(&mut self, id: TokenId, issued: &Issued, source: &str, note: &str) -> Result<(), RegistryError> {
        let mut next = self.content.clone();
        let Some(token) = next.tokens.get_mut(&id) else {
            return Err(RegistryError::NoToken(id.to_string()));
        };
        token.state = TokenState::Bound;
        token.bind(issued, source);
        let (subject, record) = (token.subject(), token.clone());
        next.add_certificate(&subject, issued);
        let entry = Entry {
            token: Some(record.id.to_string()),
            source,
            detail: note.to_owned(),
            ..Entry::of_certificate(&subject, issued, "certificate_issued")
        };
        self.commit(next, &entry)
    }

    /// The id a node of this name and role has or is to have.
    pub(crate) fn id_for(&self, name: &NodeName, role: Role, now_ms: u64) -> Result<NodeId, RegistryError> {
        if role == Role::Central || self.node(name).is_some_and(|node| node.role == Role::Central) {
            return Err(RegistryError::Central(name.clone()));
        }
        let id = self.id_of(name);
        if let Some(alias) = self.notice().former(name, id, now_ms) {
            let (name, new) = (name.clone(), alias.new.clone());
            return Err(RegistryError::Former { name, new, until_ms: alias.until_ms });
        }
        id.map_or_else(|| Ok(keystore::random_node_id()?), Ok)
    }

    /// Keeps a certificate that was issued on a person's word, without a token. A live token for the name ends.
    pub(crate) fn admit(
        &mut self,
        subject: &Subject,
        issued: &Issued,
        by: &str,
        note: &str,
    ) -> Result<(), RegistryError> {
        let mut next = self.content.clone();
        for old in next.tokens.values_mut().filter(|old| old.name == subject.name) {
            old.end();
        }
        next.add_certificate(subject, issued);
        let entry = Entry {
            actor: by,
            source: "file",
            detail: note.to_owned(),
            ..Entry::of_certificate(subject, issued, "certificate_issued")
        };
        self.commit(next, &entry)
    }

    /// Counts a wrong proof; freezes the token at [`WRONG_PROOFS`]. Answers whether it froze now.
    pub(crate) fn wrong_proof(&mut self, id: TokenId, source: &str, now_ms: u64) -> Result<bool, RegistryError> {
        let mut next = self.content.clone();
        // One that has ended is not written again: whoever knows its id could fill the disk.
        let live = |token: &&mut TokenRecord| matches!(token.state, TokenState::New | TokenState::Bound);
        let Some(token) = next.tokens.get_mut(&id).filter(live) else {
            return Ok(false);
        };
        token.wrong_proofs = token.wrong_proofs.saturating_add(1);
        let froze = token.wrong_proofs == WRONG_PROOFS && token.freeze(TokenState::FrozenByProofs);
        let record = token.clone();
        let event = if froze { "token_frozen_wrong_proofs" } else { "token_wrong_proof" };
        self.commit(next, &Entry { source, ..Entry::of_token(&record, event, now_ms) })?;
        Ok(froze)
    }

    /// Freezes a token that a second key tried to use.
    pub(crate) fn second_key(
        &mut self,
        id: TokenId,
        key: Sha256,
        source: &str,
        now_ms: u64,
    ) -> Result<(), RegistryError> {
        let mut next = self.content.clone();
        let Some(token) = next.tokens.get_mut(&id) else {
            return Ok(());
        };
        token.freeze(TokenState::FrozenByKey);
        let record = token.clone();
        let event = Entry::of_token(&record, "token_frozen_second_key", now_ms);
        self.commit(next, &Entry { source, key: Some(key.to_string()), ..event })
    }

    /// The audit line first, then the registry, and only then the caller may answer.
    fn commit(&mut self, next: Content, entry: &Entry<'_>) -> Result<(), RegistryError> {
        let stored = Stored {
            version: VERSION,
            nodes: next.nodes.values().cloned().collect(),
            tokens: next.tokens.values().cloned().collect(),
            more: next.more.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&stored)
            .map_err(|error| RegistryError::Damaged { path: self.path.clone(), why: error.to_string() })?;
        self.audit.append(entry)?;
        files::write(&self.path, &bytes, Access::Secret)?;
        self.content = next;
        Ok(())
    }
}

impl Content {
    fn add_certificate(&mut self, subject: &Subject, issued: &Issued) {
        let node = self.nodes.entry(subject.name.clone()).or_insert_with(|| NodeRecord::new(subject));
        if node.id != subject.id {
            // The one before was revoked: its name is a new node's.
            *node = NodeRecord::new(subject);
        }
        node.role = subject.role;
        // A revocation names what is still valid; what expired long ago is in the audit log.
        node.certificates.retain(|one| one.not_after_ms.saturating_add(REMEMBER_MS) > issued.issued_at_ms);
        node.certificates.push(CertificateRecord::new(issued));
        node.latest = Some(record::hex(&issued.certificate));
    }
}

fn hold(path: &Path) -> Result<File, RegistryError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .and_then(|file| files::adopt(&file, path).map(|()| file))
        .map_err(files::io_at(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RegistryError::Held { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(files::io_at(path)(source).into()),
    }
}

fn parse(bytes: &[u8]) -> Result<Content, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } =
        serde_json::from_slice(bytes).map_err(|error| format!("{error}; restore it from a backup"))?;
    if !(1..=VERSION).contains(&version) {
        return Err(format!("it has version {version}; this release knows {VERSION}: update tramd"));
    }
    let stored: Stored = serde_json::from_slice(bytes).map_err(|error| format!("{error}; restore it from a backup"))?;
    Ok(Content {
        nodes: stored.nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
        tokens: stored.tokens.into_iter().map(|token| (token.id, token)).collect(),
        more: stored.more,
    })
}

/// The numbers of the last revocation lists, the CA's and the root's, in the bytes of a [`REGISTRY_JSON`].
pub(crate) fn list_numbers(bytes: &[u8]) -> Result<(u64, u64), String> {
    parse(bytes).map(|content| (content.more.crl_number, content.more.root_crl_number))
}

/// Prints when a token ends, for messages.
impl std::fmt::Display for TokenRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token {} for {} ({}, until {})", self.id, self.name, self.state.as_str(), Utc(self.expires_ms))
    }
}

#[cfg(test)]
mod tests;
