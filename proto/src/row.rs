//! Rows of the spool: what a node remembers of messages, receipts, neighbours and itself. At rest, never on a link.
//!
//! The relay core says what changes, the daemon's spool keeps the bytes; this module is the one place where their form
//! is written down. Fields may be added; none is renumbered.

use bytes::Bytes;

use crate::envelope::Precedence;
use crate::error::WireError;
use crate::fields::Fields;
use crate::frame::{Recipient, Visit};
use crate::id::{Digest, Incarnation, MessageId, NodeId};
use crate::limits;
use crate::name::NodeName;
use crate::receipt::{Ordinal, Reason, Stamp, State};
use crate::wire::row as wire;

/// What this node still owes a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// A copy goes on towards it.
    Forward = 1,
    /// The next hop has custody; only the origin remembers.
    Handed = 2,
    /// It waits in an inbox of this node.
    Inbox = 3,
    /// Nothing more.
    Ended = 4,
}

impl Phase {
    fn from_number(number: u32) -> Result<Self, WireError> {
        [Self::Forward, Self::Handed, Self::Inbox, Self::Ended]
            .into_iter()
            .find(|p| *p as u32 == number)
            .ok_or(WireError::Unknown { what: "phase", value: number.into() })
    }
}

/// One recipient of a message, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientRow {
    /// Which one, and its node if that is known.
    pub recipient: Recipient,
    /// What is still to do.
    pub phase: Phase,
    /// How far it came, as known here.
    pub state: State,
    /// Why it ended, if negatively.
    pub reason: Reason,
    /// More for people.
    pub detail: String,
    /// When `state` was reached, on the clock of whoever said so, Unix milliseconds.
    pub at_ms: u64,
}

/// A message in this node's spool. The envelope itself stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRow {
    /// Its id.
    pub id: MessageId,
    /// The newest visit of it here.
    pub visit: Visit,
    /// The neighbour it came from; `None`: submitted here.
    pub from: Option<NodeId>,
    /// When it came, Unix milliseconds.
    pub received_ms: u64,
    /// The recipients of this copy.
    pub recipients: Vec<RecipientRow>,
    /// The way to here, without this node.
    pub stamps: Vec<Stamp>,
    /// The whole payload is durable here.
    pub complete: bool,
    /// Origin only: when a next hop last took custody; 0 never.
    pub handed_ms: u64,
    /// Origin only: which neighbour that was.
    pub handed_to: Option<NodeId>,
    /// Origin only: the operating system's user that submitted it.
    pub user: Option<u32>,
    /// The message that this one, a tombstone, takes back.
    pub recalls: Option<MessageId>,
    /// Origin only: the precedence that was asked for, when the quota granted less.
    pub demoted_from: Option<Precedence>,
}

/// A receipt on its way to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptRow {
    /// The message it speaks of.
    pub message: MessageId,
    /// Where it goes.
    pub origin: NodeId,
    /// When nobody needs it any more, Unix milliseconds.
    pub until_ms: u64,
}

/// What a node remembers of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRow {
    /// This life of the spool.
    pub incarnation: Incarnation,
    /// Raised at each start; the counter in `Hello`.
    pub starts: u64,
    /// Counter of its newest record.
    pub record: u64,
    /// The latest time it saw, Unix milliseconds: an earlier clock is wrong.
    pub clock_ms: u64,
}

/// What a node remembers of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborRow {
    /// The life of its spool, as last met.
    pub incarnation: Incarnation,
    /// Its counter, as last met.
    pub counter: u64,
    /// This life was unmasked as rolled back or cloned: it gets no link until an admin has looked.
    pub held: bool,
}

/// What an idempotency key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRow {
    /// The message that was submitted under it.
    pub message: MessageId,
    /// Digest of what was submitted, to tell a repetition from another content.
    pub content: Digest,
    /// When the key is free again, Unix milliseconds.
    pub until_ms: u64,
}

fn id_bytes(id: Option<NodeId>) -> Bytes {
    id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0))
}

