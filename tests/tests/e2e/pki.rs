//! The life of certificates in an overlay of real daemons: delegated, renewed, expired, revoked, exchanged.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tram_tests::overlay::{Overlay, Ran, SOON, free_port, until};

use super::{HERE, PROGRAM};

const DAY_MS: i64 = 24 * 3_600_000;

/// Central, and can-tho with a join address and so with a CA of its own.
pub(super) fn with_province() -> Overlay {
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
pub(super) fn district(overlay: &mut Overlay, node: &str, name: &str) {
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

#[test]
fn a_revoked_district_is_cut_off_everywhere_in_five_seconds_and_a_revoked_province_with_its_subtree() {
    let mut overlay = with_province();
    district(&mut overlay, "NK", "ninh-kieu.can-tho");
    district(&mut overlay, "CR", "cai-rang.can-tho");
    // Linked to two parents at once.
    let central = overlay.listen("C");
    overlay.reconfigure("NK", |text| format!("{text}\n[[uplink]]\nnode = \"central\"\naddresses = [\"{central}\"]\n"));
    let _ = overlay.tram("NK", &["reload"]).ok();
    overlay.await_link("NK", "central");
    overlay.await_link("C", "ninh-kieu.can-tho");

    let revoke = |overlay: &Overlay, at: &str, what: &[&str]| {
        let words = ["--reason", "key-compromise", "--yes"];
        let _ = overlay.tram(at, &[&["pki", "revoke"], what, &words].concat()).ok();
        Instant::now()
    };
    let since = revoke(&overlay, "CT", &["ninh-kieu.can-tho"]);
    for node in ["CT", "C"] {
        until(&format!("{node} has cut it off"), SOON, || (!overlay.has_link(node, "ninh-kieu.can-tho")).then_some(()));
    }
    let took = since.elapsed();
    println!("closed at both parents {took:?} after the command");
    assert!(took < Duration::from_secs(5), "{took:?}");
    overlay.await_log("NK", &["revoked"]);
    overlay.await_log("CT", &["link refused", "revoked"]);
    overlay.await_log("C", &["link refused", "revoked"]);
    assert!(overlay.has_link("CT", "cai-rang.can-tho"));
    // The name is free for another node, the id is not.
    let old = overlay.tram("NK", &["status", "--json"]).json()["node_id"].clone();
    overlay.kill("NK");
    std::fs::rename(overlay.path("NK"), overlay.path("stolen")).expect("moved away");
    district(&mut overlay, "NK", "ninh-kieu.can-tho");
    assert_ne!(overlay.tram("NK", &["status", "--json"]).json()["node_id"], old);

    let since = revoke(&overlay, "C", &["--ca", "can-tho"]);
    for (node, peer) in [("CT", "cai-rang.can-tho"), ("CT", "ninh-kieu.can-tho")] {
        until(&format!("{node} has cut off {peer}"), SOON, || (!overlay.has_link(node, peer)).then_some(()));
    }
    let took = since.elapsed();
    println!("the province's subtree is cut off {took:?} after the command");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // The province's own certificate is central's.
    assert!(overlay.has_link("CT", "central"));
}

#[test]
fn a_root_is_exchanged_under_traffic_and_a_node_that_was_off_comes_back() {
    let mut overlay = with_province();
    overlay.join("AG", "an-giang", "province", None);
    overlay.run("AG");
    overlay.await_link("AG", "central");
    district(&mut overlay, "NK", "ninh-kieu.can-tho");
    district(&mut overlay, "CR", "cai-rang.can-tho");
    for (node, name) in [("CD", "chau-doc.an-giang"), ("LX", "long-xuyen.an-giang")] {
        overlay.join(node, name, "district", Some("AG"));
        overlay.run(node);
        overlay.await_link(node, "an-giang");
    }
    overlay.await_known("C", "chau-doc.an-giang");
    until("all lists are everywhere", SOON, || (overlay.tram("LX", &["pki", "status"]).code == 0).then_some(()));
    overlay.kill("LX");

    let file = overlay.write("a.txt", b"a document");
    let over = AtomicBool::new(false);
    let rotate = |step: &[&str]| overlay.tram("C", &[&["pki", "rotate", "root"], step].concat());
    let (sent, slowest) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let (mut sent, mut slowest) = (0, Duration::ZERO);
            while !over.load(Ordering::Relaxed) || sent < 20 {
                let begin = Instant::now();
                let wait = ["--wait", "arrived", "--timeout", "30s"];
                let _ = overlay.send("NK", "vanban@chau-doc.an-giang", &file, &wait).ok();
                slowest = slowest.max(begin.elapsed());
                sent += 1;
            }
            (sent, slowest)
        });
        let _ = rotate(&["begin"]).ok();
        until("all but the one that is off trust both", SOON, || {
            let status = rotate(&["status"]).ok();
            (status.contains("long-xuyen") && !status.contains("chau-doc") && !status.contains("can-tho")).then_some(())
        });
        let _ = rotate(&["switch"]).ok();
        until("they have heard of the switch", SOON, || {
            let status = rotate(&["status"]).ok();
            (!status.contains("chau-doc") && !status.contains("can-tho")).then_some(())
        });
        rotate(&["finish"]).fails(65, &["long-xuyen.an-giang", "--abandon"]);
        let _ = rotate(&["finish", "--abandon", "long-xuyen.an-giang"]).ok();
        until("they trust the new root alone", SOON, || {
            let roots = |node: &str| {
                let pem = std::fs::read_to_string(overlay.path(node).join("pki/root.pem")).expect("a root");
                pem.matches("BEGIN CERTIFICATE").count()
            };
            ["C", "CT", "AG", "NK", "CR", "CD"].iter().all(|node| roots(node) == 1).then_some(())
        });
        over.store(true, Ordering::Relaxed);
        traffic.join().expect("every document arrived")
    });
    println!("{sent} documents during the exchange, the slowest arrived in {slowest:?}");
    let received = overlay.recv_all("CD", "out").ok();
    assert_eq!(received.lines().count(), sent, "each once");
    // It still trusts the old root only, and learns of the new one at its first link.
    overlay.run("LX");
    overlay.await_link("LX", "an-giang");
    until("it has said so", SOON, || (!rotate(&["status"]).ok().contains("long-xuyen")).then_some(()));
    let _ = overlay.send("LX", "vanban@ninh-kieu.can-tho", &file, &["--wait", "arrived", "--timeout", "30s"]).ok();
    // A newcomer pins the new root.
    let token = overlay.token("ca-mau", "province", None, &[]);
    let _ = overlay.join_with("CM", &token, None).ok();
    overlay.run("CM");
    overlay.await_link("CM", "central");
}

