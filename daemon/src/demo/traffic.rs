//! What the demo sends, receives and checks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tram_client::{Client, NewMessage, Place};
use tram_pki::keystore;
use tram_proto::id::{CertHash, Digest, MessageId};
use tram_proto::receipt::{Receipt, State};
use tram_proto::statement::{Kind, Signed};

use super::{Overlay, Row, broken};
use crate::clock::Clock;
use crate::command::{Failure, exit};

const TO: &str = "vanban@chau-doc.an-giang";
const INBOX: &str = "vanban";
/// Documents of one demo.
const DOCUMENTS: usize = 50;

/// A message of the demo.
pub(super) struct Sent {
    pub(super) id: MessageId,
    pub(super) name: String,
    pub(super) bytes: usize,
    digest: Digest,
    begin_ms: u64,
    pub(super) arrived: Option<Duration>,
    pub(super) delivered: Option<Duration>,
}

/// The files to send: those under `path`, or the project's own.
pub(super) fn documents(path: Option<PathBuf>) -> Result<Vec<(String, Bytes)>, Failure> {
    let Some(path) = path else {
        let own: [(&str, &[u8]); 3] = [
            ("README.md", include_bytes!("../../../README.md")),
            ("ARCHITECTURE.md", include_bytes!("../../../ARCHITECTURE.md")),
            ("Công văn số 12 về việc triển khai đường truyền.md", include_bytes!("../../../CHANGELOG.md")),
        ];
        return Ok(own.into_iter().map(|(name, bytes)| (name.to_owned(), Bytes::from_static(bytes))).collect());
    };
    let unreadable = |e: std::io::Error| Failure::new(exit::NO_INPUT, format!("{}: {e}", path.display()));
    let files: Vec<PathBuf> = if path.is_dir() {
        let entries = std::fs::read_dir(&path).map_err(unreadable)?;
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()).take(DOCUMENTS).collect()
    } else {
        vec![path.clone()]
    };
    if files.is_empty() {
        return Err(Failure::new(exit::NO_INPUT, format!("{} holds no file to send", path.display())));
    }
    files
        .into_iter()
        .map(|file| {
            let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            Ok((name, Bytes::from(std::fs::read(&file).map_err(unreadable)?)))
        })
        .collect()
}

/// Bytes that nothing can compress or dedupe.
pub(super) fn random(bytes: usize) -> Result<Bytes, Failure> {
    let mut out = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut out).map_err(|_| broken("the system gave no random bytes"))?;
    Ok(out.into())
}

pub(super) async fn send(place: &Place, name: &str, payload: Bytes, precedence: &str) -> Result<Sent, Failure> {
    let client = Client::connect(place).await.map_err(broken)?;
    let message = NewMessage {
        to: vec![TO.parse().map_err(broken)?],
        precedence: precedence.parse().ok(),
        file_name: name.to_owned(),
        ..NewMessage::default()
    };
    let begin_ms = Clock::default().mono_ms();
    let (bytes, digest) = (payload.len(), Digest::of(&payload));
    let id = client.send(message, payload.as_ref(), |_| {}).await.map_err(broken)?;
    Ok(Sent { id, name: name.to_owned(), bytes, digest, begin_ms, arrived: None, delivered: None })
}

