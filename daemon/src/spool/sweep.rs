//! Deleting what nothing refers to any more.
//!
//! A payload without a reference gets a time when a sweep first sees it, and goes when a later sweep finds it past its
//! grace. Whoever asks for a payload or stores units of it begins the grace anew; an upload pins the chunks it found here.
//! Both are noted in [`Leases`], which a sweep holds while it deletes: so nobody is told of what is just going.

use std::collections::{BTreeMap, BTreeSet};

use redb::ReadableTable;
use tram_proto::id::Digest;

use super::disk::Inner;
use super::index::{drop_reference, hashes};
use super::packs::{Location, lock};
use super::tables::{Fault, LOOSE, PACKS, Tables, get};
use super::{LOW_ROOM_BYTES, LOW_ROOM_GRACE_MS, SpoolError};

/// Manifest pages deleted in one transaction, so that messages are not held up.
const STEP_PAGES: usize = 4;
/// Manifest heads, so small payloads, deleted in one transaction.
const STEP_UNITS: usize = 1024;

/// What must not go though nothing refers to it.
#[derive(Default)]
pub(super) struct Leases {
    /// Payloads asked for since the last sweep.
    pub(super) touched: BTreeSet<Digest>,
    /// Chunks that unfinished uploads count on, and how many of them do.
    pinned: BTreeMap<Digest, u64>,
}

impl Leases {
    pub(super) fn pin(&mut self, chunk: Digest) {
        *self.pinned.entry(chunk).or_default() += 1;
    }

    pub(super) fn unpin(&mut self, chunk: &Digest) {
        if let Some(pins) = self.pinned.get_mut(chunk) {
            *pins -= 1;
            if *pins == 0 {
                self.pinned.remove(chunk);
            }
        }
    }
}

pub(super) fn sweep(inner: &Inner, now_ms: u64) -> Result<(), SpoolError> {
    inner.writing("set space aside", || inner.reserve.take_again())?;
    let mut due = stamp(inner, now_ms)?;
    while !due.is_empty() {
        let leases = lock(&inner.leases);
        let dead = inner.write("delete payloads", |t| {
            let mut dead = Vec::new();
            step(t, &mut due, &leases, &mut dead)?;
            Ok(dead)
        })?;
        drop(leases);
        inner.packs.give_back(dead);
    }
    unlink(inner)
}

/// Gives a time to what is newly loose or was touched; answers what is past its grace.
fn stamp(inner: &Inner, now_ms: u64) -> Result<Vec<Digest>, SpoolError> {
    let mut leases = lock(&inner.leases);
    let (mut fresh, mut due) = (Vec::new(), Vec::new());
    let low = inner.room().free_bytes < LOW_ROOM_BYTES;
    let grace_ms = if low { inner.options.grace_ms.min(LOW_ROOM_GRACE_MS) } else { inner.options.grace_ms };
    inner.read("look for loose payloads", |txn| {
        for entry in txn.open_table(LOOSE)?.iter()? {
            let (root, since_ms) = entry?;
            let (root, since_ms) = (Digest(*root.value()), since_ms.value());
            if since_ms == 0 || leases.touched.contains(&root) {
                fresh.push(root);
            } else if now_ms.saturating_sub(since_ms) >= grace_ms {
                due.push(root);
            }
        }
        Ok(())
    })?;
    if !fresh.is_empty() {
        inner.write("note loose payloads", |t| {
            for root in &fresh {
                // A commit may have referred to it since the look.
                if get(&t.loose, &root.0)?.is_some() {
                    t.loose.insert(&root.0, now_ms.max(1))?;
                }
            }
            Ok(())
        })?;
    }
    leases.touched.clear();
    Ok(due)
}

/// Deletes some of what is due, the last pages first: what is left of a payload in between is a valid beginning.
fn step(t: &mut Tables<'_>, due: &mut Vec<Digest>, leases: &Leases, dead: &mut Vec<Location>) -> Result<(), Fault> {
    let (mut pages, mut units) = (0, 0);
    while pages < STEP_PAGES
        && units < STEP_UNITS
        && let Some(root) = due.last().copied()
    {
        units += 1;
        if leases.touched.contains(&root) || get(&t.loose, &root.0)?.is_none() {
            due.pop();
            continue;
        }
        let last = match t.units.range((&root.0, 0)..=(&root.0, u64::MAX))?.next_back() {
            Some(entry) => entry.map(|(key, value)| Some((key.value().1, value.value().to_vec())))?,
            None => None,
        };
        match last {
            None => {
                t.objects.remove(&root.0)?;
                t.loose.remove(&root.0)?;
                due.pop();
            }
            Some((unit, page)) => {
                if unit > 0 && hashes(&page).any(|hash| leases.pinned.contains_key(&hash)) {
                    due.pop();
                    continue;
                }
                t.units.remove((&root.0, unit))?;
                if unit > 0 {
                    hashes(&page).try_for_each(|hash| drop_reference(t, &hash, dead))?;
                    pages += 1;
                }
            }
        }
    }
    Ok(())
}

/// Removes packs without a live chunk that nobody writes to.
fn unlink(inner: &Inner) -> Result<(), SpoolError> {
    let idle = inner.packs.idle();
    let dead = inner.read("look for dead packs", |txn| {
        let packs = txn.open_table(PACKS)?;
        let mut dead = Vec::new();
        for pack in idle.iter().copied() {
            if get(&packs, pack)?.is_none_or(|(_, live)| live == 0) {
                dead.push(pack);
            }
        }
        Ok(dead)
    })?;
    if !dead.is_empty() {
        // First the index, then the file: what is left over after a crash is removed on opening.
        inner.write("forget dead packs", |t| {
            dead.iter().try_for_each(|pack| t.packs.remove(*pack).map(drop)).map_err(Fault::from)
        })?;
    }
    inner.writing("remove dead packs", || {
        dead.iter().try_for_each(|pack| inner.packs.unlink(*pack))?;
        inner.packs.reopen_tail()
    })
}
