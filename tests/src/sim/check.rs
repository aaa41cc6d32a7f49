//! What is asked when all is healed and quiet.

use std::collections::BTreeSet;

use tram_proto::id::MessageId;
use tram_proto::manifest::Layout;
use tram_proto::receipt::State;

use super::disk::GRACE_MS;
use super::world::World;

/// What may have become of a recipient beside the one good end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Messages whose lifetime ended before this moment may have expired, Unix milliseconds.
    pub expired_before_ms: u64,
}

impl World {
    /// Checks what must hold once everything is healed and quiet: all was delivered once, nothing is left over.
    ///
    /// # Panics
    /// Naming the message and the recipient.
    pub fn check_settled(&mut self) {
        self.check_delivered();
        self.check_empty();
    }

    /// Whether no node holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.iter().all(|node| {
            node.core.as_ref().is_some_and(|core| {
                let look = core.snapshot();
                (look.messages, look.receipts) == (0, 0)
            })
        })
    }

    /// Checks that no node holds anything, neither in its queues nor on its disk.
    ///
    /// # Panics
    /// Naming the node and what it holds.
    pub fn check_empty(&mut self) {
        for node in &self.nodes {
            let look = node.look();
            let held = (look.messages, look.receipts);
            assert_eq!(held, (0, 0), "{} still holds something: {:?}", node.name, look.queues);
        }
        let now_ms = self.true_ms();
        for place in 0..self.nodes.len() {
            for look in 1..=3 {
                self.on_spool(place, "sweep", |spool| spool.sweep(now_ms + look * 2 * GRACE_MS));
            }
            let spool = self.nodes[place].spool();
            for (root, payload) in &self.payloads {
                let Some(layout) = Layout::new(payload.len() as u64).ok().filter(|_| payload.len() > 65_536) else {
                    continue;
                };
                let held = spool.held(*root, layout).expect("read");
                assert!(held.units.is_empty(), "{} keeps payload {root} for nothing", self.nodes[place].name);
            }
        }
    }

    /// Checks that what was promised reached every recipient's application once, and that the origins know.
    ///
    /// # Panics
    /// Naming the message and the recipient, when something was lost or came twice.
    pub fn check_delivered(&self) {
        self.check_ends(Allowed::default());
    }

    /// The same, where some recipients may have ended otherwise, or never were.
    ///
    /// # Panics
    /// Naming the message and the recipient.
    pub fn check_ends(&self, allowed: Allowed) {
        for (id, sent) in self.model.sent.iter().filter(|(_, sent)| sent.promised) {
            // Sent while its clock was weeks behind: what is remembered of it is forgotten already.
            if sent.deadline_ms + tram_relay::limits::REMEMBER_MS < self.true_ms() {
                continue;
            }
            let kept = self.nodes[sent.origin].spool().kept_receipts(id).expect("read");
            for (address, ordinal) in sent.to.iter().zip(0..) {
                let states: BTreeSet<State> = kept.iter().filter(|(o, ..)| *o == ordinal).map(|(_, s, _)| *s).collect();
                let good = states.contains(&State::Delivered) || states.contains(&State::Status);
                let place = self.place_of(&address.node);
                let place = place.filter(|_| self.inboxes.contains(&address.inbox));
                let address = address.to_string();
                let wrote = self.model.took.contains(&(*id, address.clone()));
                let said = format!("{id} to {address}: the origin has receipts of {states:?}");
                if good {
                    assert!(place.is_some(), "{said}, and there is no such place");
                    assert!(wrote, "{said}, and the application has nothing");
                    continue;
                }
                let recalled = sent.taken_back && states.contains(&State::Recalled);
                // Of a name that nobody has, a recall that overtook the message leaves only the end of its lifetime.
                let nowhere = place.is_none()
                    && (states.contains(&State::Undeliverable)
                        || (sent.taken_back && states.contains(&State::Expired)));
                let expired = sent.deadline_ms < allowed.expired_before_ms && states.contains(&State::Expired);
                // The disk of the destination that had it is gone, and the origin gave up after the deadline, or took it back
                // and so did not send it again.
                let gone = place.is_some_and(|place| self.model.reborn.contains(&place));
                let given_up = sent.taken_back || sent.deadline_ms < allowed.expired_before_ms;
                let gone = gone && given_up && states.contains(&State::Arrived);
                // It was taken, the receipt that says so is lost with a relay's disk, and after a recall nobody asks again.
                if sent.taken_back && wrote && !self.model.reborn.is_empty() {
                    continue;
                }
                assert!(recalled || expired || nowhere || gone, "{said}");
                let Some(place) = place else { continue };
                // The receipt of a message with a short life may be lost with a relay's disk, and its origin not ask again.
                let lost = expired && !self.model.reborn.is_empty();
                let once =
                    lost || self.model.reborn.contains(&place) || !self.model.is_acknowledged(place, *id, &address);
                assert!(once, "{said}, and the application acknowledged it");
            }
        }
        // What was never promised, because the answer was lost, may have come; what came to nobody's order may not.
        let foreign: Vec<(MessageId, String)> =
            self.ledgers().into_iter().filter(|(id, _)| !self.model.sent.contains_key(id)).collect();
        assert!(foreign.is_empty(), "nobody sent {foreign:?}");
    }
}
