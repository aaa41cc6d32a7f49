//! What an administrator wants to know of a CA's registry, and what came to it by file.

use tram_pki::ceremony;
use tram_pki::hash::Sha256;
use tram_pki::policy::Ca;
use tram_pki::registry::{AuthorityRequest, NodeRecord};
use tram_proto::pki::{Object, ObjectKey};

use super::{Desk, issuer_error};
use crate::local::station::IssuerError;

/// A node that this CA has registered.
#[derive(Debug, Clone)]
pub struct Member {
    /// As the registry has it.
    pub record: NodeRecord,
    /// The node, or its newest certificate, was revoked.
    pub revoked: bool,
}

impl Desk {
    /// Who was registered here.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let registry = &self.inside().registry;
        let listed = |serial: &str| registry.revocations().any(|one| one.serial == serial);
        let member = |node: &NodeRecord| Member {
            revoked: registry.is_barred(node.id) || node.certificates.last().is_some_and(|one| listed(&one.serial)),
            record: node.clone(),
        };
        registry.nodes().map(member).collect()
    }

    /// Provinces that wait for a CA certificate.
    #[must_use]
    pub fn requests(&self) -> Vec<AuthorityRequest> {
        self.inside().registry.requests().cloned().collect()
    }

    /// Whom live tokens are for.
    #[must_use]
    pub fn live_tokens(&self) -> Vec<String> {
        let now_ms = self.clock.wall_ms();
        let registry = &self.inside().registry;
        registry.tokens().filter(|token| token.is_live(now_ms)).map(|token| token.name.to_string()).collect()
    }

    /// When certificates were issued and revoked, Unix milliseconds.
    #[must_use]
    pub fn issued(&self) -> Vec<u64> {
        let registry = &self.inside().registry;
        let issued = registry.nodes().flat_map(|node| &node.certificates).map(|one| one.issued_at_ms);
        issued.chain(registry.revocations().map(|one| one.at_ms)).collect()
    }

    /// The id of the CA whose certificate lies here.
    #[must_use]
    pub fn authority(&self) -> Option<Sha256> {
        self.shown_scope().map(|(id, _)| id)
    }

    /// A new object came by file. The certificate that a waiting province asked for answers its request.
    ///
    /// # Errors
    /// Why the registry does not take it.
    pub fn installed(&self, object: &Object, by: &str) -> Result<(), String> {
        if !matches!(object.item.key, ObjectKey::Authority(_)) {
            return Ok(());
        }
        let zone = self.shelf.with(|bundle| bundle.zone().clone());
        let ca = Ca::read(&object.content, &zone).map_err(|why| why.to_string())?;
        let now_ms = self.clock.wall_ms();
        let mut inside = self.inside();
        if inside.registry.requests().any(|request| request.key == ca.key) {
            inside.registry.certified(ca.key, &ca.scope, by, now_ms).map_err(|why| why.to_string())?;
            self.hand_over(&mut inside, &ca.scope)?;
            self.publish_in(&mut inside, false)?;
            drop(inside);
            self.tell();
        }
        Ok(())
    }

    /// Deletes the root's key, of which the caller has a copy with this digest.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn forget_root(&self, digest: &Sha256, by: &str) -> Result<(), IssuerError> {
        let now_ms = self.clock.wall_ms();
        let mut inside = self.inside();
        if let Some(why) = self.suspended() {
            return Err(IssuerError::Locked(why));
        }
        ceremony::forget(&self.pki, &mut inside.registry, digest, by, now_ms).map_err(|why| match why {
            ceremony::CeremonyError::Registry(why) => issuer_error(why),
            why => IssuerError::Invalid(why.to_string()),
        })
    }
}
