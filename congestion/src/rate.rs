//! The controller: how much may be in flight.
//!
//! It keeps a small, fixed queue of its own in the line and no more: each round the window moves by what the queue lacks
//! of that. The queue is measured by round trips, so random loss plays no part; flows that each keep the same small queue
//! get the same rate. Start-up doubles until a queue is seen. What round trips do not show has its own part: loss we
//! cause ([`crate::loss`]), queues of others ([`crate::rival`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cubic::Cubic;
use crate::floor::Floor;
use crate::line::Line;
use crate::loss::{Advice, CUT, Loss};
use crate::rival::{FALL, Queue, Watch, judge};
use crate::sampler::{BURST, Round, Sampler};

/// A packet of full size; how it counts where the line's is not known.
pub const PACKET_BYTES: u64 = 1452;
/// Fewer in flight, and every loss would be a time-out.
pub const LEAST_PACKETS: u64 = 4;
/// IPv6 and UDP: what the IP layer adds to a packet at most.
const HEADER_BYTES: u64 = 48;
/// Packets sent before the first acknowledgement, and on a slow line, where 32 would be 190 ms of 2 Mbit/s.
const FIRST_PACKETS: u64 = 32;
const FIRST_PACKETS_SLOW: u64 = 10;
/// After everything was lost for long.
const AGAIN_PACKETS: u64 = 10;
/// The queue we keep: so many packets, which makes flows equal, and so much time, which bridges the gaps between bursts
/// of packets.
const OWN_PACKETS: f64 = 2.0;
const OWN_QUEUE: Duration = Duration::from_millis(1);
/// On short lines less time, a part of the round trip.
const OWN_PART: u32 = 64;
/// Shorter is a room or a machine, where what the hosts take to wake up is most of it: there the queue bridges that, else
/// ten packets would be the window.
const ROOM: Duration = Duration::from_millis(1);
/// The share of what the queue lacks by which the window moves each round. All of it would overshoot: what a round shows
/// is the window of the round before.
const STEP: f64 = 0.5;
/// Rounds whose best rate is the line's.
const ROUNDS: usize = 10;
/// Start-up ends after so many rounds that brought less than a quarter.
const STALLED: u8 = 3;
const GROWTH: f64 = 1.25;
/// Round trips that all must be long to end start-up.
const TRIPS: usize = 8;
/// Looking for the floor: so much of the line is left empty, for a round that empties it and one that measures.
const LOOK: f64 = 0.75;
const LOOK_ROUNDS: u8 = 2;
/// Rounds after the window fell until its effect is seen in full.
const TEST_ROUNDS: u8 = 1;
/// A floor that was raised and sinks again within this time was others' queue.
const RAISED: Duration = Duration::from_secs(20);
/// A long queue that comes back within this time is not ours.
const GAVE_WAY: Duration = Duration::from_secs(5);
/// Bursts of acknowledgements up to this are usual.
const BURST_PACKETS: f64 = 4.0;
/// Rounds without a queue that end it sooner.
const CLEAR: u8 = 4;
/// Among flows that fill the queue we stay so long at a time.
const COMPETE: Duration = Duration::from_secs(10);
/// So long after competing, others are expected to be there still.
const COMPETED: Duration = Duration::from_secs(30);
/// Rounds without growth after a mark of congestion.
const MARKED_ROUNDS: u8 = 8;

#[derive(Debug, Clone)]
enum Phase {
    /// Doubling; the best rate so far and rounds that did not better it.
    Start { best: f64, stalled: u8 },
    /// The line is full: rounds until the window is set by what it delivers.
    Settle { rounds: u8 },
    /// Keeping our queue.
    Cruise,
    /// Looking for the floor again: rounds left, and the window to come back to.
    Look { rounds: u8, before: f64 },
    /// Finding out whose queue it is: rounds left, the window before we gave way, and window, round trip and
    /// floor before the fall.
    Test { rounds: u8, before: f64, window: f64, rtt: Duration, floor: Duration },
    /// Among flows that fill the queue.
    Compete { cubic: Cubic, since: Instant, clear: u8 },
}

