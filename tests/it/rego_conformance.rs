//! OPA's own evaluation cases, with a list of known gaps that can only shrink.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use postern::rego::{
    evaluator::Facts,
    program::{EngineKind, Module, Options, compile},
};
use regorus::Value;
use serde_json::Value as Json;

const CASES: &str = "../shared/data/opa-conformance/v1";
/// Evaluated cases that run on plans, and those that do not.
const PLANNED: (usize, usize) = (1_462, 23);
const GAPS: &str = include_str!("data/opa-conformance-gaps.txt");

fn case_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            case_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
}

/// Sets have no order in JSON: sorted arrays compare as the cases mean them.
fn sorted(value: &Json) -> Json {
    match value {
        Json::Array(items) => {
            let mut items: Vec<Json> = items.iter().map(sorted).collect();
            items.sort_by_key(Json::to_string);
            Json::Array(items)
        }
        Json::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), sorted(value))).collect(),
        Json::Number(number) => number.as_f64().map_or(Json::Null, Json::from),
        Json::Null | Json::Bool(_) | Json::String(_) => value.clone(),
    }
}

/// The difference between the wanted and the given answer, if there is one; notes whether a plan
/// gave it, where one was evaluated.
fn difference(case: &Json, engine: EngineKind, planned: &mut Option<bool>) -> Option<String> {
    let empty = Vec::new();
    let modules = case["modules"].as_array().unwrap_or(&empty).iter().enumerate();
    let modules = modules
        .map(|(index, text)| Module {
            path: format!("m{index}.rego"),
            text: text.as_str().unwrap().to_owned(),
        })
        .collect::<Vec<_>>();
    let data = if case["data"].is_null() {
        Value::new_object()
    } else {
        Value::from_json_str(&case["data"].to_string()).unwrap()
    };
    let input = if let Some(term) = case["input_term"].as_str() {
        let Ok(input) = Value::from_json_str(term) else { return Some("input is a Rego term".to_owned()) };
        input
    } else if case["input"].is_null() {
        Value::Undefined
    } else {
        Value::from_json_str(&case["input"].to_string()).unwrap()
    };
    let wants_error = case.get("want_error").is_some() || case.get("want_error_code").is_some();
    let strict = case["strict_error"].as_bool().unwrap_or(false);
    let query = case["query"].as_str().unwrap();
    let options = Options { strict_builtin_errors: strict, engine, ..Options::default() };
    let program = match compile(&modules, data, options) {
        Ok(_) if wants_error && case.get("want_result").is_none() && query.is_empty() => return None,
        Ok(program) => program,
        Err(_) if wants_error => return None,
        Err(errors) => return Some(format!("refused: {}", errors.faults()[0])),
    };
    let facts = Facts { input, now_ns: 1_700_000_000_000_000_000, budget: Duration::from_secs(20) };
    let asked = query.strip_suffix(" = x").map(str::trim);
    let got = match asked.and_then(|path| program.entrypoint(path).ok()) {
        Some(entrypoint) => {
            *planned = Some(program.is_planned(&entrypoint));
            program.evaluator().evaluate(&entrypoint, facts)
        }
        None => match asked {
            Some(path) => program.evaluator().query(path, facts).map(|rows| {
                rows.into_iter()
                    .next()
                    .and_then(|row| row.expressions.into_iter().next())
                    .map(|answer| answer.value)
            }),
            None => return Some("query is not one document".to_owned()),
        },
    };
    match got {
        Err(_) if wants_error => None,
        Err(error) => Some(format!("failed: {error}")),
        Ok(value) if wants_error => Some(format!("wants an error, got {value:?}")),
        Ok(value) => {
            let want =
                case["want_result"].as_array().and_then(|rows| rows.first()).map(|row| sorted(&row["x"]));
            let got =
                value.map(|value| sorted(&serde_json::from_str(&value.to_json_str().unwrap()).unwrap()));
            (want != got).then(|| format!("wants {want:?}, got {got:?}"))
        }
    }
}

#[test]
fn opas_cases_answer_as_opa_does() {
    if !Path::new(CASES).exists() {
        eprintln!("skipped: {CASES} is not here");
        return;
    }
    let gaps: BTreeMap<&str, &str> = GAPS
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split_once('\t').expect("a note, a tab, and a reason"))
        .collect();
    let mut files = Vec::new();
    case_files(Path::new(CASES), &mut files);
    files.sort();
    let mut wrong = Vec::new();
    let mut count = 0;
    let (mut on_plan, mut off_plan) = (0, 0);
    let mut open = BTreeSet::new();
    for file in &files {
        let document: Json = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for case in document["cases"].as_array().unwrap() {
            count += 1;
            let note = case["note"].as_str().unwrap();
            let mut planned = None;
            // A case passes when both engines answer it.
            let auto = difference(case, EngineKind::Auto, &mut planned);
            let interpreted = difference(case, EngineKind::Interpreter, &mut None);
            match planned {
                Some(true) => on_plan += 1,
                Some(false) => off_plan += 1,
                None => {}
            }
            match (auto.or(interpreted), gaps.get(note)) {
                (None, _) => {}
                (Some(_), Some(_)) => {
                    open.insert(note.to_owned());
                }
                (Some(difference), None) => wrong.push(format!("{note} => {difference}")),
            }
        }
    }
    assert!(count > 2_000, "only {count} cases found");
    let closed = gaps.iter().filter(|(note, _)| !open.contains(**note));
    wrong.extend(closed.map(|(note, reason)| format!("{note}: passes now, take it off the list ({reason})")));
    assert_eq!((on_plan, off_plan), PLANNED, "evaluated cases on and off plans: the first may only grow");
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
}
