//! An engine that delivers to its own inboxes, and everything else the sockets need, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, watch};
use tram_proto::envelope::{Body, MessageKind, Network};
use tram_proto::frame::{Recipient, TraceHop, Visit};
use tram_proto::id::{CertHash, Incarnation, MessageId, NodeId};
use tram_proto::name::{Address, Inbox};
use tram_proto::receipt::{Ordinal, Reason, Receipt, Stamp, State};
use tram_proto::row::{MessageRow, Phase, RecipientRow};
use tram_proto::statement::{Batch, Kind, Signature, Signed};
use tram_relay::input::{Consumer, Input, Row, Submission};
use tram_relay::output::{Event, InboxRefused, Op, Statement, SubmitRefused};
use tram_relay::snapshot::Snapshot;

use super::super::access::Access;
use super::super::station::{Identity, KeyChange, LinkFacts, Reload, ReloadError, Station, Wire};
use super::super::{Door, Sockets, serve};
use crate::committer::Sign;
use crate::config::{Config, ConfigError, Entries};
use crate::engine::handle::Submitted;
use crate::engine::handle::{Delivery, EngineHandle, Request};
use crate::plan::Plan;
use crate::spool::{MemorySpool, Spool};

pub(super) const NOW_MS: u64 = 1_800_000_000_000;

/// A node in a temporary directory.
pub(in crate::local) struct Node {
    pub(in crate::local) dir: tempfile::TempDir,
    pub(super) spool: Arc<dyn Spool>,
    pub(super) engine: EngineHandle,
    pub(super) access: watch::Sender<Arc<Access>>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) served: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Starts one with this much room in its spool, in bytes.
    pub(in crate::local) fn start(room: u64) -> Self {
        let (engine, spool) = Self::fake(room);
        Self::serve(engine, spool)
    }

    /// The engine alone, and its spool.
    pub(in crate::local) fn fake(room: u64) -> (EngineHandle, Arc<dyn Spool>) {
        let spool = MemorySpool::new(room, 1000);
        let (engine, requests, told) = EngineHandle::new();
        let fake = Engine {
            spool: Arc::new(spool.clone()),
            events: told.events,
            inboxes: BTreeMap::from([("vanban".parse().expect("inbox"), VecDeque::new())]),
            consumers: BTreeMap::new(),
            next_row: 1,
        };
        tokio::spawn(fake.run(requests));
        (engine, Arc::new(spool))
    }

    /// Serves the sockets of whatever answers behind that handle.
    pub(super) fn serve(engine: EngineHandle, spool: Arc<dyn Spool>) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pki = crate::local::pki::tests::door(dir.path(), false);
        Self::serve_with(dir, engine, spool, pki)
    }

    /// The same, with the certificates of that door.
    pub(in crate::local) fn serve_with(
        dir: tempfile::TempDir,
        engine: EngineHandle,
        spool: Arc<dyn Spool>,
        pki: Arc<crate::local::pki::PkiDoor>,
    ) -> Self {
        spool.put_chain(&[Bytes::from_static(b"certificate")]).expect("kept");
        let (access, rules) = watch::channel(Arc::new(Access::own_user()));
        let door = Door {
            engine: engine.clone(),
            spool: spool.clone(),
            station: Arc::new(Here),
            issuer: pki.desk.clone().map(|desk| desk as Arc<dyn crate::local::station::Issuer>),
            pki,
            paths: crate::paths::Paths::new(Some(dir.path())),
            reload: Arc::new(Reloaded::default()),
            access: rules,
            plan: watch::channel(Arc::default()).1,
            quotas: Arc::new(crate::local::quota::Quotas::new(crate::clock::Clock::default())),
        };
        let (stop, mut stopped) = watch::channel(false);
        let sockets = Sockets::bind(dir.path()).expect("binds");
        let served = tokio::spawn(async move {
            let until = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            serve(sockets, door, until).await.expect("serves");
        });
        Self { dir, spool, engine, access, stop, served }
    }
}

/// The first config is fine, the next is not.
#[derive(Default)]
struct Reloaded(AtomicBool);

#[tonic::async_trait]
impl Reload for Reloaded {
    async fn reload(&self) -> Result<Vec<KeyChange>, ReloadError> {
        if self.0.swap(true, Ordering::Relaxed) {
            return Err(ReloadError("tramd.toml: line 3: unknown key".to_owned()));
        }
        let key = |key, applied| KeyChange { key, applied };
        Ok(vec![key("access.rule", true), key("listen.overlay", false)])
    }

