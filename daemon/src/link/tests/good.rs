//! What works between nodes that keep the rules.

use std::time::Duration;

use bytes::Bytes;
use tram_proto::envelope::Precedence;
use tram_proto::frame::{Frame, Range};
use tram_proto::id::{Incarnation, NodeId};
use tram_proto::limits::CHUNK_BYTES;
use tram_proto::manifest::Layout;
use tram_proto::receipt::{NodeRecord, Ordinal, Reason, Receipt, State};
use tram_proto::row::ReceiptRow;
use tram_proto::statement::Kind;
use tram_relay::input::{Input, Row, Side};
use tram_relay::output::{CloseReason, Op, Output, Statement};

use super::fixture::*;
use crate::clock::Clock;
use crate::link::dialer::{UplinkState, Uplinks};

/// Central and can-tho, linked; can-tho dials.
struct Pair {
    central: Station,
    can_tho: Station,
    down: Up,
    up: Up,
    uplinks: Uplinks,
}

impl Pair {
    async fn new(listen: &str) -> Self {
        let overlay = Overlay::new();
        let keys = overlay.admit("can-tho");
        let mut central = Station::new(&overlay.central, Some(listen));
        let mut can_tho = Station::new(&keys, None);
        let uplinks = can_tho.dial("central", central.address());
        let (down, up) = (central.link_up().await, can_tho.link_up().await);
        Self { central, can_tho, down, up, uplinks }
    }
}

const fn ping(number: u64) -> Frame {
    Frame::Ping { number, clock_ms: 7 }
}

#[track_caller]
fn is_ping(input: Input, expected: u64) {
    match input {
        Input::Frame { frame: Frame::Ping { number, .. }, .. } => assert_eq!(number, expected),
        other => panic!("not the ping: {other:?}"),
    }
}

async fn check_both_ways(listen: &str) {
    let mut pair = Pair::new(listen).await;
    assert_eq!((pair.down.peer.name.as_str(), pair.down.side), ("can-tho", Side::Down));
    assert_eq!((pair.up.peer.name.as_str(), pair.up.side), ("central", Side::Up(0)));
    pair.up.send(ping(1)).await;
    is_ping(pair.central.next_input().await, 1);
    pair.down.send(ping(2)).await;
    is_ping(pair.can_tho.next_input().await, 2);
    let up = status(&pair.uplinks, |s| s.state == UplinkState::Up).await;
    assert_eq!((up.last_error, up.remote), (None, Some(pair.central.address())));
}

#[tokio::test]
async fn control_frames_pass_both_ways_over_ipv4_and_ipv6() {
    check_both_ways("127.0.0.1:0").await;
    check_both_ways("[::1]:0").await;
}

#[tokio::test]
async fn an_offer_arrives_with_its_signer_proven_and_its_chain_kept() {
    let mut pair = Pair::new("127.0.0.1:0").await;
    let payload = noise(5000);
    let id =
        pair.central.write(1, &body(&pair.central.keys, Precedence::Routine, &payload), Some(payload.clone().into()));
    pair.down.offer(1, 1, Precedence::Routine).await;
    match pair.can_tho.next_input().await {
        Input::Offer { id: got, trusted, offer, .. } => {
            assert_eq!((got, trusted), (id, Some(true)));
            assert_eq!(offer.inline.as_deref(), Some(payload.as_slice()));
        }
        other => panic!("{other:?}"),
    }
    let signer = pair.central.keys.signer().certificate();
    assert!(pair.can_tho.spool.chain(&signer).expect("readable").is_some());
}

