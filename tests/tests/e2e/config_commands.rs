//! `tram config` and `tram reload`: every mistake at once, every key explained, reloads that meet.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::Value;
use tram_tests::overlay::{Overlay, Ran};

use super::{HERE, PROGRAM};

/// Makes a program `tramd` for `tram` to find, in a directory beside the nodes'.
pub(super) fn with_tramd(overlay: &Overlay) {
    let program = fs::canonicalize(PROGRAM).expect("this program has a path");
    fs::create_dir_all(overlay.path("bin")).expect("made");
    let path = overlay.write("bin/tramd", format!("#!/bin/sh\nexec {} tramd \"$@\"\n", program.display()).as_bytes());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("changed");
}

/// The command `tram` of a machine that has [`with_tramd`].
pub(super) fn tram_beside_tramd(overlay: &Overlay, node: &str) -> Command {
    let mut command = overlay.tram_command(node);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", overlay.path("bin").display()));
    command
}

fn config(overlay: &Overlay, arguments: &[&str]) -> Ran {
    Ran::of(tram_beside_tramd(overlay, "C").arg("config").args(arguments))
}

#[track_caller]
fn key(overlay: &Overlay, name: &str) -> Value {
    config(overlay, &["explain", name, "--json"]).json()["keys"][0].clone()
}

/// Ten mistakes of different kinds; the lines are counted in the test.
const WRONG: &str = r#"titel = "x"
[listn]
[access]
inboxes = ["a/b"]
[[access.rule]]
users = ["no-such-user"]
[[uplink]]
node = "Cần Thơ"
addresses = ["nowhere"]
[[plan.limit]]
link = "children"
most = "much"
[spool]
max = "viel"
keep_free = 5.5
[log]
format = "xml"
"#;

#[test]
fn ten_mistakes_are_reported_at_once_by_whoever_is_asked() {
    let overlay = Overlay::central(PROGRAM, HERE);
    with_tramd(&overlay);
    let good = fs::read_to_string(overlay.path("C").join("tramd.toml")).expect("a config");
    let _ = config(&overlay, &["check"]).ok();
    overlay.reconfigure("C", |_| format!("[node]\n{WRONG}"));
    let expect = [
        (2, "node.titel", "`title`"),
        (3, "listn", "`listen`"),
        (5, "access.inboxes", "a/b"),
        (6, "access.rule[1]", "no-such-user"),
        (9, "uplink[1].node", "Cần Thơ"),
        (10, "uplink[1].addresses", "HOST:PORT"),
        (11, "plan.limit[1]", "2mbit"),
        (15, "spool.max", "50GiB"),
        (16, "spool.keep_free", "64MiB"),
        (18, "log.format", "`json`"),
    ];
    let check = |ran: &Ran, code: i32| {
        assert_eq!(ran.code, code, "{ran:?}");
        let lines: Vec<&str> = ran.err.lines().collect();
        assert_eq!(lines.len(), expect.len(), "{}", ran.err);
        for (line, (number, key, cure)) in lines.iter().zip(expect) {
            let place = format!("tramd.toml: line {number}: {key}: ");
            assert!(line.contains(&place) && line.contains(cure), "{line}");
        }
    };
    check(&config(&overlay, &["check"]), 78);
    let json = config(&overlay, &["check", "--json"]);
    let json: Value = serde_json::from_str(&json.out).expect("an object");
    assert_eq!((&json["valid"], json["faults"].as_array().map(Vec::len)), (&Value::Bool(false), Some(10)));
    check(&overlay.tramd("check", "C", &[] as &[&str]), 78);
    // The node runs on with what is in force, and says both.
    let reload = overlay.tram("C", &["reload"]);
    assert!(expect.iter().all(|(_, key, _)| reload.err.contains(key)) && reload.code == 78, "{reload:?}");
    assert!(config(&overlay, &["show"]).ok().contains("the files have mistakes"));
    overlay.kill("C");
    check(&config(&overlay, &["check"]), 78);
    // Another file is judged alone.
    let other = overlay.write("other.toml", b"[log]\nlevl = 1\n");
    let other = other.to_str().expect("a path");
    config(&overlay, &["check", other]).fails(78, &["other.toml: line 2: log.levl", "`level`"]);
    config(&overlay, &["check", "/no/such/file"]).fails(66, &["/no/such/file"]);
    overlay.reconfigure("C", |_| good);
    let _ = config(&overlay, &["check"]).ok();
}

