//! The messages this node answers for, and those it remembers.
//!
//! Owns the rows in memory and the indexes over them; decides nothing about links. A live row has at least one recipient
//! with something left to do. A settled one is only remembered, so that it is not taken twice. Of released ones a relay
//! keeps an evictable list. Guarantees that a message is in the memory of this module before, and until after, it is in
//! the spool. DESIGN §5.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tram_proto::envelope::{Gist, Precedence};
use tram_proto::frame::{Range, Visit};
use tram_proto::id::{Digest, MessageId, NodeId};
use tram_proto::limits::INLINE_BYTES;
use tram_proto::manifest::Layout;
use tram_proto::name::Address;
use tram_proto::receipt::{Ordinal, State};
use tram_proto::row::{MessageRow, Phase, RecipientRow};

use crate::input::{Held, LinkId, Row};
use crate::limits;
use crate::ranges::Ranges;
use crate::routing::Hop;
use crate::turns::Place;

/// An offer of a message that another node holds out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// The offer's, on its link.
    pub(crate) number: u64,
    /// How many nodes the message has passed to come here this way.
    pub(crate) hops: u32,
}

/// What a copy of one recipient is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Copied {
    /// The offer that holds it out now.
    pub(crate) offered: Option<(LinkId, u64)>,
    /// It was offered.
    pub(crate) left: bool,
    /// The next hop put it off.
    pub(crate) parked: bool,
}

/// A payload on its way here.
#[derive(Debug, Default)]
pub(crate) struct Coming {
    /// Units that are durable here.
    pub(crate) have: Ranges,
    /// The links that offer us this message.
    pub(crate) sources: BTreeMap<LinkId, Source>,
    /// The source that was asked last.
    pub(crate) asked_of: Option<LinkId>,
    /// Units wanted from it and not yet durable.
    pub(crate) asked: Ranges,
    /// Monotonic time of the last unit that became durable.
    pub(crate) progress_ms: u64,
}

/// Some next hops, each once: one, mostly, and then without memory of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Hops {
    #[default]
    None,
    One(Hop),
    Several(Box<[Hop]>),
}

impl FromIterator<Hop> for Hops {
    fn from_iter<I: IntoIterator<Item = Hop>>(hops: I) -> Self {
        let mut hops = hops.into_iter();
        let Some(first) = hops.next() else { return Self::None };
        let mut more: Vec<Hop> = hops.filter(|hop| *hop != first).collect();
        if more.is_empty() {
            return Self::One(first);
        }
        more.push(first);
        more.sort_unstable();
        more.dedup();
        Self::Several(more.into())
    }
}

impl Hops {
    pub(crate) fn as_slice(&self) -> &[Hop] {
        match self {
            Self::None => &[],
            Self::One(hop) => std::slice::from_ref(hop),
            Self::Several(hops) => hops,
        }
    }
}

/// A message in this node's custody. There may be a million: what few of them need is boxed.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) message: MessageRow,
    pub(crate) to: Arc<[Address]>,
    pub(crate) origin: NodeId,
    pub(crate) precedence: Precedence,
    pub(crate) created_ms: u64,
    pub(crate) deadline_ms: u64,
    /// By when it has to be there, Unix milliseconds.
    pub(crate) deliver_by_ms: Option<u64>,
    /// When its end has to be looked at, Unix milliseconds.
    due_ms: u64,
    pub(crate) layout: Layout,
    pub(crate) root: Digest,
    /// `None`: nothing of its payload has come, or all of it.
    coming: Option<Box<Coming>>,
    /// The row itself is durable: until then nothing is sent or handed out.
    pub(crate) durable: bool,
    /// By recipient; those at the end, or all, are missing while there is nothing to say of them.
    copies: Vec<Copied>,
    /// It was here before this start: what was offered then is not known.
    pub(crate) restored: bool,
    /// Next hops whose share this message takes.
    charged: Hops,
}

