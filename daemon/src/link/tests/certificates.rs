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
use tram_pki::pins::Pins;
use tram_proto::envelope::Precedence;
use tram_proto::frame::{FEATURE_PKI, Frame, StreamKind};
use tram_relay::input::Input;

use super::fixture::*;
use super::line::{Conditions, Line};
use super::office::Office;
use super::weather::noisy;
use crate::clock::Clock;
use crate::link::dialer::{UplinkState, Uplinks};
use crate::link::endpoint::{Endpoints, SERVER_NAME};
use crate::link::pace::Pace;
use crate::link::trust::{NodeTrust, Trust};

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
    central.trust.replace_trust(overlay.revoke("can-tho"));
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
        s.state == UplinkState::Down
            && s.last_error
                .as_deref()
                .is_some_and(|why| why.contains("the peer refused: the certificate has been revoked"))
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
    central.trust.replace_trust(overlay.revoke("can-tho"));
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
    let (code, why) = closed(&raw.connection).await;
    assert!(code == 82 && why.starts_with("certificate expired: ") && why.contains("clock says"), "{why}");
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
        let connection = incoming.accept_with(Arc::new(server))?.await?;
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
    let trust = NodeTrust::new(overlay.central.clone(), Pins::default(), Clock::default());
    let keys = overlay.admit("can-tho");
    let hostile = NodeTrust::new(keys.clone(), Pins::default(), Clock::default());
    let mut client = hostile.client(&name("central")).expect("TLS");
    client.resumption = Resumption::in_memory_sessions(8);
    let before = trust.server().expect("TLS");
    assert_eq!(dial(&client, before.clone(), &keys).await, Ok(()));
    trust.replace_trust(overlay.revoke("can-tho"));
    let mut after = trust.server().expect("TLS");
    after.session_storage = before.session_storage.clone();
    after.ticketer = before.ticketer.clone();
    let why = dial(&client, after, &keys).await.expect_err("revoked");
    assert!(why.contains("certificate: Revoked"), "{why}");
}

/// A node's client configuration with other key exchanges.
fn offering(keys: &NodeKeys, kx_groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>) -> rustls::ClientConfig {
    let node = NodeTrust::new(keys.clone(), Pins::default(), Clock::default()).client(&name("central")).expect("TLS");
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
    let server = || NodeTrust::new(overlay.central.clone(), Pins::default(), Clock::default()).server().expect("TLS");
    let hybrid = offering(&keys, vec![kx_group::X25519, kx_group::X25519MLKEM768]);
    assert_eq!(dial(&hybrid, server(), &keys).await, Ok(()));
    let why = dial(&offering(&keys, vec![kx_group::X25519]), server(), &keys).await.expect_err("too weak");
    assert!(why.contains("NoKxGroupsInCommon"), "{why}");
}

