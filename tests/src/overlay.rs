//! Real daemons for the end-to-end tests: processes in directories of their own, on free ports of this machine.
//!
//! Tests wait for conditions, each with a deadline, and never for time to pass. Every process that was started here is
//! killed when its [`Overlay`] goes; when the test failed, what the daemons said is printed first.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that a node should do at once.
pub const SOON: Duration = Duration::from_secs(30);
/// Pause between two looks at a condition.
pub const LOOK: Duration = Duration::from_millis(20);
/// Of each log, so many of the last lines are printed when a test failed.
const LOG_LINES: usize = 120;
/// Ports are taken below those that the kernel gives to client sockets: a killed node finds its own free again.
const PORTS: std::ops::Range<u32> = 12_000..32_000;
/// Ports that one test process may take before it begins anew.
const PORTS_EACH: u32 = 100;

static TAKEN: AtomicU32 = AtomicU32::new(0);
static HEAVY: Mutex<()> = Mutex::new(());

/// Held by tests that load the machine, so that they run one after the other.
pub fn heavy() -> MutexGuard<'static, ()> {
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A free UDP port at this address (`127.0.0.1` or `[::1]`).
///
/// # Panics
/// When none is free.
#[must_use]
pub fn free_port(host: &str) -> u16 {
    for _ in 0..PORTS.len() {
        let number = std::process::id().wrapping_mul(PORTS_EACH) + TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(PORTS.start + number % (PORTS.end - PORTS.start)).expect("below 32,000");
        if UdpSocket::bind(format!("{host}:{port}")).is_ok() {
            return port;
        }
    }
    panic!("no port is free at {host}");
}

