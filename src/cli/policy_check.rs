//! `gatewayctl policy check`: compiles policies and reports what is wrong with them.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::github;
use crate::cli::output::{Exit, Paint};
use crate::cli::rego_args::RegoArgs;
use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::policy::bundle::{self, Purpose};
use crate::policy::check::rule;
use crate::policy::check::{self, Finding, Severity};

/// Compile policies and report what is wrong with them: names, recursion, unknown input fields.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Directories and files with policies, data and tests.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Make errors of warnings, and ask more: names that hide others, rules that cannot matter, deprecated built-ins,
    /// denials that vanish on malformed input; and, as warnings, decisions without a default and rules that run on the
    /// interpreter instead of a decision plan. All are listed in docs/check.md.
    #[arg(short = 'S', long)]
    pub strict: bool,
    /// The input the policies are written for.
    #[arg(long, value_enum, default_value_t = ContractArg::GatewayV1)]
    pub contract: ContractArg,
    /// A rule that is asked for each request; may be repeated. What can never be a decision is an error.
    #[arg(long, value_name = "RULE", default_value = "gateway/decision")]
    pub decision: Vec<String>,
    /// A rule that is asked for each response; may be repeated.
    #[arg(long, value_name = "RULE", default_value = "gateway/response")]
    pub response: Vec<String>,
    /// How policies are read.
    #[command(flatten)]
    pub rego: RegoArgs,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t = CheckFormat::Pretty)]
    pub format: CheckFormat,
}

/// The input a policy is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ContractArg {
    /// The gateway's own.
    #[value(name = "gateway/v1")]
    GatewayV1,
    /// That of opa-envoy-plugin.
    #[value(name = "envoy/v3")]
    EnvoyV3,
    /// Any: no input field is checked.
    Any,
}

/// How to report findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CheckFormat {
    /// For people.
    Pretty,
    /// One object with all findings.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Annotations of a GitHub workflow, and then the findings for people.
    Github,
}

/// Runs the command. The findings go to `out`, everything else to `notes`.
pub fn run(
    args: &CheckArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let contract = match args.contract {
        ContractArg::GatewayV1 => Some(Contract::GatewayV1),
        ContractArg::EnvoyV3 => Some(Contract::EnvoyV3),
        ContractArg::Any => None,
    };
    let requests = args.decision.iter().map(|path| (path.as_str(), Phase::Request));
    let responses = args.response.iter().map(|path| (path.as_str(), Phase::Response));
    let decisions: Vec<_> = requests.chain(responses).collect();
    let report = match bundle::load_as(&args.paths, Purpose::Develop, args.rego.version()) {
        Ok(bundle) => check::check(&bundle, contract, &decisions, args.strict),
        Err(errors) => check::Report::of_errors(&errors),
    };
    match args.format {
        CheckFormat::Pretty => out.write_all(pretty(&report.findings, paint).as_bytes())?,
        CheckFormat::Json => {
            let findings: Vec<Value> = report.findings.iter().map(finding_json).collect();
            writeln!(out, "{:#}", json!({"findings": findings}))?;
        }
        CheckFormat::Sarif => writeln!(out, "{:#}", sarif(&report.findings))?,
        CheckFormat::Github => {
            for finding in &report.findings {
                let place = &finding.fault.place;
                let at = github::At { file: &place.file, line: place.line, column: place.column };
                writeln!(
                    out,
                    "{}",
                    github::annotation(level(finding.severity), at, finding.fault.code, &text(finding))
                )?;
            }
            out.write_all(pretty(&report.findings, Paint::plain()).as_bytes())?;
        }
    }
    out.flush()?;
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    writeln!(notes, "{errors} errors, {warnings} warnings")?;
    Ok(match (report.compiles, errors) {
        (false, _) => Exit::CouldNotRun,
        (true, 0) => Exit::Fine,
        (true, _) => Exit::No,
    })
}

/// `file:line:col: error[rule]: message`, and the hint below.
fn pretty(findings: &[Finding], paint: Paint) -> String {
    let mut out = String::new();
    for Finding { severity, fault } in findings {
        let word = format!("{}[{}]", level(*severity), fault.code);
        let word = match severity {
            Severity::Error => paint.bad(&word),
            Severity::Warning => paint.doubtful(&word),
        };
        let _infallible = writeln!(out, "{}: {word}: {}", fault.place, fault.message);
        if let Some(hint) = &fault.hint {
            let _infallible = writeln!(out, "  hint: {hint}");
        }
    }
    out
}

/// Message and hint, for formats that have one text.
fn text(finding: &Finding) -> String {
    match &finding.fault.hint {
        Some(hint) => format!("{}. Hint: {hint}", finding.fault.message),
        None => finding.fault.message.clone(),
    }
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn finding_json(finding: &Finding) -> Value {
    let place = &finding.fault.place;
    json!({
        "severity": level(finding.severity),
        "code": finding.fault.code,
        "message": finding.fault.message,
        "hint": finding.fault.hint,
        "location": {"file": &*place.file, "row": place.line, "col": place.column},
    })
}

fn rule_json(id: &str) -> Value {
    match rule::find(id) {
        Some(rule) => json!({"id": id, "shortDescription": {"text": rule.summary}}),
        None => json!({"id": id}),
    }
}

fn sarif(findings: &[Finding]) -> Value {
    let mut rules: Vec<&str> = findings.iter().map(|finding| finding.fault.code).collect();
    rules.sort_unstable();
    rules.dedup();
    let rules: Vec<Value> = rules.into_iter().map(rule_json).collect();
    let results: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let place = &finding.fault.place;
            let region = json!({"startLine": place.line.max(1), "startColumn": place.column.max(1)});
            json!({
                "ruleId": finding.fault.code,
                "level": level(finding.severity),
                "message": {"text": text(finding)},
                "locations": [{"physicalLocation": {"artifactLocation": {"uri": &*place.file}, "region": region}}],
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "gatewayctl policy check", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "results": results,
        }],
    })
}
