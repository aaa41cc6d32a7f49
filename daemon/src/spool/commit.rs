//! What each operation of the core changes in the tables.

use redb::ReadableTable;
use tram_proto::id::MessageId;
use tram_proto::row::{KeyRow, MessageRow};
use tram_proto::statement::Signed;
use tram_relay::input::Row;
use tram_relay::output::{Op, Statement};

use super::disk::Inner;
use super::index::{refer, release};
use super::seal::seal;
use super::tables::{Fault, Tables, get};
use super::{SpoolError, signed};

/// One transaction's changes of messages.
struct Change<'a, 't> {
    t: &'a mut Tables<'t>,
    inner: &'a Inner,
    message_bytes: u64,
}

/// Applies the operations in order; answers how many bytes envelopes and inline payloads take then.
pub(super) fn apply(t: &mut Tables<'_>, inner: &Inner, ops: &[Op]) -> Result<u64, Fault> {
    let before = get(&t.meta, "message_bytes")?.unwrap_or(0);
    let mut change = Change { t, inner, message_bytes: before };
    for op in ops {
        change.apply(op)?;
    }
    let after = change.message_bytes;
    if after != before {
        t.meta.insert("message_bytes", after)?;
    }
    Ok(after)
}

impl Change<'_, '_> {
    fn signed<'s>(&self, statement: &'s Statement) -> Result<&'s Signed, Fault> {
        let why = "a statement was committed unsigned";
        signed(statement).ok_or_else(|| SpoolError::Misuse { path: self.inner.path.clone(), why }.into())
    }

    fn apply(&mut self, op: &Op) -> Result<(), Fault> {
        match op {
            Op::PutMessage { row, message, envelope, inline, payload } => {
                self.forget(*row)?;
                let envelope = seal("envelope", row.0, &self.signed(envelope)?.encode());
                self.message_bytes += (envelope.len() + inline.as_ref().map_or(0, |i| i.len())) as u64;
                self.t.messages.insert(row.0, seal("message", row.0, &message.encode()).as_slice())?;
                self.t.envelopes.insert(row.0, envelope.as_slice())?;
                self.t.ids.insert(&message.id.0, row.0)?;
                if let Some(inline) = inline {
                    self.t.inline.insert(row.0, inline.as_ref())?;
                }
                if let Some((root, bytes)) = payload {
                    self.t.payloads.insert(row.0, (&root.0, *bytes))?;
                    refer(self.t, *root, *bytes)?;
                }
            }
            Op::UpdateMessage { row, message } => self.update(*row, message)?,
            Op::SettleMessage { row, message, until_ms } => {
                self.update(*row, message)?;
                self.drop_payload(*row)?;
                self.t.settled.insert(row.0, *until_ms)?;
                self.t.settled_until.insert((*until_ms, row.0), ())?;
            }
            Op::DeleteMessage { row } => self.forget(*row)?,
            Op::PutReceipt { row, receipt, statement } => {
                let statement = self.signed(statement)?.encode();
                self.t.receipts.insert(row.0, (receipt.encode().as_ref(), statement.as_ref()))?;
            }
            Op::DeleteReceipt { row } => drop(self.t.receipts.remove(row.0)?),
            Op::PutRecord { node, statement } => {
                let statement = self.signed(statement)?.encode();
                self.t.records.insert(&node.0, statement.as_ref())?;
            }
            Op::PutNode(node) => drop(self.t.node.insert((), node.encode().as_ref())?),
            Op::PutNeighbor { node, neighbor } => {
                self.t.neighbors.insert(&node.0, neighbor.encode().as_ref())?;
            }
            Op::PutSequence { sender, sequence } => {
                self.t.sequences.insert(sender.as_str(), *sequence)?;
            }
            Op::PutPause(hop) => drop(self.t.paused.insert(hop.to_string().as_str(), ())?),
            Op::DeletePause(hop) => drop(self.t.paused.remove(hop.to_string().as_str())?),
            Op::PutInbox(inbox) => drop(self.t.inboxes.insert(inbox.as_str(), ())?),
            Op::DeleteInbox(inbox) => drop(self.t.inboxes.remove(inbox.as_str())?),
            remembered => self.remember(remembered)?,
        }
        Ok(())
    }

    /// The operations on what is remembered until a moment.
    fn remember(&mut self, op: &Op) -> Result<(), Fault> {
        match op {
            Op::KeepReceipt { message, ordinal, state, statement, until_ms } => {
                let statement = self.signed(statement)?.encode();
                let (ordinal, state, until_ms) = (*ordinal, *state as u32, *until_ms);
                self.t.kept.insert((&message.0, ordinal, state), (until_ms, statement.as_ref()))?;
                self.t.kept_until.insert((until_ms, &message.0, ordinal, state), ())?;
            }
            Op::PutKey { user, sender, key, row } => self.put_key(*user, sender, key, *row)?,
            Op::Prune(before_ms) => self.prune(*before_ms)?,
            _ => {}
        }
        Ok(())
    }

    fn put_key(&mut self, user: u32, sender: &str, key: &str, row: KeyRow) -> Result<(), Fault> {
        self.t.keys.insert((user, sender, key), (row.until_ms, row.encode().as_ref()))?;
        self.t.keys_until.insert((row.until_ms, user, sender, key), ())?;
        Ok(())
    }

    fn update(&mut self, row: Row, message: &MessageRow) -> Result<(), Fault> {
        let message = seal("message", row.0, &message.encode());
        if self.t.messages.insert(row.0, message.as_slice())?.is_none() {
            return Err(self.inner.missing("message in row", row.0).into());
        }
        Ok(())
    }

    fn drop_payload(&mut self, row: Row) -> Result<(), Fault> {
        if let Some(inline) = self.t.inline.remove(row.0)? {
            self.message_bytes = self.message_bytes.saturating_sub(inline.value().len() as u64);
        }
        let payload = self.t.payloads.remove(row.0)?.map(|v| tram_proto::id::Digest(*v.value().0));
        payload.map_or(Ok(()), |root| release(self.t, root))
    }

    fn forget(&mut self, row: Row) -> Result<(), Fault> {
        let id: Option<MessageId> = match self.t.messages.remove(row.0)? {
            Some(bytes) => MessageRow::decode(bytes.value()).ok().map(|m| m.id),
            None => return Ok(()),
        };
        if let Some(id) = id
            && get(&self.t.ids, &id.0)? == Some(row.0)
        {
            self.t.ids.remove(&id.0)?;
        }
        if let Some(envelope) = self.t.envelopes.remove(row.0)? {
            self.message_bytes = self.message_bytes.saturating_sub(envelope.value().len() as u64);
        }
        self.drop_payload(row)?;
        self.t.settled.remove(row.0)?;
        Ok(())
    }

    /// Entries by time are never changed, so one counts only while what it points at still ends at that time.
    fn prune(&mut self, before_ms: u64) -> Result<(), Fault> {
        let mut rows = Vec::new();
        for entry in self.t.settled_until.range(..(before_ms, 0))? {
            rows.push(entry?.0.value());
        }
        for (until, row) in rows {
            self.t.settled_until.remove((until, row))?;
            if get(&self.t.settled, row)? == Some(until) {
                self.forget(Row(row))?;
            }
        }
        let mut receipts = Vec::new();
        let lowest = [0; 32];
        for entry in self.t.kept_until.range(..(before_ms, &lowest, 0, 0))? {
            let entry = entry?.0;
            let (until, id, ordinal, state) = entry.value();
            receipts.push((until, *id, ordinal, state));
        }
        for (until, id, ordinal, state) in receipts {
            self.t.kept_until.remove((until, &id, ordinal, state))?;
            let ends = self.t.kept.get((&id, ordinal, state))?.map(|v| v.value().0);
            if ends == Some(until) {
                self.t.kept.remove((&id, ordinal, state))?;
            }
        }
        let mut keys = Vec::new();
        for entry in self.t.keys_until.range(..(before_ms, 0, "", ""))? {
            let entry = entry?.0;
            let (until, user, sender, key) = entry.value();
            keys.push((until, user, sender.to_owned(), key.to_owned()));
        }
        for (until, user, sender, key) in keys {
            let (sender, key) = (sender.as_str(), key.as_str());
            self.t.keys_until.remove((until, user, sender, key))?;
            let ends = self.t.keys.get((user, sender, key))?.map(|v| v.value().0);
            if ends == Some(until) {
                self.t.keys.remove((user, sender, key))?;
            }
        }
        Ok(())
    }
}
