//! One request on its way through the stages, with the evidence that its event will tell.
//!
//! Evidence is only added to, and never read to choose what happens next. The event is written when the exchange is
//! dropped, whichever way that comes about: after the response's last byte, or because the client went away.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use regorus::Value;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::base::id::DecisionId;
use crate::contract::decision::{Decision, Log, Phase};
use crate::contract::event::{Bundle, Event, Gateway, LimitTaken, LogLevel, Outcome, Outside, Timings};
use crate::contract::identity::{Failure, Identity};
use crate::contract::request::RequestHead;
use crate::identity::chain::Chain;
use crate::identity::oidc::visit::Visit;
use crate::pipeline::Worker;
use crate::pipeline::connection::Connection;
use crate::pipeline::reject::Cause;
use crate::policy::decide;
use crate::runtime::snapshot::Runtime;
use crate::runtime::worker::Local;
use crate::telemetry::metrics::{DecisionKind, OutsideKind, Stage, UpstreamOutcome, WorkerMetrics};
use crate::upstream::cluster::Cluster;

/// A request being handled. Dropping it ends it and writes its event.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) worker: Rc<Worker>,
    /// The one snapshot this request sees.
    pub(crate) local: Rc<Local>,
    pub(crate) connection: Rc<Connection>,
    pub(crate) head: RequestHead,
    /// A browser's cookies of the gateway's own, where any provider may have set some.
    pub(crate) visit: Option<Box<Visit>>,
    pub(crate) evidence: Evidence,
}

/// What was learned about a request.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that became of the request")]
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) decision_id: DecisionId,
    /// Since the Unix epoch.
    pub(crate) received_at: Duration,
    pub(crate) started: Instant,
    /// The head could be read; otherwise there is nothing to record but the count.
    pub(crate) parsed: bool,
    /// Indices of API and route.
    pub(crate) route: Option<(usize, usize)>,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) identity_failure: Option<Failure>,
    /// The question whose input and result are told, once the policy was asked.
    pub(crate) decided: Option<Phase>,
    pub(crate) input: Option<Value>,
    pub(crate) result: Option<Value>,
    pub(crate) policy_error: Option<String>,
    pub(crate) limits: SmallVec<[LimitTaken; 2]>,
    pub(crate) fail_open: bool,
    /// What the policy asked outside, as far as it got.
    pub(crate) outside: Outside,
    /// The decision is one made before.
    pub(crate) remembered: bool,
    pub(crate) log: Log,
    /// Values of the headers that carry credentials, once the headers themselves have gone upstream.
    pub(crate) credentials: SmallVec<[HeaderValue; 1]>,
    /// The upstream that was chosen.
    pub(crate) upstream: Option<Arc<Cluster>>,
    /// Index of its endpoint that answered.
    pub(crate) endpoint: Option<usize>,
    pub(crate) timings: Timings,
    /// Policy's reason of an allow.
    pub(crate) reason: Option<Cow<'static, str>>,
    pub(crate) outcome: Outcome,
    /// 0 until a response is made.
    pub(crate) status: u16,
    pub(crate) response_bytes: u64,
    /// The response has reached its end.
    pub(crate) completed: bool,
}

// === impl Evidence ===

impl Evidence {
    pub(crate) fn new(decision_id: DecisionId, received_at: Duration) -> Self {
        Self {
            decision_id,
            received_at,
            started: Instant::now(),
            parsed: true,
            route: None,
            identity: None,
            identity_failure: None,
            decided: None,
            input: None,
            result: None,
            policy_error: None,
            limits: SmallVec::new(),
            fail_open: false,
            outside: Outside::default(),
            remembered: false,
            log: Log::default(),
            credentials: SmallVec::new(),
            upstream: None,
            endpoint: None,
            timings: Timings::default(),
            reason: None,
            // Until proven otherwise: an exchange that is dropped half-way has failed.
            outcome: Outcome::Failed,
            status: 0,
            response_bytes: 0,
            completed: false,
        }
    }

    /// Notes how a request is refused.
    pub(crate) fn rejected(&mut self, cause: &Cause) {
        self.outcome = cause.outcome();
        self.status = cause.status().as_u16();
        let of_policy = cause.denial().and_then(|deny| deny.reason.clone());
        self.reason = Some(of_policy.map_or(Cow::Borrowed(cause.reason()), Cow::Owned));
    }

