//! `gatewayctl run`: the gateway, until it is told to stop.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::level_filters::LevelFilter;

use crate::cli::output::Exit;
use crate::config::interpolate::process_environment;
use crate::server::drain::Cutter;
use crate::server::gateway::{Gateway, Reloader, StartError};
use crate::telemetry::log::{self, Colour, Format};

/// Run the gateway until SIGTERM or SIGINT, a second of which cuts the drain short; SIGHUP reloads.
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
            if matches!(error, StartError::Listen { .. }) {
                writeln!(notes, "hint: stop what listens there, or give the listener another address")?;
            }
            return Ok(Exit::CouldNotRun);
        }
    };
    let signals = Signals::catch()?;
    for (name, address) in gateway.listeners() {
        tracing::info!(listener = %name, %address, "Listening");
    }
    if let Some(address) = gateway.admin() {
        tracing::info!(%address, "Admin endpoint");
    }
    let signals = signals.wait(gateway.reloader());
    tracing::info!("Draining");
    signals.cut_short_when_told_again(gateway.cutter())?;
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

/// The signals that end or reload the gateway, already caught: once this exists, none takes its default course.
#[derive(Debug)]
pub(super) struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

// === impl Signals ===

impl Signals {
    /// Begins to catch the signals. To be called before anybody is told that the gateway is up.
    pub(super) fn catch() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hang_up = signal(SignalKind::hangup())?;
        drop(entered);
        Ok(Self { runtime, terminate, interrupt, hang_up })
    }

    /// Cuts the drain short at the next SIGTERM or SIGINT. Does not wait for it.
    pub(super) fn cut_short_when_told_again(self, cutter: Cutter) -> io::Result<()> {
        let Self { runtime, mut terminate, mut interrupt, .. } = self;
        let wait = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            tracing::warn!("Told again to end");
            cutter.cut_short();
        };
        // It ends with the process, whether the signal comes or not.
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
    }

    /// Waits for SIGTERM or SIGINT; SIGHUP reloads, and opens log files again.
    pub(super) fn wait(mut self, reloader: &Reloader) -> Self {
        let Self { runtime, terminate, interrupt, hang_up } = &mut self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return,
                    _ = interrupt.recv() => return,
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
        });
        self
    }
}
