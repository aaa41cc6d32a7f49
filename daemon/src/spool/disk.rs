//! The spool on a disk: one redb file for rows and indexes, packs for chunks, a reserve, one lock file.
//!
//! Owns opening, the single writer's transactions and fail-stop: the first failed write or fsync makes every later write
//! refuse, because after it nobody knows what the disk holds. A full disk is no such failure: what meets it is rolled back,
//! and may be tried again. `research/storage.md` §3, §5.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable};
use tram_proto::id::{CertHash, Digest, MessageId, NodeId};
use tram_proto::limits::PAGE_HASHES;
use tram_proto::manifest::Layout;
use tram_proto::receipt::State;
use tram_proto::row::MessageRow;
use tram_proto::statement::Signed;
use tram_relay::input::{Held, Input, Row};
use tram_relay::output::Op;

use super::files::{DirFiles, Files, Lock, Open};
use super::index::{Arrival, arrive};
use super::packs::{Location, Packs, Syncer, scan};
use super::reserve::Reserve;
use super::rows::{Rows, is_full};
use super::salvage::Salvage;
use super::seal::is_whole;
use super::sweep::Leases;
use super::tables::{
    ENVELOPES, FORMAT, Fault, IDS, INLINE, KEPT, MESSAGES, META, PACKS, PAYLOADS, RECEIPTS, SETTLED, Tables, get,
};
use super::units::Stores;
use super::upload::DiskUpload;
use super::{GRACE_MS, Restored, Room, Scrubbed, Spool, SpoolError, StoredMessage, Upload};

/// How a [`DiskSpool`] uses its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Messages and payloads take at most so many bytes.
    pub max_bytes: u64,
    /// Free bytes of the filesystem that are left for acknowledgements and receipts.
    pub keep_free_bytes: u64,
    /// Memory of redb's page cache, in bytes.
    pub cache_bytes: usize,
    /// A pack ends at this size, in bytes.
    pub pack_bytes: u64,
    /// Bytes that are set aside on the disk, so that acknowledgements and receipts find room when something else has
    /// filled it.
    pub reserve_bytes: u64,
    /// How long a payload without a reference is kept, in milliseconds.
    pub grace_ms: u64,
    /// Whose spool it is. A new one, or one that does not know yet, becomes its own; another's is refused.
    pub node: Option<NodeId>,
    /// No thread syncs packs, those who wait do: a simulation then sees the same operations in the same order.
    pub inline_sync: bool,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            max_bytes: u64::MAX,
            keep_free_bytes: 64 << 20,
            cache_bytes: 4 << 20,
            pack_bytes: 512 << 20,
            reserve_bytes: 64 << 20,
            grace_ms: GRACE_MS,
            node: None,
            inline_sync: false,
        }
    }
}

/// What all calls and uploads of an open spool share.
pub(super) struct Inner {
    pub(super) path: PathBuf,
    pub(super) options: DiskOptions,
    on: Arc<dyn Files>,
    rows: Rows,
    pub(super) reserve: Reserve,
    pub(super) packs: Arc<Packs>,
    _syncer: Syncer,
    pub(super) leases: Mutex<Leases>,
    pub(super) stores: Mutex<Stores>,
    pub(super) stored: Condvar,
    pub(super) known_chains: Mutex<BTreeSet<CertHash>>,
    message_bytes: AtomicU64,
    stopped: OnceLock<String>,
    // Dropped last: until then the directory is ours.
    _owner: Lock,
}