fn id_from(bytes: &[u8]) -> Result<Option<NodeId>, WireError> {
    if bytes.is_empty() { Ok(None) } else { Ok(Some(NodeId::from_slice(bytes)?)) }
}

macro_rules! at_rest {
    ($name:ident, $wire:ident, $what:literal) => {
        impl $name {
            /// The bytes at rest.
            #[must_use]
            pub fn encode(&self) -> Bytes {
                crate::wire::encode(&self.to_wire())
            }

            /// Reads the bytes at rest.
            ///
            /// # Errors
            /// [`WireError`] when they are damaged or of a newer release.
            pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
                let w: wire::$wire = crate::wire::decode($what, Bytes::copy_from_slice(bytes))?;
                Self::from_wire(w)
            }
        }
    };
}

at_rest!(ReceiptRow, Receipt, "receipt row");
at_rest!(NodeRow, Node, "node row");
at_rest!(NeighborRow, Neighbor, "neighbour row");
at_rest!(KeyRow, Key, "key row");

impl RecipientRow {
    fn to_wire(&self) -> wire::Recipient {
        wire::Recipient {
            list: self.recipient.ordinal.list_bytes(),
            ordinal: self.recipient.ordinal.index,
            node: id_bytes(self.recipient.node),
            phase: self.phase as u32,
            state: self.state as u32,
            reason: self.reason as u32,
            detail: self.detail.clone(),
            at_ms: self.at_ms,
        }
    }

    /// Reads one in place.
    fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let (mut list, mut index, mut node, mut detail) = (&[][..], 0, &[][..], "");
        let (mut phase, mut state, mut reason, mut at_ms) = (0, 0, 0, 0);
        for field in Fields::of("recipient of a message row", bytes) {
            let (number, value) = field?;
            match number {
                1 => list = value.bytes()?,
                2 => index = value.number_32()?,
                3 => node = value.bytes()?,
                4 => phase = value.number_32()?,
                5 => state = value.number_32()?,
                6 => reason = value.number_32()?,
                7 => detail = value.text()?,
                8 => at_ms = value.number()?,
                _ => {}
            }
        }
        Ok(Self {
            recipient: Recipient { ordinal: Ordinal::from_parts(list, index)?, node: id_from(node)? },
            phase: Phase::from_number(phase)?,
            state: State::from_number(state)?,
            reason: Reason::from_number(reason),
            detail: detail.to_owned(),
            at_ms,
        })
    }
}

