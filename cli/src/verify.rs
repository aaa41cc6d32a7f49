//! Receipts checked offline: who signed what, under which root, and whether it all speaks of one message.

use rustls_pki_types::CertificateDer;
use tram_pki::crl::{Reason, Revoked};
use tram_pki::policy::Peer;
use tram_pki::trust::Trust;
use tram_proto::envelope::Body;
use tram_proto::export::Export;
use tram_proto::id::MessageId;
use tram_proto::name::NodeName;
use tram_proto::receipt::{Receipt, State};
use tram_proto::statement::{Kind, Signed};

/// What holds.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) id: MessageId,
    pub(crate) body: Body,
    pub(crate) receipts: Vec<Receipt>,
    /// Of the signers whose certificates have been revoked since, the one that matters most.
    pub(crate) revoked: Option<(NodeName, Revoked)>,
}

/// Verifies every statement of an export against the overlay's roots, and their agreement with each other.
///
/// # Errors
/// What failed, for people.
pub(crate) fn verify(export: &Export, trust: &Trust) -> Result<Verified, String> {
    let body = Body::decode(&export.envelope.statement).map_err(|error| format!("the envelope: {error}"))?;
    let id = Body::id(&export.envelope.statement);
    let (origin, revoked) = believe(export, trust, Kind::Envelope, &export.envelope, body.created_ms)
        .map_err(|why| format!("the envelope: {why}"))?;
    if origin.id != body.origin {
        return Err(format!("the envelope names node {} as its origin, but {} signed it", body.origin, origin.name));
    }
    if export.receipts.is_empty() {
        return Err("it holds no receipt".to_owned());
    }
    let (mut receipts, mut signers) = (Vec::new(), vec![(origin.name, revoked)]);
    for (signed, number) in export.receipts.iter().zip(1..) {
        let (receipt, revoked) =
            receipt(export, trust, signed, &id, &body).map_err(|why| format!("receipt {number}: {why}"))?;
        signers.push((receipt.name.clone(), revoked));
        receipts.push(receipt);
    }
    let revoked = signers.into_iter().filter_map(|(name, revoked)| Some((name, revoked?)));
    let revoked = revoked.max_by_key(|(_, revoked)| revoked.reason == Reason::KeyCompromise);
    Ok(Verified { id, body, receipts, revoked })
}

fn receipt(
    export: &Export,
    trust: &Trust,
    signed: &Signed,
    id: &MessageId,
    body: &Body,
) -> Result<(Receipt, Option<Revoked>), String> {
    let receipt = Receipt::decode(&signed.statement).map_err(|error| error.to_string())?;
    let (signer, revoked) = believe(export, trust, Kind::Receipt, signed, receipt.at_ms)?;
    if signer.id != receipt.node {
        return Err(format!("it speaks for node {}, but {} signed it", receipt.node, signer.name));
    }
    if receipt.message != *id || receipt.origin != body.origin {
        return Err(format!("it is of another message, {}", receipt.message));
    }
    let positive = matches!(receipt.state, State::Arrived | State::Delivered | State::Status);
    if receipt.ordinal.list.is_none() {
        let written = body.to.get(receipt.ordinal.index as usize);
        if written != Some(&receipt.address) {
            return Err(format!("it names {} where the envelope has another recipient", receipt.address));
        }
        let name = &receipt.address.node;
        if positive && signer.name != *name && !trust.are_one(signer.id, name, &signer.name, body.created_ms) {
            return Err(format!(
                "{} says that a message for {} came, and no CA says here that it was called {name} when that was sent; a node's own `pki` directory knows of nodes that were renamed",
                signer.name, receipt.address
            ));
        }
    }
    if positive && (receipt.payload_root, receipt.payload_bytes) != (body.payload_root, body.payload_bytes) {
        return Err("what came is not what the envelope says was sent".to_owned());
    }
    Ok((receipt, revoked))
}

/// Who signed it, and whether he has been revoked since.
fn believe(
    export: &Export,
    trust: &Trust,
    kind: Kind,
    signed: &Signed,
    at_ms: u64,
) -> Result<(Peer, Option<Revoked>), String> {
    let signer = signed.signature.signer;
    let chains = export.chains.iter().map(|chain| chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect());
    let chain: Vec<CertificateDer<'_>> = chains
        .into_iter()
        .find(|chain: &Vec<_>| chain.first().is_some_and(|leaf| tram_pki::hash::cert_hash(leaf) == signer))
        .ok_or_else(|| format!("the certificate of its signer, {signer}, is not in the file"))?;
    let peer = trust.verify_statement(kind, signed, &chain, at_ms).map_err(|error| error.to_string())?;
    Ok((peer, trust.revoked(&chain)))
}

#[cfg(test)]
#[path = "verify/tests.rs"]
mod tests;
