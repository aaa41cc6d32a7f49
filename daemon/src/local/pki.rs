//! What an administrator asks and orders about certificates, call by call.
//!
//! What there is to see is in `survey`; what is done, the CA, the bundle and the renewal do.

mod survey;
#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::warn;
use tram_pki::ceremony;
use tram_pki::crl::Reason;
use tram_pki::parcel::Parcel;
use tram_proto::id::NodeId;
use tram_proto::join::{HostPort, Uplink};
use tram_proto::local::{
    PkiInstallAnswer, PkiNodesAnswer, PkiPinRequest, PkiRenameRequest, PkiRenewAnswer, PkiRevokeRequest,
    PkiRotateRequest, PkiRotation, PkiStatusAnswer,
};
use tram_proto::name::NodeName;
use tram_proto::pki::{Object, PkiFrame, Report};

use super::station::IssuerError;
use crate::clock::Clock;
use crate::issuer::Desk;
use crate::issuer::duties::RootStep;
use crate::link::pki::herald::Herald;
use crate::link::trust::NodeTrust;
use crate::registrar::renewal::Tried;
use crate::shelf::Shelf;

/// A renewal that was asked for is waited for so long: two questions to the CAs, and dialling the uplinks.
const RENEWAL: Duration = Duration::from_secs(150);

/// What the calls about certificates work with.
pub struct PkiDoor {
    /// The pki directory.
    pub pki: PathBuf,
    /// The bundle.
    pub shelf: Arc<Shelf>,
    /// This node's CA.
    pub desk: Option<Arc<Desk>>,
    /// What nodes below have said of themselves.
    pub herald: Arc<Herald>,
    /// What is in force.
    pub trust: Arc<NodeTrust>,
    /// Raised to have this node's certificate renewed at once.
    pub renew_now: watch::Sender<u64>,
    /// How the last renewal ended.
    pub tried: watch::Receiver<Tried>,
    /// The time.
    pub clock: Clock,
}

fn invalid(why: impl std::fmt::Display) -> IssuerError {
    IssuerError::Invalid(why.to_string())
}

fn failed(why: impl std::fmt::Display) -> IssuerError {
    IssuerError::Failed(why.to_string())
}

fn object(bytes: Bytes) -> Result<Object, IssuerError> {
    match PkiFrame::decode(bytes) {
        Ok(PkiFrame::Object(object)) => Ok(object),
        Ok(_) => Err(invalid("this is no object of the bundle")),
        Err(why) => Err(invalid(why)),
    }
}

impl PkiDoor {
    fn desk(&self) -> Result<&Desk, IssuerError> {
        self.desk.as_deref().ok_or(IssuerError::NoAuthority)
    }

    pub(super) fn status(&self) -> PkiStatusAnswer {
        let keys = self.trust.keys();
        PkiStatusAnswer {
            now_ms: self.clock.wall_ms(),
            certificates: self.certificates(),
            problems: self.problems(),
            renewal_due_ms: tram_pki::renew::due_ms(keys.identity()),
            renewal_error: self.tried.borrow().error.clone(),
            roots_version: self.shelf.with(tram_pki::bundle::Bundle::version),
            rotation: Some(self.rotation()),
            requests: self.requests(),
            backup: self.desk.is_some().then(|| self.backup().0),
            refused_objects: self.herald.refused(),
        }
    }

    pub(super) fn list(&self) -> PkiNodesAnswer {
        PkiNodesAnswer { now_ms: self.clock.wall_ms(), nodes: self.nodes() }
    }

    /// Waits for the renewal that it asks for.
    pub(super) async fn renew(&self) -> PkiRenewAnswer {
        let mut tried = self.tried.clone();
        tried.mark_unchanged();
        self.renew_now.send_modify(|count| *count += 1);
        let ended = tokio::time::timeout(RENEWAL, tried.changed()).await;
        let error = match ended {
            Ok(Ok(())) => tried.borrow().error.clone(),
            Ok(Err(_)) => "the node is stopping".to_owned(),
            Err(_) => format!("it is still under way after {} s: see `tram pki status`", RENEWAL.as_secs()),
        };
        let renamed = tried.borrow().renamed.as_ref().map(ToString::to_string).unwrap_or_default();
        PkiRenewAnswer { not_after_ms: self.trust.keys().identity().not_after_ms, error, renamed }
    }

    pub(super) fn revoke(&self, order: &PkiRevokeRequest, by: &str) -> Result<Vec<String>, IssuerError> {
        let desk = self.desk()?;
        let words = Reason::ALL.map(Reason::as_str).join(", ");
        let reason = Reason::ALL.into_iter().find(|one| one.as_str() == order.reason);
        let reason = reason.ok_or_else(|| invalid(format!("{:?} is no reason: {words}", order.reason)))?;
        if order.authority && !desk.rotation().root_key_here {
            let why = "the root's key is not here: make the list where it is, with `tram pki crl sign --revoke`, and bring it here for `tram pki install`";
            return Err(invalid(why));
        }
        if order.authority {
            return desk.revoke_authority(&order.which.parse().map_err(invalid)?, reason, by);
        }
        desk.revoke(&order.which, reason, by).map_err(|why| self.say_whose(&order.which, why))
    }

