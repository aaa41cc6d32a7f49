//! The sockets with the real engine, core and committer behind them, over a spool in memory.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tram_client::{Admin, Client, Inbound, NewMessage, Place, Progress};
use tram_proto::id::{Incarnation, MessageId, NodeId};
use tram_proto::row::NodeRow;
use tram_relay::Config;
use tram_relay::input::{Input, Submission};
use tram_relay::output::{Event, Op};

use super::super::access::{Access, Id, Rule, Send};
use super::fake::{Node, Pen};
use super::{client, code, open, payload, take, to_vanban};
use crate::clock::Clock;
use crate::committer::Committer;
use crate::engine::Engine;
use crate::engine::handle::EngineHandle;
use crate::spool::{DiskOptions, DiskSpool, FaultFiles, MemorySpool, Spool};

const HOUR_MS: i64 = 3_600_000;

/// One life of a node over a spool that outlives it.
pub(super) struct Whole {
    pub(super) node: Node,
    committer: Committer,
}

impl Whole {
    pub(super) async fn start() -> Self {
        Self::with(Arc::new(MemorySpool::default()), Clock::default(), false).await
    }

    async fn with(spool: Arc<dyn Spool>, clock: Clock, has_uplink: bool) -> Self {
        let (engine, requests, ends) = EngineHandle::new();
        let told = engine.clone();
        let done = move |done: crate::committer::CommitDone| {
            for committed in done.expect("commits") {
                let input = Input::Persisted { commit: committed.commit, records: committed.records };
                let _ = told.blocking_input(input);
            }
        };
        let committer = Committer::spawn(spool.clone(), Arc::new(Pen), Box::new(done)).expect("a thread");
        let mut core = tram_relay::Node::new(Config {
            node: NodeId([1; 16]),
            name: "central".parse().expect("name"),
            title: String::new(),
            has_uplink,
            features: 0,
            addresses: Vec::new(),
            boot: [5; 16],
            labels: Vec::new(),
        });
        let restored = spool.restore(&mut |input| core.handle(input, clock.now())).expect("restores");
        let fresh = NodeRow { incarnation: Incarnation([2; 16]), starts: 0, record: 0, clock_ms: 0 };
        let row = restored.node.unwrap_or(fresh);
        let row = NodeRow { starts: row.starts + 1, ..row };
        spool.commit(&[Op::PutNode(row)]).expect("committed");
        let inboxes = restored.inboxes.into_iter().chain(["vanban".parse().expect("inbox")]).collect();
        core.handle(Input::Start { node: row, inboxes }, clock.now());
        tokio::spawn(Engine::new(core, clock, requests, ends, committer.queue().clone()).run());
        let room = Input::SpoolRoom { free_bytes: 1 << 30, total_bytes: 1 << 30 };
        engine.input(room).await.expect("runs");
        Self { node: Node::serve(engine, spool), committer }
    }

    /// Stops it as a daemon stops; returns what is left.
    async fn stop(self) -> Arc<dyn Spool> {
        let Node { spool, engine, stop, served, .. } = self.node;
        stop.send_replace(true);
        served.await.expect("ends");
        engine.shutdown().await.expect("runs");
        drop(engine);
        tokio::task::spawn_blocking(move || self.committer.join()).await.expect("ends");
        spool
    }

    async fn admin(&self) -> Admin {
        Admin::connect(&Place::dir(self.node.dir.path())).await.expect("connects")
    }

    /// Lets the test's user be another one than the daemon's, under this rule.
    fn only(&self, rule: Rule) {
        let me = nix::unistd::Uid::effective().as_raw();
        let rule = Rule { users: vec![Id::Number(me)], ..rule };
        self.node.access.send_replace(Arc::new(Access::nobody_own().with(&[rule])));
    }
}

fn to(address: &str) -> NewMessage {
    NewMessage { to: vec![address.parse().expect("address")], ..to_vanban() }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("in time")
}

