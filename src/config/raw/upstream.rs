//! Upstreams: pools of equal servers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::quantity::Duration;

/// A pool of equal servers.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    /// The servers, each `http://host[:port]` or `https://host[:port]` without a path. Example:
    /// `["http://127.0.0.1:9000"]`.
    #[schemars(length(min = 1))]
    pub(crate) endpoints: Vec<String>,
    /// How a server is chosen: `p2c`, the default, takes the less busy of two random ones; `round_robin` each in
    /// turn; `hash:HEADER` always the same one for the same value of that request header.
    #[serde(default = "default_balance")]
    pub(crate) balance: String,
    /// The protocol spoken to the servers. Default `http/1.1`.
    #[serde(default)]
    pub(crate) protocol: Protocol,
    /// How long the servers may take.
    #[serde(default)]
    pub(crate) timeouts: Timeouts,
    /// Second tries: after failed connects, and after 502, 503 and 504 to idempotent methods.
    #[serde(default)]
    pub(crate) retries: Retries,
    /// Active health checks. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<Health>,
    /// TLS to `https` endpoints.
    #[serde(default)]
    pub(crate) tls: Tls,
    /// Pass on the `Host` the client sent; otherwise the endpoint's own. Default `true`.
    #[serde(default = "default_preserve_host")]
    pub(crate) preserve_host: bool,
    /// Tell the servers the client's verified certificate in `Client-Cert` (RFC 9440). What a client sends under that name
    /// never gets there. Default `false`.
    #[serde(default)]
    pub(crate) forward_client_certificate: bool,
}

/// A protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "UpstreamProtocol")]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "http/1.1")]
    Http1,
    /// HTTP/2, with prior knowledge on `http` endpoints.
    #[serde(rename = "h2")]
    H2,
}

/// How long the servers may take.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Timeouts {
    /// For a connection, TLS included. Default `2s`.
    pub(crate) connect: Duration,
    /// From the end of the request to the response's head, and between two parts of its body. Default `15s`.
    pub(crate) response: Duration,
    /// How long an unused connection is kept. Default `60s`.
    pub(crate) idle: Duration,
}

/// Second tries.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retries {
    /// Tries after the first. Default `2`; `0` turns them off.
    #[schemars(range(min = 0, max = 10))]
    pub(crate) attempts: u32,
    /// Second tries allowed for each first one, so that they cannot flood a weak server. Default `0.2`: one for five.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(crate) budget: f64,
}

/// Active health checks.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    /// The path asked with GET; answers of 200 to 399 are healthy. Example: `/healthz`.
    pub(crate) path: String,
    /// The time between two checks. Default `5s`.
    #[serde(default = "default_interval")]
    pub(crate) interval: Duration,
    /// The time for one check. Default `2s`.
    #[serde(default = "default_check_timeout")]
    pub(crate) timeout: Duration,
    /// Failures in a row that take a server out. Default `3`.
    #[serde(default = "default_unhealthy_after")]
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) unhealthy_after: u32,
    /// Successes in a row that take it in again. Default `2`.
    #[serde(default = "default_healthy_after")]
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) healthy_after: u32,
}

/// TLS to the servers.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "UpstreamTls")]
pub(crate) struct Tls {
    /// A PEM file with the issuers trusted for the servers' certificates. Default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// A PEM file with the gateway's own certificate chain, for servers that ask for one. Needs `key`. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert: Option<String>,
    /// A PEM file with the private key of `cert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// The name the servers' certificates must hold. Default the endpoint's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_name: Option<String>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::new("2s"), response: Duration::new("15s"), idle: Duration::new("60s") }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 2, budget: 0.2 }
    }
}

fn default_balance() -> String {
    "p2c".to_owned()
}

fn default_preserve_host() -> bool {
    true
}

fn default_interval() -> Duration {
    Duration::new("5s")
}

fn default_check_timeout() -> Duration {
    Duration::new("2s")
}

fn default_unhealthy_after() -> u32 {
    3
}

fn default_healthy_after() -> u32 {
    2
}
