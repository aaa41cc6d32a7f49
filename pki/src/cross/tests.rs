use super::*;
use crate::authority::Authority;
use crate::crl::Reason;
use crate::enrol::offline::root_fingerprint;
use crate::fixtures::{self, NOW_MS, Tree, authority_object, list_of};
use crate::keystore::{self, NodeKeys};
use crate::pins::Pins;
use tram_proto::statement::{Kind, Signed};

const DAY_MS: u64 = crate::clock::DAY_MS;

fn name(text: &str) -> NodeName {
    text.parse().expect("name")
}

/// A province that began alone, ten days before.
struct Alone {
    dir: tempfile::TempDir,
    bundle: Bundle,
    registry: Registry,
    keys: NodeKeys,
    /// Of its district.
    chain: Vec<CertificateDer<'static>>,
}

const BEGUN_MS: u64 = NOW_MS - 10 * DAY_MS;

impl Alone {
    fn new(zone: &str, apex: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = dir.path().join("pki");
        let keys =
            keystore::found_province(&pki, &zone.parse().expect("zone"), &name(apex), BEGUN_MS).expect("founded");
        let bundle = Bundle::load(&pki).expect("loads").0;
        let registry = Registry::open(&pki).expect("opens");
        let mut alone = Self { dir, bundle, registry, keys, chain: Vec::new() };
        let authority = alone.authority();
        alone.take(&authority_object(authority.certificate()));
        alone.list();
        let root = alone.root().crl(&[], 1, BEGUN_MS).expect("made");
        alone.take(&fixtures::crl_object(alone.root().id(), 1, root));
        alone.chain = alone.issue(&format!("ninh-kieu.{apex}"));
        alone
    }

    fn pki(&self) -> std::path::PathBuf {
        self.dir.path().join("pki")
    }

    fn authority(&self) -> Authority {
        Authority::open(&self.pki()).expect("opens")
    }

    fn root(&self) -> Root {
        Root::open(&self.pki()).expect("opens").expect("its key is there")
    }

    fn take(&mut self, object: &Object) {
        assert_eq!(self.bundle.take(object, NOW_MS), Ok(true));
    }

    fn list(&mut self) {
        let number = self.registry.next_crl(false, 0, NOW_MS).expect("written");
        self.take(&list_of(&self.authority(), &self.registry, number, BEGUN_MS + number));
    }

    fn issue(&mut self, of: &str) -> Vec<CertificateDer<'static>> {
        let authority = self.authority();
        let subject = fixtures::subject(of);
        let issued =
            authority.issue(&LeafKey::of(&fixtures::key()).expect("P-256"), &subject, BEGUN_MS).expect("issued");
        self.registry.renewed(&subject, &issued, "test").expect("written");
        vec![issued.certificate, authority.certificate().clone()]
    }

    fn request(&self) -> Parcel {
        request(&self.bundle, self.keys.chain(), NOW_MS).expect("a request").0
    }

    fn asked(&self) -> Asked {
        let read = Parcel::read(self.request().to_text().as_bytes()).expect("reads");
        Asked::read(&read, NOW_MS).expect("holds")
    }
}

/// Central's answer, as it is written and read.
fn answer(tree: &mut Tree, asked: &Asked) -> Parcel {
    asked.check(&tree.bundle, &[], NOW_MS).expect("fits");
    let (_, parcel) = asked.sign(&tree.root, &mut tree.bundle, NOW_MS).expect("signed");
    Parcel::read(parcel.to_text().as_bytes()).expect("reads")
}

fn accept(alone: &Alone, parcel: &Parcel) -> Result<Vec<Object>, CrossError> {
    let (answered, chain) = (Answered::read(parcel, &alone.bundle)?, alone.keys.chain());
    answered.accept(&alone.root(), &alone.bundle, chain, NOW_MS)
}

fn refused(parcel: &Parcel) -> String {
    Asked::read(parcel, NOW_MS).expect_err("refused").to_string()
}

