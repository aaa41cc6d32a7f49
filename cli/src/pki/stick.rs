//! What goes onto a stick and comes from one: requests, lists, bundles.

use std::path::Path;

use serde_json::{Value, json};
use tram_client::{Admin, PkiRequestView, Place};
use tram_pki::authority::Scope;
use tram_pki::bundle::Bundle;
use tram_pki::ceremony;
use tram_pki::clock::BACKDATE_MS;
use tram_pki::crl::Crl;
use tram_pki::hash::Sha256;
use tram_pki::parcel::{self, CaRequest, Parcel};
use tram_pki::policy;
use tram_proto::pki::ObjectKey;

use super::root::{bundle as own_bundle, open};
use super::standing::days_left;
use super::{now_ms, read, say};
use crate::args::{BundleCommand, CrlCommand};
use crate::exit::{BAD_DATA, Failure, NEGATIVE};
use crate::show;

/// Objects are given to the node in calls of this size at most, in bytes.
const CALL_BYTES: usize = 1024 * 1024;

/// Reads a file.
pub(super) fn parcel(file: &Path) -> Result<Parcel, Failure> {
    Parcel::read(&read(file)?).map_err(|error| Failure::new(BAD_DATA, format!("{}: {error}", file.display())))
}

/// Writes one and syncs it: the stick may be pulled out at once.
pub(super) fn write(file: &Path, parcel: &Parcel) -> Result<(), Failure> {
    write_text(file, &parcel.to_text())
}

fn write_text(file: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let written =
        std::fs::File::create(file).and_then(|mut to| to.write_all(text.as_bytes()).and_then(|()| to.sync_all()));
    written.map_err(|error| Failure::io(format!("{}: {error}", file.display())))
}

/// The requests that wait in a node, by the node's name.
pub(super) fn waiting<'a>(
    requests: &'a [PkiRequestView],
    bundle: &Bundle,
) -> Result<Vec<(&'a str, CaRequest)>, Failure> {
    let one = |view: &PkiRequestView| {
        let bad = |error: &dyn std::fmt::Display| Failure::new(BAD_DATA, format!("{}: {error}", view.name));
        let apex = || view.name.parse().map_err(|e| bad(&e));
        let scope = if view.overlay { Scope::Overlay } else { Scope::Below(apex()?) };
        // One that began alone keeps the names it has.
        let held = bundle
            .authorities()
            .map(|known| &known.ca.scope)
            .find(|held| held.apex().is_some() && held.apex() == scope.apex());
        let scope = held.cloned().unwrap_or(scope);
        Ok(CaRequest { scope, csr: view.csr.clone() })
    };
    requests.iter().map(|view| one(view).map(|request| (view.name.as_str(), request))).collect()
}

pub(super) async fn requests(place: &Place, pki: &Path, out: Option<&Path>, json: bool) -> Result<(), Failure> {
    let admin = Admin::connect(place).await?;
    let status = admin.pki().await?;
    let mut listed: Vec<(String, String, String, Option<String>)> = Vec::new();
    if status.requests.is_empty() && !json {
        return show::line("no province waits for a CA certificate");
    }
    // With the roots, so that the one of the key can be told where there is no node.
    let bundle = own_bundle(pki)?;
    let roots = bundle.roots().to_vec();
    for ((name, request), view) in waiting(&status.requests, &bundle)?.into_iter().zip(&status.requests) {
        let fingerprint = request.fingerprint().map_err(|error| Failure::new(BAD_DATA, format!("{name}: {error}")))?;
        let file = out.map(|dir| dir.join(format!("{name}.ca-request")));
        if let Some(file) = &file {
            write(file, &Parcel { certificates: roots.clone(), requests: vec![request], ..Parcel::default() })?;
        }
        let at = show::local(view.at_ms);
        listed.push((name.to_owned(), at, fingerprint.to_string(), file.map(|file| file.display().to_string())));
    }
    if json {
        let one = |(name, _, fingerprint, file): &(String, String, String, Option<String>)| {
            let at = status.requests.iter().find(|view| view.name == *name).map_or(0, |view| view.at_ms);
            json!({ "name": name, "at": show::utc(at), "fingerprint": fingerprint, "file": file })
        };
        return show::json(&json!({ "requests": listed.iter().map(one).collect::<Vec<_>>() }));
    }
    let rows: Vec<_> = listed
        .into_iter()
        .map(|(name, at, fingerprint, file)| [name, at, fingerprint, file.unwrap_or_default()])
        .collect();
    show::line(&show::table(["NODE", "SINCE", "FINGERPRINT", "FILE"], &rows))
}

