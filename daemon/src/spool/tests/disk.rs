//! What only a disk can do to a spool: be copied, torn, damaged, filled, shared.

use std::path::PathBuf;

use redb::{Database, ReadableDatabase, ReadableTableMetadata};
use tram_proto::row::NodeRow;

use super::super::packs::HEADER_BYTES;
use super::super::tables::{MESSAGES, META, QUARANTINE};
use super::*;

/// The directory as a power cut after the last sync would leave it, more or less: a copy made while it is open.
pub(super) fn killed(dir: &Path) -> (TempDir, DiskSpool) {
    let to = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(to.path().join("packs")).expect("a directory");
    std::fs::copy(dir.join("spool.redb"), to.path().join("spool.redb")).expect("copies");
    for pack in std::fs::read_dir(dir.join("packs")).expect("lists") {
        let pack = pack.expect("lists").path();
        std::fs::copy(&pack, to.path().join("packs").join(pack.file_name().expect("a name"))).expect("copies");
    }
    let spool = open(to.path());
    (to, spool)
}

fn packs(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(dir.join("packs")).expect("lists").map(|p| p.expect("lists").path()).collect();
    all.sort();
    all
}

#[test]
fn a_chunk_that_two_payloads_share_is_stored_once_and_outlives_the_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path());
    let shared = payload(4, CHUNK_BYTES * 8);
    let more = Bytes::from([shared.as_ref(), b"more"].concat());
    let first = upload(&spool, &shared);
    let before: u64 = packs(dir.path()).iter().map(|p| p.metadata().expect("a file").len()).sum();
    let second = upload(&spool, &more);
    let after: u64 = packs(dir.path()).iter().map(|p| p.metadata().expect("a file").len()).sum();
    assert!(after - before < 100, "only the last chunk is new");
    spool.commit(&[put(1, Some((second, more.len() as u64)))]).expect("commits");
    spool.sweep(1).expect("sweeps");
    spool.sweep(2 * HOUR_MS).expect("sweeps");
    spool.sweep(9 * HOUR_MS).expect("sweeps");
    assert!(spool.unit(first, layout(&shared), 0).is_err());
    assert!(read_back(&spool, second, layout(&more)).is_some());
}

#[test]
fn an_upload_that_is_given_up_leaves_nothing_once_swept() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path());
    let mut running = spool.upload();
    running.push(payload(7, CHUNK_BYTES * 10)).expect("there is room");
    assert_eq!(packs(dir.path()).len(), 4);
    spool.sweep(1).expect("sweeps");
    assert_eq!(packs(dir.path()).len(), 4, "it is still being written");
    drop(running);
    spool.sweep(2).expect("sweeps");
    assert_eq!(packs(dir.path()).len(), 0);
    let bytes = payload(8, CHUNK_BYTES * 2);
    let root = upload(&spool, &bytes);
    assert!(read_back(&spool, root, layout(&bytes)).is_some());
}

#[test]
fn chunks_an_upload_counts_on_survive_a_sweep() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path());
    let bytes = payload(9, CHUNK_BYTES * 6);
    let first = upload(&spool, &bytes);
    spool.sweep(1).expect("sweeps");
    spool.sweep(2).expect("sweeps");
    let mut running = spool.upload();
    running.push(bytes.clone()).expect("there is room");
    spool.sweep(5 * HOUR_MS).expect("sweeps");
    let more = Bytes::from([bytes.as_ref(), b"more"].concat());
    running.push(Bytes::from_static(b"more")).expect("there is room");
    let (root, _) = running.finish().expect("durable");
    assert!(read_back(&spool, root, layout(&more)).is_some());
    assert!(read_back(&spool, first, layout(&bytes)).is_some());
}

#[test]
fn a_bit_that_flips_in_a_pack_is_noticed_and_the_chunk_fetched_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path());
    let bytes = payload(10, CHUNK_BYTES * 3);
    let (root, layout) = (upload(&spool, &bytes), layout(&bytes));
    let pack = &packs(dir.path())[0];
    let mut content = std::fs::read(pack).expect("reads");
    content[CHUNK_BYTES + 1000] ^= 4;
    std::fs::write(pack, content).expect("writes");
    let expect = SpoolError::Damaged { path: dir.path().to_owned(), root, unit: 3 };
    assert_eq!(spool.unit(root, layout, 3), Err(expect));
    let held = spool.held(root, layout).expect("reads").units;
    assert_eq!(held.iter().map(|r| (r.first, r.count)).collect::<Vec<_>>(), [(0, 3), (4, 1)]);
    spool.store(root, layout, 3, vec![bytes.slice(CHUNK_BYTES..2 * CHUNK_BYTES)]).expect("stores");
    assert!(read_back(&spool, root, layout).is_some());
}

