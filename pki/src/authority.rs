//! The issuing CAs: makes certificates and revocation lists, and only the kinds Tram uses.
//!
//! Owns `ca.pem` and `ca.key`; the root is [`Root`]. Guarantees that what it issues passes [`crate::policy`], never
//! outlives its issuer, lies in its [`Scope`] and carries nothing a requester chose but the key. Never decides who may be
//! a node: that is the registry's and the tokens'. DESIGN §3, `research/pki.md` §4 "Tree".

mod key;
mod root;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
    PublicKeyData as _, SanType, SerialNumber, SigningKey as _, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tram_proto::id::NodeId;
use tram_proto::limits;
use tram_proto::name::{NodeName, Role, Zone};
use tram_proto::pki::{NOTICE_PURPOSE, Notice, SignedNotice};

use crate::clock::{BACKDATE_MS, DAY_MS, Utc};
use crate::crl::{self, Revoked};
use crate::csr::{self, LeafKey};
use crate::files::{self, FileError};
use crate::hash::Sha256;
use crate::keystore::{self, CA_KEY, CA_PEM, KeyError, ROOT_KEY, ROOT_PEM};
use crate::lock::{self, Passphrase};
use crate::policy::{self, Ca};

pub(crate) use key::CaKey;
pub use root::{Root, unsigned_list};

/// Lifetime of a root, in milliseconds: 20 years.
pub const ROOT_MS: u64 = 7305 * DAY_MS;
/// Lifetime of an issuing CA, in milliseconds: 5 years.
pub const CA_MS: u64 = 1826 * DAY_MS;
/// Lifetime of a node's certificate, in milliseconds: 90 days.
pub const LEAF_MS: u64 = 90 * DAY_MS;
/// How long a CA's revocation list is fresh, in milliseconds: a week; it is made anew each day.
pub const CRL_MS: u64 = 7 * DAY_MS;
/// How long a root's is, in milliseconds: the key may be in a safe, and is fetched once a year.
pub const ROOT_CRL_MS: u64 = 400 * DAY_MS;

/// The last list of a CA outlives its certificate by this, in milliseconds: expired CAs are kept for thirty days.
const LAST_CRL_MS: u64 = 60 * DAY_MS;

/// OID of the subject's serialNumber attribute, which carries the node id.
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];

/// Why an authority cannot be made, opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A key or certificate on disk.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The CA's own certificate ends too soon for another 90 days.
    #[error(
        "the certificate of {what} expires at {until}, too soon to issue by it: exchange it with `tram pki rotate {kind} begin`",
        until = Utc(*not_after_ms)
    )]
    Ending {
        /// Which CA.
        what: String,
        /// `ca` or `root`.
        kind: &'static str,
        /// End of its validity, Unix milliseconds.
        not_after_ms: u64,
    },
    /// Name and zone together are too long.
    #[error("{dns:?} has {got} bytes with its zone; at most {max} are allowed", got = dns.len(), max = limits::NAME_BYTES)]
    NameTooLong {
        /// The full DNS name.
        dns: String,
    },
    /// The name is not this CA's to certify.
    #[error("{name} is not below {scope}: make the certificate where its name belongs")]
    OutOfScope {
        /// The node's name.
        name: NodeName,
        /// What this CA may certify.
        scope: Scope,
    },
    /// The system gave no randomness, or the certificate could not be encoded.
    #[error("making the {what} failed: {why}")]
    Make {
        /// What was being made.
        what: &'static str,
        /// The library's reason.
        why: String,
    },
}

impl From<FileError> for AuthorityError {
    fn from(error: FileError) -> Self {
        Self::Key(error.into())
    }
}

pub(crate) fn failed(what: &'static str) -> impl FnOnce(rcgen::Error) -> AuthorityError {
    move |error| AuthorityError::Make { what, why: error.to_string() }
}

