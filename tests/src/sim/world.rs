//! The overlay: nodes, their disks and processes, the lines between them, and what is about to happen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tram_proto::frame::Offer;
use tram_proto::id::{CertHash, Digest, Incarnation, MessageId, NodeId};
use tram_proto::manifest::Layout;
use tram_proto::name::{Inbox, NodeName, Role};
use tram_proto::pki::Alias;
use tram_proto::receipt::State;
use tram_proto::row::NodeRow;
use tram_proto::statement::{Batch, Kind, Signature, Signed};
use tram_relay::input::{Aliases, Consumer, LinkId, Side, Signer, Ticket};
use tram_relay::output::{CommandRefused, Event, Op, Outcome};
use tram_relay::{Config, Input, Node, Now, Output};
use tramd::committer::{Persist, Sign, sign_ops};
use tramd::spool::{Spool, SpoolError};

use super::application::{Desk, Handed, Job, JobId};
use super::carry::Line;
use super::disk::Disk;
use super::model::{Found, Model, note};
use super::{Place, Random};

/// What will happen at some moment.
pub(super) enum Happening {
    Input {
        place: Place,
        life: u64,
        input: Box<Input>,
    },
    Offer {
        place: Place,
        life: u64,
        link: LinkId,
        offer: Box<Offer>,
    },
    Run {
        place: Place,
        life: u64,
        root: Digest,
        layout: Layout,
        first: u64,
        units: Vec<Bytes>,
    },
    Committed {
        place: Place,
        life: u64,
    },
    Timer {
        place: Place,
        life: u64,
    },
    Dial {
        place: Place,
        life: u64,
        parent: usize,
    },
    Restart {
        place: Place,
    },
    Heal {
        a: Place,
        b: Place,
    },
    /// One end notices that its link is gone.
    Notice {
        place: Place,
        link: LinkId,
    },
    Upkeep {
        place: Place,
        life: u64,
    },
    Ask {
        job: JobId,
    },
    /// An application sits down at a node.
    Sit {
        place: Place,
        life: u64,
        inbox: Inbox,
    },
    Decide {
        place: Place,
        life: u64,
        handed: Handed,
    },
}

/// What a node answers to.
pub(super) enum Asked {
    Submission(JobId),
    Took { id: MessageId, address: String },
    Command,
}

/// One node: what survives a crash, and the core that does not.
pub struct SimNode {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    pub(super) next_name: Option<NodeName>,
    pub(super) role: Role,
    /// What its spool lies on.
    pub disk: Disk,
    /// The spool, while the process runs.
    pub spool: Option<Arc<dyn Spool>>,
    /// The process.
    pub core: Option<Node>,
    /// Parents in order of preference.
    pub parents: Vec<Place>,
    pub(super) life: u64,
    /// How far this machine's clock is off, in milliseconds.
    pub clock_off_ms: i64,
    commits: VecDeque<Persist>,
    busy: bool,
    timer_at: u64,
    upkeep: bool,
    /// What the spool may take, in bytes.
    pub(super) capacity: Option<u64>,
    told_room: (u64, u64),
    /// Bits of its disk were flipped, or an access failed: what it holds may be damaged.
    pub(super) damaged: bool,
    pub(super) failing: bool,
    /// Nobody knows what a disk from before holds.
    unknown: bool,
    pub(super) sweeps: u64,
    pub(super) desks: BTreeMap<Consumer, Desk>,
    pub(super) asked: BTreeMap<Ticket, Asked>,
    /// What its applications wrote down: message and address.
    pub ledger: BTreeSet<(MessageId, String)>,
}

impl SimNode {
    /// The core's picture of itself.
    ///
    /// # Panics
    /// When the process does not run.
    #[must_use]
    pub fn look(&self) -> tram_relay::snapshot::Snapshot {
        self.core.as_ref().expect("it runs").snapshot()
    }

