//! Test results for other programs: TAP, GitHub's workflow commands, and coverage as Cobertura XML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::pretty;
use super::report::failed_text;
use crate::cli::github;
use crate::cli::gobench;
use crate::cli::output::Paint;
use crate::policy::testing::{Outcome, TestReport};
use crate::rego::coverage::{FileCoverage, percent};

/// The results by the Test Anything Protocol, version 14. <https://testanything.org/tap-version-14-specification.html>
pub(super) fn tap(report: &TestReport) -> String {
    let mut out = format!("TAP version 14\n1..{}\n", report.tests.len());
    for (test, number) in report.tests.iter().zip(1_u32..) {
        // A `#` would begin a directive.
        let name = test.full_name().replace('\\', "\\\\").replace('#', "\\#");
        let (verdict, directive, message) = match &test.outcome {
            Outcome::Passed => ("ok", "", None),
            Outcome::Skipped => ("ok", " # SKIP todo", None),
            Outcome::Failed(failure) => ("not ok", "", Some(failed_text(test, failure.as_ref()))),
            Outcome::Errored(message) => ("not ok", "", Some(message.clone())),
        };
        let _infallible = writeln!(out, "{verdict} {number} - {name}{directive}");
        if let Some(message) = message {
            let message = serde_json::Value::from(message);
            let at = serde_json::Value::from(test.place.to_string());
            let _infallible = writeln!(out, "  ---\n  message: {message}\n  at: {at}\n  ...");
        }
    }
    out
}

/// The results for people, with an annotation for each failure at its line.
/// <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>
pub(super) fn github(report: &TestReport, verbose: bool, coverage: bool) -> String {
    let mut out = String::new();
    for test in &report.tests {
        let (place, message) = match &test.outcome {
            Outcome::Passed | Outcome::Skipped => continue,
            Outcome::Failed(failure) => {
                let place = failure.as_ref().map_or(&test.place, |failure| &failure.place);
                (place, failed_text(test, failure.as_ref()))
            }
            Outcome::Errored(message) => (&test.place, message.clone()),
        };
        let at = github::At { file: &place.file, line: place.line, column: place.column };
        out.push_str(&github::annotation("error", at, &test.full_name(), &message));
        out.push('\n');
    }
    out + &pretty::render(report, verbose, coverage, Paint::plain())
}

/// What was measured, as `go test -bench` prints it.
pub(super) fn gobench(report: &TestReport) -> String {
    let mut out = String::new();
    for test in &report.tests {
        if let Some(measured) = &test.benchmark {
            let name = gobench::name(&test.full_name());
            let figures = gobench::figures(measured.iterations, measured.nanos_each());
            let _infallible = writeln!(out, "{name}\t{figures}");
        }
    }
    out
}

/// Branches of a line: how many there are, and how many the tests took.
type Branches = BTreeMap<u32, (usize, usize)>;

fn add((all, seen): (usize, usize), (more, more_seen): (usize, usize)) -> (usize, usize) {
    (all + more, seen + more_seen)
}

/// The coverage as Cobertura XML, one class a file; the two ways of a condition are the branches of its line.
pub(super) fn cobertura(report: &TestReport) -> String {
    let files = report.coverage.as_deref().unwrap_or_default();
    let (covered, all) = files.iter().fold((0, 0), |(covered, all), file| {
        (covered + file.covered.len(), all + file.covered.len() + file.not_covered.len())
    });
    let mut branches: BTreeMap<&str, Branches> = BTreeMap::new();
    for condition in report.conditions.iter().flatten() {
        let lines = branches.entry(&condition.place.file).or_default();
        let line = lines.entry(condition.place.line).or_default();
        *line = add(*line, condition.branches());
    }
    let total = branches.values().flat_map(BTreeMap::values).fold((0, 0), |sum, line| add(sum, *line));
    let rate = |percent: f64| percent / 100.0;
    let branch_rate = |(all, seen): (usize, usize)| rate(percent(seen, all - seen));
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    out.push_str("<!DOCTYPE coverage SYSTEM \"http://cobertura.sourceforge.net/xml/coverage-04.dtd\">\n");
    let rates = format!(
        "line-rate=\"{:.4}\" branch-rate=\"{:.4}\"",
        rate(report.percent().unwrap_or(100.0)),
        branch_rate(total)
    );
    let _infallible = writeln!(
        out,
        "<coverage {rates} lines-covered=\"{covered}\" lines-valid=\"{all}\" \
         branches-covered=\"{}\" branches-valid=\"{}\" complexity=\"0\" version=\"{}\" timestamp=\"0\">\n\
         \x20 <sources><source>.</source></sources>\n  <packages>\n\
         \x20   <package name=\"policy\" {rates} complexity=\"0\">\n      <classes>",
        total.1,
        total.0,
        env!("CARGO_PKG_VERSION")
    );
    let none = Branches::new();
    for file in files {
        class(&mut out, file, branches.get(&*file.file).unwrap_or(&none), &branch_rate);
    }
    out.push_str("      </classes>\n    </package>\n  </packages>\n</coverage>\n");
    out
}

fn class(
    out: &mut String,
    file: &FileCoverage,
    branches: &Branches,
    branch_rate: &dyn Fn((usize, usize)) -> f64,
) {
    let name = escaped(file.file.strip_prefix("./").unwrap_or(&file.file));
    let total = branches.values().fold((0, 0), |sum, line| add(sum, *line));
    let _infallible = writeln!(
        out,
        "        <class name=\"{name}\" filename=\"{name}\" line-rate=\"{:.4}\" branch-rate=\"{:.4}\" complexity=\"0\">\n\
         \x20         <methods/>\n          <lines>",
        file.percent() / 100.0,
        branch_rate(total)
    );
    for line in file.covered.union(&file.not_covered) {
        let hits = u8::from(file.covered.contains(line));
        let branch = branches.get(line).map_or_else(String::new, |(all, seen)| {
            let percent = seen * 100 / (*all).max(1);
            format!(" branch=\"true\" condition-coverage=\"{percent}% ({seen}/{all})\"")
        });
        let _infallible = writeln!(out, "            <line number=\"{line}\" hits=\"{hits}\"{branch}/>");
    }
    out.push_str("          </lines>\n        </class>\n");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
