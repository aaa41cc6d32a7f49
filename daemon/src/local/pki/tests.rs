//! The calls about certificates over a real socket, with a real PKI behind them.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tram_client::{Admin, Error, Place};
use tram_pki::keystore::{self, NodeKeys};

use super::*;
use crate::local::station::{Issuer as _, SignOrder};
use crate::local::tests::fake::Node;
use crate::registrar::Registrar;

/// Of a node named central that has just founded its overlay, in `dir`; with its CA or without.
pub(crate) fn door(dir: &Path, with_ca: bool) -> Arc<PkiDoor> {
    let (pki, clock) = (dir.join("pki"), Clock::default());
    let (zone, name) = ("tram.internal".parse().expect("zone"), "central".parse().expect("name"));
    keystore::found(&pki, &zone, &name, clock.wall_ms()).expect("founded");
    let keys = NodeKeys::load(&pki).expect("loads");
    let who = (keys.identity().id, keys.identity().name.clone());
    let trust = Arc::new(NodeTrust::new(keys, tram_pki::pins::Pins::default(), clock));
    let shelf = Shelf::open(&pki, trust.clone(), clock).expect("opens");
    let address = |text: &str| vec![text.parse().expect("address")];
    let reachable = crate::setup::Reachable { join: address("10.0.0.1:7444"), overlay: address("10.0.0.1:7443") };
    let desk = with_ca.then(|| {
        let desk = Desk::open(&pki, None, shelf.clone(), who.clone(), Ok(reachable), clock).expect("opens");
        desk.publish(false);
        Arc::new(desk)
    });
    let registrar = Registrar::new(shelf.clone(), desk.clone(), trust.clone(), Vec::new(), None, clock);
    let herald = Herald::new(who, clock, registrar);
    let (renew_now, tried) = (watch::Sender::new(0), watch::channel(Tried::default()).1);
    Arc::new(PkiDoor { pki, shelf, desk, herald, trust, renew_now, tried, clock })
}

/// A node with a CA, and an administrator of it.
async fn node() -> (Node, Admin, Arc<PkiDoor>) {
    let dir = tempfile::tempdir().expect("a directory");
    let door = door(dir.path(), true);
    let (engine, spool) = Node::fake(1 << 30);
    let node = Node::serve_with(dir, engine, spool, door.clone());
    let admin = Admin::connect(&Place::dir(node.dir.path())).await.expect("connects");
    (node, admin, door)
}

/// A node below, which has joined by file.
fn joined(door: &PkiDoor, name: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let name = name.parse().expect("name");
    let request = tram_pki::enrol::offline::request(&dir.path().join("pki"), &name, "test").expect("asks");
    let role = "province".parse().expect("role");
    let uplink = "central@10.0.0.1:7443".to_owned();
    let order = SignOrder { request: request.encode().into(), role, uplink, by: "lan".to_owned() };
    door.desk().expect("a CA").sign(order).expect("signed");
}

