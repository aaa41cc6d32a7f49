//! `tram pki`: certificates in use, keys at rest, the audit log, backup and restore.
//!
//! Works on the node's files where it can. What the running daemon holds is changed by asking it: then it is also the
//! daemon that writes the audit log.

mod ask;
mod cross;
mod nodes;
mod offline;
mod overlay;
mod root;
pub(crate) mod standing;
mod stick;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use tram_client::{Admin, Place};
use tram_pki::FileError;
use tram_pki::backup::{self, BackupError, Facts, Places, Restored};
use tram_pki::journal::{self, Broken, Copies, Head};
use tram_pki::keystore::KeyError;
use tram_pki::lock::{self, Passphrase};
use tram_pki::registry::{AUDIT_LOG, Entry, Registry, RegistryError};
use tram_proto::id::NodeId;

use crate::args::{AuditCommand, BackupArgs, LockArgs, PkiCommand, RestoreArgs};
use crate::exit::{BAD_DATA, CONFIG, Failure, IO, NEGATIVE, NO_INPUT, NOT_PERMITTED, TRY_AGAIN};
use crate::{passphrase, show};

pub(crate) async fn run(dir: Option<&Path>, command: PkiCommand, json: bool) -> Result<(), Failure> {
    let place = dir.map_or_else(Place::system, Place::dir);
    let places = places(dir);
    match command {
        PkiCommand::Lock(args) if args.set => lock_set(&place, &places, args, json).await,
        PkiCommand::Lock(args) if args.remove => lock_remove(&place, &places, args, json).await,
        PkiCommand::Lock(_) => {
            Admin::connect(&place).await?.lock().await?;
            if json { show::json(&json!({ "state": "locked" })) } else { Ok(()) }
        }
        PkiCommand::Unlock { passphrase } => {
            let word = passphrase::needed(passphrase.passphrase_file.as_deref(), "passphrase of the CA")?;
            Admin::connect(&place).await?.unlock(word.as_str()).await?;
            if json { show::json(&json!({ "state": "unlocked" })) } else { Ok(()) }
        }
        PkiCommand::Audit(AuditCommand::Verify { file, head, copy, since }) => {
            audit_verify(&file.unwrap_or_else(|| places.pki.join(AUDIT_LOG)), head, copy.as_deref(), since, json)
        }
        PkiCommand::Audit(AuditCommand::Export { out, since }) => {
            audit_export(&places.pki.join(AUDIT_LOG), &out, since, json)
        }
        PkiCommand::Audit(AuditCommand::SetAside { node }) => audit_set_aside(&place, &places.pki, &node, json).await,
        PkiCommand::Backup(args) => make_backup(&places, &args, json),
        PkiCommand::Restore(args) => restore(&places, args, json),
        PkiCommand::Overlay(command) => overlay::run(&place, &places.pki, command, json).await,
        PkiCommand::Offline(command) => offline::run(&place, &places.pki, command, json).await,
    }
}

/// Where the daemon keeps a node's files.
fn places(dir: Option<&Path>) -> Places {
    match dir {
        Some(dir) => Places { config: dir.join("tramd.toml"), conf_d: dir.join("conf.d"), pki: dir.join("pki") },
        None => Places {
            config: "/etc/tram/tramd.toml".into(),
            conf_d: "/etc/tram/conf.d".into(),
            pki: "/var/lib/tram/pki".into(),
        },
    }
}

#[expect(clippy::disallowed_methods, reason = "an offline command has no daemon to ask for the time")]
fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

fn of_file(error: &FileError) -> i32 {
    match error {
        FileError::Missing { .. } => NO_INPUT,
        FileError::Exposed { .. } | FileError::Owner { .. } | FileError::NotRegular { .. } => CONFIG,
        FileError::Exists { .. } => NEGATIVE,
        _ => IO,
    }
}

fn of_key(error: &KeyError) -> Failure {
    let code = match error {
        KeyError::WrongPassphrase { .. } => return wrong_passphrase(error),
        KeyError::File(file) => of_file(file),
        KeyError::Random => IO,
        _ => CONFIG,
    };
    Failure::new(code, error.to_string())
}

