use super::*;
use crate::frame::LENGTH_BYTES;
use proptest::prelude::*;

#[track_caller]
fn check(frame: &PkiFrame) {
    let bytes = frame.encode();
    assert_eq!(PkiFrame::decode(bytes.slice(LENGTH_BYTES..)).as_ref(), Ok(frame));
}

fn report(name: &str) -> Report {
    Report {
        node: NodeId([1; 16]),
        name: name.parse().expect("name"),
        role: Role::District,
        roots: 2,
        not_after_ms: 5,
        at_ms: 4,
        authority: [3; 32],
        join: vec!["10.0.0.1:7444".parse().expect("address")],
    }
}

#[test]
fn every_frame_reads_back() {
    let item = |key| Item { key, version: 7 };
    let keys = [ObjectKey::Roots, ObjectKey::Authority([1; 32]), ObjectKey::Crl([2; 32]), ObjectKey::Notice([3; 32])];
    check(&PkiFrame::Have(keys.map(item).to_vec()));
    check(&PkiFrame::Object(Object { item: item(keys[2]), content: Bytes::from_static(b"list") }));
    check(&PkiFrame::Ask { number: 1, hops: 2, authority: [4; 32], request: Bytes::from_static(b"r") });
    check(&PkiFrame::Reply { number: 1, answer: Bytes::from_static(b"a") });
    check(&PkiFrame::Reports(vec![report("ninh-kieu.can-tho")]));
    check(&PkiFrame::Journal { node: NodeId([1; 16]), first: 3, lines: vec![Bytes::from_static(b"{}")] });
    check(&PkiFrame::JournalHave { node: NodeId([1; 16]), number: 3, hash: [9; 32] });
}

#[test]
fn requests_answers_and_signed_objects_read_back() {
    let renew = RenewRequest {
        chain: vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"ca")],
        csr: Bytes::from_static(b"csr"),
        signature: Bytes::from_static(b"s"),
    };
    for request in [Request::Renew(renew.clone()), Request::Authority(renew)] {
        assert_eq!(Request::decode(request.encode()), Ok(request));
    }
    let refused = REFUSALS.iter().map(|(refusal, ..)| Answer::Refused(*refusal));
    let other = [Answer::Granted(vec![Bytes::from_static(b"c")]), Answer::Pending, Answer::Refused(Refusal::Other(99))];
    for answer in refused.chain(other) {
        assert_eq!(Answer::decode(answer.encode()), Ok(answer));
    }
    let zone: Zone = "tram.internal".parse().expect("zone");
    let past = vec![PastRoot { certificate: Bytes::from_static(b"old"), until_ms: 1 }];
    let roots = Roots { version: 2, zone, roots: vec![Bytes::from_static(b"root")], at_ms: 1, past };
    assert_eq!(Roots::decode(roots.encode()), Ok(roots.clone()));
    let signed = SignedRoots { body: roots.encode(), signatures: vec![([1; 32], Bytes::from_static(b"s"))] };
    assert_eq!(SignedRoots::decode(signed.encode()), Ok(signed));
    let handover = Handover {
        zone: roots.zone.clone(),
        name: "can-tho".parse().expect("name"),
        node: NodeId([1; 16]),
        old: Bytes::from_static(b"old"),
        new: Bytes::from_static(b"new"),
        authorities: vec![Bytes::from_static(b"ca")],
        at_ms: 7,
    };
    assert_eq!(Handover::decode(handover.encode()), Ok(handover.clone()));
    for count in [0, limits::HANDED_OVER + 1] {
        let wrong = Handover { authorities: vec![Bytes::from_static(b"ca"); count], ..handover.clone() };
        assert!(Handover::decode(wrong.encode()).is_err());
    }
    let (by_old, by_new) = (Bytes::new(), Bytes::from_static(b"s"));
    let signed = SignedHandover { body: handover.encode(), by_old, by_new };
    assert_eq!(SignedHandover::decode(signed.encode()), Ok(signed));
    let name = |text: &str| text.parse::<NodeName>().expect("name");
    let notice = Notice {
        version: 3,
        authority: [5; 32],
        at_ms: 9,
        aliases: vec![Alias { old: name("a"), new: name("b"), node: NodeId([1; 16]), until_ms: 8 }],
        transfers: vec![
            Transfer { node: NodeId([1; 16]), to: Some(name("can-tho")), at_ms: 1 },
            Transfer { node: NodeId([2; 16]), to: None, at_ms: 1 },
        ],
        doors: vec![Door { node: NodeId([1; 16]), until_ms: 8, to: report("x").join }],
    };
    assert_eq!(Notice::decode(notice.encode()), Ok(notice.clone()));
    let signed = SignedNotice { body: notice.encode(), signature: Bytes::from_static(b"s") };
    assert_eq!(SignedNotice::decode(signed.encode()), Ok(signed));
}

#[test]
fn more_than_the_limits_allow_is_refused() {
    let item = Item { key: ObjectKey::Roots, version: 1 };
    let over = |frame: PkiFrame| PkiFrame::decode(frame.encode().slice(LENGTH_BYTES..)).expect_err("over a limit");
    over(PkiFrame::Have(vec![item; limits::OBJECTS + 1]));
    over(PkiFrame::Reports(vec![report("x"); limits::REPORTS + 1]));
    over(PkiFrame::Object(Object { item, content: vec![0; limits::OBJECT_BYTES + 1].into() }));
    let long =
        PkiFrame::Journal { node: NodeId([1; 16]), first: 1, lines: vec![Bytes::new(); limits::JOURNAL_LINES + 1] };
    over(long);
    assert!(PkiFrame::decode(Bytes::new()).is_err());
    assert!(PkiFrame::decode(Bytes::from_static(&[99])).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        let _ = PkiFrame::decode(bytes.clone());
        let _ = Request::decode(bytes.clone());
        let _ = Answer::decode(bytes.clone());
        let _ = SignedRoots::decode(bytes.clone());
        let _ = Roots::decode(bytes.clone());
        let _ = SignedNotice::decode(bytes.clone());
        let _ = Notice::decode(bytes);
    }
}
