//! `gatewayctl policy footprint`: what each entry point can read.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::cli::output::Exit;
use crate::policy::bundle::{self, Purpose};
use crate::rego::footprint::{Footprint, ReadPath, Shown};
use crate::rego::program::{Entrypoint, Options};

/// Show which input paths, data paths and built-ins each entry point can read.
#[derive(Debug, clap::Args)]
pub struct FootprintArgs {
    /// Directories and files with policies and data.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Only this rule, such as `gateway/decision`; may be repeated. Default: every rule.
    #[arg(short, long = "entrypoint", value_name = "RULE")]
    pub entrypoints: Vec<String>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = FootprintFormat::Pretty)]
    pub format: FootprintFormat,
}

/// How to print footprints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FootprintFormat {
    /// For people.
    Pretty,
    /// One object, by entry point.
    Json,
}

/// Runs the command. The footprints go to `out`, everything else to `notes`.
pub fn run(args: &FootprintArgs, out: &mut dyn Write, notes: &mut dyn Write) -> anyhow::Result<Exit> {
    let compiled =
        bundle::load(&args.paths, Purpose::Develop).and_then(|bundle| bundle.compile(Options::developing()));
    let program = match compiled {
        Ok(program) => program,
        Err(errors) => {
            writeln!(notes, "{errors}")?;
            return Ok(Exit::CouldNotRun);
        }
    };
    let mut entrypoints: Vec<Entrypoint> = Vec::new();
    for written in &args.entrypoints {
        match program.entrypoint(written) {
            Ok(entrypoint) => entrypoints.push(entrypoint),
            Err(error) => {
                writeln!(notes, "{error}")?;
                return Ok(Exit::CouldNotRun);
            }
        }
    }
    if args.entrypoints.is_empty() {
        entrypoints = program.entrypoints();
    }
    let footprints = entrypoints.iter().map(|entrypoint| (entrypoint, program.footprint(entrypoint)));
    match args.format {
        FootprintFormat::Pretty => {
            for (entrypoint, footprint) in footprints {
                write_pretty(out, entrypoint, &footprint)?;
            }
        }
        FootprintFormat::Json => {
            let all: Map<String, Value> = footprints
                .map(|(entrypoint, footprint)| (entrypoint.to_string(), to_json(&footprint)))
                .collect();
            writeln!(out, "{:#}", Value::Object(all))?;
        }
    }
    out.flush()?;
    Ok(Exit::Fine)
}

fn shown<'a>(root: &'static str, paths: impl Iterator<Item = &'a ReadPath>) -> Vec<String> {
    paths.map(|path| Shown(root, path).to_string()).collect()
}

fn write_pretty(out: &mut dyn Write, entrypoint: &Entrypoint, footprint: &Footprint) -> std::io::Result<()> {
    writeln!(out, "{entrypoint}")?;
    let lists = [
        ("reads", shown("input", footprint.input())),
        ("tests for", shown("input", footprint.present())),
        ("data", shown("data", footprint.data())),
        ("built-ins", footprint.builtins().map(str::to_owned).collect()),
    ];
    for (name, items) in lists.into_iter().filter(|(_, items)| !items.is_empty()) {
        writeln!(out, "  {name}: {}", items.join(", "))?;
    }
    if footprint.is_constant() {
        writeln!(out, "  constant: evaluated once for each bundle")?;
    }
    Ok(())
}

fn to_json(footprint: &Footprint) -> Value {
    json!({
        "input": shown("input", footprint.input()),
        "present": shown("input", footprint.present()),
        "data": shown("data", footprint.data()),
        "builtins": footprint.builtins().collect::<Vec<_>>(),
        "constant": footprint.is_constant(),
    })
}
