//! What a CA does without being asked by its own admin: revocation lists, notices, answers to nodes that renew and to
//! provinces that want a CA. And what an admin asks of it that goes to everyone: revoke, rename, exchange keys.
//!
//! Whatever it makes is in the registry, on disk, before it is on the shelf, from where everyone gets it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tracing::{error, info, warn};
use tram_pki::authority::{Authority, AuthorityError, Root, Scope, Subject};
use tram_pki::backup::Restored;
use tram_pki::bundle::{Known, ObjectError};
use tram_pki::clock::{BACKDATE_MS, DAY_MS};
use tram_pki::crl::{Crl, Reason, Revoked};
use tram_pki::cross;
use tram_pki::hash::Sha256;
use tram_pki::renew::{self, Cause};
use tram_pki::rotate::{self, RotateError, Stage};
use tram_proto::id::NodeId;
use tram_proto::join::HostPort;
use tram_proto::name::{NodeName, Role};
use tram_proto::pki::{Answer, Handover, Item, Object, ObjectKey, Refusal, Request, SignedHandover, SignedNotice};

use super::{Desk, Inside, Key};
use crate::link::pki::GoesOn;
use crate::local::station::IssuerError;

/// A CA's list is made anew when it is so old, in milliseconds.
const LIST_MS: u64 = DAY_MS;
/// A root's is, where its key is at hand.
const ROOT_LIST_MS: u64 = 100 * DAY_MS;
/// A CA's certificate is renewed, with the same key, when it has less than this left, in milliseconds: a year.
pub const CA_RENEW_MS: u64 = 365 * DAY_MS;

/// After a restore the number of the revocation list jumps so far above what anyone has seen.
const RESTORED_JUMP: u64 = 1000;
/// Audit lines handed over at once, in bytes.
pub const JOURNAL_BYTES: usize = 512 * 1024;

/// How an exchange of keys stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Of the root.
    pub root: Stage,
    /// Whether the root's key is here.
    pub root_key_here: bool,
    /// CAs of this node that only make lists any more.
    pub old_cas: usize,
    /// Whether this node's next CA key waits for its certificate.
    pub ca_waits: bool,
}

fn failed(why: impl std::fmt::Display) -> IssuerError {
    IssuerError::Failed(why.to_string())
}

fn rotate_error(error: RotateError) -> IssuerError {
    match error {
        RotateError::Stage { .. } | RotateError::Stragglers(_) | RotateError::NoRoot => {
            IssuerError::Invalid(error.to_string())
        }
        other => IssuerError::Failed(other.to_string()),
    }
}

fn crl_object(issuer: Sha256, number: u64, der: Vec<u8>) -> Object {
    Object { item: Item { key: ObjectKey::Crl(issuer.0), version: number }, content: der.into() }
}

fn authority_object(certificate: &[u8]) -> Object {
    let key = ObjectKey::Authority(Sha256::of(certificate).0);
    Object { item: Item { key, version: 1 }, content: Bytes::copy_from_slice(certificate) }
}

/// Whether a list that is held does not name all of these. Numbers do not tell: the lists of several keys of one CA count
/// together.
fn lacks(held: Option<&Crl>, revoked: &[Revoked]) -> bool {
    let Some(held) = held else { return true };
    let named: HashSet<Vec<u8>> = held.revoked().into_iter().map(|one| one.serial).collect();
    revoked.iter().any(|one| !named.contains(&one.serial))
}

/// Lines of the audit log that were in the backup.
fn lines_of(restored: &Restored) -> u64 {
    restored.audit().map_or(0, |head| head.number)
}

impl Desk {
    /// Makes what is due: certificates of this CA into the bundle, lists that are old, a notice that has changed. Blocks on
    /// the disk. `at_once` makes new lists whatever their age.
    pub fn publish(&self, at_once: bool) {
        let mut inside = self.inside();
        if let Err(why) = self.publish_in(&mut inside, at_once) {
            error!(%why, "what this CA has to tell everyone could not be made");
        }
    }

    fn put(&self, object: &Object) -> Result<(), String> {
        self.shelf.put(object).map(|_| ()).map_err(|why| why.to_string())
    }

