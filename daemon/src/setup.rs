//! `tramd init` and `tramd join`: from an empty directory to a node that can run.
//!
//! Writes keys first and the config last, so a directory with a config is complete. A config that exists is never
//! overwritten; keys only by a node that joins again.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tram_pki::enrol::Joined;
use tram_pki::keystore::{self, NodeKeys};
use tram_proto::join::{HostPort, Uplink};
use tram_proto::name::{NodeName, Role, Zone};

use crate::clock::Clock;
use crate::config::Config;
use crate::http::Loopback;
use crate::paths::Paths;

/// What both commands take.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Addresses {
    /// UDP address where neighbours dial in; without it this node only dials
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// UDP address where new nodes join while a token is live
    #[arg(long, value_name = "IP:PORT")]
    pub join_listen: Option<SocketAddr>,
    /// The address of --listen as others dial it: a name, an IPv4 or a bracketed IPv6 address
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<HostPort>,
    /// Loopback TCP address for /livez, /readyz and /metrics; a node with --dir has none without it
    #[arg(long, value_name = "IP:PORT")]
    pub http: Option<Loopback>,
}

/// Why a node could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is one already.
    #[error("{} is set up already ({} exists); use another --dir", dir.display(), config.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
        /// What was found.
        config: PathBuf,
    },
    /// The daemon holds the keys that are to be replaced.
    #[error("the node in {} is running: stop it, join again, start it", dir.display())]
    Running {
        /// The directory of its sockets.
        dir: PathBuf,
    },
    /// The node has a config already.
    #[error("this node joins again and keeps its config: leave out {flags} and change {} instead", config.display())]
    Addresses {
        /// What was given.
        flags: String,
        /// The config.
        config: PathBuf,
    },
    /// The directory or config could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The PKI.
    #[error(transparent)]
    Found(#[from] keystore::FoundError),
    /// The keys.
    #[error(transparent)]
    Key(#[from] keystore::KeyError),
}

/// Makes a new overlay with its first node, which is central or a province that begins alone.
///
/// # Errors
/// [`SetupError`]; what exists is left as it is.
pub fn init(
    paths: &Paths,
    zone: &Zone,
    (name, role): (&NodeName, Role),
    addresses: &Addresses,
    clock: Clock,
) -> Result<NodeKeys, SetupError> {
    prepare(paths)?;
    let found = if role == Role::Province { keystore::found_province } else { keystore::found };
    let keys = found(&paths.pki, zone, name, clock.wall_ms())?;
    write_config(paths, &config_text(name, addresses, None))?;
    Ok(keys)
}

/// Before a join as `name`: makes the directories, or, where that node lives already, sees that it can join again.
/// Whether another node lives there the join itself finds out.
///
/// # Errors
/// [`SetupError`].
pub fn before_join(paths: &Paths, name: &NodeName, addresses: &Addresses) -> Result<(), SetupError> {
    if !paths.config.exists() {
        return prepare(paths);
    }
    match keystore::resident(&paths.pki)? {
        None => return prepare(paths),
        Some((_, peer)) if peer.name != *name => return Ok(()),
        Some(_) => {}
    }
    let flags = [
        ("--listen", addresses.listen.is_some()),
        ("--join-listen", addresses.join_listen.is_some()),
        ("--advertise", addresses.advertise.is_some()),
        ("--http", addresses.http.is_some()),
    ];
    let given: Vec<&str> = flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect();
    if !given.is_empty() {
        return Err(SetupError::Addresses { flags: given.join(", "), config: paths.config.clone() });
    }
    if UnixStream::connect(paths.run.join("admin.sock")).is_ok() {
        return Err(SetupError::Running { dir: paths.run.clone() });
    }
    Ok(())
}

/// Keeps what a join brought.
///
/// # Errors
/// [`SetupError`]; a config that exists is left as it is.
pub fn joined(paths: &Paths, joined: &Joined, addresses: &Addresses) -> Result<NodeKeys, SetupError> {
    let keys = NodeKeys::install(&paths.pki, joined)?;
    if !paths.config.exists() {
        finish(paths, &joined.name, &joined.uplink, addresses)?;
    }
    Ok(keys)
}

/// Writes the config of a node that has its keys.
///
/// # Errors
/// [`SetupError`].
pub fn finish(paths: &Paths, name: &NodeName, uplink: &Uplink, addresses: &Addresses) -> Result<(), SetupError> {
    let uplink = (uplink.node.clone(), uplink.addresses.clone());
    write_config(paths, &config_text(name, addresses, Some(uplink)))
}

/// Makes the directories, unless there is a config.
///
/// # Errors
/// [`SetupError::Exists`], [`SetupError::Write`].
pub fn prepare(paths: &Paths) -> Result<(), SetupError> {
    if paths.config.exists() {
        return Err(SetupError::Exists { dir: paths.run.clone(), config: paths.config.clone() });
    }
    let config_dir = paths.config.parent().unwrap_or(Path::new("."));
    for (dir, mode) in [(config_dir, 0o711), (&paths.run, 0o711), (&paths.pki, 0o700), (&paths.spool, 0o700)] {
        make_dir(dir, mode).map_err(|source| SetupError::Write { path: dir.to_owned(), source })?;
    }
    Ok(())
}

pub(crate) fn make_dir(dir: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
}

fn write_config(paths: &Paths, text: &str) -> Result<(), SetupError> {
    let path = &paths.config;
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("toml.new");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| SetupError::Write { path: path.clone(), source })
}

