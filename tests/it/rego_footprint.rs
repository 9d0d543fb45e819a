//! Footprints: an evaluation answers for the part it can read what it answers for the whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postern::policy::bundle::{self, Purpose};
use postern::rego::evaluator::Facts;
use postern::rego::program::{Module, Options, compile};
use proptest::prelude::*;
use regorus::Value;
use serde_json::{Value as Json, json};

const CASES: &str = "../shared/data/opa-conformance/v1";
const GOLDEN: &str = "../shared/data/rego-golden/ordinary.jsonl";

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

#[test]
fn footprints_hold_all_that_is_read() {
    if !Path::new(CASES).exists() {
        eprintln!("skipped: {CASES} is not here");
        return;
    }
    let mut files = Vec::new();
    case_files(Path::new(CASES), &mut files);
    let mut compared = 0;
    for file in &files {
        let document: Json = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for case in document["cases"].as_array().unwrap() {
            let Some(path) = case["query"].as_str().and_then(|query| query.strip_suffix(" = x")) else {
                continue;
            };
            compared += usize::from(is_answered_from_its_footprint(case, path.trim()));
        }
    }
    assert!(compared > 350, "only {compared} cases compared");
}

#[test]
fn ordinary_rego_is_answered_from_its_footprint() {
    if !Path::new(GOLDEN).exists() {
        eprintln!("skipped: {GOLDEN} is not here");
        return;
    }
    let cases = std::fs::read_to_string(GOLDEN).unwrap();
    let cases = cases.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let compared = cases.filter(|case| is_answered_from_its_footprint(case, case["query"].as_str().unwrap()));
    let compared = compared.count();
    assert!(compared > 80, "only {compared} cases compared");
}

/// Whether a case could be compared: its answer from what the footprint holds of input and data is that from all of them.
fn is_answered_from_its_footprint(case: &Json, query: &str) -> bool {
    let Some((modules, data, input)) = parts(case) else { return false };
    // What is not there cannot be cut.
    if input == Value::Undefined && data == Value::new_object() {
        return false;
    }
    let Ok(program) = compile(&modules, data.clone(), Options::default()) else { return false };
    let Ok(entrypoint) = program.entrypoint(query) else { return false };
    let footprint = program.footprint(&entrypoint);
    if footprint.is_left_to_chance() {
        return false;
    }
    let facts = |input| Facts { input, now_ns: 1, budget: Duration::from_secs(20) };
    let whole = program.evaluator().evaluate(&entrypoint, facts(input.clone()));
    let part = compile(&modules, footprint.project_data(&data), Options::default()).unwrap();
    let part = part.evaluator().evaluate(&entrypoint, facts(footprint.project_input(&input)));
    assert_eq!(whole, part, "{}: {footprint:?}", case["note"]);
    true
}

fn parts(case: &Json) -> Option<(Vec<Module>, Value, Value)> {
    let modules = case["modules"].as_array()?.iter().enumerate();
    let modules = modules.map(|(index, text)| Module {
        path: format!("m{index}.rego"),
        text: text.as_str().unwrap_or_default().to_owned(),
    });
    let data = if case["data"].is_null() {
        Value::new_object()
    } else {
        Value::from_json_str(&case["data"].to_string()).ok()?
    };
    let input = if let Some(term) = case["input_term"].as_str() {
        Value::from_json_str(term).ok()?
    } else if case["input"].is_null() {
        Value::Undefined
    } else {
        Value::from_json_str(&case["input"].to_string()).ok()?
    };
    Some((modules.collect(), data, input))
}

/// A request the starter policies know all parts of.
fn request() -> Json {
    json!({
        "source": {"ip": "10.1.2.3", "port": 4711},
        "request": {"method": "GET", "scheme": "https", "path": "/orders/1", "segments": ["orders", "1"],
            "headers": {"host": "a", "x-api-key": "k"}, "query": {"a": ["1"]}},
        "api": {"name": "orders", "version": "v2", "route": "read-order", "params": {"id": "1"}},
        "identity": {"authenticated": true, "provider": "corp", "type": "jwt", "subject": "alice",
            "roles": ["reader", "writer"], "groups": ["staff"], "scopes": ["orders"], "attributes": {"tier": "gold"}},
    })
}

/// Something else in the place of the `at`-th value of a document, in the order of a walk.
fn damage(value: &mut Json, at: &mut usize, with: &Json) {
    if *at == 0 {
        *at = usize::MAX;
        *value = with.clone();
        return;
    }
    *at = at.saturating_sub(usize::from(*at != usize::MAX));
    match value {
        Json::Object(fields) => fields.values_mut().for_each(|value| damage(value, at, with)),
        Json::Array(items) => items.iter_mut().for_each(|value| damage(value, at, with)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

#[test]
fn starter_policies_answer_from_their_footprint_alone() {
    let bundle = bundle::load(&["policies"], Purpose::Serve(None)).unwrap();
    let program = bundle.compile(Options::default()).unwrap();
    let decision = program.entrypoint("gateway/decision").unwrap();
    let footprint = program.footprint(&decision);
    let data = footprint.project_data(&bundle.data);
    let lean = compile(&bundle.modules, data, Options::default()).unwrap();
    let (mut whole, mut part) = (program.evaluator(), lean.evaluator());
    let odd = prop_oneof![
        Just(json!(null)),
        Just(json!(false)),
        Just(json!(0)),
        Just(json!("")),
        Just(json!("alice")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([["reader"]])),
        Just(json!({"tier": {"a": 1}})),
        Just(json!("10.0.0.1")),
    ];
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 600, ..Default::default() });
    let damages = proptest::collection::vec((0_usize..40, odd), 0..3);
    let compare = |damages: Vec<(usize, Json)>| {
        let mut input = request();
        for (mut at, with) in damages {
            damage(&mut input, &mut at, &with);
        }
        let input = Value::from_json_str(&input.to_string()).unwrap();
        let facts = |input| Facts { input, now_ns: 1, budget: Duration::from_secs(20) };
        let answers = (
            whole.evaluate(&decision, facts(input.clone())),
            part.evaluate(&decision, facts(footprint.project_input(&input))),
        );
        prop_assert_eq!(&answers.0, &answers.1, "{:?}", input);
        Ok(())
    };
    let compare = std::cell::RefCell::new(compare);
    runner.run(&damages, |damages| compare.borrow_mut()(damages)).unwrap();
}
