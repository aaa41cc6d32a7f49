//! The one signature format, for envelopes, receipts and node records.
//!
//! A committer signs a batch at once: the signature covers `"tram/1/batch\0" ‖ count ‖ root`, where root is the
//! BLAKE3 Merkle root of the batch's 1..n statements. Each statement carries its own path to that root, so it stands
//! alone afterwards. The statement's kind is part of its leaf, so a receipt can never pass for an envelope. The bytes
//! are opaque and forwarded verbatim, never encoded again. DESIGN §3. Keys and chains are the PKI's affair: nothing here
//! signs or verifies a signature.

use bytes::Bytes;

use crate::error::WireError;
use crate::fields::Fields;
use crate::id::CertHash;
use crate::limits;
use crate::wire::statement as wire;

/// What a statement says; part of its leaf's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An envelope's body, signed by its origin.
    Envelope = 1,
    /// A receipt, signed by the node whose act it states.
    Receipt = 2,
    /// A node record, signed by its own node.
    Record = 3,
    /// The expansion of a set of recipients, signed by the node that owns the set.
    Expansion = 4,
    /// The recall of a message, signed by its origin.
    Tombstone = 5,
}

/// A signature over a batch and one statement's way to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// SHA-256 of the signer's certificate.
    pub signer: CertHash,
    /// How many statements the batch held, 1 to [`limits::BATCH_STATEMENTS`].
    pub count: u32,
    /// This statement's place in the batch, from 0.
    pub index: u32,
    /// Sibling hashes from the leaf up; empty when the statement was alone.
    pub path: Vec<[u8; 32]>,
    /// ECDSA P-256 with SHA-256, ASN.1 DER, over [`signed_bytes`].
    pub signature: Bytes,
}

/// A statement and the signature that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What it says; its meaning is fixed by the [`Kind`] the reader expects.
    pub statement: Bytes,
    /// Who says so.
    pub signature: Signature,
}

fn leaf(kind: Kind, statement: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tram/1/leaf\0").update(&[kind as u8]).update(statement);
    *hasher.finalize().as_bytes()
}

fn parent(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tram/1/node\0").update(left).update(right);
    *hasher.finalize().as_bytes()
}

/// The bytes a batch's signature is made over.
#[must_use]
pub fn signed_bytes(count: u32, root: &[u8; 32]) -> Vec<u8> {
    let mut out = b"tram/1/batch\0".to_vec();
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(root);
    out
}

/// The Merkle tree of one batch, before it is signed.
#[derive(Debug)]
pub struct Batch {
    levels: Vec<Vec<[u8; 32]>>,
}

impl Batch {
    /// Hashes the statements of one batch; `None` unless there are 1 to [`limits::BATCH_STATEMENTS`] of them.
    pub fn new<'a>(statements: impl IntoIterator<Item = (Kind, &'a [u8])>) -> Option<Self> {
        let leaves: Vec<_> = statements.into_iter().map(|(kind, bytes)| leaf(kind, bytes)).collect();
        if leaves.is_empty() || leaves.len() > limits::BATCH_STATEMENTS {
            return None;
        }
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            // An odd one out rises as it is.
            let above = level
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => parent(left, right),
                    [one, ..] => *one,
                    [] => [0; 32],
                })
                .collect();
            levels.push(above);
        }
        Some(Self { levels })
    }

    /// How many statements the batch holds.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.levels.first().map_or(0, |leaves| u32::try_from(leaves.len()).unwrap_or(u32::MAX))
    }

    /// What has to be signed.
    #[must_use]
    pub fn to_sign(&self) -> Vec<u8> {
        let root = self.levels.last().and_then(|top| top.first()).copied().unwrap_or_default();
        signed_bytes(self.count(), &root)
    }

    /// The signature for the statement at `index`, given the batch's signature bytes.
    #[must_use]
    pub fn signature(&self, index: u32, signer: CertHash, signature: Bytes) -> Signature {
        let mut at = index as usize;
        let mut path = Vec::new();
        for level in &self.levels {
            if let Some(sibling) = level.get(at ^ 1) {
                path.push(*sibling);
            }
            at /= 2;
        }
        Signature { signer, count: self.count(), index, path, signature }
    }
}

