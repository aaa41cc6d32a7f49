//! What a node does. The daemon performs outputs in order and never decides.

use bytes::Bytes;
use tram_proto::envelope::Precedence;
use tram_proto::frame::{Frame, Recipient, TraceHop, Visit};
use tram_proto::id::{Digest, Incarnation, MessageId, NodeId};
use tram_proto::name::{Address, Inbox, NodeName};
use tram_proto::receipt::{Reason, Stamp, State};
use tram_proto::row::{KeyRow, MessageRow, NeighborRow, NodeRow, ReceiptRow};
use tram_proto::statement::{Kind, Signed};

use crate::input::{Consumer, HopName, LinkId, Row, Ticket};

/// A statement to keep: another's as it came, or our own, to be signed by the committer in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Keep these bytes.
    Signed(Signed),
    /// Sign these bytes, then keep them.
    ToSign(Kind, Bytes),
}

/// One change of the spool. All operations of a [`Output::Persist`] become durable together or not at all.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A new message. Takes a reference to its payload when that is not inline.
    PutMessage {
        /// Its row.
        row: Row,
        /// What to remember.
        message: MessageRow,
        /// The envelope.
        envelope: Statement,
        /// The payload, when it is small.
        inline: Option<Bytes>,
        /// The payload's root and length, when it is chunked.
        payload: Option<(Digest, u64)>,
    },
    /// The message changed.
    UpdateMessage {
        /// Its row.
        row: Row,
        /// What to remember now.
        message: MessageRow,
    },
    /// The node is done with the message but remembers it: envelope and row stay, the payload's reference goes.
    SettleMessage {
        /// Its row.
        row: Row,
        /// What to remember.
        message: MessageRow,
        /// Until when, Unix milliseconds.
        until_ms: u64,
    },
    /// A relay is done with the message and forgets it.
    DeleteMessage {
        /// Its row.
        row: Row,
    },
    /// A receipt to send on.
    PutReceipt {
        /// Its row.
        row: Row,
        /// Where it goes.
        receipt: ReceiptRow,
        /// The receipt.
        statement: Statement,
    },
    /// The next hop has the receipt.
    DeleteReceipt {
        /// Its row.
        row: Row,
    },
    /// A receipt that has come home: kept for `receipt show` and `export`, by message, ordinal and state.
    KeepReceipt {
        /// The message.
        message: MessageId,
        /// The recipient's index.
        ordinal: u32,
        /// The state it attests.
        state: State,
        /// The receipt.
        statement: Statement,
        /// Until when, Unix milliseconds.
        until_ms: u64,
    },
    /// The newest record of a node.
    PutRecord {
        /// The node.
        node: NodeId,
        /// The record.
        statement: Statement,
    },
    /// What the node remembers of itself.
    PutNode(NodeRow),
    /// What it remembers of a neighbour.
    PutNeighbor {
        /// Who.
        node: NodeId,
        /// What.
        neighbor: NeighborRow,
    },
    /// The last sequence under a name.
    PutSequence {
        /// A sender inbox, empty: none was named; or that, `>` and an address.
        sender: String,
        /// The last that was used.
        sequence: u64,
    },
    /// An idempotency key.
    PutKey {
        /// The user in whose scope it is.
        user: u32,
        /// The sender inbox in whose scope it is; empty: none was named.
        sender: String,
        /// The key.
        key: String,
        /// What it stands for.
        row: KeyRow,
    },
    /// Remember that a next hop is paused.
    PutPause(HopName),
    /// Forget that.
    DeletePause(HopName),
    /// Declare an inbox.
    PutInbox(Inbox),
    /// Forget an inbox.
    DeleteInbox(Inbox),
    /// Forget what was to be remembered until before this moment, Unix milliseconds.
    Prune(u64),
}

