//! `gatewayctl policy promote` and `policy rollback`: which policy a running gateway has in force.

use std::io::Write;

use anyhow::{Context, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;

use crate::cli::admin::{self, AdminArgs, Answer};
use crate::cli::output::Exit;

/// Put the shadow of a policy in force in a running gateway, in one step.
///
/// It stays in force over reloads until the policy's own bundle changes, and until the gateway is started anew.
#[derive(Debug, clap::Args)]
pub struct PromoteArgs {
    /// The policy whose shadow is meant. Default: the only one that has a shadow.
    #[arg(value_name = "POLICY")]
    pub policy: Option<String>,
    /// The gateway that is asked.
    #[command(flatten)]
    pub gateway: AdminArgs,
    /// How to print what was done.
    #[arg(short, long, value_enum, default_value_t = AnswerFormat::Pretty)]
    pub format: AnswerFormat,
}

/// Put what a running gateway had in force before in force again.
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// The gateway that is asked.
    #[command(flatten)]
    pub gateway: AdminArgs,
    /// How to print what was done.
    #[arg(short, long, value_enum, default_value_t = AnswerFormat::Pretty)]
    pub format: AnswerFormat,
}

/// How to print an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AnswerFormat {
    /// For people.
    Pretty,
    /// One object.
    Json,
}

/// Promotes. What is in force now goes to `out`, what is left to do to `notes`.
pub fn promote(args: &PromoteArgs, out: &mut dyn Write, notes: &mut dyn Write) -> anyhow::Result<Exit> {
    let target = match &args.policy {
        None => "/promote".to_owned(),
        Some(policy) => format!("/promote/{}", utf8_percent_encode(policy, NON_ALPHANUMERIC)),
    };
    let answer = admin::ask(args.gateway.address()?, "POST", &target)?;
    let document = document(&answer, "promoted")?;
    if args.format == AnswerFormat::Json {
        writeln!(out, "{document:#}")?;
        return Ok(Exit::Fine);
    }
    let text = |name: &str| document.get(name).and_then(Json::as_str).unwrap_or_default();
    let (policy, bundle) = (text("policy"), text("bundle"));
    let generation = document.get("generation").unwrap_or(&Json::Null);
    writeln!(
        out,
        "policy `{policy}`: revision `{}` of `{bundle}` is in force in place of `{}` (generation {generation})",
        text("revision"),
        text("former_revision"),
    )?;
    if !text("warning").is_empty() {
        writeln!(notes, "warning: {}", text("warning"))?;
    }
    writeln!(
        notes,
        "note: this holds until the policy's own bundle changes, or the gateway is started anew."
    )?;
    let to_keep = if bundle.contains("://") {
        format!(
            "publish it where the policy's own bundle comes from, or write `bundle: {bundle}` under `policies.{policy}`"
        )
    } else {
        format!("write `bundle: {bundle}` under `policies.{policy}`, or put its files there")
    };
    writeln!(notes, "      to keep it, {to_keep};")?;
    writeln!(notes, "      to undo it, `gatewayctl policy rollback`")?;
    Ok(Exit::Fine)
}

/// Rolls back. What is in force now goes to `out`.
pub fn roll_back(args: &RollbackArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let answer = admin::ask(args.gateway.address()?, "POST", "/rollback")?;
    let document = document(&answer, "rolled_back")?;
    if args.format == AnswerFormat::Json {
        writeln!(out, "{document:#}")?;
        return Ok(Exit::Fine);
    }
    writeln!(out, "rolled back (generation {})", document.get("generation").unwrap_or(&Json::Null))?;
    for (policy, revision) in document.get("policies").and_then(Json::as_object).into_iter().flatten() {
        writeln!(out, "policy `{policy}`: revision `{}`", revision.as_str().unwrap_or_default())?;
    }
    Ok(Exit::Fine)
}

/// The answer as an object, where the gateway has `done` it.
fn document(answer: &Answer, done: &str) -> anyhow::Result<Json> {
    let document: Option<Json> = serde_json::from_str(&answer.body).ok();
    let document =
        document.with_context(|| format!("the gateway answers {}: {}", answer.status, answer.body.trim()))?;
    if document.get(done) != Some(&Json::Bool(true)) {
        bail!("{}", document.get("error").and_then(Json::as_str).unwrap_or("the gateway refuses"));
    }
    Ok(document)
}
