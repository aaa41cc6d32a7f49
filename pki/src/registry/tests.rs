use std::fs;

use super::*;
use crate::fixtures::{NOW_MS, Overlay};

fn order(name: &str) -> TokenOrder {
    let address = |text: &str| text.parse::<HostPort>().expect("address");
    TokenOrder {
        name: name.parse().expect("name"),
        role: Role::Province,
        lifetime_ms: TOKEN_MS,
        uplink: Uplink { node: "central".parse().expect("name"), addresses: vec![address("10.0.0.1:7443")] },
        join: vec![address("10.0.0.1:7444")],
        by: "lan".to_owned(),
    }
}

fn open(overlay: &Overlay) -> Registry {
    Registry::open(overlay.dir()).expect("opens")
}

#[track_caller]
fn check(overlay: &Overlay, change: impl FnOnce(&mut TokenOrder), fault: &str) {
    let mut asked = order("can-tho");
    change(&mut asked);
    let error = open(overlay).new_token(overlay.authority(), &asked, NOW_MS).expect_err("refused").to_string();
    assert!(error.contains(fault), "{error}");
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let overlay = Overlay::new("tram.internal");
    check(&overlay, |order| order.role = Role::Central, "central");
    check(&overlay, |order| order.name = "central".parse().expect("name"), "central");
    check(&overlay, |order| order.lifetime_ms = 0, "7 days");
    check(&overlay, |order| order.lifetime_ms = TOKEN_MAX_MS + 1, "7 days");
    check(&overlay, |order| order.join.clear(), "join addresses");
    check(&overlay, |order| order.uplink.addresses.clear(), "uplink addresses");
    assert_eq!(open(&overlay).tokens().count(), 0);
}

#[test]
fn a_name_has_one_live_token_and_keeps_its_node_id() {
    let overlay = Overlay::new("tram.internal");
    let mut registry = open(&overlay);
    let first = registry.new_token(overlay.authority(), &order("can-tho"), NOW_MS).expect("made");
    let second = registry.new_token(overlay.authority(), &order("can-tho"), NOW_MS + 1).expect("made");
    let (old, new) = (registry.token(&first.id).expect("kept"), registry.token(&second.id).expect("kept"));
    assert_eq!((old.state, new.state), (TokenState::Cancelled, TokenState::New));
    assert_eq!(old.node, new.node);
    assert_eq!(registry.join_open_until_ms(NOW_MS), Some(second.expires_ms));
    registry.cancel_token(&"can-tho".parse().expect("name"), "lan", NOW_MS).expect("cancelled");
    assert_eq!(registry.join_open_until_ms(NOW_MS), None);
    let error = registry.cancel_token(&"can-tho".parse().expect("name"), "lan", NOW_MS).expect_err("none left");
    assert!(error.to_string().contains("can-tho"));
}

#[test]
fn it_survives_a_reopening_and_a_crash_between_write_and_rename() {
    let overlay = Overlay::new("tram.internal");
    let token = open(&overlay).new_token(overlay.authority(), &order("can-tho"), NOW_MS).expect("made");
    // What a crash leaves: half a registry beside the whole one, half an audit line.
    fs::write(overlay.dir().join(".registry.json.tmp"), b"{\"version\":1,\"no").expect("written");
    let log = overlay.dir().join(AUDIT_LOG);
    let before = fs::read_to_string(&log).expect("readable");
    fs::write(&log, format!("{before}{{\"at\":\"20")).expect("written");

    let mut registry = open(&overlay);
    assert_eq!(registry.token(&token.id).map(|t| t.state), Some(TokenState::New));
    assert_eq!(registry.nodes().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["central"]);
    registry.new_token(overlay.authority(), &order("an-giang"), NOW_MS).expect("made");
    drop(registry);
    assert_eq!(open(&overlay).tokens().count(), 2);
    let lines = fs::read_to_string(&log).expect("readable");
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (last["event"].as_str(), last["name"].as_str(), last["actor"].as_str()),
        (Some("token_created"), Some("an-giang"), Some("lan"))
    );
}

