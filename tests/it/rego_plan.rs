//! Decision plans: what they cover, that they answer as the interpreter does on inputs no case
//! foresees, and that they end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use postern::policy::bundle::{self, Purpose};
use postern::rego::evaluator::{EvalError, Evaluator, Facts};
use postern::rego::program::{EngineKind, Entrypoint, Module, Options, Program, compile};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use regorus::Value;
use serde_json::{Value as Json, json};

const CASES: &str = "../shared/data/rego-golden/ordinary.jsonl";

fn options(engine: EngineKind) -> Options {
    Options { engine, ..Options::default() }
}

fn facts(input: Value) -> Facts {
    Facts { input, now_ns: 0, budget: Duration::from_secs(10) }
}

fn value(json: &Json) -> Value {
    Value::from_json_str(&json.to_string()).unwrap()
}

fn program(text: &str, data: &Json) -> Program {
    let modules = vec![Module { path: "p.rego".into(), text: format!("package p\n{text}\n") }];
    compile(&modules, value(data), Options::default()).unwrap_or_else(|errors| panic!("{text}: {errors}"))
}

/// Evaluates `data.p.r` of one module on its plan.
#[track_caller]
fn ask(text: &str, input: &Json) -> Result<Option<Value>, EvalError> {
    let program = program(text, &json!({"t": {"a": {"n": 1}, "b": {"n": 2}}}));
    let entrypoint = program.entrypoint("p/r").unwrap();
    assert!(program.is_planned(&entrypoint), "{text}: {:?}", program.not_planned());
    program.evaluator().evaluate(&entrypoint, facts(value(input)))
}

#[track_caller]
fn check(text: &str, input: &Json, want: &str) {
    let got = ask(text, input).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(got.map_or("undefined".to_owned(), |value| value.to_string()), want, "{text}");
}

