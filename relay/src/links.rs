//! The links: who is connected, what each was given and has not acknowledged, and which uplink carries what goes up.
//!
//! Owns the hello exchange and the numbering of offers. Never looks into messages: an offer is a row, a visit and some
//! recipients.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tram_proto::envelope::Precedence;
use tram_proto::frame::{Hello, VERSION, Visit};
use tram_proto::id::NodeId;
use tram_proto::limits::RUN_UNITS;
use tram_proto::receipt::Ordinal;
use tram_proto::row::NeighborRow;

use crate::input::{Input, LinkId, Row, Side, Signer};
use crate::limits;
use crate::output::CloseReason;
use crate::ranges::Ranges;
use crate::routing::Hop;
use crate::turns::{Place, Turns};

/// What an offer held out.
#[derive(Debug)]
pub(crate) enum Held {
    Message {
        row: Row,
        visit: Visit,
        ordinals: Vec<Ordinal>,
        precedence: Precedence,
        inline_bytes: u64,
        /// Units the receiver wants and we have not handed to the connection.
        wanted: Ranges,
        /// Where it stands among those that are wanted.
        place: Place,
    },
    Receipt {
        row: Row,
    },
}

/// What an offer that was put off waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PutOff {
    pub(crate) precedence: Precedence,
    pub(crate) bytes: u64,
    /// The next hop that had no room; `None`: the spool itself.
    pub(crate) hop: Option<Hop>,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) peer: Signer,
    pub(crate) side: Side,
    pub(crate) hello: Option<Hello>,
    pub(crate) offset_ms: Option<i64>,
    pub(crate) offered: BTreeMap<u64, Held>,
    next_number: u64,
    outstanding: BTreeMap<Precedence, (usize, u64)>,
    outstanding_receipts: usize,
    /// Offers with something wanted, by class.
    wanted: BTreeMap<Precedence, Turns<u64>>,
    /// Runs under way, by class.
    runs: BTreeMap<Precedence, usize>,
    /// Units a run may have on this line.
    pub(crate) run_units: u32,
    /// Offers of theirs that were put off for want of room, with what they need.
    pub(crate) put_off: BTreeMap<u64, PutOff>,
    /// Offers and receipts that overtook the peer's hello: they come on other streams.
    pub(crate) early: Vec<Input>,
    /// When the last ping went out, monotonic milliseconds; its number is that time.
    pub(crate) pinged_ms: Option<u64>,
}

impl Link {
    pub(crate) const fn is_up(&self) -> bool {
        self.hello.is_some()
    }

    pub(crate) fn may_offer(&self, precedence: Precedence, inline_bytes: u64) -> bool {
        let (count, bytes) = self.outstanding.get(&precedence).copied().unwrap_or_default();
        let room = bytes == 0 || bytes.saturating_add(inline_bytes) <= limits::INLINE_OUTSTANDING_BYTES;
        count < limits::OUTSTANDING && room
    }

    pub(crate) const fn may_send_receipt(&self) -> bool {
        self.outstanding_receipts < limits::OUTSTANDING
    }

    /// Whether a class may begin another run. Each has its own: which of the bytes go first is decided where they are
    /// written, and one that gets little there does not hold up the others here.
    pub(crate) fn may_run(&self, precedence: Precedence) -> bool {
        self.runs.get(&precedence).is_none_or(|runs| *runs < limits::RUNS)
    }

    pub(crate) fn run_begun(&mut self, precedence: Precedence) {
        *self.runs.entry(precedence).or_default() += 1;
    }

    pub(crate) fn run_sent(&mut self, precedence: Precedence, run_units: u32) {
        if let Some(runs) = self.runs.get_mut(&precedence) {
            *runs = runs.saturating_sub(1);
        }
        self.run_units = run_units.clamp(1, RUN_UNITS);
    }

    /// Something is wanted of an offer.
    pub(crate) fn want(&mut self, precedence: Precedence, number: u64, place: Place) {
        self.wanted.entry(precedence).or_default().push(number, place);
    }

    /// The offers of a class with something wanted, in the order of their turns.
    pub(crate) fn wanted(&self, precedence: Precedence) -> impl Iterator<Item = u64> {
        self.wanted.get(&precedence).into_iter().flat_map(Turns::iter)
    }

