use bytes::Bytes;
use tram_proto::envelope::Precedence;
use tram_proto::id::{CertHash, Digest, Incarnation, MessageId};
use tram_proto::name::NodeName;
use tram_proto::pki::Alias;
use tram_proto::receipt::Ordinal;
use tram_proto::row::NodeRow;
use tram_proto::statement::Signature;

use super::*;
use crate::Config;
use crate::input::{Aliases, Input, Names, Submission, Ticket};
use crate::time::Now;

const NOW: Now = Now { mono_ms: 1000, wall_ms: 1_800_000_000_000 };
/// The office that is renamed, from X to Y.
const OFFICE: u8 = 7;
const X: &str = "x.can-tho";
const Y: &str = "y.can-tho";
/// A node with a good certificate and a name of its own.
const OTHER: u8 = 9;

fn id(n: u8) -> NodeId {
    NodeId([n; 16])
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn alias(old: &str, new: &str, node: u8) -> Alias {
    Alias { old: name(old), new: name(new), node: id(node), until_ms: 0 }
}

fn live(aliases: &[Alias]) -> Aliases {
    Aliases { live: aliases.to_vec(), ended: Vec::new() }
}

fn ended(aliases: &[Alias]) -> Aliases {
    Aliases { live: Vec::new(), ended: aliases.to_vec() }
}

/// A leaf, whose uplink knows more of names than it.
struct Origin(Node);

impl Origin {
    fn new() -> Self {
        let mut node = Node::new(Config {
            node: id(1),
            name: name("origin"),
            title: String::new(),
            has_uplink: true,
            features: 0,
            addresses: Vec::new(),
            boot: [0; 16],
            labels: Vec::new(),
        });
        let row = NodeRow { incarnation: Incarnation([1; 16]), starts: 1, record: 0, clock_ms: 0 };
        node.handle(Input::Start { node: row, inboxes: Vec::new() }, NOW);
        node.handle(Input::SpoolRoom { free_bytes: 1 << 40, total_bytes: 1 << 41 }, NOW);
        Self(node)
    }

    /// Everything that was asked for is durable; answers what watchers hear.
    fn run(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(output) = self.0.poll_output() {
            match output {
                Output::Persist { commit, .. } => self.0.handle(Input::Persisted { commit, records: Vec::new() }, NOW),
                Output::Event(event) => events.push(event),
                _ => {}
            }
        }
        events
    }

    fn aliases(&mut self, aliases: Aliases) -> Vec<Event> {
        self.0.handle(Input::Aliases(aliases), NOW);
        self.run()
    }

    fn send(&mut self, to: &str) -> MessageId {
        let submission = Submission {
            user: 0,
            quota_bytes: None,
            nonce: [3; 16],
            sender: None,
            to: vec![format!("vanban@{to}").parse().expect("an address")],
            precedence: Precedence::Routine,
            demoted_from: None,
            lifetime_ms: None,
            deliver_by_ms: 0,
            label: String::new(),
            subject: String::new(),
            file_name: String::new(),
            content_type: String::new(),
            attributes: Vec::new(),
            business_id: String::new(),
            idempotency_key: String::new(),
            traceparent: String::new(),
            payload_bytes: 0,
            payload_root: tram_proto::manifest::root_of(&[]),
            inline: Some(Bytes::new()),
        };
        self.0.handle(Input::Submit { ticket: Ticket(1), submission: Box::new(submission) }, NOW);
        self.run();
        let [row] = self.0.custody.rows().map(|(row, _)| row).collect::<Vec<_>>()[..] else { panic!("one message") };
        let message = &mut self.0.custody.get_mut(row).expect("a row").message;
        // Its uplink has it.
        message.recipients[0].phase = Phase::Handed;
        message.id
    }

    /// What node `n`, by a certificate with this name, says of a message to `to`.
    fn says(message: MessageId, to: &str, state: State, n: u8, called: &str) -> (Box<Receipt>, Signer) {
        let receipt = Receipt {
            message,
            origin: id(1),
            ordinal: Ordinal::body(0),
            address: format!("vanban@{to}").parse().expect("an address"),
            state,
            reason: Reason::None,
            detail: String::new(),
            code: 0,
            node: id(n),
            name: name(called),
            at_ms: NOW.wall_ms,
            stamps: Vec::new(),
            payload_root: Digest([0; 32]),
            payload_bytes: 0,
        };
        (Box::new(receipt), Signer { node: id(n), name: name(called), role: Role::Commune })
    }

    fn believes(&self, message: MessageId, to: &str, n: u8, called: &str) -> bool {
        let (receipt, signer) = Self::says(message, to, State::Delivered, n, called);
        self.0.may_state(&signer, &receipt)
    }

    /// The receipt is believed, and the message over.
    fn settle(&mut self, message: MessageId, to: &str, n: u8, called: &str) {
        let (receipt, signer) = Self::says(message, to, State::Delivered, n, called);
        assert!(self.0.may_state(&signer, &receipt));
        self.0.came_home(&receipt, signed());
        self.run();
        assert!(self.0.custody.settled(message).is_some());
    }
}

fn signed() -> Signed {
    let signature = Signature { signer: CertHash([0; 32]), count: 1, index: 0, path: vec![], signature: Bytes::new() };
    Signed { statement: Bytes::new(), signature }
}

#[test]
fn row_33_nobody_speaks_for_a_name_that_he_does_not_hold() {
    for aliases in [Aliases::default(), live(&[alias(X, Y, OFFICE)]), ended(&[alias(X, Y, OFFICE)])] {
        let mut origin = Origin::new();
        origin.aliases(aliases);
        let message = origin.send(X);
        assert!(origin.believes(message, X, OFFICE, X));
        for (n, called) in [(OTHER, "z.can-tho"), (OTHER, Y), (OFFICE, "z.can-tho")] {
            assert!(!origin.believes(message, X, n, called), "{n} as {called}");
        }
        // Whatever it calls itself in the receipt.
        let (receipt, _) = Origin::says(message, X, State::Delivered, OFFICE, X);
        let (_, other) = Origin::says(message, X, State::Delivered, OTHER, "z.can-tho");
        assert!(!origin.0.may_state(&other, &receipt));
    }
}

#[test]
fn two_notices_prove_nothing_together_that_neither_of_their_signers_may_say() {
    // The CA of an-giang may put any node's id beside names of its own.
    let mut origin = Origin::new();
    origin.aliases(live(&[alias(X, Y, OFFICE), alias("a.an-giang", "b.an-giang", OFFICE)]));
    let message = origin.send(X);
    assert!(origin.believes(message, X, OFFICE, Y));
    assert!(!origin.believes(message, X, OFFICE, "b.an-giang"));
}

#[test]
fn a_renamed_node_is_believed_under_both_names_by_the_notice_alone() {
    for (to, called) in [(X, Y), (Y, X)] {
        let mut origin = Origin::new();
        let message = origin.send(to);
        assert!(!origin.believes(message, to, OFFICE, called), "by its mere claim");
        origin.aliases(live(&[alias(X, Y, OFFICE)]));
        assert!(origin.believes(message, to, OFFICE, called));
    }
    // Renamed twice: the notice then gives the newest name to both.
    let mut origin = Origin::new();
    origin.aliases(live(&[alias("w.can-tho", Y, OFFICE), alias(X, Y, OFFICE)]));
    let message = origin.send("w.can-tho");
    assert!(origin.believes(message, "w.can-tho", OFFICE, X));
}

#[test]
fn an_alias_that_ended_counts_for_what_was_sent_in_its_time() {
    let mut origin = Origin::new();
    let early = origin.send(X);
    origin.aliases(live(&[alias(X, Y, OFFICE)]));
    origin.aliases(ended(&[alias(X, Y, OFFICE)]));
    assert!(origin.believes(early, X, OFFICE, Y));
    origin.settle(early, X, OFFICE, Y);
    // A status may come long after the delivery.
    assert!(origin.believes(early, X, OFFICE, Y));

    let mut origin = Origin::new();
    origin.aliases(ended(&[alias(X, Y, OFFICE)]));
    let late = origin.send(X);
    assert!(!origin.believes(late, X, OFFICE, Y));
}

#[test]
fn a_name_that_was_given_to_another_node_means_that_one() {
    let mut origin = Origin::new();
    let before = origin.send(X);
    origin.aliases(live(&[alias(X, Y, OFFICE)]));
    origin.aliases(ended(&[alias(X, Y, OFFICE)]));
    let known = vec![(name(X), id(OTHER)), (name(Y), id(OFFICE))];
    origin.0.handle(Input::Names(Names { known, ..Names::default() }), NOW);
    assert!(origin.believes(before, X, OFFICE, Y));
    assert!(!origin.believes(before, X, OTHER, X), "it did not have the name then");

    let mut origin = Origin::new();
    // Even while somebody still has an alias of that name: a node that bears it comes first.
    origin.aliases(live(&[alias(X, Y, OFFICE)]));
    let known = vec![(name(X), id(OTHER)), (name(Y), id(OFFICE))];
    origin.0.handle(Input::Names(Names { known, ..Names::default() }), NOW);
    let after = origin.send(X);
    assert!(origin.believes(after, X, OTHER, X));
    assert!(!origin.believes(after, X, OFFICE, Y));
    assert!(!origin.believes(after, X, OFFICE, X), "by a certificate from before");
}

#[test]
fn a_receipt_that_comes_before_its_proof_is_taken_when_that_has_come() {
    let mut origin = Origin::new();
    let message = origin.send(X);
    let (receipt, signer) = Origin::says(message, X, State::Delivered, OFFICE, Y);
    origin.0.doubted.push_back((receipt, signed(), signer));
    assert!(origin.aliases(Aliases::default()).is_empty());
    let events = origin.aliases(live(&[alias(X, Y, OFFICE)]));
    assert!(matches!(&events[..], [Event::Progress { state: State::Delivered, .. }]), "{events:?}");
    assert!(origin.0.custody.settled(message).is_some() && origin.0.doubted.is_empty());
}
