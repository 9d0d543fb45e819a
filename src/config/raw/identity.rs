//! Identity providers.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::config::raw::identity::external::External;
use crate::config::raw::identity::ldap::Ldap;
use crate::config::raw::oauth::{Introspection, Oidc};
use crate::config::raw::quantity::Duration;

pub(crate) mod external;
pub(crate) mod ldap;

/// A way to learn who sends a request.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Provider {
    /// JSON Web Tokens of one issuer (RFC 7519), as bearer tokens.
    Jwt(Jwt),
    /// API keys, stored as hashes in a file.
    ApiKey(ApiKey),
    /// Client certificates, proven in the TLS handshake.
    ClientCertificate(ClientCertificate),
    /// A directory that is asked by LDAP.
    Ldap(Ldap),
    /// Bearer tokens that the authorization server is asked about (RFC 7662).
    Introspection(Introspection),
    /// Browsers that log in at an OpenID provider.
    Oidc(Oidc),
    /// An authentication service that is asked over HTTP.
    External(External),
}

/// JSON Web Tokens of one issuer.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jwt {
    /// What the `iss` claim must be. Example: `https://idp.example`.
    #[schemars(length(min = 1))]
    pub(crate) issuer: String,
    /// Values of which the `aud` claim must hold one. Example: `[orders]`.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub(crate) audiences: Vec<String>,
    /// Where the issuer publishes its keys; `http` is allowed on loopback only. One of this, `discovery` and
    /// `jwks_file` is needed.
    /// Example: `https://idp.example/jwks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwks_uri: Option<String>,
    /// Whether the issuer's discovery document says where its keys are (OpenID Connect Discovery 1.0). `jwks_ca` and `refresh`
    /// are for it, too. Default `false`.
    #[serde(default)]
    pub(crate) discovery: bool,
    /// Hosts on which the keys may be, beside the issuer's own host and public names; for `discovery`. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) endpoint_hosts: Vec<String>,
    /// A file with the issuer's keys as a JSON Web Key Set (RFC 7517).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwks_file: Option<String>,
    /// A PEM file with the issuers trusted for the certificate of `jwks_uri` or of the issuer. Default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwks_ca: Option<String>,
    /// How often `jwks_uri` is fetched again, at least `1s`. Default `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refresh: Option<Duration>,
    /// The signature algorithms accepted. Public-key and HMAC algorithms are never mixed, and HMAC needs `jwks_file`.
    /// Default `[RS256, ES256]`.
    #[serde(default = "default_algorithms")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub(crate) algorithms: Vec<Algorithm>,
    /// Which claims become the fields of the identity.
    #[serde(default)]
    pub(crate) claims: Claims,
    /// The clock skew allowed for `exp`, `nbf` and `iat`, at most `10m`. Default `30s`.
    #[serde(default = "default_leeway")]
    pub(crate) leeway: Duration,
    /// What the token's `typ` header must be, for instance `at+jwt` (RFC 9068). Default `JWT`, `at+jwt` or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(crate) token_type: Option<String>,
    /// The header that carries the token: `Authorization`, the default, with the `Bearer` scheme, any other the token
    /// alone.
    #[serde(default = "default_token_header")]
    pub(crate) header: String,
    /// Whether the upstream gets the header with the token, and `DPoP`. Where several providers of a route take a credential
    /// from one header, one that says `false` is enough. Default `true`.
    #[serde(default = "default_forward_credential")]
    pub(crate) forward_credential: bool,
    /// Whether a token must be bound to a certificate or key of its holder (`cnf`, RFC 7800). A token that is bound is
    /// never accepted from anyone else, whatever this says. Default `optional`.
    #[serde(default)]
    pub(crate) binding: TokenBinding,
    /// Take tokens with the `DPoP` scheme and a proof of possession in the `DPoP` header (RFC 9449). `{}` for the defaults.
    /// Default not: a token bound to a key is then refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dpop: Option<Dpop>,
}

/// Whether tokens must be bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TokenBinding {
    /// Tokens of bearers are accepted too.
    #[default]
    Optional,
    /// Only tokens bound to a certificate or a key are accepted.
    Required,
}

