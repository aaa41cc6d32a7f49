//! The services over real sockets, spoken to by the client library.

mod fake;

use std::sync::Arc;
use std::time::Duration;

use tram_client::{Admin, Client, Error, Inbound, NewMessage, Place};
use tram_proto::id::MessageId;

use super::access::{Access, Id, Rule, Send};
use fake::{NOW_MS, Node};

const ROOM: u64 = 1 << 30;

async fn client(node: &Node) -> Client {
    Client::connect(&Place::dir(node.dir.path())).await.expect("connects")
}

fn to_vanban() -> NewMessage {
    NewMessage {
        to: vec!["vanban@central".parse().expect("address")],
        file_name: "Công văn.pdf".to_owned(),
        subject: "Về việc".to_owned(),
        attributes: vec![("a".to_owned(), "b".to_owned())],
        ..NewMessage::default()
    }
}

async fn open(client: &Client, credit: u32) -> Inbound {
    let inbound = client.receive(&"vanban".parse().expect("inbox"), None).await.expect("opens");
    inbound.grant(credit).await.expect("granted");
    inbound
}

/// Takes one message whole: delivery, id, payload, and whether it came before.
async fn take(inbound: &mut Inbound) -> (u64, MessageId, Vec<u8>, bool) {
    let mut message = inbound.next().await.expect("comes");
    let mut payload = Vec::new();
    while let Some(part) = message.part().await.expect("reads") {
        payload.extend_from_slice(&part);
    }
    let header = message.header();
    let id = tram_client::message_id(&header.id).expect("an id");
    (header.delivery, id, payload, header.redelivered)
}

fn code(result: Result<impl Sized, Error>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.code().map_or_else(|| error.to_string(), str::to_owned),
    }
}

