use tram_proto::join::{HostPort, Refusal, Request, Uplink};
use tram_proto::name::Role;

use super::*;
use crate::clock::DAY_MS;
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
        Joining::begin(&self.machine.path().join("pki"), self.token.clone()).expect("begins")
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
fn the_same_key_gets_the_same_certificate_until_the_token_expires() {
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
fn another_key_is_refused_and_freezes_the_token() {
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
fn a_wrong_proof_says_nothing_and_ten_freeze_the_token() {
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
fn a_proof_holds_for_its_channel_and_its_request_only() {
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
fn ended_tokens_are_refused_with_their_reason() {
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
fn a_bad_certificate_request_does_not_spend_the_token() {
    let mut scene = Scene::new();
    let joining = scene.joining();
    let csr = &b"not a request"[..];
    let mac = prove(scene.token.secret.hash(), &CHANNEL, csr);
    let bad = Request { csr: csr.into(), mac, ..joining.request(&CHANNEL, "0.1.0", NOW_MS) };
    scene.check(&bad, NOW_MS, Refusal::Csr, "cannot be read");
    assert_eq!(scene.state(), TokenState::New);
    assert!(scene.ask(&scene.request(), NOW_MS).0.verdict.is_ok());
}

#[test]
fn the_key_of_another_node_is_refused() {
    let mut scene = Scene::new();
    assert!(scene.ask(&scene.request(), NOW_MS).0.verdict.is_ok());
    let other = TokenOrder { name: "an-giang".parse().expect("name"), ..order() };
    scene.token = scene.registry.new_token(scene.overlay.authority(), &other, NOW_MS).expect("made");
    scene.check(&scene.request(), NOW_MS, Refusal::Csr, "key of node can-tho");
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
fn an_answer_that_does_not_fit_the_token_is_refused() {
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
