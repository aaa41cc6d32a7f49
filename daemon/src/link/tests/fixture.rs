//! Overlays, stations (a node's link side with the test as its engine), and raw peers that break the rules.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tram_pki::authority::{Authority, Root, Subject};
use tram_pki::bundle::Bundle;
use tram_pki::crl::Reason;
use tram_pki::csr::LeafKey;
use tram_pki::enrol::{Joining, answer};
use tram_pki::hash::Sha256;
use tram_pki::keystore::{NodeKeys, found};
use tram_pki::pins::Pins;
use tram_pki::registry::{Registry, TOKEN_MS, TokenOrder};
use tram_pki::token::Token;
use tram_pki::trust::Trust as Roots;
use tram_proto::envelope::{Body, MessageKind, Network, Precedence};
use tram_proto::frame::{Frame, LENGTH_BYTES, Offer, Recipient, StreamKind, Visit};
use tram_proto::id::{Digest, Incarnation, MessageId};
use tram_proto::join::Uplink as JoinUplink;
use tram_proto::manifest::root_of;
use tram_proto::name::{NodeName, Role};
use tram_proto::pki::{Item, Object, ObjectKey};
use tram_proto::receipt::Ordinal;
use tram_proto::row::MessageRow;
use tram_proto::statement::{Kind, Signed};
use tram_relay::input::{Input, LinkId, Row, Side, Signer};
use tram_relay::output::{Op, Output, Statement};

use super::line::Line;
use crate::clock::Clock;
use crate::engine::handle::{EngineHandle, Request};
use crate::link::dialer::{Uplink, UplinkStatus, Uplinks};
use crate::link::endpoint::{Endpoints, QuicKeys, SERVER_NAME};
use crate::link::pace::Pace;
use crate::link::pki::Exchange;
use crate::link::pki::herald::Herald;
use crate::link::trust::{NodeTrust, Trust};
use crate::link::{Here, acceptor};
use crate::spool::{GRACE_MS, MemorySpool, Spool};

/// Nothing on loopback takes so long.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// A founded overlay that admits nodes.
pub(crate) struct Overlay {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) central: NodeKeys,
    pub(crate) authority: Arc<Authority>,
    pub(crate) registry: Arc<Mutex<Registry>>,
}

