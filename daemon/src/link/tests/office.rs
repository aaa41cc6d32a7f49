//! A whole node but for disk and local sockets, on a simulated line: real core, engine and links, the spool in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tram_pki::keystore::NodeKeys;
use tram_pki::pins::Pins;
use tram_proto::envelope::Precedence;
use tram_proto::frame::FEATURE_PKI;
use tram_proto::id::{Incarnation, MessageId};
use tram_proto::manifest::root_of;
use tram_proto::row::NodeRow;
use tram_proto::statement::{Kind, Signature};
use tram_relay::input::{Consumer, Input, Submission};
use tram_relay::output::Op;
use tram_relay::{Config, Node};

use super::fixture::{name, quic_keys};
use super::line::Line;
use crate::clock::Clock;
use crate::committer::{Persist, Sign, sign_ops};
use crate::engine::Engine;
use crate::engine::handle::{Delivery, EngineHandle, Request};
use crate::link::dialer::{Uplink, Uplinks};
use crate::link::endpoint::Endpoints;
use crate::link::pace::Pace;
use crate::link::pki::herald::Herald;
use crate::link::trust::NodeTrust;
use crate::link::{Here, acceptor};
use crate::spool::{GRACE_MS, MemorySpool, Spool};

struct Pen(NodeKeys);

impl Sign for Pen {
    fn sign(&self, statements: &[(Kind, &[u8])]) -> Result<Vec<Signature>, String> {
        self.0.signer().sign_batch(statements).map_err(|e| e.to_string())
    }
}

pub(crate) struct Office {
    pub(crate) here: Arc<Here>,
    pub(crate) trust: Arc<NodeTrust>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) engine: EngineHandle,
    pub(crate) spool: Arc<MemorySpool>,
    deliveries: mpsc::Receiver<Delivery>,
    _tasks: JoinSet<()>,
}

const CONSUMER: Consumer = Consumer(u64::MAX);

impl Office {
    pub(crate) async fn open(keys: &NodeKeys, line: &Line, address: SocketAddr, is_top: bool) -> Self {
        Self::with_pki(keys, line, address, is_top, None).await
    }

    /// One that has a PKI to tell of.
    pub(crate) async fn with_pki(
        keys: &NodeKeys,
        line: &Line,
        address: SocketAddr,
        is_top: bool,
        herald: Option<Arc<Herald>>,
    ) -> Self {
        let (clock, me) = (Clock::virtual_time(), keys.identity().clone());
        let spool = Arc::new(MemorySpool::new(1 << 40, GRACE_MS));
        let chain: Vec<bytes::Bytes> = keys.chain().iter().map(|c| bytes::Bytes::copy_from_slice(c)).collect();
        spool.put_chain(&chain).expect("stored");
        let mut node = Node::new(Config {
            node: me.id,
            name: me.name.clone(),
            title: String::new(),
            has_uplink: !is_top,
            features: if herald.is_some() { FEATURE_PKI } else { 0 },
            addresses: vec![],
            boot: me.id.0,
            labels: vec![],
        });
        let row = NodeRow { incarnation: Incarnation(me.id.0), starts: 1, record: 0, clock_ms: 0 };
        spool.commit(&[Op::PutNode(row)]).expect("stored");
        let inboxes = vec!["vanban".parse().expect("an inbox")];
        node.handle(Input::Start { node: row, inboxes }, clock.now());

        let (engine, requests, told) = EngineHandle::new();
        let (queue, commits) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(Engine::new(node, clock, requests, told, queue).run());
        // On this thread: the clock must not run on while a commit is under way.
        tasks.spawn(commit(commits, spool.clone(), Pen(keys.clone()), engine.clone()));
        let room = Input::SpoolRoom { free_bytes: 1 << 40, total_bytes: 1 << 40 };
        engine.input(room).await.expect("runs");
        let trust = Arc::new(NodeTrust::new(keys.clone(), Pins::default(), clock));
        let here = Here::new((me.id, me.name), clock, engine.clone(), spool.clone(), trust.clone(), herald);
        let endpoints = Arc::new(Endpoints::over(line.socket(address), quic_keys(keys)));
        tasks.spawn(acceptor::run(here.clone(), endpoints.clone()));
        let (consumer, deliveries) = mpsc::channel(1024);
        engine.request(Request::Join(CONSUMER, consumer)).await.expect("runs");
        let inbox = "vanban".parse().expect("an inbox");
        let take = Input::Take { consumer: CONSUMER, inbox, credit: 1024, lease_ms: 24 * 3_600_000 };
        engine.input(take).await.expect("runs");
        Self { here, trust, endpoints, engine, spool, deliveries, _tasks: tasks }
    }

