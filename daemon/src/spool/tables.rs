//! The tables of the spool's redb file: their form is the spool's format. Only plain reads, inserts and removals:
//! redb's in-place writes had bugs that lost what was written. `research/storage.md` §3.

use std::io;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::SpoolError;

/// The format this release writes.
pub(super) const FORMAT: u64 = 1;

pub(super) type Hash = &'static [u8; 32];
type Name = &'static [u8; 16];
type Raw = &'static [u8];
type Text = &'static str;

/// Where a chunk lies: pack (0: nowhere), offset and length of its bytes; and how often pages name it.
pub(super) type ChunkValue = (u32, u64, u32, u64);
/// A pack: where its indexed part ends, and the live chunks in it.
pub(super) type PackValue = (u64, u64);

macro_rules! tables {
    ($($(#[$doc:meta])* $field:ident $constant:ident: $key:ty => $value:ty;)*) => {
        $($(#[$doc])* pub(super) const $constant: TableDefinition<'static, $key, $value> =
            TableDefinition::new(stringify!($field));)*

        /// All tables, open for writing.
        pub(super) struct Tables<'t> {
            $($(#[$doc])* pub(super) $field: Table<'t, $key, $value>,)*
        }

        impl<'t> Tables<'t> {
            /// Opens them, making those that are not there.
            pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self, Fault> {
                Ok(Self { $($field: txn.open_table($constant)?,)* })
            }
        }
    };
}

tables! {
    /// "format", "message_bytes" (envelopes and inline payloads), "node_high" and "node_low" (whose spool it is).
    meta META: Text => u64;
    /// Message rows.
    messages MESSAGES: u64 => Raw;
    /// Envelopes, by row.
    envelopes ENVELOPES: u64 => Raw;
    /// Small payloads, by row.
    inline INLINE: u64 => Raw;
    /// Root and length of the payload a row refers to.
    payloads PAYLOADS: u64 => (Hash, u64);
    /// Rows by message id.
    ids IDS: Hash => u64;
    /// Until when a settled row is remembered.
    settled SETTLED: u64 => u64;
    /// The same, by time. An entry that the row has outlived means nothing.
    settled_until SETTLED_UNTIL: (u64, u64) => ();
    /// Receipts on their way: row and statement.
    receipts RECEIPTS: u64 => (Raw, Raw);
    /// Receipts that came home, by message, ordinal, state: until when, and the statement.
    kept KEPT: (Hash, u32, u32) => (u64, Raw);
    /// The same, by time.
    kept_until KEPT_UNTIL: (u64, Hash, u32, u32) => ();
    /// Node records.
    records RECORDS: Name => Raw;
    /// The node itself.
    node NODE: () => Raw;
    /// Neighbours.
    neighbors NEIGHBORS: Name => Raw;
    /// Last sequences, by sender inbox.
    sequences SEQUENCES: Text => u64;
    /// Idempotency keys, by user, sender and key: until when, and the row.
    keys KEYS: (u32, Text, Text) => (u64, Raw);
    /// The same, by time.
    keys_until KEYS_UNTIL: (u64, u32, Text, Text) => ();
    /// Next hops that are paused.
    paused PAUSED: Text => ();
    /// Declared inboxes.
    inboxes INBOXES: Text => ();
    /// Certificate chains by leaf, each certificate after its length.
    chains CHAINS: Hash => Raw;
    /// Payloads: length and references.
    objects OBJECTS: Hash => (u64, u64);
    /// Payloads without a reference: since when; 0 until a sweep has seen them.
    loose LOOSE: Hash => u64;
    /// Heads and pages of manifests.
    units UNITS: (Hash, u64) => Raw;
    /// Chunks.
    chunks CHUNKS: Hash => ChunkValue;
    /// Packs.
    packs PACKS: u32 => PackValue;
    /// What did not decode: table, key, value.
    quarantine QUARANTINE: u64 => (Text, Raw, Raw);
}

/// What goes wrong inside; [`super::disk::Inner`] turns it into an error with path and cure.
#[derive(Debug)]
pub(super) enum Fault {
    /// redb.
    Store(redb::Error),
    /// A pack or directory.
    Io(io::Error),
    /// Not the disk's fault.
    Refused(SpoolError),
    /// The disk is full; nothing was changed.
    Full,
    /// The redb file is not what was written.
    Damaged(String),
}

macro_rules! from_redb {
    ($($name:ident),*) => {$(
        impl From<redb::$name> for Fault {
            fn from(error: redb::$name) -> Self {
                Self::Store(error.into())
            }
        }
    )*};
}

from_redb!(StorageError, TableError, TransactionError, CommitError, DatabaseError, SetDurabilityError);

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<SpoolError> for Fault {
    fn from(error: SpoolError) -> Self {
        Self::Refused(error)
    }
}

/// A table's value by copy.
pub(super) fn get<'k, K, V>(
    table: &impl ReadableTable<K, V>,
    key: impl std::borrow::Borrow<K::SelfType<'k>>,
) -> Result<Option<V>, Fault>
where
    K: redb::Key + 'static,
    V: for<'a> redb::Value<SelfType<'a> = V> + 'static,
{
    Ok(table.get(key)?.map(|v| v.value()))
}
