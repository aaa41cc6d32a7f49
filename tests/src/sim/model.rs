//! What must hold, kept beside the simulated nodes and asked at every step.
//!
//! It sees what nodes commit, what they say to one another and what applications do. It knows nothing of how the core
//! decides. Every break of a rule is a panic that names it.

use std::collections::{BTreeMap, BTreeSet};

use tram_proto::envelope::Body;
use tram_proto::id::{MessageId, NodeId};
use tram_proto::name::Address;
use tram_proto::receipt::{Receipt, State};
use tram_proto::row::{MessageRow, Phase};
use tram_relay::input::Row;
use tram_relay::limits::CLOCK_TRUST_MS;
use tram_relay::output::{Op, Statement};

use super::Place;

/// A message as its origin's spool has it.
#[derive(Debug)]
pub struct Sent {
    /// Where it was submitted.
    pub origin: Place,
    /// Its recipients.
    pub to: Vec<Address>,
    /// By its envelope, Unix milliseconds.
    pub deadline_ms: u64,
    /// Its origin said so to whoever submitted it.
    pub promised: bool,
    /// Someone asked to take it back.
    pub taken_back: bool,
    /// It is a tombstone.
    pub is_tombstone: bool,
}

/// One change that a commit makes, as far as the model cares.
#[derive(Debug, Clone)]
pub(super) enum Noted {
    Message {
        row: Row,
        message: MessageRow,
        settled: Option<u64>,
    },
    Gone(Row),
    Prune(u64),
    /// With the row when it is on its way, and whether this node says so itself.
    Receipt {
        row: Option<Row>,
        message: MessageId,
        ordinal: u32,
        state: State,
        own: bool,
    },
    ReceiptGone(Row),
    Own {
        id: MessageId,
        body: Box<Body>,
    },
}

pub(super) fn note(ops: &[Op], node: NodeId) -> Vec<Noted> {
    let mut out = Vec::new();
    for op in ops {
        match op {
            Op::PutMessage { row, message, envelope, .. } => {
                if message.from.is_none() {
                    let body = Body::decode(statement(envelope)).expect("an own envelope decodes");
                    out.push(Noted::Own { id: message.id, body: Box::new(body) });
                }
                out.push(Noted::Message { row: *row, message: message.clone(), settled: None });
            }
            Op::UpdateMessage { row, message } => {
                out.push(Noted::Message { row: *row, message: message.clone(), settled: None });
            }
            Op::SettleMessage { row, message, until_ms } => {
                out.push(Noted::Message { row: *row, message: message.clone(), settled: Some(*until_ms) });
            }
            Op::DeleteMessage { row } => out.push(Noted::Gone(*row)),
            Op::Prune(before) => out.push(Noted::Prune(*before)),
            Op::PutReceipt { row, statement: said, .. } => {
                let receipt = Receipt::decode(statement(said)).expect("a receipt decodes");
                let own = receipt.node == node && matches!(said, Statement::ToSign(..));
                let (message, ordinal, state) = (receipt.message, receipt.ordinal.index, receipt.state);
                out.push(Noted::Receipt { row: Some(*row), message, ordinal, state, own });
            }
            Op::KeepReceipt { message, ordinal, state, statement: said, .. } => {
                let own = matches!(said, Statement::ToSign(..));
                out.push(Noted::Receipt { row: None, message: *message, ordinal: *ordinal, state: *state, own });
            }
            Op::DeleteReceipt { row } => out.push(Noted::ReceiptGone(*row)),
            _ => {}
        }
    }
    out
}

fn statement(of: &Statement) -> &bytes::Bytes {
    match of {
        Statement::Signed(signed) => &signed.statement,
        Statement::ToSign(_, bytes) => bytes,
    }
}

/// What a node's spool must hold.
#[derive(Debug, Default, Clone)]
pub(super) struct Durable {
    rows: BTreeMap<Row, (MessageRow, Option<u64>)>,
    by_id: BTreeMap<MessageId, BTreeSet<Row>>,
    receipts: BTreeSet<Row>,
    /// What it may say that it has, or had: recipients of messages, and receipts.
    ever: BTreeSet<(MessageId, u32)>,
    ever_receipts: BTreeSet<(MessageId, u32, State)>,
}