#[tokio::test]
async fn a_relay_does_not_look_at_signatures_and_a_destination_does() {
    let overlay = Overlay::new();
    let (can_tho, hue) = (overlay.admit("can-tho"), overlay.admit("hue"));
    let mut station = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let raw = Raw::dial(&can_tho, &station).await;
    let _up = station.link_up().await;
    let mut stream = raw.open(tram_proto::frame::StreamKind::Class(Precedence::Flash)).await;
    let mut forged = body(&hue, Precedence::Flash, b"x");
    let mut seen = Vec::new();
    for to in ["vanban@can-tho", "vanban@central"] {
        forged.to = vec![to.parse().expect("address")];
        raw.offer(&mut stream, &can_tho, &forged, Some(Bytes::from_static(b"x"))).await;
        match station.next_input().await {
            Input::Offer { trusted, .. } => seen.push(trusted),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [None, Some(false)]);
}

#[tokio::test]
async fn receipts_and_records_arrive_with_their_signers() {
    let mut pair = Pair::new("127.0.0.1:0").await;
    let (own, origin) = (pair.can_tho.keys.identity().clone(), pair.central.keys.identity().id);
    let message = body(&pair.central.keys, Precedence::Routine, b"x");
    let message = tram_proto::id::MessageId::of(&message.encode().expect("small"));
    let receipt = Receipt {
        message,
        origin,
        ordinal: Ordinal::body(0),
        address: "vanban@can-tho".parse().expect("address"),
        state: State::Arrived,
        reason: Reason::None,
        detail: String::new(),
        code: 0,
        node: own.id,
        name: own.name.clone(),
        at_ms: Clock::default().wall_ms(),
        stamps: vec![],
        payload_root: tram_proto::id::Digest([0; 32]),
        payload_bytes: 0,
    };
    let statement = Statement::Signed(sign(&pair.can_tho.keys, Kind::Receipt, receipt.encode()));
    let row = ReceiptRow { message, origin, until_ms: u64::MAX };
    pair.can_tho.spool.commit(&[Op::PutReceipt { row: Row(9), receipt: row, statement }]).expect("stored");
    pair.up.put(Output::SendReceipt { link: pair.up.link, number: 4, row: Row(9) }).await;
    match pair.central.next_input().await {
        Input::Receipt { number, receipt: got, signer, .. } => {
            assert_eq!((number, *got), (4, receipt));
            assert_eq!(signer.map(|s| s.node), Some(own.id));
        }
        other => panic!("{other:?}"),
    }
    let record = record(own.id, "can-tho");
    let signed = sign(&pair.can_tho.keys, Kind::Record, record.encode());
    pair.up.put(Output::SendRecord { link: pair.up.link, record: signed.clone(), flood: true }).await;
    match pair.central.next_input().await {
        Input::Record { record: got, signed: bytes, flood, .. } => {
            assert_eq!((got, bytes, flood), (record, signed, true))
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn record(node: NodeId, who: &str) -> NodeRecord {
    NodeRecord {
        node,
        name: name(who),
        incarnation: Incarnation([1; 16]),
        counter: 1,
        inboxes: vec![],
        uplinks: vec![],
        active: None,
        at_ms: Clock::default().wall_ms(),
        title: String::new(),
        retired: vec![],
    }
}

/// Sends a payload in runs of 16 units, all at once, and answers how many input messages `RunSent` came.
async fn transfer(pair: &mut Pair, bytes: usize, precedence: Precedence) -> u64 {
    send_payload(pair, noise(bytes), precedence).await
}

async fn send_payload(pair: &mut Pair, payload: Vec<u8>, precedence: Precedence) -> u64 {
    let mut upload = pair.central.spool.upload();
    upload.push(payload.into()).expect("fits");
    let (root, length) = upload.finish().expect("durable");
    let layout = Layout::new(length).expect("small");
    pair.central.write(1, &body_of(&pair.central.keys, precedence, root, length), None);
    pair.down.offer(1, 1, precedence).await;
    match pair.can_tho.next_input().await {
        Input::Offer { held, .. } => assert!(held.units.is_empty()),
        other => panic!("{other:?}"),
    }
    let firsts: Vec<u64> = (0..layout.units()).step_by(16).collect();
    for &first in &firsts {
        let count = u32::try_from((layout.units() - first).min(16)).expect("16");
        pair.down
            .put(Output::SendRun { link: pair.down.link, root, payload_bytes: length, first, count, precedence })
            .await;
    }
    let mut durable = 0;
    while durable < layout.units() {
        match pair.can_tho.next_input().await {
            Input::UnitsDurable { root: got, units } => {
                assert_eq!(got, root);
                durable += units.count;
            }
            other => panic!("{other:?}"),
        }
    }
    let all = vec![Range { first: 0, count: layout.units() }];
    assert_eq!(pair.can_tho.spool.held(root, layout).expect("readable").units, all);
    for _ in &firsts {
        assert!(matches!(pair.central.next_input().await, Input::RunSent { .. }));
    }
    firsts.len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_payload_arrives_in_runs_verified_and_durable() {
    let mut pair = Pair::new("127.0.0.1:0").await;
    assert_eq!(transfer(&mut pair, (20 << 20) + 5, Precedence::Routine).await, 6);
    assert_eq!(transfer(&mut pair, 300_000, Precedence::Flash).await, 1);
}

/// One GiB is 4,096 chunks in four pages: runs cross pages, and pages overtake nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_several_pages_arrives() {
    let mut pair = Pair::new("127.0.0.1:0").await;
    transfer(&mut pair, (1025 << 18) + 1, Precedence::Bulk).await;
}

/// One chunk again and again is legal: it crosses as often as the manifest says, and is stored once.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_one_repeated_chunk_arrives_and_is_stored_once() {
    let mut pair = Pair::new("127.0.0.1:0").await;
    let before = pair.can_tho.spool.room().free_bytes;
    let alike = noise(CHUNK_BYTES).repeat(40);
    send_payload(&mut pair, alike, Precedence::Routine).await;
    let stored = before - pair.can_tho.spool.room().free_bytes;
    assert!(stored < 2 * CHUNK_BYTES as u64, "{stored} bytes");
}

/// The link breaks ten times in the middle of runs; each time the receiver's whole units are there, and are not sent
/// again. What is lost is a part of one unit for each stream, and what the network had not brought in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_payload_cut_ten_times_is_hardly_sent_again() {
    const CUTS: u64 = 10;
    let mut pair = Pair::new("127.0.0.1:0").await;
    let mut upload = pair.central.spool.upload();
    upload.push(noise(128 << 20).into()).expect("fits");
    let (root, length) = upload.finish().expect("durable");
    let layout = Layout::new(length).expect("small");
    pair.central.write(1, &body_of(&pair.central.keys, Precedence::Bulk, root, length), None);
    let mut received_bytes = 0;
    for cut in 0..=CUTS {
        let connection = pair.can_tho.here.connections().pop().expect("linked").connection;
        pair.down.offer(1, 1, Precedence::Bulk).await;
        let held = match pair.can_tho.next_input().await {
            Input::Offer { held, .. } => held.units,
            other => panic!("{other:?}"),
        };
        let is_held = |unit: u64| held.iter().any(|r| (r.first..r.end()).contains(&unit));
        let mut durable = (0..layout.units()).filter(|unit| is_held(*unit)).count() as u64;
        for first in (0..layout.units()).filter(|unit| !is_held(*unit)).collect::<Vec<_>>().chunk_by(|a, b| a + 1 == *b)
        {
            for run in first.chunks(16) {
                let (first, count) = (run[0], run.len() as u32);
                let (link, precedence) = (pair.down.link, Precedence::Bulk);
                let run = Output::SendRun { link, root, payload_bytes: length, first, count, precedence };
                pair.down.put(run).await;
            }
        }
        // Not at a boundary of runs, and while others are under way.
        let goal = layout.units() * (cut + 1) / (CUTS + 1);
        while durable < goal {
            match pair.can_tho.next_input().await {
                Input::UnitsDurable { units, .. } => durable += units.count,
                other => panic!("{other:?}"),
            }
        }
        if cut < CUTS {
            connection.close(9u32.into(), b"cut");
            while !matches!(pair.can_tho.next_input().await, Input::LinkDown { .. }) {}
            while !matches!(pair.central.next_input().await, Input::LinkDown { .. }) {}
            // A dialler of its own each time: the pauses of one grow.
            pair.uplinks = pair.can_tho.dial("central", pair.central.address());
            (pair.down, pair.up) = (pair.central.link_up().await, pair.can_tho.link_up().await);
        }
        received_bytes += connection.stats().udp_rx.bytes;
    }
    let all = vec![Range { first: 0, count: layout.units() }];
    assert_eq!(pair.can_tho.spool.held(root, layout).expect("readable").units, all);
    // Of 1,452 bytes a packet leaves 1,400 for a stream.
    let again_bytes = received_bytes.saturating_sub(length * 104 / 100);
    // Of 2 GiB that are 2 %.
    assert!(again_bytes <= CUTS * (4 << 20), "{again_bytes} bytes came again");
}

#[tokio::test]
async fn bulk_that_nobody_reads_does_not_hold_up_flash_or_control() {
    let overlay = Overlay::new();
    let can_tho = overlay.admit("can-tho");
    let mut station = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let mut raw = Raw::dial(&can_tho, &station).await;
    let up = station.link_up().await;
    let payload: Bytes = noise(64 << 10).into();
    station.write(1, &body(&station.keys, Precedence::Bulk, &payload), Some(payload));
    station.write(2, &body(&station.keys, Precedence::Flash, b"now"), Some(Bytes::from_static(b"now")));
    // Three times what the stream's window takes.
    for number in 1..=192 {
        up.offer(number, 1, Precedence::Bulk).await;
    }
    up.offer(200, 2, Precedence::Flash).await;
    up.send(ping(5)).await;
    assert_eq!(frame(&mut raw.replies).await, Some(ping(5)));
    let mut flash = raw.accept(tram_proto::frame::StreamKind::Class(Precedence::Flash)).await;
    assert!(matches!(frame(&mut flash).await, Some(Frame::Chain(_))));
    assert!(matches!(frame(&mut flash).await, Some(Frame::Offer(offer)) if offer.number == 200));
}

#[tokio::test]
async fn the_core_closes_with_a_bye_and_both_ends_hear_of_it() {
    let overlay = Overlay::new();
    let can_tho = overlay.admit("can-tho");
    let mut station = Station::new(&overlay.central, Some("127.0.0.1:0"));
    let raw = Raw::dial(&can_tho, &station).await;
    let up = station.link_up().await;
    up.put(Output::Close { link: up.link, reason: CloseReason::Replaced }).await;
    assert_eq!(raw.closed().await, (3, CloseReason::Replaced.to_string()));
    assert!(matches!(station.next_input().await, Input::LinkDown { link } if link == up.link));
    station.here.closed(SOON).await;
}

#[tokio::test]
async fn a_restarted_parent_is_noticed_and_dialled_again_at_once() {
    let mut pair = Pair::new("127.0.0.1:0").await;
    pair.up.send(ping(1)).await;
    is_ping(pair.central.next_input().await, 1);
    let keys = pair.central.keys.clone();
    let address = pair.central.kill().await;
    let mut central = Station::new(&keys, Some(&address.to_string()));
    let began = Clock::default().mono_ms();
    pair.up.send(ping(2)).await;
    assert!(matches!(pair.can_tho.next_input().await, Input::LinkDown { link } if link == pair.up.link));
    let (again, _down) = (pair.can_tho.link_up().await, central.link_up().await);
    assert!(again.link != pair.up.link);
    let took_ms = Clock::default().mono_ms() - began;
    assert!(took_ms < 3_000, "{took_ms} ms");
}

#[tokio::test]
async fn a_parent_that_comes_late_is_found() {
    let overlay = Overlay::new();
    let can_tho = overlay.admit("can-tho");
    let address = Station::new(&overlay.central, Some("127.0.0.1:0")).kill().await;
    let mut child = Station::new(&can_tho, None);
    let uplinks = child.dial("central", address);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _central = Station::new(&overlay.central, Some(&address.to_string()));
    child.link_up().await;
    assert!(uplinks.status().borrow()[0].last_error.is_none());
}
