//! The write path: one thread that takes what waits, signs it as one batch and commits it as one transaction.
//!
//! Owns the order of commits. Never decides what is written. Guarantees: commits become durable in the order they were
//! handed over; nothing is reported before it is durable; after the first failure nothing more is written. No timer:
//! while one commit is on its way to the disk, the next gathers, until one with a flash message closes the batch. A full disk is no failure: the commit is kept and tried
//! again until there is space, and what waits behind it waits. DESIGN §9.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tram_proto::limits::BATCH_STATEMENTS;
use tram_proto::statement::{Kind, Signature, Signed};
use tram_relay::output::{Op, Statement};

use crate::spool::{Spool, SpoolError};

/// Operations in one transaction; a single larger commit is still taken whole.
pub const BATCH_OPS: usize = 1024;
/// Bytes of statements and inline payloads in one transaction, likewise.
pub const BATCH_BYTES: usize = 4 << 20;
/// Commits that may wait for the disk before the engine does.
pub const WAITING: usize = 1024;

/// Pause before a commit that met a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(250);

/// One commit of the core.
#[derive(Debug, Clone, PartialEq)]
pub struct Persist {
    /// Its number.
    pub commit: u64,
    /// The changes.
    pub ops: Vec<Op>,
    /// It waits for no more company.
    pub urgent: bool,
}

/// A commit that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its number.
    pub commit: u64,
    /// The node records in it that had to be signed, signed, in order.
    pub records: Vec<Signed>,
}

/// Why there will be no more commits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The node's key does not sign.
    #[error("cannot sign: {0}")]
    Sign(String),
    /// The spool does not take it.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What became of a batch: its commits in order, the highest last; or the failure after which the committer has stopped.
pub type CommitDone = Result<Vec<Committed>, CommitError>;

/// Signs for this node. The PKI's.
pub trait Sign: Send + Sync + 'static {
    /// One signature per statement, in order, made as one batch of 1 to [`BATCH_STATEMENTS`].
    ///
    /// # Errors
    /// For people: why the key cannot be used.
    fn sign(&self, statements: &[(Kind, &[u8])]) -> Result<Vec<Signature>, String>;
}

/// Replaces every `ToSign` in these commits by its signed form, as one batch (or more, beyond
/// [`BATCH_STATEMENTS`]); answers, for each commit, its records among them.
///
/// # Errors
/// [`CommitError::Sign`]; the commits must not be used then.
pub fn sign_ops(commits: &mut [Persist], sign: &dyn Sign) -> Result<Vec<Committed>, CommitError> {
    let unsigned: Vec<(Kind, Bytes)> =
        commits.iter().flat_map(|c| &c.ops).filter_map(|op| to_sign(statement(op)?)).collect();
    let mut signatures = Vec::with_capacity(unsigned.len());
    for batch in unsigned.chunks(BATCH_STATEMENTS) {
        let batch: Vec<(Kind, &[u8])> = batch.iter().map(|(kind, bytes)| (*kind, bytes.as_ref())).collect();
        let made = sign.sign(&batch).map_err(CommitError::Sign)?;
        if made.len() != batch.len() {
            return Err(CommitError::Sign(format!("{} signatures came for {} statements", made.len(), batch.len())));
        }
        signatures.extend(made);
    }
    let mut signatures = signatures.into_iter();
    let mut done = Vec::with_capacity(commits.len());
    for Persist { commit, ops, .. } in commits {
        let mut records = Vec::new();
        for op in ops {
            let is_record = matches!(op, Op::PutRecord { .. });
            let Some(place) = statement_mut(op) else { continue };
            let Some((_, bytes)) = to_sign(place) else { continue };
            let Some(signature) = signatures.next() else { continue };
            let signed = Signed { statement: bytes, signature };
            if is_record {
                records.push(signed.clone());
            }
            *place = Statement::Signed(signed);
        }
        done.push(Committed { commit: *commit, records });
    }
    Ok(done)
}

fn to_sign(statement: &Statement) -> Option<(Kind, Bytes)> {
    match statement {
        Statement::ToSign(kind, bytes) => Some((*kind, bytes.clone())),
        Statement::Signed(_) => None,
    }
}

