//! Passing on the datagrams of joining machines: for a machine that reaches only its parent, which holds no CA.
//!
//! While a door is open, the join port passes what a joining machine sends to the join port of the node that holds the CA
//! (or of the next node on the way), and back what comes from there. The exchange is TLS from end to end, pinned by the
//! token's root: this node reads nothing, and can do nothing but drop. Guarantees bounds on flows, their bytes and their
//! time; that nothing goes to an address that has not sent; and that little goes to one that has not shown that it
//! receives. `research/pki.md` §4 "Join".

use std::collections::{BTreeSet, HashMap};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{interval, sleep, timeout};
use tram_proto::join::HostPort;

use crate::clock::Clock;
use crate::link::endpoint;

/// Joining machines at once, and of those from one address: as many as a join port serves.
const FLOWS: usize = super::AT_ONCE;
const FLOWS_FROM_ONE: usize = super::AT_ONCE_FROM_ONE;
/// A flow ends after so much silence.
const IDLE: Duration = Duration::from_secs(15);
/// The same while the machine has not shown that it receives: `tramd join` gives up an address after as long.
const IDLE_UNPROVEN: Duration = super::CONNECT;
/// A flow lives so long: an exchange takes ten seconds, and the wait for a busy server five.
const LIFE: Duration = Duration::from_secs(30);
/// Bytes of one flow in each direction: a request or an answer of the largest size, a handshake, and repeats.
const FLOW_BYTES: usize = 256 * 1024;
/// An address that has not answered in so long makes room for the next one.
const NEXT: Duration = Duration::from_secs(1);
/// A name that is not found in so long is left out.
const LOOKUP: Duration = Duration::from_secs(2);
/// Bytes back for each byte that came, until the machine has shown that it receives: QUIC's own bound.
const UNPROVEN_FACTOR: usize = 3;
/// Datagrams that wait for a flow, and of the first ones those kept for the next address.
const WAITING: usize = 32;
const FIRST: usize = 8;
/// A QUIC client's first datagram has at least so many bytes (RFC 9000 §14.1).
const INITIAL_BYTES: usize = 1200;
/// What the kernel may hand over at once.
const READ_BYTES: usize = 64 * 1024;
/// Pause before a door that could not be opened is tried again, and at most so long until doors are looked at anew: the
/// clock may have been set.
const AGAIN: Duration = Duration::from_secs(60);

/// An order to pass on joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Until when, Unix milliseconds.
    pub until_ms: u64,
    /// Where to: the join ports of the node that holds the CA, or of the next node on the way, in order.
    pub to: Vec<HostPort>,
}

/// A join port that passes on. It closes when this is dropped.
#[derive(Debug)]
pub struct JoinForwarder {
    socket: Arc<dyn AsyncUdpSocket>,
    to: watch::Sender<Vec<HostPort>>,
    task: AbortHandle,
}

impl JoinForwarder {
    /// Opens the port. Must be called within the runtime.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn open(listen: SocketAddr, to: Vec<HostPort>) -> Result<Self, String> {
        let named = |error: io::Error| format!("cannot open UDP {listen} to pass on joins: {error}");
        let socket = TokioRuntime.wrap_udp_socket(endpoint::socket(listen).map_err(named)?).map_err(named)?;
        let to = watch::Sender::new(to);
        let task = tokio::spawn(pass(socket.clone(), to.subscribe())).abort_handle();
        Ok(Self { socket, to, task })
    }

    /// Passes machines that come from now on to these.
    pub fn change(&self, to: Vec<HostPort>) {
        self.to.send_replace(to);
    }

    /// Where it listens.
    #[must_use]
    pub fn listens_at(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }
}

impl Drop for JoinForwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps the port open while a door is, and closes it after the last; ends when the doors' sender is gone.
pub async fn mind_doors(mut doors: watch::Receiver<Vec<Door>>, listen: Option<SocketAddr>, clock: Clock) {
    let mut open: Option<JoinForwarder> = None;
    let mut said = String::new();
    loop {
        let now_ms = clock.wall_ms();
        let live: Vec<Door> = doors.borrow_and_update().iter().filter(|door| door.until_ms > now_ms).cloned().collect();
        let mut to: Vec<HostPort> = Vec::new();
        for address in live.iter().flat_map(|door| &door.to) {
            if !to.contains(address) {
                to.push(address.clone());
            }
        }
        let refused = match (&open, listen) {
            _ if to.is_empty() => {
                if open.take().is_some() {
                    tracing::info!("no token needs this node any more; it passes on no joins");
                }
                None
            }
            (Some(forwarder), _) => {
                forwarder.change(to);
                None
            }
            (None, None) => Some("this node is to pass on joins but has no join address: set [listen] join".to_owned()),
            (None, Some(listen)) => match JoinForwarder::open(listen, to.clone()) {
                Ok(forwarder) => {
                    tracing::info!(%listen, ?to, "joins are passed on while a token needs it");
                    open = Some(forwarder);
                    None
                }
                Err(why) => Some(why),
            },
        };
        if let Some(why) = refused.filter(|why| *why != said) {
            tracing::warn!("nobody can join through this node: {why}");
            said = why;
        }
        let next_ms = live.iter().map(|door| door.until_ms).min().map_or(u64::MAX, |until| until - now_ms);
        tokio::select! {
            changed = doors.changed() => if changed.is_err() { return },
            () = sleep(AGAIN.min(Duration::from_millis(next_ms))) => {}
        }
    }
}

