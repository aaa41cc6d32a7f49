//! The administrator's service, call by call: views of the node, inboxes, tokens, certificates.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tram_pki::lock::Passphrase;
use tram_proto::id::NodeId;
use tram_proto::local::admin_server::Admin;
use tram_proto::local::{
    Changed, ConfigAnswer, ConfigRequest, DoctorAnswer, DoctorRequest, Done, HopName, InboxName, InboxView,
    InboxesAnswer, InboxesRequest, KeyView, LinkView, LinksAnswer, LinksRequest, NodeName, NodeView, NodesAnswer,
    NodesRequest, PkiForgetRootRequest, PkiInstallAnswer, PkiInstallRequest, PkiLockAnswer, PkiLockRequest,
    PkiNodesAnswer, PkiNodesRequest, PkiPinRequest, PkiRenameRequest, PkiRenewAnswer, PkiRenewRequest, PkiRevokeAnswer,
    PkiRevokeRequest, PkiRotateRequest, PkiRotation, PkiSignAnswer, PkiSignRequest, PkiStatusAnswer, PkiStatusRequest,
    PkiUnlockRequest, PlanAnswer, PlanCheckRequest, PlanShowRequest, QueueView, QueuesAnswer, QueuesRequest,
    ReloadAnswer, ReloadRequest, RetryRequest, ScrubAnswer, ScrubRequest, SpoolView, StatusAnswer, StatusRequest,
    TokenCancelRequest, TokenListAnswer, TokenListRequest, TokenNewAnswer, TokenNewRequest, TokenView,
};
use tram_proto::name::Inbox;
use tram_relay::input::{Command, Side};
use tram_relay::snapshot::Snapshot;
use zeroize::Zeroize as _;

use crate::config::view;
use crate::doctor::finding::cure_of_held;
use crate::doctor::{self, Facts, Finding, Language};

use super::pki::PkiDoor;
use super::station::{Issuer, IssuerError, KeyOrder, LinkFacts, SignOrder, TokenOrder, Wire};
use super::{Door, app, command, plan, refusal, scrub};

/// Less room than this makes the node degraded, in bytes.
const ROOM_LOW: u64 = 64 * 1024 * 1024;

pub(super) struct Service {
    door: Door,
    stopped: watch::Receiver<bool>,
    scrubbing: scrub::Running,
}

impl Service {
    pub(super) fn new(door: Door, stopped: watch::Receiver<bool>) -> Self {
        Self { door, stopped, scrubbing: scrub::Running::default() }
    }

