//! What `docs/admin/install.md` has a person type brings up three machines, and is no more than nine commands.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tram_tests::overlay::{Overlay, Ran, SOON, until};

use super::{HERE, PROGRAM};

const DOCUMENT: &str = include_str!("../../../docs/admin/install.md");
const SECTION: &str = "Three machines in ten minutes";
const MOST_COMMANDS: usize = 9;

/// The commands of a section, block by block: each block begins with `# ` and the machine's name.
fn blocks(document: &str, section: &str) -> Vec<(String, Vec<String>)> {
    let after = document.split_once(&format!("\n## {section}\n")).expect("the section").1;
    let section = after.split("\n## ").next().expect("a text");
    let mut blocks = Vec::new();
    for block in section.split("```").skip(1).step_by(2) {
        let mut lines = block.lines().map(str::trim).filter(|line| !line.is_empty());
        let machine = lines.next().and_then(|line| line.strip_prefix("# ")).expect("a block says on which machine");
        blocks.push((machine.to_owned(), lines.map(str::to_owned).collect()));
    }
    blocks
}

/// A program in a directory that comes first in PATH.
fn program(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
}

/// The ports and names of the document are others' on this machine.
fn here(line: &str, ports: &BTreeMap<(&str, &str), String>, machine: &str) -> String {
    let mut line = line.to_owned();
    for port in ["7443", "7444"] {
        if let Some(address) = ports.get(&(machine, port)) {
            line = line.replace(&format!("0.0.0.0:{port}"), address);
            for host in ["relay.example.org", "relay.can-tho.example"] {
                line = line.replace(&format!("{host}:{port}"), address);
            }
        }
    }
    assert!(!line.contains("0.0.0.0") && !line.contains("example"), "not of this machine: {line}");
    line
}

#[test]
fn three_machines_stand_after_what_the_document_says() {
    let blocks = blocks(DOCUMENT, SECTION);
    let machines: Vec<&str> = blocks.iter().map(|(machine, _)| machine.as_str()).collect();
    assert_eq!(machines, ["central", "can-tho", "ninh-kieu.can-tho"]);
    let typed: usize = blocks.iter().map(|(_, lines)| lines.len()).sum();
    assert!(typed <= MOST_COMMANDS, "{typed} commands");

    let mut overlay = Overlay::new(PROGRAM, HERE);
    let mut ports = BTreeMap::new();
    for machine in &machines[..2] {
        for port in ["7443", "7444"] {
            ports.insert((*machine, port), overlay.listen(&format!("{machine} {port}")));
        }
    }
    let bin = overlay.path("bin");
    fs::create_dir(&bin).expect("a directory");
    let whole = fs::canonicalize(PROGRAM).expect("it has a path");
    program(&bin, "tramd", &format!("exec {} tramd \"$@\"", whole.display()));
    program(&bin, "tram", &format!("exec {} tram \"$@\"", whole.display()));
    // What it does is proved by scripts/full/deb.sh, which also lets systemd start the node.
    program(&bin, "apt", "[ \"$1 $2\" = \"install ./tram_*.deb\" ]");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));

    let mut token: Option<PathBuf> = None;
    for ((machine, lines), above) in blocks.iter().zip([None, Some("central"), Some("can-tho")]) {
        let desk = overlay.path(&format!("desk of {machine}"));
        fs::create_dir(&desk).expect("a directory");
        if let Some(token) = &token {
            fs::copy(token, desk.join("token")).expect("brought");
        }
        for line in lines {
            let mut shell = Command::new("sh");
            shell.args(["-ec", &here(line, &ports, machine)]).current_dir(&desk);
            shell.env("PATH", &path).env("TRAM_DIR", overlay.path(machine));
            let said = Ran::of(&mut shell).ok();
            if line.starts_with("tramd") {
                overlay.run(machine);
                if let Some(above) = above {
                    overlay.await_link(machine, above);
                }
                if machine == "can-tho" {
                    until("the province has its CA", SOON, || {
                        overlay.path(machine).join("pki/ca.pem").exists().then_some(())
                    });
                }
            }
            if line == "tram status" {
                assert!(said.contains("can-tho") && said.contains("healthy"), "{said}");
            }
        }
        token = Some(desk.join("token"));
    }
}
