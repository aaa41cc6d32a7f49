//! The config: `tramd.toml` and `conf.d/*.toml`.
//!
//! Every file is read alone first, so that an unknown key is reported with its file, line and the names that would be
//! valid; then they are merged in the order of their names. A list adds up, a single value stands in one file only. Sizes
//! carry units. What a key means is said in `tramd.example.toml`, which a test parses.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use jiff::tz::TimeZone;
use serde::Deserialize;
use toml::{Table, Value};
use tram_proto::join::HostPort;
use tram_proto::name::{Inbox, NodeName};

use crate::http::{self, Loopback};
use crate::link::pace::{Congestion, Pace};
use crate::local::access::Rule;
use crate::paths::Paths;
use crate::plan::{Origins, Plan, PlanSection};

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}; make one with `tramd init` or `tramd join`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be; the text names line, column and key.
    #[error("{}: {text}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// What the parser says.
        text: String,
    },
    /// Two files say different things.
    #[error("{key} stands in {} and in {}; keep one of them", first.display(), second.display())]
    Twice {
        /// Which key.
        key: String,
        /// The file that has it.
        first: PathBuf,
        /// The file that has it too.
        second: PathBuf,
    },
    /// A value that parses but cannot be.
    #[error("{}: {key}: {why}", path.display())]
    Value {
        /// The file, or the first of several.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong and what would be right.
        why: String,
    },
}

/// `[node]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Shown to people beside the name.
    pub title: String,
    /// The IANA name of the time zone that its plan is in; none: the machine's.
    pub timezone: Option<String>,
}

/// `[listen]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Where neighbours dial in; none: this node opens no listener.
    pub overlay: Option<SocketAddr>,
    /// Where new nodes join, while a token is live.
    pub join: Option<SocketAddr>,
    /// `HOST:PORT` of `overlay` as others dial it.
    pub advertise: Option<String>,
    /// How this node sends to those that dial in.
    pub congestion: Congestion,
}

impl Listen {
    pub(crate) fn pace(&self) -> Pace {
        Pace { congestion: self.congestion, rate_bytes_per_s: None }
    }
}

/// `[access]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessSection {
    /// Inboxes declared here, beside those of `tram inbox create`.
    pub inboxes: Vec<String>,
    /// Labels that may be carried.
    pub labels: Vec<String>,
    /// Who else may send and receive.
    pub rule: Vec<Rule>,
}

/// `[[uplink]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct UplinkSection {
    node: String,
    addresses: Vec<String>,
    #[serde(default)]
    congestion: Congestion,
}

/// A parent of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub node: NodeName,
    /// Where it listens, tried in order.
    pub addresses: Vec<HostPort>,
    /// What this node's controller is on the way to it.
    pub congestion: Congestion,
}

/// `[spool]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolSection {
    /// The most the spool takes; none: what the disk has.
    pub max: Option<ByteSize>,
    /// What stays free on the disk for acknowledgements and receipts.
    pub keep_free: Option<ByteSize>,
    /// Memory for the index.
    pub cache: Option<ByteSize>,
}

/// `[log]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter of `tracing`.
    pub level: Option<String>,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one object a line.
    Json,
}

/// `[http]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HttpSection {
    listen: Option<String>,
}

/// Where metrics are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HttpListen {
    /// Where the node's files are decides: [`http::DEFAULT`] in the system's places, nowhere under `--dir`.
    #[default]
    Unsaid,
    /// Nowhere.
    Off,
    /// Here.
    At(Loopback),
}

impl HttpListen {
    fn of(text: Option<&str>) -> Result<Self, String> {
        match text {
            None => Ok(Self::Unsaid),
            Some("") => Ok(Self::Off),
            Some(text) => text.parse().map(Self::At),
        }
    }

    /// What it means for the node of these paths.
    pub(crate) fn address(self, paths: &Paths) -> Option<Loopback> {
        match self {
            Self::Unsaid if paths.is_system() => http::DEFAULT.parse().ok(),
            Self::Unsaid | Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sections {
    node: NodeSection,
    listen: Listen,
    access: AccessSection,
    uplink: Vec<UplinkSection>,
    plan: PlanSection,
    spool: SpoolSection,
    http: HttpSection,
    log: LogSection,
}

/// A config that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[node]`
    pub node: NodeSection,
    /// `[listen]`
    pub listen: Listen,
    /// Inboxes declared here.
    pub inboxes: Vec<Inbox>,
    /// Labels that may be carried.
    pub labels: Vec<String>,
    /// Who else may send and receive.
    pub rules: Vec<Rule>,
    /// The parents in order of preference.
    pub uplinks: Vec<Uplink>,
    /// `[plan]`, in the node's time zone
    pub plan: Plan,
    /// `[spool]`
    pub spool: SpoolSection,
    /// `[http] listen`
    pub http: HttpListen,
    /// `[log]`
    pub log: LogSection,
}

impl Config {
    /// Reads the node's files.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(paths: &Paths) -> Result<Self, ConfigError> {
        let mut files = vec![paths.config.clone()];
        files.extend(more_files(&paths.conf_d)?);
        let mut merged = Table::new();
        let (mut origins, mut plan) = (Vec::new(), Origins::default());
        for path in &files {
            let text =
                std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            parse(path, &text)?;
            plan.note(path, &text);
            let table: Table = text.parse().map_err(|e| parse_error(path, &e))?;
            merge(&mut merged, table, "", path, &mut origins)?;
        }
        let sections = Sections::deserialize(merged).map_err(|e| parse_error(&paths.config, &e))?;
        sections.check(&paths.config, &plan)
    }

    /// Reads one file's text, as [`Config::load`] would.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut plan = Origins::default();
        plan.note(path, text);
        parse(path, text)?.check(path, &plan)
    }
}