    async fn config(&self, file: Option<(String, String)>) -> (Entries, Result<Entries, ConfigError>) {
        let of = |text: &str| Config::from_text("tramd.toml".as_ref(), text).map(|config| config.entries);
        let in_force = of("[node]\ntitle = \"A\"\n").expect("valid");
        (in_force, of(&file.map_or_else(String::new, |(_, text)| text)))
    }

    async fn plan(&self, file: Option<(String, String)>) -> Result<Plan, ReloadError> {
        let text = file.map_or_else(String::new, |(_, text)| text);
        Config::from_text("tramd.toml".as_ref(), &text).map(|c| c.plan).map_err(|e| ReloadError(e.to_string()))
    }
}

struct Here;

impl Station for Here {
    fn identity(&self) -> Identity {
        Identity {
            node: NodeId([1; 16]),
            name: "central".parse().expect("name"),
            zone: "tram.internal".parse().expect("zone"),
            role: "central".parse().expect("role"),
            title: String::new(),
            started_ms: NOW_MS,
        }
    }

    fn links(&self) -> Vec<LinkFacts> {
        vec![LinkFacts {
            peer: "hub".parse().expect("name"),
            uplink: true,
            wire: Wire::Connecting,
            address: "203.0.113.5:7443".to_owned(),
            since_ms: NOW_MS,
            rtt_us: None,
            sent_bytes: 0,
            received_bytes: 0,
            error: "timed out".to_owned(),
        }]
    }

    fn now_ms(&self) -> u64 {
        NOW_MS
    }
}

struct Taker {
    inbox: Option<Inbox>,
    credit: u32,
    deliveries: mpsc::Sender<Delivery>,
    held: Vec<(Row, MessageId, Address)>,
}

/// Rows wait in inboxes; `redelivered` is said of what was handed out before.
struct Engine {
    spool: Arc<MemorySpool>,
    events: broadcast::Sender<Event>,
    inboxes: BTreeMap<Inbox, VecDeque<(Row, MessageId, Address, bool)>>,
    consumers: BTreeMap<Consumer, Taker>,
    next_row: u64,
}

