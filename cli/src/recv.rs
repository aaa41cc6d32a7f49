//! `tram recv`: messages of an inbox become files, each exactly once.
//!
//! The node hands a message out at least once; the ledger in the target directory remembers what was written. A message
//! is acknowledged only when its file and the ledger are durable, so nothing is lost or doubled, whenever this process
//! is killed.

pub(crate) mod ledger;
pub(crate) mod name;

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, json};
use tram_client::{Client, Inbound, Incoming, MessageHeader, Place, message_id};

use crate::args::RecvArgs;
use crate::exit::{BAD_DATA, Failure, TIMEOUT, TRY_AGAIN};
use crate::show;
use ledger::{Key, Ledger, OpenError};

/// Messages without a lease renewal are written within this time, in milliseconds; the node renews while parts flow.
const LEASE_MS: u64 = 120_000;
/// How long a message that another application holds, or that is just on its way, is waited for, in milliseconds.
const PATIENCE_MS: [u64; 5] = [20, 50, 100, 250, 500];
/// How long acknowledgements may take after the last message.
const SETTLE: Duration = Duration::from_secs(10);

pub(crate) async fn run(place: &Place, args: RecvArgs, json: bool) -> Result<(), Failure> {
    let client = Client::connect(place).await?;
    let mut ledger = Ledger::open(&args.out).map_err(|error| open_failed(&args.out, &error))?;
    let mut inbound = client.receive(&args.inbox, Some(LEASE_MS)).await?;
    let take = take(&mut inbound, &mut ledger, &args, json);
    let done = match args.timeout {
        Some(timeout) => tokio::time::timeout(timeout, take).await,
        None => Ok(take.await),
    };
    if let Ok(Err(failure)) = done {
        return Err(failure);
    }
    // What was acknowledged in time counts, also when the time is up.
    let settled = tokio::time::timeout(SETTLE, inbound.settle()).await;
    let late = settled.map_err(|_| Failure::io("the node did not confirm the acknowledgements"))??;
    if late > 0 {
        let text = format!(
            "tram: {late} acknowledgements came after the lease; those messages come again and are only acknowledged"
        );
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    done.map_err(|_| Failure::new(TIMEOUT, ""))?
}

fn open_failed(out: &Path, error: &OpenError) -> Failure {
    let code = match error {
        OpenError::Locked => TRY_AGAIN,
        OpenError::Damaged(_) => BAD_DATA,
        OpenError::Io(_) => crate::exit::IO,
    };
    Failure::new(code, format!("{}: {error}", out.display()))
}

async fn take(inbound: &mut Inbound, ledger: &mut Ledger, args: &RecvArgs, json: bool) -> Result<(), Failure> {
    let mut left = args.count;
    let waits = args.follow || args.count.is_some();
    while left != Some(0) {
        inbound.grant(1).await?;
        let message = if waits {
            inbound.next().await?
        } else {
            if !any_now(inbound).await? {
                return Ok(());
            }
            inbound.next().await?
        };
        let delivery = message.header().delivery;
        write(message, ledger, &args.out, json).await?;
        inbound.ack(delivery).await?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// Whether a message has come, given that credit was granted. What another application holds, or this one has just
/// acknowledged, still counts in the inbox for a moment.
async fn any_now(inbound: &mut Inbound) -> Result<bool, Failure> {
    for patience in PATIENCE_MS {
        let waiting = inbound.waiting().await?;
        if inbound.has_come() || waiting == 0 {
            return Ok(waiting > 0);
        }
        if let Ok(came) = tokio::time::timeout(Duration::from_millis(patience), inbound.come()).await {
            came?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes a message unless the ledger knows it, and says where it is.
async fn write(mut message: Incoming<'_>, ledger: &mut Ledger, out: &Path, json: bool) -> Result<(), Failure> {
    let header = message.header().clone();
    let key = Key { id: message_id(&header.id)?, address: header.address.clone() };
    let io = |error: std::io::Error| Failure::io(format!("{}: {error}", out.display()));
    let name = match ledger.name_of(&key) {
        Some(name) => name.to_owned(),
        None => {
            let mut file = ledger.begin().map_err(io)?;
            let mut written = 0;
            while let Some(part) = message.part().await? {
                file.write_all(&part).map_err(io)?;
                written += part.len() as u64;
            }
            if written != header.size {
                let size = header.size;
                return Err(Failure::io(format!("message {}: {written} of {size} bytes came", key.id)));
            }
            ledger.keep(&key, file, &name::safe(&header.file_name)).map_err(io)?
        }
    };
    say(&header, &key, &out.join(name), json)
}

fn say(header: &MessageHeader, key: &Key, path: &Path, json: bool) -> Result<(), Failure> {
    if !json {
        return show::line(&path.display().to_string());
    }
    let attributes: Map<_, _> = header.attributes.iter().map(|a| (a.key.clone(), a.value.clone().into())).collect();
    show::json(&json!({
        "id": key.id.to_string(),
        "path": path.display().to_string(),
        "from": header.from,
        "address": header.address,
        "file_name": header.file_name,
        "subject": header.subject,
        "precedence": header.precedence,
        "created": show::utc(header.created_ms),
        "deadline": show::utc(header.deadline_ms),
        "deliver_by": show::utc(header.deliver_by_ms),
        "size": header.size,
        "content_type": header.content_type,
        "business_id": header.business_id,
        "label": header.label,
        "attributes": attributes,
        "redelivered": header.redelivered,
    }))
}
