//! The spool without a disk: for simulations and tests. Behaves as [`super::DiskSpool`] does; a model test holds them
//! together. Clones share one store, so a simulated node finds its spool again after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use tram_proto::envelope::Body;
use tram_proto::id::{CertHash, Digest, MessageId, NodeId};
use tram_proto::limits::{CHUNK_BYTES, PAGE_HASHES};
use tram_proto::manifest::{Builder, Head, Layout};
use tram_proto::name::Inbox;
use tram_proto::receipt::{NodeRecord, State};
use tram_proto::row::{KeyRow, MessageRow, NeighborRow, NodeRow, ReceiptRow};
use tram_proto::statement::Signed;
use tram_relay::input::{Held, HopName, Input, Row};
use tram_relay::output::{Op, Statement};

use super::index::hashes;
use super::packs::lock;
use super::{
    GRACE_MS, LOW_ROOM_BYTES, LOW_ROOM_GRACE_MS, Restored, Room, Scrubbed, Spool, SpoolError, StoredMessage, Upload,
    fits, ranges, signed,
};

/// A spool in memory.
#[derive(Clone)]
pub struct MemorySpool {
    store: Arc<Mutex<Store>>,
    max_bytes: u64,
    grace_ms: u64,
}

impl Default for MemorySpool {
    fn default() -> Self {
        Self::new(u64::MAX, GRACE_MS)
    }
}

impl MemorySpool {
    /// An empty spool for so many bytes that keeps payloads without a reference for so many milliseconds.
    #[must_use]
    pub fn new(max_bytes: u64, grace_ms: u64) -> Self {
        Self { store: Arc::default(), max_bytes, grace_ms }
    }

    /// Makes a message unreadable.
    #[cfg(test)]
    pub fn damage(&self, id: &MessageId) {
        let mut store = lock(&self.store);
        let row = store.ids.get(id).copied();
        store.unreadable.extend(row);
    }

    /// Another spool with the same in it.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { store: Arc::new(Mutex::new(lock(&self.store).clone())), ..*self }
    }
}

#[derive(Clone)]
struct Message {
    message: MessageRow,
    envelope: Signed,
    inline: Option<Bytes>,
    payload: Option<(Digest, u64)>,
    settled_until: Option<u64>,
}

#[derive(Default, Clone)]
struct Payload {
    refs: u64,
    /// Since when it has none; 0 until a sweep has seen it so.
    loose_since: u64,
    manifest: BTreeMap<u64, Bytes>,
}

#[derive(Default, Clone)]
struct Chunk {
    bytes: Option<Bytes>,
    refs: u64,
}

#[derive(Default, Clone)]
struct Store {
    node: Option<NodeRow>,
    inboxes: BTreeMap<String, Inbox>,
    paused: BTreeSet<HopName>,
    neighbors: BTreeMap<NodeId, NeighborRow>,
    records: BTreeMap<NodeId, Signed>,
    sequences: BTreeMap<String, u64>,
    keys: BTreeMap<(u32, String, String), KeyRow>,
    messages: BTreeMap<u64, Message>,
    ids: BTreeMap<MessageId, u64>,
    receipts: BTreeMap<u64, (ReceiptRow, Signed)>,
    kept: BTreeMap<(MessageId, u32, u32), (State, Signed, u64)>,
    chains: BTreeMap<CertHash, Vec<Bytes>>,
    payloads: BTreeMap<Digest, Payload>,
    chunks: BTreeMap<Digest, Chunk>,
    touched: BTreeSet<Digest>,
    #[cfg(test)]
    unreadable: BTreeSet<u64>,
    used_bytes: u64,
}

fn path() -> PathBuf {
    PathBuf::from("(in memory)")
}

fn missing(what: &'static str, which: impl ToString) -> SpoolError {
    SpoolError::Missing { path: path(), what, which: which.to_string() }
}

const fn message_bytes(envelope: usize, inline: usize) -> u64 {
    (envelope + inline) as u64
}

