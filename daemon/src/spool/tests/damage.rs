//! Bits flip, files go missing: what is damaged is told and fetched again, everything else is there.

use std::collections::BTreeSet;

use super::super::{Access, Damage, FaultFiles, Files, Open};
use super::*;

fn open_on(files: &FaultFiles) -> DiskSpool {
    DiskSpool::open_on(Arc::new(files.clone()), DiskOptions { inline_sync: true, ..options() }).expect("opens")
}

fn flip(files: &FaultFiles, name: &str, offset: u64) {
    let file = files.open(name, Open::Existing).expect("is there");
    let mut byte = [0];
    file.read_at(&mut byte, offset).expect("reads");
    file.write_at(&[byte[0] ^ 16], offset).expect("writes");
}

fn units(origin: &MemorySpool, root: Digest, bytes: &Bytes) -> Vec<Bytes> {
    (0..layout(bytes).units()).map(|n| origin.unit(root, layout(bytes), n).expect("held")).collect()
}

#[test]
fn a_scrub_finds_every_damaged_chunk_and_says_whose_it_is() {
    for seed in 0..20 {
        let files = FaultFiles::new();
        let spool = open_on(&files);
        let payloads: Vec<Bytes> = (0..4).map(|n| payload(30 + n, CHUNK_BYTES * 3 + 7)).collect();
        let roots: Vec<Digest> = payloads.iter().map(|bytes| upload(&spool, bytes)).collect();
        let whole = spool.scrub(&mut |_| true).expect("scrubs");
        assert_eq!((whole.chunks, whole.pages, whole.damaged.len()), (16, 8, 0));
        let (name, offset) = files.flip(seed, "packs/").expect("there is content");
        let scrubbed = spool.scrub(&mut |_| true).expect("scrubs");
        let in_header = scrubbed.damaged.is_empty();
        assert!(scrubbed.damaged.len() == 1 || in_header, "{name} {offset} {scrubbed:?}");
        for Damage { root, layout, unit } in &scrubbed.damaged {
            let at = roots.iter().position(|r| r == root).expect("one of them");
            assert!(matches!(spool.unit(*root, *layout, *unit), Err(SpoolError::Missing { .. })), "it is forgotten");
            let start = (*unit as usize - 2) * CHUNK_BYTES;
            let good = payloads[at].slice(start..(start + CHUNK_BYTES).min(payloads[at].len()));
            spool.store(*root, *layout, *unit, vec![good]).expect("stores");
        }
        for (root, bytes) in roots.iter().zip(&payloads) {
            assert!(read_back(&spool, *root, layout(bytes)).is_some(), "everything else is there");
        }
        assert_eq!(spool.scrub(&mut |_| true).expect("scrubs").damaged, []);
    }
}

#[test]
fn a_scan_finds_what_lies_behind_a_damaged_header() {
    let record = CHUNK_BYTES as u64 + super::super::packs::HEADER_BYTES;
    for at in [0, 5, 9, 41, record, record + 3, record + 100] {
        let files = FaultFiles::new();
        let bytes = payload(40, CHUNK_BYTES * 3);
        let root = upload(&open_on(&files), &bytes);
        let origin = MemorySpool::default();
        upload(&origin, &bytes);
        flip(&files, "packs/00000001.pack", at);
        files.remove("spool.redb").expect("removes");
        let spool = open_on(&files);
        spool.store(root, layout(&bytes), 0, units(&origin, root, &bytes)[..2].to_vec()).expect("stores");
        let held = spool.held(root, layout(&bytes)).expect("reads").units;
        let count: u64 = held.iter().map(|range| range.count).sum();
        assert_eq!(count, 4, "one chunk of three is lost, flipped at {at}");
    }
}