const fn statement(op: &Op) -> Option<&Statement> {
    match op {
        Op::PutMessage { envelope: statement, .. }
        | Op::PutReceipt { statement, .. }
        | Op::KeepReceipt { statement, .. }
        | Op::PutRecord { statement, .. } => Some(statement),
        _ => None,
    }
}

const fn statement_mut(op: &mut Op) -> Option<&mut Statement> {
    match op {
        Op::PutMessage { envelope: statement, .. }
        | Op::PutReceipt { statement, .. }
        | Op::KeepReceipt { statement, .. }
        | Op::PutRecord { statement, .. } => Some(statement),
        _ => None,
    }
}

fn bytes_of(op: &Op) -> usize {
    let said = statement(op).map_or(0, |s| match s {
        Statement::Signed(signed) => signed.statement.len(),
        Statement::ToSign(_, bytes) => bytes.len(),
    });
    let inline = if let Op::PutMessage { inline: Some(inline), .. } = op { inline.len() } else { 0 };
    said + inline
}

/// The thread and the way to it.
#[derive(Debug)]
pub struct Committer {
    queue: mpsc::Sender<Persist>,
    thread: JoinHandle<()>,
}

impl Committer {
    /// Starts the thread. `done` is called there, once per batch, and a last time with the error if there is one.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn spawn(spool: Arc<dyn Spool>, sign: Arc<dyn Sign>, done: Box<dyn Fn(CommitDone) + Send>) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel(WAITING);
        let work = move || run(waiting, spool.as_ref(), sign.as_ref(), done.as_ref());
        let thread = std::thread::Builder::new().name("committer".into()).spawn(work)?;
        Ok(Self { queue, thread })
    }

    /// Where commits are handed over, in order of their numbers; closed once the committer has stopped. Reserve a place
    /// before the core is given more inputs.
    #[must_use]
    pub const fn queue(&self) -> &mpsc::Sender<Persist> {
        &self.queue
    }

    /// Waits until everything handed over is durable and the thread has ended. Blocks; other senders must be gone.
    pub fn join(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("the committer's thread panicked");
        }
    }
}

fn run(mut waiting: mpsc::Receiver<Persist>, spool: &dyn Spool, sign: &dyn Sign, done: &dyn Fn(CommitDone)) {
    let mut next = waiting.blocking_recv();
    while let Some(first) = next {
        let (batch, carried) = gather(first, &mut waiting);
        let result = commit(batch, spool, sign, &waiting);
        let failed = result.is_err();
        done(result);
        if failed {
            return;
        }
        next = carried.or_else(|| waiting.blocking_recv());
    }
}

/// What waits, up to the limits, and the one that did not fit.
fn gather(first: Persist, waiting: &mut mpsc::Receiver<Persist>) -> (Vec<Persist>, Option<Persist>) {
    let weigh = |persist: &Persist| (persist.ops.len(), persist.ops.iter().map(bytes_of).sum::<usize>());
    let (mut ops, mut bytes) = weigh(&first);
    let mut batch = vec![first];
    while batch.last().is_some_and(|last| !last.urgent)
        && let Ok(next) = waiting.try_recv()
    {
        let (more_ops, more_bytes) = weigh(&next);
        (ops, bytes) = (ops + more_ops, bytes + more_bytes);
        if ops > BATCH_OPS || bytes > BATCH_BYTES {
            return (batch, Some(next));
        }
        batch.push(next);
    }
    (batch, None)
}

fn commit(
    mut batch: Vec<Persist>,
    spool: &dyn Spool,
    sign: &dyn Sign,
    waiting: &mpsc::Receiver<Persist>,
) -> CommitDone {
    let committed = sign_ops(&mut batch, sign)?;
    let ops = newest(batch.into_iter().flat_map(|persist| persist.ops).collect());
    let mut full = false;
    loop {
        match spool.commit(&ops) {
            // Who joins must not wait for space: nothing of it was acknowledged.
            Err(SpoolError::Full { .. }) if !waiting.is_closed() => {
                if !std::mem::replace(&mut full, true) {
                    tracing::error!("the disk is full: nothing is acknowledged until there is space");
                }
                std::thread::sleep(FULL_PAUSE);
            }
            Err(error) => return Err(error.into()),
            Ok(()) => {
                if full {
                    tracing::info!("there is space on the disk again");
                }
                return Ok(committed);
            }
        }
    }
}