    /// Notes the status of the upstream's response.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        self.outcome = Outcome::Allowed;
    }

    /// Notes that the response could not be sent to its end.
    pub(crate) fn broke_off(&mut self, reason: &'static str) {
        self.outcome = Outcome::Failed;
        self.reason = Some(Cow::Borrowed(reason));
    }

    /// Notes what the policy said. Two questions may be asked, and one is told: the second where it stops the response,
    /// for that is then the decision.
    pub(crate) fn ruled(&mut self, phase: Phase, ruling: &decide::Ruling) {
        let log = match &ruling.decision {
            Ok(Decision::Allow(allow)) => Some(&allow.log),
            Ok(Decision::Deny(deny)) => Some(&deny.log),
            Err(_) => None,
        };
        if let Some(log) = log {
            self.log.add(log);
        }
        if phase == Phase::Request || !matches!(ruling.decision, Ok(Decision::Allow(_))) {
            self.decided = Some(phase);
            self.remembered = ruling.is_remembered;
            self.input.clone_from(&ruling.input);
            self.result.clone_from(&ruling.result);
            self.policy_error.clone_from(&ruling.error);
        }
    }
}

// === impl Exchange ===

impl Exchange {
    pub(crate) fn runtime(&self) -> &Runtime {
        self.local.runtime()
    }

    /// Whether an event of this exchange will go anywhere.
    pub(crate) fn is_recorded(&self) -> bool {
        self.worker.recorder.is_in_use()
    }

    /// Time since the request was received.
    pub(crate) fn elapsed(&self) -> Duration {
        self.evidence.started.elapsed()
    }

    /// Keeps what must be left out of the event wherever it stands. To be called before the headers go upstream.
    pub(crate) fn keep_credentials(&mut self) {
        self.evidence.credentials = credentials(self.runtime(), &self.head.headers);
    }

    /// What a client of this route is told to prove itself with, one challenge for each provider.
    pub(crate) fn challenges(&self) -> Vec<HeaderValue> {
        let found = self.evidence.route.and_then(|(api, route)| self.local.resolve(api, route));
        let chain = found.map(|(api, route)| route.chain.as_ref().unwrap_or(&api.chain));
        chain.into_iter().flat_map(Chain::challenges).collect()
    }

    /// What the gateway sets in the browser beside the answer.
    pub(crate) fn set_cookies(&self, headers: &mut HeaderMap) {
        let cookies = self.visit.as_deref().map(Visit::take_cookies).unwrap_or_default();
        if cookies.is_empty() {
            return;
        }
        for cookie in cookies {
            headers.append(header::SET_COOKIE, cookie);
        }
        // Nobody else may be given this session out of a shared cache (RFC 9111 section 7.3).
        headers.append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }

    fn record(&self) {
        let evidence = &self.evidence;
        let runtime = self.runtime();
        let api = evidence.route.and_then(|(api, _)| runtime.apis.get(api));
        let route = evidence.route.and_then(|(_, route)| api?.routes.get(route));
        let policy = api.and_then(|api| runtime.policies.get(api.policy)).zip(evidence.decided);
        let upstream = evidence.upstream.as_deref();
        let endpoint = upstream.zip(evidence.endpoint);
        let endpoint = endpoint.and_then(|(upstream, index)| upstream.endpoints().get(index));
        let facts = evidence.identity.as_ref().map(|identity| identity.facts());
        let never_sent = evidence.credentials.is_empty().then(|| credentials(runtime, &self.head.headers));
        let event = Event {
            decision_id: evidence.decision_id,
            timestamp: evidence.received_at,
            bundle: policy.map(|(policy, phase)| Bundle {
                name: &policy.name,
                revision: &policy.revision,
                path: policy.path(phase),
            }),
            input: evidence.input.as_ref(),
            result: evidence.result.as_ref(),
            error: evidence.policy_error.as_deref(),
            requested_by: self.connection.peer,
            gateway: Gateway {
                listener: runtime.listener_name(self.connection.listener),
                api: api.map(|api| &*api.name),
                version: api.and_then(|api| api.version.as_deref()),
                route: route.map(|route| &*route.name),
                method: &self.head.method,
                path: if evidence.route.is_none() {
                    self.head.raw_path.as_deref().unwrap_or_else(|| self.head.path.as_str())
                } else {
                    self.head.path.as_str()
                },
                status: evidence.status,
                outcome: evidence.outcome,
                reason: evidence.reason.as_deref(),
                provider: facts.and_then(|facts| facts.provider.as_deref()),
                subject: facts.and_then(|facts| facts.subject.as_deref()),
                identity_failure: evidence.identity_failure.as_ref().map(|failure| failure.reason),
                policy: policy.map(|(policy, _)| &*policy.name),
                upstream: upstream.map(|upstream| &**upstream.name()),
                endpoint: endpoint.map(|endpoint| endpoint.authority()),
                limits: &evidence.limits,
                fail_open: evidence.fail_open,
                remembered: evidence.remembered,
                response_bytes: evidence.response_bytes,
                aborted: !evidence.completed,
                outside: evidence.outside,
                timings: evidence.timings,
            },
            level: evidence.log.level,
            fields: evidence.log.fields.as_ref(),
            labels: evidence.log.labels.as_ref(),
            credentials: never_sent.as_ref().unwrap_or(&evidence.credentials),
            credential_headers: api.map(|api| &*api.credential_headers).unwrap_or_default(),
        };
        if evidence.log.level != LogLevel::None {
            let built = policy.map(|(policy, _)| policy.built);
            self.worker.recorder.record(&event, &runtime.labels, built);
        }
    }

