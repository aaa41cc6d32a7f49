//! Reading everything back at start. What does not decode is moved to quarantine, whole, and the rest goes on.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, TableDefinition};
use tram_proto::envelope::Gist;
use tram_proto::id::{MessageId, NodeId};
use tram_proto::manifest::Layout;
use tram_proto::name::{Address, Inbox, NodeName};
use tram_proto::receipt::NodeRecord;
use tram_proto::row::{KeyRow, MessageRow, NeighborRow, NodeRow, ReceiptRow};
use tram_proto::statement::Signed;
use tram_relay::input::{Held, Input, Row};

use super::disk::Inner;
use super::seal::{is_sealed, is_whole};
use super::tables::{
    ENVELOPES, Fault, INBOXES, KEYS, MESSAGES, NEIGHBORS, NODE, PAUSED, PAYLOADS, RECEIPTS, RECORDS, SEQUENCES,
    SETTLED, Tables,
};
use super::{Restored, SpoolError};

/// Messages handed over at once.
const BATCH: usize = 256;
/// Batches that may wait to be taken in.
const BATCHES: usize = 8;

/// Where a damaged entry lies.
enum Damaged {
    Message(u64),
    Receipt(u64),
    Record([u8; 16]),
    Neighbor([u8; 16]),
    Key(u32, String, String),
    Inbox(String),
    Pause(String),
    Node,
}

/// What does not decode, and why.
type Bad = Vec<(Damaged, String)>;

fn text(error: impl ToString) -> String {
    error.to_string()
}

pub(super) fn restore(inner: &Inner, each: &mut dyn FnMut(Input)) -> Result<Restored, SpoolError> {
    let (restored, bad) = inner.read("restore", |txn| {
        let mut bad = Bad::new();
        let (node, inboxes) = own(txn, &mut bad)?;
        neighborhood(txn, &mut bad, each)?;
        keys(txn, &mut bad, each)?;
        let last_message = if inner.options.inline_sync {
            messages(inner, txn, &mut bad, &mut |batch| batch.drain(..).for_each(&mut *each))?
        } else {
            beside(each, |hand_over| messages(inner, txn, &mut bad, hand_over))?
        };
        let last_receipt = receipts(txn, &mut bad, each)?;
        Ok((Restored { node, inboxes, next_row: last_message.max(last_receipt) + 1 }, bad))
    })?;
    if !bad.is_empty() {
        tracing::error!(entries = bad.len(), path = %inner.path.display(), "damaged entries go to quarantine");
        inner.write("move damaged entries to quarantine", |t| bad.iter().try_for_each(|b| isolate(t, b)))?;
    }
    Ok(restored)
}

/// Reads in a thread of its own while what was read is taken in here: each takes half of a start. The batches' memory goes
/// to and fro, so that the reader needs no fresh one for each.
fn beside<T: Send>(
    each: &mut dyn FnMut(Input),
    read: impl FnOnce(&mut dyn FnMut(&mut Vec<Input>)) -> Result<T, Fault> + Send,
) -> Result<T, Fault> {
    let (hand_over, taken) = sync_channel::<Vec<Input>>(BATCHES);
    let (give_back, emptied) = sync_channel(BATCHES);
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().name("restore".into()).spawn_scoped(scope, move || {
            read(&mut |batch| {
                let empty = emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH));
                // The other end takes everything there is.
                drop(hand_over.send(std::mem::replace(batch, empty)));
            })
        })?;
        for mut batch in taken {
            batch.drain(..).for_each(&mut *each);
            drop(give_back.try_send(batch));
        }
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn own(txn: &ReadTransaction, bad: &mut Bad) -> Result<(Option<NodeRow>, Vec<Inbox>), Fault> {
    let node = match txn.open_table(NODE)?.get(())?.map(|v| NodeRow::decode(v.value())) {
        Some(Err(why)) => {
            bad.push((Damaged::Node, text(why)));
            None
        }
        node => node.and_then(Result::ok),
    };
    let mut inboxes = Vec::new();
    for entry in txn.open_table(INBOXES)?.iter()? {
        let name = entry?.0.value().to_owned();
        match name.parse() {
            Ok(inbox) => inboxes.push(inbox),
            Err(why) => bad.push((Damaged::Inbox(name), text(why))),
        }
    }
    Ok((node, inboxes))
}