#[test]
fn a_damaged_index_is_set_aside_and_a_new_life_begins() {
    for damage in [0, 1] {
        let files = FaultFiles::new();
        let bytes = payload(41, CHUNK_BYTES + 9);
        let root = {
            let spool = open_on(&files);
            spool.commit(&[put(1, None)]).expect("commits");
            upload(&spool, &bytes)
        };
        let file = files.open("spool.redb", Open::Existing).expect("is there");
        match damage {
            0 => file.write_at(&[7; 4096], 0).expect("writes"),
            _ => file.set_len(1000).expect("cuts"),
        }
        let spool = open_on(&files);
        assert_eq!(spool.restore(&mut |_| {}).expect("restores").node, None);
        assert!(files.list("").expect("lists").contains(&"spool.redb.damaged-1".to_owned()), "evidence is kept");
        let origin = MemorySpool::default();
        upload(&origin, &bytes);
        spool.store(root, layout(&bytes), 0, units(&origin, root, &bytes)[..2].to_vec()).expect("stores");
        assert!(read_back(&spool, root, layout(&bytes)).is_some(), "its chunks were found again");
    }
}

#[test]
fn a_damaged_page_is_fetched_again_and_its_references_stay_right() {
    let files = FaultFiles::new();
    let bytes = payload(42, CHUNK_BYTES * 3);
    let spool = open_on(&files);
    let (root, length) = (upload(&spool, &bytes), bytes.len() as u64);
    spool.commit(&[put(1, Some((root, length)))]).expect("commits");
    let page = spool.unit(root, layout(&bytes), 1).expect("held");
    drop(spool);
    damage_page(&files, root, &page);
    let spool = open_on(&files);
    assert_eq!(
        spool.unit(root, layout(&bytes), 1),
        Err(SpoolError::Damaged { path: files.path().into(), root, unit: 1 })
    );
    let scrubbed = spool.scrub(&mut |_| true).expect("scrubs");
    assert_eq!(scrubbed.damaged, [Damage { root, layout: layout(&bytes), unit: 1 }]);
    let held = spool.held(root, layout(&bytes)).expect("reads").units;
    assert_eq!(held.iter().map(|r| (r.first, r.count)).collect::<Vec<_>>(), [(0, 1)], "the page is asked for again");
    spool.store(root, layout(&bytes), 1, vec![page]).expect("stores");
    assert!(read_back(&spool, root, layout(&bytes)).is_some());
    spool.commit(&[Op::DeleteMessage { row: Row(1) }]).expect("commits");
    (1..4).for_each(|n| spool.sweep(n * 2 * HOUR_MS).expect("sweeps"));
    assert_eq!(spool.scrub(&mut |_| true).expect("scrubs").chunks, 0, "nothing is left over");
    assert!(files.list("packs").expect("lists").is_empty());
}

/// A message whose payload is the one that its envelope names.
fn document(row: u64) -> Op {
    let inline = payload(1000 + row, 600);
    let body = body(row, inline.len() as u64, root_of(&inline));
    let message = message_row(MessageId::of(&body), 0);
    Op::PutMessage {
        row: Row(row),
        message,
        envelope: Statement::Signed(signed(body)),
        inline: Some(inline),
        payload: None,
    }
}

/// The rows that a spool gives back, each with all that belongs to it.
fn rows(spool: &DiskSpool) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    spool
        .restore(&mut |input| {
            if let Input::RestoredMessage { row, message, gist, .. } = &input {
                let (inline, envelope) = (spool.inline(*row).expect("reads"), spool.envelope(*row).expect("reads"));
                out.insert(format!("{row:?} {message:?} {gist:?} {inline:?} {envelope:?}"));
            }
        })
        .expect("restores");
    out
}

