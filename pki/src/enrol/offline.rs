//! Joining by files on a stick: the request, its signing at the CA, and the answer, for both sides.
//!
//! No secret and no channel ties the files to their makers, so two people do: the one at the CA compares the request's
//! fingerprint, the one at the new machine that of the root. The answer is worth nothing without the request's key.

use std::path::Path;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tram_proto::id::NodeId;
use tram_proto::join::{Granted, Uplink};
use tram_proto::limits;
use tram_proto::name::{NodeName, Role};
use tram_proto::offline::{FileAnswer, FileRequest};

use super::client::{self, JoinError, Joined};
use crate::authority::{Authority, AuthorityError, Subject};
use crate::bundle::BUNDLE_BIN;
use crate::csr::{self, CsrError, LeafKey};
use crate::files::{self, Access};
use crate::hash::{Fingerprint, Sha256};
use crate::keystore;
use crate::registry::{NodeRecord, Registry, RegistryError};

/// Makes the request of this machine to be the node `name`, with a key in `dir` that is made and written durably if there
/// is none; asking again asks with the same key. Where that node lives already, it asks for another certificate.
///
/// # Errors
/// [`JoinError`].
pub fn request(dir: &Path, name: &NodeName, version: &str) -> Result<FileRequest, JoinError> {
    client::resident(dir, None, name)?;
    let key = keystore::stage(dir, &occasion(name))?;
    let csr = csr::request(&key).map_err(|error| JoinError::Request(error.to_string()))?;
    Ok(FileRequest { csr: csr.into(), name: name.clone(), version: version.to_owned() })
}

fn occasion(name: &NodeName) -> String {
    format!("request for {name}")
}

/// What the people at both ends compare before the request is signed: it covers the key and the name.
///
/// # Errors
/// [`CsrError`] when the request holds no key that could be signed.
pub fn fingerprint(request: &FileRequest) -> Result<Fingerprint, CsrError> {
    let key = LeafKey::from_csr(&request.csr)?;
    let name = request.name.as_str().as_bytes();
    Ok(Fingerprint(Sha256::of(&[b"tram/1/join-request\0", key.hash().0.as_slice(), name].concat())))
}

/// The fingerprint of a root certificate: of its DER form, as openssl has it.
#[must_use]
pub fn root_fingerprint(root: &[u8]) -> Fingerprint {
    Fingerprint(Sha256::of(root))
}

/// What the admin at the CA decides about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignOrder {
    /// The node's role; not central.
    pub role: Role,
    /// Whom it will dial.
    pub uplink: Uplink,
    /// Who decides, for the audit log: a user name.
    pub by: String,
}

/// Why a request was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The signing request in the file.
    #[error("{name}: {error}")]
    Csr {
        /// For which name.
        name: NodeName,
        /// What is wrong.
        error: CsrError,
    },
    /// The key is certified for another name.
    #[error(
        "{name}'s request uses the key of node {holder}: its disk has been copied; make the request on the new machine itself"
    )]
    KeyOfAnotherNode {
        /// For which name.
        name: NodeName,
        /// Who has the key.
        holder: NodeName,
    },
    /// The key is that of a certificate that was revoked.
    #[error(
        "{0}'s request uses a key whose certificate was revoked: have the node make a new one with `tram pki csr`, in an empty directory"
    )]
    RevokedKey(NodeName),
    /// The CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The registry refuses, or could not be written.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Signs a request whose fingerprint has been compared. Everything the answer promises is durable when this returns. A
/// name that exists keeps its node id, and a live token for it ends; the same request again gets the same certificate.
///
/// # Errors
/// [`SignError`]; nothing has been issued then.
pub fn sign(
    registry: &mut Registry,
    authority: &Authority,
    request: &FileRequest,
    order: &SignOrder,
    now_ms: u64,
) -> Result<FileAnswer, SignError> {
    let name = request.name.clone();
    let key = LeafKey::from_csr(&request.csr).map_err(|error| SignError::Csr { name: name.clone(), error })?;
    if let Some(holder) = registry.other_holder(key.hash(), &name) {
        return Err(SignError::KeyOfAnotherNode { holder: holder.clone(), name });
    }
    if registry.is_revoked_key(key.hash()) {
        return Err(SignError::RevokedKey(name));
    }
    let node = registry.id_for(&name, order.role, now_ms)?;
    let subject = Subject { id: node, name: name.clone(), role: order.role };
    let known = registry.node(&name).filter(|known| known.id == node && known.role == order.role);
    let last = known.and_then(|known| known.certificates.last());
    let again = last.filter(|last| last.key == key.hash() && last.not_after_ms > now_ms);
    let leaf = match again.and(known).and_then(NodeRecord::latest) {
        // The first answer was lost.
        Some(leaf) => leaf,
        None => {
            let issued = authority.issue(&key, &subject, now_ms)?;
            registry.admit(&subject, &issued, &order.by, key.wishes())?;
            issued.certificate
        }
    };
    let granted = Granted {
        chain: super::chain(authority, &leaf),
        root: authority.root().to_vec().into(),
        node,
        name,
        role: order.role,
        zone: authority.zone().clone(),
        uplink: order.uplink.clone(),
    };
    Ok(FileAnswer { granted: Box::new(granted), bundle: bundle_in(registry.dir()) })
}

/// What the new node is to know besides; without it, it learns it from its neighbours.
fn bundle_in(dir: &Path) -> Bytes {
    let bytes = files::read(&dir.join(BUNDLE_BIN), Access::Public).unwrap_or_default();
    if bytes.len() > limits::ANSWER_FILE_BYTES - limits::JOIN_FRAME_BYTES { Bytes::new() } else { bytes.into() }
}

/// An answer that fits this machine's request. Whether its root is the overlay's is still to be found out.
#[derive(Debug)]
pub struct Answered {
    joined: Joined,
    trusted: bool,
}

/// Checks an answer against the key that waits in `dir`. Installs nothing.
///
/// # Errors
/// [`JoinError`].
pub fn accept(dir: &Path, answer: &FileAnswer, now_ms: u64) -> Result<Answered, JoinError> {
    let name = &answer.granted.name;
    let zone = &answer.granted.zone;
    let known: Option<NodeId> = client::resident(dir, Some(zone), name)?;
    let staged = keystore::staged(dir)?.filter(|staged| staged.occasion == occasion(name));
    let Some(staged) = staged else {
        return Err(JoinError::NotAsked { name: name.clone(), dir: dir.to_owned() });
    };
    let mut joined = client::check((*answer.granted).clone(), &staged.key, name, known, now_ms)?;
    joined.bundle = answer.bundle.clone();
    let trusted = match known {
        Some(_) => keystore::load_roots(&dir.join(keystore::ROOT_PEM))?.roots().contains(&joined.root),
        None => false,
    };
    Ok(Answered { joined, trusted })
}

impl Answered {
    /// The root this machine would trust from now on.
    #[must_use]
    pub const fn root(&self) -> &CertificateDer<'static> {
        &self.joined.root
    }

    /// Whether a node lives here already that trusts this root.
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// What is to be installed, once a person has vouched for the root, or [`Self::is_trusted`].
    #[must_use]
    pub fn vouched(self) -> Joined {
        self.joined
    }
}

#[cfg(test)]
mod tests;
