//! A worker's way to the thread that evaluates beside the requests: note the facts, hand them over a little later.
//!
//! On the way of a request it costs a look at the sample and, for what is taken, the building of an input. The thread is
//! woken once for many requests, never for one.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use regorus::Value;
use tokio::sync::Notify;

use crate::config::model::Name;
use crate::contract::canonical;
use crate::contract::decision::Phase;
use crate::contract::form::Inputs;
use crate::contract::input::Facts;
use crate::contract::request::BodyFacts;
use crate::policy::decide::Ruling;
use crate::policy::divergence::Decided;
use crate::runtime::beside::candidate::{Candidate, Shadow, Verifier};
use crate::runtime::beside::queue::{Queue, Task, Weighed, Work};
use crate::runtime::snapshot::Policy;
use crate::telemetry::metrics::{PolicyId, Unshadowed, WorkerMetrics};

/// Tasks from which on they are handed over at once.
const BATCH: usize = 64;
/// Estimated bytes from which on they are.
const BATCH_BYTES: usize = 1 << 20;
/// The longest that a task waits for others.
const LINGER: Duration = Duration::from_millis(20);
/// Estimated bytes of an input without its headers and its body.
const INPUT_BYTES: usize = 2 << 10;
/// What a parsed body takes, as a multiple of its text.
const BODY_FACTOR: usize = 8;

/// What of a policy is looked at again, as one worker knows it.
#[derive(Debug)]
pub struct Lookout {
    series: PolicyId,
    shadow: Option<Shadowing>,
    verifier: Option<Verifying>,
}

/// A policy on the interpreter, and the worker's own builders of its inputs.
#[derive(Debug)]
struct Verifying {
    verifier: Arc<Verifier>,
    request: Inputs,
    response: Option<Inputs>,
}

/// A candidate, and the worker's own builders of its inputs.
#[derive(Debug)]
struct Shadowing {
    candidate: Arc<Candidate>,
    request: Inputs,
    response: Option<Inputs>,
    reads_query: bool,
}

/// What was asked and decided.
#[derive(Debug)]
pub struct Offer<'a> {
    /// The facts.
    pub facts: &'a Facts<'a>,
    /// The question.
    pub phase: Phase,
    /// The answer.
    pub ruling: &'a Ruling,
    /// The API.
    pub api: &'a Name,
    /// The route.
    pub route: &'a Name,
    /// Bytes of the request's body, where it was read.
    pub body_bytes: usize,
    /// When it was asked.
    pub now: Instant,
}

/// Tasks of one worker that are not handed over yet.
#[derive(Debug)]
pub struct Outbox {
    queue: Arc<Queue>,
    tasks: RefCell<Vec<Weighed<Task>>>,
    bytes: Cell<usize>,
    due: Cell<bool>,
    first: Notify,
}

// === impl Lookout ===

impl Lookout {
    /// What is to be looked at again of `policy`, if anything is.
    pub fn new(policy: &Policy, series: PolicyId) -> Option<Self> {
        let shadow = match &policy.shadow {
            Some(Shadow::Loaded(candidate)) if !candidate.is_in_force(policy) => {
                Some(Shadowing::new(candidate))
            }
            Some(Shadow::Loaded(_) | Shadow::Awaited { .. } | Shadow::Refused { .. }) | None => None,
        };
        let verifier = policy.verifier.as_ref().map(Verifying::new);
        (shadow.is_some() || verifier.is_some()).then_some(Self { series, shadow, verifier })
    }
}

// === impl Shadowing ===

impl Shadowing {
    fn new(candidate: &Arc<Candidate>) -> Self {
        let contract = candidate.policy.rules.contract;
        let response = candidate.response.as_ref();
        Self {
            request: contract.inputs(&candidate.request),
            response: response.map(|reads| contract.inputs(reads)),
            reads_query: contract.reads_query(&candidate.request)
                || response.is_some_and(|reads| contract.reads_query(reads)),
            candidate: Arc::clone(candidate),
        }
    }

    fn task(&self, offer: &Offer<'_>, draw: u32, series: PolicyId) -> Result<Weighed<Task>, Unshadowed> {
        let Offer { facts, phase, .. } = offer;
        if !self.candidate.sampling.sample.takes(draw) {
            return Err(Unshadowed::Sample);
        }
        if self.candidate.left_to_chance {
            return Err(Unshadowed::Chance);
        }
        if !self.candidate.allowance.is_open(offer.now) {
            return Err(Unshadowed::Budget);
        }
        let inputs = match phase {
            Phase::Request => &self.request,
            // It is built with the same rules as the policy in force.
            Phase::Response => self.response.as_ref().unwrap_or(&self.request),
        };
        if inputs.needs_body() && matches!(facts.body, BodyFacts::Unread) {
            return Err(Unshadowed::Body);
        }
        if self.reads_query && !facts.head.query.as_deref().is_none_or(canonical::is_decodable) {
            return Err(Unshadowed::Query);
        }
        let body = if inputs.needs_body() { offer.body_bytes } else { 0 };
        let work = Work::Shadow(Arc::clone(&self.candidate));
        Ok(offer.task(work, inputs.build(facts), series, body))
    }
}

