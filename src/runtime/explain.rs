//! Why a recent decision: its event from a worker's ring, explained with the policy that decided.
//!
//! It compiles and evaluates, for as long as seconds: never on a worker.

use std::thread;
use std::time::Duration;

use crate::audit::recent::Recorded;
use crate::policy::explain::{self, Explanation};
use crate::policy::replay::{self, Refused};
use crate::rego::evaluator::Facts;
use crate::runtime::shared::Shared;
use crate::runtime::snapshot::Policy;

/// The time for one evaluation.
const BUDGET: Duration = Duration::from_secs(5);
/// As a worker's, so that what was decided there can be decided here.
const STACK: usize = 8 * 1024 * 1024;

/// What is known of a decision.
#[derive(Debug)]
pub enum Explained {
    /// The gateway refused the request, and no policy was asked.
    Refused(Refused),
    /// Why the policy decided.
    Decided {
        /// The policy's revision.
        revision: String,
        /// Why.
        explanation: Explanation,
        /// Parts of the input that the policy may read and that are not in the event, as pointers into it.
        missing: Vec<String>,
    },
}

/// Why a decision is not explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Nothing is kept.
    #[error("recent decisions are not kept; configure `admin.explain`")]
    Off,
    /// It is not, or no longer, kept.
    #[error("no decision `{id}` among the recent ones; `admin.explain.recent` says how many are kept")]
    Unknown {
        /// As given.
        id: String,
    },
    /// What decided is neither in force nor kept for a rollback.
    #[error(
        "the policy that decided is gone; explain the event from the log: `gatewayctl policy explain EVENTS --decision {id} --against PATH`"
    )]
    Gone {
        /// The decision.
        id: String,
    },
    /// The event tells too little.
    #[error("the event has no input: it was logged as a summary, or the policy read none")]
    NoInput,
    /// Its own event cannot be read, or the explaining failed.
    #[error("cannot explain: {0}")]
    Failed(String),
}

/// Explains the decision with this id. Blocks.
pub fn explain(shared: &Shared, id: &str) -> Result<Explained, ExplainError> {
    let rings = shared.recents();
    if rings.is_empty() {
        return Err(ExplainError::Off);
    }
    let recorded = rings.iter().find_map(|ring| ring.find(id));
    let recorded = recorded.ok_or_else(|| ExplainError::Unknown { id: id.to_owned() })?;
    let Recorded { policy, line, .. } = recorded;
    let asked = replay::asked_in(&line);
    let asked = asked.ok_or_else(|| ExplainError::Failed("its event cannot be read".to_owned()))?;
    if let Some(refused) = asked.refused {
        return Ok(Explained::Refused(refused));
    }
    let policy = policy.and_then(|built| shared.policy(built));
    let policy = policy.ok_or_else(|| ExplainError::Gone { id: id.to_owned() })?;
    let input = asked.input.ok_or(ExplainError::NoInput)?;
    let facts = Facts { input, now_ns: asked.now_ns, budget: BUDGET };
    let path = asked.path.unwrap_or_else(|| policy.decision_path.clone());
    let (explanation, missing) = evaluate(&policy, &path, &facts, &asked.erased)?;
    Ok(Explained::Decided { revision: policy.revision, explanation, missing })
}

/// Explains on a thread with the stack that evaluations may need.
fn evaluate(
    policy: &Policy,
    path: &str,
    facts: &Facts,
    erased: &[String],
) -> Result<(Explanation, Vec<String>), ExplainError> {
    let failed = |error: &dyn std::fmt::Display| ExplainError::Failed(error.to_string());
    let work = || {
        let entrypoint = policy.program.entrypoint(path).map_err(|error| failed(&error))?;
        let footprint = policy.program.footprint(&entrypoint);
        let missing =
            erased.iter().filter(|pointer| replay::may_read(&footprint, pointer)).cloned().collect();
        let explained = explain::explain(&policy.bundle, &policy.program, &entrypoint, facts);
        Ok((explained.map_err(|error| failed(&error))?, missing))
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("explain".to_owned()).stack_size(STACK);
        let running = thread.spawn_scoped(scope, work).map_err(|error| failed(&error))?;
        running.join().unwrap_or_else(|_| Err(ExplainError::Failed("it panicked".to_owned())))
    })
}