/// One datagram, as it came.
#[derive(Debug, Clone)]
struct Datagram {
    bytes: Bytes,
    ecn: Option<EcnCodepoint>,
}

/// A UDP socket that passes datagrams on as they are: whole, never fragmented, with their congestion marks.
struct Pipe {
    socket: Arc<dyn AsyncUdpSocket>,
    writable: std::pin::Pin<Box<dyn UdpPoller>>,
    buffer: Vec<u8>,
}

impl Pipe {
    fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self { buffer: vec![0; READ_BYTES], ..Self::to_send(socket) }
    }

    fn to_send(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self { writable: socket.clone().create_io_poller(), socket, buffer: Vec::new() }
    }

    fn towards(target: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(endpoint::any_address_towards(target))?;
        socket.set_nonblocking(true)?;
        Ok(Self::new(TokioRuntime.wrap_udp_socket(socket)?))
    }

    /// What has come, from one sender at once. Can be dropped without a loss.
    async fn receive(&mut self) -> io::Result<(RecvMeta, Vec<Datagram>)> {
        let (socket, buffer) = (&self.socket, &mut self.buffer);
        let mut meta = [RecvMeta::default()];
        std::future::poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(buffer)], &mut meta)).await?;
        let [meta] = meta;
        let whole = Bytes::copy_from_slice(self.buffer.get(..meta.len).unwrap_or_default());
        let (stride, mut datagrams) = (meta.stride.max(1), Vec::new());
        for at in (0..whole.len()).step_by(stride) {
            let bytes = whole.slice(at..whole.len().min(at + stride));
            datagrams.push(Datagram { bytes, ecn: meta.ecn });
        }
        Ok((meta, datagrams))
    }

    /// Sends, or loses it like a router: larger than the line takes, or nobody there.
    async fn send(&mut self, datagram: &Datagram, destination: SocketAddr, src_ip: Option<IpAddr>) {
        let Datagram { bytes, ecn } = datagram;
        let transmit = Transmit { destination, ecn: *ecn, contents: bytes, segment_size: None, src_ip };
        while self.socket.try_send(&transmit).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            let writable = &mut self.writable;
            if std::future::poll_fn(|cx| writable.as_mut().poll_writable(cx)).await.is_err() {
                return;
            }
        }
    }
}

/// Whether a QUIC client could begin with this. Other datagrams make no flow.
fn is_initial(datagram: &[u8]) -> bool {
    datagram.len() >= INITIAL_BYTES && datagram.first().is_some_and(|first| first >> 4 == 0b1100)
}

/// A flow as the one who hands out the places sees it.
struct Place {
    number: u64,
    inbox: mpsc::Sender<Datagram>,
    proven: Arc<AtomicBool>,
    task: AbortHandle,
}

/// Whether there is a place for a machine at `ip`. When all are taken, the oldest flow gives way of those whose machine
/// has not shown that it receives: forged addresses fill the places in no time, and the real ones are quick to show it.
fn make_room(flows: &mut HashMap<SocketAddr, Place>, ip: IpAddr) -> bool {
    if flows.keys().filter(|source| source.ip() == ip).count() >= FLOWS_FROM_ONE {
        return false;
    }
    if flows.len() < FLOWS {
        return true;
    }
    let unproven = flows.iter().filter(|(_, place)| !place.proven.load(Ordering::Relaxed));
    let Some(oldest) = unproven.min_by_key(|(_, place)| place.number).map(|(source, _)| *source) else { return false };
    if let Some(place) = flows.remove(&oldest) {
        place.task.abort();
    }
    true
}

