//! Tokens that are used twice, expired, damaged, or meet the wrong server.

use std::fs;

use tram_tests::overlay::Overlay;

use super::{HERE, PROGRAM};

const HOUR_MS: i64 = 3_600_000;

#[test]
fn a_token_is_for_one_machine_and_a_second_one_alarms() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let token = overlay.token("can-tho", "province", None, &[]);
    let _ = overlay.join_with("CT", &token, None).ok();
    // The same machine again: nothing is overwritten.
    overlay.join_with("CT", &token, None).fails(1, &["set up already"]);
    // The port closes when the last token is used; the next token opens it again.
    let _other = overlay.token("an-giang", "province", None, &[]);
    overlay.join_with("X", &token, None).fails(77, &["used"]);
    overlay.await_log("C", &["ERROR", "two machines hold can-tho's token", "127.0.0.1"]);
    assert!(!overlay.path("X").join("tramd.toml").exists(), "nothing is half set up");
    let listed = overlay.tram("C", &["token", "list", "--json"]).json();
    let states: Vec<_> =
        listed["tokens"].as_array().expect("a list").iter().map(|t| (&t["name"], &t["state"])).collect();
    assert!(states.contains(&(&"can-tho".into(), &"frozen".into())), "{listed:#}");
    overlay.run("CT");
    overlay.await_link("CT", "central");
}

#[test]
fn a_token_that_was_cancelled_or_has_expired_admits_nobody() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let cancelled = overlay.token("can-tho", "province", None, &[]);
    let _ = overlay.tram("C", &["token", "cancel", "can-tho"]).ok();
    let short = overlay.token("an-giang", "province", None, &["--ttl", "1h"]);
    let _live = overlay.token("ca-mau", "province", None, &[]);
    overlay.join_with("X", &cancelled, None).fails(77, &["cancelled"]);
    overlay.kill("C");
    // Two hours later, by its clock.
    overlay.run_at("C", 2 * HOUR_MS);
    overlay.await_log("C", &["join port is open"]);
    overlay.join_with("Y", &short, None).fails(77, &["expired", "clock"]);
    overlay.await_log("C", &["an-giang's token expired"]);
    overlay.tram("C", &["token", "new", "kien-giang", "--role", "province", "--ttl", "30s"]).fails(65, &[]);
}

#[test]
fn a_damaged_token_is_told_from_a_wrong_one() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let token = overlay.token("can-tho", "province", None, &[]);
    let good = fs::read_to_string(&token).expect("a token");
    for keep in [8, good.len() / 2, good.len() - 1] {
        let cut = overlay.write("cut", &good.as_bytes()[..keep]);
        overlay.join_with("X", &cut, None).fails(65, &["cut short"]);
    }
    for at in [10, good.len() / 2, good.len() - 5] {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let altered = overlay.write("altered", &bytes);
        overlay.join_with("X", &altered, None).fails(65, &["altered"]);
    }
    for other in ["", "hello", "-----BEGIN CERTIFICATE-----\n"] {
        let file = overlay.write("other", other.as_bytes());
        overlay.join_with("X", &file, None).fails(65, &["join token"]);
    }
    overlay.join_with("X", &overlay.path("missing"), None).fails(66, &["missing"]);
    // As an editor or a mail leaves it.
    let wrapped = overlay.write("wrapped", format!("\n  {good}\r\n\n").as_bytes());
    let _ = overlay.join_with("CT", &wrapped, None).ok();
}

#[test]
fn a_join_goes_to_the_overlay_of_its_token_only() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let token = overlay.token("can-tho", "province", None, &[]);
    let join = overlay.listen("join");
    overlay.kill("C");
    overlay.join_with("X", &token, None).fails(69, &[&join, "no answer"]);
    // Another overlay of the same zone listens there now, with a token of its own for the same name.
    let listen = overlay.listen("other");
    let init = ["--zone", "tram.internal", "--name", "central", "--listen", &listen, "--join-listen", &join];
    let _ = overlay.tramd("init", "other", &init).ok();
    overlay.run("other");
    let _ = overlay.tram("other", &["token", "new", "can-tho", "--role", "province"]).ok();
    overlay.await_log("other", &["join port is open"]);
    let ran = overlay.join_with("X", &token, None);
    assert_ne!(ran.code, 0);
    ran.fails(ran.code, &[&join, "does not hold the root certificate that the token names", "another overlay"]);
    overlay.await_log("other", &["join broke off"]);
    assert!(!overlay.path("X").join("tramd.toml").exists());
    println!("exit code for another overlay's join server: {}", ran.code);
}
