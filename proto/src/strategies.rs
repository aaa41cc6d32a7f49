//! Random domain values for this crate's tests, each within its limits.

use std::str::FromStr;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

use crate::envelope::{Body, MessageKind, Network, Precedence};
use crate::frame::{Frame, Hello, Offer, Range, Recipient, TraceHop, Verdict, Visit};
use crate::id::{CertHash, Digest, Incarnation, MessageId, NodeId};
use crate::limits;
use crate::name::{Address, Inbox, NodeName};
use crate::receipt::{NodeRecord, Ordinal, Reason, Receipt, Stamp, State};
use crate::row::{KeyRow, MessageRow, NeighborRow, NodeRow, Phase, ReceiptRow, RecipientRow};
use crate::statement::{Signature, Signed};

/// The same cases in every run: a failure is the change's, never the day's.
pub(crate) fn config() -> ProptestConfig {
    ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() }
}

fn parsed<T: FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("the strategy makes valid names")
}

prop_compose! {
    pub(crate) fn name()(text in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z0-9]{1,8}){0,3}") -> NodeName {
        parsed(&text)
    }
}

prop_compose! {
    pub(crate) fn inbox()(text in "[a-z0-9][a-z0-9_-]{0,8}(\\.[a-z]{1,3})?") -> Inbox {
        parsed(&text)
    }
}

prop_compose! {
    pub(crate) fn address()(inbox in inbox(), node in name()) -> Address {
        Address { inbox, node }
    }
}

pub(crate) fn node() -> impl Strategy<Value = NodeId> {
    any::<[u8; 16]>().prop_map(NodeId)
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<[u8; 16]>().prop_map(Incarnation)
}

fn message() -> impl Strategy<Value = MessageId> {
    any::<[u8; 32]>().prop_map(MessageId)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn blob(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=most).prop_map(Bytes::from)
}

fn state() -> impl Strategy<Value = State> {
    select(vec![1, 2, 3, 4, 5, 10, 11, 12, 13]).prop_map(|n| State::from_number(n).expect("a known state"))
}

fn reason() -> impl Strategy<Value = Reason> {
    (0_u32..8).prop_map(Reason::from_number)
}

prop_compose! {
    fn stamp()(node in node(), name in name(), at_ms in any::<u64>()) -> Stamp {
        Stamp { node, name, at_ms }
    }
}

fn stamps() -> impl Strategy<Value = Vec<Stamp>> {
    prop_oneof![vec(stamp(), 0..4), vec(stamp(), limits::HOPS)]
}

prop_compose! {
    fn ordinal()(list in option::of(digest()), index in any::<u32>()) -> Ordinal {
        Ordinal { list, index }
    }
}

prop_compose! {
    fn recipient()(ordinal in ordinal(), node in option::of(node())) -> Recipient {
        Recipient { ordinal, node }
    }
}

prop_compose! {
    fn visit()(attempt in any::<u32>(), hops in any::<u32>()) -> Visit {
        Visit { attempt, hops }
    }
}

prop_compose! {
    pub(crate) fn signed()(
        statement in blob(200),
        signer in any::<[u8; 32]>().prop_map(CertHash),
        count in 1_u32..=1024,
        place in any::<Index>(),
        path in vec(any::<[u8; 32]>(), 0..=limits::SIGNATURE_PATH),
        signature in blob(limits::SIGNATURE_BYTES),
    ) -> Signed {
        let index = place.index(count as usize) as u32;
        Signed { statement, signature: Signature { signer, count, index, path, signature } }
    }
}

/// Ranges as the wire wants them: none empty, ascending and apart.
fn ranges(most: usize) -> impl Strategy<Value = Vec<Range>> {
    vec((0_u64..1 << 40, 1_u64..1 << 20), 0..most).prop_map(|steps| {
        let mut end = 0;
        let mut range = |(gap, count): (u64, u64)| {
            let first = end + gap;
            end = first + count;
            Range { first, count }
        };
        steps.into_iter().map(&mut range).collect()
    })
}

prop_compose! {
    fn hello()(
        versions in any::<(u32, u32)>(),
        numbers in any::<(u64, u64, u64, u64, u64)>(),
        node in node(),
        name in name(),
        incarnation in incarnation(),
        boot in any::<[u8; 16]>(),
        addresses in vec("[a-z0-9.:-]{0,40}", 0..=limits::HELLO_ADDRESSES),
    ) -> Hello {
        let (version_min, version_max) = versions;
        let (features, counter, highest_of_yours, spool_room_bytes, clock_ms) = numbers;
        Hello {
            version_min, version_max, features, node, name, incarnation, boot, counter, highest_of_yours,
            spool_room_bytes, clock_ms, addresses,
        }
    }
}

