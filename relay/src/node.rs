//! The node: routes inputs to its concerns and gathers what they want done.
//!
//! Four calls drive it: [`Node::handle`] with an input and the time, [`Node::poll_output`] until it is empty,
//! [`Node::next_deadline`], and [`Node::snapshot`] for whoever looks. Nothing here performs I/O, reads a clock or draws
//! randomness, so the same inputs give the same outputs. What must be durable before it is said waits in `after` until
//! the commit that carries it is persisted.

mod arrivals;
mod commands;
mod deadlines;
mod delivery;
mod links;
mod look;
mod pump;
mod recall;
mod receipts;
mod records;
mod restore;
mod room;
mod submit;
mod tracing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tram_proto::frame::{Frame, Range, TraceHop};
use tram_proto::id::{Digest, Incarnation, MessageId, NodeId};
use tram_proto::name::NodeName;
use tram_proto::receipt::Receipt;
use tram_proto::row::{KeyRow, NodeRow};
use tram_proto::statement::Signed;

use crate::clock::Clock;
use crate::custody::Custody;
use crate::inboxes::Inboxes;
use crate::input::{HopName, Input, LinkId, Row, Signer, Ticket};
use crate::links::Links;
use crate::output::{CloseReason, CommandRefused, Event, InboxRefused, Op, Outcome, Output};
use crate::queues::Queues;
use crate::receipts::Transit;
use crate::routing::{Hop, Routing};
use crate::time::Now;
use crate::tombstones::Tombstones;

/// What a node is told of itself before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its name for people.
    pub title: String,
    /// It has uplinks configured.
    pub has_uplink: bool,
    /// The bits of its hello's features.
    pub features: u64,
    /// `host:port` at which others reach it.
    pub addresses: Vec<String>,
    /// Random at each start.
    pub boot: [u8; 16],
    /// Labels that may be carried; any other label is refused.
    pub labels: Vec<String>,
}

/// What is done once a commit is durable.
#[derive(Debug)]
enum After {
    Submitted(Ticket, MessageId),
    /// The message may be sent and handed out.
    Stored(Row),
    /// The sender of this offer is free of it.
    Ack(LinkId, u64),
    /// The receipt may be sent on.
    Receipt(Row),
    Took(Ticket),
    Inbox(Ticket, Result<(), InboxRefused>),
    Commanded(Ticket, Result<Outcome, CommandRefused>),
    Event(Event),
    Traced(Ticket, Vec<TraceHop>, bool),
}

/// One node's decisions.
#[derive(Debug)]
pub struct Node {
    config: Config,
    now: Now,
    started: bool,
    row: NodeRow,
    clock: Clock,
    routing: Routing,
    links: Links,
    custody: Custody,
    queues: Queues,
    transit: Transit,
    inboxes: Inboxes,
    /// Receipts that may turn out to be of a renamed node.
    doubted: VecDeque<(Box<Receipt>, Signed, Signer)>,
    asks: tracing::Asks,
    tombstones: Tombstones,
    paused: BTreeSet<HopName>,
    sequences: BTreeMap<String, u64>,
    keys: BTreeMap<(u32, String, String), KeyRow>,
    /// Lives of spools that were flooded.
    lives: BTreeMap<NodeId, Incarnation>,
    /// Lives of spools that were declared lost.
    retired: BTreeSet<(NodeId, Incarnation)>,
    /// Those among them that this node declared lost, the newest last.
    retired_here: Vec<(NodeId, Incarnation)>,
    /// The next own record goes to every node.
    flood_own: bool,
    /// Neighbours whose next own record has to be flooded.
    to_flood: BTreeSet<NodeId>,
    own_record: Option<Signed>,
    /// The uplink that the newest own record names, also while that record waits to be signed; `None`: none was made yet.
    announced: Option<Option<NodeId>>,
    room: room::Room,
    /// Payloads of which units found no room; only such as are on their way.
    stopped: BTreeSet<Digest>,
    /// Room came back for something that was put off: when to look, monotonic milliseconds.
    invite_ms: Option<u64>,
    next_row: u64,
    next_prune_ms: u64,
    next_stall_ms: u64,
    /// Links whose pump has to be looked at.
    dirty: BTreeSet<LinkId>,
    outputs: VecDeque<Output>,
    /// The commit being gathered.
    commit: u64,
    /// The last commit that is durable.
    durable: u64,
    ops: Vec<Op>,
    /// There is a flash message among them.
    urgent: bool,
    after: VecDeque<(u64, After)>,
    acks: BTreeMap<LinkId, Vec<u64>>,
}

