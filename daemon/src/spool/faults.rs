//! Files in memory that fail on request: the disk of the simulator and of the power-cut tests.
//!
//! Owns a model of what a disk may do: between two syncs every 512-byte sector, every length and every name is kept or
//! lost on its own, so writes are torn and reordered; a sync that fails leaves some of it lost for good though reads still
//! show it. Deterministic: the same calls and seeds give the same disk. Cheap: contents are sparse and shared between a
//! disk and what a power cut leaves of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::files::{BLOCK_BYTES, Files, Lock, Open, OpenFile, Space};
use super::packs::lock;

const BLOCK: usize = BLOCK_BYTES as usize;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A disk without a limit says that it is so large: more than anyone fills, and sums of it do not overflow.
const UNLIMITED_BYTES: u64 = 1 << 50;

type Block = Arc<[u8; BLOCK]>;

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Reading a file.
    Read,
    /// Writing a file or changing its length.
    Write,
    /// Syncing a file or directory.
    Sync,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct FaultFiles {
    disk: Arc<Mutex<Disk>>,
}

impl fmt::Debug for FaultFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultFiles").finish_non_exhaustive()
    }
}

/// A generator of numbers that are random enough (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A coin that falls on "kept" so often of 100; drawn anew for each file, so that also whole files are lost or kept.
    fn bias(&mut self) -> u64 {
        [0, 10, 50, 90, 100][self.below(5) as usize]
    }
}

#[derive(Clone)]
enum Change {
    Length(u64),
    /// These sectors of the block became what they are here.
    Block(u64, Block, Range<usize>),
    /// The block was given back.
    Hole(u64),
}

#[derive(Default, Clone)]
struct Body {
    length: u64,
    blocks: BTreeMap<u64, Block>,
    /// Space that is taken up to here, written or not, but for the blocks that were given back.
    allocated: u64,
    holes: BTreeSet<u64>,
    /// What is durable of the blocks changed since; of all others it is what is read.
    durable: BTreeMap<u64, Option<Block>>,
    durable_length: u64,
    durable_allocated: u64,
    /// Changes since the last sync, in order.
    changes: Vec<Change>,
    /// A sync has failed: what is read and what is durable differ for good.
    split: bool,
    handles: u64,
}

impl Body {
    fn taken_bytes(&self) -> u64 {
        let given_back = (self.holes.len() * BLOCK) as u64;
        self.allocated.saturating_sub(given_back).max((self.blocks.len() * BLOCK) as u64)
    }

    fn keep_durable(&mut self, number: u64) {
        let (blocks, durable) = (&self.blocks, &mut self.durable);
        durable.entry(number).or_insert_with(|| blocks.get(&number).cloned());
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            let last = length / BLOCK as u64;
            let cut: Vec<u64> = self.blocks.range(last..).map(|(number, _)| *number).collect();
            cut.iter().for_each(|number| self.keep_durable(*number));
            cut_blocks(&mut self.blocks, length);
            self.allocated = self.allocated.min(length);
            drop(self.holes.split_off(&length.div_ceil(BLOCK as u64)));
        }
        self.length = length;
        self.changes.push(Change::Length(length));
    }

    /// Gives a block back.
    fn punch(&mut self, number: u64) {
        self.keep_durable(number);
        self.blocks.remove(&number);
        if (number * BLOCK as u64) < self.allocated {
            self.holes.insert(number);
        }
        self.changes.push(Change::Hole(number));
    }

    /// Writes a part of one block.
    fn write(&mut self, number: u64, begin: usize, bytes: &[u8]) {
        self.keep_durable(number);
        self.holes.remove(&number);
        let end = begin + bytes.len();
        let block = self.blocks.entry(number).or_insert_with(|| Arc::new([0; BLOCK]));
        Arc::make_mut(block)[begin..end].copy_from_slice(bytes);
        self.changes.push(Change::Block(number, Arc::clone(block), begin / SECTOR..end.div_ceil(SECTOR)));
    }

    /// Lets every change since the last sync reach the disk in part, as `kept` says each time.
    fn settle(&mut self, kept: &mut dyn FnMut() -> bool) {
        for change in std::mem::take(&mut self.changes) {
            match change {
                Change::Length(length) if kept() => {
                    self.durable_length = length;
                    for (number, block) in self.durable.range_mut(length / BLOCK as u64..) {
                        cut_block(*number, block, length);
                    }
                }
                Change::Hole(number) if kept() => drop(self.durable.insert(number, None)),
                Change::Length(_) | Change::Hole(_) => {}
                Change::Block(number, after, sectors) => {
                    for sector in sectors {
                        let (from, to) = (sector * SECTOR, (sector + 1) * SECTOR);
                        if kept() && number * BLOCK as u64 + (from as u64) < self.durable_length {
                            let block = self.durable.entry(number).or_default();
                            let block = block.get_or_insert_with(|| Arc::new([0; BLOCK]));
                            Arc::make_mut(block)[from..to].copy_from_slice(&after[from..to]);
                        }
                    }
                }
            }
        }
    }

    fn sync(&mut self) {
        if self.split {
            self.settle(&mut || true);
        } else {
            self.changes.clear();
            self.durable.clear();
            self.durable_length = self.length;
        }
        self.durable_allocated = self.allocated;
    }

    /// The file as it is after the power was cut.
    fn left_over(&self, dice: &mut Dice) -> Self {
        let mut of = self.clone();
        let bias = dice.bias();
        of.settle(&mut || dice.below(100) < bias);
        for (number, block) in std::mem::take(&mut of.durable) {
            match block {
                Some(block) => drop(of.blocks.insert(number, block)),
                None => drop(of.blocks.remove(&number)),
            }
        }
        let (length, allocated) = (of.durable_length, of.durable_allocated);
        cut_blocks(&mut of.blocks, length);
        let blocks = of.blocks;
        let is_hole = |number: &u64| number * (BLOCK as u64) < allocated && !blocks.contains_key(number);
        let holes = of.holes.into_iter().filter(is_hole).collect();
        Self {
            length,
            blocks,
            allocated,
            holes,
            durable_length: length,
            durable_allocated: allocated,
            ..Self::default()
        }
    }
}