impl Overlay {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pki = dir.path().join("central");
        let zone = "tram.internal".parse().expect("zone");
        let central = found(&pki, &zone, &name("central"), Clock::default().wall_ms()).expect("founded");
        let authority = Arc::new(Authority::open(&pki).expect("opens"));
        let registry = Arc::new(Mutex::new(Registry::open(&pki).expect("opens")));
        Self { dir, central, authority, registry }
    }

    pub(crate) fn token(&self, who: &str, join: &str) -> Token {
        let address = |text: &str| vec![text.parse().expect("address")];
        let order = TokenOrder {
            name: name(who),
            role: Role::Province,
            lifetime_ms: TOKEN_MS,
            uplink: JoinUplink { node: name("central"), addresses: address("127.0.0.1:1") },
            join: address(join),
            by: "test".to_owned(),
        };
        let mut registry = self.registry.lock().expect("whole");
        registry.new_token(&self.authority, &order, Clock::default().wall_ms()).expect("token")
    }

    pub(crate) fn admit(&self, who: &str) -> NodeKeys {
        let now_ms = Clock::default().wall_ms();
        let dir = self.dir.path().join(who);
        let joining = Joining::begin(&dir, self.token(who, "127.0.0.1:1")).expect("begins");
        let request = joining.request(&[1; 32], "0", now_ms);
        let mut registry = self.registry.lock().expect("whole");
        let (granted, _) = answer(&mut registry, &self.authority, &request, &[1; 32], "test", now_ms);
        NodeKeys::install(&dir, &joining.accept(granted, now_ms).expect("accepted")).expect("installed")
    }

    /// A bundle with the CA's certificate and the root's list, and not the CA's own list.
    pub(crate) fn bundle(&self) -> Bundle {
        let now_ms = Clock::default().wall_ms();
        let root = Root::open(&self.dir.path().join("central")).expect("readable").expect("here");
        let mut bundle = Bundle::new(self.central.trust().roots().to_vec()).expect("a root");
        let ca = self.authority.certificate();
        let object = |key, version, content: Vec<u8>| Object { item: Item { key, version }, content: content.into() };
        for object in [
            object(ObjectKey::Authority(Sha256::of(ca).0), 1, ca.to_vec()),
            object(ObjectKey::Crl(root.id().0), 1, root.crl(&[], 1, now_ms).expect("signed")),
        ] {
            assert_eq!(bundle.take(&object, now_ms), Ok(true));
        }
        bundle
    }

    /// The CA's list of what was revoked so far.
    pub(crate) fn list(&self, number: u64) -> Object {
        let revoked = self.registry.lock().expect("whole").revoked();
        let list = self.authority.crl(&revoked, number, Clock::default().wall_ms()).expect("signed");
        Object { item: Item { key: ObjectKey::Crl(self.authority.id().0), version: number }, content: list.into() }
    }

    /// A trust for which the node of this name is revoked.
    pub(crate) fn revoke(&self, who: &str) -> Arc<Roots> {
        let now_ms = Clock::default().wall_ms();
        let own = self.central.identity().id;
        self.registry.lock().expect("whole").revoke(who, Reason::Withdrawn, own, "test", now_ms).expect("known");
        let mut bundle = self.bundle();
        assert_eq!(bundle.take(&self.list(2), now_ms), Ok(true));
        bundle.trust().expect("a root")
    }

    /// A further certificate for the same node, on a new key, as if it had been made `ago_ms` ago.
    pub(crate) fn renew(&self, keys: &NodeKeys, ago_ms: u64) -> NodeKeys {
        let now_ms = Clock::default().wall_ms();
        let spare = format!("spare-{}", uuid::Uuid::new_v4().simple());
        let dir = self.dir.path().join(&spare);
        let joining = Joining::begin(&dir, self.token(&spare, "127.0.0.1:1")).expect("begins");
        let request = joining.request(&[1; 32], "0", now_ms);
        let key = LeafKey::from_csr(&request.csr).expect("a CSR");
        let (granted, _) =
            answer(&mut self.registry.lock().expect("whole"), &self.authority, &request, &[1; 32], "test", now_ms);
        let mut joined = joining.accept(granted, now_ms).expect("accepted");
        let me = keys.identity();
        let subject = Subject { id: me.id, name: me.name.clone(), role: me.role };
        joined.chain[0] = self.authority.issue(&key, &subject, now_ms - ago_ms).expect("issued").certificate;
        NodeKeys::install(&dir, &joined).expect("installed")
    }
}

pub(crate) fn quic_keys(keys: &NodeKeys) -> QuicKeys {
    QuicKeys { reset: *keys.quic_reset_secret().as_bytes(), token: *keys.quic_token_secret().as_bytes() }
}

/// A node's link side.
pub(crate) struct Station {
    pub(crate) keys: NodeKeys,
    pub(crate) here: Arc<Here>,
    pub(crate) trust: Arc<NodeTrust>,
    pub(crate) spool: Arc<dyn Spool>,
    pub(crate) endpoints: Arc<Endpoints>,
    requests: mpsc::Receiver<Request>,
    accepting: AbortHandle,
}

impl Station {
    pub(crate) fn new(keys: &NodeKeys, listen: Option<&str>) -> Self {
        Self::with_clock(keys, listen, Clock::default())
    }

    pub(crate) fn with_clock(keys: &NodeKeys, listen: Option<&str>, clock: Clock) -> Self {
        Self::with_spool(keys, listen, clock, Arc::new(MemorySpool::new(1 << 40, GRACE_MS)))
    }

    pub(crate) fn with_spool(keys: &NodeKeys, listen: Option<&str>, clock: Clock, spool: Arc<dyn Spool>) -> Self {
        let listen = listen.map(|text| text.parse().expect("address"));
        let endpoints = Endpoints::open(listen, quic_keys(keys), Pace::default()).expect("opens");
        Self::on(keys, clock, spool, endpoints)
    }

