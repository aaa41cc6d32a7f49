//! What links may carry, and what flash costs: the bandwidth plan, quotas, and documents that have to be there by a time.

use tram_tests::overlay::{Overlay, SOON, until};

use super::{HERE, PROGRAM};

/// Central, and a province below it.
fn pair() -> Overlay {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.run("CT");
    overlay.await_link("CT", "central");
    overlay.await_known("C", "can-tho");
    overlay
}

const PLAN: &str = r#"
[[plan.line]]
link = "uplink"
rate = "20mbit"

[[plan.limit]]
link = "uplink"
classes = ["routine", "bulk"]
days = ["mon-fri"]
hours = "07:00-17:00"
most = "30%"
"#;

fn ceiling(plan: &serde_json::Value, link: &str, class: &str) -> serde_json::Value {
    let links = plan["links"].as_array().expect("a list");
    let link = links.iter().find(|one| one["link"] == link).unwrap_or_else(|| panic!("{link} in {plan:#}"));
    let ceilings = link["ceilings"].as_array().expect("a list");
    ceilings.iter().find(|one| one["class"] == class).expect("every class").clone()
}

#[test]
fn a_plan_is_shown_checked_and_reloaded() {
    let overlay = pair();
    let shown = || overlay.tram("CT", &["plan", "show", "--json"]).json();
    assert!(ceiling(&shown(), "central", "bulk")["most_bits_per_s"].is_null());

    overlay.reconfigure("CT", |text| format!("{text}{PLAN}"));
    // Not in force yet, but it can be looked at.
    let checked = overlay.tram("CT", &["plan", "check", "--json"]).json();
    let week = ceiling(&checked, "central", "routine")["week"].clone();
    let stretches: Vec<(String, bool)> = week
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (format!("{} {}", one["from"], one["to"]).replace('"', ""), one["most_bits_per_s"] == 6_000_000))
        .collect();
    assert_eq!(stretches.len(), 11, "{week:#}");
    assert_eq!(stretches[1], ("mon 07:00 mon 17:00".to_owned(), true));
    assert_eq!(stretches[10], ("fri 17:00 sun 24:00".to_owned(), false));
    assert!(ceiling(&shown(), "central", "bulk")["most_bits_per_s"].is_null(), "nothing was taken over");

    let said = overlay.tram("CT", &["reload"]).ok();
    assert!(said.contains("plan") && said.contains("applied"), "{said}");
    let bulk = ceiling(&shown(), "central", "bulk");
    // A fifth is left to others at night.
    assert!([6_000_000, 16_000_000].contains(&bulk["most_bits_per_s"].as_u64().expect("a number")), "{bulk:#}");
    assert!(bulk["until"].is_string(), "{bulk:#}");
    let text = overlay.tram("CT", &["plan", "show"]).ok();
    assert!(text.contains("20mbit") && text.contains("UNTIL"), "{text}");
    let text = overlay.tram("CT", &["plan", "check"]).ok();
    assert!(text.contains("mon 07:00 - mon 17:00") && text.contains("6mbit"), "{text}");

    // The old one stays while the new one is wrong, and a file of its own is checked without being taken over.
    overlay.reconfigure("CT", |text| text.replace("30%", "21mbit"));
    overlay.tram("CT", &["reload"]).fails(78, &["tramd.toml", "line", "21mbit is more than the declared line"]);
    overlay.tram("CT", &["plan", "check"]).fails(78, &["21mbit is more than the declared line of 20mbit"]);
    assert_eq!(ceiling(&shown(), "central", "all")["most_bits_per_s"], serde_json::Value::Null);
    assert!(ceiling(&shown(), "central", "bulk")["until"].is_string());
    let check = |text: &str| {
        let file = overlay.write("plan.toml", text.as_bytes());
        overlay.tram("CT", &["plan".as_ref(), "check".as_ref(), file.as_os_str()])
    };
    let _ = check(PLAN).ok();
    check(&PLAN.replace("17:00", "07:00")).fails(65, &["plan.toml", "line 6", "is empty"]);
    check(&PLAN.replace("30%", "0mbit")).fails(65, &["plan.toml", "line 6", "rate of 0"]);
    let (_, limit) = PLAN.split_once("[[plan.limit]]").expect("two parts");
    check(&format!("{PLAN}[[plan.limit]]{limit}")).fails(65, &["plan.toml", "line 12", "overlap", "line 6"]);
    check(&PLAN.replace("uplink", "ca-mau")).fails(65, &["plan.toml", "line 2", "ca-mau is no neighbour"]);
    overlay.tram("CT", &["plan", "check", "none.toml"]).fails(66, &["none.toml"]);
}