/// Which names a CA may certify.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All of the overlay's: central's CA.
    Overlay,
    /// Those below a province's name; not its own.
    Below(NodeName),
    /// A province's name and those below it: it began alone, with a root of its own.
    From(NodeName),
}

impl Scope {
    /// Whether a name lies in it.
    #[must_use]
    pub fn covers(&self, name: &NodeName) -> bool {
        match self {
            Self::Overlay => true,
            Self::Below(apex) => is_below(name, apex),
            Self::From(apex) => name == apex || is_below(name, apex),
        }
    }

    /// The province whose names they are; `None`: the overlay's.
    #[must_use]
    pub const fn apex(&self) -> Option<&NodeName> {
        match self {
            Self::Overlay => None,
            Self::Below(apex) | Self::From(apex) => Some(apex),
        }
    }

    /// Whether it is closer to the names it covers than `other` is: the closest CA of a name certifies it.
    #[must_use]
    pub fn is_closer_than(&self, other: &Self) -> bool {
        let length = |scope: &Self| scope.apex().map_or(0, |apex| apex.as_str().len());
        length(self) > length(other)
    }

    /// Its name constraint. The leading dot leaves out the name itself.
    pub(crate) fn subtree(&self, zone: &Zone) -> String {
        match self {
            Self::Overlay => format!(".{zone}"),
            Self::Below(apex) => format!(".{}", apex.in_zone(zone)),
            Self::From(apex) => apex.in_zone(zone),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlay => f.write_str("the overlay"),
            Self::Below(apex) | Self::From(apex) => write!(f, "{apex}"),
        }
    }
}

fn is_below(name: &NodeName, apex: &NodeName) -> bool {
    name.as_str().strip_suffix(apex.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// Who a certificate is for. Always from the registry, never from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The node's id.
    pub id: NodeId,
    /// Its name, without the zone.
    pub name: NodeName,
    /// Its role.
    pub role: Role,
}

/// A certificate that was made, and what the registry keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The leaf.
    pub certificate: CertificateDer<'static>,
    /// Its serial number, 32 hexadecimal digits.
    pub serial: String,
    /// When it was made, Unix milliseconds.
    pub issued_at_ms: u64,
    /// When it expires, Unix milliseconds.
    pub not_after_ms: u64,
    /// SHA-256 of its public key.
    pub key: Sha256,
}

/// The issuing CA, ready to issue.
#[derive(Debug)]
pub struct Authority {
    zone: Zone,
    root: CertificateDer<'static>,
    /// One for each root that vouches for the same key; the newest root's first.
    certificates: Vec<CertificateDer<'static>>,
    ca: Ca,
    issuer: Issuer<'static, CaKey>,
    key: CaKey,
}

