//! Binds the sockets: fresh ones, never another daemon's.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use tram_proto::limits;

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The kernel takes no path of this length.
    #[error(
        "the socket path {path} has {bytes} bytes, the kernel allows {max}: use a shorter --dir",
        path = path.display(), max = limits::SOCKET_PATH_BYTES
    )]
    Long {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// Somebody answers there.
    #[error("another daemon listens on {path}: only one may use a directory", path = path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else stands there.
    #[error("{path} is in the way: it is not a socket, move it elsewhere", path = path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot listen on {path}: {source}", path = path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Both sockets, bound.
#[derive(Debug)]
pub struct Sockets {
    app: UnixListener,
    admin: UnixListener,
    files: Files,
}

/// The socket files; removed when dropped.
#[derive(Debug)]
pub(super) struct Files(Vec<PathBuf>);

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            // A file that stays behind is found stale and removed at the next start.
            let _ = fs::remove_file(path);
        }
    }
}

impl Sockets {
    /// Binds `app.sock` and `admin.sock` in `dir`. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(dir: &Path) -> Result<Self, BindError> {
        let mut files = Files(Vec::new());
        // Credentials decide about applications; administrators are kept out by the file's mode as well.
        let app = bind(dir.join("app.sock"), 0o666, &mut files)?;
        let admin = bind(dir.join("admin.sock"), 0o600, &mut files)?;
        Ok(Self { app, admin, files })
    }

    pub(super) fn into_parts(self) -> (Files, UnixListener, UnixListener) {
        (self.files, self.app, self.admin)
    }
}

fn bind(path: PathBuf, mode: u32, files: &mut Files) -> Result<UnixListener, BindError> {
    let bytes = path.as_os_str().len();
    if bytes > limits::SOCKET_PATH_BYTES {
        return Err(BindError::Long { path, bytes });
    }
    remove_stale(&path)?;
    let at = |source| BindError::Io { path: path.clone(), source };
    let listener = UnixListener::bind(&path).map_err(at)?;
    files.0.push(path.clone());
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(at)?;
    Ok(listener)
}

/// Removes the socket of a daemon that is gone. The spool's lock keeps two starting daemons from meeting here.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let at = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(at),
        Err(error) => Err(at(error)),
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = Sockets::bind(dir.path()).expect("binds");
        assert_eq!((mode(&dir.path().join("app.sock")), mode(&dir.path().join("admin.sock"))), (0o666, 0o600));
        assert!(matches!(Sockets::bind(dir.path()), Err(BindError::InUse { .. })));
        drop(first);
        assert!(!dir.path().join("app.sock").exists());
        // As after kill -9: nobody listens, the file is there.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("app.sock")).expect("binds"));
        assert!(dir.path().join("app.sock").exists());
        drop(Sockets::bind(dir.path()).expect("replaces"));
        fs::write(dir.path().join("admin.sock"), b"").expect("written");
        assert!(matches!(Sockets::bind(dir.path()), Err(BindError::NotASocket { .. })));
    }

    #[tokio::test]
    async fn an_overlong_path_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let long = dir.path().join("x".repeat(100));
        let text = Sockets::bind(&long).expect_err("too long").to_string();
        assert!(text.contains("shorter --dir") && text.contains("107"), "{text}");
    }
}
