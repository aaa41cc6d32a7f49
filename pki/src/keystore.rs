//! A node's keys and certificates on disk, read with suspicion.
//!
//! Owns the names and forms of the files in the pki directory. Guarantees that what [`NodeKeys::load`] returns fits
//! together: the key is the certificate's, the chain ends in the root, the certificate is a node's. An expired
//! certificate still loads, because it must never keep a daemon from starting. `research/pki.md` §5 row 21.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand;
use aws_lc_rs::signature::KeyPair as _;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::{self, PemObject as _, SectionKind};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tram_proto::id::NodeId;
use tram_proto::name::{NodeName, Role, Zone};
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, Scope, Subject};
use crate::bundle::Bundle;
use crate::csr::LeafKey;
use crate::enrol::Joined;
use crate::files::{self, Access, FileError};
use crate::lock;
use crate::policy::{self, Peer};
use crate::registry::{Registry, RegistryError};
use crate::statement::Signer;
use crate::trust::{ChainError, Trust, TrustError};

/// The trust anchor: the overlay's root certificate, and during a rotation both.
pub const ROOT_PEM: &str = "root.pem";
/// The root's private key; only where the overlay was founded, until it is taken offline.
pub const ROOT_KEY: &str = "root.key";
/// The issuing CA's certificate.
pub const CA_PEM: &str = "ca.pem";
/// The issuing CA's private key.
pub const CA_KEY: &str = "ca.key";
/// The node's certificate, then its issuer's.
pub const NODE_PEM: &str = "node.pem";
/// The node's private key.
pub const NODE_KEY: &str = "node.key";
/// The private key that a certificate is being asked for: it becomes [`NODE_KEY`] when the certificate is there.
pub const NODE_KEY_NEXT: &str = "node.key.next";
/// What a node knows of trust beyond its root: judged when it is read, never when it is written.
pub const BUNDLE_BIN: &str = "bundle.bin";
/// 64 random bytes from which QUIC's stateless reset tokens are made.
pub const QUIC_RESET_KEY: &str = "quic-reset.key";
/// 64 random bytes from which QUIC's address tokens are made.
pub const QUIC_TOKEN_KEY: &str = "quic-token.key";

/// What is wrong with the keys on disk. Every message names the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not the PEM it should be.
    #[error("{path} cannot be used: {why}", path = path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A key is encrypted with a passphrase.
    #[error("{path} is locked with a passphrase: run `tram pki unlock`", path = path.display())]
    Locked {
        /// Which file.
        path: PathBuf,
    },
    /// The passphrase does not open a locked key.
    #[error("the passphrase does not open {path}", path = path.display())]
    WrongPassphrase {
        /// Which file.
        path: PathBuf,
    },
    /// Too few or too many certificates or keys in one file.
    #[error("{path} holds {got} sections of the right kind; expected {expected}", path = path.display())]
    Count {
        /// Which file.
        path: PathBuf,
        /// How many there should be; 0 stands for at least one.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// Key and certificate belong to different nodes or times.
    #[error("{key} is not the key of the certificate in {certificate}: restore both from the same backup", key = key.display(), certificate = certificate.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The roots make no overlay.
    #[error("{path}: {source}", path = path.display())]
    Trust {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: TrustError,
    },
    /// The chain does not end in the roots beside it, or the leaf is not a node's.
    #[error("{path}: {source}", path = path.display())]
    Chain {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: ChainError,
    },
    /// A raw secret has the wrong length.
    #[error("{path} has {got} bytes; expected {expected}: restore it from a backup", path = path.display())]
    Length {
        /// Which file.
        path: PathBuf,
        /// How long it is, in bytes.
        got: usize,
        /// How long it should be, in bytes.
        expected: usize,
    },
    /// The operating system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| KeyError::Random)?;
    Ok(bytes)
}

/// A random node id: a UUID of version 4.
pub(crate) fn random_node_id() -> Result<NodeId, KeyError> {
    Ok(NodeId(uuid::Builder::from_random_bytes(random()?).into_uuid().into_bytes()))
}

pub(crate) fn write_key(path: &Path, key: &KeyPair) -> Result<(), KeyError> {
    Ok(files::write(path, key.serialize_pem().as_bytes(), Access::Secret)?)
}

