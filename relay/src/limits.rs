//! Limits of one node's core, each with its reason. Those of the protocol stand in `tram_proto::limits`.

use tram_proto::envelope::Precedence;

/// Messages of the spool that are not settled. Each takes about 0.7 KB of memory: a million that wait, 0.7 GB.
pub const MESSAGES: usize = 1_000_000;
/// Settled messages that are remembered so that nothing is taken twice. Each takes about 140 bytes of memory. They are
/// never evicted before their time: a full memory refuses new messages.
pub const SETTLED: usize = 1_000_000;
/// Released messages a relay remembers, the oldest forgotten first. Forgetting one costs an envelope, never a document.
pub const RELEASED: usize = 16_384;
/// Node records: a tree of 1 + 34 + 3,321 with room to grow.
pub const RECORDS: usize = 32_768;
/// Former names of nodes, those that are still understood first: each name of a full tree once.
pub const ALIASES: usize = 4096;
/// Inboxes of one node.
pub const INBOXES: usize = tram_proto::limits::RECORD_INBOXES;
/// Recalls a relay remembers, the oldest forgotten first. Forgetting one costs bandwidth: the destination remembers.
pub const TOMBSTONES: usize = 16_384;
/// Pairs of sender inbox and address whose sequence is counted.
pub const SEQUENCES: usize = 1_000_000;
/// Applications that take messages at once.
pub const CONSUMERS: usize = 1024;
/// Idempotency keys in force.
pub const KEYS: usize = 1_000_000;

/// How full the spool may be, in percent, for a new message of each class; acknowledgements and receipts have the rest.
#[must_use]
pub const fn watermark_percent(precedence: Precedence) -> u64 {
    match precedence {
        Precedence::Bulk => 80,
        Precedence::Routine => 85,
        Precedence::Priority => 92,
        Precedence::Immediate => 95,
        Precedence::Flash => 98,
    }
}
/// What waits for one child takes at most one part in so many of the spool, and so does what one child brought and has
/// not gone on: one office that is off, or floods, leaves room for the others.
pub const CHILD_SHARE: u64 = 4;
/// What waits for the uplink takes at most one part in so many: the other part is for what comes down.
pub const UPLINK_SHARE: u64 = 2;
/// A recipient that the next hop put off is offered again so much later, in milliseconds, half of it spread by id.
pub const PUT_OFF_MS: u64 = 30 * 1000;

/// Offers of one class and link, or receipts of one link, that are sent and not yet acknowledged.
pub const OUTSTANDING: usize = 1024;
/// Inline payload of one class and link that is sent and not yet acknowledged, in bytes.
pub const INLINE_OUTSTANDING_BYTES: u64 = 1024 * 1024;
/// Runs of one link and class under way at once: one that is written, and the next.
pub const RUNS: usize = 2;
/// Units of a run until the daemon has said what the line carries: 1 MiB.
pub const FIRST_RUN_UNITS: u32 = 4;
/// Offers and receipts of one link that may overtake its hello.
pub const EARLY: usize = 64;
/// Offers of one link that were put off for want of room. Their sender keeps them; we only remember the numbers.
pub const PUT_OFF: usize = OUTSTANDING;
/// Receipts kept in mind, a few KB each, by whoever is not known to bear the name that he speaks for, the oldest
/// forgotten first. Forgetting one costs a question: the origin offers again, and hears it once more.
pub const DOUBTED: usize = 64;
/// Questions about messages under way at once.
pub const ASKS: usize = 1024;

/// A clock further than this from the uplink's, or that jumped further, is not trusted: 5 minutes, in milliseconds.
pub const CLOCK_TRUST_MS: u64 = 5 * 60 * 1000;
/// A difference to the uplink's clock up to this is not corrected, in milliseconds: a measurement over a bad line errs as
/// much, and stamps of nodes whose clocks agree would get out of order.
pub const CLOCK_NOISE_MS: u64 = 1000;
/// Pause between pings that measure the clock difference, in milliseconds.
pub const PING_MS: u64 = 60 * 1000;
/// A payload that made no progress for so long is wanted again, in milliseconds. A run of 4 MiB takes 17 s at 2 Mbit/s.
pub const STALLED_MS: u64 = 60 * 1000;
/// The same where another neighbour offers it too: that one is asked then, at the cost of some units that come twice.
pub const SWITCH_MS: u64 = 10 * 1000;
/// Pause between two looks for payloads that make no progress, in milliseconds.
pub const STALL_LOOK_MS: u64 = 5 * 1000;
/// An answer to a question is awaited for so long, in milliseconds.
pub const ASK_MS: u64 = 10 * 1000;
/// The origin offers again so long after a next hop took custody, in milliseconds: an hour, four hours, then daily; the
/// second half of each pause is spread by message, so that a cut line does not bring everything back at once.
pub const OFFER_AGAIN_MS: [u64; 3] = [3_600_000, 4 * 3_600_000, 24 * 3_600_000];
/// After the deadline, the origin waits so long for word from the destination, in milliseconds.
pub const GRACE_MS: u64 = 3_600_000;
/// Settled messages, receipts and keys are remembered so long past the deadline: 30 days, in milliseconds.
pub const REMEMBER_MS: u64 = 30 * 24 * 3_600_000;
/// Pause between two looks for what may be forgotten, in milliseconds.
pub const PRUNE_MS: u64 = 3_600_000;
/// A lease an application asks for is held within these bounds, in milliseconds.
pub const LEASE_MS: std::ops::RangeInclusive<u64> = 1_000..=24 * 3_600_000;
