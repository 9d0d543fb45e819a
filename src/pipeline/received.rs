//! The first stage: a request's head becomes the one canonical request, or is refused.

use std::rc::Rc;

use http::header::Entry;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use hyper::Request;
use hyper::body::{Body as _, Incoming};

use crate::base::path::CanonicalPath;
use crate::config::model::Listener;
use crate::contract::request::{RequestHead, Source};
use crate::pipeline::Worker;
use crate::pipeline::connection::{Connection, REFUSED};
use crate::pipeline::exchange::{Evidence, Exchange};
use crate::pipeline::forwarded;
use crate::pipeline::framing::{self, FramingError};
use crate::pipeline::hop::{self, HopRequest};
use crate::pipeline::reject::Cause;
use crate::pipeline::respond::Reject;

/// More passes through gateways than this are a loop.
const HOPS_MAX: usize = 8;
/// More query parameters than this are an attack on whoever parses them.
const QUERY_PARAMETERS_MAX: usize = 1000;
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_MAX: usize = 128;

/// A request with a canonical head and an unread body.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) exchange: Exchange,
    pub(crate) body: Incoming,
    pub(crate) from: Origin,
}

/// What is known of the request's sender and wishes beside its head.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) source: Source,
    pub(crate) hop: HopRequest,
    /// `X-Request-Id` for policy and upstream.
    pub(crate) request_id: String,
}

// === impl Received ===

impl Received {
    /// Reads the head of `request`.
    pub(crate) fn read(
        worker: &Rc<Worker>,
        connection: &Rc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Self, Reject> {
        let local = worker.local();
        let now = worker.now();
        let evidence = Evidence::new(worker.next_id(now), now);
        connection.control.request_started();
        let (mut parts, body) = request.into_parts();
        let read = match local.runtime().listener(connection.listener) {
            _ if stands_for_refused(&parts) => {
                Err(connection.control.take_refusal().unwrap_or(Cause::Internal))
            }
            None => Err(Cause::Internal),
            Some(listener) => read_head(&mut parts, &body, connection, &listener.config),
        };
        let exchange = |head, evidence| Exchange {
            worker: Rc::clone(worker),
            local: Rc::clone(&local),
            connection: Rc::clone(connection),
            head,
            evidence,
        };
        match read {
            Ok((head, source, hop, request_id)) => {
                let request_id = request_id.unwrap_or_else(|| evidence.decision_id.to_string());
                let from = Origin { source, hop, request_id };
                Ok(Self { exchange: exchange(head, evidence), body, from })
            }
            Err(cause) => {
                let mut evidence = evidence;
                evidence.parsed = !matches!(cause, Cause::Framing(_) | Cause::HeaderTimeout);
                Err(Reject::new(exchange(unreadable(&parts), evidence), cause))
            }
        }
    }
}

type Read = (RequestHead, Source, HopRequest, Option<String>);

fn read_head(
    parts: &mut Parts,
    body: &Incoming,
    connection: &Connection,
    listener: &Listener,
) -> Result<Read, Cause> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(Cause::MethodNotSupported);
    }
    let authority = authority(parts)?;
    check_target(parts, connection, listener)?;
    let raw_path = parts.uri.path();
    let path = CanonicalPath::parse(raw_path, listener.path_rules).map_err(Cause::Path)?;
    let raw_path = (raw_path != path.as_str()).then(|| raw_path.to_owned());
    let query = parts.uri.query().map(str::to_owned);
    if query
        .as_ref()
        .is_some_and(|query| memchr::memchr_iter(b'&', query.as_bytes()).count() >= QUERY_PARAMETERS_MAX)
    {
        return Err(Cause::QueryTooLarge);
    }
    let mut headers = std::mem::take(&mut parts.headers);
    check_fields(&mut headers, listener)?;
    check_expectation(&mut headers)?;
    if hop::hops(&headers) >= HOPS_MAX {
        return Err(Cause::Loop);
    }
    let forwarded = forwarded::read(connection.peer, &headers, &listener.trusted_proxies)
        .map_err(|_| Cause::ForwardedConflict)?;
    let request_id = request_id(&mut headers, listener.trusted_proxies.contains(connection.peer.ip()));
    let hop = hop::strip_request(&mut headers)?;
    headers.remove(header::HOST);
    let content_length = content_length(&headers, body);
    let source = Source {
        peer: connection.peer,
        client_ip: forwarded.client_ip,
        forwarded_for: forwarded.chain,
        tls: connection.tls.clone(),
    };
    let scheme = if connection.tls.is_some() { "https" } else { "http" };
    let head = RequestHead {
        method: std::mem::take(&mut parts.method),
        scheme: forwarded.scheme.unwrap_or(scheme),
        host: host_of(&authority).to_owned(),
        authority,
        path,
        raw_path,
        query,
        headers,
        protocol: protocol(parts.version),
        content_length,
    };
    Ok((head, source, hop, request_id))
}

/// The authority that the request names, in lower case: from the target (HTTP/2, absolute form) and from `Host`, which
/// must agree where both are there (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn authority(parts: &Parts) -> Result<String, Cause> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Cause::Host),
        (Some(host), None) => Some(host.to_str().map_err(|_| Cause::Host)?),
        (None, None) => None,
    };
    // Not the path, for which an empty one is `/`: `?a` is no target.
    if !parts.uri.path_and_query().is_some_and(|target| target.as_str().starts_with('/')) {
        return Err(Cause::Target);
    }
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    let named = match (target, host) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => return Err(Cause::Host),
        (Some(named), _) | (None, Some(named)) => named,
        (None, None) => return Err(Cause::Host),
    };
    if !is_authority(named) {
        return Err(Cause::Host);
    }
    Ok(named.to_ascii_lowercase())
}

