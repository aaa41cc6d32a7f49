//! Where a node's files are: all in one directory with `--dir`, in the system's places without.

use std::path::{Path, PathBuf};

/// The places of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The config file.
    pub config: PathBuf,
    /// More config files, `*.toml`, merged in the order of their names.
    pub conf_d: PathBuf,
    /// Keys, certificates and, where there is a CA, the registry. 0700.
    pub pki: PathBuf,
    /// The spool. 0700.
    pub spool: PathBuf,
    /// The directory of `app.sock` and `admin.sock`.
    pub run: PathBuf,
    /// What to write after `tram` and `tramd` in advice, so that it meets this node.
    pub option: String,
}

impl Paths {
    /// Whether these are the system's places.
    #[must_use]
    pub const fn is_system(&self) -> bool {
        self.option.is_empty()
    }

    /// Everything under one directory, or in the system's places.
    #[must_use]
    pub fn new(dir: Option<&Path>) -> Self {
        match dir {
            Some(dir) => Self {
                config: dir.join("tramd.toml"),
                conf_d: dir.join("conf.d"),
                pki: dir.join("pki"),
                spool: dir.join("spool"),
                run: dir.to_owned(),
                option: format!(" --dir {}", dir.display()),
            },
            None => Self {
                config: "/etc/tram/tramd.toml".into(),
                conf_d: "/etc/tram/conf.d".into(),
                pki: "/var/lib/tram/pki".into(),
                spool: "/var/lib/tram/spool".into(),
                run: "/run/tram".into(),
                option: String::new(),
            },
        }
    }
}
