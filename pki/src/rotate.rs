//! Exchanging the root, or a CA's key, while the overlay works: begin, switch, finish.
//!
//! `begin` makes the next root, lets it vouch for every CA, and asks everyone to trust both. `switch` makes it the one that
//! tokens name. `finish` drops the old one, once everyone has said that it trusts the next. Each step is objects of the
//! bundle and files beside `root.key`, so a step broken off is taken again. Works on files, with no daemon and no network.
//! `research/pki.md` §3d, §4 "Root rotation".

use std::path::Path;

use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tram_proto::limits;
use tram_proto::pki::{Item, Object, ObjectKey, PastRoot};

use crate::authority::{Authority, AuthorityError, CaKey, Root, fits, unsigned_list};
use crate::bundle::{Bundle, Known, ObjectError};
use crate::clock::BACKDATE_MS;
use crate::csr::LeafKey;
use crate::files::{self, FileError};
use crate::hash::Sha256;
use crate::keystore::{self, CA_KEY, CA_PEM, KeyError, ROOT_KEY, ROOT_PEM};
use crate::lock::{self, Passphrase};
use crate::policy;
use crate::registry::{Registry, RegistryError};

/// The next root's key until the switch.
pub const ROOT_KEY_NEXT: &str = "root-next.key";
/// Its certificate, until the bundle has it.
pub const ROOT_PEM_NEXT: &str = "root-next.pem";
/// The old root's key from the switch on.
pub const ROOT_KEY_OLD: &str = "root-old.key";

/// How far an exchange of roots is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// None is under way.
    None,
    /// Both are trusted; tokens name the old one.
    Begun,
    /// Both are trusted; tokens name the new one.
    Switched,
}

impl Stage {
    /// The word for people and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Begun => "begun",
            Self::Switched => "switched",
        }
    }
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// Keys and files.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Our own bundle does not take it.
    #[error("this node's own bundle refuses the step: {0}")]
    Object(#[from] ObjectError),
    /// The root's key is elsewhere.
    #[error("the root's key is not here: run this where it is, with a copy of this node's pki directory beside it")]
    NoRoot,
    /// Another step is due.
    #[error("the exchange of roots is at stage `{}`: {cure}", .stage.as_str())]
    Stage {
        /// Where it is.
        stage: Stage,
        /// What to do.
        cure: &'static str,
    },
    /// Somebody would be left behind.
    #[error(
        "{count} nodes do not trust the new root yet: {names}. Wait for them, or leave them behind with --abandon NAME",
        count = .0.len(), names = .0.join(", ")
    )]
    Stragglers(Vec<String>),
}

impl From<KeyError> for RotateError {
    fn from(error: KeyError) -> Self {
        Self::Authority(error.into())
    }
}

impl From<FileError> for RotateError {
    fn from(error: FileError) -> Self {
        Self::Authority(error.into())
    }
}

/// How far it is, by the files in `dir`.
#[must_use]
pub fn stage(dir: &Path) -> Stage {
    if dir.join(ROOT_KEY_OLD).exists() {
        Stage::Switched
    } else if dir.join(ROOT_KEY_NEXT).exists() {
        Stage::Begun
    } else {
        Stage::None
    }
}

/// Every root whose key is in `dir`, the one in force first.
///
/// # Errors
/// [`AuthorityError`].
pub fn roots(dir: &Path) -> Result<Vec<Root>, AuthorityError> {
    roots_with(dir, keystore::read_key)
}

/// The same with a passphrase, which opens what is locked.
///
/// # Errors
/// [`AuthorityError`].
pub fn unlock_roots(dir: &Path, passphrase: &Passphrase) -> Result<Vec<Root>, AuthorityError> {
    roots_with(dir, |path| lock::open_key(path, passphrase))
}

