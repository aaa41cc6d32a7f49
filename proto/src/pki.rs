//! What nodes tell each other about the PKI: the frames of the PKI stream, what is asked of a CA, and the signed objects
//! that are neither certificates nor revocation lists.
//!
//! A frame is `length (u32, big endian) ‖ kind (u8) ‖ message`, as on every stream ([`crate::frame`]). Owns shapes and
//! limits. Never checks a signature or a certificate: that is the PKI's affair. DESIGN §3; `research/pki.md` §4.

use bytes::Bytes;

use crate::error::WireError;
use crate::frame::{framed, unframed};
use crate::id::NodeId;
use crate::join::HostPort;
use crate::limits;
use crate::name::{NodeName, Role, Zone};
use crate::wire::pki as wire;

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

/// A root that was exchanged for another: what was signed in its time is still believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRoot {
    /// DER.
    pub certificate: Bytes,
    /// It vouches for what was certified until then, Unix milliseconds.
    pub until_ms: u64,
}

/// Which roots an overlay trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Counts the lists, from 1.
    pub version: u64,
    /// The overlay's zone.
    pub zone: Zone,
    /// Certificates, DER, newest first; 1 to [`limits::ROOTS`].
    pub roots: Vec<Bytes>,
    /// When it was made, Unix milliseconds.
    pub at_ms: u64,
    /// Trusted for statements, never for links, newest first; at most [`limits::PAST_ROOTS`]. A stolen root is not here.
    pub past: Vec<PastRoot>,
}

impl Roots {
    /// The bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let past = |past: &PastRoot| wire::PastRoot { certificate: past.certificate.clone(), until_ms: past.until_ms };
        crate::wire::encode(&wire::Roots {
            version: self.version,
            zone: self.zone.to_string(),
            roots: self.roots.clone(),
            at_ms: self.at_ms,
            past: self.past.iter().map(past).collect(),
        })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let w: wire::Roots = crate::wire::decode("root list", bytes)?;
        WireError::limit("root list", w.roots.len(), limits::ROOTS)?;
        certificates("root list", &w.roots)?;
        if w.roots.is_empty() {
            return Err(WireError::Malformed { what: "root list", why: "it is empty" });
        }
        WireError::limit("past roots", w.past.len(), limits::PAST_ROOTS)?;
        let mut past = Vec::new();
        for one in w.past {
            WireError::limit("certificate", one.certificate.len(), limits::CERTIFICATE_BYTES)?;
            past.push(PastRoot { certificate: one.certificate, until_ms: one.until_ms });
        }
        Ok(Self { version: w.version, zone: w.zone.parse()?, roots: w.roots, at_ms: w.at_ms, past })
    }
}

/// A root list and the signatures of roots under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRoots {
    /// Encoded [`Roots`].
    pub body: Bytes,
    /// SHA-256 of a root certificate, and its key's signature: ECDSA P-384 with SHA-384, ASN.1. At most
    /// [`limits::ROOTS`] times two.
    pub signatures: Vec<([u8; 32], Bytes)>,
}

impl SignedRoots {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let signature = |(root, signature): &([u8; 32], Bytes)| wire::RootSignature {
            root: copy(root),
            signature: signature.clone(),
        };
        let signatures = self.signatures.iter().map(signature).collect();
        crate::wire::encode(&wire::SignedRoots { body: self.body.clone(), signatures })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        WireError::limit("root list", bytes.len(), limits::CONTROL_FRAME_BYTES)?;
        let w: wire::SignedRoots = crate::wire::decode("root list", bytes)?;
        WireError::limit("signatures", w.signatures.len(), 2 * limits::ROOTS)?;
        let mut signatures = Vec::new();
        for one in w.signatures {
            WireError::limit("signature", one.signature.len(), limits::SIGNATURE_BYTES)?;
            signatures.push((fixed("root", &one.root)?, one.signature));
        }
        Ok(Self { body: w.body, signatures })
    }
}

/// The root of a province that began alone gives way to another overlay's, which vouches for the province's CAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The zone of both overlays.
    pub zone: Zone,
    /// The province.
    pub name: NodeName,
    /// Its id.
    pub node: NodeId,
    /// The root it began with, DER.
    pub old: Bytes,
    /// The root that takes its place, DER.
    pub new: Bytes,
    /// The province's CAs, certified by the new root, DER; 1 to [`limits::HANDED_OVER`].
    pub authorities: Vec<Bytes>,
    /// When it was made, Unix milliseconds; its version as an object.
    pub at_ms: u64,
}

impl Handover {
    /// The bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&wire::Handover {
            zone: self.zone.to_string(),
            name: self.name.to_string(),
            node: copy(&self.node.0),
            old: self.old.clone(),
            new: self.new.clone(),
            authorities: self.authorities.clone(),
            at_ms: self.at_ms,
        })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let w: wire::Handover = crate::wire::decode("handover", bytes)?;
        WireError::limit("CAs of a handover", w.authorities.len(), limits::HANDED_OVER)?;
        if w.authorities.is_empty() {
            return Err(WireError::Malformed { what: "handover", why: "it names no CA" });
        }
        for one in [&w.old, &w.new].into_iter().chain(&w.authorities) {
            WireError::limit("certificate", one.len(), limits::CERTIFICATE_BYTES)?;
        }
        Ok(Self {
            zone: w.zone.parse()?,
            name: w.name.parse()?,
            node: NodeId::from_slice(&w.node)?,
            old: w.old,
            new: w.new,
            authorities: w.authorities,
            at_ms: w.at_ms,
        })
    }
}

/// A handover and the signatures of both roots under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHandover {
    /// Encoded [`Handover`].
    pub body: Bytes,
    /// ECDSA P-384 with SHA-384, ASN.1. Empty on the way from the new root to the old one.
    pub by_old: Bytes,
    /// The same by the new root.
    pub by_new: Bytes,
}

