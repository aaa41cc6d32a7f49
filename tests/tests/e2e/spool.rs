//! A spool without room: senders are told to try again, what was taken stays whole, and room comes back.

use std::fs;

use tram_tests::overlay::Overlay;

use super::{HERE, PROGRAM};

/// Unreferenced payloads stay for an hour.
const GRACE_MS: i64 = 3_600_000;

fn payload(number: u8) -> Vec<u8> {
    (0..3_000_000_u32).map(|at| number ^ (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn a_full_spool_says_try_again_and_keeps_what_it_has() {
    let overlay = Overlay::new(PROGRAM, HERE);
    let _ = overlay.tramd("init", "C", &["--zone", "tram.internal", "--name", "central"]).ok();
    overlay.reconfigure("C", |text| text + "\n[spool]\nmax = \"8MiB\"\n");
    overlay.run("C");
    let send = |number: u8| {
        overlay.send("C", "vanban@central", &overlay.write(format!("{number}.bin"), &payload(number)), &[])
    };
    let mut taken = 0;
    let refused = loop {
        let ran = send(taken);
        if ran.code != 0 {
            break ran;
        }
        taken += 1;
        assert!(taken < 4, "more than 8 MiB were taken");
    };
    refused.fails(75, &["spool_full"]);
    assert!(taken > 0);
    overlay.kill("C");
    overlay.run("C");
    send(taken).fails(75, &["spool_full"]);

    let _ = overlay.recv("C", "out", taken.into()).ok();
    for number in 0..taken {
        assert_eq!(fs::read(overlay.path("out").join(format!("{number}.bin"))).expect("received"), payload(number));
    }
    // A sweep notes what nothing refers to, a later one deletes it; both happen at a start too.
    overlay.kill("C");
    overlay.run("C");
    overlay.kill("C");
    overlay.run_at("C", 2 * GRACE_MS);
    let room = tram_tests::overlay::until("there is room again", tram_tests::overlay::SOON, || {
        let ran = send(taken);
        (ran.code == 0).then_some(ran)
    });
    let _ = room.ok();
    let _ = overlay.recv("C", "out", 1).ok();
    assert_eq!(fs::read(overlay.path("out").join(format!("{taken}.bin"))).expect("received"), payload(taken));
}
