//! One direction of a line: what becomes of each packet, and when. Pure: times are handed in, in nanoseconds since the
//! line began; the same packets at the same times with the same seed fare the same.
//!
//! A packet meets, in this order: the line that is cut, the path's MTU, the queue (drop at the tail), the rate, random
//! loss, the delay. Lost packets have used the line, as on a real one. Packets never overtake one another.

use std::collections::VecDeque;
use std::f64::consts::TAU;

/// Nanoseconds of a second.
pub const SECOND_NS: u64 = 1_000_000_000;
/// A varying rate is constant for so long.
const STEP_NS: u64 = SECOND_NS / 10;

/// How fast a line is, in bits of IP packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Bits per second, always.
    Fixed(u64),
    /// Goes up and down around a mean, at most by this part of it, within seconds: a mobile network.
    Varying {
        /// Bits per second.
        mean: u64,
        /// 0.5 is plus and minus a half.
        swing: f64,
    },
}

impl Rate {
    /// Bits per second, never 0, in the step that holds this time.
    #[must_use]
    pub fn at(self, now_ns: u64) -> u64 {
        match self {
            Self::Fixed(bits) => bits.max(1),
            Self::Varying { mean, swing } => {
                let step = (now_ns / STEP_NS) as f64;
                // Two periods without a common measure, 7 and 1.9 seconds: no two stretches are alike.
                let wave = 0.7 * (TAU * step / 70.0).sin() + 0.3 * (TAU * step / 19.0).sin();
                ((mean as f64 * swing.mul_add(wave, 1.0)) as u64).max(1)
            }
        }
    }

    /// Bits per second in the long run.
    #[must_use]
    pub fn mean(self) -> u64 {
        match self {
            Self::Fixed(bits) | Self::Varying { mean: bits, .. } => bits.max(1),
        }
    }

    /// Bits it could have carried between two times.
    #[must_use]
    pub fn capacity_bits(self, from_ns: u64, to_ns: u64) -> f64 {
        let (mut at, mut bits) = (from_ns, 0.0);
        while at < to_ns {
            let end = ((at / STEP_NS + 1) * STEP_NS).min(to_ns);
            bits += self.at(at) as f64 * (end - at) as f64 / SECOND_NS as f64;
            at = end;
        }
        bits
    }
}

/// Which packets vanish.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// Each with this probability.
    Random(f64),
    /// Gilbert-Elliott: all of a burst; this part of all packets, in bursts of so many on average.
    Bursts {
        /// 0.01 is one percent of all packets.
        share: f64,
        /// Packets of a burst, more than 0.
        length: f64,
    },
}

/// How one direction is just now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// How fast.
    pub rate: Rate,
    /// From the end of a packet's sending to its arrival.
    pub delay_ns: u64,
    /// Up to so much more.
    pub jitter_ns: u64,
    /// On the way, behind the queue.
    pub loss: Loss,
    /// Bytes that may wait, with the packet being sent.
    pub queue_bytes: u64,
    /// Longer packets vanish without a word.
    pub mtu: usize,
    /// Nothing gets in; what is on its way arrives.
    pub is_cut: bool,
}

impl Profile {
    /// A clean line with a queue of this time at its mean rate, but no less than two packets.
    #[must_use]
    pub fn new(rate: Rate, delay_ns: u64, queue_ns: u64) -> Self {
        let queue_bytes = (u128::from(rate.mean()) * u128::from(queue_ns) / 8 / u128::from(SECOND_NS)) as u64;
        let queue_bytes = queue_bytes.max(3000);
        Self { rate, delay_ns, jitter_ns: 0, loss: Loss::Random(0.0), queue_bytes, mtu: usize::MAX, is_cut: false }
    }
}

/// What became of packets, summed up. Bytes are those of IP packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Put on the line.
    pub offered: u64,
    /// Bytes of these.
    pub offered_bytes: u64,
    /// Did not fit the queue.
    pub dropped: u64,
    /// Lost at random.
    pub lost: u64,
    /// Met a line that was cut, or were longer than its MTU.
    pub refused: u64,
    /// Left the far end.
    pub delivered: u64,
    /// Bytes of these.
    pub delivered_bytes: u64,
}

impl Counts {
    /// What came to these since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            offered: self.offered - before.offered,
            offered_bytes: self.offered_bytes - before.offered_bytes,
            dropped: self.dropped - before.dropped,
            lost: self.lost - before.lost,
            refused: self.refused - before.refused,
            delivered: self.delivered - before.delivered,
            delivered_bytes: self.delivered_bytes - before.delivered_bytes,
        }
    }

    /// The part of what was offered that did not fit the queue.
    #[must_use]
    pub fn drop_share(self) -> f64 {
        self.dropped as f64 / self.offered.max(1) as f64
    }
}

