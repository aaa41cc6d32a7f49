//! What an administrator types about certificates, and sees.

use tram_tests::overlay::{Overlay, SOON, until};

use super::{HERE, PROGRAM};

fn central_with(children: &[(&str, &str)]) -> Overlay {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    for (node, name) in children {
        overlay.join(node, name, "province", None);
        overlay.run(node);
        overlay.await_link(node, "central");
    }
    overlay
}

#[test]
fn status_counts_days_and_its_exit_code_is_for_cron() {
    let overlay = central_with(&[("CT", "can-tho")]);
    for node in ["C", "CT"] {
        let status = until("the revocation lists have come", SOON, || {
            let status = overlay.tram(node, &["pki", "status", "--json"]);
            (status.code == 0).then(|| status.json())
        });
        let of = |kind: &str| {
            let all = status["certificates"].as_array().expect("a list");
            all.iter().find(|one| one["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {status}"))["days_left"]
                .clone()
        };
        assert_eq!(
            (of("node"), of("issuer"), of("root"), of("crl")),
            (89.into(), 1825.into(), 7304.into(), 399.into())
        );
        assert_eq!(
            (&status["problems"], &status["rotation"]["root"]["stage"]),
            (&serde_json::json!([]), &"none".into())
        );
        let text = overlay.tram(node, &["pki", "status"]).ok();
        assert!(text.starts_with("all is well") && text.contains("\n89 days"), "{text}");
        assert!(overlay.tram(node, &["status"]).ok().contains("\n89 days"));
    }
    // Locked: said by both, and by the exit code.
    let word = overlay.write("word", b"correct horse battery");
    let _ = overlay.tram("C", &["pki", "lock", "--set", "--passphrase-file", word.to_str().expect("UTF-8")]).ok();
    let _ = overlay.tram("C", &["pki", "lock"]).ok();
    let status = overlay.tram("C", &["pki", "status"]);
    assert!(status.code == 1 && status.out.contains("tram pki unlock"), "{status:?}");
}

#[test]
fn a_certificate_is_renewed_when_an_admin_wants_it() {
    let overlay = central_with(&[("CT", "can-tho")]);
    for node in ["C", "CT"] {
        let file = overlay.path(node).join("pki/node.pem");
        let before = std::fs::read(&file).expect("readable");
        let renewed = overlay.tram(node, &["pki", "renew"]).ok();
        assert!(renewed.starts_with("renewed: good until"), "{renewed}");
        assert_ne!(std::fs::read(&file).expect("readable"), before);
    }
    overlay.await_link("CT", "central");
}

#[test]
fn a_node_is_revoked_by_its_name_and_nothing_else() {
    let overlay = central_with(&[("CT", "can-tho"), ("AG", "an-giang")]);
    let revoke = |which: &str| overlay.tram("C", &["pki", "revoke", which, "--reason", "key-compromise", "--yes"]);
    revoke("ca-mau").fails(65, &["neither the name of a node", "tram pki list"]);
    revoke("central").fails(65, &["does not revoke its own node", "rotate ca begin"]);
    overlay.tram("C", &["pki", "revoke", "can-tho", "--reason", "retired"]).fails(64, &["--yes"]);
    overlay
        .tram("C", &["pki", "revoke", "can-tho", "--reason", "lost", "--yes"])
        .fails(64, &["key-compromise, retired"]);
    overlay.tram("CT", &["pki", "revoke", "an-giang", "--reason", "retired", "--yes"]).fails(1, &["no_authority"]);
    overlay.tram("C", &["pki", "revoke", "--ca", "can-tho", "--reason", "retired", "--yes"]).fails(65, &["no CA"]);

    let told = revoke("can-tho").ok();
    assert!(told.starts_with("can-tho is revoked: "), "{told}");
    until("can-tho is cut off", SOON, || (!overlay.has_link("C", "can-tho")).then_some(()));
    assert!(overlay.has_link("C", "an-giang"));
    let again = revoke("can-tho").ok();
    assert!(again.contains("revoked before"), "{again}");
}

#[test]
fn the_root_is_exchanged_step_by_step() {
    let overlay = central_with(&[("CT", "can-tho")]);
    let rotate = |step: &[&str]| overlay.tram("C", &[&["pki", "rotate", "root"], step].concat());
    rotate(&["switch"]).fails(65, &["rotate root begin"]);
    let _ = rotate(&["begin"]).ok();
    rotate(&["begin"]).fails(65, &["rotate root switch"]);
    until("can-tho trusts both", SOON, || rotate(&["status"]).ok().contains("Every node trusts both").then_some(()));
    overlay.kill("CT");
    let switched = rotate(&["switch", "--json"]).json();
    assert_eq!(switched["root"]["stage"], "switched", "{switched}");
    rotate(&["finish"]).fails(65, &["can-tho", "--abandon"]);
    let _ = rotate(&["finish", "--abandon", "can-tho"]).ok();
    let status = rotate(&["status"]).ok();
    assert!(status.contains("no exchange is under way") && status.contains("can-tho"), "{status}");
    // It was away for the rest, and is believed and learns all the same.
    overlay.run("CT");
    overlay.await_link("CT", "central");
    until("can-tho has said so", SOON, || (!rotate(&["status"]).ok().contains("can-tho")).then_some(()));
}

#[test]
fn a_ca_key_is_exchanged_and_the_old_one_forgotten_when_nobody_uses_it() {
    let mut overlay = central_with(&[("CT", "can-tho")]);
    let rotate = |step: &[&str]| overlay.tram("C", &[&["pki", "rotate", "ca"], step].concat());
    rotate(&["finish"]).fails(65, &["no exchange"]);
    let _ = rotate(&["begin"]).ok();
    until("everyone uses the new key", SOON, || rotate(&["status"]).ok().contains("Nobody uses the old").then_some(()));
    let _ = rotate(&["finish"]).ok();
    assert!(rotate(&["status"]).ok().contains("no exchange is under way"));
    until("nothing is wrong with it", SOON, || (overlay.tram("C", &["pki", "status"]).code == 0).then_some(()));
    let _ = overlay.token("an-giang", "province", None, &[]);
}
