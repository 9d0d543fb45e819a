//! `gatewayctl policy bench`: what a decision costs.

mod report;

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::base::clock::{Clock, SystemClock, saturating_nanos};
use crate::cli::events;
use crate::cli::output::{Exit, Paint, parse_duration, parse_some_duration};
use crate::cli::policy_eval::EvalEngine;
use crate::cli::policy_replay::ReplayContract;
use crate::contract::form::Contract;
use crate::policy::bench::{self, BenchOptions, Documents, Engine, Limit, Report, Source};
use crate::policy::bundle::{self, Purpose};

/// Longest file of inputs, unpacked.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Measure what a decision costs, on its plan and on the interpreter.
///
/// Without `--input`, the requests are those of the `*.case.yaml` files among the paths, and what is timed is all that the
/// gateway does for a decision: building the input, evaluating, reading the decision out of the result. An input document
/// is built already; then evaluation and result are timed.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Directories, bundles and files with policies, data and cases.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// A JSON input document, or one document or decision event a line, `.gz` or plain; `-` reads standard input.
    #[arg(short, long = "input", value_name = "FILE")]
    pub inputs: Vec<PathBuf>,
    /// The rule to ask. Default: the one that a case file or an event names, or `gateway/decision`.
    #[arg(long, value_name = "RULE")]
    pub decision: Option<String>,
    /// What the policies are written for. Default: what a case file or an input says.
    #[arg(long, value_enum)]
    pub contract: Option<ReplayContract>,
    /// What to measure. Default: the decision plan, where there is one, and the interpreter beside it.
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub engine: Option<EvalEngine>,
    /// How long to measure each engine.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_some_duration, conflicts_with = "count")]
    pub time: Duration,
    /// How many decisions of each engine to measure, instead of how long; half of them in batches, half alone.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    pub count: Option<u64>,
    /// Threads to compare with one alone, each with its own evaluator.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Decisions to remember, as `cache` of a policy in `gateway.yaml`; for requests of cases.
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "inputs")]
    pub cache: usize,
    /// Exit with 2 if more than one decision in a hundred takes longer, such as `2us`; on the plan, where it is measured.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub max_p99: Option<Duration>,
    /// The longest one evaluation may take.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t = BenchFormat::Pretty)]
    pub format: BenchFormat,
}

/// How to report figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchFormat {
    /// For people.
    Pretty,
    /// One object.
    Json,
    /// As `go test -bench` does, for `benchstat`.
    Gobench,
}

/// Runs the command. The figures go to `out`; what they are not to be taken for goes to `notes`.
pub fn run(
    args: &BenchArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let bundle = bundle::load(&args.paths, Purpose::Develop)?;
    let mut documents = Documents::default();
    for path in &args.inputs {
        documents.add(&path.display().to_string(), &read(path)?)?;
    }
    let source = if args.inputs.is_empty() { Source::Cases } else { Source::Documents(&documents) };
    let options = BenchOptions {
        decision: args.decision.clone(),
        contract: args.contract.map(Contract::from),
        engine: args.engine.map(|engine| match engine {
            EvalEngine::Plan => Engine::Plan,
            EvalEngine::Interpreter => Engine::Interpreter,
        }),
        limit: args.count.map_or(Limit::Time(args.time), Limit::Count),
        threads: NonZeroUsize::new(usize::from(args.threads)).unwrap_or(NonZeroUsize::MIN),
        cache: args.cache,
        budget: args.timeout,
        now: SystemClock.now(),
    };
    let report = bench::run(&bundle, source, &options)?;
    let caveats = report::caveats(&report, source);
    match args.format {
        BenchFormat::Pretty => out.write_all(report::pretty(&report, source, paint).as_bytes())?,
        BenchFormat::Json => writeln!(out, "{:#}", report::json(&report, source, &caveats))?,
        BenchFormat::Gobench => out.write_all(report::gobench(&report).as_bytes())?,
    }
    out.flush()?;
    // JSON has them inside.
    if args.format != BenchFormat::Json {
        for caveat in &caveats {
            writeln!(notes, "note: {caveat}")?;
        }
    }
    verdict(args, &report, notes)
}

fn verdict(args: &BenchArgs, report: &Report, notes: &mut dyn Write) -> anyhow::Result<Exit> {
    let Some(first) = report.engines.first() else { return Ok(Exit::No) };
    if first.outcomes.failed() == first.outcomes.total() {
        writeln!(notes, "every decision failed: these are the figures of failing, not of deciding")?;
        return Ok(Exit::No);
    }
    if let Some(max) = args.max_p99 {
        let p99 = first.single.percentile(99);
        if p99 > saturating_nanos(max) {
            let engine = first.engine.as_str();
            let p99 = report::duration(p99);
            writeln!(notes, "p99 of the {engine} is {p99}, longer than {max:?} (--max-p99)")?;
            return Ok(Exit::No);
        }
    }
    Ok(Exit::Fine)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let (reader, _) = events::open(path)?;
    let mut text = String::new();
    let read = reader.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text);
    if text.len() as u64 > INPUT_BYTES_MAX {
        bail!("`{shown}` is longer than {} MiB: give fewer lines of it", INPUT_BYTES_MAX >> 20);
    }
    read.with_context(|| format!("`{shown}` cannot be read"))?;
    Ok(text)
}