#[test]
fn an_upload_replaces_what_rotted() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path());
    let bytes = payload(11, CHUNK_BYTES);
    upload(&spool, &bytes);
    let pack = &packs(dir.path())[0];
    let mut content = std::fs::read(pack).expect("reads");
    content[1000] ^= 4;
    std::fs::write(pack, content).expect("writes");
    let root = upload(&spool, &bytes);
    assert!(read_back(&spool, root, layout(&bytes)).is_some());
}

#[test]
fn a_torn_tail_is_cut_off_and_what_was_durable_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes = payload(12, CHUNK_BYTES * 2);
    let root = {
        let spool = open(dir.path());
        let root = upload(&spool, &bytes);
        let mut torn = spool.upload();
        torn.push(payload(13, CHUNK_BYTES * 4)).expect("there is room");
        let (_copy, copy) = killed(dir.path());
        assert!(read_back(&copy, root, layout(&bytes)).is_some());
        root
    };
    let pack = &packs(dir.path())[0];
    let mut content = std::fs::read(pack).expect("reads");
    content.extend_from_slice(b"TPK1 and half a header");
    std::fs::write(pack, content).expect("writes");
    let spool = open(dir.path());
    assert_eq!(packs(dir.path()).len(), 1, "a pack nothing points into is removed");
    let indexed = (CHUNK_BYTES as u64 + HEADER_BYTES) * 2;
    assert_eq!(pack.metadata().expect("a file").len(), indexed);
    let more = payload(14, CHUNK_BYTES * 2);
    let other = upload(&spool, &more);
    assert!(read_back(&spool, root, layout(&bytes)).is_some());
    assert!(read_back(&spool, other, layout(&more)).is_some());
}

#[test]
fn without_its_index_a_spool_finds_the_chunks_of_its_packs_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let bytes = payload(15, CHUNK_BYTES * 6 + 3);
    let (root, layout) = (upload(&open(dir.path()), &bytes), layout(&bytes));
    let manifest: Vec<Bytes> = {
        let spool = open(dir.path());
        (0..2).map(|n| spool.unit(root, layout, n).expect("held")).collect()
    };
    std::fs::remove_file(dir.path().join("spool.redb")).expect("removes");
    let spool = open(dir.path());
    assert!(spool.held(root, layout).expect("reads").units.is_empty(), "nothing names them yet");
    spool.store(root, layout, 0, manifest).expect("stores");
    assert!(read_back(&spool, root, layout).is_some());
    spool.sweep(1).expect("sweeps");
    spool.sweep(2).expect("sweeps");
    spool.sweep(3 * HOUR_MS).expect("sweeps");
    assert!(packs(dir.path()).is_empty(), "what no message refers to goes as everything else does");
}

#[test]
fn a_directory_has_one_owner_and_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("spool");
    let spool = open(&path);
    let error = DiskSpool::open(&path, options()).err().expect("refused");
    assert!(matches!(&error, SpoolError::Taken { path: taken } if *taken == path));
    assert!(error.to_string().contains(&path.display().to_string()));
    assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o700);
    drop(spool);
    open(&path);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    let db = Database::open(dir.path().join("spool.redb")).expect("opens");
    let txn = db.begin_write().expect("begins");
    txn.open_table(META).expect("a table").insert("format", 2).expect("inserts");
    txn.commit().expect("commits");
    drop(db);
    let error = DiskSpool::open(dir.path(), options()).err().expect("refused");
    assert_eq!(error, SpoolError::Newer { path: dir.path().to_owned(), found: 2, known: 1 });
}

