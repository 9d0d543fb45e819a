//! The gateway's own log: to stderr, human-readable or JSON, filtered by `RUST_LOG`.
//!
//! Decision events are no part of it (see `audit`); stdout belongs to answers and to the decision log.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` does not parse.
    #[error("`RUST_LOG` is no log filter; write a level such as `info`, or `postern=debug,warn`")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// A log was set up before.
    #[error("the log was set up twice in one process")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up the process's log: `level` and above unless `RUST_LOG` says otherwise.
pub fn init(format: Format, colour: Colour, level: LevelFilter) -> Result<(), LogError> {
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env()?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour == Colour::Always)
        // A log that cannot be written has nowhere to complain to.
        .log_internal_errors(false);
    match format {
        Format::Pretty => builder.with_target(false).finish().try_init()?,
        Format::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// Whether log lines are coloured; the caller knows the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// With escape sequences.
    Always,
    /// Plain text.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_set_up_once() {
        init(Format::Json, Colour::Never, LevelFilter::INFO).unwrap();
        assert!(matches!(init(Format::Pretty, Colour::Never, LevelFilter::INFO), Err(LogError::Twice(_))));
    }
}
