//! `gatewayctl run`: the gateway, until it is told to stop.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use crate::cli::output::Exit;
use crate::config::interpolate::process_environment;
use crate::server::gateway::{Gateway, Reloader};
use crate::telemetry::log::{self, Colour, Format};

/// Run the gateway until SIGTERM or SIGINT; SIGHUP reloads.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, value_name = "PATH", default_value = "gateway.yaml")]
    pub config: PathBuf,
    /// How the gateway's own log looks, on stderr
    #[arg(long, value_name = "FORMAT", default_value = "pretty")]
    pub log_format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people
    Pretty,
    /// One JSON object a line
    Json,
}

/// Runs the command. Returns when the gateway has drained.
pub fn run(args: &RunArgs, notes: &mut dyn Write) -> anyhow::Result<Exit> {
    set_up_log(args.log_format, LevelFilter::INFO)?;
    let gateway = match Gateway::start(&args.config, process_environment) {
        Ok(gateway) => gateway,
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            writeln!(notes, "error: {error}{}", source.unwrap_or_default())?;
            writeln!(notes, "hint: run `gatewayctl config check --config {}`", args.config.display())?;
            return Ok(Exit::CouldNotRun);
        }
    };
    for (name, address) in gateway.listeners() {
        tracing::info!(listener = %name, %address, "Listening");
    }
    if let Some(address) = gateway.admin() {
        tracing::info!(%address, "Admin endpoint");
    }
    wait(gateway.reloader())?;
    tracing::info!("Draining");
    gateway.shutdown();
    tracing::info!("Stopped");
    Ok(Exit::Fine)
}

/// Sets up the gateway's own log: `level` and above unless `RUST_LOG` says otherwise.
pub(super) fn set_up_log(format: LogFormat, level: LevelFilter) -> anyhow::Result<()> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = if io::stderr().is_terminal() && !no_color { Colour::Always } else { Colour::Never };
    let format = match format {
        LogFormat::Pretty => Format::Pretty,
        LogFormat::Json => Format::Json,
    };
    log::init(format, colour, level).context("cannot set up the log")
}

/// Waits for SIGTERM or SIGINT; SIGHUP reloads, and opens log files again.
pub(super) fn wait(reloader: &Reloader) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hang_up.recv() => {
                    let reloader = reloader.clone();
                    // A refused reload is logged, and the gateway goes on.
                    drop(tokio::task::spawn_blocking(move || {
                        reloader.reopen_logs();
                        reloader.reload()
                    }).await);
                }
            }
        }
    })
}
