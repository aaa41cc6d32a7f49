//! Files of the pki directory: written whole or not at all, secrets for their owner only.
//!
//! A write goes to a temporary file beside the target, is synced, renamed over it, and the directory is synced; a crash
//! leaves the old file or the new one. A secret that others can read, or that is a symbolic link, is refused on
//! reading. `research/pki.md` §5 rows 20 and 21.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The largest file read from the pki directory, in bytes; a registry of 10,000 nodes takes 8 MiB.
pub(crate) const FILE_BYTES: u64 = 256 * 1024 * 1024;

/// Why a file of the pki directory could not be used. Every message names the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not there.
    #[error("{path} is missing: run `tramd init` or `tramd join`, or restore it from a backup", path = path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// A secret, or the directory that holds it, is open to others.
    #[error("{path} is open to other users (mode {mode:04o}): run `chmod {cure} {path}`, and if others could have read it, renew the key", path = path.display())]
    Exposed {
        /// Which file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits it should have, as text.
        cure: &'static str,
    },
    /// A secret belongs to someone else than the directory it is in.
    #[error("{path} belongs to user {owner}, its directory to user {expected}: run `chown {expected} {path}`", path = path.display())]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// The directory's.
        expected: u32,
    },
    /// A secret is a symbolic link or not a regular file.
    #[error("{path} is not a regular file: put the key itself there, not a link to it", path = path.display())]
    NotRegular {
        /// Which file.
        path: PathBuf,
    },
    /// It would be overwritten.
    #[error("{path} exists already: use another directory, or move the old one away first", path = path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// Far larger than anything this crate writes.
    #[error("{path} has {bytes} bytes, which is too large to be right", path = path.display())]
    Large {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}

pub(crate) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path },
        _ => FileError::Io { path, source },
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only its owner: mode 0600, checked when it is read.
    Secret,
    /// Anyone who can reach the directory: mode 0644.
    Public,
}

/// Makes `dir`, mode 0700, with its parents; an existing one is checked.
pub(crate) fn make_dir(dir: &Path) -> Result<(), FileError> {
    fs::create_dir_all(parent(dir)).map_err(io_at(dir))?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {
            File::open(dir).and_then(|made| adopt(&made, dir)).map_err(io_at(dir))?;
            sync_parent(dir)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io_at(dir)(error)),
    }
    check_dir(dir)
}

/// Refuses a directory in which others could put files.
pub(crate) fn check_dir(dir: &Path) -> Result<(), FileError> {
    let mode = fs::metadata(dir).map_err(io_at(dir))?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(FileError::Exposed { path: dir.to_owned(), mode, cure: "700" });
    }
    Ok(())
}

/// Refuses when there is something at `path`.
pub(crate) fn must_not_exist(path: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(FileError::Exists { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_at(path)(error)),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// Puts `bytes` at `path`, durably, in place of whatever was there.
pub(crate) fn write(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let temporary = temporary(path);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(&temporary)(error)),
        _ => {}
    }
    let mode = if access == Access::Secret { 0o600 } else { 0o644 };
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| adopt(&file, path).and_then(|()| file.write_all(bytes)).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // Best effort: the next write removes it too.
        let _ = fs::remove_file(&temporary);
        return Err(FileError::Io { path: path.to_owned(), source });
    }
    sync_parent(path)
}

/// Gives a new file to the owner of its directory: what root writes there must not shut the daemon's user out. Others
/// cannot give files away, and need not.
pub(crate) fn adopt(file: &File, path: &Path) -> io::Result<()> {
    let dir = fs::metadata(parent(path))?;
    if file.metadata()?.uid() == dir.uid() {
        return Ok(());
    }
    match std::os::unix::fs::fchown(file, Some(dir.uid()), Some(dir.gid())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        given => given,
    }
}

/// Removes a file, durably; one that is gone already is no fault.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(path)(error)),
        _ => {}
    }
    sync_parent(path)
}

/// Gives a file another name in its directory, durably, in place of whatever had it.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(io_at(from))?;
    sync_parent(to)
}

pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in `path`'s directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), FileError> {
    let dir = parent(path);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_at(dir))
}

