//! The fifth stage: the decision. Only here an [`Admitted`] is made, and only an allow makes one.

use std::borrow::Cow;
use std::rc::Rc;

use tokio::time::Instant;

use crate::config::model::OnError;
use crate::contract::decision::{Allow, Decision, Phase};
use crate::contract::identity::Identity;
use crate::contract::input::Facts;
use crate::contract::request::{ApiFacts, BodyFacts, ResponseFacts};
use crate::pipeline::exchange::{Exchange, micros};
use crate::pipeline::inspected::Inspected;
use crate::pipeline::received::Origin;
use crate::pipeline::reject::Cause;
use crate::pipeline::request_body::UpstreamRequestBody;
use crate::pipeline::respond::Reject;
use crate::pipeline::routed::Target;
use crate::policy::decide::{Keep, Ruling, Unanswered};
use crate::rego::outside::Settled;
use crate::runtime::outside::Spent;

/// A request that the policy has allowed.
///
/// INVARIANT: nothing is forwarded without one, and nothing outside this file can make one.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) exchange: Box<Exchange>,
    pub(crate) asked: Asked,
    pub(crate) body: UpstreamRequestBody,
    obligations: Box<Allow>,
}

/// What the policy was asked about, for the response phase.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) from: Origin,
    pub(crate) target: Target,
    pub(crate) identity: std::sync::Arc<Identity>,
    pub(crate) facts: BodyFacts,
}

// === impl Admitted ===

impl Admitted {
    /// Its parts, for the stage that enforces the obligations.
    pub(crate) fn into_parts(self) -> (Box<Exchange>, Asked, UpstreamRequestBody, Box<Allow>) {
        (self.exchange, self.asked, self.body, self.obligations)
    }
}

// === impl Inspected ===

impl Inspected {
    /// Asks the policy.
    pub(crate) async fn decide(self) -> Result<Admitted, Reject> {
        let Self { mut exchange, from, target, identity, facts, body } = self;
        let asked = Asked { from, target, identity, facts };
        match ask(&mut exchange, &asked, None).await {
            Ok(obligations) => Ok(Admitted { exchange, asked, body, obligations }),
            Err(cause) => Err(Reject::new(exchange, cause)),
        }
    }
}

/// Asks the policy about the request, or about the response where there is one.
pub(crate) async fn ask(
    exchange: &mut Exchange,
    asked: &Asked,
    response: Option<ResponseFacts<'_>>,
) -> Result<Box<Allow>, Cause> {
    let phase = if response.is_some() { Phase::Response } else { Phase::Request };
    let mut settled = Settled::default();
    let ruling = match evaluate(exchange, asked, response, &mut settled)? {
        Ok(ruling) => ruling,
        // Few policies ask outside, and all requests would carry the room for it.
        Err(unanswered) => Box::pin(ask_outside(exchange, asked, response, *unanswered, settled)).await?,
    };
    conclude(exchange, asked, phase, ruling)
}

/// Evaluates the policy with what is settled so far. Its question comes back where it must be told more.
fn evaluate(
    exchange: &mut Exchange,
    asked: &Asked,
    response: Option<ResponseFacts<'_>>,
    settled: &mut Settled,
) -> Result<Result<Ruling, Box<Unanswered>>, Cause> {
    let local = Rc::clone(&exchange.local);
    let (api, route) = local.resolve(asked.target.api, asked.target.route).ok_or(Cause::Internal)?;
    let decider = local.decider(api.policy).ok_or(Cause::Internal)?;
    let phase = if response.is_some() { Phase::Response } else { Phase::Request };
    let started = Instant::now();
    let facts = Facts {
        decision_id: exchange.evidence.decision_id,
        time: exchange.evidence.received_at,
        listener: local.runtime().listener_name(exchange.connection.listener),
        request_id: &asked.from.request_id,
        source: &asked.from.source,
        head: &exchange.head,
        body: &asked.facts,
        api: ApiFacts {
            name: &api.name,
            version: api.version.as_deref(),
            route: &route.name,
            params: &asked.target.params,
            lifecycle: &api.lifecycle,
        },
        identity: &asked.identity,
        response,
    };
    let keep = if exchange.is_recorded() { Keep::Input } else { Keep::Nothing };
    let ruling = decider.borrow_mut().decide_settled(&facts, phase, keep, settled);
    exchange.evidence.timings.policy_us += micros(started.elapsed());
    Ok(ruling)
}

/// Answers the policy's questions, one after the other, until it rules. How many there may be, and how long they may
/// take, is bounded by who answers: the last answer is a refusal.
async fn ask_outside(
    exchange: &mut Exchange,
    asked: &Asked,
    response: Option<ResponseFacts<'_>>,
    first: Unanswered,
    mut settled: Settled,
) -> Result<Ruling, Cause> {
    let local = Rc::clone(&exchange.local);
    let (api, _) = local.resolve(asked.target.api, asked.target.route).ok_or(Cause::Internal)?;
    let Some(outbound) = local.outbound(api.policy) else { return Ok(first.into_ruling()) };
    let mut spent = Spent::default();
    let now = exchange.evidence.received_at;
    let mut unanswered = first;
    loop {
        // CANCEL: what was sent is in the evidence, whether or not anybody waits for the answer.
        let told = &mut exchange.evidence.outside;
        let reply = outbound.answer(&unanswered.question, &mut spent, told, now).await;
        settled.answer(unanswered.question, reply);
        match evaluate(exchange, asked, response, &mut settled)? {
            Ok(ruling) => return Ok(ruling),
            Err(next) => unanswered = *next,
        }
    }
}

/// Notes what the policy has ruled, and what that means.
fn conclude(
    exchange: &mut Exchange,
    asked: &Asked,
    phase: Phase,
    ruling: Ruling,
) -> Result<Box<Allow>, Cause> {
    let local = Rc::clone(&exchange.local);
    let (api, _) = local.resolve(asked.target.api, asked.target.route).ok_or(Cause::Internal)?;
    let policy = local.runtime().policies.get(api.policy).ok_or(Cause::Internal)?;
    exchange.evidence.ruled(phase, &ruling);
    let fail_open = ruling.decision.is_err() && policy.on_error == OnError::Allow;
    exchange.count_decision(api.policy, &ruling.decision, fail_open);
    match ruling.decision {
        Ok(Decision::Allow(allow)) => {
            if phase == Phase::Request {
                exchange.evidence.reason = allow.reason.clone().map(Cow::Owned);
            }
            Ok(allow)
        }
        Ok(Decision::Deny(deny)) if phase == Phase::Response => Err(Cause::ResponseDenied(deny)),
        Ok(Decision::Deny(deny)) => Err(Cause::Denied(deny)),
        Err(failure) => match policy.on_error {
            OnError::Deny => Err(Cause::PolicyFailed(failure)),
            // The operator has asked for this; every such request is marked and counted.
            OnError::Allow => {
                exchange.evidence.fail_open = true;
                Ok(Box::default())
            }
        },
    }
}
