//! The demo's five daemons: real processes in a directory of their own.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tram_client::{Admin, Place, TokenNewRequest};

use super::broken;
use crate::clock::Clock;
use crate::command::Failure;

/// Directory, name, role, and the directory of the parent.
const TREE: [(&str, &str, &str, &str); 5] = [
    ("C", "central", "central", ""),
    ("CT", "can-tho", "province", "C"),
    ("AG", "an-giang", "province", "C"),
    ("NK", "ninh-kieu.can-tho", "district", "CT"),
    ("CD", "chau-doc.an-giang", "district", "AG"),
];
/// Starting, joining and linking five nodes has to be done in so long.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Overlay {
    dir: PathBuf,
    running: Vec<(String, Child)>,
    keep: bool,
    /// All went well: nothing is worth keeping.
    done: bool,
}

impl Overlay {
    /// Makes, joins, starts and links the nodes.
    pub(super) async fn start() -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("tram-demo-{}", std::process::id()));
        std::fs::create_dir(&dir).map_err(|e| broken(format!("{}: {e}", dir.display())))?;
        let mut overlay = Self { dir, running: Vec::new(), keep: false, done: false };
        let ports = free_ports(4)?;
        let listen = |at: usize| format!("127.0.0.1:{}", ports[at]);
        let init = ["init", "--zone", "tram.internal", "--name", "central", "--listen"].map(str::to_owned);
        let init = [init.as_slice(), &[listen(0), "--join-listen".to_owned(), listen(1)]].concat();
        overlay.tramd("C", &init)?;
        overlay.run("C")?;
        for (at, (dir, name, role, parent)) in TREE.iter().enumerate().skip(1) {
            let uplink = match *parent {
                "C" => String::new(),
                "CT" => format!("can-tho@{}", listen(2)),
                _ => format!("an-giang@{}", listen(3)),
            };
            let order = TokenNewRequest { name: (*name).into(), role: (*role).into(), ttl_ms: 0, uplink };
            let admin = Admin::connect(&overlay.place("C")).await.map_err(broken)?;
            let token = admin.new_token(order).await.map_err(broken)?.token;
            let file = overlay.dir.join(format!("{dir}.token"));
            std::fs::write(&file, token).map_err(broken)?;
            let file = file.display().to_string();
            let mut arguments = vec!["join".to_owned(), "--token-file".to_owned(), file];
            if *role == "province" {
                arguments.extend(["--listen".to_owned(), listen(at + 1)]);
            }
            overlay.tramd(dir, &arguments)?;
            overlay.run(dir)?;
        }
        overlay.linked().await?;
        Ok(overlay)
    }

    /// Waits until every node but the first has its uplink.
    async fn linked(&self) -> Result<(), Failure> {
        let give_up_ms = deadline(PATIENCE);
        for (dir, name, _, parent) in TREE.iter().skip(1) {
            let admin = Admin::connect(&self.place(dir)).await.map_err(broken)?;
            let parent = TREE.iter().find(|(d, ..)| d == parent).map_or("", |(_, n, ..)| n);
            while !admin.links().await.map_err(broken)?.iter().any(|l| l.peer == parent && l.state == "up") {
                if Clock::default().mono_ms() > give_up_ms {
                    return Err(broken(format!(
                        "{name} has no link after {PATIENCE:?}: see {}/{dir}.log",
                        self.dir.display()
                    )));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn place(&self, node: &str) -> Place {
        Place::dir(&self.dir.join(node))
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("C").join("pki").join("root.pem")
    }

    pub(super) fn nodes(&self) -> Vec<(PathBuf, &'static str)> {
        TREE.iter().map(|(dir, name, ..)| (self.dir.join(dir), *name)).collect()
    }

    fn command(&self, node: &str) -> Result<Command, Failure> {
        let mut command = Command::new(std::env::current_exe().map_err(broken)?);
        command.arg("--dir").arg(self.dir.join(node));
        Ok(command)
    }

    fn tramd(&self, node: &str, arguments: &[String]) -> Result<(), Failure> {
        let output = self.command(node)?.args(arguments).output().map_err(broken)?;
        if output.status.success() {
            return Ok(());
        }
        Err(broken(format!("tramd {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr))))
    }

    /// Starts a node's daemon; it logs to a file beside its directory.
    pub(super) fn run(&mut self, node: &str) -> Result<(), Failure> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join(format!("{node}.log")));
        let child = self
            .command(node)?
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(broken)?)
            .spawn()
            .map_err(broken)?;
        self.running.push((node.to_owned(), child));
        Ok(())
    }

    /// Kills a node's daemon with SIGKILL once so many bytes have come in over its links since now.
    pub(super) async fn kill_when_busy(&mut self, node: &str, bytes: u64, patience: Duration) -> Result<u64, Failure> {
        let give_up_ms = deadline(patience);
        let admin = Admin::connect(&self.place(node)).await.map_err(broken)?;
        let received = async || -> Result<u64, Failure> {
            Ok(admin.links().await.map_err(broken)?.iter().map(|l| l.received_bytes).sum())
        };
        let before = received().await?;
        loop {
            let had = received().await?.saturating_sub(before);
            if had >= bytes {
                self.kill(node)?;
                return Ok(had);
            }
            if Clock::default().mono_ms() > give_up_ms {
                return Err(broken(format!("{node} received only {had} bytes in {patience:?}")));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn kill(&mut self, node: &str) -> Result<(), Failure> {
        if let Some(at) = self.running.iter().position(|(n, _)| n == node) {
            let (_, mut child) = self.running.remove(at);
            child.kill().and_then(|()| child.wait()).map_err(broken)?;
        }
        Ok(())
    }

    pub(super) fn pid(&self, dir: &Path) -> u32 {
        let node = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        self.running.iter().find(|(n, _)| n == node).map_or(0, |(_, child)| child.id())
    }

    pub(super) fn pids(&self) -> Vec<String> {
        self.running.iter().map(|(_, child)| child.id().to_string()).collect()
    }

    pub(super) fn leave_running(&mut self) {
        self.keep = true;
    }

    /// Asks every daemon to stop, and waits.
    pub(super) async fn stop(mut self) {
        self.done = true;
        for (_, child) in &self.running {
            let pid = rustix::process::Pid::from_child(child);
            // One that is gone already needs no signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let give_up_ms = deadline(Duration::from_secs(10));
        while Clock::default().mono_ms() < give_up_ms
            && self.running.iter_mut().any(|(_, child)| matches!(child.try_wait(), Ok(None)))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.done {
            let _ = std::fs::remove_dir_all(&self.dir);
        } else {
            eprintln!("what the nodes said is in {}/*.log", self.dir.display());
        }
    }
}

fn deadline(patience: Duration) -> u64 {
    Clock::default().mono_ms() + u64::try_from(patience.as_millis()).unwrap_or(u64::MAX / 2)
}

fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    // All are held at once, so that they differ.
    let sockets: Result<Vec<UdpSocket>, _> = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0")).collect();
    let ports = sockets.map_err(broken)?.iter().map(|s| s.local_addr().map(|a| a.port())).collect::<Result<_, _>>();
    ports.map_err(broken)
}
