//! `tram pki csr` and `tram pki sign`: joining by files on a stick.
//!
//! The files prove nothing by themselves. What does is that two people read each other 30 digits, in one telephone call:
//! the one at the new machine its request's, the one at the CA the root's.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use serde_json::json;
use tram_client::{Admin, PkiSignRequest, Place};
use tram_pki::authority::Authority;
use tram_pki::enrol::offline;
use tram_pki::enrol::{JoinError, offline::SignError};
use tram_pki::keystore::CA_KEY;
use tram_pki::registry::{Registry, RegistryError};
use tram_proto::join::Uplink;
use tram_proto::limits;
use tram_proto::name::Role;
use tram_proto::offline::{FileAnswer, FileRequest};

use crate::args::OfflineCommand;
use crate::exit::{BAD_DATA, Failure, NEGATIVE, NO_INPUT, NOT_PERMITTED, USAGE};
use crate::show;

pub(crate) async fn run(place: &Place, pki: &Path, command: OfflineCommand, json: bool) -> Result<(), Failure> {
    match command {
        OfflineCommand::Csr { name, out } => {
            let request = offline::request(pki, &name, env!("CARGO_PKG_VERSION")).map_err(not_asked)?;
            let fingerprint = offline::fingerprint(&request).map_err(|error| Failure::io(error.to_string()))?;
            write(&out, &request.encode())?;
            if json {
                let (name, fingerprint) = (name.to_string(), fingerprint.to_string());
                return show::json(
                    &json!({ "name": name, "file": out.display().to_string(), "fingerprint": fingerprint }),
                );
            }
            show::line(&format!("fingerprint of the request: {fingerprint}"))?;
            say(&format!(
                "{} asks for node {name}. Bring it to the node that holds the CA, and read the fingerprint to the admin there",
                out.display()
            ));
            Ok(())
        }
        OfflineCommand::Sign { file, role, uplink, out, fingerprint, yes } => {
            let bytes = read(&file, limits::REQUEST_FILE_BYTES)?;
            let bad = |error: &dyn std::fmt::Display| Failure::new(BAD_DATA, format!("{}: {error}", file.display()));
            let request = FileRequest::decode(&bytes).map_err(|error| bad(&error))?;
            let shown = offline::fingerprint(&request).map_err(|error| bad(&error))?;
            let name = &request.name;
            match fingerprint {
                Some(said) if shown.is(&said) => {}
                Some(_) => {
                    let why = format!(
                        "the request in {} has another fingerprint: {shown}. If you typed what was read to you, the file is not from that machine: do not sign it",
                        file.display()
                    );
                    return Err(Failure::new(NOT_PERMITTED, why));
                }
                None if yes => {}
                None => ask(&format!(
                    "{} asks for node {name}, to be a {role} under {}.\nfingerprint of the request: {shown}\n\
                     Does the person at the new machine read you the same? Type yes: ",
                    file.display(),
                    uplink.node
                ))?,
            }
            let answer = sign(place, pki, &bytes, &request, role, uplink).await?;
            let granted =
                FileAnswer::decode(&answer).map_err(|error| Failure::new(BAD_DATA, error.to_string()))?.granted;
            write(&out, &answer)?;
            let root = offline::root_fingerprint(&granted.root);
            if json {
                return show::json(&json!({
                    "name": name.to_string(),
                    "id": granted.node.to_string(),
                    "file": out.display().to_string(),
                    "root_fingerprint": root.to_string(),
                }));
            }
            show::line(&format!("fingerprint of the root: {root}"))?;
            say(&format!(
                "{} makes that machine node {name} ({role}). Bring it there for `tramd join --answer`, and read the fingerprint to the person there",
                out.display()
            ));
            Ok(())
        }
    }
}

/// The daemon holds the registry while it runs; otherwise this process does.
async fn sign(
    place: &Place,
    pki: &Path,
    file: &[u8],
    request: &FileRequest,
    role: Role,
    uplink: Uplink,
) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::io(error.to_string());
    if !pki.join(CA_KEY).exists() {
        let why =
            format!("{} holds no CA: sign at the node that made the overlay, or at the node's province", pki.display());
        return Err(Failure::new(NEGATIVE, why));
    }
    let mut registry = match Registry::open(pki) {
        Err(RegistryError::Held { .. }) => {
            let address = uplink.addresses.first().map(ToString::to_string).unwrap_or_default();
            let uplink = format!("{}@{address}", uplink.node);
            let order = PkiSignRequest { request: file.to_vec().into(), role: role.to_string(), uplink };
            return Ok(Admin::connect(place).await?.sign(order).await?.to_vec());
        }
        opened => opened.map_err(|error| failed(&error))?,
    };
    let authority = Authority::open(pki).map_err(|error| failed(&error))?;
    let by = format!("uid {}", rustix::process::getuid().as_raw());
    let order = offline::SignOrder { role, uplink, by };
    let signed = offline::sign(&mut registry, &authority, request, &order, now_ms());
    let answer = signed.map_err(|error| match &error {
        SignError::Authority(_) | SignError::Registry(RegistryError::File(_)) => failed(&error),
        _ => Failure::new(BAD_DATA, error.to_string()),
    })?;
    Ok(answer.encode())
}

#[expect(clippy::disallowed_methods, reason = "a certificate begins now")]
fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

fn not_asked(error: JoinError) -> Failure {
    match &error {
        JoinError::Resident { .. } => Failure::new(NEGATIVE, error.to_string()),
        _ => Failure::io(error.to_string()),
    }
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::new(NO_INPUT, format!("{}: {error}", path.display())))?;
    Ok(bytes)
}

/// Writes and syncs: the stick may be pulled out at once.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = File::create(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| Failure::io(format!("{}: {error}", path.display())))
}

fn ask(question: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        let why = "the request's fingerprint has to be compared: give --fingerprint as it is read to you, or run this at a terminal";
        return Err(Failure::new(USAGE, why));
    }
    // Nobody answers what cannot be shown.
    let _ = write!(std::io::stderr(), "{question}");
    let mut said = String::new();
    let _ = std::io::stdin().read_line(&mut said);
    if said.trim() == "yes" { Ok(()) } else { Err(Failure::new(NEGATIVE, "nothing was signed")) }
}

fn say(text: &str) {
    // The file is written; a closed stderr changes nothing.
    let _ = writeln!(std::io::stderr(), "tram: {text}");
}
