use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::authority::Authority;
use crate::fixtures::{NOW_MS, Overlay};
use crate::keystore::{CA_KEY, NODE_KEY, NodeKeys, ROOT_KEY};
use crate::registry::{Entry, REGISTRY_JSON, Registry};

fn passphrase() -> Passphrase {
    Passphrase::of(b"correct horse battery").expect("a passphrase")
}

/// A machine with a founded overlay on it, or without anything.
struct Machine {
    dir: tempfile::TempDir,
    places: Places,
}

impl Machine {
    fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join("node").join(name);
        let places = Places { config: at("tramd.toml"), conf_d: at("conf.d"), pki: at("pki") };
        Self { dir, places }
    }

    fn founded() -> Self {
        let machine = Self::empty();
        let (zone, name) = ("tram.internal".parse().expect("zone"), "central".parse().expect("name"));
        keystore::found(&machine.places.pki, &zone, &name, NOW_MS).expect("founded");
        fs::write(&machine.places.config, "[node]\n").expect("written");
        fs::create_dir(&machine.places.conf_d).expect("made");
        fs::write(machine.places.conf_d.join("10-site.toml"), "# site\n").expect("written");
        fs::write(machine.places.conf_d.join("README"), "not config\n").expect("written");
        let copies = machine.places.pki.join(journal::COPIES_DIR);
        fs::create_dir(&copies).expect("made");
        fs::write(copies.join("07.log"), "{}\n").expect("written");
        machine
    }

    fn backup(&self, keys: bool) -> (PathBuf, Made) {
        let file = self.dir.path().join("node.backup");
        let made = make(&self.places, &file, &passphrase(), keys, NOW_MS).expect("made");
        (file, made)
    }

    /// Every file with its content, to see that nothing was touched.
    fn everything(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut out, mut open) = (Vec::new(), vec![self.dir.path().to_owned()]);
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).expect("readable") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    out.push((path.clone(), Vec::new()));
                    open.push(path);
                } else {
                    out.push((path.clone(), fs::read(&path).expect("readable")));
                }
            }
        }
        out.sort();
        out
    }
}

