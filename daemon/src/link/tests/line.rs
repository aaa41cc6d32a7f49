//! A line between sockets in memory: latency, seeded loss and reordering, an MTU, a NAT that changes its mind, a cut.
//!
//! Each datagram sleeps in a task of its own until it arrives, so with a paused clock whole minutes pass at once.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// A packet that would wait longer is dropped.
const QUEUE: Duration = Duration::from_millis(100);

#[expect(clippy::disallowed_methods, reason = "the line lives in the runtime's virtual time")]
fn now() -> Instant {
    Instant::now()
}

/// How the line is just now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions {
    pub(crate) latency_ms: u64,
    /// Up to so much more for each datagram: within it they overtake one another.
    pub(crate) jitter_ms: u64,
    pub(crate) loss_percent: u64,
    /// Longer datagrams vanish.
    pub(crate) mtu: usize,
    pub(crate) is_cut: bool,
    /// Each direction carries so many bytes of IP packets a second, and queues them for at most 100 ms.
    pub(crate) bytes_per_s: Option<f64>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { latency_ms: 10, jitter_ms: 0, loss_percent: 0, mtu: 1500, is_cut: false, bytes_per_s: None }
    }
}

#[derive(Debug, Default)]
struct State {
    conditions: Conditions,
    random: u64,
    sockets: HashMap<SocketAddr, Arc<Socket>>,
    /// The socket behind the NAT, and how it looks from outside.
    nat: Option<(SocketAddr, SocketAddr)>,
    /// Datagrams that vanished.
    lost: u64,
    /// When a sender's line is free again, and what is on it in order.
    free: HashMap<SocketAddr, Instant>,
    queues: HashMap<SocketAddr, Arc<Mutex<VecDeque<Flying>>>>,
}

type Flying = (Arc<Socket>, SocketAddr, Vec<u8>);

impl State {
    /// SplitMix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Line(Arc<Mutex<State>>);

impl Line {
    pub(crate) fn new(seed: u64) -> Self {
        let line = Self::default();
        line.state().random = seed;
        line
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("whole")
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.state().conditions);
    }

    pub(crate) fn lost(&self) -> u64 {
        self.state().lost
    }

    /// From now on the socket at `inner` is seen as `outer`, and what is sent to an earlier address vanishes.
    pub(crate) fn rebind(&self, inner: SocketAddr, outer: SocketAddr) {
        self.state().nat = Some((inner, outer));
    }

    pub(crate) fn socket(&self, address: SocketAddr) -> Arc<Socket> {
        let socket = Arc::new(Socket { line: self.clone(), address, inbox: Mutex::default() });
        self.state().sockets.insert(address, socket.clone());
        socket
    }

    fn carry(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let mut state = self.state();
        let Conditions { latency_ms, jitter_ms, loss_percent, mtu, is_cut, bytes_per_s } = state.conditions;
        let is_lost = state.below(100) < loss_percent;
        let delay = Duration::from_millis(latency_ms + state.below(jitter_ms + 1));
        let (seen, inside) = match state.nat {
            Some((inner, outer)) if from == inner => (outer, to),
            Some((inner, outer)) if to == outer => (from, inner),
            Some((inner, _)) if to == inner => (from, SocketAddr::from(([0, 0, 0, 0], 0))),
            _ => (from, to),
        };
        let socket = state.sockets.get(&inside).cloned();
        let Some(socket) = socket.filter(|_| !is_cut && !is_lost && datagram.len() + 28 <= mtu) else {
            state.lost += 1;
            return;
        };
        let datagram = datagram.to_vec();
        if let Some(bytes_per_s) = bytes_per_s {
            let now = now();
            let free = state.free.get(&from).copied().unwrap_or(now).max(now);
            if free - now > QUEUE {
                state.lost += 1;
                return;
            }
            let free = free + Duration::from_secs_f64((datagram.len() + 28) as f64 / bytes_per_s);
            state.free.insert(from, free);
            let queue = state.queues.entry(from).or_default().clone();
            drop(state);
            // Each timer takes the first of the queue: timers of one millisecond fire in any order, packets do not.
            queue.lock().expect("whole").push_back((socket, seen, datagram));
            tokio::spawn(async move {
                tokio::time::sleep_until(free + delay).await;
                let first = queue.lock().expect("whole").pop_front();
                let (socket, seen, datagram) = first.expect("one for each timer");
                socket.deliver(seen, datagram);
            });
            return;
        }
        drop(state);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            socket.deliver(seen, datagram);
        });
    }
}

#[derive(Debug, Default)]
struct Inbox {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

/// One end of a line.
#[derive(Debug)]
pub(crate) struct Socket {
    line: Line,
    address: SocketAddr,
    inbox: Mutex<Inbox>,
}

impl Socket {
    fn deliver(&self, from: SocketAddr, datagram: Vec<u8>) {
        let mut inbox = self.inbox.lock().expect("whole");
        inbox.datagrams.push_back((from, datagram));
        if let Some(waker) = inbox.waker.take() {
            waker.wake();
        }
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        for datagram in transmit.contents.chunks(segment.max(1)) {
            self.line.carry(self.address, transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock().expect("whole");
        if inbox.datagrams.is_empty() {
            inbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some((addr, datagram)) = inbox.datagrams.pop_front() else { break };
            buffer[..datagram.len()].copy_from_slice(&datagram);
            let (len, stride) = (datagram.len(), datagram.len());
            *meta = RecvMeta { addr, len, stride, ecn: None, dst_ip: None };
            count += 1;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
