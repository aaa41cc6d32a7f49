//! Reload: takes over a changed config while the node runs.
//!
//! Owns what of the config is in force. Everything is read and checked first; a config with a fault anywhere changes
//! nothing. Guarantees that what could not be taken over is said again at each reload until a restart. DESIGN §10.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Mutex, watch};
use tracing::{error, info, warn};
use tram_proto::name::NodeName;
use tram_proto::pki::{Answer, Request};
use tram_relay::input::Side;

use crate::config::{ACCESS_RULE, Config, ConfigError, Entries, Fault, Uplink, keys};
use crate::link::Here;
use crate::link::dialer::{self, Uplinks};
use crate::link::pace::Pace;
use crate::local::access::{Access, AccessError};
use crate::local::station::{Issuer, Reload, ReloadError};
use crate::paths::Paths;
use crate::plan::{Plan, Rate};

/// A key whose value in the files is another than the one in force before the reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyChange {
    /// As in the files, `section.key`.
    pub key: &'static str,
    /// It is in force now; otherwise it needs a restart.
    pub applied: bool,
}

/// Reloads the config of one node.
pub struct Reloader {
    paths: Paths,
    inner: Mutex<InForce>,
}

struct InForce {
    config: Config,
    uplinks: Option<Uplinks>,
    access: watch::Sender<Arc<Access>>,
    here: Arc<Here>,
    issuer: Option<Arc<dyn Issuer>>,
}

impl Reloader {
    /// For a node that runs with this config.
    #[must_use]
    pub(crate) fn new(
        paths: Paths,
        config: Config,
        uplinks: Uplinks,
        access: watch::Sender<Arc<Access>>,
        here: Arc<Here>,
        issuer: Option<Arc<dyn Issuer>>,
    ) -> Self {
        Self { paths, inner: Mutex::new(InForce { config, uplinks: Some(uplinks), access, here, issuer }) }
    }

    /// Reads the files again and takes over what can be; answers every key that changed. The links of uplinks that are
    /// gone have ended when this returns.
    ///
    /// # Errors
    /// [`ConfigError`], with nothing changed.
    pub async fn reload(&self) -> Result<Vec<KeyChange>, ConfigError> {
        let mut now = self.inner.lock().await;
        let paths = self.paths.clone();
        // Names of users and groups may be looked up over the network.
        let read = tokio::task::spawn_blocking(move || {
            let config = Config::load(&paths)?;
            let access = access_of(&config, &paths)?;
            Ok((config, access))
        });
        let read = read.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let (new, access) = match read {
            Ok(read) => read,
            Err(why) => {
                now.here.engine.tally().reloaded(false);
                error!(%why, "the config was not reloaded; nothing has changed");
                return Err(why);
            }
        };
        if let Err(why) = now.knows(&new.plan).await {
            now.here.engine.tally().reloaded(false);
            error!(%why, "the config was not reloaded; nothing has changed");
            return Err(why);
        }
        now.here.engine.tally().reloaded(true);
        let changes = changes(&now.config, &new);
        for KeyChange { key, applied } in &changes {
            info!(key, "{}", if *applied { "config: applied" } else { "config: needs restart" });
            match *key {
                ACCESS_RULE => {
                    now.access.send_replace(access.clone());
                    now.config.rules.clone_from(&new.rules);
                }
                PLAN => {
                    now.here.plan.send_replace(Arc::new(new.plan.clone()));
                    now.config.plan.clone_from(&new.plan);
                }
                UPLINK if *applied => {
                    now.config.uplinks.clone_from(&new.uplinks);
                    if let Some(uplinks) = &mut now.uplinks {
                        uplinks.change(to_dial(&new)).await;
                    }
                }
                _ => {}
            }
        }
        let waits = |name: &str| changes.iter().any(|change| !change.applied && keys::is_within(name, change.key));
        now.config.entries = new.entries.keeping(&now.config.entries, waits);
        info!(changed = changes.len(), "the config was reloaded");
        Ok(changes)
    }

