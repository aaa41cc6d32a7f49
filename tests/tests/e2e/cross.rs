//! A province that began alone, with a root of its own, comes under central's. Nobody joins a second time.

use std::fs;

use tram_tests::overlay::{Overlay, SOON, until};

use super::{HERE, PROGRAM};

/// The district `ninh-kieu.can-tho`, its commune, and a district that will be off.
const BELOW: [(&str, &str, &str); 3] = [
    ("NK", "ninh-kieu.can-tho", "district"),
    ("AC", "an-cu.ninh-kieu.can-tho", "commune"),
    ("PD", "phong-dien.can-tho", "district"),
];

fn text(overlay: &Overlay, file: &str) -> String {
    fs::read_to_string(overlay.path(file)).expect("readable")
}

/// A node's leaf, key and id, which nothing may change.
fn self_of(overlay: &Overlay, node: &str) -> [String; 3] {
    let chain = text(overlay, &format!("{node}/pki/node.pem"));
    let leaf = chain.split_inclusive("END CERTIFICATE").next().expect("a certificate").to_owned();
    let file = overlay.path(&format!("{node}/pki/node.pem")).display().to_string();
    let shown = overlay.tram(node, &["pki", "show", &file]).ok();
    let id = shown.lines().find(|line| line.starts_with("id ")).expect("an id").to_owned();
    [leaf, text(overlay, &format!("{node}/pki/node.key")), id]
}

/// Central `C`, and `CT`, which was set up with a root of its own; both run.
fn two_overlays() -> Overlay {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let (listen, join) = (overlay.listen("CT"), overlay.listen("join-CT"));
    let init = ["--zone", "tram.internal", "--name", "can-tho", "--role", "province"];
    let at = ["--listen", &listen, "--join-listen", &join];
    overlay
        .tramd("init", "CT", &[&init[..4], &["--role", "district"], &at].concat())
        .fails(64, &["central or a province"]);
    let _ = overlay.tramd("init", "CT", &[&init[..], &at].concat()).ok();
    overlay.run("CT");
    overlay
}

fn join(overlay: &mut Overlay, (node, name, role): (&str, &str, &str), uplink: (&str, &str)) {
    let at = format!("{}@{}", uplink.1, overlay.listen(uplink.0));
    let token = overlay.tram("CT", &["token", "new", name, "--role", role, "--uplink", &at]).ok();
    let token = overlay.write(format!("{name}.token"), token.as_bytes());
    let listen = (role == "district").then(|| overlay.listen(node));
    let _ = overlay.join_with(node, &token, listen.as_deref()).ok();
    overlay.run(node);
    overlay.await_link(node, uplink.1);
}

/// The two files and the two fingerprints.
fn cross(overlay: &Overlay) {
    let [request, answer] = ["request", "answer"].map(|name| overlay.path(name).display().to_string());
    let step = |node: &str, args: &[&str]| overlay.tram(node, &[&["pki", "join-overlay"], args].concat());
    let asked = step("CT", &["request", "--out", &request, "--json"]).json();
    let fingerprint = asked["fingerprint"].as_str().expect("digits");
    let signed = step("C", &["sign", &request, "--out", &answer, "--fingerprint", fingerprint, "--json"]).json();
    let root = signed["root_fingerprint"].as_str().expect("digits");
    let _ = step("CT", &["accept", &answer, "--fingerprint", root]).ok();
}

fn add_uplink(overlay: &mut Overlay) {
    let uplink = format!("\n[[uplink]]\nnode = \"central\"\naddresses = [\"{}\"]\n", overlay.listen("C"));
    overlay.reconfigure("CT", |config| config + &uplink);
}

#[track_caller]
fn await_delivered(overlay: &Overlay, node: &str, id: &str) {
    until("a receipt for it is believed", SOON, || {
        let trace = overlay.tram(node, &["trace", id, "--json"]).json();
        (trace["state"] == "delivered").then_some(())
    });
}

