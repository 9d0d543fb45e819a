//! Ordinary Rego against OPA's own answers, with a list of known gaps that can only shrink.

use std::{collections::BTreeMap, path::Path, time::Duration};

use postern::rego::{
    evaluator::Facts,
    program::{EngineKind, Module, Options, compile},
};
use regorus::Value;
use serde_json::Value as Json;

const CASES: &str = "../shared/data/rego-golden/ordinary.jsonl";
const GAPS: &str = include_str!("data/rego-golden-gaps.txt");

/// What a case wants or got: an error, undefined, or a document as JSON.
#[derive(Debug, PartialEq)]
enum Outcome {
    Error,
    Undefined,
    Value(Json),
}

fn wanted(case: &Json) -> Outcome {
    if case.get("error").is_some() || case.get("builtin_error").is_some() {
        return Outcome::Error;
    }
    case.get("want").map_or(Outcome::Undefined, |want| Outcome::Value(want.clone()))
}

/// The answer of an engine, and whether a plan gave it.
fn answered(case: &Json, engine: EngineKind) -> (Outcome, bool) {
    let modules = case["modules"].as_array().unwrap().iter().enumerate();
    let modules = modules
        .map(|(index, text)| Module {
            path: format!("m{index}.rego"),
            text: text.as_str().unwrap().to_owned(),
        })
        .collect::<Vec<_>>();
    let data = Value::from_json_str(&case["data"].to_string()).unwrap();
    let input = if case["input"].is_null() {
        Value::Undefined
    } else {
        Value::from_json_str(&case["input"].to_string()).unwrap()
    };
    let options =
        Options { strict_builtin_errors: case.get("builtin_error").is_some(), engine, ..Options::default() };
    let Ok(program) = compile(&modules, data, options) else { return (Outcome::Error, true) };
    let Ok(entrypoint) = program.entrypoint(case["query"].as_str().unwrap()) else {
        return (Outcome::Undefined, true);
    };
    let facts = Facts { input, now_ns: 0, budget: Duration::from_secs(10) };
    let planned = program.is_planned(&entrypoint);
    let outcome = match program.evaluator().evaluate(&entrypoint, facts) {
        Err(_) => Outcome::Error,
        Ok(None) => Outcome::Undefined,
        Ok(Some(value)) => Outcome::Value(serde_json::from_str(&value.to_json_str().unwrap()).unwrap()),
    };
    (outcome, planned)
}

#[test]
fn ordinary_rego_answers_as_opa_does() {
    if !Path::new(CASES).exists() {
        eprintln!("skipped: {CASES} is not here");
        return;
    }
    let mut gaps: BTreeMap<usize, &str> = GAPS
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split_once(' ').expect("a line number and a reason"))
        .map(|(line, reason)| (line.parse().expect("a line number"), reason))
        .collect();
    let text = std::fs::read_to_string(CASES).unwrap();
    let mut wrong = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let case: Json = serde_json::from_str(line).unwrap();
        let want = wanted(&case);
        let (planned, is_planned) = answered(&case, EngineKind::Auto);
        if want != planned && !gaps.contains_key(&(index + 1)) {
            wrong.push(format!("{}: {}\n  want {want:?}\n  plan {planned:?}", index + 1, case["note"]));
        }
        if !is_planned {
            wrong.push(format!("{}: not planned: {}", index + 1, case["note"]));
        }
        let (got, _) = answered(&case, EngineKind::Interpreter);
        match (want == got, gaps.remove(&(index + 1))) {
            (true, None) | (false, Some(_)) => {}
            (true, Some(reason)) => {
                wrong.push(format!("{}: passes now, take it off the list ({reason})", index + 1));
            }
            (false, None) => {
                wrong.push(format!("{}: {}\n  want {want:?}\n  got  {got:?}", index + 1, case["note"]));
            }
        }
    }
    assert!(gaps.is_empty(), "gaps of cases that do not exist: {gaps:?}");
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}
