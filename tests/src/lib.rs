//! Whole-system tests: what they share.

pub mod crash;
pub mod fuzz;
pub mod lines;
pub mod overlay;
pub mod sim;
