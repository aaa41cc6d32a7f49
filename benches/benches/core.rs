//! What deciding costs: nanoseconds per input of the relay core, and per frame of the wire, beside hashing the document.
//!
//! A document of 1 KiB passes a relay: offered by a child, made durable, acknowledged, offered to the parent, acknowledged
//! by it, forgotten. The baseline is BLAKE3 of the same 1 KiB, which every node does once for each document anyway.
//! `cargo bench -p tram-benches --bench core`.

use std::hint::black_box;

use bytes::Bytes;
use tram_benches::{Measured, beside, ns_each, print};
use tram_proto::envelope::{Body, MessageKind, Network, Precedence};
use tram_proto::frame::{Frame, Hello, LENGTH_BYTES, Offer, Range, Recipient, VERSION, Visit};
use tram_proto::id::{CertHash, Digest, Incarnation, MessageId, NodeId};
use tram_proto::limits;
use tram_proto::manifest::root_of;
use tram_proto::name::Role;
use tram_proto::receipt::{Ordinal, Stamp};
use tram_proto::row::NodeRow;
use tram_proto::statement::{Signature, Signed};
use tram_relay::input::{Held, LinkId, Side, Signer};
use tram_relay::{Config, Input, Node, Now, Output};

const DOCUMENT_BYTES: usize = 1024;
const MESSAGES: usize = 4096;
const NOW: Now = Now { mono_ms: 1_000_000, wall_ms: 1_800_000_000_000 };
const OWN: NodeId = NodeId([1; 16]);
const CHILD: LinkId = LinkId(1);
const PARENT: LinkId = LinkId(2);

fn document() -> Vec<u8> {
    (0..DOCUMENT_BYTES).map(|n| (n * 31 % 251) as u8).collect()
}

fn hash() -> f64 {
    let document = document();
    ns_each(|| {
        for _ in 0..MESSAGES {
            black_box(Digest::of(black_box(&document)));
        }
        MESSAGES
    })
}

fn offer(number: usize, document: &Bytes) -> (Offer, Body, MessageId) {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    let origin = NodeId([7; 16]);
    let body = Body {
        nonce,
        origin,
        incarnation: Incarnation([7; 16]),
        origin_name: "ninh-kieu.can-tho".parse().expect("a name"),
        sender: Some("vanban".parse().expect("an inbox")),
        to: vec!["vanban@central".parse().expect("an address")],
        precedence: Precedence::Routine,
        sequence: number as u64,
        created_ms: NOW.wall_ms,
        clock_offset_ms: 0,
        lifetime_ms: limits::LIFETIME_DEFAULT_MS,
        deliver_by_ms: 0,
        label: String::new(),
        network: Network::Unspecified,
        kind: MessageKind::Document,
        subject: "V/v phòng chống bão số 9".to_owned(),
        file_name: "Công văn 12-CV_TU.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        attributes: Vec::new(),
        business_id: String::new(),
        idempotency_key: String::new(),
        traceparent: String::new(),
        sealed: false,
        payload_bytes: document.len() as u64,
        payload_root: root_of(document),
        recalls: None,
        pair_sequences: Vec::new(),
    };
    let statement = body.encode().expect("within limits");
    let id = Body::id(&statement);
    let signature = Signature {
        signer: CertHash([7; 32]),
        count: 64,
        index: (number % 64) as u32,
        path: vec![[7; 32]; 6],
        signature: vec![7; 71].into(),
    };
    let offer = Offer {
        number: number as u64,
        envelope: Signed { statement, signature },
        visit: Visit { attempt: 0, hops: 1 },
        recipients: vec![Recipient { ordinal: Ordinal::body(0), node: None }],
        stamps: vec![Stamp { node: origin, name: body.origin_name.clone(), at_ms: NOW.wall_ms }],
        inline: Some(document.clone()),
    };
    (offer, body, id)
}

/// A province's relay: a child below, the parent above, both up.
struct Relay {
    node: Node,
    /// Numbers under which messages were offered to the parent and not yet acknowledged.
    offered: Vec<u64>,
    /// The last commit that has to become durable.
    commit: u64,
    acknowledged: u64,
    inputs: usize,
}

impl Relay {
    fn new() -> Self {
        let config = Config {
            node: OWN,
            name: "can-tho".parse().expect("a name"),
            title: String::new(),
            has_uplink: true,
            features: 0,
            addresses: Vec::new(),
            boot: [1; 16],
            labels: Vec::new(),
        };
        let node = Node::new(config);
        let mut relay = Self { node, offered: Vec::new(), commit: 0, acknowledged: 0, inputs: 0 };
        let row = NodeRow { incarnation: Incarnation([1; 16]), starts: 1, record: 0, clock_ms: 0 };
        relay.input(Input::Start { node: row, inboxes: Vec::new() });
        relay.link(CHILD, NodeId([7; 16]), "ninh-kieu.can-tho", Side::Down);
        relay.link(PARENT, NodeId([2; 16]), "central", Side::Up(0));
        relay.persisted();
        relay.inputs = 0;
        relay
    }

