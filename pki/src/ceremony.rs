//! The root's key away from its node: taken from it, and used by file, with no daemon and no network.

use std::path::{Path, PathBuf};

use crate::files::{self, Access, FileError};
use crate::hash::Sha256;
use crate::keystore::ROOT_KEY;
use crate::registry::{Registry, RegistryError};
use crate::rotate::{self, Stage};

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CeremonyError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An exchange of roots needs the keys where they are.
    #[error("an exchange of roots is under way: end it first, see `tram pki rotate root status`")]
    Rotating,
    /// The copy is not one of this key.
    #[error("the copy is not one of {path}: the key stays where it is", path = .0.display())]
    Copy(PathBuf),
}

/// Deletes the root's key in `dir`, of whose file a copy with this digest is elsewhere.
///
/// # Errors
/// [`CeremonyError`]; the key is still there then.
pub fn forget(
    dir: &Path,
    registry: &mut Registry,
    digest: &Sha256,
    by: &str,
    now_ms: u64,
) -> Result<(), CeremonyError> {
    if rotate::stage(dir) != Stage::None {
        return Err(CeremonyError::Rotating);
    }
    let path = dir.join(ROOT_KEY);
    let key = zeroize::Zeroizing::new(files::read(&path, Access::Secret)?);
    if Sha256::of(&key) != *digest {
        return Err(CeremonyError::Copy(path));
    }
    registry.note("root", "root_key_removed", by, now_ms)?;
    Ok(files::remove(&path)?)
}
