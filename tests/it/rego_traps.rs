//! The traps of the embedded engine, one test each: what it would do wrong is refused, bounded or
//! corrected here.

use std::time::{Duration, Instant};

use postern::rego::evaluator::{EvalError, Facts};
use postern::rego::fault::BundleErrors;
use postern::rego::outside::{Outside, Question, Reply, Settled};
use postern::rego::program::{EngineKind, Module, Options, Program, compile};
use regorus::Value;

fn modules(texts: &[&str]) -> Vec<Module> {
    let files = texts.iter().enumerate();
    files.map(|(index, text)| Module { path: format!("m{index}.rego"), text: (*text).to_owned() }).collect()
}

fn compiled(texts: &[&str]) -> Result<Program, BundleErrors> {
    compile(&modules(texts), Value::new_object(), Options::default())
}

fn facts(input: &str) -> Facts {
    Facts { input: Value::from_json_str(input).unwrap(), now_ns: 0, budget: Duration::from_secs(5) }
}

/// Evaluates `data.p.r` of one module.
fn ask(text: &str, input: &str) -> Result<Option<Value>, EvalError> {
    let program = compiled(&[text]).unwrap_or_else(|errors| panic!("{errors}"));
    program.evaluator().evaluate(&program.entrypoint("p/r").unwrap(), facts(input))
}

#[track_caller]
fn refused(texts: &[&str], code: &str, place: &str) {
    let errors = compiled(texts).expect_err("refused");
    let fault = &errors.faults()[0];
    assert_eq!((fault.code, fault.place.to_string().as_str()), (code, place), "{errors}");
    assert!(fault.hint.is_some(), "{errors}");
}

fn on_a_worker_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap()
}

#[test]
fn recursion_is_refused_with_its_place() {
    refused(&["package p\nr if r\n"], "recursion", "m0.rego:2:1");
    refused(&["package p\nr if q\nq if r\n"], "recursion", "m0.rego:2:1");
    refused(&["package p\nr if f(1)\nf(x) if { x; g(x) }\ng(x) if f(x)\n"], "recursion", "m0.rego:3:1");
    refused(&["package p\nr if data.q.s\n", "package q\ns if data.p.r\n"], "recursion", "m0.rego:2:1");
    refused(&["package p\nr if { some x; data.p[x] }\n"], "recursion", "m0.rego:2:1");
    refused(&["package p.q\nr if count(data.p) > 0\n"], "recursion", "m0.rego:2:1");
    refused(&["package p\nr if { k := \"r\"; data.p[k] }\n"], "recursion", "m0.rego:2:1");
    refused(&["package p\nr if count(data) > 0\n"], "recursion", "m0.rego:2:1");
    refused(&["package p\nr := [x | x := r]\n"], "recursion", "m0.rego:2:1");
    refused(&["package p\nimport data.p as self\nr if self.r\n"], "recursion", "m0.rego:3:1");
}

#[test]
fn what_only_looks_recursive_is_not() {
    for text in [
        "package p\nr := x if { r := 1; x := r }\n",
        "package p\nf(r) := r\nr := f(1)\n",
        "package p\nr.a := 1\nr.b := r.a\n",
        "package p\nr if data.other.r\n",
        "package p\nr if data.p.table[1]\n",
    ] {
        assert!(compiled(&[text]).is_ok(), "{text}: {}", compiled(&[text]).unwrap_err());
    }
}

