//! Keys at rest, the audit log, backup and restore, with real daemons.

use std::fs;
use std::path::Path;
use std::process::Command;

use tram_tests::overlay::{Overlay, SOON, until};

use super::{HERE, PROGRAM};

const WORD: &str = "Cần Thơ gạo trắng nước trong";

#[track_caller]
fn problems(overlay: &Overlay, node: &str) -> String {
    overlay.tram(node, &["status", "--json"]).json()["problems"].to_string()
}

fn secret(overlay: &Overlay, name: &str, text: &str) -> String {
    overlay.write(name, text.as_bytes()).to_str().expect("UTF-8").to_owned()
}

#[test]
fn row_19_with_a_locked_ca_documents_flow_and_only_issuing_waits() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    let (word, wrong) = (secret(&overlay, "word", WORD), secret(&overlay, "wrong", "another passphrase"));
    // While it runs, the daemon is asked; what is open stays open until it is closed or restarted.
    let locked = overlay.tram("C", &["pki", "lock", "--set", "--passphrase-file", &word, "--json"]).json();
    assert_eq!(locked["keys"].as_array().map(Vec::len), Some(2), "{locked}");
    assert!(locked["passphrase"].is_null());
    let _ = overlay.token("an-giang", "province", None, &[]);
    overlay.kill("C");
    overlay.run("C");
    assert!(problems(&overlay, "C").contains("`tram pki unlock`"), "{}", problems(&overlay, "C"));
    overlay.tram("C", &["status", "--check"]).fails(1, &["issues no certificates", "ca.key is locked"]);
    overlay.tram("C", &["token", "new", "an-giang", "--role", "province"]).fails(1, &["ca_locked", "tram pki unlock"]);

    // Links and documents know nothing of it.
    overlay.run("CT");
    overlay.await_link("CT", "central");
    let _ =
        overlay.send("CT", "vanban@central", &overlay.path("word"), &["--wait", "arrived", "--timeout", "60s"]).ok();

    overlay
        .tram("C", &["pki", "unlock", "--passphrase-file", &wrong])
        .fails(77, &["passphrase does not open", "ca.key"]);
    let _ = overlay.tram("C", &["pki", "unlock", "--passphrase-file", &word]).ok();
    assert_eq!(problems(&overlay, "C"), "[]");
    let token = overlay.token("an-giang", "province", None, &[]);
    let _ = overlay.join_with("AG", &token, None).ok();
    let _ = overlay.tram("C", &["pki", "lock"]).ok();
    overlay.tram("C", &["token", "new", "ca-mau", "--role", "province"]).fails(1, &["ca_locked"]);

    // systemd's credential opens it at the next start.
    overlay.kill("C");
    overlay.write("tram-ca-passphrase", format!("{WORD}\n").as_bytes());
    let mut by = Command::new("env");
    by.arg(format!("CREDENTIALS_DIRECTORY={}", overlay.path("").display()));
    overlay.run_by("C", by);
    assert_eq!(problems(&overlay, "C"), "[]");

    // Without a daemon the files are changed by the command itself.
    overlay.kill("C");
    overlay.tram("C", &["pki", "lock", "--set"]).fails(1, &["is locked already"]);
    overlay.tram("C", &["pki", "lock", "--remove", "--passphrase-file", &wrong]).fails(77, &["does not open"]);
    let _ = overlay.tram("C", &["pki", "lock", "--remove", "--passphrase-file", &word]).ok();
    overlay.run("C");
    assert_eq!(problems(&overlay, "C"), "[]");
    overlay.tram("C", &["pki", "lock"]).fails(1, &["not_locked", "lock --set"]);
    // A node without a CA has nothing to lock.
    overlay.tram("CT", &["pki", "lock", "--set"]).fails(1, &["no_authority"]);
    overlay.tram("CT", &["pki", "lock"]).fails(1, &["no_authority"]);

    let log = fs::read_to_string(overlay.path("C/pki/audit.log")).expect("readable");
    for event in ["lock_set", "wrong_passphrase", "ca_unlocked", "ca_locked", "lock_removed"] {
        assert!(log.contains(&format!("\"event\":\"{event}\"")), "{event}: {log}");
    }
    let _ = overlay.tram("C", &["pki", "audit", "verify"]).ok();
}

