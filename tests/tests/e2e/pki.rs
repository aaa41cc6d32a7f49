//! The life of certificates in an overlay of real daemons: delegated, renewed, expired, revoked, exchanged.

use tram_tests::overlay::{Overlay, SOON, free_port, until};

use super::{HERE, PROGRAM};

const DAY_MS: i64 = 24 * 3_600_000;

/// Central, and can-tho with a join address and so with a CA of its own.
fn with_province() -> Overlay {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let token = overlay.token("can-tho", "province", None, &[]);
    let (listen, join) = (overlay.listen("CT"), format!("{HERE}:{}", free_port(HERE)));
    let token = token.display().to_string();
    let _ = overlay.tramd("join", "CT", &["--token-file", &token, "--listen", &listen, "--join-listen", &join]).ok();
    overlay.run("CT");
    overlay.await_link("CT", "central");
    overlay.await_log("C", &["a CA was certified", "can-tho"]);
    until("can-tho has its CA", SOON, || overlay.path("CT").join("pki/ca.pem").exists().then_some(()));
    overlay
}

/// A district, enrolled at its province's own join address.
fn district(overlay: &mut Overlay, node: &str, name: &str) {
    let made = until("can-tho makes tokens", SOON, || {
        let made = overlay.tram("CT", &["token", "new", name, "--role", "district"]);
        (made.code == 0).then(|| made.ok())
    });
    let token = overlay.write(format!("{node}.token"), made.as_bytes());
    let _ = overlay.join_with(node, &token, None).ok();
    overlay.run(node);
    overlay.await_link(node, "can-tho");
}

#[test]
fn a_province_enrols_its_districts_and_judges_their_names() {
    let mut overlay = with_province();
    district(&mut overlay, "NK", "ninh-kieu.can-tho");
    overlay.tram("C", &["token", "new", "cai-rang.can-tho", "--role", "district"]).fails(65, &["can-tho", "there"]);
    overlay.tram("CT", &["token", "new", "long-xuyen.an-giang", "--role", "district"]).fails(65, &["can-tho"]);
    let file = overlay.write("a.txt", b"a");
    overlay.await_known("C", "ninh-kieu.can-tho");
    for (from, to, at) in [("NK", "vanban@central", "C"), ("C", "vanban@ninh-kieu.can-tho", "NK")] {
        let _ = overlay.send(from, to, &file, &[]).ok();
        let _ = overlay.recv(at, "out", 1).ok();
    }
    // The name's owner is can-tho, whoever sends.
    for from in ["C", "CT", "NK"] {
        let unknown = overlay.send(from, "vanban@no-such.can-tho", &file, &["--wait", "arrived", "--timeout", "30s"]);
        unknown.fails(1, &["no_such_node"]);
        let unknown = overlay.send(from, "vanban@no-such", &file, &["--wait", "arrived", "--timeout", "30s"]);
        unknown.fails(1, &["no_such_node"]);
    }
}

#[test]
fn a_node_off_for_twenty_days_past_expiry_comes_back_and_one_off_for_forty_says_what_to_do() {
    let mut overlay = with_province();
    district(&mut overlay, "NK", "ninh-kieu.can-tho");
    district(&mut overlay, "CR", "cai-rang.can-tho");
    for node in ["NK", "CR", "CT", "C"] {
        overlay.kill(node);
    }
    // Seventy days later the others renew, without anybody's doing.
    overlay.run_at("C", 70 * DAY_MS);
    overlay.await_log("C", &["this node's certificate was renewed", "Due"]);
    overlay.run_at("CT", 70 * DAY_MS);
    overlay.await_link("CT", "central");
    overlay.await_log("CT", &["this node's certificate was renewed", "Due"]);
    overlay.await_link("CT", "central");
    for node in ["CT", "C"] {
        overlay.kill(node);
    }
    overlay.run_at("C", 110 * DAY_MS);
    overlay.run_at("CT", 110 * DAY_MS);
    overlay.await_link("CT", "central");
    overlay.run_at("NK", 110 * DAY_MS);
    overlay.await_log("NK", &["this node's certificate was renewed"]);
    overlay.await_link("NK", "can-tho");
    let file = overlay.write("a.txt", b"a");
    let _ = overlay.send("NK", "vanban@central", &file, &["--wait", "arrived", "--timeout", "30s"]).ok();

    for node in ["NK", "CT", "C"] {
        overlay.kill(node);
    }
    overlay.run_at("C", 131 * DAY_MS);
    overlay.run_at("CT", 131 * DAY_MS);
    overlay.await_link("CT", "central");
    overlay.run_at("CR", 131 * DAY_MS);
    overlay.await_log(
        "CR",
        &["41 days ago", "on can-tho run `tram token new cai-rang.can-tho", "tramd join --token-file"],
    );
    assert!(!overlay.has_link("CR", "can-tho"));
}
