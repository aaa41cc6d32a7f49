//! Taking what is readable out of a damaged redb file into a new one.
//!
//! Owns reading around damage: the file is opened as a reader beside a writer would, which needs neither its allocator nor
//! a repair; each table is read forward until something makes no sense and then backward until the same, so that a damaged
//! page costs the rows in it. What decodes wrongly is found by `restore`, which holds envelopes against their ids. What can
//! be derived (references, ids, sizes, where chunks lie) is made anew. Never writes to the damaged file.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    BackendError, Builder, ConcurrencyMode, Key, ReadOnlyDatabase, ReadableDatabase, ReadableTable, Table,
    TableDefinition, Value,
};
use tram_proto::envelope::Body;
use tram_proto::id::{Digest, Incarnation};
use tram_proto::manifest::root_of;
use tram_proto::row::{MessageRow, NodeRow};
use tram_proto::statement::Signed;

use super::files::OpenFile;
use super::index::{Arrival, arrive, refer};
use super::tables::{
    CHAINS, ENVELOPES, Fault, INBOXES, INLINE, KEPT, KEPT_UNTIL, KEYS, KEYS_UNTIL, MESSAGES, NEIGHBORS, NODE, OBJECTS,
    PAYLOADS, QUARANTINE, RECEIPTS, RECORDS, SEQUENCES, SETTLED, SETTLED_UNTIL, Tables, UNITS,
};

/// Entries read at once.
const STEP: usize = 1024;
/// The flags of a redb file, and the one that says that it was not closed: `docs/design.md` of redb.
const FLAGS_AT: usize = 9;
const NOT_CLOSED: u8 = 2;
const HEADER_BYTES: usize = 4096;

/// The damaged file without the flag that only a writer could clear.
#[derive(Debug)]
struct Damaged {
    file: Arc<dyn OpenFile>,
    header: [u8; HEADER_BYTES],
}

fn read_only() -> io::Error {
    io::ErrorKind::Unsupported.into()
}

impl redb::StorageBackend for Damaged {
    fn len(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(out, offset)?;
        let from = usize::try_from(offset).unwrap_or(HEADER_BYTES).min(HEADER_BYTES);
        let count = out.len().min(HEADER_BYTES - from);
        out[..count].copy_from_slice(&self.header[from..from + count]);
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(read_only())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(read_only())
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}

/// Reads tables of a damaged file.
pub(super) struct Salvage {
    file: Arc<dyn OpenFile>,
    /// Entries taken over.
    pub(super) taken: u64,
    /// Tables that were not read from end to end.
    pub(super) broken: Vec<String>,
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
/// Gets a key and a value.
type Take<'t> = dyn FnMut(&[u8], &[u8]) -> Result<(), Fault> + 't;

/// How a step of reading ended.
#[derive(PartialEq, Eq)]
enum Step {
    More,
    End,
    Broken,
}

impl Salvage {
    pub(super) fn new(file: Arc<dyn OpenFile>) -> Self {
        Self { file, taken: 0, broken: Vec::new() }
    }

    fn open(&self) -> Option<ReadOnlyDatabase> {
        let mut header = [0; HEADER_BYTES];
        self.file.read_at(&mut header, 0).ok()?;
        header[FLAGS_AT] &= !NOT_CLOSED;
        let mut builder = Builder::new();
        builder.set_cache_size(1 << 20).set_concurrency_mode(ConcurrencyMode::SingleWriter);
        let backend = Damaged { file: Arc::clone(&self.file), header };
        catch_unwind(AssertUnwindSafe(|| builder.open_read_only_with_backend(backend).ok())).ok().flatten()
    }

    /// Reads some pairs behind (or before) a key. Whatever redb does over damage ends the step.
    fn step<K: Key, V: Value>(
        db: &ReadOnlyDatabase,
        table: TableDefinition<'_, K, V>,
        beside: Option<&[u8]>,
        backward: bool,
        out: &mut Pairs,
    ) -> Step {
        let read = AssertUnwindSafe(|| {
            let table = match db.begin_read().map(|txn| txn.open_table(table)) {
                Ok(Ok(table)) => table,
                Ok(Err(redb::TableError::TableDoesNotExist(_))) => return Ok(Step::End),
                _ => return Err(()),
            };
            let bound = beside.map_or(Bound::Unbounded, |key| Bound::Excluded(K::from_bytes(key)));
            let range = if backward { (Bound::Unbounded, bound) } else { (bound, Bound::Unbounded) };
            let mut range = table.range::<K::SelfType<'_>>(range).map_err(drop)?;
            while out.len() < STEP {
                let Some(entry) = (if backward { range.next_back() } else { range.next() }) else {
                    return Ok(Step::End);
                };
                let (key, value) = entry.map_err(drop)?;
                let pair = (K::as_bytes(&key.value()).as_ref().to_vec(), V::as_bytes(&value.value()).as_ref().to_vec());
                let before = out.last().map(|(key, _)| key.as_slice()).or(beside);
                let order = if backward { std::cmp::Ordering::Greater } else { std::cmp::Ordering::Less };
                if before.is_some_and(|before| K::compare(before, &pair.0) != order) {
                    return Err(());
                }
                out.push(pair);
            }
            Ok(Step::More)
        });
        catch_unwind(read).map_or(Step::Broken, |step: Result<Step, ()>| step.unwrap_or(Step::Broken))
    }

