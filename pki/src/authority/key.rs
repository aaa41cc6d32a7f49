//! A CA's private key, as rcgen and notices sign with it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroize as _;

use crate::keystore::KeyError;

/// The key. A key that never leaves its device would be another kind of this.
#[derive(Clone)]
pub(crate) struct CaKey(Arc<KeyPair>);

impl CaKey {
    pub(crate) fn new(key: KeyPair) -> Self {
        Self(Arc::new(key))
    }

    /// Reads a PKCS #8 file with `read`, which may know a passphrase.
    pub(crate) fn read(
        path: &Path,
        read: impl FnOnce(&Path) -> Result<PrivatePkcs8KeyDer<'static>, KeyError>,
    ) -> Result<Self, KeyError> {
        let mut der = read(path)?;
        let key = KeyPair::try_from(&der);
        der.zeroize();
        key.map(Self::new).map_err(|error| KeyError::Pem { path: path.to_owned(), why: error.to_string() })
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaKey(hidden)")
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}
