//! Spools that are erased, put back from a copy, or run twice.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tram_client::{Client, NewMessage, Place};
use tram_tests::overlay::{Overlay, Ran, SOON, until};

use super::{HERE, PROGRAM};

/// Documents that wait when a relay's disk is lost.
const DOCUMENTS: usize = 200;
/// How long all of them may take once everybody runs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most go inside the offer, each tenth as chunks.
fn document(number: usize) -> Vec<u8> {
    format!("Văn bản số {number}\n").repeat(if number.is_multiple_of(10) { 8_000 } else { 20 }).into_bytes()
}

/// Sends these documents as `NUMBER.txt`.
fn send(overlay: &Overlay, node: &str, to: &str, numbers: std::ops::Range<usize>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(&Place::dir(&overlay.path(node))).await.expect("it answers");
        for number in numbers {
            let to = vec![to.parse().expect("an address")];
            let message = NewMessage { to, file_name: format!("{number}.txt"), ..NewMessage::default() };
            client.send(message, &document(number)[..], |_| {}).await.expect("it is taken");
        }
    });
}

/// Takes all that is sent, and makes sure that each came once.
fn receive(overlay: &Overlay, node: &str, count: usize) {
    let taken = fs::read_dir(overlay.path("out")).map_or(0, |files| files.count().saturating_sub(1));
    let _ = overlay.recv(node, "out", count - taken).ok();
    let files = fs::read_dir(overlay.path("out")).expect("received");
    let names = files.map(|file| file.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort_by_key(|name| {
        name.trim_end_matches(".txt").parse::<usize>().expect("a number, and none of a second copy")
    });
    assert_eq!(names, (0..count).map(|number| format!("{number}.txt")).collect::<Vec<_>>());
    for number in 0..count {
        let bytes = fs::read(overlay.path("out").join(format!("{number}.txt"))).expect("read");
        assert!(bytes == document(number), "{number}.txt is not what was sent");
    }
}

#[test]
fn what_a_lost_relay_held_is_offered_again_by_its_origin_and_comes_once() {
    let overlay = Overlay::line(PROGRAM, HERE);
    overlay.kill("NK");
    send(&overlay, "AG", "vanban@ninh-kieu.can-tho", 0..DOCUMENTS);
    until("the relay holds all of them", SOON, || {
        (overlay.waiting("CT", "ninh-kieu.can-tho") == DOCUMENTS as u64 && overlay.waiting("C", "can-tho") == 0)
            .then_some(())
    });
    overlay.kill("CT");
    fs::remove_dir_all(overlay.path("CT").join("spool")).expect("erased");
    overlay.run("CT");
    overlay.run("NK");
    receive(&overlay, "NK", DOCUMENTS);
    overlay.await_done(&["AG", "C", "CT", "NK"], PATIENCE);
    assert_eq!(overlay.recv_all("NK", "out").ok(), "", "nothing comes a second time");
}

fn copy(overlay: &Overlay, from: &str, to: &str) {
    let _ = Ran::of(Command::new("cp").arg("-a").arg(overlay.path(from)).arg(overlay.path(to))).ok();
}

/// Waits until a node's log and its list of links say that it was refused.
#[track_caller]
fn await_refused(overlay: &Overlay, node: &str, why: &str) {
    overlay.await_log(node, &["uplink down", "the peer closed the link", why]);
    until(&format!("{node}'s list of links says so"), SOON, || {
        let link = overlay.links(node).into_iter().find(|link| link["side"] == "up")?;
        // A second try is refused with the cure.
        let says = |error: &str| error.contains(why) || error.contains("tram node accept can-tho");
        (link["state"] != "up" && link["error"].as_str().is_some_and(says)).then_some(())
    });
}

#[test]
fn a_spool_put_back_from_a_copy_is_kept_out_until_it_is_emptied() {
    let overlay = Overlay::line(PROGRAM, HERE);
    overlay.kill("NK");
    send(&overlay, "AG", "vanban@ninh-kieu.can-tho", 0..5);
    // Also as central knows: else it would still hold them beside those that come later.
    until("the province holds them", SOON, || {
        (overlay.waiting("CT", "ninh-kieu.can-tho") == 5 && overlay.waiting("C", "can-tho") == 0).then_some(())
    });
    overlay.kill("CT");
    copy(&overlay, "CT", "old");
    for _ in 0..2 {
        overlay.run("CT");
        overlay.await_link("CT", "central");
        overlay.kill("CT");
    }
    fs::remove_dir_all(overlay.path("CT")).expect("removed");
    copy(&overlay, "old", "CT");
    overlay.run("CT");
    await_refused(&overlay, "CT", "went back in time");
    overlay.await_log("C", &["ERROR", "ALARM", "can-tho", "rolled back"]);
    let held = |link: &serde_json::Value| link["peer"] == "can-tho" && link["state"] == "held";
    assert!(overlay.links("C").iter().any(held), "{:#?}", overlay.links("C"));

    // Each start raises its counter, which would soon look right.
    for _ in 0..3 {
        overlay.kill("CT");
        overlay.run("CT");
        await_refused(&overlay, "CT", "is held");
    }
    send(&overlay, "AG", "vanban@ninh-kieu.can-tho", 5..10);
    until("central holds them", SOON, || (overlay.waiting("C", "can-tho") == 5).then_some(()));

    overlay.kill("CT");
    fs::remove_dir_all(overlay.path("CT").join("spool")).expect("emptied");
    overlay.run("CT");
    overlay.await_link("CT", "central");
    overlay.run("NK");
    receive(&overlay, "NK", 10);
    overlay.await_done(&["AG", "C", "CT", "NK"], PATIENCE);
    assert_eq!(overlay.recv_all("NK", "out").ok(), "", "nothing comes a second time");
}

#[test]
fn row_32_two_machines_of_one_identity_alarm_until_an_admin_has_looked() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.run("CT");
    overlay.await_link("CT", "central");
    overlay.kill("CT");
    copy(&overlay, "CT", "clone");
    let (own, other) = (overlay.listen("CT"), overlay.listen("clone"));
    overlay.reconfigure("clone", |text| text.replace(&own, &other));
    overlay.run("CT");
    overlay.await_link("CT", "central");
    overlay.run("clone");
    await_refused(&overlay, "clone", "a disk was cloned");
    overlay.await_log("C", &["ERROR", "ALARM", "can-tho", "cloned"]);
    // The one that was there first goes on, until its link breaks.
    send(&overlay, "C", "vanban@can-tho", 0..1);
    let _ = overlay.recv("CT", "out", 1).ok();
    overlay.kill("CT");
    overlay.run("CT");
    await_refused(&overlay, "CT", "is held");
    send(&overlay, "C", "vanban@can-tho", 1..2);

    overlay.kill("clone");
    let _ = overlay.tram("C", &["node", "accept", "can-tho"]).ok();
    // One that was refused dials seldom.
    overlay.kill("CT");
    overlay.run("CT");
    overlay.await_link("CT", "central");
    receive(&overlay, "CT", 2);
}
