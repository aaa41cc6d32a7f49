//! `tramd`, the relay daemon.

fn main() {
    std::process::exit(tramd::command::main(std::env::args_os()));
}
