//! Hash-chained lines in a file: a node's audit log, and the copies of other nodes' logs that their parent keeps.
//!
//! Each line is a JSON object with its number `n`, which is the line's number in the file, and `prev`, the SHA-256 of
//! the line before without its line break. Lines of releases before 0.3 have neither; the first chained line's `prev` is
//! the SHA-256 of everything before it, line breaks included. So a changed, removed or moved line is found by its
//! successor, and a cut tail by whoever knows a later [`Head`]: the parent, or an admin who wrote it down.
//!
//! Guarantees that a line is on disk before the call returns, and that half a line, which a power cut leaves, is cut off
//! when the log is opened: it was never answered. Never rewrites a line. `research/pki.md` §4 "Audit", §5 row 29.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::Deserialize;
use tram_proto::id::NodeId;

use crate::files::{self, FileError};
use crate::hash::Sha256;

/// The longest line, in bytes; an entry of the audit log has some 500.
pub const LINE_BYTES: usize = 16 * 1024;
/// The directory of copies in the pki directory.
pub const COPIES_DIR: &str = "audit-copies";
/// Nodes whose logs a parent keeps: several times the provinces there have ever been.
pub const COPIES: usize = 256;
/// The largest copy, in bytes: half a million lines.
pub const COPY_BYTES: u64 = 256 * 1024 * 1024;

/// The end of a log, or of its beginning: who knows it finds out when anything up to there was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The last line's number; 0 when there is none.
    pub number: u64,
    /// SHA-256 of that line; where it has no chain, of everything up to it.
    pub hash: Sha256,
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl std::str::FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, hash) = text.split_once(':').ok_or("write it as NUMBER:HASH")?;
        let number = number.parse().map_err(|_| format!("{number:?} is not a number of a line"))?;
        Ok(Self { number, hash: hash.parse()? })
    }
}

/// A line's place in the chain, by its own word.
struct Link {
    number: u64,
    prev: Sha256,
}

impl Link {
    /// `None`: a line without a chain, or no JSON.
    fn of(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Text {
            n: u64,
            prev: String,
        }
        let Text { n, prev } = serde_json::from_slice(line).ok()?;
        Some(Self { number: n, prev: prev.parse().ok()? })
    }
}

fn finish(context: &digest::Context) -> Sha256 {
    let mut hash = [0; 32];
    hash.copy_from_slice(context.clone().finish().as_ref());
    Sha256(hash)
}

/// Where a log stands after its whole lines.
#[derive(Clone)]
struct Standing {
    bytes: u64,
    number: u64,
    /// The last line's hash, once there is a chain.
    chain: Option<Sha256>,
    /// Everything so far, until there is a chain.
    whole: digest::Context,
}

impl Standing {
    fn start() -> Self {
        Self { bytes: 0, number: 0, chain: None, whole: digest::Context::new(&digest::SHA256) }
    }

    fn head(&self) -> Head {
        Head { number: self.number, hash: self.chain.unwrap_or_else(|| finish(&self.whole)) }
    }

    /// Takes one more line, without its line break, at its word.
    fn pass(&mut self, line: &[u8]) {
        self.bytes += line.len() as u64 + 1;
        self.number += 1;
        if self.chain.is_some() || Link::of(line).is_some() {
            self.chain = Some(Sha256::of(line));
        } else {
            self.whole.update(line);
            self.whole.update(b"\n");
        }
    }

    /// Takes one more line when it fits.
    fn check(&mut self, line: &[u8]) -> Result<(), &'static str> {
        if line.len() > LINE_BYTES || line.contains(&b'\n') || line.contains(&0) {
            return Err("it is no line of an audit log");
        }
        match Link::of(line) {
            Some(link) if link.number != self.number + 1 => return Err("it has another number"),
            Some(link) if link.prev != self.head().hash => return Err("it does not continue the line before"),
            None if self.chain.is_some() => return Err("it has no place in the chain"),
            _ => {}
        }
        self.pass(line);
        Ok(())
    }

    /// Reads lines to the end, and answers where the whole ones end. A last line with a zero byte was torn by a power cut,
    /// even when its line break reached the disk.
    fn read(mut reader: impl BufRead) -> io::Result<Self> {
        let (mut standing, mut before_torn, mut line) = (Self::start(), None, Vec::new());
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            let Some(whole) = line.strip_suffix(b"\n") else { break };
            if whole.contains(&0) {
                before_torn.get_or_insert_with(|| standing.clone());
            } else {
                before_torn = None;
            }
            standing.pass(whole);
        }
        Ok(before_torn.unwrap_or(standing))
    }
}

