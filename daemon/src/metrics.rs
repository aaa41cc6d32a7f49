//! The metrics: what the node counts of itself, read when somebody asks.
//!
//! | module | owns |
//! |---|---|
//! | `reading` | every name with its meaning and labels, and the text |
//! | [`tally`] | counters of what nothing else counts |
//! | `rates` | the last five minutes of each link |
//! | `process` | memory and processor time |
//!
//! Never keeps a series: what is gone, a link, a child, an inbox, is not there at the next reading. Guarantees that the
//! engine is asked at most twice a second, and less when its answers take long, however many ask.

mod process;
pub(crate) mod rates;
mod reading;
pub mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use tram_relay::input::{LinkId, Side};
use tram_relay::snapshot::Snapshot;

use self::process::Process;
use self::rates::{Both, Rates, ip_bytes};
use self::reading::{Certificate, LinkReading, Neighbour, Reading};
use crate::clock::Clock;
use crate::link::dialer::UplinkStatus;
use crate::link::{Here, OpenLink};
use crate::local::pki::PkiDoor;
use crate::local::station::Identity;

/// Who asks again sooner gets the same text.
const KEPT: Duration = Duration::from_millis(500);
/// The engine spends at most one part in so many on being asked: with a million messages, an answer takes long.
const ENGINE_SHARE: u32 = 20;
/// However long an answer takes, a text is no older than this.
const KEPT_MAX: Duration = Duration::from_secs(15);
/// Certificates change once in months, and looking at them may wait for a CA that signs.
const CERTIFICATES_KEPT: Duration = Duration::from_secs(10);
/// The engine that has not answered in so long does not answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What the metrics of one node are read from.
pub(crate) struct Metrics {
    pub(crate) identity: Identity,
    pub(crate) here: Arc<Here>,
    pub(crate) uplinks: watch::Receiver<Vec<UplinkStatus>>,
    pub(crate) pki: Arc<PkiDoor>,
    pub(crate) rates: Arc<Rates>,
    pub(crate) clock: Clock,
    pub(crate) kept: Mutex<Kept>,
}

/// What was told last, until when it will do, and when certificates were looked at, by the monotonic clock.
#[derive(Default)]
pub(crate) struct Kept {
    text: Option<(Duration, Bytes)>,
    certificates: Option<(Duration, Vec<Certificate>)>,
}

/// Bytes of IP packets that a link has sent and received.
fn on_wire(link: &OpenLink) -> (LinkId, Both) {
    let (stats, is_v6) = (link.connection.stats(), link.connection.remote_address().is_ipv6());
    let of = |udp: quinn::UdpStats| ip_bytes(udp.bytes, udp.datagrams, is_v6);
    (link.id, [of(stats.udp_tx), of(stats.udp_rx)])
}

/// Looks at how fast each link goes; to be called every [`rates::EVERY`].
pub(crate) fn look(rates: &Rates, here: &Here) {
    rates.look(here.clock.mono(), here.connections().iter().map(on_wire));
}

