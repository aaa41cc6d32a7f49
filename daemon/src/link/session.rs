//! One connection: who is there, the tasks that serve it, and its end.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tram_congestion::Line;
use tram_proto::frame::{FEATURE_PKI, Frame, StreamKind};
use tram_proto::limits::{REASON_BYTES, RUN_UNITS};
use tram_relay::input::{Input, LinkId, Side, Signer};

use crate::engine::handle::{LINK_COMMANDS, Request, Stopped};
use crate::link::fault::Fault;
use crate::link::gate::{Gate, Known};
use crate::link::offered::Offered;
use crate::link::pki::Lane;
use crate::link::traffic::Traffic;
use crate::link::transfer::Manifests;
use crate::link::trust::{Lapse, Standing};
use crate::link::writer::{self, Letter};
use crate::link::{Here, OpenLink, fault, pace, pki, reader, transfer};

/// A bye is given so long to reach the peer, and on a long line three round trips: one until there is room in a full
/// congestion window, one to go and come back. quinn 0.11 loses a close while it is congested, a bye it does not.
const BYE: Duration = Duration::from_millis(500);
/// No longer than this; the daemon waits a little longer for its links before it ends.
const BYE_MAX: Duration = Duration::from_secs(2);
/// The dialler opens the control stream at once; this allows for a slow line.
const CONTROL: Duration = Duration::from_secs(10);
/// Units of the lower classes in runs that are read at once: three of the longest runs, 12 MiB.
const READERS: usize = 3 * RUN_UNITS as usize;
/// The same for flash and immediate.
const URGENT_READERS: usize = RUN_UNITS as usize;
/// When a link has ended, what came of its runs gets so long to be stored before the core hears of the end. A disk that
/// takes longer goes on afterwards.
const STORE: Duration = Duration::from_secs(5);
/// A peer's certificates are looked at again after so long, whatever they say: the machine's clock may have been set.
const LOOK_AGAIN_MS: u64 = 60_000;
/// A link whose peer may have been revoked lasts so long, in which the list that tells may come over it.
const UNKNOWN_MS: u64 = 60_000;
/// Without any list at all, a link that could bring some is waited on for so long, in milliseconds, before it carries mail.
const BARE_MS: u64 = 5_000;
/// Transfer streams that may wait to be taken up.
const ARRIVING: usize = 4;

/// What the tasks of one link share.
pub(crate) struct Link {
    pub(crate) here: Arc<Here>,
    pub(crate) id: LinkId,
    pub(crate) peer: Signer,
    /// What is known of the line to it.
    pub(crate) line: Arc<Line>,
    /// What it carried.
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) readers: Semaphore,
    pub(crate) urgent_readers: Semaphore,
    pub(crate) manifests: Mutex<Manifests>,
    /// An offer was noted or a manifest unit verified: runs may wait for either.
    pub(crate) came: Notify,
    /// What may be written, and when.
    pub(crate) gate: Gate,
    pub(crate) wrong_runs: AtomicU32,
    /// Hashes of the chains that were accepted and kept: one comes over up to seven streams.
    pub(crate) chains: Mutex<HashSet<[u8; 32]>>,
    /// Transfer streams on their way to who reads them.
    pub(crate) transfers: mpsc::Sender<RecvStream>,
    /// When a byte of a run or an offer came last, monotonic milliseconds.
    carried_ms: AtomicU64,
    /// What the peer's hello said it can, once it has come.
    pub(crate) features: watch::Sender<Option<u64>>,
    /// More than the PKI may be spoken of.
    pub(crate) cleared: watch::Sender<bool>,
    /// What is to be said on the PKI stream, if this node has one.
    pub(crate) lane: Option<Arc<Lane>>,
    offered: Mutex<Offered>,
    kinds_seen: AtomicU8,
    heard: AtomicBool,
    on_heard: Box<dyn Fn() + Send + Sync>,
}

