use super::*;
use crate::fixtures::{NOW_MS, Overlay};
use crate::registry::{AUDIT_LOG, Entry, Registry};

/// Two lines as release 0.3 wrote them.
const OLD: &str = "{\"at\":\"2026-06-01T00:00:00Z\",\"event\":\"overlay_founded\"}\n{\"at\":\"2026-06-02T00:00:00Z\",\"event\":\"token_created\"}\n";

fn note(registry: &mut Registry, text: &str) {
    let entry = Entry { detail: text.to_owned(), ..Entry::new("test", NOW_MS) };
    registry.audit().append(&entry).expect("appended");
}

/// A log of 1 founding line and 5 more, or of the old lines and 5 more.
fn log(old: bool) -> Vec<u8> {
    let overlay = Overlay::new("tram.internal");
    let path = overlay.dir().join(AUDIT_LOG);
    if old {
        fs::write(&path, OLD).expect("written");
    }
    let mut registry = Registry::open(overlay.dir()).expect("opens");
    (0..5).for_each(|number| note(&mut registry, &format!("number {number}")));
    fs::read(&path).expect("readable")
}

fn lines(log: &[u8]) -> Vec<Bytes> {
    log.split_inclusive(|b| *b == b'\n').map(|line| Bytes::copy_from_slice(&line[..line.len() - 1])).collect()
}

fn joined(lines: &[Bytes]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_ref(), b"\n"].concat()).collect()
}

/// Changes the log and expects the first broken line and what is said of it.
#[track_caller]
fn check(old: bool, change: impl FnOnce(&mut Vec<Bytes>), line: u64, what: &str) {
    let mut lines = lines(&log(old));
    change(&mut lines);
    let found = verify(&joined(&lines), 1, None).expect_err("broken");
    assert!(found.line == line && found.what.contains(what), "{found}");
}

fn edit(lines: &mut [Bytes], number: usize) {
    let text = String::from_utf8(lines[number - 1].to_vec()).expect("UTF-8");
    lines[number - 1] = text.replace("2027-", "2026-").replace("2026-06", "2025-06").into();
}

#[test]
fn row_29_an_edited_removed_or_reordered_line_is_named() {
    assert_eq!(verify(&log(false), 1, None).expect("in order").lines, 6);
    for number in 1..=4 {
        check(false, |lines| edit(lines, number), number as u64, "it was edited");
    }
    check(false, |lines| edit(lines, 5), 5, "it or line 6 was edited");
    for number in 2..=5 {
        check(false, |lines| drop(lines.remove(number - 1)), number as u64, "it was removed");
    }
    check(false, |lines| drop(lines.drain(1..4)), 2, "lines 2 to 4 were removed");
    check(false, |lines| drop(lines.remove(0)), 1, "it was removed");
    check(false, |lines| lines.swap(2, 3), 3, "reordered");
    check(false, |lines| lines.insert(3, lines[1].clone()), 4, "it was put in");
    check(false, |lines| lines.insert(3, Bytes::from_static(b"{}")), 4, "no place in the chain");
    // Whoever edits a line and its successor's hash moves the fault, and is found all the same.
    check(
        false,
        |lines| {
            edit(lines, 3);
            let (old, new) =
                (Link::of(&lines[3]).expect("chained").prev.to_string(), Sha256::of(&lines[2]).to_string());
            lines[3] = String::from_utf8(lines[3].to_vec()).expect("UTF-8").replace(&old, &new).into();
        },
        4,
        "it was edited",
    );
}

#[test]
fn row_29_lines_from_before_the_chain_are_covered_by_its_first() {
    let whole = log(true);
    assert!(whole.starts_with(OLD.as_bytes()));
    let found = verify(&whole, 1, None).expect("in order");
    assert_eq!((found.lines, found.unchained), (7, 2));
    for number in [1, 2] {
        check(true, |lines| edit(lines, number), 1, "lines 1 to 2, from before the chain, were changed");
    }
    check(true, |lines| lines.swap(0, 1), 1, "from before the chain");
    check(true, |lines| drop(lines.remove(0)), 2, "it was removed");
    // A chain cannot be turned into an old log: the first line left in it does not fit.
    check(
        true,
        |lines| lines[2] = Bytes::from_static(b"{\"at\":\"2027-01-15T08:00:00Z\",\"event\":\"test\"}"),
        1,
        "from before the chain",
    );
}

