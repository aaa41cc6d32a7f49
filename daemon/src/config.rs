//! The config: `tramd.toml` and `conf.d/*.toml`.
//!
//! Owns what may stand in it and which values can be. `files` reads and merges, [`keys`] is the table of keys with what
//! each means, which is also its documentation. Sizes carry units. Guarantees that all mistakes are reported at once, each
//! with file, line and what would be right.

mod files;
pub mod keys;
pub mod view;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use jiff::tz::TimeZone;
use serde::Deserialize;
use tram_proto::join::HostPort;
use tram_proto::name::{Inbox, NodeName};

use crate::http::{self, Loopback};
use crate::link::pace::{Congestion, Pace};
use crate::local::access::{Access, Rule};
use crate::paths::Paths;
use crate::plan::{Plan, PlanSection};

pub(crate) use files::Draft;
pub use files::{Entries, Entry};

/// The rules of access, as a key that changes.
pub(crate) const ACCESS_RULE: &str = "access.rule";

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
    /// Mistakes: all there are, in the order of files and lines.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1; `None` when the mistake stands in no single one.
    pub line: Option<usize>,
    /// The key, as in the table of keys; lists count from 1. Empty where the file cannot be read that far.
    pub key: String,
    /// What is wrong and what would be right.
    pub why: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.why)
    }
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
    /// What stands where in the files.
    pub entries: Entries,
}

impl Config {
    /// Reads the node's files.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(paths: &Paths) -> Result<Self, ConfigError> {
        let (mut draft, texts) = (Draft::default(), files::texts(paths)?);
        for (path, text) in &texts {
            draft.add(path, text);
        }
        let sections = draft.sections(&paths.config);
        sections.rules(&mut draft);
        sections.check(draft)
    }

    /// Reads one file's text, as [`Config::load`] would; users and groups are not looked up.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut draft = Draft::default();
        draft.add(path, text);
        draft.sections(path).check(draft)
    }

    /// The plan of a file for a node with these uplinks, unless the file has some itself.
    pub(crate) fn plan_of(path: &Path, text: &str, uplinks: &[Uplink]) -> Result<Plan, ConfigError> {
        let mut draft = Draft::default();
        draft.add(path, text);
        let mut sections = draft.sections(path);
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
        Ok(sections.check(draft)?.plan)
    }
}

fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name else { return Ok(TimeZone::try_system().unwrap_or(TimeZone::UTC)) };
    let wrong = |_| format!("there is no time zone {name:?}: give an IANA name such as \"Asia/Ho_Chi_Minh\"");
    TimeZone::get(name).map_err(wrong)
}

impl Sections {
    /// Looks up whom the rules are for.
    fn rules(&self, draft: &mut Draft) {
        for (at, rule) in self.access.rule.iter().enumerate() {
            if let Err(mut why) = Access::resolve(std::slice::from_ref(rule)) {
                why.is_of(at + 1);
                draft.wrong(&format!("{ACCESS_RULE}[{}]", at + 1), why.to_string());
            }
        }
    }

    fn uplinks(&self, draft: &mut Draft) -> Vec<Uplink> {
        let mut uplinks: Vec<Uplink> = Vec::new();
        for (at, section) in self.uplink.iter().enumerate() {
            let key = |name: &str| format!("uplink[{}].{name}", at + 1);
            let mut addresses = Vec::new();
            for address in &section.addresses {
                match address.parse::<HostPort>() {
                    Ok(address) => addresses.push(address),
                    Err(why) => draft.wrong(&key("addresses"), why.to_string()),
                }
            }
            if section.addresses.is_empty() {
                draft.wrong(&key("addresses"), "give at least one HOST:PORT".to_owned());
            }
            match section.node.parse::<NodeName>() {
                Err(why) => draft.wrong(&key("node"), why.to_string()),
                Ok(node) if uplinks.iter().any(|other| other.node == node) => {
                    let why = format!("{node} stands twice; give all its addresses in one [[uplink]]");
                    draft.wrong(&key("node"), why);
                }
                Ok(node) => uplinks.push(Uplink { node, addresses, congestion: section.congestion }),
            }
        }
        if self.uplink.len() > tram_proto::limits::UPLINKS {
            draft.wrong("uplink", format!("a node has at most {} uplinks", tram_proto::limits::UPLINKS));
        }
        uplinks
    }

    fn check(self, mut draft: Draft) -> Result<Config, ConfigError> {
        let mut inboxes = Vec::new();
        for inbox in &self.access.inboxes {
            match inbox.parse::<Inbox>() {
                Ok(inbox) => inboxes.push(inbox),
                Err(why) => draft.wrong("access.inboxes", why.to_string()),
            }
        }
        let uplinks = self.uplinks(&mut draft);
        if let Some(level) = &self.log.level
            && let Err(why) = tracing_subscriber::EnvFilter::try_new(level)
        {
            draft.wrong("log.level", format!("{level:?}: {why}"));
        }
        let http = HttpListen::of(self.http.listen.as_deref()).unwrap_or_else(|why| {
            draft.wrong("http.listen", why);
            HttpListen::Off
        });
        if let Some(Err(why)) = self.listen.advertise.as_ref().map(|advertise| advertise.parse::<HostPort>()) {
            draft.wrong("listen.advertise", why.to_string());
        }
        let zone = zone(self.node.timezone.as_deref()).unwrap_or_else(|why| {
            draft.wrong("node.timezone", why);
            TimeZone::UTC
        });
        let parents: Vec<NodeName> = uplinks.iter().map(|uplink| uplink.node.clone()).collect();
        let plan = self.plan.check(&mut draft, zone, &parents);
        let entries = draft.finish()?;
        Ok(Config {
            plan,
            node: self.node,
            listen: self.listen,
            inboxes,
            labels: self.access.labels,
            rules: self.access.rule,
            uplinks,
            spool: self.spool,
            http,
            log: self.log,
            entries,
        })
    }
}

#[cfg(test)]
mod tests;
