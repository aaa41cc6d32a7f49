//! Recalls this node knows of: copies of what was taken back stop where they meet one.
//!
//! Only saves bandwidth: what became of a recipient is said by its destination, which remembers by itself. So the oldest
//! may be forgotten. DESIGN §5.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tram_proto::id::{MessageId, NodeId};
use tram_proto::receipt::Ordinal;

use crate::limits;

#[derive(Debug)]
struct Tombstone {
    origin: NodeId,
    ordinals: BTreeSet<Ordinal>,
}

#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    by_target: BTreeMap<MessageId, Tombstone>,
    order: VecDeque<MessageId>,
}

impl Tombstones {
    /// Remembers that these recipients of a message are taken back by its origin.
    pub(crate) fn put(&mut self, target: MessageId, origin: NodeId, ordinals: impl IntoIterator<Item = Ordinal>) {
        let known = self.by_target.entry(target).or_insert_with(|| {
            self.order.push_back(target);
            Tombstone { origin, ordinals: BTreeSet::new() }
        });
        if known.origin == origin {
            known.ordinals.extend(ordinals);
        }
        if self.order.len() > limits::TOMBSTONES
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_target.remove(&oldest);
        }
    }

    /// Whether a recipient of a message of that origin was taken back.
    pub(crate) fn covers(&self, target: MessageId, origin: NodeId, ordinal: Ordinal) -> bool {
        self.by_target.get(&target).is_some_and(|t| t.origin == origin && t.ordinals.contains(&ordinal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_origin_takes_back_and_only_whom_it_names() {
        let (message, origin) = (MessageId([1; 32]), NodeId([1; 16]));
        let mut tombstones = Tombstones::default();
        tombstones.put(message, origin, [Ordinal::body(0)]);
        tombstones.put(message, NodeId([2; 16]), [Ordinal::body(1)]);
        assert!(tombstones.covers(message, origin, Ordinal::body(0)));
        assert!(!tombstones.covers(message, origin, Ordinal::body(1)));
        assert!(!tombstones.covers(message, NodeId([2; 16]), Ordinal::body(0)));
    }
}
