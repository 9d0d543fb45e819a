//! `gatewayctl policy test`: runs the tests of policies and reports as OPA does.

mod formats;
mod pretty;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use crate::base::clock::{Clock, SystemClock, saturating_nanos};
use crate::cli::output::{Exit, Paint, parse_duration};
use crate::cli::rego_args::RegoArgs;
use crate::policy::bundle::{self, Purpose};
use crate::policy::testing::{self, Outcome, TestOptions, TestReport};
use crate::runtime::watch::{Sighting, Watch};

/// Run the tests of policies: `test_` rules, each on its own, and the cases of `*.case.yaml` files.
#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line, named as OPA names it"
)]
pub struct TestArgs {
    /// Directories and files with policies, data and tests.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Run only tests whose full name matches: `data.package.test_name`, or `FILE: NAME` of a case.
    #[arg(short, long, value_name = "REGEX")]
    pub run: Option<Regex>,
    /// Show every test, and what it printed.
    #[arg(short, long)]
    pub verbose: bool,
    /// Report which lines the tests reach.
    #[arg(short, long)]
    pub coverage: bool,
    /// Fail below this coverage, in percent.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub threshold: Option<f64>,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t = TestFormat::Pretty)]
    pub format: TestFormat,
    /// How policies are read.
    #[command(flatten)]
    pub rego: RegoArgs,
    /// Threads to run tests on. Default: one for each core.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: Option<u16>,
    /// The longest one test may take.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Fail if there is no test.
    #[arg(long)]
    pub fail_on_empty: bool,
    /// Run again whenever a file changes, until it is interrupted.
    #[arg(short, long)]
    pub watch: bool,
    /// Do not fail because of skipped tests (`todo_test_`).
    #[arg(short = 'z', long)]
    pub exit_zero_on_skipped: bool,
}

/// How to report test results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TestFormat {
    /// For people.
    Pretty,
    /// OPA's JSON: results, or with `--coverage` the coverage.
    Json,
    /// `JUnit` XML.
    Junit,
    /// The Test Anything Protocol, version 14.
    Tap,
    /// For people, with annotations that GitHub shows at their lines.
    Github,
    /// The coverage as Cobertura XML.
    Cobertura,
}

/// Runs the command. The report goes to `out`, everything else to `notes`.
pub fn run(
    args: &TestArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    if !args.watch {
        return run_once(args, paint, out, notes);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        loop {
            // Before anything is read: a change from here on leads to another run.
            let mut watch = Watch::new(Sighting::of(&args.paths));
            run_once(args, paint, out, notes)?;
            writeln!(notes, "waiting for a change")?;
            watch.changed().await;
        }
    })
}

fn run_once(
    args: &TestArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let cobertura = args.format == TestFormat::Cobertura;
    let wants_coverage = args.coverage || args.threshold.is_some() || cobertura;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = TestOptions {
        run: args.run.clone(),
        timeout: args.timeout,
        coverage: wants_coverage,
        parallel: args.parallel.map_or(cores, usize::from),
        now_ns: i64::try_from(saturating_nanos(SystemClock.now())).unwrap_or(i64::MAX),
    };
    let tested = bundle::load_as(&args.paths, Purpose::Develop, args.rego.version())
        .and_then(|bundle| testing::run(&bundle, &options));
    let report = match tested {
        Ok(report) => report,
        Err(errors) => {
            writeln!(notes, "{errors}")?;
            return Ok(Exit::CouldNotRun);
        }
    };
    let text = match args.format {
        TestFormat::Pretty => pretty::render(&report, args.verbose, args.coverage, paint),
        TestFormat::Json if args.coverage => report::coverage_json(&report),
        TestFormat::Json => report::results_json(&report),
        TestFormat::Junit => report::junit(&report)?,
        TestFormat::Tap => formats::tap(&report),
        TestFormat::Github => formats::github(&report, args.verbose, args.coverage),
        TestFormat::Cobertura => formats::cobertura(&report),
    };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    verdict(args, &report, notes)
}

fn verdict(args: &TestArgs, report: &TestReport, notes: &mut dyn Write) -> anyhow::Result<Exit> {
    if report.tests.is_empty() {
        writeln!(notes, "no tests found")?;
        if args.fail_on_empty {
            return Ok(Exit::CouldNotRun);
        }
    }
    if report.has_failures() {
        return Ok(Exit::No);
    }
    if let (Some(threshold), Some(percent)) = (args.threshold, report.percent())
        && percent < threshold
    {
        writeln!(notes, "Code coverage threshold not met: got {percent:.2} instead of {threshold:.2}")?;
        return Ok(Exit::No);
    }
    let skipped = report.count(|outcome| matches!(outcome, Outcome::Skipped));
    if skipped > 0 && !args.exit_zero_on_skipped {
        writeln!(notes, "{skipped} skipped; --exit-zero-on-skipped accepts that")?;
        return Ok(Exit::No);
    }
    Ok(Exit::Fine)
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.0..=100.0).contains(&percent) {
        Ok(percent)
    } else {
        Err(format!("`{text}` is not between 0 and 100"))
    }
}
