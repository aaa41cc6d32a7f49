//! The seam under everything the spool writes: named files in one directory and its `packs` below.
//!
//! Owns no meaning. Names are relative, such as `spool.redb` or `packs/00000001.pack`. What was written is durable once
//! [`OpenFile::sync`] returned, a name once [`Files::sync_dir`] of its directory did; until then a power cut may keep or
//! lose any part of it. [`DirFiles`] is the disk's, [`super::FaultFiles`] fails on request.

use std::any::Any;
use std::fmt::Debug;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, FlockOperation};

/// Asked for at once: Linux reads no more for one question, where the disk says nothing else.
const AHEAD_BYTES: NonZeroU64 = NonZeroU64::new(128 << 10).unwrap();

/// What filesystems give out space in: those of Linux mostly in just this.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// What `stat` counts blocks in.
const STAT_BYTES: u64 = 512;

/// Which file an open finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// One that is there.
    Existing,
    /// One that is there, or a new one.
    OrNew,
    /// An empty one, whatever was there.
    Empty,
}

/// Where a spool keeps its files.
pub trait Files: Debug + Send + Sync + 'static {
    /// The directory, for people.
    fn path(&self) -> &Path;

    /// Opens a file to read and write it.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn OpenFile>>;

    /// Asks the system to have a file at hand that is about to be read whole, until `done`. A hint: it may do nothing, and
    /// fails nothing.
    fn read_ahead(&self, _name: &str, _done: &AtomicBool) {}

    /// The names in a directory: `""` or `"packs"`. In no order.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Removes a name. Who has the file open keeps it.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name in the same directory, in place of whatever has that.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Gives a file a second name in the same directory.
    ///
    /// # Errors
    /// The system's.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Takes the whole directory; it is free again when the answer is dropped. `None`: someone else has it.
    ///
    /// # Errors
    /// The system's.
    fn lock(&self) -> io::Result<Option<Lock>>;

    /// How large and how full the filesystem is.
    ///
    /// # Errors
    /// The system's.
    fn space(&self) -> io::Result<Space>;
}

/// The space of a filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for this user.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// Holds a directory until it is dropped.
pub type Lock = Box<dyn Any + Send + Sync>;

/// An open file. All positions are in bytes.
pub trait OpenFile: Debug + Send + Sync + 'static {
    /// Fills `out` from there on.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` when the file ends before.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of it, lengthening the file where needed. After an error any part may have been written.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file, or lengthens it with zeros that take no space yet.
    ///
    /// # Errors
    /// The system's.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// How long it is.
    ///
    /// # Errors
    /// The system's.
    fn length(&self) -> io::Result<u64>;

    /// Makes content and length durable.
    ///
    /// # Errors
    /// The system's. Nobody knows then what is durable, and to try again tells nothing.
    fn sync(&self) -> io::Result<()>;

    /// Takes space of the filesystem for that part; the length stays.
    ///
    /// # Errors
    /// The system's.
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Gives the space of that part back to the filesystem; it reads as zeros then, and the length stays. Both numbers are
    /// multiples of 4,096.
    ///
    /// # Errors
    /// The system's; some filesystems cannot.
    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// The space of the filesystem it takes, in bytes.
    ///
    /// # Errors
    /// The system's.
    fn taken(&self) -> io::Result<u64>;
}

/// The files of a directory on a disk.
#[derive(Debug)]
pub struct DirFiles {
    path: PathBuf,
}

impl DirFiles {
    /// The directory, made with mode 0700 when it is not there.
    ///
    /// # Errors
    /// The system's.
    pub fn new(path: &Path) -> io::Result<Self> {
        let packs = path.join("packs");
        DirBuilder::new().recursive(true).mode(0o700).create(&packs)?;
        if path.metadata()?.permissions().mode() & 0o777 != 0o700 {
            std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        Ok(Self { path: path.to_owned() })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Files for DirFiles {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn OpenFile>> {
        let mut options = File::options();
        options.read(true).write(true).create(how != Open::Existing).truncate(how == Open::Empty);
        Ok(Arc::new(DiskFile(options.open(self.at(name))?)))
    }

    fn read_ahead(&self, name: &str, done: &AtomicBool) {
        let Ok(file) = File::open(self.at(name)) else { return };
        let end = file.metadata().map_or(0, |metadata| metadata.len());
        for offset in (0..end).step_by(AHEAD_BYTES.get() as usize) {
            let asked = rustix::fs::fadvise(&file, offset, Some(AHEAD_BYTES), Advice::WillNeed);
            if asked.is_err() || done.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(self.at(dir))?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.at(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::hard_link(self.at(from), self.at(to))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.at(dir))?.sync_all()
    }

    fn lock(&self) -> io::Result<Option<Lock>> {
        let owner = File::options().create(true).truncate(false).write(true).open(self.at("lock"))?;
        match rustix::fs::flock(&owner, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            other => other.map(|()| Some(Box::new(owner) as Lock)).map_err(io::Error::from),
        }
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free_bytes: bytes(stat.f_bavail), total_bytes: bytes(stat.f_blocks) })
    }
}

#[derive(Debug)]
struct DiskFile(File);

impl OpenFile for DiskFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, offset, bytes)?)
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes)?)
    }

    fn taken(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.blocks() * STAT_BYTES)
    }
}
