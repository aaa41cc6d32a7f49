//! What a node looks like at one moment, for status commands and metrics. Plain values, no references into the core.

use tram_proto::envelope::Precedence;
use tram_proto::id::{Incarnation, MessageId, NodeId};
use tram_proto::name::{Inbox, NodeName, Role};

use crate::input::{HopName, LinkId, Side};

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkView {
    /// The instance.
    pub link: LinkId,
    /// Who is at the other end.
    pub peer: NodeName,
    /// Its id.
    pub peer_id: NodeId,
    /// Its role.
    pub role: Role,
    /// Above or below.
    pub side: Side,
    /// Both sides said hello.
    pub up: bool,
    /// This uplink carries what goes up.
    pub active: bool,
    /// The neighbour's clock minus ours in milliseconds, once measured.
    pub clock_offset_ms: Option<i64>,
    /// Offers and receipts sent and not yet acknowledged.
    pub unacknowledged: usize,
}

/// What waits for one next hop in one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueView {
    /// The neighbour's name, `uplink`, or `inbox NAME`.
    pub next_hop: String,
    /// The class.
    pub precedence: Precedence,
    /// Messages.
    pub messages: usize,
    /// Their payload in bytes.
    pub bytes: u64,
    /// When the oldest came, Unix milliseconds.
    pub oldest_ms: u64,
}

/// A node in this node's tree, or one that its registry knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// It announced itself; otherwise only the registry knows it.
    pub announced: bool,
    /// The uplink it says it uses.
    pub active: Option<NodeId>,
    /// Its inboxes.
    pub inboxes: Vec<Inbox>,
    /// When it said so, Unix milliseconds.
    pub at_ms: u64,
}

/// The node as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// The life of its spool.
    pub incarnation: Incarnation,
    /// Its links.
    pub links: Vec<LinkView>,
    /// What waits.
    pub queues: Vec<QueueView>,
    /// Its tree.
    pub nodes: Vec<NodeView>,
    /// Its inboxes, with how many messages wait in each.
    pub inboxes: Vec<(Inbox, usize)>,
    /// Messages in the spool that are not settled.
    pub messages: usize,
    /// Receipts on their way.
    pub receipts: usize,
    /// Free room for messages in bytes.
    pub spool_room_bytes: u64,
    /// What messages may take in all, in bytes.
    pub spool_total_bytes: u64,
    /// Neighbours that get no link until an admin has looked.
    pub held: Vec<String>,
    /// Messages whose time to be there has passed, as far as this node knows.
    pub late: Vec<MessageId>,
    /// Next hops that are paused.
    pub paused: Vec<HopName>,
    /// The clock may be trusted.
    pub clock_trusted: bool,
}
