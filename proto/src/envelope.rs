//! The envelope's body: what a message is, said once by its origin and never changed.
//!
//! The body is encoded once; its bytes are signed, hashed into the message's id and forwarded verbatim. Every field of
//! DESIGN §5 has its number from the first release on, also those that nothing uses yet.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::WireError;
use crate::fields::Fields;
use crate::id::{Digest, Incarnation, MessageId, NodeId};
use crate::limits;
use crate::name::{Address, Inbox, NodeName};
use crate::wire::statement as wire;

/// How urgent a message is. Higher overtakes lower on every hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precedence {
    /// Data-sync.
    Bulk = 0,
    /// Thường.
    Routine = 1,
    /// Khẩn.
    Priority = 2,
    /// Thượng khẩn.
    Immediate = 3,
    /// Hỏa tốc.
    Flash = 4,
}

impl Precedence {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 5] = [Self::Flash, Self::Immediate, Self::Priority, Self::Routine, Self::Bulk];

    /// The word used in commands and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Routine => "routine",
            Self::Priority => "priority",
            Self::Immediate => "immediate",
            Self::Flash => "flash",
        }
    }

    /// Reads the wire's number.
    ///
    /// # Errors
    /// [`WireError::Unknown`].
    pub fn from_number(number: u32) -> Result<Self, WireError> {
        Self::ALL
            .into_iter()
            .find(|p| *p as u32 == number)
            .ok_or(WireError::Unknown { what: "precedence", value: number.into() })
    }
}

impl fmt::Display for Precedence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Precedence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a precedence: use flash, immediate, priority, routine or bulk"))
    }
}

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// A document between offices.
    Document = 1,
    /// A dataset's revision.
    DatasetRevision = 2,
    /// The recall of an earlier message.
    Tombstone = 3,
    /// Between nodes, never for an application.
    Control = 4,
}

/// Which of an office's two networks a message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Network {
    /// Not said.
    #[default]
    Unspecified = 0,
    /// The inner network (mạng trong).
    Inner = 1,
    /// The outer network (mạng ngoài).
    Outer = 2,
}

/// The signed part of an envelope. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// 16 random bytes: two sends of one file are two messages.
    pub nonce: [u8; 16],
    /// The node that took the message from its application.
    pub origin: NodeId,
    /// That node's spool.
    pub incarnation: Incarnation,
    /// That node's name when the message was sent.
    pub origin_name: NodeName,
    /// The inbox named for answers, if any.
    pub sender: Option<Inbox>,
    /// The recipients as written, 1 to [`limits::RECIPIENTS`]; a recipient is an index into them.
    pub to: Vec<Address>,
    /// The class, on every hop.
    pub precedence: Precedence,
    /// Counts the messages of one sender inbox in one incarnation, from 1.
    pub sequence: u64,
    /// When the message was submitted, on the uplink's clock as far as it is known.
    pub created_ms: u64,
    /// What was added to the origin's own clock to get `created_ms`.
    pub clock_offset_ms: i64,
    /// How long the message may take; never 0, at most [`limits::LIFETIME_MAX_MS`].
    pub lifetime_ms: u64,
    /// When it has to be there, for a timed flash; 0 is none.
    pub deliver_by_ms: u64,
    /// Classification label; empty is none.
    pub label: String,
    /// Which network it belongs to.
    pub network: Network,
    /// What it carries.
    pub kind: MessageKind,
    /// For people.
    pub subject: String,
    /// The sender's file name in full; receivers make it safe for their disk.
    pub file_name: String,
    /// MIME type; empty is unknown.
    pub content_type: String,
    /// The application's own pairs, at most [`limits::ATTRIBUTES`], in its order.
    pub attributes: Vec<(String, String)>,
    /// The document's number in the sender's register.
    pub business_id: String,
    /// What makes a repeated submission the same message.
    pub idempotency_key: String,
    /// W3C trace context.
    pub traceparent: String,
    /// The payload is sealed to the recipient's certificate.
    pub sealed: bool,
    /// Length of the payload in bytes.
    pub payload_bytes: u64,
    /// Digest of the payload's manifest ([`crate::manifest`]).
    pub payload_root: Digest,
    /// The message a tombstone takes back; `None` in every other kind.
    pub recalls: Option<MessageId>,
    /// For each address, in the order of `to`: counts the messages of one sender inbox to it in one incarnation, from 1,
    /// so that the recipient's register finds gaps. Empty before 0.2.0.
    pub pair_sequences: Vec<u64>,
}

