//! The disk in memory does what a disk may do, and a spool on it does the same every time.

use super::super::{Access, FaultFiles, Files, Open};
use super::*;

fn seeds() -> std::ops::Range<u64> {
    0..100
}

fn read(files: &FaultFiles, name: &str) -> Option<Vec<u8>> {
    let file = files.open(name, Open::Existing).ok()?;
    let mut out = vec![0; file.length().expect("has power") as usize];
    file.read_at(&mut out, 0).expect("reads");
    Some(out)
}

/// What all power cuts leave of a file.
fn outcomes(files: &FaultFiles, name: &str) -> std::collections::BTreeSet<Option<Vec<u8>>> {
    seeds().map(|seed| read(&files.after_power_cut(seed), name)).collect()
}

#[test]
fn what_was_synced_survives_and_the_rest_is_torn_by_sectors() {
    let files = FaultFiles::new();
    let file = files.open("packs/a", Open::OrNew).expect("makes");
    file.write_at(&[1; 5000], 0).expect("writes");
    assert!(outcomes(&files, "packs/a").contains(&None), "neither name nor content is durable");
    file.sync().expect("syncs");
    files.sync_dir("packs").expect("syncs");
    assert_eq!(outcomes(&files, "packs/a").into_iter().collect::<Vec<_>>(), [Some(vec![1; 5000])]);
    file.write_at(&[2; 1024], 4096).expect("writes");
    let all = outcomes(&files, "packs/a");
    assert!(all.iter().flatten().all(|content| content[..4096] == [1; 4096]));
    let starts: Vec<(usize, u8, u8)> =
        all.iter().flatten().map(|c| (c.len(), c[4096], c.get(4607 + 1).copied().unwrap_or(0))).collect();
    for expect in [(5000, 1, 1), (5000, 2, 1), (5120, 1, 2), (5120, 2, 2)] {
        assert!(starts.contains(&expect), "{expect:?} in {starts:?}");
    }
    assert!(all.iter().flatten().any(|c| c.len() == 5120 && c[5100] == 0), "longer, but the sector was lost");
    file.set_len(100).expect("cuts");
    file.set_len(200).expect("lengthens");
    assert_eq!(read(&files, "packs/a").map(|c| (c[99], c[100])), Some((1, 0)));
    file.sync().expect("syncs");
    assert_eq!(outcomes(&files, "packs/a").len(), 1);
}

#[test]
fn names_come_back_or_stay_away_until_their_directory_is_synced() {
    let files = FaultFiles::new();
    files.open("a", Open::OrNew).expect("makes").sync().expect("syncs");
    files.sync_dir("").expect("syncs");
    files.rename("a", "b").expect("renames");
    assert_eq!(files.list("").expect("lists"), ["b"]);
    let names = seeds().map(|seed| files.after_power_cut(seed).list("").expect("lists").concat());
    assert_eq!(names.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>(), ["a", "b"]);
    files.sync_dir("packs").expect("syncs");
    files.remove("b").expect("removes");
    files.sync_dir("").expect("syncs");
    assert!(seeds().all(|seed| files.after_power_cut(seed).list("").expect("lists").is_empty()));
}

#[test]
fn a_full_disk_refuses_what_takes_space_and_nothing_else() {
    let files = FaultFiles::new();
    let (reserve, file) = (files.open("r", Open::OrNew).expect("makes"), files.open("f", Open::OrNew).expect("makes"));
    files.set_capacity(Some(3 * 4096));
    reserve.allocate(0, 2 * 4096).expect("there is room");
    file.write_at(&[1; 4096], 0).expect("there is room");
    let error = file.write_at(&[1; 100], 4096).expect_err("it is full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    file.write_at(&[2; 4096], 0).expect("takes no more");
    reserve.write_at(&[2; 8192], 0).expect("was allocated");
    reserve.set_len(0).expect("gives back");
    file.write_at(&[1; 100], 4096).expect("there is room again");
    assert_eq!(files.space().expect("looks").free_bytes, 4096);
}

#[test]
fn a_failed_sync_loses_for_good_what_reads_still_show() {
    let files = FaultFiles::new();
    let file = files.open("f", Open::OrNew).expect("makes");
    files.sync_dir("").expect("syncs");
    file.write_at(&[1; 4096], 0).expect("writes");
    files.fail(Access::Sync, 0);
    file.sync().expect_err("fails");
    file.write_at(&[3; 512], 0).expect("writes");
    file.sync().expect("says nothing of what was lost");
    let seen = read(&files, "f").expect("is there");
    assert_eq!((seen[0], seen[512]), (3, 1));
    let left = read(&files.after_power_cut(1), "f").expect("is there");
    assert_eq!(left[0], 3);
    assert_ne!(left, seen);
    files.fail(Access::Read, 1);
    file.read_at(&mut [0], 0).expect("reads");
    file.read_at(&mut [0], 0).expect_err("fails");
    file.read_at(&mut [0], 0).expect("reads");
}

#[test]
fn a_spool_does_the_same_operations_every_time() {
    let run = |cut: Option<u64>| {
        let files = FaultFiles::new();
        if let Some(cut) = cut {
            files.cut_at(cut);
        }
        let done = (|| {
            let spool = DiskSpool::open_on(Arc::new(files.clone()), DiskOptions { inline_sync: true, ..options() })?;
            for row in 1..40 {
                let bytes = payload(row, CHUNK_BYTES + 10);
                let mut upload = spool.upload();
                upload.push(bytes)?;
                let payload = upload.finish()?;
                spool.commit(&[
                    put(row, Some(payload)),
                    put(row + 100, None),
                    Op::DeleteMessage { row: Row(row / 2) },
                ])?;
                spool.sweep(row * HOUR_MS)?;
            }
            Ok::<_, SpoolError>(())
        })();
        (files, done)
    };
    let (first, done) = run(None);
    assert_eq!(done, Ok(()));
    let (again, _) = run(None);
    assert_eq!(first.operations(), again.operations());
    assert_eq!(read(&first, "spool.redb"), read(&again, "spool.redb"));
    let operations = first.operations();
    for cut in [1, 2, operations / 3, operations / 2, operations / 10 * 9] {
        let (files, done) = run(Some(cut));
        assert!(done.is_err() && files.is_cut() && files.operations() == cut);
        assert_eq!(
            read(&files.after_power_cut(7), "spool.redb"),
            read(&run(Some(cut)).0.after_power_cut(7), "spool.redb")
        );
        DiskSpool::open_on(Arc::new(files.after_power_cut(7)), options()).expect("opens");
    }
}
