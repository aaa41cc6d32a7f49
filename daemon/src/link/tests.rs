//! Real QUIC on loopback or over a simulated line, a real PKI, the spool in memory, and the test in the engine's place or
//! before it.

mod bad;
mod certificates;
pub(crate) mod fixture;
mod good;
mod line;
mod office;
pub(crate) mod pki;
mod rate;
mod weather;
