//! What an administrator orders: `tram node`, `tram queue`, `tram spool`, `tram reload`.

use serde_json::json;
use tram_client::{Admin, Place};

use crate::args::{HopName, NodeCommand, QueueCommand};
use crate::exit::{Failure, NEGATIVE};
use crate::{show, status};

pub(crate) async fn node(place: &Place, command: NodeCommand, json: bool) -> Result<(), Failure> {
    match command {
        NodeCommand::List => status::nodes(place, json).await,
        NodeCommand::Retire { name } => {
            let again = Admin::connect(place).await?.retire(&name).await?;
            if json {
                return show::json(&json!({ "node": name.to_string(), "state": "retired", "offered_again": again }));
            }
            let again = show::count(again, "message sent from here is", "messages sent from here are");
            show::line(&format!("the spool of {name} is declared lost; {again} offered again now"))
        }
        NodeCommand::Accept { name } => {
            Admin::connect(place).await?.accept(&name).await?;
            if json { show::json(&json!({ "node": name.to_string(), "state": "accepted" })) } else { Ok(()) }
        }
    }
}

pub(crate) async fn queue(place: &Place, command: QueueCommand, json: bool) -> Result<(), Failure> {
    let done = |hop: &str, state: &str, changed: bool| {
        if json {
            return show::json(&json!({ "next_hop": hop, "state": state, "changed": changed }));
        }
        let already = if changed { "" } else { " already" };
        show::line(&format!("{hop} is{already} {state}"))
    };
    match command {
        QueueCommand::List => status::queues(place, json).await,
        QueueCommand::Pause { hop: HopName(hop) } => {
            let changed = Admin::connect(place).await?.pause(&hop).await?;
            done(&hop, "paused", changed)
        }
        QueueCommand::Resume { hop: HopName(hop) } => {
            let changed = Admin::connect(place).await?.resume(&hop).await?;
            done(&hop, "open", changed)
        }
        QueueCommand::Retry { id } => {
            let changed = Admin::connect(place).await?.retry(id).await?;
            if json {
                return show::json(&json!({ "id": id.map(|id| id.to_string()), "messages": changed }));
            }
            show::line(&format!(
                "{} offered at once where the way is open",
                show::count(changed, "message is", "messages are")
            ))
        }
    }
}

pub(crate) async fn reload(place: &Place, json: bool) -> Result<(), Failure> {
    let keys = Admin::connect(place).await?.reload().await?;
    let state = |applied: bool| if applied { "applied" } else { "needs restart" };
    if json {
        let list = keys.iter().map(|key| json!({ "key": key.key, "state": state(key.applied) }));
        return show::json(&json!({ "keys": list.collect::<Vec<_>>() }));
    }
    if keys.is_empty() {
        return show::line("nothing has changed");
    }
    let rows: Vec<_> = keys.into_iter().map(|key| [key.key, state(key.applied).to_owned()]).collect();
    show::line(&show::table(["KEY", "STATE"], &rows))
}

pub(crate) async fn scrub(place: &Place, json: bool) -> Result<(), Failure> {
    let found = Admin::connect(place).await?.scrub().await?;
    if json {
        let damaged = found.damaged.iter().map(|one| json!({ "payload": one.payload, "bytes": one.bytes }));
        let damaged: Vec<_> = damaged.collect();
        show::json(&json!({ "chunks": found.chunks, "bytes": found.bytes, "damaged": damaged }))?;
    } else {
        let chunks = show::count(found.chunks, "chunk", "chunks");
        show::line(&format!("{chunks}, {} read and checked", show::bytes(found.bytes)))?;
        if !found.damaged.is_empty() {
            let rows: Vec<_> = found.damaged.iter().map(|one| [one.payload.clone(), show::bytes(one.bytes)]).collect();
            show::line(&show::table(["DAMAGED PAYLOAD", "SIZE"], &rows))?;
        }
    }
    if found.damaged.is_empty() {
        return Ok(());
    }
    let damaged = show::count(found.damaged.len() as u64, "payload is", "payloads are");
    let text = format!("{damaged} damaged; what is under way is fetched again from the hop before; check the disk");
    Err(Failure::new(NEGATIVE, text))
}
