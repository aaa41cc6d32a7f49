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

/// A fingerprint that a command printed.
fn fingerprint(out: &str) -> String {
    out.rsplit(": ").next().expect("a fingerprint").trim().to_owned()
}

#[test]
fn a_node_with_waiting_mail_joins_again_and_delivers_it() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.run("CT");
    overlay.await_link("CT", "central");
    let id = overlay.tram("CT", &["status", "--json"]).json()["node_id"].clone();
    overlay.kill("C");
    let document = overlay.write("document", b"waits for the link");
    let _ = overlay.send("CT", "vanban@central", &document, &[]).ok();
    overlay.run("C");
    // While it runs, nothing is sent and nothing replaced.
    let token = overlay.token("can-tho", "province", None, &[]);
    overlay.join_with("CT", &token, None).fails(1, &["is running"]);
    overlay.kill("CT");
    let config = fs::read(overlay.path("CT").join("tramd.toml")).expect("a config");
    let pair =
        || ["node.pem", "node.key"].map(|name| fs::read(overlay.path("CT").join("pki").join(name)).expect("a key"));
    let before = pair();
    overlay.join_with("CT", &token, Some("127.0.0.1:1")).fails(64, &["--listen", "tramd.toml"]);
    let again = overlay.join_with("CT", &token, None);
    assert!(again.err.contains("again, with a new key"), "{again:?}");
    let _ = again.ok();
    let after = pair();
    assert!(before[0] != after[0] && before[1] != after[1], "both are new");
    assert_eq!(fs::read(overlay.path("CT").join("tramd.toml")).expect("a config"), config);
    // By mistake once more: no new key, no alarm at the CA.
    overlay.join_with("CT", &token, None).fails(1, &["set up already, with this very token"]);
    assert!(pair() == after && !overlay.log("C").contains("two machines"));

    overlay.run("CT");
    overlay.await_link("CT", "central");
    assert_eq!(overlay.tram("CT", &["status", "--json"]).json()["node_id"], id);
    let _ = overlay.recv("C", "taken", 1).ok();
    assert_eq!(fs::read(overlay.path("taken").join("document")).expect("delivered"), b"waits for the link");
    overlay.await_done(&["CT", "C"], tram_tests::overlay::SOON);
}

#[test]
fn a_set_up_directory_does_not_become_another_node() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    let other = overlay.token("an-giang", "province", None, &[]);
    overlay.join_with("CT", &other, Some("127.0.0.1:1")).fails(1, &["set up already, as node can-tho.tram.internal"]);
    let _ = overlay.join_with("AG", &other, None).ok();
}

#[test]
fn a_machine_without_a_network_joins_by_two_files() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let central = format!("central@{}", overlay.listen("C"));
    let path = |name: &str| overlay.path(name).display().to_string();
    let (request, answer) = (path("request"), path("answer"));
    let read_out = fingerprint(&overlay.tram("CT", &["pki", "csr", "can-tho", "--out", &request]).ok());
    let again = fingerprint(&overlay.tram("CT", &["pki", "csr", "can-tho", "--out", &request]).ok());
    assert_eq!(again, read_out, "asked again, the machine asks with the same key");

    let sign = ["pki", "sign", &request, "--role", "province", "--uplink", &central, "--out", &answer];
    overlay.tram("C", &sign).fails(64, &["--fingerprint"]);
    let wrong = [sign.as_slice(), &["--fingerprint", "00000 00000 00000 00000 00000 00000"]].concat();
    overlay.tram("C", &wrong).fails(77, &["another fingerprint", &read_out]);
    assert!(!overlay.path("answer").exists());
    // Asking the daemon, and on the files while there is none, gives the same certificate.
    let compared = [sign.as_slice(), &["--fingerprint", &read_out]].concat();
    let root = fingerprint(&overlay.tram("C", &compared).ok());
    let first = fs::read(overlay.path("answer")).expect("an answer");
    overlay.kill("C");
    let by_hand = [sign.as_slice(), &["--yes"]].concat();
    assert_eq!(fingerprint(&overlay.tram("C", &by_hand).ok()), root);
    assert!(fs::read(overlay.path("answer")).expect("an answer") == first, "another certificate for the same request");
    overlay.run("C");

    let join = ["--answer", answer.as_str()];
    overlay.tramd("join", "CT", &join).fails(64, &["--root-fingerprint"]);
    let forged = [join.as_slice(), &["--root-fingerprint", &read_out]].concat();
    overlay.tramd("join", "CT", &forged).fails(77, &["another fingerprint", &root]);
    assert!(!overlay.path("CT").join("tramd.toml").exists(), "nothing is half set up");
    let elsewhere = [join.as_slice(), &["--root-fingerprint", &root]].concat();
    overlay.tramd("join", "X", &elsewhere).fails(65, &["has not asked to be node can-tho"]);
    let _ = overlay.tramd("join", "CT", &elsewhere).ok();
    overlay.run("CT");
    overlay.await_link("CT", "central");

    // And again, with a new key: its root is known there, nobody has to vouch for it.
    overlay.kill("CT");
    let _ = overlay.tram("CT", &["pki", "csr", "can-tho", "--out", &request]).ok();
    let _ = overlay.tram("C", &by_hand).ok();
    let _ = overlay.tramd("join", "CT", &join).ok();
    overlay.run("CT");
    overlay.await_link("CT", "central");
}

