//! Mistakes in configs, and the table of keys against everything that repeats it.

use std::collections::BTreeSet;
use std::fs;

use super::*;

#[track_caller]
fn check(text: &str, expect: Result<(), &[&str]>) {
    let got = Config::from_text(Path::new("tramd.toml"), text).map(|_| ()).map_err(|e| e.to_string());
    match expect {
        Ok(()) => assert_eq!(got, Ok(())),
        Err(parts) => {
            let error = got.expect_err("refused");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_valid_ones() {
    check("", Ok(()));
    check("[spool]\nmax = \"1GiB\"\nkeepfree = \"1MiB\"\n", Err(&["tramd.toml", "line 3", "keepfree", "keep_free"]));
    check("[sppol]\n", Err(&["line 1", "sppol", "spool"]));
    check("[[uplink]]\nnode = \"a\"\n", Err(&["addresses"]));
    check("[spool]\nmax = 5\n[", Err(&["line 3"]));
}

#[test]
fn a_value_that_cannot_be_is_named_with_its_cure() {
    check("[access]\ninboxes = [\"a/b\"]\n", Err(&["access.inboxes", "a/b"]));
    check("[[uplink]]\nnode = \"A\"\naddresses = [\"h:1\"]\n", Err(&["uplink[1].node", "\"a\""]));
    check("[[uplink]]\nnode = \"a\"\naddresses = [\"h\"]\n", Err(&["uplink[1].addresses"]));
    check("[[uplink]]\nnode = \"a\"\naddresses = []\n", Err(&["at least one"]));
    let twice = "[[uplink]]\nnode = \"a\"\naddresses = [\"h:1\"]\n".repeat(2);
    check(&twice, Err(&["uplink[2].node", "a stands twice"]));
    check("[listen]\ncongestion = \"reno\"\n", Err(&["line 2", "reno", "tram", "cubic", "bbr"]));
    check("[http]\nlisten = \"0.0.0.0:7480\"\n", Err(&["http.listen", "mutual TLS", "127.0.0.1:7480"]));
    check("[http]\nlisten = \"localhost\"\n", Err(&["http.listen", "IP:PORT"]));
    check("[http]\nlisten = \"\"\n", Ok(()));
    check("[log]\nlevel = \"tramd=loud\"\n", Err(&["log.level", "loud"]));
}

#[test]
fn the_example_is_valid_and_names_every_key() {
    let text = include_str!("../../tramd.example.toml");
    let config = Config::from_text(Path::new("tramd.example.toml"), text).expect("valid");
    assert_eq!(config.uplinks.len(), 1);
    let uncommented: String = text.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l)).collect::<Vec<_>>().join("\n");
    let full = Config::from_text(Path::new("tramd.example.toml"), &uncommented).expect("valid with every key set");
    assert!(full.spool.max.is_some() && full.listen.advertise.is_some() && !full.rules.is_empty());
    assert!(full.node.timezone.is_some() && full.plan != config.plan);
}

#[test]
fn files_add_up_and_contradictions_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let paths = Paths::new(Some(dir.path()));
    std::fs::create_dir(&paths.conf_d).expect("made");
    std::fs::write(&paths.config, "[access]\ninboxes = [\"vanban\"]\n[node]\ntitle = \"A\"\n").expect("written");
    std::fs::write(paths.conf_d.join("10-more.toml"), "[access]\ninboxes = [\"khan\"]\n").expect("written");
    assert_eq!(Config::load(&paths).expect("merged").inboxes.len(), 2);
    std::fs::write(paths.conf_d.join("20-title.toml"), "[node]\ntitle = \"B\"\n").expect("written");
    let error = Config::load(&paths).expect_err("twice").to_string();
    assert!(error.contains("node.title") && error.contains("20-title.toml"), "{error}");
}

#[test]
fn the_http_door_is_open_in_the_systems_places_and_elsewhere_when_it_is_said() {
    let (system, own) = (Paths::new(None), Paths::new(Some(Path::new("/tmp/C"))));
    let at = |text: Option<&str>, paths| HttpListen::of(text).expect("valid").address(paths).map(|a| a.to_string());
    assert_eq!(at(None, &system).as_deref(), Some(http::DEFAULT));
    assert_eq!(at(None, &own), None);
    assert_eq!(at(Some(""), &system), None);
    assert_eq!(at(Some("[::1]:80"), &own).as_deref(), Some("[::1]:80"));
}

