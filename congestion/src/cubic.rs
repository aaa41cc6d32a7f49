//! RFC 9438: slow start, one cut for each loss event, growth by the cube of time.

use std::time::{Duration, Instant};

/// What is kept at a loss.
const BETA: f64 = 0.7;
/// Packets a second cubed.
const C: f64 = 0.4;
const LEAST_PACKETS: f64 = 2.0;

/// A Cubic window.
#[derive(Debug, Clone)]
pub struct Cubic {
    packet_bytes: f64,
    window: f64,
    slow_start_up_to: f64,
    most: f64,
    k_s: f64,
    since: Option<Instant>,
    reno: f64,
    cut: Option<Instant>,
}

impl Cubic {
    /// Begins in slow start, up to `slow_start_up_to`. Bytes.
    #[must_use]
    pub const fn new(packet_bytes: f64, window: f64, slow_start_up_to: f64) -> Self {
        Self { packet_bytes, window, slow_start_up_to, most: window, k_s: 0.0, since: None, reno: window, cut: None }
    }

    /// Bytes.
    #[must_use]
    pub const fn window(&self) -> f64 {
        self.window
    }

    /// So much was acknowledged while the window was full.
    pub fn acked(&mut self, now: Instant, bytes: f64, rtt: Duration) {
        if self.window < self.slow_start_up_to {
            self.window += bytes;
            return;
        }
        let since = *self.since.get_or_insert_with(|| {
            self.k_s = ((self.most - self.window).max(0.0) / self.packet_bytes / C).cbrt();
            self.reno = self.window;
            now
        });
        let at_s = (now.saturating_duration_since(since) + rtt).as_secs_f64();
        let target = self.most + C * (at_s - self.k_s).powi(3) * self.packet_bytes;
        self.reno += 3.0 * (1.0 - BETA) / (1.0 + BETA) * self.packet_bytes * bytes / self.window;
        if target > self.window {
            self.window += (target.min(1.5 * self.window) - self.window) * bytes / self.window;
        }
        self.window = self.window.max(self.reno);
    }

    /// A packet sent then was lost.
    pub fn lost(&mut self, now: Instant, sent: Instant) {
        if self.cut.is_some_and(|cut| sent <= cut) {
            return;
        }
        self.cut = Some(now);
        // Fast convergence: a smaller peak than the last one leaves room to others.
        self.most = if self.window < self.most { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(LEAST_PACKETS * self.packet_bytes);
        self.slow_start_up_to = self.window;
        self.since = None;
    }
}