#[test]
fn files_on_a_stick_that_are_damaged_or_swapped_are_told_apart() {
    let overlay = Overlay::central(PROGRAM, HERE);
    let path = |name: &str| overlay.path(name).display().to_string();
    let (request, answer) = (path("request"), path("answer"));
    let _ = overlay.tram("CT", &["pki", "csr", "can-tho", "--out", &request]).ok();
    let sign = |file: &str| {
        let role = ["--role", "province", "--uplink", "central@127.0.0.1:1", "--yes", "--out", &answer];
        overlay.tram("C", &[["pki", "sign", file].as_slice(), &role].concat())
    };
    let good = fs::read(overlay.path("request")).expect("a request");
    overlay.write("cut", &good[..good.len() - 1]);
    sign(&path("cut")).fails(65, &["cut"]);
    sign(&path("missing")).fails(66, &["missing"]);
    let _ = sign(&request).ok();
    sign(&answer).fails(65, &["tramd join --answer"]);
    overlay.tramd("join", "CT", &["--answer", &request]).fails(65, &["tram pki sign"]);
    overlay.tramd("join", "CT", &["--answer", &path("missing")]).fails(66, &["missing"]);
    // Only a node with a CA signs, and no registry appears where there is none.
    overlay
        .tram("CT", &["pki", "sign", &request, "--role", "province", "--uplink", "c@h:1", "--out", &answer, "--yes"])
        .fails(1, &["holds no CA"]);
    assert!(!overlay.path("CT").join("pki/registry.lock").exists());
}

#[test]
fn row_26_names_that_cannot_be_are_refused_with_one_that_can() {
    let overlay = Overlay::central(PROGRAM, HERE);
    let long = "a".repeat(64);
    for (name, suggestion) in [
        ("cần-thơ", "\"can-tho\""),
        ("ca\u{302}\u{300}n tho\u{31b}", "\"can-tho\""),
        ("Đắk Lắk", "\"dak-lak\""),
        ("x..y", "\"x.y\""),
        ("-x", "\"x\""),
        ("x_y", "\"x-y\""),
        ("can-tho.", "\"can-tho\""),
        ("", "empty"),
        (&long, "1-63"),
    ] {
        let name = format!("--name={name}");
        overlay.tramd("init", "X", &["--zone", "tram.internal", &name]).fails(64, &[suggestion]);
        let name = &name["--name=".len()..];
        overlay.tram("C", &["token", "new", "--role", "province", "--", name]).fails(64, &[suggestion]);
        overlay.tram("X", &["pki", "csr", "--out", "/dev/null", "--", name]).fails(64, &[suggestion]);
    }
    assert!(!overlay.path("X").exists());
}
