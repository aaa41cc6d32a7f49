//! Units of payloads: what is held, reading one, storing those that a link brought.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable};
use tram_proto::id::Digest;
use tram_proto::limits::PAGE_HASHES;
use tram_proto::manifest::{Head, Layout, Unit, decode_page};
use tram_relay::input::Held;

use super::disk::Inner;
use super::index::{Arrival, arrive, displace, hashes};
use super::packs::{HEADER_BYTES, Location, lock};
use super::tables::{CHUNKS, ChunkValue, Fault, UNITS, get};
use super::{SpoolError, fits, ranges};

/// Callers of [`store`] whose chunks are durable in packs and who wait for the index.
#[derive(Default)]
pub(super) struct Stores {
    waiting: Vec<(Arrival, Indexed)>,
    /// One of them commits for all that waited when it began.
    leading: bool,
}

/// What became of one caller's units.
type Indexed = Arc<OnceLock<Result<(), SpoolError>>>;

fn location((pack, offset, bytes, _): ChunkValue) -> Option<Location> {
    (pack != 0).then_some(Location { pack, offset, bytes })
}

/// Where a chunk lies, if it is here.
pub(super) fn locate(inner: &Inner, hash: &Digest) -> Result<Option<Location>, SpoolError> {
    inner.read("look for a chunk", |txn| Ok(get(&txn.open_table(CHUNKS)?, &hash.0)?.and_then(location)))
}

pub(super) fn held(inner: &Inner, root: Digest, layout: Layout) -> Result<Held, SpoolError> {
    // Before the look, so that no sweep takes afterwards what is found now.
    lock(&inner.leases).touched.insert(root);
    inner.read("look for a payload", |txn| held_in(inner, txn, root, layout))
}

pub(super) fn held_in(inner: &Inner, txn: &ReadTransaction, root: Digest, layout: Layout) -> Result<Held, Fault> {
    let (units, chunks) = (txn.open_table(UNITS)?, txn.open_table(CHUNKS)?);
    let Some(bytes) = units.get((&root.0, 0))? else { return Ok(Held::default()) };
    let head = match Head::decode(bytes.value(), root, layout) {
        Ok(head) => head,
        Err(error) => {
            tracing::warn!(path = %inner.path.display(), %root, %error, "a manifest does not fit what was asked for");
            return Ok(Held::default());
        }
    };
    let (mut found, mut found_chunks) = (vec![0], Vec::new());
    for page in 0..layout.pages() {
        let Some(bytes) = units.get((&root.0, 1 + page))? else { continue };
        if head.page(page) != Some(Digest::of(bytes.value())) {
            tracing::error!(path = %inner.path.display(), %root, page, "a manifest page is damaged");
            continue;
        }
        found.push(1 + page);
        let first = layout.manifest_units() + page * PAGE_HASHES as u64;
        for (hash, n) in hashes(bytes.value()).zip(first..) {
            if get(&chunks, &hash.0)?.and_then(location).is_some() {
                found_chunks.push(n);
            }
        }
    }
    Ok(Held { units: ranges(found.into_iter().chain(found_chunks)) })
}

/// What a unit is read from.
enum Source {
    Manifest(Bytes, bool),
    Chunk(Digest, Location),
}