#[test]
fn chains_that_would_overflow_a_worker_are_refused_and_shorter_ones_run() {
    let chain = |length: usize, link: fn(usize) -> String| {
        let links: String = (0..length).map(link).collect();
        format!("package p\nr if r0\n{links}")
    };
    let rules: fn(usize) -> String = |n| format!("r{n} if {{ input.x; r{} }}\n", n + 1);
    let text = format!("{}r3000 := true\n", chain(3_000, rules));
    let errors = on_a_worker_stack(move || compiled(&[&text]).expect_err("refused"));
    assert_eq!(errors.faults()[0].code, "chain_too_deep");
    // The longest chain that is let through, evaluated and analysed where requests are.
    let longest =
        (1..200).rev().find(|n| compiled(&[&format!("{}r{n} := true\n", chain(*n, rules))]).is_ok());
    let longest = longest.unwrap();
    assert!(longest > 30, "only {longest} rules in a row");
    let text = format!("{}r{longest} := true\n", chain(longest, rules));
    let answer = on_a_worker_stack(move || {
        let program = compiled(&[&text]).unwrap();
        let entrypoint = program.entrypoint("p/r").unwrap();
        assert!(program.footprint(&entrypoint).touches(&["x"]));
        program.evaluator().evaluate(&entrypoint, facts(r#"{"x": 1}"#))
    });
    assert_eq!(answer, Ok(Some(Value::from(true))));
}

#[test]
fn deep_nesting_inside_a_rule_runs_on_a_worker_stack() {
    let sum = format!("package p\nr := 1{}\n", " + 1".repeat(90));
    assert_eq!(on_a_worker_stack(move || ask(&sum, "{}")), Ok(Some(Value::from(91))));
    let loops = (0..100).map(|n| format!("  some x{n} in [1]; x{n} == 1\n")).collect::<Vec<_>>().concat();
    let loops = format!("package p\nr if {{\n{loops}}}\n");
    assert_eq!(on_a_worker_stack(move || ask(&loops, "{}")), Ok(Some(Value::from(true))));
}

#[test]
fn the_time_limit_holds_inside_built_ins() {
    let started = Instant::now();
    for call in [
        "numbers.range(1, 20000000)",
        "net.cidr_expand(\"10.0.0.0/8\")",
        "bits.lsh(1, 99999999999)",
        "sprintf(\"%999999999d\", [1])",
        "numbers.range(input.from, input.to)",
    ] {
        let text = format!("package p\nr := {call}\n");
        let answer = ask(&text, r#"{"from": 1, "to": 20000000}"#);
        assert!(matches!(answer, Err(EvalError::LimitExceeded { .. })), "{call}: {answer:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn a_refused_built_in_fails_the_evaluation_even_where_it_is_negated_or_swallowed() {
    for body in ["not numbers.range(1, 20000000)", "f(1)", "not f(1)"] {
        let text = format!("package p\nr if {body}\nf(x) if numbers.range(x, 20000000)\nf(x) if x == 1\n");
        assert!(matches!(ask(&text, "{}"), Err(EvalError::LimitExceeded { .. })), "{body}");
    }
}

#[test]
fn loops_end_with_their_budget() {
    let text = "package p\nr := count([1 | some a in numbers.range(1, 9000); some b in numbers.range(1, 9000); a == b])\n";
    let program = compiled(&[text]).unwrap();
    let entrypoint = program.entrypoint("p/r").unwrap();
    let mut evaluator = program.evaluator();
    let started = Instant::now();
    let budget = Duration::from_millis(20);
    let answer = evaluator.evaluate(&entrypoint, Facts { budget, ..facts("{}") });
    assert_eq!(answer, Err(EvalError::BudgetExceeded { budget }));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn undefined_inside_not_and_membership_is_undefined() {
    let banned = "package p\nbanned := {\"eve\"}\nr if not input.user in banned\n";
    assert_eq!(ask(banned, "{}"), Ok(None));
    assert_eq!(ask(banned, r#"{"user": "eve"}"#), Ok(None));
    assert_eq!(ask(banned, r#"{"user": "bob"}"#), Ok(Some(Value::from(true))));
    let missing = |text: &str| assert_eq!(ask(&format!("package p\n{text}\n"), "{}"), Ok(None), "{text}");
    missing("r if { x := input.missing }");
    missing("r if not startswith(input.missing, \"a\")");
    missing("r if not f(input.missing)\nf(x) if x == 1");
    missing("r if not lower(input.missing) == \"a\"");
    missing("r if { x := 1 in input.missing; true }");
    missing("r if { not input.missing in [1]; true }");
    missing("r if {\n\tnot input.missing in\n\t\t[1]\n}");
    missing("r if not {\"a\": 1}[input.missing]");
    missing("r := input.missing in [1]");
    missing(
        "default r := 1\nf(x) := x in input.missing\nr := 2 if f(1)\nr := 3 if { not f(2); false }"
            .strip_prefix("default r := 1\n")
            .unwrap(),
    );
}

#[test]
fn elements_without_a_value_are_left_out_one_by_one() {
    let xs = r#"{"xs": [{"a": 1}, {}, {"a": 3}]}"#;
    let set = |text: &str| ask(&format!("package p\n{text}\n"), xs).unwrap().unwrap().to_string();
    assert_eq!(set("r contains x.a if some x in input.xs"), "[1,3]");
    assert_eq!(
        set("r contains {\"v\": x.a} if {\n\tsome x in input.xs # all of them\n}"),
        r#"[{"v":1},{"v":3}]"#
    );
    assert_eq!(set("r[i] := x.a if some i, x in input.xs"), r#"{"0":1,"2":3}"#);
    assert_eq!(set("r := [x.a | some x in input.xs]"), "[1,3]");
    assert_eq!(set("r contains upper(x.a) if some x in input.xs"), "[]");
}

#[test]
fn reading_a_rule_by_import_evaluates_that_rule_alone() {
    // The engine evaluates the whole package an alias stands for, and all packages below it.
    let library = "package lib\nimport data.lib.deep\ngood := 1\nbad := numbers.range(1, 20000000)\n";
    let deep = "package lib.deep\nbad := numbers.range(1, 20000000)\n";
    let policy = "package p\nimport data.lib\nimport data.lib.good as aliased\nr := lib.good + aliased\n";
    let program = compiled(&[policy, library, deep]).unwrap();
    let answer = program.evaluator().evaluate(&program.entrypoint("p/r").unwrap(), facts("{}"));
    assert_eq!(answer, Ok(Some(Value::from(2))));
}

#[test]
fn packages_in_crowded_data_are_warned_of() {
    let entries: Vec<String> = (0..2_000).map(|n| format!("\"k{n}\": 1")).collect();
    let crowd = |data: String| {
        let data = Value::from_json_str(&data).unwrap();
        let program = compile(&modules(&["package users.p\nr := 1\n"]), data, Options::default()).unwrap();
        program.warnings().iter().map(|fault| fault.code).collect::<Vec<_>>()
    };
    assert_eq!(crowd(format!("{{\"users\": {{{}}}}}", entries.join(", "))), ["crowded_package"]);
    assert_eq!(crowd(format!("{{\"others\": {{{}}}}}", entries.join(", "))), Vec::<&str>::new());
}

#[test]
fn unknown_functions_and_wrong_arity_are_found_at_load() {
    refused(&["package p\nr if nothing(1)\n"], "unknown_function", "m0.rego:2:6");
    refused(&["package p\nr if {\n\tx := 1\n\tx == lib.nothing(1)\n}\n"], "unknown_function", "m0.rego:4:7");
    refused(&["package p\nr if startswith(\"a\")\n"], "arity_mismatch", "m0.rego:2:6");
    refused(&["package p\nr if f(1, 2, 3)\nf(x) := x\n"], "arity_mismatch", "m0.rego:2:6");
    refused(&["package p\nr := f(1)\nf(x) := x\nf(x, y) := x + y\n"], "arity_mismatch", "m0.rego:4:1");
    refused(&["package p\nr if http.send({})\n"], "builtin_not_configured", "m0.rego:2:6");
    refused(&["package p\nr if net.lookup_ip_addr(\"x\")\n"], "builtin_not_configured", "m0.rego:2:6");
    refused(&["package p\nr if usr == 1\nuser := 1\n"], "unsafe_variable", "m0.rego:2:6");
    let errors = compiled(&["package p\nr if startwith(\"a\", \"b\")\n"]).unwrap_err();
    assert_eq!(errors.faults()[0].hint.as_deref(), Some("did you mean `startswith`?"));
}

#[test]
fn the_variable_of_an_iteration_may_hide_what_is_around_it() {
    for (text, want) in [
        ("x := 5\nr := {x | some x in [7, 8]}\n", "{7, 8}"),
        ("x := 5\nr := {y | some i, x in [7, 8]; i == 0; y := x}\n", "{7}"),
        ("import data.q.x\nr := {y | some x in [7, 8]; y := x}\n", "{7, 8}"),
        ("f(x) := {y | some x in [1, 2]; y := x}\nr := f(9)\n", "{1, 2}"),
        ("r := z if { x := 9; y := {x | some x in [1, 2]}; z := y | {x} }\n", "{1, 2, 9}"),
        ("x := 5\nr contains x if { some x in [7, 8] }\n", "{7, 8}"),
        ("x := 5\nr if { some [x, y] in [[1, 2], [3, 4]]; x == 3; y == 4 }\n", "true"),
        ("r contains [x, y] if { some x in [1]; some y in [x | some x in [3]] }\n", "{[1, 3]}"),
    ] {
        for engine in [EngineKind::Auto, EngineKind::Interpreter] {
            let text = format!("package p\n{text}");
            let options = Options { engine, ..Options::default() };
            let program = compile(&modules(&[&text]), Value::new_object(), options);
            let program = program.unwrap_or_else(|errors| panic!("{text}{errors}"));
            let asked = program.evaluator().evaluate(&program.entrypoint("p/r").unwrap(), facts("{}"));
            let wanted = ask(&format!("package p\nr := {want}\n"), "{}");
            assert_eq!(asked, wanted, "{text} {engine:?}");
        }
    }
    // Before its `some`, a name means what it hides: that is refused, for the engine would take it for the variable.
    for (text, place) in [
        ("x := [5]\nr := {x | some x in x}\n", "m0.rego:3:21"),
        ("f(x) := {y | some x in [x, 10]; y := x}\nr := f(9)\n", "m0.rego:2:25"),
        ("x := 5\nr if { x == 5; some x in [1]; x == 1 }\n", "m0.rego:3:8"),
    ] {
        refused(&[&format!("package p\n{text}")], "hidden_name", place);
    }
}

#[test]
fn names_are_resolved_as_opa_resolves_them() {
    refused(&["package p\nimport data.q.r\nr := 1\n"], "import_shadows_rule", "m0.rego:2:1");
    refused(&["package p\nr if q with usr as 1\nq := 1\n"], "unknown_with_target", "m0.rego:2:13");
    refused(&["package p\nr if not xs[i] == 1\nxs := [1]\n"], "unsafe_variable", "m0.rego:2:13");
    refused(&["package p\nr if { some x; true }\n"], "unused_variable", "m0.rego:2:13");
    refused(&["package p\nr if every x in [1] { true }\n"], "unused_variable", "m0.rego:2:12");
    refused(&["package p\ndefault r := input.x\n"], "default_not_constant", "m0.rego:2:1");
    refused(&["package p\ndefault r := 1\ndefault r := 2\n"], "multiple_defaults", "m0.rego:3:1");
    refused(&["package p\nr := 1\nr contains 2\n"], "conflicting_rules", "m0.rego:3:1");
    refused(&["package p\nr { true }\n"], "parse_error", "m0.rego:2:3");
    for text in [
        "r if { xs[i] == 1; i > 0 }\nxs := [0, 1]",
        "r if { x = y; y = 1 }",
        "r if { some i; xs[i] == 1 }\nxs := [1]",
        "r := [x | some x in xs]\nxs := [1]",
        "r if { f := 1; f == 1 }\nf(x) := x",
        "r if [a, b] = [1, 2]",
        "r := {k: v | some k, v in {\"a\": 1}}",
        "r if { walk([1], [path, value]); path; value }",
    ] {
        let text = format!("package p\n{text}\n");
        assert!(compiled(&[&text]).is_ok(), "{text}: {}", compiled(&[&text]).unwrap_err());
    }
}

#[test]
fn all_faults_come_at_once() {
    let texts = ["package p\nr if a(1)\ns if b(1)\n", "package q\nt if t\nu := http.send({})\n"];
    let errors = compiled(&texts).unwrap_err();
    let codes: Vec<&str> = errors.faults().iter().map(|fault| fault.code).collect();
    assert_eq!(codes, ["unknown_function", "unknown_function", "recursion", "builtin_not_configured"]);
}

#[test]
fn panics_are_caught_and_the_evaluator_lives_on() {
    // `strings.count` with an empty needle panics in the engine; here it answers.
    assert_eq!(ask("package p\nr := strings.count(\"abc\", \"\")\n", "{}"), Ok(Some(Value::from(4))));
    let text = "package p\nbad := time.parse_ns(\"\u{e9}\u{b2}\u{665}\", \"{{\")\ngood := 1\n";
    let program = compiled(&[text]).unwrap();
    let (bad, good) = (program.entrypoint("p/bad").unwrap(), program.entrypoint("p/good").unwrap());
    let mut evaluator = program.evaluator();
    for _ in 0..3 {
        assert!(matches!(evaluator.evaluate(&bad, facts("{}")), Err(EvalError::Panic { .. })));
        assert_eq!(evaluator.evaluate(&good, facts("{}")), Ok(Some(Value::from(1))));
    }
}

#[test]
fn prints_are_gathered_by_evaluation() {
    let program = compiled(&["package p\nr if print(\"user\", input.user, input.none)\n"]).unwrap();
    let entrypoint = program.entrypoint("p/r").unwrap();
    let mut evaluator = program.evaluator();
    assert_eq!(evaluator.evaluate(&entrypoint, facts(r#"{"user": "eve"}"#)), Ok(Some(Value::from(true))));
    assert_eq!(evaluator.take_prints(), ["m0.rego:2: user eve <undefined>"]);
    assert!(evaluator.take_prints().is_empty());
}

#[test]
fn long_lines_load() {
    let text = format!("package p\nr := \"{}\"\n", "k".repeat(200_000));
    assert!(compiled(&[&text]).is_ok());
}

#[test]
fn built_in_errors_are_undefined_unless_strict() {
    let text = "package p\nr := to_number(\"x\")\nd := 1 / 0\n";
    let outcome = |strict, path| {
        let options = Options { strict_builtin_errors: strict, ..Options::default() };
        let program = compile(&modules(&[text]), Value::new_object(), options).unwrap();
        program.evaluator().evaluate(&program.entrypoint(path).unwrap(), facts("{}"))
    };
    assert_eq!((outcome(false, "p/r"), outcome(false, "p/d")), (Ok(None), Ok(None)));
    for (path, column) in [("p/r", 6), ("p/d", 6)] {
        let Err(EvalError::Rule { place, .. }) = outcome(true, path) else {
            panic!("{:?}", outcome(true, path))
        };
        assert_eq!(place.column, column, "{path}");
    }
}

#[test]
fn conflicts_are_errors_of_their_own() {
    for text in
        ["r := 1\nr := 2", "r := f(1)\nf(_) := 1\nf(_) := 2", "r[k] := v if { some v in [1, 2]; k := 1 }"]
    {
        let answer = ask(&format!("package p\n{text}\n"), "{}");
        assert!(matches!(answer, Err(EvalError::Conflict { .. })), "{text}: {answer:?}");
    }
}

#[test]
fn http_send_is_refused_where_it_is_not_permitted() {
    refused(
        &["package p\nr := http.send({\"method\": \"GET\", \"url\": \"http://a\"})\n"],
        "builtin_not_configured",
        "m0.rego:2:6",
    );
}

/// What is asked outside, evaluation after evaluation, each question answered with its number.
fn questions(text: &str, engine: EngineKind) -> (Vec<String>, Result<Option<Value>, EvalError>) {
    let options = Options { engine, ..Options::developing() };
    let program = compile(&modules(&[text]), Value::new_object(), options).unwrap();
    let entrypoint = program.entrypoint("p/r").unwrap();
    assert_eq!(program.is_planned(&entrypoint), engine == EngineKind::Auto, "{text}");
    let mut evaluator = program.evaluator();
    let mut settled = Settled::default();
    let mut asked = Vec::new();
    loop {
        let question = match evaluator.evaluate_settled(&entrypoint, facts("{}"), &mut settled) {
            Err(EvalError::Unanswered { question, .. }) => *question,
            answer => return (asked, answer),
        };
        asked.push(question.to_string());
        assert!(asked.len() < 10, "{asked:?}");
        let body = Value::from(u64::try_from(asked.len()).unwrap());
        let answer = Value::from(std::collections::BTreeMap::from([(Value::from("body"), body)]));
        settled.answer(question, Reply::Value(answer));
    }
}

#[test]
fn what_lies_outside_is_asked_once_and_in_order_on_both_engines() {
    let check = |rules: &str, asked: &[&str], want: &str| {
        let text = format!(
            "package p\nask(path) := http.send({{\"method\": \"GET\", \"url\": sprintf(\"http://a/%v\", [path])}}).body\n{rules}\n"
        );
        let want_asked: Vec<String> =
            asked.iter().map(|path| format!("`http.send` to `http://a/{path}`")).collect();
        for engine in [EngineKind::Auto, EngineKind::Interpreter] {
            let (asked, answer) = questions(&text, engine);
            let answer = answer.unwrap_or_else(|error| panic!("{rules}: {error}"));
            assert_eq!(asked, want_asked, "{engine:?} {rules}");
            assert_eq!(answer.map_or("undefined".to_owned(), |value| value.to_string()), want, "{rules}");
        }
    };
    check("r := ask(1)", &["1"], "1");
    check("r := [ask(1), ask(2), ask(1)]", &["1", "2"], "[1,2,1]");
    // The second question holds the first's answer.
    check("r := ask(ask(7))", &["7", "1"], "2");
    // What is not reached is not asked; what is asked in a negation is not taken for undefined.
    check("r if { false; ask(1) }", &[], "undefined");
    check("r if not ask(1) == 2", &["1"], "true");
    check("r := 5 if not ask(1)\nelse := ask(2)", &["1", "2"], "2");
    check("r := [x | some n in [3, 4]; x := ask(n)]", &["3", "4"], "[1,2]");
    // What chance draws stays drawn, or the question would be another each time.
    check(
        "r := [uuid.rfc4122(\"k\") == uuid.rfc4122(\"k\"), ask(1)]\nq := ask(uuid.rfc4122(\"k\"))",
        &["1"],
        "[true,1]",
    );
}

#[test]
fn a_question_with_a_fresh_signature_is_asked_once() {
    let key = r#"{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;
    let text = format!(
        "package p\ntoken := io.jwt.encode_sign({{\"alg\": \"ES256\"}}, {{}}, {key})\n\
         r := http.send({{\"method\": \"GET\", \"url\": \"http://a/\", \"headers\": {{\"Authorization\": token}}}}).body\n"
    );
    for engine in [EngineKind::Auto, EngineKind::Interpreter] {
        let (asked, answer) = questions(&text, engine);
        assert_eq!((asked.len(), answer), (1, Ok(Some(Value::from(1_u64)))), "{engine:?}");
    }
}

#[test]
fn an_error_and_a_refusal_from_outside_are_those_of_the_built_in() {
    let text = "package p\nr := net.lookup_ip_addr(\"a.test\")\n";
    for engine in [EngineKind::Auto, EngineKind::Interpreter] {
        for strict in [false, true] {
            let options = Options { engine, strict_builtin_errors: strict, ..Options::developing() };
            let program = compile(&modules(&[text]), Value::new_object(), options).unwrap();
            let entrypoint = program.entrypoint("p/r").unwrap();
            let mut evaluator = program.evaluator();
            let mut ask = |reply: Reply| {
                let mut settled = Settled::default();
                let question = Question { builtin: Outside::LookupIpAddr, argument: Value::from("a.test") };
                settled.answer(question, reply);
                evaluator.evaluate_settled(&entrypoint, facts("{}"), &mut settled)
            };
            let failed = ask(Reply::Error("down".to_owned()));
            match strict {
                false => assert_eq!(failed, Ok(None)),
                true => assert!(matches!(failed, Err(EvalError::Rule { .. })), "{failed:?}"),
            }
            let refused = ask(Reply::Refused("not listed".to_owned()));
            assert!(matches!(refused, Err(EvalError::LimitExceeded { .. })), "{refused:?}");
        }
    }
}

#[test]
fn programs_are_shared_and_evaluators_move() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<Program>();
    moved::<postern::rego::evaluator::Evaluator>();
}

#[test]
fn damaged_policies_are_refused_or_run_but_never_panic() {
    let texts = ["gateway", "rbac", "tiers", "federation", "allowlist", "paths"]
        .map(|name| std::fs::read_to_string(format!("policies/{name}.rego")).unwrap());
    let pieces =
        ["", " ", "\n", "(", "}", "\"", "not ", " in x", "[_]", ".a", " := 1", "input", "if ", "#", "`"];
    let damage = (0..texts.len(), 0_usize..4_000, 0_usize..12, proptest::sample::select(pieces.to_vec()));
    let mut runner = proptest::test_runner::TestRunner::new(proptest::test_runner::Config {
        cases: 400,
        ..proptest::test_runner::Config::default()
    });
    runner
        .run(&damage, |(which, at, cut, piece)| {
            let mut damaged = texts.clone();
            let text = &mut damaged[which];
            let start = text.char_indices().map(|(at, _)| at).nth(at % text.chars().count()).unwrap();
            let end = text[start..].char_indices().map(|(at, _)| start + at).nth(cut).unwrap_or(text.len());
            text.replace_range(start..end, piece);
            let texts: Vec<&str> = damaged.iter().map(String::as_str).collect();
            match compiled(&texts) {
                Ok(program) => {
                    if let Ok(entrypoint) = program.entrypoint("gateway/decision") {
                        program.footprint(&entrypoint);
                        let answer = program.evaluator().evaluate(&entrypoint, facts("{}"));
                        let panicked = matches!(answer, Err(EvalError::Panic { .. }));
                        proptest::prop_assert!(!panicked, "{answer:?}");
                    }
                }
                Err(errors) => {
                    let ours = errors.faults().iter().find(|fault| fault.code == "rewrite_error");
                    proptest::prop_assert!(ours.is_none(), "{ours:?}");
                }
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn time_is_an_argument() {
    let program = compiled(&["package p\nr := [time.now_ns(), time.now_ns()]\n"]).unwrap();
    let entrypoint = program.entrypoint("p/r").unwrap();
    let answer = program.evaluator().evaluate(&entrypoint, Facts { now_ns: 1_234, ..facts("{}") });
    assert_eq!(answer.unwrap().unwrap().to_string(), "[1234,1234]");
}

#[test]
fn rules_and_data_do_not_share_a_path() {
    let conflict = |data: &str| {
        let data = Value::from_json_str(data).unwrap();
        compile(&modules(&["package p.q\nr := 1\n"]), data, Options::default()).is_err()
    };
    assert!(conflict(r#"{"p": {"q": {"r": 2}}}"#));
    assert!(conflict(r#"{"p": 2}"#));
    assert!(!conflict(r#"{"p": {"q": {"s": 2}}}"#));
}
