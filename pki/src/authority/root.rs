//! A root: vouches for CAs, revokes them, and signs which roots are trusted.
//!
//! Owns `root.key`, and `root-next.key` while one root takes another's place. Its work needs no network and no daemon.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rcgen::{
    Issuer, KeyPair, PKCS_ECDSA_P384_SHA384, PublicKeyData as _, SigningKey as _, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tram_proto::name::Zone;
use tram_proto::pki::{HANDOVER_PURPOSE, PastRoot, ROOTS_PURPOSE, Roots, SignedRoots};

use super::{AuthorityError, CA_MS, CaKey, ROOT_CRL_MS, ROOT_MS, Scope, ca_params, constraints, failed, fits};
use crate::crl::{self, Revoked};
use crate::csr::LeafKey;
use crate::files::{self, FileError};
use crate::hash::Sha256;
use crate::keystore::{self, KeyError, ROOT_KEY, ROOT_PEM};
use crate::lock::{self, Passphrase};
use crate::policy;
use crate::trust::Trust;

/// A root and its key.
#[derive(Debug)]
pub struct Root {
    zone: Zone,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, CaKey>,
    key: CaKey,
    not_after_ms: u64,
}

pub(super) fn write_key(dir: &Path, key: &KeyPair) -> Result<(), AuthorityError> {
    let path = dir.join(ROOT_KEY);
    files::must_not_exist(&path)?;
    Ok(keystore::write_key(&path, key)?)
}