#[test]
fn row_29_a_cut_tail_is_found_by_who_knows_the_head_or_has_a_copy() {
    let whole = log(true);
    let head = verify(&whole, 1, None).expect("in order").head;
    assert_eq!(head_of(&whole), head);
    assert_eq!(head.to_string().parse(), Ok(head));
    verify(&whole, 1, Some(head)).expect("the same");
    let cut = joined(&lines(&whole)[..5]);
    verify(&cut, 1, None).expect("a chain alone does not tell");
    let found = verify(&cut, 1, Some(head)).expect_err("cut");
    assert_eq!((found.line, found.what.contains("the log had 7 lines and ends at 5")), (6, true), "{found}");
    let found = compare(&cut, &whole).expect_err("cut");
    assert!(found.line == 6 && found.what.contains("cut off"), "{found}");
    compare(&whole, &cut).expect("the copy is behind");

    // The last line has no successor: only the head or a copy tells.
    let mut edited = lines(&whole);
    edit(&mut edited, 7);
    verify(&joined(&edited), 1, None).expect("a chain alone does not tell");
    assert_eq!(verify(&joined(&edited), 1, Some(head)).expect_err("edited").line, 7);
    assert_eq!(compare(&joined(&edited), &whole).expect_err("edited").line, 7);
}

#[test]
fn an_export_from_the_middle_is_checked_from_there() {
    let whole = lines(&log(false));
    let found = verify(&joined(&whole[3..]), 4, None).expect("in order");
    assert_eq!((found.lines, found.head.number), (3, 6));
    assert_eq!(verify(&joined(&whole[3..]), 1, None).expect_err("not from 1").what, "lines 1 to 3 were removed");
}

#[test]
fn half_a_line_is_cut_off_and_told_and_the_chain_goes_on() {
    for torn in [&b"{\"n\":3,\"pr"[..], b"{\"n\":3}", b"{\"n\":3\0\0\0\n", b"\0\0\0\0\0\0"] {
        let overlay = Overlay::new("tram.internal");
        let path = overlay.dir().join(AUDIT_LOG);
        let whole = fs::read(&path).expect("readable");
        fs::write(&path, [&whole, torn].concat()).expect("written");
        let found = verify(&fs::read(&path).expect("readable"), 1, None).expect("half a line is no fault");
        assert_eq!((found.lines, found.torn_bytes), (1, torn.len() as u64));

        let mut registry = Registry::open(overlay.dir()).expect("opens");
        note(&mut registry, "after");
        let healed = fs::read(&path).expect("readable");
        assert!(healed.starts_with(&whole));
        let found = verify(&healed, 1, None).expect("in order");
        assert_eq!((found.lines, found.torn_bytes), (3, 0));
        let told = String::from_utf8(lines(&healed)[1].to_vec()).expect("UTF-8");
        assert!(told.contains("torn_line_cut") && told.contains(&format!("{} bytes", torn.len())), "{told}");
    }
}

#[test]
fn a_line_that_could_not_be_written_is_no_line_and_the_next_one_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let mut log = Log::open(&path).expect("opens");
    let line =
        |number: u64, prev: Sha256| serde_json::to_vec(&serde_json::json!({ "n": number, "prev": prev.to_string() }));
    log.append(line).expect("appended");
    let (head, whole) = (log.head(), fs::read(&path).expect("readable"));
    let file = log.fill_disk();
    log.append(line).expect_err("full");
    assert_eq!(log.head(), head);
    // What a disk that filled up in the middle of a line leaves.
    fs::write(&path, [&whole[..], b"{\"n\":2,"].concat()).expect("written");
    log.file = file;
    log.append(line).expect("appended");
    let found = verify(&fs::read(&path).expect("readable"), 1, Some(log.head())).expect("in order");
    assert_eq!((found.lines, found.torn_bytes), (2, 0));
}

#[test]
fn lines_are_handed_out_whole_and_within_the_limit() {
    let overlay = Overlay::new("tram.internal");
    let mut registry = Registry::open(overlay.dir()).expect("opens");
    (0..50).for_each(|number| note(&mut registry, &format!("number {number}")));
    let whole = lines(&fs::read(overlay.dir().join(AUDIT_LOG)).expect("readable"));
    let audit = registry.audit();
    assert_eq!(audit.since(0, usize::MAX).expect("read"), whole);
    assert_eq!(audit.since(51, 1).expect("read"), whole[50..]);
    assert_eq!(audit.since(3, 1).expect("read"), whole[2..3], "at least one");
    assert_eq!(audit.since(52, 1000).expect("read"), [] as [Bytes; 0]);
    let (mut next, mut all) = (1, Vec::new());
    while let Some(part) = Some(audit.since(next, 700).expect("read")).filter(|part| !part.is_empty()) {
        assert!(part.iter().map(Bytes::len).sum::<usize>() <= 700);
        next += part.len() as u64;
        all.extend(part);
    }
    assert_eq!(all, whole);
    note(&mut registry, "one more");
    let audit = registry.audit();
    assert_eq!(audit.since(52, 1000).expect("read").len(), 1);
    for (number, line) in (1..).zip(&whole) {
        assert_eq!(audit.head_at(number).expect("read"), Some(Head { number, hash: Sha256::of(line) }));
    }
    assert_eq!(audit.head_at(53).expect("read"), None);
    assert_eq!(audit.head_at(52).expect("read"), Some(audit.head()));
}

