//! This node's own certificate: renewed in time, tried before it is relied on, and shown under every root.
//!
//! A new certificate is first shown on new links beside the old ones. Only when the uplink has accepted it, it is written
//! over the old one; until then a restart, or a refusal, goes on with the old. Whatever fails is tried again within the
//! hour: there are thirty days. Also asks for the certificate of this node's CA.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::{error, info, warn};
use tram_pki::authority::Scope;
use tram_pki::bundle::Bundle;
use tram_pki::clock::{BACKDATE_MS, DAY_MS};
use tram_pki::hash::Sha256;
use tram_pki::keystore::{self, NodeKeys};
use tram_pki::policy;
use tram_pki::renew::{self, AnswerError, GRACE_MS};
use tram_pki::rotate;
use tram_proto::id::NodeId;
use tram_proto::limits::CHAIN_CERTIFICATES;
use tram_proto::name::NodeName;
use tram_proto::pki::{Answer, Request};

use crate::clock::Clock;
use crate::issuer::Desk;
use crate::link::pki::herald::Herald;
use crate::link::trust::NodeTrust;
use crate::reload::Reloader;
use crate::shelf::Shelf;

/// The word under which the next key waits for its certificate.
const OCCASION: &str = "renewal";
/// After a failure it is tried again so much later at most; the first time much sooner.
const AGAIN_MAX: Duration = Duration::from_secs(3600);
const AGAIN: Duration = Duration::from_secs(5);
/// Looked at this often whatever happens: clocks jump, machines sleep.
const LOOK: Duration = Duration::from_secs(600);

/// When a CA has a new key, its nodes exchange their certificates within so long, each at its own time, so that not all
/// of them ask and dial again at once.
const SPREAD_MS: u64 = 60_000;

/// What keeps this node's certificates alive.
pub struct Renewal {
    /// The pki directory.
    pub pki: PathBuf,
    /// What is in force.
    pub trust: Arc<NodeTrust>,
    /// The bundle.
    pub shelf: Arc<Shelf>,
    /// This node's CA.
    pub desk: Option<Arc<Desk>>,
    /// Asks other nodes.
    pub herald: Arc<Herald>,
    /// Dials with the new certificate.
    pub reloader: Arc<Reloader>,
    /// Hears how each try to renew this node's certificate ended.
    pub tried: watch::Sender<Tried>,
    /// The time.
    pub clock: Clock,
}

/// How the last try to renew this node's certificate ended.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    /// Why it was not renewed; empty when it was, or when there was no try yet.
    pub error: String,
    /// The name that the next certificate has, when it is another: the node takes both at its next start.
    pub renamed: Option<NodeName>,
}

/// Why the certificate is to be exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Two thirds of its life are over.
    Due,
    /// Another CA certifies this name from now on.
    OtherCa,
    /// Its CA gave this node another name.
    Renamed,
    /// Somebody asked for it.
    Asked,
}

