//! What senders get wrong: recipients, inboxes, files, labels, deadlines, keys. Each gets its exit code and its reason.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use tram_client::{Client, NewMessage, Place};
use tram_proto::name::Inbox;
use tram_tests::overlay::{Overlay, SOON, until};

use super::{HERE, PROGRAM};

const WAIT: [&str; 4] = ["--wait", "arrived", "--timeout", "30s"];

/// Central, and a province below it.
fn pair() -> Overlay {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.run("CT");
    overlay.await_link("CT", "central");
    overlay
}

#[test]
fn a_message_for_nobody_ends_with_the_reason() {
    let overlay = pair();
    let file = overlay.write("a.txt", b"a");
    // Asked of the node that knows every name, and of one that has to ask it.
    for from in ["C", "CT"] {
        overlay.send(from, "vanban@ca-mau", &file, &WAIT).fails(1, &["vanban@ca-mau", "no_such_node"]);
    }
    overlay.send("CT", "khong-co@central", &file, &WAIT).fails(1, &["khong-co@central", "no_such_inbox"]);
    overlay.send("C", "khong-co@can-tho", &file, &WAIT).fails(1, &["no_such_inbox"]);
    overlay.send("C", "khong-co@central", &file, &WAIT).fails(1, &["no_such_inbox"]);
    overlay.tram("C", &["recv", "--inbox", "khong-co", "--timeout", "5s"]).fails(1, &["no_such_inbox"]);

    // A receipt vouches for the bad end as well.
    let sent = overlay.send("CT", "khong-co@central", &file, &WAIT);
    let trace = overlay.tram("CT", &["trace", sent.out.trim(), "--json"]).json();
    assert_eq!(trace["recipients"][0]["reason"], "no_such_inbox", "{trace:#}");
    assert_eq!(trace["recipients"][0]["state"], "undeliverable", "{trace:#}");
    let _ = overlay.tram("C", &["inbox", "create", "khong-co"]).ok();
    let _ = overlay.send("CT", "khong-co@central", &file, &WAIT).ok();
}

#[test]
fn an_inbox_is_a_plain_word() {
    let overlay = pair();
    let file = overlay.write("a.txt", b"a");
    for inbox in ["a/b", "..", "../a", "a b", "", ".tram", "A", "a\n", "văn-bản", &"x".repeat(65)] {
        overlay.send("C", &format!("{inbox}@central"), &file, &[]).fails(64, &["--to"]);
        overlay.tram("C", &["inbox", "create", inbox]).fails(64, &["INBOX"]);
        overlay.tram("C", &["recv", "--inbox", inbox]).fails(64, &["--inbox"]);
    }
    // No argument can hold a NUL; a config can, see `config`, and so can other clients.
    assert!("a\0b".parse::<Inbox>().is_err());
    overlay.send("C", "vanban", &file, &[]).fails(64, &["--to"]);
    overlay.send("C", "vanban@", &file, &[]).fails(64, &["--to"]);
    overlay.send("C", "vanban@Central", &file, &[]).fails(64, &["--to"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let overlay = pair();
    let missing = overlay.path("không có.txt");
    overlay.send("C", "vanban@central", &missing, &[]).fails(66, &["không có.txt", "No such file"]);
    overlay.send("C", "vanban@central", &overlay.path("C"), &[]).fails(66, &["directory"]);
    let ran = overlay.tram("C", &["receipt", "verify", "không có", "--trust", "không có"]);
    ran.fails(66, &["không có", "No such file"]);
}

#[test]
fn file_names_from_elsewhere_arrive_as_safe_ones() {
    let overlay = pair();
    let newline = overlay.write("dòng\nmới.txt", b"newline");
    let bytes = overlay.write(OsStr::from_bytes(b"s\xff\xfe.txt"), b"not UTF-8");
    for file in [&newline, &bytes] {
        let _ = overlay.send("CT", "vanban@central", file, &WAIT).ok();
    }
    // No disk holds these names, but an application can give them.
    let title = "Quyết định về việc ban hành quy chế ".repeat(8);
    let title: String = title
        .chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= 294).then_some(c)
        })
        .collect();
    let long = format!("{title}{}.pdf", "x".repeat(294 - title.len()));
    assert_eq!(long.len(), 298);
    let names = ["../../etc/passwd", "..", "a/b\\c\0d.txt", ".tram", "", &long];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(&Place::dir(&overlay.path("CT"))).await.expect("it answers");
        for name in names {
            let to = vec!["vanban@central".parse().expect("an address")];
            let message = NewMessage { to, file_name: name.to_owned(), ..NewMessage::default() };
            client.send(message, name.as_bytes(), |_| {}).await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        }
    });
    let count = 2 + names.len();
    let lines = {
        let out = overlay.path("out");
        let count = count.to_string();
        let mut command = overlay.tram_command("C");
        command.args(["--json", "recv", "--inbox", "vanban", "--count", &count, "--timeout", "30s", "--out"]).arg(&out);
        tram_tests::overlay::Ran::of(&mut command).ok()
    };
    let told: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(told.len(), count);
    let mut written = Vec::new();
    for message in &told {
        let path = std::path::Path::new(message["path"].as_str().expect("a path"));
        let name = path.file_name().and_then(OsStr::to_str).expect("UTF-8").to_owned();
        assert_eq!(path.parent(), Some(overlay.path("out").as_path()), "{message}");
        assert!(name.len() <= 255 && !name.starts_with('.') && !name.contains(|c: char| c.is_control()), "{name:?}");
        written.push((name, fs::read(path).expect("written")));
    }
    let find = |content: &[u8]| written.iter().find(|(_, bytes)| bytes == content).map(|(name, _)| name.as_str());
    assert_eq!(find(b"newline"), Some("dòng_mới.txt"));
    assert_eq!(find(b"not UTF-8"), Some("s\u{fffd}\u{fffd}.txt"));
    assert_eq!(find(b"../../etc/passwd"), Some("_.._etc_passwd"));
    assert_eq!(find(b"a/b\\c\0d.txt"), Some("a_b_c_d.txt"));
    assert_eq!(find(b".tram"), Some("tram"));
    let short = find(long.as_bytes()).expect("it came");
    assert!(short.ends_with(".pdf") && long.starts_with(short.trim_end_matches(".pdf")), "{short}");
    // The whole title is told beside the file.
    assert!(told.iter().any(|message| message["file_name"] == long.as_str()));
}