impl Live {
    pub(crate) fn new(message: MessageRow, gist: Gist, held: &Held, durable: bool) -> Option<Self> {
        let layout = Layout::new(gist.payload_bytes).ok()?;
        let have = Ranges::of(&held.units);
        let mut live = Self {
            coming: (!have.is_empty()).then(|| Box::new(Coming { have, ..Coming::default() })),
            copies: Vec::new(),
            message,
            to: gist.to,
            origin: gist.origin,
            precedence: gist.precedence,
            created_ms: gist.created_ms,
            deadline_ms: gist.deadline_ms,
            deliver_by_ms: gist.deliver_by_ms,
            due_ms: 0,
            layout,
            root: gist.payload_root,
            durable,
            restored: false,
            charged: Hops::None,
        };
        live.due_ms = live.ends_ms();
        Some(live)
    }

    /// When this node ends what is left of it, Unix milliseconds.
    pub(crate) const fn ends_ms(&self) -> u64 {
        self.deadline_ms.saturating_add(if self.is_own() { limits::GRACE_MS } else { 0 })
    }

    pub(crate) const fn is_inline(&self) -> bool {
        self.layout.bytes() <= INLINE_BYTES as u64
    }

    pub(crate) const fn payload(&self) -> Option<(Digest, u64)> {
        if self.is_inline() { None } else { Some((self.root, self.layout.bytes())) }
    }

    pub(crate) fn address(&self, ordinal: Ordinal) -> Option<&Address> {
        match ordinal.list {
            None => self.to.get(ordinal.index as usize),
            Some(_) => None,
        }
    }

    /// Where it stands among those of its class.
    pub(crate) fn turn(&self) -> Place {
        let by_ms = self.deliver_by_ms.filter(|_| self.precedence == Precedence::Flash);
        Place { source: self.message.from, by_ms }
    }

    /// What it takes of the spool, in bytes: payload, and about what envelope and row need.
    pub(crate) const fn size(&self) -> u64 {
        self.layout.bytes().saturating_add(ROW_BYTES)
    }

    pub(crate) const fn is_own(&self) -> bool {
        self.message.from.is_none()
    }

    /// What has come of its payload, unless that is all of it.
    pub(crate) fn coming(&self) -> Option<&Coming> {
        self.coming.as_deref()
    }

    /// The same, when something comes.
    pub(crate) fn coming_mut(&mut self) -> &mut Coming {
        self.coming.get_or_insert_default()
    }

    /// Nothing more comes; answers who offered it.
    pub(crate) fn has_come(&mut self) -> BTreeMap<LinkId, Source> {
        self.coming.take().map(|coming| coming.sources).unwrap_or_default()
    }

    /// What a copy is about, by its recipient's place.
    pub(crate) fn copied(&self, index: usize) -> Copied {
        self.copies.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn copied_mut(&mut self, index: usize) -> Option<&mut Copied> {
        let recipients = self.message.recipients.len();
        if self.copies.len() < recipients {
            self.copies.reserve_exact(recipients - self.copies.len());
            self.copies.resize(recipients, Copied::default());
        }
        self.copies.get_mut(index)
    }

    /// The offers that hold out a copy of it now.
    pub(crate) fn offers(&self) -> impl Iterator<Item = (LinkId, u64)> {
        self.copies.iter().filter_map(|copy| copy.offered)
    }

    /// What the next hop put off may be offered again; true if there was any.
    pub(crate) fn unpark(&mut self) -> bool {
        let any = self.copies.iter().any(|copy| copy.parked);
        self.copies.iter_mut().for_each(|copy| copy.parked = false);
        any
    }

    /// The units to want next: the manifest first, for chunks are checked against it.
    pub(crate) fn to_want(&self) -> Vec<Range> {
        let none = Ranges::default();
        let have = self.coming().map_or(&none, |coming| &coming.have);
        let most = tram_proto::limits::WANT_RANGES;
        let manifest = Range { first: 0, count: self.layout.manifest_units() };
        let missing = have.missing(manifest, most);
        if !missing.is_empty() {
            return missing;
        }
        have.missing(Range { first: manifest.count, count: self.layout.chunks() }, most)
    }

    /// The source to ask: the one asked last, or the next after it when that one had its chance.
    pub(crate) fn source(&self, next: bool) -> Option<LinkId> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let Coming { sources, asked_of, .. } = self.coming()?;
        let asked = asked_of.as_ref().filter(|link| sources.contains_key(link));
        let from = match asked {
            Some(link) if next => Excluded(link),
            Some(link) => Included(link),
            None => Unbounded,
        };
        let found = sources.range((from, Unbounded)).next().or_else(|| sources.first_key_value());
        found.map(|(link, _)| *link)
    }