fn cut_blocks(blocks: &mut BTreeMap<u64, Block>, length: u64) {
    drop(blocks.split_off(&length.div_ceil(BLOCK as u64)));
    let last = length / BLOCK as u64;
    if let Some(block) = blocks.get_mut(&last) {
        Arc::make_mut(block)[(length % BLOCK as u64) as usize..].fill(0);
    }
}

fn cut_block(number: u64, block: &mut Option<Block>, length: u64) {
    let begin = number * BLOCK as u64;
    if begin >= length {
        *block = None;
    } else if let Some(block) = block {
        Arc::make_mut(block)[((length - begin) as usize).min(BLOCK)..].fill(0);
    }
}

#[derive(Clone)]
enum Rename {
    Link(String, u64),
    Unlink(String),
    Move(String, String),
}

impl Rename {
    fn dir(&self) -> &str {
        let (Self::Link(name, _) | Self::Unlink(name) | Self::Move(name, _)) = self;
        name.rsplit_once('/').map_or("", |(dir, _)| dir)
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Link(name, body) => drop(names.insert(name.clone(), *body)),
            Self::Unlink(name) => drop(names.remove(name)),
            Self::Move(from, to) => {
                if let Some(body) = names.remove(from) {
                    names.insert(to.clone(), body);
                }
            }
        }
    }
}

#[derive(Default)]
struct Disk {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since their directory was synced, in order.
    renames: Vec<Rename>,
    bodies: BTreeMap<u64, Body>,
    next_body: u64,
    capacity: Option<u64>,
    operations: u64,
    cut_at: Option<u64>,
    cut: bool,
    read_only: bool,
    faults: BTreeMap<Access, u64>,
    locked: bool,
}

impl Disk {
    fn taken_bytes(&self) -> u64 {
        self.names.values().filter_map(|body| self.bodies.get(body)).map(Body::taken_bytes).sum()
    }

    /// Whether a file may come to take so many bytes.
    fn afford(&self, body: &Body, bytes: u64) -> io::Result<()> {
        let more = bytes.saturating_sub(body.taken_bytes());
        match self.capacity {
            Some(capacity) if more > 0 && self.taken_bytes() + more > capacity => Err(rustix::io::Errno::NOSPC.into()),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, access: Access) -> io::Result<()> {
        match self.faults.get_mut(&access) {
            Some(0) => {
                self.faults.remove(&access);
                Err(rustix::io::Errno::IO.into())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn rename(&mut self, change: Rename) {
        change.apply(&mut self.names);
        self.renames.push(change);
        self.forget_bodies();
    }

    /// Lets go of contents that nothing can reach any more.
    fn forget_bodies(&mut self) {
        let renamed = self.renames.iter().filter_map(|r| if let Rename::Link(_, body) = r { Some(body) } else { None });
        let reached: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).chain(renamed).copied().collect();
        self.bodies.retain(|number, body| body.handles > 0 || reached.contains(number));
    }
}

fn no_power() -> io::Error {
    io::Error::other("the power is cut")
}

fn gone() -> io::Error {
    rustix::io::Errno::NOENT.into()
}

impl Default for FaultFiles {
    fn default() -> Self {
        Self::new()
    }
}

impl FaultFiles {
    /// An empty disk without faults or limits.
    #[must_use]
    pub fn new() -> Self {
        Self { disk: Arc::default() }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    /// How many operations have changed or synced something.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Cuts the power during that operation, counted as [`Self::operations`] counts: it may be done in part, and it and
    /// everything after it fails.
    pub fn cut_at(&self, operation: u64) {
        self.disk().cut_at = Some(operation);
    }

    /// Cuts the power now.
    pub fn cut(&self) {
        self.disk().cut = true;
    }

    /// Whether the power is cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.disk().cut
    }

    /// A new disk with what a power cut now would leave of this one.
    #[must_use]
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let disk = self.disk();
        let mut dice = Dice(seed);
        let mut names = disk.durable_names.clone();
        let bias = dice.bias();
        for rename in &disk.renames {
            if dice.below(100) < bias {
                rename.apply(&mut names);
            }
        }
        let empty = Body::default();
        let mut bodies = BTreeMap::new();
        for number in names.values() {
            let body = disk.bodies.get(number).unwrap_or(&empty);
            bodies.entry(*number).or_insert_with(|| body.left_over(&mut dice));
        }
        let (next_body, capacity) = (disk.next_body, disk.capacity);
        let left = Disk { durable_names: names.clone(), names, bodies, next_body, capacity, ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(left)) }
    }

    /// Gives the disk so many bytes, or no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// Bytes that files take.
    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        self.disk().taken_bytes()
    }