/// What a node goes on by once it has taken a message: a part of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gist {
    /// The node that took the message from its application.
    pub origin: NodeId,
    /// The recipients as written. Messages of a spool often share them.
    pub to: Arc<[Address]>,
    /// The class.
    pub precedence: Precedence,
    /// When it was submitted, Unix milliseconds.
    pub created_ms: u64,
    /// When the message ends, Unix milliseconds.
    pub deadline_ms: u64,
    /// By when it has to be there, Unix milliseconds.
    pub deliver_by_ms: Option<u64>,
    /// Length of the payload in bytes.
    pub payload_bytes: u64,
    /// Digest of the payload's manifest.
    pub payload_root: Digest,
}

impl Gist {
    /// Reads it from a body that was checked when it came. Recipients that are those of `before` share their memory.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed.
    pub fn decode(body: &[u8], before: Option<&Arc<[Address]>>) -> Result<Self, WireError> {
        let (mut origin, mut payload_root, mut precedence) = (&[][..], &[][..], 0);
        let (mut created_ms, mut lifetime_ms, mut deliver_by_ms, mut payload_bytes) = (0_u64, 0, 0, 0);
        let mut to = Vec::new();
        for field in Fields::of("envelope body", body) {
            let (number, value) = field?;
            match number {
                3 => origin = value.bytes()?,
                7 => to.push(value.text()?),
                8 => precedence = value.number_32()?,
                10 => created_ms = value.number()?,
                12 => lifetime_ms = value.number()?,
                13 => deliver_by_ms = value.number()?,
                25 => payload_bytes = value.number()?,
                26 => payload_root = value.bytes()?,
                _ => {}
            }
        }
        WireError::limit("list of recipients", to.len(), limits::RECIPIENTS)?;
        let same = |before: &&Arc<[Address]>| {
            before.len() == to.len() && before.iter().zip(&to).all(|(address, text)| address.is(text))
        };
        Ok(Self {
            origin: NodeId::from_slice(origin)?,
            to: match before.filter(same) {
                Some(before) => Arc::clone(before),
                None => to.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            },
            precedence: Precedence::from_number(precedence)?,
            created_ms,
            deadline_ms: created_ms.saturating_add(lifetime_ms),
            deliver_by_ms: Some(deliver_by_ms).filter(|ms| *ms != 0),
            payload_bytes,
            payload_root: Digest::from_slice(payload_root)?,
        })
    }
}

impl Body {
    /// The part that a node goes on by.
    #[must_use]
    pub fn gist(&self) -> Gist {
        Gist {
            origin: self.origin,
            to: self.to.as_slice().into(),
            precedence: self.precedence,
            created_ms: self.created_ms,
            deadline_ms: self.deadline_ms(),
            deliver_by_ms: Some(self.deliver_by_ms).filter(|ms| *ms != 0),
            payload_bytes: self.payload_bytes,
            payload_root: self.payload_root,
        }
    }

    /// When the message ends, on the uplink's clock: `created + lifetime`.
    #[must_use]
    pub const fn deadline_ms(&self) -> u64 {
        self.created_ms.saturating_add(self.lifetime_ms)
    }

    /// Whether the payload travels inside the offer.
    #[must_use]
    pub const fn is_inline(&self) -> bool {
        self.payload_bytes <= limits::INLINE_BYTES as u64
    }

    /// Checks every limit; what the origin's application asked for goes through this before it is signed.
    ///
    /// # Errors
    /// [`WireError`] naming the field.
    pub fn check(&self) -> Result<(), WireError> {
        const LIMITED: [(&str, usize); 7] = [
            ("label", limits::LABEL_BYTES),
            ("subject", limits::SUBJECT_BYTES),
            ("file name", limits::FILE_NAME_BYTES),
            ("content type", limits::CONTENT_TYPE_BYTES),
            ("business id", limits::BUSINESS_ID_BYTES),
            ("idempotency key", limits::IDEMPOTENCY_KEY_BYTES),
            ("traceparent", limits::TRACEPARENT_BYTES),
        ];
        let texts = [
            &self.label,
            &self.subject,
            &self.file_name,
            &self.content_type,
            &self.business_id,
            &self.idempotency_key,
            &self.traceparent,
        ];
        for ((what, max), text) in LIMITED.into_iter().zip(texts) {
            WireError::limit(what, text.len(), max)?;
        }
        WireError::limit("list of recipients", self.to.len(), limits::RECIPIENTS)?;
        WireError::limit("list of attributes", self.attributes.len(), limits::ATTRIBUTES)?;
        for (key, value) in &self.attributes {
            WireError::limit("attribute key", key.len(), limits::ATTRIBUTE_KEY_BYTES)?;
            WireError::limit("attribute value", value.len(), limits::ATTRIBUTE_VALUE_BYTES)?;
        }
        let why = if self.to.is_empty() {
            "it has no recipient"
        } else if self.lifetime_ms == 0 || self.lifetime_ms > limits::LIFETIME_MAX_MS {
            "its lifetime is 0 or longer than 180 days"
        } else if self.payload_bytes > limits::PAYLOAD_BYTES {
            "its payload is larger than a manifest can describe"
        } else if self.recalls.is_some() != (self.kind == MessageKind::Tombstone) {
            "a tombstone names the message it takes back, and no other kind does"
        } else if !self.pair_sequences.is_empty() && self.pair_sequences.len() != self.to.len() {
            "its sequences are not one for each recipient"
        } else {
            return Ok(());
        };
        Err(WireError::Malformed { what: "envelope", why })
    }