/// Takes every message at the destination into files named by message id.
pub(super) fn receive(place: Place, out: PathBuf) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            if let Err(why) = receive_all(&place, &out).await {
                eprintln!("  the receiving application lost its node and tries again: {why}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
}

async fn receive_all(place: &Place, out: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use std::io::Write as _;
    std::fs::create_dir_all(out)?;
    let client = Client::connect(place).await?;
    let mut inbox = client.receive(&INBOX.parse()?, None).await?;
    loop {
        inbox.grant(1).await?;
        let mut message = inbox.next().await?;
        let header = message.header().clone();
        let id = MessageId::from_slice(&header.id)?;
        let mut file = std::fs::File::create(out.join(id.to_string()))?;
        while let Some(part) = message.part().await? {
            file.write_all(&part)?;
        }
        file.sync_all()?;
        inbox.ack(header.delivery).await?;
    }
}

/// Waits until every message was taken at the destination, noting when it arrived.
pub(super) async fn delivered(place: &Place, sent: &mut [Sent], patience: Duration) -> Result<(), Failure> {
    let client = Client::connect(place).await.map_err(broken)?;
    let ids: Vec<MessageId> = sent.iter().map(|s| s.id).collect();
    let mut watch = client.watch(&ids).await.map_err(broken)?;
    let mut open: BTreeMap<MessageId, &mut Sent> = sent.iter_mut().map(|s| (s.id, s)).collect();
    let begin_ms = Clock::default().mono_ms();
    while !open.is_empty() {
        let left = patience.saturating_sub(Duration::from_millis(Clock::default().mono_ms().saturating_sub(begin_ms)));
        let Ok(progress) = tokio::time::timeout(left, watch.next()).await else {
            return Err(broken(format!("{} messages are still under way after {patience:?}", open.len())));
        };
        let Some(progress) = progress.map_err(broken)? else { return Err(broken("the node ended the watch")) };
        let id = MessageId::from_slice(&progress.id).map_err(broken)?;
        let Some(message) = open.get_mut(&id) else { continue };
        if progress.negative {
            return Err(broken(format!("{} ended as {}: {}", message.name, progress.state, progress.reason)));
        }
        let took = Duration::from_millis(Clock::default().mono_ms().saturating_sub(message.begin_ms));
        if progress.state == State::Arrived.as_str() || progress.terminal {
            message.arrived.get_or_insert(took);
        }
        if progress.terminal {
            message.delivered = Some(took);
            open.remove(&id);
        }
    }
    Ok(())
}

/// Prints each hop with its time.
#[allow(clippy::print_stdout, reason = "the demo talks to a person")]
pub(super) async fn print_way(place: &Place, sent: &Sent) -> Result<(), Failure> {
    let client = Client::connect(place).await.map_err(broken)?;
    let trace = client.trace(sent.id, 2000).await.map_err(broken)?;
    let begin = trace.hops.first().map_or(0, |h| h.at_ms);
    for hop in &trace.hops {
        println!("  {:<22} {:<10} +{} ms", hop.node, hop.state, hop.at_ms.saturating_sub(begin));
    }
    Ok(())
}

/// Compares every file with what was sent, and checks every receipt against the root.
pub(super) async fn verify(overlay: &Overlay, sent: &[Sent], out: &Path) -> Result<Vec<Row>, Failure> {
    let trust = keystore::load_trust(&overlay.root()).map_err(broken)?;
    let client = Client::connect(&overlay.place("NK")).await.map_err(broken)?;
    let mut rows = Vec::new();
    for message in sent {
        let file =
            std::fs::read(out.join(message.id.to_string())).map_err(|e| broken(format!("{}: {e}", message.name)))?;
        if Digest::of(&file) != message.digest {
            return Err(broken(format!("{} came out with other content", message.name)));
        }
        let answer = client.receipts(message.id).await.map_err(broken)?;
        let chains: BTreeMap<CertHash, Vec<Bytes>> = answer
            .chains
            .into_iter()
            .filter_map(|c| Some((tram_pki::hash::cert_hash(c.certificates.first()?), c.certificates)))
            .collect();
        let mut states = Vec::new();
        for signed in answer.receipts {
            let signed = Signed::decode(signed).map_err(broken)?;
            let receipt = Receipt::decode(&signed.statement).map_err(broken)?;
            let chain =
                chains.get(&signed.signature.signer).ok_or_else(|| broken("a receipt without its certificates"))?;
            let chain: Vec<CertificateDer<'_>> = chain.iter().map(|c| CertificateDer::from(c.as_ref())).collect();
            trust.verify_statement(Kind::Receipt, &signed, &chain, receipt.at_ms).map_err(broken)?;
            states.push(receipt.state);
        }
        if !states.contains(&State::Arrived) || !states.contains(&State::Delivered) {
            return Err(broken(format!("{} lacks a receipt: there are {states:?}", message.name)));
        }
        rows.push(Row { file: message.name.clone(), receipts: states.len(), sent: message.clone_times() });
    }
    Ok(rows)
}

impl Sent {
    fn clone_times(&self) -> Self {
        Self { name: self.name.clone(), ..*self }
    }
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut out =
        format!("{:<52} {:>12} {:>10} {:>11} {:>9}\n", "document", "bytes", "arrived", "delivered", "receipts");
    for row in rows {
        let ms = |d: Option<Duration>| d.map_or_else(|| "-".to_owned(), |d| format!("{} ms", d.as_millis()));
        let name: String = row.file.chars().take(50).collect();
        let pad = 52usize.saturating_sub(name.chars().count());
        let _ = writeln!(
            out,
            "{name}{:pad$} {:>12} {:>10} {:>11} {:>9}",
            "",
            row.sent.bytes,
            ms(row.sent.arrived),
            ms(row.sent.delivered),
            row.receipts
        );
    }
    out
}