/// Eleven mistakes of all kinds, one a line where that can be.
const WRONG: &str = r#"[node]
titel = "x"
timezone = "Asia/Saigonn"
[listen]
overlay = "7443"
congestion = "reno"
[[uplink]]
node = "Cần Thơ"
addresses = ["h"]
[access]
inboxes = ["a/b"]
[spool]
max = "viel"
[log]
level = 5
[sppol]
[[plan.limit]]
link = "uplink"
most = "much"
"#;

#[test]
fn all_mistakes_are_reported_at_once_each_with_its_line_and_cure() {
    let ConfigError::Faults(faults) = Config::from_text(Path::new("tramd.toml"), WRONG).expect_err("refused") else {
        panic!("faults")
    };
    let expect = [
        (2, "node.titel", "expected `title` or `timezone`"),
        (3, "node.timezone", "Asia/Ho_Chi_Minh"),
        (5, "listen.overlay", "give IP:PORT"),
        (6, "listen.congestion", "`tram`, `cubic`"),
        (8, "uplink[1].node", "Cần Thơ"),
        (9, "uplink[1].addresses", "HOST:PORT"),
        (11, "access.inboxes", "a/b"),
        (13, "spool.max", "give a size such as `50GiB`"),
        (15, "log.level", "expected a string"),
        (16, "sppol", "`spool`"),
        (17, "plan.limit[1]", "2mbit"),
    ];
    assert_eq!(faults.len(), expect.len(), "{faults:#?}");
    for (fault, (line, key, cure)) in faults.iter().zip(expect) {
        assert_eq!((fault.line, fault.key.as_str()), (Some(line), key));
        assert!(fault.why.contains(cure), "{fault}");
    }
}

#[test]
fn one_mistake_is_not_told_twice_by_what_depends_on_it() {
    let faults = |text: &str| match Config::from_text(Path::new("t"), text) {
        Err(ConfigError::Faults(faults)) => faults.into_iter().map(|f| (f.line, f.key)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let uplink = "[[uplink]]\nnode = \"A\"\naddresses = [\"h:1\"]\n";
    let limit = "[[plan.limit]]\nlink = \"uplink\"\nmost = \"30%\"\n";
    let line = "[[plan.line]]\nlink = \"uplink\"\nrate = 5\n";
    let key = |line: usize, key: &str| (Some(line), key.to_owned());
    assert_eq!(faults(&format!("{uplink}{line}{limit}")), vec![key(2, "uplink[1].node"), key(6, "plan.line[1].rate")]);
    // A line that is no TOML takes nothing else with it.
    let torn = "[spool]\nmax = \n[log]\nlevel = 5\n";
    assert_eq!(faults(torn), vec![key(2, ""), key(4, "log.level")]);
    assert_eq!(faults("[[uplink]]\nnode = \"a\naddresses = [\"h:1\"]\n").len(), 1);
    // The second entry is judged as the second though the first cannot be read.
    let entries = "[[plan.line]]\nlnk = \"x\"\nrate = \"1mbit\"\n[[plan.line]]\nlink = \"B\"\nrate = \"1mbit\"\n";
    assert_eq!(faults(entries).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [Some(1), Some(2), Some(4)]);
}

#[test]
fn mistakes_of_several_files_and_of_rules_are_reported_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let paths = Paths::new(Some(dir.path()));
    fs::create_dir(&paths.conf_d).expect("made");
    let rules = "[[access.rule]]\nusers = [\"root\"]\n[[access.rule]]\nusers = [\"no-such-user\"]\n[[access.rule]]\n";
    fs::write(&paths.config, format!("[node]\ntitle = \"A\"\n{rules}")).expect("written");
    fs::write(paths.conf_d.join("10.toml"), "[node]\ntitle = \"B\"\n[log]\nlevl = \"info\"\n").expect("written");
    let error = Config::load(&paths).expect_err("refused").to_string();
    let lines: Vec<&str> = error.lines().collect();
    let parts = [
        ["tramd.toml: line 5: access.rule[2]", "no user \"no-such-user\""],
        ["tramd.toml: line 7: access.rule[3]", "neither users nor groups"],
        ["10.toml: line 2: node.title", "tramd.toml, line 2; keep one"],
        ["10.toml: line 4: log.levl", "`level`"],
    ];
    assert_eq!(lines.len(), parts.len(), "{error}");
    for (line, parts) in lines.iter().zip(parts) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
}

/// The names that the parser knows in each section, from what it says of one that it does not.
fn names_of_the_parser() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let sections: BTreeSet<String> =
        keys::KEYS.iter().filter_map(|key| Some(key.name.rsplit_once('.')?.0.to_owned())).collect();
    for section in sections {
        let text = match section.as_str() {
            list @ ("uplink" | "access.rule" | "plan.line" | "plan.limit") => format!("[[{list}]]\nzzz = 1\n"),
            table => format!("[{table}]\nzzz = 1\n"),
        };
        let Err(ConfigError::Faults(faults)) = Config::from_text(Path::new("t"), &text) else { panic!("{section}") };
        let unknown = faults.iter().find(|fault| fault.why.contains("zzz")).expect("told");
        let (_, valid) = unknown.why.split_once("expected").expect("says what is valid");
        names.extend(valid.split('`').skip(1).step_by(2).map(|name| format!("{section}.{name}")));
    }
    names
}

