//! `tram message`: the list, taking back, and what became of a message.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tram_client::{Client, MessageView, Place, Progress, Withdrawn, message_id};
use tram_proto::id::MessageId;

use crate::args::{MessageCommand, RecallArgs};
use crate::exit::{Failure, NEGATIVE, TIMEOUT};
use crate::show;

pub(crate) async fn run(place: &Place, command: MessageCommand, json: bool) -> Result<(), Failure> {
    let client = Client::connect(place).await?;
    match command {
        MessageCommand::List { limit, before } => list(&client, limit as usize, before, json).await,
        MessageCommand::Cancel { id } => {
            let done = client.cancel(id).await?;
            if json {
                return show::json(&withdrawn_json(id, &done));
            }
            show::line(&ended_here(&done))
        }
        MessageCommand::Recall(args) => recall(&client, &args, json).await,
        MessageCommand::Status { id, code, text } => {
            let recipients = client.set_status(id, code, &text).await?;
            if json {
                let id = id.to_string();
                return show::json(&json!({ "id": id, "code": code, "text": text, "recipients": recipients }));
            }
            let inboxes = show::count(recipients.into(), "inbox", "inboxes");
            show::line(&format!("said for {inboxes}; the sender hears it with a receipt"))
        }
    }
}

async fn list(client: &Client, limit: usize, before: u64, json: bool) -> Result<(), Failure> {
    let (mut messages, mut next) = (Vec::new(), before);
    loop {
        let wanted = u32::try_from(limit - messages.len()).unwrap_or(u32::MAX);
        let page = client.messages(wanted, next).await?;
        messages.extend(page.messages);
        next = page.next;
        if next == 0 || messages.len() >= limit {
            break;
        }
    }
    if json {
        let list = messages.iter().map(message_json).collect::<Result<Vec<_>, _>>()?;
        return show::json(&json!({ "messages": list, "next": (next != 0).then_some(next) }));
    }
    let rows = messages.iter().map(row).collect::<Result<Vec<_>, _>>()?;
    show::line(&show::table(["ID", "SIDE", "CREATED", "STATE", "WHAT"], &rows))
}

fn message_json(message: &MessageView) -> Result<Value, Failure> {
    let recalls = if message.recalls.is_empty() { None } else { Some(message_id(&message.recalls)?.to_string()) };
    Ok(json!({
        "id": message_id(&message.id)?.to_string(),
        "kind": message.kind,
        "side": message.side,
        "from": message.from,
        "subject": message.subject,
        "file_name": message.file_name,
        "precedence": message.precedence,
        "demoted_from": Some(&message.demoted_from).filter(|asked| !asked.is_empty()),
        "label": message.label,
        "business_id": message.business_id,
        "created": show::utc(message.created_ms),
        "deadline": show::utc(message.deadline_ms),
        "size": message.size,
        "recalls": recalls,
        "recipients": message.recipients.iter().map(recipient_json).collect::<Vec<_>>(),
    }))
}

fn recipient_json(recipient: &Progress) -> Value {
    json!({
        "address": recipient.address,
        "state": recipient.state,
        "at": show::utc(recipient.at_ms),
        "reason": recipient.reason,
        "detail": recipient.detail,
        "code": show::code(recipient),
    })
}

fn row(message: &MessageView) -> Result<[String; 5], Failure> {
    let mut what = if message.recalls.is_empty() {
        let name = if message.subject.is_empty() { &message.file_name } else { &message.subject };
        format!(
            "{}: {name}",
            if message.side == "sent" { addresses(&message.recipients) } else { message.from.clone() }
        )
    } else {
        format!("recalls {}", message_id(&message.recalls)?)
    };
    if !message.demoted_from.is_empty() {
        what.push_str(&format!(" (demoted from {})", message.demoted_from));
    }
    let state = match message.recipients.as_slice() {
        [only] => [only.state.as_str(), &show::why(only)].join(" ").trim().to_owned(),
        several => states(several),
    };
    let id = message_id(&message.id)?.to_string();
    Ok([id, message.side.clone(), show::local(message.created_ms), state, what])
}

fn addresses(recipients: &[Progress]) -> String {
    match recipients {
        [] => String::new(),
        [only] => only.address.clone(),
        [first, others @ ..] => {
            format!("{} and {}", first.address, show::count(others.len() as u64, "other", "others"))
        }
    }
}

