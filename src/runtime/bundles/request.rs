//! One request for a bundle: credentials, conditions, bounds.
//!
//! Credentials are read for each request, so that renewed ones are used at once. Nothing here shows them.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::base::pem::{self, PemError};
use crate::config::model::RemoteBundle;
use crate::fetch::{Answer, ClientCertificate, FetchError, Fetcher, TrustError};

/// How long the head of an answer may take, beside what the server may hold the request; as OPA.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the archive may take.
const BODY_TIMEOUT: Duration = Duration::from_mins(2);

/// The media type by which a server says that it can hold requests.
const LONG_POLLING: &str = "application/vnd.openpolicyagent.bundles";

/// Bytes of a token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Why a bundle could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchFault {
    /// The token's file.
    #[error("cannot read the token in `{}`", file.display())]
    TokenFile {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in the token's file.
    #[error("`{}` does not hold a token: one line of printable characters", .0.display())]
    Token(PathBuf),
    /// A certificate or key.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// No TLS client can be made.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The server, or the way to it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The persisted archive is there and cannot be read.
    #[error("cannot read `{}`", file.display())]
    Persisted {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive is larger than allowed.
    #[error("the bundle is larger than `size_limit`, {0} bytes")]
    TooLarge(u64),
    /// A thread could not be started, or has panicked.
    #[error("the request was given up by the gateway")]
    GivenUp,
}

impl FetchFault {
    /// The status that the server answered with, if it is what was wrong.
    pub fn http_code(&self) -> Option<StatusCode> {
        let Self::Fetch(FetchError::Status(status)) = self else { return None };
        Some(*status)
    }
}

/// What a request depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Condition {
    /// The archive that is here already.
    pub(super) etag: Option<HeaderValue>,
    /// The server may answer with a delta to that.
    pub(super) delta: bool,
    /// How long the server may wait for another.
    pub(super) wait: Option<Duration>,
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Response {
    /// `None`: it is still the one of the condition.
    pub(super) archive: Option<Bytes>,
    /// `ETag`.
    pub(super) etag: Option<HeaderValue>,
    /// The answer says that the server can hold requests.
    pub(super) holds_requests: bool,
}

/// An archive that is too large to be read, and its `ETag`.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) fault: FetchFault,
    /// Known where only the body is at fault.
    pub(super) etag: Option<HeaderValue>,
}

impl<E: Into<FetchFault>> From<E> for Refused {
    fn from(fault: E) -> Self {
        Self { fault: fault.into(), etag: None }
    }
}

/// A client and the files that it was made of.
#[derive(Debug, Default)]
pub(super) struct Client(Mutex<Option<(Vec<u8>, Fetcher)>>);

/// Asks for the bundle. Each wait has a bound.
pub(super) async fn send(
    settings: &RemoteBundle,
    client: &Arc<Client>,
    condition: Condition,
) -> Result<Response, Refused> {
    let (files, known) = (settings.clone(), Arc::clone(client));
    let prepared = tokio::task::spawn_blocking(move || {
        let fetcher = known.fetcher(&files)?;
        Ok::<_, FetchFault>((fetcher, authorization(&files)?))
    });
    let (fetcher, authorization) = prepared.await.unwrap_or(Err(FetchFault::GivenUp))?;
    let Condition { etag, delta, wait } = condition;
    let mut headers = HeaderMap::new();
    headers.extend(authorization.map(|token| (header::AUTHORIZATION, token)));
    headers.extend(etag.map(|etag| (header::IF_NONE_MATCH, etag)));
    headers.insert(HeaderName::from_static("prefer"), preference(delta, wait));
    let timeout = HEAD_TIMEOUT + wait.unwrap_or_default();
    let answer = fetcher.ask(settings.url.expose(), &headers, timeout).await?;
    let etag = answer.header(header::ETAG).cloned();
    if answer.is_unchanged() {
        return Ok(Response { archive: None, etag, holds_requests: false });
    }
    let holds_requests = holds_requests(&answer);
    let limit = settings.size_limit.bytes();
    match answer.body(usize::try_from(limit).unwrap_or(usize::MAX), BODY_TIMEOUT).await {
        Ok(archive) => Ok(Response { archive: Some(archive), etag, holds_requests }),
        Err(FetchError::TooLarge(_)) => Err(Refused { fault: FetchFault::TooLarge(limit), etag }),
        Err(error) => Err(error.into()),
    }
}

