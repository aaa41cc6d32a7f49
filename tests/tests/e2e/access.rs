//! What scripts and other users of the machine get: the shapes of JSON, and what the rules allow.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde_json::Value;
use tram_tests::overlay::{Overlay, Ran};

use super::{HERE, PROGRAM};

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "{key} is missing: {value:#}");
    }
}

#[test]
fn json_has_the_keys_that_scripts_depend_on() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.run("CT");
    overlay.await_link("CT", "central");
    let file = overlay.write("a.txt", b"a");
    let id = overlay.send("CT", "vanban@central", &file, &["--wait", "arrived", "--timeout", "30s"]).ok();

    let status = overlay.tram("CT", &["status", "--json"]).json();
    assert_keys(&status, &["node", "role", "links", "queues", "certificates", "spool", "inboxes", "version"]);
    assert_eq!((&status["node"], &status["role"]), (&"can-tho".into(), &"province".into()));
    assert_keys(&status["certificates"][0], &["name", "kind", "not_after"]);
    assert_keys(&status["spool"], &["messages", "receipts", "room_bytes"]);

    let links = overlay.tram("CT", &["link", "list", "--json"]).json();
    let link = &links["links"][0];
    assert_keys(
        link,
        &["peer", "state", "side", "address", "since", "rtt_us", "sent_bytes", "received_bytes", "error"],
    );
    assert_eq!((&link["peer"], &link["state"], &link["side"]), (&"central".into(), &"up".into(), &"up".into()));
    // A parent that is not there; one that dies is noticed after 45 s of silence, or as soon as it is back.
    overlay.kill("CT");
    overlay.kill("C");
    overlay.run("CT");
    let down = overlay.links("CT");
    assert!(["down", "connecting"].contains(&down[0]["state"].as_str().expect("a state")), "{down:?}");
    overlay.run("C");
    overlay.await_link("CT", "central");

    let trace = overlay.tram("CT", &["trace", &id, "--json"]).json();
    assert_keys(&trace, &["id", "state", "hops", "recipients"]);
    assert_keys(&trace["hops"][0], &["node", "state", "at"]);
    assert_keys(&trace["recipients"][0], &["address", "state", "at", "reason"]);

    let nodes = overlay.tram("C", &["node", "list", "--json"]).json();
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(2), "{nodes:#}");
    assert_keys(&overlay.tram("C", &["queue", "list", "--json"]).json(), &["queues"]);
    assert_keys(&overlay.tram("C", &["token", "list", "--json"]).json()["tokens"][0], &["id", "name", "role", "state"]);
    let inboxes = overlay.tram("C", &["inbox", "list", "--json"]).json();
    assert_eq!((&inboxes["inboxes"][0]["name"], &inboxes["inboxes"][0]["messages"]), (&"vanban".into(), &1.into()));
    let sent = overlay.tram("CT", &["--json", "send", "--to", "vanban@central", &file.display().to_string()]).json();
    assert_keys(&sent, &["id", "state"]);
    assert_keys(
        &overlay.tram("CT", &["receipt", "show", &id, "--json"]).json()["receipts"][0],
        &["address", "state", "node", "at"],
    );
}

#[test]
fn two_users_of_one_machine_get_what_the_rules_say() {
    let overlay = Overlay::new(PROGRAM, HERE);
    // Only root can become somebody else.
    if fs::metadata(overlay.path(".")).map(|m| std::os::unix::fs::MetadataExt::uid(&m)).ok() != Some(0) {
        println!("skipped: this test needs root to act as two users");
        return;
    }
    const ALLOWED: u32 = 65_533;
    const OTHER: u32 = 65_534;
    // A place and a program that everybody can reach.
    let open = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    open(&overlay.path("."), 0o755);
    let program = overlay.path("tram-tests");
    fs::copy(PROGRAM, &program).expect("copied");
    open(&program, 0o755);
    let file = overlay.write("a.txt", b"a");
    let secret = overlay.write("b.txt", b"b");
    open(&file, 0o644);
    open(&secret, 0o600);
    let (out, other_out) = (overlay.path("out"), overlay.path("other-out"));
    for dir in [&out, &other_out] {
        fs::create_dir(dir).expect("made");
        open(dir, 0o777);
    }

    let _ = overlay.tramd("init", "C", &["--zone", "tram.internal", "--name", "central"]).ok();
    let rule = format!(
        "\n[[access.rule]]\nusers = [{ALLOWED}]\ninboxes = [\"vanban\"]\nsend = [\"routine\", \"immediate\"]\n"
    );
    overlay.reconfigure("C", |text| text + &rule);
    overlay.run("C");
    let tram = |user: u32, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("tram").arg("--dir").arg(overlay.path("C")).args(arguments).uid(user).gid(user);
        Ran::of(&mut command)
    };
    let [file, secret, out, other_out] = [file, secret, out, other_out].map(|path| path.display().to_string());
    let send = ["send", "--to", "vanban@central", &file];
    let recv = ["recv", "--inbox", "vanban", "--out", &out, "--count", "1", "--timeout", "10s"];
    let _ = tram(ALLOWED, &send).ok();
    let _ = tram(ALLOWED, &recv).ok();
    tram(ALLOWED, &["send", "--to", "vanban@central", "--precedence", "flash", &file]).fails(77, &["flash"]);
    tram(OTHER, &send).fails(77, &["not_permitted", "[access]"]);
    let elsewhere = ["recv", "--inbox", "vanban", "--out", &other_out];
    tram(OTHER, &elsewhere).fails(77, &["not_permitted", "[access]"]);
    for user in [ALLOWED, OTHER] {
        tram(user, &["status"]).fails(77, &["admin.sock"]);
        tram(user, &["send", "--to", "vanban@central", &secret]).fails(66, &["b.txt", "ermission"]);
    }
}
