//! A check at the end of message rows and envelopes, so that a flipped bit in them is noticed even where it decodes.
//!
//! It stands as one more protobuf field, number 2047: releases that do not know it pass over it, and rows of releases that
//! did not write it have none.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Field 2047, eight bytes.
const TAG: [u8; 2] = [0xf9, 0x7f];
const CHECK_BYTES: usize = 8;

/// Against flipped bits and bytes of another row, not against people, so a quick hash: BLAKE3 took a quarter of a start.
fn check(what: &str, row: u64, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let kind = xxh3_64(what.as_bytes());
    xxh3_64_with_seed(bytes, kind ^ row).to_be_bytes()
}

/// The bytes with their check.
pub(super) fn seal(what: &str, row: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + TAG.len() + CHECK_BYTES);
    out.extend_from_slice(bytes);
    out.extend_from_slice(&TAG);
    out.extend_from_slice(&check(what, row, bytes));
    out
}

/// Whether the bytes end in a check.
pub(super) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.split_last_chunk::<CHECK_BYTES>().is_some_and(|(rest, _)| rest.ends_with(&TAG))
}

/// Whether the bytes are what was written, as far as they say.
pub(super) fn is_whole(what: &str, row: u64, bytes: &[u8]) -> bool {
    let Some((rest, said)) = bytes.split_last_chunk::<CHECK_BYTES>() else { return true };
    rest.strip_suffix(&TAG).is_none_or(|content| check(what, row, content) == *said)
}
