use super::*;
use crate::authority::LEAF_MS;
use crate::clock::DAY_MS;
use crate::crl::{Reason, Revoked};
use crate::fixtures::{NOW_MS, Tree};
use crate::keystore::{NodeKeys, load_trust};
use crate::registry::TOKEN_MS;
use crate::statement::StatementError;
use crate::trust::{ChainError, Trust};
use tram_proto::id::NodeId;
use tram_proto::statement::{Kind, Signed};

fn steps(tree: &mut Tree) -> (&Path, &mut Bundle, &mut Registry) {
    (tree.central.dir(), &mut tree.bundle, &mut tree.registry)
}

#[test]
fn a_root_is_exchanged_step_by_step_and_no_step_twice() {
    let mut tree = Tree::new();
    let mut province = tree.province("can-tho", NOW_MS);
    let chain = province.issue("ninh-kieu.can-tho", NOW_MS);
    let (absent, old) = (tree.bundle.clone(), tree.root.certificate().clone());
    let (dir, bundle, registry) = steps(&mut tree);
    assert!(matches!(switch(dir, bundle, registry, "lan", NOW_MS), Err(RotateError::Stage { .. })));
    let begun = begin(dir, bundle, registry, "lan", NOW_MS).expect("begun");
    assert_eq!(begun.len(), 4, "the list, two CAs, the new root's revocation list");
    assert_eq!((stage(dir), bundle.roots().len()), (Stage::Begun, 2));
    assert_eq!(bundle.roots()[0], old, "tokens name the old one");
    assert!(matches!(begin(dir, bundle, registry, "lan", NOW_MS), Err(RotateError::Stage { .. })));
    switch(dir, bundle, registry, "lan", NOW_MS + TOKEN_MS).expect("switched");
    assert_eq!((stage(dir), bundle.roots()[1].clone()), (Stage::Switched, old.clone()));
    let issuer = province.authority.id();
    let shown = shown(bundle, &issuer, &chain[1..], 3, NOW_MS);
    assert_eq!(shown.len(), 2);
    finish(dir, bundle, registry, Vec::new(), "lan", NOW_MS + TOKEN_MS).expect("finished");
    assert_eq!((stage(dir), bundle.roots().len()), (Stage::None, 1));
    assert_ne!(bundle.roots()[0], old);
    let new = bundle.trust().expect("roots");
    new.admit(&chain, NOW_MS).expect("its leaf was not issued again");
    let (read, left_out) = Bundle::load(dir).expect("loads");
    assert_eq!((read.have(), left_out), (bundle.have(), Vec::new()));
    assert_eq!(Root::open(dir).expect("opens").expect("a key").certificate(), &read.roots()[0]);

    // A node that was away all the time meets one that shows both, learns, and is believed.
    let both: Vec<_> = std::iter::once(chain[0].clone()).chain(shown).collect();
    absent.trust().expect("roots").admit(&both, NOW_MS).expect("by the old root");
    let mut absent = absent;
    for item in bundle.have() {
        absent.take(&bundle.object(item.key).expect("there"), NOW_MS + TOKEN_MS).expect("taken");
    }
    assert_eq!(absent.have(), bundle.have());
}

#[test]
fn row_25_finishing_with_stragglers_is_refused_with_their_names() {
    let mut tree = Tree::new();
    let (dir, bundle, registry) = steps(&mut tree);
    begin(dir, bundle, registry, "lan", NOW_MS).expect("begun");
    switch(dir, bundle, registry, "lan", NOW_MS).expect("switched");
    let names = vec!["can-tho".to_owned(), "an-giang".to_owned()];
    let error = finish(dir, bundle, registry, names, "lan", NOW_MS).expect_err("two are missing").to_string();
    assert!(error.contains("can-tho, an-giang") && error.contains("--abandon"), "{error}");
    assert_eq!((stage(dir), bundle.roots().len()), (Stage::Switched, 2));
}

#[test]
fn a_begin_that_was_broken_off_goes_on_with_the_same_key() {
    let mut tree = Tree::new();
    let before = tree.bundle.clone();
    let (dir, bundle, registry) = steps(&mut tree);
    begin(dir, bundle, registry, "lan", NOW_MS).expect("begun");
    let next = bundle.roots()[1].clone();
    // As if the power had gone before the bundle was saved.
    *bundle = before;
    begin(dir, bundle, registry, "lan", NOW_MS + 1000).expect("begun again");
    assert_eq!(bundle.roots()[1], next);
}

