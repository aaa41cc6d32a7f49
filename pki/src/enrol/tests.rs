use std::path::{Path, PathBuf};

use aws_lc_rs::signature::KeyPair as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384};
use rustls_pki_types::CertificateDer;
use tram_proto::id::NodeId;
use tram_proto::join::{HostPort, Refusal, Request, Uplink};
use tram_proto::name::Role;

use super::*;
use crate::clock::DAY_MS;
use crate::crl::Reason;
use crate::fixtures::{NOW_MS, Overlay};
use crate::keystore::NodeKeys;
use crate::registry::{Registry, TOKEN_MS, TokenOrder, TokenState, WRONG_PROOFS};
use crate::token::Token;

const CHANNEL: Exporter = [1; 32];

/// The server with one fresh token, and the machine that is to join.
struct Scene {
    overlay: Overlay,
    registry: Registry,
    token: Token,
    machine: tempfile::TempDir,
}

fn machine() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary directory")
}

fn order() -> TokenOrder {
    let address = |text: &str| text.parse::<HostPort>().expect("address");
    TokenOrder {
        name: "can-tho".parse().expect("name"),
        role: Role::Province,
        lifetime_ms: TOKEN_MS,
        uplink: Uplink { node: "central".parse().expect("name"), addresses: vec![address("10.0.0.1:7443")] },
        join: vec![address("10.0.0.1:7444")],
        by: "lan".to_owned(),
    }
}

impl Scene {
    fn new() -> Self {
        let overlay = Overlay::new("tram.internal");
        let mut registry = Registry::open(overlay.dir()).expect("opens");
        let token = registry.new_token(overlay.authority(), &order(), NOW_MS).expect("made");
        Self { overlay, registry, token, machine: machine() }
    }

    fn joining(&self) -> Joining {
        Joining::begin(&self.pki(), self.token.clone()).expect("begins")
    }

    fn pki(&self) -> PathBuf {
        self.machine.path().join("pki")
    }

    /// A request that proves the token for any bytes.
    fn proving(&self, csr: &[u8]) -> Request {
        let mac = prove(self.token.secret.hash(), &CHANNEL, csr);
        Request { token: self.token.id, csr: csr.to_vec().into(), mac, clock_ms: NOW_MS, version: String::new() }
    }

    fn request(&self) -> Request {
        self.joining().request(&CHANNEL, "0.1.0", NOW_MS)
    }

    fn ask(&mut self, request: &Request, now_ms: u64) -> (tram_proto::join::Answer, Option<Cause>) {
        answer(&mut self.registry, self.overlay.authority(), request, &CHANNEL, "198.51.100.7:999", now_ms)
    }

    #[track_caller]
    fn check(&mut self, request: &Request, now_ms: u64, refusal: Refusal, cause: &str) {
        let (answer, why) = self.ask(request, now_ms);
        assert_eq!(answer.verdict, Err(refusal));
        let why = why.expect("a cause for the log").to_string();
        assert!(why.contains(cause), "{why}");
    }

    fn state(&self) -> TokenState {
        self.registry.token(&self.token.id).expect("remembered").state
    }
}

#[test]
fn a_machine_with_a_token_becomes_the_node_the_token_names() {
    let mut scene = Scene::new();
    let joining = scene.joining();
    let (answer, cause) = scene.ask(&joining.request(&CHANNEL, "0.1.0", NOW_MS), NOW_MS);
    assert_eq!(cause, None);
    let joined = joining.accept(answer, NOW_MS).expect("accepted");
    let keys = NodeKeys::install(&scene.machine.path().join("pki"), &joined).expect("installed");
    assert_eq!(keys.identity().name.as_str(), "can-tho");
    assert_eq!((keys.identity().role, keys.identity().id), (Role::Province, joined.id));
    assert_eq!(joined.uplink, order().uplink);
    let node = scene.registry.node(&joined.name).expect("registered");
    assert_eq!((node.id, node.certificates.len()), (joined.id, 1));
    assert_eq!(scene.state(), TokenState::Bound);
    let audit = std::fs::read_to_string(scene.overlay.dir().join(crate::registry::AUDIT_LOG)).expect("readable");
    assert!(audit.contains("certificate_issued") && audit.contains(&node.certificates[0].serial), "{audit}");
}

