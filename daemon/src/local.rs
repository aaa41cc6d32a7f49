//! The local sockets: what applications and administrators on this machine may ask of the node.
//!
//! | module | owns |
//! |---|---|
//! | `sockets` | binding `app.sock` and `admin.sock` |
//! | [`access`], [`quota`] | who may do what, by peer credentials, and how much flash |
//! | `app`, `admin` | the two gRPC services, call by call |
//! | `submit`, `deliver` | payload in, payload out |
//! | `known`, `watch`, `trace`, `messages` | what became of messages |
//! | `plan` | what links may carry |
//! | [`pki`] | how certificates stand, and what an administrator orders about them |
//! | `gaps` | which numbers are missing in an inbox |
//! | `scrub` | reading the spool over |
//! | `command` | cancel, recall, status, and what administrators order |
//! | [`station`] | what this module needs of the rest of the daemon, beside engine and spool |
//! | `refusal` | how a "no" looks on the socket |
//!
//! Never decides about messages (the core does) and never holds a whole payload over the inline limit. Guarantees that
//! every call is judged by the credentials of the process that opened the connection. DESIGN §10; the windows are
//! measured in `research/ecosystem.md` §1.

pub mod access;
mod admin;
mod app;
mod command;
mod deliver;
mod gaps;
mod known;
mod messages;
pub mod pki;
mod plan;
pub mod quota;
mod refusal;
mod scrub;
mod sockets;
pub mod station;
mod submit;
mod trace;
mod watch;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch::{Receiver, channel};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::transport::Server;
use tram_proto::limits;
use tram_proto::local::admin_server::AdminServer;
use tram_proto::local::app_server::AppServer;

use crate::engine::handle::EngineHandle;
use crate::paths::Paths;
use crate::plan::Plan;
use crate::spool::Spool;

pub use sockets::{BindError, Sockets};

/// HTTP/2 windows and frame, in bytes: twice the throughput of the defaults.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const FRAME_BYTES: u32 = 1024 * 1024;
/// The largest request message, in bytes: a part and its frame, or a header with every field at its limit.
const REQUEST_BYTES: usize = limits::LOCAL_PART_BYTES + 512 * 1024;

/// What the two services work with. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    /// The engine.
    pub engine: EngineHandle,
    /// The spool.
    pub spool: Arc<dyn Spool>,
    /// What the daemon knows of this node beside the engine.
    pub station: Arc<dyn station::Station>,
    /// The PKI's registry and tokens; `None` on a node that issues no certificates.
    pub issuer: Option<Arc<dyn station::Issuer>>,
    /// Certificates, of this node and of others.
    pub pki: Arc<pki::PkiDoor>,
    /// Where the node's files are.
    pub paths: Paths,
    /// Reads the config again.
    pub reload: Arc<dyn station::Reload>,
    /// The rules in force; a reload sends new ones.
    pub access: Receiver<Arc<access::Access>>,
    /// The bandwidth plan in force.
    pub plan: Receiver<Arc<Plan>>,
    /// How much flash each user has sent.
    pub quotas: Arc<quota::Quotas>,
}

/// Serves both sockets until `stop` resolves, then ends open streams and returns. Removes the socket files.
///
/// # Errors
/// When accepting fails for good.
pub async fn serve(
    sockets: Sockets,
    door: Door,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (stopping, stopped) = channel(false);
    let app = AppServer::new(app::Service::new(door.clone(), stopped.clone())).max_decoding_message_size(REQUEST_BYTES);
    let admin = AdminServer::new(admin::Service::new(door, stopped.clone())).max_decoding_message_size(REQUEST_BYTES);
    let (files, app_socket, admin_socket) = sockets.into_parts();
    let app = server().serve_with_incoming_shutdown(app, UnixListenerStream::new(app_socket), until(stopped.clone()));
    let admin = server().serve_with_incoming_shutdown(admin, UnixListenerStream::new(admin_socket), until(stopped));
    let both = async { tokio::try_join!(app, admin) };
    tokio::pin!(both);
    let result = tokio::select! {
        result = &mut both => result,
        () = stop => {
            stopping.send_replace(true);
            both.await
        }
    };
    drop(files);
    result.map(|_| ())
}

/// Resolves when the sockets are to close.
async fn until(mut stopped: Receiver<bool>) {
    // The sender lives until both servers have ended.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Runs calls of the spool where they may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(refusal::broken)?
}

/// 16 random bytes that make a message unlike any other.
fn nonce() -> Result<[u8; 16], Status> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| refusal::broken("no randomness"))?;
    Ok(nonce)
}

fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
}
