//! Policies: bundles and the rules asked of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::quantity::Duration;

/// A policy bundle and the rules that are asked for each request.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    /// A directory with `*.rego` files and their data. Example: `policies`.
    pub(crate) bundle: String,
    /// The rule asked for each request, as a path. Default `gateway/decision`, which is `data.gateway.decision`.
    #[serde(default = "default_decision")]
    pub(crate) decision: String,
    /// The rule asked again when the upstream has answered. Default none. Example: `gateway/response`.
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

/// The form of a policy's input and result.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
pub(crate) enum Contract {
    /// Postern's own.
    #[default]
    #[serde(rename = "gateway/v1")]
    GatewayV1,
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

fn default_decision() -> String {
    "gateway/decision".to_owned()
}

fn default_budget() -> Duration {
    Duration::new("5ms")
}

fn default_self_test() -> bool {
    true
}
