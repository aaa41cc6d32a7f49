//! Certificate chains, by the hash of their leaf. Never looks into a certificate: that is the PKI's.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::{Buf, BufMut, Bytes};
use tram_proto::id::CertHash;

use super::SpoolError;
use super::disk::Inner;
use super::packs::lock;
use super::tables::CHAINS;

/// Hashes remembered as known; beyond that they are learnt again.
const KNOWN: usize = 8192;

/// How a statement names the signer of this chain; `None` when the chain is empty.
pub(super) fn leaf_hash(chain: &[Bytes]) -> Option<CertHash> {
    let hash = digest(&SHA256, chain.first()?);
    CertHash::from_slice(hash.as_ref()).ok()
}

pub(super) fn read(inner: &Inner, leaf: &CertHash) -> Result<Option<Vec<Bytes>>, SpoolError> {
    inner.read("read a certificate chain", |txn| {
        let Some(found) = txn.open_table(CHAINS)?.get(&leaf.0)? else { return Ok(None) };
        let mut rest = Bytes::copy_from_slice(found.value());
        let mut out = Vec::new();
        while rest.has_remaining() {
            let length = rest.try_get_u32().map_or(usize::MAX, |n| n as usize);
            if length > rest.len() {
                return Err(inner.unreadable("certificate chain", leaf, "it is cut short").into());
            }
            out.push(rest.split_to(length));
        }
        Ok(Some(out))
    })
}

pub(super) fn put(inner: &Inner, chain: &[Bytes]) -> Result<(), SpoolError> {
    let Some(leaf) = leaf_hash(chain) else {
        return Err(SpoolError::Misuse { path: inner.path.clone(), why: "a certificate chain is empty" });
    };
    if lock(&inner.known_chains).contains(&leaf) {
        return Ok(());
    }
    let there =
        inner.read("look for a certificate chain", |txn| Ok(txn.open_table(CHAINS)?.get(&leaf.0)?.is_some()))?;
    if !there {
        let mut bytes = Vec::new();
        for certificate in chain {
            bytes.put_u32(u32::try_from(certificate.len()).unwrap_or(u32::MAX));
            bytes.put_slice(certificate);
        }
        inner.write("keep a certificate chain", |t| {
            t.chains.insert(&leaf.0, bytes.as_slice())?;
            Ok(())
        })?;
    }
    let mut known = lock(&inner.known_chains);
    if known.len() >= KNOWN {
        known.clear();
    }
    known.insert(leaf);
    Ok(())
}