    /// Lets nothing be changed any more, or again.
    pub fn set_read_only(&self, read_only: bool) {
        self.disk().read_only = read_only;
    }

    /// Lets an access of that kind fail with EIO, once, after so many more have succeeded.
    pub fn fail(&self, access: Access, after: u64) {
        self.disk().faults.insert(access, after);
    }

    /// Flips one bit at a random place of synced content in files whose name begins so; answers where, if there is any.
    pub fn flip(&self, seed: u64, prefix: &str) -> Option<(String, u64)> {
        let mut disk = self.disk();
        let mut dice = Dice(seed);
        let names: Vec<(String, u64)> =
            disk.names.iter().filter(|(n, _)| n.starts_with(prefix)).map(|(n, b)| (n.clone(), *b)).collect();
        let mut places = Vec::new();
        for (name, number) in names {
            let body = disk.bodies.get(&number)?;
            let synced = body.blocks.keys().filter(|block| !body.durable.contains_key(block));
            places.extend(synced.map(|block| (name.clone(), number, *block)));
        }
        let (name, number, block) = places.get(dice.below(places.len() as u64) as usize)?.clone();
        let body = disk.bodies.get_mut(&number)?;
        let begin = block * BLOCK as u64;
        let at = dice.below((body.length.saturating_sub(begin)).min(BLOCK as u64));
        let content = body.blocks.get_mut(&block)?;
        Arc::make_mut(content)[at as usize] ^= 1 << dice.below(8);
        Some((name, begin + at))
    }

    /// Does something that changes the disk, or does it in part while the power goes.
    fn change<T>(&self, access: Access, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk();
        if disk.cut {
            return Err(no_power());
        }
        if disk.read_only {
            return Err(rustix::io::Errno::ROFS.into());
        }
        disk.operations += 1;
        if disk.cut_at == Some(disk.operations) {
            disk.cut = true;
            if access == Access::Write {
                drop(act(&mut disk));
            }
            return Err(no_power());
        }
        disk.fail(access)?;
        act(&mut disk)
    }

    fn look<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk();
        if disk.cut { Err(no_power()) } else { act(&mut disk) }
    }
}

