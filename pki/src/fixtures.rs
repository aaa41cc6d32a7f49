//! An overlay in a temporary directory, for this crate's tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use tram_proto::id::NodeId;
use tram_proto::join::Uplink;
use tram_proto::name::Role;
use tram_proto::pki::{Item, Object, ObjectKey};

use crate::authority::{Authority, Issued, Root, Subject};
use crate::bundle::{Bundle, ObjectError};
use crate::clock::Clock;
use crate::csr::LeafKey;
use crate::enrol::Joined;
use crate::hash::Sha256;
use crate::keystore::{self, NodeKeys};
use crate::registry::Registry;
use crate::renew;
use crate::trust::Trust;

/// 15 January 2027.
pub(crate) const NOW_MS: u64 = 1_800_000_000_000;

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key")
}

pub(crate) fn clock(now_ms: u64) -> Clock {
    Arc::new(move || now_ms)
}

/// A node's particulars; the depth of the name gives its role.
pub(crate) fn subject(name: &str) -> Subject {
    let role = match name.matches('.').count() {
        0 => Role::Province,
        1 => Role::District,
        _ => Role::Commune,
    };
    Subject { id: NodeId([7; 16]), name: name.parse().expect("name"), role }
}

/// A founded overlay and its central node.
pub(crate) struct Overlay {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
    keys: NodeKeys,
    authority: Authority,
}

impl Overlay {
    pub(crate) fn new(zone: &str) -> Self {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let dir = temporary.path().join("pki");
        let (zone, name) = (zone.parse().expect("zone"), "central".parse().expect("name"));
        let keys = keystore::found(&dir, &zone, &name, NOW_MS).expect("founded");
        let authority = Authority::open(&dir).expect("opens");
        Self { _temporary: temporary, dir, keys, authority }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) const fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn keys(&self) -> NodeKeys {
        self.keys.clone()
    }

    pub(crate) const fn trust(&self) -> &Arc<Trust> {
        self.keys.trust()
    }

    pub(crate) fn issue(&self, key: &LeafKey, name: &str, now_ms: u64) -> Issued {
        self.authority.issue(key, &subject(name), now_ms).expect("issued")
    }

    pub(crate) fn chain(&self, issued: &Issued) -> Vec<CertificateDer<'static>> {
        vec![issued.certificate.clone(), self.authority.certificate().clone()]
    }

    /// A further node of this overlay, as if it had joined.
    pub(crate) fn node(&self, name: &str) -> NodeKeys {
        let machine = tempfile::tempdir().expect("temporary directory");
        let dir = machine.path().join("pki");
        let key = keystore::stage(&dir, "test").expect("key");
        let issued = self.issue(&LeafKey::of(&key).expect("P-256"), name, NOW_MS);
        let subject = subject(name);
        let joined = Joined {
            chain: self.chain(&issued),
            root: self.authority.root().clone(),
            id: subject.id,
            name: subject.name,
            role: subject.role,
            zone: self.authority.zone().clone(),
            uplink: Uplink { node: "central".parse().expect("name"), addresses: Vec::new() },
            bundle: bytes::Bytes::new(),
        };
        NodeKeys::install(&dir, &joined).expect("installed")
    }

    /// A chain whose leaf this overlay's CA key signed, but not by way of [`Authority::issue`]: `spoil` changes what
    /// would otherwise be the certificate of `can-tho.tram.internal`.
    pub(crate) fn forge(&self, spoil: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2027, 1, 1);
        params.not_after = date_time_ymd(2027, 3, 1);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        name(&mut params, "can-tho.tram.internal");
        spoil(&mut params);
        let pkcs8 = keystore::read_key(&self.dir.join(keystore::CA_KEY)).expect("CA key");
        let ca_key = KeyPair::try_from(&pkcs8).expect("CA key");
        let issuer = Issuer::from_ca_cert_der(self.authority.certificate(), ca_key).expect("CA");
        let leaf = params.signed_by(&key(), &issuer).expect("signed");
        vec![leaf.into(), self.authority.certificate().clone()]
    }
}

/// A founded overlay whose root, registry and bundle are at hand, and where provinces have CAs of their own.
pub(crate) struct Tree {
    pub(crate) central: Overlay,
    pub(crate) root: Root,
    pub(crate) registry: Registry,
    pub(crate) bundle: Bundle,
}

