//! The side that wants to become a node.

use std::fmt;
use std::path::Path;

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
    #[error("the server's answer does not fit the token: its {0} differs; nothing was installed")]
    Mismatch(&'static str),
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
    /// Both clocks.
    pub clocks: Clocks,
}

/// A join under way.
#[derive(Debug)]
pub struct Joining {
    token: Token,
    key: KeyPair,
    csr: Vec<u8>,
}

impl Joining {
    /// Begins with the key in `dir`, which is made and written durably if there is none: a lost answer must find the same
    /// key again.
    ///
    /// # Errors
    /// [`JoinError::Key`], also when `dir` holds a node's certificate already.
    pub fn begin(dir: &Path, token: Token) -> Result<Self, JoinError> {
        let key = keystore::joining_key(dir)?;
        let csr = csr::request(&key).map_err(|error| JoinError::Request(error.to_string()))?;
        Ok(Self { token, key, csr })
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
        let Granted { chain, root, node, name, role, zone, uplink } = *granted;
        let root = CertificateDer::from(root.to_vec());
        if Sha256::of(&root) != self.token.root {
            return Err(JoinError::Root);
        }
        let trust = Trust::new(vec![root.clone()])?;
        let chain: Vec<_> = chain.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let peer = trust.verify(&chain, now_ms)?;
        let own = LeafKey::of(&self.key).map_err(|error| JoinError::Request(error.to_string()))?;
        let certified =
            chain.first().and_then(|leaf| policy::parse(leaf).ok()).map(|leaf| Sha256::of(leaf.public_key().raw));
        let fits = [
            (*trust.zone() == self.token.zone && zone == self.token.zone, "zone"),
            (peer.name == self.token.name && name == self.token.name, "name"),
            (peer.id == node, "node id"),
            (peer.role == role, "role"),
            (certified == Some(own.hash()), "key"),
            (uplink == self.token.uplink, "uplink"),
        ];
        if let Some((_, what)) = fits.into_iter().find(|(fits, _)| !fits) {
            return Err(JoinError::Mismatch(what));
        }
        Ok(Joined { chain, root, id: node, name, role, zone, uplink, clocks })
    }
}
