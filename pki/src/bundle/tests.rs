use bytes::Bytes;
use tram_proto::pki::Item;

use super::*;
use crate::authority::{Root, unsigned_list};
use crate::clock::BACKDATE_MS;
use crate::crl::{Reason, Revoked};
use crate::fixtures::{self, NOW_MS, Tree, authority_object, crl_object};
use crate::policy::PolicyError;
use crate::trust::ChainError;

const OWN: tram_proto::id::NodeId = tram_proto::id::NodeId([0; 16]);

fn roots_object(version: u64, roots: &[&Root], signers: &[&Root], zone: &Zone) -> Object {
    let certificates: Vec<CertificateDer<'static>> = roots.iter().map(|root| root.certificate().clone()).collect();
    let mut list = unsigned_list(zone, version, &certificates, Vec::new(), NOW_MS);
    signers.iter().for_each(|root| root.sign(&mut list).expect("signed"));
    Object { item: Item { key: ObjectKey::Roots, version }, content: list.encode() }
}

#[test]
fn a_bundle_reads_back_from_its_file_and_from_its_objects() {
    let mut tree = Tree::new();
    tree.province("can-tho", NOW_MS);
    tree.bundle.save(tree.central.dir()).expect("written");
    let (read, left_out) = Bundle::load(tree.central.dir()).expect("read");
    assert!(left_out.is_empty(), "{left_out:?}");
    assert_eq!(read.have(), tree.bundle.have());
    assert_eq!(read.have().len(), 5, "two CAs and three lists");
    let mut other = Bundle::new(read.roots().to_vec()).expect("a root");
    // Lists before the CAs they are of are refused, and taken when they come again.
    let mut items = read.have();
    items.reverse();
    for _ in 0..2 {
        for item in &items {
            let _ = other.take(&read.object(item.key).expect("there"), NOW_MS);
        }
    }
    assert_eq!(other.have(), read.have());
}

#[test]
fn a_bundle_file_cut_anywhere_keeps_what_came_before() {
    let mut tree = Tree::new();
    tree.province("can-tho", NOW_MS);
    tree.bundle.save(tree.central.dir()).expect("written");
    let whole = std::fs::read(tree.central.dir().join(BUNDLE_BIN)).expect("read");
    let mut kept = 0;
    for end in (0..whole.len()).step_by(7) {
        let read: Vec<_> = objects(Bytes::copy_from_slice(&whole[..end])).collect();
        let good = read.iter().filter(|object| object.is_ok()).count();
        assert!(good >= kept && read.len() <= good + 1);
        kept = good;
    }
}

/// Tries the certificates with these names on the CA of can-tho.
#[test]
fn row_07_a_province_ca_cannot_certify_names_that_are_not_its_own() {
    let mut tree = Tree::new();
    let mut province = tree.province("can-tho", NOW_MS);
    let trust = tree.trust();
    let good = province.issue("ninh-kieu.can-tho", NOW_MS);
    let accepted = trust.admit(&good, NOW_MS).expect("its own");
    assert_eq!(accepted.issuer.scope, Scope::Below("can-tho".parse().expect("name")));
    for name in ["long-xuyen.an-giang", "can-tho", "central", "evil-can-tho", "x.evil-can-tho"] {
        let key = crate::csr::LeafKey::of(&fixtures::key()).expect("P-256");
        let error = province.authority.issue(&key, &fixtures::subject(name), NOW_MS).expect_err(name);
        assert!(matches!(error, crate::authority::AuthorityError::OutOfScope { .. }), "{name}: {error}");
        // A rogue one does not ask itself.
        let chain = province.forge(name, NOW_MS);
        let error = trust.admit(&chain, NOW_MS).expect_err(name);
        assert!(matches!(error, ChainError::Chain(webpki::Error::NameConstraintViolation)), "{name}: {error}");
    }
}

