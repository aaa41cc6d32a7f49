//! The join exchange: what a new node asks of the node that holds the CA, and what it is told.
//!
//! Owns the messages and their limits. Never checks a certificate, a mac or a token: that is the PKI's affair. DESIGN §3;
//! `research/pki.md` §4 "Join".

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::error::WireError;
use crate::id::{IdError, NodeId};
use crate::limits;
use crate::name::{NameError, NodeName, Role, Zone};
use crate::wire::join as wire;

/// The ALPN name of the join port.
pub const ALPN: &[u8] = b"tram-join/1";
/// The label under which both ends export key material from the TLS channel, with no context, 32 bytes.
pub const EXPORTER: &[u8] = b"EXPORTER-tram-join";

/// The public half of a token: which record of the registry it speaks of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 16]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError { what: "token id", expected: "32 hexadecimal digits", got: text.len() };
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| wrong())
    }
}

/// Where a node can be dialled: a DNS name, an IPv4 address or an IPv6 address in brackets, then `:port`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort(String);

/// The text is not a `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address to dial: write HOST:PORT, such as hub.example.org:7443, 203.0.113.5:7443 or [2001:db8::5]:7443"
)]
pub struct HostPortError(String);

impl HostPort {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.split().0.trim_matches(['[', ']'])
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.split().1.parse().unwrap_or_default()
    }

    fn split(&self) -> (&str, &str) {
        self.0.rsplit_once(':').unwrap_or((&self.0, ""))
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let wrong = || HostPortError(text.chars().take(limits::NAME_BYTES).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host_ok = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                (1..=limits::NAME_BYTES).contains(&host.len())
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            }
        };
        let port_ok = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0);
        if host_ok && port_ok { Ok(Self(text.to_owned())) } else { Err(wrong()) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The parent a new node is to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name, checked against its certificate on each dial.
    pub node: NodeName,
    /// Where it listens, in order; 1 to [`limits::HELLO_ADDRESSES`].
    pub addresses: Vec<HostPort>,
}

/// The text is not `NODE@HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// There is no `@`.
    #[error("{0:?}: write it as NODE@HOST:PORT, such as can-tho@relay.can-tho.example:7443")]
    Form(String),
    /// The node.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The address.
    #[error(transparent)]
    Address(#[from] HostPortError),
}

impl FromStr for Uplink {
    type Err = UplinkError;

    /// With one address.
    fn from_str(text: &str) -> Result<Self, UplinkError> {
        let wrong = || UplinkError::Form(text.chars().take(limits::NAME_BYTES).collect());
        let (node, address) = text.split_once('@').ok_or_else(wrong)?;
        Ok(Self { node: node.parse()?, addresses: vec![address.parse()?] })
    }
}

/// What a new node sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which token it holds.
    pub token: TokenId,
    /// Its signing request, DER, at most [`limits::CSR_BYTES`].
    pub csr: Bytes,
    /// HMAC-SHA256, keyed with the SHA-256 of the token's secret, over exporter ‖ SHA-256(csr).
    pub mac: [u8; 32],
    /// Its own clock, Unix milliseconds.
    pub clock_ms: u64,
    /// Its software's version, at most [`limits::LABEL_BYTES`].
    pub version: String,
}

/// Why a request was refused, as far as the joining admin may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such token, or its secret was not proved.
    Unknown,
    /// The token's time is over.
    Expired,
    /// Another key has used it.
    UsedByAnotherKey,
    /// It was cancelled, or a newer token for the same name took its place.
    Cancelled,
    /// Too many wrong proofs froze it.
    Frozen,
    /// The signing request cannot be accepted.
    Csr,
    /// The server cannot issue certificates at the moment; the token is not spent.
    Unavailable,
    /// A code this release does not know.
    Other(u32),
}

const REFUSALS: [(Refusal, u32, &str); 7] = [
    (Refusal::Unknown, 1, "token refused: it is unknown to this server; ask for a new one"),
    (Refusal::Expired, 2, "token refused: it has expired; ask for a new one"),
    (
        Refusal::UsedByAnotherKey,
        3,
        "token refused: another machine has used it already; if that was not you, tell the admin who made it",
    ),
    (Refusal::Cancelled, 4, "token refused: it was cancelled or replaced; ask for a new one"),
    (Refusal::Frozen, 5, "token refused: it was frozen after too many wrong attempts; ask for a new one"),
    (Refusal::Csr, 6, "the server does not accept this machine's certificate request"),
    (
        Refusal::Unavailable,
        7,
        "the server cannot issue certificates at the moment; its log says why. The token stays good: try again later",
    ),
];