impl Node {
    /// A node that has not restored anything yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let routing = Routing::new(config.node, config.name.clone(), config.has_uplink);
        Self {
            routing,
            config,
            now: Now::default(),
            started: false,
            row: NodeRow { incarnation: Incarnation([0; 16]), starts: 0, record: 0, clock_ms: 0 },
            clock: Clock::default(),
            links: Links::default(),
            custody: Custody::default(),
            queues: Queues::default(),
            transit: Transit::default(),
            inboxes: Inboxes::default(),
            doubted: VecDeque::new(),
            asks: tracing::Asks::default(),
            tombstones: Tombstones::default(),
            paused: BTreeSet::new(),
            sequences: BTreeMap::new(),
            keys: BTreeMap::new(),
            lives: BTreeMap::new(),
            retired: BTreeSet::new(),
            retired_here: Vec::new(),
            flood_own: false,
            to_flood: BTreeSet::new(),
            own_record: None,
            announced: None,
            room: room::Room::default(),
            stopped: BTreeSet::new(),
            invite_ms: None,
            next_row: 1,
            next_prune_ms: 0,
            next_stall_ms: 0,
            dirty: BTreeSet::new(),
            outputs: VecDeque::new(),
            commit: 1,
            durable: 0,
            ops: Vec::new(),
            urgent: false,
            after: VecDeque::new(),
            acks: BTreeMap::new(),
        }
    }

    /// Takes one input. Call [`Self::poll_output`] until it is empty before time passes; several inputs may come first.
    pub fn handle(&mut self, input: Input, now: Now) {
        self.now = now;
        self.clock.look(now);
        self.route(input);
        self.pump_dirty();
        self.flush_acks();
    }

    fn route(&mut self, input: Input) {
        if let Input::Offer { link, .. } | Input::Receipt { link, .. } = input
            && self.links.get(link).is_some_and(|l| !l.is_up())
        {
            return self.keep_early(link, input);
        }
        match input {
            Input::RestoredMessage { .. }
            | Input::RestoredSettled { .. }
            | Input::RestoredReceipt { .. }
            | Input::RestoredRecord { .. }
            | Input::RestoredNeighbor { .. }
            | Input::RestoredKey { .. }
            | Input::RestoredSequence { .. }
            | Input::RestoredPause(_) => self.restore(input),
            Input::Start { node, inboxes } => self.start(node, inboxes),
            Input::Names(names) => self.names(names),
            Input::Aliases(aliases) => self.aliases(aliases),
            Input::SpoolRoom { free_bytes, total_bytes } => self.spool_room(free_bytes, total_bytes),
            Input::LinkUp { link, peer, side } => self.link_up(link, peer, side),
            Input::LinkDown { link } => self.link_down(link),
            Input::Frame { link, frame } => self.frame(link, frame),
            Input::Offer { link, offer, id, body, trusted, held } => {
                self.offer(arrivals::Offered { link, offer: *offer, id, body: *body, trusted, held });
            }
            Input::Receipt { link, number, receipt, signed, signer } => {
                self.receipt(link, number, receipt, signed, signer);
            }
            Input::Record { link, record, signed, flood } => self.record(link, record, signed, flood),
            Input::RunSent { link, precedence, run_units } => self.run_sent(link, precedence, run_units),
            Input::UnitsDurable { root, units } => self.units_durable(root, units),
            Input::Persisted { commit, records } => self.persisted(commit, records),
            Input::Submit { ticket, submission } => self.submit(ticket, *submission),
            Input::Take { consumer, inbox, credit, lease_ms } => self.take(consumer, inbox, credit, lease_ms),
            Input::Took { consumer, row, ticket } => self.took(consumer, row, ticket),
            Input::Unreadable { consumer, row } => self.unreadable(consumer, row),
            Input::GaveBack { consumer, row } => self.gave_back(consumer, row),
            Input::Renew { consumer, row } => self.inboxes.renew(consumer, row, self.now.mono_ms),
            Input::Left { consumer } => self.left(consumer),
            Input::Command { ticket, command } => self.command(ticket, command),
            Input::RunStopped { root } => self.run_stopped(root),
            Input::UnitsLost { root, held } => self.units_lost(root, &held),
            Input::CreateInbox { ticket, inbox } => self.create_inbox(ticket, inbox),
            Input::RemoveInbox { ticket, inbox } => self.remove_inbox(ticket, inbox),
            Input::Trace { ticket, message } => self.trace(ticket, message),
            Input::Timer => self.timer(),
        }
    }

    /// The next thing to do; `None` until the next input or deadline.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.ops.is_empty() {
            return None;
        }
        let commit = self.commit;
        self.commit += 1;
        let (ops, urgent) = (std::mem::take(&mut self.ops), std::mem::take(&mut self.urgent));
        Some(Output::Persist { commit, ops, urgent })
    }

    fn op(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Does something once everything gathered so far is durable.
    fn then(&mut self, after: After) {
        let commit = if self.ops.is_empty() { self.commit - 1 } else { self.commit };
        if commit <= self.durable {
            self.perform(after);
        } else {
            self.after.push_back((commit, after));
        }
    }

    fn persisted(&mut self, commit: u64, records: Vec<Signed>) {
        for signed in records {
            self.own_record_signed(signed);
        }
        self.durable = self.durable.max(commit);
        while self.after.front().is_some_and(|(at, _)| *at <= commit) {
            if let Some((_, after)) = self.after.pop_front() {
                self.perform(after);
            }
        }
    }

    fn perform(&mut self, after: After) {
        match after {
            After::Submitted(ticket, id) => self.say_submitted(ticket, id),
            After::Stored(row) => self.stored(row),
            After::Ack(link, number) => self.acks.entry(link).or_default().push(number),
            After::Receipt(row) => self.receipt_stored(row),
            After::Took(ticket) => self.outputs.push_back(Output::TookDone { ticket, held: true }),
            After::Traced(ticket, hops, last) => self.outputs.push_back(Output::Traced { ticket, hops, last }),
            After::Event(event) => self.outputs.push_back(Output::Event(event)),
            After::Commanded(ticket, result) => self.outputs.push_back(Output::Commanded { ticket, result }),
            After::Inbox(ticket, result) => self.outputs.push_back(Output::InboxDone { ticket, result }),
        }
    }

    /// Says what became durable, in as few frames as the limits allow.
    fn flush_acks(&mut self) {
        for (link, mut numbers) in std::mem::take(&mut self.acks) {
            if self.links.get(link).is_none() {
                continue;
            }
            numbers.sort_unstable();
            numbers.dedup();
            let mut ranges: Vec<Range> = Vec::new();
            for number in numbers {
                match ranges.last_mut() {
                    Some(last) if last.end() == number => last.count += 1,
                    _ => ranges.push(Range { first: number, count: 1 }),
                }
            }
            for ranges in ranges.chunks(tram_proto::limits::ACK_RANGES) {
                self.send(link, Frame::Ack(ranges.to_vec()));
            }
        }
    }

    fn send(&mut self, link: LinkId, frame: Frame) {
        self.outputs.push_back(Output::Send { link, frame });
    }

    fn close(&mut self, link: LinkId, reason: CloseReason) {
        self.outputs.push_back(Output::Close { link, reason });
        self.link_down(link);
    }

    fn row(&mut self) -> Row {
        let row = Row(self.next_row);
        self.next_row += 1;
        row
    }

    fn touch(&mut self, hop: Hop) {
        if let Some(link) = self.links.serving(hop) {
            self.dirty.insert(link);
        }
    }
}
