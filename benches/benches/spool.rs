//! What the spool costs: durable messages of 1 KiB per second by batch, an upload of 1 GiB, and reopening with 1,000,000
//! messages queued, each beside a plain append and fdatasync of the same bytes on the same disk.
//!
//! `cargo bench -p tram-benches --bench spool [-- commits|upload|reopen]`. `TMPDIR` chooses the disk, `TRAM_MESSAGES` how
//! many messages are queued.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use tempfile::TempDir;
use tram_benches::{Measured, beside, ns_each, print};
use tram_proto::envelope::{Body, MessageKind, Network, Precedence};
use tram_proto::frame::{Recipient, Visit};
use tram_proto::id::{CertHash, Incarnation, MessageId, NodeId};
use tram_proto::limits;
use tram_proto::manifest::root_of;
use tram_proto::receipt::{Ordinal, Reason, Stamp, State};
use tram_proto::row::{MessageRow, NodeRow, Phase, ReceiptRow, RecipientRow};
use tram_proto::statement::{Signature, Signed};
use tram_relay::input::Row;
use tram_relay::output::{Op, Statement};
use tram_relay::{Config, Input, Node, Now};
use tramd::spool::{DiskOptions, DiskSpool, Spool};

/// The daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Now = Now { mono_ms: 1_000_000, wall_ms: 1_800_000_000_000 };
const ORIGIN: NodeId = NodeId([7; 16]);
/// Messages of one turn of a measurement; with one in a commit fewer.
const MESSAGES: usize = 8192;
const UPLOAD_BYTES: usize = 1 << 30;
/// What pushes an upload on: a part as the local socket brings them.
const PART_BYTES: usize = 1 << 20;

fn signed(statement: Bytes, number: u64) -> Signed {
    let signature = Signature {
        signer: CertHash([7; 32]),
        count: 64,
        index: (number % 64) as u32,
        path: vec![[7; 32]; 6],
        signature: vec![7; 71].into(),
    };
    Signed { statement, signature }
}

fn put(number: u64, inline: Bytes) -> (MessageRow, Op) {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    let body = Body {
        nonce,
        origin: ORIGIN,
        incarnation: Incarnation([7; 16]),
        origin_name: "ninh-kieu.can-tho".parse().expect("a name"),
        sender: Some("vanban".parse().expect("an inbox")),
        to: vec!["vanban@central".parse().expect("an address")],
        precedence: Precedence::Routine,
        sequence: number,
        created_ms: NOW.wall_ms,
        clock_offset_ms: 0,
        lifetime_ms: limits::LIFETIME_DEFAULT_MS,
        deliver_by_ms: 0,
        label: String::new(),
        network: Network::Unspecified,
        kind: MessageKind::Document,
        subject: "V/v phòng chống bão số 9".to_owned(),
        file_name: "Công văn 12-CV_TU.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        attributes: Vec::new(),
        business_id: String::new(),
        idempotency_key: String::new(),
        traceparent: String::new(),
        sealed: false,
        payload_bytes: inline.len() as u64,
        payload_root: root_of(&inline),
        recalls: None,
        pair_sequences: Vec::new(),
    };
    let statement = body.encode().expect("within limits");
    let recipient = RecipientRow {
        recipient: Recipient { ordinal: Ordinal::body(0), node: None },
        phase: Phase::Forward,
        state: State::Submitted,
        reason: Reason::None,
        detail: String::new(),
        at_ms: NOW.wall_ms,
    };
    let message = MessageRow {
        id: MessageId::of(&statement),
        visit: Visit { attempt: 0, hops: 1 },
        from: Some(ORIGIN),
        received_ms: NOW.wall_ms,
        recipients: vec![recipient],
        stamps: vec![Stamp { node: ORIGIN, name: body.origin_name.clone(), at_ms: NOW.wall_ms }],
        complete: true,
        handed_ms: 0,
        handed_to: None,
        user: None,
        recalls: None,
        demoted_from: None,
    };
    let envelope = Statement::Signed(signed(statement, number));
    let op =
        Op::PutMessage { row: Row(number), message: message.clone(), envelope, inline: Some(inline), payload: None };
    (message, op)
}

