//! Applications: those that submit and ask again until they have an answer, and those that take, slowly or in bad order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use bytes::Bytes;
use tram_proto::envelope::{Body, Precedence};
use tram_proto::id::{Digest, MessageId};
use tram_proto::limits::{CHUNK_BYTES, INLINE_BYTES};
use tram_proto::manifest::Layout;
use tram_proto::name::{Address, Inbox};
use tram_relay::Input;
use tram_relay::input::{Command, Consumer, Row, Submission, Ticket};
use tram_relay::output::SubmitRefused;
use tramd::spool::SpoolError;

use super::world::{Asked, Happening, World};
use super::{LIFETIME_MS, Place, Random};

/// How long an application of the simulation may keep a message without a word.
const LEASE_MS: u64 = 5_000;

/// An application that takes from an inbox.
pub(super) struct Desk {
    inbox: Inbox,
}

/// A message on an application's table.
pub(super) struct Handed {
    consumer: Consumer,
    row: Row,
    id: MessageId,
    address: String,
}

/// The place of a [`Job`] in the world's list.
pub(super) type JobId = usize;

/// What a submitter has to get rid of.
pub(super) struct Job {
    place: Place,
    to: Vec<Address>,
    precedence: Precedence,
    payload: Bytes,
    lifetime_ms: u64,
    key: String,
    asked: bool,
    /// What became of it: the message, or `None` when the answer was lost and nothing can be asked again.
    done: Option<Option<MessageId>>,
}

/// What an application wants sent.
#[derive(Debug, Clone)]
pub struct Letter<'a> {
    /// The recipients.
    pub to: &'a [&'a str],
    /// The class.
    pub precedence: Precedence,
    /// Length of the payload.
    pub bytes: usize,
    /// Milliseconds.
    pub lifetime_ms: u64,
    /// Asked again under the same key until there is an answer.
    pub key: bool,
}

/// Bytes that compress to nothing, made once: payloads are slices of them.
fn noise() -> Bytes {
    static NOISE: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let mut random = Random::new(1);
        (0..NOISE_BYTES / 8).flat_map(|_| random.number().to_le_bytes()).collect::<Vec<u8>>().into()
    };
    NOISE.get_or_init(make).clone()
}

const NOISE_BYTES: usize = 32 << 20;

impl World {
    /// Submits a payload of so many bytes.
    pub fn submit(&mut self, from: Place, to: &[&str], precedence: Precedence, bytes: usize) {
        self.send(from, &Letter { to, precedence, bytes, lifetime_ms: LIFETIME_MS, key: false });
    }

    /// Submits a letter.
    pub fn send(&mut self, from: Place, letter: &Letter<'_>) {
        let at = self.random.place(NOISE_BYTES - letter.bytes);
        let job = Job {
            place: from,
            to: letter.to.iter().map(|to| to.parse().expect("an address")).collect(),
            precedence: letter.precedence,
            payload: noise().slice(at..at + letter.bytes),
            lifetime_ms: letter.lifetime_ms,
            key: if letter.key { format!("letter {}", self.jobs.len()) } else { String::new() },
            asked: false,
            done: None,
        };
        self.jobs.push(job);
        self.ask(self.jobs.len() - 1);
    }

    pub(super) fn ask(&mut self, id: JobId) {
        let job = &self.jobs[id];
        let place = job.place;
        if job.asked || job.done.is_some() || self.nodes[place].core.is_none() {
            // A node that starts is asked again.
            return;
        }
        let payload = job.payload.clone();
        let Some((root, inline)) = self.hand_in(place, payload.clone()) else {
            return self.at(10_000, Happening::Ask { job: id });
        };
        self.payloads.insert(root, payload);
        let job = &mut self.jobs[id];
        job.asked = true;
        let submission = Submission {
            user: 0,
            quota_bytes: None,
            demoted_from: None,
            nonce: self.random.wide(),
            sender: None,
            to: job.to.clone(),
            precedence: job.precedence,
            lifetime_ms: Some(job.lifetime_ms),
            deliver_by_ms: 0,
            label: String::new(),
            subject: String::new(),
            file_name: "f".to_owned(),
            content_type: String::new(),
            attributes: vec![],
            business_id: String::new(),
            idempotency_key: job.key.clone(),
            traceparent: String::new(),
            payload_bytes: job.payload.len() as u64,
            payload_root: root,
            inline,
        };
        let ticket = self.ticket(place, Asked::Submission(id));
        self.tell(place, Input::Submit { ticket, submission: Box::new(submission) });
    }

    /// Puts a chunked payload into the spool; `None` when that has no room now, or the machine died.
    fn hand_in(&mut self, place: Place, payload: Bytes) -> Option<(Digest, Option<Bytes>)> {
        if payload.len() <= INLINE_BYTES {
            return Some((tram_proto::manifest::root_of(&payload), Some(payload)));
        }
        if !self.has_room(place, payload.len() as u64) {
            return None;
        }
        let length = payload.len() as u64;
        let done = self.on_spool(place, "take an upload", |spool| {
            let mut upload = spool.upload();
            let mut rest = payload;
            while !rest.is_empty() {
                upload.push(rest.split_to(rest.len().min(CHUNK_BYTES)))?;
            }
            upload.finish()
        });
        let (root, bytes) = done?;
        assert_eq!(bytes, length);
        self.look_after(place);
        Some((root, None))
    }