pub(crate) fn write_certificates(path: &Path, certificates: &[CertificateDer<'static>]) -> Result<(), KeyError> {
    let mut text = String::new();
    certificates.iter().for_each(|certificate| push_pem("CERTIFICATE", certificate, &mut text));
    Ok(files::write(path, text.as_bytes(), Access::Public)?)
}

/// Appends one section of PEM.
pub(crate) fn push_pem(label: &str, der: &[u8], out: &mut String) {
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    push_base64(der, out);
    out.push_str(&format!("-----END {label}-----\n"));
}

fn push_base64(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 48 bytes are a line of 64 characters.
    for line in bytes.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
            for at in 0..4 {
                let symbol = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
                out.push(if at <= group.len() { char::from(symbol) } else { '=' });
            }
        }
        out.push('\n');
    }
}

fn sections(path: &Path, bytes: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, KeyError> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(|error| {
        let why = match error {
            pem::Error::MissingSectionEnd { .. } => "it is cut short: its END line is missing".to_owned(),
            other => format!("it is not PEM ({other})"),
        };
        KeyError::Pem { path: path.to_owned(), why }
    })
}

/// Reads a file of one or more certificates.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KeyError> {
    let all = sections(path, &files::read(path, Access::Public)?)?;
    if all.iter().any(|(kind, _)| *kind != SectionKind::Certificate) {
        let why = "it holds something other than certificates".to_owned();
        return Err(KeyError::Pem { path: path.to_owned(), why });
    }
    if all.is_empty() {
        return Err(KeyError::Pem { path: path.to_owned(), why: "it holds no certificate".to_owned() });
    }
    Ok(all.into_iter().map(|(_, der)| der.into()).collect())
}

/// Reads a file of exactly one PKCS #8 key that is not locked.
pub(crate) fn read_key(path: &Path) -> Result<PrivatePkcs8KeyDer<'static>, KeyError> {
    let bytes = Zeroizing::new(files::read(path, Access::Secret)?);
    if lock::is_locked(&bytes) { Err(KeyError::Locked { path: path.to_owned() }) } else { key_of(path, &bytes) }
}

/// The one key in the text of a file.
pub(crate) fn key_of(path: &Path, bytes: &[u8]) -> Result<PrivatePkcs8KeyDer<'static>, KeyError> {
    match <[_; 1]>::try_from(sections(path, bytes)?) {
        Ok([(SectionKind::PrivateKey, der)]) => Ok(der.into()),
        Ok(_) => {
            let why = "it does not hold a PKCS #8 private key".to_owned();
            Err(KeyError::Pem { path: path.to_owned(), why })
        }
        Err(all) => Err(KeyError::Count { path: path.to_owned(), expected: 1, got: all.len() }),
    }
}

/// The chain of the node in `dir`, as it stands there.
///
/// # Errors
/// [`KeyError`].
pub fn chain(dir: &Path) -> Result<Vec<CertificateDer<'static>>, KeyError> {
    read_certificates(&dir.join(NODE_PEM))
}

/// A key that waits for its certificate, and what the certificate is being asked with.
#[derive(Debug)]
pub struct Staged {
    /// `token ID`, or another word of the asker's.
    pub occasion: String,
    /// The key.
    pub key: KeyPair,
}

/// The key to ask a certificate with on this occasion: written durably before it is first used, and the same one on every
/// later try of the same occasion, so that a lost answer strands nobody. The node's pair in use stays as it is.
///
/// # Errors
/// [`KeyError`].
pub fn stage(dir: &Path, occasion: &str) -> Result<KeyPair, KeyError> {
    files::make_dir(dir)?;
    settle(dir)?;
    if let Some(staged) = staged(dir)?
        && staged.occasion == occasion
    {
        return Ok(staged.key);
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| KeyError::Random)?;
    // Text before the section is no part of the PEM; it stays with the key when the key comes into use.
    let text = format!("{occasion}\n{}", key.serialize_pem());
    files::write(&dir.join(NODE_KEY_NEXT), text.as_bytes(), Access::Secret)?;
    Ok(key)
}

