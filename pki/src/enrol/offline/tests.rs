use std::path::PathBuf;

use tram_proto::join::HostPort;

use super::*;
use crate::fixtures::{NOW_MS, Overlay};
use crate::keystore::NodeKeys;
use crate::registry::{TOKEN_MS, TokenOrder, TokenState};

struct Scene {
    overlay: Overlay,
    registry: Registry,
    machine: tempfile::TempDir,
}

fn name(text: &str) -> NodeName {
    text.parse().expect("name")
}

fn order() -> SignOrder {
    let address: HostPort = "10.0.0.1:7443".parse().expect("address");
    SignOrder {
        role: Role::Province,
        uplink: Uplink { node: name("central"), addresses: vec![address] },
        by: "lan".to_owned(),
    }
}

impl Scene {
    fn new() -> Self {
        let overlay = Overlay::new("tram.internal");
        let registry = Registry::open(overlay.dir()).expect("opens");
        Self { overlay, registry, machine: tempfile::tempdir().expect("temporary directory") }
    }

    fn pki(&self) -> PathBuf {
        self.machine.path().join("pki")
    }

    fn request(&self) -> FileRequest {
        request(&self.pki(), &name("can-tho"), "0.3.0").expect("made")
    }

    fn sign(&mut self, request: &FileRequest) -> Result<FileAnswer, SignError> {
        std::fs::write(self.overlay.dir().join(BUNDLE_BIN), b"bundle").expect("written");
        sign(&mut self.registry, self.overlay.authority(), request, &order(), NOW_MS)
    }
}

#[test]
fn a_machine_becomes_a_node_by_two_files() {
    let mut scene = Scene::new();
    let asked = scene.request();
    let seen = FileRequest::decode(&asked.encode()).expect("reads");
    assert_eq!(fingerprint(&seen), fingerprint(&asked));
    let answer = scene.sign(&seen).expect("signed");
    let answer = FileAnswer::decode(&answer.encode()).expect("reads");
    let answered = accept(&scene.pki(), &answer, NOW_MS).expect("fits");
    assert!(!answered.is_trusted());
    assert!(root_fingerprint(answered.root()).is(&Sha256::of(scene.overlay.authority().root()).to_string()));
    let keys = NodeKeys::install(&scene.pki(), &answered.vouched()).expect("installed");
    assert_eq!((keys.identity().name.as_str(), keys.identity().role), ("can-tho", Role::Province));
    assert_eq!(std::fs::read(scene.pki().join(BUNDLE_BIN)).expect("there"), b"bundle");
    let node = scene.registry.node(&name("can-tho")).expect("registered");
    assert_eq!((node.id, node.certificates.len()), (keys.identity().id, 1));
    let audit = std::fs::read_to_string(scene.overlay.dir().join(crate::registry::AUDIT_LOG)).expect("readable");
    let last = audit.lines().last().expect("a line");
    assert!(last.contains("certificate_issued") && last.contains("\"lan\"") && last.contains("\"file\""), "{last}");
}

#[test]
fn asking_again_asks_with_the_same_key() {
    let scene = Scene::new();
    let fingerprint = |name_: &str| {
        let asked = request(&scene.pki(), &name(name_), "0").expect("made");
        fingerprint(&asked).expect("a key").to_string()
    };
    let first = fingerprint("can-tho");
    assert_eq!(fingerprint("can-tho"), first);
    assert_ne!(fingerprint("an-giang"), first);
}

#[test]
fn the_fingerprint_covers_key_and_name() {
    let scene = Scene::new();
    let asked = scene.request();
    let renamed = FileRequest { name: name("an-giang"), ..asked.clone() };
    let other = request(&scene.machine.path().join("other"), &name("can-tho"), "0.3.0").expect("made");
    assert_ne!(fingerprint(&asked), fingerprint(&renamed));
    assert_ne!(fingerprint(&asked), fingerprint(&other));
}

#[test]
fn a_node_asks_again_by_file_and_keeps_its_id() {
    let mut scene = Scene::new();
    let answer = scene.sign(&scene.request()).expect("signed");
    let first = accept(&scene.pki(), &answer, NOW_MS).expect("fits").vouched();
    NodeKeys::install(&scene.pki(), &first).expect("installed");
    let error = request(&scene.pki(), &name("an-giang"), "0").expect_err("another's directory").to_string();
    assert!(error.contains("set up already, as node can-tho.tram.internal"), "{error}");

    let answer = scene.sign(&scene.request()).expect("signed");
    let answered = accept(&scene.pki(), &answer, NOW_MS).expect("fits");
    assert!(answered.is_trusted(), "its root is known here");
    let keys = NodeKeys::install(&scene.pki(), &answered.vouched()).expect("installed");
    assert_eq!(keys.identity().id, first.id);
    assert_ne!(keys.chain()[0], first.chain[0]);
    // The same answer once more: its key is in use, nothing waits for it.
    let error = accept(&scene.pki(), &answer, NOW_MS).expect_err("spent").to_string();
    assert!(error.contains("tram pki csr can-tho"), "{error}");
}