    /// The spool.
    ///
    /// # Panics
    /// When the process does not run.
    #[must_use]
    pub fn spool(&self) -> &dyn Spool {
        self.spool.as_deref().expect("it runs")
    }

    /// Bytes that messages and payloads take of the spool.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        match (&self.disk, &self.spool) {
            (Disk::Memory(_), Some(spool)) => u64::MAX - spool.room().free_bytes,
            (Disk::Files(files), _) => files.taken_bytes(),
            _ => 0,
        }
    }
}

/// How lines and applications behave.
#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// Milliseconds one way.
    pub latency_ms: u64,
    /// Offers, receipts and payload overtake what was sent before them, or come late.
    pub overtaking: bool,
    /// Some frames come twice.
    pub doubling: bool,
    /// Each end of a cut line notices that after up to so many milliseconds.
    pub notice_ms: u64,
    /// Applications are slow: leases end before they acknowledge.
    pub slow: bool,
    /// Applications give messages back, leave and come again.
    pub moody: bool,
    /// Two applications at each inbox.
    pub crowded: bool,
    /// A node that lies: it spoils signatures, acknowledges what it throws away, speaks of what never was.
    pub liar: Option<Place>,
    /// Some runs end half-way.
    pub broken_runs: bool,
    /// A submission may be refused: its application asks again.
    pub may_refuse: bool,
}

/// The overlay.
pub struct World {
    /// Virtual milliseconds.
    pub now: u64,
    pub(super) random: Random,
    queue: BTreeMap<(u64, u64), Happening>,
    order: u64,
    /// What happened so far.
    pub steps: u64,
    pub(super) aliases: Vec<Alias>,
    /// All nodes; the first is the top and owns the names.
    pub nodes: Vec<SimNode>,
    pub(super) lines: BTreeMap<LinkId, Line>,
    pub(super) cuts: BTreeMap<(Place, Place), u32>,
    pub(super) next_link: u64,
    pub(super) next_ticket: u64,
    pub(super) next_consumer: u64,
    pub(super) jobs: Vec<Job>,
    pub(super) payloads: BTreeMap<Digest, Bytes>,
    /// What must hold.
    pub model: Model,
    /// What origins told whoever watched; a crash may swallow it.
    pub progress: BTreeMap<(MessageId, String), State>,
    /// What commands came to.
    pub commanded: Vec<Result<Outcome, CommandRefused>>,
    /// Lines and applications.
    pub manners: Manners,
    /// Applications take messages only while this is set.
    pub applications: bool,
    /// Applications that take and never acknowledge.
    pub deaf: bool,
    /// The inboxes of every node.
    pub inboxes: Vec<Inbox>,
    /// Prints every output; set by `TRAM_SIM_TALKS` in the environment.
    pub(super) talks: bool,
}

/// Unix milliseconds at the beginning.
pub const WALL: u64 = 1_790_000_000_000;
/// What a spool may take beyond its limit because the core hears of the room only every two seconds.
const OVERSHOOT_BYTES: u64 = 4 << 20;
/// Pause of the committer before it tries a full disk again.
const FULL_PAUSE_MS: u64 = 250;
/// The daemon's pause between two looks at the room.
const UPKEEP_MS: u64 = 2_000;
/// The same where there is room enough.
const SWEEP_MS: u64 = 5 * 60_000;

impl World {
    /// An overlay of these names on memory; each has the parents given by place, the first node none.
    #[must_use]
    pub fn new(seed: u64, tree: &[(&str, Role, &[Place])]) -> Self {
        let nodes = tree.iter().map(|(name, role, parents)| (*name, *role, parents.to_vec(), Disk::memory()));
        let mut world = Self::of(seed, nodes.collect(), Manners { latency_ms: 20, ..Manners::default() });
        world.start_all();
        world
    }

