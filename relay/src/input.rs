//! What a node is told. Every input is a plain value; none holds payload beyond a reference-counted inline one.

use bytes::Bytes;
use tram_proto::envelope::{Body, Gist, Precedence};
use tram_proto::frame::{Frame, Offer, Range};
use tram_proto::id::{Digest, MessageId, NodeId};
use tram_proto::name::{Address, Inbox, NodeName, Role};
use tram_proto::pki::Alias;
use tram_proto::receipt::{NodeRecord, Receipt};
use tram_proto::row::{KeyRow, MessageRow, NeighborRow, NodeRow, ReceiptRow};
use tram_proto::statement::Signed;

/// One instance of a link: a new connection is a new id, never used again while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A row of the spool; the core counts them up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u64);

/// Former names of nodes, as CAs say in the bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aliases {
    /// Mail still finds its way by these.
    pub live: Vec<Alias>,
    /// Only receipts for what was sent in their time are still believed.
    pub ended: Vec<Alias>,
}

/// What a node with a CA knows of names, and of which of them it may say that they never were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Those that exist, or will when their token is used.
    pub known: Vec<(NodeName, NodeId)>,
    /// Only names below this one are this node's to judge; `None`: all.
    pub below: Option<NodeName>,
    /// Names below these are for those nodes to judge.
    pub elsewhere: Vec<(NodeName, NodeId)>,
}

/// Names whoever waits for an answer on the local sockets; chosen by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One application that takes messages from an inbox; chosen by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Consumer(pub u64);

/// Which side of the tree a neighbour is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The neighbour is an uplink; the number is its place in the order of preference, 0 first.
    Up(u8),
    /// The neighbour is a child.
    Down,
}

/// Who signed a statement, proven by the PKI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The node's id.
    pub node: NodeId,
    /// Its name by that certificate.
    pub name: NodeName,
    /// Its role by that certificate.
    pub role: Role,
}

/// What an application asks to be sent. Limits are checked by the core.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The operating system's user that asks; scope of idempotency keys.
    pub user: u32,
    /// What this user's messages may take of the spool until they have ended, in bytes; `None`: no limit of its own.
    pub quota_bytes: Option<u64>,
    /// 16 random bytes.
    pub nonce: [u8; 16],
    /// The inbox named for answers.
    pub sender: Option<Inbox>,
    /// The recipients.
    pub to: Vec<Address>,
    /// The class.
    pub precedence: Precedence,
    /// What was asked for, when the quota granted less.
    pub demoted_from: Option<Precedence>,
    /// Milliseconds; `None` is the default of 30 days.
    pub lifetime_ms: Option<u64>,
    /// Unix milliseconds; 0 is none.
    pub deliver_by_ms: u64,
    /// Classification label; empty is none.
    pub label: String,
    /// For people.
    pub subject: String,
    /// The file's name in full.
    pub file_name: String,
    /// MIME type.
    pub content_type: String,
    /// The application's own pairs.
    pub attributes: Vec<(String, String)>,
    /// The document's number in the sender's register.
    pub business_id: String,
    /// Empty: none.
    pub idempotency_key: String,
    /// W3C trace context; empty: none.
    pub traceparent: String,
    /// Length of the payload in bytes.
    pub payload_bytes: u64,
    /// Its root. A payload over the inline limit is already durable in the spool under this root.
    pub payload_root: Digest,
    /// The payload itself when it is at most the inline limit long.
    pub inline: Option<Bytes>,
}

/// A next hop as people name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HopName {
    /// Whichever uplink is in use.
    Uplink,
    /// A child.
    Child(NodeName),
}

impl std::fmt::Display for HopName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uplink => f.write_str("uplink"),
            Self::Child(name) => name.fmt(f),
        }
    }
}

impl std::str::FromStr for HopName {
    type Err = <NodeName as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "uplink" { Ok(Self::Uplink) } else { Ok(Self::Child(text.parse()?)) }
    }
}

