//! Intake of certificate requests: the public key and nothing else.
//!
//! A requester proves that it holds the key; name, role, usages and every extension it asks for are ignored, because they
//! come from the token's record (`research/pki.md` §3f: rcgen would copy CA:TRUE out of a request).

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SubjectPublicKeyInfo,
};
use tram_proto::limits;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer as _;

use crate::hash::Sha256;

/// Why a request was not taken. Always the requester's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Over [`limits::CSR_BYTES`].
    #[error("the certificate request has {0} bytes; at most {max} are allowed", max = limits::CSR_BYTES)]
    Large(usize),
    /// Not PKCS #10, or something follows it.
    #[error("the certificate request cannot be read")]
    Malformed,
    /// Its key or signature is not P-256 with SHA-256.
    #[error("the certificate request's key is not ECDSA P-256 with SHA-256")]
    Algorithm,
    /// The requester does not hold the key.
    #[error("the certificate request is not signed with its own key")]
    Signature,
}

/// A public key whose holder has proved possession.
#[derive(Debug, Clone)]
pub struct LeafKey {
    pub(crate) spki: SubjectPublicKeyInfo,
    hash: Sha256,
    wishes: &'static str,
}

impl LeafKey {
    /// Reads a PKCS #10 request, DER.
    ///
    /// # Errors
    /// [`CsrError`].
    pub fn from_csr(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > limits::CSR_BYTES {
            return Err(CsrError::Large(der.len()));
        }
        let Ok(([], csr)) = X509CertificationRequest::from_der(der) else {
            return Err(CsrError::Malformed);
        };
        let info = &csr.certification_request_info;
        let key = &info.subject_pki;
        let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let point = key.subject_public_key.data.as_ref();
        let p256 = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
            && curve.is_some_and(|curve| curve == OID_EC_P256)
            && csr.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256
            && point.len() == 65;
        if !p256 {
            return Err(CsrError::Algorithm);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(info.raw, csr.signature_value.data.as_ref())
            .map_err(|_| CsrError::Signature)?;
        let spki = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::Algorithm)?;
        let wishes = match (info.subject.iter().count(), info.attributes().len()) {
            (0, 0) => "",
            (_, 0) => "the request asked for a subject of its own; ignored",
            (0, _) => "the request asked for extensions; ignored",
            _ => "the request asked for a subject of its own and for extensions; ignored",
        };
        Ok(Self { hash: Sha256::of(&spki.subject_public_key_info()), spki, wishes })
    }

    /// The public half of a key made on this machine.
    ///
    /// # Errors
    /// [`CsrError::Algorithm`] when it is not P-256.
    pub fn of(key: &KeyPair) -> Result<Self, CsrError> {
        let der = key.subject_public_key_info();
        let spki = SubjectPublicKeyInfo::from_der(&der).map_err(|_| CsrError::Algorithm)?;
        if !key.is_compatible(&PKCS_ECDSA_P256_SHA256) {
            return Err(CsrError::Algorithm);
        }
        Ok(Self { spki, hash: Sha256::of(&der), wishes: "" })
    }

    /// A key that a CA certificate names: its holder proved it when that was made.
    pub(crate) fn of_spki(spki: &[u8]) -> Result<Self, CsrError> {
        let hash = Sha256::of(spki);
        let spki = SubjectPublicKeyInfo::from_der(spki).map_err(|_| CsrError::Algorithm)?;
        Ok(Self { spki, hash, wishes: "" })
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo: how the registry remembers it.
    #[must_use]
    pub const fn hash(&self) -> Sha256 {
        self.hash
    }

    /// What the request asked for beyond its key, in words for the audit log; empty when nothing.
    #[must_use]
    pub const fn wishes(&self) -> &'static str {
        self.wishes
    }
}

/// Makes the request a joining node sends: its key, self-signed, and no wishes.
pub(crate) fn request(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    #[track_caller]
    fn check(der: &[u8], expect: Result<(), CsrError>) {
        assert_eq!(LeafKey::from_csr(der).map(|_| ()), expect);
    }

    fn plain() -> Vec<u8> {
        request(&fixtures::key()).expect("request")
    }

    #[test]
    fn a_plain_request_gives_its_key() {
        let key = fixtures::key();
        let taken = LeafKey::from_csr(&request(&key).expect("request")).expect("accepted");
        assert_eq!(taken.wishes(), "");
        assert_eq!(taken.hash(), LeafKey::of(&key).expect("P-256").hash());
    }

    #[test]
    fn row_01_wishes_in_a_request_are_ignored() {
        let mut params =
            CertificateParams::new(vec!["central.tram.internal".to_owned(), "10.0.0.1".to_owned()]).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "central.tram.internal");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![1, 2, 3])];
        let csr = params.serialize_request(&fixtures::key()).expect("request");
        let key = LeafKey::from_csr(csr.der()).expect("accepted");
        assert!(key.wishes().contains("subject") && key.wishes().contains("extensions"), "{}", key.wishes());
        let overlay = fixtures::Overlay::new("tram.internal");
        let issued = overlay.issue(&key, "can-tho", fixtures::NOW_MS);
        let peer = overlay.trust().verify(&overlay.chain(&issued), fixtures::NOW_MS).expect("a plain node");
        assert_eq!(peer.name.as_str(), "can-tho");
    }

    #[test]
    fn row_02_bad_requests_are_refused_with_their_cause() {
        check(b"", Err(CsrError::Malformed));
        check(b"garbage", Err(CsrError::Malformed));
        check(&vec![0x30; limits::CSR_BYTES + 1], Err(CsrError::Large(limits::CSR_BYTES + 1)));
        let whole = plain();
        check(&whole[..whole.len() - 1], Err(CsrError::Malformed));
        check(&[whole.as_slice(), &[0]].concat(), Err(CsrError::Malformed));
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).expect("key");
            check(&request(&key).expect("request"), Err(CsrError::Algorithm));
        }
        for weak in [
            include_bytes!("../../tests/fuzz/corpus/csr/rsa-1024").as_slice(),
            include_bytes!("../../tests/fuzz/corpus/csr/p256-sha512"),
        ] {
            check(weak, Err(CsrError::Algorithm));
        }
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).expect("key");
        check(&request(&rsa).expect("request"), Err(CsrError::Algorithm));
    }

    #[test]
    fn row_02_a_request_signed_with_another_key_is_refused() {
        // The last byte lies in the signature's second integer, whatever its length.
        let mut broken = plain();
        *broken.last_mut().expect("not empty") ^= 1;
        check(&broken, Err(CsrError::Signature));
    }

    #[test]
    fn no_altered_byte_brings_another_key() {
        let good = plain();
        let key = LeafKey::from_csr(&good).expect("accepted").hash();
        let mut accepted = 0;
        for at in 0..good.len() {
            let mut altered = good.clone();
            altered[at] ^= 0x40;
            // The wrapping around what is signed may be written in more than one way.
            if let Ok(taken) = LeafKey::from_csr(&altered) {
                assert_eq!(taken.hash(), key, "byte {at}");
                accepted += 1;
            }
        }
        assert!(accepted < 8, "{accepted}");
    }
}