/// Proofs of possession.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Dpop {
    /// How old a proof may be, from `1s` to `5m`. Each counts once. Default `60s`.
    pub(crate) proof_lifetime: Duration,
    /// The algorithms of proofs; none of them HMAC. Default `[ES256, ES384, EdDSA, PS256, RS256]`.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub(crate) algorithms: Vec<Algorithm>,
}

impl Default for Dpop {
    fn default() -> Self {
        let algorithms =
            [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::PS256, Algorithm::RS256];
        Self { proof_lifetime: Duration::new("60s"), algorithms: algorithms.to_vec() }
    }
}

/// A signature algorithm (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
    HS256,
    HS384,
    HS512,
}

/// Which claims become the fields of the identity.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Claims {
    /// The claim that is the subject, a string. Default `sub`.
    pub(crate) subject: ClaimPath,
    /// The claim with the roles, a list of strings or a string with spaces between. Default none. Example:
    /// `realm_access.roles`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) roles: Option<ClaimPath>,
    /// The claim with the groups, as `roles`. Default none. Example: `groups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) groups: Option<ClaimPath>,
    /// The claim with the scopes, as `roles`. Default `scope`.
    pub(crate) scopes: ClaimPath,
}

/// The way to a claim: names joined with dots, or a list where a name has a dot itself.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum ClaimPath {
    /// `realm_access.roles`.
    Dotted(String),
    /// `["https://example.com/roles"]`.
    Names(Vec<String>),
}

/// API keys.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKey {
    /// The header that carries the key. A request that has a query parameter of this name, `api_key` or `apikey` beside it
    /// is refused (401, `several_credentials`): another program may take that one for the key. Default `X-Api-Key`.
    #[serde(default = "default_key_header")]
    pub(crate) header: String,
    /// Whether the upstream gets the header with the key. Where several providers of a route take a credential from one
    /// header, one that says `false` is enough. Default `true`.
    #[serde(default = "default_forward_credential")]
    pub(crate) forward_credential: bool,
    /// The file with the hashes of the keys; `gatewayctl key new` adds to it. Example: `keys.yaml`.
    pub(crate) keys: String,
}

/// Client certificates.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientCertificate {
    /// The name in the certificate that is the subject. Default `san_uri`.
    #[serde(default)]
    pub(crate) subject: CertificateSubject,
    /// The SPIFFE trust domains accepted, with `subject: spiffe_id`. Default any that the issuers vouch for. Example:
    /// `[example.org]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub(crate) trust_domains: Option<Vec<String>>,
}

/// A name in a certificate.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CertificateSubject {
    /// The first URI among the subject alternative names, such as a SPIFFE id.
    #[default]
    SanUri,
    /// The first DNS name among the subject alternative names.
    SanDns,
    /// The first e-mail address among the subject alternative names.
    SanEmail,
    /// The SPIFFE id: the only URI among the subject alternative names, and a well-formed id.
    SpiffeId,
    /// The common name of the subject.
    CommonName,
}

impl JsonSchema for ClaimPath {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClaimPath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "array"],
            "minLength": 1,
            "minItems": 1,
            "items": {"type": "string", "minLength": 1},
        })
    }
}

impl Default for Claims {
    fn default() -> Self {
        let path = |name: &str| ClaimPath::Dotted(name.to_owned());
        Self { subject: path("sub"), roles: None, groups: None, scopes: path("scope") }
    }
}

pub(super) fn default_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::ES256]
}

pub(super) fn default_leeway() -> Duration {
    Duration::new("30s")
}

pub(super) fn default_token_header() -> String {
    "Authorization".to_owned()
}

/// The upstream may want to know, too, and an option that takes something away is asked for.
pub(super) fn default_forward_credential() -> bool {
    true
}

fn default_key_header() -> String {
    "X-Api-Key".to_owned()
}

/// How often a key set is fetched again where the file does not say.
pub(crate) fn default_refresh() -> Duration {
    Duration::new("5m")
}
