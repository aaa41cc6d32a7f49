//! `tramd demo`: the main job for a newcomer, on one machine, without root.
//!
//! Starts real daemons as processes of their own, joined with real tokens: central, two provinces, two districts. Sends
//! documents and a large file from one district to the other over four hops, kills the relay in the middle with SIGKILL
//! while the large file is under way, starts it again, and checks what came out, byte by byte and receipt by receipt.

mod overlay;
mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::command::{Failure, exit};
use overlay::Overlay;
use traffic::Sent;

/// The large file, in bytes.
const LARGE_BYTES: usize = 64 * 1024 * 1024;
/// The middle relay is killed when so much of it has come in there, in bytes.
const KILL_AT_BYTES: u64 = 16 * 1024 * 1024;
/// Everything has to be through in so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::new(exit::NO, format!("the demo failed: {error}"))
}

/// Runs the demo.
///
/// # Errors
/// [`Failure`] when anything did not come out as it should.
pub(crate) fn command(path: Option<PathBuf>, keep: bool) -> Result<i32, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(broken)?.block_on(demo(path, keep))
}

#[allow(clippy::print_stdout, reason = "the demo talks to a person")]
async fn demo(path: Option<PathBuf>, keep: bool) -> Result<i32, Failure> {
    let clock = Clock::default();
    let begin_ms = clock.mono_ms();
    let seconds = move || clock.mono_ms().saturating_sub(begin_ms) as f64 / 1000.0;
    let documents = traffic::documents(path)?;
    println!("Tram demo: five relay daemons on this machine, joined over QUIC with mutual TLS.\n");
    let mut overlay = Overlay::start().await?;
    println!("  central ─┬─ can-tho ── ninh-kieu.can-tho   (sends)");
    println!("           └─ an-giang ─ chau-doc.an-giang   (receives)\n");
    println!("joined and linked after {:.1} s, in {}\n", seconds(), overlay.dir().display());

    let out = overlay.dir().join("out");
    let receiver = traffic::receive(overlay.place("CD"), out.clone());
    let mut sent = Vec::new();
    for (name, bytes) in documents {
        sent.push(traffic::send(&overlay.place("NK"), &name, bytes, "immediate").await?);
    }
    traffic::delivered(&overlay.place("NK"), &mut sent, PATIENCE).await?;
    println!("{} documents arrived and were taken by the application; the way of the first:", sent.len());
    if let Some(first) = sent.first() {
        traffic::print_way(&overlay.place("NK"), first).await?;
    }

    println!("\nsending {} MiB of random bytes; central is killed with SIGKILL on the way ...", LARGE_BYTES >> 20);
    let large = traffic::send(&overlay.place("NK"), "large.bin", traffic::random(LARGE_BYTES)?, "routine").await?;
    let had = overlay.kill_when_busy("C", KILL_AT_BYTES, PATIENCE).await?;
    println!("  central killed with {} MiB received; it starts again in half a second", had >> 20);
    tokio::time::sleep(Duration::from_millis(500)).await;
    overlay.run("C")?;
    let mut large = vec![large];
    traffic::delivered(&overlay.place("NK"), &mut large, PATIENCE).await?;
    traffic::print_way(&overlay.place("NK"), &large[0]).await?;
    sent.append(&mut large);

    receiver.abort();
    let rows = traffic::verify(&overlay, &sent, &out).await?;
    println!("\n{}", traffic::table(&rows));
    println!("all {} came out byte-identical with valid receipts, in {:.1} s altogether", rows.len(), seconds());
    if keep {
        overlay.leave_running();
        println!("\nthe nodes keep running. Talk to them with the command `tram`:");
        for (dir, name) in overlay.nodes() {
            println!("  tram --dir {} status      # {name}, process {}", dir.display(), overlay.pid(&dir));
        }
        println!("stop them with: kill {}", overlay.pids().join(" "));
    } else {
        overlay.stop().await;
    }
    Ok(exit::OK)
}

/// What the summary table says of one document.
struct Row {
    sent: Sent,
    file: String,
    receipts: usize,
}
