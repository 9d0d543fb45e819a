//! `gatewayctl schema write`: the JSON Schemas of the public documents.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use crate::cli::output::Exit;
use crate::contract::schema;

/// JSON Schemas of the public documents.
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    #[command(subcommand)]
    command: SchemaCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SchemaCommand {
    /// Write all schemas into a directory
    Write {
        /// The directory, made where it is absent
        #[arg(default_value = "schemas")]
        directory: PathBuf,
    },
}

/// Runs the command.
pub fn run(args: &SchemaArgs, notes: &mut dyn Write) -> anyhow::Result<Exit> {
    let SchemaCommand::Write { directory } = &args.command;
    fs::create_dir_all(directory).with_context(|| format!("cannot make `{}`", directory.display()))?;
    let gateway = ("gateway.schema.json", crate::config::schema());
    for (name, document) in std::iter::once(gateway).chain(schema::all()) {
        let path = directory.join(name);
        fs::write(&path, format!("{document:#}\n"))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        writeln!(notes, "wrote {}", path.display())?;
    }
    Ok(Exit::Fine)
}
