//! A simulated overlay: the real core of every node over in-memory spools, in virtual time, from one seed.
//!
//! Nodes crash (what was not committed is gone), disks are lost, links are cut, children move to another parent, clocks
//! differ. Beside it stands a model of what must hold: what was submitted reaches every recipient's application once,
//! receipts say what happened, and after healing nothing is left anywhere. The same seed gives the same run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tram_proto::envelope::{Body, Precedence};
use tram_proto::frame::{Frame, Offer, Range};
use tram_proto::id::{CertHash, Digest, Incarnation, MessageId, NodeId};
use tram_proto::limits::{CHUNK_BYTES, INLINE_BYTES};
use tram_proto::manifest::Layout;
use tram_proto::name::{Address, Inbox, NodeName, Role};
use tram_proto::receipt::{NodeRecord, Receipt, State};
use tram_proto::row::NodeRow;
use tram_proto::statement::{Batch, Kind, Signature, Signed};
use tram_relay::input::{Consumer, Held, LinkId, Row, Side, Signer, Submission, Ticket};
use tram_relay::output::Event;
use tram_relay::{Config, Input, Node, Now, Output};
use tramd::committer::{Persist, Sign, sign_ops};
use tramd::spool::{MemorySpool, Spool};

/// A small generator with a known sequence (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A node's place in [`World::nodes`].
pub type Place = usize;

#[derive(Debug)]
enum Happening {
    Input { place: Place, life: u64, input: Box<Input> },
    Committed { place: Place, life: u64 },
    Timer { place: Place, life: u64 },
    Dial { place: Place, life: u64, parent: usize },
    Restart { place: Place },
    Heal { a: Place, b: Place },
}

/// One node: what survives a crash, and the core that does not.
pub struct SimNode {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    role: Role,
    /// The disk.
    pub spool: Arc<MemorySpool>,
    /// The process.
    pub core: Option<Node>,
    /// Parents in order of preference.
    pub parents: Vec<Place>,
    life: u64,
    boots: u64,
    /// How far this machine's clock is off, in milliseconds.
    pub clock_off_ms: i64,
    links: BTreeMap<LinkId, (Place, LinkId)>,
    commits: VecDeque<Persist>,
    busy: bool,
    /// What its application wrote down: message and address.
    pub ledger: BTreeSet<(MessageId, String)>,
    /// How often each was handed out.
    pub handed: BTreeMap<(MessageId, String), u32>,
    timer_at: u64,
}

/// The overlay.
pub struct World {
    /// Virtual milliseconds.
    pub now: u64,
    random: Random,
    queue: BTreeMap<(u64, u64), Happening>,
    order: u64,
    /// All nodes; the first is the top and owns the names.
    pub nodes: Vec<SimNode>,
    cut: BTreeSet<(Place, Place)>,
    next_link: u64,
    /// What was promised: the message, its origin and its recipients.
    pub submitted: BTreeMap<MessageId, (Place, Vec<Address>)>,
    submissions: BTreeMap<(Place, Ticket), Vec<Address>>,
    next_ticket: u64,
    /// What origins told whoever watched; a crash may swallow it.
    pub progress: BTreeMap<(MessageId, String), State>,
    /// Milliseconds one way.
    pub latency_ms: u64,
    /// Offers, receipts and payload overtake what was sent before them.
    pub overtaking: bool,
    /// The application of a node only takes when this is set.
    pub applications: bool,
    /// Prints every output; set by `TRAM_SIM_TALKS` in the environment.
    talks: bool,
}

/// How long a message of the simulation may take.
pub const LIFETIME_MS: u64 = 72 * 3_600_000;
const INBOX: &str = "vanban";
const WALL: u64 = 1_790_000_000_000;