#[test]
fn a_province_comes_under_another_root_and_nothing_is_issued_anew() {
    let (mut tree, mut alone) = (Tree::new(), Alone::new("tram.internal", "can-tho"));
    let district = alone.chain.clone();
    let mut pins = Pins::default();
    let old = alone.bundle.trust().expect("roots");
    let accepted = old.admit(&district, NOW_MS).expect("in its own overlay");
    pins.check(accepted.peer.id, &accepted.issuer.scope, &old).expect("first met");
    assert!(tree.trust().admit(&district, NOW_MS).is_err());
    let signature = alone.keys.signer().sign_batch(&[(Kind::Receipt, b"arrived")]).expect("signed").remove(0);
    let statement = Signed { statement: (&b"arrived"[..]).into(), signature };

    let (asked, own) = (alone.asked(), request(&alone.bundle, alone.keys.chain(), NOW_MS).expect("a request").1);
    assert_eq!(asked.fingerprint(NOW_MS), own.fingerprint(NOW_MS), "both see the same");
    let parcel = answer(&mut tree, &asked);
    // Everyone in the large overlay believes it, from its first day on, before a link is up.
    let trust = tree.trust();
    for chain in [&district, &alone.keys.chain().to_vec()] {
        let accepted = trust.admit(chain, NOW_MS).expect("central's root vouches");
        assert_eq!(accepted.issuer.scope, Scope::From(name("can-tho")));
        trust.author(chain, BEGUN_MS).expect("and for what was signed before");
    }
    trust.verify_statement(Kind::Receipt, &statement, alone.keys.chain(), BEGUN_MS).expect("signed alone");

    let objects = accept(&alone, &parcel).expect("accepted");
    // A district that was off meets what any neighbour holds, in the worst order, until nothing is new.
    let mut absent = alone.bundle.clone();
    for object in &objects {
        alone.bundle.take(object, NOW_MS).expect("taken");
    }
    assert_eq!(alone.bundle.roots(), tree.bundle.roots());
    for _ in 0..3 {
        for item in alone.bundle.have().into_iter().rev() {
            let _ = absent.take(&alone.bundle.object(item.key).expect("there"), NOW_MS);
        }
    }
    assert_eq!(absent.have(), alone.bundle.have());
    let trust = alone.bundle.trust().expect("roots");
    let accepted = trust.admit(&district, NOW_MS).expect("as before");
    pins.check(accepted.peer.id, &accepted.issuer.scope, &trust).expect("the same CA");
    trust.admit(tree.central.keys().chain(), NOW_MS).expect("central is believed");
    // Central and all others take the handover too, and their roots stay.
    let (roots, handover) = (tree.bundle.roots().to_vec(), &objects[0]);
    assert_eq!(tree.bundle.take(handover, NOW_MS), Ok(true));
    assert_eq!((tree.bundle.roots(), tree.bundle.handovers().count()), (&roots[..], 1));
    // On disk as in memory; also when the power went before root.pem was written.
    let root_pem = std::fs::read(alone.pki().join(keystore::ROOT_PEM)).expect("there");
    alone.bundle.save(&alone.pki()).expect("written");
    for pem in [std::fs::read(alone.pki().join(keystore::ROOT_PEM)).expect("there"), root_pem] {
        std::fs::write(alone.pki().join(keystore::ROOT_PEM), pem).expect("written");
        let (read, _) = Bundle::load(&alone.pki()).expect("loads");
        assert_eq!((read.roots(), read.have()), (alone.bundle.roots(), alone.bundle.have()));
        assert_eq!(NodeKeys::load(&alone.pki()).expect("loads").chain(), alone.keys.chain());
    }
    alone.bundle.save(&alone.pki()).expect("written");
    settle(&alone.pki(), &mut alone.registry, "lan", NOW_MS).expect("set aside");
    assert!(Root::open(&alone.pki()).expect("opens").is_none() && alone.pki().join(ROOT_KEY_ALONE).exists());
}

