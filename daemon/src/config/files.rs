//! Reads config files and merges them; keeps which key stands in which line, and every mistake on the way.
//!
//! A value that cannot be read is noted and taken out, and the rest is read again: so each mistake is found by the same
//! code that reads what is right. Never judges whether values fit together.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};
use toml::{Table, Value};

use super::{ConfigError, Fault, Sections, keys};
use crate::paths::Paths;

/// More mistakes than this in one file are not looked for.
const FAULTS: usize = 100;

/// Where something stands in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As in the table of keys; the entries of a list of tables count from 1, as in `uplink[1].node`.
    pub key: String,
    /// The value as it is written there; `None` for a table.
    pub value: Option<String>,
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

impl Entry {
    /// The key as it stands in the table of keys.
    #[must_use]
    pub fn name(&self) -> String {
        keys::plain(&self.key)
    }
}

/// What stands where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries(Vec<Entry>);

impl Entries {
    /// The keys that have a value.
    pub fn values(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(|entry| entry.value.is_some())
    }

    /// Where a key, or what is in it, stands first.
    fn place(&self, key: &str) -> Option<&Entry> {
        let within = |entry: &&Entry| entry.key.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', '[']));
        self.0.iter().find(|entry| entry.key == key).or_else(|| self.0.iter().find(within))
    }

    /// These, with what `older` says of the keys that did not take effect.
    #[must_use]
    pub(crate) fn keeping(&self, older: &Self, waits: impl Fn(&str) -> bool) -> Self {
        let stays = |entry: &&Entry| waits(&entry.name());
        let new = self.0.iter().filter(|entry| !stays(entry));
        Self(new.chain(older.0.iter().filter(stays)).cloned().collect())
    }
}

/// A config that is being read.
#[derive(Default)]
pub(crate) struct Draft {
    main: PathBuf,
    merged: Table,
    entries: Entries,
    faults: Vec<Fault>,
}

impl Draft {
    /// Reads a file's text after those before it.
    pub(super) fn add(&mut self, path: &Path, text: &str) {
        let (mut table, errors) = DeTable::parse_recoverable(text);
        let line = |at: usize| text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        let fault = |span: Option<Range<usize>>, key: String, why: String| {
            let line = span.map(|span| line(span.start));
            Fault { path: path.to_owned(), line, key, why }
        };
        let is_whole = errors.is_empty();
        self.faults.extend(
            errors.iter().take(FAULTS).map(|error| fault(error.span(), String::new(), error.message().to_owned())),
        );
        for _ in 0..FAULTS {
            let Err(error) = Sections::deserialize(Deserializer::from(table.clone())) else { break };
            let taken = error.span().and_then(|span| take(table.get_mut(), &span, ""));
            let Some(key) = taken else {
                self.faults.push(fault(error.span(), String::new(), error.message().to_owned()));
                table = Spanned::new(0..0, DeTable::new());
                break;
            };
            // What a broken line or a wrong value should have said is not missed as well.
            let missing = error.message().strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
            let is_told = |field: &str| self.faults.iter().any(|fault| fault.key == join(&key, field));
            let at = error.span().map(|span| line(span.start));
            let is_broken = self.faults.iter().any(|f| f.key.is_empty() && f.path == path && f.line == at);
            if !is_broken && missing.is_none_or(|field| is_whole && !is_told(field)) {
                let why = with_form(&key, error.message());
                self.faults.push(fault(error.span(), key, why));
            }
        }
        let found = self.entries.0.len();
        note(&mut self.entries.0, table.get_ref(), "", &|key, value, at| {
            let value = value.map(|span| text.get(span).unwrap_or_default().split_whitespace().collect::<Vec<_>>());
            Entry { key, value: value.map(|words| words.join(" ")), path: path.to_owned(), line: line(at) }
        });
        match Table::deserialize(Deserializer::from(table)) {
            Ok(table) => merge(&mut self.merged, table, "", &self.entries.0, found, &mut self.faults),
            Err(error) => self.faults.push(fault(error.span(), String::new(), error.message().to_owned())),
        }
    }

    /// What can be read of all of it. `main` is named where no place is known.
    pub(super) fn sections(&mut self, main: &Path) -> Sections {
        self.main = main.to_owned();
        // Each file could be read alone.
        Sections::deserialize(std::mem::take(&mut self.merged)).unwrap_or_else(|error| {
            self.wrong("", error.message().to_owned());
            Sections::default()
        })
    }

    /// Notes a mistake.
    pub(crate) fn wrong(&mut self, key: &str, why: String) {
        let place = self.entries.place(key);
        let (path, line) = place.map_or((&self.main, None), |entry| (&entry.path, Some(entry.line)));
        self.faults.push(Fault { path: path.clone(), line, key: key.to_owned(), why });
    }