    /// The bytes to sign and to hash.
    ///
    /// # Errors
    /// [`WireError`] when a limit is exceeded.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        self.check()?;
        let bytes = crate::wire::encode(&wire::Body {
            version: 1,
            nonce: Bytes::copy_from_slice(&self.nonce),
            origin: Bytes::copy_from_slice(&self.origin.0),
            incarnation: Bytes::copy_from_slice(&self.incarnation.0),
            origin_name: self.origin_name.to_string(),
            sender: self.sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: self.to.iter().map(ToString::to_string).collect(),
            precedence: self.precedence as u32,
            sequence: self.sequence,
            created_ms: self.created_ms,
            clock_offset_ms: self.clock_offset_ms,
            lifetime_ms: self.lifetime_ms,
            deliver_by_ms: self.deliver_by_ms,
            label: self.label.clone(),
            network: self.network as u32,
            kind: self.kind as u32,
            subject: self.subject.clone(),
            file_name: self.file_name.clone(),
            content_type: self.content_type.clone(),
            attributes: self
                .attributes
                .iter()
                .map(|(key, value)| wire::Attribute { key: key.clone(), value: value.clone() })
                .collect(),
            business_id: self.business_id.clone(),
            idempotency_key: self.idempotency_key.clone(),
            traceparent: self.traceparent.clone(),
            sealed: self.sealed,
            payload_bytes: self.payload_bytes,
            payload_root: Bytes::copy_from_slice(&self.payload_root.0),
            recalls: self.recalls.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0)),
            pair_sequences: self.pair_sequences.clone(),
        });
        WireError::limit("envelope body", bytes.len(), limits::BODY_BYTES)?;
        Ok(bytes)
    }

    /// Reads a body. Fields of newer releases are passed over: the bytes themselves stay what was signed.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed, over a limit or of another version.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        WireError::limit("envelope body", bytes.len(), limits::BODY_BYTES)?;
        let w: wire::Body = crate::wire::decode("envelope body", bytes.clone())?;
        if w.version != 1 {
            return Err(WireError::Unknown { what: "envelope version", value: w.version.into() });
        }
        WireError::limit("list of recipients", w.to.len(), limits::RECIPIENTS)?;
        let nonce = w.nonce.as_ref().try_into();
        let body = Self {
            nonce: nonce.map_err(|_| WireError::Malformed { what: "envelope", why: "its nonce is not 16 bytes" })?,
            origin: NodeId::from_slice(&w.origin)?,
            incarnation: Incarnation::from_slice(&w.incarnation)?,
            origin_name: w.origin_name.parse()?,
            sender: if w.sender.is_empty() { None } else { Some(w.sender.parse()?) },
            to: w.to.iter().map(|to| to.parse()).collect::<Result<_, _>>()?,
            precedence: Precedence::from_number(w.precedence)?,
            sequence: w.sequence,
            created_ms: w.created_ms,
            clock_offset_ms: w.clock_offset_ms,
            lifetime_ms: w.lifetime_ms,
            deliver_by_ms: w.deliver_by_ms,
            label: w.label,
            network: match w.network {
                0 => Network::Unspecified,
                1 => Network::Inner,
                2 => Network::Outer,
                other => return Err(WireError::Unknown { what: "network", value: other.into() }),
            },
            kind: match w.kind {
                1 => MessageKind::Document,
                2 => MessageKind::DatasetRevision,
                3 => MessageKind::Tombstone,
                4 => MessageKind::Control,
                other => return Err(WireError::Unknown { what: "message kind", value: other.into() }),
            },
            subject: w.subject,
            file_name: w.file_name,
            content_type: w.content_type,
            attributes: w.attributes.into_iter().map(|a| (a.key, a.value)).collect(),
            business_id: w.business_id,
            idempotency_key: w.idempotency_key,
            traceparent: w.traceparent,
            sealed: w.sealed,
            payload_bytes: w.payload_bytes,
            payload_root: Digest::from_slice(&w.payload_root)?,
            recalls: if w.recalls.is_empty() { None } else { Some(MessageId::from_slice(&w.recalls)?) },
            pair_sequences: w.pair_sequences,
        };
        body.check()?;
        Ok(body)
    }

    /// The message's id, given the encoded body.
    #[must_use]
    pub fn id(bytes: &[u8]) -> MessageId {
        MessageId::of(bytes)
    }
}

#[cfg(test)]
mod tests;