#[test]
fn a_failed_write_changes_nothing() {
    let overlay = Overlay::new("tram.internal");
    let mut registry = open(&overlay);
    // A directory where the temporary file goes: works for root too, which ignores permissions.
    fs::create_dir(overlay.dir().join(".registry.json.tmp")).expect("made");
    let error = registry.new_token(overlay.authority(), &order("can-tho"), NOW_MS).expect_err("cannot write");
    assert!(matches!(error, RegistryError::File(_)), "{error}");
    assert_eq!(registry.tokens().count(), 0);
    drop(registry);
    assert_eq!(open(&overlay).tokens().count(), 0);
}

#[test]
fn row_20_without_an_audit_line_nothing_takes_effect() {
    let overlay = Overlay::new("tram.internal");
    let mut registry = open(&overlay);
    let before = fs::read(overlay.dir().join(REGISTRY_JSON)).expect("readable");
    registry.audit.fill_disk();
    let error = registry.new_token(overlay.authority(), &order("can-tho"), NOW_MS).expect_err("full").to_string();
    assert!(error.contains("audit.log"), "{error}");
    assert_eq!(registry.tokens().count(), 0);
    assert_eq!(fs::read(overlay.dir().join(REGISTRY_JSON)).expect("readable"), before);
}

#[test]
fn one_process_at_a_time_holds_it() {
    let overlay = Overlay::new("tram.internal");
    let held = open(&overlay);
    let error = Registry::open(overlay.dir()).expect_err("held");
    assert!(error.to_string().contains("registry.lock"), "{error}");
    drop(held);
    open(&overlay);
}

#[test]
fn damaged_and_newer_files_are_refused_with_their_path() {
    let overlay = Overlay::new("tram.internal");
    let path = overlay.dir().join(REGISTRY_JSON);
    for (text, fault) in [("", "backup"), ("{\"version\":1}", "backup"), ("{\"version\":3}", "update tramd")] {
        fs::write(&path, text).expect("written");
        let error = Registry::open(overlay.dir()).expect_err("damaged").to_string();
        assert!(error.contains("registry.json") && error.contains(fault), "{error}");
    }
}