fn neighborhood(txn: &ReadTransaction, bad: &mut Bad, each: &mut dyn FnMut(Input)) -> Result<(), Fault> {
    for entry in txn.open_table(NEIGHBORS)?.iter()? {
        let (key, value) = entry?;
        match NeighborRow::decode(value.value()) {
            Ok(neighbor) => each(Input::RestoredNeighbor { node: NodeId(*key.value()), neighbor }),
            Err(why) => bad.push((Damaged::Neighbor(*key.value()), text(why))),
        }
    }
    for entry in txn.open_table(RECORDS)?.iter()? {
        let (key, value) = entry?;
        let signed = Signed::decode(Bytes::copy_from_slice(value.value()));
        match signed.and_then(|signed| Ok((NodeRecord::decode(&signed.statement)?, signed))) {
            Ok((record, signed)) => each(Input::RestoredRecord { record, signed }),
            Err(why) => bad.push((Damaged::Record(*key.value()), text(why))),
        }
    }
    Ok(())
}

fn keys(txn: &ReadTransaction, bad: &mut Bad, each: &mut dyn FnMut(Input)) -> Result<(), Fault> {
    for entry in txn.open_table(SEQUENCES)?.iter()? {
        let (key, value) = entry?;
        each(Input::RestoredSequence { sender: key.value().to_owned(), sequence: value.value() });
    }
    for entry in txn.open_table(PAUSED)?.iter()? {
        let name = entry?.0.value().to_owned();
        match name.parse() {
            Ok(hop) => each(Input::RestoredPause(hop)),
            Err(why) => bad.push((Damaged::Pause(name), text(why))),
        }
    }
    for entry in txn.open_table(KEYS)?.iter()? {
        let (key, value) = entry?;
        let (user, sender, name) = key.value();
        let (sender, key) = (sender.to_owned(), name.to_owned());
        match KeyRow::decode(value.value().1) {
            Ok(row) => each(Input::RestoredKey { user, sender, key, row }),
            Err(why) => bad.push((Damaged::Key(user, sender, key), text(why))),
        }
    }
    Ok(())
}

/// Reads a table beside another one, by ascending rows: cheaper than to look for every row.
struct Along<V: redb::Value + 'static> {
    rows: redb::Range<'static, u64, V>,
    next: Option<(u64, redb::AccessGuard<'static, V>)>,
}

impl<V: redb::Value + 'static> Along<V> {
    fn new(txn: &ReadTransaction, table: TableDefinition<'static, u64, V>) -> Result<Self, Fault> {
        Ok(Self { rows: txn.open_table(table)?.range(0..)?, next: None })
    }

    /// What is in that row, which is not below one asked for before.
    fn at(&mut self, row: u64) -> Result<Option<&redb::AccessGuard<'static, V>>, Fault> {
        while self.next.as_ref().is_none_or(|(at, _)| *at < row) {
            let Some(entry) = self.rows.next() else { return Ok(None) };
            let (at, value) = entry?;
            self.next = Some((at.value(), value));
        }
        Ok(self.next.as_ref().filter(|(at, _)| *at == row).map(|(_, value)| value))
    }
}

/// Answers the highest row; a damaged one counts, so that its number is not used again by this run.
fn messages(
    inner: &Inner,
    txn: &ReadTransaction,
    bad: &mut Bad,
    hand_over: &mut dyn FnMut(&mut Vec<Input>),
) -> Result<u64, Fault> {
    let mut envelopes = Along::new(txn, ENVELOPES)?;
    let (mut settled, mut payloads) = (Along::new(txn, SETTLED)?, Along::new(txn, PAYLOADS)?);
    let (mut last, mut batch, mut alike) = (0, Vec::with_capacity(BATCH), Alike::default());
    for entry in txn.open_table(MESSAGES)?.iter()? {
        let (row, bytes) = entry?;
        let row = row.value();
        last = last.max(row);
        let envelope = envelopes.at(row)?.map(redb::AccessGuard::value);
        let (message, gist) = match decode_message(row, bytes.value(), envelope, &mut alike) {
            Ok(both) => both,
            Err(why) => {
                bad.push((Damaged::Message(row), why));
                continue;
            }
        };
        if batch.len() >= BATCH {
            hand_over(&mut batch);
        }
        if settled.at(row)?.is_some() {
            let (origin, deadline_ms) = (gist.origin, gist.deadline_ms);
            batch.push(Input::RestoredSettled { row: Row(row), message, origin, deadline_ms });
            continue;
        }
        let mut held = Held::default();
        if !message.complete
            && payloads.at(row)?.is_some()
            && let Ok(layout) = Layout::new(gist.payload_bytes)
        {
            held = super::units::held_in(inner, txn, gist.payload_root, layout)?;
        }
        batch.push(Input::RestoredMessage { row: Row(row), message, gist, held });
    }
    hand_over(&mut batch);
    Ok(last)
}

