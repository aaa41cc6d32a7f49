//! Whom an overlay's nodes trust: its roots and its zone.
//!
//! Guarantees that a chain it accepts ends in one of the roots, was valid at the time asked about, and passes
//! [`crate::policy`]. TLS links, statements and the join answer all come through here, so there is one code path.
//! Shared by verifiers through an `Arc` and never changed in place: new roots, and later revocation lists, are a new
//! `Trust` and new TLS configurations (`research/pki.md` §3c). Never reads the clock.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use tram_proto::limits;
use tram_proto::name::Zone;
use webpki::aws_lc_rs::{ECDSA_P256_SHA256, ECDSA_P384_SHA384};
use x509_parser::oid_registry::OID_X509_ORGANIZATION_NAME;

use crate::clock::{Utc, unix};
use crate::hash::Sha256;
use crate::policy::{self, Peer, PolicyError, ms};

/// What signs certificates in an overlay: P-384 roots, P-256 CAs and nodes. Nothing else is accepted.
pub(crate) static SIGNATURE_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] =
    &[ECDSA_P256_SHA256, ECDSA_P384_SHA384];

/// Roots that make no overlay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// There is none.
    #[error("there is no root certificate")]
    Empty,
    /// One cannot be read as a root of Tram.
    #[error("the root certificate is not one that `tramd init` makes: {0}")]
    Root(&'static str),
    /// They belong to different overlays.
    #[error("the root certificates belong to different zones: {0} and {1}")]
    Zones(Zone, Zone),
}

/// Why a chain is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// More certificates than the protocol allows, or one that is too large.
    #[error("the certificate chain is longer than the protocol allows")]
    Long,
    /// It ends elsewhere: another overlay, or a root that is not trusted any more.
    #[error(
        "the certificate was issued by {issuer}, which no root of zone {zone} vouches for: it belongs to another overlay, or its root has been replaced"
    )]
    UnknownRoot {
        /// The issuer's name as the leaf states it.
        issuer: String,
        /// Our zone.
        zone: Zone,
    },
    /// Not valid yet, as this clock has it.
    #[error(
        "the certificate is valid only from {from} on, but this machine's clock says {at}: if the clock is behind, set it (`timedatectl set-ntp true`)",
        from = Utc(*not_before_ms), at = Utc(*at_ms)
    )]
    NotYetValid {
        /// Start of validity, Unix milliseconds.
        not_before_ms: u64,
        /// The time it was checked against, Unix milliseconds.
        at_ms: u64,
    },
    /// No longer valid, as this clock has it.
    #[error(
        "the certificate expired at {until}, and this machine's clock says {at}: renew it, or set the clock if it is ahead",
        until = Utc(*not_after_ms), at = Utc(*at_ms)
    )]
    Expired {
        /// End of validity, Unix milliseconds.
        not_after_ms: u64,
        /// The time it was checked against, Unix milliseconds.
        at_ms: u64,
    },
    /// A rule of X.509 is broken: name constraints, path length, a signature, an unknown critical extension.
    #[error("the certificate chain is not valid: {0}")]
    Chain(webpki::Error),
    /// One of our own rules is broken.
    #[error("the certificate is not a node's: {0}")]
    Policy(#[from] PolicyError),
}

/// The roots and the zone of one overlay.
pub struct Trust {
    zone: Zone,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    not_after_ms: u64,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roots: Vec<_> = self.roots.iter().map(|root| Sha256::of(root)).collect();
        f.debug_struct("Trust").field("zone", &self.zone).field("roots", &roots).finish()
    }
}

/// A chain that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) peer: Peer,
    /// The span, Unix milliseconds, in which every certificate of the path is valid.
    pub(crate) not_before_ms: u64,
    pub(crate) not_after_ms: u64,
}

