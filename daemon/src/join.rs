//! Joining over the network: the join port of a node with a CA, and the new node's side of the one exchange.
//!
//! The server shows its certificate and asks for none; the request proves the token's secret on this very channel. One
//! stream, one request, one answer, ten seconds. Never judges a request or an answer: that is the PKI's affair. DESIGN
//! §3; `research/pki.md` §4 "Join".

pub mod forward;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, EndpointConfig, IdleTimeout, RecvStream, SendStream, TokioRuntime, TransportConfig,
    VarInt,
};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tram_pki::enrol::{Exporter, JoinError, Joined, Joining};
use tram_pki::verify;
use tram_proto::error::WireError;
use tram_proto::frame::{LENGTH_BYTES, frame_length};
use tram_proto::join::{Answer, EXPORTER, HostPort, Request};
use tram_proto::limits::JOIN_FRAME_BYTES;

use crate::clock::Clock;
use crate::link::endpoint::{self, QuicKeys};
use crate::link::explain;

/// The whole exchange, handshake included, may take so long.
const EXCHANGE: Duration = Duration::from_secs(10);
/// An address that does not answer in so long is given up.
const CONNECT: Duration = Duration::from_secs(5);
/// A joining machine has so long to take its answer.
const TAKE: Duration = Duration::from_secs(2);
/// Exchanges at once, and of those from one address: an office behind one NAT may set up several machines.
const AT_ONCE: usize = 64;
const AT_ONCE_FROM_ONE: usize = 16;
/// From so many on, strangers first have to show that they receive at their address.
const UNPROVEN: usize = 16;
/// Dials of one address while the server says that it is busy, and the pause between them.
const DIALS: u32 = 5;
const BUSY: Duration = Duration::from_millis(500);
/// Pause between dialling one address of a name and the next.
const STAGGER: Duration = Duration::from_millis(500);
/// Code of the QUIC close for a request that cannot be read.
const BAD_REQUEST: VarInt = VarInt::from_u32(6);

/// Decides about a request that came over the channel with this exporter. It may block.
pub type Answering = Arc<dyn Fn(&Request, &Exporter, SocketAddr) -> Answer + Send + Sync>;
/// Makes the server's TLS configuration, anew for each handshake.
pub type ServerTls = Arc<dyn Fn() -> Result<rustls::ServerConfig, String> + Send + Sync>;

/// Why a join stopped on the network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinFailure {
    /// No address led to the join server.
    #[error("cannot join: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// The channel could not be set up on this side.
    #[error("cannot join: {0}")]
    Local(String),
    /// The exchange broke off. The same token and key may try again.
    #[error("the join server at {address} broke off: {why}; try again with the same token")]
    BrokenOff {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// The server's answer cannot be read.
    #[error("the join server's answer cannot be read: {0}")]
    Answer(#[from] WireError),
    /// The server refused, or its answer was not accepted.
    #[error(transparent)]
    Join(#[from] JoinError),
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(IdleTimeout::try_from(EXCHANGE).ok())
        .max_concurrent_bidi_streams(1u32.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(VarInt::from_u32(JOIN_FRAME_BYTES as u32 + 1024))
        .datagram_receive_buffer_size(None)
        .allow_spin(false);
    Arc::new(transport)
}

/// A join port. It closes when this is dropped.
#[derive(Debug)]
pub struct JoinServer {
    endpoint: quinn::Endpoint,
    task: AbortHandle,
}

impl JoinServer {
    /// Opens the port. Must be called within the runtime.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn open(listen: SocketAddr, keys: QuicKeys, tls: ServerTls, answering: Answering) -> Result<Self, String> {
        let named = |error: std::io::Error| format!("cannot open UDP {listen} for joining: {error}");
        let first = configure(&tls, &keys)?;
        let socket = endpoint::socket(listen).map_err(named)?;
        let endpoint = quinn::Endpoint::new(EndpointConfig::default(), Some(first), socket, Arc::new(TokioRuntime));
        let endpoint = endpoint.map_err(named)?;
        let task = tokio::spawn(accept(endpoint.clone(), keys, tls, answering)).abort_handle();
        Ok(Self { endpoint, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn listens_at(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }
}

impl Drop for JoinServer {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"the join port closes");
        self.task.abort();
    }
}

fn configure(tls: &ServerTls, keys: &QuicKeys) -> Result<quinn::ServerConfig, String> {
    let mut config = endpoint::server(tls()?, keys)?;
    config.transport_config(transport());
    Ok(config)
}

/// How many exchanges each address has under way.
#[derive(Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

impl Sources {
    fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Inside> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= AT_ONCE_FROM_ONE {
            return None;
        }
        *count += 1;
        Some(Inside(self.clone(), source))
    }
}

struct Inside(Arc<Sources>, IpAddr);

impl Drop for Inside {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

async fn accept(endpoint: quinn::Endpoint, keys: QuicKeys, tls: ServerTls, answering: Answering) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let sources = Arc::new(Sources::default());
    let mut exchanges = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => incoming,
                None => return,
            },
            Some(_) = exchanges.join_next() => continue,
        };
        let remote = incoming.remote_address();
        if places.available_permits() < AT_ONCE - UNPROVEN
            && incoming.may_retry()
            && !incoming.remote_address_validated()
        {
            let _ = incoming.retry();
            continue;
        }
        let inside = sources.enter(remote.ip()).zip(places.clone().try_acquire_owned().ok());
        let (Some(inside), Ok(config)) = (inside, configure(&tls, &keys)) else {
            incoming.refuse();
            continue;
        };
        let Ok(connecting) = incoming.accept_with(Arc::new(config)) else { continue };
        let answering = answering.clone();
        exchanges.spawn(async move {
            let served = async {
                let connection = connecting.await.map_err(|error| explain(&error))?;
                serve(&connection, remote, answering).await
            };
            if let Err(why) = timeout(EXCHANGE, served).await.unwrap_or(Err("it took too long".to_owned())) {
                tracing::warn!(%remote, "join broke off: {why}");
            }
            drop(inside);
        });
    }
}

