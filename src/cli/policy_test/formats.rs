//! Test results for other programs: TAP, GitHub's workflow commands, and coverage as Cobertura XML.

use std::fmt::Write as _;

use super::pretty;
use super::report::failed_text;
use crate::cli::github;
use crate::cli::output::Paint;
use crate::policy::testing::{Outcome, TestReport};

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

/// The coverage as Cobertura XML, one class a file.
pub(super) fn cobertura(report: &TestReport) -> String {
    let files = report.coverage.as_deref().unwrap_or_default();
    let (covered, all) = files.iter().fold((0, 0), |(covered, all), file| {
        (covered + file.covered.len(), all + file.covered.len() + file.not_covered.len())
    });
    let rate = |percent: f64| percent / 100.0;
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    out.push_str("<!DOCTYPE coverage SYSTEM \"http://cobertura.sourceforge.net/xml/coverage-04.dtd\">\n");
    let total = rate(report.percent().unwrap_or(100.0));
    let _infallible = writeln!(
        out,
        "<coverage line-rate=\"{total:.4}\" branch-rate=\"0\" lines-covered=\"{covered}\" lines-valid=\"{all}\" \
         branches-covered=\"0\" branches-valid=\"0\" complexity=\"0\" version=\"{}\" timestamp=\"0\">\n\
         \x20 <sources><source>.</source></sources>\n  <packages>\n\
         \x20   <package name=\"policy\" line-rate=\"{total:.4}\" branch-rate=\"0\" complexity=\"0\">\n      <classes>",
        env!("CARGO_PKG_VERSION")
    );
    for file in files {
        let name = escaped(&file.file);
        let _infallible = writeln!(
            out,
            "        <class name=\"{name}\" filename=\"{name}\" line-rate=\"{:.4}\" branch-rate=\"0\" complexity=\"0\">\n\
             \x20         <methods/>\n          <lines>",
            rate(file.percent())
        );
        for line in file.covered.union(&file.not_covered) {
            let hits = u8::from(file.covered.contains(line));
            let _infallible = writeln!(out, "            <line number=\"{line}\" hits=\"{hits}\"/>");
        }
        out.push_str("          </lines>\n        </class>\n");
    }
    out.push_str("      </classes>\n    </package>\n  </packages>\n</coverage>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
