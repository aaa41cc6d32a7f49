//! The next certificate: a node asks with the key it has for one on a new key. Also the CA certificate of a province.
//!
//! One request serves a renewal in time and one up to [`GRACE_MS`] after expiry. It proves the old key, and the answer is
//! of use only to the holder of the new one, so it may pass through anyone's hands, and come twice: the same key gets the
//! same certificate again. Never decides when: that is [`due_ms`] and the daemon. `research/pki.md` §4 "Renewal".

use bytes::Bytes;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use tram_proto::id::NodeId;
use tram_proto::name::{NodeName, Role};
use tram_proto::pki::{AUTHORITY_PURPOSE, Answer, RENEW_PURPOSE, Refusal, RenewRequest};

use crate::authority::{Authority, Issued, Root, Scope, Subject};
use crate::bundle::Bundle;
use crate::clock::{DAY_MS, Span};
use crate::crl::signed_by;
use crate::csr::{self, CsrError, LeafKey};
use crate::hash::Sha256;
use crate::keystore::NodeKeys;
use crate::policy::{self, Ca, Peer};
use crate::registry::{AuthorityRequest, Registry};
use crate::statement::SignError;
use crate::trust::{ChainError, Trust};

/// How long after its end a certificate can still be renewed with its key, in milliseconds: 30 days.
pub const GRACE_MS: u64 = 30 * DAY_MS;

/// When a certificate is to be renewed, Unix milliseconds: at two thirds of its life, a tenth of its life earlier or later,
/// always the same for the same node, so that nodes that joined together do not all ask together.
#[must_use]
pub fn due_ms(peer: &Peer) -> u64 {
    let life = peer.not_after_ms.saturating_sub(peer.not_before_ms);
    let spread = u64::from(u16::from_be_bytes([peer.id.0[14], peer.id.0[15]]));
    peer.not_before_ms + life * 2 / 3 - life / 20 + life / 10 * spread / u64::from(u16::MAX)
}

/// Asks for a certificate on `next`.
///
/// # Errors
/// [`SignError`].
pub fn request(keys: &NodeKeys, next: &KeyPair) -> Result<RenewRequest, SignError> {
    let csr = csr::request(next).map_err(|_| SignError::Failed)?;
    sign(keys, RENEW_PURPOSE, csr)
}

/// Asks for a CA certificate for the names below this node's own; `csr` is [`Authority::request`]'s.
///
/// # Errors
/// [`SignError`].
pub fn authority_request(keys: &NodeKeys, csr: Vec<u8>) -> Result<RenewRequest, SignError> {
    sign(keys, AUTHORITY_PURPOSE, csr)
}

fn sign(keys: &NodeKeys, purpose: &[u8], csr: Vec<u8>) -> Result<RenewRequest, SignError> {
    let signature = keys.signer().sign(&[purpose, &Sha256::of(&csr).0].concat())?;
    let chain = keys.chain().iter().map(|der| Bytes::copy_from_slice(der)).collect();
    Ok(RenewRequest { chain, csr: csr.into(), signature: signature.into() })
}

