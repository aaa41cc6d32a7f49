//! A log that goes to the parent and comes back: two real PKIs, without a link between them.

use std::fs;

use bytes::Bytes;
use tram_pki::journal::COPIES_DIR;
use tram_pki::registry::AUDIT_LOG;

use super::*;
use crate::local::pki::tests::door;

/// A node with a CA and the parent's copies.
struct Pair {
    dir: tempfile::TempDir,
    log: Vec<Bytes>,
}

fn lines(text: &[u8]) -> Vec<Bytes> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(Bytes::copy_from_slice).collect()
}

fn joined(lines: &[Bytes]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect()
}

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let door = door(&dir.path().join("child"), true);
        (0..5).for_each(|_| door.desk.as_ref().expect("a CA").publish(true));
        let log = lines(&fs::read(door.pki.join(AUDIT_LOG)).expect("readable"));
        assert!(log.len() > 5, "{}", log.len());
        Self { dir, log }
    }

    /// The child with this log, and what the parent makes of it when its copy is that one: whether anything came back,
    /// and the child's log then.
    fn meet(&self, log: &[Bytes], copy: &[Bytes]) -> (bool, Vec<Bytes>) {
        let pki = self.dir.path().join("child/pki");
        fs::write(pki.join(AUDIT_LOG), joined(log)).expect("written");
        let parent = tempfile::tempdir().expect("a directory");
        let clock = Clock::default();
        let keys = tram_pki::keystore::NodeKeys::load(&pki).expect("loads");
        let who = (keys.identity().id, keys.identity().name.clone());
        let copies = Copies::open(parent.path()).expect("opens");
        let of = parent.path().join(COPIES_DIR).join(format!("{}.log", who.0));
        fs::write(&of, joined(copy)).expect("written");
        let trust = Arc::new(NodeTrust::new(keys, tram_pki::pins::Pins::default(), clock));
        let shelf = Shelf::open(&pki, trust.clone(), clock).expect("opens");
        let no = Err("listens nowhere".to_owned());
        let desk = Arc::new(Desk::open(&pki, None, shelf.clone(), who.clone(), no, clock).expect("opens"));
        // One stands for both ends: what it says as a child, it hears as the parent.
        let both = Registrar::new(shelf, Some(desk), trust, Vec::new(), Some(copies), clock);
        let (number, hash) = both.journal_take(who.0, 0, vec![]).expect("kept");
        let mut came = false;
        if let GoesOn::Elsewhere(number, hash) = both.journal_since(number, &hash) {
            let back = both.journal_lost(who.0, number, &hash);
            came = !back.is_empty() && both.journal_back(number + 1, &back);
        }
        let now = lines(&fs::read(pki.join(AUDIT_LOG)).expect("readable"));
        assert_eq!(fs::read(&of).expect("readable"), joined(copy), "the copy stays as it is");
        (came, now)
    }
}

#[test]
fn only_what_continues_a_log_comes_back_into_it() {
    let pair = Pair::new();
    let whole = &pair.log;
    let short = &whole[..3];
    let same = |log: &[Bytes], copy: &[Bytes]| assert_eq!(pair.meet(log, copy), (false, log.to_vec()));
    // An altered line: the last that both have, and one after it.
    let altered = |at: usize| {
        let mut lines = whole.clone();
        let text = String::from_utf8(lines[at].to_vec()).expect("text").replace("20", "21");
        assert_ne!(lines[at], text.as_bytes());
        lines[at] = text.into();
        lines
    };
    same(short, &altered(2));
    same(short, &altered(4));
    // A gap.
    same(short, &[&whole[..3], &whole[4..]].concat());
    // Another node's log, longer and shorter.
    let other = Pair::new().log;
    same(short, &other);
    same(whole, &other[..3]);
    // A fork: both went on, the copy further.
    same(short, short);
    let fork = [&whole[..2], &other[2..]].concat();
    same(short, &fork);
    same(&altered(2)[..3], whole);

    assert_eq!(pair.meet(short, whole), (true, whole.clone()));
    assert_eq!(pair.meet(&[], whole), (true, whole.clone()));
    // What is altered before the child's end does not come into its log.
    assert_eq!(pair.meet(short, &altered(1)), (true, whole.clone()));
    same(whole, short);
    same(whole, &[]);
}

#[test]
fn a_copy_that_was_set_aside_begins_anew() {
    let pair = Pair::new();
    let parent = tempfile::tempdir().expect("a directory");
    let mut copies = Copies::open(parent.path()).expect("opens");
    let node = NodeId([7; 16]);
    copies.append(node, 1, &pair.log).expect("kept");
    let both = {
        let door = door(&parent.path().join("node"), true);
        let of =
            |keep| Registrar::new(door.shelf.clone(), door.desk.clone(), door.trust.clone(), vec![], keep, door.clock);
        of(Some(copies))
    };
    let aside = Copies::set_aside(parent.path(), node).expect("set aside");
    assert_eq!(fs::read(aside).expect("readable"), joined(&pair.log));
    // The child goes on where it was: it is told to begin at the first line.
    let next = both.journal_take(node, 7, pair.log[6..].to_vec());
    assert_eq!(next.map(|(number, _)| number), Some(0));
    let kept = both.journal_take(node, 1, pair.log.clone());
    assert_eq!(kept.map(|(number, _)| number), Some(pair.log.len() as u64));
}
