//! The plain transports beside ours: one stream as fast as it goes, by quinn or by the kernel's TCP, with windows that
//! never limit and 4 MiB of socket buffers. The left end dials, whichever end sends.
//!
//! With `urgent`, small messages go beside the bulk, as well as the transport can: over quinn on a stream of higher
//! priority, over TCP in a connection of its own. Each is echoed by its number.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tram_lab::{End, Lab, Namespace, address};

/// More than any line here holds: 200 Mbit/s at 250 ms, lost several times over, is 20 MB.
const WINDOW_BYTES: u32 = 64 << 20;
const SEND_WINDOW_BYTES: u64 = 128 << 20;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const BLOCK_BYTES: usize = 1 << 20;
pub(crate) const URGENT_BYTES: usize = 4096;
pub(crate) const PORT: u16 = 7000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    QuinnCubic,
    QuinnBbr,
    TcpCubic,
    TcpBbr,
}

impl Transport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::QuinnCubic => "quinn, Cubic",
            Self::QuinnBbr => "quinn, BBR",
            Self::TcpCubic => "TCP Cubic",
            Self::TcpBbr => "TCP BBR",
        }
    }

    const fn tcp(self) -> Option<&'static [u8]> {
        match self {
            Self::TcpCubic => Some(b"cubic"),
            Self::TcpBbr => Some(b"bbr"),
            Self::QuinnCubic | Self::QuinnBbr => None,
        }
    }
}

/// Where the ends are: a namespace, or this machine's loopback.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) left: Option<&'a Namespace>,
    pub(crate) right: Option<&'a Namespace>,
    /// Of the right end.
    pub(crate) at: SocketAddr,
}

/// When small messages are sent beside the bulk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Urgent {
    pub(crate) every: Duration,
    pub(crate) count: usize,
    /// After the bulk has begun.
    pub(crate) after: Duration,
}

/// A blast under way; it ends when this is dropped.
pub(crate) struct Blast {
    received: Arc<AtomicU64>,
    /// Round trips of small messages, in milliseconds.
    echoes: Arc<Mutex<Vec<f64>>>,
    runtime: Option<Runtime>,
}

impl<'a> Ends<'a> {
    /// Of the first line of a lab.
    pub(crate) fn of(lab: &'a Lab, port: u16) -> Self {
        let at = SocketAddr::from((address(0, End::Right), port));
        Self { left: Some(lab.space(0)), right: Some(lab.space(1)), at }
    }

    pub(crate) fn loopback() -> Self {
        Self { left: None, right: None, at: SocketAddr::from(([127, 0, 0, 1], PORT)) }
    }
}

impl Blast {
    pub(crate) fn start(
        transport: Transport,
        ends: Ends<'_>,
        from: End,
        bytes: u64,
        urgent: Option<Urgent>,
    ) -> Result<Self, String> {
        let received = Arc::new(AtomicU64::new(0));
        let echoes = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let _inside = runtime.enter();
        let at = ends.at;
        let job = Job { from, bytes, urgent, received: received.clone(), echoes: echoes.clone() };
        if let Some(congestion) = transport.tcp() {
            let listener = inside(ends.right, || tcp_listener(at, congestion))?;
            let dialler = inside(ends.left, || tcp_socket(congestion))?;
            let second = inside(ends.left, || tcp_socket(congestion))?;
            runtime.spawn(job.clone().tcp_right(listener));
            runtime.spawn(job.tcp_left(dialler, second, at));
        } else {
            let (server, certificate) = quinn_server(transport);
            let right = quinn_endpoint(inside(ends.right, || udp(at))?, Some(server))?;
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            let left = quinn_endpoint(inside(ends.left, || udp(any))?, None)?;
            runtime.spawn(job.clone().quinn_right(right));
            let connecting = left.connect_with(quinn_client(transport, certificate), at, "lab");
            let connecting = connecting.map_err(|error| error.to_string())?;
            runtime.spawn(async move {
                match connecting.await {
                    Ok(connection) => job.quinn(connection, End::Left).await,
                    Err(error) => eprintln!("quinn: {error}"),
                }
                left.wait_idle().await;
            });
        }
        Ok(Self { received, echoes, runtime: Some(runtime) })
    }

    /// Payload that the receiving application has read.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn echoes(&self) -> Vec<f64> {
        self.echoes.lock().expect("whole").clone()
    }
}

impl Drop for Blast {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn inside<T: Send>(space: Option<&Namespace>, open: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T, String> {
    match space {
        Some(space) => space.inside(open)?,
        None => open(),
    }
    .map_err(|error| format!("a socket: {error}"))
}

fn udp(at: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&at.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn tcp_socket(congestion: &[u8]) -> std::io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_congestion(congestion)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn tcp_listener(at: SocketAddr, congestion: &[u8]) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // Accepted connections inherit it.
    socket.set_tcp_congestion(congestion)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(16)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn transport_config(transport: Transport) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let controller: Arc<dyn ControllerFactory + Send + Sync> = match transport {
        Transport::QuinnBbr => Arc::new(BbrConfig::default()),
        _ => Arc::new(CubicConfig::default()),
    };
    config
        .stream_receive_window(WINDOW_BYTES.into())
        .receive_window(VarInt::MAX)
        .send_window(SEND_WINDOW_BYTES)
        .congestion_controller_factory(controller);
    Arc::new(config)
}

fn quinn_server(transport: Transport) -> (ServerConfig, rustls_pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["lab".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config = ServerConfig::with_single_cert(vec![certificate.clone()], key).expect("a TLS configuration");
    config.transport_config(transport_config(transport));
    (config, certificate)
}

fn quinn_client(transport: Transport, certificate: rustls_pki_types::CertificateDer<'static>) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("our own certificate");
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).expect("a TLS configuration");
    config.transport_config(transport_config(transport));
    config
}

fn quinn_endpoint(socket: std::net::UdpSocket, server: Option<ServerConfig>) -> Result<Endpoint, String> {
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).map_err(|error| error.to_string())
}

#[derive(Clone)]
struct Job {
    from: End,
    bytes: u64,
    urgent: Option<Urgent>,
    received: Arc<AtomicU64>,
    echoes: Arc<Mutex<Vec<f64>>>,
}

impl Job {
    async fn quinn_right(self, endpoint: Endpoint) {
        let Some(incoming) = endpoint.accept().await else { return };
        match incoming.await {
            Ok(connection) => self.quinn(connection, End::Right).await,
            Err(error) => eprintln!("quinn: {error}"),
        }
        endpoint.wait_idle().await;
    }

