//! The command `tramd`: init, join, run, check, demo.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser, Subcommand};
use tram_pki::enrol::{JoinError, Joined, Joining, offline};
use tram_pki::token::Token;
use tram_proto::limits;
use tram_proto::name::{NodeName, Role, Zone};
use tram_proto::offline::FileAnswer;

use crate::clock::Clock;
use crate::config::Config;
use crate::doctor::{self, Language};
use crate::host::{self, AsDaemon};
use crate::paths::Paths;
use crate::setup::{self, Addresses};
use crate::{demo, join, purge, run};

/// Exit codes, those of the command line (`docs/admin/exit-codes.md`).
pub mod exit {
    /// Done.
    pub const OK: i32 = 0;
    /// The answer is no.
    pub const NO: i32 = 1;
    /// The arguments are wrong.
    pub const USAGE: i32 = 64;
    /// What was given cannot be used.
    pub const BAD_DATA: i32 = 65;
    /// A file is missing or unreadable.
    pub const NO_INPUT: i32 = 66;
    /// Nobody answers.
    pub const UNREACHABLE: i32 = 69;
    /// The disk or a socket failed.
    pub const IO: i32 = 74;
    /// Try again.
    pub const TRY_AGAIN: i32 = 75;
    /// Not permitted.
    pub const NOT_PERMITTED: i32 = 77;
    /// The config cannot be used.
    pub const CONFIG: i32 = 78;
}

/// A relay node of a Tram overlay.
#[derive(Debug, Parser)]
#[command(name = "tramd", version, about, max_term_width = 100)]
struct Arguments {
    /// The directory that holds everything of one node; without it /etc/tram, /var/lib/tram and /run/tram
    #[arg(long, env = "TRAM_DIR", global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new overlay and its first node, which holds the certificate authority
    Init {
        /// The private suffix of the overlay, such as tram.internal; never looked up in DNS
        #[arg(long)]
        zone: Zone,
        /// The first node's name, such as central
        #[arg(long)]
        name: NodeName,
        /// central, or province for a province that begins alone: its node has the province's name, all others have names
        /// below it, and it can come under another overlay's root later
        #[arg(long, default_value = "central", value_parser = first_role)]
        role: Role,
        #[command(flatten)]
        addresses: Addresses,
    },
    /// Make this machine a node, with a token from `tram token new`, or by file with an answer from `tram pki sign`; where
    /// that node is set up already, give it a new key and certificate
    Join {
        /// The file that holds the token; - reads it from standard input
        #[arg(long, value_name = "FILE", required_unless_present = "answer")]
        token_file: Option<PathBuf>,
        /// The answer to this machine's `tram pki csr`
        #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
        answer: Option<PathBuf>,
        /// The fingerprint of the overlay's root as the admin of the first node reads it out [default: ask]
        #[arg(long, value_name = "DIGITS", requires = "answer")]
        root_fingerprint: Option<String>,
        #[command(flatten)]
        addresses: Addresses,
    },
    /// Run the node until it is told to stop (SIGTERM, SIGINT)
    Run,
    /// Check config and keys without starting anything
    Check {
        /// Say instead what would be lost if everything of this node were deleted; the node must not run
        #[arg(long)]
        purge: bool,
    },
    /// Look at a node that does not run, for `tram doctor`; writes the answer of the local API
    #[command(hide = true)]
    Doctor {
        /// vi or en
        #[arg(long, default_value = "en")]
        lang: String,
    },
    /// Read the config of a node that does not run, for `tram config`; writes the answer of the local API
    #[command(hide = true)]
    Config {
        /// Another file than the node's own
        file: Option<PathBuf>,
    },
    /// See it work: five nodes on this machine, documents across four hops, one relay killed on the way
    Demo {
        /// Documents to send: a file or a directory; without it the project's own
        path: Option<PathBuf>,
        /// Leave the nodes running and print how to talk to them
        #[arg(long)]
        keep: bool,
    },
    /// Print a completion script for a shell
    #[command(hide = true)]
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

/// What went wrong, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// For scripts.
    pub code: i32,
    /// For people.
    pub text: String,
}

impl Failure {
    /// Makes one.
    pub fn new(code: i32, text: impl std::fmt::Display) -> Self {
        Self { code, text: text.to_string() }
    }
}

/// Runs the command and returns its exit code. The caller ends the process with it.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let wrong = error.use_stderr();
            // Nowhere to say so if even this fails.
            let _ = error.print();
            return if wrong { exit::USAGE } else { exit::OK };
        }
    };
    match perform(arguments) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("tramd: {}", failure.text);
            failure.code
        }
    }
}

