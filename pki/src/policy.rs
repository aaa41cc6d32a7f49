//! Who a certificate speaks for, and the rules rustls does not check.
//!
//! Guarantees that a [`Peer`] comes only from a leaf with exactly one lower-case DNS name in the zone, both extended key
//! usages, and a subject that repeats the name and carries node id and role. webpki accepts wildcards, URI-only and
//! nameless certificates from clients, so this check after the chain is mandatory (`research/pki.md` §3a). Never judges
//! a chain, a signature or a time: that is [`crate::trust`].

use rustls_pki_types::CertificateDer;
use tram_proto::id::{CertHash, NodeId};
use tram_proto::limits;
use tram_proto::name::{NameError, NodeName, Role, Zone};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree};
use x509_parser::oid_registry::{
    OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, OID_X509_SERIALNUMBER, Oid,
};
use x509_parser::prelude::FromDer as _;

use crate::authority::Scope;
use crate::hash::{Sha256, cert_hash};

/// A node, as its certificate states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Never changes.
    pub id: NodeId,
    /// Without the zone.
    pub name: NodeName,
    /// Its place in the tree.
    pub role: Role,
    /// How statements name this certificate.
    pub certificate: CertHash,
    /// When the certificate becomes valid, Unix milliseconds.
    pub not_before_ms: u64,
    /// When it expires, Unix milliseconds.
    pub not_after_ms: u64,
}

/// Which rule a certificate breaks. The issuer is at fault; the cure is a certificate from `tram token new`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// No certificate was shown.
    #[error("no certificate was shown")]
    Missing,
    /// It is not X.509.
    #[error("the certificate cannot be read")]
    Malformed,
    /// It is not the certificate of an issuing CA.
    #[error("it is not the certificate of an issuing CA: {0}")]
    NotCa(&'static str),
    /// A CA that is closer to the name was there when it was issued.
    #[error("{name} was certified by the CA of {by}, though the CA of {closer} was there to do it")]
    NotClosest {
        /// The node's name.
        name: NodeName,
        /// Who issued it.
        by: Scope,
        /// Who should have.
        closer: Scope,
    },
    /// It may sign other certificates.
    #[error("it is a CA certificate, not a node's")]
    Ca,
    /// It does not have exactly one name.
    #[error("it has {0} alternative names; a node has exactly one")]
    NameCount(usize),
    /// Its name is an address, a URI, an e-mail or the like.
    #[error("its alternative name is not a DNS name")]
    NameKind,
    /// Its name is not allowed as a node's name.
    #[error("its name {dns:?} cannot be a node's: {source}")]
    Name {
        /// The DNS name.
        dns: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// Its name belongs to another overlay.
    #[error("its name {dns:?} lies outside the zone {zone}")]
    Zone {
        /// The DNS name.
        dns: String,
        /// The zone it should lie in.
        zone: Zone,
    },
    /// It lacks a purpose.
    #[error("it lacks the key usage {0}")]
    Usage(&'static str),
    /// Part of the subject is missing, doubled or contradicts the name.
    #[error("its subject has no usable {0}")]
    Subject(&'static str),
    /// The subject holds something else.
    #[error("its subject has more than name, node id and role")]
    SubjectExtra,
}

/// Checks a leaf against every rule and says whose it is.
///
/// # Errors
/// [`PolicyError`] names the first rule that is broken.
pub fn peer(leaf: &CertificateDer<'_>, zone: &Zone) -> Result<Peer, PolicyError> {
    let certificate = parse(leaf)?;
    if certificate.basic_constraints().map_err(|_| PolicyError::Malformed)?.is_some_and(|c| c.value.ca) {
        return Err(PolicyError::Ca);
    }
    check_usage(&certificate)?;
    let dns = dns_name(&certificate)?;
    let (id, role) = subject(&certificate, dns)?;
    let validity = certificate.validity();
    Ok(Peer {
        id,
        name: node_name(dns, zone)?,
        role,
        certificate: cert_hash(leaf),
        not_before_ms: ms(validity.not_before.timestamp()),
        not_after_ms: ms(validity.not_after.timestamp()),
    })
}

/// A CA, as its certificate states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ca {
    /// Which names it may certify.
    pub scope: Scope,
    /// SHA-256 of its public key.
    pub key: Sha256,
    /// When the certificate becomes valid, Unix milliseconds.
    pub not_before_ms: u64,
    /// When it expires, Unix milliseconds.
    pub not_after_ms: u64,
}

impl Ca {
    /// Reads the certificate of an issuing CA of `zone`. Judges no signature and no time.
    ///
    /// # Errors
    /// [`PolicyError`] when it is not one that [`crate::authority::Root::certify`] makes.
    pub fn read(der: &[u8], zone: &Zone) -> Result<Self, PolicyError> {
        let parsed = parse(der)?;
        let constraints = parsed.basic_constraints().map_err(|_| PolicyError::Malformed)?;
        if !constraints.is_some_and(|basic| basic.value.ca && basic.value.path_len_constraint == Some(0)) {
            return Err(PolicyError::NotCa("it may have CAs below it, or is none"));
        }
        let key = &parsed.public_key();
        if key.subject_public_key.data.len() != P256_POINT {
            return Err(PolicyError::NotCa("its key is not ECDSA P-256"));
        }
        if only(&parsed, &OID_X509_ORGANIZATION_NAME, "organization")? != zone.as_str() {
            return Err(PolicyError::NotCa("it is of another zone"));
        }
        let names = parsed.name_constraints().map_err(|_| PolicyError::Malformed)?;
        let permitted = names.and_then(|names| names.value.permitted_subtrees.as_deref());
        let Some([GeneralSubtree { base: GeneralName::DNSName(subtree) }]) = permitted else {
            return Err(PolicyError::NotCa("its names are not limited to one subtree"));
        };
        let scope = match subtree.strip_prefix('.') {
            Some(names) if names == zone.as_str() => Scope::Overlay,
            Some(names) => Scope::Below(node_name(names, zone)?),
            None => Scope::From(node_name(subtree, zone)?),
        };
        let validity = parsed.validity();
        Ok(Self {
            scope,
            key: Sha256::of(key.raw),
            not_before_ms: ms(validity.not_before.timestamp()),
            not_after_ms: ms(validity.not_after.timestamp()),
        })
    }
}

/// An uncompressed point of P-256, in bytes.
const P256_POINT: usize = 65;

/// SHA-256 of the public key of a certificate; `None` when that is none.
#[must_use]
pub fn key_of(der: &[u8]) -> Option<Sha256> {
    parse(der).ok().map(|parsed| Sha256::of(parsed.public_key().raw))
}

/// When a certificate expires, Unix milliseconds; `None` when it is none.
#[must_use]
pub fn not_after_ms(der: &[u8]) -> Option<u64> {
    parse(der).ok().map(|parsed| ms(parsed.validity().not_after.timestamp()))
}

pub(crate) fn parse<'a>(der: &'a [u8]) -> Result<X509Certificate<'a>, PolicyError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(PolicyError::Malformed),
    }
}

