//! `gatewayctl config`: check a configuration, show it with its defaults, print its schema.
//!
//! The answer goes to `out` and all else to `err`; neither ever holds a secret.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::base::clock::SystemClock;
use crate::cli::output::Exit;
use crate::config::diagnostic::Diagnostic;
use crate::config::interpolate::process_environment;
use crate::config::model::Config;
use crate::config::{self, ShowFormat};
use crate::runtime::control;

/// Check, show and describe configurations.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Do all that `run` does short of the network, policies and their tests included; report all faults at once
    Check(FileArgs),
    /// Print the configuration with every default filled in, secrets hidden
    Show(FileArgs),
    /// Print the JSON Schema of the configuration
    Schema,
}

#[derive(Debug, Args)]
struct FileArgs {
    /// The configuration file
    #[arg(long, value_name = "PATH", default_value = "gateway.yaml")]
    config: PathBuf,
    /// How the answer is written
    #[arg(long, value_name = "FORMAT", default_value = "pretty")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: text, and YAML for `show`
    Pretty,
    /// For programs
    Json,
}

/// Runs the command. An error is one of writing.
pub fn run(args: &ConfigArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Exit> {
    match &args.command {
        ConfigCommand::Check(file) => check(file, out, err),
        ConfigCommand::Show(file) => show(file, out, err),
        ConfigCommand::Schema => {
            writeln!(out, "{:#}", config::schema())?;
            Ok(Exit::Fine)
        }
    }
}

fn check(args: &FileArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Exit> {
    let checked = control::check(&args.config, process_environment, Arc::new(SystemClock));
    let (errors, warnings) = match &checked {
        Ok(checked) => (Vec::new(), checked.warnings.as_slice()),
        Err(errors) => (errors.diagnostics(&args.config), &[][..]),
    };
    let code = if checked.is_ok() { Exit::Fine } else { Exit::CouldNotRun };
    if args.format == Format::Json {
        let list = |diagnostics: &[Diagnostic]| diagnostics.iter().map(to_json).collect::<Vec<_>>();
        let answer = json!({"valid": checked.is_ok(), "errors": list(&errors), "warnings": list(warnings)});
        writeln!(out, "{answer:#}")?;
        return Ok(code);
    }
    write_errors(&errors, err)?;
    for warning in warnings {
        let marked = Diagnostic { message: format!("warning: {}", warning.message), ..warning.clone() };
        writeln!(err, "{marked}")?;
    }
    if let Ok(checked) = &checked {
        writeln!(out, "{}", summary(args, &checked.config))?;
    }
    Ok(code)
}

fn show(args: &FileArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Exit> {
    match config::load(&args.config, &process_environment) {
        Ok(loaded) => {
            let format = match args.format {
                Format::Pretty => ShowFormat::Yaml,
                Format::Json => ShowFormat::Json,
            };
            out.write_all(config::show(&loaded, format).as_bytes())?;
            Ok(Exit::Fine)
        }
        Err(errors) => {
            write_errors(errors.diagnostics(), err)?;
            Ok(Exit::CouldNotRun)
        }
    }
}

fn write_errors(errors: &[Diagnostic], err: &mut dyn Write) -> io::Result<()> {
    for error in errors {
        writeln!(err, "{error}")?;
    }
    if errors.len() > 1 {
        writeln!(err, "{}", counted(errors.len(), "error", "errors"))?;
    }
    Ok(())
}

fn summary(args: &FileArgs, config: &Config) -> String {
    let counts = [
        counted(config.listeners.len(), "listener", "listeners"),
        counted(config.apis.len(), "API", "APIs"),
        counted(config.policies.len(), "policy", "policies"),
        counted(config.upstreams.len(), "upstream", "upstreams"),
        counted(config.identity.len(), "identity provider", "identity providers"),
    ];
    format!("{} is valid: {}", args.config.display(), counts.join(", "))
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn to_json(diagnostic: &Diagnostic) -> serde_json::Value {
    json!({
        "file": diagnostic.file,
        "line": diagnostic.position.map(|position| position.line),
        "column": diagnostic.position.map(|position| position.column),
        "message": diagnostic.message,
        "help": diagnostic.help,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    const GOOD: &str = "
version: 1
listeners: [{name: local, address: 127.0.0.1:8080}]
upstreams: {app: {endpoints: [\"http://127.0.0.1:9000\"]}, spare: {endpoints: [\"http://127.0.0.1:9001\"]}}
policies: {main: {bundle: .}}
apis: [{name: app, policy: main, upstream: app}]
";

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ConfigArgs,
    }

    /// Runs a command line on a file, and gives its exit code, standard output and standard error.
    fn command(text: &str, words: &[&str]) -> (Exit, String, String) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        std::fs::write(&file, text).unwrap();
        std::fs::write(directory.path().join("main.rego"), "package gateway\n\ndecision := true\n").unwrap();
        let path = file.to_str().unwrap();
        let words = ["config"].iter().chain(words).map(|word| if *word == "FILE" { path } else { word });
        let line = Line::try_parse_from(words).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&line.args, &mut out, &mut err).unwrap();
        let strip = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap().replace(&format!("{}/", directory.path().display()), "")
        };
        (code, strip(out), strip(err))
    }

    #[test]
    fn a_good_file_is_summed_up() {
        let (code, out, err) = command(GOOD, &["check", "--config", "FILE"]);
        assert_eq!(code, Exit::Fine);
        assert_eq!(
            out,
            "gateway.yaml is valid: 1 listener, 1 API, 1 policy, 2 upstreams, 0 identity providers\n"
        );
        let want = "gateway.yaml:4:58: warning: no API uses the upstream `spare`\n  help: take it out, unless a policy \
                    chooses it\n";
        assert_eq!(err, want);
    }

    #[test]
    fn the_faults_of_a_bad_file_go_to_standard_error() {
        let bad = GOOD.replace("policy: main", "policy: mian").replace("version: 1", "version: 2");
        let (code, out, err) = command(&bad, &["check", "--config", "FILE"]);
        assert_eq!((code, out.as_str()), (Exit::CouldNotRun, ""));
        let want = "gateway.yaml:2:10: `version` must be 1, not `2`\n  help: this gateway reads no other\n\
                    gateway.yaml:6:28: unknown policy `mian`\n  help: did you mean `main`?\n2 errors\n";
        assert_eq!(err, want);
        assert_eq!(
            command(&bad, &["show", "--config", "FILE"]),
            (Exit::CouldNotRun, String::new(), want.to_owned())
        );
    }

    #[test]
    fn programs_get_json_with_the_same_exit_code() {
        let (code, out, err) = command(
            &GOOD.replace("policy: main", "policy: mian"),
            &["check", "--config", "FILE", "--format", "json"],
        );
        assert_eq!((code, err.as_str()), (Exit::CouldNotRun, ""));
        let mut answer: serde_json::Value = serde_json::from_str(&out).unwrap();
        answer["errors"][0]["file"].take();
        let error = json!({"file": null, "line": 6, "column": 28, "message": "unknown policy `mian`", "help": "did you mean `main`?"});
        assert_eq!(answer, json!({"valid": false, "errors": [error], "warnings": []}));
        let (code, out, _) = command(GOOD, &["check", "--config", "FILE", "--format", "json"]);
        let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (code, &answer["valid"], answer["warnings"].as_array().unwrap().len()),
            (Exit::Fine, &json!(true), 1)
        );
    }

    #[test]
    fn what_is_shown_hides_secrets() {
        let text = GOOD.replace("version: 1", "version: 1\nlabels: {a: \"${file:gateway.yaml}\"}");
        let (code, out, err) = command(&text, &["show", "--config", "FILE"]);
        assert_eq!((code, err.as_str()), (Exit::Fine, ""));
        assert!(out.contains("  a: \"[secret]\"\n"), "{out}");
        let (_, out, _) = command(&text, &["show", "--config", "FILE", "--format", "json"]);
        let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(shown["labels"]["a"], "[secret]");
    }

    #[test]
    fn the_schema_is_printed() {
        let (code, out, _) = command("", &["schema"]);
        let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &schema["title"]), (Exit::Fine, &json!("Postern gateway configuration")));
    }

    #[test]
    fn the_file_has_a_default() {
        let ConfigCommand::Check(args) = Line::try_parse_from(["config", "check"]).unwrap().args.command
        else {
            panic!("check is parsed");
        };
        assert_eq!((args.config.as_path(), args.format), (Path::new("gateway.yaml"), Format::Pretty));
    }
}
