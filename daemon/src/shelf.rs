//! The PKI bundle of this node: in memory, on disk, and in force for links and statements.
//!
//! Whatever changes it comes through [`Shelf::put`], so that trust follows at once and the file soon after. Losing the last
//! moments of the file costs nothing: neighbours bring them again at the next link. What this node's own CA made is
//! written before it is told to anyone ([`Shelf::save`]).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info, warn};
use tram_pki::bundle::{Bundle, ObjectError};
use tram_pki::keystore::KeyError;
use tram_proto::pki::{Item, Object, ObjectKey};

use crate::clock::Clock;
use crate::link::trust::NodeTrust;

/// Changes that come together are written together.
const TOGETHER: Duration = Duration::from_millis(200);

/// The bundle and what follows from it.
pub struct Shelf {
    pki: PathBuf,
    clock: Clock,
    trust: Arc<NodeTrust>,
    bundle: Mutex<Bundle>,
    /// Held while it is written.
    saving: Mutex<()>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

impl Shelf {
    /// Reads the bundle in `pki` and puts it in force.
    ///
    /// # Errors
    /// [`KeyError`] when the roots cannot be read.
    pub fn open(pki: &Path, trust: Arc<NodeTrust>, clock: Clock) -> Result<Arc<Self>, KeyError> {
        let (bundle, left_out) = Bundle::load(pki)?;
        for why in left_out {
            warn!(%why, "left out of the PKI bundle; neighbours bring it again");
        }
        let shelf = Self {
            pki: pki.to_owned(),
            clock,
            trust,
            bundle: Mutex::new(bundle),
            saving: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        shelf.enforce(&shelf.bundle());
        Ok(Arc::new(shelf))
    }

    fn bundle(&self) -> MutexGuard<'_, Bundle> {
        // Objects are taken whole or not at all.
        self.bundle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enforce(&self, bundle: &Bundle) {
        match bundle.trust() {
            Ok(trust) => self.trust.replace_trust(trust),
            Err(why) => error!(%why, "the PKI bundle cannot be put in force"),
        }
    }

    /// Looks at it.
    pub fn with<T>(&self, look: impl FnOnce(&Bundle) -> T) -> T {
        look(&self.bundle())
    }

    /// Changes it, and puts it in force when `change` says that it did.
    pub fn change<T>(&self, change: impl FnOnce(&mut Bundle) -> (T, bool)) -> T {
        let mut bundle = self.bundle();
        let (out, changed) = change(&mut bundle);
        if changed {
            self.enforce(&bundle);
            drop(bundle);
            self.changed.send_modify(|count| *count += 1);
        }
        out
    }

    /// Takes an object; answers whether it was new.
    ///
    /// # Errors
    /// [`ObjectError`]; what was held is kept.
    pub fn put(&self, object: &Object) -> Result<bool, ObjectError> {
        let now_ms = self.clock.wall_ms();
        let taken = self.change(|bundle| {
            let taken = bundle.take(object, now_ms);
            let changed = taken == Ok(true);
            (taken, changed)
        });
        if taken == Ok(true) {
            match object.item.key {
                ObjectKey::Roots => info!(version = object.item.version, "a new list of roots is in force"),
                ObjectKey::Authority(_) => info!("the certificate of a CA has come"),
                ObjectKey::Handover(_) => info!("a province that began alone is under one root with all others"),
                ObjectKey::Crl(_) | ObjectKey::Notice(_) => {}
            }
        }
        taken
    }

    /// All that is held.
    #[must_use]
    pub fn have(&self) -> Vec<Item> {
        self.bundle().have()
    }

    /// One object as it stands.
    #[must_use]
    pub fn object(&self, key: ObjectKey) -> Option<Object> {
        self.bundle().object(key)
    }

    /// Counts its changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Writes it down. Blocks on the disk.
    ///
    /// # Errors
    /// [`KeyError`]; what was there stays.
    pub fn save(&self) -> Result<(), KeyError> {
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = self.bundle().clone();
        bundle.save(&self.pki)
    }

    /// Writes changes down, and forgets CAs that expired long ago, for as long as the node runs.
    pub async fn keep(self: Arc<Self>) {
        let mut changes = self.changes();
        loop {
            if changes.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(TOGETHER).await;
            changes.mark_unchanged();
            let of = self.clone();
            let now_ms = self.clock.wall_ms();
            let saved = tokio::task::spawn_blocking(move || {
                of.change(|bundle| ((), bundle.prune(now_ms)));
                of.save()
            });
            if let Ok(Err(why)) = saved.await {
                warn!(%why, "the PKI bundle cannot be written; neighbours bring it again after a restart");
            }
        }
    }
}
