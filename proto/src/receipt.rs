//! Receipts and node records: what a node states about a message, and about itself.
//!
//! Both are signed statements ([`crate::statement`]); these are their contents. A receipt speaks of one recipient, and
//! only the node that may end that recipient says so (DESIGN §5).

use std::fmt;

use bytes::Bytes;

use crate::error::WireError;
use crate::fields::Fields;
use crate::id::{Digest, Incarnation, MessageId, NodeId};
use crate::limits;
use crate::name::{Address, Inbox, NodeName};
use crate::wire::statement as wire;

/// How far a recipient of a message has come. Later in this list overrides earlier; see [`State::overrides`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Durable in the origin's spool.
    Submitted = 1,
    /// In custody of a relay.
    Relayed = 2,
    /// Durable at the destination.
    Arrived = 3,
    /// Acknowledged by the application.
    Delivered = 4,
    /// The application said more: a code and a text.
    Status = 5,
    /// Not taken.
    Refused = 10,
    /// Its lifetime ended first.
    Expired = 11,
    /// There is no such place.
    Undeliverable = 12,
    /// Its sender took it back in time.
    Recalled = 13,
}

impl State {
    const ALL: [Self; 9] = [
        Self::Submitted,
        Self::Relayed,
        Self::Arrived,
        Self::Delivered,
        Self::Status,
        Self::Refused,
        Self::Expired,
        Self::Undeliverable,
        Self::Recalled,
    ];

    /// The word used in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Relayed => "relayed",
            Self::Arrived => "arrived",
            Self::Delivered => "delivered",
            Self::Status => "status",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Undeliverable => "undeliverable",
            Self::Recalled => "recalled",
        }
    }

    /// Reads the wire's number.
    ///
    /// # Errors
    /// [`WireError::Unknown`].
    pub fn from_number(number: u32) -> Result<Self, WireError> {
        Self::ALL
            .into_iter()
            .find(|s| *s as u32 == number)
            .ok_or(WireError::Unknown { what: "state", value: number.into() })
    }

    /// A negative end.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self as u32 >= Self::Refused as u32
    }

    /// Nothing more is owed to this recipient.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Delivered | Self::Status) || self.is_negative()
    }

    /// Whether learning `self` changes what is known as `before`. A positive end is never undone by a negative one, but
    /// a late `arrived` does undo the origin's own negative guess.
    #[must_use]
    pub const fn overrides(self, before: Self) -> bool {
        match (self.is_negative(), before.is_negative()) {
            (false, false) => self as u32 > before as u32,
            (true, false) => !matches!(before, Self::Delivered | Self::Status),
            (false, true) => matches!(self, Self::Arrived | Self::Delivered | Self::Status),
            (true, true) => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a recipient ended negatively, or an offer was put off. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Reason {
    /// None needed.
    #[default]
    None = 0,
    /// The destination declares no inbox of that name.
    NoSuchInbox = 1,
    /// No node of that name was ever admitted.
    NoSuchNode = 2,
    /// The lifetime ended.
    LifetimeEnded = 3,
    /// The label may not be carried.
    LabelNotPermitted = 4,
    /// The spool has no room for it now.
    SpoolFull = 5,
    /// The envelope's signature or signer was not accepted.
    NotTrusted = 6,
    /// More hops than a tree can have.
    HopLimit = 7,
    /// The recall came after the application had it.
    TooLate = 8,
    /// The hop it would wait for holds its share of the spool already.
    HopFull = 9,
}

impl Reason {
    const ALL: [Self; 10] = [
        Self::None,
        Self::NoSuchInbox,
        Self::NoSuchNode,
        Self::LifetimeEnded,
        Self::LabelNotPermitted,
        Self::SpoolFull,
        Self::NotTrusted,
        Self::HopLimit,
        Self::TooLate,
        Self::HopFull,
    ];

    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::NoSuchInbox => "no_such_inbox",
            Self::NoSuchNode => "no_such_node",
            Self::LifetimeEnded => "lifetime_ended",
            Self::LabelNotPermitted => "label_not_permitted",
            Self::SpoolFull => "spool_full",
            Self::NotTrusted => "not_trusted",
            Self::HopLimit => "hop_limit",
            Self::TooLate => "too_late",
            Self::HopFull => "hop_full",
        }
    }

    /// Reads the wire's number; a newer peer's reason is kept as none, for the state alone decides what happens.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        Self::ALL.into_iter().find(|r| *r as u32 == number).unwrap_or_default()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A copy passed this node at this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The node's id.
    pub node: NodeId,
    /// Its name then.
    pub name: NodeName,
    /// Its clock, Unix milliseconds.
    pub at_ms: u64,
}

