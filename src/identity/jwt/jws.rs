//! JSON Web Signatures in compact serialization (RFC 7515), read as strictly as the standard allows and then some.
//!
//! A signature means nothing unless everyone reads the same header and payload: base64url has one spelling, members come
//! once, and whatever would let the token choose its own key or hide its payload is refused, not ignored.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use crate::base::json::{self, StrictJsonError};
use crate::identity::jwt::fault::Fault;
use crate::identity::jwt::jwk::{Keys, Verifier};

/// Longest token read.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Deepest nesting of a token's JSON.
pub(in crate::identity) const JSON_DEPTH_MAX: usize = 32;

/// Header parameters that are refused: RFC 7515 section 4.1 (keys and certificates that the token itself brings, and
/// extensions that must be understood), RFC 7516 (encryption), RFC 7797 (unencoded payload), RFC 7519 section 5.2
/// (nested tokens).
const REFUSED_PARAMETERS: [&str; 9] = [OWN_KEY, "crit", "jku", "x5u", "x5c", "zip", "enc", "b64", "cty"];

/// The key that a token itself brings, which only a proof of possession may (RFC 9449 section 4.2).
const OWN_KEY: &str = "jwk";

/// A token in its parts, not yet verified.
#[derive(Debug)]
pub struct Jws<'t> {
    algorithm: Algorithm,
    key_id: Option<String>,
    token_type: Option<String>,
    signing_input: &'t [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Whether the credential has the three parts of a compact JWS; an opaque token has not, and may be another provider's.
pub(in crate::identity) fn has_shape(token: &[u8]) -> bool {
    memchr::memchr_iter(b'.', token).count() == 2
}

impl<'t> Jws<'t> {
    /// Takes a token apart.
    pub fn parse(token: &'t [u8]) -> Result<Self, Fault> {
        let (jws, own_key) = Self::take_apart(token)?;
        if own_key.is_some() { Err(Fault::HeaderParameter) } else { Ok(jws) }
    }

    /// Takes a token apart that must bring its own key, and gives that beside it. Nobody has vouched for the key.
    pub(super) fn parse_with_key(token: &'t [u8]) -> Result<(Self, Value), Fault> {
        let (jws, own_key) = Self::take_apart(token)?;
        Ok((jws, own_key.ok_or(Fault::HeaderParameter)?))
    }

    fn take_apart(token: &'t [u8]) -> Result<(Self, Option<Value>), Fault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Fault::TooLarge);
        }
        let mut dots = memchr::memchr_iter(b'.', token);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(Fault::Malformed);
        };
        let (signing_input, signature) = token.split_at(second);
        let (header, payload) = signing_input.split_at(first);
        let mut header = parse_object(&decode(header)?)?;
        let own_key = header.remove(OWN_KEY);
        if REFUSED_PARAMETERS.iter().any(|name| header.contains_key(*name)) {
            return Err(Fault::HeaderParameter);
        }
        let algorithm = text(&header, "alg")?.ok_or(Fault::Malformed)?;
        let jws = Self {
            algorithm: Algorithm::from_str(&algorithm).map_err(|_| Fault::Algorithm)?,
            key_id: text(&header, "kid")?,
            token_type: text(&header, "typ")?,
            signing_input,
            payload: decode(payload.get(1..).unwrap_or_default())?,
            signature: decode(signature.get(1..).unwrap_or_default())?,
        };
        Ok((jws, own_key))
    }

    /// The payload, which nobody has vouched for before [`Jws::verify`].
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The `alg` parameter.
    pub(in crate::identity) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The `typ` parameter.
    pub(in crate::identity) fn token_type(&self) -> Option<&str> {
        self.token_type.as_deref()
    }

    /// Proves that a key of the set made the signature, with one of the allowed algorithms.
    pub fn verify(&self, keys: &Keys, allowed: &[Algorithm]) -> Result<(), Fault> {
        if !allowed.contains(&self.algorithm) {
            return Err(Fault::Algorithm);
        }
        self.check_made_by(keys.select(self.key_id.as_deref(), self.algorithm)?)
    }

    /// Proves that this key made the signature.
    pub(super) fn check_made_by(&self, key: &Verifier) -> Result<(), Fault> {
        if key.verify(self.signing_input, &self.signature) { Ok(()) } else { Err(Fault::BadSignature) }
    }
}

