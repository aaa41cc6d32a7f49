//! Runs out: copies units from the spool to transfer streams, one run each.
//!
//! Streams are opened in the order the core gave the runs, for the receiver verifies chunks against pages that came
//! before. A run's place is free for the core when its last byte is handed to QUIC; how many may be unacknowledged is
//! bounded here, apart for the urgent classes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tram_congestion::Figures;
use tram_proto::envelope::Precedence;
use tram_proto::frame::{Frame, StreamKind};
use tram_proto::id::Digest;
use tram_proto::limits::{CHUNK_BYTES, RUN_UNITS};
use tram_proto::manifest::Layout;
use tram_relay::input::Input;

use crate::link::endpoint::{RUNS_IN_FLIGHT, URGENT_RUNS_IN_FLIGHT};
use crate::link::fault::Fault;
use crate::link::session::Link;
use crate::link::transfer::{NO_ROOM, SILENT};
use crate::link::writer::run_priority;
use crate::spool::SpoolError;

/// A peer whose disk stands still for so long does not get the link back by waiting.
const OPEN: Duration = Duration::from_secs(60);
/// A round trip up to this is near: there the line outruns the disk of the receiver, and what it holds and has not stored
/// is lost with it when it is killed. 3 MiB in 10 ms are 2.5 Gbit/s.
const NEAR: Duration = Duration::from_millis(10);
/// Units of one stream towards a neighbour that is near: 1 MiB.
const NEAR_UNITS: u32 = 4;
/// A run stays in flight until its last hole is filled: at 2 % loss some are filled at the second attempt, each 1.15
/// round trips later, so that this many times what the line holds has to be in flight to keep it full.
const LINES_FULL: f64 = 1.0 + 2.0 * 1.15;
const RUN_BYTES: usize = RUN_UNITS as usize * CHUNK_BYTES;
/// What a reset transfer stream says: the sender could not read on.
const UNREADABLE: VarInt = VarInt::from_u32(1);

/// A run to send.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) root: Digest,
    pub(crate) payload_bytes: u64,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) precedence: Precedence,
}

impl Run {
    /// The same in streams of at most `most` units.
    fn pieces(self, most: u32) -> impl Iterator<Item = Self> {
        (0..self.count).step_by(most as usize).map(move |before| Self {
            root: self.root,
            payload_bytes: self.payload_bytes,
            first: self.first + u64::from(before),
            count: most.min(self.count - before),
            precedence: self.precedence,
        })
    }
}

/// These have streams of their own on both sides.
pub(crate) const fn is_urgent(precedence: Precedence) -> bool {
    matches!(precedence, Precedence::Flash | Precedence::Immediate)
}

/// Sends the runs of the urgent classes, or of the others.
pub(crate) async fn send(
    link: Arc<Link>,
    connection: Connection,
    mut runs: mpsc::Receiver<Run>,
    urgent: bool,
) -> Result<(), Fault> {
    let flights = Arc::new(Semaphore::new(if urgent { URGENT_RUNS_IN_FLIGHT } else { RUNS_IN_FLIGHT }));
    let mut tasks = JoinSet::new();
    let mut nth = 0;
    // The least that was seen: it grows under load.
    let mut round_trip = Duration::MAX;
    loop {
        let run = tokio::select! {
            run = runs.recv() => match run {
                Some(run) => run,
                None => return Ok(()),
            },
            Some(done) = tasks.join_next() => {
                done.unwrap_or(Err(Fault::Protocol("a run failed")))?;
                continue;
            }
        };
        round_trip = round_trip.min(connection.rtt());
        let end = run.first + u64::from(run.count);
        for piece in run.pieces(if round_trip <= NEAR { NEAR_UNITS } else { RUN_UNITS }) {
            while let Some(done) = tasks.try_join_next() {
                done.unwrap_or(Err(Fault::Protocol("a run failed")))?;
            }
            let flight = flight(&link, &flights, tasks.len()).await;
            let stream = tokio::time::timeout(OPEN, connection.open_uni()).await;
            let stream = stream.map_err(|_| Fault::Stalled(OPEN.as_secs()))?.map_err(Fault::Lost)?;
            let _ = stream.set_priority(run_priority(piece.precedence, nth));
            nth += 1;
            let (link, is_last) = (link.clone(), piece.first + u64::from(piece.count) == end);
            tasks.spawn(async move {
                let done = copy(&link, stream, piece, is_last).await;
                drop(flight);
                done
            });
        }
    }
}

