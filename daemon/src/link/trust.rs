//! What links ask of the PKI, and its answer for a node with keys.
//!
//! Every answer is fresh: a renewed certificate or another trust counts from the next handshake on, and links that are
//! up are judged again. A verified chain is remembered while the trust stays the same, so that statements cost one
//! signature check per batch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tram_pki::authority::Scope;
use tram_pki::keystore::NodeKeys;
use tram_pki::pins::{Foreign, Pins};
use tram_pki::policy::Peer;
use tram_pki::statement::Author;
use tram_pki::trust::{ChainError, Trust as Roots};
use tram_pki::verify;
use tram_proto::id::{CertHash, NodeId};
use tram_proto::name::NodeName;
use tram_proto::statement::{Kind, Signed};
use tram_relay::input::Signer;

use crate::clock::Clock;

/// Signers whose chains are remembered; beyond them the memory starts anew.
const AUTHORS: usize = 4096;

/// Batches remembered as verified; beyond them the memory starts anew.
const BATCHES: usize = 4096;

/// A time that does not come.
const NO_END_MS: u64 = u64::MAX / 2;

/// Why a neighbour that was let in must go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lapse {
    /// Its certificates have come to their end.
    #[error("certificate expired: {0}")]
    Expired(String),
    /// They are not accepted any more for any other reason.
    #[error("certificate revoked: {0}")]
    Revoked(String),
    /// Another CA registered the node.
    #[error("certificate of a foreign CA: {0}")]
    Foreign(String),
    /// Nobody could tell in time whether they were revoked.
    #[error("certificate status unknown: {0}")]
    Unknown(String),
}

impl Lapse {
    /// What the neighbour is told; the rest is for this node's log.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Expired(_) => "certificate expired",
            Self::Revoked(_) => "certificate revoked",
            Self::Foreign(_) => "certificate of a foreign CA",
            Self::Unknown(_) => "certificate status unknown",
        }
    }
}

/// How it stands with the certificates of a link that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// When that changes by itself, Unix milliseconds.
    pub until_ms: u64,
    /// Why nobody can tell yet whether they were revoked: the link carries only what concerns the PKI until then.
    pub unknown: Option<String>,
    /// No revocation list at all is here: the first ones come over the first link.
    pub bare: bool,
}

