//! The bytes of each release stay readable: one committed file for every kind of frame, statement and row.
//!
//! A test decodes each file, compares it with the value built here, and encodes it again to the same bytes. A file that
//! is missing or that nothing here knows is a failure too. `TRAM_BLESS=1 cargo test -p tram-proto --test golden` writes
//! files that are missing and never touches one that exists: what a release has written is not ours to change.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;

use bytes::Bytes;
use tram_proto::envelope::{Body, MessageKind, Network, Precedence};
use tram_proto::error::WireError;
use tram_proto::export::Export;
use tram_proto::frame::{Frame, Hello, LENGTH_BYTES, Offer, Range, Recipient, TraceHop, Verdict, Visit, frame_length};
use tram_proto::id::{CertHash, Digest, Incarnation, MessageId, NodeId};
use tram_proto::join::{Answer, Granted, Refusal, Request, TokenId, Uplink};
use tram_proto::limits;
use tram_proto::manifest::{Builder, Head, decode_page};
use tram_proto::name::Role;
use tram_proto::receipt::{NodeRecord, Ordinal, Reason, Receipt, Stamp, State};
use tram_proto::row::{KeyRow, MessageRow, NeighborRow, NodeRow, Phase, ReceiptRow, RecipientRow};
use tram_proto::statement::{Signature, Signed};

const AT_MS: u64 = 1_800_000_000_000;
const CENTRAL: NodeId = NodeId(*b"central---------");
const CAN_THO: NodeId = NodeId(*b"can-tho---------");
const NINH_KIEU: NodeId = NodeId(*b"ninh-kieu-------");

fn dir(release: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(release)
}

/// The golden files of one release met so far.
struct Golden {
    dir: PathBuf,
    known: BTreeSet<String>,
}

impl Golden {
    fn of(release: &str) -> Self {
        Self { dir: dir(release), known: BTreeSet::new() }
    }

    #[track_caller]
    fn check<T: PartialEq + Debug>(
        &mut self,
        name: &str,
        value: &T,
        encode: impl Fn(&T) -> Bytes,
        decode: impl Fn(Bytes) -> Result<T, WireError>,
    ) {
        let path = self.dir.join(format!("{name}.bin"));
        if std::env::var_os("TRAM_BLESS").is_some() && !path.exists() {
            std::fs::create_dir_all(&self.dir).expect("a directory for golden files");
            std::fs::write(&path, encode(value)).expect("the golden file is written");
        }
        let file: Bytes = match std::fs::read(&path) {
            Ok(file) => file.into(),
            Err(error) => panic!("{}: {error}", path.display()),
        };
        assert_eq!(decode(file.clone()).as_ref(), Ok(value), "{name} is no longer read as it was meant");
        assert_eq!(encode(value), file, "{name} is no longer written as it was");
        self.known.insert(format!("{name}.bin"));
    }

    #[track_caller]
    fn frame(&mut self, frame: &Frame) {
        let name = format!("frame-{}", frame.name());
        assert!(!self.known.contains(&format!("{name}.bin")), "{name} stands here twice");
        self.check(&name, frame, Frame::encode, |bytes| {
            let field = bytes.first_chunk::<LENGTH_BYTES>().expect("a length field");
            let length = frame_length(*field, limits::OFFER_FRAME_BYTES)?;
            assert_eq!(bytes.len(), LENGTH_BYTES + length);
            Frame::decode(bytes.slice(LENGTH_BYTES..))
        });
    }

