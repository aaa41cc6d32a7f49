//! `tram receipt`.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value, json};
use tram_client::{Client, Place};
use tram_pki::crl::{Reason, Revoked};
use tram_pki::keystore::load_trust;
use tram_proto::export::{EXPORT_BYTES, Export};
use tram_proto::id::MessageId;
use tram_proto::name::NodeName;
use tram_proto::receipt::{Receipt, State};
use tram_proto::statement::Signed;

use crate::exit::{BAD_DATA, Failure, NEGATIVE, NO_INPUT};
use crate::show;
use crate::verify::verify as check;

pub(crate) async fn show(place: &Place, id: MessageId, json: bool) -> Result<(), Failure> {
    let export = fetch(place, id).await?;
    let receipts = export.receipts.iter().map(|signed| Receipt::decode(&signed.statement));
    let receipts: Vec<Receipt> =
        receipts.collect::<Result<_, _>>().map_err(|error| Failure::new(BAD_DATA, error.to_string()))?;
    if json {
        return show::json(&json!({ "id": id.to_string(), "receipts": list(&receipts) }));
    }
    show::line(&table(&receipts))
}

pub(crate) async fn export(place: &Place, id: MessageId, out: PathBuf, json: bool) -> Result<(), Failure> {
    let export = fetch(place, id).await?;
    if export.receipts.is_empty() {
        let text = format!("no receipt of {id} has come yet: see `tram trace {id}`");
        return Err(Failure::new(NEGATIVE, text));
    }
    let failed = |error: std::io::Error| Failure::io(format!("{}: {error}", out.display()));
    let file = export.encode();
    if out == Path::new("-") {
        return std::io::stdout().write_all(&file).map_err(failed);
    }
    fs::write(&out, &file).map_err(failed)?;
    if json {
        let (path, count) = (out.display().to_string(), export.receipts.len());
        show::json(&json!({ "id": id.to_string(), "path": path, "receipts": count }))?;
    }
    Ok(())
}

/// Checks a file without a node.
pub(crate) fn verify(file: &Path, trust: &Path, json: bool) -> Result<(), Failure> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| Failure::new(NO_INPUT, format!("{}: {error}", path.display()))
    };
    // Opened first, so that a missing root is told from one that is no certificate.
    File::open(trust).map_err(unreadable(trust))?;
    let trust = load_trust(trust).map_err(|error| Failure::new(BAD_DATA, error.to_string()))?;
    let mut bytes = Vec::new();
    let limit = EXPORT_BYTES as u64 + 1;
    File::open(file).and_then(|f| f.take(limit).read_to_end(&mut bytes)).map_err(unreadable(file))?;
    let checked = Export::decode(&bytes).map_err(|error| error.to_string()).and_then(|export| check(&export, &trust));
    match checked {
        Ok(verified) => {
            let body = &verified.body;
            if json {
                let signer = |(node, revoked): &(NodeName, Revoked)| {
                    let (date, reason) = (show::utc(revoked.at_ms), revoked.reason.as_str());
                    json!({ "node": node.to_string(), "date": date, "reason": reason })
                };
                show::json(&json!({
                    "valid": true,
                    "signer_revoked": verified.revoked.as_ref().map(signer),
                    "id": verified.id.to_string(),
                    "origin": body.origin_name.to_string(),
                    "subject": body.subject,
                    "created": show::utc(body.created_ms),
                    "receipts": list(&verified.receipts),
                }))?;
            } else {
                let since = verified.revoked.as_ref().map(since).unwrap_or_default();
                let sent = format!("{}\nsent by {} at {}", verified.id, body.origin_name, show::local(body.created_ms));
                show::line(&format!("valid{since}: {sent}: {}\n", show::plain(&body.subject)))?;
                show::line(&table(&verified.receipts))?;
            }
            match verified.revoked {
                Some((node, revoked)) if revoked.reason == Reason::KeyCompromise => {
                    let who = format!("the key of {node} was reported stolen at {}", show::local(revoked.at_ms));
                    let why = format!("in doubt: {who}, and whoever has it can have signed this with any date");
                    Err(Failure::new(NEGATIVE, why))
                }
                _ => Ok(()),
            }
        }
        Err(why) => {
            if json {
                show::json(&json!({ "valid": false, "error": why }))?;
            }
            Err(Failure::new(NEGATIVE, format!("not valid: {}: {why}", file.display())))
        }
    }
}

fn since((node, revoked): &(NodeName, Revoked)) -> String {
    let (date, reason) = (show::local(revoked.at_ms), revoked.reason.as_str());
    format!("; the signer {node} has been revoked since ({date}, {reason})")
}

async fn fetch(place: &Place, id: MessageId) -> Result<Export, Failure> {
    let answer = Client::connect(place).await?.receipts(id).await?;
    let read = |bytes: Bytes| Signed::decode(bytes).map_err(|error| Failure::new(BAD_DATA, error.to_string()));
    Ok(Export {
        envelope: read(answer.envelope)?,
        receipts: answer.receipts.into_iter().map(read).collect::<Result<_, _>>()?,
        chains: answer.chains.into_iter().map(|chain| chain.certificates).collect(),
    })
}

fn list(receipts: &[Receipt]) -> Vec<Value> {
    let one = |receipt: &Receipt| {
        json!({
            "address": receipt.address.to_string(),
            "state": receipt.state.as_str(),
            "reason": receipt.reason.as_str(),
            "detail": receipt.detail,
            "code": (receipt.state == State::Status).then_some(receipt.code),
            "node": receipt.name.to_string(),
            "at": show::utc(receipt.at_ms),
        })
    };
    receipts.iter().map(one).collect()
}

fn table(receipts: &[Receipt]) -> String {
    let row = |receipt: &Receipt| {
        let code = if receipt.state == State::Status { receipt.code.to_string() } else { String::new() };
        let words = [receipt.reason.as_str(), &code, &receipt.detail];
        let why = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        let (state, node) = (receipt.state.to_string(), receipt.name.to_string());
        [receipt.address.to_string(), state, show::local(receipt.at_ms), node, why]
    };
    show::table(["RECIPIENT", "STATE", "AT", "SAID BY", "REASON"], &receipts.iter().map(row).collect::<Vec<_>>())
}