#[test]
fn a_label_is_refused_unless_the_config_permits_it() {
    let overlay = pair();
    let file = overlay.write("a.txt", b"a");
    overlay.send("C", "vanban@central", &file, &["--label", "mat"]).fails(77, &["label_not_permitted", "mat"]);
    assert_eq!(overlay.tram("C", &["status", "--json"]).json()["spool"]["messages"], 0);
}

#[test]
fn a_wait_ends_at_its_timeout_and_the_message_goes_on() {
    let overlay = pair();
    let file = overlay.write("a.txt", b"a");
    overlay.kill("CT");
    let ran = overlay.send("C", "vanban@can-tho", &file, &["--wait", "arrived", "--timeout", "1s"]);
    ran.fails(124, &["still under way", "tram trace"]);
    assert_eq!(ran.out.trim().len(), 64, "the id is known all the same: {ran:?}");
    let out = overlay.path("out").display().to_string();
    let recv = ["recv", "--inbox", "vanban", "--count", "1", "--timeout", "1s", "--out", &out];
    overlay.tram("C", &recv).fails(124, &[]);
    overlay.run("CT");
    let _ = overlay.recv("CT", "out", 1).ok();
}

#[test]
fn a_key_makes_a_repeated_send_the_same_message() {
    let overlay = pair();
    let (a, b) = (overlay.write("a.txt", b"a"), overlay.write("b.txt", b"b"));
    let large = overlay.write("large.bin", &[1; 300_000]);
    let first = overlay.send("C", "vanban@can-tho", &a, &["--key", "số 12"]).ok();
    assert_eq!(overlay.send("C", "vanban@can-tho", &a, &["--key", "số 12"]).ok(), first);
    overlay.send("C", "vanban@can-tho", &b, &["--key", "số 12"]).fails(65, &["key_taken"]);
    overlay.send("C", "vanban@can-tho", &large, &["--key", "số 12"]).fails(65, &["key_taken"]);
    overlay.kill("C");
    overlay.run("C");
    assert_eq!(overlay.send("C", "vanban@can-tho", &a, &["--key", "số 12"]).ok(), first, "also after a crash");
    let _ = overlay.recv("CT", "out", 1).ok();
    until("nothing is left of it", SOON, || {
        (overlay.tram("C", &["status", "--json"]).json()["spool"]["messages"] == 0).then_some(())
    });
    assert_eq!(overlay.send("C", "vanban@can-tho", &a, &["--key", "số 12"]).ok(), first, "also after delivery");
    assert_eq!(overlay.recv_all("CT", "out").ok(), "");
}