    /// Counts a run of an offer; `done` when nothing more of it is wanted.
    pub(crate) fn served(&mut self, precedence: Precedence, number: u64, place: Place, bytes: u64, done: bool) {
        if let Some(turns) = self.wanted.get_mut(&precedence) {
            turns.served(number, place, bytes);
            if done {
                turns.remove(number, place);
            }
            if turns.is_empty() {
                self.wanted.remove(&precedence);
            }
        }
    }

    /// Takes recipients out of an offer that goes on without them; answers its row and whom it let go.
    pub(crate) fn let_go(&mut self, number: u64, indices: &[u32]) -> Option<(Row, Vec<Ordinal>)> {
        let Some(Held::Message { row, ordinals, .. }) = self.offered.get_mut(&number) else { return None };
        let named = |o: &Ordinal| o.list.is_none() && indices.contains(&o.index);
        let (gone, kept): (Vec<_>, Vec<_>) = ordinals.iter().partition(|o| named(o));
        *ordinals = kept;
        Some((*row, gone))
    }

    /// Whether an offer of this number was ever made on this link.
    pub(crate) const fn was_offered(&self, number: u64) -> bool {
        number < self.next_number
    }

    pub(crate) fn give(&mut self, held: Held) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        match &held {
            Held::Message { precedence, inline_bytes, .. } => {
                let entry = self.outstanding.entry(*precedence).or_default();
                entry.0 += 1;
                entry.1 += inline_bytes;
            }
            Held::Receipt { .. } => self.outstanding_receipts += 1,
        }
        self.offered.insert(number, held);
        number
    }

    pub(crate) fn take_back(&mut self, number: u64) -> Option<Held> {
        let held = self.offered.remove(&number)?;
        match &held {
            Held::Message { precedence, inline_bytes, place, .. } => {
                if let Some(turns) = self.wanted.get_mut(precedence) {
                    turns.remove(number, *place);
                }
                if let Some(entry) = self.outstanding.get_mut(precedence) {
                    entry.0 = entry.0.saturating_sub(1);
                    entry.1 = entry.1.saturating_sub(*inline_bytes);
                }
            }
            Held::Receipt { .. } => self.outstanding_receipts = self.outstanding_receipts.saturating_sub(1),
        }
        Some(held)
    }
}

/// What is known of a neighbour beyond its links.
#[derive(Debug)]
pub(crate) struct Neighbor {
    pub(crate) row: NeighborRow,
    /// The boot that said so, if that was in this life of ours.
    boot: Option<[u8; 16]>,
}

/// What a hello changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Greeted {
    /// The neighbour's spool began another life.
    pub(crate) new_incarnation: bool,
    /// What to remember, if that changed.
    pub(crate) remember: Option<NeighborRow>,
    /// Older links of the same node.
    pub(crate) replaced: Vec<LinkId>,
}

#[derive(Debug, Default)]
pub(crate) struct Links {
    links: BTreeMap<LinkId, Link>,
    neighbors: BTreeMap<NodeId, Neighbor>,
    /// The uplink in use.
    active: Option<LinkId>,
    /// The link in use to each child.
    children: BTreeMap<NodeId, LinkId>,
}

impl Links {
    pub(crate) fn restore(&mut self, node: NodeId, row: NeighborRow) {
        self.neighbors.insert(node, Neighbor { row, boot: None });
    }

    /// Neighbours that get no link until an admin has looked.
    pub(crate) fn held(&self) -> impl Iterator<Item = NodeId> {
        self.neighbors.iter().filter(|(_, n)| n.row.held).map(|(node, _)| *node)
    }

    /// Lets a held neighbour in, whatever its counter says.
    pub(crate) fn accept(&mut self, node: NodeId) -> Option<NeighborRow> {
        let known = self.neighbors.get_mut(&node).filter(|n| n.row.held)?;
        known.row = NeighborRow { counter: 0, held: false, ..known.row };
        known.boot = None;
        Some(known.row)
    }

    pub(crate) fn remembered(&self, node: NodeId) -> Option<NeighborRow> {
        self.neighbors.get(&node).map(|n| n.row)
    }

