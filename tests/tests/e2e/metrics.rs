//! What a node says of itself over HTTP: a document that crosses, a link that ends, requests that are not meant for it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use tram_tests::overlay::{Overlay, SOON, free_port, until};

use super::{HERE, PROGRAM};

const PAYLOAD_BYTES: usize = 700_000;
const REQUESTS: usize = 10_000;
/// More than a page of metrics and less than 10,000 of anything.
const GROWTH_BYTES: f64 = 4e6;

/// Has a node that is not running serve its metrics; answers where.
fn open(overlay: &Overlay, node: &str) -> String {
    let address = format!("{HERE}:{}", free_port(HERE));
    overlay.reconfigure(node, |text| format!("{text}\n[http]\nlisten = \"{address}\"\n"));
    address
}

/// The status and the body of an answer.
fn ask(address: &str, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the door is open");
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

fn metrics(address: &str) -> String {
    let (status, body) = ask(address, "/metrics", "Host: localhost");
    assert_eq!(status, 200, "{body}");
    body
}

/// The value of a series, if it is there.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_document_that_crosses_is_counted_at_both_ends_and_a_link_takes_its_series_along() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    overlay.kill("C");
    let (central, province) = (open(&overlay, "C"), open(&overlay, "CT"));
    overlay.run("C");
    overlay.run("CT");
    overlay.await_link("CT", "central");
    for path in ["/livez", "/readyz"] {
        assert_eq!(ask(&central, path, "Host: localhost"), (200, "ok\n".to_owned()));
    }
    assert_eq!(ask(&central, "/metrics", "Host: evil.example").0, 421);
    assert_eq!(ask(&central, "/metrics", "Host: localhost\r\nOrigin: http://evil.example").0, 403);

    let file = overlay.write("document", &(0..PAYLOAD_BYTES).map(|at| (at >> 5) as u8).collect::<Vec<u8>>());
    let _ = overlay.send("CT", "vanban@central", &file, &["--precedence", "immediate", "--wait", "arrived"]).ok();
    until("the document waits in an inbox of central", SOON, || {
        value(&metrics(&central), "tram_inbox_messages{inbox=\"vanban\"}").filter(|count| *count == 1.0)
    });
    let _ = overlay.recv("C", "out", 1).ok();
    let sent = until("the receipts are home", SOON, || {
        let text = metrics(&province);
        (value(&text, "tram_receipts_total{outcome=\"delivered\"}") == Some(1.0)).then_some(text)
    });
    for state in ["arrived", "delivered"] {
        let times = format!("tram_delivery_seconds_count{{class=\"immediate\",state=\"{state}\"}}");
        assert_eq!(value(&sent, &times), Some(1.0), "{sent}");
    }
    assert_eq!(value(&sent, "tram_link_up{peer=\"central\",side=\"up\"}"), Some(1.0));
    let received = metrics(&central);
    assert_eq!(value(&received, "tram_link_up{peer=\"can-tho\",side=\"down\"}"), Some(1.0));
    for (text, series) in [
        (&sent, "tram_link_sent_bytes_total{peer=\"central\",class=\"immediate\"}"),
        (&received, "tram_link_received_bytes_total{peer=\"can-tho\",class=\"immediate\"}"),
        (&sent, "tram_link_wire_sent_bytes_total{peer=\"central\"}"),
        (&received, "tram_link_wire_received_bytes_total{peer=\"can-tho\"}"),
    ] {
        let bytes = value(text, series).unwrap_or_else(|| panic!("{series} is missing in\n{text}"));
        assert!((PAYLOAD_BYTES as f64..2.0 * PAYLOAD_BYTES as f64).contains(&bytes), "{series} {bytes}");
    }
    assert_eq!(value(&received, "tram_link_received_bytes_total{peer=\"can-tho\",class=\"flash\"}"), Some(0.0));

    let pid = overlay.pid("CT").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("it starts").success());
    let left = until("central has no link to can-tho", SOON, || {
        let text = metrics(&central);
        (value(&text, "tram_link_up{peer=\"can-tho\",side=\"down\"}") == Some(0.0)).then_some(text)
    });
    let series = left.lines().filter(|line| line.contains("peer=\"can-tho\"")).collect::<Vec<_>>();
    assert_eq!(series, ["tram_link_up{peer=\"can-tho\",side=\"down\"} 0"]);
}

#[test]
fn ten_thousand_requests_leave_nothing_behind() {
    let overlay = Overlay::central(PROGRAM, HERE);
    overlay.kill("C");
    let central = open(&overlay, "C");
    overlay.run("C");
    let ask_often = |times: usize| {
        for _ in 0..times {
            let _ = metrics(&central);
        }
    };
    let resident = || until("the memory is read", SOON, || value(&metrics(&central), "process_resident_memory_bytes"));
    ask_often(REQUESTS / 10);
    let before = resident();
    ask_often(REQUESTS);
    let grown = resident() - before;
    assert!(grown < GROWTH_BYTES, "{REQUESTS} requests took {grown} bytes");
}
