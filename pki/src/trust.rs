//! Whom an overlay's nodes trust: its roots and its zone.
//!
//! Guarantees that a chain it accepts ends in one of the roots, was valid at the time asked about, was issued by the CA
//! closest to its name, and passes [`crate::policy`]. TLS links, statements and the join answer all come through here, so
//! there is one code path; links ask in addition that nothing in the chain is revoked. Shared by verifiers through an
//! `Arc` and never changed in place: new roots and revocation lists are a new `Trust` and new TLS configurations
//! (`research/pki.md` §3c). Roots that were exchanged for others count for statements alone. Never reads the clock.

use std::collections::BTreeMap;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use tram_proto::id::NodeId;
use tram_proto::limits;
use tram_proto::name::{NodeName, Zone};
use tram_proto::pki::{Alias, PastRoot, Transfer};
use webpki::aws_lc_rs::{ECDSA_P256_SHA256, ECDSA_P384_SHA384};
use webpki::{
    CertRevocationList, ExpirationPolicy, RevocationCheckDepth, RevocationOptions, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};
use x509_parser::oid_registry::OID_X509_ORGANIZATION_NAME;

use crate::authority::Scope;
use crate::bundle::Known;
use crate::clock::{BACKDATE_MS, Utc, unix};
use crate::crl::{Crl, Reason, Revoked};
use crate::hash::Sha256;
use crate::policy::{self, Ca, Peer, PolicyError, ms};

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
    /// Its CA, or the root, has taken it back.
    #[error(
        "the certificate of {name} has been revoked: whoever revoked it can tell why; a new token makes it a new node"
    )]
    Revoked {
        /// Whose.
        name: String,
    },
    /// No revocation list of its CA is here, though there are others.
    #[error("no revocation list of the CA of {scope} has come here yet, so nobody can tell whether {name} was revoked")]
    UnknownStatus {
        /// Whose certificate.
        name: NodeName,
        /// Whose CA issued it.
        scope: Scope,
    },
    /// A rule of X.509 is broken: name constraints, path length, a signature, an unknown critical extension.
    #[error("the certificate chain is not valid: {0}")]
    Chain(webpki::Error),
    /// One of our own rules is broken.
    #[error("the certificate is not a node's: {0}")]
    Policy(#[from] PolicyError),
}

/// The roots and the zone of one overlay, and what is known of its CAs.
pub struct Trust {
    zone: Zone,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// Roots of the past, and until when they vouched.
    past: Vec<(TrustAnchor<'static>, u64)>,
    not_after_ms: u64,
    authorities: Vec<Authority>,
    /// By the CA's public key.
    crls: BTreeMap<Sha256, CertRevocationList<'static>>,
    /// Which CA central has transferred a node id to.
    transfers: BTreeMap<NodeId, Scope>,
    aliases: BTreeMap<NodeId, Vec<Alias>>,
}

struct Authority {
    known: Known,
    is_revoked: bool,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roots: Vec<_> = self.roots.iter().map(|root| Sha256::of(root)).collect();
        f.debug_struct("Trust").field("zone", &self.zone).field("roots", &roots).finish()
    }
}