#[test]
fn shipped_policies_are_planned_whole() {
    for directory in ["policies", "examples/sidecar/policy", "benches/proxy/policy", "benches/proxy/allow"] {
        let bundle = bundle::load(&[directory], Purpose::Serve(None)).unwrap();
        let program = bundle.compile(Options::default()).unwrap();
        assert_eq!(program.not_planned(), Vec::new(), "{directory}");
        for entrypoint in program.entrypoints() {
            assert!(program.is_planned(&entrypoint), "{directory}: {entrypoint}");
        }
    }
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

/// How a value of an input is damaged.
#[derive(Debug, Clone)]
enum Damage {
    Replace(Json),
    Remove,
    Add(Json),
}

/// Damages the `at`-th value of a document, in the order of a walk.
fn damage(value: &mut Json, at: &mut usize, how: &Damage) {
    if *at == 0 {
        *at = usize::MAX;
        match (how, value) {
            (Damage::Replace(with), value) => *value = with.clone(),
            (Damage::Remove, Json::Object(fields)) => {
                let first = fields.keys().next().cloned();
                first.map(|key| fields.remove(&key));
            }
            (Damage::Remove, Json::Array(items)) => drop(items.pop()),
            (Damage::Add(odd), Json::Object(fields)) => drop(fields.insert("odd".into(), odd.clone())),
            (Damage::Add(odd), Json::Array(items)) => items.insert(0, odd.clone()),
            (Damage::Remove | Damage::Add(_), value) => *value = Json::Null,
        }
        return;
    }
    *at = at.saturating_sub(usize::from(*at != usize::MAX));
    match value {
        Json::Object(fields) => fields.values_mut().for_each(|value| damage(value, at, how)),
        Json::Array(items) => items.iter_mut().for_each(|value| damage(value, at, how)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

fn damages() -> impl Strategy<Value = Vec<(usize, Damage)>> {
    let odd = prop::sample::select(vec![
        json!(null),
        json!(false),
        json!(0),
        json!(-1.5),
        json!(""),
        json!("alice"),
        json!("k"),
        json!([]),
        json!({}),
        json!([["reader"], null, 1]),
        json!({"tier": {"a": 1}}),
        json!("10.0.0.1"),
    ]);
    let how =
        prop_oneof![odd.clone().prop_map(Damage::Replace), Just(Damage::Remove), odd.prop_map(Damage::Add),];
    prop::collection::vec((0_usize..40, how), 0..3)
}

fn damaged(input: &Json, damages: &[(usize, Damage)]) -> Value {
    let mut input = input.clone();
    for (at, how) in damages {
        damage(&mut input, &mut at.clone(), how);
    }
    value(&input)
}

/// Operators fail in the interpreter on operands of a wrong type; in OPA, and on plans, they are
/// undefined.
fn is_operand_error(error: &EvalError) -> bool {
    let EvalError::Rule { message, .. } = error else { return false };
    ["add", "sub", "mul", "div", "mod"].iter().any(|name| message.contains(&format!("`{name}` expects")))
        || ["union", "intersection", "difference"]
            .iter()
            .any(|name| message.contains(&format!("`{name}` expects")))
}

/// Both engines over one program.
struct Pair {
    plan: Evaluator,
    interpreter: Evaluator,
}

impl Pair {
    fn new(modules: &[Module], data: &Value) -> Option<(Self, Program)> {
        let planned = compile(modules, data.clone(), options(EngineKind::Auto)).ok()?;
        let interpreted = compile(modules, data.clone(), options(EngineKind::Interpreter)).ok()?;
        Some((Self { plan: planned.evaluator(), interpreter: interpreted.evaluator() }, planned))
    }

    /// Fails where the engines answer differently. What kind of error it is, is not compared.
    fn compare(&mut self, entrypoint: &Entrypoint, input: &Value) -> Result<(), TestCaseError> {
        let plan = self.plan.evaluate(entrypoint, facts(input.clone()));
        let interpreter = self.interpreter.evaluate(entrypoint, facts(input.clone()));
        if interpreter.as_ref().is_err_and(is_operand_error) {
            return Ok(());
        }
        prop_assert_eq!(plan.ok(), interpreter.ok(), "{} on {}", entrypoint, input);
        Ok(())
    }
}

#[test]
fn plans_of_shipped_policies_stand_the_check_at_load() {
    for directory in ["policies", "examples/sidecar/policy", "benches/proxy/policy"] {
        let bundle = bundle::load(&[directory], Purpose::Serve(None)).unwrap();
        let program = bundle.compile(Options::default()).unwrap();
        for entrypoint in program.entrypoints() {
            let difference = program.verify(&entrypoint);
            assert_eq!(difference.first.map(|difference| difference.to_string()), None, "{directory}");
            assert!(program.is_planned(&entrypoint), "{directory}: {entrypoint}");
        }
    }
}

#[test]
fn the_check_at_load_finds_where_the_interpreter_errs() {
    // An object pattern takes an object with exactly its keys; the interpreter takes larger ones too.
    let program = program("r if {\"k\": _} = input.ob", &json!({"seen": ["k", "z"]}));
    let entrypoint = program.entrypoint("p/r").unwrap();
    let difference = program.verify(&entrypoint).first.expect("a difference").to_string();
    assert!(difference.contains("`data.p.r` is") && difference.contains("\"ob\""), "{difference}");
    assert!(program.is_planned(&entrypoint));
    check("r if {\"k\": _} = input.ob", &json!({"ob": {"k": 1, "odd": null}}), "undefined");
    check("r if {\"k\": _} = input.ob", &json!({"ob": {"k": 1}}), "true");
}

#[test]
fn networks_in_data_are_parsed_once_and_hold_what_the_built_in_says() {
    let networks =
        json!(["10.0.0.0/8", "10.1.0.0/16", "nonsense", "2001:db8::/32", "192.0.2.7/24", "::/0", "1.2.3.4"]);
    let text = "r contains [i, n] if { some i, n in data.nets; net.cidr_contains(n, input.ip) }\n\
        s contains n if { n := data.sets[_][_]; net.cidr_contains(n, input.ip) }\n\
        t contains n if { some n in input.nets; net.cidr_contains(n, input.ip) }\n\
        u if { some n in data.nets; net.cidr_contains(n, input.ip) }\n\
        v if { u with net.cidr_contains as false }\n\
        w if { u with net.cidr_contains as true }";
    let modules = vec![Module { path: "p.rego".into(), text: format!("package p\n{text}\n") }];
    let data = value(&json!({"nets": networks, "sets": {"a": ["10.1.2.0/24", "0.0.0.0/0"], "b": []}}));
    let (mut pair, program) = Pair::new(&modules, &data).unwrap();
    for ip in
        ["10.1.2.3", "11.0.0.1", "2001:db8::1", "::1", "::ffff:10.1.2.3", "", "10.1.0.0/24", "192.0.2.255"]
    {
        let input = value(&json!({"ip": ip, "nets": networks}));
        for entrypoint in program.entrypoints() {
            assert!(program.is_planned(&entrypoint));
            pair.compare(&entrypoint, &input).unwrap_or_else(|error| panic!("{error}"));
        }
    }
    for input in [json!({}), json!({"ip": 1}), json!({"ip": null, "nets": [3]})] {
        for entrypoint in program.entrypoints() {
            pair.compare(&entrypoint, &value(&input)).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn damaged_requests_are_decided_as_the_interpreter_decides() {
    let bundle = bundle::load(&["policies"], Purpose::Serve(None)).unwrap();
    let (mut pair, program) = Pair::new(&bundle.modules, &bundle.data).unwrap();
    let entrypoints = program.entrypoints();
    let mut runner = TestRunner::new(ProptestConfig { cases: 400, ..Default::default() });
    let compare = |damages: Vec<(usize, Damage)>| {
        let input = damaged(&request(), &damages);
        entrypoints.iter().try_for_each(|entrypoint| pair.compare(entrypoint, &input))
    };
    let compare = std::cell::RefCell::new(compare);
    runner.run(&damages(), |damages| (compare.borrow_mut())(damages)).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn golden_cases_on_damaged_inputs_are_answered_as_the_interpreter_answers() {
    if !Path::new(CASES).exists() {
        eprintln!("skipped: {CASES} is not here");
        return;
    }
    let text = std::fs::read_to_string(CASES).unwrap();
    let mut pairs = Vec::new();
    for line in text.lines() {
        let case: Json = serde_json::from_str(line).unwrap();
        // Object patterns: the interpreter takes larger objects too.
        if line.contains("input.ob") {
            continue;
        }
        let modules = case["modules"].as_array().unwrap().iter().enumerate();
        let modules: Vec<Module> = modules
            .map(|(index, text)| Module {
                path: format!("m{index}.rego"),
                text: text.as_str().unwrap().to_owned(),
            })
            .collect();
        let Some((pair, program)) = Pair::new(&modules, &value(&case["data"])) else { continue };
        let Ok(entrypoint) = program.entrypoint(case["query"].as_str().unwrap()) else { continue };
        pairs.push((pair, entrypoint, case["input"].clone()));
    }
    assert!(pairs.len() > 140, "only {} cases", pairs.len());
    let pairs = std::cell::RefCell::new(pairs);
    let mut runner = TestRunner::new(ProptestConfig { cases: 30, ..Default::default() });
    let compare = |damages: Vec<(usize, Damage)>| {
        pairs
            .borrow_mut()
            .iter_mut()
            .try_for_each(|(pair, entrypoint, input)| pair.compare(entrypoint, &damaged(input, &damages)))
    };
    runner.run(&damages(), compare).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn statements_run_when_their_variables_are_bound() {
    check("r if { y.c == 1; y = x.b; x = input.a }", &json!({"a": {"b": {"c": 1}}}), "true");
    check("r := y if { y = x + 1; x = input.n }", &json!({"n": 2}), "3");
    check("r := [i | input.xs[i] == x; x = 2]", &json!({"xs": [1, 2, 2]}), "[1,2]");
    check("r := [a, b] if { [a, 2] = [1, b] }", &json!({}), "[1,2]");
    check("r := {x | [x, _] = input.xs[_]}", &json!({"xs": [[1, 2], [1], [3, 4]]}), "[1,3]");
    check("r := n if { count(xs, n); xs = [1, 2] }", &json!({}), "2");
}

#[test]
fn closures_see_what_is_bound_around_them_and_keep_their_own() {
    check("r := ys if { x := 1; ys := [y | y := x + 1] }", &json!({}), "[2]");
    check("r := ys if { ys := [y | y = x + 1]; x = 1 }", &json!({}), "[2]");
    check("r := [x | some x in [1, 2]; x != y] if { some y in [2] }", &json!({}), "[1]");
    check("r := [zs | some x in [1, 2]; zs := {z | some z in [1, 2, 3]; z > x}]", &json!({}), "[[2,3],[3]]");
    check("r if { xs := [1, 2]; every x in xs { some y in [2, 3]; x < y } }", &json!({}), "true");
    check("r if { xs := [1, 3]; every x in xs { some y in [2, 3]; x < y } }", &json!({}), "undefined");
    check("r := {k: v | some k, v in input; v > 1}", &json!({"a": 1, "b": 2}), r#"{"b":2}"#);
}

#[test]
fn undefined_ends_a_body_and_not_turns_round_only_what_stands_in_it() {
    check("r if not input.user in {\"eve\"}", &json!({}), "undefined");
    check("r if not input.user in {\"eve\"}", &json!({"user": "bob"}), "true");
    check("r if not input.user == \"eve\"", &json!({}), "true");
    check("r if not input.a.b.c", &json!({"a": 1}), "true");
    check("r if not f(input.x)\nf(x) if x == 1", &json!({}), "undefined");
    check("r if not f(input.x)\nf(x) if x == 1", &json!({"x": 2}), "true");
    check("r if not data.t[input.k]", &json!({}), "undefined");
    check("r if not data.t[input.k]", &json!({"k": "z"}), "true");
    check("r if not data.t[input.k]", &json!({"k": "a"}), "undefined");
}

#[test]
fn rules_of_every_kind_have_their_values() {
    check("r := 1 if input.a else := 2 if input.b else := 3", &json!({"b": true}), "2");
    check("r := 1 if input.a else := 2 if input.b else := 3", &json!({}), "3");
    check("default r := \"no\"\nr := \"yes\" if input.a == 1", &json!({"a": 2}), "\"no\"");
    check("r contains x if some x in input.xs\nr contains 9", &json!({"xs": [1, 1]}), "[1,9]");
    check("r[k] := v if some k, v in input\nr.z := 1", &json!({"a": 1}), r#"{"a":1,"z":1}"#);
    check("r := f([1, 2])\nf([a, b]) := a + b\nf({\"x\": x}) := x", &json!({}), "3");
    check("default f(_) := 0\nf(x) := 1 if x > 5\nr := [f(1), f(9)]", &json!({}), "[0,1]");
    check("r := data.p.q[input.k]\nq.a := 1\nq.b := 2", &json!({"k": "b"}), "2");
    check("r := {k | data.p.q[k] == 2}\nq.a := 1\nq.b := 2", &json!({}), r#"["b"]"#);
    check("r := [k | data.t[k].n > 0]", &json!({}), r#"["a","b"]"#);
    check("r contains p if walk(input, [p, 7])", &json!({"a": [7]}), r#"[["a",0]]"#);
}

#[test]
fn values_are_ordered_as_opa_orders_them() {
    check(
        "r := [{} < set(), [{}] < [set()], set() > {}, [1] < [1, 2], \"a\" < 1]",
        &json!({}),
        "[true,true,true,true,false]",
    );
}

#[test]
fn with_replaces_documents_and_functions_and_nothing_outlives_it() {
    check(
        "q := input.x\nr := [a, b] if { a := q with input as {\"x\": 2}; b := q }",
        &json!({"x": 1}),
        "[2,1]",
    );
    check("q := input.x\nr := [q | some i in [1, 2]; q with input.x as i]", &json!({"x": 7}), "[7,7]");
    check("r := [x | some i in [1, 2]; x := input.x with input.x as i]", &json!({"x": 7}), "[1,2]");
    check("r := x if { x := data.t.a.n with data.t.a.n as 5 }", &json!({}), "5");
    check("q := 1\nr := [a, q] if { a := q with data.p.q as 4 }", &json!({}), "[4,1]");
    check("f(x) := x + 1\ng(_) := 0\nr := [a, f(1)] if { a := f(1) with f as g }", &json!({}), "[0,2]");
    check("q := count(input)\nr := x if { x := q with count as 3 }", &json!([]), "3");
    check(
        "q := lower(input)\nmock(x) := concat(\"\", [x, lower(x)])\nr := x if { x := q with lower as mock }",
        &json!("A"),
        "\"Aa\"",
    );
    check(
        "r := [x, y] if { x := input.xs[_] with input as {\"xs\": [1, 2]}; y := input.y; x == y }",
        &json!({"y": 2}),
        "[2,2]",
    );
}

#[test]
fn many_rules_are_found_by_their_tests() {
    let rules: String = (0..100)
        .map(|n| {
            format!("r if {{ input.request.method == \"GET\"; input.request.path == \"/p{n}\"; input.role in {{\"a{n}\", \"admin\"}} }}\n")
        })
        .collect();
    for n in [0, 57, 99] {
        let ask = |role: &str| json!({"request": {"method": "GET", "path": format!("/p{n}")}, "role": role});
        check(&rules, &ask(&format!("a{n}")), "true");
        check(&rules, &ask("admin"), "true");
        check(&rules, &ask("a100"), "undefined");
    }
    check(&rules, &json!({"role": "admin"}), "undefined");
    let prefixes: String = (0..20)
        .map(|n| format!("r contains {n} if startswith(input.path, \"/{}\")\n", "x".repeat(n)))
        .collect();
    check(&prefixes, &json!({"path": "/xxy"}), "[0,1,2]");
    check(&prefixes, &json!({"path": "y"}), "[]");
    check(&prefixes, &json!({"path": 1}), "[]");
    check(&prefixes, &json!({"path": "/é"}), "[0]");
    check(
        &format!("{}q := r", prefixes.replace("r contains", "s contains"))
            .replace("q := r", "r := count(x) if { x := s with startswith as true }"),
        &json!({"path": "y"}),
        "20",
    );
    let functions: String = (0..10).map(|n| format!("f(\"k{n}\", x) := x + {n}\n")).collect();
    check(&format!("{functions}r := [f(\"k3\", 1), f(input.k, 1)]"), &json!({"k": "k9"}), "[4,10]");
    let sides: String = (0..10)
        .map(|n| format!("r := {n} if {{ x := input.x; x == {n} }} else := {} if input.x == 77\n", 5))
        .collect();
    check(&sides, &json!({"x": 4}), "4");
    check(&sides, &json!({"x": 77}), "5");
}

#[test]
fn different_values_for_one_document_are_conflicts() {
    for text in [
        "r := 1\nr := 2",
        "r := x if some x in [1, 2]",
        "r := f(1)\nf(_) := 1\nf(_) := 2",
        "r[k] := v if { some v in [1, 2]; k := 1 }",
        "r := {k: v | some v in [1, 2]; k := 1}",
        "r := x if { some x in [1, 2] } else := 3",
    ] {
        assert!(matches!(ask(text, &json!({})), Err(EvalError::Conflict { .. })), "{text}");
    }
    for text in ["r := 1\nr := 1", "r if some x in [1, 2]\nr if input", "r := x if some x in [1, 1.0]"] {
        assert!(matches!(ask(text, &json!({})), Ok(Some(_))), "{text}");
    }
}

#[test]
fn loops_end_with_their_budget_on_plans_too() {
    let text = "r := count([1 | some a in numbers.range(1, 9000); some b in numbers.range(1, 9000); a == b])";
    let program = program(text, &json!({}));
    let entrypoint = program.entrypoint("p/r").unwrap();
    assert!(program.is_planned(&entrypoint));
    let budget = Duration::from_millis(20);
    let started = Instant::now();
    let answer = program.evaluator().evaluate(&entrypoint, Facts { budget, ..facts(Value::Null) });
    assert_eq!(answer, Err(EvalError::BudgetExceeded { budget }));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn nested_loops_run_on_a_workers_stack_or_are_refused() {
    let loops = |count: usize| {
        let loops: String = (0..count).map(|n| format!("  some x{n} in [1]; x{n} == 1\n")).collect();
        format!("r if {{\n{loops}}}\n")
    };
    for count in [100, 300, 390] {
        let text = loops(count);
        let run = move || {
            let modules = vec![Module { path: "p.rego".into(), text: format!("package p\n{text}") }];
            let program = compile(&modules, Value::new_object(), Options::default()).ok()?;
            Some(program.evaluator().evaluate(&program.entrypoint("p/r").unwrap(), facts(Value::Null)))
        };
        let answer = std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
        assert!(answer.is_none_or(|answer| answer == Ok(Some(Value::from(true)))), "{count}");
    }
}

#[test]
fn what_is_not_planned_says_why_and_is_answered_all_the_same() {
    for (text, reason, want) in [
        ("r if print(\"x\")", "it prints", "true"),
        ("r := q\nq if print(\"x\")", "it reads `data.p.q`, which is not planned", "true"),
    ] {
        let program = program(text, &json!({}));
        let entrypoint = program.entrypoint("p/r").unwrap();
        assert!(!program.is_planned(&entrypoint), "{text}");
        let reasons: BTreeMap<String, String> =
            program.not_planned().iter().map(|it| (it.rule.clone(), it.reason.to_string())).collect();
        assert_eq!(reasons.get("data.p.r").map(String::as_str), Some(reason), "{text}");
        let answer = program.evaluator().evaluate(&entrypoint, facts(Value::Null)).unwrap();
        assert_eq!(answer.unwrap().to_string(), want);
    }
}

#[test]
fn chance_answers_alike_within_a_decision_and_differently_in_the_next() {
    let program = program("r := [uuid.rfc4122(\"a\"), uuid.rfc4122(\"a\"), uuid.rfc4122(\"b\")]", &json!({}));
    let entrypoint = program.entrypoint("p/r").unwrap();
    assert!(program.is_planned(&entrypoint));
    let mut evaluator = program.evaluator();
    let mut ask = || evaluator.evaluate(&entrypoint, facts(Value::Null)).unwrap().unwrap();
    let (first, second) = (ask(), ask());
    assert_eq!(first[0], first[1]);
    assert_ne!(first[0], first[2]);
    assert_ne!(first, second);
}