#[test]
fn a_ca_key_is_exchanged_and_the_old_one_goes_on_listing() {
    let mut tree = Tree::new();
    let dir = tree.central.dir().to_owned();
    let old = Authority::open(&dir).expect("opens");
    let csr = ca_begin(&dir).expect("a key");
    assert_eq!(
        LeafKey::from_csr(&csr).map(|k| k.hash()),
        LeafKey::from_csr(&ca_begin(&dir).expect("again")).map(|k| k.hash())
    );
    let key = LeafKey::from_csr(&csr).expect("P-256");
    let certificate = tree.root.certify(&key, old.scope(), NOW_MS + 1000).expect("certified");
    assert!(!ca_switch(&dir, old.certificates()).expect("another key"));
    // The power goes after the certificate was written.
    keystore::write_certificates(&dir.join(CA_PEM_NEXT), std::slice::from_ref(&certificate)).expect("written");
    ca_settle(&dir).expect("ended");
    let new = Authority::open(&dir).expect("opens");
    assert_eq!((new.certificate(), new.id()), (&certificate, key.hash()));
    let left = ca_old(&dir).expect("opens");
    assert_eq!(left.iter().map(Authority::id).collect::<Vec<_>>(), [old.id()]);
    tree.take_authority(&certificate);
    let list = crate::fixtures::list_of(&left[0], &tree.registry, 50, NOW_MS);
    assert_eq!(tree.take(&list), Ok(true));
    let name = "can-tho".parse().expect("name");
    assert_eq!(tree.bundle.closest(&name, NOW_MS).map(|ca| ca.key), Some(new.id()));
    let (bundle, registry) = (&mut tree.bundle, &mut tree.registry);
    let behind = vec!["can-tho".to_owned()];
    let refused = ca_finish(&dir, bundle, registry, behind, NOW_MS);
    assert!(matches!(refused, Err(RotateError::Stragglers(_))));
    assert_eq!(ca_finish(&dir, bundle, registry, Vec::new(), NOW_MS).expect("finished"), 1);
    let last = bundle.crl(&old.id()).expect("a last list");
    assert!(last.next_update_ms >= old.not_after_ms() && last.number > 50);
    assert!(ca_old(&dir).expect("opens").is_empty());
}

const YEAR_MS: u64 = 365 * DAY_MS;

fn signed(keys: &NodeKeys) -> Signed {
    let mut signatures = keys.signer().sign_batch(&[(Kind::Receipt, b"arrived")]).expect("signed");
    Signed { statement: (&b"arrived"[..]).into(), signature: signatures.remove(0) }
}

fn believe(trust: &Trust, keys: &NodeKeys, at_ms: u64) -> Result<(), StatementError> {
    trust.verify_statement(Kind::Receipt, &signed(keys), keys.chain(), at_ms).map(|_| ())
}

/// Central's files ten years later, when the CA has another key and the one of today is forgotten.
fn ten_years_later(tree: &mut Tree) -> Bundle {
    let dir = tree.central.dir().to_owned();
    let later = NOW_MS + 6 * YEAR_MS;
    let csr = ca_begin(&dir).expect("a key");
    let root = Root::open(&dir).expect("opens").expect("a key");
    let scope = tree.central.authority().scope();
    let certificate = root.certify(&LeafKey::from_csr(&csr).expect("P-256"), scope, later).expect("certified");
    assert!(ca_switch(&dir, std::slice::from_ref(&certificate)).expect("its certificate"));
    let new = Authority::open(&dir).expect("opens");
    let list = crate::fixtures::list_of(&new, &tree.registry, 99, later);
    for object in [crate::fixtures::authority_object(&certificate), list] {
        assert_eq!(tree.bundle.take(&object, later), Ok(true));
    }
    tree.bundle.prune(NOW_MS + 10 * YEAR_MS);
    assert_eq!(tree.bundle.authorities().map(|k| k.ca.key).collect::<Vec<_>>(), [new.id()]);
    tree.bundle.save(&dir).expect("written");
    tree.bundle.clone()
}

