//! The spool: messages, receipts, records and payloads that outlive a crash.
//!
//! Owns the bytes at rest and their references. Never decides what to keep: the relay core says so by [`Op`]s. Never
//! reads a clock. Guarantees: what `commit`, `store` and `finish` returned `Ok` for survives a power cut; what was read
//! is what was written, or an error; nothing that does not decode vanishes, it goes to quarantine. After a failed write
//! or fsync the store refuses every later write until it is opened again; a full disk only refuses what does not fit. DESIGN §9, `research/storage.md` §5.
//!
//! All calls block: use `spawn_blocking` or an own thread. [`DiskSpool`] is the real one, [`MemorySpool`] behaves the
//! same for simulations and tests.

use std::path::PathBuf;

use bytes::Bytes;
use tram_proto::frame::Range;
use tram_proto::id::{CertHash, Digest, MessageId, NodeId};
use tram_proto::manifest::Layout;
use tram_proto::name::Inbox;
use tram_proto::receipt::State;
use tram_proto::row::{MessageRow, NodeRow};
use tram_proto::statement::Signed;
use tram_relay::input::{Held, Input, Row};
use tram_relay::output::{Op, Statement};

mod chain;
mod commit;
mod disk;
mod faults;
mod files;
mod index;
mod memory;
mod packs;
mod reserve;
mod restore;
mod rows;
mod salvage;
mod scrub;
mod seal;
mod sweep;
mod tables;
mod units;
mod upload;

#[cfg(test)]
mod tests;

pub use disk::{DiskOptions, DiskSpool};
pub use faults::{Access, FaultFiles};
pub use files::{DirFiles, Files, Lock, Open, OpenFile, Space};
pub use memory::MemorySpool;

/// How long a payload without a reference is kept when nothing else is said: 1 h, in milliseconds.
pub const GRACE_MS: u64 = 3600 * 1000;
/// With less room than this, in bytes, messages matter more than what might be asked for again.
pub const LOW_ROOM_BYTES: u64 = 64 << 20;
/// The grace then, in milliseconds: long enough for a commit that is just about to refer to a payload.
const LOW_ROOM_GRACE_MS: u64 = 10 * 1000;

/// Why the spool did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Another process has it open.
    #[error("the spool {} is in use by another tramd; stop that one or choose another --dir", path.display())]
    Taken {
        /// The spool's directory.
        path: PathBuf,
    },
    /// A newer release wrote it.
    #[error("the spool {} has format {found}, this release knows up to {known}; install the newer tramd again", path.display())]
    Newer {
        /// The spool's directory.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Another node's messages lie there.
    #[error("the spool {} belongs to node {found}, this is node {node}; give each node a --dir of its own", path.display())]
    OtherNode {
        /// The spool's directory.
        path: PathBuf,
        /// The node that it belongs to.
        found: NodeId,
        /// This node.
        node: NodeId,
    },
    /// It cannot be written.
    #[error("the spool {} cannot be written ({cause}); mount it writable and give it to the user that tramd runs as", path.display())]
    ReadOnly {
        /// The spool's directory.
        path: PathBuf,
        /// What the system says.
        cause: String,
    },
    /// The disk or the store's file failed. After a failed write only a restart helps.
    #[error("cannot {doing} in the spool {}: {cause}; check the disk, then restart tramd", path.display())]
    Failed {
        /// The spool's directory or file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What came of it.
        cause: String,
    },
    /// An earlier write failed, so none is taken any more.
    #[error("the spool {} takes no writes since one failed ({cause}); check the disk, then restart tramd", path.display())]
    Stopped {
        /// The spool's directory.
        path: PathBuf,
        /// The first failure.
        cause: String,
    },
    /// No room. Nothing was changed, and the same call may succeed later.
    #[error("the spool {} is full: {room_bytes} bytes are free for messages, {needed_bytes} are needed; free disk space or raise [spool] max", path.display())]
    Full {
        /// The spool's directory.
        path: PathBuf,
        /// What is free, in bytes.
        room_bytes: u64,
        /// What it takes, in bytes.
        needed_bytes: u64,
    },
    /// The disk gave back other bytes than were written. The unit is forgotten, so that it can be fetched again.
    #[error("unit {unit} of payload {root} is damaged in the spool {}; it is fetched again when offered; check the disk", path.display())]
    Damaged {
        /// The spool's directory.
        path: PathBuf,
        /// The payload.
        root: Digest,
        /// The unit's number.
        unit: u64,
    },
    /// It is not there (any more).
    #[error("the spool {} has no {what} {which}; ask again from what it lists now", path.display())]
    Missing {
        /// The spool's directory.
        path: PathBuf,
        /// What kind of thing.
        what: &'static str,
        /// Which one.
        which: String,
    },
    /// It is there but does not decode.
    #[error("{what} {which} in the spool {} does not decode: {why}; a restart moves it to quarantine", path.display())]
    Unreadable {
        /// The spool's directory.
        path: PathBuf,
        /// What kind of thing.
        what: &'static str,
        /// Which one.
        which: String,
        /// What is wrong.
        why: String,
    },
    /// The caller broke a rule; nothing was changed. A fault of this program.
    #[error("the spool {} refused a call: {why}; report this as a bug", path.display())]
    Misuse {
        /// The spool's directory.
        path: PathBuf,
        /// Which rule.
        why: &'static str,
    },
}