    /// At the end of a simulated line, with a clock that follows the runtime's.
    pub(crate) fn over(keys: &NodeKeys, line: &Line, address: SocketAddr) -> Self {
        let endpoints = Endpoints::over(line.socket(address), quic_keys(keys));
        Self::on(keys, Clock::virtual_time(), Arc::new(MemorySpool::new(1 << 40, GRACE_MS)), endpoints)
    }

    /// One that has a PKI to tell of.
    pub(crate) fn with_pki(keys: &NodeKeys, listen: Option<&str>, exchange: Arc<dyn Exchange>) -> Self {
        let listen = listen.map(|text| text.parse().expect("address"));
        let endpoints = Endpoints::open(listen, quic_keys(keys), Pace::default()).expect("opens");
        let me = keys.identity();
        let herald = Herald::new((me.id, me.name.clone()), Clock::default(), exchange);
        let spool = Arc::new(MemorySpool::new(1 << 40, GRACE_MS));
        Self::whole(keys, Clock::default(), spool, endpoints, Some(herald))
    }

    fn on(keys: &NodeKeys, clock: Clock, spool: Arc<dyn Spool>, endpoints: Endpoints) -> Self {
        Self::whole(keys, clock, spool, endpoints, None)
    }

    fn whole(
        keys: &NodeKeys,
        clock: Clock,
        spool: Arc<dyn Spool>,
        endpoints: Endpoints,
        herald: Option<Arc<Herald>>,
    ) -> Self {
        let chain: Vec<Bytes> = keys.chain().iter().map(|c| Bytes::copy_from_slice(c)).collect();
        spool.put_chain(&chain).expect("stored");
        let (engine, requests, _) = EngineHandle::new();
        let trust = Arc::new(NodeTrust::new(keys.clone(), Pins::default(), clock));
        let identity = (keys.identity().id, keys.identity().name.clone());
        let here = Here::new(identity, clock, engine, spool.clone(), trust.clone(), herald);
        let endpoints = Arc::new(endpoints);
        let accepting = tokio::spawn(acceptor::run(here.clone(), endpoints.clone())).abort_handle();
        Self { keys: keys.clone(), here, trust, spool, endpoints, requests, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoints.listens_at().expect("listens")
    }

    pub(crate) fn dial(&self, node: &str, address: SocketAddr) -> Uplinks {
        let uplink = Uplink { node: name(node), addresses: vec![address.to_string()], pace: Pace::default() };
        Uplinks::dial(&self.here, &self.endpoints, vec![uplink])
    }

    /// What the engine is asked next.
    pub(crate) async fn next(&mut self) -> Request {
        timeout(SOON, self.requests.recv()).await.expect("in time").expect("open")
    }

    pub(crate) async fn next_input(&mut self) -> Input {
        match self.next().await {
            Request::Input(input) => input,
            other => panic!("not an input: {other:?}"),
        }
    }

    pub(crate) async fn silent(&mut self, so_long: Duration) {
        let got = timeout(so_long, self.requests.recv()).await;
        assert!(got.is_err(), "{got:?}");
    }

    pub(crate) async fn link_up(&mut self) -> Up {
        self.link_up_in(SOON).await
    }

    pub(crate) async fn link_up_in(&mut self, so_long: Duration) -> Up {
        match timeout(so_long, self.requests.recv()).await.expect("in time").expect("open") {
            Request::LinkUp { link, peer, side, writer } => Up { link, peer, side, writer },
            other => panic!("not a link: {other:?}"),
        }
    }

    /// Takes the process away without a word, and frees its port.
    pub(crate) async fn kill(self) -> SocketAddr {
        let address = self.address();
        self.accepting.abort();
        // quinn holds on to one socket before the present one.
        for _ in 0..2 {
            let elsewhere = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
            self.endpoints.listening().expect("listens").rebind(elsewhere).expect("rebinds");
        }
        while std::net::UdpSocket::bind(address).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        address
    }

    /// Signs and stores a message of this station.
    pub(crate) fn write(&self, row: u64, body: &Body, inline: Option<Bytes>) -> MessageId {
        let signed = sign(&self.keys, Kind::Envelope, body.encode().expect("within limits"));
        let id = MessageId::of(&signed.statement);
        let message = MessageRow {
            id,
            visit: Visit::default(),
            from: None,
            received_ms: 1,
            recipients: vec![],
            stamps: vec![],
            complete: true,
            handed_ms: 0,
            handed_to: None,
            user: None,
            recalls: None,
            demoted_from: None,
        };
        let payload = inline.is_none().then_some((body.payload_root, body.payload_bytes));
        let envelope = Statement::Signed(signed);
        self.spool.commit(&[Op::PutMessage { row: Row(row), message, envelope, inline, payload }]).expect("stored");
        id
    }
}

/// A link as the engine sees it.
pub(crate) struct Up {
    pub(crate) link: LinkId,
    pub(crate) peer: Signer,
    pub(crate) side: Side,
    writer: mpsc::Sender<Output>,
}

impl Up {
    pub(crate) async fn put(&self, output: Output) {
        self.writer.send(output).await.expect("the link is there");
    }

