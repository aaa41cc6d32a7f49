//! `tram send`.

use std::ffi::OsStr;
use std::io;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::io::AsyncRead;
use tram_client::{Client, NewMessage, Place, Progress};
use tram_proto::id::MessageId;

use crate::args::{SendArgs, Wait};
use crate::exit::{Failure, NEGATIVE, NO_INPUT, TIMEOUT};
use crate::show;

/// A file over this many bytes gets a progress bar on a terminal.
const BAR_FROM: u64 = 8 * 1024 * 1024;

pub(crate) async fn run(place: &Place, args: SendArgs, json: bool) -> Result<(), Failure> {
    // One clock for both waits.
    let up = async {
        match args.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(up);
    let (payload, file_name, size) = open(&args.file).await?;
    let bar = bar(size);
    let count = args.to.len();
    let message = NewMessage {
        to: args.to,
        from: args.from,
        precedence: Some(args.precedence),
        lifetime_ms: args.expires.map(millis),
        deliver_by_ms: args.deliver_by.and_then(|at| u64::try_from(at.as_millisecond()).ok()),
        label: args.label.unwrap_or_default(),
        subject: args.subject.unwrap_or_default(),
        file_name,
        idempotency_key: args.key.unwrap_or_default(),
        ..NewMessage::default()
    };
    let submit = async {
        let client = Client::connect(place).await?;
        let done = client.submit(message, payload, |sent| bar.set_position(sent)).await?;
        Ok::<_, Failure>((client, done))
    };
    let result = within(&mut up, submit).await;
    bar.finish_and_clear();
    let (client, done) = result.ok_or_else(|| Failure::new(TIMEOUT, "the message was not submitted in time"))??;
    let (id, demoted_from) = (done.id, done.demoted_from.map(|asked| asked.to_string()));
    if let Some(asked) = &demoted_from {
        eprintln!("tram: sent as immediate: your quota of {asked} is used up for now");
    }
    if json {
        show::json(&json!({ "id": id.to_string(), "state": "submitted", "demoted_from": demoted_from }))?;
    } else {
        show::line(&id.to_string())?;
    }
    if args.wait == Wait::Submitted {
        return Ok(());
    }
    let result = within(&mut up, wait(&client, id, count, args.wait)).await;
    result.ok_or_else(|| Failure::new(TIMEOUT, format!("still under way: follow it with `tram trace {id}`")))?
}

async fn within<T>(up: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = up => None,
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

type Payload = Box<dyn AsyncRead + Unpin + Send>;

/// Opens the file; returns also its name for the receiver and its length, if that is known.
async fn open(path: &Path) -> Result<(Payload, String, u64), Failure> {
    let failed = |error: io::Error| Failure::new(NO_INPUT, format!("{}: {error}", path.display()));
    if path == Path::new("-") {
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        return Ok((Box::new(tokio::fs::File::from_std(stdin.into())), String::new(), 0));
    }
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let found = file.metadata().await.map_err(failed)?;
    if found.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    Ok((Box::new(file), file_name(path.file_name().unwrap_or_default()), found.len()))
}

/// The name the receiver is told: in full, but printable.
fn file_name(name: &OsStr) -> String {
    name.to_string_lossy().chars().map(|c| if c.is_control() { '_' } else { c }).collect()
}

fn bar(size: u64) -> ProgressBar {
    if size <= BAR_FROM || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(size);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}")
    {
        bar.set_style(style);
    }
    bar
}

/// Waits until every recipient has come as far as asked, or has ended.
async fn wait(client: &Client, id: MessageId, count: usize, goal: Wait) -> Result<(), Failure> {
    let mut watch = client.watch(&[id]).await?;
    let mut recipients: Vec<Progress> = Vec::new();
    loop {
        if recipients.len() >= count
            && recipients.iter().all(|recipient| recipient.negative || reached(recipient, goal))
        {
            let ends: Vec<String> = recipients.iter().filter(|r| r.negative).map(end).collect();
            return if ends.is_empty() { Ok(()) } else { Err(Failure::new(NEGATIVE, ends.join("\ntram: "))) };
        }
        let Some(now) = watch.next().await? else {
            return Err(tram_client::Error::Lost("it ended the watch".to_owned()).into());
        };
        match recipients.iter_mut().find(|recipient| recipient.ordinal == now.ordinal) {
            Some(recipient) => *recipient = now,
            None => recipients.push(now),
        }
    }
}

fn reached(recipient: &Progress, goal: Wait) -> bool {
    match recipient.state.as_str() {
        "delivered" | "status" => true,
        "arrived" => goal != Wait::Delivered,
        _ => goal == Wait::Submitted,
    }
}

fn end(recipient: &Progress) -> String {
    let mut text = format!("{}: {}", recipient.address, recipient.state);
    for more in [&recipient.reason, &recipient.detail] {
        if !more.is_empty() {
            text.push_str(": ");
            text.push_str(&show::plain(more));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn a_file_name_is_kept_in_full_and_printable() {
        let long = "Báo cáo ".repeat(30) + ".pdf";
        assert_eq!(file_name(OsStr::new(&long)), long);
        assert_eq!(file_name(OsStr::from_bytes(b"a\xffb\n.pdf")), "a\u{fffd}b_.pdf");
    }
}
