//! What became of messages, as it happens.
//!
//! Events say it first; the spool is read again a moment after the start (a change may have been on its way to the disk
//! just then) and now and again, so that a watcher who fell behind or asked in that moment still learns the truth.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tonic::Status;
use tram_proto::envelope::Body;
use tram_proto::id::MessageId;
use tram_proto::local::Progress;
use tram_proto::receipt::{Reason, State};
use tram_proto::row::MessageRow;
use tram_relay::output::Event;

use super::access::Grant;
use super::{Door, blocking, refusal, until};
use crate::spool::{Spool, StoredMessage};

/// Messages one call may watch by id.
pub(super) const WATCHED: usize = 1024;
/// When the spool is read again: soon after the start, then regularly.
const SOON: Duration = Duration::from_millis(200);
const REGULARLY: Duration = Duration::from_secs(15);
/// Messages read at once when all are watched.
const PAGE: usize = 256;

type Out = mpsc::Sender<Result<Progress, Status>>;

/// The state of every recipient in the body's own list.
pub(super) fn recipients(message: &MessageRow, body: &Body) -> Vec<(State, Progress)> {
    let own = message.recipients.iter().filter(|row| row.recipient.ordinal.list.is_none());
    own.filter_map(|row| {
        let ordinal = row.recipient.ordinal.index;
        let address = body.to.get(ordinal as usize)?;
        let detail = row.detail.clone();
        let now = progress(&message.id, ordinal, address.to_string(), row.state, row.reason, detail, row.at_ms);
        Some((row.state, now))
    })
    .collect()
}

pub(super) fn progress(
    id: &MessageId,
    ordinal: u32,
    address: String,
    state: State,
    reason: Reason,
    detail: String,
    at_ms: u64,
) -> Progress {
    Progress {
        id: Bytes::copy_from_slice(&id.0),
        ordinal,
        address,
        state: state.to_string(),
        reason: reason.to_string(),
        detail,
        at_ms,
        terminal: state.is_terminal(),
        negative: state.is_negative(),
    }
}

/// Whether the caller may know of a message: who submitted it, who may use its sender inbox, who may receive it here.
pub(super) fn visible(door: &Door, grant: &Grant, stored: &StoredMessage, body: &Body) -> bool {
    let own = door.station.identity().name;
    let sent = stored.message.user == Some(grant.uid)
        || (stored.message.user.is_some() && body.sender.as_ref().is_some_and(|sender| grant.inbox(sender)));
    grant.everything || sent || body.to.iter().any(|to| to.node == own && grant.inbox(&to.inbox))
}

/// Reads a message by id; blocks.
pub(super) fn read(spool: &dyn Spool, id: &MessageId) -> Result<Option<(StoredMessage, Body)>, Status> {
    let Some(row) = spool.find(id)? else { return Ok(None) };
    let Some(stored) = spool.message(row)? else { return Ok(None) };
    let body = body_of(&stored)?;
    Ok(Some((stored, body)))
}

fn body_of(stored: &StoredMessage) -> Result<Body, Status> {
    Body::decode(&stored.envelope.statement).map_err(|error| refusal::damaged(&error))
}

/// Watches messages by id. Fails at once when one is unknown.
pub(super) struct ById {
    door: Door,
    known: BTreeMap<MessageId, Vec<(State, Progress)>>,
    out: Out,
}

impl ById {
    pub(super) async fn new(door: Door, grant: &Grant, ids: Vec<MessageId>, out: Out) -> Result<Self, Status> {
        let mut known = BTreeMap::new();
        for id in ids {
            let spool = door.spool.clone();
            let found = blocking(move || read(&*spool, &id)).await?;
            if !found.is_some_and(|(stored, body)| visible(&door, grant, &stored, &body)) {
                return Err(refusal::no_such_message());
            }
            known.insert(id, Vec::new());
        }
        Ok(Self { door, known, out })
    }

