//! Spools without room: senders are told to try again, what was taken stays whole, and room comes back.

use std::fs;

use tram_tests::overlay::{Overlay, Ran, SOON, until};

use super::{HERE, PROGRAM};

/// Beyond what 8 MiB hold, three of these are.
const PAYLOAD_BYTES: u32 = 3_000_000;
const SMALL_SPOOL: &str = "\n[spool]\nmax = \"8MiB\"\n";

fn payload(number: u8) -> Vec<u8> {
    (0..PAYLOAD_BYTES).map(|at| number ^ (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn send(overlay: &Overlay, to: &str, number: u8) -> Ran {
    overlay.send("C", to, &overlay.write(format!("{number}.bin"), &payload(number)), &[])
}

#[track_caller]
fn assert_received(overlay: &Overlay, number: u8) {
    let bytes = fs::read(overlay.path("out").join(format!("{number}.bin"))).expect("received");
    assert!(bytes == payload(number), "{number}.bin is not what was sent");
}

#[test]
fn a_full_spool_says_try_again_and_keeps_what_it_has() {
    let overlay = Overlay::new(PROGRAM, HERE);
    let _ = overlay.tramd("init", "C", &["--zone", "tram.internal", "--name", "central"]).ok();
    overlay.reconfigure("C", |text| text + SMALL_SPOOL);
    overlay.run("C");
    let mut taken = 0;
    let refused = loop {
        let ran = send(&overlay, "vanban@central", taken);
        if ran.code != 0 {
            break ran;
        }
        taken += 1;
        assert!(taken < 4, "more than 8 MiB were taken");
    };
    refused.fails(75, &["spool_full"]);
    assert!(taken > 0);
    overlay.kill("C");
    overlay.run("C");
    send(&overlay, "vanban@central", taken).fails(75, &["spool_full"]);

    let _ = overlay.recv("C", "out", taken.into()).ok();
    until("there is room again", SOON, || (send(&overlay, "vanban@central", taken).code == 0).then_some(()));
    let _ = overlay.recv("C", "out", 1).ok();
    (0..=taken).for_each(|number| assert_received(&overlay, number));
}

#[test]
fn a_node_without_room_holds_up_its_own_large_mail_only() {
    const LARGE: u8 = 5;
    let mut overlay = Overlay::central(PROGRAM, HERE);
    for (node, name) in [("CT", "can-tho"), ("AG", "an-giang")] {
        overlay.join(node, name, "province", None);
    }
    overlay.reconfigure("CT", |text| text + SMALL_SPOOL);
    for node in ["CT", "AG"] {
        overlay.run(node);
        overlay.await_link(node, "central");
    }
    for number in 0..LARGE {
        let _ = send(&overlay, "vanban@can-tho", number).ok();
    }
    let held = || overlay.tram("CT", &["inbox", "list", "--json"]).json()["inboxes"][0]["messages"].as_u64();
    until("two of them are there", SOON, || (held() >= Some(2)).then_some(()));
    let small = overlay.write("small.txt", b"small");
    for to in ["vanban@can-tho", "vanban@an-giang"] {
        let wait = ["--precedence", "flash", "--wait", "arrived", "--timeout", "30s"];
        let _ = overlay.send("C", to, &small, &wait).ok();
    }
    let _ = send(&overlay, "vanban@an-giang", LARGE).ok();
    let _ = overlay.recv("AG", "out-an-giang", 2).ok();
    assert!(held() < Some(u64::from(LARGE)), "the spool has room for all: this test tests nothing");
    let _ = overlay.recv("CT", "out", usize::from(LARGE) + 1).ok();
    (0..LARGE).for_each(|number| assert_received(&overlay, number));
}

#[test]
fn an_office_that_is_off_leaves_room_for_the_others() {
    // A quarter of the province's 64 MiB holds five of these.
    const FOR_THE_ONE_OFF: u8 = 10;
    const FOR_THE_OTHERS: u8 = 20;
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.reconfigure("CT", |text| text + "\n[spool]\nmax = \"64MiB\"\n");
    overlay.join("NK", "ninh-kieu.can-tho", "commune", Some("CT"));
    overlay.join("CR", "cai-rang.can-tho", "commune", Some("CT"));
    for (node, parent) in [("CT", "central"), ("NK", "can-tho"), ("CR", "can-tho")] {
        overlay.run(node);
        overlay.await_link(node, parent);
    }
    overlay.await_known("C", "ninh-kieu.can-tho");
    overlay.kill("NK");
    for number in 0..FOR_THE_ONE_OFF {
        let _ = send(&overlay, "vanban@ninh-kieu.can-tho", number).ok();
    }
    let wait = || overlay.waiting("CT", "ninh-kieu.can-tho");
    until("the province holds what it takes for one", SOON, || (wait() == 5).then_some(()));

    // More than would fit beside a pile that grows: it all goes through.
    for number in FOR_THE_ONE_OFF..FOR_THE_OTHERS {
        for (to, node, out) in [("cai-rang.can-tho", "CR", "out-cai-rang"), ("can-tho", "CT", "out-can-tho")] {
            let _ = send(&overlay, &format!("vanban@{to}"), number).ok();
            let _ = overlay.recv(node, out, 1).ok();
        }
    }
    assert_eq!(wait(), 5, "nothing of the pile was let go, nothing was added");
    overlay.run("NK");
    let _ = overlay.recv("NK", "out", FOR_THE_ONE_OFF.into()).ok();
    (0..FOR_THE_ONE_OFF).for_each(|number| assert_received(&overlay, number));
    overlay.await_done(&["C", "CT", "NK", "CR"], SOON);
}