    /// Says in the log what the plan in force names and this node does not know.
    pub(crate) async fn look_at_plan(&self) {
        let now = self.inner.lock().await;
        if let Err(why) = now.knows(&now.config.plan).await {
            warn!(%why, "the plan is in force but for this");
        }
    }

    /// Dials every uplink that is up once more, with the keys and the trust in force: [`Uplinks::renew`].
    ///
    /// # Errors
    /// Why no link was renewed, though one was up.
    pub async fn renew_links(&self) -> Result<usize, String> {
        let renewing = self.inner.lock().await.uplinks.as_ref().map(Uplinks::renew);
        match renewing {
            Some(renewing) => renewing.await,
            None => Ok(0),
        }
    }

    /// Asks a CA though this node's certificate has expired: [`Uplinks::ask_expired`].
    ///
    /// # Errors
    /// What was tried.
    pub async fn ask_expired(&self, authority: [u8; 32], request: &Request) -> Result<Answer, String> {
        let asking = self.inner.lock().await.uplinks.as_ref().map(|up| up.ask_expired(authority, request.clone()));
        match asking {
            Some(asking) => asking.await,
            None => Err("the node is stopping".to_owned()),
        }
    }

    /// Ends dialling; nothing is taken over any more.
    pub(crate) async fn stop(&self) {
        self.inner.lock().await.uplinks = None;
    }
}

const UPLINK: &str = "uplink";
const PLAN: &str = "plan";

impl InForce {
    /// Whether every neighbour a plan names is one: an uplink, a node of this one's tree, or one that may join here.
    async fn knows(&self, plan: &Plan) -> Result<(), ConfigError> {
        if plan.nodes().next().is_none() {
            return Ok(());
        }
        let mut known: BTreeSet<NodeName> = self.config.uplinks.iter().map(|uplink| uplink.node.clone()).collect();
        if let Ok(snapshot) = self.here.engine.snapshot().await {
            known.extend(snapshot.nodes.into_iter().map(|node| node.name));
            known.extend(snapshot.links.into_iter().map(|link| link.peer));
        }
        if let Some(issuer) = self.issuer.clone() {
            let names = tokio::task::spawn_blocking(move || issuer.nodes());
            known.extend(names.await.ok().and_then(Result::ok).into_iter().flatten().map(|node| node.name));
        }
        plan.only_names(&known)
    }
}

#[tonic::async_trait]
impl Reload for Reloader {
    async fn reload(&self) -> Result<Vec<KeyChange>, ReloadError> {
        Self::reload(self).await.map_err(|why| ReloadError(why.to_string()))
    }

    async fn config(&self, file: Option<(String, String)>) -> (Entries, Result<Entries, ConfigError>) {
        let in_force = self.inner.lock().await.config.entries.clone();
        let paths = self.paths.clone();
        let read = tokio::task::spawn_blocking(move || match file {
            Some((name, text)) => Config::from_text(name.as_ref(), &text),
            None => Config::load(&paths),
        });
        let read = read.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        (in_force, read.map(|config| config.entries))
    }

    async fn plan(&self, file: Option<(String, String)>) -> Result<Plan, ReloadError> {
        let now = self.inner.lock().await;
        let (paths, uplinks) = (self.paths.clone(), now.config.uplinks.clone());
        let read = tokio::task::spawn_blocking(move || match file {
            Some((name, text)) => Config::plan_of(name.as_ref(), &text, &uplinks),
            None => Config::load(&paths).map(|config| config.plan),
        });
        let plan = read.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let plan = plan.map_err(|why| ReloadError(why.to_string()))?;
        now.knows(&plan).await.map_err(|why| ReloadError(why.to_string()))?;
        Ok(plan)
    }
}

/// The rules of a config, as the sockets take them.
pub(crate) fn access_of(config: &Config, paths: &Paths) -> Result<Arc<Access>, ConfigError> {
    let wrong = |error: AccessError| {
        let (path, key) = (paths.config.clone(), ACCESS_RULE.to_owned());
        ConfigError::Faults(vec![Fault { path, line: None, key, why: error.to_string() }])
    };
    Access::resolve(&config.rules).map(Arc::new).map_err(wrong)
}

