//! Packs: append-only files that hold the chunks, `packs/NNNNNNNN.pack`.
//!
//! A record is `"TPK1" ‖ length (u32, big endian) ‖ BLAKE3 of the bytes ‖ first 8 bytes of the BLAKE3 of what stands
//! before ‖ bytes`, so that an index can be made again by [`scan`]. Knows nothing of payloads or references. An append that
//! fails leaves the file as it was. One thread does all fsyncs: those who wait share one. Chunks that are done with become
//! holes. `research/storage.md` §5.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tram_proto::id::Digest;
use tram_proto::limits::CHUNK_BYTES;

use super::files::{BLOCK_BYTES, Files, Open, OpenFile};

/// The directory of packs.
const DIR: &str = "packs";

const MAGIC: &[u8; 4] = b"TPK1";
const CHECKED: usize = 4 + 4 + 32;
/// Bytes in front of each chunk.
pub(super) const HEADER_BYTES: u64 = CHECKED as u64 + 8;
/// Space is asked of the filesystem in such steps, ahead of the data.
const ALLOCATE_BYTES: u64 = 32 << 20;
/// Unsynced bytes after which a sync begins though nobody waits: the disk works while the next bytes come in.
const UNSYNCED_BYTES: u64 = 32 << 20;
const OPEN_FILES: usize = 64;
/// Bytes read at once while a scan looks for the next record.
const SCAN_BYTES: u64 = 1 << 20;

/// Where a chunk's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) pack: u32,
    pub(super) offset: u64,
    pub(super) bytes: u32,
}

impl Location {
    /// Where its record begins.
    const fn start(self) -> u64 {
        self.offset - HEADER_BYTES
    }

    /// Where its record ends.
    pub(super) const fn end(self) -> u64 {
        self.offset + self.bytes as u64
    }
}

/// A lock whose holder panicked still guards whole values here: every critical section leaves them so.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Tail {
    /// The pack that is written; `None`: the next append begins one.
    file: Option<Arc<dyn OpenFile>>,
    pack: u32,
    end: u64,
    allocated: u64,
    lengths: BTreeMap<u32, u64>,
    /// Bytes of each that the filesystem has back.
    holes: BTreeMap<u32, u64>,
    /// The oldest pack that each unfinished writer may have written to.
    writers: BTreeMap<u64, u32>,
    next_writer: u64,
}

#[derive(Default)]
struct Progress {
    appended: u64,
    wanted: u64,
    synced: u64,
    dirty: BTreeMap<u32, Arc<dyn OpenFile>>,
    failed: Option<String>,
    closing: bool,
}

impl Progress {
    fn note(&mut self, goal: u64, result: io::Result<()>) {
        match result {
            Ok(()) => self.synced = goal,
            Err(error) => self.failed = Some(format!("fsync of a pack: {error}")),
        }
    }
}

fn sync_all(files: &BTreeMap<u32, Arc<dyn OpenFile>>) -> io::Result<()> {
    files.values().try_for_each(|file| file.sync())
}

/// The packs of one spool.
pub(super) struct Packs {
    on: Arc<dyn Files>,
    limit: u64,
    /// Those who wait for a sync do it themselves: no thread, so the order of operations is theirs alone.
    inline: bool,
    tail: Mutex<Tail>,
    progress: Mutex<Progress>,
    changed: Condvar,
    files: Mutex<BTreeMap<u32, Arc<dyn OpenFile>>>,
    cannot_punch: AtomicBool,
}

/// While it lives, no pack is unlinked that its owner may have written to.
pub(super) struct Writer {
    packs: Arc<Packs>,
    number: u64,
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.packs.tail).writers.remove(&self.number);
    }
}

/// Stops the syncing thread.
pub(super) struct Syncer {
    packs: Arc<Packs>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Syncer {
    fn drop(&mut self) {
        lock(&self.packs.progress).closing = true;
        self.packs.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; it also shows as a sync that never ends in nobody's hands.
            drop(thread.join());
        }
    }
}

