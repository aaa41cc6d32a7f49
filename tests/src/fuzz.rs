//! Fuzz targets: one function for each decoder of bytes that a peer or a user chooses.
//!
//! Each takes any bytes and checks what must hold for all of them: no panic; what is accepted reads back the same from
//! its own encoding; every limit that stands in `tram_proto::limits` holds. The package in `tests/fuzz` drives them with
//! libFuzzer; `tests/tests/fuzz_corpus.rs` replays the committed corpus in every test run.

mod pki;

use std::path::Path;

use bytes::Bytes;
use tram_pki::csr::LeafKey;
use tram_pki::enrol::offline;
use tram_pki::hash::Sha256;
use tram_pki::journal;
use tram_pki::token::Token;
use tram_proto::envelope::Body;
use tram_proto::export::{EXPORT_BYTES, EXPORT_CHAINS, EXPORT_RECEIPTS, Export, MAGIC};
use tram_proto::frame::{Frame, LENGTH_BYTES, StreamKind, frame_length};
use tram_proto::id::Digest;
use tram_proto::join::{Answer, Request};
use tram_proto::limits;
use tram_proto::manifest::{Head, Layout, Unit, decode_page};
use tram_proto::offline::{ANSWER_MAGIC, FileAnswer, FileRequest, REQUEST_MAGIC};
use tram_proto::receipt::{NodeRecord, Receipt};
use tram_proto::row::{KeyRow, MessageRow, NeighborRow, NodeRow, ReceiptRow};
use tram_proto::statement::{Kind, Signed};

pub use pki::{bundle, crl, pki_frame, policy};

/// Takes any bytes; panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
pub const TARGETS: [(&str, Target); 22] = [
    ("frame", frame),
    ("body", body),
    ("receipt", receipt),
    ("record", record),
    ("signed", signed),
    ("manifest_head", manifest_head),
    ("manifest_page", manifest_page),
    ("join_request", join_request),
    ("join_answer", join_answer),
    ("token", token),
    ("csr", csr),
    ("request_file", request_file),
    ("answer_file", answer_file),
    ("config", config),
    ("export", export),
    ("rows", rows),
    ("backup", backup),
    ("audit", audit),
    ("crl", crl),
    ("bundle", bundle),
    ("policy", policy),
    ("pki_frame", pki_frame),
];

/// A frame without its length field, on whatever stream.
pub fn frame(data: &[u8]) {
    if let Some((field, _)) = data.split_first_chunk::<LENGTH_BYTES>()
        && let Ok(length) = frame_length(*field, limits::OFFER_FRAME_BYTES)
    {
        assert!((1..=limits::OFFER_FRAME_BYTES).contains(&length));
    }
    if let Some(Ok(kind)) = data.first().map(|byte| StreamKind::from_byte(*byte)) {
        assert_eq!(kind.to_byte(), data[0]);
    }
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(data)) else { return };
    match &frame {
        Frame::Want { units, .. } | Frame::Ack(units) => {
            assert!(units.iter().all(|r| r.count > 0 && r.first.checked_add(r.count).is_some()));
            assert!(units.windows(2).all(|pair| pair[0].end() <= pair[1].first));
        }
        Frame::Offer(offer) => {
            assert!((1..=limits::RECIPIENTS).contains(&offer.recipients.len()));
            assert!(offer.stamps.len() <= limits::HOPS);
            assert!(offer.inline.as_ref().is_none_or(|inline| inline.len() <= limits::INLINE_BYTES));
        }
        Frame::Run { count, .. } => assert!((1..=limits::RUN_UNITS).contains(count)),
        Frame::Chain(chain) => assert!((1..=limits::CHAIN_CERTIFICATES).contains(&chain.len())),
        Frame::Hello(_)
        | Frame::Ping { .. }
        | Frame::Pong { .. }
        | Frame::Record { .. }
        | Frame::Receipt { .. }
        | Frame::Reply { .. }
        | Frame::Ask { .. }
        | Frame::Answer { .. }
        | Frame::Bye { .. } => {}
    }
    let again = frame.encode();
    assert!(again.len() - LENGTH_BYTES <= data.len(), "our own form is never the longer one");
    let (field, _) = again.split_first_chunk::<LENGTH_BYTES>().expect("a length field");
    assert_eq!(frame_length(*field, data.len()), Ok(again.len() - LENGTH_BYTES));
    assert_eq!(Frame::decode(again.slice(LENGTH_BYTES..)), Ok(frame));
}