impl Refusal {
    const fn code(self) -> u32 {
        match self {
            Self::Unknown => 1,
            Self::Expired => 2,
            Self::UsedByAnotherKey => 3,
            Self::Cancelled => 4,
            Self::Frozen => 5,
            Self::Csr => 6,
            Self::Unavailable => 7,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u32) -> Self {
        REFUSALS.iter().find(|(_, known, _)| *known == code).map_or(Self::Other(code), |(refusal, ..)| *refusal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match REFUSALS.iter().find(|(refusal, ..)| refusal == self) {
            Some((.., text)) => f.write_str(text),
            None => write!(f, "the server refused with code {}, which this release does not know", self.code()),
        }
    }
}

/// What the new node is and whom it may trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Certificates, DER, leaf first, root left out; 1 to [`limits::CHAIN_CERTIFICATES`].
    pub chain: Vec<Bytes>,
    /// The root certificate, DER.
    pub root: Bytes,
    /// The node's id, for ever.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its role.
    pub role: Role,
    /// The overlay's zone.
    pub zone: Zone,
    /// Whom to dial.
    pub uplink: Uplink,
}

/// What the server replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The server's clock, Unix milliseconds.
    pub clock_ms: u64,
    /// The certificate, or why there is none.
    pub verdict: Result<Box<Granted>, Refusal>,
}

impl Request {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        crate::wire::encode(&wire::Request {
            token: Bytes::copy_from_slice(&self.token.0),
            csr: self.csr.clone(),
            mac: Bytes::copy_from_slice(&self.mac),
            clock_ms: self.clock_ms,
            version: self.version.clone(),
        })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        WireError::limit("join request", bytes.len(), limits::JOIN_FRAME_BYTES)?;
        let w: wire::Request = crate::wire::decode("join request", bytes)?;
        WireError::limit("certificate request", w.csr.len(), limits::CSR_BYTES)?;
        check_version(&w.version)?;
        Ok(Self {
            token: TokenId(fixed("token id", &w.token)?),
            csr: w.csr,
            mac: fixed("mac", &w.mac)?,
            clock_ms: w.clock_ms,
            version: w.version,
        })
    }
}

/// A software version as others may print it.
pub(crate) fn check_version(version: &str) -> Result<(), WireError> {
    WireError::limit("version", version.len(), limits::LABEL_BYTES)?;
    if !version.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(WireError::Malformed { what: "version", why: "it has characters other than plain ASCII" });
    }
    Ok(())
}

fn fixed<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError::Malformed { what, why: "it has the wrong length" })
}

impl Answer {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (refusal, granted) = match &self.verdict {
            Ok(granted) => (0, Some(granted.to_wire())),
            Err(refusal) => (refusal.code(), None),
        };
        crate::wire::encode(&wire::Answer { clock_ms: self.clock_ms, refusal, granted })
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or over a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        WireError::limit("join answer", bytes.len(), limits::JOIN_FRAME_BYTES)?;
        let w: wire::Answer = crate::wire::decode("join answer", bytes)?;
        let verdict = match (w.refusal, w.granted) {
            (0, Some(granted)) => Ok(Box::new(Granted::from_wire(granted)?)),
            (0, None) => {
                return Err(WireError::Malformed { what: "join answer", why: "it neither grants nor refuses" });
            }
            (code, _) => Err(Refusal::from_code(code)),
        };
        Ok(Self { clock_ms: w.clock_ms, verdict })
    }
}

impl Granted {
    pub(crate) fn to_wire(&self) -> wire::Granted {
        wire::Granted {
            chain: self.chain.clone(),
            root: self.root.clone(),
            node: Bytes::copy_from_slice(&self.node.0),
            name: self.name.to_string(),
            role: self.role.to_string(),
            zone: self.zone.to_string(),
            uplink: self.uplink.node.to_string(),
            uplink_addresses: self.uplink.addresses.iter().map(ToString::to_string).collect(),
        }
    }

