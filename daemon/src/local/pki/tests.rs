//! The calls about certificates over a real socket, with a real PKI behind them.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tram_pki::keystore::{self, NodeKeys};

use super::*;
use crate::registrar::Registrar;

/// Of a node named central that has just founded its overlay, in `dir`; with its CA or without.
pub(in crate::local) fn door(dir: &Path, with_ca: bool) -> Arc<PkiDoor> {
    let (pki, clock) = (dir.join("pki"), Clock::default());
    let (zone, name) = ("tram.internal".parse().expect("zone"), "central".parse().expect("name"));
    keystore::found(&pki, &zone, &name, clock.wall_ms()).expect("founded");
    let keys = NodeKeys::load(&pki).expect("loads");
    let who = (keys.identity().id, keys.identity().name.clone());
    let trust = Arc::new(NodeTrust::new(keys, tram_pki::pins::Pins::default(), clock));
    let shelf = Shelf::open(&pki, trust.clone(), clock).expect("opens");
    let address = |text: &str| vec![text.parse().expect("address")];
    let reachable = crate::setup::Reachable { join: address("10.0.0.1:7444"), overlay: address("10.0.0.1:7443") };
    let desk = with_ca.then(|| {
        let desk = Desk::open(&pki, None, shelf.clone(), who.clone(), Ok(reachable), clock).expect("opens");
        desk.publish(false);
        Arc::new(desk)
    });
    let registrar = Registrar::new(shelf.clone(), desk.clone(), trust.clone(), Vec::new(), None, clock);
    let herald = Herald::new(who, clock, registrar);
    let (renew_now, tried) = (watch::Sender::new(0), watch::channel(Tried::default()).1);
    Arc::new(PkiDoor { pki, shelf, desk, herald, trust, renew_now, tried, clock })
}
