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

use crate::authority::{Authority, Issued, Subject};
use crate::clock::Clock;
use crate::csr::LeafKey;
use crate::enrol::{Clocks, Joined};
use crate::keystore::{self, NodeKeys};
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
        let key = keystore::joining_key(&dir).expect("key");
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
            clocks: Clocks { own_ms: NOW_MS, server_ms: NOW_MS },
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

/// Gives a forged leaf one DNS name and the subject that goes with it.
pub(crate) fn name(params: &mut CertificateParams, dns: &str) {
    params.subject_alt_names = vec![SanType::DnsName(dns.try_into().expect("ASCII"))];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, dns);
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), NodeId([7; 16]).to_string());
    params.distinguished_name.push(DnType::OrganizationalUnitName, "province");
}