/// Why a submission is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefused {
    /// A field breaks a limit of the protocol.
    #[error("{0}")]
    Invalid(tram_proto::error::WireError),
    /// Labelled state secrets are not carried.
    #[error("label_not_permitted: Tram is not approved for documents labelled {0:?}; send them by the channel that is")]
    LabelNotPermitted(String),
    /// The key stands for another content.
    #[error("the idempotency key {key:?} already stands for message {message}, which had other content or recipients")]
    KeyTaken {
        /// The key.
        key: String,
        /// What it stands for.
        message: MessageId,
    },
    /// No room for this class now.
    #[error("the spool is full: {room_bytes} bytes are free for messages, {needed_bytes} are needed; try again later")]
    SpoolFull {
        /// What is free.
        room_bytes: u64,
        /// What it takes.
        needed_bytes: u64,
    },
    /// No room for this class: what is left is kept for the more urgent.
    #[error("the spool is {used_percent} % full, and {precedence} is taken up to {limit_percent} %; try again later")]
    Watermark {
        /// The class.
        precedence: Precedence,
        /// How full it is.
        used_percent: u64,
        /// How full it may be for that class.
        limit_percent: u64,
    },
    /// What waits for the next hop already takes its share.
    #[error(
        "what waits for {next_hop} takes {bytes} of the {limit_bytes} bytes a next hop may hold; try again when it is back"
    )]
    HopFull {
        /// The next hop's name.
        next_hop: String,
        /// What waits for it.
        bytes: u64,
        /// Its share.
        limit_bytes: u64,
    },
    /// The application's own messages already take its quota.
    #[error(
        "your messages under way take {bytes} of the {quota_bytes} bytes of your quota; try again when some have arrived"
    )]
    Quota {
        /// What they take.
        bytes: u64,
        /// The quota.
        quota_bytes: u64,
    },
    /// Too many messages at once.
    #[error("this node already holds {0} messages, its limit; try again later")]
    TooMany(usize),
    /// The node has not finished restoring.
    #[error("the node is still starting; try again")]
    Starting,
}

/// What a command changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Recipients ended, or messages that go now.
    pub changed: usize,
    /// Recipients whose copy a tombstone follows.
    pub following: usize,
    /// The tombstone.
    pub tombstone: Option<MessageId>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandRefused {
    /// It was not sent from here, or ended long ago.
    #[error("no message {0} was sent from this node, or it is no longer remembered")]
    UnknownMessage(MessageId),
    /// Another user sent it.
    #[error("message {0} was sent by another user; ask that user or an administrator")]
    NotYours(MessageId),
    /// There is nobody left to take it back from.
    #[error("message {0} has ended for every recipient; it is too late")]
    TooLate(MessageId),
    /// Every copy has left.
    #[error("every copy of message {0} has left this node; recall it instead")]
    AlreadyLeft(MessageId),
    /// It was not taken from an inbox here.
    #[error("no application here has acknowledged message {0}; receive it first")]
    NotDelivered(MessageId),
    /// A field breaks a limit of the protocol.
    #[error("{0}")]
    Invalid(tram_proto::error::WireError),
    /// No such neighbour.
    #[error("{0:?} is neither the uplink nor a child of this node")]
    UnknownHop(NodeName),
    /// No such node.
    #[error("no node {0:?} has announced itself to this node; run this at its parent or at the top")]
    UnknownNode(NodeName),
    /// It is not held.
    #[error("{0:?} is not held")]
    NotHeld(NodeName),
    /// No room for it.
    #[error("{0}")]
    NotSubmitted(SubmitRefused),
    /// The node has not finished restoring.
    #[error("the node is still starting; try again")]
    Starting,
}

/// Why the inboxes could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboxRefused {
    /// It is not there.
    #[error("there is no inbox {0:?} here")]
    Unknown(Inbox),
    /// It still holds messages.
    #[error("inbox {inbox:?} still holds {messages} messages; receive them first")]
    NotEmpty {
        /// Which.
        inbox: Inbox,
        /// How many.
        messages: usize,
    },
    /// There is no room for another.
    #[error("a node has at most {0} inboxes")]
    TooMany(usize),
}

