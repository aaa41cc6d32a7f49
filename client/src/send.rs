//! Submitting a message.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tram_proto::envelope::Precedence;
use tram_proto::id::MessageId;
use tram_proto::limits;
use tram_proto::local::{self as api, send_request::Step};
use tram_proto::name::{Address, Inbox};

use crate::error::Error;
use crate::{Client, message_id};

/// Parts that may wait for the socket.
const PARTS: usize = 4;
/// Room for a small document; a larger one gets that of a whole part, which the system has to map first.
const SMALL_BYTES: usize = 16 * 1024;

/// A message to be sent; the payload comes beside it. Limits are those of [`tram_proto::limits`].
#[derive(Debug, Clone, Default)]
pub struct NewMessage {
    /// The recipients, at least one.
    pub to: Vec<Address>,
    /// The inbox for answers.
    pub from: Option<Inbox>,
    /// `None`: routine.
    pub precedence: Option<Precedence>,
    /// How long the message may take, in milliseconds: more than 0, at most 180 days. `None`: 30 days.
    pub lifetime_ms: Option<u64>,
    /// When it has to be there, Unix milliseconds.
    pub deliver_by_ms: Option<u64>,
    /// Classification label.
    pub label: String,
    /// For people.
    pub subject: String,
    /// The file's name in full.
    pub file_name: String,
    /// MIME type.
    pub content_type: String,
    /// The application's own pairs.
    pub attributes: Vec<(String, String)>,
    /// The document's number in the sender's register.
    pub business_id: String,
    /// Makes a repeated `send` the same message.
    pub idempotency_key: String,
    /// W3C trace context.
    pub traceparent: String,
}

/// A message that is durable in the node's spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Its id.
    pub id: MessageId,
    /// The precedence that was asked for, when the user's quota granted a lower one.
    pub demoted_from: Option<Precedence>,
}

impl NewMessage {
    fn into_header(self) -> api::SendHeader {
        api::SendHeader {
            to: self.to.iter().map(ToString::to_string).collect(),
            sender: self.from.map(|from| from.to_string()).unwrap_or_default(),
            precedence: self.precedence.unwrap_or(Precedence::Routine).to_string(),
            lifetime_ms: self.lifetime_ms.unwrap_or(0),
            deliver_by_ms: self.deliver_by_ms.unwrap_or(0),
            label: self.label,
            subject: self.subject,
            file_name: self.file_name,
            content_type: self.content_type,
            attributes: self.attributes.into_iter().map(|(key, value)| api::Attribute { key, value }).collect(),
            business_id: self.business_id,
            idempotency_key: self.idempotency_key,
            traceparent: self.traceparent,
        }
    }
}

impl Client {
    /// [`Self::submit`], for who needs no more than the id.
    ///
    /// # Errors
    /// As there.
    pub async fn send(
        &self,
        message: NewMessage,
        payload: impl AsyncRead + Unpin + Send,
        progress: impl FnMut(u64) + Send,
    ) -> Result<MessageId, Error> {
        Ok(self.submit(message, payload, progress).await?.id)
    }

    /// Submits a message; returns its id when it is durable in the node's spool. `progress` hears how many bytes of the
    /// payload went to the node so far. Dropping the future, and an error of `payload`, abandon the message whole.
    ///
    /// # Errors
    /// [`Error`]; codes among others `not_permitted`, `label_not_permitted`, `spool_full`, `key_taken`, `invalid`.
    pub async fn submit(
        &self,
        message: NewMessage,
        mut payload: impl AsyncRead + Unpin + Send,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<Submitted, Error> {
        if message.lifetime_ms == Some(0) {
            return Err(Error::invalid("a message without any lifetime cannot be sent: leave it out for 30 days"));
        }
        let (steps, receiver) = mpsc::channel(PARTS);
        let mut app = self.app.clone();
        let call = app.send(ReceiverStream::new(receiver));
        tokio::pin!(call);
        let feed = async {
            let steps = &steps;
            let step = |step| api::SendRequest { step: Some(step) };
            let mut gone = steps.send(step(Step::Header(message.into_header()))).await.is_err();
            let mut sent_bytes = 0;
            while !gone {
                let part = read_part(&mut payload).await.map_err(Error::Payload)?;
                let length = part.len() as u64;
                let next = if part.is_empty() { Step::End(true) } else { Step::Part(part) };
                gone = steps.send(step(next)).await.is_err();
                if length == 0 {
                    break;
                }
                sent_bytes += length;
                progress(sent_bytes);
            }
            Ok::<_, Error>(())
        };
        tokio::pin!(feed);
        let answer = tokio::select! {
            // The node may refuse before the payload is through.
            answer = &mut call => answer,
            fed = &mut feed => {
                fed?;
                call.await
            }
        };
        let sent = answer?.into_inner();
        Ok(Submitted { id: message_id(&sent.id)?, demoted_from: sent.demoted_from.parse().ok() })
    }
}

/// Up to one part; empty at the end.
async fn read_part(payload: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut part = BytesMut::with_capacity(SMALL_BYTES);
    let mut limited = payload.take(limits::LOCAL_PART_BYTES as u64);
    while limited.limit() > 0 {
        if part.len() == part.capacity() {
            part.reserve(limits::LOCAL_PART_BYTES - part.len());
        }
        if limited.read_buf(&mut part).await? == 0 {
            break;
        }
    }
    Ok(part.freeze())
}
