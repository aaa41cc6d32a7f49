//! The I/O: QUIC links, the spool, local sockets, config. Decisions are the relay core's, trust is the PKI's.

pub mod engine;
