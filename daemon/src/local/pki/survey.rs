//! How certificates stand: what ends when, what is wrong, who stays behind in an exchange of keys.
//!
//! Looks at the bundle, the registry and the reports of the nodes below. Never changes anything.

use std::collections::{BTreeMap, BTreeSet};

use tram_pki::authority::{CA_MS, Scope};
use tram_pki::backup::LastBackup;
use tram_pki::bundle::Known;
use tram_pki::clock::{BACKDATE_MS, DAY_MS};
use tram_pki::hash::Sha256;
use tram_pki::policy;
use tram_pki::renew::{self, GRACE_MS};
use tram_pki::rotate::Stage;
use tram_proto::id::NodeId;
use tram_proto::local::{CertificateView, PkiBackupView, PkiNodeView, PkiRequestView, PkiRotation};
use tram_proto::name::{NodeName, Role};

use super::PkiDoor;
use crate::issuer::duties::CA_RENEW_MS;
use crate::issuer::records::Member;
use crate::local::station::Issuer as _;
use crate::registrar::renewal::after_expiry;

/// A node's certificate that ends sooner and has not been renewed is looked at, in milliseconds.
const NODE_SOON_MS: u64 = 14 * DAY_MS;
/// The same of a CA's, which is renewed a year before it ends: it still issues for 90 days less.
const CA_SOON_MS: u64 = CA_RENEW_MS;
/// The same of the newest root's: it can make a CA certificate only while it outlives that, and a year to act in.
const ROOT_SOON_MS: u64 = CA_MS + 365 * DAY_MS;
/// What was issued so long ago and is in no backup is told, in milliseconds.
const BACKUP_LATE_MS: u64 = 30 * DAY_MS;

