//! Link frames: what two neighbours say to each other on one QUIC connection.
//!
//! A frame on a stream is `length (u32, big endian) ‖ kind (u8) ‖ message`; the length counts what follows it. The first
//! byte of every stream says what the stream carries ([`StreamKind`]). A frame that is too long, cut short, of an unknown
//! kind or on the wrong stream ends the link. DESIGN §4.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::WireError;
use crate::id::{Digest, Incarnation, MessageId, NodeId};
use crate::limits;
use crate::name::NodeName;
use crate::receipt::{Ordinal, Reason, Stamp, State};
use crate::statement::Signed;
use crate::wire::link as wire;

/// The application protocol of a link, in TLS.
pub const ALPN: &[u8] = b"tram/1";
/// The version this release speaks and the oldest it understands.
pub const VERSION: u32 = 1;

/// The first byte of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// The one bidirectional stream, opened by the dialer; begins with [`Frame::Hello`] both ways.
    Control,
    /// Offers of one precedence.
    Class(crate::envelope::Precedence),
    /// Receipts.
    Receipts,
    /// One run of units: [`Frame::Run`], the bytes, the end.
    Transfer,
    /// What concerns the PKI: [`crate::pki::PkiFrame`]. Only towards a peer whose hello has [`FEATURE_PKI`].
    Pki,
}

/// The bit of [`Hello::features`] of a node that reads a PKI stream.
pub const FEATURE_PKI: u64 = 1;

impl StreamKind {
    /// The byte.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Control => 0x01,
            Self::Transfer => 0x02,
            Self::Receipts => 0x03,
            Self::Pki => 0x04,
            Self::Class(precedence) => 0x10 + precedence as u8,
        }
    }

    /// Reads the byte.
    ///
    /// # Errors
    /// [`WireError::Unknown`].
    pub fn from_byte(byte: u8) -> Result<Self, WireError> {
        match byte {
            0x01 => Ok(Self::Control),
            0x02 => Ok(Self::Transfer),
            0x03 => Ok(Self::Receipts),
            0x04 => Ok(Self::Pki),
            0x10..=0x14 => Ok(Self::Class(crate::envelope::Precedence::from_number(u32::from(byte) - 0x10)?)),
            other => Err(WireError::Unknown { what: "stream kind", value: other.into() }),
        }
    }

    /// The longest frame such a stream may carry, in bytes.
    #[must_use]
    pub const fn frame_limit(self) -> usize {
        match self {
            Self::Class(_) | Self::Receipts => limits::OFFER_FRAME_BYTES,
            Self::Control | Self::Transfer => limits::CONTROL_FRAME_BYTES,
            Self::Pki => limits::PKI_FRAME_BYTES,
        }
    }
}

/// `count` consecutive numbers from `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first of them.
    pub first: u64,
    /// How many; never 0 on the wire.
    pub count: u64,
}

impl Range {
    /// The number after the last.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// The first frame in each direction. The link is up when both were exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version understood.
    pub version_min: u32,
    /// Newest version spoken.
    pub version_max: u32,
    /// Bits of optional abilities, such as [`FEATURE_PKI`].
    pub features: u64,
    /// The sender.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// The life of its spool.
    pub incarnation: Incarnation,
    /// Random at each start: two live boots of one id are two machines.
    pub boot: [u8; 16],
    /// Raised durably at each start.
    pub counter: u64,
    /// The receiver's counter, as the sender last saw it; 0 if never.
    pub highest_of_yours: u64,
    /// Free room in the sender's spool, in bytes.
    pub spool_room_bytes: u64,
    /// The sender's clock, corrected by its own uplink's, Unix milliseconds; 0: it does not know the time yet.
    pub clock_ms: u64,
    /// `host:port` at which the sender listens, if it does.
    pub addresses: Vec<String>,
}

/// A recipient as a copy's routing header names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient {
    /// Which one.
    pub ordinal: Ordinal,
    /// The node, once someone on the way held the record of its name.
    pub node: Option<NodeId>,
}

