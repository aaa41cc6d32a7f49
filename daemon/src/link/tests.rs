//! Real QUIC on loopback, a real PKI, the spool in memory, and the test in the engine's place.

mod bad;
pub(crate) mod fixture;
mod good;
