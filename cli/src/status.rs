//! `tram status`, `link list`, `node list`, `queue list`.

use std::time::Duration;

use serde_json::{Value, json};
use tram_client::{Admin, InboxView, LinkView, NodeView, Place, QueueView, QueuesAnswer, StatusAnswer};

use crate::args::StatusArgs;
use crate::exit::{Failure, NEGATIVE};
use crate::pki::standing::{certificate_json, certificate_rows};
use crate::{screen, show};

const AGAIN: Duration = Duration::from_secs(2);

pub(crate) async fn status(place: &Place, args: StatusArgs, json: bool) -> Result<(), Failure> {
    if args.watch && !json && screen::is_one() {
        let look = async || {
            // Anew each time: the daemon may be restarted meanwhile.
            let looked = async { Admin::connect(place).await?.status().await }.await;
            looked.map_or_else(|error| format!("! {}", Failure::from(error).message), |status| status_text(&status))
        };
        return screen::watch(look, AGAIN).await;
    }
    let admin = Admin::connect(place).await?;
    loop {
        let status = admin.status().await?;
        if json {
            show::json(&status_json(&status))?;
        } else {
            show::line(&status_text(&status))?;
        }
        if !args.watch {
            let degraded = args.check && !status.problems.is_empty();
            return if degraded { Err(Failure::new(NEGATIVE, status.problems.join("\ntram: "))) } else { Ok(()) };
        }
        tokio::time::sleep(AGAIN).await;
    }
}

pub(crate) async fn links(place: &Place, json: bool) -> Result<(), Failure> {
    let links = Admin::connect(place).await?.links().await?;
    if json { show::json(&json!({ "links": list(&links, link_json) })) } else { show::line(&link_table(&links)) }
}

pub(crate) async fn nodes(place: &Place, json: bool) -> Result<(), Failure> {
    let nodes = Admin::connect(place).await?.nodes().await?;
    if json { show::json(&json!({ "nodes": list(&nodes, node_json) })) } else { show::line(&node_table(&nodes)) }
}

pub(crate) async fn queues(place: &Place, json: bool) -> Result<(), Failure> {
    let QueuesAnswer { queues, paused } = Admin::connect(place).await?.queues().await?;
    if json {
        return show::json(&json!({ "queues": list(&queues, queue_json), "paused": paused }));
    }
    show::line(&queue_table(&queues))?;
    paused.iter().try_for_each(|hop| show::line(&format!("\n{hop} is paused: end it with `tram queue resume {hop}`")))
}

fn list<T>(items: &[T], one: impl Fn(&T) -> Value) -> Vec<Value> {
    items.iter().map(one).collect()
}

fn or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

fn link_json(link: &LinkView) -> Value {
    json!({
        "peer": link.peer,
        "state": link.state,
        "side": link.side,
        "role": or_null(&link.role),
        "peer_id": or_null(&link.peer_id),
        "active": link.active,
        "address": or_null(&link.address),
        "since": show::utc(link.since_ms),
        "rtt_us": link.rtt_us,
        "clock_offset_ms": link.clock_offset_ms,
        "unacknowledged": link.unacknowledged,
        "sent_bytes": link.sent_bytes,
        "received_bytes": link.received_bytes,
        "error": or_null(&link.error),
    })
}

fn node_json(node: &NodeView) -> Value {
    json!({
        "name": node.name,
        "id": node.id,
        "role": or_null(&node.role),
        "announced": node.announced,
        "uplink": or_null(&node.uplink),
        "inboxes": node.inboxes,
        "at": show::utc(node.at_ms),
        "not_after": show::utc(node.not_after_ms),
    })
}

fn queue_json(queue: &QueueView) -> Value {
    json!({
        "next_hop": queue.next_hop,
        "precedence": queue.precedence,
        "messages": queue.messages,
        "bytes": queue.bytes,
        "oldest": show::utc(queue.oldest_ms),
        "paused": queue.paused,
    })
}

fn inbox_json(inbox: &InboxView) -> Value {
    json!({ "name": inbox.name, "messages": inbox.messages })
}

