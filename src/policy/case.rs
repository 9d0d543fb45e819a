//! `*.case.yaml`: whole requests, and the decision that is expected of a policy for each.
//!
//! A case goes the way of traffic: `contract` brings the request into canonical form or refuses it and builds the
//! input, and [`Decider`] asks the policy. Nothing here opens a socket or judges Rego by itself.

mod expect;
mod file;
mod identity;
mod mocks;
mod reader;
pub(super) mod repeat;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use regorus::Value;
use serde_json::{Value as Json, json};

use crate::base::id::{DecisionId, DecisionIds};
use crate::config::yaml::Node;
use crate::contract::body::BodyKind;
use crate::contract::canonical::{self, Refusal};
use crate::contract::decision::Phase;
use crate::contract::input::Facts;
use crate::contract::request::{ApiFacts, BodyFacts, RequestHead, ResponseFacts};
use crate::policy::bundle::{Bundle, CaseFile};
use crate::policy::case::expect::{Expect, differences, shown};
use crate::policy::case::file::{Case, CaseList, Rule};
use crate::policy::decide::{self, Decider, Keep, Rules, Ruling};
use crate::policy::testing::{Failure, Outcome, TestOptions, TestResult};
use crate::rego::coverage::FileCoverage;
use crate::rego::fault::{BundleErrors, Fault};
use crate::rego::program::{Entrypoint, Options, Program};

/// The results of all case files of a bundle.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// One for each case, in the order of files and lines.
    pub(super) results: Vec<TestResult>,
    /// Lines reached, one list for each program that was asked.
    pub(super) coverage: Vec<Vec<FileCoverage>>,
}

/// Runs the cases of a bundle on what the bundle decides by, without its tests.
pub(super) fn run(bundle: &Bundle, options: &TestOptions) -> Result<Run, BundleErrors> {
    let mut run = Run::default();
    if bundle.case_files.is_empty() {
        return Ok(run);
    }
    let mut faults = Vec::new();
    let mut files = Vec::new();
    for file in &bundle.case_files {
        match file::parse(file) {
            Ok(cases) => files.push((file, cases)),
            Err(wrong) => faults.extend(wrong),
        }
    }
    let compile_options = Options { coverage: options.coverage, ..Options::developing() };
    let program = bundle.compile(compile_options.clone())?;
    for (file, cases) in &files {
        match Asker::new(&program, cases, options) {
            Ok(mut asker) => {
                let chosen = cases.cases.iter().filter(|case| is_chosen(file, case, options));
                for case in chosen {
                    let result = match &case.data {
                        None => Ok(asker.run(file, case)),
                        Some(data) => run_on(data, bundle, &compile_options, (file, cases, case), options)
                            .map(|(result, covered)| {
                                run.coverage.extend(covered);
                                result
                            }),
                    };
                    match result {
                        Ok(result) => run.results.push(result),
                        Err(wrong) => faults.extend(wrong),
                    }
                }
                run.coverage.extend(asker.coverage());
            }
            Err(wrong) => faults.extend(wrong),
        }
    }
    BundleErrors::unless_empty(run, faults)
}

fn is_chosen(file: &CaseFile, case: &Case, options: &TestOptions) -> bool {
    options.run.as_ref().is_none_or(|run| run.is_match(&format!("{}: {}", file.path, case.name)))
}

/// Runs a case that brings its own data, on a program of its own.
fn run_on(
    data: &Value,
    bundle: &Bundle,
    compile_options: &Options,
    (file, cases, case): (&CaseFile, &CaseList, &Case),
    options: &TestOptions,
) -> Result<(TestResult, Option<Vec<FileCoverage>>), Vec<Fault>> {
    let mut own = bundle.clone();
    overlay(&mut own.data, data);
    let program = own.compile(compile_options.clone()).map_err(|errors| {
        let message = |fault: &Fault| format!("with this case's data: {}", fault.message);
        let faults = errors.faults().iter();
        faults.map(|fault| Fault::new(case.place.clone(), fault.code, message(fault))).collect::<Vec<_>>()
    })?;
    let mut asker = Asker::new(&program, cases, options)?;
    Ok((asker.run(file, case), asker.coverage()))
}