/// Why a request was refused, exactly: for this node's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The chain does not hold.
    #[error("the certificate it shows is not accepted: {0}")]
    Chain(#[from] ChainError),
    /// The old key was not proved.
    #[error("{0} did not prove its key")]
    Key(NodeName),
    /// Too late.
    #[error(
        "the certificate of {name} expired {ago} ago; after 30 days it takes a new token: `tram token new {name}` here"
    )]
    Expired {
        /// Whose.
        name: NodeName,
        /// How long ago.
        ago: String,
    },
    /// It was revoked.
    #[error("{0} has been revoked")]
    Revoked(NodeName),
    /// The request itself.
    #[error("{name}: {error}")]
    Csr {
        /// Whose.
        name: NodeName,
        /// What is wrong.
        error: CsrError,
    },
    /// The new key is in use elsewhere.
    #[error("{name} asks for the key of {holder}: its disk has been copied")]
    KeyOfAnotherNode {
        /// Whose request.
        name: NodeName,
        /// Who has the key.
        holder: NodeName,
    },
    /// The new key is that of a certificate that was revoked.
    #[error("{0} asks for a key that was revoked: it must make a new one")]
    RevokedKey(NodeName),
    /// The node is another CA's.
    #[error("{0} was registered by another CA and has not been transferred to this one")]
    NotOurs(NodeName),
    /// Only a province gets a CA.
    #[error("{0} is not a province: only a province gets a CA of its own")]
    NotProvince(NodeName),
    /// It waits for a person.
    #[error("{0} asks for a CA certificate, and the root's key is not here: sign it by file (`tram pki root sign`)")]
    Pending(NodeName),
    /// Issuing or recording failed here.
    #[error("{name} could not be given a certificate: {why}")]
    Failed {
        /// Whose.
        name: NodeName,
        /// What failed.
        why: String,
    },
}

impl Cause {
    /// What the asker is told.
    #[must_use]
    pub const fn answer(&self) -> Answer {
        Answer::Refused(match self {
            Self::Chain(ChainError::Revoked { .. }) | Self::Revoked(_) => Refusal::Revoked,
            Self::Chain(_) | Self::Key(_) => Refusal::NotProven,
            Self::Expired { .. } => Refusal::Expired,
            Self::Csr { .. } | Self::KeyOfAnotherNode { .. } | Self::RevokedKey(_) | Self::NotProvince(_) => {
                Refusal::Request
            }
            Self::NotOurs(_) => Refusal::NoAuthority,
            Self::Pending(_) => return Answer::Pending,
            Self::Failed { .. } => Refusal::Unavailable,
        })
    }
}

/// Whoever asks, and the key it asks for.
struct Asker {
    peer: Peer,
    issuer: Ca,
    key: LeafKey,
}

fn check(trust: &Trust, request: &RenewRequest, purpose: &[u8], now_ms: u64) -> Result<Asker, Cause> {
    let chain: Vec<CertificateDer<'_>> = request.chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
    let stated = trust.peer_of(&chain).map_err(ChainError::from)?;
    // An expired one is judged as of its last second.
    let accepted = trust.admit(&chain, now_ms.min(stated.not_after_ms))?;
    let (peer, issuer) = (accepted.peer, accepted.issuer);
    if now_ms > peer.not_after_ms.saturating_add(GRACE_MS) {
        let ago = Span(now_ms - peer.not_after_ms).to_string();
        return Err(Cause::Expired { name: peer.name, ago });
    }
    let spki = chain.first().and_then(|leaf| policy::parse(leaf).ok().map(|leaf| leaf.public_key().raw.to_vec()));
    let message = [purpose, &Sha256::of(&request.csr).0].concat();
    if !spki.is_some_and(|spki| signed_by(&spki, &message, &request.signature)) {
        return Err(Cause::Key(peer.name));
    }
    let key = LeafKey::from_csr(&request.csr).map_err(|error| Cause::Csr { name: peer.name.clone(), error })?;
    Ok(Asker { peer, issuer, key })
}

