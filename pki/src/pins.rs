//! Which CA may speak for a node id: the one that registered it first, and those it was transferred to since.
//!
//! A name constraint keeps a province's CA from certifying other names, but nothing in X.509 keeps it from writing
//! another node's id beside a name of its own, and mail is routed by id. So every node remembers which CA it met an id
//! under, in `pins` in the pki directory, one line each, only ever added to. What central's CA certifies is always
//! believed; another CA needs to have been first, or a transfer that central has signed. DESIGN §3.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tram_proto::id::NodeId;

use crate::authority::Scope;
use crate::files::{self, Access, FileError};
use crate::trust::Trust;

/// The file's name.
pub const PINS: &str = "pins";
/// Ids remembered; what comes after them is believed without. Far more than an overlay has nodes.
const IDS: usize = 100_000;

/// Another CA than the one that registered it speaks for a node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "node id {node} was registered by the CA of {known}, and now the CA of {by} certifies it without a transfer that central has signed: that CA makes a mistake, or its key is in other hands"
)]
pub struct Foreign {
    /// The id.
    pub node: NodeId,
    /// Who registered it.
    pub known: Scope,
    /// Who certifies it now.
    pub by: Scope,
}

/// The CAs under which ids were met.
#[derive(Debug, Default)]
pub struct Pins {
    known: BTreeMap<NodeId, Vec<Scope>>,
    /// None: in memory only.
    file: Option<File>,
}

fn line(node: NodeId, scope: &Scope) -> String {
    scope.apex().map_or_else(|| format!("{node}\n"), |apex| format!("{node} {apex}\n"))
}

impl Pins {
    /// Reads those in `dir`. A line that a power cut left half written is skipped: that id is met again.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        let path = dir.join(PINS);
        let bytes = match files::read(&path, Access::Public) {
            Ok(bytes) => bytes,
            Err(FileError::Missing { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut pins = Self::default();
        for text in String::from_utf8_lossy(&bytes).lines() {
            let (node, apex) = text.split_once(' ').map_or((text, None), |(node, apex)| (node, Some(apex)));
            let scope = apex.map_or(Some(Scope::Overlay), |apex| apex.parse().ok().map(Scope::Below));
            if let (Ok(node), Some(scope)) = (node.parse::<NodeId>(), scope) {
                pins.known.entry(node).or_default().push(scope);
            }
        }
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o644).open(&path).map_err(files::io_at(&path))?;
        if bytes.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n").map_err(files::io_at(&path))?;
        }
        pins.file = Some(file);
        Ok(pins)
    }

    /// Whether this CA may speak for a node; remembers it when it was the first, or has a transfer.
    ///
    /// # Errors
    /// [`Foreign`].
    pub fn check(&mut self, node: NodeId, by: &Scope, trust: &Trust) -> Result<(), Foreign> {
        let full = self.known.len() >= IDS;
        match self.known.get_mut(&node) {
            Some(known) if known.iter().any(|one| one.apex() == by.apex()) => return Ok(()),
            Some(known) if *by == Scope::Overlay || trust.is_transferred(node, by) => known.push(by.clone()),
            Some(known) => {
                let known = known.first().cloned().unwrap_or(Scope::Overlay);
                return Err(Foreign { node, known, by: by.clone() });
            }
            None if full => return Ok(()),
            None => {
                self.known.insert(node, vec![by.clone()]);
            }
        }
        if let Some(file) = &mut self.file {
            // One that is lost is met again.
            let _ = file.write_all(line(node, by).as_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW_MS, Tree};

    fn id(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn below(apex: &str) -> Scope {
        Scope::Below(apex.parse().expect("name"))
    }

    #[test]
    fn a_province_cannot_certify_an_id_that_another_ca_registered() {
        let mut tree = Tree::new();
        tree.province("can-tho", NOW_MS);
        let dir = tempfile::tempdir().expect("a directory");
        let trust = tree.trust();
        let mut pins = Pins::open(dir.path()).expect("opens");
        assert_eq!(pins.check(id(1), &Scope::Overlay, &trust), Ok(()));
        assert_eq!(pins.check(id(2), &below("an-giang"), &trust), Ok(()));
        drop(pins);
        let mut pins = Pins::open(dir.path()).expect("opens again");
        for (node, known) in [(id(1), Scope::Overlay), (id(2), below("an-giang"))] {
            let by = below("can-tho");
            assert_eq!(pins.check(node, &by, &trust), Err(Foreign { node, known, by: by.clone() }));
        }
        assert_eq!(pins.check(id(2), &Scope::Overlay, &trust), Ok(()), "central may always");
        assert_eq!(pins.check(id(2), &below("an-giang"), &trust), Ok(()), "and what was signed before stays good");
        // Central hands it over.
        let told = tree.registry.notice().version;
        tree.registry.announce(told, NOW_MS, "lan", |n| n.transfer(id(1), &below("can-tho"), NOW_MS)).expect("written");
        tree.announce(NOW_MS);
        let trust = tree.trust();
        assert_eq!(pins.check(id(1), &below("can-tho"), &trust), Ok(()));
        assert!(pins.check(id(1), &below("an-giang"), &trust).is_err());
        assert!(pins.check(id(2), &below("can-tho"), &trust).is_err());
    }

    #[test]
    fn a_line_cut_by_a_power_cut_costs_only_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let trust = Tree::new().trust();
        let mut pins = Pins::open(dir.path()).expect("opens");
        pins.check(id(1), &Scope::Overlay, &trust).expect("new");
        pins.check(id(2), &below("can-tho"), &trust).expect("new");
        drop(pins);
        let path = dir.path().join(PINS);
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..40]).expect("cut");
        let mut pins = Pins::open(dir.path()).expect("opens");
        assert!(pins.check(id(1), &below("can-tho"), &trust).is_err());
        pins.check(id(3), &below("can-tho"), &trust).expect("new");
        drop(pins);
        let mut pins = Pins::open(dir.path()).expect("opens");
        assert!(pins.check(id(3), &below("an-giang"), &trust).is_err(), "it has a line of its own");
    }
}
