//! Send to and receive from the Tram node on this machine.
//!
//! [`Client`] is an application's door: it submits messages, takes them from inboxes, watches what became of them.
//! [`Admin`] is an administrator's. Both speak gRPC (`tram.local.v1`) over a Unix socket of the node; whoever may not
//! is refused by the node, by the user the process runs as. Never holds a whole payload, never retries a call by
//! itself: an error says whether trying again makes sense ([`Error::retryable`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tram_client::{Client, NewMessage, Place};
//!
//! let client = Client::connect(&Place::system()).await?;
//! let message = NewMessage {
//!     to: vec!["vanban@ninh-kieu.can-tho".parse()?],
//!     subject: "Công văn số 12".into(),
//!     file_name: "cong-van-12.pdf".into(),
//!     ..NewMessage::default()
//! };
//! let file = tokio::fs::File::open("cong-van-12.pdf").await?;
//! let id = client.send(message, file, |_sent_bytes| {}).await?; // from here on the node has it safe
//!
//! let mut inbox = client.receive(&"vanban".parse()?, None).await?;
//! inbox.grant(1).await?;
//! let mut message = inbox.next().await?;
//! while let Some(part) = message.part().await? {
//!     // write `part` somewhere durable
//!     # drop(part);
//! }
//! let delivery = message.header().delivery;
//! inbox.ack(delivery).await?; // the sender gets its receipt
//! inbox.settle().await?;
//! # let _ = id; Ok(())
//! # }
//! ```

mod admin;
mod error;
pub mod fake;
mod place;
mod receive;
mod send;

use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tram_proto::id::MessageId;
use tram_proto::local as api;
use tram_proto::local::app_client::AppClient;
use tram_proto::name::Inbox;

pub use admin::Admin;
pub use error::{Error, Kind, Refusal};
pub use place::Place;
pub use receive::{Inbound, Incoming};
pub use send::{NewMessage, Submitted};
pub use tram_proto::local::{
    Acked, CertificateView, Chain, ConfigAnswer, ConfigFault, ConfigKey, DamageView, DoctorAnswer, Finding, GapsAnswer,
    Hop, InboxView, KeyView, LinkView, MessageHeader, MessageView, MessagesAnswer, NodeView, Numbers, PkiBackupView,
    PkiInstallAnswer, PkiNodeView, PkiNodesAnswer, PkiRenewAnswer, PkiRequestView, PkiRotation, PkiSignRequest,
    PkiStatusAnswer, PlanAnswer, PlanCeiling, Progress, QueueView, QueuesAnswer, ReceiptsAnswer, ScrubAnswer,
    SequenceView, SpoolView, StatusAnswer, TokenNewAnswer, TokenNewRequest, TokenView, TraceAnswer, Withdrawn,
};

/// Answers may be as large as a message's receipts to every recipient, in bytes.
const ANSWER_BYTES: usize = tram_proto::export::EXPORT_BYTES;

/// An application's connection to its node. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    app: AppClient<Channel>,
}

