//! The sixth stage: the obligations of an allow are kept before anything is sent upstream.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use smallvec::SmallVec;

use crate::contract::decision::{Allow, HeaderEdits, UpstreamEdits};
use crate::contract::event::LimitTaken;
use crate::contract::hop;
use crate::contract::input::form_pairs;
use crate::limits::fields::{RATELIMIT, RATELIMIT_POLICY, limit_fields};
use crate::limits::verdict::{LimitRequest, Verdict};
use crate::pipeline::admitted::{Admitted, Asked};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::forwarded;
use crate::pipeline::reject::Cause;
use crate::pipeline::request_body::{FaultCell, UpstreamRequestBody};
use crate::pipeline::respond::Reject;
use crate::pipeline::websocket::Handshake;
use crate::upstream::cluster::Cluster;

/// Unreserved characters stay, all others are escaped, in query parameters that the policy sets.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// A request that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Cleared {
    pub(crate) exchange: Box<Exchange>,
    pub(crate) asked: Asked,
    pub(crate) request: Request<UpstreamRequestBody>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) response_timeout: Option<Duration>,
    /// Why the client's body broke off, if it did.
    pub(crate) fault: FaultCell,
    /// It is a WebSocket handshake.
    pub(crate) websocket: Option<Handshake>,
    pub(crate) response_edits: HeaderEdits,
    pub(crate) limit_headers: Vec<(HeaderName, HeaderValue)>,
}

// === impl Admitted ===

impl Admitted {
    /// Takes limits, applies edits, chooses the upstream.
    pub(crate) fn enforce(self) -> Result<Cleared, Reject> {
        let (mut exchange, asked, mut body, allow) = self.into_parts();
        let limit_headers = match take_limits(&mut exchange, &asked, &allow) {
            Ok(headers) => headers,
            Err((cause, headers)) => return Err(Reject::new(exchange, cause).with_headers(headers)),
        };
        if let Err(cause) = bound_body(&exchange, &mut body, &allow) {
            return Err(Reject::new(exchange, cause));
        }
        let fault = match &body {
            UpstreamRequestBody::Stream(stream) => stream.fault(),
            UpstreamRequestBody::Empty | UpstreamRequestBody::Whole(_) => FaultCell::default(),
        };
        let Allow { upstream: edits, response: response_edits, .. } = *allow;
        let cluster = match choose(&exchange, &asked, &edits) {
            Ok(cluster) => cluster,
            Err(cause) => return Err(Reject::new(exchange, cause)),
        };
        let websocket = Handshake::of(&exchange, &asked, &body);
        let handshake = websocket.as_ref();
        let Some(request) = assemble(&mut exchange, &asked, &edits, &cluster, body, handshake) else {
            return Err(Reject::new(exchange, Cause::Internal));
        };
        Ok(Cleared {
            exchange,
            asked,
            request,
            cluster,
            response_timeout: edits.timeout,
            fault,
            websocket,
            response_edits,
            limit_headers,
        })
    }
}

type Headers = Vec<(HeaderName, HeaderValue)>;

