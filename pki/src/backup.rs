//! Backup and restore of a node's PKI and config: one encrypted file. Never the spool.
//!
//! Owns the file's form, `backup.json` (the last backup that was made) and `restored.json` (this node's PKI came from a
//! backup and may not issue yet). Works on files alone, also while the daemon runs. Guarantees that a backup was opened
//! again before it is called one, and that a restore touches nothing before the whole backup was read and found right.
//!
//! The file: magic, version, length of the rest, salt, check, nonce, the clear facts as JSON, and AES-256-GCM over the
//! files, with everything before it authenticated. Key and check come of the passphrase by scrypt, so a wrong
//! passphrase and a damaged file are told apart. `research/pki.md` §4 "Backup/restore", §5 rows 23 and 24.

mod container;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tram_proto::id::NodeId;
use tram_proto::name::NodeName;
use zeroize::Zeroizing;

use crate::clock::Utc;
use crate::files::{self, Access, FileError};
use crate::hash::Sha256;
use crate::journal::{self, Head};
use crate::keystore::{self, CA_PEM, KeyError, NODE_PEM, ROOT_PEM};
use crate::lock::{Passphrase, PassphraseError};
use crate::registry::{self, AUDIT_LOG, REGISTRY_JSON, REGISTRY_LOCK};

pub use container::Facts;
use container::Member;

/// The last backup that was made.
pub const BACKUP_JSON: &str = "backup.json";
/// The PKI came from a backup; the CA may have been told more since.
pub const RESTORED_JSON: &str = "restored.json";

/// How often a set of files that changed while it was read is read again.
const READS: usize = 5;
/// Versions of the two small files.
const VERSION: u32 = 1;

/// Where a node's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The config file.
    pub config: PathBuf,
    /// More config files.
    pub conf_d: PathBuf,
    /// The pki directory.
    pub pki: PathBuf,
}

/// Why a backup was not made or not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key or certificate of the node.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not a passphrase that may be set.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The node changed its files all the while.
    #[error("the node changed its files while they were read: try again")]
    Busy,
    /// Not a backup, or a damaged one.
    #[error("{path} cannot be restored: {why}; nothing was changed", path = path.display())]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// What was made cannot be relied on.
    #[error("no backup was made at {path}: {why}", path = path.display())]
    Unproved {
        /// Where it was to be.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The passphrase is another.
    #[error("the passphrase does not open {path}; nothing was changed", path = path.display())]
    WrongPassphrase {
        /// The backup.
        path: PathBuf,
    },
    /// It belongs to another overlay than the directory.
    #[error("the backup is of zone {backup}, but {dir} belongs to zone {here}; nothing was changed", dir = dir.display())]
    OtherZone {
        /// The backup's zone.
        backup: String,
        /// The pki directory.
        dir: PathBuf,
        /// Its zone.
        here: String,
    },
    /// There is a node already.
    #[error("{dir} has keys already: stop the node and move that directory away first; nothing was changed", dir = dir.display())]
    Exists {
        /// The pki directory.
        dir: PathBuf,
    },
}

/// A backup that was made, or one that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// What it says of itself.
    pub facts: Facts,
    /// SHA-256 of the file.
    pub sha256: Sha256,
    /// Its length.
    pub bytes: u64,
    /// The names of the files in it.
    pub files: Vec<String>,
}

