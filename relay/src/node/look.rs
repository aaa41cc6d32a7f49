//! What the node looks like to whoever asks.

use std::collections::BTreeMap;

use tram_proto::envelope::Precedence;

use crate::node::Node;
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
        let mut views: BTreeMap<(String, Precedence), QueueView> = BTreeMap::new();
        let mut add = |next_hop: String, precedence, bytes, received_ms| {
            let key = (next_hop.clone(), precedence);
            let new = QueueView { next_hop, precedence, messages: 0, bytes: 0, oldest_ms: received_ms };
            let view = views.entry(key).or_insert(new);
            view.messages += 1;
            view.bytes += bytes;
            view.oldest_ms = view.oldest_ms.min(received_ms);
        };
        for (hop, precedence, row) in self.queues.iter() {
            if let Some(live) = self.custody.get(row) {
                add(self.hop_text(hop), precedence, live.layout.bytes(), live.message.received_ms);
            }
        }
        for link in self.links.iter() {
            let name = self.links.served_by(link.id).map_or_else(|| link.peer.name.to_string(), |h| self.hop_text(h));
            for held in link.offered.values() {
                if let crate::links::Held::Message { row, precedence, .. } = held
                    && let Some(live) = self.custody.get(*row)
                {
                    add(name.clone(), *precedence, live.layout.bytes(), live.message.received_ms);
                }
            }
        }
        for (inbox, precedence, row) in self.inboxes.waiting() {
            if let Some(live) = self.custody.get(row) {
                add(format!("inbox {inbox}"), precedence, live.layout.bytes(), live.message.received_ms);
            }
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
