//! `gatewayctl demo`: a gateway with everything it needs, and requests to try on it.

mod check;
mod feed;
mod token;
mod tour;
mod upstream;
mod workspace;

use std::error::Error as _;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tracing::level_filters::LevelFilter;

use crate::cli::demo::feed::Feed;
use crate::cli::demo::upstream::Upstream;
use crate::cli::demo::workspace::Workspace;
use crate::cli::output::{Exit, Paint};
use crate::cli::run::{self, LogFormat, Signals};
use crate::config::interpolate::process_environment;
use crate::server::gateway::{Gateway, StartError};

/// How often the decision log is looked at.
const FEED_INTERVAL: Duration = Duration::from_millis(100);

/// See it work: a gateway with an upstream, policies and credentials, and requests to try.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// The port to listen on, on the loopback address; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Send the requests and compare the answers, instead of waiting for yours
    #[arg(long)]
    pub check: bool,
}

/// Runs the command: until SIGTERM or SIGINT, or until all is checked.
pub fn run(
    args: &DemoArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    run::set_up_log(LogFormat::Pretty, LevelFilter::WARN)?;
    let upstream = Upstream::start().context("cannot start the demo's upstream")?;
    let workspace = Workspace::create(args.port, upstream.address())?;
    let gateway = match Gateway::start(&workspace.config(), process_environment) {
        Ok(gateway) => gateway,
        Err(error) => {
            writeln!(notes, "{}", explain(&error, args.port))?;
            return Ok(Exit::CouldNotRun);
        }
    };
    let address = gateway.address("demo").context("the demo's listener is not there")?;
    let ended = if args.check {
        check::run(address, &workspace, paint, out)
    } else {
        show(&gateway, address, &workspace, paint, out)
    };
    gateway.shutdown();
    ended
}

/// Prints the requests, and then each decision, until the process is told to stop.
fn show(
    gateway: &Gateway,
    address: SocketAddr,
    workspace: &Workspace,
    paint: Paint,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut feed = Feed::open(&workspace.path("decisions.jsonl"), paint)
        .context("cannot read the demo's decision log")?;
    let signals = Signals::catch()?;
    out.write_all(tour::introduction(address, gateway.admin(), workspace, paint).as_bytes())?;
    out.flush()?;
    let reloader = gateway.reloader().clone();
    let mut generation = reloader.shared().generation();
    let waiting = {
        let reloader = reloader.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || signals.wait(&reloader))?
    };
    while !waiting.is_finished() {
        std::thread::park_timeout(FEED_INTERVAL);
        feed.show(out)?;
        let now = reloader.shared().generation();
        if now != generation {
            generation = now;
            writeln!(out, "  {}", paint.doubtful("the new rules are in force"))?;
            out.flush()?;
        }
    }
    match waiting.join() {
        Ok(signals) => {
            signals.cut_short_when_told_again(gateway.cutter())?;
            Ok(Exit::Fine)
        }
        Err(_) => anyhow::bail!("the thread that waits for signals panicked"),
    }
}

fn explain(error: &StartError, port: u16) -> String {
    if let StartError::Listen { source, .. } = error
        && source.kind() == ErrorKind::AddrInUse
    {
        let other = if port == u16::MAX { 8080 } else { port.saturating_add(1) };
        return format!(
            "error: port {port} of 127.0.0.1 is in use\nhint: take another, such as `gatewayctl demo --port {other}`"
        );
    }
    let source = error.source().map(|source| format!(": {source}"));
    format!("error: {error}{}", source.unwrap_or_default())
}
