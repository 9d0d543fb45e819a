//! A bounded HTTP(S) GET for documents such as key sets and bundles, and a bounded exchange for whoever else must ask.
//!
//! Everything about an answer has a bound: time, size of head and body, redirects (few, and only to the same origin, so
//! that credentials reach no other). Certificates are always verified. Nothing here retries or caches; the caller knows
//! when it makes sense. No error holds a header or a query of the request.

pub mod credentials;
pub mod exchange;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Body as _;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Name resolution, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The whole exchange of [`Fetcher::get`], redirects and body included.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Redirects followed.
const REDIRECTS_MAX: usize = 3;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No whole answer in time.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// No answer: name resolution, connection, TLS, or broken HTTP.
    #[error("cannot reach the server")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    /// The answer is not 200.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// The answer leads to another origin, nowhere, or in circles.
    #[error("the server redirects to `{0}`; only {REDIRECTS_MAX} redirects within one origin are followed")]
    Redirect(String),
    /// The body is compressed, though that was not asked for.
    #[error("the answer has the content encoding `{0}`, which was not asked for")]
    Encoding(String),
    /// The body is larger than allowed.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The body broke off.
    #[error("the answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The request could not be made.
    #[error("cannot ask for this URL")]
    Request(#[source] http::Error),
}

/// Why a fetcher could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The system has no trusted certificates.
    #[error(
        "the system has no trusted certificates; install the package `ca-certificates` or configure a `ca`"
    )]
    NoSystemRoots,
    /// A given certificate is not usable as a trust anchor.
    #[error("a certificate of the given `ca` is not usable")]
    Unusable(#[source] rustls::Error),
    /// The TLS settings were refused.
    #[error("the TLS client cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// A client certificate and its key.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

/// An answer whose head has come: 200, or 304 where the request was conditional.
#[derive(Debug)]
pub struct Answer(Response<Incoming>);

/// Fetches documents, trusting a fixed set of issuers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Fetcher {
    /// Trusts what the system trusts.
    pub fn trusting_system() -> Result<Self, TrustError> {
        Self::trusting(system_roots()?, None)
    }

    /// Trusts only these issuers.
    pub fn trusting_only(issuers: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        Self::trusting(roots_of(issuers)?, None)
    }

    /// Trusts these issuers, or what the system trusts, and shows a certificate to servers that ask for one.
    pub fn presenting(
        certificate: ClientCertificate,
        issuers: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Self, TrustError> {
        Self::trusting(issuers.map_or_else(system_roots, roots_of)?, Some(certificate))
    }

    fn trusting(roots: RootCertStore, certificate: Option<ClientCertificate>) -> Result<Self, TrustError> {
        let connector = connector(tls(roots, certificate)?);
        let client = Client::builder(TokioExecutor::new())
            // Minutes lie between two fetches: a kept connection would only be found dead.
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector);
        Ok(Self { client })
    }

    /// The body at `url`, at most `bytes_max` long. The status must be 200.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn get(&self, url: &Uri, bytes_max: usize) -> Result<Bytes, FetchError> {
        let accept = HeaderValue::from_static("application/json, application/jwk-set+json");
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept)]);
        let whole = async { self.follow(url, &headers).await?.read(bytes_max).await };
        within(TOTAL_TIMEOUT, whole).await
    }

    /// Asks for `url` with `headers`, and gives the answer once its head is there. The status must be 200, or 304 where
    /// `headers` have `If-None-Match`.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn ask(&self, url: &Uri, headers: &HeaderMap, timeout: Duration) -> Result<Answer, FetchError> {
        within(timeout, self.follow(url, headers)).await
    }

    async fn follow(&self, url: &Uri, headers: &HeaderMap) -> Result<Answer, FetchError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::get(&at)
                .header(header::ACCEPT_ENCODING, "identity")
                .header(header::USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
                .body(Empty::new())
                .map_err(FetchError::Request)?;
            request.headers_mut().extend(headers.clone());
            let response = self.client.request(request).await.map_err(FetchError::Unreachable)?;
            match response.status() {
                StatusCode::NOT_MODIFIED if headers.contains_key(header::IF_NONE_MATCH) => {
                    return Ok(Answer(response));
                }
                StatusCode::OK => return Ok(Answer(response)),
                status if status.is_redirection() && status != StatusCode::NOT_MODIFIED => {
                    at = redirect(&at, &response)?;
                }
                status => return Err(FetchError::Status(status)),
            }
        }
        Err(FetchError::Redirect(without_query(&at.to_string())))
    }
}