#[test]
fn a_province_taken_in_follows_the_next_root_and_keeps_its_names() {
    let (mut tree, mut alone) = (Tree::new(), Alone::new("tram.internal", "can-tho"));
    let parcel = answer(&mut tree, &alone.asked());
    for object in accept(&alone, &parcel).expect("accepted") {
        let _ = tree.bundle.take(&object, NOW_MS);
        alone.bundle.take(&object, NOW_MS).expect("taken");
    }
    let absent = Alone::new("tram.internal", "can-tho").bundle;
    let dir = tree.central.dir().to_owned();
    let (bundle, registry) = (&mut tree.bundle, &mut tree.registry);
    crate::rotate::begin(&dir, bundle, registry, "lan", NOW_MS).expect("begun");
    crate::rotate::switch(&dir, bundle, registry, "lan", NOW_MS).expect("switched");
    crate::rotate::finish(&dir, bundle, registry, Vec::new(), "lan", NOW_MS).expect("finished");
    assert_eq!(bundle.handovers().count(), 1, "for who missed both");
    bundle.trust().expect("roots").admit(&alone.chain, NOW_MS).expect("the next root vouches as well");
    let mut behind = Bundle::new(vec![alone.root().certificate().clone()]).expect("a root");
    for _ in 0..2 {
        for item in tree.bundle.have() {
            let _ = behind.take(&tree.bundle.object(item.key).expect("there"), NOW_MS);
        }
    }
    assert_eq!(behind.have(), tree.bundle.have());
    // One of another overlay hears of it and changes nothing.
    let mut stranger = absent;
    let before = stranger.have();
    for item in tree.bundle.have() {
        assert!(stranger.take(&tree.bundle.object(item.key).expect("there"), NOW_MS).is_err());
    }
    assert_eq!(stranger.have(), before);

    // Its next CA certificate is for the same names.
    let csr = crate::rotate::ca_begin(&alone.pki()).expect("a key");
    let request = crate::renew::authority_request(&alone.keys, csr).expect("signed");
    let (trust, root) = (tree.bundle.trust().expect("roots"), Root::open(&dir).expect("opens"));
    let certified = crate::renew::certify(&mut tree.registry, root.as_ref(), &trust, &request, NOW_MS);
    assert_eq!(certified.expect("certified").1, Scope::From(name("can-tho")));
}

#[test]
fn a_file_that_does_not_hold_is_refused() {
    let alone = Alone::new("tram.internal", "can-tho");
    let (good, other) = (alone.request(), Alone::new("tram.internal", "can-tho").request());
    // Foreign: the root of one and the rest of another; no province's certificate; a bundle; a node of central's.
    let certificates = vec![good.certificates[0].clone(), other.certificates[1].clone()];
    let text = refused(&Parcel { certificates, ..good.clone() });
    assert!(text.contains("the certificate of the province in it is not accepted"), "{text}");
    let certificates = vec![other.certificates[0].clone(), good.certificates[1].clone()];
    let text = refused(&Parcel { certificates, ..good.clone() });
    assert!(text.contains("no trusted root signed this CA"), "{text}");
    assert!(refused(&Parcel::of(&alone.bundle)).contains("join-overlay request"));
    let tree = Tree::new();
    let text = request(&tree.bundle, tree.central.keys().chain(), NOW_MS).expect_err("an overlay").to_string();
    assert!(text.contains("tramd init --role province"), "{text}");
    // Altered: every object in turn.
    for at in 0..good.objects.len() {
        let mut altered = good.clone();
        let mut bytes = altered.objects[at].content.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        altered.objects[at].content = bytes.into();
        refused(&altered);
    }
    // Its district asks, and one whose certificate has ended.
    let mut certificates = good.certificates.clone();
    certificates[1] = alone.chain[0].clone();
    assert!(refused(&Parcel { certificates, ..good.clone() }).contains("ninh-kieu.can-tho cannot come under"));
    let late = Asked::read(&good, NOW_MS + 90 * DAY_MS).expect_err("expired").to_string();
    assert!(late.contains("expired"), "{late}");
    // Its root vouches for names outside.
    let mut spread = alone.bundle.clone();
    let key = LeafKey::of(&fixtures::key()).expect("P-256");
    for scope in [Scope::Below(name("an-giang")), Scope::Overlay] {
        let certificate = alone.root().certify(&key, &scope, NOW_MS).expect("made");
        spread.take(&authority_object(&certificate), NOW_MS).expect("taken");
        let text = refused(&{
            let mut parcel = Parcel::of(&spread);
            parcel.certificates.push(alone.keys.chain()[0].clone());
            parcel
        });
        assert!(text.contains("does not lie within its names"), "{text}");
    }
}

