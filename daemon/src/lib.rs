//! The I/O: QUIC links, the spool, local sockets, config. Decisions are the relay core's, trust is the PKI's.
//!
//! [`run`] brings the parts together: one [`engine`] task owns the core; [`link`] tasks carry frames and payload;
//! the [`committer`] thread owns the write path to the [`spool`]; [`local`] serves applications and administrators on
//! this machine; [`issuer`] and [`join`] admit nodes where a CA lives. The clock is read in [`clock`] and nowhere else.

pub mod clock;
pub mod command;
pub mod committer;
pub mod config;
mod demo;
pub mod doctor;
pub mod engine;
mod host;
pub mod http;
pub mod issuer;
pub mod join;
pub mod link;
pub mod local;
pub mod metrics;
pub mod paths;
pub mod plan;
mod purge;
pub mod registrar;
pub mod reload;
pub mod run;
pub mod setup;
pub mod shelf;
pub mod spool;
mod view;
mod watchdog;
