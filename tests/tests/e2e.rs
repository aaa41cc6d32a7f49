//! Documents, attacks and mistakes against real daemons: processes on this machine that only know their command lines.
//!
//! `TRAM_DOCUMENTS` names a directory whose files are sent; `TRAM_LARGE_MIB` is the size of the large one, 256 by default.

mod e2e {
    mod access;
    mod clocks;
    mod config;
    mod config_commands;
    mod crashes;
    mod cross;
    mod cuts;
    mod disk_full;
    mod doctor;
    mod documented;
    mod joining;
    mod keys;
    mod lost_spools;
    mod metrics;
    mod payloads;
    mod pki;
    mod pki_commands;
    mod precedence;
    mod recipients;
    mod reload;
    mod removal;
    mod renaming;
    mod sequence;
    mod spool;
    mod trust;

    /// This package's binary, which is `tramd` and `tram`.
    pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tram-tests");
    /// Where nodes listen unless a test is about something else.
    pub(crate) const HERE: &str = "127.0.0.1";
    /// The address most messages go to.
    pub(crate) const FAR: &str = "vanban@chau-doc.an-giang";
}
