//! Node records: this node's own, those of its tree, and the mail that moves with them.

use tram_proto::frame::{Recipient, Visit};
use tram_proto::id::NodeId;
use tram_proto::receipt::NodeRecord;
use tram_proto::row::{NodeRow, Phase};
use tram_proto::statement::{Kind, Signed};

use crate::aliases::Aliases;
use crate::input::{self, LinkId, Names, Row, Side};
use crate::limits;
use crate::node::Node;
use crate::output::{Event, Op, Output, Statement};
use crate::routing::{Existence, Hop, Learned};

impl Node {
    /// Makes a new own record, to be signed with the next commit.
    pub(super) fn announce(&mut self) {
        if !self.started {
            return;
        }
        let active = self.links.active_peer();
        self.announced = Some(active);
        let mut uplinks: Vec<NodeId> = active.into_iter().collect();
        for link in self.links.iter().filter(|l| matches!(l.side, Side::Up(_))) {
            if !uplinks.contains(&link.peer.node) && uplinks.len() < tram_proto::limits::UPLINKS {
                uplinks.push(link.peer.node);
            }
        }
        self.row = NodeRow { record: self.row.record + 1, ..self.row };
        let record = NodeRecord {
            node: self.config.node,
            name: self.config.name.clone(),
            incarnation: self.row.incarnation,
            counter: self.row.record,
            inboxes: self.inboxes.names().cloned().collect(),
            uplinks,
            active,
            at_ms: self.now.wall_ms,
            title: self.config.title.clone(),
            retired: self.retired_here.clone(),
        };
        self.op(Op::PutNode(self.row));
        let statement = Statement::ToSign(Kind::Record, record.encode());
        self.op(Op::PutRecord { node: self.config.node, statement });
    }

    /// The own record is signed and durable: whoever is connected hears it.
    pub(super) fn own_record_signed(&mut self, signed: Signed) {
        self.own_record = Some(signed);
        let hearers: Vec<LinkId> = self
            .links
            .iter()
            .filter(|l| l.is_up() && (l.side == Side::Down || self.links.active() == Some(l.id)))
            .map(|l| l.id)
            .collect();
        if std::mem::take(&mut self.flood_own)
            && let Some(record) = self.own_record.clone()
        {
            return hearers.into_iter().for_each(|link| {
                self.outputs.push_back(Output::SendRecord { link, record: record.clone(), flood: true });
            });
        }
        hearers.into_iter().for_each(|link| self.send_own_record(link));
    }

    pub(super) fn send_own_record(&mut self, link: LinkId) {
        if let Some(record) = self.own_record.clone() {
            self.outputs.push_back(Output::SendRecord { link, record, flood: false });
        }
    }

    /// Another uplink carries what goes up, or none: say so, and tell it of the nodes below.
    pub(super) fn uplink_changed(&mut self) {
        let active = self.links.active();
        if active.is_some() && self.queues.holds(Hop::Hold) {
            self.reroute();
        }
        if let Some(link) = active {
            let below: Vec<Signed> = self.routing.below().map(|k| k.signed.clone()).collect();
            for record in below {
                self.outputs.push_back(Output::SendRecord { link, record, flood: false });
            }
            if self.announced != Some(self.links.active_peer()) {
                self.announce();
            } else {
                self.send_own_record(link);
            }
            self.dirty.insert(link);
        }
    }

    pub(super) fn record(&mut self, link: LinkId, record: NodeRecord, signed: Signed, flood: bool) {
        let Some((from, side)) = self.links.get(link).filter(|l| l.is_up()).map(|l| (l.peer.node, l.side)) else {
            return;
        };
        let (node, incarnation) = (record.node, record.incarnation);
        if node == self.config.node {
            if record.counter > self.row.record
                || (record.counter == self.row.record && record.incarnation != self.row.incarnation)
            {
                self.row = NodeRow { record: record.counter, ..self.row };
                self.announce();
            }
            return;
        }
        let begins = flood || (node == from && self.to_flood.remove(&node));
        let lost = self.learn_retired(&record);
        match self.routing.learn(record, signed.clone()) {
            Learned::Stale(newer) => {
                self.outputs.push_back(Output::SendRecord { link, record: newer, flood: false });
            }
            Learned::Same | Learned::Full => {}
            Learned::News { losing } => {
                self.op(Op::PutRecord { node, statement: Statement::Signed(signed.clone()) });
                let up = self.links.active().filter(|up| side == Side::Down && *up != link);
                let losing = losing.and_then(|child| self.links.serving(Hop::Child(child))).filter(|l| *l != link);
                for link in up.into_iter().chain(losing) {
                    self.outputs.push_back(Output::SendRecord { link, record: signed.clone(), flood: false });
                }
                // What hangs on it left that branch too, perhaps by records that said nothing of it.
                if let Some(link) = losing {
                    for record in self.routing.hanging_on(node) {
                        self.outputs.push_back(Output::SendRecord { link, record, flood: false });
                    }
                }
                self.reroute();
            }
        }
        let new_life = begins && self.lives.insert(node, incarnation) != Some(incarnation);
        if new_life || lost {
            self.flood(link, &signed);
        }
    }