/// One passage of a copy, counted. Ordered: a newer visit replaces an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Visit {
    /// The origin's offers so far; raised when it offers again.
    pub attempt: u32,
    /// Custody transfers of this attempt.
    pub hops: u32,
}

/// A message held out to the next hop: the envelope, this copy's routing header, and a small payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Counts offers and receipts of one direction of one link instance, from 1.
    pub number: u64,
    /// The envelope's body and the origin's signature.
    pub envelope: Signed,
    /// This copy's visit.
    pub visit: Visit,
    /// This copy's recipients, 1 to [`limits::RECIPIENTS`].
    pub recipients: Vec<Recipient>,
    /// The way so far, origin first.
    pub stamps: Vec<Stamp>,
    /// The payload, when it is at most [`limits::INLINE_BYTES`] long.
    pub inline: Option<Bytes>,
}

/// Why an offer is not taken as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not now: keep it, I will say when.
    Pending,
    /// Never.
    Refused,
}

/// One line of the answer to a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceHop {
    /// The node that tells.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// How far the message came there.
    pub state: State,
    /// When, on its clock, Unix milliseconds.
    pub at_ms: u64,
    /// More for people.
    pub detail: String,
}

/// Everything neighbours say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// First on the control stream.
    Hello(Hello),
    /// Asks for a [`Frame::Pong`]; measures round trip and clock difference.
    Ping {
        /// Comes back in the answer.
        number: u64,
        /// The asker's clock, as in [`Hello`].
        clock_ms: u64,
    },
    /// Answers a ping.
    Pong {
        /// The ping's.
        number: u64,
        /// The answerer's clock, as in [`Hello`].
        clock_ms: u64,
    },
    /// A signer's certificates, once per stream before its first statement there.
    Chain(Vec<Bytes>),
    /// Where a node is.
    Record {
        /// A signed [`crate::receipt::NodeRecord`].
        record: Signed,
        /// A new incarnation: pass it to every neighbour, not only upwards.
        flood: bool,
    },
    /// A message held out.
    Offer(Offer),
    /// A receipt held out.
    Receipt {
        /// Counted with the offers.
        number: u64,
        /// A signed [`crate::receipt::Receipt`].
        receipt: Signed,
    },
    /// The units the receiver of an offer lacks, and wants now; none at all: offer it once more, there is room again.
    Want {
        /// The offer.
        offer: u64,
        /// Ascending and apart, at most [`limits::WANT_RANGES`].
        units: Vec<Range>,
    },
    /// The receiver of an offer does not take it.
    Reply {
        /// The offer.
        offer: u64,
        /// For now or for good.
        verdict: Verdict,
        /// Why.
        reason: Reason,
        /// For these body ordinals only; empty is every recipient.
        ordinals: Vec<u32>,
    },
    /// These offers are durable here; their sender is free of them.
    Ack(Vec<Range>),
    /// Where is this message? Asked along its route.
    Ask {
        /// The asker's; comes back in the answers.
        number: u64,
        /// The message.
        message: MessageId,
        /// The recipients asked about.
        recipients: Vec<Recipient>,
    },
    /// What is known of it from here on.
    Answer {
        /// The question's.
        number: u64,
        /// In the order of the way.
        hops: Vec<TraceHop>,
        /// No more will follow.
        last: bool,
    },
    /// The link ends, and why.
    Bye {
        /// For machines; the codes are the daemon's.
        code: u32,
        /// For people.
        reason: String,
    },
    /// Head of a transfer stream: which units follow as raw bytes.
    Run {
        /// The payload.
        root: Digest,
        /// The first unit's number.
        first: u64,
        /// How many units, 1 to [`limits::RUN_UNITS`].
        count: u32,
    },
}

const HELLO: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
const CHAIN: u8 = 4;
const RECORD: u8 = 5;
const OFFER: u8 = 6;
const RECEIPT: u8 = 7;
const WANT: u8 = 8;
const REPLY: u8 = 9;
const ACK: u8 = 10;
const ASK: u8 = 11;
const ANSWER: u8 = 12;
const BYE: u8 = 13;
const RUN: u8 = 14;

