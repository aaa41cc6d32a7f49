//! A message enters: from the application's words to a row, an id, and the promise that it is durable.

use bytes::Bytes;
use tram_proto::envelope::{Body, MessageKind, Network, Precedence};
use tram_proto::frame::{Recipient, Visit};
use tram_proto::id::{Digest, MessageId, NodeId};
use tram_proto::limits as wire_limits;
use tram_proto::name::NodeName;
use tram_proto::receipt::{Ordinal, Reason, State};
use tram_proto::row::{KeyRow, MessageRow, Phase, RecipientRow};
use tram_proto::statement::Kind;

use crate::custody::{Live, ROW_BYTES};
use crate::input::{Held, Submission, Ticket};
use crate::limits;
use crate::node::{After, Node};
use crate::output::{Event, Op, Output, Statement, SubmitRefused};
use crate::routing::Existence;

impl Node {
    pub(super) fn submit(&mut self, ticket: Ticket, submission: Submission) {
        match self.try_submit(ticket, submission) {
            Ok(()) => {}
            Err(why) => self.outputs.push_back(Output::NotSubmitted { ticket, why }),
        }
    }

    fn try_submit(&mut self, ticket: Ticket, s: Submission) -> Result<(), SubmitRefused> {
        if !self.started {
            return Err(SubmitRefused::Starting);
        }
        if !s.label.is_empty() && !self.config.labels.contains(&s.label) {
            return Err(SubmitRefused::LabelNotPermitted(s.label));
        }
        let sender = s.sender.as_ref().map(ToString::to_string).unwrap_or_default();
        let content = content_of(&s);
        let key = (s.user, sender.clone(), s.idempotency_key.clone());
        if !s.idempotency_key.is_empty()
            && let Some(known) = self.keys.get(&key)
        {
            let (message, same) = (known.message, known.content == content);
            return if same {
                self.submitted_before(ticket, message)
            } else {
                Err(SubmitRefused::KeyTaken { key: s.idempotency_key, message })
            };
        }
        if self.custody.is_full() || self.keys.len() >= limits::KEYS {
            return Err(SubmitRefused::TooMany(limits::MESSAGES));
        }
        let bytes = s.inline.as_ref().map_or(0, |i| i.len() as u64) + ROW_BYTES;
        self.admits(s.precedence, bytes)?;
        let size = s.payload_bytes.saturating_add(ROW_BYTES);
        if let Some(quota_bytes) = s.quota_bytes {
            let bytes = self.custody.of_user(s.user).saturating_add(size);
            if bytes > quota_bytes {
                return Err(SubmitRefused::Quota { bytes, quota_bytes });
            }
        }
        // One office that is off does not keep a circular from the others.
        let hops = s.to.iter().map(|to| self.routing.way(self.known(&to.node), Some(&to.node)));
        if let Some(full) = hops.map(|hop| self.hop_takes(hop, size)).reduce(Result::or) {
            full?;
        }
        self.take_submission(ticket, s, sender, content, key)
    }

    fn submitted_before(&mut self, ticket: Ticket, message: MessageId) -> Result<(), SubmitRefused> {
        let durable = self.custody.find(message).and_then(|row| self.custody.get(row)).is_none_or(|l| l.durable);
        if durable {
            self.say_submitted(ticket, message);
        } else {
            self.then(After::Submitted(ticket, message));
        }
        Ok(())
    }

    pub(super) fn say_submitted(&mut self, ticket: Ticket, id: MessageId) {
        let live = self.custody.find(id).and_then(|row| self.custody.get(row));
        let demoted_from = live.and_then(|live| live.message.demoted_from);
        self.outputs.push_back(Output::Submitted { ticket, id, demoted_from });
    }

    fn take_submission(
        &mut self,
        ticket: Ticket,
        s: Submission,
        sender: String,
        content: Digest,
        key: (u32, String, String),
    ) -> Result<(), SubmitRefused> {
        let (inline, user, granted, demoted_from) = (s.inline.clone(), s.user, s.precedence, s.demoted_from);
        let counted: Vec<(String, u64)> = std::iter::once(sender.clone())
            .chain(s.to.iter().map(|to| format!("{sender}>{to}")))
            .map(|name| (self.sequences.get(&name).copied().unwrap_or(0) + 1, name))
            .map(|(next, name)| (name, next))
            .collect();
        if self.sequences.len() + counted.len() > limits::SEQUENCES {
            return Err(SubmitRefused::TooMany(limits::SEQUENCES));
        }
        let pair_sequences = counted.iter().skip(1).map(|(_, next)| *next).collect();
        let body = self.body(s, counted.first().map_or(1, |(_, next)| *next), pair_sequences);
        let until_ms = body.deadline_ms().saturating_add(limits::REMEMBER_MS);
        let id = self.put_own(body, None, (Some(user), demoted_from), inline)?;
        if let Some(asked) = demoted_from {
            let event = Event::Demoted { message: id, user, asked, granted };
            self.then(After::Event(event));
        }
        for (sender, sequence) in counted {
            self.sequences.insert(sender.clone(), sequence);
            self.op(Op::PutSequence { sender, sequence });
        }
        if !key.2.is_empty() {
            let value = KeyRow { message: id, content, until_ms };
            self.op(Op::PutKey { user: key.0, sender: key.1.clone(), key: key.2.clone(), row: value });
            self.keys.insert(key, value);
        }
        self.then(After::Submitted(ticket, id));
        Ok(())
    }

