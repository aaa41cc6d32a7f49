//! Ten years of a three-tier overlay, every fifth day, with the clock injected: every node renews by itself, every list is made
//! anew, the CA keys of central and of a province are exchanged once, and on no day does any link fail to come up.
//!
//! What neighbours tell each other is passed on at once, in random order and more than once; what a daemon does at the
//! right moment is done here in the same order: `publish`, `take up`, `renew`, `show`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tram_pki::authority::{self, Authority, Root, Scope};
use tram_pki::bundle::{Bundle, ObjectError};
use tram_pki::clock::{BACKDATE_MS, DAY_MS};
use tram_pki::enrol::{Joining, answer as join_answer};
use tram_pki::hash::Sha256;
use tram_pki::keystore::{self, NodeKeys};
use tram_pki::registry::{Registry, TOKEN_MS, TokenOrder};
use tram_pki::{renew, rotate};
use tram_proto::join::{HostPort, Uplink};
use tram_proto::limits::CHAIN_CERTIFICATES;
use tram_proto::name::{NodeName, Role};
use tram_proto::pki::{Answer, Item, Object, ObjectKey};

/// 15 January 2027.
const BEGIN_MS: u64 = 1_800_000_000_000;
const YEARS: u64 = 10;
/// How often everyone looks at the clock, in days. The daemon does every ten minutes; a list is fresh for seven.
const STEP_DAYS: usize = 5;
/// A CA's certificate is renewed on the same key when it has less left than this, as the daemon does.
const CA_RENEW_MS: u64 = 365 * DAY_MS;

struct Ca {
    authority: Option<Authority>,
    registry: Registry,
    /// It asks the root's holder for its first certificate.
    csr_wanted: bool,
}

struct Node {
    _dir: tempfile::TempDir,
    pki: PathBuf,
    name: NodeName,
    keys: NodeKeys,
    bundle: Bundle,
    ca: Option<Ca>,
    parent: Option<usize>,
    renewals: u32,
}

struct World {
    nodes: Vec<Node>,
    now_ms: u64,
    seed: u64,
}

fn name(text: &str) -> NodeName {
    text.parse().expect("name")
}

fn address(text: &str) -> HostPort {
    text.parse().expect("address")
}

fn crl_object(issuer: Sha256, number: u64, der: Vec<u8>) -> Object {
    Object { item: Item { key: ObjectKey::Crl(issuer.0), version: number }, content: der.into() }
}

