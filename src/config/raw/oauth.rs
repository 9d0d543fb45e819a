//! Identity providers that are clients of an authorization server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::identity::{
    Algorithm, Claims, default_algorithms, default_forward_credential, default_leeway, default_token_header,
};
use crate::config::raw::policy::ClientTls;
use crate::config::raw::quantity::Duration;

/// Bearer tokens that the authorization server is asked about (RFC 7662).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Introspection {
    /// The introspection endpoint; `http` is allowed on loopback only. Example: `https://idp.example/token/introspection`.
    pub(crate) endpoint: String,
    /// The gateway's `client_id` at the authorization server.
    #[schemars(length(min = 1))]
    pub(crate) client_id: String,
    /// Its secret. Example: `${env:SECRET}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_secret: Option<String>,
    /// How the gateway authenticates. Default `client_secret_basic`, or `tls_client_auth` without a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_authentication: Option<ClientAuthentication>,
    /// A PEM file with the issuers trusted for the endpoint's certificate. Default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// The gateway's own certificate, for servers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_tls: Option<ClientTls>,
    /// The longest that an answer may take, at most `5s`. Default `2s`.
    #[serde(default = "default_timeout")]
    pub(crate) timeout: Duration,
    /// What `iss` of the answer must be. Default anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(crate) issuer: Option<String>,
    /// Values of which `aud` of the answer must hold one. Default anything: the authorization server then answers only for
    /// tokens that are meant for this client. Example: `[orders]`.
    #[serde(default)]
    #[schemars(inner(length(min = 1)))]
    pub(crate) audiences: Vec<String>,
    /// Which members of the answer become the fields of the identity.
    #[serde(default)]
    pub(crate) claims: Claims,
    /// The clock skew allowed for `exp`, `nbf` and `iat`, at most `10m`. Default `30s`.
    #[serde(default = "default_leeway")]
    pub(crate) leeway: Duration,
    /// The header that carries the token: `Authorization`, the default, with the `Bearer` scheme, any other the token
    /// alone.
    #[serde(default = "default_token_header")]
    pub(crate) header: String,
    /// Whether the upstream gets the header with the token. Where several providers of a route take a credential from one
    /// header, one that says `false` is enough. Default `true`.
    #[serde(default = "default_forward_credential")]
    pub(crate) forward_credential: bool,
    /// How long a good answer is remembered, but never beyond the token's `exp`: a token that is revoked may be good for so
    /// long still. At most `1h`, `0` for not at all. Default `30s`.
    #[serde(default = "default_cache")]
    pub(crate) cache: Duration,
    /// How long a refusal is remembered, at most `10m`. Default `10s`.
    #[serde(default = "default_negative_cache")]
    pub(crate) negative_cache: Duration,
    /// How much longer a good answer serves while the endpoint is down, but never beyond the token's `exp`; the policy sees
    /// `input.identity.stale`. At most `1h`. Default `0`: not at all.
    #[serde(default = "default_stale")]
    pub(crate) stale: Duration,
    /// Answers remembered at most. Default `10000`.
    #[serde(default = "default_entries")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) entries: u32,
}

/// How a client authenticates at its authorization server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientAuthentication {
    /// The secret in the `Authorization` header (RFC 6749 section 2.3.1).
    ClientSecretBasic,
    /// The secret in the form.
    ClientSecretPost,
    /// The certificate of `client_tls` (RFC 8705 section 2.1).
    TlsClientAuth,
    /// Not at all: a public client, for OpenID Connect alone.
    None,
}