impl Authority {
    /// Makes the root and the first issuing CA of a new overlay, for these names, and writes them to `dir`. Existing keys
    /// are never overwritten.
    ///
    /// # Errors
    /// [`AuthorityError`] when something is there already or cannot be written.
    pub fn create(dir: &Path, zone: &Zone, scope: &Scope, now_ms: u64) -> Result<Self, AuthorityError> {
        let paths = [CA_KEY, CA_PEM, ROOT_PEM].map(|name| dir.join(name));
        files::make_dir(dir)?;
        [ROOT_KEY, CA_KEY, CA_PEM, ROOT_PEM]
            .iter()
            .map(|name| dir.join(name))
            .try_for_each(|path| files::must_not_exist(&path))?;
        let (root, root_key) = Root::make(zone, now_ms)?;
        root::write_key(dir, &root_key)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("CA key"))?;
        let leaf_key = LeafKey::of(&key).map_err(|_| KeyError::Random)?;
        let certificate = root.certify(&leaf_key, scope, now_ms)?;
        // The trust anchor comes last: where it stands, the rest is complete.
        let [ca_key_path, ca_path, root_path] = &paths;
        keystore::write_key(ca_key_path, &key)?;
        keystore::write_certificates(ca_path, std::slice::from_ref(&certificate))?;
        keystore::write_certificates(root_path, std::slice::from_ref(root.certificate()))?;
        Self::open(dir)
    }

    /// The request for a CA certificate of this node's own: makes `ca.key` if there is none.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn request(dir: &Path) -> Result<Vec<u8>, AuthorityError> {
        Self::request_as(dir, CA_KEY)
    }

    pub(crate) fn request_as(dir: &Path, name: &str) -> Result<Vec<u8>, AuthorityError> {
        let path = dir.join(name);
        let key = match keystore::read_key(&path) {
            Ok(der) => KeyPair::try_from(&der).map_err(|error| KeyError::Pem { path, why: error.to_string() })?,
            Err(KeyError::File(FileError::Missing { .. })) => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("CA key"))?;
                keystore::write_key(&path, &key)?;
                key
            }
            Err(error) => return Err(error.into()),
        };
        csr::request(&key).map_err(failed("CA request"))
    }

    /// The id of a CA key in `dir` that has no certificate yet.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn waiting(dir: &Path) -> Result<Option<Sha256>, AuthorityError> {
        if dir.join(CA_PEM).exists() {
            return Ok(None);
        }
        match CaKey::read(&dir.join(CA_KEY), keystore::read_key) {
            Ok(key) => Ok(Some(Sha256::of(&key.subject_public_key_info()))),
            Err(KeyError::File(FileError::Missing { .. })) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the certificates that roots gave the key in `dir`.
    ///
    /// # Errors
    /// [`AuthorityError`], also when they are of another key.
    pub fn install(dir: &Path, certificates: &[CertificateDer<'static>]) -> Result<(), AuthorityError> {
        let (key_path, path) = (dir.join(CA_KEY), dir.join(CA_PEM));
        let key = CaKey::read(&key_path, keystore::read_key)?;
        if certificates.is_empty() || !certificates.iter().all(|one| fits(one, &key)) {
            return Err(KeyError::Mismatch { key: key_path, certificate: path }.into());
        }
        Ok(keystore::write_certificates(&path, certificates)?)
    }

    /// Opens the CA in `dir`. The root's key is not needed and not read.
    ///
    /// # Errors
    /// [`AuthorityError`] when a file is missing, open to others, or the pair does not fit.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        Self::open_with(dir, (CA_KEY, CA_PEM), keystore::read_key)
    }

    pub(crate) fn open_as(dir: &Path, key: &str, pem: &str) -> Result<Self, AuthorityError> {
        Self::open_with(dir, (key, pem), keystore::read_key)
    }

    /// The same with a passphrase, which opens what is locked.
    ///
    /// # Errors
    /// As [`Authority::open`]; [`KeyError::WrongPassphrase`].
    pub fn unlock(dir: &Path, passphrase: &Passphrase) -> Result<Self, AuthorityError> {
        Self::open_with(dir, (CA_KEY, CA_PEM), |path| lock::open_key(path, passphrase))
    }

    fn open_with(
        dir: &Path,
        (key, pem): (&str, &str),
        read: impl FnOnce(&Path) -> Result<PrivatePkcs8KeyDer<'static>, KeyError>,
    ) -> Result<Self, AuthorityError> {
        files::check_dir(dir)?;
        let (root_path, ca_path, key_path) = (dir.join(ROOT_PEM), dir.join(pem), dir.join(key));
        let trust = keystore::load_roots(&root_path)?;
        let certificates = keystore::read_certificates(&ca_path)?;
        let key = CaKey::read(&key_path, read)?;
        let malformed =
            || KeyError::Pem { path: ca_path.clone(), why: "it is not a CA certificate of Tram".to_owned() };
        let mut cas = certificates.iter().map(|der| Ca::read(der, trust.zone()).map_err(|_| malformed()));
        let mut ca = cas.next().ok_or_else(malformed)??;
        for other in cas {
            ca.not_after_ms = ca.not_after_ms.max(other?.not_after_ms);
        }
        if !certificates.iter().all(|one| fits(one, &key)) {
            return Err(KeyError::Mismatch { key: key_path, certificate: ca_path }.into());
        }
        // A chain has one root; the newest of several in root.pem stands first.
        let root = trust.roots().first().cloned().ok_or_else(malformed)?;
        let first = certificates.first().ok_or_else(malformed)?;
        let issuer = Issuer::from_ca_cert_der(first, key.clone()).map_err(|_| malformed())?;
        Ok(Self { zone: trust.zone().clone(), root, certificates, ca, issuer, key })
    }

    /// The zone it issues for.
    #[must_use]
    pub const fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Which names it may certify.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.ca.scope
    }

    /// SHA-256 of its public key: how requests and revocation lists name it.
    #[must_use]
    pub const fn id(&self) -> Sha256 {
        self.ca.key
    }

    /// The root's certificate; a token pins its SHA-256.
    #[must_use]
    pub const fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The issuing CA's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        // `open` has seen at least one.
        self.certificates.first().unwrap_or(&self.root)
    }

    /// The same key's certificates under all roots, the newest root's first.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// When the issuing CA expires, Unix milliseconds.
    #[must_use]
    pub const fn not_after_ms(&self) -> u64 {
        self.ca.not_after_ms
    }

    /// Makes a node's certificate for 90 days. The caller records it before it leaves ([`crate::registry`]).
    ///
    /// # Errors
    /// [`AuthorityError::Ending`] when the CA itself has less than 90 days left, [`AuthorityError::NameTooLong`],
    /// [`AuthorityError::OutOfScope`].
    pub fn issue(&self, key: &LeafKey, subject: &Subject, now_ms: u64) -> Result<Issued, AuthorityError> {
        if self.not_after_ms() < now_ms.saturating_add(LEAF_MS) {
            let what = format!("the CA of {}", self.ca.scope);
            return Err(AuthorityError::Ending { what, kind: "ca", not_after_ms: self.not_after_ms() });
        }
        if !self.ca.scope.covers(&subject.name) {
            return Err(AuthorityError::OutOfScope { name: subject.name.clone(), scope: self.ca.scope.clone() });
        }
        let dns = subject.name.in_zone(&self.zone);
        if dns.len() > limits::NAME_BYTES {
            return Err(AuthorityError::NameTooLong { dns });
        }
        let what = "node certificate";
        let serial = random_serial()?;
        let mut params = validity(now_ms, LEAF_MS);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let text = |text: &str| text.try_into().map_err(|error: rcgen::Error| failed(what)(error));
        params.subject_alt_names = vec![SanType::DnsName(text(&dns)?)];
        let id = subject.id.to_string().as_str().try_into().map_err(failed(what))?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, dns);
        params.distinguished_name.push(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), DnValue::PrintableString(id));
        params.distinguished_name.push(DnType::OrganizationalUnitName, subject.role.as_str());
        let certificate = params.signed_by(&key.spki, &self.issuer).map_err(failed(what))?;
        Ok(Issued {
            certificate: certificate.into(),
            serial: serial.iter().map(|b| format!("{b:02x}")).collect(),
            issued_at_ms: now_ms,
            not_after_ms: (now_ms + LEAF_MS) / 1000 * 1000,
            key: key.hash(),
        })
    }

    /// Makes the revocation list with this number. The caller has recorded number and revocations.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn crl(&self, revoked: &[Revoked], number: u64, now_ms: u64) -> Result<Vec<u8>, AuthorityError> {
        crl::make(&self.issuer, revoked, number, now_ms, CRL_MS).map_err(failed("revocation list"))
    }

    /// Makes the last revocation list of a CA whose key is to be forgotten: fresh as long as its certificate.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn last_crl(&self, revoked: &[Revoked], number: u64, now_ms: u64) -> Result<Vec<u8>, AuthorityError> {
        let fresh_ms = self.not_after_ms().saturating_sub(now_ms) + LAST_CRL_MS;
        crl::make(&self.issuer, revoked, number, now_ms, fresh_ms).map_err(failed("revocation list"))
    }

    /// Signs a notice, which must name this CA.
    ///
    /// # Errors
    /// [`AuthorityError::Make`].
    pub fn sign(&self, notice: &Notice) -> Result<SignedNotice, AuthorityError> {
        let body = notice.encode();
        let signature = self.key.sign(&[NOTICE_PURPOSE, &body].concat()).map_err(failed("notice"))?;
        Ok(SignedNotice { body, signature: signature.into() })
    }
}