/// What a person or an application asks of the node beside sending and taking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// End the recipients of a message sent here whose copy has not left this node.
    Cancel {
        /// Which.
        message: MessageId,
        /// Who asks; `None` may ask for everybody's.
        user: Option<u32>,
    },
    /// The same, and send a tombstone after the copies that left.
    Recall {
        /// Which.
        message: MessageId,
        /// Who asks; `None` may ask for everybody's.
        user: Option<u32>,
        /// 16 random bytes.
        nonce: [u8; 16],
    },
    /// Say what the application at this destination did with a message it took.
    SetStatus {
        /// Which.
        message: MessageId,
        /// Its envelope's body, read from the spool.
        body: Box<Body>,
        /// The recipients the caller speaks for: inboxes here.
        inboxes: Vec<Inbox>,
        /// The application's own.
        code: u32,
        /// For people, at most [`tram_proto::limits::REASON_BYTES`].
        text: String,
    },
    /// Offer nothing to a next hop until told otherwise, also after a restart. Receipts and control go on.
    Pause(HopName),
    /// Undo that.
    Resume(HopName),
    /// Offer at once what waits for a later time or a newer route, and again what the next hop has not taken: one message,
    /// or all.
    Retry(Option<MessageId>),
    /// Declare the present spool of a node lost: whoever handed mail on offers it again.
    Retire(NodeName),
    /// Let in a neighbour that was held as rolled back or cloned.
    Accept(NodeName),
}

/// What the spool holds of a payload, read by the link task when the offer came in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Ranges of units that are durable here, ascending and apart.
    pub units: Vec<Range>,
}