fn status_json(status: &StatusAnswer) -> Value {
    let spool = status.spool.unwrap_or_default();
    json!({
        "schema": "tram.status/v1",
        "node": status.node,
        "node_id": status.node_id,
        "role": status.role,
        "zone": status.zone,
        "title": status.title,
        "version": status.version,
        "incarnation": status.incarnation,
        "started": show::utc(status.started_ms),
        "now": show::utc(status.now_ms),
        "clock_trusted": status.clock_trusted,
        "degraded": !status.problems.is_empty(),
        "problems": status.problems,
        "links": list(&status.links, link_json),
        "queues": list(&status.queues, queue_json),
        "certificates": list(&status.certificates, |c| certificate_json(c, status.now_ms)),
        "spool": {
            "messages": spool.messages,
            "receipts": spool.receipts,
            "room_bytes": spool.room_bytes,
        },
        "inboxes": list(&status.inboxes, inbox_json),
        "paused": status.paused,
        "held": status.held,
    })
}

fn link_table(links: &[LinkView]) -> String {
    let row = |link: &LinkView| {
        let state = if link.active { format!("{} (in use)", link.state) } else { link.state.clone() };
        let rtt = link.rtt_us.map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1000.0));
        let since = show::local(link.since_ms);
        [link.peer.clone(), link.side.clone(), state, rtt, since, link.address.clone(), link.error.clone()]
    };
    let rows: Vec<_> = links.iter().map(row).collect();
    show::table(["PEER", "SIDE", "STATE", "RTT", "SINCE", "ADDRESS", ""], &rows)
}

fn node_table(nodes: &[NodeView]) -> String {
    let row = |node: &NodeView| {
        let seen = if node.announced { show::local(node.at_ms) } else { "never".to_owned() };
        let uplink = if node.uplink.is_empty() { "-".to_owned() } else { node.uplink.clone() };
        [node.name.clone(), node.role.clone(), uplink, seen, node.inboxes.join(" ")]
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    show::table(["NODE", "ROLE", "UPLINK", "SEEN", "INBOXES"], &rows)
}

fn queue_table(queues: &[QueueView]) -> String {
    let row = |queue: &QueueView| {
        let (messages, oldest) = (queue.messages.to_string(), show::local(queue.oldest_ms));
        let next_hop = format!("{}{}", queue.next_hop, if queue.paused { " (paused)" } else { "" });
        [next_hop, queue.precedence.clone(), messages, show::bytes(queue.bytes), oldest]
    };
    let rows: Vec<_> = queues.iter().map(row).collect();
    show::table(["NEXT HOP", "PRECEDENCE", "MESSAGES", "SIZE", "OLDEST"], &rows)
}

fn status_text(status: &StatusAnswer) -> String {
    let spool = status.spool.unwrap_or_default();
    let mut text = format!(
        "{}.{} ({}), tramd {}, since {}\n",
        status.node,
        status.zone,
        status.role,
        status.version,
        show::local(status.started_ms)
    );
    if status.problems.is_empty() {
        text.push_str("healthy\n");
    }
    for problem in &status.problems {
        text.push_str(&format!("! {}\n", show::plain(problem)));
    }
    let (messages, receipts, room) = (spool.messages, spool.receipts, show::bytes(spool.room_bytes));
    text.push_str(&format!("\nspool: {messages} messages, {receipts} receipts, {room} free\n"));
    // On one screen: those of other CAs are in `tram pki status`.
    let rows = certificate_rows(status.certificates.iter().filter(|one| one.own), status.now_ms);
    text.push_str(&format!("\n{}\n", show::table(["LEFT", "UNTIL", "KIND", "NAME"], &rows)));
    let inboxes: Vec<_> = status.inboxes.iter().map(|i| [i.name.clone(), i.messages.to_string()]).collect();
    text.push_str(&format!("\n{}\n", show::table(["INBOX", "MESSAGES"], &inboxes)));
    text.push_str(&format!("\n{}\n", link_table(&status.links)));
    text.push_str(&format!("\n{}", queue_table(&status.queues)));
    text
}
