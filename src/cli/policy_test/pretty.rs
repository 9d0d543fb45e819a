//! Test results for people, close to what OPA prints.

use std::fmt::Write;
use std::time::Duration;

use crate::cli::gobench;
use crate::cli::output::Paint;
use crate::policy::testing::{Condition, Outcome, TestReport, TestResult};
use crate::rego::coverage::FileCoverage;

const RULE: &str = "--------------------------------------------------------------------------------";

/// Conditions shown where nobody asked for all.
const CONDITIONS_MAX: usize = 20;

pub(super) fn render(report: &TestReport, verbose: bool, coverage: bool, paint: Paint) -> String {
    let mut out = String::new();
    let failures: Vec<&TestResult> = report.tests.iter().filter(|test| is_failure(test)).collect();
    if !failures.is_empty() {
        line(&mut out, &format!("FAILURES\n{RULE}"));
        for test in &failures {
            failure(&mut out, test, paint);
        }
        line(&mut out, &format!("SUMMARY\n{RULE}"));
    }
    let mut file = None;
    for test in &report.tests {
        if !(verbose
            || test.benchmark.is_some()
            || is_failure(test)
            || matches!(test.outcome, Outcome::Skipped))
        {
            continue;
        }
        if file != Some(&test.place.file) {
            line(&mut out, &format!("{}:", test.place.file));
            file = Some(&test.place.file);
        }
        match &test.benchmark {
            Some(measured) => line(
                &mut out,
                &format!(
                    "{}\t{}",
                    test.full_name(),
                    gobench::figures(measured.iterations, measured.nanos_each())
                ),
            ),
            None => line(&mut out, &headline(test, paint)),
        }
        for (name, passed) in &test.parts {
            let word = if *passed { paint.good("PASS") } else { paint.bad("FAIL") };
            line(&mut out, &format!("  {name}: {word}"));
        }
        if verbose {
            test.output.iter().for_each(|printed| line(&mut out, &format!("  {printed}")));
        }
    }
    totals(&mut out, report, paint);
    if let (true, Some(files)) = (coverage, &report.coverage) {
        covered(&mut out, files, report.percent().unwrap_or(100.0));
        conditions(&mut out, report.conditions.as_deref().unwrap_or_default(), verbose);
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn is_failure(test: &TestResult) -> bool {
    matches!(test.outcome, Outcome::Failed(_) | Outcome::Errored(_))
}

fn headline(test: &TestResult, paint: Paint) -> String {
    let word = match &test.outcome {
        Outcome::Passed => paint.good("PASS"),
        Outcome::Failed(_) => paint.bad("FAIL"),
        Outcome::Skipped => paint.doubtful("SKIPPED"),
        Outcome::Errored(_) => paint.bad("ERROR"),
    };
    let took = match &test.outcome {
        Outcome::Skipped => String::new(),
        Outcome::Passed | Outcome::Failed(_) | Outcome::Errored(_) => format!(" ({})", duration(test.took)),
    };
    format!("{}: {word}{took}", test.full_name())
}

fn failure(out: &mut String, test: &TestResult, paint: Paint) {
    line(out, &headline(test, paint));
    line(out, "");
    match &test.outcome {
        Outcome::Failed(Some(failure)) => {
            line(out, &format!("  {}: does not hold:", failure.place));
            failure.expression.lines().for_each(|text| line(out, &format!("    {text}")));
            for (text, value) in &failure.values {
                let part = text.split_whitespace().collect::<Vec<_>>().join(" ");
                line(out, &format!("      {part} = {value}"));
            }
        }
        Outcome::Failed(None) if !test.parts.is_empty() => {
            let failed: Vec<&str> =
                test.parts.iter().filter(|(_, passed)| !**passed).map(|(name, _)| name.as_str()).collect();
            line(out, &format!("  {}: does not hold for {}", test.place, failed.join(", ")));
        }
        Outcome::Failed(None) => line(out, &format!("  {}: is not true", test.place)),
        Outcome::Errored(message) => message.lines().for_each(|text| line(out, &format!("  {text}"))),
        Outcome::Passed | Outcome::Skipped => {}
    }
    test.output.iter().for_each(|printed| line(out, &format!("  {printed}")));
    line(out, "");
}

fn totals(out: &mut String, report: &TestReport, paint: Paint) {
    let total = report.tests.len();
    if total == 0 {
        return;
    }
    if !out.is_empty() {
        line(out, RULE);
    }
    let counts = [
        (paint.good("PASS"), report.count(|outcome| matches!(outcome, Outcome::Passed)), true),
        (paint.bad("FAIL"), report.count(|outcome| matches!(outcome, Outcome::Failed(_))), false),
        (paint.doubtful("SKIPPED"), report.count(|outcome| matches!(outcome, Outcome::Skipped)), false),
        (paint.bad("ERROR"), report.count(|outcome| matches!(outcome, Outcome::Errored(_))), false),
    ];
    for (word, count, always) in counts {
        if count > 0 || always {
            line(out, &format!("{word}: {count}/{total}"));
        }
    }
}

fn covered(out: &mut String, files: &[FileCoverage], percent: f64) {
    let width = files.iter().map(|file| file.file.chars().count()).max().unwrap_or(0);
    line(out, &format!("COVERAGE\n{RULE}"));
    for file in files {
        let _written = write!(out, "{:<width$}  {:>6.2}%", file.file, file.percent());
        if !file.not_covered.is_empty() {
            let missed: Vec<String> = ranges(file.not_covered.iter().copied())
                .into_iter()
                .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
                .collect();
            let _written = write!(out, "  not reached: {}", missed.join(", "));
        }
        out.push('\n');
    }
    let _written = writeln!(out, "{:<width$}  {percent:>6.2}%", "all files");
}

/// The conditions that tests saw one way only, or not at all.
fn conditions(out: &mut String, conditions: &[Condition], verbose: bool) {
    let lacking: Vec<(&Condition, &str)> =
        conditions.iter().filter_map(|condition| Some((condition, condition.lack()?))).collect();
    if conditions.is_empty() {
        return;
    }
    line(out, &format!("CONDITIONS\n{RULE}"));
    let shown = if verbose { lacking.len() } else { CONDITIONS_MAX };
    for (Condition { place, text, .. }, lack) in lacking.iter().take(shown) {
        line(out, &format!("{place}: {lack}: {text}"));
    }
    if lacking.len() > shown {
        line(out, &format!("{} more; --verbose shows all", lacking.len() - shown));
    }
    line(out, &format!("seen both ways: {}/{}", conditions.len() - lacking.len(), conditions.len()));
}

/// Neighbouring lines as ranges, both ends included.
pub(super) fn ranges(lines: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in lines {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == number => *to = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

fn duration(took: Duration) -> String {
    match took.as_micros() {
        micros @ 0..1_000 => format!("{micros}us"),
        micros @ 1_000..1_000_000 => format!("{}.{}ms", micros / 1_000, micros % 1_000 / 100),
        micros => format!("{}.{}s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_lines_are_one_range() {
        assert_eq!(ranges([1, 2, 3, 7, 9, 10].into_iter()), [(1, 3), (7, 7), (9, 10)]);
        assert_eq!(ranges(std::iter::empty()), []);
    }

    #[test]
    fn durations_read_at_a_glance() {
        assert_eq!(duration(Duration::from_micros(999)), "999us");
        assert_eq!(duration(Duration::from_micros(1_250)), "1.2ms");
        assert_eq!(duration(Duration::from_millis(2_345)), "2.3s");
    }
}
