//! Policies: bundles and the rules asked of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::identity::Algorithm;
use crate::config::raw::quantity::{Duration, Share, Size};

/// A policy bundle and the rules that are asked for each request.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    /// A directory with `*.rego` files and their data, a packed bundle as `gatewayctl policy build` and `opa build` make
    /// it, or the URL of one: `https`, or `http` on this machine. Example: `policies`, `bundle.tar.gz`,
    /// `https://bundles.example/main.tar.gz`.
    pub(crate) bundle: String,
    /// How often the URL is asked for a new bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) polling: Option<Polling>,
    /// What the gateway shows to the server of the URL. Default nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) credentials: Option<Credentials>,
    /// A PEM file with the issuers trusted for the server's certificate. Default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// The largest archive that is fetched, at most `256MiB`. Default `64MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size_limit: Option<Size>,
    /// A directory where the last good bundle is kept, as `bundles/POLICY/bundle.tar.gz`, to start from while the server
    /// is down; each gateway needs its own. Default none: the gateway then starts only when the server answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) persist: Option<String>,
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
    /// The servers that the policy may ask with `http.send`. Default none: a policy that calls it is then refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http_send: Option<HttpSend>,
    /// The names that the policy may look up with `net.lookup_ip_addr`. Default none: a policy that calls it is then
    /// refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lookup: Option<Lookup>,
    /// What a failed evaluation means. Default `deny`.
    #[serde(default)]
    pub(crate) on_error: OnError,
    /// Run the bundle's own tests before it goes live, and refuse it if one fails. Default `true`.
    #[serde(default = "default_self_test")]
    pub(crate) self_test: bool,
    /// What evaluates: the decision plan where there is one, or the interpreter always, for diagnosis. Default `plan`.
    #[serde(default)]
    pub(crate) engine: Engine,
    /// A small share of the decisions made on the plan is made again on the interpreter, beside the requests, and compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verify: Option<Verify>,
    /// A candidate: evaluated beside this policy on real requests, never enforced. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shadow: Option<Shadow>,
    /// Decisions that each worker remembers at the most, for a policy whose decisions cost more than looking one up and
    /// depend on nothing but data and input; `0` remembers none. Default `1024`.
    #[serde(default = "default_decision_cache")]
    pub(crate) decision_cache: u32,
}

/// What evaluates a policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PolicyEngine")]
pub(crate) enum Engine {
    /// The decision plan; rules that it does not cover run on the interpreter.
    #[default]
    Plan,
    /// The interpreter.
    Interpreter,
}

/// How many decisions are verified on the interpreter.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Verify {
    /// The share of decisions. Default `0.1%`; `0%` turns it off.
    pub(crate) sample: Share,
    /// The time it may take, as a share of one processor, all workers together. Default `1%`.
    pub(crate) budget: Share,
}

/// A candidate policy that is evaluated beside the one in force. All else, the rules asked and who must have signed
/// included, is as for that one.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shadow {
    /// A directory with `*.rego` files and their data, a packed bundle, or the URL of one: `https`, or `http` on this
    /// machine. Example: `policies-next`, `https://bundles.example/next.tar.gz`.
    pub(crate) bundle: String,
    /// How often the URL is asked for a new candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) polling: Option<Polling>,
    /// What the gateway shows to the server of the URL; nothing is taken over from the policy's own. Default nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) credentials: Option<Credentials>,
    /// A PEM file with the issuers trusted for the server's certificate. Default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// The largest archive that is fetched, at most `256MiB`. Default `64MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size_limit: Option<Size>,
    /// A directory where the last good candidate is kept, as `shadows/POLICY/bundle.tar.gz`, for a start while the server is
    /// down; it may be the one of the policy's own bundle. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) persist: Option<String>,
    /// The share of requests that it is evaluated for. Default `100%`.
    #[serde(default = "default_shadow_sample")]
    pub(crate) sample: Share,
    /// The time it may take, as a share of one processor, all workers together; what does not fit is not evaluated, and
    /// counted. Default `5%`.
    #[serde(default = "default_shadow_budget")]
    pub(crate) budget: Share,
}

impl Default for Verify {
    fn default() -> Self {
        Self { sample: Share::new("0.1%"), budget: Share::new("1%") }
    }
}