/// A message's export, verified from files alone: exit code and what is said.
fn verified(overlay: &Overlay, file: &Path, at: &str) -> Ran {
    let root = overlay.path(at).join("pki/root.pem");
    until("the bundle is on disk", SOON, || root.with_file_name("bundle.bin").exists().then_some(()));
    let words = ["receipt", "verify", file.to_str().expect("UTF-8"), "--trust", root.to_str().expect("UTF-8")];
    overlay.tram("nobody", &words)
}

#[test]
fn receipts_from_before_an_exchange_of_roots_verify_after_it_but_for_a_stolen_key() {
    let mut overlay = with_province();
    district(&mut overlay, "NK", "ninh-kieu.can-tho");
    let document = overlay.write("a.txt", b"a document");
    let export = |overlay: &Overlay, from: &str, to: &str| {
        let sent = overlay.send(from, to, &document, &["--wait", "arrived", "--timeout", "30s", "--json"]).json();
        let file = overlay.path(&format!("{from}.receipt"));
        let id = sent["id"].as_str().expect("an id");
        let _ = overlay.tram(from, &["receipt", "export", id, "--out", file.to_str().expect("UTF-8")]).ok();
        file
    };
    overlay.await_known("C", "ninh-kieu.can-tho");
    let (of_district, of_central) = (export(&overlay, "NK", "vanban@central"), export(&overlay, "C", "vanban@can-tho"));
    let all = |code: i32| {
        for at in ["C", "CT", "NK"] {
            let said = verified(&overlay, &of_central, at).ok();
            assert!(said.contains("valid") && !said.contains("revoked"), "{said}");
            let ran = verified(&overlay, &of_district, at);
            assert_eq!(ran.code, code, "with the files of {at}: {ran:?}");
        }
    };
    all(0);
    let roots = |node: &str| {
        let pem = std::fs::read_to_string(overlay.path(node).join("pki/root.pem")).expect("a root");
        pem.split_inclusive("-----END CERTIFICATE-----")
            .map(|one| one.trim().to_owned())
            .filter(|one| !one.is_empty())
            .collect::<Vec<_>>()
    };
    let old = roots("NK");
    for step in ["begin", "switch", "finish"] {
        until(&format!("{step} is possible"), SOON, || {
            (overlay.tram("C", &["pki", "rotate", "root", step]).code == 0).then_some(())
        });
    }
    until("all trust the new root alone", SOON, || {
        let done = |node: &&str| roots(node).len() == 1 && roots(node) != old;
        ["C", "CT", "NK"].iter().all(done).then_some(())
    });
    all(0);
    let words = ["pki", "revoke", "ninh-kieu.can-tho", "--reason", "key-compromise", "--yes"];
    let _ = overlay.tram("CT", &words).ok();
    for at in ["C", "CT"] {
        until(&format!("{at} has the list on its disk"), SOON, || {
            (verified(&overlay, &of_district, at).code == 1).then_some(())
        });
        verified(&overlay, &of_district, at).fails(1, &["the key of ninh-kieu.can-tho was reported stolen at"]);
        let said = verified(&overlay, &of_central, at).ok();
        assert!(said.contains("valid") && !said.contains("revoked"), "{said}");
    }
}
