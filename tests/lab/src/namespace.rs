//! Network namespaces, made with `ip` and taken away when dropped.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::tun;

/// Packets that the kernel holds until the emulator reads them: more than any sender's window, so that it drops none.
const TUN_QUEUE: &str = "20000";
/// What TCP may buffer, so that a baseline is not held back by its window: as much as ours may use.
const TCP_BUFFERS: &str = "4096 131072 67108864";

static MADE: AtomicU32 = AtomicU32::new(0);

/// A network of its own, with nothing but loopback at first.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// # Errors
    /// What `ip` says.
    pub(crate) fn new(number: usize) -> Result<Self, String> {
        sweep();
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("tramlab-{}-{made}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        let space = Self { name };
        space.ip(&["link", "set", "lo", "up"])?;
        for kind in ["tcp_rmem", "tcp_wmem"] {
            let path = format!("/proc/sys/net/ipv4/{kind}");
            let written =
                space.inside(move || std::fs::write(&path, TCP_BUFFERS).map_err(|e| format!("{path}: {e}")))?;
            written?;
        }
        Ok(space)
    }

    /// As `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs in here; its process is the program itself.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` in here, in a thread of its own. A socket it opens stays here wherever it is used.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, String> {
        let path = format!("/run/netns/{}", self.name);
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
                    .map_err(|error| format!("cannot enter {path}: {error}"))?;
                Ok(work())
            });
            entered.join().map_err(|_| "the thread in the namespace failed".to_owned())?
        })
    }

    /// A TUN device with this address in a network of 256.
    pub(crate) fn tunnel(&self, device: &str, address: Ipv4Addr) -> Result<File, String> {
        let file = self.inside(|| tun::open(device))?.map_err(|error| format!("/dev/net/tun: {error}"))?;
        self.ip(&["addr", "add", &format!("{address}/24"), "dev", device])?;
        self.ip(&["link", "set", device, "up", "mtu", "1500", "txqueuelen", TUN_QUEUE])?;
        Ok(file)
    }

    /// Runs `ip` in here.
    ///
    /// # Errors
    /// What it says.
    pub fn ip(&self, arguments: &[&str]) -> Result<(), String> {
        ip(&[&["-n", &self.name], arguments].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What cannot be deleted is swept by the next run.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let run = Command::new("ip").args(arguments).output();
    let output = run.map_err(|error| format!("cannot run ip (package iproute2): {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {}", arguments.join(" "), said.trim())) }
}

/// Takes away what labs left that were killed.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let owner = name.strip_prefix("tramlab-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}
