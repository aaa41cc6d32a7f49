//! The wire: what bytes mean, between nodes and between a node and its applications.
//!
//! Domain types with checked `encode` and `decode`; the generated types stay private, except those of the local API
//! ([`local`]), which the daemon's local module and the client library share. No I/O, no clock, no randomness. Every
//! decoder takes a peer's bytes, holds them to [`limits`] and never panics.

pub mod envelope;
pub mod error;
pub mod export;
mod fields;
pub mod frame;
pub mod id;
pub mod join;
pub mod limits;
pub mod manifest;
pub mod name;
pub mod offline;
pub mod pki;
pub mod receipt;
pub mod row;
pub mod statement;
#[cfg(test)]
mod strategies;
mod wire;

#[cfg(feature = "local")]
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod local {
    //! The local API, `tram.local.v1`: generated messages, client and server.
    include!(concat!(env!("OUT_DIR"), "/tram.local.v1.rs"));

    /// An answer as bytes, for where there is no socket: of a node that does not run.
    pub trait Answer: prost::Message + Default {
        /// Its bytes.
        fn to_bytes(&self) -> Vec<u8> {
            self.encode_to_vec()
        }

        /// The answer of these bytes; `None` when they are none.
        fn of_bytes(bytes: &[u8]) -> Option<Self> {
            Self::decode(bytes).ok()
        }
    }

    impl Answer for ConfigAnswer {}
    impl Answer for DoctorAnswer {}
}
