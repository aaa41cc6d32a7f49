use std::path::PathBuf;

use bytes::Bytes;
use tram_pki::keystore::{NodeKeys, found, load_trust};
use tram_proto::envelope::{MessageKind, Network, Precedence};
use tram_proto::id::{Digest, Incarnation, NodeId};
use tram_proto::receipt::{Ordinal, Reason};

use super::*;

/// 15 January 2027.
const NOW_MS: u64 = 1_800_000_000_000;

struct Overlay {
    dir: tempfile::TempDir,
    keys: NodeKeys,
}

impl Overlay {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (zone, name) = ("tram.internal".parse().expect("zone"), "central".parse().expect("name"));
        let keys = found(&dir.path().join("pki"), &zone, &name, NOW_MS).expect("founded");
        Self { dir, keys }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("pki/root.pem")
    }

    fn trust(&self) -> std::sync::Arc<Trust> {
        load_trust(&self.root()).expect("a root")
    }

    fn body(&self) -> Body {
        Body {
            nonce: [1; 16],
            origin: self.keys.identity().id,
            incarnation: Incarnation([2; 16]),
            origin_name: "central".parse().expect("name"),
            sender: None,
            to: vec!["vanban@central".parse().expect("address")],
            precedence: Precedence::Routine,
            sequence: 1,
            created_ms: NOW_MS,
            clock_offset_ms: 0,
            lifetime_ms: 1000,
            deliver_by_ms: 0,
            label: String::new(),
            network: Network::Unspecified,
            kind: MessageKind::Document,
            subject: "Công văn".to_owned(),
            file_name: "a.pdf".to_owned(),
            content_type: String::new(),
            attributes: Vec::new(),
            business_id: String::new(),
            idempotency_key: String::new(),
            traceparent: String::new(),
            sealed: false,
            payload_bytes: 3,
            payload_root: Digest([5; 32]),
            recalls: None,
            pair_sequences: Vec::new(),
        }
    }

    /// An export of a message to this node itself; `change` may make its receipt say something else.
    fn export(&self, change: impl FnOnce(&mut Receipt)) -> Export {
        let body = self.body();
        let envelope = body.encode().expect("within limits");
        let mut receipt = Receipt {
            message: Body::id(&envelope),
            origin: body.origin,
            ordinal: Ordinal::body(0),
            address: body.to[0].clone(),
            state: State::Delivered,
            reason: Reason::None,
            detail: String::new(),
            code: 0,
            node: body.origin,
            name: body.origin_name.clone(),
            at_ms: NOW_MS + 5,
            stamps: Vec::new(),
            payload_root: body.payload_root,
            payload_bytes: body.payload_bytes,
        };
        change(&mut receipt);
        let receipt = receipt.encode();
        let batch = [(Kind::Envelope, &envelope[..]), (Kind::Receipt, &receipt[..])];
        let mut signatures = self.keys.signer().sign_batch(&batch).expect("signed").into_iter();
        let mut signed = |statement: Bytes| Signed { statement, signature: signatures.next().expect("two") };
        let envelope = signed(envelope);
        let receipts = vec![signed(receipt)];
        let chain = self.keys.chain().iter().map(|der| Bytes::copy_from_slice(der)).collect();
        Export { envelope, receipts, chains: vec![chain] }
    }
}

#[track_caller]
fn check(overlay: &Overlay, change: impl FnOnce(&mut Receipt), part: &str) {
    let why = verify(&overlay.export(change), &overlay.trust()).expect_err("must be refused");
    assert!(why.contains(part), "{why}");
}

#[test]
fn an_honest_export_holds_and_every_lie_is_named() {
    let overlay = Overlay::new();
    let verified = verify(&overlay.export(|_| ()), &overlay.trust()).expect("holds");
    assert_eq!((verified.receipts.len(), verified.receipts[0].state), (1, State::Delivered));
    assert!(verify(&overlay.export(|_| ()), &Overlay::new().trust()).is_err(), "another overlay's root");

    check(&overlay, |r| r.node = NodeId([9; 16]), "speaks for node");
    check(&overlay, |r| r.message = MessageId([9; 32]), "another message");
    check(&overlay, |r| r.ordinal = Ordinal::body(1), "another recipient");
    check(&overlay, |r| r.address = "khan@central".parse().expect("address"), "another recipient");
    check(&overlay, |r| r.payload_root = Digest([6; 32]), "not what the envelope says");
    check(&overlay, |r| r.at_ms = NOW_MS * 2, "certificate");

    let mut nameless = overlay.export(|_| ());
    nameless.chains.clear();
    assert!(verify(&nameless, &overlay.trust()).expect_err("no chain").contains("not in the file"));
    let mut empty = overlay.export(|_| ());
    empty.receipts.clear();
    assert!(verify(&empty, &overlay.trust()).expect_err("no receipt").contains("no receipt"));
    // A receipt is not an envelope, although the same node signed both in one batch.
    let mut swapped = overlay.export(|_| ());
    std::mem::swap(&mut swapped.envelope, &mut swapped.receipts[0]);
    assert!(verify(&swapped, &overlay.trust()).is_err());
}