    /// Half of the time between its submission and when it has to be there, Unix milliseconds.
    fn half_way_ms(&self) -> Option<u64> {
        self.deliver_by_ms.map(|by_ms| self.created_ms.saturating_add(by_ms.saturating_sub(self.created_ms) / 2))
    }

    /// Recipients of this copy of which nobody here knows that it has arrived.
    pub(crate) fn still_to_arrive(&self) -> usize {
        let open = |r: &&RecipientRow| match r.phase {
            Phase::Forward => true,
            Phase::Handed => State::Arrived.overrides(r.state),
            Phase::Inbox | Phase::Ended => false,
        };
        self.message.recipients.iter().filter(open).count()
    }

    /// Whether a recipient's copy may have left this node.
    pub(crate) fn may_have_left(&self, index: usize) -> bool {
        self.restored || self.copied(index).left
    }

    pub(crate) fn has_all_units(&self) -> bool {
        self.coming().is_some_and(|coming| coming.have.covers(Range { first: 0, count: self.layout.units() }))
    }

    /// Bytes of the payload that are still to come, counted in whole chunks.
    pub(crate) fn missing_bytes(&self) -> u64 {
        if self.message.complete {
            return 0;
        }
        let have: u64 = self.coming().into_iter().flat_map(|coming| coming.have.iter()).map(|r| r.count).sum();
        self.layout.units().saturating_sub(have).saturating_mul(tram_proto::limits::CHUNK_BYTES as u64)
    }

    /// Drops recipients: this copy is no longer theirs.
    pub(crate) fn forget(&mut self, which: impl Fn(&RecipientRow) -> bool) {
        let keep: Vec<bool> = self.message.recipients.iter().map(|r| !which(r)).collect();
        let mut kept = keep.iter();
        self.message.recipients.retain(|_| kept.next() != Some(&false));
        let mut kept = keep.iter();
        self.copies.retain(|_| kept.next() != Some(&false));
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.message.recipients.iter().all(|r| r.phase == Phase::Ended)
    }
}

/// Envelope and row of a message, about, in bytes.
pub(crate) const ROW_BYTES: u64 = 1024;

/// What is remembered of a message after its end.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) until_ms: u64,
    pub(crate) recipients: Vec<Ended>,
}

/// How far a recipient came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) ordinal: Ordinal,
    /// Whom its address meant.
    pub(crate) node: Option<NodeId>,
    pub(crate) state: State,
    /// When, Unix milliseconds.
    pub(crate) at_ms: u64,
}

impl Ended {
    pub(crate) const fn of(r: &RecipientRow) -> Self {
        Self { ordinal: r.recipient.ordinal, node: r.recipient.node, state: r.state, at_ms: r.at_ms }
    }
}

/// The recent messages a relay gave away.
#[derive(Debug, Default)]
struct Released {
    messages: BTreeMap<MessageId, Vec<(Ordinal, Visit, Hop, u64)>>,
    order: VecDeque<MessageId>,
}

/// What was restored and is in no map yet: a map that is made of all at once takes less time, and half the memory.
#[derive(Debug, Default)]
struct Unsorted {
    rows: Vec<(Row, Box<Live>)>,
    ids: Vec<(MessageId, Row)>,
    deadlines: Vec<(u64, Row)>,
}