#[test]
fn row_04_the_same_key_gets_the_same_certificate_until_the_token_expires() {
    let mut scene = Scene::new();
    let (first, _) = scene.ask(&scene.request(), NOW_MS);
    // The answer was lost, both sides restarted, the channel is another one.
    drop(std::mem::replace(&mut scene.registry, Registry::open(Overlay::new("x.internal").dir()).expect("opens")));
    scene.registry = Registry::open(scene.overlay.dir()).expect("opens");
    let (second, _) = scene.ask(&scene.request(), NOW_MS + TOKEN_MS - 1);
    assert_eq!(first.verdict, second.verdict);
    assert_eq!(scene.registry.node(&scene.token.name).map(|node| node.certificates.len()), Some(1));
    scene.check(&scene.request(), NOW_MS + TOKEN_MS, Refusal::Expired, "expired");
}

#[test]
fn row_03_another_key_is_refused_and_freezes_the_token() {
    let mut scene = Scene::new();
    let first = scene.request();
    assert!(scene.ask(&first, NOW_MS).0.verdict.is_ok());
    let thief = Scene { machine: machine(), ..scene };
    let mut scene = thief;
    scene.check(&scene.request(), NOW_MS + 1, Refusal::UsedByAnotherKey, "two machines");
    assert_eq!(scene.state(), TokenState::FrozenByKey);
    // From now on nobody gets in, also the first: a person has to look.
    scene.check(&first, NOW_MS + 2, Refusal::UsedByAnotherKey, "frozen");
}

#[test]
fn row_03_a_wrong_proof_says_nothing_and_ten_freeze_the_token() {
    let mut scene = Scene::new();
    let good = scene.request();
    let mut wrong = good.clone();
    wrong.mac[31] ^= 1;
    for _ in 1..WRONG_PROOFS {
        scene.check(&wrong, NOW_MS, Refusal::Unknown, "wrong proof");
    }
    assert_eq!(scene.state(), TokenState::New);
    scene.check(&wrong, NOW_MS, Refusal::Unknown, "frozen now");
    let log = scene.overlay.dir().join(crate::registry::AUDIT_LOG);
    let lines = || std::fs::read_to_string(&log).expect("readable").lines().count();
    let written = lines();
    scene.check(&wrong, NOW_MS, Refusal::Unknown, "wrong proof");
    assert_eq!(lines(), written, "what is frozen cannot fill the disk");
    scene.check(&good, NOW_MS, Refusal::Frozen, "frozen");
}

#[test]
fn row_03_a_proof_holds_for_its_channel_and_its_request_only() {
    let mut scene = Scene::new();
    let relayed = scene.joining().request(&[2; 32], "0.1.0", NOW_MS);
    scene.check(&relayed, NOW_MS, Refusal::Unknown, "wrong proof");
    let mut swapped = scene.request();
    swapped.csr = crate::csr::request(&crate::fixtures::key()).expect("request").into();
    scene.check(&swapped, NOW_MS, Refusal::Unknown, "wrong proof");
    let mut unknown = scene.request();
    unknown.token.0[0] ^= 1;
    scene.check(&unknown, NOW_MS, Refusal::Unknown, "unknown");
}

#[test]
fn row_03_ended_tokens_are_refused_with_their_reason() {
    let mut scene = Scene::new();
    scene.check(&scene.request(), NOW_MS + TOKEN_MS, Refusal::Expired, "expired at 2027-01-16");
    scene.registry.cancel_token(&scene.token.name, "lan", NOW_MS).expect("cancelled");
    scene.check(&scene.request(), NOW_MS, Refusal::Cancelled, "cancelled");

    let mut scene = Scene::new();
    assert!(scene.ask(&scene.request(), NOW_MS).0.verdict.is_ok());
    let id = scene.registry.node(&scene.token.name).expect("registered").id;
    let newer = scene.registry.new_token(scene.overlay.authority(), &order(), NOW_MS).expect("made");
    scene.check(&scene.request(), NOW_MS, Refusal::UsedByAnotherKey, "used");
    // Joining again keeps the node's id.
    scene.token = newer;
    scene.machine = machine();
    let verdict = scene.ask(&scene.request(), NOW_MS).0.verdict.expect("granted");
    assert_eq!(verdict.node, id);
}

