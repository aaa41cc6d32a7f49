//! What `recv` wrote into a directory: the file `.tram`, one line a message, appended and synced.
//!
//! A message's file appears under a temporary name, `.tram.part`, of which there is one at a time. The order is:
//! file synced, directory synced, *intent* line synced, renamed (never over another file), directory synced, *done* line
//! synced; only then is the message acknowledged. Because the temporary name is durable before the intent, a crash
//! leaves one of two pictures: the intent without a temporary file, so the rename happened (even if someone has taken
//! the file away since); or with it, so it did not, and the intent is taken back before the temporary file is. Hence no
//! message is written twice and none is lost. The ledger is locked while it is open. Lines: `?ID ADDRESS NAME` is an
//! intent, `ID ADDRESS NAME` is done.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use tram_proto::id::MessageId;

use super::name::numbered;

const LEDGER: &str = ".tram";
const PART: &str = ".tram.part";
/// Different messages of one file name in one directory.
const NUMBERS: u32 = 1_000_000;

/// One message for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) id: MessageId,
    pub(crate) address: String,
}

/// Why a directory cannot be written to.
#[derive(Debug)]
pub(crate) enum OpenError {
    Locked,
    Damaged(usize),
    Io(io::Error),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Locked => f.write_str("another `tram recv` is writing into this directory; give each its own --out"),
            Self::Damaged(line) => write!(f, "line {line} of .tram is damaged: use another --out, or repair that line"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The steps of keeping a file, at each of which a test stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Written,
    Intended,
    Renamed,
    Done,
}

/// The open ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    dir: PathBuf,
    directory: File,
    lines: File,
    done: HashMap<Key, String>,
    /// Numbers up to this are taken, by name; saves trying them all again.
    taken: HashMap<String, u32>,
    stop_after: Option<Step>,
}

impl Ledger {
    /// Opens the ledger of `dir`, both made when missing, and brings to its end what a crash interrupted.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(dir)?;
        let directory = File::open(dir)?;
        let mut lines = OpenOptions::new().read(true).append(true).create(true).open(dir.join(LEDGER))?;
        match flock(&lines, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(OpenError::Locked),
            other => other.map_err(io::Error::from)?,
        }
        directory.sync_all()?;
        let mut text = Vec::new();
        lines.read_to_end(&mut text)?;
        // A line without its end was being written when the machine stopped; it was never relied upon.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            lines.set_len(whole as u64)?;
            lines.sync_all()?;
            text.truncate(whole);
        }
        let mut ledger = Self {
            dir: dir.to_owned(),
            directory,
            lines,
            done: HashMap::new(),
            taken: HashMap::new(),
            stop_after: None,
        };
        let (pending, done_bytes) = ledger.load(&text)?;
        ledger.resolve(pending, done_bytes)?;
        Ok(ledger)
    }

    /// Reads all lines; returns the last intent when it has no done line, and how far the last done line reaches.
    fn load(&mut self, text: &[u8]) -> Result<(Option<(Key, String)>, u64), OpenError> {
        let (mut pending, mut read_bytes, mut done_bytes) = (None, 0, 0);
        for (line, number) in text.split_inclusive(|byte| *byte == b'\n').zip(1..) {
            let read = || {
                let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
                let intent = line.strip_prefix('?');
                let mut fields = intent.unwrap_or(line).splitn(3, ' ');
                let id = fields.next()?.parse().ok()?;
                let address = fields.next()?.to_owned();
                let name = fields.next().filter(|name| !name.is_empty() && !name.contains('/'))?.to_owned();
                Some((intent.is_some(), Key { id, address }, name))
            };
            let (intent, key, name) = read().ok_or(OpenError::Damaged(number))?;
            read_bytes += line.len() as u64;
            if intent {
                pending = Some((key, name));
            } else {
                (pending, done_bytes) = (None, read_bytes);
                self.done.insert(key, name);
            }
        }
        Ok((pending, done_bytes))
    }

    fn resolve(&mut self, pending: Option<(Key, String)>, done_bytes: u64) -> io::Result<()> {
        let part = self.dir.join(PART);
        let left = match fs::symlink_metadata(&part) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some((key, name)) = pending {
            // Where renaming is done by a second link, both names can be there.
            let linked = |part: &fs::Metadata| {
                fs::symlink_metadata(self.dir.join(&name)).is_ok_and(|f| (f.dev(), f.ino()) == (part.dev(), part.ino()))
            };
            if left.as_ref().is_none_or(linked) {
                self.directory.sync_all()?;
                self.append("", &key, &name)?;
                self.done.insert(key, name);
            } else {
                // Without its temporary file the intent would read as a rename that happened: it goes first.
                self.lines.set_len(done_bytes)?;
                self.lines.sync_all()?;
            }
        }
        if left.is_some() {
            fs::remove_file(&part)?;
        }
        Ok(())
    }

    /// The file name of a message that was written already.
    pub(crate) fn name_of(&self, key: &Key) -> Option<&str> {
        self.done.get(key).map(String::as_str)
    }

    /// Begins a message's file under its temporary name.
    pub(crate) fn begin(&self) -> io::Result<File> {
        let part = self.dir.join(PART);
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).open(part)
    }

    /// Makes what was written to `file` durable under `name`, or the first free number of it; returns the name it got.
    pub(crate) fn keep(&mut self, key: &Key, file: File, name: &str) -> io::Result<String> {
        file.sync_all()?;
        drop(file);
        self.directory.sync_all()?;
        self.reached(Step::Written)?;
        let from = self.taken.get(name).map_or(1, |taken| taken + 1);
        for number in from..NUMBERS {
            let chosen = numbered(name, number);
            if fs::symlink_metadata(self.dir.join(&chosen)).is_ok() {
                continue;
            }
            self.append("?", key, &chosen)?;
            self.reached(Step::Intended)?;
            if !rename_to_free(&self.dir.join(PART), &self.dir.join(&chosen))? {
                continue;
            }
            self.reached(Step::Renamed)?;
            self.directory.sync_all()?;
            self.append("", key, &chosen)?;
            self.reached(Step::Done)?;
            self.taken.insert(name.to_owned(), number);
            self.done.insert(key.clone(), chosen.clone());
            return Ok(chosen);
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("too many files are called {name}")))
    }

    fn append(&mut self, mark: &str, key: &Key, name: &str) -> io::Result<()> {
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(line, "{mark}{} {} {name}", key.id, key.address);
        self.lines.write_all(line.as_bytes())?;
        self.lines.sync_data()
    }

    fn reached(&self, step: Step) -> io::Result<()> {
        if self.stop_after == Some(step) { Err(io::Error::other("stopped by a test")) } else { Ok(()) }
    }
}