prop_compose! {
    fn offer()(
        number in any::<u64>(),
        envelope in signed(),
        visit in visit(),
        recipients in vec(recipient(), 1..6),
        stamps in stamps(),
        inline in option::of(blob(300)),
    ) -> Offer {
        Offer { number, envelope, visit, recipients, stamps, inline }
    }
}

prop_compose! {
    fn hop()(node in node(), name in name(), state in state(), at_ms in any::<u64>(), detail in "\\PC{0,20}") -> TraceHop {
        TraceHop { node, name, state, at_ms, detail }
    }
}

/// Any frame; every kind is as likely as another.
pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    let verdict = prop_oneof![Just(Verdict::Pending), Just(Verdict::Refused)];
    prop_oneof![
        hello().prop_map(Frame::Hello),
        any::<(u64, u64)>().prop_map(|(number, clock_ms)| Frame::Ping { number, clock_ms }),
        any::<(u64, u64)>().prop_map(|(number, clock_ms)| Frame::Pong { number, clock_ms }),
        vec(blob(100), 1..=limits::CHAIN_CERTIFICATES).prop_map(Frame::Chain),
        (signed(), any::<bool>()).prop_map(|(record, flood)| Frame::Record { record, flood }),
        offer().prop_map(Frame::Offer),
        (any::<u64>(), signed()).prop_map(|(number, receipt)| Frame::Receipt { number, receipt }),
        (any::<u64>(), ranges(limits::WANT_RANGES)).prop_map(|(offer, units)| Frame::Want { offer, units }),
        (any::<u64>(), verdict, reason(), vec(any::<u32>(), 0..9))
            .prop_map(|(offer, verdict, reason, ordinals)| Frame::Reply { offer, verdict, reason, ordinals }),
        ranges(limits::ACK_RANGES).prop_map(Frame::Ack),
        (any::<u64>(), message(), vec(recipient(), 1..6)).prop_map(|(number, message, recipients)| Frame::Ask {
            number,
            message,
            recipients
        }),
        (any::<u64>(), vec(hop(), 0..6), any::<bool>()).prop_map(|(number, hops, last)| Frame::Answer {
            number,
            hops,
            last
        }),
        (any::<u32>(), "\\PC{0,40}").prop_map(|(code, reason)| Frame::Bye { code, reason }),
        (digest(), any::<u64>(), 1..=limits::RUN_UNITS).prop_map(|(root, first, count)| Frame::Run {
            root,
            first,
            count
        }),
    ]
}

fn kind() -> impl Strategy<Value = MessageKind> {
    select(vec![MessageKind::Document, MessageKind::DatasetRevision, MessageKind::Tombstone, MessageKind::Control])
}

prop_compose! {
    /// The half of a body that people write.
    fn texts()(
        label in "\\PC{0,16}",
        subject in "\\PC{0,60}",
        file_name in "\\PC{0,60}",
        content_type in "[a-z/+.-]{0,40}",
        business_id in "\\PC{0,30}",
        idempotency_key in "\\PC{0,30}",
        traceparent in "[0-9a-f-]{0,55}",
        attributes in vec(("\\PC{0,16}", "\\PC{0,40}"), 0..5),
    ) -> (String, String, String, String, String, String, String, Vec<(String, String)>) {
        (label, subject, file_name, content_type, business_id, idempotency_key, traceparent, attributes)
    }
}

prop_compose! {
    pub(crate) fn body()(
        ids in (any::<[u8; 16]>(), node(), incarnation(), name(), option::of(inbox()), digest()),
        to in vec(address(), 1..8),
        words in (select(Precedence::ALL.to_vec()), kind(), select(vec![Network::Unspecified, Network::Inner, Network::Outer])),
        numbers in any::<(u64, u64, i64, u64, bool)>(),
        lifetime_ms in 1..=limits::LIFETIME_MAX_MS,
        payload_bytes in 0..=limits::PAYLOAD_BYTES,
        texts in texts(),
        (target, counted) in (message(), any::<bool>()),
    ) -> Body {
        let (nonce, origin, incarnation, origin_name, sender, payload_root) = ids;
        let (precedence, kind, network) = words;
        let (sequence, created_ms, clock_offset_ms, deliver_by_ms, sealed) = numbers;
        let (label, subject, file_name, content_type, business_id, idempotency_key, traceparent, attributes) = texts;
        let recalls = (kind == MessageKind::Tombstone).then_some(target);
        let pair_sequences = if counted { to.iter().zip(1..).map(|(_, n)| n).collect() } else { vec![] };
        Body {
            nonce, origin, incarnation, origin_name, sender, to, precedence, sequence, created_ms, clock_offset_ms,
            lifetime_ms, deliver_by_ms, label, network, kind, subject, file_name, content_type, attributes, business_id,
            idempotency_key, traceparent, sealed, payload_bytes, payload_root, recalls, pair_sequences,
        }
    }
}