/// Leaves out changes that a later one of the same transaction overtakes: nobody ever sees them.
fn newest(ops: Vec<Op>) -> Vec<Op> {
    let (mut rows, mut names, mut node) = (BTreeSet::new(), BTreeSet::new(), false);
    let mut overtaken = |op: &Op| match op {
        Op::UpdateMessage { row, .. } => !rows.insert(*row),
        Op::SettleMessage { row, .. } | Op::DeleteMessage { row } => {
            rows.insert(*row);
            false
        }
        Op::PutSequence { sender, .. } => !names.insert(sender.clone()),
        Op::PutNode(_) => std::mem::replace(&mut node, true),
        _ => false,
    };
    let mut kept: Vec<Op> = ops.into_iter().rev().filter(|op| !overtaken(op)).collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{DiskOptions, DiskSpool, FaultFiles, MemorySpool};
    use std::sync::mpsc as std_mpsc;
    use tram_proto::id::{CertHash, NodeId};
    use tram_proto::statement::Batch;
    use tram_relay::input::Row;

    struct Fake(bool);

    impl Sign for Fake {
        fn sign(&self, statements: &[(Kind, &[u8])]) -> Result<Vec<Signature>, String> {
            if !self.0 {
                return Err("the key is locked".into());
            }
            let batch = Batch::new(statements.iter().copied()).ok_or("an impossible batch")?;
            Ok((0..batch.count()).map(|i| batch.signature(i, CertHash([7; 32]), Bytes::new())).collect())
        }
    }

    fn record(node: u8, text: &'static [u8]) -> Op {
        let statement = Statement::ToSign(Kind::Record, Bytes::from_static(text));
        Op::PutRecord { node: NodeId([node; 16]), statement }
    }

    /// Hands these over while nothing runs yet, and collects what comes back.
    #[track_caller]
    fn check(commits: Vec<Persist>, sign: bool, expect: &[u64]) -> Vec<CommitDone> {
        let (report, reported) = std_mpsc::sync_channel(16);
        let (queue, waiting) = mpsc::channel(WAITING);
        commits.into_iter().for_each(|c| queue.try_send(c).expect("there is room"));
        drop(queue);
        let done = move |d| report.send(d).expect("the test listens");
        run(waiting, &MemorySpool::default(), &Fake(sign), &done);
        let all: Vec<CommitDone> = reported.try_iter().collect();
        let numbers: Vec<u64> = all.iter().flatten().flatten().map(|c| c.commit).collect();
        assert_eq!(numbers, expect);
        all
    }

    #[test]
    fn what_waits_is_signed_as_one_batch_and_reported_commit_by_commit() {
        let commits = vec![
            Persist { commit: 1, ops: vec![record(1, b"a"), record(2, b"b")], urgent: false },
            Persist { commit: 2, ops: vec![Op::Prune(0)], urgent: false },
            Persist { commit: 3, ops: vec![record(3, b"c")], urgent: false },
        ];
        let all = check(commits, true, &[1, 2, 3]);
        assert_eq!(all.len(), 1, "one transaction");
        let batch = all[0].as_ref().expect("committed");
        let said: Vec<Vec<&[u8]>> =
            batch.iter().map(|c| c.records.iter().map(|r| r.statement.as_ref()).collect()).collect();
        assert_eq!(said, [vec![&b"a"[..], b"b"], vec![], vec![b"c"]]);
        assert!(batch.iter().flat_map(|c| &c.records).all(|r| r.signature.count == 3));
    }

    #[test]
    fn a_batch_ends_at_its_limit_and_the_rest_is_the_next() {
        let many = |commit| Persist { commit, ops: vec![Op::Prune(0); 600], urgent: false };
        assert_eq!(check(vec![many(1), many(2), many(3)], true, &[1, 2, 3]).len(), 3);
    }

    #[test]
    fn a_flash_message_closes_its_batch() {
        let one = |commit, urgent| Persist { commit, ops: vec![Op::Prune(0)], urgent };
        let all = check(vec![one(1, false), one(2, true), one(3, false)], true, &[1, 2, 3]);
        assert_eq!(all.iter().flatten().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn what_is_overtaken_in_one_transaction_is_not_written() {
        let sequence = |sequence| Op::PutSequence { sender: "a".into(), sequence };
        let (delete, prune) = (|row| Op::DeleteMessage { row: Row(row) }, Op::Prune(0));
        let ops = vec![sequence(1), delete(1), prune.clone(), sequence(2), delete(2)];
        assert_eq!(newest(ops), [delete(1), prune, sequence(2), delete(2)]);
    }

    #[test]
    fn a_failure_is_said_once_and_nothing_follows() {
        let one = |commit| Persist { commit, ops: vec![record(1, b"a"); 600], urgent: false };
        let all = check(vec![one(1), one(2)], false, &[]);
        assert_eq!(all, [Err(CommitError::Sign("the key is locked".into()))]);
    }

    #[test]
    fn joining_waits_for_what_was_handed_over() {
        let (report, reported) = std_mpsc::sync_channel(16);
        let spool = MemorySpool::default();
        let done = Box::new(move |d: CommitDone| report.send(d).expect("the test listens"));
        let committer = Committer::spawn(Arc::new(spool.clone()), Arc::new(Fake(true)), done).expect("a thread");
        committer
            .queue()
            .blocking_send(Persist { commit: 1, ops: vec![Op::PutInbox("a".parse().expect("a name"))], urgent: false })
            .expect("it runs");
        committer.join();
        assert_eq!(reported.recv().expect("reported").expect("committed")[0].commit, 1);
        assert_eq!(spool.restore(&mut |_| {}).expect("restores").inboxes.len(), 1);
    }

    /// A spool on a disk without any space left, and the disk.
    fn full() -> (FaultFiles, Arc<DiskSpool>) {
        let files = FaultFiles::new();
        let options = DiskOptions { keep_free_bytes: 0, reserve_bytes: 0, inline_sync: true, ..DiskOptions::default() };
        let spool = DiskSpool::open_on(Arc::new(files.clone()), options).expect("opens");
        files.set_capacity(Some(files.taken_bytes()));
        (files, Arc::new(spool))
    }

    /// More than fits into the pages that the redb file has already.
    fn large(commit: u64) -> Persist {
        let statement = || Statement::ToSign(Kind::Record, Bytes::from(vec![7; 60_000]));
        let put = |n: u8| Op::PutRecord { node: NodeId([n; 16]), statement: statement() };
        Persist { commit, ops: (0..60).map(put).collect(), urgent: false }
    }

    #[test]
    fn a_commit_that_meets_a_full_disk_is_kept_until_there_is_space() {
        let (files, spool) = full();
        let (report, reported) = std_mpsc::sync_channel(16);
        let done = Box::new(move |d: CommitDone| report.send(d).expect("the test listens"));
        let committer = Committer::spawn(spool, Arc::new(Fake(true)), done).expect("a thread");
        let before = files.operations();
        committer.queue().blocking_send(large(1)).expect("it runs");
        committer.queue().blocking_send(large(2)).expect("it runs");
        while files.operations() < before + 50 {
            std::thread::yield_now();
        }
        assert!(reported.try_recv().is_err(), "nothing is acknowledged meanwhile");
        files.set_capacity(None);
        let numbers: Vec<u64> =
            (0..2).flat_map(|_| reported.recv().expect("reported").expect("committed")).map(|c| c.commit).collect();
        assert_eq!(numbers, [1, 2]);
        committer.join();
    }

    #[test]
    fn a_full_disk_does_not_keep_a_node_from_stopping() {
        let (_files, spool) = full();
        let (report, reported) = std_mpsc::sync_channel(16);
        let done = Box::new(move |d: CommitDone| report.send(d).expect("the test listens"));
        let committer = Committer::spawn(spool, Arc::new(Fake(true)), done).expect("a thread");
        committer.queue().blocking_send(large(1)).expect("it runs");
        committer.join();
        let last = reported.recv().expect("reported");
        assert!(matches!(last, Err(CommitError::Spool(SpoolError::Full { .. }))), "{last:?}");
    }
}