    fn count(&self) {
        let evidence = &self.evidence;
        let api = evidence.route.map(|(api, _)| api);
        let metrics = &self.worker.metrics;
        if let Some(series) = self.local.series(self.connection.listener, api) {
            metrics.request(series, evidence.outcome as usize, evidence.status);
        }
        self.count_outside(metrics);
        let Timings { total_us, identity_us, policy_us, upstream_us } = evidence.timings;
        metrics.stage(Stage::Total, total_us);
        let outside_us = evidence.outside.us;
        for (stage, spent) in [
            (Stage::Identity, identity_us),
            (Stage::Policy, policy_us),
            (Stage::Outside, outside_us),
            (Stage::Upstream, upstream_us),
        ] {
            if spent > 0 {
                metrics.stage(stage, spent);
            }
        }
    }

    fn count_outside(&self, metrics: &WorkerMetrics) {
        let Outside { sends, cached, lookups, failed, us: _ } = self.evidence.outside;
        if self.evidence.outside == Outside::default() {
            return;
        }
        let api = self.evidence.route.and_then(|(api, _)| self.runtime().apis.get(api));
        let Some(policy) = api.and_then(|api| self.local.policy_series(api.policy)) else { return };
        let kinds = [OutsideKind::Sent, OutsideKind::Cached, OutsideKind::LookedUp, OutsideKind::Failed];
        for (kind, count) in kinds.into_iter().zip([sends, cached, lookups, failed]) {
            (0..count).for_each(|_| metrics.outside(policy, kind));
        }
    }

    /// Counts a refusal of the gateway's own.
    pub(crate) fn count_refusal(&self, cause: &Cause) {
        if let Some(index) = cause.counted() {
            self.worker.metrics.refusal(index);
        }
    }

    /// Counts what came of asking the upstream, and the tries it took.
    pub(crate) fn count_upstream(&self, cluster: &Cluster, outcome: UpstreamOutcome, tries: u32) {
        if let Some(series) = self.local.upstream_series(cluster.name()) {
            self.worker.metrics.upstream_request(series, outcome);
            for _ in 1..tries {
                self.worker.metrics.upstream_retry(series);
            }
        }
    }

    /// Counts what the policy decided.
    pub(crate) fn count_decision(
        &self,
        policy: usize,
        decision: &Result<Decision, decide::Failure>,
        fail_open: bool,
    ) {
        let kind = match decision {
            Ok(Decision::Allow(_)) => DecisionKind::Allow,
            Ok(Decision::Deny(_)) => DecisionKind::Deny,
            Err(_) if fail_open => DecisionKind::FailOpen,
            Err(decide::Failure::Budget) => DecisionKind::Budget,
            Err(decide::Failure::Panic) => DecisionKind::Panic,
            Err(decide::Failure::Undefined | decide::Failure::Error | decide::Failure::Result) => {
                DecisionKind::Error
            }
        };
        if let Some(series) = self.local.policy_series(policy) {
            self.worker.metrics.decision(series, kind);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.control.request_ended();
        self.evidence.timings.total_us = micros(self.elapsed());
        if !self.evidence.completed && self.evidence.outcome == Outcome::Allowed {
            self.evidence.outcome = Outcome::Failed;
            self.evidence.reason = Some(Cow::Borrowed("aborted"));
        } else if self.evidence.status == 0 {
            // Nobody waited for the answer; what the policy said of the request is not why it failed.
            self.evidence.reason = Some(Cow::Borrowed("client_gone"));
        }
        self.count();
        if self.evidence.parsed {
            self.record();
        }
    }
}

/// Whole microseconds, capped.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Values of the headers that any provider takes a credential from.
pub(crate) fn credentials(runtime: &Runtime, headers: &HeaderMap) -> SmallVec<[HeaderValue; 1]> {
    let names = runtime.apis.first().map(|api| &*api.credential_headers).unwrap_or_default();
    let values = names.iter().flat_map(|name| headers.get_all(name)).cloned();
    let sensitive = values.map(|mut value| {
        value.set_sensitive(true);
        value
    });
    sensitive.collect()
}
