//! Figures on paper: for people, as JSON, and as Go prints them.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::cli::gobench;
use crate::cli::output::Paint;
use crate::contract::form::Contract;
use crate::policy::bench::{Measured, Question, Report, Source};

/// What the figures are not to be taken for.
pub(super) fn caveats(report: &Report, source: Source<'_>) -> Vec<String> {
    let mut caveats = Vec::new();
    if cfg!(debug_assertions) {
        caveats.push(
            "this gatewayctl is built without optimisation: its figures say nothing of a release".to_owned(),
        );
    }
    let distinct = match source {
        Source::Cases => report.requests,
        Source::Documents(documents) => documents.distinct(),
    };
    if distinct == 1 {
        let text = "one request was repeated: the processor's caches and branch predictor flatter the figures; give more";
        caveats.push(text.to_owned());
    }
    for rule in &report.constants {
        caveats.push(format!(
            "`{rule}` depends on no request: the gateway evaluates it once and repeats the answer"
        ));
    }
    for (reason, count) in &report.left_out {
        caveats.push(format!("{count} left out: {}", reason.describe()));
    }
    for refused in &report.not_planned {
        caveats.push(format!("{}: `{}` has no plan: {}", refused.place, refused.rule, refused.reason));
    }
    for measured in &report.engines {
        let outcomes = &measured.outcomes;
        let engine = measured.engine.as_str();
        if outcomes.total() < report.requests as u64 {
            let (total, all) = (outcomes.total(), report.requests);
            caveats.push(format!("{engine}: only {total} of {all} requests were reached; measure longer"));
        }
        if report.is_cached && outcomes.remembered == 0 {
            let text = "no decision was taken from the cache: deciding costs too little, or no two requests are alike to it";
            caveats.push(format!("{engine}: {text}"));
        }
        if let Some(error) = &outcomes.first_error {
            let (failed, total) = (outcomes.failed(), outcomes.total());
            caveats.push(format!("{engine}: {failed} of {total} decisions failed, such as: {error}"));
        }
    }
    caveats
}

/// What is timed of each decision.
fn timed(source: Source<'_>) -> &'static str {
    match source {
        Source::Cases => "building the input, evaluation, reading the decision out of the result",
        Source::Documents(_) => {
            "evaluation of a ready input document, reading the decision out of the result"
        }
    }
}

fn contract(question: &Question) -> &'static str {
    match question.contract {
        Contract::GatewayV1 => "gateway/v1",
        Contract::EnvoyV3 => "envoy/v3",
    }
}