    fn ticket(&mut self, place: Place, asked: Asked) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.nodes[place].asked.insert(ticket, asked);
        ticket
    }

    pub(super) fn submitted(&mut self, place: Place, ticket: Ticket, id: MessageId) {
        let Some(Asked::Submission(job)) = self.nodes[place].asked.remove(&ticket) else { return };
        let name = self.name(place);
        let sent = self.model.sent.get_mut(&id);
        sent.unwrap_or_else(|| panic!("{name} promises {id}, and its spool never had it")).promised = true;
        self.jobs[job].done = Some(Some(id));
    }

    pub(super) fn not_submitted(&mut self, place: Place, ticket: Ticket, why: &SubmitRefused) {
        let Some(Asked::Submission(job)) = self.nodes[place].asked.remove(&ticket) else { return };
        let later = matches!(
            why,
            SubmitRefused::SpoolFull { .. } | SubmitRefused::Watermark { .. } | SubmitRefused::HopFull { .. }
        );
        assert!(later && self.manners.may_refuse, "{} refuses a submission: {why}", self.name(place));
        self.jobs[job].asked = false;
        let again = 5_000 + self.random.below(10_000);
        self.at(again, Happening::Ask { job });
    }

    /// The process died with questions unanswered.
    pub(super) fn unanswered(&mut self, asked: BTreeMap<Ticket, Asked>) {
        for asked in asked.into_values() {
            if let Asked::Submission(job) = asked {
                let job = &mut self.jobs[job];
                job.asked = false;
                if job.key.is_empty() {
                    job.done = Some(None);
                }
            }
        }
    }

    /// The node is there again for those who wait.
    pub(super) fn ask_again(&mut self, place: Place) {
        for job in 0..self.jobs.len() {
            if self.jobs[job].place == place && self.jobs[job].done.is_none() {
                let wait = self.random.below(2_000);
                self.at(wait, Happening::Ask { job });
            }
        }
    }

    /// Whether every submitter has its answer.
    #[must_use]
    pub fn all_answered(&self) -> bool {
        self.jobs.iter().all(|job| job.done.is_some())
    }

    /// The messages that were promised, in the order in which they were asked for.
    #[must_use]
    pub fn promised(&self) -> Vec<MessageId> {
        self.jobs.iter().filter_map(|job| job.done.flatten()).collect()
    }

    /// Asks something else of a node.
    pub fn command(&mut self, place: Place, command: Command) {
        if let Command::Recall { message, .. } | Command::Cancel { message, .. } = &command
            && let Some(sent) = self.model.sent.get_mut(message)
        {
            sent.taken_back = true;
        }
        if self.nodes[place].core.is_some() {
            let ticket = self.ticket(place, Asked::Command);
            self.tell(place, Input::Command { ticket, command });
        }
    }

    /// The application of a destination says what it did with a message.
    pub fn set_status(&mut self, place: Place, id: MessageId, code: u32, text: &str) {
        let found = self.on_spool(place, "find a message", |spool| {
            spool.find(&id)?.map(|row| spool.message(row)).transpose().map(Option::flatten)
        });
        let Some(Some(stored)) = found else { return };
        let body = Box::new(Body::decode(&stored.envelope.statement).expect("it decodes"));
        let inboxes = self.inboxes.clone();
        self.command(place, Command::SetStatus { message: id, body, inboxes, code, text: text.to_owned() });
    }

    /// Applications sit down at every inbox of a node.
    pub(super) fn sit_down(&mut self, place: Place) {
        if !self.applications {
            return;
        }
        let each = if self.manners.crowded { 2 } else { 1 };
        let life = self.nodes[place].life;
        for inbox in self.inboxes.clone() {
            for _ in 0..each {
                let wait = if self.manners.moody { self.random.below(30_000) } else { 0 };
                self.at(wait, Happening::Sit { place, life, inbox: inbox.clone() });
            }
        }
    }

    /// Applications sit down at every inbox where there is none.
    pub fn open_desks(&mut self) {
        self.applications = true;
        for place in 0..self.nodes.len() {
            for inbox in self.inboxes.clone() {
                if self.nodes[place].core.is_some() && !self.nodes[place].desks.values().any(|d| d.inbox == inbox) {
                    self.sit(place, inbox);
                }
            }
        }
    }

    pub(super) fn sit(&mut self, place: Place, inbox: Inbox) {
        if !self.applications {
            return;
        }
        let consumer = Consumer(self.next_consumer);
        self.next_consumer += 1;
        self.nodes[place].desks.insert(consumer, Desk { inbox: inbox.clone() });
        self.take(place, consumer, inbox);
    }

    fn take(&mut self, place: Place, consumer: Consumer, inbox: Inbox) {
        self.tell(place, Input::Take { consumer, inbox, credit: 4, lease_ms: LEASE_MS });
    }

    /// An application gets a message: it reads it, writes it down, and acknowledges when it comes to that.
    pub(super) fn handed_out(&mut self, place: Place, consumer: Consumer, row: Row, id: MessageId, address: &Address) {
        let address = address.to_string();
        self.model.hands_out(place, &self.name(place), id, &address);
        let known = self.nodes[place].ledger.contains(&(id, address.clone()));
        let life = self.nodes[place].life;
        if !known && !self.read_payload(place, row) {
            // Its stream ends with an error, and it comes again.
            let Some(desk) = self.nodes[place].desks.remove(&consumer) else { return };
            let input = Box::new(Input::Left { consumer });
            self.at(1, Happening::Input { place, life, input });
            return self.at(1_000, Happening::Sit { place, life, inbox: desk.inbox });
        }
        let wait = match self.random.below(4) {
            0 if self.manners.slow => self.random.below(3 * LEASE_MS),
            1 if self.manners.slow => LEASE_MS - 1 + self.random.below(3),
            _ => self.random.below(50),
        };
        self.at(wait, Happening::Decide { place, life, handed: Handed { consumer, row, id, address } });
    }

    pub(super) fn decide(&mut self, place: Place, handed: Handed) {
        let Handed { consumer, row, id, address } = handed;
        let Some(inbox) = self.nodes[place].desks.get(&consumer).map(|d| d.inbox.clone()) else { return };
        if self.deaf {
            return self.take(place, consumer, inbox);
        }
        if self.manners.moody {
            match self.random.below(12) {
                0 => {
                    self.tell(place, Input::GaveBack { consumer, row });
                    return self.take(place, consumer, inbox);
                }
                1 => {
                    self.nodes[place].desks.remove(&consumer);
                    self.tell(place, Input::Left { consumer });
                    let (life, wait) = (self.nodes[place].life, self.random.below(60_000));
                    return self.at(wait, Happening::Sit { place, life, inbox });
                }
                2 => {
                    self.tell(place, Input::Renew { consumer, row });
                    let (life, wait) = (self.nodes[place].life, self.random.below(LEASE_MS));
                    let handed = Handed { consumer, row, id, address };
                    return self.at(wait, Happening::Decide { place, life, handed });
                }
                _ => {}
            }
        }
        self.nodes[place].ledger.insert((id, address.clone()));
        self.model.took.insert((id, address.clone()));
        let ticket = self.ticket(place, Asked::Took { id, address });
        self.tell(place, Input::Took { consumer, row, ticket });
        if self.nodes[place].desks.contains_key(&consumer) {
            let inbox = self.nodes[place].desks[&consumer].inbox.clone();
            self.take(place, consumer, inbox);
        }
    }

    pub(super) fn took_done(&mut self, place: Place, ticket: Ticket, held: bool) {
        let Some(Asked::Took { id, address }) = self.nodes[place].asked.remove(&ticket) else { return };
        if held {
            self.model.acknowledged(place, id, &address);
        }
    }

    /// Holds what the spool gives against what was submitted; false when a damaged disk does not give it.
    fn read_payload(&mut self, place: Place, row: Row) -> bool {
        let read = self.on_spool(place, "load a message", |spool| {
            let stored = spool.message(row)?.ok_or_else(|| SpoolError::Missing {
                path: "(simulated)".into(),
                what: "message that is handed out",
                which: row.0.to_string(),
            })?;
            Ok((stored.envelope.statement, spool.inline(row)?))
        });
        let Some((statement, inline)) = read else { return false };
        let body = Body::decode(&statement).expect("it decodes");
        let expected = self.payloads.get(&body.payload_root).cloned().expect("someone submitted it");
        if body.is_inline() {
            assert!(inline.is_some_and(|inline| inline == expected), "the payload is what was sent");
            return true;
        }
        let layout = Layout::new(body.payload_bytes).expect("small");
        let mut rest = expected;
        for unit in layout.manifest_units()..layout.units() {
            let Some(bytes) = self.unit(place, body.payload_root, layout, unit) else { return false };
            assert!(bytes.len() <= rest.len(), "no more than what was sent");
            assert!(rest.split_to(bytes.len()) == bytes, "unit {unit} of the payload is what was sent");
        }
        assert!(rest.is_empty(), "the whole payload came");
        true
    }

    /// What the applications of a node wrote down.
    #[must_use]
    pub fn ledgers(&self) -> BTreeSet<(MessageId, String)> {
        self.nodes.iter().flat_map(|node| node.ledger.iter().cloned()).collect()
    }
}

/// Payload sizes that meet every path: inline, one chunk, several chunks.
#[must_use]
pub fn some_size(random: &mut Random) -> usize {
    match random.below(8) {
        0..=5 => random.below(3000) as usize,
        6 => INLINE_BYTES + 1 + random.below(5000) as usize,
        _ => CHUNK_BYTES + random.below(CHUNK_BYTES as u64 * 5) as usize,
    }
}