impl Engine {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            match request {
                Request::Submit(submission, answer) => drop(answer.send(self.submit(*submission))),
                Request::Join(consumer, deliveries) => {
                    self.consumers.insert(consumer, Taker { inbox: None, credit: 0, deliveries, held: Vec::new() });
                }
                Request::Took(consumer, row, answer) => drop(answer.send(self.took(consumer, row))),
                Request::Inbox(inbox, create, answer) => drop(answer.send(self.inbox(inbox, create))),
                Request::Trace(_, answers) => {
                    let hop = TraceHop {
                        node: NodeId([3; 16]),
                        name: "can-tho".parse().expect("name"),
                        state: State::Relayed,
                        at_ms: NOW_MS + 7,
                        detail: String::new(),
                    };
                    let _ = answers.send((vec![hop], true)).await;
                }
                Request::Snapshot(answer) => drop(answer.send(Box::new(self.snapshot()))),
                Request::Input(Input::Take { consumer, inbox, credit, .. }) => {
                    if let Some(taker) = self.consumers.get_mut(&consumer) {
                        (taker.inbox, taker.credit) = (Some(inbox), credit);
                    }
                }
                Request::Input(Input::GaveBack { consumer, row }) => self.give_back(consumer, Some(row)),
                Request::Input(Input::Left { consumer }) => {
                    self.give_back(consumer, None);
                    self.consumers.remove(&consumer);
                }
                _ => {}
            }
            self.deliver();
        }
    }

    fn submit(&mut self, asked: Submission) -> Result<Submitted, SubmitRefused> {
        if asked.label == "mat" {
            return Err(SubmitRefused::LabelNotPermitted(asked.label));
        }
        let body = body(&asked);
        let statement = body.encode().map_err(SubmitRefused::Invalid)?;
        let id = Body::id(&statement);
        let row = Row(self.next_row);
        self.next_row += 1;
        let recipients = (0..).take(body.to.len()).map(|index| recipient(index, None));
        let message = MessageRow {
            id,
            visit: Visit { attempt: 1, hops: 0 },
            from: None,
            received_ms: NOW_MS,
            recipients: recipients.collect(),
            stamps: Vec::new(),
            complete: true,
            handed_ms: 0,
            handed_to: None,
            user: Some(asked.user),
            recalls: None,
            demoted_from: None,
        };
        let payload = asked.inline.is_none().then_some((asked.payload_root, asked.payload_bytes));
        let envelope = Statement::Signed(signed(statement));
        let op = Op::PutMessage { row, message, envelope, inline: asked.inline, payload };
        self.spool.commit(&[op]).expect("committed");
        for address in body.to {
            if let Some(waiting) = self.inboxes.get_mut(&address.inbox) {
                waiting.push_back((row, id, address, false));
            }
        }
        Ok(Submitted { id, demoted_from: asked.demoted_from })
    }

    fn deliver(&mut self) {
        for taker in self.consumers.values_mut() {
            let Some(waiting) = taker.inbox.as_ref().and_then(|inbox| self.inboxes.get_mut(inbox)) else { continue };
            while taker.credit > 0 {
                let Some((row, id, address, redelivered)) = waiting.pop_front() else { break };
                taker.credit -= 1;
                taker.held.push((row, id, address.clone()));
                taker.deliveries.try_send(Delivery { row, id, address, redelivered }).expect("room");
            }
        }
    }

    fn took(&mut self, consumer: Consumer, row: Row) -> bool {
        let held = self.consumers.get_mut(&consumer).map(|taker| &mut taker.held);
        let Some((held, at)) =
            held.and_then(|h| Some((h.iter().position(|(r, ..)| *r == row)?, h)).map(|(at, h)| (h, at)))
        else {
            return false;
        };
        let (_, message, address) = held.swap_remove(at);
        for state in [State::Arrived, State::Delivered] {
            let statement = Statement::Signed(signed(receipt(message, &address, state).encode()));
            let kept = Op::KeepReceipt { message, ordinal: 0, state, statement, until_ms: u64::MAX };
            self.spool.commit(&[kept]).expect("committed");
            let (address, reason) = (address.clone(), Reason::None);
            let at_ms = NOW_MS + 9;
            let _ = self.events.send(Event::Progress { message, address, state, reason, at_ms, submitted: None });
        }
        let mut known = self.spool.message(row).expect("reads").expect("there").message;
        known.recipients.iter_mut().for_each(|r| r.state = State::Delivered);
        self.spool.commit(&[Op::UpdateMessage { row, message: known }]).expect("committed");
        true
    }

    fn give_back(&mut self, consumer: Consumer, only: Option<Row>) {
        let Some(taker) = self.consumers.get_mut(&consumer) else { return };
        let (back, kept) = taker.held.drain(..).partition(|(row, ..)| only.is_none_or(|only| only == *row));
        taker.held = kept;
        let back: Vec<(Row, MessageId, Address)> = back;
        for (row, id, address) in back {
            if let Some(waiting) = self.inboxes.get_mut(&address.inbox) {
                waiting.push_front((row, id, address, true));
            }
        }
    }

    fn inbox(&mut self, inbox: Inbox, create: bool) -> Result<(), InboxRefused> {
        if create {
            self.inboxes.entry(inbox).or_default();
            return Ok(());
        }
        self.inboxes.remove(&inbox).map(drop).ok_or(InboxRefused::Unknown(inbox))
    }

    fn snapshot(&self) -> Snapshot {
        let held = |inbox: &Inbox| {
            let takers = self.consumers.values().flat_map(|taker| &taker.held);
            takers.filter(|(_, _, address)| address.inbox == *inbox).count()
        };
        Snapshot {
            node: NodeId([1; 16]),
            name: "central".parse().expect("name"),
            incarnation: Incarnation([2; 16]),
            links: Vec::new(),
            queues: Vec::new(),
            nodes: Vec::new(),
            inboxes: self.inboxes.iter().map(|(inbox, waiting)| (inbox.clone(), waiting.len() + held(inbox))).collect(),
            messages: 0,
            receipts: 0,
            spool_room_bytes: 1 << 30,
            spool_total_bytes: 2 << 30,
            held: vec!["can-tho".to_owned()],
            late: Vec::new(),
            paused: Vec::new(),
            clock_trusted: true,
        }
    }
}

/// A message that came here from elsewhere, the `number`th of that sender inbox to `vanban@central`.
pub(in crate::local) fn body_from(sender: &str, number: u64) -> Body {
    let asked = Submission {
        user: 0,
        quota_bytes: None,
        demoted_from: None,
        nonce: [9; 16],
        sender: Some(sender.parse().expect("inbox")),
        to: vec!["vanban@hub".parse().expect("address"), "vanban@central".parse().expect("address")],
        precedence: tram_proto::envelope::Precedence::Routine,
        lifetime_ms: None,
        deliver_by_ms: 0,
        label: String::new(),
        subject: String::new(),
        file_name: String::new(),
        content_type: String::new(),
        attributes: Vec::new(),
        business_id: String::new(),
        idempotency_key: String::new(),
        traceparent: String::new(),
        payload_bytes: 0,
        payload_root: tram_proto::manifest::root_of(&[]),
        inline: Some(Bytes::new()),
    };
    Body {
        origin: NodeId([7; 16]),
        origin_name: "can-tho".parse().expect("name"),
        // What went to the other address is counted apart.
        pair_sequences: vec![1000 - number, number],
        created_ms: NOW_MS + number,
        ..body(&asked)
    }
}

