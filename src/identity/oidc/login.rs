//! A login on its way: what the gateway sends along with the browser, what it keeps in the browser meanwhile, and what comes back
//! (OpenID Connect Core 1.0 section 3.1, PKCE RFC 7636, RFC 9207). Pure.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, Uri};
use serde_json::{Map, Value, json};

use super::seal::random_text;
use crate::base::json;
use crate::contract::input::form_pairs;
use crate::identity::digest::sha256;
use crate::identity::oauth::encoded;

/// How long a login may take.
pub(super) const LOGIN_MAX: Duration = Duration::from_mins(10);

/// Characters of the state that name the login's cookie.
const ID_CHARS: usize = 12;

/// The longest path that a browser is sent back to.
const RETURN_BYTES_MAX: usize = 1_500;

/// The longest parameter of a callback.
const PARAMETER_BYTES_MAX: usize = 4_096;

/// A login that has begun.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) verifier: String,
    /// A path of the same origin, with its query.
    pub(super) return_to: String,
    /// Seconds since the Unix epoch.
    started: u64,
}

/// What the authorization request says of the gateway.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) client_id: &'a str,
    pub(super) redirect_uri: &'a str,
    pub(super) scopes: &'a [String],
}

/// What the provider sends a browser back with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Callback {
    pub(super) state: String,
    pub(super) issuer: Option<String>,
    /// A code, or that there is none.
    pub(super) code: Option<String>,
}

/// The callback's query is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

// === impl Login ===

impl Login {
    /// A login after which the browser goes to `return_to`. `None` only where there are no random numbers.
    pub(super) fn begin(return_to: &str, now: Duration) -> Option<Self> {
        Some(Self {
            state: random_text::<24>().ok()?,
            nonce: random_text::<24>().ok()?,
            verifier: random_text::<32>().ok()?,
            return_to: return_path(return_to).unwrap_or("/").to_owned(),
            started: now.as_secs(),
        })
    }

    /// Names its cookie.
    pub(super) fn id(&self) -> &str {
        login_id(&self.state).unwrap_or_default()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { state, nonce, verifier, return_to, started } = self;
        json!({"state": state, "nonce": nonce, "verifier": verifier, "return": return_to, "at": started})
            .to_string()
            .into_bytes()
    }

    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        let Ok(Value::Object(document)) = json::parse(text, 2) else { return None };
        let text = |name: &str| Some(document.get(name)?.as_str()?.to_owned());
        Some(Self {
            state: text("state")?,
            nonce: text("nonce")?,
            verifier: text("verifier")?,
            return_to: text("return")?,
            started: document.get("at")?.as_u64()?,
        })
    }

    /// Whether it has not taken too long.
    pub(super) fn is_current(&self, now: Duration) -> bool {
        let started = Duration::from_secs(self.started);
        now.checked_sub(started).is_none_or(|took| took < LOGIN_MAX)
    }

    /// Where the browser is sent to log in.
    pub(super) fn url(&self, endpoint: &Uri, request: &Request<'_>) -> Option<HeaderValue> {
        let challenge = URL_SAFE_NO_PAD.encode(sha256(self.verifier.as_bytes()));
        let scope = request.scopes.join(" ");
        let parameters = [
            ("response_type", "code"),
            ("client_id", request.client_id),
            ("redirect_uri", request.redirect_uri),
            ("scope", &scope),
            ("state", &self.state),
            ("nonce", &self.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        with_parameters(endpoint, &parameters)
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("started", &self.started).finish_non_exhaustive()
    }
}

/// The name of the login with this state.
pub(super) fn login_id(state: &str) -> Option<&str> {
    let id = state.get(..ID_CHARS)?;
    id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)).then_some(id)
}

/// A URL with more parameters; what it has already stays.
pub(super) fn with_parameters(endpoint: &Uri, parameters: &[(&str, &str)]) -> Option<HeaderValue> {
    let mut url = endpoint.to_string();
    for (name, value) in parameters {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.extend([encoded(name), "=".to_owned(), encoded(value)]);
    }
    HeaderValue::try_from(url).ok()
}