    fn link(&mut self, link: LinkId, node: NodeId, name: &str, side: Side) {
        let name: tram_proto::name::NodeName = name.parse().expect("a name");
        let peer = Signer { node, name: name.clone(), role: Role::Province };
        self.input(Input::LinkUp { link, peer, side });
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            features: 0,
            node,
            name,
            incarnation: Incarnation([3; 16]),
            boot: [3; 16],
            counter: 1,
            highest_of_yours: 0,
            spool_room_bytes: u64::MAX,
            clock_ms: NOW.wall_ms,
            addresses: Vec::new(),
        };
        self.input(Input::Frame { link, frame: Frame::Hello(hello) });
    }

    fn input(&mut self, input: Input) {
        self.inputs += 1;
        self.node.handle(input, NOW);
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::SendOffer { link: PARENT, number, .. } => self.offered.push(number),
                Output::Send { link: CHILD, frame: Frame::Ack(ranges) } => {
                    self.acknowledged += ranges.iter().map(|r| r.count).sum::<u64>();
                }
                Output::Persist { commit, .. } => self.commit = commit,
                other => drop(black_box(other)),
            }
        }
    }

    fn persisted(&mut self) {
        self.input(Input::Persisted { commit: self.commit, records: Vec::new() });
    }

    fn acknowledge(&mut self) {
        let ranges = self.offered.drain(..).map(|first| Range { first, count: 1 }).collect();
        self.input(Input::Frame { link: PARENT, frame: Frame::Ack(ranges) });
    }
}

/// Passes all messages through a new relay, so many in a commit; answers nanoseconds per message.
fn transit(batch: usize, document: &Bytes, inputs: &mut f64) -> f64 {
    let mut relay = Relay::new();
    let offers: Vec<Input> = (1..=MESSAGES)
        .map(|number| {
            let (offer, body, id) = offer(number, document);
            let (offer, body) = (Box::new(offer), Box::new(body));
            Input::Offer { link: CHILD, offer, id, body, trusted: None, held: Held::default() }
        })
        .collect();
    let ns = ns_each(|| {
        let mut waiting = 0;
        for offer in offers {
            relay.input(offer);
            waiting += 1;
            if waiting == batch {
                waiting = 0;
                relay.persisted();
                relay.acknowledge();
                relay.persisted();
            }
        }
        MESSAGES
    });
    assert_eq!(relay.acknowledged, MESSAGES as u64, "every message was taken from the child");
    assert!(relay.offered.is_empty() && relay.node.poll_output().is_none(), "and went on to the parent");
    *inputs = relay.inputs as f64 / MESSAGES as f64;
    ns
}

fn passing(what: &'static str, batch: usize, document: &Bytes) -> (Measured, f64) {
    let mut inputs = 0.0;
    let measured = beside(what, || transit(batch, document, &mut inputs), hash);
    (measured, inputs)
}

fn main() {
    let document: Bytes = document().into();
    let (single, inputs_single) = passing("relay core, per message, one in a commit", 1, &document);
    let (batched, inputs_batched) = passing("relay core, per message, 64 in a commit", 64, &document);
    let frame = Frame::Offer(offer(1, &document).0);
    let bytes = frame.encode().slice(LENGTH_BYTES..);
    let encode = beside(
        "encode an offer with the document inside",
        || {
            ns_each(|| {
                (0..MESSAGES).for_each(|_| drop(black_box(black_box(&frame).encode())));
                MESSAGES
            })
        },
        hash,
    );
    let decode = beside(
        "decode an offer with the document inside",
        || {
            ns_each(|| {
                (0..MESSAGES).for_each(|_| drop(black_box(Frame::decode(black_box(bytes.clone())))));
                MESSAGES
            })
        },
        hash,
    );
    let per_input = [single.ns() / inputs_single, batched.ns() / inputs_batched];
    print("baseline: BLAKE3 of the document of 1 KiB", hash(), &[single, batched, encode, decode]);
    println!("one in a commit: {inputs_single:.2} inputs per message, {:.0} ns per input", per_input[0]);
    println!("64 in a commit: {inputs_batched:.2} inputs per message, {:.0} ns per input", per_input[1]);
}
