//! The CA of a node that holds one: tokens for `tram token`, answers for the join listener.
//!
//! One lock around the registry, taken only on threads that may block: every change is on disk before it is answered.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tram_pki::authority::Authority;
use tram_pki::enrol::{self, Cause, Exporter};
use tram_pki::registry::{self, Registry, RegistryError, TokenState};
use tram_proto::id::NodeId;
use tram_proto::join::{Answer, HostPort, Request, Uplink};
use tram_proto::name::NodeName;

use crate::clock::Clock;
use crate::local::station::{Issuer, IssuerError, Registered, TokenFacts, TokenMade, TokenOrder};
use crate::setup::Reachable;

/// The authority, its registry, and where they can be reached.
pub struct Desk {
    authority: Authority,
    registry: Mutex<Registry>,
    name: NodeName,
    reachable: Result<Reachable, String>,
    clock: Clock,
    /// Counts changes of the registry.
    changed: watch::Sender<u64>,
}

impl Desk {
    /// Brings them together.
    #[must_use]
    pub fn new(
        authority: Authority,
        registry: Registry,
        name: NodeName,
        reachable: Result<Reachable, String>,
        clock: Clock,
    ) -> Self {
        Self { authority, registry: Mutex::new(registry), name, reachable, clock, changed: watch::Sender::new(0) }
    }

    /// Changes of the registry, to be looked at.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The root certificate, DER.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Names that exist: nodes, and those that a live token will admit.
    #[must_use]
    pub fn names(&self) -> Vec<(NodeName, NodeId)> {
        let now_ms = self.clock.wall_ms();
        let registry = self.registry();
        let tokens = registry.tokens().filter(|t| t.is_live(now_ms)).map(|t| (t.name.clone(), t.node));
        tokens.chain(registry.nodes().map(|n| (n.name.clone(), n.id))).collect()
    }

    /// Until when the join listener has to be open, Unix milliseconds.
    #[must_use]
    pub fn join_open_until_ms(&self) -> Option<u64> {
        self.registry().join_open_until_ms(self.clock.wall_ms())
    }

    /// Answers a request to join. Blocks on the disk.
    #[must_use]
    pub fn answer(&self, request: &Request, exporter: &Exporter, source: &str) -> (Answer, Option<Cause>) {
        let mut registry = self.registry();
        let now_ms = self.clock.wall_ms();
        let answer = enrol::answer(&mut registry, &self.authority, request, exporter, source, now_ms);
        drop(registry);
        self.changed.send_modify(|n| *n += 1);
        answer
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // A panic while it was held left the file whole: changes are made on disk first.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uplink(&self, text: Option<&str>, reachable: &Reachable) -> Result<Uplink, IssuerError> {
        let Some(text) = text else {
            if reachable.overlay.is_empty() {
                let why = "this node listens nowhere ([listen] overlay): name the new node's uplink with --uplink NODE@HOST:PORT";
                return Err(IssuerError::Invalid(why.to_owned()));
            }
            return Ok(Uplink { node: self.name.clone(), addresses: reachable.overlay.clone() });
        };
        let invalid = |why: String| IssuerError::Invalid(format!("--uplink {text}: {why}"));
        let (node, address) = text.split_once('@').ok_or_else(|| invalid("write it as NODE@HOST:PORT".to_owned()))?;
        let node: NodeName = node.parse().map_err(|e| invalid(format!("{e}")))?;
        let address: HostPort = address.parse().map_err(|e| invalid(format!("{e}")))?;
        Ok(Uplink { node, addresses: vec![address] })
    }
}

impl Issuer for Desk {
    fn new_token(&self, order: TokenOrder) -> Result<TokenMade, IssuerError> {
        let reachable = self.reachable.as_ref().map_err(|why| IssuerError::Invalid(why.clone()))?;
        let order = registry::TokenOrder {
            uplink: self.uplink(order.uplink.as_deref(), reachable)?,
            name: order.name,
            role: order.role,
            lifetime_ms: order.ttl_ms.unwrap_or(registry::TOKEN_MS),
            join: reachable.join.clone(),
            by: order.by,
        };
        let token = self.registry().new_token(&self.authority, &order, self.clock.wall_ms()).map_err(issuer_error)?;
        self.changed.send_modify(|n| *n += 1);
        Ok(TokenMade { id: token.id.to_string(), line: token.to_text(), expires_ms: token.expires_ms })
    }

    fn tokens(&self) -> Result<Vec<TokenFacts>, IssuerError> {
        let now_ms = self.clock.wall_ms();
        let registry = self.registry();
        let facts = registry.tokens().map(|token| TokenFacts {
            id: token.id.to_string(),
            name: token.name.clone(),
            role: token.role,
            state: match token.state {
                TokenState::New if token.is_live(now_ms) => "live",
                TokenState::New => "expired",
                TokenState::Cancelled => "cancelled",
                TokenState::FrozenByKey | TokenState::FrozenByProofs => "frozen",
                _ => "used",
            },
            created_ms: token.created_ms,
            expires_ms: token.expires_ms,
        });
        Ok(facts.collect())
    }

    fn cancel_token(&self, token: &str) -> Result<(), IssuerError> {
        let mut registry = self.registry();
        let by_id = registry.tokens().find(|t| t.id.to_string() == token).map(|t| t.name.clone());
        let unknown = || IssuerError::NoSuchToken(token.to_owned());
        let name = match by_id {
            Some(name) => name,
            None => token.parse().map_err(|_| unknown())?,
        };
        registry.cancel_token(&name, "admin socket", self.clock.wall_ms()).map_err(issuer_error)?;
        drop(registry);
        self.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    fn nodes(&self) -> Result<Vec<Registered>, IssuerError> {
        let registry = self.registry();
        let nodes = registry.nodes().map(|node| Registered {
            node: node.id,
            name: node.name.clone(),
            role: node.role,
            not_after_ms: node.certificates.iter().map(|c| c.not_after_ms).max().unwrap_or(0),
        });
        Ok(nodes.collect())
    }
}

fn issuer_error(error: RegistryError) -> IssuerError {
    match error {
        RegistryError::NoToken(token) => IssuerError::NoSuchToken(token),
        RegistryError::Central(_) | RegistryError::Lifetime | RegistryError::Addresses => {
            IssuerError::Invalid(error.to_string())
        }
        other => IssuerError::Failed(other.to_string()),
    }
}