    fn finish(self) {
        let found: BTreeSet<String> = std::fs::read_dir(&self.dir)
            .expect("the golden directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
            .collect();
        assert_eq!(found, self.known, "files on the left, values built here on the right");
    }
}

fn signed(statement: Bytes) -> Signed {
    let signature = Signature {
        signer: CertHash([0x5e; 32]),
        count: 3,
        index: 1,
        path: vec![[0xa1; 32], [0xa2; 32]],
        signature: Bytes::from_static(b"a DER signature stands here"),
    };
    Signed { statement, signature }
}

fn payload() -> Bytes {
    "Công văn hỏa tốc".into()
}

fn body() -> Body {
    Body {
        nonce: *b"0123456789abcdef",
        origin: NINH_KIEU,
        incarnation: Incarnation([0x11; 16]),
        origin_name: "ninh-kieu.can-tho".parse().expect("a name"),
        sender: Some("vanban".parse().expect("an inbox")),
        to: ["vanban@central", "khan-cap@chau-doc.an-giang"].map(|to| to.parse().expect("an address")).to_vec(),
        precedence: Precedence::Flash,
        sequence: 42,
        created_ms: AT_MS,
        clock_offset_ms: -1234,
        lifetime_ms: limits::LIFETIME_DEFAULT_MS,
        deliver_by_ms: AT_MS + 3_600_000,
        label: "noi-bo".to_owned(),
        network: Network::Inner,
        kind: MessageKind::Document,
        subject: "V/v phòng chống bão số 9".to_owned(),
        file_name: "Công văn 12-CV_TU.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        attributes: vec![("so".to_owned(), "12".to_owned()), ("so".to_owned(), String::new())],
        business_id: "12-CV/TU".to_owned(),
        idempotency_key: "register:2027:12".to_owned(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        sealed: true,
        payload_bytes: payload().len() as u64,
        payload_root: tram_proto::manifest::root_of(&payload()),
        recalls: None,
        pair_sequences: vec![],
    }
}

fn body_bytes() -> Bytes {
    body().encode().expect("within limits")
}

fn message() -> MessageId {
    Body::id(&body_bytes())
}

fn stamps() -> Vec<Stamp> {
    [(NINH_KIEU, "ninh-kieu.can-tho", 1), (CAN_THO, "can-tho", 2)]
        .map(|(node, name, after)| Stamp { node, name: name.parse().expect("a name"), at_ms: AT_MS + after })
        .to_vec()
}

fn receipt() -> Receipt {
    Receipt {
        message: message(),
        origin: NINH_KIEU,
        ordinal: Ordinal { list: Some(Digest([0xd1; 32])), index: 7 },
        address: "vanban@central".parse().expect("an address"),
        state: State::Status,
        reason: Reason::NoSuchInbox,
        detail: "đã vào sổ".to_owned(),
        code: 200,
        node: CENTRAL,
        name: "central".parse().expect("a name"),
        at_ms: AT_MS + 9,
        stamps: stamps(),
        payload_root: tram_proto::manifest::root_of(&payload()),
        payload_bytes: payload().len() as u64,
    }
}

fn record() -> NodeRecord {
    NodeRecord {
        node: NINH_KIEU,
        name: "ninh-kieu.can-tho".parse().expect("a name"),
        incarnation: Incarnation([0x11; 16]),
        counter: 5,
        inboxes: ["vanban", "khan-cap"].map(|inbox| inbox.parse().expect("an inbox")).to_vec(),
        uplinks: vec![CAN_THO, CENTRAL],
        active: Some(CAN_THO),
        at_ms: AT_MS,
        title: "Quận Ninh Kiều".to_owned(),
        retired: vec![],
    }
}

fn recipients() -> Vec<Recipient> {
    vec![
        Recipient { ordinal: Ordinal::body(0), node: Some(CENTRAL) },
        Recipient { ordinal: Ordinal { list: Some(Digest([0xd1; 32])), index: 7 }, node: None },
    ]
}

fn frames() -> [Frame; 14] {
    let ranges = vec![Range { first: 0, count: 1 }, Range { first: 300, count: 70_000 }];
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        node: CAN_THO,
        name: "can-tho".parse().expect("a name"),
        incarnation: Incarnation([0x12; 16]),
        boot: [0x13; 16],
        counter: 8,
        highest_of_yours: 3,
        spool_room_bytes: 50 << 30,
        clock_ms: AT_MS,
        addresses: vec!["relay.can-tho.example:7443".to_owned(), "[2001:db8::5]:7443".to_owned()],
    };
    let offer = Offer {
        number: 12,
        envelope: signed(body_bytes()),
        visit: Visit { attempt: 1, hops: 2 },
        recipients: recipients(),
        stamps: stamps(),
        inline: Some(payload()),
    };
    let hop = TraceHop {
        node: CAN_THO,
        name: "can-tho".parse().expect("a name"),
        state: State::Relayed,
        at_ms: AT_MS,
        detail: "chờ đường truyền".to_owned(),
    };
    [
        Frame::Hello(hello),
        Frame::Ping { number: 77, clock_ms: AT_MS },
        Frame::Pong { number: 77, clock_ms: AT_MS + 40 },
        Frame::Chain(vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"issuing CA")]),
        Frame::Record { record: signed(record().encode()), flood: true },
        Frame::Offer(offer),
        Frame::Receipt { number: 13, receipt: signed(receipt().encode()) },
        Frame::Want { offer: 12, units: ranges.clone() },
        Frame::Reply { offer: 12, verdict: Verdict::Pending, reason: Reason::SpoolFull, ordinals: vec![0, 300] },
        Frame::Ack(ranges),
        Frame::Ask { number: 4, message: message(), recipients: recipients() },
        Frame::Answer { number: 4, hops: vec![hop], last: true },
        Frame::Bye { code: 5, reason: "the node is shutting down".to_owned() },
        Frame::Run { root: Digest([0xd2; 32]), first: 17, count: 16 },
    ]
}

