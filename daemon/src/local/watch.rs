//! What became of messages, as it happens.
//!
//! Events say it first; the spool is read again a moment after the start (a change may have been on its way to the disk
//! just then) and now and again, so that a watcher who fell behind or asked in that moment still learns the truth.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tonic::Status;
use tram_proto::envelope::MessageKind;
use tram_proto::id::MessageId;
use tram_proto::local::Progress;
use tram_proto::receipt::State;
use tram_relay::output::Event;

use super::access::Grant;
use super::known::{Known, body_of, is_news, progress, read, visible};
use super::{Door, blocking, refusal, until};

/// Messages one call may watch by id.
pub(super) const WATCHED: usize = 1024;
/// When the spool is read again: soon after the start, then regularly.
const SOON: Duration = Duration::from_millis(200);
const REGULARLY: Duration = Duration::from_secs(15);
/// Messages read at once when all are watched.
const PAGE: usize = 256;

type Out = mpsc::Sender<Result<Progress, Status>>;

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
                        Ok(event) => if let Err(status) = self.note(event).await { break Some(status) },
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
            self.read_one(id).await?;
        }
        Ok(())
    }

    async fn read_one(&mut self, id: MessageId) -> Result<(), Status> {
        let spool = self.door.spool.clone();
        let Some(known) = blocking(move || Known::read(&*spool, &id)).await? else { return Ok(()) };
        for now in known.recipients() {
            self.learn(&id, now).await;
        }
        Ok(())
    }

    async fn note(&mut self, event: Event) -> Result<(), Status> {
        let Event::Progress { message, address, state, reason, at_ms, .. } = event else { return Ok(()) };
        let Some(known) = self.known.get(&message) else { return Ok(()) };
        if state == State::Status {
            // Code and text stand in the receipt.
            return self.read_one(message).await;
        }
        let address = address.to_string();
        let ordinals: Vec<u32> = known.iter().filter(|(_, p)| p.address == address).map(|(_, p)| p.ordinal).collect();
        for ordinal in ordinals {
            let now = progress(&message, address.clone(), state, at_ms);
            let now = Progress { ordinal, reason: reason.to_string(), ..now };
            self.learn(&message, (state, now)).await;
        }
        Ok(())
    }

    async fn learn(&mut self, id: &MessageId, now: (State, Progress)) {
        let Some(known) = self.known.get_mut(id) else { return };
        match known.iter_mut().find(|(_, p)| p.ordinal == now.1.ordinal) {
            Some(before) if !is_news(before, &now) => return,
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
            let changed = match event {
                Ok(event) => changed(&door, &grant, event).await,
                Err(RecvError::Lagged(_)) => break refusal::lagged(),
                Err(RecvError::Closed) => break refusal::stopping(),
            };
            match changed {
                Ok(changed) => {
                    for now in changed {
                        let _ = out.send(Ok(now)).await;
                    }
                }
                Err(status) => break status,
            }
        },
    };
    let _ = out.send(Err(end)).await;
}

/// What an event tells this watcher of everything. Tombstones are watched by id: nobody waits for one he did not send.
async fn changed(door: &Door, grant: &Grant, event: Event) -> Result<Vec<Progress>, Status> {
    let Event::Progress { message, address, state, reason, at_ms, .. } = event else { return Ok(Vec::new()) };
    let spool = door.spool.clone();
    let found = blocking(move || read(&*spool, &message)).await?;
    let Some((stored, body)) = found.filter(|(stored, body)| visible(door, grant, stored, body)) else {
        return Ok(Vec::new());
    };
    if body.kind == MessageKind::Tombstone {
        return Ok(Vec::new());
    }
    if state == State::Status {
        // Code and text stand in the receipt.
        let spool = door.spool.clone();
        let known = blocking(move || Known::new(&*spool, stored, body)).await?;
        let of_address = known.recipients().into_iter().map(|(_, now)| now);
        return Ok(of_address.filter(|now| now.address == address.to_string()).collect());
    }
    let ordinals = body.to.iter().zip(0..).filter(|(to, _)| **to == address).map(|(_, ordinal)| ordinal);
    let now = Progress { reason: reason.to_string(), ..progress(&message, address.to_string(), state, at_ms) };
    Ok(ordinals.map(|ordinal| Progress { ordinal, ..now.clone() }).collect())
}

/// Sends the present state of what was submitted here, newest first.
async fn present(door: &Door, grant: &Grant, out: &Out) -> Result<(), Status> {
    let mut before = None;
    loop {
        let spool = door.spool.clone();
        let page = blocking(move || Ok(spool.list(PAGE, before)?)).await?;
        let Some(last) = page.last() else { return Ok(()) };
        before = Some(last.row);
        for stored in page.into_iter().filter(|stored| stored.message.from.is_none()) {
            let body = body_of(&stored)?;
            if !visible(door, grant, &stored, &body) || body.kind == MessageKind::Tombstone {
                continue;
            }
            let spool = door.spool.clone();
            let known = blocking(move || Known::new(&*spool, stored, body)).await?;
            for (_, now) in known.recipients() {
                if out.send(Ok(now)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