/// Exit code of `tram receipt verify` for these bytes.
fn exit(overlay: &Overlay, file: &[u8]) -> i32 {
    let path = overlay.dir.path().join("receipt.tram");
    std::fs::write(&path, file).expect("written");
    let args = ["tram", "receipt", "verify", "--json", "--trust"].map(std::ffi::OsString::from);
    crate::run(args.into_iter().chain([overlay.root().into(), path.into()]))
}

#[test]
fn the_command_accepts_the_file_and_no_version_of_it_with_a_flipped_byte() {
    let overlay = Overlay::new();
    let good = overlay.export(|_| ()).encode();
    assert_eq!(exit(&overlay, &good), 0);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        assert!(Export::decode(&bad).is_err(), "byte {at}");
    }
    for at in [0, 20, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x80;
        assert_eq!(exit(&overlay, &bad), 1, "byte {at}");
    }
}

/// An export of central's, and its overlay after an exchange of roots and the revocation of central.
fn revoked_since(reason: tram_pki::crl::Reason) -> (Overlay, Export) {
    use tram_pki::authority::Authority;
    use tram_pki::bundle::Bundle;
    use tram_pki::registry::Registry;
    use tram_pki::rotate;
    use tram_proto::pki::{Item, Object, ObjectKey};

    let overlay = Overlay::new();
    let export = overlay.export(|_| ());
    let (dir, later_ms) = (overlay.dir.path().join("pki"), NOW_MS + 30 * 24 * 3_600_000);
    let (mut bundle, _) = Bundle::load(&dir).expect("a root");
    let (authority, mut registry) = (Authority::open(&dir).expect("opens"), Registry::open(&dir).expect("opens"));
    let take = |bundle: &mut Bundle, key, version, content: Vec<u8>| {
        let object = Object { item: Item { key, version }, content: content.into() };
        assert_eq!(bundle.take(&object, later_ms), Ok(true));
    };
    let ca = authority.certificate().to_vec();
    take(&mut bundle, ObjectKey::Authority(tram_pki::hash::Sha256::of(&ca).0), 1, ca);
    rotate::begin(&dir, &mut bundle, &mut registry, "lan", later_ms).expect("begun");
    rotate::switch(&dir, &mut bundle, &mut registry, "lan", later_ms).expect("switched");
    rotate::finish(&dir, &mut bundle, &mut registry, Vec::new(), "lan", later_ms).expect("finished");
    assert_eq!(exit(&overlay, &export.encode()), 0);
    assert_eq!(verify(&export, &overlay.trust()).expect("holds").revoked, None);

    registry.revoke("central", reason, NodeId([0; 16]), "lan", later_ms).expect("known");
    let list = authority.crl(&registry.revoked(), 2, later_ms).expect("made");
    take(&mut bundle, ObjectKey::Crl(authority.id().0), 2, list);
    bundle.save(&dir).expect("written");
    (overlay, export)
}

#[test]
fn a_signer_revoked_since_is_named_and_a_stolen_key_proves_nothing() {
    use tram_pki::crl::Reason::{KeyCompromise, Retired};
    for (reason, code) in [(Retired, 0), (KeyCompromise, 1)] {
        let (overlay, export) = revoked_since(reason);
        let (node, revoked) = verify(&export, &overlay.trust()).expect("holds").revoked.expect("told apart");
        assert_eq!((node.as_str(), revoked.reason), ("central", reason));
        assert_eq!(exit(&overlay, &export.encode()), code);
    }
}

#[test]
fn a_signature_stands_behind_every_byte_of_the_statements_themselves() {
    let overlay = Overlay::new();
    let (good, trust) = (overlay.export(|_| ()), overlay.trust());
    for at in 0..good.envelope.statement.len() {
        let mut bad = good.clone();
        let mut statement = bad.envelope.statement.to_vec();
        statement[at] ^= 0x01;
        bad.envelope.statement = statement.into();
        assert!(verify(&bad, &trust).is_err(), "envelope byte {at}");
    }
    for at in 0..good.receipts[0].statement.len() {
        let mut bad = good.clone();
        let mut statement = bad.receipts[0].statement.to_vec();
        statement[at] ^= 0x01;
        bad.receipts[0].statement = statement.into();
        assert!(verify(&bad, &trust).is_err(), "receipt byte {at}");
    }
}
