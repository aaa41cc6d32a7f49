//! What peers get that break the rules, and what is seen of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use quinn::SendStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tram_proto::envelope::Precedence;
use tram_proto::frame::{ALPN, Frame, Range, StreamKind, frame_length};
use tram_proto::id::Digest;
use tram_proto::limits::{CHUNK_BYTES, OFFER_FRAME_BYTES};
use tram_proto::manifest::{Builder, Layout};
use tram_proto::statement::Kind;
use tram_relay::input::Input;

use super::fixture::*;
use super::good::record;
use super::line::Line;
use crate::clock::Clock;
use crate::link::dialer::UplinkState;
use crate::link::endpoint::{Endpoints, SERVER_NAME};
use crate::link::pace::Pace;
use crate::link::transfer::{NO_ROOM, SILENT};
use crate::spool::{GRACE_MS, MemorySpool};

/// A station and a raw peer with a good certificate.
struct Scene {
    overlay: Overlay,
    can_tho: tram_pki::keystore::NodeKeys,
    station: Station,
    raw: Raw,
    _up: Up,
}

impl Scene {
    async fn new() -> Self {
        let overlay = Overlay::new();
        let can_tho = overlay.admit("can-tho");
        let mut station = Station::new(&overlay.central, Some("127.0.0.1:0"));
        let raw = Raw::dial(&can_tho, &station).await;
        let up = station.link_up().await;
        assert_eq!(up.peer.name.as_str(), "can-tho");
        Self { overlay, can_tho, station, raw, _up: up }
    }

    /// The link has been closed with this code and a reason that says this; the engine knows.
    async fn closed(self, code: u32, reason: &str) {
        let (got, text) = self.raw.closed().await;
        assert!(got == code && text.contains(reason), "{got}: {text}");
        let mut station = self.station;
        while !matches!(station.next_input().await, Input::LinkDown { .. }) {}
    }
}

fn framed(bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32(u32::try_from(bytes.len()).expect("short"));
    out.put(bytes);
    out.freeze()
}

/// Writes `bytes` on a new stream of `kind` and expects the link to end with a protocol error.
async fn check(kind: StreamKind, bytes: impl AsRef<[u8]>, finish: bool, reason: &str) {
    let mut scene = Scene::new().await;
    let mut other;
    let stream: &mut SendStream = match kind {
        StreamKind::Control => &mut scene.raw.control,
        kind => {
            other = scene.raw.open(kind).await;
            &mut other
        }
    };
    stream.write_all(bytes.as_ref()).await.expect("written");
    if finish {
        stream.finish().expect("open");
    }
    scene.closed(6, reason).await;
}

const CLASS: StreamKind = StreamKind::Class(Precedence::Flash);

#[tokio::test]
async fn frames_that_break_the_rules_end_the_link_with_the_reason() {
    let ping = Frame::Ping { number: 1, clock_ms: 1 }.encode();
    let run = Frame::Run { root: Digest([0; 32]), first: 0, count: 1 }.encode();
    check(StreamKind::Control, [0xff; 8], false, "at most 65536").await;
    check(CLASS, (OFFER_FRAME_BYTES as u32 + 1).to_be_bytes(), false, "at most").await;
    check(StreamKind::Control, [0, 0, 0, 0], false, "empty").await;
    check(StreamKind::Control, framed(b"\x63abc"), false, "unknown frame kind: 99").await;
    check(CLASS, framed(b"\x06\xff\xff\xff"), false, "malformed offer").await;
    check(CLASS, &framed(b"\x06abcdef")[..6], true, "ended in the middle").await;
    check(StreamKind::Control, &ping[..ping.len() - 1], true, "ended in the middle").await;
    check(StreamKind::Control, b"", true, "without a bye").await;
    check(CLASS, &ping, false, "a ping frame has no place on a class stream").await;
    check(StreamKind::Receipts, &ping, false, "on a receipts stream").await;
    check(StreamKind::Transfer, &ping, false, "on a transfer stream").await;
    check(StreamKind::Control, &run, false, "on a control stream").await;
}

#[tokio::test]
async fn a_stream_of_an_unknown_kind_or_a_second_of_one_kind_ends_the_link() {
    let scene = Scene::new().await;
    let _stream = scene.raw.open_byte(0x77).await;
    scene.closed(6, "unknown stream kind: 119").await;
    let scene = Scene::new().await;
    let _streams = (scene.raw.open(CLASS).await, scene.raw.open(CLASS).await);
    scene.closed(6, "a second stream of one class").await;
    let scene = Scene::new().await;
    let _stream = scene.raw.open(StreamKind::Control).await;
    scene.closed(6, "a second control stream").await;
}

