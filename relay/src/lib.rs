//! The decisions: what a node does next. No I/O, no clock, no threads, no randomness.
//!
//! [`Node`] owns all state and is driven by four calls: [`Node::handle`] takes an [`Input`] and the time,
//! [`Node::poll_output`] gives what to do, [`Node::next_deadline`] says when to come back and why, and
//! [`Node::snapshot`] is for whoever looks. Three rules make it work. Payload bytes never enter the core: it moves rows
//! and ranges of units, the daemon copies from disk to stream. Durability is an input: an acknowledgement leaves only
//! after [`Input::Persisted`], so a crash between the two is a test. Every collection has a named limit ([`limits`]), and
//! refusing is an output. The same inputs give the same outputs, byte for byte.
//!
//! The node only routes inputs to its concerns: links, routing, custody, queues, inboxes, receipts in transit, clock.

mod aliases;
mod clock;
mod custody;
mod inboxes;
pub mod input;
pub mod limits;
mod links;
mod node;
pub mod output;
mod queues;
mod ranges;
mod receipts;
mod routing;
pub mod shares;
pub mod snapshot;
pub mod time;
mod tombstones;
mod turns;

pub use input::Input;
pub use node::{Config, Node};
pub use output::Output;
pub use time::Now;