/// Browsers that log in at an OpenID provider.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Oidc {
    /// The issuer, as its discovery document writes it; `http` is allowed on loopback only. Example: `https://idp.example`.
    #[schemars(length(min = 1))]
    pub(crate) issuer: String,
    /// The gateway's `client_id` at the provider.
    #[schemars(length(min = 1))]
    pub(crate) client_id: String,
    /// Its secret. Without one it is a public client. Example: `${env:SECRET}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_secret: Option<String>,
    /// How the gateway authenticates. Default `client_secret_basic`, or `none` without a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_authentication: Option<ClientAuthentication>,
    /// A PEM file with the issuers trusted for the provider's certificate. Default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// The gateway's own certificate, for providers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_tls: Option<ClientTls>,
    /// The longest that an answer of the provider may take, at most `5s`. Default `3s`.
    #[serde(default = "default_login_timeout")]
    pub(crate) timeout: Duration,
    /// Hosts on which the provider's endpoints may be, beside the issuer's own host and public names. Default none. Example:
    /// `[sso.internal]`.
    #[serde(default)]
    pub(crate) endpoint_hosts: Vec<String>,
    /// The path to which the provider sends browsers back, on every host of the APIs that use it; register it there as
    /// `https://HOST/oauth2/callback`. Default `/oauth2/callback`.
    #[serde(default = "default_redirect_path")]
    pub(crate) redirect_path: String,
    /// A path at which a browser can ask to log in; `?return_to=/path` says where it goes afterwards. Default none: a login
    /// begins where the policy denies an anonymous browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) login_path: Option<String>,
    /// The path at which a page of the same origin can end the session, here and at the provider. Default `/oauth2/logout`.
    #[serde(default = "default_logout_path")]
    pub(crate) logout_path: String,
    /// The path to which a browser comes after that. Default `/`.
    #[serde(default = "default_post_logout_path")]
    pub(crate) post_logout_path: String,
    /// The path at which the provider tells of logouts (OpenID Connect Back-Channel Logout 1.0). Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backchannel_logout_path: Option<String>,
    /// The `scope` of the login; `openid` must be among them, and many providers give a refresh token for `offline_access`
    /// only. Default `[openid]`.
    #[serde(default = "default_scopes")]
    #[schemars(length(min = 1), inner(length(min = 1)), extend("uniqueItems" = true))]
    pub(crate) scopes: Vec<String>,
    /// The signature algorithms accepted for ID tokens and logout tokens, public-key ones. Default `[RS256, ES256]`.
    #[serde(default = "default_algorithms")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub(crate) algorithms: Vec<Algorithm>,
    /// Which claims become the fields of the identity.
    #[serde(default)]
    pub(crate) claims: Claims,
    /// Whether claims are also taken from the provider's user info endpoint. Default `false`.
    #[serde(default)]
    pub(crate) user_info: bool,
    /// The clock skew allowed for `exp`, `nbf` and `iat`, at most `10m`. Default `30s`.
    #[serde(default = "default_leeway")]
    pub(crate) leeway: Duration,
    /// How often the discovery document and the keys are fetched again, at least `1s`. Default `5m`.
    #[serde(default = "super::identity::default_refresh")]
    pub(crate) refresh: Duration,
    /// Sessions of browsers.
    #[serde(default)]
    pub(crate) session: Session,
}

/// Sessions of browsers.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Session {
    /// Secrets of at least 32 characters with which cookies are sealed: the first one seals, all of them open, so that a new one
    /// can be put before an old one. Gateways that serve the same hosts need the same. Default a random one that lives as long as
    /// the process: a restart ends all sessions. Example: `["${file:session.key}"]`.
    #[schemars(length(max = 5), inner(length(min = 1)))]
    pub(crate) keys: Vec<String>,
    /// How long a session lasts after its login, whatever happens; at most `30d`. Default `8h`.
    pub(crate) lifetime: Duration,
    /// How long it lasts without a request; at most its lifetime. Default `1h`.
    pub(crate) idle: Duration,
    /// Whether requests that change something (any method but GET, HEAD and OPTIONS, and WebSocket handshakes) must prove by
    /// `Sec-Fetch-Site` or `Origin` that a page of the same origin sends them; others are a bad credential. Default `true`.
    pub(crate) require_same_origin: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            lifetime: Duration::new("8h"),
            idle: Duration::new("1h"),
            require_same_origin: true,
        }
    }
}

fn default_timeout() -> Duration {
    Duration::new("2s")
}

fn default_login_timeout() -> Duration {
    Duration::new("3s")
}

fn default_cache() -> Duration {
    Duration::new("30s")
}

fn default_negative_cache() -> Duration {
    Duration::new("10s")
}

fn default_stale() -> Duration {
    Duration::new("0s")
}

fn default_entries() -> u32 {
    10_000
}

fn default_redirect_path() -> String {
    "/oauth2/callback".to_owned()
}

fn default_logout_path() -> String {
    "/oauth2/logout".to_owned()
}

fn default_post_logout_path() -> String {
    "/".to_owned()
}

fn default_scopes() -> Vec<String> {
    vec!["openid".to_owned()]
}