    pub(crate) fn dial(&self, node: &str, address: SocketAddr) -> Uplinks {
        let uplink = Uplink { node: name(node), addresses: vec![address.to_string()], pace: Pace::default() };
        Uplinks::dial(&self.here, &self.endpoints, vec![uplink])
    }

    pub(crate) async fn submit(&self, to: &str, payload: Vec<u8>) -> MessageId {
        self.send(to, Precedence::Routine, payload).await
    }

    pub(crate) async fn send(&self, to: &str, precedence: Precedence, payload: Vec<u8>) -> MessageId {
        let (payload_root, payload_bytes, inline) = if payload.len() <= tram_proto::limits::INLINE_BYTES {
            (root_of(&payload), payload.len() as u64, Some(payload.into()))
        } else {
            let mut upload = self.spool.upload();
            upload.push(payload.into()).expect("fits");
            let (root, bytes) = upload.finish().expect("durable");
            (root, bytes, None)
        };
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).expect("random");
        let submission = Submission {
            user: 0,
            quota_bytes: None,
            demoted_from: None,
            nonce,
            sender: None,
            to: vec![to.parse().expect("an address")],
            precedence,
            lifetime_ms: None,
            deliver_by_ms: 0,
            label: String::new(),
            subject: String::new(),
            file_name: String::new(),
            content_type: String::new(),
            attributes: vec![],
            business_id: String::new(),
            idempotency_key: String::new(),
            traceparent: String::new(),
            payload_bytes,
            payload_root,
            inline,
        };
        self.engine.submit(submission).await.expect("runs").expect("taken").id
    }

    /// Takes and acknowledges so many messages, and says how often each came.
    pub(crate) async fn take(&mut self, count: usize) -> BTreeMap<MessageId, usize> {
        let mut came = BTreeMap::new();
        for _ in 0..count {
            let delivery = tokio::time::timeout(Duration::from_secs(3600), self.deliveries.recv()).await;
            let delivery = delivery.expect("within an hour of virtual time").expect("runs");
            *came.entry(delivery.id).or_default() += 1;
            assert!(self.engine.took(CONSUMER, delivery.row).await.expect("runs"));
        }
        came
    }

    /// Takes and acknowledges what comes until a moment has come.
    pub(crate) async fn take_until(&mut self, moment: impl Future<Output = ()>) -> Vec<MessageId> {
        let mut came = Vec::new();
        tokio::pin!(moment);
        loop {
            tokio::select! {
                () = &mut moment => return came,
                delivery = self.deliveries.recv() => {
                    let delivery = delivery.expect("runs");
                    came.push(delivery.id);
                    assert!(self.engine.took(CONSUMER, delivery.row).await.expect("runs"));
                }
            }
        }
    }

    /// Waits until this node is done with everything, and nothing more was handed to the application.
    pub(crate) async fn drained(&mut self) {
        loop {
            let snapshot = self.engine.snapshot().await.expect("runs");
            if snapshot.messages == 0 && snapshot.receipts == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(self.deliveries.try_recv().is_err(), "nothing comes a second time");
    }
}

async fn commit(mut commits: mpsc::Receiver<Persist>, spool: Arc<MemorySpool>, pen: Pen, engine: EngineHandle) {
    while let Some(one) = commits.recv().await {
        let mut batch = vec![one];
        let done = sign_ops(&mut batch, &pen).expect("signed");
        for (persist, done) in batch.into_iter().zip(done) {
            spool.commit(&persist.ops).expect("stored");
            if engine.input(Input::Persisted { commit: done.commit, records: done.records }).await.is_err() {
                return;
            }
        }
    }
}