/// An envelope's body.
pub fn body(data: &[u8]) {
    let Ok(body) = Body::decode(&Bytes::copy_from_slice(data)) else { return };
    assert!((1..=limits::RECIPIENTS).contains(&body.to.len()));
    assert!((1..=limits::LIFETIME_MAX_MS).contains(&body.lifetime_ms));
    assert!(Layout::new(body.payload_bytes).is_ok());
    let again = body.encode().expect("what was read is within limits");
    assert_eq!(Body::decode(&again), Ok(body));
}

/// A receipt.
pub fn receipt(data: &[u8]) {
    let Ok(receipt) = Receipt::decode(&Bytes::copy_from_slice(data)) else { return };
    assert!(receipt.stamps.len() <= limits::HOPS && receipt.detail.len() <= limits::REASON_BYTES);
    assert_eq!(Receipt::decode(&receipt.encode()), Ok(receipt));
}

/// A node record.
pub fn record(data: &[u8]) {
    let Ok(record) = NodeRecord::decode(&Bytes::copy_from_slice(data)) else { return };
    assert!(record.inboxes.len() <= limits::RECORD_INBOXES && record.uplinks.len() <= limits::UPLINKS);
    assert_eq!(NodeRecord::decode(&record.encode()), Ok(record));
}

/// A signed statement, and its way to the batch's root.
pub fn signed(data: &[u8]) {
    let Ok(signed) = Signed::decode(Bytes::copy_from_slice(data)) else { return };
    assert!(signed.statement.len() <= limits::STATEMENT_BYTES);
    assert!(signed.signature.path.len() <= limits::SIGNATURE_PATH);
    assert!(signed.signature.index < signed.signature.count);
    let as_receipt = signed.signature.to_verify(Kind::Receipt, &signed.statement);
    let as_envelope = signed.signature.to_verify(Kind::Envelope, &signed.statement);
    assert!(as_receipt.is_none() || as_receipt != as_envelope, "the kind is part of what is signed");
    assert_eq!(Signed::decode(signed.encode()), Ok(signed));
}

/// A payload's length (eight bytes) and the head of its manifest.
pub fn manifest_head(data: &[u8]) {
    let Some((length, head)) = data.split_first_chunk::<8>() else { return };
    let Ok(layout) = Layout::new(u64::from_be_bytes(*length)) else { return };
    assert_eq!(layout.unit(layout.units()), None);
    let last = layout.unit(layout.units() - 1).expect("there is a last unit");
    assert!(layout.unit_bytes(last) <= limits::CHUNK_BYTES.max(layout.unit_bytes(Unit::Head)));
    let root = Digest::of(head);
    assert!(Head::decode(head, Digest([0; 32]), layout).is_err());
    let Ok(read) = Head::decode(head, root, layout) else { return };
    assert_eq!((read.encode().as_ref(), read.root(), read.layout()), (head, root, layout));
}

/// A page of a manifest.
pub fn manifest_page(data: &[u8]) {
    assert!(decode_page(data, Digest([0; 32])).is_err());
    let Ok(hashes) = decode_page(data, Digest::of(data)) else { return };
    assert!((1..=limits::PAGE_HASHES).contains(&hashes.len()));
    assert_eq!(hashes.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>(), data);
}

/// What a new node asks.
pub fn join_request(data: &[u8]) {
    let Ok(request) = Request::decode(Bytes::copy_from_slice(data)) else { return };
    assert!(request.csr.len() <= limits::CSR_BYTES && request.version.len() <= limits::LABEL_BYTES);
    assert_eq!(Request::decode(request.encode()), Ok(request));
}

/// What it is told.
pub fn join_answer(data: &[u8]) {
    let Ok(answer) = Answer::decode(Bytes::copy_from_slice(data)) else { return };
    if let Ok(granted) = &answer.verdict {
        assert!((1..=limits::CHAIN_CERTIFICATES).contains(&granted.chain.len()));
        assert!(granted.uplink.addresses.iter().all(|address| address.port() != 0));
    }
    assert_eq!(Answer::decode(answer.encode()), Ok(answer));
}

/// The text of a join token.
pub fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Token>() {
        Ok(token) => {
            let one: String = text.chars().filter(|c| !c.is_whitespace() && *c != '\u{feff}').collect();
            assert_eq!(token.to_text(), one, "one text for one token");
        }
        Err(error) => assert!(error.to_string().len() < 1024, "an error does not repeat what was given"),
    }
}