fn perform(arguments: Arguments) -> Result<i32, Failure> {
    let paths = Paths::new(arguments.dir.as_deref());
    let clock = Clock::default();
    match arguments.command {
        Command::Init { zone, name, role, addresses } => init(&paths, &zone, (&name, role), &addresses, clock),
        Command::Join { answer: Some(answer), root_fingerprint, addresses, .. } => {
            join_by_file(&paths, &answer, root_fingerprint.as_deref(), &addresses, clock)
        }
        Command::Join { token_file, addresses, .. } => {
            // clap has seen to it that there is one.
            join_with(&paths, &token_file.unwrap_or_else(|| "-".into()), &addresses, clock)
        }
        Command::Run => run::command(paths, clock),
        Command::Check { purge: false } => check(&paths),
        Command::Check { purge: true } => check_purge(&paths),
        Command::Doctor { lang } => {
            let answer = doctor::of_stopped(&paths, clock, Language::of(&lang));
            write_answer(&answer.map_err(|e| Failure::new(exit::IO, e))?)
        }
        Command::Config { file } => {
            let text = file.map(|path| match std::fs::read_to_string(&path) {
                Ok(text) => Ok((path, text)),
                Err(e) => Err(Failure::new(exit::NO_INPUT, format!("{}: {e}", path.display()))),
            });
            write_answer(&doctor::config_of_stopped(&paths, text.transpose()?))
        }
        Command::Demo { path, keep } => demo::command(path, keep),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "tramd", &mut std::io::stdout());
            Ok(exit::OK)
        }
        Command::GenMan { dir } => {
            let written =
                std::fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(Arguments::command(), &dir));
            written.map_err(|e| Failure::new(exit::IO, format!("{}: {e}", dir.display())))?;
            Ok(exit::OK)
        }
    }
}

/// What the first node of an overlay can be.
fn first_role(text: &str) -> Result<Role, String> {
    let role = text.parse()?;
    let first = matches!(role, Role::Central | Role::Province);
    first.then_some(role).ok_or_else(|| "the first node of an overlay is central or a province".to_owned())
}

fn init(
    paths: &Paths,
    zone: &Zone,
    first: (&NodeName, Role),
    addresses: &Addresses,
    clock: Clock,
) -> Result<i32, Failure> {
    let as_daemon = AsDaemon::begin_with_directories(paths)?;
    let keys = setup::init(paths, zone, first, addresses, clock).map_err(setup_failure)?;
    drop(as_daemon);
    let admits = if first.1 == Role::Province {
        format!("NAME.{} --role district", first.0)
    } else {
        "NAME --role province".to_owned()
    };
    eprintln!("node {} of zone {zone} is ready: {}", keys.identity().name, keys.identity().id);
    eprintln!("  root certificate 20 years, issuing CA 5 years, node certificates 90 days");
    eprintln!("  keep {} safe: it holds the root key", paths.pki.display());
    let started = host::start(paths)?;
    eprintln!("then admit a node: tram{} token new {admits} > token", paths.option);
    Ok(started)
}

fn join_with(paths: &Paths, token_file: &PathBuf, addresses: &Addresses, clock: Clock) -> Result<i32, Failure> {
    let text = read_token(token_file)?;
    let token: Token =
        text.parse().map_err(|e| Failure::new(exit::BAD_DATA, format!("{}: {e}", token_file.display())))?;
    let as_daemon = AsDaemon::begin_with_directories(paths)?;
    setup::before_join(paths, &token.name, addresses).map_err(setup_failure)?;
    let (name, uplink) = (token.name.clone(), token.uplink.clone());
    let joining = match Joining::begin(&paths.pki, token) {
        // The power went after the keys and before the config.
        Err(JoinError::Spent { .. }) if !paths.config.exists() => {
            setup::finish(paths, &name, &uplink, addresses).map_err(setup_failure)?;
            drop(as_daemon);
            return start_it(paths, &format!("this machine is node {name}"));
        }
        begun => begun.map_err(|e| join_failure(&e))?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(exit::IO, e))?;
    let joined = runtime.block_on(join::join(&joining, env!("CARGO_PKG_VERSION"), clock));
    // A name that is being looked up keeps nobody waiting.
    runtime.shutdown_background();
    let joined = joined.map_err(|failure| {
        let code = match &failure {
            join::JoinFailure::Unreachable(_) => exit::UNREACHABLE,
            join::JoinFailure::BrokenOff { .. } => exit::TRY_AGAIN,
            join::JoinFailure::Join(error) => return join_failure(error),
            _ => exit::IO,
        };
        Failure::new(code, failure)
    })?;
    let what = install(paths, &joined, addresses)?;
    drop(as_daemon);
    start_it(paths, &what)
}

