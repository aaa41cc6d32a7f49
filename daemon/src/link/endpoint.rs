//! Sockets and transport parameters.
//!
//! One endpoint listens if the node does; dialling uses it too where its address can reach the other, else a client
//! socket of the right family, opened when first needed. Reset keys are kept across restarts, so that a neighbour
//! notices one at once instead of at its idle timeout. `research/quic.md` §1.1 and §10.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac, rand};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tram_congestion::Line;
use tram_proto::limits::{CHUNK_BYTES, CONTROL_FRAME_BYTES, RUN_UNITS};

use crate::link::pace::Pace;
use crate::link::run;

/// Transfer streams of the classes below immediate that each link may have sent and not yet acknowledged: 12 MiB. Twice
/// as many on all took a relay between two fast links to 153 MiB of memory; with these it stays at 133.
pub const RUNS_IN_FLIGHT: usize = 3;
/// So many more are there for those links of a node whose lines are long and fast: 36 MiB, in all 48.
pub const MORE_RUNS: usize = 9;
/// The same for flash and immediate, so that these never wait for a stream to become free.
pub const URGENT_RUNS_IN_FLIGHT: usize = 1;
/// Streams a peer may have open: one per class, one for receipts, one for the PKI, those in flight, and two that are acknowledged by
/// QUIC and not yet read. Each permitted one costs about 1.1 KB.
const UNI_STREAMS: u32 = 7 + (run::STREAMS + MORE_RUNS + URGENT_RUNS_IN_FLIGHT) as u32 + 2;
/// The control stream, and one spare for tunnels to come.
const BIDI_STREAMS: u32 = 2;
/// A whole run with its header fits, so that a run never waits for window; more would only cost memory.
const STREAM_WINDOW: u32 = (RUN_UNITS * CHUNK_BYTES as u32) + CONTROL_FRAME_BYTES as u32;
/// All runs in flight, and envelopes beside them: 1 MiB of unacknowledged inline payload in each of five classes, and
/// one more. Were it smaller, bulk that waits for acknowledgements would keep flash from being written at all.
const SEND_WINDOW: u64 = (RUNS_IN_FLIGHT + MORE_RUNS + URGENT_RUNS_IN_FLIGHT) as u64 * STREAM_WINDOW as u64 + (6 << 20);
/// A link is given up after so much silence.
const IDLE: Duration = Duration::from_secs(45);
/// Pause between the dialler's signs of life: keeps NATs open (they forget after 30 s) and finds a restarted peer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The other side asks for one only when these stay away. Without it, a frame sent after 40 s of silence would begin the
/// 45 s anew.
const MISSED: Duration = Duration::from_secs(10);
/// Safe for IPv4 and IPv6 over Ethernet.
pub(crate) const MTU: u16 = 1452;
/// The kernel's default of 208 KiB holds 5 ms of 200 Mbit/s.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Below this, losses at line rate are likely enough to warn.
pub(crate) const SOCKET_BUFFER_LOW_BYTES: usize = 1 << 20;
/// Handshakes that may wait to be accepted, and the bytes they may bring before that.
const INCOMING: usize = 256;
const INCOMING_BYTES: u64 = 4 << 20;

/// TLS wants a server name; verifiers look at the certificate's own. `.invalid` is never resolved (RFC 6761).
pub(crate) const SERVER_NAME: &str = "tram.invalid";

/// What a node keeps so that its neighbours notice a restart: 64 secret bytes each.
#[derive(Clone)]
pub struct QuicKeys {
    /// For stateless resets and connection ids.
    pub reset: [u8; 64],
    /// For address tokens.
    pub token: [u8; 64],
}

impl std::fmt::Debug for QuicKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QuicKeys(hidden)")
    }
}

/// Random connection ids. quinn's own drops packets with ids it did not make in this life before it thinks of a reset;
/// with these every stray packet gets one, at most one in 20 ms.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; 8];
        // Were there no randomness, ids would collide, which quinn notices; keys would have failed long before.
        let _ = rand::fill(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The transport parameters of one connection, each with a controller and a line of its own.
fn transport(dialler: bool, pace: Pace, line: &Arc<Line>) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU);
    transport
        .stream_receive_window(STREAM_WINDOW.into())
        // No window for the connection: where the disk is slower than the line, bulk that is not read would fill it, and
        // flash be held up. The streams bound what is kept.
        .send_window(SEND_WINDOW)
        // False would let a bulk stream finish its buffer before flash is looked at (quinn 0.11).
        .send_fairness(true)
        .max_concurrent_uni_streams(UNI_STREAMS.into())
        .max_concurrent_bidi_streams(BIDI_STREAMS.into())
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(Some(if dialler { KEEP_ALIVE } else { MISSED }))
        .mtu_discovery_config(Some(mtu))
        .datagram_receive_buffer_size(None)
        .allow_spin(false);
    pace.set(&mut transport, line);
    Arc::new(transport)
}

/// Why no endpoint could be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open UDP {address}: {source}")]
pub struct OpenError {
    address: SocketAddr,
    source: io::Error,
}