#[test]
fn what_would_clash_is_refused_and_named() {
    let (mut tree, alone) = (Tree::new(), Alone::new("tram.internal", "can-tho"));
    let asked = alone.asked();
    let refused = |tree: &Tree, nodes: &[(NodeName, NodeId)], what: &str| {
        let text = asked.check(&tree.bundle, nodes, NOW_MS).expect_err(what).to_string();
        assert!(text.contains(what), "{text}");
    };
    let id = NodeId([9; 16]);
    refused(&tree, &[(name("an-giang"), id), (name("phong-dien.can-tho"), id)], "already: phong-dien.can-tho.");
    refused(&tree, &[(name("can-tho"), id)], "already: can-tho.");
    refused(&tree, &[(name("an-giang"), asked.peer.id)], "is that of an-giang");
    asked.check(&tree.bundle, &[(name("can-tho"), asked.peer.id), (name("xcan-tho"), id)], NOW_MS).expect("no clash");
    // The same key as another CA's, the same names as another CA, and a CA that was revoked.
    let key = LeafKey::of_spki(&asked.authorities(NOW_MS)[0].0.spki).expect("P-256");
    for (scope, what) in [
        (Scope::Below(name("an-giang")), "its CA key is that of the CA of an-giang"),
        (Scope::Overlay, "its CA key is that of the CA of the overlay"),
    ] {
        let mut tree = Tree::new();
        tree.take_authority(&tree.root.certify(&key, &scope, NOW_MS).expect("made"));
        refused(&tree, &[], what);
    }
    {
        let mut tree = Tree::new();
        tree.province("can-tho", NOW_MS);
        refused(&tree, &[], "the CA of can-tho is here already");
    }
    let _ = answer(&mut tree, &asked);
    asked.check(&tree.bundle, &[], NOW_MS).expect("the answer was lost: once more");
    let count = tree.bundle.authorities().count();
    let _ = answer(&mut tree, &asked);
    assert_eq!(tree.bundle.authorities().count(), count, "no certificate is made twice");
    let known = tree.bundle.authorities().find(|k| k.ca.scope == Scope::From(name("can-tho"))).expect("there");
    let (serial, scope) = (vec![known.serial.clone()], known.ca.scope.clone());
    tree.registry.revoke_authority(&serial, &scope, Reason::KeyCompromise, "lan", NOW_MS).expect("noted");
    tree.list_root(NOW_MS + 1000);
    refused(&tree, &[], "the CA of can-tho was revoked");
    let other = Alone::new("tram.elsewhere", "can-tho").asked();
    assert!(matches!(other.check(&Tree::new().bundle, &[], NOW_MS), Err(CrossError::Zone { .. })));
}

#[test]
fn a_ca_that_the_province_itself_revoked_is_not_vouched_for() {
    let mut alone = Alone::new("tram.internal", "can-tho");
    let key = LeafKey::of(&fixtures::key()).expect("P-256");
    let certificate = alone.root().certify(&key, &Scope::From(name("can-tho")), BEGUN_MS).expect("made");
    alone.take(&authority_object(&certificate));
    let known = alone.bundle.authorities().find(|known| known.der == certificate).expect("there");
    let revoked = crate::crl::Revoked { serial: known.serial.clone(), at_ms: BEGUN_MS, reason: Reason::KeyCompromise };
    let list = alone.root().crl(&[revoked], 2, BEGUN_MS).expect("made");
    alone.take(&fixtures::crl_object(alone.root().id(), 2, list));
    let mut tree = Tree::new();
    let parcel = answer(&mut tree, &alone.asked());
    assert!(tree.bundle.authorities().all(|known| known.ca.key != key.hash()));
    let _ = accept(&alone, &parcel).expect("accepted");
}