    pub(crate) async fn send(&self, frame: Frame) {
        self.put(Output::Send { link: self.link, frame }).await;
    }

    pub(crate) async fn offer(&self, number: u64, row: u64, precedence: Precedence) {
        let recipients = vec![Recipient { ordinal: Ordinal::body(0), node: None }];
        let (visit, stamps) = (Visit::default(), vec![]);
        self.put(Output::SendOffer { link: self.link, number, row: Row(row), precedence, visit, recipients, stamps })
            .await;
    }
}

pub(crate) fn sign(keys: &NodeKeys, kind: Kind, statement: Bytes) -> Signed {
    let signature = keys.signer().sign_batch(&[(kind, &statement)]).expect("signed").remove(0);
    Signed { statement, signature }
}

/// A message to `vanban@can-tho` with this payload.
pub(crate) fn body(from: &NodeKeys, precedence: Precedence, payload: &[u8]) -> Body {
    body_of(from, precedence, root_of(payload), payload.len() as u64)
}

pub(crate) fn body_of(from: &NodeKeys, precedence: Precedence, payload_root: Digest, payload_bytes: u64) -> Body {
    Body {
        nonce: [1; 16],
        origin: from.identity().id,
        incarnation: Incarnation([1; 16]),
        origin_name: from.identity().name.clone(),
        sender: None,
        to: vec!["vanban@can-tho".parse().expect("address")],
        precedence,
        sequence: 1,
        created_ms: Clock::default().wall_ms(),
        clock_offset_ms: 0,
        lifetime_ms: 1000,
        deliver_by_ms: 0,
        label: String::new(),
        network: Network::Unspecified,
        kind: MessageKind::Document,
        subject: String::new(),
        file_name: String::new(),
        content_type: String::new(),
        attributes: vec![],
        business_id: String::new(),
        idempotency_key: String::new(),
        traceparent: String::new(),
        sealed: false,
        payload_bytes,
        payload_root,
        recalls: None,
        pair_sequences: vec![],
    }
}

/// Bytes that do not repeat.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

/// A peer with a good certificate that speaks QUIC by hand.
pub(crate) struct Raw {
    pub(crate) connection: Connection,
    pub(crate) control: SendStream,
    pub(crate) replies: RecvStream,
    /// Streams kept open and unread, as by a peer whose tasks hang.
    unread: Vec<RecvStream>,
    _endpoints: Endpoints,
}

impl Raw {
    pub(crate) async fn dial(keys: &NodeKeys, to: &Station) -> Self {
        let endpoints = Endpoints::open(None, quic_keys(keys), Pace::default()).expect("opens");
        Self::dial_from(endpoints, keys, to).await
    }