#[test]
fn bits_that_flip_in_the_index_cost_the_rows_beside_them_and_no_others() {
    const MESSAGES: u64 = 300;
    let (mut noticed, mut worst, mut branches) = (0, 0, 0);
    for seed in 0..60 {
        let files = FaultFiles::new();
        let bytes = payload(44, CHUNK_BYTES + 5);
        let spool = open_on(&files);
        let payload = (upload(&spool, &bytes), bytes.len() as u64);
        let all: Vec<Op> =
            (1..=MESSAGES).map(|row| if row == 7 { put(row, Some(payload)) } else { document(row) }).collect();
        all.chunks(30).for_each(|ops| spool.commit(ops).expect("commits"));
        let before = rows(&spool);
        if seed % 2 == 0 {
            drop(spool);
        } else {
            files.cut();
            drop(spool);
        }
        let files = files.after_power_cut(seed);
        files.flip(seed, "spool.redb").expect("there is content");
        let spool = open_on(&files);
        let after = rows(&spool);
        let lost = before.difference(&after).count();
        let seen = files.list("").expect("lists").iter().any(|name| name.contains("damaged"));
        assert!(seen || lost == 0, "seed {seed}: {lost} rows went silently");
        (noticed, worst) = (noticed + usize::from(seen), worst.max(lost));
        assert_eq!(
            after.difference(&before).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "seed {seed}: comes back changed"
        );
        // A leaf holds six of these rows, a branch leads to some dozens of leaves.
        branches += usize::from(lost > 12);
        let whole = read_back(&spool, payload.0, layout(&bytes)).is_some();
        assert!(whole || lost > 0 || spool.held(payload.0, layout(&bytes)).is_ok(), "seed {seed}");
        spool.commit(&[put(1000, None)]).expect("commits");
    }
    eprintln!("{noticed} of 60 were noticed, {branches} cost more than two leaves; at worst {worst} rows were lost");
    assert!(noticed > 25 && branches <= 4, "{noticed} noticed, {branches} branches, at worst {worst} rows");
}

/// What a flipped bit in the redb file makes of a page, with the checksum of redb's page right.
fn damage_page(files: &FaultFiles, root: Digest, page: &Bytes) {
    let mut bad = page.to_vec();
    bad[33] ^= 1;
    let rows = super::super::rows::Rows::open(Arc::new(files.clone()), 1 << 20).expect("opens");
    let put = rows.write(&mut |t| {
        t.units.insert((&root.0, 1), bad.as_slice())?;
        Ok(())
    });
    put.expect("writes");
}

#[test]
fn a_chunk_the_disk_cannot_read_is_fetched_again_and_the_spool_goes_on() {
    let files = FaultFiles::new();
    let spool = open_on(&files);
    let bytes = payload(43, CHUNK_BYTES * 2);
    let root = upload(&spool, &bytes);
    assert!(read_back(&spool, root, layout(&bytes)).is_some());
    files.fail(Access::Read, 0);
    let outcomes: BTreeSet<bool> = (2..4).map(|n| spool.unit(root, layout(&bytes), n).is_ok()).collect();
    assert_eq!(outcomes.len(), 2, "one of two reads met the fault");
    spool.store(root, layout(&bytes), 2, vec![bytes.slice(..CHUNK_BYTES), bytes.slice(CHUNK_BYTES..)]).expect("stores");
    assert!(read_back(&spool, root, layout(&bytes)).is_some());
}

#[test]
fn a_scan_takes_what_was_given_back_for_no_damage() {
    use super::super::packs::scan;
    let files = FaultFiles::new();
    let spool = DiskSpool::open_on(
        Arc::new(files.clone()),
        DiskOptions { inline_sync: true, pack_bytes: 64 << 20, ..options() },
    )
    .expect("opens");
    let payloads: Vec<Bytes> = (0..6).map(|n| payload(60 + n, CHUNK_BYTES * 2 + 9_000)).collect();
    let roots: Vec<Digest> = payloads.iter().map(|bytes| upload(&spool, bytes)).collect();
    let refer = |n: usize| put(n as u64 + 1, Some((roots[n], payloads[n].len() as u64)));
    spool.commit(&[refer(0), refer(2), refer(5)]).expect("commits");
    // One by one, so that blocks with parts of two of them stay.
    spool.sweep(1).expect("sweeps");
    spool.held(roots[4], layout(&payloads[4])).expect("reads");
    spool.sweep(2 * HOUR_MS).expect("sweeps");
    spool.sweep(4 * HOUR_MS).expect("sweeps");
    let mut found = BTreeSet::new();
    let whole = scan(&files, 1, &mut |hash, _| found.extend([hash])).expect("reads");
    assert_eq!((found.len(), whole.damaged), (9, 0));
    let (name, at) = files.flip(3, "packs/").expect("there is content");
    let damaged = scan(&files, 1, &mut |_, _| ()).expect("reads");
    assert_eq!(damaged.damaged, 1, "{name} {at}");
}