/// Renames unless the target exists; returns whether it did.
fn rename_to_free(from: &Path, to: &Path) -> io::Result<bool> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // File systems without it, such as NFS: the link is as careful.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match fs::hard_link(from, to) {
            Ok(()) => fs::remove_file(from).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        },
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Key {
        Key { id: MessageId([number; 32]), address: "vanban@can-tho".to_owned() }
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("readable")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| name != LEDGER)
            .collect();
        names.sort();
        names
    }

    /// What `recv` does with one message that is handed out.
    fn receive(ledger: &mut Ledger, key: &Key, name: &str, content: &[u8]) -> io::Result<String> {
        if let Some(name) = ledger.name_of(key) {
            return Ok(name.to_owned());
        }
        let mut file = ledger.begin()?;
        file.write_all(content)?;
        ledger.keep(key, file, name)
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary directory")
    }

    #[test]
    fn a_crash_at_any_step_neither_loses_nor_doubles_the_file() {
        for step in [Step::Written, Step::Intended, Step::Renamed, Step::Done] {
            let dir = dir();
            let mut ledger = Ledger::open(dir.path()).expect("opens");
            receive(&mut ledger, &key(1), "a.pdf", b"first").expect("written");
            ledger.stop_after = Some(step);
            receive(&mut ledger, &key(2), "a.pdf", b"second").expect_err("stopped");
            drop(ledger);
            let mut ledger = Ledger::open(dir.path()).expect("opens again");
            assert_eq!(ledger.name_of(&key(2)).is_some(), step >= Step::Renamed, "{step:?}");
            for _ in 0..2 {
                let name = receive(&mut ledger, &key(2), "a.pdf", b"second").expect("written or known");
                assert_eq!(name, "a (2).pdf");
            }
            assert_eq!(files(dir.path()), ["a (2).pdf", "a.pdf"], "{step:?}");
            assert_eq!(fs::read(dir.path().join("a (2).pdf")).expect("there"), b"second");
            assert_eq!(fs::read(dir.path().join("a.pdf")).expect("there"), b"first");
        }
    }

    #[test]
    fn a_second_crash_before_the_next_message_does_not_lose_the_first() {
        let dir = dir();
        let mut ledger = Ledger::open(dir.path()).expect("opens");
        fs::write(dir.path().join("a.pdf"), b"theirs").expect("written");
        receive(&mut ledger, &key(1), "b.pdf", b"before").expect("written");
        // The first name it tries is taken: two intents stand in the ledger.
        ledger.append("?", &key(2), "a.pdf").expect("written");
        ledger.stop_after = Some(Step::Intended);
        receive(&mut ledger, &key(2), "a.pdf", b"ours").expect_err("stopped");
        drop(ledger);
        for _ in 0..3 {
            let ledger = Ledger::open(dir.path()).expect("opens again");
            assert_eq!((ledger.name_of(&key(1)), ledger.name_of(&key(2))), (Some("b.pdf"), None));
        }
        let mut ledger = Ledger::open(dir.path()).expect("opens again");
        assert_eq!(receive(&mut ledger, &key(2), "a.pdf", b"ours").expect("written"), "a (2).pdf");
        assert_eq!(files(dir.path()), ["a (2).pdf", "a.pdf", "b.pdf"]);
    }

    #[test]
    fn a_file_taken_away_before_the_restart_is_not_written_again() {
        let dir = dir();
        let mut ledger = Ledger::open(dir.path()).expect("opens");
        ledger.stop_after = Some(Step::Renamed);
        receive(&mut ledger, &key(1), "a.pdf", b"x").expect_err("stopped");
        drop(ledger);
        fs::remove_file(dir.path().join("a.pdf")).expect("taken away");
        let mut ledger = Ledger::open(dir.path()).expect("opens again");
        assert_eq!(receive(&mut ledger, &key(1), "a.pdf", b"x").expect("known"), "a.pdf");
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn a_second_link_left_by_a_crash_is_one_file() {
        let dir = dir();
        let mut ledger = Ledger::open(dir.path()).expect("opens");
        ledger.stop_after = Some(Step::Intended);
        receive(&mut ledger, &key(1), "a.pdf", b"x").expect_err("stopped");
        drop(ledger);
        fs::hard_link(dir.path().join(PART), dir.path().join("a.pdf")).expect("linked");
        let ledger = Ledger::open(dir.path()).expect("opens again");
        assert_eq!(ledger.name_of(&key(1)), Some("a.pdf"));
        assert_eq!(files(dir.path()), ["a.pdf"]);
    }

    #[test]
    fn a_foreign_file_of_the_intended_name_is_neither_overwritten_nor_taken_for_ours() {
        let dir = dir();
        let mut ledger = Ledger::open(dir.path()).expect("opens");
        ledger.stop_after = Some(Step::Intended);
        receive(&mut ledger, &key(1), "a.pdf", b"ours").expect_err("stopped");
        drop(ledger);
        fs::write(dir.path().join("a.pdf"), b"theirs").expect("written");
        let mut ledger = Ledger::open(dir.path()).expect("opens again");
        assert_eq!(receive(&mut ledger, &key(1), "a.pdf", b"ours").expect("written"), "a (2).pdf");
        assert_eq!(fs::read(dir.path().join("a.pdf")).expect("there"), b"theirs");
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_a_damaged_one_is_named() {
        let dir = dir();
        let mut ledger = Ledger::open(dir.path()).expect("opens");
        receive(&mut ledger, &key(1), "tên dài có dấu.pdf", b"x").expect("written");
        drop(ledger);
        let path = dir.path().join(LEDGER);
        let good = fs::read(&path).expect("there");
        // Whatever is left of the last line, the file is there once and known.
        let first = good.iter().position(|b| *b == b'\n').expect("a line") + 1;
        for cut in first..good.len() {
            fs::write(&path, &good[..cut]).expect("written");
            let mut ledger = Ledger::open(dir.path()).expect("opens");
            receive(&mut ledger, &key(1), "tên dài có dấu.pdf", b"x").expect("known");
            assert_eq!(files(dir.path()), ["tên dài có dấu.pdf"], "cut at {cut}");
            assert_eq!(fs::read(&path).expect("there"), good);
        }
        fs::write(&path, [b"nonsense\n", good.as_slice()].concat()).expect("written");
        assert!(matches!(Ledger::open(dir.path()), Err(OpenError::Damaged(1))));
    }

    #[test]
    fn two_may_not_write_into_one_directory() {
        let dir = dir();
        let first = Ledger::open(dir.path()).expect("opens");
        assert!(matches!(Ledger::open(dir.path()), Err(OpenError::Locked)));
        drop(first);
        assert!(Ledger::open(dir.path()).is_ok());
    }

    #[test]
    fn one_message_for_two_recipients_is_two_files() {
        let dir = dir();
        let mut ledger = Ledger::open(dir.path()).expect("opens");
        let other = Key { address: "khan@can-tho".to_owned(), ..key(1) };
        assert_eq!(receive(&mut ledger, &key(1), "a", b"x").expect("written"), "a");
        assert_eq!(receive(&mut ledger, &other, "a", b"x").expect("written"), "a (2)");
    }
}