/// What links ask of the PKI. Refusals are texts for logs.
pub trait Trust: Send + Sync + 'static {
    /// For dialling the node of this name and no other.
    ///
    /// # Errors
    /// Why no configuration could be made.
    fn client(&self, expected: &NodeName) -> Result<rustls::ClientConfig, String>;
    /// For asking the node of this name for the next certificate of this one, which has expired.
    ///
    /// # Errors
    /// Why no configuration could be made.
    fn cure(&self, expected: &NodeName) -> Result<rustls::ClientConfig, String>;
    /// For letting nodes of the overlay in.
    ///
    /// # Errors
    /// Why no configuration could be made.
    fn server(&self) -> Result<rustls::ServerConfig, String>;
    /// Whose certificates a handshake has proven.
    ///
    /// # Errors
    /// Which rule they break.
    fn peer(&self, certificates: &[CertificateDer<'_>]) -> Result<Signer, String>;
    /// Whether the certificates of a link that is up hold under the present trust and clock.
    ///
    /// # Errors
    /// Why the link must end.
    fn holds(&self, certificates: &[CertificateDer<'_>]) -> Result<Standing, Lapse>;
    /// Counts the changes of keys and trust.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Whether these certificates, leaf first, are those of a node of the overlay at any time.
    ///
    /// # Errors
    /// Why not.
    fn chain(&self, chain: &[Bytes]) -> Result<(), String>;
    /// Who signed this statement, of `at_ms` (Unix milliseconds), by the certificates in `chain`.
    ///
    /// # Errors
    /// Why it is not believed.
    fn statement(&self, kind: Kind, signed: &Signed, chain: &[Bytes], at_ms: u64) -> Result<Signer, String>;
}

/// The trust of a node with keys and certificates, both of which may be replaced while it runs.
pub struct NodeTrust {
    clock: Clock,
    keys: RwLock<Arc<NodeKeys>>,
    judge: RwLock<Arc<Judge>>,
    pins: Mutex<Pins>,
    changes: watch::Sender<u64>,
}

/// What is trusted, and what was found to hold under it. A new trust begins with an empty memory.
struct Judge {
    roots: Arc<Roots>,
    authors: Mutex<HashMap<CertHash, Arc<Author>>>,
    /// The hash of signer, batch and signature, and the earliest and latest time for which it was found to hold. The
    /// statements of a batch share one signature, so it is verified once (104 µs); it holds for all times in between.
    batches: Mutex<HashMap<[u8; 32], (u64, u64)>>,
}

impl NodeTrust {
    /// From a node's keys and the roots beside them, and what it remembers of other nodes.
    #[must_use]
    pub fn new(keys: NodeKeys, pins: Pins, clock: Clock) -> Self {
        let judge = RwLock::new(Judge::new(keys.trust().clone()));
        Self { clock, keys: RwLock::new(Arc::new(keys)), judge, pins: Mutex::new(pins), changes: watch::Sender::new(0) }
    }

    fn pinned(&self, node: NodeId, by: &Scope, roots: &Roots) -> Result<(), Foreign> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).check(node, by, roots)
    }

    /// The keys in force.
    #[must_use]
    pub fn keys(&self) -> Arc<NodeKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is trusted now.
    #[must_use]
    pub fn roots(&self) -> Arc<Roots> {
        self.judge().roots.clone()
    }

    /// Shows and signs with these keys from now on; links that are up stay as they are. The trust stays the same,
    /// whatever stands beside the keys.
    pub fn replace(&self, keys: NodeKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Trusts this from now on: in handshakes, for statements, and on links that are up.
    pub fn replace_trust(&self, roots: Arc<Roots>) {
        *self.judge.write().unwrap_or_else(PoisonError::into_inner) = Judge::new(roots);
        self.changes.send_modify(|count| *count += 1);
    }

    fn judge(&self) -> Arc<Judge> {
        self.judge.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Judge {
    fn new(roots: Arc<Roots>) -> Arc<Self> {
        Arc::new(Self { roots, authors: Mutex::default(), batches: Mutex::default() })
    }

    fn author(&self, signer: CertHash, chain: &[Bytes], at_ms: u64) -> Result<Arc<Author>, String> {
        let mut authors = self.authors.lock().unwrap_or_else(PoisonError::into_inner);
        let held = authors.get(&signer).cloned();
        if let Some(author) = held.as_ref().filter(|author| author.covers(at_ms)) {
            return Ok(author.clone());
        }
        // After an exchange of roots what was signed before it has another path.
        let author = match (self.roots.author(&certificates(chain), at_ms), held) {
            (Ok(author), _) => Arc::new(author),
            (Err(_), Some(held)) => return Ok(held),
            (Err(error), None) => return Err(error.to_string()),
        };
        if authors.len() >= AUTHORS {
            authors.clear();
        }
        authors.insert(author.certificate(), author.clone());
        Ok(author)
    }
}

fn certificates(chain: &[Bytes]) -> Vec<CertificateDer<'_>> {
    chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect()
}

fn signer(peer: &Peer) -> Signer {
    Signer { node: peer.id, name: peer.name.clone(), role: peer.role }
}

impl Trust for NodeTrust {
    fn client(&self, expected: &NodeName) -> Result<rustls::ClientConfig, String> {
        let clock = self.clock.for_pki();
        verify::link_client(&self.keys(), &self.roots(), Some(expected.clone()), clock).map_err(|e| e.to_string())
    }

    fn cure(&self, expected: &NodeName) -> Result<rustls::ClientConfig, String> {
        let clock = self.clock.for_pki();
        verify::cure_client(&self.keys(), &self.roots(), expected.clone(), clock).map_err(|e| e.to_string())
    }

    fn server(&self) -> Result<rustls::ServerConfig, String> {
        verify::link_server(&self.keys(), &self.roots(), self.clock.for_pki()).map_err(|e| e.to_string())
    }

    fn peer(&self, certificates: &[CertificateDer<'_>]) -> Result<Signer, String> {
        self.roots().peer_of(certificates).map(|peer| signer(&peer)).map_err(|e| e.to_string())
    }

    fn holds(&self, certificates: &[CertificateDer<'_>]) -> Result<Standing, Lapse> {
        let bare = self.roots().is_bare();
        let known = |until_ms| Ok(Standing { until_ms, unknown: None, bare });
        let roots = self.roots();
        match roots.admit(certificates, self.clock.wall_ms()) {
            Ok(accepted) => match self.pinned(accepted.peer.id, &accepted.issuer.scope, &roots) {
                Ok(()) => known(accepted.not_after_ms),
                Err(why) => Err(Lapse::Foreign(why.to_string())),
            },
            Err(why @ ChainError::UnknownStatus { .. }) => {
                Ok(Standing { until_ms: NO_END_MS, unknown: Some(why.to_string()), bare })
            }
            Err(why @ ChainError::Expired { .. }) => Err(Lapse::Expired(why.to_string())),
            // It was valid once, so this machine's clock was set back: that is no fault of the neighbour's.
            Err(ChainError::NotYetValid { not_before_ms, .. }) => known(not_before_ms),
            Err(why) => Err(Lapse::Revoked(why.to_string())),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn chain(&self, chain: &[Bytes]) -> Result<(), String> {
        let chain = certificates(chain);
        let trust = self.roots();
        // As of the leaf's last second: a leaf never outlives its issuer, and statements outlive both.
        let leaf = trust.peer_of(&chain).map_err(|e| e.to_string())?;
        trust.author(&chain, leaf.not_after_ms).map(|_| ()).map_err(|e| e.to_string())
    }

    fn statement(&self, kind: Kind, signed: &Signed, chain: &[Bytes], at_ms: u64) -> Result<Signer, String> {
        let named = signed.signature.signer;
        let judge = self.judge();
        let author = judge.author(named, chain, at_ms)?;
        self.pinned(author.peer().id, &author.issuer().scope, &judge.roots).map_err(|why| why.to_string())?;
        let message = signed.signature.to_verify(kind, &signed.statement);
        let message = message.ok_or("the signature does not match the statement")?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&named.0).update(&message).update(&signed.signature.signature);
        let batch = *hasher.finalize().as_bytes();
        let known = judge.batches.lock().unwrap_or_else(PoisonError::into_inner).get(&batch).copied();
        if known.is_none_or(|(earliest_ms, latest_ms)| at_ms < earliest_ms || at_ms > latest_ms) {
            author.verify(kind, signed, at_ms).map_err(|e| e.to_string())?;
            let (earliest_ms, latest_ms) = known.unwrap_or((at_ms, at_ms));
            let mut batches = judge.batches.lock().unwrap_or_else(PoisonError::into_inner);
            if batches.len() >= BATCHES {
                batches.clear();
            }
            batches.insert(batch, (earliest_ms.min(at_ms), latest_ms.max(at_ms)));
        }
        Ok(signer(author.peer()))
    }
}

#[cfg(test)]
mod tests {
    use tram_pki::bundle::Bundle;
    use tram_pki::registry::Registry;
    use tram_pki::rotate;
    use tram_proto::pki::{Item, Object, ObjectKey};

    use super::*;
    use crate::link::tests::fixture::Overlay;

    #[test]
    fn a_batch_that_was_verified_vouches_for_its_own_statements_and_times_only() {
        let keys = Overlay::new().central;
        let chain: Vec<Bytes> = keys.chain().iter().map(|c| Bytes::copy_from_slice(c)).collect();
        let statements = [b"one", b"two"].map(|s| Bytes::from_static(s));
        let signatures = keys.signer().sign_batch(&[(Kind::Receipt, &statements[0]), (Kind::Receipt, &statements[1])]);
        let signed: Vec<Signed> = signatures
            .expect("signed")
            .into_iter()
            .zip(statements)
            .map(|(signature, statement)| Signed { statement, signature })
            .collect();
        let trust = NodeTrust::new(keys, Pins::default(), Clock::default());
        let now_ms = Clock::default().wall_ms();
        let check =
            |signed: &Signed, kind, at_ms| trust.statement(kind, signed, &chain, at_ms).map(|s| s.name.to_string());
        assert_eq!(check(&signed[0], Kind::Receipt, now_ms), Ok("central".to_owned()));
        assert_eq!(check(&signed[1], Kind::Receipt, now_ms), Ok("central".to_owned()));
        assert!(check(&signed[1], Kind::Envelope, now_ms).is_err());
        assert!(
            check(&Signed { statement: Bytes::from_static(b"2wo"), ..signed[1].clone() }, Kind::Receipt, now_ms)
                .is_err()
        );
        assert!(check(&signed[1], Kind::Receipt, 1).is_err_and(|why| why.contains("valid from")));
    }

    #[test]
    fn a_signer_is_believed_for_times_before_an_exchange_of_roots_and_after_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = dir.path().join("pki");
        let (zone, name) = ("tram.internal".parse().expect("zone"), "central".parse().expect("name"));
        let (now_ms, later_ms) = (1_800_000_000_000, 1_800_000_000_000 + 30 * 24 * 3_600_000);
        let keys = tram_pki::keystore::found(&dir, &zone, &name, now_ms).expect("founded");
        let (mut bundle, _) = Bundle::load(&dir).expect("a root");
        let ca = Bytes::copy_from_slice(&keys.chain()[1]);
        let item = Item { key: ObjectKey::Authority(tram_pki::hash::Sha256::of(&ca).0), version: 1 };
        bundle.take(&Object { item, content: ca }, now_ms).expect("taken");
        let mut registry = Registry::open(&dir).expect("opens");
        rotate::begin(&dir, &mut bundle, &mut registry, "lan", later_ms).expect("begun");
        rotate::switch(&dir, &mut bundle, &mut registry, "lan", later_ms).expect("switched");
        rotate::finish(&dir, &mut bundle, &mut registry, Vec::new(), "lan", later_ms).expect("finished");

        let chain: Vec<Bytes> = keys.chain().iter().map(|c| Bytes::copy_from_slice(c)).collect();
        let signatures = keys.signer().sign_batch(&[(Kind::Receipt, b"one")]).expect("signed");
        let signed = Signed { statement: Bytes::from_static(b"one"), signature: signatures[0].clone() };
        let trust = NodeTrust::new(keys, Pins::default(), Clock::default());
        trust.replace_trust(bundle.trust().expect("roots"));
        trust.chain(&chain).expect("kept and passed on");
        for at_ms in [later_ms, now_ms, later_ms] {
            trust.statement(Kind::Receipt, &signed, &chain, at_ms).expect("by the new root or the old one");
        }
    }
}