impl Renewal {
    /// Runs as long as the node. `asked` counts the times that an admin wants it at once.
    pub async fn run(self, mut asked: watch::Receiver<u64>) {
        let mut again = AGAIN;
        let (mut changes, mut said) = (self.shelf.changes(), false);
        let mut wanted = false;
        // Of a name that its CA does not give it after all, a node asks once.
        let mut given = None;
        loop {
            changes.mark_unchanged();
            let ok = self.look(wanted, &mut given, &mut said).await;
            wanted &= !ok;
            let spread = self.other_ca().map(|at_ms| at_ms.saturating_sub(self.clock.wall_ms()));
            let wait = if ok { spread.map_or(LOOK, |ms| LOOK.min(Duration::from_millis(ms))) } else { again };
            again = if ok { AGAIN } else { (again * 2).min(AGAIN_MAX) };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = changes.changed() => if changed.is_err() { return },
                changed = asked.changed() => match changed {
                    Ok(()) => wanted = true,
                    Err(_) => return,
                },
            }
        }
    }

    /// Does what is due; false when something has to be tried again soon.
    async fn look(&self, asked: bool, given: &mut Option<NodeName>, said: &mut bool) -> bool {
        if let Err(why) = self.show() {
            warn!(%why, "the certificates of this node's CA cannot be written");
        }
        let ca = self.look_after_ca().await;
        let name = self.next_name();
        let Some(why) = self.why(asked, name.is_some() && name != *given) else { return ca };
        match self.renew().await {
            Ok(until_ms) => {
                (*given, *said) = (name, false);
                self.tried.send_modify(|tried| tried.error.clear());
                info!(until = %tram_pki::clock::Utc(until_ms), ?why, "this node's certificate was renewed");
                ca
            }
            Err(problem) => {
                self.tell(&problem, said);
                self.tried.send_modify(|tried| tried.error = problem);
                false
            }
        }
    }

    /// The name that a CA says this node has, when it is another.
    fn next_name(&self) -> Option<NodeName> {
        let keys = self.trust.keys();
        let (id, name) = (keys.identity().id, &keys.identity().name);
        let next = |bundle: &Bundle| {
            let mut own = bundle.aliases().filter(|alias| alias.node == id && alias.old == *name);
            own.next().map(|alias| alias.new.clone())
        };
        self.shelf.with(next)
    }

    fn why(&self, asked: bool, renamed: bool) -> Option<Why> {
        let (keys, now_ms) = (self.trust.keys(), self.clock.wall_ms());
        let me = keys.identity();
        if asked {
            return Some(Why::Asked);
        }
        if self.tried.borrow().renamed.is_some() {
            return None;
        }
        if renamed {
            return Some(Why::Renamed);
        }
        if now_ms >= renew::due_ms(me) {
            return Some(Why::Due);
        }
        self.other_ca().filter(|at_ms| now_ms >= *at_ms).map(|_| Why::OtherCa)
    }

    /// When this node's certificate is to be exchanged because another CA certifies its name, Unix milliseconds.
    fn other_ca(&self) -> Option<u64> {
        let (keys, now_ms) = (self.trust.keys(), self.clock.wall_ms());
        let me = keys.identity();
        if self.tried.borrow().renamed.is_some() {
            return None;
        }
        let own = self.trust.roots().issuer_of(keys.chain())?;
        self.shelf.with(|bundle| {
            // A bundle that has not got this node's own CA yet has not got the others either.
            let known = bundle.authorities().any(|known| known.ca.key == own.key);
            let other = bundle.closest(&me.name, now_ms).filter(|ca| known && ca.key != own.key)?;
            let made_ms = other.not_before_ms.saturating_add(BACKDATE_MS);
            Some(if other.scope == own.scope { made_ms.saturating_add(share_ms(&me.id)) } else { 0 })
        })
    }

    fn tell(&self, problem: &str, said: &mut bool) {
        let (keys, now_ms) = (self.trust.keys(), self.clock.wall_ms());
        let me = keys.identity();
        let left_days = me.not_after_ms.saturating_sub(now_ms) / DAY_MS;
        if now_ms > me.not_after_ms {
            error!(problem, "{}", after_expiry(&me.name.to_string(), me.not_after_ms, now_ms, &self.holder()));
        } else if left_days < 14 || !*said {
            warn!(
                problem,
                left_days, "this node's certificate could not be renewed; it is tried again within the hour"
            );
        }
        *said = true;
    }

    /// Who holds the CA that certifies this node's name, as far as it is known here.
    fn holder(&self) -> String {
        let (keys, now_ms) = (self.trust.keys(), self.clock.wall_ms());
        let name = &keys.identity().name;
        let own = self.trust.roots().issuer_of(keys.chain()).map(|ca| ca.scope);
        let closest = self.shelf.with(|bundle| bundle.closest(name, now_ms).map(|ca| ca.scope.clone()));
        match own.into_iter().chain(closest).reduce(|one, other| if other.is_closer_than(&one) { other } else { one }) {
            Some(Scope::Below(apex) | Scope::From(apex)) => apex.to_string(),
            _ => "central".to_owned(),
        }
    }

    async fn renew(&self) -> Result<u64, String> {
        let keys = self.trust.keys();
        let now_ms = self.clock.wall_ms();
        let pki = self.pki.clone();
        let next = tokio::task::spawn_blocking(move || keystore::stage(&pki, OCCASION));
        let next = next.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let request = renew::request(&keys, &next).map_err(|e| e.to_string())?;
        let own = self.trust.roots().issuer_of(keys.chain()).map(|ca| ca.key);
        let closest = self.shelf.with(|bundle| bundle.closest(&keys.identity().name, now_ms).map(|ca| ca.key));
        let authority = closest.or(own).ok_or("no CA is known that certifies this node's name")?;
        let answer = self.ask(authority, Request::Renew(request)).await?;
        let trust = self.trust.roots();
        let mut chain = renew::accept(&keys, &next, &trust, answer, now_ms).map_err(|e| e.to_string())?;
        chain.truncate(CHAIN_CERTIFICATES);
        let tried = keys.renewed(&self.pki, chain.clone(), &next).map_err(|e| e.to_string())?;
        let (name, until_ms) = (tried.identity().name.clone(), tried.identity().not_after_ms);
        if name != keys.identity().name {
            // The engine and every link know the old name: both change together, when the node starts again.
            self.commit(chain).await?;
            warn!(%name, "this node has another name from its next start on: restart it (`systemctl restart tramd`)");
            self.tried.send_modify(|tried| tried.renamed = Some(name));
            return Ok(until_ms);
        }
        self.trust.replace(tried);
        // Both certificates are good: the old one serves until the new one is accepted.
        if let Err(why) = self.reloader.renew_links().await
            && now_ms < keys.identity().not_after_ms
        {
            self.trust.replace(NodeKeys::clone(&keys));
            return Err(format!("the uplink does not accept the new certificate: {why}"));
        }
        self.commit(chain).await?;
        Ok(until_ms)
    }

    async fn commit(&self, chain: Vec<CertificateDer<'static>>) -> Result<(), String> {
        let pki = self.pki.clone();
        let committed = tokio::task::spawn_blocking(move || keystore::commit_staged(&pki, &chain));
        committed.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    async fn ask(&self, authority: Sha256, request: Request) -> Result<Answer, String> {
        let now_ms = self.clock.wall_ms();
        let expired = self.trust.keys().identity().not_after_ms < now_ms;
        match self.herald.ask(authority.0, &request).await {
            // No link comes up with an expired certificate but the one that is there to cure it.
            Err(why) if expired => {
                let asked = self.reloader.ask_expired(authority.0, &request).await;
                asked.map_err(|other| format!("{why}; {other}"))
            }
            answer => answer,
        }
    }

    /// Shows this node's CA under every root that vouches for it.
    fn show(&self) -> Result<(), String> {
        let keys = self.trust.keys();
        let now_ms = self.clock.wall_ms();
        // By its key: what is shown may be under a root that is trusted no more.
        let Some(issuer) = keys.chain().get(1).and_then(|ca| policy::key_of(ca)) else { return Ok(()) };
        let before = keys.chain().get(1..).unwrap_or_default().to_vec();
        let most = CHAIN_CERTIFICATES - 1;
        let shown = self.shelf.with(|bundle| rotate::shown(bundle, &issuer, &before, most, now_ms));
        if shown.is_empty() || shown == before {
            return Ok(());
        }
        let again = keys.show(&self.pki, &shown).map_err(|e| e.to_string())?;
        self.trust.replace(again);
        Ok(())
    }

    /// Asks for the certificate that this node's CA key needs; false when it has to be asked for again soon.
    async fn look_after_ca(&self) -> bool {
        let Some(desk) = self.desk.clone() else { return true };
        let of = desk.clone();
        let wanted = tokio::task::spawn_blocking(move || {
            of.publish(false);
            if let Err(why) = of.take_up() {
                warn!(%why, "the CA of this node cannot take up its certificate");
            }
            of.wants_certificate()
        });
        let csr = match wanted.await {
            Ok(Some(Ok(csr))) => csr,
            Ok(None) | Err(_) => return true,
            Ok(Some(Err(why))) => {
                warn!(%why, "the CA's key cannot be used");
                return true;
            }
        };
        let Some(root) = self.shelf.with(Bundle::root_id) else { return true };
        let request = match renew::authority_request(&self.trust.keys(), csr) {
            Ok(request) => request,
            Err(why) => {
                warn!(%why, "a CA certificate cannot be asked for");
                return true;
            }
        };
        match self.ask(root, Request::Authority(request)).await {
            Ok(Answer::Granted(chain)) => {
                let done = tokio::task::spawn_blocking(move || desk.certified(&chain));
                match done.await {
                    Ok(Ok(())) => true,
                    Ok(Err(why)) => {
                        warn!(%why, "the CA certificate that came is not used");
                        false
                    }
                    Err(_) => false,
                }
            }
            Ok(Answer::Pending) => {
                info!("{}", AnswerError::Pending);
                false
            }
            Ok(Answer::Refused(why)) => {
                warn!(%why, "the root's holder gives no CA certificate");
                false
            }
            Err(_) => false,
        }
    }
}