impl Stamp {
    pub(crate) fn to_wire(&self) -> wire::Stamp {
        wire::Stamp { node: Bytes::copy_from_slice(&self.node.0), name: self.name.to_string(), at_ms: self.at_ms }
    }

    /// Reads one in place. A name that is `before` shares its memory.
    pub(crate) fn read(bytes: &[u8], before: Option<&NodeName>) -> Result<Self, WireError> {
        let (mut node, mut name, mut at_ms) = (&[][..], "", 0);
        for field in Fields::of("stamp", bytes) {
            let (number, value) = field?;
            match number {
                1 => node = value.bytes()?,
                2 => name = value.text()?,
                3 => at_ms = value.number()?,
                _ => {}
            }
        }
        let name = match before.filter(|before| before.as_str() == name) {
            Some(before) => before.clone(),
            None => name.parse()?,
        };
        Ok(Self { node: NodeId::from_slice(node)?, name, at_ms })
    }

    pub(crate) fn from_wire(w: &wire::Stamp) -> Result<Self, WireError> {
        Ok(Self { node: NodeId::from_slice(&w.node)?, name: w.name.parse()?, at_ms: w.at_ms })
    }

    pub(crate) fn list(stamps: &[wire::Stamp]) -> Result<Vec<Self>, WireError> {
        WireError::limit("list of stamps", stamps.len(), limits::HOPS)?;
        stamps.iter().map(Self::from_wire).collect()
    }
}

/// One recipient's place in a list: index into the body's addresses, or into a signed expansion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordinal {
    /// `None`: the body's addresses. Else the digest of the expansion.
    pub list: Option<Digest>,
    /// Index into the list.
    pub index: u32,
}

impl Ordinal {
    /// An index into the body's own addresses.
    #[must_use]
    pub const fn body(index: u32) -> Self {
        Self { list: None, index }
    }

    pub(crate) fn list_bytes(self) -> Bytes {
        self.list.map_or_else(Bytes::new, |d| Bytes::copy_from_slice(&d.0))
    }

    pub(crate) fn from_parts(list: &[u8], index: u32) -> Result<Self, WireError> {
        let list = if list.is_empty() { None } else { Some(Digest::from_slice(list)?) };
        Ok(Self { list, index })
    }
}

/// What a node states about one recipient of one message. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The message.
    pub message: MessageId,
    /// Where the receipt travels to.
    pub origin: NodeId,
    /// Which recipient.
    pub ordinal: Ordinal,
    /// That recipient's address, for people.
    pub address: Address,
    /// What became of it.
    pub state: State,
    /// Why, when it ended negatively.
    pub reason: Reason,
    /// More for people; the application's text when the state is [`State::Status`].
    pub detail: String,
    /// The application's code when the state is [`State::Status`].
    pub code: u32,
    /// Who says so.
    pub node: NodeId,
    /// Its name then.
    pub name: NodeName,
    /// When.
    pub at_ms: u64,
    /// The way the copy came, origin first.
    pub stamps: Vec<Stamp>,
    /// What arrived.
    pub payload_root: Digest,
    /// How much arrived.
    pub payload_bytes: u64,
}