/// A province with its own CA.
pub(crate) struct Province {
    temporary: tempfile::TempDir,
    pub(crate) authority: Authority,
    pub(crate) registry: Registry,
    pub(crate) keys: NodeKeys,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let central = Overlay::new("tram.internal");
        let root = Root::open(central.dir()).expect("opens").expect("its key is there");
        let registry = Registry::open(central.dir()).expect("opens");
        let bundle = Bundle::new(vec![root.certificate().clone()]).expect("a root");
        let mut tree = Self { central, root, registry, bundle };
        tree.take_authority(&tree.central.authority().certificate().clone());
        tree.list_root(NOW_MS);
        tree.list_central(NOW_MS);
        tree
    }

    pub(crate) fn take_authority(&mut self, certificate: &CertificateDer<'static>) {
        self.take(&authority_object(certificate)).expect("taken");
    }

    pub(crate) fn take(&mut self, object: &Object) -> Result<bool, ObjectError> {
        self.bundle.take(object, NOW_MS)
    }

    /// The root's next list.
    pub(crate) fn list_root(&mut self, now_ms: u64) -> Object {
        let number = self.registry.next_crl(true, 0, now_ms).expect("written");
        let der = self.root.crl(&self.registry.root_revoked(), number, now_ms).expect("made");
        let object = crl_object(self.root.id(), number, der);
        self.bundle.take(&object, now_ms).expect("taken");
        object
    }

    /// The next list of central's CA.
    pub(crate) fn list_central(&mut self, now_ms: u64) -> Object {
        let number = self.registry.next_crl(false, 0, now_ms).expect("written");
        let object = list_of(self.central.authority(), &self.registry, number, now_ms);
        self.bundle.take(&object, now_ms).expect("taken");
        object
    }

    /// A province that has joined and got its CA.
    pub(crate) fn province(&mut self, name: &str, now_ms: u64) -> Province {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let dir = temporary.path().join("pki");
        let subject =
            Subject { id: NodeId(Sha256::of(name.as_bytes()).0[..16].try_into().expect("16")), ..subject(name) };
        let key = keystore::stage(&dir, "test").expect("key");
        let issued =
            self.central.authority.issue(&LeafKey::of(&key).expect("P-256"), &subject, now_ms).expect("issued");
        self.registry.renewed(&subject, &issued, "test").expect("written");
        let joined = Joined {
            chain: self.central.chain(&issued),
            root: self.root.certificate().clone(),
            id: subject.id,
            name: subject.name,
            role: subject.role,
            zone: self.root.zone().clone(),
            uplink: Uplink { node: "central".parse().expect("name"), addresses: Vec::new() },
            bundle: bytes::Bytes::new(),
        };
        let keys = NodeKeys::install(&dir, &joined).expect("installed");
        let csr = Authority::request(&dir).expect("a key");
        let request = renew::authority_request(&keys, csr).expect("signed");
        let trust = self.bundle.trust().expect("roots");
        let (certificate, _) =
            renew::certify(&mut self.registry, Some(&self.root), &trust, &request, now_ms).expect("certified");
        Authority::install(&dir, std::slice::from_ref(&certificate)).expect("fits");
        self.bundle.take(&authority_object(&certificate), now_ms).expect("taken");
        let authority = Authority::open(&dir).expect("opens");
        let mut registry = Registry::open(&dir).expect("opens");
        let number = registry.next_crl(false, 0, now_ms).expect("written");
        self.bundle.take(&list_of(&authority, &registry, number, now_ms), now_ms).expect("taken");
        Province { temporary, authority, registry, keys }
    }

    /// What central's registry has to announce, signed.
    pub(crate) fn announce(&mut self, now_ms: u64) {
        let id = self.central.authority().id();
        let notice = self.registry.notice().to_notice(id, now_ms);
        let item = Item { key: ObjectKey::Notice(id.0), version: notice.version };
        let content = self.central.authority().sign(&notice).expect("signed").encode();
        self.bundle.take(&Object { item, content }, now_ms).expect("taken");
    }

    pub(crate) fn trust(&self) -> Arc<Trust> {
        self.bundle.trust().expect("roots")
    }
}

