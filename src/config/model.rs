//! The validated configuration: after it exists, no string in it is checked again.
//!
//! Names refer to things that exist, durations and sizes are typed, paths are absolute, secrets are wrapped.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, Uri};
use jsonwebtoken::Algorithm;

use crate::base::host_port::HostPort;
use crate::base::net::NetworkSet;
use crate::base::path::PathRules;
use crate::base::secret::Secret;
use crate::base::share::Share;
use crate::base::size::ByteLimit;

pub use self::identity::{
    ApiKeyProvider, CertificateSubject, ClaimPaths, ClientCertificateProvider, Dpop, ExternalAsked,
    ExternalProvider, JwtProvider, KeyPart, KeySetSource, Memory, Provider, TokenBinding,
};
pub use self::oauth::{
    ClientAuthentication, IntrospectionProvider, OAuthClient, OidcPaths, OidcProvider, OidcSession,
};

mod identity;
pub mod ldap;
mod oauth;

/// The name of a listener, provider, upstream, policy or API: 1 to 64 of `a-z A-Z 0-9 _ -`. Cheap to clone.
pub type Name = Arc<str>;

/// A whole gateway. Its `Debug` names the file and no more: any text in it may have come from a secret.
#[derive(Clone)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// The beginning of the file's SHA-256, in hexadecimal.
    pub revision: String,
    /// In every decision event, and `opa.runtime().config.labels`.
    pub labels: BTreeMap<String, String>,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Front doors, at least one.
    pub listeners: Vec<Listener>,
    /// Identity providers by name.
    pub identity: BTreeMap<Name, Provider>,
    /// Upstreams by name.
    pub upstreams: BTreeMap<Name, Upstream>,
    /// Policies by name.
    pub policies: BTreeMap<Name, Policy>,
    /// APIs, at least one.
    pub apis: Vec<Api>,
    /// Where limit counters live.
    pub limits: LimitStore,
    /// Where decision events go.
    pub decision_logs: Vec<DecisionLog>,
    /// Metrics and access log.
    pub telemetry: Telemetry,
    /// The admin endpoint, if any.
    pub admin: Option<Admin>,
    /// Reload behaviour.
    pub reload: Reload,
    /// How long a draining gateway waits for requests in flight.
    pub drain_timeout: Duration,
    /// Every file the configuration names (itself, keys, certificates, bundles), for watching.
    pub files: Vec<PathBuf>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One front door.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name, unique.
    pub name: Name,
    /// Where it listens.
    pub address: SocketAddr,
    /// TLS, or `None` for plaintext.
    pub tls: Option<ListenerTls>,
    /// Protocols offered, at least one.
    pub protocols: Protocols,
    /// Peers whose `X-Forwarded-For` / `Forwarded` are believed.
    pub trusted_proxies: NetworkSet,
    /// Client certificates that those peers show in `Client-Cert` (RFC 9440); `None` where they may not.
    pub forwarded_certificates: Option<ForwardedCertificates>,
    /// Peers that may connect at all; empty means all.
    pub allow_from: NetworkSet,
    /// The APIs reachable here, by name.
    pub apis: Vec<Name>,
    /// How lenient paths are read.
    pub path_rules: PathRules,
    /// Bounds and timeouts.
    pub limits: ListenerLimits,
}

/// Whose certificates count when a trusted proxy shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedCertificates {
    /// Trusted issuers, PEM.
    pub ca: PathBuf,
    /// Revocation lists, PEM.
    pub crl: Option<PathBuf>,
}

/// Which HTTP versions a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.1.
    pub http1: bool,
    /// HTTP/2 by ALPN, or with prior knowledge on plaintext.
    pub http2: bool,
}

/// TLS on a listener.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// Certificate chains and keys, at least one; chosen by SNI, the first is the default.
    pub certificates: Vec<CertificateFiles>,
    /// Client certificates.
    pub client_auth: ClientAuth,
    /// TLS 1.2 is offered beside 1.3.
    pub tls12: bool,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What is asked of clients in the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// No client certificate is asked for.
    None,
    /// One is asked for, and must be valid when given.
    Optional {
        /// Trusted issuers, PEM.
        ca: PathBuf,
        /// Revocation list, PEM.
        crl: Option<PathBuf>,
    },
    /// One is required.
    Required {
        /// Trusted issuers, PEM.
        ca: PathBuf,
        /// Revocation list, PEM.
        crl: Option<PathBuf>,
    },
}

/// Bounds and timeouts of a listener (contract section 2).
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// Open connections; further ones are closed at accept.
    pub connections: usize,
    /// Bytes of a request head; beyond it 431.
    pub header_bytes: ByteLimit,
    /// Header fields of a request; beyond it 431.
    pub headers: usize,
    /// Bytes of a request body; beyond it 413.
    pub body_bytes: ByteLimit,
    /// TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a head (or the handshake) to its end.
    pub header_timeout: Duration,
    /// The longest wait for the next part of a body, and the longest stall of a client that does not read.
    pub body_timeout: Duration,
    /// A kept connection without a request.
    pub idle_timeout: Duration,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
}

