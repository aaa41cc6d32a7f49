//! Certificates that end, are revoked or replaced while links are up: rows 10, 11, 18 and 30 of the attack list.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, VarInt};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls_pki_types::CertificateDer;
use tram_pki::authority::LEAF_MS;
use tram_pki::keystore::NodeKeys;
use tram_pki::trust::Trust as Roots;
use tram_proto::frame::StreamKind;
use tram_relay::input::Input;

use super::fixture::*;
use crate::clock::Clock;
use crate::link::dialer::UplinkState;
use crate::link::endpoint::{Endpoints, SERVER_NAME};
use crate::link::pace::Pace;
use crate::link::trust::{NodeTrust, Trust};

/// A trust under which every node of `overlay` counts as revoked: only another root is believed.
fn nobody() -> Arc<Roots> {
    Overlay::new().central.trust().clone()
}

async fn down(station: &mut Station) {
    while !matches!(station.next_input().await, Input::LinkDown { .. }) {}
}

/// The live link ends within moments, both ends know why, and there is no new one.
#[tokio::test]
async fn row_11_a_revoked_peer_loses_its_live_link_and_gets_no_new_one() {
    let overlay = Overlay::new();
    let mut central = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let mut can_tho = Station::new(&overlay.admit("can-tho"), None);
    let uplinks = can_tho.dial("central", central.address());
    let _links = (central.link_up().await, can_tho.link_up().await);
    let began_ms = Clock::default().mono_ms();
    central.trust.replace_trust(nobody());
    let why = status(&uplinks, |s| s.last_error.is_some()).await.last_error.expect("a reason");
    assert!(why.contains("certificate revoked (code 82)"), "{why}");
    assert!(why.contains("`tram token new can-tho --rejoin`"), "the cure: {why}");
    down(&mut central).await;
    down(&mut can_tho).await;
    central.here.closed(SOON).await;
    assert!(Clock::default().mono_ms() - began_ms < 5_000, "5 s from the change on");
    let gone = central.here.revoked();
    assert_eq!(gone.iter().map(|g| g.peer.as_str()).collect::<Vec<_>>(), ["can-tho"]);
    let refused = |s: &crate::link::dialer::UplinkStatus| {
        s.state == UplinkState::Down && s.last_error.as_deref().is_some_and(|why| why.contains("the peer refused"))
    };
    status(&uplinks, refused).await;
    central.silent(Duration::from_millis(300)).await;
}

/// The handshake was over before the trust changed, the link came after.
#[tokio::test]
async fn row_11_a_handshake_just_before_the_change_does_not_slip_through() {
    let overlay = Overlay::new();
    let keys = overlay.admit("can-tho");
    let mut central = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let endpoints = Endpoints::open(None, quic_keys(&keys), Pace::default()).expect("opens");
    let connection = Raw::connect(&endpoints, &keys, &central).await;
    // The server has accepted the certificate by then.
    while connection.stats().frame_rx.handshake_done == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    central.trust.replace_trust(nobody());
    let (mut control, _replies) = connection.open_bi().await.expect("opens");
    control.write_all(&[StreamKind::Control.to_byte()]).await.expect("written");
    assert_eq!(closed(&connection).await, (82, "certificate revoked".to_owned()));
    // The core never heard of it.
    assert!(matches!(central.next_input().await, Input::LinkDown { .. }));
}

async fn closed(connection: &Connection) -> (u32, String) {
    match tokio::time::timeout(SOON, connection.closed()).await.expect("in time") {
        quinn::ConnectionError::ApplicationClosed(close) => {
            let code = u32::try_from(close.error_code.into_inner()).expect("small");
            (code, String::from_utf8(close.reason.to_vec()).expect("text"))
        }
        other => panic!("not closed by the peer: {other}"),
    }
}

#[tokio::test]
async fn row_18_a_link_ends_with_the_peers_certificate() {
    let overlay = Overlay::new();
    let keys = overlay.renew(&overlay.admit("can-tho"), LEAF_MS - 2_000);
    let end_ms = keys.identity().not_after_ms;
    let mut central = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let raw = Raw::dial(&keys, &central).await;
    let _up = central.link_up().await;
    assert_eq!(closed(&raw.connection).await, (82, "certificate expired".to_owned()));
    let late_ms = Clock::default().wall_ms().saturating_sub(end_ms);
    // A certificate's last second belongs to it.
    assert!((1_000..4_000).contains(&late_ms), "{late_ms} ms after its end");
    down(&mut central).await;
    assert_eq!(central.here.revoked(), [], "expired is not revoked");
}