#[test]
fn a_node_comes_back_from_its_backup_whole() {
    let old = Machine::founded();
    let (file, made) = old.backup(true);
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(made.sha256, Sha256::of(&fs::read(&file).expect("readable")));
    assert_eq!(
        (made.facts.zone.as_str(), made.facts.name.as_str(), made.facts.made_ms),
        ("tram.internal", "central", NOW_MS)
    );
    assert_eq!(check(&file, &passphrase()).expect("opens"), made);
    let last = LastBackup::load(&old.places.pki).expect("recorded");
    assert_eq!((last.made_ms, last.sha256, last.keys), (NOW_MS, made.sha256.to_string(), true));

    let new = Machine::empty();
    let done = restore(&new.places, &file, &passphrase(), false).expect("restored");
    assert!(done.left.is_empty() && done.suspended, "{done:?}");
    assert_eq!(done.files.len(), made.files.len());
    let keys = NodeKeys::load(&new.places.pki).expect("loads");
    assert_eq!(keys.identity(), NodeKeys::load(&old.places.pki).expect("loads").identity());
    Authority::open(&new.places.pki).expect("opens");
    assert_eq!(Registry::open(&new.places.pki).expect("opens").nodes().count(), 1);
    let same =
        |places: fn(&Places) -> PathBuf| fs::read(places(&old.places)).ok() == fs::read(places(&new.places)).ok();
    assert!(same(|places| places.config.clone()) && same(|places| places.conf_d.join("10-site.toml")));
    assert!(same(|places| places.pki.join(AUDIT_LOG)) && same(|places| places.pki.join("audit-copies/07.log")));
    assert!(!new.places.conf_d.join("README").exists());
    for name in [CA_KEY, ROOT_KEY, NODE_KEY, REGISTRY_JSON, AUDIT_LOG] {
        let mode = fs::metadata(new.places.pki.join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(&new.places.pki).expect("there").permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_backup_without_keys_has_none_in_it() {
    let old = Machine::founded();
    let (file, made) = old.backup(false);
    assert!(made.files.iter().all(|name| !name.ends_with(".key")), "{:?}", made.files);
    let new = Machine::empty();
    restore(&new.places, &file, &passphrase(), false).expect("restored");
    assert!(new.places.pki.join(REGISTRY_JSON).exists() && !new.places.pki.join(CA_KEY).exists());
}

#[test]
fn row_23_a_backup_cut_short_or_altered_is_refused_before_anything_is_touched() {
    let old = Machine::founded();
    let (file, _) = old.backup(true);
    let good = fs::read(&file).expect("readable");
    let target = Machine::empty();
    let bad = target.dir.path().join("bad.backup");
    let refused = |bytes: &[u8], part: &str| {
        fs::write(&bad, bytes).expect("written");
        let before = target.everything();
        let error = restore(&target.places, &bad, &passphrase(), true).expect_err("refused").to_string();
        assert!(
            error.contains(part) && error.contains("bad.backup") && error.contains("nothing was changed"),
            "{error}"
        );
        assert_eq!(target.everything(), before);
    };
    for cut in [good.len() - 1, good.len() / 2, 60, 20, 9] {
        refused(&good[..cut], "cut short");
    }
    refused(&good[..5], "not a backup");
    refused(b"", "not a backup");
    refused(&[&good[..], b"x"].concat(), "more behind its end");
    refused(&[&good[..8], &[2], &good[9..]].concat(), "update tram");
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    // In the nonce, in the clear facts, in the files, in the tag.
    let facts = good.windows(8).position(|part| part == b"internal").expect("the zone is in clear");
    for at in [50, facts, good.len() / 2, good.len() - 1] {
        refused(&flipped(at), "altered");
    }
    // The salt and the check belong to the passphrase.
    for at in [17, 33] {
        refused(&flipped(at), "passphrase does not open");
    }
    let before = target.everything();
    let wrong = Passphrase::of(b"wrong horse battery").expect("a passphrase");
    let error = restore(&target.places, &file, &wrong, true).expect_err("refused");
    assert!(matches!(error, BackupError::WrongPassphrase { .. }), "{error}");
    assert_eq!(target.everything(), before);
}

#[test]
fn row_23_a_backup_of_another_zone_or_over_a_living_node_is_refused() {
    let old = Machine::founded();
    let (file, _) = old.backup(true);
    let other = Overlay::new("other.internal");
    let places = Places { pki: other.dir().to_owned(), ..Machine::empty().places };
    let error = restore(&places, &file, &passphrase(), true).expect_err("another zone").to_string();
    assert!(error.contains("zone tram.internal") && error.contains("zone other.internal"), "{error}");
    let before = old.everything();
    let error = restore(&old.places, &file, &passphrase(), true).expect_err("alive").to_string();
    assert!(error.contains("has keys already"), "{error}");
    assert_eq!(old.everything(), before);
}

#[test]
fn a_restore_that_was_interrupted_is_begun_anew_and_a_config_that_is_there_stays() {
    let old = Machine::founded();
    let (file, _) = old.backup(true);
    let new = Machine::empty();
    fs::create_dir_all(new.dir.path().join("node/pki.restoring/half")).expect("made");
    fs::create_dir(&new.places.pki).expect("made");
    fs::write(&new.places.config, "[node]\ntitle = \"mine\"\n").expect("written");
    let done = restore(&new.places, &file, &passphrase(), false).expect("restored");
    assert_eq!(done.left, std::slice::from_ref(&new.places.config));
    assert!(fs::read_to_string(&new.places.config).expect("readable").contains("mine"));
    assert!(new.places.conf_d.join("10-site.toml").exists() && !new.dir.path().join("node/pki.restoring").exists());
}

#[test]
fn row_24_a_restored_ca_is_marked_with_what_it_knew() {
    let old = Machine::founded();
    let mut registry = Registry::open(&old.places.pki).expect("opens");
    registry.next_crl(false, 16, NOW_MS).expect("numbered");
    registry.next_crl(true, 3, NOW_MS).expect("numbered");
    let head = registry.audit().head();
    let (file, _) = old.backup(true);
    registry.audit().append(&Entry::new("test", NOW_MS)).expect("appended");

    let new = Machine::empty();
    restore(&new.places, &file, &passphrase(), false).expect("restored");
    let mark = Restored::load(&new.places.pki).expect("readable").expect("marked");
    assert_eq!((mark.made_ms, mark.audit(), mark.accepted), (NOW_MS, Some(head), false));
    assert_eq!((mark.crl_number, mark.root_crl_number), (17, 4));
    assert!(Restored::accept(&new.places.pki).expect("written"));
    assert!(Restored::load(&new.places.pki).expect("readable").expect("marked").accepted);
    Restored::clear(&new.places.pki).expect("cleared");
    assert_eq!(Restored::load(&new.places.pki).expect("readable"), None);
    assert!(!Restored::accept(&new.places.pki).expect("nothing to accept"));
    // A mark that cannot be read is not no mark.
    fs::write(new.places.pki.join(RESTORED_JSON), "{").expect("written");
    Restored::load(&new.places.pki).expect_err("damaged");

    let accepted = Machine::empty();
    assert!(!restore(&accepted.places, &file, &passphrase(), true).expect("restored").suspended);
    assert!(Restored::load(&accepted.places.pki).expect("readable").expect("marked").accepted);
}

#[test]
fn a_backup_while_the_daemon_runs_takes_a_whole_set() {
    let old = Machine::founded();
    // The daemon holds the registry and writes into it all the while, and so do nodes below into their copies.
    let mut registry = Registry::open(&old.places.pki).expect("opens");
    let mut copies = journal::Copies::open(&old.places.pki).expect("opens");
    let node = NodeId([7; 16]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                registry.audit().append(&Entry::new("test", NOW_MS)).expect("appended");
                let have = copies.have(node).expect("read").number;
                let lines = registry.audit().since(have + 1, 1).expect("read");
                copies.append(node, have + 1, &lines).expect("taken");
            }
        });
        for _ in 0..3 {
            let (file, made) = old.backup(true);
            let (_, members) = container::open(&fs::read(file).expect("readable"), &passphrase()).expect("opens");
            let last = members.last().expect("files");
            assert_eq!(last.name, "pki/audit.log");
            let log = &last.content;
            let found = journal::verify(log, 1, None).expect("in order");
            assert_eq!(
                (found.head.number, found.head.hash.to_string()),
                (made.facts.audit_lines, made.facts.audit_hash)
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_weak_passphrase_an_exposed_key_and_a_damaged_registry_make_no_backup() {
    let old = Machine::founded();
    let file = old.dir.path().join("node.backup");
    let weak = Passphrase::of(b"tram").expect("a passphrase");
    let error = make(&old.places, &file, &weak, true, NOW_MS).expect_err("weak").to_string();
    assert!(error.contains("12 characters"), "{error}");
    let key = old.places.pki.join(CA_KEY);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
    let error = make(&old.places, &file, &passphrase(), true, NOW_MS).expect_err("exposed").to_string();
    assert!(error.contains("ca.key") && error.contains("chmod 600"), "{error}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(old.places.pki.join(REGISTRY_JSON), "{").expect("written");
    let error = make(&old.places, &file, &passphrase(), true, NOW_MS).expect_err("damaged").to_string();
    assert!(error.contains("no backup was made") && error.contains("registry.json"), "{error}");
    assert!(!file.exists() && LastBackup::load(&old.places.pki).is_none());
}