#[test]
fn a_passphrase_that_is_made_here_is_shown_once_and_opens() {
    let overlay = Overlay::new(PROGRAM, HERE);
    let _ = overlay.tramd("init", "C", &["--zone", "tram.internal", "--name", "central"]).ok();
    let made = overlay.tram("C", &["pki", "lock", "--set"]);
    assert!(made.err.contains("write this passphrase down"), "{made:?}");
    let word = secret(&overlay, "word", &made.ok());
    overlay.run("C");
    let _ = overlay.tram("C", &["pki", "unlock", "--passphrase-file", &word]).ok();
    assert_eq!(problems(&overlay, "C"), "[]");
}

#[test]
fn row_24_a_restored_node_comes_back_and_its_ca_waits_until_the_loss_is_accepted() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    let (word, wrong) = (secret(&overlay, "word", WORD), secret(&overlay, "wrong", "another passphrase"));
    let file = overlay.path("central.backup");
    let file = file.to_str().expect("UTF-8");
    // While the daemon runs, and again over the first.
    let weak = secret(&overlay, "weak", "tram");
    overlay.tram("C", &["pki", "backup", file, "--passphrase-file", &weak]).fails(65, &["12 characters"]);
    let _ = overlay.tram("C", &["pki", "backup", file, "--passphrase-file", &word]).ok();
    let made = overlay.tram("C", &["pki", "backup", file, "--passphrase-file", &word, "--json"]).json();
    assert_eq!((&made["tested"], &made["backup"]["zone"]), (&true.into(), &"tram.internal".into()));
    overlay.tram("C", &["pki", "restore", file, "--passphrase-file", &word]).fails(1, &["has keys already"]);
    overlay.tram("C", &["pki", "restore", file, "--check", "--passphrase-file", &wrong]).fails(77, &["does not open"]);
    let told = overlay.tram("C", &["pki", "restore", file, "--check", "--passphrase-file", &word]).ok();
    assert!(told.contains("central.tram.internal") && told.contains("pki/ca.key"), "{told}");

    overlay.kill("C");
    fs::remove_dir_all(overlay.path("C")).expect("the disk is gone");
    let restored = overlay.tram("C", &["pki", "restore", file, "--passphrase-file", &word, "--json"]).json();
    assert_eq!(restored["suspended"], true, "{restored}");
    assert!(!overlay.path("C/spool").exists(), "a spool is never restored");
    let _ = overlay.tramd::<&str>("check", "C", &[]).ok();
    overlay.run("C");
    overlay.run("CT");
    overlay.await_link("CT", "central");
    assert!(problems(&overlay, "C").contains("restored from a backup"), "{}", problems(&overlay, "C"));
    let token = ["token", "new", "an-giang", "--role", "province"];
    overlay.tram("C", &token).fails(1, &["ca_locked", "--accept-loss"]);
    let _ = overlay.tram("C", &["pki", "restore", "--accept-loss"]).ok();
    let _ = overlay.tram("C", &token).ok();
    assert_eq!(problems(&overlay, "C"), "[]");
}