/// Joins by the answer to a request file. Nobody but a person can say whether its root is the overlay's.
fn join_by_file(
    paths: &Paths,
    file: &Path,
    fingerprint: Option<&str>,
    addresses: &Addresses,
    clock: Clock,
) -> Result<i32, Failure> {
    let bytes = read_at_most(file, limits::ANSWER_FILE_BYTES as u64 + 1);
    let bytes = bytes.map_err(|e| Failure::new(exit::NO_INPUT, format!("{}: {e}", file.display())))?;
    let bad = |error: &dyn std::fmt::Display| Failure::new(exit::BAD_DATA, format!("{}: {error}", file.display()));
    let answer = FileAnswer::decode(&bytes).map_err(|e| bad(&e))?;
    let as_daemon = AsDaemon::begin_with_directories(paths)?;
    setup::before_join(paths, &answer.granted.name, addresses).map_err(setup_failure)?;
    let answered = offline::accept(&paths.pki, &answer, clock.wall_ms()).map_err(|e| match join_failure(&e) {
        Failure { code: exit::BAD_DATA, .. } => bad(&e),
        failure => failure,
    })?;
    let shown = offline::root_fingerprint(answered.root());
    let granted = &answer.granted;
    match fingerprint {
        _ if answered.is_trusted() => {}
        Some(said) if shown.is(said) => {}
        Some(_) => {
            let why = format!(
                "the root in {} has another fingerprint: {shown}. If you typed what the admin of the first node read out, the file is not from there: install nothing and tell that admin",
                file.display()
            );
            return Err(Failure::new(exit::NOT_PERMITTED, why));
        }
        None if std::io::stdin().is_terminal() => {
            eprintln!("this makes the machine node {} ({}) of zone {}", granted.name, granted.role, granted.zone);
            eprintln!("root fingerprint: {shown}");
            eprintln!("Ask the admin of the first node to read it out (`tram pki sign` shows it).");
            eprint!("Is it the same? Type yes: ");
            let mut said = String::new();
            let _ = std::io::stdin().read_line(&mut said);
            if said.trim() != "yes" {
                return Err(Failure::new(exit::NO, "nothing was installed"));
            }
        }
        None => {
            let why = format!(
                "the root in {} is not known here: give --root-fingerprint as the admin of the first node reads it out, or run this at a terminal",
                file.display()
            );
            return Err(Failure::new(exit::USAGE, why));
        }
    }
    let what = install(paths, &answered.vouched(), addresses)?;
    drop(as_daemon);
    start_it(paths, &what)
}

/// Keeps what a join brought; answers what this machine is now.
fn install(paths: &Paths, joined: &Joined, addresses: &Addresses) -> Result<String, Failure> {
    let again = paths.config.exists();
    let keys = setup::joined(paths, joined, addresses).map_err(setup_failure)?;
    let what = format!("this machine is node {} ({}) of zone {}", joined.name, joined.role, keys.zone());
    if !again {
        return Ok(what);
    }
    let uplink = &joined.uplink.node;
    let dials = Config::load(paths).is_ok_and(|config| config.uplinks.iter().any(|one| one.node == *uplink));
    if !dials {
        eprintln!(
            "note: {} names no [[uplink]] {uplink}, which the CA names; it stays as it is",
            paths.config.display()
        );
    }
    Ok(format!("{what} again, with a new key; config, mail and receipts are as they were"))
}

fn start_it(paths: &Paths, what: &str) -> Result<i32, Failure> {
    eprintln!("{what}");
    host::start(paths)
}

fn read_at_most(path: &Path, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    std::fs::File::open(path)?.take(bytes).read_to_end(&mut all)?;
    Ok(all)
}

fn read_token(path: &PathBuf) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(64 * 1024).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(64 * 1024).read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::new(exit::NO_INPUT, format!("cannot read the token {}: {error}", path.display()))),
    }
}

fn join_failure(error: &JoinError) -> Failure {
    let code = match error {
        JoinError::Refused { .. } => exit::NOT_PERMITTED,
        JoinError::Resident { .. } | JoinError::Spent { .. } => exit::NO,
        _ => exit::BAD_DATA,
    };
    Failure::new(code, error)
}

fn setup_failure(error: setup::SetupError) -> Failure {
    let code = match &error {
        setup::SetupError::Exists { .. } | setup::SetupError::Running { .. } => exit::NO,
        setup::SetupError::Addresses { .. } => exit::USAGE,
        _ => exit::IO,
    };
    Failure::new(code, error)
}

fn write_answer(answer: &impl tram_proto::local::Answer) -> Result<i32, Failure> {
    let written = std::io::stdout().write_all(&answer.to_bytes());
    written.map(|()| exit::OK).map_err(|e| Failure::new(exit::IO, e))
}

fn check_purge(paths: &Paths) -> Result<i32, Failure> {
    let _as_daemon = AsDaemon::begin(paths)?;
    let against = purge::against(paths);
    for line in &against {
        println!("{line}");
    }
    Ok(if against.is_empty() { exit::OK } else { exit::NO })
}

fn check(paths: &Paths) -> Result<i32, Failure> {
    Config::load(paths).map_err(|e| Failure::new(exit::CONFIG, e))?;
    let keys = tram_pki::keystore::NodeKeys::load(&paths.pki).map_err(|e| Failure::new(exit::CONFIG, e))?;
    let me = keys.identity();
    let days = me.not_after_ms.saturating_sub(Clock::default().wall_ms()) / tram_pki::clock::DAY_MS;
    println!(
        "node {} ({}) of zone {}: config and keys are in order; certificate: {days} days left",
        me.name,
        me.role,
        keys.zone()
    );
    Ok(exit::OK)
}
