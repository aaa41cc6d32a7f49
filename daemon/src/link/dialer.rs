//! Uplinks: one task each dials, serves the link, and dials again. They can be exchanged while the node runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tram_congestion::{Line, Saved};
use tram_pki::clock::Utc;
use tram_proto::name::NodeName;
use tram_relay::input::Side;

use crate::link::endpoint::{Endpoints, SERVER_NAME};
use crate::link::fault::{Fault, explain, refuses_us};
use crate::link::pace::Pace;
use crate::link::{Here, session};

/// An address that does not answer in so long is given up for the next one.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest pause before the second dial; it doubles from dial to dial.
const PAUSE_MS: u64 = 250;
/// The longest pause of all.
const PAUSE_MAX_MS: u64 = 30_000;
/// The shortest pause after one of the two said that a spool was rolled back or its disk cloned: only a person can help.
const PAUSE_HELD_MS: u64 = 60_000;
/// A link that was up for so long was a good one: the next pause is short again.
const GOOD_MS: u64 = 10_000;
/// Socket addresses tried of one uplink.
const ADDRESSES: usize = 16;

/// A parent to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name; any other node that answers is refused.
    pub node: NodeName,
    /// Where it listens, each `host:port`, in order.
    pub addresses: Vec<String>,
    /// How this node sends to it.
    pub pace: Pace,
}

/// How an uplink stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UplinkState {
    /// Being dialled.
    Connecting,
    /// The peer has spoken.
    Up,
    /// Waiting for the next dial.
    Down,
}

/// How an uplink stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkStatus {
    /// The parent.
    pub node: NodeName,
    /// How it stands.
    pub state: UplinkState,
    /// The address in use or tried last.
    pub remote: Option<SocketAddr>,
    /// Why it last failed or ended.
    pub last_error: Option<String>,
}

/// The dialling tasks of all uplinks; they end when this is dropped.
#[derive(Debug)]
pub struct Uplinks {
    here: Arc<Here>,
    endpoints: Arc<Endpoints>,
    status: watch::Sender<Vec<UplinkStatus>>,
    dialled: Vec<Dialled>,
}

/// An uplink and the task that dials it.
#[derive(Debug)]
struct Dialled {
    uplink: Uplink,
    place: u8,
    leave: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl Uplinks {
    /// Begins to dial. Must be called within the runtime.
    #[must_use]
    pub fn dial(here: &Arc<Here>, endpoints: &Arc<Endpoints>, uplinks: Vec<Uplink>) -> Self {
        let (here, endpoints, status) = (here.clone(), endpoints.clone(), watch::Sender::default());
        let mut all = Self { here, endpoints, status, dialled: Vec::new() };
        all.begin(uplinks);
        all
    }

    /// How they stand, now and when that changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Vec<UplinkStatus>> {
        self.status.subscribe()
    }

    /// Takes these from now on: says bye on the links of those that are gone, have other addresses or another place in
    /// the order, waits for their end, and dials what is new. The others do not notice.
    pub async fn change(&mut self, uplinks: Vec<Uplink>) {
        let stays = |one: &Dialled| uplinks.get(usize::from(one.place)) == Some(&one.uplink);
        let (staying, mut leaving): (Vec<_>, Vec<_>) = self.dialled.drain(..).partition(stays);
        self.dialled = staying;
        for one in &leaving {
            one.leave.send_replace(true);
        }
        for one in &mut leaving {
            while one.task.join_next().await.is_some() {}
        }
        self.begin(uplinks);
    }

    /// Dials those that are not dialled yet.
    fn begin(&mut self, uplinks: Vec<Uplink>) {
        let new = |uplink: &Uplink| UplinkStatus {
            node: uplink.node.clone(),
            state: UplinkState::Connecting,
            remote: None,
            last_error: None,
        };
        self.status.send_modify(|all| {
            let kept = |uplink: &Uplink| all.iter().find(|s| s.node == uplink.node).cloned();
            let dialled = |uplink: &Uplink| self.dialled.iter().any(|one| one.uplink == *uplink);
            *all = uplinks.iter().map(|u| kept(u).filter(|_| dialled(u)).unwrap_or_else(|| new(u))).collect();
        });
        for (uplink, place) in uplinks.into_iter().zip(0..) {
            if self.dialled.iter().any(|one| one.place == place) {
                continue;
            }
            let (here, endpoints, status) = (self.here.clone(), self.endpoints.clone(), self.status.clone());
            let (leave, leaving) = watch::channel(false);
            let mut task = JoinSet::new();
            task.spawn(Dialer { here, endpoints, uplink: uplink.clone(), place, status, leaving }.run());
            self.dialled.push(Dialled { uplink, place, leave, task });
        }
    }
}

struct Dialer {
    here: Arc<Here>,
    endpoints: Arc<Endpoints>,
    uplink: Uplink,
    place: u8,
    status: watch::Sender<Vec<UplinkStatus>>,
    leaving: watch::Receiver<bool>,
}

fn set(status: &watch::Sender<Vec<UplinkStatus>>, node: &NodeName, change: impl FnOnce(&mut UplinkStatus)) {
    status.send_modify(|all| {
        if let Some(one) = all.iter_mut().find(|one| one.node == *node) {
            change(one);
        }
    });
}

