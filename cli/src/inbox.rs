//! `tram inbox`.

use serde_json::json;
use tram_client::{Admin, Place};

use crate::args::InboxCommand;
use crate::exit::Failure;
use crate::show;

pub(crate) async fn run(place: &Place, command: InboxCommand, json: bool) -> Result<(), Failure> {
    let admin = Admin::connect(place).await?;
    let done = |inbox: &str, state: &str| {
        if json { show::json(&json!({ "inbox": inbox, "state": state })) } else { Ok(()) }
    };
    match command {
        InboxCommand::Create { inbox } => {
            admin.create_inbox(&inbox).await?;
            done(inbox.as_str(), "created")
        }
        InboxCommand::Remove { inbox } => {
            admin.remove_inbox(&inbox).await?;
            done(inbox.as_str(), "removed")
        }
        InboxCommand::List => {
            let inboxes = admin.inboxes().await?;
            if json {
                let list = inboxes.iter().map(|inbox| json!({ "name": inbox.name, "messages": inbox.messages }));
                return show::json(&json!({ "inboxes": list.collect::<Vec<_>>() }));
            }
            let rows: Vec<_> = inboxes.into_iter().map(|inbox| [inbox.name, inbox.messages.to_string()]).collect();
            show::line(&show::table(["INBOX", "MESSAGES"], &rows))
        }
    }
}
