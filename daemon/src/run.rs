//! `tramd run`: brings a node's parts together, and takes them down again in order.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};
use tram_pki::journal::Copies;
use tram_pki::keystore::{self, NodeKeys};
use tram_pki::pins::Pins;
use tram_pki::statement::Signer as Pen;
use tram_proto::frame::FEATURE_PKI;
use tram_proto::id::{Incarnation, NodeId};
use tram_proto::name::Role;
use tram_proto::row::NodeRow;
use tram_proto::statement::{Kind, Signature};
use tram_relay::{Config as CoreConfig, Input, Node};

use crate::clock::Clock;
use crate::command::{Failure, exit};
use crate::committer::{CommitDone, Committer, Sign};
use crate::config::{Config, LogFormat};
use crate::engine::Engine;
use crate::engine::handle::EngineHandle;
use crate::http::{self, Loopback};
use crate::issuer::Desk;
use crate::join::{self, JoinServer};
use crate::link::dialer::Uplinks;
use crate::link::endpoint::{Endpoints, QuicKeys};
use crate::link::pki::herald::Herald;
use crate::link::trust::NodeTrust;
use crate::link::{Here, acceptor};
use crate::local::pki::PkiDoor;
use crate::local::quota::Quotas;
use crate::local::station::{Issuer, Station as _};
use crate::local::{self, Door, Sockets};
use crate::metrics::rates::{self, Rates};
use crate::metrics::{self, Metrics};
use crate::paths::Paths;
use crate::registrar::Registrar;
use crate::registrar::names::Names;
use crate::registrar::renewal::{Renewal, Tried};
use crate::reload::{self, Reloader};
use crate::setup::Reachable;
use crate::shelf::Shelf;
use crate::spool::{DiskOptions, DiskSpool, LOW_ROOM_BYTES, Room, Spool, SpoolError};
use crate::view::View;
use crate::watchdog;

/// How often the room on the disk and the rates of links are looked at.
const ROOM_EVERY: Duration = rates::EVERY;
/// How often unreferenced payloads are looked for, and how often while the room is low.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
const SWEEP_EVERY_LOW: Duration = Duration::from_secs(4);
/// Links get so long to say bye.
const BYE: Duration = Duration::from_secs(3);

