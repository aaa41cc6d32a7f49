//! A changed config is taken over while documents are under way.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tram_tests::overlay::{Overlay, heavy, until};

use super::{FAR, HERE, PROGRAM};

/// Each way; every fifth is large.
const DOCUMENTS: usize = 25;
/// So many are sent when the node is told to change its parent.
const BEFORE: usize = 8;
const LARGE_BYTES: usize = 3_000_000;
const NEAR: &str = "vanban@ninh-kieu.can-tho";

fn document(from: &str, number: usize) -> Vec<u8> {
    let mut out = format!("{from} số {number}\n").into_bytes();
    if number.is_multiple_of(5) {
        out.extend((0..LARGE_BYTES).map(|at| ((at * (number + 3)) >> 7) as u8));
    }
    out
}

fn hang_up(overlay: &Overlay, node: &str) {
    let pid = overlay.pid(node).to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("it starts").success());
}

fn send(overlay: &Overlay, node: &str, to: &str, numbers: Range<usize>) {
    for number in numbers {
        let file = overlay.write(format!("{node}-{number}.bin"), &document(node, number));
        let _ = overlay.send(node, to, &file, &[]).ok();
    }
}

#[track_caller]
fn check_received(overlay: &Overlay, node: &str, from: &str) {
    let out = format!("{node}-out");
    let _ = overlay.recv(node, &out, DOCUMENTS).ok();
    let read = |path: &Path| fs::read(path).expect("read");
    let paths = || fs::read_dir(overlay.path(&out)).expect("received").map(|entry| entry.expect("read").path());
    let visible =
        || paths().filter(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    let got: BTreeSet<Vec<u8>> = visible().map(|path| read(&path)).collect();
    let sent: BTreeSet<Vec<u8>> = (0..DOCUMENTS).map(|number| document(from, number)).collect();
    assert!(got == sent, "{node} received other documents than {from} sent");
    assert_eq!(visible().count(), DOCUMENTS);
}

#[test]
fn a_child_changes_its_parent_by_reload_and_each_document_arrives_once() {
    let _alone = heavy();
    let mut overlay = Overlay::tree(PROGRAM, HERE);
    let (old, new) = (overlay.listen("CT"), overlay.listen("AG"));
    let good = fs::read_to_string(overlay.path("NK").join("tramd.toml")).expect("a config");

    // A config with a fault changes nothing, and says where it is.
    let moved = good.replace("\"can-tho\"", "\"an-giang\"").replace(&old, &new);
    assert_ne!(moved, good);
    let line = moved.lines().count() + 2;
    overlay.reconfigure("NK", |_| format!("{moved}\n[sppol]\n"));
    hang_up(&overlay, "NK");
    overlay.await_log("NK", &["not reloaded", "tramd.toml", &format!("line {line}")]);
    overlay.await_log("NK", &["unknown field", "sppol"]);
    overlay.reconfigure("NK", |_| moved.replace("title = \"\"", "title = \"Ninh Kiều\""));
    assert!(overlay.has_link("NK", "can-tho"));

    let send_both = |numbers: Range<usize>| {
        std::thread::scope(|scope| {
            scope.spawn(|| send(&overlay, "NK", FAR, numbers.clone()));
            scope.spawn(|| send(&overlay, "CD", NEAR, numbers.clone()));
        });
    };
    send_both(0..BEFORE);
    hang_up(&overlay, "NK");
    send_both(BEFORE..DOCUMENTS);
    overlay.await_link("NK", "an-giang");
    assert!(!overlay.links("NK").iter().any(|link| link["peer"] == "can-tho"));
    overlay.await_log("NK", &["applied", "uplink"]);
    overlay.await_log("NK", &["needs restart", "node.title"]);

    check_received(&overlay, "NK", "CD");
    check_received(&overlay, "CD", "NK");
    until("every node is done with all of them", Duration::from_secs(60), || {
        let is_done = |node: &&str| overlay.tram(node, &["status", "--json"]).json()["spool"]["messages"] == 0;
        ["NK", "CT", "C", "AG", "CD"].iter().all(is_done).then_some(())
    });
    for node in ["NK", "CD"] {
        assert_eq!(overlay.recv_all(node, "again").ok(), "", "nothing comes a second time");
    }
}
