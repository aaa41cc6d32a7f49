//! Crashes of real processes: in every round documents are under way from a commune over two relays to another province,
//! while the sender's daemon, a relay, the receiver's daemon and the receiving application are killed with SIGKILL, each
//! at a random moment. [`run`] promises that every document that was accepted came out once, as it was sent, and that
//! its receipt is back at its origin; otherwise it panics.
//!
//! The seed decides documents, victims and moments. What the kernel makes of them differs from run to run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tram_client::{Client, NewMessage, Place};
use tram_proto::envelope::Precedence;
use tram_proto::id::MessageId;

use crate::overlay::{LOOK, Overlay, heavy};
use crate::sim::Random;

/// The way of the documents. The first sends, the last receives.
const NODES: [&str; 4] = ["NK", "CT", "C", "AG"];
const TO: &str = "vanban@an-giang";
/// The receiving application, `tram recv --follow`.
const RECV: &str = "recv";
/// Small documents of one round; a large one comes on top.
const SMALL: usize = 110;
const DOCUMENTS: usize = SMALL + 1;
/// Threads that send small documents.
const SENDERS: usize = 6;
/// Documents are sent and processes killed within this time from the round's beginning.
const ROUND_MS: u64 = 1_500;
/// The longest pause before a killed process starts again; every other one starts at once.
const PAUSE_MS: u64 = 500;
/// How long anything may take once everybody runs again.
const PATIENCE: Duration = Duration::from_secs(120);
/// Messages the node lets one call watch are 1,024.
const WATCHED: usize = 1_000;
/// Rounds from one line of progress to the next.
const TELL: usize = 10;

/// The seed `TRAM_SEED` names, if it does.
///
/// # Panics
/// When it names something else.
#[must_use]
pub fn seed() -> Option<u64> {
    std::env::var("TRAM_SEED").ok().map(|text| text.parse().expect("TRAM_SEED is a number"))
}

/// Runs so many rounds; says what happened.
///
/// # Panics
/// When a document was lost, doubled or altered, with the command that runs the seed again.
pub fn run(program: &str, rounds: usize, seed: u64) {
    let _alone = heavy();
    let _replay = Replay { rounds, seed };
    let begin = Instant::now();
    let mut overlay = Overlay::line(program, "127.0.0.1");
    overlay.keep_when_failing();
    let run = Run::new(&overlay, seed);
    let mut register = Register::default();
    thread::scope(|scope| {
        scope.spawn(|| run.receive());
        // Whatever fails below, the receiver ends, and with it the scope.
        let _over = Over(&run.over);
        for round in 0..rounds {
            register.ids.extend(run.round(round));
            if !register.await_all(&run) {
                break;
            }
            if (round + 1) % TELL == 0 {
                println!("round {}: {} documents, {:.0?}", round + 1, register.ids.len(), begin.elapsed());
            }
        }
        if register.lost().is_empty() {
            overlay.await_done(&NODES, PATIENCE);
        }
    });
    if register.lost().is_empty() {
        assert_eq!(overlay.recv_all(NODES[3], "out").ok(), "", "nothing comes a second time");
    }
    register.take(&run);
    println!("{} rounds, {} documents, {:.0?}, seed {seed}", rounds, register.ids.len(), begin.elapsed());
    println!("{}", run.deeds());
    let (lost, doubled, altered) = (register.lost(), register.doubled(), &register.altered);
    println!("lost {}, doubled {}, altered {}", lost.len(), doubled.len(), altered.len());
    assert!(lost.is_empty() && doubled.is_empty() && altered.is_empty(), "{lost:?} {doubled:?} {altered:?}");
    register.check_ledger(&overlay.path("out"));
    check_receipts(&overlay, &register.ids);
}

/// Says how to do it again when the run fails, however it does.
struct Replay {
    rounds: usize,
    seed: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("again: TRAM_SEED={} scripts/crash {}", self.seed, self.rounds);
        }
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A document's content names it. Most are short, some go as chunks; the first of each round is large.
fn document(seed: u64, number: usize) -> Vec<u8> {
    let mut random = Random::new(seed ^ (number as u64) << 32);
    let size = match random.below(10) {
        _ if number.is_multiple_of(DOCUMENTS) => (4 << 20) + random.below(12 << 20),
        0..=8 => random.below(4_000),
        _ => 70_000 + random.below(500_000),
    };
    let mut out = format!("Văn bản số {number}\n").into_bytes();
    out.extend((0..size / 8).flat_map(|_| random.number().to_le_bytes()));
    out
}