/// The end of a log of which these are the bytes, as it says itself; half a line at the end does not count.
#[must_use]
pub fn head_of(log: &[u8]) -> Head {
    Standing::read(log).map_or_else(|_| Standing::start().head(), |standing| standing.head())
}

/// Why lines are not taken into a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Lines between are missing: send from the one after `have`.
    #[error("lines are missing after {}", have.number)]
    Gap {
        /// Where this log ends.
        have: Head,
    },
    /// There is another line of that number: the log was rewritten, or restored from a backup.
    #[error("line {number} is another than the one kept here: the log was rewritten, or restored from a backup")]
    Fork {
        /// The first line that differs.
        number: u64,
    },
    /// A line that does not follow from the one before.
    #[error("line {number} is refused: {why}")]
    Broken {
        /// Which line.
        number: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The limit is reached.
    #[error("the copies of audit logs are full: {0}")]
    Full(&'static str),
}

/// One log, open for more lines.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    standing: Standing,
    /// Bytes of half a line that were cut off when it was opened.
    cut: u64,
    /// A write failed: what it left behind is to be cut off before the next.
    dirty: bool,
    /// Number and offset of a line near which the next reader will begin.
    cursor: (u64, u64),
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("path", &self.path).field("head", &self.head()).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens a log, an empty one where there is none, and cuts off half a line at its end.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.open(path).map_err(files::io_at(path))?;
        if !file.metadata().map_err(files::io_at(path))?.is_file() {
            return Err(FileError::NotRegular { path: path.to_owned() });
        }
        let opened = || -> io::Result<(Standing, u64)> {
            files::adopt(&file, path)?;
            let standing = Standing::read(BufReader::new(&file))?;
            let cut = file.metadata()?.len().saturating_sub(standing.bytes);
            if cut > 0 {
                file.set_len(standing.bytes)?;
                file.sync_all()?;
            }
            Ok((standing, cut))
        };
        let (standing, cut) = opened().map_err(files::io_at(path))?;
        files::sync_parent(path)?;
        Ok(Self { path: path.to_owned(), file, standing, cut, dirty: false, cursor: (1, 0) })
    }

    /// From now on the disk is full; answers the real file.
    #[cfg(test)]
    pub(crate) fn fill_disk(&mut self) -> File {
        let full = OpenOptions::new().append(true).open("/dev/full").expect("Linux has one");
        std::mem::replace(&mut self.file, full)
    }

    /// Whether this is the file that lies there.
    fn is_at(&self, path: &Path) -> bool {
        let (Ok(open), Ok(there)) = (self.file.metadata(), fs::metadata(path)) else { return false };
        (open.dev(), open.ino()) == (there.dev(), there.ino())
    }

    pub(crate) fn head(&self) -> Head {
        self.standing.head()
    }

    /// Bytes of half a line that were cut off; asked once.
    pub(crate) const fn take_cut(&mut self) -> u64 {
        std::mem::replace(&mut self.cut, 0)
    }

    /// Appends a line that `render` makes of its number and its predecessor's hash. It is on disk when this returns.
    pub(crate) fn append(
        &mut self,
        render: impl FnOnce(u64, Sha256) -> serde_json::Result<Vec<u8>>,
    ) -> Result<(), FileError> {
        let head = self.head();
        let line = render(head.number + 1, head.hash).map_err(|error| files::io_at(&self.path)(error.into()))?;
        let mut next = self.standing.clone();
        if let Err(why) = next.check(&line) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, why);
            return Err(files::io_at(&self.path)(source));
        }
        self.write(&[&line], next)
    }

    /// Takes lines that another node sent, from number `first` on. Those that are here already have to be the same.
    pub(crate) fn extend(&mut self, first: u64, lines: &[Bytes]) -> Result<Head, ExtendError> {
        let have = self.head();
        if first == 0 || first > have.number + 1 {
            return Err(ExtendError::Gap { have });
        }
        let known = usize::try_from(have.number + 1 - first).unwrap_or(usize::MAX).min(lines.len());
        let (known, new) = lines.split_at(known);
        let kept = self.since(first, usize::MAX, known.len())?;
        for ((number, sent), kept) in (first..).zip(known).zip(kept) {
            if *sent != kept {
                return Err(ExtendError::Fork { number });
            }
        }
        let mut next = self.standing.clone();
        for line in new {
            let number = next.number + 1;
            next.check(line).map_err(|why| match Link::of(line) {
                // It is well made, but follows from another line than ours.
                Some(link) if link.number == number => ExtendError::Fork { number: next.number },
                _ => ExtendError::Broken { number, why },
            })?;
        }
        self.write(&new.iter().map(AsRef::as_ref).collect::<Vec<_>>(), next)?;
        Ok(self.head())
    }

    fn write(&mut self, lines: &[&[u8]], next: Standing) -> Result<(), FileError> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            bytes.extend_from_slice(line);
            bytes.push(b'\n');
        }
        let written = || -> io::Result<()> {
            if self.dirty {
                self.file.set_len(self.standing.bytes)?;
            }
            (&self.file).write_all(&bytes)?;
            self.file.sync_data()
        };
        if let Err(source) = written() {
            // What is half written is no line of the log. When this fails too, the next write tries again.
            self.dirty = self.file.set_len(self.standing.bytes).is_err();
            return Err(files::io_at(&self.path)(source));
        }
        self.dirty = false;
        self.standing = next;
        Ok(())
    }

    /// Whole lines without their line breaks, from `number` on: at most `lines` of them, and no more than `max_bytes`
    /// unless the first alone is longer.
    pub(crate) fn since(&mut self, number: u64, max_bytes: usize, lines: usize) -> Result<Vec<Bytes>, FileError> {
        let number = number.max(1);
        let end = self.standing.bytes;
        let start = if self.cursor.0 <= number { self.cursor } else { (1, 0) };
        let read = || -> io::Result<(Vec<Bytes>, (u64, u64))> {
            let (mut at, mut offset) = start;
            (&self.file).seek(SeekFrom::Start(offset))?;
            let mut reader = BufReader::new((&self.file).take(end.saturating_sub(offset)));
            let (mut out, mut bytes, mut line) = (Vec::new(), 0_usize, Vec::new());
            while out.len() < lines {
                line.clear();
                let length = reader.read_until(b'\n', &mut line)?;
                let Some(whole) = line.strip_suffix(b"\n") else { break };
                if at >= number {
                    bytes = bytes.saturating_add(whole.len());
                    if bytes > max_bytes && !out.is_empty() {
                        break;
                    }
                    out.push(Bytes::copy_from_slice(whole));
                }
                at += 1;
                offset += length as u64;
            }
            Ok((out, (at, offset)))
        };
        let (out, cursor) = read().map_err(files::io_at(&self.path))?;
        self.cursor = cursor;
        Ok(out)
    }

    /// The head this log had at that number; `None` when it never had.
    pub(crate) fn head_at(&self, number: u64) -> Result<Option<Head>, FileError> {
        if number == self.standing.number {
            return Ok(Some(self.head()));
        }
        let mut reader = (&self.file).take(self.standing.bytes);
        let scan = || -> io::Result<Option<Head>> {
            reader.get_mut().seek(SeekFrom::Start(0))?;
            let (mut standing, mut reader, mut line) = (Standing::start(), BufReader::new(reader), Vec::new());
            while standing.number < number {
                line.clear();
                reader.read_until(b'\n', &mut line)?;
                let Some(whole) = line.strip_suffix(b"\n") else { return Ok(None) };
                standing.pass(whole);
            }
            Ok(Some(standing.head()))
        };
        scan().map_err(files::io_at(&self.path))
    }
}

