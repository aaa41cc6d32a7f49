//! The command line: names, flags and defaults. Scripts depend on them: add, don't rename (DESIGN §10).

mod pki;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use jiff::{SpanRelativeTo, Timestamp, Zoned, civil};
use tram_pki::journal::Head;
use tram_proto::envelope::Precedence;
use tram_proto::id::MessageId;
use tram_proto::join::Uplink;
use tram_proto::limits;
use tram_proto::name::{Address, Inbox, NodeName, Role};

pub(crate) use pki::*;

/// Send and receive documents over Tram, and look after the node on this machine.
#[derive(Debug, Parser)]
#[command(name = "tram", version, subcommand_required = true, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Args {
    /// The node's directory; without it, the node of this machine (/run/tram)
    #[arg(long, global = true, env = "TRAM_DIR", value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// One JSON object on stdout (one a line where there are several)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send a file; prints the message's id once it is safe in the node
    Send(SendArgs),
    /// Write the messages of an inbox into a directory, each exactly once
    Recv(RecvArgs),
    /// Show where a message is, hop by hop
    Trace(TraceArgs),
    /// Signed receipts: what nodes vouch for
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Messages: list them, take one back, say what became of one
    #[command(subcommand)]
    Message(MessageCommand),
    /// The inboxes of this node
    #[command(subcommand)]
    Inbox(InboxCommand),
    /// Tokens with which new nodes join
    #[command(subcommand)]
    Token(TokenCommand),
    /// Certificates and keys: the lock of the CA, its audit log, backup and restore
    #[command(subcommand)]
    Pki(PkiCommand),
    /// The node on one screen
    Status(StatusArgs),
    /// Examine the node, running or not: what is wrong, each with its cure (exit code 1 when something is)
    Doctor {
        /// The language [default: that of LC_ALL, LC_MESSAGES or LANG]
        #[arg(long, value_enum)]
        lang: Option<Lang>,
    },
    /// The config: check it, show it, explain its keys
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Links to neighbouring nodes
    #[command(subcommand)]
    Link(LinkCommand),
    /// The nodes of this node's tree
    #[command(subcommand)]
    Node(NodeCommand),
    /// What waits, and for whom
    #[command(subcommand)]
    Queue(QueueCommand),
    /// The node's store of messages
    #[command(subcommand)]
    Spool(SpoolCommand),
    /// What links may carry, by class and hour
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Have the node read its config again: all of it applies, or nothing
    Reload,
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    GenMan {
        /// Where to
        dir: PathBuf,
    },
}

/// In which language findings are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lang {
    /// Vietnamese
    Vi,
    /// English
    En,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the files: every mistake with file, line and cure (exit code 78); nothing is taken over
    Check {
        /// A config file [default: the node's own, with conf.d]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Show what the files set, and where
    Show {
        /// Every key with the value in force, defaults too, and what waits for a reload or restart
        #[arg(long)]
        effective: bool,
    },
    /// Explain a key: meaning, form, default, value in force and where it comes from, whether a reload takes it over
    Explain {
        /// As in spool.max, or a section such as uplink
        #[arg(value_name = "KEY")]
        key: String,
    },
}

