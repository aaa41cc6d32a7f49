//! The side that wants to become a node.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use tram_proto::id::NodeId;
use tram_proto::join::{Answer, Granted, Refusal, Request, Uplink};
use tram_proto::name::{NodeName, Role, Zone};

use super::{Exporter, prove};
use crate::clock::{SKEW_MS, Span, Utc};
use crate::csr::{self, LeafKey};
use crate::hash::Sha256;
use crate::keystore::{self, KeyError};
use crate::policy;
use crate::token::Token;
use crate::trust::{ChainError, Trust, TrustError};

/// Two machines' clocks at about the same moment, Unix milliseconds. Prints nothing while they agree to
/// [`SKEW_MS`], else both and which one to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// This machine's.
    pub own_ms: u64,
    /// The join server's.
    pub server_ms: u64,
}

impl Clocks {
    /// Whether they are further apart than [`SKEW_MS`].
    #[must_use]
    pub const fn apart(&self) -> bool {
        self.own_ms.abs_diff(self.server_ms) > SKEW_MS
    }
}

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.apart() {
            return Ok(());
        }
        let (own, server) = (Utc(self.own_ms), Utc(self.server_ms));
        let apart = Span(self.own_ms.abs_diff(self.server_ms));
        let side = if self.own_ms < self.server_ms { "behind" } else { "ahead" };
        write!(
            f,
            "this machine's clock says {own}, the join server's {server}: this one is {apart} {side}. Set this machine's clock (`timedatectl set-ntp true`), or the server's if that is the wrong one, and join again with the same token"
        )
    }
}

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The key on this machine.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate request could not be made.
    #[error("the certificate request could not be made: {0}")]
    Request(String),
    /// The server said no.
    #[error("{refusal}{}{clocks}", if .clocks.apart() { ". Also, " } else { "" })]
    Refused {
        /// Why.
        refusal: Refusal,
        /// Both clocks, which may be the reason.
        clocks: Clocks,
    },
    /// The certificate is there, but with these clocks no link would come up. Nothing has been installed.
    #[error("{0}")]
    Clock(Clocks),
    /// The answer's root is not the one in the token.
    #[error("the server's answer carries another root certificate than the token names; nothing was installed")]
    Root,
    /// The answer's root cannot be used.
    #[error("the server's answer cannot be used: {0}")]
    Trust(#[from] TrustError),
    /// The certificate does not hold.
    #[error("the certificate in the server's answer is not accepted: {0}")]
    Chain(#[from] ChainError),
    /// The certificate is for someone or something else.
    #[error("the answer does not fit what was asked: its {0} differs; nothing was installed")]
    Mismatch(&'static str),
    /// The directory is another node's.
    #[error(
        "{dir} is set up already, as node {resident}, and this would make it {wanted}: use another --dir",
        dir = dir.display()
    )]
    Resident {
        /// The directory of the keys.
        dir: PathBuf,
        /// Whose it is, with the zone.
        resident: String,
        /// Whose it would be, with the zone where that is known.
        wanted: String,
    },
    /// No request for this name was made here.
    #[error("this machine has not asked to be node {name}, or has asked anew since: {dir} holds no key that waits for this answer. Run `tram pki csr {name}` here and have that request signed", dir = dir.display())]
    NotAsked {
        /// The name in the answer.
        name: NodeName,
        /// The directory of the keys.
        dir: PathBuf,
    },
    /// The key in use was made for this token.
    #[error("{dir} is set up already, with this very token: start the node with `tramd run`, or to give it a new key make a new token", dir = dir.display())]
    Spent {
        /// The directory of the keys.
        dir: PathBuf,
    },
    /// The server knows the name under another node id.
    #[error(
        "the certificate in the answer is for node id {got}, but this machine has been {known}, and a node that takes another id loses its mail; nothing was installed. If node {known} was revoked, join in an empty directory; otherwise the CA was restored from an old backup"
    )]
    OtherId {
        /// In the answer.
        got: NodeId,
        /// In the certificate here.
        known: NodeId,
    },
}

/// What joining brought. [`crate::keystore::NodeKeys::install`] writes it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Leaf first, root left out.
    pub chain: Vec<CertificateDer<'static>>,
    /// The trust anchor.
    pub root: CertificateDer<'static>,
    /// This node's id from now on.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its role.
    pub role: Role,
    /// The overlay's zone.
    pub zone: Zone,
    /// Whom to dial.
    pub uplink: Uplink,
    /// What the answer brought beyond that for [`keystore::BUNDLE_BIN`]; may be empty.
    pub bundle: Bytes,
}

/// A join under way.
#[derive(Debug)]
pub struct Joining {
    token: Token,
    key: KeyPair,
    csr: Vec<u8>,
    /// The node that lives here already and joins again.
    known: Option<NodeId>,
}