    /// Takes custody of a message of this node's own, for all its addresses or some.
    pub(super) fn put_own(
        &mut self,
        body: Body,
        only: Option<&[Ordinal]>,
        (user, demoted_from): (Option<u32>, Option<Precedence>),
        inline: Option<Bytes>,
    ) -> Result<MessageId, SubmitRefused> {
        if self.custody.is_full() {
            return Err(SubmitRefused::TooMany(limits::MESSAGES));
        }
        let bytes = body.encode().map_err(SubmitRefused::Invalid)?;
        let id = Body::id(&bytes);
        let row = self.row();
        let recipients = body.to.iter().enumerate().map(|(index, address)| {
            let ordinal = Ordinal::body(u32::try_from(index).unwrap_or(u32::MAX));
            let node = self.known(&address.node);
            new_recipient(Recipient { ordinal, node }, State::Submitted, body.created_ms)
        });
        let recipients = recipients.filter(|r| only.is_none_or(|only| only.contains(&r.recipient.ordinal)));
        let message = MessageRow {
            id,
            visit: Visit::default(),
            from: None,
            received_ms: body.created_ms,
            recipients: recipients.collect(),
            stamps: Vec::new(),
            complete: true,
            handed_ms: 0,
            handed_to: None,
            user,
            recalls: body.recalls,
            demoted_from,
        };
        let Some(live) = Live::new(message, body.gist(), &Held::default(), false) else {
            return Err(SubmitRefused::TooMany(limits::MESSAGES));
        };
        self.custody.insert(row, live);
        self.judge(row);
        self.put_message(row, Statement::ToSign(Kind::Envelope, bytes), inline);
        self.then(After::Stored(row));
        Ok(id)
    }

    fn known(&self, name: &NodeName) -> Option<NodeId> {
        match self.routing.resolve(name) {
            Existence::Known(node) => Some(node),
            Existence::Never | Existence::Unknown => None,
        }
    }

    fn body(&self, s: Submission, sequence: u64, pair_sequences: Vec<u64>) -> Body {
        Body {
            nonce: s.nonce,
            origin: self.config.node,
            incarnation: self.row.incarnation,
            origin_name: self.config.name.clone(),
            sender: s.sender,
            to: s.to,
            precedence: s.precedence,
            sequence,
            created_ms: self.clock.corrected_ms(self.now),
            clock_offset_ms: self.clock.offset_ms(),
            lifetime_ms: s.lifetime_ms.unwrap_or(wire_limits::LIFETIME_DEFAULT_MS),
            deliver_by_ms: s.deliver_by_ms,
            label: s.label,
            network: Network::Unspecified,
            kind: MessageKind::Document,
            subject: s.subject,
            file_name: s.file_name,
            content_type: s.content_type,
            attributes: s.attributes,
            business_id: s.business_id,
            idempotency_key: s.idempotency_key,
            traceparent: s.traceparent,
            sealed: false,
            payload_bytes: s.payload_bytes,
            payload_root: s.payload_root,
            recalls: None,
            pair_sequences,
        }
    }

    /// Writes a new row with its envelope.
    pub(super) fn put_message(&mut self, row: crate::input::Row, envelope: Statement, inline: Option<Bytes>) {
        self.charge(row);
        self.room_taken(inline.as_ref().map_or(0, |i| i.len() as u64) + ROW_BYTES);
        if let Some(live) = self.custody.get(row) {
            let (message, payload) = (live.message.clone(), live.payload());
            self.urgent |= live.precedence == Precedence::Flash;
            self.op(Op::PutMessage { row, message, envelope, inline, payload });
        }
    }
}

/// A recipient that something is still to be done for.
pub(super) const fn new_recipient(recipient: Recipient, state: State, at_ms: u64) -> RecipientRow {
    RecipientRow { recipient, phase: Phase::Forward, state, reason: Reason::None, detail: String::new(), at_ms }
}

/// What a repeated submission under one key has to have in common.
fn content_of(s: &Submission) -> Digest {
    let mut text = Vec::new();
    let to = s.to.iter().map(ToString::to_string);
    // What was asked for: a quota does not make a repetition another message.
    let asked = s.demoted_from.unwrap_or(s.precedence);
    let fields = to.chain([s.subject.clone(), s.file_name.clone(), asked.to_string()]);
    for field in fields {
        text.extend_from_slice(&(field.len() as u64).to_be_bytes());
        text.extend_from_slice(field.as_bytes());
    }
    text.extend_from_slice(&s.payload_root.0);
    Digest::of(&text)
}