#[test]
fn flash_over_its_quota_is_demoted_said_so_and_delivered() {
    let overlay = pair();
    let user = nix_user();
    let rule = format!("\n[[access.rule]]\nusers = [{user}]\nsend = [\"flash\"]\nflash = \"2/h\"\n");
    overlay.reconfigure("CT", |text| format!("{text}{rule}"));
    let _ = overlay.tram("CT", &["reload"]).ok();
    let mut demoted = Vec::new();
    for number in 0..4 {
        let file = overlay.write(format!("{number}.txt"), format!("{number}").as_bytes());
        let sent = overlay.send("CT", "vanban@central", &file, &["--precedence", "flash", "--json"]);
        let over = sent.clone().json()["demoted_from"] == "flash";
        assert_eq!(over, number >= 2, "{sent:?}");
        assert_eq!(sent.err.contains("immediate"), over, "{sent:?}");
        if over {
            demoted.push(sent.clone().json()["id"].as_str().expect("an id").to_owned());
        }
    }
    let _ = overlay.recv("C", "out", 4);
    overlay.await_log("CT", &["demoted", &demoted[0]]);
    let list = overlay.tram("CT", &["message", "list", "--json"]).json();
    for message in list["messages"].as_array().expect("a list") {
        let over = demoted.contains(&message["id"].as_str().expect("an id").to_owned());
        assert_eq!(message["demoted_from"] == "flash", over, "{message:#}");
        assert_eq!(message["precedence"], if over { "immediate" } else { "flash" }, "{message:#}");
    }
    let text = overlay.tram("CT", &["message", "list"]).ok();
    assert_eq!(text.matches("(demoted from flash)").count(), 2, "{text}");
    assert_eq!(overlay.tram("CT", &["trace", &demoted[1], "--json"]).json()["demoted_from"], "flash");
    // Another precedence has no such quota.
    let file = overlay.write("more.txt", b"more");
    let sent = overlay.send("CT", "vanban@central", &file, &["--precedence", "immediate", "--json"]).json();
    assert!(sent["demoted_from"].is_null(), "{sent:#}");
}

#[test]
fn a_document_that_is_not_there_in_time_raises_an_alarm() {
    let overlay = pair();
    overlay.kill("C");
    let file = overlay.write("a.txt", b"a");
    let by = jiff::Timestamp::now() + std::time::Duration::from_secs(4);
    let flags = ["--precedence", "flash", "--deliver-by", &by.to_string()];
    let sent = overlay.send("CT", "vanban@central", &file, &flags).ok();
    let id = sent.trim();
    overlay.await_log("CT", &["half the time", id]);
    overlay.await_log("CT", &["ALARM", "not there by the time", id]);
    let problems = || overlay.tram("CT", &["status", "--json"]).json()["problems"].to_string();
    assert!(problems().contains(id), "{}", problems());
    overlay.run("C");
    overlay.await_link("CT", "central");
    let _ = overlay.recv("C", "out", 1);
    until("the alarm ends", SOON, || (!problems().contains(id)).then_some(()));
}

fn nix_user() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").expect("there").uid()
}
