//! `tram pki`, as far as it is about certificates in use.

use clap::{Args as ClapArgs, Subcommand};
use tram_pki::crl::Reason;
use tram_proto::name::NodeName;

/// What goes on in the overlay.
#[derive(Debug, Subcommand)]
pub(crate) enum OverlayCommand {
    /// How certificates, CAs, roots and revocation lists stand (exit code 1 when something ends soon or is wrong)
    Status,
    /// Renew this node's certificate now; by itself it happens at two thirds of its life
    Renew,
    /// Bar a node for ever, when its machine is stolen or gone; its links close within seconds
    Revoke(RevokeArgs),
    /// Exchange the root, or this node's CA key, while the overlay works
    #[command(subcommand)]
    Rotate(RotateCommand),
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
