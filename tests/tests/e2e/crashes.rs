//! kill -9 at any moment: every document comes out once. `scripts/crash` does the same for longer.

use tram_tests::crash;

use super::PROGRAM;

const ROUNDS: usize = 10;

#[test]
fn every_process_may_be_killed_at_any_moment_and_each_document_comes_once() {
    crash::run(PROGRAM, ROUNDS, crash::seed().unwrap_or(20_261_122));
}