/// Backs a node up into `file`, which takes the place of an older backup there. Without keys, the backup holds no private
/// key.
///
/// # Errors
/// [`BackupError`]; an older backup is still there then.
pub fn make(
    places: &Places,
    file: &Path,
    passphrase: &Passphrase,
    keys: bool,
    now_ms: u64,
) -> Result<Made, BackupError> {
    passphrase.check_length()?;
    files::check_dir(&places.pki)?;
    let members = collect(places, keys)?;
    let unproved = |why: String| BackupError::Unproved { path: file.to_owned(), why };
    let find = |name: &str| members.iter().find(|member| member.name == format!("pki/{name}"));
    let head = journal::head_of(find(AUDIT_LOG).map_or(&[], |member| &member.content));
    // A registry that cannot be read must not take the place of one that could.
    let numbers = find(REGISTRY_JSON).map_or(Ok((0, 0)), |member| registry::list_numbers(&member.content));
    let (crl_number, root_crl_number) = numbers.map_err(|why| unproved(format!("{REGISTRY_JSON}: {why}")))?;
    let (name, node, zone) = owner(&places.pki)?;
    let facts = Facts {
        zone,
        name: name.to_string(),
        node: node.to_string(),
        made_ms: now_ms,
        keys,
        crl_number,
        root_crl_number,
        audit_lines: head.number,
        audit_hash: head.hash.to_string(),
    };
    let bytes = container::seal(&facts, &members, passphrase)?;
    if bytes.len() as u64 > files::FILE_BYTES {
        let why = format!(
            "it has {} bytes, more than can be restored: move old files of pki/{} away",
            bytes.len(),
            journal::COPIES_DIR
        );
        return Err(unproved(why));
    }
    if container::open(&bytes, passphrase).ok() != Some((facts.clone(), members.clone())) {
        return Err(unproved("it did not open as it was written".to_owned()));
    }
    files::write(file, &bytes, Access::Secret)?;
    if files::read(file, Access::Public)? != bytes {
        return Err(unproved("the disk did not keep it".to_owned()));
    }
    let made = Made {
        sha256: Sha256::of(&bytes),
        bytes: bytes.len() as u64,
        files: members.into_iter().map(|member| member.name).collect(),
        facts,
    };
    LastBackup { version: VERSION, made_ms: now_ms, sha256: made.sha256.to_string(), keys }.record(&places.pki)?;
    Ok(made)
}

/// Whose pki directory it is. Its certificate and root are enough: a key may be locked or elsewhere.
fn owner(pki: &Path) -> Result<(NodeName, NodeId, String), BackupError> {
    let trust = keystore::load_roots(&pki.join(ROOT_PEM))?;
    let path = pki.join(NODE_PEM);
    let chain = keystore::read_certificates(&path)?;
    let peer = trust.peer_of(&chain).map_err(|error| KeyError::Chain { path, source: error.into() })?;
    Ok((peer.name, peer.id, trust.zone().to_string()))
}

