//! The application's service in front of the fake's state.

use bytes::BytesMut;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};
use tram_proto::id::MessageId;
use tram_proto::limits;
use tram_proto::local::app_server::{App, AppServer};
use tram_proto::local::{self as api, Progress, ReceiveEvent, receive_request, send_request};
use tram_proto::name::Inbox;

use super::Shared;
use crate::NewMessage;

/// Events that may wait for a slow application.
const EVENTS: usize = 8;
/// The largest request message, in bytes.
const REQUEST_BYTES: usize = limits::LOCAL_PART_BYTES + 512 * 1024;

pub(super) fn refusal(code: Code, word: &'static str, retryable: bool, text: impl Into<String>) -> Status {
    let mut status = Status::new(code, text);
    let metadata = status.metadata_mut();
    metadata.insert("tram-code", MetadataValue::from_static(word));
    metadata.insert("tram-retryable", MetadataValue::from_static(if retryable { "true" } else { "false" }));
    status
}

fn invalid(text: impl std::fmt::Display) -> Status {
    refusal(Code::InvalidArgument, "invalid", false, text.to_string())
}

fn stopping() -> Status {
    refusal(Code::Unavailable, "stopping", true, "the daemon is stopping")
}

fn not_in_fake() -> Status {
    refusal(Code::Unimplemented, "not_in_fake", false, "the fake node of tests does not do this")
}

fn message_id(bytes: &[u8]) -> Result<MessageId, Status> {
    MessageId::from_slice(bytes).map_err(invalid)
}

/// Serves until told to stop.
pub(super) async fn serve(listener: UnixListener, shared: Shared, stopped: watch::Receiver<bool>) {
    let service = AppServer::new(Service { shared, stopped: stopped.clone() }).max_decoding_message_size(REQUEST_BYTES);
    let server =
        Server::builder().serve_with_incoming_shutdown(service, UnixListenerStream::new(listener), until(stopped));
    // Whoever tests sees a failure as a lost connection.
    let _ = server.await;
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

struct Service {
    shared: Shared,
    stopped: watch::Receiver<bool>,
}

fn new_message(header: api::SendHeader) -> Result<NewMessage, Status> {
    let precedence = match header.precedence.as_str() {
        "" => None,
        word => Some(word.parse().map_err(invalid)?),
    };
    let from = match header.sender.as_str() {
        "" => None,
        inbox => Some(inbox.parse().map_err(invalid)?),
    };
    Ok(NewMessage {
        to: header.to.iter().map(|to| to.parse().map_err(invalid)).collect::<Result<_, _>>()?,
        from,
        precedence,
        lifetime_ms: Some(header.lifetime_ms).filter(|ms| *ms != 0),
        deliver_by_ms: Some(header.deliver_by_ms).filter(|ms| *ms != 0),
        label: header.label,
        subject: header.subject,
        file_name: header.file_name,
        content_type: header.content_type,
        attributes: header.attributes.into_iter().map(|a| (a.key, a.value)).collect(),
        business_id: header.business_id,
        idempotency_key: header.idempotency_key,
        traceparent: header.traceparent,
    })
}

#[tonic::async_trait]
impl App for Service {
    async fn send(&self, request: Request<Streaming<api::SendRequest>>) -> Result<Response<api::Sent>, Status> {
        let mut steps = request.into_inner();
        let Some(send_request::Step::Header(header)) = steps.message().await?.and_then(|first| first.step) else {
            return Err(invalid("the first message of Send is a header"));
        };
        let message = new_message(header)?;
        let mut payload = BytesMut::new();
        loop {
            match steps.message().await?.and_then(|next| next.step) {
                Some(send_request::Step::Part(part)) => payload.extend_from_slice(&part),
                Some(send_request::Step::End(true)) => break,
                Some(_) => return Err(invalid("after the header come parts, then the end")),
                None => return Err(invalid("the stream stopped before the end of the payload")),
            }
        }
        let id = self.shared.change(|world| world.submit(message, payload.freeze()))?;
        Ok(Response::new(api::Sent { id: bytes::Bytes::copy_from_slice(&id.0), demoted_from: String::new() }))
    }

    type ReceiveStream = ReceiverStream<Result<ReceiveEvent, Status>>;

    async fn receive(
        &self,
        request: Request<Streaming<api::ReceiveRequest>>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        let mut steps = request.into_inner();
        let Some(receive_request::Step::Open(open)) = steps.message().await?.and_then(|first| first.step) else {
            return Err(invalid("the first message of Receive opens an inbox"));
        };
        let inbox: Inbox = open.inbox.parse().map_err(invalid)?;
        let taker = self.shared.change(|world| world.open(inbox))?;
        let (out, events) = mpsc::channel(EVENTS);
        let (shared, stopped) = (self.shared.clone(), self.stopped.clone());
        tokio::spawn(async move {
            let end = tokio::select! {
                () = obey(&shared, taker, steps) => None,
                () = carry(&shared, taker, &out) => None,
                () = until(stopped) => Some(stopping()),
            };
            shared.change(|world| world.leave(taker));
            if let Some(status) = end {
                // Nobody listens to a stream that is closed.
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(events)))
    }

    type WatchStream = ReceiverStream<Result<Progress, Status>>;

    async fn watch(&self, request: Request<api::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let ids = request.into_inner().ids;
        let ids = ids.iter().map(|id| message_id(id)).collect::<Result<Vec<_>, _>>()?;
        let (present, told) = {
            let world = self.shared.look();
            (world.present(&ids)?, world.log.len())
        };
        let (out, progress) = mpsc::channel(EVENTS);
        let (shared, stopped) = (self.shared.clone(), self.stopped.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = follow(&shared, &ids, present, told, &out) => {}
                () = until(stopped) => drop(out.send(Err(stopping())).await),
            }
        });
        Ok(Response::new(ReceiverStream::new(progress)))
    }

    async fn trace(&self, request: Request<api::TraceRequest>) -> Result<Response<api::TraceAnswer>, Status> {
        let id = message_id(&request.into_inner().id)?;
        Ok(Response::new(self.shared.look().trace(id)?))
    }

    async fn receipts(&self, _: Request<api::ReceiptsRequest>) -> Result<Response<api::ReceiptsAnswer>, Status> {
        Err(not_in_fake())
    }

    async fn inboxes(&self, _: Request<api::InboxesRequest>) -> Result<Response<api::InboxesAnswer>, Status> {
        let waiting = self.shared.look().waiting();
        let inboxes = waiting.into_iter().map(|(name, messages)| api::InboxView { name, messages }).collect();
        Ok(Response::new(api::InboxesAnswer { inboxes }))
    }

    async fn messages(&self, request: Request<api::MessagesRequest>) -> Result<Response<api::MessagesAnswer>, Status> {
        let api::MessagesRequest { limit, before } = request.into_inner();
        let limit = if limit == 0 { 50 } else { limit as usize };
        let (all, skip) = (self.shared.look().list(), usize::try_from(before).unwrap_or(usize::MAX));
        let next = skip.saturating_add(limit);
        let next = if next < all.len() { next as u64 } else { 0 };
        let messages = all.into_iter().skip(skip).take(limit).collect();
        Ok(Response::new(api::MessagesAnswer { messages, next }))
    }

    async fn cancel(&self, request: Request<api::WithdrawRequest>) -> Result<Response<api::Withdrawn>, Status> {
        let id = message_id(&request.into_inner().id)?;
        Ok(Response::new(self.shared.change(|world| world.withdraw(id))?))
    }

    async fn recall(&self, request: Request<api::WithdrawRequest>) -> Result<Response<api::Withdrawn>, Status> {
        self.cancel(request).await
    }

    async fn set_status(&self, request: Request<api::SetStatusRequest>) -> Result<Response<api::StatusSet>, Status> {
        let api::SetStatusRequest { id, code, text } = request.into_inner();
        let id = message_id(&id)?;
        let recipients = self.shared.change(|world| world.set_status(id, code, &text))?;
        Ok(Response::new(api::StatusSet { recipients }))
    }

    async fn gaps(&self, _: Request<api::GapsRequest>) -> Result<Response<api::GapsAnswer>, Status> {
        Err(not_in_fake())
    }
}