impl Packs {
    /// Opens the packs. `known` says where the indexed part of each ends: what is behind it was never acknowledged and is
    /// cut off, a pack that is not in it is removed.
    pub(super) fn open(
        on: Arc<dyn Files>,
        limit: u64,
        inline: bool,
        known: &BTreeMap<u32, u64>,
    ) -> io::Result<(Arc<Self>, Syncer)> {
        let mut tail = Tail::default();
        for number in numbers(on.as_ref())? {
            let Some(end) = known.get(&number).copied() else {
                on.remove(&name_of(number))?;
                continue;
            };
            let file = on.open(&name_of(number), Open::Existing)?;
            let length = file.length()?;
            if length > end {
                tracing::warn!(pack = number, cut_bytes = length - end, "cut what was never acknowledged");
                file.set_len(end)?;
                file.sync()?;
            } else if length < end {
                tracing::error!(pack = number, lost_bytes = end - length, "a pack is shorter than it was");
            }
            let length = end.min(length);
            tail.lengths.insert(number, length);
            tail.holes.insert(number, length.saturating_sub(file.taken()?));
        }
        tail.pack = known.keys().next_back().copied().unwrap_or(0);
        if let Some(length) = tail.lengths.get(&tail.pack).copied().filter(|l| *l < limit) {
            tail.file = Some(on.open(&name_of(tail.pack), Open::Existing)?);
            (tail.end, tail.allocated) = (length, length);
        }
        on.sync_dir(DIR)?;
        let packs = Arc::new(Self {
            on,
            limit,
            inline,
            tail: Mutex::new(tail),
            progress: Mutex::default(),
            changed: Condvar::new(),
            files: Mutex::default(),
            cannot_punch: AtomicBool::new(false),
        });
        let syncing = Arc::clone(&packs);
        let run = move || syncing.run_syncs();
        let thread =
            if inline { None } else { Some(std::thread::Builder::new().name("spool-sync".into()).spawn(run)?) };
        Ok((Arc::clone(&packs), Syncer { packs, thread }))
    }

    /// Registers someone who will append.
    pub(super) fn writer(self: &Arc<Self>) -> Writer {
        let mut tail = lock(&self.tail);
        tail.next_writer += 1;
        let (number, first) = (tail.next_writer, tail.pack);
        tail.writers.insert(number, first);
        Writer { packs: Arc::clone(self), number }
    }