/// Runs the node of `paths` until SIGTERM or SIGINT.
///
/// # Errors
/// [`Failure`] with the exit code.
pub fn command(paths: Paths, clock: Clock) -> Result<i32, Failure> {
    let config = Config::load(&paths).map_err(|e| Failure::new(exit::CONFIG, e))?;
    start_logging(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(exit::IO, e))?;
    let result = runtime.block_on(async {
        let mut stop = StopSignal::new().map_err(|e| Failure::new(exit::IO, e))?;
        run(paths, config, clock, async move { stop.wait().await }).await
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    result.map(|()| exit::OK)
}

fn start_logging(config: &Config) {
    let level = config.log.level.clone().unwrap_or_else(|| "info".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&level).unwrap_or_else(|_| "info".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second node in one process, as in a test, logs through the first's.
    let _ = match config.log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

struct StopSignal {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignal {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Signs with the node's key in force. A new key is taken up once its chain is in the spool, so that what it signs can
/// be exported and forwarded with the certificates that prove it.
pub(crate) struct PenOf {
    trust: Arc<NodeTrust>,
    spool: Arc<dyn Spool>,
    pen: Mutex<Pen>,
}

impl PenOf {
    /// With the key in force, whose chain it stores.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub(crate) fn new(trust: Arc<NodeTrust>, spool: Arc<dyn Spool>) -> Result<Self, SpoolError> {
        let keys = trust.keys();
        put_own_chain(spool.as_ref(), &keys)?;
        Ok(Self { trust, spool, pen: Mutex::new(keys.signer().clone()) })
    }
}

impl Sign for PenOf {
    fn sign(&self, statements: &[(Kind, &[u8])]) -> Result<Vec<Signature>, String> {
        let keys = self.trust.keys();
        let mut pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        if pen.certificate() != keys.signer().certificate() {
            match put_own_chain(self.spool.as_ref(), &keys) {
                Ok(()) => *pen = keys.signer().clone(),
                // The disk is full, which the commit will say: the old key is good for that long.
                Err(why) => warn!(%why, "the new certificate cannot be stored; the old key goes on signing"),
            }
        }
        pen.sign_batch(statements).map_err(|e| e.to_string())
    }
}

fn put_own_chain(spool: &dyn Spool, keys: &NodeKeys) -> Result<(), SpoolError> {
    let chain: Vec<bytes::Bytes> = keys.chain().iter().map(|c| bytes::Bytes::copy_from_slice(c)).collect();
    spool.put_chain(&chain)
}

/// Runs a node until `stop` resolves, or until its disk fails.
///
/// # Errors
/// [`Failure`] with the exit code.
pub async fn run(
    paths: Paths,
    config: Config,
    clock: Clock,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|e| Failure::new(exit::IO, e))?;
    let keys = NodeKeys::load(&paths.pki).map_err(|e| Failure::new(exit::CONFIG, e))?;
    let me = keys.identity().clone();
    let spool = open_spool(&paths, &config, me.id).await?;
    let (engine, requests, told) = EngineHandle::new();
    let (failed, mut failure) = watch::channel(None::<String>);

    let pins = Pins::open(&paths.pki).map_err(|e| Failure::new(exit::CONFIG, e))?;
    let trust = Arc::new(NodeTrust::new(keys.clone(), pins, clock));
    let pen = PenOf::new(trust.clone(), spool.clone()).map_err(|e| Failure::new(exit::IO, e))?;
    let committer = start_committer(&spool, pen, &engine, failed)?;
    let config_error = |e: &dyn std::fmt::Display| Failure::new(exit::CONFIG, e);
    let shelf = Shelf::open(&paths.pki, trust.clone(), clock).map_err(|e| config_error(&e))?;
    let desk = open_desk(&paths, &config, &keys, &shelf, clock)?;
    let join = Reachable::of(&config).map(|reachable| reachable.join).unwrap_or_default();
    let copies = Copies::open(&paths.pki).inspect_err(|why| warn!(%why, "audit logs of children are not kept")).ok();
    let registrar = Registrar::new(shelf.clone(), desk.clone(), trust.clone(), join, copies, clock);
    let herald = Herald::new((me.id, me.name.clone()), clock, registrar.clone());
    let node = restore(&spool, &config, &keys, FEATURE_PKI, clock).await?;
    let core = Engine::new(node, clock, requests, told, committer.queue().clone());
    let engine_task = tokio::spawn(core.run());
    engine.input(room_of(spool.room())).await.map_err(stopped)?;

    let identity = (me.id, me.name.clone());
    let here = Here::new(identity, clock, engine.clone(), spool.clone(), trust.clone(), Some(herald.clone()));
    here.plan.send_replace(Arc::new(config.plan.clone()));
    let mut names = Names::new(shelf.clone(), here.clone(), engine.clone(), clock);
    names.tell().await.map_err(stopped)?;
    let endpoints = Endpoints::open(config.listen.overlay, quic_keys(&keys), config.listen.pace());
    let endpoints = Arc::new(endpoints.map_err(|e| Failure::new(exit::IO, e))?);
    let accepting = tokio::spawn(acceptor::run(here.clone(), endpoints.clone()));
    let uplinks = Uplinks::dial(&here, &endpoints, reload::to_dial(&config));

    let mut keeping = JoinSet::new();
    keeping.spawn(shelf.clone().keep());
    keeping.spawn(registrar.clone().notice());
    keeping.spawn(names.mind());
    match &desk {
        Some(desk) => {
            let of = desk.clone();
            // Lists and certificates are there before the first neighbour asks.
            let _ = tokio::task::spawn_blocking(move || of.publish(false)).await;
            let (shelf, trust) = (shelf.clone(), trust.clone());
            keeping.spawn(mind_the_desk(desk.clone(), shelf, engine.clone(), config.listen.join, trust, clock));
        }
        None => {
            let (doors, open) = watch::channel(Vec::new());
            keeping.spawn(join::forward::mind_doors(open, config.listen.join, clock));
            keeping.spawn(registrar.clone().mind_doors(doors));
        }
    }
    let rates = Arc::new(Rates::default());
    let upkeep = tokio::spawn(upkeep(spool.clone(), here.clone(), rates.clone()));

    let sockets = Sockets::bind(&paths.run).map_err(|e| Failure::new(exit::CONFIG, e))?;
    let rules = reload::access_of(&config, &paths).map_err(|e| Failure::new(exit::CONFIG, e))?;
    let (new_rules, access) = watch::channel(rules);
    let uplinks_now = uplinks.status();
    let station = Arc::new(View::new(&trust, &config, clock, uplinks.status(), here.clone()));
    let watched = station.clone();
    let listen = config.listen.overlay;
    let issuer = desk.clone().map(|desk| desk as Arc<dyn Issuer>);
    let (pki, http) = (paths.pki.clone(), config.http.address(&paths));
    let reloader = Arc::new(Reloader::new(paths.clone(), config, uplinks, new_rules, here.clone(), issuer.clone()));
    reloader.look_at_plan().await;
    let (renew_now, asked) = watch::channel(0);
    let (tried, tries) = watch::channel(Tried::default());
    let pki_door = Arc::new(PkiDoor {
        pki: pki.clone(),
        shelf: shelf.clone(),
        desk: desk.clone(),
        herald: herald.clone(),
        trust: trust.clone(),
        renew_now,
        tried: tries,
        clock,
    });
    if let Some(address) = http {
        let metrics = Metrics {
            identity: station.identity(),
            here: here.clone(),
            uplinks: uplinks_now,
            pki: pki_door.clone(),
            rates,
            clock,
            kept: Default::default(),
        };
        keeping.spawn(open_http(address, metrics));
    }
    let renewal = Renewal { pki, trust, shelf, desk, herald, reloader: reloader.clone(), tried, clock };
    keeping.spawn(renewal.run(asked));
    let (plan, quotas) = (here.plan.subscribe(), Arc::new(Quotas::new(clock)));
    let reload = reloader.clone();
    let door = Door {
        engine: engine.clone(),
        spool: spool.clone(),
        station,
        issuer,
        pki: pki_door,
        paths,
        reload,
        access,
        plan,
        quotas,
    };
    let (close_local, closing) = watch::channel(false);
    let local = tokio::spawn(local::serve(sockets, door, wait_for(closing)));
    let by_signal = reloader.clone();
    let reloading = tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // It has said in the log what it found.
            let _ = by_signal.reload().await;
        }
    });
    info!(node = %me.name, id = %me.id, role = %me.role, listen = ?listen, "ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    keeping.spawn(watchdog::run(engine.clone(), watched));

    tokio::select! {
        () = stop => info!("stopping"),
        _ = failure.wait_for(Option::is_some) => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    reloading.abort();
    keeping.shutdown().await;
    let _ = close_local.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(5), local).await;
    let _ = tokio::time::timeout(BYE, engine.shutdown()).await;
    here.closed(BYE).await;
    reloader.stop().await;
    endpoints.close();
    accepting.abort();
    upkeep.abort();
    let _ = tokio::time::timeout(BYE, engine_task).await;
    drop(engine);
    let _ = tokio::task::spawn_blocking(move || committer.join()).await;
    let broken = failure.borrow().clone();
    match broken {
        Some(why) => Err(Failure::new(exit::IO, why)),
        None => Ok(()),
    }
}

fn stopped(error: crate::engine::handle::Stopped) -> Failure {
    Failure::new(exit::IO, error)
}

async fn wait_for(mut flag: watch::Receiver<bool>) {
    // The sender lives as long as the node.
    let _ = flag.wait_for(|set| *set).await;
}

async fn open_spool(paths: &Paths, config: &Config, node: NodeId) -> Result<Arc<dyn Spool>, Failure> {
    let defaults = DiskOptions::default();
    let bytes = |size: Option<bytesize::ByteSize>, default: u64| size.map_or(default, |s| s.as_u64());
    let options = DiskOptions {
        max_bytes: bytes(config.spool.max, defaults.max_bytes),
        keep_free_bytes: bytes(config.spool.keep_free, defaults.keep_free_bytes),
        cache_bytes: usize::try_from(bytes(config.spool.cache, defaults.cache_bytes as u64)).unwrap_or(usize::MAX),
        node: Some(node),
        ..defaults
    };
    let path = paths.spool.clone();
    let opened = tokio::task::spawn_blocking(move || DiskSpool::open(&path, options)).await;
    let spool = opened.map_err(|e| Failure::new(exit::IO, e))?.map_err(|e: SpoolError| Failure::new(exit::IO, e))?;
    Ok(Arc::new(spool))
}

fn start_committer(
    spool: &Arc<dyn Spool>,
    pen: PenOf,
    engine: &EngineHandle,
    failed: watch::Sender<Option<String>>,
) -> Result<Committer, Failure> {
    let engine = engine.clone();
    let done = move |done: CommitDone| match done {
        Ok(commits) => {
            for committed in commits {
                let input = Input::Persisted { commit: committed.commit, records: committed.records };
                // The engine is gone only while the daemon stops.
                let _ = engine.blocking_input(input);
            }
        }
        Err(why) => {
            error!(%why, "the spool takes no more; the daemon stops");
            failed.send_replace(Some(why.to_string()));
        }
    };
    Committer::spawn(spool.clone(), Arc::new(pen), Box::new(done)).map_err(|e| Failure::new(exit::IO, e))
}

/// A core with everything the spool remembers, one start later.
async fn restore(
    spool: &Arc<dyn Spool>,
    config: &Config,
    keys: &NodeKeys,
    features: u64,
    clock: Clock,
) -> Result<Node, Failure> {
    let random = || uuid::Uuid::new_v4().into_bytes();
    let me = keys.identity();
    let addresses = config.listen.advertise.clone().or_else(|| config.listen.overlay.map(|a| a.to_string()));
    let mut node = Node::new(CoreConfig {
        node: me.id,
        name: me.name.clone(),
        title: config.node.title.clone(),
        has_uplink: !config.uplinks.is_empty(),
        features,
        addresses: addresses.into_iter().collect(),
        boot: random(),
        labels: config.labels.clone(),
    });
    let declared = config.inboxes.clone();
    let spool = spool.clone();
    let restored = tokio::task::spawn_blocking(move || {
        let restored = spool.restore(&mut |input| node.handle(input, clock.now()))?;
        let fresh = NodeRow { incarnation: Incarnation(random()), starts: 0, record: 0, clock_ms: 0 };
        let row = restored.node.unwrap_or(fresh);
        let mut inboxes = restored.inboxes;
        inboxes.extend(declared);
        let row = NodeRow { starts: row.starts + 1, ..row };
        // Hello's counter must be durable before a neighbour hears it.
        spool.commit(&[tram_relay::output::Op::PutNode(row)])?;
        node.handle(Input::Start { node: row, inboxes }, clock.now());
        Ok::<_, SpoolError>(node)
    });
    restored.await.map_err(|e| Failure::new(exit::IO, e))?.map_err(|e| Failure::new(exit::IO, e))
}

fn quic_keys(keys: &NodeKeys) -> QuicKeys {
    QuicKeys { reset: *keys.quic_reset_secret().as_bytes(), token: *keys.quic_token_secret().as_bytes() }
}

/// The CA of central, and of a province where machines can join: without a join address it could enrol nobody.
fn open_desk(
    paths: &Paths,
    config: &Config,
    keys: &NodeKeys,
    shelf: &Arc<Shelf>,
    clock: Clock,
) -> Result<Option<Arc<Desk>>, Failure> {
    let is_to_be = keys.identity().role == Role::Province && config.listen.join.is_some();
    if !paths.pki.join(keystore::CA_PEM).exists() && !is_to_be {
        return Ok(None);
    }
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(std::path::PathBuf::from);
    let who = (keys.identity().id, keys.identity().name.clone());
    let shelf = shelf.clone();
    let desk = Desk::open(&paths.pki, credentials.as_deref(), shelf, who, Reachable::of(config), clock);
    desk.map(|desk| Some(Arc::new(desk))).map_err(|e| Failure::new(exit::CONFIG, e))
}

/// Keeps the core's names current and the join port open while a token is live.
async fn mind_the_desk(
    desk: Arc<Desk>,
    shelf: Arc<Shelf>,
    engine: EngineHandle,
    listen: Option<SocketAddr>,
    trust: Arc<NodeTrust>,
    clock: Clock,
) {
    let (mut changes, mut others) = (desk.changes(), shelf.changes());
    let mut open: Option<JoinServer> = None;
    loop {
        changes.mark_unchanged();
        others.mark_unchanged();
        let of = desk.clone();
        let looked = tokio::task::spawn_blocking(move || (of.names(), of.join_open_until_ms())).await;
        let Ok((names, until_ms)) = looked else { return };
        if engine.input(Input::Names(names)).await.is_err() {
            return;
        }
        match (until_ms, listen) {
            (Some(_), Some(listen)) if open.is_none() => match open_join(&desk, listen, &trust, clock) {
                Ok(server) => {
                    info!(%listen, "the join port is open while a token is live");
                    open = Some(server);
                }
                Err(why) => warn!(%why, "nobody can join"),
            },
            (None, _) if open.take().is_some() => {
                info!("no token is live or the CA is locked; the join port is closed")
            }
            _ => {}
        }
        let wait_ms = until_ms.map_or(3_600_000, |until| until.saturating_sub(clock.wall_ms()) + 1000);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = others.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(wait_ms.min(3_600_000))) => {}
        }
    }
}