    pub(crate) async fn dial_from(endpoints: Endpoints, keys: &NodeKeys, to: &Station) -> Self {
        let connection = Self::connect(&endpoints, keys, to).await;
        let (mut control, replies) = connection.open_bi().await.expect("opens");
        control.write_all(&[StreamKind::Control.to_byte()]).await.expect("written");
        Self { connection, control, replies, unread: vec![], _endpoints: endpoints }
    }

    /// A connection on which nothing was said yet.
    pub(crate) async fn connect(endpoints: &Endpoints, keys: &NodeKeys, to: &Station) -> Connection {
        let trust = NodeTrust::new(keys.clone(), Pins::default(), Clock::default());
        let tls = trust.client(&to.keys.identity().name).expect("TLS");
        let config = Endpoints::client(tls, Pace::default(), &Pace::default().line()).expect("QUIC");
        let endpoint = endpoints.towards(to.address()).expect("opens");
        endpoint.connect_with(config, to.address(), SERVER_NAME).expect("dials").await.expect("connects")
    }

    pub(crate) async fn open(&self, kind: StreamKind) -> SendStream {
        self.open_byte(kind.to_byte()).await
    }

    pub(crate) async fn open_byte(&self, byte: u8) -> SendStream {
        let mut stream = self.connection.open_uni().await.expect("opens");
        stream.write_all(&[byte]).await.expect("written");
        stream
    }

    pub(crate) async fn offer(&self, stream: &mut SendStream, keys: &NodeKeys, body: &Body, inline: Option<Bytes>) {
        let chain = keys.chain().iter().map(|c| Bytes::copy_from_slice(c)).collect();
        stream.write_all(&Frame::Chain(chain).encode()).await.expect("written");
        let envelope = sign(keys, Kind::Envelope, body.encode().expect("within limits"));
        let recipients = vec![Recipient { ordinal: Ordinal::body(0), node: None }];
        let offer = Offer { number: 1, envelope, visit: Visit::default(), recipients, stamps: vec![], inline };
        stream.write_all(&Frame::Offer(offer).encode()).await.expect("written");
    }

    /// The stream of this kind that the other side opened, after its first byte.
    pub(crate) async fn accept(&mut self, kind: StreamKind) -> RecvStream {
        loop {
            let mut stream = timeout(SOON, self.connection.accept_uni()).await.expect("in time").expect("a stream");
            let mut byte = [0];
            stream.read_exact(&mut byte).await.expect("a byte");
            if byte[0] == kind.to_byte() {
                return stream;
            }
            self.unread.push(stream);
        }
    }

    /// How the other side closed: the bye on the control stream, then code and reason of the QUIC close.
    pub(crate) async fn closed(mut self) -> (u32, String) {
        let mut bye = None;
        while let Some(frame) = frame(&mut self.replies).await {
            if let Frame::Bye { code, reason } = frame {
                bye = Some((code, reason));
            }
        }
        match timeout(SOON, self.connection.closed()).await.expect("in time") {
            quinn::ConnectionError::ApplicationClosed(close) => {
                let code = u32::try_from(close.error_code.into_inner()).expect("small");
                let closed = (code, String::from_utf8(close.reason.to_vec()).expect("text"));
                assert_eq!(bye.as_ref(), Some(&closed), "bye and close say the same");
                closed
            }
            other => panic!("not closed by the peer: {other}"),
        }
    }
}

/// The next frame by hand; `None` when nothing more comes.
pub(crate) async fn frame(stream: &mut RecvStream) -> Option<Frame> {
    let mut field = [0; LENGTH_BYTES];
    timeout(SOON, stream.read_exact(&mut field)).await.expect("in time").ok()?;
    let mut bytes = vec![0; u32::from_be_bytes(field) as usize];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(Frame::decode(bytes.into()).expect("a frame"))
}

/// Waits for an uplink's status to fulfil this.
pub(crate) async fn status(uplinks: &Uplinks, fulfils: impl Fn(&UplinkStatus) -> bool) -> UplinkStatus {
    let mut status = uplinks.status();
    let all = timeout(SOON, status.wait_for(|all| all.iter().any(&fulfils))).await.expect("in time").expect("dialling");
    all[0].clone()
}