#[test]
fn what_was_signed_before_a_rotation_is_believed_ten_years_later_from_the_files_alone() {
    let mut tree = Tree::new();
    let province = tree.province("can-tho", NOW_MS);
    let keys = &province.keys;
    let dropped = NOW_MS + 30 * DAY_MS;
    let (dir, bundle, registry) = steps(&mut tree);
    begin(dir, bundle, registry, "lan", dropped).expect("begun");
    switch(dir, bundle, registry, "lan", dropped).expect("switched");
    finish(dir, bundle, registry, Vec::new(), "lan", dropped).expect("finished");
    // At once, by nodes that know the CA under the new root too, but not for that early; and on links by that alone.
    believe(&bundle.trust().expect("roots"), keys, NOW_MS).expect("signed before");
    believe(&bundle.trust().expect("roots"), keys, dropped).expect("the leaf was not issued again");
    bundle.trust().expect("roots").admit(keys.chain(), dropped).expect("the CA is known under the new root");

    let bundle = ten_years_later(&mut tree);
    let trust = load_trust(&tree.central.dir().join(ROOT_PEM)).expect("loads");
    believe(&trust, keys, NOW_MS).expect("signed before");
    believe(&trust, keys, keys.identity().not_after_ms).expect("a leaf lives on with its chain");
    believe(&trust, keys, keys.identity().not_after_ms + 1000).expect_err("expired");
    assert_eq!(trust.revoked(keys.chain()), None);
    let error = trust.admit(keys.chain(), NOW_MS).expect_err("a past root vouches for no link");
    assert!(matches!(error, ChainError::UnknownRoot { .. }), "{error}");
    // A CA that the past root vouched for certifies nothing any more by that.
    for (at_ms, is_believed) in [(dropped - DAY_MS, true), (dropped + DAY_MS, false)] {
        let chain = province.forge("ninh-kieu.can-tho", at_ms);
        assert_eq!(trust.author(&chain, at_ms).is_ok(), is_believed);
    }
    // Who joined later has heard of it with the list.
    let mut newcomer = Bundle::new(bundle.roots().to_vec()).expect("a root");
    believe(&newcomer.trust().expect("roots"), keys, NOW_MS).expect_err("nothing but the new root");
    newcomer.take(&bundle.object(ObjectKey::Roots).expect("a list"), NOW_MS).expect("taken");
    believe(&newcomer.trust().expect("roots"), keys, NOW_MS).expect("signed before");
    // A root brought by hand brings no past.
    newcomer.pin(bundle.roots().to_vec()).expect("of the same zone");
    believe(&newcomer.trust().expect("roots"), keys, NOW_MS).expect_err("nothing but the new root");
    // root.pem alone is what it was.
    std::fs::remove_file(tree.central.dir().join(keystore::BUNDLE_BIN)).expect("removed");
    believe(&load_trust(&tree.central.dir().join(ROOT_PEM)).expect("loads"), keys, NOW_MS).expect_err("past");
}

#[test]
fn a_node_whose_power_went_between_the_new_root_and_the_new_chain_starts_again() {
    let mut tree = Tree::new();
    let dir = tree.central.dir().to_owned();
    let chain = NodeKeys::load(&dir).expect("loads").chain().to_vec();
    let (_, bundle, registry) = steps(&mut tree);
    at_once(&dir, bundle, registry, false, "lan", NOW_MS).expect("exchanged");
    assert_eq!(NodeKeys::load(&dir).expect("loads").chain(), chain);
}

#[test]
fn a_signer_revoked_since_is_told_apart_also_by_later_keys_and_roots() {
    let mut tree = Tree::new();
    let province = tree.province("can-tho", NOW_MS);
    let keys = &province.keys;
    let at = |days: u64| NOW_MS + days * DAY_MS;
    let (dir, bundle, registry) = steps(&mut tree);
    begin(dir, bundle, registry, "lan", at(1)).expect("begun");
    switch(dir, bundle, registry, "lan", at(1)).expect("switched");
    finish(dir, bundle, registry, Vec::new(), "lan", at(1)).expect("finished");
    let own = NodeId([0; 16]);
    tree.registry.revoke("can-tho", Reason::Retired, own, "lan", at(60)).expect("known");
    ten_years_later(&mut tree);
    let trust = load_trust(&tree.central.dir().join(ROOT_PEM)).expect("loads");
    believe(&trust, keys, NOW_MS).expect("valid then");
    let revoked = trust.revoked(keys.chain()).expect("told apart");
    assert_eq!((revoked.at_ms, revoked.reason), (at(60), Reason::Retired));
}

