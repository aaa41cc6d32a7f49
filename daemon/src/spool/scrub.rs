//! Reading everything that payloads consist of, on demand, and forgetting what the disk does not give back, so that it is
//! fetched again. Works in small steps between which others get their turn. Never deletes what a page still names: a
//! damaged page stays until the good one replaces it, since the references it took are those of the good one.

use std::collections::BTreeSet;

use tram_proto::id::Digest;
use tram_proto::limits::PAGE_HASHES;
use tram_proto::manifest::{Head, Layout};

use super::disk::Inner;
use super::index::hashes;
use super::packs::Location;
use super::tables::{CHUNKS, Fault, OBJECTS, UNITS, get};
use super::units::{checked, forget_chunk};
use super::{Damage, Scrubbed, SpoolError};

/// Chunks or pages looked at in one step: 16 MiB at most.
const STEP: usize = 64;

pub(super) fn scrub(inner: &Inner, go_on: &mut dyn FnMut(&Scrubbed) -> bool) -> Result<Scrubbed, SpoolError> {
    let mut done = Scrubbed::default();
    let mut lost = BTreeSet::new();
    let mut after = None;
    while let Some(last) = chunks(inner, after, &mut done, &mut lost)? {
        after = Some(last);
        if !go_on(&done) {
            break;
        }
    }
    let mut after = (Digest([0; 32]), None);
    while let Some(last) = pages(inner, after, &mut done, &lost)? {
        after = (last.0, Some(last.1));
        // Where damage was found, all pages are asked whose it is.
        if !go_on(&done) && lost.is_empty() {
            break;
        }
    }
    let Scrubbed { chunks, pages, bytes, damaged_chunks, .. } = &done;
    tracing::info!(chunks, pages, bytes, damaged_chunks, damaged_units = done.damaged.len(), "payloads were read over");
    Ok(done)
}

/// One step over the chunks; answers the last one looked at.
fn chunks(
    inner: &Inner,
    after: Option<Digest>,
    done: &mut Scrubbed,
    lost: &mut BTreeSet<Digest>,
) -> Result<Option<Digest>, SpoolError> {
    let step: Vec<(Digest, Location)> = inner.read("look for chunks", |txn| {
        let table = txn.open_table(CHUNKS)?;
        let from = after.map_or(std::ops::Bound::Unbounded, |Digest(hash)| std::ops::Bound::Excluded(hash));
        let from = (from.as_ref(), std::ops::Bound::Unbounded);
        let mut out = Vec::with_capacity(STEP);
        for entry in table.range::<&[u8; 32]>(from)?.take(STEP) {
            let (hash, value) = entry?;
            let (pack, offset, bytes, _) = value.value();
            out.push((Digest(*hash.value()), Location { pack, offset, bytes }));
        }
        Ok(out)
    })?;
    for (hash, at) in step.iter().filter(|(_, at)| at.pack != 0) {
        done.chunks += 1;
        done.bytes += u64::from(at.bytes);
        if checked(inner, hash, *at)?.is_none() && forget_chunk(inner, hash, *at)? {
            tracing::error!(chunk = %hash, pack = at.pack, offset = at.offset, "a chunk is damaged; it is fetched again");
            done.damaged_chunks += 1;
            lost.insert(*hash);
        }
    }
    Ok(step.last().map(|(hash, _)| *hash))
}

/// One step over heads and pages; answers the last one looked at.
fn pages(
    inner: &Inner,
    (root, unit): (Digest, Option<u64>),
    done: &mut Scrubbed,
    lost: &BTreeSet<Digest>,
) -> Result<Option<(Digest, u64)>, SpoolError> {
    let (last, found) = inner.read("look for pages", |txn| {
        let (units, objects) = (txn.open_table(UNITS)?, txn.open_table(OBJECTS)?);
        let from = (&root.0, unit.map_or(0, |unit| unit + 1));
        let (mut last, mut step) = (None, Scrubbed::default());
        for entry in units.range(from..)?.take(STEP) {
            let (key, value) = entry?;
            let (root, unit) = (Digest(*key.value().0), key.value().1);
            let (bytes, length) = (value.value(), get(&objects, &root.0)?.map_or(0, |(length, _)| length));
            last = Some((root, unit));
            step.pages += 1;
            step.bytes += bytes.len() as u64;
            let Ok(layout) = Layout::new(length) else { continue };
            let head = units.get((&root.0, 0))?.and_then(|head| Head::decode(head.value(), root, layout).ok());
            match head {
                None if unit == 0 => step.damaged.push(Damage { root, layout, unit }),
                Some(head) if unit > 0 && head.page(unit - 1) != Some(Digest::of(bytes)) => {
                    step.damaged.push(Damage { root, layout, unit });
                }
                _ => {}
            }
            if unit > 0 {
                let first = layout.manifest_units() + (unit - 1) * PAGE_HASHES as u64;
                let gone = hashes(bytes).zip(first..).filter(|(hash, _)| lost.contains(hash));
                step.damaged.extend(gone.map(|(_, unit)| Damage { root, layout, unit }));
            }
        }
        Ok::<_, Fault>((last, step))
    })?;
    done.pages += found.pages;
    done.bytes += found.bytes;
    for Damage { root, unit, .. } in &found.damaged {
        tracing::error!(%root, unit, path = %inner.path.display(), "a unit is damaged; it is fetched again when offered");
    }
    done.damaged.extend(found.damaged);
    Ok(last)
}