/// A pool of equal servers.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name.
    pub name: Name,
    /// The servers, at least one.
    pub endpoints: Vec<Endpoint>,
    /// How one is chosen.
    pub balance: Balance,
    /// HTTP/2 with prior knowledge (plaintext) or by ALPN (TLS); otherwise HTTP/1.1.
    pub http2: bool,
    /// Connection establishment, TLS included.
    pub connect_timeout: Duration,
    /// From the request's last byte sent to the response's head; also the longest gap within its body.
    pub response_timeout: Duration,
    /// An unused pooled connection.
    pub idle_timeout: Duration,
    /// Retries.
    pub retries: Retries,
    /// Active health checks.
    pub health: Option<HealthCheck>,
    /// TLS details, for `https` endpoints.
    pub tls: UpstreamTls,
    /// `Host` as the client sent it, or the endpoint's authority.
    pub preserve_host: bool,
    /// It is told the client's certificate in `Client-Cert` (RFC 9440).
    pub forward_client_certificate: bool,
}

/// One upstream server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `https`.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// The less loaded of two random ones.
    PowerOfTwo,
    /// In turn.
    RoundRobin,
    /// By the hash of a request header (rendezvous), round robin where it is absent.
    Hash(HeaderName),
}

/// Retry policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retries {
    /// Tries after the first.
    pub attempts: u32,
    /// Retries allowed for each first try, as a ratio (`0.2`: one for five), with a small floor.
    pub budget: f64,
}

/// An active health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Asked with GET; 2xx and 3xx are healthy.
    pub path: String,
    /// Between checks.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Failures in a row that mark an endpoint down.
    pub unhealthy_after: u32,
    /// Successes in a row that mark it up again.
    pub healthy_after: u32,
}

/// TLS to an upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Trusted issuers, PEM; `None` uses the system's.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate (mTLS).
    pub client: Option<CertificateFiles>,
    /// The name expected in the server's certificate; default the endpoint's host.
    pub server_name: Option<String>,
}

/// A policy: a bundle and the rules asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: Name,
    /// Where the bundle comes from.
    pub bundle: BundleSource,
    /// Who must have signed it.
    pub signing: Option<Signing>,
    /// The decision rule as a path, `gateway/decision`.
    pub decision: Vec<String>,
    /// The response-phase rule.
    pub response: Option<Vec<String>>,
    /// Evaluation time of one decision.
    pub budget: Duration,
    /// Whom it may ask with `http.send`.
    pub http_send: Option<HttpSend>,
    /// What it may look up with `net.lookup_ip_addr`.
    pub lookup: Option<Lookup>,
    /// What a failed evaluation means.
    pub on_error: OnError,
    /// On load and reload, the bundle's own tests must pass.
    pub self_test: bool,
    /// Decisions that each worker remembers at the most.
    pub decision_cache: usize,
    /// The form of its input and result.
    pub contract: PolicyContract,
    /// The interpreter evaluates all, for diagnosis.
    pub interpreted: bool,
    /// Decisions that are made again on the interpreter and compared.
    pub verify: Sampling,
    /// A candidate that is evaluated beside it.
    pub shadow: Option<Shadow>,
}

/// How often and at what cost something is done beside the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// The share of decisions.
    pub sample: Share,
    /// The time it may take, as a share of one processor.
    pub budget: Share,
}

/// A candidate policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// Where its bundle comes from.
    pub bundle: BundleSource,
    /// As it is written in the file, without the query of a URL, for messages.
    pub shown: String,
    /// How often it is evaluated, and at what cost.
    pub sampling: Sampling,
}

/// Whom a policy may ask with `http.send`, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSend {
    /// The servers, at least one.
    pub allow: Vec<HostPort>,
    /// The longest that all requests of one decision may take together.
    pub timeout: Duration,
    /// The largest body of an answer.
    pub response_bytes: ByteLimit,
    /// How many different requests one decision may send.
    pub requests: usize,
    /// How many requests may be under way at once.
    pub concurrent: usize,
    /// Memory for kept answers.
    pub cache_bytes: ByteLimit,
    /// Trusted issuers; `None` uses the system's.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate (mTLS).
    pub client: Option<CertificateFiles>,
}

/// What a policy may look up with `net.lookup_ip_addr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The names, at least one, lower case.
    pub allow: Vec<String>,
    /// The longest that all lookups of one decision may take together.
    pub timeout: Duration,
}

/// What a policy is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyContract {
    /// The gateway's own input and result.
    GatewayV1,
    /// Those of opa-envoy-plugin.
    EnvoyV3,
}

/// Where a bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleSource {
    /// A directory or a packed file.
    Path(PathBuf),
    /// A server.
    Url(Box<RemoteBundle>),
}