/// Bytes without a period that fits chunks or parts.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251 + i / 65_537) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_of_every_size_come_out_as_they_went_in() {
    let node = Node::start(ROOM);
    let client = client(&node).await;
    let sizes = [0, 1, 64 * 1024, 64 * 1024 + 1, 256 * 1024, 10 * 1024 * 1024 + 3];
    for size in sizes {
        let (sent, mut told) = (payload(size), 0);
        let id = client.send(to_vanban(), &sent[..], |bytes| told = bytes).await.expect("submitted");
        assert_eq!(told, size as u64);
        let mut inbound = open(&client, 1).await;
        let (delivery, came, got, _) = take(&mut inbound).await;
        assert!(came == id && got == sent, "{size} bytes");
        inbound.ack(delivery).await.expect("acknowledged");
        assert_eq!(inbound.settle().await.expect("settled"), 0);
    }
    let mut inbound = open(&client, 1).await;
    assert_eq!(inbound.waiting().await.expect("counted"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_tells_what_the_sender_said() {
    let node = Node::start(ROOM);
    let client = client(&node).await;
    client.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted");
    let mut inbound = open(&client, 1).await;
    let message = inbound.next().await.expect("comes");
    let header = message.header();
    assert_eq!((header.file_name.as_str(), header.subject.as_str(), header.size), ("Công văn.pdf", "Về việc", 1));
    assert_eq!((header.from.as_str(), header.address.as_str()), ("central", "vanban@central"));
    assert_eq!((header.precedence.as_str(), header.attributes[0].key.as_str()), ("routine", "a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_comes_again_at_once_when_the_application_leaves() {
    let node = Node::start(ROOM);
    let client = client(&node).await;
    client.send(to_vanban(), &payload(3_000_000)[..], |_| ()).await.expect("submitted");
    // One leaves in the middle of the payload, one gives back, one keeps.
    let mut first = open(&client, 1).await;
    first.next().await.expect("comes").part().await.expect("reads");
    drop(first);
    let mut second = open(&client, 1).await;
    let came = tokio::time::timeout(Duration::from_secs(10), take(&mut second)).await.expect("at once");
    assert!(came.3, "said to come again");
    second.nack(came.0).await.expect("given back");
    second.grant(1).await.expect("granted");
    let again = take(&mut second).await;
    assert_eq!((again.1, again.2.len()), (came.1, 3_000_000));
    second.ack(again.0).await.expect("acknowledged");
    // An acknowledgement of what is no longer held is told apart.
    second.ack(again.0).await.expect("sent");
    assert_eq!(second.settle().await.expect("settled"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_passes_a_payload_that_nobody_reads() {
    let node = Node::start(ROOM);
    let client = client(&node).await;
    for size in [1, 40_000_000] {
        client.send(to_vanban(), &payload(size)[..], |_| ()).await.expect("submitted");
    }
    let mut inbound = open(&client, 2).await;
    let (delivery, id, ..) = take(&mut inbound).await;
    inbound.ack(delivery).await.expect("sent");
    let mut watch = client.watch(&[id]).await.expect("watches");
    let delivered = async { while watch.next().await.expect("reads").expect("goes on").state != "delivered" {} };
    tokio::time::timeout(Duration::from_secs(10), delivered).await.expect("the second payload is in nobody's way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_the_present_state_and_every_change() {
    let node = Node::start(ROOM);
    let client = client(&node).await;
    let id = client.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted");
    let mut watch = client.watch(&[id]).await.expect("watches");
    let mut all = client.watch(&[]).await.expect("watches all");
    assert_eq!(watch.next().await.expect("reads").expect("one").state, "submitted");
    assert_eq!(all.next().await.expect("reads").expect("one").state, "submitted");
    let mut inbound = open(&client, 1).await;
    let (delivery, ..) = take(&mut inbound).await;
    inbound.ack(delivery).await.expect("acknowledged");
    for state in ["arrived", "delivered"] {
        let one = watch.next().await.expect("reads").expect("one");
        assert_eq!((one.state.as_str(), one.terminal, one.negative), (state, state == "delivered", false));
        assert_eq!(all.next().await.expect("reads").expect("one").state, state);
    }
    let mut late = client.watch(&[id]).await.expect("watches");
    assert_eq!(late.next().await.expect("reads").expect("one").state, "delivered");
    assert_eq!(code(client.watch(&[MessageId([9; 32])]).await), "no_such_message");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_joins_what_is_remembered_receipts_and_live_answers() {
    let node = Node::start(ROOM);
    let client = client(&node).await;
    let id = client.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted");
    let hops = |trace: &tram_client::TraceAnswer| -> Vec<(String, String, u64)> {
        trace.hops.iter().map(|hop| (hop.node.clone(), hop.state.clone(), hop.at_ms - NOW_MS)).collect()
    };
    let hop = |node: &str, state: &str, at: u64| (node.to_owned(), state.to_owned(), at);
    let before = client.trace(id, 0).await.expect("traced");
    assert_eq!(hops(&before), [hop("central", "submitted", 0), hop("can-tho", "relayed", 7)]);
    assert_eq!((before.state.as_str(), before.complete), ("submitted", true));

    let mut inbound = open(&client, 1).await;
    let (delivery, ..) = take(&mut inbound).await;
    inbound.ack(delivery).await.expect("acknowledged");
    inbound.settle().await.expect("settled");
    let after = client.trace(id, 0).await.expect("traced");
    let way = [hop("central", "submitted", 0), hop("can-tho", "relayed", 5), hop("ninh-kieu.can-tho", "delivered", 8)];
    assert_eq!(hops(&after), way);
    assert_eq!((after.state.as_str(), after.recipients.len()), ("delivered", 1));

    let receipts = client.receipts(id).await.expect("receipts");
    assert_eq!((receipts.receipts.len(), receipts.chains.len()), (2, 1));
    assert_eq!(code(client.trace(MessageId([9; 32]), 0).await), "no_such_message");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_no_has_its_stable_word() {
    let node = Node::start(4 * 1024 * 1024);
    let client = client(&node).await;
    let labelled = NewMessage { label: "mat".to_owned(), ..to_vanban() };
    assert_eq!(code(client.send(labelled, &b"x"[..], |_| ()).await), "label_not_permitted");
    assert_eq!(code(client.send(NewMessage { to: Vec::new(), ..to_vanban() }, &b"x"[..], |_| ()).await), "invalid");
    let long = NewMessage { subject: "x".repeat(5000), ..to_vanban() };
    assert_eq!(code(client.send(long, &b"x"[..], |_| ()).await), "invalid");
    let full = client.send(to_vanban(), &payload(16 * 1024 * 1024)[..], |_| ()).await.expect_err("full");
    assert!(full.code() == Some("spool_full") && full.retryable(), "{full}");
    assert_eq!(code(client.receive(&"khan".parse().expect("inbox"), None).await), "no_such_inbox");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_payload_is_no_message() {
    use tokio::io::AsyncReadExt as _;
    struct Unplugged;
    impl tokio::io::AsyncRead for Unplugged {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("unplugged")))
        }
    }
    let node = Node::start(ROOM);
    let client = client(&node).await;
    for size in [0, 1000, 3_000_000] {
        let part = payload(size);
        let error = client.send(to_vanban(), part.as_slice().chain(Unplugged), |_| ()).await.expect_err("fails");
        assert!(matches!(error, Error::Payload(_)), "{error}");
    }
    let mut inbound = open(&client, 1).await;
    assert_eq!(inbound.waiting().await.expect("counted"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused_until_a_rule_lets_him() {
    // Rules are read at each call, so the same connection feels the change. The test's user stands for another one.
    let node = Node::start(ROOM);
    let client = client(&node).await;
    let me = nix::unistd::Uid::effective().as_raw();
    let vanban = "vanban".parse().expect("inbox");
    node.access.send_replace(Arc::new(Access::nobody_own()));
    assert_eq!(code(client.send(to_vanban(), &b"x"[..], |_| ()).await), "not_permitted");
    assert_eq!(code(client.receive(&vanban, None).await), "not_permitted");
    assert_eq!(code(client.inboxes().await), "not_permitted");
    let admin = Admin::connect(&Place::dir(node.dir.path())).await.expect("connects");
    assert_eq!(code(admin.status().await), "not_permitted");

    let rule = Rule {
        users: vec![Id::Number(me)],
        inboxes: vec!["khan".to_owned()],
        send: Send::Precedences(vec!["routine".to_owned()]),
        ..Rule::default()
    };
    node.access.send_replace(Arc::new(Access::nobody_own().with(&[rule])));
    let id = client.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted");
    assert_eq!(code(client.trace(id, 0).await), "ok");
    let flash = NewMessage { precedence: Some(tram_proto::envelope::Precedence::Flash), ..to_vanban() };
    assert_eq!(code(client.send(flash, &b"x"[..], |_| ()).await), "not_permitted");
    let posing = NewMessage { from: Some(vanban.clone()), ..to_vanban() };
    assert_eq!(code(client.send(posing, &b"x"[..], |_| ()).await), "not_permitted");
    assert_eq!(code(client.receive(&vanban, None).await), "not_permitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_sees_the_node_and_changes_inboxes() {
    let node = Node::start(ROOM);
    let admin = Admin::connect(&Place::dir(node.dir.path())).await.expect("connects");
    let status = admin.status().await.expect("answers");
    assert_eq!(
        (status.node.as_str(), status.role.as_str(), status.links[0].state.as_str()),
        ("central", "central", "connecting")
    );
    assert_eq!(status.problems.len(), 2, "{:?}", status.problems);
    let khan = "khan".parse().expect("inbox");
    admin.create_inbox(&khan).await.expect("created");
    assert_eq!(admin.inboxes().await.expect("lists").len(), 2);
    admin.remove_inbox(&khan).await.expect("removed");
    assert_eq!(code(admin.remove_inbox(&khan).await), "no_such_inbox");
    assert_eq!(code(admin.tokens().await), "no_authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_open_streams_and_removes_the_sockets() {
    let node = Node::start(ROOM);
    let client = client(&node).await;
    let mut inbound = open(&client, 1).await;
    let mut watch = client.watch(&[]).await.expect("watches");
    node.stop.send_replace(true);
    assert_eq!(code(inbound.next().await), "stopping");
    assert_eq!(code(watch.next().await), "stopping");
    drop((inbound, watch, client));
    tokio::time::timeout(Duration::from_secs(5), node.served).await.expect("ends").expect("well");
    assert!(!node.dir.path().join("app.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_just_starting_is_waited_for_and_a_missing_one_is_not() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let error = Client::connect(&Place::dir(dir.path())).await.expect_err("nobody");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let node = Node::start(ROOM);
    std::fs::write(dir.path().join("tramd.toml"), b"").expect("written");
    let (from, to) = (node.dir.path().join("app.sock"), dir.path().join("app.sock"));
    let place = Place::dir(dir.path());
    let connecting = Client::connect(&place);
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        std::os::unix::fs::symlink(from, to).expect("linked");
    };
    let (connected, ()) = tokio::join!(connecting, later);
    connected.expect("waited for");
}