/// Answers a node that asks for its next certificate. What the answer promises is durable when this returns.
///
/// # Errors
/// [`Cause`].
pub fn answer(
    registry: &mut Registry,
    authority: &Authority,
    bundle: &Bundle,
    trust: &Trust,
    request: &RenewRequest,
    source: &str,
    now_ms: u64,
) -> Result<Answer, Cause> {
    let Asker { peer, issuer, key } = check(trust, request, RENEW_PURPOSE, now_ms)?;
    let name = peer.name.clone();
    if registry.is_barred(peer.id) {
        return Err(Cause::Revoked(name));
    }
    let record = registry.node_by_id(peer.id);
    if record.is_none() && !may_take_over(bundle, authority, peer.id, issuer.key) {
        return Err(Cause::NotOurs(name));
    }
    // A renamed node learns its new name here.
    let subject = Subject {
        id: peer.id,
        name: record.map_or_else(|| name.clone(), |node| node.name.clone()),
        role: record.map_or(peer.role, |node| node.role),
    };
    if let Some(holder) = registry.other_holder(key.hash(), &subject.name) {
        return Err(Cause::KeyOfAnotherNode { holder: holder.clone(), name });
    }
    if registry.is_revoked_key(key.hash()) {
        return Err(Cause::RevokedKey(name));
    }
    let failed = |why: &dyn std::fmt::Display| Cause::Failed { name: name.clone(), why: why.to_string() };
    let again = record
        .filter(|node| node.certificates.last().is_some_and(|c| c.key == key.hash() && c.not_after_ms > now_ms))
        .and_then(crate::registry::NodeRecord::latest);
    let leaf = match again {
        Some(leaf) => leaf,
        None => {
            let issued: Issued = authority.issue(&key, &subject, now_ms).map_err(|error| failed(&error))?;
            registry.renewed(&subject, &issued, source).map_err(|error| failed(&error))?;
            issued.certificate
        }
    };
    let chain = std::iter::once(&leaf).chain(authority.certificates());
    Ok(Answer::Granted(chain.map(|der| Bytes::copy_from_slice(der)).collect()))
}

/// Whether this CA may certify a node that another one registered: central has said so, or the other CA was this node's
/// own before its key was exchanged.
fn may_take_over(bundle: &Bundle, authority: &Authority, node: NodeId, issuer: Sha256) -> bool {
    let spoken = |by: &[u8; 32]| bundle.authorities().any(|k| k.ca.key.0 == *by && k.ca.scope == Scope::Overlay);
    let to_us = |to: &Option<NodeName>| to.as_ref() == authority.scope().apex();
    let transferred = bundle
        .notices()
        .filter(|notice| spoken(&notice.authority))
        .any(|notice| notice.transfers.iter().any(|one| one.node == node && to_us(&one.to)));
    let same_scope = bundle.authorities().any(|k| k.ca.key == issuer && k.ca.scope == *authority.scope());
    transferred || same_scope
}

/// Answers a province that asks for a CA certificate: with `root` at hand it is made at once, otherwise the request is
/// kept. The certificate goes to everyone with the bundle, to the province as well.
///
/// # Errors
/// [`Cause`].
pub fn certify(
    registry: &mut Registry,
    root: Option<&Root>,
    trust: &Trust,
    request: &RenewRequest,
    now_ms: u64,
) -> Result<(CertificateDer<'static>, Scope), Cause> {
    let Asker { peer, key, issuer } = check(trust, request, AUTHORITY_PURPOSE, now_ms)?;
    let name = peer.name.clone();
    if registry.is_barred(peer.id) {
        return Err(Cause::Revoked(name));
    }
    let scope = match peer.role {
        // One that began alone certifies itself, and goes on doing so.
        Role::Province if issuer.scope == Scope::From(name.clone()) => issuer.scope,
        Role::Province => Scope::Below(name.clone()),
        Role::Central => Scope::Overlay,
        _ => return Err(Cause::NotProvince(name)),
    };
    let failed = |why: &dyn std::fmt::Display| Cause::Failed { name: name.clone(), why: why.to_string() };
    let Some(root) = root else {
        let waiting = AuthorityRequest::new(&name, key.hash(), &request.csr, now_ms);
        registry.request_authority(waiting, now_ms).map_err(|error| failed(&error))?;
        return Err(Cause::Pending(name));
    };
    let since_ms = trust.after_others(&scope, now_ms);
    let certificate = root.certify_since(&key, &scope, since_ms, now_ms).map_err(|error| failed(&error))?;
    registry.certified(key.hash(), &scope, name.as_str(), now_ms).map_err(|error| failed(&error))?;
    Ok((certificate, scope))
}

