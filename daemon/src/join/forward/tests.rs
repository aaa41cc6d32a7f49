//! Real sockets on loopback, with a real join server behind the forwarder.

use tokio::net::UdpSocket;
use tram_pki::enrol::Joining;
use tram_pki::keystore::NodeKeys;
use tram_pki::token::Token;

use super::super::tests::Scene;
use super::super::{JoinFailure, join};
use super::*;
use crate::link::tests::fixture::SOON;

/// Looks until there is something.
macro_rules! await_some {
    ($look:expr) => {
        timeout(SOON, async {
            loop {
                if let Some(found) = $look {
                    break found;
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("in time")
    };
}

fn host(address: SocketAddr) -> HostPort {
    address.to_string().parse().expect("an address")
}

fn forwarder(listen: &str, to: Vec<HostPort>) -> (JoinForwarder, HostPort) {
    let forwarder = JoinForwarder::open(listen.parse().expect("an address"), to).expect("opens");
    let at = host(forwarder.listens_at().expect("listens"));
    (forwarder, at)
}

async fn join_at(scene: &Scene, name: &str, at: &HostPort) -> Result<(), JoinFailure> {
    let dir = scene.overlay.dir.path().join(name);
    let token: Token = scene.overlay.token(name, at.as_str());
    let joining = Joining::begin(&dir, token).expect("begins");
    let joined = join(&joining, "0.3.0", Clock::default()).await?;
    assert_eq!(NodeKeys::install(&dir, &joined).expect("installed").identity().name.as_str(), name);
    Ok(())
}

#[tokio::test]
async fn a_machine_joins_through_a_forwarder_and_through_two_in_a_row() {
    for (server, near, far) in [
        ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"),
        ("[::1]:0", "127.0.0.1:0", "[::1]:0"),
        ("127.0.0.1:0", "0.0.0.0:0", "[::1]:0"),
        ("127.0.0.1:0", "[::]:0", "127.0.0.1:0"),
    ] {
        let scene = Scene::new(server);
        let (_far, far_at) = forwarder(far, vec![host(scene.server.listens_at().expect("listens"))]);
        join_at(&scene, "can-tho", &far_at).await.expect("joined through one");
        let (_near, near_at) = forwarder(near, vec![far_at]);
        let near_at =
            near_at.as_str().replace("0.0.0.0", "127.0.0.1").replace("[::]", "127.0.0.1").parse().expect("an address");
        join_at(&scene, "an-giang", &near_at).await.expect("joined through two");
        let seen = scene.sources();
        assert!(seen.len() == 2 && seen.iter().all(|source| source.port() != near_at.port()), "{seen:?}");
    }
}

#[tokio::test]
async fn a_dead_address_makes_room_for_the_next_and_the_one_that_answered_is_remembered() {
    let scene = Scene::new("127.0.0.1:0");
    let dead = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let to = vec![
        "no-such-host.invalid:1".parse().expect("an address"),
        host(dead.local_addr().expect("bound")),
        host(scene.server.listens_at().expect("listens")),
    ];
    let (_forwarder, at) = forwarder("127.0.0.1:0", to);
    join_at(&scene, "can-tho", &at).await.expect("joined");
    let mut buffer = [0; 2048];
    while dead.try_recv(&mut buffer).is_ok() {}
    join_at(&scene, "an-giang", &at).await.expect("joined");
    assert!(dead.try_recv(&mut buffer).is_err(), "the dead one was asked again");
}

#[tokio::test]
async fn the_target_can_be_changed_and_a_closed_forwarder_passes_nothing() {
    let (old, new) = (Scene::new("127.0.0.1:0"), Scene::new("127.0.0.1:0"));
    let (forwarder, at) = forwarder("127.0.0.1:0", vec![host(old.server.listens_at().expect("listens"))]);
    forwarder.change(vec![host(new.server.listens_at().expect("listens"))]);
    join_at(&new, "can-tho", &at).await.expect("joined");
    drop(forwarder);
    let failed = join_at(&new, "an-giang", &at).await.expect_err("closed").to_string();
    assert!(failed.contains(at.as_str()) && failed.contains("cannot reach it over UDP"), "{failed}");
}

/// What begins a flow, as far as a forwarder looks.
fn initial() -> Vec<u8> {
    let mut datagram = vec![0; INITIAL_BYTES];
    datagram[0] = 0xc0;
    datagram
}

/// A target that only counts, and a forwarder to it.
struct Junk {
    target: UdpSocket,
    _forwarder: JoinForwarder,
    at: HostPort,
    sources: Vec<UdpSocket>,
}

impl Junk {
    async fn new() -> Self {
        let target = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let to = vec![host(target.local_addr().expect("bound"))];
        let (forwarder, at) = forwarder("0.0.0.0:0", to);
        let at = at.as_str().replace("0.0.0.0", "127.0.0.1").parse().expect("an address");
        Self { target, _forwarder: forwarder, at, sources: Vec::new() }
    }

    /// A new machine at this address says something.
    async fn says(&mut self, ip: &str, datagram: &[u8]) {
        let source = UdpSocket::bind((ip, 0)).await.expect("bound");
        source.send_to(datagram, self.at.as_str()).await.expect("sent");
        self.sources.push(source);
    }

    /// From where the target hears the next datagram.
    async fn hears(&self) -> SocketAddr {
        let mut buffer = [0; 2048];
        timeout(SOON, self.target.recv_from(&mut buffer)).await.expect("in time").expect("received").1
    }

    /// What is not heard by now was dropped: loopback takes microseconds.
    async fn hears_nothing(&self) -> bool {
        let mut buffer = [0; 2048];
        timeout(Duration::from_millis(100), self.target.recv_from(&mut buffer)).await.is_err()
    }
}

#[tokio::test]
async fn row_28_a_flood_of_sources_stays_within_the_limits() {
    let mut junk = Junk::new().await;
    let mut flows = Vec::new();
    for number in 0..FLOWS {
        let ip = format!("127.0.0.{}", 2 + number / FLOWS_FROM_ONE);
        junk.says(&ip, &initial()).await;
        flows.push(junk.hears().await);
        if number == FLOWS_FROM_ONE - 1 {
            junk.says(&ip, &initial()).await;
            assert!(junk.hears_nothing().await, "one address has its share");
            junk.sources.pop();
        }
    }
    assert_eq!(flows.iter().collect::<BTreeSet<_>>().len(), FLOWS, "each has an address of its own towards the target");
    // The first one shows that it receives; the others are forged.
    prove(&junk, 0, flows[0]).await;
    for number in 0..FLOWS {
        junk.says(&format!("127.0.1.{}", 1 + number / FLOWS_FROM_ONE), &initial()).await;
        junk.hears().await;
    }
    for forged in 1..FLOWS {
        junk.sources[forged].send_to(&[0x40; 30], junk.at.as_str()).await.expect("sent");
    }
    assert!(junk.hears_nothing().await, "whom newer ones took the place of is forgotten");
    junk.sources[0].send_to(&[0x40; 30], junk.at.as_str()).await.expect("sent");
    assert_eq!(junk.hears().await, flows[0], "a real one keeps its place");
}

/// Has the target answer and the machine show that it has read the answer.
async fn prove(junk: &Junk, number: usize, flow: SocketAddr) {
    junk.target.send_to(b"answer", flow).await.expect("sent");
    let mut buffer = [0; 2048];
    timeout(SOON, junk.sources[number].recv(&mut buffer)).await.expect("in time").expect("received");
    junk.sources[number].send_to(&[0x40; 30], junk.at.as_str()).await.expect("sent");
    assert_eq!(junk.hears().await, flow);
}

#[tokio::test]
async fn when_every_place_is_a_real_machines_a_newcomer_waits_until_one_falls_silent() {
    let mut junk = Junk::new().await;
    for number in 0..FLOWS {
        junk.says(&format!("127.0.0.{}", 2 + number / FLOWS_FROM_ONE), &initial()).await;
        let flow = junk.hears().await;
        prove(&junk, number, flow).await;
    }
    junk.says("127.0.1.1", &initial()).await;
    assert!(junk.hears_nothing().await);
    tokio::time::pause();
    tokio::time::advance(IDLE).await;
    tokio::time::resume();
    await_some!({
        junk.says("127.0.1.1", &initial()).await;
        (!junk.hears_nothing().await).then_some(())
    });
}

#[tokio::test]
async fn row_28_what_no_join_begins_with_is_not_passed_on() {
    let mut junk = Junk::new().await;
    let short = &initial()[..INITIAL_BYTES - 1];
    let mut data = initial();
    data[0] = 0x40;
    let mut handshake = initial();
    handshake[0] = 0xe0;
    for datagram in [b"hello".as_slice(), short, &data, &handshake, &[0; INITIAL_BYTES], &[]] {
        junk.says("127.0.0.1", datagram).await;
        assert!(junk.hears_nothing().await, "{:?}", datagram.first());
    }
    junk.says("127.0.0.1", &initial()).await;
    junk.hears().await;
}

#[tokio::test]
async fn nothing_goes_to_an_address_that_has_not_sent_and_little_to_one_that_has_not_answered() {
    let mut junk = Junk::new().await;
    junk.says("127.0.0.1", &initial()).await;
    let flow = junk.hears().await;
    let source = junk.sources.pop().expect("one");
    let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    stranger.send_to(b"from elsewhere", flow).await.expect("sent");
    for _ in 0..10 {
        junk.target.send_to(&[7; INITIAL_BYTES], flow).await.expect("sent");
    }
    let mut buffer = [0; 2048];
    for _ in 0..UNPROVEN_FACTOR {
        let bytes = timeout(SOON, source.recv(&mut buffer)).await.expect("in time").expect("received");
        assert_eq!(buffer[..bytes], [7; INITIAL_BYTES]);
    }
    assert!(timeout(Duration::from_millis(100), source.recv(&mut buffer)).await.is_err(), "more came back");
    // A packet with the short header shows that the machine has read what came back.
    source.send_to(&[0x40; 30], junk.at.as_str()).await.expect("sent");
    assert_eq!(junk.hears().await, flow);
    junk.target.send_to(&[7; INITIAL_BYTES], flow).await.expect("sent");
    let bytes = timeout(SOON, source.recv(&mut buffer)).await.expect("in time").expect("received");
    assert_eq!(bytes, INITIAL_BYTES);
}

#[tokio::test]
async fn a_flow_ends_after_so_many_bytes() {
    let mut junk = Junk::new().await;
    junk.says("127.0.0.1", &initial()).await;
    let flow = junk.hears().await;
    let source = junk.sources.pop().expect("one");
    let send = || source.send_to(&[0x40; INITIAL_BYTES], junk.at.as_str());
    for _ in 0..FLOW_BYTES / INITIAL_BYTES {
        send().await.expect("sent");
        assert_eq!(junk.hears().await, flow);
    }
    send().await.expect("sent");
    assert!(junk.hears_nothing().await);
}

#[tokio::test]
async fn doors_open_and_close_the_port() {
    let scene = Scene::new("127.0.0.1:0");
    let free = UdpSocket::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound");
    let at = host(free);
    let to = vec![host(scene.server.listens_at().expect("listens"))];
    let now_ms = Clock::default().wall_ms();
    let (doors, rx) = watch::channel(vec![Door { until_ms: now_ms - 1, to: to.clone() }]);
    let minding = tokio::spawn(mind_doors(rx, Some(free), Clock::default()));
    let is_open = || std::net::UdpSocket::bind(free).is_err();
    for _ in 0..10 {
        tokio::task::yield_now().await;
        assert!(!is_open(), "the door's time is over");
    }
    doors.send_replace(vec![Door { until_ms: now_ms + 60_000, to: to.clone() }]);
    await_some!(is_open().then_some(()));
    join_at(&scene, "can-tho", &at).await.expect("joined");
    doors.send_replace(Vec::new());
    await_some!((!is_open()).then_some(()));
    doors.send_replace(vec![Door { until_ms: Clock::default().wall_ms() + 300, to }]);
    await_some!(is_open().then_some(()));
    await_some!((!is_open()).then_some(()));
    drop(doors);
    timeout(SOON, minding).await.expect("in time").expect("ends");
}
