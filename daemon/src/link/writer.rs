//! Frames out: takes the core's outputs for one link and writes each to its stream.
//!
//! One task deals them out and never waits, one task per stream writes, so that a stream the peer does not read stops
//! only itself. What waits is bounded by the core, which lets 1,024 offers of a class go unacknowledged; a stream with
//! [`LINK_COMMANDS`] waiting means that the peer reads nothing, and ends the link.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, SendStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tram_proto::envelope::Precedence;
use tram_proto::frame::{Frame, Offer, Recipient, StreamKind, Visit};
use tram_proto::id::CertHash;
use tram_proto::receipt::Stamp;
use tram_proto::statement::Signed;
use tram_relay::input::Row;
use tram_relay::output::Output;

use crate::engine::handle::LINK_COMMANDS;
use crate::link::fault::Fault;
use crate::link::gate::{Lane, Posted};
use crate::link::run;
use crate::link::session::Link;
use crate::spool::{Spool, SpoolError};

/// Letters loaded and written at once on one stream.
const BATCH: usize = 32;
/// Signers remembered as introduced on one stream; beyond them all are introduced again.
const INTRODUCED: usize = 16_384;

/// QUIC priorities are strict. A class's runs stand below its envelopes, in the order the core gave them, so that an
/// earlier run is whole before a later one takes room.
const STEP: i32 = 1 << 20;

/// The QUIC priority of a stream.
pub(crate) const fn priority(kind: StreamKind) -> i32 {
    let level = match kind {
        StreamKind::Control | StreamKind::Pki => 100,
        StreamKind::Receipts => 90,
        StreamKind::Class(Precedence::Flash) => 80,
        StreamKind::Class(Precedence::Immediate) => 70,
        StreamKind::Class(Precedence::Priority) => 60,
        // The core shares the line between these two; QUIC must not.
        StreamKind::Class(Precedence::Routine | Precedence::Bulk) | StreamKind::Transfer => 20,
    };
    level * STEP
}

/// The QUIC priority of the link's nth run.
pub(crate) const fn run_priority(precedence: Precedence, nth: u32) -> i32 {
    priority(StreamKind::Class(precedence)) - 1 - (nth % (STEP as u32 - 1)) as i32
}

/// Something to write on one stream.
#[derive(Debug)]
pub(crate) enum Letter {
    Frame(Frame),
    Record { record: Signed, flood: bool },
    Offer { number: u64, row: Row, visit: Visit, recipients: Vec<Recipient>, stamps: Vec<Stamp> },
    Receipt { number: u64, row: Row },
}

/// What waits for one stream. Boxed: a channel allocates 32 places at once, and an idle link should stay small.
pub(crate) type Queue = mpsc::Sender<Box<Letter>>;

fn post<T>(queue: &mpsc::Sender<T>, letter: T) -> Result<(), Fault> {
    match queue.try_send(letter) {
        Err(mpsc::error::TrySendError::Full(_)) => Err(Fault::Dropped),
        // A stream that is gone takes the link with it; that task says why.
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
    }
}

/// The long-lived streams besides control.
const KINDS: [StreamKind; 6] = [
    StreamKind::Receipts,
    StreamKind::Class(Precedence::Flash),
    StreamKind::Class(Precedence::Immediate),
    StreamKind::Class(Precedence::Priority),
    StreamKind::Class(Precedence::Routine),
    StreamKind::Class(Precedence::Bulk),
];

/// Deals out the core's outputs until it wants the link closed.
pub(crate) async fn run(
    link: Arc<Link>,
    connection: Connection,
    mut outputs: mpsc::Receiver<Output>,
    control: Queue,
) -> Result<(), Fault> {
    let mut tasks = JoinSet::new();
    // Opened before anything else can take up the peer's permits: flash never waits for a transfer to end.
    let mut queues = Vec::with_capacity(KINDS.len());
    for kind in KINDS {
        let mut send = connection.open_uni().await.map_err(Fault::Lost)?;
        let _ = send.set_priority(priority(kind));
        send.write_all(&[kind.to_byte()]).await?;
        let (queue, letters) = mpsc::channel(LINK_COMMANDS);
        tasks.spawn(stream(link.clone(), send, kind, letters));
        queues.push((kind, queue));
    }
    let (urgent, ordinary) = (mpsc::channel(LINK_COMMANDS), mpsc::channel(LINK_COMMANDS));
    tasks.spawn(run::send(link.clone(), connection.clone(), urgent.1, true));
    tasks.spawn(run::send(link.clone(), connection, ordinary.1, false));

    let deal = |kind: StreamKind, letter: Letter| {
        let queue = queues.iter().find(|(other, _)| *other == kind).map_or(&control, |(_, queue)| queue);
        post(queue, Box::new(letter))
    };
    loop {
        let output = tokio::select! {
            output = outputs.recv() => output.ok_or(Fault::Dropped)?,
            Some(done) = tasks.join_next() => {
                done.unwrap_or(Err(Fault::Protocol("a writer failed")))?;
                continue;
            }
        };
        match output {
            Output::Send { frame, .. } => deal(StreamKind::Control, Letter::Frame(frame))?,
            Output::SendRecord { record, flood, .. } => {
                deal(StreamKind::Control, Letter::Record { record, flood })?;
            }
            Output::SendReceipt { number, row, .. } => {
                deal(StreamKind::Receipts, Letter::Receipt { number, row })?;
            }
            Output::SendOffer { number, row, precedence, visit, recipients, stamps, .. } => {
                let letter = Letter::Offer { number, row, visit, recipients, stamps };
                deal(StreamKind::Class(precedence), letter)?;
            }
            Output::SendRun { root, payload_bytes, first, count, precedence, .. } => {
                let queue = if run::is_urgent(precedence) { &urgent.0 } else { &ordinary.0 };
                post(queue, run::Run { root, payload_bytes, first, count, precedence })?;
            }
            Output::Close { reason, .. } => return Err(Fault::Core(reason)),
            other => tracing::error!("an output that is no link's reached a link: {other:?}"),
        }
    }
}

