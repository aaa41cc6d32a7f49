//! The root's key away from its node: taken from it, and used by file, with no daemon and no network.

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use tram_proto::name::NodeName;
use tram_proto::pki::{Item, Object, ObjectKey};

use crate::authority::{AuthorityError, Root, Scope};
use crate::bundle::{Bundle, ObjectError};
use crate::crl::{Crl, Reason, Revoked};
use crate::csr::{CsrError, LeafKey};
use crate::files::{self, Access, FileError};
use crate::hash::Sha256;
use crate::keystore::ROOT_KEY;
use crate::parcel::{CaRequest, Parcel};
use crate::policy;
use crate::registry::{Registry, RegistryError};
use crate::rotate::{self, Stage};
use crate::stated::{Stated, Whose};
use crate::trust::TrustError;

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CeremonyError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An exchange of roots needs the keys where they are.
    #[error("an exchange of roots is under way: end it first, see `tram pki rotate root status`")]
    Rotating,
    /// Keys and certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The request.
    #[error("the request of {scope}: {error}")]
    Csr {
        /// For which names.
        scope: Scope,
        /// What is wrong.
        error: CsrError,
    },
    /// There is nothing to revoke.
    #[error("{0} has no CA that this bundle knows, or it was revoked before")]
    NoCa(NodeName),
    /// The new roots.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// What came with them.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The node would stand alone.
    #[error(
        "the certificate of this node's CA under the new root is not in it: write the file with `tram pki bundle export` at a node that has the new root"
    )]
    Orphaned,
    /// The copy is not one of this key.
    #[error("the copy is not one of {path}: the key stays where it is", path = .0.display())]
    Copy(PathBuf),
}

/// Certifies the CA that asks; two people have compared the request's fingerprint.
///
/// # Errors
/// [`CeremonyError`].
pub fn certify(root: &Root, request: &CaRequest, now_ms: u64) -> Result<Object, CeremonyError> {
    let scope = request.scope.clone();
    let key = LeafKey::from_csr(&request.csr).map_err(|error| CeremonyError::Csr { scope, error })?;
    let content = root.certify(&key, &request.scope, now_ms)?.to_vec();
    let item = Item { key: ObjectKey::Authority(Sha256::of(&content).0), version: 1 };
    Ok(Object { item, content: content.into() })
}

/// The root's next revocation list: what the one in `bundle` names, and the CA of a province if one is to be revoked.
///
/// # Errors
/// [`CeremonyError`].
pub fn revocation_list(
    root: &Root,
    bundle: &Bundle,
    revoke: Option<(&NodeName, Reason)>,
    now_ms: u64,
) -> Result<Object, CeremonyError> {
    let held = bundle.crl(&root.id());
    let mut revoked = held.map(Crl::revoked).unwrap_or_default();
    if let Some((province, reason)) = revoke {
        let cas =
            bundle.authorities().filter(|known| known.ca.scope.apex() == Some(province) && known.root == root.id());
        let new = cas.filter(|known| !bundle.is_revoked(known));
        let before = revoked.len();
        revoked.extend(new.map(|known| Revoked { serial: known.serial.clone(), at_ms: now_ms, reason }));
        if revoked.len() == before {
            return Err(CeremonyError::NoCa(province.clone()));
        }
    }
    let number = held.map_or(0, |held| held.number) + 1;
    let content = root.crl(&revoked, number, now_ms)?.into();
    Ok(Object { item: Item { key: ObjectKey::Crl(root.id().0), version: number }, content })
}