/// Resolves when the uplink is no longer wanted.
async fn left(mut leaving: watch::Receiver<bool>) {
    if leaving.wait_for(|leave| *leave).await.is_err() {
        // Whoever dropped the sender ends this task as well.
        std::future::pending().await
    }
}

impl Dialer {
    async fn run(self) {
        let mut pause_ms = PAUSE_MS;
        // What the last connection knew of the line, and when.
        let mut model = None;
        loop {
            set(&self.status, &self.uplink.node, |s| s.state = UplinkState::Connecting);
            let began_ms = self.here.clock.mono_ms();
            let connected = tokio::select! {
                connected = self.connect(model) => connected,
                () = left(self.leaving.clone()) => return,
            };
            let mut least_ms = 0;
            let (why, is_news) = match connected {
                Ok(connection) => {
                    let line = connection.1.clone();
                    let fault = self.serve(connection).await;
                    if let Some(saved) = line.saved() {
                        model = Some((saved, self.here.clock.mono_ms()));
                    }
                    if fault.is_shutdown() {
                        return;
                    }
                    if fault.holds_mail() {
                        least_ms = PAUSE_HELD_MS;
                    }
                    (self.with_cure(fault.to_string()), !fault.is_orderly())
                }
                Err(why) => (self.with_cure(why), true),
            };
            if is_news && self.here.is_news(self.uplink.node.as_str(), &why) {
                tracing::warn!(peer = %self.uplink.node, "uplink down: {why}");
            }
            let is_up = |s: &UplinkStatus| s.node == self.uplink.node && s.state == UplinkState::Up;
            let was_up = self.status.borrow().iter().any(is_up);
            set(&self.status, &self.uplink.node, |s| {
                s.state = UplinkState::Down;
                s.last_error = Some(why);
            });
            if was_up && self.here.clock.mono_ms() - began_ms >= GOOD_MS {
                pause_ms = PAUSE_MS;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(least_ms + jitter(pause_ms.max(least_ms)))) => {}
                () = left(self.leaving.clone()) => return,
            }
            pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        }
    }

    async fn serve(&self, connection: (quinn::Connection, Arc<Line>)) -> Fault {
        let (status, node) = (self.status.clone(), self.uplink.node.clone());
        let on_heard = move || {
            tracing::info!(peer = %node, "uplink up");
            set(&status, &node, |s| {
                s.state = UplinkState::Up;
                s.last_error = None;
            });
        };
        session::run(self.here.clone(), connection, Side::Up(self.place), on_heard, left(self.leaving.clone())).await
    }

    /// Tries every address once; the error names them all.
    async fn connect(&self, model: Option<(Saved, u64)>) -> Result<(quinn::Connection, Arc<Line>), String> {
        let mut failed = Vec::new();
        let mut tried = 0;
        for text in &self.uplink.addresses {
            let found = match tokio::net::lookup_host(text).await {
                Ok(found) => found,
                Err(error) => {
                    failed.push(format!("{text}: {error}"));
                    continue;
                }
            };
            let mut found: Vec<SocketAddr> = found.collect();
            // Offices have IPv4; a name's IPv6 address often leads nowhere and costs the whole wait.
            found.sort_by_key(SocketAddr::is_ipv6);
            for remote in found.into_iter().take(ADDRESSES - tried.min(ADDRESSES)) {
                tried += 1;
                set(&self.status, &self.uplink.node, |s| s.remote = Some(remote));
                match self.connect_to(remote, model).await {
                    Ok(connection) => return Ok(connection),
                    Err(why) => failed.push(format!("{text}: {why}")),
                }
            }
        }
        failed.dedup();
        Err(if failed.is_empty() { "it has no address".to_owned() } else { failed.join("; ") })
    }

    async fn connect_to(
        &self,
        remote: SocketAddr,
        model: Option<(Saved, u64)>,
    ) -> Result<(quinn::Connection, Arc<Line>), String> {
        let endpoint = self.endpoints.towards(remote).map_err(|error| error.to_string())?;
        let line = self.uplink.pace.line();
        if let Some((saved, at_ms)) = model {
            line.restore(saved, Duration::from_millis(self.here.clock.mono_ms().saturating_sub(at_ms)));
        }
        let config = Endpoints::client(self.here.trust.client(&self.uplink.node)?, self.uplink.pace, &line)?;
        let connecting = endpoint.connect_with(config, remote, SERVER_NAME).map_err(|error| error.to_string())?;
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => connected.map(|connection| (connection, line)).map_err(|error| explain(&error)),
            Err(_) => Err(format!("no answer over UDP within {} s", CONNECT.as_secs())),
        }
    }

    /// Where certificates and clocks disagree, both clocks belong into the message; where this node was revoked, what a
    /// person can do.
    fn with_cure(&self, why: String) -> String {
        if refuses_us(&why) {
            let own = &self.here.name;
            format!(
                "{why}; if {own} is to come back, run `tram token new {own} --rejoin` where its CA is, and `tramd join` here"
            )
        } else if why.contains("clock") {
            format!("{why} (this node's clock says {})", Utc(self.here.clock.wall_ms()))
        } else {
            why
        }
    }
}

/// Full jitter: nodes that lost their parent together do not come back together.
fn jitter(pause_ms: u64) -> u64 {
    let mut random = [0; 8];
    let _ = rand::fill(&mut random);
    u64::from_le_bytes(random) % (pause_ms + 1)
}