/// Why a link is closed by the core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer speaks no version we do.
    #[error("no common protocol version: they speak {theirs_min} to {theirs_max}, this node {ours}")]
    Version {
        /// Their oldest.
        theirs_min: u32,
        /// Their newest.
        theirs_max: u32,
        /// Ours.
        ours: u32,
    },
    /// What `Hello` says is not what the certificate says.
    #[error("the peer says it is {said}, its certificate says {proven}")]
    NotWhoItSays {
        /// By `Hello`.
        said: NodeName,
        /// By the certificate.
        proven: NodeName,
    },
    /// A newer link of the same node took over.
    #[error("a newer link of the same node took over")]
    Replaced,
    /// Two machines claim one node id.
    #[error("two running machines claim node id {0}: a disk was cloned")]
    TwoBoots(NodeId),
    /// The spool of the peer is older than this node remembers.
    #[error(
        "the peer's spool went back in time (its counter {theirs} is not above {known}): restore keys and config with an empty spool"
    )]
    RolledBack {
        /// What it says.
        theirs: u64,
        /// What is remembered.
        known: u64,
    },
    /// The peer's spool was unmasked before, and nobody has looked since.
    #[error(
        "the peer is held: its spool was rolled back or its disk cloned. Empty its spool directory, or, if it is the only machine of its name, run `tram node accept {0}` here"
    )]
    Held(NodeName),
    /// A frame that has no place here.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// This node stops.
    #[error("the node is shutting down")]
    Shutdown,
}

impl CloseReason {
    /// The code in `Bye` and in the QUIC close.
    #[must_use]
    pub const fn code(&self) -> u32 {
        match self {
            Self::Shutdown => 0,
            Self::Version { .. } => 1,
            Self::NotWhoItSays { .. } => 2,
            Self::Replaced => 3,
            Self::TwoBoots(_) => 4,
            Self::RolledBack { .. } => 5,
            Self::Protocol(_) => 6,
            // 7 to 11 are the link's own.
            Self::Held(_) => 12,
        }
    }
}

/// Something an operator may want to know. Codes are stable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Both sides said hello.
    LinkUp {
        /// Which.
        link: LinkId,
        /// With whom.
        peer: NodeName,
    },
    /// A clock is off by more than the limit; nothing expires meanwhile.
    ClockOff {
        /// Against whom.
        peer: NodeName,
        /// This machine's, Unix milliseconds.
        ours_ms: u64,
        /// The neighbour's, Unix milliseconds.
        theirs_ms: u64,
    },
    /// A neighbour came back with an empty spool.
    NewIncarnation {
        /// Who.
        peer: NodeName,
        /// Its spool now.
        incarnation: Incarnation,
    },
    /// A neighbour's spool was rolled back or its disk cloned: its mail is held.
    Held {
        /// Who.
        peer: NodeName,
        /// How that showed.
        why: CloseReason,
    },
    /// A node was declared lost; origins offer again.
    Retired {
        /// Which.
        node: NodeId,
        /// By whom.
        by: NodeName,
    },
    /// A message for an inbox here cannot be read; it waits outside the inbox, and the next start moves it to quarantine.
    MessageDamaged {
        /// Which.
        message: MessageId,
    },
    /// A payload that was whole here has lost units to a damaged disk.
    PayloadDamaged {
        /// Of which message.
        message: MessageId,
        /// Bytes that are missing.
        missing_bytes: u64,
    },
    /// A message passed too many hops and waits for a newer route.
    HopLimit {
        /// Which.
        message: MessageId,
    },
    /// Half the time that was set for a message has passed, or all of it, and it is still not there. Said where it
    /// was submitted and where it waits; once more after a restart.
    Late {
        /// Which.
        message: MessageId,
        /// When it has to be there, Unix milliseconds; not after `now_ms`: the time has passed.
        by_ms: u64,
        /// When this was found, Unix milliseconds.
        now_ms: u64,
        /// How many recipients of this copy it has not reached.
        recipients: usize,
    },
    /// A message was taken with a lower precedence than was asked for: the quota granted no more.
    Demoted {
        /// Which.
        message: MessageId,
        /// The operating system's user that sent it.
        user: u32,
        /// What was asked for.
        asked: Precedence,
        /// What it has.
        granted: Precedence,
    },
    /// A recipient of a message sent here came to a state.
    Progress {
        /// Which message.
        message: MessageId,
        /// Which recipient.
        address: Address,
        /// How far.
        state: State,
        /// Why, if negative.
        reason: Reason,
        /// When, on the clock of whoever said so, Unix milliseconds.
        at_ms: u64,
        /// The message's class, and when it was submitted here, Unix milliseconds; none once it has ended.
        submitted: Option<(Precedence, u64)>,
    },
    /// A receipt was not believed.
    ReceiptNotTrusted {
        /// Of which message.
        message: MessageId,
        /// Which neighbour brought it.
        from: NodeName,
    },
    /// An envelope was not believed.
    EnvelopeNotTrusted {
        /// Which message.
        message: MessageId,
        /// Which neighbour brought it.
        from: NodeName,
    },
    /// The next hop said never.
    OfferRefused {
        /// Which message.
        message: MessageId,
        /// Who.
        by: NodeName,
        /// Why.
        reason: Reason,
    },
}