impl SignedHandover {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (body, by_old, by_new) = (self.body.clone(), self.by_old.clone(), self.by_new.clone());
        crate::wire::encode(&wire::SignedHandover { body, by_old, by_new })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let w: wire::SignedHandover = crate::wire::decode("handover", bytes)?;
        WireError::limit("signature", w.by_old.len(), limits::SIGNATURE_BYTES)?;
        WireError::limit("signature", w.by_new.len(), limits::SIGNATURE_BYTES)?;
        Ok(Self { body: w.body, by_old: w.by_old, by_new: w.by_new })
    }
}

/// A node's former name, still understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// As it was called.
    pub old: NodeName,
    /// As it is called.
    pub new: NodeName,
    /// The node.
    pub node: NodeId,
    /// Until when the old name is understood, Unix milliseconds.
    pub until_ms: u64,
}

impl Alias {
    /// Whether a node bears, or bore, both names by what CAs say. Two notices count together when they give it the same
    /// present name: then whoever signed either of them may speak of that name.
    pub fn are_one<'a>(
        aliases: impl Iterator<Item = &'a Self> + Clone,
        node: NodeId,
        one: &NodeName,
        other: &NodeName,
    ) -> bool {
        let of = |name: &'a Self, called: &NodeName| name.node == node && (name.old == *called || name.new == *called);
        let mut first = aliases.clone().filter(|alias| of(alias, one));
        first.any(|alias| aliases.clone().any(|next| next.new == alias.new && of(next, other)))
    }
}

/// A node id that another CA may certify from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The node.
    pub node: NodeId,
    /// The province whose CA it is; `None`: central's.
    pub to: Option<NodeName>,
    /// From when on, Unix milliseconds.
    pub at_ms: u64,
}

/// A node that passes on what comes to its join port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Which node.
    pub node: NodeId,
    /// Until when, Unix milliseconds.
    pub until_ms: u64,
    /// The join port behind it; at most [`limits::HELLO_ADDRESSES`].
    pub to: Vec<HostPort>,
}

/// What a CA announces to all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notice {
    /// Counts its notices, from 1.
    pub version: u64,
    /// SHA-256 of its public key.
    pub authority: [u8; 32],
    /// When it was made, Unix milliseconds.
    pub at_ms: u64,
    /// At most [`limits::ALIASES`].
    pub aliases: Vec<Alias>,
    /// At most [`limits::ALIASES`].
    pub transfers: Vec<Transfer>,
    /// At most [`limits::DOORS`].
    pub doors: Vec<Door>,
}

impl Notice {
    /// The bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let alias = |a: &Alias| wire::Alias {
            old: a.old.to_string(),
            new: a.new.to_string(),
            node: copy(&a.node.0),
            until_ms: a.until_ms,
        };
        let transfer = |t: &Transfer| wire::Transfer {
            node: copy(&t.node.0),
            to: t.to.as_ref().map(ToString::to_string).unwrap_or_default(),
            at_ms: t.at_ms,
        };
        let door = |d: &Door| wire::Door {
            node: copy(&d.node.0),
            until_ms: d.until_ms,
            to: d.to.iter().map(ToString::to_string).collect(),
        };
        crate::wire::encode(&wire::Notice {
            version: self.version,
            authority: copy(&self.authority),
            at_ms: self.at_ms,
            aliases: self.aliases.iter().map(alias).collect(),
            transfers: self.transfers.iter().map(transfer).collect(),
            doors: self.doors.iter().map(door).collect(),
        })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let w: wire::Notice = crate::wire::decode("notice", bytes)?;
        WireError::limit("aliases", w.aliases.len(), limits::ALIASES)?;
        WireError::limit("transfers", w.transfers.len(), limits::ALIASES)?;
        WireError::limit("doors", w.doors.len(), limits::DOORS)?;
        let alias = |a: &wire::Alias| -> Result<Alias, WireError> {
            let (old, new, node) = (a.old.parse()?, a.new.parse()?, NodeId::from_slice(&a.node)?);
            Ok(Alias { old, new, node, until_ms: a.until_ms })
        };
        let transfer = |t: &wire::Transfer| -> Result<Transfer, WireError> {
            let to = if t.to.is_empty() { None } else { Some(t.to.parse()?) };
            Ok(Transfer { node: NodeId::from_slice(&t.node)?, to, at_ms: t.at_ms })
        };
        let door = |d: &wire::Door| -> Result<Door, WireError> {
            Ok(Door { node: NodeId::from_slice(&d.node)?, until_ms: d.until_ms, to: hosts("join address", &d.to)? })
        };
        Ok(Self {
            version: w.version,
            authority: fixed("authority", &w.authority)?,
            at_ms: w.at_ms,
            aliases: w.aliases.iter().map(alias).collect::<Result<_, _>>()?,
            transfers: w.transfers.iter().map(transfer).collect::<Result<_, _>>()?,
            doors: w.doors.iter().map(door).collect::<Result<_, _>>()?,
        })
    }
}

/// A notice and its CA's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNotice {
    /// Encoded [`Notice`].
    pub body: Bytes,
    /// ECDSA P-256 with SHA-256, ASN.1.
    pub signature: Bytes,
}

impl SignedNotice {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&wire::SignedNotice { body: self.body.clone(), signature: self.signature.clone() })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        WireError::limit("notice", bytes.len(), limits::OBJECT_BYTES)?;
        let w: wire::SignedNotice = crate::wire::decode("notice", bytes)?;
        WireError::limit("signature", w.signature.len(), limits::SIGNATURE_BYTES)?;
        Ok(Self { body: w.body, signature: w.signature })
    }
}

#[cfg(test)]
mod tests;
