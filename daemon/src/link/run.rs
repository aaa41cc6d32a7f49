//! Runs out: copies units from the spool to transfer streams, one run each.
//!
//! Streams are opened in the order the core gave the runs, for the receiver verifies chunks against pages that came
//! before. A run's place is free for the core when its last byte is handed to QUIC; how many may be unacknowledged is
//! bounded here, apart for the urgent classes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tram_proto::envelope::Precedence;
use tram_proto::frame::{Frame, StreamKind};
use tram_proto::id::Digest;
use tram_proto::manifest::Layout;
use tram_relay::input::Input;

use crate::link::endpoint::{RUNS_IN_FLIGHT, URGENT_RUNS_IN_FLIGHT};
use crate::link::fault::Fault;
use crate::link::session::Link;
use crate::link::writer::run_priority;
use crate::spool::SpoolError;

/// A peer whose disk stands still for so long does not get the link back by waiting.
const OPEN: Duration = Duration::from_secs(60);
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
        let flight = flights.clone().acquire_owned().await.ok();
        let stream = tokio::time::timeout(OPEN, connection.open_uni()).await;
        let stream = stream.map_err(|_| Fault::Stalled(OPEN.as_secs()))?.map_err(Fault::Lost)?;
        let _ = stream.set_priority(run_priority(run.precedence, nth));
        nth += 1;
        let link = link.clone();
        tasks.spawn(async move {
            let done = copy(&link, stream, run).await;
            drop(flight);
            done
        });
    }
}

async fn copy(link: &Arc<Link>, mut stream: SendStream, run: Run) -> Result<(), Fault> {
    let handed = hand_over(link, &mut stream, &run).await;
    match &handed {
        Ok(()) => {
            let _ = stream.finish();
        }
        Err(Broken::Spool(why)) => {
            link.warn("a payload cannot be sent on", &format!("{}: {why}", run.root));
            let _ = stream.reset(UNREADABLE);
        }
        Err(Broken::Write(WriteError::ConnectionLost(error))) => return Err(Fault::Lost(error.clone())),
        Err(Broken::Write(_)) => link.warn("the peer did not take a run", &format!("of payload {}", run.root)),
    }
    link.tell(Input::RunSent { link: link.id }).await?;
    if handed.is_ok() {
        let _ = stream.stopped().await;
    }
    Ok(())
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
