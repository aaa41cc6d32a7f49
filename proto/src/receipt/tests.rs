//! Receipts and records read back what they write, within their limits; states override each other in one way.

use proptest::prelude::*;

use super::*;
use crate::strategies;

proptest! {
    #![proptest_config(strategies::config())]

    #[test]
    fn a_receipt_reads_back_what_it_writes(receipt in strategies::receipt()) {
        prop_assert_eq!(Receipt::decode(&receipt.encode()), Ok(receipt));
    }

    #[test]
    fn a_record_reads_back_what_it_writes(record in strategies::record()) {
        prop_assert_eq!(NodeRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn wounded_receipts_and_records_never_panic(
        receipt in strategies::receipt(),
        record in strategies::record(),
        wound in strategies::wound(),
        bytes in any::<Vec<u8>>(),
    ) {
        for bytes in [wound.inflict(&receipt.encode()), wound.inflict(&record.encode()), bytes.into()] {
            if let Ok(read) = Receipt::decode(&bytes) {
                prop_assert_eq!(Receipt::decode(&read.encode()), Ok(read));
            }
            if let Ok(read) = NodeRecord::decode(&bytes) {
                prop_assert_eq!(NodeRecord::decode(&read.encode()), Ok(read));
            }
        }
    }
}

fn good_receipt() -> Receipt {
    Receipt {
        message: MessageId([1; 32]),
        origin: NodeId([2; 16]),
        ordinal: Ordinal::body(0),
        address: "vanban@central".parse().expect("an address"),
        state: State::Arrived,
        reason: Reason::None,
        detail: String::new(),
        code: 0,
        node: NodeId([3; 16]),
        name: "central".parse().expect("a name"),
        at_ms: 1_800_000_000_000,
        stamps: Vec::new(),
        payload_root: Digest([4; 32]),
        payload_bytes: 4,
    }
}

fn good_record() -> NodeRecord {
    NodeRecord {
        node: NodeId([1; 16]),
        name: "can-tho".parse().expect("a name"),
        incarnation: Incarnation([2; 16]),
        counter: 1,
        inboxes: vec!["vanban".parse().expect("an inbox")],
        uplinks: vec![NodeId([3; 16])],
        active: Some(NodeId([3; 16])),
        at_ms: 1_800_000_000_000,
        title: "Cần Thơ".to_owned(),
        retired: vec![],
    }
}

/// Spoils the generated form of a good receipt.
#[track_caller]
fn check_receipt(spoil: impl FnOnce(&mut wire::Receipt), refused: &str) {
    let mut w: wire::Receipt = crate::wire::decode("receipt", good_receipt().encode()).expect("good");
    spoil(&mut w);
    let error = Receipt::decode(&crate::wire::encode(&w)).expect_err(refused);
    assert!(error.to_string().contains(refused), "{error}");
}

#[test]
fn every_limit_of_a_receipt_holds() {
    let stamp = wire::Stamp { node: vec![1; 16].into(), name: "central".to_owned(), at_ms: 1 };
    check_receipt(|w| w.version = 0, "unknown receipt version: 0");
    check_receipt(|w| w.message = Bytes::new(), "message id");
    check_receipt(|w| w.origin = Bytes::new(), "node id");
    check_receipt(|w| w.list = Bytes::from_static(b"short"), "digest");
    check_receipt(|w| w.address.clear(), "not an address");
    check_receipt(|w| w.state = 0, "unknown state: 0");
    check_receipt(|w| w.state = 9, "unknown state: 9");
    check_receipt(|w| w.detail = "x".repeat(limits::REASON_BYTES + 1), "receipt's detail");
    check_receipt(|w| w.stamps = vec![stamp; limits::HOPS + 1], "list of stamps");
    check_receipt(|w| w.payload_root = Bytes::new(), "digest");
}

#[test]
fn a_reason_of_a_newer_release_is_read_as_none() {
    let mut w: wire::Receipt = crate::wire::decode("receipt", good_receipt().encode()).expect("good");
    w.reason = 999;
    let read = Receipt::decode(&crate::wire::encode(&w)).expect("the state alone decides what happens");
    assert_eq!(read.reason, Reason::None);
}

/// Spoils the generated form of a good record.
#[track_caller]
fn check_record(spoil: impl FnOnce(&mut wire::Record), refused: &str) {
    let mut w: wire::Record = crate::wire::decode("record", good_record().encode()).expect("good");
    spoil(&mut w);
    let error = NodeRecord::decode(&crate::wire::encode(&w)).expect_err(refused);
    assert!(error.to_string().contains(refused), "{error}");
}

#[test]
fn every_limit_of_a_record_holds() {
    check_record(|w| w.version = 2, "unknown node record version: 2");
    check_record(|w| w.node = Bytes::new(), "node id");
    check_record(|w| w.name = "Cần Thơ".to_owned(), "node name");
    check_record(|w| w.inboxes = vec!["x".to_owned(); limits::RECORD_INBOXES + 1], "list of inboxes");
    check_record(|w| w.inboxes = vec!["a/b".to_owned()], "inbox name");
    check_record(|w| w.uplinks = vec![vec![1; 16].into(); limits::UPLINKS + 1], "list of uplinks");
    check_record(|w| w.uplinks = vec![Bytes::new()], "node id");
    check_record(|w| w.active = Bytes::from_static(b"x"), "node id");
    check_record(|w| w.title = "x".repeat(limits::SUBJECT_BYTES + 1), "title");
}

#[test]
fn a_positive_end_stands_and_a_late_arrival_undoes_a_negative_guess() {
    use State::{Arrived, Delivered, Expired, Relayed, Status, Submitted};
    #[track_caller]
    fn check(new: State, old: State, expect: bool) {
        assert_eq!(new.overrides(old), expect, "{new} over {old}");
    }
    check(Arrived, Submitted, true);
    check(Relayed, Arrived, false);
    check(Arrived, Arrived, false);
    check(Expired, Arrived, true);
    check(Expired, Delivered, false);
    check(Arrived, Expired, true);
    check(Relayed, Expired, false);
    check(Status, Delivered, true);
    check(Expired, Expired, false);
}
