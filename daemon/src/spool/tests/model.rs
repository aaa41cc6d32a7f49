//! The same random operations on both spools must leave nothing to tell them apart, also when the one on a disk is
//! opened again, or copied while it is open as a kill would leave it.

use proptest::prelude::*;
use tram_proto::frame::Range;
use tram_proto::receipt::State;
use tram_proto::row::{KeyRow, NeighborRow, ReceiptRow};

use super::disk::killed;
use super::*;

const ROWS: u64 = 8;
const PAYLOADS: u64 = 4;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Commit(Vec<Op>),
    Upload(u64),
    Abort(u64),
    Store(u64, u64, u64),
    Held(u64),
    Sweep(u64),
    Reopen,
    Kill,
}

/// Payloads overlap: the odd ones begin as the even ones before them do.
fn bytes_of(seed: u64) -> Bytes {
    let tail = payload(100 + seed, CHUNK_BYTES + 10);
    Bytes::from([payload(100 + seed / 2 * 2, CHUNK_BYTES * 2), tail].concat())
}

fn root(seed: u64) -> (Digest, u64) {
    use std::sync::OnceLock;
    static ROOTS: OnceLock<Vec<(Digest, u64)>> = OnceLock::new();
    let all = (0..PAYLOADS).map(bytes_of).map(|b| (root_of(&b), b.len() as u64));
    ROOTS.get_or_init(|| all.collect())[seed as usize]
}

/// Every other row has a payload in chunks.
fn put_row(row: u64) -> Op {
    put(row, row.is_multiple_of(2).then(|| root(row / 2 % PAYLOADS)))
}

fn id_of(row: u64) -> MessageId {
    match put_row(row) {
        Op::PutMessage { message, .. } => message.id,
        _ => unreachable!("a put"),
    }
}

fn state(n: u32) -> State {
    if n.is_multiple_of(2) { State::Arrived } else { State::Delivered }
}

fn said(n: u64) -> Statement {
    Statement::Signed(signed(body(n, 9, Digest([0; 32]))))
}