/// The sockets of one node.
pub struct Endpoints {
    keys: QuicKeys,
    accepted: Pace,
    listening: Option<quinn::Endpoint>,
    clients: Mutex<[Option<quinn::Endpoint>; 2]>,
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoints").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl Endpoints {
    /// Opens the listening socket, if the node listens; links that come in send at this pace. Must be called
    /// within the runtime.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(listen: Option<SocketAddr>, keys: QuicKeys, accepted: Pace) -> Result<Self, OpenError> {
        let listening = listen.map(|address| bind(address, &keys)).transpose()?;
        Ok(Self { keys, accepted, listening, clients: Mutex::default() })
    }

    /// Over a line that a test simulates.
    #[cfg(test)]
    pub(crate) fn over(socket: Arc<dyn quinn::AsyncUdpSocket>, keys: QuicKeys) -> Self {
        let runtime = Arc::new(TokioRuntime);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(endpoint_config(&keys), None, socket, runtime);
        let listening = Some(endpoint.expect("its address is known"));
        Self { keys, accepted: Pace::default(), listening, clients: Mutex::default() }
    }

    /// Where the node listens.
    #[must_use]
    pub fn listens_at(&self) -> Option<SocketAddr> {
        self.listening.as_ref()?.local_addr().ok()
    }

    pub(crate) const fn listening(&self) -> Option<&quinn::Endpoint> {
        self.listening.as_ref()
    }

    /// The endpoint from which `remote` can be dialled.
    pub(crate) fn towards(&self, remote: SocketAddr) -> Result<quinn::Endpoint, OpenError> {
        if let Some((endpoint, own)) = self.listening.as_ref().zip(self.listens_at()) {
            // A socket bound to loopback reaches nothing else, and the other way round.
            let fits = own.ip().is_unspecified() || own.ip().is_loopback() == remote.ip().is_loopback();
            if fits && own.is_ipv6() == remote.is_ipv6() {
                return Ok(endpoint.clone());
            }
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut clients[usize::from(remote.is_ipv6())];
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let endpoint = bind(any_address_towards(remote), &self.keys)?;
        Ok(slot.insert(endpoint).clone())
    }

    /// For dialling with this TLS configuration over this line.
    pub(crate) fn client(tls: rustls::ClientConfig, pace: Pace, line: &Arc<Line>) -> Result<ClientConfig, String> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport(true, pace, line));
        Ok(config)
    }

    /// For one question, with quinn's own pace.
    pub(crate) fn plain_client(tls: rustls::ClientConfig) -> Result<ClientConfig, String> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        Ok(ClientConfig::new(Arc::new(crypto)))
    }

    /// For accepting with this TLS configuration, and the line of the link that comes of it.
    pub(crate) fn server(&self, tls: rustls::ServerConfig) -> Result<(ServerConfig, Arc<Line>), String> {
        let mut config = server(tls, &self.keys)?;
        let line = self.accepted.line();
        config.transport_config(transport(false, self.accepted, &line));
        Ok((config, line))
    }

    /// Closes all sockets; call it when the links have said bye.
    pub fn close(&self) {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        for endpoint in clients.iter().flatten().chain(&self.listening) {
            endpoint.close(VarInt::from_u32(0), b"shutting down");
        }
    }
}

/// A server configuration with the node's token key and bounds on what strangers may make it hold.
pub(crate) fn server(tls: rustls::ServerConfig, keys: &QuicKeys) -> Result<ServerConfig, String> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| error.to_string())?;
    let token = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tram/1/token").extract(&keys.token);
    let mut config = ServerConfig::new(Arc::new(crypto), Arc::new(token));
    config.max_incoming(INCOMING).incoming_buffer_size(64 << 10).incoming_buffer_size_total(INCOMING_BYTES);
    Ok(config)
}

/// The wildcard address of the family of `remote`, with any port.
pub(crate) fn any_address_towards(remote: SocketAddr) -> SocketAddr {
    let any: IpAddr = if remote.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, 0)
}

fn endpoint_config(keys: &QuicKeys) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &keys.reset)));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

fn bind(address: SocketAddr, keys: &QuicKeys) -> Result<quinn::Endpoint, OpenError> {
    let named = |source| OpenError { address, source };
    quinn::Endpoint::new(endpoint_config(keys), None, socket(address).map_err(named)?, Arc::new(TokioRuntime))
        .map_err(named)
}

/// A UDP socket with large buffers; the kernel clamps them without a word, so they are read back.
pub(crate) fn socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too where the system allows it.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    let buffers = [
        ("receive", "net.core.rmem_max", socket.recv_buffer_size()?),
        ("send", "net.core.wmem_max", socket.send_buffer_size()?),
    ];
    for (which, sysctl, bytes) in buffers {
        // Linux doubles what was asked for, for its own bookkeeping.
        let usable_bytes = bytes / 2;
        if usable_bytes < SOCKET_BUFFER_LOW_BYTES {
            tracing::warn!(
                "the UDP {which} buffer of {address} has only {usable_bytes} bytes: packets will be lost at high rates; \
                 set {sysctl}={SOCKET_BUFFER_BYTES}"
            );
        } else if usable_bytes < SOCKET_BUFFER_BYTES {
            tracing::info!(
                "the UDP {which} buffer of {address} has {usable_bytes} bytes; set {sysctl}={SOCKET_BUFFER_BYTES} for more"
            );
        }
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