impl World {
    /// An overlay of these names; each has the parents given by place, the first node none.
    #[must_use]
    pub fn new(seed: u64, tree: &[(&str, Role, &[Place])]) -> Self {
        let nodes = tree.iter().enumerate().map(|(place, (name, role, parents))| SimNode {
            id: NodeId([u8::try_from(place + 1).expect("few nodes"); 16]),
            name: name.parse().expect("a name"),
            role: *role,
            spool: Arc::new(MemorySpool::default()),
            core: None,
            parents: parents.to_vec(),
            life: 0,
            boots: 0,
            clock_off_ms: 0,
            links: BTreeMap::new(),
            commits: VecDeque::new(),
            busy: false,
            ledger: BTreeSet::new(),
            handed: BTreeMap::new(),
            timer_at: u64::MAX,
        });
        let mut world = Self {
            now: 1,
            random: Random::new(seed),
            queue: BTreeMap::new(),
            order: 0,
            nodes: nodes.collect(),
            cut: BTreeSet::new(),
            next_link: 1,
            submitted: BTreeMap::new(),
            submissions: BTreeMap::new(),
            next_ticket: 1,
            progress: BTreeMap::new(),
            latency_ms: 20,
            overtaking: false,
            applications: true,
            talks: std::env::var_os("TRAM_SIM_TALKS").is_some(),
        };
        for place in 0..world.nodes.len() {
            world.start(place);
        }
        world
    }

    fn at(&mut self, after_ms: u64, what: Happening) {
        self.order += 1;
        self.queue.insert((self.now + after_ms, self.order), what);
    }

    fn clock(&self, place: Place) -> Now {
        Now { mono_ms: self.now, wall_ms: (WALL + self.now).saturating_add_signed(self.nodes[place].clock_off_ms) }
    }

    /// Starts a node from its disk.
    pub fn start(&mut self, place: Place) {
        let seed = self.random.number();
        let clock = self.clock(place);
        let (names, is_top) = (self.nodes.iter().map(|n| (n.name.clone(), n.id)).collect(), place == 0);
        let node = &mut self.nodes[place];
        node.life += 1;
        node.boots += 1;
        node.links.clear();
        node.commits.clear();
        node.busy = false;
        node.timer_at = u64::MAX;
        let mut core = Node::new(Config {
            node: node.id,
            name: node.name.clone(),
            title: String::new(),
            has_uplink: !node.parents.is_empty(),
            addresses: vec![],
            boot: wide(seed),
            labels: vec![],
        });
        let restored = node.spool.restore(&mut |input| core.handle(input, clock)).expect("the memory spool restores");
        let fresh = NodeRow { incarnation: Incarnation(wide(seed ^ 1)), starts: 0, record: 0, clock_ms: 0 };
        let row = restored.node.unwrap_or(fresh);
        let mut inboxes = restored.inboxes;
        inboxes.push(INBOX.parse().expect("a name"));
        core.handle(Input::Start { node: NodeRow { starts: row.starts + 1, ..row }, inboxes }, clock);
        if is_top {
            core.handle(Input::Names(names), clock);
        }
        let (life, parents) = (node.life, node.parents.clone());
        node.core = Some(core);
        if self.applications {
            self.take(place);
        }
        self.perform(place);
        for (index, _) in parents.iter().enumerate() {
            self.at(5, Happening::Dial { place, life, parent: index });
        }
    }

    /// The process dies; what was not committed is gone.
    pub fn crash(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        node.core = None;
        node.life += 1;
        node.commits.clear();
        node.busy = false;
        for (_, (peer, peer_link)) in std::mem::take(&mut node.links) {
            self.end(peer, peer_link);
        }
    }

    /// The process dies and comes back after a while.
    pub fn crash_and_restart(&mut self, place: Place, after_ms: u64) {
        self.crash(place);
        self.at(after_ms, Happening::Restart { place });
    }

    /// The disk is gone with the process; the node comes back with an empty one.
    pub fn lose_disk(&mut self, place: Place, after_ms: u64) {
        self.crash(place);
        self.nodes[place].spool = Arc::new(MemorySpool::default());
        self.at(after_ms, Happening::Restart { place });
    }

    /// The line between two nodes is cut for a while.
    pub fn cut(&mut self, a: Place, b: Place, for_ms: u64) {
        self.cut.insert((a.min(b), a.max(b)));
        let links: Vec<(LinkId, LinkId)> =
            self.nodes[a].links.iter().filter(|(_, (peer, _))| *peer == b).map(|(l, (_, p))| (*l, *p)).collect();
        for (ours, theirs) in links {
            self.end(a, ours);
            self.end(b, theirs);
        }
        self.at(for_ms, Happening::Heal { a, b });
    }