/// Puts a document over another: objects key by key, anything else as a whole.
fn overlay(under: &mut Value, over: &Value) {
    let (Ok(target), Value::Object(source)) = (under.as_object_mut(), over) else {
        *under = over.clone();
        return;
    };
    for (key, value) in source.iter_sorted() {
        match target.get_mut(key) {
            Some(existing) => overlay(existing, value),
            None => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

/// A program as the cases of one file ask it.
struct Asker {
    decider: Decider,
    ids: DecisionIds,
    now: Duration,
    wants_coverage: bool,
}

/// What a case was answered.
enum Answer {
    /// The gateway refuses the request.
    Refused(Refusal),
    /// The policy was asked.
    Ruled(Box<Ruling>),
}

// === impl Asker ===

impl Asker {
    fn new(program: &Program, cases: &CaseList, options: &TestOptions) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let decision = entrypoint(program, &cases.decision).map_err(|fault| faults.push(fault)).ok();
        let response = cases.response.as_ref();
        let response =
            response.and_then(|rule| entrypoint(program, rule).map_err(|fault| faults.push(fault)).ok());
        let (Some(decision), true) = (decision, faults.is_empty()) else { return Err(faults) };
        let rules = Rules { decision, response, budget: options.timeout, contract: cases.contract, cache: 0 };
        let mut decider = Decider::new(program, &rules);
        // What making it has reached, no case has.
        decider.evaluator().clear_coverage();
        let now = Duration::from_nanos(u64::try_from(options.now_ns).unwrap_or(0));
        Ok(Self { decider, ids: DecisionIds::new(), now, wants_coverage: options.coverage })
    }

    fn coverage(&mut self) -> Option<Vec<FileCoverage>> {
        self.wants_coverage.then(|| self.decider.evaluator().coverage())
    }

    fn run(&mut self, file: &CaseFile, case: &Case) -> TestResult {
        let started = Instant::now();
        let answer = self.ask(case).map_or_else(Answer::Refused, |ruling| Answer::Ruled(Box::new(ruling)));
        let took = started.elapsed();
        TestResult {
            place: case.place.clone(),
            package: file.path.clone(),
            name: case.name.clone(),
            outcome: verdict(case, &answer),
            took,
            output: self.decider.evaluator().take_prints(),
            parts: BTreeMap::new(),
            benchmark: None,
        }
    }

    /// What the pipeline does from the canonical head to the decision.
    fn ask(&mut self, case: &Case) -> Result<Ruling, Refusal> {
        let (head, body) = admit(&self.decider, case)?;
        let time = case.time.unwrap_or(self.now);
        let decision_id = self.ids.next(time);
        let request_id = decision_id.to_string();
        let facts = facts(case, head, &body, time, (decision_id, &request_id));
        let phase = if facts.response.is_some() { Phase::Response } else { Phase::Request };
        let decider = &mut self.decider;
        Ok(case.mocks.ask(|settled| decider.decide_settled(&facts, phase, Keep::Nothing, settled)))
    }
}

/// The canonical head and the body as the policy sees it, or why the gateway refuses the request before it asks.
fn admit<'a>(decider: &Decider, case: &'a Case) -> Result<(&'a RequestHead, BodyFacts), Refusal> {
    let head = case.request.head.as_ref().map_err(|refusal| *refusal)?;
    let is_readable = head.query.as_deref().is_none_or(canonical::is_decodable);
    if decider.reads_query() && !is_readable {
        return Err(Refusal::QueryMalformed);
    }
    let bytes = &case.request.body;
    let body = match (decider.needs_body(), bytes.is_empty()) {
        (false, _) => BodyFacts::Unread,
        (true, true) => BodyFacts::Absent,
        (true, false) => BodyKind::of(&head.headers)?.read(bytes)?,
    };
    Ok((head, body))
}

/// What the gateway knows of a case's request.
fn facts<'a>(
    case: &'a Case,
    head: &'a RequestHead,
    body: &'a BodyFacts,
    time: Duration,
    (decision_id, request_id): (DecisionId, &'a str),
) -> Facts<'a> {
    Facts {
        decision_id,
        time,
        listener: &case.listener,
        request_id,
        source: &case.source,
        head,
        body,
        api: ApiFacts {
            name: &case.api.name,
            version: case.api.version.as_deref(),
            route: &case.api.route,
            params: &case.api.params,
            lifecycle: &case.api.lifecycle,
        },
        identity: &case.identity,
        response: case.response.as_ref().map(|response| ResponseFacts {
            status: response.status,
            headers: &response.headers,
            latency_ms: response.latency_ms,
        }),
    }
}