fn authority_object(der: &[u8]) -> Object {
    let key = ObjectKey::Authority(Sha256::of(der).0);
    Object { item: Item { key, version: 1 }, content: Bytes::copy_from_slice(der) }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = dir.path().join("pki");
        let keys = keystore::found(&pki, &"tram.internal".parse().expect("zone"), &name("central"), BEGIN_MS);
        let mut world = Self { nodes: Vec::new(), now_ms: BEGIN_MS, seed: 7 };
        world.enter(dir, pki, keys.expect("founded"), None);
        for (child, role, parent) in [
            ("can-tho", Role::Province, 0),
            ("an-giang", Role::Province, 0),
            ("ninh-kieu.can-tho", Role::District, 1),
            ("cai-rang.can-tho", Role::District, 1),
            ("chau-doc.an-giang", Role::District, 2),
            ("an-cu.ninh-kieu.can-tho", Role::Commune, 3),
        ] {
            world.join(child, role, parent);
            world.talk();
            world.look_after_cas();
        }
        world
    }

    fn enter(&mut self, dir: tempfile::TempDir, pki: PathBuf, keys: NodeKeys, parent: Option<usize>) {
        let (bundle, _) = Bundle::load(&pki).expect("loads");
        let identity = keys.identity().clone();
        let is_ca = matches!(identity.role, Role::Central | Role::Province);
        let ca = is_ca.then(|| Ca {
            authority: Authority::open(&pki).ok(),
            registry: Registry::open(&pki).expect("opens"),
            csr_wanted: identity.role == Role::Province,
        });
        self.nodes.push(Node { _dir: dir, pki, name: identity.name, keys, bundle, ca, parent, renewals: 0 });
    }

    /// The node that holds the CA closest to a name, as central's bundle has it.
    fn holder(&self, of: &NodeName) -> usize {
        let key = self.nodes[0].bundle.closest(of, self.now_ms).map(|ca| ca.key);
        let holds = |node: &Node| {
            let ca = node.ca.as_ref().and_then(|ca| ca.authority.as_ref());
            ca.is_some_and(|authority| Some(authority.id()) == key)
        };
        self.nodes.iter().position(holds).unwrap_or(0)
    }

    fn join(&mut self, child: &str, role: Role, parent: usize) {
        let holder = self.holder(&name(child));
        let order = TokenOrder {
            name: name(child),
            role,
            lifetime_ms: TOKEN_MS,
            uplink: Uplink { node: self.nodes[parent].name.clone(), addresses: vec![address("10.0.0.1:7443")] },
            join: vec![address("10.0.0.1:7444")],
            by: "lan".to_owned(),
        };
        let now_ms = self.now_ms;
        let ca = self.nodes[holder].ca.as_mut().expect("a CA");
        let authority = ca.authority.as_ref().expect("certified");
        let token = ca.registry.new_token(authority, &order, now_ms).expect("a token");
        let dir = tempfile::tempdir().expect("a directory");
        let pki = dir.path().join("pki");
        let joining = Joining::begin(&pki, token).expect("begins");
        let request = joining.request(&[1; 32], "0", now_ms);
        let (answer, cause) = join_answer(&mut ca.registry, authority, &request, &[1; 32], "192.0.2.1:1", now_ms);
        assert!(cause.is_none(), "{cause:?}");
        let joined = joining.accept(answer, now_ms).expect("joined");
        let keys = NodeKeys::install(&pki, &joined).expect("installed");
        self.enter(dir, pki, keys, Some(parent));
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.seed >> 33).expect("fits") % below
    }

    /// Everyone tells everyone what he has, in some order, until nobody learns anything.
    fn talk(&mut self) {
        loop {
            let mut all: Vec<Object> = Vec::new();
            for node in &self.nodes {
                all.extend(node.bundle.have().iter().filter_map(|item| node.bundle.object(item.key)));
            }
            for at in (1..all.len()).rev() {
                let other = self.random(at + 1);
                all.swap(at, other);
            }
            let now_ms = self.now_ms;
            let mut news = false;
            for node in &mut self.nodes {
                for object in &all {
                    // One whose CA is not known yet is refused, and comes again.
                    news |= node.bundle.take(object, now_ms).unwrap_or(false);
                }
            }
            if !news {
                return;
            }
        }
    }

    /// What each CA does by itself: certificates, lists, and its own certificate.
    fn look_after_cas(&mut self) {
        let now_ms = self.now_ms;
        for at in 0..self.nodes.len() {
            self.certify_ca(at);
            let node = &mut self.nodes[at];
            let Some(ca) = &mut node.ca else { continue };
            let old = rotate::ca_old(&node.pki).expect("opens");
            let Some(authority) = &ca.authority else { continue };
            for certificate in authority.certificates() {
                match node.bundle.take(&authority_object(certificate), now_ms) {
                    Ok(_) | Err(ObjectError::Expired) => {}
                    Err(why) => panic!("day {}: {why}", (now_ms - BEGIN_MS) / DAY_MS),
                }
            }
            for one in std::iter::once(authority).chain(&old) {
                let held = node.bundle.crl(&one.id()).map(|crl| (crl.number, crl.this_update_ms));
                if held.is_none_or(|(_, at_ms)| now_ms >= at_ms + BACKDATE_MS + DAY_MS) {
                    let number = ca.registry.next_crl(false, held.map_or(0, |(n, _)| n), now_ms).expect("written");
                    let der = one.crl(&ca.registry.revoked(), number, now_ms).expect("made");
                    node.bundle.take(&crl_object(one.id(), number, der), now_ms).expect("taken");
                }
            }
            for root in rotate::roots(&node.pki).expect("opens") {
                let held = node.bundle.crl(&root.id()).map(|crl| (crl.number, crl.this_update_ms));
                if held.is_none_or(|(_, at_ms)| now_ms >= at_ms + 100 * DAY_MS) {
                    let number = ca.registry.next_crl(true, held.map_or(0, |(n, _)| n), now_ms).expect("written");
                    let der = root.crl(&ca.registry.root_revoked(), number, now_ms).expect("made");
                    node.bundle.take(&crl_object(root.id(), number, der), now_ms).expect("taken");
                }
            }
        }
        self.talk();
    }

    /// A CA that has no certificate, whose next key waits, or whose certificate ends within a year asks central.
    fn certify_ca(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let node = &self.nodes[at];
        let Some(ca) = &node.ca else { return };
        let waits = node.pki.join(rotate::CA_KEY_NEXT).exists();
        let csr = match &ca.authority {
            _ if waits => rotate::ca_begin(&node.pki),
            Some(authority) if authority.not_after_ms() > now_ms + CA_RENEW_MS => return,
            None if !ca.csr_wanted => return,
            _ => Authority::request(&node.pki),
        };
        let request = renew::authority_request(&node.keys, csr.expect("a key")).expect("signed");
        let root = Root::open(&self.nodes[0].pki).expect("opens");
        let central = &mut self.nodes[0];
        let trust = central.bundle.trust().expect("roots");
        let registry = &mut central.ca.as_mut().expect("a CA").registry;
        let (certificate, _) = renew::certify(registry, root.as_ref(), &trust, &request, now_ms).expect("certified");
        central.bundle.take(&authority_object(&certificate), now_ms).expect("taken");
        self.talk();
        let node = &mut self.nodes[at];
        let taken_up = rotate::ca_switch(&node.pki, std::slice::from_ref(&certificate)).expect("switches");
        if !taken_up {
            let key = Authority::waiting(&node.pki)
                .expect("reads")
                .or_else(|| authority::stated(&node.pki, node.bundle.zone()).map(|(id, _)| id));
            let before = authority::shown(&node.pki);
            let shown = rotate::shown(&node.bundle, &key.expect("a CA"), &before, 3, now_ms);
            Authority::install(&node.pki, &shown).expect("fits");
        }
        node.ca.as_mut().expect("a CA").authority = Some(Authority::open(&node.pki).expect("opens"));
    }

    /// Every node renews what is due, at whoever certifies its name now.
    fn renew_all(&mut self) {
        let now_ms = self.now_ms;
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            let trust = node.bundle.trust().expect("roots");
            let own = trust.issuer_of(node.keys.chain()).expect("issued").key;
            let other = node.bundle.closest(&node.name, now_ms).is_some_and(|ca| ca.key != own);
            if now_ms < renew::due_ms(node.keys.identity()) && !other {
                continue;
            }
            let next = keystore::stage(&node.pki, "renewal").expect("a key");
            let request = renew::request(&node.keys, &next).expect("signed");
            let holder = self.holder(&self.nodes[at].name);
            let granted = {
                let ca = &mut self.nodes[holder];
                let trust = ca.bundle.trust().expect("roots");
                let Ca { authority, registry, .. } = ca.ca.as_mut().expect("a CA");
                let authority = authority.as_ref().expect("certified");
                // Asked twice, as when the answer is lost.
                let once = renew::answer(registry, authority, &ca.bundle, &trust, &request, "test", now_ms);
                let twice = renew::answer(registry, authority, &ca.bundle, &trust, &request, "test", now_ms);
                assert_eq!(once, twice, "the same key gets the same certificate");
                once.unwrap_or_else(|cause| panic!("{}: {cause}", self.nodes[at].name))
            };
            assert!(matches!(granted, Answer::Granted(_)));
            let node = &mut self.nodes[at];
            let chain = renew::accept(&node.keys, &next, &trust, granted, now_ms).expect("accepted");
            keystore::commit_staged(&node.pki, &chain).expect("in use");
            node.keys = NodeKeys::load(&node.pki).expect("loads");
            node.renewals += 1;
        }
        for node in &mut self.nodes {
            let trust = node.bundle.trust().expect("roots");
            let issuer = trust.issuer_of(node.keys.chain()).expect("issued").key;
            let before: Vec<CertificateDer<'static>> = node.keys.chain()[1..].to_vec();
            let shown = rotate::shown(&node.bundle, &issuer, &before, CHAIN_CERTIFICATES - 1, now_ms);
            if shown != before {
                node.keys = node.keys.show(&node.pki, &shown).expect("written");
            }
        }
    }

    /// Both ends of every link accept each other now.
    fn check_links(&self) {
        for node in &self.nodes {
            let Some(parent) = node.parent.map(|at| &self.nodes[at]) else { continue };
            for (one, other) in [(node, parent), (parent, node)] {
                let admitted = one.bundle.trust().expect("roots").admit(other.keys.chain(), self.now_ms);
                let day = (self.now_ms - BEGIN_MS) / DAY_MS;
                let accepted =
                    admitted.unwrap_or_else(|why| panic!("day {day}: {} refuses {}: {why}", one.name, other.name));
                assert_eq!(accepted.peer.id, other.keys.identity().id);
            }
            assert!(node.bundle.stale(self.now_ms).is_empty(), "{}: {:?}", node.name, node.bundle.stale(self.now_ms));
        }
    }

    /// Nodes whose certificate is still of one of this node's old CA keys.
    fn stragglers(&self, at: usize) -> Vec<String> {
        let old: Vec<Sha256> = rotate::ca_old(&self.nodes[at].pki).expect("opens").iter().map(Authority::id).collect();
        let of_old = |node: &&Node| {
            let issuer = node.bundle.trust().expect("roots").issuer_of(node.keys.chain()).map(|ca| ca.key);
            issuer.is_some_and(|issuer| old.contains(&issuer))
        };
        self.nodes.iter().filter(of_old).map(|node| node.name.to_string()).collect()
    }
}