impl Store {
    /// Finds out whether the operations can all be done, before the first one is.
    fn check(&self, ops: &[Op]) -> Result<(), SpoolError> {
        // For rows that the operations before change: gone, or there and settled until.
        let mut changed: BTreeMap<u64, Option<Option<u64>>> = BTreeMap::new();
        let there = |changed: &BTreeMap<u64, Option<Option<u64>>>, row: &Row| {
            let there = changed.get(&row.0).map_or_else(|| self.messages.contains_key(&row.0), Option::is_some);
            if there { Ok(()) } else { Err(missing("message in row", row.0)) }
        };
        for op in ops {
            match op {
                Op::PutMessage { row, .. } => drop(changed.insert(row.0, Some(None))),
                Op::DeleteMessage { row } => drop(changed.insert(row.0, None)),
                Op::UpdateMessage { row, .. } => there(&changed, row)?,
                Op::SettleMessage { row, until_ms, .. } => {
                    there(&changed, row)?;
                    changed.insert(row.0, Some(Some(*until_ms)));
                }
                Op::Prune(before) => {
                    for (row, message) in &self.messages {
                        changed.entry(*row).or_insert(Some(message.settled_until));
                    }
                    for state in changed.values_mut() {
                        *state = state.filter(|until| until.is_none_or(|until| until >= *before));
                    }
                }
                _ => {}
            }
            let (Op::PutMessage { envelope: statement, .. }
            | Op::PutReceipt { statement, .. }
            | Op::KeepReceipt { statement, .. }
            | Op::PutRecord { statement, .. }) = op
            else {
                continue;
            };
            if matches!(statement, Statement::ToSign(..)) {
                return Err(SpoolError::Misuse { path: path(), why: "a statement was committed unsigned" });
            }
        }
        Ok(())
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::PutMessage { row, message, envelope, inline, payload } => {
                self.forget(row.0);
                let Some(envelope) = signed(&envelope).cloned() else { return };
                let inline_bytes = inline.as_ref().map_or(0, Bytes::len);
                self.used_bytes += message_bytes(envelope.encode().len(), inline_bytes);
                self.ids.insert(message.id, row.0);
                if let Some((root, _)) = payload {
                    self.payloads.entry(root).or_default().refs += 1;
                }
                let put = Message { message, envelope, inline, payload, settled_until: None };
                self.messages.insert(row.0, put);
            }
            Op::UpdateMessage { row, message } => self.update(row, message),
            Op::SettleMessage { row, message, until_ms } => {
                self.update(row, message);
                self.drop_payload(row.0);
                self.messages.entry(row.0).and_modify(|m| m.settled_until = Some(until_ms));
            }
            Op::DeleteMessage { row } => self.forget(row.0),
            Op::PutReceipt { row, receipt, statement } => {
                self.receipts.extend(signed(&statement).map(|signed| (row.0, (receipt, signed.clone()))));
            }
            Op::DeleteReceipt { row } => drop(self.receipts.remove(&row.0)),
            Op::KeepReceipt { message, ordinal, state, statement, until_ms } => {
                let key = (message, ordinal, state as u32);
                self.kept.extend(signed(&statement).map(|signed| (key, (state, signed.clone(), until_ms))));
            }
            Op::PutRecord { node, statement } => self.records.extend(signed(&statement).map(|s| (node, s.clone()))),
            Op::PutNode(node) => self.node = Some(node),
            Op::PutNeighbor { node, neighbor } => drop(self.neighbors.insert(node, neighbor)),
            Op::PutSequence { sender, sequence } => drop(self.sequences.insert(sender, sequence)),
            Op::PutKey { user, sender, key, row } => drop(self.keys.insert((user, sender, key), row)),
            Op::PutPause(hop) => drop(self.paused.insert(hop)),
            Op::DeletePause(hop) => drop(self.paused.remove(&hop)),
            Op::PutInbox(inbox) => drop(self.inboxes.insert(inbox.as_str().to_owned(), inbox)),
            Op::DeleteInbox(inbox) => drop(self.inboxes.remove(inbox.as_str())),
            Op::Prune(before) => {
                let over = |m: &Message| m.settled_until.is_some_and(|until| until < before);
                let rows: Vec<u64> = self.messages.iter().filter(|(_, m)| over(m)).map(|(row, _)| *row).collect();
                rows.into_iter().for_each(|row| self.forget(row));
                self.kept.retain(|_, (_, _, until)| *until >= before);
                self.keys.retain(|_, row| row.until_ms >= before);
            }
        }
    }

    fn update(&mut self, row: Row, message: MessageRow) {
        self.messages.entry(row.0).and_modify(|m| m.message = message);
    }

    fn forget(&mut self, row: u64) {
        self.drop_payload(row);
        let Some(gone) = self.messages.remove(&row) else { return };
        self.used_bytes -= message_bytes(gone.envelope.encode().len(), 0);
        if self.ids.get(&gone.message.id) == Some(&row) {
            self.ids.remove(&gone.message.id);
        }
    }

    fn drop_payload(&mut self, row: u64) {
        let Some(message) = self.messages.get_mut(&row) else { return };
        if let Some(inline) = message.inline.take() {
            self.used_bytes -= message_bytes(0, inline.len());
        }
        if let Some((root, _)) = message.payload.take()
            && let Some(payload) = self.payloads.get_mut(&root)
        {
            payload.refs -= 1;
            payload.loose_since = 0;
        }
    }

    fn manifest_unit(&mut self, root: Digest, unit: u64, bytes: &Bytes) {
        let payload = self.payloads.entry(root).or_default();
        if payload.manifest.insert(unit, bytes.clone()).is_none() && unit > 0 {
            for hash in hashes(bytes) {
                self.chunks.entry(hash).or_default().refs += 1;
            }
        }
    }

    fn place(&mut self, hash: Digest, bytes: Bytes) {
        let chunk = self.chunks.entry(hash).or_default();
        if chunk.bytes.is_none() {
            self.used_bytes += bytes.len() as u64;
            chunk.bytes = Some(bytes);
        }
    }

    fn held(&self, root: Digest, layout: Layout) -> Held {
        let Some(payload) = self.payloads.get(&root) else { return Held::default() };
        let head = payload.manifest.get(&0).and_then(|head| Head::decode(head, root, layout).ok());
        if head.is_none() {
            return Held::default();
        }
        let chunks = payload.manifest.range(1..).flat_map(|(unit, page)| {
            let first = layout.manifest_units() + (unit - 1) * PAGE_HASHES as u64;
            hashes(page).zip(first..).filter(|(hash, _)| self.chunk(hash).is_some()).map(|(_, n)| n)
        });
        Held { units: ranges(payload.manifest.keys().copied().chain(chunks)) }
    }

    fn chunk(&self, hash: &Digest) -> Option<&Bytes> {
        self.chunks.get(hash)?.bytes.as_ref()
    }

    fn hash_of(&self, root: Digest, chunk: u64) -> Option<Digest> {
        let page = self.payloads.get(&root)?.manifest.get(&(1 + chunk / PAGE_HASHES as u64))?;
        hashes(page).nth((chunk % PAGE_HASHES as u64) as usize)
    }

    fn stored(row: u64, message: &Message) -> StoredMessage {
        StoredMessage {
            row: Row(row),
            message: message.message.clone(),
            envelope: message.envelope.clone(),
            payload: message.payload,
            inline: message.inline.is_some(),
            settled: message.settled_until.is_some(),
        }
    }

    fn restore_messages(&self, each: &mut dyn FnMut(Input)) {
        for (row, stored) in &self.messages {
            let (row, message) = (Row(*row), stored.message.clone());
            let Ok(body) = Body::decode(&stored.envelope.statement) else { continue };
            if stored.settled_until.is_some() {
                let (origin, deadline_ms) = (body.origin, body.deadline_ms());
                each(Input::RestoredSettled { row, message, origin, deadline_ms });
                continue;
            }
            let layout = Layout::new(body.payload_bytes).ok();
            let layout = layout.filter(|_| !message.complete && stored.payload.is_some());
            let held = layout.map_or_else(Held::default, |layout| self.held(body.payload_root, layout));
            each(Input::RestoredMessage { row, message, gist: body.gist(), held });
        }
    }
}

