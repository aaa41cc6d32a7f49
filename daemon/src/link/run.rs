//! Runs out: copies units from the spool to transfer streams, one run each.
//!
//! Streams of one class are opened in the order the core gave the runs, for the receiver verifies chunks against pages
//! that came before. When a byte is written is for the gate to say. A run's place is free for the core when its last byte
//! is handed to QUIC; how many may be unacknowledged is bounded here, apart for the urgent classes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
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
use crate::link::gate::{Lane, Posted};
use crate::link::session::Link;
use crate::link::transfer::{NO_ROOM, SILENT};
use crate::link::writer::run_priority;
use crate::spool::SpoolError;

/// A peer whose disk stands still for so long does not get the link back by waiting.
const OPEN: Duration = Duration::from_secs(60);
/// Streams of the lower classes in flight at once, where their runs are short: a class that gets little of the line holds
/// its own, and the others fill the line beside it. The first runs on a line that is long and fast are short too.
pub(crate) const STREAMS: usize = 4 * RUNS_IN_FLIGHT;
/// A round trip up to this is near: there the line outruns the disk of the receiver, and what it holds and has not stored
/// is lost with it when it is killed. 3 MiB in 10 ms are 2.5 Gbit/s.
const NEAR: Duration = Duration::from_millis(10);
/// Units of one stream towards a neighbour that is near: 1 MiB.
const NEAR_UNITS: u32 = 4;
/// A run stays in flight until its last hole is filled: at 2 % loss some are filled at the third attempt, each 1.15
/// round trips later, so that this many times what the line holds has to be in flight to keep it full, and the run that
/// is being written beside it. Were it just enough, a rate once held back by it would never be seen to be higher.
const LINES_FULL: f64 = 1.0 + 3.0 * 1.15;
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

/// What waits to be opened, piece by piece, the most urgent first.
#[derive(Default)]
struct Pending {
    pieces: BTreeMap<Reverse<Precedence>, VecDeque<Piece>>,
    /// Pieces under way and not acknowledged, by class, and all their units.
    flying: BTreeMap<Precedence, usize>,
    units: u32,
}

struct Piece {
    run: Run,
    /// The last of its run: with it, the run's place is free.
    is_last: bool,
    posted: Posted,
}

impl Pending {
    fn push(&mut self, link: &Arc<Link>, run: Run, most_units: u32) {
        let (end, class) = (run.first + u64::from(run.count), run.precedence);
        let pieces = self.pieces.entry(Reverse(class)).or_default();
        pieces.extend(run.pieces(most_units).map(|run| {
            let is_last = run.first + u64::from(run.count) == end;
            Piece { run, is_last, posted: Posted::new(link, class) }
        }));
    }

    /// The next that may start, if so many units may be in flight. A class with nothing under way goes before one that has.
    fn next(&mut self, most_units: u32) -> Option<Piece> {
        let flies = |class: &Precedence| self.flying.get(class).is_some_and(|count| *count > 0);
        let class = *self.pieces.keys().min_by_key(|class| (flies(&class.0), **class))?;
        let pieces = self.pieces.get_mut(&class)?;
        let fits = |piece: &Piece| self.units == 0 || self.units + piece.run.count <= most_units;
        let piece = pieces.front().is_some_and(fits).then(|| pieces.pop_front()).flatten()?;
        self.units += piece.run.count;
        if pieces.is_empty() {
            self.pieces.remove(&class);
        }
        *self.flying.entry(class.0).or_default() += 1;
        Some(piece)
    }

    /// Units under way and waiting.
    fn all_units(&self) -> u32 {
        let waiting: u32 = self.pieces.values().flatten().map(|piece| piece.run.count).sum();
        self.units + waiting
    }

    fn landed(&mut self, (class, units): (Precedence, u32)) {
        self.units = self.units.saturating_sub(units);
        if let Some(count) = self.flying.get_mut(&class) {
            *count = count.saturating_sub(1);
        }
    }
}