    /// The socket's mode keeps others out; this also closes the moment between `bind` and `chmod`.
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let (uid, _) = app::credentials(request)?;
        if self.door.access.borrow().is_own(uid) {
            Ok(())
        } else {
            Err(refusal::not_permitted(format!("user {uid} may not administer this node: only its own user and root")))
        }
    }

    async fn snapshot(&self) -> Result<Box<Snapshot>, Status> {
        self.door.engine.snapshot().await.map_err(|_| refusal::stopping())
    }

    async fn issuer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Issuer) -> Result<T, IssuerError> + Send + 'static,
    ) -> Result<T, Status> {
        let issuer = self.door.issuer.clone().ok_or_else(refusal::no_authority)?;
        let done = tokio::task::spawn_blocking(move || work(&*issuer)).await.map_err(refusal::broken)?;
        done.map_err(|why| refusal::issuer_refused(&why))
    }

    async fn pki<T: Send + 'static>(
        &self,
        work: impl FnOnce(&PkiDoor) -> Result<T, IssuerError> + Send + 'static,
    ) -> Result<T, Status> {
        let pki = self.door.pki.clone();
        let done = tokio::task::spawn_blocking(move || work(&pki)).await.map_err(refusal::broken)?;
        done.map_err(|why| refusal::issuer_refused(&why))
    }

    async fn command(&self, command: Command) -> Result<Response<Changed>, Status> {
        let outcome = command::carry_out(&self.door, command).await?;
        Ok(Response::new(Changed { changed: outcome.changed as u64 }))
    }

    async fn change_inbox(&self, name: &str, create: bool) -> Result<Response<Done>, Status> {
        let inbox: Inbox = name.parse().map_err(refusal::invalid)?;
        let result = self.door.engine.inbox(inbox, create).await.map_err(|_| refusal::stopping())?;
        result.map(|()| Response::new(Done {})).map_err(|why| refusal::inbox_refused(&why))
    }
}

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusAnswer>, Status> {
        self.check(&request)?;
        let snapshot = self.snapshot().await?;
        let station = &self.door.station;
        let (identity, now_ms) = (station.identity(), station.now_ms());
        let links = links(&snapshot, station.links());
        let mut problems: Vec<String> = problems(&snapshot, &links).iter().map(Finding::line).collect();
        let (certificates, more) = self.pki(|pki| Ok((pki.certificates(), pki.problems()))).await?;
        problems.extend(more);
        Ok(Response::new(StatusAnswer {
            node: identity.name.to_string(),
            node_id: identity.node.to_string(),
            role: identity.role.to_string(),
            zone: identity.zone.to_string(),
            title: identity.title,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: snapshot.incarnation.to_string(),
            started_ms: identity.started_ms,
            now_ms,
            clock_trusted: snapshot.clock_trusted,
            problems,
            links,
            queues: queues(&snapshot),
            certificates,
            spool: Some(SpoolView {
                messages: snapshot.messages as u64,
                receipts: snapshot.receipts as u64,
                room_bytes: snapshot.spool_room_bytes,
            }),
            inboxes: inboxes(&snapshot),
            paused: paused(&snapshot),
            held: snapshot.held.clone(),
        }))
    }

    async fn links(&self, request: Request<LinksRequest>) -> Result<Response<LinksAnswer>, Status> {
        self.check(&request)?;
        let links = links(&*self.snapshot().await?, self.door.station.links());
        Ok(Response::new(LinksAnswer { links }))
    }

    async fn nodes(&self, request: Request<NodesRequest>) -> Result<Response<NodesAnswer>, Status> {
        self.check(&request)?;
        let snapshot = self.snapshot().await?;
        let registered =
            if self.door.issuer.is_some() { self.issuer(|issuer| issuer.nodes()).await? } else { Vec::new() };
        let mut nodes: BTreeMap<NodeId, NodeView> = BTreeMap::new();
        for one in registered {
            let (name, id, role) = (one.name.to_string(), one.node.to_string(), one.role.to_string());
            let view = NodeView { name, id, role, not_after_ms: one.not_after_ms, ..NodeView::default() };
            nodes.insert(one.node, view);
        }
        let names: BTreeMap<NodeId, String> = snapshot.nodes.iter().map(|n| (n.node, n.name.to_string())).collect();
        let own = (snapshot.node, snapshot.name.to_string());
        for one in &snapshot.nodes {
            let view = nodes.entry(one.node).or_default();
            view.name = one.name.to_string();
            view.id = one.node.to_string();
            view.announced = one.announced;
            let uplink = one.active.map(|id| {
                if id == own.0 { own.1.clone() } else { names.get(&id).cloned().unwrap_or_else(|| id.to_string()) }
            });
            view.uplink = uplink.unwrap_or_default();
            view.inboxes = one.inboxes.iter().map(ToString::to_string).collect();
            view.at_ms = one.at_ms;
        }
        let mut nodes: Vec<NodeView> = nodes.into_values().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(NodesAnswer { nodes }))
    }

    async fn queues(&self, request: Request<QueuesRequest>) -> Result<Response<QueuesAnswer>, Status> {
        self.check(&request)?;
        let snapshot = self.snapshot().await?;
        Ok(Response::new(QueuesAnswer { queues: queues(&snapshot), paused: paused(&snapshot) }))
    }

    async fn inbox_list(&self, request: Request<InboxesRequest>) -> Result<Response<InboxesAnswer>, Status> {
        self.check(&request)?;
        Ok(Response::new(InboxesAnswer { inboxes: inboxes(&*self.snapshot().await?) }))
    }

    async fn inbox_create(&self, request: Request<InboxName>) -> Result<Response<Done>, Status> {
        self.check(&request)?;
        self.change_inbox(&request.into_inner().name, true).await
    }

    async fn inbox_remove(&self, request: Request<InboxName>) -> Result<Response<Done>, Status> {
        self.check(&request)?;
        self.change_inbox(&request.into_inner().name, false).await
    }

    async fn token_new(&self, request: Request<TokenNewRequest>) -> Result<Response<TokenNewAnswer>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let TokenNewRequest { name, role, ttl_ms, uplink } = request.into_inner();
        let order = TokenOrder {
            name: name.parse().map_err(refusal::invalid)?,
            role: role.parse().map_err(refusal::invalid)?,
            ttl_ms: Some(ttl_ms).filter(|ttl| *ttl != 0),
            door: self.door.pki.door_of(&uplink),
            uplink: Some(uplink).filter(|uplink| !uplink.is_empty()),
            by,
        };
        let made = self.issuer(move |issuer| issuer.new_token(order)).await?;
        Ok(Response::new(TokenNewAnswer { id: made.id, token: made.line, expires_ms: made.expires_ms }))
    }

    async fn token_list(&self, request: Request<TokenListRequest>) -> Result<Response<TokenListAnswer>, Status> {
        self.check(&request)?;
        let tokens = self.issuer(|issuer| issuer.tokens()).await?.into_iter().map(|token| TokenView {
            id: token.id,
            name: token.name.to_string(),
            role: token.role.to_string(),
            state: token.state.to_owned(),
            created_ms: token.created_ms,
            expires_ms: token.expires_ms,
        });
        Ok(Response::new(TokenListAnswer { tokens: tokens.collect() }))
    }

    async fn token_cancel(&self, request: Request<TokenCancelRequest>) -> Result<Response<Done>, Status> {
        self.check(&request)?;
        let token = request.into_inner().token;
        self.issuer(move |issuer| issuer.cancel_token(&token)).await?;
        Ok(Response::new(Done {}))
    }

    async fn pki_unlock(&self, request: Request<PkiUnlockRequest>) -> Result<Response<Done>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let order = KeyOrder::Unlock(passphrase(request.into_inner().passphrase)?);
        self.issuer(move |issuer| issuer.key(order, &by)).await?;
        Ok(Response::new(Done {}))
    }

    async fn pki_lock(&self, request: Request<PkiLockRequest>) -> Result<Response<PkiLockAnswer>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let PkiLockRequest { passphrase: word, set, remove } = request.into_inner();
        let order = match (set, remove) {
            (false, false) => KeyOrder::Lock,
            (true, false) => KeyOrder::Set(passphrase(word)?),
            (false, true) => KeyOrder::Remove(passphrase(word)?),
            (true, true) => return Err(refusal::invalid("a lock is either set or removed")),
        };
        let keys = self.issuer(move |issuer| issuer.key(order, &by)).await?;
        Ok(Response::new(PkiLockAnswer { keys }))
    }

    async fn pki_sign(&self, request: Request<PkiSignRequest>) -> Result<Response<PkiSignAnswer>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let PkiSignRequest { request, role, uplink } = request.into_inner();
        let order = SignOrder { request, role: role.parse().map_err(refusal::invalid)?, uplink, by };
        let answer = self.issuer(move |issuer| issuer.sign(order)).await?;
        Ok(Response::new(PkiSignAnswer { answer: answer.into() }))
    }

    async fn pki_status(&self, request: Request<PkiStatusRequest>) -> Result<Response<PkiStatusAnswer>, Status> {
        self.check(&request)?;
        Ok(Response::new(self.pki(|pki| Ok(pki.status())).await?))
    }

    async fn pki_nodes(&self, request: Request<PkiNodesRequest>) -> Result<Response<PkiNodesAnswer>, Status> {
        self.check(&request)?;
        Ok(Response::new(self.pki(|pki| Ok(pki.list())).await?))
    }

    async fn pki_renew(&self, request: Request<PkiRenewRequest>) -> Result<Response<PkiRenewAnswer>, Status> {
        self.check(&request)?;
        Ok(Response::new(self.door.pki.renew().await))
    }

    async fn pki_revoke(&self, request: Request<PkiRevokeRequest>) -> Result<Response<PkiRevokeAnswer>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let order = request.into_inner();
        let serials = self.pki(move |pki| pki.revoke(&order, &by)).await?;
        Ok(Response::new(PkiRevokeAnswer { serials }))
    }

    async fn pki_rename(&self, request: Request<PkiRenameRequest>) -> Result<Response<Done>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let order = request.into_inner();
        self.pki(move |pki| pki.rename(&order, &by)).await?;
        Ok(Response::new(Done {}))
    }

    async fn pki_rotate(&self, request: Request<PkiRotateRequest>) -> Result<Response<PkiRotation>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let order = request.into_inner();
        Ok(Response::new(self.pki(move |pki| pki.rotate(&order, &by)).await?))
    }

    async fn pki_install(&self, request: Request<PkiInstallRequest>) -> Result<Response<PkiInstallAnswer>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let objects = request.into_inner().objects;
        Ok(Response::new(self.pki(move |pki| pki.install(objects, &by)).await?))
    }

    async fn pki_pin(&self, request: Request<PkiPinRequest>) -> Result<Response<Done>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let order = request.into_inner();
        self.pki(move |pki| pki.pin(order, &by)).await?;
        Ok(Response::new(Done {}))
    }

    async fn pki_forget_root(&self, request: Request<PkiForgetRootRequest>) -> Result<Response<Done>, Status> {
        self.check(&request)?;
        let by = caller(&request);
        let digest = request.into_inner().digest;
        self.pki(move |pki| pki.forget_root(&digest, &by)).await?;
        Ok(Response::new(Done {}))
    }

    async fn queue_pause(&self, request: Request<HopName>) -> Result<Response<Changed>, Status> {
        self.check(&request)?;
        let hop = request.into_inner().hop.parse().map_err(refusal::invalid)?;
        self.command(Command::Pause(hop)).await
    }

    async fn queue_resume(&self, request: Request<HopName>) -> Result<Response<Changed>, Status> {
        self.check(&request)?;
        let hop = request.into_inner().hop.parse().map_err(refusal::invalid)?;
        self.command(Command::Resume(hop)).await
    }

    async fn queue_retry(&self, request: Request<RetryRequest>) -> Result<Response<Changed>, Status> {
        self.check(&request)?;
        let id = request.into_inner().id;
        let message = if id.is_empty() { None } else { Some(app::message_id(&id)?) };
        self.command(Command::Retry(message)).await
    }

    async fn node_retire(&self, request: Request<NodeName>) -> Result<Response<Changed>, Status> {
        self.check(&request)?;
        let name = request.into_inner().name.parse().map_err(refusal::invalid)?;
        self.command(Command::Retire(name)).await
    }

    async fn node_accept(&self, request: Request<NodeName>) -> Result<Response<Done>, Status> {
        self.check(&request)?;
        let name = request.into_inner().name.parse().map_err(refusal::invalid)?;
        self.command(Command::Accept(name)).await?;
        Ok(Response::new(Done {}))
    }

    async fn reload(&self, request: Request<ReloadRequest>) -> Result<Response<ReloadAnswer>, Status> {
        self.check(&request)?;
        let reload = self.door.reload.clone();
        // A caller who goes away does not leave it half done.
        let done = tokio::spawn(async move { reload.reload().await }).await.map_err(refusal::broken)?;
        let changes = done.map_err(|why| refusal::not_reloaded(&why))?;
        let keys = changes.into_iter().map(|change| KeyView { key: change.key.to_owned(), applied: change.applied });
        Ok(Response::new(ReloadAnswer { keys: keys.collect() }))
    }

    async fn config(&self, request: Request<ConfigRequest>) -> Result<Response<ConfigAnswer>, Status> {
        self.check(&request)?;
        let ConfigRequest { file, text } = request.into_inner();
        let file = (!file.is_empty()).then_some((file, text));
        let is_own = file.is_none();
        let (in_force, files) = self.door.reload.config(file).await;
        Ok(Response::new(view::answer(is_own.then_some(&in_force), files.as_ref())))
    }

    async fn doctor(&self, request: Request<DoctorRequest>) -> Result<Response<DoctorAnswer>, Status> {
        self.check(&request)?;
        let language = Language::of(&request.into_inner().language);
        let snapshot = self.snapshot().await?;
        let links = links(&snapshot, self.door.station.links());
        let mut findings = problems(&snapshot, &links);
        let name = self.door.station.identity().name;
        let (more, has_authority) = self
            .pki({
                let name = name.clone();
                move |pki| Ok((pki.problems(), pki.may_be_certified(&name)))
            })
            .await?;
        findings.extend(more.into_iter().map(Finding::Certificates));
        let (in_force, files) = self.door.reload.config(None).await;
        let config = view::answer(Some(&in_force), files.as_ref());
        let facts = Facts { findings, links, config, has_authority, name: name.to_string() };
        let answer = doctor::examine(&self.door.paths, self.door.pki.clock, Some(facts), language).await;
        Ok(Response::new(answer))
    }

    async fn plan_show(&self, request: Request<PlanShowRequest>) -> Result<Response<PlanAnswer>, Status> {
        self.check(&request)?;
        let plan = self.door.plan.borrow().clone();
        Ok(Response::new(plan::answer(&self.door, &plan)))
    }

    async fn plan_check(&self, request: Request<PlanCheckRequest>) -> Result<Response<PlanAnswer>, Status> {
        self.check(&request)?;
        let PlanCheckRequest { file, text } = request.into_inner();
        let file = (!file.is_empty()).then_some((file, text));
        let plan = self.door.reload.plan(file).await.map_err(|why| refusal::not_reloaded(&why))?;
        Ok(Response::new(plan::answer(&self.door, &plan)))
    }

    async fn scrub(&self, request: Request<ScrubRequest>) -> Result<Response<ScrubAnswer>, Status> {
        self.check(&request)?;
        let answer = scrub::scrub(self.door.clone(), self.scrubbing.clone(), self.stopped.clone()).await?;
        Ok(Response::new(answer))
    }
}