/// A row's name, and what it says of an engine.
type Row = (&'static str, fn(&Measured) -> String);

const ROWS: [Row; 9] = [
    ("mean", |measured| nanos(measured.batched.nanos_each())),
    ("p50", |measured| duration(measured.single.percentile(50))),
    ("p90", |measured| duration(measured.single.percentile(90))),
    ("p99", |measured| duration(measured.single.percentile(99))),
    ("max", |measured| duration(measured.single.max())),
    ("decisions", |measured| measured.outcomes.total().to_string()),
    ("allows", |measured| measured.outcomes.allows.to_string()),
    ("denies", |measured| measured.outcomes.denies.to_string()),
    ("failures", |measured| measured.outcomes.failed().to_string()),
];

/// The figures side by side.
pub(super) fn pretty(report: &Report, source: Source<'_>, paint: Paint) -> String {
    let mut out = String::new();
    for question in &report.questions {
        let rule = paint.strong(question.entrypoint.name());
        let _infallible = writeln!(out, "{rule} ({})", contract(question));
    }
    let kind = match (source, report.requests) {
        (Source::Cases, 1) => "request of a case",
        (Source::Cases, _) => "requests of cases",
        (Source::Documents(_), 1) => "input document",
        (Source::Documents(_), _) => "input documents",
    };
    let _infallible = writeln!(out, "{} {kind}; timed: {}\n", report.requests, timed(source));
    let mut table =
        vec![("", report.engines.iter().map(|measured| measured.engine.as_str().to_owned()).collect())];
    table.extend(
        ROWS.iter().map(|(name, figure)| (*name, report.engines.iter().map(figure).collect::<Vec<_>>())),
    );
    if report.engines.iter().any(|measured| measured.outcomes.remembered > 0) {
        let remembered = report.engines.iter().map(|measured| measured.outcomes.remembered.to_string());
        table.push(("remembered", remembered.collect()));
    }
    for (name, figures) in table {
        let figures = figures.iter().map(|figure| format!("{figure:>14}")).collect::<Vec<_>>().concat();
        let row = format!("{name:<12}{figures}");
        let row =
            if name == "failures" && report.engines.iter().any(|measured| measured.outcomes.failed() > 0) {
                paint.bad(&row)
            } else {
                row
            };
        let _infallible = writeln!(out, "{row}");
    }
    out.push('\n');
    if let Some(ratio) = ratio(report) {
        let _infallible = writeln!(out, "the plan is {ratio:.1} times as fast as the interpreter");
    }
    for measured in &report.engines {
        if let Some(scaling) = &measured.scaling {
            let _infallible = writeln!(
                out,
                "{}, {} threads: {:.0} decisions/s, {:.2} times one alone ({:.0})",
                measured.engine.as_str(),
                scaling.together.len(),
                scaling.together_per_second(),
                scaling.ratio(),
                scaling.alone_per_second()
            );
        }
    }
    let clock = report.clock.as_nanos();
    let how = format!(
        "mean: of whole batches; percentiles: of decisions timed alone, less {clock} ns for the clock"
    );
    let _infallible = writeln!(out, "{}", paint.faint(&how));
    out
}

/// How many times as long the interpreter takes, where both were measured.
fn ratio(report: &Report) -> Option<f64> {
    let [plan, interpreter] = report.engines.as_slice() else { return None };
    Some(interpreter.batched.nanos_each() / plan.batched.nanos_each())
}

/// Nanoseconds, in a unit that people read with ease.
pub(super) fn duration(nanos: u64) -> String {
    let thousandths = |unit: u64| (nanos / unit, nanos % unit * 10 / unit);
    match nanos {
        0..10_000 => format!("{nanos} ns"),
        10_000..10_000_000 => {
            let (whole, tenth) = thousandths(1_000);
            format!("{whole}.{tenth} us")
        }
        10_000_000..10_000_000_000 => {
            let (whole, tenth) = thousandths(1_000_000);
            format!("{whole}.{tenth} ms")
        }
        10_000_000_000.. => {
            let (whole, tenth) = thousandths(1_000_000_000);
            format!("{whole}.{tenth} s")
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of measured times is positive and far below 2^63"
)]
fn nanos(mean: f64) -> String {
    duration(mean.round() as u64)
}

/// One object with all of it.
pub(super) fn json(report: &Report, source: Source<'_>, caveats: &[String]) -> Value {
    let questions = report.questions.iter();
    let questions = questions
        .map(|question| json!({"decision": question.entrypoint.name(), "contract": contract(question)}));
    let left_out: Map<String, Value> =
        report.left_out.iter().map(|(reason, count)| (reason.as_str().to_owned(), json!(count))).collect();
    json!({
        "questions": questions.collect::<Vec<_>>(),
        "requests": {
            "from": match source { Source::Cases => "cases", Source::Documents(_) => "documents" },
            "count": report.requests,
            "left_out": left_out,
        },
        "timed": timed(source),
        "engines": report.engines.iter().map(engine).collect::<Vec<_>>(),
        "interpreter_to_plan": ratio(report).map(|ratio| round(ratio, 100.0)),
        "clock_ns": u64::try_from(report.clock.as_nanos()).unwrap_or(u64::MAX),
        "optimized": !cfg!(debug_assertions),
        "notes": caveats,
    })
}

fn engine(measured: &Measured) -> Value {
    let Measured { batched, single, outcomes, .. } = measured;
    let failures: Map<String, Value> =
        outcomes.failures().map(|(kind, count)| (kind.as_str().to_owned(), json!(count))).collect();
    let scaling = measured.scaling.as_ref().map(|scaling| {
        json!({
            "threads": scaling.together.len(),
            "decisions_per_second": scaling.together_per_second().round(),
            "alone_per_second": scaling.alone_per_second().round(),
            "ratio": round(scaling.ratio(), 1_000.0),
        })
    });
    json!({
        "engine": measured.engine.as_str(),
        "decisions": outcomes.total(),
        "in_batches": batched.iterations,
        "alone": single.count(),
        "ns_per_op": {
            "mean": round(batched.nanos_each(), 10.0),
            "p50": single.percentile(50),
            "p90": single.percentile(90),
            "p99": single.percentile(99),
            "max": single.max(),
        },
        "allows": outcomes.allows,
        "denies": outcomes.denies,
        "failures": outcomes.failed(),
        "failed": failures,
        "remembered": outcomes.remembered,
        "scaling": scaling,
    })
}

fn round(figure: f64, parts: f64) -> f64 {
    (figure * parts).round() / parts
}

/// A line for each engine, and one more for its threads together.
pub(super) fn gobench(report: &Report) -> String {
    let name = match report.questions.as_slice() {
        [question] => gobench::name(question.entrypoint.name()),
        _ => gobench::name("decisions"),
    };
    let mut out = String::new();
    for measured in &report.engines {
        let engine = measured.engine.as_str();
        let Measured { batched, single, scaling, .. } = measured;
        let figures = gobench::figures(batched.iterations, batched.nanos_each());
        let percentiles =
            [50, 90, 99].map(|percent| format!("\t{:>10} p{percent}-ns", single.percentile(percent)));
        let _infallible = writeln!(out, "{name}/{engine}\t{figures}{}", percentiles.concat());
        if let Some(scaling) = scaling {
            let iterations = scaling.together.iter().map(|thread| thread.iterations).sum();
            let figures = gobench::figures(iterations, 1e9 / scaling.together_per_second());
            let _infallible = writeln!(out, "{name}/{engine}-{}\t{figures}", scaling.together.len());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_reads_best() {
        for (nanos, want) in [
            (0, "0 ns"),
            (9_999, "9999 ns"),
            (10_000, "10.0 us"),
            (18_456, "18.4 us"),
            (12_345_678, "12.3 ms"),
            (61_000_000_000, "61.0 s"),
        ] {
            assert_eq!(duration(nanos), want);
        }
    }
}
