//! Rego v0: bundles whose manifest says so, and files read so on the command line.

use std::time::Duration;

use postern::rego::evaluator::Facts;
use postern::rego::program::{EngineKind, Module, Options, compile};
use regorus::Value;

use crate::gateway::TestGateway;
use crate::live_support::plain_config;
use crate::policy_cli::{files, gatewayctl};
use crate::wire::{RecordingUpstream, get};

/// What each kind of rule is in both.
const PAIRS: &[(&str, &str)] = &[
    ("r { input.n > 1 }", "r if { input.n > 1 }"),
    ("r = x { x := input.n }", "r = x if { x := input.n }"),
    ("r[x] { x := input.xs[_]; x > 1 }", "r contains x if { some x in input.xs; x > 1 }"),
    ("r[k] = v { v := input.o[k] }", "r[k] := v if { some k, v in input.o }"),
    ("r.a = 1\nr.b = 2 { true }", "r.a := 1\nr.b := 2 if { true }"),
    ("r.a { true }\nr[\"b\"]", "r contains \"a\" if { true }\nr contains \"b\""),
    (
        "r = 1 { input.n > 5 } else = 2 { input.n > 1 } else = 3 { true }",
        "r := 1 if { input.n > 5 } else := 2 if { input.n > 1 } else := 3 if { true }",
    ),
    ("default r = false\nr { input.n == 9 }", "default r := false\nr if { input.n == 9 }"),
    ("r { input.n == 9 } { input.n == 2 }", "r if { input.n == 9 }\nr if { input.n == 2 }"),
    ("f(x) = y { y := x + 1 }\nr = f(input.n)", "f(x) := y if { y := x + 1 }\nr := f(input.n)"),
    ("q[x] { x := input.xs[_] }\nr = count(q)", "q contains x if { some x in input.xs }\nr := count(q)"),
    (
        "r = {x | x := input.xs[_]; not big[x]}\nbig[x] { x := 3 }",
        "r := {x | some x in input.xs; not x in big}\nbig contains x if { x := 3 }",
    ),
    ("import future.keywords.in\nr { 2 in input.xs }", "r if { 2 in input.xs }"),
    (
        "import future.keywords\nr contains x if some x in input.xs\nq[x] { x := 1 }",
        "r contains x if some x in input.xs",
    ),
    ("import rego.v1\nr contains x if some x in input.xs", "r contains x if some x in input.xs"),
    (
        "r { p1 with input as {\"n\": 1} }\np1 { input.n == 1 }",
        "r if { p1 with input as {\"n\": 1} }\np1 if { input.n == 1 }",
    ),
];

fn evaluate(rules: &str, is_v0: bool, engine: EngineKind) -> Option<Value> {
    let modules = vec![Module { path: "p.rego".into(), text: format!("package p\n{rules}\n") }];
    let v0 = is_v0.then(|| "p.rego".to_owned()).into_iter().collect();
    let options = Options { v0: std::sync::Arc::new(v0), engine, ..Options::default() };
    let program = compile(&modules, Value::new_object(), options).unwrap_or_else(|e| panic!("{rules}: {e}"));
    let entrypoint = program.entrypoint("p/r").unwrap();
    let input = Value::from_json_str(r#"{"n": 2, "xs": [1, 2, 3], "o": {"a": 1, "b": 2}}"#).unwrap();
    let facts = Facts { input, now_ns: 0, budget: Duration::from_secs(5) };
    program.evaluator().evaluate(&entrypoint, facts).unwrap_or_else(|error| panic!("{rules}: {error}"))
}

#[test]
fn v0_means_what_its_v1_form_means() {
    for (v0, v1) in PAIRS {
        let want = evaluate(v1, false, EngineKind::Auto);
        assert!(want.is_some(), "{v1}");
        for engine in [EngineKind::Auto, EngineKind::Interpreter] {
            assert_eq!(evaluate(v0, true, engine), want, "{v0}");
        }
    }
}

#[test]
fn a_manifest_says_which_rego_its_files_are() {
    let upstream = RecordingUpstream::start();
    let v0 = "package gateway\n\ndefault decision = false\n\ndecision {\n\tinput.request.method == \"GET\"\n\tnames[\"a\"]\n}\n";
    let v1 = "package gateway\n\nnames contains \"a\" if input.request.path != \"/denied\"\n";
    let manifest = r#"{"roots": ["gateway"], "rego_version": 0, "file_rego_versions": {"/new/*.rego": 1}}"#;
    let tests = "package gateway\n\ntest_get { decision with input.request as {\"method\": \"GET\", \"path\": \"/\"} }\n";
    let files = [
        ("policy/.manifest", manifest),
        ("policy/old.rego", v0),
        ("policy/old_test.rego", tests),
        ("policy/new/names.rego", v1),
    ];
    let gateway = TestGateway::start(&plain_config(&upstream.url(), ""), &files);
    let address = gateway.address("public");
    assert_eq!(get(address, "/", "").status, 200);
    assert_eq!(get(address, "/denied", "").status, 403);
    // Roots hold for v0 files too.
    let outside = manifest.replace("\"gateway\"", "\"elsewhere\"");
    let refused = TestGateway::try_start(
        &plain_config(&upstream.url(), ""),
        &[("policy/.manifest", &outside), ("policy/old.rego", v0)],
    );
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("package `gateway` lies under none of the manifest's roots"), "{error}");
}

#[test]
fn commands_read_v0_where_they_are_told() {
    let policy = "package gateway\n\ndecision {\n\tinput.request.method == \"GET\"\n}\n";
    let tests = "package gateway_test\n\nimport data.gateway\n\ntest_get { gateway.decision with input.request.method as \"GET\" }\n\ntest_post { gateway.decision with input.request.method as \"POST\" }\n";
    let root = files(&[
        ("p.rego", policy),
        ("p_test.rego", tests),
        ("in.json", r#"{"request": {"method": "GET"}}"#),
    ]);
    let run = |command: &[&str]| gatewayctl(root.path(), &[&["policy"], command].concat());
    let refused = run(&["check", "."]);
    assert_eq!(refused.code, Some(1), "{}{}", refused.out, refused.notes);
    let said = format!("{}{}", refused.out, refused.notes);
    assert!(said.contains("p.rego:3:10") && said.contains("--v0-compatible"), "{said}");
    let checked = run(&["check", ".", "--v0-compatible"]);
    assert_eq!(checked.code, Some(0), "{}{}", checked.out, checked.notes);
    let tested = run(&["test", ".", "--v0-compatible"]);
    assert_eq!(tested.code, Some(2));
    // The failing expression is found in v0 text too.
    assert!(tested.out.contains("p_test.rego:7:13") && tested.out.contains("PASS: 1/2"), "{}", tested.out);
    let asked = run(&["eval", "p.rego", "-i", "in.json", "--v0-compatible"]);
    assert_eq!((asked.code, asked.out.as_str()), (Some(0), "true\n"), "{}", asked.notes);
}