impl Callback {
    /// Reads the query. What is there twice is malformed: somebody would take the other one.
    pub(super) fn parse(query: &str) -> Result<Self, Malformed> {
        let mut found: Map<String, Value> = Map::new();
        for (name, value) in form_pairs(query) {
            if !["state", "code", "iss", "error"].contains(&&*name) {
                continue;
            }
            if value.len() > PARAMETER_BYTES_MAX || found.contains_key(&*name) {
                return Err(Malformed);
            }
            found.insert(name.into_owned(), Value::from(value.into_owned()));
        }
        let mut take = |name: &str| match found.remove(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            Some(_) | None => None,
        };
        let (state, issuer, code, error) = (take("state"), take("iss"), take("code"), take("error"));
        if code.is_some() == error.is_some() {
            return Err(Malformed);
        }
        Ok(Self { state: state.ok_or(Malformed)?, issuer, code })
    }
}

/// A path of the same origin, with its query: nothing that a browser could take for another place.
pub(super) fn return_path(text: &str) -> Option<&str> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\<>\"{}|^`#".contains(&byte));
    let is_path = text.starts_with('/') && !text.starts_with("//");
    (is_path && is_plain && text.len() <= RETURN_BYTES_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_the_same_origin_are_returned_to() {
        for good in ["/", "/a/b?c=d&e=%2F", "/a//b", "/?next=//evil.test"] {
            assert_eq!(return_path(good), Some(good));
        }
        let long = format!("/{}", "a".repeat(RETURN_BYTES_MAX));
        for bad in [
            "",
            "//evil.test",
            "///evil.test",
            "https://evil.test",
            "a",
            "/\\evil.test",
            "\\/evil.test",
            "/a\\b",
            "/a b",
            "/\tevil",
            "/a\r\nSet-Cookie: x",
            "/\u{e9}",
            "javascript:alert(1)",
            "/a#b",
            &long,
        ] {
            assert_eq!(return_path(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_login_is_kept_and_read() {
        let now = Duration::from_secs(1_000);
        let login = Login::begin("/deep?x=1", now).unwrap();
        assert_eq!(Login::decode(&login.encode()), Some(login.clone()));
        assert_eq!(login_id(&login.state), Some(login.id()));
        assert!(login.is_current(Duration::from_secs(1_599)));
        assert!(!login.is_current(now + LOGIN_MAX));
        assert_eq!(Login::begin("//evil", now).unwrap().return_to, "/");
        assert_ne!(Login::begin("/", now).unwrap().state, login.state);
        assert_eq!(Login::decode(b"{}"), None);
    }

    #[test]
    fn the_authorization_request_has_all_its_parameters() {
        let login = Login {
            state: "stateXXXXXXXXXXX".to_owned(),
            nonce: "n".to_owned(),
            // RFC 7636 appendix B.
            verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned(),
            return_to: "/".to_owned(),
            started: 0,
        };
        let scopes = ["openid".to_owned(), "email".to_owned()];
        let request = Request { client_id: "g w", redirect_uri: "https://shop.test/cb", scopes: &scopes };
        let url = login.url(&"https://idp.test/auth?tenant=a".parse().unwrap(), &request).unwrap();
        let want = "https://idp.test/auth?tenant=a&response_type=code&client_id=g%20w&redirect_uri=https%3A%2F%2Fshop.test%2Fcb\
            &scope=openid%20email&state=stateXXXXXXXXXXX&nonce=n&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";
        assert_eq!(url, want);
    }

    #[test]
    fn callbacks() {
        let callback = |state: &str, issuer: Option<&str>, code: Option<&str>| {
            Ok(Callback {
                state: state.to_owned(),
                issuer: issuer.map(str::to_owned),
                code: code.map(str::to_owned),
            })
        };
        let parse = Callback::parse;
        assert_eq!(parse("code=c&state=s"), callback("s", None, Some("c")));
        assert_eq!(
            parse("code=c%2B&state=s&iss=https%3A%2F%2Fi&session_state=x"),
            callback("s", Some("https://i"), Some("c+"))
        );
        assert_eq!(parse("error=access_denied&error_description=no&state=s"), callback("s", None, None));
        for bad in [
            "",
            "code=c",
            "state=s",
            "code=&state=s",
            "code=c&state=",
            "code=c&state=s&state=s",
            "code=c&code=d&state=s",
            "code=c&state=s&iss=a&iss=b",
            "code=c&error=e&state=s",
        ] {
            assert_eq!(parse(bad), Err(Malformed), "{bad}");
        }
    }
}
