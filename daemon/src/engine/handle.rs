//! How the rest of the daemon speaks with the engine: one bounded channel of requests, answers by oneshot.
//!
//! Nobody outside the engine's task holds node state; what others see are snapshots.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{broadcast, mpsc, oneshot};
use tram_proto::envelope::Precedence;
use tram_proto::frame::TraceHop;
use tram_proto::id::MessageId;
use tram_proto::name::{Address, Inbox};
use tram_relay::input::{Command, Consumer, Input, LinkId, Row, Side, Signer, Submission};
use tram_relay::output::{CommandRefused, Event, InboxRefused, Outcome, Output, SubmitRefused};
use tram_relay::snapshot::Snapshot;

use crate::metrics::tally::Tally;

/// Requests that may wait for the engine before their sender does.
pub const REQUESTS: usize = 256;
/// Events a slow watcher may fall behind by before it is told that it lost some.
pub const EVENTS: usize = 1024;
/// Outputs that may wait for one link's writer. The core bounds what it gives a link; this only decouples.
pub const LINK_COMMANDS: usize = 4096;

/// The engine is gone: the daemon is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopped;

/// A submission that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The message's id.
    pub id: MessageId,
    /// The precedence that was asked for, when the message has a lower one.
    pub demoted_from: Option<Precedence>,
}

/// What can be asked of the engine.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "inputs are by far the most, and the channel's 256 places are its bound")]
pub enum Request {
    /// Tell the core something.
    Input(Input),
    /// A link's connection is open: register its writer, then tell the core.
    LinkUp {
        /// The instance.
        link: LinkId,
        /// Who is there.
        peer: Signer,
        /// Above or below.
        side: Side,
        /// Its writer takes `Send*` and `Close` outputs for this link.
        writer: mpsc::Sender<Output>,
    },
    /// Submit a message.
    Submit(Box<Submission>, oneshot::Sender<Result<Submitted, SubmitRefused>>),
    /// Register an application; deliveries go to its channel.
    Join(Consumer, mpsc::Sender<Delivery>),
    /// Acknowledge a delivery; answers whether it was still this consumer's.
    Took(Consumer, Row, oneshot::Sender<bool>),
    /// Create (true) or remove an inbox.
    Inbox(Inbox, bool, oneshot::Sender<Result<(), InboxRefused>>),
    /// Ask along the route.
    Trace(MessageId, mpsc::Sender<(Vec<TraceHop>, bool)>),
    /// Do what a person or an application asks; answered when that is durable.
    Command(Command, oneshot::Sender<Result<Outcome, CommandRefused>>),
    /// What the node looks like now.
    Snapshot(oneshot::Sender<Box<Snapshot>>),
    /// Whether it answers.
    Ping(oneshot::Sender<()>),
    /// Say bye on every link and stop.
    Shutdown(oneshot::Sender<()>),
}

/// A message handed to an application. Payload is read from the spool by row.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The row to load and to acknowledge.
    pub row: Row,
    /// The message.
    pub id: MessageId,
    /// For which recipient.
    pub address: Address,
    /// It was handed out before.
    pub redelivered: bool,
}

/// Where the engine says what happens.
#[derive(Debug)]
pub struct Told {
    /// To whoever watches.
    pub events: broadcast::Sender<Event>,
    /// Counted.
    pub tally: Arc<Tally>,
}

/// A cloneable door to the engine.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
    tally: Arc<Tally>,
    next: Arc<AtomicU64>,
}

impl EngineHandle {
    /// The door and the engine's end of it.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Request>, Told) {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let (events, _) = broadcast::channel(EVENTS);
        let tally = Arc::new(Tally::default());
        let told = Told { events: events.clone(), tally: tally.clone() };
        (Self { requests, events, tally, next: Arc::new(AtomicU64::new(1)) }, receiver, told)
    }

    /// Counts what happens.
    #[must_use]
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// A number nobody else in this process has: for links and consumers.
    #[must_use]
    pub fn unique(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Events from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Hands a request over, waiting while the engine is busy.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn request(&self, request: Request) -> Result<(), Stopped> {
        self.requests.send(request).await.map_err(|_| Stopped)
    }

    /// Tells the core something.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn input(&self, input: Input) -> Result<(), Stopped> {
        self.request(Request::Input(input)).await
    }

    /// The same from a thread outside the runtime.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn blocking_input(&self, input: Input) -> Result<(), Stopped> {
        self.requests.blocking_send(Request::Input(input)).map_err(|_| Stopped)
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.request(make(answer)).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Submits a message; answers when it is durable.
    ///
    /// # Errors
    /// [`Stopped`]; the inner result is the core's.
    pub async fn submit(&self, submission: Submission) -> Result<Result<Submitted, SubmitRefused>, Stopped> {
        self.ask(|answer| Request::Submit(Box::new(submission), answer)).await
    }

    /// Acknowledges a delivery; answers, when that is durable, whether it was still this consumer's.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn took(&self, consumer: Consumer, row: Row) -> Result<bool, Stopped> {
        self.ask(|answer| Request::Took(consumer, row, answer)).await
    }

    /// Creates or removes an inbox.
    ///
    /// # Errors
    /// [`Stopped`]; the inner result is the core's.
    pub async fn inbox(&self, inbox: Inbox, create: bool) -> Result<Result<(), InboxRefused>, Stopped> {
        self.ask(|answer| Request::Inbox(inbox, create, answer)).await
    }

    /// Does what a person or an application asks; answers when that is durable.
    ///
    /// # Errors
    /// [`Stopped`]; the inner result is the core's.
    pub async fn command(&self, command: Command) -> Result<Result<Outcome, CommandRefused>, Stopped> {
        self.ask(|answer| Request::Command(command, answer)).await
    }

    /// What the node looks like now.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn snapshot(&self) -> Result<Box<Snapshot>, Stopped> {
        self.ask(Request::Snapshot).await
    }

    /// Answers when the engine does.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn ping(&self) -> Result<(), Stopped> {
        self.ask(Request::Ping).await
    }

    /// Says bye on every link and stops the engine.
    ///
    /// # Errors
    /// [`Stopped`] when it has stopped already.
    pub async fn shutdown(&self) -> Result<(), Stopped> {
        self.ask(Request::Shutdown).await
    }
}
