//! The application's service, call by call.

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};
use tram_proto::id::MessageId;
use tram_proto::local::app_server::App;
use tram_proto::local::{
    Chain, GapsAnswer, GapsRequest, InboxView, InboxesAnswer, InboxesRequest, MessagesAnswer, MessagesRequest,
    Progress, ReceiptsAnswer, ReceiptsRequest, ReceiveEvent, ReceiveRequest, SendRequest, Sent, SetStatusRequest,
    StatusSet, TraceAnswer, TraceRequest, WatchRequest, WithdrawRequest, Withdrawn,
};
use tram_proto::statement::Signed;

use super::access::Grant;
use super::known::{read, visible};
use super::watch::{ById, WATCHED, all};
use super::{Door, blocking, command, deliver, gaps, messages, refusal, submit, trace};
use crate::spool::Spool;

/// Changes of state that may wait for a slow watcher.
const PROGRESS: usize = 64;

pub(super) struct Service {
    door: Door,
    stopped: watch::Receiver<bool>,
}

impl Service {
    pub(super) const fn new(door: Door, stopped: watch::Receiver<bool>) -> Self {
        Self { door, stopped }
    }

    /// What the process at the other end may do.
    async fn grant<T>(&self, request: &Request<T>) -> Result<Grant, Status> {
        let (uid, gid) = credentials(request)?;
        let access = self.door.access.borrow().clone();
        let grant = if access.asks_for_groups(uid) {
            blocking(move || Ok(access.grant(uid, gid))).await?
        } else {
            access.grant(uid, gid)
        };
        if !grant.anything() {
            return Err(refusal::not_permitted(format!(
                "user {uid} may not use this node: an administrator can allow it in [access] of tramd.toml"
            )));
        }
        Ok(grant)
    }
}

pub(super) fn credentials<T>(request: &Request<T>) -> Result<(u32, u32), Status> {
    let info = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let credentials = info.ok_or_else(|| refusal::not_permitted("the kernel did not say who is calling"))?;
    Ok((credentials.uid(), credentials.gid()))
}

pub(super) fn message_id(bytes: &[u8]) -> Result<MessageId, Status> {
    MessageId::from_slice(bytes).map_err(refusal::invalid)
}

#[tonic::async_trait]
impl App for Service {
    async fn send(&self, request: Request<Streaming<SendRequest>>) -> Result<Response<Sent>, Status> {
        let grant = self.grant(&request).await?;
        let done = submit::submit(&self.door, &grant, request.into_inner()).await?;
        let demoted_from = done.demoted_from.map(|asked| asked.to_string()).unwrap_or_default();
        Ok(Response::new(Sent { id: bytes::Bytes::copy_from_slice(&done.id.0), demoted_from }))
    }

    type ReceiveStream = ReceiverStream<Result<ReceiveEvent, Status>>;

    async fn receive(
        &self,
        request: Request<Streaming<ReceiveRequest>>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        let grant = self.grant(&request).await?;
        let mut steps = request.into_inner();
        let (out, events) = mpsc::channel(deliver::EVENTS);
        let (stream, deliveries) = deliver::Stream::open(self.door.clone(), &grant, &mut steps, out).await?;
        tokio::spawn(stream.run(steps, deliveries, self.stopped.clone()));
        Ok(Response::new(ReceiverStream::new(events)))
    }

    type WatchStream = ReceiverStream<Result<Progress, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let grant = self.grant(&request).await?;
        let ids = request.into_inner().ids;
        if ids.len() > WATCHED {
            return Err(refusal::invalid(format!("one call watches at most {WATCHED} messages")));
        }
        let ids = ids.iter().map(|id| message_id(id)).collect::<Result<Vec<_>, _>>()?;
        // Listening begins before the present state is read, so nothing falls between.
        let events = self.door.engine.events();
        let (out, progress) = mpsc::channel(PROGRESS);
        if ids.is_empty() {
            tokio::spawn(all(self.door.clone(), grant, out, events, self.stopped.clone()));
        } else {
            let watch = ById::new(self.door.clone(), &grant, ids, out).await?;
            tokio::spawn(watch.run(events, self.stopped.clone()));
        }
        Ok(Response::new(ReceiverStream::new(progress)))
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<TraceAnswer>, Status> {
        let grant = self.grant(&request).await?;
        let TraceRequest { id, timeout_ms } = request.into_inner();
        let answer = trace::trace(&self.door, &grant, message_id(&id)?, timeout_ms).await?;
        Ok(Response::new(answer))
    }

