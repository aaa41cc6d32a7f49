//! What this node remembers of a message: the row, the envelope's body, the receipts that came home.
//!
//! A row does not change any more once it is settled, and a status has its code only in the receipt; so the state of a
//! recipient is read from both.

use bytes::Bytes;
use tonic::Status;
use tram_proto::envelope::Body;
use tram_proto::id::MessageId;
use tram_proto::local::Progress;
use tram_proto::name::Address;
use tram_proto::receipt::{Receipt, State};
use tram_proto::row::{MessageRow, RecipientRow};

use super::access::Grant;
use super::{Door, refusal};
use crate::spool::{Spool, StoredMessage};

/// A message with the receipts this node keeps of it.
pub(super) struct Known {
    pub(super) stored: StoredMessage,
    pub(super) body: Body,
    pub(super) receipts: Vec<Receipt>,
}

impl Known {
    /// Adds the receipts; blocks.
    pub(super) fn new(spool: &dyn Spool, stored: StoredMessage, body: Body) -> Result<Self, Status> {
        let kept = spool.kept_receipts(&stored.message.id)?;
        let receipts = kept.into_iter().map(|(_, _, signed)| Receipt::decode(&signed.statement));
        let receipts = receipts.collect::<Result<_, _>>().map_err(|error| refusal::damaged(&error))?;
        Ok(Self { stored, body, receipts })
    }

    /// Reads one by id; blocks.
    pub(super) fn read(spool: &dyn Spool, id: &MessageId) -> Result<Option<Self>, Status> {
        read(spool, id)?.map(|(stored, body)| Self::new(spool, stored, body)).transpose()
    }

    /// The state of every recipient in the body's own list.
    pub(super) fn recipients(&self) -> Vec<(State, Progress)> {
        let mut all = recipients(&self.stored.message, &self.body);
        for receipt in self.receipts.iter().filter(|receipt| receipt.ordinal.list.is_none()) {
            let told = (receipt.state, of_receipt(receipt));
            if let Some(known) = all.iter_mut().find(|(_, known)| known.ordinal == told.1.ordinal)
                && (is_news(known, &told) || (known.0 == State::Status && told.0 == State::Status))
            {
                *known = told;
            }
        }
        all
    }
}

/// Reads row and body by id; blocks.
pub(super) fn read(spool: &dyn Spool, id: &MessageId) -> Result<Option<(StoredMessage, Body)>, Status> {
    let Some(row) = spool.find(id)? else { return Ok(None) };
    let Some(stored) = spool.message(row)? else { return Ok(None) };
    let body = body_of(&stored)?;
    Ok(Some((stored, body)))
}

pub(super) fn body_of(stored: &StoredMessage) -> Result<Body, Status> {
    Body::decode(&stored.envelope.statement).map_err(|error| refusal::damaged(&error))
}

/// Whether the caller may know of a message: who submitted it, who may use its sender inbox, who may receive it here.
pub(super) fn visible(door: &Door, grant: &Grant, stored: &StoredMessage, body: &Body) -> bool {
    let sent = stored.message.user == Some(grant.uid)
        || (stored.message.user.is_some() && body.sender.as_ref().is_some_and(|sender| grant.inbox(sender)));
    grant.everything || sent || here(door, &stored.message, body).any(|(_, to)| grant.inbox(&to.inbox))
}

/// The addresses that are for this node, by whatever name of its, with their places in the body's own list.
pub(super) fn here<'a>(
    door: &Door,
    message: &'a MessageRow,
    body: &'a Body,
) -> impl Iterator<Item = (usize, &'a Address)> {
    let own = door.station.identity().node;
    let ours = message.recipients.iter().map(|row| row.recipient);
    let ours = ours.filter(move |r| r.node == Some(own) && r.ordinal.list.is_none());
    ours.map(|r| r.ordinal.index as usize).filter_map(|at| Some((at, body.to.get(at)?)))
}

/// The state of every recipient in the body's own list, by the row alone.
pub(super) fn recipients(message: &MessageRow, body: &Body) -> Vec<(State, Progress)> {
    let own = message.recipients.iter().filter(|row| row.recipient.ordinal.list.is_none());
    own.filter_map(|row| {
        let address = body.to.get(row.recipient.ordinal.index as usize)?;
        Some((row.state, of_row(&message.id, row, address.to_string())))
    })
    .collect()
}

/// Whether the second tells something that the first did not.
pub(super) fn is_news(before: &(State, Progress), now: &(State, Progress)) -> bool {
    let another_status = now.0 == State::Status && before.0 == State::Status && now.1.at_ms > before.1.at_ms;
    now.0.overrides(before.0) || another_status
}

fn of_row(id: &MessageId, row: &RecipientRow, address: String) -> Progress {
    Progress {
        ordinal: row.recipient.ordinal.index,
        reason: row.reason.to_string(),
        detail: row.detail.clone(),
        ..progress(id, address, row.state, row.at_ms)
    }
}

fn of_receipt(receipt: &Receipt) -> Progress {
    Progress {
        ordinal: receipt.ordinal.index,
        reason: receipt.reason.to_string(),
        detail: receipt.detail.clone(),
        code: receipt.code,
        ..progress(&receipt.message, receipt.address.to_string(), receipt.state, receipt.at_ms)
    }
}

pub(super) fn progress(id: &MessageId, address: String, state: State, at_ms: u64) -> Progress {
    Progress {
        id: Bytes::copy_from_slice(&id.0),
        address,
        state: state.to_string(),
        at_ms,
        terminal: state.is_terminal(),
        negative: state.is_negative(),
        ..Progress::default()
    }
}