#[test]
fn a_key_is_explained_with_its_value_its_place_and_what_it_waits_for() {
    let overlay = Overlay::central(PROGRAM, HERE);
    with_tramd(&overlay);
    let file = overlay.path("C").join("tramd.toml");
    let line = |word: &str| {
        let text = fs::read_to_string(&file).expect("a config");
        text.lines().position(|line| line.starts_with(word)).map(|at| at + 1)
    };
    let overlay_key = key(&overlay, "listen.overlay");
    assert_eq!(overlay_key["file"], file.to_str().expect("a path"));
    assert_eq!(overlay_key["line"].as_u64(), line("overlay").map(|at| at as u64));
    assert_eq!((&overlay_key["takes_effect"], &overlay_key["waits"]), (&"restart".into(), &false.into()));
    let default = key(&overlay, "spool.keep_free");
    assert_eq!((&default["value"], &default["default"]), (&Value::Null, &"64MiB".into()));

    // One that reloads and one that does not, both set now.
    overlay.reconfigure("C", |text| {
        format!("{text}\n[[access.rule]]\nusers = [\"root\"]\n[spool]\nkeep_free = \"1GiB\"\n")
    });
    for name in ["spool.keep_free", "access.rule.users"] {
        let waits = key(&overlay, name);
        assert_eq!((&waits["value"], &waits["waits"]), (&Value::Null, &true.into()), "{name}");
    }
    let changed = overlay.tram("C", &["reload", "--json"]).json();
    let expect = [("access.rule", "applied"), ("spool.keep_free", "needs restart")];
    for (number, (name, state)) in expect.into_iter().enumerate() {
        assert_eq!((&changed["keys"][number]["key"], &changed["keys"][number]["state"]), (&name.into(), &state.into()));
    }
    assert_eq!(key(&overlay, "access.rule.users")["value"], "[\"root\"]");
    let waits = key(&overlay, "spool.keep_free");
    assert_eq!((&waits["value"], &waits["next"], &waits["waits"]), (&Value::Null, &"\"1GiB\"".into(), &true.into()));
    let effective = config(&overlay, &["show", "--effective"]).ok();
    assert!(effective.contains("the files say \"1GiB\": needs a restart") && effective.contains("log.format"));
    assert!(!config(&overlay, &["show"]).ok().contains("log.format"), "only what is set or waits");
    overlay.kill("C");
    assert_eq!(key(&overlay, "spool.keep_free")["value"], "\"1GiB\"");
    assert!(config(&overlay, &["explain", "spool"]).ok().contains("in the files"));
    overlay.run("C");
    let now = key(&overlay, "spool.keep_free");
    assert_eq!((&now["value"], &now["waits"]), (&"\"1GiB\"".into(), &false.into()));
    config(&overlay, &["explain", "spool.maxx"]).fails(65, &["spool.maxx", "spool.max", "spool.cache"]);
}

#[test]
fn reloads_that_come_at_once_take_a_change_over_once() {
    let overlay = Overlay::central(PROGRAM, HERE);
    overlay.reconfigure("C", |text| format!("{text}\n[[access.rule]]\nusers = [\"root\"]\n"));
    let commands: Vec<_> = (0..6)
        .map(|_| {
            let mut command = overlay.tram_command("C");
            command.args(["reload", "--json"]).stdout(std::process::Stdio::piped()).spawn().expect("it starts")
        })
        .collect();
    let changes: Vec<Value> = commands
        .into_iter()
        .map(|child| {
            let done = child.wait_with_output().expect("it ends");
            assert!(done.status.success());
            serde_json::from_slice::<Value>(&done.stdout).expect("an object")["keys"].clone()
        })
        .collect();
    let took: Vec<&Value> = changes.iter().filter(|keys| keys[0]["key"] == "access.rule").collect();
    assert_eq!(took.len(), 1, "{changes:?}");
    assert!(changes.iter().filter(|keys| keys.as_array().is_some_and(Vec::is_empty)).count() == 5, "{changes:?}");
}
