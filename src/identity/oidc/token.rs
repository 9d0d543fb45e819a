//! The token endpoint's answer (RFC 6749 section 5.1, OpenID Connect Core 1.0 section 3.1.3.3), read strictly. Pure.

use std::time::Duration;

use serde_json::{Map, Value};

/// An access token whose answer does not say how long it holds is asked about again after this.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(5);

/// The provider is not asked again more often than this, however short its tokens hold.
const LIFETIME_MIN: Duration = Duration::from_secs(5);

const LIFETIME_MAX: Duration = Duration::from_hours(24 * 30);

/// The longest token kept.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What the provider gave.
pub(super) struct Tokens {
    pub(super) access_token: String,
    pub(super) id_token: Option<String>,
    pub(super) refresh_token: Option<String>,
    /// How long the access token holds, within bounds.
    pub(super) lifetime: Duration,
}

/// Not an answer of a token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl Tokens {
    pub(super) fn read(document: &Map<String, Value>) -> Result<Self, Malformed> {
        let text = |name: &str| match document.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() && text.len() <= TOKEN_BYTES_MAX => {
                Ok(Some(text.clone()))
            }
            Some(_) => Err(Malformed),
        };
        // RFC 6749 section 7.1: a token of a type that is not understood must not be used.
        if !text("token_type")?.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
            return Err(Malformed);
        }
        let lifetime = match document.get("expires_in") {
            None => DEFAULT_LIFETIME,
            Some(Value::Number(seconds)) => Duration::from_secs(seconds.as_u64().ok_or(Malformed)?),
            Some(_) => return Err(Malformed),
        };
        let access_token = text("access_token")?.ok_or(Malformed)?;
        // RFC 6749 appendix A.12: it goes into a header.
        if !access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Malformed);
        }
        Ok(Self {
            access_token,
            id_token: text("id_token")?,
            refresh_token: text("refresh_token")?,
            lifetime: lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX),
        })
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(change: &Value) -> Result<Tokens, Malformed> {
        let mut answer =
            json!({"access_token": "a", "token_type": "Bearer", "expires_in": 60, "id_token": "i"});
        for (name, value) in change.as_object().unwrap() {
            answer[name] = value.clone();
        }
        Tokens::read(answer.as_object().unwrap())
    }

    #[test]
    fn answers() {
        let tokens = read(&json!({"refresh_token": "r"})).unwrap();
        assert_eq!((tokens.access_token.as_str(), tokens.refresh_token.as_deref()), ("a", Some("r")));
        assert_eq!(tokens.lifetime, Duration::from_mins(1));
        assert_eq!(read(&json!({"expires_in": 0})).unwrap().lifetime, LIFETIME_MIN);
        assert_eq!(read(&json!({"expires_in": u64::MAX})).unwrap().lifetime, LIFETIME_MAX);
        assert!(read(&json!({"token_type": "bearer"})).is_ok());
        for bad in [
            json!({"token_type": "DPoP"}),
            json!({"token_type": null}),
            json!({"access_token": ""}),
            json!({"access_token": 1}),
            json!({"access_token": "a\r\nb"}),
            json!({"id_token": ["x"]}),
            json!({"expires_in": "60"}),
            json!({"expires_in": -1}),
            json!({"refresh_token": "r".repeat(9_000)}),
        ] {
            assert_eq!(read(&bad).err(), Some(Malformed), "{bad}");
        }
    }
}
