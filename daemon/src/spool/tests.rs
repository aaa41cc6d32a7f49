use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;
use tram_proto::envelope::{Body, MessageKind, Network, Precedence};
use tram_proto::frame::Visit;
use tram_proto::id::{CertHash, Digest, Incarnation, MessageId, NodeId};
use tram_proto::limits::CHUNK_BYTES;
use tram_proto::manifest::{Layout, root_of};
use tram_proto::row::MessageRow;
use tram_proto::statement::{Kind, Signature, Signed};
use tram_relay::input::{Input, Row};
use tram_relay::output::{Op, Statement};

use super::{DiskOptions, DiskSpool, MemorySpool, Spool, SpoolError};

mod cuts;
mod damage;
mod disk;
mod faults;
mod full;
mod golden;
mod model;

const HOUR_MS: u64 = 3600 * 1000;
const ROOM_BYTES: u64 = 1 << 30;

fn options() -> DiskOptions {
    DiskOptions {
        max_bytes: ROOM_BYTES,
        keep_free_bytes: 0,
        reserve_bytes: 0,
        pack_bytes: 1 << 20,
        ..DiskOptions::default()
    }
}

fn open(dir: &Path) -> DiskSpool {
    DiskSpool::open(dir, options()).expect("opens")
}

fn signed(statement: Bytes) -> Signed {
    let signature = Signature {
        signer: CertHash([9; 32]),
        count: 1,
        index: 0,
        path: Vec::new(),
        signature: Bytes::from_static(b"s"),
    };
    Signed { statement, signature }
}

fn body(n: u64, payload_bytes: u64, payload_root: Digest) -> Bytes {
    let body = Body {
        nonce: [1; 16],
        origin: NodeId([1; 16]),
        incarnation: Incarnation([2; 16]),
        origin_name: "can-tho".parse().expect("a name"),
        sender: None,
        to: vec!["vanban@central".parse().expect("an address")],
        precedence: Precedence::Routine,
        sequence: n,
        created_ms: 1000,
        clock_offset_ms: 0,
        lifetime_ms: 1000,
        deliver_by_ms: 0,
        label: String::new(),
        network: Network::Unspecified,
        kind: MessageKind::Document,
        subject: format!("Công văn số {n}"),
        file_name: String::new(),
        content_type: String::new(),
        attributes: Vec::new(),
        business_id: String::new(),
        idempotency_key: String::new(),
        traceparent: String::new(),
        sealed: false,
        payload_bytes,
        payload_root,
        recalls: None,
        pair_sequences: Vec::new(),
    };
    body.encode().expect("within limits")
}

fn message_row(id: MessageId, attempt: u32) -> MessageRow {
    MessageRow {
        id,
        visit: Visit { attempt, hops: 0 },
        from: None,
        received_ms: 1000,
        recipients: Vec::new(),
        stamps: Vec::new(),
        complete: false,
        handed_ms: 0,
        handed_to: None,
        user: None,
        recalls: None,
        demoted_from: None,
    }
}

/// A message in row `row`; its payload is inline unless it is given.
fn put(row: u64, payload: Option<(Digest, u64)>) -> Op {
    let inline = payload.is_none().then(|| Bytes::from(format!("payload {row}")));
    let (root, bytes) = payload.unwrap_or((Digest([0; 32]), 9));
    let body = body(row, bytes, root);
    let message = message_row(MessageId::of(&body), 0);
    Op::PutMessage { row: Row(row), message, envelope: Statement::Signed(signed(body)), inline, payload }
}

/// Bytes that no other seed has anywhere.
fn payload(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    let mut reader = blake3::Hasher::new_keyed(Digest::of(&seed.to_be_bytes()).as_bytes()).finalize_xof();
    reader.fill(&mut out);
    out.into()
}

fn upload(spool: &dyn Spool, bytes: &Bytes) -> Digest {
    let mut upload = spool.upload();
    for part in bytes.chunks(100_000) {
        upload.push(Bytes::copy_from_slice(part)).expect("there is room");
    }
    let (root, length) = upload.finish().expect("durable");
    assert_eq!((root, length), (root_of(bytes), bytes.len() as u64));
    root
}

fn layout(bytes: &[u8]) -> Layout {
    Layout::new(bytes.len() as u64).expect("within limits")
}

/// Every unit of a payload, read back, or `None` when the spool does not claim to hold it whole.
fn read_back(spool: &dyn Spool, root: Digest, layout: Layout) -> Option<Vec<Bytes>> {
    let held = spool.held(root, layout).expect("reads");
    let whole = held.units.first().is_some_and(|r| r.first == 0 && r.count == layout.units());
    whole.then(|| (0..layout.units()).map(|n| spool.unit(root, layout, n).expect("is held")).collect())
}

