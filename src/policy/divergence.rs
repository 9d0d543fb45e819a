//! How a candidate's decision differs from the one that was made.
//!
//! What is compared is what the decisions do, not the documents they were written as. A policy that fails counts as what
//! the gateway makes of it: a refusal, or with `on_error: allow` a plain allow.

use std::time::Duration;

use http::StatusCode;
use regorus::Value;

use crate::base::id::DecisionId;
use crate::config::model::OnError;
use crate::contract::decision::{Allow, Decision, Deny, Log, Phase};
use crate::contract::form::Contract;
use crate::policy::decide::{Failure, Ruling};
use crate::rego::differential::Answer;
use crate::telemetry::metrics::{Comparison, Direction};

/// A question that was asked, and what came of it.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The decision's id.
    pub decision_id: DecisionId,
    /// When, since the Unix epoch.
    pub time: Duration,
    /// The question.
    pub phase: Phase,
    /// The rule's value.
    pub result: Option<Value>,
    /// Why it is no decision.
    pub failure: Option<Failure>,
}

/// How two decisions differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// What it means for who is let in.
    pub direction: Direction,
    /// The parts that differ, named as in a policy's result; `error` where one of the two failed.
    pub differs: Vec<&'static str>,
    /// What was done.
    pub decided: Effect,
    /// What the candidate would have done.
    pub candidate: Effect,
}

/// What a decision does, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// It lets the request, or the response, pass.
    pub allow: bool,
    /// The status of a refusal.
    pub status: Option<u16>,
    /// The policy failed.
    pub failure: Option<Failure>,
}

// === impl Decided ===

impl Decided {
    /// What is kept of a ruling.
    pub fn new(decision_id: DecisionId, time: Duration, phase: Phase, ruling: &Ruling) -> Self {
        let failure = ruling.decision.as_ref().err().copied();
        Self { decision_id, time, phase, result: ruling.result.clone(), failure }
    }

    /// How the `candidate`'s ruling on the same facts differs.
    pub fn compare(&self, candidate: &Ruling, contract: Contract, on_error: OnError) -> Divergence {
        let parsed = match (&self.failure, &self.result) {
            (Some(failure), _) => Err(*failure),
            // It was parsed once, when it was decided.
            (None, Some(result)) => contract.parse(result, self.phase).map_err(|_| Failure::Result),
            (None, None) => Err(Failure::Undefined),
        };
        compare(&parsed, &candidate.decision, on_error)
    }

    /// Whether the interpreter gives the same value. Its own errors tell nothing: operators fail there on operands of a
    /// wrong type, where OPA and plans have undefined.
    pub fn verify(&self, interpreter: &Answer) -> Comparison {
        let Ok(interpreter) = interpreter else { return Comparison::Inconclusive };
        match self.failure {
            None | Some(Failure::Result | Failure::Undefined) if self.result == *interpreter => {
                Comparison::Same
            }
            None | Some(Failure::Result | Failure::Undefined | Failure::Error | Failure::Panic) => {
                Comparison::Different
            }
            Some(Failure::Budget) => Comparison::Inconclusive,
        }
    }
}

type Parsed = Result<Decision, Failure>;

fn compare(decided: &Parsed, candidate: &Parsed, on_error: OnError) -> Divergence {
    let (before, after) = (effect(decided, on_error), effect(candidate, on_error));
    let differs = match (decided, candidate) {
        (Ok(Decision::Allow(decided)), Ok(Decision::Allow(candidate))) => of_allows(decided, candidate),
        (Ok(Decision::Deny(decided)), Ok(Decision::Deny(candidate))) => of_denials(decided, candidate),
        // Which failure it was may be the hour's: how busy the machine is.
        (Err(_), Err(_)) => Vec::new(),
        (Ok(_), Ok(_)) => named(&[("allow", true), ("status", before.status != after.status)]),
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => named(&[
            ("error", true),
            ("allow", before.allow != after.allow),
            ("status", before.status != after.status),
        ]),
    };
    let direction = match (before.allow, after.allow) {
        _ if differs.is_empty() => Direction::Same,
        _ if candidate.is_err() => Direction::Error,
        (false, true) => Direction::DenyToAllow,
        (true, false) => Direction::AllowToDeny,
        (true, true) | (false, false) => Direction::Obligations,
    };
    Divergence { direction, differs, decided: before, candidate: after }
}

fn effect(decision: &Parsed, on_error: OnError) -> Effect {
    match decision {
        Ok(Decision::Allow(_)) => Effect { allow: true, status: None, failure: None },
        Ok(Decision::Deny(deny)) => {
            Effect { allow: false, status: Some(deny.status.as_u16()), failure: None }
        }
        Err(failure) => {
            let allow = on_error == OnError::Allow;
            let status = (!allow).then_some(StatusCode::SERVICE_UNAVAILABLE.as_u16());
            Effect { allow, status, failure: Some(*failure) }
        }
    }
}