impl Spool for MemorySpool {
    fn restore(&self, each: &mut dyn FnMut(Input)) -> Result<Restored, SpoolError> {
        let store = lock(&self.store);
        for (node, neighbor) in &store.neighbors {
            each(Input::RestoredNeighbor { node: *node, neighbor: *neighbor });
        }
        for signed in store.records.values() {
            if let Ok(record) = NodeRecord::decode(&signed.statement) {
                each(Input::RestoredRecord { record, signed: signed.clone() });
            }
        }
        for (sender, sequence) in &store.sequences {
            each(Input::RestoredSequence { sender: sender.clone(), sequence: *sequence });
        }
        for hop in &store.paused {
            each(Input::RestoredPause(hop.clone()));
        }
        for ((user, sender, key), row) in &store.keys {
            each(Input::RestoredKey { user: *user, sender: sender.clone(), key: key.clone(), row: *row });
        }
        store.restore_messages(each);
        for (row, (receipt, _)) in &store.receipts {
            each(Input::RestoredReceipt { row: Row(*row), receipt: *receipt });
        }
        let last = |row: Option<&u64>| row.copied().unwrap_or(0);
        let next_row = last(store.messages.keys().next_back()).max(last(store.receipts.keys().next_back())) + 1;
        Ok(Restored { node: store.node, inboxes: store.inboxes.values().cloned().collect(), next_row })
    }