/// The controller of one path.
#[derive(Debug, Clone)]
pub struct Rate {
    line: Arc<Line>,
    mtu: u64,
    window: f64,
    phase: Phase,
    sampler: Sampler,
    rates: VecDeque<f64>,
    /// The best rate since the floor was looked for: what a packet's time on the line is taken from.
    peak: f64,
    floor: Floor,
    loss: Loss,
    watch: Watch,
    trips: VecDeque<Duration>,
    /// What the window grows by while there is no queue, and the rate at which that began.
    climb: Option<(f64, f64)>,
    marked: u8,
    before_cut: f64,
    /// When a long queue went away as we gave way.
    gave_way: Option<Instant>,
    /// When we last competed, and the window then.
    competed: Option<(Instant, f64)>,
    /// When the floor was raised.
    raised: Option<Instant>,
    /// It was a queue of others the last time.
    is_suspect: bool,
    /// Bytes that the last rounds each acknowledged in one burst, beyond what the rate explains.
    bursts: VecDeque<f64>,
    latest: Duration,
}

impl Rate {
    /// At the beginning of a path.
    #[must_use]
    pub fn new(line: Arc<Line>, now: Instant, mtu: u16) -> Self {
        let packets = if line.is_slow() { FIRST_PACKETS_SLOW } else { FIRST_PACKETS };
        let first = (packets * u64::from(mtu)) as f64;
        let model = line.model().map(|model| model.rate_bytes_per_s as f64 * model.min_rtt.as_secs_f64() / 2.0);
        let window = model.map_or(first, |half| half.max(first));
        let rate = Self {
            line,
            mtu: mtu.into(),
            window,
            phase: Phase::Start { best: 0.0, stalled: 0 },
            sampler: Sampler::new(now),
            rates: VecDeque::new(),
            peak: 0.0,
            floor: Floor::default(),
            loss: Loss::default(),
            watch: Watch::default(),
            trips: VecDeque::new(),
            climb: None,
            marked: 0,
            before_cut: 0.0,
            gave_way: None,
            competed: None,
            raised: None,
            is_suspect: false,
            bursts: VecDeque::new(),
            latest: Duration::ZERO,
        };
        rate.publish();
        rate
    }

    /// Bytes that may be in flight.
    #[must_use]
    pub fn window(&self) -> u64 {
        (self.window as u64).max(LEAST_PACKETS * self.mtu).max(self.line.probe_bytes())
    }

    /// Packets grew or shrank.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    /// Packets were sent together.
    pub fn sent(&mut self, now: Instant, bytes: u64) {
        self.sampler.sent(now);
        self.line.on_sent(bytes);
    }