/// Why an answer was not accepted. Nothing has been installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The CA said no.
    #[error("{0}")]
    Refused(Refusal),
    /// It takes a person.
    #[error("it waits for a person at the root's holder")]
    Pending,
    /// The certificate does not hold.
    #[error("the certificate in the answer is not accepted: {0}")]
    Chain(#[from] ChainError),
    /// It is for another node or another key.
    #[error("the certificate in the answer is not this node's: its {0} differs")]
    Other(&'static str),
}

/// Checks the answer to a renewal: our id and role, the next key, a chain that holds now.
///
/// # Errors
/// [`AnswerError`].
pub fn accept(
    keys: &NodeKeys,
    next: &KeyPair,
    trust: &Trust,
    answer: Answer,
    now_ms: u64,
) -> Result<Vec<CertificateDer<'static>>, AnswerError> {
    let chain = match answer {
        Answer::Granted(chain) => chain,
        Answer::Pending => return Err(AnswerError::Pending),
        Answer::Refused(why) => return Err(AnswerError::Refused(why)),
    };
    let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(|der| der.to_vec().into()).collect();
    let peer = trust.admit(&chain, now_ms)?.peer;
    let own = LeafKey::of(next).map(|key| key.hash()).ok();
    let certified =
        chain.first().and_then(|leaf| policy::parse(leaf).ok()).map(|leaf| Sha256::of(leaf.public_key().raw));
    let identity = keys.identity();
    let fits = [(peer.id == identity.id, "node id"), (peer.role == identity.role, "role"), (certified == own, "key")];
    match fits.into_iter().find(|(fits, _)| !fits) {
        Some((_, what)) => Err(AnswerError::Other(what)),
        None => Ok(chain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crl::Reason;
    use crate::fixtures::{self, NOW_MS, Province, Tree};
    use crate::registry::TOKEN_MS;

    const OWN: NodeId = NodeId([0; 16]);

    /// A province asks central, with what `spoil` makes of its request, at that time.
    fn ask(
        tree: &mut Tree,
        province: &Province,
        next: &KeyPair,
        spoil: impl FnOnce(&mut RenewRequest),
        now_ms: u64,
    ) -> Result<Answer, Cause> {
        let mut request = request(&province.keys, next).expect("signed");
        spoil(&mut request);
        let trust = tree.bundle.trust().expect("roots");
        let authority = Authority::open(tree.central.dir()).expect("opens");
        answer(&mut tree.registry, &authority, &tree.bundle, &trust, &request, "test", now_ms)
    }

    fn scene() -> (Tree, Province, KeyPair) {
        let mut tree = Tree::new();
        let province = tree.province("can-tho", NOW_MS);
        (tree, province, fixtures::key())
    }

    #[test]
    fn a_certificate_is_renewed_until_thirty_days_after_its_end_and_no_longer() {
        let (mut tree, province, next) = scene();
        let end_ms = province.keys.identity().not_after_ms;
        for now_ms in [NOW_MS, end_ms, end_ms + GRACE_MS] {
            let granted = ask(&mut tree, &province, &next, |_| {}, now_ms).expect("in time");
            let trust = tree.bundle.trust().expect("roots");
            accept(&province.keys, &next, &trust, granted, now_ms).expect("ours");
        }
        let late = ask(&mut tree, &province, &next, |_| {}, end_ms + GRACE_MS + 1);
        assert!(matches!(late, Err(Cause::Expired { .. })), "{late:?}");
    }

    #[test]
    fn the_same_key_gets_the_same_certificate_and_another_key_another() {
        let (mut tree, province, next) = scene();
        let first = ask(&mut tree, &province, &next, |_| {}, NOW_MS).expect("granted");
        assert_eq!(ask(&mut tree, &province, &next, |_| {}, NOW_MS + TOKEN_MS), Ok(first.clone()));
        assert_ne!(ask(&mut tree, &province, &fixtures::key(), |_| {}, NOW_MS), Ok(first));
    }

    #[test]
    fn whoever_does_not_prove_the_old_key_gets_nothing() {
        let (mut tree, province, next) = scene();
        let other = csr::request(&fixtures::key()).expect("made");
        let altered = ask(&mut tree, &province, &next, |r| r.csr = other.into(), NOW_MS);
        assert!(matches!(altered, Err(Cause::Key(_))), "{altered:?}");
        // A request for a CA certificate is none for a node's.
        let purpose = authority_request(&province.keys, csr::request(&next).expect("made")).expect("signed");
        let mixed = ask(&mut tree, &province, &next, |r| *r = purpose, NOW_MS);
        assert!(matches!(mixed, Err(Cause::Key(_))), "{mixed:?}");
        let foreign = Tree::new().province("can-tho", NOW_MS);
        let unknown = ask(&mut tree, &foreign, &next, |_| {}, NOW_MS);
        assert!(matches!(unknown, Err(Cause::Chain(_))), "{unknown:?}");
    }

    #[test]
    fn row_02_a_key_of_another_node_or_of_a_revoked_certificate_is_not_certified_again() {
        let (mut tree, province, next) = scene();
        let other = tree.province("an-giang", NOW_MS);
        ask(&mut tree, &other, &next, |_| {}, NOW_MS).expect("granted");
        let copied = ask(&mut tree, &province, &next, |_| {}, NOW_MS);
        assert!(matches!(copied, Err(Cause::KeyOfAnotherNode { .. })), "{copied:?}");
        let used = fixtures::key();
        ask(&mut tree, &province, &used, |_| {}, NOW_MS).expect("granted");
        let serial = tree.registry.node(&province.keys.identity().name).expect("known").certificates[1].serial.clone();
        tree.registry.revoke(&serial, Reason::KeyCompromise, OWN, "lan", NOW_MS).expect("revoked");
        let again = ask(&mut tree, &province, &used, |_| {}, NOW_MS);
        assert!(matches!(again, Err(Cause::RevokedKey(_))), "{again:?}");
        ask(&mut tree, &province, &fixtures::key(), |_| {}, NOW_MS).expect("another key is welcome");
    }

    #[test]
    fn row_11_a_revoked_node_renews_nothing() {
        let (mut tree, province, next) = scene();
        tree.registry.revoke("can-tho", Reason::Withdrawn, OWN, "lan", NOW_MS).expect("revoked");
        // Before its list is anywhere, the registry knows.
        let refused = ask(&mut tree, &province, &next, |_| {}, NOW_MS);
        assert!(matches!(refused, Err(Cause::Revoked(_))), "{refused:?}");
        tree.list_central(NOW_MS);
        let refused = ask(&mut tree, &province, &next, |_| {}, NOW_MS).expect_err("on the list");
        assert_eq!(refused.answer(), Answer::Refused(Refusal::Revoked));
    }

    #[test]
    fn of_cas_made_in_one_second_the_last_is_turned_to_also_after_an_exchange_of_roots() {
        let (mut tree, province, _) = scene();
        let name = "ninh-kieu.can-tho".parse().expect("name");
        let mut last = None;
        for _ in 0..4 {
            let csr = csr::request(&fixtures::key()).expect("made");
            let key = LeafKey::from_csr(&csr).expect("P-256").hash();
            let request = authority_request(&province.keys, csr).expect("signed");
            let trust = tree.bundle.trust().expect("roots");
            let made = certify(&mut tree.registry, Some(&tree.root), &trust, &request, NOW_MS).expect("certified");
            tree.take_authority(&made.0);
            last = Some(key);
            assert_eq!(tree.bundle.closest(&name, NOW_MS).map(|ca| ca.key), last);
        }
        let (dir, later_ms) = (tree.central.dir().to_owned(), NOW_MS + 3_600_000);
        crate::rotate::begin(&dir, &mut tree.bundle, &mut tree.registry, "lan", later_ms).expect("begun");
        assert_eq!(tree.bundle.closest(&name, later_ms).map(|ca| ca.key), last);
    }
}
