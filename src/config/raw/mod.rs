//! The configuration as it is written: what serde reads and what the JSON Schema describes.
//!
//! The doc comments of these types are the user's documentation. What is not built has no place here, so that nobody
//! can write it; `config::unbuilt` tells why. Nothing runs on these types: `config::check` makes
//! [`crate::config::model`] of them.

pub(super) mod api;
pub(super) mod identity;
pub(super) mod listener;
pub(super) mod oauth;
pub(super) mod part;
pub(super) mod policy;
pub(super) mod quantity;
pub(super) mod upstream;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::api::Api;
use crate::config::raw::identity::Provider;
use crate::config::raw::listener::Listener;
use crate::config::raw::part::Part;
use crate::config::raw::policy::Policy;
use crate::config::raw::quantity::{Duration, Name, Size};
use crate::config::raw::upstream::Upstream;

/// A Postern gateway: its front doors, who may be asked, what decides, and where requests go.
///
/// Relative paths are relative to this file. Any string may hold `${env:NAME}` (an environment variable) or
/// `${file:PATH}` (the text of a file, without its last line break); a plain `${` is written `$${`. Sizes are written
/// as `64KiB` or `1MiB`, durations as `250ms`, `10s` or `5m`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Postern gateway configuration")]
pub(super) struct Gateway {
    /// The version of this format: `1`.
    #[schemars(extend("const" = 1))]
    pub(super) version: Part<u32>,
    /// Names and values that appear in every decision event and as `opa.runtime().config.labels` in policies. Default
    /// none. Example: `{app: orders, region: eu-1}`.
    #[serde(default)]
    pub(super) labels: Part<BTreeMap<String, String>>,
    /// The number of worker threads. Default one per core the process may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub(super) workers: Option<Part<u32>>,
    /// The front doors of the gateway, at least one.
    #[schemars(length(min = 1))]
    pub(super) listeners: Part<Vec<Part<Listener>>>,
    /// Identity providers by name. An API lists the ones it accepts. Default none.
    #[serde(default)]
    pub(super) identity: Part<BTreeMap<Name, Part<Provider>>>,
    /// The servers that requests are passed on to, by name.
    #[serde(default)]
    pub(super) upstreams: Part<BTreeMap<Name, Part<Upstream>>>,
    /// The policies that decide, by name.
    #[serde(default)]
    pub(super) policies: Part<BTreeMap<Name, Part<Policy>>>,
    /// The APIs the gateway serves, at least one.
    #[schemars(length(min = 1))]
    pub(super) apis: Part<Vec<Part<Api>>>,
    /// Where the counters of rate limits live. Default in memory.
    #[serde(default)]
    pub(super) limits: Part<Limits>,
    /// Where decision events go. Default `[{type: stdout}]`; `[]` writes none.
    #[serde(default = "default_decision_logs")]
    pub(super) decision_logs: Part<Vec<Part<DecisionLog>>>,
    /// Metrics.
    #[serde(default)]
    pub(super) telemetry: Part<Telemetry>,
    /// The admin endpoint: `/health`, `/ready`, `/metrics`, `/status`. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin: Option<Part<Admin>>,
    /// How changes of this file and of what it names are taken up.
    #[serde(default)]
    pub(super) reload: Part<Reload>,
    /// How long a gateway that is told to stop waits for requests in flight. Default `30s`.
    #[serde(default = "default_drain_timeout")]
    pub(super) drain_timeout: Part<Duration>,
}

/// Where the counters of rate limits live.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "LimitStore")]
pub(super) struct Limits {
    /// The store. `memory`, the default, counts in this process, so each gateway counts for itself.
    pub(super) store: Store,
    /// How many counters are kept at most; beyond it the stalest are dropped. Default `100000`.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub(super) keys: u32,
}

/// A store of counters.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Store {
    /// In this process.
    Memory,
}

/// One destination of decision events.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum DecisionLog {
    /// Standard output, one JSON object a line.
    Stdout(StdoutLog),
    /// A file, one JSON object a line.
    File(FileLog),
}

/// Decision events on standard output.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StdoutLog {}

/// Decision events in a file.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileLog {
    /// The file; events are appended. Its directory must exist. Example: `decisions.jsonl`.
    pub(super) path: String,
}

/// What the gateway tells about itself.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Telemetry {
    /// Serve `/metrics` in the Prometheus text format on the admin endpoint. Default `true`.
    pub(super) metrics: bool,
}

/// The admin endpoint.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// A loopback address and a port. Example: `127.0.0.1:9901`.
    pub(super) address: String,
    /// Answer `GET /explain/ID` for recent decisions. Default no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) explain: Option<Explain>,
}

/// Which decisions can be explained by their id.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Explain {
    /// How many decisions each worker keeps. Default `1000`.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) recent: u32,
    /// How large they may be in all, for each worker, as events without secrets; `64KiB` to `1GiB`. Default `8MiB`.
    pub(super) size_limit: Size,
}

impl Default for Explain {
    fn default() -> Self {
        Self { recent: 1000, size_limit: Size::new("8MiB") }
    }
}

/// How changes are taken up.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Reload {
    /// Reload when this file or one that it names changes. Default `true`; SIGHUP reloads either way.
    pub(super) watch: bool,
    /// How many earlier snapshots are kept to go back to. Default `5`.
    #[schemars(range(min = 0, max = 100))]
    pub(super) history: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { store: Store::Memory, keys: 100_000 }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { metrics: true }
    }
}

impl Default for Reload {
    fn default() -> Self {
        Self { watch: true, history: 5 }
    }
}

fn default_decision_logs() -> Part<Vec<Part<DecisionLog>>> {
    Part::new(vec![Part::new(DecisionLog::Stdout(StdoutLog {}))])
}

fn default_drain_timeout() -> Part<Duration> {
    Part::new(Duration::new("30s"))
}