/// What happens to a node.
#[derive(Debug)]
pub enum Input {
    /// A message of the spool, at start.
    RestoredMessage {
        /// Its row.
        row: Row,
        /// What was remembered of it.
        message: MessageRow,
        /// What counts of its envelope.
        gist: Gist,
        /// What the spool holds of its payload, when it is not complete.
        held: Held,
    },
    /// A message this node is done with; remembered so that it is not taken twice.
    RestoredSettled {
        /// Its row.
        row: Row,
        /// What was remembered of it.
        message: MessageRow,
        /// Who sent it, by its envelope.
        origin: NodeId,
        /// Deadline by its envelope, Unix milliseconds.
        deadline_ms: u64,
    },
    /// A receipt on its way, at start.
    RestoredReceipt {
        /// Its row.
        row: Row,
        /// What was remembered of it.
        receipt: ReceiptRow,
    },
    /// A record of a node in this node's tree, at start.
    RestoredRecord {
        /// The record.
        record: NodeRecord,
        /// As it was signed.
        signed: Signed,
    },
    /// A neighbour as last met, at start.
    RestoredNeighbor {
        /// Who.
        node: NodeId,
        /// What was remembered.
        neighbor: NeighborRow,
    },
    /// An idempotency key in force, at start.
    RestoredKey {
        /// The user in whose scope it is.
        user: u32,
        /// The sender inbox in whose scope it is; empty: none was named.
        sender: String,
        /// The key.
        key: String,
        /// What it stands for.
        row: KeyRow,
    },
    /// The last sequence under a name, at start.
    RestoredSequence {
        /// A sender inbox, empty: none was named; or that, `>` and an address.
        sender: String,
        /// The last that was used.
        sequence: u64,
    },
    /// A next hop that was paused, at start.
    RestoredPause(HopName),
    /// Everything was restored; the node begins to act.
    Start {
        /// What the node remembers of itself, already raised for this start.
        node: NodeRow,
        /// Inboxes declared here.
        inboxes: Vec<Inbox>,
    },
    /// What the registry of this node's PKI knows. Only a node with a CA is told.
    Names(Names),
    /// The former names of nodes that the bundle holds by now.
    Aliases(Aliases),
    /// Room of the spool, what it keeps free already taken off.
    SpoolRoom {
        /// Free for messages, in bytes.
        free_bytes: u64,
        /// What messages may take in all, in bytes.
        total_bytes: u64,
    },
    /// A connection to a neighbour that the PKI has proven is open.
    LinkUp {
        /// The new instance.
        link: LinkId,
        /// Who is at the other end.
        peer: Signer,
        /// Above or below.
        side: Side,
    },
    /// The connection is gone.
    LinkDown {
        /// Which.
        link: LinkId,
    },
    /// A frame other than an offer, receipt or record.
    Frame {
        /// Where it came from.
        link: LinkId,
        /// The frame.
        frame: Frame,
    },
    /// An offer, read by the link task.
    Offer {
        /// Where it came from.
        link: LinkId,
        /// As it stands on the wire.
        offer: Box<Offer>,
        /// Its id.
        id: MessageId,
        /// Its body.
        body: Box<Body>,
        /// Whether the origin's signature holds: `None` when this node is not a recipient and did not look.
        trusted: Option<bool>,
        /// What the spool holds of its payload.
        held: Held,
    },
    /// A receipt, read by the link task.
    Receipt {
        /// Where it came from.
        link: LinkId,
        /// Its number among the link's offers.
        number: u64,
        /// What it states.
        receipt: Box<Receipt>,
        /// As it was signed.
        signed: Signed,
        /// Who signed it: `None` when the signature does not hold or this node is not its origin and did not look.
        signer: Option<Signer>,
    },
    /// A node record whose signature holds and is its own node's.
    Record {
        /// Where it came from.
        link: LinkId,
        /// What it states.
        record: NodeRecord,
        /// As it was signed.
        signed: Signed,
        /// Whether it goes to every neighbour.
        flood: bool,
    },
    /// A run was handed to the connection in full; its place is free.
    RunSent {
        /// Which link.
        link: LinkId,
        /// The run's class.
        precedence: Precedence,
        /// Units that the next runs should have at most: few where the line is slow, so that nothing waits long for one.
        run_units: u32,
    },
    /// Units of a payload are durable in the spool.
    UnitsDurable {
        /// The payload.
        root: Digest,
        /// Which.
        units: Range,
    },
    /// A commit is durable, and with it all before it.
    Persisted {
        /// Its number.
        commit: u64,
        /// The node records among its statements, signed, in order.
        records: Vec<Signed>,
    },
    /// An application submits a message.
    Submit {
        /// Whom to answer.
        ticket: Ticket,
        /// What it asks.
        submission: Box<Submission>,
    },
    /// An application takes messages: replaces its earlier credit.
    Take {
        /// Who.
        consumer: Consumer,
        /// From where.
        inbox: Inbox,
        /// How many more it will take now.
        credit: u32,
        /// How long a message is its own without an acknowledgement, in milliseconds.
        lease_ms: u64,
    },
    /// An application has a message safe.
    Took {
        /// Who.
        consumer: Consumer,
        /// Which.
        row: Row,
        /// Whom to answer once that is durable.
        ticket: Ticket,
    },
    /// The spool cannot give what an application was to get.
    Unreadable {
        /// Who.
        consumer: Consumer,
        /// Which.
        row: Row,
    },
    /// An application gives a message back, to itself or another.
    GaveBack {
        /// Who.
        consumer: Consumer,
        /// Which.
        row: Row,
    },
    /// An application needs longer.
    Renew {
        /// Who.
        consumer: Consumer,
        /// Which.
        row: Row,
    },
    /// An application is gone; what it held goes to others.
    Left {
        /// Who.
        consumer: Consumer,
    },
    /// Do what a person or an application asks.
    Command {
        /// Whom to answer.
        ticket: Ticket,
        /// What.
        command: Command,
    },
    /// Units of a payload came and were dropped, for the spool had no room.
    RunStopped {
        /// The payload.
        root: Digest,
    },
    /// Units of a complete payload were found damaged and are gone from the spool.
    UnitsLost {
        /// The payload.
        root: Digest,
        /// What the spool still holds of it.
        held: Held,
    },
    /// Declare an inbox.
    CreateInbox {
        /// Whom to answer.
        ticket: Ticket,
        /// Its name.
        inbox: Inbox,
    },
    /// Take an inbox's declaration back.
    RemoveInbox {
        /// Whom to answer.
        ticket: Ticket,
        /// Its name.
        inbox: Inbox,
    },
    /// Ask along the route where a message is.
    Trace {
        /// Whom to answer.
        ticket: Ticket,
        /// The message.
        message: MessageId,
    },
    /// A deadline passed, or may have.
    Timer,
}
