//! What nodes tell each other about the PKI: the frames of the PKI stream, what is asked of a CA, and the signed objects
//! that are neither certificates nor revocation lists.
//!
//! A frame is `length (u32, big endian) ‖ kind (u8) ‖ message`, as on every stream ([`crate::frame`]). Owns shapes and
//! limits. Never checks a signature or a certificate: that is the PKI's affair. DESIGN §3; `research/pki.md` §4.

mod signed;

use bytes::Bytes;

use crate::error::WireError;
use crate::frame::{framed, unframed};
use crate::id::NodeId;
use crate::join::HostPort;
use crate::limits;
use crate::name::{NodeName, Role, Zone};
use crate::wire::pki as wire;
pub use signed::{Alias, Door, Handover, Notice, PastRoot, Roots, SignedHandover, SignedNotice, SignedRoots, Transfer};

/// What the signature of a renewal request covers, before SHA-256 of the request's CSR.
pub const RENEW_PURPOSE: &[u8] = b"tram/1/renew\0";
/// The same, when a node asks for a CA certificate.
pub const AUTHORITY_PURPOSE: &[u8] = b"tram/1/authority\0";
/// What the signatures of a root list cover, before its body.
pub const ROOTS_PURPOSE: &[u8] = b"tram/1/roots\0";
/// What the signature of a notice covers, before its body.
pub const NOTICE_PURPOSE: &[u8] = b"tram/1/notice\0";
/// What the signatures of a handover cover, before its body.
pub const HANDOVER_PURPOSE: &[u8] = b"tram/1/handover\0";

/// Which object of the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// The list of trusted roots.
    Roots,
    /// The handover of a province that began alone, by the SHA-256 of its own root's public key.
    Handover([u8; 32]),
    /// A CA's certificate, by its SHA-256.
    Authority([u8; 32]),
    /// The revocation list of the CA whose public key has this SHA-256.
    Crl([u8; 32]),
    /// The notice of the CA whose public key has this SHA-256.
    Notice([u8; 32]),
}

/// An object and which state of it; a higher version replaces a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    /// Which.
    pub key: ObjectKey,
    /// The state; 1 for a certificate, which never changes.
    pub version: u64,
}

/// An object of the bundle, to be checked by whoever gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What the sender says it is.
    pub item: Item,
    /// A certificate or revocation list in DER, [`SignedRoots`], [`SignedNotice`] or [`SignedHandover`]; at most [`limits::OBJECT_BYTES`].
    pub content: Bytes,
}

/// What a node says of itself, passed up the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its role.
    pub role: Role,
    /// The version of the root list it trusts.
    pub roots: u64,
    /// When its certificate ends, Unix milliseconds.
    pub not_after_ms: u64,
    /// When it said so, Unix milliseconds.
    pub at_ms: u64,
    /// SHA-256 of the public key of the CA that issued its certificate.
    pub authority: [u8; 32],
    /// Where its join port can be reached; at most [`limits::HELLO_ADDRESSES`].
    pub join: Vec<HostPort>,
}

/// A frame of the PKI stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PkiFrame {
    /// All that the sender holds; at most [`limits::OBJECTS`]. Said first, and again when it wants what it missed.
    Have(Vec<Item>),
    /// Something the receiver lacks.
    Object(Object),
    /// Something for the node that holds a CA's key; passed up until it is reached.
    Ask {
        /// The asker's, comes back in the reply.
        number: u64,
        /// Links it has crossed.
        hops: u32,
        /// SHA-256 of the CA's public key.
        authority: [u8; 32],
        /// An encoded [`Request`].
        request: Bytes,
    },
    /// The answer to an `Ask` of this link.
    Reply {
        /// The ask's.
        number: u64,
        /// An encoded [`Answer`].
        answer: Bytes,
    },
    /// Of the sender and of nodes below it; at most [`limits::REPORTS`].
    Reports(Vec<Report>),
    /// Lines of an audit log, for the parent to keep.
    Journal {
        /// Whose log.
        node: NodeId,
        /// The number of the first line.
        first: u64,
        /// The lines, without line breaks.
        lines: Vec<Bytes>,
    },
    /// What the parent holds of a log.
    JournalHave {
        /// Whose log.
        node: NodeId,
        /// The last line's number; 0: none.
        number: u64,
        /// SHA-256 of that line.
        hash: [u8; 32],
    },
}