/// The key that waits for its certificate, if one does.
///
/// # Errors
/// [`KeyError`].
pub fn staged(dir: &Path) -> Result<Option<Staged>, KeyError> {
    let path = dir.join(NODE_KEY_NEXT);
    let der = match read_key(&path) {
        Ok(der) => der,
        Err(KeyError::File(FileError::Missing { .. })) => return Ok(None),
        Err(error) => return Err(error),
    };
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map_err(|error| KeyError::Pem { path: path.clone(), why: error.to_string() })?;
    Ok(Some(Staged { occasion: occasion(&path)?, key }))
}

/// The occasion on which the key in use was made: none for a key of an earlier release.
///
/// # Errors
/// [`KeyError`].
pub fn occasion_in_use(dir: &Path) -> Result<String, KeyError> {
    occasion(&dir.join(NODE_KEY))
}

fn occasion(path: &Path) -> Result<String, KeyError> {
    let bytes = files::read(path, Access::Secret)?;
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = if first.starts_with(b"-----") { String::new() } else { String::from_utf8_lossy(first).into_owned() };
    Ok(text)
}

/// Puts the certificate of the staged key into use, and the key with it. At every moment the old pair or the new one is
/// whole: the certificate is replaced first, and as long as [`NODE_KEY`] is not its key, [`NODE_KEY_NEXT`] is.
///
/// # Errors
/// [`KeyError`]; [`KeyError::Mismatch`] when the staged key is not the certificate's.
pub fn commit_staged(dir: &Path, chain: &[CertificateDer<'static>]) -> Result<(), KeyError> {
    let (next, certificate) = (dir.join(NODE_KEY_NEXT), dir.join(NODE_PEM));
    if !chain.first().is_some_and(|leaf| read_key(&next).is_ok_and(|key| is_key_of(&key, leaf))) {
        return Err(KeyError::Mismatch { key: next, certificate });
    }
    write_certificates(&certificate, chain)?;
    settle(dir)
}

fn is_key_of(key: &PrivatePkcs8KeyDer<'_>, leaf: &CertificateDer<'_>) -> bool {
    let Ok(key) = KeyPair::from_pkcs8_der_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256) else { return false };
    policy::parse(leaf).is_ok_and(|leaf| leaf.public_key().subject_public_key.data.as_ref() == key.public_key_raw())
}

/// Ends what a crash left half done: a staged key whose certificate is in use comes into use too.
fn settle(dir: &Path) -> Result<(), KeyError> {
    let next = dir.join(NODE_KEY_NEXT);
    let Ok(chain) = read_certificates(&dir.join(NODE_PEM)) else { return Ok(()) };
    let certified =
        |path: &Path| chain.first().is_some_and(|leaf| read_key(path).is_ok_and(|key| is_key_of(&key, leaf)));
    if !certified(&dir.join(NODE_KEY)) && certified(&next) {
        match files::rename(&next, &dir.join(NODE_KEY)) {
            // Another process was quicker.
            Err(FileError::Missing { .. }) if certified(&dir.join(NODE_KEY)) => {}
            renamed => renamed?,
        }
    }
    Ok(())
}

/// Whose certificate `dir` holds, and of which zone: also when the key is lost or spoilt. `None` where there is none.
///
/// # Errors
/// [`KeyError`] when root or certificate cannot be read.
pub fn resident(dir: &Path) -> Result<Option<(Zone, Peer)>, KeyError> {
    let path = dir.join(NODE_PEM);
    let chain = match read_certificates(&path) {
        Err(KeyError::File(FileError::Missing { .. })) => return Ok(None),
        read => read?,
    };
    let trust = load_roots(&dir.join(ROOT_PEM))?;
    let peer = trust.peer_of(&chain).map_err(|error| KeyError::Chain { path, source: error.into() })?;
    Ok(Some((trust.zone().clone(), peer)))
}

/// Reads a trust anchor, such as [`ROOT_PEM`], for whoever has no keys and only judges others: an offline receipt check.
/// With [`BUNDLE_BIN`] beside it, roots of the past and revocations count too.
///
/// # Errors
/// [`KeyError`].
pub fn load_trust(path: &Path) -> Result<Arc<Trust>, KeyError> {
    let (bundle, left_out) = Bundle::load_beside(path)?;
    if let Some(why) = left_out.into_iter().next() {
        let why = format!("{why}; move it away to do without past roots and revocations");
        return Err(KeyError::Pem { path: path.with_file_name(BUNDLE_BIN), why });
    }
    bundle.trust().map_err(|source| KeyError::Trust { path: path.to_owned(), source })
}