#[test]
fn row_01_what_a_request_wishes_is_ignored_and_noted() {
    let mut scene = Scene::new();
    let key = crate::fixtures::key();
    let mut params = CertificateParams::new(vec!["central.tram.internal".to_owned()]).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "central.tram.internal");
    let csr = params.serialize_request(&key).expect("request").der().to_vec();
    let granted = scene.ask(&scene.proving(&csr), NOW_MS).0.verdict.expect("granted");
    let chain: Vec<_> = granted.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let peer = scene.overlay.trust().verify(&chain, NOW_MS).expect("a plain node");
    assert_eq!((peer.name.as_str(), peer.role, peer.id), ("can-tho", Role::Province, granted.node));
    let audit = std::fs::read_to_string(scene.overlay.dir().join(crate::registry::AUDIT_LOG)).expect("readable");
    let issued = audit.lines().find(|line| line.contains("certificate_issued")).expect("a line");
    assert!(issued.contains("asked for a subject of its own and for extensions; ignored"), "{issued}");
}

#[test]
fn row_02_a_bad_certificate_request_does_not_spend_the_token() {
    let mut scene = Scene::new();
    let good = crate::csr::request(&crate::fixtures::key()).expect("request");
    let mut broken = good.clone();
    *broken.last_mut().expect("not empty") ^= 1;
    let other = crate::csr::request(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("key")).expect("request");
    for (csr, cause) in [
        (b"not a request".to_vec(), "cannot be read"),
        ([good.as_slice(), &[0]].concat(), "cannot be read"),
        (vec![0x30; tram_proto::limits::CSR_BYTES + 1], "at most 16384"),
        (broken, "not signed with its own key"),
        (other, "not ECDSA P-256"),
    ] {
        scene.check(&scene.proving(&csr), NOW_MS, Refusal::Csr, cause);
        assert_eq!(scene.state(), TokenState::New);
    }
    assert!(scene.ask(&scene.request(), NOW_MS).0.verdict.is_ok());
}

#[test]
fn row_02_the_key_of_another_node_is_refused() {
    let mut scene = Scene::new();
    let first = scene.request();
    assert!(scene.ask(&first, NOW_MS).0.verdict.is_ok());
    let other = TokenOrder { name: "an-giang".parse().expect("name"), ..order() };
    scene.token = scene.registry.new_token(scene.overlay.authority(), &other, NOW_MS).expect("made");
    scene.check(&scene.proving(&first.csr), NOW_MS, Refusal::Csr, "key of node can-tho");
    assert_eq!(scene.state(), TokenState::New);
}

#[test]
fn row_02_the_key_of_a_revoked_certificate_is_refused() {
    let mut scene = Scene::new();
    let first = scene.request();
    assert!(scene.ask(&first, NOW_MS).0.verdict.is_ok());
    let own = scene.overlay.keys().identity().id;
    let serial = scene.registry.node(&scene.token.name).expect("registered").certificates[0].serial.clone();
    scene.registry.revoke(&serial, Reason::KeyCompromise, own, "lan", NOW_MS).expect("revoked");
    scene.token = scene.registry.new_token(scene.overlay.authority(), &order(), NOW_MS).expect("made");
    scene.check(&scene.proving(&first.csr), NOW_MS, Refusal::Csr, "was revoked");
    assert_eq!(scene.state(), TokenState::New);
    scene.machine = machine();
    assert!(scene.ask(&scene.request(), NOW_MS).0.verdict.is_ok(), "another key of the same node");
}