const HAVE: u8 = 1;
const OBJECT: u8 = 2;
const ASK: u8 = 3;
const REPLY: u8 = 4;
const REPORTS: u8 = 5;
const JOURNAL: u8 = 6;
const JOURNAL_HAVE: u8 = 7;

fn fixed<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError::Malformed { what, why: "it has the wrong length" })
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn hosts(what: &'static str, texts: &[String]) -> Result<Vec<HostPort>, WireError> {
    WireError::limit(what, texts.len(), limits::HELLO_ADDRESSES)?;
    let parsed = texts.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    parsed.map_err(|_| WireError::Malformed { what, why: "it is not host:port" })
}

fn role(text: &str) -> Result<Role, WireError> {
    text.parse().map_err(|_| WireError::Malformed { what: "role", why: "it is not a known word" })
}

fn certificates(what: &'static str, chain: &[Bytes]) -> Result<(), WireError> {
    WireError::limit(what, chain.len(), limits::CHAIN_CERTIFICATES)?;
    chain.iter().try_for_each(|one| WireError::limit("certificate", one.len(), limits::CERTIFICATE_BYTES))
}

impl Item {
    fn to_wire(self) -> wire::Item {
        let (kind, id) = match &self.key {
            ObjectKey::Roots => (1, &[][..]),
            ObjectKey::Authority(id) => (2, &id[..]),
            ObjectKey::Crl(id) => (3, &id[..]),
            ObjectKey::Notice(id) => (4, &id[..]),
            ObjectKey::Handover(id) => (5, &id[..]),
        };
        wire::Item { kind, id: copy(id), version: self.version }
    }

    fn from_wire(w: &wire::Item) -> Result<Self, WireError> {
        let id = || fixed("object id", &w.id);
        let key = match w.kind {
            1 if w.id.is_empty() => ObjectKey::Roots,
            1 => return Err(WireError::Malformed { what: "object id", why: "the root list has none" }),
            2 => ObjectKey::Authority(id()?),
            3 => ObjectKey::Crl(id()?),
            4 => ObjectKey::Notice(id()?),
            5 => ObjectKey::Handover(id()?),
            other => return Err(WireError::Unknown { what: "kind of object", value: other.into() }),
        };
        Ok(Self { key, version: w.version })
    }
}

impl Report {
    fn to_wire(&self) -> wire::Report {
        wire::Report {
            node: copy(&self.node.0),
            name: self.name.to_string(),
            role: self.role.to_string(),
            roots: self.roots,
            not_after_ms: self.not_after_ms,
            at_ms: self.at_ms,
            authority: copy(&self.authority),
            join: self.join.iter().map(ToString::to_string).collect(),
        }
    }

    fn from_wire(w: &wire::Report) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId::from_slice(&w.node)?,
            name: w.name.parse()?,
            role: role(&w.role)?,
            roots: w.roots,
            not_after_ms: w.not_after_ms,
            at_ms: w.at_ms,
            authority: fixed("authority", &w.authority)?,
            join: hosts("join address", &w.join)?,
        })
    }
}