async fn check_offer(payload: &'static [u8], inline: Option<&'static [u8]>, on: Precedence, reason: &str) {
    let scene = Scene::new().await;
    let mut stream = scene.raw.open(StreamKind::Class(on)).await;
    let body = body(&scene.can_tho, Precedence::Flash, payload);
    scene.raw.offer(&mut stream, &scene.can_tho, &body, inline.map(Bytes::from_static)).await;
    scene.closed(6, reason).await;
}

#[tokio::test]
async fn an_offer_that_contradicts_itself_ends_the_link() {
    check_offer(b"abc", Some(b"abd"), Precedence::Flash, "not the one its envelope names").await;
    check_offer(b"abc", Some(b"abcd"), Precedence::Flash, "not the one its envelope names").await;
    check_offer(b"abc", None, Precedence::Flash, "lacks the payload").await;
    check_offer(b"abc", Some(b"abc"), Precedence::Bulk, "of another precedence").await;
}

#[tokio::test]
async fn row_10_a_record_of_another_node_ends_the_link() {
    let mut scene = Scene::new().await;
    let hue = scene.overlay.admit("hue");
    let chain = scene.can_tho.chain().iter().map(|c| Bytes::copy_from_slice(c)).collect();
    scene.raw.control.write_all(&Frame::Chain(chain).encode()).await.expect("written");
    let record = sign(&scene.can_tho, Kind::Record, record(hue.identity().id, "hue").encode());
    scene.raw.control.write_all(&Frame::Record { record, flood: false }.encode()).await.expect("written");
    scene.closed(10, "can-tho signed one of hue").await;
}

/// A payload of three chunks: root, length, head, page.
fn payload(chunk: &[u8]) -> (Digest, u64, Bytes, Bytes) {
    payload_of(3, chunk)
}

fn payload_of(chunks: u64, chunk: &[u8]) -> (Digest, u64, Bytes, Bytes) {
    let mut builder = Builder::default();
    (0..chunks).for_each(|_| builder.push(Digest::of(chunk), chunk.len()));
    let (head, mut pages) = builder.finish().expect("small");
    (head.root(), chunks * chunk.len() as u64, head.encode(), pages.remove(0))
}

async fn send_run(raw: &Raw, root: Digest, first: u64, units: &[&[u8]]) {
    let mut stream = raw.open(StreamKind::Transfer).await;
    let count = u32::try_from(units.len()).expect("few");
    stream.write_all(&Frame::Run { root, first, count }.encode()).await.expect("written");
    for unit in units {
        // A run that is not taken is stopped at any point.
        let _ = stream.write_all(unit).await;
    }
    let _ = stream.finish();
}

#[tokio::test]
async fn wrong_chunks_are_dropped_and_the_third_ends_the_link() {
    let mut scene = Scene::new().await;
    let good = noise(CHUNK_BYTES);
    let (root, bytes, head, page) = payload(&good);
    let mut stream = scene.raw.open(CLASS).await;
    let body = body_of(&scene.can_tho, Precedence::Flash, root, bytes);
    scene.raw.offer(&mut stream, &scene.can_tho, &body, None).await;
    assert!(matches!(scene.station.next_input().await, Input::Offer { .. }));
    let bad = vec![0; CHUNK_BYTES];
    send_run(&scene.raw, root, 0, &[&head, &page, &good]).await;
    match scene.station.next_input().await {
        Input::UnitsDurable { units, .. } => assert_eq!((units.first, units.count), (0, 3)),
        other => panic!("{other:?}"),
    }
    for _ in 0..2 {
        send_run(&scene.raw, root, 3, &[&bad]).await;
    }
    // Two lies do not yet end it, and what is right still counts.
    send_run(&scene.raw, root, 3, &[&good]).await;
    assert!(matches!(scene.station.next_input().await, Input::UnitsDurable { .. }));
    send_run(&scene.raw, root, 4, &[&bad]).await;
    scene.closed(7, "its digest is not the manifest's").await;
}

