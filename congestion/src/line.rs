//! What is known of one line: shared by the controllers of its connections and the link that sends.
//!
//! The controller writes figures, the link a declared rate, a model of an earlier connection, and leave to probe a line
//! that fell silent. All of it is atomics: neither waits for the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The share of a declared rate that is used. The rest is the queue's to drain.
const DECLARED_SHARE: f64 = 0.98;
/// A model older than this says nothing about the line as it is now.
const MODEL_AGE: Duration = Duration::from_secs(3600);

/// Shorter ones may be nothing but acknowledgements, which are never acknowledged themselves: 64 ranges and what is around
/// them. quinn tells of them as of any packet.
const SHORT_BYTES: u64 = 600;

/// One line, in the direction in which this node sends.
#[derive(Debug, Default)]
pub struct Line {
    is_slow: bool,
    declared_bytes_per_s: AtomicU64,
    sent_bytes: AtomicU64,
    acked_bytes: AtomicU64,
    lost_bytes: AtomicU64,
    in_flight_bytes: AtomicU64,
    rate_bytes_per_s: AtomicU64,
    window_bytes: AtomicU64,
    min_rtt_us: AtomicU64,
    starting: AtomicBool,
    probe_bytes: AtomicU64,
    model_rate_bytes_per_s: AtomicU64,
    model_min_rtt_us: AtomicU64,
}

/// How the line stands. Bytes are those of UDP payload; the first three only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Sent, packets that are only acknowledgements included.
    pub sent_bytes: u64,
    /// Acknowledged.
    pub acked_bytes: u64,
    /// Given up as lost.
    pub lost_bytes: u64,
    /// Sent, and neither acknowledged nor given up; short packets count from the next acknowledgement on.
    pub in_flight_bytes: u64,
    /// What the line delivers when it is full; 0 while nothing is known.
    pub rate_bytes_per_s: u64,
    /// What may be in flight.
    pub window_bytes: u64,
    /// The round trip without a queue; zero while nothing is known.
    pub min_rtt: Duration,
    /// Still looking for the line's rate.
    pub starting: bool,
}

/// What a connection leaves to the next one over the same line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// See [`Figures::rate_bytes_per_s`].
    pub rate_bytes_per_s: u64,
    /// See [`Figures::min_rtt`].
    pub min_rtt: Duration,
}

impl Line {
    /// A line of which nothing is known but whether it is slow: 10 Mbit/s or less.
    #[must_use]
    pub fn new(slow: bool) -> Arc<Self> {
        Arc::new(Self { is_slow: slow, starting: AtomicBool::new(true), ..Self::default() })
    }

    /// Whether it was called slow.
    #[must_use]
    pub const fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Says what the line carries, in bytes of IP packets a second. It only ever holds back: one that is too high does
    /// nothing.
    pub fn declare(&self, bytes_per_s: Option<u64>) {
        self.declared_bytes_per_s.store(bytes_per_s.unwrap_or(0), Relaxed);
    }