    pub(super) fn publish_in(&self, inside: &mut Inside, at_once: bool) -> Result<(), String> {
        // A list made now would have a number that others know with other content, and lack what was revoked since.
        if self.suspended().is_some() {
            return Ok(());
        }
        let now_ms = self.clock.wall_ms();
        self.accept_loss(inside, now_ms)?;
        self.publish_root(inside, at_once)?;
        let old = rotate::ca_old(&self.pki).unwrap_or_else(|why| {
            warn!(%why, "an old CA key cannot be used for its revocation list");
            Vec::new()
        });
        let Key::Open(authority) = &inside.key else { return self.shelf.save().map_err(|why| why.to_string()) };
        for certificate in authority.certificates() {
            match self.shelf.put(&authority_object(certificate)) {
                // It is replaced by its successor when that is taken up. One under a root that was dropped is shown on, to
                // neighbours that have missed the exchange.
                Ok(_) | Err(ObjectError::Expired | ObjectError::Unsigned(_)) => {}
                Err(why) => return Err(why.to_string()),
            }
        }
        let registry = &mut inside.registry;
        for one in std::iter::once(authority.as_ref()).chain(&old) {
            let id = one.id();
            let held = self.shelf.with(|bundle| bundle.crl(&id).cloned());
            let made_ms = held.as_ref().map_or(0, |crl| crl.this_update_ms.saturating_add(BACKDATE_MS));
            let revoked = registry.revoked();
            if at_once || now_ms.saturating_sub(made_ms) >= LIST_MS || lacks(held.as_ref(), &revoked) {
                let seen = held.map_or(0, |crl| crl.number);
                let number = registry.next_crl(false, seen, now_ms).map_err(|why| why.to_string())?;
                let der = one.crl(&revoked, number, now_ms).map_err(|why| why.to_string())?;
                self.put(&crl_object(id, number, der))?;
            }
        }
        let id = authority.id();
        let told = self.shelf.with(|bundle| bundle.notices().find(|n| n.authority == id.0).map_or(0, |n| n.version));
        if registry.notice().version > told {
            let notice = registry.notice().to_notice(id, now_ms);
            let signed: SignedNotice = authority.sign(&notice).map_err(|why| why.to_string())?;
            let item = Item { key: ObjectKey::Notice(id.0), version: notice.version };
            self.put(&Object { item, content: signed.encode() })?;
        }
        self.shelf.save().map_err(|why| why.to_string())
    }

    /// An admin has said that nobody is left who knows what came after the backup: the lists go on far above any number
    /// that was seen.
    fn accept_loss(&self, inside: &mut Inside, now_ms: u64) -> Result<(), String> {
        let restored = Restored::load(&self.pki).map_err(|why| why.to_string())?;
        let Some(restored) = restored.filter(|restored| restored.accepted) else { return Ok(()) };
        let own = self.shown_scope().map(|(id, _)| id);
        let held = self.shelf.with(|bundle| own.and_then(|id| bundle.crl(&id).map(|crl| (crl.number, crl.revoked()))));
        let (seen, revoked) = held.unwrap_or_default();
        let number = seen.max(inside.registry.crl_number()).saturating_add(RESTORED_JUMP);
        inside.registry.restored(lines_of(&restored), &revoked, number, now_ms).map_err(|why| why.to_string())?;
        Restored::clear(&self.pki).map_err(|why| why.to_string())
    }

    /// Every root whose key can be used: as it lies in its file, or as a passphrase has opened it.
    fn roots(&self, inside: &Inside) -> Result<Vec<Arc<Root>>, AuthorityError> {
        match rotate::roots(&self.pki) {
            Err(_) if !inside.roots.is_empty() => Ok(inside.roots.clone()),
            roots => roots.map(|roots| roots.into_iter().map(Arc::new).collect()),
        }
    }

