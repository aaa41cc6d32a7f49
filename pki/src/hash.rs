//! SHA-256 digests: of keys, of secrets, of root certificates. Certificates as signers have their own type,
//! [`CertHash`].

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use tram_proto::id::CertHash;

/// A SHA-256 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(out)
    }
}

/// How statements name a certificate: SHA-256 of its DER form.
#[must_use]
pub fn cert_hash(certificate_der: &[u8]) -> CertHash {
    CertHash(Sha256::of(certificate_der).0)
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&CertHash(self.0), f)
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<CertHash>().map(|hash| Self(hash.0)).map_err(|_| "expected 64 hexadecimal digits".to_owned())
    }
}
