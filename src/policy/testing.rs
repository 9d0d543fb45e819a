//! OPA's test runner: `test_` rules, each on its own, with `with` for mocks.
//!
//! A test passes only if its value is exactly `true`. What a report looks like on paper is not
//! decided here.

mod bench;
mod condition;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use regex::Regex;
use regorus::Value;

pub use self::bench::Benchmark;
pub use self::condition::Condition;
use super::{bundle::Bundle, case, probe};
use crate::rego::{
    coverage::{self, FileCoverage},
    evaluator::{EvalError, Evaluator, Facts},
    fault::{BundleErrors, Place},
    program::{Entrypoint, Options, Program},
    tree::{Rule, RuleId},
};

/// How tests are run.
#[derive(Debug, Clone)]
pub struct TestOptions {
    /// Only tests whose `data.package.test_name` matches, and cases whose `FILE: NAME` does.
    pub run: Option<Regex>,
    /// The longest one test may take.
    pub timeout: Duration,
    /// Whether to record which lines the tests reach.
    pub coverage: bool,
    /// Whether to record which conditions they saw true, and which false; lines have to be recorded too.
    pub conditions: bool,
    /// Threads to run tests on; at least one is used.
    pub parallel: usize,
    /// The time `time.now_ns()` answers, in nanoseconds since 1970.
    pub now_ns: i64,
}

/// The results of a run, in the order of files and lines.
#[derive(Debug, Clone, Default)]
pub struct TestReport {
    /// One result for each test, cases included.
    pub tests: Vec<TestResult>,
    /// Lines reached, if they were recorded.
    pub coverage: Option<Vec<FileCoverage>>,
    /// Conditions seen true and false, if they were recorded.
    pub conditions: Option<Vec<Condition>>,
    /// How long the run took.
    pub took: Duration,
}

/// The result of one test.
#[derive(Debug, Clone)]
pub struct TestResult {
    /// Where the test is written.
    pub place: Place,
    /// `data.package`, or the file of a case.
    pub package: String,
    /// The rule's or the case's name.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// What it printed, one line each.
    pub output: Vec<String>,
    /// Results by name, for a test that makes several: `test_x[name]`.
    pub parts: BTreeMap<String, bool>,
    /// How long one evaluation takes, if that was asked and it passed.
    pub benchmark: Option<Benchmark>,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is `true`.
    Passed,
    /// It is not; with the reason, where one could be found.
    Failed(Option<Failure>),
    /// Its name begins with `todo_`.
    Skipped,
    /// It could not be evaluated.
    Errored(String),
}

/// Why a test failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where the expression that failed stands.
    pub place: Place,
    /// The expression.
    pub expression: String,
    /// Parts of it and their values, as text.
    pub values: Vec<(String, String)>,
}

impl TestResult {
    /// The name to show: `data.package.test_name`, or a case's own, whose file is in its place.
    pub fn full_name(&self) -> String {
        if *self.package == *self.place.file {
            self.name.clone()
        } else {
            format!("{}.{}", self.package, self.name)
        }
    }
}

impl TestReport {
    /// How many tests ended so.
    pub fn count(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        self.tests.iter().filter(|test| is(&test.outcome)).count()
    }

    /// Whether any test failed or could not be evaluated.
    pub fn has_failures(&self) -> bool {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Errored(_))) > 0
    }

    /// Covered lines of all files together, in percent.
    pub fn percent(&self) -> Option<f64> {
        let files = self.coverage.as_ref()?;
        let lines = |of: fn(&FileCoverage) -> &BTreeSet<u32>| files.iter().map(|file| of(file).len()).sum();
        Some(coverage::percent(lines(|file| &file.covered), lines(|file| &file.not_covered)))
    }
}

