//! `tram pki`, as far as it is about certificates in use.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use tram_pki::crl::Reason;
use tram_proto::name::NodeName;

use super::PassphraseArgs;

/// What goes on in the overlay.
#[derive(Debug, Subcommand)]
pub(crate) enum OverlayCommand {
    /// How certificates, CAs, roots and revocation lists stand (exit code 1 when something ends soon or is wrong)
    Status,
    /// The nodes with their days left, the newest root each trusts, and when each was heard of
    List(ListArgs),
    /// One node's certificate by name or serial number, or those in a file
    Show {
        /// A node's name, a serial number, or a file (read with no daemon)
        which: String,
    },
    /// Renew this node's certificate now; by itself it happens at two thirds of its life
    Renew,
    /// Bar a node for ever, when its machine is stolen or gone; its links close within seconds
    Revoke(RevokeArgs),
    /// Give a node another name, when its office is renamed or merged; queues and receipts stay with it
    Rename {
        /// Its name
        old: NodeName,
        /// Its next name, which this CA certifies as well
        new: NodeName,
        /// How long the old name is still understood
        #[arg(long, default_value = "90", value_name = "DAYS", value_parser = clap::value_parser!(u16).range(0..=3650))]
        alias_days: u16,
    },
    /// Exchange the root, or this node's CA key, while the overlay works
    #[command(subcommand)]
    Rotate(RotateCommand),
    /// The root's key and certificate: take the key offline, sign with it by file, trust another root
    #[command(subcommand)]
    Root(RootCommand),
    /// Provinces that wait for a CA certificate, when the root's key is away; written as files for `root sign`
    Requests {
        /// The directory for the files [default: only list them]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// A province that began alone comes under another overlay's root; every node of it keeps its certificate
    #[command(subcommand)]
    JoinOverlay(JoinOverlayCommand),
    /// Give the running node what came by file: a CA certificate, a revocation list, a bundle
    Install {
        /// The file
        file: PathBuf,
    },
    /// Revocation lists as this node holds them; making the root's when its key is away
    #[command(subcommand)]
    Crl(CrlCommand),
    /// Everything this node needs to judge others, for a node that no link reaches
    #[command(subcommand)]
    Bundle(BundleCommand),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ListArgs {
    /// Only those that end within this time, or have ended
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    pub(crate) expiring: Option<Duration>,
    /// Only this node and those whose names end in it
    #[arg(long, value_name = "NODE")]
    pub(crate) subtree: Option<NodeName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RootCommand {
    /// Take the root's key away from this node, onto a stick for the safe; everything but new CAs goes on
    Export {
        /// The file; it must not exist
        out: PathBuf,
        /// Delete the key here once the copy was read back
        #[arg(long, required = true)]
        remove: bool,
    },
    /// Certify a province's CA with the root's key, where that is; no daemon and no network
    Sign {
        /// The request, as `tram pki requests --out` wrote it
        #[arg(required_unless_present = "pending", requires = "out")]
        request: Option<PathBuf>,
        /// The province whose request waits in the running node: signed and installed there
        #[arg(long, value_name = "PROVINCE", conflicts_with_all = ["request", "out"])]
        pending: Option<NodeName>,
        #[command(flatten)]
        key: RootKeyArgs,
        /// The file with the certificate, for `tram pki install`
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        said: SaidArgs,
    },
    /// Trust this root and no other, when the old one was stolen while the node was off
    Install {
        /// What `tram pki bundle export` wrote at a node that has it
        file: PathBuf,
        #[command(flatten)]
        said: SaidArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JoinOverlayCommand {
    /// First, at the province: write what the other overlay's root is asked to vouch for
    Request {
        /// The file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Second, at the other overlay's first node: vouch for the province's CA, with the root's key
    Sign {
        /// The province's request
        request: PathBuf,
        #[command(flatten)]
        key: OwnRootKeyArgs,
        /// The file for the province
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        said: SaidArgs,
    },
    /// Third, at the province: trust the other overlay's root instead of the own one, here and at every node below
    Accept {
        /// The answer
        answer: PathBuf,
        #[command(flatten)]
        key: OwnRootKeyArgs,
        #[command(flatten)]
        said: SaidArgs,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct OwnRootKeyArgs {
    /// This overlay's root key [default: the one beside this node's keys]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RootKeyArgs {
    /// The root's key
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SaidArgs {
    /// The fingerprint as the person who made the file reads it out [default: show it and ask]
    #[arg(long, value_name = "DIGITS", conflicts_with = "yes")]
    pub(crate) fingerprint: Option<String>,
    /// The file never left my hands: do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CrlCommand {
    /// What is revoked, list by list
    Show,
    /// Write a list in PEM, for openssl and others
    Export {
        /// Whose: `root`, `overlay` or a province's name
        of: String,
        /// The file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make the root's next list where its key is: once a year, or to revoke a province's CA; then `tram pki install`
    Sign {
        #[command(flatten)]
        key: RootKeyArgs,
        /// The bundle, as `tram pki bundle export` wrote it [default: this node's]
        #[arg(long, value_name = "FILE")]
        bundle: Option<PathBuf>,
        /// Revoke the CA of this province
        #[arg(long, value_name = "PROVINCE", requires = "reason")]
        revoke: Option<NodeName>,
        /// key-compromise, retired, superseded, withdrawn or unspecified
        #[arg(long, value_parser = reason)]
        reason: Option<Reason>,
        /// The file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// What is in it
    Show {
        /// The file [default: this node's own]
        file: Option<PathBuf>,
    },
    /// Write it for another node's `tram pki install`, or for `crl sign` where the root's key is
    Export {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RevokeArgs {
    /// The node's name, or the serial number of one certificate; with --ca a province's name
    pub(crate) which: String,
    /// Revoke the CA of a whole province, and with it every node that it has certified
    #[arg(long)]
    pub(crate) ca: bool,
    /// key-compromise, retired, superseded, withdrawn or unspecified
    #[arg(long, value_parser = reason)]
    pub(crate) reason: Reason,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RotateCommand {
    /// The root of the overlay: years before it ends, or at once when its key was stolen
    #[command(subcommand)]
    Root(RotateRootCommand),
    /// This node's CA key: when its machine changes hands, or the key may be known
    #[command(subcommand)]
    Ca(RotateCaCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RotateRootCommand {
    /// First: make the next root; everyone then trusts both
    Begin {
        /// The key was stolen: take all steps at once, waiting for nobody
        #[arg(long)]
        compromised: bool,
        /// Keys of roots before this one may be known too: believe nothing that they vouched for, old receipts included
        #[arg(long, requires = "compromised")]
        and_past: bool,
        /// Do not ask
        #[arg(long, requires = "compromised")]
        yes: bool,
    },
    /// How far it is, and who does not trust the next root yet
    Status,
    /// Second: let tokens and new certificates name the next root
    Switch,
    /// Third: drop the old root; refused while nodes trust only that
    Finish(AbandonArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RotateCaCommand {
    /// First: make the next key; once it is certified, certificates are issued by it
    Begin,
    /// How far it is, and who still uses a certificate of the old key
    Status,
    /// Second: forget the old key; refused while nodes use its certificates
    Finish(AbandonArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AbandonArgs {
    /// Do not wait for these nodes; they will have to join again
    #[arg(long, value_name = "NODE", num_args = 1..)]
    pub(crate) abandon: Vec<NodeName>,
}

fn reason(text: &str) -> Result<Reason, String> {
    let words = || Reason::ALL.map(Reason::as_str).join(", ");
    Reason::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| format!("a reason is one of: {}", words()))
}