/// Reads a whole file.
pub(crate) fn read(path: &Path, access: Access) -> Result<Vec<u8>, FileError> {
    let named = fs::symlink_metadata(path).map_err(io_at(path))?;
    if access == Access::Secret {
        let expected = fs::metadata(parent(path)).map_err(io_at(path))?.uid();
        if named.uid() != expected {
            return Err(FileError::Owner { path: path.to_owned(), owner: named.uid(), expected });
        }
    }
    let mut file = File::open(path).map_err(io_at(path))?;
    let opened = file.metadata().map_err(io_at(path))?;
    if access == Access::Secret {
        // The same file both times, so nobody swapped a link in between.
        let same = (named.dev(), named.ino()) == (opened.dev(), opened.ino());
        if !named.is_file() || !same {
            return Err(FileError::NotRegular { path: path.to_owned() });
        }
        let mode = opened.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(FileError::Exposed { path: path.to_owned(), mode, cure: "600" });
        }
    }
    if opened.len() > FILE_BYTES {
        return Err(FileError::Large { path: path.to_owned(), bytes: opened.len() });
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io_at(path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary directory")
    }

    #[track_caller]
    fn check(mode: u32, accepted: bool) {
        let dir = dir();
        let path = dir.path().join("node.key");
        write(&path, b"secret", Access::Secret).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        let got = read(&path, Access::Secret);
        assert_eq!(got.is_ok(), accepted, "{mode:o}: {got:?}");
        if let Err(error) = got {
            let text = error.to_string();
            assert!(text.contains(&format!("`chmod 600 {}`", path.display())), "{text}");
        }
    }

    #[test]
    fn a_secret_is_read_only_when_nobody_else_could() {
        for (mode, accepted) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o660, false), (0o644, false)]
        {
            check(mode, accepted);
        }
    }

    #[test]
    fn a_secret_is_created_for_its_owner_and_replaced_whole() {
        let dir = dir();
        let path = dir.path().join("k");
        // A crash between write and rename leaves a temporary file; it neither counts nor hinders.
        fs::write(temporary(&path), b"half").expect("left over");
        write(&path, b"one", Access::Secret).expect("written");
        write(&path, b"two", Access::Secret).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(read(&path, Access::Secret).expect("readable"), b"two");
        assert!(!temporary(&path).exists());
    }

    #[test]
    fn what_root_makes_in_the_directory_of_another_user_is_that_users() {
        let dir = dir();
        if fs::metadata(dir.path()).expect("there").uid() != 0 {
            eprintln!(
                "skipped: what_root_makes_in_the_directory_of_another_user_is_that_users, because this is not root"
            );
            return;
        }
        std::os::unix::fs::chown(dir.path(), Some(12_345), Some(12_345)).expect("given away");
        let (made, path) = (dir.path().join("pki"), dir.path().join("pki").join("ca.key"));
        make_dir(&made).expect("made");
        write(&path, b"secret", Access::Secret).expect("written");
        for path in [made, path] {
            assert_eq!(fs::metadata(&path).expect("there").uid(), 12_345, "{}", path.display());
        }
    }

    #[test]
    fn a_link_to_a_secret_is_refused() {
        let dir = dir();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        write(&real, b"secret", Access::Secret).expect("written");
        symlink(&real, &link).expect("linked");
        assert!(matches!(read(&link, Access::Secret), Err(FileError::NotRegular { .. })));
        assert!(matches!(must_not_exist(&link), Err(FileError::Exists { .. })));
    }

    #[test]
    fn a_directory_others_can_write_to_is_refused() {
        let dir = dir();
        let path = dir.path().join("a").join("pki");
        make_dir(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).expect("chmod");
        let text = make_dir(&path).expect_err("open to the group").to_string();
        assert!(text.contains("chmod 700"), "{text}");
    }

    #[test]
    fn a_missing_file_names_its_path_and_the_cure() {
        let text = read(Path::new("/nonexistent/root.pem"), Access::Public).expect_err("missing").to_string();
        assert!(text.contains("/nonexistent/root.pem") && text.contains("tramd init"), "{text}");
    }
}
