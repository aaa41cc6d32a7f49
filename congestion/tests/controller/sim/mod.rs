//! A line packet by packet, in virtual time: rate, delay, loss, a queue that drops at its end, a policer, slow or
//! bursty acknowledgements, steps, silence. The same seed gives the same run.

mod pacer;
mod sender;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use tram_congestion::cubic::Cubic;
use tram_congestion::{Line, Rate};

pub(crate) use sender::{BIN_NS, MTU};
use sender::{Control, Flow};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const S: u64 = 1_000_000_000;
/// An acknowledgement on the wire.
const ACK_BYTES: f64 = 68.0;
/// The shortest queue a router has.
const LEAST_QUEUE: f64 = 10.0 * MTU as f64;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    Random(f64),
    /// The line is deaf for times of this mean length, in packets, with this share altogether.
    Bursts(f64, f64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Rate(f64),
    Rtt(u64),
    Up(bool),
    Loss(Loss),
}

#[derive(Clone)]
pub(crate) struct Net {
    pub(crate) rate: f64,
    pub(crate) rtt_ns: u64,
    pub(crate) loss: Loss,
    pub(crate) queue: f64,
    pub(crate) policer: Option<(f64, f64)>,
    pub(crate) ack_rate: Option<f64>,
    pub(crate) ack_batch_ns: u64,
    pub(crate) changes: Vec<(u64, Change)>,
    pub(crate) seed: u64,
}

/// Bytes a second.
pub(crate) fn mbit(mbit: f64) -> f64 {
    mbit * 1e6 / 8.0
}

impl Net {
    /// `queue` in products of rate and round trip.
    pub(crate) fn new(mbit_s: f64, rtt_ms: u64, loss: Loss, queue: f64) -> Self {
        let (rate, rtt_ns) = (mbit(mbit_s), rtt_ms * MS);
        let queue = (queue * rate * rtt_ns as f64 / 1e9).max(LEAST_QUEUE);
        Self { rate, rtt_ns, loss, queue, policer: None, ack_rate: None, ack_batch_ns: 0, changes: vec![], seed: 1 }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Who {
    Ours { declared: Option<f64> },
    Cubic,
}

#[derive(Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) who: Who,
    pub(crate) starts_ns: u64,
    pub(crate) extra_rtt_ns: u64,
    pub(crate) app: Option<(f64, u64)>,
}

pub(crate) const OURS: Spec = Spec { who: Who::Ours { declared: None }, starts_ns: 0, extra_rtt_ns: 0, app: None };
pub(crate) const CUBIC: Spec = Spec { who: Who::Cubic, ..OURS };

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Departs,
    Arrives { flow: usize, number: u64 },
    Ack { flow: usize, numbers: Vec<u64>, delay_ns: u64 },
    AckDue { flow: usize },
    Timer { flow: usize },
    Change(usize),
    Sample,
    Second,
}

pub(crate) struct Outcome {
    rate: f64,
    flows: Vec<Vec<u64>>,
    pub(crate) drops: u64,
    pub(crate) offered: u64,
    /// What the policer dropped of what was offered to it, from 5 s on.
    pub(crate) policed: (u64, u64),
    waits_ms: Vec<(u64, f64)>,
}

impl Outcome {
    pub(crate) fn bytes(&self, flow: usize, from_ns: u64, to_ns: u64) -> f64 {
        let bins = (from_ns / BIN_NS) as usize..(to_ns / BIN_NS) as usize;
        bins.map(|bin| self.flows[flow].get(bin).copied().unwrap_or(0) as f64).sum()
    }

    /// Delivered, of what the link's first rate would have carried.
    pub(crate) fn share(&self, flow: usize, from_ns: u64, to_ns: u64) -> f64 {
        self.bytes(flow, from_ns, to_ns) / (self.rate * (to_ns - from_ns) as f64 / 1e9)
    }

    pub(crate) fn drop_share(&self) -> f64 {
        self.drops as f64 / self.offered.max(1) as f64
    }

