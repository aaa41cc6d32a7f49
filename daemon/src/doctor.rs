//! The doctor: looks at a node and says what is wrong, each with its cure.
//!
//! | module | looks at |
//! |---|---|
//! | `finding` | nothing: the words, in English and Vietnamese |
//! | `files` | owners, permissions, what was left behind |
//! | `disk` | room, the time of a fsync, whether holes can be punched |
//! | `network` | names, the way to each uplink, what the kernel gives sockets |
//! | `probe` | one address |
//!
//! A running daemon examines itself and adds what it knows; for a stopped one `tramd doctor` looks at the files. Changes
//! nothing but one small file in the spool's directory, which it removes again. Says nothing secret.

mod disk;
mod files;
pub mod finding;
mod network;
mod probe;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use tram_pki::FileError;
use tram_pki::bundle::Bundle;
use tram_pki::clock::DAY_MS;
use tram_pki::keystore::{self, KeyError, NodeKeys};
use tram_proto::local::{self as api, LinkView};

use crate::clock::Clock;
use crate::config::{Config, ConfigError, view};
use crate::paths::Paths;

pub use finding::{Area, Finding, Language};

/// A node's certificate that ends sooner is told when no daemon is there to renew it, in milliseconds.
const SOON_MS: u64 = 14 * DAY_MS;
/// A neighbour's clock may differ by so much, in milliseconds. Links take 5 minutes.
const OFFSET_MS: u64 = 30_000;

/// What only a running daemon knows of itself.
#[derive(Debug, Default)]
pub struct Facts {
    /// What is wrong already, by the engine and by the PKI.
    pub findings: Vec<Finding>,
    /// The links.
    pub links: Vec<LinkView>,
    /// The config in force beside the files.
    pub config: api::ConfigAnswer,
    /// Whether a CA that is trusted here may certify the node's name.
    pub has_authority: bool,
    /// The node's name.
    pub name: String,
}

/// What was found, and what was measured on the way.
#[derive(Debug, Default)]
struct Chart {
    findings: Vec<Finding>,
    /// Measurements by area.
    measured: Vec<(Area, String)>,
    /// In which language they are told.
    language: Language,
}

impl Chart {
    fn add(&mut self, finding: Finding) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn measured(&mut self, area: Area, text: String) {
        self.measured.push((area, text));
    }

    fn answer(mut self, running: bool) -> api::DoctorAnswer {
        let place = |finding: &Finding| Area::ALL.iter().position(|area| *area == finding.code().0);
        self.findings.sort_by_key(place);
        let measured = |area: Area| {
            let of = self.measured.iter().filter(|(other, _)| *other == area).map(|(_, text)| text.as_str());
            of.collect::<Vec<_>>().join(", ")
        };
        let looked_at = Area::ALL.map(|area| api::Look { area: area.word().to_owned(), measured: measured(area) });
        let findings = self.findings.iter().map(|finding| finding.view(self.language)).collect();
        api::DoctorAnswer { findings, looked_at: looked_at.into(), running }
    }
}

/// Examines the node of `paths`. `facts` are those of its running daemon.
pub async fn examine(paths: &Paths, clock: Clock, facts: Option<Facts>, language: Language) -> api::DoctorAnswer {
    let mut chart = Chart { language, ..Chart::default() };
    let running = facts.is_some();
    let read = {
        let paths = paths.clone();
        tokio::task::spawn_blocking(move || Config::load(&paths)).await
    };
    let config = match read {
        Ok(Ok(config)) => Some(config),
        Ok(Err(why)) => {
            judge_config(&why, &mut chart);
            None
        }
        Err(_) => None,
    };
    let links = match facts {
        Some(facts) => {
            judge_facts(&facts, &mut chart);
            facts.links
        }
        None => {
            chart.add(Finding::Stopped(paths.option.clone()));
            Vec::new()
        }
    };
    let limits = disk::Limits::of(config.as_ref());
    let local = {
        let paths = paths.clone();
        tokio::task::spawn_blocking(move || {
            let mut chart = Chart { language, ..Chart::default() };
            files::look(&paths, running, clock, &mut chart);
            if running {
                look_at_chain(&paths, &mut chart)
            } else {
                look_at_keys(&paths.pki, clock, &mut chart)
            }
            disk::look(&paths.spool, limits, clock, &mut chart);
            chart
        })
    };
    if let Ok(local) = local.await {
        local.findings.into_iter().for_each(|finding| chart.add(finding));
        chart.measured.extend(local.measured);
    }
    network::look_at_buffers(std::path::Path::new(network::SYSCTL), &mut chart);
    if let Some(config) = &config {
        network::look(config, &links, &mut chart).await;
    }
    chart.answer(running)
}

