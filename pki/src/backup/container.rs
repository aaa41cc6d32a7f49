//! The bytes of a backup.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::BackupError;
use crate::hash::Sha256;
use crate::keystore::{self, KeyError};
use crate::lock::{Passphrase, SCRYPT_LOG_N};

/// Name of the main config file in a backup.
pub(super) const CONFIG: &str = "tramd.toml";
const MAGIC: &[u8; 8] = b"TRAMBAK\n";
const VERSION: u8 = 1;
/// Magic, version, and the length of what follows.
const FRONT: usize = 8 + 1 + 8;
const SALT: usize = 16;
const CHECK: usize = 16;
const NONCE: usize = 12;
/// The longest clear facts, in bytes.
const FACTS_BYTES: usize = 4096;
/// The longest name of a file in a backup, in bytes.
const NAME_BYTES: usize = 255;

/// What a backup says of itself in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The overlay's zone.
    pub zone: String,
    /// The node's name.
    pub name: String,
    /// Its id.
    pub node: String,
    /// When it was made, Unix milliseconds.
    pub made_ms: u64,
    /// Whether the private keys are in it.
    pub keys: bool,
    /// The number of the CA's last revocation list; 0: none.
    pub crl_number: u64,
    /// The same of the root's, where its key is or was.
    pub root_crl_number: u64,
    /// Lines of the audit log.
    pub audit_lines: u64,
    /// Its head's hash, 64 hexadecimal digits.
    pub audit_hash: String,
}

/// One file: `tramd.toml`, `conf.d/NAME` or `pki/...`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) content: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("name", &self.name).field("bytes", &self.content.len()).finish()
    }
}

/// Why bytes are no backup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    WrongPassphrase,
    Damaged(String),
    Random,
}

impl Unreadable {
    pub(super) fn at(self, path: &Path) -> BackupError {
        let path = path.to_owned();
        match self {
            Self::WrongPassphrase => BackupError::WrongPassphrase { path },
            Self::Damaged(why) => BackupError::Damaged { path, why },
            Self::Random => KeyError::Random.into(),
        }
    }
}

fn damaged<T>(why: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable::Damaged(why.into()))
}

/// Encryption key and the check that tells a wrong passphrase.
fn derive(passphrase: &Passphrase, salt: &[u8]) -> Result<(LessSafeKey, [u8; CHECK]), KeyError> {
    let both = passphrase.derive::<64>(salt, SCRYPT_LOG_N)?;
    let (key, rest) = both.split_at(32);
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| KeyError::Random)?;
    let mut check = [0; CHECK];
    // A hash of the second half says nothing about the first.
    check.copy_from_slice(&Sha256::of(rest).0[..CHECK]);
    Ok((LessSafeKey::new(key), check))
}

pub(super) fn seal(facts: &Facts, members: &[Member], passphrase: &Passphrase) -> Result<Vec<u8>, KeyError> {
    let (salt, nonce) = (keystore::random::<SALT>()?, keystore::random::<NONCE>()?);
    let (key, check) = derive(passphrase, &salt)?;
    let facts = serde_json::to_vec(facts).map_err(|_| KeyError::Random)?;
    let plain: usize = members.iter().map(|member| 2 + member.name.len() + 8 + member.content.len()).sum();
    let rest = SALT + CHECK + NONCE + 2 + facts.len() + plain + AES_256_GCM.tag_len();
    // With room for everything, so that growing leaves no copy of a key behind.
    let mut out = Vec::with_capacity(FRONT + rest);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&(rest as u64).to_be_bytes());
    out.extend_from_slice(&salt);
    out.extend_from_slice(&check);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&u16::try_from(facts.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(&facts);
    let clear = out.len();
    for Member { name, content } in members {
        out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&(content.len() as u64).to_be_bytes());
        out.extend_from_slice(content);
    }
    let (front, secret) = out.split_at_mut(clear);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&*front), secret).map_err(|_| KeyError::Random)?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// The parts of a backup before it is opened.
struct Closed<'a> {
    salt: &'a [u8],
    check: &'a [u8],
    nonce: [u8; NONCE],
    facts: Facts,
    clear: &'a [u8],
    secret: &'a [u8],
}

fn read(bytes: &[u8]) -> Result<Closed<'_>, Unreadable> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return damaged("it is not a backup of Tram");
    };
    let cut = || Unreadable::Damaged(format!("it is cut short: {} bytes are left", bytes.len()));
    let (version, rest) = rest.split_first().ok_or_else(cut)?;
    if *version != VERSION {
        return damaged(format!("it has version {version}, and this release knows {VERSION}: update tram"));
    }
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let length = u64::from_be_bytes(*length);
    match (rest.len() as u64).cmp(&length) {
        std::cmp::Ordering::Less => return Err(cut()),
        std::cmp::Ordering::Greater => return damaged("there is more behind its end"),
        std::cmp::Ordering::Equal => {}
    }
    let altered = || Unreadable::Damaged("it was altered".to_owned());
    let (salt, rest) = rest.split_at_checked(SALT).ok_or_else(altered)?;
    let (check, rest) = rest.split_at_checked(CHECK).ok_or_else(altered)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or_else(altered)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(altered)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (facts, secret) = rest.split_at_checked(length).filter(|_| length <= FACTS_BYTES).ok_or_else(altered)?;
    let facts = serde_json::from_slice(facts).map_err(|_| altered())?;
    let clear = &bytes[..bytes.len() - secret.len()];
    Ok(Closed { salt, check, nonce: *nonce, facts, clear, secret })
}

