//! `tram inbox`.

use jiff::Timestamp;
use serde_json::json;
use tram_client::{Admin, Client, Numbers, Place, SequenceView};
use tram_proto::name::Inbox;

use crate::args::InboxCommand;
use crate::exit::{Failure, NEGATIVE};
use crate::show;

/// Gaps shown for one pair; `--json` has all.
const SHOWN: usize = 10;

pub(crate) async fn run(place: &Place, command: InboxCommand, json: bool) -> Result<(), Failure> {
    let done = |inbox: &Inbox, state: &str| {
        if json { show::json(&json!({ "inbox": inbox.as_str(), "state": state })) } else { Ok(()) }
    };
    match command {
        InboxCommand::Create { inbox } => {
            Admin::connect(place).await?.create_inbox(&inbox).await?;
            done(&inbox, "created")
        }
        InboxCommand::Remove { inbox } => {
            Admin::connect(place).await?.remove_inbox(&inbox).await?;
            done(&inbox, "removed")
        }
        InboxCommand::List => {
            let inboxes = Admin::connect(place).await?.inboxes().await?;
            if json {
                let list = inboxes.iter().map(|inbox| json!({ "name": inbox.name, "messages": inbox.messages }));
                return show::json(&json!({ "inboxes": list.collect::<Vec<_>>() }));
            }
            let rows: Vec<_> = inboxes.into_iter().map(|inbox| [inbox.name, inbox.messages.to_string()]).collect();
            show::line(&show::table(["INBOX", "MESSAGES"], &rows))
        }
        InboxCommand::Gaps { inbox, since } => gaps(place, inbox.as_ref(), since, json).await,
    }
}

/// Asks on the application's socket: the register is the business of whoever receives.
async fn gaps(place: &Place, inbox: Option<&Inbox>, since: Option<Timestamp>, json: bool) -> Result<(), Failure> {
    let client = Client::connect(place).await?;
    let since_ms = since.and_then(|at| u64::try_from(at.as_millisecond()).ok()).unwrap_or(0);
    let (mut pairs, mut after): (Vec<SequenceView>, _) = (Vec::new(), String::new());
    loop {
        let page = client.gaps(inbox, since_ms, after).await?;
        pairs.extend(page.sequences);
        if page.next.is_empty() {
            break;
        }
        after = page.next;
    }
    pairs.sort_by(|a, b| (&a.origin, &a.sender, &a.address).cmp(&(&b.origin, &b.sender, &b.address)));
    let missing: u64 = pairs.iter().map(|pair| pair.missing).sum();
    if json {
        let list: Vec<_> = pairs.iter().map(pair_json).collect();
        show::json(&json!({ "missing": missing, "sequences": list }))?;
    } else {
        let rows: Vec<_> = pairs.iter().map(row).collect();
        show::line(&show::table(["FROM", "TO", "LOWEST", "HIGHEST", "SEEN", "MISSING"], &rows))?;
    }
    if missing == 0 {
        return Ok(());
    }
    let missing = show::count(missing, "number is", "numbers are");
    Err(Failure::new(NEGATIVE, format!("{missing} missing: under way, taken back, ended, or lost; ask the sender")))
}

fn pair_json(pair: &SequenceView) -> serde_json::Value {
    let numbers = |gap: &Numbers| json!({ "first": gap.first, "last": gap.last });
    json!({
        "origin": pair.origin,
        "origin_id": pair.origin_id,
        "incarnation": pair.incarnation,
        "sender": pair.sender,
        "address": pair.address,
        "lowest": pair.lowest,
        "highest": pair.highest,
        "seen": pair.seen,
        "missing": pair.missing,
        "gaps": pair.gaps.iter().map(numbers).collect::<Vec<_>>(),
        "cut": pair.cut,
    })
}

fn row(pair: &SequenceView) -> [String; 6] {
    let from = if pair.sender.is_empty() { pair.origin.clone() } else { format!("{}@{}", pair.sender, pair.origin) };
    let gap = |gap: &Numbers| {
        if gap.first == gap.last { gap.first.to_string() } else { format!("{}-{}", gap.first, gap.last) }
    };
    let mut gaps: Vec<String> = pair.gaps.iter().take(SHOWN).map(gap).collect();
    if pair.gaps.len() > SHOWN {
        gaps.push(format!("and {} more", show::count((pair.gaps.len() - SHOWN) as u64, "gap", "gaps")));
    }
    let lowest = format!("{}{}", pair.lowest, if pair.cut { " (not all looked at)" } else { "" });
    [from, pair.address.clone(), lowest, pair.highest.to_string(), pair.seen.to_string(), gaps.join(", ")]
}