/// Fresh bytes: no two payloads of a run are alike.
fn payload(seed: u64, bytes: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out.into()
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn open(path: &Path) -> DiskSpool {
    DiskSpool::open(path, DiskOptions { keep_free_bytes: 0, ..DiskOptions::default() }).expect("opens")
}

fn messages(from: u64, count: usize, bytes: usize) -> Vec<(MessageRow, Op)> {
    (from..).take(count).map(|number| put(number, payload(number, bytes))).collect()
}

/// Bytes of a message as they must reach a disk at least once.
fn weight(op: &Op) -> usize {
    let Op::PutMessage { message, envelope: Statement::Signed(signed), inline, .. } = op else { return 0 };
    message.encode().len() + signed.encode().len() + inline.as_ref().map_or(0, Bytes::len)
}

/// A file that is appended to and synced, batch by batch: what no store can beat.
fn append(dir: &Path, batches: &[usize]) -> f64 {
    let path = dir.join("plain");
    let mut file = File::create(&path).expect("makes");
    let content = vec![5; batches.iter().copied().max().unwrap_or(0)];
    let ns = ns_each(|| {
        for bytes in batches {
            file.write_all(&content[..*bytes]).expect("writes");
            file.sync_data().expect("syncs");
        }
        1
    });
    std::fs::remove_file(path).expect("removes");
    ns
}

/// What happens to every message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It comes, and goes when the next hop has it.
    Relayed,
    /// It comes, is changed once, gets a receipt, and is settled; the receipt goes.
    Delivered,
}

struct Rounds {
    spool: DiskSpool,
    next: u64,
}

impl Rounds {
    /// Lets so many messages live their lives, each step in batches; answers nanoseconds per message.
    fn live(&mut self, life: Life, batch: usize, count: usize) -> f64 {
        let batches: Vec<Vec<(MessageRow, Op)>> =
            (0..count / batch).map(|n| messages(self.next + (n * batch) as u64, batch, 1024)).collect();
        self.next += count as u64;
        let commit = |ops: Vec<Op>| self.spool.commit(&ops).expect("commits");
        ns_each(|| {
            for puts in batches {
                let (rows, ops): (Vec<MessageRow>, Vec<Op>) = puts.into_iter().unzip();
                let numbers: Vec<Row> = ops
                    .iter()
                    .filter_map(|op| if let Op::PutMessage { row, .. } = op { Some(*row) } else { None })
                    .collect();
                commit(ops);
                let known = || numbers.iter().copied().zip(rows.iter().cloned());
                match life {
                    Life::Relayed => commit(numbers.iter().map(|row| Op::DeleteMessage { row: *row }).collect()),
                    Life::Delivered => {
                        commit(known().map(|(row, message)| Op::UpdateMessage { row, message }).collect());
                        let ended = known().flat_map(|(row, message)| {
                            let receipt = ReceiptRow { message: message.id, origin: ORIGIN, until_ms: NOW.wall_ms };
                            let statement = Statement::Signed(signed(vec![7; 150].into(), row.0));
                            let until_ms = NOW.wall_ms + row.0;
                            [
                                Op::PutReceipt { row: Row(row.0 + (1 << 40)), receipt, statement },
                                Op::SettleMessage { row, message, until_ms },
                            ]
                        });
                        commit(ended.collect());
                        commit(numbers.iter().map(|row| Op::DeleteReceipt { row: Row(row.0 + (1 << 40)) }).collect());
                    }
                }
            }
            count
        })
    }
}

fn commits() {
    let dir = directory();
    let fdatasync = append(dir.path(), &[4096; 256]) / 256.0;
    println!("one append of 4 KiB and fdatasync: {:.0} us", fdatasync / 1000.0);
    let weight = messages(1, 64, 1024).iter().map(|(_, op)| weight(op)).sum::<usize>() / 64;
    println!("one message of 1 KiB: {weight} bytes with row and envelope\n");
    for (life, name) in
        [(Life::Relayed, "put, delete"), (Life::Delivered, "put, update, receipt, settle, receipt gone")]
    {
        let mut lines: Vec<Measured> = Vec::new();
        let mut plain = 0.0;
        for (batch, what) in [(1, "1 in a commit"), (64, "64 in a commit"), (256, "256"), (1024, "1,024")] {
            let at = dir.path().join(format!("{}-{batch}", name.len()));
            let mut rounds = Rounds { spool: open(&at), next: 1 };
            let count = if batch == 1 { 256 } else { MESSAGES };
            let baseline = || {
                plain = append(dir.path(), &vec![weight * batch; count / batch]) / count as f64;
                plain
            };
            let measured = beside(what, || rounds.live(life, batch, count), baseline);
            println!("{name}, {what}: {:.0} messages/s; plain {:.0}/s", 1e9 / measured.ns(), 1e9 / plain);
            lines.push(measured);
        }
        print(&format!("{name}: plain append, 1,024"), plain, &lines);
        println!();
    }
}

