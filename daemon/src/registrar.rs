//! This node's part in the PKI, beside its CA if it has one: what neighbours are told and asked, and its own renewals.
//!
//! | module | owns |
//! |---|---|
//! | [`crate::shelf`] | the bundle |
//! | [`crate::issuer`] | the CA, its registry, what it makes |
//! | `names` | former names of nodes, for the core and for links |
//! | `renewal` | this node's certificate, and its CA's |
//!
//! Never decides who is a node: that is the PKI's. Specification: DESIGN §3; `research/pki.md` §4.

pub mod names;
pub mod renewal;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tracing::{error, warn};
use tram_pki::journal::{Copies, ExtendError};
use tram_proto::id::NodeId;
use tram_proto::join::HostPort;
use tram_proto::name::NodeName;
use tram_proto::pki::{Item, Object, ObjectKey, Report};

use crate::clock::Clock;
use crate::issuer::Desk;
use crate::issuer::duties::JOURNAL_BYTES;
use crate::join::forward::Door;
use crate::link::pki::{Exchange, GoesOn, Taken};
use crate::link::trust::{NodeTrust, Trust as _};
use crate::shelf::Shelf;

/// What the PKI streams of a node are served by.
pub struct Registrar {
    shelf: Arc<Shelf>,
    desk: Option<Arc<Desk>>,
    trust: Arc<NodeTrust>,
    /// Where machines can join here.
    join: Vec<HostPort>,
    copies: Option<Mutex<Copies>>,
    clock: Clock,
    changed: watch::Sender<u64>,
}

impl Registrar {
    /// Brings them together. `copies`: where audit logs of children are kept.
    #[must_use]
    pub fn new(
        shelf: Arc<Shelf>,
        desk: Option<Arc<Desk>>,
        trust: Arc<NodeTrust>,
        join: Vec<HostPort>,
        copies: Option<Copies>,
        clock: Clock,
    ) -> Arc<Self> {
        let (copies, changed) = (copies.map(Mutex::new), watch::Sender::new(0));
        Arc::new(Self { shelf, desk, trust, join, copies, clock, changed })
    }

    /// Tells what doors this node is to open, as the notices of CAs say, for as long as it runs.
    pub async fn mind_doors(self: Arc<Self>, doors: watch::Sender<Vec<Door>>) {
        let (mut shelf, own) = (self.shelf.changes(), self.trust.keys().identity().id);
        loop {
            shelf.mark_unchanged();
            let open: Vec<Door> = self.shelf.with(|bundle| {
                let own = bundle.notices().flat_map(|notice| &notice.doors).filter(|door| door.node == own);
                own.map(|door| Door { until_ms: door.until_ms, to: door.to.clone() }).collect()
            });
            doors.send_if_modified(|now| {
                let changed = *now != open;
                *now = open;
                changed
            });
            if shelf.changed().await.is_err() {
                return;
            }
        }
    }

    /// Passes on that something changed that neighbours may want to hear of, for as long as the node runs.
    pub async fn notice(self: Arc<Self>) {
        let (mut shelf, mut trust) = (self.shelf.changes(), self.trust.changes());
        let mut desk = self.desk.as_ref().map(|desk| desk.changes());
        loop {
            let of_desk = async {
                match &mut desk {
                    Some(changes) => changes.changed().await,
                    None => std::future::pending().await,
                }
            };
            let more = tokio::select! {
                more = shelf.changed() => more,
                more = trust.changed() => more,
                more = of_desk => more,
            };
            if more.is_err() {
                return;
            }
            self.changed.send_modify(|count| *count += 1);
        }
    }
}

impl Exchange for Registrar {
    fn have(&self) -> Vec<Item> {
        self.shelf.have()
    }

    fn object(&self, key: ObjectKey) -> Option<Object> {
        self.shelf.object(key)
    }

    fn take(&self, object: Object, from: &NodeName) -> Taken {
        let taken = match self.shelf.put(&object) {
            Ok(true) => Taken::New,
            Ok(false) => Taken::Known,
            Err(why) => return Taken::Refused(why.to_string()),
        };
        if taken == Taken::New
            && let Some(desk) = &self.desk
            && let Err(why) = desk.learned(&object)
        {
            warn!(%from, %why, "the CA of this node cannot take up what came");
        }
        taken
    }

    fn heard(&self, theirs: &[Item]) {
        if let Some(desk) = &self.desk {
            desk.heard(theirs);
        }
    }

    fn answer(&self, authority: [u8; 32], request: Bytes, from: &NodeName) -> Option<Bytes> {
        self.desk.as_ref()?.asked(authority, request, from)
    }

    fn report(&self) -> Report {
        let keys = self.trust.keys();
        let me = keys.identity();
        let authority = self.trust.roots().issuer_of(keys.chain()).map_or([0; 32], |ca| ca.key.0);
        Report {
            node: me.id,
            name: me.name.clone(),
            role: me.role,
            roots: self.shelf.with(tram_pki::bundle::Bundle::version),
            not_after_ms: me.not_after_ms,
            at_ms: self.clock.wall_ms(),
            authority,
            join: self.join.clone(),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn has_journal(&self) -> bool {
        self.desk.is_some()
    }

    fn journal_since(&self, number: u64, hash: &[u8; 32]) -> GoesOn {
        self.desk.as_ref().map_or_else(|| GoesOn::With(Vec::new()), |desk| desk.journal_since(number, hash))
    }

    fn journal_take(&self, node: NodeId, first: u64, lines: Vec<Bytes>) -> Option<(u64, [u8; 32])> {
        let mut copies = self.copies.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let head = if lines.is_empty() { copies.have(node) } else { copies.append(node, first, &lines) };
        match head {
            // A copy that was set aside begins anew.
            Ok(head) | Err(ExtendError::Gap { have: head }) => Some((head.number, head.hash.0)),
            Err(why) => {
                warn!(%node, %why, "the audit log of a child is not kept");
                None
            }
        }
    }

    fn journal_lost(&self, node: NodeId, number: u64, hash: &[u8; 32]) -> Vec<Bytes> {
        let Some(copies) = &self.copies else { return Vec::new() };
        let mut copies = copies.lock().unwrap_or_else(PoisonError::into_inner);
        let same = number == 0 || matches!(copies.head_at(node, number), Ok(Some(head)) if head.hash.0 == *hash);
        let lines = if same { copies.since(node, number.saturating_add(1), JOURNAL_BYTES) } else { Ok(Vec::new()) };
        if same {
            warn!(%node, number, "the audit log of a child ends before the copy here: it is sent the lines that it lost");
        } else {
            error!(
                %node,
                number,
                "the audit log of a child is another than the copy here: it was rewritten, or restored from a backup with \
                 --accept-loss. When that is explained, run `tram pki audit set-aside {node}` here"
            );
        }
        lines
            .inspect_err(|why| warn!(%node, %why, "the copy of a child's audit log cannot be read"))
            .unwrap_or_default()
    }

    fn journal_back(&self, first: u64, lines: &[Bytes]) -> bool {
        self.desk.as_ref().is_some_and(|desk| desk.journal_back(first, lines))
    }
}

#[cfg(test)]
mod tests;
