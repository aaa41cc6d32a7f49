//! Revocation lists: made by a CA, read by everyone.
//!
//! A list replaces the one before it when its number is higher, in whatever order they come. Guarantees that a [`Crl`]
//! was signed by the key it is kept under and can be searched. Whether it is taken is [`crate::bundle`]'s to decide.
//! `research/pki.md` §3b, §4 "CRL and bundle".

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, UnparsedPublicKey, VerificationAlgorithm};
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
    SigningKey, date_time_ymd,
};
use serde::{Deserialize, Serialize};
use tram_proto::limits;
use webpki::{BorrowedCertRevocationList, CertRevocationList};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock::BACKDATE_MS;
use crate::hash::Sha256;
use crate::keystore;
use crate::policy::ms;

/// How far ahead of this clock a list may be, in milliseconds.
const AHEAD_MS: u64 = BACKDATE_MS;

/// Why a certificate was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody else may have the key: what it signed is in doubt.
    KeyCompromise,
    /// The node is gone.
    Retired,
    /// Another certificate has taken its place.
    Superseded,
    /// It may not be a node any more.
    Withdrawn,
    /// No reason was given.
    Unspecified,
}

impl Reason {
    /// All words, for the command line.
    pub const ALL: [Self; 5] =
        [Self::KeyCompromise, Self::Retired, Self::Superseded, Self::Withdrawn, Self::Unspecified];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyCompromise => "key-compromise",
            Self::Retired => "retired",
            Self::Superseded => "superseded",
            Self::Withdrawn => "withdrawn",
            Self::Unspecified => "unspecified",
        }
    }

    /// From the number in a list.
    pub(crate) const fn from_code(code: u8) -> Self {
        match code {
            1 | 2 => Self::KeyCompromise,
            4 => Self::Superseded,
            5 => Self::Retired,
            9 => Self::Withdrawn,
            _ => Self::Unspecified,
        }
    }

    const fn code(self) -> RevocationReason {
        match self {
            Self::KeyCompromise => RevocationReason::KeyCompromise,
            Self::Retired => RevocationReason::CessationOfOperation,
            Self::Superseded => RevocationReason::Superseded,
            Self::Withdrawn => RevocationReason::PrivilegeWithdrawn,
            Self::Unspecified => RevocationReason::Unspecified,
        }
    }
}

/// A certificate that is not to be believed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number.
    pub serial: Vec<u8>,
    /// Since when, Unix milliseconds.
    pub at_ms: u64,
    /// Why.
    pub reason: Reason,
}

pub(crate) fn make(
    issuer: &Issuer<'_, impl SigningKey>,
    revoked: &[Revoked],
    number: u64,
    now_ms: u64,
    fresh_ms: u64,
) -> Result<Vec<u8>, rcgen::Error> {
    let at = |ms: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(ms / 1000);
    let entry = |one: &Revoked| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&one.serial),
        revocation_time: at(one.at_ms),
        reason_code: Some(one.reason.code()),
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: at(now_ms.saturating_sub(BACKDATE_MS)),
        next_update: at(now_ms + fresh_ms),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.der().to_vec())
}

/// Why a list was not taken. The sender's fault, or its issuer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// Over [`limits::OBJECT_BYTES`].
    #[error("the revocation list has {0} bytes; at most {max} are allowed", max = limits::OBJECT_BYTES)]
    Large(usize),
    /// It cannot be read, or something follows it.
    #[error("it is not a revocation list of Tram")]
    Malformed,
    /// Another key signed it, or it was altered.
    #[error("the revocation list is not signed by the CA it is of")]
    Signature,
    /// It is of a time to come.
    #[error("the revocation list is dated ahead of this node's clock by more than an hour")]
    Ahead,
}

/// A revocation list whose signature holds.
#[derive(Debug, Clone)]
pub struct Crl {
    /// As it came, DER.
    pub der: Vec<u8>,
    /// SHA-256 of its CA's public key.
    pub issuer: Sha256,
    /// Higher replaces lower.
    pub number: u64,
    /// When it was made, Unix milliseconds.
    pub this_update_ms: u64,
    /// Until when it is fresh, Unix milliseconds.
    pub next_update_ms: u64,
    /// How many certificates it names.
    pub entries: usize,
}