fn open_join(desk: &Arc<Desk>, listen: SocketAddr, trust: &Arc<NodeTrust>, clock: Clock) -> Result<JoinServer, String> {
    let (shown, of) = (trust.clone(), desk.clone());
    // Anew for each handshake: the root may have been exchanged while the port was open.
    let tls = move || {
        let root = of.root().ok_or("the CA is locked")?;
        tram_pki::verify::join_server(&shown.keys(), &root, clock.for_pki()).map_err(|e| e.to_string())
    };
    let desk = desk.clone();
    let answering = move |request: &_, exporter: &_, remote: SocketAddr| {
        let (answer, cause) = desk.answer(request, exporter, &remote.to_string());
        match cause {
            Some(cause) if cause.is_alarm() => error!(%remote, %cause, "a join was refused"),
            Some(cause) => warn!(%remote, %cause, "a join was refused"),
            None => info!(%remote, "a node joined"),
        }
        answer
    };
    JoinServer::open(listen, quic_keys(&trust.keys()), Arc::new(tls), Arc::new(answering))
}

fn room_of(room: Room) -> Input {
    Input::SpoolRoom { free_bytes: room.free_bytes, total_bytes: room.total_bytes }
}

/// Serves the node's metrics. Mail does not wait for them: an address that cannot be had is told in the log alone.
async fn open_http(address: Loopback, metrics: Metrics) {
    let tally = metrics.here.engine.tally().clone();
    match address.bind().await {
        Ok(listener) => {
            info!(%address, "metrics are served");
            http::serve(listener, http::routes(Arc::new(metrics)), tally).await;
        }
        Err(why) => error!(%address, %why, "no metrics are served: set another [http] listen and restart"),
    }
}

