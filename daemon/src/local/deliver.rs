//! Messages on their way out: one stream of an application that takes from an inbox.
//!
//! Two tasks serve a stream: one obeys the application (credit, acknowledgements), one carries messages. So an
//! acknowledgement never waits behind a payload that nobody reads. Whatever ends the stream, the core is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Status, Streaming};
use tram_proto::envelope::Body;
use tram_proto::limits;
use tram_proto::local::{
    Acked, Attribute, MessageEnd, MessageHeader, ReceiveEvent, ReceiveOpen, ReceiveRequest, Waiting,
    receive_event::Step as Event, receive_request::Step,
};
use tram_proto::manifest::Layout;
use tram_proto::name::Inbox;
use tram_relay::input::{Consumer, Input, Row};

use super::access::Grant;
use super::{Door, blocking, refusal, until};
use crate::engine::handle::{Delivery, Request};
use crate::spool::SpoolError;

/// Events that may wait for a slow application; a part is a chunk of 256 KiB.
pub(super) const EVENTS: usize = 8;
/// The most messages an application may take at once.
const CREDIT: u32 = 256;
/// Deliveries under way between core and stream; more than twice the credit, which can be replaced while they come.
const DELIVERIES: usize = 1024;
/// Acknowledgements waiting for the disk.
const ACKS: usize = 1024;
/// Chunks read from the spool at once.
const READ_AHEAD: u64 = 4;
/// The lease, in milliseconds: default, shortest, longest.
const LEASE_MS: u64 = 60_000;
const LEASE_MIN_MS: u64 = 1_000;
const LEASE_MAX_MS: u64 = 3_600_000;

type Out = mpsc::Sender<Result<ReceiveEvent, Status>>;

/// One application's stream.
#[derive(Clone)]
pub(super) struct Stream {
    door: Door,
    consumer: Consumer,
    inbox: Inbox,
    lease_ms: u64,
    out: Out,
}

impl Stream {
    /// Reads `open` and registers the application with the engine; [`Self::run`] does the rest.
    pub(super) async fn open(
        door: Door,
        grant: &Grant,
        steps: &mut Streaming<ReceiveRequest>,
        out: Out,
    ) -> Result<(Self, mpsc::Receiver<Delivery>), Status> {
        let Some(Step::Open(ReceiveOpen { inbox, lease_ms })) = steps.message().await?.and_then(|first| first.step)
        else {
            return Err(refusal::invalid("the first message of Receive opens an inbox"));
        };
        let inbox: Inbox = inbox.parse().map_err(refusal::invalid)?;
        if !grant.inbox(&inbox) {
            return Err(refusal::not_permitted(format!(
                "user {} may not receive from inbox {inbox}: an administrator can allow it in [access] of tramd.toml",
                grant.uid
            )));
        }
        let lease_ms = if lease_ms == 0 { LEASE_MS } else { lease_ms.clamp(LEASE_MIN_MS, LEASE_MAX_MS) };
        let consumer = Consumer(door.engine.unique());
        let stream = Self { door, consumer, inbox, lease_ms, out };
        stream.count().await?.ok_or_else(|| refusal::no_such_inbox(&stream.inbox))?;
        let (sender, deliveries) = mpsc::channel(DELIVERIES);
        stream.door.engine.request(Request::Join(consumer, sender)).await.map_err(|_| refusal::stopping())?;
        Ok((stream, deliveries))
    }