#[test]
fn nobody_takes_a_province_over_with_an_answer_of_his_own() {
    let (mut tree, mut alone) = (Tree::new(), Alone::new("tram.internal", "can-tho"));
    let asked = alone.asked();
    let parcel = answer(&mut tree, &asked);
    // As it comes, without the province's signature, nobody takes it.
    let half = parcel.objects.last().expect("the handover").clone();
    for bundle in [&mut alone.bundle, &mut tree.bundle] {
        assert!(matches!(bundle.take(&half, NOW_MS), Err(ObjectError::Unsigned(_))));
    }
    // With the signature of another root than the province's; or not of the root it names.
    let signed = SignedHandover::decode(half.content.clone()).expect("reads");
    let wrong = [
        SignedHandover { by_old: tree.root.sign_handover(&signed.body).expect("signed"), ..signed.clone() },
        SignedHandover {
            by_old: alone.root().sign_handover(&signed.body).expect("signed"),
            by_new: half.content.slice(..70),
            ..signed.clone()
        },
    ];
    for wrong in wrong {
        let object = Object { content: wrong.encode(), ..half.clone() };
        assert!(matches!(alone.bundle.take(&object, NOW_MS), Err(ObjectError::Unsigned(_))));
    }
    // Another overlay's answer has another fingerprint, which is what the person compares.
    let mut thief = Tree::new();
    let forged = answer(&mut thief, &asked);
    let root = |parcel: &Parcel| root_fingerprint(&Answered::read(parcel, &alone.bundle).expect("reads").root());
    assert_eq!(root(&parcel), root_fingerprint(tree.root.certificate()));
    assert_ne!(root(&parcel), root(&forged));
    // Altered: another body, a signature that does not fit, objects of another overlay, another province's answer.
    let spoil = |change: &dyn Fn(&mut Handover)| {
        let mut handover = Handover::decode(signed.body.clone()).expect("reads");
        change(&mut handover);
        let content = SignedHandover { body: handover.encode(), ..signed.clone() }.encode();
        let mut spoilt = parcel.clone();
        spoilt.objects.last_mut().expect("the handover").content = content;
        spoilt
    };
    let thiefs: bytes::Bytes = thief.root.certificate().to_vec().into();
    for spoilt in [spoil(&|h| h.new = thiefs.clone()), spoil(&|h| h.at_ms += 1), spoil(&|h| h.name = name("an-giang"))]
    {
        let text = accept(&alone, &spoilt).expect_err("altered").to_string();
        assert!(text.contains("has not signed it"), "{text}");
    }
    let mut mixed = parcel.clone();
    mixed.objects.insert(0, thief.bundle.object(thief.bundle.have()[0].key).expect("there"));
    assert!(accept(&alone, &mixed).is_err());
    let other = Alone::new("tram.internal", "an-giang");
    assert!(matches!(accept(&other, &parcel), Err(CrossError::Other(_))));
    // A CA key that came into use after the request.
    let key = LeafKey::of(&fixtures::key()).expect("P-256");
    let late = alone.root().certify(&key, &Scope::From(name("can-tho")), NOW_MS).expect("made");
    let kept = alone.bundle.clone();
    alone.take(&authority_object(&late));
    assert!(matches!(accept(&alone, &parcel), Err(CrossError::Late)));
    alone.bundle = kept;
    accept(&alone, &parcel).expect("and the true one is taken");
}

#[test]
fn a_handover_is_no_list_of_roots() {
    let (mut tree, alone) = (Tree::new(), Alone::new("tram.internal", "can-tho"));
    let parcel = answer(&mut tree, &alone.asked());
    let mut object = accept(&alone, &parcel).expect("accepted").remove(0);
    object.item.key = ObjectKey::Roots;
    assert!(tree.bundle.take(&object, NOW_MS).is_err());
    object.item.key = ObjectKey::Handover([1; 32]);
    assert_eq!(tree.bundle.take(&object, NOW_MS), Err(ObjectError::Misnamed));
}
