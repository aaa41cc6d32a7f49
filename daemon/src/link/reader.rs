//! Frames in: reads what a peer sends, holds it to the limits and tells the core.
//!
//! One task per stream, so that a slow one stops only itself; each waits while the engine is busy. Never decides
//! anything a statement says, but looks at signatures where this node is the one to act on them.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, RecvStream};
use tokio::task::JoinSet;
use tram_proto::envelope::{Body, Precedence};
use tram_proto::error::WireError;
use tram_proto::frame::{Frame, LENGTH_BYTES, Offer, StreamKind, frame_length};
use tram_proto::id::MessageId;
use tram_proto::limits::INLINE_BYTES;
use tram_proto::manifest::{Layout, root_of};
use tram_proto::receipt::{NodeRecord, Receipt};
use tram_proto::statement::{Kind, Signed};
use tram_relay::input::{Held, Input};

use crate::link::fault::Fault;
use crate::link::pki;
use crate::link::session::Link;
use crate::link::signers::Signers;

/// Frames of one stream.
pub(crate) struct Frames {
    pub(crate) stream: RecvStream,
    kind: StreamKind,
}

impl Frames {
    pub(crate) const fn new(stream: RecvStream, kind: StreamKind) -> Self {
        Self { stream, kind }
    }

    /// The next frame; `None` at an orderly end.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, Fault> {
        Ok(self.bytes().await?.map(Frame::decode).transpose()?)
    }

    /// The next frame's bytes; `None` at an orderly end.
    pub(crate) async fn bytes(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut field = [0; LENGTH_BYTES];
        match self.stream.read_exact(&mut field).await {
            Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
            other => other?,
        }
        let mut frame = vec![0; frame_length(field, self.kind.frame_limit())?];
        self.stream.read_exact(&mut frame).await?;
        Ok(Some(Bytes::from(frame)))
    }

    fn misplaced(&self, frame: &Frame) -> Fault {
        let stream = match self.kind {
            StreamKind::Control => "control",
            StreamKind::Class(_) => "class",
            StreamKind::Receipts => "receipts",
            StreamKind::Transfer => "transfer",
            StreamKind::Pki => "PKI",
        };
        Fault::Misplaced { frame: frame.name(), stream }
    }
}

/// Reads what kind of stream this is.
pub(crate) async fn kind_of(stream: &mut RecvStream) -> Result<StreamKind, Fault> {
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
    Ok(StreamKind::from_byte(byte[0])?)
}

/// Reads the control stream to its end, which is the link's.
pub(crate) async fn control(link: Arc<Link>, stream: RecvStream) -> Result<(), Fault> {
    let mut frames = Frames::new(stream, StreamKind::Control);
    let mut signers = Signers::default();
    while let Some(frame) = frames.next().await? {
        if !matches!(frame, Frame::Hello(_) | Frame::Bye { .. }) {
            link.is_cleared().await;
        }
        // A bye is no sign that the peer serves the link.
        if !matches!(frame, Frame::Bye { .. }) {
            link.heard();
        }
        match frame {
            Frame::Chain(chain) => signers.learn(&link, chain).await?,
            Frame::Record { record, flood } => take_record(&link, &mut signers, record, flood).await?,
            Frame::Bye { code, reason } => return Err(Fault::Bye { code, reason }),
            Frame::Offer(_) | Frame::Receipt { .. } | Frame::Run { .. } => return Err(frames.misplaced(&frame)),
            frame => {
                let features = if let Frame::Hello(hello) = &frame { Some(hello.features) } else { None };
                link.tell(Input::Frame { link: link.id, frame }).await?;
                if features.is_some() {
                    link.features.send_replace(features);
                }
            }
        }
    }
    Err(Fault::Protocol("the control stream ended without a bye"))
}

async fn take_record(link: &Link, signers: &mut Signers, signed: Signed, flood: bool) -> Result<(), Fault> {
    let record = NodeRecord::decode(&signed.statement)?;
    let signer = signers.verify(link, Kind::Record, &signed, record.at_ms).await?;
    match signer {
        Ok(signer) if signer.node == record.node && signer.name == record.name => {
            Ok(link.tell(Input::Record { link: link.id, record, signed, flood }).await?)
        }
        Ok(signer) => Err(Fault::Record(format!("{} signed one of {}", signer.name, record.name))),
        Err(why) => Err(Fault::Record(format!("that of {}: {why}", record.name))),
    }
}

/// Takes the streams the peer opens.
pub(crate) async fn streams(link: Arc<Link>, connection: Connection) -> Result<(), Fault> {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => {
                let stream = stream.map_err(Fault::Lost)?;
                tasks.spawn(one(link.clone(), stream));
            }
            Some(done) = tasks.join_next() => done.unwrap_or(Err(Fault::Protocol("a reader failed")))?,
        }
    }
}

