//! Providers that are clients of an authorization server, checked.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Uri};
use jsonwebtoken::Algorithm;

use super::{CertificateFiles, ClaimPaths};
use crate::base::path::CanonicalPath;
use crate::base::secret::Secret;

/// The gateway as a client of an authorization server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthClient {
    /// Its `client_id`.
    pub id: String,
    /// How it proves that it is it.
    pub authentication: ClientAuthentication,
    /// Trusted issuers for the server's certificate; `None` uses the system's.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate (mTLS).
    pub certificate: Option<CertificateFiles>,
    /// The longest that one answer may take.
    pub timeout: Duration,
}

/// How a client authenticates (RFC 6749 section 2.3, RFC 8705).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// `client_secret_basic`.
    Basic(Secret<String>),
    /// `client_secret_post`.
    Post(Secret<String>),
    /// `tls_client_auth`: by its certificate.
    Certificate,
    /// `none`: a public client.
    None,
}

/// Bearer tokens that the authorization server is asked about (RFC 7662).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntrospectionProvider {
    /// `https`, or `http` on loopback.
    pub endpoint: Uri,
    /// As whom.
    pub client: OAuthClient,
    /// Required `iss` of the answer.
    pub issuer: Option<String>,
    /// One of them must be in `aud` of the answer, unless there are none.
    pub audiences: Vec<String>,
    /// Where the identity's fields are in the answer.
    pub claims: ClaimPaths,
    /// Clock skew allowed for `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// The header that carries the token; `Authorization` takes the `Bearer` scheme, others the bare token.
    pub header: HeaderName,
    /// Whether the upstream gets that header.
    pub forward_credential: bool,
    /// How long an answer is remembered.
    pub cache: Duration,
    /// How long a refusal is remembered.
    pub negative_cache: Duration,
    /// How much longer a good answer serves while the server is down.
    pub stale: Duration,
    /// Answers remembered at most.
    pub entries: usize,
}

/// Browsers that log in at an OpenID provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcProvider {
    /// The issuer, to the letter; `https`, or `http` on loopback.
    pub issuer: String,
    /// As whom.
    pub client: OAuthClient,
    /// Hosts on which the issuer's endpoints may be beside its own and public names, lower case.
    pub endpoint_hosts: Vec<String>,
    /// Paths that the gateway answers itself.
    pub paths: OidcPaths,
    /// Where a browser ends up after a logout.
    pub post_logout_path: CanonicalPath,
    /// `scope` of the login; `openid` is among them.
    pub scopes: Vec<String>,
    /// Allowed algorithms of ID tokens, all asymmetric.
    pub algorithms: Vec<Algorithm>,
    /// Where the identity's fields are in the claims.
    pub claims: ClaimPaths,
    /// Whether claims are also taken from the user info endpoint.
    pub user_info: bool,
    /// Clock skew allowed for `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// How often discovery document and keys are fetched again.
    pub refresh: Duration,
    /// Sessions.
    pub session: OidcSession,
}

/// Paths that the gateway answers itself, all different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcPaths {
    /// Where the provider sends browsers back to.
    pub redirect: CanonicalPath,
    /// Where a login can be asked for.
    pub login: Option<CanonicalPath>,
    /// Where a logout can be asked for.
    pub logout: CanonicalPath,
    /// Where the provider tells of logouts.
    pub backchannel_logout: Option<CanonicalPath>,
}

/// Sessions of browsers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcSession {
    /// What cookies are sealed with: the first seals, all open. None: a key of the process.
    pub keys: Vec<Secret<String>>,
    /// From the login on, whatever happens.
    pub lifetime: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Requests that change something must prove that they come from a page of the same origin.
    pub require_same_origin: bool,
}

impl OidcPaths {
    /// All of them with their keys in the configuration.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &CanonicalPath)> {
        let always = [("redirect_path", &self.redirect), ("logout_path", &self.logout)];
        let optional = [("login_path", &self.login), ("backchannel_logout_path", &self.backchannel_logout)];
        let optional = optional.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?)));
        always.into_iter().chain(optional)
    }
}