fn config_text(name: &NodeName, addresses: &Addresses, uplink: Option<(NodeName, Vec<HostPort>)>) -> String {
    let mut out = format!(
        "# Node {name}. Every key: tramd.example.toml. Check: tramd check.\n\n[node]\ntitle = \"\"\n\n[listen]\n"
    );
    let mut key = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "{key} = \"{value}\"");
        }
    };
    key("overlay", addresses.listen.map(|a| a.to_string()));
    key("join", addresses.join_listen.map(|a| a.to_string()));
    key("advertise", addresses.advertise.as_ref().map(ToString::to_string));
    if let Some(http) = addresses.http {
        let _ = write!(out, "\n[http]\nlisten = \"{http}\"\n");
    }
    if let Some((node, dial)) = uplink {
        let dial: Vec<String> = dial.iter().map(|a| format!("\"{a}\"")).collect();
        let _ = write!(out, "\n[[uplink]]\nnode = \"{node}\"\naddresses = [{}]\n", dial.join(", "));
    }
    out.push_str("\n[access]\ninboxes = [\"vanban\"]\n");
    out
}

/// The addresses a token names: where to join, and where to dial this node afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    /// Of the join listener.
    pub join: Vec<HostPort>,
    /// Of the overlay listener.
    pub overlay: Vec<HostPort>,
}

impl Reachable {
    /// From the config.
    ///
    /// # Errors
    /// What is missing and the key that cures it.
    pub fn of(config: &Config) -> Result<Self, String> {
        let listen = &config.listen;
        let join = listen.join.ok_or("this node has no join address: set [listen] join (tramd init --join-listen)")?;
        let advertise = listen.advertise.as_ref().and_then(|a| a.parse::<HostPort>().ok());
        let of = |address: SocketAddr| -> Result<HostPort, String> {
            if !address.ip().is_unspecified() {
                return address.to_string().parse().map_err(|e| format!("{e}"));
            }
            let host = advertise.as_ref().ok_or(format!(
                "this node listens on {address}, which others cannot dial: set [listen] advertise (tramd init --advertise HOST:PORT)"
            ))?;
            let host = if host.host().contains(':') { format!("[{}]", host.host()) } else { host.host().to_owned() };
            format!("{host}:{}", address.port()).parse().map_err(|e| format!("{e}"))
        };
        let overlay = match (&advertise, listen.overlay) {
            (Some(advertise), _) => vec![advertise.clone()],
            (None, Some(address)) => vec![of(address)?],
            (None, None) => Vec::new(),
        };
        Ok(Self { join: vec![of(join)?], overlay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listen: &str, expect: Result<(&str, &str), &str>) {
        let config = Config::from_text(Path::new("t"), &format!("[listen]\n{listen}\n")).expect("valid");
        match (Reachable::of(&config), expect) {
            (Ok(got), Ok((join, overlay))) => {
                assert_eq!((got.join[0].as_str(), got.overlay[0].as_str()), (join, overlay));
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (got, _) => panic!("{got:?}"),
        }
    }

    #[test]
    fn a_token_names_addresses_that_others_can_dial() {
        check("overlay = \"127.0.0.1:1\"\njoin = \"127.0.0.1:2\"", Ok(("127.0.0.1:2", "127.0.0.1:1")));
        check(
            "overlay = \"0.0.0.0:1\"\njoin = \"0.0.0.0:2\"\nadvertise = \"hub.example:9\"",
            Ok(("hub.example:2", "hub.example:9")),
        );
        check(
            "overlay = \"[::]:1\"\njoin = \"[::]:2\"\nadvertise = \"[2001:db8::5]:1\"",
            Ok(("[2001:db8::5]:2", "[2001:db8::5]:1")),
        );
        check("overlay = \"0.0.0.0:1\"\njoin = \"0.0.0.0:2\"", Err("advertise"));
        check("overlay = \"127.0.0.1:1\"", Err("join"));
    }

    #[test]
    fn init_makes_a_node_and_leaves_an_existing_one_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths::new(Some(&dir.path().join("C")));
        let (zone, name) = ("tram.internal".parse().expect("zone"), "central".parse().expect("name"));
        let (listen, http) = ("127.0.0.1:7443".parse().ok(), "127.0.0.1:7480".parse().ok());
        let addresses = Addresses { listen, http, ..Addresses::default() };
        let keys = init(&paths, &zone, (&name, Role::Central), &addresses, Clock::default()).expect("made");
        assert_eq!(keys.identity().name, name);
        let config = Config::load(&paths).expect("valid");
        assert_eq!(config.listen.overlay, addresses.listen);
        assert_eq!(config.http.address(&paths), addresses.http);
        let mode = |path: &Path| std::fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!((mode(&paths.run), mode(&paths.pki), mode(&paths.spool)), (0o711, 0o700, 0o700));
        let again = init(&paths, &zone, (&name, Role::Central), &addresses, Clock::default()).expect_err("exists");
        assert!(again.to_string().contains("set up already"), "{again}");
    }
}
