//! The side that holds the CA.

use tram_proto::join::{Answer, Granted, Refusal, Request, TokenId};
use tram_proto::name::NodeName;

use super::{Exporter, proves, short};
use crate::authority::Authority;
use crate::clock::Utc;
use crate::csr::{CsrError, LeafKey};
use crate::registry::{Binding, Registry, TokenRecord, TokenState};

/// Why a request was refused, exactly: for this node's log, never for the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The registry has no such token.
    #[error("token {} is unknown", short(*.0))]
    UnknownToken(TokenId),
    /// The secret was not proved for this channel and key.
    #[error("wrong proof for token {} ({name}){}", short(*.token), if *.froze { ": the token is frozen now" } else { "" })]
    WrongProof {
        /// Which token.
        token: TokenId,
        /// For which name.
        name: NodeName,
        /// Whether this was one too many.
        froze: bool,
    },
    /// The token had ended before.
    #[error("{name}'s token is {}", .state.as_str())]
    Ended {
        /// For which name.
        name: NodeName,
        /// How it ended.
        state: TokenState,
    },
    /// The token's time is over by this node's clock.
    #[error("{name}'s token expired at {}; the other machine's clock says {}", Utc(*.expires_ms), Utc(*.their_clock_ms))]
    Expired {
        /// For which name.
        name: NodeName,
        /// When, Unix milliseconds.
        expires_ms: u64,
        /// What the joining machine thinks the time is, Unix milliseconds.
        their_clock_ms: u64,
    },
    /// The certificate request.
    #[error("{name}: {error}")]
    Csr {
        /// For which name.
        name: NodeName,
        /// What is wrong.
        error: CsrError,
    },
    /// Two machines have the token.
    #[error(
        "two machines hold {name}'s token: {} used it at {}, and now {second} with another key; the token is frozen. If the first is not yours, make a new token for the name and join again",
        .first.source, Utc(.first.at_ms)
    )]
    SecondKey {
        /// For which name.
        name: NodeName,
        /// The first use.
        first: Box<Binding>,
        /// The address of the second.
        second: String,
    },
    /// The key is certified for another name.
    #[error("{name}'s request uses the key of node {holder}: its disk has been copied")]
    KeyOfAnotherNode {
        /// For which name.
        name: NodeName,
        /// Who has the key.
        holder: NodeName,
    },
    /// The key is that of a certificate that was revoked.
    #[error("{0}'s request uses a key whose certificate was revoked: the node has to make a new one")]
    RevokedKey(NodeName),
    /// Issuing or recording failed here; the token is not spent.
    #[error("{name} could not be given a certificate: {why}")]
    Failed {
        /// For which name.
        name: NodeName,
        /// What failed.
        why: String,
    },
}

impl Cause {
    /// Whether a person should look at it soon.
    #[must_use]
    pub const fn is_alarm(&self) -> bool {
        matches!(
            self,
            Self::SecondKey { .. }
                | Self::KeyOfAnotherNode { .. }
                | Self::RevokedKey(_)
                | Self::Failed { .. }
                | Self::WrongProof { froze: true, .. }
        )
    }

    /// What the joining admin may know. Nothing but "unknown" before the secret is proved.
    const fn refusal(&self) -> Refusal {
        match self {
            Self::UnknownToken(_) | Self::WrongProof { .. } => Refusal::Unknown,
            Self::Ended { state: TokenState::FrozenByProofs, .. } => Refusal::Frozen,
            Self::Ended { state: TokenState::Cancelled | TokenState::New, .. } => Refusal::Cancelled,
            Self::Ended { .. } | Self::SecondKey { .. } => Refusal::UsedByAnotherKey,
            Self::Expired { .. } => Refusal::Expired,
            Self::Csr { .. } | Self::KeyOfAnotherNode { .. } | Self::RevokedKey(_) => Refusal::Csr,
            Self::Failed { .. } => Refusal::Unavailable,
        }
    }
}

/// Answers a join request. `exporter` is this end's own export from the channel the request came by; `source` is the
/// requester's address, for the audit log. Everything the answer promises is durable when this returns. The cause is for
/// the log, one line for each refusal.
pub fn answer(
    registry: &mut Registry,
    authority: &Authority,
    request: &Request,
    exporter: &Exporter,
    source: &str,
    now_ms: u64,
) -> (Answer, Option<Cause>) {
    match grant(registry, authority, request, exporter, source, now_ms) {
        Ok(granted) => (Answer { clock_ms: now_ms, verdict: Ok(Box::new(granted)) }, None),
        Err(cause) => (Answer { clock_ms: now_ms, verdict: Err(cause.refusal()) }, Some(cause)),
    }
}

fn grant(
    registry: &mut Registry,
    authority: &Authority,
    request: &Request,
    exporter: &Exporter,
    source: &str,
    now_ms: u64,
) -> Result<Granted, Cause> {
    let Some(token) = registry.token(&request.token).cloned() else {
        return Err(Cause::UnknownToken(request.token));
    };
    let name = token.name.clone();
    let failed = |error: &dyn std::fmt::Display| Cause::Failed { name: name.clone(), why: error.to_string() };
    if !proves(token.secret, exporter, &request.csr, &request.mac) {
        let froze = registry.wrong_proof(token.id, source, now_ms).map_err(|error| failed(&error))?;
        return Err(Cause::WrongProof { token: token.id, name, froze });
    }
    if !matches!(token.state, TokenState::New | TokenState::Bound) {
        return Err(Cause::Ended { name, state: token.state });
    }
    if now_ms >= token.expires_ms {
        return Err(Cause::Expired { name, expires_ms: token.expires_ms, their_clock_ms: request.clock_ms });
    }
    let key = LeafKey::from_csr(&request.csr).map_err(|error| Cause::Csr { name: name.clone(), error })?;
    if let Some(first) = &token.binding {
        if first.key != key.hash() {
            registry.second_key(token.id, key.hash(), source, now_ms).map_err(|error| failed(&error))?;
            return Err(Cause::SecondKey { name, first: Box::new(first.clone()), second: source.to_owned() });
        }
        let certificate = token.certificate().ok_or_else(|| failed(&"its certificate is missing from the registry"))?;
        return granted(authority, &token, certificate.as_ref()).ok_or_else(|| failed(&"its uplink is unreadable"));
    }
    if let Some(holder) = registry.other_holder(key.hash(), &name) {
        return Err(Cause::KeyOfAnotherNode { holder: holder.clone(), name });
    }
    if registry.is_revoked_key(key.hash()) {
        return Err(Cause::RevokedKey(name));
    }
    let issued = authority.issue(&key, &token.subject(), now_ms).map_err(|error| failed(&error))?;
    let granted = granted(authority, &token, &issued.certificate).ok_or_else(|| failed(&"its uplink is unreadable"))?;
    registry.bind(token.id, &issued, source, key.wishes()).map_err(|error| failed(&error))?;
    Ok(granted)
}

fn granted(authority: &Authority, token: &TokenRecord, certificate: &[u8]) -> Option<Granted> {
    Some(Granted {
        chain: super::chain(authority, certificate),
        root: authority.root().to_vec().into(),
        node: token.node,
        name: token.name.clone(),
        role: token.role,
        zone: authority.zone().clone(),
        uplink: token.uplink()?,
    })
}
