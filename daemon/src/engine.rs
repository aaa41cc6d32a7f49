//! The engine: one task that owns the core.
//!
//! Async code only picks what comes next, a batch at a time; `apply` and `perform` are plain functions
//! that change state and never wait. Outputs go to bounded queues: of the links, the committer, the applications. A link
//! whose queue is full is closed (the core bounds what it gives one, so that means a stalled task); while the committer's
//! queue is full the engine takes no requests, which is how the disk slows everybody down.

pub mod handle;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};
use tram_proto::frame::TraceHop;
use tram_relay::input::{Consumer, LinkId, Ticket};
use tram_relay::output::{CloseReason, CommandRefused, Event, InboxRefused, Outcome, SubmitRefused};
use tram_relay::{Input, Node, Output};

use crate::clock::Clock;
use crate::committer::Persist;
use handle::{Delivery, Request, Submitted, Told};

/// Requests applied before outputs are performed.
const BATCH: usize = 64;

/// The task that owns the core.
pub struct Engine {
    node: Node,
    clock: Clock,
    requests: mpsc::Receiver<Request>,
    told: Told,
    committer: mpsc::Sender<Persist>,
    writers: BTreeMap<LinkId, mpsc::Sender<Output>>,
    consumers: BTreeMap<Consumer, mpsc::Sender<Delivery>>,
    submits: BTreeMap<Ticket, oneshot::Sender<Result<Submitted, SubmitRefused>>>,
    took: BTreeMap<Ticket, oneshot::Sender<bool>>,
    inboxes: BTreeMap<Ticket, oneshot::Sender<Result<(), InboxRefused>>>,
    commands: BTreeMap<Ticket, oneshot::Sender<Result<Outcome, CommandRefused>>>,
    traces: BTreeMap<Ticket, mpsc::Sender<(Vec<TraceHop>, bool)>>,
    next_ticket: u64,
    stopping: Option<oneshot::Sender<()>>,
}

impl Engine {
    /// An engine around a core that has been restored and started; its first outputs wait in it.
    #[must_use]
    pub fn new(
        node: Node,
        clock: Clock,
        requests: mpsc::Receiver<Request>,
        told: Told,
        committer: mpsc::Sender<Persist>,
    ) -> Self {
        Self {
            node,
            clock,
            requests,
            told,
            committer,
            writers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            submits: BTreeMap::new(),
            took: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            commands: BTreeMap::new(),
            traces: BTreeMap::new(),
            next_ticket: 1,
            stopping: None,
        }
    }

