//! Packs: append-only files that hold the chunks, `packs/NNNNNNNN.pack`.
//!
//! A record is `"TPK1" ‖ length (u32, big endian) ‖ BLAKE3 of the bytes ‖ first 8 bytes of the BLAKE3 of what stands
//! before ‖ bytes`, so that an index can be made again by [`scan`]. Knows nothing of payloads or references. An append that
//! fails leaves the file as it was. One thread does all fsyncs: those who wait share one. `research/storage.md` §5.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use tram_proto::id::Digest;

const MAGIC: &[u8; 4] = b"TPK1";
const CHECKED: usize = 4 + 4 + 32;
/// Bytes in front of each chunk.
pub(super) const HEADER_BYTES: u64 = CHECKED as u64 + 8;
/// Space is asked of the filesystem in such steps, ahead of the data.
const ALLOCATE_BYTES: u64 = 32 << 20;
/// Unsynced bytes after which a sync begins though nobody waits: the disk works while the next bytes come in.
const UNSYNCED_BYTES: u64 = 32 << 20;
const OPEN_FILES: usize = 64;

/// Where a chunk's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) pack: u32,
    pub(super) offset: u64,
    pub(super) bytes: u32,
}

impl Location {
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
    file: Option<Arc<File>>,
    pack: u32,
    end: u64,
    allocated: u64,
    lengths: BTreeMap<u32, u64>,
    /// The oldest pack that each unfinished writer may have written to.
    writers: BTreeMap<u64, u32>,
    next_writer: u64,
}

#[derive(Default)]
struct Progress {
    appended: u64,
    wanted: u64,
    synced: u64,
    dirty: BTreeMap<u32, Arc<File>>,
    failed: Option<String>,
    closing: bool,
}