#[test]
fn an_answer_to_another_machine_is_refused() {
    let mut scene = Scene::new();
    let asked = scene.request();
    let answer = scene.sign(&asked).expect("signed");
    assert_eq!(scene.sign(&asked).expect("signed again").granted.chain, answer.granted.chain);
    let elsewhere = scene.machine.path().join("elsewhere");
    let error = accept(&elsewhere, &answer, NOW_MS).expect_err("never asked").to_string();
    assert!(error.contains("has not asked to be node can-tho"), "{error}");
    request(&elsewhere, &name("can-tho"), "0").expect("made");
    let error = accept(&elsewhere, &answer, NOW_MS).expect_err("another key").to_string();
    assert!(error.contains("its key differs"), "{error}");
    let mut renamed = answer.clone();
    renamed.granted.name = name("an-giang");
    assert!(matches!(accept(&scene.pki(), &renamed, NOW_MS), Err(JoinError::NotAsked { .. })));
    let mut foreign = answer;
    foreign.granted.root = Overlay::new("tram.internal").authority().root().to_vec().into();
    assert!(matches!(accept(&scene.pki(), &foreign, NOW_MS), Err(JoinError::Chain(_))));
}

#[test]
fn row_01_wishes_in_a_request_file_are_ignored_and_noted() {
    let mut scene = Scene::new();
    let mut params = rcgen::CertificateParams::new(vec!["central.tram.internal".to_owned()]).expect("names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&crate::fixtures::key()).expect("request").der().to_vec();
    let answer = scene.sign(&FileRequest { csr: csr.into(), ..scene.request() }).expect("signed");
    let chain: Vec<_> = answer.granted.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let peer = scene.overlay.trust().verify(&chain, NOW_MS).expect("a plain node");
    assert_eq!((peer.name.as_str(), peer.role), ("can-tho", Role::Province));
    let audit = std::fs::read_to_string(scene.overlay.dir().join(crate::registry::AUDIT_LOG)).expect("readable");
    assert!(audit.lines().last().is_some_and(|line| line.contains("ignored")), "{audit}");
}

#[test]
fn row_02_a_bad_request_file_is_refused_and_nothing_is_issued() {
    let mut scene = Scene::new();
    let good = scene.request();
    let mut broken = good.csr.to_vec();
    *broken.last_mut().expect("not empty") ^= 1;
    for (csr, cause) in [
        (Vec::new(), "cannot be read"),
        ([&good.csr[..], &[0]].concat(), "cannot be read"),
        (broken, "not signed with its own key"),
        (vec![0x30; tram_proto::limits::CSR_BYTES + 1], "at most 16384"),
    ] {
        let bad = FileRequest { csr: csr.into(), ..good.clone() };
        assert!(fingerprint(&bad).is_err());
        let error = scene.sign(&bad).expect_err("refused").to_string();
        assert!(error.contains(cause) && error.contains("can-tho"), "{error}");
    }
    assert!(scene.registry.node(&name("can-tho")).is_none());
    scene.sign(&good).expect("signed");
    let copied = FileRequest { name: name("an-giang"), ..good.clone() };
    let error = scene.sign(&copied).expect_err("another's key").to_string();
    assert!(error.contains("the key of node can-tho"), "{error}");
    let order = SignOrder { role: Role::Central, ..order() };
    let authority = scene.overlay.authority();
    let refused = sign(&mut scene.registry, authority, &good, &order, NOW_MS);
    assert!(matches!(refused, Err(SignError::Registry(RegistryError::Central(_)))), "{refused:?}");
}

#[test]
fn signing_ends_a_live_token_for_the_name_and_keeps_its_promise() {
    let mut scene = Scene::new();
    let tokens = TokenOrder {
        name: name("can-tho"),
        role: Role::Province,
        lifetime_ms: TOKEN_MS,
        uplink: order().uplink,
        join: order().uplink.addresses,
        by: "lan".to_owned(),
    };
    let token = scene.registry.new_token(scene.overlay.authority(), &tokens, NOW_MS).expect("made");
    let promised = scene.registry.token(&token.id).expect("kept").node;
    let answer = scene.sign(&scene.request()).expect("signed");
    assert_eq!(answer.granted.node, promised);
    assert_eq!(scene.registry.token(&token.id).map(|token| token.state), Some(TokenState::Cancelled));
}
