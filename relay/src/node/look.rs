//! What the node looks like to whoever asks.

use std::collections::BTreeMap;

use tram_proto::envelope::Precedence;
use tram_proto::name::{Inbox, NodeName};

use crate::custody::Live;
use crate::node::Node;
use crate::routing::Hop;
use crate::snapshot::{LinkView, NodeView, QueueView, Snapshot};

impl Node {
    /// A picture of this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            node: self.config.node,
            name: self.config.name.clone(),
            incarnation: self.row.incarnation,
            links: self.link_views(),
            queues: self.queue_views(),
            nodes: self.node_views(),
            inboxes: self.inboxes.names().map(|i| (i.clone(), self.inboxes.count(i))).collect(),
            messages: self.custody.len(),
            receipts: self.transit.len(),
            spool_room_bytes: self.room.free_bytes,
            spool_total_bytes: self.room.total_bytes,
            held: self.links.held().map(|node| self.node_text(node)).collect(),
            late: self.custody.late().map(|live| live.message.id).collect(),
            paused: self.paused.iter().cloned().collect(),
            clock_trusted: self.clock.trusted(),
        }
    }

    fn link_views(&self) -> Vec<LinkView> {
        self.links
            .iter()
            .map(|l| LinkView {
                link: l.id,
                peer: l.peer.name.clone(),
                peer_id: l.peer.node,
                role: l.peer.role,
                side: l.side,
                up: l.is_up(),
                active: self.links.active() == Some(l.id),
                clock_offset_ms: l.offset_ms,
                unacknowledged: l.offered.len(),
            })
            .collect()
    }

    /// Waiting and held-out messages per next hop and class, and what waits in inboxes.
    fn queue_views(&self) -> Vec<QueueView> {
        /// There may be a million messages: they are added up before anything gets its name.
        #[derive(PartialEq, Eq, PartialOrd, Ord)]
        enum Place<'a> {
            Hop(Hop),
            Peer(&'a NodeName),
            Inbox(&'a Inbox),
        }
        let mut sums: BTreeMap<(Place<'_>, Precedence), (usize, u64, u64)> = BTreeMap::new();
        let mut add = |place, precedence, live: &Live| {
            let received_ms = live.message.received_ms;
            let (messages, bytes, oldest_ms) = sums.entry((place, precedence)).or_insert((0, 0, received_ms));
            *messages += 1;
            *bytes += live.layout.bytes();
            *oldest_ms = received_ms.min(*oldest_ms);
        };
        for (hop, precedence, row) in self.queues.iter() {
            if let Some(live) = self.custody.get(row) {
                add(Place::Hop(hop), precedence, live);
            }
        }
        for link in self.links.iter() {
            for held in link.offered.values() {
                if let crate::links::Held::Message { row, precedence, .. } = held
                    && let Some(live) = self.custody.get(*row)
                {
                    let place = self.links.served_by(link.id).map_or(Place::Peer(&link.peer.name), Place::Hop);
                    add(place, *precedence, live);
                }
            }
        }
        for (inbox, precedence, row) in self.inboxes.waiting() {
            if let Some(live) = self.custody.get(row) {
                add(Place::Inbox(inbox), precedence, live);
            }
        }
        let mut views: BTreeMap<(String, Precedence), QueueView> = BTreeMap::new();
        for ((place, precedence), (messages, bytes, oldest_ms)) in sums {
            let next_hop = match place {
                Place::Hop(hop) => self.hop_text(hop),
                Place::Peer(name) => name.to_string(),
                Place::Inbox(inbox) => format!("inbox {inbox}"),
            };
            let new = QueueView { next_hop: next_hop.clone(), precedence, messages: 0, bytes: 0, oldest_ms };
            let view = views.entry((next_hop, precedence)).or_insert(new);
            view.messages += messages;
            view.bytes += bytes;
            view.oldest_ms = view.oldest_ms.min(oldest_ms);
        }
        views.into_values().collect()
    }

    fn node_views(&self) -> Vec<NodeView> {
        let announced = self.routing.records().map(|k| NodeView {
            node: k.record.node,
            name: k.record.name.clone(),
            announced: true,
            active: k.record.active,
            inboxes: k.record.inboxes.clone(),
            at_ms: k.record.at_ms,
        });
        let mut views: BTreeMap<_, NodeView> = announced.map(|v| (v.node, v)).collect();
        for (name, node) in self.routing.registry() {
            views.entry(*node).or_insert_with(|| NodeView {
                node: *node,
                name: name.clone(),
                announced: false,
                active: None,
                inboxes: Vec::new(),
                at_ms: 0,
            });
        }
        let own = NodeView {
            node: self.config.node,
            name: self.config.name.clone(),
            announced: true,
            active: self.links.active_peer(),
            inboxes: self.inboxes.names().cloned().collect(),
            at_ms: self.now.wall_ms,
        };
        views.insert(self.config.node, own);
        views.into_values().collect()
    }
}
