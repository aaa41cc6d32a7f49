//! What admins get wrong: configs, directories, daemons that do not run.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;

use tram_tests::overlay::{Overlay, Ran};

use super::{HERE, PROGRAM};

const INIT: [&str; 4] = ["--zone", "tram.internal", "--name", "central"];

/// `run` and `check` say the same about a config.
#[track_caller]
fn check_refused(overlay: &Overlay, code: i32, naming: &[&str]) {
    for command in ["run", "check"] {
        overlay.tramd(command, "C", &[] as &[&str]).fails(code, naming);
    }
}

#[test]
fn a_config_that_cannot_be_used_is_named_with_line_and_key() {
    let overlay = Overlay::new(PROGRAM, HERE);
    check_refused(&overlay, 78, &["tramd.toml", "tramd init"]);
    let _ = overlay.tramd("init", "C", &INIT).ok();
    let good = fs::read_to_string(overlay.path("C").join("tramd.toml")).expect("a config");
    let line = good.lines().count() + 2;
    for (bad, naming) in [
        ("[spool]\nmaximum = \"1GiB\"\n", ["maximum", "keep_free"]),
        ("[spool]\nmax = \"viel\"\n", ["max", "viel"]),
        ("[log]\nlevel = 5\n", ["level", "string"]),
    ] {
        overlay.reconfigure("C", |_| format!("{good}{bad}"));
        check_refused(&overlay, 78, &["tramd.toml", &format!("line {line}"), naming[0], naming[1]]);
    }
    overlay.reconfigure("C", |_| good.replace("\"vanban\"", "\"a\\u0000b\""));
    check_refused(&overlay, 78, &["tramd.toml", "access.inboxes"]);
    overlay.reconfigure("C", |_| good.replace("\"vanban\"", "\"../b\""));
    check_refused(&overlay, 78, &["tramd.toml", "access.inboxes", "../b"]);
    overlay.reconfigure("C", |_| good);
    let _ = overlay.tramd("check", "C", &[] as &[&str]).ok();
}

#[test]
fn a_socket_path_that_the_kernel_would_not_take_is_named() {
    let overlay = Overlay::new(PROGRAM, HERE);
    let long = "x".repeat(100);
    // Whoever makes the node learns it, or at the latest whoever runs it.
    let init = overlay.tramd("init", &long, &INIT);
    let ran = if init.code == 0 { overlay.tramd("run", &long, &[] as &[&str]) } else { init };
    ran.fails(78, &["socket path", ".sock", "107", "shorter --dir"]);
    overlay.tram(&long, &["status"]).fails(69, &[".sock", "107"]);
}

#[test]
fn a_directory_belongs_to_one_node_and_one_daemon() {
    let mut overlay = Overlay::new(PROGRAM, HERE);
    let listen = overlay.listen("C");
    let _ = overlay.tramd("init", "C", &[&INIT[..], &["--listen", &listen]].concat()).ok();
    overlay.tramd("init", "C", &INIT).fails(1, &["set up already"]);
    let busy = UdpSocket::bind(&listen).expect("free");
    overlay.tramd("run", "C", &[] as &[&str]).fails(74, &[&listen, "in use"]);
    drop(busy);
    overlay.run("C");
    let second = overlay.tramd("run", "C", &[] as &[&str]);
    assert!(second.code == 74 || second.code == 78, "{second:?}");
    assert!(second.err.contains("C/spool") || second.err.contains("another daemon"), "{second:?}");
    // The first one never noticed.
    let _ = overlay.tram("C", &["status", "--check"]).ok();
}

#[test]
fn a_daemon_that_does_not_run_is_told_from_a_directory_without_one() {
    let overlay = Overlay::new(PROGRAM, HERE);
    let file = overlay.write("a.txt", b"a");
    overlay.send("C", "vanban@central", &file, &[]).fails(69, &["C/app.sock"]);
    overlay.tram("C", &["status"]).fails(69, &["C/admin.sock"]);
    let _ = overlay.tramd("init", "C", &INIT).ok();
    overlay.send("C", "vanban@central", &file, &[]).fails(69, &["C/app.sock", "tramd"]);
    // A socket file that a killed daemon left behind.
    overlay.run("C");
    overlay.kill("C");
    overlay.tram("C", &["link", "list", "--json"]).fails(69, &["C/admin.sock"]);
}

#[test]
fn wrong_arguments_are_a_usage_error() {
    for program in ["tramd", "tram"] {
        for arguments in [&["--nonsense"] as &[&str], &["nonsense"], &[]] {
            Ran::of(Command::new(PROGRAM).arg(program).args(arguments)).fails(64, &["Usage"]);
        }
        let _ = Ran::of(Command::new(PROGRAM).args([program, "--version"])).ok();
    }
}
