//! `gatewayctl policy diff`: a smallest request for each decision that two policies make differently.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::base::clock::{Clock, SystemClock, saturating_nanos};
use crate::cli::output::{Exit, Paint, grouped, indented, parse_duration};
use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::policy::bundle::{self, Purpose};
use crate::policy::diff::{self, Decided, DiffOptions, Difference, DifferingRule, Report};
use crate::policy::search::{Limits, Searched};
use crate::rego::program::{Options, Program};

/// Longest time of one evaluation.
const BUDGET: Duration = Duration::from_millis(100);

/// Find, for each kind of decision that changes, a smallest request that shows it; exits with 2 if there is one.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The policy as it was: a directory, a bundle or a file.
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The policy as it is to be.
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// Data or policies that belong to both; may be repeated.
    #[arg(short, long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// What is asked, and how far the search goes.
    #[command(flatten)]
    pub search: SearchArgs,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t = DiffFormat::Pretty)]
    pub format: DiffFormat,
}

/// What is asked, and how far the search goes.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// The rule that decides. Default: `gateway/decision`, or `envoy/authz/allow` with `--contract envoy/v3`.
    #[arg(long, value_name = "RULE")]
    pub decision: Option<String>,
    /// The input and result the policies are written for.
    #[arg(long, value_enum, default_value_t = SearchContract::GatewayV1)]
    pub contract: SearchContract,
    /// Most requests decided.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub requests: u64,
    /// Longest time of the search.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// The contract of the policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SearchContract {
    /// The gateway's own.
    #[value(name = "gateway/v1")]
    GatewayV1,
    /// That of opa-envoy-plugin.
    #[value(name = "envoy/v3")]
    EnvoyV3,
}

/// How to report differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DiffFormat {
    /// For people.
    Pretty,
    /// One object.
    Json,
    /// A Rego test of the new policy for each difference.
    Test,
    /// Annotations of a GitHub workflow.
    Github,
}

// === impl SearchArgs ===

impl SearchArgs {
    /// The contract.
    pub fn contract(&self) -> Contract {
        match self.contract {
            SearchContract::GatewayV1 => Contract::GatewayV1,
            SearchContract::EnvoyV3 => Contract::EnvoyV3,
        }
    }

    /// The rule that decides.
    pub fn decision(&self) -> &str {
        self.decision.as_deref().unwrap_or(match self.contract {
            SearchContract::GatewayV1 => "gateway/decision",
            SearchContract::EnvoyV3 => "envoy/authz/allow",
        })
    }

    /// How far the search goes.
    pub fn limits(&self) -> Limits {
        let now_ns = i64::try_from(saturating_nanos(SystemClock.now())).unwrap_or(i64::MAX);
        Limits { requests: self.requests, time: self.timeout, budget: BUDGET, now_ns }
    }
}

/// Runs the command. The report goes to `out`.
pub fn run(args: &DiffArgs, paint: Paint, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let load = |path: &PathBuf| -> anyhow::Result<Program> {
        let paths: Vec<&PathBuf> = [path].into_iter().chain(&args.data).collect();
        let bundle = bundle::load(&paths, Purpose::Develop);
        let program = bundle.and_then(|bundle| bundle.compile(Options::default()));
        program.with_context(|| format!("policy `{}` cannot be used", path.display()))
    };
    let (old, new) = (load(&args.old)?, load(&args.new)?);
    let decision = args.search.decision();
    let entrypoint = |program: &Program, path: &PathBuf| {
        let found = program.entrypoint(decision);
        found.with_context(|| {
            format!("policy `{}` cannot be asked; name a rule with `--decision`", path.display())
        })
    };
    let (asked_old, asked_new) = (entrypoint(&old, &args.old)?, entrypoint(&new, &args.new)?);
    let options =
        DiffOptions { contract: args.search.contract(), phase: Phase::Request, limits: args.search.limits() };
    let report = diff::diff((&old, &asked_old), (&new, &asked_new), &options);
    if report.searched.requests == 0 {
        anyhow::bail!(
            "no request could be decided in the time and number allowed; see `--timeout` and `--requests`"
        );
    }
    match args.format {
        DiffFormat::Pretty => pretty(&report, paint, out)?,
        DiffFormat::Json => writeln!(out, "{:#}", document(&report))?,
        DiffFormat::Test => write!(out, "{}", tests(&report, asked_new.name())?)?,
        DiffFormat::Github => github(&report, out)?,
    }
    Ok(if report.differences.is_empty() { Exit::Fine } else { Exit::No })
}