/// What a node finds of itself at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// What it remembered of itself; `None`: a new spool, so a new incarnation.
    pub node: Option<NodeRow>,
    /// Inboxes declared here, in order of their names.
    pub inboxes: Vec<Inbox>,
    /// The first row no message or receipt uses, at least 1.
    pub next_row: u64,
}

/// Room for messages and payloads, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Free now; 0 while something else has filled the disk.
    pub free_bytes: u64,
    /// What they may take at all: free and taken now, or the configured limit.
    pub total_bytes: u64,
}

/// A unit that the disk did not give back as it was written. It is no longer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The payload.
    pub root: Digest,
    /// Its layout.
    pub layout: Layout,
    /// The unit's number.
    pub unit: u64,
}

/// What [`Spool::scrub`] came over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Chunks read.
    pub chunks: u64,
    /// Heads and pages read.
    pub pages: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Chunks that were damaged; several payloads may share one.
    pub damaged_chunks: u64,
    /// Units of payloads that are damaged therefore.
    pub damaged: Vec<Damage>,
}

/// A message as it lies in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its row.
    pub row: Row,
    /// What the node remembers of it.
    pub message: MessageRow,
    /// Body and signature.
    pub envelope: Signed,
    /// Root and length of a chunked payload this row holds a reference to.
    pub payload: Option<(Digest, u64)>,
    /// The payload lies beside the row.
    pub inline: bool,
    /// The node is done with it and only remembers it.
    pub settled: bool,
}

/// A payload on its way in from an application. Dropping it gives up what was written.
pub trait Upload: Send {
    /// Takes the next bytes, in parts of any size.
    ///
    /// # Errors
    /// [`SpoolError::Full`] when they do not fit; the upload is then of no use any more.
    fn push(&mut self, part: Bytes) -> Result<(), SpoolError>;

    /// Makes it durable; answers root and length in bytes. It lives for one grace period until a message refers to it.
    ///
    /// # Errors
    /// [`SpoolError`]; nothing of it can be used then.
    fn finish(self: Box<Self>) -> Result<(Digest, u64), SpoolError>;
}

