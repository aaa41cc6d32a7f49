//! The exit codes scripts depend on, as far as they need no daemon.

use std::ffi::OsString;
use std::path::Path;

fn run(args: &[&str]) -> i32 {
    tram::run(std::iter::once("tram").chain(args.iter().copied()).map(OsString::from))
}

#[track_caller]
fn check(args: &[&str], code: i32) {
    assert_eq!(run(args), code, "tram {}", args.join(" "));
}

#[test]
fn a_command_line_that_cannot_be_meant_is_64_and_help_is_0() {
    const ID: &str = "00000000000000000000000000000000000000000000000000000000000000ff";
    for args in [
        &[][..],
        &["nonsense"],
        &["--json"],
        &["send", "file"],
        &["send", "--to", "vanban", "file"],
        &["send", "--to", "vanban@Cần Thơ", "file"],
        &["send", "--to", "vanban@can-tho"],
        &["send", "--to", "vanban@can-tho", "--precedence", "urgent", "file"],
        &["send", "--to", "vanban@can-tho", "--expires", "soon", "file"],
        &["send", "--to", "vanban@can-tho", "--wait", "read", "file"],
        &["send", "--to", "vanban@can-tho", "--timeout", "0s", "file"],
        &["recv"],
        &["recv", "--inbox", "../x"],
        &["recv", "--inbox", "vanban", "--count", "0"],
        &["trace"],
        &["trace", "123"],
        &["receipt", "show", "xyz"],
        &["receipt", "export", ID],
        &["receipt", "verify", "file"],
        &["inbox", "create", "Văn bản"],
        &["token", "new", "can-tho"],
        &["token", "new", "can-tho", "--role", "king"],
        &["token", "new", "Cần Thơ", "--role", "province"],
        &["status", "--check", "--watch"],
        &["send", "--to", "vanban@can-tho", "--expires", "0s", "file"],
        &["send", "--to", "vanban@can-tho", "--expires", "-3d", "file"],
        &["send", "--to", "vanban@can-tho", "--expires", "181d", "file"],
        &["message"],
        &["message", "cancel", "123"],
        &["message", "recall", ID, "--timeout", "3s"],
        &["message", "status", ID],
        &["message", "status", ID, "--code", "-1"],
        &["message", "list", "--limit", "0"],
        &["inbox", "gaps", "../x"],
        &["inbox", "gaps", "--since", "soon"],
        &["queue", "pause"],
        &["queue", "pause", "Cần Thơ"],
        &["queue", "retry", "123"],
        &["node", "retire"],
        &["node", "accept", "Cần Thơ"],
        &["completions", "cmd"],
        &["pki"],
        &["pki", "lock", "--set", "--remove"],
        &["pki", "audit", "verify", "--head", "5f2c"],
        &["pki", "audit", "export"],
        &["pki", "backup"],
        &["pki", "restore"],
        &["pki", "restore", "file", "--check", "--accept-loss"],
    ] {
        check(args, 64);
    }
    for args in [&["--help"][..], &["send", "--help"], &["--version"], &["help", "recv"]] {
        check(args, 0);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_66_before_a_daemon_is_asked_for() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().to_str().expect("UTF-8");
    let missing = format!("{path}/missing");
    check(&["--dir", path, "send", "--to", "vanban@can-tho", &missing], 66);
    check(&["--dir", path, "send", "--to", "vanban@can-tho", path], 66);
    check(&["receipt", "verify", &missing, "--trust", &missing], 66);
    std::fs::write(dir.path().join("root.pem"), b"no certificate").expect("written");
    let root = format!("{path}/root.pem");
    check(&["receipt", "verify", &missing, "--trust", &root], 65);
}

#[test]
fn without_a_daemon_everything_that_needs_one_is_69() {
    const ID: &str = "00000000000000000000000000000000000000000000000000000000000000ff";
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().to_str().expect("UTF-8");
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").expect("written");
    let file = file.to_str().expect("UTF-8");
    let out = format!("{path}/out");
    for args in [
        &["send", "--to", "vanban@can-tho", file][..],
        &["recv", "--inbox", "vanban", "--out", &out],
        &["trace", ID],
        &["receipt", "show", ID],
        &["receipt", "export", ID, "--out", "x"],
        &["inbox", "list"],
        &["token", "list"],
        &["status"],
        &["status", "--check"],
        &["link", "list", "--json"],
        &["node", "list"],
        &["queue", "list"],
        &["queue", "pause", "uplink"],
        &["queue", "resume", "can-tho"],
        &["queue", "retry"],
        &["node", "retire", "can-tho"],
        &["node", "accept", "can-tho"],
        &["message", "list"],
        &["message", "cancel", ID],
        &["message", "recall", ID, "--wait"],
        &["message", "status", ID, "--code", "7", "--text", "x"],
        &["inbox", "gaps"],
        &["reload"],
        &["spool", "scrub"],
    ] {
        check(&[&["--dir", path], args].concat(), 69);
    }
    let long = format!("{path}/{}", "x".repeat(120));
    check(&["--dir", &long, "status"], 69);
}

#[test]
fn manual_pages_are_made() {
    let dir = tempfile::tempdir().expect("temporary directory");
    check(&["gen-man", dir.path().to_str().expect("UTF-8")], 0);
    assert!(Path::new(&dir.path().join("tram-send.1")).exists());
}