fn pretty(report: &Report, paint: Paint, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut told: Vec<&Difference> = Vec::new();
    for difference in &report.differences {
        if told.iter().any(|known| is_aside(difference, known)) {
            continue;
        }
        told.push(difference);
        let title = difference.change.title();
        let title = if difference.change.opens() { paint.bad(title) } else { paint.strong(title) };
        let keys = difference.keys.join(", ");
        let colon = if keys.is_empty() { "" } else { ": " };
        writeln!(out, "{title}{colon}{keys}")?;
        for rule in difference.rules.iter().filter(|rule| rule.is_cause) {
            writeln!(out, "  {}", cause(rule, paint))?;
        }
        writeln!(out, "{}", indented(&serde_json::to_string_pretty(&difference.witness)?, 2))?;
        writeln!(out, "  before  {}", decided(&difference.before, paint))?;
        writeln!(out, "  after   {}", decided(&difference.after, paint))?;
        for other in report.differences.iter().filter(|other| is_aside(other, difference)) {
            let keys = other.keys.join(", ");
            writeln!(out, "  {}", paint.faint(&format!("as well: {}: {keys}", other.change.title())))?;
        }
        writeln!(out)?;
    }
    if report.is_cut {
        writeln!(out, "{}", paint.doubtful("there are more differences than these"))?;
    }
    let verdict = match told.len() {
        0 => paint.good("no difference found"),
        1 => paint.bad("1 difference"),
        count => paint.bad(&format!("{count} differences")),
    };
    writeln!(out, "{verdict}; {}", searched(&report.searched))?;
    Ok(())
}

/// Whether it is no more than another answer by a cause that changes verdicts.
fn is_aside(difference: &Difference, known: &Difference) -> bool {
    let causes = |difference: &Difference| -> Vec<String> {
        difference.rules.iter().filter(|rule| rule.is_cause).map(|rule| rule.name.clone()).collect()
    };
    !difference.change.changes_verdict()
        && known.change.changes_verdict()
        && causes(difference) == causes(known)
}

/// How far a search went, as a sentence.
pub(super) fn searched(searched: &Searched) -> String {
    let requests = grouped(searched.requests);
    if searched.is_complete {
        return format!(
            "searched all {requests} requests that the tested values make; untested values may decide otherwise"
        );
    }
    let of = match searched.of {
        u64::MAX => "countless".to_owned(),
        of => format!("{} possible", grouped(of)),
    };
    format!("searched {requests} of {of} requests: what was not found may still be there")
}

fn cause(rule: &DifferingRule, paint: Paint) -> String {
    let place = rule.new_place.as_ref().or(rule.old_place.as_ref());
    let place = place.map(|place| format!("  {place}")).unwrap_or_default();
    let why = if rule.is_edited { "edited" } else { "reads other data or functions" };
    let value = |value: &Option<String>| shortened(value.as_deref().unwrap_or("undefined"));
    let values = format!("{} -> {}", value(&rule.before), value(&rule.after));
    format!("{}  {values}  {}", paint.strong(&rule.name), paint.faint(&format!("{why}{place}")))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}..", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn decided(decided: &Decided, paint: Paint) -> String {
    let verdict = match decided.verdict {
        "allow" => paint.good(decided.verdict),
        other => paint.bad(other),
    };
    match (&decided.result, &decided.error) {
        (_, Some(error)) => format!("{verdict}  {error}"),
        (Some(result), None) => format!("{verdict}  {result}"),
        (None, None) => verdict,
    }
}

