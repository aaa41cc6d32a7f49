//! How fast a link may send: a congestion controller for QUIC on long, lossy lines, and what is known of the line.
//!
//! | module | owns |
//! |---|---|
//! | [`mod@line`] | what the controller tells the link, and the link the controller |
//! | [`rate`] | the controller: window and phases |
//! | [`sampler`] | rounds, delivery rate and round trips measured in them |
//! | [`floor`] | the shortest round trip |
//! | [`loss`] | loss that is the line's own, and loss that we cause |
//! | [`rival`] | whose queue it is that does not go away |
//! | [`cubic`] | RFC 9438, for company that knows nothing else |
//!
//! Never reads a clock and draws nothing at random: the same calls give the same window. Guarantees a window of at least
//! [`rate::LEAST_PACKETS`]. Why it is as it is: `docs/decisions/0014`.

pub mod cubic;
pub mod floor;
pub mod line;
pub mod loss;
pub mod rate;
pub mod rival;
pub mod sampler;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

pub use line::{Figures, Line, Saved};
pub use rate::Rate;

/// Makes the controllers of one link: quinn asks for a new one when the path changes.
#[derive(Debug)]
pub struct TramRate(Arc<Line>);

impl TramRate {
    /// For connections over this line.
    #[must_use]
    pub const fn new(line: Arc<Line>) -> Self {
        Self(line)
    }
}

impl ControllerFactory for TramRate {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Rate::new(self.0.clone(), now, current_mtu))
    }
}

impl Controller for Rate {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.sent(now, bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.acked(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.end_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        if lost_bytes == 0 {
            self.marked(now);
        } else {
            self.lost(now, sent, lost_bytes, is_persistent);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.set_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        Self::window(self)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        Self::window(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
