//! `type: jwt`: bearer tokens that one issuer has signed (RFC 6750, RFC 7519, RFC 8725, RFC 9068).
//!
//! The reading of tokens and the checks of claims are here, because general libraries leave open what a gateway must
//! not: missing and wrong-typed claims, duplicate members, `crit`, keys of the wrong purpose. The arithmetic is
//! aws-lc's, with keys parsed when their set is loaded. A token whose issuer is another one is left to the chain's next
//! provider, and refused when there is none.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::config::model::JwtProvider;
use crate::identity::header::{self, Ambiguous};
use crate::identity::jwt::claims::Claims;
use crate::identity::jwt::fault::Fault;
use crate::identity::jwt::jws::{Jws, TOKEN_BYTES_MAX};
use crate::identity::jwt::key_set::KeySet;
use crate::identity::{Answer, Authenticator, Presented, Proof, Rejection, Verdict};

pub(in crate::identity) mod claims;
pub mod fault;
pub mod jwk;
pub mod jws;
pub mod key_set;
pub mod key_sets;

/// No key set has been fetched yet, or the last good one has gone stale.
const NO_KEYS: &str = "keys_unavailable";

/// Proves bearer tokens of one issuer.
#[derive(Debug)]
pub struct BearerTokens {
    verifier: Arc<Verifier>,
}

/// All that a verification needs; shared with verifications that wait for keys.
#[derive(Debug)]
struct Verifier {
    config: JwtProvider,
    key_set: Arc<KeySet>,
}

/// Why there is no proof.
#[derive(Debug, Clone, Copy)]
enum Denial {
    Fault(Fault),
    Foreign(Fault),
    NoKeys,
}

impl From<Fault> for Denial {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl BearerTokens {
    /// As configured, with the keys of `config.keys`.
    pub fn new(config: JwtProvider, key_set: Arc<KeySet>) -> Self {
        Self { verifier: Arc::new(Verifier { config, key_set }) }
    }
}

impl Authenticator for BearerTokens {
    fn header(&self) -> Option<&HeaderName> {
        Some(&self.verifier.config.header)
    }

    fn forwards_credential(&self) -> bool {
        self.verifier.config.forward_credential
    }

    fn challenge(&self) -> HeaderValue {
        HeaderValue::from_static("Bearer")
    }

    fn find<'r>(&self, presented: &Presented<'r>) -> Result<Option<Cow<'r, [u8]>>, Rejection> {
        match token(&self.verifier.config.header, presented) {
            Ok(token) => Ok(token.map(Cow::Borrowed)),
            Err(fault) => Err(fault.rejection()),
        }
    }

    fn verify(&self, token: &[u8], presented: &Presented<'_>) -> Answer {
        let holder = presented.client_certificate().map(|held| held.fingerprint_sha256.as_str());
        let denial = match self.verifier.prove(token, holder, presented.now) {
            Ok(proof) => return Answer::Settled(Verdict::Proven(Box::new(proof))),
            Err(denial) => denial,
        };
        let missing = matches!(denial, Denial::NoKeys | Denial::Fault(Fault::UnknownKey));
        match missing.then(|| self.verifier.key_set.demand(presented.now)).flatten() {
            None => Answer::Settled(denial.verdict()),
            Some(fetched) => {
                let (verifier, token) = (Arc::clone(&self.verifier), token.to_vec());
                let (holder, now) = (holder.map(str::to_owned), presented.now);
                Answer::Pending(Box::pin(async move {
                    fetched.await;
                    match verifier.prove(&token, holder.as_deref(), now) {
                        Ok(proof) => Verdict::Proven(Box::new(proof)),
                        Err(denial) => denial.verdict(),
                    }
                }))
            }
        }
    }

    fn revision(&self) -> u64 {
        self.verifier.key_set.revision()
    }
}

impl Verifier {
    /// Proves a token to a client that holds the certificate of fingerprint `holder`.
    fn prove(&self, token: &[u8], holder: Option<&str>, now: Duration) -> Result<Proof, Denial> {
        check_token68(token)?;
        if !jws::has_shape(token) {
            return Err(Denial::Foreign(Fault::Malformed));
        }
        let jws = Jws::parse(token)?;
        let claims = Claims::new(jws::parse_object(jws.payload())?);
        // Before the signature: keys belong to an issuer, and are tried on no other's tokens.
        if claims.issuer()? != self.config.issuer {
            return Err(Denial::Foreign(Fault::WrongIssuer));
        }
        let keys = self.key_set.keys();
        let keys = keys.as_ref().ok_or(Denial::NoKeys)?;
        jws.verify(keys, &self.config.algorithms)?;
        check_type(jws.token_type(), self.config.token_type.as_deref())?;
        let (validity, expires_at) = claims.validity(now, self.config.leeway)?;
        let audience = claims.audience(&self.config.audiences)?;
        let bound_to = claims.bound_certificate()?;
        if bound_to.is_some() && bound_to.as_deref() != holder {
            return Err(Denial::Fault(Fault::HolderNotProven));
        }
        let facts = claims.into_facts("jwt", &self.config.claims, audience, Some(expires_at))?;
        Ok(Proof { facts, validity, bound_to, revision: keys.revision() })
    }
}

