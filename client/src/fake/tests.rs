//! The real client against the fake node.

use std::time::Duration;

use super::*;
use crate::{Inbound, MessageHeader};

fn to(address: &str) -> NewMessage {
    NewMessage { to: vec![address.parse().expect("address")], ..NewMessage::default() }
}

async fn start() -> (Fake, Client) {
    let fake = Fake::start("can-tho", &["vanban"]).expect("starts");
    let client = fake.client().await.expect("connects");
    (fake, client)
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("in time")
}

async fn open(client: &Client, credit: u32) -> Inbound {
    let inbound = client.receive(&"vanban".parse().expect("inbox"), None).await.expect("opens");
    inbound.grant(credit).await.expect("granted");
    inbound
}

async fn take(inbound: &mut Inbound) -> (MessageHeader, Vec<u8>) {
    let mut message = within(inbound.next()).await.expect("comes");
    let mut payload = Vec::new();
    while let Some(part) = message.part().await.expect("reads") {
        payload.extend_from_slice(&part);
    }
    (message.header().clone(), payload)
}

fn code<T>(result: Result<T, Error>) -> String {
    result.err().and_then(|error| error.code().map(str::to_owned)).unwrap_or_else(|| "ok".to_owned())
}

/// The next states of a watch.
async fn states(watch: &mut crate::Watch, count: usize) -> Vec<String> {
    let mut states = Vec::new();
    for _ in 0..count {
        let now = within(watch.next()).await.expect("reads").expect("goes on");
        states.push([now.state, now.reason].join(" ").trim().to_owned());
    }
    states
}

#[tokio::test]
async fn a_send_that_is_tried_again_with_its_key_is_one_message() {
    let (fake, client) = start().await;
    fake.try_again(2);
    let message = NewMessage { idempotency_key: "12".into(), ..to("vanban@central") };
    for _ in 0..2 {
        let error = client.send(message.clone(), &b"x"[..], |_| ()).await.expect_err("busy");
        assert!(error.retryable() && error.code() == Some("spool_full"), "{error}");
    }
    let id = client.send(message.clone(), &b"x"[..], |_| ()).await.expect("sent");
    assert_eq!(client.send(message.clone(), &b"x"[..], |_| ()).await.expect("known"), id);
    assert_eq!(code(client.send(message, &b"y"[..], |_| ()).await), "key_taken");
    let sent = fake.sent();
    assert_eq!((sent.len(), &sent[0].payload[..], sent[0].message.idempotency_key.as_str()), (1, &b"x"[..], "12"));
    let limits = NewMessage { subject: "x".repeat(5000), ..to("vanban@central") };
    assert_eq!(code(client.send(limits, &b"x"[..], |_| ()).await), "invalid");
    let label = NewMessage { label: "mat".into(), ..to("vanban@central") };
    assert_eq!(code(client.send(label, &b"x"[..], |_| ()).await), "label_not_permitted");
}

#[tokio::test]
async fn a_watch_sees_every_state_also_those_the_test_makes() {
    let (fake, client) = start().await;
    let central = "vanban@central".parse().expect("address");
    fake.hold();
    let id = client.send(to("vanban@central"), &b"x"[..], |_| ()).await.expect("sent");
    let mut watch = client.watch(&[id]).await.expect("watches");
    let mut all = client.watch(&[]).await.expect("watches");
    assert_eq!(states(&mut watch, 1).await, ["submitted"]);
    fake.release();
    fake.say(id, &central, 200, "vào sổ");
    assert_eq!(states(&mut watch, 3).await, ["arrived", "delivered", "status"]);
    assert_eq!(states(&mut all, 4).await, ["submitted", "arrived", "delivered", "status"]);
    let said = &fake.recipients(id)[0];
    assert_eq!((said.code, said.detail.as_str()), (200, "vào sổ"));
    assert_eq!(client.trace(id, 0).await.expect("traces").state, "status");

    fake.refuse(&central, State::Undeliverable, Reason::NoSuchNode);
    let id = client.send(to("vanban@central"), &b"x"[..], |_| ()).await.expect("sent");
    let unknown = client.send(to("khan@can-tho"), &b"x"[..], |_| ()).await.expect("sent");
    assert_eq!(states(&mut all, 2).await, ["submitted", "undeliverable no_such_node"]);
    assert_eq!(states(&mut all, 2).await, ["submitted", "undeliverable no_such_inbox"]);
    let ended = [id, unknown].map(|id| fake.recipients(id)[0].negative);
    assert_eq!(ended, [true, true]);
    assert_eq!(code(client.watch(&[MessageId([9; 32])]).await), "no_such_message");
}