fn roots_with(
    dir: &Path,
    read: impl Fn(&Path) -> Result<PrivatePkcs8KeyDer<'static>, KeyError>,
) -> Result<Vec<Root>, AuthorityError> {
    let mut found = Vec::new();
    for (key, pem) in [(ROOT_KEY, ROOT_PEM), (ROOT_KEY_NEXT, ROOT_PEM_NEXT), (ROOT_KEY_OLD, ROOT_PEM)] {
        found.extend(Root::open_as(dir, key, pem, &read)?);
    }
    Ok(found)
}

/// What of roots that are trusted no more is still believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// What they certified in their time.
    Kept,
    /// Nothing of the one that is dropped now: it was stolen.
    ButThisOne,
    /// Nothing of any.
    Dropped,
}

/// The next list. A root that it leaves out becomes a past one, unless it was stolen: whoever has its key can sign
/// anything with any date.
fn list(
    bundle: &Bundle,
    roots: &[&Root],
    signers: &[&Root],
    keep: Past,
    now_ms: u64,
) -> Result<Object, AuthorityError> {
    let certificates: Vec<CertificateDer<'static>> = roots.iter().map(|root| root.certificate().clone()).collect();
    let left_out = bundle.roots().iter().filter(|root| keep == Past::Kept && !certificates.contains(root));
    let past = left_out.map(|root| PastRoot { certificate: root.to_vec().into(), until_ms: now_ms });
    let past =
        past.chain(bundle.past().iter().filter(|_| keep != Past::Dropped).cloned()).take(limits::PAST_ROOTS).collect();
    let version = bundle.version() + 1;
    let mut list = unsigned_list(bundle.zone(), version, &certificates, past, now_ms);
    signers.iter().try_for_each(|root| root.sign(&mut list))?;
    Ok(Object { item: Item { key: ObjectKey::Roots, version }, content: list.encode() })
}

/// The next root vouches for every CA that lives, and says what is revoked.
fn vouch(
    bundle: &Bundle,
    next: &Root,
    registry: &mut Registry,
    by: &str,
    now_ms: u64,
) -> Result<Vec<Object>, RotateError> {
    let mut out = Vec::new();
    let mut done: Vec<Sha256> =
        bundle.authorities().filter(|known| known.root == next.id()).map(|known| known.ca.key).collect();
    let mut authorities: Vec<&Known> = bundle.authorities().collect();
    authorities.sort_by_key(|known| known.ca.not_before_ms);
    for known in authorities {
        if done.contains(&known.ca.key) || bundle.is_revoked(known) || known.ca.not_after_ms <= now_ms {
            continue;
        }
        done.push(known.ca.key);
        let parsed = policy::parse(&known.der).map_err(ObjectError::from)?;
        let key = LeafKey::of_spki(parsed.public_key().raw)
            .map_err(|error| AuthorityError::Make { what: "CA certificate", why: error.to_string() })?;
        // Of two CAs for the same names the later one stays the later one: each begins a second after the one before.
        let since_ms = now_ms.saturating_sub(BACKDATE_MS) + 1000 * out.len() as u64;
        let certificate = next.certify_since(&key, &known.ca.scope, Some(since_ms), now_ms)?;
        registry.certified(known.ca.key, &known.ca.scope, by, now_ms)?;
        let id = ObjectKey::Authority(Sha256::of(&certificate).0);
        out.push(Object { item: Item { key: id, version: 1 }, content: certificate.to_vec().into() });
    }
    let number = registry.next_crl(true, 0, now_ms)?;
    let content = next.crl(&registry.root_revoked(), number, now_ms)?.into();
    out.push(Object { item: Item { key: ObjectKey::Crl(next.id().0), version: number }, content });
    Ok(out)
}

/// The bundle as it is with these objects.
fn with(bundle: &Bundle, objects: &[Object], now_ms: u64) -> Result<Bundle, ObjectError> {
    let mut changed = bundle.clone();
    objects.iter().try_for_each(|object| changed.take(object, now_ms).map(|_| ()))?;
    Ok(changed)
}

