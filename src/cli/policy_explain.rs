//! `gatewayctl policy explain`: why a decision, condition by condition.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;

use crate::base::clock::{Clock as _, SystemClock, saturating_nanos};
use crate::cli::admin::{self, AdminArgs};
use crate::cli::events;
use crate::cli::output::{Exit, Paint, parse_duration};
use crate::cli::policy_eval::read_input;
use crate::policy::bundle::{self, Purpose};
use crate::policy::explain;
use crate::policy::explain::render::{self, Tone};
use crate::policy::replay::{self, Asked};
use crate::rego::evaluator::Facts;
use crate::rego::program::Options;

/// The rule asked where nothing else says.
const DECISION: &str = "data.gateway.decision";

/// Explain a recorded decision, or the answer for an input: which conditions hold, which do not, and what they read.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("question").required(true).args(["events", "input", "admin"]))]
pub struct ExplainArgs {
    /// Decision events, one JSON object a line, `.gz` or plain; `-` reads standard input.
    #[arg(value_name = "EVENTS", requires = "decision", requires = "against")]
    pub events: Option<PathBuf>,
    /// The id of the decision to explain.
    #[arg(long, value_name = "ID", conflicts_with = "input")]
    pub decision: Option<String>,
    /// An input document to explain instead, JSON; `-` reads standard input.
    #[arg(short, long, value_name = "FILE", requires = "against")]
    pub input: Option<PathBuf>,
    /// Ask the running gateway with this admin endpoint about one of its recent decisions.
    #[arg(long, value_name = "ADDRESS", requires = "decision", conflicts_with_all = ["against", "rule", "timeout"])]
    pub admin: Option<SocketAddr>,
    /// Directories, bundles and files with policies and data.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub against: Vec<PathBuf>,
    /// The rule to explain. Default: the one the event names, or data.gateway.decision.
    #[arg(short, long, value_name = "RULE")]
    pub rule: Option<String>,
    /// Leave out all values, for an explanation that may be shown to others.
    #[arg(long)]
    pub redacted: bool,
    /// The longest one evaluation may take.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = ExplainFormat::Pretty)]
    pub format: ExplainFormat,
}

/// How to print an explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExplainFormat {
    /// For people.
    Pretty,
    /// One object.
    Json,
}

/// Runs the command. The explanation goes to `out`, what it lacks to `notes`.
pub fn run(
    args: &ExplainArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    if let (Some(address), Some(id)) = (args.admin, &args.decision) {
        return ask(args, address, id, out);
    }
    let asked = asked(args)?;
    if let Some(refused) = &asked.refused {
        match args.format {
            ExplainFormat::Json => writeln!(out, "{:#}", render::refused_document(refused))?,
            ExplainFormat::Pretty => render::refused_text(refused, out)?,
        }
        return Ok(Exit::Fine);
    }
    let Some(input) = asked.input else {
        bail!("the event has no input: it was logged as a summary, or the policy read none");
    };
    let bundle = bundle::load(&args.against, Purpose::Develop)?;
    let program = bundle.compile(Options::developing())?;
    let rule = args.rule.as_deref().or(asked.path.as_deref()).unwrap_or(DECISION);
    let entrypoint = program.entrypoint(rule)?;
    let facts = Facts { input, now_ns: asked.now_ns, budget: args.timeout };
    let explanation = explain::explain(&bundle, &program, &entrypoint, &facts)?;
    match args.format {
        ExplainFormat::Json => {
            writeln!(out, "{:#}", render::document(&explanation, args.redacted))?;
        }
        ExplainFormat::Pretty => {
            let painted = |tone, text: &str| match tone {
                Tone::Strong => paint.strong(text),
                Tone::Good => paint.good(text),
                Tone::Bad => paint.bad(text),
                Tone::Faint => paint.faint(text),
            };
            render::text(&explanation, args.redacted, &painted, out)?;
        }
    }
    let footprint = program.footprint(&entrypoint);
    for pointer in asked.erased.iter().filter(|pointer| replay::may_read(&footprint, pointer)) {
        writeln!(notes, "note: {}", render::missing(pointer))?;
    }
    Ok(Exit::Fine)
}

/// Has a running gateway explain.
fn ask(args: &ExplainArgs, address: SocketAddr, id: &str, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let gateway = AdminArgs { admin: Some(address), config: None };
    let format = match args.format {
        ExplainFormat::Json => "json",
        ExplainFormat::Pretty => "text",
    };
    let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
    let target = format!("/explain/{id}?format={format}&redacted={}", args.redacted);
    let answer = admin::ask(gateway.address()?, "GET", &target)?;
    if answer.status != 200 {
        let error: Option<Json> = serde_json::from_str(&answer.body).ok();
        let error = error.as_ref().and_then(|error| error.get("error")?.as_str());
        bail!("{}", error.unwrap_or_else(|| answer.body.trim()));
    }
    out.write_all(answer.body.as_bytes())?;
    Ok(Exit::Fine)
}

fn asked(args: &ExplainArgs) -> anyhow::Result<Asked> {
    if let (Some(path), Some(id)) = (&args.events, &args.decision) {
        let (events, _) = events::open(path)?;
        let shown = path.display();
        let found = replay::find(events, id).with_context(|| format!("cannot read `{shown}`"))?;
        return found.with_context(|| format!("no decision `{id}` in `{shown}`"));
    }
    let input = read_input(args.input.as_deref().unwrap_or(Path::new("-")))?;
    let now_ns = i64::try_from(saturating_nanos(SystemClock.now())).unwrap_or(i64::MAX);
    Ok(Asked { path: None, input: Some(input), now_ns, refused: None, erased: Vec::new() })
}