/// A node's durable store. Object safe; every call blocks.
///
/// Every method answers [`SpoolError::Failed`] when the disk fails, and those that write [`SpoolError::Stopped`] from
/// then on; only other errors are named below.
pub trait Spool: Send + Sync + 'static {
    /// Hands everything remembered to `each` as `Restored*` inputs: neighbours, records, sequences, keys, messages by
    /// row, receipts by row. What does not decode goes to quarantine with an error in the log, and the rest goes on.
    ///
    /// # Errors
    /// See the trait.
    fn restore(&self, each: &mut dyn FnMut(Input)) -> Result<Restored, SpoolError>;

    /// Makes all operations durable together or none of them, in order. Every statement is signed by now.
    ///
    /// # Errors
    /// [`SpoolError::Missing`] when a changed message is not there, [`SpoolError::Misuse`] for an unsigned statement.
    fn commit(&self, ops: &[Op]) -> Result<(), SpoolError>;

    /// A message's envelope.
    ///
    /// # Errors
    /// [`SpoolError::Missing`], [`SpoolError::Unreadable`].
    fn envelope(&self, row: Row) -> Result<Signed, SpoolError>;

    /// A message's payload, when it lies beside the row.
    ///
    /// # Errors
    /// See the trait.
    fn inline(&self, row: Row) -> Result<Option<Bytes>, SpoolError>;

    /// A message, live or settled.
    ///
    /// # Errors
    /// [`SpoolError::Unreadable`].
    fn message(&self, row: Row) -> Result<Option<StoredMessage>, SpoolError>;

    /// The row of a message, live or settled; the newest when there are several.
    ///
    /// # Errors
    /// See the trait.
    fn find(&self, id: &MessageId) -> Result<Option<Row>, SpoolError>;

    /// A receipt on its way.
    ///
    /// # Errors
    /// [`SpoolError::Missing`], [`SpoolError::Unreadable`].
    fn receipt(&self, row: Row) -> Result<Signed, SpoolError>;

    /// The receipts that came home for a message, by ordinal and state.
    ///
    /// # Errors
    /// [`SpoolError::Unreadable`].
    fn kept_receipts(&self, id: &MessageId) -> Result<Vec<(u32, State, Signed)>, SpoolError>;

    /// A signer's chain, leaf first, DER.
    ///
    /// # Errors
    /// See the trait.
    fn chain(&self, leaf: &CertHash) -> Result<Option<Vec<Bytes>>, SpoolError>;

    /// Keeps a chain under the hash of its leaf; costs nothing when it is known.
    ///
    /// # Errors
    /// [`SpoolError::Misuse`] when it is empty.
    fn put_chain(&self, chain: &[Bytes]) -> Result<(), SpoolError>;

    /// Up to `limit` messages below row `before`, newest first. What does not decode is left out and logged.
    ///
    /// # Errors
    /// See the trait.
    fn list(&self, limit: usize, before: Option<Row>) -> Result<Vec<StoredMessage>, SpoolError>;

    /// The durable units of a payload, also chunks that came with another one. They stay for one grace period, longer
    /// while a message refers to the payload.
    ///
    /// # Errors
    /// See the trait.
    fn held(&self, root: Digest, layout: Layout) -> Result<Held, SpoolError>;

    /// One unit of a payload, held against its hash.
    ///
    /// # Errors
    /// [`SpoolError::Missing`], [`SpoolError::Damaged`].
    fn unit(&self, root: Digest, layout: Layout, unit: u64) -> Result<Bytes, SpoolError>;

    /// Stores consecutive units that the caller has verified; they are durable when it returns. Concurrent callers
    /// share an fsync.
    ///
    /// # Errors
    /// [`SpoolError::Full`], [`SpoolError::Misuse`] for units that do not fit the layout.
    fn store(&self, root: Digest, layout: Layout, first: u64, units: Vec<Bytes>) -> Result<(), SpoolError>;

    /// Begins a payload that an application sends.
    fn upload(&self) -> Box<dyn Upload>;

    /// How much messages and payloads may take: what acknowledgements and receipts need is already taken off.
    fn room(&self) -> Room;

    /// Deletes payloads that nothing refers to and nobody asked for during the grace period, counted from the first
    /// sweep that finds them so. With less room than [`LOW_ROOM_BYTES`] the grace is 10 s. Call it every few minutes,
    /// and every few seconds while the room is that low.
    ///
    /// # Errors
    /// See the trait.
    fn sweep(&self, now_ms: u64) -> Result<(), SpoolError>;

    /// Reads every chunk and page, and forgets those that are damaged, so that they are fetched again. Between steps of at
    /// most 16 MiB it says how far it is; `go_on` may wait, or end it by `false`.
    ///
    /// # Errors
    /// See the trait.
    fn scrub(&self, go_on: &mut dyn FnMut(&Scrubbed) -> bool) -> Result<Scrubbed, SpoolError>;
}

/// The signed form of a statement, if it has one by now.
const fn signed(statement: &Statement) -> Option<&Signed> {
    match statement {
        Statement::Signed(signed) => Some(signed),
        Statement::ToSign(..) => None,
    }
}

/// Joins unit numbers, given in ascending order, to ranges.
fn ranges(units: impl IntoIterator<Item = u64>) -> Vec<Range> {
    let mut out: Vec<Range> = Vec::new();
    for unit in units {
        match out.last_mut() {
            Some(last) if last.end() == unit => last.count += 1,
            _ => out.push(Range { first: unit, count: 1 }),
        }
    }
    out
}

/// Whether `units` from `first` on have the numbers and lengths of the layout.
fn fits(layout: Layout, first: u64, units: &[Bytes]) -> bool {
    units.iter().zip(first..).all(|(bytes, n)| layout.unit(n).is_some_and(|u| layout.unit_bytes(u) == bytes.len()))
}
