//! The second stage: which API and route the request is for.

use hyper::body::Incoming;

use crate::pipeline::exchange::Exchange;
use crate::pipeline::received::{Origin, Received};
use crate::pipeline::reject::Cause;
use crate::pipeline::respond::Reject;
use crate::runtime::router::{NoMatch, Params};
use crate::runtime::snapshot::{Api, Listener, Route};

/// A request for a known route.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) exchange: Box<Exchange>,
    pub(crate) body: Incoming,
    pub(crate) from: Origin,
    pub(crate) target: Target,
}

/// What a request is for, by index into the snapshot.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) api: usize,
    pub(crate) route: usize,
    pub(crate) params: Params,
}

// === impl Target ===

impl Target {
    /// The API and the route themselves. The indices come from the same snapshot's router, so both are there.
    pub(crate) fn resolve<'r>(&self, exchange: &'r Exchange) -> Option<(&'r Api, &'r Route)> {
        let api = exchange.runtime().apis.get(self.api)?;
        Some((api, api.routes.get(self.route)?))
    }
}

// === impl Received ===

impl Received {
    /// Finds the route.
    pub(crate) fn route(self) -> Result<Routed, Reject> {
        let Self { mut exchange, body, from } = self;
        let target = match find(&exchange, &from) {
            Ok(target) => target,
            Err(cause) => return Err(Reject::new(exchange, cause)),
        };
        exchange.evidence.route = Some((target.api, target.route));
        let local = std::rc::Rc::clone(&exchange.local);
        let Some(api) = local.runtime().apis.get(target.api) else {
            return Err(Reject::new(exchange, Cause::Internal));
        };
        if api.retired {
            return Err(Reject::new(exchange, Cause::Retired));
        }
        api.identity_headers.remove_from(&mut exchange.head.headers);
        Ok(Routed { exchange, body, from, target })
    }
}

fn find(exchange: &Exchange, from: &Origin) -> Result<Target, Cause> {
    let listener = check_connection(exchange, from)?;
    let head = &exchange.head;
    match listener.router.find(&head.host, head.path.as_str(), &head.method) {
        Ok(found) => Ok(Target { api: found.api, route: found.route, params: found.params }),
        Err(NoMatch::Path) => Err(Cause::NoRoute),
        Err(NoMatch::Method { allow }) => Err(Cause::MethodNotAllowed { allow }),
    }
}

/// The listener, where the connection may be used for the request's host.
pub(super) fn check_connection<'r>(exchange: &'r Exchange, from: &Origin) -> Result<&'r Listener, Cause> {
    let listener = exchange.runtime().listener(exchange.connection.listener).ok_or(Cause::Internal)?;
    let head = &exchange.head;
    // A certificate that was revoked after the handshake is none.
    let shown = exchange.connection.shown.as_ref();
    if shown.is_some_and(|shown| !listener.accepts(shown, exchange.evidence.received_at)) {
        return Err(Cause::CertificateWithdrawn);
    }
    // A connection made for one host must not be used for another whose rules the handshake has not met (RFC 9110
    // section 15.5.20).
    let sni = from.source.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    if sni.is_some_and(|sni| sni != head.host) && listener.router.names_host(&head.host) {
        return Err(Cause::Misdirected);
    }
    Ok(listener)
}