/// The certificates of one CA key, taken together.
struct Issuer {
    scope: Scope,
    key: Sha256,
    not_before_ms: u64,
    not_after_ms: u64,
    /// Another key has taken its place.
    superseded: bool,
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A length of time for people, rounded down: days come first.
fn days(ms: u64) -> String {
    match ms / DAY_MS {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

impl PkiDoor {
    /// The CAs that are not revoked.
    fn issuers(&self) -> Vec<Issuer> {
        let mut found: BTreeMap<Sha256, Issuer> = BTreeMap::new();
        self.shelf.with(|bundle| {
            for known in bundle.authorities().filter(|known| !bundle.is_revoked(known)) {
                let ca = &known.ca;
                let one = found.entry(ca.key).or_insert_with(|| Issuer {
                    scope: ca.scope.clone(),
                    key: ca.key,
                    not_before_ms: ca.not_before_ms,
                    not_after_ms: 0,
                    superseded: false,
                });
                one.not_before_ms = one.not_before_ms.min(ca.not_before_ms);
                one.not_after_ms = one.not_after_ms.max(ca.not_after_ms);
            }
        });
        let mut newest: BTreeMap<Scope, u64> = BTreeMap::new();
        for one in found.values() {
            let at = newest.entry(one.scope.clone()).or_default();
            *at = one.not_before_ms.max(*at);
        }
        let mut issuers: Vec<Issuer> = found.into_values().collect();
        for one in &mut issuers {
            one.superseded = newest.get(&one.scope).is_some_and(|at| *at > one.not_before_ms);
        }
        issuers.sort_by(|a, b| (&a.scope, a.not_before_ms).cmp(&(&b.scope, b.not_before_ms)));
        issuers
    }

    /// Every certificate and revocation list there is, the node's own first.
    pub(crate) fn certificates(&self) -> Vec<CertificateView> {
        let keys = self.trust.keys();
        let me = keys.identity();
        let spki = keys.chain().first().and_then(|leaf| policy::key_of(leaf));
        let mut views = vec![CertificateView {
            name: me.name.to_string(),
            kind: "node".to_owned(),
            not_after_ms: me.not_after_ms,
            key: spki.map(|key| key.to_string()).unwrap_or_default(),
            own: true,
            ..CertificateView::default()
        }];
        let held = self.desk.as_ref().and_then(|desk| desk.authority());
        let own = [self.trust.roots().issuer_of(keys.chain()).map(|ca| ca.key), held];
        let issuers = self.issuers();
        let (mut roots, mut lists) = (Vec::new(), Vec::new());
        self.shelf.with(|bundle| {
            let list = |name: &str, key: &Sha256, own: bool| {
                bundle.crl(key).map(|crl| CertificateView {
                    name: name.to_owned(),
                    kind: "crl".to_owned(),
                    not_after_ms: crl.next_update_ms,
                    key: key.to_string(),
                    made_ms: crl.this_update_ms + BACKDATE_MS,
                    entries: crl.entries as u64,
                    own,
                })
            };
            for root in bundle.roots() {
                let (Some(key), name) = (policy::key_of(root), bundle.zone().to_string()) else { continue };
                lists.extend(list("the root", &key, true));
                roots.push(CertificateView {
                    name,
                    kind: "root".to_owned(),
                    not_after_ms: policy::not_after_ms(root).unwrap_or(0),
                    key: key.to_string(),
                    own: true,
                    ..CertificateView::default()
                });
            }
            for one in &issuers {
                lists.extend(list(&one.scope.to_string(), &one.key, own.contains(&Some(one.key))));
            }
        });
        views.extend(issuers.iter().map(|one| CertificateView {
            name: one.scope.to_string(),
            kind: "issuer".to_owned(),
            not_after_ms: one.not_after_ms,
            key: one.key.to_string(),
            own: own.contains(&Some(one.key)),
            ..CertificateView::default()
        }));
        views.extend(roots);
        views.extend(lists);
        views
    }

    /// What ends soon or is wrong, each with what to do. May block.
    pub(in crate::local) fn problems(&self) -> Vec<String> {
        let now_ms = self.clock.wall_ms();
        let mut problems = self.desk.as_ref().map(|desk| desk.problems()).unwrap_or_default();
        problems.extend(self.own_problem(now_ms));
        if let Some(name) = &self.tried.borrow().renamed {
            problems
                .push(format!("this node is {name} from its next start on: restart it (`systemctl restart tramd`)"));
        }
        let issuers = self.issuers();
        for one in issuers.iter().filter(|one| !one.superseded) {
            let (scope, left) = (&one.scope, one.not_after_ms.saturating_sub(now_ms));
            if one.not_after_ms <= now_ms {
                problems.push(format!("the certificate of the CA of {scope} has expired: nothing is issued by it"));
            } else if left < CA_SOON_MS {
                problems.push(format!(
                    "{} are left to the certificate of the CA of {scope}; its node asks for the next by itself, and where the root's key is away, it waits in `tram pki requests`",
                    days(left)
                ));
            }
        }
        let root_left = self.shelf.with(tram_pki::bundle::Bundle::roots_not_after_ms).saturating_sub(now_ms);
        if root_left < ROOT_SOON_MS {
            let left = days(root_left);
            problems.push(format!(
                "{left} are left to the root, too few to certify a CA by it for long: exchange it with `tram pki rotate root begin`, where its key is"
            ));
        }
        problems.extend(self.stale(&issuers, now_ms));
        for request in self.desk.as_ref().map(|desk| desk.requests()).unwrap_or_default() {
            let since = days(now_ms.saturating_sub(request.at_ms));
            problems.push(format!(
                "{} has waited {since} for its CA certificate: `tram pki requests --out DIR` writes the request, `tram pki root sign` signs it",
                request.name
            ));
        }
        let backup = self.desk.is_some().then(|| self.backup());
        if let Some((_, Some(oldest_ms))) = backup
            && now_ms.saturating_sub(oldest_ms) >= BACKUP_LATE_MS
        {
            problems.push(format!(
                "what this CA issued in the last {} is in no backup: `tram pki backup FILE`",
                days(now_ms.saturating_sub(oldest_ms))
            ));
        }
        problems
    }

    /// Whether a CA that is trusted here may certify a name.
    pub(in crate::local) fn may_be_certified(&self, name: &NodeName) -> bool {
        let now_ms = self.clock.wall_ms();
        // A node that holds the CA or has just joined may have heard of no other yet.
        self.shelf.with(|bundle| bundle.authorities().next().is_none() || bundle.closest(name, now_ms).is_some())
    }

    fn own_problem(&self, now_ms: u64) -> Option<String> {
        let keys = self.trust.keys();
        let me = keys.identity();
        if now_ms > me.not_after_ms {
            let closest = self.shelf.with(|bundle| bundle.closest(&me.name, now_ms).map(|ca| ca.scope.clone()));
            let holder = match closest {
                Some(Scope::Below(apex) | Scope::From(apex)) => apex.to_string(),
                _ => "central".to_owned(),
            };
            return Some(after_expiry(me.name.as_str(), me.not_after_ms, now_ms, &holder));
        }
        let left = me.not_after_ms - now_ms;
        (left < NODE_SOON_MS && now_ms >= renew::due_ms(me)).then(|| {
            let error = self.tried.borrow().error.clone();
            let why = if error.is_empty() { "it is being renewed".to_owned() } else { error };
            format!("{} are left to this node's certificate: {why}; `tram pki renew` tries at once", days(left))
        })
    }

    /// Revocation lists that should be newer, of CAs that anybody still uses.
    fn stale(&self, issuers: &[Issuer], now_ms: u64) -> Vec<String> {
        let used: BTreeSet<[u8; 32]> = self.herald.reports().into_iter().map(|report| report.authority).collect();
        let stale = self.shelf.with(|bundle| bundle.stale(now_ms));
        let problem = |(key, since_ms): (Sha256, u64)| {
            let issuer = issuers.iter().find(|one| one.key == key);
            let name = match issuer {
                Some(one) if one.superseded && !used.contains(&key.0) => return None,
                Some(one) => format!("the CA of {}", one.scope),
                None if self.shelf.with(|bundle| bundle.is_root(&key)) => "the root".to_owned(),
                // It was revoked as a whole.
                None => return None,
            };
            let cure = match name.as_str() {
                "the root" => "make it where the root's key is: `tram pki crl sign`, then `tram pki install` here",
                _ => "its node makes one each day: see whether it runs, and whether it is locked",
            };
            Some(match since_ms {
                0 => format!("the revocation list of {name} has not come here yet: {cure}"),
                since_ms => {
                    let ago = days(now_ms.saturating_sub(since_ms));
                    format!("the revocation list of {name} should have been renewed {ago} ago: {cure}")
                }
            })
        };
        stale.into_iter().filter_map(problem).collect()
    }

    pub(super) fn requests(&self) -> Vec<PkiRequestView> {
        let central = |name: &NodeName| {
            self.members().values().any(|member| member.record.name == *name && member.record.role == Role::Central)
        };
        let view = |one: tram_pki::registry::AuthorityRequest| PkiRequestView {
            overlay: central(&one.name),
            csr: one.csr().unwrap_or_default().into(),
            name: one.name.to_string(),
            key: one.key.to_string(),
            at_ms: one.at_ms,
        };
        self.desk.as_ref().map(|desk| desk.requests().into_iter().map(view).collect()).unwrap_or_default()
    }

    /// The last backup, and when the oldest was issued of what is not in it.
    pub(super) fn backup(&self) -> (PkiBackupView, Option<u64>) {
        let last = LastBackup::load(&self.pki);
        let made_ms = last.as_ref().map_or(0, |last| last.made_ms);
        let issued = self.desk.as_ref().map(|desk| desk.issued()).unwrap_or_default();
        let since: Vec<u64> = issued.into_iter().filter(|at_ms| *at_ms > made_ms).collect();
        let view =
            PkiBackupView { made_ms, keys: last.is_some_and(|last| last.keys), issued_since: since.len() as u64 };
        (view, since.into_iter().min())
    }

    fn members(&self) -> BTreeMap<NodeId, Member> {
        let members = self.desk.as_ref().map(|desk| desk.members()).unwrap_or_default();
        members.into_iter().map(|member| (member.record.id, member)).collect()
    }

    /// Who is registered here and what nodes have said of themselves, by name.
    pub(super) fn nodes(&self) -> Vec<PkiNodeView> {
        let mut nodes: BTreeMap<NodeId, PkiNodeView> = BTreeMap::new();
        for (id, Member { record, revoked }) in self.members() {
            let newest = record.certificates.last();
            let view = PkiNodeView {
                name: record.name.to_string(),
                id: id.to_string(),
                role: record.role.to_string(),
                serial: newest.map(|one| one.serial.clone()).unwrap_or_default(),
                not_after_ms: newest.map_or(0, |one| one.not_after_ms),
                registered: true,
                revoked,
                certificate: record.latest().map(|der| der.to_vec().into()).unwrap_or_default(),
                serials: record.certificates.iter().map(|one| one.serial.clone()).collect(),
                ..PkiNodeView::default()
            };
            nodes.insert(id, view);
        }
        let cut_off = self.revoked_authorities();
        for report in self.herald.reports() {
            let view = nodes.entry(report.node).or_default();
            if !view.registered {
                (view.name, view.role) = (report.name.to_string(), report.role.to_string());
                view.id = report.node.to_string();
            }
            if report.not_after_ms > view.not_after_ms {
                // Another CA certifies it by now.
                view.not_after_ms = report.not_after_ms;
                (view.serial, view.certificate) = Default::default();
            }
            view.revoked |= cut_off.contains(&report.authority);
            (view.roots_version, view.seen_ms) = (report.roots, report.at_ms);
            view.authority = hex(&report.authority);
        }
        let mut nodes: Vec<PkiNodeView> = nodes.into_values().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// The keys of CAs that were revoked as a whole.
    fn revoked_authorities(&self) -> BTreeSet<[u8; 32]> {
        self.shelf.with(|bundle| {
            let revoked = |known: &&Known| bundle.is_revoked(known);
            bundle.authorities().filter(revoked).map(|known| known.ca.key.0).collect()
        })
    }

    pub(super) fn rotation(&self) -> PkiRotation {
        let Some(desk) = &self.desk else {
            return PkiRotation { root: Stage::None.as_str().to_owned(), ..PkiRotation::default() };
        };
        let now = desk.rotation();
        PkiRotation {
            root: now.root.as_str().to_owned(),
            root_key_here: now.root_key_here,
            root_stragglers: self.root_stragglers(),
            old_cas: now.old_cas as u64,
            ca_waits: now.ca_waits,
            ca_stragglers: self.ca_stragglers(),
            tokens: desk.live_tokens(),
        }
    }

    /// Nodes that have not said that they trust the roots in force, and could come back with what they have.
    pub(super) fn root_stragglers(&self) -> Vec<String> {
        let now_ms = self.clock.wall_ms();
        let version = self.shelf.with(tram_pki::bundle::Bundle::version);
        let behind = |node: &PkiNodeView| {
            node.roots_version < version && !node.revoked && node.not_after_ms.saturating_add(GRACE_MS) >= now_ms
        };
        self.nodes().into_iter().filter(behind).map(|node| node.name).collect()
    }

    /// Nodes that use a certificate of an old CA key, or may: those that have said nothing since it was exchanged.
    pub(super) fn ca_stragglers(&self) -> Vec<String> {
        let Some(desk) = &self.desk else { return Vec::new() };
        let old: Vec<String> = desk.old_cas().into_iter().map(|key| key.to_string()).collect();
        if old.is_empty() {
            return Vec::new();
        }
        let now_ms = self.clock.wall_ms();
        let own = desk.authority();
        let exchanged_ms = self
            .issuers()
            .iter()
            .find(|one| Some(one.key) == own)
            .map_or(u64::MAX, |one| one.not_before_ms.saturating_add(BACKDATE_MS));
        let issued = |member: Member| member.record.certificates.last().map_or(0, |one| one.issued_at_ms);
        let issued: BTreeMap<String, u64> =
            self.members().into_iter().map(|(id, member)| (id.to_string(), issued(member))).collect();
        let issued_ms = |node: &PkiNodeView| issued.get(&node.id).copied().unwrap_or(0);
        let behind = |node: &PkiNodeView| {
            let uses =
                old.contains(&node.authority) || node.seen_ms == 0 && node.registered && issued_ms(node) < exchanged_ms;
            uses && !node.revoked && node.not_after_ms.saturating_add(GRACE_MS) >= now_ms
        };
        self.nodes().into_iter().filter(behind).map(|node| node.name).collect()
    }
}
