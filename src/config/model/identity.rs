//! The identity providers of a configuration, checked.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Uri};
use jsonwebtoken::Algorithm;

use super::ldap::LdapProvider;
use super::{CertificateFiles, IntrospectionProvider, OidcProvider};

/// An identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// `type: jwt`.
    Jwt(JwtProvider),
    /// `type: api_key`.
    ApiKey(ApiKeyProvider),
    /// `type: client_certificate`.
    ClientCertificate(ClientCertificateProvider),
    /// `type: ldap`.
    Ldap(LdapProvider),
    /// `type: introspection`.
    Introspection(IntrospectionProvider),
    /// `type: oidc`.
    Oidc(OidcProvider),
    /// `type: external`.
    External(ExternalProvider),
}

/// Bearer JWTs of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtProvider {
    /// Required `iss`.
    pub issuer: String,
    /// One of them must be in `aud`; at least one.
    pub audiences: Vec<String>,
    /// Where the keys come from.
    pub keys: KeySetSource,
    /// Allowed algorithms: all asymmetric, or all HMAC, never mixed.
    pub algorithms: Vec<Algorithm>,
    /// Where the identity's fields are in the claims.
    pub claims: ClaimPaths,
    /// Clock skew allowed for `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// Required `typ` header, compared without case (`at+jwt`); `None` takes any of `JWT`, `at+jwt` or none.
    pub token_type: Option<String>,
    /// The header that carries the token; `Authorization` takes the `Bearer` scheme, others the bare token.
    pub header: HeaderName,
    /// Whether the upstream gets that header, and that of the proof.
    pub forward_credential: bool,
    /// Whether a token must be bound to its holder.
    pub binding: TokenBinding,
    /// Proofs of possession, where the `DPoP` scheme is spoken: only with [`AUTHORIZATION`].
    ///
    /// [`AUTHORIZATION`]: http::header::AUTHORIZATION
    pub dpop: Option<Dpop>,
}

/// Whether a token must be bound to its holder by `cnf` (RFC 7800). One that is bound is never accepted from another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenBinding {
    /// Bearers' tokens are accepted too.
    #[default]
    Optional,
    /// Only tokens bound to a certificate or a key.
    Required,
}

/// Proofs of possession (RFC 9449).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dpop {
    /// How old a proof may be.
    pub proof_lifetime: Duration,
    /// Allowed algorithms of proofs, all asymmetric.
    pub algorithms: Vec<Algorithm>,
}

/// Where a JSON Web Key Set comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySetSource {
    /// A file, re-read on reload.
    File(PathBuf),
    /// A URL, fetched in the background.
    Url {
        /// `https`, or `http` on loopback.
        url: Uri,
        /// Trusted issuers for the server's certificate; `None` uses the system's.
        ca: Option<PathBuf>,
        /// How often it is fetched again.
        refresh: Duration,
    },
    /// Where the issuer's discovery document says, fetched in the background.
    Discovered {
        /// The issuer: `https`, or `http` on loopback.
        issuer: String,
        /// Hosts on which its endpoints may be beside its own and public names, lower case.
        hosts: Vec<String>,
        /// Trusted issuers for the servers' certificates; `None` uses the system's.
        ca: Option<PathBuf>,
        /// How often document and keys are fetched again.
        refresh: Duration,
    },
}

/// Dotted paths into a token's claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPaths {
    /// Default `sub`.
    pub subject: Vec<String>,
    /// A string list, or a space-separated string.
    pub roles: Option<Vec<String>>,
    /// As `roles`.
    pub groups: Option<Vec<String>>,
    /// Default `scope`.
    pub scopes: Option<Vec<String>>,
}

/// API keys listed, hashed, in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyProvider {
    /// The header that carries the key.
    pub header: HeaderName,
    /// Whether the upstream gets that header.
    pub forward_credential: bool,
    /// The keys file: only SHA-256 hashes are in it.
    pub keys: PathBuf,
}

/// Client certificates proven in the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificateProvider {
    /// Which name is the subject.
    pub subject: CertificateSubject,
    /// The trust domains of which a SPIFFE id must be; empty means any.
    pub trust_domains: Vec<String>,
}

/// The name of a certificate that identifies its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateSubject {
    /// The first URI subject alternative name (SPIFFE ids).
    SanUri,
    /// The first DNS subject alternative name.
    SanDns,
    /// The first e-mail address among the subject alternative names.
    SanEmail,
    /// The SPIFFE id: the only URI name, and well-formed.
    SpiffeId,
    /// The subject's common name.
    CommonName,
}

/// A service that is asked over HTTP who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalProvider {
    /// Where: `https`, or on loopback.
    pub url: Uri,
    /// The request's path and query follow that of `url`.
    pub append_path: bool,
    /// Headers of the request that the service gets, at least one.
    pub forward: Vec<HeaderName>,
    /// Which requests it is asked about.
    pub asked: ExternalAsked,
    /// The longest wait for an answer.
    pub timeout: Duration,
    /// The answer's header with the subject.
    pub subject: Option<HeaderName>,
    /// The answer's header with the roles.
    pub roles: Option<HeaderName>,
    /// The answer's header with the groups.
    pub groups: Option<HeaderName>,
    /// The answer's header with the scopes.
    pub scopes: Option<HeaderName>,
    /// Headers of the answer that become attributes.
    pub attributes: Vec<HeaderName>,
    /// Headers of a refusal that the client gets.
    pub client_headers: Vec<HeaderName>,
    /// Which answers are remembered; none without it.
    pub memory: Option<Memory>,
    /// Trusted issuers for the service's certificate; `None` uses the system's.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate (mTLS).
    pub client: Option<CertificateFiles>,
    /// Whether the upstream gets the first header of `forward`.
    pub forward_credential: bool,
}

/// Which requests a service is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalAsked {
    /// Those with one of the headers that it gets.
    Credential,
    /// Each.
    Always,
}

/// Which answers of a service are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// All that an answer depends on, at least one.
    pub key: Vec<KeyPart>,
    /// How long a good answer is remembered.
    pub ttl: Duration,
    /// How long a refusal is remembered.
    pub negative_ttl: Duration,
    /// How much longer a good answer serves while the service is down.
    pub stale: Duration,
    /// Answers remembered.
    pub entries: usize,
}

/// A part of a request that an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// The method.
    Method,
    /// Host and port.
    Authority,
    /// Path and query.
    Path,
    /// A header.
    Header(HeaderName),
}