/// The uplinks of a config, as they are dialled.
pub(crate) fn to_dial(config: &Config) -> Vec<dialer::Uplink> {
    let uplink = |uplink: &Uplink| dialer::Uplink {
        node: uplink.node.clone(),
        addresses: uplink.addresses.iter().map(ToString::to_string).collect(),
        // The plan declares the rate; a reload of it alone changes no uplink, and the link hears of it by itself.
        pace: Pace {
            congestion: uplink.congestion,
            rate_bytes_per_s: config.plan.declared(&uplink.node, Side::Up(0)).map(Rate::bytes),
        },
    };
    config.uplinks.iter().map(uplink).collect()
}

/// The keys in which `new` differs from `old`, and whether each can be taken over. Exhaustive, so that a new section
/// cannot be forgotten.
fn changes(old: &Config, new: &Config) -> Vec<KeyChange> {
    let Config { node, listen, inboxes, labels, rules, uplinks, plan, spool, http, log, entries: _ } = old;
    // The core knows from its start whether it is the top of its tree.
    let stays_top = uplinks.is_empty() == new.uplinks.is_empty();
    [
        ("node.title", node.title != new.node.title),
        ("listen.overlay", listen.overlay != new.listen.overlay),
        ("listen.congestion", listen.congestion != new.listen.congestion),
        ("listen.join", listen.join != new.listen.join),
        ("listen.advertise", listen.advertise != new.listen.advertise),
        ("access.inboxes", *inboxes != new.inboxes),
        ("access.labels", *labels != new.labels),
        (ACCESS_RULE, *rules != new.rules),
        (UPLINK, *uplinks != new.uplinks),
        // Its hours are in the time zone of the node.
        (PLAN, *plan != new.plan),
        ("spool.max", spool.max != new.spool.max),
        ("spool.keep_free", spool.keep_free != new.spool.keep_free),
        ("spool.cache", spool.cache != new.spool.cache),
        ("http.listen", *http != new.http),
        ("log.level", log.level != new.log.level),
        ("log.format", log.format != new.log.format),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| KeyChange { key, applied: keys::reloads(key) && (key != UPLINK || stays_top) })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        Config::from_text(Path::new("tramd.toml"), text).expect("valid")
    }

    #[track_caller]
    fn check(old: &str, new: &str, expect: &[(&'static str, bool)]) {
        let got: Vec<_> = changes(&config(old), &config(new)).iter().map(|c| (c.key, c.applied)).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn every_key_that_differs_is_named_with_whether_it_is_in_force() {
        let full = include_str!("../tramd.example.toml");
        let full: String = full.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l)).collect::<Vec<_>>().join("\n");
        check(&full, &full, &[]);
        check("", "[[access.rule]]\nusers = [\"root\"]\nsend = true\n", &[("access.rule", true)]);
        check("[access]\nlabels = []\n", "[access]\nlabels = [\"noi-bo\"]\n", &[("access.labels", false)]);
        let uplink = |node: &str| format!("[[uplink]]\nnode = \"{node}\"\naddresses = [\"h:1\"]\n");
        check(&uplink("a"), &uplink("b"), &[("uplink", true)]);
        check(&uplink("a"), &format!("{}{}", uplink("a"), uplink("b")), &[("uplink", true)]);
        let declared = |rate: &str| format!("{}[[plan.line]]\nlink = \"uplink\"\nrate = \"{rate}\"\n", uplink("a"));
        check(&declared("20mbit"), &declared("10mbit"), &[("plan", true)]);
        check("", &uplink("a"), &[("uplink", false)]);
        check(&uplink("a"), "", &[("uplink", false)]);
        let keys = changes(&config(""), &config(&full));
        let all = ["node.title", "listen.overlay", "listen.join", "listen.advertise", "access.inboxes", "access.rule"];
        let more = ["uplink", "plan", "spool.max", "spool.keep_free", "spool.cache", "http.listen", "log.level"];
        assert_eq!(keys.iter().map(|c| c.key).collect::<Vec<_>>(), [&all[..], &more[..]].concat());
    }
}