#[derive(Debug, Default)]
pub(crate) struct Custody {
    /// Boxed: in place, half of a large tree's nodes would be empty room of their size.
    rows: BTreeMap<Row, Box<Live>>,
    by_id: BTreeMap<MessageId, Row>,
    restored: Unsorted,
    /// Rows whose payload is still coming, by its root.
    receiving: BTreeMap<Digest, BTreeSet<Row>>,
    settled: BTreeMap<MessageId, Settled>,
    settled_by_time: BTreeSet<(u64, MessageId)>,
    released: Released,
    deadlines: BTreeSet<(u64, Row)>,
    /// When the origin offers again, Unix milliseconds.
    again: BTreeSet<(u64, Row)>,
    /// When somebody has to hear that a message with a time set is still not there, Unix milliseconds.
    alarms: BTreeSet<(u64, Row)>,
    /// Rows whose time has passed.
    late: BTreeSet<Row>,
    /// Rows with recipients that were put off, by when to offer them again, monotonic milliseconds.
    parked: BTreeSet<(u64, Row)>,
    /// What live messages take, in bytes: by the next hop they wait for, the neighbour and the user they came from.
    toward: BTreeMap<Hop, u64>,
    from: BTreeMap<NodeId, u64>,
    of_user: BTreeMap<u32, u64>,
}

fn add<K: Ord>(sums: &mut BTreeMap<K, u64>, key: K, bytes: u64) {
    *sums.entry(key).or_default() += bytes;
}

fn take<K: Ord>(sums: &mut BTreeMap<K, u64>, key: &K, bytes: u64) {
    if let Some(sum) = sums.get_mut(key) {
        *sum = sum.saturating_sub(bytes);
        if *sum == 0 {
            sums.remove(key);
        }
    }
}