/// What kinds of bundles are taken, and where the server can, an answer only when there is a new one. As OPA writes it.
fn preference(delta: bool, wait: Option<Duration>) -> HeaderValue {
    let modes = if delta { "modes=snapshot,delta" } else { "modes=snapshot" };
    let waits = wait.map(|wait| {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        HeaderValue::from_str(&format!("{modes};wait={seconds}"))
    });
    waits.and_then(Result::ok).unwrap_or(HeaderValue::from_static(modes))
}

fn holds_requests(answer: &Answer) -> bool {
    answer.header(header::CONTENT_TYPE).is_some_and(|kind| kind == LONG_POLLING)
}

fn authorization(settings: &RemoteBundle) -> Result<Option<HeaderValue>, FetchFault> {
    let Some(file) = &settings.token_file else { return Ok(None) };
    let unreadable = |source| FetchFault::TokenFile { file: file.clone(), source };
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let token = text.trim();
    let is_token =
        (1..=TOKEN_BYTES_MAX).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
    let header = is_token.then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok()).flatten();
    let mut header = header.ok_or_else(|| FetchFault::Token(file.clone()))?;
    header.set_sensitive(true);
    Ok(Some(header))
}

// === impl Client ===

impl Client {
    /// The fetcher with the certificates as their files say now.
    fn fetcher(&self, settings: &RemoteBundle) -> Result<Fetcher, FetchFault> {
        let issuers = settings.ca.as_deref().map(pem::certificates).transpose()?;
        let certificate = settings.client.as_ref().map(|files| -> Result<_, PemError> {
            let (chain, key) = (pem::certificates(&files.cert)?, pem::private_key(&files.key)?);
            Ok(ClientCertificate { chain, key })
        });
        let certificate = certificate.transpose()?;
        let made_of = fingerprint(issuers.as_deref(), certificate.as_ref());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, fetcher)) = &*known
            && *of == made_of
        {
            return Ok(fetcher.clone());
        }
        let fetcher = match (certificate, issuers) {
            (Some(certificate), issuers) => Fetcher::presenting(certificate, issuers)?,
            (None, Some(issuers)) => Fetcher::trusting_only(issuers)?,
            (None, None) => Fetcher::trusting_system()?,
        };
        *known = Some((made_of, fetcher.clone()));
        Ok(fetcher)
    }
}

/// A hash of the certificates and the key.
fn fingerprint(
    issuers: Option<&[rustls::pki_types::CertificateDer<'static>]>,
    certificate: Option<&ClientCertificate>,
) -> Vec<u8> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut take = |bytes: &[u8]| {
        hash.update(&bytes.len().to_be_bytes());
        hash.update(bytes);
    };
    issuers.into_iter().flatten().for_each(|issuer| take(issuer));
    take(b"");
    if let Some(certificate) = certificate {
        certificate.chain.iter().for_each(|link| take(link));
        take(certificate.key.secret_der());
    }
    hash.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_as_opa_asks_and_to_wait_whole_seconds() {
        assert_eq!(preference(false, None), "modes=snapshot");
        assert_eq!(preference(true, None), "modes=snapshot,delta");
        assert_eq!(preference(true, Some(Duration::from_secs(30))), "modes=snapshot,delta;wait=30");
        assert_eq!(preference(false, Some(Duration::from_millis(1_001))), "modes=snapshot;wait=2");
    }
}