    fn publish_root(&self, inside: &mut Inside, at_once: bool) -> Result<(), String> {
        let now_ms = self.clock.wall_ms();
        let roots = match self.roots(inside) {
            Ok(roots) => roots,
            Err(why) => {
                // Locked, most likely: its list is good for more than a year.
                warn!(%why, "the root's key cannot be used");
                return Ok(());
            }
        };
        for root in roots {
            if !self.shelf.with(|bundle| bundle.roots().contains(root.certificate())) {
                continue;
            }
            let held = self.shelf.with(|bundle| bundle.crl(&root.id()).cloned());
            let made_ms = held.as_ref().map_or(0, |crl| crl.this_update_ms);
            let mut revoked = inside.registry.root_revoked();
            if at_once || now_ms.saturating_sub(made_ms) >= ROOT_LIST_MS || lacks(held.as_ref(), &revoked) {
                // What was revoked by file, while the key was away, stays revoked.
                for one in held.iter().flat_map(Crl::revoked) {
                    if !revoked.iter().any(|known| known.serial == one.serial) {
                        revoked.push(one);
                    }
                }
                let seen = held.map_or(0, |crl| crl.number);
                let number = inside.registry.next_crl(true, seen, now_ms).map_err(|why| why.to_string())?;
                let der = root.crl(&revoked, number, now_ms).map_err(|why| why.to_string())?;
                self.put(&crl_object(root.id(), number, der))?;
            }
        }
        Ok(())
    }

    /// Whether requests for this CA key are answered here: it is this node's, or a root's and this node was the overlay's
    /// first.
    fn is_asked(&self, inside: &Inside, authority: &[u8; 32]) -> bool {
        let scope = match &inside.key {
            Key::Open(own) => {
                if own.id().0 == *authority {
                    return true;
                }
                own.scope().clone()
            }
            Key::Locked { .. } => match self.shown_scope() {
                Some((id, _)) if id.0 == *authority => return true,
                Some((_, scope)) => scope,
                None => return false,
            },
        };
        self.shelf.with(|bundle| {
            let is_first = match scope {
                Scope::Overlay => true,
                Scope::Below(_) => false,
                // As long as it is alone.
                Scope::From(_) => bundle.authorities().all(|known| known.ca.scope == scope),
            };
            is_first && bundle.is_root(&Sha256(*authority))
        })
    }

    /// The id and scope of the CA whose certificate lies here, whether its key is open or not.
    pub(super) fn shown_scope(&self) -> Option<(Sha256, Scope)> {
        let zone = self.shelf.with(|bundle| bundle.zone().clone());
        tram_pki::authority::stated(&self.pki, &zone)
    }

    /// Answers what a neighbour passes up; `None` when that CA is not here. Blocks on the disk.
    #[must_use]
    pub fn asked(&self, authority: [u8; 32], request: Bytes, from: &NodeName) -> Option<Bytes> {
        let mut inside = self.inside();
        if !self.is_asked(&inside, &authority) {
            return None;
        }
        let answer = match Request::decode(request) {
            Ok(Request::Renew(request)) => self.renew(&mut inside, &request, from.as_str()),
            Ok(Request::Authority(request)) => self.certify(&mut inside, &request, from.as_str()),
            Err(why) => {
                warn!(%from, %why, "a request to this CA cannot be read");
                Answer::Refused(Refusal::Request)
            }
        };
        drop(inside);
        self.tell();
        Some(answer.encode())
    }

    fn renew(&self, inside: &mut Inside, request: &tram_proto::pki::RenewRequest, from: &str) -> Answer {
        let now_ms = self.clock.wall_ms();
        let Inside { key, registry, .. } = inside;
        let authority = match self.may_issue(key) {
            Ok(authority) => authority,
            Err(why) => {
                warn!(from, %why, "a certificate could not be renewed");
                return Answer::Refused(Refusal::Unavailable);
            }
        };
        let bundle = self.shelf.with(Clone::clone);
        let trust = match bundle.trust() {
            Ok(trust) => trust,
            Err(why) => {
                error!(%why, "the bundle cannot be used");
                return Answer::Refused(Refusal::Unavailable);
            }
        };
        match renew::answer(registry, authority, &bundle, &trust, request, from, now_ms) {
            Ok(answer) => {
                info!(from, "a certificate was renewed");
                answer
            }
            Err(cause) => {
                warn!(from, %cause, "a certificate was not renewed");
                cause.answer()
            }
        }
    }

