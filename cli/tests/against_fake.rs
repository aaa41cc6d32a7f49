//! Exit codes and files of the command, with the client library's fake node at the other end.

use std::ffi::OsString;

use tram_client::NewMessage;
use tram_client::fake::{Fake, Reason, State};
use tram_proto::id::MessageId;
use tram_proto::name::Address;

fn start() -> Fake {
    Fake::start("can-tho", &["vanban"]).expect("starts")
}

fn address(text: &str) -> Address {
    text.parse().expect("address")
}

/// Runs the command beside the node, as a process of its own would.
#[track_caller]
fn check(fake: &Fake, args: &[&str], code: i32) -> impl Future<Output = ()> {
    let text = args.join(" ");
    let mut all: Vec<OsString> = vec!["tram".into(), "--dir".into(), fake.dir().into()];
    all.extend(args.iter().map(OsString::from));
    let place = std::panic::Location::caller();
    async move {
        let ended = tokio::task::spawn_blocking(move || tram::run(all)).await.expect("no panic");
        assert_eq!(ended, code, "tram {text}, at {place}");
    }
}

/// Sends a file and says its id.
async fn send(fake: &Fake, to: &str) -> MessageId {
    let file = fake.dir().join("công văn.txt");
    std::fs::write(&file, "nội dung").expect("written");
    check(fake, &["send", "--to", to, file.to_str().expect("UTF-8")], 0).await;
    fake.sent().last().expect("sent").id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_taken_back_in_time_or_not() {
    let fake = start();
    fake.hold();
    let id = send(&fake, "vanban@central").await.to_string();
    check(&fake, &["message", "cancel", &id], 0).await;
    check(&fake, &["message", "cancel", &id], 1).await;
    let id = send(&fake, "vanban@central").await.to_string();
    check(&fake, &["message", "recall", &id, "--wait", "--json"], 0).await;
    fake.release();
    let id = send(&fake, "vanban@central").await.to_string();
    check(&fake, &["message", "recall", &id, "--wait"], 1).await;
    check(&fake, &["message", "cancel", &"0".repeat(64)], 1).await;
    check(&fake, &["message", "list"], 0).await;
    check(&fake, &["message", "list", "--limit", "2", "--json"], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_said_after_the_message_was_received() {
    let fake = start();
    let id =
        fake.bring("khan@central", NewMessage { to: vec![address("vanban@can-tho")], ..NewMessage::default() }, "x");
    let (text, out) = (id.to_string(), fake.dir().join("out"));
    let status = ["message", "status", &text, "--code", "200", "--text", "vào sổ"];
    check(&fake, &status, 1).await;
    check(&fake, &["recv", "--inbox", "vanban", "--out", out.to_str().expect("UTF-8")], 0).await;
    check(&fake, &status, 0).await;
    let said = &fake.recipients(id)[0];
    assert_eq!((said.state.as_str(), said.code, said.detail.as_str()), ("status", 200, "vào sổ"));
    check(&fake, &["message", "status", &text, "--code", "1", "--text", &"x".repeat(1025)], 65).await;
    check(&fake, &["trace", &text, "--json"], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn try_again_a_bad_end_and_a_lifetime_have_their_exit_codes() {
    let fake = start();
    let file = fake.dir().join("file");
    std::fs::write(&file, b"x").expect("written");
    let file = file.to_str().expect("UTF-8");
    fake.try_again(1);
    check(&fake, &["send", "--to", "vanban@central", file], 75).await;
    check(&fake, &["send", "--to", "vanban@central", "--expires", "2w", file], 0).await;
    assert_eq!(fake.sent()[0].message.lifetime_ms, Some(14 * 24 * 3_600_000));
    check(&fake, &["send", "--to", "vanban@central", "--label", "mat", file], 77).await;
    fake.refuse(&address("vanban@central"), State::Undeliverable, Reason::NoSuchNode);
    check(&fake, &["send", "--to", "vanban@central", "--wait", "arrived", file], 1).await;
    fake.hold();
    check(&fake, &["send", "--to", "vanban@hue", "--wait", "arrived", "--timeout", "300ms", file], 124).await;
    check(&fake, &["send", "--to", "vanban@hue", "--expires", "181d", file], 64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recv_writes_a_message_once_however_often_it_comes() {
    let fake = start();
    let new = NewMessage { to: vec![address("vanban@can-tho")], file_name: "a.txt".into(), ..NewMessage::default() };
    let id = fake.bring("khan@central", new, "nội dung");
    let out = fake.dir().join("out");
    let recv = ["recv", "--inbox", "vanban", "--out", out.to_str().expect("UTF-8")];
    fake.lose_acks(1);
    check(&fake, &recv, 0).await;
    check(&fake, &recv, 0).await;
    assert_eq!(fake.redeliver(id), 1);
    check(&fake, &recv, 0).await;
    assert_eq!(fake.recipients(id)[0].state, "delivered");
    let files = std::fs::read_dir(&out).expect("there").map(|entry| entry.expect("an entry").file_name());
    let names: Vec<_> = files.filter(|name| !name.to_string_lossy().starts_with('.')).collect();
    assert_eq!(names, ["a.txt"]);
    assert_eq!(std::fs::read_to_string(out.join("a.txt")).expect("reads"), "nội dung");
}