/// The rows and receipts that a spool gave back at a start.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rows: BTreeMap<Row, (MessageRow, bool)>,
    pub(super) receipts: BTreeSet<Row>,
}

impl Durable {
    fn of(&self, id: MessageId) -> impl Iterator<Item = &MessageRow> {
        self.by_id.get(&id).into_iter().flatten().filter_map(|row| self.rows.get(row)).map(|(message, _)| message)
    }

    /// How far a recipient has come here.
    fn states(&self, id: MessageId, ordinal: u32) -> impl Iterator<Item = State> {
        let rows = self.of(id).flat_map(|m| &m.recipients);
        rows.filter(move |r| r.recipient.ordinal.index == ordinal).map(|r| r.state)
    }

    fn drop_row(&mut self, row: Row) {
        if let Some((message, _)) = self.rows.remove(&row)
            && let Some(rows) = self.by_id.get_mut(&message.id)
        {
            rows.remove(&row);
        }
    }

    fn apply(&mut self, noted: &Noted) {
        match noted {
            Noted::Message { row, message, settled } => {
                for r in &message.recipients {
                    if message.complete || r.phase == Phase::Ended {
                        self.ever.insert((message.id, r.recipient.ordinal.index));
                    }
                }
                self.by_id.entry(message.id).or_default().insert(*row);
                self.rows.insert(*row, (message.clone(), *settled));
            }
            Noted::Gone(row) => self.drop_row(*row),
            Noted::Prune(before) => {
                let over = |settled: &Option<u64>| settled.is_some_and(|until| until < *before);
                let rows: Vec<Row> = self.rows.iter().filter(|(_, (_, s))| over(s)).map(|(row, _)| *row).collect();
                rows.into_iter().for_each(|row| self.drop_row(row));
            }
            Noted::Receipt { row, message, ordinal, state, .. } => {
                self.receipts.extend(row);
                self.ever_receipts.insert((*message, *ordinal, *state));
            }
            Noted::ReceiptGone(row) => drop(self.receipts.remove(row)),
            Noted::Own { .. } => {}
        }
    }

    fn looks_like(&self, found: &Found) -> bool {
        let rows = self.rows.iter().map(|(row, (message, settled))| (row, message, settled.is_some()));
        rows.eq(found.rows.iter().map(|(row, (message, settled))| (row, message, *settled)))
            && self.receipts == found.receipts
    }
}

/// The rules, and what they rest on.
#[derive(Debug, Default)]
pub struct Model {
    /// Every message that an origin's spool ever held.
    pub sent: BTreeMap<MessageId, Sent>,
    /// What a key stands for, by the origin's place.
    keys: BTreeMap<(Place, String), MessageId>,
    durable: Vec<Durable>,
    /// Commits of which nobody knows whether the power cut came before or after.
    unsure: BTreeMap<Place, Vec<Vec<Noted>>>,
    /// What nodes stated, durably.
    stated: BTreeSet<(MessageId, u32, State)>,
    /// What applications said they have.
    pub took: BTreeSet<(MessageId, String)>,
    /// Acknowledgements that applications know to be durable, in this life of the destination's spool.
    acknowledged: BTreeSet<(Place, MessageId, String)>,
    /// Places whose spools began another life, or went back.
    pub reborn: BTreeSet<Place>,
}

impl Model {
    pub(super) fn new(nodes: usize) -> Self {
        Self { durable: vec![Durable::default(); nodes], ..Self::default() }
    }

    fn ordinal(&self, id: MessageId, address: &str) -> Option<u32> {
        let at = self.sent.get(&id)?.to.iter().position(|to| to.to_string() == address)?;
        u32::try_from(at).ok()
    }

    /// A commit is durable. `true_ms` is what a right clock says.
    pub(super) fn committed(&mut self, place: Place, name: &str, true_ms: u64, changes: Vec<Vec<Noted>>) {
        for commit in changes {
            self.check_receipts(place, name, &commit);
            for noted in &commit {
                self.learn(place, true_ms, noted);
                self.durable[place].apply(noted);
            }
        }
    }

