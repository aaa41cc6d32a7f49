//! Every frame reads back what it writes; nothing a peer can send breaks the reader or a limit.

use proptest::prelude::*;

use super::*;
use crate::envelope::Precedence;
use crate::id::CertHash;
use crate::statement::Signature;
use crate::strategies::{self, Wound};

/// Reads a frame as a stream's reader does: length field, limit, kind, message.
fn read(bytes: &Bytes, limit: usize) -> Result<Frame, WireError> {
    let (field, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().expect("a length field");
    let length = frame_length(*field, limit)?;
    assert_eq!(length, rest.len(), "the length counts what follows it");
    Frame::decode(bytes.slice(LENGTH_BYTES..))
}

/// What was accepted once is accepted again in its own form, which never is the longer one.
fn check_stable(bytes: Bytes) {
    let length = bytes.len();
    let Ok(frame) = Frame::decode(bytes) else { return };
    let again = frame.encode();
    assert!(again.len() - LENGTH_BYTES <= length, "{frame:?}");
    assert_eq!(read(&again, length), Ok(frame));
}

proptest! {
    #![proptest_config(strategies::config())]

    #[test]
    fn every_frame_reads_back_what_it_writes(frame in strategies::frame()) {
        prop_assert_eq!(read(&frame.encode(), limits::OFFER_FRAME_BYTES), Ok(frame));
    }

    #[test]
    fn a_wounded_frame_is_refused_or_read_but_never_a_panic(
        frame in strategies::frame(),
        wounds in proptest::collection::vec(strategies::wound(), 1..4),
    ) {
        let whole = frame.encode().slice(LENGTH_BYTES..);
        check_stable(wounds.iter().fold(whole, |bytes, wound: &Wound| wound.inflict(&bytes)));
    }

    #[test]
    fn random_bytes_of_every_kind_never_panic(kind in 0..=RUN + 1, bytes in any::<Vec<u8>>()) {
        check_stable([&[kind], bytes.as_slice()].concat().into());
        check_stable(bytes.into());
    }

    #[test]
    fn a_length_field_is_taken_within_its_limit_only(field in any::<[u8; 4]>(), limit in 1_usize..1 << 20) {
        let length = u32::from_be_bytes(field) as usize;
        prop_assert_eq!(frame_length(field, limit).ok(), (1..=limit).contains(&length).then_some(length));
    }
}

#[test]
fn every_cut_of_a_frame_is_refused_or_another_frame() {
    let frame = Frame::Offer(offer());
    let whole = frame.encode().slice(LENGTH_BYTES..);
    for end in 0..whole.len() {
        check_stable(whole.slice(..end));
        assert_ne!(Frame::decode(whole.slice(..end)), Ok(frame.clone()), "cut at {end}");
    }
}

fn signed() -> Signed {
    let signature = Signature {
        signer: CertHash([7; 32]),
        count: 1,
        index: 0,
        path: Vec::new(),
        signature: Bytes::from_static(b"signature"),
    };
    Signed { statement: Bytes::from_static(b"statement"), signature }
}

fn recipient() -> Recipient {
    Recipient { ordinal: Ordinal::body(0), node: None }
}

fn stamp() -> Stamp {
    Stamp { node: NodeId([1; 16]), name: "can-tho".parse().expect("a name"), at_ms: 1 }
}

fn offer() -> Offer {
    Offer {
        number: 1,
        envelope: signed(),
        visit: Visit::default(),
        recipients: vec![recipient()],
        stamps: vec![stamp()],
        inline: Some(Bytes::from_static(b"payload")),
    }
}

fn hello() -> Hello {
    Hello {
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        node: NodeId([1; 16]),
        name: "can-tho".parse().expect("a name"),
        incarnation: Incarnation([2; 16]),
        boot: [3; 16],
        counter: 1,
        highest_of_yours: 0,
        spool_room_bytes: 0,
        clock_ms: 0,
        addresses: Vec::new(),
    }
}

fn hop() -> TraceHop {
    let Stamp { node, name, at_ms } = stamp();
    TraceHop { node, name, state: State::Relayed, at_ms, detail: String::new() }
}

/// Decodes what a peer without manners would write.
#[track_caller]
fn check(frame: &Frame, refused: Option<&str>) {
    check_bytes(frame.encode().slice(LENGTH_BYTES..), refused);
}

#[track_caller]
fn check_bytes(bytes: Bytes, refused: Option<&str>) {
    match (Frame::decode(bytes), refused) {
        (Ok(_), None) => {}
        (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
        (got, expected) => panic!("{got:?} where {expected:?} was expected"),
    }
}

fn want(units: &[(u64, u64)]) -> Frame {
    let units = units.iter().map(|(first, count)| Range { first: *first, count: *count }).collect();
    Frame::Want { offer: 1, units }
}

#[test]
fn a_frame_is_neither_empty_nor_of_an_unknown_kind() {
    check_bytes(Bytes::new(), Some("it is empty"));
    check_bytes(Bytes::from_static(&[0]), Some("unknown frame kind: 0"));
    check_bytes(Bytes::from_static(&[RUN + 1]), Some("unknown frame kind: 15"));
    check_bytes(Bytes::from_static(&[255, 8, 1]), Some("unknown frame kind: 255"));
    check_bytes(Bytes::from_static(&[PING, 8]), Some("not protobuf"));
    assert!(frame_length([0; 4], 10).is_err());
    assert_eq!(frame_length([0, 0, 0, 10], 10), Ok(10));
    assert_eq!(frame_length([0, 0, 0, 11], 10), Err(WireError::Limit { what: "frame", got: 11, max: 10 }));
    assert!(frame_length([255; 4], limits::OFFER_FRAME_BYTES).is_err());
}

#[test]
fn ranges_are_ascending_apart_and_end_within_the_numbers() {
    check(&want(&[]), None);
    check(&want(&[(0, 1), (1, 1), (5, u64::MAX - 5)]), None);
    check(&want(&[(5, 1), (4, 1)]), Some("ascending"));
    check(&want(&[(5, 1), (5, 1)]), Some("ascending"));
    check(&want(&[(5, 3), (7, 1)]), Some("ascending"));
    check(&want(&[(5, 0)]), Some("empty"));
    check(&want(&[(u64::MAX, 1)]), Some("empty or not"));
    check(&want(&[(1, u64::MAX)]), Some("empty or not"));
    let many: Vec<_> = (0..=limits::WANT_RANGES as u64).map(|n| (2 * n, 1)).collect();
    check(&want(&many[1..]), None);
    check(&want(&many), Some("want has 257"));
    let many: Vec<Range> = many.iter().map(|(first, count)| Range { first: *first, count: *count }).collect();
    check(&Frame::Ack(many[1..].to_vec()), None);
    check(&Frame::Ack(many), Some("ack has 257"));
    check(&Frame::Ack(vec![Range { first: 9, count: 0 }]), Some("empty"));
}

#[test]
fn a_run_has_one_to_sixteen_units() {
    let run = |count| Frame::Run { root: Digest([9; 32]), first: 0, count };
    check(&run(1), None);
    check(&run(limits::RUN_UNITS), None);
    check(&run(0), Some("no unit or more than 16"));
    check(&run(17), Some("no unit or more than 16"));
    check_bytes(Bytes::from_static(&[RUN, 24, 1]), Some("digest"));
}

#[test]
fn texts_keep_their_limits() {
    let bye = |bytes| Frame::Bye { code: 0, reason: "x".repeat(bytes) };
    check(&bye(limits::REASON_BYTES), None);
    check(&bye(limits::REASON_BYTES + 1), Some("bye's reason"));
    check_bytes(Bytes::from_static(&[BYE, 18, 1, 0xff]), Some("not protobuf"));
    let addresses = vec!["relay.example:7443".to_owned(); limits::HELLO_ADDRESSES + 1];
    check(&Frame::Hello(Hello { addresses: addresses[1..].to_vec(), ..hello() }), None);
    check(&Frame::Hello(Hello { addresses, ..hello() }), Some("list of addresses"));
    let addresses = vec!["x".repeat(limits::ADDRESS_BYTES + 1)];
    check(&Frame::Hello(Hello { addresses, ..hello() }), Some("address has"));
    let detail = "x".repeat(limits::REASON_BYTES + 1);
    check(&Frame::Answer { number: 1, hops: vec![TraceHop { detail, ..hop() }], last: true }, Some("trace detail"));
    let answer = |hops| Frame::Answer { number: 1, hops: vec![hop(); hops], last: true };
    check(&answer(limits::TRACE_HOPS), None);
    check(&answer(limits::TRACE_HOPS + 1), Some("answer has"));
}

#[test]
fn an_offer_names_a_message_its_recipients_and_its_way() {
    check(&Frame::Offer(offer()), None);
    check_bytes(Bytes::from_static(&[OFFER, 8, 1]), Some("no envelope"));
    check(&Frame::Offer(Offer { recipients: Vec::new(), ..offer() }), Some("list of recipients: it is empty"));
    let recipients = vec![recipient(); limits::RECIPIENTS + 1];
    check(&Frame::Offer(Offer { recipients: recipients[1..].to_vec(), ..offer() }), None);
    check(&Frame::Offer(Offer { recipients, ..offer() }), Some("list of recipients has 1025"));
    let stamps = vec![stamp(); limits::HOPS + 1];
    check(&Frame::Offer(Offer { stamps: stamps[1..].to_vec(), ..offer() }), None);
    check(&Frame::Offer(Offer { stamps, ..offer() }), Some("list of stamps"));
    let inline = |bytes| Frame::Offer(Offer { inline: Some(vec![0; bytes].into()), ..offer() });
    check(&inline(limits::INLINE_BYTES), None);
    check(&inline(limits::INLINE_BYTES + 1), Some("inline payload"));
}

#[test]
fn statements_and_chains_keep_their_limits() {
    let with = |change: fn(&mut Signed)| {
        let mut receipt = signed();
        change(&mut receipt);
        Frame::Receipt { number: 1, receipt }
    };
    check(&with(|_| {}), None);
    check(&with(|s| s.statement = vec![0; limits::STATEMENT_BYTES + 1].into()), Some("statement has"));
    check(&with(|s| s.signature.signature = vec![0; limits::SIGNATURE_BYTES + 1].into()), Some("signature has"));
    check(&with(|s| s.signature.path = vec![[0; 32]; limits::SIGNATURE_PATH + 1]), Some("signature path"));
    check(&with(|s| s.signature.count = 0), Some("impossible"));
    check(&with(|s| s.signature.index = 1), Some("impossible"));
    check_bytes(Bytes::from_static(&[RECEIPT, 8, 1]), Some("holds none"));
    check_bytes(Bytes::from_static(&[RECORD]), Some("holds none"));
    let chain = |certificates, bytes| Frame::Chain(vec![vec![0; bytes].into(); certificates]);
    check(&chain(limits::CHAIN_CERTIFICATES, limits::CERTIFICATE_BYTES), None);
    check(&chain(limits::CHAIN_CERTIFICATES + 1, 1), Some("chain has 5"));
    check(&chain(1, limits::CERTIFICATE_BYTES + 1), Some("certificate has"));
    check(&chain(0, 0), Some("chain: it is empty"));
}

#[test]
fn an_unknown_verdict_or_state_is_refused_and_an_unknown_reason_is_not() {
    check_bytes(Bytes::from_static(&[REPLY, 8, 1, 16, 1]), None);
    check_bytes(Bytes::from_static(&[REPLY, 8, 1]), Some("unknown verdict: 0"));
    check_bytes(Bytes::from_static(&[REPLY, 8, 1, 16, 3]), Some("unknown verdict: 3"));
    check_bytes(Bytes::from_static(&[REPLY, 8, 1, 16, 2, 24, 99]), None);
    let ordinals = vec![7; limits::RECIPIENTS + 1];
    let reply = Frame::Reply { offer: 1, verdict: Verdict::Refused, reason: Reason::None, ordinals };
    check(&reply, Some("list of recipients"));
    check(&Frame::Ask { number: 1, message: MessageId([0; 32]), recipients: Vec::new() }, Some("it is empty"));
}

#[test]
fn a_stream_says_in_one_byte_what_it_carries() {
    let classes = Precedence::ALL.map(StreamKind::Class);
    let all = [StreamKind::Control, StreamKind::Transfer, StreamKind::Receipts].into_iter().chain(classes);
    let known: Vec<u8> = all.map(StreamKind::to_byte).collect();
    for byte in 0..=u8::MAX {
        match StreamKind::from_byte(byte) {
            Ok(kind) => assert_eq!(kind.to_byte(), byte),
            Err(error) => {
                assert_eq!(error, WireError::Unknown { what: "stream kind", value: byte.into() });
                assert!(!known.contains(&byte));
            }
        }
    }
}

/// The longest text a name can be.
fn long_name() -> NodeName {
    let label = "x".repeat(63);
    let text = [label.as_str(), label.as_str(), label.as_str(), "xxxxxxxx"].join(".");
    assert_eq!(text.len(), limits::NAME_BYTES);
    text.parse().expect("a name of full length")
}

/// A frame at every limit at once is one its reader takes: no limit makes another one unreachable.
#[track_caller]
fn check_fullest(stream: StreamKind, frame: &Frame) {
    let bytes = frame.encode();
    assert_eq!(read(&bytes, stream.frame_limit()).as_ref(), Ok(frame), "{} bytes", bytes.len());
}

#[test]
fn the_fullest_frame_fits_the_stream_it_travels_on() {
    let name = long_name();
    let fullest = |statement: usize| {
        let signature = Signature {
            signer: CertHash([7; 32]),
            count: 1024,
            index: 1023,
            path: vec![[7; 32]; limits::SIGNATURE_PATH],
            signature: vec![7; limits::SIGNATURE_BYTES].into(),
        };
        Signed { statement: vec![7; statement].into(), signature }
    };
    let ordinal = Ordinal { list: Some(Digest([7; 32])), index: u32::MAX };
    let recipients = vec![Recipient { ordinal, node: Some(NodeId([7; 16])) }; limits::RECIPIENTS];
    let stamp = Stamp { node: NodeId([7; 16]), name: name.clone(), at_ms: u64::MAX };
    let range = |n: u64| Range { first: u64::MAX / 2 + 1_000 * n, count: 999 };
    let offer = Offer {
        number: u64::MAX,
        envelope: fullest(limits::BODY_BYTES),
        visit: Visit { attempt: u32::MAX, hops: u32::MAX },
        recipients: recipients.clone(),
        stamps: vec![stamp; limits::HOPS],
        inline: Some(vec![7; limits::INLINE_BYTES].into()),
    };
    check_fullest(StreamKind::Class(Precedence::Flash), &Frame::Offer(offer));
    let addresses = vec!["x".repeat(limits::ADDRESS_BYTES); limits::HELLO_ADDRESSES];
    check_fullest(StreamKind::Control, &Frame::Hello(Hello { name, addresses, ..hello() }));
    let chain = vec![Bytes::from(vec![7; limits::CERTIFICATE_BYTES]); limits::CHAIN_CERTIFICATES];
    check_fullest(StreamKind::Control, &Frame::Chain(chain));
    let ask = Frame::Ask { number: u64::MAX, message: MessageId([7; 32]), recipients };
    check_fullest(StreamKind::Control, &ask);
    let units = (0..limits::WANT_RANGES as u64).map(range).collect();
    check_fullest(StreamKind::Control, &Frame::Want { offer: u64::MAX, units });
    let ordinals = vec![u32::MAX; limits::RECIPIENTS];
    let reply = Frame::Reply { offer: u64::MAX, verdict: Verdict::Refused, reason: Reason::HopLimit, ordinals };
    check_fullest(StreamKind::Control, &reply);
}