/// The claims of a payload.
pub(in crate::identity) fn parse_object(text: &[u8]) -> Result<Map<String, Value>, Fault> {
    match json::parse(text, JSON_DEPTH_MAX) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_))
        | Err(StrictJsonError::Malformed | StrictJsonError::TooDeep) => Err(Fault::Malformed),
        Err(StrictJsonError::DuplicateMember) => Err(Fault::DuplicateMember),
    }
}

/// Base64url without padding, white space or stray bits in the last character (RFC 7515 section 2).
fn decode(part: &[u8]) -> Result<Vec<u8>, Fault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Fault::Malformed)
}

fn text(header: &Map<String, Value>, name: &str) -> Result<Option<String>, Fault> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Fault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    #[track_caller]
    fn check(token: &str, want: Result<(), Fault>) {
        assert_eq!(Jws::parse(token.as_bytes()).map(drop), want, "{token}");
    }

    #[track_caller]
    fn check_header(header: &str, want: Result<(), Fault>) {
        check(&token(header, "{}"), want);
    }

    #[test]
    fn headers() {
        check_header(r#"{"alg":"RS256"}"#, Ok(()));
        check_header(r#"{"alg":"RS256","kid":"a","typ":"JWT","x5t":"unused","other":[{"a":1}]}"#, Ok(()));
        check_header(r#"{"alg":"none"}"#, Err(Fault::Algorithm));
        check_header(r#"{"alg":"rs256"}"#, Err(Fault::Algorithm));
        check_header(r#"{"alg":"RS256","alg":"none"}"#, Err(Fault::DuplicateMember));
        check_header(r#"{"alg":["RS256"]}"#, Err(Fault::Malformed));
        check_header(r#"{"alg":"RS256","kid":1}"#, Err(Fault::Malformed));
        check_header(r#"{"alg":"RS256","typ":null}"#, Err(Fault::Malformed));
        check_header("{}", Err(Fault::Malformed));
        check_header("[]", Err(Fault::Malformed));
        check_header("", Err(Fault::Malformed));
        for name in REFUSED_PARAMETERS {
            for value in ["null", "[]", "\"x\"", "false"] {
                check_header(&format!(r#"{{"alg":"RS256","{name}":{value}}}"#), Err(Fault::HeaderParameter));
            }
        }
    }

    #[test]
    fn base64url_has_one_spelling() {
        let good = token(r#"{"alg":"RS256"}"#, "{}");
        let (head, _) = good.rsplit_once('.').unwrap();
        for signature in ["c2ln=", "c2 ln", "c2ln\n", "c2l+", "c2l/", "c2p", "c", "\u{e9}"] {
            // `c2p` is `c2o` with a stray bit.
            check(&format!("{head}.{signature}"), Err(Fault::Malformed));
        }
        check(&format!("{head}.c2o"), Ok(()));
        check(&format!(" {good}"), Err(Fault::Malformed));
    }

    #[test]
    fn a_token_has_three_parts_and_a_bound() {
        for text in ["", ".", "..", "a.b", "a.b.c.d", "e30.e30", "{\"payload\":\"\",\"signatures\":[]}"] {
            check(text, Err(Fault::Malformed));
        }
        check(&"a".repeat(TOKEN_BYTES_MAX + 1), Err(Fault::TooLarge));
        check(&token(&format!("{}{}", "[".repeat(2_000), "]".repeat(2_000)), "{}"), Err(Fault::Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Jws::parse(&bytes).is_err());
        }

        #[test]
        fn arbitrary_headers_never_panic(header in r#"\{("(alg|kid|typ|crit)":("RS256"|1|null|\[\]),?){0,4}\}"#) {
            if let Ok(jws) = Jws::parse(token(&header, "x").as_bytes()) {
                prop_assert_eq!(jws.algorithm, Algorithm::RS256);
            }
        }
    }
}
