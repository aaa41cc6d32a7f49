//! Uplinks: one task each dials, serves the link, and dials again. They can be exchanged while the node runs, and be
//! dialled a second time while the first connection serves, so that a new certificate costs no moment without a link.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tram_congestion::{Line, Saved};
use tram_pki::clock::Utc;
use tram_proto::name::NodeName;
use tram_proto::pki::{Answer, Request};
use tram_relay::input::Side;

use crate::link::endpoint::{Endpoints, SERVER_NAME};
use crate::link::fault::{Fault, explain, refuses_us, timeless};
use crate::link::pace::Pace;
use crate::link::{Here, cure, session};
use crate::metrics::tally::Kind;

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
/// A second connection is given so long to be up before the first is kept.
const RENEW: Duration = Duration::from_secs(15);
/// So long before a parent's certificate ends, it is dialled again: by then it has shown a newer one for weeks.
const RENEW_BEFORE_MS: u64 = 10 * 60 * 1000;
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
    renew: mpsc::Sender<Renewal>,
    task: JoinSet<()>,
}

/// Where to say what became of a second dial.
type Renewal = oneshot::Sender<Result<(), String>>;

/// A connection that was made, and what is known of its line.
type Dial = (quinn::Connection, Arc<Line>);

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

    /// Dials every uplink that is up once more, with the keys and the trust in force; the old connection ends when the
    /// new one is up, and stays if that fails. Answers how many links were renewed.
    ///
    /// # Errors
    /// Why none was, though one was up.
    pub fn renew(&self) -> impl Future<Output = Result<usize, String>> + Send + use<> {
        let up = self.status.borrow().clone();
        let is_up = |one: &&Dialled| up.iter().any(|s| s.node == one.uplink.node && s.state == UplinkState::Up);
        let ask = |one: &Dialled| {
            let (answer, answered) = oneshot::channel();
            // A full queue drops the question, and with it the answer.
            let _ = one.renew.try_send(answer);
            (one.uplink.node.clone(), answered)
        };
        let asked: Vec<_> = self.dialled.iter().filter(is_up).map(ask).collect();
        async move {
            let (mut renewed, mut failed) = (0, Vec::new());
            for (node, answered) in asked {
                match answered.await {
                    Ok(Ok(())) => renewed += 1,
                    Ok(Err(why)) => failed.push(format!("{node}: {why}")),
                    Err(_) => failed.push(format!("{node}: it is dialled anew already, or no uplink any more")),
                }
            }
            if renewed == 0 && !failed.is_empty() { Err(failed.join("; ")) } else { Ok(renewed) }
        }
    }

    /// Asks a CA by way of the first uplink that answers, though this node's certificate has expired.
    pub fn ask_expired(
        &self,
        authority: [u8; 32],
        request: Request,
    ) -> impl Future<Output = Result<Answer, String>> + Send + use<> {
        let (here, endpoints) = (self.here.clone(), self.endpoints.clone());
        let one = |one: &Dialled| (one.uplink.node.clone(), one.uplink.addresses.clone());
        let uplinks: Vec<_> = self.dialled.iter().map(one).collect();
        async move { cure::ask(&here, &endpoints, &uplinks, authority, &request).await }
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
            let (renew, renewals) = mpsc::channel(1);
            let mut task = JoinSet::new();
            task.spawn(Dialer { here, endpoints, uplink: uplink.clone(), place, status, leaving }.run(renewals));
            self.dialled.push(Dialled { uplink, place, leave, renew, task });
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

/// Says no while there is no link that could be renewed; never resolves.
async fn decline(renewals: &mut mpsc::Receiver<Renewal>) {
    while let Some(answer) = renewals.recv().await {
        let _ = answer.send(Err("the link is down and being dialled anyway".to_owned()));
    }
    std::future::pending().await
}

impl Dialer {
    async fn run(self, mut renewals: mpsc::Receiver<Renewal>) {
        let mut pause_ms = PAUSE_MS;
        // What the last connection knew of the line, and when.
        let mut model = None;
        loop {
            set(&self.status, &self.uplink.node, |s| s.state = UplinkState::Connecting);
            let began_ms = self.here.clock.mono_ms();
            let connected = tokio::select! {
                connected = self.connect(model) => connected,
                () = left(self.leaving.clone()) => return,
                () = decline(&mut renewals) => return,
            };
            let mut least_ms = 0;
            let (why, is_news) = match connected {
                Ok(connection) => {
                    let (fault, line) = self.serve(connection, &mut renewals).await;
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
                Err(why) => {
                    self.here.engine.tally().error(Kind::DialFailed);
                    (self.with_cure(why), true)
                }
            };
            if is_news && self.here.is_news(self.uplink.node.as_str(), timeless(&why)) {
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
                () = decline(&mut renewals) => return,
            }
            pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        }
    }

    /// Serves a connection, and those that take its place, until the uplink has none. Answers with the last one's line.
    async fn serve(&self, connection: Dial, renewals: &mut mpsc::Receiver<Renewal>) -> (Fault, Arc<Line>) {
        let mut line = connection.1.clone();
        let mut ends = self.wait_for_its_end(&connection.0);
        let mut link = Box::pin(self.session(connection).0);
        loop {
            let answer = tokio::select! {
                fault = &mut link => return (fault, line),
                answer = renewals.recv() => answer,
                () = &mut ends => None,
            };
            ends = Box::pin(std::future::pending());
            let model = line.saved().map(|saved| (saved, self.here.clock.mono_ms()));
            let dialled = tokio::select! {
                dialled = self.connect(model) => dialled,
                fault = &mut link => {
                    tell(answer, Err(fault.to_string()));
                    return (fault, line);
                }
            };
            let renewed = match dialled {
                Ok(connection) => {
                    let next_line = connection.1.clone();
                    let next_ends = self.wait_for_its_end(&connection.0);
                    let (next, up, give_up) = self.session(connection);
                    match take_over(&mut link, Box::pin(next), up, give_up).await {
                        Ok(next) => {
                            (link, line, ends) = (next, next_line, next_ends);
                            tracing::info!(peer = %self.uplink.node, "uplink renewed");
                            Ok(())
                        }
                        Err((why, Some(fault))) => {
                            tell(answer, Err(why));
                            return (fault, line);
                        }
                        Err((why, None)) => Err(why),
                    }
                }
                Err(why) => Err(why),
            };
            if let Err(why) = &renewed {
                tracing::warn!(peer = %self.uplink.node, "the uplink was not renewed and stays as it was: {why}");
            }
            tell(answer, renewed);
        }
    }

    /// A task's worth of link; what resolves when the peer has spoken; and what ends it when it is not wanted.
    fn session(
        &self,
        connection: Dial,
    ) -> (impl Future<Output = Fault> + Send + use<>, watch::Receiver<bool>, oneshot::Sender<()>) {
        let (status, node) = (self.status.clone(), self.uplink.node.clone());
        let (heard, up) = watch::channel(false);
        let on_heard = move || {
            tracing::info!(peer = %node, "uplink up");
            set(&status, &node, |s| {
                s.state = UplinkState::Up;
                s.last_error = None;
            });
            heard.send_replace(true);
        };
        let (give_up, given_up) = oneshot::channel();
        let leaving = left(self.leaving.clone());
        let unwanted = async {
            tokio::select! {
                () = leaving => {}
                Ok(()) = given_up => {}
            }
        };
        let side = Side::Up(self.place);
        (session::run(self.here.clone(), connection, side, on_heard, unwanted), up, give_up)
    }

    /// Waits until the parent's certificate is about to end; for ever if that is so already.
    fn wait_for_its_end(&self, connection: &quinn::Connection) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let peer = session::peer_of(&self.here, connection);
        let until_ms = peer.and_then(|(_, shown)| self.here.trust.holds(&shown).ok()).map(|standing| standing.until_ms);
        let now_ms = self.here.clock.wall_ms();
        match until_ms.and_then(|until_ms| until_ms.checked_sub(now_ms + RENEW_BEFORE_MS)) {
            Some(wait_ms) => Box::pin(tokio::time::sleep(Duration::from_millis(wait_ms))),
            None => Box::pin(std::future::pending()),
        }
    }

    /// Tries every address once; the error names them all.
    async fn connect(&self, model: Option<(Saved, u64)>) -> Result<Dial, String> {
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

    async fn connect_to(&self, remote: SocketAddr, model: Option<(Saved, u64)>) -> Result<Dial, String> {
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

fn tell(answer: Option<Renewal>, renewed: Result<(), String>) {
    if let Some(answer) = answer {
        // Whoever asked may have gone.
        let _ = answer.send(renewed);
    }
}

/// Serves both links until the new one is up and the core has ended the old one, as it does when a node says hello a
/// second time. Otherwise says why, and with what fault the old one ended, if it did.
async fn take_over<L: Future<Output = Fault>, N: Future<Output = Fault>>(
    old: &mut Pin<Box<L>>,
    mut next: Pin<Box<N>>,
    mut up: watch::Receiver<bool>,
    give_up: oneshot::Sender<()>,
) -> Result<Pin<Box<N>>, (String, Option<Fault>)> {
    let mut give_up = Some(give_up);
    let mut ended = None;
    let late = tokio::time::sleep(RENEW);
    tokio::pin!(late);
    loop {
        let is_up = *up.borrow();
        if is_up && ended.is_some() {
            return Ok(next);
        }
        tokio::select! {
            fault = &mut next => {
                let late = || format!("the peer said no hello within {} s", RENEW.as_secs());
                return Err((if give_up.is_some() { fault.to_string() } else { late() }, ended));
            }
            fault = &mut *old, if ended.is_none() => ended = Some(fault),
            Ok(()) = up.changed(), if !is_up => {}
            () = &mut late, if give_up.is_some() && !is_up => {
                _ = give_up.take().map(|give_up| give_up.send(()));
            }
        }
    }
}

/// Full jitter: nodes that lost their parent together do not come back together.
fn jitter(pause_ms: u64) -> u64 {
    let mut random = [0; 8];
    let _ = rand::fill(&mut random);
    u64::from_le_bytes(random) % (pause_ms + 1)
}
