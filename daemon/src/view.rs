//! What the local sockets may know of this node beside the engine: who it is, its connections.

use std::sync::Arc;

use tokio::sync::watch;
use tram_relay::input::Side;

use crate::clock::Clock;
use crate::config::Config;
use crate::link::dialer::{UplinkState, UplinkStatus};
use crate::link::trust::NodeTrust;
use crate::link::{Here, OpenLink, says_revoked};
use crate::local::station::{Identity, LinkFacts, Station, Wire};

/// The node as its own sockets see it.
pub(crate) struct View {
    identity: Identity,
    uplinks: watch::Receiver<Vec<UplinkStatus>>,
    here: Arc<Here>,
    clock: Clock,
}

impl View {
    /// Brings it together.
    #[must_use]
    pub(crate) fn new(
        trust: &NodeTrust,
        config: &Config,
        clock: Clock,
        uplinks: watch::Receiver<Vec<UplinkStatus>>,
        here: Arc<Here>,
    ) -> Self {
        let keys = trust.keys();
        let me = keys.identity();
        let identity = Identity {
            node: me.id,
            name: me.name.clone(),
            zone: keys.zone().clone(),
            role: me.role,
            title: config.node.title.clone(),
            started_ms: clock.wall_ms(),
        };
        Self { identity, uplinks, here, clock }
    }
}

impl Station for View {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn links(&self) -> Vec<LinkFacts> {
        let open = self.here.connections();
        let mut facts: Vec<LinkFacts> = open
            .iter()
            .map(|c| {
                let stats = c.connection.stats();
                LinkFacts {
                    peer: c.peer.clone(),
                    uplink: matches!(c.side, Side::Up(_)),
                    wire: Wire::Open,
                    address: c.connection.remote_address().to_string(),
                    since_ms: c.since_ms,
                    rtt_us: u64::try_from(c.connection.rtt().as_micros()).ok(),
                    sent_bytes: stats.udp_tx.bytes,
                    received_bytes: stats.udp_rx.bytes,
                    error: String::new(),
                }
            })
            .collect();
        for uplink in self.uplinks.borrow().iter() {
            // One that was renamed answers by its new name.
            let is_it = |c: &OpenLink| c.peer == uplink.node || Some(c.connection.remote_address()) == uplink.remote;
            if open.iter().any(|c| matches!(c.side, Side::Up(_)) && is_it(c)) {
                continue;
            }
            facts.push(LinkFacts {
                peer: uplink.node.clone(),
                uplink: true,
                wire: match uplink.state {
                    // Also while it is dialled again: that changes only when a person has done something.
                    _ if uplink.last_error.as_deref().is_some_and(says_revoked) => Wire::Revoked,
                    UplinkState::Down => Wire::Down,
                    UplinkState::Connecting | UplinkState::Up => Wire::Connecting,
                },
                address: uplink.remote.map(|a| a.to_string()).unwrap_or_default(),
                since_ms: 0,
                rtt_us: None,
                sent_bytes: 0,
                received_bytes: 0,
                error: uplink.last_error.clone().unwrap_or_default(),
            });
        }
        let below = self.here.revoked().into_iter().filter(|gone| gone.side == Side::Down);
        facts.extend(below.map(|gone| LinkFacts {
            peer: gone.peer,
            uplink: false,
            wire: Wire::Revoked,
            address: gone.remote.to_string(),
            since_ms: gone.at_ms,
            rtt_us: None,
            sent_bytes: 0,
            received_bytes: 0,
            error: gone.why,
        }));
        facts
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ms()
    }
}