/// The packs of one spool.
pub(super) struct Packs {
    dir: PathBuf,
    limit: u64,
    tail: Mutex<Tail>,
    progress: Mutex<Progress>,
    changed: Condvar,
    files: Mutex<BTreeMap<u32, Arc<File>>>,
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

/// fsync of a directory, so that the names in it are durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Packs {
    /// Opens the packs in `dir`. `known` says where the indexed part of each ends: what is behind it was never
    /// acknowledged and is cut off, a pack that is not in it is removed.
    pub(super) fn open(dir: &Path, limit: u64, known: &BTreeMap<u32, u64>) -> io::Result<(Arc<Self>, Syncer)> {
        let mut tail = Tail::default();
        for number in numbers(dir)? {
            let path = path_of(dir, number);
            let Some(end) = known.get(&number).copied() else {
                fs::remove_file(&path)?;
                continue;
            };
            let file = File::options().write(true).open(&path)?;
            let length = file.metadata()?.len();
            if length > end {
                tracing::warn!(pack = %path.display(), cut_bytes = length - end, "cut what was never acknowledged");
                file.set_len(end)?;
                file.sync_all()?;
            } else if length < end {
                tracing::error!(pack = %path.display(), lost_bytes = end - length, "a pack is shorter than it was");
            }
            tail.lengths.insert(number, end.min(length));
        }
        tail.pack = known.keys().next_back().copied().unwrap_or(0);
        if let Some(length) = tail.lengths.get(&tail.pack).copied().filter(|l| *l < limit) {
            tail.file = Some(Arc::new(File::options().read(true).write(true).open(path_of(dir, tail.pack))?));
            (tail.end, tail.allocated) = (length, length);
        }
        sync_dir(dir)?;
        let packs = Arc::new(Self {
            dir: dir.to_owned(),
            limit,
            tail: Mutex::new(tail),
            progress: Mutex::default(),
            changed: Condvar::new(),
            files: Mutex::default(),
        });
        let syncing = Arc::clone(&packs);
        let thread = std::thread::Builder::new().name("spool-sync".into()).spawn(move || syncing.run_syncs())?;
        Ok((Arc::clone(&packs), Syncer { packs, thread: Some(thread) }))
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
            if rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, tail.end, step).is_ok() {
                tail.allocated = tail.end + step;
            }
        }
        let start = tail.end;
        let written = file
            .write_all_at(&header(hash, length), start)
            .and_then(|()| file.write_all_at(bytes, start + HEADER_BYTES));
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
        if progress.appended - progress.wanted.max(progress.synced) >= UNSYNCED_BYTES {
            progress.wanted = progress.appended;
            self.changed.notify_all();
        }
        Ok(Location { pack, offset: start + HEADER_BYTES, bytes: length })
    }

    fn begin_pack(&self, tail: &mut Tail) -> io::Result<Arc<File>> {
        let number = tail.pack + 1;
        let path = path_of(&self.dir, number);
        if let Some(full) = tail.file.take() {
            // Gives back what was allocated beyond its end.
            full.set_len(tail.end)?;
        }
        let file = Arc::new(File::options().read(true).write(true).create(true).truncate(true).open(path)?);
        sync_dir(&self.dir)?;
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
            let result = dirty.values().try_for_each(|file| file.sync_data());
            progress = lock(&self.progress);
            match result {
                Ok(()) => progress.synced = goal,
                Err(error) => progress.failed = Some(format!("fsync of a pack: {error}")),
            }
            self.changed.notify_all();
        }
    }

    /// Reads a chunk's bytes, unchecked.
    pub(super) fn read(&self, at: Location) -> io::Result<Bytes> {
        let file = self.file(at.pack)?;
        let mut bytes = vec![0; at.bytes as usize];
        file.read_exact_at(&mut bytes, at.offset)?;
        Ok(bytes.into())
    }

    fn file(&self, pack: u32) -> io::Result<Arc<File>> {
        if let Some(file) = lock(&self.files).get(&pack) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open(path_of(&self.dir, pack))?);
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
            let path = path_of(&self.dir, tail.pack);
            tail.file = Some(Arc::new(File::options().read(true).write(true).open(path)?));
        }
        Ok(())
    }

    /// Removes a pack's file.
    pub(super) fn unlink(&self, pack: u32) -> io::Result<()> {
        lock(&self.files).remove(&pack);
        // What was appended and never synced belongs to uploads that gave up; an open file would keep the room.
        lock(&self.progress).dirty.remove(&pack);
        lock(&self.tail).lengths.remove(&pack);
        match fs::remove_file(path_of(&self.dir, pack)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Bytes in packs, and bytes beyond them that are allocated already.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let tail = lock(&self.tail);
        (tail.lengths.values().sum(), tail.allocated.saturating_sub(tail.end))
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

fn path_of(dir: &Path, pack: u32) -> PathBuf {
    dir.join(format!("{pack:08}.pack"))
}

/// The packs in a directory, in order.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(".pack"));
        out.extend(number.and_then(|n| n.parse::<u32>().ok()));
    }
    out.sort_unstable();
    Ok(out)
}

/// Reads a pack from the start and hands out every chunk whose bytes have their hash; answers where the last whole
/// record ends. What is damaged in the middle is passed over and logged.
pub(super) fn scan(dir: &Path, pack: u32, each: &mut dyn FnMut(Digest, Location)) -> io::Result<u64> {
    let path = path_of(dir, pack);
    let mut file = BufReader::with_capacity(1 << 20, File::open(&path)?);
    let (mut end, mut head, mut bytes) = (0, [0; HEADER_BYTES as usize], Vec::new());
    loop {
        if let Err(error) = file.read_exact(&mut head) {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(end) } else { Err(error) };
        }
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let mut hash = [0; 32];
        hash.copy_from_slice(&head[8..CHECKED]);
        if head != header(&Digest(hash), length) {
            tracing::error!(pack = %path.display(), offset = end, "no record begins here; what follows is lost");
            return Ok(end);
        }
        bytes.resize(length as usize, 0);
        if let Err(error) = file.read_exact(&mut bytes) {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(end) } else { Err(error) };
        }
        if Digest::of(&bytes) == Digest(hash) {
            each(Digest(hash), Location { pack, offset: end + HEADER_BYTES, bytes: length });
        } else {
            tracing::error!(pack = %path.display(), offset = end, "a chunk is damaged; it is fetched again when offered");
        }
        end += HEADER_BYTES + u64::from(length);
    }
}