fn json_of(value: &regorus::Value) -> Json {
    serde_json::to_value(value).unwrap_or(Json::Null)
}

fn document(report: &Report) -> Json {
    let decided = |decided: &Decided| {
        json!({
            "verdict": decided.verdict,
            "result": decided.result.as_ref().map(json_of),
            "error": decided.error,
        })
    };
    let place = |place: &Option<crate::rego::fault::Place>| {
        place.as_ref().map(|place| json!({"file": &*place.file, "row": place.line, "col": place.column}))
    };
    let rule = |rule: &DifferingRule| {
        json!({
            "rule": rule.name, "cause": rule.is_cause, "edited": rule.is_edited,
            "before": rule.before, "after": rule.after,
            "old_location": place(&rule.old_place), "new_location": place(&rule.new_place),
        })
    };
    let difference = |difference: &Difference| {
        json!({
            "change": difference.change.as_str(), "keys": difference.keys,
            "input": json_of(&difference.witness),
            "before": decided(&difference.before), "after": decided(&difference.after),
            "rules": difference.rules.iter().map(rule).collect::<Vec<_>>(),
            "requests": difference.requests,
        })
    };
    json!({
        "differences": report.differences.iter().map(difference).collect::<Vec<_>>(),
        "more": report.is_cut,
        "searched": searched_document(&report.searched),
    })
}

/// How far a search went.
pub(super) fn searched_document(searched: &Searched) -> Json {
    json!({"requests": searched.requests, "of": searched.of, "complete": searched.is_complete})
}

/// Tests that the new policy passes and the old one fails.
fn tests(report: &Report, decision: &str) -> anyhow::Result<String> {
    let mut text = "package policy_diff_test\n".to_owned();
    for (index, difference) in report.differences.iter().enumerate() {
        let causes: Vec<&str> =
            difference.rules.iter().filter(|rule| rule.is_cause).map(|rule| rule.name.as_str()).collect();
        let (change, name) = (difference.change.title(), difference.change.as_str());
        let asked = format!("{decision} with input as {}", with_tabs(&difference.witness)?);
        let body = match &difference.after.result {
            // As JSON: a set is written as an array there.
            Some(result) => {
                format!("result := {asked}\n\tjson.unmarshal(json.marshal(result)) == {}", json_of(result))
            }
            None => format!("not {asked}"),
        };
        let about = format!("# {change}: {}\n", causes.join(", "));
        let rule = format!("\n{about}test_{name}_{} if {{\n\t{body}\n}}\n", index + 1);
        text.push_str(&rule);
    }
    Ok(text)
}

/// A value as it stands within the body of a rule.
fn with_tabs(value: &regorus::Value) -> anyhow::Result<String> {
    let mut written = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut written, formatter))?;
    Ok(String::from_utf8(written)?.replace('\n', "\n\t"))
}

fn github(report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    let escaped = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    for difference in &report.differences {
        let level = if difference.change.opens() { "error" } else { "warning" };
        let cause = difference.rules.iter().find(|rule| rule.is_cause);
        let place = cause.and_then(|rule| rule.new_place.as_ref().or(rule.old_place.as_ref()));
        let place = place.map(|place| {
            let file = escaped(&place.file).replace(':', "%3A").replace(',', "%2C");
            format!("file={file},line={},col={},", place.line, place.column)
        });
        let text = format!(
            "{} for {}",
            cause.map_or("the decision", |rule| rule.name.as_str()),
            serde_json::to_string(&difference.witness)?
        );
        let title = difference.change.title();
        writeln!(out, "::{level} {}title={title}::{}", place.unwrap_or_default(), escaped(&text))?;
    }
    Ok(())
}
