//! A line between two nodes: what one sends to the other's UDP port passes here, counted, at a limited rate with a short
//! queue before it, and may be cut off. The way back has no limit: it carries acknowledgements.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// What waits for a line at most, in bytes: 6 ms of 350 Mbit/s.
const QUEUE_BYTES: u64 = 256 * 1024;
/// The largest datagram.
const DATAGRAM_BYTES: usize = 65_536;
/// The longest a thread sleeps before it looks whether the line is still there.
const LOOK: Duration = Duration::from_millis(100);
/// A sender that is ahead of its rate by less does not sleep.
const AHEAD: Duration = Duration::from_micros(500);

#[derive(Debug, Default)]
struct State {
    over: AtomicBool,
    cut: AtomicBool,
    sent_bytes: AtomicU64,
    queued_bytes: AtomicU64,
}

/// A line; it ends when this is dropped.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    state: Arc<State>,
}

impl Line {
    /// A line to a port, that carries so many bits per second.
    ///
    /// # Panics
    /// When no socket can be opened.
    #[must_use]
    pub fn to(remote: SocketAddr, bits_per_second: u64) -> Self {
        let near = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let address = near.local_addr().expect("an address");
        let state = Arc::new(State::default());
        // The queue is counted in bytes; none is so short that more would fit.
        let (queue, waiting) = mpsc::sync_channel(QUEUE_BYTES as usize);
        let of = state.clone();
        thread::spawn(move || enter(&near, remote, &of, &queue));
        let of = state.clone();
        thread::spawn(move || leave(&waiting, bits_per_second, &of));
        Self { address, state }
    }

    /// Where the sender finds it.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the sender has put on it so far, in bytes of UDP payload, also what was lost.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.state.sent_bytes.load(Ordering::Relaxed)
    }

    /// From now on nothing passes, in either direction, or everything again.
    pub fn cut(&self, cut: bool) {
        self.state.cut.store(cut, Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
    }
}

struct Datagram {
    through: Arc<UdpSocket>,
    bytes: Vec<u8>,
}

/// Takes what senders put on the line; each sender gets a socket of its own at the far end.
fn enter(near: &Arc<UdpSocket>, remote: SocketAddr, state: &Arc<State>, queue: &mpsc::SyncSender<Datagram>) {
    let mut far: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    near.set_read_timeout(Some(LOOK)).expect("set");
    while !state.over.load(Ordering::Relaxed) {
        let Ok((length, sender)) = near.recv_from(&mut buffer) else { continue };
        state.sent_bytes.fetch_add(length as u64, Ordering::Relaxed);
        let through = far.entry(sender).or_insert_with(|| back(near, sender, remote, state));
        let queued_bytes = state.queued_bytes.load(Ordering::Relaxed) + length as u64;
        if state.cut.load(Ordering::Relaxed) || queued_bytes > QUEUE_BYTES {
            continue;
        }
        state.queued_bytes.fetch_add(length as u64, Ordering::Relaxed);
        // Only when the line is over does nobody listen.
        let _ = queue.send(Datagram { through: through.clone(), bytes: buffer[..length].to_vec() });
    }
}

/// Lets what waits go on at the line's rate.
fn leave(waiting: &mpsc::Receiver<Datagram>, bits_per_second: u64, state: &State) {
    let mut free = Instant::now();
    while let Ok(datagram) = waiting.recv() {
        let length = datagram.bytes.len() as u64;
        let now = Instant::now();
        free = free.max(now) + Duration::from_nanos(length * 8 * 1_000_000_000 / bits_per_second);
        if free > now + AHEAD {
            thread::sleep(free - now);
        }
        state.queued_bytes.fetch_sub(length, Ordering::Relaxed);
        if !state.cut.load(Ordering::Relaxed) {
            // A node that does not run refuses; that is what UDP is like.
            let _ = datagram.through.send(&datagram.bytes);
        }
    }
}

/// A socket at the far end, and the way back from it.
fn back(near: &Arc<UdpSocket>, sender: SocketAddr, remote: SocketAddr, state: &Arc<State>) -> Arc<UdpSocket> {
    let through = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    through.connect(remote).expect("an address");
    through.set_read_timeout(Some(LOOK)).expect("set");
    let through = Arc::new(through);
    let (near, from, state) = (near.clone(), through.clone(), state.clone());
    thread::spawn(move || {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        while !state.over.load(Ordering::Relaxed) {
            let Ok(length) = from.recv(&mut buffer) else { continue };
            if !state.cut.load(Ordering::Relaxed) {
                let _ = near.send_to(&buffer[..length], sender);
            }
        }
    });
    through
}