#[test]
fn the_closest_ca_certifies_a_name_from_the_time_on_when_it_is_there() {
    let mut tree = Tree::new();
    let key = crate::csr::LeafKey::of(&fixtures::key()).expect("P-256");
    let of_central = |tree: &Tree, now_ms| {
        let issued = tree.central.issue(&key, "ninh-kieu.can-tho", now_ms);
        tree.central.chain(&issued)
    };
    let before = of_central(&tree, NOW_MS);
    let province = tree.province("can-tho", NOW_MS + 60_000);
    let after = of_central(&tree, NOW_MS + 120_000);
    tree.trust().admit(&before, NOW_MS + 120_000).expect("older than the closer CA");
    let error = tree.trust().admit(&after, NOW_MS + 120_000).expect_err("the CA of can-tho was there");
    assert!(matches!(error, ChainError::Policy(PolicyError::NotClosest { .. })), "{error}");
    let name = "ninh-kieu.can-tho".parse().expect("name");
    assert_eq!(tree.bundle.closest(&name, NOW_MS).map(|ca| ca.key), Some(province.authority.id()));
    // With the province's CA revoked, central certifies again.
    let known = tree.bundle.authorities().find(|k| k.ca.key == province.authority.id()).cloned().expect("known");
    let scope = known.ca.scope.clone();
    tree.registry.revoke_authority(&[known.serial], &scope, Reason::KeyCompromise, "lan", NOW_MS).expect("noted");
    tree.list_root(NOW_MS + 130_000);
    tree.trust().admit(&after, NOW_MS + 140_000).expect("nobody is closer now");
    assert_eq!(tree.bundle.closest(&name, NOW_MS).map(|ca| ca.key), Some(tree.central.authority().id()));
}

#[test]
fn a_revoked_node_is_refused_and_a_revoked_province_with_all_below_it() {
    let mut tree = Tree::new();
    let mut province = tree.province("can-tho", NOW_MS);
    let (good, bad) = (province.issue("cai-rang.can-tho", NOW_MS), province.issue("ninh-kieu.can-tho", NOW_MS));
    let serials = province.registry.revoke("ninh-kieu.can-tho", Reason::Withdrawn, OWN, "lan", NOW_MS).expect("known");
    assert_eq!(serials.len(), 1);
    tree.take(&province.list(NOW_MS)).expect("taken");
    let trust = tree.trust();
    trust.admit(&good, NOW_MS).expect("not revoked");
    let error = trust.admit(&bad, NOW_MS).expect_err("revoked");
    assert!(matches!(&error, ChainError::Revoked { name } if name == "ninh-kieu.can-tho"), "{error}");
    // What it signed before stays signed, and can be told apart.
    trust.verify(&bad, NOW_MS).expect("valid then");
    let revoked = trust.revoked(&bad).expect("on the list");
    assert_eq!((revoked.reason, revoked.at_ms), (Reason::Withdrawn, NOW_MS));
    assert_eq!(trust.revoked(&good), None);

    let known = tree.bundle.authorities().find(|k| k.ca.key == province.authority.id()).cloned().expect("known");
    let scope = known.ca.scope.clone();
    tree.registry.revoke_authority(&[known.serial], &scope, Reason::KeyCompromise, "lan", NOW_MS).expect("noted");
    tree.list_root(NOW_MS + 1000);
    let error = tree.trust().admit(&good, NOW_MS).expect_err("its CA is revoked");
    assert!(matches!(error, ChainError::Revoked { .. }), "{error}");
    assert_eq!(tree.trust().revoked(&good).map(|r| r.reason), Some(Reason::KeyCompromise), "with its CA");
    tree.trust().admit(province.keys.chain(), NOW_MS).expect("the province's own is central's");
}