/// Runs a test against both spools; the one on a disk has small packs.
#[track_caller]
fn check(test: impl Fn(&dyn Spool)) {
    let dir = tempfile::tempdir().expect("a directory");
    test(&open(dir.path()));
    test(&MemorySpool::new(ROOM_BYTES, HOUR_MS));
}

fn restored(spool: &dyn Spool) -> Vec<String> {
    let mut all = Vec::new();
    let start = spool.restore(&mut |input| all.push(format!("{input:?}"))).expect("restores");
    all.push(format!("{start:?}"));
    all
}

#[test]
fn an_uploaded_payload_is_read_back_unit_by_unit() {
    check(|spool| {
        for len in [0, 1, CHUNK_BYTES, CHUNK_BYTES * 3 + 7] {
            let bytes = payload(1, len);
            let root = upload(spool, &bytes);
            let units = read_back(spool, root, layout(&bytes)).expect("held whole");
            let pages = layout(&bytes).manifest_units() as usize;
            assert_eq!(units[pages..].concat(), bytes);
        }
    });
}

#[test]
fn units_that_a_link_brings_are_held_from_then_on() {
    let bytes = payload(2, CHUNK_BYTES * 20 + 5);
    let (root, layout) = (root_of(&bytes), layout(&bytes));
    let origin = MemorySpool::default();
    upload(&origin, &bytes);
    check(|spool| {
        let get = |range: std::ops::Range<u64>| range.map(|n| origin.unit(root, layout, n).expect("held")).collect();
        assert!(spool.held(root, layout).expect("reads").units.is_empty());
        spool.store(root, layout, 0, get(0..4)).expect("stores");
        spool.store(root, layout, 9, get(9..12)).expect("stores");
        let ranges = spool.held(root, layout).expect("reads").units;
        assert_eq!(ranges.iter().map(|r| (r.first, r.count)).collect::<Vec<_>>(), [(0, 4), (9, 3)]);
        assert!(matches!(spool.unit(root, layout, 5), Err(SpoolError::Missing { .. })));
        assert!(
            matches!(spool.store(root, layout, 4, get(1..2)), Err(SpoolError::Misuse { .. })),
            "a page is no chunk"
        );
        spool.store(root, layout, 4, get(4..23)).expect("stores");
        assert!(read_back(spool, root, layout).is_some());
    });
}

#[test]
fn a_payload_goes_a_grace_period_after_its_last_reference_and_not_before() {
    check(|spool| {
        let bytes = payload(3, CHUNK_BYTES * 9);
        let root = upload(spool, &bytes);
        let there = |expect: bool, why: &str| {
            let unit = spool.unit(root, layout(&bytes), 0);
            assert_eq!(unit.is_ok(), expect, "{why}");
        };
        let room = spool.room().free_bytes;
        spool
            .commit(&[put(1, Some((root, bytes.len() as u64))), put(2, Some((root, bytes.len() as u64)))])
            .expect("commits");
        spool.sweep(HOUR_MS).expect("sweeps");
        spool.sweep(9 * HOUR_MS).expect("sweeps");
        there(true, "two messages refer to it");
        let gone = message_row(MessageId([0; 32]), 1);
        spool.commit(&[Op::SettleMessage { row: Row(1), message: gone, until_ms: 5 }]).expect("commits");
        spool.sweep(10 * HOUR_MS).expect("sweeps");
        spool.sweep(20 * HOUR_MS).expect("sweeps");
        there(true, "one message refers to it");
        spool.commit(&[Op::DeleteMessage { row: Row(2) }]).expect("commits");
        spool.sweep(30 * HOUR_MS).expect("sweeps");
        spool.sweep(31 * HOUR_MS - 1).expect("sweeps");
        there(true, "its grace has not passed");
        spool.held(root, layout(&bytes)).expect("reads");
        spool.sweep(31 * HOUR_MS).expect("sweeps");
        there(true, "someone asked for it");
        spool.sweep(32 * HOUR_MS).expect("sweeps");
        there(false, "nobody wants it");
        assert!(spool.room().free_bytes > room, "the space is free again");
    });
}