    /// A statement and the state it attests become durable together, or a crash between them makes the one a lie or the
    /// other silent.
    fn check_receipts(&self, place: Place, name: &str, commit: &[Noted]) {
        let durable = &self.durable[place];
        let mut by_rows: BTreeSet<(MessageId, u32, State)> = BTreeSet::new();
        let mut said: BTreeSet<(MessageId, u32, State)> = BTreeSet::new();
        for noted in commit {
            match noted {
                Noted::Message { message, .. } => {
                    for r in &message.recipients {
                        by_rows.insert((message.id, r.recipient.ordinal.index, r.state));
                    }
                }
                Noted::Receipt { message, ordinal, state, .. } => drop(said.insert((*message, *ordinal, *state))),
                _ => {}
            }
        }
        for key in &by_rows {
            let (id, ordinal, state) = *key;
            let silent = matches!(state, State::Submitted | State::Relayed);
            let before = durable.states(id, ordinal).any(|known| known == state);
            assert!(
                silent || before || said.contains(key),
                "{name}: recipient {ordinal} of {id} became {state} in a commit without the receipt that says so"
            );
        }
        for noted in commit {
            let Noted::Receipt { message, ordinal, state, own: true, .. } = noted else { continue };
            let told = by_rows.contains(&(*message, *ordinal, *state))
                || durable.states(*message, *ordinal).any(|known| known == *state)
                || *state == State::Status
                || (*state == State::Recalled && self.sent.get(message).is_none_or(|s| s.taken_back));
            assert!(told, "{name}: a receipt says that recipient {ordinal} of {message} is {state}, and no row does");
        }
    }

    fn learn(&mut self, place: Place, true_ms: u64, noted: &Noted) {
        match noted {
            Noted::Own { id, body } => {
                let sent = Sent {
                    origin: place,
                    to: body.to.clone(),
                    deadline_ms: body.deadline_ms(),
                    promised: false,
                    taken_back: false,
                    is_tombstone: body.recalls.is_some(),
                };
                self.sent.insert(*id, sent);
                if !body.idempotency_key.is_empty() {
                    let before = self.keys.insert((place, body.idempotency_key.clone()), *id);
                    assert!(before.is_none(), "key {:?} stands for {before:?} and {id}", body.idempotency_key);
                }
            }
            Noted::Receipt { message, ordinal, state, own: true, .. } => {
                self.stated.insert((*message, *ordinal, *state));
                let Some(sent) = self.sent.get(message) else { return };
                let early = true_ms + CLOCK_TRUST_MS + 10_000 < sent.deadline_ms;
                assert!(
                    *state != State::Expired || !early,
                    "{message} expired for recipient {ordinal} {} s before its deadline",
                    (sent.deadline_ms - true_ms) / 1000
                );
                let address = sent.to.get(*ordinal as usize).map(ToString::to_string).unwrap_or_default();
                assert!(
                    *state != State::Delivered || sent.is_tombstone || self.took.contains(&(*message, address.clone())),
                    "{message} is said to be delivered to {address}, whose application never took it"
                );
            }
            _ => {}
        }
    }

    /// The power went in the middle of these commits.
    pub(super) fn unsure(&mut self, place: Place, changes: Vec<Vec<Noted>>) {
        self.unsure.insert(place, changes);
    }

    /// The disk is another one, or an older one.
    pub(super) fn forget(&mut self, place: Place) {
        self.durable[place] = Durable::default();
        self.unsure.remove(&place);
        self.acknowledged.retain(|(at, ..)| *at != place);
        self.reborn.insert(place);
    }