    pub(crate) fn open(&mut self, id: LinkId, peer: Signer, side: Side) {
        let link = Link {
            id,
            peer,
            side,
            hello: None,
            offset_ms: None,
            offered: BTreeMap::new(),
            next_number: 1,
            outstanding: BTreeMap::new(),
            outstanding_receipts: 0,
            wanted: BTreeMap::new(),
            runs: BTreeMap::new(),
            run_units: limits::FIRST_RUN_UNITS,
            put_off: BTreeMap::new(),
            early: Vec::new(),
            pinged_ms: None,
        };
        self.links.insert(id, link);
    }

    pub(crate) fn get(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    pub(crate) const fn active(&self) -> Option<LinkId> {
        self.active
    }

    pub(crate) fn active_peer(&self) -> Option<NodeId> {
        Some(self.links.get(&self.active?)?.peer.node)
    }

    /// The link that serves a next hop now.
    pub(crate) fn serving(&self, hop: Hop) -> Option<LinkId> {
        match hop {
            Hop::Up => self.active,
            Hop::Child(node) => self.children.get(&node).copied(),
            Hop::Here | Hop::Hold => None,
        }
    }

    /// The next hop a link serves now.
    pub(crate) fn served_by(&self, id: LinkId) -> Option<Hop> {
        let link = self.links.get(&id).filter(|l| l.is_up())?;
        match link.side {
            Side::Up(_) => (self.active == Some(id)).then_some(Hop::Up),
            Side::Down => (self.children.get(&link.peer.node) == Some(&id)).then_some(Hop::Child(link.peer.node)),
        }
    }

    /// Takes the peer's hello; the link is up if that succeeds.
    pub(crate) fn greet(&mut self, id: LinkId, hello: Hello) -> Result<Greeted, CloseReason> {
        let Some(link) = self.links.get(&id) else {
            return Err(CloseReason::Protocol("hello on a link that is gone"));
        };
        if link.is_up() {
            return Err(CloseReason::Protocol("a second hello"));
        }
        if hello.version_min > VERSION || hello.version_max < VERSION {
            let (theirs_min, theirs_max) = (hello.version_min, hello.version_max);
            return Err(CloseReason::Version { theirs_min, theirs_max, ours: VERSION });
        }
        if hello.node != link.peer.node || hello.name != link.peer.name {
            let proven = link.peer.name.clone();
            return Err(CloseReason::NotWhoItSays { said: hello.name, proven });
        }
        let (node, side) = (hello.node, link.side);
        let known = self.neighbors.get(&node);
        let same_life = known.is_some_and(|k| k.row.incarnation == hello.incarnation);
        if let Some(known) = self.neighbors.get_mut(&node).filter(|_| same_life) {
            if known.row.held {
                return Err(CloseReason::Held(hello.name));
            }
            let unmasked = if hello.counter < known.row.counter {
                Some(CloseReason::RolledBack { theirs: hello.counter, known: known.row.counter })
            } else if hello.counter == known.row.counter && known.boot.is_some_and(|boot| boot != hello.boot) {
                Some(CloseReason::TwoBoots(node))
            } else {
                None
            };
            if let Some(why) = unmasked {
                // Raised at each start, its counter would soon look right again.
                known.row.held = true;
                return Err(why);
            }
        }
        let known = self.neighbors.get(&node);
        let row = NeighborRow { incarnation: hello.incarnation, counter: hello.counter, held: false };
        let greeted = Greeted {
            new_incarnation: known.is_some() && !same_life,
            remember: known.is_none_or(|k| k.row != row).then_some(row),
            replaced: self.links.values().filter(|l| l.id != id && l.peer.node == node).map(|l| l.id).collect(),
        };
        self.neighbors.insert(node, Neighbor { row, boot: Some(hello.boot) });
        if side == Side::Down {
            self.children.insert(node, id);
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.hello = Some(hello);
        }
        self.choose_uplink();
        Ok(greeted)
    }

    pub(crate) fn close(&mut self, id: LinkId) -> Option<Link> {
        let link = self.links.remove(&id)?;
        if self.children.get(&link.peer.node) == Some(&id) {
            self.children.remove(&link.peer.node);
        }
        self.choose_uplink();
        Some(link)
    }

    /// The first uplink in the order of preference that is up; of one node, its newest link.
    fn choose_uplink(&mut self) {
        let up = self.links.values().filter(|l| l.is_up());
        let best = up.filter_map(|l| match l.side {
            Side::Up(place) => Some((place, Reverse(l.id))),
            Side::Down => None,
        });
        self.active = best.min().map(|(_, Reverse(id))| id);
    }
}

#[cfg(test)]
mod tests {
    use tram_proto::id::Incarnation;
    use tram_proto::name::Role;

