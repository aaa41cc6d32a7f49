//! Space that is set aside for acknowledgements and receipts, in `reserve`: given back when something else has filled the
//! disk, taken again when there is room. Owns no admission: while it is out, the spool says that it has no room.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::{Files, Open, OpenFile};

/// The file's name.
pub(super) const NAME: &str = "reserve";
/// On a small disk it is no more than this part of it.
const PART: u64 = 16;
/// It is taken again when this many times its size is free, so that it does not come and go.
const ROOMY: u64 = 2;

pub(super) struct Reserve {
    on: Arc<dyn Files>,
    file: Arc<dyn OpenFile>,
    bytes: u64,
    held: AtomicBool,
}

impl Reserve {
    /// Sets aside up to so many bytes, or notes that it cannot.
    pub(super) fn open(on: Arc<dyn Files>, most_bytes: u64) -> io::Result<Self> {
        let file = on.open(NAME, Open::OrNew)?;
        let there = file.length()?;
        let bytes = most_bytes.min(on.space()?.total_bytes / PART);
        let reserve = Self { on, file, bytes, held: AtomicBool::new(bytes == there) };
        if bytes != there {
            reserve.file.set_len(0)?;
            reserve.take()?;
        }
        Ok(reserve)
    }

    fn take(&self) -> io::Result<()> {
        match self.file.allocate(0, self.bytes).and_then(|()| self.file.set_len(self.bytes)) {
            Ok(()) => {
                self.held.store(true, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(bytes = self.bytes, %error, "cannot set space aside for acknowledgements");
                self.file.set_len(0)
            }
        }
    }

    /// Whether the space is set aside.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Gives the space back; false when it was out already.
    pub(super) fn give_back(&self) -> io::Result<bool> {
        if !self.held.swap(false, Ordering::AcqRel) {
            return Ok(false);
        }
        tracing::error!(
            bytes = self.bytes,
            "the disk is full: the reserve for acknowledgements is in use; free disk space"
        );
        self.file.set_len(0)?;
        Ok(true)
    }

    /// Sets the space aside again when there is room.
    pub(super) fn take_again(&self) -> io::Result<()> {
        if self.is_held() || self.on.space()?.free_bytes < self.bytes * ROOMY {
            return Ok(());
        }
        self.take()?;
        if self.is_held() {
            tracing::info!(bytes = self.bytes, "there is room again: the reserve for acknowledgements is set aside");
        }
        Ok(())
    }
}
