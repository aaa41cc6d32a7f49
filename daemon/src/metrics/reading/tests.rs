//! The text of a node with everything in it, and the documents, alerts and dashboards that name what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tram_proto::id::{Incarnation, NodeId};
use tram_proto::name::Role;
use tram_proto::receipt::{Reason, State};
use tram_relay::input::{HopName, LinkId, Side};
use tram_relay::output::Event;
use tram_relay::snapshot::{LinkView, QueueView};

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;
/// A central with every province and commune at once hangs on fewer.
const MANY: usize = 500;

/// A node with so many children, of which each has a queue.
fn reading(children: usize) -> Reading {
    let name = |number: usize| format!("xa-{number}.can-tho");
    let each = || (0..children).map(name);
    let node = NodeId([1; 16]);
    let link = |number: usize| LinkView {
        link: LinkId(number as u64),
        peer: name(number).parse().expect("a name"),
        peer_id: node,
        role: Role::Commune,
        side: Side::Down,
        up: true,
        active: false,
        clock_offset_ms: Some(-250),
        unacknowledged: 3,
    };
    let queue = |next_hop: String, precedence| QueueView {
        next_hop,
        precedence,
        messages: 2,
        bytes: 4096,
        oldest_ms: NOW_MS - 90_000,
    };
    let inbox = || "vanban".parse().expect("an inbox");
    let mut queues: Vec<QueueView> = each().map(|name| queue(name, Precedence::Flash)).collect();
    queues.push(queue("inbox vanban".to_owned(), Precedence::Routine));
    let snapshot = Snapshot {
        node,
        name: "can-tho".parse().expect("a name"),
        incarnation: Incarnation([2; 16]),
        links: (0..children).map(link).collect(),
        queues,
        nodes: Vec::new(),
        inboxes: vec![(inbox(), 2)],
        messages: 5,
        receipts: 6,
        spool_room_bytes: 1 << 30,
        spool_total_bytes: 1 << 40,
        held: Vec::new(),
        late: Vec::new(),
        paused: vec![HopName::Uplink],
        clock_trusted: true,
    };
    let link = |peer: String| LinkReading {
        peer,
        of_use: Precedence::ALL.map(|class| (class, [1000, 2000])).to_vec(),
        on_wire: [123_456_789_012, 345],
        sent_packets: 10,
        lost_packets: 1,
        rtt_seconds: 0.0605,
        window_bytes: 65_536,
        mtu_bytes: 1452,
        p95_bytes_per_s: Some([1.25e6, 0.5]),
        declared_bytes_per_s: Some(2_500_000),
    };
    let tally = Arc::new(Tally::default());
    let address = "vanban@central".parse().expect("an address");
    let message = tram_proto::id::MessageId([3; 32]);
    let submitted = Some((Precedence::Flash, NOW_MS - 700));
    let arrived =
        Event::Progress { message, address, state: State::Arrived, reason: Reason::None, at_ms: 0, submitted };
    tally.event(&arrived, NOW_MS);
    let certificate = |of, list_made_ms| Certificate { of, until_ms: NOW_MS + 1000, list_made_ms };
    Reading {
        now_ms: NOW_MS,
        identity: Identity {
            node,
            name: "can-tho".parse().expect("a name"),
            zone: "tram.internal".parse().expect("a zone"),
            role: Role::Province,
            title: "Cần Thơ".to_owned(),
            started_ms: NOW_MS - 5000,
        },
        snapshot: Box::new(snapshot),
        neighbours: each().map(|peer| (peer, Neighbour { uplink: false, up: true })).collect(),
        links: each().map(link).collect(),
        certificates: vec![certificate("node", None), certificate("ca", Some(NOW_MS - 86_400_000))],
        tally,
        process: Some(Process { resident_bytes: 1 << 24, cpu_seconds: 1.5, open_fds: 40 }),
    }
}

fn text(children: usize) -> String {
    reading(children).text().expect("written")
}

#[track_caller]
fn check(text: &str, line: &str) {
    assert!(text.lines().any(|one| one == line), "{line:?} is missing in\n{text}");
}

