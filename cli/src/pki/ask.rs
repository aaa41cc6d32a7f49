//! What a person has to say before something is done that cannot be undone.

use std::io::{IsTerminal as _, Write as _};

use tram_pki::hash::Fingerprint;

use crate::exit::{Failure, NEGATIVE, NOT_PERMITTED, USAGE};

/// Asks a person to type a word.
pub(super) fn confirm(question: &str, word: &str, instead: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(USAGE, format!("this cannot be undone: {instead}")));
    }
    // Nobody answers what cannot be shown.
    let _ = write!(std::io::stderr(), "{question}\nType {word}: ");
    let mut said = String::new();
    let _ = std::io::stdin().read_line(&mut said);
    if said.trim() == word { Ok(()) } else { Err(Failure::new(NEGATIVE, "nothing was changed")) }
}

/// Has two people compare a fingerprint: it was given, or a person says that it is the same.
pub(super) fn compare(what: &str, shown: &Fingerprint, said: Option<&str>, yes: bool) -> Result<(), Failure> {
    match said {
        Some(said) if shown.is(said) => Ok(()),
        Some(_) => {
            let why = format!("{what}: it has another fingerprint, {shown}. Do not use it, unless you mistyped");
            Err(Failure::new(NOT_PERMITTED, why))
        }
        None if yes => Ok(()),
        None => {
            let question = format!("{what}.\nfingerprint: {shown}\nDoes the person who made it read you the same?");
            confirm(&question, "yes", "give --fingerprint as it is read to you, or run this at a terminal")
        }
    }
}
