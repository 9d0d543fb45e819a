//! What the gateway says to an authorization server as a client of it, and how the answer is read.
//!
//! One form, one answer: JSON with its content type, in full, within a deadline and a size. Redirects are not followed. What is
//! not such an answer is no answer; nothing is read out of a broken one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use crate::base::json;
use crate::base::pem::PemError;
use crate::config::model::{ClientAuthentication, OAuthClient};
use crate::fetch::TrustError;
use crate::fetch::credentials::Credentials;
use crate::fetch::exchange::{ExchangeError, Exchanger, Outgoing};

/// Largest answer read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

const JSON_DEPTH_MAX: usize = 32;

/// `application/x-www-form-urlencoded` leaves these as they are (RFC 6749 appendix B); a space may be `%20`.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

/// Why there is no answer to go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// Not in time.
    Timeout,
    /// No connection, no TLS, or broken HTTP.
    Unreachable,
    /// A status that says nothing about the question.
    Status,
    /// Not the JSON that was asked for, or too much of it.
    Malformed,
}

/// An answer: a status and a JSON object.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) document: Map<String, Value>,
}

/// A client of an authorization server.
#[derive(Debug, Clone)]
pub(super) struct Client {
    config: OAuthClient,
    exchanger: Exchanger,
}

// === impl Client ===

impl Client {
    /// As configured, with the credentials that its files hold.
    pub(super) fn new(config: &OAuthClient, credentials: Credentials) -> Result<Self, TrustError> {
        Ok(Self { config: config.clone(), exchanger: Exchanger::new(&credentials.trust()?) })
    }

    /// What its files hold.
    pub(super) fn credentials(config: &OAuthClient) -> Result<Credentials, PemError> {
        let shown = config.certificate.as_ref().map(|files| (files.cert.as_path(), files.key.as_path()));
        Credentials::read(config.ca.as_deref(), shown)
    }

    /// The client's id.
    pub(super) fn id(&self) -> &str {
        &self.config.id
    }

    /// Sends a form, with the client's authentication (RFC 6749 section 2.3).
    ///
    /// # Cancel safety
    /// May be dropped at any time; whether the server has taken the form is then not known.
    pub(super) async fn post(&self, url: &Uri, form: &[(&str, &str)]) -> Result<Answered, NoAnswer> {
        let mut headers = common_headers();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let mut pairs: Vec<(&str, &str)> = form.to_vec();
        match &self.config.authentication {
            ClientAuthentication::Basic(secret) => {
                // RFC 6749 section 2.3.1: both are form-encoded first.
                let text = format!("{}:{}", encoded(&self.config.id), encoded(secret.expose()));
                let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(text)));
                let mut value = value.map_err(|_| NoAnswer::Malformed)?;
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
            ClientAuthentication::Post(secret) => {
                pairs.push(("client_id", &self.config.id));
                pairs.push(("client_secret", secret.expose()));
            }
            ClientAuthentication::Certificate | ClientAuthentication::None => {
                pairs.push(("client_id", &self.config.id));
            }
        }
        let pairs = pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        let body = Bytes::from(pairs.collect::<Vec<_>>().join("&"));
        self.exchange(Outgoing { method: Method::POST, url: url.clone(), headers, body }).await
    }

    /// Asks with an access token (RFC 6750).
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn get(&self, url: &Uri, access_token: &str) -> Result<Answered, NoAnswer> {
        let mut headers = common_headers();
        let value = HeaderValue::try_from(format!("Bearer {access_token}"));
        let mut value = value.map_err(|_| NoAnswer::Malformed)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        self.exchange(Outgoing { method: Method::GET, url: url.clone(), headers, body: Bytes::new() }).await
    }

    async fn exchange(&self, outgoing: Outgoing) -> Result<Answered, NoAnswer> {
        let asked = self.exchanger.exchange(outgoing, ANSWER_BYTES_MAX);
        let received = match tokio::time::timeout(self.config.timeout, asked).await {
            Err(_) => return Err(NoAnswer::Timeout),
            Ok(Ok(received)) => received,
            Ok(Err(ExchangeError::TooLarge(_) | ExchangeError::Request(_))) => {
                return Err(NoAnswer::Malformed);
            }
            Ok(Err(ExchangeError::Unreachable(_) | ExchangeError::Body(_))) => {
                return Err(NoAnswer::Unreachable);
            }
        };
        // 400 and 401 carry an `error` (RFC 6749 section 5.2); no other status but 200 is an answer.
        let status = received.status;
        if !matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED) {
            return Err(NoAnswer::Status);
        }
        let is_plain = received.headers.get(CONTENT_ENCODING).is_none_or(|coding| coding == "identity");
        if !is_plain || !is_json(&received.headers) {
            return Err(if status == StatusCode::OK { NoAnswer::Malformed } else { NoAnswer::Status });
        }
        match json::parse(&received.body, JSON_DEPTH_MAX) {
            Ok(Value::Object(document)) => Ok(Answered { status, document }),
            Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_))
            | Err(_) => Err(NoAnswer::Malformed),
        }
    }
}

// === impl Answered ===

impl Answered {
    /// The `error` of a refusal (RFC 6749 section 5.2).
    pub(super) fn error(&self) -> Option<&str> {
        self.document.get("error").and_then(Value::as_str)
    }
}

fn common_headers() -> HeaderMap {
    HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("application/json")),
        (USER_AGENT, HeaderValue::from_static(concat!("postern/", env!("CARGO_PKG_VERSION")))),
    ])
}

/// Exactly one content type, and that of JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else { return false };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// Form-encoded.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded() {
        assert_eq!(encoded("a b&c=d+%:/\u{e9}"), "a%20b%26c%3Dd%2B%25%3A%2F%C3%A9");
        assert_eq!(encoded("A-z0.9_*"), "A-z0.9_*");
    }

    #[test]
    fn only_json_is_json() {
        let check = |types: &[&'static str], want| {
            let headers = types.iter().map(|value| (CONTENT_TYPE, HeaderValue::from_static(value)));
            assert_eq!(is_json(&headers.collect()), want, "{types:?}");
        };
        check(&["application/json"], true);
        check(&["Application/JSON; charset=utf-8"], true);
        for bad in ["text/html", "application/token-introspection+jwt", "application/jsonp", ""] {
            check(&[bad], false);
        }
        check(&[], false);
        check(&["application/json", "text/html"], false);
    }
}
