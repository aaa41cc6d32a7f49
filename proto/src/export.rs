//! The file of `tram receipt export`: a message's envelope and receipts with the chains of their signers.
//!
//! Whoever has the file and the overlay's root certificate can check it without a node or a network, years later. It is
//! `tram-receipts/1`, a newline, sections, and the BLAKE3-256 of all that stands before it, so that no byte can change
//! unnoticed, not even one that no signature covers. A section is one tag byte, its length as four bytes (big endian)
//! and its content: `E` the signed envelope, exactly once and first; `R` a signed receipt; `C` a chain, leaf first, each
//! certificate with four bytes of length before it. Guarantees only the shape and the digest: signatures are the PKI's
//! affair. A section with another tag is refused, for what is not understood cannot be vouched for.

use bytes::{BufMut as _, Bytes};

use crate::error::WireError;
use crate::limits;
use crate::statement::Signed;

/// How the file begins.
pub const MAGIC: &[u8; 16] = b"tram-receipts/1\n";
/// The largest file, in bytes: a message to 1,024 recipients with four receipts each stays below it.
pub const EXPORT_BYTES: usize = 64 * 1024 * 1024;
/// Receipts in one file: every recipient's `relayed`-to-`status` line.
pub const EXPORT_RECEIPTS: usize = limits::RECIPIENTS * 8;
/// Chains in one file: one for each receipt's signer and the envelope's.
pub const EXPORT_CHAINS: usize = EXPORT_RECEIPTS + 1;

const DIGEST: usize = 32;
const ENVELOPE: u8 = b'E';
const RECEIPT: u8 = b'R';
const CHAIN: u8 = b'C';

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The message's envelope as its origin signed it.
    pub envelope: Signed,
    /// What nodes said became of it.
    pub receipts: Vec<Signed>,
    /// The signers' certificates, DER, leaf first.
    pub chains: Vec<Vec<Bytes>>,
}

impl Export {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        section(&mut out, ENVELOPE, &self.envelope.encode());
        self.receipts.iter().for_each(|receipt| section(&mut out, RECEIPT, &receipt.encode()));
        for chain in &self.chains {
            let mut content = Vec::new();
            chain.iter().for_each(|certificate| prefixed(&mut content, certificate));
            section(&mut out, CHAIN, &content);
        }
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`WireError`] when it is not such a file, was changed or cut, or is over a limit.
    pub fn decode(file: &[u8]) -> Result<Self, WireError> {
        WireError::limit("receipt file", file.len(), EXPORT_BYTES)?;
        if !file.starts_with(MAGIC) {
            return Err(malformed("it does not begin with tram-receipts/1"));
        }
        let Some((content, digest)) = file.split_last_chunk::<DIGEST>().filter(|(c, _)| c.len() >= MAGIC.len()) else {
            return Err(malformed("it is cut off"));
        };
        if blake3::hash(content).as_bytes() != digest {
            return Err(malformed("its digest does not match: it was changed or cut off"));
        }
        let mut rest = Bytes::copy_from_slice(content.get(MAGIC.len()..).unwrap_or_default());
        let (mut envelope, mut receipts, mut chains) = (None, Vec::new(), Vec::new());
        while !rest.is_empty() {
            let tag = rest.split_to(1);
            let content = take(&mut rest)?;
            match (tag[0], &envelope) {
                (ENVELOPE, None) => envelope = Some(Signed::decode(content)?),
                (RECEIPT, Some(_)) => receipts.push(Signed::decode(content)?),
                (CHAIN, Some(_)) => chains.push(read_chain(content)?),
                _ => return Err(malformed("a section is unknown or out of place")),
            }
            WireError::limit("list of receipts", receipts.len(), EXPORT_RECEIPTS)?;
            WireError::limit("list of chains", chains.len(), EXPORT_CHAINS)?;
        }
        let envelope = envelope.ok_or(malformed("it holds no envelope"))?;
        Ok(Self { envelope, receipts, chains })
    }
}

const fn malformed(why: &'static str) -> WireError {
    WireError::Malformed { what: "receipt file", why }
}

fn prefixed(out: &mut Vec<u8>, content: &[u8]) {
    out.put_u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(content);
}

fn section(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    prefixed(out, content);
}

fn take(rest: &mut Bytes) -> Result<Bytes, WireError> {
    let length = rest.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize);
    match length {
        Some(length) if length <= rest.len() - 4 => {
            drop(rest.split_to(4));
            Ok(rest.split_to(length))
        }
        _ => Err(malformed("a section is longer than the file")),
    }
}

fn read_chain(mut content: Bytes) -> Result<Vec<Bytes>, WireError> {
    let mut chain = Vec::new();
    while !content.is_empty() {
        let certificate = take(&mut content)?;
        WireError::limit("certificate", certificate.len(), limits::CERTIFICATE_BYTES)?;
        chain.push(certificate);
        WireError::limit("certificate chain", chain.len(), limits::CHAIN_CERTIFICATES)?;
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::CertHash;
    use crate::statement::Signature;
    use proptest::prelude::*;

    fn signed(statement: &'static [u8]) -> Signed {
        let signature = Signature {
            signer: CertHash([7; 32]),
            count: 2,
            index: 1,
            path: vec![[3; 32]],
            signature: Bytes::from_static(b"signature"),
        };
        Signed { statement: Bytes::from_static(statement), signature }
    }

    fn export() -> Export {
        Export {
            envelope: signed(b"envelope"),
            receipts: vec![signed(b"arrived"), signed(b"delivered")],
            chains: vec![vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"issuer")], vec![]],
        }
    }

    #[test]
    fn a_file_reads_back_what_was_written() {
        assert_eq!(Export::decode(&export().encode()), Ok(export()));
    }

    #[test]
    fn no_flipped_byte_and_no_cut_is_accepted() {
        let good = export().encode();
        for at in 0..good.len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut file = good.clone();
                file[at] ^= bit;
                assert!(Export::decode(&file).is_err(), "byte {at}");
            }
            assert!(Export::decode(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(Export::decode(&[good.as_slice(), b"x"].concat()).is_err());
    }

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut file = [MAGIC.as_slice(), content].concat();
        let digest = blake3::hash(&file);
        file.extend_from_slice(digest.as_bytes());
        file
    }

    proptest! {
        #[test]
        fn a_well_sealed_file_of_nonsense_is_refused_without_a_panic(content in any::<Vec<u8>>()) {
            let _ = Export::decode(&content);
            prop_assert!(Export::decode(&sealed(&content)).is_err());
        }
    }

    #[test]
    fn sections_out_of_place_are_refused() {
        let envelope = |out: &mut Vec<u8>| section(out, ENVELOPE, &signed(b"e").encode());
        let (mut twice, mut unknown, mut late) = (Vec::new(), Vec::new(), Vec::new());
        envelope(&mut twice);
        envelope(&mut twice);
        envelope(&mut unknown);
        section(&mut unknown, b'X', b"");
        section(&mut late, RECEIPT, &signed(b"r").encode());
        envelope(&mut late);
        for content in [twice, unknown, late, Vec::new()] {
            assert!(Export::decode(&sealed(&content)).is_err());
        }
    }
}
