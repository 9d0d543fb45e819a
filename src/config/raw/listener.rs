//! Front doors: addresses, TLS and bounds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::raw::quantity::{Duration, Name, Size};

/// One front door of the gateway.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Its name, unique among the listeners. Example: `public`.
    pub(crate) name: Name,
    /// The address and port to listen on. Example: `0.0.0.0:8443`, `[::]:8443`, `127.0.0.1:8080`.
    pub(crate) address: String,
    /// TLS. Without it the listener speaks plaintext, which off loopback must be asked for with `plaintext: true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<Tls>,
    /// Allow an address off loopback without TLS, for instance behind a load balancer that ends TLS. Default `false`.
    #[serde(default)]
    pub(crate) plaintext: bool,
    /// The protocols spoken, by ALPN under TLS; on plaintext HTTP/2 is spoken with prior knowledge. Default both.
    #[serde(default = "default_protocols")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub(crate) protocols: Vec<Protocol>,
    /// The networks whose `X-Forwarded-For` and `Forwarded` headers are believed. Default none. Example:
    /// `[10.0.0.0/8]`.
    #[serde(default)]
    pub(crate) trusted_proxies: Vec<String>,
    /// Take a client's certificate from `Client-Cert` and `Client-Cert-Chain` (RFC 9440) of `trusted_proxies`, which must be
    /// given; from anyone else these headers are dropped. On their connections their own certificate is then not the
    /// client's. Default not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forwarded_client_certificates: Option<ForwardedCertificates>,
    /// The networks that may connect, checked before TLS. Default everyone.
    #[serde(default = "default_allow_from")]
    #[schemars(length(min = 1))]
    pub(crate) allow_from: Vec<String>,
    /// The names of the APIs reachable here. Default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(crate) apis: Option<Vec<String>>,
    /// Merge `//` and resolve `/./` and `/../` in paths instead of answering 400. Default `false`.
    #[serde(default)]
    pub(crate) merge_slashes: bool,
    /// Take `;` in paths as an ordinary character instead of answering 400. Default `false`.
    #[serde(default)]
    pub(crate) path_parameters: bool,
    /// Bounds and timeouts.
    #[serde(default)]
    pub(crate) limits: Limits,
}

/// Whose certificates count when a trusted proxy shows them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForwardedCertificates {
    /// A PEM file with the issuers that are trusted.
    pub(crate) ca: String,
    /// A PEM file with certificate revocation lists. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) crl: Option<String>,
}

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum Protocol {
    /// HTTP/2.
    #[serde(rename = "h2")]
    H2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http1,
}

/// TLS on a listener.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ListenerTls")]
pub(crate) struct Tls {
    /// Certificates and keys. The one whose names match the client's SNI is used, the first where none does. They are
    /// read again when the files change.
    #[schemars(length(min = 1))]
    pub(crate) certificates: Vec<Certificate>,
    /// Whether clients show certificates. Default not.
    #[serde(default)]
    pub(crate) client_auth: ClientAuth,
    /// The lowest TLS version offered, `"1.2"` (the default) or `"1.3"`; the quotes are needed.
    #[serde(default)]
    pub(crate) min_version: TlsVersion,
}

/// A certificate chain and its key.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    /// A PEM file with the certificate chain, leaf first. Example: `server.pem`.
    pub(crate) cert: String,
    /// A PEM file with the private key. Example: `server.key`.
    pub(crate) key: String,
}

/// Client certificates.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClientAuth {
    /// Whether a certificate is asked for. Default `none`.
    pub(crate) mode: ClientAuthMode,
    /// A PEM file with the issuers that are trusted. Needed unless the mode is `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// A PEM file with certificate revocation lists. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) crl: Option<String>,
}

/// Whether a client certificate is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientAuthMode {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for; a client may go on without, but not with a bad one.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// A TLS version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}

/// Bounds and timeouts of a listener.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ListenerLimits")]
pub(crate) struct Limits {
    /// Open connections; further ones are closed at once. Default `10000`.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(crate) connections: u32,
    /// The size of a request's head; beyond it 431. From `8KiB` to `1MiB`, default `32KiB`.
    pub(crate) header_bytes: Size,
    /// The number of a request's headers; beyond it 431. Default `100`.
    #[schemars(range(min = 1, max = 10_000))]
    pub(crate) headers: u32,
    /// The size of a request's body; beyond it 413. A route may set its own. Default `1MiB`.
    pub(crate) body_bytes: Size,
    /// The time for a TLS handshake. Default `10s`.
    pub(crate) handshake_timeout: Duration,
    /// The time for a request's head to arrive. Default `10s`.
    pub(crate) header_timeout: Duration,
    /// The longest wait for the next part of a request's body, and for a client that does not read. Default `30s`.
    pub(crate) body_timeout: Duration,
    /// How long a connection without a request is kept. Default `60s`.
    pub(crate) idle_timeout: Duration,
    /// Concurrent HTTP/2 streams of one connection. Default `100`.
    #[schemars(range(min = 1, max = 10_000))]
    pub(crate) streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_bytes: Size::new("32KiB"),
            headers: 100,
            body_bytes: Size::new("1MiB"),
            handshake_timeout: Duration::new("10s"),
            header_timeout: Duration::new("10s"),
            body_timeout: Duration::new("30s"),
            idle_timeout: Duration::new("60s"),
            streams: 100,
        }
    }
}

fn default_protocols() -> Vec<Protocol> {
    vec![Protocol::H2, Protocol::Http1]
}

fn default_allow_from() -> Vec<String> {
    vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()]
}
