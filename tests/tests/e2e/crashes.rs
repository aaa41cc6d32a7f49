//! kill -9 at any moment: every document comes out once.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tram_tests::overlay::{Overlay, Ran, heavy, until};
use tram_tests::sim::Random;

use super::{FAR, HERE, PROGRAM};

const DOCUMENTS: usize = 200;
/// From the last kill on, everything has to be through in so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Its content names it; most are short, some go as chunks, a few in several runs.
fn document(number: usize, random: &mut Random) -> Vec<u8> {
    let size = match random.below(10) {
        0..=6 => random.below(4_000),
        7..=8 => 70_000 + random.below(500_000),
        _ => 5_000_000,
    };
    let mut out = format!("Văn bản số {number}\n").into_bytes();
    out.extend((0..size / 8).flat_map(|_| random.number().to_le_bytes()));
    out
}

#[test]
fn every_daemon_may_be_killed_at_any_moment_and_each_document_comes_once() {
    let _alone = heavy();
    let seed = std::env::var("TRAM_SEED").map_or(20_261_122, |text| text.parse().expect("TRAM_SEED is a number"));
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let overlay = Overlay::tree(PROGRAM, HERE);
    let documents: Vec<Vec<u8>> = (0..DOCUMENTS).map(|number| document(number, &mut random)).collect();
    let sent = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let taken = || fs::read_dir(overlay.path("out")).map_or(0, |entries| visible(entries).len());

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (number, document) in documents.iter().enumerate() {
                send(&overlay, number, document);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| receive(&overlay, &over));
        // Whatever fails below, the receiver ends, and with it the scope.
        let _over = Over(&over);

        let mut victims = ["NK", "CT", "C", "AG", "CD", "recv"];
        for at in (1..victims.len()).rev() {
            victims.swap(at, random.below(at as u64 + 1) as usize);
        }
        for (turn, victim) in victims.into_iter().enumerate() {
            let from = turn * 30 + random.below(20) as usize;
            until(&format!("{from} documents are sent"), PATIENCE, || {
                (sent.load(Ordering::Relaxed) >= from).then_some(())
            });
            // A moment that no condition names.
            std::thread::sleep(Duration::from_millis(random.below(120)));
            println!("{victim} is killed with {} sent, {} received", sent.load(Ordering::Relaxed), taken());
            if victim == "recv" {
                overlay.kill("recv");
                continue;
            }
            overlay.kill(victim);
            std::thread::sleep(Duration::from_millis(random.below(400)));
            overlay.run(victim);
        }
        until("all documents are received", PATIENCE, || (taken() >= DOCUMENTS).then_some(()));
        until("every node is done with all of them", PATIENCE, || {
            ["NK", "CT", "C", "AG", "CD"].iter().all(|node| is_done(&overlay, node)).then_some(())
        });
    });
    assert_eq!(overlay.recv_all("CD", "out").ok(), "", "nothing comes a second time");

    let mut expected: BTreeMap<&[u8], usize> = documents.iter().zip(0..).map(|(bytes, at)| (&bytes[..], at)).collect();
    let files = visible(fs::read_dir(overlay.path("out")).expect("received"));
    assert_eq!(files.len(), DOCUMENTS, "{files:?}");
    for file in &files {
        let bytes = fs::read(overlay.path("out").join(file)).expect("read");
        let number = expected.remove(&bytes[..]);
        assert!(number.is_some(), "{file} is no document that was sent, or one that came before");
        assert_eq!(file, &format!("{}.bin", number.unwrap_or_default()));
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Files that are not the ledger's own.
fn visible(entries: fs::ReadDir) -> Vec<String> {
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    names.filter(|name| !name.starts_with('.')).collect()
}

/// Sends as a script would that has to survive its node: the same key again, until it is accepted.
fn send(overlay: &Overlay, number: usize, document: &[u8]) {
    let file = overlay.write(format!("{number}.bin"), document);
    let key = format!("e2e-{number}");
    until(&format!("document {number} is accepted"), PATIENCE, || {
        let ran = overlay.send("NK", FAR, &file, &["--key", &key]);
        assert!([0, 69, 75].contains(&ran.code), "{ran:?}");
        (ran.code == 0).then_some(())
    });
}

/// Receives until the test is over, beginning anew whenever the node or the receiver itself is killed.
fn receive(overlay: &Overlay, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let mut command = overlay.tram_command("CD");
        command.args(["recv", "--inbox", "vanban", "--follow", "--out"]).arg(overlay.path("out"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        overlay.keep("recv", command.spawn().expect("it starts"));
        until("the receiver ended or the test did", 4 * PATIENCE, || {
            (over.load(Ordering::Relaxed) || overlay.has_ended("recv")).then_some(())
        });
        overlay.kill("recv");
    }
}

fn is_done(overlay: &Overlay, node: &str) -> bool {
    let ran: Ran = overlay.tram(node, &["status", "--json"]);
    ran.code == 0 && {
        let status = ran.json();
        status["spool"]["messages"] == 0 && status["spool"]["receipts"] == 0
    }
}
