//! The last stage: the request goes upstream, and the response to the client.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::time::Instant;

use crate::contract::decision::HeaderEdits;
use crate::contract::hop;
use crate::contract::request::ResponseFacts;
use crate::pipeline::admitted::{self, Asked};
use crate::pipeline::cleared::Cleared;
use crate::pipeline::exchange::{Exchange, micros};
use crate::pipeline::reject::Cause;
use crate::pipeline::request_body::FaultCell;
use crate::pipeline::respond::{Reject, ResponseBody};
use crate::pipeline::websocket::{self, Handshake};
use crate::telemetry::metrics::UpstreamOutcome;
use crate::upstream::cluster::EndpointState;
use crate::upstream::error::{ErrorClass, UpstreamError};
use crate::upstream::pool::{Reply, SendOptions};

/// A 101 that does not answer the handshake it came for.
const BAD_SWITCH: Cause = Cause::UpstreamFailed { reason: "upstream_bad_upgrade" };

/// A request that the upstream has answered.
#[derive(Debug)]
struct Responded {
    exchange: Box<Exchange>,
    asked: Asked,
    reply: Reply,
    latency_ms: u64,
    websocket: Option<Handshake>,
    edits: HeaderEdits,
    limit_headers: Vec<(HeaderName, HeaderValue)>,
}

// === impl Cleared ===

impl Cleared {
    /// Sends the request and makes the response.
    // Not `async fn`: that would hold, and move, all parts twice.
    pub(crate) fn forward(self) -> impl Future<Output = Result<Response<ResponseBody>, Reject>> {
        let Self {
            mut exchange,
            asked,
            request,
            cluster,
            response_timeout,
            fault,
            websocket,
            response_edits: edits,
            limit_headers,
        } = self;
        let pool = exchange.worker.pools.get(&cluster);
        // Now, not with the answer: who leaves meanwhile leaves an event behind, too.
        exchange.evidence.upstream = Some(cluster);
        let options = SendOptions { deadline: None, response_timeout, upgrade: websocket.is_some() };
        async move {
            let started = Instant::now();
            let sent = pool.send(request, &options).await;
            let latency = started.elapsed();
            exchange.evidence.timings.upstream_us = micros(latency);
            let reply = match sent {
                Ok(reply) => reply,
                Err(error) => {
                    let cause = cause(&error, &fault);
                    exchange.count_upstream(pool.cluster(), failure(&error, &fault), 1);
                    tracing::debug!(decision.id = %exchange.evidence.decision_id, error = %chain(&error), "Upstream failed");
                    return Err(Reject::new(exchange, cause).with_headers(limit_headers));
                }
            };
            let answering =
                |endpoint: &Arc<EndpointState>| std::ptr::eq(Arc::as_ptr(endpoint), reply.body().endpoint());
            exchange.evidence.endpoint = pool.cluster().endpoints().iter().position(answering);
            let outcome = UpstreamOutcome::of_status(reply.status().as_u16());
            exchange.count_upstream(pool.cluster(), outcome, reply.body().tries());
            let latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
            Responded { exchange, asked, reply, latency_ms, websocket, edits, limit_headers }.respond().await
        }
    }
}

// === impl Responded ===

impl Responded {
    /// Edits the response's head and asks the policy about it, a switch of protocols like any other.
    async fn respond(self) -> Result<Response<ResponseBody>, Reject> {
        let Self { mut exchange, asked, mut reply, latency_ms, websocket, edits, limit_headers } = self;
        let switches = reply.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !websocket.is_some_and(|handshake| handshake.is_answered_by(reply.headers())) {
            return Err(Reject::new(exchange, BAD_SWITCH).with_headers(limit_headers));
        }
        hop::strip_response(reply.headers_mut());
        edits.apply(reply.headers_mut());
        if exchange.local.asks_about_responses(asked.target.api) {
            let status = reply.status().as_u16();
            let response = ResponseFacts { status, headers: reply.headers(), latency_ms };
            match admitted::ask(&mut exchange, &asked, Some(response)).await {
                Ok(allow) => allow.response.apply(reply.headers_mut()),
                Err(cause) => return Err(Reject::new(exchange, cause).with_headers(limit_headers)),
            }
        }
        exchange.evidence.answered(reply.status());
        add(&exchange, asked.target.api, reply.headers_mut(), limit_headers);
        if switches {
            return Ok(websocket::switch(exchange, reply));
        }
        let (mut parts, body) = reply.into_parts();
        parts.extensions.clear();
        // The connection to the client is ours: an upstream's HTTP/1.0 must not end it after each response.
        parts.version = http::Version::HTTP_11;
        Ok(Response::from_parts(parts, ResponseBody::upstream(body, exchange)))
    }
}

/// What the gateway itself tells the client: limits, and that the API is going to end.
fn add(
    exchange: &Exchange,
    api: usize,
    headers: &mut http::HeaderMap,
    limit_headers: Vec<(HeaderName, HeaderValue)>,
) {
    for (name, value) in limit_headers {
        headers.insert(name, value);
    }
    exchange.set_cookies(headers);
    if let Some(api) = exchange.runtime().apis.get(api) {
        // A date can be told only once, links of both.
        for (name, _) in api.lifecycle_headers.iter().filter(|(name, _)| *name != header::LINK) {
            headers.remove(name);
        }
        for (name, value) in &api.lifecycle_headers {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// What a failed exchange with the upstream means to the client: 502, 503, 504, or its own body's fault.
fn cause(error: &UpstreamError, fault: &FaultCell) -> Cause {
    // The client's body ends the exchange in one of several ways, but its own account is the true one.
    if let Some(fault) = fault.get() {
        return fault.cause();
    }
    match error.class() {
        ErrorClass::Unavailable => Cause::UpstreamUnavailable { reason: error.reason() },
        ErrorClass::BadGateway => Cause::UpstreamFailed { reason: error.reason() },
        ErrorClass::Timeout => Cause::UpstreamTimeout { reason: error.reason() },
        ErrorClass::Client => Cause::BodyBroken,
        ErrorClass::Gateway => Cause::Internal,
    }
}

fn failure(error: &UpstreamError, fault: &FaultCell) -> UpstreamOutcome {
    if fault.get().is_some() {
        return UpstreamOutcome::Canceled;
    }
    match error.class() {
        ErrorClass::Unavailable => UpstreamOutcome::ConnectFailed,
        ErrorClass::Timeout => UpstreamOutcome::Timeout,
        ErrorClass::Client => UpstreamOutcome::Canceled,
        ErrorClass::BadGateway | ErrorClass::Gateway => UpstreamOutcome::Broken,
    }
}

/// An error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