    pub(crate) fn from_wire(w: wire::Granted) -> Result<Self, WireError> {
        WireError::limit("certificate chain", w.chain.len(), limits::CHAIN_CERTIFICATES)?;
        WireError::limit("uplink addresses", w.uplink_addresses.len(), limits::HELLO_ADDRESSES)?;
        for certificate in w.chain.iter().chain([&w.root]) {
            WireError::limit("certificate", certificate.len(), limits::CERTIFICATE_BYTES)?;
        }
        if w.chain.is_empty() || w.uplink_addresses.is_empty() {
            return Err(WireError::Malformed { what: "join answer", why: "it lacks the chain or the uplink" });
        }
        let addresses: Result<Vec<HostPort>, _> = w.uplink_addresses.iter().map(|text| text.parse()).collect();
        Ok(Self {
            chain: w.chain,
            root: w.root,
            node: NodeId::from_slice(&w.node)?,
            name: w.name.parse()?,
            role: w.role.parse().map_err(|_| WireError::Malformed { what: "role", why: "it is not a known word" })?,
            zone: w.zone.parse()?,
            uplink: Uplink {
                node: w.uplink.parse()?,
                addresses: addresses
                    .map_err(|_| WireError::Malformed { what: "uplink address", why: "it is not host:port" })?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            token: TokenId(*b"0123456789abcdef"),
            csr: Bytes::from_static(b"csr"),
            mac: [9; 32],
            clock_ms: 1_800_000_000_000,
            version: "0.1.0".to_owned(),
        }
    }

    fn granted() -> Granted {
        Granted {
            chain: vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"ca")],
            root: Bytes::from_static(b"root"),
            node: NodeId([7; 16]),
            name: "can-tho".parse().expect("name"),
            role: Role::Province,
            zone: "tram.internal".parse().expect("zone"),
            uplink: Uplink {
                node: "central".parse().expect("name"),
                addresses: vec!["hub.example.org:7443".parse().expect("address")],
            },
        }
    }

    #[track_caller]
    fn check_address(text: &str, expect: Option<(&str, u16)>) {
        let got = text.parse::<HostPort>().ok();
        assert_eq!(got.as_ref().map(|a| (a.host(), a.port())), expect, "{text:?}");
    }

    #[test]
    fn an_address_to_dial_has_a_host_and_a_port() {
        check_address("hub.example.org:7443", Some(("hub.example.org", 7443)));
        check_address("203.0.113.5:1", Some(("203.0.113.5", 1)));
        check_address("[2001:db8::5]:7443", Some(("2001:db8::5", 7443)));
        for bad in [
            "",
            ":7443",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "a b:1",
            "::1:7443",
            "[::1",
            "[x]:1",
            "a\n:1",
        ] {
            check_address(bad, None);
        }
        check_address(&format!("{}:1", "a".repeat(201)), None);
    }

    #[test]
    fn a_request_reads_back_what_it_writes() {
        assert_eq!(Request::decode(request().encode()), Ok(request()));
        assert_eq!(request().token.to_string().parse(), Ok(request().token));
    }

    #[test]
    fn an_answer_reads_back_what_it_writes() {
        let verdicts = REFUSALS
            .iter()
            .map(|(refusal, ..)| Err(*refusal))
            .chain([Ok(Box::new(granted())), Err(Refusal::Other(99))]);
        for verdict in verdicts {
            let answer = Answer { clock_ms: 5, verdict };
            assert_eq!(Answer::decode(answer.encode()), Ok(answer));
        }
        assert!(REFUSALS.iter().all(|(refusal, code, _)| refusal.code() == *code));
    }

    #[test]
    fn messages_over_a_limit_or_incomplete_are_refused() {
        let long_csr = Request { csr: vec![0; limits::CSR_BYTES + 1].into(), ..request() };
        assert!(matches!(Request::decode(long_csr.encode()), Err(WireError::Limit { .. })));
        let bell = Request { version: "\u{7}".to_owned(), ..request() };
        assert!(Request::decode(bell.encode()).is_err());
        assert!(Request::decode(Bytes::from(vec![0; limits::JOIN_FRAME_BYTES + 1])).is_err());
        assert!(Answer::decode(Bytes::new()).is_err(), "an empty answer grants nothing");
        let breakers: [fn(&mut Granted); 4] = [
            |g| g.chain.clear(),
            |g| g.chain = vec![Bytes::new(); limits::CHAIN_CERTIFICATES + 1],
            |g| g.root = vec![0; limits::CERTIFICATE_BYTES + 1].into(),
            |g| g.uplink.addresses.clear(),
        ];
        for spoil in breakers {
            let mut broken = granted();
            spoil(&mut broken);
            let answer = Answer { clock_ms: 5, verdict: Ok(Box::new(broken)) };
            assert!(Answer::decode(answer.encode()).is_err());
        }
    }
}