/// The audit logs of nodes below, as their parent keeps them.
#[derive(Debug)]
pub struct Copies {
    dir: PathBuf,
    open: BTreeMap<NodeId, Log>,
}

impl Copies {
    /// Those in the pki directory `pki`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(pki: &Path) -> Result<Self, FileError> {
        let dir = pki.join(COPIES_DIR);
        files::make_dir(&dir)?;
        Ok(Self { dir, open: BTreeMap::new() })
    }

    /// What is held of a node's log.
    ///
    /// # Errors
    /// [`ExtendError::Full`], or the file's error.
    pub fn have(&mut self, node: NodeId) -> Result<Head, ExtendError> {
        Ok(self.log(node)?.head())
    }

    /// Takes lines of a node's log, from number `first` on; they are on disk when this returns. Answers what is held now.
    ///
    /// # Errors
    /// [`ExtendError::Fork`] is an alarm: the log was rewritten. [`ExtendError::Gap`] says where to go on from.
    pub fn append(&mut self, node: NodeId, first: u64, lines: &[Bytes]) -> Result<Head, ExtendError> {
        let log = self.log(node)?;
        let more: u64 = lines.iter().map(|line| line.len() as u64 + 1).sum();
        if log.standing.bytes.saturating_add(more) > COPY_BYTES {
            return Err(ExtendError::Full("one log has 256 MiB: export it, then move the file away"));
        }
        log.extend(first, lines)
    }

    /// Lines of a copy, for a node that lost them: as [`crate::registry::AuditLog::since`].
    ///
    /// # Errors
    /// As [`Copies::have`].
    pub fn since(&mut self, node: NodeId, number: u64, max_bytes: usize) -> Result<Vec<Bytes>, ExtendError> {
        Ok(self.log(node)?.since(number, max_bytes, usize::MAX)?)
    }

    /// Sets the copy of a node's log aside, in the pki directory `pki`: an admin has looked at a fork. Whoever has the
    /// copies open begins a new one. Answers where the old one is now.
    ///
    /// # Errors
    /// [`FileError::Missing`] when there is none.
    pub fn set_aside(pki: &Path, node: NodeId) -> Result<PathBuf, FileError> {
        let from = path(&pki.join(COPIES_DIR), node);
        let head = head_of(&fs::read(&from).map_err(files::io_at(&from))?);
        // What already has this name is the same log.
        let to = from.with_file_name(format!("{node}.until-{}-{:.8}", head.number, head.hash.to_string()));
        fs::rename(&from, &to).map_err(files::io_at(&from))?;
        files::sync_parent(&from)?;
        Ok(to)
    }

    /// The head a copy had at that number; `None` when it never had.
    ///
    /// # Errors
    /// As [`Copies::have`].
    pub fn head_at(&mut self, node: NodeId, number: u64) -> Result<Option<Head>, ExtendError> {
        Ok(self.log(node)?.head_at(number)?)
    }

    fn log(&mut self, node: NodeId) -> Result<&mut Log, ExtendError> {
        let path = path(&self.dir, node);
        // Whoever sets a copy aside may be another process.
        if self.open.get(&node).is_some_and(|log| !log.is_at(&path)) {
            self.open.remove(&node);
        }
        let (held, full) = (self.open.len(), "256 nodes have one here");
        match self.open.entry(node) {
            std::collections::btree_map::Entry::Occupied(open) => Ok(open.into_mut()),
            std::collections::btree_map::Entry::Vacant(_) if held >= COPIES => Err(ExtendError::Full(full)),
            std::collections::btree_map::Entry::Vacant(new) => Ok(new.insert(Log::open(&path)?)),
        }
    }
}