impl Config {
    /// The plan of a file for a node with these uplinks, unless the file has some itself.
    pub(crate) fn plan_of(path: &Path, text: &str, uplinks: &[Uplink]) -> Result<Plan, ConfigError> {
        let mut sections = parse(path, text)?;
        if sections.uplink.is_empty() {
            sections.uplink = uplinks
                .iter()
                .map(|uplink| UplinkSection {
                    node: uplink.node.to_string(),
                    addresses: uplink.addresses.iter().map(ToString::to_string).collect(),
                    congestion: uplink.congestion,
                })
                .collect();
        }
        let mut entries = Origins::default();
        entries.note(path, text);
        Ok(sections.check(path, &entries)?.plan)
    }
}

fn parse(path: &Path, text: &str) -> Result<Sections, ConfigError> {
    toml::from_str(text).map_err(|error| parse_error(path, &error))
}

fn parse_error(path: &Path, error: &toml::de::Error) -> ConfigError {
    ConfigError::Parse { path: path.to_owned(), text: error.to_string().trim_end().to_owned() }
}

fn more_files(conf_d: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match std::fs::read_dir(conf_d) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { path: conf_d.to_owned(), source }),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    Ok(files)
}

fn merge(
    into: &mut Table,
    from: Table,
    prefix: &str,
    path: &Path,
    origins: &mut Vec<(String, PathBuf)>,
) -> Result<(), ConfigError> {
    for (key, value) in from {
        let full = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new, &full, path, origins)?,
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (None, Value::Table(new)) => {
                let mut table = Table::new();
                merge(&mut table, new, &full, path, origins)?;
                into.insert(key, Value::Table(table));
            }
            (None, new) => {
                origins.push((full, path.to_owned()));
                into.insert(key, new);
            }
            (Some(_), _) => {
                let first = origins.iter().find(|(k, _)| *k == full).map(|(_, p)| p.clone()).unwrap_or_default();
                return Err(ConfigError::Twice { key: full, first, second: path.to_owned() });
            }
        }
    }
    Ok(())
}

fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name else { return Ok(TimeZone::try_system().unwrap_or(TimeZone::UTC)) };
    let wrong = |_| format!("there is no time zone {name:?}: give an IANA name such as \"Asia/Ho_Chi_Minh\"");
    TimeZone::get(name).map_err(wrong)
}