#[test]
fn a_three_tier_overlay_lives_ten_years_with_no_manual_act_but_the_planned_exchange_of_ca_keys() {
    let mut world = World::new();
    world.look_after_cas();
    let authorities: BTreeMap<NodeName, Scope> = world
        .nodes
        .iter()
        .filter_map(|node| Some((node.name.clone(), node.ca.as_ref()?.authority.as_ref()?.scope().clone())))
        .collect();
    assert_eq!(authorities.len(), 3, "central and both provinces certify");
    for day in (0..YEARS * 365 + 3).step_by(STEP_DAYS) {
        world.now_ms = BEGIN_MS + day * DAY_MS;
        // Planned: central's CA key in the fourth year, a province's in the seventh.
        for (at, planned) in [(0, 3 * 365 + 100), (1, 6 * 365 + 100)] {
            if (planned..planned + STEP_DAYS as u64).contains(&day) {
                rotate::ca_begin(&world.nodes[at].pki).expect("a next key");
            }
            if day > planned && !rotate::ca_old(&world.nodes[at].pki).expect("opens").is_empty() {
                let (behind, now_ms) = (world.stragglers(at), world.now_ms);
                let all_moved = behind.is_empty();
                let Node { pki, bundle, ca, .. } = &mut world.nodes[at];
                let registry = &mut ca.as_mut().expect("a CA").registry;
                let finished = rotate::ca_finish(pki, bundle, registry, behind, now_ms);
                assert_eq!(finished.is_ok(), all_moved, "{finished:?}");
            }
        }
        world.look_after_cas();
        world.renew_all();
        world.check_links();
        if day % 30 == 0 {
            for node in &mut world.nodes {
                node.bundle.prune(world.now_ms);
            }
        }
    }
    for node in &world.nodes {
        // 60 days or so each, and again at the exchanges.
        assert!((55..75).contains(&node.renewals), "{}: {}", node.name, node.renewals);
        assert!(node.bundle.have().len() < 40, "what has ended is forgotten: {}", node.bundle.have().len());
        NodeKeys::load(&node.pki).expect("what is on the disk is whole");
    }
}
