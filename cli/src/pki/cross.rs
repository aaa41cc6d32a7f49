//! `tram pki join-overlay`: a province that began alone comes under another overlay's root, by two files on a stick.

use std::path::Path;

use serde_json::json;
use tram_client::{Admin, Error, Place};
use tram_pki::authority::Root;
use tram_pki::bundle::Bundle;
use tram_pki::cross::{self, Answered, Asked, CrossError};
use tram_pki::enrol::offline::root_fingerprint;
use tram_pki::keystore::{self, KeyError, ROOT_KEY};
use tram_pki::parcel::{self, Parcel};
use tram_pki::registry::{Registry, RegistryError};
use tram_proto::id::NodeId;
use tram_proto::name::NodeName;
use tram_proto::pki::Object;

use super::ask::compare;
use super::root::{bundle, open_at};
use super::stick::{self, parcel};
use super::{now_ms, of_file, of_key, say};
use crate::args::{JoinOverlayCommand, OwnRootKeyArgs, SaidArgs};
use crate::exit::{BAD_DATA, CONFIG, Failure};
use crate::show;

pub(super) async fn run(place: &Place, pki: &Path, command: JoinOverlayCommand, json: bool) -> Result<(), Failure> {
    match command {
        JoinOverlayCommand::Request { out } => request(pki, &out, json),
        JoinOverlayCommand::Sign { request, key, out, said } => {
            sign(place, pki, &request, &key, &out, &said, json).await
        }
        JoinOverlayCommand::Accept { answer, key, said } => accept(place, pki, &answer, &key, &said, json).await,
    }
}

fn of_cross(error: &CrossError) -> Failure {
    match error {
        CrossError::File(file) => Failure::new(of_file(file), error.to_string()),
        _ => Failure::new(BAD_DATA, error.to_string()),
    }
}

fn of(file: &Path) -> impl Fn(CrossError) -> Failure {
    move |error| Failure::new(BAD_DATA, format!("{}: {error}", file.display()))
}

fn root(args: &OwnRootKeyArgs, pki: &Path, bundle: &Bundle) -> Result<Root, Failure> {
    let path = args.key.clone().unwrap_or_else(|| pki.join(ROOT_KEY));
    open_at(&path, &args.passphrase, bundle.roots())
}

fn request(pki: &Path, out: &Path, json: bool) -> Result<(), Failure> {
    let chain = keystore::chain(pki).map_err(|error| of_key(&error))?;
    let (parcel, asked) = cross::request(&bundle(pki)?, &chain, now_ms()).map_err(|error| of_cross(&error))?;
    let fingerprint = asked.fingerprint(now_ms()).to_string();
    stick::write(out, &parcel)?;
    if json {
        let name = asked.peer.name.to_string();
        return show::json(&json!({ "name": name, "file": out.display().to_string(), "fingerprint": fingerprint }));
    }
    show::line(&format!("fingerprint of the request: {fingerprint}"))?;
    say(&format!(
        "{} asks for {}: bring it to the other overlay's first node, and read the fingerprint to the admin there",
        out.display(),
        asked.peer.name
    ));
    Ok(())
}

/// The registry, unless the daemon holds it.
fn registry(pki: &Path) -> Result<Option<Registry>, Failure> {
    match Registry::open(pki) {
        Ok(registry) => Ok(Some(registry)),
        Err(RegistryError::Held { .. }) => Ok(None),
        Err(RegistryError::File(error)) => Err(Failure::new(of_file(&error), error.to_string())),
        Err(error) => Err(Failure::new(CONFIG, error.to_string())),
    }
}

/// The names in use here, as the running node knows them.
async fn names(admin: &Admin) -> Result<Vec<(NodeName, NodeId)>, Failure> {
    let bad = |error: &dyn std::fmt::Display| Failure::new(BAD_DATA, error.to_string());
    let mut names = Vec::new();
    for node in admin.pki_nodes().await?.nodes.into_iter().filter(|node| node.registered && !node.revoked) {
        names.push((node.name.parse().map_err(|e| bad(&e))?, node.id.parse().map_err(|e| bad(&e))?));
    }
    for token in admin.tokens().await?.into_iter().filter(|token| token.state == "live") {
        // Its node is none yet.
        names.push((token.name.parse().map_err(|e| bad(&e))?, NodeId([0; 16])));
    }
    Ok(names)
}

