//! Taking messages from an inbox.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tram_proto::local::app_client::AppClient;
use tram_proto::local::{self as api, MessageHeader, receive_event, receive_request::Step};
use tram_proto::name::Inbox;

use crate::error::Error;

/// Acknowledgements and the like that may wait for the socket.
const STEPS: usize = 64;

/// An open inbox. Dropping it gives back at once what was not acknowledged.
#[derive(Debug)]
pub struct Inbound {
    steps: mpsc::Sender<api::ReceiveRequest>,
    events: Streaming<api::ReceiveEvent>,
    /// A message that came and was not taken.
    come: Option<MessageHeader>,
    /// Parts of a message are still to come.
    streaming: bool,
    /// Acknowledgements without an answer, and answers that said "too late".
    unsettled: usize,
    late: usize,
    /// Counts without an answer, and the last answer.
    counts: usize,
    waiting: u64,
}

impl Inbound {
    pub(crate) async fn open(mut app: AppClient<Channel>, inbox: &Inbox, lease_ms: Option<u64>) -> Result<Self, Error> {
        let (steps, receiver) = mpsc::channel(STEPS);
        let open = Step::Open(api::ReceiveOpen { inbox: inbox.to_string(), lease_ms: lease_ms.unwrap_or(0) });
        // The channel is empty, so there is room.
        let _ = steps.try_send(api::ReceiveRequest { step: Some(open) });
        let events = app.receive(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { steps, events, come: None, streaming: false, unsettled: 0, late: 0, counts: 0, waiting: 0 })
    }

    async fn step(&self, step: Step) -> Result<(), Error> {
        let sent = self.steps.send(api::ReceiveRequest { step: Some(step) }).await;
        sent.map_err(|_| Error::Lost("the node ended the stream".to_owned()))
    }

    /// Allows `messages` more to come now; replaces what was granted before. Nothing comes without.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn grant(&self, messages: u32) -> Result<(), Error> {
        self.step(Step::Credit(messages)).await
    }

    /// The message is safe with the application. Does not wait for the node: see [`Self::settle`].
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn ack(&mut self, delivery: u64) -> Result<(), Error> {
        self.step(Step::Ack(delivery)).await?;
        self.unsettled += 1;
        Ok(())
    }

    /// Gives a message back; it comes again, here or elsewhere.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn nack(&self, delivery: u64) -> Result<(), Error> {
        self.step(Step::Nack(delivery)).await
    }

    /// Begins a message's lease anew.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn renew(&self, delivery: u64) -> Result<(), Error> {
        self.step(Step::Renew(delivery)).await
    }

    /// Ends the taking: nothing more is granted, what came and was not taken goes back, and the node has made every
    /// acknowledgement so far durable. Returns how many of them came after the lease had ended: those messages may come
    /// again.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn settle(&mut self) -> Result<usize, Error> {
        self.grant(0).await?;
        loop {
            if let Some(header) = self.come.take() {
                self.nack(header.delivery).await?;
            }
            if self.unsettled == 0 {
                return Ok(std::mem::take(&mut self.late));
            }
            self.advance().await?;
        }
    }

    /// How many messages the inbox holds that nobody has acknowledged, also those other applications work on. Whatever
    /// the credit granted before brings in at once has come by the time this returns, for [`Self::next`].
    ///
    /// # Errors
    /// [`Error`].
    pub async fn waiting(&mut self) -> Result<u64, Error> {
        self.step(Step::Count(true)).await?;
        self.counts += 1;
        while self.counts > 0 && self.come.is_none() {
            self.advance().await?;
        }
        Ok(self.waiting.max(u64::from(self.come.is_some())))
    }

    /// The next message; waits for it, and passes over what is unread of the last one. Safe to cancel.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Lost`] when the node stops.
    pub async fn next(&mut self) -> Result<Incoming<'_>, Error> {
        loop {
            if let Some(header) = self.come.take() {
                return Ok(Incoming { header, inbound: self });
            }
            self.advance().await?;
        }
    }

    /// Whether a message has come, so that [`Self::next`] will not wait.
    #[must_use]
    pub const fn has_come(&self) -> bool {
        self.come.is_some()
    }

    /// Waits until a message has come. Safe to cancel.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Lost`] when the node stops.
    pub async fn come(&mut self) -> Result<(), Error> {
        while self.come.is_none() {
            self.advance().await?;
        }
        Ok(())
    }

    /// Takes one event off the stream and drops it when it is a part. Not called while a message that came has not been
    /// taken, for the parts behind it are still wanted.
    async fn advance(&mut self) -> Result<(), Error> {
        let event = self.events.message().await?.ok_or_else(ended)?;
        self.note(event);
        Ok(())
    }

    /// Returns the part when the event is one.
    fn note(&mut self, event: api::ReceiveEvent) -> Option<Bytes> {
        match event.step {
            Some(receive_event::Step::Message(header)) => {
                self.streaming = true;
                self.come = Some(header);
            }
            Some(receive_event::Step::Part(part)) => return Some(part),
            Some(receive_event::Step::End(_)) => self.streaming = false,
            Some(receive_event::Step::Acked(acked)) => {
                self.unsettled = self.unsettled.saturating_sub(1);
                self.late += usize::from(!acked.held);
            }
            Some(receive_event::Step::Waiting(waiting)) => {
                self.counts = self.counts.saturating_sub(1);
                self.waiting = waiting.messages;
            }
            None => {}
        }
        None
    }

    async fn part(&mut self) -> Result<Option<Bytes>, Error> {
        while self.streaming {
            let event = self.events.message().await?.ok_or_else(ended)?;
            if let Some(part) = self.note(event) {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }
}

fn ended() -> Error {
    Error::Lost("the node ended the stream".to_owned())
}

/// A message on its way in. Its parts are read once; what is not read is passed over by the next call on [`Inbound`].
#[derive(Debug)]
pub struct Incoming<'a> {
    header: MessageHeader,
    inbound: &'a mut Inbound,
}

impl Incoming<'_> {
    /// What is known of it.
    #[must_use]
    pub const fn header(&self) -> &MessageHeader {
        &self.header
    }

    /// The next part of the payload; `None` at its end.
    ///
    /// # Errors
    /// [`Error`]; the payload is then incomplete and must not be used.
    pub async fn part(&mut self) -> Result<Option<Bytes>, Error> {
        self.inbound.part().await
    }
}