    /// What one end of a quinn connection does.
    async fn quinn(self, connection: Connection, end: End) {
        if end == self.from {
            let Ok(mut bulk) = connection.open_uni().await else { return };
            if let Some(urgent) = self.urgent {
                let Ok((send, recv)) = connection.open_bi().await else { return };
                // The call only fails on a stream that is closed.
                let _ = send.set_priority(10);
                tokio::spawn(probe(recv, send, urgent, self.echoes.clone()));
            }
            pour(&mut bulk, self.bytes).await;
            let _ = bulk.finish();
        } else {
            let urgent = connection.clone();
            tokio::spawn(async move {
                while let Ok((send, recv)) = urgent.accept_bi().await {
                    let _ = send.set_priority(10);
                    tokio::spawn(echo(recv, send));
                }
            });
            let Ok(mut bulk) = connection.accept_uni().await else { return };
            while let Ok(Some(chunk)) = bulk.read_chunk(usize::MAX, true).await {
                self.received.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
            }
        }
        connection.closed().await;
    }

    async fn tcp_left(self, dialler: std::net::TcpStream, second: std::net::TcpStream, at: SocketAddr) {
        let Some(bulk) = dial(dialler, at).await else { return };
        if let Some(urgent) = self.urgent {
            let Some(stream) = dial(second, at).await else { return };
            let (recv, send) = stream.into_split();
            tokio::spawn(probe(recv, send, urgent, self.echoes.clone()));
        }
        self.tcp(bulk, End::Left).await;
    }

    async fn tcp_right(self, listener: std::net::TcpListener) {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        let Ok((bulk, _)) = listener.accept().await else { return };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // It only means less exact round trips.
                let _ = stream.set_nodelay(true);
                let (recv, send) = stream.into_split();
                tokio::spawn(echo(recv, send));
            }
        });
        self.tcp(bulk, End::Right).await;
    }

    async fn tcp(self, mut bulk: TcpStream, end: End) {
        if end == self.from {
            pour(&mut bulk, self.bytes).await;
            std::future::pending::<()>().await;
        }
        let mut buffer = vec![0; BLOCK_BYTES];
        while let Ok(length @ 1..) = bulk.read(&mut buffer).await {
            self.received.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
}

async fn dial(socket: std::net::TcpStream, at: SocketAddr) -> Option<TcpStream> {
    let stream = tokio::net::TcpSocket::from_std_stream(socket).connect(at).await;
    let stream = stream.map_err(|error| eprintln!("TCP: {error}")).ok()?;
    let _ = stream.set_nodelay(true);
    Some(stream)
}

/// Writes so many bytes, or as many as the other end takes.
async fn pour(into: &mut (impl AsyncWrite + Unpin), bytes: u64) {
    let mut block = vec![0; BLOCK_BYTES];
    aws_lc_rs::rand::fill(&mut block).expect("randomness");
    let block = Bytes::from(block);
    let mut left = bytes;
    while left > 0 {
        let length = left.min(BLOCK_BYTES as u64);
        if into.write_all(&block[..length as usize]).await.is_err() {
            return;
        }
        left -= length;
    }
}

/// Sends small messages at a fixed pace, whether or not the echoes of earlier ones are back.
async fn probe(
    mut recv: impl AsyncRead + Unpin,
    mut send: impl AsyncWrite + Unpin + Send + 'static,
    urgent: Urgent,
    echoes: Arc<Mutex<Vec<f64>>>,
) {
    let began = Instant::now() + urgent.after;
    tokio::spawn(async move {
        for number in 0..urgent.count {
            let due = began + urgent.every * u32::try_from(number).unwrap_or(u32::MAX);
            tokio::time::sleep_until(due.into()).await;
            if send.write_all(&[7; URGENT_BYTES]).await.is_err() || send.flush().await.is_err() {
                return;
            }
        }
        // The other end waits for more.
        std::future::pending::<()>().await;
    });
    for number in 0..urgent.count {
        if recv.read_u8().await.is_err() {
            return;
        }
        // From when it was due, so that a message that could not be written counts as late.
        let due = began + urgent.every * u32::try_from(number).unwrap_or(u32::MAX);
        echoes.lock().expect("whole").push(due.elapsed().as_secs_f64() * 1e3);
    }
}

async fn echo(mut recv: impl AsyncRead + Unpin, mut send: impl AsyncWrite + Unpin) {
    let mut message = [0; URGENT_BYTES];
    while recv.read_exact(&mut message).await.is_ok() {
        if send.write_all(&[1]).await.is_err() || send.flush().await.is_err() {
            return;
        }
    }
}
