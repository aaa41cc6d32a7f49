//! The desk: the command `tram` for people and scripts.
//!
//! | module | owns |
//! |---|---|
//! | `args` | the command line: names, flags, defaults (DESIGN §10; fixed, only added to) |
//! | `exit` | exit codes, and which failure gets which |
//! | `send`, `recv`, `trace`, `receipt`, `message`, `inbox`, `node`, `plan`, `token`, `status` | one command each |
//! | `recv::ledger`, `recv::name` | exactly once on disk; file names that are safe there |
//! | `pki` | certificates in use, asked of the daemon; keys at rest, audit log, backup, what goes by file: on the node's files |
//! | `doctor`, `config` | what the node says of itself and its config; `stopped` asks `tramd` where no daemon answers |
//! | `screen` | a screen that is drawn again and again |
//! | `passphrase` | from a file, a pipe or a terminal |
//! | `verify` | receipts checked offline, with nothing but the root certificate |
//! | `show` | tables, JSON, times |
//!
//! Data goes to stdout, talk to stderr. Never reads a node's files: it asks the daemon, or the program `tramd` when that
//! does not run; except for `receipt verify`, which needs none, and `pki`, which has to work when there is none.

mod args;
mod config;
mod doctor;
mod exit;
mod inbox;
mod message;
mod node;
mod passphrase;
mod pki;
mod plan;
mod receipt;
mod recv;
mod screen;
mod send;
mod show;
mod status;
mod stopped;
mod token;
mod trace;
mod verify;

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory as _, Parser as _};
use tram_client::Place;

use args::{Args, Command, ReceiptCommand};
use exit::{Failure, OK, USAGE};

/// Runs the command with these arguments (the first is the program's name); returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> i32 {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() { USAGE } else { OK };
        }
    };
    match perform(args) {
        Ok(()) => OK,
        Err(failure) => failure.report(),
    }
}

fn perform(args: Args) -> Result<(), Failure> {
    let place = args.dir.as_deref().map_or_else(Place::system, Place::dir);
    let json = args.json;
    let wait = |work: std::pin::Pin<Box<dyn Future<Output = Result<(), Failure>> + '_>>| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Failure::io(format!("cannot start: {error}")))?;
        let result = runtime.block_on(work);
        // A read of standard input may still hang.
        runtime.shutdown_background();
        result
    };
    match args.command {
        Command::Send(args) => wait(Box::pin(send::run(&place, args, json))),
        Command::Recv(args) => wait(Box::pin(recv::run(&place, args, json))),
        Command::Trace(args) => wait(Box::pin(trace::run(&place, args, json))),
        Command::Receipt(ReceiptCommand::Verify { file, trust }) => receipt::verify(&file, &trust, json),
        Command::Receipt(ReceiptCommand::Show { id }) => wait(Box::pin(receipt::show(&place, id, json))),
        Command::Receipt(ReceiptCommand::Export { id, out }) => wait(Box::pin(receipt::export(&place, id, out, json))),
        Command::Message(command) => wait(Box::pin(message::run(&place, command, json))),
        Command::Inbox(command) => wait(Box::pin(inbox::run(&place, command, json))),
        Command::Token(command) => wait(Box::pin(token::run(&place, command, json))),
        Command::Pki(command) => wait(Box::pin(pki::run(args.dir.as_deref(), command, json))),
        Command::Status(args) => wait(Box::pin(status::status(&place, args, json))),
        Command::Doctor { lang } => wait(Box::pin(doctor::run(&place, args.dir.as_deref(), lang, json))),
        Command::Config(command) => wait(Box::pin(config::run(&place, args.dir.as_deref(), command, json))),
        Command::Link(args::LinkCommand::List) => wait(Box::pin(status::links(&place, json))),
        Command::Node(command) => wait(Box::pin(node::node(&place, command, json))),
        Command::Queue(command) => wait(Box::pin(node::queue(&place, command, json))),
        Command::Spool(args::SpoolCommand::Scrub) => wait(Box::pin(node::scrub(&place, json))),
        Command::Plan(command) => wait(Box::pin(plan::run(&place, command, json))),
        Command::Reload => wait(Box::pin(node::reload(&place, json))),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "tram", &mut script);
            show::line(String::from_utf8_lossy(&script).trim_end())
        }
        Command::GenMan { dir } => manual_pages(&dir),
    }
}

fn manual_pages(dir: &Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Args::command(), dir));
    written.map_err(|error| Failure::io(format!("{}: {error}", dir.display())))
}
