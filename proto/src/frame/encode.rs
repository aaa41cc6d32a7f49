//! Domain frame → generated type → bytes.

use bytes::Bytes;

use super::*;
use crate::wire::encode;

pub(super) fn message(frame: &Frame) -> (u8, Bytes) {
    match frame {
        Frame::Hello(h) => (HELLO, encode(&hello(h))),
        Frame::Ping { number, clock_ms } => (PING, encode(&wire::Ping { number: *number, clock_ms: *clock_ms })),
        Frame::Pong { number, clock_ms } => (PONG, encode(&wire::Pong { number: *number, clock_ms: *clock_ms })),
        Frame::Chain(certificates) => (CHAIN, encode(&wire::Chain { certificates: certificates.clone() })),
        Frame::Record { record, flood } => {
            (RECORD, encode(&wire::NodeRecord { record: Some(record.to_wire()), flood: *flood }))
        }
        Frame::Offer(o) => (OFFER, encode(&offer(o))),
        Frame::Receipt { number, receipt } => {
            (RECEIPT, encode(&wire::Receipt { number: *number, receipt: Some(receipt.to_wire()) }))
        }
        Frame::Want { offer, units } => (WANT, encode(&wire::Want { offer: *offer, units: ranges_to_wire(units) })),
        Frame::Reply { offer, verdict, reason, ordinals } => {
            let verdict = match verdict {
                Verdict::Pending => 1,
                Verdict::Refused => 2,
            };
            let reply = wire::Reply { offer: *offer, verdict, reason: *reason as u32, ordinals: ordinals.clone() };
            (REPLY, encode(&reply))
        }
        Frame::Ack(offers) => (ACK, encode(&wire::Ack { offers: ranges_to_wire(offers) })),
        Frame::Ask { number, message, recipients } => {
            let message = digest_bytes(&message.0);
            (ASK, encode(&wire::Ask { number: *number, message, recipients: recipients_to_wire(recipients) }))
        }
        Frame::Answer { number, hops, last } => {
            let hops = hops.iter().map(hop).collect();
            (ANSWER, encode(&wire::Answer { number: *number, hops, last: *last }))
        }
        Frame::Bye { code, reason } => (BYE, encode(&wire::Bye { code: *code, reason: reason.clone() })),
        Frame::Run { root, first, count } => {
            (RUN, encode(&wire::Run { root: digest_bytes(&root.0), first: *first, count: *count }))
        }
    }
}

fn hello(h: &Hello) -> wire::Hello {
    wire::Hello {
        version_min: h.version_min,
        version_max: h.version_max,
        features: h.features,
        node: Bytes::copy_from_slice(&h.node.0),
        name: h.name.to_string(),
        incarnation: Bytes::copy_from_slice(&h.incarnation.0),
        boot: Bytes::copy_from_slice(&h.boot),
        counter: h.counter,
        highest_of_yours: h.highest_of_yours,
        spool_room_bytes: h.spool_room_bytes,
        clock_ms: h.clock_ms,
        addresses: h.addresses.clone(),
    }
}

fn offer(o: &Offer) -> wire::Offer {
    wire::Offer {
        number: o.number,
        envelope: Some(o.envelope.to_wire()),
        attempt: o.visit.attempt,
        hops: o.visit.hops,
        recipients: recipients_to_wire(&o.recipients),
        stamps: o.stamps.iter().map(Stamp::to_wire).collect(),
        inline: o.inline.clone(),
    }
}

fn hop(h: &TraceHop) -> wire::Hop {
    wire::Hop {
        node: Bytes::copy_from_slice(&h.node.0),
        name: h.name.to_string(),
        state: h.state as u32,
        at_ms: h.at_ms,
        detail: h.detail.clone(),
    }
}