async fn sign(
    place: &Place,
    pki: &Path,
    file: &Path,
    key: &OwnRootKeyArgs,
    out: &Path,
    said: &SaidArgs,
    json: bool,
) -> Result<(), Failure> {
    let now_ms = now_ms();
    let asked = Asked::read(&parcel(file)?, now_ms).map_err(of(file))?;
    let (mut registry, mut bundle) = (registry(pki)?, bundle(pki)?);
    let admin = if registry.is_none() { Some(Admin::connect(place).await?) } else { None };
    let names = match (&registry, &admin) {
        (Some(registry), _) => registry.names(now_ms),
        (None, Some(admin)) => names(admin).await?,
        (None, None) => Vec::new(),
    };
    asked.check(&bundle, &names, now_ms).map_err(of(file))?;
    let name = asked.peer.name.clone();
    let what = format!("this overlay's root is to vouch for the CA of {name}, for {name} and all names below it");
    compare(&what, &asked.fingerprint(now_ms), said.fingerprint.as_deref(), said.yes)?;
    let root = root(key, pki, &bundle)?;
    let (objects, answer) = asked.sign(&root, &mut bundle, now_ms).map_err(of(file))?;
    match (&mut registry, &admin) {
        (Some(registry), _) => {
            let by = format!("uid {}", rustix::process::getuid().as_raw());
            let noted = registry.note(name.as_str(), "ca_certified", &by, now_ms);
            noted.map_err(|error| Failure::new(CONFIG, error.to_string()))?;
            bundle.save(pki).map_err(|error| of_key(&error))?;
        }
        (None, Some(admin)) => give(admin, &objects).await?,
        (None, None) => {}
    }
    stick::write(out, &answer)?;
    let fingerprint = root_fingerprint(root.certificate()).to_string();
    if json {
        return show::json(&json!({
            "name": name.to_string(), "file": out.display().to_string(), "root_fingerprint": fingerprint,
        }));
    }
    show::line(&format!("fingerprint of this overlay's root: {fingerprint}"))?;
    say(&format!(
        "{} is for {name}: bring it there for `tram pki join-overlay accept`, and read this fingerprint to the admin",
        out.display()
    ));
    Ok(())
}

/// Gives objects to the running node, all or none: it has the same bundle as its files.
async fn give(admin: &Admin, objects: &[Object]) -> Result<(), Failure> {
    for object in objects {
        let refused = admin.install(vec![parcel::frame(object)]).await?.refused;
        if let Some(why) = refused.first() {
            return Err(Failure::new(BAD_DATA, format!("the running node refuses it: {why}")));
        }
    }
    Ok(())
}

async fn accept(
    place: &Place,
    pki: &Path,
    file: &Path,
    key: &OwnRootKeyArgs,
    said: &SaidArgs,
    json: bool,
) -> Result<(), Failure> {
    let now_ms = now_ms();
    let mut bundle = bundle(pki)?;
    let read: Parcel = parcel(file)?;
    let answered = Answered::read(&read, &bundle).map_err(of(file))?;
    let fingerprint = root_fingerprint(&answered.root());
    let what = "this node, and every node below it, will trust the root in that file and no other";
    compare(what, &fingerprint, said.fingerprint.as_deref(), said.yes)?;
    let root = root(key, pki, &bundle)?;
    let chain = keystore::chain(pki).map_err(|error: KeyError| of_key(&error))?;
    let objects = answered.accept(&root, &bundle, &chain, now_ms).map_err(of(file))?;
    match registry(pki)? {
        Some(mut registry) => {
            for object in &objects {
                bundle.take(object, now_ms).map_err(|error| of(file)(error.into()))?;
            }
            bundle.save(pki).map_err(|error| of_key(&error))?;
            let by = format!("uid {}", rustix::process::getuid().as_raw());
            cross::settle(pki, &mut registry, &by, now_ms).map_err(|error| of_cross(&error))?;
        }
        None => {
            let admin = Admin::connect(place).await.map_err(|error: Error| Failure::from(error))?;
            give(&admin, &objects).await?;
        }
    }
    if json {
        return show::json(&json!({ "root_fingerprint": fingerprint.to_string() }));
    }
    show::line("the other overlay's root has taken the place of this one's")?;
    say(
        "nodes that are linked follow within seconds, others when they come back. Now name the parent under [[uplink]] in the config, and restart tramd",
    );
    Ok(())
}