/// What was let in before stays, what is dialled afterwards shows the new certificate.
#[tokio::test]
async fn new_keys_count_from_the_next_handshake_on() {
    let overlay = Overlay::new();
    let old = overlay.admit("can-tho");
    let new = overlay.renew(&old, 0);
    let mut central = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let can_tho = Station::new(&old, None);
    let first = can_tho.dial("central", central.address());
    let _first = central.link_up().await;
    let mut changes = can_tho.trust.changes();
    can_tho.trust.replace(new.clone());
    changes.changed().await.expect("told");
    let second = can_tho.dial("central", central.address());
    let _second = central.link_up().await;
    let shown: Vec<_> = central.here.connections().iter().map(|link| leaf(&link.connection)).collect();
    assert_eq!(shown, [old.chain()[0].clone(), new.chain()[0].clone()]);
    drop((first, second));
}

fn leaf(connection: &Connection) -> CertificateDer<'static> {
    let identity = connection.peer_identity().expect("shown");
    identity.downcast::<Vec<CertificateDer<'static>>>().expect("certificates")[0].clone()
}

/// Dials with this configuration; the server serves one connection with its own. Answers what the client got to see.
async fn dial(tls: &rustls::ClientConfig, server: rustls::ServerConfig, keys: &NodeKeys) -> Result<(), String> {
    let endpoints = Endpoints::open(Some("127.0.0.1:0".parse().expect("address")), quic_keys(keys), Pace::default());
    let endpoints = endpoints.expect("opens");
    let listening = endpoints.listening().expect("listens").clone();
    let address = endpoints.listens_at().expect("listens");
    let (server, _line) = endpoints.server(server).expect("QUIC");
    listening.set_server_config(Some(server.clone()));
    let accepting = tokio::spawn(async move {
        let incoming = listening.accept().await.expect("dialled");
        let connection = incoming.accept_with(Arc::new(server)).expect("accepts").await?;
        // The client has what came with the handshake when it has read this.
        let mut stream = connection.open_uni().await?;
        stream.write_all(b"in").await.expect("written");
        stream.finish().expect("open");
        Ok::<_, quinn::ConnectionError>(connection.closed().await)
    });
    let clients = Endpoints::open(None, quic_keys(keys), Pace::default()).expect("opens");
    let config = Endpoints::client(tls.clone(), Pace::default(), &Pace::default().line()).expect("QUIC");
    let endpoint = clients.towards(address).expect("opens");
    let connecting = endpoint.connect_with(config, address, SERVER_NAME).expect("dials");
    let got = async {
        let connection = connecting.await?;
        let mut stream = connection.accept_uni().await?;
        assert_eq!(stream.read_to_end(2).await.expect("whole"), b"in");
        connection.close(VarInt::from_u32(0), b"");
        Ok::<_, quinn::ConnectionError>(())
    };
    let got = tokio::time::timeout(SOON, got).await.expect("in time").map_err(|error| error.to_string());
    let _ = tokio::time::timeout(SOON, accepting).await.expect("in time");
    got
}

/// The trap of TLS: a resumed session asks no verifier. The peer keeps session tickets, and both server configurations
/// share what a server might keep; there is nothing to keep.
#[tokio::test]
async fn row_11_a_revoked_peer_does_not_come_back_by_resuming_its_session() {
    let overlay = Overlay::new();
    let trust = NodeTrust::new(overlay.central.clone(), Clock::default());
    let keys = overlay.admit("can-tho");
    let hostile = NodeTrust::new(keys.clone(), Clock::default());
    let mut client = hostile.client(&name("central")).expect("TLS");
    client.resumption = Resumption::in_memory_sessions(8);
    let before = trust.server().expect("TLS");
    assert_eq!(dial(&client, before.clone(), &keys).await, Ok(()));
    trust.replace_trust(nobody());
    let mut after = trust.server().expect("TLS");
    after.session_storage = before.session_storage.clone();
    after.ticketer = before.ticketer.clone();
    let why = dial(&client, after, &keys).await.expect_err("revoked");
    assert!(why.contains("another overlay"), "{why}");
}

/// A node's client configuration with other key exchanges.
fn offering(keys: &NodeKeys, kx_groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>) -> rustls::ClientConfig {
    let node = NodeTrust::new(keys.clone(), Clock::default()).client(&name("central")).expect("TLS");
    let provider = CryptoProvider { kx_groups, ..default_provider() };
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(super::bad::Credulous))
        .with_client_cert_resolver(node.client_auth_cert_resolver.clone());
    config.alpn_protocols = node.alpn_protocols;
    config
}

#[tokio::test]
async fn row_30_a_peer_without_post_quantum_key_exchange_is_refused() {
    let overlay = Overlay::new();
    let keys = overlay.admit("can-tho");
    let server = || NodeTrust::new(overlay.central.clone(), Clock::default()).server().expect("TLS");
    let hybrid = offering(&keys, vec![kx_group::X25519, kx_group::X25519MLKEM768]);
    assert_eq!(dial(&hybrid, server(), &keys).await, Ok(()));
    let why = dial(&offering(&keys, vec![kx_group::X25519]), server(), &keys).await.expect_err("too weak");
    assert!(why.contains("NoKxGroupsInCommon"), "{why}");
}