/// A peer that offered a payload of three chunks and began a run of its five units: three of them have come, and a part
/// of the fourth.
async fn half_a_run() -> (Scene, SendStream, Layout, Digest) {
    const PART: usize = 100_000;
    let mut scene = Scene::new().await;
    let chunk = noise(CHUNK_BYTES);
    let (root, bytes, head, page) = payload(&chunk);
    let mut class = scene.raw.open(CLASS).await;
    let body = body_of(&scene.can_tho, Precedence::Flash, root, bytes);
    scene.raw.offer(&mut class, &scene.can_tho, &body, None).await;
    assert!(matches!(scene.station.next_input().await, Input::Offer { .. }));
    let mut stream = scene.raw.open(StreamKind::Transfer).await;
    for bytes in [&Frame::Run { root, first: 0, count: 5 }.encode()[..], &head, &page, &chunk, &chunk[..PART]] {
        stream.write_all(bytes).await.expect("written");
    }
    // Packets carry these bytes and a few of their own; the part is far longer than the few.
    let received = || scene.station.here.connections()[0].connection.stats().udp_rx.bytes as usize;
    while received() < CHUNK_BYTES + PART {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (scene, stream, Layout::new(bytes).expect("small"), root)
}

#[tokio::test]
async fn a_run_that_is_cut_off_keeps_what_came() {
    let (mut reset, mut stream, layout, root) = half_a_run().await;
    stream.reset(1u32.into()).expect("open");
    let (mut lost, _stream, _, lost_root) = half_a_run().await;
    lost.raw.connection.close(9u32.into(), b"");
    for (scene, root) in [(&mut reset, root), (&mut lost, lost_root)] {
        let got = scene.station.next_input().await;
        assert!(matches!(got, Input::UnitsDurable { units: Range { first: 0, count: 3 }, .. }), "{got:?}");
        let held = scene.station.spool.held(root, layout).expect("readable").units;
        // The three chunks are alike.
        assert_eq!(held, vec![Range { first: 0, count: 5 }]);
    }
    // And only then the engine heard that the link is gone.
    assert!(matches!(lost.station.next_input().await, Input::LinkDown { .. }));
}

/// Offers a payload of three chunks, `bytes` long as the envelope says, and sends these units as one run of `count`.
async fn announced(bytes: u64, count: u32, units: &[&[u8]], root: Digest) -> Scene {
    let mut scene = Scene::new().await;
    let mut class = scene.raw.open(CLASS).await;
    let body = body_of(&scene.can_tho, Precedence::Flash, root, bytes);
    scene.raw.offer(&mut class, &scene.can_tho, &body, None).await;
    assert!(matches!(scene.station.next_input().await, Input::Offer { .. }));
    let mut stream = scene.raw.open(StreamKind::Transfer).await;
    stream.write_all(&Frame::Run { root, first: 0, count }.encode()).await.expect("written");
    stream.write_all(&units.concat()).await.expect("written");
    stream.finish().expect("open");
    scene
}

#[tokio::test]
async fn a_run_shorter_or_longer_than_it_says_ends_the_link_and_keeps_the_units_before() {
    let chunk = noise(CHUNK_BYTES);
    let (root, bytes, head, page) = payload(&chunk);
    let short: &[&[u8]] = &[&head, &page, &chunk, &chunk[..100]];
    let long: &[&[u8]] = &[&head, &page, &chunk, b"more"];
    for (count, units, reason) in [(4, short, "ends before its last unit"), (3, long, "bytes follow the end")] {
        let mut scene = announced(bytes, count, units, root).await;
        let got = scene.station.next_input().await;
        assert!(matches!(got, Input::UnitsDurable { units: Range { first: 0, count: 3 }, .. }), "{got:?}");
        scene.closed(6, reason).await;
    }
}

/// The numbering of the units follows from the announced length, so no chunk can be empty, and a head that was made for
/// another length is not the payload's.
#[tokio::test]
async fn a_payload_shorter_or_longer_than_announced_is_not_taken() {
    let chunk = noise(CHUNK_BYTES);
    let (root, bytes, head, page) = payload(&chunk);
    for announced_bytes in [bytes - 1, bytes + 1, bytes - CHUNK_BYTES as u64] {
        let scene = announced(announced_bytes, 1, &[&head], root).await;
        for _ in 0..2 {
            send_run(&scene.raw, root, 0, &[&head, &page]).await;
        }
        scene.closed(7, "unit 0 of payload").await;
    }
}

#[tokio::test]
async fn a_manifest_of_millions_of_entries_costs_nothing_until_it_is_wanted() {
    let largest = tram_proto::limits::PAYLOAD_BYTES;
    let mut scene = Scene::new().await;
    let mut class = scene.raw.open(CLASS).await;
    let body = body_of(&scene.can_tho, Precedence::Flash, Digest([7; 32]), largest);
    scene.raw.offer(&mut class, &scene.can_tho, &body, None).await;
    match scene.station.next_input().await {
        Input::Offer { held, body, .. } => assert_eq!((held.units, body.payload_bytes), (vec![], largest)),
        other => panic!("{other:?}"),
    }
    let spent = (1 << 40) - scene.station.spool.room().free_bytes;
    assert!(spent < 64 << 10, "{spent} bytes");
    let larger = body_of(&scene.can_tho, Precedence::Flash, Digest([7; 32]), largest + 1);
    assert!(larger.encode().is_err_and(|why| why.to_string().contains("larger than a manifest can describe")));
}

#[tokio::test]
async fn junk_under_a_known_id_is_told_from_the_envelope() {
    let mut scene = Scene::new().await;
    let hue = scene.overlay.admit("hue");
    let mut class = scene.raw.open(CLASS).await;
    let mut body = body(&scene.can_tho, Precedence::Flash, b"x");
    body.to = vec!["vanban@central".parse().expect("address")];
    let mut seen = Vec::new();
    for signer in [&scene.can_tho, &hue] {
        scene.raw.offer(&mut class, signer, &body, Some(Bytes::from_static(b"x"))).await;
        match scene.station.next_input().await {
            Input::Offer { id, trusted, .. } => seen.push((id, trusted)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [(seen[0].0, Some(true)), (seen[0].0, Some(false))]);
}

/// A spool without room stops the run, not the link; what fits later is taken.
#[tokio::test]
async fn a_run_for_which_there_is_no_room_is_stopped_and_the_link_goes_on() {
    let overlay = Overlay::new();
    let can_tho = overlay.admit("can-tho");
    let spool = Arc::new(MemorySpool::new(200_000, GRACE_MS));
    let mut station = Station::with_spool(&overlay.central, Some("127.0.0.1:0"), Clock::default(), spool);
    let raw = Raw::dial(&can_tho, &station).await;
    let _up = station.link_up().await;
    let chunk = noise(CHUNK_BYTES);
    let (root, bytes, head, page) = payload(&chunk);
    let mut class = raw.open(CLASS).await;
    raw.offer(&mut class, &can_tho, &body_of(&can_tho, Precedence::Flash, root, bytes), None).await;
    assert!(matches!(station.next_input().await, Input::Offer { .. }));
    send_run(&raw, root, 0, &[&head, &page]).await;
    let durable = |input| matches!(input, Input::UnitsDurable { units: Range { first: 0, count: 2 }, .. });
    assert!(durable(station.next_input().await));
    let mut stream = raw.open(StreamKind::Transfer).await;
    stream.write_all(&Frame::Run { root, first: 2, count: 3 }.encode()).await.expect("written");
    // It may be stopped at any point.
    let _ = stream.write_all(&chunk).await;
    assert_eq!(stream.stopped().await.expect("linked"), Some(NO_ROOM));
    assert!(matches!(station.next_input().await, Input::RunStopped { root: stopped } if stopped == root));
    send_run(&raw, root, 0, &[&head, &page]).await;
    assert!(durable(station.next_input().await));
}

/// With a paused clock, over a simulated line.
#[tokio::test(start_paused = true)]
async fn a_transfer_that_falls_silent_is_stopped_and_gives_its_place_back() {
    let overlay = Overlay::new();
    let can_tho = overlay.admit("can-tho");
    let line = Line::new(1);
    let mut station = Station::over(&overlay.central, &line, ([10, 0, 0, 1], 7443).into());
    let endpoints = Endpoints::over(line.socket(([10, 0, 0, 2], 7443).into()), quic_keys(&can_tho));
    let raw = Raw::dial_from(endpoints, &can_tho, &station).await;
    let _up = station.link_up().await;
    let chunk = noise(CHUNK_BYTES);
    let (root, bytes, head, page) = payload_of(16, &chunk);
    let mut class = raw.open(CLASS).await;
    raw.offer(&mut class, &can_tho, &body_of(&can_tho, Precedence::Flash, root, bytes), None).await;
    assert!(matches!(station.next_input().await, Input::Offer { .. }));
    // The longest run takes all places of the urgent classes; the next waits for it.
    let mut silent = raw.open(StreamKind::Transfer).await;
    for bytes in [&Frame::Run { root, first: 0, count: 16 }.encode()[..], &head, &page, &chunk[..1000]] {
        silent.write_all(bytes).await.expect("written");
    }
    let got = station.next_input().await;
    assert!(matches!(got, Input::UnitsDurable { units: Range { first: 0, count: 2 }, .. }), "stored at once: {got:?}");
    let began_ms = station.here.clock.mono_ms();
    send_run(&raw, root, 16, &[&chunk, &chunk]).await;
    assert_eq!(silent.stopped().await.expect("linked"), Some(SILENT));
    let took_ms = station.here.clock.mono_ms() - began_ms;
    assert!((28_000..=61_000).contains(&took_ms), "{took_ms} ms");
    let got = station.next_input().await;
    assert!(matches!(got, Input::UnitsDurable { units: Range { first: 16, count: 2 }, .. }), "{got:?}");
}

#[tokio::test]
async fn runs_of_payloads_that_were_not_offered_are_refused() {
    let scene = Scene::new().await;
    for _ in 0..3 {
        send_run(&scene.raw, Digest([9; 32]), 0, &[b"abc"]).await;
    }
    scene.closed(7, "was offered on this link").await;
}

#[tokio::test]
async fn a_run_past_the_end_or_too_long_or_too_short_ends_the_link() {
    for (first, units, reason) in
        [(5, &[&b"x"[..]][..], "beyond its payload's end"), (0, &[&[0; 16 + 32][..], b"x"][..], "protocol error")]
    {
        let mut scene = Scene::new().await;
        let (root, bytes, head, _) = payload(&noise(CHUNK_BYTES));
        let mut stream = scene.raw.open(CLASS).await;
        scene
            .raw
            .offer(&mut stream, &scene.can_tho, &body_of(&scene.can_tho, Precedence::Flash, root, bytes), None)
            .await;
        assert!(matches!(scene.station.next_input().await, Input::Offer { .. }));
        if first == 0 {
            send_run(&scene.raw, root, 0, &[&head, units[1]]).await;
        } else {
            send_run(&scene.raw, root, first, units).await;
        }
        scene.closed(6, reason).await;
    }
}

#[tokio::test]
async fn row_09_a_node_of_another_overlay_gets_no_link_and_is_told_why() {
    let (overlay, other) = (Overlay::new(), Overlay::new());
    let mut station = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let mut stranger = Station::new(&other.admit("can-tho"), None);
    let uplinks = stranger.dial("central", station.address());
    let down = status(&uplinks, |s| s.state == UplinkState::Down && s.last_error.is_some()).await;
    let why = down.last_error.expect("a reason");
    assert!(why.contains("another overlay"), "{why}");
    station.silent(Duration::from_millis(300)).await;
    stranger.silent(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn row_10_a_node_of_another_name_is_refused_by_name() {
    let overlay = Overlay::new();
    let can_tho = overlay.admit("can-tho");
    let station = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let node = Station::new(&can_tho, None);
    let uplinks = node.dial("hue", station.address());
    let why = status(&uplinks, |s| s.last_error.is_some()).await.last_error.expect("a reason");
    assert!(why.contains("expected node hue, but central answered"), "{why}");
}

#[tokio::test]
async fn row_17_a_wrong_clock_is_named_with_both_times() {
    let overlay = Overlay::new();
    let can_tho = overlay.admit("can-tho");
    let station = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let node = Station::with_clock(&can_tho, None, Clock::new(-400 * 24 * 3_600_000));
    let uplinks = node.dial("central", station.address());
    let why = status(&uplinks, |s| s.last_error.is_some()).await.last_error.expect("a reason");
    assert!(why.contains("valid only from") && why.contains("this machine's clock says"), "{why}");
}

/// Believes every server.
#[derive(Debug)]
pub(super) struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_no_link() {
    let overlay = Overlay::new();
    let mut station = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let config = Endpoints::client(tls, Pace::default(), &Pace::default().line()).expect("QUIC");
    let endpoint = station.endpoints.towards(station.address()).expect("opens");
    let connecting = endpoint.connect_with(config, station.address(), SERVER_NAME).expect("dials");
    let error = match connecting.await {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    };
    assert!(error.to_string().contains("certificate"), "{error}");
    station.silent(Duration::from_millis(300)).await;
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048), kind in 0u8..18) {
        let _ = Frame::decode(Bytes::copy_from_slice(&bytes));
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let _ = Frame::decode(Bytes::from(bytes));
    }

    #[test]
    fn a_frame_is_never_longer_than_its_streams_limit(field in any::<[u8; 4]>(), byte in any::<u8>()) {
        if let Ok(kind) = StreamKind::from_byte(byte) {
            let length = frame_length(field, kind.frame_limit());
            prop_assert!(length.is_err() || length.is_ok_and(|l| (1..=kind.frame_limit()).contains(&l)));
        }
    }
}