    /// An overlay whose nodes do not run yet.
    #[must_use]
    pub(super) fn of(seed: u64, nodes: Vec<(&str, Role, Vec<Place>, Disk)>, manners: Manners) -> Self {
        let nodes = nodes.into_iter().enumerate().map(|(place, (name, role, parents, disk))| SimNode {
            id: NodeId([u8::try_from(place + 1).expect("few nodes"); 16]),
            name: name.parse().expect("a name"),
            next_name: None,
            role,
            disk,
            spool: None,
            core: None,
            parents,
            life: 0,
            clock_off_ms: 0,
            commits: VecDeque::new(),
            busy: false,
            timer_at: u64::MAX,
            upkeep: false,
            capacity: None,
            told_room: (u64::MAX, u64::MAX),
            damaged: false,
            failing: false,
            unknown: false,
            sweeps: 0,
            desks: BTreeMap::new(),
            asked: BTreeMap::new(),
            ledger: BTreeSet::new(),
        });
        let nodes: Vec<SimNode> = nodes.collect();
        Self {
            now: 1,
            random: Random::new(seed),
            queue: BTreeMap::new(),
            order: 0,
            steps: 0,
            model: Model::new(nodes.len()),
            nodes,
            lines: BTreeMap::new(),
            cuts: BTreeMap::new(),
            next_link: 1,
            next_ticket: 1,
            next_consumer: 1,
            jobs: Vec::new(),
            payloads: BTreeMap::new(),
            progress: BTreeMap::new(),
            commanded: Vec::new(),
            manners,
            aliases: Vec::new(),
            applications: true,
            deaf: false,
            inboxes: vec!["vanban".parse().expect("a name")],
            talks: std::env::var_os("TRAM_SIM_TALKS").is_some(),
        }
    }

    /// Starts every node that does not run.
    pub fn start_all(&mut self) {
        for place in 0..self.nodes.len() {
            if self.nodes[place].core.is_none() {
                self.start(place);
            }
        }
    }

    pub(super) fn at(&mut self, after_ms: u64, what: Happening) {
        self.order += 1;
        self.queue.insert((self.now + after_ms, self.order), what);
    }

    /// What a right clock says, Unix milliseconds.
    #[must_use]
    pub const fn true_ms(&self) -> u64 {
        WALL + self.now
    }

    fn clock(&self, place: Place) -> Now {
        let wall_ms = self.true_ms().saturating_add_signed(self.nodes[place].clock_off_ms);
        Now { mono_ms: self.now, wall_ms }
    }

    pub(super) fn name(&self, place: Place) -> String {
        self.nodes[place].name.to_string()
    }

    pub(super) fn say(&self, place: Place, what: impl FnOnce() -> String) {
        if self.talks {
            eprintln!("{:>10} {:<20} {}", self.now, self.nodes[place].name, what());
        }
    }

