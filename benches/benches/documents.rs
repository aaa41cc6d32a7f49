//! Durable documents of 1 KiB over one hop (row P4): submitted through the client library at a child, in an inbox of its
//! parent, durable at both before anybody is told. Two real daemons and the sending application share the machine.
//!
//! The baseline of the same run is the disk alone: append 1 KiB and fdatasync, one document at a time, as a queue does
//! that syncs for each message. Where the time goes is said in CPU microseconds of each process for each document.
//! `cargo bench -p tram-benches --bench documents [-- DOCUMENTS]`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tram_benches::cpu_seconds;
use tram_client::{Client, NewMessage, Place};
use tram_tests::overlay::{Overlay, until};

const DOCUMENT_BYTES: usize = 1024;
const DOCUMENTS: usize = 20_000;
/// Documents that wait for their answer at once: an application that sends one after the other waits for the disk each
/// time, offices have many.
const AT_ONCE: usize = 512;
const CONNECTIONS: usize = 4;
const ROUNDS: usize = 5;
const SYNCS: usize = 300;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let code = match arguments.first().and_then(|first| first.to_str()) {
        Some("tramd") => tramd::command::main(arguments),
        Some("tram") => tram::run(arguments),
        _ => {
            let documents = arguments.iter().find_map(|a| a.to_str()?.parse().ok());
            measure(documents.unwrap_or(DOCUMENTS));
            0
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn measure(documents: usize) {
    let program = std::env::current_exe().expect("this program has a path");
    let mut overlay = Overlay::central(program.to_str().expect("a plain path"), "127.0.0.1");
    overlay.join("CT", "can-tho", "province", None);
    overlay.run("CT");
    overlay.await_link("CT", "central");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let place = |node: &str| Place::dir(&overlay.path(node));
    println!("{documents} documents of {DOCUMENT_BYTES} bytes a round, {AT_ONCE} at once, {ROUNDS} rounds\n");
    println!(
        "{:>6} {:>10} {:>10} {:>10} {:>8}   {:>8} {:>8} {:>8}",
        "round", "sent/s", "arrived/s", "disk/s", "ratio", "app us", "CT us", "C us"
    );
    let mut rates = Vec::new();
    let mut already = 0;
    for round in 0..=ROUNDS {
        let disk = syncs_a_second(&overlay.path("disk"));
        let (own, ct, c) = (std::process::id(), overlay.pid("CT"), overlay.pid("C"));
        let before = [own, ct, c].map(cpu_seconds);
        let began = Instant::now();
        runtime.block_on(send(&place("CT"), documents));
        let sent = began.elapsed();
        already += documents;
        until("every document has arrived", Duration::from_secs(300), || {
            let there = runtime.block_on(waiting(&place("C")));
            (there >= already as u64).then_some(())
        });
        let arrived = began.elapsed();
        let used = [own, ct, c].map(cpu_seconds);
        let rate = |took: Duration| documents as f64 / took.as_secs_f64();
        let each = |place: usize| (used[place] - before[place]) * 1e6 / documents as f64;
        let ratio = rate(arrived) / disk;
        println!(
            "{:>6} {:>10.0} {:>10.0} {disk:>10.0} {ratio:>8.2}   {:>8.0} {:>8.0} {:>8.0}",
            if round == 0 { "warm".to_owned() } else { round.to_string() },
            rate(sent),
            rate(arrived),
            each(0),
            each(1),
            each(2),
        );
        if round > 0 {
            rates.push((rate(arrived), ratio, disk));
        }
    }
    let median = |pick: fn(&(f64, f64, f64)) -> f64| {
        let mut values: Vec<f64> = rates.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "\nmedian: {:.0} durable documents/s over one hop; fdatasync of 1 KiB {:.0} us; {:.2} times the disk alone",
        median(|r| r.0),
        1e6 / median(|r| r.2),
        median(|r| r.1)
    );
}

async fn send(place: &Place, documents: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect(place).await.expect("the node answers"));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..AT_ONCE {
        let (client, next) = (clients[task % CONNECTIONS].clone(), next.clone());
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < documents {
                let mut document = vec![0; DOCUMENT_BYTES];
                aws_lc_rs::rand::fill(&mut document).expect("randomness");
                let to = vec!["vanban@central".parse().expect("an address")];
                let message = NewMessage { to, file_name: "cv.pdf".to_owned(), ..NewMessage::default() };
                client.send(message, &document[..], |_| {}).await.expect("it is taken");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a sender ends well");
    }
}

async fn waiting(place: &Place) -> u64 {
    let client = Client::connect(place).await.expect("the node answers");
    client.inboxes().await.expect("an answer").iter().map(|inbox| inbox.messages).sum()
}

/// Appends one document after the other, each with an fdatasync.
fn syncs_a_second(path: &Path) -> f64 {
    let mut file = File::create(path).expect("a file");
    let document = [7; DOCUMENT_BYTES];
    let began = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&document).and_then(|()| file.sync_data()).expect("written");
    }
    SYNCS as f64 / began.elapsed().as_secs_f64()
}