impl Client {
    /// Connects to the node of `place`. While a node that has been set up is just starting, tries for 5 s.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn connect(place: &Place) -> Result<Self, Error> {
        let channel = place.open("app.sock").await?;
        Ok(Self { app: AppClient::new(channel).max_decoding_message_size(ANSWER_BYTES) })
    }

    /// Every change of these messages' recipients, after their present state. With no id: of all messages sent from
    /// inboxes of this user.
    ///
    /// # Errors
    /// [`Error`], also in the stream.
    pub async fn watch(&self, ids: &[MessageId]) -> Result<Watch, Error> {
        let ids = ids.iter().map(|id| bytes::Bytes::copy_from_slice(&id.0)).collect();
        let progress = self.app.clone().watch(api::WatchRequest { ids }).await?.into_inner();
        Ok(Watch { progress })
    }

    /// Where a message is. Waits at most `timeout_ms` (0: 2 s) for nodes along the route.
    ///
    /// # Errors
    /// [`Error`]; code `no_such_message` when this node does not know it.
    pub async fn trace(&self, id: MessageId, timeout_ms: u64) -> Result<TraceAnswer, Error> {
        let request = api::TraceRequest { id: bytes::Bytes::copy_from_slice(&id.0), timeout_ms };
        Ok(self.app.clone().trace(request).await?.into_inner())
    }

    /// The signed receipts of a message, with its envelope and the signers' chains. Not verified.
    ///
    /// # Errors
    /// [`Error`]; code `no_such_message` when this node does not know it.
    pub async fn receipts(&self, id: MessageId) -> Result<ReceiptsAnswer, Error> {
        let request = api::ReceiptsRequest { id: bytes::Bytes::copy_from_slice(&id.0) };
        Ok(self.app.clone().receipts(request).await?.into_inner())
    }

    /// The inboxes this user may receive from.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn inboxes(&self) -> Result<Vec<InboxView>, Error> {
        Ok(self.app.clone().inboxes(api::InboxesRequest {}).await?.into_inner().inboxes)
    }

    /// Messages this user may know of, newest first: `limit` at most (0: 50), from `before`, the `next` of the page
    /// before (0: the newest). A page may be short, even empty; `next` 0 says that there are no more.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn messages(&self, limit: u32, before: u64) -> Result<MessagesAnswer, Error> {
        Ok(self.app.clone().messages(api::MessagesRequest { limit, before }).await?.into_inner())
    }

    /// Ends the recipients of a message whose copy has not left the node.
    ///
    /// # Errors
    /// [`Error`]; codes `no_such_message`, `not_permitted`, `already_left` (recall it instead), `too_late`.
    pub async fn cancel(&self, id: MessageId) -> Result<Withdrawn, Error> {
        let request = api::WithdrawRequest { id: bytes::Bytes::copy_from_slice(&id.0) };
        Ok(self.app.clone().cancel(request).await?.into_inner())
    }

    /// The same, and sends a tombstone after the copies that left. What came of those: watch the message, which ends as
    /// `recalled`, and the tombstone, which is `refused: too_late` for a recipient whose application has it.
    ///
    /// # Errors
    /// [`Error`]; codes `no_such_message`, `not_permitted`, `too_late`.
    pub async fn recall(&self, id: MessageId) -> Result<Withdrawn, Error> {
        let request = api::WithdrawRequest { id: bytes::Bytes::copy_from_slice(&id.0) };
        Ok(self.app.clone().recall(request).await?.into_inner())
    }

    /// Tells the sender what became of a message that this user's application took here: a code of its own and a text
    /// of at most 1,024 bytes. Returns for how many recipients that was said.
    ///
    /// # Errors
    /// [`Error`]; codes `no_such_message`, `not_permitted`, `not_delivered`, `invalid`.
    pub async fn set_status(&self, id: MessageId, code: u32, text: &str) -> Result<u32, Error> {
        let id = bytes::Bytes::copy_from_slice(&id.0);
        let request = api::SetStatusRequest { id, code, text: text.to_owned() };
        Ok(self.app.clone().set_status(request).await?.into_inner().recipients)
    }

    /// Numbers missing among the messages that came to an inbox (`None`: to every one of this user) and were created at
    /// `since_ms` or later. A page at a time: `after` is the `next` of the page before, at first empty; an empty `next`
    /// says that there are no more.
    ///
    /// # Errors
    /// [`Error`]; code `not_permitted`.
    pub async fn gaps(&self, inbox: Option<&Inbox>, since_ms: u64, after: String) -> Result<GapsAnswer, Error> {
        let inbox = inbox.map(ToString::to_string).unwrap_or_default();
        Ok(self.app.clone().gaps(api::GapsRequest { inbox, since_ms, after }).await?.into_inner())
    }

    /// Takes messages from an inbox. Without an acknowledgement within the lease (`None`: 60 s) a message goes to
    /// another; when the returned value is dropped, at once.
    ///
    /// # Errors
    /// [`Error`]; code `no_such_inbox` or `not_permitted`.
    pub async fn receive(&self, inbox: &Inbox, lease_ms: Option<u64>) -> Result<Inbound, Error> {
        Inbound::open(self.app.clone(), inbox, lease_ms).await
    }
}

/// A stream of changes.
#[derive(Debug)]
pub struct Watch {
    progress: tonic::Streaming<Progress>,
}

impl Watch {
    /// The next change; `None` when the node stops.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn next(&mut self) -> Result<Option<Progress>, Error> {
        Ok(self.progress.next().await.transpose()?)
    }
}

/// Reads the id of an answer.
///
/// # Errors
/// [`Error::Protocol`] when it is none.
pub fn message_id(bytes: &[u8]) -> Result<MessageId, Error> {
    MessageId::from_slice(bytes).map_err(|_| Error::Protocol("the node answered with something that is no message id"))
}