    /// Starts a node from its disk.
    pub fn start(&mut self, place: Place) {
        let (boot, fresh) = (self.random.wide(), self.random.wide());
        self.say(place, || "starts".to_owned());
        let clock = self.clock(place);
        self.take_name(place);
        let (names, aliases) = (self.names(), self.aliases());
        let node = &mut self.nodes[place];
        node.life += 1;
        node.timer_at = u64::MAX;
        node.told_room = (u64::MAX, u64::MAX);
        let mut core = Node::new(Config {
            node: node.id,
            name: node.name.clone(),
            title: String::new(),
            has_uplink: !node.parents.is_empty(),
            features: 0,
            addresses: vec![],
            boot,
            labels: vec![],
        });
        let mut found = Found::default();
        let restored = node.disk.open().and_then(|spool| {
            let restored = spool.restore(&mut |input| {
                match &input {
                    Input::RestoredMessage { row, message, .. } => {
                        drop(found.rows.insert(*row, (message.clone(), false)));
                    }
                    Input::RestoredSettled { row, message, .. } => {
                        drop(found.rows.insert(*row, (message.clone(), true)));
                    }
                    Input::RestoredReceipt { row, .. } => drop(found.receipts.insert(*row)),
                    _ => {}
                }
                core.handle(input, clock);
            })?;
            let fresh = NodeRow { incarnation: Incarnation(fresh), starts: 0, record: 0, clock_ms: 0 };
            let row = restored.node.unwrap_or(fresh);
            let row = NodeRow { starts: row.starts + 1, ..row };
            // Hello's counter must be durable before a neighbour hears it.
            spool.commit(&[Op::PutNode(row)])?;
            Ok((spool, row, restored.inboxes))
        });
        let (spool, row, mut inboxes) = match restored {
            Ok(opened) => opened,
            Err(error) => return self.disk_failed(place, "start", &error),
        };
        inboxes.extend(self.inboxes.iter().cloned());
        core.handle(Input::Start { node: row, inboxes }, clock);
        if place == 0 {
            core.handle(Input::Names(names), clock);
        }
        if aliases != Aliases::default() {
            core.handle(Input::Aliases(aliases), clock);
        }
        let node = &mut self.nodes[place];
        let take_it = node.damaged || std::mem::take(&mut node.unknown);
        self.model.found(place, &self.name(place), self.true_ms(), &found, take_it);
        let node = &mut self.nodes[place];
        node.core = Some(core);
        node.spool = Some(spool);
        let (life, parents) = (node.life, node.parents.len());
        self.look_at_room(place);
        self.perform(place);
        for parent in 0..parents {
            self.at(5, Happening::Dial { place, life, parent });
        }
        self.sit_down(place);
        self.ask_again(place);
    }

    /// The process dies; what was not committed is gone.
    pub fn crash(&mut self, place: Place) {
        self.say(place, || "is gone".to_owned());
        let node = &mut self.nodes[place];
        node.core = None;
        node.spool = None;
        node.life += 1;
        node.commits.clear();
        node.busy = false;
        node.upkeep = false;
        node.desks.clear();
        let asked = std::mem::take(&mut node.asked);
        self.unanswered(asked);
        let ends: Vec<LinkId> = self.lines.iter().filter(|(_, l)| l.place == place).map(|(link, _)| *link).collect();
        for link in ends {
            self.break_line(link, true);
        }
    }

    /// The process dies and comes back after a while.
    pub fn crash_and_restart(&mut self, place: Place, after_ms: u64) {
        self.crash(place);
        self.at(after_ms, Happening::Restart { place });
    }

    /// The power goes: what was not synced is there or not, by chance.
    pub fn lose_power(&mut self, place: Place, after_ms: u64) {
        let seed = self.random.number();
        if let Some(files) = self.nodes[place].disk.faults() {
            files.cut();
        }
        self.crash(place);
        self.nodes[place].disk.lose_power(seed);
        self.at(after_ms, Happening::Restart { place });
    }

    /// The disk is gone with the process; the node comes back with an empty one.
    pub fn lose_disk(&mut self, place: Place, after_ms: u64) {
        let empty = self.nodes[place].disk.another();
        self.put_disk(place, empty, after_ms);
        self.nodes[place].damaged = false;
    }

    /// The node comes back with another disk: an empty one, or one from before, with what had rotted on it by then.
    pub fn put_disk(&mut self, place: Place, disk: Disk, after_ms: u64) {
        self.crash(place);
        let node = &mut self.nodes[place];
        node.disk = disk;
        node.unknown = true;
        if let (Some(files), Some(capacity)) = (node.disk.faults(), node.capacity) {
            files.set_capacity(Some(capacity));
        }
        self.model.forget(place);
        self.at(after_ms, Happening::Restart { place });
    }

    /// Sets what a node's spool may take.
    pub fn set_capacity(&mut self, place: Place, bytes: Option<u64>) {
        self.nodes[place].capacity = bytes;
        if let Some(files) = self.nodes[place].disk.faults() {
            files.set_capacity(bytes);
        }
        if self.nodes[place].core.is_some() {
            self.look_at_room(place);
        }
    }