#[test]
fn row_12_a_list_that_is_old_forged_foreign_or_no_list_changes_nothing() {
    let mut tree = Tree::new();
    let mut province = tree.province("can-tho", NOW_MS);
    let id = province.authority.id();
    let old = province.list(NOW_MS);
    let chain = province.issue("ninh-kieu.can-tho", NOW_MS);
    province.registry.revoke("ninh-kieu.can-tho", Reason::Withdrawn, OWN, "lan", NOW_MS).expect("known");
    let new = province.list(NOW_MS);
    assert_eq!(tree.take(&new), Ok(true));
    let held = tree.bundle.object(new.item.key).expect("held");

    assert_eq!(tree.take(&old), Ok(false), "a lower number");
    assert_eq!(tree.take(&new), Ok(false), "the same again");
    let number = new.item.version;
    let again = province.authority.crl(&[], number, NOW_MS).expect("made");
    assert_eq!(tree.take(&crl_object(id, number, again)), Err(ObjectError::Forked(number)));
    let ahead = province.authority.crl(&[], number + 1, NOW_MS + 2 * BACKDATE_MS + 1000).expect("made");
    assert_eq!(tree.take(&crl_object(id, number + 1, ahead)), Err(CrlError::Ahead.into()));
    let mut forged = province.authority.crl(&[], number + 1, NOW_MS).expect("made");
    *forged.last_mut().expect("not empty") ^= 1;
    assert_eq!(tree.take(&crl_object(id, number + 1, forged)), Err(CrlError::Signature.into()));
    let foreign = tree.central.authority().crl(&[], number + 1, NOW_MS).expect("made");
    assert_eq!(tree.take(&crl_object(id, number + 1, foreign)), Err(CrlError::Signature.into()));
    let good = province.authority.crl(&[], number + 1, NOW_MS).expect("made");
    assert_eq!(tree.take(&crl_object(id, number + 2, good.clone())), Err(ObjectError::Misnamed));
    let trailing = [good.as_slice(), &[0]].concat();
    let certificate = province.authority.certificate().to_vec();
    for bytes in [Vec::new(), b"garbage".to_vec(), good[..good.len() / 2].to_vec(), trailing, certificate] {
        assert_eq!(tree.take(&crl_object(id, number + 1, bytes)), Err(CrlError::Malformed.into()));
    }
    let huge = crl_object(id, number + 1, vec![0x30; limits::OBJECT_BYTES + 1]);
    assert!(matches!(tree.take(&huge), Err(ObjectError::Crl(CrlError::Large(_)))));
    let unknown = crl_object(Sha256([9; 32]), 1, good);
    assert!(matches!(tree.take(&unknown), Err(ObjectError::Unsigned(_))));

    assert_eq!(tree.bundle.object(new.item.key), Some(held), "the last good one is kept");
    tree.trust().admit(&chain, NOW_MS).expect_err("still revoked");
}

#[test]
fn row_13_the_list_with_the_highest_number_counts_in_any_order() {
    let mut tree = Tree::new();
    let mut province = tree.province("can-tho", NOW_MS);
    let chain = province.issue("ninh-kieu.can-tho", NOW_MS);
    let mut lists = vec![province.list(NOW_MS), province.list(NOW_MS)];
    province.registry.revoke("ninh-kieu.can-tho", Reason::Withdrawn, OWN, "lan", NOW_MS).expect("known");
    lists.push(province.list(NOW_MS));
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut bundle = tree.bundle.clone();
        for at in order {
            bundle.take(&lists[at], NOW_MS).expect("good");
        }
        let error = bundle.trust().expect("roots").admit(&chain, NOW_MS).expect_err("revoked");
        assert!(matches!(error, ChainError::Revoked { .. }), "{order:?}: {error}");
    }
}

#[test]
fn row_14_a_missing_list_refuses_and_a_stale_one_alarms() {
    let mut tree = Tree::new();
    let mut province = tree.province("can-tho", NOW_MS);
    let chain = province.issue("ninh-kieu.can-tho", NOW_MS);
    let late = NOW_MS + 60 * DAY_MS;
    tree.trust().admit(&chain, late).expect("a stale list is better than none");
    assert!(tree.bundle.stale(late).iter().any(|(id, since)| *id == province.authority.id() && *since < late));
    assert!(tree.bundle.stale(NOW_MS).is_empty());
    // Without the list of the CA, but with others.
    let mut bundle = Bundle::new(tree.bundle.roots().to_vec()).expect("a root");
    for item in tree.bundle.have().iter().filter(|item| item.key != ObjectKey::Crl(province.authority.id().0)) {
        bundle.take(&tree.bundle.object(item.key).expect("there"), NOW_MS).expect("good");
    }
    let error = bundle.trust().expect("roots").admit(&chain, NOW_MS).expect_err("unknown");
    assert!(matches!(error, ChainError::UnknownStatus { .. }), "{error}");
    assert!(bundle.stale(NOW_MS).contains(&(province.authority.id(), 0)));
    // A node that has just joined, or comes from a release without lists, holds none at all.
    let fresh = Bundle::new(tree.bundle.roots().to_vec()).expect("a root");
    fresh.trust().expect("roots").admit(&chain, NOW_MS).expect("the first link brings them");
}

