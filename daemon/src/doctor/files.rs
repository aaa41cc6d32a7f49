//! Owners, permissions and what was left behind in the node's directories.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tram_pki::keystore::{CA_KEY, NODE_KEY, NODE_KEY_NEXT, QUIC_RESET_KEY, QUIC_TOKEN_KEY, ROOT_KEY};

use super::{Chart, Finding};
use crate::clock::Clock;
use crate::paths::Paths;

/// Files that hold secrets.
const SECRETS: [&str; 6] = [ROOT_KEY, CA_KEY, NODE_KEY, NODE_KEY_NEXT, QUIC_RESET_KEY, QUIC_TOKEN_KEY];
/// Endings of what editors, packages and half-done writes leave.
const LEFTOVERS: [&str; 8] = [".tmp", ".new", ".bak", ".old", ".orig", "~", ".dpkg-old", ".dpkg-new"];
/// What a write needs for a moment is no leftover before this age, in milliseconds.
const OLD_MS: u64 = 3_600_000;
/// A key for the next certificate waits no longer than this, in milliseconds.
const STAGED_MS: u64 = 7 * 24 * OLD_MS;
/// A file may be newer than the clock by so much, in milliseconds.
const AHEAD_MS: u64 = 300_000;

pub(super) fn look(paths: &Paths, running: bool, clock: Clock, chart: &mut Chart) {
    let now_ms = clock.wall_ms();
    let Some(owner) = look_at_pki(&paths.pki, now_ms, chart) else { return };
    look_at_spool(&paths.spool, owner, now_ms, chart);
    if let Ok(about) = fs::metadata(&paths.config) {
        check_mode(&paths.config, &about, 0o022, 0o644, chart);
    }
    for (path, about) in entries(&paths.conf_d) {
        if about.is_file() && path.extension().is_none_or(|ending| ending != "toml") {
            chart.add(Finding::ConfigIgnored(path));
        } else {
            check_mode(&path, &about, 0o022, 0o644, chart);
        }
    }
    let sockets = ["app.sock", "admin.sock"].map(|name| paths.run.join(name));
    if let Ok(about) = fs::symlink_metadata(&sockets[1]) {
        check_mode(&sockets[1], &about, 0o007, 0o600, chart);
    }
    if !running {
        sockets.into_iter().filter(|path| path.exists()).for_each(|path| chart.add(Finding::Leftover(path)));
    }
}

/// Answers who owns the keys, and with them the node.
fn look_at_pki(pki: &Path, now_ms: u64, chart: &mut Chart) -> Option<u32> {
    let Ok(about) = fs::metadata(pki) else {
        chart.add(Finding::Missing(pki.to_owned()));
        return None;
    };
    let owner = about.uid();
    check_mode(pki, &about, 0o077, 0o700, chart);
    for (path, about) in entries(pki) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        check_owner(&path, about.uid(), owner, chart);
        if SECRETS.contains(&name.as_str()) {
            check_mode(&path, &about, 0o077, 0o600, chart);
        }
        let age_ms = now_ms.saturating_sub(changed_ms(&about));
        let staged = name == NODE_KEY_NEXT && age_ms > STAGED_MS;
        if staged || is_leftover(&name, age_ms) {
            chart.add(Finding::Leftover(path.clone()));
        }
        let ahead_ms = changed_ms(&about).saturating_sub(now_ms);
        if ahead_ms > AHEAD_MS {
            chart.add(Finding::ClockBehind(path, ahead_ms / 1000));
        }
    }
    Some(owner)
}

fn look_at_spool(spool: &Path, owner: u32, now_ms: u64, chart: &mut Chart) {
    let Ok(about) = fs::metadata(spool) else {
        // The first start makes it.
        return;
    };
    check_mode(spool, &about, 0o077, 0o700, chart);
    for (path, about) in std::iter::once((spool.to_owned(), about)).chain(entries(spool)) {
        check_owner(&path, about.uid(), owner, chart);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if is_leftover(&name, now_ms.saturating_sub(changed_ms(&about))) {
            chart.add(Finding::Leftover(path));
        }
    }
}

pub(super) fn check_owner(path: &Path, uid: u32, owner: u32, chart: &mut Chart) {
    if uid != owner {
        chart.add(Finding::Owner(path.to_owned(), uid, owner));
    }
}

fn is_leftover(name: &str, age_ms: u64) -> bool {
    age_ms > OLD_MS && LEFTOVERS.iter().any(|ending| name.ends_with(ending))
}

fn entries(dir: &Path) -> Vec<(PathBuf, Metadata)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<_> =
        entries.filter_map(|entry| Some((entry.path(), fs::symlink_metadata(entry.path()).ok()?))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn changed_ms(about: &Metadata) -> u64 {
    u64::try_from(about.mtime()).unwrap_or(0).saturating_mul(1000)
}

fn check_mode(path: &Path, about: &Metadata, not: u32, right: u32, chart: &mut Chart) {
    let mode = about.permissions().mode() & 0o7777;
    if mode & not != 0 && !about.file_type().is_symlink() {
        chart.add(Finding::Mode(path.to_owned(), mode, right));
    }
}
