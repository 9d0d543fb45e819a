//! The first stage: a request's head becomes the one canonical request, or is refused.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Version, header};
use hyper::Request;
use hyper::body::{Body as _, Incoming};

use crate::base::net::canonical_ip;
use crate::base::path::CanonicalPath;
use crate::config::model;
use crate::contract::canonical::{self, Target};
use crate::contract::hop::HopRequest;
use crate::contract::request::{RequestHead, Source, TlsFacts};
use crate::pipeline::Worker;
use crate::pipeline::connection::{Connection, REFUSED};
use crate::pipeline::exchange::{self, Evidence, Exchange};
use crate::pipeline::forwarded;
use crate::pipeline::framing::{self, FramingError};
use crate::pipeline::reject::Cause;
use crate::pipeline::respond::Reject;
use crate::runtime::forwarded_certificate::Refused;
use crate::runtime::snapshot::Listener;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_MAX: usize = 128;

/// A request with a canonical head and an unread body.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) exchange: Box<Exchange>,
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
        // Where the byte guard refused a head, the one that stands for it says nothing of the request.
        let refused = stands_for_refused(&parts);
        let read = match local.runtime().listener(connection.listener) {
            _ if refused => Err(connection.control.take_refusal().unwrap_or(Cause::Internal)),
            None => Err(Cause::Internal),
            Some(listener) => read_head(&mut parts, &body, connection, listener, now),
        };
        let exchange = |head, evidence| {
            let (worker, local, connection) = (Rc::clone(worker), Rc::clone(&local), Rc::clone(connection));
            Box::new(Exchange { worker, local, connection, head, visit: None, evidence })
        };
        match read {
            Ok((head, source, hop, request_id)) => {
                let request_id = request_id.unwrap_or_else(|| evidence.decision_id.to_string());
                let from = Origin { source, hop, request_id };
                Ok(Self { exchange: exchange(head, evidence), body, from })
            }
            Err(cause) => {
                let mut evidence = evidence;
                evidence.parsed = !refused;
                evidence.credentials = exchange::credentials(local.runtime(), &parts.headers);
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
    served: &Listener,
    now: Duration,
) -> Result<Read, Cause> {
    let listener = &served.config;
    canonical::check_method(&parts.method)?;
    let authority = canonical::authority(parts)?;
    check_scheme(parts, connection, listener)?;
    let Target { path, raw_path, query } = canonical::target(&parts.uri, listener.path_rules)?;
    let headers = &mut parts.headers;
    if headers.len() > listener.limits.headers {
        return Err(Cause::Framing(FramingError::TooManyHeaders));
    }
    // HTTP/2 has no guard that looks at bytes.
    if headers.get(header::CONTENT_LENGTH).is_some_and(|length| !framing::is_length(length.as_bytes())) {
        return Err(Cause::Framing(FramingError::ContentLength));
    }
    let forwarded = forwarded::read(connection.peer, headers, &listener.trusted_proxies)
        .map_err(|_| Cause::ForwardedConflict)?;
    let tls = client_tls(connection, served, headers, now)?;
    let hop = canonical::headers(headers)?;
    let request_id = request_id(headers, listener.trusted_proxies.contains(connection.peer.ip()));
    let content_length = content_length(headers, body);
    let source =
        Source { peer: connection.peer, client_ip: forwarded.client_ip, forwarded_for: forwarded.chain, tls };
    let scheme = if connection.tls.is_some() { "https" } else { "http" };
    let head = RequestHead {
        method: std::mem::take(&mut parts.method),
        scheme: forwarded.scheme.unwrap_or(scheme),
        host: canonical::host_of(&authority).to_owned(),
        authority,
        path,
        raw_path,
        query,
        // Only now: of a head that is refused, the event must know the credentials.
        headers: std::mem::take(&mut parts.headers),
        protocol: protocol(parts.version),
        content_length,
    };
    Ok((head, source, hop, request_id))
}

/// TLS as far as it tells who the client is. Where a trusted proxy may show the client's certificate, its own is not that.
fn client_tls(
    connection: &Connection,
    listener: &Listener,
    headers: &HeaderMap,
    now: Duration,
) -> Result<Option<Arc<TlsFacts>>, Cause> {
    let proxy = canonical_ip(connection.peer.ip());
    let certificates = listener.forwarded_certificates.as_ref();
    let Some(certificates) = certificates.filter(|_| listener.config.trusted_proxies.contains(proxy)) else {
        return Ok(connection.tls.clone());
    };
    let shown = certificates.read(headers, proxy, now).map_err(|refused| match refused {
        Refused::Malformed => Cause::ForwardedCertificateMalformed,
        Refused::Untrusted => Cause::ForwardedCertificateUntrusted,
    })?;
    let hop = connection.tls.as_deref();
    if shown.is_none() && hop.is_none_or(|hop| hop.client_certificate.is_none()) {
        return Ok(connection.tls.clone());
    }
    Ok(Some(Arc::new(TlsFacts::behind_proxy(hop, shown))))
}

/// Whether the head is the byte guard's stand-in for one that it refused. HTTP/2 has no guard of heads.
fn stands_for_refused(parts: &Parts) -> bool {
    parts.version != Version::HTTP_2 && parts.headers.contains_key(REFUSED)
}

/// The scheme must be the connection's, unless a trusted proxy may have ended TLS.
fn check_scheme(parts: &Parts, connection: &Connection, listener: &model::Listener) -> Result<(), Cause> {
    let scheme_is_good = match parts.uri.scheme_str() {
        None => true,
        Some("https") => connection.tls.is_some() || listener.trusted_proxies.contains(connection.peer.ip()),
        Some("http") => connection.tls.is_none(),
        Some(_) => false,
    };
    if scheme_is_good { Ok(()) } else { Err(Cause::Target) }
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