/// How often the server of a bundle is asked for a new one.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BundlePolling")]
pub(crate) struct Polling {
    /// The shortest time between two requests, at least `100ms`. Default `60s`.
    pub(crate) min_delay: Duration,
    /// The longest time between two requests, failed ones included; each time is a random one between the two. Default
    /// `120s`.
    pub(crate) max_delay: Duration,
    /// How long the server may hold a request until there is a new bundle, `1s` to `10m`; only where the server's answers
    /// say that it can. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) long_polling_timeout: Option<Duration>,
}

/// What the gateway shows to a bundle's server.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BundleCredentials", extend("minProperties" = 1))]
pub(crate) struct Credentials {
    /// A token in `Authorization: Bearer`. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bearer: Option<Bearer>,
    /// A certificate in the TLS handshake. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_tls: Option<ClientTls>,
}

/// A bearer token (RFC 6750).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bearer {
    /// A file with the token, read for each request, so that it may be renewed at any time.
    pub(crate) token_file: String,
}

/// A client certificate.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BundleClientTls")]
pub(crate) struct ClientTls {
    /// A PEM file with the certificate chain.
    pub(crate) cert: String,
    /// A PEM file with its private key.
    pub(crate) private_key: String,
}

impl Default for Polling {
    fn default() -> Self {
        Self { min_delay: Duration::new("60s"), max_delay: Duration::new("120s"), long_polling_timeout: None }
    }
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

/// Whom a policy may ask with `http.send`, and within which bounds.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpSend {
    /// The servers, each as `HOST:PORT`; nothing is ever sent to another, by way of a redirect either. Example:
    /// `["inventory.internal:8443"]`.
    #[schemars(length(min = 1))]
    pub(crate) allow: Vec<String>,
    /// The longest that all requests of one decision may take together, `10ms` to `30s`; a request's own `timeout` can
    /// only be shorter. Default `1s`.
    #[serde(default = "default_outside_timeout")]
    pub(crate) timeout: Duration,
    /// The largest body of an answer, at most `16MiB`; a larger one is an error. Default `256KiB`.
    #[serde(default = "default_response_bytes")]
    pub(crate) response_bytes: Size,
    /// How many different requests one decision may send, at most 32; beyond it the decision fails. Default `8`.
    #[serde(default = "default_requests")]
    #[schemars(range(min = 1, max = 32))]
    pub(crate) requests: u32,
    /// How many requests of the policy may be under way at once; further ones wait. Default `64`.
    #[serde(default = "default_concurrent")]
    #[schemars(range(min = 1, max = 10_000))]
    pub(crate) concurrent: u32,
    /// The memory for answers that are kept because a request says `cache` or `force_cache`, at most `1GiB`. Default
    /// `8MiB`.
    #[serde(default = "default_cache_bytes")]
    pub(crate) cache_bytes: Size,
    /// A PEM file with the issuers trusted for the servers' certificates. Default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// A certificate that the gateway shows to servers that ask for one. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_tls: Option<ClientTls>,
}

/// Which names a policy may look up with `net.lookup_ip_addr`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lookup {
    /// The names. Example: `["inventory.internal"]`.
    #[schemars(length(min = 1))]
    pub(crate) allow: Vec<String>,
    /// The longest that all lookups of one decision may take together, `10ms` to `30s`. Default `1s`.
    #[serde(default = "default_outside_timeout")]
    pub(crate) timeout: Duration,
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

/// The largest archive that is fetched unless the file says otherwise.
pub(crate) fn default_size_limit() -> Size {
    Size::new("64MiB")
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

fn default_outside_timeout() -> Duration {
    Duration::new("1s")
}

fn default_response_bytes() -> Size {
    Size::new("256KiB")
}

fn default_requests() -> u32 {
    8
}

fn default_concurrent() -> u32 {
    64
}

fn default_cache_bytes() -> Size {
    Size::new("8MiB")
}

fn default_self_test() -> bool {
    true
}

fn default_shadow_sample() -> Share {
    Share::new("100%")
}

fn default_shadow_budget() -> Share {
    Share::new("5%")
}

fn default_decision_cache() -> u32 {
    1_024
}
