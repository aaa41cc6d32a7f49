//! quinn 0.11's pacer: a bucket of 2 ms of the window, at least ten packets, filled at 1.25 windows a round trip.

const INTERVAL_NS: u64 = 2_000_000;

pub(crate) struct Pacer {
    capacity: u64,
    window: u64,
    tokens: u64,
    prev_ns: u64,
}

fn capacity(srtt_ns: u64, window: u64, mtu: u64) -> u64 {
    let bytes = u128::from(window) * u128::from(INTERVAL_NS) / u128::from(srtt_ns.max(1));
    (bytes as u64).clamp(10 * mtu, 256 * mtu)
}

impl Pacer {
    pub(crate) fn new(srtt_ns: u64, window: u64, mtu: u64) -> Self {
        let capacity = capacity(srtt_ns, window, mtu);
        Self { capacity, window, tokens: capacity, prev_ns: 0 }
    }

    pub(crate) fn sent(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }

    /// When `bytes` may go; none: now.
    pub(crate) fn wait(&mut self, srtt_ns: u64, bytes: u64, mtu: u64, window: u64, now_ns: u64) -> Option<u64> {
        if window != self.window {
            self.capacity = capacity(srtt_ns, window, mtu);
            self.tokens = self.tokens.min(self.capacity);
            self.window = window;
        }
        if self.tokens >= bytes || srtt_ns == 0 {
            return None;
        }
        let trips = (now_ns - self.prev_ns) as f64 / srtt_ns as f64;
        self.tokens = (self.tokens + (window as f64 * 1.25 * trips) as u64).min(self.capacity);
        self.prev_ns = now_ns;
        if self.tokens >= bytes {
            return None;
        }
        let missing = bytes.max(self.capacity) - self.tokens;
        let wait = u128::from(srtt_ns) * u128::from(missing) / u128::from(window) / 5 * 4;
        Some(now_ns + (wait as u64).max(1))
    }
}
