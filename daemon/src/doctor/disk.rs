//! The spool's disk: room, the time of a fsync, holes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::{Area, Chart, Finding, Language};
use crate::clock::Clock;
use crate::config::Config;
use crate::spool::{DiskOptions, LOW_ROOM_BYTES};

/// The file that is written, synced and removed.
const FILE: &str = ".doctor";
const FILE_BYTES: usize = 64 * 1024;
/// So many fsyncs are measured; the one in the middle counts.
const SYNCS: usize = 5;
/// A disk that takes longer is failing or overloaded, in milliseconds. A slow office disk takes 10 to 30.
const SLOW_MS: u64 = 250;

/// What the config says of room, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most the spool takes, if there is a limit.
    pub(super) max_bytes: Option<u64>,
    /// What stays free.
    pub(super) keep_free_bytes: u64,
}

impl Limits {
    pub(super) fn of(config: Option<&Config>) -> Self {
        let spool = config.map(|config| config.spool.clone()).unwrap_or_default();
        let keep_free = spool.keep_free.map(|size| size.as_u64());
        Self {
            max_bytes: spool.max.map(|size| size.as_u64()),
            keep_free_bytes: keep_free.unwrap_or(DiskOptions::default().keep_free_bytes),
        }
    }
}

/// What was measured of a disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) fsync_ms: u64,
    pub(super) holes: bool,
}

pub(super) fn look(spool: &Path, limits: Limits, clock: Clock, chart: &mut Chart) {
    // The daemon makes it at its first start.
    let dir = if spool.exists() { spool } else { spool.parent().unwrap_or(spool) };
    match measure(dir, clock) {
        Ok(measured) => judge(dir, limits, measured, chart),
        Err(why) => chart.add(Finding::DiskRefuses(dir.to_owned(), why.to_string())),
    }
}

pub(super) fn judge(dir: &Path, limits: Limits, measured: Measured, chart: &mut Chart) {
    let Measured { free_bytes, total_bytes, fsync_ms, holes } = measured;
    let wanted = limits.keep_free_bytes.saturating_add(LOW_ROOM_BYTES);
    if free_bytes < wanted {
        chart.add(Finding::DiskLow(dir.to_owned(), free_bytes, wanted));
    }
    if let Some(max) = limits.max_bytes.filter(|max| *max > total_bytes) {
        chart.add(Finding::DiskSmall(dir.to_owned(), max, total_bytes));
    }
    if fsync_ms > SLOW_MS {
        chart.add(Finding::DiskSlow(dir.to_owned(), fsync_ms));
    }
    if !holes {
        chart.add(Finding::NoHoles(dir.to_owned()));
    }
    let free = bytesize::ByteSize(free_bytes);
    let text = match chart.language {
        Language::English => format!("{free} free, fsync {fsync_ms} ms"),
        Language::Vietnamese => format!("còn trống {free}, fsync {fsync_ms} ms"),
    };
    chart.measured(Area::Disk, text);
}

/// Removes the file when it goes, also after an error.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        // What stays behind is overwritten by the next doctor.
        let _ = std::fs::remove_file(self.0);
    }
}

fn measure(dir: &Path, clock: Clock) -> io::Result<Measured> {
    let room = statvfs(dir)?;
    let path = dir.join(FILE);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    let _removed = Removed(&path);
    let (mut times, block) = (Vec::new(), vec![0x5a; FILE_BYTES]);
    for _ in 0..SYNCS {
        (&file).write_all(&block)?;
        let begin = clock.mono_ms();
        file.sync_data()?;
        times.push(clock.mono_ms() - begin);
    }
    times.sort_unstable();
    Ok(Measured {
        free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        total_bytes: room.f_blocks.saturating_mul(room.f_frsize),
        fsync_ms: times.get(SYNCS / 2).copied().unwrap_or(0),
        holes: has_holes(&file)?,
    })
}

fn has_holes(file: &File) -> io::Result<bool> {
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, FILE_BYTES as u64) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
