//! References: which payloads messages refer to, which chunks their pages name, and which packs are alive.
//!
//! A page takes a reference to each chunk it names when it is stored, also to chunks that are not here yet, and gives it
//! back when it is deleted. So a chunk that is here for one payload stays for all that name it.

use bytes::Bytes;
use tram_proto::id::Digest;

use super::packs::Location;
use super::tables::{Fault, Tables, get};

/// Units of one payload that came in; the chunks' bytes are durable in packs.
pub(super) struct Arrival {
    pub(super) root: Digest,
    /// The payload's length.
    pub(super) bytes: u64,
    /// Head and pages, by unit number.
    pub(super) manifest: Vec<(u64, Bytes)>,
    pub(super) chunks: Vec<(Digest, Location)>,
}

/// The hashes in a page's bytes.
pub(super) fn hashes(page: &[u8]) -> impl Iterator<Item = Digest> {
    page.as_chunks::<32>().0.iter().map(|hash| Digest(*hash))
}

/// A message refers to a payload now.
pub(super) fn refer(t: &mut Tables<'_>, root: Digest, bytes: u64) -> Result<(), Fault> {
    let (bytes, refs) = get(&t.objects, &root.0)?.unwrap_or((bytes, 0));
    t.objects.insert(&root.0, (bytes, refs + 1))?;
    if refs == 0 {
        t.loose.remove(&root.0)?;
    }
    Ok(())
}

/// A message no longer refers to a payload.
pub(super) fn release(t: &mut Tables<'_>, root: Digest) -> Result<(), Fault> {
    let Some((bytes, refs)) = get(&t.objects, &root.0)? else { return Ok(()) };
    t.objects.insert(&root.0, (bytes, refs.saturating_sub(1)))?;
    if refs <= 1 {
        t.loose.insert(&root.0, 0)?;
    }
    Ok(())
}

/// Notes what came in. Chunks that were here already go to `dead`: nothing will ever point to where they lie now.
pub(super) fn arrive(t: &mut Tables<'_>, arrival: &Arrival, dead: &mut Vec<Location>) -> Result<(), Fault> {
    let root = &arrival.root.0;
    if get(&t.objects, root)?.is_none() {
        t.objects.insert(root, (arrival.bytes, 0))?;
        t.loose.insert(root, 0)?;
    }
    for (unit, bytes) in &arrival.manifest {
        let new = t.units.insert((root, *unit), bytes.as_ref())?.is_none();
        if new && *unit > 0 {
            for hash in hashes(bytes) {
                let (pack, offset, length, refs) = get(&t.chunks, &hash.0)?.unwrap_or_default();
                t.chunks.insert(&hash.0, (pack, offset, length, refs + 1))?;
            }
        }
    }
    arrival.chunks.iter().try_for_each(|(hash, at)| place(t, hash, *at, dead))
}

fn place(t: &mut Tables<'_>, hash: &Digest, at: Location, dead: &mut Vec<Location>) -> Result<(), Fault> {
    let (pack, _, _, refs) = get(&t.chunks, &hash.0)?.unwrap_or_default();
    let (end, live) = get(&t.packs, at.pack)?.unwrap_or_default();
    if pack == 0 {
        t.chunks.insert(&hash.0, (at.pack, at.offset, at.bytes, refs))?;
    } else {
        dead.push(at);
    }
    t.packs.insert(at.pack, (end.max(at.end()), live + u64::from(pack == 0)))?;
    Ok(())
}

/// Forgets where a chunk lies, if it still lies there; answers whether it did.
pub(super) fn displace(t: &mut Tables<'_>, hash: &Digest, at: Location) -> Result<bool, Fault> {
    match get(&t.chunks, &hash.0)? {
        Some((pack, offset, _, refs)) if (pack, offset) == (at.pack, at.offset) => {
            t.chunks.insert(&hash.0, (0, 0, 0, refs))?;
            bury(t, pack)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Gives back one page's reference to a chunk; after the last, where it lies goes to `dead`.
pub(super) fn drop_reference(t: &mut Tables<'_>, hash: &Digest, dead: &mut Vec<Location>) -> Result<(), Fault> {
    let Some((pack, offset, bytes, refs)) = get(&t.chunks, &hash.0)? else { return Ok(()) };
    if refs > 1 {
        t.chunks.insert(&hash.0, (pack, offset, bytes, refs - 1))?;
        return Ok(());
    }
    t.chunks.remove(&hash.0)?;
    if pack == 0 {
        return Ok(());
    }
    dead.push(Location { pack, offset, bytes });
    bury(t, pack)
}

fn bury(t: &mut Tables<'_>, pack: u32) -> Result<(), Fault> {
    if let Some((end, live)) = get(&t.packs, pack)? {
        t.packs.insert(pack, (end, live.saturating_sub(1)))?;
    }
    Ok(())
}
