//! `policy bench` of the real binary: what it counts and says. Times are not judged here: only that they are in order.

use std::fs;

use serde_json::{Value as Json, json};

use crate::policy_cli::{Ran, files, gatewayctl};

const POLICY: &str = "package gateway\n\ndecision := {\"allow\": allowed, \"reason\": \"by_method\"}\n\n\
    default allowed := false\n\nallowed if input.request.method == \"GET\"\n";
const CASES: &str = "cases:\n\
    - {name: a, request: {path: /a}, expect: {allow: true}}\n\
    - {name: b, request: {path: /b}, expect: {allow: true}}\n\
    - {name: c, request: {path: /c, method: POST}, expect: {allow: false}}\n\
    - {name: refused, request: {path: /../c}, expect: {refused: 400}}\n\
    - {name: own, request: {path: /d}, data: {x: 1}, expect: {allow: true}}\n";
const INPUTS: &str = "{\"request\": {\"method\": \"GET\"}}\n{\"request\": {\"method\": \"PUT\"}}\n";

fn with_cases() -> tempfile::TempDir {
    files(&[("p.rego", POLICY), ("p.case.yaml", CASES), ("inputs.jsonl", INPUTS)])
}

fn bench(root: &tempfile::TempDir, more: &[&str]) -> Ran {
    gatewayctl(root.path(), &[&["policy", "bench", "."], more].concat())
}

#[track_caller]
fn engines(ran: &Ran) -> Vec<Json> {
    let engines = ran.json()["engines"].as_array().unwrap().clone();
    for engine in &engines {
        let count = |key: &str| engine[key].as_u64().unwrap();
        let decided = count("allows") + count("denies") + count("failures");
        assert_eq!((decided, count("in_batches") + count("alone")), (count("decisions"), count("decisions")));
        let failed: u64 = engine["failed"].as_object().unwrap().values().filter_map(Json::as_u64).sum();
        assert_eq!(failed, count("failures"), "{engine}");
        let time = |key: &str| engine["ns_per_op"][key].as_u64().unwrap();
        assert!(time("p50") <= time("p90") && time("p90") <= time("p99") && time("p99") <= time("max"));
        assert!(engine["ns_per_op"]["mean"].as_f64().unwrap() > 0.0, "{engine}");
    }
    engines
}

fn name_of(engine: &Json) -> &str {
    engine["engine"].as_str().unwrap()
}

