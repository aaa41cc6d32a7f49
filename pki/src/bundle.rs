//! The bundle: what every node must hold to judge others. Roots, CA certificates, revocation lists, notices.
//!
//! Owns `bundle.bin`, and `root.pem` from the second root list on. Every object is checked on its own and kept only when it
//! is newer than the one held, so that they may come from anyone, in any order, any number of times. Guarantees that at
//! any time the last good state is kept, in memory and on disk. DESIGN §3; `research/pki.md` §4 "CRL and bundle".

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tram_proto::error::WireError;
use tram_proto::frame::{LENGTH_BYTES, frame_length};
use tram_proto::limits;
use tram_proto::name::{NodeName, Zone};
use tram_proto::pki::{
    Alias, HANDOVER_PURPOSE, Handover, Item, NOTICE_PURPOSE, Notice, Object, ObjectKey, PastRoot, PkiFrame,
    ROOTS_PURPOSE, Roots, SignedHandover, SignedNotice, SignedRoots,
};

use crate::authority::Scope;
use crate::clock::DAY_MS;
use crate::crl::{Crl, CrlError, signed_by};
use crate::files::{self, Access, FileError};
use crate::hash::Sha256;
use crate::keystore::{self, KeyError, ROOT_PEM};
use crate::policy::{self, Ca, PolicyError, ms};
use crate::trust::{Trust, TrustError};

pub use crate::keystore::BUNDLE_BIN;
/// CA certificates kept: twice the provinces, and more while keys are exchanged.
const AUTHORITIES: usize = 1000;
/// How long an expired CA's certificate and list are kept, in milliseconds: as long as a node may renew after expiry.
const KEEP_MS: u64 = 30 * DAY_MS;

