//! Lets children in. The certificate check is rustls's and the PKI's; who fails it is refused in the handshake.

use std::sync::Arc;
use std::time::Duration;

use quinn::Incoming;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tram_congestion::Line;
use tram_relay::input::Side;

use crate::link::endpoint::Endpoints;
use crate::link::fault::{explain, timeless};
use crate::link::{Here, cure, session};
use crate::metrics::tally::Kind;

/// A handshake may take so long.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Handshakes under way at once. Each costs about 2 ms of a core.
const HANDSHAKES: usize = 64;
/// From so many on, strangers have to show that they receive at their address before anything is kept of them.
const UNPROVEN: usize = 16;

/// Accepts links until the endpoint closes. A node that does not listen returns at once.
pub async fn run(here: Arc<Here>, endpoints: Arc<Endpoints>) {
    let Some(endpoint) = endpoints.listening() else { return };
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let cures = Arc::new(Semaphore::new(cure::AT_ONCE));
    let mut links = JoinSet::new();
    if let Err(why) = here
        .trust
        .server()
        .and_then(|tls| endpoints.server(tls))
        .map(|(config, _)| endpoint.set_server_config(Some(config)))
    {
        tracing::error!("no link can be accepted: {why}");
        return;
    }
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => incoming,
                None => return,
            },
            Some(_) = links.join_next() => continue,
        };
        let busy = places.available_permits() < HANDSHAKES - UNPROVEN;
        if busy && incoming.may_retry() && !incoming.remote_address_validated() {
            let _ = incoming.retry();
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (here, endpoints, cures) = (here.clone(), endpoints.clone(), cures.clone());
        links.spawn(async move {
            let connected = admit(&here, &endpoints, incoming).await;
            drop(place);
            match connected {
                Some((connection, _)) if cure::is_cure(&connection) => match cures.try_acquire_owned() {
                    Ok(_place) => cure::serve(here, connection).await,
                    Err(_) => connection.close(0u32.into(), b"too many ask at once; come again"),
                },
                Some((connection, line)) => serve(here, connection, line).await,
                None => {}
            }
        });
    }
}

async fn admit(here: &Here, endpoints: &Endpoints, incoming: Incoming) -> Option<(quinn::Connection, Arc<Line>)> {
    let remote = incoming.remote_address();
    let admitted = async {
        // Made anew for each: a renewed certificate or a revocation counts from the next handshake on.
        let (config, line) = endpoints.server(here.trust.server()?)?;
        let connecting = incoming.accept_with(Arc::new(config)).map_err(|error| explain(&error))?;
        match tokio::time::timeout(HANDSHAKE, connecting).await {
            Ok(connected) => connected.map(|connection| (connection, line)).map_err(|error| explain(&error)),
            Err(_) => Err(format!("its handshake took more than {} s", HANDSHAKE.as_secs())),
        }
    };
    match admitted.await {
        Ok(connected) => Some(connected),
        Err(why) => {
            here.engine.tally().error(Kind::HandshakeRefused);
            if here.is_news(&remote.ip().to_string(), timeless(&why)) {
                tracing::warn!(%remote, "link refused: {why}");
            }
            None
        }
    }
}

async fn serve(here: Arc<Here>, connection: quinn::Connection, line: Arc<Line>) {
    let remote = connection.remote_address();
    let name =
        session::peer_of(&here, &connection).map_or_else(|| remote.to_string(), |(peer, _)| peer.name.to_string());
    let fault = session::run(here.clone(), (connection, line), Side::Down, || {}, std::future::pending()).await;
    if fault.is_orderly() {
        tracing::info!(peer = %name, "link down: {fault}");
    } else if here.is_news(&name, &fault.to_string()) {
        tracing::warn!(peer = %name, %remote, "link down: {fault}");
    }
}
