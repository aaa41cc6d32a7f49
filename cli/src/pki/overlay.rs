//! `tram pki revoke`, `renew` and `rotate`: what is ordered of the running node.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tram_client::{Admin, PkiRotation, Place};
use tram_proto::name::NodeName;

use super::ask::confirm;
use super::{cross, nodes, root, say, standing, stick};
use crate::args::{OverlayCommand, RevokeArgs, RotateCaCommand, RotateCommand, RotateRootCommand};
use crate::exit::{Failure, TRY_AGAIN};
use crate::show;

/// Nodes that are linked take a new root within seconds: so often is looked, at this pause.
const LOOKS: u32 = 30;
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(place: &Place, pki: &Path, command: OverlayCommand, json: bool) -> Result<(), Failure> {
    match command {
        OverlayCommand::Status => standing::status(place, json).await,
        OverlayCommand::Renew => renew(place, json).await,
        OverlayCommand::Revoke(args) => revoke(place, args, json).await,
        OverlayCommand::List(args) => nodes::list(place, args, json).await,
        OverlayCommand::Show { which } => nodes::show(place, &which, json).await,
        OverlayCommand::Rename { old, new, alias_days } => rename(place, &old, &new, alias_days, json).await,
        OverlayCommand::Root(command) => root::run(place, pki, command, json).await,
        OverlayCommand::Requests { out } => stick::requests(place, pki, out.as_deref(), json).await,
        OverlayCommand::JoinOverlay(command) => cross::run(place, pki, command, json).await,
        OverlayCommand::Install { file } => stick::install(place, &file, json).await,
        OverlayCommand::Crl(command) => stick::crl(pki, command, json),
        OverlayCommand::Bundle(command) => stick::bundle(pki, command, json),
        OverlayCommand::Rotate(RotateCommand::Root(command)) => rotate_root(place, command, json).await,
        OverlayCommand::Rotate(RotateCommand::Ca(command)) => rotate_ca(place, command, json).await,
    }
}

async fn renew(place: &Place, json: bool) -> Result<(), Failure> {
    let done = Admin::connect(place).await?.renew().await?;
    if !done.error.is_empty() {
        let why = format!("not renewed: {}; it is tried again by itself", done.error);
        return Err(Failure::new(TRY_AGAIN, why));
    }
    if json {
        let renamed = (!done.renamed.is_empty()).then_some(&done.renamed);
        return show::json(&json!({ "not_after": show::utc(done.not_after_ms), "renamed": renamed }));
    }
    if !done.renamed.is_empty() {
        let name = &done.renamed;
        return show::line(&format!(
            "renewed as {name}, which this node is from its next start on: `systemctl restart tramd`"
        ));
    }
    show::line(&format!("renewed: good until {}", show::local(done.not_after_ms)))
}

async fn revoke(place: &Place, args: RevokeArgs, json: bool) -> Result<(), Failure> {
    // As openssl prints serial numbers, too.
    let which = args.which.replace(':', "").to_lowercase();
    if !args.yes {
        let (what, word) = if args.ca {
            (format!("the CA of {which}, and with it every node that it has certified"), which.as_str())
        } else {
            (which.clone(), "yes")
        };
        let question = format!("{what}: revoked for ever, because of {}.", args.reason.as_str());
        confirm(&question, word, "say --yes, or run this at a terminal")?;
    }
    let serials = Admin::connect(place).await?.revoke(&which, args.reason.as_str(), args.ca).await?;
    if json {
        return show::json(&json!({ "revoked": which, "ca": args.ca, "serials": serials }));
    }
    if serials.is_empty() {
        return show::line(&format!("{which}: all its certificates were revoked before; it is barred"));
    }
    show::line(&format!("{which} is revoked: {}", serials.join(" ")))?;
    say("every node that can be reached hears of it within seconds, and closes the links that depend on it");
    Ok(())
}

async fn rename(place: &Place, old: &NodeName, new: &NodeName, alias_days: u16, json: bool) -> Result<(), Failure> {
    let alias_ms = u64::from(alias_days) * 24 * 3600 * 1000;
    Admin::connect(place).await?.rename(old, new, alias_ms).await?;
    if json {
        return show::json(&json!({ "old": old.to_string(), "new": new.to_string(), "alias_days": alias_days }));
    }
    show::line(&format!(
        "{old} gets a certificate as {new} when it hears of it; {old} is understood for {alias_days} days more"
    ))?;
    say("the machine takes the name when tramd starts again there: `systemctl restart tramd`");
    Ok(())
}

pub(super) fn rotation_json(now: &PkiRotation) -> Value {
    json!({
        "root": {
            "stage": now.root,
            "key_here": now.root_key_here,
            "stragglers": now.root_stragglers,
            "tokens": now.tokens,
        },
        "ca": {
            "stage": ca_stage(now),
            "old_keys": now.old_cas,
            "stragglers": now.ca_stragglers,
        },
    })
}