/// Which node lives in `dir`, if one does: only the one that is wanted may ask for another certificate there.
pub(super) fn resident(dir: &Path, zone: Option<&Zone>, name: &NodeName) -> Result<Option<NodeId>, JoinError> {
    let Some((at, peer)) = keystore::resident(dir)? else { return Ok(None) };
    if peer.name == *name && zone.is_none_or(|zone| *zone == at) {
        return Ok(Some(peer.id));
    }
    let wanted = zone.map_or_else(|| name.to_string(), |zone| name.in_zone(zone));
    Err(JoinError::Resident { dir: dir.to_owned(), resident: peer.name.in_zone(&at), wanted })
}

/// Checks what a server or a file grants: the chain holds under the root it brings, is for our key, and says of its node
/// what the rest of the answer says. Whether the root is to be trusted is the caller's to decide.
pub(super) fn check(
    granted: Granted,
    key: &KeyPair,
    wanted: &NodeName,
    known: Option<NodeId>,
    now_ms: u64,
) -> Result<Joined, JoinError> {
    let Granted { chain, root, node, name, role, zone, uplink } = granted;
    let root = CertificateDer::from(root.to_vec());
    let trust = Trust::new(vec![root.clone()])?;
    let chain: Vec<_> = chain.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let peer = trust.verify(&chain, now_ms)?;
    let own = LeafKey::of(key).map_err(|error| JoinError::Request(error.to_string()))?;
    let certified =
        chain.first().and_then(|leaf| policy::parse(leaf).ok()).map(|leaf| Sha256::of(leaf.public_key().raw));
    let fits = [
        (*trust.zone() == zone, "zone"),
        (peer.name == *wanted && name == *wanted, "name"),
        (peer.id == node, "node id"),
        (peer.role == role, "role"),
        (certified == Some(own.hash()), "key"),
    ];
    if let Some((_, what)) = fits.into_iter().find(|(fits, _)| !fits) {
        return Err(JoinError::Mismatch(what));
    }
    if let Some(known) = known.filter(|known| *known != node) {
        return Err(JoinError::OtherId { got: node, known });
    }
    Ok(Joined { chain, root, id: node, name, role, zone, uplink, bundle: Bytes::new() })
}

impl Joining {
    /// Begins with the key for this token in `dir`, which is made and written durably if there is none: a lost answer must
    /// find the same key again. Where the node of the token lives already it joins again, with a new key; the pair in use
    /// stays until [`keystore::NodeKeys::install`].
    ///
    /// # Errors
    /// [`JoinError::Key`], [`JoinError::Resident`], [`JoinError::Spent`].
    pub fn begin(dir: &Path, token: Token) -> Result<Self, JoinError> {
        let known = resident(dir, Some(&token.zone), &token.name)?;
        let occasion = format!("token {}", token.id);
        // A key in use that is lost or spoilt is what this joins again for.
        if known.is_some() && keystore::occasion_in_use(dir).is_ok_and(|used| used == occasion) {
            return Err(JoinError::Spent { dir: dir.to_owned() });
        }
        let key = keystore::stage(dir, &occasion)?;
        let csr = csr::request(&key).map_err(|error| JoinError::Request(error.to_string()))?;
        Ok(Self { token, key, csr, known })
    }

    /// Whether a node lives here already and joins again.
    #[must_use]
    pub const fn is_again(&self) -> bool {
        self.known.is_some()
    }

    /// The token: where to dial ([`Token::join`]) and what to pin ([`crate::verify::join_client`]).
    #[must_use]
    pub const fn token(&self) -> &Token {
        &self.token
    }

    /// What to send on a channel whose exporter is `exporter`. `version` is of this software.
    #[must_use]
    pub fn request(&self, exporter: &Exporter, version: &str, now_ms: u64) -> Request {
        Request {
            token: self.token.id,
            csr: self.csr.clone().into(),
            mac: prove(self.token.secret.hash(), exporter, &self.csr),
            clock_ms: now_ms,
            version: version.to_owned(),
        }
    }

    /// Checks the answer: pinned root, valid chain, the name the token promised, our own key.
    ///
    /// # Errors
    /// [`JoinError`]. With [`JoinError::Clock`] or a lost answer, the same token and key may try again.
    pub fn accept(&self, answer: Answer, now_ms: u64) -> Result<Joined, JoinError> {
        let clocks = Clocks { own_ms: now_ms, server_ms: answer.clock_ms };
        let granted = answer.verdict.map_err(|refusal| JoinError::Refused { refusal, clocks })?;
        if clocks.apart() {
            return Err(JoinError::Clock(clocks));
        }
        if Sha256::of(&granted.root) != self.token.root {
            return Err(JoinError::Root);
        }
        let joined = check(*granted, &self.key, &self.token.name, self.known, now_ms)?;
        let fits = [(joined.zone == self.token.zone, "zone"), (joined.uplink == self.token.uplink, "uplink")];
        match fits.into_iter().find(|(fits, _)| !fits) {
            Some((_, what)) => Err(JoinError::Mismatch(what)),
            None => Ok(joined),
        }
    }
}
