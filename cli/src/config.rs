//! `tram config`: check the files, show what is set, explain a key.

use std::path::Path;

use serde_json::{Value, json};
use tram_client::{Admin, ConfigAnswer, ConfigFault, ConfigKey, Error, Place};

use crate::args::ConfigCommand;
use crate::exit::{BAD_DATA, CONFIG, Failure, NO_INPUT};
use crate::{show, stopped};

pub(crate) async fn run(place: &Place, dir: Option<&Path>, command: ConfigCommand, json: bool) -> Result<(), Failure> {
    let file = match &command {
        ConfigCommand::Check { file } => file.as_deref(),
        _ => None,
    };
    let answer = ask(place, dir, file).await?;
    match command {
        ConfigCommand::Check { .. } => check(&answer, json),
        ConfigCommand::Show { effective } => show(&answer, effective, json),
        ConfigCommand::Explain { key } => explain(&answer, &key, json),
    }
}

async fn ask(place: &Place, dir: Option<&Path>, file: Option<&Path>) -> Result<ConfigAnswer, Failure> {
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Ok(text) => Ok((path.display().to_string(), text)),
        Err(error) => Err(Failure::new(NO_INPUT, format!("{}: {error}", path.display()))),
    };
    let text = file.map(read).transpose()?;
    match async { Admin::connect(place).await?.config(text.clone()).await }.await {
        Ok(answer) => Ok(answer),
        Err(Error::Unreachable { .. }) => {
            let name = text.map(|(name, _)| name);
            stopped::ask(dir, &["config"].into_iter().chain(name.as_deref()).collect::<Vec<_>>())
        }
        Err(error) => Err(error.into()),
    }
}

fn fault_text(fault: &ConfigFault) -> String {
    let line = if fault.line == 0 { String::new() } else { format!("line {}: ", fault.line) };
    let key = if fault.key.is_empty() { String::new() } else { format!("{}: ", fault.key) };
    let file = if fault.why.starts_with(&fault.file) { String::new() } else { format!("{}: ", fault.file) };
    show::plain(&format!("{file}{line}{key}{}", fault.why))
}

fn fault_json(fault: &ConfigFault) -> Value {
    json!({
        "file": fault.file,
        "line": (fault.line != 0).then_some(fault.line),
        "key": (!fault.key.is_empty()).then_some(&fault.key),
        "why": fault.why,
    })
}

fn check(answer: &ConfigAnswer, json: bool) -> Result<(), Failure> {
    let is_valid = answer.faults.is_empty();
    if json {
        let faults: Vec<_> = answer.faults.iter().map(fault_json).collect();
        show::json(&json!({ "schema": "tram.config/v1", "valid": is_valid, "faults": faults }))?;
    } else if is_valid {
        show::line("the config is in order")?;
    }
    refuse(answer)
}

/// All mistakes on stderr.
fn refuse(answer: &ConfigAnswer) -> Result<(), Failure> {
    let texts: Vec<String> = answer.faults.iter().map(fault_text).collect();
    if texts.is_empty() { Ok(()) } else { Err(Failure::new(CONFIG, texts.join("\ntram: "))) }
}

fn key_json(key: &ConfigKey, running: bool) -> Value {
    json!({
        "key": key.key,
        "value": key.is_set.then_some(&key.value),
        "default": key.default,
        "file": key.is_set.then_some(&key.file),
        "line": key.is_set.then_some(key.line),
        "meaning": key.meaning,
        "form": key.form,
        "takes_effect": if key.reloads { "reload" } else { "restart" },
        "in_force": running,
        "waits": key.waits,
        "next": (key.waits && !key.next.is_empty()).then_some(&key.next),
    })
}

fn keys_json(keys: &[&ConfigKey], running: bool) -> Value {
    let keys: Vec<_> = keys.iter().map(|key| key_json(key, running)).collect();
    json!({ "schema": "tram.config/v1", "running": running, "keys": keys })
}

/// What a key waits for, for people; empty when it waits for nothing.
fn waits(key: &ConfigKey) -> String {
    let next = if key.next.is_empty() { "the default" } else { &key.next };
    match (key.waits, key.reloads) {
        (false, _) => String::new(),
        (true, true) => format!("the files say {next}: `tram reload`"),
        (true, false) => format!("the files say {next}: needs a restart"),
    }
}

fn place(key: &ConfigKey) -> String {
    if key.is_set { format!("{}:{}", key.file, key.line) } else { "default".to_owned() }
}