#[test]
fn the_table_has_every_key_the_parser_knows_and_no_other() {
    let tables = ["access.rule", "plan.line", "plan.limit"];
    let known: BTreeSet<String> =
        names_of_the_parser().into_iter().filter(|name| !tables.contains(&name.as_str())).collect();
    let table: BTreeSet<String> = keys::KEYS.iter().map(|key| key.name.to_owned()).collect();
    assert_eq!(known, table);
    let text = include_str!("../../tramd.example.toml");
    let full: String = text.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l)).collect::<Vec<_>>().join("\n");
    let example = Config::from_text(Path::new("t"), &full).expect("valid");
    let shown: BTreeSet<String> = example.entries.values().map(Entry::name).collect();
    assert_eq!(shown, table, "the example names every key");
}

/// The text between two marks of a file is what `expect` says. `TRAM_BLESS=1` writes it.
#[track_caller]
fn check_written(file: &str, begin: &str, end: &str, expect: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = fs::read_to_string(&path).expect("readable");
    let (before, rest) = text.split_once(begin).expect("the first mark");
    let (now, after) = rest.split_once(end).expect("the second mark");
    if std::env::var_os("TRAM_BLESS").is_some() {
        fs::write(&path, format!("{before}{begin}{expect}{end}{after}")).expect("written");
    } else {
        assert_eq!(now, expect, "{file} says something else than daemon/src/config/keys.rs: TRAM_BLESS=1 writes it");
    }
}

#[test]
fn the_documentation_is_the_table() {
    let row = |key: &keys::Key| {
        let (section, name) = key.written();
        format!("| `{section} {name}` | {} | {} | {} | {} |\n", key.meaning, key.form, key.default, key.takes_effect())
    };
    let rows: String = keys::KEYS.iter().map(row).collect();
    check_written(
        "docs/admin/config.md",
        "| key | meaning | takes | default | in force by |\n|---|---|---|---|---|\n",
        "\nSizes are",
        &rows,
    );
}

#[test]
fn the_manual_page_is_the_table() {
    let plain = |text: &str| text.replace('`', "").replace('\\', "\\e").replace('-', "\\-");
    let mut page = String::new();
    let mut last = String::new();
    for key in &keys::KEYS {
        let (section, name) = key.written();
        if section != last {
            page.push_str(&format!(".SH \"{section}\"\n"));
            last = section;
        }
        let (meaning, form, default) = (plain(key.meaning), plain(key.form), plain(key.default));
        let effect = if key.reloads { "tram reload takes it over" } else { "needs a restart" };
        page.push_str(&format!(".TP\n.B {name}\n{meaning}.\nTakes {form}.\nDefault: {default}; {effect}.\n"));
    }
    check_written("docs/man/tramd.toml.5", ".\\\" keys\n", ".\\\" end of keys\n", &page);
}