struct Run<'a> {
    overlay: &'a Overlay,
    seed: u64,
    over: AtomicBool,
    /// How often each was killed, in the order of [`NODES`]; [`RECV`] comes last.
    kills: [AtomicUsize; NODES.len() + 1],
    /// Sends whose answer was lost with the daemon.
    unanswered: AtomicUsize,
    /// Sends whose application went away.
    abandoned: AtomicUsize,
    /// Sends of what had been accepted long before.
    repeated: AtomicUsize,
}

impl<'a> Run<'a> {
    fn new(overlay: &'a Overlay, seed: u64) -> Self {
        let [unanswered, abandoned, repeated] = Default::default();
        Self { overlay, seed, over: AtomicBool::new(false), kills: Default::default(), unanswered, abandoned, repeated }
    }

    /// Sends a round's documents and kills its victims. Returns the messages' ids by the documents' numbers when all are
    /// accepted and everybody runs again.
    fn round(&self, round: usize) -> Vec<(usize, MessageId)> {
        let mut random = Random::new(self.seed.wrapping_add(round as u64));
        let mut own = || Random::new(random.number());
        let first = round * DOCUMENTS;
        let small = |sender| (first + 1 + sender..first + DOCUMENTS).step_by(SENDERS).collect();
        let shares = (0..SENDERS).map(small).chain([vec![first]]);
        let victims = [0, 1 + own().below(2) as usize, 3, 4];
        thread::scope(|scope| {
            for (victim, random) in victims.map(|victim| (victim, own())) {
                scope.spawn(move || self.crash(victim, random));
            }
            let share = |share: Vec<usize>| {
                let random = own();
                scope.spawn(move || self.send(&share, random))
            };
            let senders: Vec<_> = shares.map(share).collect();
            senders.into_iter().flat_map(|sender| sender.join().expect("its documents are accepted")).collect()
        })
    }

    fn crash(&self, victim: usize, mut random: Random) {
        let name = NODES.get(victim).unwrap_or(&RECV);
        thread::sleep(Duration::from_millis(random.below(ROUND_MS)));
        self.overlay.kill(name);
        self.kills[victim].fetch_add(1, Ordering::Relaxed);
        if *name == RECV {
            return;
        }
        if random.once_in(2) {
            thread::sleep(Duration::from_millis(random.below(PAUSE_MS)));
        }
        self.overlay.run(name);
    }

