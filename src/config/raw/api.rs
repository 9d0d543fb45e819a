//! APIs and their routes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::quantity::{Name, Size};

/// One version of one API.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Api {
    /// Its name. Example: `orders`.
    pub(crate) name: Name,
    /// Its version; several versions of one API stand side by side. Default none. Example: `v2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub(crate) version: Option<String>,
    /// The hosts it answers to, in lower case and without port; `*.example.com` stands for one more label. A request
    /// goes to the APIs that name its host, else to those with a matching `*`, else to those that answer to any, which
    /// is the default. Example: `[orders.example.com]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(crate) hosts: Option<Vec<String>>,
    /// The path all its routes begin with. Default `/`. Example: `/v2`.
    #[serde(default = "default_base_path")]
    pub(crate) base_path: String,
    /// Where in its life it is. Default active.
    #[serde(default)]
    pub(crate) lifecycle: Lifecycle,
    /// The names of the identity providers accepted, tried in this order. Default none: everyone is anonymous, and
    /// the policy decides.
    #[serde(default)]
    pub(crate) identity: Vec<String>,
    /// What a bad credential means. Default `reject`.
    #[serde(default)]
    pub(crate) on_bad_credential: BadCredential,
    /// Whether one of the providers must prove an identity, or all of them. With `all`, `input.identity` is that of the
    /// first provider listed, and `input.identity.all` holds each by its provider's name. Default `any`.
    #[serde(default)]
    pub(crate) require: Require,
    /// What a request without any credential means, where providers are listed. Default `allow`: it is anonymous, and
    /// the policy decides.
    #[serde(default)]
    pub(crate) anonymous: Anonymous,
    /// The name of the policy that decides.
    pub(crate) policy: String,
    /// The name of the upstream that requests go to, unless the policy chooses another.
    pub(crate) upstream: String,
    /// The routes. Default one that takes everything at and below the base path: `[{name: all, path: "/{*rest}"}]`.
    #[serde(default = "default_routes")]
    #[schemars(length(min = 1))]
    pub(crate) routes: Vec<Route>,
    /// Headers that only the gateway may set: they are removed from each request, `_` and `-` taken as one. A list
    /// here takes the place of the default, which holds the usual ones: `x-user`, `x-user-id`, `x-user-provider`,
    /// `x-roles`, `x-groups`, `x-scopes`, and those of other proxies and of TLS. Example: `[x-user, x-tenant]`.
    #[serde(default = "default_identity_headers")]
    pub(crate) identity_headers: Vec<String>,
}

/// Where in its life an API is.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Lifecycle {
    /// Default `active`.
    pub(crate) state: LifecycleState,
    /// Since when it is deprecated, a date or a time (RFC 3339), sent as `Deprecation` (RFC 9745). Example:
    /// `2026-01-31`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    /// When it will be gone, a date or a time (RFC 3339), sent as `Sunset` (RFC 8594).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sunset: Option<String>,
    /// A link to the version to move to, a path or an `https` URL, sent as `Link`. Example: `/v3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) successor: Option<String>,
    /// A link to documentation, sent as `Link`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) docs: Option<String>,
}

/// A state in the life of an API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LifecycleState {
    /// In use.
    #[default]
    Active,
    /// Still answered, with headers that say so.
    Deprecated,
    /// Answered with 410.
    Retired,
}

/// What a bad credential means.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BadCredential {
    /// The request is answered with 401.
    #[default]
    Reject,
    /// The policy is told in `input.identity.failure`, and decides.
    Fact,
}

/// How many of the providers must prove an identity.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Require {
    /// The first that finds its credential.
    #[default]
    Any,
    /// Each.
    All,
}

/// What a request without any credential means.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Anonymous {
    /// It is anonymous, and the policy decides.
    #[default]
    Allow,
    /// The request is answered with 401.
    Reject,
}

/// One route of an API.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// Its name, unique in the API. Example: `read-order`.
    pub(crate) name: Name,
    /// The path below the base path; `{name}` takes one segment, `{*name}` at the end the rest. Example:
    /// `/orders/{id}`.
    pub(crate) path: String,
    /// The methods, in upper case. Default any. Example: `[GET, HEAD]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(crate) methods: Option<Vec<String>>,
    /// The size of a request's body; beyond it 413. Default the listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body_bytes: Option<Size>,
    /// The names of the identity providers accepted here; `[]` accepts none. Default the API's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Vec<String>>,
    /// Pass on WebSocket upgrades. Default `false`.
    #[serde(default)]
    pub(crate) websocket: bool,
}

/// Headers by which proxies tell applications who somebody is.
const IDENTITY_HEADERS: [&str; 19] = [
    "x-user",
    "x-user-id",
    "x-user-provider",
    "x-roles",
    "x-groups",
    "x-scopes",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-remote-user",
    "remote-user",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-client-cert",
    "client-cert",
    "client-cert-chain",
    "x-forwarded-client-cert",
    "x-ssl-client-cert",
];

fn default_identity_headers() -> Vec<String> {
    IDENTITY_HEADERS.map(str::to_owned).to_vec()
}

fn default_routes() -> Vec<Route> {
    vec![Route {
        name: Name("all".to_owned()),
        path: "/{*rest}".to_owned(),
        methods: None,
        body_bytes: None,
        identity: None,
        websocket: false,
    }]
}

fn default_base_path() -> String {
    "/".to_owned()
}