/// Puts such a message into a spool, as one that arrived.
pub(super) fn put_from(spool: &dyn Spool, row: u64, body: &Body) {
    let statement = body.encode().expect("encodes");
    let message = MessageRow {
        id: Body::id(&statement),
        visit: Visit { attempt: 1, hops: 1 },
        from: Some(body.origin),
        received_ms: NOW_MS,
        // The other address of the body is on another way.
        recipients: vec![recipient(1, Some(NodeId([1; 16])))],
        stamps: Vec::new(),
        complete: true,
        handed_ms: 0,
        handed_to: None,
        user: None,
        recalls: None,
        demoted_from: None,
    };
    let envelope = Statement::Signed(signed(statement));
    let op = Op::PutMessage { row: Row(row), message, envelope, inline: Some(Bytes::new()), payload: None };
    spool.commit(&[op]).expect("committed");
}

fn recipient(index: u32, node: Option<NodeId>) -> RecipientRow {
    RecipientRow {
        recipient: Recipient { ordinal: Ordinal::body(index), node },
        phase: Phase::Forward,
        state: State::Submitted,
        reason: Reason::None,
        detail: String::new(),
        at_ms: NOW_MS,
    }
}

fn body(asked: &Submission) -> Body {
    Body {
        nonce: asked.nonce,
        origin: NodeId([1; 16]),
        incarnation: Incarnation([2; 16]),
        origin_name: "central".parse().expect("name"),
        sender: asked.sender.clone(),
        to: asked.to.clone(),
        precedence: asked.precedence,
        sequence: 1,
        created_ms: NOW_MS,
        clock_offset_ms: 0,
        lifetime_ms: asked.lifetime_ms.unwrap_or(1000),
        deliver_by_ms: asked.deliver_by_ms,
        label: asked.label.clone(),
        network: Network::Unspecified,
        kind: MessageKind::Document,
        subject: asked.subject.clone(),
        file_name: asked.file_name.clone(),
        content_type: asked.content_type.clone(),
        attributes: asked.attributes.clone(),
        business_id: asked.business_id.clone(),
        idempotency_key: asked.idempotency_key.clone(),
        traceparent: asked.traceparent.clone(),
        sealed: false,
        payload_bytes: asked.payload_bytes,
        payload_root: asked.payload_root,
        recalls: None,
        pair_sequences: Vec::new(),
    }
}

fn receipt(message: MessageId, address: &Address, state: State) -> Receipt {
    let stamp =
        |node: u8, name: &str, at_ms| Stamp { node: NodeId([node; 16]), name: name.parse().expect("name"), at_ms };
    Receipt {
        message,
        origin: NodeId([1; 16]),
        ordinal: Ordinal::body(0),
        address: address.clone(),
        state,
        reason: Reason::None,
        detail: String::new(),
        code: 0,
        node: NodeId([4; 16]),
        name: "ninh-kieu.can-tho".parse().expect("name"),
        at_ms: NOW_MS + 8,
        stamps: vec![stamp(1, "central", NOW_MS), stamp(3, "can-tho", NOW_MS + 5)],
        payload_root: tram_proto::id::Digest([0; 32]),
        payload_bytes: 0,
    }
}

fn signed(statement: Bytes) -> Signed {
    let signer = chain_hash();
    let signature = Signature { signer, count: 1, index: 0, path: Vec::new(), signature: Bytes::from_static(b"sig") };
    Signed { statement, signature }
}

/// Signs what the real core says.
pub(super) struct Pen;

impl Sign for Pen {
    fn sign(&self, statements: &[(Kind, &[u8])]) -> Result<Vec<Signature>, String> {
        let batch = Batch::new(statements.iter().copied()).ok_or("an impossible batch")?;
        Ok((0..batch.count()).map(|i| batch.signature(i, chain_hash(), Bytes::from_static(b"sig"))).collect())
    }
}

/// The name under which the spool keeps the chain.
fn chain_hash() -> CertHash {
    tram_pki::hash::cert_hash(b"certificate")
}