impl Link {
    pub(crate) fn offered(&self) -> MutexGuard<'_, Offered> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a stream; false if one of that kind is open already.
    pub(crate) fn first_of(&self, kind: StreamKind) -> bool {
        let bit = match kind {
            StreamKind::Class(precedence) => 1 << (precedence as u8),
            StreamKind::Receipts => 1 << 5,
            StreamKind::Control => 1 << 6,
            StreamKind::Pki => 1 << 7,
            StreamKind::Transfer => return true,
        };
        self.kinds_seen.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// The peer speaks: its end of the handshake is done too.
    pub(crate) fn heard(&self) {
        if !self.heard.swap(true, Ordering::Relaxed) {
            (self.on_heard)();
        }
    }

    /// Waits for the peer's hello, and says whether both ends understand the PKI stream.
    pub(crate) async fn speaks_pki(&self) -> bool {
        let mut features = self.features.subscribe();
        // The sender lives as long as the link.
        self.lane.is_some()
            && features.wait_for(Option::is_some).await.is_ok_and(|f| f.unwrap_or_default() & FEATURE_PKI != 0)
    }

    /// Waits until the link may carry what does not concern the PKI.
    pub(crate) async fn is_cleared(&self) {
        // The sender lives as long as the link.
        let _ = self.cleared.subscribe().wait_for(|cleared| *cleared).await;
    }

    /// A byte of a run or an offer came.
    pub(crate) fn carried(&self) {
        self.carried_ms.fetch_max(self.here.clock.mono_ms(), Ordering::Relaxed);
    }

    /// Since when none did.
    pub(crate) fn carried_nothing_for(&self) -> Duration {
        let last_ms = self.carried_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.here.clock.mono_ms().saturating_sub(last_ms))
    }

    pub(crate) async fn tell(&self, input: Input) -> Result<(), Stopped> {
        self.here.engine.input(input).await
    }

    /// Logs something about this peer, at most once in ten minutes for each `what`: the detail is the peer's to vary.
    pub(crate) fn warn(&self, what: &'static str, detail: &str) {
        if self.here.is_news(self.peer.name.as_str(), what) {
            tracing::warn!(peer = %self.peer.name, "{what}: {detail}");
        }
    }
}

/// Who is there, by the certificates it showed.
pub(crate) fn peer_of(here: &Here, connection: &Connection) -> Option<(Signer, Vec<CertificateDer<'static>>)> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some((here.trust.peer(&identity).ok()?, *identity))
}

/// Ends the link once the peer's certificates do not hold any more: a handshake asks only once. Clears it for what does
/// not concern the PKI as soon as they are known to hold, once and for all: a list that goes missing later ends nothing.
async fn certified(link: Arc<Link>, certificates: Vec<CertificateDer<'static>>) -> Result<(), Fault> {
    let mut changes = link.here.trust.changes();
    let begin_ms = link.here.clock.mono_ms();
    let (give_up_ms, bare_ms) = (begin_ms + UNKNOWN_MS, begin_ms + BARE_MS);
    let mut asked = false;
    loop {
        changes.mark_unchanged();
        let standing = link.here.trust.holds(&certificates).map_err(Fault::Lapsed)?;
        // Certificates count whole seconds, the last included.
        let until_ms = standing.until_ms.saturating_add(1000).saturating_sub(link.here.clock.wall_ms());
        let mut wait_ms = until_ms.clamp(1, LOOK_AGAIN_MS);
        let is_cleared = *link.cleared.borrow();
        match standing.unknown {
            _ if is_cleared => {}
            None if standing.bare && link.lane.is_some() => match bare_ms.saturating_sub(link.here.clock.mono_ms()) {
                // The peer has none either.
                0 => _ = link.cleared.send_replace(true),
                left_ms => wait_ms = wait_ms.min(left_ms),
            },
            None => _ = link.cleared.send_replace(true),
            Some(why) => match give_up_ms.saturating_sub(link.here.clock.mono_ms()) {
                0 => return Err(Fault::Lapsed(Lapse::Unknown(why))),
                left_ms => wait_ms = wait_ms.min(left_ms),
            },
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            speaks = link.speaks_pki(), if standing.bare && !asked => {
                asked = true;
                if !speaks {
                    // A release without lists has none to give.
                    link.cleared.send_replace(true);
                }
            }
        }
    }
}

