//! Signs a node's statements and verifies those of others.
//!
//! The signature format is [`tram_proto::statement`]'s. Guarantees that a verified statement was signed by the holder of
//! a certificate that was valid, under our roots and policy, at the statement's own time: receipts outlive 90-day
//! certificates. Whether the signer has been revoked since is another question, asked elsewhere. DESIGN §3.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tram_proto::id::CertHash;
use tram_proto::limits;
use tram_proto::statement::{Batch, Kind, Signature, Signed};
use webpki::aws_lc_rs::ECDSA_P256_SHA256;

use crate::clock::Utc;
use crate::hash::cert_hash;
use crate::policy::{Ca, Peer};
use crate::trust::{ChainError, Trust};

/// Why signing failed. Ours, not a peer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The bytes are not a P-256 key in PKCS #8.
    #[error("it is not an ECDSA P-256 key")]
    Key,
    /// The batch is empty or over [`limits::BATCH_STATEMENTS`].
    #[error("a batch has 1 to {max} statements, not {0}", max = limits::BATCH_STATEMENTS)]
    Batch(usize),
    /// The library failed.
    #[error("the signature could not be made")]
    Failed,
}

/// Why a statement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The chain is another node's, or another certificate of the same node.
    #[error("the statement names signer {named}, but the chain is {shown}'s")]
    OtherSigner {
        /// The certificate the statement names.
        named: CertHash,
        /// The certificate the chain begins with.
        shown: CertHash,
    },
    /// The chain does not hold as of the statement's time: unknown root, outside its validity, policy.
    #[error("the signer's certificate is not accepted for the time of the statement: {0}")]
    Chain(#[from] ChainError),
    /// The chain holds, but not at the time asked about.
    #[error(
        "the signer's certificates were valid from {from} to {until}, but the statement is of {at}",
        from = Utc(*not_before_ms), until = Utc(*not_after_ms), at = Utc(*at_ms)
    )]
    NotValidThen {
        /// Start of the chain's validity, Unix milliseconds.
        not_before_ms: u64,
        /// End of the chain's validity, Unix milliseconds.
        not_after_ms: u64,
        /// The statement's time, Unix milliseconds.
        at_ms: u64,
    },
    /// The statement, its kind or its path was altered, or someone else signed it.
    #[error("the signature does not match the statement")]
    Signature,
}

/// Signs with a node's key. Cheap to clone.
#[derive(Clone)]
pub struct Signer {
    key: Arc<EcdsaKeyPair>,
    certificate: CertHash,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Signer {
    pub(crate) fn new(key: &PrivatePkcs8KeyDer<'_>, certificate: CertHash) -> Result<Self, SignError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_pkcs8_der())
            .map_err(|_| SignError::Key)?;
        Ok(Self { key: Arc::new(key), certificate })
    }

    pub(crate) fn key(&self) -> &EcdsaKeyPair {
        &self.key
    }

    /// How this node's statements name their signer.
    #[must_use]
    pub const fn certificate(&self) -> CertHash {
        self.certificate
    }

    /// Signs bytes that are already in their final form, such as [`Batch::to_sign`]. ECDSA P-256 with SHA-256, ASN.1.
    ///
    /// # Errors
    /// [`SignError::Failed`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.key.sign(&SystemRandom::new(), message).map_err(|_| SignError::Failed)?;
        Ok(signature.as_ref().to_vec())
    }

    /// Signs 1 to [`limits::BATCH_STATEMENTS`] statements with one signature; answers in the same order.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign_batch(&self, statements: &[(Kind, &[u8])]) -> Result<Vec<Signature>, SignError> {
        let batch = Batch::new(statements.iter().copied()).ok_or(SignError::Batch(statements.len()))?;
        let signature = bytes::Bytes::from(self.sign(&batch.to_sign())?);
        Ok((0..batch.count()).map(|i| batch.signature(i, self.certificate, signature.clone())).collect())
    }
}

/// A signer whose chain has been verified: judges many statements without walking the chain again. Keep it by
/// [`Author::certificate`]; drop all of them when the [`Trust`] changes.
#[derive(Debug, Clone)]
pub struct Author {
    peer: Peer,
    issuer: Ca,
    leaf: CertificateDer<'static>,
    not_before_ms: u64,
    not_after_ms: u64,
}

impl Author {
    /// Who it is.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The CA that certified it.
    #[must_use]
    pub const fn issuer(&self) -> &Ca {
        &self.issuer
    }

    /// Which certificate it signs with.
    #[must_use]
    pub const fn certificate(&self) -> CertHash {
        self.peer.certificate
    }

    /// Whether the certificates were valid at this time, Unix milliseconds. Another path may reach further: during an
    /// exchange of roots a leaf has two.
    #[must_use]
    pub const fn covers(&self, at_ms: u64) -> bool {
        // Certificates count whole seconds, both ends included.
        at_ms >= self.not_before_ms && at_ms / 1000 <= self.not_after_ms / 1000
    }

    /// Verifies that this signer made `signed`, of `kind`, at `at_ms` (the statement's own time, Unix milliseconds).
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(&self, kind: Kind, signed: &Signed, at_ms: u64) -> Result<&Peer, StatementError> {
        let named = signed.signature.signer;
        if named != self.certificate() {
            return Err(StatementError::OtherSigner { named, shown: self.certificate() });
        }
        let (not_before_ms, not_after_ms) = (self.not_before_ms, self.not_after_ms);
        if !self.covers(at_ms) {
            return Err(StatementError::NotValidThen { not_before_ms, not_after_ms, at_ms });
        }
        let signature = &signed.signature;
        let message = signature.to_verify(kind, &signed.statement).ok_or(StatementError::Signature)?;
        let leaf = webpki::EndEntityCert::try_from(&self.leaf).map_err(|_| StatementError::Signature)?;
        leaf.verify_signature(ECDSA_P256_SHA256, &message, &signature.signature)
            .map_err(|_| StatementError::Signature)?;
        Ok(&self.peer)
    }
}