    /// A child hangs under another parent from now on: its old links end.
    pub fn move_to(&mut self, place: Place, parent: Place) {
        let old = std::mem::replace(&mut self.nodes[place].parents, vec![parent]);
        for parent in old {
            let links: Vec<(LinkId, LinkId)> =
                self.nodes[place].links.iter().filter(|(_, (p, _))| *p == parent).map(|(l, (_, p))| (*l, *p)).collect();
            for (ours, theirs) in links {
                self.end(place, ours);
                self.end(parent, theirs);
            }
        }
        let life = self.nodes[place].life;
        self.at(5, Happening::Dial { place, life, parent: 0 });
    }

    fn end(&mut self, place: Place, link: LinkId) {
        if self.nodes[place].links.remove(&link).is_some() {
            self.tell(place, Input::LinkDown { link });
            let (life, side) = (self.nodes[place].life, self.nodes[place].parents.len());
            for parent in 0..side {
                let again = 250 + self.random.below(1000);
                self.at(again, Happening::Dial { place, life, parent });
            }
        }
    }

    fn dial(&mut self, place: Place, life: u64, index: usize) {
        let node = &self.nodes[place];
        let Some(parent) = node.parents.get(index).copied() else { return };
        let connected = node.links.values().any(|(peer, _)| *peer == parent);
        if node.life != life || node.core.is_none() || connected {
            return;
        }
        let blocked = self.cut.contains(&(place.min(parent), place.max(parent))) || self.nodes[parent].core.is_none();
        if blocked {
            let again = 500 + self.random.below(2000);
            return self.at(again, Happening::Dial { place, life, parent: index });
        }
        if self.talks {
            eprintln!("{:>10} {} dials {}", self.now, self.nodes[place].name, self.nodes[parent].name);
        }
        let (ours, theirs) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        self.nodes[place].links.insert(ours, (parent, theirs));
        self.nodes[parent].links.insert(theirs, (place, ours));
        let up = Input::LinkUp { link: ours, peer: self.signer(parent), side: Side::Up(index as u8) };
        let down = Input::LinkUp { link: theirs, peer: self.signer(place), side: Side::Down };
        self.tell(place, up);
        self.tell(parent, down);
    }

    fn signer(&self, place: Place) -> Signer {
        let node = &self.nodes[place];
        Signer { node: node.id, name: node.name.clone(), role: node.role }
    }

    /// Submits a payload of so many bytes.
    pub fn submit(&mut self, from: Place, to: &[&str], precedence: Precedence, bytes: usize) {
        let seed = self.random.number();
        let payload: Vec<u8> = (0..bytes).map(|i| (seed >> (i % 57)) as u8 ^ (i / 251) as u8).collect();
        let root = tram_proto::manifest::root_of(&payload);
        let inline = if bytes <= INLINE_BYTES {
            Some(Bytes::from(payload))
        } else {
            let mut upload = self.nodes[from].spool.upload();
            upload.push(payload.into()).expect("room");
            assert_eq!(upload.finish().expect("durable"), (root, bytes as u64));
            None
        };
        let to: Vec<Address> = to.iter().map(|to| to.parse().expect("an address")).collect();
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.submissions.insert((from, ticket), to.clone());
        let submission = Submission {
            user: 0,
            quota_bytes: None,
            nonce: wide(seed),
            sender: None,
            to,
            precedence,
            lifetime_ms: Some(LIFETIME_MS),
            deliver_by_ms: 0,
            label: String::new(),
            subject: String::new(),
            file_name: "f".to_owned(),
            content_type: String::new(),
            attributes: vec![],
            business_id: String::new(),
            idempotency_key: String::new(),
            traceparent: String::new(),
            payload_bytes: bytes as u64,
            payload_root: root,
            inline,
        };
        self.tell(from, Input::Submit { ticket, submission: Box::new(submission) });
    }