    /// The wait in the queue that 95 of 100 pings are under.
    pub(crate) fn p95_wait_ms(&self, from_ns: u64) -> f64 {
        let mut waits: Vec<f64> = self.waits_ms.iter().filter(|(at, _)| *at >= from_ns).map(|(_, w)| *w).collect();
        waits.sort_by(f64::total_cmp);
        waits.get(waits.len() * 95 / 100).copied().unwrap_or(0.0)
    }
}

struct World {
    now: u64,
    order: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    net: Net,
    flows: Vec<Flow>,
    queue: VecDeque<(usize, u64)>,
    queued: f64,
    departing: bool,
    is_up: bool,
    bad: bool,
    weather_until_ns: u64,
    random: u64,
    tokens: (f64, u64),
    ack_free_ns: u64,
    timers: Vec<u64>,
    outcome: Outcome,
}

/// Runs it for so long.
pub(crate) fn run(net: &Net, specs: &[Spec], for_ns: u64) -> Outcome {
    #[allow(clippy::disallowed_methods, reason = "any instant serves as the beginning; only differences count")]
    let base = Instant::now();
    let flows: Vec<Flow> = specs
        .iter()
        .map(|spec| {
            let control = match spec.who {
                Who::Ours { declared } => {
                    let line = Line::new(net.rate <= mbit(10.0));
                    line.declare(declared.map(|rate| rate as u64));
                    Control::Ours(Box::new(Rate::new(line.clone(), base, MTU as u16)), line)
                }
                Who::Cubic => Control::Cubic(Cubic::new(MTU as f64, 10.0 * MTU as f64, f64::MAX)),
            };
            let mut flow = Flow::new(base, control);
            (flow.starts_ns, flow.extra_ns, flow.app) = (spec.starts_ns, spec.extra_rtt_ns / 2, spec.app);
            flow
        })
        .collect();
    let outcome =
        Outcome { rate: net.rate, flows: vec![], drops: 0, offered: 0, policed: (0, 0), waits_ms: Vec::new() };
    let bucket = net.policer.map_or(0.0, |(_, bucket)| bucket);
    let mut world = World {
        now: 0,
        order: 0,
        events: BinaryHeap::new(),
        net: net.clone(),
        timers: vec![u64::MAX; flows.len()],
        flows,
        queue: VecDeque::new(),
        queued: 0.0,
        departing: false,
        is_up: true,
        bad: true,
        weather_until_ns: 0,
        random: net.seed,
        tokens: (bucket, 0),
        ack_free_ns: 0,
        outcome,
    };
    for index in 0..net.changes.len() {
        world.at(net.changes[index].0, Event::Change(index));
    }
    world.at(0, Event::Sample);
    world.at(S, Event::Second);
    for (flow, spec) in specs.iter().enumerate() {
        world.timer(flow, spec.starts_ns);
    }
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at > for_ns {
            break;
        }
        world.now = at;
        world.handle(event);
    }
    world.outcome.flows = world.flows.into_iter().map(|flow| flow.delivered).collect();
    world.outcome
}

impl World {
    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    /// SplitMix64, as a share of one.
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn is_lost(&mut self) -> bool {
        match self.net.loss {
            Loss::Random(share) => self.chance() < share,
            Loss::Bursts(share, length) => {
                let deaf_ns = length * MTU as f64 / self.net.rate * 1e9;
                while self.now >= self.weather_until_ns {
                    self.bad = !self.bad;
                    let mean_ns = if self.bad { deaf_ns } else { deaf_ns * (1.0 - share) / share };
                    self.weather_until_ns += (-(1.0 - self.chance()).ln() * mean_ns) as u64 + 1;
                }
                self.bad
            }
        }
    }

    fn timer(&mut self, flow: usize, at: u64) {
        if at < self.timers[flow] {
            self.timers[flow] = at;
            self.at(at, Event::Timer { flow });
        }
    }

    fn pump(&mut self, flow: usize) {
        for number in self.flows[flow].pump(self.now) {
            self.enqueue(flow, number);
        }
        if let Some(at) = self.flows[flow].next_timer() {
            self.timer(flow, at.max(self.now + 1));
        }
    }

