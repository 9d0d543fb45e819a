//! Policies: bundles and the rules asked of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::identity::Algorithm;
use crate::config::raw::quantity::Duration;

/// A policy bundle and the rules that are asked for each request.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    /// A directory with `*.rego` files and their data, or a packed bundle as `gatewayctl policy build` and `opa build`
    /// make it. Example: `policies`, `bundle.tar.gz`.
    pub(crate) bundle: String,
    /// Who must have signed the bundle. Default nobody; a bundle that is signed all the same is then refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signing: Option<Signing>,
    /// The rule asked for each request, as a path. Default `gateway/decision`, which is `data.gateway.decision`.
    #[serde(default = "default_decision")]
    pub(crate) decision: String,
    /// The rule asked again when the upstream has answered. Default none; not with `contract: envoy/v3`. Example:
    /// `gateway/response`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<String>,
    /// The form of the input and the result. Default `gateway/v1`.
    #[serde(default)]
    pub(crate) contract: Contract,
    /// The time for one evaluation, at most `10s`; beyond it the request fails closed. Default `5ms`.
    #[serde(default = "default_budget")]
    pub(crate) budget: Duration,
    /// What a failed evaluation means. Default `deny`.
    #[serde(default)]
    pub(crate) on_error: OnError,
    /// Run the bundle's own tests before it goes live, and refuse it if one fails. Default `true`.
    #[serde(default = "default_self_test")]
    pub(crate) self_test: bool,
}

/// Whose signature a bundle must carry, as in OPA's `signing` and `keys`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signing {
    /// The keys that may have signed, by id.
    #[schemars(length(min = 1))]
    pub(crate) keys: BTreeMap<String, SigningKey>,
    /// The id of the key that must have signed. Default the one that the signature names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keyid: Option<String>,
    /// The scope that the signature must state. Default that of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    /// Patterns of files that need not be signed. Default none. Example: `["tenants/*/data.json"]`.
    #[serde(default)]
    pub(crate) exclude_files: Vec<String>,
}

/// A key that verifies signatures of bundles.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SigningKey {
    /// The algorithm the key is for. Default `RS256`.
    #[serde(default = "default_algorithm")]
    pub(crate) algorithm: Algorithm,
    /// A file with the public key in PEM; for an HMAC algorithm the secret itself.
    pub(crate) file: String,
    /// The scope the key signs for. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
}

/// The form of a policy's input and result.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
pub(crate) enum Contract {
    /// Postern's own.
    #[default]
    #[serde(rename = "gateway/v1")]
    GatewayV1,
    /// That of opa-envoy-plugin, for policies written for OPA beside Envoy. `input.gateway` is Postern's own beside it.
    #[serde(rename = "envoy/v3")]
    EnvoyV3,
}

/// What a failed evaluation means.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnError {
    /// The request is answered with 503.
    #[default]
    Deny,
    /// The request passes, and its decision event is marked `fail_open`.
    Allow,
}

fn default_algorithm() -> Algorithm {
    Algorithm::RS256
}

fn default_decision() -> String {
    "gateway/decision".to_owned()
}

fn default_budget() -> Duration {
    Duration::new("5ms")
}

fn default_self_test() -> bool {
    true
}