/// Runs the tests of a bundle.
pub fn run(bundle: &Bundle, options: &TestOptions) -> Result<TestReport, BundleErrors> {
    let started = Instant::now();
    let program =
        bundle.compile_with_tests(Options { coverage: options.coverage, ..Options::developing() })?;
    let tests = chosen(&program, options);
    let (results, coverage) = run_rules(bundle, &program, &tests, options);
    let mut report = TestReport { tests: results, coverage, ..TestReport::default() };
    for (result, test) in report.tests.iter_mut().zip(&tests) {
        explain(bundle, &program, test, result, options);
    }
    let cases = case::run(bundle, options)?;
    report.tests.extend(cases.results);
    for covered in cases.coverage {
        merge_coverage(report.coverage.as_deref_mut().unwrap_or_default(), &covered);
    }
    if options.conditions {
        report.conditions = condition::cover(bundle, &program, options);
    }
    report.took = started.elapsed();
    Ok(report)
}

/// Runs the tests of a bundle, and measures each that passes for about `time`; the cases are run, and not measured. One
/// after the other, so that they do not slow each other.
pub fn bench(bundle: &Bundle, options: &TestOptions, time: Duration) -> Result<TestReport, BundleErrors> {
    let mut report = run(bundle, options)?;
    let program = bundle.compile_with_tests(Options::developing())?;
    let mut evaluator = program.evaluator();
    for (result, test) in report.tests.iter_mut().zip(&chosen(&program, options)) {
        if result.outcome == Outcome::Passed {
            result.benchmark = bench::measure(&mut evaluator, test, options, time);
        }
    }
    Ok(report)
}

/// The lines that the tests and cases of a bundle reach, whatever comes of them.
fn reached(bundle: &Bundle, options: &TestOptions) -> Result<Vec<FileCoverage>, BundleErrors> {
    let program = bundle.compile_with_tests(Options { coverage: true, ..Options::developing() })?;
    let (_, coverage) = run_rules(bundle, &program, &chosen(&program, options), options);
    let mut lines = coverage.unwrap_or_default();
    for covered in case::run(bundle, options)?.coverage {
        merge_coverage(&mut lines, &covered);
    }
    Ok(lines)
}

fn chosen(program: &Program, options: &TestOptions) -> Vec<Test> {
    let is_chosen = |test: &Test| options.run.as_ref().is_none_or(|run| run.is_match(test.entrypoint.name()));
    find(program).into_iter().filter(is_chosen).collect()
}

fn run_rules(
    bundle: &Bundle,
    program: &Program,
    tests: &[Test],
    options: &TestOptions,
) -> (Vec<TestResult>, Option<Vec<FileCoverage>>) {
    let share = tests.len().div_ceil(options.parallel.max(1)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = tests
            .chunks(share)
            .map(|tests| scope.spawn(move || run_share(program, tests, options)))
            .collect();
        let mut results = Vec::new();
        let mut lines = options.coverage.then(|| program.unreached());
        if let Some(lines) = &mut lines {
            // Tests cover policies, not themselves.
            lines.retain(|file| !bundle.tests.iter().any(|test| *test.path == *file.file));
        }
        for (worker, tests) in workers.into_iter().zip(tests.chunks(share)) {
            match worker.join() {
                Ok((share, covered)) => {
                    results.extend(share);
                    merge_coverage(lines.as_deref_mut().unwrap_or_default(), &covered);
                }
                // Evaluation panics are caught below; this one is the runner's own.
                Err(_) => results.extend(
                    tests.iter().map(|test| test.result(Outcome::Errored("test runner panicked".into()))),
                ),
            }
        }
        (results, lines)
    })
}

/// A test rule of a program.
struct Test {
    id: RuleId,
    entrypoint: Entrypoint,
    place: Place,
    package: String,
    name: String,
    is_todo: bool,
    has_parts: bool,
}

impl Test {
    fn result(&self, outcome: Outcome) -> TestResult {
        TestResult {
            place: self.place.clone(),
            package: self.package.clone(),
            name: self.name.clone(),
            outcome,
            took: Duration::ZERO,
            output: Vec::new(),
            parts: BTreeMap::new(),
            benchmark: None,
        }
    }
}