pub(super) async fn install(place: &Place, file: &Path, json: bool) -> Result<(), Failure> {
    let mut parcel = parcel(file)?;
    // A CA certificate on its own; roots are named there for other purposes.
    for certificate in std::mem::take(&mut parcel.certificates) {
        let stated = tram_pki::stated::Stated::read(&certificate);
        if stated.is_ok_and(|one| matches!(one.whose, tram_pki::stated::Whose::Ca(_))) {
            let key = ObjectKey::Authority(Sha256::of(&certificate).0);
            let item = tram_proto::pki::Item { key, version: 1 };
            parcel.objects.push(tram_proto::pki::Object { item, content: certificate.to_vec().into() });
        }
    }
    if parcel.objects.is_empty() {
        let why = "it holds nothing for a running node; a root is trusted with `tram pki root install`, a machine joins with `tramd join --answer`";
        return Err(Failure::new(BAD_DATA, format!("{}: {why}", file.display())));
    }
    hand_in(&Admin::connect(place).await?, &parcel, json).await
}

/// Gives objects to the running node.
pub(super) async fn hand_in(admin: &Admin, parcel: &Parcel, json: bool) -> Result<(), Failure> {
    let (mut taken, mut known, mut refused) = (0, 0, Vec::new());
    let (mut call, mut size) = (Vec::new(), 0);
    let mut objects = parcel.objects.iter().map(parcel::frame).peekable();
    while let Some(object) = objects.next() {
        size += object.len();
        call.push(object);
        if objects.peek().is_none_or(|next| size + next.len() > CALL_BYTES) {
            let answer = admin.install(std::mem::take(&mut call)).await?;
            size = 0;
            taken += answer.taken;
            known += answer.known;
            refused.extend(answer.refused);
        }
    }
    if json {
        show::json(&json!({ "taken": taken, "known": known, "refused": refused }))?;
    } else {
        let count = show::count(taken, "object was", "objects were");
        show::line(&format!("{count} new and is in force; {known} known before"))?;
    }
    if refused.is_empty() { Ok(()) } else { Err(Failure::new(NEGATIVE, refused.join("\ntram: "))) }
}

