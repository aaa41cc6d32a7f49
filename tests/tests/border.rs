//! The borders of the house, kept by a test: who depends on whom, who may read the clock, what stays private.
//!
//! ARCHITECTURE.md says why. A failure here is a design change: make it one on purpose, or put the code in another room.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const MEMBERS: [&str; 10] = [
    "tram",
    "tram-benches",
    "tram-client",
    "tram-congestion",
    "tram-lab",
    "tram-pki",
    "tram-proto",
    "tram-relay",
    "tram-tests",
    "tramd",
];

/// What each member may depend on inside the workspace.
const EDGES: [(&str, &[&str]); 10] = [
    ("tram-congestion", &[]),
    ("tram-lab", &[]),
    ("tram-proto", &[]),
    ("tram-relay", &["tram-proto"]),
    ("tram-pki", &["tram-proto"]),
    ("tram-client", &["tram-proto"]),
    ("tram", &["tram-client", "tram-pki", "tram-proto"]),
    ("tramd", &["tram-client", "tram-congestion", "tram-pki", "tram-proto", "tram-relay"]),
    ("tram-tests", &MEMBERS),
    ("tram-benches", &MEMBERS),
];

/// Folders of the members that are built into programs and libraries.
const SOURCES: [&str; 10] =
    ["proto", "relay", "pki", "congestion", "daemon", "client", "cli", "tests", "tests/lab", "benches"];

const MOST_LINES: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's root").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below `folder` with one of these endings, in order; build outputs and fuzzers are left out.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("tests/fuzz") && !path.ends_with("target") {
                open.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

/// A path from the root on, as people write it.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// A source's code: no comments, no texts, and nothing from `#[cfg(test)]` on. Lines stay where they were.
fn code(path: &Path) -> String {
    if path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
        return String::new();
    }
    let source = read(path);
    let mut out = String::new();
    let mut in_text = false;
    for line in source.lines().take_while(|line| line.trim() != "#[cfg(test)]") {
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, in_text) {
                ('\\', true) => drop(chars.next()),
                ('"', _) => in_text = !in_text,
                ('\'', false) if line.contains("'\"'") && chars.peek() == Some(&'"') => {
                    chars.next();
                    chars.next();
                }
                ('/', false) if chars.peek() == Some(&'/') => break,
                (c, false) => out.push(c),
                (_, true) => {}
            }
        }
        out.push('\n');
    }
    assert!(!in_text, "{}: this reader lost track of a text", shown(path));
    out
}

/// Where `words` stand in the code below `folder`.
fn uses(folder: &str, words: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    for path in files(folder, &[".rs"]) {
        for (number, line) in (1..).zip(code(&path).lines()) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                out.push(format!("{}:{number}: {word}", shown(&path)));
            }
        }
    }
    out
}

#[track_caller]
fn check_absent(folder: &str, words: &[&str], why: &str) {
    let found = uses(folder, words);
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

struct Package {
    name: String,
    /// Name and kind (`None` is an ordinary dependency).
    dependencies: Vec<(String, Option<String>)>,
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]).expect("a package has a name"),
            dependencies: list(&package["dependencies"])
                .iter()
                .map(|d| (text(&d["name"]).expect("a dependency has a name"), text(&d["kind"])))
                .collect(),
        })
        .collect()
}

#[test]
fn dependencies_between_members_point_one_way() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(MEMBERS), "a member came or went: EDGES has to say what it may depend on");
    let edges: BTreeMap<&str, &[&str]> = EDGES.into();
    for package in &packages {
        let allowed = edges[package.name.as_str()];
        for (dependency, _) in &package.dependencies {
            let member = names.contains(dependency.as_str());
            assert!(
                !member || allowed.contains(&dependency.as_str()),
                "{} must not depend on {dependency}",
                package.name
            );
        }
    }
}

#[test]
fn the_relay_core_needs_next_to_nothing() {
    let packages = packages();
    let relay = packages.iter().find(|p| p.name == "tram-relay").expect("the core");
    let of_kind = |kind: Option<&str>| -> BTreeSet<&str> {
        relay.dependencies.iter().filter(|(_, k)| k.as_deref() == kind).map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(of_kind(None), BTreeSet::from(["bytes", "thiserror", "tram-proto"]));
    assert_eq!(of_kind(Some("build")), BTreeSet::new());
}

#[test]
fn there_is_one_crypto_provider() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--offline", "--prefix", "none", "--edges", "normal,build"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.lines().any(|line| line.starts_with("aws-lc-rs ")), "the tree is read");
    for other in ["ring ", "openssl-sys ", "native-tls "] {
        assert!(!tree.lines().any(|line| line.starts_with(other)), "{other}came into the tree beside aws-lc-rs");
    }
}

#[test]
fn only_the_wire_knows_protobuf() {
    for package in packages() {
        let knows = package.dependencies.iter().any(|(name, _)| name == "prost" || name == "prost-build");
        assert!(!knows || package.name == "tram-proto", "{} must not depend on prost", package.name);
    }
    let lib = read(&root().join("proto/src/lib.rs"));
    assert!(lib.lines().any(|line| line == "mod wire;"), "generated types are private to the wire");
    check_absent("proto/src", &["pub mod wire", "pub use crate::wire", "pub use wire"], "generated types are private");
}