fn find(program: &Program) -> Vec<Test> {
    let tree = program.tree();
    let mut seen = BTreeSet::new();
    let mut tests = Vec::new();
    for (id, rule) in tree.rules.iter().enumerate() {
        let Some(module) = tree.modules.get(rule.module) else { continue };
        let Some(first) = rule.path.get(module.package.len()) else { continue };
        let is_todo = first.starts_with("todo_test_");
        if !(is_todo || first.starts_with("test_")) || rule.is_function() || rule.is_default {
            continue;
        }
        // Rules of one name are one document, and so one test.
        if !seen.insert(&rule.path) {
            continue;
        }
        let Ok(entrypoint) = program.entrypoint_at(rule.path.clone()) else { continue };
        tests.push(Test {
            id,
            entrypoint,
            place: tree.place(rule.module, rule.extent.start),
            package: crate::rego::tree::dotted(&module.package),
            name: rule.path.get(module.package.len()..).unwrap_or_default().join("."),
            is_todo,
            has_parts: has_parts(rule),
        });
    }
    tests.sort_by(|left, right| left.place.cmp(&right.place));
    tests
}

fn has_parts(rule: &Rule) -> bool {
    !rule.keys.is_empty()
}

fn run_share(
    program: &Program,
    tests: &[Test],
    options: &TestOptions,
) -> (Vec<TestResult>, Vec<FileCoverage>) {
    let mut evaluator = program.evaluator();
    let results = tests.iter().map(|test| run_one(&mut evaluator, test, options)).collect();
    let covered = if options.coverage { evaluator.coverage() } else { Vec::new() };
    (results, covered)
}

fn run_one(evaluator: &mut Evaluator, test: &Test, options: &TestOptions) -> TestResult {
    if test.is_todo {
        return test.result(Outcome::Skipped);
    }
    let started = Instant::now();
    let answer = evaluator.evaluate(&test.entrypoint, facts(options));
    let took = started.elapsed();
    let output = evaluator.take_prints();
    let mut result = match answer {
        Ok(Some(Value::Bool(true))) => test.result(Outcome::Passed),
        Ok(Some(Value::Object(parts))) if test.has_parts => {
            let parts: BTreeMap<String, bool> =
                parts.iter().map(|(name, value)| (text_of(name), *value == Value::from(true))).collect();
            let passed = !parts.is_empty() && parts.values().all(|passed| *passed);
            let outcome = if passed { Outcome::Passed } else { Outcome::Failed(None) };
            TestResult { parts, ..test.result(outcome) }
        }
        Ok(_) => test.result(Outcome::Failed(None)),
        Err(EvalError::BudgetExceeded { budget }) => {
            test.result(Outcome::Errored(format!("timed out after {budget:?}")))
        }
        Err(error) => test.result(Outcome::Errored(error.to_string())),
    };
    result.took = took;
    result.output = output;
    result
}

fn facts(options: &TestOptions) -> Facts {
    Facts { input: Value::Undefined, now_ns: options.now_ns, budget: options.timeout }
}

fn text_of(value: &Value) -> String {
    value.as_string().map_or_else(|_| value.to_string(), ToString::to_string)
}

fn explain(bundle: &Bundle, program: &Program, test: &Test, result: &mut TestResult, options: &TestOptions) {
    if test.has_parts && matches!(result.outcome, Outcome::Passed | Outcome::Failed(_)) {
        // A part that does not hold has no entry: the names say which were meant to.
        for name in probe::part_names(bundle, program, test.id, facts(options)) {
            result.parts.entry(text_of(&name)).or_insert(false);
        }
        if result.parts.values().any(|passed| !passed) {
            result.outcome = Outcome::Failed(None);
        }
        return;
    }
    if let Outcome::Failed(failure @ None) = &mut result.outcome {
        *failure = probe::first_failure(bundle, program, test.id, facts(options));
    }
}