pub(super) fn unit(inner: &Inner, root: Digest, layout: Layout, unit: u64) -> Result<Bytes, SpoolError> {
    let missing = || inner.missing("unit", format!("{unit} of payload {root}"));
    let source = inner.read("look for a unit", |txn| {
        let units = txn.open_table(UNITS)?;
        match layout.unit(unit).ok_or_else(missing)? {
            Unit::Head | Unit::Page(_) => {
                let bytes = units.get((&root.0, unit))?.ok_or_else(missing)?;
                let bytes = Bytes::copy_from_slice(bytes.value());
                let head = units.get((&root.0, 0))?.and_then(|h| Head::decode(h.value(), root, layout).ok());
                let good = head.is_some_and(|head| {
                    unit == 0 || head.page(unit - 1).is_some_and(|digest| decode_page(&bytes, digest).is_ok())
                });
                Ok(Source::Manifest(bytes, good))
            }
            Unit::Chunk(chunk) => {
                let hash = chunk_hash(&units, root, chunk)?.ok_or_else(missing)?;
                let found = get(&txn.open_table(CHUNKS)?, &hash.0)?.and_then(location);
                Ok(Source::Chunk(hash, found.ok_or_else(missing)?))
            }
        }
    })?;
    match source {
        Source::Manifest(bytes, true) => Ok(bytes),
        Source::Manifest(_, false) => Err(damaged(inner, root, unit)),
        Source::Chunk(hash, at) => match checked(inner, &hash, at)? {
            Some(bytes) => Ok(bytes),
            None if forget_chunk(inner, &hash, at)? => Err(damaged(inner, root, unit)),
            None => Err(missing()),
        },
    }
}

fn damaged(inner: &Inner, root: Digest, unit: u64) -> SpoolError {
    let error = SpoolError::Damaged { path: inner.path.clone(), root, unit };
    tracing::error!(%error, "the disk gave back other bytes than were written");
    error
}

fn chunk_hash(
    units: &impl ReadableTable<(super::tables::Hash, u64), &'static [u8]>,
    root: Digest,
    chunk: u64,
) -> Result<Option<Digest>, Fault> {
    let per_page = PAGE_HASHES as u64;
    let page = units.get((&root.0, 1 + chunk / per_page))?;
    Ok(page.and_then(|page| hashes(page.value()).nth((chunk % per_page) as usize)))
}

/// A chunk's bytes, if the disk still gives them back and they have its hash. What says nothing of the disk, such as too
/// many open files, is an error and no damage.
pub(super) fn checked(inner: &Inner, hash: &Digest, at: Location) -> Result<Option<Bytes>, SpoolError> {
    match inner.packs.read(at) {
        Ok(bytes) => Ok((Digest::of(&bytes) == *hash).then_some(bytes)),
        Err(error) => {
            let gone = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof);
            if !gone && error.raw_os_error() != Some(rustix::io::Errno::IO.raw_os_error()) {
                return Err(inner.failed("read a chunk", error));
            }
            tracing::error!(path = %inner.path.display(), pack = at.pack, offset = at.offset, %error, "cannot read a chunk");
            Ok(None)
        }
    }
}

/// Forgets a damaged chunk; false when the index has moved on and it was no damage.
pub(super) fn forget_chunk(inner: &Inner, hash: &Digest, at: Location) -> Result<bool, SpoolError> {
    inner.write("forget a damaged chunk", |t| displace(t, hash, at))
}

pub(super) fn store(
    inner: &Inner,
    root: Digest,
    layout: Layout,
    first: u64,
    units: Vec<Bytes>,
) -> Result<(), SpoolError> {
    if !fits(layout, first, &units) {
        let why = "units do not have the numbers or lengths of their payload";
        return Err(SpoolError::Misuse { path: inner.path.clone(), why });
    }
    inner.need(units.iter().map(|unit| unit.len() as u64 + HEADER_BYTES).sum())?;
    lock(&inner.leases).touched.insert(root);
    let writer = inner.packs.writer();
    let mut appended = Vec::new();
    let result = take_in(inner, root, layout, first, &units, &mut appended);
    if let Err(SpoolError::Full { .. }) = result {
        // On a full disk of all places, what nothing points to must not stay.
        inner.packs.give_back(appended);
    }
    drop(writer);
    result
}