/// A list that trusts both roots, in this order, and what the next one vouches for; and the bundle with all that.
fn both(
    bundle: &Bundle,
    [first, second]: [&Root; 2],
    next: &Root,
    registry: &mut Registry,
    by: &str,
    now_ms: u64,
) -> Result<(Vec<Object>, Bundle), RotateError> {
    let mut objects = vec![list(bundle, &[first, second], &[first, second], Past::Kept, now_ms)?];
    let changed = with(bundle, &objects, now_ms)?;
    let vouched = vouch(&changed, next, registry, by, now_ms)?;
    let changed = with(&changed, &vouched, now_ms)?;
    objects.extend(vouched);
    Ok((objects, changed))
}

fn present(dir: &Path) -> Result<Root, RotateError> {
    Root::open(dir)?.ok_or(RotateError::NoRoot)
}

fn other(dir: &Path, key: &str, pem: &str) -> Result<Root, RotateError> {
    Root::open_as(dir, key, pem, keystore::read_key)?.ok_or(RotateError::NoRoot)
}

/// Makes the next root and asks everyone to trust both. The objects are in `bundle` and saved when this returns.
///
/// # Errors
/// [`RotateError`]; nobody has been told of anything then.
pub fn begin(
    dir: &Path,
    bundle: &mut Bundle,
    registry: &mut Registry,
    by: &str,
    now_ms: u64,
) -> Result<Vec<Object>, RotateError> {
    let old = present(dir)?;
    let known = |root: &Root| bundle.roots().contains(root.certificate());
    let next = match Root::open_as(dir, ROOT_KEY_NEXT, ROOT_PEM_NEXT, keystore::read_key)? {
        Some(next) if known(&next) => {
            let cure = "go on with `tram pki rotate root switch`";
            return Err(RotateError::Stage { stage: Stage::Begun, cure });
        }
        // A begin that was broken off.
        Some(next) => next,
        None if stage(dir) == Stage::Switched => {
            let cure = "end it first with `tram pki rotate root finish`";
            return Err(RotateError::Stage { stage: Stage::Switched, cure });
        }
        None => {
            let (next, key) = Root::make(bundle.zone(), now_ms)?;
            keystore::write_certificates(&dir.join(ROOT_PEM_NEXT), std::slice::from_ref(next.certificate()))?;
            keystore::write_key(&dir.join(ROOT_KEY_NEXT), &key)?;
            next
        }
    };
    registry.note("root", "root_rotation_begun", by, now_ms)?;
    let (objects, changed) = both(bundle, [&old, &next], &next, registry, by, now_ms)?;
    changed.save(dir)?;
    *bundle = changed;
    Ok(objects)
}

/// Makes the next root the one that tokens and new certificates name.
///
/// # Errors
/// [`RotateError`].
pub fn switch(
    dir: &Path,
    bundle: &mut Bundle,
    registry: &mut Registry,
    by: &str,
    now_ms: u64,
) -> Result<Vec<Object>, RotateError> {
    if stage(dir) != Stage::Begun {
        let cure = "begin it with `tram pki rotate root begin`, or end it with `finish`";
        return Err(RotateError::Stage { stage: stage(dir), cure });
    }
    let (old, next) = (present(dir)?, other(dir, ROOT_KEY_NEXT, ROOT_PEM_NEXT)?);
    registry.note("root", "root_rotation_switched", by, now_ms)?;
    // There may be CAs that came after `begin`.
    let (objects, changed) = both(bundle, [&next, &old], &next, registry, by, now_ms)?;
    changed.save(dir)?;
    files::rename(&dir.join(ROOT_KEY), &dir.join(ROOT_KEY_OLD))?;
    files::rename(&dir.join(ROOT_KEY_NEXT), &dir.join(ROOT_KEY))?;
    *bundle = changed;
    Ok(objects)
}

