//! `rego.parse_module` beside OPA's own parser: real policies, OPA's cases, odd syntax, and damaged texts.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use postern::rego::{
    evaluator::{EvalError, Evaluator, Facts},
    program::{Module, Options, compile},
};
use regorus::Value;
use serde_json::Value as Json;

use crate::rego_oracle::Oracle;

const POLICY: &str = "package t\n\np := rego.parse_module(\"x.rego\", input)\n";
const ODD: &str = include_str!("data/parse-module.txt");
/// Damaged texts of each module.
const DAMAGED: usize = 3;

struct Ours(Evaluator);

impl Ours {
    fn new() -> Self {
        let module = Module { path: "m.rego".to_owned(), text: POLICY.to_owned() };
        Self(compile(&[module], Value::new_object(), Options::default()).unwrap().evaluator())
    }

    fn parse(&mut self, text: &str) -> Result<Option<Value>, EvalError> {
        let entrypoint = self.0.program().entrypoint("t/p").unwrap();
        let facts = Facts {
            input: Value::from(text),
            now_ns: 1_800_000_000_000_000_000,
            budget: Duration::from_secs(20),
        };
        self.0.evaluate(&entrypoint, facts)
    }
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
}

/// Policies of this project, of the golden cases, and of OPA's own.
fn modules() -> Vec<String> {
    let mut paths = Vec::new();
    for folder in ["policies", "examples", "../shared/data/rego-golden"] {
        files(Path::new(folder), "rego", &mut paths);
    }
    let mut texts: Vec<String> = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut cases = Vec::new();
    files(Path::new("../shared/data"), "json", &mut cases);
    for case in cases {
        let document: Json = serde_json::from_str(&fs::read_to_string(case).unwrap()).unwrap_or_default();
        for case in document["cases"].as_array().into_iter().flatten() {
            let modules = case["modules"].as_array().into_iter().flatten();
            let texts_of = modules.filter_map(Json::as_str).filter(|text| !is_beyond_double(text));
            texts.extend(texts_of.map(str::to_owned));
        }
    }
    texts
}

/// Whether a number is one that the oracle's JSON cannot write.
fn is_beyond_double(text: &str) -> bool {
    let numbers = text.split(|character: char| !(character.is_ascii_digit() || "eE+.".contains(character)));
    numbers.into_iter().any(|number| number.parse::<f64>().is_ok_and(f64::is_infinite))
}

fn odd() -> Vec<String> {
    let rows = ODD.split("\n---\n").map(|text| format!("package a\n{}", text.trim_end_matches('\n')));
    rows.collect()
}

/// The text without, or with twice, one of its tokens or lines: the same on every run.
fn damaged(text: &str, seed: usize) -> String {
    let marks: Vec<usize> = text
        .char_indices()
        .filter(|(_, character)| !character.is_ascii_alphanumeric())
        .map(|(at, _)| at)
        .collect();
    let mut state = (text.len() * 31 + seed * 7_919 + 1) as u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound.max(1)
    };
    let from = marks.get(below(marks.len())).copied().unwrap_or_default();
    let to = text[from..].char_indices().nth(1 + below(3)).map_or(text.len(), |(at, _)| from + at);
    let piece = ["", "", "[", "}", " ", "\n", ",", "x", "if ", "|", "not ", "_", "#", "\"", "-", "in "];
    let piece = if below(4) == 0 { &text[from..to] } else { piece[below(piece.len())] };
    match below(2) {
        0 => format!("{}{piece}{}", &text[..from], &text[to..]),
        _ => format!("{}{piece}{}", &text[..from], &text[from..]),
    }
}

/// Numbers as doubles, which is what the oracle's JSON makes of them.
fn comparable(value: &Json) -> Json {
    match value {
        Json::Array(items) => items.iter().map(comparable).collect(),
        Json::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), comparable(value))).collect(),
        Json::Number(number) => number.as_f64().map_or(Json::Null, Json::from),
        Json::Null | Json::Bool(_) | Json::String(_) => value.clone(),
    }
}

#[test]
fn modules_have_the_syntax_tree_opa_gives_them() {
    let Some(mut oracle) = Oracle::start() else {
        eprintln!("skipped: python3 has no opa_bindings");
        return;
    };
    let mut texts = odd();
    for text in modules() {
        texts.extend((0..DAMAGED).map(|seed| damaged(&text, seed)));
        texts.push(text);
    }
    let mut ours = Ours::new();
    let (mut parsed, mut refused, mut bounded, mut wrong) = (0, 0, 0, Vec::new());
    for chunk in texts.chunks(200) {
        let inputs: Vec<Json> = chunk.iter().map(|text| Json::from(text.as_str())).collect();
        let answers = oracle.ask(POLICY, &inputs);
        for (text, answer) in chunk.iter().zip(answers.as_array().unwrap()) {
            let want = answer.get("value").map(|value| comparable(&value["p"]));
            match (ours.parse(text), want) {
                (Ok(Some(value)), Some(want)) => {
                    parsed += 1;
                    let value = comparable(&serde_json::to_value(value).unwrap());
                    if value != want {
                        wrong.push(format!("{text}\nours {value}\nOPA  {want}"));
                    }
                }
                (Ok(None), None) => refused += 1,
                (Err(_), _) => bounded += 1,
                (ours, _) => wrong.push(format!("{text}\nours {}\nOPA  {answer}", ours.unwrap().is_some())),
            }
        }
    }
    eprintln!("{parsed} trees and {refused} refusals compared, {bounded} over a bound");
    let shown = wrong.iter().take(12).map(String::as_str).collect::<Vec<_>>().join("\n----\n");
    assert!(wrong.is_empty(), "{} of {}:\n{shown}", wrong.len(), texts.len());
    assert!(parsed > 60 && refused > 30, "only {parsed} trees and {refused} refusals");
}
