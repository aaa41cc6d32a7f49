//! What people and applications ask beside sending and taking: cancel, recall, status, and the administrator's commands.

use tonic::Status;
use tram_proto::id::MessageId;
use tram_proto::local::{StatusSet, Withdrawn};
use tram_proto::name::Inbox;
use tram_relay::input::Command;
use tram_relay::output::Outcome;

use super::access::Grant;
use super::known::{here, read, visible};
use super::{Door, blocking, refusal};

/// Has the core carry a command out; returns when that is durable.
pub(super) async fn carry_out(door: &Door, command: Command) -> Result<Outcome, Status> {
    let result = door.engine.command(command).await.map_err(|_| refusal::stopping())?;
    result.map_err(|why| refusal::command_refused(&why))
}

/// Ends the recipients whose copy has not left; with `recall` a tombstone goes after the others.
pub(super) async fn withdraw(
    door: &Door,
    grant: &Grant,
    message: MessageId,
    recall: bool,
) -> Result<Withdrawn, Status> {
    let user = (!grant.everything).then_some(grant.uid);
    let command = if recall {
        Command::Recall { message, user, nonce: super::nonce()? }
    } else {
        Command::Cancel { message, user }
    };
    let outcome = carry_out(door, command).await?;
    let spool = door.spool.clone();
    let found = blocking(move || read(&*spool, &message)).await?;
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Withdrawn {
        ended: number(outcome.changed),
        following: number(outcome.following),
        tombstone: outcome.tombstone.map(|id| bytes::Bytes::copy_from_slice(&id.0)).unwrap_or_default(),
        recipients: number(found.map_or(0, |(_, body)| body.to.len())),
    })
}

/// Says what became of a message at its destination, for the inboxes of this caller it came to.
pub(super) async fn set_status(
    door: &Door,
    grant: &Grant,
    message: MessageId,
    code: u32,
    text: String,
) -> Result<StatusSet, Status> {
    let spool = door.spool.clone();
    let found = blocking(move || read(&*spool, &message)).await?;
    let (stored, body) =
        found.filter(|(stored, body)| visible(door, grant, stored, body)).ok_or_else(refusal::no_such_message)?;
    let here = here(door, &stored.message, &body).map(|(_, to)| &to.inbox);
    let inboxes: Vec<Inbox> = here.filter(|inbox| grant.inbox(inbox)).cloned().collect();
    if inboxes.is_empty() {
        return Err(refusal::not_permitted(format!(
            "user {} may not receive from any inbox here that message {message} is for: only who takes it says what became of it",
            grant.uid
        )));
    }
    let command = Command::SetStatus { message, body: Box::new(body), inboxes, code, text };
    let outcome = carry_out(door, command).await?;
    Ok(StatusSet { recipients: u32::try_from(outcome.changed).unwrap_or(u32::MAX) })
}