/// Writes one stream's letters in order until no more can come, then ends the stream and waits for the peer to have it.
pub(crate) async fn stream(
    link: Arc<Link>,
    mut send: SendStream,
    kind: StreamKind,
    mut letters: mpsc::Receiver<Box<Letter>>,
) -> Result<(), Fault> {
    let mut introduced = HashSet::new();
    let mut batch = Vec::new();
    if kind != StreamKind::Control {
        link.is_cleared().await;
    }
    // The first letter of the control stream is the hello, without which nobody speaks of the PKI.
    let mut at_once = if kind == StreamKind::Control { 1 } else { BATCH };
    while letters.recv_many(&mut batch, at_once).await > 0 {
        let class = if let StreamKind::Class(class) = kind { Some(class) } else { None };
        let waits = class.map(|class| Posted::new(&link, class));
        let posted: Vec<Letter> = batch.drain(..).map(|letter: Box<Letter>| *letter).collect();
        let mut frames = if posted.iter().all(|letter| matches!(letter, Letter::Frame(_))) {
            posted
                .iter()
                .filter_map(|letter| if let Letter::Frame(f) = letter { Some(f.encode()) } else { None })
                .collect()
        } else {
            let clerk = link.clone();
            let load = move |spool: &dyn Spool| {
                let frames = compose(&clerk, spool, posted, &mut introduced);
                Ok((frames, introduced))
            };
            let (frames, back) = link.here.on_disk(load).await?;
            introduced = back;
            frames
        };
        match class {
            Some(class) => {
                let bytes = frames.iter().map(Bytes::len).sum();
                link.gate.write(&mut send, class, Lane::Envelopes, &mut frames).await?;
                link.traffic.sent(class, bytes);
            }
            // Nothing on the others waits behind payload.
            None => send.write_all_chunks(&mut frames).await?,
        }
        drop(waits);
        if at_once < BATCH {
            at_once = BATCH;
            link.is_cleared().await;
        }
    }
    let _ = send.finish();
    let _ = send.stopped().await;
    Ok(())
}

/// Loads what the letters name and encodes it. What cannot be loaded is left out: the core deleted it meanwhile, or the
/// spool has set it aside and raised the alarm.
fn compose(link: &Link, spool: &dyn Spool, letters: Vec<Letter>, introduced: &mut HashSet<CertHash>) -> Vec<Bytes> {
    let mut frames = Vec::with_capacity(letters.len());
    for letter in letters {
        match load(spool, letter) {
            Ok((signer, frame)) => {
                if let Some(signer) = signer {
                    introduce(link, spool, signer, introduced, &mut frames);
                }
                frames.push(frame.encode());
            }
            Err(SpoolError::Missing { .. }) => tracing::debug!(peer = %link.peer.name, "what was to be sent is gone"),
            Err(why) => link.warn("something that was to be sent cannot be read", &why.to_string()),
        }
    }
    frames
}

fn load(spool: &dyn Spool, letter: Letter) -> Result<(Option<CertHash>, Frame), SpoolError> {
    let of = |signed: &Signed| Some(signed.signature.signer);
    Ok(match letter {
        Letter::Frame(frame) => (None, frame),
        Letter::Record { record, flood } => (of(&record), Frame::Record { record, flood }),
        Letter::Receipt { number, row } => {
            let receipt = spool.receipt(row)?;
            (of(&receipt), Frame::Receipt { number, receipt })
        }
        Letter::Offer { number, row, visit, recipients, stamps } => {
            let (envelope, inline) = (spool.envelope(row)?, spool.inline(row)?);
            (of(&envelope), Frame::Offer(Offer { number, envelope, visit, recipients, stamps, inline }))
        }
    })
}

fn introduce(
    link: &Link,
    spool: &dyn Spool,
    signer: CertHash,
    introduced: &mut HashSet<CertHash>,
    frames: &mut Vec<Bytes>,
) {
    if introduced.contains(&signer) {
        return;
    }
    match spool.chain(&signer) {
        Ok(Some(chain)) => {
            if introduced.len() >= INTRODUCED {
                introduced.clear();
            }
            introduced.insert(signer);
            frames.push(Frame::Chain(chain).encode());
        }
        Ok(None) => link.warn("a signer's certificates are not in the spool", &signer.to_string()),
        Err(why) => link.warn("a signer's certificates cannot be read", &why.to_string()),
    }
}