/// What messages often have in common with the one read before: one office's mail is for the same few, by the same way.
#[derive(Default)]
struct Alike {
    to: Option<Arc<[Address]>>,
    names: Vec<NodeName>,
}

fn decode_message(
    row: u64,
    bytes: &[u8],
    envelope: Option<&[u8]>,
    alike: &mut Alike,
) -> Result<(MessageRow, Gist), String> {
    let envelope = envelope.ok_or("its envelope is gone")?;
    if !is_whole("message", row, bytes) || !is_whole("envelope", row, envelope) {
        return Err("its check does not fit".into());
    }
    let message = MessageRow::decode_after(bytes, &mut alike.names).map_err(text)?;
    let statement = Signed::statement_in(envelope).map_err(text)?;
    // Two good checks of one row say as much.
    if !(is_sealed(bytes) && is_sealed(envelope)) {
        Signed::decode(Bytes::copy_from_slice(envelope)).map_err(text)?;
        if MessageId::of(statement) != message.id {
            return Err("its envelope is not the one of its id".into());
        }
    }
    let gist = Gist::decode(statement, alike.to.as_ref()).map_err(text)?;
    alike.to = Some(Arc::clone(&gist.to));
    Ok((message, gist))
}

fn receipts(txn: &ReadTransaction, bad: &mut Bad, each: &mut dyn FnMut(Input)) -> Result<u64, Fault> {
    let mut last = 0;
    for entry in txn.open_table(RECEIPTS)?.iter()? {
        let (row, value) = entry?;
        let row = row.value();
        last = last.max(row);
        let (receipt, statement) = value.value();
        let decoded = Signed::decode(Bytes::copy_from_slice(statement)).and_then(|_| ReceiptRow::decode(receipt));
        match decoded {
            Ok(receipt) => each(Input::RestoredReceipt { row: Row(row), receipt }),
            Err(why) => bad.push((Damaged::Receipt(row), text(why))),
        }
    }
    Ok(last)
}

fn isolate(t: &mut Tables<'_>, (damaged, why): &(Damaged, String)) -> Result<(), Fault> {
    let mut put = Vec::new();
    match damaged {
        &Damaged::Message(row) => {
            // The reference to the payload stays: what is quarantined loses nothing.
            let message = t.messages.remove(row)?.map(|v| v.value().to_vec());
            let envelope = t.envelopes.remove(row)?.map(|v| v.value().to_vec());
            let inline = t.inline.remove(row)?.map(|v| v.value().to_vec());
            t.settled.remove(row)?;
            put.extend(message.map(|v| ("messages", row.to_be_bytes().to_vec(), v)));
            put.extend(envelope.map(|v| ("envelopes", row.to_be_bytes().to_vec(), v)));
            put.extend(inline.map(|v| ("inline", row.to_be_bytes().to_vec(), v)));
        }
        &Damaged::Receipt(row) => {
            let value = t.receipts.remove(row)?.map(|v| [v.value().0, v.value().1].concat());
            put.extend(value.map(|v| ("receipts", row.to_be_bytes().to_vec(), v)));
        }
        Damaged::Record(node) => {
            put.extend(t.records.remove(node)?.map(|v| ("records", node.to_vec(), v.value().to_vec())));
        }
        Damaged::Neighbor(node) => {
            put.extend(t.neighbors.remove(node)?.map(|v| ("neighbors", node.to_vec(), v.value().to_vec())));
        }
        Damaged::Key(user, sender, key) => {
            let value = t.keys.remove((*user, sender.as_str(), key.as_str()))?.map(|v| v.value().1.to_vec());
            put.extend(value.map(|v| ("keys", format!("{user} {sender} {key}").into_bytes(), v)));
        }
        Damaged::Inbox(name) => {
            t.inboxes.remove(name.as_str())?;
            put.push(("inboxes", name.clone().into_bytes(), Vec::new()));
        }
        Damaged::Pause(name) => {
            t.paused.remove(name.as_str())?;
            put.push(("paused", name.clone().into_bytes(), Vec::new()));
        }
        Damaged::Node => {
            put.extend(t.node.remove(())?.map(|v| ("node", Vec::new(), v.value().to_vec())));
        }
    }
    for (table, key, value) in put {
        tracing::error!(table, ?key, %why, "moved to quarantine");
        let next = t.quarantine.last()?.map_or(1, |(number, _)| number.value() + 1);
        t.quarantine.insert(next, (table, key.as_slice(), value.as_slice()))?;
    }
    Ok(())
}
