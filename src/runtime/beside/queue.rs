//! What waits to be evaluated beside the requests: bounded in number and size.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use regorus::Value;

use crate::config::model::Name;
use crate::policy::divergence::Decided;
use crate::runtime::beside::candidate::{Candidate, Verifier};
use crate::telemetry::metrics::PolicyId;

/// Tasks that wait at most.
const TASKS_MAX: usize = 4_096;
/// Estimated bytes of their inputs at most.
const BYTES_MAX: usize = 32 << 20;

/// One decision to be looked at again.
pub struct Task {
    /// What is to be done.
    pub work: Work,
    /// What was decided.
    pub decided: Decided,
    /// The facts, as what is asked reads them.
    pub input: Value,
    /// The API.
    pub api: Name,
    /// The route.
    pub route: Name,
    /// Where it is counted.
    pub series: PolicyId,
    /// What the input takes in memory, as an estimate.
    pub bytes: usize,
}

/// What is to be done with a decision.
#[derive(Debug)]
pub enum Work {
    /// Ask the candidate.
    Shadow(Arc<Candidate>),
    /// Ask the interpreter.
    Verify(Arc<Verifier>),
}

/// The queue between the workers and the thread that evaluates.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    tasks: VecDeque<Task>,
    bytes: usize,
    ended: bool,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The input may hold what nobody should read.
        f.debug_struct("Task").field("decision_id", &self.decided.decision_id).finish_non_exhaustive()
    }
}

impl Queue {
    /// Takes what there is room for out of `tasks`, the first ones first. Never waits for an evaluation.
    pub fn push(&self, tasks: &mut Vec<Task>) {
        let waiting = &mut *self.waiting();
        let room = if waiting.ended { 0 } else { TASKS_MAX.saturating_sub(waiting.tasks.len()) };
        let mut bytes = waiting.bytes;
        let mut count = 0;
        for task in tasks.iter().take(room) {
            if bytes.saturating_add(task.bytes) > BYTES_MAX {
                break;
            }
            bytes += task.bytes;
            count += 1;
        }
        if count > 0 {
            waiting.tasks.extend(tasks.drain(..count));
            waiting.bytes = bytes;
            self.arrived.notify_one();
        }
    }

    /// The next task; waits for it. `None` is the end.
    pub(super) fn next(&self) -> Option<Task> {
        let mut waiting = self.waiting();
        loop {
            if waiting.ended {
                return None;
            }
            if let Some(task) = waiting.tasks.pop_front() {
                waiting.bytes = waiting.bytes.saturating_sub(task.bytes);
                return Some(task);
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has nothing evaluated any more: what waits is forgotten.
    pub fn end(&self) {
        let mut waiting = self.waiting();
        waiting.ended = true;
        waiting.tasks.clear();
        self.arrived.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
