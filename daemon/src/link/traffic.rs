//! What one link carried, by class. Counts only what is of use: envelopes with what they hold, and units of payload,
//! each once; what QUIC adds, and sends again, is in the counters of its connection.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tram_proto::envelope::Precedence;

/// Bytes since the link began.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: [AtomicU64; Precedence::ALL.len()],
    received: [AtomicU64; Precedence::ALL.len()],
}

impl Traffic {
    /// So many were handed to QUIC.
    pub(crate) fn sent(&self, class: Precedence, bytes: usize) {
        self.sent[class as usize].fetch_add(bytes as u64, Relaxed);
    }

    /// So many came and were what they should be.
    pub(crate) fn received(&self, class: Precedence, bytes: usize) {
        self.received[class as usize].fetch_add(bytes as u64, Relaxed);
    }

    /// Sent and received of a class.
    #[must_use]
    pub fn of(&self, class: Precedence) -> (u64, u64) {
        (self.sent[class as usize].load(Relaxed), self.received[class as usize].load(Relaxed))
    }
}