#[test]
fn a_province_that_began_alone_joins_with_all_its_nodes_as_they_are() {
    let mut overlay = two_overlays();
    overlay.join("AG", "an-giang", "province", None);
    overlay.run("AG");
    overlay.await_link("AG", "central");
    for (node, parent) in BELOW.into_iter().zip([("CT", "can-tho"), ("NK", "ninh-kieu.can-tho"), ("CT", "can-tho")]) {
        join(&mut overlay, node, parent);
    }
    // A name outside the province's is nobody's to admit here.
    overlay.tram("CT", &["token", "new", "ca-mau", "--role", "province"]).fails(65, &["ca-mau"]);
    let document = overlay.write("alone.txt", b"within the province");
    let id = overlay.send("AC", "vanban@can-tho", &document, &["--wait", "arrived", "--timeout", "30s"]).ok();
    let _ = overlay.recv("CT", "at-CT", 1).ok();
    await_delivered(&overlay, "AC", id.trim());

    // Under way while everything happens: up to a name outside, and down to a district that is off.
    overlay.kill("PD");
    let up = overlay.send("AC", "vanban@an-giang", &overlay.write("up.txt", b"up"), &[]).ok();
    let down = overlay.send("AC", "vanban@phong-dien.can-tho", &overlay.write("down.txt", b"down"), &[]).ok();
    let nodes = ["CT", "NK", "AC", "PD"];
    let before = nodes.map(|node| self_of(&overlay, node));
    cross(&overlay);
    add_uplink(&mut overlay);
    overlay.kill("CT");
    overlay.run("CT");
    overlay.await_link("CT", "central");

    let _ = overlay.recv("AG", "at-AG", 1).ok();
    assert_eq!(text(&overlay, "at-AG/up.txt"), "up");
    await_delivered(&overlay, "AC", up.trim());
    // Down again, and from central to the province itself, whose name it has not registered.
    let back = overlay.write("back.txt", b"back");
    for (from, node, to) in [("AG", "AC", "an-cu.ninh-kieu.can-tho"), ("C", "CT", "can-tho"), ("AC", "C", "central")] {
        let id = overlay.send(from, &format!("vanban@{to}"), &back, &["--wait", "arrived", "--timeout", "60s"]).ok();
        let _ = overlay.recv(node, &format!("back-{node}"), 1).ok();
        await_delivered(&overlay, from, id.trim());
    }

    // The one that was off all the while trusts but the old root, and comes back by itself.
    let root = text(&overlay, "C/pki/root.pem");
    assert_ne!(text(&overlay, "PD/pki/root.pem"), root);
    overlay.run("PD");
    overlay.await_link("PD", "can-tho");
    let _ = overlay.recv("PD", "at-PD", 1).ok();
    await_delivered(&overlay, "AC", down.trim());
    for node in nodes {
        until(&format!("{node} trusts central's root and no other"), SOON, || {
            (text(&overlay, &format!("{node}/pki/root.pem")) == root).then_some(())
        });
    }
    let id = overlay.send("PD", "vanban@an-giang", &back, &["--wait", "arrived", "--timeout", "60s"]).ok();
    let _ = overlay.recv("AG", "from-PD", 1).ok();
    await_delivered(&overlay, "PD", id.trim());
    assert_eq!(nodes.map(|node| self_of(&overlay, node)), before, "no node was enrolled again");

    // From now on it lives like any province: it admits, renews, and can be revoked as a whole.
    let _ = overlay.tram("CT", &["token", "new", "cai-rang.can-tho", "--role", "district"]).ok();
    for node in ["NK", "CT"] {
        let _ = overlay.tram(node, &["pki", "renew"]).ok();
    }
    for node in ["C", "CT"] {
        until("nothing is wrong", SOON, || (overlay.tram(node, &["pki", "status"]).code == 0).then_some(()));
    }
    let _ = overlay.tram("CT", &["pki", "revoke", "phong-dien.can-tho", "--reason", "retired", "--yes"]).ok();
    until("the district is cut off", SOON, || (!overlay.has_link("CT", "phong-dien.can-tho")).then_some(()));
    overlay.tram("C", &["token", "new", "can-tho", "--role", "province"]).fails(65, &["can-tho has a CA of its own"]);
    let revoke = ["pki", "revoke", "can-tho", "--reason", "retired", "--yes"];
    overlay.tram("C", &revoke).fails(65, &["revoke --ca can-tho"]);
    let _ = overlay.tram("C", &[&revoke[..], &["--ca"]].concat()).ok();
    until("the province is cut off", SOON, || (!overlay.has_link("C", "can-tho")).then_some(()));
}