#[test]
fn a_parent_keeps_a_log_that_continues_and_refuses_another() {
    let parent = tempfile::tempdir().expect("a directory");
    let node = NodeId([7; 16]);
    let whole = lines(&log(true));
    let mut copies = Copies::open(parent.path()).expect("opens");
    assert_eq!(copies.have(node).expect("read").number, 0);
    assert_eq!(copies.append(node, 1, &whole[..1]).expect("taken").number, 1);
    assert_eq!(copies.append(node, 1, &whole[..4]).expect("taken").number, 4);
    let gap = copies.append(node, 6, &whole[5..]);
    assert!(matches!(gap, Err(ExtendError::Gap { have: Head { number: 4, .. } })), "{gap:?}");
    // What comes twice is taken once; and the copy outlives a restart.
    drop(copies);
    let mut copies = Copies::open(parent.path()).expect("opens");
    let head = copies.append(node, 3, &whole[2..]).expect("taken");
    assert_eq!(copies.append(node, 5, &whole[4..]).expect("again"), head);
    assert_eq!(head, head_of(&joined(&whole)));
    let file = parent.path().join(COPIES_DIR).join(format!("{node}.log"));
    assert_eq!(fs::read(&file).expect("readable"), joined(&whole));
    assert_eq!(copies.since(node, 6, usize::MAX).expect("read"), whole[5..]);

    // A log that was rewritten: another old line, or a new one that follows from another.
    let mut rewritten = whole.clone();
    edit(&mut rewritten, 4);
    let fork = copies.append(node, 1, &rewritten);
    assert!(matches!(fork, Err(ExtendError::Fork { number: 4 })), "{fork:?}");
    let follows = format!("{{\"n\":8,\"prev\":\"{}\"}}", Sha256::of(b"another line 7"));
    let fork = copies.append(node, 8, &[follows.into()]);
    assert!(matches!(fork, Err(ExtendError::Fork { number: 7 })), "{fork:?}");
    for (bad, why) in [("{\"event\":\"x\"}", "no place"), ("{}\n{}", "no line"), ("{}\0", "no line")] {
        let error = copies.append(node, 8, &[Bytes::from_static(bad.as_bytes())]).expect_err("broken");
        assert!(matches!(&error, ExtendError::Broken { number: 8, .. }) && error.to_string().contains(why), "{error}");
    }
    let long = Bytes::from(vec![b'x'; LINE_BYTES + 1]);
    assert!(matches!(copies.append(node, 8, &[long]), Err(ExtendError::Broken { .. })));
    assert_eq!(copies.have(node).expect("read"), head);

    // An admin has looked at it.
    let aside = Copies::set_aside(parent.path(), node).expect("set aside");
    let none = Copies::set_aside(parent.path(), node);
    assert!(matches!(none, Err(FileError::Missing { .. })), "{none:?}");
    assert_eq!(fs::read(aside).expect("readable"), joined(&whole));
    assert_eq!(copies.append(node, 1, &rewritten[..1]).expect("taken").number, 1);
}

#[test]
fn a_restored_log_takes_back_what_the_parent_kept() {
    let overlay = Overlay::new("tram.internal");
    let path = overlay.dir().join(AUDIT_LOG);
    let mut registry = Registry::open(overlay.dir()).expect("opens");
    (0..5).for_each(|number| note(&mut registry, &format!("number {number}")));
    drop(registry);
    let whole = lines(&fs::read(&path).expect("readable"));
    fs::write(&path, joined(&whole[..2])).expect("restored");
    let mut registry = Registry::open(overlay.dir()).expect("opens");
    assert_eq!(registry.audit().extend(2, &whole[1..]).expect("taken").number, 6);
    note(&mut registry, "restored");
    let found = verify(&fs::read(&path).expect("readable"), 1, None).expect("in order");
    assert_eq!(found.lines, 7);
}
