//! One HTTP(S) exchange within bounds: any method, the answer whole or an error.
//!
//! Connections are kept for the next exchange, those of one [`Exchanger`] on the thread that uses it. Certificates are
//! always verified. Redirects are told, not followed: who asks knows where it may go. No error holds more than the cause.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body as _;
use hyper::ext::ReasonPhrase;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;

use super::{ClientCertificate, HEAD_BYTES_MAX, TrustError, connector, roots_of, system_roots, tls};

/// How long an idle connection is kept: less than servers usually do, so that a request seldom meets one that is just
/// being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Idle connections kept for each server.
const IDLE_MAX: usize = 16;

/// Whom to trust, and what to show: made once, and shared by the exchangers of all threads.
#[derive(Debug, Clone)]
pub struct Trust(Arc<rustls::ClientConfig>);

/// Exchanges on one thread.
#[derive(Debug, Clone)]
pub struct Exchanger {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// A request, whole.
#[derive(Clone)]
pub struct Outgoing {
    /// Its method.
    pub method: Method,
    /// Its URL, `http` or `https`.
    pub url: Uri,
    /// Its headers; length and connection are the client's own business.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// An answer, whole.
#[derive(Clone)]
pub struct Received {
    /// Its status.
    pub status: StatusCode,
    /// The words after the status.
    pub reason: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The request cannot be made.
    #[error("the request cannot be made")]
    Request(#[source] http::Error),
    /// No answer: name resolution, connection, TLS, or broken HTTP.
    #[error("{}", cause(.0))]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    /// The body is larger than allowed.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The body broke off.
    #[error("the answer broke off")]
    Body(#[source] Box<dyn Error + Send + Sync>),
}

// === impl Trust ===

impl Trust {
    /// Trusts these issuers, or what the system trusts, and shows a certificate to servers that ask for one.
    pub fn new(
        issuers: Option<Vec<CertificateDer<'static>>>,
        certificate: Option<ClientCertificate>,
    ) -> Result<Self, TrustError> {
        let roots = issuers.map_or_else(system_roots, roots_of)?;
        Ok(Self(Arc::new(tls(roots, certificate)?)))
    }

    /// Trusts nobody: for who speaks no TLS.
    pub fn nobody() -> Result<Self, TrustError> {
        Ok(Self(Arc::new(tls(rustls::RootCertStore::empty(), None)?)))
    }
}

// === impl Exchanger ===

impl Exchanger {
    /// An exchanger without connections.
    pub fn new(trust: &Trust) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector((*trust.0).clone()));
        Self { client }
    }

    /// Sends `request` and gives the whole answer, whatever its status; a body of more than `bytes_max` is an error. There
    /// is no timeout: drop it when it has taken long enough.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the connection is then closed.
    pub async fn exchange(&self, request: Outgoing, bytes_max: usize) -> Result<Received, ExchangeError> {
        let Outgoing { method, url, headers, body } = request;
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .body(Full::new(body))
            .map_err(ExchangeError::Request)?;
        request.headers_mut().extend(headers);
        let response = self.client.request(request).await.map_err(ExchangeError::Unreachable)?;
        let (parts, body) = response.into_parts();
        // What says at once that it is too large need not be read.
        if usize::try_from(body.size_hint().lower()).is_ok_and(|length| length > bytes_max) {
            return Err(ExchangeError::TooLarge(bytes_max));
        }
        let body = match Limited::new(body, bytes_max).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(ExchangeError::TooLarge(bytes_max)),
            Err(error) => return Err(ExchangeError::Body(error)),
        };
        let reason = match parts.extensions.get::<ReasonPhrase>() {
            Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
            None => parts.status.canonical_reason().unwrap_or_default().to_owned(),
        };
        Ok(Received { status: parts.status, reason, headers: parts.headers, body })
    }
}

// === impl Outgoing ===

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // URL, headers and body may hold credentials.
        f.debug_struct("Outgoing").field("method", &self.method).finish_non_exhaustive()
    }
}

// === impl Received ===

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The innermost cause of a failed request: the client's own words say only that it failed.
fn cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