    fn commit(&self, ops: &[Op]) -> Result<(), SpoolError> {
        let mut store = lock(&self.store);
        store.check(ops)?;
        ops.iter().cloned().for_each(|op| store.apply(op));
        Ok(())
    }

    fn envelope(&self, row: Row) -> Result<Signed, SpoolError> {
        let store = lock(&self.store);
        store.messages.get(&row.0).map(|m| m.envelope.clone()).ok_or_else(|| missing("envelope of row", row.0))
    }

    fn inline(&self, row: Row) -> Result<Option<Bytes>, SpoolError> {
        Ok(lock(&self.store).messages.get(&row.0).and_then(|m| m.inline.clone()))
    }

    fn message(&self, row: Row) -> Result<Option<StoredMessage>, SpoolError> {
        let store = lock(&self.store);
        #[cfg(test)]
        if store.unreadable.contains(&row.0) {
            let (path, which, why) = ("(in memory)".into(), row.0.to_string(), "its check does not fit".into());
            return Err(SpoolError::Unreadable { path, what: "message in row", which, why });
        }
        Ok(store.messages.get(&row.0).map(|m| Store::stored(row.0, m)))
    }

    fn find(&self, id: &MessageId) -> Result<Option<Row>, SpoolError> {
        Ok(lock(&self.store).ids.get(id).map(|row| Row(*row)))
    }

    fn receipt(&self, row: Row) -> Result<Signed, SpoolError> {
        let store = lock(&self.store);
        store.receipts.get(&row.0).map(|r| r.1.clone()).ok_or_else(|| missing("receipt in row", row.0))
    }

    fn kept_receipts(&self, id: &MessageId) -> Result<Vec<(u32, State, Signed)>, SpoolError> {
        let store = lock(&self.store);
        let kept = store.kept.range((*id, 0, 0)..=(*id, u32::MAX, u32::MAX));
        Ok(kept.map(|((_, ordinal, _), (state, signed, _))| (*ordinal, *state, signed.clone())).collect())
    }

    fn chain(&self, leaf: &CertHash) -> Result<Option<Vec<Bytes>>, SpoolError> {
        Ok(lock(&self.store).chains.get(leaf).cloned())
    }

    fn put_chain(&self, chain: &[Bytes]) -> Result<(), SpoolError> {
        let why = "a certificate chain is empty";
        let leaf = super::chain::leaf_hash(chain).ok_or_else(|| SpoolError::Misuse { path: path(), why })?;
        lock(&self.store).chains.entry(leaf).or_insert_with(|| chain.to_vec());
        Ok(())
    }

    fn list(&self, limit: usize, before: Option<Row>) -> Result<Vec<StoredMessage>, SpoolError> {
        let store = lock(&self.store);
        let rows = store.messages.range(..before.map_or(u64::MAX, |row| row.0)).rev();
        Ok(rows.take(limit).map(|(row, m)| Store::stored(*row, m)).collect())
    }

    fn held(&self, root: Digest, layout: Layout) -> Result<Held, SpoolError> {
        let mut store = lock(&self.store);
        store.touched.insert(root);
        Ok(store.held(root, layout))
    }

    fn unit(&self, root: Digest, layout: Layout, unit: u64) -> Result<Bytes, SpoolError> {
        let store = lock(&self.store);
        let found = match unit.checked_sub(layout.manifest_units()) {
            None => store.payloads.get(&root).and_then(|p| p.manifest.get(&unit)),
            Some(chunk) => store.hash_of(root, chunk).and_then(|hash| store.chunk(&hash)),
        };
        found.cloned().ok_or_else(|| missing("unit", format!("{unit} of payload {root}")))
    }