/// What `send` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    /// Safe in this node
    Submitted,
    /// Safe at every destination
    Arrived,
    /// Taken by every destination's application
    Delivered,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// What holds now on each link, and until when
    Show,
    /// Check the plan of a config and print its week; nothing is taken over
    Check {
        /// A config file [default: the node's own, as it stands on its disk]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SendArgs {
    /// A recipient, INBOX@NODE; may be repeated
    #[arg(long, required = true, value_name = "ADDR")]
    pub(crate) to: Vec<Address>,
    /// The inbox for answers
    #[arg(long, value_name = "INBOX")]
    pub(crate) from: Option<Inbox>,
    /// flash, immediate, priority, routine or bulk
    #[arg(long, default_value = "routine", value_name = "P")]
    pub(crate) precedence: Precedence,
    /// What to wait for
    #[arg(long, value_enum, default_value = "submitted")]
    pub(crate) wait: Wait,
    /// How long the message may take, such as 90m, 12h, 3d or 2w; at most 180d [default: 30d]
    #[arg(long, value_name = "DURATION", value_parser = lifetime, allow_hyphen_values = true)]
    pub(crate) expires: Option<Duration>,
    /// When it has to be there, such as 17:00 or 2026-11-22T17:00+07:00
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) deliver_by: Option<Timestamp>,
    /// Makes a repeated send the same message
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub(crate) subject: Option<String>,
    /// Classification
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: Option<String>,
    /// Give up waiting after this long, such as 30s (exit code 124)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RecvArgs {
    /// Which inbox
    #[arg(long, value_name = "INBOX")]
    pub(crate) inbox: Inbox,
    /// Where the files go; its file .tram remembers what was written
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
    /// Return when so many are written and acknowledged [default: what is there now]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Go on waiting for more
    #[arg(long)]
    pub(crate) follow: bool,
    /// Give up after this long, such as 30s (exit code 124)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TraceArgs {
    /// The message
    pub(crate) id: MessageId,
    /// How long to wait for nodes along the route [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Show a message's receipts
    Show {
        /// The message
        id: MessageId,
    },
    /// Write a message's receipts into one file that can be checked anywhere
    Export {
        /// The message
        id: MessageId,
        /// The file; - is standard output
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check such a file, offline; exit code 1 when it is not valid, or when the key that signed it was stolen since
    ///
    /// Signatures are judged as of their own time. A signer whose certificate was revoked later is named on the first
    /// line, and with --json in signer_revoked (node, date, reason; else null): the exit code is still 0 then, but 1 for the
    /// reason key-compromise, because whoever has the key can sign with any date.
    Verify {
        /// The file
        file: PathBuf,
        /// The overlay's root certificate (DIR/pki/root.pem); with bundle.bin beside it, past roots and revocations count
        #[arg(long, value_name = "PEM")]
        trust: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MessageCommand {
    /// List messages sent from here or received here, the newest first; a recall is a message of kind tombstone
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Those before: the `next` that --json gave last time
        #[arg(long, value_name = "NEXT", default_value = "0", hide_default_value = true)]
        before: u64,
    },
    /// End the recipients whose copy has not left this node; exit code 1 when all have
    Cancel {
        /// The message
        id: MessageId,
    },
    /// The same, and send a tombstone after the copies that left
    Recall(RecallArgs),
    /// Tell the sender what became of a message that was received here
    Status {
        /// The message
        id: MessageId,
        /// A number that sender and receiver have agreed on
        #[arg(long, value_name = "N")]
        code: u32,
        /// For people, at most 1,024 bytes
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        text: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RecallArgs {
    /// The message
    pub(crate) id: MessageId,
    /// Wait until every recipient has answered; exit code 1 when it was too late for one
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this long, such as 30s (exit code 124)
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "wait")]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpoolCommand {
    /// Read and check every payload; what is damaged is fetched again where it can be (exit code 1)
    Scrub,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InboxCommand {
    /// Declare an inbox
    Create {
        /// Its name
        inbox: Inbox,
    },
    /// List the inboxes
    List,
    /// Take an inbox's declaration back; it must be empty
    Remove {
        /// Its name
        inbox: Inbox,
    },
    /// Check the register: which numbers are missing among the messages that came (exit code 1 when some are)
    Gaps {
        /// Its name [default: every inbox of this user]
        inbox: Option<Inbox>,
        /// Only messages created since then, such as 2026-11-01
        #[arg(long, value_name = "TIME", value_parser = moment)]
        since: Option<Timestamp>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for a new node; prints the line to hand over, once
    New {
        /// The new node's name, such as can-tho
        name: NodeName,
        /// province, district or commune
        #[arg(long)]
        role: Role,
        /// How long the token can be used
        #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = duration)]
        ttl: Duration,
        /// The node it will hang under [default: this node]
        #[arg(long, value_name = "NODE@HOST:PORT")]
        uplink: Option<String>,
    },
    /// List the tokens
    List,
    /// Cancel a token
    Cancel {
        /// The token's id, or the node's name
        token: String,
    },
}

/// Those about keys and files work with no daemon and no network.
#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    #[command(flatten)]
    Overlay(OverlayCommand),
    /// Have the node forget the CA's opened key: it issues nothing until `unlock`. Or set the passphrase
    Lock(LockArgs),
    /// Open the CA's locked key in the running node
    Unlock {
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// The audit log: what was issued, to whom, by whom
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Write keys, registry, audit log and config into one encrypted file; the spool is never in it
    Backup(BackupArgs),
    /// Put a backup in place on a machine without keys
    Restore(RestoreArgs),
    #[command(flatten)]
    Offline(OfflineCommand),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PassphraseArgs {
    /// The file whose first line is the passphrase; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LockArgs {
    /// Encrypt the keys of root and CA on the disk; without --passphrase-file a passphrase is made and shown once
    #[arg(long, conflicts_with = "remove")]
    pub(crate) set: bool,
    /// Take the encryption away
    #[arg(long)]
    pub(crate) remove: bool,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that no line was changed, removed or moved; names the first that was (exit code 1)
    Verify {
        /// The log [default: this node's]
        file: Option<PathBuf>,
        /// The end it had once, as this command printed it; finds lines cut off since
        #[arg(long, value_name = "NUMBER:HASH")]
        head: Option<Head>,
        /// Another copy, such as the parent's; finds the same
        #[arg(long, value_name = "FILE")]
        copy: Option<PathBuf>,
        /// The number of the first line, for a part that was exported
        #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
        since: u64,
    },
    /// At the parent of a CA: put the copy of its log aside and begin a new one. For when the node's log and the copy here
    /// are two different ones (its daemon and this one say so) and you know why: `restore --accept-loss`, a log written over
    SetAside {
        /// The node's name or id
        node: String,
    },
    /// Write the log, or its end, into a file
    Export {
        /// The file; - is standard output
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// From this line on
        #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
        since: u64,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BackupArgs {
    /// The file; an older backup there is replaced
    pub(crate) file: PathBuf,
    /// Leave the private keys out
    #[arg(long)]
    pub(crate) without_keys: bool,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RestoreArgs {
    /// The backup; left out, --accept-loss speaks of the one that was restored already
    #[arg(required_unless_present = "accept_loss")]
    pub(crate) file: Option<PathBuf>,
    /// Issue certificates without having heard what was issued and revoked after the backup
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// Only open the backup and say what is in it
    #[arg(long, conflicts_with = "accept_loss")]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseArgs,
}

/// Joining by files on a stick.
#[derive(Debug, Subcommand)]
pub(crate) enum OfflineCommand {
    /// Make this machine's request to become a node: a file for `tram pki sign`, and a fingerprint to read out
    Csr {
        /// The node's name, such as ninh-kieu.can-tho
        name: NodeName,
        /// The request file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign a machine's request, at the node that holds the CA; the answer file is for `tramd join --answer` there
    Sign {
        /// The request file
        file: PathBuf,
        /// province, district or commune
        #[arg(long)]
        role: Role,
        /// Whom the new node will dial
        #[arg(long, value_name = "NODE@HOST:PORT")]
        uplink: Uplink,
        /// The answer file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// The request's fingerprint as the person at the new machine reads it out [default: show it and ask]
        #[arg(long, value_name = "DIGITS", conflicts_with = "yes")]
        fingerprint: Option<String>,
        /// The file never left my hands: do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    /// Exit code 1 when the node is degraded
    #[arg(long)]
    pub(crate) check: bool,
    /// Show it again every 2 seconds, until q or Ctrl-C
    #[arg(long, conflicts_with = "check")]
    pub(crate) watch: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// List the links
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes
    List,
    /// Declare a node's spool lost: whoever handed mail on offers it again
    Retire {
        /// The node's name
        name: NodeName,
    },
    /// Let in a neighbour that is held because its spool was rolled back or its disk cloned
    Accept {
        /// The node's name
        name: NodeName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List the queues, and the next hops that are paused
    List,
    /// Offer nothing to a next hop until it is resumed, also after a restart
    Pause {
        /// `uplink`, or a child's name
        hop: HopName,
    },
    /// End a pause
    Resume {
        /// `uplink`, or a child's name
        hop: HopName,
    },
    /// Offer at once what waits for a later time or a newer route, and again what the next hop has not taken
    Retry {
        /// The message [default: all]
        id: Option<MessageId>,
    },
}

/// Reads a length of time such as `3d`, `1h 30m` or `90s`; a day is 24 hours.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a length of time: write it as 90s, 30m, 12h or 3d");
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let exact = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let duration = Duration::try_from(exact).map_err(|_| format!("{text:?} lies in the past"))?;
    if duration.as_millis() == 0 { Err(format!("{text:?} is no time at all")) } else { Ok(duration) }
}

/// Reads how long a message may take.
fn lifetime(text: &str) -> Result<Duration, String> {
    const MAX: Duration = Duration::from_millis(limits::LIFETIME_MAX_MS);
    let lifetime = duration(text)?;
    let days = MAX.as_secs() / (24 * 3600);
    if lifetime > MAX {
        Err(format!("{text:?} is too long: a message lives at most {days} days"))
    } else {
        Ok(lifetime)
    }
}

/// A next hop as people name it; the node knows whether there is one of that name.
#[derive(Debug, Clone)]
pub(crate) struct HopName(pub(crate) String);

impl std::str::FromStr for HopName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text != "uplink" {
            text.parse::<NodeName>().map_err(|error| format!("{error}; or say `uplink`"))?;
        }
        Ok(Self(text.to_owned()))
    }
}

/// Reads a moment: with its offset, or by this machine's zone, or a time of today.
#[expect(clippy::disallowed_methods, reason = "what a person means by 17:00 depends on today")]
fn moment(text: &str) -> Result<Timestamp, String> {
    let today = Zoned::now();
    let zone = today.time_zone().clone();
    let local = |at: civil::DateTime| at.to_zoned(zone).map(|at| at.timestamp()).map_err(|error| error.to_string());
    if let Ok(at) = text.parse::<Timestamp>() {
        Ok(at)
    } else if let Ok(day) = text.parse::<civil::Date>() {
        local(day.to_datetime(civil::Time::midnight()))
    } else if let Ok(at) = text.parse::<civil::Time>() {
        local(today.date().to_datetime(at))
    } else if let Ok(at) = text.parse::<civil::DateTime>() {
        local(at)
    } else {
        Err(format!(
            "{text:?} is not a time: write it as 17:00, 2026-11-22, 2026-11-22T17:00 or 2026-11-22T17:00+07:00"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        for (text, seconds) in [("3d", 259_200), ("24h", 86_400), ("1h 30m", 5400), ("90s", 90), ("2 weeks", 1_209_600)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "3", "-1h", "0s", "1 month", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn a_lifetime_is_more_than_nothing_and_at_most_180_days() {
        for (text, minutes) in [("90m", 90), ("12h", 720), ("3d", 4320), ("2w", 20_160), ("180d", 259_200)] {
            assert_eq!(lifetime(text), Ok(Duration::from_secs(minutes * 60)), "{text}");
        }
        for (bad, part) in
            [("0", "not a length"), ("0s", "no time"), ("100us", "no time"), ("-3d", "past"), ("181d", "at most 180")]
        {
            let why = lifetime(bad).expect_err(bad);
            assert!(why.contains(part), "{bad}: {why}");
        }
    }

    #[test]
    fn a_day_begins_at_midnight() {
        let (day, midnight) = (moment("2026-11-22"), moment("2026-11-22T00:00"));
        assert!(day.is_ok() && day == midnight, "{day:?} {midnight:?}");
    }

    #[test]
    fn moments_are_read_with_and_without_an_offset() {
        assert_eq!(moment("2026-11-22T17:00+07:00").map(|at| at.to_string()), Ok("2026-11-22T10:00:00Z".to_owned()));
        assert!(moment("17:00").is_ok() && moment("2026-11-22T17:00").is_ok() && moment("2026-11-22 17:00").is_ok());
        assert!(moment("tomorrow").is_err());
    }
}