/// A node's own time within [`SPREAD_MS`].
fn share_ms(node: &NodeId) -> u64 {
    Sha256::of(&node.0).0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)) % SPREAD_MS
}

/// What there is to do about a certificate that has ended.
#[must_use]
pub fn after_expiry(name: &str, not_after_ms: u64, now_ms: u64, holder: &str) -> String {
    let days = now_ms.saturating_sub(not_after_ms) / DAY_MS;
    if now_ms <= not_after_ms.saturating_add(GRACE_MS) {
        format!("this node's certificate expired {days} days ago; it is renewed as soon as the uplink can be reached")
    } else {
        format!(
            "this node's certificate expired {days} days ago, too long to renew it: on {holder} run `tram token new {name} > token`, and with that file here `tramd join --token-file token`"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_exchange_their_certificates_each_at_its_own_time() {
        let shares: Vec<u64> = (0..=255).map(|number| share_ms(&NodeId([number; 16]))).collect();
        assert_eq!(share_ms(&NodeId([7; 16])), shares[7], "the same at every look");
        assert!(shares.iter().all(|share| *share < SPREAD_MS));
        let mut of_second = [0; 60];
        shares.iter().for_each(|share| of_second[usize::try_from(share / 1000).expect("small")] += 1);
        assert!(of_second.iter().all(|count| *count < 20), "{of_second:?}");
    }
}
