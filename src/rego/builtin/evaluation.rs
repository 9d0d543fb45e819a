//! What one evaluation shares with the built-ins it calls: its clock, the runtime document, what
//! is settled for its decision, and what ended it: a broken bound, or a question nobody has answered.
//!
//! An evaluation never leaves its thread, so all of this stays in the thread.

use std::cell::RefCell;

use regorus::Value;

use crate::rego::outside::{Question, Reply, Settled};

/// Most answers one evaluation remembers; a policy that draws more is refused.
const MEMOISED_MAX: usize = 10_000;

#[derive(Default)]
struct Evaluation {
    now_ns: i64,
    runtime: Option<Value>,
    refusal: Option<String>,
    question: Option<Box<Question>>,
    settled: Settled,
}

thread_local! {
    static CURRENT: RefCell<Evaluation> = RefCell::default();
}

/// Starts an evaluation on this thread: `now_ns` is its time in nanoseconds since 1970, `runtime`
/// what `opa.runtime()` answers, `settled` what holds for its decision.
pub(crate) fn start(now_ns: i64, runtime: &Value, settled: Settled) {
    CURRENT.with_borrow_mut(|current| {
        current.now_ns = now_ns;
        current.runtime = Some(runtime.clone());
        current.refusal = None;
        current.question = None;
        current.settled = settled;
    });
}

/// Why a built-in refused its arguments, if one did since the start.
pub(crate) fn take_refusal() -> Option<String> {
    CURRENT.with_borrow_mut(|current| current.refusal.take())
}

/// The first question since the start that nothing answered.
pub(crate) fn take_question() -> Option<Box<Question>> {
    CURRENT.with_borrow_mut(|current| current.question.take())
}

/// What is settled by now, for the next evaluation of the same decision.
pub(crate) fn take_settled() -> Settled {
    CURRENT.with_borrow_mut(|current| std::mem::take(&mut current.settled))
}

/// Fails the evaluation whatever the policy does with the call's result.
pub(super) fn refuse(reason: &str) {
    CURRENT.with_borrow_mut(|current| current.refusal = Some(reason.to_owned()));
}

/// Ends the evaluation with a question. The first one counts: what comes after it went on without its answer.
pub(super) fn unanswered(question: &Question) {
    CURRENT.with_borrow_mut(|current| {
        current.question.get_or_insert_with(|| Box::new(question.clone()));
    });
}

/// What a question was answered.
pub(super) fn reply(question: &Question) -> Option<Reply> {
    CURRENT.with_borrow(|current| current.settled.reply(question).cloned())
}

pub(super) fn now_ns() -> i64 {
    CURRENT.with_borrow(|current| current.now_ns)
}

pub(super) fn runtime() -> Value {
    CURRENT.with_borrow(|current| current.runtime.clone()).unwrap_or_else(Value::new_object)
}

/// The answer given before in this decision for the same arguments, or a new one.
pub(super) fn memoise(
    name: &'static str,
    arguments: &[Value],
    answer: impl FnOnce() -> Result<Value, super::Failure>,
) -> Result<Value, super::Failure> {
    let key = (name, arguments.to_vec());
    if let Some(known) = CURRENT.with_borrow(|current| current.settled.drawn.get(&key).cloned()) {
        return Ok(known);
    }
    let answer = answer()?;
    CURRENT.with_borrow_mut(|current| {
        let drawn = &mut current.settled.drawn;
        if drawn.len() >= MEMOISED_MAX {
            return Err(super::Failure::Refused(format!("more than {MEMOISED_MAX} different calls")));
        }
        drawn.insert(key, answer.clone());
        Ok(answer)
    })
}