    async fn receipts(&self, request: Request<ReceiptsRequest>) -> Result<Response<ReceiptsAnswer>, Status> {
        let grant = self.grant(&request).await?;
        let id = message_id(&request.into_inner().id)?;
        let spool = self.door.spool.clone();
        let Some((stored, body)) = blocking(move || read(&*spool, &id)).await? else {
            return Err(refusal::no_such_message());
        };
        if !visible(&self.door, &grant, &stored, &body) {
            return Err(refusal::no_such_message());
        }
        let spool = self.door.spool.clone();
        let answer = blocking(move || with_chains(&*spool, &id, &stored.envelope)).await?;
        Ok(Response::new(answer))
    }

    async fn inboxes(&self, request: Request<InboxesRequest>) -> Result<Response<InboxesAnswer>, Status> {
        let grant = self.grant(&request).await?;
        let snapshot = self.door.engine.snapshot().await.map_err(|_| refusal::stopping())?;
        let own = snapshot.inboxes.iter().filter(|(inbox, _)| grant.inbox(inbox));
        let inboxes = own.map(|(inbox, messages)| InboxView { name: inbox.to_string(), messages: *messages as u64 });
        Ok(Response::new(InboxesAnswer { inboxes: inboxes.collect() }))
    }

    async fn messages(&self, request: Request<MessagesRequest>) -> Result<Response<MessagesAnswer>, Status> {
        let grant = self.grant(&request).await?;
        Ok(Response::new(messages::list(&self.door, &grant, request.into_inner()).await?))
    }

    async fn cancel(&self, request: Request<WithdrawRequest>) -> Result<Response<Withdrawn>, Status> {
        let grant = self.grant(&request).await?;
        let id = message_id(&request.into_inner().id)?;
        Ok(Response::new(command::withdraw(&self.door, &grant, id, false).await?))
    }

    async fn recall(&self, request: Request<WithdrawRequest>) -> Result<Response<Withdrawn>, Status> {
        let grant = self.grant(&request).await?;
        let id = message_id(&request.into_inner().id)?;
        Ok(Response::new(command::withdraw(&self.door, &grant, id, true).await?))
    }

    async fn set_status(&self, request: Request<SetStatusRequest>) -> Result<Response<StatusSet>, Status> {
        let grant = self.grant(&request).await?;
        let SetStatusRequest { id, code, text } = request.into_inner();
        let answer = command::set_status(&self.door, &grant, message_id(&id)?, code, text).await?;
        Ok(Response::new(answer))
    }

    async fn gaps(&self, request: Request<GapsRequest>) -> Result<Response<GapsAnswer>, Status> {
        let grant = self.grant(&request).await?;
        Ok(Response::new(gaps::gaps(&self.door, &grant, request.into_inner()).await?))
    }
}

fn with_chains(spool: &dyn Spool, id: &MessageId, envelope: &Signed) -> Result<ReceiptsAnswer, Status> {
    let receipts: Vec<Signed> = spool.kept_receipts(id)?.into_iter().map(|(_, _, signed)| signed).collect();
    let mut signers: Vec<_> = receipts.iter().chain([envelope]).map(|signed| signed.signature.signer).collect();
    signers.sort_unstable();
    signers.dedup();
    let mut chains = Vec::new();
    for signer in signers {
        let certificates =
            spool.chain(&signer)?.ok_or_else(|| refusal::broken(format!("the chain of signer {signer} is missing")))?;
        chains.push(Chain { certificates });
    }
    Ok(ReceiptsAnswer { envelope: envelope.encode(), receipts: receipts.iter().map(Signed::encode).collect(), chains })
}