    /// How it stands now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            sent_bytes: self.sent_bytes.load(Relaxed),
            acked_bytes: self.acked_bytes.load(Relaxed),
            lost_bytes: self.lost_bytes.load(Relaxed),
            in_flight_bytes: self.in_flight_bytes.load(Relaxed),
            rate_bytes_per_s: self.rate_bytes_per_s.load(Relaxed),
            window_bytes: self.window_bytes.load(Relaxed),
            min_rtt: Duration::from_micros(self.min_rtt_us.load(Relaxed)),
            starting: self.starting.load(Relaxed),
        }
    }

    /// What the next connection may begin with; none while the rate is still being looked for.
    #[must_use]
    pub fn saved(&self) -> Option<Saved> {
        let Figures { rate_bytes_per_s, min_rtt, starting, .. } = self.figures();
        (!starting && rate_bytes_per_s > 0).then_some(Saved { rate_bytes_per_s, min_rtt })
    }

    /// Lets connections to come begin at half of an earlier one's rate, if its model is younger than an hour.
    pub fn restore(&self, saved: Saved, age: Duration) {
        if age < MODEL_AGE {
            self.model_rate_bytes_per_s.store(saved.rate_bytes_per_s, Relaxed);
            self.model_min_rtt_us.store(micros(saved.min_rtt), Relaxed);
        }
    }

    /// Lets two packets go although the window is full, until something is acknowledged. To be called each second in
    /// which nothing was; quinn alone would wait twice as long from probe to probe.
    pub fn probe(&self) {
        let Figures { in_flight_bytes, window_bytes, .. } = self.figures();
        let probe_bytes = in_flight_bytes.max(window_bytes).max(self.probe_bytes.load(Relaxed));
        self.probe_bytes.store(probe_bytes + 2 * crate::rate::PACKET_BYTES, Relaxed);
    }

    pub(crate) fn on_sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Relaxed);
        if bytes > SHORT_BYTES {
            self.in_flight_bytes.fetch_add(bytes, Relaxed);
        }
    }

    pub(crate) fn on_acked(&self, bytes: u64, in_flight_bytes: u64) {
        self.acked_bytes.fetch_add(bytes, Relaxed);
        self.in_flight_bytes.store(in_flight_bytes, Relaxed);
        self.probe_bytes.store(0, Relaxed);
    }

    pub(crate) fn on_lost(&self, bytes: u64) {
        self.lost_bytes.fetch_add(bytes, Relaxed);
        let less = |in_flight: u64| Some(in_flight.saturating_sub(bytes));
        let _ = self.in_flight_bytes.fetch_update(Relaxed, Relaxed, less);
    }

    pub(crate) fn publish(&self, window_bytes: u64, rate_bytes_per_s: f64, min_rtt: Duration, starting: bool) {
        self.window_bytes.store(window_bytes, Relaxed);
        self.rate_bytes_per_s.store(rate_bytes_per_s as u64, Relaxed);
        self.min_rtt_us.store(micros(min_rtt), Relaxed);
        self.starting.store(starting, Relaxed);
    }

    /// What a silent line may have in flight at least.
    pub(crate) fn probe_bytes(&self) -> u64 {
        self.probe_bytes.load(Relaxed)
    }

    /// The most of UDP payload a second that a declaration leaves, in packets of `mtu`.
    pub(crate) fn most_bytes_per_s(&self, mtu: u64, header: u64) -> Option<f64> {
        let declared = self.declared_bytes_per_s.load(Relaxed);
        (declared > 0).then(|| DECLARED_SHARE * declared as f64 * mtu as f64 / (mtu + header) as f64)
    }

    pub(crate) fn model(&self) -> Option<Saved> {
        let rate_bytes_per_s = self.model_rate_bytes_per_s.load(Relaxed);
        let min_rtt = Duration::from_micros(self.model_min_rtt_us.load(Relaxed));
        (rate_bytes_per_s > 0).then_some(Saved { rate_bytes_per_s, min_rtt })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_used_for_an_hour_and_only_once_the_rate_is_known() {
        let line = Line::new(false);
        line.publish(10_000, 1e6, Duration::from_millis(50), true);
        assert_eq!(line.saved(), None);
        line.publish(10_000, 1e6, Duration::from_millis(50), false);
        let saved = line.saved().expect("known");
        let next = Line::new(false);
        next.restore(saved, Duration::from_secs(3600));
        assert_eq!(next.model(), None);
        next.restore(saved, Duration::from_secs(3599));
        assert_eq!(next.model(), Some(saved));
    }

    #[test]
    fn a_probe_opens_two_packets_more_each_time_until_something_is_acknowledged() {
        let line = Line::new(false);
        line.publish(10_000, 1e6, Duration::from_millis(50), false);
        line.probe();
        assert_eq!(line.probe_bytes(), 10_000 + 2 * crate::rate::PACKET_BYTES);
        line.probe();
        assert_eq!(line.probe_bytes(), 10_000 + 4 * crate::rate::PACKET_BYTES);
        line.on_acked(1, 0);
        assert_eq!(line.probe_bytes(), 0);
    }

    #[test]
    fn acknowledgements_of_ours_are_not_in_flight() {
        let line = Line::new(false);
        line.on_sent(40);
        assert_eq!((line.figures().sent_bytes, line.figures().in_flight_bytes), (40, 0));
    }
}