// === impl Verifying ===

impl Verifying {
    fn new(verifier: &Arc<Verifier>) -> Self {
        let contract = verifier.policy.rules.contract;
        Self {
            request: contract.inputs(&verifier.request),
            response: verifier.response.as_ref().map(|reads| contract.inputs(reads)),
            verifier: Arc::clone(verifier),
        }
    }

    fn task(&self, offer: &Offer<'_>, draw: u32, series: PolicyId) -> Option<Weighed<Task>> {
        let Self { verifier, request, response } = self;
        let taken = verifier.sampling.sample.takes(draw)
            && verifier.compares(offer.phase)
            && verifier.allowance.is_open(offer.now);
        let inputs = match (offer.phase, response) {
            _ if !taken => return None,
            (Phase::Request, _) => request,
            (Phase::Response, Some(response)) => response,
            (Phase::Response, None) => return None,
        };
        // A plan may have decided without one.
        let input = offer.ruling.input.clone().unwrap_or_else(|| inputs.build(offer.facts));
        Some(offer.task(Work::Verify(Arc::clone(verifier)), input, series, offer.body_bytes))
    }
}

// === impl Offer ===

impl Offer<'_> {
    fn task(&self, work: Work, input: Value, series: PolicyId, body_bytes: usize) -> Weighed<Task> {
        let head = self.facts.head;
        let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let text = headers + head.path.as_str().len() + head.query.as_ref().map_or(0, String::len);
        let item = Task {
            work,
            decided: Decided::new(self.facts.decision_id, self.facts.time, self.phase, self.ruling),
            input,
            api: Arc::clone(self.api),
            route: Arc::clone(self.route),
            series,
        };
        Weighed { item, bytes: INPUT_BYTES + 2 * text + BODY_FACTOR.saturating_mul(body_bytes) }
    }
}

// === impl Outbox ===

impl Outbox {
    /// An empty outbox in front of `queue`.
    pub fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            tasks: RefCell::default(),
            bytes: Cell::new(0),
            due: Cell::new(false),
            first: Notify::new(),
        }
    }

    /// Notes what is to be looked at again.
    pub fn offer(&self, lookout: &Lookout, offer: &Offer<'_>, metrics: &WorkerMetrics) {
        let draw = offer.facts.decision_id.draw();
        if let Some(shadow) = &lookout.shadow {
            match shadow.task(offer, draw, lookout.series) {
                Ok(task) => self.push(task, metrics),
                Err(why) => metrics.unshadowed(lookout.series, why),
            }
        }
        let verifier = lookout.verifier.as_ref();
        if let Some(task) =
            verifier.and_then(|verifier| verifier.task(offer, draw.reverse_bits(), lookout.series))
        {
            self.push(task, metrics);
        }
    }

    fn push(&self, task: Weighed<Task>, metrics: &WorkerMetrics) {
        self.bytes.set(self.bytes.get().saturating_add(task.bytes));
        let mut tasks = self.tasks.borrow_mut();
        tasks.push(task);
        if tasks.len() >= BATCH || self.bytes.get() >= BATCH_BYTES {
            drop(tasks);
            self.hand_over(metrics);
        } else if !self.due.replace(true) {
            self.first.notify_one();
        }
    }

    /// Hands over a little after the first task that found the outbox empty, and so on. To be spawned once on the worker's
    /// runtime.
    ///
    /// # Cancel safety
    /// What is not handed over is forgotten with the outbox.
    pub async fn run(&self, metrics: &WorkerMetrics) {
        loop {
            self.first.notified().await;
            tokio::time::sleep(LINGER).await;
            self.due.set(false);
            self.hand_over(metrics);
        }
    }

    fn hand_over(&self, metrics: &WorkerMetrics) {
        let mut tasks = self.tasks.borrow_mut();
        self.queue.push(&mut tasks);
        for refused in tasks.drain(..) {
            match refused.item.work {
                Work::Shadow(_) => metrics.unshadowed(refused.item.series, Unshadowed::QueueFull),
                // A sample that is smaller by one says the same.
                Work::Verify(_) => {}
            }
        }
        self.bytes.set(0);
    }
}