    /// The application of a node asks for messages.
    pub fn take(&mut self, place: Place) {
        let inbox: Inbox = INBOX.parse().expect("a name");
        self.tell(place, Input::Take { consumer: Consumer(1), inbox, credit: 4, lease_ms: 60_000 });
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, for_ms: u64) {
        let end = self.now + for_ms;
        while let Some((&(at, order), _)) = self.queue.first_key_value() {
            if at > end {
                break;
            }
            let what = self.queue.remove(&(at, order)).expect("it was the first");
            self.now = at;
            self.happen(what);
        }
        self.now = end;
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Input { place, life, input } => {
                if self.nodes[place].life == life {
                    self.tell(place, *input);
                }
            }
            Happening::Committed { place, life } => {
                if self.nodes[place].life == life {
                    self.committed(place);
                }
            }
            Happening::Timer { place, life } => {
                if self.nodes[place].life == life && self.nodes[place].timer_at <= self.now {
                    self.nodes[place].timer_at = u64::MAX;
                    self.tell(place, Input::Timer);
                }
            }
            Happening::Dial { place, life, parent } => self.dial(place, life, parent),
            Happening::Restart { place } => {
                if self.nodes[place].core.is_none() {
                    self.start(place);
                }
            }
            Happening::Heal { a, b } => {
                self.cut.remove(&(a.min(b), a.max(b)));
            }
        }
    }

    fn tell(&mut self, place: Place, input: Input) {
        let clock = self.clock(place);
        if let Some(core) = self.nodes[place].core.as_mut() {
            core.handle(input, clock);
            self.perform(place);
        }
    }

    fn perform(&mut self, place: Place) {
        while let Some(output) = self.nodes[place].core.as_mut().and_then(Node::poll_output) {
            self.output(place, output);
        }
        let deadline = self.nodes[place].core.as_ref().and_then(Node::next_deadline);
        if let Some((at, _)) = deadline
            && at < self.nodes[place].timer_at
        {
            let (life, at) = (self.nodes[place].life, at.max(self.now + 1));
            self.nodes[place].timer_at = at;
            self.at(at - self.now, Happening::Timer { place, life });
        }
    }

    fn output(&mut self, place: Place, output: Output) {
        if self.talks {
            eprintln!("{:>10} {:<20} {output:?}", self.now, self.nodes[place].name);
        }
        match output {
            Output::Send { link, frame } => {
                let frame = Frame::decode(frame.encode().slice(4..)).expect("our own frames decode");
                self.carry(place, link, |link| Input::Frame { link, frame });
            }
            Output::SendOffer { link, number, row, visit, recipients, stamps, .. } => {
                let spool = &self.nodes[place].spool;
                let (envelope, inline) = (spool.envelope(row).expect("it is there"), spool.inline(row).expect("read"));
                let offer = Offer { number, envelope, visit, recipients, stamps, inline };
                let bytes = Frame::Offer(offer).encode();
                let Ok(Frame::Offer(offer)) = Frame::decode(bytes.slice(4..)) else { panic!("an offer decodes") };
                self.carry_offer(place, link, offer);
            }
            Output::SendReceipt { link, number, row } => {
                let signed = self.nodes[place].spool.receipt(row).expect("it is there");
                let receipt = Receipt::decode(&signed.statement).expect("it decodes");
                let signer = self.said_by(&signed);
                self.carry(place, link, |link| Input::Receipt {
                    link,
                    number,
                    receipt: Box::new(receipt),
                    signed,
                    signer: Some(signer),
                });
            }
            Output::SendRecord { link, record, flood } => {
                let signed = record;
                let record = NodeRecord::decode(&signed.statement).expect("it decodes");
                self.carry(place, link, |link| Input::Record { link, record, signed, flood });
            }
            Output::SendRun { link, root, payload_bytes, first, count, .. } => {
                self.carry_run(place, link, root, payload_bytes, Range { first, count: count.into() });
            }
            Output::Persist { commit, ops, urgent } => {
                self.nodes[place].commits.push_back(Persist { commit, ops, urgent });
                self.commit(place);
            }
            Output::Submitted { ticket, id } => {
                if let Some(to) = self.submissions.remove(&(place, ticket)) {
                    self.submitted.insert(id, (place, to));
                }
            }
            Output::NotSubmitted { why, .. } => panic!("a submission was refused: {why}"),
            Output::Deliver { row, id, address, .. } => self.delivered(place, row, id, &address),
            Output::TookDone { .. } => self.take(place),
            Output::InboxDone { .. } | Output::Commanded { .. } | Output::Traced { .. } => {}
            Output::Close { link, .. } => {
                if let Some((peer, peer_link)) = self.nodes[place].links.get(&link).copied() {
                    self.end(place, link);
                    self.end(peer, peer_link);
                }
            }
            Output::Event(Event::Progress { message, address, state, .. }) => {
                let known = self.progress.entry((message, address.to_string())).or_insert(State::Submitted);
                if state.overrides(*known) {
                    *known = state;
                }
            }
            Output::Event(_) => {}
        }
    }

    /// The application writes a message down once, then acknowledges.
    fn delivered(&mut self, place: Place, row: Row, id: MessageId, address: &Address) {
        let key = (id, address.to_string());
        *self.nodes[place].handed.entry(key.clone()).or_default() += 1;
        let stored = self.nodes[place].spool.message(row).expect("read").expect("a message that is handed out");
        let body = Body::decode(&stored.envelope.statement).expect("it decodes");
        self.read_payload(place, row, &body);
        self.nodes[place].ledger.insert(key);
        let ticket = Ticket(0);
        let wait = self.random.below(50);
        let life = self.nodes[place].life;
        let input = Box::new(Input::Took { consumer: Consumer(1), row, ticket });
        self.at(wait, Happening::Input { place, life, input });
    }

    fn read_payload(&self, place: Place, row: Row, body: &Body) {
        let spool = &self.nodes[place].spool;
        let mut payload = Vec::new();
        if body.is_inline() {
            payload.extend_from_slice(&spool.inline(row).expect("read").expect("an inline payload"));
        } else {
            let layout = Layout::new(body.payload_bytes).expect("small");
            for unit in layout.manifest_units()..layout.units() {
                payload.extend_from_slice(&spool.unit(body.payload_root, layout, unit).expect("a unit"));
            }
        }
        assert_eq!(payload.len() as u64, body.payload_bytes);
        assert_eq!(tram_proto::manifest::root_of(&payload), body.payload_root, "the payload is what was sent");
    }

    fn carry(&mut self, from: Place, link: LinkId, make: impl FnOnce(LinkId) -> Input) {
        let Some((peer, peer_link)) = self.nodes[from].links.get(&link).copied() else { return };
        let life = self.nodes[peer].life;
        let input = Box::new(make(peer_link));
        // Streams have no order between them: what is not on the control stream may come before what was sent earlier.
        let on_control = matches!(*input, Input::Frame { .. } | Input::Record { .. });
        let ahead = if self.overtaking && !on_control { self.random.below(self.latency_ms) } else { 0 };
        self.at(self.latency_ms - ahead, Happening::Input { place: peer, life, input });
    }

    fn carry_offer(&mut self, from: Place, link: LinkId, offer: Offer) {
        let Some((peer, _)) = self.nodes[from].links.get(&link).copied() else { return };
        let body = Body::decode(&offer.envelope.statement).expect("it decodes");
        let id = Body::id(&offer.envelope.statement);
        let held = if body.is_inline() {
            Held::default()
        } else {
            let layout = Layout::new(body.payload_bytes).expect("small");
            self.nodes[peer].spool.held(body.payload_root, layout).expect("read")
        };
        let trusted = Some(true);
        self.carry(from, link, |link| Input::Offer {
            link,
            offer: Box::new(offer),
            id,
            body: Box::new(body),
            trusted,
            held,
        });
    }

    fn carry_run(&mut self, from: Place, link: LinkId, root: Digest, bytes: u64, units: Range) {
        let layout = Layout::new(bytes).expect("small");
        let Some((peer, _)) = self.nodes[from].links.get(&link).copied() else { return };
        let read: Vec<Bytes> = (units.first..units.end())
            .map(|n| self.nodes[from].spool.unit(root, layout, n).expect("a unit that was promised"))
            .collect();
        let life = self.nodes[from].life;
        self.at(2 * units.count, Happening::Input { place: from, life, input: Box::new(Input::RunSent { link }) });
        // A run that is cut off half-way brings nothing.
        if !self.random.once_in(40) {
            self.nodes[peer].spool.store(root, layout, units.first, read).expect("stored");
            self.carry(from, link, |_| Input::UnitsDurable { root, units });
        }
    }

    fn commit(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        if node.busy || node.commits.is_empty() {
            return;
        }
        node.busy = true;
        let (life, wait) = (node.life, 1 + self.random.below(20));
        self.at(wait, Happening::Committed { place, life });
    }

    fn committed(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        node.busy = false;
        let mut batch: Vec<Persist> = node.commits.pop_front().into_iter().collect();
        let done = sign_ops(&mut batch, &PlaceSigns(node.id)).expect("the signer signs");
        for (persist, committed) in batch.into_iter().zip(done) {
            self.nodes[place].spool.commit(persist.ops).expect("the memory spool commits");
            self.tell(place, Input::Persisted { commit: committed.commit, records: committed.records });
        }
        self.commit(place);
    }

    fn said_by(&self, signed: &Signed) -> Signer {
        let by = signed.signature.signer.0[0];
        self.signer(usize::from(by) - 1)
    }

    /// Checks what must hold once everything is healed and quiet: all was delivered once, nothing is left over.
    ///
    /// # Panics
    /// Naming the message and the recipient.
    pub fn check_settled(&self) {
        self.check_delivered();
        self.check_empty();
    }

    /// Checks that no node holds anything.
    ///
    /// # Panics
    /// Naming the node and what it holds.
    pub fn check_empty(&self) {
        for node in &self.nodes {
            let look = node.core.as_ref().expect("every node runs").snapshot();
            assert_eq!(
                (look.messages, look.receipts),
                (0, 0),
                "{} still holds something: {:?}",
                node.name,
                look.queues
            );
        }
    }

    /// Checks that what was submitted reached every recipient's application once, and that the origins know.
    ///
    /// # Panics
    /// Naming the message and the recipient, when something was lost or came twice.
    pub fn check_delivered(&self) {
        let mut expected: BTreeMap<&str, BTreeSet<(MessageId, String)>> = BTreeMap::new();
        for (id, (origin, to)) in &self.submitted {
            let kept = self.nodes[*origin].spool.kept_receipts(id).expect("read");
            for (address, ordinal) in to.iter().zip(0..) {
                let states: Vec<State> = kept.iter().filter(|(o, ..)| *o == ordinal).map(|(_, s, _)| *s).collect();
                assert!(states.contains(&State::Delivered), "{id} to {address}: the origin has receipts of {states:?}");
                expected.entry(address.node.as_str()).or_default().insert((*id, address.to_string()));
            }
        }
        for node in &self.nodes {
            let expected = expected.remove(node.name.as_str()).unwrap_or_default();
            let surplus: Vec<_> =
                node.ledger.difference(&expected).filter(|(id, _)| self.submitted.contains_key(id)).collect();
            assert!(surplus.is_empty(), "{} has {surplus:?} too many", node.name);
            let lost: Vec<_> = expected.difference(&node.ledger).collect();
            assert!(lost.is_empty(), "{} lacks {lost:?}", node.name);
        }
    }
}

fn wide(seed: u64) -> [u8; 16] {
    let mut random = Random::new(seed);
    let mut out = [0; 16];
    out[..8].copy_from_slice(&random.number().to_be_bytes());
    out[8..].copy_from_slice(&random.number().to_be_bytes());
    out
}

/// Stands in for the PKI: the signer's hash is the node's place.
struct PlaceSigns(NodeId);

impl Sign for PlaceSigns {
    fn sign(&self, statements: &[(Kind, &[u8])]) -> Result<Vec<Signature>, String> {
        let batch = Batch::new(statements.iter().copied()).ok_or("an empty batch")?;
        let signer = CertHash([self.0.0[0]; 32]);
        Ok((0..batch.count()).map(|i| batch.signature(i, signer, Bytes::from_static(b"simulated"))).collect())
    }
}

/// Payload sizes that meet every path: inline, one chunk, several chunks.
#[must_use]
pub fn some_size(random: &mut Random) -> usize {
    match random.below(6) {
        0..=3 => random.below(3000) as usize,
        4 => INLINE_BYTES + 1 + random.below(5000) as usize,
        _ => CHUNK_BYTES * 3 + random.below(CHUNK_BYTES as u64 * 20) as usize,
    }
}
