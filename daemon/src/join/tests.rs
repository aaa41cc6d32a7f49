//! The exchange over real QUIC with the real PKI.

use tram_pki::enrol::answer;
use tram_pki::keystore::NodeKeys;
use tram_pki::registry::TokenState;
use tram_pki::token::Token;
use tram_proto::join::Refusal;

use super::*;
use crate::link::tests::fixture::{Overlay, SOON, quic_keys};

/// A founded overlay with its join port open.
pub(super) struct Scene {
    pub(super) overlay: Overlay,
    pub(super) server: JoinServer,
    sources: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Scene {
    pub(super) fn new(listen: &str) -> Self {
        let overlay = Overlay::new();
        let keys = overlay.central.clone();
        let (registry, authority) = (overlay.registry.clone(), overlay.authority.clone());
        let sources = Arc::new(Mutex::new(Vec::new()));
        let seen = sources.clone();
        let answering: Answering = Arc::new(move |request, exporter, remote| {
            seen.lock().expect("whole").push(remote);
            let (now_ms, source) = (Clock::default().wall_ms(), remote.to_string());
            answer(&mut registry.lock().expect("whole"), &authority, request, exporter, &source, now_ms).0
        });
        let quic = quic_keys(&keys);
        let tls: ServerTls = Arc::new(move || {
            let root = &keys.trust().roots()[0];
            verify::join_server(&keys, root, Clock::default().for_pki()).map_err(|error| error.to_string())
        });
        let server = JoinServer::open(listen.parse().expect("address"), quic, tls, answering).expect("opens");
        Self { overlay, server, sources }
    }

    /// From where the CA was asked.
    pub(super) fn sources(&self) -> Vec<SocketAddr> {
        self.sources.lock().expect("whole").clone()
    }

    fn token(&self) -> Token {
        self.overlay.token("can-tho", &self.server.listens_at().expect("listens").to_string())
    }

    async fn join(&self, token: Token, clock: Clock) -> Result<Joined, JoinFailure> {
        let joining = Joining::begin(&self.overlay.dir.path().join("new"), token).expect("begins");
        join(&joining, "0.1.0", clock).await
    }
}

async fn check_joins(listen: &str) {
    let scene = Scene::new(listen);
    let joined = scene.join(scene.token(), Clock::default()).await.expect("joined");
    let keys = NodeKeys::install(&scene.overlay.dir.path().join("new"), &joined).expect("installed");
    assert_eq!(keys.identity().name.as_str(), "can-tho");
}

#[tokio::test]
async fn a_token_makes_a_node_over_ipv4_and_ipv6() {
    check_joins("127.0.0.1:0").await;
    check_joins("[::1]:0").await;
}

#[track_caller]
fn says(result: Result<Joined, JoinFailure>, parts: &[&str]) {
    let text = result.expect_err("must fail").to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[tokio::test]
async fn row_06_a_server_of_another_overlay_is_not_asked() {
    let (scene, other) = (Scene::new("127.0.0.1:0"), Scene::new("127.0.0.1:0"));
    let token = Token { join: other.token().join, ..scene.token() };
    let address = token.join[0].to_string();
    says(
        scene.join(token, Clock::default()).await,
        &[&address, "does not hold the root certificate that the token names"],
    );
    assert_eq!(other.sources(), []);
}

#[tokio::test]
async fn a_refusal_comes_with_its_cause_and_both_clocks_when_they_are_apart() {
    let scene = Scene::new("127.0.0.1:0");
    let (first, second) = (scene.token(), scene.token());
    let refused = scene.join(first.clone(), Clock::default()).await;
    assert!(
        matches!(
            refused,
            Err(JoinFailure::Join(JoinError::Refused {
                refusal: Refusal::Cancelled | Refusal::Unknown | Refusal::UsedByAnotherKey,
                ..
            }))
        ),
        "{refused:?}"
    );
    says(
        scene.join(first, Clock::new(20 * 60_000)).await,
        &["token refused", "this machine's clock says", "20 minutes ahead"],
    );
    drop(second);
}

#[tokio::test]
async fn an_address_where_nobody_answers_is_named() {
    let scene = Scene::new("127.0.0.1:0");
    let token = scene.token();
    let (address, overlay) = (token.join[0].to_string(), scene.overlay);
    drop(scene.server);
    let joining = Joining::begin(&overlay.dir.path().join("new"), token).expect("begins");
    let failed = join(&joining, "0.1.0", Clock::default()).await;
    says(failed, &[&address, "cannot reach it over UDP"]);
}

#[tokio::test]
async fn row_28_more_machines_than_may_ask_at_once_all_get_in() {
    let scene = Scene::new("127.0.0.1:0");
    let mut joins = JoinSet::new();
    for n in 0..AT_ONCE_FROM_ONE + 8 {
        let address = scene.server.listens_at().expect("listens").to_string();
        let token = scene.overlay.token(&format!("n{n}"), &address);
        let joining = Joining::begin(&scene.overlay.dir.path().join(format!("n{n}")), token).expect("begins");
        joins.spawn(
            async move { join(&joining, "0.1.0", Clock::default()).await.map(|_| ()).map_err(|e| e.to_string()) },
        );
    }
    for done in joins.join_all().await {
        assert_eq!(done, Ok(()));
    }
}

#[tokio::test]
async fn row_28_a_request_that_is_none_is_not_looked_at() {
    let scene = Scene::new("127.0.0.1:0");
    let token = scene.token();
    let tls = verify::join_client(token.root, &token.zone, Clock::default().for_pki()).expect("TLS");
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("QUIC")));
    config.transport_config(transport());
    for bytes in [&[0xff; 8][..], &[0, 0, 0, 2, 0xff, 0xff]] {
        let (_endpoint, connection) = dial(&token.join[0], &config).await.expect("connects");
        let (mut send, _recv) = connection.open_bi().await.expect("opens");
        send.write_all(bytes).await.expect("written");
        let closed = timeout(SOON, connection.closed()).await.expect("in time");
        assert!(explain(&closed).contains("(code 6)"), "{closed}");
    }
    assert_eq!(scene.sources(), []);
}

