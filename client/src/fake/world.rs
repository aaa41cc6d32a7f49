//! What the fake knows and does: plain calls on plain state, no task, no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use tonic::{Code, Status};
use tram_proto::envelope::{Body, MessageKind, Network, Precedence};
use tram_proto::id::{Incarnation, MessageId, NodeId};
use tram_proto::local::{
    Acked, Attribute, Hop, MessageEnd, MessageHeader, MessageView, ReceiveEvent, TraceAnswer, Waiting, Withdrawn,
    receive_event::Step as Event,
};
use tram_proto::name::{Address, Inbox, NodeName};
use tram_proto::receipt::{Reason, State};
use tram_proto::{limits, manifest};

use super::Sent;
use super::serve::refusal;
use crate::{NewMessage, Progress};

/// The first moment of the fake's own time, Unix milliseconds: 2027-01-15. Every event is a millisecond later.
const BEGIN_MS: u64 = 1_800_000_000_000;

#[derive(Debug)]
struct Message {
    id: MessageId,
    body: Body,
    new: NewMessage,
    payload: Bytes,
    brought: bool,
    recipients: Vec<Progress>,
    states: Vec<State>,
}

/// A message in an inbox.
#[derive(Debug)]
struct Delivery {
    number: u64,
    inbox: Inbox,
    message: usize,
    ordinal: usize,
    holder: Option<u64>,
    again: bool,
    done: bool,
}

#[derive(Debug)]
struct Taker {
    inbox: Inbox,
    credit: u32,
    out: VecDeque<ReceiveEvent>,
}

#[derive(Debug)]
pub(super) struct World {
    node: NodeName,
    inboxes: BTreeSet<Inbox>,
    pub(super) busy: usize,
    pub(super) held: bool,
    pub(super) lose_acks: usize,
    refused: BTreeMap<Address, (State, Reason)>,
    messages: Vec<Message>,
    deliveries: Vec<Delivery>,
    takers: BTreeMap<u64, Taker>,
    keys: BTreeMap<(String, String), usize>,
    sequences: BTreeMap<String, u64>,
    /// Every change, for watchers.
    pub(super) log: Vec<Progress>,
    count: u64,
}

