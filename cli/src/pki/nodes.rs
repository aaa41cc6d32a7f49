//! `tram pki list` and `show`.

use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};
use tram_client::{Admin, PkiNodeView, Place};
use tram_pki::parcel::Parcel;
use tram_pki::stated::{Stated, Whose};

use super::read;
use super::standing::{days, days_left};
use crate::args::ListArgs;
use crate::exit::{BAD_DATA, Failure, NEGATIVE};
use crate::show;

pub(super) async fn list(place: &Place, args: ListArgs, json: bool) -> Result<(), Failure> {
    let answer = Admin::connect(place).await?.pki_nodes().await?;
    let now_ms = answer.now_ms;
    let until = args.expiring.map(|time| now_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
    let below = |name: &str| {
        let Some(top) = args.subtree.as_ref().map(ToString::to_string) else { return true };
        name == top || name.strip_suffix(&top).is_some_and(|rest| rest.ends_with('.'))
    };
    let shown = |node: &&PkiNodeView| below(&node.name) && until.is_none_or(|until| node.not_after_ms <= until);
    let mut nodes: Vec<&PkiNodeView> = answer.nodes.iter().filter(shown).collect();
    if json {
        let nodes: Vec<Value> = nodes.into_iter().map(|node| node_json(node, now_ms)).collect();
        return show::json(&json!({ "now": show::utc(now_ms), "nodes": nodes }));
    }
    nodes.sort_by_key(|node| node.not_after_ms);
    let row = |node: &&PkiNodeView| {
        let left = if node.revoked { "revoked".to_owned() } else { days_left(node.not_after_ms, now_ms) };
        let seen = if node.seen_ms == 0 { "never".to_owned() } else { show::local(node.seen_ms) };
        let serial = if node.serial.is_empty() { "of another CA".to_owned() } else { node.serial.clone() };
        [left, node.name.clone(), node.role.clone(), node.roots_version.to_string(), seen, serial]
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    show::line(&show::table(["LEFT", "NODE", "ROLE", "ROOTS", "SEEN", "SERIAL"], &rows))
}

fn node_json(node: &PkiNodeView, now_ms: u64) -> Value {
    let or_null = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    json!({
        "name": node.name,
        "id": node.id,
        "role": node.role,
        "serial": or_null(&node.serial),
        "days_left": days(node.not_after_ms, now_ms),
        "not_after": show::utc(node.not_after_ms),
        "registered": node.registered,
        "revoked": node.revoked,
        "roots_version": node.roots_version,
        "seen": show::utc(node.seen_ms),
        "authority": or_null(&node.authority),
    })
}

pub(super) async fn show(place: &Place, which: &str, json: bool) -> Result<(), Failure> {
    let file = Path::new(which);
    let (certificates, now_ms, node): (Vec<Bytes>, _, _) = if file.is_file() {
        (certificates_in(file)?, super::now_ms(), None)
    } else {
        let answer = Admin::connect(place).await?.pki_nodes().await?;
        let serial = which.replace(':', "").to_lowercase();
        let node = answer.nodes.into_iter().find(|node| node.name == which || node.serials.contains(&serial));
        let Some(node) = node else {
            let why = format!(
                "{which:?} is no file, and no node or serial number that this node knows; `tram pki list` shows them"
            );
            return Err(Failure::new(NEGATIVE, why));
        };
        (Some(node.certificate.clone()).filter(|der| !der.is_empty()).into_iter().collect(), answer.now_ms, Some(node))
    };
    let stated = certificates.iter().map(|der| Stated::read(der).map(|one| (one, der)));
    let stated: Result<Vec<_>, _> = stated.collect();
    let stated = stated.map_err(|error| Failure::new(BAD_DATA, format!("{which}: {error}")))?;
    if json {
        let certificates: Vec<Value> = stated.iter().map(|(one, _)| stated_json(one, now_ms)).collect();
        let node = node.as_ref().map(|node| node_json(node, now_ms));
        return show::json(&json!({ "node": node, "certificates": certificates }));
    }
    let mut texts: Vec<String> = stated.iter().map(|(one, der)| stated_text(one, der, now_ms)).collect();
    if let Some(node) = &node {
        texts.insert(0, node_text(node, now_ms));
    }
    show::line(&texts.join("\n\n"))
}

/// PEM, or one certificate in DER.
fn certificates_in(file: &Path) -> Result<Vec<Bytes>, Failure> {
    let bytes = read(file)?;
    if Stated::read(&bytes).is_ok() {
        return Ok(vec![bytes.into()]);
    }
    let bad = |why: &dyn std::fmt::Display| Failure::new(BAD_DATA, format!("{}: {why}", file.display()));
    let parcel = Parcel::read(&bytes).map_err(|error| bad(&error))?;
    let objects = parcel.objects.into_iter().filter_map(|object| match object.item.key {
        tram_proto::pki::ObjectKey::Authority(_) => Some(object.content),
        _ => None,
    });
    let found: Vec<Bytes> =
        parcel.certificates.into_iter().map(|der| Bytes::copy_from_slice(&der)).chain(objects).collect();
    if found.is_empty() { Err(bad(&"it holds no certificate")) } else { Ok(found) }
}

fn node_text(node: &PkiNodeView, now_ms: u64) -> String {
    let left = if node.revoked { "revoked".to_owned() } else { days_left(node.not_after_ms, now_ms) };
    let seen = if node.seen_ms == 0 { "never".to_owned() } else { show::local(node.seen_ms) };
    let serials = match node.serials.as_slice() {
        [] => "its CA is another node's".to_owned(),
        serials => format!("certificates: {}", serials.join(" ")),
    };
    format!(
        "{} ({}), {left}\nid {}\nlast heard of: {seen}, list of roots {}\n{serials}",
        node.name, node.role, node.id, node.roots_version
    )
}

fn whose(one: &Stated) -> String {
    match &one.whose {
        Whose::Node { name, role, .. } => format!("node {name} ({role})"),
        Whose::Ca(scope) => format!("CA of {scope}"),
        Whose::Root => "root".to_owned(),
        Whose::Other(why) => format!("not a certificate of Tram: {why}"),
    }
}

fn stated_text(one: &Stated, der: &[u8], now_ms: u64) -> String {
    let mut text = format!(
        "{}, zone {}\n{}: from {} until {}\nserial {}\nkey {}",
        whose(one),
        show::plain(&one.zone),
        days_left(one.not_after_ms, now_ms),
        show::local(one.not_before_ms),
        show::local(one.not_after_ms),
        one.serial,
        one.key,
    );
    match &one.whose {
        Whose::Node { id, .. } => text.push_str(&format!("\nid {id}")),
        Whose::Root => {
            text.push_str(&format!("\nfingerprint {}", tram_pki::enrol::offline::root_fingerprint(der)));
        }
        _ => {}
    }
    text
}

fn stated_json(one: &Stated, now_ms: u64) -> Value {
    let (kind, name, id) = match &one.whose {
        Whose::Node { name, id, .. } => ("node", name.to_string().into(), id.to_string().into()),
        Whose::Ca(scope) => ("issuer", scope.to_string().into(), Value::Null),
        Whose::Root => ("root", Value::Null, Value::Null),
        Whose::Other(_) => ("other", Value::Null, Value::Null),
    };
    json!({
        "kind": kind,
        "name": name,
        "id": id,
        "zone": one.zone,
        "serial": one.serial,
        "key": one.key.to_string(),
        "issuer": one.issuer,
        "days_left": days(one.not_after_ms, now_ms),
        "not_before": show::utc(one.not_before_ms),
        "not_after": show::utc(one.not_after_ms),
    })
}
