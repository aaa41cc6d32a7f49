//! The list of messages, newest first, a page at a time.
//!
//! A page ends at its limit, after so many rows looked at, or after so many recipients, whichever comes first; so it
//! may be short, even empty, while there is more. Only `next = 0` says the end.

use bytes::Bytes;
use tonic::Status;
use tram_proto::envelope::{Body, MessageKind};
use tram_proto::local::{MessageView, MessagesAnswer, MessagesRequest};
use tram_relay::input::Row;

use super::access::Grant;
use super::deliver::from;
use super::known::{Known, body_of, here, visible};
use super::{Door, blocking};
use crate::spool::StoredMessage;

/// Messages of a page: when none are asked for, and at most.
const LIMIT: usize = 50;
const LIMIT_MAX: usize = 256;
/// Rows looked at for one page, for a caller who may see few of many.
const LOOKED: usize = 4096;
/// Recipients in one page, so that an answer stays within a few hundred KiB.
const RECIPIENTS: usize = 4096;
/// Rows read from the spool at once.
const AT_ONCE: usize = 64;

pub(super) async fn list(door: &Door, grant: &Grant, asked: MessagesRequest) -> Result<MessagesAnswer, Status> {
    let limit = match asked.limit as usize {
        0 => LIMIT,
        limit => limit.min(LIMIT_MAX),
    };
    let mut before = Some(asked.before).filter(|row| *row != 0).map(Row);
    let (mut messages, mut looked, mut recipients) = (Vec::new(), 0, 0);
    while looked < LOOKED {
        let spool = door.spool.clone();
        let page = blocking(move || Ok(spool.list(AT_ONCE, before)?)).await?;
        if page.is_empty() {
            return Ok(MessagesAnswer { messages, next: 0 });
        }
        looked += page.len();
        for stored in page {
            let row = stored.row;
            let body = body_of(&stored)?;
            if visible(door, grant, &stored, &body) {
                let view = view(door, stored, body).await?;
                recipients += view.recipients.len();
                messages.push(view);
            }
            before = Some(row);
            if messages.len() == limit || recipients >= RECIPIENTS {
                return Ok(MessagesAnswer { messages, next: row.0 });
            }
        }
    }
    Ok(MessagesAnswer { messages, next: before.map_or(0, |row| row.0) })
}

async fn view(door: &Door, stored: StoredMessage, body: Body) -> Result<MessageView, Status> {
    let side = if stored.message.from.is_none() {
        "sent"
    } else if here(door, &stored.message, &body).next().is_some() {
        "received"
    } else {
        "passing"
    };
    let spool = door.spool.clone();
    // Receipts are kept only of what was sent from here.
    let known = if side == "sent" {
        blocking(move || Known::new(&*spool, stored, body)).await?
    } else {
        Known { stored, body, receipts: Vec::new() }
    };
    let recipients = known.recipients().into_iter().map(|(_, progress)| progress).collect();
    let Known { stored, body, .. } = known;
    Ok(MessageView {
        id: Bytes::copy_from_slice(&stored.message.id.0),
        kind: kind(body.kind).to_owned(),
        side: side.to_owned(),
        from: from(&body),
        precedence: body.precedence.to_string(),
        created_ms: body.created_ms,
        deadline_ms: body.deadline_ms(),
        size: body.payload_bytes,
        recalls: stored.message.recalls.map(|id| Bytes::copy_from_slice(&id.0)).unwrap_or_default(),
        demoted_from: stored.message.demoted_from.map(|asked| asked.to_string()).unwrap_or_default(),
        recipients,
        subject: body.subject,
        file_name: body.file_name,
        label: body.label,
        business_id: body.business_id,
    })
}

const fn kind(kind: MessageKind) -> &'static str {
    match kind {
        MessageKind::Document => "document",
        MessageKind::DatasetRevision => "revision",
        MessageKind::Tombstone => "tombstone",
        MessageKind::Control => "control",
    }
}
