//! An office gets another name: mail to either reaches it, and what it says is believed.

use std::fs;
use std::path::Path;

use tram_tests::overlay::{Overlay, SOON, until};

use super::pki::{district, with_province};
use super::{HERE, PROGRAM};

const OLD: &str = "ninh-kieu.can-tho";
const NEW: &str = "tan-an.can-tho";

/// A message's id, once its origin has taken it.
fn send(overlay: &Overlay, from: &str, to: &str, file: &Path) -> String {
    let sent = overlay.send(from, &format!("vanban@{to}"), file, &["--json"]).json();
    sent["id"].as_str().expect("an id").to_owned()
}

fn await_delivered(overlay: &Overlay, at: &str, id: &str, recipients: usize) {
    until(&format!("{at} believes that {id} was delivered"), SOON, || {
        let receipts = overlay.tram(at, &["receipt", "show", id, "--json"]).json()["receipts"].clone();
        let delivered = receipts.as_array()?.iter().filter(|one| one["state"] == "delivered");
        (delivered.count() == recipients).then_some(())
    });
}

#[test]
fn a_renamed_office_takes_mail_under_both_names_and_its_receipts_are_believed() {
    let mut overlay = with_province();
    district(&mut overlay, "NK", OLD);
    district(&mut overlay, "CR", "cai-rang.can-tho");
    let file = overlay.write("a.txt", b"a document");
    overlay.kill("NK");
    let mut sent: Vec<(&str, String)> = Vec::new();
    for from in ["C", "CT", "CR"] {
        sent.push((from, send(&overlay, from, OLD, &file)));
    }
    // A child that is off hears of it when it comes back; the machine renews by itself then.
    let said = overlay.tram("CT", &["pki", "rename", OLD, NEW]).ok();
    assert!(said.contains(NEW) && said.contains("90 days"), "{said}");
    // Its name still means the office.
    overlay.tram("CT", &["token", "new", OLD, "--role", "district"]).fails(65, &["former name", NEW]);
    overlay.run("NK");
    overlay.await_link("NK", "can-tho");
    overlay.await_log("NK", &["another name from its next start on", NEW, "restart"]);
    overlay.tram("NK", &["status", "--check"]).fails(1, &[NEW, "restart it"]);
    for from in ["C", "CT", "CR"] {
        sent.push((from, send(&overlay, from, NEW, &file)));
        sent.push((from, send(&overlay, from, OLD, &file)));
    }
    let _ = overlay.recv("NK", "before", sent.len()).ok();
    sent.iter().for_each(|(from, id)| await_delivered(&overlay, from, id, 1));

    let before = sent.len();
    overlay.kill("NK");
    for from in ["C", "CT", "CR"] {
        sent.push((from, send(&overlay, from, OLD, &file)));
        sent.push((from, send(&overlay, from, NEW, &file)));
    }
    overlay.run("NK");
    overlay.await_link("NK", "can-tho");
    overlay.await_link("CT", NEW);
    let _ = overlay.tram("NK", &["status", "--check"]).ok();
    for from in ["C", "CT", "CR"] {
        sent.push((from, send(&overlay, from, OLD, &file)));
    }
    // To both, once.
    let both = ["--to", &format!("vanban@{NEW}"), "--json"];
    let both = overlay.send("CR", &format!("vanban@{OLD}"), &file, &both).json();
    let both = both["id"].as_str().expect("an id").to_owned();
    let own = send(&overlay, "NK", OLD, &file);
    let _ = overlay.recv("NK", "after", sent.len() - before + 2).ok();
    sent.iter().for_each(|(from, id)| await_delivered(&overlay, from, id, 1));
    await_delivered(&overlay, "NK", &own, 1);
    await_delivered(&overlay, "CR", &both, 2);
    assert_eq!(overlay.recv_all("NK", "more").ok(), "", "each once");

    // An application says what became of a document that went to the old name.
    let (_, id) = sent.iter().rfind(|(from, _)| *from == "CR").expect("one from there");
    let _ = overlay.tram("NK", &["message", "status", id, "--code", "3", "--text", "done"]).ok();
    until("the status comes home", SOON, || {
        overlay.tram("CR", &["receipt", "show", id]).ok().contains("done").then_some(())
    });
    let listed = overlay.tram("NK", &["message", "list", "--json"]).json();
    assert!(listed.to_string().matches("received").count() >= sent.len(), "{listed}");

    // A file of receipts holds where the bundle tells of the rename, and is not taken on trust elsewhere.
    let (export, root) = (overlay.path("r"), overlay.path("CR/pki/root.pem"));
    let text = |path: &Path| path.display().to_string();
    let _ = overlay.tram("CR", &["receipt", "export", id, "--out", &text(&export)]).ok();
    let _ = overlay.tram("CR", &["receipt", "verify", &text(&export), "--trust", &text(&root)]).ok();
    let alone = overlay.path("alone.pem");
    let _ = fs::copy(&root, &alone).expect("copied");
    let verify = ["receipt", "verify", &text(&export), "--trust", &text(&alone)];
    overlay.tram("CR", &verify).fails(1, &["not valid", "was called ninh-kieu.can-tho", "`pki` directory"]);
}

#[test]
fn children_reach_a_renamed_uplink_by_the_name_in_their_configuration() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("AG", "an-giang", "province", None);
    overlay.run("AG");
    overlay.await_link("AG", "central");
    overlay.join("CD", "chau-doc.an-giang", "district", Some("AG"));
    overlay.run("CD");
    overlay.await_link("CD", "an-giang");
    let _ = overlay.tram("C", &["pki", "rename", "an-giang", "long-xuyen"]).ok();
    overlay.await_log("AG", &["another name from its next start on"]);
    overlay.kill("AG");
    overlay.run("AG");
    overlay.await_link("CD", "long-xuyen");
    assert!(!overlay.links("CD").iter().any(|link| link["peer"] == "an-giang"), "shown once");
    let file = overlay.write("a.txt", b"a document");
    let id = send(&overlay, "CD", "an-giang", &file);
    let _ = overlay.recv("AG", "out", 1).ok();
    await_delivered(&overlay, "CD", &id, 1);
}