#[test]
fn what_a_person_did_not_compare_or_what_clashes_is_refused() {
    let overlay = two_overlays();
    let [request, answer] = ["request", "answer"].map(|name| overlay.path(name).display().to_string());
    let step = |node: &str, args: &[&str]| overlay.tram(node, &[&["pki", "join-overlay"], args].concat());
    step("C", &["request", "--out", &request]).fails(65, &["central", "--role province"]);
    let said = step("CT", &["request", "--out", &request]).ok();
    assert!(said.starts_with("fingerprint of the request: "), "{said}");
    let sign = ["sign", &request, "--out", &answer];
    let wrong = ["--fingerprint", "00000 00000 00000 00000 00000 00000"];
    step("C", &[&sign[..], &wrong].concat()).fails(77, &["another fingerprint"]);
    step("C", &sign).fails(64, &["--fingerprint"]);

    // Names of the province are in use here.
    let _ = overlay.tram("C", &["token", "new", "phong-dien.can-tho", "--role", "district"]).ok();
    step("C", &[&sign[..], &["--yes"]].concat()).fails(65, &["phong-dien.can-tho", "cancel their tokens"]);
    let _ = overlay.tram("C", &["token", "cancel", "phong-dien.can-tho"]).ok();
    let key = overlay.path("CT/pki/root.key").display().to_string();
    step("C", &[&sign[..], &["--yes", "--key", &key]].concat()).fails(78, &["root.key"]);
    assert!(!overlay.path("answer").exists());
    let _ = step("C", &[&sign[..], &["--yes"]].concat()).ok();
    step("CT", &[&["accept", &answer][..], &wrong].concat()).fails(77, &["another fingerprint"]);
    step("CT", &["accept", &request, "--yes"]).fails(65, &["not the answer to a request of this overlay"]);
    step("C", &["accept", &answer, "--yes"]).fails(65, &["not the answer to a request of this overlay"]);
    // It is nothing that a node takes without its own root's signature.
    overlay.tram("CT", &["pki", "install", &answer]).fails(1, &["has not signed"]);
    assert_ne!(text(&overlay, "CT/pki/root.pem"), text(&overlay, "C/pki/root.pem"));
}

#[test]
fn it_works_while_both_daemons_are_stopped() {
    let mut overlay = two_overlays();
    join(&mut overlay, BELOW[0], ("CT", "can-tho"));
    for node in ["C", "CT"] {
        overlay.kill(node);
    }
    cross(&overlay);
    assert!(overlay.path("CT/pki/root-alone.key").exists() && !overlay.path("CT/pki/root.key").exists());
    add_uplink(&mut overlay);
    for node in ["C", "CT"] {
        overlay.run(node);
    }
    overlay.await_link("CT", "central");
    overlay.await_link("NK", "can-tho");
    let file = overlay.write("a.txt", b"a");
    let sent = overlay.send("NK", "vanban@central", &file, &["--wait", "arrived", "--timeout", "60s"]).ok();
    let _ = overlay.recv("C", "at-C", 1).ok();
    await_delivered(&overlay, "NK", sent.trim());
    // Who joins now pins central's root.
    join(&mut overlay, BELOW[2], ("CT", "can-tho"));
    assert_eq!(text(&overlay, "PD/pki/root.pem"), text(&overlay, "C/pki/root.pem"));
}