impl Province {
    /// A node of this province.
    pub(crate) fn issue(&mut self, name: &str, now_ms: u64) -> Vec<CertificateDer<'static>> {
        let subject =
            Subject { id: NodeId(Sha256::of(name.as_bytes()).0[..16].try_into().expect("16")), ..subject(name) };
        let key = LeafKey::of(&key()).expect("P-256");
        let issued = self.authority.issue(&key, &subject, now_ms).expect("issued");
        self.registry.renewed(&subject, &issued, "test").expect("written");
        std::iter::once(issued.certificate).chain(self.authority.certificates().iter().cloned()).collect()
    }

    /// A leaf of any name that its CA key signed, though its authority would not.
    pub(crate) fn forge(&self, of: &str, now_ms: u64) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        let at = |ms: u64| date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(ms / 1000);
        (params.not_before, params.not_after) = (at(now_ms - 1000), at(now_ms + 1_000_000));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        name(&mut params, &format!("{of}.tram.internal"));
        let pkcs8 = keystore::read_key(&self.temporary.path().join("pki").join(keystore::CA_KEY)).expect("CA key");
        let issuer = Issuer::from_ca_cert_der(self.authority.certificate(), KeyPair::try_from(&pkcs8).expect("CA key"));
        let leaf = params.signed_by(&key(), &issuer.expect("CA")).expect("signed");
        vec![leaf.into(), self.authority.certificate().clone()]
    }

    /// The next list of its CA.
    pub(crate) fn list(&mut self, now_ms: u64) -> Object {
        let number = self.registry.next_crl(false, 0, now_ms).expect("written");
        list_of(&self.authority, &self.registry, number, now_ms)
    }
}

/// The same certificate with the other form of its signature: `s` becomes `n - s`.
pub(crate) fn malleated(certificate: &CertificateDer<'_>) -> CertificateDer<'static> {
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let parsed = crate::policy::parse(certificate).expect("readable");
    let old = parsed.signature_value.data.to_vec();
    let integer = |at: usize| {
        let length = usize::from(old[at + 1]);
        let bytes = &old[at + 2..at + 2 + length];
        let mut out = [0; 32];
        let bytes = if length == 33 { &bytes[1..] } else { bytes };
        out[32 - bytes.len()..].copy_from_slice(bytes);
        (out, at + 2 + length)
    };
    let (r, next) = integer(2);
    let (s, _) = integer(next);
    let (mut other, mut borrow) = ([0; 32], 0_i16);
    for at in (0..32).rev() {
        let digit = i16::from(N[at]) - i16::from(s[at]) - borrow;
        borrow = i16::from(digit < 0);
        other[at] = u8::try_from(digit.rem_euclid(256)).expect("a byte");
    }
    let encode = |n: &[u8; 32]| {
        let first = n.iter().position(|b| *b != 0).unwrap_or(31);
        let mut bytes = n[first..].to_vec();
        if bytes[0] & 0x80 != 0 {
            bytes.insert(0, 0);
        }
        [vec![2, u8::try_from(bytes.len()).expect("short")], bytes].concat()
    };
    let inner = [encode(&r), encode(&other)].concat();
    let signature = [vec![0x30, u8::try_from(inner.len()).expect("short")], inner].concat();
    let bits = [vec![3, u8::try_from(signature.len() + 1).expect("short"), 0], signature].concat();
    let head = certificate.len() - old.len() - 3;
    // The outer sequence has two bytes of length here.
    let mut der = [&certificate[..head], &bits].concat();
    let length = u16::try_from(der.len() - 4).expect("short").to_be_bytes();
    der[2..4].copy_from_slice(&length);
    der.into()
}

pub(crate) fn list_of(authority: &Authority, registry: &Registry, number: u64, now_ms: u64) -> Object {
    crl_object(authority.id(), number, authority.crl(&registry.revoked(), number, now_ms).expect("made"))
}

pub(crate) fn crl_object(issuer: Sha256, number: u64, der: Vec<u8>) -> Object {
    Object { item: Item { key: ObjectKey::Crl(issuer.0), version: number }, content: der.into() }
}

pub(crate) fn authority_object(certificate: &CertificateDer<'_>) -> Object {
    let key = ObjectKey::Authority(Sha256::of(certificate).0);
    Object { item: Item { key, version: 1 }, content: certificate.to_vec().into() }
}

/// Gives a forged leaf one DNS name and the subject that goes with it.
pub(crate) fn name(params: &mut CertificateParams, dns: &str) {
    params.subject_alt_names = vec![SanType::DnsName(dns.try_into().expect("ASCII"))];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, dns);
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), NodeId([7; 16]).to_string());
    params.distinguished_name.push(DnType::OrganizationalUnitName, "province");
}
