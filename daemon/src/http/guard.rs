//! Whether a request was meant for this door. A page of any site can have its own name lead to 127.0.0.1 and read what
//! it is answered (DNS rebinding): the name it asks for is then still its own, and so is the origin it gives.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request, StatusCode, header};

/// Refuses with 421 what asks for another host, and with 403 what comes from the page of another.
pub(super) fn meant_for_us<B>(request: &Request<B>) -> Result<(), (StatusCode, &'static str)> {
    const OTHER_HOST: (StatusCode, &str) = (
        StatusCode::MISDIRECTED_REQUEST,
        "this door answers only requests for localhost, 127.0.0.1 or [::1]: the Host header names another",
    );
    const OTHER_ORIGIN: (StatusCode, &str) =
        (StatusCode::FORBIDDEN, "this request comes from the page of another site: it is refused");
    let named = request.uri().authority().is_none_or(is_loopback);
    let host = only(request.headers(), header::HOST).ok_or(OTHER_HOST)?;
    if !named || !host.parse::<Authority>().as_ref().is_ok_and(is_loopback) {
        return Err(OTHER_HOST);
    }
    if request.headers().contains_key(header::ORIGIN) {
        let origin = only(request.headers(), header::ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
        if origin != Some(host) {
            return Err(OTHER_ORIGIN);
        }
    }
    Ok(())
}

/// The value of a header that stands there once.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