    /// Names the CA that certifies a name, when this node's does not.
    fn say_whose(&self, which: &str, why: IssuerError) -> IssuerError {
        let (IssuerError::Invalid(text), Ok(name)) = (&why, which.parse::<NodeName>()) else { return why };
        let now_ms = self.clock.wall_ms();
        let (own, zone) = (self.desk.as_ref().and_then(|desk| desk.authority()), self.trust.roots().zone().clone());
        let closest = self.shelf.with(|bundle| bundle.closest(&name, now_ms).cloned());
        match closest {
            Some(ca) if Some(ca.key) != own => {
                invalid(format!("{text}. The CA of {} certifies {}: do it there", ca.scope, name.in_zone(&zone)))
            }
            _ => why,
        }
    }

    /// The node named as uplink, and where machines can join at it, when it can pass them on to this node's CA. One that
    /// has a CA of its own opens its port for itself only.
    pub(super) fn door_of(&self, uplink: &str) -> Option<(NodeId, Vec<HostPort>)> {
        let name = uplink.parse::<Uplink>().ok()?.node;
        let has_ca = self.shelf.with(|bundle| bundle.authorities().any(|known| known.ca.scope.apex() == Some(&name)));
        let own = self.trust.keys().identity().id;
        let passes = |report: &Report| report.name == name && report.node != own && !report.join.is_empty();
        let report = self.herald.reports().into_iter().find(passes).filter(|_| !has_ca)?;
        Some((report.node, report.join))
    }

    pub(super) fn rename(&self, order: &PkiRenameRequest, by: &str) -> Result<(), IssuerError> {
        let (old, new): (NodeName, NodeName) =
            (order.old.parse().map_err(invalid)?, order.new.parse().map_err(invalid)?);
        let renamed = self.desk()?.rename(&old, &new, order.alias_ms, by);
        renamed.map_err(|why| self.say_whose(&order.old, why))
    }

    pub(super) fn rotate(&self, order: &PkiRotateRequest, by: &str) -> Result<PkiRotation, IssuerError> {
        let desk = self.desk()?;
        let stay = |stragglers: Vec<String>| -> Result<Vec<String>, IssuerError> {
            let (left, stay): (Vec<_>, Vec<_>) = stragglers.into_iter().partition(|name| order.abandon.contains(name));
            if !left.is_empty() && stay.is_empty() {
                warn!(by, nodes = left.join(" "), "left behind in an exchange of keys");
                desk.leave_behind(&left, by)?;
            }
            Ok(stay)
        };
        match (order.authority, order.step.as_str()) {
            (_, "status") => {}
            (false, "begin") => desk.rotate_root(RootStep::Begin, Vec::new(), by)?,
            (false, "switch") => desk.rotate_root(RootStep::Switch, Vec::new(), by)?,
            (false, "finish") => desk.rotate_root(RootStep::Finish, stay(self.root_stragglers())?, by)?,
            (false, "at_once" | "at_once_and_past") => {
                let and_past = order.step == "at_once_and_past";
                desk.rotate_root(RootStep::AtOnce { and_past }, Vec::new(), by)?;
            }
            (true, "begin") => {
                desk.rotate_ca(by)?;
                // Has the certificate asked for at once, and then this node's own.
                self.renew_now.send_modify(|count| *count += 1);
            }
            (true, "finish") => {
                let now = desk.rotation();
                if now.ca_waits {
                    return Err(invalid("the next CA key has no certificate yet: `tram pki rotate ca status`"));
                }
                if now.old_cas == 0 {
                    return Err(invalid("no exchange of this CA's key is under way"));
                }
                desk.finish_ca(stay(self.ca_stragglers())?, by)?;
            }
            (_, step) => return Err(invalid(format!("{step:?} is no step of this exchange"))),
        }
        Ok(self.rotation())
    }

    pub(super) fn install(&self, objects: Vec<Bytes>, by: &str) -> Result<PkiInstallAnswer, IssuerError> {
        let mut answer = PkiInstallAnswer::default();
        for bytes in objects {
            let object = object(bytes)?;
            match self.shelf.put(&object) {
                Ok(true) => {
                    answer.taken += 1;
                    if let Some(desk) = &self.desk {
                        desk.learned(&object).map_err(failed)?;
                        desk.installed(&object, by).map_err(failed)?;
                    }
                }
                Ok(false) => answer.known += 1,
                Err(why) => answer.refused.push(why.to_string()),
            }
        }
        self.shelf.save().map_err(failed)?;
        Ok(answer)
    }

    pub(super) fn pin(&self, order: PkiPinRequest, by: &str) -> Result<(), IssuerError> {
        let objects = order.objects.into_iter().map(object).collect::<Result<_, _>>()?;
        let certificates = order.roots.iter().map(|der| der.to_vec().into()).collect();
        let parcel = Parcel { objects, certificates, requests: Vec::new() };
        let (keys, now_ms) = (self.trust.keys(), self.clock.wall_ms());
        self.shelf.change(|bundle| {
            let pinned = ceremony::pin(bundle, &parcel, keys.chain(), now_ms);
            let changed = pinned.is_ok();
            (pinned.map_err(invalid), changed)
        })?;
        self.shelf.save().map_err(failed)?;
        warn!(by, "the roots were replaced by hand");
        // What else the new ones vouch for, neighbours have.
        self.herald.pull();
        Ok(())
    }

    pub(super) fn forget_root(&self, digest: &[u8], by: &str) -> Result<(), IssuerError> {
        let digest = digest.try_into().map_err(|_| invalid("a digest has 32 bytes"))?;
        self.desk()?.forget_root(&tram_pki::hash::Sha256(digest), by)
    }
}