    pub(super) async fn run(mut self, mut events: broadcast::Receiver<Event>, stopped: watch::Receiver<bool>) {
        let mut wait = SOON;
        let end = loop {
            if let Err(status) = self.read_again().await {
                break status;
            }
            let again = tokio::time::sleep(std::mem::replace(&mut wait, REGULARLY));
            tokio::pin!(again);
            let end = loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Ok(event) => self.note(event).await,
                        Err(RecvError::Lagged(_)) => break None,
                        Err(RecvError::Closed) => break Some(refusal::stopping()),
                    },
                    () = &mut again => break None,
                    () = self.out.closed() => return,
                    () = until(stopped.clone()) => break Some(refusal::stopping()),
                }
            };
            if let Some(status) = end {
                break status;
            }
        };
        let _ = self.out.send(Err(end)).await;
    }

    async fn read_again(&mut self) -> Result<(), Status> {
        let ids: Vec<MessageId> = self.known.keys().copied().collect();
        for id in ids {
            let spool = self.door.spool.clone();
            let Some((stored, body)) = blocking(move || read(&*spool, &id)).await? else { continue };
            for now in recipients(&stored.message, &body) {
                self.learn(&id, now).await;
            }
        }
        Ok(())
    }

    async fn note(&mut self, event: Event) {
        let Event::Progress { message, address, state, reason, at_ms } = event else { return };
        let Some(known) = self.known.get(&message) else { return };
        let address = address.to_string();
        let ordinals: Vec<u32> = known.iter().filter(|(_, p)| p.address == address).map(|(_, p)| p.ordinal).collect();
        for ordinal in ordinals {
            let now = progress(&message, ordinal, address.clone(), state, reason, String::new(), at_ms);
            self.learn(&message, (state, now)).await;
        }
    }

    async fn learn(&mut self, id: &MessageId, now: (State, Progress)) {
        let Some(known) = self.known.get_mut(id) else { return };
        match known.iter_mut().find(|(_, p)| p.ordinal == now.1.ordinal) {
            Some((before, _)) if !now.0.overrides(*before) => return,
            Some(before) => *before = now.clone(),
            None => known.push(now.clone()),
        }
        // A closed stream is noticed by the caller's loop.
        let _ = self.out.send(Ok(now.1)).await;
    }
}

/// Watches every message the caller's inboxes sent.
pub(super) async fn all(
    door: Door,
    grant: Grant,
    out: Out,
    mut events: broadcast::Receiver<Event>,
    stopped: watch::Receiver<bool>,
) {
    let end = match present(&door, &grant, &out).await {
        Err(status) => status,
        Ok(()) => loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = out.closed() => return,
                () = until(stopped.clone()) => break refusal::stopping(),
            };
            let (message, now) = match event {
                Ok(Event::Progress { message, address, state, reason, at_ms }) => {
                    (message, progress(&message, 0, address.to_string(), state, reason, String::new(), at_ms))
                }
                Ok(_) => continue,
                Err(RecvError::Lagged(_)) => break refusal::lagged(),
                Err(RecvError::Closed) => break refusal::stopping(),
            };
            let spool = door.spool.clone();
            let found = match blocking(move || read(&*spool, &message)).await {
                Ok(found) => found.filter(|(stored, body)| visible(&door, &grant, stored, body)),
                Err(status) => break status,
            };
            let Some((_, body)) = found else { continue };
            for (to, ordinal) in body.to.iter().zip(0..) {
                if to.to_string() == now.address {
                    let _ = out.send(Ok(Progress { ordinal, ..now.clone() })).await;
                }
            }
        },
    };
    let _ = out.send(Err(end)).await;
}

/// Sends the present state of what was submitted here, newest first.
async fn present(door: &Door, grant: &Grant, out: &Out) -> Result<(), Status> {
    let mut before = None;
    loop {
        let spool = door.spool.clone();
        let page = blocking(move || Ok(spool.list(PAGE, before)?)).await?;
        let Some(last) = page.last() else { return Ok(()) };
        before = Some(last.row);
        for stored in page.iter().filter(|stored| stored.message.from.is_none()) {
            let body = body_of(stored)?;
            if !visible(door, grant, stored, &body) {
                continue;
            }
            for (_, now) in recipients(&stored.message, &body) {
                if out.send(Ok(now)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