pub(super) fn ca_stage(now: &PkiRotation) -> &'static str {
    match (now.ca_waits, now.old_cas) {
        (true, _) => "begun",
        (false, 0) => "none",
        (false, _) => "switched",
    }
}

fn names(names: &[NodeName]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

async fn rotate_root(place: &Place, command: RotateRootCommand, json: bool) -> Result<(), Failure> {
    let admin = Admin::connect(place).await?;
    let rotate = async |step: &str, abandon: Vec<String>| admin.rotate(false, step, abandon).await;
    let now = match command {
        RotateRootCommand::Begin { compromised: false, .. } => rotate("begin", Vec::new()).await?,
        RotateRootCommand::Begin { compromised: true, and_past, yes } => {
            if !yes {
                let question = "The old root is dropped at once. Nodes that are not linked now will trust nobody until they get the new root by hand.";
                confirm(question, "compromised", "say --yes, or run this at a terminal")?;
            }
            return at_once(&admin, if and_past { "at_once_and_past" } else { "at_once" }, json).await;
        }
        RotateRootCommand::Status => rotate("status", Vec::new()).await?,
        RotateRootCommand::Switch => rotate("switch", Vec::new()).await?,
        RotateRootCommand::Finish(args) => rotate("finish", names(&args.abandon)).await?,
    };
    if json {
        return show::json(&rotation_json(&now));
    }
    show::line(&root_text(&now))?;
    if now.root == "begun" && !now.tokens.is_empty() {
        say(&format!(
            "live tokens name the old root and end with it: {}. Use them before `finish`, or make them again after `switch`",
            now.tokens.join(", ")
        ));
    }
    Ok(())
}

/// Those that are linked take the new root while this looks on; the others are named.
async fn at_once(admin: &Admin, step: &str, json: bool) -> Result<(), Failure> {
    let mut now = admin.rotate(false, step, Vec::new()).await?;
    for _ in 0..LOOKS {
        if now.root_stragglers.is_empty() {
            break;
        }
        tokio::time::sleep(LOOK).await;
        now = admin.rotate(false, "status", Vec::new()).await?;
    }
    if json {
        return show::json(&rotation_json(&now));
    }
    show::line("the root is exchanged; the old one is dropped")?;
    if !now.root_stragglers.is_empty() {
        show::line(
            "\nThese have not taken the new root. Write it here with `tram pki bundle export FILE`, bring them the file, and run there `tram pki root install FILE`:",
        )?;
        now.root_stragglers.iter().try_for_each(|name| show::line(&format!("  {name}")))?;
    }
    say("make a backup, and new tokens for whoever has not joined yet");
    Ok(())
}

pub(super) fn root_text(now: &PkiRotation) -> String {
    let behind = |then: &str| match now.root_stragglers.as_slice() {
        [] => format!("Every node trusts both roots. Next: {then}"),
        names => {
            let count = show::count(names.len() as u64, "node does", "nodes do");
            format!("{count} not trust the new root yet: {}. When they do: {then}", names.join(", "))
        }
    };
    match now.root.as_str() {
        "begun" => format!("root: begun. {}", behind("`tram pki rotate root switch`")),
        "switched" => format!("root: switched. {}", behind("`tram pki rotate root finish`")),
        _ if !now.root_stragglers.is_empty() => {
            format!("root: no exchange is under way. Left behind with an old root: {}", now.root_stragglers.join(", "))
        }
        _ if now.root_key_here => "root: no exchange is under way".to_owned(),
        _ => "root: no exchange is under way; its key is not here".to_owned(),
    }
}

pub(super) fn ca_text(now: &PkiRotation) -> String {
    match (ca_stage(now), now.ca_stragglers.as_slice()) {
        ("begun", _) => "CA: the next key waits for its certificate; the present one goes on issuing".to_owned(),
        ("switched", []) => {
            "CA: the new key issues. Nobody uses the old one. Next: `tram pki rotate ca finish`".to_owned()
        }
        ("switched", names) => {
            let count = show::count(names.len() as u64, "node uses", "nodes use");
            let names = names.join(", ");
            format!(
                "CA: the new key issues. {count} the old one until they renew: {names}. Then: `tram pki rotate ca finish`"
            )
        }
        _ => "CA: no exchange is under way".to_owned(),
    }
}

async fn rotate_ca(place: &Place, command: RotateCaCommand, json: bool) -> Result<(), Failure> {
    let admin = Admin::connect(place).await?;
    let now = match command {
        RotateCaCommand::Begin => admin.rotate(true, "begin", Vec::new()).await?,
        RotateCaCommand::Status => admin.rotate(true, "status", Vec::new()).await?,
        RotateCaCommand::Finish(args) => admin.rotate(true, "finish", names(&args.abandon)).await?,
    };
    if json { show::json(&rotation_json(&now)) } else { show::line(&ca_text(&now)) }
}