/// What the CA certificate in `dir` says, whether its key can be used or not.
#[must_use]
pub fn stated(dir: &Path, zone: &Zone) -> Option<(Sha256, Scope)> {
    let first = shown(dir).into_iter().next()?;
    Ca::read(&first, zone).ok().map(|ca| (ca.key, ca.scope))
}

/// The certificates of the CA in `dir`; none before the first.
#[must_use]
pub fn shown(dir: &Path) -> Vec<CertificateDer<'static>> {
    keystore::read_certificates(&dir.join(CA_PEM)).unwrap_or_default()
}

/// Whether a certificate is of this key.
pub(crate) fn fits(certificate: &CertificateDer<'_>, key: &CaKey) -> bool {
    policy::parse(certificate).is_ok_and(|parsed| parsed.public_key().raw == key.subject_public_key_info())
}

/// Backdated by an hour, `lifetime_ms` from now on.
fn validity(now_ms: u64, lifetime_ms: u64) -> CertificateParams {
    let at = |ms: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(ms / 1000);
    let mut params = CertificateParams::default();
    params.not_before = at(now_ms.saturating_sub(BACKDATE_MS));
    params.not_after = at(now_ms + lifetime_ms);
    params
}

/// 128 bits, the first two fixed so that the number is positive and always as long.
fn random_serial() -> Result<[u8; 16], AuthorityError> {
    let mut serial = keystore::random()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

fn ca_params(
    zone: &Zone,
    key: &SubjectPublicKeyInfo,
    what: &str,
    path_length: u8,
    now_ms: u64,
    lifetime_ms: u64,
) -> Result<CertificateParams, AuthorityError> {
    // A subject of its own for each key: two keys under one name make every leaf of the first fail with a bad signature.
    let key_hash = Sha256::of(&key.subject_public_key_info()).to_string();
    let mut params = validity(now_ms, lifetime_ms);
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, zone.as_str());
    let name = format!("Tram {zone} {what} {}", &key_hash[..8]);
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// The names of a scope and no addresses.
fn constraints(scope: &Scope, zone: &Zone) -> NameConstraints {
    NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(scope.subtree(zone))],
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, NOW_MS, Overlay};

    #[test]
    fn what_it_issues_passes_its_own_trust() {
        let overlay = Overlay::new("tram.internal");
        let key = LeafKey::of(&fixtures::key()).expect("P-256");
        let issued = overlay.issue(&key, "ninh-kieu.can-tho", NOW_MS);
        let peer = overlay.trust().verify(&overlay.chain(&issued), NOW_MS).expect("valid");
        assert_eq!((peer.name.as_str(), peer.role), ("ninh-kieu.can-tho", Role::District));
        assert_eq!(peer.not_after_ms, issued.not_after_ms);
        assert_eq!(peer.not_before_ms, NOW_MS - BACKDATE_MS);
        let parsed = policy::parse(&issued.certificate).expect("readable");
        assert_eq!(parsed.raw_serial_as_string().replace(':', ""), issued.serial);
        assert_eq!(issued.serial.len(), 32);
    }

    #[test]
    fn it_never_issues_past_its_own_end() {
        let overlay = Overlay::new("tram.internal");
        let authority = overlay.authority();
        let key = LeafKey::of(&fixtures::key()).expect("P-256");
        let last = authority.not_after_ms() - LEAF_MS;
        let subject = fixtures::subject("can-tho");
        assert!(authority.issue(&key, &subject, last).expect("just enough").not_after_ms <= authority.not_after_ms());
        let error = authority.issue(&key, &subject, last + 1000).expect_err("too late");
        assert!(matches!(error, AuthorityError::Ending { .. }), "{error}");
    }

    #[test]
    fn an_existing_overlay_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let zone: Zone = "tram.internal".parse().expect("zone");
        let pki = dir.path().join("pki");
        let first = Authority::create(&pki, &zone, &Scope::Overlay, NOW_MS).expect("made");
        let error = Authority::create(&pki, &zone, &Scope::Overlay, NOW_MS).expect_err("there already").to_string();
        assert!(error.contains("root.key") && error.contains("exists already"), "{error}");
        assert_eq!(Authority::open(&pki).expect("opens").root(), first.root());
    }

    #[test]
    fn a_ca_key_of_another_overlay_is_refused_with_both_paths() {
        let (one, two) = (Overlay::new("tram.internal"), Overlay::new("tram.internal"));
        std::fs::copy(two.dir().join(CA_KEY), one.dir().join(CA_KEY)).expect("copied");
        let error = Authority::open(one.dir()).expect_err("mixed").to_string();
        assert!(error.contains("ca.key") && error.contains("ca.pem"), "{error}");
    }

    /// Spoils the CA's key and expects the path and the remedy.
    #[track_caller]
    fn check_key(spoil: impl FnOnce(&Path), remedy: &str) {
        let overlay = Overlay::new("tram.internal");
        let key = overlay.dir().join(CA_KEY);
        spoil(&key);
        let text = Authority::open(overlay.dir()).expect_err("spoilt").to_string();
        assert!(text.contains(&key.display().to_string()) && text.contains(remedy), "{text}");
    }

    #[test]
    fn row_21_a_ca_key_that_could_be_anothers_is_refused_with_path_and_remedy() {
        use std::fs;
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
        let other = Overlay::new("tram.internal");
        let others_key = other.dir().join(CA_KEY);
        let rewrite = |change: fn(String) -> String| {
            move |key: &Path| fs::write(key, change(fs::read_to_string(key).expect("text"))).expect("written")
        };
        check_key(|key| fs::set_permissions(key, fs::Permissions::from_mode(0o640)).expect("chmod"), "chmod 600");
        check_key(
            |key| {
                fs::remove_file(key).expect("removed");
                symlink(&others_key, key).expect("linked");
            },
            "not a link",
        );
        check_key(|key| assert!(fs::copy(&others_key, key).expect("copied") > 0), "is not the key of the certificate");
        check_key(rewrite(|text| text[..text.len() / 2].to_owned()), "cut short");
        check_key(rewrite(|text| text.clone() + &text), "holds 2 sections");
        check_key(|key| fs::remove_file(key).expect("removed"), "is missing");
        // Only root can give a file away.
        if fs::metadata(&others_key).expect("there").uid() == 0 {
            check_key(|key| chown(key, Some(12_345), None).expect("given away"), "chown 0");
        } else {
            eprintln!("skipped in row_21: the key of another owner, because only root can make one");
        }
    }

    #[test]
    fn a_name_too_long_with_its_zone_is_refused() {
        let overlay = Overlay::new("tram.internal");
        let key = LeafKey::of(&fixtures::key()).expect("P-256");
        let subject = fixtures::subject(&vec!["a".repeat(60); 3].join("."));
        let long = Subject { name: format!("{}.aaaaaaaa", subject.name).parse().expect("within the limit"), ..subject };
        let error = overlay.authority().issue(&key, &long, NOW_MS).expect_err("too long");
        assert!(matches!(error, AuthorityError::NameTooLong { .. }), "{error}");
    }
}
