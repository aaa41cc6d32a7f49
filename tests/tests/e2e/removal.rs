//! `tramd check --purge` says what a deletion of the node would lose.

use std::fs;

use tram_tests::overlay::Overlay;

use super::{HERE, PROGRAM};

#[test]
fn a_purge_is_advised_against_while_documents_or_a_ca_key_are_there() {
    let overlay = Overlay::central(PROGRAM, HERE);
    let against = || {
        let ran = overlay.tramd("check", "C", &["--purge"]);
        (ran.code, ran.out.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let (code, lines) = against();
    assert_eq!(code, 1);
    assert!(lines.iter().any(|line| line.contains("in use by another tramd")), "{lines:?}");

    let document = overlay.write("document", b"not taken yet");
    let _ = overlay.send("C", "vanban@central", &document, &[]).ok();
    overlay.kill("C");
    let (code, lines) = against();
    assert_eq!((code, lines.len()), (1, 3), "{lines:?}");
    assert!(lines[0].contains("root.key") && lines[1].contains("ca.key"), "{lines:?}");
    assert!(lines[2].contains("1 messages") && lines[2].contains("tram status"), "{lines:?}");

    overlay.run("C");
    let _ = overlay.recv("C", "out", 1).ok();
    overlay.await_done(&["C"], tram_tests::overlay::SOON);
    overlay.kill("C");
    for key in ["root.key", "ca.key"] {
        fs::remove_file(overlay.path("C").join("pki").join(key)).expect("removed");
    }
    assert_eq!(against(), (0, Vec::new()));
    // Where there was never a node, none is made.
    assert_eq!(overlay.tramd("check", "nowhere", &["--purge"]).code, 0);
    assert!(!overlay.path("nowhere").exists());
}