    /// Hands out every pair of a table that can be read.
    fn each<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        each: &mut Take<'_>,
    ) -> Result<(), Fault> {
        let mut last_forward: Option<Vec<u8>> = None;
        for backward in [false, true] {
            // After an error redb refuses everything: open anew.
            let Some(db) = self.open() else { break };
            let mut last = None;
            loop {
                let mut pairs = Pairs::new();
                let step = Self::step(&db, table, last.as_deref(), backward, &mut pairs);
                for (key, value) in &pairs {
                    let met =
                        last_forward.as_ref().is_some_and(|end| K::compare(key, end) != std::cmp::Ordering::Greater);
                    if backward && met {
                        return Ok(());
                    }
                    self.taken += 1;
                    each(key, value)?;
                }
                last = pairs.pop().map(|(key, _)| key).or(last);
                match step {
                    Step::More => {}
                    Step::End => return Ok(()),
                    Step::Broken => break,
                }
            }
            if !backward {
                last_forward = last;
                self.broken.push(redb::TableHandle::name(&table).to_owned());
            }
        }
        Ok(())
    }

    fn copy<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        to: &mut Table<'_, K, V>,
    ) -> Result<(), Fault> {
        self.each(table, &mut |key, value| {
            to.insert(K::from_bytes(key), V::from_bytes(value))?;
            Ok(())
        })
    }

    /// Takes everything over. The packs have been scanned into the new tables before.
    pub(super) fn run(&mut self, t: &mut Tables<'_>) -> Result<(), Fault> {
        self.copy(MESSAGES, &mut t.messages)?;
        self.copy(ENVELOPES, &mut t.envelopes)?;
        self.copy(INLINE, &mut t.inline)?;
        self.copy(PAYLOADS, &mut t.payloads)?;
        self.copy(SETTLED, &mut t.settled)?;
        self.copy(SETTLED_UNTIL, &mut t.settled_until)?;
        self.copy(RECEIPTS, &mut t.receipts)?;
        self.copy(KEPT, &mut t.kept)?;
        self.copy(KEPT_UNTIL, &mut t.kept_until)?;
        self.copy(RECORDS, &mut t.records)?;
        self.copy(NODE, &mut t.node)?;
        self.copy(NEIGHBORS, &mut t.neighbors)?;
        self.copy(SEQUENCES, &mut t.sequences)?;
        self.copy(KEYS, &mut t.keys)?;
        self.copy(KEYS_UNTIL, &mut t.keys_until)?;
        self.copy(INBOXES, &mut t.inboxes)?;
        self.copy(CHAINS, &mut t.chains)?;
        self.copy(QUARANTINE, &mut t.quarantine)?;
        let mut lengths = BTreeMap::new();
        self.each(OBJECTS, &mut |root, value| {
            lengths.insert(root.to_vec(), <(u64, u64)>::from_bytes(value).0);
            Ok(())
        })?;
        self.each(UNITS, &mut |key, bytes| {
            let (root, unit) = <(&[u8; 32], u64)>::from_bytes(key);
            let length = lengths.get(root.as_slice()).copied().unwrap_or(0);
            let manifest = vec![(unit, Bytes::copy_from_slice(bytes))];
            arrive(t, &Arrival { root: Digest(*root), bytes: length, manifest, chunks: Vec::new() }, &mut Vec::new())
        })?;
        derive(t)
    }
}

/// Makes anew what follows from the rows, and begins a new life: neighbours must not believe that nothing was lost.
fn derive(t: &mut Tables<'_>) -> Result<(), Fault> {
    let (mut ids, mut parts, mut bytes) = (Vec::new(), Vec::new(), 0);
    for entry in t.messages.iter()? {
        let (row, message) = entry?;
        ids.extend(MessageRow::decode(message.value()).map(|message| (message.id, row.value())));
    }
    for entry in t.envelopes.iter()? {
        let (row, envelope) = entry?;
        bytes += envelope.value().len() as u64;
        let inline = t.inline.get(row.value())?;
        bytes += inline.as_ref().map_or(0, |inline| inline.value().len() as u64);
        let signed = Signed::decode(Bytes::copy_from_slice(envelope.value())).ok();
        let body = signed.and_then(|signed| Body::decode(&signed.statement).ok());
        let lost = match (body, inline) {
            (Some(body), Some(inline)) => root_of(inline.value()) != body.payload_root,
            (Some(body), None) => {
                let there = t.payloads.get(row.value())?.is_some() || t.settled.get(row.value())?.is_some();
                body.payload_bytes > 0 && !there
            }
            (None, _) => false,
        };
        if lost || t.messages.get(row.value())?.is_none() {
            parts.push((row.value(), envelope.value().to_vec()));
        }
    }
    for (id, row) in ids {
        t.ids.insert(&id.0, row)?;
    }
    let mut payloads = Vec::new();
    for entry in t.payloads.iter()? {
        let value = entry?.1;
        payloads.push((Digest(*value.value().0), value.value().1));
    }
    payloads.into_iter().try_for_each(|(root, bytes)| refer(t, root, bytes))?;
    for (row, envelope) in parts {
        // What else there is of the message follows when it is restored without its envelope.
        tracing::error!(row, "an envelope without its row or payload goes to quarantine");
        t.envelopes.remove(row)?;
        let next = t.quarantine.last()?.map_or(1, |(number, _)| number.value() + 1);
        t.quarantine.insert(next, ("envelopes", row.to_be_bytes().as_slice(), envelope.as_slice()))?;
    }
    t.meta.insert("message_bytes", bytes)?;
    let node = t.node.get(())?.and_then(|node| NodeRow::decode(node.value()).ok());
    if let Some(mut node) = node {
        let mut next = [0; 16];
        next.copy_from_slice(&Digest::of(&[b"tram/1/salvaged".as_slice(), &node.incarnation.0].concat()).0[..16]);
        node.incarnation = Incarnation(next);
        t.node.insert((), node.encode().as_ref())?;
    }
    Ok(())
}
