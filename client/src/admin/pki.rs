//! Certificates: how they stand, and what is ordered about them.

use bytes::Bytes;
use tram_proto::local as api;
use tram_proto::name::NodeName;

use super::Admin;
use crate::error::Error;
use crate::{PkiInstallAnswer, PkiNodesAnswer, PkiRenewAnswer, PkiRotation, PkiStatusAnswer};

impl Admin {
    /// How certificates, CAs, revocation lists and exchanges of keys stand.
    ///
    /// # Errors
    /// [`Error`], as for every call here.
    pub async fn pki(&self) -> Result<PkiStatusAnswer, Error> {
        Ok(self.admin.clone().pki_status(api::PkiStatusRequest {}).await?.into_inner())
    }

    /// The nodes that this node's CA has registered, and those below it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn pki_nodes(&self) -> Result<PkiNodesAnswer, Error> {
        Ok(self.admin.clone().pki_nodes(api::PkiNodesRequest {}).await?.into_inner())
    }

    /// Has the node renew its certificate, and waits for it.
    ///
    /// # Errors
    /// [`Error`]; that it was not renewed is in the answer.
    pub async fn renew(&self) -> Result<PkiRenewAnswer, Error> {
        Ok(self.admin.clone().pki_renew(api::PkiRenewRequest {}).await?.into_inner())
    }

    /// Revokes a node by name or one certificate by serial number, or with `authority` the CA of a province; returns the
    /// serial numbers.
    ///
    /// # Errors
    /// [`Error`]; codes `no_authority`, `ca_locked`, `invalid`.
    pub async fn revoke(&self, which: &str, reason: &str, authority: bool) -> Result<Vec<String>, Error> {
        let request = api::PkiRevokeRequest { which: which.to_owned(), reason: reason.to_owned(), authority };
        Ok(self.admin.clone().pki_revoke(request).await?.into_inner().serials)
    }

    /// Gives a node another name; the old one is understood for `alias_ms` more.
    ///
    /// # Errors
    /// [`Error`]; codes `no_authority`, `ca_locked`, `invalid`.
    pub async fn rename(&self, old: &NodeName, new: &NodeName, alias_ms: u64) -> Result<(), Error> {
        let request = api::PkiRenameRequest { old: old.to_string(), new: new.to_string(), alias_ms };
        self.admin.clone().pki_rename(request).await?;
        Ok(())
    }

    /// Takes a step (`status`, `begin`, `switch`, `finish`, `at_once`, `at_once_and_past`) of an exchange of the root or,
    /// with `authority`, of this node's CA key; returns how it stands then.
    ///
    /// # Errors
    /// [`Error`]; codes `no_authority`, `ca_locked`, `invalid`.
    pub async fn rotate(&self, authority: bool, step: &str, abandon: Vec<String>) -> Result<PkiRotation, Error> {
        let request = api::PkiRotateRequest { authority, step: step.to_owned(), abandon };
        Ok(self.admin.clone().pki_rotate(request).await?.into_inner())
    }

    /// Gives the node objects of the bundle, as frames of `tram.pki.v1.Object`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn install(&self, objects: Vec<Bytes>) -> Result<PkiInstallAnswer, Error> {
        Ok(self.admin.clone().pki_install(api::PkiInstallRequest { objects }).await?.into_inner())
    }

    /// Has the node trust these roots (DER) and no others, and take these objects.
    ///
    /// # Errors
    /// [`Error`]; code `invalid`.
    pub async fn pin(&self, roots: Vec<Bytes>, objects: Vec<Bytes>) -> Result<(), Error> {
        self.admin.clone().pki_pin(api::PkiPinRequest { roots, objects }).await?;
        Ok(())
    }

    /// Has the node delete the root's key, of whose file the caller has a copy with this SHA-256.
    ///
    /// # Errors
    /// [`Error`]; codes `no_authority`, `invalid`.
    pub async fn forget_root(&self, digest: &[u8; 32]) -> Result<(), Error> {
        let digest = Bytes::copy_from_slice(digest);
        self.admin.clone().pki_forget_root(api::PkiForgetRootRequest { digest }).await?;
        Ok(())
    }
}