/// Said after a second, so that guessing takes its time here too.
fn wrong_passphrase(error: &impl ToString) -> Failure {
    std::thread::sleep(lock::WRONG_DELAY);
    Failure::new(NOT_PERMITTED, error.to_string())
}

fn of_backup(error: &BackupError) -> Failure {
    let code = match error {
        BackupError::WrongPassphrase { .. } => return wrong_passphrase(error),
        BackupError::Key(key) => return of_key(key),
        BackupError::File(file) => of_file(file),
        BackupError::Passphrase(_) | BackupError::Damaged { .. } | BackupError::OtherZone { .. } => BAD_DATA,
        BackupError::Exists { .. } => NEGATIVE,
        BackupError::Busy => TRY_AGAIN,
        _ => IO,
    };
    Failure::new(code, error.to_string())
}

fn say(text: &str) {
    // Nothing can be done about a closed stderr.
    let _ = writeln!(std::io::stderr(), "tram: {text}");
}

/// The key files in words, and whether each is locked.
fn ca_keys(pki: &Path) -> Result<Vec<(PathBuf, bool)>, Failure> {
    let keys = lock::ca_keys(pki).map_err(|error| of_key(&error))?;
    if keys.is_empty() {
        let why = format!("no_authority: {} holds no key of a root or CA", pki.display());
        return Err(Failure::new(NEGATIVE, why));
    }
    Ok(keys)
}

/// Shows a passphrase that was made here, before anything depends on it.
fn hand_over(word: &Passphrase) -> Result<(), Failure> {
    show::line(word.as_str())?;
    say("write this passphrase down; it is shown only now, and without it nothing is opened again");
    Ok(())
}

async fn lock_set(place: &Place, places: &Places, args: LockArgs, json: bool) -> Result<(), Failure> {
    let given = passphrase::given(args.passphrase.passphrase_file.as_deref())?;
    let keys = ca_keys(&places.pki)?;
    let word = match given {
        Some(word) => word,
        None => {
            if let Some((path, _)) = keys.iter().find(|(_, locked)| *locked) {
                let cure = "give its passphrase with --passphrase-file, or take the lock away first with --remove";
                return Err(Failure::new(NEGATIVE, format!("{} is locked already: {cure}", path.display())));
            }
            let word = Passphrase::generate().map_err(|error| of_key(&error))?;
            if !json {
                hand_over(&word)?;
            }
            word
        }
    };
    word.check_length().map_err(|error| Failure::new(BAD_DATA, error.to_string()))?;
    if json {
        // Before the change: a passphrase that nobody saw would be a lost CA.
        let made = args.passphrase.passphrase_file.is_none().then(|| word.as_str());
        let files: Vec<String> = keys.iter().map(|(path, _)| path.display().to_string()).collect();
        show::json(&json!({ "keys": files, "passphrase": made }))?;
    }
    let keys = change_lock(place, &places.pki, &word, true).await?;
    say(&format!("locked: {}; the old form may still be found on the disk until it is written over", keys.join(", ")));
    Ok(())
}

async fn lock_remove(place: &Place, places: &Places, args: LockArgs, json: bool) -> Result<(), Failure> {
    ca_keys(&places.pki)?;
    let word = passphrase::needed(args.passphrase.passphrase_file.as_deref(), "passphrase of the CA")?;
    let keys = change_lock(place, &places.pki, &word, false).await?;
    if json { show::json(&json!({ "keys": keys })) } else { Ok(()) }
}

