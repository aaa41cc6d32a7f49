//! `tram pki root`: the root's key away from its node, and another root in place of the old.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tram_client::{Admin, Error, Place};
use tram_pki::authority::{AuthorityError, Root};
use tram_pki::bundle::Bundle;
use tram_pki::ceremony::{self, CeremonyError};
use tram_pki::enrol::offline::root_fingerprint;
use tram_pki::hash::Sha256;
use tram_pki::keystore::{self, KeyError, ROOT_KEY};
use tram_pki::parcel::{self, CaRequest, Parcel};
use tram_pki::registry::{Registry, RegistryError};
use tram_pki::stated::{Stated, Whose};
use zeroize::Zeroizing;

use super::ask::compare;
use super::stick::{self, parcel};
use super::{now_ms, of_file, of_key, read, say};
use crate::args::{PassphraseArgs, RootCommand, RootKeyArgs, SaidArgs};
use crate::exit::{BAD_DATA, CONFIG, Failure, NEGATIVE};
use crate::{passphrase, show};

pub(super) async fn run(place: &Place, pki: &Path, command: RootCommand, json: bool) -> Result<(), Failure> {
    match command {
        RootCommand::Export { out, remove: _ } => export(place, pki, &out, json).await,
        RootCommand::Sign { request: Some(file), key, out: Some(out), said, .. } => {
            let parcel = parcel(&file)?;
            let [request] = parcel.requests.as_slice() else {
                let why = format!("{}: it does not hold one request; see `tram pki requests --out`", file.display());
                return Err(Failure::new(BAD_DATA, why));
            };
            let root = open(&key, &parcel.certificates)?;
            let signed = sign(&root, request, &said)?;
            stick::write(&out, &signed)?;
            if json {
                return show::json(&json!({ "ca": request.scope.to_string(), "file": out.display().to_string() }));
            }
            say(&format!(
                "{} certifies the CA of {}: bring it to a node for `tram pki install`",
                out.display(),
                request.scope
            ));
            Ok(())
        }
        RootCommand::Sign { pending: Some(province), key, said, .. } => {
            let admin = Admin::connect(place).await?;
            let status = admin.pki().await?;
            let bundle = bundle(pki)?;
            let waiting = stick::waiting(&status.requests, &bundle)?;
            let request = waiting.into_iter().find(|(name, _)| *name == province.as_str()).map(|(_, request)| request);
            let request = request.ok_or_else(|| {
                Failure::new(
                    NEGATIVE,
                    format!("{province} does not wait for a CA certificate; see `tram pki requests`"),
                )
            })?;
            let root = open(&key, bundle.roots())?;
            // It never left this node: there is nobody to compare with.
            let signed = sign(&root, &request, &SaidArgs { yes: true, ..said })?;
            stick::hand_in(&admin, &signed, json).await
        }
        RootCommand::Sign { .. } => Err(Failure::new(BAD_DATA, "a request file and --out, or --pending")),
        RootCommand::Install { file, said } => install(place, pki, &file, &said, json).await,
    }
}

/// The bundle in the node's files.
pub(super) fn bundle(pki: &Path) -> Result<Bundle, Failure> {
    let (bundle, left_out) = Bundle::load(pki).map_err(|error| of_key(&error))?;
    left_out.iter().for_each(|why| say(why));
    Ok(bundle)
}