/// Waits until `look` finds something.
///
/// # Panics
/// Naming `what`, when it has not come in time.
#[track_caller]
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < patience, "not in {patience:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl Ran {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("it starts");
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it printed, when it went well.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    #[must_use]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.trim_end().to_owned()
    }

    /// The JSON object it printed, when it went well.
    ///
    /// # Panics
    /// When it did not, or printed something else.
    #[track_caller]
    #[must_use]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Checks that it ended with this exit code, named all this on standard error, and did not panic.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn fails(&self, code: i32, naming: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for part in naming {
            assert!(self.err.contains(part), "{part:?} is missing: {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

/// Some nodes on this machine.
#[derive(Debug)]
pub struct Overlay {
    dir: tempfile::TempDir,
    program: PathBuf,
    host: &'static str,
    ports: BTreeMap<String, u16>,
    running: Mutex<BTreeMap<String, Child>>,
    kept: bool,
}

impl Overlay {
    /// An empty directory. `program` is this package's binary; `host` is where the nodes listen.
    ///
    /// # Panics
    /// When there is no room for a directory.
    #[must_use]
    pub fn new(program: &str, host: &'static str) -> Self {
        // In /tmp whatever TMPDIR says: the path of a Unix socket has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("tram-").tempdir_in("/tmp").expect("a directory");
        Self { dir, program: program.into(), host, ports: BTreeMap::new(), running: Mutex::default(), kept: false }
    }

    /// A first node, `C`, that runs.
    #[must_use]
    pub fn central(program: &str, host: &'static str) -> Self {
        let mut overlay = Self::new(program, host);
        overlay.init_central();
        overlay
    }

    /// Makes `C` the first node and runs it.
    pub fn init_central(&mut self) {
        let (listen, join) = (self.listen("C"), self.listen("join"));
        let init = ["--zone", "tram.internal", "--name", "central", "--listen", &listen, "--join-listen", &join];
        let _ = self.tramd("init", "C", &init).ok();
        self.run("C");
    }

    /// Central `C`, the provinces `CT` and `AG`, and their districts `NK` and `CD`: all joined, running and linked.
    #[must_use]
    pub fn tree(program: &str, host: &'static str) -> Self {
        let mut overlay = Self::central(program, host);
        overlay.join("CT", "can-tho", "province", None);
        overlay.join("AG", "an-giang", "province", None);
        overlay.join("NK", "ninh-kieu.can-tho", "district", Some("CT"));
        overlay.join("CD", "chau-doc.an-giang", "district", Some("AG"));
        for (node, parent) in [("CT", "central"), ("AG", "central"), ("NK", "can-tho"), ("CD", "an-giang")] {
            overlay.run(node);
            overlay.await_link(node, parent);
        }
        overlay
    }

    /// A commune `NK`, its province `CT`, central `C` and another province `AG`: a way of three hops, running and linked.
    #[must_use]
    pub fn line(program: &str, host: &'static str) -> Self {
        let mut overlay = Self::central(program, host);
        overlay.join("CT", "can-tho", "province", None);
        overlay.join("AG", "an-giang", "province", None);
        overlay.join("NK", "ninh-kieu.can-tho", "commune", Some("CT"));
        for (node, parent) in [("CT", "central"), ("AG", "central"), ("NK", "can-tho")] {
            overlay.run(node);
            overlay.await_link(node, parent);
        }
        overlay.await_known("C", "ninh-kieu.can-tho");
        overlay
    }

    /// Waits until a node has heard where another is.
    #[track_caller]
    pub fn await_known(&self, node: &str, other: &str) {
        until(&format!("{node} knows where {other} is"), SOON, || {
            let json = self.tram(node, &["node", "list", "--json"]).json();
            let nodes = json["nodes"].as_array().expect("a list");
            nodes.iter().any(|known| known["name"] == other && known["announced"] == true).then_some(())
        });
    }

    /// Makes a directory a node, with a token of `C`. It does not run yet. With a role of province it listens.
    pub fn join(&mut self, node: &str, name: &str, role: &str, uplink: Option<&str>) {
        let token = self.token(name, role, uplink, &[]);
        let listen = (role == "province").then(|| self.listen(node));
        let _ = self.join_with(node, &token, listen.as_deref()).ok();
    }

    /// A file with a token of `C` for a node of this name.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn token(&mut self, name: &str, role: &str, uplink: Option<&str>, more: &[&str]) -> PathBuf {
        let uplink = uplink.map(|parent| {
            let of = if parent == "CT" { "can-tho" } else { "an-giang" };
            format!("{of}@{}", self.listen(parent))
        });
        let mut arguments = vec!["token", "new", name, "--role", role];
        arguments.extend(uplink.iter().flat_map(|uplink| ["--uplink", uplink]));
        arguments.extend(more);
        let token = self.tram("C", &arguments).ok();
        self.write(format!("{name}.token"), token.as_bytes())
    }

    /// Runs `tramd join` in a node's directory.
    pub fn join_with(&self, node: &str, token: &Path, listen: Option<&str>) -> Ran {
        let mut arguments = vec![OsStr::new("--token-file"), token.as_os_str()];
        arguments.extend(listen.iter().flat_map(|listen| [OsStr::new("--listen"), OsStr::new(*listen)]));
        self.tramd("join", node, &arguments)
    }

    /// `IP:PORT` where a node listens.
    pub fn listen(&mut self, node: &str) -> String {
        let port = *self.ports.entry(node.to_owned()).or_insert_with(|| free_port(self.host));
        format!("{}:{port}", self.host)
    }

    /// A path beside the nodes' directories.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file beside the nodes' directories.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: impl AsRef<OsStr>, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name.as_ref());
        fs::write(&path, bytes).expect("written");
        path
    }

    /// The command `tram` for a node, with nothing after `--dir` yet.
    #[must_use]
    pub fn tram_command(&self, node: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("tram").arg("--dir").arg(self.path(node)).env_remove("TRAM_DIR");
        command
    }

    /// Runs `tram --dir NODE ...`.
    pub fn tram<S: AsRef<OsStr>>(&self, node: &str, arguments: &[S]) -> Ran {
        Ran::of(self.tram_command(node).args(arguments))
    }

    /// Sends a file; what `tram send` printed, with these options.
    pub fn send(&self, node: &str, to: &str, file: &Path, more: &[&str]) -> Ran {
        Ran::of(self.tram_command(node).args(["send", "--to", to]).args(more).arg(file))
    }

    /// Takes `count` messages from `vanban` into `out`, a directory beside the nodes'.
    pub fn recv(&self, node: &str, out: &str, count: usize) -> Ran {
        let count = count.to_string();
        let mut command = self.tram_command(node);
        command.args(["recv", "--inbox", "vanban", "--count", &count, "--timeout", "60s", "--out"]).arg(self.path(out));
        Ran::of(&mut command)
    }

    /// Takes what is in `vanban` now into `out`, a directory beside the nodes'.
    pub fn recv_all(&self, node: &str, out: &str) -> Ran {
        let mut command = self.tram_command(node);
        command.args(["recv", "--inbox", "vanban", "--timeout", "60s", "--out"]).arg(self.path(out));
        Ran::of(&mut command)
    }

    /// Runs `tramd COMMAND --dir NODE ...`.
    pub fn tramd<S: AsRef<OsStr>>(&self, command: &str, node: &str, arguments: &[S]) -> Ran {
        let mut tramd = Command::new(&self.program);
        tramd.arg("tramd").arg(command).arg("--dir").arg(self.path(node)).args(arguments).env_remove("TRAM_DIR");
        Ran::of(&mut tramd)
    }

    /// Starts a node's daemon and waits until it answers on its sockets.
    pub fn run(&self, node: &str) {
        let mut command = Command::new(&self.program);
        command.arg("tramd").arg("run").arg("--dir").arg(self.path(node));
        self.start(node, command);
    }

    /// Starts a node's daemon by way of another command, which runs what follows its arguments.
    ///
    /// # Panics
    /// When this program has no path.
    pub fn run_by(&self, node: &str, mut command: Command) {
        let program = fs::canonicalize(&self.program).expect("this program has a path");
        command.arg(program).arg("tramd").arg("run").arg("--dir").arg(self.path(node));
        self.start(node, command);
    }

    /// Starts a node whose clock is wrong by so much.
    pub fn run_at(&self, node: &str, offset_ms: i64) {
        let mut command = Command::new(&self.program);
        command.arg("tramd-at").arg(offset_ms.to_string()).arg("--dir").arg(self.path(node));
        self.start(node, command);
    }

    fn start(&self, node: &str, mut command: Command) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{node}.log")));
        command.env_remove("TRAM_DIR").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log"));
        let child = command.spawn().expect("it starts");
        let before = self.running().insert(node.to_owned(), child);
        assert!(before.is_none(), "{node} runs already");
        until(&format!("{node} answers"), SOON, || {
            let ended = self.running().get_mut(node).and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "{node} ended: {ended:?}\n{}", self.log(node));
            (self.tram(node, &["status", "--json"]).code == 0).then_some(())
        });
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process of a node's daemon.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self, node: &str) -> u32 {
        self.running().get(node).expect("it runs").id()
    }

    /// Kills a node's daemon, or what was kept under this name, with SIGKILL. One that has ended may be killed again.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&self, node: &str) {
        if let Some(mut child) = self.running().remove(node) {
            child.kill().and_then(|()| child.wait()).expect("killed");
        }
    }

    /// Keeps another process under a name, to be killed with the nodes.
    pub fn keep(&self, name: &str, child: Child) {
        self.running().insert(name.to_owned(), child);
    }

    /// Whether a process has ended, and with which exit code, if it was not killed.
    #[must_use]
    pub fn ended(&self, name: &str) -> Option<Option<i32>> {
        let mut running = self.running();
        let Some(child) = running.get_mut(name) else { return Some(None) };
        child.try_wait().expect("it is ours").map(|status| status.code())
    }

    /// Leaves the directory for a look when the test fails.
    pub const fn keep_when_failing(&mut self) {
        self.kept = true;
    }

    /// The most memory a node's daemon has had resident so far, in bytes (`VmHWM`).
    ///
    /// # Panics
    /// When the kernel does not say.
    #[must_use]
    pub fn peak_bytes(&self, node: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid(node))).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// What a node's daemon said so far, over all its lives.
    #[must_use]
    pub fn log(&self, node: &str) -> String {
        fs::read(self.path(&format!("{node}.log")))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Waits until a line of a node's log contains all this.
    #[track_caller]
    pub fn await_log(&self, node: &str, parts: &[&str]) -> String {
        until(&format!("a line with {parts:?} in the log of {node}"), SOON, || {
            let log = self.log(node);
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    }

    /// Waits until a node's link to this peer is up.
    #[track_caller]
    pub fn await_link(&self, node: &str, peer: &str) {
        until(&format!("{node} has a link to {peer}"), SOON, || self.has_link(node, peer).then_some(()));
    }

    /// Whether a node's link to this peer is up.
    #[must_use]
    pub fn has_link(&self, node: &str, peer: &str) -> bool {
        self.links(node).iter().any(|link| link["peer"] == peer && link["state"] == "up")
    }

    /// What `tram link list --json` says.
    ///
    /// # Panics
    /// When it says something else.
    #[track_caller]
    #[must_use]
    pub fn links(&self, node: &str) -> Vec<Value> {
        let json = self.tram(node, &["link", "list", "--json"]).json();
        json["links"].as_array().expect("a list").clone()
    }

    /// Waits until these nodes are done with every message and receipt they had.
    #[track_caller]
    pub fn await_done(&self, nodes: &[&str], patience: Duration) {
        until(&format!("{nodes:?} are done with all messages"), patience, || {
            let done = |node: &&str| {
                let status = self.tram(node, &["status", "--json"]).json();
                status["spool"]["messages"] == 0 && status["spool"]["receipts"] == 0
            };
            nodes.iter().all(done).then_some(())
        });
    }

    /// How many messages wait at a node for this next hop.
    #[must_use]
    pub fn waiting(&self, node: &str, next_hop: &str) -> u64 {
        let json = self.tram(node, &["queue", "list", "--json"]).json();
        let queues = json["queues"].as_array().expect("a list");
        queues.iter().filter(|q| q["next_hop"] == next_hop).filter_map(|q| q["messages"].as_u64()).sum()
    }

    /// Changes a node's config, read at its next start.
    ///
    /// # Panics
    /// When it cannot be read or written.
    pub fn reconfigure(&self, node: &str, change: impl FnOnce(String) -> String) {
        let path = self.path(node).join("tramd.toml");
        let text = fs::read_to_string(&path).expect("a config");
        fs::write(path, change(text)).expect("written");
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        for child in self.running().values_mut() {
            // One that has ended needs no signal.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            if self.kept {
                self.dir.disable_cleanup(true);
                eprintln!("kept: {}", self.dir.path().display());
            }
            let mut logs: Vec<PathBuf> = fs::read_dir(self.dir.path())
                .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
                .unwrap_or_default();
            logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
            logs.sort();
            for path in logs {
                let log = fs::read(&path).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines.len().saturating_sub(LOG_LINES);
                eprintln!("--- {}, from line {}\n{}", path.display(), last + 1, lines[last..].join("\n"));
            }
        }
    }
}