#[test]
fn the_secret_is_not_in_the_file_and_others_cannot_read_it() {
    use std::os::unix::fs::MetadataExt as _;
    let overlay = Overlay::new("tram.internal");
    let token = open(&overlay).new_token(overlay.authority(), &order("can-tho"), NOW_MS).expect("made");
    let path = overlay.dir().join(REGISTRY_JSON);
    assert!(fs::read_to_string(&path).expect("readable").contains(&token.secret.hash().to_string()));
    for name in [REGISTRY_JSON, AUDIT_LOG] {
        assert_eq!(fs::metadata(overlay.dir().join(name)).expect("there").mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn ended_tokens_are_forgotten_in_time() {
    let overlay = Overlay::new("tram.internal");
    let mut registry = open(&overlay);
    registry.new_token(overlay.authority(), &order("can-tho"), NOW_MS).expect("made");
    registry.new_token(overlay.authority(), &order("an-giang"), NOW_MS + 32 * DAY_MS).expect("made");
    assert_eq!(registry.tokens().map(|token| token.name.as_str()).collect::<Vec<_>>(), ["an-giang"]);
}

#[test]
fn row_27_a_new_name_is_nobodys_and_names_make_no_ring() {
    let overlay = Overlay::new("tram.internal");
    let mut registry = open(&overlay);
    let name = |text: &str| text.parse::<NodeName>().expect("name");
    let id = |n: u8| tram_proto::id::NodeId([n; 16]);
    for (n, text) in [(1, "can-tho"), (2, "an-giang")] {
        let key = crate::csr::LeafKey::of(&crate::fixtures::key()).expect("P-256");
        let subject = crate::authority::Subject { id: id(n), ..crate::fixtures::subject(text) };
        let issued = overlay.authority().issue(&key, &subject, NOW_MS).expect("issued");
        registry.renewed(&subject, &issued, "test").expect("written");
    }
    registry.new_token(overlay.authority(), &order("ca-mau"), NOW_MS).expect("made");
    for (old, new, fault) in [
        ("can-tho", "an-giang", "another node has it"),
        ("can-tho", "ca-mau", "a token for it is live"),
        ("kien-giang", "tay-do", "neither the name of a node"),
    ] {
        let error = registry.rename(&name(old), &name(new), "lan", NOW_MS).expect_err(new).to_string();
        assert!(error.contains(fault), "{error}");
    }
    let rename = |registry: &mut Registry, old: &str, new: &str| {
        let node = registry.rename(&name(old), &name(new), "lan", NOW_MS)?;
        let told = registry.notice().version;
        registry
            .announce(told, NOW_MS, "lan", |n| n.alias(&name(old), &name(new), node, NOW_MS + DAY_MS))
            .map(|()| node)
    };
    assert_eq!(rename(&mut registry, "can-tho", "tay-do").expect("free"), id(1));
    let taken = rename(&mut registry, "an-giang", "can-tho").expect_err("still the other's former name").to_string();
    assert!(taken.contains("former name"), "{taken}");
    // Back to its own: the alias turns round, and there is one.
    assert_eq!(rename(&mut registry, "tay-do", "can-tho").expect("its own"), id(1));
    let notice = registry.notice().to_notice(overlay.authority().id(), NOW_MS);
    let aliases: Vec<_> = notice.aliases.iter().map(|a| (a.old.as_str(), a.new.as_str())).collect();
    assert_eq!(aliases, [("tay-do", "can-tho")]);
}

/// A registry as it was, with the lines of its log that came after.
fn restored(overlay: &Overlay, before: &[u8], lines: &[String]) -> Registry {
    fs::write(overlay.dir().join(REGISTRY_JSON), before).expect("written");
    let log = overlay.dir().join(AUDIT_LOG);
    fs::write(&log, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
    open(overlay)
}

#[test]
fn a_restored_registry_learns_from_the_log_who_came_and_who_went() {
    let overlay = Overlay::new("tram.internal");
    let file = || fs::read(overlay.dir().join(REGISTRY_JSON)).expect("readable");
    let mut registry = open(&overlay);
    let token = registry.new_token(overlay.authority(), &order("hue"), NOW_MS).expect("made");
    let after = registry.audit().head().number;
    let before = file();
    let admit = |registry: &mut Registry, name: &str| {
        let role = Role::Province;
        let name: NodeName = name.parse().expect("name");
        let subject = Subject { id: registry.id_for(&name, role, NOW_MS).expect("an id"), name, role };
        let key = crate::csr::LeafKey::of(&crate::fixtures::key()).expect("a key");
        let issued = overlay.authority().issue(&key, &subject, NOW_MS).expect("issued");
        (subject, issued)
    };
    for name in ["can-tho", "an-giang", "ca-mau"] {
        let (subject, issued) = admit(&mut registry, name);
        registry.admit(&subject, &issued, "lan", "").expect("admitted");
    }
    let (subject, issued) = admit(&mut registry, "hue");
    registry.bind(token.id, &issued, "10.0.0.9:1", "").expect("bound");
    assert_eq!(registry.node(&subject.name).map(|node| node.id), Some(subject.id));
    let name = |text: &str| text.parse::<NodeName>().expect("name");
    registry.revoke("can-tho", Reason::KeyCompromise, NodeId([0; 16]), "lan", NOW_MS).expect("revoked");
    registry.rename(&name("an-giang"), &name("tay-do"), "lan", NOW_MS).expect("renamed");
    let (subject, issued) = admit(&mut registry, "can-tho");
    registry.admit(&subject, &issued, "lan", "").expect("another machine");
    let nodes = |registry: &Registry| -> Vec<NodeRecord> {
        registry.nodes().map(|node| NodeRecord { latest: None, ..node.clone() }).collect()
    };
    let (known, revoked) = (nodes(&registry), registry.revoked());
    drop(registry);
    let lines: Vec<String> =
        fs::read_to_string(overlay.dir().join(AUDIT_LOG)).expect("readable").lines().map(str::to_owned).collect();

    let mut registry = restored(&overlay, &before, &lines);
    assert_eq!(registry.restored(after, &[], 1000, NOW_MS).expect("learned"), 1);
    assert_eq!((nodes(&registry), registry.revoked()), (known.clone(), revoked.clone()));
    assert!(registry.is_barred(registry.revocations().next().and_then(|one| one.node).expect("of a node")));
    assert!(!registry.is_barred(subject.id));
    assert_eq!(registry.token(&token.id).map(|token| token.state), Some(TokenState::Used), "it does not admit again");
    assert_eq!(registry.restored(after, &[], 1000, NOW_MS).expect("again"), 0, "twice is once");
    assert_eq!(nodes(&registry), known);
    drop(registry);

    // What makes no sense teaches nothing, and nothing is taken back: another id for a name that has one, a revoked
    // node's id under another name, a time that is none.
    let mut registry = restored(&overlay, &before, &lines);
    registry.restored(after, &[], 1000, NOW_MS).expect("learned");
    let central = registry.nodes().find(|node| node.role == Role::Central).expect("itself").clone();
    let line = |event: &str, node: &str, name: &str, at: &str| {
        format!(
            "{{\"at\":\"{at}\",\"event\":\"{event}\",\"node\":\"{node}\",\"name\":\"{name}\",\"role\":\"province\",\
             \"serial\":\"aa\",\"key\":\"{}\",\"until\":\"2030-01-01T00:00:00Z\",\"former\":\"tay-do\",\"reason\":\"x\"}}",
            Sha256::of(b"key")
        )
    };
    let (at, other) = ("2027-01-01T00:00:00Z", NodeId([5; 16]).to_string());
    let (current, mut bad) = (file(), vec!["no JSON".to_owned(), "{}".to_owned(), "{\"event\":7}".to_owned()]);
    drop(registry);
    bad.push(line("certificate_issued", &other, central.name.as_str(), at));
    bad.push(line("certificate_issued", &central.id.to_string(), "da-nang", at));
    bad.push(line("certificate_issued", &other, "da-nang", "soon"));
    bad.push(line("certificate_issued", &other, "Not a name", at));
    bad.push(line("renamed", &other, "da-nang", at));
    bad.push(line("revoked", &central.id.to_string(), central.name.as_str(), at));
    bad.push(line("founded_anew", &other, "da-nang", at));
    let mut registry = restored(&overlay, &current, &bad);
    assert_eq!(registry.restored(0, &[], 1000, NOW_MS).expect("read"), 0);
    assert_eq!((nodes(&registry), registry.revoked()), (known, revoked));
}

#[test]
fn row_27_a_former_name_goes_to_a_new_node_only_when_it_means_the_old_one_no_more() {
    let overlay = Overlay::new("tram.internal");
    let mut registry = open(&overlay);
    let name = |text: &str| text.parse::<NodeName>().expect("name");
    let token = registry.new_token(overlay.authority(), &order("can-tho"), NOW_MS).expect("made");
    let node = registry.token(&token.id).expect("kept").node;
    let key = crate::csr::LeafKey::of(&crate::fixtures::key()).expect("P-256");
    let subject = crate::authority::Subject { id: node, ..crate::fixtures::subject("can-tho") };
    let issued = overlay.authority().issue(&key, &subject, NOW_MS).expect("issued");
    registry.renewed(&subject, &issued, "test").expect("written");
    registry.rename(&name("can-tho"), &name("tay-do"), "lan", NOW_MS).expect("free");
    let until_ms = NOW_MS + DAY_MS;
    registry
        .announce(0, NOW_MS, "lan", |n| n.alias(&name("can-tho"), &name("tay-do"), node, until_ms))
        .expect("announced");

    let early = registry.new_token(overlay.authority(), &order("can-tho"), NOW_MS + 1).expect_err("understood");
    assert!(early.to_string().contains("former name of tay-do"), "{early}");
    // Once it has ended, or its node was revoked; the id stays with the node that was renamed.
    assert!(registry.notice().has_aliases(&name("tay-do"), NOW_MS + 1));
    registry.announce(0, NOW_MS, "lan", |n| n.end_aliases(&name("tay-do"), NOW_MS + 1)).expect("announced");
    let token = registry.new_token(overlay.authority(), &order("can-tho"), NOW_MS + 1).expect("free again");
    assert_ne!(registry.token(&token.id).expect("kept").node, node);
    // What was sent in its time is still proven.
    let notice = registry.notice().to_notice(overlay.authority().id(), NOW_MS + 90 * DAY_MS);
    assert_eq!(notice.aliases.iter().map(|a| a.until_ms).collect::<Vec<_>>(), [NOW_MS + 1]);
}
