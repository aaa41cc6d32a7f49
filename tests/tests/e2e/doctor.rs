//! `tram doctor` on real nodes: in order, with faults, and stopped; in both languages.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;

use tram_tests::overlay::{Overlay, Ran, until};

use super::config_commands::{tram_beside_tramd, with_tramd};
use super::{HERE, PROGRAM};

/// What this machine itself lacks: the test cannot change its kernel.
fn of_machine() -> Vec<String> {
    let small = |file: &&str| {
        let text = fs::read_to_string(format!("/proc/sys/net/core/{file}")).unwrap_or_default();
        text.trim().parse::<u64>().is_ok_and(|bytes| bytes < 1 << 20)
    };
    ["rmem_max", "wmem_max"].into_iter().filter(small).map(|_| "socket_buffers".to_owned()).collect()
}

/// The codes that are found of a node beside those of the machine; the exit code says whether there are any.
#[track_caller]
fn codes(overlay: &Overlay, node: &str) -> Vec<String> {
    let ran = Ran::of(tram_beside_tramd(overlay, node).args(["doctor", "--json"]));
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!(answer["schema"], "tram.doctor/v1");
    let all = answer["findings"].as_array().expect("a list");
    assert_eq!(ran.code, i32::from(!all.is_empty()), "{ran:?}");
    let codes = all.iter().map(|one| one["code"].as_str().expect("a word").to_owned());
    codes.filter(|code| !of_machine().contains(code)).collect()
}

fn text(overlay: &Overlay, node: &str, variable: &str, more: &[&str]) -> Ran {
    Ran::of(
        tram_beside_tramd(overlay, node)
            .arg("doctor")
            .args(more)
            .env_remove("LC_ALL")
            .env_remove("LC_MESSAGES")
            .env("LANG", variable),
    )
}

#[test]
fn a_node_in_order_has_no_findings_and_each_fault_is_one() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    with_tramd(&overlay);
    overlay.join("CT", "can-tho", "province", None);
    overlay.run("CT");
    overlay.await_link("CT", "central");
    // Lists of the CA come over the link.
    until("the province has all it needs", tram_tests::overlay::SOON, || {
        let status = overlay.tram("CT", &["status", "--json"]).json();
        status["problems"].as_array().expect("a list").is_empty().then_some(())
    });
    for node in ["C", "CT"] {
        assert_eq!(codes(&overlay, node), [""; 0], "{node}");
    }
    let machine = i32::from(!of_machine().is_empty());
    let (english, vietnamese) = (text(&overlay, "CT", "C.UTF-8", &[]), text(&overlay, "CT", "vi_VN.UTF-8", &[]));
    assert_eq!((english.code, vietnamese.code), (machine, machine));
    assert!(
        english.out.contains("well: clock (central: ") && vietnamese.out.contains("tốt: đồng hồ"),
        "{vietnamese:?}"
    );

    let key = overlay.path("CT").join("pki/node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("changed");
    fs::create_dir_all(overlay.path("CT").join("conf.d")).expect("made");
    fs::write(overlay.path("CT").join("conf.d/10.toml.bak"), "").expect("written");
    overlay.reconfigure("CT", |text| text.replace("title = \"\"", "title = \"Cần Thơ\""));
    let mut found = codes(&overlay, "CT");
    found.sort();
    assert_eq!(found, ["config_ignored", "config_waits", "mode"]);
    let said = text(&overlay, "CT", "vi_VN.UTF-8", &[]);
    assert!(said.out.contains("quyền 0644") && said.out.contains("cách xử lý: `chmod 0600 "), "{said:?}");
    let said = text(&overlay, "CT", "vi_VN.UTF-8", &["--lang", "en"]);
    assert!(said.out.contains("node.title was changed") && said.out.contains("cure: `systemctl restart"), "{said:?}");
    let secret = fs::read_to_string(&key).expect("a key");
    assert!(secret.lines().all(|line| !said.out.contains(line)));
    overlay.reconfigure("CT", |text| format!("{text}\n[spool]\nmaxx = 1\n"));
    assert!(codes(&overlay, "CT").contains(&"config_fault".to_owned()));
}

#[test]
fn an_uplink_that_is_not_there_and_a_daemon_that_does_not_run_are_told() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    with_tramd(&overlay);
    overlay.join("CT", "can-tho", "province", None);
    let central = overlay.listen("C");
    // The daemon is stopped, its files are in order, and its uplink answers a stranger.
    assert_eq!(codes(&overlay, "CT"), ["not_running"]);
    let silent = UdpSocket::bind(format!("{HERE}:0")).expect("a port");
    let nowhere = silent.local_addr().expect("its address").to_string();
    overlay.reconfigure("CT", |text| text.replace(&central, &nowhere));
    assert_eq!(codes(&overlay, "CT"), ["not_running", "no_answer"]);
    overlay.run("CT");
    // Neither the time nor the lists of the CA have come.
    assert_eq!(codes(&overlay, "CT"), ["certificates", "clock_untrusted", "no_uplink", "no_answer"]);
    let said = text(&overlay, "CT", "vi_VN.UTF-8", &[]);
    assert!(said.out.contains(&format!("central không trả lời ở UDP {nowhere}")), "{said:?}");
    overlay.kill("CT");
    assert_eq!(codes(&overlay, "CT"), ["not_running", "leftover", "leftover", "no_answer"]);
    fs::remove_file(overlay.path("CT").join("pki/node.pem")).expect("removed");
    assert!(codes(&overlay, "CT").contains(&"keys".to_owned()));
    // Where there is nothing at all, it says how to begin.
    let said = text(&overlay, "nowhere", "C", &[]);
    assert!(
        said.code == 1 && said.out.contains("tramd.toml is missing") && said.out.contains("tramd init"),
        "{said:?}"
    );
}