/// A machine that has joined, its node's id, and a newer token for the same name.
fn joined() -> (Scene, NodeId) {
    let mut scene = Scene::new();
    let joining = scene.joining();
    let (answer, _) = scene.ask(&joining.request(&CHANNEL, "0.1.0", NOW_MS), NOW_MS);
    let joined = joining.accept(answer, NOW_MS).expect("accepted");
    NodeKeys::install(&scene.pki(), &joined).expect("installed");
    scene.token = scene.registry.new_token(scene.overlay.authority(), &order(), NOW_MS).expect("made");
    (scene, joined.id)
}

#[test]
fn a_node_joins_again_with_a_new_key_and_keeps_its_id() {
    let (mut scene, id) = joined();
    let before = NodeKeys::load(&scene.pki()).expect("loads");
    let joining = scene.joining();
    assert!(joining.is_again());
    let (lost, _) = scene.ask(&joining.request(&CHANNEL, "0.1.0", NOW_MS), NOW_MS);
    assert_eq!(
        NodeKeys::load(&scene.pki()).expect("loads").chain(),
        before.chain(),
        "in use until the answer is there"
    );
    // The answer was lost, the command is given again.
    let (answer, _) = scene.ask(&scene.request(), NOW_MS);
    assert_eq!(lost.verdict, answer.verdict);
    let joined = scene.joining().accept(answer, NOW_MS).expect("accepted");
    let after = NodeKeys::install(&scene.pki(), &joined).expect("installed");
    assert_eq!((after.identity().id, after.identity().name.as_str()), (id, "can-tho"));
    assert_ne!(after.signer().key().public_key().as_ref(), before.signer().key().public_key().as_ref());
    assert_eq!(after.quic_reset_secret().as_bytes(), before.quic_reset_secret().as_bytes());
    assert_eq!(after.trust().roots(), before.trust().roots());
}

#[test]
fn a_node_whose_key_is_lost_or_spoilt_joins_again() {
    for spoil in [|path: &Path| std::fs::remove_file(path), |path: &Path| std::fs::write(path, "-----BEGIN")] {
        let (mut scene, id) = joined();
        spoil(&scene.pki().join(crate::keystore::NODE_KEY)).expect("spoilt");
        assert!(NodeKeys::load(&scene.pki()).is_err());
        let (answer, _) = scene.ask(&scene.request(), NOW_MS);
        let joined = scene.joining().accept(answer, NOW_MS).expect("accepted");
        assert_eq!(NodeKeys::install(&scene.pki(), &joined).expect("installed").identity().id, id);
    }
}

#[test]
fn a_directory_joins_again_only_as_its_own_node_and_not_with_the_same_token() {
    let (mut scene, _) = joined();
    let foreign = Overlay::new("x.internal");
    let mut registry = Registry::open(foreign.dir()).expect("opens");
    let elsewhere = registry.new_token(foreign.authority(), &order(), NOW_MS).expect("made");
    let other = TokenOrder { name: "an-giang".parse().expect("name"), ..order() };
    let other = scene.registry.new_token(scene.overlay.authority(), &other, NOW_MS).expect("made");
    for (token, wanted) in [(elsewhere, "can-tho.x.internal"), (other, "an-giang.tram.internal")] {
        let error = Joining::begin(&scene.pki(), token).expect_err("another node").to_string();
        assert!(error.contains("set up already, as node can-tho.tram.internal") && error.contains(wanted), "{error}");
    }
    let (answer, _) = scene.ask(&scene.request(), NOW_MS);
    let joined = scene.joining().accept(answer, NOW_MS).expect("accepted");
    NodeKeys::install(&scene.pki(), &joined).expect("installed");
    let error = Joining::begin(&scene.pki(), scene.token.clone()).expect_err("the same token").to_string();
    assert!(error.contains("set up already, with this very token"), "{error}");
}