#[test]
fn row_17_a_clock_that_fell_back_to_1970_keeps_what_was_revoked() {
    let mut tree = Tree::new();
    let mut province = tree.province("can-tho", NOW_MS);
    let chain = province.issue("ninh-kieu.can-tho", NOW_MS);
    province.registry.revoke("ninh-kieu.can-tho", Reason::Withdrawn, OWN, "lan", NOW_MS).expect("known");
    tree.take(&province.list(NOW_MS)).expect("taken");
    tree.bundle.save(tree.central.dir()).expect("written");
    // Reading takes no clock at all.
    let (read, left_out) = Bundle::load(tree.central.dir()).expect("read");
    assert!(left_out.is_empty(), "{left_out:?}");
    let error = read.trust().expect("roots").admit(&chain, NOW_MS).expect_err("revoked");
    assert!(matches!(error, ChainError::Revoked { .. }), "{error}");
    // And a list made by that clock is not ahead of anyone's.
    assert_eq!(tree.bundle.take(&province.list(NOW_MS), 0), Err(CrlError::Ahead.into()));
}

#[test]
fn row_15_a_list_that_is_kept_from_a_node_is_missed() {
    let mut tree = Tree::new();
    let mut province = tree.province("can-tho", NOW_MS);
    let id = province.authority.id();
    let due = tree.bundle.crl(&id).expect("held").next_update_ms;
    let missed = |bundle: &Bundle, now_ms| bundle.stale(now_ms).iter().any(|(of, since)| (*of, *since) == (id, due));
    assert!(!missed(&tree.bundle, due) && missed(&tree.bundle, due + 1));
    // Other lists do not hide it; the next one of that CA ends it.
    tree.list_central(NOW_MS + DAY_MS);
    assert!(missed(&tree.bundle, due + 1));
    assert_eq!(tree.bundle.take(&province.list(NOW_MS + DAY_MS), NOW_MS + DAY_MS), Ok(true));
    assert!(!tree.bundle.stale(due + 1).iter().any(|(of, _)| *of == id));
}

#[test]
fn row_16_a_ca_does_not_revoke_its_own_node() {
    let mut tree = Tree::new();
    let own = tree.central.keys().identity().id;
    let error = tree.registry.revoke("central", Reason::Withdrawn, own, "lan", NOW_MS).expect_err("its own");
    assert!(error.to_string().contains("rotate"), "{error}");
}

#[test]
fn row_31_another_encoding_of_a_revoked_certificate_is_still_revoked() {
    let mut tree = Tree::new();
    let mut province = tree.province("can-tho", NOW_MS);
    let mut chain = province.issue("ninh-kieu.can-tho", NOW_MS);
    province.registry.revoke("ninh-kieu.can-tho", Reason::Withdrawn, OWN, "lan", NOW_MS).expect("known");
    tree.take(&province.list(NOW_MS)).expect("taken");
    chain[0] = fixtures::malleated(&chain[0]);
    tree.trust().verify(&chain, NOW_MS).expect("the signature still holds");
    let error = tree.trust().admit(&chain, NOW_MS).expect_err("revoked by issuer and serial number");
    assert!(matches!(error, ChainError::Revoked { .. }), "{error}");
}

#[test]
fn a_ca_certificate_counts_only_when_a_trusted_root_signed_it() {
    let mut tree = Tree::new();
    let mut foreign = Tree::new();
    let theirs = foreign.province("can-tho", NOW_MS);
    let object = authority_object(theirs.authority.certificate());
    assert!(matches!(tree.take(&object), Err(ObjectError::Unsigned(_))));
    let renamed = Object { item: Item { version: 2, ..object.item }, ..object.clone() };
    assert_eq!(tree.take(&renamed), Err(ObjectError::Misnamed));
    let leaf = authority_object(&theirs.keys.chain()[0]);
    assert!(matches!(tree.take(&leaf), Err(ObjectError::Policy(_))));
    let root = authority_object(tree.root.certificate());
    assert!(matches!(tree.take(&root), Err(ObjectError::Policy(_))));
}