/// A chain that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Whose.
    pub peer: Peer,
    /// The CA that issued the leaf.
    pub issuer: Ca,
    /// From when on every certificate of the path is valid, Unix milliseconds.
    pub not_before_ms: u64,
    /// Until when, Unix milliseconds.
    pub not_after_ms: u64,
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
            anchors.push(anchor(root)?);
        }
        let (past, authorities) = (Vec::new(), Vec::new());
        let (crls, transfers, aliases) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let zone = zone.ok_or(TrustError::Empty)?;
        Ok(Self { zone, roots, anchors, past, not_after_ms, authorities, crls, transfers, aliases })
    }

    /// Adds roots of the past.
    pub(crate) fn remember(&mut self, past: &[PastRoot]) -> Result<(), TrustError> {
        for one in past {
            self.past.push((anchor(&one.certificate.as_ref().into())?, one.until_ms));
        }
        Ok(())
    }

    /// When a further CA for the same names begins: nodes turn to the one that began last, and certificates count whole
    /// seconds. `None`: as any other.
    pub(crate) fn after_others(&self, scope: &Scope, now_ms: u64) -> Option<u64> {
        let others = self.authorities.iter().filter(|other| other.known.ca.scope == *scope);
        let latest_ms = others.map(|other| other.known.ca.not_before_ms).max()?;
        (latest_ms / 1000 >= now_ms.saturating_sub(BACKDATE_MS) / 1000).then_some(latest_ms + 1000)
    }

    /// Adds what the bundle holds.
    pub(crate) fn learn<'a>(&mut self, authorities: Vec<Known>, crls: impl Iterator<Item = &'a Crl>) {
        for crl in crls {
            if let Some(list) = crl.to_check() {
                self.crls.insert(crl.issuer, list);
            }
        }
        for known in authorities {
            let is_revoked = self.finds(&known.serial, issuer_of(&known.der).as_deref());
            self.authorities.push(Authority { known, is_revoked });
        }
    }

    /// Adds what central's CA has transferred.
    pub(crate) fn learn_transfers<'a>(&mut self, transfers: impl Iterator<Item = &'a Transfer>) {
        let scope = |to: &Option<NodeName>| to.clone().map_or(Scope::Overlay, Scope::Below);
        self.transfers.extend(transfers.map(|one| (one.node, scope(&one.to))));
    }

    /// Adds what CAs say of former names.
    pub(crate) fn learn_aliases(&mut self, aliases: impl Iterator<Item = Alias>) {
        for alias in aliases {
            self.aliases.entry(alias.node).or_default().push(alias);
        }
    }

    /// Whether a node bore both names, and either was understood at `at_ms`, Unix milliseconds.
    #[must_use]
    pub fn are_one(&self, node: NodeId, one: &NodeName, other: &NodeName, at_ms: u64) -> bool {
        let of = self.aliases.get(&node).into_iter().flatten();
        Alias::are_one(of.filter(|alias| at_ms < alias.until_ms), node, one, other)
    }

    /// Whether no revocation list is here at all: a node that has just joined, or comes from a release without any.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.crls.is_empty()
    }

    /// Whether central has transferred a node id to this CA.
    #[must_use]
    pub fn is_transferred(&self, node: NodeId, to: &Scope) -> bool {
        self.transfers.get(&node).is_some_and(|scope| scope.apex() == to.apex())
    }

    /// Whether the list of the issuer with this name (DER) has this serial number.
    fn finds(&self, serial: &[u8], issuer: Option<&[u8]>) -> bool {
        let named = |list: &&CertRevocationList<'_>| issuer.is_some_and(|issuer| is_same_name(list.issuer(), issuer));
        self.crls.values().filter(named).any(|list| matches!(list.find_serial(serial), Ok(Some(_))))
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

    /// Verifies a chain, leaf first, as of `at_ms` (Unix milliseconds), and says whose it is. Revocation does not count:
    /// what was signed before it stays signed.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn verify(&self, chain: &[CertificateDer<'_>], at_ms: u64) -> Result<Peer, ChainError> {
        self.accept(chain, at_ms).map(|accepted| accepted.peer)
    }

    /// Verifies the chain of a neighbour, leaf first, now. Nothing in it may be revoked. As long as no revocation list at
    /// all is here, none is asked for: a node gets the first ones over its first link.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn admit(&self, chain: &[CertificateDer<'_>], now_ms: u64) -> Result<Accepted, ChainError> {
        let lists: Vec<&CertRevocationList<'_>> = self.crls.values().collect();
        let options = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            // A stale list is better than none, and a missing one is judged below: DESIGN §3.
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let accepted = self.check(&self.anchors, chain, now_ms, options)?;
        if !self.crls.is_empty() && !self.crls.contains_key(&accepted.issuer.key) {
            return Err(ChainError::UnknownStatus { name: accepted.peer.name, scope: accepted.issuer.scope });
        }
        Ok(accepted)
    }

    /// The CA that issued the leaf of a chain, as of the leaf's last second.
    #[must_use]
    pub fn issuer_of(&self, chain: &[CertificateDer<'_>]) -> Option<Ca> {
        let leaf = self.peer_of(chain).ok()?;
        self.accept(chain, leaf.not_after_ms).ok().map(|accepted| accepted.issuer)
    }

    /// Since when and why the leaf of a chain that was accepted, or its CA, is revoked, as far as lists are here: what was
    /// signed before stays signed, but its reader may want to know. A CA's revocations stand in the lists of its later
    /// keys too, and a root's in those of the roots after it.
    #[must_use]
    pub fn revoked(&self, chain: &[CertificateDer<'_>]) -> Option<Revoked> {
        let (leaf, rest) = chain.split_first()?;
        let leaf = policy::parse(leaf).ok()?;
        let name = leaf.issuer().as_raw();
        let shown = rest.iter().filter_map(|der| {
            let parsed = policy::parse(der).ok().filter(|parsed| parsed.subject().as_raw() == name)?;
            Some((parsed.raw_serial().to_vec(), Ca::read(der, &self.zone).ok()?))
        });
        let known = self.authorities.iter().map(|a| &a.known).filter(|known| known.subject == name);
        let issuers: Vec<(Vec<u8>, Ca)> =
            shown.chain(known.map(|known| (known.serial.clone(), known.ca.clone()))).collect();
        let find = |list: &CertRevocationList<'_>, serial: &[u8]| {
            let entry = list.find_serial(serial).ok()??.to_owned();
            let reason = entry.reason_code.map_or(Reason::Unspecified, |reason| Reason::from_code(reason as u8));
            let at_ms = entry.revocation_date.as_secs().saturating_mul(1000);
            Some(Revoked { serial: entry.serial_number, at_ms, reason })
        };
        let entries = self.crls.iter().filter_map(|(key, list)| {
            let is_roots = self
                .roots
                .iter()
                .any(|root| policy::parse(root).is_ok_and(|root| Sha256::of(root.public_key().raw) == *key));
            if is_roots {
                return issuers.iter().find_map(|(serial, _)| find(list, serial));
            }
            let speaks = issuers.iter().any(|(_, ca)| {
                ca.key == *key
                    || self.authorities.iter().any(|a| a.known.ca.key == *key && a.known.ca.scope == ca.scope)
            });
            if speaks { find(list, leaf.raw_serial()) } else { None }
        });
        // Of several the one that puts what was signed in doubt.
        entries.max_by_key(|one| one.reason == Reason::KeyCompromise)
    }

    pub(crate) fn accept(&self, chain: &[CertificateDer<'_>], at_ms: u64) -> Result<Accepted, ChainError> {
        self.check(&self.anchors, chain, at_ms, None)
    }

    /// The same for whoever signed something: a root of the past will do for what was certified in its time.
    pub(crate) fn accept_author(&self, chain: &[CertificateDer<'_>], at_ms: u64) -> Result<Accepted, ChainError> {
        self.accept(chain, at_ms).or_else(|error| {
            let under = |(root, until_ms): &(TrustAnchor<'static>, u64)| {
                let accepted = self.check(std::slice::from_ref(root), chain, at_ms, None).ok()?;
                (accepted.peer.not_before_ms <= *until_ms).then_some(accepted)
            };
            self.past.iter().find_map(under).ok_or_else(|| match error {
                // Its CA is younger than it is, under the roots of now: another root vouched for it then.
                ChainError::NotYetValid { .. } if self.peer_of(chain).is_ok_and(|p| p.not_before_ms <= at_ms) => {
                    self.explain(&webpki::Error::UnknownIssuer, &chain[0], at_ms)
                }
                error => error,
            })
        })
    }

    fn check(
        &self,
        anchors: &[TrustAnchor<'static>],
        chain: &[CertificateDer<'_>],
        at_ms: u64,
        revocation: Option<RevocationOptions<'_>>,
    ) -> Result<Accepted, ChainError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(PolicyError::Missing.into());
        };
        if chain.len() > limits::CHAIN_CERTIFICATES || chain.iter().any(|c| c.len() > limits::CERTIFICATE_BYTES) {
            return Err(ChainError::Long);
        }
        let end = webpki::EndEntityCert::try_from(leaf).map_err(|error| self.explain(&error, leaf, at_ms))?;
        // The peer may not know yet that another root vouches for its CA: what the bundle says of that CA counts too.
        let issuer = issuer_of(leaf).unwrap_or_default();
        let known = self.authorities.iter().map(|a| &a.known).filter(|known| known.subject == issuer);
        let intermediates: Vec<CertificateDer<'_>> = intermediates
            .iter()
            .map(|der| CertificateDer::from(der.as_ref()))
            .chain(known.map(|k| k.der.clone()))
            .collect();
        // Clients and servers show the same certificate and the policy asks for both purposes, so one usage will do.
        let usage = webpki::KeyUsage::client_auth();
        let time = unix(at_ms);
        let path = end
            .verify_for_usage(SIGNATURE_ALGORITHMS, anchors, &intermediates, time, usage, revocation, None)
            .map_err(|error| self.explain(&error, leaf, at_ms))?;
        let peer = policy::peer(leaf, &self.zone)?;
        let (mut not_before_ms, mut not_after_ms) = (peer.not_before_ms, peer.not_after_ms);
        let mut issuer = None;
        for certificate in path.intermediate_certificates() {
            let ca = Ca::read(&certificate.der(), &self.zone)?;
            not_before_ms = not_before_ms.max(ca.not_before_ms);
            not_after_ms = not_after_ms.min(ca.not_after_ms);
            issuer.get_or_insert(ca);
        }
        let issuer = issuer.ok_or(PolicyError::NotCa("a root issued it itself"))?;
        self.check_closest(&peer, &issuer)?;
        Ok(Accepted { peer, issuer, not_before_ms, not_after_ms })
    }

    /// A name is certified by the CA closest to it, from the time on when that CA is there.
    fn check_closest(&self, peer: &Peer, issuer: &Ca) -> Result<(), PolicyError> {
        let closer = self.authorities.iter().filter(|a| !a.is_revoked).map(|a| &a.known.ca).find(|ca| {
            ca.scope.covers(&peer.name)
                && ca.scope.is_closer_than(&issuer.scope)
                && ca.not_before_ms < peer.not_before_ms
                && peer.not_before_ms < ca.not_after_ms
        });
        match closer {
            Some(ca) => Err(PolicyError::NotClosest {
                name: peer.name.clone(),
                by: issuer.scope.clone(),
                closer: ca.scope.clone(),
            }),
            None => Ok(()),
        }
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
            webpki::Error::CertRevoked => {
                let name =
                    policy::peer(leaf, &self.zone).map_or_else(|_| "a node".to_owned(), |peer| peer.name.to_string());
                ChainError::Revoked { name }
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

fn anchor(root: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, TrustError> {
    let anchor =
        webpki::anchor_from_trusted_cert(root).map_err(|_| TrustError::Root("it cannot serve as a trust anchor"))?;
    Ok(anchor.to_owned())
}

/// The issuer's name, DER.
fn issuer_of(certificate: &[u8]) -> Option<Vec<u8>> {
    policy::parse(certificate).ok().map(|parsed| parsed.issuer().as_raw().to_vec())
}

/// Whether two names are the same; webpki leaves out the outermost tag and length.
fn is_same_name(inner: &[u8], whole: &[u8]) -> bool {
    whole == inner || whole.ends_with(inner) && whole.len() - inner.len() <= 4
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