/// Drops the old root; what was signed in its time is believed on. `stragglers` are the nodes that have not said that they
/// trust the new one.
///
/// # Errors
/// [`RotateError::Stragglers`] while there are any.
pub fn finish(
    dir: &Path,
    bundle: &mut Bundle,
    registry: &mut Registry,
    stragglers: Vec<String>,
    by: &str,
    now_ms: u64,
) -> Result<Vec<Object>, RotateError> {
    if stage(dir) != Stage::Switched {
        let cure = "`begin` and `switch` come first";
        return Err(RotateError::Stage { stage: stage(dir), cure });
    }
    if !stragglers.is_empty() {
        return Err(RotateError::Stragglers(stragglers));
    }
    drop_old(dir, bundle, registry, by, Past::Kept, now_ms)
}

fn drop_old(
    dir: &Path,
    bundle: &mut Bundle,
    registry: &mut Registry,
    by: &str,
    keep: Past,
    now_ms: u64,
) -> Result<Vec<Object>, RotateError> {
    let (next, old) = (present(dir)?, other(dir, ROOT_KEY_OLD, ROOT_PEM)?);
    registry.note("root", "root_rotation_finished", by, now_ms)?;
    // Signed by the old one as well: a node that was away all the time still trusts only that.
    let objects = vec![list(bundle, &[&next], &[&next, &old], keep, now_ms)?];
    let changed = with(bundle, &objects, now_ms)?;
    changed.save(dir)?;
    files::remove(&dir.join(ROOT_KEY_OLD))?;
    files::remove(&dir.join(ROOT_PEM_NEXT))?;
    *bundle = changed;
    Ok(objects)
}

/// The whole exchange at once, because the old root's key was stolen: nobody is waited for, and nothing that only the old
/// root vouches for is believed any more, whatever its date. Nodes that are linked take it within seconds; the others need
/// it by hand, for whoever has the old key can sign lists as well. With `and_past` the same goes for the past roots.
///
/// # Errors
/// [`RotateError`].
pub fn at_once(
    dir: &Path,
    bundle: &mut Bundle,
    registry: &mut Registry,
    and_past: bool,
    by: &str,
    now_ms: u64,
) -> Result<Vec<Object>, RotateError> {
    let keep = if and_past { Past::Dropped } else { Past::ButThisOne };
    let mut objects = Vec::new();
    if stage(dir) == Stage::None {
        objects.extend(begin(dir, bundle, registry, by, now_ms)?);
    }
    if stage(dir) == Stage::Begun {
        objects.extend(switch(dir, bundle, registry, by, now_ms)?);
    }
    objects.extend(drop_old(dir, bundle, registry, by, keep, now_ms)?);
    Ok(objects)
}

/// What a node shows after its leaf: its CA under every root, the newest root's first. What it showed before stays until
/// it expires, for neighbours that have missed the exchange; `most` certificates at most.
#[must_use]
pub fn shown(
    bundle: &Bundle,
    issuer: &Sha256,
    before: &[CertificateDer<'static>],
    most: usize,
    now_ms: u64,
) -> Vec<CertificateDer<'static>> {
    let mut out = bundle.certificates_of(issuer);
    for old in before {
        let lives = policy::parse(old).is_ok_and(|p| policy::ms(p.validity().not_after.timestamp()) > now_ms);
        if lives && !out.contains(old) {
            out.push(old.clone());
        }
    }
    out.truncate(most);
    out
}

/// The key of this node's next CA until its certificate is here.
pub const CA_KEY_NEXT: &str = "ca-next.key";
const CA_PEM_NEXT: &str = "ca-next.pem";
/// Before the first eight digits of its key's SHA-256: a CA that only makes revocation lists any more.
const CA_OLD: &str = "ca-old-";

/// The request for a certificate on this node's next CA key, which is made if there is none.
///
/// # Errors
/// [`AuthorityError`].
pub fn ca_begin(dir: &Path) -> Result<Vec<u8>, AuthorityError> {
    ca_settle(dir)?;
    Authority::request_as(dir, CA_KEY_NEXT)
}

