//! The controller on simulated lines: the grid of decision 14, and lines that change, share or deceive.
//!
//! `cargo test -p tram-congestion -- --ignored --nocapture` prints the whole grid.

mod grid;
mod lines;
mod sim;
