//! From the spool to a node that acts.

use tram_proto::name::Inbox;
use tram_proto::receipt::State;
use tram_proto::row::{NodeRow, Phase};

use crate::custody::{Ended, Live, Settled};
use crate::input::{Input, Row};
use crate::limits;
use crate::node::Node;
use crate::output::Op;
use crate::routing::Hop;

impl Node {
    pub(super) fn restore(&mut self, input: Input) {
        match input {
            Input::RestoredMessage { row, message, gist, held } => {
                self.seen_row(row);
                if let Some(target) = message.recalls {
                    self.tombstones.put(target, gist.origin, message.recipients.iter().map(|r| r.recipient.ordinal));
                }
                if let Some(mut live) = Live::new(message, gist, &held, true) {
                    live.restored = true;
                    self.custody.restore(row, live);
                }
            }
            Input::RestoredSettled { row, message, origin, deadline_ms } => {
                self.seen_row(row);
                let recipients: Vec<_> = message.recipients.iter().map(Ended::of).collect();
                let until_ms = deadline_ms.saturating_add(limits::REMEMBER_MS);
                if let Some(target) = message.recalls {
                    let done = recipients.iter().filter(|r| r.state == State::Delivered);
                    let done: Vec<_> = done.map(|r| r.ordinal).collect();
                    self.tombstones.put(target, origin, message.recipients.iter().map(|r| r.recipient.ordinal));
                    if message.from.is_some() && !done.is_empty() {
                        self.custody.settle_recalled(target, until_ms, &done, message.received_ms);
                    }
                }
                if !recipients.is_empty() {
                    self.custody.settle(message.id, Settled { until_ms, recipients });
                }
            }
            Input::RestoredReceipt { row, receipt } => {
                self.seen_row(row);
                self.transit.insert(row, receipt.origin, None, None);
                self.transit.queue(row, Hop::Hold);
            }
            Input::RestoredRecord { record, signed } => {
                self.retired.extend(&record.retired);
                if record.node == self.config.node {
                    self.retired_here = record.retired;
                    self.own_record = Some(signed);
                } else {
                    self.routing.learn(record, signed);
                }
            }
            Input::RestoredNeighbor { node, neighbor } => self.links.restore(node, neighbor),
            Input::RestoredKey { user, sender, key, row } => {
                self.keys.insert((user, sender, key), row);
            }
            Input::RestoredSequence { sender, sequence } => {
                self.sequences.insert(sender, sequence);
            }
            Input::RestoredPause(hop) => {
                self.paused.insert(hop);
            }
            _ => {}
        }
    }

    fn seen_row(&mut self, row: Row) {
        self.next_row = self.next_row.max(row.0 + 1);
    }

    pub(super) fn start(&mut self, mut node: NodeRow, inboxes: Vec<Inbox>) {
        self.clock.start(node.clock_ms, self.config.has_uplink, self.now);
        node.clock_ms = node.clock_ms.max(self.now.wall_ms);
        self.row = node;
        self.started = true;
        self.custody.all_restored();
        self.op(Op::PutNode(node));
        inboxes.into_iter().for_each(|inbox| {
            self.inboxes.declare(inbox);
        });
        let waiting: Vec<_> = self
            .custody
            .rows()
            // What a damaged disk lost part of is handed out when that has come again.
            .filter(|(_, live)| live.message.complete)
            .flat_map(|(row, live)| {
                let inboxes = live.message.recipients.iter().filter(|r| r.phase == Phase::Inbox);
                inboxes
                    .filter_map(move |r| Some((live.address(r.recipient.ordinal)?.inbox.clone(), live.precedence, row)))
            })
            .collect();
        for (inbox, precedence, row) in waiting {
            self.inboxes.declare(inbox.clone());
            self.inboxes.put(&inbox, precedence, row);
        }
        for row in self.custody.all_receiving() {
            let done = self.custody.get(row).filter(|l| l.has_all_units()).map(|l| l.root);
            if let Some(root) = done {
                self.completed(row, root);
            }
        }
        // With an uplink, the first record of this life is made when it is clear which one is in use.
        if !self.config.has_uplink {
            self.announce();
        }
        self.reroute();
        self.hand_out();
    }
}