/// Whoever holds the registry changes the lock, and tells the audit log.
async fn change_lock(place: &Place, pki: &Path, word: &Passphrase, set: bool) -> Result<Vec<String>, Failure> {
    let mut registry = match Registry::open(pki) {
        Ok(registry) => registry,
        Err(RegistryError::Held { .. }) => {
            return Ok(Admin::connect(place).await?.set_lock(word.as_str(), set).await?);
        }
        Err(RegistryError::File(error)) => return Err(Failure::new(of_file(&error), error.to_string())),
        Err(error) => return Err(Failure::new(CONFIG, error.to_string())),
    };
    lock::check(pki, word).map_err(|error| of_key(&error))?;
    let file = |error: FileError| Failure::new(of_file(&error), error.to_string());
    // A restored log is to go on where the parent's copy ends.
    if Restored::load(pki).map_err(file)?.is_none_or(|restored| restored.accepted) {
        let by = format!("uid {}", rustix::process::getuid().as_raw());
        let entry = Entry { actor: &by, ..Entry::new(if set { "lock_set" } else { "lock_removed" }, now_ms()) };
        registry.audit().append(&entry).map_err(file)?;
    }
    let keys = if set { lock::set(pki, word) } else { lock::remove(pki, word) };
    let keys = keys.map_err(|error| of_key(&error))?;
    Ok(keys.into_iter().map(|path| path.display().to_string()).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(NO_INPUT, format!("{}: {error}", path.display())))
}

fn audit_verify(file: &Path, head: Option<Head>, copy: Option<&Path>, since: u64, json: bool) -> Result<(), Failure> {
    let log = read(file)?;
    let copy = copy.map(read).transpose()?;
    let checked = journal::verify(&log, since, head);
    // The chain says more of what was changed than the first line that differs.
    let checked = checked.and_then(|found| copy.map_or(Ok(()), |copy| journal::compare(&log, &copy)).map(|()| found));
    match checked {
        Ok(found) if json => show::json(&json!({
            "valid": true,
            "lines": found.lines,
            "unchained": found.unchained,
            "head": found.head.to_string(),
            "torn_bytes": found.torn_bytes,
        })),
        Ok(found) => {
            let lines = show::count(found.lines, "line", "lines");
            let mut text = format!("in order: {lines}, the last is {}", found.head);
            if found.unchained > 0 {
                let before = show::count(found.unchained, "line", "lines");
                text += &format!("\n{before} of an older release, covered by the first of this one");
            }
            if found.torn_bytes > 0 {
                let torn = found.torn_bytes;
                text += &format!(
                    "\n{torn} bytes of half a line at the end, as a power cut leaves it: it never took effect"
                );
            }
            show::line(&text)
        }
        Err(Broken { line, what }) => {
            if json {
                show::json(&json!({ "valid": false, "line": line, "error": what }))?;
            }
            Err(Failure::new(NEGATIVE, format!("{}: line {line}: {what}", file.display())))
        }
    }
}

/// The daemon notices by itself; it is asked only for the id behind a name.
async fn audit_set_aside(place: &Place, pki: &Path, which: &str, json: bool) -> Result<(), Failure> {
    let id: NodeId = match which.parse() {
        Ok(id) => id,
        Err(_) => {
            let known = Admin::connect(place).await?.pki_nodes().await?.nodes;
            let id = known.iter().find(|node| node.name == which).and_then(|node| node.id.parse().ok());
            let why = || format!("{which:?} is no node that this one knows; `tram pki list` shows them");
            id.ok_or_else(|| Failure::new(NEGATIVE, why()))?
        }
    };
    let aside = Copies::set_aside(pki, id).map_err(|error| match error {
        FileError::Missing { .. } => {
            Failure::new(NEGATIVE, format!("there is no copy of the audit log of {which} here"))
        }
        error => Failure::new(of_file(&error), error.to_string()),
    })?;
    if json {
        return show::json(&json!({ "node": id.to_string(), "aside": aside.display().to_string() }));
    }
    show::line(&format!("the copy is {} now; a new one begins within ten minutes of its link", aside.display()))
}

fn audit_export(file: &Path, out: &Path, since: u64, json: bool) -> Result<(), Failure> {
    let log = read(file)?;
    let head = journal::head_of(&log);
    let skip = usize::try_from(since - 1).unwrap_or(usize::MAX);
    let lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).collect();
    let part = lines.get(skip..).unwrap_or_default().concat();
    let written = if out == Path::new("-") {
        std::io::stdout().lock().write_all(&part)
    } else {
        let mut options = OpenOptions::new();
        let open = options.write(true).create(true).truncate(true).mode(0o600).open(out);
        open.and_then(|mut to| to.write_all(&part).and_then(|()| to.sync_all()))
    };
    written.map_err(|error| Failure::io(format!("{}: {error}", out.display())))?;
    let count = lines.len().saturating_sub(skip) as u64;
    if json && out != Path::new("-") {
        return show::json(&json!({ "lines": count, "head": head.to_string(), "out": out.display().to_string() }));
    }
    say(&format!("{}, the last is {head}", show::count(count, "line", "lines")));
    Ok(())
}

