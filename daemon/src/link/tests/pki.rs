//! What neighbours tell each other about the PKI: real links, and a PKI that believes everything but what says "bad".

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quinn::SendStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tram_pki::keystore::NodeKeys;
use tram_proto::frame::{FEATURE_PKI, Frame, Hello, StreamKind};
use tram_proto::id::{Incarnation, NodeId};
use tram_proto::limits::{OBJECT_BYTES, PKI_FRAME_BYTES};
use tram_proto::name::NodeName;
use tram_proto::pki::{Answer, Item, Object, ObjectKey, PkiFrame, Refusal, RenewRequest, Report, Request};
use tram_relay::input::Input;

use super::fixture::*;
use super::line::{Conditions, Line};
use super::office::Office;
use crate::clock::Clock;
use crate::link::dialer::Uplinks;
use crate::link::pki::herald::Herald;
use crate::link::pki::{Exchange, GoesOn, Taken};

const CA: [u8; 32] = [9; 32];

/// A PKI in memory.
pub(crate) struct Fake {
    pub(crate) report: Mutex<Report>,
    held: Mutex<BTreeMap<ObjectKey, Object>>,
    taken: AtomicUsize,
    refused: AtomicUsize,
    /// Revocation lists are believed only once a CA certificate is there.
    wants_authority: AtomicBool,
    ca: Option<[u8; 32]>,
    log: Mutex<Vec<Bytes>>,
    kept: Mutex<Vec<Bytes>>,
    changes: watch::Sender<u64>,
}