    /// Runs until it is told to shut down or nobody can ask it anything any more.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            // One batch makes at most one commit, so one place in the committer's queue is enough.
            let Ok(place) = self.committer.clone().reserve_owned().await else {
                warn!("the committer is gone; the engine stops");
                return;
            };
            let mut place = Some(place);
            self.perform(&mut place);
            if let Some(done) = self.stopping.take() {
                let _ = done.send(());
                return;
            }
            if place.is_none() {
                continue;
            }
            let wait = self.node.next_deadline().map(|(at, why)| {
                let wait = Duration::from_millis(at.saturating_sub(self.clock.mono_ms()));
                (wait, why)
            });
            tokio::select! {
                count = self.requests.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                }
                () = sleep(wait.map(|(wait, _)| wait)) => {
                    self.node.handle(Input::Timer, self.clock.now());
                }
            }
            for request in batch.drain(..) {
                self.apply(request);
            }
            self.perform(&mut place);
        }
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }

    fn tell(&mut self, input: Input) {
        self.node.handle(input, self.clock.now());
    }

    fn apply(&mut self, request: Request) {
        match request {
            Request::Input(input) => {
                if let Input::LinkDown { link } = &input {
                    self.writers.remove(link);
                }
                if let Input::Left { consumer } = &input {
                    self.consumers.remove(consumer);
                }
                self.tell(input);
            }
            Request::LinkUp { link, peer, side, writer } => {
                self.writers.insert(link, writer);
                self.tell(Input::LinkUp { link, peer, side });
            }
            Request::Submit(submission, answer) => {
                let ticket = self.ticket();
                self.submits.insert(ticket, answer);
                self.tell(Input::Submit { ticket, submission });
            }
            Request::Join(consumer, deliveries) => {
                self.consumers.insert(consumer, deliveries);
            }
            Request::Took(consumer, row, answer) => {
                let ticket = self.ticket();
                self.took.insert(ticket, answer);
                self.tell(Input::Took { consumer, row, ticket });
            }
            Request::Inbox(inbox, create, answer) => {
                let ticket = self.ticket();
                self.inboxes.insert(ticket, answer);
                self.tell(if create {
                    Input::CreateInbox { ticket, inbox }
                } else {
                    Input::RemoveInbox { ticket, inbox }
                });
            }
            Request::Command(command, answer) => {
                let ticket = self.ticket();
                self.commands.insert(ticket, answer);
                self.tell(Input::Command { ticket, command });
            }
            Request::Trace(message, answers) => {
                let ticket = self.ticket();
                self.traces.insert(ticket, answers);
                self.tell(Input::Trace { ticket, message });
            }
            Request::Snapshot(answer) => {
                let _ = answer.send(Box::new(self.node.snapshot()));
            }
            Request::Ping(answer) => {
                let _ = answer.send(());
            }
            Request::Shutdown(done) => {
                for (link, writer) in std::mem::take(&mut self.writers) {
                    let _ = writer.try_send(Output::Close { link, reason: CloseReason::Shutdown });
                }
                self.stopping = Some(done);
            }
        }
    }

    /// Does what the core wants. Stops early when a commit has taken the place in the committer's queue.
    fn perform(&mut self, place: &mut Option<mpsc::OwnedPermit<Persist>>) {
        while place.is_some() {
            let Some(output) = self.node.poll_output() else { return };
            match output {
                Output::Persist { commit, ops, urgent } => {
                    if let Some(place) = place.take() {
                        place.send(Persist { commit, ops, urgent });
                    }
                }
                Output::Send { link, .. }
                | Output::SendOffer { link, .. }
                | Output::SendReceipt { link, .. }
                | Output::SendRecord { link, .. }
                | Output::SendRun { link, .. } => self.write(link, output),
                Output::Close { link, ref reason } => {
                    warn!(link = link.0, %reason, "closing a link");
                    self.write(link, output);
                    self.writers.remove(&link);
                }
                Output::Submitted { ticket, id, demoted_from } => {
                    answer(self.submits.remove(&ticket), Ok(Submitted { id, demoted_from }));
                }
                Output::NotSubmitted { ticket, why } => {
                    self.told.tally.not_submitted(&why);
                    answer(self.submits.remove(&ticket), Err(why));
                }
                Output::Deliver { consumer, row, id, address, redelivered } => {
                    self.deliver(consumer, Delivery { row, id, address, redelivered });
                }
                Output::TookDone { ticket, held } => answer(self.took.remove(&ticket), held),
                Output::InboxDone { ticket, result } => answer(self.inboxes.remove(&ticket), result),
                Output::Commanded { ticket, result } => answer(self.commands.remove(&ticket), result),
                Output::Traced { ticket, hops, last } => {
                    if let Some(answers) = self.traces.get(&ticket) {
                        let _ = answers.try_send((hops, last));
                    }
                    if last {
                        self.traces.remove(&ticket);
                    }
                }
                Output::Event(event) => {
                    log(&event);
                    self.told.tally.event(&event, self.clock.wall_ms());
                    // Nobody may be watching.
                    let _ = self.told.events.send(event);
                }
            }
        }
    }

    fn write(&mut self, link: LinkId, output: Output) {
        let Some(writer) = self.writers.get(&link) else { return };
        if writer.try_send(output).is_err() {
            warn!(link = link.0, "a link takes nothing any more and is dropped");
            self.writers.remove(&link);
            self.tell(Input::LinkDown { link });
        }
    }

    fn deliver(&mut self, consumer: Consumer, delivery: Delivery) {
        let row = delivery.row;
        let sent = self.consumers.get(&consumer).is_some_and(|c| c.try_send(delivery).is_ok());
        if !sent {
            self.tell(Input::Left { consumer });
            debug!(consumer = consumer.0, row = row.0, "an application is gone; its messages wait again");
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn answer<T>(waiting: Option<oneshot::Sender<T>>, value: T) {
    if let Some(waiting) = waiting {
        // Whoever asked may have gone.
        let _ = waiting.send(value);
    }
}

fn log(event: &Event) {
    match event {
        Event::LinkUp { link, peer } => info!(link = link.0, %peer, "link up"),
        Event::ClockOff { peer, ours_ms, theirs_ms } => warn!(
            %peer,
            ours = %time(*ours_ms),
            theirs = %time(*theirs_ms),
            "the clocks differ by more than 5 minutes; nothing expires until they agree: set the one that is wrong"
        ),
        Event::NewIncarnation { peer, incarnation } => {
            warn!(%peer, %incarnation, "a neighbour came back with an empty spool; origins offer again");
        }
        Event::Held { peer, why } => {
            tracing::error!(%peer, %why, "ALARM: a neighbour's spool was rolled back or its disk cloned; its mail is held until an admin has looked");
        }
        Event::Retired { node, by } => warn!(%node, %by, "a spool was declared lost; origins offer again"),
        Event::MessageDamaged { message } => {
            tracing::error!(id = %message, "ALARM: the disk lost a message; it is left out of its inbox and goes to quarantine at the next start; check the disk");
        }
        Event::PayloadDamaged { message, missing_bytes } => {
            tracing::error!(id = %message, missing_bytes, "ALARM: the disk lost part of a payload; it is fetched again when offered; check the disk");
        }
        Event::HopLimit { message } => {
            warn!(id = %message, "a message passed too many hops and waits for a newer route")
        }
        Event::Late { message, by_ms, now_ms, recipients } => {
            let by = time(*by_ms);
            if by_ms <= now_ms {
                tracing::error!(id = %message, %by, recipients, "ALARM: a message is not there by the time that was set");
            } else {
                warn!(id = %message, %by, recipients, "half the time that was set for a message has passed, and it is not there");
            }
        }
        Event::Demoted { message, user, asked, granted } => {
            warn!(id = %message, user, %asked, %granted, "a message was demoted: its user's quota grants no more now");
        }
        Event::Progress { message, address, state, reason, .. } => {
            info!(id = %message, %address, %state, %reason, "a recipient came further");
        }
        Event::ReceiptNotTrusted { message, from } => {
            warn!(id = %message, %from, "a receipt was not believed and is dropped")
        }
        Event::EnvelopeNotTrusted { message, from } => {
            warn!(id = %message, %from, "an envelope was not believed and is refused")
        }
        Event::OfferRefused { message, by, reason } => {
            warn!(id = %message, %by, %reason, "the next hop refused a message")
        }
    }
}

fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |at| at.to_string())
}
