//! The command line: one file per command, each loads, calls the core and renders. No logic.

use std::io::{self, Write};

use clap::{Parser, Subcommand};

use crate::cli::output::{Exit, Paint};

pub mod admin;
pub mod completions;
pub mod config;
pub mod demo;
mod events;
mod github;
mod gobench;
pub mod key;
pub mod output;
pub mod policy_bench;
pub mod policy_bundle;
pub mod policy_check;
pub mod policy_diff;
pub mod policy_eval;
pub mod policy_explain;
pub mod policy_footprint;
pub mod policy_matrix;
pub mod policy_promote;
pub mod policy_replay;
pub mod policy_test;
pub mod rego_args;
pub mod run;
pub mod schema;

/// A policy-as-code API gateway: every request is decided by Rego.
#[derive(Debug, Parser)]
#[command(name = "gatewayctl", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT, a second of which cuts the drain short; SIGHUP reloads
    Run(run::RunArgs),
    /// A tour: built-in upstream, starter policies, ready-made keys; prints requests to try
    Demo(demo::DemoArgs),
    /// Check, show and describe the configuration
    Config(config::ConfigArgs),
    /// Test, check, try and pack policies
    Policy(PolicyArgs),
    /// API keys
    Key(KeyArgs),
    /// JSON Schemas of the public documents
    Schema(schema::SchemaArgs),
    /// Print a shell's completion script
    Completions(completions::CompletionsArgs),
}

#[derive(Debug, clap::Args)]
struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Run `test_` rules and `*.case.yaml` files
    Test(policy_test::TestArgs),
    /// Compile, and find what is probably not meant
    Check(policy_check::CheckArgs),
    /// Ask a policy about one input
    Eval(Box<policy_eval::EvalArgs>),
    /// Measure what a decision costs
    Bench(policy_bench::BenchArgs),
    /// Show what each entry point reads
    Footprint(policy_footprint::FootprintArgs),
    /// Pack policies and data into a bundle
    Build(policy_bundle::BuildArgs),
    /// Sign a bundle
    Sign(policy_bundle::SignArgs),
    /// Verify a bundle's signature
    Verify(policy_bundle::VerifyArgs),
    /// Say why a decision, condition by condition
    Explain(policy_explain::ExplainArgs),
    /// Replay recorded decisions against other policies
    Replay(policy_replay::ReplayArgs),
    /// Put a running gateway's shadow in force
    Promote(policy_promote::PromoteArgs),
    /// Put what a running gateway had in force before in force again
    Rollback(policy_promote::RollbackArgs),
    /// Find a smallest request for each decision that changes between two policies
    Diff(policy_diff::DiffArgs),
    /// Show which operations are allowed to which roles
    Matrix(policy_matrix::MatrixArgs),
    /// Show what is in a bundle
    Inspect(policy_bundle::InspectArgs),
}

#[derive(Debug, clap::Args)]
struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make an API key: prints it once, appends only its hash to the keys file
    New(key::NewArgs),
}

/// Parses the process's arguments, runs the command, and gives the exit code (contract section 1).
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            // Help that nobody reads any more is no failure.
            drop(error.print());
            return if asked_for { Exit::Fine } else { Exit::Usage };
        }
    };
    let mut out = io::stdout().lock();
    let mut notes = io::stderr();
    let ended = dispatch(cli, &mut out, &mut notes).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match ended {
        Ok(exit) => exit,
        Err(error) if output::is_broken_pipe(&error) => Exit::Fine,
        Err(error) => {
            // With stderr gone too, the exit code has to say it.
            drop(writeln!(notes, "error: {error:#}"));
            Exit::CouldNotRun
        }
    }
}

fn dispatch(cli: Cli, out: &mut dyn Write, notes: &mut dyn Write) -> anyhow::Result<Exit> {
    let paint = Paint::stdout();
    match cli.command {
        Command::Run(args) => run::run(&args, notes),
        Command::Demo(args) => demo::run(&args, paint, out, notes),
        Command::Config(args) => Ok(config::run(&args, out, notes)?),
        Command::Policy(PolicyArgs { command }) => match command {
            PolicyCommand::Test(args) => policy_test::run(&args, paint, out, notes),
            PolicyCommand::Check(args) => policy_check::run(&args, paint, out, notes),
            PolicyCommand::Eval(args) => policy_eval::run(&args, paint, out, notes),
            PolicyCommand::Bench(args) => policy_bench::run(&args, paint, out, notes),
            PolicyCommand::Footprint(args) => policy_footprint::run(&args, out, notes),
            PolicyCommand::Build(args) => policy_bundle::build(&args, notes),
            PolicyCommand::Sign(args) => policy_bundle::sign(&args, notes),
            PolicyCommand::Verify(args) => policy_bundle::verify(&args, out),
            PolicyCommand::Explain(args) => policy_explain::run(&args, paint, out, notes),
            PolicyCommand::Replay(args) => policy_replay::run(&args, paint, out, notes),
            PolicyCommand::Promote(args) => policy_promote::promote(&args, out, notes),
            PolicyCommand::Rollback(args) => policy_promote::roll_back(&args, out),
            PolicyCommand::Diff(args) => policy_diff::run(&args, paint, out),
            PolicyCommand::Matrix(args) => policy_matrix::run(&args, paint, out),
            PolicyCommand::Inspect(args) => policy_bundle::inspect(&args, paint, out),
        },
        Command::Key(KeyArgs { command: KeyCommand::New(args) }) => {
            key::new(&args, out, notes)?;
            Ok(Exit::Fine)
        }
        Command::Schema(args) => schema::run(&args, notes),
        Command::Completions(args) => {
            completions::run(&args, out)?;
            Ok(Exit::Fine)
        }
    }
}