    fn enqueue(&mut self, flow: usize, number: u64) {
        self.outcome.offered += 1;
        if let Some((rate, bucket)) = self.net.policer {
            let (tokens, since) = self.tokens;
            let tokens = (tokens + rate * (self.now - since) as f64 / 1e9).min(bucket);
            let passes = tokens >= MTU as f64;
            self.tokens = (if passes { tokens - MTU as f64 } else { tokens }, self.now);
            if self.now >= 5 * S {
                self.outcome.policed.0 += u64::from(!passes);
                self.outcome.policed.1 += 1;
            }
            if !passes {
                return;
            }
        }
        if self.queued + MTU as f64 > self.net.queue {
            self.outcome.drops += 1;
            return;
        }
        self.queued += MTU as f64;
        self.queue.push_back((flow, number));
        if !self.departing {
            self.depart();
        }
    }

    fn depart(&mut self) {
        self.departing = !self.queue.is_empty();
        if self.departing {
            self.at(self.now + (MTU as f64 / self.net.rate * 1e9) as u64, Event::Departs);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Departs => {
                let Some((flow, number)) = self.queue.pop_front() else { return };
                self.queued -= MTU as f64;
                if !self.is_lost() && self.is_up {
                    let at = self.now + self.net.rtt_ns / 2 + self.flows[flow].extra_ns;
                    self.at(at, Event::Arrives { flow, number });
                }
                self.depart();
            }
            Event::Arrives { flow, number } => {
                if self.flows[flow].arrives(self.now, number) {
                    self.acknowledge(flow, 0);
                } else if let Some(at) = self.flows[flow].ack_due_ns {
                    self.at(at, Event::AckDue { flow });
                }
            }
            Event::AckDue { flow } => {
                if self.flows[flow].ack_due_ns == Some(self.now) {
                    self.acknowledge(flow, 25 * MS);
                }
            }
            Event::Ack { flow, numbers, delay_ns } => {
                self.flows[flow].on_ack(self.now, &numbers, delay_ns);
                self.pump(flow);
            }
            Event::Timer { flow } => {
                if self.timers[flow] != self.now {
                    return;
                }
                self.timers[flow] = u64::MAX;
                self.flows[flow].on_timer(self.now);
                self.pump(flow);
            }
            Event::Change(index) => match self.net.changes[index].1 {
                Change::Rate(rate) => self.net.rate = rate,
                Change::Rtt(rtt_ns) => self.net.rtt_ns = rtt_ns,
                Change::Up(up) => self.is_up = up,
                Change::Loss(loss) => self.net.loss = loss,
            },
            Event::Sample => {
                self.outcome.waits_ms.push((self.now, self.queued / self.net.rate * 1e3));
                for flow in 0..self.flows.len() {
                    if self.flows[flow].app.is_some() {
                        self.pump(flow);
                    }
                }
                self.at(self.now + 10 * MS, Event::Sample);
            }
            Event::Second => {
                for flow in 0..self.flows.len() {
                    let silent = self.now - self.flows[flow].last_ack_ns.min(self.now) >= 2 * S;
                    if let Control::Ours(_, line) = &self.flows[flow].control
                        && silent
                        && self.flows[flow].in_flight > 0
                    {
                        line.probe();
                        self.pump(flow);
                    }
                }
                self.at(self.now + S, Event::Second);
            }
        }
    }

    fn acknowledge(&mut self, flow: usize, delay_ns: u64) {
        if !self.is_up {
            return;
        }
        let mut at = self.now;
        if let Some(rate) = self.net.ack_rate {
            at = self.ack_free_ns.max(self.now) + (ACK_BYTES / rate * 1e9) as u64;
            if at - self.now > 50 * MS {
                // Dropped: the next one names these too.
                self.flows[flow].ack_due_ns = None;
                return;
            }
            self.ack_free_ns = at;
        }
        let numbers = self.flows[flow].report();
        at += self.net.rtt_ns - self.net.rtt_ns / 2 + self.flows[flow].extra_ns;
        if self.net.ack_batch_ns > 0 {
            at = at.div_ceil(self.net.ack_batch_ns) * self.net.ack_batch_ns;
        }
        self.at(at, Event::Ack { flow, numbers, delay_ns });
    }
}
