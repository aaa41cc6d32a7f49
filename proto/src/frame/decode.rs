//! Bytes → generated type → domain frame, held to every limit.

use bytes::Bytes;

use super::*;
use crate::wire::decode;

const fn malformed(what: &'static str, why: &'static str) -> WireError {
    WireError::Malformed { what, why }
}

pub(super) fn message(kind: u8, bytes: Bytes) -> Result<Frame, WireError> {
    Ok(match kind {
        HELLO => Frame::Hello(hello(decode("hello", bytes)?)?),
        PING => {
            let w: wire::Ping = decode("ping", bytes)?;
            Frame::Ping { number: w.number, clock_ms: w.clock_ms }
        }
        PONG => {
            let w: wire::Pong = decode("pong", bytes)?;
            Frame::Pong { number: w.number, clock_ms: w.clock_ms }
        }
        CHAIN => chain(decode("chain", bytes)?)?,
        RECORD => {
            let w: wire::NodeRecord = decode("record", bytes)?;
            let record = w.record.ok_or(malformed("record", "it holds none"))?;
            Frame::Record { record: Signed::from_wire(record)?, flood: w.flood }
        }
        OFFER => Frame::Offer(offer(decode("offer", bytes)?)?),
        RECEIPT => {
            let w: wire::Receipt = decode("receipt", bytes)?;
            let receipt = w.receipt.ok_or(malformed("receipt", "it holds none"))?;
            Frame::Receipt { number: w.number, receipt: Signed::from_wire(receipt)? }
        }
        WANT => {
            let w: wire::Want = decode("want", bytes)?;
            Frame::Want { offer: w.offer, units: ranges_from_wire("want", &w.units, limits::WANT_RANGES)? }
        }
        REPLY => reply(decode("reply", bytes)?)?,
        ACK => {
            let w: wire::Ack = decode("ack", bytes)?;
            Frame::Ack(ranges_from_wire("ack", &w.offers, limits::ACK_RANGES)?)
        }
        ASK => {
            let w: wire::Ask = decode("ask", bytes)?;
            let message = MessageId::from_slice(&w.message)?;
            Frame::Ask { number: w.number, message, recipients: recipients_from_wire(&w.recipients)? }
        }
        ANSWER => {
            let w: wire::Answer = decode("answer", bytes)?;
            WireError::limit("answer", w.hops.len(), limits::TRACE_HOPS)?;
            let hops = w.hops.into_iter().map(hop).collect::<Result<_, _>>()?;
            Frame::Answer { number: w.number, hops, last: w.last }
        }
        BYE => {
            let w: wire::Bye = decode("bye", bytes)?;
            WireError::limit("bye's reason", w.reason.len(), limits::REASON_BYTES)?;
            Frame::Bye { code: w.code, reason: w.reason }
        }
        RUN => {
            let w: wire::Run = decode("run", bytes)?;
            if w.count == 0 || w.count > limits::RUN_UNITS {
                return Err(malformed("run", "it has no unit or more than 16"));
            }
            Frame::Run { root: Digest::from_slice(&w.root)?, first: w.first, count: w.count }
        }
        other => return Err(WireError::Unknown { what: "frame kind", value: other.into() }),
    })
}

fn hello(w: wire::Hello) -> Result<Hello, WireError> {
    WireError::limit("list of addresses", w.addresses.len(), limits::HELLO_ADDRESSES)?;
    for address in &w.addresses {
        WireError::limit("address", address.len(), limits::ADDRESS_BYTES)?;
    }
    let boot = w.boot.as_ref().try_into().map_err(|_| malformed("hello", "its boot id is not 16 bytes"))?;
    Ok(Hello {
        version_min: w.version_min,
        version_max: w.version_max,
        features: w.features,
        node: NodeId::from_slice(&w.node)?,
        name: w.name.parse()?,
        incarnation: Incarnation::from_slice(&w.incarnation)?,
        boot,
        counter: w.counter,
        highest_of_yours: w.highest_of_yours,
        spool_room_bytes: w.spool_room_bytes,
        clock_ms: w.clock_ms,
        addresses: w.addresses,
    })
}

fn chain(w: wire::Chain) -> Result<Frame, WireError> {
    WireError::limit("chain", w.certificates.len(), limits::CHAIN_CERTIFICATES)?;
    if w.certificates.is_empty() {
        return Err(malformed("chain", "it is empty"));
    }
    for certificate in &w.certificates {
        WireError::limit("certificate", certificate.len(), limits::CERTIFICATE_BYTES)?;
    }
    Ok(Frame::Chain(w.certificates))
}

fn offer(w: wire::Offer) -> Result<Offer, WireError> {
    if let Some(inline) = &w.inline {
        WireError::limit("inline payload", inline.len(), limits::INLINE_BYTES)?;
    }
    Ok(Offer {
        number: w.number,
        envelope: Signed::from_wire(w.envelope.ok_or(malformed("offer", "it holds no envelope"))?)?,
        visit: Visit { attempt: w.attempt, hops: w.hops },
        recipients: recipients_from_wire(&w.recipients)?,
        stamps: Stamp::list(&w.stamps)?,
        inline: w.inline,
    })
}

fn reply(w: wire::Reply) -> Result<Frame, WireError> {
    WireError::limit("list of recipients", w.ordinals.len(), limits::RECIPIENTS)?;
    let verdict = match w.verdict {
        1 => Verdict::Pending,
        2 => Verdict::Refused,
        other => return Err(WireError::Unknown { what: "verdict", value: other.into() }),
    };
    Ok(Frame::Reply { offer: w.offer, verdict, reason: Reason::from_number(w.reason), ordinals: w.ordinals })
}

fn hop(w: wire::Hop) -> Result<TraceHop, WireError> {
    WireError::limit("trace detail", w.detail.len(), limits::REASON_BYTES)?;
    Ok(TraceHop {
        node: NodeId::from_slice(&w.node)?,
        name: w.name.parse()?,
        state: State::from_number(w.state)?,
        at_ms: w.at_ms,
        detail: w.detail,
    })
}
