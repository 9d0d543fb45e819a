//! The fourth stage: the facts that the policy can read and that are not there yet, above all the body.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};

use crate::contract::body::BodyKind;
use crate::contract::canonical;
use crate::contract::identity::Identity;
use crate::contract::request::BodyFacts;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::identified::Identified;
use crate::pipeline::received::Origin;
use crate::pipeline::reject::Cause;
use crate::pipeline::request_body::{BodyFault, LimitedBody, UpstreamRequestBody};
use crate::pipeline::respond::Reject;
use crate::pipeline::routed::Target;

/// A request with all facts that its policy can read.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) exchange: Box<Exchange>,
    pub(crate) from: Origin,
    pub(crate) target: Target,
    pub(crate) identity: Arc<Identity>,
    pub(crate) facts: BodyFacts,
    pub(crate) body: UpstreamRequestBody,
}

// === impl Identified ===

impl Identified {
    /// Reads what the policy reads; a body is whole or refused.
    pub(crate) async fn inspect(self) -> Result<Inspected, Reject> {
        let Self { exchange, body, from, target, identity } = self;
        let local = Rc::clone(&exchange.local);
        let Some((api, route)) = local.resolve(target.api, target.route) else {
            return Err(Reject::new(exchange, Cause::Internal));
        };
        let listener = local.runtime().listener(exchange.connection.listener);
        let (Some(decider), Some(listener)) = (local.decider(api.policy), listener) else {
            return Err(Reject::new(exchange, Cause::Internal));
        };
        let limits = &listener.config.limits;
        let bounds = Bounds {
            bytes: route.body_limit.unwrap_or(limits.body_bytes.bytes()),
            timeout: limits.body_timeout,
        };
        let (reads_body, reads_query) = {
            let decider = decider.borrow();
            (decider.needs_body(), decider.reads_query())
        };
        if reads_query && !exchange.head.query.as_deref().is_none_or(canonical::is_decodable) {
            return Err(Reject::new(exchange, Cause::QueryMalformed));
        }
        match inspect(&exchange, body, bounds, reads_body).await {
            Ok((facts, body)) => Ok(Inspected { exchange, from, target, identity, facts, body }),
            Err(cause) => Err(Reject::new(exchange, cause)),
        }
    }
}

/// Bounds of a body.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    bytes: u64,
    timeout: Duration,
}

async fn inspect(
    exchange: &Exchange,
    body: Incoming,
    bounds: Bounds,
    reads_body: bool,
) -> Result<(BodyFacts, UpstreamRequestBody), Cause> {
    if body.is_end_stream() {
        return Ok((BodyFacts::Absent, UpstreamRequestBody::Empty));
    }
    let length = exchange.head.content_length;
    if length.is_some_and(|length| length > bounds.bytes) {
        return Err(Cause::BodyTooLarge);
    }
    let body = LimitedBody::new(body, bounds.bytes, bounds.timeout, Rc::clone(&exchange.connection));
    if !reads_body {
        return Ok((BodyFacts::Unread, UpstreamRequestBody::Stream(body)));
    }
    let kind = BodyKind::of(&exchange.head.headers)?;
    let bytes = body.collect(length).await.map_err(BodyFault::cause)?;
    let facts = kind.read(&bytes)?;
    Ok((facts, UpstreamRequestBody::whole(bytes)))
}
