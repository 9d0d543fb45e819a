//! `gatewayctl policy test`: runs the tests of policies and reports as OPA does.

mod formats;
mod pretty;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use crate::base::clock::{Clock, SystemClock, saturating_nanos};
use crate::cli::output::{Exit, Paint, parse_duration, parse_some_duration};
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
    /// Report which lines the tests reach, and which conditions they saw only one way. With `--verbose`, all of those.
    #[arg(short, long)]
    pub coverage: bool,
    /// Measure each test that passes: how long one evaluation takes.
    #[arg(long, conflicts_with_all = ["coverage", "threshold", "watch"])]
    pub bench: bool,
    /// How long each test is measured for.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_some_duration, requires = "bench")]
    pub bench_time: Duration,
    /// Run all of it this many times, up to the first run that fails. What is reported is the last run; with `--bench`, each.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "watch", value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
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
    /// The coverage as Cobertura XML, with conditions as branches.
    Cobertura,
    /// The conditions that tests saw true and false, as JSON.
    Conditions,
    /// With `--bench`: as `go test -bench` prints, for `benchstat`.
    Gobench,
}

/// Runs the command. The report goes to `out`, everything else to `notes`.
pub fn run(
    args: &TestArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    if let Err(message) = check_format(args) {
        writeln!(notes, "{message}")?;
        return Ok(Exit::Usage);
    }
    if !args.watch {
        return run_counted(args, paint, out, notes);
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

/// What no parser of arguments knows: which reports tell of what.
fn check_format(args: &TestArgs) -> Result<(), &'static str> {
    match args.format {
        TestFormat::Json if args.bench && args.count > 1 => {
            Err("--count with --bench reports as pretty or gobench: choose one of them with --format")
        }
        TestFormat::Gobench if !args.bench => Err("--format gobench reports benchmarks: add --bench"),
        TestFormat::Pretty | TestFormat::Json | TestFormat::Gobench => Ok(()),
        TestFormat::Junit
        | TestFormat::Tap
        | TestFormat::Github
        | TestFormat::Cobertura
        | TestFormat::Conditions => {
            let fault = "--bench reports as pretty, json or gobench: choose one of them with --format";
            if args.bench { Err(fault) } else { Ok(()) }
        }
    }
}

fn run_counted(
    args: &TestArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    for number in 1..args.count {
        let (mut report, mut said) = (Vec::new(), Vec::new());
        let exit = run_once(args, paint, &mut report, &mut said)?;
        if exit != Exit::Fine {
            out.write_all(&report)?;
            notes.write_all(&said)?;
            writeln!(notes, "run {number} of {} failed", args.count)?;
            return Ok(exit);
        }
        if args.bench {
            out.write_all(&report)?;
        }
    }
    run_once(args, paint, out, notes)
}

fn run_once(
    args: &TestArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    // OPA's JSON has no room for conditions.
    let wants_conditions = match args.format {
        TestFormat::Cobertura | TestFormat::Conditions => true,
        TestFormat::Pretty | TestFormat::Github => args.coverage,
        TestFormat::Json | TestFormat::Junit | TestFormat::Tap | TestFormat::Gobench => false,
    };
    let wants_coverage = args.coverage || args.threshold.is_some() || wants_conditions;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = TestOptions {
        run: args.run.clone(),
        timeout: args.timeout,
        coverage: wants_coverage,
        conditions: wants_conditions,
        parallel: args.parallel.map_or(cores, usize::from),
        now_ns: i64::try_from(saturating_nanos(SystemClock.now())).unwrap_or(i64::MAX),
    };
    let tested = bundle::load_as(&args.paths, Purpose::Develop, args.rego.version()).and_then(|bundle| {
        if args.bench {
            testing::bench(&bundle, &options, args.bench_time)
        } else {
            testing::run(&bundle, &options)
        }
    });
    let report = match tested {
        Ok(report) => report,
        Err(errors) => {
            writeln!(notes, "{errors}")?;
            return Ok(Exit::CouldNotRun);
        }
    };
    if wants_conditions && report.conditions.is_none() {
        writeln!(
            notes,
            "conditions are not covered: the policies do not compile with marks between their conditions"
        )?;
    }
    let text = match args.format {
        TestFormat::Pretty => pretty::render(&report, args.verbose, args.coverage, paint),
        TestFormat::Json if args.coverage => report::coverage_json(&report),
        TestFormat::Json => report::results_json(&report),
        TestFormat::Junit => report::junit(&report)?,
        TestFormat::Tap => formats::tap(&report),
        TestFormat::Github => formats::github(&report, args.verbose, args.coverage),
        TestFormat::Cobertura => formats::cobertura(&report),
        TestFormat::Conditions => report::conditions_json(&report),
        TestFormat::Gobench => formats::gobench(&report),
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
