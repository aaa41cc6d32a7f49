//! A simulated node's disk: the spool in memory, or the real one over a disk that fails on request.

use std::sync::Arc;

use tramd::spool::{DiskOptions, DiskSpool, FaultFiles, MemorySpool, Spool, SpoolError};

/// How long a payload without a reference is kept here, in milliseconds.
pub(super) const GRACE_MS: u64 = 60_000;

/// What a node keeps its spool on.
#[derive(Clone)]
pub enum Disk {
    /// Nothing but memory: fast, and never at fault.
    Memory(MemorySpool),
    /// The real spool over a modelled disk.
    Files(FaultFiles),
}

impl Disk {
    /// An empty one of the same kind.
    #[must_use]
    pub fn another(&self) -> Self {
        match self {
            Self::Memory(_) => Self::memory(),
            Self::Files(_) => Self::files(),
        }
    }

    /// An empty one in memory.
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory(MemorySpool::new(u64::MAX, GRACE_MS))
    }

    /// An empty one of modelled files.
    #[must_use]
    pub fn files() -> Self {
        Self::Files(FaultFiles::new())
    }

    /// The modelled disk, if it is one.
    #[must_use]
    pub const fn faults(&self) -> Option<&FaultFiles> {
        match self {
            Self::Memory(_) => None,
            Self::Files(files) => Some(files),
        }
    }

    pub(super) fn open(&self) -> Result<Arc<dyn Spool>, SpoolError> {
        Ok(match self {
            Self::Memory(spool) => Arc::new(spool.clone()),
            Self::Files(files) => {
                let options = DiskOptions {
                    keep_free_bytes: 0,
                    cache_bytes: 1 << 20,
                    pack_bytes: 4 << 20,
                    grace_ms: GRACE_MS,
                    inline_sync: true,
                    ..DiskOptions::default()
                };
                Arc::new(DiskSpool::open_on(Arc::new(files.clone()), options)?)
            }
        })
    }

    /// The power goes and comes back: what was not synced is there or not, by chance.
    pub(super) fn lose_power(&mut self, seed: u64) {
        if let Self::Files(files) = self {
            files.cut();
            *files = files.after_power_cut(seed);
        }
    }
}