/// What the daemon has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Write a frame on the control stream.
    Send {
        /// Where.
        link: LinkId,
        /// What.
        frame: Frame,
    },
    /// Write an offer on its class's stream, after the signer's chain if that has not gone over this stream: load the
    /// envelope and the inline payload from the row.
    SendOffer {
        /// Where.
        link: LinkId,
        /// The number it gets.
        number: u64,
        /// The row to load.
        row: Row,
        /// The stream.
        precedence: Precedence,
        /// The routing header.
        visit: Visit,
        /// The routing header.
        recipients: Vec<Recipient>,
        /// The routing header.
        stamps: Vec<Stamp>,
    },
    /// Write a receipt on the receipts stream, after the signer's chain if that has not gone over this stream.
    SendReceipt {
        /// Where.
        link: LinkId,
        /// The number it gets.
        number: u64,
        /// The row to load.
        row: Row,
    },
    /// Write a record on the control stream, after the signer's chain if that has not gone over this stream.
    SendRecord {
        /// Where.
        link: LinkId,
        /// The record.
        record: Signed,
        /// Whether it goes to every neighbour.
        flood: bool,
    },
    /// Open a transfer stream and copy units from the spool; answer with `RunSent` when the last byte is handed over.
    SendRun {
        /// Where.
        link: LinkId,
        /// The payload.
        root: Digest,
        /// Its length in bytes.
        payload_bytes: u64,
        /// The first unit.
        first: u64,
        /// How many.
        count: u32,
        /// The stream's priority.
        precedence: Precedence,
    },
    /// Commit; answer with `Persisted`. Commits are durable in the order of their numbers.
    Persist {
        /// Counts up from 1.
        commit: u64,
        /// The changes.
        ops: Vec<Op>,
        /// There is a flash message in it: it waits for no more company.
        urgent: bool,
    },
    /// The submission is durable.
    Submitted {
        /// Who asked.
        ticket: Ticket,
        /// The message's id.
        id: MessageId,
        /// The precedence that was asked for, when the message has a lower one.
        demoted_from: Option<Precedence>,
    },
    /// The submission is not taken.
    NotSubmitted {
        /// Who asked.
        ticket: Ticket,
        /// Why.
        why: SubmitRefused,
    },
    /// Hand a message to an application: load envelope and payload from the row.
    Deliver {
        /// To whom.
        consumer: Consumer,
        /// The row to load.
        row: Row,
        /// Its id.
        id: MessageId,
        /// For which recipient.
        address: Address,
        /// Whether it was handed out before.
        redelivered: bool,
    },
    /// The application's acknowledgement is durable, or the message was not its to acknowledge.
    TookDone {
        /// Who asked.
        ticket: Ticket,
        /// False: the lease had ended and another may have it.
        held: bool,
    },
    /// What a command changed is durable.
    Commanded {
        /// Who asked.
        ticket: Ticket,
        /// How it went.
        result: Result<Outcome, CommandRefused>,
    },
    /// The change of inboxes is durable.
    InboxDone {
        /// Who asked.
        ticket: Ticket,
        /// How it went.
        result: Result<(), InboxRefused>,
    },
    /// What nodes along the route know of a message; comes once or more, the last one says so.
    Traced {
        /// Who asked.
        ticket: Ticket,
        /// In the order of the way.
        hops: Vec<TraceHop>,
        /// No more will follow.
        last: bool,
    },
    /// Say why in `Bye`, then close the connection.
    Close {
        /// Which.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
    /// For logs, metrics and watchers.
    Event(Event),
}