/// Does what the application asks, until it leaves.
async fn obey(shared: &Shared, taker: u64, mut steps: Streaming<api::ReceiveRequest>) {
    use receive_request::Step;
    while let Ok(Some(asked)) = steps.message().await {
        shared.change(|world| match asked.step {
            Some(Step::Credit(credit)) => world.credit(taker, credit),
            Some(Step::Ack(number)) => world.ack(taker, number),
            Some(Step::Nack(number)) => world.give_back(taker, number),
            Some(Step::Count(_)) => world.count(taker),
            // A lease ends when the test says so.
            Some(Step::Renew(_) | Step::Open(_)) | None => {}
        });
    }
}

/// Brings events to the application, until it leaves.
async fn carry(shared: &Shared, taker: u64, out: &mpsc::Sender<Result<ReceiveEvent, Status>>) {
    let mut bell = shared.bell.subscribe();
    loop {
        bell.mark_unchanged();
        loop {
            let event = shared.look().take_event(taker);
            let Some(event) = event else { break };
            if out.send(Ok(event)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            rung = bell.changed() => if rung.is_err() { return },
            () = out.closed() => return,
        }
    }
}

/// Tells a watcher the present, then every change.
async fn follow(
    shared: &Shared,
    ids: &[MessageId],
    present: Vec<Progress>,
    mut told: usize,
    out: &mpsc::Sender<Result<Progress, Status>>,
) {
    let mut bell = shared.bell.subscribe();
    let mut news = present;
    loop {
        for now in news {
            if out.send(Ok(now)).await.is_err() {
                return;
            }
        }
        bell.mark_unchanged();
        news = {
            let world = shared.look();
            let asked = |now: &&Progress| {
                if ids.is_empty() { world.is_sent(&now.id) } else { ids.iter().any(|id| id.0[..] == now.id[..]) }
            };
            let news = world.log[told..].iter().filter(asked).cloned().collect();
            told = world.log.len();
            news
        };
        if news.is_empty() {
            tokio::select! {
                rung = bell.changed() => if rung.is_err() { return },
                () = out.closed() => return,
            }
        }
    }
}
