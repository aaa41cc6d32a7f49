//! A node in the test's own process, for the tests of applications.
//!
//! Serves the application's socket from memory, so that the real [`Client`] speaks to it. Does what a test tells it to do
//! and nothing by chance: it reads no clock, and a lease ends when the test says so. It sends nothing anywhere: other
//! nodes take everything at once, and their applications too, unless the test says otherwise. It signs nothing, so it
//! has no receipts, and it serves no administrator. What it was sent stays in memory until it is dropped.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tram_client::{NewMessage, fake::Fake};
//!
//! let fake = Fake::start("can-tho", &["vanban"])?;
//! let client = fake.client().await?;
//!
//! // The application under test has to try again with the same key.
//! fake.try_again(1);
//! let message = NewMessage {
//!     to: vec!["vanban@central".parse()?],
//!     idempotency_key: "cv-12".into(),
//!     ..NewMessage::default()
//! };
//! let busy = client.send(message.clone(), &b"content"[..], |_| {}).await.unwrap_err();
//! assert!(busy.retryable());
//! let id = client.send(message, &b"content"[..], |_| {}).await?;
//! assert_eq!(fake.sent()[0].id, id);
//!
//! // A message comes, its acknowledgement is lost, and it comes again under the same id.
//! let came = fake.bring("vanban@central", NewMessage { to: vec!["vanban@can-tho".parse()?], ..NewMessage::default() }, "answer");
//! fake.lose_acks(1);
//! let mut inbox = client.receive(&"vanban".parse()?, None).await?;
//! for again in [false, true] {
//!     inbox.grant(1).await?;
//!     let message = inbox.next().await?;
//!     assert_eq!(message.header().id, came.0[..]);
//!     assert_eq!(message.header().redelivered, again);
//!     let delivery = message.header().delivery;
//!     inbox.ack(delivery).await?;
//! }
//! assert_eq!(inbox.settle().await?, 1, "one acknowledgement came too late");
//! # Ok(()) }
//! ```

mod serve;
mod world;

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tram_proto::id::MessageId;
use tram_proto::name::Address;
pub use tram_proto::receipt::{Reason, State};

use crate::{Client, Error, NewMessage, Place, Progress};
use world::World;

/// A node for tests. Dropping it ends its streams and removes its socket.
#[derive(Debug)]
pub struct Fake {
    shared: Shared,
    dir: PathBuf,
    stop: watch::Sender<bool>,
}

/// What an application has sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its id.
    pub id: MessageId,
    /// As it was sent.
    pub message: NewMessage,
    /// The payload, whole.
    pub payload: Bytes,
}

/// The state, and a bell that rings at each change.
#[derive(Debug, Clone)]
struct Shared {
    world: Arc<Mutex<World>>,
    bell: watch::Sender<u64>,
}

impl Shared {
    fn look(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let answer = change(&mut self.look());
        self.bell.send_modify(|rung| *rung += 1);
        answer
    }
}

impl Fake {
    /// A node of that name with these inboxes. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be made in the directory for temporary files, or a name is none.
    pub fn start(node: &str, inboxes: &[&str]) -> io::Result<Self> {
        let wrong = |error: tram_proto::name::NameError| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
        let inboxes = inboxes.iter().map(|inbox| inbox.parse().map_err(wrong)).collect::<Result<_, _>>()?;
        let world = World::new(node.parse().map_err(wrong)?, inboxes);
        let shared = Shared { world: Arc::new(Mutex::new(world)), bell: watch::Sender::new(0) };
        let dir = make_dir()?;
        let listener = UnixListener::bind(dir.join("app.sock"))?;
        let stop = watch::Sender::new(false);
        tokio::spawn(serve::serve(listener, shared.clone(), stop.subscribe()));
        Ok(Self { shared, dir, stop })
    }

    /// Where it is, for [`Client::connect`].
    #[must_use]
    pub fn place(&self) -> Place {
        Place::dir(&self.dir)
    }

    /// The directory of its socket, `app.sock`, for `tram --dir` and for clients in other languages.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A client of it.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn client(&self) -> Result<Client, Error> {
        Client::connect(&self.place()).await
    }

    /// Refuses the next so many sends with `spool_full`, which can be tried again.
    pub fn try_again(&self, sends: usize) {
        self.shared.change(|world| world.busy = sends);
    }

    /// Ends every message sent from now on to that address so: [`State::Refused`], [`State::Undeliverable`] or
    /// [`State::Expired`], with a reason.
    pub fn refuse(&self, address: &Address, state: State, reason: Reason) {
        self.shared.change(|world| world.refuse(address, state, reason));
    }

    /// What is sent from now on stays `submitted` until [`Self::release`].
    pub fn hold(&self) {
        self.shared.change(|world| world.held = true);
    }

    /// What was held goes on, and what is sent from now on.
    pub fn release(&self) {
        self.shared.change(World::release);
    }

    /// Lets the next so many acknowledgements come too late: they are answered with `held` false, and the messages come
    /// again.
    pub fn lose_acks(&self, acks: usize) {
        self.shared.change(|world| world.lose_acks = acks);
    }

    /// Ends every lease: what applications hold comes again, and their acknowledgements of it come too late.
    pub fn end_leases(&self) {
        self.shared.change(World::end_leases);
    }

    /// Hands a message out again that an application has acknowledged, as after a crash of the node. Returns for how
    /// many inboxes.
    pub fn redeliver(&self, id: MessageId) -> usize {
        self.shared.change(|world| world.redeliver(id))
    }

    /// Brings a message from another node: `from` is INBOX@NODE; `message.to` names inboxes here. Limits are not checked.
    ///
    /// # Panics
    /// When `from` is no address.
    pub fn bring(&self, from: &str, message: NewMessage, payload: impl Into<Bytes>) -> MessageId {
        let from: Address = from.parse().unwrap_or_else(|error| panic!("{error}"));
        self.shared.change(|world| world.bring(from, message, payload.into()))
    }

    /// Lets the application at a recipient of a message sent from here say what became of it.
    pub fn say(&self, id: MessageId, address: &Address, code: u32, text: &str) {
        self.shared.change(|world| world.say(id, address, code, text));
    }

    /// What was sent from here, in order.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.shared.look().sent()
    }

    /// The state of every recipient of a message, sent or brought; empty when there is no such message.
    #[must_use]
    pub fn recipients(&self, id: MessageId) -> Vec<Progress> {
        self.shared.look().recipients(id)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        // Whatever stays behind lies in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A new directory that only this user may enter.
fn make_dir() -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tram-fake-{}-{number}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            // An earlier process of that number left it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
