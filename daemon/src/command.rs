//! The command `tramd`: init, join, run, check, demo.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tram_pki::enrol::{JoinError, Joining};
use tram_pki::token::Token;
use tram_proto::name::{NodeName, Zone};

use crate::clock::Clock;
use crate::config::Config;
use crate::paths::Paths;
use crate::setup::{self, Addresses};
use crate::{demo, join, run};

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
        #[command(flatten)]
        addresses: Addresses,
    },
    /// Make this machine a node, with a token from `tram token new`
    Join {
        /// The file that holds the token; - reads it from standard input
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
        #[command(flatten)]
        addresses: Addresses,
    },
    /// Run the node until it is told to stop (SIGTERM, SIGINT)
    Run,
    /// Check config and keys without starting anything
    Check,
    /// See it work: five nodes on this machine, documents across four hops, one relay killed on the way
    Demo {
        /// Documents to send: a file or a directory; without it the project's own
        path: Option<PathBuf>,
        /// Leave the nodes running and print how to talk to them
        #[arg(long)]
        keep: bool,
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
        Command::Init { zone, name, addresses } => init(&paths, &zone, &name, &addresses, clock),
        Command::Join { token_file, addresses } => join_with(&paths, &token_file, &addresses, clock),
        Command::Run => run::command(paths, clock),
        Command::Check => check(&paths),
        Command::Demo { path, keep } => demo::command(path, keep),
    }
}

fn init(paths: &Paths, zone: &Zone, name: &NodeName, addresses: &Addresses, clock: Clock) -> Result<i32, Failure> {
    let keys = setup::init(paths, zone, name, addresses, clock).map_err(setup_failure)?;
    eprintln!("node {} of zone {zone} is ready: {}", keys.identity().name, keys.identity().id);
    eprintln!("  root certificate 20 years, issuing CA 5 years, node certificates 90 days");
    eprintln!("  keep {} safe: it holds the root key", paths.pki.display());
    eprintln!("start it: tramd{} run", paths.option);
    eprintln!("then admit a node: tram{} token new NAME --role province > token", paths.option);
    Ok(exit::OK)
}

fn join_with(paths: &Paths, token_file: &PathBuf, addresses: &Addresses, clock: Clock) -> Result<i32, Failure> {
    let text = read_token(token_file)?;
    let token: Token =
        text.parse().map_err(|e| Failure::new(exit::BAD_DATA, format!("{}: {e}", token_file.display())))?;
    setup::prepare(paths).map_err(setup_failure)?;
    let joining = Joining::begin(&paths.pki, token).map_err(|e| join_failure(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(exit::IO, e))?;
    let joined = runtime.block_on(join::join(&joining, env!("CARGO_PKG_VERSION"), clock)).map_err(|failure| {
        let code = match &failure {
            join::JoinFailure::Unreachable(_) => exit::UNREACHABLE,
            join::JoinFailure::BrokenOff { .. } => exit::TRY_AGAIN,
            join::JoinFailure::Join(error) => return join_failure(error),
            _ => exit::IO,
        };
        Failure::new(code, failure)
    })?;
    let keys = setup::joined(paths, &joined, addresses).map_err(setup_failure)?;
    eprintln!("this machine is node {} ({}) of zone {}", joined.name, joined.role, keys.zone());
    eprintln!("start it: tramd{} run", paths.option);
    Ok(exit::OK)
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
        _ => exit::BAD_DATA,
    };
    Failure::new(code, error)
}

fn setup_failure(error: setup::SetupError) -> Failure {
    let code = match &error {
        setup::SetupError::Exists { .. } => exit::NO,
        _ => exit::IO,
    };
    Failure::new(code, error)
}

fn check(paths: &Paths) -> Result<i32, Failure> {
    let config = Config::load(paths).map_err(|e| Failure::new(exit::CONFIG, e))?;
    crate::local::access::Access::resolve(&config.rules).map_err(|e| Failure::new(exit::CONFIG, e))?;
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
