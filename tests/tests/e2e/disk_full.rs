//! Disks that run full, of each node in turn, by documents and by another program's file: whoever sends is told to try
//! again, nothing is lost, and everything flows when there is room again, without a restart.
//!
//! The spool of the node in question is a small file system of its own, so this needs root and a mount namespace:
//! `scripts/full/disk-full.sh` runs it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tram_tests::overlay::{Overlay, Ran, until};
use tram_tests::sim::Random;

use super::{HERE, PROGRAM};

const DISK: &str = "size=160m,mode=0700";
const DOCUMENT_BYTES: usize = 4 << 20;
/// More than such a disk holds.
const MANY: usize = 30;
/// How often another program takes the disk, and how many documents each of four senders has each time.
const TIMES: usize = 5;
const EACH: usize = 2;
const TO: &str = "vanban@central";
/// From when there is room again.
const PATIENCE: Duration = Duration::from_secs(120);

/// The way of the documents, and the names its nodes know each other by.
const NODES: [(&str, &str); 3] = [("NK", "ninh-kieu.can-tho"), ("CT", "can-tho"), ("C", "central")];

#[test]
#[ignore = "needs root: scripts/full/disk-full.sh runs it"]
fn the_senders_disk_is_full() {
    check_filled_by_documents(0);
    check_filled_by_another_program(0);
}

#[test]
#[ignore = "needs root: scripts/full/disk-full.sh runs it"]
fn a_relays_disk_is_full() {
    check_filled_by_documents(1);
    check_filled_by_another_program(1);
}

#[test]
#[ignore = "needs root: scripts/full/disk-full.sh runs it"]
fn the_destinations_disk_is_full() {
    check_filled_by_documents(2);
    check_filled_by_another_program(2);
}

/// Three nodes, of which one has a small disk, and what was accepted from applications.
struct Scene {
    overlay: Overlay,
    small: usize,
    accepted: Vec<String>,
}

/// Unmounts the small disk before its directory goes.
impl Drop for Scene {
    fn drop(&mut self) {
        NODES.iter().for_each(|(node, _)| self.overlay.kill(node));
        let ran = Ran::of(Command::new("umount").arg(self.spool()));
        assert!(ran.code == 0 || std::thread::panicking(), "{ran:?}");
    }
}

impl Scene {
    fn new(small: usize) -> Self {
        let mut overlay = Overlay::new(PROGRAM, HERE);
        let spool = overlay.path(NODES[small].0).join("spool");
        fs::create_dir_all(&spool).expect("made");
        let _ = Ran::of(Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&spool)).ok();
        overlay.init_central();
        overlay.join("CT", "can-tho", "province", None);
        overlay.join("NK", "ninh-kieu.can-tho", "commune", Some("CT"));
        for (node, parent) in [("CT", "central"), ("NK", "can-tho")] {
            overlay.run(node);
            overlay.await_link(node, parent);
        }
        Self { overlay, small, accepted: Vec::new() }
    }

    fn node(&self) -> &'static str {
        NODES[self.small].0
    }

    fn spool(&self) -> std::path::PathBuf {
        self.overlay.path(self.node()).join("spool")
    }

    /// Sends a document of this number from a node; its file's name if it was accepted. What is not, is to be tried again.
    fn try_send(&self, node: &str, number: usize) -> Option<String> {
        let name = format!("{node}-{number}.bin");
        let mut random = Random::new(number as u64);
        let bytes: Vec<u8> = (0..DOCUMENT_BYTES / 8).flat_map(|_| random.number().to_le_bytes()).collect();
        let ran = self.overlay.send(node, TO, &self.overlay.write(&name, &bytes), &[]);
        if ran.code == 0 {
            return Some(name);
        }
        assert_eq!(ran.code, 75, "{ran:?}");
        assert!(["spool_full", "hop_full"].iter().any(|word| ran.err.contains(word)), "{ran:?}");
        None
    }

    fn send(&mut self, node: &str, number: usize) -> bool {
        let accepted = self.try_send(node, number);
        self.accepted.extend(accepted.clone());
        accepted.is_some()
    }

    /// Receives everything that was accepted, and compares it.
    fn receive_all(&mut self) {
        if self.accepted.is_empty() {
            return;
        }
        let _ = self.overlay.recv("C", "out", self.accepted.len()).ok();
        for name in self.accepted.drain(..) {
            let [sent, came] = [self.overlay.path(&name), self.overlay.path("out").join(&name)];
            super::payloads::assert_same(&sent, &came);
            [sent, came].iter().for_each(|path| fs::remove_file(path).expect("removed"));
        }
        assert_eq!(self.overlay.recv_all("C", "out").ok(), "", "nothing else comes");
        assert_eq!(fs::read_dir(self.overlay.path("out")).expect("there").count(), 1, "only the ledger is left");
        self.overlay.await_done(&["NK", "CT", "C"], PATIENCE);
    }

    /// Sends are accepted again, and arrive.
    fn await_room(&mut self) {
        let node = self.node();
        let mut number = 2 * MANY * MANY;
        until("there is room again", PATIENCE, || {
            number += 1;
            self.send(node, number).then_some(())
        });
        self.receive_all();
    }
}