impl Denial {
    fn verdict(self) -> Verdict {
        match self {
            Self::Fault(fault) => Verdict::Refused(fault.rejection()),
            Self::Foreign(fault) => Verdict::Foreign(fault.rejection()),
            Self::NoKeys => Verdict::Unavailable(NO_KEYS),
        }
    }
}

/// The token in the header `name`. Looks at as little of it as can be: one seen before is known by its hash, whatever is in it.
pub(super) fn token<'r>(name: &HeaderName, presented: &Presented<'r>) -> Result<Option<&'r [u8]>, Fault> {
    let value = match header::only(presented.headers, name) {
        Ok(None) => return Ok(None),
        Ok(Some(value)) => value,
        Err(Ambiguous) => return Err(Fault::SeveralCredentials),
    };
    let token = if name == AUTHORIZATION { bearer(value)? } else { Some(value) };
    let Some(token) = token else { return Ok(None) };
    // RFC 6750 section 2: not more than one way to send a token in one request.
    if header::query_has(presented.query, "access_token") {
        return Err(Fault::SeveralCredentials);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Fault::TooLarge);
    }
    Ok(Some(token))
}

/// The token of an `Authorization` value, `None` for another scheme (RFC 9110 section 11.4, RFC 6750 section 2.1).
fn bearer(value: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t' | b','));
    let (scheme, rest) = value.split_at(end.unwrap_or(value.len()));
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        // Two credentials joined by a comma: someone downstream might take the second.
        let hidden = value.split(|byte| *byte == b',').skip(1).any(|part| {
            part.trim_ascii_start().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
        });
        return if hidden { Err(Fault::SeveralCredentials) } else { Ok(None) };
    }
    // Exactly one space: RFC 9110 has more in its grammar, and nobody sends them in good faith.
    rest.strip_prefix(b" ").map(Some).ok_or(Fault::Malformed)
}

/// RFC 9110 section 11.2.
pub(super) fn check_token68(token: &[u8]) -> Result<(), Fault> {
    if memchr::memchr(b',', token).is_some() {
        return Err(Fault::SeveralCredentials);
    }
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if token.is_empty() || !token.iter().all(fits) { Err(Fault::Malformed) } else { Ok(()) }
}

/// RFC 7515 section 4.1.9: `application/` may be left out; RFC 8725 section 3.11: a type keeps kinds of tokens apart.
fn check_type(given: Option<&str>, required: Option<&str>) -> Result<(), Fault> {
    let bare = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("application/").map(str::to_owned).unwrap_or(name)
    };
    let given = given.map(bare);
    let fits = match required {
        Some(required) => given.as_deref() == Some(&*bare(required)),
        None => matches!(given.as_deref(), None | Some("jwt" | "at+jwt")),
    };
    if fits { Ok(()) } else { Err(Fault::WrongType) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorization_values() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
            assert_eq!(bearer(value.as_bytes()), Ok(Some(&b"a.b.c"[..])), "{value}");
        }
        for value in ["Basic YTpi", "", "Digest a=\"b\", c=\"d\"", "BearerX a.b.c", "Basic a, Basic b"] {
            assert_eq!(bearer(value.as_bytes()), Ok(None), "{value}");
        }
        for value in ["Bearer", "Bearer\ta.b.c", "Bearer,a"] {
            assert_eq!(bearer(value.as_bytes()), Err(Fault::Malformed), "{value}");
        }
        for value in ["Basic a, Bearer a.b.c", "Basic a,bearer a.b.c"] {
            assert_eq!(bearer(value.as_bytes()), Err(Fault::SeveralCredentials), "{value}");
        }
    }

    #[test]
    fn tokens_are_token68() {
        assert_eq!(check_token68(b"aZ09-._~+/=="), Ok(()));
        for token in ["", " a.b.c", "a b", "\"\"", "a\tb", "{\"payload\":1}"] {
            assert_eq!(check_token68(token.as_bytes()), Err(Fault::Malformed), "{token}");
        }
        assert_eq!(check_token68(b"a.b.c,d.e.f"), Err(Fault::SeveralCredentials));
    }

    #[test]
    fn types() {
        for given in [None, Some("JWT"), Some("jwt"), Some("at+jwt"), Some("application/at+JWT")] {
            assert_eq!(check_type(given, None), Ok(()), "{given:?}");
        }
        for given in [Some("at+jwt"), Some("AT+JWT"), Some("application/at+jwt")] {
            assert_eq!(check_type(given, Some("at+jwt")), Ok(()), "{given:?}");
        }
        for given in [None, Some("JWT"), Some("at+jwt2"), Some("")] {
            assert_eq!(check_type(given, Some("at+jwt")), Err(Fault::WrongType), "{given:?}");
        }
        for given in [Some("dpop+jwt"), Some("logout+jwt"), Some("secevent+jwt"), Some("")] {
            assert_eq!(check_type(given, None), Err(Fault::WrongType), "{given:?}");
        }
    }
}
