//! The thread that evaluates beside the requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::divergence::{self, Record, Side};
use crate::policy::decide::{Decider, Failure};
use crate::policy::divergence::{Divergence, Effect};
use crate::rego::evaluator::Facts;
use crate::runtime::beside::candidate::{Candidate, Verifier};
use crate::runtime::beside::queue::{Queue, Task, Work};
use crate::runtime::beside::tally::Seen;
use crate::runtime::shared::Shared;
use crate::runtime::snapshot::Policy;
use crate::telemetry::metrics::{Comparison, Direction, Unshadowed, WorkerMetrics};

/// Deciders kept for one policy: a candidate and one that replaces it, and the same of the policy in force.
const DECIDERS_MAX: usize = 4;
/// The time for one answer of the interpreter.
const INTERPRETER_BUDGET: Duration = Duration::from_millis(250);
/// Records of divergences in a second; they must not crowd out decision events.
const RECORDS_MAX: u32 = 100;
/// The log is told of one difference between engines in this time.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

/// Evaluates until the queue ends. To be run on a thread of its own, with a worker's stack.
pub fn run(queue: &Queue, shared: &Shared) {
    let mut runner = Runner {
        shared,
        metrics: shared.metrics.worker(),
        deciders: Vec::new(),
        records: Window::new(Duration::from_secs(1), RECORDS_MAX),
        logged: Window::new(LOGGED_EVERY, 1),
    };
    while let Some(task) = queue.next() {
        // Evaluations contain their own panics; this is for ours.
        if catch_unwind(AssertUnwindSafe(|| runner.take(task))).is_err() {
            runner.deciders.clear();
            shared.metrics.task_panicked();
            tracing::error!("Evaluation beside the requests panicked");
        }
    }
}

struct Runner<'a> {
    shared: &'a Shared,
    metrics: WorkerMetrics,
    /// By the building of the policy.
    deciders: Vec<Ready>,
    records: Window,
    logged: Window,
}

struct Ready {
    policy: Arc<str>,
    built: u64,
    decider: Decider,
}

// === impl Runner ===

impl Runner<'_> {
    fn take(&mut self, task: Task) {
        match &task.work {
            Work::Shadow(candidate) => self.shadow(&Arc::clone(candidate), task),
            Work::Verify(verifier) => self.verify(&Arc::clone(verifier), task),
        }
    }

    fn shadow(&mut self, candidate: &Candidate, task: Task) {
        let Task { decided, input, api, route, series, .. } = task;
        if !candidate.allowance.is_open(Instant::now()) {
            self.metrics.unshadowed(series, Unshadowed::Budget);
            return;
        }
        let policy = &candidate.policy;
        let (ruling, started, spent) = self.with_decider(policy, |decider| {
            let started = Instant::now();
            let mut ruling = decider.answer(input.clone(), decided.time, decided.phase);
            if ruling.decision.as_ref().is_err_and(|failure| *failure == Failure::Budget) {
                // This thread has no processor of its own: it may have been others that took the time.
                ruling = decider.answer(input, decided.time, decided.phase);
            }
            (ruling, started, started.elapsed())
        });
        candidate.allowance.spend(started, spent);
        let divergence = decided.compare(&ruling, policy.rules.contract, policy.on_error);
        let counted = self.shared.metrics.shadow(&policy.name, &api, &route);
        self.metrics.shadowed(counted, divergence.direction);
        let seen = Seen { decision_id: decided.decision_id, time: decided.time, api, route, divergence };
        if seen.divergence.direction != Direction::Same {
            if self.records.admits(started) {
                self.record(policy, policy.path(decided.phase), &seen);
            } else {
                candidate.tally.unrecorded();
            }
        }
        candidate.tally.note(seen, spent);
    }

    fn record(&self, policy: &Policy, path: &str, seen: &Seen) {
        let Divergence { direction, differs, decided, candidate } = &seen.divergence;
        let record = Record {
            decision_id: seen.decision_id,
            timestamp: seen.time,
            policy: &policy.name,
            revision: &policy.revision,
            path,
            api: &seen.api,
            route: &seen.route,
            direction: direction.as_str(),
            differs,
            decided: side(*decided),
            candidate: side(*candidate),
        };
        divergence::record(&self.shared.audit, &record, &self.shared.current().runtime.labels);
    }

    fn verify(&mut self, verifier: &Verifier, task: Task) {
        let Task { decided, input, route, series, .. } = task;
        let Some(entrypoint) = verifier.entrypoint(decided.phase) else { return };
        if !verifier.allowance.is_open(Instant::now()) {
            return;
        }
        let now_ns = i64::try_from(decided.time.as_nanos()).unwrap_or(i64::MAX);
        let facts = Facts { input, now_ns, budget: INTERPRETER_BUDGET };
        let (answer, started) = self.with_decider(&verifier.policy, |decider| {
            let started = Instant::now();
            (decider.evaluator().interpret(entrypoint, facts), started)
        });
        verifier.allowance.spend(started, started.elapsed());
        let comparison = decided.verify(&answer);
        self.metrics.compared(series, comparison);
        verifier.verified.note(decided.decision_id, comparison);
        if comparison == Comparison::Different && self.logged.admits(started) {
            // Neither input nor values: they may hold what a log must not.
            tracing::warn!(
                policy.id = %verifier.policy.name, route.id = %route, decision.id = %decided.decision_id,
                "Plan differs from the interpreter on a live decision"
            );
        }
    }

    /// Runs with the decider of `policy`, made when it is first needed; those not used for longest give way.
    fn with_decider<T>(&mut self, policy: &Policy, run: impl FnOnce(&mut Decider) -> T) -> T {
        let known = self.deciders.iter().position(|ready| ready.built == policy.built);
        let mut ready = known.map_or_else(
            || Ready {
                policy: Arc::clone(&policy.name),
                built: policy.built,
                decider: Decider::new(&policy.program, &policy.rules),
            },
            |known| self.deciders.remove(known),
        );
        let outcome = run(&mut ready.decider);
        let of_policy = |ready: &Ready| ready.policy == policy.name;
        if self.deciders.iter().filter(|ready| of_policy(ready)).count() >= DECIDERS_MAX
            && let Some(oldest) = self.deciders.iter().position(of_policy)
        {
            self.deciders.remove(oldest);
        }
        self.deciders.push(ready);
        outcome
    }
}

fn side(effect: Effect) -> Side {
    Side { allow: effect.allow, status: effect.status, failure: effect.failure.map(Failure::as_str) }
}

/// So many in such a time.
struct Window {
    length: Duration,
    max: u32,
    began: Option<Instant>,
    count: u32,
}

impl Window {
    fn new(length: Duration, max: u32) -> Self {
        Self { length, max, began: None, count: 0 }
    }

    fn admits(&mut self, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= self.length) {
            (self.began, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        self.count <= self.max
    }
}
