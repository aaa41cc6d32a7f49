//! Clocks three days off: links and joins say both times.

use tram_pki::clock::Utc;
use tram_pki::enrol::Joining;
use tram_tests::overlay::{Overlay, until};
use tramd::clock::Clock;

use super::{HERE, PROGRAM};

const DAY_MS: i64 = 24 * 3_600_000;

/// The day by a clock that is off by so many days, as logs write it.
fn day(days: i64) -> String {
    Utc(Clock::new(days * DAY_MS).wall_ms()).to_string()[..10].to_owned()
}

#[test]
fn a_node_three_days_ahead_is_linked_and_names_both_clocks() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.run_at("CT", 3 * DAY_MS);
    overlay.await_link("CT", "central");
    let (right, wrong) = (day(0), day(3));
    overlay.await_log("CT", &["WARN", "clocks differ", &format!("ours={wrong}"), &format!("theirs={right}")]);
    let status = overlay.tram("CT", &["status", "--json"]).json();
    assert_eq!((&status["clock_trusted"], &status["degraded"]), (&false.into(), &true.into()), "{status:#}");
    // Documents go through in both directions all the same.
    let file = overlay.write("a.txt", b"a");
    for (from, to, at) in [("CT", "vanban@central", "C"), ("C", "vanban@can-tho", "CT")] {
        let _ = overlay.send(from, to, &file, &["--wait", "arrived", "--timeout", "30s"]).ok();
        let _ = overlay.recv(at, "out", 1).ok();
    }
}

#[test]
fn a_node_three_days_behind_says_so_and_comes_back_when_its_clock_is_right() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.run_at("CT", -3 * DAY_MS);
    let (right, wrong) = (day(0), day(-3));
    let error = until("the uplink says what is wrong", tram_tests::overlay::SOON, || {
        let links = overlay.links("CT");
        links.first().and_then(|link| link["error"].as_str().map(str::to_owned))
    });
    println!("{error}");
    // Its peer's certificate begins in its future: the two times it knows.
    assert!(error.contains("clock") && error.contains(&wrong) && error.contains(&right), "{error}");
    overlay.await_log("CT", &["uplink down", "clock", &wrong, &right]);
    println!("{}", overlay.await_log("C", &["link refused", "clock"]));
    overlay.kill("CT");
    overlay.run("CT");
    overlay.await_link("CT", "central");
}

#[test]
fn a_join_with_a_clock_three_days_off_names_both_clocks() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let token = overlay.token("can-tho", "province", None, &[]);
    let token = std::fs::read_to_string(token).expect("a token");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for days in [-3, 3] {
        std::fs::create_dir_all(overlay.path("pki")).expect("made");
        let joining = Joining::begin(&overlay.path("pki"), token.parse().expect("a token")).expect("begun");
        let joined = runtime.block_on(tramd::join::join(&joining, "0", Clock::new(days * DAY_MS)));
        match joined {
            Err(failure) => {
                let text = failure.to_string();
                println!("{days} days: {text}");
                assert!(text.contains(&day(0)) && text.contains(&day(days)), "{text}");
            }
            Ok(_) => {
                println!("{days} days: joined");
                assert!(days > 0, "a node whose clock is behind could not bring up a link");
            }
        }
    }
}