impl Trust {
    /// Verifies a signer's chain, leaf first, as of `at_ms` (Unix milliseconds), under the roots of now and of the past.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn author(&self, chain: &[CertificateDer<'_>], at_ms: u64) -> Result<Author, ChainError> {
        let accepted = self.accept_author(chain, at_ms)?;
        let leaf = chain.first().ok_or(crate::policy::PolicyError::Missing)?.clone().into_owned();
        Ok(Author {
            peer: accepted.peer,
            issuer: accepted.issuer,
            leaf,
            not_before_ms: accepted.not_before_ms,
            not_after_ms: accepted.not_after_ms,
        })
    }

    /// Verifies one statement against its signer's chain, as of the statement's own time (Unix milliseconds).
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify_statement(
        &self,
        kind: Kind,
        signed: &Signed,
        chain: &[CertificateDer<'_>],
        at_ms: u64,
    ) -> Result<Peer, StatementError> {
        let named = signed.signature.signer;
        if let Some(leaf) = chain.first().filter(|leaf| cert_hash(leaf) != named) {
            return Err(StatementError::OtherSigner { named, shown: cert_hash(leaf) });
        }
        self.author(chain, at_ms)?.verify(kind, signed, at_ms).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::DAY_MS;
    use crate::fixtures::{NOW_MS, Overlay};
    use crate::keystore::NodeKeys;
    use tram_proto::id::NodeId;

    fn signed(keys: &NodeKeys, statement: &'static [u8]) -> Signed {
        let mut signatures =
            keys.signer().sign_batch(&[(Kind::Record, b"other"), (Kind::Receipt, statement)]).expect("signed");
        Signed { statement: statement.into(), signature: signatures.remove(1) }
    }

    #[track_caller]
    fn check(trust: &Trust, signed: &Signed, chain: &[CertificateDer<'_>], at_ms: u64, expect: Result<NodeId, &str>) {
        let got = trust.verify_statement(Kind::Receipt, signed, chain, at_ms);
        match expect {
            Ok(id) => assert_eq!(got.map(|peer| peer.id), Ok(id)),
            Err(part) => {
                let text = got.expect_err("must be refused").to_string();
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn a_statement_is_believed_as_of_its_own_time() {
        let overlay = Overlay::new("tram.internal");
        let (keys, trust) = (overlay.keys(), overlay.trust());
        let statement = signed(&keys, b"arrived");
        let id = keys.identity().id;
        check(trust, &statement, keys.chain(), NOW_MS, Ok(id));
        // The certificate has expired long since, but the statement is older than that.
        check(trust, &statement, keys.chain(), keys.identity().not_after_ms, Ok(id));
        check(trust, &statement, keys.chain(), keys.identity().not_after_ms + 1000, Err("expired"));
        check(trust, &statement, keys.chain(), NOW_MS - DAY_MS, Err("valid only from"));
        let author = trust.author(keys.chain(), NOW_MS).expect("chain");
        assert!(author.verify(Kind::Receipt, &statement, NOW_MS).is_ok());
        let late = author.verify(Kind::Receipt, &statement, NOW_MS + 91 * DAY_MS).expect_err("too late");
        assert!(matches!(late, StatementError::NotValidThen { .. }), "{late}");
    }

    #[test]
    fn another_kind_or_signer_or_root_is_told_apart() {
        let (overlay, foreign) = (Overlay::new("tram.internal"), Overlay::new("tram.internal"));
        let keys = overlay.keys();
        let statement = signed(&keys, b"arrived");
        let wrong_kind = overlay.trust().verify_statement(Kind::Envelope, &statement, keys.chain(), NOW_MS);
        assert_eq!(wrong_kind, Err(StatementError::Signature));
        check(overlay.trust(), &statement, foreign.keys().chain(), NOW_MS, Err("names signer"));
        check(overlay.trust(), &statement, &[], NOW_MS, Err("no certificate"));
        check(foreign.trust(), &statement, keys.chain(), NOW_MS, Err("another overlay"));
        // Signed by someone else's key under this node's name.
        let signature = foreign.keys().signer().sign(b"x").expect("signed");
        let mut forged = statement.clone();
        forged.signature.signature = signature.into();
        check(overlay.trust(), &forged, keys.chain(), NOW_MS, Err("signature"));
    }

    #[test]
    fn no_flipped_byte_is_believed() {
        let overlay = Overlay::new("tram.internal");
        let keys = overlay.keys();
        let author = overlay.trust().author(keys.chain(), NOW_MS).expect("chain");
        let good = signed(&keys, b"arrived at can-tho").encode();
        assert!(author.verify(Kind::Receipt, &Signed::decode(good.clone()).expect("decodes"), NOW_MS).is_ok());
        for at in 0..good.len() {
            for bit in [0x01, 0x80] {
                let mut bytes = good.to_vec();
                bytes[at] ^= bit;
                let Ok(altered) = Signed::decode(bytes.into()) else { continue };
                assert!(author.verify(Kind::Receipt, &altered, NOW_MS).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_batch_is_neither_empty_nor_endless() {
        let keys = Overlay::new("tram.internal").keys();
        assert_eq!(keys.signer().sign_batch(&[]), Err(SignError::Batch(0)));
        let many = vec![(Kind::Receipt, &b"x"[..]); limits::BATCH_STATEMENTS + 1];
        assert_eq!(keys.signer().sign_batch(&many), Err(SignError::Batch(many.len())));
    }
}
