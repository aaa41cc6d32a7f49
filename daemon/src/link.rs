//! The links: quinn endpoints, who is dialled, who is let in, and the tasks of each connection.
//!
//! | module | owns |
//! |---|---|
//! | [`endpoint`] | sockets and transport parameters |
//! | [`dialer`], [`acceptor`] | how links come to be, from either end |
//! | [`trust`] | what links ask of the PKI |
//! | [`pace`] | how fast a link sends |
//! | [`traffic`] | what a link carried |
//! | `session` | one connection: its tasks, its end |
//! | `reader`, `writer` | frames in, frames out |
//! | [`pki`] | what neighbours tell each other about certificates |
//! | `gate` | which of the bytes that wait goes next |
//! | `transfer` | runs of units in: verified, then stored |
//!
//! Never decides what is sent: that is the core's affair. Guarantees that a peer's bytes are held to the limits of
//! `tram_proto::limits`, that only verified units reach the spool, and that whatever ends a link is logged with the
//! peer's name and told to the peer. DESIGN §4; `research/quic.md`.

pub mod acceptor;
mod cure;
pub mod dialer;
pub mod endpoint;
mod fault;
mod gate;
mod offered;
pub mod pace;
pub mod pki;
mod reader;
mod run;
mod session;
mod signers;
pub mod traffic;
mod transfer;
pub mod trust;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tram_congestion::Line;
use tram_proto::id::NodeId;
use tram_proto::name::NodeName;
use tram_relay::input::{LinkId, Side};

use crate::clock::Clock;
use crate::engine::handle::EngineHandle;
use crate::link::pki::herald::Herald;
use crate::link::traffic::Traffic;
use crate::link::trust::Trust;
use crate::plan::Plan;
use crate::spool::{Spool, SpoolError};

pub(crate) use fault::{explain, says_revoked};

/// A repeated cause of one peer is logged once in this time, in milliseconds.
const SAY_AGAIN_MS: u64 = 10 * 60 * 1000;
/// Causes remembered for that; beyond them the memory starts anew.
const CAUSES: usize = 1024;
/// Neighbours remembered as revoked, for `link list`; beyond them the memory starts anew.
const REVOKED: usize = 1024;

/// What all links of this node share.
pub struct Here {
    /// This node.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Other names by which mail is for this node: it is being renamed, or was.
    pub called: watch::Sender<BTreeSet<NodeName>>,
    /// Its clock.
    pub clock: Clock,
    /// The door to the core.
    pub engine: EngineHandle,
    /// The disk.
    pub spool: Arc<dyn Spool>,
    /// The PKI.
    pub trust: Arc<dyn Trust>,
    /// What is told of it and asked; without it no neighbour hears of the PKI.
    pub herald: Option<Arc<Herald>>,
    /// Runs that links may have in flight beyond those each has anyway.
    more_runs: Arc<Semaphore>,
    /// The bandwidth plan in force.
    pub plan: watch::Sender<Arc<Plan>>,
    said: Mutex<HashMap<(String, String), u64>>,
    open: watch::Sender<BTreeMap<LinkId, OpenLink>>,
    revoked: Mutex<BTreeMap<NodeName, RevokedLink>>,
}

/// A neighbour whose last link ended because its certificate was revoked, or ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedLink {
    /// The neighbour.
    pub peer: NodeName,
    /// Above or below.
    pub side: Side,
    /// When the link ended, Unix milliseconds.
    pub at_ms: u64,
    /// Where it was.
    pub remote: SocketAddr,
    /// Why, in full.
    pub why: String,
}

/// A connection that serves a link now.
#[derive(Debug, Clone)]
pub struct OpenLink {
    /// The instance.
    pub id: LinkId,
    /// The neighbour.
    pub peer: NodeName,
    /// Above or below.
    pub side: Side,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// What is known of the line to it.
    pub line: Arc<Line>,
    /// What it carried, by class.
    pub traffic: Arc<Traffic>,
    /// For its address and counters.
    pub connection: quinn::Connection,
}

impl Debug for Here {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Here").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Here {
    /// Brings together what links need.
    #[must_use]
    pub fn new(
        (id, name): (NodeId, NodeName),
        clock: Clock,
        engine: EngineHandle,
        spool: Arc<dyn Spool>,
        trust: Arc<dyn Trust>,
        herald: Option<Arc<Herald>>,
    ) -> Arc<Self> {
        let plan = watch::Sender::new(Arc::default());
        let (said, open) = (Mutex::default(), watch::Sender::new(BTreeMap::new()));
        let more_runs = Arc::new(Semaphore::new(endpoint::MORE_RUNS));
        let (revoked, called) = (Mutex::default(), watch::Sender::default());
        Arc::new(Self { id, name, called, clock, engine, spool, trust, herald, more_runs, plan, said, open, revoked })
    }

    /// Waits until every link has said bye and closed, at most so long.
    pub async fn closed(&self, at_most: Duration) {
        let mut open = self.open.subscribe();
        let _ = tokio::time::timeout(at_most, open.wait_for(BTreeMap::is_empty)).await;
    }

    /// The connections that serve links now.
    #[must_use]
    pub fn connections(&self) -> Vec<OpenLink> {
        self.open.borrow().values().cloned().collect()
    }

    /// Neighbours that were cut off because a certificate was revoked, and have not been back.
    #[must_use]
    pub fn revoked(&self) -> Vec<RevokedLink> {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn opened(&self, link: OpenLink) {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).remove(&link.peer);
        self.open.send_modify(|links| _ = links.insert(link.id, link));
    }

    /// Forgets a connection; `revoked` says why, where it ended because a certificate was revoked.
    fn gone(&self, id: LinkId, revoked: Option<String>) {
        let mut link = None;
        self.open.send_modify(|links| link = links.remove(&id));
        let Some((link, why)) = link.zip(revoked) else { return };
        let mut all = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REVOKED {
            all.clear();
        }
        let remote = link.connection.remote_address();
        let gone = RevokedLink { peer: link.peer, side: link.side, at_ms: self.clock.wall_ms(), remote, why };
        all.insert(gone.peer.clone(), gone);
    }

    /// Whether to log this cause for this peer now: each distinct one once in ten minutes.
    fn is_news(&self, peer: &str, cause: &str) -> bool {
        let now_ms = self.clock.mono_ms();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (peer.to_owned(), cause.to_owned());
        if said.get(&key).is_some_and(|at_ms| now_ms.saturating_sub(*at_ms) < SAY_AGAIN_MS) {
            return false;
        }
        if said.len() >= CAUSES {
            said.clear();
        }
        said.insert(key, now_ms);
        true
    }

    /// Runs a call of the spool where it may block.
    async fn on_disk<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let spool = self.spool.clone();
        blocking(move || call(spool.as_ref())).await
    }
}

/// Runs a call where it may block.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}