    /// What a spool gave back at a start. With `damaged`, the disk may have lost some of it.
    pub(super) fn found(&mut self, place: Place, name: &str, true_ms: u64, found: &Found, take_it: bool) {
        let unsure = self.unsure.remove(&place);
        if take_it {
            let mut durable = Durable::default();
            for (row, (message, settled)) in &found.rows {
                let settled = settled.then_some(u64::MAX);
                durable.apply(&Noted::Message { row: *row, message: message.clone(), settled });
            }
            durable.receipts.clone_from(&found.receipts);
            self.durable[place] = durable;
            // A commit that failed may be there all the same.
            for noted in unsure.iter().flatten().flatten() {
                if let Noted::Receipt { message, ordinal, state, own: true, .. } = noted {
                    self.stated.insert((*message, *ordinal, *state));
                }
            }
            return;
        }
        if self.durable[place].looks_like(found) {
            return;
        }
        if let Some(changes) = unsure {
            self.committed(place, name, true_ms, changes);
            if self.durable[place].looks_like(found) {
                return;
            }
        }
        let durable = &self.durable[place];
        let lost: Vec<&Row> = durable.rows.keys().filter(|row| !found.rows.contains_key(row)).collect();
        let new: Vec<&Row> = found.rows.keys().filter(|row| !durable.rows.contains_key(row)).collect();
        let receipts = (durable.receipts.len(), found.receipts.len());
        panic!("{name}'s spool came back with something else: lost {lost:?}, new {new:?}, receipts {receipts:?}");
    }

    /// A node acknowledges what was offered to it.
    pub(super) fn acknowledges(&self, place: Place, name: &str, id: MessageId, ordinals: &[u32], true_ms: u64) {
        let durable = &self.durable[place];
        let over = |s: &Sent| s.taken_back || true_ms + CLOCK_TRUST_MS + 10_000 > s.deadline_ms;
        let over = self.sent.get(&id).is_some_and(over);
        for ordinal in ordinals {
            assert!(
                over || durable.ever.contains(&(id, *ordinal)),
                "{name} acknowledges {id} for recipient {ordinal}, and its spool never had it"
            );
        }
    }

    /// A node heard that the next one has it: it may pass the word on.
    pub(super) fn hears_acknowledged(&mut self, place: Place, id: MessageId, ordinals: &[u32]) {
        self.durable[place].ever.extend(ordinals.iter().map(|ordinal| (id, *ordinal)));
    }

    pub(super) fn acknowledges_receipt(&self, place: Place, name: &str, id: MessageId, ordinal: u32, state: State) {
        let at_home = self.sent.get(&id).is_some_and(|s| s.origin == place);
        assert!(
            at_home || self.durable[place].ever_receipts.contains(&(id, ordinal, state)),
            "{name} acknowledges the receipt {state} of recipient {ordinal} of {id}, and its spool never had it"
        );
    }

    /// A node hands a message to an application.
    pub(super) fn hands_out(&self, place: Place, name: &str, id: MessageId, address: &str) {
        let ordinal = self.ordinal(id, address);
        let Some(ordinal) = ordinal else { panic!("{name} hands out {id} for {address}, which it is not for") };
        let ended = self.durable[place].states(id, ordinal).find(|state| state.is_terminal());
        assert!(ended.is_none(), "{name} hands out {id} for {address} again, which is {}", State::Delivered);
        assert!(
            !self.acknowledged.contains(&(place, id, address.to_owned())),
            "{name} hands out {id} for {address}, which was acknowledged before"
        );
    }

    /// An application knows that its acknowledgement is durable.
    pub(super) fn acknowledged(&mut self, place: Place, id: MessageId, address: &str) {
        let new = self.acknowledged.insert((place, id, address.to_owned()));
        assert!(new, "{id} was acknowledged twice for {address}");
    }

    /// Whether an application's acknowledgement of it is known to be durable.
    #[must_use]
    pub fn is_acknowledged(&self, place: Place, id: MessageId, address: &str) -> bool {
        self.acknowledged.contains(&(place, id, address.to_owned()))
    }

    /// An origin tells whoever watches.
    pub(super) fn progress(&self, name: &str, id: MessageId, address: &str, state: State) {
        let known = self.ordinal(id, address).map(|ordinal| (id, ordinal, state));
        assert!(
            known.is_some_and(|key| self.stated.contains(&key)),
            "{name} says that {id} is {state} for {address}, and nobody stated that durably"
        );
    }
}