/// Puts the next CA key into use, with the certificates that roots gave it. The old one goes on making revocation lists
/// until [`ca_finish`]. Answers false when the certificates are of another key.
///
/// # Errors
/// [`AuthorityError`].
pub fn ca_switch(dir: &Path, certificates: &[CertificateDer<'static>]) -> Result<bool, AuthorityError> {
    let key = match CaKey::read(&dir.join(CA_KEY_NEXT), keystore::read_key) {
        Ok(key) => key,
        Err(KeyError::File(FileError::Missing { .. })) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if certificates.is_empty() || !certificates.iter().all(|one| fits(one, &key)) {
        return Ok(false);
    }
    keystore::write_certificates(&dir.join(CA_PEM_NEXT), certificates)?;
    ca_settle(dir)?;
    Ok(true)
}

/// Ends a switch that was broken off: where the next certificate stands, the next key comes into use.
///
/// # Errors
/// [`AuthorityError`].
pub fn ca_settle(dir: &Path) -> Result<(), AuthorityError> {
    let (next, certificates) = (dir.join(CA_KEY_NEXT), dir.join(CA_PEM_NEXT));
    if !certificates.exists() {
        return Ok(());
    }
    let (key, pem) = (dir.join(CA_KEY), dir.join(CA_PEM));
    if next.exists() {
        // The certificate first: as long as it is under its own name, the key is too.
        if let (true, Ok(old)) = (key.exists(), keystore::read_certificates(&pem)) {
            let id = old.first().and_then(|der| policy::parse(der).ok().map(|p| Sha256::of(p.public_key().raw)));
            let id = id.map(|id| id.to_string()).unwrap_or_default();
            let name = format!("{CA_OLD}{}", id.get(..8).unwrap_or_default());
            keystore::write_certificates(&dir.join(format!("{name}.pem")), &old)?;
            files::rename(&key, &dir.join(format!("{name}.key")))?;
        }
        files::rename(&next, &key)?;
    }
    Ok(files::rename(&certificates, &pem)?)
}

/// The CAs of this node that only make revocation lists any more.
///
/// # Errors
/// [`AuthorityError`].
pub fn ca_old(dir: &Path) -> Result<Vec<Authority>, AuthorityError> {
    let entries = std::fs::read_dir(dir).map_err(files::io_at(dir))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with(CA_OLD) && name.ends_with(".key"));
    names.sort();
    let pem = |name: &str| format!("{}.pem", name.trim_end_matches(".key"));
    names.iter().map(|name| Authority::open_as(dir, name, &pem(name))).collect()
}

/// Forgets the old CA keys, when nothing that they certified is in use any more. Each makes a last revocation list, which
/// stays fresh as long as its certificate: the objects are in `bundle` and saved when this returns.
///
/// # Errors
/// [`RotateError::Stragglers`] while something is.
pub fn ca_finish(
    dir: &Path,
    bundle: &mut Bundle,
    registry: &mut Registry,
    stragglers: Vec<String>,
    now_ms: u64,
) -> Result<usize, RotateError> {
    if !stragglers.is_empty() {
        return Err(RotateError::Stragglers(stragglers));
    }
    let old = ca_old(dir)?;
    let mut changed = bundle.clone();
    for one in &old {
        let id = one.id();
        let number = registry.next_crl(false, changed.crl(&id).map_or(0, |crl| crl.number), now_ms)?;
        let content = one.last_crl(&registry.revoked(), number, now_ms)?.into();
        changed.take(&Object { item: Item { key: ObjectKey::Crl(id.0), version: number }, content }, now_ms)?;
    }
    changed.save(dir)?;
    *bundle = changed;
    for one in &old {
        let id = one.id().to_string();
        let name = format!("{CA_OLD}{}", id.get(..8).unwrap_or_default());
        files::remove(&dir.join(format!("{name}.key")))?;
        files::remove(&dir.join(format!("{name}.pem")))?;
    }
    Ok(old.len())
}

#[cfg(test)]
mod tests;