/// A bundle that is fetched from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteBundle {
    /// `https`, or `http` on loopback. Secret, as a query may be.
    pub url: Secret<Uri>,
    /// The URL as messages may show it: without query, and without what was put in from elsewhere.
    pub shown: String,
    /// How often it is asked.
    pub polling: Polling,
    /// A file with a bearer token, read for each request.
    pub token_file: Option<PathBuf>,
    /// The gateway's own certificate (mTLS), read for each request.
    pub client: Option<CertificateFiles>,
    /// Trusted issuers for the server's certificate; `None` uses the system's.
    pub ca: Option<PathBuf>,
    /// The largest archive.
    pub size_limit: ByteLimit,
    /// The directory where the last good archive is kept.
    pub persist: Option<PathBuf>,
    /// Delta bundles are taken; not where bundles must be signed, as deltas are not.
    pub deltas: bool,
}

/// How often a bundle's server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polling {
    /// The shortest time between two requests.
    pub min_delay: Duration,
    /// The longest, not shorter than the shortest; also the longest pause after a failure.
    pub max_delay: Duration,
    /// How long the server may hold a request, where it can.
    pub long_polling_timeout: Option<Duration>,
}

/// Whose signature a bundle must carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signing {
    /// The keys that may have signed, at least one.
    pub keys: Vec<SigningKey>,
    /// The id of the key that must have signed; default the one that the signature names.
    pub keyid: Option<String>,
    /// The scope that the signature must state; default that of the key.
    pub scope: Option<String>,
    /// Glob patterns of files that need not be signed.
    pub exclude_files: Vec<String>,
}

/// A key that verifies signatures of bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub algorithm: Algorithm,
    /// The public key in PEM, or an HMAC secret.
    pub file: PathBuf,
    /// The scope it signs for.
    pub scope: Option<String>,
}

/// What a failed policy evaluation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// 503.
    Deny,
    /// Allowed without obligations, and marked `fail_open`.
    Allow,
}

/// One version of one API.
#[derive(Debug, Clone)]
pub struct Api {
    /// Its name.
    pub name: Name,
    /// Its version, if it has one.
    pub version: Option<Arc<str>>,
    /// Hosts it answers to, lower case, without port; empty means any. `*.example.com` matches one more label.
    pub hosts: Vec<String>,
    /// Canonical, without a trailing slash; empty for the root.
    pub base_path: String,
    /// Where in its life it is.
    pub lifecycle: Lifecycle,
    /// Providers tried, in order; none listed: everyone is anonymous.
    pub identity: Vec<Name>,
    /// What a bad credential means.
    pub on_bad_credential: BadCredential,
    /// How many providers must prove an identity.
    pub require: Require,
    /// What a request without a credential means.
    pub anonymous: Anonymous,
    /// The policy asked.
    pub policy: Name,
    /// The default upstream.
    pub upstream: Name,
    /// Routes, at least one; `/{*rest}` where the file lists none.
    pub routes: Vec<Route>,
    /// Headers that only the gateway may set: removed from each request, names folded.
    pub identity_headers: Vec<HeaderName>,
}

/// Where in its life an API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle {
    /// In use.
    Active,
    /// Still answered, with `Deprecation`, `Sunset` and `Link` headers (RFC 9745, RFC 8594).
    Deprecated {
        /// Deprecated since, RFC 3339 date or time.
        since: Option<String>,
        /// Gone after.
        sunset: Option<String>,
        /// Link to the version to move to.
        successor: Option<String>,
        /// Link to documentation.
        docs: Option<String>,
    },
    /// 410.
    Retired,
}

/// How many providers must prove an identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Require {
    /// One.
    #[default]
    Any,
    /// Each.
    All,
}

/// What a request without a credential means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    /// The policy decides.
    Allow,
    /// 401.
    Reject,
}

/// What a bad credential means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadCredential {
    /// 401.
    Reject,
    /// The policy sees `input.identity.failure`.
    Fact,
}

/// One route of an API.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name, unique in the API.
    pub name: Name,
    /// Below the base path; `{param}` takes one segment, `{*rest}` the rest.
    pub path: String,
    /// Empty means any.
    pub methods: Vec<Method>,
    /// Overrides the listener's.
    pub body_bytes: Option<ByteLimit>,
    /// Overrides the API's providers.
    pub identity: Option<Vec<Name>>,
    /// WebSocket upgrades are passed on.
    pub websocket: bool,
}

/// Where limit counters live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitStore {
    /// In this process.
    Memory {
        /// Counters kept at most; the stalest are evicted.
        keys: usize,
    },
}

/// One destination of decision events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecisionLog {
    /// Standard output, one JSON object a line.
    Stdout,
    /// A file, one JSON object a line, appended.
    File {
        /// The file.
        path: PathBuf,
    },
}

/// Metrics and access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// Serve `/metrics` on the admin endpoint.
    pub metrics: bool,
}

/// The admin endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Loopback only.
    pub address: SocketAddr,
    /// Decisions of each worker that are kept to be explained; none without it.
    pub explain: Option<Recent>,
}

/// Bounds of the recent decisions that a worker keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    /// Decisions.
    pub count: usize,
    /// Bytes of their events.
    pub bytes: ByteLimit,
}

/// Reload behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// Reload when a named file changes.
    pub watch: bool,
    /// Snapshots kept for rollback.
    pub history: usize,
}