    fn certify(&self, inside: &mut Inside, request: &tram_proto::pki::RenewRequest, from: &str) -> Answer {
        let now_ms = self.clock.wall_ms();
        if let Some(why) = self.suspended() {
            warn!(from, %why, "no CA certificate is made");
            return Answer::Refused(Refusal::Unavailable);
        }
        let roots = self.roots(inside).unwrap_or_else(|why| {
            warn!(%why, "the root's key cannot be used");
            Vec::new()
        });
        let Ok(trust) = self.shelf.with(tram_pki::bundle::Bundle::trust) else {
            return Answer::Refused(Refusal::Unavailable);
        };
        match renew::certify(&mut inside.registry, roots.first().map(AsRef::as_ref), &trust, request, now_ms) {
            Ok((certificate, scope)) => {
                let published = self.put(&authority_object(&certificate)).and_then(|()| {
                    self.hand_over(inside, &scope)?;
                    self.publish_in(inside, false)
                });
                if let Err(why) = published {
                    error!(%why, "a CA certificate could not be published");
                    return Answer::Refused(Refusal::Unavailable);
                }
                info!(from, %scope, "a CA was certified");
                Answer::Granted(vec![Bytes::copy_from_slice(&certificate)])
            }
            Err(cause) => {
                if matches!(cause, Cause::Pending(_)) {
                    warn!(%cause, "a province waits for its CA");
                } else {
                    warn!(from, %cause, "no CA certificate was made");
                }
                cause.answer()
            }
        }
    }

    /// The nodes that this CA registered below a province's name are the new CA's from now on.
    pub(super) fn hand_over(&self, inside: &mut Inside, scope: &Scope) -> Result<(), String> {
        let nodes: Vec<NodeId> =
            inside.registry.nodes().filter(|node| scope.covers(&node.name)).map(|node| node.id).collect();
        if nodes.is_empty() {
            return Ok(());
        }
        let now_ms = self.clock.wall_ms();
        let changed = inside.registry.announce(self.told(), now_ms, "", |notice| {
            nodes.iter().for_each(|node| notice.transfer(*node, scope, now_ms));
        });
        changed.map_err(|why| why.to_string())
    }

    /// The version of this CA's notice that everyone has.
    fn told(&self) -> u64 {
        let id = self.shown_scope().map(|(id, _)| id.0);
        self.shelf.with(|bundle| bundle.notices().find(|n| Some(n.authority) == id).map_or(0, |n| n.version))
    }

    /// Takes up the certificates that roots gave this node's CA keys, as the bundle has them. Answers whether the CA in use
    /// changed.
    pub fn take_up(&self) -> Result<bool, AuthorityError> {
        let mut inside = self.inside();
        let now_ms = self.clock.wall_ms();
        let keys: Vec<Sha256> = self.shelf.with(|bundle| {
            let mut keys: Vec<Sha256> = bundle.authorities().map(|known| known.ca.key).collect();
            keys.dedup();
            keys
        });
        let mut changed = false;
        for key in keys {
            let certificates = self.shelf.with(|bundle| bundle.certificates_of(&key));
            changed |= rotate::ca_switch(&self.pki, &certificates)?;
        }
        let waiting = Authority::waiting(&self.pki)?;
        let own = waiting.or_else(|| self.shown_scope().map(|(id, _)| id));
        if let Some(own) = own {
            let before = tram_pki::authority::shown(&self.pki);
            let shown = self.shelf.with(|bundle| rotate::shown(bundle, &own, &before, 3, now_ms));
            if !shown.is_empty() && shown != before {
                Authority::install(&self.pki, &shown)?;
                changed = true;
            }
        }
        if changed {
            match Authority::open(&self.pki) {
                Ok(again) => inside.key = Key::Open(Box::new(again)),
                Err(why) if matches!(inside.key, Key::Open(_)) || waiting.is_some() => return Err(why),
                // A key that is locked stays so; the certificate is read when it is opened.
                Err(_) => {}
            }
        }
        drop(inside);
        if changed {
            self.publish(false);
            self.tell();
        }
        Ok(changed)
    }