impl Receipt {
    /// The bytes to sign.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&wire::Receipt {
            version: 1,
            message: Bytes::copy_from_slice(&self.message.0),
            origin: Bytes::copy_from_slice(&self.origin.0),
            list: self.ordinal.list_bytes(),
            ordinal: self.ordinal.index,
            address: self.address.to_string(),
            state: self.state as u32,
            reason: self.reason as u32,
            detail: self.detail.clone(),
            code: self.code,
            node: Bytes::copy_from_slice(&self.node.0),
            name: self.name.to_string(),
            at_ms: self.at_ms,
            stamps: self.stamps.iter().map(Stamp::to_wire).collect(),
            payload_root: Bytes::copy_from_slice(&self.payload_root.0),
            payload_bytes: self.payload_bytes,
        })
    }

    /// Reads a receipt.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed, over a limit or of another version.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        let w: wire::Receipt = crate::wire::decode("receipt", bytes.clone())?;
        if w.version != 1 {
            return Err(WireError::Unknown { what: "receipt version", value: w.version.into() });
        }
        WireError::limit("receipt's detail", w.detail.len(), limits::REASON_BYTES)?;
        Ok(Self {
            message: MessageId::from_slice(&w.message)?,
            origin: NodeId::from_slice(&w.origin)?,
            ordinal: Ordinal::from_parts(&w.list, w.ordinal)?,
            address: w.address.parse()?,
            state: State::from_number(w.state)?,
            reason: Reason::from_number(w.reason),
            detail: w.detail,
            code: w.code,
            node: NodeId::from_slice(&w.node)?,
            name: w.name.parse()?,
            at_ms: w.at_ms,
            stamps: Stamp::list(&w.stamps)?,
            payload_root: Digest::from_slice(&w.payload_root)?,
            payload_bytes: w.payload_bytes,
        })
    }
}

/// Where a node is and what it holds, stated by itself; the highest counter wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// Its name now.
    pub name: NodeName,
    /// The life of its spool.
    pub incarnation: Incarnation,
    /// Raised with every change; a node continues from the highest that a neighbour remembers.
    pub counter: u64,
    /// The inboxes it declares.
    pub inboxes: Vec<Inbox>,
    /// Its uplinks in order of preference.
    pub uplinks: Vec<NodeId>,
    /// The uplink in use; `None` at the top.
    pub active: Option<NodeId>,
    /// When it said so, Unix milliseconds.
    pub at_ms: u64,
    /// Its name for people.
    pub title: String,
    /// Spools that this node declares lost, the newest last: whoever handed mail to them offers it again.
    pub retired: Vec<(NodeId, Incarnation)>,
}

impl NodeRecord {
    /// The bytes to sign.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&wire::Record {
            version: 1,
            node: Bytes::copy_from_slice(&self.node.0),
            name: self.name.to_string(),
            incarnation: Bytes::copy_from_slice(&self.incarnation.0),
            counter: self.counter,
            inboxes: self.inboxes.iter().map(ToString::to_string).collect(),
            uplinks: self.uplinks.iter().map(|id| Bytes::copy_from_slice(&id.0)).collect(),
            active: self.active.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0)),
            at_ms: self.at_ms,
            title: self.title.clone(),
            retired: self
                .retired
                .iter()
                .map(|(node, life)| wire::Life {
                    node: Bytes::copy_from_slice(&node.0),
                    incarnation: Bytes::copy_from_slice(&life.0),
                })
                .collect(),
        })
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed, over a limit or of another version.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        let w: wire::Record = crate::wire::decode("node record", bytes.clone())?;
        if w.version != 1 {
            return Err(WireError::Unknown { what: "node record version", value: w.version.into() });
        }
        WireError::limit("list of inboxes", w.inboxes.len(), limits::RECORD_INBOXES)?;
        WireError::limit("list of uplinks", w.uplinks.len(), limits::UPLINKS)?;
        WireError::limit("title", w.title.len(), limits::SUBJECT_BYTES)?;
        WireError::limit("list of lost spools", w.retired.len(), limits::RECORD_RETIRED)?;
        let life = |l: &wire::Life| Ok((NodeId::from_slice(&l.node)?, Incarnation::from_slice(&l.incarnation)?));
        Ok(Self {
            node: NodeId::from_slice(&w.node)?,
            name: w.name.parse()?,
            incarnation: Incarnation::from_slice(&w.incarnation)?,
            counter: w.counter,
            inboxes: w.inboxes.iter().map(|i| i.parse()).collect::<Result<_, _>>()?,
            uplinks: w.uplinks.iter().map(|id| NodeId::from_slice(id)).collect::<Result<_, _>>()?,
            active: if w.active.is_empty() { None } else { Some(NodeId::from_slice(&w.active)?) },
            at_ms: w.at_ms,
            title: w.title,
            retired: w.retired.iter().map(life).collect::<Result<_, WireError>>()?,
        })
    }
}

#[cfg(test)]
mod tests;
