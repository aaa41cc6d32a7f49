//! A large payload over two lines that are cut again and again: hardly anything is sent a second time.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tram_tests::lines::Line;
use tram_tests::overlay::{Overlay, heavy, until};
use tram_tests::sim::Random;

use super::payloads::assert_same;
use super::{HERE, PROGRAM};

const MIB: u64 = 1024 * 1024;
const LINE_BITS_PER_SECOND: u64 = 350_000_000;
const PAYLOAD_BYTES: u64 = 2048 * MIB;
/// Sent first and left alone: what of the lines' bytes is headers, acknowledgements and QUIC's own repetition of losses.
const UNCUT_BYTES: u64 = 256 * MIB;
/// What may be sent again on each link, of the payload.
const AGAIN: f64 = 0.02;
/// QUIC's idle timeout is 45 s; then the dialler dials again.
const PATIENCE: Duration = Duration::from_secs(120);
const FAR: &str = "central";

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// This daemon is killed and starts again.
    Kill(&'static str),
    /// Nothing passes on this line for a while, which the link survives.
    Silence(usize),
    /// Nothing passes until the link is given up.
    Death(usize),
}

impl Cut {
    /// Which lines it interrupts.
    fn lines(self) -> Vec<usize> {
        match self {
            Self::Kill("NK") => vec![0],
            Self::Kill("C") => vec![1],
            Self::Kill(_) => vec![0, 1],
            Self::Silence(line) | Self::Death(line) => vec![line],
        }
    }
}

const CUTS: [Cut; 10] = [
    Cut::Kill("NK"),
    Cut::Kill("CT"),
    Cut::Kill("C"),
    Cut::Silence(0),
    Cut::Silence(1),
    Cut::Kill("NK"),
    Cut::Kill("CT"),
    Cut::Kill("C"),
    Cut::Kill("CT"),
    Cut::Death(0),
];

#[test]
#[ignore = "takes minutes and 10 GiB of disk: scripts/full/cuts.sh runs it"]
fn a_payload_cut_ten_times_is_hardly_sent_again() {
    let _alone = heavy();
    let seed = std::env::var("TRAM_SEED").map_or(u64::from(std::process::id()), |text| text.parse().expect("a number"));
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let (overlay, lines) = overlay();
    let sent_bytes = || lines.each_ref().map(Line::sent_bytes);

    let before = sent_bytes();
    send(&overlay, "uncut.bin", UNCUT_BYTES);
    receive(&overlay, "uncut.bin");
    let after = sent_bytes();
    let uncut = [0, 1].map(|line| (after[line] - before[line]) as f64 / UNCUT_BYTES as f64);
    println!("uncut, the lines carried {uncut:.4?} of the payload");

    let before = sent_bytes();
    let begin = Instant::now();
    send(&overlay, "cut.bin", PAYLOAD_BYTES);
    let mut cuts = CUTS;
    for at in (1..cuts.len()).rev() {
        cuts.swap(at, random.below(at as u64 + 1) as usize);
    }
    for (turn, cut) in cuts.into_iter().enumerate() {
        // Somewhere in the turn's own part of the payload, so that all happen while it is under way.
        let part = PAYLOAD_BYTES / CUTS.len() as u64;
        let from = before[1] + turn as u64 * part + random.below(part * 9 / 10);
        until("the last line has carried so much", PATIENCE, || (lines[1].sent_bytes() >= from).then_some(()));
        let now = sent_bytes();
        let sent = [0, 1].map(|line| now[line] - before[line]);
        println!("{:>6.1?} {cut:?}, {:?} MiB sent", begin.elapsed(), sent.map(|bytes| bytes / MIB));
        assert!(cut.lines().iter().any(|line| sent[*line] < PAYLOAD_BYTES), "{cut:?} cuts nothing off");
        make(&overlay, &lines, cut, &mut random);
    }
    receive(&overlay, "cut.bin");
    let after = sent_bytes();
    println!("{PAYLOAD_BYTES} bytes after {:.0?}", begin.elapsed());
    let again = [0, 1].map(|line| (after[line] - before[line]) as f64 / PAYLOAD_BYTES as f64 - uncut[line]);
    println!("sent again: {:.2?} % of the payload", again.map(|share| share * 100.0));
    assert!(again.iter().all(|share| *share <= AGAIN), "sent again: {again:?} of the payload, {AGAIN} are allowed");
}

/// `NK` below `CT` below `C`, with a line from each to the next.
fn overlay() -> (Overlay, [Line; 2]) {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.join("NK", "ninh-kieu.can-tho", "commune", Some("CT"));
    let lines = [("NK", "CT"), ("CT", "C")].map(|(node, parent)| {
        let direct = overlay.listen(parent);
        let line = Line::to(direct.parse().expect("an address"), LINE_BITS_PER_SECOND);
        let instead = line.address().to_string();
        overlay.reconfigure(node, |text| text.replace(&direct, &instead));
        line
    });
    for (node, parent) in [("CT", "central"), ("NK", "can-tho")] {
        overlay.run(node);
        overlay.await_link(node, parent);
    }
    (overlay, lines)
}

fn write_fresh(path: &Path, bytes: u64) {
    let mut random = File::open("/dev/urandom").expect("Linux has it").take(bytes);
    io::copy(&mut random, &mut File::create(path).expect("made")).expect("written");
}

fn send(overlay: &Overlay, name: &str, bytes: u64) {
    let file = overlay.path(name);
    write_fresh(&file, bytes);
    let _ = overlay.send("NK", &format!("vanban@{FAR}"), &file, &[]).ok();
}

fn receive(overlay: &Overlay, name: &str) {
    until("it is there", 4 * PATIENCE, || {
        let inboxes = overlay.tram("C", &["inbox", "list", "--json"]).json();
        (inboxes["inboxes"][0]["messages"] == 1).then_some(())
    });
    let _ = overlay.recv("C", "out", 1).ok();
    assert_same(&overlay.path(name), &overlay.path("out").join(name));
    overlay.await_done(&["C", "CT", "NK"], PATIENCE);
}

fn make(overlay: &Overlay, lines: &[Line; 2], cut: Cut, random: &mut Random) {
    match cut {
        Cut::Kill(node) => {
            overlay.kill(node);
            overlay.run(node);
        }
        Cut::Silence(line) => {
            lines[line].cut(true);
            thread::sleep(Duration::from_millis(2_000 + random.below(1_000)));
            lines[line].cut(false);
        }
        Cut::Death(line) => {
            lines[line].cut(true);
            let (below, above) = [("NK", "CT"), ("CT", "C")][line];
            let up =
                |node: &str, side: &str| overlay.links(node).iter().any(|l| l["side"] == side && l["state"] == "up");
            until("both ends have given the link up", PATIENCE, || {
                (!up(below, "up") && !up(above, "down")).then_some(())
            });
            lines[line].cut(false);
        }
    }
}
