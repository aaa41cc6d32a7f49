//! The decisions: what a node does next.
pub mod input;
pub mod output;
pub mod snapshot;
pub mod time;
