//! What links ask of the PKI, and its answer for a node with keys.
//!
//! Every answer is fresh: a renewed certificate counts from the next handshake on. A verified chain is remembered, so
//! that a signer's many statements cost one signature check each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tram_pki::keystore::NodeKeys;
use tram_pki::policy::Peer;
use tram_pki::statement::Author;
use tram_pki::verify;
use tram_proto::id::CertHash;
use tram_proto::name::NodeName;
use tram_proto::statement::{Kind, Signed};
use tram_relay::input::Signer;

use crate::clock::Clock;

/// Signers whose chains are remembered; beyond them the memory starts anew.
const AUTHORS: usize = 4096;

/// What links ask of the PKI. Refusals are texts for logs.
pub trait Trust: Send + Sync + 'static {
    /// For dialling the node of this name and no other.
    ///
    /// # Errors
    /// Why no configuration could be made.
    fn client(&self, expected: &NodeName) -> Result<rustls::ClientConfig, String>;
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

/// The trust of a node with keys and certificates.
pub struct NodeTrust {
    keys: NodeKeys,
    clock: Clock,
    authors: Mutex<HashMap<CertHash, Arc<Author>>>,
}

impl NodeTrust {
    /// From a node's keys.
    #[must_use]
    pub fn new(keys: NodeKeys, clock: Clock) -> Self {
        Self { keys, clock, authors: Mutex::default() }
    }

    fn author(&self, signer: CertHash, chain: &[Bytes], at_ms: u64) -> Result<Arc<Author>, String> {
        let mut authors = self.authors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(author) = authors.get(&signer) {
            return Ok(author.clone());
        }
        let author = self.keys.trust().author(&certificates(chain), at_ms).map_err(|error| error.to_string())?;
        let author = Arc::new(author);
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
        verify::link_client(&self.keys, self.keys.trust(), Some(expected.clone()), clock).map_err(|e| e.to_string())
    }

    fn server(&self) -> Result<rustls::ServerConfig, String> {
        verify::link_server(&self.keys, self.keys.trust(), self.clock.for_pki()).map_err(|e| e.to_string())
    }

    fn peer(&self, certificates: &[CertificateDer<'_>]) -> Result<Signer, String> {
        self.keys.trust().peer_of(certificates).map(|peer| signer(&peer)).map_err(|e| e.to_string())
    }

    fn chain(&self, chain: &[Bytes]) -> Result<(), String> {
        let chain = certificates(chain);
        let trust = self.keys.trust();
        // As of the leaf's last second: a leaf never outlives its issuer, and statements outlive both.
        let leaf = trust.peer_of(&chain).map_err(|e| e.to_string())?;
        trust.verify(&chain, leaf.not_after_ms).map(|_| ()).map_err(|e| e.to_string())
    }

    fn statement(&self, kind: Kind, signed: &Signed, chain: &[Bytes], at_ms: u64) -> Result<Signer, String> {
        let author = self.author(signed.signature.signer, chain, at_ms)?;
        author.verify(kind, signed, at_ms).map(signer).map_err(|e| e.to_string())
    }
}