#[tokio::test]
async fn a_message_comes_again_whatever_keeps_its_acknowledgement_from_counting() {
    let (fake, client) = start().await;
    let large: Vec<u8> = (0..700_000).map(|i| (i / 7) as u8).collect();
    let id = fake.bring("khan@central", NewMessage { subject: "số 7".into(), ..to("vanban@can-tho") }, large.clone());
    let mut inbox = open(&client, 1).await;
    let (header, payload) = take(&mut inbox).await;
    assert_eq!((header.from.as_str(), header.subject.as_str(), header.redelivered), ("khan@central", "số 7", false));
    assert!(payload == large);
    // The lease ends under the application.
    fake.end_leases();
    inbox.ack(header.delivery).await.expect("sent");
    assert_eq!(inbox.settle().await.expect("settled"), 1);
    // The acknowledgement is lost.
    fake.lose_acks(1);
    inbox.grant(1).await.expect("granted");
    let (again, _) = take(&mut inbox).await;
    assert!(again.id == header.id && again.redelivered);
    inbox.ack(again.delivery).await.expect("sent");
    assert_eq!(inbox.settle().await.expect("settled"), 1);
    // It is given back, then taken by another, whose word counts.
    inbox.grant(1).await.expect("granted");
    let (again, _) = take(&mut inbox).await;
    inbox.nack(again.delivery).await.expect("sent");
    let mut other = open(&client, 1).await;
    let (last, _) = take(&mut other).await;
    other.ack(last.delivery).await.expect("sent");
    assert_eq!((last.id, other.settle().await.expect("settled")), (header.id, 0));
    assert_eq!((fake.recipients(id)[0].state.as_str(), other.waiting().await.expect("counts")), ("delivered", 0));
    // The node has lost its memory of that.
    assert_eq!(fake.redeliver(id), 1);
    other.grant(1).await.expect("granted");
    assert!(take(&mut other).await.0.redelivered);
}

#[tokio::test]
async fn two_applications_never_hold_one_message_and_what_one_held_goes_to_the_other() {
    let (fake, client) = start().await;
    for _ in 0..4 {
        fake.bring("khan@central", to("vanban@can-tho"), "x");
    }
    let mut ids = Vec::new();
    let mut first = open(&client, 2).await;
    for _ in 0..2 {
        ids.push(take(&mut first).await.0.id);
    }
    let mut second = open(&client, 4).await;
    for _ in 0..2 {
        ids.push(take(&mut second).await.0.id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    drop(first);
    for _ in 0..2 {
        assert!(take(&mut second).await.0.redelivered);
    }
    drop(second);
    assert_eq!(client.inboxes().await.expect("lists")[0].messages, 4);
}

#[tokio::test]
async fn a_message_is_cancelled_while_it_is_held_and_a_status_needs_an_acknowledgement() {
    let (fake, client) = start().await;
    fake.hold();
    let id = client.send(to("vanban@central"), &b"x"[..], |_| ()).await.expect("sent");
    assert_eq!(client.cancel(id).await.expect("cancelled").ended, 1);
    fake.release();
    assert_eq!(fake.recipients(id)[0].state, "recalled");
    assert_eq!(code(client.cancel(id).await), "too_late");
    let gone = client.send(to("vanban@central"), &b"x"[..], |_| ()).await.expect("sent");
    assert_eq!(code(client.recall(gone).await), "too_late");

    let came = fake.bring("khan@central", to("vanban@can-tho"), "x");
    assert_eq!(code(client.set_status(came, 1, "").await), "not_delivered");
    let mut inbox = open(&client, 1).await;
    let (header, _) = take(&mut inbox).await;
    inbox.ack(header.delivery).await.expect("sent");
    assert_eq!(inbox.settle().await.expect("settled"), 0);
    assert_eq!(client.set_status(came, 7, "đã vào sổ").await.expect("said"), 1);
    assert_eq!((fake.recipients(came)[0].code, fake.recipients(came)[0].state.as_str()), (7, "status"));
    let page = client.messages(2, 0).await.expect("lists");
    assert_eq!((page.messages.len(), page.messages[0].side.as_str(), page.next), (2, "received", 2));
    assert_eq!(client.messages(2, page.next).await.expect("lists").next, 0);
    assert_eq!(code(client.receipts(id).await), "not_in_fake");
}

#[tokio::test]
async fn a_fake_that_is_gone_ends_its_streams_and_leaves_no_socket() {
    let (fake, client) = start().await;
    let mut inbox = open(&client, 1).await;
    let dir = fake.dir.clone();
    drop(fake);
    assert_eq!(code(within(inbox.next()).await.map(drop)), "stopping");
    assert!(!dir.exists());
}
