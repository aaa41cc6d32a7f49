//! What an administrator types about certificates, and sees.

use tram_tests::overlay::{Overlay, SOON, free_port, until};

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
    // Each at its own time within a minute.
    let spread = std::time::Duration::from_secs(60);
    until("everyone uses the new key", SOON + spread, || {
        rotate(&["status"]).ok().contains("Nobody uses the old").then_some(())
    });
    let _ = rotate(&["finish"]).ok();
    assert!(rotate(&["status"]).ok().contains("no exchange is under way"));
    until("nothing is wrong with it", SOON, || (overlay.tram("C", &["pki", "status"]).code == 0).then_some(()));
    let _ = overlay.token("an-giang", "province", None, &[]);
}

#[test]
fn nodes_are_listed_with_their_days_and_shown_one_by_one() {
    let overlay = central_with(&[("CT", "can-tho"), ("AG", "an-giang")]);
    let _ = overlay.tram("C", &["pki", "revoke", "an-giang", "--reason", "retired", "--yes"]).ok();
    let listed = until("can-tho is heard of", SOON, || {
        let listed = overlay.tram("C", &["pki", "list", "--json"]).json();
        let seen =
            listed["nodes"].as_array().expect("a list").iter().any(|n| n["name"] == "can-tho" && !n["seen"].is_null());
        seen.then_some(listed)
    });
    let node =
        |name: &str| listed["nodes"].as_array().expect("a list").iter().find(|n| n["name"] == name).expect("listed");
    let can_tho = node("can-tho");
    assert_eq!((&can_tho["days_left"], &can_tho["registered"]), (&89.into(), &true.into()), "{can_tho}");
    assert_eq!((&node("an-giang")["revoked"], &can_tho["revoked"]), (&true.into(), &false.into()));
    let names = |args: &[&str]| -> Vec<String> {
        let listed = overlay.tram("C", &[&["pki", "list", "--json"], args].concat()).json();
        let nodes = listed["nodes"].as_array().expect("a list").iter();
        nodes.map(|n| n["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&["--subtree", "can-tho"]), ["can-tho"]);
    assert_eq!((names(&["--expiring", "30d"]).len(), names(&["--expiring", "91d"]).len()), (0, 3));

    // By name, by serial number, and a file with no daemon at all.
    let serial = can_tho["serial"].as_str().expect("a serial number");
    for which in ["can-tho", serial, &serial.to_uppercase()] {
        let shown = overlay.tram("C", &["pki", "show", which, "--json"]).json();
        assert_eq!((&shown["node"]["name"], &shown["certificates"][0]["serial"]), (&"can-tho".into(), &serial.into()));
    }
    overlay.tram("C", &["pki", "show", "ca-mau"]).fails(1, &["no node or serial number"]);
    let file = overlay.path("CT/pki/node.pem").display().to_string();
    let text = overlay.tram("nobody", &["pki", "show", &file]).ok();
    assert!(text.contains("node can-tho (province)") && text.contains("CA of the overlay"), "{text}");
    let root = overlay.tram("nobody", &["pki", "show", &overlay.path("CT/pki/root.pem").display().to_string()]).ok();
    assert!(root.contains("fingerprint") && root.contains("7304 days"), "{root}");
    let junk = overlay.write("junk", b"junk").display().to_string();
    overlay.tram("nobody", &["pki", "show", &junk]).fails(65, &["junk"]);
}

#[test]
fn a_renamed_node_keeps_its_id_and_takes_its_name_at_its_next_start() {
    let overlay = central_with(&[("CT", "can-tho")]);
    let id = |name: &str| overlay.tram("C", &["pki", "show", name, "--json"]).json()["node"]["id"].clone();
    let before = id("can-tho");
    overlay.tram("C", &["pki", "rename", "ca-mau", "hau-giang"]).fails(65, &["neither the name of a node"]);
    overlay.tram("C", &["pki", "rename", "can-tho", "central"]).fails(65, &["another node has it"]);
    let _ = overlay.tram("C", &["pki", "rename", "can-tho", "tay-do", "--alias-days", "30"]).ok();
    let renewed = overlay.tram("CT", &["pki", "renew"]).ok();
    assert!(renewed.contains("renewed as tay-do"), "{renewed}");
    assert!(overlay.has_link("CT", "central"), "it goes on under its old name until it starts again");
    let status = overlay.tram("CT", &["pki", "status"]);
    assert!(status.code == 1 && status.out.contains("tay-do from its next start on"), "{status:?}");
    overlay.kill("CT");
    overlay.run("CT");
    overlay.await_link("CT", "central");
    overlay.await_known("C", "tay-do");
    let file = overlay.write("a.txt", b"a");
    let _ = overlay.send("C", "vanban@tay-do", &file, &["--wait", "arrived", "--timeout", "30s"]).ok();
    assert_eq!(id("tay-do"), before);
}

/// can-tho with a join address, which issues.
fn province_with_ca(overlay: &mut Overlay) {
    join_as_province(overlay);
    until("can-tho has a CA", SOON, || {
        (overlay.tram("CT", &["token", "new", "ninh-kieu.can-tho", "--role", "district"]).code == 0).then_some(())
    });
}

fn join_as_province(overlay: &mut Overlay) {
    let token = overlay.token("can-tho", "province", None, &[]).display().to_string();
    let (listen, join) = (overlay.listen("CT"), format!("{HERE}:{}", free_port(HERE)));
    let _ = overlay.tramd("join", "CT", &["--token-file", &token, "--listen", &listen, "--join-listen", &join]).ok();
    overlay.run("CT");
    overlay.await_link("CT", "central");
}

/// can-tho with a join address, whose CA waits because the root's key is on a stick.
fn with_the_root_in_a_safe() -> Overlay {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let stick = overlay.path("stick.key").display().to_string();
    let _ = overlay.tram("C", &["pki", "root", "export", "--remove", &stick]).ok();
    assert!(!overlay.path("C/pki/root.key").exists());
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&stick).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    overlay.tram("C", &["pki", "root", "export", "--remove", &stick]).fails(66, &["root.key"]);
    overlay.tram("C", &["pki", "rotate", "root", "begin"]).fails(65, &["root's key is not here"]);
    join_as_province(&mut overlay);
    until("can-tho waits for its CA", SOON, || {
        let status = overlay.tram("C", &["pki", "status"]);
        (status.code == 1 && status.out.contains("tram pki root sign")).then_some(())
    });
    overlay
}

#[test]
fn a_province_gets_its_ca_and_loses_it_by_file_with_the_root_key_in_a_safe() {
    let overlay = with_the_root_in_a_safe();
    let at = |name: &str| overlay.path(name).display().to_string();
    let listed = overlay.tram("C", &["pki", "requests", "--out", &at(""), "--json"]).json();
    let (file, print) = (listed["requests"][0]["file"].as_str(), listed["requests"][0]["fingerprint"].as_str());
    let (file, print) = (file.expect("a file"), print.expect("a fingerprint"));

    // Where the key is there is no node and no network: only the two files.
    let sign = |request: &str, key: &str, more: &[&str]| {
        let (key, out) = (at(key), at("can-tho.ca"));
        let args = ["pki", "root", "sign", request, "--key", &key, "--out", &out];
        overlay.tram("nobody", &[&args[..], more].concat())
    };
    sign(file, "stick.key", &[]).fails(64, &["--fingerprint"]);
    sign(file, "stick.key", &["--fingerprint", "00000 00000"]).fails(77, &["another fingerprint"]);
    sign(file, "C/pki/ca.key", &["--fingerprint", print]).fails(78, &["ca.key"]);
    assert!(!overlay.path("can-tho.ca").exists());
    let _ = sign(file, "stick.key", &["--fingerprint", print]).ok();
    let installed = overlay.tram("C", &["pki", "install", &at("can-tho.ca")]).ok();
    assert!(installed.contains("1 object was new"), "{installed}");
    until("can-tho has its CA", SOON, || overlay.path("CT").join("pki/ca.pem").exists().then_some(()));
    until("all is well again", SOON, || (overlay.tram("C", &["pki", "status"]).code == 0).then_some(()));
    assert!(overlay.tram("C", &["pki", "install", &at("can-tho.ca")]).ok().contains("1 known before"));
    until("can-tho issues", SOON, || {
        (overlay.tram("CT", &["token", "new", "ninh-kieu.can-tho", "--role", "district"]).code == 0).then_some(())
    });

    // And back.
    overlay.tram("C", &["pki", "revoke", "--ca", "can-tho", "--reason", "retired", "--yes"]).fails(65, &["crl sign"]);
    let _ = overlay.tram("C", &["pki", "bundle", "export", &at("bundle")]).ok();
    let sign = |province: &str| {
        let (key, bundle, out) = (at("stick.key"), at("bundle"), at("list"));
        let what = ["--revoke", province, "--reason", "key-compromise"];
        let args = ["pki", "crl", "sign", "--key", &key, "--bundle", &bundle, "--out", &out];
        overlay.tram("nobody", &[&args[..], &what[..]].concat())
    };
    sign("an-giang").fails(65, &["no CA"]);
    let _ = sign("can-tho").ok();
    let _ = overlay.tram("C", &["pki", "install", &at("list")]).ok();
    let shown = overlay.tram("C", &["pki", "crl", "show"]).ok();
    assert!(shown.contains("key-compromise"), "{shown}");
    let shown = overlay.tram("C", &["pki", "bundle", "show"]).ok();
    assert!(shown.contains("revoked") && shown.contains("can-tho"), "{shown}");
    let _ = overlay.tram("C", &["pki", "crl", "export", "root", "--out", &at("root.crl")]).ok();
    assert!(std::fs::read_to_string(at("root.crl")).expect("there").starts_with("-----BEGIN X509 CRL-----"));
    // Put back, the key makes no list that names less.
    std::fs::copy(at("stick.key"), at("C/pki/root.key")).expect("copied");
    overlay.kill("C");
    overlay.run("C");
    let shown = overlay.tram("C", &["pki", "crl", "show"]).ok();
    assert!(shown.contains("key-compromise"), "{shown}");
}

#[test]
fn a_pending_request_is_signed_and_installed_where_it_waits() {
    let overlay = with_the_root_in_a_safe();
    let key = overlay.path("stick.key").display().to_string();
    overlay.tram("C", &["pki", "root", "sign", "--pending", "an-giang", "--key", &key]).fails(1, &["does not wait"]);
    let _ = overlay.tram("C", &["pki", "root", "sign", "--pending", "can-tho", "--key", &key]).ok();
    until("can-tho has its CA", SOON, || overlay.path("CT").join("pki/ca.pem").exists().then_some(()));
}

#[test]
fn a_node_that_missed_the_exchange_of_a_stolen_root_gets_the_new_one_by_hand() {
    let mut overlay = central_with(&[("AG", "an-giang")]);
    province_with_ca(&mut overlay);
    overlay.kill("CT");
    overlay.tram("C", &["pki", "rotate", "root", "begin", "--compromised"]).fails(64, &["--yes"]);
    let done = overlay.tram("C", &["pki", "rotate", "root", "begin", "--compromised", "--yes"]).ok();
    assert!(done.contains("root install") && done.contains("\n  can-tho") && !done.contains("\n  an-giang"), "{done}");
    // Who was linked starts again as ever.
    overlay.kill("AG");
    overlay.run("AG");
    overlay.await_link("AG", "central");

    let root = overlay.path("C/pki/root.pem").display().to_string();
    overlay.tram("CT", &["pki", "root", "install", &root]).fails(64, &["--fingerprint"]);
    overlay.tram("CT", &["pki", "root", "install", &root, "--yes"]).fails(65, &["tram pki bundle export"]);
    let file = overlay.path("bundle").display().to_string();
    let _ = overlay.tram("C", &["pki", "bundle", "export", &file]).ok();
    let _ = overlay.tram("CT", &["pki", "root", "install", &file, "--yes"]).ok();
    overlay.run("CT");
    overlay.await_link("CT", "central");
    until("its CA issues as before", SOON, || {
        (overlay.tram("CT", &["token", "new", "cai-rang.can-tho", "--role", "district"]).code == 0).then_some(())
    });
    overlay.kill("CT");
    overlay.run("CT");
    overlay.await_link("CT", "central");
}

#[test]
fn a_machine_that_reaches_only_its_parent_joins_through_it() {
    let mut overlay = central_with(&[]);
    province_with_ca(&mut overlay);
    let district = overlay.tram("CT", &["token", "new", "ninh-kieu.can-tho", "--role", "district"]).ok();
    let district = overlay.write("nk.token", district.as_bytes()).display().to_string();
    let (listen, join) = (overlay.listen("NK"), format!("{HERE}:{}", free_port(HERE)));
    let _ = overlay.tramd("join", "NK", &["--token-file", &district, "--listen", &listen, "--join-listen", &join]).ok();
    overlay.run("NK");
    overlay.await_link("NK", "can-tho");
    until("can-tho has heard of it", SOON, || {
        let nodes = overlay.tram("CT", &["pki", "list", "--json"]).json()["nodes"].clone();
        let seen = |n: &serde_json::Value| n["name"] == "ninh-kieu.can-tho" && !n["seen"].is_null();
        nodes.as_array().expect("a list").iter().any(seen).then_some(())
    });
    let uplink = format!("ninh-kieu.can-tho@{listen}");
    let args = ["token", "new", "an-cu.ninh-kieu.can-tho", "--role", "commune", "--uplink", &uplink];
    let commune = overlay.tram("CT", &args).ok();
    overlay.await_log("NK", &["joins are passed on while a token needs it"]);
    let commune = overlay.write("ac.token", commune.as_bytes());
    let _ = overlay.join_with("AC", &commune, None).ok();
    overlay.await_log("NK", &["a joining machine is passed on"]);
    overlay.run("AC");
    overlay.await_link("AC", "ninh-kieu.can-tho");
}

/// What goes to the daemon in one call is about a mebibyte.
#[test]
fn a_bundle_of_more_than_one_call_is_installed_whole() {
    let overlay = central_with(&[("CT", "can-tho")]);
    let file = overlay.path("bundle");
    let file = file.to_str().expect("UTF-8");
    let _ = overlay.tram("C", &["pki", "bundle", "export", file]).ok();
    let one = overlay.tram("C", &["pki", "install", file, "--json"]).json()["known"].as_u64().expect("a count");
    let bytes = std::fs::read(file).expect("exported");
    let times = 4 * 1024 * 1024 / bytes.len() + 1;
    let long = overlay.write("long", &bytes.repeat(times));
    let installed = overlay.tram("C", &["pki", "install", long.to_str().expect("UTF-8"), "--json"]).json();
    let known = one * times as u64;
    assert!(one > 2 && installed == serde_json::json!({ "taken": 0, "known": known, "refused": [] }), "{installed}");
}