    /// The machine's clock is set wrong, or right, while it runs.
    pub fn set_clock(&mut self, place: Place, off_ms: i64) {
        self.nodes[place].clock_off_ms = off_ms;
        self.tell(place, Input::Timer);
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
            self.steps += 1;
            self.happen(what);
            if self.steps.is_multiple_of(256) {
                self.check_limits(self.steps as usize / 256 % self.nodes.len());
            }
        }
        self.now = end;
    }

    fn lives(&self, place: Place, life: u64) -> bool {
        self.nodes[place].life == life && self.nodes[place].core.is_some()
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Input { place, life, input } if self.lives(place, life) => self.tell(place, *input),
            Happening::Offer { place, life, link, offer } if self.lives(place, life) => {
                self.offered(place, link, *offer);
            }
            Happening::Run { place, life, root, layout, first, units } if self.lives(place, life) => {
                self.run_came(place, root, layout, first, units);
            }
            Happening::Committed { place, life } if self.lives(place, life) => self.committed(place),
            Happening::Timer { place, life } if self.lives(place, life) && self.nodes[place].timer_at <= self.now => {
                self.nodes[place].timer_at = u64::MAX;
                self.tell(place, Input::Timer);
            }
            Happening::Dial { place, life, parent } if self.lives(place, life) => self.dial(place, life, parent),
            Happening::Restart { place } if self.nodes[place].core.is_none() => self.start(place),
            Happening::Heal { a, b } => self.heal_line(a, b),
            Happening::Notice { place, link } => self.end(place, link),
            Happening::Upkeep { place, life } if self.lives(place, life) => self.upkeep(place),
            Happening::Ask { job } => self.ask(job),
            Happening::Sit { place, life, inbox } if self.lives(place, life) => self.sit(place, inbox),
            Happening::Decide { place, life, handed } if self.lives(place, life) => self.decide(place, handed),
            _ => {}
        }
    }

    pub(super) fn tell(&mut self, place: Place, input: Input) {
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
        self.say(place, || format!("{output:?}"));
        match output {
            Output::Send { link, frame } => self.send_frame(place, link, &frame),
            Output::SendOffer { link, number, row, visit, recipients, stamps, .. } => {
                self.send_offer(place, link, row, (number, visit, recipients, stamps));
            }
            Output::SendReceipt { link, number, row } => self.send_receipt(place, link, number, row),
            Output::SendRecord { link, record, flood } => self.send_record(link, record, flood),
            Output::SendRun { link, root, payload_bytes, first, count, precedence } => {
                self.send_run(place, link, precedence, (root, payload_bytes, first, count));
            }
            Output::Persist { commit, ops, urgent } => {
                self.nodes[place].commits.push_back(Persist { commit, ops, urgent });
                self.commit(place);
            }
            Output::Submitted { ticket, id, .. } => self.submitted(place, ticket, id),
            Output::NotSubmitted { ticket, why } => self.not_submitted(place, ticket, &why),
            Output::Deliver { consumer, row, id, address, .. } => self.handed_out(place, consumer, row, id, &address),
            Output::TookDone { ticket, held } => self.took_done(place, ticket, held),
            Output::Commanded { ticket, result } => {
                self.nodes[place].asked.remove(&ticket);
                self.commanded.push(result);
            }
            Output::InboxDone { .. } | Output::Traced { .. } => {}
            Output::Close { link, .. } => self.break_line(link, false),
            Output::Event(Event::Progress { message, address, state, .. }) => {
                let address = address.to_string();
                self.model.progress(&self.name(place), message, &address, state);
                let known = self.progress.entry((message, address)).or_insert(State::Submitted);
                if state.overrides(*known) {
                    *known = state;
                }
            }
            Output::Event(_) => {}
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
        let most = 1 + self.random.place(4);
        let node = &mut self.nodes[place];
        node.busy = false;
        let count = most.min(node.commits.len());
        let mut batch: Vec<Persist> = node.commits.drain(..count).collect();
        let noted = batch.iter().map(|persist| note(&persist.ops, node.id)).collect();
        let again = batch.clone();
        let done = sign_ops(&mut batch, &PlaceSigns(node.id)).expect("the signer signs");
        let ops: Vec<_> = batch.into_iter().flat_map(|persist| persist.ops).collect();
        let Some(spool) = node.spool.clone() else { return };
        let committed = spool.commit(&ops);
        if let Err(SpoolError::Full { .. }) = committed
            && !node.disk.faults().is_some_and(tramd::spool::FaultFiles::is_cut)
        {
            // As the committer does: the same once more, until there is space; what came meanwhile waits.
            again.into_iter().rev().for_each(|persist| node.commits.push_front(persist));
            node.busy = true;
            let life = node.life;
            return self.at(FULL_PAUSE_MS, Happening::Committed { place, life });
        }
        if let Err(error) = committed {
            self.model.unsure(place, noted);
            drop(spool);
            return self.disk_failed(place, "commit", &error);
        }
        self.model.committed(place, &self.name(place), self.true_ms(), noted);
        let life = self.nodes[place].life;
        for committed in done {
            if self.lives(place, life) {
                self.tell(place, Input::Persisted { commit: committed.commit, records: committed.records });
            }
        }
        if self.lives(place, life) {
            self.commit(place);
            self.look_after(place);
        }
    }

    /// Uses a node's spool; nothing when that fails for a reason the world put there.
    pub(super) fn on_spool<T>(
        &mut self,
        place: Place,
        doing: &str,
        act: impl FnOnce(&dyn Spool) -> Result<T, SpoolError>,
    ) -> Option<T> {
        let spool = self.nodes[place].spool.clone()?;
        let done = act(spool.as_ref());
        drop(spool);
        match done {
            Ok(value) => Some(value),
            Err(error) => {
                self.disk_failed(place, doing, &error);
                None
            }
        }
    }

    /// What a daemon does when its disk fails: it stops, and comes back. A full one only refuses.
    pub(super) fn disk_failed(&mut self, place: Place, doing: &str, error: &SpoolError) {
        let node = &self.nodes[place];
        let wait = 100 + self.random.below(20_000);
        self.say(place, || format!("cannot {doing}: {error}"));
        if node.disk.faults().is_some_and(tramd::spool::FaultFiles::is_cut) {
            return self.lose_power(place, wait);
        }
        match error {
            SpoolError::Full { .. } => self.look_after(place),
            SpoolError::Damaged { .. } | SpoolError::Missing { .. } | SpoolError::Unreadable { .. } if node.damaged => {
            }
            SpoolError::Failed { .. } | SpoolError::Stopped { .. } if doing == "start" && node.damaged => {
                self.lose_disk(place, wait);
            }
            SpoolError::Failed { .. } | SpoolError::Stopped { .. } if node.failing || node.damaged => {
                // Nobody knows what such a disk holds: a machine that comes back tells.
                self.lose_power(place, wait);
            }
            _ => panic!("{} cannot {doing}: {error}", node.name),
        }
    }

    /// Something changed on the disk: soon the daemon looks at the room.
    pub(super) fn look_after(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        let limited = node.capacity.is_some();
        if (limited || node.disk.faults().is_some()) && !node.upkeep {
            node.upkeep = true;
            let (life, wait) = (node.life, if limited { UPKEEP_MS } else { SWEEP_MS });
            self.at(wait, Happening::Upkeep { place, life });
        }
    }

    fn upkeep(&mut self, place: Place) {
        let now_ms = self.true_ms();
        self.nodes[place].upkeep = false;
        self.nodes[place].sweeps += 1;
        if self.on_spool(place, "sweep", |spool| spool.sweep(now_ms)).is_none() {
            return;
        }
        self.look_at_room(place);
        if self.nodes[place].capacity.is_some() {
            self.look_after(place);
        }
    }

    fn look_at_room(&mut self, place: Place) {
        let node = &self.nodes[place];
        let total = node.capacity.unwrap_or(u64::MAX);
        let free = match &node.disk {
            Disk::Memory(_) => total.saturating_sub(node.used_bytes()),
            Disk::Files(_) => node.spool().room().free_bytes,
        };
        let free = if node.capacity.is_none() { u64::MAX } else { free };
        // Also when it is as it was, where there is a limit: the core takes off meanwhile what it lets in.
        if node.capacity.is_some() || node.told_room != (free, total) {
            self.nodes[place].told_room = (free, total);
            self.tell(place, Input::SpoolRoom { free_bytes: free, total_bytes: total });
        }
    }

    /// Whether a simulated spool in memory would take so many bytes more; the modelled disk says so itself.
    pub(super) fn has_room(&self, place: Place, bytes: u64) -> bool {
        let node = &self.nodes[place];
        node.disk.faults().is_some() || node.capacity.is_none_or(|limit| node.used_bytes() + bytes <= limit)
    }

    fn check_limits(&self, place: Place) {
        let node = &self.nodes[place];
        let Some(core) = &node.core else { return };
        let look = core.snapshot();
        let most = self.jobs.len() + self.model.sent.len();
        assert!(look.messages <= most, "{} holds {} messages", node.name, look.messages);
        for link in &look.links {
            let most = tram_relay::limits::OUTSTANDING * 6;
            assert!(link.unacknowledged <= most, "{} holds out {} on a link", node.name, link.unacknowledged);
        }
        assert!(look.links.len() <= 2 * self.nodes.len(), "{} has {} links", node.name, look.links.len());
        if let (Some(limit), None) = (node.capacity, node.disk.faults()) {
            let used = node.used_bytes();
            assert!(used <= limit + OVERSHOOT_BYTES, "{}'s spool takes {used} of {limit} bytes", node.name);
        }
    }

    pub(super) fn signer(&self, place: Place) -> Signer {
        let node = &self.nodes[place];
        Signer { node: node.id, name: node.name.clone(), role: node.role }
    }

    pub(super) fn said_by(&self, signed: &Signed) -> Signer {
        let by = signed.signature.signer.0[0];
        self.signer(usize::from(by) - 1)
    }

    fn dial(&mut self, place: Place, life: u64, index: usize) {
        let node = &self.nodes[place];
        let Some(parent) = node.parents.get(index).copied() else { return };
        if self.lines.values().any(|l| l.place == place && l.peer == parent) {
            return;
        }
        if self.is_cut(place, parent) || self.nodes[parent].core.is_none() {
            let again = 500 + self.random.below(2000);
            return self.at(again, Happening::Dial { place, life, parent: index });
        }
        self.say(place, || format!("dials {}", self.nodes[parent].name));
        let (ours, theirs) = self.connect(place, parent, index);
        let up = Input::LinkUp { link: ours, peer: self.signer(parent), side: Side::Up(index as u8) };
        let down = Input::LinkUp { link: theirs, peer: self.signer(place), side: Side::Down };
        self.tell(place, up);
        self.tell(parent, down);
    }
}

/// Stands in for the PKI: the signer's hash is the node's place.
struct PlaceSigns(NodeId);

impl Sign for PlaceSigns {
    fn sign(&self, statements: &[(Kind, &[u8])]) -> Result<Vec<Signature>, String> {
        let batch = Batch::new(statements.iter().copied()).ok_or("an empty batch")?;
        let signer = CertHash([self.0.0[0]; 32]);
        Ok((0..batch.count()).map(|i| batch.signature(i, signer, super::carry::SIGNED)).collect())
    }
}
