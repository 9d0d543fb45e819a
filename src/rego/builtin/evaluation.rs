//! What one evaluation shares with the built-ins it calls: its clock, the runtime document, what
//! was drawn by chance, and whether a bound was broken.
//!
//! An evaluation never leaves its thread, so all of this stays in the thread.

use std::{cell::RefCell, collections::BTreeMap};

use regorus::Value;

/// Most answers one evaluation remembers; a policy that draws more is refused.
const MEMOISED_MAX: usize = 10_000;

#[derive(Default)]
struct Evaluation {
    now_ns: i64,
    runtime: Option<Value>,
    refusal: Option<String>,
    memoised: BTreeMap<(&'static str, Vec<Value>), Value>,
}

thread_local! {
    static CURRENT: RefCell<Evaluation> = RefCell::default();
}

/// Starts an evaluation on this thread: `now_ns` is its time in nanoseconds since 1970, `runtime`
/// what `opa.runtime()` answers.
pub(crate) fn start(now_ns: i64, runtime: &Value) {
    CURRENT.with_borrow_mut(|current| {
        current.now_ns = now_ns;
        current.runtime = Some(runtime.clone());
        current.refusal = None;
        current.memoised.clear();
    });
}

/// Why a built-in refused its arguments, if one did since the start.
pub(crate) fn take_refusal() -> Option<String> {
    CURRENT.with_borrow_mut(|current| current.refusal.take())
}

/// Fails the evaluation whatever the policy does with the call's result.
pub(super) fn refuse(reason: &str) {
    CURRENT.with_borrow_mut(|current| current.refusal = Some(reason.to_owned()));
}

pub(super) fn now_ns() -> i64 {
    CURRENT.with_borrow(|current| current.now_ns)
}

pub(super) fn runtime() -> Value {
    CURRENT.with_borrow(|current| current.runtime.clone()).unwrap_or_else(Value::new_object)
}

/// The answer given before in this evaluation for the same arguments, or a new one.
pub(super) fn memoise(
    name: &'static str,
    arguments: &[Value],
    answer: impl FnOnce() -> Result<Value, super::Failure>,
) -> Result<Value, super::Failure> {
    let key = (name, arguments.to_vec());
    if let Some(known) = CURRENT.with_borrow(|current| current.memoised.get(&key).cloned()) {
        return Ok(known);
    }
    let answer = answer()?;
    CURRENT.with_borrow_mut(|current| {
        if current.memoised.len() >= MEMOISED_MAX {
            return Err(super::Failure::Refused(format!("more than {MEMOISED_MAX} different calls")));
        }
        current.memoised.insert(key, answer.clone());
        Ok(answer)
    })
}