impl Custody {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= limits::MESSAGES || self.settled.len() >= limits::SETTLED
    }

    pub(crate) fn insert(&mut self, row: Row, live: Live) {
        self.by_id.insert(live.message.id, row);
        self.deadlines.insert((live.due_ms, row));
        self.note(row, &live);
        self.rows.insert(row, Box::new(live));
    }

    /// Takes what the spool remembers; it is there after [`Self::all_restored`].
    pub(crate) fn restore(&mut self, row: Row, live: Live) {
        self.restored.ids.push((live.message.id, row));
        self.restored.deadlines.push((live.due_ms, row));
        self.note(row, &live);
        self.restored.rows.push((row, Box::new(live)));
    }

    pub(crate) fn all_restored(&mut self) {
        let Unsorted { rows, ids, deadlines } = std::mem::take(&mut self.restored);
        self.rows.append(&mut rows.into_iter().collect());
        self.by_id.append(&mut ids.into_iter().collect());
        self.deadlines.append(&mut deadlines.into_iter().collect());
    }

    fn note(&mut self, row: Row, live: &Live) {
        self.alarms.extend(live.half_way_ms().map(|at| (at, row)));
        if !live.message.complete {
            self.receiving.entry(live.root).or_default().insert(row);
        }
        if let Some(at) = again_at(&live.message) {
            self.again.insert((at, row));
        }
        match (live.message.from, live.message.user) {
            (Some(node), _) => add(&mut self.from, node, live.size()),
            (None, Some(user)) => add(&mut self.of_user, user, live.size()),
            (None, None) => {}
        }
    }

    pub(crate) fn remove(&mut self, row: Row) -> Option<Live> {
        let live = *self.rows.remove(&row)?;
        self.by_id.remove(&live.message.id);
        self.deadlines.remove(&(live.due_ms, row));
        for at in [live.half_way_ms(), live.deliver_by_ms].into_iter().flatten() {
            self.alarms.remove(&(at, row));
        }
        self.late.remove(&row);
        self.no_longer_receiving(row, live.root);
        if let Some(at) = again_at(&live.message) {
            self.again.remove(&(at, row));
        }
        live.charged.as_slice().iter().for_each(|hop| take(&mut self.toward, hop, live.size()));
        match (live.message.from, live.message.user) {
            (Some(node), _) => take(&mut self.from, &node, live.size()),
            (None, Some(user)) => take(&mut self.of_user, &user, live.size()),
            (None, None) => {}
        }
        Some(live)
    }

    /// A newer visit of a message that passes through came from this neighbour.
    pub(crate) fn comes_from(&mut self, row: Row, node: NodeId) {
        let Some(live) = self.rows.get_mut(&row) else { return };
        let size = live.size();
        if let Some(before) = live.message.from.replace(node) {
            take(&mut self.from, &before, size);
        }
        add(&mut self.from, node, size);
    }

    /// Counts a message towards the next hops it waits for now, and no others.
    pub(crate) fn charge(&mut self, row: Row, hops: Hops) {
        let Some(live) = self.rows.get_mut(&row).filter(|live| live.charged != hops) else { return };
        let size = live.size();
        live.charged.as_slice().iter().for_each(|hop| take(&mut self.toward, hop, size));
        hops.as_slice().iter().for_each(|hop| add(&mut self.toward, *hop, size));
        live.charged = hops;
    }

    /// What waits for a next hop, in bytes.
    pub(crate) fn toward(&self, hop: Hop) -> u64 {
        self.toward.get(&hop).copied().unwrap_or(0)
    }

    /// What a neighbour brought and has not gone on, in bytes.
    pub(crate) fn brought_by(&self, node: NodeId) -> u64 {
        self.from.get(&node).copied().unwrap_or(0)
    }

    /// What a user's messages take until they have ended, in bytes.
    pub(crate) fn of_user(&self, user: u32) -> u64 {
        self.of_user.get(&user).copied().unwrap_or(0)
    }

    /// Lets recipients of a message wait until a moment, in monotonic milliseconds.
    pub(crate) fn park(&mut self, row: Row, ordinals: &[Ordinal], until_ms: u64) {
        let Some(live) = self.rows.get_mut(&row) else { return };
        for index in 0..live.message.recipients.len() {
            let parks = live.message.recipients.get(index).is_some_and(|r| ordinals.contains(&r.recipient.ordinal));
            if let Some(copy) = live.copied_mut(index).filter(|_| parks) {
                copy.parked = true;
            }
        }
        self.parked.insert((until_ms, row));
    }

    /// Rows whose parked recipients may be offered again by now.
    pub(crate) fn unpark(&mut self, now_ms: u64) -> Vec<Row> {
        let mut rows = Vec::new();
        while let Some((at, row)) = self.parked.first().copied().filter(|(at, _)| *at <= now_ms) {
            self.parked.remove(&(at, row));
            if let Some(live) = self.rows.get_mut(&row) {
                live.unpark();
                rows.push(row);
            }
        }
        rows
    }

    pub(crate) fn next_unpark_ms(&self) -> Option<u64> {
        self.parked.first().map(|(at, _)| *at)
    }

    /// The live messages with a payload, and those of them that are still to come.
    pub(crate) fn with_payload(&self, root: Digest) -> Vec<Row> {
        self.rows.iter().filter(|(_, l)| l.root == root && !l.is_inline()).map(|(row, _)| *row).collect()
    }

    /// A payload that was whole here is not any more.
    pub(crate) fn damaged(&mut self, row: Row, held: &Held) {
        if let Some(live) = self.rows.get_mut(&row) {
            live.message.complete = false;
            live.coming_mut().have = Ranges::of(&held.units);
            self.receiving.entry(live.root).or_default().insert(row);
        }
    }

    pub(crate) fn get(&self, row: Row) -> Option<&Live> {
        self.rows.get(&row).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, row: Row) -> Option<&mut Live> {
        self.rows.get_mut(&row).map(Box::as_mut)
    }

    pub(crate) fn find(&self, id: MessageId) -> Option<Row> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (Row, &Live)> {
        self.rows.iter().map(|(row, live)| (*row, live.as_ref()))
    }

    pub(crate) fn receiving(&self, root: Digest) -> Vec<Row> {
        self.receiving.get(&root).into_iter().flatten().copied().collect()
    }

    pub(crate) fn all_receiving(&self) -> Vec<Row> {
        self.receiving.values().flatten().copied().collect()
    }

    /// Bytes that the payloads on their way here will still take: their room is spoken for. One that was offered and does
    /// not come keeps no room from others.
    pub(crate) fn promised_bytes(&self, now_ms: u64) -> u64 {
        let rows = self.receiving.values().flatten().filter_map(|row| self.get(*row));
        let progress_ms = |l: &Live| l.coming().map_or(0, |coming| coming.progress_ms);
        let coming = rows.filter(|l| progress_ms(l).saturating_add(2 * limits::STALLED_MS) > now_ms);
        coming.map(Live::missing_bytes).sum()
    }

    pub(crate) fn no_longer_receiving(&mut self, row: Row, root: Digest) {
        if let Some(rows) = self.receiving.get_mut(&root) {
            rows.remove(&row);
            if rows.is_empty() {
                self.receiving.remove(&root);
            }
        }
    }

    /// Notes that a next hop took custody of (part of) a message of our own.
    pub(crate) fn handed(&mut self, row: Row, to: NodeId, now_ms: u64) {
        let Some(live) = self.rows.get_mut(&row) else { return };
        if let Some(at) = again_at(&live.message) {
            self.again.remove(&(at, row));
        }
        live.message.handed_ms = now_ms.max(1);
        live.message.handed_to = Some(to);
        if let Some(at) = again_at(&live.message) {
            self.again.insert((at, row));
        }
    }

    /// Rows that the origin has to offer again by now.
    pub(crate) fn due_again(&mut self, now_ms: u64) -> Vec<Row> {
        let due: Vec<_> = self.again.range(..=(now_ms, Row(u64::MAX))).copied().collect();
        due.iter().for_each(|entry| {
            self.again.remove(entry);
        });
        due.into_iter().map(|(_, row)| row).collect()
    }

    /// Rows whose end has come: at the deadline, at the origin a grace later. Those that stay are looked at again in a
    /// minute.
    pub(crate) fn past_deadline(&mut self, now_ms: u64) -> Vec<Row> {
        let due: Vec<_> = self.deadlines.range(..(now_ms, Row(0))).copied().collect();
        for (at, row) in &due {
            self.deadlines.remove(&(*at, *row));
            if let Some(live) = self.rows.get_mut(row) {
                live.due_ms = now_ms.saturating_add(60_000);
                self.deadlines.insert((live.due_ms, *row));
            }
        }
        due.into_iter().map(|(_, row)| row).collect()
    }

    /// The next moment at which something is due, Unix milliseconds.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let again = self.again.first().map(|(at, _)| *at);
        let deadline = self.deadlines.first().map(|(at, _)| at.saturating_add(1));
        let alarm = self.alarms.first().map(|(at, _)| *at);
        [again, deadline, alarm].into_iter().flatten().min()
    }

    /// Rows of which half the time that was set has passed, or all of it, and that are still not there.
    pub(crate) fn due_alarms(&mut self, now_ms: u64) -> Vec<Row> {
        let mut due = Vec::new();
        while let Some((at, row)) = self.alarms.first().copied().filter(|(at, _)| *at <= now_ms) {
            self.alarms.remove(&(at, row));
            let Some(live) = self.rows.get(&row) else { continue };
            match live.deliver_by_ms {
                Some(by_ms) if by_ms > now_ms => {
                    self.alarms.insert((by_ms, row));
                }
                _ => {
                    self.late.insert(row);
                }
            }
            if live.still_to_arrive() > 0 {
                due.push(row);
            }
        }
        due
    }

    /// Messages whose time has passed and that are still not there.
    pub(crate) fn late(&self) -> impl Iterator<Item = &Live> {
        self.late.iter().filter_map(|row| self.get(*row)).filter(|live| live.still_to_arrive() > 0)
    }

    pub(crate) fn settle(&mut self, id: MessageId, settled: Settled) {
        self.settled_by_time.insert((settled.until_ms, id));
        if let Some(before) = self.settled.insert(id, settled)
            && let Some(now) = self.settled.get_mut(&id)
        {
            // What ended here in an earlier visit, or was taken back before it came, stays ended.
            for known in before.recipients {
                if !now.recipients.iter().any(|k| k.ordinal == known.ordinal) {
                    now.recipients.push(known);
                }
            }
        }
    }

    pub(crate) fn settled(&self, id: MessageId) -> Option<&Settled> {
        self.settled.get(&id)
    }

    pub(crate) fn settled_mut(&mut self, id: MessageId) -> Option<&mut Settled> {
        self.settled.get_mut(&id)
    }

    /// Remembers that recipients of a message are taken back, those it knows nothing of yet.
    pub(crate) fn settle_recalled(&mut self, id: MessageId, until_ms: u64, ordinals: &[Ordinal], at_ms: u64) {
        if !self.settled.contains_key(&id) {
            self.settle(id, Settled { until_ms, recipients: Vec::new() });
        }
        let Some(settled) = self.settled.get_mut(&id) else { return };
        for ordinal in ordinals {
            if !settled.recipients.iter().any(|known| known.ordinal == *ordinal) {
                let state = State::Recalled;
                settled.recipients.push(Ended { ordinal: *ordinal, node: None, state, at_ms });
            }
        }
    }

    pub(crate) fn forget_settled(&mut self, now_ms: u64) {
        while let Some((until, id)) = self.settled_by_time.first().copied() {
            if until >= now_ms {
                break;
            }
            self.settled_by_time.remove(&(until, id));
            if self.settled.get(&id).is_some_and(|s| s.until_ms < now_ms) {
                self.settled.remove(&id);
            }
        }
    }

    /// Remembers that a copy went on.
    pub(crate) fn release(&mut self, id: MessageId, ordinal: Ordinal, visit: Visit, hop: Hop, at_ms: u64) {
        let known = self.released.messages.entry(id).or_default();
        if known.is_empty() {
            self.released.order.push_back(id);
        }
        known.retain(|(o, ..)| *o != ordinal);
        known.push((ordinal, visit, hop, at_ms));
        if self.released.order.len() > limits::RELEASED
            && let Some(oldest) = self.released.order.pop_front()
        {
            self.released.messages.remove(&oldest);
        }
    }

    /// The visit with which a recipient's copy went on, if that is remembered.
    pub(crate) fn released(&self, id: MessageId) -> &[(Ordinal, Visit, Hop, u64)] {
        self.released.messages.get(&id).map_or(&[], Vec::as_slice)
    }
}

