//! A real gateway in this process, on ports of its own, with its files in a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postern::server::gateway::{Gateway, StartError};
use tempfile::TempDir;

/// A running gateway; it drains when dropped.
pub(crate) struct TestGateway {
    directory: TempDir,
    gateway: Option<Gateway>,
}

/// A policy that allows everything.
pub(crate) const ALLOW_ALL: &str = "package gateway\n\ndecision := true\n";

impl TestGateway {
    /// Starts a gateway on `config` (the text of `gateway.yaml`), with `files` beside it. `{dir}` in the configuration
    /// stands for their directory. Listeners should use port 0.
    pub(crate) fn start(config: &str, files: &[(&str, &str)]) -> Self {
        match Self::try_start(config, files) {
            Ok(gateway) => gateway,
            Err(error) => panic!("the gateway does not start: {error}"),
        }
    }

    /// As [`TestGateway::start`], for configurations that may be refused.
    pub(crate) fn try_start(config: &str, files: &[(&str, &str)]) -> Result<Self, StartError> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write(&directory.path().join(name), text);
        }
        let path = directory.path().join("gateway.yaml");
        write(&path, &config.replace("{dir}", &directory.path().display().to_string()));
        let gateway = Gateway::start(&path, |_| None)?;
        Ok(Self { directory, gateway: Some(gateway) })
    }

    /// A file of the gateway.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a file of the gateway.
    pub(crate) fn write(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }

    /// Where a listener listens.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.running().address(listener).unwrap()
    }

    /// The running gateway.
    pub(crate) fn running(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    /// Drains and stops the gateway.
    pub(crate) fn stop(&mut self) {
        self.gateway.take().unwrap().shutdown();
    }

    /// The decision events in `decisions.jsonl`, once there are `count`.
    pub(crate) fn events(&self, count: usize) -> Vec<serde_json::Value> {
        let path = self.path("decisions.jsonl");
        eventually(&format!("{count} events"), || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            // The last line may be half written.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let events: Vec<_> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (events.len() >= count).then_some(events)
        })
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.shutdown();
        }
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Asks again and again until there is an answer; fails after ten seconds.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