/// The parts of an allow that differ.
pub(super) fn of_allows(decided: &Allow, candidate: &Allow) -> Vec<&'static str> {
    // Whole, so that an obligation that is added is not forgotten here.
    let Allow { reason, upstream, response, limits, max_body, log } = decided;
    let mut differs = named(&[
        ("reason", *reason != candidate.reason),
        ("upstream", *upstream != candidate.upstream),
        ("response", *response != candidate.response),
        ("limits", *limits != candidate.limits),
        ("max_body", *max_body != candidate.max_body),
    ]);
    differs.extend(of_logs(log, &candidate.log));
    differs
}

/// The parts of a denial that differ.
pub(super) fn of_denials(decided: &Deny, candidate: &Deny) -> Vec<&'static str> {
    let Deny { reason, status, headers, body, expose_reason, log } = decided;
    let mut differs = named(&[
        ("reason", *reason != candidate.reason),
        ("status", *status != candidate.status),
        ("headers", *headers != candidate.headers),
        ("body", *body != candidate.body),
        ("expose_reason", *expose_reason != candidate.expose_reason),
    ]);
    differs.extend(of_logs(log, &candidate.log));
    differs
}

fn of_logs(decided: &Log, candidate: &Log) -> Vec<&'static str> {
    let Log { level, fields, labels } = decided;
    named(&[
        ("log", *level != candidate.level || *fields != candidate.fields),
        ("labels", *labels != candidate.labels),
    ])
}

fn named(parts: &[(&'static str, bool)]) -> Vec<&'static str> {
    parts.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(result: &str) -> Parsed {
        match result {
            "budget" => Err(Failure::Budget),
            "error" => Err(Failure::Error),
            _ => Ok(Decision::parse(&Value::from_json_str(result).unwrap(), Phase::Request).unwrap()),
        }
    }

    #[track_caller]
    fn check(decided: &str, candidate: &str, on_error: OnError, direction: Direction, differs: &[&str]) {
        let got = compare(&parsed(decided), &parsed(candidate), on_error);
        assert_eq!((got.direction, got.differs.as_slice()), (direction, differs), "{decided} {candidate}");
    }

    #[test]
    fn what_decisions_do_is_compared_and_not_how_they_are_written() {
        let closed = |decided, candidate, direction, differs: &[&str]| {
            check(decided, candidate, OnError::Deny, direction, differs);
        };
        closed("true", r#"{"allow": true}"#, Direction::Same, &[]);
        closed("false", r#"{"allow": false, "status": 403}"#, Direction::Same, &[]);
        closed("false", "true", Direction::DenyToAllow, &["allow", "status"]);
        closed("true", r#"{"allow": false, "status": 401}"#, Direction::AllowToDeny, &["allow", "status"]);
        let obligations = Direction::Obligations;
        closed("false", r#"{"allow": false, "status": 404}"#, obligations, &["status"]);
        closed("true", r#"{"allow": true, "reason": "r"}"#, obligations, &["reason"]);
        let limited = r#"{"allow": true, "limits": [{"name": "a", "key": "k", "rate": "1/1m"}]}"#;
        closed("true", limited, obligations, &["limits"]);
        closed(limited, limited, Direction::Same, &[]);
        let all = r#"{"allow": true, "max_body": 3, "upstream": {"headers": {"set": {"x": "1"}}},
            "response": {"headers": {"remove": ["server"]}}, "log": {"level": "none"}, "labels": {"a": "b"}}"#;
        closed("true", all, obligations, &["upstream", "response", "max_body", "log", "labels"]);
        let page =
            r#"{"allow": false, "body": "b", "headers": {"x": "y"}, "reason": "r", "expose_reason": true}"#;
        closed("false", page, obligations, &["reason", "headers", "body", "expose_reason"]);
    }

    #[test]
    fn a_failure_counts_as_what_the_gateway_makes_of_it() {
        use OnError::{Allow, Deny};
        check("true", "error", Deny, Direction::Error, &["error", "allow", "status"]);
        check("true", "error", Allow, Direction::Error, &["error"]);
        check("false", "budget", Deny, Direction::Error, &["error", "status"]);
        check("error", "true", Deny, Direction::DenyToAllow, &["error", "allow", "status"]);
        check("error", "true", Allow, Direction::Obligations, &["error"]);
        check("error", "false", Allow, Direction::AllowToDeny, &["error", "allow", "status"]);
        check("error", "budget", Deny, Direction::Same, &[]);
    }
}