impl Sections {
    fn check(self, path: &Path, entries: &Origins) -> Result<Config, ConfigError> {
        let wrong = |key, why: String| ConfigError::Value { path: path.to_owned(), key, why };
        let inboxes = self.access.inboxes.iter().map(|i| i.parse::<Inbox>()).collect::<Result<_, _>>();
        let mut uplinks: Vec<Uplink> = Vec::new();
        for uplink in &self.uplink {
            let node: NodeName = uplink.node.parse().map_err(|e| wrong("uplink.node", format!("{e}")))?;
            let addresses = uplink.addresses.iter().map(|a| a.parse::<HostPort>()).collect::<Result<Vec<_>, _>>();
            let addresses = addresses.map_err(|e| wrong("uplink.addresses", e.to_string()))?;
            if addresses.is_empty() {
                return Err(wrong("uplink.addresses", "give at least one HOST:PORT".to_owned()));
            }
            if uplinks.iter().any(|other| other.node == node) {
                let why = format!("{node} stands twice; give all its addresses in one [[uplink]]");
                return Err(wrong("uplink.node", why));
            }
            uplinks.push(Uplink { node, addresses, congestion: uplink.congestion });
        }
        if uplinks.len() > tram_proto::limits::UPLINKS {
            let why = format!("a node has at most {} uplinks", tram_proto::limits::UPLINKS);
            return Err(wrong("uplink", why));
        }
        if let Some(level) = &self.log.level {
            tracing_subscriber::EnvFilter::try_new(level).map_err(|e| wrong("log.level", format!("{level:?}: {e}")))?;
        }
        if let Some(advertise) = &self.listen.advertise {
            advertise.parse::<HostPort>().map_err(|e| wrong("listen.advertise", e.to_string()))?;
        }
        let http = HttpListen::of(self.http.listen.as_deref()).map_err(|why| wrong("http.listen", why))?;
        let zone = zone(self.node.timezone.as_deref()).map_err(|why| wrong("node.timezone", why))?;
        let parents: Vec<NodeName> = uplinks.iter().map(|uplink| uplink.node.clone()).collect();
        let plan = self.plan.check(entries, zone, &parents).map_err(|error| {
            let path = error.path.unwrap_or_else(|| path.to_owned());
            ConfigError::Value { path, key: error.key, why: error.why }
        })?;
        Ok(Config {
            plan,
            node: self.node,
            listen: self.listen,
            inboxes: inboxes.map_err(|e| wrong("access.inboxes", e.to_string()))?,
            labels: self.access.labels,
            rules: self.access.rule,
            uplinks,
            spool: self.spool,
            http,
            log: self.log,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<(), &[&str]>) {
        let got = Config::from_text(Path::new("tramd.toml"), text).map(|_| ()).map_err(|e| e.to_string());
        match expect {
            Ok(()) => assert_eq!(got, Ok(())),
            Err(parts) => {
                let error = got.expect_err("refused");
                assert!(parts.iter().all(|part| error.contains(part)), "{error}");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_valid_ones() {
        check("", Ok(()));
        check(
            "[spool]\nmax = \"1GiB\"\nkeepfree = \"1MiB\"\n",
            Err(&["tramd.toml", "line 3", "keepfree", "keep_free"]),
        );
        check("[sppol]\n", Err(&["line 1", "sppol", "spool"]));
        check("[[uplink]]\nnode = \"a\"\n", Err(&["addresses"]));
        check("[spool]\nmax = 5\n[", Err(&["line 3"]));
    }

    #[test]
    fn a_value_that_cannot_be_is_named_with_its_cure() {
        check("[access]\ninboxes = [\"a/b\"]\n", Err(&["access.inboxes", "a/b"]));
        check("[[uplink]]\nnode = \"A\"\naddresses = [\"h:1\"]\n", Err(&["uplink.node", "\"a\""]));
        check("[[uplink]]\nnode = \"a\"\naddresses = [\"h\"]\n", Err(&["uplink.addresses"]));
        check("[[uplink]]\nnode = \"a\"\naddresses = []\n", Err(&["at least one"]));
        let twice = "[[uplink]]\nnode = \"a\"\naddresses = [\"h:1\"]\n".repeat(2);
        check(&twice, Err(&["uplink.node", "a stands twice"]));
        check("[listen]\ncongestion = \"reno\"\n", Err(&["line 2", "reno", "tram", "cubic", "bbr"]));
        check("[http]\nlisten = \"0.0.0.0:7480\"\n", Err(&["http.listen", "mutual TLS", "127.0.0.1:7480"]));
        check("[http]\nlisten = \"localhost\"\n", Err(&["http.listen", "IP:PORT"]));
        check("[http]\nlisten = \"\"\n", Ok(()));
        check("[log]\nlevel = \"tramd=loud\"\n", Err(&["log.level", "loud"]));
    }

    #[test]
    fn the_example_is_valid_and_names_every_key() {
        let text = include_str!("../tramd.example.toml");
        let config = Config::from_text(Path::new("tramd.example.toml"), text).expect("valid");
        assert_eq!(config.uplinks.len(), 1);
        let uncommented: String =
            text.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l)).collect::<Vec<_>>().join("\n");
        let full = Config::from_text(Path::new("tramd.example.toml"), &uncommented).expect("valid with every key set");
        assert!(full.spool.max.is_some() && full.listen.advertise.is_some() && !full.rules.is_empty());
        assert!(full.node.timezone.is_some() && full.plan != config.plan);
    }

    #[test]
    fn the_http_door_is_open_in_the_systems_places_and_elsewhere_when_it_is_said() {
        let (system, own) = (Paths::new(None), Paths::new(Some(Path::new("/tmp/C"))));
        let at = |text: Option<&str>, paths| HttpListen::of(text).expect("valid").address(paths).map(|a| a.to_string());
        assert_eq!(at(None, &system).as_deref(), Some(http::DEFAULT));
        assert_eq!(at(None, &own), None);
        assert_eq!(at(Some(""), &system), None);
        assert_eq!(at(Some("[::1]:80"), &own).as_deref(), Some("[::1]:80"));
    }

    #[test]
    fn files_add_up_and_contradictions_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths::new(Some(dir.path()));
        std::fs::create_dir(&paths.conf_d).expect("made");
        std::fs::write(&paths.config, "[access]\ninboxes = [\"vanban\"]\n[node]\ntitle = \"A\"\n").expect("written");
        std::fs::write(paths.conf_d.join("10-more.toml"), "[access]\ninboxes = [\"khan\"]\n").expect("written");
        assert_eq!(Config::load(&paths).expect("merged").inboxes.len(), 2);
        std::fs::write(paths.conf_d.join("20-title.toml"), "[node]\ntitle = \"B\"\n").expect("written");
        let error = Config::load(&paths).expect_err("twice").to_string();
        assert!(error.contains("node.title") && error.contains("20-title.toml"), "{error}");
    }
}