    use super::*;

    fn hello(node: u8, life: u8, boot: u8, counter: u64) -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            features: 0,
            node: NodeId([node; 16]),
            name: format!("n{node}").parse().expect("a name"),
            incarnation: Incarnation([life; 16]),
            boot: [boot; 16],
            counter,
            highest_of_yours: 0,
            spool_room_bytes: 0,
            clock_ms: 0,
            addresses: vec![],
        }
    }

    fn open(links: &mut Links, id: u64, node: u8, side: Side) {
        let name = format!("n{node}").parse().expect("a name");
        links.open(LinkId(id), Signer { node: NodeId([node; 16]), name, role: Role::District }, side);
    }

    #[track_caller]
    fn check(links: &mut Links, id: u64, hello: Hello, expect: Result<bool, u32>) {
        open(links, id, hello.node.0[0], Side::Down);
        let got = links.greet(LinkId(id), hello).map(|g| g.new_incarnation).map_err(|e| e.code());
        assert_eq!(got, expect);
        links.close(LinkId(id));
    }

    #[test]
    fn row_32_a_spool_that_went_back_and_a_second_boot_are_unmasked() {
        let mut links = Links::default();
        check(&mut links, 1, hello(2, 1, 1, 5), Ok(false));
        check(&mut links, 2, hello(2, 1, 1, 5), Ok(false));
        check(&mut links, 3, hello(2, 1, 2, 5), Err(CloseReason::TwoBoots(NodeId([2; 16])).code()));
        check(&mut links, 4, hello(2, 1, 2, 6), Err(CloseReason::Held("n2".parse().expect("a name")).code()));
        assert!(links.accept(NodeId([2; 16])).is_some());
        check(&mut links, 5, hello(2, 1, 2, 2), Ok(false));
        check(&mut links, 5, hello(2, 1, 2, 1), Err(CloseReason::RolledBack { theirs: 1, known: 2 }.code()));
        check(&mut links, 6, hello(2, 9, 3, 1), Ok(true));
    }

    #[test]
    fn row_10_a_peer_is_who_its_certificate_says_or_gets_no_link() {
        let mut links = Links::default();
        open(&mut links, 1, 2, Side::Down);
        let error = links.greet(LinkId(1), hello(3, 1, 1, 1)).expect_err("another node's name");
        assert!(error.to_string().contains("its certificate says n2"), "{error}");
    }

    #[test]
    fn the_first_uplink_that_is_up_carries_what_goes_up() {
        let mut links = Links::default();
        open(&mut links, 1, 2, Side::Up(0));
        open(&mut links, 2, 3, Side::Up(1));
        assert_eq!(links.active(), None);
        links.greet(LinkId(2), hello(3, 1, 1, 1)).expect("hello");
        assert_eq!(links.serving(Hop::Up), Some(LinkId(2)));
        links.greet(LinkId(1), hello(2, 1, 1, 1)).expect("hello");
        assert_eq!(links.serving(Hop::Up), Some(LinkId(1)));
        links.close(LinkId(1));
        assert_eq!(links.serving(Hop::Up), Some(LinkId(2)));
    }

    #[test]
    fn every_class_has_runs_of_its_own() {
        use Precedence::{Bulk, Flash};
        let mut links = Links::default();
        open(&mut links, 1, 2, Side::Down);
        let link = links.get_mut(LinkId(1)).expect("open");
        for _ in 0..limits::RUNS {
            assert!(link.may_run(Bulk));
            link.run_begun(Bulk);
        }
        assert!(!link.may_run(Bulk) && link.may_run(Flash));
        link.run_sent(Bulk, 2);
        assert!(link.may_run(Bulk));
        assert_eq!(link.run_units, 2);
    }
}