fn refused(result: Result<impl Sized, Error>, code: &str, part: &str) {
    let Err(error) = result else { panic!("it was not refused: {part}") };
    assert!(error.code() == Some(code) && error.to_string().contains(part), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_ca_tells_how_it_stands_and_orders_nothing() {
    let node = Node::start(1 << 30);
    let admin = Admin::connect(&Place::dir(node.dir.path())).await.expect("connects");
    let status = admin.pki().await.expect("answers");
    assert_eq!((status.certificates[0].kind.as_str(), status.backup), ("node", None));
    let no = "issues no certificates";
    refused(admin.revoke("can-tho", "retired", false).await, "no_authority", no);
    refused(admin.rotate(false, "begin", Vec::new()).await, "no_authority", no);
    refused(admin.forget_root(&[0; 32]).await, "no_authority", no);
    let (old, new) = ("can-tho".parse().expect("name"), "tay-do".parse().expect("name"));
    refused(admin.rename(&old, &new, 0).await, "no_authority", no);
    assert_eq!(admin.pki_nodes().await.expect("answers").nodes.len(), 1, "itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_listed_revoked_and_renamed() {
    let (_node, admin, door) = node().await;
    joined(&door, "can-tho");
    joined(&door, "an-giang");
    let status = admin.pki().await.expect("answers");
    assert_eq!(status.problems, Vec::<String>::new());
    let kinds: Vec<&str> = status.certificates.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, ["node", "issuer", "root", "crl", "crl"]);
    assert!(status.certificates.iter().all(|one| one.own && one.not_after_ms > status.now_ms));
    assert_eq!(status.backup.expect("a CA").issued_since, 3);

    refused(admin.revoke("ca-mau", "retired", false).await, "invalid", "neither the name of a node");
    refused(admin.revoke("can-tho", "stolen", false).await, "invalid", "key-compromise");
    refused(admin.revoke("central", "retired", false).await, "invalid", "own node");
    refused(admin.revoke("can-tho", "retired", true).await, "invalid", "no CA");
    let serials = admin.revoke("can-tho", "retired", false).await.expect("revoked");
    let nodes = admin.pki_nodes().await.expect("answers").nodes;
    let of = |name: &str| nodes.iter().find(|node| node.name == name).expect("listed");
    assert_eq!((of("can-tho").serials.clone(), of("can-tho").revoked, of("an-giang").revoked), (serials, true, false));
    let list = admin.pki().await.expect("answers").certificates.into_iter().find(|one| one.entries > 0);
    assert!(list.is_some_and(|one| one.kind == "crl" && one.entries == 1), "on the list");

    let name = |text: &str| text.parse().expect("name");
    refused(admin.rename(&name("an-giang"), &name("can-tho"), 0).await, "invalid", "another node has it");
    admin.rename(&name("an-giang"), &name("long-xuyen"), 1000).await.expect("renamed");
    let again = admin.pki_nodes().await.expect("answers").nodes;
    assert!(again.iter().any(|node| node.name == "long-xuyen" && node.id == of("an-giang").id));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_exchanged_and_those_who_stay_behind_are_named() {
    let (_node, admin, door) = node().await;
    joined(&door, "can-tho");
    refused(admin.rotate(false, "later", Vec::new()).await, "invalid", "no step");
    refused(admin.rotate(true, "finish", Vec::new()).await, "invalid", "no exchange");
    let now = admin.rotate(false, "begin", Vec::new()).await.expect("begun");
    assert_eq!((now.root.as_str(), now.root_stragglers), ("begun", vec!["can-tho".to_owned()]));
    admin.rotate(false, "switch", Vec::new()).await.expect("switched");
    refused(admin.rotate(false, "finish", vec!["an-giang".to_owned()]).await, "invalid", "can-tho");
    let now = admin.rotate(false, "finish", vec!["can-tho".to_owned()]).await.expect("finished");
    assert_eq!(now.root, "none");
    let log = std::fs::read_to_string(door.pki.join(tram_pki::registry::AUDIT_LOG)).expect("readable");
    let left: Vec<&str> = log.lines().filter(|line| line.contains("left_behind")).collect();
    assert!(left.len() == 1 && left[0].contains("can-tho"), "{left:?}");
    // Its CA is still shown under the old root too, and makes its lists all the same.
    assert_eq!(admin.revoke("can-tho", "retired", false).await.expect("revoked").len(), 1);
    let list = admin.pki().await.expect("answers").certificates.into_iter().find(|one| one.entries > 0);
    assert!(list.is_some_and(|one| one.kind == "crl" && one.entries == 1), "on the list");

    let now = admin.rotate(true, "begin", Vec::new()).await.expect("begun");
    assert!(now.ca_waits && *door.renew_now.borrow() == 1, "it is asked for at once");
    refused(admin.rotate(true, "finish", Vec::new()).await, "invalid", "no certificate yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_waited_for_and_says_why_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (tell, tried) = watch::channel(Tried::default());
    let door = Arc::new(PkiDoor { tried, ..Arc::into_inner(door(dir.path(), true)).expect("only here") });
    let (engine, spool) = Node::fake(1 << 30);
    let mut asked = door.renew_now.subscribe();
    let node = Node::serve_with(dir, engine, spool, door);
    let admin = Admin::connect(&Place::dir(node.dir.path())).await.expect("connects");
    for error in ["no uplink is up", ""] {
        let renews = async {
            asked.changed().await.expect("alive");
            tell.send_replace(Tried { error: error.to_owned(), renamed: None });
        };
        let (answer, ()) = tokio::join!(admin.renew(), renews);
        assert_eq!(answer.expect("answers").error, error);
        assert_eq!(admin.pki().await.expect("answers").renewal_error, error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_by_file_are_judged_as_if_a_neighbour_had_sent_them() {
    let (_node, admin, door) = node().await;
    let other = tempfile::tempdir().expect("a directory");
    let stranger = self::door(other.path(), true);
    let frames = |door: &PkiDoor| -> Vec<Bytes> {
        door.shelf.with(|bundle| Parcel::of(bundle).objects.iter().map(tram_pki::parcel::frame).collect())
    };
    let own = admin.install(frames(&door)).await.expect("answers");
    assert_eq!((own.taken, own.known, own.refused.len()), (0, 3, 0));
    let foreign = admin.install(frames(&stranger)).await.expect("answers");
    assert_eq!((foreign.taken, foreign.known, foreign.refused.len()), (0, 0, 3), "{foreign:?}");
    refused(admin.install(vec![Bytes::from_static(b"junk")]).await, "invalid", "");

    // Roots by hand: only with this node's CA under them.
    let roots = |door: &PkiDoor| -> Vec<Bytes> {
        door.shelf.with(|bundle| bundle.roots().iter().map(|der| Bytes::copy_from_slice(der)).collect())
    };
    refused(admin.pin(roots(&stranger), frames(&stranger)).await, "invalid", "tram pki bundle export");
    assert!(door.shelf.with(|bundle| bundle.roots().len()) == 1, "nothing has changed");
    admin.pin(roots(&door), Vec::new()).await.expect("under the same root its CA needs no other certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roots_key_is_deleted_only_for_whoever_has_a_copy() {
    let (_node, admin, door) = node().await;
    let path = door.pki.join(keystore::ROOT_KEY);
    let key = std::fs::read(&path).expect("there");
    refused(admin.forget_root(&[0; 32]).await, "invalid", "the copy is not one");
    assert!(path.exists());
    admin.forget_root(&tram_pki::hash::Sha256::of(&key).0).await.expect("deleted");
    assert!(!path.exists() && !admin.pki().await.expect("answers").rotation.expect("a CA").root_key_here);
    refused(admin.revoke("can-tho", "retired", true).await, "invalid", "crl sign");
}