#[test]
fn with_little_room_a_payload_goes_after_seconds() {
    let dir = tempfile::tempdir().expect("a directory");
    let small = DiskOptions { max_bytes: 8 << 20, ..options() };
    let disk = DiskSpool::open(dir.path(), small).expect("opens");
    for spool in [&disk as &dyn Spool, &MemorySpool::new(8 << 20, HOUR_MS)] {
        let bytes = payload(21, CHUNK_BYTES * 9);
        let root = upload(spool, &bytes);
        let room = spool.room().free_bytes;
        spool.sweep(HOUR_MS).expect("sweeps");
        spool.sweep(HOUR_MS + 9_000).expect("sweeps");
        assert!(spool.unit(root, layout(&bytes), 0).is_ok(), "a commit may be about to refer to it");
        spool.sweep(HOUR_MS + 10_000).expect("sweeps");
        spool.sweep(HOUR_MS + 20_000).expect("sweeps");
        assert!(spool.unit(root, layout(&bytes), 0).is_err() && spool.room().free_bytes > room, "others need the room");
    }
}

#[test]
fn chunks_of_another_payload_count_as_held_once_the_manifest_is_here() {
    let known = payload(5, CHUNK_BYTES * 4);
    let new = Bytes::from([&known[..CHUNK_BYTES * 2], &payload(6, CHUNK_BYTES)].concat());
    let origin = MemorySpool::default();
    let root = upload(&origin, &new);
    check(|spool| {
        upload(spool, &known);
        let manifest = (0..2).map(|n| origin.unit(root, layout(&new), n).expect("held")).collect();
        spool.store(root, layout(&new), 0, manifest).expect("stores");
        let held = spool.held(root, layout(&new)).expect("reads").units;
        assert_eq!(held.iter().map(|r| (r.first, r.count)).collect::<Vec<_>>(), [(0, 4)]);
    });
}

#[test]
fn a_full_spool_refuses_payloads_but_takes_commits() {
    let dir = tempfile::tempdir().expect("a directory");
    let small = DiskOptions { max_bytes: 600_000, ..options() };
    let disk = DiskSpool::open(dir.path(), small).expect("opens");
    for spool in [&disk as &dyn Spool, &MemorySpool::new(600_000, HOUR_MS)] {
        let mut upload = spool.upload();
        let error = upload.push(payload(16, CHUNK_BYTES * 4)).expect_err("does not fit");
        assert!(matches!(error, SpoolError::Full { .. }), "{error}");
        drop(upload);
        spool.sweep(1).expect("sweeps");
        spool.commit(&[put(1, None)]).expect("commits");
        let bytes = payload(17, CHUNK_BYTES * 2);
        let root = root_of(&bytes);
        let mut upload = spool.upload();
        upload.push(bytes.clone()).expect("fits");
        assert_eq!(upload.finish().expect("fits").0, root);
        let again = vec![payload(18, CHUNK_BYTES)];
        let refused = spool.store(root, layout(&bytes), 2, again).expect_err("does not fit");
        assert!(matches!(refused, SpoolError::Full { .. }));
        spool.commit(&[put(2, None), Op::DeleteMessage { row: Row(1) }]).expect("commits");
        assert!(read_back(spool, root, layout(&bytes)).is_some(), "what was there is whole");
    }
}

#[test]
fn a_commit_is_done_whole_or_not_at_all() {
    check(|spool| {
        spool.commit(&[put(1, None)]).expect("commits");
        let before = restored(spool);
        let wrong = Op::UpdateMessage { row: Row(7), message: message_row(MessageId([0; 32]), 1) };
        let result = spool.commit(&[put(2, None), Op::DeleteMessage { row: Row(1) }, wrong]);
        assert!(matches!(result, Err(SpoolError::Missing { .. })));
        let unsigned = Statement::ToSign(Kind::Record, Bytes::new());
        let result = spool.commit(&[put(2, None), Op::PutRecord { node: NodeId([1; 16]), statement: unsigned }]);
        assert!(matches!(result, Err(SpoolError::Misuse { .. })));
        assert_eq!(restored(spool), before);
        spool.commit(&[put(2, None)]).expect("a refused commit stops nothing");
    });
}

#[test]
fn a_chain_is_kept_under_the_hash_of_its_leaf() {
    check(|spool| {
        let chain = [Bytes::from_static(b"leaf"), Bytes::from_static(b"issuer")];
        let leaf = super::chain::leaf_hash(&chain).expect("not empty");
        assert_eq!(spool.chain(&leaf), Ok(None));
        spool.put_chain(&chain).expect("keeps");
        spool.put_chain(&chain).expect("keeps");
        assert_eq!(spool.chain(&leaf), Ok(Some(chain.to_vec())));
        assert!(matches!(spool.put_chain(&[]), Err(SpoolError::Misuse { .. })));
    });
}