fn merge_coverage(into: &mut [FileCoverage], from: &[FileCoverage]) {
    for file in into {
        let Some(covered) = from.iter().find(|other| other.file == file.file) else { continue };
        file.covered.extend(&covered.covered);
        file.not_covered = file.not_covered.difference(&file.covered).copied().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::program::Module;

    fn bundle(files: &[(&str, &str)]) -> Bundle {
        let files = files.iter().map(|(path, text)| Module { path: (*path).into(), text: (*text).into() });
        let (tests, modules) = files.partition(|file| file.path.ends_with("_test.rego"));
        Bundle {
            revision: String::new(),
            modules,
            tests,
            case_files: Vec::new(),
            v0: std::sync::Arc::default(),
            data: Value::from_json_str(r#"{"limits": {"gold": 10}}"#).unwrap(),
        }
    }

    fn options() -> TestOptions {
        TestOptions {
            run: None,
            timeout: Duration::from_secs(5),
            coverage: false,
            conditions: false,
            parallel: 2,
            now_ns: 7,
        }
    }

    fn outcomes(text: &str) -> Vec<(String, Outcome)> {
        let report = run(&bundle(&[("a_test.rego", text)]), &options()).unwrap();
        report.tests.into_iter().map(|test| (test.name, test.outcome)).collect()
    }

    #[test]
    fn only_true_passes() {
        let text = "package a_test\n\
            test_true if true\ntest_false := false\ntest_null := null\ntest_text := \"true\"\ntest_number := 1\n\
            test_undefined if input.x\ntest_object := {\"a\": true}\ntest_set := {true}\ntodo_test_later if false\n\
            helper if true\ntest_error if numbers.range(1, 1000000000)\n";
        let got = outcomes(text);
        let passed: Vec<&str> =
            got.iter().filter(|(_, o)| *o == Outcome::Passed).map(|(n, _)| n.as_str()).collect();
        assert_eq!(passed, ["test_true"]);
        let failed = got.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).count();
        assert_eq!(failed, 7);
        assert!(got.contains(&("todo_test_later".to_owned(), Outcome::Skipped)));
        assert!(matches!(&got.last().unwrap().1, Outcome::Errored(message) if message.contains("elements")));
        assert_eq!(got.len(), 10);
    }

    #[test]
    fn mocks_reach_input_data_functions_and_built_ins() {
        let policy = "package lib\n\
            allow if { input.user == \"eve\"; within(3) }\n\
            within(n) if n <= data.limits.gold\n\
            at := time.now_ns()\nrange := numbers.range(1, 3)\n\
            helper(x) := x\nuses_helper := helper(1)\n";
        let tests = "package lib_test\nimport data.lib\n\
            test_input if lib.allow with input as {\"user\": \"eve\"}\n\
            test_field if lib.allow with input.user as \"eve\"\n\
            test_data if not lib.allow with input.user as \"eve\" with data.limits.gold as 1\n\
            test_function if lib.allow with input.user as \"eve\" with data.lib.within as true with data.limits.gold as 1\n\
            test_function_by_import if not lib.allow with input.user as \"eve\" with lib.within as false\n\
            test_builtin if lib.at == 5 with time.now_ns as 5\n\
            test_guarded_builtin if lib.range == [9] with numbers.range as [9]\n\
            test_clock if lib.at == 7\n\
            mock(_) := 2\n\
            helper(_) := 3\n\
            test_mock_with_function if lib.uses_helper == 2 with lib.helper as mock\n\
            test_own_name_is_not_theirs if lib.uses_helper == 1 with helper as mock\n\
            test_isolated if lib.uses_helper == 1\n";
        let report = run(&bundle(&[("lib.rego", policy), ("lib_test.rego", tests)]), &options()).unwrap();
        for test in &report.tests {
            assert_eq!(test.outcome, Outcome::Passed, "{}", test.name);
        }
        assert_eq!(report.tests.len(), 11);
    }

    #[test]
    fn a_failure_names_its_expression_and_values() {
        let text = "package a_test\n\nlimit(tier) := data.limits[tier]\n\
            test_x if {\n\tn := limit(\"gold\")\n\tn > 1\n\tn == input.want with input.want as 11\n\tfalse\n}\n";
        let got = outcomes(text);
        let Outcome::Failed(Some(failure)) = &got[0].1 else { panic!("{got:?}") };
        assert_eq!((failure.place.line, failure.place.column), (7, 2));
        assert_eq!(failure.expression, "n == input.want with input.want as 11");
        let values: Vec<(&str, &str)> =
            failure.values.iter().map(|(t, v)| (t.as_str(), v.as_str())).collect();
        assert_eq!(values, [("n", "10"), ("input.want", "11")]);
    }

    #[test]
    fn failures_inside_every_kind_of_statement_are_found() {
        #[track_caller]
        fn check(body: &str, expression: &str) {
            let got =
                outcomes(&format!("package a_test\nxs := [1, 2]\np if input.q\ntest_x if {{ {body} }}\n"));
            let Outcome::Failed(Some(failure)) = &got[0].1 else { panic!("{body}: {got:?}") };
            assert_eq!(failure.expression, expression, "{body}");
        }
        check("some x in xs; x > 5", "x > 5");
        check("some x; xs[x] == 1; xs[x] == 2", "xs[x] == 2");
        check("every x in xs { x > 1 }", "every x in xs { x > 1 }");
        check("not xs[0] == 1", "not xs[0] == 1");
        check("true; p with input.q as false", "p with input.q as false");
        check("startswith(\"a\", \"b\")", "startswith(\"a\", \"b\")");
    }

    #[test]
    fn parts_that_do_not_hold_are_named() {
        let text = "package a_test\ncases := {\"one\": 1, \"two\": 2, \"three\": 3}\n\
            test_parts[name] if {\n\tsome name, n in cases\n\tn < 3\n}\n\
            test_all[name] if {\n\tsome name, n in cases\n\tn < 4\n}\n";
        let report = run(&bundle(&[("a_test.rego", text)]), &options()).unwrap();
        let failed: Vec<_> =
            report.tests[0].parts.iter().filter(|(_, passed)| !**passed).map(|(n, _)| n).collect();
        assert_eq!(failed, ["three"]);
        assert_eq!(report.tests[0].outcome, Outcome::Failed(None));
        assert_eq!((report.tests[1].parts.len(), &report.tests[1].outcome), (3, &Outcome::Passed));
    }

    #[test]
    fn prints_are_kept_with_their_test() {
        let text = "package a_test\ntest_a if print(\"hello\", 1)\ntest_b if true\n";
        let report = run(&bundle(&[("a_test.rego", text)]), &options()).unwrap();
        assert_eq!(report.tests[0].output, ["a_test.rego:2: hello 1"]);
        assert!(report.tests[1].output.is_empty());
    }

    #[test]
    fn tests_are_chosen_by_their_full_name() {
        let text = "package a_test\ntest_a if true\ntest_b if true\n";
        let chosen = TestOptions { run: Some(Regex::new("a_test.test_b$").unwrap()), ..options() };
        let report = run(&bundle(&[("a_test.rego", text)]), &chosen).unwrap();
        assert_eq!(report.tests.iter().map(|test| test.name.as_str()).collect::<Vec<_>>(), ["test_b"]);
    }

    #[test]
    fn coverage_counts_lines_of_every_file_and_thread() {
        let policy = "package p\n\nallow if {\n\tinput.a\n\tinput.b\n}\n\ndeny contains x.m if {\n\tsome x in input.xs\n}\n";
        let tests = "package p_test\ntest_allow if data.p.allow with input as {\"a\": true, \"b\": true}\n\
            test_b if true\n";
        let with_coverage = TestOptions { coverage: true, ..options() };
        let files = [("p.rego", policy), ("p_test.rego", tests), ("q.rego", "package q\n\nr := input.z\n")];
        let report = run(&bundle(&files), &with_coverage).unwrap();
        let lines = report.coverage.clone().unwrap();
        let of = |name: &str| lines.iter().find(|file| &*file.file == name).unwrap().clone();
        assert_eq!(of("p.rego").covered, BTreeSet::from([4, 5]));
        assert_eq!(of("p.rego").not_covered, BTreeSet::from([9]));
        assert_eq!(of("q.rego").not_covered, BTreeSet::from([3]));
        assert!((of("q.rego").percent() - 0.0).abs() < f64::EPSILON);
        let percent = report.percent().unwrap();
        assert!((percent - 50.0).abs() < f64::EPSILON, "{percent}");
        assert!(!lines.iter().any(|file| &*file.file == "p_test.rego"), "tests do not cover themselves");
    }
}
