//! Joining: both ends of the one exchange by which a new node gets its certificate. Without I/O of its own.
//!
//! The proof is HMAC-SHA256 over the TLS channel's exporter and the request's hash, keyed with the hash of the token's
//! secret: the secret never crosses, and a proof is worth nothing on another channel or for another key. Name and role
//! come from the token's record. A token serves the first key that proves it; that key may ask again until the token
//! expires and gets the same certificate (a lost answer); another key freezes it. DESIGN §3, `research/pki.md` §4 "Join".

mod client;
pub mod offline;
mod server;

use aws_lc_rs::hmac;
use bytes::Bytes;
use tram_proto::join::TokenId;
use tram_proto::limits;

use crate::authority::Authority;
use crate::hash::Sha256;

pub use client::{Clocks, JoinError, Joined, Joining};
pub use server::{Cause, answer};

/// Key material exported from the join channel under [`tram_proto::join::EXPORTER`], without context.
pub type Exporter = [u8; 32];

fn key(secret_hash: Sha256) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &secret_hash.0)
}

fn message(exporter: &Exporter, csr: &[u8]) -> [u8; 64] {
    let mut message = [0; 64];
    message[..32].copy_from_slice(exporter);
    message[32..].copy_from_slice(&Sha256::of(csr).0);
    message
}

fn prove(secret_hash: Sha256, exporter: &Exporter, csr: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&key(secret_hash), &message(exporter, csr));
    let mut mac = [0; 32];
    mac.copy_from_slice(tag.as_ref());
    mac
}

fn proves(secret_hash: Sha256, exporter: &Exporter, csr: &[u8], mac: &[u8; 32]) -> bool {
    hmac::verify(&key(secret_hash), &message(exporter, csr), mac).is_ok()
}

/// A leaf and the certificates of its CA, under every root.
fn chain(authority: &Authority, leaf: &[u8]) -> Vec<Bytes> {
    let issuers = authority.certificates().iter().map(AsRef::as_ref);
    std::iter::once(leaf).chain(issuers).take(limits::CHAIN_CERTIFICATES).map(Bytes::copy_from_slice).collect()
}

fn short(id: TokenId) -> String {
    id.to_string().chars().take(8).collect()
}

#[cfg(test)]
mod tests;