impl Inner {
    fn refuse_when_stopped(&self) -> Result<(), SpoolError> {
        match self.stopped.get() {
            Some(cause) => Err(SpoolError::Stopped { path: self.path.clone(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Runs one durable transaction, on a full disk with the reserve.
    pub(super) fn write<T>(
        &self,
        doing: &'static str,
        mut change: impl FnMut(&mut Tables<'_>) -> Result<T, Fault>,
    ) -> Result<T, SpoolError> {
        self.refuse_when_stopped()?;
        let mut result = self.rows.write(&mut change);
        if let Err(Fault::Full) = result
            && self.give_back(doing)?
        {
            result = self.rows.write(&mut change);
        }
        result.map_err(|fault| self.write_failed(doing, fault))
    }

    /// Runs something else that writes, under the same rules.
    pub(super) fn writing<T>(&self, doing: &'static str, act: impl FnOnce() -> io::Result<T>) -> Result<T, SpoolError> {
        self.refuse_when_stopped()?;
        act().map_err(|error| {
            if !is_full(&error) {
                return self.write_failed(doing, error.into());
            }
            // For what must be written now; payloads are refused.
            self.give_back(doing).err().unwrap_or_else(|| self.full(0))
        })
    }

    fn give_back(&self, doing: &'static str) -> Result<bool, SpoolError> {
        self.reserve.give_back().map_err(|error| self.write_failed(doing, error.into()))
    }

    pub(super) fn read<T>(
        &self,
        doing: &'static str,
        mut look: impl FnMut(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, SpoolError> {
        self.rows.read(&mut look).map_err(|fault| failed(&self.path, doing, fault))
    }

    pub(super) fn failed(&self, doing: &'static str, error: io::Error) -> SpoolError {
        failed(&self.path, doing, error.into())
    }

    fn write_failed(&self, doing: &'static str, fault: Fault) -> SpoolError {
        let passing = matches!(fault, Fault::Refused(_) | Fault::Full);
        let error = failed(&self.path, doing, fault);
        if !passing && self.stopped.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the spool takes no more writes");
        }
        error
    }

    pub(super) fn room(&self) -> Room {
        let (packed, ahead) = self.packs.bytes();
        let used = packed + self.message_bytes.load(Ordering::Relaxed);
        let free = self.on.space().map_or_else(
            |error| {
                tracing::error!(path = %self.path.display(), %error, "cannot tell how full the filesystem is");
                0
            },
            |space| space.free_bytes,
        );
        let free = free.saturating_add(ahead).saturating_sub(self.options.keep_free_bytes);
        let total_bytes = used.saturating_add(free).min(self.options.max_bytes);
        let free_bytes = if self.reserve.is_held() { total_bytes.saturating_sub(used) } else { 0 };
        Room { free_bytes, total_bytes }
    }

    /// Gives back the space of chunks that never came into the index. Once a write has failed, nobody knows whether they did.
    pub(super) fn forsake(&self, chunks: Vec<Location>) {
        if self.stopped.get().is_none() {
            self.packs.give_back(chunks);
        }
    }

    /// Refuses what does not fit.
    pub(super) fn need(&self, needed_bytes: u64) -> Result<(), SpoolError> {
        if needed_bytes > self.room().free_bytes { Err(self.full(needed_bytes)) } else { Ok(()) }
    }

    fn full(&self, needed_bytes: u64) -> SpoolError {
        SpoolError::Full { path: self.path.clone(), room_bytes: self.room().free_bytes, needed_bytes }
    }

    pub(super) fn missing(&self, what: &'static str, which: impl ToString) -> SpoolError {
        SpoolError::Missing { path: self.path.clone(), what, which: which.to_string() }
    }

    pub(super) fn unreadable(&self, what: &'static str, which: impl ToString, why: impl ToString) -> SpoolError {
        SpoolError::Unreadable { path: self.path.clone(), what, which: which.to_string(), why: why.to_string() }
    }

    fn signed(&self, what: &'static str, which: impl ToString, bytes: &[u8]) -> Result<Signed, SpoolError> {
        Signed::decode(Bytes::copy_from_slice(bytes)).map_err(|why| self.unreadable(what, which, why))
    }
}

fn failed(path: &Path, doing: &'static str, fault: Fault) -> SpoolError {
    let cause = match fault {
        Fault::Refused(error) => return error,
        Fault::Full => return SpoolError::Full { path: path.to_owned(), room_bytes: 0, needed_bytes: 0 },
        Fault::Store(error) => error.to_string(),
        Fault::Damaged(cause) => cause,
        Fault::Io(error) => {
            let cause = error.to_string();
            if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) {
                return SpoolError::ReadOnly { path: path.to_owned(), cause };
            }
            cause
        }
    };
    SpoolError::Failed { path: path.to_owned(), doing, cause }
}

/// The spool of a daemon. Cheap to share as `Arc<dyn Spool>`.
pub struct DiskSpool {
    inner: Arc<Inner>,
}

impl DiskSpool {
    /// Opens the spool in a directory, making it (mode 0700) when it is not there.
    ///
    /// What was appended to packs but never acknowledged is cut off. Without its redb file (`spool.redb`), a spool begins
    /// a new life, and the chunks in its packs are found again by scanning them; what can be read of a damaged one is taken over.
    ///
    /// # Errors
    /// [`SpoolError::Taken`], [`SpoolError::Newer`], [`SpoolError::OtherNode`], [`SpoolError::ReadOnly`],
    /// [`SpoolError::Full`], [`SpoolError::Failed`].
    pub fn open(path: &Path, options: DiskOptions) -> Result<Self, SpoolError> {
        let files = DirFiles::new(path).map_err(|error| failed(path, "open the store", error.into()))?;
        Self::open_on(Arc::new(files), options)
    }

    /// Opens the spool in these files, as [`Self::open`] does.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(files: Arc<dyn Files>, options: DiskOptions) -> Result<Self, SpoolError> {
        let path = files.path().to_owned();
        open(files, options)
            .map(|inner| Self { inner: Arc::new(inner) })
            .map_err(|f| failed(&path, "open the store", f))
    }
}

fn open(on: Arc<dyn Files>, options: DiskOptions) -> Result<Inner, Fault> {
    let path = on.path().to_owned();
    let owner = on.lock()?.ok_or_else(|| SpoolError::Taken { path: path.clone() })?;
    let rows = rows(&on, options)?;
    let (known, message_bytes) = rows.read(&mut |txn| known(txn, &path))?;
    if let Some(node) = options.node {
        own(&rows, &path, node)?;
    }
    let reserve = Reserve::open(Arc::clone(&on), options.reserve_bytes)?;
    on.sync_dir("")?;
    let (packs, syncer) = Packs::open(Arc::clone(&on), options.pack_bytes, options.inline_sync, &known)?;
    Ok(Inner {
        path,
        options,
        on,
        rows,
        reserve,
        packs,
        _syncer: syncer,
        leases: Mutex::default(),
        stores: Mutex::default(),
        stored: Condvar::new(),
        known_chains: Mutex::default(),
        message_bytes: AtomicU64::new(message_bytes),
        stopped: OnceLock::new(),
        _owner: owner,
    })
}

/// The redb file; a new one when there is none, or when the one that is there is damaged. What can still be read of that
/// goes into the new one, and it is kept beside it.
fn rows(on: &Arc<dyn Files>, options: DiskOptions) -> Result<Rows, Fault> {
    let mut damage = None;
    if Rows::there(on.as_ref())? {
        match Rows::open(Arc::clone(on), options.cache_bytes) {
            Err(Fault::Full) => {
                // Opening writes a little, and what was set aside is set aside for such moments.
                on.open(super::reserve::NAME, Open::OrNew)?.set_len(0)?;
                return Rows::open(Arc::clone(on), options.cache_bytes);
            }
            Err(Fault::Damaged(why)) => damage = Some(why),
            opened => return opened,
        }
    }
    Rows::create(Arc::clone(on), options.cache_bytes, &mut |t| {
        t.meta.insert("format", FORMAT)?;
        rebuild(t, on.as_ref())?;
        if let Some(why) = &damage {
            let path = on.path().display();
            tracing::error!(%path, %why, "the spool's index is damaged; what can be read of it is taken over");
            let mut salvage = Salvage::new(on.open(super::rows::NAME, Open::Existing)?);
            salvage.run(t)?;
            let (kept, taken, broken) = (Rows::keep(on.as_ref())?, salvage.taken, salvage.broken);
            tracing::error!(%path, taken, ?broken, %kept, "messages may be lost here: this node begins a new life, and \
                origins offer again; check the disk");
        }
        Ok(())
    })
}

/// Makes sure that the spool is this node's.
fn own(rows: &Rows, path: &Path, node: NodeId) -> Result<(), Fault> {
    let halves = |id: NodeId| {
        let (high, low) = id.0.split_at(8);
        [high, low].map(|half| half.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let found = rows.read(&mut |txn| {
        let meta = txn.open_table(META)?;
        Ok(get(&meta, "node_high")?.zip(get(&meta, "node_low")?))
    })?;
    let [high, low] = halves(node);
    match found {
        Some(found) if found == (high, low) => Ok(()),
        Some((high, low)) => {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&high.to_be_bytes());
            id[8..].copy_from_slice(&low.to_be_bytes());
            Err(SpoolError::OtherNode { path: path.to_owned(), found: NodeId(id), node }.into())
        }
        None => rows.write(&mut |t| {
            t.meta.insert("node_high", high)?;
            t.meta.insert("node_low", low)?;
            Ok(())
        }),
    }
}

/// Where the indexed part of each pack ends, and how many bytes messages take.
fn known(txn: &ReadTransaction, path: &Path) -> Result<(BTreeMap<u32, u64>, u64), Fault> {
    let meta = txn.open_table(META)?;
    let found = get(&meta, "format")?.unwrap_or(0);
    if found != FORMAT {
        return Err(SpoolError::Newer { path: path.to_owned(), found, known: FORMAT }.into());
    }
    let mut known = BTreeMap::new();
    for row in txn.open_table(PACKS)?.iter()? {
        let (pack, value) = row?;
        known.insert(pack.value(), value.value().0);
    }
    Ok((known, get(&meta, "message_bytes")?.unwrap_or(0)))
}

/// Makes the chunk index again from the packs. The chunks of each pack become a payload of their own that nothing refers
/// to, so that the sweep takes those which no payload names before its grace ends.
fn rebuild(t: &mut Tables<'_>, on: &dyn Files) -> Result<(), Fault> {
    for pack in super::packs::numbers(on)? {
        let mut chunks: BTreeMap<Digest, Location> = BTreeMap::new();
        scan(on, pack, &mut |hash, at| {
            chunks.insert(hash, at);
        })?;
        tracing::warn!(pack, chunks = chunks.len(), "a pack without an index: its chunks were found again");
        let hashes: Vec<&[u8]> = chunks.keys().map(|hash| hash.0.as_slice()).collect();
        let pages = hashes.chunks(PAGE_HASHES).zip(1..).map(|(page, n)| (n, Bytes::from(page.concat()))).collect();
        let root = Digest::of(&[b"tram/1/found again".as_slice(), &pack.to_be_bytes()].concat());
        arrive(t, &Arrival { root, bytes: 0, manifest: pages, chunks: chunks.into_iter().collect() }, &mut Vec::new())?;
    }
    Ok(())
}

impl Inner {
    fn envelope(&self, row: u64, bytes: &[u8]) -> Result<Signed, SpoolError> {
        if !is_whole("envelope", row, bytes) {
            return Err(self.unreadable("envelope", row, "its check does not fit"));
        }
        self.signed("envelope", row, bytes)
    }

    fn stored_message(&self, txn: &ReadTransaction, row: u64, bytes: &[u8]) -> Result<StoredMessage, Fault> {
        if !is_whole("message", row, bytes) {
            return Err(self.unreadable("message", row, "its check does not fit").into());
        }
        let message = MessageRow::decode(bytes).map_err(|why| self.unreadable("message", row, why))?;
        let envelope = txn.open_table(ENVELOPES)?.get(row)?;
        let envelope = envelope.ok_or_else(|| self.unreadable("message", row, "its envelope is gone"))?;
        Ok(StoredMessage {
            row: Row(row),
            message,
            envelope: self.envelope(row, envelope.value())?,
            payload: txn.open_table(PAYLOADS)?.get(row)?.map(|v| (Digest(*v.value().0), v.value().1)),
            inline: txn.open_table(INLINE)?.get(row)?.is_some(),
            settled: txn.open_table(SETTLED)?.get(row)?.is_some(),
        })
    }
}

impl Spool for DiskSpool {
    fn restore(&self, each: &mut dyn FnMut(Input)) -> Result<Restored, SpoolError> {
        super::restore::restore(&self.inner, each)
    }

    fn commit(&self, ops: &[Op]) -> Result<(), SpoolError> {
        let bytes = self.inner.write("commit", |t| super::commit::apply(t, &self.inner, ops))?;
        self.inner.message_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn envelope(&self, row: Row) -> Result<Signed, SpoolError> {
        self.inner.read("read an envelope", |txn| {
            let found = txn.open_table(ENVELOPES)?.get(row.0)?;
            let found = found.ok_or_else(|| self.inner.missing("envelope of row", row.0))?;
            Ok(self.inner.envelope(row.0, found.value())?)
        })
    }

    fn inline(&self, row: Row) -> Result<Option<Bytes>, SpoolError> {
        self.inner.read("read a payload", |txn| {
            Ok(txn.open_table(INLINE)?.get(row.0)?.map(|v| Bytes::copy_from_slice(v.value())))
        })
    }

    fn message(&self, row: Row) -> Result<Option<StoredMessage>, SpoolError> {
        self.inner.read("read a message", |txn| {
            let found = txn.open_table(MESSAGES)?.get(row.0)?;
            found.map(|bytes| self.inner.stored_message(txn, row.0, bytes.value())).transpose()
        })
    }

    fn find(&self, id: &MessageId) -> Result<Option<Row>, SpoolError> {
        self.inner.read("find a message", |txn| {
            let Some(row) = get(&txn.open_table(IDS)?, &id.0)? else { return Ok(None) };
            // The row may have gone to quarantine, and its number to another message.
            let message = txn.open_table(MESSAGES)?.get(row)?.map(|bytes| MessageRow::decode(bytes.value()));
            Ok(message.is_some_and(|m| m.is_ok_and(|m| m.id == *id)).then_some(Row(row)))
        })
    }

    fn receipt(&self, row: Row) -> Result<Signed, SpoolError> {
        self.inner.read("read a receipt", |txn| {
            let found = txn.open_table(RECEIPTS)?.get(row.0)?;
            let found = found.ok_or_else(|| self.inner.missing("receipt in row", row.0))?;
            Ok(self.inner.signed("receipt", row.0, found.value().1)?)
        })
    }

    fn kept_receipts(&self, id: &MessageId) -> Result<Vec<(u32, State, Signed)>, SpoolError> {
        self.inner.read("read receipts", |txn| {
            let mut out = Vec::new();
            for found in txn.open_table(KEPT)?.range((&id.0, 0, 0)..=(&id.0, u32::MAX, u32::MAX))? {
                let (key, value) = found?;
                let (_, ordinal, state) = key.value();
                let state = State::from_number(state).map_err(|why| self.inner.unreadable("receipt of", id, why))?;
                out.push((ordinal, state, self.inner.signed("receipt of", id, value.value().1)?));
            }
            Ok(out)
        })
    }

    fn chain(&self, leaf: &CertHash) -> Result<Option<Vec<Bytes>>, SpoolError> {
        super::chain::read(&self.inner, leaf)
    }

    fn put_chain(&self, chain: &[Bytes]) -> Result<(), SpoolError> {
        super::chain::put(&self.inner, chain)
    }

    fn list(&self, limit: usize, before: Option<Row>) -> Result<Vec<StoredMessage>, SpoolError> {
        self.inner.read("list messages", |txn| {
            let mut out = Vec::new();
            for found in txn.open_table(MESSAGES)?.range(..before.map_or(u64::MAX, |row| row.0))?.rev() {
                if out.len() == limit {
                    break;
                }
                let (row, bytes) = found?;
                match self.inner.stored_message(txn, row.value(), bytes.value()) {
                    Ok(message) => out.push(message),
                    Err(Fault::Refused(error)) => tracing::error!(%error, "left out of a list"),
                    Err(fault) => return Err(fault),
                }
            }
            Ok(out)
        })
    }

    fn held(&self, root: Digest, layout: Layout) -> Result<Held, SpoolError> {
        super::units::held(&self.inner, root, layout)
    }

    fn unit(&self, root: Digest, layout: Layout, unit: u64) -> Result<Bytes, SpoolError> {
        super::units::unit(&self.inner, root, layout, unit)
    }

    fn store(&self, root: Digest, layout: Layout, first: u64, units: Vec<Bytes>) -> Result<(), SpoolError> {
        super::units::store(&self.inner, root, layout, first, units)
    }

    fn upload(&self) -> Box<dyn Upload> {
        Box::new(DiskUpload::new(Arc::clone(&self.inner)))
    }

    fn room(&self) -> Room {
        self.inner.room()
    }

    fn sweep(&self, now_ms: u64) -> Result<(), SpoolError> {
        super::sweep::sweep(&self.inner, now_ms)
    }

    fn scrub(&self, go_on: &mut dyn FnMut(&Scrubbed) -> bool) -> Result<Scrubbed, SpoolError> {
        super::scrub::scrub(&self.inner, go_on)
    }
}