impl PkiFrame {
    /// The frame's name, for logs and errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Have(_) => "have",
            Self::Object(_) => "object",
            Self::Ask { .. } => "ask",
            Self::Reply { .. } => "reply",
            Self::Reports(_) => "reports",
            Self::Journal { .. } => "journal",
            Self::JournalHave { .. } => "journal have",
        }
    }

    fn message(&self) -> (u8, Bytes) {
        use crate::wire::encode;
        match self {
            Self::Have(items) => {
                let items = items.iter().map(|item| item.to_wire()).collect();
                (HAVE, encode(&wire::Have { items }))
            }
            Self::Object(object) => {
                let message = wire::Object { item: Some(object.item.to_wire()), content: object.content.clone() };
                (OBJECT, encode(&message))
            }
            Self::Ask { number, hops, authority, request } => {
                let (authority, request) = (copy(authority), request.clone());
                (ASK, encode(&wire::Ask { number: *number, hops: *hops, authority, request }))
            }
            Self::Reply { number, answer } => (REPLY, encode(&wire::Reply { number: *number, answer: answer.clone() })),
            Self::Reports(reports) => {
                let reports = reports.iter().map(Report::to_wire).collect();
                (REPORTS, encode(&wire::Reports { reports }))
            }
            Self::Journal { node, first, lines } => {
                (JOURNAL, encode(&wire::Journal { node: copy(&node.0), first: *first, lines: lines.clone() }))
            }
            Self::JournalHave { node, number, hash } => {
                let message = wire::JournalHave { node: copy(&node.0), number: *number, hash: copy(hash) };
                (JOURNAL_HAVE, encode(&message))
            }
        }
    }

    /// The bytes to write on a stream, length included.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, message) = self.message();
        framed(kind, message)
    }

    /// Reads a frame: the bytes after the length field.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed, over a limit or of an unknown kind.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        use crate::wire::decode;
        let (kind, bytes) = unframed(bytes)?;
        Ok(match kind {
            HAVE => {
                let w: wire::Have = decode("have", bytes)?;
                WireError::limit("have", w.items.len(), limits::OBJECTS)?;
                Self::Have(w.items.iter().map(Item::from_wire).collect::<Result<_, _>>()?)
            }
            OBJECT => {
                let w: wire::Object = decode("object", bytes)?;
                WireError::limit("object", w.content.len(), limits::OBJECT_BYTES)?;
                let item = w.item.ok_or(WireError::Malformed { what: "object", why: "it does not say what it is" })?;
                Self::Object(Object { item: Item::from_wire(&item)?, content: w.content })
            }
            ASK => {
                let w: wire::Ask = decode("ask", bytes)?;
                WireError::limit("request", w.request.len(), limits::CONTROL_FRAME_BYTES)?;
                let authority = fixed("authority", &w.authority)?;
                Self::Ask { number: w.number, hops: w.hops, authority, request: w.request }
            }
            REPLY => {
                let w: wire::Reply = decode("reply", bytes)?;
                WireError::limit("answer", w.answer.len(), limits::CONTROL_FRAME_BYTES)?;
                Self::Reply { number: w.number, answer: w.answer }
            }
            REPORTS => {
                let w: wire::Reports = decode("reports", bytes)?;
                WireError::limit("reports", w.reports.len(), limits::REPORTS)?;
                Self::Reports(w.reports.iter().map(Report::from_wire).collect::<Result<_, _>>()?)
            }
            JOURNAL => {
                let w: wire::Journal = decode("journal", bytes)?;
                WireError::limit("journal", w.lines.len(), limits::JOURNAL_LINES)?;
                Self::Journal { node: NodeId::from_slice(&w.node)?, first: w.first, lines: w.lines }
            }
            JOURNAL_HAVE => {
                let w: wire::JournalHave = decode("journal have", bytes)?;
                let (node, hash) = (NodeId::from_slice(&w.node)?, fixed("hash", &w.hash)?);
                Self::JournalHave { node, number: w.number, hash }
            }
            other => return Err(WireError::Unknown { what: "kind of PKI frame", value: other.into() }),
        })
    }
}

/// A node asks, with the key it has, for a certificate on a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewRequest {
    /// Its certificate and its issuer's, DER, leaf first.
    pub chain: Vec<Bytes>,
    /// For the new key, PKCS #10, DER, at most [`limits::CSR_BYTES`].
    pub csr: Bytes,
    /// By the old key over the purpose and SHA-256 of the CSR; ECDSA P-256, ASN.1.
    pub signature: Bytes,
}

/// What is asked of the node that holds a CA's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The node's next certificate.
    Renew(RenewRequest),
    /// A CA certificate for the names below the asker's own. Only the root's holder can say yes.
    Authority(RenewRequest),
}

