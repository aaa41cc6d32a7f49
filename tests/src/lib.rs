//! Whole-system tests: what they share.

pub mod sim;