/// SplitMix64.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    /// At least 0, less than 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One direction, carrying packets of whatever kind.
#[derive(Debug)]
pub struct Direction<P> {
    profile: Profile,
    random: Random,
    in_burst: bool,
    /// Up to here everything has been reckoned.
    now_ns: u64,
    waiting: VecDeque<(usize, P)>,
    waiting_bytes: u64,
    /// Of the first that waits: bits not yet sent, times a second in nanoseconds.
    left: u128,
    flying: VecDeque<(u64, usize, P)>,
    counts: Counts,
}

impl<P> Direction<P> {
    /// An empty direction.
    #[must_use]
    pub fn new(profile: Profile, seed: u64) -> Self {
        Self {
            profile,
            random: Random(seed),
            in_burst: false,
            now_ns: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            left: 0,
            flying: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// How it is now.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// From `now_ns` on it is otherwise; what is on its way keeps its delay.
    pub fn set(&mut self, now_ns: u64, profile: Profile) {
        self.advance(now_ns);
        self.profile = profile;
    }

    /// What became of packets so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Puts a packet of so many bytes on the line.
    pub fn push(&mut self, now_ns: u64, bytes: usize, packet: P) {
        self.advance(now_ns);
        self.counts.offered += 1;
        self.counts.offered_bytes += bytes as u64;
        if self.profile.is_cut || bytes > self.profile.mtu {
            self.counts.refused += 1;
        } else if self.waiting_bytes + bytes as u64 > self.profile.queue_bytes {
            self.counts.dropped += 1;
        } else {
            if self.waiting.is_empty() {
                self.left = work(bytes);
            }
            self.waiting_bytes += bytes as u64;
            self.waiting.push_back((bytes, packet));
        }
    }

    /// The next packet that has arrived by `now_ns`, with the time it was due.
    pub fn pop(&mut self, now_ns: u64) -> Option<(u64, P)> {
        self.advance(now_ns);
        self.flying.front().filter(|(due_ns, ..)| *due_ns <= now_ns)?;
        let (due_ns, bytes, packet) = self.flying.pop_front()?;
        self.counts.delivered += 1;
        self.counts.delivered_bytes += bytes as u64;
        Some((due_ns, packet))
    }

    /// No packet arrives before this; `None`: the line is empty.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        let queued = || (!self.waiting.is_empty()).then(|| self.sent_ns() + self.profile.delay_ns);
        self.flying.front().map(|(due_ns, ..)| *due_ns).or_else(queued)
    }

    /// When the first that waits has been sent, if the rate stays.
    fn sent_ns(&self) -> u64 {
        let rate = u128::from(self.profile.rate.at(self.now_ns));
        self.now_ns + self.left.div_ceil(rate) as u64
    }

    fn advance(&mut self, now_ns: u64) {
        while self.now_ns < now_ns && !self.waiting.is_empty() {
            let step_ends_ns = match self.profile.rate {
                Rate::Fixed(_) => u64::MAX,
                Rate::Varying { .. } => (self.now_ns / STEP_NS + 1) * STEP_NS,
            };
            let sent_ns = self.sent_ns();
            let until_ns = sent_ns.min(step_ends_ns).min(now_ns);
            let sent = u128::from(until_ns - self.now_ns) * u128::from(self.profile.rate.at(self.now_ns));
            self.left = self.left.saturating_sub(sent);
            self.now_ns = until_ns;
            if self.left == 0 {
                self.fly();
            }
        }
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// The first that waits has been sent.
    fn fly(&mut self) {
        let Some((bytes, packet)) = self.waiting.pop_front() else { return };
        self.waiting_bytes -= bytes as u64;
        self.left = self.waiting.front().map_or(0, |(bytes, _)| work(*bytes));
        if self.is_lost() {
            self.counts.lost += 1;
            return;
        }
        let jitter_ns = (self.random.unit() * self.profile.jitter_ns as f64) as u64;
        let due_ns = self.now_ns + self.profile.delay_ns + jitter_ns;
        let last_ns = self.flying.back().map_or(0, |(due_ns, ..)| *due_ns);
        self.flying.push_back((due_ns.max(last_ns), bytes, packet));
    }

    fn is_lost(&mut self) -> bool {
        let dice = self.random.unit();
        match self.profile.loss {
            Loss::Random(share) => dice < share,
            Loss::Bursts { share, length } => {
                let ends = 1.0 / length;
                let begins = share * ends / (1.0 - share).max(f64::EPSILON);
                self.in_burst = if self.in_burst { dice >= ends } else { dice < begins };
                self.in_burst
            }
        }
    }
}

fn work(bytes: usize) -> u128 {
    bytes as u128 * 8 * u128::from(SECOND_NS)
}

#[cfg(test)]
mod tests;
