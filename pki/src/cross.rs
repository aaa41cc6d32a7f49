//! A province that began alone, with a root of its own, comes under another overlay's root: every node, key and
//! certificate of it stays as it is.
//!
//! The other root certifies the province's CA keys, for the names they have now, back to their first day. Both roots sign
//! a handover, which is an object of the bundle: who trusts the province's root trusts the other one from then on, also a
//! node that was off all the while. Two files on a stick, two fingerprints read out. Works on files, with no daemon and
//! no network; who may say yes are the two people with the root keys.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use tram_proto::id::NodeId;
use tram_proto::name::{NodeName, Role, Zone};
use tram_proto::pki::{Handover, Item, Object, ObjectKey, SignedHandover};

use crate::authority::{AuthorityError, Root, Scope};
use crate::bundle::{Bundle, Known, ObjectError};
use crate::crl::signed_by;
use crate::csr::LeafKey;
use crate::files::{self, FileError};
use crate::hash::{Fingerprint, Sha256};
use crate::keystore::ROOT_KEY;
use crate::parcel::Parcel;
use crate::policy::{self, Peer, PolicyError};
use crate::registry::{Registry, RegistryError};
use crate::stated::{Stated, Whose};
use crate::trust::{ChainError, TrustError};

/// Where the province's own root key lies after the handover. It is of no use but to an attacker of nodes that have not
/// heard of it.
pub const ROOT_KEY_ALONE: &str = "root-alone.key";

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrossError {
    /// The overlay is not one of a province.
    #[error(
        "{name} cannot come under another root: it was not begun with `tramd init --role province`, so its CA certifies names outside {name}"
    )]
    NotAlone {
        /// The node.
        name: NodeName,
    },
    /// Roots are being exchanged.
    #[error("an exchange of roots is under way: end it first, see `tram pki rotate root status`")]
    Rotating,
    /// The file is something else.
    #[error("it is not {0}")]
    Other(&'static str),
    /// Something in it does not hold.
    #[error("something in it is not what it should be: {0}")]
    Object(#[from] ObjectError),
    /// The province's own certificate does not hold.
    #[error("the certificate of the province in it is not accepted: {0}")]
    Chain(#[from] ChainError),
    /// A certificate.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A root.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Keys.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The zones differ.
    #[error(
        "it is of zone {theirs}, and this overlay is {ours}: the names of its nodes cannot stay, so each joins anew"
    )]
    Zone {
        /// Of the file.
        theirs: Zone,
        /// Here.
        ours: Zone,
    },
    /// It certifies what is not its own.
    #[error("it has a CA of {0}, which does not lie within its names")]
    Outside(Scope),
    /// Both have nodes of a name.
    #[error("this overlay has nodes within its names already: {}. Revoke or rename them first, and cancel their tokens", .0.join(", "))]
    Names(Vec<String>),
    /// Both have nodes of an id.
    #[error("its node id {id} is that of {name} here")]
    Id {
        /// The id.
        id: NodeId,
        /// Whose it is here.
        name: NodeName,
    },
    /// The names have a CA here.
    #[error("the CA of {0} is here already, for some of the same names")]
    Taken(Scope),
    /// The key is another CA's.
    #[error("its CA key is that of the CA of {0} here")]
    Key(Scope),
    /// The key was revoked.
    #[error("the CA of {0} was revoked: its key is certified no more; it begins again with a new one")]
    Revoked(Scope),
    /// A CA that came after the request.
    #[error("the answer does not name the CA key that this node uses now: make the request anew")]
    Late,
    /// Deletion and renaming.
    #[error(transparent)]
    File(#[from] FileError),
    /// The audit log.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// A province that asks, as its file says and its own root vouches.
#[derive(Debug)]
pub struct Asked {
    /// Its node.
    pub peer: Peer,
    root: CertificateDer<'static>,
    bundle: Bundle,
}

fn only_root(bundle: &Bundle) -> Result<&CertificateDer<'static>, CrossError> {
    match bundle.roots() {
        [root] => Ok(root),
        _ => Err(CrossError::Rotating),
    }
}

/// Asks for another root's word: everything this overlay's bundle holds, and the province's own certificate.
///
/// # Errors
/// [`CrossError`].
pub fn request(bundle: &Bundle, chain: &[CertificateDer<'static>], now_ms: u64) -> Result<(Parcel, Asked), CrossError> {
    let mut parcel = Parcel::of(bundle);
    parcel.certificates.extend(chain.first().cloned());
    let asked = Asked::read(&parcel, now_ms)?;
    Ok((parcel, asked))
}

impl Asked {
    /// Reads the file of a province. Everything in it must hold under the province's own root.
    ///
    /// # Errors
    /// [`CrossError`].
    pub fn read(parcel: &Parcel, now_ms: u64) -> Result<Self, CrossError> {
        const WHAT: CrossError = CrossError::Other("what `tram pki join-overlay request` writes");
        let of = |which: fn(&Whose) -> bool| {
            let fits = move |der: &&CertificateDer<'static>| Stated::read(der).is_ok_and(|one| which(&one.whose));
            parcel.certificates.iter().filter(fits).cloned().collect::<Vec<_>>()
        };
        let leaf = of(|whose| matches!(whose, Whose::Node { .. }));
        if leaf.len() != 1 || !parcel.requests.is_empty() {
            return Err(WHAT);
        }
        let roots = of(|whose| *whose == Whose::Root);
        let mut bundle = Bundle::new(roots)?;
        for object in &parcel.objects {
            bundle.take(object, now_ms)?;
        }
        let root = only_root(&bundle)?.clone();
        let accepted = bundle.trust()?.admit(&leaf, now_ms)?;
        let peer = accepted.peer;
        if peer.role != Role::Province || accepted.issuer.scope != Scope::From(peer.name.clone()) {
            return Err(CrossError::NotAlone { name: peer.name });
        }
        if let Some(known) = bundle.authorities().find(|known| known.ca.scope != accepted.issuer.scope) {
            return Err(CrossError::Outside(known.ca.scope.clone()));
        }
        Ok(Self { peer, root, bundle })
    }

    /// Its CAs that live, one certificate for each key, and since when each has been one.
    fn authorities(&self, now_ms: u64) -> Vec<(&Known, u64)> {
        let mut found: Vec<(&Known, u64)> = Vec::new();
        for known in self.bundle.authorities() {
            if self.bundle.is_revoked(known) || known.ca.not_after_ms <= now_ms {
                continue;
            }
            let since_ms = known.ca.not_before_ms;
            match found.iter_mut().find(|(one, _)| one.ca.key == known.ca.key) {
                Some((_, first)) => *first = since_ms.min(*first),
                None => found.push((known, since_ms)),
            }
        }
        found
    }

    /// What two people compare before it is signed: it covers root, name, id and every CA key.
    #[must_use]
    pub fn fingerprint(&self, now_ms: u64) -> Fingerprint {
        let mut keys: Vec<[u8; 32]> = self.authorities(now_ms).iter().map(|(known, _)| known.ca.key.0).collect();
        keys.sort_unstable();
        let head = [b"tram/1/join-overlay\0", Sha256::of(&self.root).0.as_slice(), &self.peer.id.0].concat();
        Fingerprint(Sha256::of(&[head, keys.concat(), self.peer.name.as_str().into()].concat()))
    }

    /// Whether this overlay can take it in. `nodes` are those that are registered here, or have a live token.
    ///
    /// # Errors
    /// [`CrossError`].
    pub fn check(&self, here: &Bundle, nodes: &[(NodeName, NodeId)], now_ms: u64) -> Result<(), CrossError> {
        if self.bundle.zone() != here.zone() {
            let (theirs, ours) = (self.bundle.zone().clone(), here.zone().clone());
            return Err(CrossError::Zone { theirs, ours });
        }
        only_root(here)?;
        let (scope, own) = (Scope::From(self.peer.name.clone()), self.authorities(now_ms));
        let is_own = |known: &Known| own.iter().any(|(one, _)| one.ca.key == known.ca.key);
        for known in here.authorities() {
            let of = known.ca.scope.clone();
            if is_own(known) {
                match of {
                    _ if here.is_revoked(known) => return Err(CrossError::Revoked(of)),
                    _ if of != scope => return Err(CrossError::Key(of)),
                    _ => continue,
                }
            }
            let overlaps = |apex: &NodeName| scope.covers(apex) || of.covers(&self.peer.name);
            if !here.is_revoked(known) && known.ca.not_after_ms > now_ms && of.apex().is_some_and(overlaps) {
                return Err(CrossError::Taken(of));
            }
        }
        let me = (&self.peer.name, self.peer.id);
        let within = |(name, id): &&(NodeName, NodeId)| scope.covers(name) && (name, *id) != me;
        let clash: Vec<String> = nodes.iter().filter(within).map(|(name, _)| name.to_string()).collect();
        if !clash.is_empty() {
            return Err(CrossError::Names(clash));
        }
        match nodes.iter().find(|(name, id)| *id == me.1 && name != me.0) {
            Some((name, id)) => Err(CrossError::Id { id: *id, name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Vouches for the province: takes into `here` what everyone is to know, and answers that and the file for the
    /// province. [`Asked::check`] comes first. Asked again, it certifies no key twice.
    ///
    /// # Errors
    /// [`CrossError`]; nothing has changed then.
    pub fn sign(&self, root: &Root, here: &mut Bundle, now_ms: u64) -> Result<(Vec<Object>, Parcel), CrossError> {
        let mut next = here.clone();
        let (mut objects, mut certified) = (Vec::new(), Vec::new());
        let scope = Scope::From(self.peer.name.clone());
        for (known, since_ms) in self.authorities(now_ms) {
            let again = here.authorities().find(|one| one.ca.key == known.ca.key && one.root == root.id());
            let certificate = match again {
                Some(one) => one.der.clone(),
                None => {
                    let key = LeafKey::of_spki(&known.spki)
                        .map_err(|error| AuthorityError::Make { what: "CA certificate", why: error.to_string() })?;
                    root.certify_since(&key, &scope, Some(since_ms), now_ms)?
                }
            };
            let item = Item { key: ObjectKey::Authority(Sha256::of(&certificate).0), version: 1 };
            objects.push(Object { item, content: certificate.to_vec().into() });
            objects.extend([ObjectKey::Crl(known.ca.key.0), ObjectKey::Notice(known.ca.key.0)].into_iter().filter_map(
                // A newer one may have come over a link since.
                |key| {
                    self.bundle
                        .object(key)
                        .filter(|new| here.object(key).is_none_or(|h| h.item.version < new.item.version))
                },
            ));
            certified.push(certificate.to_vec().into());
        }
        for object in &objects {
            next.take(object, now_ms)?;
        }
        let handover = Handover {
            zone: next.zone().clone(),
            name: self.peer.name.clone(),
            node: self.peer.id,
            old: self.root.to_vec().into(),
            new: root.certificate().to_vec().into(),
            authorities: certified,
            at_ms: now_ms,
        };
        let body = handover.encode();
        let by_new = root.sign_handover(&body)?;
        let mut parcel = Parcel::of(&next);
        parcel.objects.push(object(&self.root, now_ms, &SignedHandover { body, by_old: bytes::Bytes::new(), by_new })?);
        *here = next;
        Ok((objects, parcel))
    }
}

fn object(old: &CertificateDer<'_>, at_ms: u64, signed: &SignedHandover) -> Result<Object, CrossError> {
    let key = ObjectKey::Handover(policy::key_of(old).ok_or(PolicyError::Malformed)?.0);
    Ok(Object { item: Item { key, version: at_ms }, content: signed.encode() })
}

/// An answer, of which nobody has said yet that its root is the right one.
#[derive(Debug)]
pub struct Answered {
    signed: SignedHandover,
    handover: Handover,
    others: Vec<Object>,
}

impl Answered {
    /// Reads the answer to the request of the province with this bundle.
    ///
    /// # Errors
    /// [`CrossError`].
    pub fn read(parcel: &Parcel, own: &Bundle) -> Result<Self, CrossError> {
        let key = policy::key_of(only_root(own)?).ok_or(PolicyError::Malformed)?;
        let key = ObjectKey::Handover(key.0);
        let (mine, others): (Vec<Object>, Vec<Object>) =
            parcel.objects.iter().cloned().partition(|object| object.item.key == key);
        // One that both have signed is from an earlier time.
        let half =
            |object: &Object| SignedHandover::decode(object.content.clone()).ok().filter(|h| h.by_old.is_empty());
        let halves: Vec<SignedHandover> = mine.iter().filter_map(half).collect();
        let [signed] = halves.as_slice() else {
            return Err(CrossError::Other("the answer to a request of this overlay"));
        };
        let handover = Handover::decode(signed.body.clone()).map_err(ObjectError::from)?;
        Ok(Self { signed: signed.clone(), handover, others })
    }

    /// The root that is to be trusted.
    #[must_use]
    pub fn root(&self) -> CertificateDer<'static> {
        self.handover.new.to_vec().into()
    }

    /// Signs the handover with the root that this overlay has trusted until now: a person has compared the fingerprint of
    /// the other one. Answers what this node and all below it are to take.
    ///
    /// # Errors
    /// [`CrossError`]; nothing has changed then.
    pub fn accept(
        mut self,
        old: &Root,
        own: &Bundle,
        chain: &[CertificateDer<'static>],
        now_ms: u64,
    ) -> Result<Vec<Object>, CrossError> {
        let spki = policy::parse(&self.handover.new)?.public_key().raw.to_vec();
        let message = [tram_proto::pki::HANDOVER_PURPOSE, &self.signed.body].concat();
        if !signed_by(&spki, &message, &self.signed.by_new) {
            return Err(ObjectError::Unsigned("the root in this answer has not signed it").into());
        }
        let peer = own.trust()?.admit(chain, now_ms)?.peer;
        if (&self.handover.name, self.handover.node) != (&peer.name, peer.id) {
            return Err(CrossError::Other("for this node"));
        }
        self.signed.by_old = old.sign_handover(&self.signed.body)?;
        let mut objects = vec![object(only_root(own)?, self.handover.at_ms, &self.signed)?];
        objects.append(&mut self.others);
        // As every node will take it.
        let mut next = own.clone();
        for object in &objects {
            next.take(object, now_ms)?;
        }
        for known in own.authorities().filter(|known| !own.is_revoked(known) && known.ca.not_after_ms > now_ms) {
            if next.certificates_of(&known.ca.key).is_empty() {
                return Err(CrossError::Late);
            }
        }
        next.trust()?.admit(chain, now_ms)?;
        Ok(objects)
    }
}

/// Puts the key of the root that was handed over aside, and says so in the audit log. Whoever holds the registry does it.
///
/// # Errors
/// [`CrossError`].
pub fn settle(dir: &Path, registry: &mut Registry, by: &str, now_ms: u64) -> Result<(), CrossError> {
    registry.note("root", "root_handed_over", by, now_ms)?;
    let key = dir.join(ROOT_KEY);
    if key.exists() {
        files::rename(&key, &dir.join(ROOT_KEY_ALONE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
