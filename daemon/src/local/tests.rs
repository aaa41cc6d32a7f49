//! The services over real sockets, spoken to by the client library.

pub(super) mod fake;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use tram_client::{Admin, Client, Error, Inbound, NewMessage, Place};
use tram_proto::id::MessageId;

use super::access::{Access, Id, Rule, Send};
use fake::{NOW_MS, Node, body_from, put_from};

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
    let hub = status.links.iter().find(|link| link.peer == "hub").expect("listed");
    assert_eq!((status.node.as_str(), status.role.as_str(), hub.state.as_str()), ("central", "central", "connecting"));
    assert_eq!(status.problems.len(), 3, "{:?}", status.problems);
    // A neighbour that is held is named with the cure, among the problems and in the list of links.
    assert!(status.problems.iter().any(|p| p.contains("can-tho") && p.contains("tram node accept")), "{status:?}");
    assert_eq!(status.held, ["can-tho"]);
    let links = admin.links().await.expect("lists");
    let held = links.iter().find(|link| link.peer == "can-tho").expect("listed");
    assert!(held.state == "held" && held.error.contains("tram node accept can-tho"), "{held:?}");
    let khan = "khan".parse().expect("inbox");
    admin.create_inbox(&khan).await.expect("created");
    assert_eq!(admin.inboxes().await.expect("lists").len(), 2);
    admin.remove_inbox(&khan).await.expect("removed");
    assert_eq!(code(admin.remove_inbox(&khan).await), "no_such_inbox");
    assert_eq!(code(admin.tokens().await), "no_authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_says_what_applied_and_what_is_wrong() {
    let node = Node::start(ROOM);
    let admin = Admin::connect(&Place::dir(node.dir.path())).await.expect("connects");
    let keys: Vec<_> =
        admin.reload().await.expect("reloads").into_iter().map(|change| (change.key, change.applied)).collect();
    assert_eq!(keys, [("access.rule".to_owned(), true), ("listen.overlay".to_owned(), false)]);
    let error = admin.reload().await.expect_err("refused");
    assert_eq!(error.code(), Some("config"));
    assert!(error.to_string().contains("line 3") && error.to_string().contains("nothing was changed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_register_tells_which_numbers_are_missing() {
    let node = Node::start(ROOM);
    let client = client(&node).await;
    for (number, row) in [1, 2, 4, 7, 8].into_iter().zip(100..) {
        put_from(&*node.spool, row, &body_from("khan", number));
    }
    // Another release's messages have no numbers, and those of another life count anew.
    put_from(&*node.spool, 200, &tram_proto::envelope::Body { pair_sequences: Vec::new(), ..body_from("khan", 3) });
    let again = tram_proto::id::Incarnation([3; 16]);
    put_from(&*node.spool, 201, &tram_proto::envelope::Body { incarnation: again, ..body_from("khan", 5) });
    let (vanban, khan) = ("vanban".parse().expect("inbox"), "khan".parse().expect("inbox"));
    let told = |answer: tram_client::GapsAnswer| -> Vec<_> {
        assert_eq!(answer.next, "");
        let one = |s: tram_client::SequenceView| {
            assert_eq!(
                (s.origin.as_str(), s.sender.as_str(), s.address.as_str()),
                ("can-tho", "khan", "vanban@central")
            );
            (s.lowest, s.highest, s.missing, s.gaps.iter().map(|gap| (gap.first, gap.last)).collect::<Vec<_>>())
        };
        answer.sequences.into_iter().map(one).collect()
    };
    let all = client.gaps(None, 0, String::new()).await.expect("looks");
    assert_eq!(told(all), [(1, 8, 3, vec![(3, 3), (5, 6)]), (5, 5, 0, vec![])]);
    let since = client.gaps(Some(&vanban), NOW_MS + 4, String::new()).await.expect("looks");
    assert_eq!(told(since), [(4, 8, 2, vec![(5, 6)]), (5, 5, 0, vec![])]);
    assert!(told(client.gaps(Some(&khan), 0, String::new()).await.expect("looks")).is_empty());

    let me = nix::unistd::Uid::effective().as_raw();
    let rule = Rule { users: vec![Id::Number(me)], inboxes: vec!["khan".to_owned()], ..Rule::default() };
    node.access.send_replace(Arc::new(Access::nobody_own().with(&[rule])));
    assert_eq!(code(client.gaps(Some(&vanban), 0, String::new()).await), "not_permitted");
    assert!(told(client.gaps(None, 0, String::new()).await.expect("looks")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_messages_comes_in_pages_and_shows_only_what_the_caller_may_know() {
    let node = Node::start(ROOM);
    let client = client(&node).await;
    let mut sent = Vec::new();
    for _ in 0..7 {
        sent.push(client.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted"));
    }
    put_from(&*node.spool, 100, &body_from("khan", 1));
    let (mut listed, mut before, mut pages) = (Vec::new(), 0, 0);
    loop {
        let page = client.messages(3, before).await.expect("lists");
        assert!(page.messages.len() <= 3);
        listed.extend(page.messages);
        (before, pages) = (page.next, pages + 1);
        if before == 0 {
            break;
        }
    }
    assert_eq!((listed.len(), pages), (8, 3));
    let came = listed.remove(0);
    assert_eq!((came.side.as_str(), came.from.as_str(), came.kind.as_str()), ("received", "khan@can-tho", "document"));
    let ids: Vec<_> = listed.iter().map(|m| tram_client::message_id(&m.id).expect("an id")).collect();
    assert_eq!(ids, sent.into_iter().rev().collect::<Vec<_>>());
    assert!(listed.iter().all(|m| m.side == "sent" && m.recipients[0].state == "submitted"));

    let me = nix::unistd::Uid::effective().as_raw();
    let rule = Rule { users: vec![Id::Number(me + 1)], inboxes: vec!["khan".to_owned()], ..Rule::default() };
    let mine = Rule { users: vec![Id::Number(me)], inboxes: vec!["khan".to_owned()], ..Rule::default() };
    node.access.send_replace(Arc::new(Access::nobody_own().with(&[rule, mine])));
    // He sent seven of them; the eighth came to an inbox that is not his.
    assert_eq!(client.messages(0, 0).await.expect("lists").messages.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_of_nothing_or_too_long_is_refused_clearly() {
    let node = whole::Whole::start().await;
    let client = client(&node.node).await;
    for lifetime_ms in [0, 181 * 24 * 3_600_000, u64::MAX] {
        let message = NewMessage { lifetime_ms: Some(lifetime_ms), ..to_vanban() };
        let error = client.send(message, &b"x"[..], |_| ()).await.expect_err("refused");
        assert!(error.code() == Some("invalid") && error.to_string().contains("lifetime"), "{error}");
    }
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
