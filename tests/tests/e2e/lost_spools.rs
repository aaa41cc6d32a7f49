//! Spools that are erased, put back from a copy, or run twice.

use std::fs;
use std::time::Duration;

use tram_client::{Client, NewMessage, Place};
use tram_tests::overlay::{Overlay, SOON, until};

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
    let _ = overlay.recv(node, "out", count).ok();
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