fn judge_config(why: &ConfigError, chart: &mut Chart) {
    match why {
        ConfigError::Read { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            chart.add(Finding::Missing(path.clone()));
        }
        ConfigError::Read { path, source } => {
            chart.add(Finding::ConfigUnreadable(path.clone(), source.to_string()));
        }
        ConfigError::Faults(faults) => {
            faults.iter().for_each(|fault| chart.add(Finding::ConfigFault(fault.clone())));
        }
    }
}

fn judge_facts(facts: &Facts, chart: &mut Chart) {
    facts.findings.iter().for_each(|finding| chart.add(finding.clone()));
    let waiting = facts.config.keys.iter().filter(|key| key.waits);
    waiting.for_each(|key| chart.add(Finding::ConfigWaits(key.key.clone(), key.reloads)));
    if !facts.has_authority {
        chart.add(Finding::NoAuthority(facts.name.clone()));
    }
    for link in facts.links.iter().filter(|link| link.side == "up" && link.state == "up") {
        let Some(offset_ms) = link.clock_offset_ms else { continue };
        if offset_ms.unsigned_abs() > OFFSET_MS {
            chart.add(Finding::ClockOffset(link.peer.clone(), offset_ms));
        }
        chart.measured(Area::Clock, format!("{}: {offset_ms:+} ms", link.peer));
    }
}

/// What a running daemon holds in memory is judged by its own survey; here, whether it would find it again.
fn look_at_chain(paths: &Paths, chart: &mut Chart) {
    if let Err(why) = keystore::chain(&paths.pki) {
        chart.add(Finding::Keys(why.to_string()));
    }
}

fn look_at_keys(pki: &std::path::Path, clock: Clock, chart: &mut Chart) {
    let now_ms = clock.wall_ms();
    let keys = match NodeKeys::load(pki) {
        Ok(keys) => keys,
        // Said of the file already.
        Err(KeyError::File(FileError::Exposed { .. } | FileError::Owner { .. })) => return,
        Err(why) => return chart.add(Finding::Keys(why.to_string())),
    };
    let me = keys.identity();
    if now_ms < me.not_before_ms {
        let path = pki.join(keystore::NODE_PEM);
        chart.add(Finding::ClockBehind(path, (me.not_before_ms - now_ms) / 1000));
    }
    match me.not_after_ms.checked_sub(now_ms) {
        None => chart.add(Finding::CertificateEnded((now_ms - me.not_after_ms) / DAY_MS)),
        Some(left) if left < SOON_MS => chart.add(Finding::CertificateEnds(left / DAY_MS)),
        Some(_) => {}
    }
    let left = me.not_after_ms.saturating_sub(now_ms) / DAY_MS;
    chart.measured(Area::Certificates, format!("{}.{}: {left} d", me.name, keys.zone()));
    match Bundle::load(pki) {
        Ok((bundle, _)) => {
            // One that never came is nobody's fault yet; those of CAs that others use, a running node judges.
            let own = keys.trust().issuer_of(keys.chain()).map(|ca| ca.key);
            let counts = |(key, since_ms): &(_, u64)| *since_ms > 0 && (Some(*key) == own || bundle.is_root(key));
            let stale = bundle.stale(now_ms).into_iter().filter(counts).count();
            if stale > 0 {
                chart.add(Finding::ListsStale(stale));
            }
            if bundle.authorities().next().is_some() && bundle.closest(&me.name, now_ms).is_none() {
                chart.add(Finding::NoAuthority(me.name.to_string()));
            }
        }
        Err(why) => chart.add(Finding::Keys(why.to_string())),
    }
}

/// For a node that does not run: what `tramd doctor` prints for `tram doctor`.
pub(crate) fn of_stopped(paths: &Paths, clock: Clock, language: Language) -> std::io::Result<api::DoctorAnswer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(examine(paths, clock, None, language));
    // A name that is being looked up keeps nobody waiting.
    runtime.shutdown_background();
    Ok(answer)
}

/// For a node that does not run: the config of its files, or of one file.
pub(crate) fn config_of_stopped(paths: &Paths, file: Option<(PathBuf, String)>) -> api::ConfigAnswer {
    let read = match file {
        Some((path, text)) => Config::from_text(&path, &text),
        None => Config::load(paths),
    };
    let read = read.map(|config| config.entries);
    view::answer(None, read.as_ref())
}