/// Why an object was not taken. The last good one is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Malformed(#[from] WireError),
    /// A revocation list.
    #[error(transparent)]
    Crl(#[from] CrlError),
    /// A CA certificate.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A root.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It is not what the sender calls it.
    #[error("it is not the object it is called")]
    Misnamed,
    /// Nobody we trust has signed it.
    #[error("{0}")]
    Unsigned(&'static str),
    /// The same version with other content: its issuer's key or state exists twice.
    #[error("version {0} was here already with other content: its issuer has been cloned or restored")]
    Forked(u64),
    /// What it says is not its issuer's to say.
    #[error("it speaks of {0}, which its CA does not certify")]
    OutOfScope(String),
    /// There are too many.
    #[error("{0} CA certificates are kept at most")]
    TooMany(usize),
    /// There are too many of those.
    #[error("{} handovers are kept at most", limits::HANDOVERS)]
    TooManyHandovers,
    /// It has expired.
    #[error("it expired long ago")]
    Expired,
}

/// A CA certificate that a trusted root vouches for.
#[derive(Debug, Clone)]
pub struct Known {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// What it says.
    pub ca: Ca,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// SHA-256 of the public key of the root that signed it.
    pub root: Sha256,
    pub(crate) subject: Vec<u8>,
    pub(crate) spki: Vec<u8>,
}

impl Known {
    /// Reads the certificate and looks for the root that signed it.
    fn read(der: &[u8], zone: &Zone, roots: &[CertificateDer<'_>]) -> Result<Self, ObjectError> {
        let ca = Ca::read(der, zone)?;
        let parsed = policy::parse(der)?;
        let signed = parsed.tbs_certificate.as_ref();
        let signature = parsed.signature_value.data.as_ref();
        let of = |root: &CertificateDer<'_>| {
            let root = policy::parse(root).ok()?;
            let by_it = root.subject().as_raw() == parsed.issuer().as_raw()
                && signed_by(root.public_key().raw, signed, signature);
            by_it.then(|| Sha256::of(root.public_key().raw))
        };
        let root =
            roots.iter().find_map(of).ok_or(ObjectError::Unsigned("no trusted root signed this CA certificate"))?;
        Ok(Self {
            der: der.to_vec().into(),
            serial: parsed.raw_serial().to_vec(),
            root,
            subject: parsed.subject().as_raw().to_vec(),
            spki: parsed.public_key().raw.to_vec(),
            ca,
        })
    }
}

/// What every node must hold to judge others.
#[derive(Debug, Clone)]
pub struct Bundle {
    zone: Zone,
    roots: Vec<CertificateDer<'static>>,
    past: Vec<PastRoot>,
    /// 0 and `None` until the first list comes: what a token brought.
    version: u64,
    list: Option<Bytes>,
    authorities: BTreeMap<[u8; 32], Known>,
    crls: BTreeMap<[u8; 32], Crl>,
    notices: BTreeMap<[u8; 32], (Notice, Bytes)>,
    handovers: BTreeMap<[u8; 32], (Handover, Bytes)>,
}

impl Bundle {
    /// With these roots and nothing else.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        let zone = Trust::new(roots.clone())?.zone().clone();
        let (authorities, crls, notices) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (past, handovers) = (Vec::new(), BTreeMap::new());
        Ok(Self { zone, roots, past, version: 0, list: None, authorities, crls, notices, handovers })
    }

    /// Reads `root.pem` and `bundle.bin` in `dir`. An object that cannot be taken any more is left out and named in the
    /// second part of the answer: it comes again from a neighbour.
    ///
    /// # Errors
    /// [`KeyError`] when `root.pem` cannot be used.
    pub fn load(dir: &Path) -> Result<(Self, Vec<String>), KeyError> {
        Self::load_beside(&dir.join(ROOT_PEM))
    }

    pub(crate) fn load_beside(root_path: &Path) -> Result<(Self, Vec<String>), KeyError> {
        let mut bundle = Self::new(keystore::read_certificates(root_path)?)
            .map_err(|source| KeyError::Trust { path: root_path.to_owned(), source })?;
        let bytes = match files::read(&root_path.with_file_name(BUNDLE_BIN), Access::Public) {
            Ok(bytes) => Bytes::from(bytes),
            Err(FileError::Missing { .. }) => return Ok((bundle, Vec::new())),
            Err(error) => return Err(error.into()),
        };
        let mut left_out = Vec::new();
        for object in objects(bytes) {
            let taken = object.map_err(|error| error.to_string()).and_then(|object| {
                bundle.take_again(&object).map_err(|error| format!("{:?}: {error}", object.item.key))
            });
            if let Err(why) = taken {
                left_out.push(why);
            }
        }
        Ok((bundle, left_out))
    }

    /// Writes it to `dir`, durably.
    ///
    /// # Errors
    /// [`KeyError`]; what was there stays.
    pub fn save(&self, dir: &Path) -> Result<(), KeyError> {
        let mut bytes = Vec::new();
        for item in self.have() {
            if let Some(object) = self.object(item.key) {
                bytes.extend_from_slice(&PkiFrame::Object(object).encode());
            }
        }
        files::write(&dir.join(BUNDLE_BIN), &bytes, Access::Public)?;
        // With the list on disk, the roots follow from the ones before; without one, an admin brought them by hand.
        keystore::write_certificates(&dir.join(ROOT_PEM), &self.roots)
    }

    /// The overlay's zone.
    #[must_use]
    pub const fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The trusted roots, newest first.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The roots that were exchanged for others, newest first: trusted for what was signed in their time.
    #[must_use]
    pub fn past(&self) -> &[PastRoot] {
        &self.past
    }

    /// Whether the root with this public key is trusted.
    #[must_use]
    pub fn is_root(&self, key: &Sha256) -> bool {
        self.roots.iter().filter_map(spki_of).any(|spki| Sha256::of(&spki) == *key)
    }

    /// SHA-256 of the public key of the first root: whom to ask for a CA certificate.
    #[must_use]
    pub fn root_id(&self) -> Option<Sha256> {
        self.roots.first().and_then(spki_of).map(|spki| Sha256::of(&spki))
    }

    /// The root list's version; 0 before the first.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The CA certificates.
    pub fn authorities(&self) -> impl Iterator<Item = &Known> {
        self.authorities.values()
    }

    /// The revocation list of the CA with this public key.
    #[must_use]
    pub fn crl(&self, issuer: &Sha256) -> Option<&Crl> {
        self.crls.get(&issuer.0)
    }

    /// The notices.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.values().map(|(notice, _)| notice)
    }

    /// The provinces that began alone and are under these roots now.
    pub fn handovers(&self) -> impl Iterator<Item = &Handover> {
        self.handovers.values().map(|(handover, _)| handover)
    }

    /// The former names of nodes, as CAs say whose certificates no root has revoked.
    pub fn aliases(&self) -> impl Iterator<Item = &Alias> {
        let is_good = |id: &[u8; 32]| self.authorities.values().any(|k| k.ca.key.0 == *id && !self.is_revoked(k));
        let good = self.notices.iter().filter(move |(id, _)| is_good(id));
        good.flat_map(|(_, (notice, _))| &notice.aliases)
    }

    /// The certificates of a CA key, the newest root's first: what goes after a leaf.
    #[must_use]
    pub fn certificates_of(&self, key: &Sha256) -> Vec<CertificateDer<'static>> {
        let place = |known: &&Known| {
            let of = |root: &CertificateDer<'_>| {
                policy::parse(root).is_ok_and(|r| Sha256::of(r.public_key().raw) == known.root)
            };
            self.roots.iter().position(of)
        };
        let mut found: Vec<&Known> = self.authorities.values().filter(|known| known.ca.key == *key).collect();
        found.sort_by_key(place);
        found.into_iter().map(|known| known.der.clone()).collect()
    }

    /// The CA whose names are closest to this one, that is neither revoked nor expired.
    #[must_use]
    pub fn closest(&self, name: &NodeName, now_ms: u64) -> Option<&Ca> {
        let fit =
            |known: &&Known| known.ca.scope.covers(name) && known.ca.not_after_ms > now_ms && !self.is_revoked(known);
        let mut best: Option<&Known> = None;
        for known in self.authorities.values().filter(fit) {
            let better = best.is_none_or(|other| {
                known.ca.scope.is_closer_than(&other.ca.scope)
                    || known.ca.scope == other.ca.scope && known.ca.not_before_ms > other.ca.not_before_ms
            });
            if better {
                best = Some(known);
            }
        }
        best.map(|known| &known.ca)
    }

    /// Whether its root has revoked a CA certificate.
    #[must_use]
    pub fn is_revoked(&self, known: &Known) -> bool {
        let list = self.crls.get(&known.root.0).and_then(Crl::to_check);
        list.is_some_and(|list| matches!(list.find_serial(&known.serial), Ok(Some(_))))
    }

    /// All that is held, in the order in which it can be taken.
    #[must_use]
    pub fn have(&self) -> Vec<Item> {
        let roots = self.list.iter().map(|_| Item { key: ObjectKey::Roots, version: self.version });
        let authorities = self.authorities.keys().map(|id| Item { key: ObjectKey::Authority(*id), version: 1 });
        let crls = self.crls.iter().map(|(id, crl)| Item { key: ObjectKey::Crl(*id), version: crl.number });
        let notices = self.notices.iter().map(|(id, (n, _))| Item { key: ObjectKey::Notice(*id), version: n.version });
        let handovers =
            self.handovers.iter().map(|(id, (h, _))| Item { key: ObjectKey::Handover(*id), version: h.at_ms });
        roots.chain(handovers).chain(authorities).chain(crls).chain(notices).collect()
    }

    /// One object, as it stands.
    #[must_use]
    pub fn object(&self, key: ObjectKey) -> Option<Object> {
        let (version, content) = match key {
            ObjectKey::Roots => (self.version, self.list.clone()?),
            ObjectKey::Authority(id) => (1, self.authorities.get(&id)?.der.to_vec().into()),
            ObjectKey::Crl(id) => self.crls.get(&id).map(|crl| (crl.number, crl.der.clone().into()))?,
            ObjectKey::Notice(id) => self.notices.get(&id).map(|(n, bytes)| (n.version, bytes.clone()))?,
            ObjectKey::Handover(id) => self.handovers.get(&id).map(|(h, bytes)| (h.at_ms, bytes.clone()))?,
        };
        Some(Object { item: Item { key, version }, content })
    }

    /// Checks an object and keeps it when it is newer; answers whether it was.
    ///
    /// # Errors
    /// [`ObjectError`]; nothing has changed then.
    pub fn take(&mut self, object: &Object, now_ms: u64) -> Result<bool, ObjectError> {
        match object.item.key {
            ObjectKey::Roots => self.take_roots(object),
            ObjectKey::Authority(id) => self.take_authority(id, object, now_ms),
            ObjectKey::Crl(id) => self.take_crl(id, object, now_ms),
            ObjectKey::Notice(id) => self.take_notice(id, object),
            ObjectKey::Handover(id) => self.take_handover(id, object),
        }
    }

    /// Takes what was taken before: a clock that has fallen back since must not lose a revocation.
    fn take_again(&mut self, object: &Object) -> Result<bool, ObjectError> {
        match object.item.key {
            ObjectKey::Roots => self.take_roots(object),
            ObjectKey::Authority(id) => self.take_authority(id, object, 0),
            ObjectKey::Crl(id) => self.take_crl(id, object, u64::MAX),
            ObjectKey::Notice(id) => self.take_notice(id, object),
            ObjectKey::Handover(id) => self.take_handover(id, object),
        }
    }

    fn take_roots(&mut self, object: &Object) -> Result<bool, ObjectError> {
        let signed = SignedRoots::decode(object.content.clone())?;
        let list = Roots::decode(signed.body.clone())?;
        if list.version != object.item.version || list.version == 0 {
            return Err(ObjectError::Misnamed);
        }
        if !is_newer(list.version, self.version, || self.list.as_ref() == Some(&object.content))? {
            return Ok(false);
        }
        let roots: Vec<CertificateDer<'static>> = list.roots.iter().map(|der| der.to_vec().into()).collect();
        let zone = Trust::new(roots.clone())?.zone().clone();
        if zone != self.zone || list.zone != self.zone {
            return Err(TrustError::Zones(self.zone.clone(), zone).into());
        }
        for past in &list.past {
            let zone = Trust::new(vec![past.certificate.to_vec().into()])?.zone().clone();
            if zone != self.zone {
                return Err(TrustError::Zones(self.zone.clone(), zone).into());
            }
        }
        let message = [ROOTS_PURPOSE, &signed.body].concat();
        let signed_it = |root: &CertificateDer<'_>| {
            let id = Sha256::of(root).0;
            let spki = policy::parse(root).map(|parsed| parsed.public_key().raw.to_vec()).unwrap_or_default();
            signed.signatures.iter().any(|(by, signature)| *by == id && signed_by(&spki, &message, signature))
        };
        if !self.roots.iter().any(signed_it) {
            return Err(ObjectError::Unsigned("no root that is trusted here signed this root list"));
        }
        if !roots.iter().all(signed_it) {
            return Err(ObjectError::Unsigned("a root in this list has not signed it"));
        }
        (self.version, self.list) = (list.version, Some(object.content.clone()));
        (self.roots, self.past) = (roots, list.past);
        self.drop_unvouched();
        Ok(true)
    }

    /// Forgets what no trusted root vouches for any more.
    fn drop_unvouched(&mut self) {
        let roots = self.roots.clone();
        self.authorities.retain(|_, known| Known::read(&known.der, &self.zone, &roots).is_ok());
        let ids: Vec<[u8; 32]> = self.authorities.values().map(|known| known.ca.key.0).collect();
        let of_root = |id: &[u8; 32]| roots.iter().any(|r| spki_of(r).is_some_and(|spki| Sha256::of(&spki).0 == *id));
        self.crls.retain(|id, _| ids.contains(id) || of_root(id));
        self.notices.retain(|id, _| ids.contains(id));
        // Whoever missed it may have missed an exchange of the new root as well.
        let past: Vec<CertificateDer<'_>> = self.past.iter().map(|past| past.certificate.as_ref().into()).collect();
        let is_known = |new: &Bytes| roots.iter().chain(&past).any(|root| root.as_ref() == new.as_ref());
        self.handovers.retain(|_, (handover, _)| is_known(&handover.new));
    }

    /// A node that trusts the root of a province that began alone trusts the new one instead; one that trusts the new one
    /// keeps the handover for the others.
    fn take_handover(&mut self, id: [u8; 32], object: &Object) -> Result<bool, ObjectError> {
        let signed = SignedHandover::decode(object.content.clone())?;
        let handover = Handover::decode(signed.body.clone())?;
        let [old, new] = [&handover.old, &handover.new].map(|der| CertificateDer::from(der.to_vec()));
        let spki = |root| spki_of(root).unwrap_or_default();
        if handover.at_ms != object.item.version || handover.at_ms == 0 || Sha256::of(&spki(&old)).0 != id {
            return Err(ObjectError::Misnamed);
        }
        let held = self.handovers.get(&id);
        if !is_newer(handover.at_ms, held.map_or(0, |(held, _)| held.at_ms), || {
            held.is_some_and(|(_, bytes)| *bytes == object.content)
        })? {
            return Ok(false);
        }
        let zone = Trust::new(vec![old.clone(), new.clone()])?.zone().clone();
        if zone != self.zone || handover.zone != self.zone {
            return Err(TrustError::Zones(self.zone.clone(), zone).into());
        }
        let follows = self.roots.contains(&old);
        if !follows && !self.roots.contains(&new) && !self.past.iter().any(|past| past.certificate == handover.new) {
            return Err(ObjectError::Unsigned("neither root of this handover is trusted here"));
        }
        let message = [HANDOVER_PURPOSE, &signed.body].concat();
        if !signed_by(&spki(&old), &message, &signed.by_old) || !signed_by(&spki(&new), &message, &signed.by_new) {
            return Err(ObjectError::Unsigned("a root in this handover has not signed it"));
        }
        let mut authorities = Vec::new();
        for der in &handover.authorities {
            let known = Known::read(der, &self.zone, std::slice::from_ref(&new))?;
            if known.ca.scope != Scope::From(handover.name.clone()) {
                return Err(ObjectError::OutOfScope(known.ca.scope.to_string()));
            }
            authorities.push(known);
        }
        if self.handovers.len() >= limits::HANDOVERS && held.is_none() {
            return Err(ObjectError::TooManyHandovers);
        }
        if follows {
            // What the old root's list said ends with it. The CAs come along, so that no link breaks in between.
            (self.roots, self.past, self.version, self.list) = (vec![new], Vec::new(), 0, None);
            self.authorities.extend(authorities.into_iter().map(|known| (Sha256::of(&known.der).0, known)));
        }
        self.handovers.insert(id, (handover, object.content.clone()));
        self.drop_unvouched();
        Ok(true)
    }

    fn take_authority(&mut self, id: [u8; 32], object: &Object, now_ms: u64) -> Result<bool, ObjectError> {
        if object.item.version != 1 || Sha256::of(&object.content).0 != id {
            return Err(ObjectError::Misnamed);
        }
        if self.authorities.contains_key(&id) {
            return Ok(false);
        }
        WireError::limit("certificate", object.content.len(), limits::CERTIFICATE_BYTES)?;
        let known = Known::read(&object.content, &self.zone, &self.roots)?;
        if known.ca.not_after_ms.saturating_add(KEEP_MS) < now_ms {
            return Err(ObjectError::Expired);
        }
        if self.authorities.len() >= AUTHORITIES {
            return Err(ObjectError::TooMany(AUTHORITIES));
        }
        self.authorities.insert(id, known);
        Ok(true)
    }

    /// The SubjectPublicKeyInfo of a root or CA.
    fn key_of(&self, id: &[u8; 32]) -> Option<Vec<u8>> {
        let authorities =
            self.authorities.values().filter(|known| known.ca.key.0 == *id).map(|known| known.spki.clone());
        let roots = self.roots.iter().filter_map(spki_of).filter(|spki| Sha256::of(spki).0 == *id);
        authorities.chain(roots).next()
    }

    fn take_crl(&mut self, id: [u8; 32], object: &Object, now_ms: u64) -> Result<bool, ObjectError> {
        let held = self.crls.get(&id);
        if held.is_some_and(|held| held.der == object.content.as_ref()) {
            return Ok(false);
        }
        let spki = self.key_of(&id).ok_or(ObjectError::Unsigned("no CA is known whose revocation list this is"))?;
        let crl = Crl::read(&object.content, &spki, now_ms)?;
        if crl.number != object.item.version {
            return Err(ObjectError::Misnamed);
        }
        if !is_newer(crl.number, held.map_or(0, |held| held.number), || false)? {
            return Ok(false);
        }
        self.crls.insert(id, crl);
        Ok(true)
    }

    fn take_notice(&mut self, id: [u8; 32], object: &Object) -> Result<bool, ObjectError> {
        let signed = SignedNotice::decode(object.content.clone())?;
        let notice = Notice::decode(signed.body.clone())?;
        if notice.version != object.item.version || notice.authority != id || notice.version == 0 {
            return Err(ObjectError::Misnamed);
        }
        let held = self.notices.get(&id);
        if !is_newer(notice.version, held.map_or(0, |(held, _)| held.version), || {
            held.is_some_and(|(_, bytes)| *bytes == object.content)
        })? {
            return Ok(false);
        }
        let by = self.authorities.values().find(|known| known.ca.key.0 == id);
        let by = by.ok_or(ObjectError::Unsigned("no CA is known whose notice this is"))?;
        if !signed_by(&by.spki, &[NOTICE_PURPOSE, &signed.body].concat(), &signed.signature) {
            return Err(ObjectError::Unsigned("the notice is not signed by the CA it names"));
        }
        let foreign = notice.aliases.iter().flat_map(|alias| [&alias.old, &alias.new]).find(|n| !by.ca.scope.covers(n));
        if let Some(name) = foreign {
            return Err(ObjectError::OutOfScope(name.to_string()));
        }
        if by.ca.scope != Scope::Overlay && !notice.transfers.is_empty() {
            return Err(ObjectError::OutOfScope("nodes of other zones".to_owned()));
        }
        self.notices.insert(id, (notice, object.content.clone()));
        Ok(true)
    }

    /// Forgets CAs that expired long ago, with their lists and notices; answers whether there were any.
    pub fn prune(&mut self, now_ms: u64) -> bool {
        let before = self.authorities.len();
        self.authorities.retain(|_, known| known.ca.not_after_ms.saturating_add(KEEP_MS) >= now_ms);
        let pruned = self.authorities.len() < before;
        if pruned {
            self.drop_unvouched();
        }
        pruned
    }

    /// Replaces the roots, past ones too, whatever they were: an admin brought these by hand, because the old ones were stolen or lost.
    ///
    /// # Errors
    /// [`TrustError`] when they are of another zone or none of Tram.
    pub fn pin(&mut self, roots: Vec<CertificateDer<'static>>) -> Result<(), TrustError> {
        let zone = Trust::new(roots.clone())?.zone().clone();
        if zone != self.zone {
            return Err(TrustError::Zones(self.zone.clone(), zone));
        }
        (self.roots, self.past, self.version, self.list) = (roots, Vec::new(), 0, None);
        self.drop_unvouched();
        Ok(())
    }

    /// The CAs whose revocation list is missing or no longer fresh, and since when (Unix milliseconds; 0: never there).
    #[must_use]
    pub fn stale(&self, now_ms: u64) -> Vec<(Sha256, u64)> {
        let roots = self.roots.iter().filter_map(spki_of).map(|spki| Sha256::of(&spki));
        let mut ids: Vec<Sha256> = self.authorities.values().map(|known| known.ca.key).chain(roots).collect();
        ids.sort();
        ids.dedup();
        let since = |id: &Sha256| self.crls.get(&id.0).map_or(0, |crl| crl.next_update_ms);
        ids.into_iter().map(|id| (id, since(&id))).filter(|(_, since)| *since < now_ms).collect()
    }

    /// When the root that vouches longest ends, Unix milliseconds.
    #[must_use]
    pub fn roots_not_after_ms(&self) -> u64 {
        let end = |root: &CertificateDer<'_>| policy::parse(root).map_or(0, |p| ms(p.validity().not_after.timestamp()));
        self.roots.iter().map(end).max().unwrap_or(0)
    }

    /// What follows from it for checks of chains.
    ///
    /// # Errors
    /// [`TrustError`]; the roots were checked when they were taken.
    pub fn trust(&self) -> Result<Arc<Trust>, TrustError> {
        let mut trust = Trust::new(self.roots.clone())?;
        trust.remember(&self.past)?;
        trust.learn(self.authorities.values().cloned().collect(), self.crls.values());
        let of_overlay =
            |id: &[u8; 32]| self.authorities.values().any(|k| k.ca.key.0 == *id && k.ca.scope == Scope::Overlay);
        let by_central = self.notices.iter().filter(|(id, _)| of_overlay(id)).map(|(_, (notice, _))| notice);
        trust.learn_transfers(by_central.flat_map(|notice| &notice.transfers));
        trust.learn_aliases(self.aliases().cloned());
        Ok(Arc::new(trust))
    }
}