    /// A packet was acknowledged.
    pub fn acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.sampler.acked(now, sent, bytes);
    }

    /// All acknowledgements that came together were told.
    pub fn end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let was_full = in_flight as f64 + self.sampler.batch() as f64 + 3.0 * self.mtu as f64 >= self.window;
        let (bytes, rtt, round) = self.sampler.end_acks(now, in_flight, app_limited && !was_full);
        self.line.on_acked(bytes, in_flight);
        if let Some(rtt) = rtt {
            self.latest = rtt;
            // The line became longer, and then again shorter: that is how a queue looks that others fill.
            let is_recent = |raised: Instant| now.saturating_duration_since(raised) < RAISED;
            if rtt + self.sign() < self.least() && self.raised.take().is_some_and(is_recent) {
                self.is_suspect = true;
            }
            self.floor.saw(now, rtt);
            self.trips.push_back(rtt);
            if self.trips.len() > TRIPS {
                self.trips.pop_front();
            }
        }
        match &mut self.phase {
            Phase::Start { .. } => {
                if !app_limited || was_full {
                    self.window += bytes as f64;
                }
                if self.trips.len() == TRIPS && self.trips.iter().all(|trip| self.is_queue(*trip)) {
                    self.settle();
                }
            }
            Phase::Compete { cubic, .. } => {
                if was_full {
                    cubic.acked(now, bytes as f64, self.latest);
                }
                self.window = cubic.window();
            }
            _ => {}
        }
        if let Some(round) = round {
            self.round(now, round);
        }
        self.bound(now);
        self.publish();
    }

    /// Packets were given up.
    pub fn lost(&mut self, now: Instant, sent: Instant, bytes: u64, is_persistent: bool) {
        self.sampler.lost(bytes);
        self.line.on_lost(bytes);
        if is_persistent {
            self.window = (AGAIN_PACKETS * self.mtu) as f64;
            self.phase = Phase::Start { best: 0.0, stalled: 0 };
            self.rates.clear();
            self.watch.clear();
            self.trips.clear();
            self.climb = None;
        } else if self.is_queue(self.latest)
            && let Phase::Compete { cubic, .. } = &mut self.phase
        {
            cubic.lost(now, sent);
            self.window = cubic.window();
        }
        self.publish();
    }

    /// A router marked a packet instead of dropping it.
    pub fn marked(&mut self, _now: Instant) {
        if self.marked < MARKED_ROUNDS {
            self.marked = MARKED_ROUNDS;
            self.window *= CUT;
            if let Phase::Start { .. } = self.phase {
                self.settle();
            }
            self.publish();
        }
    }

    /// Bytes a second that the line delivers.
    fn best(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn least(&self) -> Duration {
        self.floor.get().unwrap_or_default()
    }

    /// A queue so long is more than ours and more than chance.
    fn sign(&self) -> Duration {
        let base = (self.least() / 16).clamp(Duration::from_millis(2), Duration::from_millis(10));
        let rate = self.peak;
        if rate > 0.0 { base + Duration::from_secs_f64((4.0 * self.mtu as f64 / rate).min(1.0)) } else { base }
    }

    /// A queue so long, in seconds, is not kept by flows like ours.
    fn most_wait(&self) -> f64 {
        let base = (self.least() / 8).clamp(Duration::from_millis(4), Duration::from_millis(20)).as_secs_f64();
        base + 2.0 * self.mtu as f64 / self.peak.max(self.mtu as f64)
    }

    fn is_queue(&self, trip: Duration) -> bool {
        self.floor.get().is_some_and(|least| trip > least + self.sign())
    }

    /// Bytes of queue that are ours.
    fn own(&self) -> f64 {
        let least = self.least();
        let time = if least < ROOM { OWN_QUEUE } else { OWN_QUEUE.min(least / OWN_PART) };
        let burst = self.bursts.iter().copied().fold(f64::INFINITY, f64::min);
        OWN_PACKETS * self.mtu as f64 + self.best() * time.as_secs_f64() + if burst.is_finite() { burst } else { 0.0 }
    }

    /// What fills the line at this rate of delivery, without a queue.
    fn full(&self, rate: f64) -> f64 {
        rate * self.least().as_secs_f64() / (1.0 - self.loss.own())
    }

    fn settle(&mut self) {
        self.phase = Phase::Settle { rounds: 1 };
    }

    fn round(&mut self, now: Instant, round: Round) {
        if let Some(rate) = round.rate
            && (!round.is_limited || rate > self.best())
        {
            self.rates.push_back(rate);
            if self.rates.len() > ROUNDS {
                self.rates.pop_front();
            }
        }
        self.peak = self.peak.max(self.best());
        let usual = BURST_PACKETS * self.mtu as f64 + 1.25 * self.best() * BURST.as_secs_f64();
        self.bursts.push_back((round.burst as f64 - usual).max(0.0));
        if self.bursts.len() > ROUNDS {
            self.bursts.pop_front();
        }
        self.marked = self.marked.saturating_sub(1);
        let rate = round.rate.unwrap_or_else(|| self.best());
        let has_queue = self.is_queue(round.min_rtt);
        let packets = |bytes: u64| bytes as f64 / self.mtu as f64;
        let (lost, acked) = (packets(round.lost), packets(round.acked));
        let is_steady = matches!(self.phase, Phase::Cruise | Phase::Start { .. });
        if is_steady {
            let best = self.best();
            match self.loss.round(now, lost, acked, has_queue, best) {
                Advice::Cut if matches!(self.phase, Phase::Cruise) => {
                    self.before_cut = self.window;
                    self.window *= CUT;
                    self.climb = None;
                    return;
                }
                Advice::Restore => self.window = self.window.max(self.before_cut),
                _ => {}
            }
        }
        match &mut self.phase {
            Phase::Start { best, stalled } => {
                if round.is_limited {
                    return;
                }
                if rate >= GROWTH * *best {
                    (*best, *stalled) = (rate, 0);
                    return;
                }
                *stalled += 1;
                if *stalled >= STALLED || self.loss.is_excessive() {
                    self.settle();
                }
            }
            Phase::Settle { rounds: rounds @ 1.. } => *rounds -= 1,
            Phase::Settle { .. } => {
                self.window = self.window.min(self.full(self.best()) + self.own());
                self.loss.forget();
                self.phase = Phase::Cruise;
            }
            Phase::Cruise => self.cruise(now, round, rate, has_queue),
            Phase::Look { rounds, before } => {
                *rounds -= 1;
                if *rounds == 0 {
                    self.window = *before;
                    if round.min_rtt > self.least() {
                        self.raised = Some(now);
                    }
                    self.floor.set(now, round.min_rtt);
                    self.peak = self.best().max(self.peak / 2.0);
                    self.phase = Phase::Cruise;
                }
            }
            Phase::Test { rounds: rounds @ 1.., .. } => *rounds -= 1,
            Phase::Test { before, window, rtt, floor, .. } => {
                let (before, window, rtt, floor) = (*before, *window, *rtt, *floor);
                let seconds = |time: Duration| time.as_secs_f64();
                // A floor that sank showed a queue below it: then all of the wait before counts, not what is left.
                let waited = if self.least() < floor { rtt } else { round.min_rtt };
                let wait = |rtt: Duration| seconds(rtt.saturating_sub(self.least()));
                let most = self.most_wait();
                let mut queue = judge(seconds(rtt), seconds(round.min_rtt), wait(waited), most);
                let recently = |at: Instant, within| now.saturating_duration_since(at) < within;
                // Whoever was there a moment ago most likely still is: then less of a queue says so.
                let competed = self.competed.filter(|(at, _)| recently(*at, COMPETED));
                let sign = competed.map_or(most, |_| 2.0 * self.own() / self.peak.max(1.0));
                if queue == Queue::Ours && wait(rtt) > sign {
                    // A queue of ours does not come back at once.
                    if self.gave_way.replace(now).is_some_and(|gave| recently(gave, GAVE_WAY)) {
                        queue = Queue::Shared;
                    }
                }
                self.phase = Phase::Cruise;
                match queue {
                    // If there is still too much of it, the next rounds give way as before.
                    Queue::Ours => {
                        self.window = window;
                        self.is_suspect = false;
                    }
                    Queue::None if !self.is_suspect => {
                        self.floor.set(now, round.min_rtt);
                        self.raised = Some(now);
                        self.window = before;
                    }
                    Queue::None | Queue::Shared => {
                        self.is_suspect = true;
                        let had = competed.filter(|(at, _)| recently(*at, GAVE_WAY)).map_or(0.0, |(_, had)| had);
                        let cubic = Cubic::new(self.mtu as f64, before.max(had), 0.0);
                        self.phase = Phase::Compete { cubic, since: now, clear: 0 };
                    }
                }
            }
            Phase::Compete { since, clear, .. } => {
                *clear = if has_queue { 0 } else { *clear + 1 };
                // Whether the others are still there shows when we give way for a few rounds.
                if *clear >= CLEAR || now.saturating_duration_since(*since) > COMPETE {
                    self.competed = Some((now, self.window));
                    self.phase = Phase::Cruise;
                }
            }
        }
    }

    fn cruise(&mut self, now: Instant, round: Round, rate: f64, has_queue: bool) {
        let least = self.least().as_secs_f64();
        let wait = (round.min_rtt.as_secs_f64() - least).max(0.0);
        let standing = self.window * wait / (least + wait).max(1e-9);
        let own = self.own();
        if has_queue {
            let recent = self.rates.iter().rev().take(2).copied().fold(0.0, f64::max);
            self.rates.retain(|rate| *rate <= recent);
        }
        if standing > own {
            if let Some(before) = self.watch.stands(self.window) {
                let (window, rtt, floor) = (self.window, round.min_rtt, self.least());
                self.phase = Phase::Test { rounds: TEST_ROUNDS, before, window, rtt, floor };
                self.window *= FALL;
                return;
            }
        } else {
            self.watch.clear();
            if self.floor.is_stale(now) && !round.is_limited {
                self.phase = Phase::Look { rounds: LOOK_ROUNDS, before: self.window };
                self.window *= LOOK;
                return;
            }
        }
        if standing >= own / 2.0 {
            self.climb = None;
            self.window += STEP * (own - standing);
            return;
        }
        if round.is_limited || self.marked > 0 || self.loss.is_excessive() {
            return;
        }
        // No queue at all: the line may carry more. Steps double as long as the rate follows them.
        let (step, began) = self.climb.unwrap_or((STEP * own, rate));
        self.window += step;
        let proven = (rate - began).max(0.0) * least / 2.0;
        let most = (self.best() * self.sign().as_secs_f64() / 2.0).max(proven);
        self.climb = Some(((2.0 * step).min(most).max(STEP * own), began));
    }

    fn bound(&mut self, now: Instant) {
        let least = self.least().as_secs_f64();
        if least > 0.0 {
            if let Some(most) = self.line.most_bytes_per_s(self.mtu, HEADER_BYTES) {
                self.window = self.window.min(most * least);
            }
            if let Some(limit) = self.loss.limit(now) {
                self.window = self.window.min(self.full(limit));
            }
        }
        self.window = self.window.max((LEAST_PACKETS * self.mtu) as f64);
    }

    fn publish(&self) {
        let starting = matches!(self.phase, Phase::Start { .. });
        self.line.publish(self.window(), self.best(), self.least(), starting);
    }
}