fn entrypoint(program: &Program, rule: &Rule) -> Result<Entrypoint, Fault> {
    program.entrypoint(&rule.path).map_err(|error| {
        Fault::new(rule.place.clone(), "unknown_rule", error.to_string()).hint("name a rule of the policy")
    })
}

fn verdict(case: &Case, answer: &Answer) -> Outcome {
    let ruling = match (answer, &case.expect) {
        (Answer::Refused(refusal), Expect::Refused(status)) if refusal.status() == *status => {
            return Outcome::Passed;
        }
        (Answer::Refused(refusal), _) => {
            let answer = format!("refused with {}: {refusal}", refusal.status().as_u16());
            return unexpected(case, answer);
        }
        (Answer::Ruled(ruling), _) => ruling,
    };
    let error = || ruling.error.clone().unwrap_or_default();
    match (&ruling.decision, &case.expect) {
        (Err(decide::Failure::Budget | decide::Failure::Panic), _) => Outcome::Errored(error()),
        (Err(decide::Failure::Undefined), Expect::Undefined)
        | (Err(decide::Failure::Error | decide::Failure::Result), Expect::Error) => Outcome::Passed,
        (Err(decide::Failure::Undefined), _) => unexpected(case, "undefined".to_owned()),
        (Err(decide::Failure::Error | decide::Failure::Result), _) => unexpected(case, error()),
        (Ok(_), Expect::Decision(expected)) => match document(ruling) {
            Ok(decision) => compared(&case.place.file, expected, &decision),
            Err(error) => Outcome::Errored(format!("the decision has no JSON form: {error}")),
        },
        (Ok(_), Expect::Undefined | Expect::Error | Expect::Refused(_)) => {
            let decision = document(ruling).unwrap_or_default();
            unexpected(case, format!("decision {}", shown(&decision)))
        }
    }
}

/// The decision as JSON, in the gateway's words; a boolean is short for an object with nothing else.
fn document(ruling: &Ruling) -> Result<Json, serde_json::Error> {
    let mut document = serde_json::to_value(&ruling.result)?;
    if let Json::Bool(allow) = document {
        return Ok(json!({"allow": allow}));
    }
    // Only a decision comes here, so what has `allowed` is one for Envoy.
    if let Some(fields) = document.as_object_mut() {
        for (envoy, own) in [("allowed", "allow"), ("http_status", "status")] {
            if let Some(value) = fields.remove(envoy) {
                fields.insert(own.to_owned(), value);
            }
        }
    }
    Ok(document)
}

fn compared(file: &Arc<str>, expected: &Node, decision: &Json) -> Outcome {
    let found = differences(expected, decision);
    let Some(first) = found.first() else { return Outcome::Passed };
    let place = reader::place(file, first.position);
    let lines: Vec<String> = found.iter().map(|part| format!("{}: {}", part.path, part.expected)).collect();
    let mut values: Vec<(String, String)> = Vec::new();
    values.extend(found.into_iter().map(|part| (part.path, part.actual)));
    values.push(("decision".to_owned(), shown(decision)));
    Outcome::Failed(Some(Failure { place, expression: lines.join("\n"), values }))
}

fn unexpected(case: &Case, answer: String) -> Outcome {
    let failure = Failure {
        place: case.expect_at.clone(),
        expression: case.expect.describe(),
        values: vec![("answer".to_owned(), answer)],
    };
    Outcome::Failed(Some(failure))
}