/// How many recipients are in which state.
fn states(recipients: &[Progress]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    recipients.iter().for_each(|recipient| *counts.entry(recipient.state.as_str()).or_default() += 1);
    counts.into_iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

fn withdrawn_json(id: MessageId, done: &Withdrawn) -> Value {
    let tombstone = message_id(&done.tombstone).ok().map(|id| id.to_string());
    json!({
        "id": id.to_string(),
        "ended": done.ended,
        "following": done.following,
        "tombstone": tombstone,
        "recipients": done.recipients,
    })
}

fn ended_here(done: &Withdrawn) -> String {
    let ended = show::count(done.ended.into(), "recipient", "recipients");
    format!("ended here: {ended} of {}", done.recipients)
}

async fn recall(client: &Client, args: &RecallArgs, json: bool) -> Result<(), Failure> {
    let done = client.recall(args.id).await?;
    let mut answer = withdrawn_json(args.id, &done);
    if !json {
        let copies = show::count(done.following.into(), "copy", "copies");
        show::line(&format!("{}; a tombstone follows {copies}", ended_here(&done)))?;
    }
    if !args.wait {
        return if json { show::json(&answer) } else { Ok(()) };
    }
    let mut answers = Answers { message: args.id, recipients: BTreeMap::new() };
    let wait = answers.wait(client, &done);
    let in_time = match args.timeout {
        Some(timeout) => tokio::time::timeout(timeout, wait).await.ok().transpose()?.is_some(),
        None => {
            wait.await?;
            true
        }
    };
    let all: Vec<&Progress> = answers.recipients.values().collect();
    if json {
        answer["answers"] = all.iter().map(|recipient| recipient_json(recipient)).collect();
        answer["recalled"] = if in_time { answers.recalled().into() } else { Value::Null };
        show::json(&answer)?;
    } else {
        let row = |r: &&Progress| [r.address.clone(), r.state.clone(), show::local(r.at_ms), show::why(r)];
        show::line(&show::table(["RECIPIENT", "STATE", "AT", "REASON"], &all.iter().map(row).collect::<Vec<_>>()))?;
    }
    if !in_time {
        return Err(Failure::new(TIMEOUT, format!("not every recipient has answered: see `tram trace {}`", args.id)));
    }
    if answers.recalled() {
        Ok(())
    } else {
        Err(Failure::new(NEGATIVE, "not recalled everywhere: it was too late, or no answer came"))
    }
}

/// What recipients of a recalled message have answered, by their place in its list. The message says that it was
/// recalled or taken; the tombstone says that it came too late, also while an application still works on the message.
#[derive(Debug)]
struct Answers {
    message: MessageId,
    recipients: BTreeMap<u32, Progress>,
}

impl Answers {
    async fn wait(&mut self, client: &Client, done: &Withdrawn) -> Result<(), Failure> {
        let tombstone = message_id(&done.tombstone).ok();
        let ids: Vec<MessageId> = std::iter::once(self.message).chain(tombstone).collect();
        let mut watch = client.watch(&ids).await?;
        while !self.are_all(done.recipients as usize) {
            let Some(now) = watch.next().await? else {
                return Err(tram_client::Error::Lost("it ended the watch".to_owned()).into());
            };
            self.note(now)?;
        }
        Ok(())
    }

    fn are_all(&self, count: usize) -> bool {
        self.recipients.len() >= count && self.recipients.values().all(|recipient| recipient.terminal)
    }

    fn note(&mut self, mut now: Progress) -> Result<(), Failure> {
        if message_id(&now.id)? != self.message {
            if !now.terminal {
                return Ok(());
            }
            if !now.negative {
                // The tombstone was obeyed.
                (now.state, now.negative) = ("recalled".to_owned(), true);
            }
            if self.recipients.get(&now.ordinal).is_some_and(|known| known.terminal) {
                return Ok(());
            }
        }
        self.recipients.insert(now.ordinal, now);
        Ok(())
    }

    /// Nobody has the message: where it was refused before, there was nothing to take back. Of one that expired nobody
    /// knows whether it came.
    fn recalled(&self) -> bool {
        let kept = |r: &Progress| !r.negative || r.reason == "too_late" || r.state == "expired";
        !self.recipients.values().any(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(message: u8, ordinal: u32, state: &str, reason: &str) -> Progress {
        let negative = !matches!(state, "submitted" | "relayed" | "arrived" | "delivered" | "status");
        Progress {
            id: vec![message; 32].into(),
            ordinal,
            state: state.to_owned(),
            reason: reason.to_owned(),
            terminal: negative || matches!(state, "delivered" | "status"),
            negative,
            ..Progress::default()
        }
    }

    #[track_caller]
    fn check(told: &[(u8, u32, &str, &str)], all: bool, recalled: bool) {
        let mut answers = Answers { message: MessageId([1; 32]), recipients: BTreeMap::new() };
        for (message, ordinal, state, reason) in told {
            answers.note(progress(*message, *ordinal, state, reason)).expect("noted");
        }
        assert_eq!((answers.are_all(2), answers.recalled()), (all, recalled));
    }

    #[test]
    fn a_recall_is_answered_by_the_message_or_by_the_tombstone() {
        let (a, b) = ((1, 0, "recalled", ""), (1, 1, "recalled", ""));
        check(&[a, b], true, true);
        // One recipient is missing, or has not answered.
        check(&[a], false, true);
        check(&[a, (1, 1, "arrived", "")], false, false);
        // The tombstone's word counts where the message's is still open, and does not undo it where it is not.
        check(&[a, (1, 1, "arrived", ""), (2, 1, "delivered", "")], true, true);
        check(&[a, (1, 1, "arrived", ""), (2, 1, "refused", "too_late")], true, false);
        check(&[a, (1, 1, "delivered", ""), (2, 1, "delivered", "")], true, false);
        // What had ended before cannot be kept by anybody.
        check(&[a, (1, 1, "undeliverable", "no_such_inbox")], true, true);
        check(&[a, (1, 1, "arrived", ""), (2, 1, "expired", "lifetime_ended")], true, false);
        check(&[a, (2, 1, "submitted", ""), (1, 1, "relayed", "")], false, false);
    }
}