#[test]
fn roots_are_exchanged_without_a_gap_and_nobody_else_can_exchange_them() {
    let mut tree = Tree::new();
    let zone = tree.root.zone().clone();
    let mut province = tree.province("can-tho", NOW_MS);
    let old_chain = province.issue("ninh-kieu.can-tho", NOW_MS);
    let absent = tree.bundle.clone();
    let (next, _) = Root::make(&zone, NOW_MS).expect("made");
    let (thief, _) = Root::make(&zone, NOW_MS).expect("made");

    for (roots, signers) in [
        (vec![&thief], vec![&thief]),
        (vec![&thief, &tree.root], vec![&thief]),
        (vec![&next, &tree.root], vec![&tree.root]),
        (vec![&next], vec![]),
    ] {
        let object = roots_object(2, &roots, &signers, &zone);
        assert!(matches!(tree.bundle.clone().take(&object, NOW_MS), Err(ObjectError::Unsigned(_))));
    }
    let both = roots_object(2, &[&next, &tree.root], &[&next, &tree.root], &zone);
    assert_eq!(tree.take(&both), Ok(true));
    assert_eq!(tree.take(&both), Ok(false));
    let forked = roots_object(2, &[&tree.root, &next], &[&next, &tree.root], &zone);
    assert_eq!(tree.bundle.take(&forked, NOW_MS), Err(ObjectError::Forked(2)));

    // The same CA key under the new root.
    let cross = |authority: &crate::authority::Authority| {
        let parsed = policy::parse(authority.certificate()).expect("readable");
        let key = crate::csr::LeafKey::of_spki(parsed.public_key().raw).expect("P-256");
        next.certify(&key, authority.scope(), NOW_MS).expect("certified")
    };
    let (for_central, for_province) = (cross(tree.central.authority()), cross(&province.authority));
    tree.take_authority(&for_central);
    tree.take_authority(&for_province);
    let number = tree.registry.next_crl(true, 0, NOW_MS).expect("written");
    let list = crl_object(next.id(), number, next.crl(&[], number, NOW_MS).expect("made"));
    assert_eq!(tree.take(&list), Ok(true));
    let certificates = tree.bundle.certificates_of(&province.authority.id());
    assert_eq!(certificates.first(), Some(&for_province), "the newest root's first");
    let new_chain: Vec<_> = std::iter::once(old_chain[0].clone()).chain(certificates).collect();
    absent.trust().expect("roots").admit(&new_chain, NOW_MS).expect("one that missed it all accepts both chains");
    let only = roots_object(3, &[&next], &[&next, &tree.root], &zone);
    assert_eq!(tree.take(&only), Ok(true));
    tree.trust().admit(&old_chain, NOW_MS).expect("the bundle knows the CA under the new root");
    assert_eq!(tree.bundle.authorities().count(), 2, "what only the old root vouched for is gone");
    let mut absent = absent;
    assert_eq!(absent.take(&only, NOW_MS), Ok(true), "signed by the root it still trusts");
    let stolen = roots_object(4, &[&tree.root], &[&tree.root], &zone);
    assert!(matches!(tree.take(&stolen), Err(ObjectError::Unsigned(_))), "the old root has no say any more");
    let revoked = Revoked { serial: vec![1], at_ms: NOW_MS, reason: Reason::Unspecified };
    let by_old = crl_object(tree.root.id(), 99, tree.root.crl(&[revoked], 99, NOW_MS).expect("made"));
    assert!(matches!(tree.take(&by_old), Err(ObjectError::Unsigned(_))));
}

#[test]
fn a_notice_speaks_only_of_what_its_ca_certifies() {
    let mut tree = Tree::new();
    let province = tree.province("can-tho", NOW_MS);
    let id = province.authority.id();
    let name = |text: &str| text.parse::<NodeName>().expect("name");
    let alias = |old: &str, new: &str| tram_proto::pki::Alias {
        old: name(old),
        new: name(new),
        node: OWN,
        until_ms: NOW_MS + DAY_MS,
    };
    let notice = |version, aliases| Notice { version, authority: id.0, at_ms: NOW_MS, aliases, ..Notice::default() };
    let object = |notice: &Notice| {
        let item = Item { key: ObjectKey::Notice(id.0), version: notice.version };
        Object { item, content: province.authority.sign(notice).expect("signed").encode() }
    };
    assert_eq!(tree.take(&object(&notice(1, vec![alias("a.can-tho", "b.can-tho")]))), Ok(true));
    let foreign = object(&notice(2, vec![alias("a.can-tho", "central")]));
    assert!(matches!(tree.take(&foreign), Err(ObjectError::OutOfScope(_))));
    let transfer = tram_proto::pki::Transfer { node: OWN, to: Some(name("can-tho")), at_ms: NOW_MS };
    let grab = object(&Notice { transfers: vec![transfer], ..notice(2, Vec::new()) });
    assert!(matches!(tree.take(&grab), Err(ObjectError::OutOfScope(_))));
    let mut forged = object(&notice(2, Vec::new()));
    let mut bytes = forged.content.to_vec();
    *bytes.last_mut().expect("not empty") ^= 1;
    forged.content = bytes.into();
    assert!(matches!(tree.take(&forged), Err(ObjectError::Unsigned(_))));
    assert_eq!(tree.bundle.notices().count(), 1);
}