    /// Serves the stream to its end.
    pub(super) async fn run(
        self,
        mut steps: Streaming<ReceiveRequest>,
        deliveries: mpsc::Receiver<Delivery>,
        stopped: watch::Receiver<bool>,
    ) {
        let (counts, counted) = mpsc::channel(EVENTS);
        let mut carrier = tokio::spawn(self.clone().carry(deliveries, counted));
        let mut acks = JoinSet::new();
        let end = loop {
            tokio::select! {
                step = steps.message(), if acks.len() < ACKS => match step {
                    Ok(Some(ReceiveRequest { step: Some(step) })) => {
                        if let Err(status) = self.obey(step, &mut acks, &counts).await {
                            break Err(status);
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break Ok(()),
                },
                Some(_) = acks.join_next() => {}
                result = &mut carrier => break result.unwrap_or_else(|error| Err(refusal::broken(error))),
                () = self.out.closed() => break Ok(()),
                () = until(stopped.clone()) => break Err(refusal::stopping()),
            }
        };
        self.close(end, acks, &carrier).await;
    }

    async fn close(self, end: Result<(), Status>, mut acks: JoinSet<()>, carrier: &JoinHandle<Result<(), Status>>) {
        // The application may have said its last word and still wait for answers.
        while !self.out.is_closed() && acks.join_next().await.is_some() {}
        carrier.abort();
        // When the engine is gone it has forgotten the consumer with everything else.
        let _ = self.door.engine.input(Input::Left { consumer: self.consumer }).await;
        if let Err(status) = end {
            // Nobody listens to a stream that is closed.
            let _ = self.out.send(Err(status)).await;
        }
    }

    async fn obey(&self, step: Step, acks: &mut JoinSet<()>, counts: &mpsc::Sender<u64>) -> Result<(), Status> {
        let consumer = self.consumer;
        let input = match step {
            Step::Open(_) => return Err(refusal::invalid("a stream opens one inbox")),
            Step::Credit(credit) => {
                Input::Take { consumer, inbox: self.inbox.clone(), credit: credit.min(CREDIT), lease_ms: self.lease_ms }
            }
            Step::Nack(delivery) => Input::GaveBack { consumer, row: Row(delivery) },
            Step::Renew(delivery) => Input::Renew { consumer, row: Row(delivery) },
            Step::Ack(delivery) => {
                let (engine, out) = (self.door.engine.clone(), self.out.clone());
                acks.spawn(async move {
                    let answer = match engine.took(consumer, Row(delivery)).await {
                        Ok(held) => Ok(ReceiveEvent { step: Some(Event::Acked(Acked { delivery, held })) }),
                        Err(_) => Err(refusal::stopping()),
                    };
                    // The application may be gone already; its acknowledgement counts all the same.
                    let _ = out.send(answer).await;
                });
                return Ok(());
            }
            Step::Count(_) => {
                let messages = self.count().await?.unwrap_or(0);
                // The carrier brings the answer, behind the deliveries before it.
                let _ = counts.send(messages).await;
                return Ok(());
            }
        };
        self.door.engine.input(input).await.map_err(|_| refusal::stopping())
    }

    /// Messages in the inbox; `None` when it is not declared.
    async fn count(&self) -> Result<Option<u64>, Status> {
        let snapshot = self.door.engine.snapshot().await.map_err(|_| refusal::stopping())?;
        Ok(snapshot.inboxes.iter().find(|(inbox, _)| *inbox == self.inbox).map(|(_, messages)| *messages as u64))
    }

    async fn carry(
        self,
        mut deliveries: mpsc::Receiver<Delivery>,
        mut counted: mpsc::Receiver<u64>,
    ) -> Result<(), Status> {
        loop {
            tokio::select! {
                biased;
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => self.carry_one(delivery).await?,
                    None => return Err(refusal::stopping()),
                },
                Some(messages) = counted.recv() => self.event(Event::Waiting(Waiting { messages })).await?,
            }
        }
    }

    async fn event(&self, step: Event) -> Result<(), Status> {
        // A closed stream is noticed by the other task.
        self.out.send(Ok(ReceiveEvent { step: Some(step) })).await.map_err(|_| refusal::broken("the application left"))
    }

    async fn carry_one(&self, delivery: Delivery) -> Result<(), Status> {
        let (spool, row) = (self.door.spool.clone(), delivery.row);
        let found = blocking(move || match spool.message(row).and_then(|m| Ok(m.zip(Some(spool.inline(row)?)))) {
            Err(why @ (SpoolError::Missing { .. } | SpoolError::Unreadable { .. })) => Ok(Err(why.to_string())),
            found => Ok(Ok(found?)),
        });
        let read = match found.await? {
            // It ended in the meantime; the core knows.
            Ok(None) => return self.give_back(row).await,
            Ok(Some((stored, inline))) => {
                let body = Body::decode(&stored.envelope.statement);
                body.map(|body| (body, inline)).map_err(|why| why.to_string())
            }
            Err(why) => Err(why),
        };
        let (body, inline) = match read {
            Ok(read) => read,
            Err(why) => {
                tracing::error!(id = %delivery.id, %why, "a message cannot be read");
                let input = Input::Unreadable { consumer: self.consumer, row };
                return self.door.engine.input(input).await.map_err(|_| refusal::stopping());
            }
        };
        self.event(Event::Message(header(&delivery, &body))).await?;
        match inline {
            Some(payload) if payload.is_empty() => {}
            Some(payload) => self.event(Event::Part(payload)).await?,
            None => self.parts(row, &body).await?,
        }
        self.event(Event::End(MessageEnd { delivery: row.0 })).await
    }

    async fn give_back(&self, row: Row) -> Result<(), Status> {
        let input = Input::GaveBack { consumer: self.consumer, row };
        self.door.engine.input(input).await.map_err(|_| refusal::stopping())
    }

    /// Streams a chunked payload at the application's pace; as long as it moves, the lease does not end.
    async fn parts(&self, row: Row, body: &Body) -> Result<(), Status> {
        let moved = AtomicBool::new(false);
        let renew = async {
            loop {
                tokio::time::sleep(Duration::from_millis(self.lease_ms / 3)).await;
                if moved.swap(false, Ordering::Relaxed) {
                    let input = Input::Renew { consumer: self.consumer, row };
                    self.door.engine.input(input).await.map_err(|_| refusal::stopping())?;
                }
            }
        };
        tokio::select! {
            result = self.chunks(body, &moved) => result,
            stopped = renew => stopped,
        }
    }

    async fn chunks(&self, body: &Body, moved: &AtomicBool) -> Result<(), Status> {
        const { assert!(limits::CHUNK_BYTES <= limits::LOCAL_PART_BYTES) };
        let layout = Layout::new(body.payload_bytes).map_err(|error| refusal::damaged(&error))?;
        let root = body.payload_root;
        let mut next = layout.manifest_units();
        while next < layout.units() {
            let spool = self.door.spool.clone();
            let end = layout.units().min(next + READ_AHEAD);
            let chunks = blocking(move || {
                match (next..end).map(|unit| spool.unit(root, layout, unit)).collect::<Result<Vec<_>, _>>() {
                    Ok(chunks) => Ok(Ok(chunks)),
                    Err(why @ (SpoolError::Damaged { .. } | SpoolError::Missing { .. })) => {
                        Ok(Err((spool.held(root, layout)?, why)))
                    }
                    Err(why) => Err(why.into()),
                }
            });
            let chunks = match chunks.await? {
                Ok(chunks) => chunks,
                Err((held, why)) => {
                    // It leaves the inbox until it has come again.
                    let lost = Input::UnitsLost { root, held };
                    self.door.engine.input(lost).await.map_err(|_| refusal::stopping())?;
                    return Err(why.into());
                }
            };
            for chunk in chunks {
                self.event(Event::Part(chunk)).await?;
                moved.store(true, Ordering::Relaxed);
            }
            next = end;
        }
        Ok(())
    }
}

/// The sender as applications are told it.
pub(super) fn from(body: &Body) -> String {
    match &body.sender {
        Some(sender) => format!("{sender}@{}", body.origin_name),
        None => body.origin_name.to_string(),
    }
}

fn header(delivery: &Delivery, body: &Body) -> MessageHeader {
    MessageHeader {
        delivery: delivery.row.0,
        id: bytes::Bytes::copy_from_slice(&delivery.id.0),
        from: from(body),
        address: delivery.address.to_string(),
        file_name: body.file_name.clone(),
        subject: body.subject.clone(),
        precedence: body.precedence.to_string(),
        created_ms: body.created_ms,
        deadline_ms: body.deadline_ms(),
        deliver_by_ms: body.deliver_by_ms,
        size: body.payload_bytes,
        attributes: body
            .attributes
            .iter()
            .map(|(key, value)| Attribute { key: key.clone(), value: value.clone() })
            .collect(),
        business_id: body.business_id.clone(),
        content_type: body.content_type.clone(),
        label: body.label.clone(),
        redelivered: delivery.redelivered,
        traceparent: body.traceparent.clone(),
        sequence: body.sequence,
    }
}
