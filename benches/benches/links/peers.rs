//! Other people's programs, where they are installed: started for a run, stopped after it, told apart by what they leave
//! on the disk.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tram_lab::{End, Lab, Namespace, address};

use crate::bytes::Fresh;

const SSH_PORT: &str = "2222";
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that ends with this.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self, String> {
        let program = format!("{command:?}");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.map(Self).map_err(|error| format!("{program}: {error}"))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended needs no signal.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command in a namespace, or here.
pub(crate) fn command(space: Option<&Namespace>, program: &str) -> Command {
    space.map_or_else(|| Command::new(program), |space| space.command(program))
}

/// Whether all these programs are there; else which is not.
pub(crate) fn installed(programs: &[&str]) -> Result<(), String> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // Daemons stand where a user's PATH may not lead.
    let places: Vec<PathBuf> = std::env::split_paths(&paths).chain(["/usr/sbin".into()]).collect();
    let missing = programs.iter().find(|program| !places.iter().any(|place| place.join(program).exists()));
    missing.map_or(Ok(()), |program| Err(format!("{program} is not installed")))
}

pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
}

/// A new random file.
pub(crate) fn file(path: &Path, bytes: u64) -> Result<(), String> {
    let named = |error: io::Error| format!("{}: {error}", path.display());
    let mut file = File::create(path).map_err(named)?;
    io::copy(&mut Fresh::new(bytes), &mut file).map_err(named)?;
    file.sync_all().map_err(named)
}

/// Bytes of the files in a folder.
pub(crate) fn held(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}

/// An SSH server for this run alone, and how to reach it.
pub(crate) struct Ssh {
    folder: tempfile::TempDir,
    _server: Running,
}

impl Ssh {
    pub(crate) fn start(space: Option<&Namespace>, at: Ipv4Addr) -> Result<Self, String> {
        installed(&["sshd", "ssh", "ssh-keygen", "rsync"])?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        for name in ["host", "user"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(name)]))?;
        }
        // sshd insists on it; a package's start script would make it.
        fs::create_dir_all("/run/sshd").map_err(|error| format!("/run/sshd: {error}"))?;
        let mut server = command(space, "/usr/sbin/sshd");
        server.args(["-D", "-f", "/dev/null", "-p", SSH_PORT]).arg("-h").arg(path("host"));
        for option in ["UsePAM=no", "StrictModes=no", "PermitRootLogin=yes", "PidFile=none"] {
            server.args(["-o", option]);
        }
        server.args(["-o", &format!("AuthorizedKeysFile={}", path("user.pub"))]);
        server.args(["-o", &format!("ListenAddress={at}")]);
        Ok(Self { _server: Running::start(&mut server)?, folder })
    }

    /// `rsync` of a file or folder to a path at the server.
    pub(crate) fn rsync(&self, space: Option<&Namespace>, from: &Path, at: Ipv4Addr, to: &Path) -> Command {
        let key = self.folder.path().join("user");
        let ssh = format!(
            "ssh -p {SSH_PORT} -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            key.display()
        );
        let mut rsync = command(space, "rsync");
        rsync.args(["-W", "--fsync", "-e", &ssh]).arg(from).arg(format!("root@{at}:{}/", to.display()));
        rsync
    }

    /// Waits until it answers.
    pub(crate) fn await_up(&self, space: Option<&Namespace>, at: Ipv4Addr) -> Result<(), String> {
        let nothing = self.folder.path().join("user.pub");
        let to = self.folder.path().join("try");
        fs::create_dir_all(&to).map_err(|error| error.to_string())?;
        let began = Instant::now();
        loop {
            match run(&mut self.rsync(space, &nothing, at, &to)) {
                Ok(()) => return Ok(()),
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

/// One file by rsync over ssh, whole and synced, the kernel's BBR below.
pub(crate) struct Rsync {
    folder: tempfile::TempDir,
    _ssh: Ssh,
    command: Command,
    bytes: u64,
    running: Option<Running>,
}

impl Rsync {
    pub(crate) fn prepare(lab: &Lab, from: End, bytes: u64) -> Result<Self, String> {
        let (near, far) = if from == End::Left { (0, 1) } else { (1, 0) };
        for (number, end) in [(0, End::Left), (1, End::Right)] {
            let own = address(0, end).to_string();
            let route =
                ["route", "change", "10.77.0.0/24", "dev", "line0", "proto", "kernel", "scope", "link", "src", &own];
            lab.space(number).ip(&[&route[..], &["congctl", "lock", "bbr"]].concat())?;
        }
        let at = address(0, if from == End::Left { End::Right } else { End::Left });
        let ssh = Ssh::start(Some(lab.space(far)), at)?;
        ssh.await_up(Some(lab.space(near)), at)?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (source, to) = (folder.path().join("document"), folder.path().join("there"));
        file(&source, bytes)?;
        fs::create_dir(&to).map_err(|error| error.to_string())?;
        let command = ssh.rsync(Some(lab.space(near)), &source, at, &to);
        Ok(Self { folder, _ssh: ssh, command, bytes, running: None })
    }

    pub(crate) fn start(&mut self) -> Result<(), String> {
        self.running = Some(Running::start(&mut self.command)?);
        Ok(())
    }

    /// What stands in the folder it writes to; all of it only when it has ended.
    pub(crate) fn received(&mut self) -> u64 {
        let held = held(&self.folder.path().join("there"));
        let ended = self.running.as_mut().is_some_and(Running::has_ended);
        if ended { held } else { held.min(self.bytes.saturating_sub(1)) }
    }
}