impl Signature {
    /// The bytes this signature must be valid over, if it is to vouch for `statement`; `None` when the path does not
    /// fit the batch it claims.
    #[must_use]
    pub fn to_verify(&self, kind: Kind, statement: &[u8]) -> Option<Vec<u8>> {
        if self.index >= self.count || self.count as usize > limits::BATCH_STATEMENTS {
            return None;
        }
        let mut hash = leaf(kind, statement);
        let (mut at, mut width) = (self.index, self.count);
        let mut path = self.path.iter();
        while width > 1 {
            if at ^ 1 < width {
                let sibling = path.next()?;
                hash = if at % 2 == 0 { parent(&hash, sibling) } else { parent(sibling, &hash) };
            }
            at /= 2;
            width = width.div_ceil(2);
        }
        path.next().is_none().then(|| signed_bytes(self.count, &hash))
    }
}

impl Signed {
    /// The wire form, also the form at rest and inside an exported receipt.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&self.to_wire())
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        Self::from_wire(crate::wire::decode("signed statement", bytes)?)
    }

    /// The statement alone, from bytes that were checked when they came.
    ///
    /// # Errors
    /// [`WireError`] when they are malformed.
    pub fn statement_in(bytes: &[u8]) -> Result<&[u8], WireError> {
        let mut statement = &[][..];
        for field in Fields::of("signed statement", bytes) {
            if let (1, value) = field? {
                statement = value.bytes()?;
            }
        }
        Ok(statement)
    }

    pub(crate) fn to_wire(&self) -> wire::Signed {
        let s = &self.signature;
        wire::Signed {
            statement: self.statement.clone(),
            signer: Bytes::copy_from_slice(&s.signer.0),
            count: s.count,
            index: s.index,
            path: s.path.concat().into(),
            signature: s.signature.clone(),
        }
    }

    pub(crate) fn from_wire(w: wire::Signed) -> Result<Self, WireError> {
        WireError::limit("statement", w.statement.len(), limits::STATEMENT_BYTES)?;
        WireError::limit("signature", w.signature.len(), limits::SIGNATURE_BYTES)?;
        WireError::limit("signature path", w.path.len(), 32 * limits::SIGNATURE_PATH)?;
        let (path, rest) = w.path.as_chunks::<32>();
        if !rest.is_empty() || w.count == 0 || w.index >= w.count {
            return Err(WireError::Malformed { what: "signature", why: "its place in the batch is impossible" });
        }
        let signature = Signature {
            signer: CertHash::from_slice(&w.signer)?,
            count: w.count,
            index: w.index,
            path: path.to_vec(),
            signature: w.signature,
        };
        Ok(Self { statement: w.statement, signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_statement_of_a_batch_leads_to_the_signed_root(
            statements in proptest::collection::vec(any::<Vec<u8>>(), 1..40),
            other in any::<Vec<u8>>(),
        ) {
            let batch = Batch::new(statements.iter().map(|s| (Kind::Receipt, s.as_slice()))).expect("not empty");
            for (i, statement) in statements.iter().enumerate() {
                let signature = batch.signature(i as u32, CertHash([7; 32]), Bytes::from_static(b"sig"));
                let signed = Signed { statement: statement.clone().into(), signature };
                let back = Signed::decode(signed.encode()).expect("decodes");
                prop_assert_eq!(&back, &signed);
                prop_assert_eq!(back.signature.to_verify(Kind::Receipt, statement), Some(batch.to_sign()));
                prop_assert_ne!(back.signature.to_verify(Kind::Envelope, statement), Some(batch.to_sign()));
                if other != *statement {
                    prop_assert_ne!(back.signature.to_verify(Kind::Receipt, &other), Some(batch.to_sign()));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(crate::strategies::config())]

        #[test]
        fn a_signed_statement_reads_back_what_it_writes(
            signed in crate::strategies::signed(),
            wound in crate::strategies::wound(),
            bytes in any::<Vec<u8>>(),
        ) {
            let written = signed.encode();
            prop_assert_eq!(Signed::statement_in(&written), Ok(signed.statement.as_ref()));
            prop_assert_eq!(Signed::decode(written.clone()), Ok(signed));
            for bytes in [wound.inflict(&written), bytes.into()] {
                if let Ok(read) = Signed::decode(bytes) {
                    let _ = read.signature.to_verify(Kind::Envelope, &read.statement);
                    prop_assert_eq!(Signed::decode(read.encode()), Ok(read));
                }
            }
        }
    }

    #[test]
    fn a_path_of_the_wrong_length_vouches_for_nothing() {
        let batch = Batch::new([(Kind::Record, &b"a"[..]), (Kind::Record, &b"b"[..])]).expect("two");
        let mut signature = batch.signature(0, CertHash([7; 32]), Bytes::new());
        signature.path.push([0; 32]);
        assert_eq!(signature.to_verify(Kind::Record, b"a"), None);
        signature.path.clear();
        assert_eq!(signature.to_verify(Kind::Record, b"a"), None);
        assert!(Batch::new([]).is_none());
    }
}