/// Reads a trust anchor alone.
pub(crate) fn load_roots(path: &Path) -> Result<Trust, KeyError> {
    Trust::new(read_certificates(path)?).map_err(|source| KeyError::Trust { path: path.to_owned(), source })
}

/// 64 secret bytes; hidden when printed.
#[derive(Clone)]
pub struct QuicSecret([u8; 64]);

impl QuicSecret {
    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    fn load(path: &Path) -> Result<Self, KeyError> {
        let bytes = files::read(path, Access::Secret)?;
        let got = bytes.len();
        bytes.try_into().map(Self).map_err(|_| KeyError::Length { path: path.to_owned(), got, expected: 64 })
    }
}

impl fmt::Debug for QuicSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicSecret(hidden)")
    }
}

/// What a new node needs beside its pair. The pair comes last: where it stands, the rest is complete.
fn write_quic_secrets(dir: &Path) -> Result<(), KeyError> {
    for name in [QUIC_RESET_KEY, QUIC_TOKEN_KEY] {
        files::write(&dir.join(name), &random::<64>()?, Access::Secret)?;
    }
    Ok(())
}

/// Why an overlay could not be founded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoundError {
    /// The CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The node's own keys.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Founds an overlay in `dir`: root, issuing CA, registry, and the first node's own keys and certificate.
///
/// # Errors
/// [`FoundError`]; nothing that exists is overwritten.
pub fn found(dir: &Path, zone: &Zone, name: &NodeName, now_ms: u64) -> Result<NodeKeys, FoundError> {
    found_as(dir, zone, (name, Role::Central), &Scope::Overlay, now_ms)
}

/// The same of a province that begins alone: its CA certifies its own name and those below it, and nothing else, so that
/// another root can vouch for it later.
///
/// # Errors
/// As [`found`].
pub fn found_province(dir: &Path, zone: &Zone, name: &NodeName, now_ms: u64) -> Result<NodeKeys, FoundError> {
    found_as(dir, zone, (name, Role::Province), &Scope::From(name.clone()), now_ms)
}

fn found_as(
    dir: &Path,
    zone: &Zone,
    (name, role): (&NodeName, Role),
    scope: &Scope,
    now_ms: u64,
) -> Result<NodeKeys, FoundError> {
    let authority = Authority::create(dir, zone, scope, now_ms)?;
    let key = stage(dir, "founder")?;
    let subject = Subject { id: random_node_id()?, name: name.clone(), role };
    let mut registry = Registry::open(dir)?;
    let leaf_key = LeafKey::of(&key).map_err(|_| KeyError::Random)?;
    let issued = authority.issue(&leaf_key, &subject, now_ms)?;
    registry.record_founder(&subject, &issued)?;
    write_quic_secrets(dir)?;
    commit_staged(dir, &[issued.certificate, authority.certificate().clone()])?;
    Ok(NodeKeys::load(dir)?)
}

/// Everything a node needs to prove who it is and to judge others.
#[derive(Debug, Clone)]
pub struct NodeKeys {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivatePkcs8KeyDer<'static>>,
    trust: Arc<Trust>,
    identity: Peer,
    signer: Signer,
    quic_reset: QuicSecret,
    quic_token: QuicSecret,
}

impl NodeKeys {
    /// Reads them from `dir` and checks that they fit together. Does not look at the time.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load(dir: &Path) -> Result<Self, KeyError> {
        files::check_dir(dir)?;
        settle(dir)?;
        let (root_path, chain_path, key_path) = (dir.join(ROOT_PEM), dir.join(NODE_PEM), dir.join(NODE_KEY));
        let trust = load_roots(&root_path)?;
        let chain = read_certificates(&chain_path)?;
        let of_chain = |source: ChainError| KeyError::Chain { path: chain_path.clone(), source };
        let leaf = trust.peer_of(&chain).map_err(|error| of_chain(error.into()))?;
        // As of its last second: a leaf never outlives its issuer, and an expired one must still load.
        let identity = trust.verify(&chain, leaf.not_after_ms).or_else(|error| {
            // The roots were exchanged and the power went before the chain followed: the bundle has the CA under the new one.
            let (bundle, _) = Bundle::load_beside(&root_path)?;
            let again = bundle.trust().ok().and_then(|trust| trust.verify(&chain, leaf.not_after_ms).ok());
            again.ok_or_else(|| of_chain(error))
        })?;

