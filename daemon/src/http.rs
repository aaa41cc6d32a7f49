//! The HTTP door: whether the node lives, whether it is ready, and its metrics.
//!
//! It has no keys and asks nobody who he is, so it opens on loopback addresses only, and answers only requests that were
//! meant for it: a page of another site that a browser on this machine shows may send some too. Every connection is
//! bounded in time and size, and of many the oldest gives way, so that a slow client holds nobody up. DESIGN §10.

mod guard;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::metrics::Metrics;
use crate::metrics::tally::{Kind, Tally};

/// Connections at once. A scrape takes milliseconds; what is older when another comes is slow.
const CONNECTIONS: usize = 32;
/// A connection carries one request, and lasts no longer.
const REQUEST: Duration = Duration::from_secs(10);
/// Its head has to be here by then.
const HEAD: Duration = Duration::from_secs(5);
/// The same in bytes and in lines; browsers send about 1 KiB in 15.
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_LINES: usize = 48;
/// Pause after the kernel gave no socket.
const NO_SOCKET: Duration = Duration::from_millis(200);

/// Where the door is, unless the config says otherwise.
pub const DEFAULT: &str = "127.0.0.1:7480";

/// An address that only this machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loopback(SocketAddr);

impl FromStr for Loopback {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address: SocketAddr =
            text.parse().map_err(|_| format!("{text:?} is no IP:PORT, such as {DEFAULT} or [::1]:7480"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{address} can be reached from other machines, which would need mutual TLS, and this release has none for HTTP: give a loopback address such as {DEFAULT}"
            ));
        }
        Ok(Self(address))
    }
}

impl std::fmt::Display for Loopback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Loopback {
    /// Opens it.
    ///
    /// # Errors
    /// What the kernel says, usually that another has it.
    pub(crate) async fn bind(self) -> std::io::Result<TcpListener> {
        TcpListener::bind(self.0).await
    }
}

/// What can be asked.
pub(crate) fn routes(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(text))
        .with_state(metrics)
}

async fn livez(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.is_alive().await {
        Ok(()) => plain(StatusCode::OK, "ok\n".to_owned()),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

async fn readyz(State(metrics): State<Arc<Metrics>>) -> Response {
    let problems = metrics.problems().await;
    if problems.is_empty() {
        return plain(StatusCode::OK, "ok\n".to_owned());
    }
    plain(StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
}

async fn text(State(metrics): State<Arc<Metrics>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.text().await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS), NO_STORE], text).into_response(),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

fn plain(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), NO_STORE], text).into_response()
}

/// Answers until the node ends.
pub(crate) async fn serve(listener: TcpListener, routes: Router, tally: Arc<Tally>) {
    let routes = routes.layer(axum::middleware::from_fn_with_state(tally, guard));
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    // The connections end with this task.
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of sockets, or the client has gone already.
                Err(_) => {
                    tokio::time::sleep(NO_SOCKET).await;
                    continue;
                }
            },
            Some(_) = tasks.join_next() => continue,
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tasks.spawn(answer(stream, routes.clone())));
    }
}

async fn answer(stream: TcpStream, routes: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_LINES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // Whoever asked has gone, or was too slow.
    let _ = tokio::time::timeout(REQUEST, connection).await;
}

async fn guard(
    State(tally): State<Arc<Tally>>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    match guard::meant_for_us(&request) {
        Ok(()) => next.run(request).await,
        Err((status, why)) => {
            tally.error(Kind::HttpRefused);
            plain(status, format!("{why}\n"))
        }
    }
}