async fn one(link: Arc<Link>, mut stream: RecvStream) -> Result<(), Fault> {
    let kind = kind_of(&mut stream).await?;
    if kind != StreamKind::Pki {
        link.is_cleared().await;
    }
    match kind {
        StreamKind::Control => Err(Fault::Protocol("a second control stream")),
        StreamKind::Pki => pki::read(&link, stream).await,
        StreamKind::Transfer => {
            // The receiver goes only with the link.
            let _ = link.transfers.send(stream).await;
            Ok(())
        }
        StreamKind::Class(_) | StreamKind::Receipts if !link.first_of(kind) => {
            Err(Fault::Protocol("a second stream of one class"))
        }
        StreamKind::Class(precedence) => offers(&link, stream, precedence).await,
        StreamKind::Receipts => receipts(&link, stream).await,
    }
}

async fn offers(link: &Link, stream: RecvStream, precedence: Precedence) -> Result<(), Fault> {
    let mut frames = Frames::new(stream, StreamKind::Class(precedence));
    let mut signers = Signers::default();
    while let Some(bytes) = frames.bytes().await? {
        link.traffic.received(precedence, LENGTH_BYTES + bytes.len());
        match Frame::decode(bytes)? {
            Frame::Chain(chain) => signers.learn(link, chain).await?,
            Frame::Offer(offer) => take_offer(link, &mut signers, offer, precedence).await?,
            frame => return Err(frames.misplaced(&frame)),
        }
    }
    Ok(())
}

async fn take_offer(link: &Link, signers: &mut Signers, mut offer: Offer, precedence: Precedence) -> Result<(), Fault> {
    link.carried();
    let statement = &offer.envelope.statement;
    let (id, body) = (MessageId::of(statement), Box::new(Body::decode(statement)?));
    if body.precedence != precedence {
        return Err(Fault::Protocol("an offer came on the stream of another precedence"));
    }
    let layout = Layout::new(body.payload_bytes)?;
    if body.payload_bytes == 0 {
        // Nothing and no payload are the same on the wire.
        offer.inline.get_or_insert_default();
    }
    let held = match &offer.inline {
        Some(_) if body.payload_bytes > INLINE_BYTES as u64 => {
            return Err(Fault::Protocol("an offer holds a payload that must travel as chunks"));
        }
        Some(payload) if payload.len() as u64 != body.payload_bytes || root_of(payload) != body.payload_root => {
            return Err(Fault::Protocol("an offer's payload is not the one its envelope names"));
        }
        Some(_) => Held::default(),
        None if body.payload_bytes <= INLINE_BYTES as u64 => {
            return Err(Fault::Protocol("an offer lacks the payload it must hold"));
        }
        None => {
            link.offered().note(&body, layout);
            link.came.notify_waiters();
            let root = body.payload_root;
            link.here.on_disk(move |spool| spool.held(root, layout)).await?
        }
    };
    // Relays, too, act on a recall.
    let trusted = if is_ours(link, &offer, &body)? || body.recalls.is_some() {
        let signer = signers.verify(link, Kind::Envelope, &offer.envelope, body.created_ms).await?;
        let believed = match signer {
            Ok(signer) if signer.node == body.origin => Ok(()),
            Ok(signer) => Err(format!("{} signed it, not its origin {}", signer.name, body.origin_name)),
            Err(why) => Err(why),
        };
        if let Err(why) = &believed {
            link.warn("an envelope is not believed", &format!("{id}: {why}"));
        }
        Some(believed.is_ok())
    } else {
        None
    };
    Ok(link.tell(Input::Offer { link: link.id, offer: Box::new(offer), id, body, trusted, held }).await?)
}

/// Whether one of the recipients is at this node, which then has to look at the signature.
fn is_ours(link: &Link, offer: &Offer, body: &Body) -> Result<bool, WireError> {
    let mut ours = false;
    for recipient in &offer.recipients {
        if recipient.ordinal.list.is_none() {
            let address = usize::try_from(recipient.ordinal.index).ok().and_then(|index| body.to.get(index));
            let address = address.ok_or(WireError::Malformed {
                what: "offer",
                why: "a recipient is not among the envelope's addresses",
            })?;
            ours |= address.node == link.here.name || link.here.called.borrow().contains(&address.node);
        }
        ours |= recipient.node == Some(link.here.id);
    }
    Ok(ours)
}

async fn receipts(link: &Link, stream: RecvStream) -> Result<(), Fault> {
    let mut frames = Frames::new(stream, StreamKind::Receipts);
    let mut signers = Signers::default();
    while let Some(frame) = frames.next().await? {
        let (number, signed) = match frame {
            Frame::Chain(chain) => {
                signers.learn(link, chain).await?;
                continue;
            }
            Frame::Receipt { number, receipt } => (number, receipt),
            frame => return Err(frames.misplaced(&frame)),
        };
        let receipt = Box::new(Receipt::decode(&signed.statement)?);
        let signer = if receipt.origin == link.here.id {
            let signer = signers.verify(link, Kind::Receipt, &signed, receipt.at_ms).await?;
            if let Err(why) = &signer {
                link.warn("a receipt is not believed", &format!("of {} for {}: {why}", receipt.name, receipt.message));
            }
            signer.ok()
        } else {
            None
        };
        link.tell(Input::Receipt { link: link.id, number, receipt, signed, signer }).await?;
    }
    Ok(())
}
