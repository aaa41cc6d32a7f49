//! The door against clients that are foreign, slow or many.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A door behind which `/here` answers.
async fn door() -> (SocketAddr, Arc<Tally>) {
    let listener = "127.0.0.1:0".parse::<Loopback>().expect("loopback").bind().await.expect("free");
    let (address, tally) = (listener.local_addr().expect("bound"), Arc::new(Tally::default()));
    let routes = Router::new().route("/here", get(|| async { "answered" }));
    tokio::spawn(serve(listener, routes, tally.clone()));
    (address, tally)
}

async fn say(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("accepted");
    // It may have been refused already.
    let _ = stream.write_all(request.as_bytes()).await;
    stream
}

/// What is answered until the connection ends.
async fn hear(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends it as well.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[track_caller]
fn check(head: &str, status: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (answer, refused) = runtime.block_on(async {
        let (address, tally) = door().await;
        let answer = hear(say(address, &format!("{head}\r\n\r\n")).await).await;
        let refused: u64 = tally.errors().filter(|(kind, _)| *kind == Kind::HttpRefused).map(|(_, count)| count).sum();
        (answer, refused)
    });
    assert_eq!(answer.split(' ').nth(1), Some(status.to_string().as_str()), "{head}: {answer}");
    assert_eq!(answer.contains("answered"), status == 200, "{answer}");
    assert_eq!(refused, u64::from(status == 421 || status == 403), "{head}");
}

#[test]
fn only_requests_for_this_machine_are_answered() {
    let get = |headers: &str| format!("GET /here HTTP/1.1\r\n{headers}");
    check(&get("Host: localhost:7480"), 200);
    check(&get("Host: 127.0.0.1"), 200);
    check(&get("Host: [::1]:7480"), 200);
    check(&get("Host: localhost:7480\r\nOrigin: http://localhost:7480"), 200);
    check("GET http://127.0.0.1/here HTTP/1.1\r\nHost: 127.0.0.1", 200);
    check(&get("Host: evil.example"), 421);
    check(&get("Host: 127.0.0.1.evil.example:7480"), 421);
    check(&get("Host: 192.0.2.1"), 421);
    check(&get("Host: localhost\r\nHost: evil.example"), 421);
    check(&get("Accept: */*"), 421);
    check("GET http://evil.example/here HTTP/1.1\r\nHost: localhost", 421);
    check(&get("Host: localhost\r\nOrigin: http://evil.example"), 403);
    check(&get("Host: localhost\r\nOrigin: null"), 403);
    check(&get("Host: localhost\r\nOrigin: https://localhost"), 403);
    check(&get("Host: localhost:7480\r\nOrigin: http://localhost:3000"), 403);
    check("POST /here HTTP/1.1\r\nHost: localhost", 405);
    check("GET /there HTTP/1.1\r\nHost: localhost", 404);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    check(&format!("GET /here HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(HEAD_BYTES)), 431);
    let many: String = (0..=HEAD_LINES).map(|number| format!("\r\nX-{number}: x")).collect();
    check(&format!("GET /here HTTP/1.1\r\nHost: localhost{many}"), 431);
}

#[tokio::test]
async fn of_many_slow_clients_the_oldest_gives_way() {
    let (address, _) = door().await;
    let mut slow = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        slow.push(say(address, "GET /here HTTP/1.1\r\nHost: local").await);
    }
    let answer = hear(say(address, "GET /here HTTP/1.1\r\nHost: localhost\r\n\r\n").await).await;
    assert!(answer.ends_with("answered"), "{answer}");
    for stream in slow.drain(..2 * CONNECTIONS) {
        assert_eq!(hear(stream).await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_its_head_is_cut_off() {
    let (address, _) = door().await;
    assert_eq!(hear(say(address, "GET /here HTTP/1.1\r\nHost: local").await).await, "");
}

#[test]
fn only_loopback_addresses_are_taken() {
    for good in ["127.0.0.1:7480", "127.9.9.9:1", "[::1]:7480"] {
        assert_eq!(good.parse::<Loopback>().map(|address| address.to_string()), Ok(good.to_owned()));
    }
    for (bad, why) in
        [("0.0.0.0:7480", "mutual TLS"), ("[::]:7480", "mutual TLS"), ("10.0.0.1:1", "loopback"), ("x", "IP:PORT")]
    {
        let error = bad.parse::<Loopback>().expect_err("refused");
        assert!(error.contains(why), "{error}");
    }
}
