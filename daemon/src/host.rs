//! A node in the system's places: its files belong to user `tram`, and systemd runs it.
//!
//! What root types there is done as that user, so nothing is left that the daemon could not read, and no file that the
//! daemon's user put there is ever followed or changed with root's rights. With `--dir` nothing of this happens.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Gid, Uid, User, setegid, seteuid};

use crate::command::{Failure, exit};
use crate::paths::Paths;
use crate::setup::make_dir;

/// Whose the system's node is.
const USER: &str = "tram";
/// The unit that runs it.
const UNIT: &str = "tramd.service";

/// While this lives, what root does is done as user `tram`.
#[derive(Debug)]
pub(crate) struct AsDaemon(());

impl AsDaemon {
    /// Begins, where root works on the system's node; `None` elsewhere.
    ///
    /// # Errors
    /// There is no such user, or the system refuses.
    pub(crate) fn begin(paths: &Paths) -> Result<Option<Self>, Failure> {
        if !works_for_system(paths) {
            return Ok(None);
        }
        let user = user()?;
        become_user(user.uid, user.gid)?;
        Ok(Some(Self(())))
    }

    /// The same with the directories made, which only root can.
    ///
    /// # Errors
    /// As [`Self::begin`], or a directory cannot be made.
    pub(crate) fn begin_with_directories(paths: &Paths) -> Result<Option<Self>, Failure> {
        if works_for_system(paths) {
            let user = user()?;
            let above = [paths.config.parent(), paths.pki.parent(), Some(paths.run.as_path())];
            for dir in above.into_iter().flatten() {
                // Their parents are root's, so nobody can put a link here meanwhile.
                let made = make_dir(dir, 0o711);
                let given = made.and_then(|()| chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())));
                given.map_err(|e| Failure::new(exit::IO, format!("cannot make {}: {e}", dir.display())))?;
            }
        }
        Self::begin(paths)
    }
}

impl Drop for AsDaemon {
    fn drop(&mut self) {
        // Root may always become root again.
        let _ = seteuid(Uid::from_raw(0)).and_then(|()| setegid(Gid::from_raw(0)));
    }
}

fn works_for_system(paths: &Paths) -> bool {
    paths.is_system() && Uid::effective().is_root()
}

fn user() -> Result<User, Failure> {
    let found =
        User::from_name(USER).map_err(|e| Failure::new(exit::IO, format!("cannot look up user {USER}: {e}")))?;
    found.ok_or_else(|| {
        let cure = "install the package, or make it (`useradd --system --user-group --home-dir /var/lib/tram --shell /usr/sbin/nologin tram`), or give the node a --dir of its own";
        Failure::new(exit::NO, format!("this machine has no user {USER}, whose the node is to be: {cure}"))
    })
}

fn become_user(uid: Uid, gid: Gid) -> Result<(), Failure> {
    let become_it = setegid(gid).and_then(|()| seteuid(uid));
    become_it.map_err(|e| Failure::new(exit::NOT_PERMITTED, format!("cannot act as user {USER}: {e}")))
}

/// Starts a node that is set up, now and at every start of the machine, where root asks for the system's node and
/// systemd runs; elsewhere says what to type.
///
/// # Errors
/// systemd did not start it.
pub(crate) fn start(paths: &Paths) -> Result<i32, Failure> {
    if !works_for_system(paths) {
        eprintln!("start it: tramd{} run", paths.option);
        return Ok(exit::OK);
    }
    let by_hand = format!("systemctl enable --now {UNIT}");
    if !Path::new("/run/systemd/system").exists() {
        eprintln!("start it: {by_hand} (without systemd: runuser -u {USER} -- tramd run)");
        return Ok(exit::OK);
    }
    let started = Command::new("systemctl").args(["--quiet", "enable", "--now", UNIT]).status();
    if started.is_ok_and(|status| status.success()) {
        eprintln!("it runs, also after the next start of the machine: tram status");
        return Ok(exit::OK);
    }
    let why = format!("the node is set up, but systemd did not start it: see `journalctl -u {UNIT}`, then {by_hand}");
    Err(Failure::new(exit::UNREACHABLE, why))
}
