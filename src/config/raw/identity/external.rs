//! Authentication by a service of one's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::policy::ClientTls;
use crate::config::raw::quantity::Duration;

/// An HTTP service that says who sends a request, asked as Envoy's `ext_authz` asks it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct External {
    /// Where the service is asked; `http` is allowed on loopback only. Example: `http://127.0.0.1:7000/check`.
    pub(crate) url: String,
    /// Whether the request's path and query are appended to the path of `url`, as Envoy does it with its `path_prefix`.
    /// Default `true`.
    #[serde(default = "yes")]
    pub(crate) append_path: bool,
    /// The request's headers that the service gets, besides `Host`; no other is ever sent. Example:
    /// `[authorization, cookie]`.
    #[schemars(length(min = 1))]
    pub(crate) forward: Vec<String>,
    /// Which requests the service is asked about. Default `credential`.
    #[serde(default)]
    pub(crate) asked: Asked,
    /// The longest wait for an answer, `10ms` to `5s`. Default `1s`.
    #[serde(default = "default_timeout")]
    pub(crate) timeout: Duration,
    /// Which headers of the service's answer become the fields of the identity.
    #[serde(default)]
    pub(crate) identity: Fields,
    /// Headers of the service's answer that become `identity.attributes`, by their names in lower case. Default none.
    /// Example: `[x-department]`.
    #[serde(default)]
    pub(crate) attributes: Vec<String>,
    /// Headers of a refusal that the client gets, besides `Content-Type`, `Location` and `WWW-Authenticate`. Default none.
    /// Example: `[set-cookie]`.
    #[serde(default)]
    pub(crate) client_headers: Vec<String>,
    /// Which answers are remembered. Default none: the service is asked about each request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<Cache>,
    /// A PEM file with the issuers trusted for the service's certificate. Default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// A certificate that the gateway shows to the service. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_tls: Option<ClientTls>,
    /// Whether the upstream gets the first header of `forward`. Default `true`.
    #[serde(default = "yes")]
    pub(crate) forward_credential: bool,
}

/// Which requests a service is asked about.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asked {
    /// Those that have one of the headers of `forward`; others are anonymous.
    #[default]
    Credential,
    /// Each.
    Always,
}

/// The headers of an answer that say who it is. Lists are separated by commas.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ExternalIdentity")]
pub(crate) struct Fields {
    /// The subject; an answer without this header is then no answer. Default none. Example: `x-auth-user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    /// The roles. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) roles: Option<String>,
    /// The groups. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) groups: Option<String>,
    /// The scopes. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scopes: Option<String>,
}

/// Which answers of a service are remembered, and how long.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ExternalCache")]
pub(crate) struct Cache {
    /// All that an answer depends on: names of headers in `forward`, `:method`, `:authority`, `:path` (with the query).
    /// Requests that agree in these get the same answer. Example: `[authorization]`.
    #[schemars(length(min = 1))]
    pub(crate) key: Vec<String>,
    /// How long a good answer is remembered, at most `1h`. Default `60s`.
    #[serde(default = "default_ttl")]
    pub(crate) ttl: Duration,
    /// How long a refusal is remembered, at most `1h`. Default `5s`.
    #[serde(default = "default_negative_ttl")]
    pub(crate) negative_ttl: Duration,
    /// How much longer a good answer serves while the service is down, at most `24h`; the identity is then marked
    /// `stale`. Default `0`: not at all.
    #[serde(default = "default_stale")]
    pub(crate) stale: Duration,
    /// How many answers are remembered, good ones and refusals apart. Default `10000`.
    #[serde(default = "default_entries")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) entries: u32,
}

fn yes() -> bool {
    true
}

fn default_timeout() -> Duration {
    Duration::new("1s")
}

fn default_ttl() -> Duration {
    Duration::new("60s")
}

fn default_negative_ttl() -> Duration {
    Duration::new("5s")
}

fn default_stale() -> Duration {
    Duration::new("0")
}

fn default_entries() -> u32 {
    10_000
}