impl World {
    pub(super) fn new(node: NodeName, inboxes: BTreeSet<Inbox>) -> Self {
        Self {
            node,
            inboxes,
            busy: 0,
            held: false,
            lose_acks: 0,
            refused: BTreeMap::new(),
            messages: Vec::new(),
            deliveries: Vec::new(),
            takers: BTreeMap::new(),
            keys: BTreeMap::new(),
            sequences: BTreeMap::new(),
            log: Vec::new(),
            count: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn find(&self, id: MessageId) -> Option<usize> {
        self.messages.iter().position(|message| message.id == id)
    }

    fn sequence(&mut self, name: String) -> u64 {
        let last = self.sequences.entry(name).or_default();
        *last += 1;
        *last
    }

    /// Takes a message in, once per idempotency key.
    pub(super) fn submit(&mut self, new: NewMessage, payload: Bytes) -> Result<MessageId, Status> {
        if self.busy > 0 {
            self.busy -= 1;
            let text = "the test lets this send be tried again";
            return Err(refusal(Code::ResourceExhausted, "spool_full", true, text));
        }
        if !new.label.is_empty() {
            let text = format!("label_not_permitted: the label {:?} is not listed", new.label);
            return Err(refusal(Code::PermissionDenied, "label_not_permitted", false, text));
        }
        let key = (new.from.as_ref().map(ToString::to_string).unwrap_or_default(), new.idempotency_key.clone());
        if let Some(known) = self.keys.get(&key).and_then(|at| self.messages.get(*at)) {
            let content =
                |new: &NewMessage| (new.to.clone(), new.subject.clone(), new.file_name.clone(), new.precedence);
            if content(&known.new) == content(&new) && known.payload == payload {
                return Ok(known.id);
            }
            let text = format!("the idempotency key {:?} already stands for message {}", key.1, known.id);
            return Err(refusal(Code::AlreadyExists, "key_taken", false, text));
        }
        let (node, from) = (self.node.clone(), new.from.clone());
        let at = self.put(node, from, new, payload, false)?;
        if !key.1.is_empty() {
            self.keys.insert(key, at);
        }
        if !self.held {
            self.go_on(at);
        }
        Ok(self.messages[at].id)
    }

    pub(super) fn bring(&mut self, from: Address, new: NewMessage, payload: Bytes) -> MessageId {
        let at = self.put(from.node, Some(from.inbox), new, payload, true).unwrap_or_else(|error| panic!("{error}"));
        self.go_on(at);
        self.messages[at].id
    }

    fn put(
        &mut self,
        node: NodeName,
        from: Option<Inbox>,
        new: NewMessage,
        payload: Bytes,
        brought: bool,
    ) -> Result<usize, Status> {
        let now = self.next();
        let sender = from.as_ref().map(ToString::to_string).unwrap_or_default();
        let body = Body {
            nonce: u128::from(now).to_be_bytes(),
            origin: NodeId([u8::from(brought) + 1; 16]),
            incarnation: Incarnation([1; 16]),
            origin_name: node,
            sender: from,
            to: new.to.clone(),
            precedence: new.precedence.unwrap_or(Precedence::Routine),
            sequence: self.sequence(format!("{brought} {sender}")),
            created_ms: BEGIN_MS + now,
            clock_offset_ms: 0,
            lifetime_ms: new.lifetime_ms.unwrap_or(limits::LIFETIME_DEFAULT_MS),
            deliver_by_ms: new.deliver_by_ms.unwrap_or(0),
            label: new.label.clone(),
            network: Network::Unspecified,
            kind: MessageKind::Document,
            subject: new.subject.clone(),
            file_name: new.file_name.clone(),
            content_type: new.content_type.clone(),
            attributes: new.attributes.clone(),
            business_id: new.business_id.clone(),
            idempotency_key: new.idempotency_key.clone(),
            traceparent: new.traceparent.clone(),
            sealed: false,
            payload_bytes: payload.len() as u64,
            payload_root: manifest::root_of(&payload),
            recalls: None,
            pair_sequences: new.to.iter().map(|to| self.sequence(format!("{brought} {sender}>{to}"))).collect(),
        };
        let envelope =
            body.encode().map_err(|why| refusal(Code::InvalidArgument, "invalid", false, why.to_string()))?;
        let id = Body::id(&envelope);
        let (recipients, states) = (Vec::new(), vec![State::Submitted; new.to.len()]);
        self.messages.push(Message { id, body, new, payload, brought, recipients, states });
        let at = self.messages.len() - 1;
        for ordinal in 0..self.messages[at].states.len() {
            let message = &mut self.messages[at];
            let address = message.body.to[ordinal].to_string();
            let id = Bytes::copy_from_slice(&message.id.0);
            message.recipients.push(Progress { id, ordinal: ordinal as u32, address, ..Progress::default() });
            self.come(at, ordinal, State::Submitted, Reason::None);
        }
        Ok(at)
    }

    /// A recipient came to a state.
    fn come(&mut self, at: usize, ordinal: usize, state: State, reason: Reason) {
        let at_ms = BEGIN_MS + self.next();
        let message = &mut self.messages[at];
        message.states[ordinal] = state;
        let known = &mut message.recipients[ordinal];
        known.state = state.to_string();
        known.reason = reason.to_string();
        (known.terminal, known.negative, known.at_ms) = (state.is_terminal(), state.is_negative(), at_ms);
        let now = known.clone();
        self.log.push(now);
    }

    /// What waited goes to its destinations.
    fn go_on(&mut self, at: usize) {
        for ordinal in 0..self.messages[at].states.len() {
            if self.messages[at].states[ordinal] != State::Submitted {
                continue;
            }
            let to = self.messages[at].body.to[ordinal].clone();
            if let Some((state, reason)) = self.refused.get(&to) {
                self.come(at, ordinal, *state, *reason);
            } else if to.node != self.node {
                self.come(at, ordinal, State::Arrived, Reason::None);
                self.come(at, ordinal, State::Delivered, Reason::None);
            } else if self.inboxes.contains(&to.inbox) {
                self.come(at, ordinal, State::Arrived, Reason::None);
                let (number, inbox) = (self.next(), to.inbox);
                let new = Delivery { number, inbox, message: at, ordinal, holder: None, again: false, done: false };
                self.deliveries.push(new);
            } else {
                self.come(at, ordinal, State::Undeliverable, Reason::NoSuchInbox);
            }
        }
        self.hand_out();
    }

    pub(super) fn release(&mut self) {
        self.held = false;
        (0..self.messages.len()).for_each(|at| self.go_on(at));
    }

    pub(super) fn refuse(&mut self, address: &Address, state: State, reason: Reason) {
        self.refused.insert(address.clone(), (state, reason));
    }

    fn hand_out(&mut self) {
        for (id, taker) in &mut self.takers {
            for delivery in self.deliveries.iter_mut().filter(|d| d.inbox == taker.inbox) {
                if taker.credit > 0 && delivery.holder.is_none() && !delivery.done {
                    taker.credit -= 1;
                    delivery.holder = Some(*id);
                    let message = &self.messages[delivery.message];
                    carry(delivery, message, &mut taker.out);
                    delivery.again = true;
                }
            }
        }
    }

    /// Registers an application.
    pub(super) fn open(&mut self, inbox: Inbox) -> Result<u64, Status> {
        if !self.inboxes.contains(&inbox) {
            let text = format!("there is no inbox \"{inbox}\" here");
            return Err(refusal(Code::NotFound, "no_such_inbox", false, text));
        }
        let id = self.next();
        self.takers.insert(id, Taker { inbox, credit: 0, out: VecDeque::new() });
        Ok(id)
    }

    pub(super) fn credit(&mut self, taker: u64, credit: u32) {
        if let Some(taker) = self.takers.get_mut(&taker) {
            taker.credit = credit;
        }
        self.hand_out();
    }

    pub(super) fn count(&mut self, taker: u64) {
        let Some(taker) = self.takers.get_mut(&taker) else { return };
        let messages = self.deliveries.iter().filter(|d| d.inbox == taker.inbox && !d.done).count() as u64;
        taker.out.push_back(ReceiveEvent { step: Some(Event::Waiting(Waiting { messages })) });
    }

    pub(super) fn ack(&mut self, taker: u64, number: u64) {
        let found = self.deliveries.iter_mut().find(|d| d.number == number && d.holder == Some(taker));
        let mut held = false;
        if let Some(delivery) = found {
            delivery.holder = None;
            if self.lose_acks > 0 {
                self.lose_acks -= 1;
            } else {
                (held, delivery.done) = (true, true);
                let (at, ordinal) = (delivery.message, delivery.ordinal);
                if !self.messages[at].states[ordinal].is_terminal() {
                    self.come(at, ordinal, State::Delivered, Reason::None);
                }
            }
        }
        if let Some(taker) = self.takers.get_mut(&taker) {
            taker.out.push_back(ReceiveEvent { step: Some(Event::Acked(Acked { delivery: number, held })) });
        }
        self.hand_out();
    }

    pub(super) fn give_back(&mut self, taker: u64, number: u64) {
        let held = self.deliveries.iter_mut().filter(|d| d.number == number && d.holder == Some(taker));
        held.for_each(|delivery| delivery.holder = None);
        self.hand_out();
    }

    pub(super) fn leave(&mut self, taker: u64) {
        self.takers.remove(&taker);
        let held = self.deliveries.iter_mut().filter(|d| d.holder == Some(taker));
        held.for_each(|delivery| delivery.holder = None);
        self.hand_out();
    }

    pub(super) fn end_leases(&mut self) {
        self.deliveries.iter_mut().for_each(|delivery| delivery.holder = None);
        self.hand_out();
    }

    pub(super) fn redeliver(&mut self, id: MessageId) -> usize {
        let Some(at) = self.find(id) else { return 0 };
        let done = self.deliveries.iter_mut().filter(|d| d.message == at && d.done);
        let count = done.map(|delivery| delivery.done = false).count();
        self.hand_out();
        count
    }

    /// The next event for an application.
    pub(super) fn take_event(&mut self, taker: u64) -> Option<ReceiveEvent> {
        self.takers.get_mut(&taker)?.out.pop_front()
    }

    /// Ends what still waits here, and nothing else: other nodes take everything at once.
    pub(super) fn withdraw(&mut self, id: MessageId) -> Result<Withdrawn, Status> {
        let at = self.find(id).filter(|at| !self.messages[*at].brought).ok_or_else(unknown)?;
        let mut ended = 0;
        for ordinal in 0..self.messages[at].states.len() {
            let waits = |d: &Delivery| d.message == at && d.ordinal == ordinal && d.holder.is_none() && !d.done;
            let waiting = self.deliveries.iter().position(waits);
            if self.messages[at].states[ordinal] != State::Submitted && waiting.is_none() {
                continue;
            }
            if let Some(waiting) = waiting {
                self.deliveries.remove(waiting);
            }
            self.come(at, ordinal, State::Recalled, Reason::None);
            ended += 1;
        }
        if ended == 0 {
            let text = format!("message {id} has ended for every recipient; it is too late");
            return Err(refusal(Code::FailedPrecondition, "too_late", false, text));
        }
        let recipients = self.messages[at].states.len() as u32;
        Ok(Withdrawn { ended, following: 0, tombstone: Bytes::new(), recipients })
    }

    /// What an application here says of a message it took.
    pub(super) fn set_status(&mut self, id: MessageId, code: u32, text: &str) -> Result<u32, Status> {
        let at = self.find(id).ok_or_else(unknown)?;
        if text.len() > limits::REASON_BYTES {
            let why = format!("status text has {} bytes, at most {} are allowed", text.len(), limits::REASON_BYTES);
            return Err(refusal(Code::InvalidArgument, "invalid", false, why));
        }
        let done = self.deliveries.iter().filter(|d| d.message == at && d.done);
        let ordinals: Vec<usize> = done.map(|delivery| delivery.ordinal).collect();
        if ordinals.is_empty() {
            let text = format!("no application here has acknowledged message {id}; receive it first");
            return Err(refusal(Code::FailedPrecondition, "not_delivered", false, text));
        }
        ordinals.iter().for_each(|ordinal| self.status(at, *ordinal, code, text));
        Ok(ordinals.len() as u32)
    }

    pub(super) fn say(&mut self, id: MessageId, address: &Address, code: u32, text: &str) {
        let Some(at) = self.find(id) else { return };
        let ordinals = self.messages[at].body.to.iter().enumerate().filter(|(_, to)| *to == address);
        let ordinals: Vec<usize> = ordinals.map(|(ordinal, _)| ordinal).collect();
        ordinals.iter().for_each(|ordinal| self.status(at, *ordinal, code, text));
    }

    fn status(&mut self, at: usize, ordinal: usize, code: u32, text: &str) {
        let known = &mut self.messages[at].recipients[ordinal];
        (known.code, known.detail) = (code, text.to_owned());
        self.come(at, ordinal, State::Status, Reason::None);
    }

    pub(super) fn sent(&self) -> Vec<Sent> {
        let own = self.messages.iter().filter(|message| !message.brought);
        own.map(|m| Sent { id: m.id, message: m.new.clone(), payload: m.payload.clone() }).collect()
    }

    pub(super) fn recipients(&self, id: MessageId) -> Vec<Progress> {
        self.find(id).map(|at| self.messages[at].recipients.clone()).unwrap_or_default()
    }

    /// The present state of these messages, or of all that were sent from here.
    pub(super) fn present(&self, ids: &[MessageId]) -> Result<Vec<Progress>, Status> {
        if ids.is_empty() {
            let own = self.messages.iter().filter(|message| !message.brought);
            return Ok(own.flat_map(|message| message.recipients.clone()).collect());
        }
        let found = ids.iter().map(|id| self.find(*id).ok_or_else(unknown)).collect::<Result<Vec<_>, _>>()?;
        Ok(found.into_iter().flat_map(|at| self.messages[at].recipients.clone()).collect())
    }

    /// Whether a change is one a watcher of all is told.
    pub(super) fn is_sent(&self, id: &[u8]) -> bool {
        self.messages.iter().any(|message| !message.brought && message.id.0[..] == *id)
    }

    pub(super) fn waiting(&self) -> Vec<(String, u64)> {
        let count = |inbox: &Inbox| self.deliveries.iter().filter(|d| d.inbox == *inbox && !d.done).count() as u64;
        self.inboxes.iter().map(|inbox| (inbox.to_string(), count(inbox))).collect()
    }

    pub(super) fn trace(&self, id: MessageId) -> Result<TraceAnswer, Status> {
        let message = &self.messages[self.find(id).ok_or_else(unknown)?];
        let hop = |node: &NodeName, state: State, at_ms| Hop {
            node: node.to_string(),
            state: state.to_string(),
            at_ms,
            detail: String::new(),
        };
        let mut hops = vec![hop(&message.body.origin_name, State::Submitted, message.body.created_ms)];
        let positive = message.body.to.iter().zip(&message.states).zip(&message.recipients);
        let positive = positive.filter(|((_, state), _)| **state >= State::Arrived && !state.is_negative());
        hops.extend(positive.map(|((to, state), known)| hop(&to.node, (*state).min(State::Delivered), known.at_ms)));
        let least = message.states.iter().filter(|state| !state.is_negative()).min();
        let state = least.or_else(|| message.states.iter().min()).map(ToString::to_string).unwrap_or_default();
        let (id, recipients) = (Bytes::copy_from_slice(&id.0), message.recipients.clone());
        Ok(TraceAnswer { id, state, hops, recipients, complete: true, demoted_from: String::new() })
    }

    /// All messages, newest first.
    pub(super) fn list(&self) -> Vec<MessageView> {
        let view = |message: &Message| MessageView {
            id: Bytes::copy_from_slice(&message.id.0),
            kind: "document".to_owned(),
            side: if message.brought { "received" } else { "sent" }.to_owned(),
            from: from(&message.body),
            subject: message.body.subject.clone(),
            file_name: message.body.file_name.clone(),
            precedence: message.body.precedence.to_string(),
            label: message.body.label.clone(),
            business_id: message.body.business_id.clone(),
            created_ms: message.body.created_ms,
            deadline_ms: message.body.deadline_ms(),
            size: message.body.payload_bytes,
            recalls: Bytes::new(),
            recipients: message.recipients.clone(),
            demoted_from: String::new(),
        };
        self.messages.iter().rev().map(view).collect()
    }
}

fn unknown() -> Status {
    refusal(Code::NotFound, "no_such_message", false, "this node does not know a message of that id")
}

fn from(body: &Body) -> String {
    body.sender.as_ref().map_or_else(|| body.origin_name.to_string(), |sender| format!("{sender}@{}", body.origin_name))
}

/// Header, parts and end, as the node would send them.
fn carry(delivery: &Delivery, message: &Message, out: &mut VecDeque<ReceiveEvent>) {
    let body = &message.body;
    let attribute = |(key, value): &(String, String)| Attribute { key: key.clone(), value: value.clone() };
    let header = MessageHeader {
        delivery: delivery.number,
        id: Bytes::copy_from_slice(&message.id.0),
        from: from(body),
        address: body.to[delivery.ordinal].to_string(),
        file_name: body.file_name.clone(),
        subject: body.subject.clone(),
        precedence: body.precedence.to_string(),
        created_ms: body.created_ms,
        deadline_ms: body.deadline_ms(),
        deliver_by_ms: body.deliver_by_ms,
        size: body.payload_bytes,
        attributes: body.attributes.iter().map(attribute).collect(),
        business_id: body.business_id.clone(),
        content_type: body.content_type.clone(),
        label: body.label.clone(),
        redelivered: delivery.again,
        traceparent: body.traceparent.clone(),
        sequence: body.sequence,
    };
    let mut event = |step| out.push_back(ReceiveEvent { step: Some(step) });
    event(Event::Message(header));
    let mut rest = message.payload.clone();
    while !rest.is_empty() {
        event(Event::Part(rest.split_to(rest.len().min(limits::CHUNK_BYTES))));
    }
    event(Event::End(MessageEnd { delivery: delivery.number }));
}