/// Every file worth keeping. Logs come last, this node's own after all others, so it tells of everything the registry
/// knows; they only grow, and half a line at their end does no harm. The others are read again when one of them changed
/// meanwhile.
fn collect(places: &Places, keys: bool) -> Result<Vec<Member>, BackupError> {
    for _ in 0..READS {
        match read_once(places, keys) {
            Ok(Some(members)) => return Ok(members),
            // It changed, or was there when the directory was read and is gone now.
            Ok(None) | Err(FileError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(BackupError::Busy)
}

fn read_once(places: &Places, keys: bool) -> Result<Option<Vec<Member>>, FileError> {
    let (logs, before) = list(places, keys)?;
    let read = |listed: &Listed| {
        let access = if listed.name.ends_with(".key") { Access::Secret } else { Access::Public };
        let content = Zeroizing::new(files::read(&listed.path, access)?);
        Ok::<_, FileError>(Member { name: listed.name.clone(), content })
    };
    let mut members = before.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    if list(places, keys)?.1 != before {
        return Ok(None);
    }
    for log in &logs {
        members.push(read(log)?);
    }
    Ok(Some(members))
}

/// A file that is to be kept, and what tells whether it was changed.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    name: String,
    path: PathBuf,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Listed {
    fn new(name: String, path: PathBuf, about: &fs::Metadata) -> Self {
        Self { name, path, inode: about.ino(), bytes: about.len(), changed: (about.mtime(), about.mtime_nsec()) }
    }
}

/// Logs, and the others.
fn list(places: &Places, keys: bool) -> Result<(Vec<Listed>, Vec<Listed>), FileError> {
    let mut out = Vec::new();
    let kept = |name: &str| {
        !name.starts_with('.')
            && ![REGISTRY_LOCK, BACKUP_JSON, RESTORED_JSON].contains(&name)
            && (keys || !name.ends_with(".key"))
    };
    add(&places.pki, "pki", &kept, &mut out)?;
    add(&places.conf_d, "conf.d", &|name: &str| name.ends_with(".toml"), &mut out)?;
    if places.config.exists() {
        let about = fs::metadata(&places.config).map_err(files::io_at(&places.config))?;
        out.push(Listed::new(container::CONFIG.to_owned(), places.config.clone(), &about));
    }
    // This also puts `audit.log` behind `audit-copies`.
    out.sort();
    Ok(out.into_iter().partition(|listed| listed.name.ends_with(".log")))
}

fn add(dir: &Path, prefix: &str, kept: &dyn Fn(&str) -> bool, out: &mut Vec<Listed>) -> Result<(), FileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(files::io_at(dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(files::io_at(dir))?;
        let (path, name) = (entry.path(), entry.file_name());
        // A name that is not UTF-8 is none of ours.
        let Some(name) = name.to_str().filter(|name| kept(name)) else { continue };
        let name = format!("{prefix}/{name}");
        // A link is followed to its file, for the config's sake; a secret behind one is refused when it is read.
        let about = fs::metadata(&path).map_err(files::io_at(&path))?;
        if about.is_dir() && prefix == "pki" {
            add(&path, &name, kept, out)?;
        } else if about.is_file() {
            out.push(Listed::new(name, path, &about));
        }
    }
    Ok(())
}

/// Reads a backup without restoring it.
///
/// # Errors
/// [`BackupError::Damaged`], [`BackupError::WrongPassphrase`].
pub fn check(file: &Path, passphrase: &Passphrase) -> Result<Made, BackupError> {
    let bytes = files::read(file, Access::Public)?;
    let (facts, members) = container::open(&bytes, passphrase).map_err(|error| error.at(file))?;
    let files = members.into_iter().map(|member| member.name).collect();
    Ok(Made { facts, sha256: Sha256::of(&bytes), bytes: bytes.len() as u64, files })
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What the backup says of itself.
    pub facts: Facts,
    /// Files that were put in place.
    pub files: Vec<PathBuf>,
    /// Config files that were there already and were left alone.
    pub left: Vec<PathBuf>,
    /// The node holds a CA, and it may not issue yet.
    pub suspended: bool,
}

/// Restores a backup where there are no keys. The pki directory appears whole or not at all, the config after it; a
/// config that is there stays. A CA starts suspended ([`Restored`]) unless `accept_loss`.
///
/// # Errors
/// [`BackupError`]; before the last moment nothing has been touched.
pub fn restore(places: &Places, file: &Path, passphrase: &Passphrase, accept_loss: bool) -> Result<Done, BackupError> {
    let bytes = files::read(file, Access::Public)?;
    let clear = container::facts(&bytes).map_err(|error| error.at(file))?;
    must_be_free(&places.pki, &clear)?;
    let (facts, members) = container::open(&bytes, passphrase).map_err(|error| error.at(file))?;

    let authority = members.iter().any(|member| member.name == format!("pki/{CA_PEM}"));
    let fresh = fresh_dir(&places.pki)?;
    let mut done = Done { suspended: authority && !accept_loss, facts, files: Vec::new(), left: Vec::new() };
    let mut configs = Vec::new();
    for Member { name, content } in members {
        if let Some(name) = name.strip_prefix("pki/") {
            let path = fresh.join(name);
            if files::parent(&path) != fresh {
                files::make_dir(files::parent(&path))?;
            }
            let access = if name.ends_with(".pem") { Access::Public } else { Access::Secret };
            files::write(&path, &content, access)?;
            done.files.push(places.pki.join(name));
        } else {
            let path =
                name.strip_prefix("conf.d/").map_or_else(|| places.config.clone(), |name| places.conf_d.join(name));
            if path.exists() { done.left.push(path) } else { configs.push((path, content)) }
        }
    }
    if authority {
        Restored::new(&done.facts, accept_loss).record(&fresh)?;
    }
    // An empty directory that was made for it gives way.
    fs::rename(&fresh, &places.pki).map_err(files::io_at(&places.pki))?;
    files::sync_parent(&places.pki)?;
    // The main file last: a directory with a config is complete.
    configs.sort_by_key(|(path, _)| *path == places.config);
    for (path, content) in configs {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(files::parent(&path)).map_err(files::io_at(&path))?;
        files::write(&path, &content, Access::Public)?;
        done.files.push(path);
    }
    Ok(done)
}

/// Refuses when there is anything in the pki directory.
fn must_be_free(pki: &Path, clear: &Facts) -> Result<(), BackupError> {
    let mut entries = match fs::read_dir(pki) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(files::io_at(pki)(error).into()),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    match keystore::load_roots(&pki.join(ROOT_PEM)) {
        Ok(trust) if trust.zone().as_str() != clear.zone => Err(BackupError::OtherZone {
            backup: clear.zone.clone(),
            dir: pki.to_owned(),
            here: trust.zone().to_string(),
        }),
        _ => Err(BackupError::Exists { dir: pki.to_owned() }),
    }
}

/// An empty directory beside the one to be.
fn fresh_dir(pki: &Path) -> Result<PathBuf, BackupError> {
    let parent = files::parent(pki);
    fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(files::io_at(parent))?;
    let fresh = pki.with_extension("restoring");
    match fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(files::io_at(&fresh)(error).into()),
        _ => {}
    }
    files::make_dir(&fresh)?;
    Ok(fresh)
}

/// The last backup that was made of this pki directory, in [`BACKUP_JSON`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastBackup {
    version: u32,
    /// When, Unix milliseconds.
    pub made_ms: u64,
    /// SHA-256 of the file, 64 hexadecimal digits.
    pub sha256: String,
    /// Whether the private keys are in it.
    pub keys: bool,
}

impl LastBackup {
    /// `None`: there never was one, or the file that tells is damaged, which comes to the same.
    #[must_use]
    pub fn load(pki: &Path) -> Option<Self> {
        let bytes = files::read(&pki.join(BACKUP_JSON), Access::Public).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn record(&self, pki: &Path) -> Result<(), FileError> {
        store(&pki.join(BACKUP_JSON), self)
    }
}

/// The mark of a PKI that came from a backup, in [`RESTORED_JSON`]: what was issued and revoked after the backup is not
/// in it. While it lies there and the loss is not accepted, nothing is issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restored {
    version: u32,
    /// When the backup was made, Unix milliseconds.
    pub made_ms: u64,
    /// The number of this CA's revocation list then; 0: it had none.
    pub crl_number: u64,
    /// The same of the root's, where its key is or was.
    pub root_crl_number: u64,
    /// Lines of the audit log then.
    audit_lines: u64,
    /// Its head's hash.
    audit_hash: String,
    /// An admin said that what came after the backup may be lost.
    pub accepted: bool,
}

impl Restored {
    fn new(facts: &Facts, accepted: bool) -> Self {
        Self {
            version: VERSION,
            made_ms: facts.made_ms,
            crl_number: facts.crl_number,
            root_crl_number: facts.root_crl_number,
            audit_lines: facts.audit_lines,
            audit_hash: facts.audit_hash.clone(),
            accepted,
        }
    }

    /// The audit log's head when the backup was made.
    #[must_use]
    pub fn audit(&self) -> Option<Head> {
        Some(Head { number: self.audit_lines, hash: self.audit_hash.parse().ok()? })
    }

    /// The mark in a pki directory; `None` when it did not come from a backup, or its loss was made good.
    ///
    /// # Errors
    /// [`FileError`]: also for a mark that cannot be read, because it must not count as none.
    pub fn load(pki: &Path) -> Result<Option<Self>, FileError> {
        let path = pki.join(RESTORED_JSON);
        let bytes = match files::read(&path, Access::Public) {
            Ok(bytes) => bytes,
            Err(FileError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| files::io_at(&path)(error.into()))
    }

    /// Accepts the loss: the next time it asks, the CA may issue.
    ///
    /// # Errors
    /// [`FileError`]. Without a mark there is nothing to accept: `false`.
    pub fn accept(pki: &Path) -> Result<bool, FileError> {
        let Some(mut restored) = Self::load(pki)? else { return Ok(false) };
        restored.accepted = true;
        restored.record(pki).map(|()| true)
    }

    /// Takes the mark away: what was lost is known again, or its numbers were passed over.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn clear(pki: &Path) -> Result<(), FileError> {
        let path = pki.join(RESTORED_JSON);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(files::io_at(&path)(error)),
            _ => files::sync_parent(&path),
        }
    }

    fn record(&self, pki: &Path) -> Result<(), FileError> {
        store(&pki.join(RESTORED_JSON), self)
    }
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the CA was restored from a backup of {}", Utc(self.made_ms))
    }
}

fn store(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| files::io_at(path)(error.into()))?;
    files::write(path, &bytes, Access::Secret)
}

/// For the fuzzer: reads any bytes as a backup, as far as that goes without a passphrase, and as the files in one.
///
/// # Panics
/// When something that must hold of every input does not.
pub fn fuzz(bytes: &[u8]) {
    container::fuzz(bytes);
}

#[cfg(test)]
mod tests;