#[test]
fn a_ca_revoked_before_a_rotation_or_after_it_is_told_apart() {
    for after in [false, true] {
        let mut tree = Tree::new();
        let mut province = tree.province("can-tho", NOW_MS);
        let chain = province.issue("ninh-kieu.can-tho", NOW_MS);
        let revoke = |tree: &mut Tree| {
            let of_it: Vec<_> =
                tree.bundle.authorities().filter(|k| k.ca.key == province.authority.id()).cloned().collect();
            let serials: Vec<Vec<u8>> = of_it.iter().map(|known| known.serial.clone()).collect();
            let scope = of_it[0].ca.scope.clone();
            tree.registry.revoke_authority(&serials, &scope, Reason::KeyCompromise, "lan", NOW_MS).expect("noted");
        };
        if !after {
            revoke(&mut tree);
            tree.list_root(NOW_MS);
        }
        let (dir, bundle, registry) = steps(&mut tree);
        begin(dir, bundle, registry, "lan", NOW_MS).expect("begun");
        switch(dir, bundle, registry, "lan", NOW_MS).expect("switched");
        finish(dir, bundle, registry, Vec::new(), "lan", NOW_MS).expect("finished");
        if after {
            revoke(&mut tree);
            tree.root = Root::open(tree.central.dir()).expect("opens").expect("a key");
            tree.list_root(NOW_MS + 1000);
        }
        let trust = tree.trust();
        trust.author(&chain, NOW_MS).expect("valid then");
        let reason = trust.revoked(&chain).map(|Revoked { reason, .. }| reason);
        assert_eq!(reason, Some(Reason::KeyCompromise), "after: {after}");
    }
}

#[test]
fn what_only_a_stolen_root_vouches_for_is_not_believed_whatever_its_date() {
    let mut tree = Tree::new();
    let keys = tree.province("can-tho", NOW_MS).keys;
    let later = NOW_MS + LEAF_MS;
    let (dir, bundle, registry) = steps(&mut tree);
    at_once(dir, bundle, registry, false, "lan", later).expect("exchanged");
    assert_eq!(bundle.past(), []);
    let refused = |trust: &Trust| {
        let text = believe(trust, &keys, NOW_MS).expect_err("stolen").to_string();
        assert!(text.contains("its root has been replaced"), "{text}");
    };
    refused(&bundle.trust().expect("roots"));
    ten_years_later(&mut tree);
    refused(&load_trust(&tree.central.dir().join(ROOT_PEM)).expect("loads"));
}

#[test]
fn an_older_root_that_was_stolen_is_struck_from_the_past() {
    for and_past in [false, true] {
        let mut tree = Tree::new();
        let keys = tree.province("can-tho", NOW_MS).keys;
        let later = NOW_MS + LEAF_MS;
        let (dir, bundle, registry) = steps(&mut tree);
        begin(dir, bundle, registry, "lan", later).expect("begun");
        switch(dir, bundle, registry, "lan", later).expect("switched");
        finish(dir, bundle, registry, Vec::new(), "lan", later).expect("finished");
        assert_eq!(bundle.past().len(), 1);
        at_once(dir, bundle, registry, and_past, "lan", later + 1000).expect("exchanged");
        assert_eq!(bundle.past().len(), usize::from(!and_past));
        assert_eq!(believe(&bundle.trust().expect("roots"), &keys, NOW_MS).is_err(), and_past);
    }
}

#[test]
fn past_roots_are_kept_through_further_rotations_and_not_without_end() {
    let mut tree = Tree::new();
    let first = tree.root.certificate().to_vec();
    let (dir, bundle, registry) = steps(&mut tree);
    for round in 0..=limits::PAST_ROOTS {
        begin(dir, bundle, registry, "lan", NOW_MS).expect("begun");
        switch(dir, bundle, registry, "lan", NOW_MS).expect("switched");
        finish(dir, bundle, registry, Vec::new(), "lan", NOW_MS).expect("finished");
        assert_eq!(bundle.past().len(), limits::PAST_ROOTS.min(round + 1));
        let oldest = bundle.past().last().map(|past| past.certificate.to_vec());
        assert_eq!(oldest == Some(first.clone()), round < limits::PAST_ROOTS);
    }
}

#[test]
fn a_stolen_root_is_exchanged_at_once() {
    let mut tree = Tree::new();
    let old = tree.root.certificate().clone();
    let (dir, bundle, registry) = steps(&mut tree);
    at_once(dir, bundle, registry, false, "lan", NOW_MS).expect("exchanged");
    assert!(!bundle.roots().contains(&old) && !dir.join(ROOT_KEY_OLD).exists());
    // Who was not linked takes the new root by hand, whatever has been signed with the old one.
    let mut alone = Bundle::new(vec![old]).expect("a root");
    alone.pin(bundle.roots().to_vec()).expect("of the same zone");
    assert_eq!(alone.take(&bundle.object(ObjectKey::Roots).expect("a list"), NOW_MS), Ok(true));
}