impl Request {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        use wire::request::What;
        let of = |r: &RenewRequest| wire::RenewRequest {
            chain: r.chain.clone(),
            csr: r.csr.clone(),
            signature: r.signature.clone(),
        };
        let what = match self {
            Self::Renew(request) => What::Renew(of(request)),
            Self::Authority(request) => What::Authority(of(request)),
        };
        crate::wire::encode(&wire::Request { what: Some(what) })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        use wire::request::What;
        WireError::limit("request", bytes.len(), limits::CONTROL_FRAME_BYTES)?;
        let w: wire::Request = crate::wire::decode("request", bytes)?;
        let of = |r: wire::RenewRequest| -> Result<RenewRequest, WireError> {
            certificates("certificate chain", &r.chain)?;
            WireError::limit("certificate request", r.csr.len(), limits::CSR_BYTES)?;
            WireError::limit("signature", r.signature.len(), limits::SIGNATURE_BYTES)?;
            Ok(RenewRequest { chain: r.chain, csr: r.csr, signature: r.signature })
        };
        match w.what {
            Some(What::Renew(request)) => Ok(Self::Renew(of(request)?)),
            Some(What::Authority(request)) => Ok(Self::Authority(of(request)?)),
            None => Err(WireError::Unknown { what: "kind of request", value: 0 }),
        }
    }
}

/// Why a CA says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The old certificate is not this CA's, or its signature does not prove the key.
    NotProven,
    /// It has been expired for too long.
    Expired,
    /// The node was revoked.
    Revoked,
    /// The request cannot be taken.
    Request,
    /// The CA is locked, suspended, or ends too soon.
    Unavailable,
    /// Nobody on the way up holds that CA.
    NoAuthority,
    /// A code this release does not know.
    Other(u32),
}

const REFUSALS: [(Refusal, u32, &str); 6] = [
    (Refusal::NotProven, 1, "the old certificate is not one of this CA's, or its key was not proved"),
    (Refusal::Expired, 2, "the certificate has been expired for more than 30 days"),
    (Refusal::Revoked, 3, "the node has been revoked"),
    (Refusal::Request, 4, "the certificate request cannot be accepted"),
    (Refusal::Unavailable, 5, "the CA cannot issue at the moment; its log says why"),
    (Refusal::NoAuthority, 6, "no node on the way up holds the CA that issued the certificate"),
];

impl Refusal {
    const fn code(self) -> u32 {
        match self {
            Self::NotProven => 1,
            Self::Expired => 2,
            Self::Revoked => 3,
            Self::Request => 4,
            Self::Unavailable => 5,
            Self::NoAuthority => 6,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u32) -> Self {
        REFUSALS.iter().find(|(_, known, _)| *known == code).map_or(Self::Other(code), |(refusal, ..)| *refusal)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match REFUSALS.iter().find(|(refusal, ..)| refusal == self) {
            Some((.., text)) => f.write_str(text),
            None => write!(f, "the CA refused with code {}, which this release does not know", self.code()),
        }
    }
}

/// What the CA replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The new certificate and its issuer's, leaf first, root left out.
    Granted(Vec<Bytes>),
    /// It waits for a person; the answer comes with the bundle.
    Pending,
    /// No.
    Refused(Refusal),
}

impl Answer {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&match self {
            Self::Granted(chain) => wire::Answer { chain: chain.clone(), ..wire::Answer::default() },
            Self::Pending => wire::Answer { pending: true, ..wire::Answer::default() },
            Self::Refused(why) => wire::Answer { refusal: why.code(), ..wire::Answer::default() },
        })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        WireError::limit("answer", bytes.len(), limits::CONTROL_FRAME_BYTES)?;
        let w: wire::Answer = crate::wire::decode("answer", bytes)?;
        certificates("certificate chain", &w.chain)?;
        match (w.refusal, w.pending, w.chain.is_empty()) {
            (0, false, false) => Ok(Self::Granted(w.chain)),
            (0, true, true) => Ok(Self::Pending),
            (code, false, true) if code != 0 => Ok(Self::Refused(Refusal::from_code(code))),
            _ => Err(WireError::Malformed { what: "answer", why: "it is neither yes, no, nor later" }),
        }
    }
}

#[cfg(test)]
mod tests;