/// A passphrase from a request, which is wiped.
fn passphrase(mut text: String) -> Result<Passphrase, Status> {
    let passphrase = Passphrase::of(text.as_bytes()).map_err(refusal::invalid);
    text.zeroize();
    passphrase
}

/// The caller for the audit log.
fn caller<T>(request: &Request<T>) -> String {
    let uid = app::credentials(request).map_or(u32::MAX, |(uid, _)| uid);
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

fn inboxes(snapshot: &Snapshot) -> Vec<InboxView> {
    let view = |(inbox, messages): &(Inbox, usize)| InboxView { name: inbox.to_string(), messages: *messages as u64 };
    snapshot.inboxes.iter().map(view).collect()
}

fn paused(snapshot: &Snapshot) -> Vec<String> {
    snapshot.paused.iter().map(ToString::to_string).collect()
}

fn queues(snapshot: &Snapshot) -> Vec<QueueView> {
    let paused = paused(snapshot);
    let view = |queue: &tram_relay::snapshot::QueueView| QueueView {
        next_hop: queue.next_hop.clone(),
        precedence: queue.precedence.to_string(),
        messages: queue.messages as u64,
        bytes: queue.bytes,
        oldest_ms: queue.oldest_ms,
        paused: paused.contains(&queue.next_hop),
    };
    snapshot.queues.iter().map(view).collect()
}

/// What the engine knows of links and what their tasks know, by peer.
fn links(snapshot: &Snapshot, facts: Vec<LinkFacts>) -> Vec<LinkView> {
    let mut views: BTreeMap<String, LinkView> = BTreeMap::new();
    for fact in facts {
        let state = match fact.wire {
            // Up is what both sides said hello over; until then the connection is being made.
            Wire::Open | Wire::Connecting => "connecting",
            Wire::Down => "down",
            Wire::Revoked => "revoked",
        };
        let peer = fact.peer.to_string();
        views.insert(
            peer.clone(),
            LinkView {
                peer,
                state: state.to_owned(),
                side: if fact.uplink { "up" } else { "down" }.to_owned(),
                address: fact.address,
                since_ms: fact.since_ms,
                rtt_us: fact.rtt_us,
                sent_bytes: fact.sent_bytes,
                received_bytes: fact.received_bytes,
                error: fact.error,
                ..LinkView::default()
            },
        );
    }
    for link in &snapshot.links {
        let view = views.entry(link.peer.to_string()).or_default();
        view.peer = link.peer.to_string();
        view.state = if link.up { "up" } else { "connecting" }.to_owned();
        view.side = if matches!(link.side, Side::Up(_)) { "up" } else { "down" }.to_owned();
        view.role = link.role.to_string();
        view.peer_id = link.peer_id.to_string();
        view.active = link.active;
        view.clock_offset_ms = link.clock_offset_ms;
        view.unacknowledged = link.unacknowledged as u64;
    }
    for peer in &snapshot.held {
        let view = views.entry(peer.clone()).or_insert_with(|| LinkView {
            peer: peer.clone(),
            side: "down".to_owned(),
            ..LinkView::default()
        });
        view.state = "held".to_owned();
        view.error = cure_of_held(peer);
    }
    views.into_values().collect()
}

/// Why the node is degraded, each with what to do.
fn problems(snapshot: &Snapshot, links: &[LinkView]) -> Vec<Finding> {
    let mut problems = Vec::new();
    let uplinks: Vec<&LinkView> = links.iter().filter(|link| link.side == "up").collect();
    if !uplinks.is_empty() && uplinks.iter().all(|link| link.state != "up") {
        let one = |link: &&LinkView| {
            format!("{} {}{}{}", link.peer, link.state, if link.error.is_empty() { "" } else { ": " }, link.error)
        };
        problems.push(Finding::NoUplink(uplinks.iter().map(one).collect::<Vec<_>>().join("; ")));
    }
    if let Some(first) = snapshot.late.first() {
        problems.push(Finding::Late(snapshot.late.len(), first.to_string()));
    }
    problems.extend(snapshot.held.iter().cloned().map(Finding::Held));
    problems.extend(paused(snapshot).into_iter().map(Finding::Paused));
    if !snapshot.clock_trusted {
        problems.push(Finding::ClockUntrusted);
    }
    if snapshot.spool_room_bytes < ROOM_LOW {
        problems.push(Finding::SpoolLow(snapshot.spool_room_bytes));
    }
    problems
}