async fn serve(connection: &Connection, remote: SocketAddr, answering: Answering) -> Result<(), String> {
    let (mut send, mut recv) = connection.accept_bi().await.map_err(|error| explain(&error))?;
    let read = read(&mut recv).await.and_then(|bytes| Request::decode(bytes).map_err(|error| error.to_string()));
    let request = read.inspect_err(|why| connection.close(BAD_REQUEST, why.as_bytes()))?;
    let exporter = exporter(connection)?;
    let decide = tokio::task::spawn_blocking(move || answering(&request, &exporter, remote));
    let answer = decide.await.map_err(|error| error.to_string())?;
    write(&mut send, &answer.encode()).await?;
    // The new machine closes when it has the answer; should it not, the answer has had its time.
    let _ = timeout(TAKE, connection.closed()).await;
    Ok(())
}

fn exporter(connection: &Connection) -> Result<Exporter, String> {
    let mut exporter = Exporter::default();
    let exported = connection.export_keying_material(&mut exporter, EXPORTER, b"");
    exported.map(|()| exporter).map_err(|_| "the channel gives no key material".to_owned())
}

async fn read(recv: &mut RecvStream) -> Result<Bytes, String> {
    let mut field = [0; LENGTH_BYTES];
    recv.read_exact(&mut field).await.map_err(|error| error.to_string())?;
    let length = frame_length(field, JOIN_FRAME_BYTES).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; length];
    recv.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
    Ok(bytes.into())
}

async fn write(send: &mut SendStream, message: &[u8]) -> Result<(), String> {
    let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + message.len());
    bytes.put_u32(u32::try_from(message.len()).map_err(|error| error.to_string())?);
    bytes.put(message);
    send.write_chunk(bytes.freeze()).await.map_err(|error| error.to_string())?;
    send.finish().map_err(|error| error.to_string())
}

/// Joins: dials the token's addresses in order, proves the token, and checks what comes back. Nothing is installed.
///
/// # Errors
/// [`JoinFailure`] names the address, the cause, and both clocks where they matter.
pub async fn join(joining: &Joining, version: &str, clock: Clock) -> Result<Joined, JoinFailure> {
    let token = joining.token();
    let tls = verify::join_client(token.root, &token.zone, clock.for_pki());
    let tls = tls.map_err(|error| JoinFailure::Local(error.to_string()))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| JoinFailure::Local(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    let mut failed = Vec::new();
    for address in &token.join {
        match dial(address, &config).await {
            Ok((endpoint, connection)) => {
                let asked = timeout(EXCHANGE, ask(joining, &connection, version, clock)).await;
                connection.close(VarInt::from_u32(0), b"");
                let answer = asked.unwrap_or_else(|_| Err("no answer came in time".to_owned()));
                // The close has to leave this machine before the socket does.
                let _ = timeout(Duration::from_millis(200), endpoint.wait_idle()).await;
                let answer = answer.map_err(|why| JoinFailure::BrokenOff { address: address.to_string(), why })?;
                return Ok(joining.accept(Answer::decode(answer)?, clock.wall_ms())?);
            }
            Err(why) => failed.push(format!("{address}: {why}")),
        }
    }
    Err(JoinFailure::Unreachable(failed))
}

async fn ask(joining: &Joining, connection: &Connection, version: &str, clock: Clock) -> Result<Bytes, String> {
    let exchanged = async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
        let request = joining.request(&exporter(connection)?, version, clock.wall_ms());
        write(&mut send, &request.encode()).await?;
        read(&mut recv).await
    };
    exchanged.await.map_err(|why| connection.close_reason().map_or(why, |error| explain(&error)))
}