    /// A spool is gone: every node hears it, and whoever handed mail on offers it again.
    fn flood(&mut self, from: LinkId, record: &Signed) {
        let others: Vec<LinkId> = self.links.iter().filter(|l| l.is_up() && l.id != from).map(|l| l.id).collect();
        for link in others {
            self.outputs.push_back(Output::SendRecord { link, record: record.clone(), flood: true });
        }
        self.offer_all_own_again();
    }

    /// Notes spools that another node declares lost; true when that is news. Whoever says so need not be asked for its
    /// right to: a lie costs an envelope for each message under way.
    fn learn_retired(&mut self, record: &NodeRecord) -> bool {
        let mut news = false;
        for life in &record.retired {
            if self.retired.len() < limits::RECORDS && self.retired.insert(*life) {
                news = true;
                let event = Event::Retired { node: life.0, by: record.name.clone() };
                self.outputs.push_back(Output::Event(event));
            }
        }
        news
    }

    pub(super) fn offer_all_own_again(&mut self) -> usize {
        let rows: Vec<Row> = self.custody.rows().filter(|(_, l)| l.is_own()).map(|(row, _)| row).collect();
        rows.into_iter().filter(|row| self.offer_own_again(*row)).count()
    }

    /// Sends a message of our own once more, to those of whom nothing was heard since a next hop took custody.
    pub(super) fn offer_own_again(&mut self, row: Row) -> bool {
        let Some(live) = self.custody.get_mut(row).filter(|l| l.is_own()) else { return false };
        let (id, origin) = (live.message.id, live.origin);
        let mut any = false;
        for recipient in &mut live.message.recipients {
            let back = self.tombstones.covers(id, origin, recipient.recipient.ordinal);
            if recipient.phase == Phase::Handed && !recipient.state.is_terminal() && !back {
                recipient.phase = Phase::Forward;
                any = true;
            }
        }
        if any {
            live.message.visit.attempt += 1;
            // A name that was unknown when it first left may be known by now: another way than before.
            if self.resolve(row) {
                self.judge(row);
            }
            self.update(row);
            self.place(row);
        }
        any
    }

    pub(super) fn names(&mut self, names: Names) {
        self.routing.names(names);
        self.reroute();
    }

    pub(super) fn aliases(&mut self, aliases: input::Aliases) {
        self.routing.aliases = Aliases::new(aliases);
        self.reroute();
        self.look_at_doubted();
    }

    /// Routes changed: every waiting message and receipt looks for its next hop anew.
    pub(super) fn reroute(&mut self) {
        for (row, origin) in self.transit.drain() {
            let hop = self.routing.next(Some(origin));
            self.transit.queue(row, hop);
            self.touch(hop);
        }
        for row in self.queues.drain() {
            self.start_over(row);
        }
        let rows: Vec<Row> = self.custody.rows().map(|(row, _)| row).collect();
        for row in rows {
            if self.resolve(row) {
                self.judge(row);
                self.update(row);
            }
            self.place(row);
            self.settle_if_done(row);
        }
    }

    /// What passed too many hops by older routes begins its way anew, as a further attempt.
    fn start_over(&mut self, row: Row) {
        let Some(live) = self.custody.get_mut(row) else { return };
        if live.message.visit.hops as usize >= tram_proto::limits::HOPS - 1 {
            live.message.visit = Visit { attempt: live.message.visit.attempt + 1, hops: 0 };
            live.message.stamps.clear();
            self.update(row);
        }
    }

    /// Adds the ids of nodes whose names can be resolved by now; true if something has to be judged.
    fn resolve(&mut self, row: Row) -> bool {
        let Some(live) = self.custody.get_mut(row) else { return false };
        let is_own = live.is_own();
        let to = &live.to;
        let mut changed = false;
        for r in &mut live.message.recipients {
            // Of what has left the origin, too: whom the name meant decides whose receipt is believed.
            let is_open = r.phase == Phase::Forward || (is_own && r.phase == Phase::Handed);
            if !is_open || r.recipient.node.is_some() || r.recipient.ordinal.list.is_some() {
                continue;
            }
            let Some(address) = to.get(r.recipient.ordinal.index as usize) else { continue };
            match self.routing.resolve(&address.node) {
                // Nobody looked at its signature when it came: it goes up, and is looked at when it comes back.
                Existence::Known(node) if node == self.config.node && !is_own => {}
                Existence::Known(node) => {
                    r.recipient = Recipient { node: Some(node), ..r.recipient };
                    changed = true;
                }
                Existence::Never => changed |= r.phase == Phase::Forward,
                Existence::Unknown => {}
            }
        }
        changed
    }
}
