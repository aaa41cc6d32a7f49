//! Where a node's sockets are, and how to reach a node that is just starting.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tram_proto::limits;

use crate::error::{Error, Kind, Refusal};

/// How long a node that was set up may take to open its sockets.
const STARTING: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(50);

/// HTTP/2 windows of the local sockets, in bytes: twice the throughput of the defaults (measured, research/ecosystem §1).
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const FRAME_BYTES: u32 = 1024 * 1024;

/// Where one node's sockets and configuration are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    sockets: PathBuf,
    config: PathBuf,
}

impl Place {
    /// The node of this machine: sockets in `/run/tram`, configuration in `/etc/tram`.
    #[must_use]
    pub fn system() -> Self {
        Self { sockets: "/run/tram".into(), config: "/etc/tram/tramd.toml".into() }
    }

    /// A node that keeps everything in one directory.
    #[must_use]
    pub fn dir(dir: &Path) -> Self {
        Self { sockets: dir.to_owned(), config: dir.join("tramd.toml") }
    }

    /// Opens a socket of the node.
    pub(crate) async fn open(&self, socket: &str) -> Result<Channel, Error> {
        let path = self.sockets.join(socket);
        let unreachable = |why: String| Error::Unreachable { path: path.clone(), why };
        let bytes = path.as_os_str().len();
        if bytes > limits::SOCKET_PATH_BYTES {
            let max = limits::SOCKET_PATH_BYTES;
            return Err(unreachable(format!(
                "the path has {bytes} bytes, a socket's may have {max}: use a shorter --dir"
            )));
        }
        let Some(text) = path.to_str() else {
            return Err(unreachable("the path is not UTF-8".to_owned()));
        };
        if let Err(error) = self.wait_for(&path).await {
            if error.kind() == io::ErrorKind::PermissionDenied {
                return Err(Error::Refused(Refusal {
                    code: "not_permitted".to_owned(),
                    message: format!(
                        "{}: {error}: this user may not open the socket; run it as the daemon's user or root",
                        path.display()
                    ),
                    retryable: false,
                    kind: Kind::NotPermitted,
                }));
            }
            return Err(unreachable(self.explain(&error)));
        }
        Endpoint::from_shared(format!("unix://{text}"))
            .map(|endpoint| {
                endpoint
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_frame_size(FRAME_BYTES)
            })
            .map_err(|error| unreachable(error.to_string()))?
            .connect()
            .await
            .map_err(|error| unreachable(error.to_string()))
    }

    /// Returns once somebody listens, or why nobody does.
    async fn wait_for(&self, path: &Path) -> io::Result<()> {
        let try_again = async {
            loop {
                match UnixStream::connect(path) {
                    Err(error) if absent(&error) && self.config.exists() => tokio::time::sleep(RETRY).await,
                    other => return other.map(drop),
                }
            }
        };
        match tokio::time::timeout(STARTING, try_again).await {
            Ok(result) => result,
            Err(_) => UnixStream::connect(path).map(drop),
        }
    }

    fn explain(&self, error: &io::Error) -> String {
        match error.kind() {
            _ if absent(error) && self.config.exists() => {
                format!("the daemon is not running ({error}): start it with `tramd run`, or see its log")
            }
            _ if absent(error) => {
                format!("there is no node ({} is missing): name its directory with --dir", self.config.display())
            }
            _ => error.to_string(),
        }
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
