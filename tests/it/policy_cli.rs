//! The policy commands of the real binary: exit codes, what goes where, and OPA's shapes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

const POLICY: &str = "package gateway\n\ndecision := {\"allow\": allowed, \"reason\": \"by_method\"}\n\n\
    default allowed := false\n\nallowed if input.request.method == \"GET\"\n";
const TESTS: &str = "package gateway_test\n\nimport data.gateway\n\n\
    test_get if gateway.allowed with input.request.method as \"GET\"\n\n\
    test_post if not gateway.allowed with input.request.method as \"POST\"\n";

/// A directory with files.
pub(crate) fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// What a run of the binary left behind.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) notes: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.notes))
    }
}

pub(crate) fn gatewayctl(root: &Path, arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_gatewayctl"))
        .args(arguments)
        .current_dir(root)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        notes: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn passing_tests_exit_with_0() {
    let root = files(&[("p.rego", POLICY), ("p_test.rego", TESTS)]);
    let ran = gatewayctl(root.path(), &["policy", "test", "."]);
    assert_eq!((ran.code, ran.out.as_str(), ran.notes.as_str()), (Some(0), "PASS: 2/2\n", ""));
    let ran = gatewayctl(root.path(), &["policy", "test", "-v", ".", "--run", "test_get"]);
    assert!(ran.out.contains("./p_test.rego:\ndata.gateway_test.test_get: PASS ("), "{}", ran.out);
    assert!(!ran.out.contains("test_post"), "{}", ran.out);
}

#[test]
fn a_failing_test_exits_with_2_and_shows_the_expression_and_its_values() {
    let failing = format!("{TESTS}\ntest_wrong if {{\n\tx := 1\n\tx == gateway.decision.allow\n}}\n");
    let root = files(&[("p.rego", POLICY), ("p_test.rego", &failing)]);
    let ran = gatewayctl(root.path(), &["policy", "test", "."]);
    assert_eq!(ran.code, Some(2));
    let want = "  ./p_test.rego:11:2: does not hold:\n    x == gateway.decision.allow\n      x = 1\n      \
        gateway.decision.allow = false\n";
    assert!(ran.out.contains(want), "{}", ran.out);
    assert!(ran.out.ends_with("PASS: 2/3\nFAIL: 1/3\n"), "{}", ran.out);
}

#[test]
fn test_results_have_opas_json_shape() {
    let more = format!(
        "{TESTS}\ntest_wrong if false\n\ntodo_test_later if true\n\ntest_loud if print(\"hi\")\n\n\
         test_slow if numbers.range(1, 100000000)\n\n\
         test_parts[name] if {{\n\tsome name, n in {{\"a\": 1, \"b\": 2}}\n\tn == 1\n}}\n"
    );
    let root = files(&[("p.rego", POLICY), ("p_test.rego", &more)]);
    let ran = gatewayctl(root.path(), &["policy", "test", "--format", "json", "."]);
    assert_eq!(ran.code, Some(2));
    let results = ran.json();
    let by_name = |name: &str| {
        let found = results.as_array().unwrap().iter().find(|result| result["name"] == name);
        let mut found = found.unwrap().as_object().unwrap().clone();
        assert!(found.remove("duration").unwrap().is_u64());
        Json::Object(found)
    };
    let common = |row: u32, name: &str| {
        let location = json!({"file": "./p_test.rego", "row": row, "col": 1});
        json!({"location": location, "package": "data.gateway_test", "name": name})
    };
    let with = |mut result: Json, key: &str, value: Json| {
        result[key] = value;
        result
    };
    assert_eq!(by_name("test_get"), common(5, "test_get"));
    assert_eq!(by_name("test_wrong"), with(common(9, "test_wrong"), "fail", json!(true)));
    assert_eq!(by_name("todo_test_later"), with(common(11, "todo_test_later"), "skip", json!(true)));
    let printed = "Li9wX3Rlc3QucmVnbzoxMzogaGkK";
    assert_eq!(by_name("test_loud"), with(common(13, "test_loud"), "output", json!(printed)));
    assert!(by_name("test_slow")["error"]["message"].as_str().unwrap().contains("elements"));
    let parts = json!({"a": {"name": "a"}, "b": {"name": "b", "fail": true}});
    assert_eq!(by_name("test_parts")["sub_results"], parts);
}

#[test]
fn junit_names_packages_tests_and_failures() {
    let failing = format!("{TESTS}\ntest_wrong if 1 == 2\n");
    let root = files(&[("p.rego", POLICY), ("p_test.rego", &failing)]);
    let ran = gatewayctl(root.path(), &["policy", "test", "--format", "junit", "."]);
    assert_eq!(ran.code, Some(2));
    for part in [
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
        "<testsuite name=\"data.gateway_test\" tests=\"3\"",
        "failures=\"1\"",
        "<testcase name=\"test_get\" classname=\"data.gateway_test\"",
        "does not hold: 1 == 2",
    ] {
        assert!(ran.out.contains(part), "{part} not in {}", ran.out);
    }
}

#[test]
fn coverage_below_the_threshold_exits_with_2() {
    let root = files(&[("p.rego", POLICY), ("p_test.rego", TESTS)]);
    let test = |threshold: &str| gatewayctl(root.path(), &["policy", "test", ".", "--threshold", threshold]);
    assert_eq!(test("50").code, Some(0));
    let ran = test("100");
    assert_eq!(ran.code, Some(2));
    assert!(ran.notes.starts_with("Code coverage threshold not met: got "), "{}", ran.notes);
    assert!(ran.notes.ends_with(" instead of 100.00\n"), "{}", ran.notes);
    let ran = gatewayctl(root.path(), &["policy", "test", ".", "--coverage", "--format", "json"]);
    let coverage = ran.json();
    let file = &coverage["files"]["./p.rego"];
    assert_eq!(file["not_covered"], json!([{"start": {"row": 3}, "end": {"row": 3}}]));
    assert_eq!((&file["not_covered_lines"], &file["covered_lines"]), (&json!(1), &json!(1)));
    assert_eq!(file["covered"][0], json!({"start": {"row": 7}, "end": {"row": 7}}));
    assert!(coverage["coverage"].as_f64().unwrap() < 100.0);
}

#[test]
fn skipped_and_missing_tests_are_told_apart_from_passed_ones() {
    let root = files(&[("p.rego", POLICY), ("p_test.rego", "package t\n\ntodo_test_x if true\n")]);
    assert_eq!(gatewayctl(root.path(), &["policy", "test", "."]).code, Some(2));
    assert_eq!(gatewayctl(root.path(), &["policy", "test", ".", "-z"]).code, Some(0));
    let root = files(&[("p.rego", POLICY)]);
    assert_eq!(gatewayctl(root.path(), &["policy", "test", "."]).code, Some(0));
    assert_eq!(gatewayctl(root.path(), &["policy", "test", ".", "--fail-on-empty"]).code, Some(1));
}

#[test]
fn what_cannot_run_exits_with_1_and_wrong_usage_with_64() {
    let root = files(&[("p.rego", "package p\n\nr if nothing(1)\n")]);
    for command in ["test", "check", "eval", "footprint"] {
        let ran = gatewayctl(root.path(), &["policy", command, "."]);
        assert_eq!(ran.code, Some(1), "{command}: {}", ran.notes);
        let said = format!("{}{}", ran.out, ran.notes);
        assert!(
            said.contains("./p.rego:3:6:") && said.contains("unknown function `nothing`"),
            "{command}: {said}"
        );
        assert_eq!(gatewayctl(root.path(), &["policy", command, "absent"]).code, Some(1), "{command}");
        assert_eq!(gatewayctl(root.path(), &["policy", command]).code, Some(64), "{command}");
        assert_eq!(
            gatewayctl(root.path(), &["policy", command, ".", "--no-such-flag"]).code,
            Some(64),
            "{command}"
        );
    }
}

#[test]
fn check_reports_unknown_inputs_with_places_and_hints() {
    let root = files(&[("p.rego", "package p\n\nr if input.method == \"GET\"\n")]);
    let ran = gatewayctl(root.path(), &["policy", "check", "."]);
    assert_eq!(ran.code, Some(2));
    assert_eq!(
        ran.out,
        "./p.rego:3:12: error[unknown_input]: the input has no `input.method`\n  hint: did you mean `input.request.method`?\n"
    );
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--contract", "any"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""));
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--format", "sarif"]);
    let sarif = ran.json();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!((&sarif["version"], &result["ruleId"]), (&json!("2.1.0"), &json!("unknown_input")));
    let region = &result["locations"][0]["physicalLocation"]["region"];
    assert_eq!(region, &json!({"startLine": 3, "startColumn": 12}));
    let ran = gatewayctl(root.path(), &["policy", "check", ".", "--format", "json"]);
    assert_eq!(ran.json()["findings"][0]["location"], json!({"file": "./p.rego", "row": 3, "col": 12}));
}

#[test]
fn strict_makes_errors_of_warnings() {
    let root = files(&[("p.rego", "package p\n\nimport data.q\n\nr := 1\n")]);
    let ran = gatewayctl(root.path(), &["policy", "check", "."]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("warning[unused_import]: import `q` is not used"), "{}", ran.out);
    assert_eq!(gatewayctl(root.path(), &["policy", "check", ".", "--strict"]).code, Some(2));
}

#[test]
fn eval_answers_in_opas_shape_and_says_no_with_2() {
    let root = files(&[
        ("p.rego", POLICY),
        ("get.json", r#"{"request": {"method": "GET"}}"#),
        ("put.json", r#"{"request": {"method": "PUT"}}"#),
    ]);
    let eval = |more: &[&str]| gatewayctl(root.path(), &[&["policy", "eval", "."], more].concat());
    let ran = eval(&["--input", "get.json", "--format", "json"]);
    assert_eq!(ran.code, Some(0));
    let expression = json!({
        "value": {"allow": true, "reason": "by_method"},
        "text": "data.gateway.decision",
        "location": {"row": 1, "col": 1},
    });
    assert_eq!(ran.json(), json!({"result": [{"expressions": [expression]}]}));
    assert_eq!(eval(&["--input", "get.json", "--fail"]).code, Some(0));
    assert_eq!(eval(&["--input", "put.json", "--fail"]).code, Some(2));
    assert_eq!(eval(&["--input", "put.json"]).code, Some(0));
    let ran = eval(&["--query", "data.gateway.nothing", "--format", "json"]);
    assert_eq!((ran.code, ran.json()), (Some(0), json!({})));
    assert_eq!(eval(&["--query", "data.gateway.nothing", "--fail"]).code, Some(2));
    assert_eq!(
        eval(&["--query", "x := 1; x == 1", "--format", "json"]).json()["result"][0]["bindings"],
        json!({"x": 1})
    );
    assert_eq!(eval(&["--input", "absent.json"]).code, Some(1));
    assert_eq!(eval(&["--input", "p.rego"]).code, Some(1));
}

#[test]
fn stderr_holds_what_the_policy_prints_and_nothing_else() {
    let text = "package p\n\nimport input\n\nr if {\n\tprint(\"seen\", input.x)\n\tnot input.y in [1]\n}\n\n\
        panics := time.parse_ns(\"\u{e9}\u{b2}\", \"{{\")\n";
    let root = files(&[("p.rego", text), ("in.json", r#"{"x": 1, "y": 2}"#)]);
    let ran = gatewayctl(root.path(), &["policy", "eval", ".", "--input", "in.json", "--query", "data.p.r"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.notes.as_str()), (Some(0), "true\n", "./p.rego:6: seen 1\n"));
    let ran = gatewayctl(root.path(), &["policy", "eval", ".", "--query", "data.p.panics"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.notes.starts_with("policy engine panicked: ") && ran.notes.lines().count() == 1,
        "{}",
        ran.notes
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let tests: String =
        (0..5_000).fold("package t\n".to_owned(), |text, n| text + &format!("test_{n} if true\n"));
    let root = files(&[("p_test.rego", &tests)]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_gatewayctl"))
        .args(["policy", "test", "-v", "."])
        .current_dir(root.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn footprints_are_listed_by_entry_point() {
    let root = files(&[("p.rego", POLICY)]);
    let ran =
        gatewayctl(root.path(), &["policy", "footprint", ".", "--format", "json", "-e", "gateway/decision"]);
    let footprint = &ran.json()["data.gateway.decision"];
    assert_eq!(footprint["input"], json!(["input.request.method"]));
    assert_eq!(footprint["constant"], json!(false));
    let ran = gatewayctl(root.path(), &["policy", "footprint", ".", "-e", "gateway/decisoin"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.notes.contains("did you mean `data.gateway.decision`?"), "{}", ran.notes);
}

const FAILING: &str = "package gateway_test\n\nimport data.gateway\n\n\
    test_get if gateway.allowed with input.request.method as \"GET\"\n\n\
    test_post if {\n\tinput.x == 1 with input.x as 2\n}\n\ntodo_test_put if true\n";

#[test]
fn tap_numbers_every_test_and_says_why() {
    let root = files(&[("p.rego", POLICY), ("p_test.rego", FAILING)]);
    let ran = gatewayctl(root.path(), &["policy", "test", ".", "-f", "tap"]);
    assert_eq!(ran.code, Some(2));
    let want = "TAP version 14\n1..3\n\
        ok 1 - data.gateway_test.test_get\n\
        not ok 2 - data.gateway_test.test_post\n  ---\n\
        \x20 message: \"./p_test.rego:8:2: does not hold: input.x == 1 with input.x as 2\\ninput.x = 2\"\n\
        \x20 at: \"./p_test.rego:7:1\"\n  ...\n\
        ok 3 - data.gateway_test.todo_test_put # SKIP todo\n";
    assert_eq!(ran.out, want);
}

#[test]
fn github_annotates_the_line_that_fails() {
    let root = files(&[("p.rego", POLICY), ("p_test.rego", FAILING)]);
    let ran = gatewayctl(root.path(), &["policy", "test", ".", "-f", "github"]);
    let want = "::error file=p_test.rego,line=8,col=2,title=data.gateway_test.test_post::\
        ./p_test.rego:8:2: does not hold: input.x == 1 with input.x as 2%0Ainput.x = 2\n";
    assert!(ran.out.starts_with(want), "{}", ran.out);
    assert!(ran.out.contains("PASS: 1/3"), "{}", ran.out);
}

#[test]
fn cobertura_has_a_line_for_each_expression() {
    let root = files(&[("p.rego", POLICY), ("p_test.rego", TESTS)]);
    let ran = gatewayctl(root.path(), &["policy", "test", ".", "-f", "cobertura"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    assert!(ran.out.contains("filename=\"p.rego\" line-rate="), "{}", ran.out);
    assert!(
        ran.out.contains("<line number=\"7\" hits=\"1\" branch=\"true\" condition-coverage=\"100% (2/2)\"/>"),
        "{}",
        ran.out
    );
    assert_eq!(ran.out.matches("<class ").count(), 1, "tests are not covered by themselves");
}

#[test]
fn watching_runs_again_when_a_file_changes() {
    use std::io::{BufRead as _, BufReader};
    let root = files(&[("p.rego", POLICY), ("p_test.rego", TESTS)]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_gatewayctl"))
        .args(["policy", "test", "--watch", "."])
        .current_dir(root.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "PASS: 2/2");
    fs::write(root.path().join("p_test.rego"), "package t\ntest_it if true\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "PASS: 1/1");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_undefined_answer_is_told_with_its_reason() {
    let root = files(&[
        ("p.rego", "package gateway\n\ndecision := x if x := 1 / input.n\n\nother if input.n == 5\n"),
        ("in.json", "{\"n\": 0}"),
    ]);
    let eval = |rest: &[&str]| {
        gatewayctl(root.path(), &[&["policy", "eval", "p.rego", "-i", "in.json"], rest].concat())
    };
    let ran = eval(&[]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "undefined\n"));
    assert!(ran.notes.contains("a built-in failed: p.rego:3:23: divide by zero"), "{}", ran.notes);
    let ran = eval(&["-q", "data.gateway.other"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "undefined\n"));
    assert!(
        ran.notes.contains("`data.gateway.other` is undefined: nothing gives it a value"),
        "{}",
        ran.notes
    );
    assert!(eval(&["-q", "1/0"]).notes.contains("a built-in failed: <query>:1:2: divide by zero"));
    let http = eval(&["-q", "http.send({\"method\": \"get\", \"url\": \"http://x\"})"]);
    assert_eq!(http.code, Some(1));
    assert!(http.notes.contains("`http.send` to `http://x` has no answer here: mock it"), "{}", http.notes);
    assert!(eval(&["-q", "foo bar"]).notes.starts_with("<query>:1:5: "));
    assert_eq!(eval(&["--strict-builtin-errors"]).code, Some(1));
    // `opa eval --fail` and `--fail-defined`, with the contract's code.
    assert_eq!((eval(&["--fail"]).code, eval(&["--fail-defined"]).code), (Some(2), Some(0)));
    assert_eq!(eval(&["-q", "1 == 2", "--fail-defined"]).code, Some(2));
    let ran = eval(&["-q", " "]);
    assert_eq!(ran.code, Some(64));
    assert!(ran.notes.contains("a query is needed, such as `data.gateway.decision`"), "{}", ran.notes);
}

#[test]
fn conditions_seen_one_way_only_are_told() {
    let policy = "package p\n\nallow if {\n\tinput.a == 1\n\tinput.b == 2\n}\n";
    let tests = "package p_test\n\ntest_a if data.p.allow with input as {\"a\": 1, \"b\": 2}\n\n\
        test_b if not data.p.allow with input as {\"a\": 2, \"b\": 2}\n";
    let root = files(&[("p.rego", policy), ("p_test.rego", tests)]);
    let ran = gatewayctl(root.path(), &["policy", "test", ".", "--coverage"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    assert!(
        ran.out.contains("./p.rego:5:2: never false: input.b == 2\nseen both ways: 1/2\n"),
        "{}",
        ran.out
    );
    let json = gatewayctl(root.path(), &["policy", "test", ".", "-f", "conditions"]).json();
    assert_eq!(json["conditions"][1]["lack"], json!("never false"));
    assert_eq!((&json["covered_conditions"], &json["not_covered_conditions"]), (&json!(1), &json!(1)));
    let ran = gatewayctl(root.path(), &["policy", "test", ".", "-f", "cobertura"]);
    assert!(
        ran.out.contains("<line number=\"5\" hits=\"1\" branch=\"true\" condition-coverage=\"50% (1/2)\"/>"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("branches-covered=\"3\" branches-valid=\"4\""), "{}", ran.out);
    let ran = gatewayctl(root.path(), &["policy", "test", ".", "--coverage", "-f", "json"]);
    assert!(!ran.out.contains("condition"), "OPA's JSON stays OPA's: {}", ran.out);
}

#[test]
fn bench_measures_tests_that_pass() {
    let root = files(&[("p.rego", POLICY), ("p_test.rego", TESTS)]);
    let bench = |more: &[&str]| {
        gatewayctl(root.path(), &[&["policy", "test", ".", "--bench", "--bench-time", "1ms"], more].concat())
    };
    let ran = bench(&[]);
    let line = ran.out.lines().find(|line| line.contains("ns/op")).unwrap();
    assert!(line.starts_with("data.") && line.split('\t').count() == 3, "{line}");
    let ran = bench(&["-f", "json"]);
    let results = ran.json();
    let measured = &results[0]["benchmark_result"];
    assert!(measured["N"].as_u64().unwrap() > 0 && measured["T"].as_u64().unwrap() > 0, "{measured}");
    let ran = bench(&["-f", "gobench"]);
    assert!(ran.out.starts_with("BenchmarkData") && ran.out.contains(" ns/op\n"), "{}", ran.out);
    let lines = |ran: &Ran| ran.out.lines().filter(|line| line.starts_with("Benchmark")).count();
    let twice = bench(&["-f", "gobench", "--count", "2"]);
    assert_eq!(lines(&twice), 2 * lines(&ran), "{}", twice.out);
    assert_eq!(bench(&["-f", "json", "--count", "2"]).code, Some(64));
    assert_eq!(bench(&["-f", "junit"]).code, Some(64));
    assert_eq!(bench(&["--coverage"]).code, Some(64));
    assert_eq!(gatewayctl(root.path(), &["policy", "test", ".", "-f", "gobench"]).code, Some(64));
}

#[test]
fn tests_run_as_often_as_asked_up_to_the_first_failure() {
    let fine = files(&[("p_test.rego", "package p_test\n\ntest_fine if true\n")]);
    let run = |root: &tempfile::TempDir, count: &str| {
        gatewayctl(root.path(), &["policy", "test", ".", "--count", count, "-f", "json"])
    };
    let ran = run(&fine, "3");
    assert_eq!((ran.code, ran.json().as_array().unwrap().len()), (Some(0), 1), "{}", ran.out);
    let failing = files(&[("p_test.rego", "package p_test\n\ntest_failing if false\n")]);
    let ran = run(&failing, "3");
    assert_eq!((ran.code, ran.json().as_array().unwrap().len()), (Some(2), 1), "{}", ran.out);
    assert!(ran.notes.contains("run 1 of 3 failed"), "{}", ran.notes);
    assert_eq!(run(&fine, "0").code, Some(64));
}