fn again_at(message: &MessageRow) -> Option<u64> {
    let waiting = message.recipients.iter().any(|r| r.phase == Phase::Handed && !r.state.is_terminal());
    if message.from.is_some() || message.handed_ms == 0 || !waiting {
        return None;
    }
    let pauses = limits::OFFER_AGAIN_MS;
    let pause = pauses.get(message.visit.attempt as usize).or(pauses.last()).copied()?;
    Some(message.handed_ms.saturating_add(spread(pause, message.id, message.visit.attempt)))
}

/// A pause of which the second half is spread by message and attempt.
pub(crate) fn spread(pause_ms: u64, id: MessageId, attempt: u32) -> u64 {
    let place = u64::from_be_bytes(id.0[..8].try_into().unwrap_or_default()).rotate_left(attempt);
    let half = pause_ms / 2;
    pause_ms - half + place % (half + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_named_once_each() {
        let child = Hop::Child(NodeId([1; 16]));
        let hops = |hops: &[Hop]| hops.iter().copied().collect::<Hops>();
        assert_eq!(hops(&[]).as_slice(), []);
        assert_eq!(hops(&[Hop::Up, Hop::Up]), Hops::One(Hop::Up));
        assert_eq!(hops(&[Hop::Up, child, Hop::Up, child]).as_slice(), [child, Hop::Up]);
    }

    #[test]
    fn a_relay_forgets_the_oldest_release_first() {
        let mut custody = Custody::default();
        let id = |n: usize| MessageId::of(&n.to_be_bytes());
        for n in 0..=limits::RELEASED {
            custody.release(id(n), Ordinal::body(0), Visit::default(), Hop::Up, 0);
        }
        assert!(custody.released(id(0)).is_empty());
        assert_eq!(custody.released(id(1)).len(), 1);
    }
}
