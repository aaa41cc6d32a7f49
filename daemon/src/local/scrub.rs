//! Reads every payload of the spool over, and tells the core what the disk lost. One at a time; ends with the call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tonic::Status;
use tram_proto::id::Digest;
use tram_proto::local::{DamageView, ScrubAnswer};
use tram_proto::manifest::Layout;
use tram_relay::input::Input;

use super::{Door, blocking, refusal};
use crate::spool::Damage;

/// Whether one is running.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<AtomicBool>);

/// Ends the work of a call that is gone.
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) async fn scrub(door: Door, running: Running, stopped: watch::Receiver<bool>) -> Result<ScrubAnswer, Status> {
    if running.0.swap(true, Ordering::Relaxed) {
        return Err(refusal::scrubbing());
    }
    let gone = Arc::<AtomicBool>::default();
    let _caller = Caller(gone.clone());
    // What was found so far is told to the core also when nobody waits for the answer any more.
    let work = tokio::spawn(async move {
        let go_on = move || !gone.load(Ordering::Relaxed) && !*stopped.borrow();
        let answer = read_over(&door, go_on).await;
        running.0.store(false, Ordering::Relaxed);
        answer
    });
    work.await.map_err(refusal::broken)?
}

async fn read_over(door: &Door, go_on: impl Fn() -> bool + Send + 'static) -> Result<ScrubAnswer, Status> {
    let spool = door.spool.clone();
    let found = blocking(move || Ok(spool.scrub(&mut |_| go_on())?)).await?;
    let mut payloads: BTreeMap<Digest, (Layout, u64)> = BTreeMap::new();
    for Damage { root, layout, unit } in found.damaged {
        payloads.entry(root).or_insert((layout, 0)).1 += layout.run_bytes(unit, 1);
    }
    let mut damaged = Vec::new();
    for (root, (layout, bytes)) in payloads {
        let spool = door.spool.clone();
        let held = blocking(move || Ok(spool.held(root, layout)?)).await?;
        door.engine.input(Input::UnitsLost { root, held }).await.map_err(|_| refusal::stopping())?;
        damaged.push(DamageView { payload: root.to_string(), bytes });
    }
    Ok(ScrubAnswer { chunks: found.chunks, bytes: found.bytes, damaged })
}