impl Root {
    /// Makes a new one, which nobody trusts yet. The key is for the caller to keep.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn make(zone: &Zone, now_ms: u64) -> Result<(Self, KeyPair), AuthorityError> {
        let what = "root certificate";
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(failed("root key"))?;
        let spki = SubjectPublicKeyInfo::from_der(&key.subject_public_key_info()).map_err(failed(what))?;
        let params = ca_params(zone, &spki, "root", 1, now_ms, ROOT_MS)?;
        let certificate = params.self_signed(&key).map_err(failed(what))?;
        let copy = KeyPair::try_from(key.serialized_der()).map_err(failed(what))?;
        Ok((Self::of(zone.clone(), certificate.into(), CaKey::new(copy))?, key))
    }

    /// The root whose key is in `dir`; `None` when the key has been taken away.
    ///
    /// # Errors
    /// [`AuthorityError`] when a file is open to others, locked, or the pair does not fit.
    pub fn open(dir: &Path) -> Result<Option<Self>, AuthorityError> {
        Self::open_as(dir, ROOT_KEY, ROOT_PEM, keystore::read_key)
    }

    /// The same with a passphrase, which opens a locked key.
    ///
    /// # Errors
    /// As [`Root::open`]; [`KeyError::WrongPassphrase`].
    pub fn unlock(dir: &Path, passphrase: &Passphrase) -> Result<Option<Self>, AuthorityError> {
        Self::open_as(dir, ROOT_KEY, ROOT_PEM, |path| lock::open_key(path, passphrase))
    }

    pub(crate) fn open_as(
        dir: &Path,
        key_name: &str,
        pem_name: &str,
        read: impl FnOnce(&Path) -> Result<PrivatePkcs8KeyDer<'static>, KeyError>,
    ) -> Result<Option<Self>, AuthorityError> {
        let (key_path, pem_path) = (dir.join(key_name), dir.join(pem_name));
        let key = match CaKey::read(&key_path, read) {
            Ok(key) => key,
            Err(KeyError::File(FileError::Missing { .. })) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let trust = keystore::load_roots(&pem_path)?;
        match trust.roots().iter().find(|root| fits(root, &key)) {
            Some(root) => Ok(Some(Self::of(trust.zone().clone(), root.clone(), key)?)),
            None => Err(KeyError::Mismatch { key: key_path, certificate: pem_path }.into()),
        }
    }

    /// The root whose key is in this file, wherever that is; its certificate is one of `roots`. A passphrase opens a locked
    /// key.
    ///
    /// # Errors
    /// [`AuthorityError`]; [`KeyError::Locked`] and [`KeyError::WrongPassphrase`] among them.
    pub fn at(
        key_path: &Path,
        passphrase: Option<&Passphrase>,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, AuthorityError> {
        let key = CaKey::read(key_path, |path| match passphrase {
            Some(word) => lock::open_key(path, word),
            None => keystore::read_key(path),
        })?;
        let pem = || Path::new(ROOT_PEM).to_owned();
        let trust = Trust::new(roots.to_vec()).map_err(|source| KeyError::Trust { path: pem(), source })?;
        match trust.roots().iter().find(|root| fits(root, &key)) {
            Some(root) => Self::of(trust.zone().clone(), root.clone(), key),
            None => Err(KeyError::Mismatch { key: key_path.to_owned(), certificate: pem() }.into()),
        }
    }

    fn of(zone: Zone, certificate: CertificateDer<'static>, key: CaKey) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key.clone()).map_err(failed("root"))?;
        let not_after_ms = policy::parse(&certificate)
            .map(|parsed| policy::ms(parsed.validity().not_after.timestamp()))
            .map_err(|why| AuthorityError::Make { what: "root", why: why.to_string() })?;
        Ok(Self { zone, certificate, issuer, key, not_after_ms })
    }

    /// Its certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of its public key.
    #[must_use]
    pub fn id(&self) -> Sha256 {
        Sha256::of(&self.key.subject_public_key_info())
    }

    /// The overlay's zone.
    #[must_use]
    pub const fn zone(&self) -> &Zone {
        &self.zone
    }

    /// When it expires, Unix milliseconds.
    #[must_use]
    pub const fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }

    /// Makes a CA certificate for a key: five years, these names and no others, no CA below it.
    ///
    /// # Errors
    /// [`AuthorityError::Ending`] when the root itself has less than five years left.
    pub fn certify(
        &self,
        key: &LeafKey,
        scope: &Scope,
        now_ms: u64,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        self.certify_since(key, scope, None, now_ms)
    }

    /// The same for a CA that another root has vouched for since a time: what it certified then is vouched for as well.
    ///
    /// # Errors
    /// As [`Root::certify`].
    pub fn certify_since(
        &self,
        key: &LeafKey,
        scope: &Scope,
        since_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        if self.not_after_ms < now_ms.saturating_add(CA_MS) {
            let what = "the root".to_owned();
            return Err(AuthorityError::Ending { what, kind: "root", not_after_ms: self.not_after_ms });
        }
        let what = match scope {
            Scope::Overlay => "issuing K1".to_owned(),
            Scope::Below(apex) | Scope::From(apex) => format!("{apex} K1"),
        };
        let mut params = ca_params(&self.zone, &key.spki, &what, 0, now_ms, CA_MS)?;
        params.name_constraints = Some(constraints(scope, &self.zone));
        if let Some(since_ms) = since_ms {
            params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(since_ms / 1000);
        }
        let certificate = params.signed_by(&key.spki, &self.issuer).map_err(failed("CA certificate"))?;
        Ok(certificate.into())
    }

    /// Makes the root's revocation list with this number: the CAs it has revoked.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn crl(&self, revoked: &[Revoked], number: u64, now_ms: u64) -> Result<Vec<u8>, AuthorityError> {
        crl::make(&self.issuer, revoked, number, now_ms, ROOT_CRL_MS).map_err(failed("revocation list"))
    }

    /// Its signature over a handover.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn sign_handover(&self, body: &[u8]) -> Result<Bytes, AuthorityError> {
        let signature = self.key.sign(&[HANDOVER_PURPOSE, body].concat()).map_err(failed("handover"))?;
        Ok(signature.into())
    }

    /// Puts its signature under a root list.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn sign(&self, list: &mut SignedRoots) -> Result<(), AuthorityError> {
        let signature = self.key.sign(&[ROOTS_PURPOSE, &list.body].concat()).map_err(failed("root list"))?;
        list.signatures.push((Sha256::of(&self.certificate).0, signature.into()));
        Ok(())
    }
}

/// A root list without signatures, newest root first.
#[must_use]
pub fn unsigned_list(
    zone: &Zone,
    version: u64,
    roots: &[CertificateDer<'_>],
    past: Vec<PastRoot>,
    now_ms: u64,
) -> SignedRoots {
    let roots = roots.iter().map(|root| root.to_vec().into()).collect();
    let body = Roots { version, zone: zone.clone(), roots, at_ms: now_ms, past }.encode();
    SignedRoots { body, signatures: Vec::new() }
}