/// A run's place among those in flight: one of the link's own, or one of the node's if the line is long and fast.
async fn flight(link: &Link, flights: &Arc<Semaphore>, in_flight: usize) -> Option<OwnedSemaphorePermit> {
    if let Ok(flight) = flights.clone().try_acquire_owned() {
        return Some(flight);
    }
    let Figures { rate_bytes_per_s, min_rtt, .. } = link.line.figures();
    let wanted_bytes = LINES_FULL * rate_bytes_per_s as f64 * min_rtt.as_secs_f64();
    if ((in_flight * RUN_BYTES) as f64) < wanted_bytes
        && let Ok(flight) = link.here.more_runs.clone().try_acquire_owned()
    {
        return Some(flight);
    }
    flights.clone().acquire_owned().await.ok()
}

/// Sends a run, or a piece of one; the last piece frees its place with the core.
async fn copy(link: &Arc<Link>, mut stream: SendStream, run: Run, is_last: bool) -> Result<(), Fault> {
    let handed = hand_over(link, &mut stream, &run).await;
    match &handed {
        Ok(()) => {
            let _ = stream.finish();
        }
        Err(Broken::Spool(why)) => {
            link.warn("a payload cannot be sent on", &format!("{}: {why}", run.root));
            let _ = stream.reset(UNREADABLE);
            lost(link, &run).await?;
        }
        Err(Broken::Write(WriteError::ConnectionLost(error))) => return Err(Fault::Lost(error.clone())),
        Err(Broken::Write(error)) => {
            let why = match error {
                WriteError::Stopped(NO_ROOM) => "it has no room",
                WriteError::Stopped(SILENT) => "too long nothing came",
                _ => "the bytes are wrong",
            };
            link.warn("the peer did not take a run", &format!("of payload {}: {why}", run.root));
        }
    }
    if is_last {
        link.tell(Input::RunSent { link: link.id }).await?;
    }
    if handed.is_ok() {
        let _ = stream.stopped().await;
    }
    Ok(())
}

/// Tells the core what the spool still holds of a payload that could not be read.
async fn lost(link: &Link, run: &Run) -> Result<(), Fault> {
    let (root, Ok(layout)) = (run.root, Layout::new(run.payload_bytes)) else { return Ok(()) };
    match link.here.on_disk(move |spool| spool.held(root, layout)).await {
        Ok(held) => Ok(link.tell(Input::UnitsLost { root, held }).await?),
        Err(_) => Ok(()),
    }
}

enum Broken {
    Spool(String),
    Write(WriteError),
}

impl From<SpoolError> for Broken {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error.to_string())
    }
}

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// Writes the header and the units; the next unit is read from the disk while one is written.
async fn hand_over(link: &Arc<Link>, stream: &mut SendStream, run: &Run) -> Result<(), Broken> {
    let layout = Layout::new(run.payload_bytes).map_err(|error| Broken::Spool(error.to_string()))?;
    let (root, first, count) = (run.root, run.first, run.count);
    let read = |number: u64| link.here.on_disk(move |spool| spool.unit(root, layout, number));
    let mut unit = read(first).await?;
    stream.write_all(&[StreamKind::Transfer.to_byte()]).await?;
    stream.write_chunk(Frame::Run { root, first, count }.encode()).await?;
    for number in first + 1..first + u64::from(count) {
        let (written, next) = tokio::join!(stream.write_chunk(unit), read(number));
        written?;
        unit = next?;
    }
    Ok(stream.write_chunk(unit).await?)
}

/// The bytes of a unit, or what the disk said.
pub(crate) async fn manifest_unit(link: &Link, root: Digest, layout: Layout, number: u64) -> Option<Bytes> {
    link.here.on_disk(move |spool| spool.unit(root, layout, number)).await.ok()
}