/// Each revocation list with the name of its issuer.
fn lists(bundle: &Bundle) -> Vec<(String, &Crl)> {
    let mut keys: Vec<(String, Sha256)> =
        bundle.roots().iter().filter_map(|root| policy::key_of(root)).map(|key| ("root".to_owned(), key)).collect();
    for known in bundle.authorities() {
        let name = match &known.ca.scope {
            Scope::Overlay => "overlay".to_owned(),
            Scope::Below(apex) | Scope::From(apex) => apex.to_string(),
        };
        if !keys.iter().any(|(_, key)| *key == known.ca.key) {
            keys.push((name, known.ca.key));
        }
    }
    keys.into_iter().filter_map(|(name, key)| bundle.crl(&key).map(|crl| (name, crl))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn crl(pki: &Path, command: CrlCommand, json: bool) -> Result<(), Failure> {
    match command {
        CrlCommand::Show => {
            let (bundle, now_ms) = (own_bundle(pki)?, now_ms());
            let lists = lists(&bundle);
            if json {
                let entry = |one: &tram_pki::crl::Revoked| json!({ "serial": hex(&one.serial), "at": show::utc(one.at_ms), "reason": one.reason.as_str() });
                let one = |(name, crl): &(String, &Crl)| {
                    json!({
                        "issuer": name,
                        "key": crl.issuer.to_string(),
                        "number": crl.number,
                        "made": show::utc(crl.this_update_ms + BACKDATE_MS),
                        "fresh_until": show::utc(crl.next_update_ms),
                        "revoked": crl.revoked().iter().map(entry).collect::<Vec<_>>(),
                    })
                };
                return show::json(&json!({ "lists": lists.iter().map(one).collect::<Vec<Value>>() }));
            }
            for (name, crl) in lists {
                let fresh = days_left(crl.next_update_ms, now_ms);
                show::line(&format!("{name}: number {}, {} revoked, fresh for {fresh}", crl.number, crl.entries))?;
                for one in crl.revoked() {
                    let at = show::local(one.at_ms);
                    show::line(&format!("  {}  {at}  {}", hex(&one.serial), one.reason.as_str()))?;
                }
            }
            Ok(())
        }
        CrlCommand::Export { of, out } => {
            let bundle = own_bundle(pki)?;
            let text: String =
                lists(&bundle).into_iter().filter(|(name, _)| *name == of).map(|(_, crl)| crl.to_pem()).collect();
            if text.is_empty() {
                return Err(Failure::new(
                    NEGATIVE,
                    format!("no revocation list of {of} is here; see `tram pki crl show`"),
                ));
            }
            write_text(&out, &text)
        }
        CrlCommand::Sign { key, bundle, revoke, reason, out } => {
            let bundle = match bundle {
                Some(file) => bundle_of(&parcel(&file)?, &file)?,
                None => own_bundle(pki)?,
            };
            let root = open(&key, bundle.roots())?;
            let object = ceremony::revocation_list(&root, &bundle, revoke.as_ref().zip(reason), now_ms());
            let object = object.map_err(|error| Failure::new(BAD_DATA, error.to_string()))?;
            let number = object.item.version;
            write(&out, &Parcel { objects: vec![object], ..Parcel::default() })?;
            if json {
                return show::json(&json!({ "number": number, "file": out.display().to_string() }));
            }
            say(&format!(
                "{} is the root's list number {number}: bring it to a node for `tram pki install`",
                out.display()
            ));
            Ok(())
        }
    }
}

/// The bundle that a file makes.
fn bundle_of(parcel: &Parcel, file: &Path) -> Result<Bundle, Failure> {
    let bad = |error: &dyn std::fmt::Display| Failure::new(BAD_DATA, format!("{}: {error}", file.display()));
    let roots = parcel
        .certificates
        .iter()
        .filter(|der| tram_pki::stated::Stated::read(der).is_ok_and(|one| one.whose == tram_pki::stated::Whose::Root));
    let mut bundle = Bundle::new(roots.cloned().collect()).map_err(|error| bad(&error))?;
    for object in &parcel.objects {
        bundle.take(object, now_ms()).map_err(|error| bad(&error))?;
    }
    Ok(bundle)
}

pub(super) fn bundle(pki: &Path, command: BundleCommand, json: bool) -> Result<(), Failure> {
    match command {
        BundleCommand::Export { file } => {
            let parcel = Parcel::of(&own_bundle(pki)?);
            write(&file, &parcel)?;
            let count = parcel.objects.len();
            if json {
                return show::json(&json!({ "objects": count, "file": file.display().to_string() }));
            }
            say(&format!("{}: {}", file.display(), show::count(count as u64, "object", "objects")));
            Ok(())
        }
        BundleCommand::Show { file } => {
            let bundle = match &file {
                Some(file) => bundle_of(&parcel(file)?, file)?,
                None => own_bundle(pki)?,
            };
            let now_ms = now_ms();
            let mut rows = Vec::new();
            for root in bundle.roots() {
                let end = policy::not_after_ms(root).unwrap_or(0);
                rows.push([
                    days_left(end, now_ms),
                    "root".to_owned(),
                    bundle.zone().to_string(),
                    bundle.version().to_string(),
                ]);
            }
            for known in bundle.authorities() {
                let left = if bundle.is_revoked(known) {
                    "revoked".to_owned()
                } else {
                    days_left(known.ca.not_after_ms, now_ms)
                };
                rows.push([left, "CA".to_owned(), known.ca.scope.to_string(), "-".to_owned()]);
            }
            for (name, crl) in lists(&bundle) {
                let left = days_left(crl.next_update_ms, now_ms);
                rows.push([left, "revocation list".to_owned(), name, crl.number.to_string()]);
            }
            for notice in bundle.notices() {
                let what = format!(
                    "{} former names, {} transfers, {} doors",
                    notice.aliases.len(),
                    notice.transfers.len(),
                    notice.doors.len()
                );
                rows.push(["-".to_owned(), "notice".to_owned(), what, notice.version.to_string()]);
            }
            if json {
                let one = |[left, kind, name, version]: &[String; 4]| json!({ "left": left, "kind": kind, "name": name, "version": version });
                return show::json(&json!({ "objects": rows.iter().map(one).collect::<Vec<_>>() }));
            }
            show::line(&show::table(["LEFT", "KIND", "NAME", "VERSION"], &rows))
        }
    }
}
