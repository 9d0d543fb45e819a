//! The configuration file: raw form, validation with all errors at once, and validated types.
//!
//! The way of a file: `yaml` reads it into a tree that knows its places, `interpolate` puts in the environment and
//! other files, `unbuilt` and `schema` check its shape, `raw` holds it typed, and `check` makes `model` of it. No step
//! stops the next one, so that one run shows every fault. Nothing here may show what was put in: it is secret.

mod check;
pub mod diagnostic;
pub mod interpolate;
pub mod model;
mod place;
mod raw;
mod report;
mod schema;
mod show;
pub(crate) mod suggest;
mod unbuilt;
pub(crate) mod yaml;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use aws_lc_rs::digest;
use serde_json::Value;

use crate::config::diagnostic::{ConfigErrors, Diagnostic};
use crate::config::interpolate::Sources;
use crate::config::model::Config;
use crate::config::report::Report;
use crate::config::show::Effective;

/// Bytes of a configuration file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What the raw form cannot be read without.
const REQUIRED: [&str; 3] = ["version", "listeners", "apis"];

/// A configuration that is free of faults.
#[derive(Debug)]
pub struct Loaded {
    /// The validated configuration.
    pub config: Config,
    /// What is allowed, but hardly meant.
    pub warnings: Vec<Diagnostic>,
    effective: Effective,
}

/// How [`show`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShowFormat {
    /// YAML, keys in the order of the documentation.
    Yaml,
    /// JSON, keys sorted.
    Json,
}

/// Loads the file at `path`, with all its faults if it has any. `environment` looks up the variables of `${env:NAME}`.
pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigErrors> {
    let text = read(path).map_err(|message| fatal(path, None, message, None))?;
    parse(path, &text, environment)
}

/// As [`load`], for a text that is not, or not yet, in the file.
pub fn parse(
    path: &Path,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, ConfigErrors> {
    let (mut root, faults) = yaml::parse(text)
        .map_err(|fault| fatal(path, Some(fault.position), fault.message, Some(fault.help.to_owned())))?;
    let file = std::path::absolute(path)
        .map_err(|error| fatal(path, None, format!("cannot find its directory: {error}"), None))?;
    let mut report = Report::default();
    for fault in faults {
        report.error_with(report::At::Position(fault.position), fault.message, fault.help);
    }
    let directory = file.parent().unwrap_or(&file);
    let files = interpolate::apply(&mut root, &Sources { directory, environment }, &mut report);
    let mut document = root.to_value();
    refuse_nulls(&mut root, &mut report);
    unbuilt::check(&root, &mut report);
    schema::check(&root, &document, &mut report);
    for place in report.discarded() {
        place.remove_from(&mut document);
    }
    let written = written(document, &mut report);
    let source = check::Source { file: &file, revision: revision(text), files };
    let config = written.as_ref().map(|written| check::check(written, &root, source, &mut report));
    let (errors, warnings) = report.finish(path, &root);
    match (written, config) {
        (Some(written), Some(Ok(config))) if errors.is_empty() => {
            let effective = Effective::of(written, &config, &root);
            Ok(Loaded { config, warnings, effective })
        }
        (Some(_) | None, Some(_) | None) => Err(ConfigErrors::new(errors)),
    }
}

/// The JSON Schema of the file, draft 2020-12.
pub fn schema() -> &'static Value {
    schema::schema()
}

/// The configuration with its defaults filled in. What came from the environment or another file shows as `[secret]`.
pub fn show(loaded: &Loaded, format: ShowFormat) -> String {
    match format {
        ShowFormat::Yaml => loaded.effective.to_yaml(),
        ShowFormat::Json => loaded.effective.to_json(),
    }
}

/// The first twelve digits of the text's SHA-256, as in the revision of a bundle.
fn revision(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(6).fold(String::new(), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn fatal(
    path: &Path,
    position: Option<diagnostic::Position>,
    message: String,
    help: Option<String>,
) -> ConfigErrors {
    ConfigErrors::new(vec![Diagnostic { file: path.to_owned(), position, message, help }])
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read the configuration: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("the configuration is longer than 4MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "the configuration is not UTF-8".to_owned())
}

/// A key without a value rarely means what it does: `allow_from:` would let everyone in.
fn refuse_nulls(root: &mut yaml::Node, report: &mut Report) {
    root.visit_scalars(&place::Place::root(), &mut |place, _, scalar| {
        if scalar.value.is_null() {
            let (message, help) = match place.steps().last() {
                Some(place::Step::Key(key)) => {
                    (format!("`{}` has no value", yaml::quotable(key)), "give it one, or leave the key out")
                }
                Some(place::Step::Index(_)) => {
                    ("an item without a value".to_owned(), "give it one, or leave it out")
                }
                None => ("the file has no value".to_owned(), "a configuration begins with `version: 1`"),
            };
            let reported = report.error_with(place, message, help);
            report.discard(place.clone(), reported);
        }
    });
}

/// The typed form, as much as can be read of it.
fn written(mut document: Value, report: &mut Report) -> Option<raw::Gateway> {
    if let Value::Object(mapping) = &mut document {
        for key in REQUIRED {
            mapping.entry(key).or_insert(Value::Null);
        }
    }
    let written = serde_json::from_value(document);
    if written.is_err() && !report.has_errors() {
        // The schema lets nothing else through; if it did, the gateway must not start.
        report.error(&place::Place::root(), "does not fit the schema");
    }
    written.ok()
}
