//! Whether a node says that it lives and can work, with a real certificate, spool and handle of an engine.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tram_pki::clock::DAY_MS;
use tram_proto::id::{Incarnation, NodeId};
use tram_proto::name::Role;
use tram_relay::input::LinkId;
use tram_relay::snapshot::{LinkView, NodeView};

use super::*;
use crate::engine::handle::{EngineHandle, Request};
use crate::local::pki::tests::door;
use crate::spool::{MemorySpool, Spool};

async fn answer(mut requests: mpsc::Receiver<Request>) {
    while let Some(Request::Ping(answer)) = requests.recv().await {
        let _ = answer.send(());
    }
}

/// A node whose spool has this much room, on a machine whose clock is wrong by so much.
fn node(room_bytes: u64, days: i64) -> (Metrics, mpsc::Receiver<Request>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let (pki, clock) = (door(dir.path(), false), Clock::new(days * DAY_MS as i64));
    let keys = pki.trust.keys();
    let (me, zone) = (keys.identity(), keys.zone().clone());
    let (engine, requests, _) = EngineHandle::new();
    let spool: Arc<dyn Spool> = Arc::new(MemorySpool::new(room_bytes, 1000));
    let here = Here::new((me.id, me.name.clone()), clock, engine, spool, pki.trust.clone(), None);
    let identity =
        Identity { node: me.id, name: me.name.clone(), zone, role: me.role, title: String::new(), started_ms: 0 };
    let (uplinks, rates) = (watch::channel(Vec::new()).1, Arc::default());
    (Metrics { identity, here, uplinks, pki: pki.clone(), rates, clock, kept: Mutex::default() }, requests, dir)
}

#[track_caller]
fn check(problems: &[String], naming: &[&str]) {
    assert_eq!(problems.len(), naming.len(), "{problems:?}");
    assert!(problems.iter().zip(naming).all(|(problem, part)| problem.contains(part)), "{problems:?}");
}

#[tokio::test(start_paused = true)]
async fn what_keeps_a_node_from_its_work_is_said() {
    let (metrics, requests, _dir) = node(1 << 30, 0);
    let engine = tokio::spawn(answer(requests));
    check(&metrics.problems().await, &[]);
    engine.abort();
    let _ = engine.await;
    check(&metrics.problems().await, &["stopping"]);
    assert!(metrics.text().await.is_err());

    // The requests are held and nobody answers.
    let (metrics, _requests, _dir) = node(0, 0);
    check(&metrics.problems().await, &["has not answered", "no room"]);
    assert!(metrics.text().await.is_err_and(|why| why.contains("has not answered")));

    let (metrics, requests, _dir) = node(1 << 30, 91);
    tokio::spawn(answer(requests));
    check(&metrics.problems().await, &["certificate has expired"]);
}

/// The node, its certificate and its CA's, and their lists: nobody else's.
#[test]
fn the_certificates_on_the_way_to_the_root_are_told_once_each() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = door(dir.path(), true);
    let found: BTreeMap<(&str, bool), u64> =
        certificates(&pki).into_iter().map(|one| ((one.of, one.list_made_ms.is_some()), one.until_ms)).collect();
    let of: Vec<(&str, bool)> = found.keys().copied().collect();
    assert_eq!(of, [("ca", false), ("ca", true), ("node", false), ("root", false), ("root", true)]);
    assert!(found[&("node", false)] < found[&("ca", false)] && found[&("ca", false)] < found[&("root", false)]);
    assert_eq!(found[&("node", false)], pki.trust.keys().identity().not_after_ms);
}

#[test]
fn uplinks_and_children_are_told_of_also_when_they_are_away() {
    let id = |number| NodeId([number; 16]);
    let name = |text: &str| text.parse().expect("a name");
    let below = |number, text, active| NodeView {
        node: id(number),
        name: name(text),
        announced: true,
        active,
        inboxes: Vec::new(),
        at_ms: 0,
    };
    let link = |number, text, side, up| LinkView {
        link: LinkId(1),
        peer: name(text),
        peer_id: id(number),
        role: Role::District,
        side,
        up,
        active: false,
        clock_offset_ms: None,
        unacknowledged: 0,
    };
    let snapshot = Snapshot {
        node: id(1),
        name: name("can-tho"),
        incarnation: Incarnation([0; 16]),
        links: vec![
            link(2, "here", Side::Down, true),
            link(3, "new", Side::Down, false),
            link(4, "central", Side::Up(0), true),
        ],
        queues: Vec::new(),
        nodes: vec![
            below(2, "here", Some(id(1))),
            below(5, "away", Some(id(1))),
            below(6, "moved", Some(id(9))),
            below(7, "further-down", Some(id(2))),
        ],
        inboxes: Vec::new(),
        messages: 0,
        receipts: 0,
        spool_room_bytes: 0,
        spool_total_bytes: 0,
        held: Vec::new(),
        late: Vec::new(),
        paused: Vec::new(),
        clock_trusted: true,
    };
    let told = neighbours(&snapshot, vec!["central".to_owned(), "spare".to_owned()]);
    let told: Vec<_> = told.iter().map(|(peer, one)| (peer.as_str(), one.uplink, one.up)).collect();
    let down = [("away", false, false), ("central", true, true), ("here", false, true), ("new", false, false)];
    assert_eq!(told, [&down[..], &[("spare", true, false)]].concat());
}