pub(crate) fn ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), PolicyError> {
    let extended = certificate.extended_key_usage().map_err(|_| PolicyError::Malformed)?;
    let has = |which: fn(&x509_parser::extensions::ExtendedKeyUsage<'_>) -> bool| {
        extended.as_ref().is_some_and(|usage| which(usage.value))
    };
    if !has(|usage| usage.server_auth) {
        return Err(PolicyError::Usage("serverAuth"));
    }
    if !has(|usage| usage.client_auth) {
        return Err(PolicyError::Usage("clientAuth"));
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.digital_signature() => Ok(()),
        _ => Err(PolicyError::Usage("digitalSignature")),
    }
}

fn dns_name<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, PolicyError> {
    let names = certificate.subject_alternative_name().map_err(|_| PolicyError::Malformed)?;
    match names.map(|names| names.value.general_names.as_slice()) {
        Some([GeneralName::DNSName(dns)]) => Ok(dns),
        Some([_]) => Err(PolicyError::NameKind),
        Some(names) => Err(PolicyError::NameCount(names.len())),
        None => Err(PolicyError::NameCount(0)),
    }
}

fn node_name(dns: &str, zone: &Zone) -> Result<NodeName, PolicyError> {
    if dns.len() > limits::NAME_BYTES {
        let source = NameError::Long { what: "name with its zone", got: dns.len(), max: limits::NAME_BYTES };
        return Err(PolicyError::Name { dns: dns.chars().take(limits::NAME_BYTES).collect(), source });
    }
    // Outside the zone and ill-formed are different faults with different culprits.
    if !dns.to_ascii_lowercase().ends_with(&format!(".{zone}")) {
        return Err(PolicyError::Zone { dns: dns.to_owned(), zone: zone.clone() });
    }
    NodeName::from_dns(dns, zone).map_err(|source| PolicyError::Name { dns: dns.to_owned(), source })
}

fn subject(certificate: &X509Certificate<'_>, dns: &str) -> Result<(NodeId, Role), PolicyError> {
    let name = only(certificate, &OID_X509_COMMON_NAME, "common name")?;
    let id_text = only(certificate, &OID_X509_SERIALNUMBER, "serialNumber")?;
    let role = only(certificate, &OID_X509_ORGANIZATIONAL_UNIT, "organizational unit")?;
    if certificate.subject().iter_attributes().count() != 3 {
        return Err(PolicyError::SubjectExtra);
    }
    if name != dns {
        return Err(PolicyError::Subject("common name: it differs from the alternative name"));
    }
    let id: NodeId = id_text.parse().map_err(|_| PolicyError::Subject("serialNumber: it is not a UUID"))?;
    if id.to_string() != id_text {
        return Err(PolicyError::Subject("serialNumber: the UUID is not in lower case"));
    }
    let role = role.parse().map_err(|_| PolicyError::Subject("organizational unit: it is not a role"))?;
    Ok((id, role))
}

pub(crate) fn only<'a>(
    certificate: &'a X509Certificate<'_>,
    attribute: &Oid<'a>,
    what: &'static str,
) -> Result<&'a str, PolicyError> {
    let mut values = certificate.subject().iter_by_oid(attribute);
    match (values.next(), values.next()) {
        (Some(value), None) => value.as_str().map_err(|_| PolicyError::Subject(what)),
        _ => Err(PolicyError::Subject(what)),
    }
}
