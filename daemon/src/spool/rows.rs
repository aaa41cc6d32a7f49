//! The redb file, `spool.redb`: rows and indexes.
//!
//! Owns transactions, and opening the file again in place after a write met a full disk: redb refuses everything from then
//! on, while nothing is wrong with what is durable. Any other failed write, and every failed sync, stays: nobody knows
//! then what the disk holds. `research/storage.md` §2f.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase};

use super::files::{Files, Open, OpenFile};
use super::tables::{Fault, Tables};

/// The file's name.
pub(super) const NAME: &str = "spool.redb";
/// The same, as long as a power cut could leave it half made.
const NEW: &str = "spool.redb.new";
/// How often a read that another's full disk broke off is begun again.
const TRIES: usize = 3;

/// Before the number of a damaged one.
const DAMAGED: &str = "spool.redb.damaged-";

/// Whether no space is left for what failed.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether what failed says that the content is wrong, not that the disk is.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof)
}

/// What went wrong with an open file; redb itself only remembers that something did.
#[derive(Debug, Default)]
struct Health {
    full: AtomicBool,
    broken: AtomicBool,
}

impl Health {
    fn note(&self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            let what = if is_full(error) { &self.full } else { &self.broken };
            what.store(true, Ordering::Release);
        }
        result
    }

    /// Whether this fault, and whatever came before it, is a full disk and no more.
    fn is_full(&self, fault: &Fault) -> bool {
        let by_full = match fault {
            Fault::Store(redb::Error::Io(error)) => is_full(error),
            Fault::Store(redb::Error::PreviousIo) => self.full.load(Ordering::Acquire),
            _ => false,
        };
        by_full && !self.broken.load(Ordering::Acquire)
    }
}

/// A file as redb sees it. The directory's lock stands for redb's own.
#[derive(Debug)]
struct Backend {
    file: Arc<dyn OpenFile>,
    health: Arc<Health>,
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(out, offset).inspect_err(|_| self.health.broken.store(true, Ordering::Release))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.health.note(self.file.set_len(bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync().inspect_err(|_| self.health.broken.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.health.note(self.file.write_at(bytes, offset))
    }
}

struct Opened {
    /// `None`: it could not be opened again for want of space; the next call tries.
    db: Option<Database>,
    health: Arc<Health>,
    /// Counts the openings.
    turn: u64,
}

/// The open file.
pub(super) struct Rows {
    on: Arc<dyn Files>,
    cache_bytes: usize,
    opened: RwLock<Opened>,
}

fn open(on: &dyn Files, name: &str, how: Open, cache_bytes: usize) -> Result<(Database, Arc<Health>), Fault> {
    let health = Arc::new(Health::default());
    let backend = Backend { file: on.open(name, how)?, health: Arc::clone(&health) };
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
    let done = AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        // The check goes through the file by keys, which lie where they lie; a disk likes it from the beginning to the end.
        let ahead = std::thread::Builder::new().name("read-ahead".into());
        let ahead = ahead.spawn_scoped(scope, || on.read_ahead(name, &done));
        let opened = builder.create_with_backend(backend);
        done.store(true, Ordering::Relaxed);
        drop(ahead);
        opened
    });
    match opened.map_err(Fault::from) {
        Ok(db) => Ok((db, health)),
        Err(fault) if health.is_full(&fault) => Err(Fault::Full),
        Err(fault) => Err(fault),
    }
}

fn transaction<T>(db: &Database, change: &mut dyn FnMut(&mut Tables<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_two_phase_commit(true);
    let out = {
        let mut tables = Tables::open(&txn)?;
        change(&mut tables)?
    };
    txn.commit()?;
    Ok(out)
}

impl Rows {
    /// Whether there is a file.
    pub(super) fn there(on: &dyn Files) -> io::Result<bool> {
        Ok(on.list("")?.iter().any(|name| name == NAME))
    }

    /// Opens the file that is there. [`Fault::Damaged`] when it is no file of redb's any more.
    pub(super) fn open(on: Arc<dyn Files>, cache_bytes: usize) -> Result<Self, Fault> {
        // What is damaged in some places makes redb panic.
        let opening = AssertUnwindSafe(|| open(on.as_ref(), NAME, Open::Existing, cache_bytes));
        let (db, health) = match catch_unwind(opening) {
            Ok(Err(Fault::Store(redb::Error::Corrupted(why)))) => return Err(Fault::Damaged(why)),
            Ok(Err(Fault::Store(redb::Error::Io(error)))) if is_damage(&error) => {
                return Err(Fault::Damaged(error.to_string()));
            }
            Ok(opened) => opened?,
            Err(_) => return Err(Fault::Damaged("it makes no sense".into())),
        };
        Ok(Self { on, cache_bytes, opened: RwLock::new(Opened { db: Some(db), health, turn: 0 }) })
    }

    /// Keeps a damaged file under another name, as evidence, before a new one takes its own; answers that name.
    pub(super) fn keep(on: &dyn Files) -> io::Result<String> {
        let number = |name: &String| name.strip_prefix(DAMAGED).and_then(|number| number.parse::<u32>().ok());
        let last = on.list("")?.iter().filter_map(number).max().unwrap_or(0);
        let to = format!("{DAMAGED}{}", last + 1);
        on.link(NAME, &to)?;
        on.sync_dir("")?;
        Ok(to)
    }

    /// Makes a new one. It takes the name when its first transaction is durable: before, nothing could open it.
    pub(super) fn create(
        on: Arc<dyn Files>,
        cache_bytes: usize,
        first: &mut dyn FnMut(&mut Tables<'_>) -> Result<(), Fault>,
    ) -> Result<Self, Fault> {
        let (db, health) = open(on.as_ref(), NEW, Open::Empty, cache_bytes)?;
        transaction(&db, first)?;
        on.rename(NEW, NAME)?;
        on.sync_dir("")?;
        Ok(Self { on, cache_bytes, opened: RwLock::new(Opened { db: Some(db), health, turn: 0 }) })
    }

    /// Looks at what is durable.
    pub(super) fn read<T>(&self, look: &mut dyn FnMut(&ReadTransaction) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut result = Err(Fault::Full);
        for _ in 0..TRIES {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(db) = &opened.db {
                result = db.begin_read().map_err(Fault::from).and_then(|txn| look(&txn));
                if !result.as_ref().is_err_and(|fault| opened.health.is_full(fault)) {
                    return result;
                }
            }
            let turn = opened.turn;
            drop(opened);
            self.reopen(turn)?;
        }
        result
    }

    /// Runs one durable transaction. [`Fault::Full`]: it is rolled back, and the disk is full.
    pub(super) fn write<T>(&self, change: &mut dyn FnMut(&mut Tables<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let result = opened.db.as_ref().map_or(Err(Fault::Full), |db| match transaction(db, change) {
            Err(fault) if opened.health.is_full(&fault) => Err(Fault::Full),
            result => result,
        });
        if let Err(Fault::Full) = result {
            let turn = opened.turn;
            drop(opened);
            self.reopen(turn)?;
        }
        result
    }

    fn reopen(&self, turn: u64) -> Result<(), Fault> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.turn != turn {
            return Ok(());
        }
        opened.turn += 1;
        opened.db = None;
        let (db, health) = open(self.on.as_ref(), NAME, Open::Existing, self.cache_bytes)?;
        (opened.db, opened.health) = (Some(db), health);
        Ok(())
    }
}