/// Takes from all limits or none. Scope is the policy: two policies do not share a counter by accident of names.
fn take_limits(exchange: &mut Exchange, asked: &Asked, allow: &Allow) -> Result<Headers, (Cause, Headers)> {
    if allow.limits.is_empty() {
        return Ok(Vec::new());
    }
    let requests: SmallVec<[LimitRequest<'_>; 2]> = allow
        .limits
        .iter()
        .map(|limit| LimitRequest { name: &limit.name, key: &limit.key, quota: limit.quota })
        .collect();
    let local = Rc::clone(&exchange.local);
    let api = local.runtime().apis.get(asked.target.api);
    let policy = api.and_then(|api| local.runtime().policies.get(api.policy));
    let scope = policy.map(|policy| &*policy.name).unwrap_or_default();
    let verdict = exchange.worker.shared.limits.take(scope, &requests, exchange.worker.now());
    exchange.evidence.limits = standings(&requests, &verdict);
    let mut headers = Vec::with_capacity(2);
    let mut retry_after = None;
    if let Some(fields) = limit_fields(&requests, &verdict) {
        headers.push((RATELIMIT_POLICY, fields.policy));
        headers.push((RATELIMIT, fields.state));
        retry_after = fields.retry_after;
    }
    if verdict.allowed() { Ok(headers) } else { Err((Cause::Limited { retry_after }, headers)) }
}

fn standings(requests: &[LimitRequest<'_>], verdict: &Verdict) -> SmallVec<[LimitTaken; 2]> {
    let pairs = requests.iter().zip(&verdict.standings);
    let taken = pairs.map(|(request, standing)| LimitTaken {
        name: request.name.to_owned(),
        remaining: standing.remaining,
        exceeded: standing.outcome.refuses(),
    });
    taken.collect()
}

/// `max_body`: a body that is there is measured, one that is still to come is cut off at the bound.
fn bound_body(exchange: &Exchange, body: &mut UpstreamRequestBody, allow: &Allow) -> Result<(), Cause> {
    let Some(limit) = allow.max_body else { return Ok(()) };
    if exchange.head.content_length.is_some_and(|length| length > limit.bytes()) {
        return Err(Cause::BodyTooLarge);
    }
    match body {
        UpstreamRequestBody::Whole(Some(bytes)) if bytes.len() > limit.as_usize() => Err(Cause::BodyTooLarge),
        UpstreamRequestBody::Stream(stream) => {
            stream.tighten(limit.bytes());
            Ok(())
        }
        UpstreamRequestBody::Empty | UpstreamRequestBody::Whole(_) => Ok(()),
    }
}

fn choose(exchange: &Exchange, asked: &Asked, edits: &UpstreamEdits) -> Result<Arc<Cluster>, Cause> {
    let runtime = exchange.runtime();
    if let Some(name) = &edits.name {
        return runtime.clusters.get(name).cloned().ok_or(Cause::UnknownUpstream);
    }
    let api = runtime.apis.get(asked.target.api).ok_or(Cause::Internal)?;
    Ok(Arc::clone(&api.cluster))
}

/// The request as the upstream gets it: the canonical head, what the gateway adds, and last what the policy sets.
fn assemble(
    exchange: &mut Exchange,
    asked: &Asked,
    edits: &UpstreamEdits,
    cluster: &Cluster,
    body: UpstreamRequestBody,
    websocket: Option<&Handshake>,
) -> Option<Request<UpstreamRequestBody>> {
    let target = target(exchange, edits)?;
    let asked_again = exchange.local.asks_about_responses(asked.target.api);
    exchange.keep_credentials();
    let local = Rc::clone(&exchange.local);
    let (api, route) = local.resolve(asked.target.api, asked.target.route)?;
    let head = &mut exchange.head;
    let mut headers = if asked_again { head.headers.clone() } else { std::mem::take(&mut head.headers) };
    let source = &asked.from.source;
    forwarded::write(&mut headers, &source.forwarded_for, source.peer.ip(), head.scheme, &head.authority);
    hop::add_via(&mut headers, head.protocol);
    headers
        .insert(HeaderName::from_static("x-request-id"), HeaderValue::from_str(&asked.from.request_id).ok()?);
    if asked.from.hop.trailers && cluster.settings().http2 {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    route.chain.as_ref().unwrap_or(&api.chain).withheld_headers().remove_from(&mut headers);
    edits.headers.apply(&mut headers);
    // After the policy's edits: these belong to the connection.
    if cluster.settings().forward_client_certificate {
        let certificate = source.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        match certificate.and_then(|certificate| certificate.field.clone()) {
            Some(field) => drop(headers.insert(CLIENT_CERT, field)),
            None => drop(headers.remove(CLIENT_CERT)),
        }
    }
    if cluster.settings().preserve_host {
        headers.insert(header::HOST, HeaderValue::from_str(&head.authority).ok()?);
    }
    if websocket.is_some() {
        Handshake::ask(&mut headers);
    }
    let method: Method = head.method.clone();
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.headers_mut() = headers;
    Some(request)
}

fn target(exchange: &Exchange, edits: &UpstreamEdits) -> Option<Uri> {
    let head = &exchange.head;
    let path = edits.path.as_ref().unwrap_or(&head.path).as_str();
    let query = edited_query(head.query.as_deref(), edits);
    let mut text = String::with_capacity(path.len() + query.as_ref().map_or(0, |query| query.len() + 1));
    text.push_str(path);
    if let Some(query) = query {
        text.push('?');
        text.push_str(&query);
    }
    let target = PathAndQuery::from_maybe_shared(Bytes::from(text)).ok()?;
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).ok()
}

/// The query with the policy's edits; parameters that are not touched keep their bytes and order.
fn edited_query<'q>(query: Option<&'q str>, edits: &UpstreamEdits) -> Option<std::borrow::Cow<'q, str>> {
    if edits.query_set.is_empty() && edits.query_remove.is_empty() {
        return query.map(std::borrow::Cow::Borrowed);
    }
    let is_replaced = |pair: &str| {
        form_pairs(pair).next().is_some_and(|(name, _)| {
            edits.query_remove.iter().any(|removed| *removed == name)
                || edits.query_set.iter().any(|(set, _)| *set == name)
        })
    };
    let kept = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !is_replaced(pair));
    let mut pairs: Vec<String> = kept.map(str::to_owned).collect();
    for (name, value) in &edits.query_set {
        pairs.push(format!("{}={}", utf8_percent_encode(name, QUERY), utf8_percent_encode(value, QUERY)));
    }
    (!pairs.is_empty()).then(|| std::borrow::Cow::Owned(pairs.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_edits_touch_nothing_else() {
        let edits = UpstreamEdits {
            query_set: vec![("tenant".to_owned(), "a b&c".to_owned())],
            query_remove: vec!["debug".to_owned()],
            ..UpstreamEdits::default()
        };
        let check = |query, want: &str| assert_eq!(edited_query(query, &edits).as_deref(), Some(want));
        check(Some("x=%7e&debug=1&%64ebug=2&tenant=evil&y"), "x=%7e&y&tenant=a%20b%26c");
        check(None, "tenant=a%20b%26c");
        let only_removed = UpstreamEdits { query_remove: vec!["a".to_owned()], ..UpstreamEdits::default() };
        assert_eq!(edited_query(Some("a=1"), &only_removed), None);
        assert_eq!(edited_query(Some("a=1"), &UpstreamEdits::default()).as_deref(), Some("a=1"));
    }
}
