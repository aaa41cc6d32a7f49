//! Moves packets between the two tunnels of a line as the model says. One thread; it sleeps until the next packet comes
//! or is due, and never wakes twice within [`PAUSE_NS`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Both;
use crate::model::{Counts, Direction, Profile, SECOND_NS};

/// It wakes at most once in this time, half of the exactness that is promised: thousands of packets share the wakes.
const PAUSE_NS: u64 = 50_000;
/// A packet forwarded so late counts as late.
const LATE_NS: u64 = 200_000;
/// Packets read from one tunnel before the other gets its turn.
const BATCH: usize = 64;
/// The longest packet of a tunnel.
const PACKET_BYTES: usize = 65_536;
/// The longest sleep, so that the line ends soon.
const LOOK_NS: u64 = SECOND_NS / 10;
/// Flows that are told apart, in each direction; what comes after counts in the totals only.
const FLOWS: usize = 64;
/// Before everything else on the machine.
const NICE: i32 = -20;

/// An end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Towards the first namespace.
    Left,
    /// Towards the last.
    Right,
}

/// How exactly packets were forwarded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// Packets in all.
    pub packets: u64,
    /// Those that came more than 0.2 ms after they were due.
    pub late: u64,
    /// The latest, in nanoseconds.
    pub latest_ns: u64,
}

#[derive(Debug)]
struct State {
    directions: [Direction<Box<[u8]>>; 2],
    /// Totals at the end of each second.
    seconds: Vec<[Counts; 2]>,
    flows: [BTreeMap<Flow, u64>; 2],
    timing: Timing,
}

/// IPv4 protocol and source port of a flow.
pub type Flow = (u8, u16);

/// The flow a packet belongs to, if it has ports.
fn flow(packet: &[u8]) -> Option<Flow> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let protocol = *packet.get(9)?;
    let port = packet.get(header..header + 2)?;
    (packet[0] >> 4 == 4 && [6, 17].contains(&protocol)).then(|| (protocol, u16::from_be_bytes([port[0], port[1]])))
}

/// A line that carries packets; it ends when this is dropped.
#[derive(Debug)]
pub struct Line {
    began: Instant,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    pub(crate) fn start(tunnels: [File; 2], both: Both, seed: u64) -> Self {
        let began = Instant::now();
        let directions = [Direction::new(both.there, seed), Direction::new(both.back, !seed)];
        let state = State {
            directions,
            seconds: Vec::new(),
            flows: [BTreeMap::new(), BTreeMap::new()],
            timing: Timing::default(),
        };
        let (state, over) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (of, until) = (state.clone(), over.clone());
        let thread = thread::spawn(move || carry(tunnels, began, &of, &until));
        Self { began, state, over, thread: Some(thread) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line's time now, in nanoseconds: what a varying rate goes by.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        now_ns(self.began)
    }

    /// Changes what packets meet that enter at this end.
    pub fn set(&self, from: End, change: impl FnOnce(&mut Profile)) {
        let direction = &mut self.state().directions[from as usize];
        let mut profile = direction.profile();
        change(&mut profile);
        direction.set(now_ns(self.began), profile);
    }

    /// Cuts both directions, or joins them again.
    pub fn cut(&self, is_cut: bool) {
        self.set(End::Left, |profile| profile.is_cut = is_cut);
        self.set(End::Right, |profile| profile.is_cut = is_cut);
    }

    /// Of the packets that entered at this end.
    #[must_use]
    pub fn counts(&self, from: End) -> Counts {
        self.state().directions[from as usize].counts()
    }

    /// The same, second by second from the line's beginning.
    #[must_use]
    pub fn seconds(&self, from: End) -> Vec<Counts> {
        let totals = self.state().seconds.clone();
        let mut before = Counts::default();
        totals
            .iter()
            .map(|both| both[from as usize].since(std::mem::replace(&mut before, both[from as usize])))
            .collect()
    }

    /// IP bytes delivered so far of each flow that entered at this end.
    #[must_use]
    pub fn flows(&self, from: End) -> BTreeMap<Flow, u64> {
        self.state().flows[from as usize].clone()
    }

    /// How exact the emulation was so far.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.state().timing
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Only a panic in it fails this, and that was printed.
            let _ = thread.join();
        }
    }
}

fn now_ns(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn carry(mut tunnels: [File; 2], began: Instant, state: &Mutex<State>, over: &AtomicBool) {
    // Both only make it more exact: without them it works too.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let _ = rustix::process::setpriority_process(None, NICE);
    let mut buffer = vec![0; PACKET_BYTES];
    while !over.load(Ordering::Relaxed) {
        let woke_ns = now_ns(began);
        let next_ns = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.turn(&mut tunnels, &mut buffer, began);
            state.directions.iter().filter_map(Direction::next_ns).min()
        };
        let now_ns = now_ns(began);
        let rest_ns = PAUSE_NS.saturating_sub(now_ns - woke_ns);
        if rest_ns > 0 {
            thread::sleep(Duration::from_nanos(rest_ns));
        }
        let waits_ns = next_ns.map_or(LOOK_NS, |next_ns| next_ns.saturating_sub(now_ns + rest_ns).min(LOOK_NS));
        let mut ends = tunnels.each_ref().map(|tunnel| PollFd::new(tunnel, PollFlags::IN));
        let timeout = Timespec { tv_sec: 0, tv_nsec: waits_ns.cast_signed() };
        // An interrupted sleep is a shorter one.
        let _ = poll(&mut ends, Some(&timeout));
    }
}

impl State {
    /// Takes in what came and forwards what is due.
    fn turn(&mut self, tunnels: &mut [File; 2], buffer: &mut [u8], began: Instant) {
        for (from, direction) in self.directions.iter_mut().enumerate() {
            let [left, right] = tunnels;
            let (near, far) = if from == 0 { (left, right) } else { (right, left) };
            for _ in 0..BATCH {
                let Ok(length) = near.read(buffer) else { break };
                direction.push(now_ns(began), length, buffer[..length].into());
            }
            let now_ns = now_ns(began);
            while let Some((due_ns, packet)) = direction.pop(now_ns) {
                let late_ns = now_ns.saturating_sub(due_ns);
                self.timing.packets += 1;
                self.timing.late += u64::from(late_ns > LATE_NS);
                self.timing.latest_ns = self.timing.latest_ns.max(late_ns);
                if let Some(flow) = flow(&packet) {
                    let flows = &mut self.flows[from];
                    if flows.len() < FLOWS || flows.contains_key(&flow) {
                        *flows.entry(flow).or_default() += packet.len() as u64;
                    }
                }
                // A device that went down takes nothing, like a line whose end was unplugged.
                let _ = far.write(&packet);
            }
        }
        let totals = self.directions.each_ref().map(Direction::counts);
        let passed = (now_ns(began) / SECOND_NS) as usize;
        self.seconds.resize(passed.max(self.seconds.len()), totals);
    }
}