    /// Sends some documents at random moments, as an application would that has to survive its node.
    fn send(&self, numbers: &[usize], mut random: Random) -> Vec<(usize, MessageId)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let pause_ms = (2 * ROUND_MS / numbers.len() as u64).min(ROUND_MS / 2);
        let mut sent: Vec<(usize, MessageId)> = Vec::new();
        runtime.block_on(async {
            for &number in numbers {
                tokio::time::sleep(Duration::from_millis(random.below(pause_ms))).await;
                sent.push((number, self.submit(number, &mut random).await));
                let (earlier, id) = sent[random.below(sent.len() as u64) as usize];
                if random.once_in(40) {
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(self.submit(earlier, &mut random).await, id, "document {earlier} is the same message");
                }
            }
        });
        sent
    }

    /// Sends a document again with its key until it is accepted.
    async fn submit(&self, number: usize, random: &mut Random) -> MessageId {
        let content = document(self.seed, number);
        let accepted = async {
            loop {
                // An application may go away, and come back, too.
                let patience_ms = if random.once_in(40) { random.below(30) } else { u64::MAX };
                let send = self.send_once(number, &content);
                match tokio::time::timeout(Duration::from_millis(patience_ms), send).await {
                    Ok(Ok(id)) => return id,
                    Ok(Err(error)) => {
                        assert!(error.retryable(), "document {number}: {error}");
                        self.unanswered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {
                        self.abandoned.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, accepted).await.unwrap_or_else(|_| panic!("document {number} is not accepted"))
    }

    async fn send_once(&self, number: usize, content: &[u8]) -> Result<MessageId, tram_client::Error> {
        let client = Client::connect(&Place::dir(&self.overlay.path(NODES[0]))).await?;
        let message = NewMessage {
            to: vec![TO.parse().expect("an address")],
            precedence: Some(Precedence::ALL[number % Precedence::ALL.len()]),
            file_name: file_name(number),
            idempotency_key: format!("crash-{number}"),
            ..NewMessage::default()
        };
        client.send(message, content, |_| {}).await
    }

    /// Receives until the run is over, beginning anew whenever the node or the receiver itself is killed.
    fn receive(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let log = fs::OpenOptions::new().create(true).append(true).open(self.overlay.path("recv.log"));
            let mut command = self.overlay.tram_command(NODES[3]);
            command.args(["recv", "--inbox", "vanban", "--follow", "--out"]).arg(self.overlay.path("out"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log"));
            self.overlay.keep(RECV, command.spawn().expect("it starts"));
            let ended = loop {
                thread::sleep(LOOK);
                match self.overlay.ended(RECV) {
                    Some(code) => break code,
                    None if self.over.load(Ordering::Relaxed) => break None,
                    None => {}
                }
            };
            assert!([None, Some(69)].contains(&ended), "the receiver ended with {ended:?}, see recv.log");
            self.overlay.kill(RECV);
        }
    }

    fn deeds(&self) -> String {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let [nk, ct, c, ag, recv] = self.kills.each_ref().map(count);
        format!(
            "killed: sender {nk}, relays {ct} and {c}, receiver {ag}, receiving application {recv}\n\
             sends without an answer {}, abandoned {}, repeated {}",
            count(&self.unanswered),
            count(&self.abandoned),
            count(&self.repeated)
        )
    }
}

fn file_name(number: usize) -> String {
    format!("{number}.bin")
}

/// What was accepted, and what came of it.
#[derive(Default)]
struct Register {
    ids: BTreeMap<usize, MessageId>,
    came: BTreeMap<usize, usize>,
    altered: Vec<String>,
}

impl Register {
    /// Waits for all that was accepted. Says whether it came.
    fn await_all(&mut self, run: &Run<'_>) -> bool {
        let begin = Instant::now();
        while !self.lost().is_empty() && begin.elapsed() < PATIENCE {
            thread::sleep(LOOK);
            self.take(run);
        }
        self.lost().is_empty()
    }

    /// Looks at what was received and takes it away: a document that comes again is then a file once more.
    fn take(&mut self, run: &Run<'_>) {
        let out = run.overlay.path("out");
        let Ok(entries) = fs::read_dir(&out) else { return };
        for path in entries.map(|entry| entry.expect("an entry").path()).filter(|path| !is_ledger(path)) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = name.strip_suffix(".bin").and_then(|number| number.parse().ok());
            match number {
                Some(number) if fs::read(&path).expect("read") == document(run.seed, number) => {
                    *self.came.entry(number).or_default() += 1;
                }
                _ => self.altered.push(name),
            }
            fs::remove_file(&path).expect("removed");
        }
    }

    fn lost(&self) -> Vec<(usize, MessageId)> {
        let lost = self.ids.iter().filter(|(number, _)| !self.came.contains_key(number));
        lost.map(|(number, id)| (*number, *id)).collect()
    }

    fn doubled(&self) -> Vec<usize> {
        self.came.iter().filter(|(_, times)| **times > 1).map(|(number, _)| *number).collect()
    }

    /// The receiver's own ledger has every message once and no other.
    fn check_ledger(&self, out: &Path) {
        let ledger = fs::read_to_string(out.join(".tram")).expect("a ledger");
        let mut done: Vec<(&str, &str)> = Vec::new();
        for line in ledger.lines().filter(|line| !line.starts_with('?')) {
            let mut fields = line.split(' ');
            let (id, to, name) = (fields.next(), fields.next(), fields.next());
            assert_eq!(to, Some(TO), "{line}");
            done.push((id.expect("an id"), name.expect("a name")));
        }
        let sent: Vec<_> = self.ids.iter().map(|(number, id)| (id.to_string(), file_name(*number))).collect();
        assert_eq!(done.len(), sent.len());
        let sent: BTreeSet<_> = sent.iter().map(|(id, name)| (id.as_str(), name.as_str())).collect();
        assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), sent);
    }
}

fn is_ledger(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The origin knows of every message that it was delivered.
fn check_receipts(overlay: &Overlay, ids: &BTreeMap<usize, MessageId>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ids: Vec<MessageId> = ids.values().copied().collect();
    runtime.block_on(async {
        let client = Client::connect(&Place::dir(&overlay.path(NODES[0]))).await.expect("it answers");
        for ids in ids.chunks(WATCHED) {
            let mut watch = client.watch(ids).await.expect("it knows them");
            for _ in ids {
                let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("it says what it knows");
                let state = next.expect("it answers").expect("it runs").state;
                assert_eq!(state, "delivered");
            }
        }
    });
}