#[test]
fn the_wire_and_the_core_do_no_io_and_read_no_clock() {
    let words = [
        "Instant::now",
        "SystemTime",
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::net::ToSocketAddrs",
        "std::os::unix::net",
        "std::process",
        "std::thread",
        "std::env::var",
        "tokio",
        "async fn",
        "Mutex",
        "RwLock",
        "println!",
    ];
    check_absent("relay/src", &words, "the core decides; the daemon acts");
    check_absent("relay/src", &["HashMap", "HashSet", "std::net"], "the core's order is the same in every run");
    check_absent("congestion/src", &words, "the controller is told the time and touches nothing");
    check_absent("proto/src", &words, "the wire says what bytes mean and does nothing");
}

#[test]
fn the_core_knows_no_certificates_and_the_pki_no_queues() {
    let words = ["tram_pki", "rustls", "webpki", "x509", "rcgen", "CertificateDer", "CertHash", "aws_lc_rs"];
    check_absent("relay/src", &words, "the core gets a node id already proven");
    check_absent("pki/src", &["tram_relay", "tokio", "async fn", "std::net"], "trust knows no queue and no network");
    let clock = ["SystemTime::now", "Instant::now"];
    check_absent("pki/src", &clock, "every call of the PKI takes the time");
}

#[test]
fn the_daemon_reads_the_clock_in_one_module() {
    let found = uses("daemon/src", &["SystemTime::now", "Instant::now", "Timestamp::now", "Zoned::now"]);
    let elsewhere: Vec<_> = found.iter().filter(|at| !at.starts_with("daemon/src/clock.rs:")).collect();
    assert!(elsewhere.is_empty(), "ask daemon/src/clock.rs for the time:\n{elsewhere:#?}");
    assert!(!found.is_empty(), "daemon/src/clock.rs is where the clock is read");
}

#[test]
fn every_module_says_what_it_is_for() {
    for path in SOURCES.iter().flat_map(|folder| files(folder, &[".rs"])) {
        // What a tests.rs is for is said by the module it belongs to.
        if !path.ends_with("tests.rs") && !path.components().any(|part| part.as_os_str() == "examples") {
            assert!(read(&path).starts_with("//!"), "{} does not begin with //!", shown(&path));
        }
    }
}

#[test]
fn no_file_grows_beyond_what_can_be_read() {
    for path in SOURCES.iter().flat_map(|folder| files(&format!("{folder}/src"), &[".rs"])) {
        let lines = read(&path).lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines; at most {MOST_LINES}", shown(&path));
    }
}

/// What stands in backticks outside of code blocks.
fn quoted(document: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut fenced = false;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            out.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    out
}

/// The path a quotation names, if it names one of this repository.
fn named_path(quotation: &str) -> Option<&str> {
    let word = quotation.split_whitespace().next()?.trim_end_matches([',', '.', ';', ':']);
    let placeholder = word.contains(['*', '<', '>', '{', '$', '|', '=', '(', '@']) || word.contains("://");
    if placeholder || word.starts_with(['/', '-', '~']) {
        return None;
    }
    // A node's own directory has a `pki` too.
    if word == "pki/" || word.starts_with("pki/") && !word.starts_with("pki/src") && word != "pki/Cargo.toml" {
        return None;
    }
    let tops = SOURCES.iter().chain(&["scripts", "docs", "packaging", ".ci"]);
    let inside = tops.into_iter().any(|top| word.strip_prefix(top).is_some_and(|rest| rest.starts_with('/')));
    let document =
        !word.contains('/') && (word.ends_with(".md") || word.starts_with("LICENSE") || word == "Cargo.toml");
    (inside || document).then_some(word)
}

#[test]
fn a_path_is_told_from_other_quotations() {
    #[track_caller]
    fn check(quotation: &str, expect: Option<&str>) {
        assert_eq!(named_path(quotation), expect);
    }
    check("relay/src/node.rs", Some("relay/src/node.rs"));
    check("scripts/check full", Some("scripts/check"));
    check("docs/admin/", Some("docs/admin/"));
    check("LICENSE-MIT", Some("LICENSE-MIT"));
    check("pki/root.pem", None);
    check("tests/fuzz/corpus/<target>/*", None);
    check("/etc/tram/tramd.toml", None);
    check("tram send --to vanban@can-tho", None);
    check("cargo test --workspace", None);
    assert_eq!(quoted("see `a` and `b`\n```\n`c`\n```\n"), ["a", "b"]);
}

#[test]
fn every_path_the_documents_name_exists() {
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    let documents = top.into_iter().filter(|path| path.exists()).chain(files("docs", &[".md"]));
    let mut missing = Vec::new();
    for path in documents {
        for quotation in quoted(&read(&path)) {
            if let Some(name) = named_path(&quotation).filter(|name| !root().join(name).exists()) {
                missing.push(format!("{} names {name}", shown(&path)));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