impl Fake {
    pub(crate) fn new(keys: &NodeKeys, ca: Option<[u8; 32]>) -> Arc<Self> {
        let me = keys.identity();
        let report = Report {
            node: me.id,
            name: me.name.clone(),
            role: me.role,
            roots: 1,
            not_after_ms: me.not_after_ms,
            at_ms: 1,
            authority: CA,
            join: vec![],
        };
        Arc::new(Self {
            report: Mutex::new(report),
            held: Mutex::default(),
            taken: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            wants_authority: AtomicBool::new(false),
            ca,
            log: Mutex::default(),
            kept: Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    fn change<T>(&self, change: impl FnOnce(&Self) -> T) -> T {
        let done = change(self);
        self.changes.send_modify(|count| *count += 1);
        done
    }

    /// Makes an object here.
    fn put(&self, key: ObjectKey, version: u64, content: impl Into<Bytes>) {
        let object = Object { item: Item { key, version }, content: content.into() };
        self.change(|all| all.held.lock().expect("whole").insert(key, object));
    }

    fn version(&self, key: ObjectKey) -> u64 {
        self.held.lock().expect("whole").get(&key).map_or(0, |object| object.item.version)
    }
}

impl Exchange for Fake {
    fn have(&self) -> Vec<Item> {
        self.held.lock().expect("whole").values().map(|object| object.item).collect()
    }

    fn object(&self, key: ObjectKey) -> Option<Object> {
        self.held.lock().expect("whole").get(&key).cloned()
    }

    fn take(&self, object: Object, _: &NodeName) -> Taken {
        let mut held = self.held.lock().expect("whole");
        let Item { key, version } = object.item;
        let has_authority = held.keys().any(|key| matches!(key, ObjectKey::Authority(_)));
        let early = self.wants_authority.load(Ordering::Relaxed) && matches!(key, ObjectKey::Crl(_)) && !has_authority;
        if early || object.content.starts_with(b"bad") {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Taken::Refused("it is bad".to_owned());
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        if held.get(&key).is_some_and(|known| known.item.version >= version) {
            return Taken::Known;
        }
        held.insert(key, object);
        drop(held);
        self.change(|_| Taken::New)
    }

    fn answer(&self, authority: [u8; 32], request: Bytes, from: &NodeName) -> Option<Bytes> {
        (self.ca == Some(authority)).then(|| {
            assert!(matches!(Request::decode(request), Ok(Request::Renew(_))));
            Answer::Granted(vec![Bytes::from(from.to_string())]).encode()
        })
    }

    fn report(&self) -> Report {
        self.report.lock().expect("whole").clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn has_journal(&self) -> bool {
        !self.log.lock().expect("whole").is_empty()
    }

    fn journal_since(&self, number: u64, _: &[u8; 32]) -> GoesOn {
        let log = self.log.lock().expect("whole");
        if number > log.len() as u64 {
            return GoesOn::Elsewhere(log.len() as u64, [0; 32]);
        }
        GoesOn::With(log[usize::try_from(number).expect("small")..].to_vec())
    }

    fn journal_lost(&self, _: NodeId, number: u64, _: &[u8; 32]) -> Vec<Bytes> {
        self.kept.lock().expect("whole")[usize::try_from(number).expect("small")..].to_vec()
    }

    fn journal_back(&self, first: u64, lines: &[Bytes]) -> bool {
        let mut log = self.log.lock().expect("whole");
        assert_eq!(first, log.len() as u64 + 1, "lines follow each other");
        log.extend_from_slice(lines);
        !lines.is_empty()
    }

    fn journal_take(&self, _: NodeId, first: u64, lines: Vec<Bytes>) -> Option<(u64, [u8; 32])> {
        let mut kept = self.kept.lock().expect("whole");
        if !lines.is_empty() {
            assert_eq!(first, kept.len() as u64 + 1, "lines follow each other");
            kept.extend(lines);
        }
        Some((kept.len() as u64, [0; 32]))
    }
}

/// A node, its PKI and its voice.
struct Place {
    office: Office,
    fake: Arc<Fake>,
    herald: Arc<Herald>,
}

impl Place {
    async fn open(keys: &NodeKeys, line: &Line, host: u8, ca: Option<[u8; 32]>) -> Self {
        let me = keys.identity();
        let fake = Fake::new(keys, ca);
        let herald = Herald::new((me.id, me.name.clone()), Clock::virtual_time(), fake.clone());
        let address = ([10, 0, 0, host], 7443).into();
        let office = Office::with_pki(keys, line, address, host == 1, Some(herald.clone())).await;
        Self { office, fake, herald }
    }
}

/// Central, can-tho below it, hue below that, with 20 ms between any two.
struct Branch {
    line: Line,
    places: [Place; 3],
    uplinks: Vec<Uplinks>,
}

impl Branch {
    async fn new() -> Self {
        let overlay = Overlay::new();
        let line = Line::new(1);
        line.set(|c| *c = Conditions { latency_ms: 20, ..Conditions::default() });
        let places = [
            Place::open(&overlay.central, &line, 1, Some(CA)).await,
            Place::open(&overlay.admit("can-tho"), &line, 2, None).await,
            Place::open(&overlay.admit("hue"), &line, 3, None).await,
        ];
        Self { line, places, uplinks: vec![] }
    }

    fn link(&mut self) {
        self.uplinks.push(self.places[1].office.dial("central", ([10, 0, 0, 1], 7443).into()));
        self.uplinks.push(self.places[2].office.dial("can-tho", ([10, 0, 0, 2], 7443).into()));
    }

    fn versions(&self, key: ObjectKey) -> Vec<u64> {
        self.places.iter().map(|place| place.fake.version(key)).collect()
    }

    fn taken(&self) -> Vec<usize> {
        self.places.iter().map(|place| place.fake.taken.load(Ordering::Relaxed)).collect()
    }
}

/// Waits in virtual time.
async fn until(what: &str, fulfilled: impl AsyncFn() -> bool) {
    let wait = async {
        while !fulfilled().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(120), wait).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

const ROOTS: ObjectKey = ObjectKey::Roots;
const AUTHORITY: ObjectKey = ObjectKey::Authority([1; 32]);
const CRL: ObjectKey = ObjectKey::Crl([2; 32]);
const OTHER_CRL: ObjectKey = ObjectKey::Crl([3; 32]);

#[tokio::test(start_paused = true)]
async fn every_node_comes_to_hold_the_highest_version_of_every_object() {
    let mut branch = Branch::new().await;
    let [central, can_tho, hue] = &branch.places;
    central.fake.put(ROOTS, 2, &b"roots"[..]);
    central.fake.put(CRL, 1, &b"old"[..]);
    can_tho.fake.put(AUTHORITY, 1, &b"ca"[..]);
    hue.fake.put(CRL, 7, vec![7; OBJECT_BYTES]);
    hue.fake.put(ROOTS, 1, &b"older"[..]);
    branch.link();
    let alike = [(ROOTS, 2), (AUTHORITY, 1), (CRL, 7)];
    let whole = async || alike.iter().all(|(key, version)| branch.versions(*key) == [*version; 3]);
    until("all alike", whole).await;
    // Each node is sent what it lacks: can-tho, between the two, at worst the old ones too.
    let taken = branch.taken();
    assert!(taken[0] == 2 && (2..=4).contains(&taken[1]) && taken[2] == 2, "{taken:?}");
    // A change goes everywhere at once, and nowhere twice.
    let began_ms = branch.places[0].office.here.clock.mono_ms();
    branch.places[0].fake.put(OTHER_CRL, 5, &b"revoked"[..]);
    until("pushed", async || branch.versions(OTHER_CRL) == [5; 3]).await;
    let took_ms = branch.places[0].office.here.clock.mono_ms() - began_ms;
    assert!(took_ms < 1_000, "{took_ms} ms over two links");
    sleep(Duration::from_secs(5)).await;
    let more: Vec<usize> = branch.taken().iter().zip(taken).map(|(now, before)| now - before).collect();
    assert_eq!(more, [0, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_object_changes_nothing_and_does_not_come_again_at_once() {
    let mut branch = Branch::new().await;
    branch.places[2].fake.put(CRL, 3, &b"good"[..]);
    branch.link();
    until("all alike", async || branch.versions(CRL) == [3; 3]).await;
    branch.places[0].fake.put(CRL, 4, &b"bad"[..]);
    branch.places[0].fake.put(ROOTS, 1, &b"roots"[..]);
    until("the good one came", async || branch.versions(ROOTS) == [1; 3]).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(branch.versions(CRL), [4, 3, 3], "the last good one is kept");
    assert_eq!(branch.places[1].herald.refused(), 1);
    assert_eq!(branch.places[1].office.here.connections().len(), 2, "no link ended for it");
    sleep(Duration::from_secs(601)).await;
    assert_eq!(branch.places[1].herald.refused(), 2, "ten minutes later it is looked at again");
}

/// A list may come before the CA certificate by which it is judged.
#[tokio::test(start_paused = true)]
async fn what_was_refused_for_want_of_a_ca_certificate_is_wanted_again_with_it() {
    let mut branch = Branch::new().await;
    for place in &branch.places[1..] {
        place.fake.wants_authority.store(true, Ordering::Relaxed);
    }
    branch.places[0].fake.put(CRL, 1, &b"list"[..]);
    branch.link();
    until("refused", async || branch.places[1].herald.refused() == 1).await;
    branch.places[0].fake.put(AUTHORITY, 1, &b"ca"[..]);
    until("taken", async || branch.versions(CRL) == [1; 3]).await;
}

/// What is missed at a neighbour, by whatever mishap, is brought by a pull.
#[tokio::test(start_paused = true)]
async fn a_pull_brings_what_a_node_lacks() {
    let mut branch = Branch::new().await;
    branch.places[0].fake.put(CRL, 1, &b"list"[..]);
    branch.link();
    until("all alike", async || branch.versions(CRL) == [1; 3]).await;
    branch.places[1].fake.held.lock().expect("whole").clear();
    branch.places[1].herald.pull();
    until("back", async || branch.versions(CRL) == [1; 3]).await;
}

fn request() -> Request {
    Request::Renew(RenewRequest { chain: vec![], csr: Bytes::from_static(b"csr"), signature: Bytes::new() })
}

#[tokio::test(start_paused = true)]
async fn a_question_goes_up_to_the_ca_and_the_answer_back() {
    let mut branch = Branch::new().await;
    let why = branch.places[2].herald.ask(CA, &request()).await.expect_err("no uplink is up");
    assert!(why.contains("no uplink is up"), "{why}");
    branch.link();
    until("reports came up", async || branch.places[0].herald.reports().len() == 3).await;
    let granted = |by: &'static str| Ok(Answer::Granted(vec![Bytes::from_static(by.as_bytes())]));
    for _ in 0..2 {
        assert_eq!(branch.places[2].herald.ask(CA, &request()).await, granted("can-tho"), "who passed it on");
    }
    assert_eq!(branch.places[1].herald.ask(CA, &request()).await, granted("can-tho"));
    assert_eq!(branch.places[0].herald.ask(CA, &request()).await, granted("central"), "its own CA");
    let refused = Ok(Answer::Refused(Refusal::NoAuthority));
    assert_eq!(branch.places[2].herald.ask([8; 32], &request()).await, refused, "central holds no such CA");
    // The line goes dead under a question: the answer does not come, and the asker hears of it.
    branch.line.set(|c| c.latency_ms = 1_000);
    let asking = branch.places[2].herald.clone();
    let asked = tokio::spawn(async move { asking.ask(CA, &request()).await });
    sleep(Duration::from_millis(1_500)).await;
    branch.uplinks.pop();
    let why = asked.await.expect("done").expect_err("no answer");
    assert!(why.contains("went down"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn reports_go_up_and_the_newest_stands() {
    let mut branch = Branch::new().await;
    branch.link();
    let roots = |at: usize| branch.places[at].herald.reports().iter().map(|r| (r.name.to_string(), r.roots)).collect();
    let expect = |hue: u64| -> Vec<(String, u64)> {
        vec![("can-tho".to_owned(), 1), ("central".to_owned(), 1), ("hue".to_owned(), hue)]
    };
    until("all three", async || {
        let got: Vec<(String, u64)> = roots(0);
        got == expect(1)
    })
    .await;
    branch.places[2].fake.change(|fake| fake.report.lock().expect("whole").roots = 2);
    until("the newer one", async || {
        let got: Vec<(String, u64)> = roots(0);
        got == expect(2)
    })
    .await;
    let below: Vec<(String, u64)> = roots(2);
    assert_eq!(below, [("hue".to_owned(), 2)], "nothing goes down");
}

#[tokio::test(start_paused = true)]
async fn an_audit_log_is_copied_to_the_parent_alone() {
    let mut branch = Branch::new().await;
    let lines = |range: std::ops::Range<u32>| range.map(|n| Bytes::from(n.to_string())).collect::<Vec<_>>();
    let append = |fake: &Fake, range| fake.change(|fake| fake.log.lock().expect("whole").extend(lines(range)));
    let kept = |branch: &Branch, at: usize| branch.places[at].fake.kept.lock().expect("whole").clone();
    append(&branch.places[2].fake, 0..3_000);
    branch.link();
    until("copied", async || kept(&branch, 1) == lines(0..3_000)).await;
    append(&branch.places[2].fake, 3_000..3_001);
    until("the next line", async || kept(&branch, 1).len() == 3_001).await;
    branch.uplinks.clear();
    append(&branch.places[2].fake, 3_001..3_005);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(kept(&branch, 1).len(), 3_001, "no link");
    branch.link();
    until("what was missed", async || kept(&branch, 1) == lines(0..3_005)).await;
    assert!(kept(&branch, 0).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_end_gets_it_back_from_the_parent_and_goes_on() {
    let mut branch = Branch::new().await;
    let lines = |range: std::ops::Range<u32>| range.map(|n| Bytes::from(n.to_string())).collect::<Vec<_>>();
    let log = |branch: &Branch| branch.places[2].fake.log.lock().expect("whole").clone();
    let kept = |branch: &Branch| branch.places[1].fake.kept.lock().expect("whole").clone();
    *branch.places[2].fake.log.lock().expect("whole") = lines(0..10);
    *branch.places[1].fake.kept.lock().expect("whole") = lines(0..5_000);
    branch.link();
    until("all is back, in several frames", async || log(&branch) == lines(0..5_000)).await;
    branch.places[2].fake.change(|fake| fake.log.lock().expect("whole").extend(lines(5_000..5_001)));
    until("the next line", async || kept(&branch) == lines(0..5_001)).await;
    // Set aside while the link is up: within ten minutes all of it is copied anew.
    branch.places[1].fake.kept.lock().expect("whole").clear();
    branch.places[2].herald.pull();
    until("from the beginning", async || kept(&branch) == lines(0..5_001)).await;
}

/// A child is given its own log alone, and gives nobody lines of another's.
#[tokio::test]
async fn nobody_is_sent_the_log_of_another_node_or_made_to_take_it() {
    let (mut scene, fake) = Scene::new(FEATURE_PKI).await;
    *fake.kept.lock().expect("whole") = vec![Bytes::from_static(b"line")];
    *fake.log.lock().expect("whole") = vec![Bytes::from_static(b"own")];
    let mut pki = scene.raw.open(StreamKind::Pki).await;
    let of = |node: NodeId| PkiFrame::JournalHave { node, number: 0, hash: [0; 32] };
    pki.write_all(&of(NodeId([9; 16])).encode()).await.expect("written");
    let own = fake.report().node;
    // As if this child were the parent.
    pki.write_all(&of(own).encode()).await.expect("written");
    let back = PkiFrame::Journal { node: own, first: 2, lines: vec![Bytes::from_static(b"put in")] };
    pki.write_all(&back.encode()).await.expect("written");
    pki.write_all(&of(scene.node).encode()).await.expect("written");
    let mut stream = scene.raw.accept(StreamKind::Pki).await;
    assert!(matches!(frames(&mut stream).await, PkiFrame::Have(_)));
    let line = vec![Bytes::from_static(b"line")];
    assert_eq!(frames(&mut stream).await, PkiFrame::Journal { node: scene.node, first: 1, lines: line });
    assert_eq!(fake.log.lock().expect("whole").len(), 1);
}

/// As between releases: the older one says no feature, gets no such stream, and the link serves as ever.
#[tokio::test(start_paused = true)]
async fn a_neighbour_that_knows_no_pki_stream_gets_none() {
    let overlay = Overlay::new();
    let line = Line::new(2);
    let mut central = Place::open(&overlay.central, &line, 1, Some(CA)).await;
    central.fake.put(ROOTS, 1, &b"roots"[..]);
    let can_tho = Office::open(&overlay.admit("can-tho"), &line, ([10, 0, 0, 2], 7443).into(), false).await;
    let _uplinks = can_tho.dial("central", ([10, 0, 0, 1], 7443).into());
    let link = async || central.office.here.open.borrow().keys().next().copied();
    until("linked", async || link().await.is_some()).await;
    let first = link().await;
    let id = can_tho.submit("vanban@central", b"document".to_vec()).await;
    assert_eq!(central.office.take(1).await.get(&id), Some(&1));
    sleep(Duration::from_secs(30)).await;
    let now = central.office.here.open.borrow().keys().next().copied();
    assert_eq!(now, first, "the link is still the same");
}

/// A station with a PKI, and a raw peer that has said hello.
struct Scene {
    station: Station,
    /// The peer.
    node: NodeId,
    raw: Raw,
    up: Up,
}

pub(super) fn hello(keys: &NodeKeys, features: u64) -> Bytes {
    let me = keys.identity();
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features,
        node: me.id,
        name: me.name.clone(),
        incarnation: Incarnation([1; 16]),
        boot: [1; 16],
        counter: 1,
        highest_of_yours: 0,
        spool_room_bytes: 0,
        clock_ms: 0,
        addresses: vec![],
    };
    Frame::Hello(hello).encode()
}

impl Scene {
    async fn new(features: u64) -> (Self, Arc<Fake>) {
        let overlay = Overlay::new();
        let keys = overlay.admit("can-tho");
        let fake = Fake::new(&overlay.central, Some(CA));
        let mut station = Station::with_pki(&overlay.central, Some("127.0.0.1:0"), fake.clone());
        let mut raw = Raw::dial(&keys, &station).await;
        let up = station.link_up().await;
        raw.control.write_all(&hello(&keys, features)).await.expect("written");
        (Self { station, node: keys.identity().id, raw, up }, fake)
    }

    async fn closed(self, reason: &str) {
        let (code, text) = self.raw.closed().await;
        assert!(code == 6 && text.contains(reason), "{code}: {text}");
        let mut station = self.station;
        while !matches!(station.next_input().await, Input::LinkDown { .. }) {}
    }
}

async fn check_bad(features: u64, streams: usize, bytes: impl AsRef<[u8]>, reason: &str) {
    let (scene, _fake) = Scene::new(features).await;
    let mut open: Vec<SendStream> = Vec::new();
    for _ in 0..streams {
        open.push(scene.raw.open(StreamKind::Pki).await);
    }
    // It may be closed before all is written.
    let _ = open[0].write_all(bytes.as_ref()).await;
    scene.closed(reason).await;
}

#[tokio::test]
async fn a_pki_stream_that_breaks_the_rules_ends_the_link_with_the_reason() {
    let have = PkiFrame::Have(vec![]).encode();
    check_bad(0, 1, &have, "a PKI stream that was not agreed on").await;
    check_bad(FEATURE_PKI, 2, &have, "a second PKI stream").await;
    check_bad(FEATURE_PKI, 1, (PKI_FRAME_BYTES as u32 + 1).to_be_bytes(), "at most").await;
    check_bad(FEATURE_PKI, 1, [0, 0, 0, 0], "empty").await;
    check_bad(FEATURE_PKI, 1, [0, 0, 0, 1, 99], "unknown kind of PKI frame: 99").await;
    check_bad(FEATURE_PKI, 1, [0, 0, 0, 4, 2, 0xff, 0xff, 0xff], "malformed object").await;
}

async fn frames(stream: &mut quinn::RecvStream) -> PkiFrame {
    let mut field = [0; 4];
    timeout(SOON, stream.read_exact(&mut field)).await.expect("in time").expect("more");
    let mut bytes = vec![0; u32::from_be_bytes(field) as usize];
    timeout(SOON, stream.read_exact(&mut bytes)).await.expect("in time").expect("whole");
    PkiFrame::decode(bytes.into()).expect("a frame")
}

/// A peer that sends and never reads: what it is owed stays bounded, and control goes on.
#[tokio::test]
async fn a_peer_that_does_not_read_its_pki_stream_holds_up_nothing_else() {
    let (mut scene, fake) = Scene::new(FEATURE_PKI).await;
    for at in 0..4 {
        fake.put(ObjectKey::Crl([at; 32]), 1, vec![at; OBJECT_BYTES]);
    }
    let mut pki = scene.raw.open(StreamKind::Pki).await;
    pki.write_all(&PkiFrame::Have(vec![]).encode()).await.expect("written");
    let ask = PkiFrame::Ask { number: 7, hops: 1, authority: CA, request: request().encode() };
    for _ in 0..1_000 {
        pki.write_all(&ask.encode()).await.expect("read all the same");
    }
    let object = Object { item: Item { key: ROOTS, version: 1 }, content: Bytes::from_static(b"roots") };
    pki.write_all(&PkiFrame::Object(object).encode()).await.expect("written");
    until("read to its end", async || fake.version(ROOTS) == 1).await;
    let ping = Frame::Ping { number: 1, clock_ms: 1 };
    scene.up.send(ping.clone()).await;
    assert_eq!(frame(&mut scene.raw.replies).await, Some(ping));
    // Now it reads: what this node has, then replies and objects.
    let mut stream = scene.raw.accept(StreamKind::Pki).await;
    assert!(matches!(frames(&mut stream).await, PkiFrame::Have(_)));
    let (mut objects, mut replies) = (0, 0);
    while objects < 4 {
        match frames(&mut stream).await {
            PkiFrame::Object(_) => objects += 1,
            PkiFrame::Reply { number: 7, .. } => replies += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((1..=1_000).contains(&replies), "{replies}");
}