fn path(dir: &Path, node: NodeId) -> PathBuf {
    dir.join(format!("{node}.log"))
}

/// What [`verify`] found in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many lines there are from the first to the last.
    pub lines: u64,
    /// Those before the chain, written by releases before 0.3; the first chained line covers them.
    pub unchained: u64,
    /// The end; written down elsewhere, it finds a cut tail.
    pub head: Head,
    /// Bytes of half a line at the end, as a power cut leaves them; the next start cuts them off.
    pub torn_bytes: u64,
}

/// The first line that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Broken {
    /// Its number; where lines are gone, the first that is.
    pub line: u64,
    /// What is wrong.
    pub what: String,
}

fn broken<T>(line: u64, what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { line, what: what.into() })
}

/// Checks a log, or what was exported of one from line `first` on, and whether it still ends in or passes through
/// `known`.
///
/// # Errors
/// [`Broken`].
pub fn verify(log: &[u8], first: u64, known: Option<Head>) -> Result<Verified, Broken> {
    let standing = Standing::read(log).unwrap_or_else(|_| Standing::start());
    let whole = usize::try_from(standing.bytes).unwrap_or(log.len()).min(log.len());
    let torn_bytes = (log.len() - whole) as u64;
    let lines: Vec<&[u8]> =
        log[..whole].split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]).collect();
    let mut at = Standing { number: first.max(1) - 1, ..Standing::start() };
    let (start, mut unchained) = (at.number, 0);
    for (index, line) in lines.iter().enumerate() {
        let (number, link) = (at.number + 1, Link::of(line));
        // An export begins in the middle: what came before its first line is not there to be hashed.
        let begins = number == first && first > 1;
        match &link {
            Some(link) if link.number != number => {
                return broken(number, misplaced(link.number, number, &lines[index + 1..]));
            }
            Some(link) if !begins && link.prev != at.head().hash => return mismatch(&at, line, lines.get(index + 1)),
            None if at.chain.is_some() => {
                return broken(number, "it was edited: it has no place in the chain any more");
            }
            None if begins => return broken(number, "an export that begins there cannot be checked: it has no chain"),
            None => unchained += 1,
            Some(_) => {}
        }
        at.pass(line);
        if let Some(known) = known.filter(|known| known.number == at.number && known.hash != at.head().hash) {
            return broken(number, format!("it, or a line before it, is not what {known} was taken of"));
        }
    }
    if let Some(known) = known.filter(|known| known.number > at.number) {
        let last = at.number;
        return broken(
            last + 1,
            format!("the tail was cut off: the log had {} lines and ends at {last}", known.number),
        );
    }
    Ok(Verified { lines: at.number - start, unchained, head: at.head(), torn_bytes })
}