impl Trust {
    /// Takes root certificates; the zone is the organization in their subject.
    ///
    /// # Errors
    /// [`TrustError`] when there is none, one is not ours, or they disagree about the zone.
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        let mut zone: Option<Zone> = None;
        let mut anchors = Vec::new();
        let mut not_after_ms = u64::MAX;
        for root in &roots {
            let (own, end_ms) = zone_and_end(root)?;
            not_after_ms = not_after_ms.min(end_ms);
            match &zone {
                Some(other) if *other != own => return Err(TrustError::Zones(other.clone(), own)),
                _ => zone = Some(own),
            }
            let anchor = webpki::anchor_from_trusted_cert(root)
                .map_err(|_| TrustError::Root("it cannot serve as a trust anchor"))?;
            anchors.push(anchor.to_owned());
        }
        Ok(Self { zone: zone.ok_or(TrustError::Empty)?, roots, anchors, not_after_ms })
    }

    /// The overlay's zone.
    #[must_use]
    pub const fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The root certificates.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// When the first of the roots expires, Unix milliseconds. For warnings: a root is trusted because it is here, not by
    /// its dates.
    #[must_use]
    pub const fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }

    /// Whose certificate stands first in `certs`, by policy alone: for chains a handshake has verified already.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn peer_of(&self, certs: &[CertificateDer<'_>]) -> Result<Peer, PolicyError> {
        policy::peer(certs.first().ok_or(PolicyError::Missing)?, &self.zone)
    }

    /// Verifies a chain, leaf first, as of `at_ms` (Unix milliseconds), and says whose it is.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn verify(&self, chain: &[CertificateDer<'_>], at_ms: u64) -> Result<Peer, ChainError> {
        self.accept(chain, at_ms).map(|accepted| accepted.peer)
    }

    pub(crate) fn accept(&self, chain: &[CertificateDer<'_>], at_ms: u64) -> Result<Accepted, ChainError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(PolicyError::Missing.into());
        };
        if chain.len() > limits::CHAIN_CERTIFICATES || chain.iter().any(|c| c.len() > limits::CERTIFICATE_BYTES) {
            return Err(ChainError::Long);
        }
        let end = webpki::EndEntityCert::try_from(leaf).map_err(|error| self.explain(&error, leaf, at_ms))?;
        // Clients and servers show the same certificate and the policy asks for both purposes, so one usage will do.
        let usage = webpki::KeyUsage::client_auth();
        let path = end
            .verify_for_usage(SIGNATURE_ALGORITHMS, &self.anchors, intermediates, unix(at_ms), usage, None, None)
            .map_err(|error| self.explain(&error, leaf, at_ms))?;
        let peer = policy::peer(leaf, &self.zone)?;
        let (mut not_before_ms, mut not_after_ms) = (peer.not_before_ms, peer.not_after_ms);
        for certificate in path.intermediate_certificates() {
            let der = certificate.der();
            let parsed = policy::parse(&der)?;
            not_before_ms = not_before_ms.max(ms(parsed.validity().not_before.timestamp()));
            not_after_ms = not_after_ms.min(ms(parsed.validity().not_after.timestamp()));
        }
        Ok(Accepted { peer, not_before_ms, not_after_ms })
    }

    fn explain(&self, error: &webpki::Error, leaf: &CertificateDer<'_>, at_ms: u64) -> ChainError {
        let in_ms = |time: &UnixTime| time.as_secs().saturating_mul(1000);
        match error {
            webpki::Error::CertNotValidYet { not_before, .. } => {
                ChainError::NotYetValid { not_before_ms: in_ms(not_before), at_ms }
            }
            webpki::Error::CertExpired { not_after, .. } => {
                ChainError::Expired { not_after_ms: in_ms(not_after), at_ms }
            }
            webpki::Error::CaUsedAsEndEntity => PolicyError::Ca.into(),
            webpki::Error::UnknownIssuer => {
                let issuer = policy::parse(leaf).ok().and_then(|leaf| {
                    leaf.issuer().iter_common_name().next().and_then(|name| name.as_str().ok().map(str::to_owned))
                });
                let shown =
                    issuer.map(|name| format!("{:?}", name.chars().take(limits::NAME_BYTES).collect::<String>()));
                ChainError::UnknownRoot {
                    issuer: shown.unwrap_or_else(|| "an issuer without a name".to_owned()),
                    zone: self.zone.clone(),
                }
            }
            other => ChainError::Chain(other.clone()),
        }
    }
}

fn zone_and_end(root: &CertificateDer<'_>) -> Result<(Zone, u64), TrustError> {
    let parsed = policy::parse(root).map_err(|_| TrustError::Root("it cannot be read"))?;
    if !parsed.is_ca() {
        return Err(TrustError::Root("it is not a CA certificate"));
    }
    let organization = policy::only(&parsed, &OID_X509_ORGANIZATION_NAME, "organization")
        .map_err(|_| TrustError::Root("it does not name the zone"))?;
    let zone = organization.parse().map_err(|_| TrustError::Root("the zone it names is not one"))?;
    Ok((zone, ms(parsed.validity().not_after.timestamp())))
}

#[cfg(test)]
mod tests;
