//! Test results and coverage for machines: OPA's JSON shapes, and `JUnit`.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Map, Value, json};

use super::pretty::ranges;
use crate::policy::testing::{Benchmark, Condition, Failure, Outcome, TestReport, TestResult};
use crate::rego::coverage::percent;

/// The results as `opa test --format json` gives them.
pub(super) fn results_json(report: &TestReport) -> String {
    let results: Vec<Value> = report.tests.iter().map(result_json).collect();
    document(&Value::from(results))
}

fn result_json(test: &TestResult) -> Value {
    let mut fields = Map::new();
    let location = json!({"file": &*test.place.file, "row": test.place.line, "col": test.place.column});
    fields.insert("location".to_owned(), location);
    fields.insert("package".to_owned(), json!(test.package));
    fields.insert("name".to_owned(), json!(test.name));
    match &test.outcome {
        Outcome::Passed => {}
        Outcome::Failed(_) => {
            fields.insert("fail".to_owned(), json!(true));
        }
        Outcome::Skipped => {
            fields.insert("skip".to_owned(), json!(true));
        }
        Outcome::Errored(message) => {
            fields.insert("error".to_owned(), json!({"code": "eval_internal_error", "message": message}));
        }
    }
    fields.insert("duration".to_owned(), json!(u64::try_from(test.took.as_nanos()).unwrap_or(u64::MAX)));
    if let Some(Benchmark { iterations, took }) = test.benchmark {
        // Go's `testing.BenchmarkResult`; what is allocated is not counted.
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let result = json!({
            "N": iterations, "T": took, "Bytes": 0, "MemAllocs": 0, "MemBytes": 0, "Extra": {},
        });
        fields.insert("benchmark_result".to_owned(), result);
    }
    if !test.output.is_empty() {
        let printed = test.output.join("\n") + "\n";
        fields.insert("output".to_owned(), json!(BASE64_STANDARD.encode(printed)));
    }
    if !test.parts.is_empty() {
        let parts: Map<String, Value> =
            test.parts.iter().map(|(name, passed)| (name.clone(), part(name, *passed))).collect();
        fields.insert("sub_results".to_owned(), Value::Object(parts));
    }
    Value::Object(fields)
}

fn part(name: &str, passed: bool) -> Value {
    if passed { json!({"name": name}) } else { json!({"name": name, "fail": true}) }
}

/// The coverage as `opa test --coverage --format json` gives it.
pub(super) fn coverage_json(report: &TestReport) -> String {
    let mut files = Map::new();
    let (mut covered, mut missed) = (0, 0);
    for file in report.coverage.iter().flatten() {
        let spans = |lines: &std::collections::BTreeSet<u32>| -> Vec<Value> {
            let spans = ranges(lines.iter().copied()).into_iter();
            spans.map(|(from, to)| json!({"start": {"row": from}, "end": {"row": to}})).collect()
        };
        let mut fields = Map::new();
        if !file.covered.is_empty() {
            fields.insert("covered".to_owned(), json!(spans(&file.covered)));
            fields.insert("covered_lines".to_owned(), json!(file.covered.len()));
        }
        if !file.not_covered.is_empty() {
            fields.insert("not_covered".to_owned(), json!(spans(&file.not_covered)));
            fields.insert("not_covered_lines".to_owned(), json!(file.not_covered.len()));
        }
        fields.insert("coverage".to_owned(), json!(hundredths(file.percent())));
        files.insert(file.file.to_string(), Value::Object(fields));
        covered += file.covered.len();
        missed += file.not_covered.len();
    }
    document(&json!({
        "files": files,
        "covered_lines": covered,
        "not_covered_lines": missed,
        "coverage": hundredths(percent(covered, missed)),
    }))
}

/// Every condition, and what the tests saw of it.
pub(super) fn conditions_json(report: &TestReport) -> String {
    let conditions = report.conditions.as_deref().unwrap_or_default();
    let of = |condition: &Condition| {
        let place = &condition.place;
        json!({
            "location": {"file": &*place.file, "row": place.line, "col": place.column},
            "rule": condition.rule,
            "condition": condition.text,
            "reached": condition.is_reached,
            "true": condition.was_true,
            "false": condition.was_false,
            "lack": condition.lack(),
        })
    };
    let lacking = conditions.iter().filter(|condition| condition.lack().is_some()).count();
    document(&json!({
        "conditions": conditions.iter().map(of).collect::<Vec<_>>(),
        "covered_conditions": conditions.len() - lacking,
        "not_covered_conditions": lacking,
        "coverage": hundredths(percent(conditions.len() - lacking, lacking)),
    }))
}

fn hundredths(percent: f64) -> f64 {
    (percent * 100.0).round() / 100.0
}

fn document(value: &Value) -> String {
    format!("{value:#}\n")
}

/// The results as `JUnit` XML, one suite for each package.
pub(super) fn junit(report: &TestReport) -> anyhow::Result<String> {
    let mut suites: BTreeMap<&str, TestSuite> = BTreeMap::new();
    for test in &report.tests {
        let status = match &test.outcome {
            Outcome::Passed => TestCaseStatus::success(),
            Outcome::Skipped => TestCaseStatus::skipped(),
            Outcome::Failed(failure) => {
                non_success(NonSuccessKind::Failure, &failed_text(test, failure.as_ref()))
            }
            Outcome::Errored(message) => non_success(NonSuccessKind::Error, message),
        };
        let mut case = TestCase::new(test.name.clone(), status);
        case.set_classname(test.package.clone());
        case.set_time(test.took);
        case.extra.insert("file".into(), test.place.file.as_ref().into());
        case.extra.insert("line".into(), test.place.line.to_string().into());
        if !test.output.is_empty() {
            case.set_system_out(test.output.join("\n"));
        }
        let suite = suites.entry(&test.package).or_insert_with(|| TestSuite::new(test.package.clone()));
        suite.add_test_case(case);
    }
    let mut document = Report::new("policy test");
    document.set_time(report.took);
    document.add_test_suites(suites.into_values());
    let mut text = document.to_string()?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn non_success(kind: NonSuccessKind, message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(message.lines().next().unwrap_or_default());
    status.set_description(message);
    status
}

pub(super) fn failed_text(test: &TestResult, failure: Option<&Failure>) -> String {
    let Some(Failure { place, expression, values }) = failure else {
        let failed: Vec<&str> =
            test.parts.iter().filter(|(_, passed)| !**passed).map(|(name, _)| name.as_str()).collect();
        return match failed.as_slice() {
            [] => format!("{}: is not true", test.place),
            names => format!("{}: does not hold for {}", test.place, names.join(", ")),
        };
    };
    let mut lines = vec![format!("{place}: does not hold: {expression}")];
    lines.extend(values.iter().map(|(text, value)| format!("{text} = {value}")));
    lines.join("\n")
}
