//! The config as `tram config` shows it: every key with its value, its place and its meaning.

use tram_proto::local::{ConfigAnswer, ConfigFault, ConfigKey};

use super::keys::{self, KEYS, Key};
use super::{ConfigError, Entries, Entry};

/// What is in force beside what the files say. Of a node that does not run `in_force` is `None`.
#[must_use]
pub fn answer(in_force: Option<&Entries>, files: Result<&Entries, &ConfigError>) -> ConfigAnswer {
    let nothing = Entries::default();
    let on_disk = files.as_ref().ok().copied();
    let shown = in_force.or(on_disk).unwrap_or(&nothing);
    let next = on_disk.filter(|_| in_force.is_some());
    ConfigAnswer {
        keys: KEYS.iter().flat_map(|key| views(key, shown, next)).collect(),
        faults: files.err().map(faults).unwrap_or_default(),
        running: in_force.is_some(),
    }
}

fn faults(error: &ConfigError) -> Vec<ConfigFault> {
    match error {
        ConfigError::Read { path, .. } => {
            let (file, why) = (path.display().to_string(), error.to_string());
            vec![ConfigFault { file, why, ..ConfigFault::default() }]
        }
        ConfigError::Faults(all) => all
            .iter()
            .map(|fault| ConfigFault {
                file: fault.path.display().to_string(),
                line: fault.line.unwrap_or(0) as u64,
                key: fault.key.clone(),
                why: fault.why.clone(),
            })
            .collect(),
    }
}

/// One for each place where a key is set, or one for its default.
fn views(key: &Key, shown: &Entries, next: Option<&Entries>) -> Vec<ConfigKey> {
    let of = |entries: &Entries| -> Vec<Entry> {
        entries.values().filter(|entry| keys::plain(&entry.key) == key.name).cloned().collect()
    };
    let (set, coming) = (of(shown), next.map(of));
    let default = ConfigKey {
        key: key.name.to_owned(),
        meaning: key.meaning.to_owned(),
        form: key.form.to_owned(),
        default: key.default.to_owned(),
        reloads: key.reloads,
        ..ConfigKey::default()
    };
    let with = |now: Option<&Entry>, coming: Option<&Entry>, waits: bool| ConfigKey {
        key: now.or(coming).map_or_else(|| key.name.to_owned(), |entry| entry.key.clone()),
        value: now.and_then(|entry| entry.value.clone()).unwrap_or_default(),
        is_set: now.is_some(),
        file: now.map(|entry| entry.path.display().to_string()).unwrap_or_default(),
        line: now.map_or(0, |entry| entry.line as u64),
        waits,
        next: coming.and_then(|entry| entry.value.clone()).filter(|_| waits).unwrap_or_default(),
        ..default.clone()
    };
    let same = |all: &[Entry], one: &Entry| all.iter().find(|other| other.key == one.key).cloned();
    let mut views: Vec<ConfigKey> = Vec::new();
    for one in &set {
        let after = coming.as_ref().map(|coming| same(coming, one));
        let waits =
            after.as_ref().is_some_and(|after| after.as_ref().and_then(|a| a.value.as_ref()) != one.value.as_ref());
        views.push(with(Some(one), after.flatten().as_ref(), waits));
    }
    for one in coming.iter().flatten().filter(|one| same(&set, one).is_none()) {
        views.push(with(None, Some(one), true));
    }
    if views.is_empty() {
        views.push(default);
    }
    views
}