/// Sends the runs of the urgent classes, or of the others.
pub(crate) async fn send(
    link: Arc<Link>,
    connection: Connection,
    mut runs: mpsc::Receiver<Run>,
    urgent: bool,
) -> Result<(), Fault> {
    let (runs_in_flight, streams) =
        if urgent { (URGENT_RUNS_IN_FLIGHT, URGENT_RUNS_IN_FLIGHT) } else { (RUNS_IN_FLIGHT, STREAMS) };
    let runs_in_flight = u32::try_from(runs_in_flight).unwrap_or(1);
    let mut tasks: JoinSet<Result<(Precedence, u32), Fault>> = JoinSet::new();
    let mut pending = Pending::default();
    let mut more = Vec::new();
    let mut nth = 0;
    // The least that was seen: it grows under load.
    let mut round_trip = Duration::MAX;
    loop {
        let piece_units = if round_trip <= NEAR { NEAR_UNITS } else { RUN_UNITS };
        let own_units = piece_units * runs_in_flight;
        if !urgent {
            take_more(&link, &mut more, own_units, pending.all_units());
        }
        let most_units = own_units + more.len() as u32 * RUN_UNITS;
        while tasks.len() < streams + more.len()
            && let Some(Piece { run, is_last, posted }) = pending.next(most_units)
        {
            let stream = tokio::time::timeout(OPEN, connection.open_uni()).await;
            let stream = stream.map_err(|_| Fault::Stalled(OPEN.as_secs()))?.map_err(Fault::Lost)?;
            let _ = stream.set_priority(run_priority(run.precedence, nth));
            let (link, lane, landed) = (link.clone(), Lane::Run(nth), (run.precedence, run.count));
            nth = nth.wrapping_add(1);
            tasks.spawn(async move {
                copy(&link, stream, (run, lane), is_last, posted).await?;
                Ok(landed)
            });
        }
        tokio::select! {
            run = runs.recv() => {
                let Some(run) = run else { return Ok(()) };
                round_trip = round_trip.min(connection.rtt());
                // On a busy machine quinn's average begins far above the line's own.
                let without_queue = link.line.figures().min_rtt;
                if !without_queue.is_zero() {
                    round_trip = round_trip.min(without_queue);
                }
                pending.push(&link, run, if round_trip <= NEAR { NEAR_UNITS } else { RUN_UNITS });
            }
            Some(done) = tasks.join_next() => {
                pending.landed(done.unwrap_or(Err(Fault::Protocol("a run failed")))?);
            }
        }
    }
}

/// On a long and fast line, takes places of the node's beside the link's own; gives back those that nothing waits for.
fn take_more(link: &Link, more: &mut Vec<OwnedSemaphorePermit>, own_units: u32, there_units: u32) {
    let Figures { rate_bytes_per_s, min_rtt, .. } = link.line.figures();
    let full = LINES_FULL * rate_bytes_per_s as f64 * min_rtt.as_secs_f64() / CHUNK_BYTES as f64;
    let wanted_units = (full as u32 + RUN_UNITS).min(there_units);
    let wanted = wanted_units.saturating_sub(own_units).div_ceil(RUN_UNITS) as usize;
    more.truncate(wanted);
    while more.len() < wanted
        && let Ok(place) = link.here.more_runs.clone().try_acquire_owned()
    {
        more.push(place);
    }
}

/// Sends a run, or a piece of one; the last piece frees its place with the core.
async fn copy(
    link: &Arc<Link>,
    mut stream: SendStream,
    (run, lane): (Run, Lane),
    is_last: bool,
    posted: Posted,
) -> Result<(), Fault> {
    let handed = hand_over(link, &mut stream, &run, lane).await;
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
        let (precedence, run_units) = (run.precedence, link.gate.run_units(run.precedence));
        link.tell(Input::RunSent { link: link.id, precedence, run_units }).await?;
    }
    drop(posted);
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
async fn hand_over(link: &Arc<Link>, stream: &mut SendStream, run: &Run, lane: Lane) -> Result<(), Broken> {
    let layout = Layout::new(run.payload_bytes).map_err(|error| Broken::Spool(error.to_string()))?;
    let (root, first, count, class) = (run.root, run.first, run.count, run.precedence);
    let read = |number: u64| link.here.on_disk(move |spool| spool.unit(root, layout, number));
    let mut unit = read(first).await?;
    stream.write_all(&[StreamKind::Transfer.to_byte()]).await?;
    stream.write_chunk(Frame::Run { root, first, count }.encode()).await?;
    for number in first + 1..first + u64::from(count) {
        let (bytes, chunks) = (unit.len(), &mut [unit]);
        let (written, next) = tokio::join!(link.gate.write(stream, class, lane, chunks), read(number));
        written?;
        link.traffic.sent(class, bytes);
        unit = next?;
    }
    let bytes = unit.len();
    link.gate.write(stream, class, lane, &mut [unit]).await?;
    link.traffic.sent(class, bytes);
    Ok(())
}

/// The bytes of a unit, or what the disk said.
pub(crate) async fn manifest_unit(link: &Link, root: Digest, layout: Layout, number: u64) -> Option<Bytes> {
    link.here.on_disk(move |spool| spool.unit(root, layout, number)).await.ok()
}
