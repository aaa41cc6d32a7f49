//! A body reads back what it writes and is held to every limit, both ways.

use proptest::prelude::*;

use super::*;
use crate::strategies;

fn body() -> Body {
    Body {
        nonce: [1; 16],
        origin: NodeId([2; 16]),
        incarnation: Incarnation([3; 16]),
        origin_name: "can-tho".parse().expect("a name"),
        sender: None,
        to: vec!["vanban@central".parse().expect("an address")],
        precedence: Precedence::Routine,
        sequence: 1,
        created_ms: 1_800_000_000_000,
        clock_offset_ms: -5,
        lifetime_ms: limits::LIFETIME_DEFAULT_MS,
        deliver_by_ms: 0,
        label: String::new(),
        network: Network::Unspecified,
        kind: MessageKind::Document,
        subject: String::new(),
        file_name: String::new(),
        content_type: String::new(),
        attributes: Vec::new(),
        business_id: String::new(),
        idempotency_key: String::new(),
        traceparent: String::new(),
        sealed: false,
        payload_bytes: 4,
        payload_root: crate::manifest::root_of(b"text"),
        recalls: None,
        pair_sequences: vec![],
    }
}

proptest! {
    #![proptest_config(strategies::config())]

    #[test]
    fn a_body_reads_back_what_it_writes(body in strategies::body()) {
        let bytes = body.encode().expect("within limits");
        prop_assert_eq!(body.encode(), Ok(bytes.clone()));
        prop_assert_eq!(Body::decode(&bytes), Ok(body));
    }

    #[test]
    fn the_gist_of_a_body_is_read_in_place_and_shares_what_is_the_same(
        body in strategies::body(),
        other in strategies::body(),
        wound in strategies::wound(),
    ) {
        let bytes = body.encode().expect("within limits");
        let gist = Gist::decode(&bytes, Some(&other.gist().to));
        prop_assert_eq!(gist.as_ref(), Ok(&body.gist()));
        let to = gist.expect("just read").to;
        prop_assert!(Arc::ptr_eq(&to, &Gist::decode(&bytes, Some(&to)).expect("the same").to));
        // Whatever else the bytes are: both read them, and the same, or the gist says no.
        let wounded = wound.inflict(&bytes);
        if let (Ok(read), Ok(body)) = (Gist::decode(&wounded, None), Body::decode(&wounded)) {
            prop_assert_eq!(read, body.gist());
        }
    }

    #[test]
    fn a_wounded_body_is_refused_or_read_but_never_a_panic(body in strategies::body(), wound in strategies::wound()) {
        let bytes = wound.inflict(&body.encode().expect("within limits"));
        if let Ok(read) = Body::decode(&bytes) {
            let again = read.encode().expect("what was read is within limits");
            prop_assert_eq!(Body::decode(&again), Ok(read));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in any::<Vec<u8>>()) {
        prop_assert!(Body::decode(&bytes.into()).is_err());
    }
}

/// Spoils a good body; it can then neither be written nor, where a peer wrote it all the same, be read.
#[track_caller]
fn check(spoil: impl FnOnce(&mut Body), refused: Option<&str>) {
    let mut body = body();
    spoil(&mut body);
    match (body.encode(), refused) {
        (Ok(bytes), None) => assert_eq!(Body::decode(&bytes), Ok(body)),
        (Err(error), Some(part)) => {
            assert!(error.to_string().contains(part), "{error}");
        }
        (got, expected) => panic!("{got:?} where {expected:?} was expected"),
    }
}

#[test]
fn every_limit_of_a_body_holds() {
    check(|_| {}, None);
    check(|b| b.to.clear(), Some("no recipient"));
    check(|b| b.to = vec![b.to[0].clone(); limits::RECIPIENTS], None);
    check(|b| b.to = vec![b.to[0].clone(); limits::RECIPIENTS + 1], Some("list of recipients"));
    check(|b| b.lifetime_ms = 0, Some("lifetime"));
    check(|b| b.lifetime_ms = limits::LIFETIME_MAX_MS, None);
    check(|b| b.lifetime_ms = limits::LIFETIME_MAX_MS + 1, Some("lifetime"));
    check(|b| b.payload_bytes = limits::PAYLOAD_BYTES, None);
    check(|b| b.payload_bytes = limits::PAYLOAD_BYTES + 1, Some("larger than a manifest"));
    check(|b| b.label = "x".repeat(limits::LABEL_BYTES + 1), Some("label"));
    check(|b| b.subject = "x".repeat(limits::SUBJECT_BYTES + 1), Some("subject"));
    check(|b| b.file_name = "x".repeat(limits::FILE_NAME_BYTES + 1), Some("file name"));
    check(|b| b.content_type = "x".repeat(limits::CONTENT_TYPE_BYTES + 1), Some("content type"));
    check(|b| b.business_id = "x".repeat(limits::BUSINESS_ID_BYTES + 1), Some("business id"));
    check(|b| b.idempotency_key = "x".repeat(limits::IDEMPOTENCY_KEY_BYTES + 1), Some("idempotency key"));
    check(|b| b.traceparent = "x".repeat(limits::TRACEPARENT_BYTES + 1), Some("traceparent"));
    let pair = |key, value| ("k".repeat(key), "v".repeat(value));
    check(|b| b.attributes = vec![pair(1, 1); limits::ATTRIBUTES + 1], Some("list of attributes"));
    check(|b| b.attributes = vec![pair(limits::ATTRIBUTE_KEY_BYTES + 1, 1)], Some("attribute key"));
    check(|b| b.attributes = vec![pair(1, limits::ATTRIBUTE_VALUE_BYTES + 1)], Some("attribute value"));
}

#[test]
fn a_body_at_every_limit_at_once_fits() {
    let inbox = "i".repeat(limits::INBOX_BYTES);
    let node = format!("{0}.{0}.{0}.nnnnnnnn", "n".repeat(63));
    check(
        |b| {
            b.to = vec![format!("{inbox}@{node}").parse().expect("an address"); limits::RECIPIENTS];
            b.sender = Some(inbox.parse().expect("an inbox"));
            b.origin_name = node.parse().expect("a name");
            b.label = "x".repeat(limits::LABEL_BYTES);
            b.subject = "x".repeat(limits::SUBJECT_BYTES);
            b.file_name = "x".repeat(limits::FILE_NAME_BYTES);
            b.content_type = "x".repeat(limits::CONTENT_TYPE_BYTES);
            b.business_id = "x".repeat(limits::BUSINESS_ID_BYTES);
            b.idempotency_key = "x".repeat(limits::IDEMPOTENCY_KEY_BYTES);
            b.traceparent = "x".repeat(limits::TRACEPARENT_BYTES);
            let pair = ("k".repeat(limits::ATTRIBUTE_KEY_BYTES), "v".repeat(limits::ATTRIBUTE_VALUE_BYTES));
            b.attributes = vec![pair; limits::ATTRIBUTES];
        },
        None,
    );
}

/// Changes the generated form, which a peer can send though [`Body`] cannot say it.
#[track_caller]
fn check_wire(spoil: impl FnOnce(&mut wire::Body), refused: &str) {
    let mut w: wire::Body = crate::wire::decode("body", body().encode().expect("good")).expect("good");
    spoil(&mut w);
    let error = Body::decode(&crate::wire::encode(&w)).expect_err(refused);
    assert!(error.to_string().contains(refused), "{error}");
}

#[test]
fn what_only_a_peer_can_write_is_refused_too() {
    check_wire(|w| w.version = 2, "unknown envelope version: 2");
    check_wire(|w| w.nonce = Bytes::from_static(b"short"), "nonce");
    check_wire(|w| w.origin = Bytes::new(), "node id");
    check_wire(|w| w.incarnation = Bytes::new(), "incarnation");
    check_wire(|w| w.payload_root = Bytes::new(), "digest");
    check_wire(|w| w.origin_name = "Cần Thơ".to_owned(), "node name");
    check_wire(|w| w.sender = "a/b".to_owned(), "inbox name");
    check_wire(|w| w.to = vec!["nowhere".to_owned()], "not an address");
    check_wire(|w| w.to.clear(), "no recipient");
    check_wire(|w| w.precedence = 5, "unknown precedence: 5");
    check_wire(|w| w.network = 3, "unknown network: 3");
    check_wire(|w| w.kind = 0, "unknown message kind: 0");
    check_wire(|w| w.lifetime_ms = 0, "lifetime");
    check_wire(|w| w.subject = "x".repeat(limits::SUBJECT_BYTES + 1), "subject");
    check_wire(|w| w.to = vec!["a@b".to_owned(); limits::RECIPIENTS + 1], "list of recipients");
    let long = Body::decode(&vec![0; limits::BODY_BYTES + 1].into()).expect_err("too long");
    assert!(matches!(long, WireError::Limit { what: "envelope body", .. }));
}

#[test]
fn a_field_of_a_newer_release_is_passed_over() {
    let bytes = body().encode().expect("good");
    // Field 100, a varint.
    let newer: Bytes = [&bytes[..], &[0xa0, 0x06, 1]].concat().into();
    assert_eq!(Body::decode(&newer), Ok(body()));
    assert_ne!(Body::id(&newer), Body::id(&bytes), "the id is that of the bytes, not of what was understood");
}