/// The rest of TLS below 1.3 is not even compiled in.
#[test]
fn row_30_tls_1_2_is_neither_offered_nor_taken() {
    let trust = NodeTrust::new(Overlay::new().central.clone(), Pins::default(), Clock::default());
    let server = trust.server().expect("TLS");
    let client = trust.client(&name("central")).expect("TLS");
    for provider in [server.crypto_provider(), client.crypto_provider()] {
        assert!(provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    }
    // A hello of TLS 1.2: random, no session, one suite of that age, no compression, no extensions.
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let length = |bytes: usize| u8::try_from(bytes).expect("short");
    let mut record = vec![22, 3, 1, 0, length(hello.len() + 4), 1, 0, 0, length(hello.len())];
    record.extend(hello);
    let mut connection = rustls::ServerConnection::new(Arc::new(server)).expect("TLS");
    connection.read_tls(&mut record.as_slice()).expect("read");
    let why = connection.process_new_packets().expect_err("too old").to_string();
    assert!(why.contains("peer is incompatible"), "{why}");
}

/// A district's own certificate does not make it the province to who dials the province; that its hello does not either
/// is the core's test.
#[tokio::test]
async fn row_10_a_district_does_not_pass_for_its_province() {
    let overlay = Overlay::new();
    let district = Station::new(&overlay.admit("ninh-kieu.can-tho"), Some("127.0.0.1:0"));
    let commune = Station::new(&overlay.admit("an-cu.ninh-kieu.can-tho"), None);
    let uplinks = commune.dial("can-tho", district.address());
    let why = status(&uplinks, |s| s.last_error.is_some()).await.last_error.expect("a reason");
    assert!(why.contains("expected node can-tho, but ninh-kieu.can-tho answered"), "{why}");
}

/// Two whole nodes on a line of 20 ms, in virtual time.
struct Two {
    overlay: Overlay,
    central: Office,
    can_tho: Office,
    keys: NodeKeys,
    uplinks: Uplinks,
}

impl Two {
    async fn new(change: impl FnOnce(&Overlay) -> NodeKeys) -> Self {
        let overlay = Overlay::new();
        let line = Line::new(1);
        line.set(|c| *c = Conditions { latency_ms: 20, ..Conditions::default() });
        let keys = overlay.admit("can-tho");
        let central = Office::open(&change(&overlay), &line, ([10, 0, 0, 1], 7443).into(), true).await;
        let can_tho = Office::open(&keys, &line, ([10, 0, 0, 2], 7443).into(), false).await;
        let uplinks = can_tho.dial("central", ([10, 0, 0, 1], 7443).into());
        let two = Self { overlay, central, can_tho, keys, uplinks };
        status(&two.uplinks, |s| s.state == UplinkState::Up).await;
        while two.central.engine.snapshot().await.expect("runs").nodes.len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        two
    }

    /// From now on, every state of the uplink that is not up.
    fn watch(&self) -> tokio::task::JoinHandle<Vec<UplinkState>> {
        let mut states = self.uplinks.status();
        tokio::spawn(async move {
            let mut down = Vec::new();
            while states.changed().await.is_ok() {
                down.extend(states.borrow().iter().map(|s| s.state).filter(|s| *s != UplinkState::Up));
            }
            down
        })
    }

    fn connection(&self) -> Connection {
        let links = self.can_tho.here.connections();
        assert_eq!(links.len(), 1, "one link");
        links[0].connection.clone()
    }

    /// Waits until only one link is left.
    async fn settled(&self) {
        let mut open = self.can_tho.here.open.subscribe();
        tokio::time::timeout(SOON, open.wait_for(|links| links.len() == 1)).await.expect("in time").expect("runs");
    }
}

/// Documents small and large cross both ways all the while; each arrives once, and hardly a byte crosses twice.
#[tokio::test(start_paused = true)]
async fn an_uplink_is_renewed_without_a_moment_of_being_down() {
    let mut two = Two::new(|overlay| overlay.central.clone()).await;
    let states = two.watch();
    let mut sent = [Vec::new(), Vec::new()];
    let (mut payload_bytes, mut received_bytes) = (0, 0);
    for round in 0..5 {
        for number in 0..20 {
            let number = round * 100 + number;
            let bytes = if number % 20 < 2 { 4 << 20 } else { 3_000 };
            sent[0].push(two.can_tho.submit("vanban@central", noisy(bytes, number)).await);
            sent[1].push(two.central.submit("vanban@can-tho", noisy(bytes, number + 1_000_000)).await);
            payload_bytes += bytes as u64;
        }
        let old = two.connection();
        // In the middle of the large ones.
        while old.stats().udp_rx.bytes < 1 << 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let new = two.overlay.renew(&two.keys, 0);
        two.can_tho.trust.replace(new.clone());
        assert_eq!(two.uplinks.renew().await, Ok(1));
        two.settled().await;
        assert_ne!(two.connection().stable_id(), old.stable_id());
        received_bytes += old.stats().udp_rx.bytes;
        let seen = two.central.here.connections();
        assert!(seen.iter().any(|link| leaf(&link.connection) == new.chain()[0]), "central sees the new certificate");
    }
    for (office, sent) in [(&mut two.central, &sent[0]), (&mut two.can_tho, &sent[1])] {
        let came = office.take(sent.len()).await;
        assert!(sent.iter().all(|id| came.get(id) == Some(&1)), "each once");
    }
    received_bytes += two.connection().stats().udp_rx.bytes;
    for office in [&mut two.central, &mut two.can_tho] {
        office.drained().await;
    }
    // What was in flight at each of the five, and headers.
    let again_bytes = received_bytes.saturating_sub(payload_bytes * 104 / 100);
    println!("{again_bytes} of {payload_bytes} bytes came again");
    assert!(again_bytes < 5 << 20, "{again_bytes} of {payload_bytes} bytes came again");
    drop(two.uplinks);
    assert_eq!(states.await.expect("done"), []);
}

#[tokio::test(start_paused = true)]
async fn a_second_dial_that_fails_leaves_the_link_as_it_was() {
    let mut two = Two::new(|overlay| overlay.central.clone()).await;
    let states = two.watch();
    let before = two.connection().stable_id();
    two.can_tho.trust.replace(Overlay::new().admit("can-tho"));
    let why = two.uplinks.renew().await.expect_err("central does not know that root");
    assert!(why.starts_with("central: ") && why.contains("another overlay"), "{why}");
    two.settled().await;
    assert_eq!(two.connection().stable_id(), before);
    let id = two.can_tho.submit("vanban@central", b"document".to_vec()).await;
    assert_eq!(two.central.take(1).await.get(&id), Some(&1));
    two.can_tho.trust.replace(two.keys.clone());
    assert_eq!(two.uplinks.renew().await, Ok(1));
    two.settled().await;
    assert_ne!(two.connection().stable_id(), before);
    drop(two.uplinks);
    assert_eq!(states.await.expect("done"), []);
}

/// The parent has a newer certificate for weeks; its children see it when they dial again, which they do in time.
#[tokio::test(start_paused = true)]
async fn a_link_outlives_the_certificate_with_which_the_parent_let_it_be_made() {
    let two = Two::new(|overlay| overlay.renew(&overlay.central, LEAF_MS - 30 * 60 * 1000)).await;
    let states = two.watch();
    let before = two.connection();
    two.central.trust.replace(two.overlay.central.clone());
    tokio::time::sleep(Duration::from_secs(15 * 60)).await;
    assert_eq!(two.connection().stable_id(), before.stable_id());
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    assert_ne!(two.connection().stable_id(), before.stable_id());
    assert_eq!(leaf(&two.connection()), two.overlay.central.chain()[0]);
    drop(two.uplinks);
    assert_eq!(states.await.expect("done"), []);
}

/// The list of a CA is missing here, and comes over the very link that waits for it: until then nothing but the PKI is
/// spoken of, and then everything.
#[tokio::test]
async fn row_14_a_link_whose_peer_may_be_revoked_carries_the_pki_alone_until_the_list_is_there() {
    let overlay = Overlay::new();
    let mut central =
        Station::with_pki(&overlay.central, Some("127.0.0.1:0"), super::pki::Fake::new(&overlay.central, None));
    let mut bundle = overlay.bundle();
    central.trust.replace_trust(bundle.trust().expect("a root"));
    let keys = overlay.admit("can-tho");
    let mut raw = Raw::dial(&keys, &central).await;
    let up = central.link_up().await;
    // What the core hears: the hello alone.
    let hello = super::pki::hello(&keys, FEATURE_PKI);
    for bytes in [&hello, &PING.encode()] {
        raw.control.write_all(bytes).await.expect("written");
    }
    let mut class = raw.open(StreamKind::Class(Precedence::Flash)).await;
    let body = body(&keys, Precedence::Flash, b"x");
    raw.offer(&mut class, &keys, &body, Some(bytes::Bytes::from_static(b"x"))).await;
    // What the peer hears: a hello and the PKI.
    up.send(Frame::decode(hello.slice(4..)).expect("a frame")).await;
    up.send(PING).await;
    assert!(matches!(frame(&mut raw.replies).await, Some(Frame::Hello(_))));
    let mut pki = raw.accept(StreamKind::Pki).await;
    pki.read_exact(&mut [0; 4]).await.expect("says what it has");
    assert!(matches!(central.next_input().await, Input::Frame { frame: Frame::Hello(_), .. }));
    central.silent(Duration::from_millis(300)).await;
    let more = tokio::time::timeout(Duration::from_millis(100), frame(&mut raw.replies)).await;
    assert!(more.is_err(), "{more:?}");
    // The list comes.
    bundle.take(&overlay.list(1), Clock::default().wall_ms()).expect("good");
    central.trust.replace_trust(bundle.trust().expect("a root"));
    assert_eq!(frame(&mut raw.replies).await, Some(PING));
    let mut got = Vec::new();
    for _ in 0..2 {
        got.push(matches!(central.next_input().await, Input::Offer { .. }));
    }
    assert!(got.contains(&true) && got.contains(&false), "the offer and the ping, in whatever order: {got:?}");
}

const PING: Frame = Frame::Ping { number: 1, clock_ms: 1 };

/// No list comes: the link is given up, and says why.
#[tokio::test(start_paused = true)]
async fn row_14_a_link_whose_peer_may_be_revoked_ends_when_no_list_comes() {
    let overlay = Overlay::new();
    let line = Line::new(1);
    let central = Office::open(&overlay.central, &line, ([10, 0, 0, 1], 7443).into(), true).await;
    central.trust.replace_trust(overlay.bundle().trust().expect("a root"));
    let can_tho = Office::open(&overlay.admit("can-tho"), &line, ([10, 0, 0, 2], 7443).into(), false).await;
    let uplinks = can_tho.dial("central", ([10, 0, 0, 1], 7443).into());
    let mut states = uplinks.status();
    let refused = |all: &Vec<crate::link::dialer::UplinkStatus>| all[0].last_error.is_some();
    let why = tokio::time::timeout(Duration::from_secs(90), states.wait_for(refused)).await.expect("in time");
    let why = why.expect("dialling")[0].last_error.clone().expect("a reason");
    assert!(why.contains("certificate status unknown (code 82)"), "{why}");
    assert!(central.here.clock.mono_ms() >= 60_000, "it had a minute");
    assert_eq!(central.here.revoked(), [], "nobody knows that");
}

/// The handshake lets it pass, for a question to its CA; a link it does not get, and it is told both clocks.
#[tokio::test]
async fn row_18_a_node_whose_certificate_has_expired_gets_no_link() {
    let overlay = Overlay::new();
    let mut central = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let can_tho = Station::new(&overlay.renew(&overlay.admit("can-tho"), LEAF_MS + 3_600_000), None);
    let uplinks = can_tho.dial("central", central.address());
    let why = status(&uplinks, |s| s.last_error.is_some()).await.last_error.expect("a reason");
    assert!(why.contains("certificate expired: ") && why.contains("(this node's clock says"), "{why}");
    // The core never heard of it.
    assert!(matches!(central.next_input().await, Input::LinkDown { .. }));
}