    /// The CA key that is to be certified, if one is: the first one, the next one, or one whose certificate ends within a
    /// year. The request for it.
    #[must_use]
    pub fn wants_certificate(&self) -> Option<Result<Vec<u8>, AuthorityError>> {
        let now_ms = self.clock.wall_ms();
        let inside = self.inside();
        if self.pki.join(rotate::CA_KEY_NEXT).exists() {
            return Some(rotate::ca_begin(&self.pki));
        }
        match &inside.key {
            Key::Open(own) if own.not_after_ms() > now_ms.saturating_add(CA_RENEW_MS) => None,
            Key::Open(_) => Some(Authority::request(&self.pki)),
            Key::Locked { .. } if self.shown_scope().is_some() => None,
            Key::Locked { .. } => Some(Authority::request(&self.pki)),
        }
    }

    /// Revokes a node or one certificate of it.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn revoke(&self, which: &str, reason: Reason, by: &str) -> Result<Vec<String>, IssuerError> {
        let now_ms = self.clock.wall_ms();
        let mut inside = self.inside();
        if let Some(why) = self.suspended() {
            return Err(IssuerError::Locked(why));
        }
        // Without the key the list could not be made, and nobody would learn of it.
        if let Key::Locked { why } = &inside.key {
            return Err(IssuerError::Locked(why.clone()));
        }
        let serials = inside.registry.revoke(which, reason, self.id, by, now_ms).map_err(super::issuer_error)?;
        if let Some(name) = which.parse().ok().filter(|name| inside.registry.notice().has_aliases(name, now_ms)) {
            let ended = inside.registry.announce(self.told(), now_ms, by, |notice| notice.end_aliases(&name, now_ms));
            ended.map_err(failed)?;
        }
        self.publish_in(&mut inside, false).map_err(failed)?;
        drop(inside);
        warn!(which, by, reason = reason.as_str(), certificates = serials.len(), "revoked");
        self.tell();
        Ok(serials)
    }

    /// Revokes a province's CA, and with it all that it has certified.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn revoke_authority(&self, province: &NodeName, reason: Reason, by: &str) -> Result<Vec<String>, IssuerError> {
        let now_ms = self.clock.wall_ms();
        let known: Vec<Known> = self.shelf.with(|bundle| {
            let of_it = |k: &&Known| k.ca.scope.apex() == Some(province) && !bundle.is_revoked(k);
            bundle.authorities().filter(of_it).cloned().collect()
        });
        let Some(scope) = known.first().map(|known| known.ca.scope.clone()) else {
            return Err(IssuerError::Invalid(format!("{province} has no CA that could be revoked")));
        };
        let mut inside = self.inside();
        if self.roots(&inside).map_err(failed)?.is_empty() {
            return Err(IssuerError::Invalid(RotateError::NoRoot.to_string()));
        }
        let serials: Vec<Vec<u8>> = known.iter().map(|known| known.serial.clone()).collect();
        inside.registry.revoke_authority(&serials, &scope, reason, by, now_ms).map_err(failed)?;
        self.publish_in(&mut inside, false).map_err(failed)?;
        drop(inside);
        warn!(%province, by, reason = reason.as_str(), "the province's CA was revoked");
        self.tell();
        Ok(serials.iter().map(|serial| serial.iter().map(|b| format!("{b:02x}")).collect()).collect())
    }

    /// Gives a node a new name from its next certificate on; the old one is understood for so long.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn rename(&self, old: &NodeName, new: &NodeName, alias_ms: u64, by: &str) -> Result<(), IssuerError> {
        let now_ms = self.clock.wall_ms();
        let mut inside = self.inside();
        let Inside { key, registry, .. } = &mut *inside;
        let authority = self.may_issue(key).map_err(IssuerError::Locked)?;
        if !authority.scope().covers(new) || self.closer_than(authority, new).is_some() {
            return Err(IssuerError::Invalid(format!("{new} is not this CA's to certify")));
        }
        let node = registry.rename(old, new, by, now_ms).map_err(super::issuer_error)?;
        let told = self.told();
        registry
            .announce(told, now_ms, by, |notice| notice.alias(old, new, node, now_ms.saturating_add(alias_ms)))
            .map_err(failed)?;
        self.publish_in(&mut inside, false).map_err(failed)?;
        drop(inside);
        self.tell();
        Ok(())
    }

    /// Refuses a name that a closer CA certifies, and says where to go.
    pub(super) fn not_closer(&self, authority: &Authority, name: &NodeName, command: &str) -> Result<(), IssuerError> {
        let there = |closer| format!("{closer} has a CA of its own for the names below it: run `tram {command}` there");
        self.closer_than(authority, name).map_or(Ok(()), |closer| Err(IssuerError::Invalid(there(closer))))
    }

    /// A CA that is closer to a name than this one.
    pub(super) fn closer_than(&self, authority: &Authority, name: &NodeName) -> Option<Scope> {
        let now_ms = self.clock.wall_ms();
        let closest = self.shelf.with(|bundle| bundle.closest(name, now_ms).map(|ca| ca.scope.clone()));
        closest.filter(|scope| scope.is_closer_than(authority.scope()))
    }

    /// Has a node open its join port for those who reach only it.
    pub fn open_door(&self, node: NodeId, until_ms: u64, to: &[HostPort]) -> Result<(), IssuerError> {
        let now_ms = self.clock.wall_ms();
        let mut inside = self.inside();
        let told = self.told();
        inside.registry.announce(told, now_ms, "", |notice| notice.door(node, until_ms, to)).map_err(failed)?;
        self.publish_in(&mut inside, false).map_err(failed)
    }

    /// Looks at what a neighbour brought: a certificate or root list that concerns this CA, or a list of this CA that this
    /// node has not made.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn learned(&self, object: &Object) -> Result<(), AuthorityError> {
        match object.item.key {
            ObjectKey::Authority(_) | ObjectKey::Roots | ObjectKey::Handover(_) => {
                if !matches!(object.item.key, ObjectKey::Authority(_)) {
                    // What an authority shows and pins is read from the file.
                    self.shelf.save()?;
                    let mut inside = self.inside();
                    if let (Key::Open(_), Ok(again)) = (&inside.key, Authority::open(&self.pki)) {
                        inside.key = Key::Open(Box::new(again));
                    }
                }
                if let ObjectKey::Handover(_) = object.item.key {
                    self.handed_over(&object.content);
                }
                self.take_up().map(|_| ())
            }
            ObjectKey::Crl(id) => {
                let inside = self.inside();
                let own = self.shown_scope().is_some_and(|(own, _)| own.0 == id);
                if own && object.item.version > inside.registry.crl_number() && self.suspended().is_none() {
                    error!(
                        number = object.item.version,
                        "a revocation list of this CA came that this node has not made: its key is in use elsewhere, or its \
                         files are an old copy. Nothing is issued here: restore the newest backup, or exchange the key with \
                         `tram pki rotate ca begin` where it is in use"
                    );
                    self.twin.store(true, Ordering::Relaxed);
                }
                drop(inside);
                self.heard(&[object.item]);
                self.tell();
                Ok(())
            }
            ObjectKey::Notice(_) => Ok(()),
        }
    }

    /// A province that began alone is under this overlay's root now: this node is it, or holds the registry of its name.
    fn handed_over(&self, signed: &Bytes) {
        let body = SignedHandover::decode(signed.clone()).and_then(|signed| Handover::decode(signed.body));
        let Ok(Handover { name, node, .. }) = body else { return };
        let now_ms = self.clock.wall_ms();
        let own = self.shown_scope().map(|(_, scope)| scope);
        let registry = &mut self.inside().registry;
        let done = if node == self.id {
            info!("another root has taken the place of this overlay's own");
            cross::settle(&self.pki, registry, "", now_ms)
        } else if own == Some(Scope::Overlay) {
            let subject = Subject { id: node, name, role: Role::Province };
            registry.adopt(&subject, now_ms).map_err(Into::into)
        } else {
            Ok(())
        };
        if let Err(why) = done {
            error!(%why, "a handover could not be noted");
        }
    }

    /// A neighbour has said what it holds. A CA that came from a backup may go on when it holds all that: what was revoked
    /// after the backup is then on this CA's own list again, and its number has jumped.
    pub fn heard(&self, theirs: &[Item]) {
        let Some((id, _)) = self.shown_scope() else { return };
        let key = ObjectKey::Crl(id.0);
        let theirs = theirs.iter().find(|item| item.key == key).map(|item| item.version);
        let held = self.shelf.with(|bundle| bundle.crl(&id).map(|crl| crl.number));
        if let (Some(held), Some(theirs)) = (held, theirs)
            && theirs <= held
        {
            self.lists_told.store(true, Ordering::Relaxed);
            self.go_on();
        }
    }

    /// A CA that came from a backup goes on once it has its lists and, where there is a parent, the lines of its audit log
    /// that the parent kept: a line written before would be another than the parent's.
    fn go_on(&self) {
        let Ok(Some(restored)) = Restored::load(&self.pki) else { return };
        let Some((id, scope)) = self.shown_scope() else { return };
        let log_told = scope == Scope::Overlay || self.log_told.load(Ordering::Relaxed);
        let held = self.shelf.with(|bundle| bundle.crl(&id).map(|crl| (crl.number, crl.revoked())));
        let Some((number, revoked)) = held else { return };
        if restored.accepted || !log_told || !self.lists_told.load(Ordering::Relaxed) {
            return;
        }
        let now_ms = self.clock.wall_ms();
        let mut inside = self.inside();
        let number = number.saturating_add(RESTORED_JUMP);
        let again = inside.registry.restored(lines_of(&restored), &revoked, number, now_ms);
        let done = again.map_err(|why| why.to_string()).and_then(|count| {
            Restored::clear(&self.pki).map_err(|why| why.to_string())?;
            self.publish_in(&mut inside, true)?;
            Ok(count)
        });
        drop(inside);
        match done {
            Ok(count) => info!(revoked_since = count, "the CA goes on after its restore"),
            Err(why) => error!(%why, "the CA could not go on after its restore"),
        }
        self.tell();
    }

    /// Takes up a CA certificate that was asked for.
    ///
    /// # Errors
    /// Why not.
    pub fn certified(&self, chain: &[Bytes]) -> Result<(), String> {
        for certificate in chain {
            self.put(&authority_object(certificate))?;
        }
        self.take_up().map(|_| ()).map_err(|why| why.to_string())
    }

    /// How the audit log goes on after the line of this number, which has this hash in the parent's copy.
    #[must_use]
    pub fn journal_since(&self, number: u64, hash: &[u8; 32]) -> GoesOn {
        let mut inside = self.inside();
        let audit = inside.registry.audit();
        let end = audit.head();
        let here = if number == 0 { None } else { Some(audit.head_at(number).ok().flatten()) };
        let goes_on = match here {
            None => GoesOn::With(audit.since(1, JOURNAL_BYTES).unwrap_or_default()),
            Some(Some(head)) if head.hash.0 == *hash => {
                GoesOn::With(audit.since(number + 1, JOURNAL_BYTES).unwrap_or_default())
            }
            Some(Some(head)) => {
                error!(
                    number,
                    "the parent's copy of the audit log goes on differently: one of the two was changed, or this node was \
                     restored with --accept-loss. When that is explained, run `tram pki audit set-aside {}` at the parent",
                    self.name
                );
                GoesOn::Elsewhere(number, head.hash.0)
            }
            Some(None) => {
                warn!(
                    here = end.number,
                    there = number,
                    "the parent's copy of the audit log goes further than the log"
                );
                GoesOn::Elsewhere(end.number, end.hash.0)
            }
        };
        drop(inside);
        if matches!(goes_on, GoesOn::With(_)) && !self.log_told.swap(true, Ordering::Relaxed) {
            self.go_on();
        }
        goes_on
    }

    /// Takes back lines of the audit log that the parent kept; answers whether any was new.
    #[must_use]
    pub fn journal_back(&self, first: u64, lines: &[Bytes]) -> bool {
        let mut inside = self.inside();
        let audit = inside.registry.audit();
        let before = audit.head().number;
        match audit.extend(first, lines) {
            Ok(head) => {
                info!(lines = head.number - before, "lines of the audit log came back from the parent's copy");
                head.number > before
            }
            Err(why) => {
                error!(%why, "lines of the audit log that the parent kept are not taken back");
                false
            }
        }
    }

    /// How exchanges of keys stand.
    #[must_use]
    pub fn rotation(&self) -> Rotation {
        Rotation {
            root: rotate::stage(&self.pki),
            root_key_here: self.pki.join(tram_pki::keystore::ROOT_KEY).exists(),
            old_cas: rotate::ca_old(&self.pki).map_or(0, |old| old.len()),
            ca_waits: self.pki.join(rotate::CA_KEY_NEXT).exists(),
        }
    }

    /// Takes a step of the exchange of roots. `stragglers` counts at `finish`.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn rotate_root(&self, step: RootStep, stragglers: Vec<String>, by: &str) -> Result<(), IssuerError> {
        if let Some(why) = self.suspended() {
            return Err(IssuerError::Locked(why));
        }
        let now_ms = self.clock.wall_ms();
        let mut inside = self.inside();
        let registry = &mut inside.registry;
        let done = self.shelf.change(|bundle| {
            let done = match step {
                RootStep::Begin => rotate::begin(&self.pki, bundle, registry, by, now_ms),
                RootStep::Switch => rotate::switch(&self.pki, bundle, registry, by, now_ms),
                RootStep::Finish => rotate::finish(&self.pki, bundle, registry, stragglers, by, now_ms),
                RootStep::AtOnce { and_past } => rotate::at_once(&self.pki, bundle, registry, and_past, by, now_ms),
            };
            let changed = done.is_ok();
            (done.map(|_| ()), changed)
        });
        done.map_err(rotate_error)?;
        // What this CA shows after its leaves is in another order, or under another root, from now on.
        if let (Key::Open(_), Ok(again)) = (&inside.key, Authority::open(&self.pki)) {
            inside.key = Key::Open(Box::new(again));
        }
        drop(inside);
        self.take_up().map_err(failed)?;
        self.tell();
        Ok(())
    }

    /// Makes this node's next CA key, which then waits for its certificate.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn rotate_ca(&self, by: &str) -> Result<(), IssuerError> {
        let mut inside = self.inside();
        self.may_issue(&inside.key).map_err(IssuerError::Locked)?;
        self.note(&mut inside, "ca_rotation_begun", by)?;
        rotate::ca_begin(&self.pki).map_err(failed)?;
        drop(inside);
        self.tell();
        Ok(())
    }

    /// Forgets old CA keys.
    ///
    /// # Errors
    /// [`IssuerError`] while nodes use their certificates.
    pub fn finish_ca(&self, stragglers: Vec<String>, by: &str) -> Result<usize, IssuerError> {
        let mut inside = self.inside();
        let (registry, now_ms) = (&mut inside.registry, self.clock.wall_ms());
        let done = self.shelf.change(|bundle| {
            let done = rotate::ca_finish(&self.pki, bundle, registry, stragglers, now_ms);
            let changed = done.is_ok();
            (done, changed)
        });
        let count = done.map_err(rotate_error)?;
        self.note(&mut inside, "ca_rotation_finished", by)?;
        Ok(count)
    }

    /// Notes in the audit log whom an admin leaves behind in an exchange of keys.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn leave_behind(&self, nodes: &[String], by: &str) -> Result<(), IssuerError> {
        let now_ms = self.clock.wall_ms();
        let mut inside = self.inside();
        nodes.iter().try_for_each(|node| inside.registry.note(node, "left_behind", by, now_ms)).map_err(failed)
    }

    /// The ids of this node's CAs that only make lists any more.
    #[must_use]
    pub fn old_cas(&self) -> Vec<Sha256> {
        rotate::ca_old(&self.pki).map(|old| old.iter().map(Authority::id).collect()).unwrap_or_default()
    }
}

/// A step of the exchange of roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootStep {
    /// Make the next root, trust both.
    Begin,
    /// Let tokens name the next one.
    Switch,
    /// Drop the old one.
    Finish,
    /// All of it, waiting for nobody.
    AtOnce {
        /// Past roots are believed nothing any more either.
        and_past: bool,
    },
}
