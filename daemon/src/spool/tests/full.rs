//! Something else fills the disk, and goes away again.

use super::super::{FaultFiles, Files, Open, OpenFile};
use super::*;

const RESERVE_BYTES: u64 = 1 << 20;
const DISK_BYTES: u64 = 32 << 20;

/// A disk that another program can fill.
fn shared() -> (FaultFiles, Arc<dyn OpenFile>, DiskSpool) {
    let files = FaultFiles::new();
    files.set_capacity(Some(DISK_BYTES));
    let other = files.open("other", Open::OrNew).expect("makes");
    let options = DiskOptions { reserve_bytes: RESERVE_BYTES, inline_sync: true, ..options() };
    let spool = DiskSpool::open_on(Arc::new(files.clone()), options).expect("opens");
    (files, other, spool)
}

fn fill(files: &FaultFiles, other: &Arc<dyn OpenFile>) {
    let free = files.space().expect("looks").free_bytes;
    let taken = other.length().expect("looks");
    other.allocate(0, taken + free).expect("there is that much");
    other.set_len(taken + free).expect("lengthens");
    assert_eq!(files.space().expect("looks").free_bytes, 0);
}

/// Commits until one does not fit; answers the first row that is not there.
fn until_full(spool: &DiskSpool, mut row: u64) -> u64 {
    loop {
        match spool.commit(&[put(row, None)]) {
            Ok(()) => row += 1,
            Err(SpoolError::Full { .. }) => return row,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_disk_filled_by_others_stops_nothing_for_good() {
    let (files, other, spool) = shared();
    spool.commit(&[put(1, None)]).expect("commits");
    let before = spool.room();
    assert!(before.free_bytes > 0 && before.total_bytes >= before.free_bytes);
    fill(&files, &other);
    let row = until_full(&spool, 2);
    assert!(row > 50, "the reserve took {row} messages");
    assert_eq!(spool.room().free_bytes, 0);
    let refused =
        spool.upload().push(payload(1, CHUNK_BYTES)).expect_err("no payload may take what acknowledgements need");
    assert!(matches!(refused, SpoolError::Full { .. }));
    for _ in 0..3 {
        let refused = spool.commit(&[put(row, None)]).expect_err("there is no space at all");
        assert!(matches!(refused, SpoolError::Full { .. }), "{refused}");
    }
    assert!(spool.message(Row(row - 1)).expect("reads go on").is_some());
    assert_eq!(spool.message(Row(row)), Ok(None));
    let looked = restored(&spool);
    let copy = DiskSpool::open_on(Arc::new(files.after_power_cut(3)), options());
    other.set_len(0).expect("goes away");
    if let Ok(copy) = copy {
        assert_eq!(restored(&copy), looked, "what was acknowledged on the full disk");
    }
    spool.commit(&[put(row, None)]).expect("commits again");
    spool.sweep(1).expect("sweeps");
    assert!(spool.room().free_bytes > RESERVE_BYTES, "the reserve is set aside again");
    let bytes = payload(2, CHUNK_BYTES * 2);
    let root = upload(&spool, &bytes);
    assert!(read_back(&spool, root, layout(&bytes)).is_some());
    fill(&files, &other);
    assert!(until_full(&spool, row + 1) > row + 50, "and serves again");
}

#[test]
fn an_append_that_meets_a_full_disk_leaves_nothing_behind() {
    let (files, other, spool) = shared();
    let bytes = payload(3, CHUNK_BYTES * 5);
    let mut running = spool.upload();
    running.push(bytes.slice(..CHUNK_BYTES * 2)).expect("there is room");
    fill(&files, &other);
    let refused = running.push(bytes.slice(CHUNK_BYTES * 2..)).expect_err("it is full");
    assert!(matches!(refused, SpoolError::Full { .. }), "{refused}");
    drop(running);
    spool.commit(&[put(1, None)]).expect("acknowledgements go on");
    other.set_len(0).expect("goes away");
    spool.sweep(1).expect("sweeps");
    assert_eq!(files.list("packs").expect("lists").len(), 0);
    assert!(read_back(&spool, upload(&spool, &bytes), layout(&bytes)).is_some());
}

#[test]
fn a_node_starts_on_a_full_disk_as_long_as_it_has_its_reserve() {
    for killed in [false, true] {
        let (files, other, spool) = shared();
        (1..200).for_each(|row| spool.commit(&[put(row, None)]).expect("commits"));
        let files = if killed {
            fill(&files, &other);
            files.after_power_cut(1)
        } else {
            drop(spool);
            fill(&files, &other);
            files
        };
        let options = DiskOptions { reserve_bytes: RESERVE_BYTES, ..options() };
        let spool = DiskSpool::open_on(Arc::new(files), options).expect("opens");
        assert_eq!(spool.list(1000, None).expect("lists").len(), 199);
        spool.commit(&[put(200, None)]).expect("acknowledgements go on");
    }
}

#[test]
fn a_full_disk_at_the_start_is_told_from_a_broken_one() {
    let (files, other, spool) = shared();
    let row = until_full_after(&files, &other, &spool);
    drop(spool);
    let reopened =
        DiskSpool::open_on(Arc::new(files.clone()), DiskOptions { reserve_bytes: RESERVE_BYTES, ..options() });
    match reopened {
        Ok(spool) => assert!(spool.message(Row(row - 1)).expect("reads").is_some()),
        Err(error) => assert!(matches!(error, SpoolError::Full { .. }), "{error}"),
    }
    other.set_len(0).expect("goes away");
    let spool = DiskSpool::open_on(Arc::new(files), options()).expect("opens");
    assert!(spool.message(Row(row - 1)).expect("reads").is_some());
}

fn until_full_after(files: &FaultFiles, other: &Arc<dyn OpenFile>, spool: &DiskSpool) -> u64 {
    fill(files, other);
    until_full(spool, 1)
}