/// The root's key; a locked one is opened.
pub(super) fn open(args: &RootKeyArgs, roots: &[CertificateDer<'static>]) -> Result<Root, Failure> {
    open_at(&args.key, &args.passphrase, roots)
}

pub(super) fn open_at(
    key: &Path,
    passphrase: &PassphraseArgs,
    roots: &[CertificateDer<'static>],
) -> Result<Root, Failure> {
    let word = passphrase::given(passphrase.passphrase_file.as_deref())?;
    let opened = match Root::at(key, word.as_ref(), roots) {
        Err(AuthorityError::Key(KeyError::Locked { .. })) => {
            Root::at(key, Some(&passphrase::needed(None, "passphrase of the root's key")?), roots)
        }
        opened => opened,
    };
    opened.map_err(|error| match error {
        AuthorityError::Key(error) => of_key(&error),
        error => Failure::new(CONFIG, error.to_string()),
    })
}

fn sign(root: &Root, request: &CaRequest, said: &SaidArgs) -> Result<Parcel, Failure> {
    let bad = |error: &dyn std::fmt::Display| Failure::new(BAD_DATA, error.to_string());
    let fingerprint = request.fingerprint().map_err(|error| bad(&error))?;
    let what = format!("a CA is to be certified for the names below {}", request.scope);
    compare(&what, &fingerprint, said.fingerprint.as_deref(), said.yes)?;
    let object = ceremony::certify(root, request, now_ms()).map_err(|error| bad(&error))?;
    Ok(Parcel { objects: vec![object], ..Parcel::default() })
}

async fn export(place: &Place, pki: &Path, out: &Path, json: bool) -> Result<(), Failure> {
    let path = pki.join(ROOT_KEY);
    let key = Zeroizing::new(read(&path)?);
    let failed = |error: std::io::Error| Failure::io(format!("{}: {error}", out.display()));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(out).map_err(failed)?;
    file.write_all(&key).and_then(|()| file.sync_all()).map_err(failed)?;
    drop(file);
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    // What was read back is what the node compares with its own.
    let digest = Sha256::of(&Zeroizing::new(read(out)?));
    match forget(place, pki, &digest).await {
        Ok(()) => {}
        Err(failure) => {
            // The key is where it was: no second copy of it lies about.
            let _ = std::fs::remove_file(out);
            return Err(failure);
        }
    }
    if json {
        return show::json(&json!({ "file": out.display().to_string(), "removed": path.display().to_string() }));
    }
    say(&format!(
        "{} is the root's key, and the only one: make a second copy, and keep both in safes. What the disk here held may still be found on it until it is written over",
        out.display()
    ));
    Ok(())
}

/// Whoever holds the registry deletes the key, and tells the audit log.
async fn forget(place: &Place, pki: &Path, digest: &Sha256) -> Result<(), Failure> {
    let mut registry = match Registry::open(pki) {
        Ok(registry) => registry,
        Err(RegistryError::Held { .. }) => return Ok(Admin::connect(place).await?.forget_root(&digest.0).await?),
        Err(RegistryError::File(error)) => return Err(Failure::new(of_file(&error), error.to_string())),
        Err(error) => return Err(Failure::new(CONFIG, error.to_string())),
    };
    let by = format!("uid {}", rustix::process::getuid().as_raw());
    ceremony::forget(pki, &mut registry, digest, &by, now_ms()).map_err(|error| match error {
        CeremonyError::File(error) => Failure::new(of_file(&error), error.to_string()),
        error => Failure::new(BAD_DATA, error.to_string()),
    })
}

async fn install(place: &Place, pki: &Path, file: &Path, said: &SaidArgs, json: bool) -> Result<(), Failure> {
    let parcel = parcel(file)?;
    let is_root = |der: &&CertificateDer<'static>| Stated::read(der).is_ok_and(|one| one.whose == Whose::Root);
    let Some(first) = parcel.certificates.iter().find(is_root) else {
        return Err(Failure::new(BAD_DATA, format!("{}: it holds no root certificate", file.display())));
    };
    let fingerprint = root_fingerprint(first);
    let what = format!("this node will trust {} and no other root", file.display());
    compare(&what, &fingerprint, said.fingerprint.as_deref(), said.yes)?;
    match Admin::connect(place).await {
        Ok(admin) => {
            let roots = parcel.certificates.iter().map(|der| Bytes::copy_from_slice(der)).collect();
            admin.pin(roots, parcel.objects.iter().map(parcel::frame).collect()).await?;
        }
        // The daemon reads it when it starts.
        Err(Error::Unreachable { .. }) => {
            let mut bundle = bundle(pki)?;
            let chain = keystore::chain(pki).map_err(|error| of_key(&error))?;
            let pinned = ceremony::pin(&mut bundle, &parcel, &chain, now_ms());
            pinned.map_err(|error| Failure::new(BAD_DATA, format!("{}: {error}", file.display())))?;
            bundle.save(pki).map_err(|error| of_key(&error))?;
        }
        Err(error) => return Err(error.into()),
    }
    if json { show::json(&json!({ "fingerprint": fingerprint.to_string() })) } else { Ok(()) }
}