/// Tells the core of the room on the disk, clears what nothing refers to, and looks at how fast links go.
async fn upkeep(spool: Arc<dyn Spool>, here: Arc<Here>, rates: Arc<Rates>) {
    let (engine, clock) = (&here.engine, here.clock);
    let mut since_sweep = SWEEP_EVERY;
    loop {
        let every = if spool.room().free_bytes < LOW_ROOM_BYTES { SWEEP_EVERY_LOW } else { SWEEP_EVERY };
        if since_sweep >= every {
            since_sweep = Duration::ZERO;
            let swept = spool.clone();
            let done = tokio::task::spawn_blocking(move || swept.sweep(clock.wall_ms())).await;
            if let Ok(Err(why)) = done {
                warn!(%why, "payloads that nothing refers to could not be deleted");
            }
        }
        metrics::look(&rates, &here);
        // Also when it is as it was: the core takes off meanwhile what it lets in.
        if engine.input(room_of(spool.room())).await.is_err() {
            return;
        }
        tokio::time::sleep(ROOM_EVERY).await;
        since_sweep += ROOM_EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::fixture::Overlay;
    use crate::spool::MemorySpool;

    /// What a new key signs is never in the spool without the certificates that prove it.
    #[test]
    fn a_new_keys_chain_is_stored_before_it_signs() {
        let overlay = Overlay::new();
        let (old, new) = (overlay.central.clone(), overlay.renew(&overlay.central, 0));
        let (trust, spool) = (
            Arc::new(NodeTrust::new(old.clone(), Pins::default(), Clock::default())),
            Arc::new(MemorySpool::default()),
        );
        let pen = PenOf::new(trust.clone(), spool.clone()).expect("stored");
        let signs_with = || {
            let signer = pen.sign(&[(Kind::Record, b"x")]).expect("signed")[0].signer;
            assert!(spool.chain(&signer).expect("readable").is_some());
            signer
        };
        assert_eq!(signs_with(), old.signer().certificate());
        trust.replace(new.clone());
        assert!(spool.chain(&new.signer().certificate()).expect("readable").is_none());
        assert_eq!(signs_with(), new.signer().certificate());
    }
}