fn check_filled_by_documents(small: usize) {
    let mut scene = Scene::new(small);
    let node = scene.node();
    // With the next hop off, or nobody who receives, documents stay where they are.
    if let Some((next, _)) = NODES.get(small + 1) {
        scene.overlay.kill(next);
    }
    let pid = scene.overlay.pid(node);
    let full = (0..MANY).find(|number| !scene.send(node, *number)).expect("a full disk is noticed");
    assert!(full >= 3, "the spool took next to nothing");
    // What comes from below waits there.
    if small > 0 {
        (0..5).for_each(|number| assert!(scene.send("NK", MANY + number), "its own disk has room"));
    }
    for again in 0..3 {
        assert!(!scene.send(node, MANY + 5 + again), "a full spool takes nothing");
    }
    println!("{node}: {full} documents of 4 MiB filled the disk");
    if let Some((next, _)) = NODES.get(small + 1) {
        scene.overlay.run(next);
    }
    scene.receive_all();
    scene.await_room();
    assert_eq!(scene.overlay.pid(node), pid, "without a restart");
    assert_eq!(scene.overlay.ended(node), None);
}

fn check_filled_by_another_program(small: usize) {
    let mut scene = Scene::new(small);
    let node = scene.node();
    let pid = scene.overlay.pid(node);
    let mut random = Random::new(small as u64);
    let mut refused = 0;
    for time in 0..TIMES {
        let filler = scene.spool().join("core.12345");
        // Documents come in from applications and neighbours while the disk fills up to its last byte.
        let accepted: Vec<Option<String>> = thread::scope(|scope| {
            let senders = ["NK", "NK", node, node].into_iter().enumerate().map(|(sender, from)| {
                let (scene, first) = (&scene, (time * 4 + sender) * EACH);
                scope.spawn(move || (first..first + EACH).map(|n| scene.try_send(from, n)).collect::<Vec<_>>())
            });
            let senders: Vec<_> = senders.collect();
            thread::sleep(Duration::from_millis(random.below(500)));
            fill(&filler);
            let accepted: Vec<_> = senders.into_iter().map(|sender| sender.join().expect("it ends")).collect();
            accepted.into_iter().flatten().collect()
        });
        refused += accepted.iter().filter(|name| name.is_none()).count();
        scene.accepted.extend(accepted.into_iter().flatten());
        fill(&filler);
        assert!(!scene.send(node, MANY * MANY), "a full disk takes nothing");
        assert_eq!(scene.overlay.ended(node), None, "it waits for room");
        fs::remove_file(&filler).expect("removed");
        scene.receive_all();
    }
    println!("{node}: another program took the disk {TIMES} times; {refused} documents were refused");
    scene.await_room();
    assert_eq!(scene.overlay.pid(node), pid, "without a restart");
    assert_eq!(scene.overlay.ended(node), None);
}

/// Writes into a file until the disk has not a byte left.
fn fill(path: &Path) {
    let mut file = File::options().create(true).append(true).open(path).expect("opened");
    for bytes in [65_536, 512] {
        while file.write_all(&vec![1; bytes]).is_ok() {}
    }
}