// === impl Answer ===

impl Answer {
    /// Whether the document is still the one that `If-None-Match` named.
    pub fn is_unchanged(&self) -> bool {
        self.0.status() == StatusCode::NOT_MODIFIED
    }

    /// A header's first value.
    pub fn header(&self, name: HeaderName) -> Option<&HeaderValue> {
        self.0.headers().get(name)
    }

    /// The body, at most `bytes_max` long.
    pub async fn body(self, bytes_max: usize, timeout: Duration) -> Result<Bytes, FetchError> {
        within(timeout, self.read(bytes_max)).await
    }

    async fn read(self, bytes_max: usize) -> Result<Bytes, FetchError> {
        if let Some(encoding) = self.header(header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            return Err(FetchError::Encoding(
                String::from_utf8_lossy(encoding.as_bytes()).chars().take(50).collect(),
            ));
        }
        let body = self.0.into_body();
        // What says at once that it is too large need not be read.
        if usize::try_from(body.size_hint().lower()).is_ok_and(|length| length > bytes_max) {
            return Err(FetchError::TooLarge(bytes_max));
        }
        match Limited::new(body, bytes_max).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge(bytes_max)),
            Err(error) => Err(FetchError::Body(error)),
        }
    }
}

/// TLS as a client that trusts these issuers, or what the system trusts, for protocols other than HTTP.
pub fn client_tls(issuers: Option<Vec<CertificateDer<'static>>>) -> Result<rustls::ClientConfig, TrustError> {
    tls(issuers.map_or_else(system_roots, roots_of)?, None)
}

async fn within<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    tokio::time::timeout(timeout, answer).await.unwrap_or(Err(FetchError::Timeout(timeout)))
}

fn tls(
    roots: RootCertStore,
    certificate: Option<ClientCertificate>,
) -> Result<rustls::ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Tls)?
        .with_root_certificates(roots);
    match certificate {
        None => Ok(tls.with_no_client_auth()),
        Some(ClientCertificate { chain, key }) => {
            tls.with_client_auth_cert(chain, key).map_err(TrustError::Tls)
        }
    }
}

fn connector(tls: rustls::ClientConfig) -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp)
}

fn system_roots() -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TrustError::NoSystemRoots) } else { Ok(roots) }
}

fn roots_of(issuers: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    issuers.into_iter().try_for_each(|issuer| roots.add(issuer)).map_err(TrustError::Unusable)?;
    Ok(roots)
}

/// `url` as an error may show it.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().chars().take(200).collect()
}

/// Where a redirect leads, if that is the same origin.
fn redirect(from: &Uri, response: &Response<Incoming>) -> Result<Uri, FetchError> {
    let location = response.headers().get(header::LOCATION);
    let location = location.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refused = || FetchError::Redirect(without_query(location));
    // An absolute path, but not `//host`, stays where it is.
    let to: Uri = if location.starts_with('/') && !location.starts_with("//") {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(location.parse().map_err(|_| refused())?);
        Uri::from_parts(parts).map_err(|_| refused())?
    } else {
        location.parse().map_err(|_| refused())?
    };
    let same_origin = to.scheme() == from.scheme() && to.authority() == from.authority();
    if same_origin && to.scheme().is_some() { Ok(to) } else { Err(refused()) }
}