impl Metrics {
    /// All of them, as text.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(crate) async fn text(&self) -> Result<Bytes, String> {
        // One reads, the others wait for it.
        let mut kept = self.kept.lock().await;
        let now = self.clock.mono();
        if let Some((_, text)) = kept.text.as_ref().filter(|(until, _)| now < *until) {
            return Ok(text.clone());
        }
        let snapshot = tokio::time::timeout(ANSWER, self.here.engine.snapshot());
        let snapshot = snapshot.await.map_err(|_| SILENT.to_owned())?.map_err(|why| why.to_string())?;
        let took = self.clock.mono().saturating_sub(now);
        let fresh = kept.certificates.as_ref().is_some_and(|(at, _)| now.saturating_sub(*at) < CERTIFICATES_KEPT);
        if !fresh {
            let pki = self.pki.clone();
            let found = tokio::task::spawn_blocking(move || certificates(&pki)).await.map_err(|why| why.to_string())?;
            kept.certificates = Some((now, found));
        }
        let certificates = kept.certificates.iter().flat_map(|(_, found)| found.clone()).collect();
        let text = Bytes::from(self.reading(snapshot, certificates).text().map_err(|why| why.to_string())?);
        kept.text = Some((now + (took * ENGINE_SHARE).clamp(KEPT, KEPT_MAX), text.clone()));
        Ok(text)
    }

    fn reading(&self, snapshot: Box<Snapshot>, certificates: Vec<Certificate>) -> Reading {
        let plan = self.here.plan.borrow().clone();
        // Of two connections to one neighbour, the newer takes over.
        let open: BTreeMap<String, OpenLink> =
            self.here.connections().into_iter().map(|link| (link.peer.to_string(), link)).collect();
        let links = open.iter().map(|(peer, link)| {
            let stats = link.connection.stats();
            LinkReading {
                peer: peer.clone(),
                of_use: tram_proto::envelope::Precedence::ALL
                    .map(|class| (class, <[u64; 2]>::from(link.traffic.of(class))))
                    .to_vec(),
                on_wire: on_wire(link).1,
                sent_packets: stats.path.sent_packets,
                lost_packets: stats.path.lost_packets,
                rtt_seconds: stats.path.rtt.as_secs_f64(),
                window_bytes: stats.path.cwnd,
                mtu_bytes: stats.path.current_mtu.into(),
                p95_bytes_per_s: self.rates.of(link.id),
                declared_bytes_per_s: plan.declared(&link.peer, link.side).map(crate::plan::Rate::bytes),
            }
        });
        let links = links.collect();
        let uplinks: Vec<String> = self.uplinks.borrow().iter().map(|uplink| uplink.node.to_string()).collect();
        let neighbours = neighbours(&snapshot, uplinks);
        Reading {
            now_ms: self.clock.wall_ms(),
            identity: self.identity.clone(),
            snapshot,
            neighbours,
            links,
            certificates,
            tally: self.here.engine.tally().clone(),
            process: Process::now(),
        }
    }

    /// Whether the engine answers.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) async fn is_alive(&self) -> Result<(), String> {
        let answer = tokio::time::timeout(ANSWER, self.here.engine.ping()).await;
        answer.map_err(|_| SILENT.to_owned())?.map_err(|why| why.to_string())
    }

    /// What keeps this node from its work, each with its cure.
    pub(crate) async fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.is_alive().await.err().into_iter().collect();
        if self.here.spool.room().free_bytes == 0 {
            problems.push("the spool has no room: free some on its disk, or raise [spool] max".to_owned());
        }
        if self.pki.trust.keys().identity().not_after_ms <= self.clock.wall_ms() {
            problems.push("this node's certificate has expired: see `tram pki status`".to_owned());
        }
        problems
    }
}

const SILENT: &str = "the engine has not answered for 5 s: see the log; a disk that stands still holds it up";

/// The uplinks of the config, who is linked, and the children that say they hang here.
fn neighbours(snapshot: &Snapshot, uplinks: Vec<String>) -> BTreeMap<String, Neighbour> {
    let down = Neighbour { uplink: false, up: false };
    let children = snapshot.nodes.iter().filter(|node| node.active == Some(snapshot.node));
    let mut all: BTreeMap<String, Neighbour> = children.map(|node| (node.name.to_string(), down)).collect();
    all.extend(uplinks.into_iter().map(|peer| (peer, Neighbour { uplink: true, up: false })));
    for link in &snapshot.links {
        let one = all.entry(link.peer.to_string()).or_insert(down);
        one.uplink = matches!(link.side, Side::Up(_));
        one.up |= link.up;
    }
    all
}

/// This node's own certificate, and the newest of its CA and of the root, with their lists. Others' are theirs to watch.
fn certificates(pki: &PkiDoor) -> Vec<Certificate> {
    let mut newest: BTreeMap<(&'static str, bool), Certificate> = BTreeMap::new();
    for view in pki.certificates().into_iter().filter(|view| view.own) {
        let of = match (view.kind.as_str(), view.name.as_str()) {
            ("node", _) => "node",
            ("root", _) | ("crl", "the root") => "root",
            _ => "ca",
        };
        let list_made_ms = (view.kind == "crl").then_some(view.made_ms);
        let one = Certificate { of, until_ms: view.not_after_ms, list_made_ms };
        let known = newest.entry((of, list_made_ms.is_some())).or_insert_with(|| one.clone());
        if known.until_ms < one.until_ms {
            *known = one;
        }
    }
    newest.into_values().collect()
}

#[cfg(test)]
mod tests;
