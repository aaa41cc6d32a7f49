//! A simulated overlay: the real core of every node over its spool, in virtual time, from one seed.
//!
//! Nodes crash (what was not committed is gone), disks lose power, fill up, rot, go back in time or are lost, links are
//! cut, children move to another parent, clocks jump, applications are slow or absent, a neighbour lies. Beside it stands
//! a model of what must hold, asked at every step and at the end: what was submitted reaches every recipient's
//! application once, receipts say what happened, limits hold, and after healing nothing is left anywhere. The same seed
//! gives the same run.
//!
//! It cannot see QUIC, TLS, signatures, the local sockets, threads, or a daemon's own tasks.

mod application;
mod carry;
mod check;
mod disk;
mod model;
mod random;
mod renaming;
mod storm;
mod world;

pub use application::{Letter, some_size};
pub use disk::Disk;
pub use model::{Model, Sent};
pub use random::Random;
pub use storm::{Ran, storm};
pub use world::{Manners, SimNode, WALL, World};

/// A node's place in [`World::nodes`].
pub type Place = usize;

/// How long a message of the simulation may take when nothing else is said.
pub const LIFETIME_MS: u64 = 72 * 3_600_000;