/// A line says `said` where line `number` should be.
fn misplaced(said: u64, number: u64, after: &[&[u8]]) -> String {
    let later = after.iter().any(|line| Link::of(line).is_some_and(|link| link.number == number));
    match said {
        before if before < number => format!("it was put in: it says that it is line {before}"),
        _ if later => format!("the lines were reordered: line {said} stands here, and line {number} comes later"),
        _ if said == number + 1 => "it was removed".to_owned(),
        _ => format!("lines {number} to {} were removed", said - 1),
    }
}

/// The line after `at` does not continue it: one of the two was edited.
fn mismatch(at: &Standing, line: &[u8], after: Option<&&[u8]>) -> Result<Verified, Broken> {
    let (last, next) = (at.number, at.number + 1);
    if at.chain.is_none() {
        return match last {
            0 => broken(1, "it was edited, or lines before it were removed"),
            _ => broken(
                1,
                format!(
                    "lines 1 to {last}, from before the chain, were changed: line {next} holds another hash of them"
                ),
            ),
        };
    }
    match after.and_then(|after| Link::of(after)) {
        Some(after) if after.prev == Sha256::of(line) => {
            broken(last, format!("it was edited: line {next} holds another hash of it"))
        }
        Some(_) => broken(next, format!("it was edited: it holds another hash of line {last}")),
        None => broken(last, format!("it or line {next} was edited: line {next} holds another hash of it")),
    }
}

/// Compares a log with another copy of it, such as the parent's.
///
/// # Errors
/// [`Broken`]: the first line that differs, or is missing from `log`.
pub fn compare(log: &[u8], copy: &[u8]) -> Result<(), Broken> {
    let whole = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = |bytes: &'_ [u8]| {
        bytes[..whole(bytes)].split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let (ours, theirs) = (lines(log), lines(copy));
    if let Some((number, _)) = (1..).zip(ours.iter().zip(&theirs)).find(|(_, (ours, theirs))| ours != theirs) {
        return broken(number, "the copy has another line there");
    }
    if theirs.len() > ours.len() {
        let what = format!("the tail was cut off: the copy has {} lines, the log ends at {}", theirs.len(), ours.len());
        return broken(ours.len() as u64 + 1, what);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