prop_compose! {
    pub(crate) fn receipt()(
        ids in (message(), node(), ordinal(), node(), digest()),
        address in address(),
        words in (state(), reason(), "\\PC{0,40}"),
        name in name(),
        numbers in any::<(u32, u64, u64)>(),
        stamps in stamps(),
    ) -> Receipt {
        let (message, origin, ordinal, node, payload_root) = ids;
        let (state, reason, detail) = words;
        let (code, at_ms, payload_bytes) = numbers;
        Receipt {
            message, origin, ordinal, address, state, reason, detail, code, node, name, at_ms, stamps, payload_root,
            payload_bytes,
        }
    }
}

prop_compose! {
    pub(crate) fn record()(
        node in node(),
        name in name(),
        incarnation in incarnation(),
        numbers in any::<(u64, u64)>(),
        inboxes in vec(inbox(), 0..6),
        uplinks in vec(node(), 0..=limits::UPLINKS),
        active in option::of(node()),
        title in "\\PC{0,40}",
        retired in vec((node(), incarnation()), 0..4),
    ) -> NodeRecord {
        let (counter, at_ms) = numbers;
        NodeRecord { node, name, incarnation, counter, inboxes, uplinks, active, at_ms, title, retired }
    }
}

prop_compose! {
    fn recipient_row()(
        recipient in recipient(),
        phase in select(vec![Phase::Forward, Phase::Handed, Phase::Inbox, Phase::Ended]),
        state in state(),
        reason in reason(),
        detail in "\\PC{0,20}",
        at_ms in any::<u64>(),
    ) -> RecipientRow {
        RecipientRow { recipient, phase, state, reason, detail, at_ms }
    }
}

prop_compose! {
    pub(crate) fn message_row()(
        id in message(),
        visit in visit(),
        nodes in (option::of(node()), option::of(node())),
        recalls in option::of(message()),
        demoted_from in option::of(select(Precedence::ALL.to_vec())),
        numbers in any::<(u64, bool, u64, Option<u32>)>(),
        recipients in vec(recipient_row(), 0..5),
        stamps in stamps(),
    ) -> MessageRow {
        let (from, handed_to) = nodes;
        let (received_ms, complete, handed_ms, user) = numbers;
        MessageRow {
            id, visit, from, received_ms, recipients, stamps, complete, handed_ms, handed_to, user, recalls, demoted_from,
        }
    }
}

prop_compose! {
    pub(crate) fn receipt_row()(message in message(), origin in node(), until_ms in any::<u64>()) -> ReceiptRow {
        ReceiptRow { message, origin, until_ms }
    }
}

prop_compose! {
    pub(crate) fn node_row()(incarnation in incarnation(), numbers in any::<(u64, u64, u64)>()) -> NodeRow {
        NodeRow { incarnation, starts: numbers.0, record: numbers.1, clock_ms: numbers.2 }
    }
}

prop_compose! {
    pub(crate) fn neighbor_row()(incarnation in incarnation(), counter in any::<u64>(), held in any::<bool>()) -> NeighborRow {
        NeighborRow { incarnation, counter, held }
    }
}

prop_compose! {
    pub(crate) fn key_row()(message in message(), content in digest(), until_ms in any::<u64>()) -> KeyRow {
        KeyRow { message, content, until_ms }
    }
}

/// A wound for valid bytes: a cut, or some flipped bits.
#[derive(Debug, Clone)]
pub(crate) enum Wound {
    Cut(Index),
    Flip(Vec<(Index, u8)>),
    Insert(Index, Vec<u8>),
}

pub(crate) fn wound() -> impl Strategy<Value = Wound> {
    prop_oneof![
        any::<Index>().prop_map(Wound::Cut),
        vec((any::<Index>(), 1_u8..), 1..5).prop_map(Wound::Flip),
        (any::<Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Wound::Insert(at, bytes)),
    ]
}

impl Wound {
    pub(crate) fn inflict(&self, bytes: &[u8]) -> Bytes {
        let mut out = bytes.to_vec();
        if out.is_empty() {
            return Bytes::new();
        }
        match self {
            Self::Cut(at) => out.truncate(at.index(bytes.len())),
            Self::Flip(flips) => flips.iter().for_each(|(at, bits)| out[at.index(bytes.len())] ^= bits),
            Self::Insert(at, more) => {
                let at = at.index(bytes.len());
                out.splice(at..at, more.iter().copied());
            }
        }
        out.into()
    }
}
