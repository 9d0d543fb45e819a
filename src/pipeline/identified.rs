//! The third stage: who is asking.

use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Incoming;
use tokio::time::Instant;

use crate::config::model::{Anonymous, BadCredential};
use crate::contract::identity::{Failure, Identity};
use crate::identity::chain::Outcome;
use crate::identity::{Presented, Target as Asked};
use crate::pipeline::exchange::{Exchange, micros};
use crate::pipeline::received::Origin;
use crate::pipeline::reject::Cause;
use crate::pipeline::respond::Reject;
use crate::pipeline::routed::{Routed, Target};

/// A request whose sender is known, or known to be anonymous.
#[derive(Debug)]
pub(crate) struct Identified {
    pub(crate) exchange: Box<Exchange>,
    pub(crate) body: Incoming,
    pub(crate) from: Origin,
    pub(crate) target: Target,
    pub(crate) identity: Arc<Identity>,
}

// === impl Routed ===

impl Routed {
    /// Asks the route's providers in order.
    pub(crate) async fn identify(self) -> Result<Identified, Reject> {
        let Self { mut exchange, body, from, target } = self;
        let local = Rc::clone(&exchange.local);
        let Some((api, route)) = local.resolve(target.api, target.route) else {
            return Err(Reject::new(exchange, Cause::Internal));
        };
        let chain = route.chain.as_ref().unwrap_or(&api.chain);
        let identity = if chain.is_empty() {
            Arc::clone(&local.anonymous)
        } else {
            let started = Instant::now();
            let presented = Presented {
                headers: &exchange.head.headers,
                query: exchange.head.query.as_deref(),
                tls: from.source.tls.as_deref(),
                target: Asked {
                    method: &exchange.head.method,
                    scheme: exchange.head.scheme,
                    authority: &exchange.head.authority,
                    path: exchange.head.path.as_str(),
                    client: from.source.client_ip,
                    visit: exchange.visit.as_deref(),
                },
                now: exchange.evidence.received_at,
            };
            let outcome = chain.authenticate(&presented, &exchange.worker.identities).await;
            exchange.evidence.timings.identity_us = micros(started.elapsed());
            match outcome {
                Outcome::Proven(identity) => identity,
                Outcome::Anonymous => match api.anonymous {
                    Anonymous::Allow => Arc::clone(&local.anonymous),
                    Anonymous::Reject => return Err(Reject::new(exchange, Cause::CredentialRequired)),
                },
                Outcome::Refused(refusal) => match api.on_bad_credential {
                    BadCredential::Fact => failed(&mut exchange, refusal.failure),
                    BadCredential::Reject => {
                        let cause = Cause::BadCredential {
                            reason: refusal.failure.reason,
                            challenge: refusal.challenge,
                            reply: refusal.reply,
                        };
                        exchange.evidence.identity_failure = Some(refusal.failure);
                        return Err(Reject::new(exchange, cause));
                    }
                },
                // Nobody is let in, as anonymous either, because a provider is down: fail closed.
                Outcome::Unavailable(failure) => {
                    let cause = Cause::IdentityUnavailable { reason: failure.reason };
                    exchange.evidence.identity_failure = Some(failure);
                    return Err(Reject::new(exchange, cause));
                }
            }
        };
        exchange.evidence.identity = Some(Arc::clone(&identity));
        Ok(Identified { exchange, body, from, target, identity })
    }
}

/// The policy is told of the refused credential, and decides.
fn failed(exchange: &mut Exchange, failure: Failure) -> Arc<Identity> {
    let identity = Arc::new(Identity::failed(&failure));
    exchange.evidence.identity_failure = Some(failure);
    identity
}