#[test]
fn a_node_does_not_take_another_id() {
    let (mut scene, id) = joined();
    let joining = scene.joining();
    let (mut answer, _) = scene.ask(&joining.request(&CHANNEL, "0.1.0", NOW_MS), NOW_MS);
    let granted = answer.verdict.as_mut().expect("granted");
    let key = crate::csr::LeafKey::from_csr(&joining.request(&CHANNEL, "", NOW_MS).csr).expect("good");
    let subject = crate::authority::Subject { id: NodeId([9; 16]), name: granted.name.clone(), role: granted.role };
    let issued = scene.overlay.authority().issue(&key, &subject, NOW_MS).expect("issued");
    (granted.node, granted.chain[0]) = (subject.id, issued.certificate.to_vec().into());
    let error = joining.accept(answer, NOW_MS).expect_err("another id").to_string();
    assert!(error.contains(&id.to_string()) && error.contains(&subject.id.to_string()), "{error}");
}

#[test]
fn a_ca_near_its_end_leaves_the_token_unspent() {
    let mut scene = Scene::new();
    let late = scene.overlay.authority().not_after_ms() - 10 * DAY_MS;
    scene.token = scene.registry.new_token(scene.overlay.authority(), &order(), late).expect("made");
    scene.check(&scene.request(), late, Refusal::Unavailable, "too soon to issue by it");
    assert_eq!(scene.state(), TokenState::New);
}

#[track_caller]
fn check_answer(spoil: impl FnOnce(&Overlay, &mut tram_proto::join::Answer), now_ms: u64, fault: &str) {
    let mut scene = Scene::new();
    let joining = scene.joining();
    let (mut answer, _) = scene.ask(&joining.request(&CHANNEL, "0.1.0", NOW_MS), NOW_MS);
    spoil(&scene.overlay, &mut answer);
    let error = joining.accept(answer, now_ms).expect_err("must be refused").to_string();
    assert!(error.contains(fault), "{error}");
}

#[test]
fn row_06_an_answer_that_does_not_fit_the_token_is_refused() {
    fn grant(answer: &mut tram_proto::join::Answer) -> &mut tram_proto::join::Granted {
        answer.verdict.as_mut().expect("granted")
    }
    let foreign = Overlay::new("tram.internal");
    check_answer(|_, a| grant(a).root = foreign.authority().root().to_vec().into(), NOW_MS, "another root");
    check_answer(|_, a| grant(a).node.0[0] ^= 1, NOW_MS, "node id");
    check_answer(|_, a| grant(a).name = "an-giang".parse().expect("name"), NOW_MS, "name");
    check_answer(|_, a| grant(a).role = Role::District, NOW_MS, "role");
    check_answer(|_, a| grant(a).zone = "x.internal".parse().expect("zone"), NOW_MS, "zone");
    check_answer(|_, a| grant(a).uplink.node = "evil".parse().expect("name"), NOW_MS, "uplink");
    check_answer(|_, a| drop(grant(a).chain.pop()), NOW_MS, "not accepted");
    let central = |overlay: &Overlay| overlay.keys().chain().iter().map(|c| c.to_vec().into()).collect();
    check_answer(|overlay, a| grant(a).chain = central(overlay), NOW_MS, "name");
    let other_key = crate::csr::LeafKey::of(&crate::fixtures::key()).expect("P-256");
    let swap = |overlay: &Overlay, answer: &mut tram_proto::join::Answer| {
        let grant = grant(answer);
        let subject = crate::authority::Subject { id: grant.node, name: grant.name.clone(), role: grant.role };
        let issued = overlay.authority().issue(&other_key, &subject, NOW_MS).expect("issued");
        grant.chain[0] = issued.certificate.to_vec().into();
    };
    check_answer(swap, NOW_MS, "key");
}

#[test]
fn clocks_that_disagree_are_both_named() {
    check_answer(
        |_, _| {},
        NOW_MS - 3 * DAY_MS,
        "2027-01-12T08:00:00Z, the join server's 2027-01-15T08:00:00Z: this one is 3 days behind",
    );
    check_answer(|_, _| {}, NOW_MS + 301_000, "5 minutes ahead");
    let refuse = |_: &Overlay, answer: &mut tram_proto::join::Answer| answer.verdict = Err(Refusal::Expired);
    check_answer(refuse, NOW_MS - DAY_MS, "it has expired; ask for a new one. Also, this machine's clock says");
    check_answer(refuse, NOW_MS, "it has expired");
}
