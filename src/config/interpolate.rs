//! Replaces `${env:NAME}` and `${file:PATH}` in the strings of a configuration.
//!
//! A replaced value is a secret: it is marked in the tree, and no message shows it. The value is not looked into
//! again, so that a variable cannot name a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::place::Place;
use crate::config::report::Report;
use crate::config::yaml::{Node, quotable};

/// Bytes of a file or a variable that may be put in.
const VALUE_BYTES_MAX: u64 = 64 * 1024;

/// Reads a variable of the process's environment, if it is set and UTF-8.
pub fn process_environment(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var(name).ok()
}

/// A reference that could not be replaced.
#[derive(Debug, thiserror::Error)]
pub(super) enum InterpolationError {
    /// `${` without `}`.
    #[error("`${{` without a closing `}}`")]
    Unclosed,
    /// Neither `env:` nor `file:`.
    #[error("unknown reference `${{{0}}}`")]
    UnknownReference(String),
    /// No such variable.
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
    /// The file could not be read.
    #[error("cannot read `{path}`: {source}")]
    File {
        /// The file as written.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The value is too long.
    #[error("the value of `{0}` is longer than 64KiB")]
    TooLong(String),
}

impl InterpolationError {
    fn help(&self) -> &'static str {
        match self {
            Self::Unclosed | Self::UnknownReference(_) => {
                "write `${env:NAME}` or `${file:PATH}`; a plain `${` is written `$${`"
            }
            Self::Unset(_) => "set it for the gateway's process",
            Self::File { .. } => "the path is relative to the configuration file",
            Self::TooLong(_) => "check that it is the value you mean",
        }
    }
}

/// Where references lead.
pub(super) struct Sources<'a> {
    /// The directory of the configuration file.
    pub(super) directory: &'a Path,
    /// Looks up a variable.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
}

/// Replaces the references in all strings below `root`, and gives the files that were read.
pub(super) fn apply(root: &mut Node, sources: &Sources<'_>, report: &mut Report) -> Vec<PathBuf> {
    let mut files = Vec::new();
    root.visit_scalars(&Place::root(), &mut |place, _, scalar| {
        let Value::String(text) = &scalar.value else { return };
        match expand(text, sources, &mut files) {
            Ok(Some(expanded)) => {
                scalar.interpolated = expanded.foreign;
                scalar.value = Value::String(expanded.text);
            }
            Ok(None) => {}
            Err(error) => {
                let reported = report.error_with(place, error.to_string(), error.help());
                report.settle(place.clone(), reported);
            }
        }
    });
    files
}

/// A text with its references replaced.
#[derive(Debug, PartialEq, Eq)]
struct Expanded {
    text: String,
    /// Something in it came from elsewhere.
    foreign: bool,
}

/// Replaces the references of one text; `None` if there is nothing to replace.
fn expand(
    text: &str,
    sources: &Sources<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<Option<Expanded>, InterpolationError> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut expanded = Expanded { text: String::with_capacity(text.len()), foreign: false };
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            expanded.text += before;
            expanded.text += "${";
            rest = after;
            continue;
        }
        expanded.text += before;
        let (reference, after) = after.split_once('}').ok_or(InterpolationError::Unclosed)?;
        expanded.text += &resolve(reference, sources, files)?;
        expanded.foreign = true;
        rest = after;
    }
    expanded.text += rest;
    Ok(Some(expanded))
}

fn resolve(
    reference: &str,
    sources: &Sources<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<String, InterpolationError> {
    if let Some(name) = reference.strip_prefix("env:").filter(|name| is_variable(name)) {
        let value = (sources.environment)(name).ok_or_else(|| InterpolationError::Unset(name.to_owned()))?;
        if value.len() as u64 > VALUE_BYTES_MAX {
            return Err(InterpolationError::TooLong(quotable(name)));
        }
        Ok(value)
    } else if let Some(path) = reference.strip_prefix("file:").filter(|path| !path.is_empty()) {
        let file = sources.directory.join(path);
        let text = read(&file, path)?;
        files.push(file);
        Ok(text)
    } else {
        Err(InterpolationError::UnknownReference(quotable(reference)))
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn read(file: &Path, shown: &str) -> Result<String, InterpolationError> {
    let failed = |source| InterpolationError::File { path: quotable(shown), source };
    let mut text = String::new();
    File::open(file)
        .and_then(|opened| opened.take(VALUE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > VALUE_BYTES_MAX {
        return Err(InterpolationError::TooLong(quotable(shown)));
    }
    let length = text.strip_suffix('\n').map_or(text.len(), |cut| cut.strip_suffix('\r').unwrap_or(cut).len());
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment(name: &str) -> Option<String> {
        (name == "NAME").then(|| "value".to_owned())
    }

    #[track_caller]
    fn check(text: &str, want: Result<Option<&str>, &str>) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("pw"), "hunter2\n").unwrap();
        std::fs::write(directory.path().join("crlf"), "a\n\nb\r\n").unwrap();
        std::fs::write(directory.path().join("nested"), "${env:NAME}").unwrap();
        let sources = Sources { directory: directory.path(), environment: &environment };
        let got = expand(text, &sources, &mut Vec::new());
        let got = got.map(|expanded| expanded.map(|expanded| expanded.text)).map_err(|error| error.to_string());
        let got = got.as_ref().map(Option::as_deref).map_err(String::as_str);
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn references_are_replaced() {
        check("plain $NAME {x}", Ok(None));
        check("${env:NAME}", Ok(Some("value")));
        check("a${env:NAME}b${env:NAME}", Ok(Some("avaluebvalue")));
        check("${file:pw}", Ok(Some("hunter2")));
        check("${file:crlf}", Ok(Some("a\n\nb")));
    }

    #[test]
    fn what_was_put_in_is_not_looked_into() {
        check("${file:nested}", Ok(Some("${env:NAME}")));
    }

    #[test]
    fn a_doubled_dollar_escapes() {
        check("$${env:NAME}", Ok(Some("${env:NAME}")));
        check("$$${env:NAME}", Ok(Some("$${env:NAME}")));
        check("$$", Ok(None));
    }

    #[test]
    fn bad_references_are_refused() {
        check("${env:OTHER}", Err("the environment variable `OTHER` is not set"));
        check("${env:NAME", Err("`${` without a closing `}`"));
        check("${NAME}", Err("unknown reference `${NAME}`"));
        check("${env:}", Err("unknown reference `${env:}`"));
        check("${env:A B}", Err("unknown reference `${env:A B}`"));
        check("${file:}", Err("unknown reference `${file:}`"));
        check("${file:absent}", Err("cannot read `absent`: No such file or directory (os error 2)"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[$a{}:env ]{0,40}") {
            let sources = Sources { directory: Path::new("."), environment: &environment };
            drop(expand(&text, &sources, &mut Vec::new()));
        }
    }
}
