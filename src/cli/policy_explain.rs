//! `gatewayctl policy explain`: why a decision, condition by condition.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value as Json, json};

use crate::base::clock::{Clock as _, SystemClock, saturating_nanos};
use crate::cli::events;
use crate::cli::output::{Exit, Paint, parse_duration};
use crate::cli::policy_eval::read_input;
use crate::policy::bundle::{self, Purpose};
use crate::policy::explain::{self, BodyWhy, Condition, Explanation, RuleWhy};
use crate::policy::replay::{self, Asked};
use crate::rego::evaluator::Facts;
use crate::rego::program::Options;

/// The rule asked where nothing else says.
const DECISION: &str = "data.gateway.decision";

/// Explain a recorded decision, or the answer for an input: which conditions hold, which do not, and what they read.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("question").required(true).args(["events", "input"]))]
pub struct ExplainArgs {
    /// Decision events, one JSON object a line, `.gz` or plain; `-` reads standard input.
    #[arg(value_name = "EVENTS", requires = "decision")]
    pub events: Option<PathBuf>,
    /// The id of the decision to explain.
    #[arg(long, value_name = "ID", requires = "events")]
    pub decision: Option<String>,
    /// An input document to explain instead, JSON; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Directories, bundles and files with policies and data.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
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

/// Runs the command. The explanation goes to `out`.
pub fn run(args: &ExplainArgs, paint: Paint, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let asked = asked(args)?;
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
        ExplainFormat::Json => writeln!(out, "{:#}", document(&explanation, args.redacted))?,
        ExplainFormat::Pretty => {
            let mut printer = Printer { out, paint, redacted: args.redacted };
            printer.rule(&explanation.rule, 0)?;
        }
    }
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
    Ok(Asked { path: None, input: Some(input), now_ns })
}

/// Writes an explanation for people.
struct Printer<'a> {
    out: &'a mut dyn Write,
    paint: Paint,
    redacted: bool,
}

impl Printer<'_> {
    fn rule(&mut self, rule: &RuleWhy, depth: usize) -> anyhow::Result<()> {
        let indent = "  ".repeat(depth);
        let name = self.paint.strong(&rule.name);
        let name =
            if self.redacted { rule.name.split('(').next().unwrap_or_default().to_owned() } else { name };
        let value = match &rule.value {
            _ if rule.name.ends_with(')') => String::new(),
            None => " is undefined".to_owned(),
            Some(_) if self.redacted => String::new(),
            Some(value) => format!(" = {value}"),
        };
        let stands = if rule.negated { ", and it must not hold" } else { "" };
        writeln!(self.out, "{indent}{name}{value}{stands}")?;
        for body in &rule.bodies {
            self.body(body, depth + 1)?;
        }
        Ok(())
    }

    fn body(&mut self, body: &BodyWhy, depth: usize) -> anyhow::Result<()> {
        let indent = "  ".repeat(depth);
        let BodyWhy { place, held, conditions, failed, causes } = body;
        let Some(failed) = failed else {
            let all = if *conditions == 0 {
                "unconditional".to_owned()
            } else {
                format!("all {conditions} conditions hold")
            };
            writeln!(self.out, "{indent}{place}: {}", self.paint.good(&all))?;
            return causes.iter().try_for_each(|cause| self.rule(cause, depth + 1));
        };
        let verdict = format!("condition {} of {conditions} does not hold", held + 1);
        writeln!(self.out, "{indent}{place}: {}", self.paint.bad(&verdict))?;
        let lines = failed.expression.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        writeln!(self.out, "{indent}  line {}: {lines}", failed.place.line)?;
        for (expression, value) in failed.values.iter().filter(|_| !self.redacted) {
            writeln!(self.out, "{indent}    {} = {value}", self.paint.faint(expression))?;
        }
        failed.causes.iter().try_for_each(|cause| self.rule(cause, depth + 1))
    }
}

fn document(explanation: &Explanation, redacted: bool) -> Json {
    let mut document = json!({"rule": rule(&explanation.rule, redacted)});
    let result = explanation.result.as_ref().and_then(|result| result.to_json_str().ok());
    if let (Some(fields), Some(result), false) = (document.as_object_mut(), result, redacted) {
        fields.insert("result".to_owned(), serde_json::from_str(&result).unwrap_or_default());
    }
    document
}

fn rule(why: &RuleWhy, redacted: bool) -> Json {
    let name = if redacted { why.name.split('(').next().unwrap_or_default() } else { &why.name };
    let value = why.value.as_ref().filter(|_| !redacted);
    let bodies: Vec<Json> = why.bodies.iter().map(|why| body(why, redacted)).collect();
    json!({"name": name, "value": value, "negated": why.negated, "bodies": bodies})
}

fn body(why: &BodyWhy, redacted: bool) -> Json {
    json!({
        "location": {"file": &*why.place.file, "row": why.place.line, "col": why.place.column},
        "held": why.held,
        "conditions": why.conditions,
        "failed": why.failed.as_ref().map(|why| condition(why, redacted)),
        "causes": why.causes.iter().map(|why| rule(why, redacted)).collect::<Vec<_>>(),
    })
}

fn condition(why: &Condition, redacted: bool) -> Json {
    let values = why.values.iter().filter(|_| !redacted);
    let values = values.map(|(expression, value)| json!({"expression": expression, "value": value}));
    json!({
        "location": {"file": &*why.place.file, "row": why.place.line, "col": why.place.column},
        "expression": why.expression,
        "values": values.collect::<Vec<_>>(),
        "causes": why.causes.iter().map(|why| rule(why, redacted)).collect::<Vec<_>>(),
    })
}
