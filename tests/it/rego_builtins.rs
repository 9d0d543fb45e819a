//! Our own built-ins inside policies: mocks, results bound by an argument, coverage, and what
//! stands where it was written although the interpreter reads something else.

use std::time::Duration;

use postern::rego::{
    evaluator::{EvalError, Evaluator, Facts},
    fault::BundleErrors,
    program::{Module, Options, Program, compile},
};
use regorus::Value;

fn compiled(texts: &[&str], options: Options) -> Result<Program, BundleErrors> {
    let modules: Vec<Module> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| Module { path: format!("m{index}.rego"), text: (*text).to_owned() })
        .collect();
    compile(&modules, Value::new_object(), options)
}

fn ask(evaluator: &mut Evaluator, path: &str) -> Result<Option<Value>, EvalError> {
    let entrypoint = evaluator.program().entrypoint(path).unwrap();
    let facts = Facts {
        input: Value::from_json_str(r#"{"token": "t", "key": "not"}"#).unwrap(),
        now_ns: 1_800_000_000_000_000_000,
        budget: Duration::from_secs(10),
    };
    evaluator.evaluate(&entrypoint, facts)
}

#[track_caller]
fn check(texts: &[&str], path: &str, want: &str) {
    let program = compiled(texts, Options::default()).unwrap_or_else(|errors| panic!("{errors}"));
    let got = ask(&mut program.evaluator(), path).unwrap();
    assert_eq!(got.map(|value| serde_json::to_string(&value).unwrap()), Some(want.to_owned()), "{path}");
}

#[test]
fn mocks_reach_our_built_ins_wherever_they_are_called() {
    let lib =
        "package lib\nclaims := c if [true, _, c] = io.jwt.decode_verify(input.token, {\"secret\": \"s\"})\n";
    let test = "package t\nimport data.lib\nfake(\"t\", _) := [true, {}, {\"sub\": \"ada\"}]\n\
        by_function := x if x := lib.claims with io.jwt.decode_verify as fake\n\
        by_value := x if x := lib.claims with io.jwt.decode_verify as [true, {}, {\"sub\": \"bob\"}]\n\
        unmocked if not lib.claims\n\
        digest := x if x := crypto.sha256(\"a\") with crypto.sha256 as crypto.md5\n\
        engines := x if x := upper(\"ab\") with upper as crypto.md5\n";
    check(&[lib, test], "t/by_function", r#"{"sub":"ada"}"#);
    check(&[lib, test], "t/by_value", r#"{"sub":"bob"}"#);
    check(&[lib, test], "t/unmocked", "true");
    check(&[lib, test], "t/digest", r#""0cc175b9c0f1b6a831c399e269772661""#);
    check(&[lib, test], "t/engines", r#""187ef4436122d1cc2f40dc2b92f0eba0""#);
}

#[test]
fn a_mock_that_calls_what_it_mocks_calls_the_real_one() {
    let text = "package t\nfake(x) := concat(\"-\", [\"fake\", crypto.md5(x)])\np := x if x := crypto.md5(\"a\") with crypto.md5 as fake\n";
    check(&[text], "t/p", r#""fake-0cc175b9c0f1b6a831c399e269772661""#);
}

#[test]
fn results_are_bound_by_one_more_argument() {
    let text = "package t\np := x if crypto.md5(\"a\", x)\nq if crypto.md5(\"a\", \"0cc175b9c0f1b6a831c399e269772661\")\nr if not crypto.md5(\"a\", \"b\")\n";
    check(&[text], "t/p", r#""0cc175b9c0f1b6a831c399e269772661""#);
    check(&[text], "t/q", "true");
    check(&[text], "t/r", "true");
}

#[test]
fn generated_rules_are_in_no_report() {
    let text =
        "package t\np := x if crypto.md5(\"a\", x)\nnot.q := 1 if {\n\tinput.key == \"not\"\n}\nr := not.q\n";
    let program = compiled(&[text], Options { coverage: true, ..Options::default() }).unwrap();
    let mut evaluator = program.evaluator();
    ask(&mut evaluator, "t/p").unwrap();
    ask(&mut evaluator, "t/r").unwrap();
    let files = evaluator.coverage();
    let covered: Vec<(&str, Vec<u32>, usize)> = files
        .iter()
        .map(|file| (&*file.file, file.covered.iter().copied().collect(), file.not_covered.len()))
        .collect();
    assert_eq!(covered, [("m0.rego", vec![2, 4, 6], 0)]);
}

#[test]
fn errors_of_ours_have_their_place_in_strict_mode_and_are_undefined_otherwise() {
    let text = "package t\np := io.jwt.decode(\"nonsense\")\nq := $\"{1}\" if io.jwt.decode(\"nonsense\")\n";
    let program = compiled(&[text], Options::default()).unwrap();
    assert_eq!(ask(&mut program.evaluator(), "t/p"), Ok(None));
    let strict = Options { strict_builtin_errors: true, ..Options::default() };
    let program = compiled(&[text], strict).unwrap();
    for (path, line) in [("t/p", 2), ("t/q", 3)] {
        let error = ask(&mut program.evaluator(), path).unwrap_err();
        let EvalError::Rule { place: found, message } = error else { panic!("{error:?}") };
        assert_eq!((&*found.file, found.line), ("m0.rego", line), "{message}");
        assert!(message.contains("must have 3 sections"), "{message}");
    }
}

#[test]
fn bounds_of_ours_fail_the_evaluation_whatever_the_policy_makes_of_it() {
    let text = "package t\ndefault allow := true\nallow := false if {\n\tio.jwt.decode(concat(\"\", [x | some _ in numbers.range(1, 60000); x := \"aaaaaaaaaaaaaaaaaaaa\"]))\n}\n\
        long := concat(\"\", [\"aaaaaaaaaaaaaaaaaaaa\" | some _ in numbers.range(1, 60000)])\nnegated if not io.jwt.decode(long)\n";
    let program = compiled(&[text], Options::default()).unwrap();
    for path in ["t/allow", "t/negated"] {
        let answer = ask(&mut program.evaluator(), path);
        assert!(matches!(answer, Err(EvalError::LimitExceeded { .. })), "{path}: {answer:?}");
    }
}

#[test]
fn documents_whose_names_are_keywords_have_those_names() {
    let text = "package t\nnot.a := 1\nnot.b contains x if some x in [1, 2]\nif.f(x) := x + not.a\ndefault with.d := 3\n\
        whole := data.t.not\ncalled := if.f(1)\nwith_default := with.d\n";
    let other = "package u\nimport data.t.not\nimport data.t\np := [not.a, t.not.a, data.t.if.f(2)]\nby_key := data.t[input.key].a\n";
    check(&[text, other], "t/whole", r#"{"a":1,"b":[1,2]}"#);
    check(&[text, other], "u/by_key", "1");
    check(&[text, other], "t/called", "2");
    check(&[text, other], "t/with_default", "3");
    check(&[text, other], "u/p", "[1,1,3]");
}

#[test]
fn faults_stand_where_they_were_written() {
    let place = |text: &str| compiled(&[text], Options::default()).unwrap_err().faults()[0].place.to_string();
    assert_eq!(place("package t\np := [$\"{input.x} {nobody}\", 1]\n"), "m0.rego:2:20");
    assert_eq!(place("package t\nnot.a := nobody\n"), "m0.rego:2:10");
    assert_eq!(place("package t\nnot[\"a\"].b := 1\n"), "m0.rego:2:1");
    assert_eq!(place("package t\np := $\"{input.x\n\"\n"), "m0.rego:2:8");
}

#[test]
fn annotations_are_answered_in_the_rule_that_asks() {
    let text = "# METADATA\n# title: all\npackage t\n\n# METADATA\n# title: own\n# custom:\n#   level: 3\n\
        p := rego.metadata.rule().custom.level\nq := [link.annotations.title | some link in rego.metadata.chain(); link.annotations]\n";
    check(&[text], "t/p", "3");
    check(&[text], "t/q", r#"["all"]"#);
}

#[test]
fn queries_have_our_built_ins_and_template_strings() {
    let program = compiled(&["package t\np := 1\n"], Options::default()).unwrap();
    let facts = Facts { input: Value::Undefined, now_ns: 0, budget: Duration::from_secs(10) };
    let rows = program.evaluator().query("$\"{crypto.md5(\"a\")} {data.t.p}\"", facts).unwrap();
    assert_eq!(rows[0].expressions[0].value, Value::from("0cc175b9c0f1b6a831c399e269772661 1"));
}

#[test]
fn a_literal_that_lacks_the_key_is_warned_about() {
    let program = compiled(&["package t\np := {\"a\": 1}.b\n"], Options::default()).unwrap();
    let codes: Vec<&str> = program.warnings().iter().map(|warning| warning.code).collect();
    assert_eq!(codes, ["undefined_reference"]);
}