#[test]
fn a_damaged_row_goes_to_quarantine_and_the_rest_is_restored() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path());
    spool.commit(&[put(1, None), put(2, None), put(3, None)]).expect("commits");
    drop(spool);
    let db = Database::open(dir.path().join("spool.redb")).expect("opens");
    let txn = db.begin_write().expect("begins");
    txn.open_table(MESSAGES).expect("a table").insert(2, b"\xff\xff\xff".as_slice()).expect("inserts");
    txn.commit().expect("commits");
    drop(db);
    let spool = open(dir.path());
    assert!(matches!(spool.message(Row(2)), Err(SpoolError::Unreadable { .. })));
    assert_eq!(spool.list(9, None).expect("lists").len(), 2);
    let mut rows = Vec::new();
    let start = spool.restore(&mut |input| {
        if let Input::RestoredMessage { row, .. } = input {
            rows.push(row.0);
        }
    });
    assert_eq!((rows, start.expect("restores").next_row), (vec![1, 3], 4));
    assert_eq!(spool.message(Row(2)), Ok(None));
    drop(spool);
    let db = Database::open(dir.path().join("spool.redb")).expect("opens");
    let kept = db.begin_read().expect("begins").open_table(QUARANTINE).expect("a table").len().expect("counts");
    assert_eq!(kept, 3, "row, envelope and inline payload");
}

#[test]
fn after_a_failed_write_nothing_more_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path());
    spool.commit(&[put(1, None)]).expect("commits");
    std::fs::remove_dir_all(dir.path().join("packs")).expect("removes");
    let error = spool.upload().push(payload(19, CHUNK_BYTES)).expect_err("there is no directory for packs");
    assert!(matches!(error, SpoolError::Failed { .. }), "{error}");
    assert!(matches!(spool.commit(&[put(2, None)]), Err(SpoolError::Stopped { .. })));
    assert!(matches!(spool.sweep(1), Err(SpoolError::Stopped { .. })));
    assert!(spool.message(Row(1)).expect("reads go on").is_some());
    assert_eq!(spool.message(Row(2)), Ok(None));
}

#[test]
fn concurrent_stores_share_their_syncs_and_all_are_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool: Arc<DiskSpool> = Arc::new(open(dir.path()));
    let origin = MemorySpool::default();
    let payloads: Vec<Bytes> = (20..28).map(|seed| payload(seed, CHUNK_BYTES * 6)).collect();
    std::thread::scope(|scope| {
        for bytes in &payloads {
            let root = upload(&origin, bytes);
            let (spool, origin) = (Arc::clone(&spool), origin.clone());
            scope.spawn(move || {
                for n in 0..layout(bytes).units() {
                    let unit = origin.unit(root, layout(bytes), n).expect("held");
                    spool.store(root, layout(bytes), n, vec![unit]).expect("stores");
                }
            });
        }
    });
    let (_copy, copy) = killed(dir.path());
    for bytes in &payloads {
        assert!(read_back(&copy, root_of(bytes), layout(bytes)).is_some());
    }
}

#[test]
fn what_a_node_remembers_of_itself_survives_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = open(dir.path());
    assert_eq!(spool.restore(&mut |_| {}).expect("restores").node, None);
    let node = NodeRow { incarnation: Incarnation([3; 16]), starts: 1, record: 2, clock_ms: 3 };
    spool.commit(&[Op::PutNode(node), put(4, None)]).expect("commits");
    let (_copy, copy) = killed(dir.path());
    assert_eq!(restored(&copy), restored(&spool));
    assert_eq!(copy.restore(&mut |_| {}).expect("restores").next_row, 5);
}

#[test]
fn a_spool_of_another_node_is_refused_and_one_that_does_not_know_is_adopted() {
    let dir = tempfile::tempdir().expect("a directory");
    open(dir.path()).commit(&[put(1, None)]).expect("commits");
    let of = |node| DiskSpool::open(dir.path(), DiskOptions { node: Some(node), ..options() });
    let (this, other) = (NodeId([0xa1; 16]), NodeId([0xb2; 16]));
    assert!(of(this).expect("adopted").message(Row(1)).expect("reads").is_some());
    let error = of(other).err().expect("refused");
    assert_eq!(error, SpoolError::OtherNode { path: dir.path().to_owned(), found: this, node: other });
    assert!(error.to_string().contains(&this.to_string()) && error.to_string().contains("--dir"));
    assert!(of(this).expect("opens").message(Row(1)).expect("reads").is_some());
}

#[test]
fn a_directory_that_cannot_be_written_is_said_to_be_so() {
    let files = super::super::FaultFiles::new();
    drop(DiskSpool::open_on(Arc::new(files.clone()), options()).expect("opens"));
    files.set_read_only(true);
    let error = DiskSpool::open_on(Arc::new(files.clone()), options()).err().expect("refused");
    assert!(matches!(error, SpoolError::ReadOnly { .. }), "{error}");
    files.set_read_only(false);
    DiskSpool::open_on(Arc::new(files), options()).expect("opens");
}