#[tokio::test]
async fn row_05_of_two_machines_with_one_token_exactly_one_gets_in() {
    let scene = Scene::new("127.0.0.1:0");
    let token = scene.token();
    let mut joins = JoinSet::new();
    for machine in ["a", "b"] {
        let joining = Joining::begin(&scene.overlay.dir.path().join(machine), token.clone()).expect("begins");
        joins.spawn(async move { join(&joining, "0.3.0", Clock::default()).await });
    }
    let ended = joins.join_all().await;
    let refused: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
    assert!(
        matches!(
            refused.as_slice(),
            [JoinFailure::Join(JoinError::Refused { refusal: Refusal::UsedByAnotherKey, .. })]
        ),
        "{refused:?}"
    );
    let registry = scene.overlay.registry.lock().expect("whole");
    assert_eq!(registry.node(&token.name).map(|node| node.certificates.len()), Some(1));
    assert_eq!(registry.token(&token.id).map(|token| token.state), Some(TokenState::FrozenByKey));
}

#[tokio::test]
async fn row_28_machines_that_hang_do_not_keep_others_out() {
    let scene = Scene::new("127.0.0.1:0");
    let token = scene.token();
    let tls = verify::join_client(token.root, &token.zone, Clock::default().for_pki()).expect("TLS");
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("QUIC")));
    config.transport_config(transport());
    // One address takes all it may have, and asks nothing; then it begins again and again.
    let idler = quinn::Endpoint::client("127.0.0.2:0".parse().expect("address")).expect("opens");
    let connect = || {
        let connecting =
            idler.connect_with(config.clone(), scene.server.listens_at().expect("listens"), "tram.invalid");
        connecting.expect("dials")
    };
    let mut idle = Vec::new();
    for _ in 0..AT_ONCE_FROM_ONE {
        idle.push(connect().await.expect("connects"));
    }
    let refused = connect().await.expect_err("one address has its share");
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    let flood = tokio::spawn({
        let target = scene.server.listens_at().expect("listens");
        async move {
            let socket = tokio::net::UdpSocket::bind("127.0.0.3:0").await.expect("bound");
            let mut datagram = vec![0xc0_u8; 1200];
            loop {
                datagram[6] = datagram[6].wrapping_add(1);
                socket.send_to(&datagram, target).await.expect("sent");
                tokio::task::yield_now().await;
            }
        }
    });
    scene.join(token, Clock::default()).await.expect("another address gets in");
    flood.abort();
    assert_eq!(scene.sources().len(), 1, "only who asked was answered");
}

#[tokio::test]
async fn a_dead_first_address_costs_at_most_five_seconds_and_is_named() {
    let scene = Scene::new("127.0.0.1:0");
    let dead = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let dead_at = dead.local_addr().expect("bound").to_string();
    let real = scene.token();
    let mut join = vec![dead_at.parse().expect("address"), "no-such-host.invalid:7444".parse().expect("address")];
    let nowhere = Token { join: join.clone(), ..real.clone() };
    let failed = scene.join(nowhere, Clock::default()).await;
    says(failed, &[&dead_at, "no answer within 5 s", "no-such-host.invalid:7444"]);
    join.extend(real.join.clone());
    let begin = Clock::default().mono();
    scene.join(Token { join, ..real }, Clock::default()).await.expect("joined at the third");
    let took = Clock::default().mono().saturating_sub(begin);
    // A bound of the whole, so that a busy machine does not decide: ten seconds would be two dead addresses.
    assert!(took < CONNECT * 2, "{took:?}");
}