    /// Appends a chunk. It is durable once [`Self::sync`] returned.
    pub(super) fn append(&self, hash: &Digest, bytes: &[u8]) -> io::Result<Location> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let record = HEADER_BYTES + u64::from(length);
        let mut tail = lock(&self.tail);
        let file = match tail.file.clone() {
            Some(file) if tail.end == 0 || tail.end + record <= self.limit => file,
            _ => self.begin_pack(&mut tail)?,
        };
        if tail.end + record > tail.allocated {
            // Best effort: some filesystems cannot, and a full one is noticed by the write.
            let step = ALLOCATE_BYTES.max(record).min(self.limit.max(record));
            if file.allocate(tail.end, step).is_ok() {
                tail.allocated = tail.end + step;
            }
        }
        let start = tail.end;
        let written =
            file.write_at(&header(hash, length), start).and_then(|()| file.write_at(bytes, start + HEADER_BYTES));
        if let Err(error) = written {
            file.set_len(start)?;
            tail.allocated = start;
            return Err(error);
        }
        tail.end = start + record;
        let (pack, end) = (tail.pack, tail.end);
        tail.lengths.insert(pack, end);
        let mut progress = lock(&self.progress);
        drop(tail);
        progress.appended += record;
        progress.dirty.insert(pack, file);
        if !self.inline && progress.appended - progress.wanted.max(progress.synced) >= UNSYNCED_BYTES {
            progress.wanted = progress.appended;
            self.changed.notify_all();
        }
        Ok(Location { pack, offset: start + HEADER_BYTES, bytes: length })
    }

    fn begin_pack(&self, tail: &mut Tail) -> io::Result<Arc<dyn OpenFile>> {
        let number = tail.pack + 1;
        if let Some(full) = tail.file.take() {
            // Gives back what was allocated beyond its end.
            full.set_len(tail.end)?;
        }
        let file = self.on.open(&name_of(number), Open::Empty)?;
        self.on.sync_dir(DIR)?;
        (tail.pack, tail.end, tail.allocated) = (number, 0, 0);
        tail.lengths.insert(number, 0);
        tail.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Returns when everything appended before the call is durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut progress = lock(&self.progress);
        let goal = progress.appended;
        progress.wanted = progress.wanted.max(goal);
        if self.inline && progress.synced < goal && progress.failed.is_none() {
            let result = sync_all(&std::mem::take(&mut progress.dirty));
            progress.note(goal, result);
        }
        self.changed.notify_all();
        while progress.synced < goal {
            if let Some(cause) = &progress.failed {
                return Err(io::Error::other(cause.clone()));
            }
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn run_syncs(&self) {
        let mut progress = lock(&self.progress);
        loop {
            if progress.closing || progress.failed.is_some() {
                return;
            }
            if progress.wanted <= progress.synced {
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let dirty = std::mem::take(&mut progress.dirty);
            let goal = progress.appended;
            drop(progress);
            let result = sync_all(&dirty);
            progress = lock(&self.progress);
            progress.note(goal, result);
            self.changed.notify_all();
        }
    }

    /// Reads a chunk's bytes, unchecked.
    pub(super) fn read(&self, at: Location) -> io::Result<Bytes> {
        let file = self.file(at.pack)?;
        let mut bytes = vec![0; at.bytes as usize];
        file.read_at(&mut bytes, at.offset)?;
        Ok(bytes.into())
    }

    fn file(&self, pack: u32) -> io::Result<Arc<dyn OpenFile>> {
        if let Some(file) = lock(&self.files).get(&pack) {
            return Ok(Arc::clone(file));
        }
        let file = self.on.open(&name_of(pack), Open::Existing)?;
        let mut files = lock(&self.files);
        if files.len() >= OPEN_FILES {
            files.pop_first();
        }
        files.insert(pack, Arc::clone(&file));
        Ok(file)
    }

    /// Packs nobody writes to any more. The one at the tail is among them, and closed, when nobody writes at all.
    pub(super) fn idle(&self) -> Vec<u32> {
        let mut tail = lock(&self.tail);
        if tail.writers.is_empty() {
            tail.file = None;
            tail.allocated = tail.end;
        }
        let tail_open = tail.file.as_ref().map(|_| tail.pack);
        let first = tail.writers.values().min().copied().into_iter().chain(tail_open).min().unwrap_or(u32::MAX);
        tail.lengths.keys().copied().filter(|pack| *pack < first).collect()
    }

    /// Opens the tail again that [`Self::idle`] closed and nothing made obsolete.
    pub(super) fn reopen_tail(&self) -> io::Result<()> {
        let mut tail = lock(&self.tail);
        let there = tail.lengths.get(&tail.pack).is_some_and(|length| *length < self.limit);
        if tail.file.is_none() && there {
            tail.file = Some(self.on.open(&name_of(tail.pack), Open::Existing)?);
        }
        Ok(())
    }

    /// Gives the space of chunks that nothing points to back to the filesystem, as far as they fill whole blocks: a pack goes
    /// only with its last chunk, which may wait for an office that is off. Where a power cut comes first, or the filesystem
    /// cannot, the space comes with the pack.
    pub(super) fn give_back(&self, mut dead: Vec<Location>) {
        if self.cannot_punch.load(Ordering::Relaxed) {
            return;
        }
        dead.sort_unstable_by_key(|at| (at.pack, at.offset));
        for run in dead.chunk_by(|one, next| one.pack == next.pack && one.end() == next.start()) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let from = first.start().next_multiple_of(BLOCK_BYTES);
            let bytes = (last.end() / BLOCK_BYTES * BLOCK_BYTES).saturating_sub(from);
            if bytes == 0 {
                continue;
            }
            match self.file(first.pack).and_then(|file| file.punch(from, bytes)) {
                Ok(()) => {
                    let mut tail = lock(&self.tail);
                    if tail.lengths.contains_key(&first.pack) {
                        *tail.holes.entry(first.pack).or_default() += bytes;
                    }
                }
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
                    self.cannot_punch.store(true, Ordering::Relaxed);
                    tracing::warn!(
                        path = %self.on.path().display(),
                        "this filesystem takes back no part of a file: space comes free only when all of a pack is done \
                         with; ext4, xfs and btrfs do better"
                    );
                    return;
                }
                Err(error) => tracing::debug!(pack = first.pack, %error, "space comes back only with the pack"),
            }
        }
    }

    /// Removes a pack's file.
    pub(super) fn unlink(&self, pack: u32) -> io::Result<()> {
        lock(&self.files).remove(&pack);
        // What was appended and never synced belongs to uploads that gave up; an open file would keep the room.
        lock(&self.progress).dirty.remove(&pack);
        let mut tail = lock(&self.tail);
        tail.lengths.remove(&pack);
        tail.holes.remove(&pack);
        drop(tail);
        match self.on.remove(&name_of(pack)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Bytes that packs take, and bytes beyond them that are allocated already.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let tail = lock(&self.tail);
        let (all, holes): (u64, u64) = (tail.lengths.values().sum(), tail.holes.values().sum());
        (all.saturating_sub(holes), tail.allocated.saturating_sub(tail.end))
    }
}

fn header(hash: &Digest, length: u32) -> [u8; HEADER_BYTES as usize] {
    let mut out = [0; HEADER_BYTES as usize];
    out[..4].copy_from_slice(MAGIC);
    out[4..8].copy_from_slice(&length.to_be_bytes());
    out[8..CHECKED].copy_from_slice(&hash.0);
    let check = Digest::of(&out[..CHECKED]);
    out[CHECKED..].copy_from_slice(&check.0[..8]);
    out
}

fn name_of(pack: u32) -> String {
    format!("{DIR}/{pack:08}.pack")
}

/// The packs that are there, in order.
pub(super) fn numbers(on: &dyn Files) -> io::Result<Vec<u32>> {
    let number = |name: &String| name.strip_suffix(".pack").and_then(|n| n.parse::<u32>().ok());
    let mut out: Vec<u32> = on.list(DIR)?.iter().filter_map(number).collect();
    out.sort_unstable();
    Ok(out)
}

/// Hash and length of the chunk behind a record's header, if it is one.
fn parse(head: &[u8]) -> Option<(Digest, u32)> {
    let (magic, rest) = head.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (hash, length) = (Digest(*rest.first_chunk::<32>()?), u32::from_be_bytes(*length));
    let good = magic == MAGIC && length as usize <= CHUNK_BYTES && head == header(&hash, length);
    good.then_some((hash, length))
}

/// What [`scan`] came over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Places where something else lay than was written; each costs one chunk or more.
    pub(super) damaged: u64,
    /// Bytes there.
    pub(super) damaged_bytes: u64,
}