fn upload() {
    let dir = directory();
    let spool = open(&dir.path().join("spool"));
    let mut seed = 0;
    let subject = || {
        seed += 1;
        // Made before the clock runs; only one part in memory is fresh at a time would measure the generator.
        let parts: Vec<Bytes> =
            (0..UPLOAD_BYTES / PART_BYTES).map(|n| payload((seed << 32) + n as u64, PART_BYTES)).collect();
        let ns = ns_each(|| {
            let mut upload = spool.upload();
            parts.into_iter().for_each(|part| upload.push(part).expect("there is room"));
            upload.finish().expect("durable");
            1
        });
        spool.sweep(seed * 10_000_000).expect("sweeps");
        spool.sweep(seed * 10_000_000 + 5_000_000).expect("sweeps");
        ns
    };
    let baseline = || append(dir.path(), &[PART_BYTES * 32; UPLOAD_BYTES / PART_BYTES / 32]);
    let measured = beside("upload of 1 GiB", subject, baseline);
    println!("upload: {:.0} MB/s", UPLOAD_BYTES as f64 * 1e3 / measured.ns());
    print("plain append of 1 GiB, synced every 32 MiB", baseline(), &[measured]);
}

fn fill(path: &Path, count: u64, clean: bool) {
    let spool = open(path);
    let node = NodeRow { incarnation: Incarnation([1; 16]), starts: 1, record: 0, clock_ms: 0 };
    spool.commit(&[Op::PutNode(node)]).expect("commits");
    for from in (1..=count).step_by(1024) {
        let batch = (count + 1 - from).min(1024) as usize;
        spool.commit(&messages(from, batch, 512).into_iter().map(|(_, op)| op).collect::<Vec<_>>()).expect("commits");
    }
    if !clean {
        std::process::abort();
    }
}

/// Seconds of processor time that this process has taken: on a shared machine it says more than the clock.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("reads");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

/// Memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("reads");
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}

fn core() -> Node {
    Node::new(Config {
        node: NodeId([1; 16]),
        name: "can-tho".parse().expect("a name"),
        title: String::new(),
        has_uplink: true,
        features: 0,
        addresses: Vec::new(),
        boot: [1; 16],
        labels: Vec::new(),
    })
}

fn reopen() {
    let count = std::env::var("TRAM_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    for (clean, how) in [(false, "after a kill"), (true, "after a clean close")] {
        let dir = directory();
        let path = dir.path().join("spool");
        let me = std::env::current_exe().expect("this program");
        let filled = Instant::now();
        let args = ["fill".into(), path.display().to_string(), count.to_string(), clean.to_string()];
        let status = Command::new(me).args(args).status().expect("starts");
        assert_eq!(status.success(), clean, "{status}");
        let bytes = std::fs::metadata(path.join("spool.redb")).expect("a file").len();
        println!(
            "{how}: {count} messages of 512 bytes, {} MB, filled in {:.1} s",
            bytes / 1_000_000,
            filled.elapsed().as_secs_f64()
        );
        for _ in 0..3 {
            let me = std::env::current_exe().expect("this program");
            let status = Command::new(me).args(["start".into(), path.display().to_string()]).status().expect("starts");
            assert!(status.success(), "{status}");
        }
    }
}

/// What a daemon does at its start, in a process whose memory is as fresh as its.
fn start(path: &Path) {
    let clock = || (Instant::now(), cpu());
    let since = |(began, spent): (Instant, f64)| (began.elapsed().as_secs_f64(), cpu() - spent);
    let all = clock();
    let spool = open(path);
    let (open_s, open_cpu_s) = since(all);
    let (before, reading) = (resident_bytes(), clock());
    let mut node = core();
    let mut messages = 0;
    let take = &mut |input| {
        messages += 1;
        node.handle(input, NOW);
    };
    let restored = spool.restore(take).expect("restores");
    let (read_s, read_cpu_s) = since(reading);
    let starting = clock();
    node.handle(Input::Start { node: restored.node.expect("it was put"), inboxes: restored.inboxes }, NOW);
    let (start_s, start_cpu_s) = since(starting);
    let (all_s, all_cpu_s) = since(all);
    let each = (resident_bytes() - before) / messages;
    let walking = clock();
    let mut walked = 0;
    spool.restore(&mut |_| walked += 1).expect("restores");
    let (walk_s, walk_cpu_s) = since(walking);
    assert_eq!((walked, node.snapshot().messages as u64), (messages, messages));
    println!(
        "  open {open_s:.2} s ({open_cpu_s:.2} s of processor), read into a core {read_s:.2} ({read_cpu_s:.2}), start it \
         {start_s:.2} ({start_cpu_s:.2}), all three {all_s:.2} ({all_cpu_s:.2}); {each} bytes of memory for each \
         message; to read alone {walk_s:.2} ({walk_cpu_s:.2})",
    );
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["start", path] => start(Path::new(path)),
        ["fill", path, count, clean] => fill(&PathBuf::from(path), count.parse().expect("a number"), *clean == "true"),
        ["commits"] => commits(),
        ["upload"] => upload(),
        ["reopen"] => reopen(),
        _ => {
            commits();
            upload();
            reopen();
        }
    }
}