/// Opens the control stream, or waits for it on the side that was dialled.
async fn control_stream(connection: &Connection, side: Side) -> Result<(SendStream, RecvStream), Fault> {
    match side {
        Side::Up(_) => {
            let (mut send, recv) = connection.open_bi().await.map_err(Fault::Lost)?;
            send.write_all(&[StreamKind::Control.to_byte()]).await?;
            Ok((send, recv))
        }
        Side::Down => {
            let (send, mut recv) = connection.accept_bi().await.map_err(Fault::Lost)?;
            match reader::kind_of(&mut recv).await? {
                StreamKind::Control => Ok((send, recv)),
                _ => Err(Fault::Protocol("the first stream is not the control stream")),
            }
        }
    }
}

fn close(connection: &Connection, fault: &Fault) {
    let (code, reason) = fault.farewell().unwrap_or_default();
    connection.close(VarInt::from_u32(code), clip(&reason).as_bytes());
}

/// A reason that fits a bye.
fn clip(text: &str) -> &str {
    let end = (0..=text.len().min(REASON_BYTES)).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Serves a connection until it ends or `left` resolves, and says why it ended. `on_heard` is called at the peer's
/// first word.
pub(crate) async fn run(
    here: Arc<Here>,
    (connection, line): (Connection, Arc<Line>),
    side: Side,
    on_heard: impl Fn() + Send + Sync + 'static,
    left: impl Future<Output = ()>,
) -> Fault {
    let Some((peer, certificates)) = peer_of(&here, &connection) else {
        let fault = Fault::Protocol("the certificate is not a node's");
        close(&connection, &fault);
        return fault;
    };
    let control = tokio::time::timeout(CONTROL, control_stream(&connection, side));
    let (send, recv) = match control.await.unwrap_or(Err(Fault::Protocol("no control stream was opened"))) {
        Ok(streams) => streams,
        Err(fault) => {
            close(&connection, &fault);
            return fault;
        }
    };
    let (transfers, arriving) = mpsc::channel(ARRIVING);
    let known = Box::new(Known { line: line.clone(), connection: connection.clone() });
    let (id, traffic) = (LinkId(here.engine.unique()), Arc::new(Traffic::default()));
    let link = Arc::new(Link {
        id,
        here: here.clone(),
        peer: peer.clone(),
        line: line.clone(),
        traffic: traffic.clone(),
        readers: Semaphore::new(READERS),
        urgent_readers: Semaphore::new(URGENT_READERS),
        manifests: Mutex::default(),
        came: Notify::new(),
        gate: Gate::new(known, here.clock, here.plan.subscribe(), (peer.name.clone(), side)),
        wrong_runs: AtomicU32::new(0),
        chains: Mutex::default(),
        transfers,
        carried_ms: AtomicU64::new(here.clock.mono_ms()),
        features: watch::Sender::new(None),
        cleared: watch::Sender::new(false),
        lane: here.herald.as_ref().map(|_| Lane::new(id, side)),
        offered: Mutex::default(),
        kinds_seen: AtomicU8::new(0),
        heard: AtomicBool::new(false),
        on_heard: Box::new(on_heard),
    });
    let since_ms = here.clock.wall_ms();
    here.opened(OpenLink { id, peer: peer.name, side, since_ms, line, traffic, connection: connection.clone() });
    let fault = serve(&link, &connection, side, (send, recv), certificates, arriving, left).await;
    let told = link.tell(Input::LinkDown { link: link.id }).await;
    if let Some(kind) = fault.kind() {
        here.engine.tally().error(kind);
    }
    let why = fault.to_string();
    here.gone(link.id, fault::says_revoked(&why).then_some(why));
    told.map_or(Fault::Stopped, |()| fault)
}

async fn serve(
    link: &Arc<Link>,
    connection: &Connection,
    side: Side,
    control: (SendStream, RecvStream),
    certificates: Vec<CertificateDer<'static>>,
    mut transfers: mpsc::Receiver<RecvStream>,
    left: impl Future<Output = ()>,
) -> Fault {
    // The trust may have been replaced since the handshake.
    match link.here.trust.holds(&certificates) {
        // The first lists come over this link, and CA certificates by which records are believed.
        Ok(Standing { unknown: None, bare: true, .. }) if link.lane.is_some() => {}
        Ok(Standing { unknown: None, .. }) => _ = link.cleared.send_replace(true),
        Ok(Standing { unknown: Some(why), .. }) => {
            link.warn("only the PKI is spoken of on this link until it is known whether the peer was revoked", &why);
            if let Some(herald) = &link.here.herald {
                herald.pull();
            }
        }
        Err(lapse) => {
            let fault = Fault::Lapsed(lapse);
            close(connection, &fault);
            return fault;
        }
    }
    let (writer, outputs) = mpsc::channel(LINK_COMMANDS);
    let up = Request::LinkUp { link: link.id, peer: link.peer.clone(), side, writer };
    if link.here.engine.request(up).await.is_err() {
        close(connection, &Fault::Stopped);
        return Fault::Stopped;
    }
    let (send, recv) = control;
    // Nothing on it waits behind payload.
    let _ = send.set_priority(writer::priority(StreamKind::Control));
    let (queue, letters) = mpsc::channel(LINK_COMMANDS);
    let mut last_words = tokio::spawn(writer::stream(link.clone(), send, StreamKind::Control, letters));

    let mut tasks = JoinSet::new();
    tasks.spawn(certified(link.clone(), certificates));
    tasks.spawn(reader::control(link.clone(), recv));
    tasks.spawn(reader::streams(link.clone(), connection.clone()));
    let keeper = link.clone();
    tasks.spawn(async move {
        keeper.gate.keep().await;
        Ok(())
    });
    tasks.spawn(writer::run(link.clone(), connection.clone(), outputs, queue.clone()));
    tasks.spawn(pki::write(link.clone(), connection.clone()));
    tasks.spawn(pace::probe(link.clone(), queue.clone()));
    let mut runs = JoinSet::new();
    let fault = tokio::select! {
        fault = first_fault(link, connection, &mut tasks, &mut runs, &mut transfers) => fault,
        () = left => Fault::Withdrawn,
    };
    tasks.shutdown().await;
    if let Some((code, reason)) = fault.farewell() {
        let bye = Frame::Bye { code, reason: clip(&reason).to_owned() };
        let _ = queue.try_send(Box::new(Letter::Frame(bye)));
        drop(queue);
        let patience = BYE.max(3 * connection.rtt()).min(BYE_MAX);
        let _ = tokio::time::timeout(patience, &mut last_words).await;
    }
    last_words.abort();
    close(connection, &fault);
    // The runs read to the end of what came, and store that.
    let ended = async { while runs.join_next().await.is_some() {} };
    if tokio::time::timeout(STORE, ended).await.is_err() {
        runs.detach_all();
    }
    match connection.close_reason() {
        // A task sees only that its stream broke; the connection knows why.
        Some(error) if fault == Fault::Broken && error != ConnectionError::LocallyClosed => Fault::Lost(error),
        _ => fault,
    }
}

/// Waits for the first task to fail or the connection to end. A peer that closes breaks its streams off a moment before
/// its bye arrives: that is waited for.
async fn first_fault(
    link: &Arc<Link>,
    connection: &Connection,
    tasks: &mut JoinSet<Result<(), Fault>>,
    runs: &mut JoinSet<Result<(), Fault>>,
    transfers: &mut mpsc::Receiver<RecvStream>,
) -> Fault {
    let mut broken = false;
    loop {
        let done = tokio::select! {
            Some(done) = tasks.join_next() => done,
            Some(done) = runs.join_next() => done,
            Some(stream) = transfers.recv() => {
                runs.spawn(transfer::receive(link.clone(), stream));
                continue;
            }
            error = connection.closed() => return Fault::Lost(error),
            () = tokio::time::sleep(BYE), if broken => return Fault::Broken,
        };
        match done {
            Ok(Ok(())) => {}
            Ok(Err(Fault::Broken)) => broken = true,
            Ok(Err(fault)) => return fault,
            Err(error) => return Fault::Spool(error.to_string()),
        }
    }
}