    /// Whether something is wrong with a key, so that others cannot be judged by it.
    pub(crate) fn doubts(&self, key: &str) -> bool {
        self.faults.iter().any(|fault| fault.key.is_empty() || fault.key.starts_with(key))
    }

    /// File and line of a key.
    pub(crate) fn place(&self, key: &str) -> Option<(PathBuf, usize)> {
        self.entries.place(key).map(|entry| (entry.path.clone(), entry.line))
    }

    /// What stands where.
    ///
    /// # Errors
    /// All mistakes.
    pub(super) fn finish(mut self) -> Result<Entries, ConfigError> {
        if self.faults.is_empty() {
            return Ok(self.entries);
        }
        let main = self.main;
        self.faults.sort_by_key(|fault| (fault.path != main, fault.path.clone(), fault.line));
        self.faults.dedup();
        Err(ConfigError::Faults(self.faults))
    }
}

/// The node's files in their order, each with its text.
pub(super) fn texts(paths: &Paths) -> Result<Vec<(PathBuf, String)>, ConfigError> {
    let mut files = vec![paths.config.clone()];
    files.extend(more_files(&paths.conf_d)?);
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(ConfigError::Read { path, source }),
    };
    files.into_iter().map(read).collect()
}

fn more_files(conf_d: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match std::fs::read_dir(conf_d) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { path: conf_d.to_owned(), source }),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    Ok(files)
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// Adds what a key takes to what the parser says of its value.
fn with_form(key: &str, message: &str) -> String {
    match keys::find(&keys::plain(key)) {
        Some(known) if !message.starts_with("unknown") => format!("{message}; give {}", known.form),
        _ => message.to_owned(),
    }
}

fn has_tables(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(all) => all.iter().any(|one| matches!(one.get_ref(), DeValue::Table(_))),
        _ => false,
    }
}

/// Takes out what stands at `span`: a value, a key with its value, or the table that lacks something. Answers its key.
fn take(table: &mut DeTable<'_>, span: &Range<usize>, prefix: &str) -> Option<String> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        let name = join(prefix, key.get_ref());
        let (at_key, at_value) = (key.span(), value.span());
        match value.get_mut() {
            DeValue::Table(inner) => {
                if let Some(taken) = take(inner, span, &name) {
                    return Some(taken);
                }
            }
            DeValue::Array(all) => {
                let mut gone = None;
                for (at, one) in all.iter_mut().enumerate() {
                    let (name, whole) = (format!("{name}[{}]", at + 1), one.span() == *span);
                    if let DeValue::Table(inner) = one.get_mut() {
                        if let Some(taken) = take(inner, span, &name) {
                            return Some(taken);
                        }
                        if whole {
                            gone = Some((at, name));
                        }
                    }
                }
                if let Some((at, name)) = gone {
                    *all = all.clone().into_iter().enumerate().filter(|(n, _)| *n != at).map(|(_, one)| one).collect();
                    return Some(name);
                }
            }
            _ => {}
        }
        let inside = !has_tables(value.get_ref()) && at_value.start <= span.start && span.end <= at_value.end;
        if at_key == *span || at_value == *span || inside {
            found = Some((key.clone(), name));
            break;
        }
    }
    let (key, name) = found?;
    table.remove(&key);
    Some(name)
}

/// Notes where everything in a table stands.
fn note(
    into: &mut Vec<Entry>,
    table: &DeTable<'_>,
    prefix: &str,
    entry: &impl Fn(String, Option<Range<usize>>, usize) -> Entry,
) {
    for (key, value) in table {
        let (name, at) = (join(prefix, key.get_ref()), key.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => {
                into.push(entry(name.clone(), None, at));
                note(into, inner, &name, entry);
            }
            DeValue::Array(all) if has_tables(value.get_ref()) => {
                for one in all {
                    let before = into.iter().filter(|e| e.value.is_none() && keys::list_of(&e.key) == Some(&name));
                    let name = format!("{name}[{}]", before.count() + 1);
                    into.push(entry(name.clone(), None, one.span().start));
                    if let DeValue::Table(inner) = one.get_ref() {
                        note(into, inner, &name, entry);
                    }
                }
            }
            _ => into.push(entry(name, Some(value.span()), at)),
        }
    }
}

fn merge(into: &mut Table, from: Table, prefix: &str, entries: &[Entry], found: usize, faults: &mut Vec<Fault>) {
    for (key, value) in from {
        let full = join(prefix, &key);
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new, &full, entries, found, faults),
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (None, new) => {
                into.insert(key, new);
            }
            (Some(_), _) => {
                let (before, now) = entries.split_at(found);
                let at = |entries: &[Entry]| entries.iter().find(|entry| entry.key == full).cloned();
                if let Some((first, second)) = at(before).zip(at(now)) {
                    let why = format!("stands also in {}, line {}; keep one of them", first.path.display(), first.line);
                    faults.push(Fault { path: second.path, line: Some(second.line), key: full, why });
                }
            }
        }
    }
}