fn take_in(
    inner: &Inner,
    root: Digest,
    layout: Layout,
    first: u64,
    units: &[Bytes],
    appended: &mut Vec<Location>,
) -> Result<(), SpoolError> {
    let pages = layout.manifest_units();
    let split = units.len().min(usize::try_from(pages.saturating_sub(first)).unwrap_or(usize::MAX));
    let manifest: Vec<(u64, Bytes)> = (first..).zip(units[..split].iter().cloned()).collect();
    let mut arrival = Arrival { root, bytes: layout.bytes(), manifest, chunks: Vec::new() };
    for (bytes, n) in units[split..].iter().zip(first + split as u64..) {
        let (hash, there) = known(inner, &arrival, layout, n - pages, bytes)?;
        if there.is_none() {
            let at = inner.writing("append to a pack", || inner.packs.append(&hash, bytes))?;
            appended.push(at);
            arrival.chunks.push((hash, at));
        }
    }
    if !arrival.chunks.is_empty() {
        sync(inner)?;
    }
    index(inner, arrival)
}

/// The hash of a chunk that came in, from its page if that is here and good, and where it lies already.
fn known(
    inner: &Inner,
    arrival: &Arrival,
    layout: Layout,
    chunk: u64,
    bytes: &[u8],
) -> Result<(Digest, Option<Location>), SpoolError> {
    let (page, at) = (chunk / PAGE_HASHES as u64, (chunk % PAGE_HASHES as u64) as usize);
    let with_it = arrival.manifest.iter().find(|(n, _)| *n == 1 + page);
    let with_it = with_it.and_then(|(_, page)| hashes(page).nth(at));
    inner.read("look for a chunk", |txn| {
        let hash = match with_it {
            Some(hash) => Some(hash),
            None => {
                let (units, root) = (txn.open_table(UNITS)?, arrival.root);
                let head = units.get((&root.0, 0))?.and_then(|h| Head::decode(h.value(), root, layout).ok());
                let bytes = units.get((&root.0, 1 + page))?;
                // A damaged page would put the chunk under a hash that is not its own.
                let good = bytes.filter(|b| head.and_then(|h| h.page(page)) == Some(Digest::of(b.value())));
                good.and_then(|bytes| hashes(bytes.value()).nth(at))
            }
        };
        // The page may be on its way with another caller.
        let hash = hash.unwrap_or_else(|| Digest::of(bytes));
        Ok((hash, get(&txn.open_table(CHUNKS)?, &hash.0)?.and_then(location)))
    })
}

/// Waits until the arrival is in the index. The first to come commits for all who wait when it begins; those who come
/// meanwhile are the next group, and their packs are synced while this one commits.
fn index(inner: &Inner, arrival: Arrival) -> Result<(), SpoolError> {
    let indexed = Indexed::default();
    let mut stores = lock(&inner.stores);
    stores.waiting.push((arrival, Arc::clone(&indexed)));
    loop {
        if let Some(result) = indexed.get() {
            return result.clone();
        }
        if stores.leading {
            stores = inner.stored.wait(stores).unwrap_or_else(std::sync::PoisonError::into_inner);
            continue;
        }
        stores.leading = true;
        let (arrivals, callers): (Vec<Arrival>, Vec<Indexed>) = std::mem::take(&mut stores.waiting).into_iter().unzip();
        drop(stores);
        let result = commit(inner, &arrivals);
        stores = lock(&inner.stores);
        stores.leading = false;
        for caller in callers {
            // Only the leader sets it, and once.
            let _ = caller.set(result.clone());
        }
        inner.stored.notify_all();
    }
}

/// Makes what was appended so far durable; the index may point to it afterwards, never before.
pub(super) fn sync(inner: &Inner) -> Result<(), SpoolError> {
    inner.writing("sync a pack", || inner.packs.sync())
}

/// Notes units whose chunks are durable.
pub(super) fn commit(inner: &Inner, arrivals: &[Arrival]) -> Result<(), SpoolError> {
    let dead = inner.write("note chunks", |t| {
        let mut dead = Vec::new();
        arrivals.iter().try_for_each(|arrival| arrive(t, arrival, &mut dead))?;
        Ok(dead)
    })?;
    inner.packs.give_back(dead);
    Ok(())
}