/// Bytes of a frame's length field.
pub const LENGTH_BYTES: usize = 4;

/// Reads the length field that precedes a frame.
///
/// # Errors
/// [`WireError`] when the frame would be empty or longer than `limit`.
pub fn frame_length(field: [u8; LENGTH_BYTES], limit: usize) -> Result<usize, WireError> {
    let length = u32::from_be_bytes(field) as usize;
    if length == 0 {
        return Err(WireError::Malformed { what: "frame", why: "it is empty" });
    }
    WireError::limit("frame", length, limit)?;
    Ok(length)
}

/// A frame of this kind, as it stands on a stream.
pub(crate) fn framed(kind: u8, message: Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(LENGTH_BYTES + 1 + message.len());
    out.put_u32(u32::try_from(message.len() + 1).unwrap_or(u32::MAX));
    out.put_u8(kind);
    out.put(message);
    out.freeze()
}

/// The kind of a frame and its message, of the bytes after the length field.
pub(crate) fn unframed(mut bytes: Bytes) -> Result<(u8, Bytes), WireError> {
    if bytes.is_empty() {
        return Err(WireError::Malformed { what: "frame", why: "it is empty" });
    }
    let kind = bytes.split_to(1)[0];
    Ok((kind, bytes))
}

impl Frame {
    /// The frame's name, for logs and errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Ping { .. } => "ping",
            Self::Pong { .. } => "pong",
            Self::Chain(_) => "chain",
            Self::Record { .. } => "record",
            Self::Offer(_) => "offer",
            Self::Receipt { .. } => "receipt",
            Self::Want { .. } => "want",
            Self::Reply { .. } => "reply",
            Self::Ack(_) => "ack",
            Self::Ask { .. } => "ask",
            Self::Answer { .. } => "answer",
            Self::Bye { .. } => "bye",
            Self::Run { .. } => "run",
        }
    }

    /// The bytes to write on a stream, length included.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, message) = encode::message(self);
        framed(kind, message)
    }

    /// Reads a frame: the bytes after the length field.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed, over a limit or of an unknown kind.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let (kind, message) = unframed(bytes)?;
        decode::message(kind, message)
    }
}

fn digest_bytes(bytes: &[u8; 32]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn ranges_to_wire(ranges: &[Range]) -> Vec<wire::Range> {
    ranges.iter().map(|r| wire::Range { first: r.first, count: r.count }).collect()
}

fn ranges_from_wire(what: &'static str, ranges: &[wire::Range], max: usize) -> Result<Vec<Range>, WireError> {
    WireError::limit(what, ranges.len(), max)?;
    let mut end = None;
    let mut out = Vec::with_capacity(ranges.len());
    for r in ranges {
        let fits = r.count > 0 && r.first.checked_add(r.count).is_some();
        if !fits || end.is_some_and(|end| r.first <= end) {
            return Err(WireError::Malformed { what, why: "its ranges are empty or not in ascending order" });
        }
        end = Some(r.first + r.count - 1);
        out.push(Range { first: r.first, count: r.count });
    }
    Ok(out)
}

fn recipients_to_wire(recipients: &[Recipient]) -> Vec<wire::Recipient> {
    recipients
        .iter()
        .map(|r| wire::Recipient {
            list: r.ordinal.list_bytes(),
            ordinal: r.ordinal.index,
            node: r.node.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0)),
        })
        .collect()
}

fn recipients_from_wire(recipients: &[wire::Recipient]) -> Result<Vec<Recipient>, WireError> {
    WireError::limit("list of recipients", recipients.len(), limits::RECIPIENTS)?;
    if recipients.is_empty() {
        return Err(WireError::Malformed { what: "list of recipients", why: "it is empty" });
    }
    recipients
        .iter()
        .map(|r| {
            let node = if r.node.is_empty() { None } else { Some(NodeId::from_slice(&r.node)?) };
            Ok(Recipient { ordinal: Ordinal::from_parts(&r.list, r.ordinal)?, node })
        })
        .collect()
}

mod decode;
mod encode;

#[cfg(test)]
mod tests;
