//! Rounds: what was delivered from one round trip to the next, how fast, after how long.
//!
//! A round ends with the first acknowledgement of a packet that was sent after the round began. Its rate is that of the
//! packet which ends it: delivered since that packet was sent, in the longer of the time it took to send and the time it
//! took to acknowledge, so that acknowledgements that come in bursts do not look like a faster line.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Shorter intervals give no rate.
const LEAST_INTERVAL: Duration = Duration::from_micros(100);
/// What is acknowledged within this time came in one burst.
pub const BURST: Duration = Duration::from_millis(1);

/// The state at an instant of sending: packets that were sent together share it.
#[derive(Debug, Clone, Copy)]
struct Departure {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// When the packet was sent whose acknowledgement was the last to come before.
    first_sent: Instant,
}

/// A round that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Bytes a second; none if the interval was too short to tell.
    pub rate: Option<f64>,
    /// The shortest round trip seen in it.
    pub min_rtt: Duration,
    /// Bytes acknowledged.
    pub acked: u64,
    /// Bytes given up as lost.
    pub lost: u64,
    /// The most bytes acknowledged in one burst.
    pub burst: u64,
    /// The application had less to send than the window allowed.
    pub is_limited: bool,
}

/// Measures rounds.
#[derive(Debug, Clone)]
pub struct Sampler {
    departures: VecDeque<Departure>,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    in_flight: bool,
    /// The newest departure acknowledged in this batch, and its bytes.
    newest: Option<Departure>,
    batch: u64,
    round_ends: u64,
    min_rtt: Option<Duration>,
    acked: u64,
    lost: u64,
    limited: u64,
    burst: (Instant, u64),
    largest_burst: u64,
}

impl Sampler {
    /// Begins.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            departures: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            in_flight: false,
            newest: None,
            batch: 0,
            round_ends: 0,
            min_rtt: None,
            acked: 0,
            lost: 0,
            limited: 0,
            burst: (now, 0),
            largest_burst: 0,
        }
    }

    /// Something was sent.
    pub fn sent(&mut self, now: Instant) {
        if self.departures.back().is_some_and(|last| last.at >= now) {
            return;
        }
        if !self.in_flight {
            // After a pause, time counts from here.
            (self.delivered_at, self.first_sent, self.in_flight) = (now, now, true);
        }
        let Self { delivered, delivered_at, first_sent, .. } = *self;
        self.departures.push_back(Departure { at: now, delivered, delivered_at, first_sent });
    }

    /// A packet was acknowledged.
    pub fn acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        self.batch += bytes;
        if now.saturating_duration_since(self.burst.0) >= BURST {
            self.burst = (now, 0);
        }
        self.burst.1 += bytes;
        self.largest_burst = self.largest_burst.max(self.burst.1);
        let place = self.departures.partition_point(|departure| departure.at < sent);
        if let Some(departure) = self.departures.get(place).filter(|departure| departure.at == sent)
            && self.newest.is_none_or(|newest| newest.at < sent)
        {
            self.newest = Some(*departure);
        }
    }

    /// Packets were given up.
    pub const fn lost(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    /// Bytes acknowledged in the batch that is being told.
    #[must_use]
    pub const fn batch(&self) -> u64 {
        self.batch
    }

    /// All acknowledgements that came together were told: the bytes, the round trip of the newest, and the round if it
    /// ended.
    pub fn end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        is_limited: bool,
    ) -> (u64, Option<Duration>, Option<Round>) {
        let bytes = std::mem::take(&mut self.batch);
        self.acked += bytes;
        if is_limited {
            self.limited += bytes;
        }
        self.in_flight = in_flight > 0;
        let Some(newest) = self.newest.take() else { return (bytes, None, None) };
        let rtt = now.saturating_duration_since(newest.at);
        self.min_rtt = Some(self.min_rtt.map_or(rtt, |least| least.min(rtt)));
        self.first_sent = newest.at;
        while self.departures.front().is_some_and(|departure| departure.at < newest.at) {
            self.departures.pop_front();
        }
        if newest.delivered < self.round_ends {
            return (bytes, Some(rtt), None);
        }
        self.round_ends = self.delivered;
        let sending = newest.at.saturating_duration_since(newest.first_sent);
        let interval = sending.max(now.saturating_duration_since(newest.delivered_at));
        let rate =
            (interval >= LEAST_INTERVAL).then(|| (self.delivered - newest.delivered) as f64 / interval.as_secs_f64());
        let acked = std::mem::take(&mut self.acked);
        let round = Round {
            rate,
            min_rtt: self.min_rtt.take().unwrap_or(rtt),
            acked,
            lost: std::mem::take(&mut self.lost),
            burst: std::mem::take(&mut self.largest_burst),
            // A moment without data does not spoil a round; a quarter of it does.
            is_limited: 4 * std::mem::take(&mut self.limited) > acked,
        };
        (bytes, Some(rtt), Some(round))
    }
}