impl Crl {
    /// Reads a list and checks that the CA with this SubjectPublicKeyInfo (DER) signed it.
    ///
    /// # Errors
    /// [`CrlError`].
    pub fn read(der: &[u8], issuer_spki: &[u8], now_ms: u64) -> Result<Self, CrlError> {
        let holds = |signed: &[u8], signature: &[u8]| signed_by(issuer_spki, signed, signature);
        Self::read_if(der, Sha256::of(issuer_spki), now_ms, holds)
    }

    fn read_if(
        der: &[u8],
        issuer: Sha256,
        now_ms: u64,
        holds: impl FnOnce(&[u8], &[u8]) -> bool,
    ) -> Result<Self, CrlError> {
        if der.len() > limits::OBJECT_BYTES {
            return Err(CrlError::Large(der.len()));
        }
        let Ok(([], list)) = CertificateRevocationList::from_der(der) else {
            return Err(CrlError::Malformed);
        };
        let signed = list.tbs_cert_list.as_ref();
        if !holds(signed, list.signature_value.data.as_ref()) {
            return Err(CrlError::Signature);
        }
        let number = list.crl_number().and_then(|number| u64::try_from(number).ok()).ok_or(CrlError::Malformed)?;
        let next = list.next_update().ok_or(CrlError::Malformed)?;
        let (this_update_ms, next_update_ms) = (ms(list.last_update().timestamp()), ms(next.timestamp()));
        if this_update_ms > now_ms.saturating_add(AHEAD_MS) {
            return Err(CrlError::Ahead);
        }
        // What the checks of chains cannot read would leave everyone without any check.
        BorrowedCertRevocationList::from_der(der).and_then(|list| list.to_owned()).map_err(|_| CrlError::Malformed)?;
        let entries = list.iter_revoked_certificates().count();
        Ok(Self { der: der.to_vec(), issuer, number, this_update_ms, next_update_ms, entries })
    }

    /// In PEM, for other programs.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut text = String::new();
        keystore::push_pem("X509 CRL", &self.der, &mut text);
        text
    }

    /// What it names.
    #[must_use]
    pub fn revoked(&self) -> Vec<Revoked> {
        let Ok((_, list)) = CertificateRevocationList::from_der(&self.der) else { return Vec::new() };
        let one = |one: &x509_parser::revocation_list::RevokedCertificate<'_>| Revoked {
            serial: one.raw_serial().to_vec(),
            at_ms: ms(one.revocation_date.timestamp()),
            reason: one.reason_code().map_or(Reason::Unspecified, |(_, code)| Reason::from_code(code.0)),
        };
        list.iter_revoked_certificates().map(one).collect()
    }

    /// For checks of chains.
    pub(crate) fn to_check(&self) -> Option<CertRevocationList<'static>> {
        let list = BorrowedCertRevocationList::from_der(&self.der).ok()?.to_owned().ok()?;
        Some(CertRevocationList::from(list))
    }
}

/// For the fuzzer: reads any bytes as a list that its CA has signed.
///
/// # Panics
/// When something that must hold of every input does not.
pub fn fuzz(bytes: &[u8]) {
    let Ok(list) = Crl::read_if(bytes, Sha256([0; 32]), u64::MAX, |_, _| true) else { return };
    let revoked = list.revoked();
    assert!(bytes.len() <= limits::OBJECT_BYTES && revoked.len() == list.entries);
    // Two parsers read it: what one shows to people the other must find on a chain.
    let check = list.to_check().expect("it was read before");
    for one in revoked.iter().take(100) {
        assert!(matches!(check.find_serial(&one.serial), Ok(Some(_))), "{:02x?} is listed but not found", one.serial);
    }
}

/// Whether the holder of this key, P-256 or P-384, signed the message.
pub(crate) fn signed_by(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(([], key)) = SubjectPublicKeyInfo::from_der(spki) else { return false };
    let point = key.subject_public_key.data.as_ref();
    let algorithm: &dyn VerificationAlgorithm = match point.len() {
        65 => &ECDSA_P256_SHA256_ASN1,
        97 => &ECDSA_P384_SHA384_ASN1,
        _ => return false,
    };
    UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
}
