//! `gatewayctl policy replay`: recorded decisions against a candidate.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::events;
use crate::cli::output::{Exit, Paint, parse_duration};
use crate::contract::form::Contract;
use crate::policy::bundle::{self, Purpose};
use crate::policy::replay::{self, Changed, ReplayOptions, Report, Side};
use crate::rego::program::Options;

/// Time between two looks at how far it is.
const PROGRESS: Duration = Duration::from_millis(200);

/// Replay recorded decisions against other policies; exits with 2 if any decision changes.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Decision events, one JSON object a line, `.gz` or plain; `-` reads standard input.
    #[arg(value_name = "EVENTS")]
    pub events: PathBuf,
    /// The candidate: directories, bundles and files with policies and data.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub against: Vec<PathBuf>,
    /// The rule to ask, such as `gateway/decision`. Default: the one each event names.
    #[arg(long, value_name = "RULE")]
    pub decision: Option<String>,
    /// What the policies are written for. Default: what each event's own input says.
    #[arg(long, value_enum)]
    pub contract: Option<ReplayContract>,
    /// Exit with 0 even if decisions change.
    #[arg(long)]
    pub allow_changes: bool,
    /// Threads. Default: one a core.
    #[arg(short, long, value_name = "N")]
    pub parallel: Option<NonZeroUsize>,
    /// The longest one evaluation may take.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t = ReplayFormat::Pretty)]
    pub format: ReplayFormat,
}

/// What recorded and candidate policies are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReplayContract {
    /// The gateway's own input and result.
    #[value(name = "gateway/v1")]
    GatewayV1,
    /// Those of opa-envoy-plugin.
    #[value(name = "envoy/v3")]
    EnvoyV3,
}

impl From<ReplayContract> for Contract {
    fn from(named: ReplayContract) -> Self {
        match named {
            ReplayContract::GatewayV1 => Self::GatewayV1,
            ReplayContract::EnvoyV3 => Self::EnvoyV3,
        }
    }
}

/// How to report a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReplayFormat {
    /// For people.
    Pretty,
    /// One object.
    Json,
}

/// Runs the command. The report goes to `out`, progress and errors to `notes`.
pub fn run(
    args: &ReplayArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let program = bundle::load(&args.against, Purpose::Develop)?.compile(Options::developing())?;
    let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let options = ReplayOptions {
        entrypoint: args.decision.clone(),
        contract: args.contract.map(Contract::from),
        parallel: args.parallel.unwrap_or(cores),
        budget: args.timeout,
    };
    let (events, size) = events::open(&args.events)?;
    let mut progress = Progress::new(size, notes);
    let report = replay::replay(&program, events, &options, &mut |read| progress.tell(read));
    progress.clear();
    let report = report.with_context(|| format!("cannot read `{}`", args.events.display()))?;
    match args.format {
        ReplayFormat::Pretty => pretty(&report, paint, out)?,
        ReplayFormat::Json => writeln!(out, "{:#}", document(&report))?,
    }
    if report.events > 0 && report.replayed() == 0 {
        writeln!(notes, "no event could be replayed, so nothing is known of the candidate")?;
        return Ok(Exit::No);
    }
    Ok(if report.changes() > 0 && !args.allow_changes { Exit::No } else { Exit::Fine })
}

/// How far it is, on a terminal.
struct Progress<'a> {
    size: Option<u64>,
    told: Option<Instant>,
    is_terminal: bool,
    notes: &'a mut dyn Write,
}

impl<'a> Progress<'a> {
    fn new(size: Option<u64>, notes: &'a mut dyn Write) -> Self {
        Self { size, told: None, is_terminal: std::io::stderr().is_terminal(), notes }
    }

    fn tell(&mut self, read: u64) {
        if !self.is_terminal || self.told.is_some_and(|told| told.elapsed() < PROGRESS) {
            return;
        }
        self.told = Some(Instant::now());
        let megabytes = read >> 20;
        let far = match self.size {
            Some(size) => format!("{} % of {} MiB", read.saturating_mul(100) / size.max(1), size >> 20),
            None => format!("{megabytes} MiB"),
        };
        // Whoever does not see it loses nothing.
        drop(write!(self.notes, "\r{far} replayed").and_then(|()| self.notes.flush()));
    }

    fn clear(&mut self) {
        if self.told.is_some() {
            drop(write!(self.notes, "\r\u{1b}[K"));
        }
    }
}

fn pretty(report: &Report, paint: Paint, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut last = None;
    for (changed, side) in &report.changed {
        if last != Some(changed.change) {
            last = Some(changed.change);
            let of_kind = report.changed.iter().filter(|(other, _)| other.change == changed.change);
            let total: u64 = of_kind.map(|(_, side)| side.count).sum();
            let title = format!("{}: {total}", changed.change.title());
            writeln!(
                out,
                "{}",
                if changed.change.opens() { paint.bad(&title) } else { paint.strong(&title) }
            )?;
        }
        let ids: Vec<&str> = side.examples.iter().map(|(_, id)| id.as_str()).collect();
        let route = if changed.route.is_empty() { "-" } else { &changed.route };
        writeln!(out, "  {:>8}  {route}  {}", side.count, reasons(changed))?;
        writeln!(out, "            {}", paint.faint(&format!("such as {}", ids.join(", "))))?;
    }
    if report.other_changes > 0 {
        writeln!(out, "  {:>8}  other changes", report.other_changes)?;
    }
    let skipped: u64 = report.skipped.iter().map(|(_, count)| count).sum();
    if skipped > 0 {
        writeln!(out, "{}", paint.doubtful(&format!("not replayed: {skipped}")))?;
        for (skipped, count) in &report.skipped {
            writeln!(out, "  {count:>8}  {skipped}")?;
        }
    }
    let changes = report.changes();
    let verdict = format!("{changes} of {} decisions changed", report.replayed());
    writeln!(out, "{}", if changes == 0 { paint.good(&verdict) } else { paint.bad(&verdict) })?;
    Ok(())
}

fn reasons(changed: &Changed) -> String {
    let word = |reason: &Option<String>| reason.clone().unwrap_or_else(|| "no reason".to_owned());
    if changed.before == changed.after {
        word(&changed.after)
    } else {
        format!("{} -> {}", word(&changed.before), word(&changed.after))
    }
}

fn document(report: &Report) -> Value {
    let changed = |(changed, side): &(Changed, Side)| {
        let ids: Vec<&str> = side.examples.iter().map(|(_, id)| id.as_str()).collect();
        json!({
            "change": changed.change.as_str(),
            "route": changed.route,
            "before": {"reason": changed.before},
            "after": {"reason": changed.after},
            "count": side.count,
            "decision_ids": ids,
        })
    };
    let skipped = report.skipped.iter().map(|(skipped, count)| {
        json!({"reason": skipped.as_str(), "message": skipped.to_string(), "count": count})
    });
    json!({
        "events": report.events,
        "replayed": report.replayed(),
        "unchanged": report.unchanged,
        "changes": report.changes(),
        "changed": report.changed.iter().map(changed).collect::<Vec<_>>(),
        "not_replayed": skipped.collect::<Vec<_>>(),
    })
}