/// Whether the head is the byte guard's stand-in for one that it refused. HTTP/2 has no guard of heads.
fn stands_for_refused(parts: &Parts) -> bool {
    parts.version != Version::HTTP_2 && parts.headers.contains_key(REFUSED)
}

/// The scheme must be the connection's (a trusted proxy may have ended TLS), and the query plain characters: HTTP/2
/// has no guard that looks at bytes.
fn check_target(parts: &Parts, connection: &Connection, listener: &Listener) -> Result<(), Cause> {
    let scheme_is_good = match parts.uri.scheme_str() {
        None => true,
        Some("https") => connection.tls.is_some() || listener.trusted_proxies.contains(connection.peer.ip()),
        Some("http") => connection.tls.is_none(),
        Some(_) => false,
    };
    let query_is_plain =
        parts.uri.query().is_none_or(|query| query.bytes().all(|byte| byte.is_ascii_graphic()));
    if scheme_is_good && query_is_plain { Ok(()) } else { Err(Cause::Target) }
}

/// `host`, `host:port`, `[ipv6]` or `[ipv6]:port`, of characters that no reader can mistake.
fn is_authority(text: &str) -> bool {
    let (host, port) = split_port(text);
    let port_is_good =
        port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()));
    let host_is_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            let name = host.strip_suffix('.').unwrap_or(host);
            !name.is_empty()
                && name.len() <= 253
                && name.bytes().all(plain)
                && !name.starts_with('.')
                && !name.contains("..")
        }
    };
    host_is_good && port_is_good
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    }
}

/// The host without port and without the root's trailing dot.
fn host_of(authority: &str) -> &str {
    let host = split_port(authority).0;
    host.strip_suffix('.').unwrap_or(host)
}

/// What the byte guard checks in HTTP/1 holds for HTTP/2 as well, and more that both need.
fn check_fields(headers: &mut HeaderMap, listener: &Listener) -> Result<(), Cause> {
    if headers.len() > listener.limits.headers {
        return Err(Cause::Framing(FramingError::TooManyHeaders));
    }
    for (name, value) in &*headers {
        if memchr::memchr(b'_', name.as_str().as_bytes()).is_some() {
            return Err(Cause::Framing(FramingError::HeaderUnderscore));
        }
        if !value.as_bytes().is_ascii() && std::str::from_utf8(value.as_bytes()).is_err() {
            return Err(Cause::HeaderText);
        }
    }
    if headers.get(header::CONTENT_LENGTH).is_some_and(|length| !framing::is_length(length.as_bytes())) {
        return Err(Cause::Framing(FramingError::ContentLength));
    }
    for name in
        [header::AUTHORIZATION, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LENGTH]
    {
        if headers.get_all(&name).iter().nth(1).is_some() {
            return Err(Cause::RepeatedHeader);
        }
    }
    join_cookies(headers);
    Ok(())
}

/// HTTP/2 may split cookies into several lines; to whoever reads one line they must be one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(mut entry) = headers.entry(header::COOKIE) else { return };
    if entry.iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = entry.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(b"; ".as_slice())) {
        entry.insert(joined);
    }
}

/// The library answers `100-continue` when the body is first asked for; the header itself ends here.
fn check_expectation(headers: &mut HeaderMap) -> Result<(), Cause> {
    match headers.remove(header::EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Err(Cause::Expectation),
        Some(_) | None => Ok(()),
    }
}

/// The request id that a trusted proxy has given; anybody else's is dropped.
fn request_id(headers: &mut HeaderMap, trusted: bool) -> Option<String> {
    let value = headers.remove(X_REQUEST_ID)?;
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= REQUEST_ID_MAX)?;
    trusted.then(|| text.to_owned())
}

fn content_length(headers: &HeaderMap, body: &Incoming) -> Option<u64> {
    if body.is_end_stream() {
        return Some(0);
    }
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// What the event tells of a head that was refused: method and raw path, no query.
fn unreadable(parts: &Parts) -> RequestHead {
    RequestHead {
        method: parts.method.clone(),
        scheme: "http",
        host: String::new(),
        authority: String::new(),
        path: CanonicalPath::root(),
        raw_path: Some(parts.uri.path().to_owned()),
        query: None,
        headers: HeaderMap::new(),
        protocol: protocol(parts.version),
        content_length: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for good in ["gw.test", "gw.test:443", "gw.test.", "[::1]", "[::1]:8080", "127.0.0.1:1", "a_b.test"] {
            assert!(is_authority(good), "{good}");
        }
        let bad = [
            "",
            ":80",
            "gw.test:bad",
            "gw.test:99999x",
            "gw.test:99999",
            "gw.test:",
            "gw.test:+1",
            "u@gw.test",
            "gw.test/x",
            "a b",
            "a,b",
            "a..b",
            ".a",
            "[::1",
            "[zz]",
            "::1",
            "gw%2etest",
            "gw.test:80:80",
        ];
        for bad in bad {
            assert!(!is_authority(bad), "{bad}");
        }
        assert_eq!(host_of("gw.test.:80"), "gw.test");
        assert_eq!(host_of("[::1]:80"), "[::1]");
    }

    #[test]
    fn split_cookies_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