fn facts_json(facts: &Facts) -> serde_json::Value {
    json!({
        "zone": facts.zone,
        "node": facts.name,
        "node_id": facts.node,
        "made": show::utc(facts.made_ms),
        "keys": facts.keys,
        "audit_head": format!("{}:{}", facts.audit_lines, facts.audit_hash),
    })
}

fn make_backup(places: &Places, args: &BackupArgs, json: bool) -> Result<(), Failure> {
    let given = passphrase::given(args.passphrase.passphrase_file.as_deref())?;
    let generated = given.is_none();
    let word = match given {
        Some(word) => word,
        None => Passphrase::generate().map_err(|error| of_key(&error))?,
    };
    let made = backup::make(places, &args.file, &word, !args.without_keys, now_ms());
    let made = made.map_err(|error| of_backup(&error))?;
    if json {
        return show::json(&json!({
            "file": args.file.display().to_string(),
            "bytes": made.bytes,
            "sha256": made.sha256.to_string(),
            "tested": true,
            "files": made.files,
            "backup": facts_json(&made.facts),
            "passphrase": generated.then(|| word.as_str()),
        }));
    }
    if generated {
        hand_over(&word)?;
    }
    say(&format!("sha256 {}", made.sha256));
    let keys = if args.without_keys { "without private keys" } else { "with the private keys" };
    let files = show::count(made.files.len() as u64, "file", "files");
    say(&format!("{files} of {} {keys}, opened again and found right: {}", made.facts.name, args.file.display()));
    Ok(())
}

fn restore(places: &Places, args: RestoreArgs, json: bool) -> Result<(), Failure> {
    let Some(file) = args.file else {
        let accepted =
            Restored::accept(&places.pki).map_err(|error| Failure::new(of_file(&error), error.to_string()))?;
        if !accepted {
            return Err(Failure::new(
                NEGATIVE,
                format!("{} waits for nothing: it issues already", places.pki.display()),
            ));
        }
        return if json { show::json(&json!({ "accepted": true })) } else { Ok(()) };
    };
    let word = passphrase::needed(args.passphrase.passphrase_file.as_deref(), "passphrase of the backup")?;
    if args.check {
        let found = backup::check(&file, &word).map_err(|error| of_backup(&error))?;
        if json {
            let (sha256, files) = (found.sha256.to_string(), found.files);
            return show::json(&json!({ "sha256": sha256, "files": files, "backup": facts_json(&found.facts) }));
        }
        let (facts, at) = (&found.facts, show::local(found.facts.made_ms));
        let keys = if facts.keys { "with" } else { "without" };
        return show::line(&format!(
            "{}.{} of {at}, {keys} private keys\n{}",
            facts.name,
            facts.zone,
            found.files.join("\n")
        ));
    }
    let done = backup::restore(places, &file, &word, args.accept_loss).map_err(|error| of_backup(&error))?;
    if json {
        let paths = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        return show::json(&json!({
            "files": paths(&done.files),
            "left": paths(&done.left),
            "suspended": done.suspended,
            "backup": facts_json(&done.facts),
        }));
    }
    let files = show::count(done.files.len() as u64, "file", "files");
    say(&format!(
        "{files} of {}.{} are in place, as of {}",
        done.facts.name,
        done.facts.zone,
        show::local(done.facts.made_ms)
    ));
    done.left.iter().for_each(|path| say(&format!("{} was there and was left alone", path.display())));
    if !done.facts.keys {
        say("the backup has no private keys: put them back into pki/ before the node is started");
    }
    if done.suspended {
        say(
            "the CA issues again when a neighbour or the parent has told what came after the backup; if nobody can: tram pki restore --accept-loss",
        );
    }
    Ok(())
}