#[test]
fn a_restored_province_learns_from_its_parent_whom_it_has_admitted_and_revoked() {
    let mut overlay = super::pki::with_province();
    let word = secret(&overlay, "word", WORD);
    let file = overlay.path("can-tho.backup");
    let file = file.to_str().expect("UTF-8");
    let _ = overlay.tram("CT", &["pki", "backup", file, "--passphrase-file", &word]).ok();
    super::pki::district(&mut overlay, "NK", "ninh-kieu.can-tho");
    super::pki::district(&mut overlay, "CR", "cai-rang.can-tho");
    let _ = overlay.tram("CT", &["pki", "revoke", "cai-rang.can-tho", "--reason", "key-compromise", "--yes"]).ok();
    let nodes = |overlay: &Overlay| -> Vec<(String, String, bool)> {
        let listed = overlay.tram("CT", &["pki", "list", "--json"]).json();
        let of = |node: &serde_json::Value, key: &str| node[key].as_str().expect("a text").to_owned();
        let nodes = listed["nodes"].as_array().expect("a list").iter().filter(|node| node["registered"] == true);
        nodes.map(|node| (of(node, "name"), of(node, "id"), node["revoked"] == true)).collect()
    };
    let before = nodes(&overlay);
    assert_eq!(before.len(), 2, "{before:?}");
    let (own, copies) = (overlay.path("CT/pki/audit.log"), overlay.path("C/pki/audit-copies"));
    let id = overlay.tram("CT", &["status", "--json"]).json()["node_id"].as_str().expect("an id").to_owned();
    let (log, copy) = (|| fs::read(&own).expect("readable"), copies.join(format!("{id}.log")));
    until("the parent has all of it", SOON, || (log() == fs::read(&copy).expect("kept")).then_some(()));

    overlay.kill("CT");
    fs::remove_dir_all(overlay.path("CT")).expect("the disk is gone");
    let _ = overlay.tram("CT", &["pki", "restore", file, "--passphrase-file", &word]).ok();
    let lost = log().len();
    assert!(lost < fs::read(&copy).expect("kept").len(), "there is something to bring back");
    overlay.run("CT");
    overlay.await_log("CT", &["the CA goes on after its restore"]);
    assert_eq!(nodes(&overlay), before);
    let _ = overlay.tram("CT", &["pki", "audit", "verify"]).ok();
    until("the copy goes on with the log", SOON, || (log() == fs::read(&copy).expect("kept")).then_some(()));
    assert!(!overlay.log("CT").contains("goes on differently"));

    // With --accept-loss it goes on by itself, and the parent's copy is another log until it is set aside.
    overlay.kill("CT");
    fs::remove_dir_all(overlay.path("CT")).expect("the disk is gone");
    let _ = overlay.tram("CT", &["pki", "restore", file, "--passphrase-file", &word, "--accept-loss"]).ok();
    overlay.run("CT");
    overlay.await_log("C", &["is another than the copy here", "tram pki audit set-aside"]);
    overlay.tram("C", &["pki", "audit", "set-aside", "no-such"]).fails(1, &["no-such"]);
    overlay.tram("C", &["pki", "audit", "set-aside", "central"]).fails(1, &["there is no copy"]);
    let said = overlay.tram("C", &["pki", "audit", "set-aside", "can-tho"]).ok();
    assert!(said.contains(".until-"), "{said}");
    overlay.kill("CT");
    overlay.run("CT");
    until("a new copy", SOON, || fs::read(&copy).is_ok_and(|copy| copy == log()).then_some(()));
}

#[test]
fn row_29_an_audit_log_that_was_tampered_with_is_told_line_by_line() {
    let overlay = Overlay::central(PROGRAM, HERE);
    for name in ["can-tho", "an-giang", "ca-mau"] {
        let _ = overlay.tram("C", &["token", "new", name, "--role", "province"]).ok();
    }
    let exported = overlay.path("exported.log");
    let exported = exported.to_str().expect("UTF-8");
    let _ = overlay.tram("C", &["pki", "audit", "export", "--out", exported]).ok();
    let part = overlay.path("part.log");
    let part = part.to_str().expect("UTF-8");
    let _ = overlay.tram("C", &["pki", "audit", "export", "--out", part, "--since", "3"]).ok();
    let found = overlay.tram("C", &["pki", "audit", "verify", "--json"]).json();
    assert_eq!((&found["valid"], &found["lines"]), (&true.into(), &6.into()), "{found}");
    let head = found["head"].as_str().expect("a head").to_owned();
    let check = |arguments: &[&str], code: i32, part: &str| {
        let ran = overlay.tram("C", &[&["pki", "audit", "verify"], arguments].concat());
        if code == 0 { drop(ran.ok()) } else { ran.fails(code, &[part]) }
    };
    check(&["--head", &head, "--copy", exported], 0, "");
    check(&[part, "--since", "3", "--head", &head], 0, "");
    check(&[part], 1, "lines 1 to 2 were removed");
    check(&["--head", "nonsense"], 64, "NUMBER:HASH");
    check(&["/nonexistent"], 66, "/nonexistent");

    let whole = fs::read_to_string(exported).expect("readable");
    let lines: Vec<&str> = whole.lines().collect();
    let write = |lines: &[&str]| {
        let path = overlay.write("tampered.log", (lines.join("\n") + "\n").as_bytes());
        path.to_str().expect("UTF-8").to_owned()
    };
    let edited = lines[1].replace("\"at\":\"2", "\"at\":\"3");
    assert_ne!(edited, lines[1]);
    let rest = &lines[3..];
    check(&[&write(&[&[lines[0], &edited, lines[2]], rest].concat())], 1, "line 2: it was edited");
    check(&[&write(&[&[lines[0], lines[2]], rest].concat())], 1, "line 2: it was removed");
    check(&[&write(&[&[lines[0], lines[2], lines[1]], rest].concat())], 1, "line 2: the lines were reordered");
    let cut = write(&lines[..lines.len() - 1]);
    check(&[&cut], 0, "");
    check(&[&cut, "--head", &head], 1, "line 6: the tail was cut off");
    check(&[&cut, "--copy", exported], 1, "line 6: the tail was cut off");
    assert!(Path::new(&cut).exists());
}