/// In a section that may be left out as a whole.
fn is_absent(key: &ConfigKey) -> bool {
    !key.is_set && key.default.starts_with("required")
}

fn show(answer: &ConfigAnswer, effective: bool, json: bool) -> Result<(), Failure> {
    if !answer.running {
        // Nothing is in force: only the files speak, if they can be read.
        refuse(answer)?;
    }
    let is_shown = |key: &&ConfigKey| key.is_set || key.waits || effective && !is_absent(key);
    let shown: Vec<&ConfigKey> = answer.keys.iter().filter(is_shown).collect();
    if json {
        return show::json(&keys_json(&shown, answer.running));
    }
    let value = |key: &ConfigKey| if key.is_set { key.value.clone() } else { format!("({})", key.default) };
    let rows: Vec<_> = shown.iter().map(|key| [key.key.clone(), value(key), place(key), waits(key)]).collect();
    show::line(&show::table(["KEY", "VALUE", "FROM", ""], &rows))?;
    if answer.faults.is_empty() { Ok(()) } else { show::line("\n! the files have mistakes: `tram config check`") }
}

/// The numbers of lists left out.
fn plain(key: &str) -> String {
    key.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

fn explain(answer: &ConfigAnswer, asked: &str, json: bool) -> Result<(), Failure> {
    let wanted = plain(asked);
    let is_meant = |key: &&ConfigKey| {
        let rest = |of: &str, by: &str| of.strip_prefix(by).map(|rest| rest.is_empty() || rest.starts_with('.'));
        if asked.contains('[') { key.key == asked } else { rest(&plain(&key.key), &wanted).unwrap_or(false) }
    };
    let keys: Vec<&ConfigKey> = answer.keys.iter().filter(is_meant).collect();
    if keys.is_empty() {
        let section = wanted.split('.').next().unwrap_or_default();
        let mut names: Vec<String> = answer.keys.iter().map(|key| plain(&key.key)).collect();
        names.dedup();
        let near: Vec<String> = names.iter().filter(|name| name.split('.').next() == Some(section)).cloned().collect();
        let valid = if near.is_empty() { names } else { near };
        return Err(Failure::new(BAD_DATA, format!("there is no key {asked:?}: say one of {}", valid.join(", "))));
    }
    if json {
        return show::json(&keys_json(&keys, answer.running));
    }
    let texts: Vec<String> = keys.iter().map(|key| explanation(key, answer.running)).collect();
    show::line(&texts.join("\n\n"))
}

fn explanation(key: &ConfigKey, running: bool) -> String {
    let now = if running { "in force" } else { "in the files" };
    let value = match key {
        key if key.is_set => format!("{} ({})", key.value, place(key)),
        key if is_absent(key) => "not set".to_owned(),
        key => format!("{} ({})", key.default, place(key)),
    };
    let reload = if key.reloads { "by `tram reload`" } else { "after a restart" };
    let mut lines = vec![
        format!("{}: {}", key.key, key.meaning),
        format!("  takes         {}", key.form),
        format!("  default       {}", key.default),
        format!("  takes effect  {reload}"),
        format!("  {now:<12}  {value}"),
    ];
    if key.waits {
        lines.push(format!("  waits         {}", waits(key)));
    }
    lines.iter().map(|line| show::plain(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_says_meaning_form_default_value_and_place() {
        let key = ConfigKey {
            key: "spool.max".to_owned(),
            value: "\"50GiB\"".to_owned(),
            is_set: true,
            file: "/etc/tram/tramd.toml".to_owned(),
            line: 12,
            meaning: "the most".to_owned(),
            form: "a size".to_owned(),
            default: "what the disk has".to_owned(),
            waits: true,
            ..ConfigKey::default()
        };
        let text = explanation(&key, true);
        assert_eq!(
            text.lines().map(str::trim_end).collect::<Vec<_>>(),
            [
                "spool.max: the most",
                "  takes         a size",
                "  default       what the disk has",
                "  takes effect  after a restart",
                "  in force      \"50GiB\" (/etc/tram/tramd.toml:12)",
                "  waits         the files say the default: needs a restart",
            ]
        );
        let default = ConfigKey { is_set: false, waits: false, reloads: true, ..key };
        assert!(explanation(&default, false).ends_with("  in the files  what the disk has (default)"));
    }

    #[test]
    fn numbers_of_lists_are_left_out_of_names() {
        assert_eq!((plain("uplink[12].node"), plain("spool.max")), ("uplink.node".to_owned(), "spool.max".to_owned()));
    }
}