impl MessageRow {
    fn to_wire(&self) -> wire::Message {
        wire::Message {
            id: Bytes::copy_from_slice(&self.id.0),
            attempt: self.visit.attempt,
            hops: self.visit.hops,
            from: id_bytes(self.from),
            received_ms: self.received_ms,
            recipients: self.recipients.iter().map(RecipientRow::to_wire).collect(),
            stamps: self.stamps.iter().map(Stamp::to_wire).collect(),
            complete: self.complete,
            offered_ms: self.handed_ms,
            offered_to: id_bytes(self.handed_to),
            user: self.user,
            recalls: self.recalls.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0)),
            demoted_from: self.demoted_from.map(|precedence| precedence as u32),
        }
    }

    /// The bytes at rest.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&self.to_wire())
    }

    /// Reads the bytes at rest.
    ///
    /// # Errors
    /// [`WireError`] when they are damaged or of a newer release.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Self::decode_after(bytes, &mut Vec::new())
    }

    /// Reads the bytes at rest, in place: a start reads a million of them, and most are alike. `names` are those of the
    /// stamps of the row read before, which share their memory with the same ones in this row; then they are this row's.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_after(bytes: &[u8], names: &mut Vec<NodeName>) -> Result<Self, WireError> {
        let (mut id, mut from, mut handed_to, mut recalls) = (&[][..], &[][..], &[][..], &[][..]);
        let mut row = Self {
            id: MessageId([0; 32]),
            visit: Visit::default(),
            from: None,
            received_ms: 0,
            // Most have one recipient, and many one stamp.
            recipients: Vec::with_capacity(1),
            stamps: Vec::with_capacity(1),
            complete: false,
            handed_ms: 0,
            handed_to: None,
            user: None,
            recalls: None,
            demoted_from: None,
        };
        for field in Fields::of("message row", bytes) {
            let (number, value) = field?;
            match number {
                1 => id = value.bytes()?,
                2 => row.visit.attempt = value.number_32()?,
                3 => row.visit.hops = value.number_32()?,
                4 => from = value.bytes()?,
                5 => row.received_ms = value.number()?,
                6 => row.recipients.push(RecipientRow::read(value.bytes()?)?),
                7 => {
                    let stamp = Stamp::read(value.bytes()?, names.get(row.stamps.len()))?;
                    names.truncate(limits::HOPS);
                    match names.get_mut(row.stamps.len()) {
                        Some(name) => name.clone_from(&stamp.name),
                        None => names.push(stamp.name.clone()),
                    }
                    row.stamps.push(stamp);
                }
                8 => row.complete = value.number()? != 0,
                9 => row.handed_ms = value.number()?,
                10 => handed_to = value.bytes()?,
                11 => row.user = Some(value.number_32()?),
                12 => recalls = value.bytes()?,
                13 => row.demoted_from = Some(Precedence::from_number(value.number_32()?)?),
                _ => {}
            }
        }
        WireError::limit("list of stamps", row.stamps.len(), limits::HOPS)?;
        row.id = MessageId::from_slice(id)?;
        (row.from, row.handed_to) = (id_from(from)?, id_from(handed_to)?);
        row.recalls = if recalls.is_empty() { None } else { Some(MessageId::from_slice(recalls)?) };
        // A node may keep a million of these in memory.
        row.recipients.shrink_to_fit();
        row.stamps.shrink_to_fit();
        Ok(row)
    }
}

impl ReceiptRow {
    fn to_wire(self) -> wire::Receipt {
        wire::Receipt {
            message: Bytes::copy_from_slice(&self.message.0),
            origin: Bytes::copy_from_slice(&self.origin.0),
            until_ms: self.until_ms,
        }
    }

    fn from_wire(w: wire::Receipt) -> Result<Self, WireError> {
        Ok(Self {
            message: MessageId::from_slice(&w.message)?,
            origin: NodeId::from_slice(&w.origin)?,
            until_ms: w.until_ms,
        })
    }
}

impl NodeRow {
    fn to_wire(self) -> wire::Node {
        wire::Node {
            incarnation: Bytes::copy_from_slice(&self.incarnation.0),
            starts: self.starts,
            record: self.record,
            clock_ms: self.clock_ms,
        }
    }

    fn from_wire(w: wire::Node) -> Result<Self, WireError> {
        let incarnation = Incarnation::from_slice(&w.incarnation)?;
        Ok(Self { incarnation, starts: w.starts, record: w.record, clock_ms: w.clock_ms })
    }
}

impl NeighborRow {
    fn to_wire(self) -> wire::Neighbor {
        wire::Neighbor {
            incarnation: Bytes::copy_from_slice(&self.incarnation.0),
            counter: self.counter,
            held: self.held,
        }
    }

    fn from_wire(w: wire::Neighbor) -> Result<Self, WireError> {
        Ok(Self { incarnation: Incarnation::from_slice(&w.incarnation)?, counter: w.counter, held: w.held })
    }
}

impl KeyRow {
    fn to_wire(self) -> wire::Key {
        wire::Key {
            message: Bytes::copy_from_slice(&self.message.0),
            content: Bytes::copy_from_slice(&self.content.0),
            until_ms: self.until_ms,
        }
    }

    fn from_wire(w: wire::Key) -> Result<Self, WireError> {
        Ok(Self {
            message: MessageId::from_slice(&w.message)?,
            content: Digest::from_slice(&w.content)?,
            until_ms: w.until_ms,
        })
    }
}

#[cfg(test)]
mod tests;