    fn store(&self, root: Digest, layout: Layout, first: u64, units: Vec<Bytes>) -> Result<(), SpoolError> {
        if !fits(layout, first, &units) {
            let why = "units do not have the numbers or lengths of their payload";
            return Err(SpoolError::Misuse { path: path(), why });
        }
        self.need(units.iter().map(|unit| unit.len() as u64).sum())?;
        let mut store = lock(&self.store);
        store.touched.insert(root);
        store.payloads.entry(root).or_default();
        for (bytes, n) in units.into_iter().zip(first..) {
            match n.checked_sub(layout.manifest_units()) {
                None => store.manifest_unit(root, n, &bytes),
                Some(chunk) => {
                    let hash = store.hash_of(root, chunk).unwrap_or_else(|| Digest::of(&bytes));
                    store.place(hash, bytes);
                }
            }
        }
        Ok(())
    }

    fn upload(&self) -> Box<dyn Upload> {
        Box::new(MemoryUpload { spool: self.clone(), bytes: BytesMut::new() })
    }

    fn room(&self) -> Room {
        let free_bytes = self.max_bytes.saturating_sub(lock(&self.store).used_bytes);
        Room { free_bytes, total_bytes: self.max_bytes }
    }

    fn scrub(&self, _: &mut dyn FnMut(&Scrubbed) -> bool) -> Result<Scrubbed, SpoolError> {
        let store = lock(&self.store);
        let there = store.chunks.values().filter_map(|chunk| chunk.bytes.as_ref());
        let units = store.payloads.values().flat_map(|payload| payload.manifest.values());
        let bytes = there.clone().chain(units.clone()).map(|bytes| bytes.len() as u64).sum();
        let (chunks, pages) = (there.count() as u64, units.count() as u64);
        Ok(Scrubbed { chunks, pages, bytes, ..Scrubbed::default() })
    }

    fn sweep(&self, now_ms: u64) -> Result<(), SpoolError> {
        let mut store = lock(&self.store);
        let touched = std::mem::take(&mut store.touched);
        let mut due = Vec::new();
        let low = self.max_bytes.saturating_sub(store.used_bytes) < LOW_ROOM_BYTES;
        let grace_ms = if low { self.grace_ms.min(LOW_ROOM_GRACE_MS) } else { self.grace_ms };
        for (root, payload) in store.payloads.iter_mut().filter(|(_, p)| p.refs == 0) {
            if payload.loose_since == 0 || touched.contains(root) {
                payload.loose_since = now_ms.max(1);
            } else if now_ms.saturating_sub(payload.loose_since) >= grace_ms {
                due.push(*root);
            }
        }
        for root in due {
            let Some(payload) = store.payloads.remove(&root) else { continue };
            for hash in payload.manifest.range(1..).flat_map(|(_, page)| hashes(page)) {
                let Some(chunk) = store.chunks.get_mut(&hash) else { continue };
                chunk.refs = chunk.refs.saturating_sub(1);
                if chunk.refs == 0 {
                    let bytes = store.chunks.remove(&hash).and_then(|chunk| chunk.bytes);
                    store.used_bytes -= bytes.map_or(0, |bytes| bytes.len() as u64);
                }
            }
        }
        Ok(())
    }
}

impl MemorySpool {
    fn need(&self, needed_bytes: u64) -> Result<(), SpoolError> {
        let room_bytes = self.room().free_bytes;
        if needed_bytes > room_bytes {
            return Err(SpoolError::Full { path: path(), room_bytes, needed_bytes });
        }
        Ok(())
    }
}

struct MemoryUpload {
    spool: MemorySpool,
    bytes: BytesMut,
}

impl Upload for MemoryUpload {
    fn push(&mut self, part: Bytes) -> Result<(), SpoolError> {
        self.spool.need((self.bytes.len() + part.len()) as u64)?;
        self.bytes.extend_from_slice(&part);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(Digest, u64), SpoolError> {
        let (mut rest, mut manifest, mut chunks) = (self.bytes.freeze(), Builder::default(), Vec::new());
        let bytes = rest.len() as u64;
        while !rest.is_empty() {
            let chunk = rest.split_to(CHUNK_BYTES.min(rest.len()));
            manifest.push(Digest::of(&chunk), chunk.len());
            chunks.push(chunk);
        }
        let why = "an upload is larger than a manifest can describe";
        let (head, pages) = manifest.finish().map_err(|_| SpoolError::Misuse { path: path(), why })?;
        let root = head.root();
        let mut store = lock(&self.spool.store);
        store.touched.insert(root);
        for (unit, page) in (0..).zip(std::iter::once(head.encode()).chain(pages)) {
            store.manifest_unit(root, unit, &page);
        }
        chunks.into_iter().for_each(|chunk| store.place(Digest::of(&chunk), chunk));
        Ok((root, bytes))
    }
}
