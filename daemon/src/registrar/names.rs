//! Former names of nodes, as the bundle has them: told to the core, and to the links of this node those of its own.
//!
//! At every node, not only where a CA is: mail to a former name is for whoever bore it, and receipts of a renamed node
//! are believed by what a CA has signed and by nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tram_proto::id::NodeId;
use tram_proto::name::NodeName;
use tram_proto::pki::Alias;
use tram_relay::Input;
use tram_relay::input::Aliases;

use crate::clock::Clock;
use crate::engine::handle::{EngineHandle, Stopped};
use crate::link::Here;
use crate::shelf::Shelf;

/// Looked at this often whatever happens: clocks jump, machines sleep.
const LOOK: Duration = Duration::from_secs(600);

/// Keeps the core and the links current.
pub struct Names {
    shelf: Arc<Shelf>,
    here: Arc<Here>,
    engine: EngineHandle,
    clock: Clock,
    told: Option<Aliases>,
}

impl Names {
    /// Nothing is told yet.
    #[must_use]
    pub const fn new(shelf: Arc<Shelf>, here: Arc<Here>, engine: EngineHandle, clock: Clock) -> Self {
        Self { shelf, here, engine, clock, told: None }
    }

    /// Tells what is in force now, if that is news; answers when it changes by itself, Unix milliseconds.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn tell(&mut self) -> Result<Option<u64>, Stopped> {
        let now_ms = self.clock.wall_ms();
        let all: Vec<Alias> = self.shelf.with(|bundle| bundle.aliases().cloned().collect());
        let (live, ended): (Vec<_>, Vec<_>) = all.into_iter().partition(|alias| alias.until_ms > now_ms);
        let until_ms = live.iter().map(|alias| alias.until_ms).min();
        let now = Aliases { live, ended };
        if self.told.as_ref() != Some(&now) {
            // Before the core takes mail by these names, links look at its signatures.
            self.here.called.send_replace(names_of(self.here.id, &now.live));
            self.engine.input(Input::Aliases(now.clone())).await?;
            self.told = Some(now);
        }
        Ok(until_ms)
    }

    /// Does so for as long as the node runs.
    pub async fn mind(mut self) {
        let mut changes = self.shelf.changes();
        loop {
            changes.mark_unchanged();
            let Ok(until_ms) = self.tell().await else { return };
            let left_ms = until_ms.map(|until_ms| until_ms.saturating_sub(self.clock.wall_ms()).saturating_add(1));
            let wait = left_ms.map_or(LOOK, Duration::from_millis).min(LOOK);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

fn names_of(node: NodeId, aliases: &[Alias]) -> BTreeSet<NodeName> {
    let own = aliases.iter().filter(|alias| alias.node == node);
    own.flat_map(|alias| [alias.old.clone(), alias.new.clone()]).collect()
}