#[test]
fn cases_go_round_on_both_engines_and_every_decision_is_counted() {
    let root = with_cases();
    let ran = bench(&root, &["--count", "600", "--format", "json"]);
    assert_eq!((ran.code, ran.notes.as_str()), (Some(0), ""));
    let report = ran.json();
    assert_eq!(report["questions"], json!([{"decision": "data.gateway.decision", "contract": "gateway/v1"}]));
    let left_out = json!({"own_data": 1, "refused": 1});
    assert_eq!(report["requests"], json!({"from": "cases", "count": 3, "left_out": left_out}));
    assert!(report["timed"].as_str().unwrap().starts_with("building the input"));
    let engines = engines(&ran);
    assert_eq!(engines.iter().map(name_of).collect::<Vec<_>>(), ["plan", "interpreter"]);
    for engine in &engines {
        let counts =
            ["decisions", "in_batches", "allows", "denies", "failures"].map(|key| engine[key].clone());
        assert_eq!(counts.map(|count| count.as_u64().unwrap()), [600, 300, 400, 200, 0]);
    }
    assert!(report["interpreter_to_plan"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_table_says_what_was_timed_and_how() {
    let ran = bench(&with_cases(), &["--count", "30"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    for want in [
        "data.gateway.decision (gateway/v1)\n",
        "3 requests of cases; timed: building the input, evaluation, reading the decision out of the result\n",
        "                      plan   interpreter\n",
        "decisions               30            30\n",
        "denies                  10            10\n",
        " times as fast as the interpreter\n",
        "mean: of whole batches; percentiles: of decisions timed alone, less ",
    ] {
        assert!(ran.out.contains(want), "{want}\n{}", ran.out);
    }
    assert!(ran.notes.contains("note: 1 left out: the case brings its own data\n"), "{}", ran.notes);
}

#[test]
fn documents_are_asked_about_as_they_are() {
    let root = with_cases();
    let ran = bench(&root, &["--input", "inputs.jsonl", "--count", "40", "-f", "json", "--engine", "plan"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let report = ran.json();
    assert_eq!(report["requests"], json!({"from": "documents", "count": 2, "left_out": {}}));
    assert!(report["timed"].as_str().unwrap().starts_with("evaluation of a ready input document"));
    let engines = engines(&ran);
    assert_eq!((engines.len(), &engines[0]["allows"], &engines[0]["denies"]), (1, &json!(20), &json!(20)));
    assert_eq!(report["interpreter_to_plan"], Json::Null);
}

#[test]
fn events_bring_their_rule_and_what_cannot_be_asked_is_counted() {
    let root = with_cases();
    let event = |id: &str, rest: &str| {
        format!("{{\"decision_id\": \"{id}\", \"timestamp\": \"2026-01-01T00:00:00Z\"{rest}}}\n")
    };
    let input = ", \"input\": {\"request\": {\"method\": \"GET\"}}";
    let allowed = ", \"path\": \"gateway/decision\", \"result\": {\"allow\": true}";
    let events = [
        event("1", &format!("{allowed}{input}")),
        event("2", allowed),
        event("3", input),
        event("4", &format!(", \"path\": \"gone/decision\"{input}")),
        event("5", &format!("{allowed}, \"input\": {{\"request\": {{\"method\": \"PUT\"}}}}")),
    ];
    fs::write(root.path().join("events.jsonl"), events.concat()).unwrap();
    let ran = bench(&root, &["--input", "events.jsonl", "--count", "8", "-f", "json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let left_out = json!({"no_input": 1, "undecided": 1, "no_rule": 1});
    assert_eq!(ran.json()["requests"], json!({"from": "documents", "count": 2, "left_out": left_out}));
    assert_eq!(engines(&ran)[0]["denies"], 4);

    // A rule that is named is asked about all of them.
    let ran = bench(
        &root,
        &["--input", "events.jsonl", "--decision", "gateway/allowed", "--count", "8", "-f", "json"],
    );
    assert_eq!(ran.json()["requests"]["count"], 4, "{}", ran.notes);
    assert_eq!(ran.json()["questions"][0]["decision"], "data.gateway.allowed");
}

#[test]
fn one_input_repeated_is_said_to_be_one() {
    let root = with_cases();
    let note = "one request was repeated";
    fs::write(root.path().join("one.json"), "{\"request\": {\"method\": \"GET\"}}").unwrap();
    let ran = bench(&root, &["--input", "one.json", "--count", "4"]);
    assert!(ran.code == Some(0) && ran.notes.contains(note), "{}", ran.notes);
    // The same twice is no second one.
    let ran = bench(&root, &["--input", "one.json", "--input", "one.json", "--count", "4"]);
    assert!(ran.notes.contains(note), "{}", ran.notes);
    let ran = bench(&root, &["--input", "inputs.jsonl", "--count", "4"]);
    assert!(!ran.notes.contains(note), "{}", ran.notes);
}

#[test]
fn failing_decisions_are_told_and_nothing_but_failures_is_a_no() {
    let strict = "package gateway\n\ndecision := {\"allow\": true} if input.request.method == \"GET\"\n";
    let root = files(&[("p.rego", strict), ("p.case.yaml", CASES)]);
    let ran = bench(&root, &["--count", "6"]);
    assert_eq!(ran.code, Some(0));
    let note = "note: plan: 2 of 6 decisions failed, such as: `data.gateway.decision` is undefined\n";
    assert!(ran.notes.contains(note), "{}", ran.notes);

    let root =
        files(&[("p.rego", "package gateway\n\ndecision := input.request.method\n"), ("p.case.yaml", CASES)]);
    let ran = bench(&root, &["--count", "6", "--format", "json"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.notes.contains("every decision failed"), "{}", ran.notes);
    assert_eq!(engines(&ran)[0]["failed"], json!({"result": 6}));
}

#[test]
fn a_p99_over_the_threshold_is_a_no() {
    let root = with_cases();
    let ran = bench(&root, &["--count", "50", "--max-p99", "1ns"]);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.notes.contains("p99 of the plan is ") && ran.notes.contains("longer than 1ns"),
        "{}",
        ran.notes
    );
    assert_eq!(bench(&root, &["--count", "50", "--max-p99", "1m"]).code, Some(0));
}

#[test]
fn threads_are_compared_with_one_alone() {
    let root = with_cases();
    let ran = bench(&root, &["--count", "50", "--threads", "2", "-f", "json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    for engine in engines(&ran) {
        let scaling = &engine["scaling"];
        assert_eq!(scaling["threads"], 2);
        let figure = |key: &str| scaling[key].as_f64().unwrap();
        let ratio = figure("decisions_per_second") / figure("alone_per_second");
        assert!((ratio - figure("ratio")).abs() < 0.01, "{scaling}");
    }
    let ran = bench(&root, &["--count", "50", "--threads", "2", "--engine", "plan"]);
    assert!(ran.out.contains("plan, 2 threads: "), "{}", ran.out);
}

#[test]
fn the_cache_answers_what_was_asked_before() {
    let root = with_cases();
    let ran = bench(&root, &["--count", "30", "--cache", "10", "--engine", "interpreter", "-f", "json"]);
    assert_eq!(engines(&ran)[0]["remembered"], 30, "{}", ran.out);
    let ran = bench(&root, &["--count", "30", "--engine", "interpreter", "-f", "json"]);
    assert_eq!(engines(&ran)[0]["remembered"], 0, "{}", ran.out);
    // An id is another in each request.
    let unlike = POLICY.replace("if input", "if {\n\tinput.decision_id != \"\"\n\tinput") + "}\n";
    let unlike = files(&[("p.rego", &unlike), ("p.case.yaml", CASES)]);
    let ran = bench(&unlike, &["--count", "30", "--cache", "10"]);
    assert!(ran.notes.contains("plan: no decision was taken from the cache"), "{}", ran.notes);
    let ran = bench(&root, &["--cache", "10", "--input", "inputs.jsonl"]);
    assert!(ran.code == Some(64) && ran.notes.contains("--cache"), "{}", ran.notes);
}

#[test]
fn gobench_has_a_line_for_each_engine_and_for_the_threads() {
    let ran = bench(&with_cases(), &["--count", "50", "--threads", "2", "--format", "gobench"]);
    let names: Vec<&str> = ran.out.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    let stem = "BenchmarkDataGatewayDecision";
    let want = ["/plan", "/plan-2", "/interpreter", "/interpreter-2"].map(|name| format!("{stem}{name}"));
    assert_eq!(names, want, "{}", ran.out);
    assert!(ran.out.lines().all(|line| line.contains(" ns/op")), "{}", ran.out);
}

#[test]
fn a_rule_that_depends_on_no_request_is_said_to_be_a_constant() {
    let root = files(&[("p.rego", "package gateway\n\ndecision := true\n"), ("p.case.yaml", CASES)]);
    let ran = bench(&root, &["--count", "6"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    assert!(ran.notes.contains("`data.gateway.decision` depends on no request"), "{}", ran.notes);
}

#[test]
fn what_cannot_be_measured_is_refused_with_a_reason() {
    let root = with_cases();
    fs::write(root.path().join("bad.jsonl"), "{\"a\": 1}\n{\"a\" 2}\n").unwrap();
    for (arguments, code, want) in [
        (&["--input", "none.json"][..], 1, "cannot read `none.json`"),
        (&["--input", "bad.jsonl"], 1, "bad.jsonl:2:6: not valid JSON"),
        (&["--decision", "gateway/decisoin"], 1, "decisoin`; did you mean `data.gateway.decision`?\n"),
        (&["--time", "1s", "--count", "5"], 64, "cannot be used with"),
        (&["--count", "1"], 64, "--count"),
        (&["--threads", "0"], 64, "--threads"),
        (&["--max-p99", "fast"], 64, "is no duration"),
    ] {
        let ran = bench(&root, arguments);
        assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{arguments:?}\n{}", ran.notes);
        assert!(ran.notes.contains(want), "{arguments:?}\n{}", ran.notes);
    }
    let ran = bench(&files(&[("p.rego", POLICY)]), &[]);
    assert!(ran.code == Some(1) && ran.notes.contains("no request to decide; give input"), "{}", ran.notes);
}

#[test]
fn a_rule_without_a_plan_is_measured_on_the_interpreter_and_said_to_be() {
    let printing = format!("{POLICY}\nallowed if {{\n\tprint(\"x\")\n\tinput.request.path == \"/c\"\n}}\n");
    let root = files(&[("p.rego", &printing), ("p.case.yaml", CASES)]);
    let ran = bench(&root, &["--count", "6", "-f", "json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    assert_eq!(engines(&ran).iter().map(name_of).collect::<Vec<_>>(), ["interpreter"]);
    assert!(ran.out.contains("`data.gateway.allowed` has no plan: it prints"), "{}", ran.out);
    let forced = bench(&root, &["--count", "6", "--engine", "plan"]);
    assert_eq!((forced.code, forced.out.as_str()), (Some(1), ""));
    assert!(
        forced.notes.contains("`data.gateway.decision` has no plan; leave `--engine` out"),
        "{}",
        forced.notes
    );
    assert!(forced.notes.contains("p.rego:"), "{}", forced.notes);
}

#[test]
fn no_time_to_measure_is_refused() {
    let root = with_cases();
    for time in ["0s", "0ns"] {
        let ran = bench(&root, &["--time", time]);
        assert!(ran.code != Some(0) && ran.notes.contains("is no time at all"), "{}", ran.notes);
    }
}