/// Replaces the roots of a node by those in a file, whatever they were, and takes what else is in it. `chain` is the
/// node's own: its CA has to be among what the new roots vouch for, or nobody would believe the node any more.
///
/// # Errors
/// [`CeremonyError`]; nothing has changed then.
pub fn pin(
    bundle: &mut Bundle,
    parcel: &Parcel,
    chain: &[CertificateDer<'static>],
    now_ms: u64,
) -> Result<(), CeremonyError> {
    let is_root = |der: &&CertificateDer<'static>| Stated::read(der).is_ok_and(|one| one.whose == Whose::Root);
    let mut next = bundle.clone();
    next.pin(parcel.certificates.iter().filter(is_root).cloned().collect())?;
    for object in &parcel.objects {
        next.take(object, now_ms)?;
    }
    let issuer = chain.get(1).and_then(|ca| policy::key_of(ca));
    if issuer.is_none_or(|issuer| next.certificates_of(&issuer).is_empty()) {
        return Err(CeremonyError::Orphaned);
    }
    *bundle = next;
    Ok(())
}

/// Deletes the root's key in `dir`, of whose file a copy with this digest is elsewhere.
///
/// # Errors
/// [`CeremonyError`]; the key is still there then.
pub fn forget(
    dir: &Path,
    registry: &mut Registry,
    digest: &Sha256,
    by: &str,
    now_ms: u64,
) -> Result<(), CeremonyError> {
    if rotate::stage(dir) != Stage::None {
        return Err(CeremonyError::Rotating);
    }
    let path = dir.join(ROOT_KEY);
    let key = zeroize::Zeroizing::new(files::read(&path, Access::Secret)?);
    if Sha256::of(&key) != *digest {
        return Err(CeremonyError::Copy(path));
    }
    registry.note("root", "root_key_removed", by, now_ms)?;
    Ok(files::remove(&path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use crate::fixtures::{NOW_MS, Tree};

    #[test]
    fn a_key_is_forgotten_only_when_the_copy_is_one_of_it() {
        let mut tree = Tree::new();
        let dir = tree.central.dir().to_owned();
        let key = std::fs::read(dir.join(ROOT_KEY)).expect("there");
        let registry = &mut tree.registry;
        let refused = forget(&dir, registry, &Sha256::of(b"another"), "lan", NOW_MS).expect_err("no copy");
        assert!(matches!(refused, CeremonyError::Copy(_)), "{refused}");
        rotate::begin(&dir, &mut tree.bundle, registry, "lan", NOW_MS).expect("begun");
        let refused = forget(&dir, registry, &Sha256::of(&key), "lan", NOW_MS).expect_err("two roots");
        assert!(matches!(refused, CeremonyError::Rotating), "{refused}");
        rotate::switch(&dir, &mut tree.bundle, registry, "lan", NOW_MS).expect("switched");
        rotate::finish(&dir, &mut tree.bundle, registry, Vec::new(), "lan", NOW_MS).expect("finished");
        let key = std::fs::read(dir.join(ROOT_KEY)).expect("there");
        forget(&dir, registry, &Sha256::of(&key), "lan", NOW_MS).expect("forgotten");
        assert!(!dir.join(ROOT_KEY).exists());
    }

    #[test]
    fn a_ca_is_certified_and_revoked_with_a_key_that_is_elsewhere() {
        let mut tree = Tree::new();
        let (away, asks) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let key = away.path().join("stick.key");
        files::write(&key, &std::fs::read(tree.central.dir().join(ROOT_KEY)).expect("there"), Access::Secret)
            .expect("copied");
        let root = Root::at(&key, None, tree.bundle.roots()).expect("opens");
        let other = Root::at(&key, None, Tree::new().bundle.roots()).expect_err("another overlay's root");
        assert!(other.to_string().contains("stick.key"), "{other}");

        let csr = Authority::request(asks.path()).expect("a key").into();
        let can_tho: NodeName = "can-tho".parse().expect("name");
        let request = CaRequest { scope: Scope::Below(can_tho.clone()), csr };
        let signed = certify(&root, &request, NOW_MS).expect("certified");
        assert_eq!(tree.take(&signed), Ok(true));
        let refused =
            revocation_list(&root, &tree.bundle, Some((&"an-giang".parse().expect("name"), Reason::Retired)), NOW_MS);
        assert!(matches!(refused, Err(CeremonyError::NoCa(_))));
        for step in 0..2 {
            let revoke = (step == 0).then_some((&can_tho, Reason::KeyCompromise));
            let list = revocation_list(&root, &tree.bundle, revoke, NOW_MS + step).expect("made");
            assert_eq!(tree.take(&list), Ok(true), "the next one names it as well");
            assert!(
                tree.bundle.authorities().any(|known| known.ca.scope == request.scope && tree.bundle.is_revoked(known))
            );
        }
    }
}
