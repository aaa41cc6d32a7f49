//! A message on its way in: header, then payload straight into the spool, then the core.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Status, Streaming};
use tram_proto::envelope::Precedence;
use tram_proto::id::Digest;
use tram_proto::limits;
use tram_proto::local::{SendHeader, SendRequest, send_request::Step};
use tram_proto::manifest;
use tram_proto::name::Address;
use tram_relay::input::Submission;

use super::access::Grant;
use super::{Door, refusal};
use crate::engine::handle::Submitted;
use crate::spool::{Spool, SpoolError};

/// Parts that may wait for the disk.
const PARTS: usize = 4;

/// Takes one message from its stream; returns when it is durable.
pub(super) async fn submit(door: &Door, grant: &Grant, mut steps: Streaming<SendRequest>) -> Result<Submitted, Status> {
    let Some(Step::Header(header)) = steps.message().await?.and_then(|first| first.step) else {
        return Err(refusal::invalid("the first message of Send is a header"));
    };
    let mut submission = submission(grant, header)?;
    let payload = take_payload(&door.spool, &mut steps).await?;
    submission.payload_bytes = payload.bytes;
    submission.payload_root = payload.root;
    submission.inline = payload.inline;
    if submission.precedence == Precedence::Flash && !door.quotas.take(grant.uid, grant.flash, payload.bytes) {
        submission.demoted_from = Some(Precedence::Flash);
        submission.precedence = Precedence::Immediate;
    }
    let result = door.engine.submit(submission).await.map_err(|_| refusal::stopping())?;
    result.map_err(|why| refusal::submit_refused(&why))
}

/// Reads the header and holds it to the caller's rules; limits are the core's affair.
fn submission(grant: &Grant, header: SendHeader) -> Result<Submission, Status> {
    if header.to.len() > limits::RECIPIENTS {
        let (got, max) = (header.to.len(), limits::RECIPIENTS);
        return Err(refusal::invalid(format!("{got} recipients are too many: a message has at most {max}")));
    }
    let to: Result<Vec<Address>, _> = header.to.iter().map(|to| to.parse()).collect();
    let precedence = match header.precedence.as_str() {
        "" => Precedence::Routine,
        word => word.parse().map_err(refusal::invalid)?,
    };
    let sender = match header.sender.as_str() {
        "" => None,
        inbox => Some(inbox.parse().map_err(refusal::invalid)?),
    };
    if !grant.send(precedence) {
        return Err(refusal::not_permitted(format!(
            "user {} may not send with precedence {precedence}: an administrator can allow it in [access] of tramd.toml",
            grant.uid
        )));
    }
    if let Some(inbox) = sender.as_ref().filter(|inbox| !grant.inbox(inbox)) {
        return Err(refusal::not_permitted(format!("user {} may not send from inbox {inbox}", grant.uid)));
    }
    Ok(Submission {
        user: grant.uid,
        quota_bytes: grant.quota_bytes(),
        demoted_from: None,
        nonce: super::nonce()?,
        sender,
        to: to.map_err(refusal::invalid)?,
        precedence,
        lifetime_ms: Some(header.lifetime_ms).filter(|ms| *ms != 0),
        deliver_by_ms: header.deliver_by_ms,
        label: header.label,
        subject: header.subject,
        file_name: header.file_name,
        content_type: header.content_type,
        attributes: header.attributes.into_iter().map(|a| (a.key, a.value)).collect(),
        business_id: header.business_id,
        idempotency_key: header.idempotency_key,
        traceparent: header.traceparent,
        payload_bytes: 0,
        payload_root: Digest([0; 32]),
        inline: None,
    })
}

struct Payload {
    bytes: u64,
    root: Digest,
    inline: Option<Bytes>,
}

/// Reads parts to the end: a small payload into memory, a larger one into the spool as it comes.
async fn take_payload(spool: &Arc<dyn Spool>, steps: &mut Streaming<SendRequest>) -> Result<Payload, Status> {
    let mut small = BytesMut::new();
    let mut large: Option<Uploading> = None;
    loop {
        let part = match steps.message().await?.and_then(|next| next.step) {
            Some(Step::Part(part)) if part.len() <= limits::LOCAL_PART_BYTES => part,
            Some(Step::End(true)) => break,
            Some(Step::Part(_)) => return Err(refusal::invalid("a part has at most 1 MiB")),
            Some(_) => return Err(refusal::invalid("after the header come parts, then the end")),
            None => return Err(refusal::invalid("the stream stopped before the end of the payload")),
        };
        match &mut large {
            Some(uploading) => uploading.push(part).await?,
            None if small.len() + part.len() <= limits::INLINE_BYTES => small.extend_from_slice(&part),
            None => {
                let mut uploading = Uploading::begin(spool.clone());
                uploading.push(std::mem::take(&mut small).freeze()).await?;
                uploading.push(part).await?;
                large = Some(uploading);
            }
        }
    }
    match large {
        Some(uploading) => {
            let (root, bytes) = uploading.finish().await?;
            Ok(Payload { bytes, root, inline: None })
        }
        None => {
            let inline = small.freeze();
            Ok(Payload { bytes: inline.len() as u64, root: manifest::root_of(&inline), inline: Some(inline) })
        }
    }
}

enum Piece {
    Part(Bytes),
    End,
}

/// An upload and the thread that feeds it. Dropped without [`Self::finish`], it leaves nothing in the spool.
struct Uploading {
    pieces: mpsc::Sender<Piece>,
    done: JoinHandle<Result<Option<(Digest, u64)>, SpoolError>>,
}

impl Uploading {
    fn begin(spool: Arc<dyn Spool>) -> Self {
        let (pieces, mut receiver) = mpsc::channel(PARTS);
        let done = tokio::task::spawn_blocking(move || {
            let mut upload = spool.upload();
            while let Some(piece) = receiver.blocking_recv() {
                match piece {
                    Piece::Part(part) => upload.push(part)?,
                    Piece::End => return upload.finish().map(Some),
                }
            }
            Ok(None)
        });
        Self { pieces, done }
    }

    async fn push(&mut self, part: Bytes) -> Result<(), Status> {
        if part.is_empty() || self.pieces.send(Piece::Part(part)).await.is_ok() {
            return Ok(());
        }
        // The thread ended first, so it failed.
        self.failure().await
    }

    async fn finish(mut self) -> Result<(Digest, u64), Status> {
        // When this fails the thread has ended with an error, which comes out below.
        let _ = self.pieces.send(Piece::End).await;
        match (&mut self.done).await.map_err(refusal::broken)? {
            Ok(Some(payload)) => Ok(payload),
            Ok(None) => Err(refusal::broken("the upload was abandoned")),
            Err(error) => Err(error.into()),
        }
    }

    async fn failure(&mut self) -> Result<(), Status> {
        match (&mut self.done).await.map_err(refusal::broken)? {
            Ok(_) => Err(refusal::broken("the upload was abandoned")),
            Err(error) => Err(error.into()),
        }
    }
}