fn spki_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    policy::parse(certificate).ok().map(|parsed| parsed.public_key().raw.to_vec())
}

/// Whether a version is to be taken; the same one must be the same.
fn is_newer(version: u64, held: u64, is_same: impl FnOnce() -> bool) -> Result<bool, ObjectError> {
    match version.cmp(&held) {
        std::cmp::Ordering::Greater => Ok(true),
        std::cmp::Ordering::Less => Ok(false),
        std::cmp::Ordering::Equal if held == 0 || is_same() => Ok(false),
        std::cmp::Ordering::Equal => Err(ObjectError::Forked(version)),
    }
}

/// The objects in the bytes of a bundle's file; an error ends them.
pub fn objects(mut bytes: Bytes) -> impl Iterator<Item = Result<Object, WireError>> {
    std::iter::from_fn(move || {
        let field: [u8; LENGTH_BYTES] = match bytes.get(..LENGTH_BYTES) {
            Some(field) => field.try_into().ok()?,
            None if bytes.is_empty() => return None,
            None => {
                bytes.clear();
                return Some(Err(WireError::Malformed { what: "bundle", why: "it is cut short" }));
            }
        };
        let _ = bytes.split_to(LENGTH_BYTES);
        let read = frame_length(field, limits::PKI_FRAME_BYTES).and_then(|length| {
            if bytes.len() < length {
                return Err(WireError::Malformed { what: "bundle", why: "it is cut short" });
            }
            match PkiFrame::decode(bytes.split_to(length))? {
                PkiFrame::Object(object) => Ok(object),
                _ => Err(WireError::Malformed { what: "bundle", why: "it holds something else than objects" }),
            }
        });
        if read.is_err() {
            bytes.clear();
        }
        Some(read)
    })
}

#[cfg(test)]
mod tests;