/// Reads a pack from the start and hands out every chunk whose bytes have their hash. Where no record begins, it looks for
/// the next one, so a damaged header costs the chunk behind it and no other. What was given back is no damage.
pub(super) fn scan(on: &dyn Files, pack: u32, each: &mut dyn FnMut(Digest, Location)) -> io::Result<Scanned> {
    let file = on.open(&name_of(pack), Open::Existing)?;
    let end = file.length()?;
    let (mut at, mut scanned) = (0, Scanned::default());
    // What is not a whole record: where it begins, and what of it is known to be damage.
    let (mut odd, mut lost) = (None, None);
    while let Some((start, hash, length)) = next_record(file.as_ref(), at, end)? {
        if let Some(from) = odd.take().or((start > at).then_some(at)) {
            scanned.judge(file.as_ref(), pack, from..start, &mut lost)?;
        }
        let mut bytes = vec![0; length as usize];
        let next = start + HEADER_BYTES + u64::from(length);
        let whole = next <= end && {
            file.read_at(&mut bytes, start + HEADER_BYTES)?;
            Digest::of(&bytes) == hash
        };
        if whole {
            scanned.tell(pack, &mut lost);
            each(hash, Location { pack, offset: start + HEADER_BYTES, bytes: length });
            at = next;
        } else {
            // Its length is not believed: the next record may begin anywhere behind.
            odd = Some(start);
            at = start + 1;
        }
    }
    if let Some(from) = odd.or((at < end).then_some(at)) {
        scanned.judge(file.as_ref(), pack, from..end, &mut lost)?;
    }
    scanned.tell(pack, &mut lost);
    Ok(scanned)
}

impl Scanned {
    /// Tells what was given back, of which every whole block is zero, from what was damaged.
    fn judge(
        &mut self,
        file: &dyn OpenFile,
        pack: u32,
        part: Range<u64>,
        lost: &mut Option<Range<u64>>,
    ) -> io::Result<()> {
        if is_hole(file, &part)? {
            self.tell(pack, lost);
        } else {
            *lost = Some(lost.take().map_or(part.start, |lost| lost.start)..part.end);
        }
        Ok(())
    }

    fn tell(&mut self, pack: u32, lost: &mut Option<Range<u64>>) {
        let Some(Range { start: from, end: to }) = lost.take() else { return };
        self.damaged += 1;
        self.damaged_bytes += to - from;
        tracing::error!(pack, from, to, "no whole record here: its chunks are fetched again when offered");
    }
}

fn is_hole(file: &dyn OpenFile, part: &Range<u64>) -> io::Result<bool> {
    let mut at = part.start.next_multiple_of(BLOCK_BYTES);
    let end = part.end / BLOCK_BYTES * BLOCK_BYTES;
    let mut block = [0; BLOCK_BYTES as usize];
    if at >= end {
        return Ok(false);
    }
    while at < end {
        file.read_at(&mut block, at)?;
        if block.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += BLOCK_BYTES;
    }
    Ok(true)
}

/// The first header at `at` or behind it: where it is, and the hash and length it says.
fn next_record(file: &dyn OpenFile, mut at: u64, end: u64) -> io::Result<Option<(u64, Digest, u32)>> {
    let mut window = Vec::new();
    let mut first = HEADER_BYTES;
    while at + HEADER_BYTES <= end {
        // Mostly a record begins right here.
        window.resize((end - at).min(first) as usize, 0);
        first = SCAN_BYTES;
        file.read_at(&mut window, at)?;
        let headers = window.windows(HEADER_BYTES as usize);
        if let Some((from, (hash, length))) = headers.enumerate().find_map(|(from, head)| Some((from, parse(head)?))) {
            return Ok(Some((at + from as u64, hash, length)));
        }
        at += window.len() as u64 - HEADER_BYTES + 1;
    }
    Ok(None)
}
