//! What release 0.1.0 signed and configured stays good: a receipt with a real chain, and a config file.
//!
//! The statement was signed once by a node of a throwaway overlay whose keys are gone. `TRAM_BLESS=1` makes the files of
//! a new release where they are missing; those of an old one cannot be made again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Once;

use bytes::Bytes;
use tram_pki::keystore::{found, load_trust};
use tram_proto::frame::{Frame, LENGTH_BYTES};
use tram_proto::id::{Digest, MessageId, NodeId};
use tram_proto::receipt::{Ordinal, Reason, Receipt, Stamp, State};
use tram_proto::statement::{Kind, Signed};

const FILES: [&str; 4] = ["chain.bin", "receipt.bin", "root.pem", "tramd.toml"];
/// 15 January 2027.
const SIGNED_MS: u64 = 1_800_000_000_000;
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v0.1.0")
}

fn read(name: &str) -> Bytes {
    let path = dir().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

fn receipt(node: NodeId) -> Receipt {
    let name = "central".parse().expect("a name");
    Receipt {
        message: MessageId([0x4d; 32]),
        origin: NodeId([0x0a; 16]),
        ordinal: Ordinal::body(0),
        address: "vanban@central".parse().expect("an address"),
        state: State::Arrived,
        reason: Reason::None,
        detail: String::new(),
        code: 0,
        node,
        name,
        at_ms: SIGNED_MS,
        stamps: vec![Stamp {
            node: NodeId([0x0a; 16]),
            name: "can-tho".parse().expect("a name"),
            at_ms: SIGNED_MS - 40,
        }],
        payload_root: Digest([0x9a; 32]),
        payload_bytes: 1024,
    }
}

/// Makes the files where none are, all of one overlay; once, for tests run side by side.
fn bless() {
    static BLESSED: Once = Once::new();
    BLESSED.call_once(make);
}

fn make() {
    if std::env::var_os("TRAM_BLESS").is_none() || dir().exists() {
        return;
    }
    std::fs::create_dir_all(dir()).expect("a directory for golden files");
    let machine = tempfile::tempdir().expect("a temporary directory");
    let pki = machine.path().join("pki");
    let (zone, name) = ("tram.internal".parse().expect("a zone"), "central".parse().expect("a name"));
    let keys = found(&pki, &zone, &name, SIGNED_MS).expect("an overlay");
    let statement = receipt(keys.identity().id).encode();
    let batch: [(Kind, &[u8]); 3] = [(Kind::Record, b"one"), (Kind::Receipt, &statement), (Kind::Envelope, b"three")];
    let signature = keys.signer().sign_batch(&batch).expect("signed").remove(1);
    let chain = keys.chain().iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir().join(name), bytes).expect("a golden file is written");
    write("receipt.bin", &Signed { statement, signature }.encode());
    write("chain.bin", &Frame::Chain(chain).encode());
    write("root.pem", &std::fs::read(pki.join("root.pem")).expect("the root"));
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/tramd.example.toml");
    write("tramd.toml", &std::fs::read(example).expect("the example config"));
}

#[test]
fn a_receipt_of_release_0_1_0_is_still_believed() {
    bless();
    let signed = Signed::decode(read("receipt.bin")).expect("a signed statement");
    assert_eq!(signed.encode(), read("receipt.bin"));
    let stated = Receipt::decode(&signed.statement).expect("a receipt");
    assert_eq!(stated, receipt(stated.node));
    assert_eq!(stated.encode(), signed.statement);

    let chain = match Frame::decode(read("chain.bin").slice(LENGTH_BYTES..)) {
        Ok(Frame::Chain(chain)) => chain,
        other => panic!("{other:?} is not a chain"),
    };
    let chain: Vec<_> = chain.iter().map(|der| der.to_vec().into()).collect();
    let trust = load_trust(&dir().join("root.pem")).expect("the root");
    let peer = trust.verify_statement(Kind::Receipt, &signed, &chain, stated.at_ms).expect("as of its own time");
    assert_eq!((peer.id, peer.name), (stated.node, stated.name));

    assert!(trust.verify_statement(Kind::Envelope, &signed, &chain, SIGNED_MS).is_err(), "a receipt is no envelope");
    assert!(trust.verify_statement(Kind::Receipt, &signed, &chain, SIGNED_MS + YEAR_MS).is_err(), "not of next year");
    let mut forged = signed;
    forged.statement = Receipt { state: State::Refused, ..receipt(peer.id) }.encode();
    assert!(trust.verify_statement(Kind::Receipt, &forged, &chain, SIGNED_MS).is_err(), "not what was signed");
}

#[test]
fn a_config_of_release_0_1_0_is_still_read() {
    bless();
    let text = String::from_utf8(read("tramd.toml").to_vec()).expect("UTF-8");
    let every_key = text.replace("#: ", "");
    for text in [text, every_key] {
        if let Err(error) = tramd::config::Config::from_text(Path::new("tramd.toml"), &text) {
            panic!("{error}");
        }
    }
}

#[test]
fn no_golden_file_is_missing_or_unknown() {
    bless();
    let entries = std::fs::read_dir(dir()).expect("the golden directory");
    let found: BTreeSet<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect();
    assert_eq!(found, FILES.map(str::to_owned).into());
}
