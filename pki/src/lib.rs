//! The trust: who may be a node. Issue, enrol, verify.
//!
//! | module | owns |
//! |---|---|
//! | [`authority`] | the root and the issuing CAs: makes certificates and revocation lists |
//! | [`bundle`], [`crl`] | what every node must hold to judge others, and what of it is taken from whom |
//! | [`registry`] | which nodes exist, which tokens are live; the audit log |
//! | [`journal`] | hash-chained lines: the audit log and its copies at the parent |
//! | [`token`], [`enrol`] | how a new node joins |
//! | [`renew`] | how a node gets its next certificate, and a province its CA |
//! | [`rotate`] | how a root is exchanged |
//! | [`cross`] | how a province that began alone comes under another root |
//! | [`ceremony`] | the root's key away from the node: what is signed with it by file |
//! | [`pins`] | which CA may speak for a node id |
//! | [`policy`], [`trust`] | who a certificate speaks for; whether its chain holds |
//! | [`verify`] | TLS configurations for links and for joining |
//! | [`parcel`] | what travels on a stick: objects of the bundle, requests for CA certificates |
//! | [`stated`] | what a certificate says, for people |
//! | [`statement`] | signs and verifies statements |
//! | [`keystore`] | a node's keys and certificates on disk |
//! | [`backup`] | a node's PKI and config in one encrypted file, and back |
//! | [`lock`] | CA keys encrypted with a passphrase |
//!
//! No network and no async. Files only of the pki directory and those an admin names, by way of the module `files`. Never
//! reads the clock: every call takes the time. Does not know what a queue or a message is. Specification: DESIGN §3,
//! `research/pki.md`.

pub mod authority;
pub mod backup;
pub mod bundle;
pub mod ceremony;
pub mod clock;
pub mod crl;
pub mod cross;
pub mod csr;
pub mod enrol;
mod files;
pub mod hash;
pub mod journal;
pub mod keystore;
pub mod lock;
pub mod parcel;
pub mod pins;
pub mod policy;
pub mod registry;
pub mod renew;
pub mod rotate;
pub mod stated;
pub mod statement;
pub mod token;
pub mod trust;
pub mod verify;

pub use files::FileError;

#[cfg(test)]
mod fixtures;