type Dialled = (quinn::Endpoint, Connection);

/// Why an address did not lead to the server.
enum NotDialled {
    Busy,
    No(String),
}

/// Dials every address of a name, which takes at most [`CONNECT`] unless somebody there is busy.
async fn dial(address: &HostPort, config: &ClientConfig) -> Result<Dialled, String> {
    let mut dials = 0;
    loop {
        dials += 1;
        let mut tried = Vec::new();
        match timeout(CONNECT, dial_once(address, config, &mut tried)).await {
            Ok(Ok(dialled)) => return Ok(dialled),
            Ok(Err(NotDialled::Busy)) if dials < DIALS => tokio::time::sleep(BUSY * dials).await,
            Ok(Err(NotDialled::Busy)) => return Err("too many machines join there just now: try again".to_owned()),
            Ok(Err(NotDialled::No(why))) => return Err(why),
            Err(_) if tried.is_empty() => {
                return Err(format!(
                    "its name is not resolved within {} s: check this machine's DNS",
                    CONNECT.as_secs()
                ));
            }
            Err(_) => {
                tried.retain(|remote| remote.to_string() != address.as_str());
                let tried: Vec<String> = tried.iter().map(ToString::to_string).collect();
                let of = if tried.is_empty() { String::new() } else { format!(" at {}", tried.join(", ")) };
                return Err(format!(
                    "cannot reach it over UDP{of} (no answer within {} s): check the address, the firewall, and that a token is live there",
                    CONNECT.as_secs()
                ));
            }
        }
    }
}

/// All addresses of the name, each a little after the one before it: the first to connect counts.
async fn dial_once(
    address: &HostPort,
    config: &ClientConfig,
    tried: &mut Vec<SocketAddr>,
) -> Result<Dialled, NotDialled> {
    let found = tokio::net::lookup_host(address.as_str()).await;
    tried.extend(found.map_err(|error| NotDialled::No(error.to_string()))?);
    tried.sort_by_key(SocketAddr::is_ipv6);
    tried.dedup();
    let mut dialling = JoinSet::new();
    for (number, remote) in (0..).zip(tried.iter().copied()) {
        let config = config.clone();
        dialling.spawn(async move {
            tokio::time::sleep(STAGGER * number).await;
            dial_one(remote, config).await
        });
    }
    let (mut busy, mut whys) = (false, Vec::new());
    while let Some(ended) = dialling.join_next().await {
        match ended {
            Ok(Ok(dialled)) => return Ok(dialled),
            Ok(Err(NotDialled::Busy)) => busy = true,
            Ok(Err(NotDialled::No(why))) if !whys.contains(&why) => whys.push(why),
            _ => {}
        }
    }
    Err(if busy { NotDialled::Busy } else { NotDialled::No(whys.join("; ")) })
}

async fn dial_one(remote: SocketAddr, config: ClientConfig) -> Result<Dialled, NotDialled> {
    let own = endpoint::any_address_towards(remote);
    let endpoint = quinn::Endpoint::client(own);
    let endpoint = endpoint.map_err(|error| NotDialled::No(format!("cannot open UDP {own}: {error}")))?;
    let connecting = endpoint.connect_with(config, remote, endpoint::SERVER_NAME);
    match connecting.map_err(|error| NotDialled::No(error.to_string()))?.await {
        Ok(connection) => Ok((endpoint, connection)),
        Err(quinn::ConnectionError::ConnectionClosed(close))
            if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
        {
            Err(NotDialled::Busy)
        }
        Err(error) => Err(NotDialled::No(explain(&error))),
    }
}

#[cfg(test)]
mod tests;
