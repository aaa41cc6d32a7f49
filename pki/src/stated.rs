//! What a certificate states, for people. Judges no signature, no time and no rule.

use tram_proto::id::NodeId;
use tram_proto::name::{NodeName, Role};

use crate::authority::Scope;
use crate::hash::Sha256;
use crate::policy::{self, Ca, PolicyError};

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A node's.
    Node {
        /// Without the zone.
        name: NodeName,
        /// Its id.
        id: NodeId,
        /// Its role.
        role: Role,
    },
    /// An issuing CA's, for these names.
    Ca(Scope),
    /// A root.
    Root,
    /// None of Tram's; why.
    Other(PolicyError),
}

/// What a certificate states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// Whose it is.
    pub whose: Whose,
    /// The overlay's zone.
    pub zone: String,
    /// In hexadecimal.
    pub serial: String,
    /// SHA-256 of the public key.
    pub key: Sha256,
    /// The issuer's name.
    pub issuer: String,
    /// From when on it is valid, Unix milliseconds.
    pub not_before_ms: u64,
    /// Until when, Unix milliseconds.
    pub not_after_ms: u64,
}

impl Stated {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`PolicyError::Malformed`].
    pub fn read(der: &[u8]) -> Result<Self, PolicyError> {
        let parsed = policy::parse(der)?;
        // The issuer's organization is the zone, in every certificate of Tram.
        let zone = parsed.issuer().iter_organization().next().and_then(|one| one.as_str().ok()).unwrap_or_default();
        let own = parsed.issuer().as_raw() == parsed.subject().as_raw();
        let whose = match zone.parse() {
            Err(_) => Whose::Other(PolicyError::Malformed),
            Ok(_) if own && parsed.is_ca() => Whose::Root,
            Ok(zone) if parsed.is_ca() => Ca::read(der, &zone).map_or_else(Whose::Other, |ca| Whose::Ca(ca.scope)),
            Ok(zone) => policy::peer(&der.to_vec().into(), &zone).map_or_else(Whose::Other, |peer| Whose::Node {
                name: peer.name,
                id: peer.id,
                role: peer.role,
            }),
        };
        let validity = parsed.validity();
        Ok(Self {
            whose,
            zone: zone.to_owned(),
            serial: parsed.raw_serial().iter().map(|b| format!("{b:02x}")).collect(),
            key: Sha256::of(parsed.public_key().raw),
            issuer: parsed.issuer().to_string(),
            not_before_ms: policy::ms(validity.not_before.timestamp()),
            not_after_ms: policy::ms(validity.not_after.timestamp()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW_MS, Tree};

    #[test]
    fn a_certificate_says_whose_it_is() {
        let mut tree = Tree::new();
        let mut province = tree.province("can-tho", NOW_MS);
        let chain = province.issue("ninh-kieu.can-tho", NOW_MS);
        let leaf = Stated::read(&chain[0]).expect("reads");
        assert!(matches!(&leaf.whose, Whose::Node { name, .. } if name.as_str() == "ninh-kieu.can-tho"), "{leaf:?}");
        assert_eq!((leaf.zone.as_str(), leaf.serial.len()), ("tram.internal", 32));
        assert!(leaf.not_before_ms <= NOW_MS && leaf.not_after_ms > NOW_MS);
        let ca = Stated::read(&chain[1]).expect("reads");
        assert_eq!(ca.whose, Whose::Ca(Scope::Below("can-tho".parse().expect("name"))));
        let root = Stated::read(tree.root.certificate()).expect("reads");
        assert_eq!((root.whose, root.key), (Whose::Root, tree.root.id()));
        assert_eq!(Stated::read(b"no certificate"), Err(PolicyError::Malformed));
    }
}