        let key = read_key(&key_path)?;
        let signer = Signer::new(&key, identity.certificate)
            .map_err(|error| KeyError::Pem { path: key_path.clone(), why: error.to_string() })?;
        let fits = chain.first().and_then(|leaf| policy::parse(leaf).ok()).is_some_and(|leaf| {
            leaf.public_key().subject_public_key.data.as_ref() == signer.key().public_key().as_ref()
        });
        if !fits {
            return Err(KeyError::Mismatch { key: key_path, certificate: chain_path });
        }
        Ok(Self {
            chain,
            key: Arc::new(key),
            trust: Arc::new(trust),
            identity,
            signer,
            quic_reset: QuicSecret::load(&dir.join(QUIC_RESET_KEY))?,
            quic_token: QuicSecret::load(&dir.join(QUIC_TOKEN_KEY))?,
        })
    }

    /// Puts into use what a join brought, with the key [`crate::enrol::Joining`] put into `dir`, and loads it. What else is
    /// there stays: a node that joins again keeps its roots, beside the one it brought.
    ///
    /// # Errors
    /// [`KeyError`]; what was in use before still is.
    pub fn install(dir: &Path, joined: &Joined) -> Result<Self, KeyError> {
        let again = dir.join(NODE_PEM).exists();
        let mut roots = vec![joined.root.clone()];
        if again {
            roots.extend(read_certificates(&dir.join(ROOT_PEM))?.into_iter().filter(|root| *root != joined.root));
        } else {
            write_quic_secrets(dir)?;
        }
        write_certificates(&dir.join(ROOT_PEM), &roots)?;
        if !joined.bundle.is_empty() {
            files::write(&dir.join(BUNDLE_BIN), &joined.bundle, Access::Public)?;
        }
        commit_staged(dir, &joined.chain)?;
        Self::load(dir)
    }

    /// The same node with another chain, and the key it is of: to be tried before [`commit_staged`] puts it into use.
    ///
    /// # Errors
    /// [`KeyError`] when they do not fit together.
    pub fn renewed(&self, dir: &Path, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, KeyError> {
        let (key_path, chain_path) = (dir.join(NODE_KEY_NEXT), dir.join(NODE_PEM));
        let of_chain = |error: policy::PolicyError| KeyError::Chain { path: chain_path.clone(), source: error.into() };
        let identity = self.trust.peer_of(&chain).map_err(of_chain)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        let fits = chain.first().is_some_and(|leaf| is_key_of(&der, leaf));
        if !fits || identity.id != self.identity.id {
            return Err(KeyError::Mismatch { key: key_path, certificate: chain_path });
        }
        let signer = Signer::new(&der, identity.certificate)
            .map_err(|error| KeyError::Pem { path: key_path, why: error.to_string() })?;
        Ok(Self { chain, key: Arc::new(der), identity, signer, ..self.clone() })
    }

    /// The same node and key, showing these certificates after its own, also after a restart.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn show(&self, dir: &Path, issuers: &[CertificateDer<'static>]) -> Result<Self, KeyError> {
        let chain: Vec<CertificateDer<'static>> = self.chain.first().into_iter().chain(issuers).cloned().collect();
        write_certificates(&dir.join(NODE_PEM), &chain)?;
        Ok(Self { chain, ..self.clone() })
    }

    /// Who this node is; `not_after_ms` says when its certificate expires.
    #[must_use]
    pub const fn identity(&self) -> &Peer {
        &self.identity
    }

    /// The overlay's zone.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        self.trust.zone()
    }

    /// The overlay's roots and zone.
    #[must_use]
    pub const fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// This node's certificate and its issuer's, leaf first: what links show and what statements are judged by.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Signs this node's statements.
    #[must_use]
    pub const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Key material for QUIC's stateless resets.
    #[must_use]
    pub const fn quic_reset_secret(&self) -> &QuicSecret {
        &self.quic_reset
    }

    /// Key material for QUIC's address tokens.
    #[must_use]
    pub const fn quic_token_secret(&self) -> &QuicSecret {
        &self.quic_token
    }

    pub(crate) fn private_key(&self) -> PrivatePkcs8KeyDer<'static> {
        self.key.clone_key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW_MS, Overlay};
    use std::fs;

    /// Founds an overlay, spoils its directory, and expects loading to name the file and the fault.
    #[track_caller]
    fn check(spoil: impl FnOnce(&Path), file: &str, fault: &str) {
        let overlay = Overlay::new("tram.internal");
        spoil(overlay.dir());
        let text = NodeKeys::load(overlay.dir()).expect_err("spoilt").to_string();
        let path = overlay.dir().join(file);
        assert!(text.contains(&path.display().to_string()) && text.contains(fault), "{text}");
    }

    fn rewrite(path: &Path, change: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(path).expect("readable");
        fs::write(path, change(text)).expect("written");
    }

    #[test]
    fn a_founded_overlay_loads_as_its_central_node() {
        let overlay = Overlay::new("tram.internal");
        let keys = NodeKeys::load(overlay.dir()).expect("loads");
        assert_eq!((keys.identity().name.as_str(), keys.identity().role), ("central", Role::Central));
        assert_eq!(keys.zone().as_str(), "tram.internal");
        assert_eq!(keys.identity().id.0[6] >> 4, 4, "a UUID of version 4");
        let (reset, token) = (keys.quic_reset_secret().as_bytes(), keys.quic_token_secret().as_bytes());
        assert_ne!(reset, token);
        assert!(!format!("{keys:?}").contains(&format!("{:?}", &reset[..4])));
    }

    #[test]
    fn keys_that_do_not_fit_together_are_refused_with_path_and_fault() {
        let other = Overlay::new("tram.internal");
        let copy = |name: &'static str| {
            let from = other.dir().join(name);
            move |dir: &Path| {
                fs::copy(&from, dir.join(name)).expect("copied");
            }
        };
        check(copy(NODE_KEY), NODE_KEY, "is not the key of the certificate");
        check(copy(ROOT_PEM), NODE_PEM, "another overlay");
        check(copy(NODE_PEM), NODE_PEM, "another overlay");
    }

    #[test]
    fn spoilt_files_are_refused_with_path_and_fault() {
        let cut =
            |name: &'static str| move |dir: &Path| rewrite(&dir.join(name), |text| text[..text.len() / 2].to_owned());
        check(cut(NODE_KEY), NODE_KEY, "cut short");
        check(cut(ROOT_PEM), ROOT_PEM, "cut short");
        check(|dir| rewrite(&dir.join(NODE_KEY), |text| text.clone() + &text), NODE_KEY, "holds 2 sections");
        check(|dir| rewrite(&dir.join(NODE_PEM), |_| String::new()), NODE_PEM, "no certificate");
        check(
            |dir| {
                rewrite(&dir.join(NODE_PEM), |_| {
                    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned()
                })
            },
            NODE_PEM,
            "cannot be read",
        );
        check(|dir| fs::write(dir.join(QUIC_RESET_KEY), "short").expect("written"), QUIC_RESET_KEY, "5 bytes");
        check(|dir| fs::remove_file(dir.join(NODE_PEM)).expect("removed"), NODE_PEM, "missing");
        let copy = |from: &'static str, to: &'static str| {
            move |dir: &Path| {
                fs::copy(dir.join(from), dir.join(to)).expect("copied");
            }
        };
        check(copy(CA_PEM, NODE_PEM), NODE_PEM, "CA certificate");
        check(copy(NODE_PEM, ROOT_PEM), ROOT_PEM, "not a CA");
    }

    #[test]
    fn a_readable_key_is_refused_with_the_cure() {
        use std::os::unix::fs::PermissionsExt as _;
        let open = |dir: &Path| {
            fs::set_permissions(dir.join(NODE_KEY), fs::Permissions::from_mode(0o644)).expect("chmod");
        };
        check(open, NODE_KEY, "chmod 600");
    }

    #[test]
    fn an_expired_certificate_still_loads() {
        // Founded in 1971; nothing here knows what time it is now.
        let dir = tempfile::tempdir().expect("temporary directory");
        let (zone, name) = ("tram.internal".parse().expect("zone"), "central".parse().expect("name"));
        let keys = found(&dir.path().join("pki"), &zone, &name, 366 * crate::clock::DAY_MS).expect("founded");
        assert!(keys.identity().not_after_ms < NOW_MS);
    }

    #[test]
    fn the_same_occasion_finds_the_same_key_and_another_makes_a_new_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let key = |occasion| stage(&dir.path().join("pki"), occasion).expect("staged").public_key_raw().to_vec();
        let first = key("token 1");
        assert_eq!(key("token 1"), first);
        assert_ne!(key("token 2"), first);
        assert_ne!(key("token 1"), first, "a key that another took the place of does not come back");
    }

    /// A node, its new certificate, and the steps of putting it into use, of which only so many are done.
    fn replaced(overlay: &Overlay, steps: usize) -> NodeKeys {
        let dir = overlay.dir();
        let key = stage(dir, "renewal").expect("staged");
        let issued = overlay.issue(&LeafKey::of(&key).expect("P-256"), "can-tho", NOW_MS);
        let chain = overlay.chain(&issued);
        match steps {
            0 => {}
            1 => write_certificates(&dir.join(NODE_PEM), &chain).expect("written"),
            _ => commit_staged(dir, &chain).expect("committed"),
        }
        NodeKeys::load(dir).expect("a whole pair")
    }

    #[test]
    fn row_20_a_power_cut_while_a_pair_is_replaced_leaves_the_old_or_the_new_one() {
        for (steps, name) in [(0, "central"), (1, "can-tho"), (2, "can-tho")] {
            let overlay = Overlay::new("tram.internal");
            let keys = replaced(&overlay, steps);
            assert_eq!(keys.identity().name.as_str(), name, "after {steps} steps");
            let again = NodeKeys::load(overlay.dir()).expect("loads again");
            assert_eq!(again.chain(), keys.chain());
            assert_eq!(staged(overlay.dir()).expect("readable").is_some(), steps == 0);
            assert_eq!(
                occasion_in_use(overlay.dir()).expect("readable"),
                if steps == 0 { "founder" } else { "renewal" }
            );
        }
    }

    #[test]
    fn row_20_a_certificate_that_cannot_be_written_leaves_the_old_pair() {
        let overlay = Overlay::new("tram.internal");
        let key = stage(overlay.dir(), "renewal").expect("staged");
        let issued = overlay.issue(&LeafKey::of(&key).expect("P-256"), "can-tho", NOW_MS);
        // A directory where the temporary file goes: works for root too, which ignores permissions.
        let blocked = overlay.dir().join(".node.pem.tmp");
        fs::create_dir(&blocked).expect("made");
        commit_staged(overlay.dir(), &overlay.chain(&issued)).expect_err("cannot be written");
        assert_eq!(NodeKeys::load(overlay.dir()).expect("the old pair").identity().name.as_str(), "central");
        fs::remove_dir(&blocked).expect("removed");
        commit_staged(overlay.dir(), &overlay.chain(&issued)).expect("committed");
        assert_eq!(NodeKeys::load(overlay.dir()).expect("the new pair").identity().name.as_str(), "can-tho");
    }

    #[test]
    fn a_new_key_staged_after_a_power_cut_does_not_lose_the_one_in_use() {
        let overlay = Overlay::new("tram.internal");
        let key = stage(overlay.dir(), "renewal").expect("staged");
        let issued = overlay.issue(&LeafKey::of(&key).expect("P-256"), "can-tho", NOW_MS);
        write_certificates(&overlay.dir().join(NODE_PEM), &overlay.chain(&issued)).expect("written");
        stage(overlay.dir(), "another").expect("staged");
        assert_eq!(NodeKeys::load(overlay.dir()).expect("loads").identity().name.as_str(), "can-tho");
    }

    #[test]
    fn a_certificate_of_another_key_is_not_put_into_use() {
        let overlay = Overlay::new("tram.internal");
        stage(overlay.dir(), "renewal").expect("staged");
        let issued = overlay.issue(&LeafKey::of(&crate::fixtures::key()).expect("P-256"), "can-tho", NOW_MS);
        let error = commit_staged(overlay.dir(), &overlay.chain(&issued)).expect_err("another key");
        assert!(matches!(error, KeyError::Mismatch { .. }), "{error}");
        assert_eq!(NodeKeys::load(overlay.dir()).expect("loads").identity().name.as_str(), "central");
    }
}
