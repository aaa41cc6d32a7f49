//! The sequence that admins and scripts use: from five empty directories to a receipt that can be checked anywhere.

use std::fs;

use serde_json::Value;
use tram_tests::overlay::{Overlay, heavy};
use tram_tests::sim::Random;

use super::{FAR, HERE, PROGRAM};

const NAME: &str = "Công văn số 12 về việc triển khai đường truyền.docx";

#[test]
fn a_document_crosses_four_hops_and_comes_back_with_receipts_over_ipv4() {
    check_sequence(HERE);
}

#[test]
fn a_document_crosses_four_hops_and_comes_back_with_receipts_over_ipv6() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no ::1");
        return;
    }
    check_sequence("[::1]");
}

fn check_sequence(host: &'static str) {
    let _alone = heavy();
    let overlay = Overlay::tree(PROGRAM, host);
    let text = "Kính gửi: Ủy ban nhân dân các tỉnh, thành phố.\n".repeat(3000);
    let file = overlay.write(NAME, text.as_bytes());
    let send = ["--precedence", "immediate", "--wait", "arrived", "--timeout", "30s"];
    let sent = overlay.send("NK", FAR, &file, &send);
    assert_eq!((sent.code, sent.out.lines().count()), (0, 1), "{sent:?}");
    let id = sent.ok();
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "only the id is printed: {id}");

    let received = overlay.recv("CD", "OUT", 1).ok();
    let out = overlay.path("OUT").join(NAME);
    assert_eq!(received, out.display().to_string());
    assert_eq!(fs::read(out).expect("it is there"), text.as_bytes());

    let trace = overlay.tram("NK", &["trace", &id, "--json"]).json();
    check_trace(&trace, &id);
    check_export(&overlay, &id);
}

/// Right after `recv` returned, so that a script need not wait either.
fn check_trace(trace: &Value, id: &str) {
    assert_eq!((&trace["id"], &trace["state"]), (&id.into(), &"delivered".into()), "{trace:#}");
    let hops = trace["hops"].as_array().expect("a list");
    let said = |key: &str| hops.iter().map(|hop| hop[key].as_str().expect("a text").to_owned()).collect::<Vec<_>>();
    let nodes = ["ninh-kieu.can-tho", "can-tho", "central", "an-giang", "chau-doc.an-giang"];
    assert_eq!(said("node"), nodes, "{trace:#}");
    assert_eq!(said("state"), ["submitted", "relayed", "relayed", "relayed", "delivered"], "{trace:#}");
    let times = said("at");
    assert!(times.iter().all(|at| at.starts_with("20") && at.ends_with('Z')) && times.is_sorted(), "{trace:#}");
    let recipient = &trace["recipients"][0];
    assert_eq!((&recipient["address"], &recipient["state"]), (&FAR.into(), &"delivered".into()), "{trace:#}");
    assert!(recipient["at"].is_string() && recipient.get("reason").is_some(), "{trace:#}");
}

fn check_export(overlay: &Overlay, id: &str) {
    let (file, root) = (overlay.path("r"), overlay.path("C").join("pki").join("root.pem"));
    let (file_text, root_text) = (file.display().to_string(), root.display().to_string());
    let _ = overlay.tram("NK", &["receipt", "export", id, "--out", &file_text]).ok();
    let verify = ["receipt", "verify", &file_text, "--trust", &root_text];
    let said = overlay.tram("NK", &verify).ok();
    assert!(said.contains("valid") && said.contains(id) && said.contains("arrived"), "{said}");

    let good = fs::read(&file).expect("exported");
    let mut random = Random::new(1);
    let somewhere: Vec<usize> = (0..40).map(|_| random.below(good.len() as u64) as usize).collect();
    for at in [0, good.len() / 2, good.len() - 1].into_iter().chain(somewhere) {
        let mut bad = good.clone();
        bad[at] ^= 1 << random.below(8);
        fs::write(&file, &bad).expect("written");
        let ran = overlay.tram("NK", &verify);
        assert_eq!(ran.code, 1, "byte {at} of {} is flipped: {ran:?}", good.len());
        ran.fails(1, &["not valid"]);
    }
    for cut in [0, 1, good.len() - 1] {
        fs::write(&file, &good[..cut]).expect("written");
        overlay.tram("NK", &verify).fails(1, &["not valid"]);
    }
}

#[test]
fn a_lone_node_delivers_to_itself() {
    let overlay = Overlay::new(PROGRAM, HERE);
    // Not even an address: `init` alone.
    let _ = overlay.tramd("init", "A", &["--zone", "tram.internal", "--name", "xa"]).ok();
    overlay.run("A");
    for (name, size) in [("nhỏ.txt", 3), ("lớn.bin", 3_000_000)] {
        let bytes = vec![7; size];
        let file = overlay.write(name, &bytes);
        let _ = overlay.send("A", "vanban@xa", &file, &["--wait", "arrived", "--timeout", "30s"]).ok();
        let _ = overlay.recv("A", "out", 1).ok();
        assert_eq!(fs::read(overlay.path("out").join(name)).expect("it is there"), bytes);
    }
}
