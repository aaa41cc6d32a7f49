//! `tramd check --purge`: what would be lost if everything of this node were deleted.
//!
//! Looks at the files of a node that does not run, and changes nothing that a start would not.

use std::path::Path;

use tram_pki::keystore::{CA_KEY, ROOT_KEY};
use tram_relay::Input;

use crate::paths::Paths;
use crate::spool::{DiskOptions, DiskSpool, Spool as _, SpoolError};

/// Each thing that stands against it, with what to do about it.
pub(crate) fn against(paths: &Paths) -> Vec<String> {
    let keys = [ROOT_KEY, CA_KEY].map(|name| paths.pki.join(name));
    let keys = keys.into_iter().filter(|key| key.symlink_metadata().is_ok()).map(|key| {
        let key = key.display();
        format!("{key} is the key of a certificate authority: `tram pki backup FILE`, then move {key} away")
    });
    let waiting = match under_way(&paths.spool) {
        Ok((0, 0)) => None,
        Ok((messages, receipts)) => Some(format!(
            "{messages} messages and {receipts} receipts in {} are not delivered: start the node, have its applications take what is theirs, and wait until `tram status` shows no more",
            paths.spool.display()
        )),
        Err(why) => Some(format!("nobody can say what is not delivered: {why}")),
    };
    keys.chain(waiting).collect()
}

/// Messages and receipts that are on their way.
fn under_way(spool: &Path) -> Result<(u64, u64), SpoolError> {
    let (mut messages, mut receipts) = (0, 0);
    // Where nothing was ever written there is nothing to open, and nothing should be made.
    if std::fs::read_dir(spool).is_ok_and(|mut files| files.next().is_some()) {
        DiskSpool::open(spool, DiskOptions::default())?.restore(&mut |input| match input {
            Input::RestoredMessage { .. } => messages += 1,
            Input::RestoredReceipt { .. } => receipts += 1,
            _ => {}
        })?;
    }
    Ok((messages, receipts))
}
