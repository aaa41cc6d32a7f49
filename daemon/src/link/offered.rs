//! The payloads a peer has offered on one link, so that a run is measured by the offer it answers.
//!
//! A run names only a root. Length and precedence come from the offer; a run of a payload that was not offered on the
//! same link is refused. Ends with the link, for offers count only on the link instance that made them.

use std::collections::{HashMap, VecDeque};

use tram_proto::envelope::{Body, Precedence};
use tram_proto::id::Digest;
use tram_proto::manifest::Layout;

/// Payloads remembered of one link, the oldest forgotten first: the core lets 1,024 offers of each of five classes
/// wait, and this leaves room for those it has put off.
const PAYLOADS: usize = 16_384;

#[derive(Debug, Default)]
pub(crate) struct Offered {
    payloads: HashMap<Digest, (Layout, Precedence)>,
    order: VecDeque<Digest>,
}

impl Offered {
    pub(crate) fn note(&mut self, body: &Body, layout: Layout) {
        let root = body.payload_root;
        // The latest offer counts: one that lied about the length must not spoil the one that tells the truth.
        if self.payloads.insert(root, (layout, body.precedence)).is_none() {
            self.order.push_back(root);
        }
        if self.order.len() > PAYLOADS
            && let Some(oldest) = self.order.pop_front()
        {
            self.payloads.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, root: Digest) -> Option<(Layout, Precedence)> {
        self.payloads.get(&root).copied()
    }
}
