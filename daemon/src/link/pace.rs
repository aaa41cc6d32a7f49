//! How fast a link sends: its congestion controller, what is declared of its line, and the probing of a silent one.

use std::sync::Arc;
use std::time::Duration;

use quinn::TransportConfig;
use quinn::congestion::BbrConfig;
use serde::Deserialize;
use tram_congestion::{Line, TramRate};
use tram_proto::frame::Frame;

use crate::link::fault::Fault;
use crate::link::session::Link;
use crate::link::writer::{Letter, Queue};

/// Up to this rate a batch of ten packets stands in the line for 12 ms or more: packets are sent one by one.
const SLOW_BYTES_PER_S: u64 = 10_000_000 / 8;
/// A line from which no acknowledgement came for so long, with packets under way, is silent.
const SILENT: Duration = Duration::from_secs(2);
/// A silent line is probed so often. quinn's own probes come at twice the distance each time, so that after 20 s of
/// silence the next might come 20 s late.
const PROBE: Duration = Duration::from_secs(1);

/// Which congestion controller a link uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// Ours.
    #[default]
    Tram,
    /// quinn's default.
    Cubic,
    /// quinn's experiment.
    Bbr,
}

/// How a link sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// The controller.
    pub congestion: Congestion,
    /// What the line carries from here on, in bytes of IP packets a second, if that was declared.
    pub rate_bytes_per_s: Option<u64>,
}

impl Pace {
    /// A line of which no more is known than this.
    pub(crate) fn line(self) -> Arc<Line> {
        let line = Line::new(self.rate_bytes_per_s.is_some_and(|rate| rate <= SLOW_BYTES_PER_S));
        line.declare(self.rate_bytes_per_s);
        line
    }

    /// Sets what depends on it.
    pub(crate) fn set(self, transport: &mut TransportConfig, line: &Arc<Line>) {
        match self.congestion {
            Congestion::Tram => {
                transport.congestion_controller_factory(Arc::new(TramRate::new(line.clone())));
            }
            Congestion::Cubic => {}
            Congestion::Bbr => {
                transport.congestion_controller_factory(Arc::new(BbrConfig::default()));
            }
        }
        transport.enable_segmentation_offload(!line.is_slow());
    }
}

/// Probes the line while it is silent, so that its return is noticed at once.
pub(crate) async fn probe(link: Arc<Link>, control: Queue) -> Result<(), Fault> {
    let (mut acked_bytes, mut silent) = (0, Duration::ZERO);
    loop {
        tokio::time::sleep(PROBE).await;
        let figures = link.line.figures();
        let is_silent = figures.acked_bytes == acked_bytes && figures.in_flight_bytes > 0;
        silent = if is_silent { silent + PROBE } else { Duration::ZERO };
        acked_bytes = figures.acked_bytes;
        if silent >= SILENT {
            link.line.probe();
            let ping = Frame::Ping { number: 0, clock_ms: link.here.clock.wall_ms() };
            // If the queue is full, there is something to send anyway.
            let _ = control.try_send(Box::new(Letter::Frame(ping)));
        }
    }
}
