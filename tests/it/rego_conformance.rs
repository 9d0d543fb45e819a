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
const PLANNED: (usize, usize) = (2_024, 26);
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

/// The rule that asks a query which is not one document: a row for each way it holds.
const ROWS: &str = "conformance/rows";

/// A module whose rule gathers the wanted variables of a query.
fn asking(query: &str, wanted: &[&str]) -> Module {
    let row: Vec<String> = wanted.iter().map(|name| format!("\"{name}\": {name}")).collect();
    let text = format!("package conformance\n\nrows contains {{{}}} if {{\n{query}\n}}\n", row.join(", "));
    Module { path: "query.rego".to_owned(), text }
}

fn facts(input: Value) -> Facts {
    Facts { input, now_ns: 1_800_000_000_000_000_000, budget: Duration::from_secs(20) }
}

/// The input of a case: JSON, or a Rego term, which is evaluated.
fn input_of(case: &Json) -> Value {
    if let Some(term) = case["input_term"].as_str() {
        let module = Module {
            path: "input.rego".to_owned(),
            text: format!("package conformance\n\nterm := {term}\n"),
        };
        let program = compile(&[module], Value::new_object(), Options::default()).unwrap();
        let entrypoint = program.entrypoint("conformance/term").unwrap();
        return program.evaluator().evaluate(&entrypoint, facts(Value::Undefined)).unwrap().unwrap();
    }
    if case["input"].is_null() {
        Value::Undefined
    } else {
        Value::from_json_str(&case["input"].to_string()).unwrap()
    }
}

/// What a case asks for: the one variable of a document's path, or all variables of a query.
enum Asked<'a> {
    Document(&'a str),
    Query(Vec<&'a str>),
}

fn asked<'a>(case: &'a Json, query: &'a str) -> Asked<'a> {
    let plain = |path: &&str| {
        (path == &"data" || path.starts_with("data."))
            && path.chars().all(|character| character.is_ascii_alphanumeric() || "._".contains(character))
    };
    match query.strip_suffix(" = x").map(str::trim).filter(plain) {
        Some(path) => Asked::Document(path),
        None => {
            let rows = case["want_result"].as_array().into_iter().flatten();
            let names: BTreeSet<&str> =
                rows.filter_map(Json::as_object).flat_map(|row| row.keys().map(String::as_str)).collect();
            Asked::Query(names.into_iter().collect())
        }
    }
}

/// The difference between the wanted and the given answer, if there is one; notes whether a plan
/// gave it, where one was evaluated.
fn difference(case: &Json, engine: EngineKind, planned: &mut Option<bool>) -> Option<String> {
    let empty = Vec::new();
    let modules = case["modules"].as_array().unwrap_or(&empty).iter().enumerate();
    let mut modules = modules
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
    let wants_error = case.get("want_error").is_some() || case.get("want_error_code").is_some();
    let strict = case["strict_error"].as_bool().unwrap_or(false);
    let query = case["query"].as_str().unwrap();
    let asked = asked(case, query);
    if let Asked::Query(names) = &asked {
        modules.push(asking(query, names));
    }
    let options = Options { strict_builtin_errors: strict, engine, ..Options::developing() };
    let program = match compile(&modules, data, options) {
        Ok(program) => program,
        Err(_) if wants_error => return None,
        Err(errors) => return Some(format!("refused: {}", errors.faults()[0])),
    };
    let path = match &asked {
        Asked::Document(path) => path,
        Asked::Query(_) => ROWS,
    };
    let facts = facts(input_of(case));
    let got = match program.entrypoint(path) {
        Ok(entrypoint) => {
            *planned = Some(program.is_planned(&entrypoint));
            program.evaluator().evaluate(&entrypoint, facts)
        }
        Err(_) => program.evaluator().query(path, facts).map(|rows| {
            let first = rows.into_iter().next().and_then(|row| row.expressions.into_iter().next());
            first.map(|answer| answer.value)
        }),
    };
    let json = |value: Value| sorted(&serde_json::to_value(value).unwrap());
    match got {
        Err(_) if wants_error => None,
        Err(error) => Some(format!("failed: {error}")),
        Ok(value) if wants_error => Some(format!("wants an error, got {value:?}")),
        Ok(value) => {
            let rows = case["want_result"].as_array().unwrap_or(&empty);
            let (want, got) = match asked {
                Asked::Document(_) => (rows.first().map(|row| sorted(&row["x"])), value.map(json)),
                Asked::Query(_) => (
                    Some(sorted(&Json::from(rows.clone()))),
                    Some(value.map_or(Json::Array(Vec::new()), json)),
                ),
            };
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
                (Some(difference), Some(reason)) => {
                    eprintln!("gap ({reason}): {note} => {difference}");
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