fn granted() -> Granted {
    Granted {
        chain: vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"issuing CA")],
        root: Bytes::from_static(b"root"),
        node: CAN_THO,
        name: "can-tho".parse().expect("a name"),
        role: Role::Province,
        zone: "tram.internal".parse().expect("a zone"),
        uplink: Uplink {
            node: "central".parse().expect("a name"),
            addresses: ["hub.example.org:7443", "[2001:db8::5]:7443"].map(|a| a.parse().expect("an address")).to_vec(),
        },
    }
}

fn message_row() -> MessageRow {
    let recipient = |recipient, phase, state| RecipientRow {
        recipient,
        phase,
        state,
        reason: Reason::LifetimeEnded,
        detail: "quá hạn".to_owned(),
        at_ms: AT_MS,
    };
    MessageRow {
        id: message(),
        visit: Visit { attempt: 1, hops: 2 },
        from: Some(CAN_THO),
        received_ms: AT_MS,
        recipients: vec![
            recipient(recipients()[0], Phase::Forward, State::Relayed),
            recipient(recipients()[1], Phase::Ended, State::Expired),
        ],
        stamps: stamps(),
        complete: true,
        handed_ms: AT_MS + 5,
        handed_to: Some(CENTRAL),
        user: Some(1000),
        recalls: None,
        demoted_from: None,
    }
}