async fn pass(socket: Arc<dyn AsyncUdpSocket>, to: watch::Receiver<Vec<HostPort>>) {
    let mut listening = Pipe::new(socket.clone());
    let mut flows: HashMap<SocketAddr, Place> = HashMap::new();
    let mut numbers = 0..;
    let mut running = JoinSet::new();
    let answers = Arc::new(Mutex::new(None));
    let (mut quiet, mut said) = (interval(AGAIN), false);
    loop {
        let received = tokio::select! {
            received = listening.receive() => received,
            Some(ended) = running.join_next() => {
                if let Ok((source, number)) = ended
                    && flows.get(&source).is_some_and(|place| place.number == number)
                {
                    flows.remove(&source);
                }
                continue;
            }
            _ = quiet.tick() => {
                said = false;
                continue;
            }
        };
        let Ok((meta, datagrams)) = received else {
            // An error that lasts must not keep a processor busy.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        for datagram in datagrams {
            if let Some(place) = flows.get(&meta.addr) {
                // Full or just ended: lost, as datagrams are.
                let _ = place.inbox.try_send(datagram);
                continue;
            }
            if !is_initial(&datagram.bytes) {
                continue;
            }
            if !make_room(&mut flows, meta.addr.ip()) {
                if !said {
                    tracing::warn!(source = %meta.addr, flows = flows.len(), "too many machines join at once; some have to wait");
                    said = true;
                }
                continue;
            }
            let (sender, inbox) = mpsc::channel(WAITING);
            let _ = sender.try_send(datagram);
            let (back, proven) = (Pipe::to_send(socket.clone()), Arc::new(AtomicBool::new(false)));
            let (source, own, answers) = (meta.addr, meta.dst_ip, answers.clone());
            let flow = Flow { source, own, back, proven: proven.clone(), answers };
            let (number, to) = (numbers.next().unwrap_or_default(), to.borrow().clone());
            let task = running.spawn(async move {
                flow.run(&to, inbox).await;
                (source, number)
            });
            flows.insert(source, Place { number, inbox: sender, proven, task });
        }
    }
}

/// One joining machine.
struct Flow {
    source: SocketAddr,
    /// The address of ours that it knows.
    own: Option<IpAddr>,
    back: Pipe,
    /// The machine has shown that it receives what is sent to it.
    proven: Arc<AtomicBool>,
    /// The address that answered last: new flows begin with it.
    answers: Arc<Mutex<Option<SocketAddr>>>,
}

impl Flow {
    async fn run(mut self, to: &[HostPort], mut inbox: mpsc::Receiver<Datagram>) {
        // Whichever end comes first.
        let _ = timeout(LIFE, self.pass(to, &mut inbox)).await;
    }

    async fn pass(&mut self, to: &[HostPort], inbox: &mut mpsc::Receiver<Datagram>) -> Option<()> {
        let targets = self.resolve(to).await;
        let mut at = 0;
        let mut target = *targets.first()?;
        let mut there = Pipe::towards(target).ok()?;
        let (mut first, mut answered, mut proven) = (Vec::new(), false, false);
        let (mut sent_bytes, mut back_bytes) = (0, 0);
        let (mut next, mut silence) = (interval(NEXT), interval(IDLE_UNPROVEN));
        next.reset();
        silence.reset();
        loop {
            tokio::select! {
                datagram = inbox.recv() => {
                    let datagram = datagram?;
                    silence.reset_after(if proven { IDLE } else { IDLE_UNPROVEN });
                    sent_bytes += datagram.bytes.len();
                    // Only who has read the answer knows the keys of a packet with the short header.
                    if answered && !proven && datagram.bytes.first().is_some_and(|first| first & 0x80 == 0) {
                        proven = true;
                        self.proven.store(true, Ordering::Relaxed);
                        tracing::info!(source = %self.source, %target, "a joining machine is passed on");
                    }
                    there.send(&datagram, target, None).await;
                    if !answered && first.len() < FIRST {
                        first.push(datagram);
                    }
                }
                received = there.receive() => {
                    let (meta, datagrams) = received.ok()?;
                    if meta.addr != target {
                        continue;
                    }
                    silence.reset_after(if proven { IDLE } else { IDLE_UNPROVEN });
                    if !answered {
                        answered = true;
                        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
                    }
                    for datagram in datagrams {
                        let bytes = back_bytes + datagram.bytes.len();
                        if proven || bytes <= sent_bytes * UNPROVEN_FACTOR {
                            back_bytes = bytes;
                            self.back.send(&datagram, self.source, self.own).await;
                        }
                    }
                }
                _ = next.tick(), if !answered && targets.len() > 1 => {
                    at = (at + 1) % targets.len();
                    target = targets[at];
                    there = Pipe::towards(target).ok()?;
                    for datagram in &first {
                        there.send(datagram, target, None).await;
                    }
                }
                _ = silence.tick() => return None,
            }
            if sent_bytes.max(back_bytes) > FLOW_BYTES {
                return None;
            }
        }
    }

    /// Every address the names have now, the one that answered last before the others.
    async fn resolve(&self, to: &[HostPort]) -> Vec<SocketAddr> {
        let mut targets = Vec::new();
        for address in to {
            match timeout(LOOKUP, tokio::net::lookup_host(address.as_str())).await {
                Ok(Ok(found)) => {
                    let found: BTreeSet<SocketAddr> = found.collect();
                    targets.extend(found.into_iter().filter(|one| !targets.contains(one)).collect::<Vec<_>>());
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "a name is not found"),
                Err(_) => tracing::debug!(%address, "a name is not found in time"),
            }
        }
        let last = *self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        targets.sort_by_key(|target| Some(*target) != last);
        targets
    }
}

#[cfg(test)]
mod tests;