/// What a backup says of itself; not yet proved.
pub(super) fn facts(bytes: &[u8]) -> Result<Facts, Unreadable> {
    read(bytes).map(|closed| closed.facts)
}

/// Everything in a backup, proved to be what was written.
pub(super) fn open(bytes: &[u8], passphrase: &Passphrase) -> Result<(Facts, Vec<Member>), Unreadable> {
    let closed = read(bytes)?;
    let (key, check) = derive(passphrase, closed.salt).map_err(|_| Unreadable::Random)?;
    if check != closed.check {
        return Err(Unreadable::WrongPassphrase);
    }
    let mut secret = Zeroizing::new(closed.secret.to_vec());
    let nonce = Nonce::assume_unique_for_key(closed.nonce);
    let plain = key.open_in_place(nonce, Aad::from(closed.clear), &mut secret);
    let plain = plain.map_err(|_| Unreadable::Damaged("it was altered".to_owned()))?;
    Ok((closed.facts, members(plain)?))
}

fn members(mut rest: &[u8]) -> Result<Vec<Member>, Unreadable> {
    let mut out: Vec<Member> = Vec::new();
    while !rest.is_empty() {
        let Some((member, after)) = member(rest) else {
            return damaged("its list of files cannot be read");
        };
        if !is_ours(&member.name) || out.iter().any(|other| other.name == member.name) {
            return damaged(format!("it holds a file named {:?}", member.name));
        }
        out.push(member);
        rest = after;
    }
    Ok(out)
}

fn member(rest: &[u8]) -> Option<(Member, &[u8])> {
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (content, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= NAME_BYTES)?;
    Some((Member { name: name.to_owned(), content: Zeroizing::new(content.to_vec()) }, rest))
}

/// Whether a file of that name may be written: nothing above or beside the node's own places.
fn is_ours(name: &str) -> bool {
    let plain =
        |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(|c| !c.is_control() && c != '\\');
    match name.split('/').collect::<Vec<_>>()[..] {
        [CONFIG] => true,
        ["conf.d", file] => plain(file) && file.ends_with(".toml"),
        ["pki", file] => plain(file),
        ["pki", dir, file] => plain(dir) && plain(file),
        _ => false,
    }
}

pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(closed) = read(bytes) {
        assert_eq!(closed.clear.len() + closed.secret.len(), bytes.len());
    }
    if let Ok(members) = members(bytes) {
        let read: usize = members.iter().map(|member| 2 + member.name.len() + 8 + member.content.len()).sum();
        assert_eq!(read, bytes.len(), "every byte belongs to a file");
        assert!(members.iter().all(|member| !member.name.split('/').any(|part| part.starts_with('.'))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_places_are_taken() {
        for good in ["tramd.toml", "conf.d/10-site.toml", "pki/root.pem", "pki/audit-copies/0707.log"] {
            assert!(is_ours(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "pki/../x",
            "pki/",
            "pki//x",
            "../tramd.toml",
            "conf.d/x",
            "conf.d/.x.toml",
            "pki/.ssh/x",
            "pki/a/b/c",
            "spool/spool.redb",
            "pki/a\nb",
            "pki\\x",
        ] {
            assert!(!is_ours(bad), "{bad:?}");
        }
    }

    #[test]
    fn lists_of_files_that_were_not_written_here_are_refused() {
        let entry = |name: &str, content: &[u8]| {
            [&(name.len() as u16).to_be_bytes()[..], name.as_bytes(), &(content.len() as u64).to_be_bytes(), content]
                .concat()
        };
        let good = [entry("tramd.toml", b"x"), entry("pki/root.pem", b"")].concat();
        assert_eq!(members(&good).map(|all| all.len()), Ok(2));
        for bad in [
            good[..good.len() - 1].to_vec(),
            [&good[..], &entry("tramd.toml", b"again")].concat(),
            entry("pki/../../etc/passwd", b"x"),
            [&2_u16.to_be_bytes()[..], b"ab", &u64::MAX.to_be_bytes()].concat(),
        ] {
            assert!(matches!(members(&bad), Err(Unreadable::Damaged(_))), "{bad:?}");
            fuzz(&bad);
        }
        fuzz(&good);
    }
}