#[test]
fn the_bytes_of_release_0_1_0_are_read_and_written_as_ever() {
    let mut golden = Golden::of("v0.1.0");
    for frame in frames() {
        golden.frame(&frame);
    }
    golden.check("body", &body(), |b| b.encode().expect("within limits"), |bytes| Body::decode(&bytes));
    golden.check("receipt", &receipt(), Receipt::encode, |bytes| Receipt::decode(&bytes));
    golden.check("record", &record(), NodeRecord::encode, |bytes| NodeRecord::decode(&bytes));
    golden.check("signed", &signed(Bytes::from_static(b"statement")), Signed::encode, Signed::decode);

    golden.check("row-message", &message_row(), MessageRow::encode, |bytes| MessageRow::decode(&bytes));
    let row = ReceiptRow { message: message(), origin: NINH_KIEU, until_ms: AT_MS };
    golden.check("row-receipt", &row, ReceiptRow::encode, |bytes| ReceiptRow::decode(&bytes));
    let row = NodeRow { incarnation: Incarnation([0x11; 16]), starts: 3, record: 5, clock_ms: AT_MS };
    golden.check("row-node", &row, NodeRow::encode, |bytes| NodeRow::decode(&bytes));
    let row = NeighborRow { incarnation: Incarnation([0x12; 16]), counter: 8, held: false };
    golden.check("row-neighbor", &row, NeighborRow::encode, |bytes| NeighborRow::decode(&bytes));
    let row = KeyRow { message: message(), content: Digest([0xd3; 32]), until_ms: AT_MS };
    golden.check("row-key", &row, KeyRow::encode, |bytes| KeyRow::decode(&bytes));

    let request = Request {
        token: TokenId(*b"0123456789abcdef"),
        csr: Bytes::from_static(b"a signing request"),
        mac: [0x3a; 32],
        clock_ms: AT_MS,
        version: "0.1.0".to_owned(),
    };
    golden.check("join-request", &request, Request::encode, Request::decode);
    let answer = |verdict| Answer { clock_ms: AT_MS, verdict };
    golden.check("join-granted", &answer(Ok(Box::new(granted()))), Answer::encode, Answer::decode);
    golden.check("join-refused", &answer(Err(Refusal::UsedByAnotherKey)), Answer::encode, Answer::decode);

    let mut builder = Builder::default();
    (0..3_u8).for_each(|n| builder.push(Digest([n; 32]), limits::CHUNK_BYTES));
    let (head, pages) = builder.finish().expect("a small payload");
    let (root, layout) = (head.root(), head.layout());
    assert_eq!(root.to_string(), "623ee27721701fb5d8dd4bc7b934636a1ff45b965323e5b8e47428dd6e5b1a70");
    golden.check("manifest-head", &head, Head::encode, |bytes| Head::decode(&bytes, root, layout));
    let page = pages[0].clone();
    let digest = Digest::of(&page);
    let hashes: Vec<Digest> = (0..3_u8).map(|n| Digest([n; 32])).collect();
    golden.check("manifest-page", &hashes, |_| page.clone(), |bytes| decode_page(&bytes, digest));

    let export = Export {
        envelope: signed(body_bytes()),
        receipts: vec![signed(receipt().encode())],
        chains: vec![vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"issuing CA")]],
    };
    golden.check("export", &export, |e| e.encode().into(), |bytes| Export::decode(&bytes));
    golden.finish();
}

/// What 0.2.0 added to the formats of 0.1.0: recalls, sequences for each recipient, spools declared lost, held neighbours.
#[test]
fn the_bytes_of_release_0_2_0_are_read_and_written_as_ever() {
    let mut golden = Golden::of("v0.2.0");
    let counted = Body { pair_sequences: vec![7, 40_000], ..body() };
    golden.check("body", &counted, |b| b.encode().expect("within limits"), |bytes| Body::decode(&bytes));
    let tombstone = Body {
        kind: MessageKind::Tombstone,
        recalls: Some(message()),
        payload_bytes: 0,
        payload_root: tram_proto::manifest::root_of(&[]),
        ..body()
    };
    golden.check("tombstone", &tombstone, |b| b.encode().expect("within limits"), |bytes| Body::decode(&bytes));
    let lost = NodeRecord { retired: vec![(CAN_THO, Incarnation([0x12; 16]))], ..record() };
    golden.check("record", &lost, NodeRecord::encode, |bytes| NodeRecord::decode(&bytes));
    let late = Receipt { reason: Reason::TooLate, state: State::Refused, ..receipt() };
    golden.check("receipt", &late, Receipt::encode, |bytes| Receipt::decode(&bytes));
    let put_off = Frame::Reply { offer: 12, verdict: Verdict::Pending, reason: Reason::HopFull, ordinals: vec![3] };
    golden.frame(&put_off);
    let row = MessageRow { recalls: Some(message()), ..message_row() };
    golden.check("row-message", &row, MessageRow::encode, |bytes| MessageRow::decode(&bytes));
    let row = NeighborRow { incarnation: Incarnation([0x12; 16]), counter: 8, held: true };
    golden.check("row-neighbor", &row, NeighborRow::encode, |bytes| NeighborRow::decode(&bytes));
    golden.finish();
}

#[test]
fn hashes_of_release_0_1_0_stand() {
    assert_eq!(message().to_string(), "0fec4a8a41ee229643b2a576e0476c56caae16d367ce87650afc9756b5295468");
    assert_eq!(body().payload_root.to_string(), "8e5d41aae01c5ba4b5e32f6b9788e5d519fd98667efa249aed9f31f8443e69a5");
}
