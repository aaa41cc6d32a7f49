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

/// A digest as two people read it to each other over the telephone: six groups of five decimal digits, 99 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub Sha256);

impl Fingerprint {
    /// Whether `text` is what this prints, or all 64 hexadecimal digits as `openssl x509 -fingerprint` prints them;
    /// blanks, colons and hyphens do not matter.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        let bare = |text: &str| -> String {
            text.chars().filter(|c| !c.is_whitespace() && !matches!(c, ':' | '-')).collect::<String>().to_lowercase()
        };
        let said = bare(text);
        said == bare(&self.to_string()) || said == self.0.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, group) in self.0.0.chunks_exact(5).enumerate() {
            let number = group.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)) % 100_000;
            write!(f, "{}{number:05}", if n == 0 { "" } else { " " })?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_known_again_however_it_is_typed() {
        let one = Fingerprint(Sha256::of(b"one"));
        let text = one.to_string();
        assert_eq!((text.len(), text.split(' ').count()), (35, 6), "{text}");
        assert!(text.bytes().all(|b| b.is_ascii_digit() || b == b' '));
        let hex = one.0.to_string();
        let colons: Vec<String> =
            hex.to_uppercase().as_bytes().chunks(2).map(|b| String::from_utf8_lossy(b).into()).collect();
        for said in
            [text.clone(), text.replace(' ', ""), format!(" {} ", text.replace(' ', "-")), hex, colons.join(":")]
        {
            assert!(one.is(&said), "{said}");
        }
        let other = Fingerprint(Sha256::of(b"other"));
        for said in [String::new(), text[..29].to_owned(), other.to_string()] {
            assert!(!one.is(&said), "{said}");
        }
    }
}
