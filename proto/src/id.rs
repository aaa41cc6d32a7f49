//! Identifiers: fixed-size, opaque, compared and ordered as bytes.
//!
//! Owns no randomness: whoever makes an id brings the bytes. Never parses names ([`crate::name`]).

use std::fmt;

/// Why a text or byte string is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}, got {got} bytes or characters")]
pub struct IdError {
    /// Which identifier was read.
    pub what: &'static str,
    /// The form it should have.
    pub expected: &'static str,
    /// The length that was met.
    pub got: usize,
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut out = [0; N];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(out)
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The bytes, as they stand on the wire.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Reads the wire form.
            ///
            /// # Errors
            /// [`IdError`] when the length is wrong.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
                match bytes.try_into() {
                    Ok(array) => Ok(Self(array)),
                    Err(_) => Err(IdError { what: $what, expected: $expected, got: bytes.len() }),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

identifier!(
    /// A node's UUID; it never changes, whatever the node is called and wherever it hangs.
    NodeId, 16, "node id", "a UUID of 16 bytes"
);
identifier!(
    /// BLAKE3-256 of an envelope's body.
    MessageId, 32, "message id", "32 bytes, written as 64 hexadecimal digits"
);
identifier!(
    /// The random id of one life of a spool: a lost, restored or cloned disk begins another.
    Incarnation, 16, "incarnation", "16 bytes"
);
identifier!(
    /// A BLAKE3-256 digest of content: a chunk, a manifest page, a manifest.
    Digest, 32, "digest", "32 bytes, written as 64 hexadecimal digits"
);
identifier!(
    /// SHA-256 of a certificate's DER form: how a statement names its signer.
    CertHash, 32, "certificate hash", "32 bytes, written as 64 hexadecimal digits"
);

macro_rules! hex_text {
    ($($name:ident, $what:literal, $expected:literal);*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                unhex(text).map(Self).ok_or(IdError {
                    what: $what, expected: $expected, got: text.len(),
                })
            }
        }
    )*};
}

hex_text!(
    MessageId, "message id", "64 hexadecimal digits";
    Incarnation, "incarnation", "32 hexadecimal digits";
    Digest, "digest", "64 hexadecimal digits";
    CertHash, "certificate hash", "64 hexadecimal digits"
);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in [0..4, 4..6, 6..8, 8..10, 10..16].into_iter().enumerate() {
            if i > 0 {
                f.write_str("-")?;
            }
            hex(&self.0[part], f)?;
        }
        Ok(())
    }
}

impl std::str::FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let dashes: Vec<usize> = text.char_indices().filter_map(|(i, c)| (c == '-').then_some(i)).collect();
        let plain: String = text.chars().filter(|c| *c != '-').collect();
        match (dashes.as_slice(), unhex(&plain)) {
            ([8, 13, 18, 23], Some(id)) => Ok(Self(id)),
            _ => Err(IdError { what: "node id", expected: "a UUID", got: text.len() }),
        }
    }
}

impl MessageId {
    /// The id of an envelope body.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self(*blake3::hash(body).as_bytes())
    }
}

impl Digest {
    /// The digest of one chunk or manifest page.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_reads_back_what_it_prints() {
        let id = NodeId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("30313233-3435".parse::<NodeId>().is_err());
        assert!("3031323334353637-3839-6162-6364-6566".parse::<NodeId>().is_err());
    }

    #[test]
    fn a_message_id_reads_back_what_it_prints() {
        let id = MessageId::of(b"body");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("zz".repeat(32).parse::<MessageId>().is_err());
        assert!("é".repeat(32).parse::<MessageId>().is_err());
    }
}