/// Waits until the message's only recipient is in that state.
async fn state(client: &Client, id: MessageId, state: &str) -> Progress {
    let mut watch = client.watch(&[id]).await.expect("watches");
    within(async {
        loop {
            let now = watch.next().await.expect("reads").expect("goes on");
            if now.state == state {
                return now;
            }
        }
    })
    .await
}

/// Takes messages until so many are acknowledged in all; notes who holds what.
async fn work(
    mut inbound: Inbound,
    held: Arc<Mutex<BTreeSet<MessageId>>>,
    done: Arc<Mutex<Vec<MessageId>>>,
    all: usize,
) {
    while done.lock().expect("lock").len() < all {
        inbound.grant(2).await.expect("granted");
        let Ok((delivery, id, ..)) = tokio::time::timeout(Duration::from_millis(200), take(&mut inbound)).await else {
            continue;
        };
        assert!(held.lock().expect("lock").insert(id), "{id} is in two hands");
        tokio::task::yield_now().await;
        held.lock().expect("lock").remove(&id);
        inbound.ack(delivery).await.expect("acknowledged");
        done.lock().expect("lock").push(id);
    }
    assert_eq!(inbound.settle().await.expect("settled"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_applications_share_an_inbox_and_each_message_goes_to_one() {
    let whole = Whole::start().await;
    let client = client(&whole.node).await;
    let mut sent = BTreeSet::new();
    let (held, done) = (Arc::default(), Arc::<Mutex<Vec<MessageId>>>::default());
    let mut takers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let inbound = client.receive(&"vanban".parse().expect("inbox"), None).await.expect("opens");
        takers.spawn(work(inbound, Arc::clone(&held), Arc::clone(&done), 60));
    }
    for size in 0..60 {
        sent.insert(client.send(to_vanban(), &payload(size * 3000)[..], |_| ()).await.expect("submitted"));
    }
    within(async { while takers.join_next().await.transpose().expect("no panic").is_some() {} }).await;
    let done = done.lock().expect("lock").clone();
    assert_eq!((done.len(), done.into_iter().collect::<BTreeSet<_>>()), (60, sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_keeps_nothing_behind_it() {
    let spool = MemorySpool::default();
    let whole = Whole::with(Arc::new(spool.clone()), Clock::default(), false).await;
    let (client, mut events) = (client(&whole.node).await, whole.node.engine.events());
    let damaged = client.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted");
    let whole_one = client.send(to_vanban(), &b"y"[..], |_| ()).await.expect("submitted");
    spool.damage(&damaged);
    let mut inbound = open(&client, 1).await;
    let (delivery, id, ..) = within(take(&mut inbound)).await;
    assert_eq!(id, whole_one);
    inbound.ack(delivery).await.expect("acknowledged");
    assert_eq!(within(inbound.settle()).await.expect("settled"), 0);
    let told = async {
        loop {
            if let Event::MessageDamaged { message } = events.recv().await.expect("runs") {
                return message;
            }
        }
    };
    assert_eq!(within(told).await, damaged);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_application_held_when_it_died_goes_to_the_others_once() {
    let whole = Whole::start().await;
    let client = client(&whole.node).await;
    let mut sent = BTreeSet::new();
    for _ in 0..6 {
        sent.insert(client.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted"));
    }
    let mut dying = open(&client, 3).await;
    let mut lost = BTreeSet::new();
    for _ in 0..3 {
        lost.insert(take(&mut dying).await.1);
    }
    let mut living = open(&client, 6).await;
    let mut got = BTreeSet::new();
    for _ in 0..3 {
        let (delivery, id, _, again) = within(take(&mut living)).await;
        assert!(!lost.contains(&id) && !again && got.insert(id));
        living.ack(delivery).await.expect("sent");
    }
    assert_eq!(within(living.settle()).await.expect("settled"), 0);
    assert_eq!(living.waiting().await.expect("counts"), 3, "the other one holds them");
    living.grant(6).await.expect("granted");
    drop(dying);
    for _ in 0..3 {
        let (delivery, id, _, again) = within(take(&mut living)).await;
        assert!(lost.contains(&id) && again && got.insert(id));
        living.ack(delivery).await.expect("sent");
    }
    assert_eq!((living.settle().await.expect("settled"), got), (0, sent));
    assert_eq!(living.waiting().await.expect("counts"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_never_acknowledges_loses_the_message_with_its_lease() {
    let whole = Whole::start().await;
    let client = client(&whole.node).await;
    let id = client.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted");
    let vanban = "vanban".parse().expect("inbox");
    let mut silent = client.receive(&vanban, Some(1_000)).await.expect("opens");
    silent.grant(1).await.expect("granted");
    let (delivery, first, ..) = within(take(&mut silent)).await;
    let mut other = open(&client, 1).await;
    let (again, second, _, redelivered) = within(take(&mut other)).await;
    assert_eq!((first, second, redelivered), (id, id, true));
    // The late word changes nothing, and the message is not handed out a third time.
    silent.ack(delivery).await.expect("sent");
    assert_eq!(within(silent.settle()).await.expect("settled"), 1);
    other.ack(again).await.expect("sent");
    assert_eq!(within(other.settle()).await.expect("settled"), 0);
    state(&client, id, "delivered").await;
    assert_eq!(other.waiting().await.expect("counts"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_inbox_nobody_reads_messages_wait_in_sight_and_expire_with_a_receipt() {
    let whole = Whole::start().await;
    let (admin, door) = (whole.admin().await, client(&whole.node).await);
    let message = NewMessage { lifetime_ms: Some(60_000), ..to_vanban() };
    let id = door.send(message, &b"x"[..], |_| ()).await.expect("submitted");
    state(&door, id, "arrived").await;
    let queues = admin.queues().await.expect("lists").queues;
    assert_eq!(queues.iter().map(|q| (q.next_hop.as_str(), q.messages)).collect::<Vec<_>>(), [("inbox vanban", 1)]);
    let status = admin.status().await.expect("answers");
    assert_eq!((status.queues.len(), status.inboxes[0].messages, status.spool.expect("said").messages), (1, 1, 1));
    drop((admin, door));

    let spool = whole.stop().await;
    let whole = Whole::with(spool, Clock::new(2 * HOUR_MS), false).await;
    let (admin, door) = (whole.admin().await, client(&whole.node).await);
    let ended = state(&door, id, "expired").await;
    assert!(ended.terminal && ended.negative && ended.reason == "lifetime_ended", "{ended:?}");
    let receipts = door.receipts(id).await.expect("receipts").receipts;
    assert_eq!(receipts.len(), 2, "that it arrived, that it expired");
    assert_eq!(admin.inboxes().await.expect("lists")[0].messages, 0);
    assert!(admin.queues().await.expect("lists").queues.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_taken_back_while_its_copy_is_here_and_not_after() {
    let whole = Whole::start().await;
    let door = client(&whole.node).await;
    // Nobody knows that node yet, so the copy waits here.
    let id = door.send(to("vanban@can-tho"), &b"x"[..], |_| ()).await.expect("submitted");
    let done = door.cancel(id).await.expect("cancelled");
    assert_eq!((done.ended, done.following, done.tombstone.len(), done.recipients), (1, 0, 0, 1));
    assert!(state(&door, id, "recalled").await.terminal);
    assert_eq!(code(door.cancel(id).await), "too_late");
    assert_eq!(code(door.recall(id).await), "too_late");

    // One that waits in an inbox here is as good as not sent; one in an application's hands is not.
    let waiting = door.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted");
    assert_eq!(door.recall(waiting).await.expect("recalled").ended, 1);
    let held = door.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted");
    let mut inbound = open(&door, 2).await;
    let (delivery, came, ..) = within(take(&mut inbound)).await;
    assert_eq!(came, held);
    assert_eq!(code(door.recall(held).await), "too_late");
    inbound.ack(delivery).await.expect("sent");
    assert_eq!(within(inbound.settle()).await.expect("settled"), 0);
    assert_eq!(code(door.cancel(held).await), "too_late");
    assert_eq!(code(door.cancel(MessageId([9; 32])).await), "no_such_message");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_sent_a_message_and_an_administrator_take_it_back() {
    let whole = Whole::start().await;
    let door = client(&whole.node).await;
    let asked = Submission {
        user: 4242,
        quota_bytes: None,
        demoted_from: None,
        nonce: [9; 16],
        sender: None,
        to: vec!["vanban@can-tho".parse().expect("address")],
        precedence: tram_proto::envelope::Precedence::Routine,
        lifetime_ms: None,
        deliver_by_ms: 0,
        label: String::new(),
        subject: String::new(),
        file_name: String::new(),
        content_type: String::new(),
        attributes: Vec::new(),
        business_id: String::new(),
        idempotency_key: String::new(),
        traceparent: String::new(),
        payload_bytes: 0,
        payload_root: tram_proto::manifest::root_of(&[]),
        inline: Some(bytes::Bytes::new()),
    };
    let others = whole.node.engine.submit(asked).await.expect("runs").expect("submitted").id;
    whole.only(Rule { inboxes: vec!["vanban".to_owned()], send: Send::Any(true), ..Rule::default() });
    let own = door.send(to("vanban@can-tho"), &b"x"[..], |_| ()).await.expect("submitted");
    assert_eq!(code(door.cancel(others).await), "not_permitted");
    assert_eq!(code(door.recall(others).await), "not_permitted");
    assert_eq!(door.cancel(own).await.expect("cancelled").ended, 1);
    whole.node.access.send_replace(Arc::new(Access::own_user()));
    assert_eq!(door.cancel(others).await.expect("cancelled").ended, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_reaches_the_sender_with_code_and_text_and_the_newest_counts() {
    let whole = Whole::start().await;
    let door = client(&whole.node).await;
    let id = door.send(to_vanban(), &b"x"[..], |_| ()).await.expect("submitted");
    state(&door, id, "arrived").await;
    assert_eq!(code(door.set_status(id, 7, "early").await), "not_delivered");
    let mut all = door.watch(&[]).await.expect("watches");
    let mut inbound = open(&door, 1).await;
    let (delivery, ..) = within(take(&mut inbound)).await;
    inbound.ack(delivery).await.expect("sent");
    within(inbound.settle()).await.expect("settled");
    assert_eq!(door.set_status(id, 200, "vào sổ số 12").await.expect("said"), 1);
    let said = state(&door, id, "status").await;
    assert_eq!((said.code, said.detail.as_str(), said.terminal, said.negative), (200, "vào sổ số 12", true, false));
    let told = within(async {
        loop {
            let now = all.next().await.expect("reads").expect("goes on");
            if now.state == "status" {
                return now;
            }
        }
    });
    assert_eq!(told.await, said);
    assert_eq!(code(door.set_status(id, 1, &"x".repeat(1025)).await), "invalid");
    assert_eq!(code(door.set_status(MessageId([9; 32]), 1, "").await), "no_such_message");

    // A later word replaces the earlier one for whoever asks, also when the message was settled long before.
    let mut watch = door.watch(&[id]).await.expect("watches");
    assert_eq!(watch.next().await.expect("reads").expect("one").code, 200);
    // Two words within one millisecond have no order.
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(door.set_status(id, 404, "trả lại").await.expect("said"), 1);
    assert_eq!(within(watch.next()).await.expect("reads").expect("one").code, 404);
    let listed = door.messages(0, 0).await.expect("lists").messages;
    let only = &listed[0].recipients[0];
    assert_eq!((only.state.as_str(), only.code, only.detail.as_str()), ("status", 404, "trả lại"));
    let trace = door.trace(id, 0).await.expect("traces");
    assert_eq!((trace.state.as_str(), trace.recipients[0].code), ("status", 404));

    whole.only(Rule { inboxes: vec!["khan".to_owned()], ..Rule::default() });
    assert_eq!(code(door.set_status(id, 1, "").await), "not_permitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_lasts_over_a_restart_and_is_named_until_it_ends() {
    let whole = Whole::with(Arc::new(MemorySpool::default()), Clock::default(), true).await;
    let admin = whole.admin().await;
    assert!(admin.pause("uplink").await.expect("paused") && !admin.pause("uplink").await.expect("paused"));
    assert_eq!(code(admin.pause("can-tho").await), "no_such_hop");
    assert_eq!(code(admin.pause("Cần Thơ").await), "invalid");
    drop(admin);
    let whole = Whole::with(whole.stop().await, Clock::default(), true).await;
    let (admin, door) = (whole.admin().await, client(&whole.node).await);
    door.send(to("vanban@can-tho"), &b"x"[..], |_| ()).await.expect("submitted");
    let queues = admin.queues().await.expect("lists");
    assert_eq!(queues.paused, ["uplink"]);
    assert!(queues.queues.iter().any(|queue| queue.next_hop == "uplink" && queue.paused), "{queues:?}");
    let status = admin.status().await.expect("answers");
    assert!(status.problems.iter().any(|p| p.contains("tram queue resume uplink")), "{:?}", status.problems);
    assert!(admin.resume("uplink").await.expect("resumed"));
    assert!(admin.queues().await.expect("lists").paused.is_empty());
    assert_eq!(code(admin.retry(Some(MessageId([9; 32]))).await), "no_such_message");
    admin.retry(None).await.expect("retried");
    let can_tho = "can-tho".parse().expect("name");
    assert_eq!(code(admin.retire(&can_tho).await), "no_such_node");
    assert_eq!(code(admin.accept(&can_tho).await), "not_held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_back_its_user_until_messages_have_ended() {
    let whole = Whole::start().await;
    let door = client(&whole.node).await;
    let quota = Some(bytesize::ByteSize::kb(100));
    whole.only(Rule { inboxes: vec!["vanban".to_owned()], send: Send::Any(true), quota, ..Rule::default() });
    let (first, second) = (payload(60_000), payload(60_001));
    door.send(to_vanban(), &first[..], |_| ()).await.expect("submitted");
    let full = door.send(to_vanban(), &second[..], |_| ()).await.expect_err("full");
    assert!(full.code() == Some("quota") && full.retryable(), "{full}");
    let mut inbound = open(&door, 1).await;
    let (delivery, ..) = within(take(&mut inbound)).await;
    inbound.ack(delivery).await.expect("sent");
    within(inbound.settle()).await.expect("settled");
    door.send(to_vanban(), &second[..], |_| ()).await.expect("there is room again");
    // The daemon's own user has no quota.
    whole.node.access.send_replace(Arc::new(Access::own_user()));
    for _ in 0..3 {
        door.send(to_vanban(), &first[..], |_| ()).await.expect("submitted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_tells_the_administrator_and_the_core_what_the_disk_lost() {
    let files = FaultFiles::new();
    let options = DiskOptions { inline_sync: true, ..DiskOptions::default() };
    let spool: Arc<dyn Spool> = Arc::new(DiskSpool::open_on(Arc::new(files.clone()), options).expect("opens"));
    let whole = Whole::with(spool, Clock::default(), false).await;
    let (admin, door) = (whole.admin().await, client(&whole.node).await);
    let id = door.send(to("vanban@can-tho"), &payload(1_000_000)[..], |_| ()).await.expect("submitted");
    let found = admin.scrub().await.expect("scrubs");
    assert_eq!((found.chunks, found.damaged.len()), (4, 0));
    let mut events = whole.node.engine.events();
    // Some bits of a pack are padding.
    let mut damaged = Vec::new();
    for seed in 0..50 {
        files.flip(seed, "packs/").expect("there is content");
        damaged = admin.scrub().await.expect("scrubs").damaged;
        if !damaged.is_empty() {
            break;
        }
    }
    assert!(damaged.len() == 1 && damaged[0].bytes > 0, "{damaged:?}");
    let told = within(async {
        loop {
            if let Event::PayloadDamaged { message, missing_bytes } = events.recv().await.expect("runs") {
                return (message, missing_bytes);
            }
        }
    });
    assert_eq!(told.await, (id, damaged[0].bytes));
    assert!(admin.scrub().await.expect("scrubs").damaged.is_empty(), "it is known");
}
