//! Something else fills the disk, and goes away again.

use super::super::{FaultFiles, Files, Open, OpenFile};
use super::*;

const RESERVE_BYTES: u64 = 1 << 20;
const DISK_BYTES: u64 = 32 << 20;

/// A disk that another program can fill.
fn shared() -> (FaultFiles, Arc<dyn OpenFile>, DiskSpool) {
    shared_by(options())
}

/// The same with packs that hold more than the disk.
fn large_packs() -> DiskOptions {
    DiskOptions { pack_bytes: 2 * DISK_BYTES, ..options() }
}

fn shared_by(options: DiskOptions) -> (FaultFiles, Arc<dyn OpenFile>, DiskSpool) {
    let files = FaultFiles::new();
    files.set_capacity(Some(DISK_BYTES));
    let other = files.open("other", Open::OrNew).expect("makes");
    let options = DiskOptions { reserve_bytes: RESERVE_BYTES, inline_sync: true, ..options };
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

/// One document waits for an office that is off, while others come and go through the same pack.
#[test]
fn what_waits_keeps_no_room_of_what_is_gone() {
    let (files, _, spool) = shared_by(large_packs());
    let waits = payload(100, CHUNK_BYTES + 11);
    let kept = upload(&spool, &waits);
    spool.commit(&[put(1, Some((kept, waits.len() as u64)))]).expect("commits");
    let mut now_ms = HOUR_MS;
    let mut rooms = Vec::new();
    for row in 2..40 {
        let bytes = payload(row, 2 << 20);
        let root = upload(&spool, &bytes);
        spool.commit(&[put(row, Some((root, bytes.len() as u64)))]).expect("commits");
        spool.commit(&[Op::DeleteMessage { row: Row(row) }]).expect("commits");
        for _ in 0..2 {
            now_ms += 2 * HOUR_MS;
            spool.sweep(now_ms).expect("sweeps");
        }
        rooms.push(spool.room());
    }
    let (first, last) = (rooms[0], rooms[rooms.len() - 1]);
    assert!(last.free_bytes + (1 << 20) > first.free_bytes, "{first:?} {last:?}");
    assert!(last.total_bytes.abs_diff(first.total_bytes) < 1 << 20, "{first:?} {last:?}");
    drop(spool);
    let spool = DiskSpool::open_on(Arc::new(files), large_packs()).expect("opens");
    let again = spool.room();
    assert!(again.total_bytes - again.free_bytes < 4 << 20, "what was given back is known: {again:?}");
    assert!(read_back(&spool, kept, layout(&waits)).is_some());
}

#[test]
fn an_upload_that_is_given_up_keeps_no_room() {
    let (files, _, spool) = shared_by(large_packs());
    let waits = payload(1, CHUNK_BYTES);
    let kept = upload(&spool, &waits);
    let before = files.space().expect("looks").free_bytes;
    for seed in 2..40 {
        let mut running = spool.upload();
        running.push(payload(seed, 1 << 20)).expect("there is room");
    }
    let after = files.space().expect("looks").free_bytes;
    // Space is taken ahead in large steps; a leak would be 38 MiB on a disk of 32.
    assert!(after <= before && spool.room().free_bytes + (2 << 20) > spool.room().total_bytes, "{:?}", spool.room());
    assert!(read_back(&spool, kept, layout(&waits)).is_some());
}

/// At whatever point of it the disk is full, a store leaves nothing, and succeeds when there is room.
#[test]
fn units_that_find_the_disk_full_are_taken_when_there_is_room_again() {
    let bytes = payload(5, CHUNK_BYTES * 3);
    let (root, layout) = (root_of(&bytes), layout(&bytes));
    let origin = MemorySpool::default();
    upload(&origin, &bytes);
    let units = || (0..layout.units()).map(|n| origin.unit(root, layout, n).expect("held")).collect::<Vec<_>>();
    let mut refused = 0;
    for spare in (0..400).map(|step| step * 4096) {
        let files = FaultFiles::new();
        let options = DiskOptions { inline_sync: true, ..options() };
        let spool = DiskSpool::open_on(Arc::new(files.clone()), options).expect("opens");
        files.set_capacity(Some(files.taken_bytes() + spare));
        match spool.store(root, layout, 0, units()) {
            Ok(()) => continue,
            Err(error) => assert!(matches!(error, SpoolError::Full { .. }), "{error}"),
        }
        refused += 1;
        files.set_capacity(None);
        spool.sweep(1).expect("sweeps");
        spool.store(root, layout, 0, units()).expect("there is room");
        assert!(read_back(&spool, root, layout).is_some());
    }
    assert!((200..400).contains(&refused), "{refused}");
}