impl Files for FaultFiles {
    fn path(&self) -> &Path {
        Path::new("(a disk in memory)")
    }

    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn OpenFile>> {
        let found = self.look(|disk| Ok(disk.names.get(name).copied()))?;
        let body = match found {
            Some(body) => body,
            None if how == Open::Existing => return Err(gone()),
            None => self.change(Access::Write, |disk| {
                disk.next_body += 1;
                let body = disk.next_body;
                disk.bodies.insert(body, Body::default());
                disk.rename(Rename::Link(name.to_owned(), body));
                Ok(body)
            })?,
        };
        self.look(|disk| disk.bodies.get_mut(&body).map(|b| b.handles += 1).ok_or_else(gone))?;
        let file = Arc::new(FaultFile { files: self.clone(), body });
        if how == Open::Empty && found.is_some() {
            file.set_len(0)?;
        }
        Ok(file)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.look(|disk| {
            let split = |name: &str| {
                name.rsplit_once('/').map_or((String::new(), name.to_owned()), |(d, n)| (d.into(), n.into()))
            };
            Ok(disk.names.keys().map(|name| split(name)).filter(|(of, _)| of == dir).map(|(_, name)| name).collect())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.look(|disk| if disk.names.contains_key(name) { Ok(()) } else { Err(gone()) })?;
        self.change(Access::Write, |disk| {
            disk.rename(Rename::Unlink(name.to_owned()));
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.look(|disk| if disk.names.contains_key(from) { Ok(()) } else { Err(gone()) })?;
        self.change(Access::Write, |disk| {
            disk.rename(Rename::Move(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let body = self.look(|disk| disk.names.get(from).copied().ok_or_else(gone))?;
        self.change(Access::Write, |disk| {
            disk.rename(Rename::Link(to.to_owned(), body));
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.change(Access::Sync, |disk| {
            let (synced, rest) = std::mem::take(&mut disk.renames).into_iter().partition(|r| r.dir() == dir);
            disk.renames = rest;
            let synced: Vec<Rename> = synced;
            synced.iter().for_each(|rename| rename.apply(&mut disk.durable_names));
            disk.forget_bodies();
            Ok(())
        })
    }

    fn lock(&self) -> io::Result<Option<Lock>> {
        self.look(|disk| {
            if disk.read_only {
                return Err(rustix::io::Errno::ROFS.into());
            }
            if std::mem::replace(&mut disk.locked, true) {
                return Ok(None);
            }
            Ok(Some(Box::new(Owner(self.clone())) as Lock))
        })
    }

    fn space(&self) -> io::Result<Space> {
        self.look(|disk| {
            let total_bytes = disk.capacity.unwrap_or(UNLIMITED_BYTES);
            Ok(Space { free_bytes: total_bytes.saturating_sub(disk.taken_bytes()), total_bytes })
        })
    }
}

struct Owner(FaultFiles);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.disk().locked = false;
    }
}

#[derive(Debug)]
struct FaultFile {
    files: FaultFiles,
    body: u64,
}

impl Drop for FaultFile {
    fn drop(&mut self) {
        let mut disk = self.files.disk();
        if let Some(body) = disk.bodies.get_mut(&self.body) {
            body.handles -= 1;
            if body.handles == 0 {
                disk.forget_bodies();
            }
        }
    }
}

impl FaultFile {
    fn of<'d>(&self, disk: &'d mut Disk) -> io::Result<&'d mut Body> {
        disk.bodies.get_mut(&self.body).ok_or_else(gone)
    }
}

/// The parts of blocks that a range of bytes covers: block, where in it, where in the range.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let begin = (at % BLOCK as u64) as usize;
        let count = (BLOCK - begin).min(length - done);
        let part = (at / BLOCK as u64, begin, done..done + count);
        done += count;
        (count > 0).then_some(part)
    })
}

impl OpenFile for FaultFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.files.look(|disk| {
            disk.fail(Access::Read)?;
            let body = self.of(disk)?;
            if offset + out.len() as u64 > body.length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (number, begin, range) in parts(offset, out.len()) {
                let end = begin + range.len();
                match body.blocks.get(&number) {
                    Some(block) => out[range].copy_from_slice(&block[begin..end]),
                    None => out[range].fill(0),
                }
            }
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.files.change(Access::Write, |disk| {
            for (number, begin, range) in parts(offset, bytes.len()) {
                let body = disk.bodies.get(&self.body).ok_or_else(gone)?;
                if disk.capacity.is_some() && !body.blocks.contains_key(&number) {
                    disk.afford(body, ((body.blocks.len() + 1) * BLOCK) as u64)?;
                }
                let body = self.of(disk)?;
                let end = offset + range.end as u64;
                if end > body.length {
                    body.set_length(end);
                }
                body.write(number, begin, &bytes[range]);
            }
            Ok(())
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.files.change(Access::Write, |disk| {
            self.of(disk)?.set_length(bytes);
            Ok(())
        })
    }

    fn length(&self) -> io::Result<u64> {
        self.files.look(|disk| Ok(self.of(disk)?.length))
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.files.change(Access::Sync, |disk| {
            self.of(disk)?.sync();
            Ok(())
        });
        if synced.is_err() && !self.files.is_cut() {
            let mut disk = self.files.disk();
            let mut dice = Dice(disk.operations);
            let body = self.of(&mut disk)?;
            body.settle(&mut || dice.below(2) == 0);
            body.split = true;
        }
        synced
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.files.change(Access::Write, |disk| {
            let body = disk.bodies.get(&self.body).ok_or_else(gone)?;
            disk.afford(body, offset + bytes)?;
            let body = self.of(disk)?;
            body.allocated = body.allocated.max(offset + bytes);
            Ok(())
        })
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.files.change(Access::Write, |disk| {
            let body = self.of(disk)?;
            let blocks = offset / BLOCK_BYTES..(offset + bytes) / BLOCK_BYTES;
            blocks.for_each(|number| body.punch(number));
            Ok(())
        })
    }

    fn taken(&self) -> io::Result<u64> {
        self.files.look(|disk| Ok(self.of(disk)?.taken_bytes()))
    }
}