#[test]
fn what_is_known_stands_there_once_in_base_units() {
    let text = text(1);
    let peer = "peer=\"xa-0.can-tho\"";
    for line in [
        "tram_node_info{node=\"can-tho\",role=\"province\",zone=\"tram.internal\"} 1",
        &format!("tram_link_up{{{peer},side=\"down\"}} 1"),
        &format!("tram_link_received_bytes_total{{{peer},class=\"flash\"}} 2000"),
        &format!("tram_link_wire_sent_bytes_total{{{peer}}} 123456789012"),
        &format!("tram_link_rtt_seconds{{{peer}}} 0.0605"),
        &format!("tram_link_utilization_ratio{{{peer},direction=\"sent\"}} 0.5"),
        &format!("tram_link_clock_offset_seconds{{{peer}}} -0.25"),
        "tram_queue_oldest_age_seconds{next_hop=\"xa-0.can-tho\",class=\"flash\"} 90.0",
        "tram_queue_paused{peer=\"uplink\"} 1",
        "tram_inbox_oldest_age_seconds{inbox=\"vanban\",class=\"routine\"} 90.0",
        "tram_delivery_seconds_bucket{le=\"0.5\",class=\"flash\",state=\"arrived\"} 0",
        "tram_delivery_seconds_bucket{le=\"1.0\",class=\"flash\",state=\"arrived\"} 1",
        "tram_delivery_seconds_count{class=\"flash\",state=\"delivered\"} 0",
        "tram_receipts_total{outcome=\"arrived\"} 1",
        "tram_errors_total{kind=\"dial_failed\"} 0",
        "tram_cert_not_after_seconds{cert=\"node\"} 1800000001.0",
        "tram_crl_age_seconds{crl=\"ca\"} 86400.0",
        "process_cpu_seconds_total 1.5",
        "# EOF",
    ] {
        check(&text, line);
    }
    assert!(!text.contains("next_hop=\"inbox"), "inboxes have metrics of their own");
    let series: Vec<&str> = text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
    assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len(), "a series stands there twice");
}

/// Each name with its type, labels and meaning, as a row of the operator's table.
fn rows() -> BTreeMap<String, String> {
    let text = text(1);
    let mut rows = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').expect("a meaning");
        let of = |line: &str| line.strip_prefix(&format!("# TYPE {name} ")).map(str::to_owned);
        let kind = text.lines().find_map(of).expect("a type");
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        let sample = if kind == "histogram" { format!("{name}_count") } else { name.clone() };
        let sample = text.lines().find(|line| line.split(['{', ' ']).next() == Some(&sample));
        let sample = sample.unwrap_or_else(|| panic!("{name} has no sample here"));
        let labels: Vec<&str> = sample.split_once('{').map_or_else(Vec::new, |(_, labels)| {
            labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0)).collect()
        });
        let row = format!("| `{name}` | {kind} | {} | {} |", labels.join(", "), help.trim_end_matches('.'));
        rows.insert(name, row);
    }
    rows
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_operators_table_is_this_registry() {
    let page = read("docs/operator/metrics.md");
    let found: BTreeSet<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let rows = rows();
    let expected: BTreeSet<&str> = rows.values().map(String::as_str).collect();
    assert!(
        found == expected,
        "docs/operator/metrics.md needs these rows:\n{}",
        expected.into_iter().collect::<Vec<_>>().join("\n")
    );
    let words = |list: Vec<&str>| list.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let kinds = words(super::super::tally::Kind::ALL.iter().map(|kind| kind.as_str()).collect());
    assert!(page.replace('\n', " ").contains(&kinds), "docs/operator/metrics.md needs the kinds of errors: {kinds}");
}

/// Every name of a metric in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words =
        text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("tram_") || word.starts_with("process_"));
    words.map(str::to_owned).collect()
}

#[test]
fn alerts_and_dashboards_name_only_what_there_is() {
    let known: BTreeSet<String> = rows().into_keys().collect();
    for path in [
        "packaging/prometheus/tram.rules.yml",
        "packaging/prometheus/tram.rules.test.yml",
        "packaging/grafana/tram.json",
        "docs/operator/alerts.md",
        "docs/operator/metrics.md",
    ] {
        let text = read(path);
        let names = names(&text);
        assert!(!names.is_empty(), "{path} names no metrics");
        for name in names {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            assert!(known.contains(&name) || known.contains(base), "{path} names {name}, which there is not");
        }
    }
}

#[test]
fn every_alert_has_its_section_and_at_most_five_page() {
    let rules = read("packaging/prometheus/tram.rules.yml");
    let tests = read("packaging/prometheus/tram.rules.test.yml");
    let page = read("docs/operator/alerts.md");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let sections: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("## ")).filter(|s| s.starts_with("Tram")).collect();
    assert_eq!(alerts, sections, "docs/operator/alerts.md has one section for each alert, in their order");
    for alert in &alerts {
        let times = |text: &str| tests.matches(&format!("alertname: {alert}{text}")).count();
        assert!(times("\n") >= 2, "{alert} is not tested to fire and to clear");
    }
    let paging = rules.matches("severity: page").count();
    assert!((1..=5).contains(&paging), "{paging} alerts page");
    assert_eq!(paging + rules.matches("severity: warning").count(), alerts.len());
}

#[test]
fn five_hundred_links_stay_a_page_that_is_quickly_read() {
    let (none, many) = (text(0).len(), text(MANY).len());
    let each = (many - none) / MANY;
    assert!(each < 3 * 1024, "{each} bytes for each link");
}