/// A certificate request, as a CA takes it in.
pub fn csr(data: &[u8]) {
    let Ok(key) = LeafKey::from_csr(data) else { return };
    assert!(data.len() <= limits::CSR_BYTES);
    // The key is one that stands in the request: P-256, 91 bytes of DER.
    assert!(data.windows(91).any(|window| Sha256::of(window) == key.hash()));
    assert!(LeafKey::from_csr(&[data, &[0]].concat()).is_err(), "nothing may follow");
}

/// A request file, as it is and with a right digest: a fuzzer does not find one.
pub fn request_file(data: &[u8]) {
    for file in [data, &sealed(REQUEST_MAGIC, data)] {
        let Ok(request) = FileRequest::decode(file) else { continue };
        assert!(file.len() <= limits::REQUEST_FILE_BYTES && request.csr.len() <= limits::CSR_BYTES);
        if let Ok(fingerprint) = offline::fingerprint(&request) {
            assert!(fingerprint.is(&fingerprint.to_string()));
        }
        assert_eq!(FileRequest::decode(&request.encode()), Ok(request));
    }
}

/// An answer file, the same two ways.
pub fn answer_file(data: &[u8]) {
    for file in [data, &sealed(ANSWER_MAGIC, data)] {
        let Ok(answer) = FileAnswer::decode(file) else { continue };
        assert!((1..=limits::CHAIN_CERTIFICATES).contains(&answer.granted.chain.len()));
        assert_eq!(FileAnswer::decode(&answer.encode()), Ok(answer));
    }
}

fn sealed(magic: &[u8], data: &[u8]) -> Vec<u8> {
    let content = [magic, data].concat();
    [content.as_slice(), &Digest::of(&content).0].concat()
}

/// A config file.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Err(error) = tramd::config::Config::from_text(Path::new("tramd.toml"), &text) {
        assert!(error.to_string().contains("tramd.toml"), "an error names the file: {error}");
    }
}

/// An exported receipt file, as it is and with a right digest: a fuzzer does not find one.
pub fn export(data: &[u8]) {
    exported(data);
    exported(&sealed(MAGIC, data));
}

fn exported(file: &[u8]) {
    let Ok(export) = Export::decode(file) else { return };
    assert!(file.len() <= EXPORT_BYTES);
    assert!(export.receipts.len() <= EXPORT_RECEIPTS && export.chains.len() <= EXPORT_CHAINS);
    assert_eq!(Export::decode(&export.encode()), Ok(export));
}

/// A row of the spool; the first byte chooses which.
pub fn rows(data: &[u8]) {
    macro_rules! row {
        ($row:ident, $bytes:expr) => {
            if let Ok(row) = $row::decode($bytes) {
                assert_eq!($row::decode(&row.encode()), Ok(row));
            }
        };
    }
    match data.split_first() {
        Some((0, bytes)) => row!(MessageRow, bytes),
        Some((1, bytes)) => row!(ReceiptRow, bytes),
        Some((2, bytes)) => row!(NodeRow, bytes),
        Some((3, bytes)) => row!(NeighborRow, bytes),
        Some((4, bytes)) => row!(KeyRow, bytes),
        _ => {}
    }
}

/// A backup before it is decrypted, and the list of files in one.
pub fn backup(data: &[u8]) {
    tram_pki::backup::fuzz(data);
}

/// An audit log, whole or exported from the line on that the first byte names.
pub fn audit(data: &[u8]) {
    let Some((first, log)) = data.split_first() else { return };
    let first = u64::from(*first).max(1);
    let copied = journal::compare(log, log);
    assert!(copied.is_ok(), "a log is its own copy: {copied:?}");
    match journal::verify(log, first, None) {
        Ok(found) => {
            assert_eq!(found.head.number + 1, first + found.lines);
            assert!(found.unchained <= found.lines && found.torn_bytes <= log.len() as u64);
            assert!(journal::verify(log, first, Some(found.head)).is_ok(), "a log ends in its own head");
            assert!(first > 1 || journal::head_of(log) == found.head);
            let cut = journal::Head { number: found.head.number + 1, ..found.head };
            assert!(journal::verify(log, first, Some(cut)).is_err(), "a cut tail is found");
        }
        Err(broken) => assert!(broken.line >= 1 && broken.what.len() < 1024, "an error does not repeat what was given"),
    }
}
