//! A bounded HTTP(S) GET for small documents such as key sets.
//!
//! Everything about an answer has a bound: time, size of head and body, redirects (few, and only to the same origin).
//! Certificates are always verified. Nothing here retries or caches; the caller knows when it makes sense.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

/// Name resolution, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The whole exchange, redirects and body included.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Redirects followed.
const REDIRECTS_MAX: usize = 3;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No whole answer in time.
    #[error("no complete answer within {TOTAL_TIMEOUT:?}")]
    Timeout,
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

/// Fetches documents, trusting a fixed set of issuers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Fetcher {
    /// Trusts what the system trusts.
    pub fn trusting_system() -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() { Err(TrustError::NoSystemRoots) } else { Self::trusting(roots) }
    }

    /// Trusts only these issuers.
    pub fn trusting_only(issuers: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        issuers.into_iter().try_for_each(|issuer| roots.add(issuer)).map_err(TrustError::Unusable)?;
        Self::trusting(roots)
    }

    fn trusting(roots: RootCertStore) -> Result<Self, TrustError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
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
        match tokio::time::timeout(TOTAL_TIMEOUT, self.follow(url, bytes_max)).await {
            Ok(answer) => answer,
            Err(_) => Err(FetchError::Timeout),
        }
    }

    async fn follow(&self, url: &Uri, bytes_max: usize) -> Result<Bytes, FetchError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let request = Request::get(&at)
                .header(header::ACCEPT, "application/json, application/jwk-set+json")
                .header(header::ACCEPT_ENCODING, "identity")
                .header(header::USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
                .body(Empty::new())
                .map_err(FetchError::Request)?;
            let response = self.client.request(request).await.map_err(FetchError::Unreachable)?;
            if !response.status().is_redirection() {
                return read(response, bytes_max).await;
            }
            at = redirect(&at, &response)?;
        }
        Err(FetchError::Redirect(at.to_string()))
    }
}

/// Where a redirect leads, if that is the same origin.
fn redirect(from: &Uri, response: &Response<Incoming>) -> Result<Uri, FetchError> {
    let location = response.headers().get(header::LOCATION);
    let location = location.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refused = || FetchError::Redirect(location.chars().take(200).collect());
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

async fn read(response: Response<Incoming>, bytes_max: usize) -> Result<Bytes, FetchError> {
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    if let Some(encoding) = response.headers().get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        return Err(FetchError::Encoding(
            String::from_utf8_lossy(encoding.as_bytes()).chars().take(50).collect(),
        ));
    }
    match Limited::new(response.into_body(), bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge(bytes_max)),
        Err(error) => Err(FetchError::Body(error)),
    }
}