fn op() -> impl Strategy<Value = Op> {
    let row = || 1..=ROWS;
    let until = || 1u64..6;
    let message = |row: u64, n: u32| message_row(id_of(row), n);
    prop_oneof![
        6 => row().prop_map(put_row),
        1 => (row(), 0u32..9)
            .prop_map(move |(r, n)| Op::UpdateMessage { row: Row(r), message: message(r, n) }),
        1 => (row(), until())
            .prop_map(move |(r, until_ms)| Op::SettleMessage { row: Row(r), message: message(r, 1), until_ms }),
        2 => row().prop_map(|row| Op::DeleteMessage { row: Row(row) }),
        1 => (row(), until()).prop_map(|(row, until_ms)| Op::PutReceipt {
            row: Row(row),
            receipt: ReceiptRow { message: id_of(row), origin: NodeId([4; 16]), until_ms },
            statement: said(row),
        }),
        1 => row().prop_map(|row| Op::DeleteReceipt { row: Row(row) }),
        2 => (row(), 0u32..3, until()).prop_map(|(row, n, until_ms)| Op::KeepReceipt {
            message: id_of(row), ordinal: n, state: state(n), statement: said(until_ms), until_ms,
        }),
        1 => (1u64..4).prop_map(|n| Op::PutNeighbor {
            node: NodeId([n as u8; 16]),
            neighbor: NeighborRow { incarnation: Incarnation([5; 16]), counter: n, held: false },
        }),
        1 => (0u64..3, 1u64..9).prop_map(|(s, sequence)| Op::PutSequence { sender: format!("s{s}"), sequence }),
        2 => (0u32..2, 0u64..3, until()).prop_map(|(user, k, until_ms)| Op::PutKey {
            user, sender: "s".into(), key: format!("k{k}"),
            row: KeyRow { message: id_of(k), content: Digest([6; 32]), until_ms },
        }),
        1 => (0u64..3).prop_map(|n| Op::PutInbox(format!("inbox{n}").parse().expect("a name"))),
        1 => (0u64..3).prop_map(|n| Op::DeleteInbox(format!("inbox{n}").parse().expect("a name"))),
        1 => until().prop_map(Op::Prune),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => proptest::collection::vec(op(), 1..5).prop_map(Step::Commit),
        2 => (0..PAYLOADS).prop_map(Step::Upload),
        1 => (0..PAYLOADS).prop_map(Step::Abort),
        4 => (0..PAYLOADS, 0u64..5, 1u64..4).prop_map(|(p, first, count)| Step::Store(p, first, count)),
        1 => (0..PAYLOADS).prop_map(Step::Held),
        4 => (1u64..3).prop_map(Step::Sweep),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

/// Everything that can be read. Reads that begin a payload's grace anew are done by both.
pub(super) fn look(spool: &dyn Spool, touch: bool) -> Vec<String> {
    let mut out = restored(spool);
    out.push(format!("{:?}", spool.list(3, None)));
    out.push(format!("{:?}", spool.list(9, Some(Row(ROWS / 2)))));
    for row in 0..=ROWS {
        out.push(format!("{:?} {:?}", spool.message(Row(row)), spool.inline(Row(row))));
        out.push(format!("{:?} {:?}", spool.envelope(Row(row)).ok(), spool.receipt(Row(row)).ok()));
        let id = id_of(row);
        out.push(format!("{:?} {:?}", spool.find(&id), spool.kept_receipts(&id)));
    }
    for seed in 0..PAYLOADS {
        let (root, bytes) = root(seed);
        let layout = Layout::new(bytes).expect("within limits");
        let there: Vec<bool> = (0..layout.units()).map(|n| spool.unit(root, layout, n).is_ok()).collect();
        out.push(format!("payload {seed}: {there:?}"));
        if touch {
            let held: Vec<Range> = spool.held(root, layout).expect("reads").units;
            out.push(format!("payload {seed}: {held:?}"));
        }
    }
    out
}

pub(super) fn act(spool: &dyn Spool, origin: &MemorySpool, step: &Step, now_ms: u64) -> Result<(), SpoolError> {
    match step {
        Step::Commit(ops) => spool.commit(ops),
        Step::Upload(seed) => {
            let mut upload = spool.upload();
            bytes_of(*seed).chunks(100_000).try_for_each(|part| upload.push(Bytes::copy_from_slice(part)))?;
            assert_eq!(upload.finish()?, root(*seed));
            Ok(())
        }
        Step::Abort(seed) => spool.upload().push(bytes_of(*seed)),
        Step::Store(seed, first, count) => {
            let (root, bytes) = root(*seed);
            let layout = Layout::new(bytes).expect("within limits");
            // A receiver has the manifest before the chunks.
            let first = if spool.held(root, layout)?.units.is_empty() { 0 } else { *first };
            let last = (first + count).max(if first == 0 { 2 } else { 0 }).min(layout.units());
            let units = (first..last).map(|n| origin.unit(root, layout, n).expect("held")).collect();
            spool.store(root, layout, first, units)
        }
        Step::Held(seed) => {
            let (root, bytes) = root(*seed);
            spool.held(root, Layout::new(bytes).expect("within limits")).map(drop)
        }
        Step::Sweep(_) => spool.sweep(now_ms),
        Step::Reopen | Step::Kill => Ok(()),
    }
}

/// A spool that holds every payload.
pub(super) fn origin() -> MemorySpool {
    let origin = MemorySpool::default();
    for seed in 0..PAYLOADS {
        upload(&origin, &bytes_of(seed));
    }
    origin
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_spools_behave_the_same(steps in proptest::collection::vec(step(), 1..40)) {
        let origin = origin();
        let mut dir = tempfile::tempdir().expect("a directory");
        let mut disk = Some(open(dir.path()));
        let memory = MemorySpool::default();
        let mut now_ms = HOUR_MS;
        for step in &steps {
            match step {
                Step::Sweep(hours) => now_ms += hours * HOUR_MS / 2 + 1,
                Step::Reopen | Step::Kill => {
                    // Who asked for a payload is forgotten by a restart: bring both to the same point first.
                    disk.as_ref().expect("open").sweep(now_ms).expect("sweeps");
                    memory.sweep(now_ms).expect("sweeps");
                }
                _ => {}
            }
            match step {
                Step::Reopen => {
                    drop(disk.take());
                    disk = Some(open(dir.path()));
                }
                Step::Kill => {
                    let (copy, spool) = killed(dir.path());
                    drop(disk.replace(spool));
                    dir = copy;
                }
                _ => {}
            }
            let spool = disk.as_ref().expect("open");
            let done = act(spool, &origin, step, now_ms).is_ok();
            prop_assert_eq!(done, act(&memory, &origin, step, now_ms).is_ok(), "{:?}", step);
            prop_assert_eq!(look(spool, false), look(&memory, false), "after {:?}", step);
        }
        let spool = disk.as_ref().expect("open");
        prop_assert_eq!(look(spool, true), look(&memory, true));
        for hour in [1, 3, 5] {
            spool.sweep(now_ms + hour * HOUR_MS).expect("sweeps");
            memory.sweep(now_ms + hour * HOUR_MS).expect("sweeps");
            prop_assert_eq!(look(spool, false), look(&memory, false));
        }
    }
}
