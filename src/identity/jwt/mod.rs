//! `type: jwt`: tokens that one issuer has signed (RFC 6750, RFC 7519, RFC 8725, RFC 9068), those of bearers and those bound
//! to a certificate or key of their holder (RFC 8705, RFC 9449).
//!
//! The reading of tokens and the checks of claims are here, because general libraries leave open what a gateway must
//! not: missing and wrong-typed claims, duplicate members, `crit`, keys of the wrong purpose. The arithmetic is
//! aws-lc's, with keys parsed when their set is loaded. A token whose issuer is another one is left to the chain's next
//! provider, and refused when there is none.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::config::model::{JwtProvider, TokenBinding};
use crate::contract::identity::Facts;
use crate::identity::binding::Binding;
use crate::identity::header::{self, Ambiguous};
use crate::identity::jwt::claims::{Claims, Confirmation};
use crate::identity::jwt::dpop::{DPOP, HolderKey, ProofRules};
use crate::identity::jwt::fault::{Fault, Scheme};
use crate::identity::jwt::jws::{Jws, TOKEN_BYTES_MAX};
use crate::identity::jwt::key_set::KeySet;
use crate::identity::jwt::replay::SeenProofs;
use crate::identity::{Answer, Authenticator, Presented, Proof, Rejection, Verdict};

pub(in crate::identity) mod claims;
pub mod dpop;
pub mod fault;
pub mod jwk;
pub mod jws;
pub mod key_set;
pub mod key_sets;
pub mod replay;

/// No key set has been fetched yet, or the last good one has gone stale.
const NO_KEYS: &str = "keys_unavailable";

const BEARER_SCHEME: &[u8] = b"bearer ";
const DPOP_SCHEME: &[u8] = b"dpop ";

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
    /// Which proofs of possession count; `None` where the `DPoP` scheme is not spoken.
    proofs: Option<Arc<ProofRules>>,
}

/// A token and how it was presented.
#[derive(Debug, Clone, Copy)]
struct Shown<'c> {
    token: &'c [u8],
    /// The rules of its proofs, where it came with the `DPoP` scheme.
    proofs: Option<&'c Arc<ProofRules>>,
}

/// Why there is no proof.
#[derive(Debug, Clone, Copy)]
enum Denial {
    Fault(Fault),
    Foreign(Fault),
    NoKeys,
}

/// What a good token with these claims proves, for asking a policy about somebody without one.
pub(super) fn claimed(
    config: &JwtProvider,
    claims: Map<String, Value>,
    expires_at: Duration,
) -> Result<Facts, Fault> {
    let claims = Claims::new(claims);
    if claims.issuer()? != config.issuer {
        return Err(Fault::WrongIssuer);
    }
    let audience = claims.audience(&config.audiences)?;
    claims.into_facts("jwt", &config.claims, audience, Some(expires_at))
}

impl From<Fault> for Denial {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl BearerTokens {
    /// As configured, with the keys of `config.keys`.
    pub fn new(config: JwtProvider, key_set: Arc<KeySet>) -> Self {
        Self::sharing(config, key_set, &Arc::new(SeenProofs::new()))
    }

    /// As [`BearerTokens::new`], where no proof counts that others have `seen`.
    pub fn sharing(config: JwtProvider, key_set: Arc<KeySet>, seen: &Arc<SeenProofs>) -> Self {
        let rules = |dpop| Arc::new(ProofRules::new(dpop, config.leeway, Arc::clone(seen)));
        let proofs = config.dpop.clone().map(rules);
        Self { verifier: Arc::new(Verifier { config, key_set, proofs }) }
    }
}

impl Authenticator for BearerTokens {
    fn header(&self) -> Option<&HeaderName> {
        Some(&self.verifier.config.header)
    }

    fn proof_header(&self) -> Option<&HeaderName> {
        self.verifier.proofs.is_some().then_some(&DPOP)
    }

    fn forwards_credential(&self) -> bool {
        self.verifier.config.forward_credential
    }

    fn challenge(&self) -> HeaderValue {
        self.verifier.proofs.as_ref().map_or(HeaderValue::from_static("Bearer"), |proofs| proofs.challenge())
    }

    fn find<'r>(&self, presented: &Presented<'r>) -> Result<Option<Cow<'r, [u8]>>, Rejection> {
        match token(&self.verifier.config.header, presented, self.verifier.proofs.is_some()) {
            Ok(token) => Ok(token.map(Cow::Borrowed)),
            Err(fault) => Err(fault.rejection(Scheme::Bearer)),
        }
    }

    fn verify(&self, credential: &[u8], presented: &Presented<'_>) -> Answer {
        let denial = match self.verifier.prove(credential, presented.now) {
            Ok(proof) => return Answer::Settled(Verdict::Proven(Box::new(proof))),
            Err(denial) => denial,
        };
        let missing = matches!(denial, Denial::NoKeys | Denial::Fault(Fault::UnknownKey));
        match missing.then(|| self.verifier.key_set.demand(presented.now)).flatten() {
            None => Answer::Settled(self.verifier.verdict(denial, credential)),
            Some(fetched) => {
                let (verifier, credential) = (Arc::clone(&self.verifier), credential.to_vec());
                let now = presented.now;
                Answer::Pending(Box::pin(async move {
                    fetched.await;
                    match verifier.prove(&credential, now) {
                        Ok(proof) => Verdict::Proven(Box::new(proof)),
                        Err(denial) => verifier.verdict(denial, &credential),
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
    /// Proves a token. Whether its client holds what it is bound to is for each request to show.
    fn prove(&self, credential: &[u8], now: Duration) -> Result<Proof, Denial> {
        let Shown { token, proofs } = self.shown(credential);
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
        let binding = match (claims.confirmation()?, proofs) {
            (None, None) if self.config.binding == TokenBinding::Optional => None,
            (None, _) => return Err(Fault::NotBound.into()),
            (Some(Confirmation::Certificate(fingerprint)), None) => Some(Binding::Certificate(fingerprint)),
            (Some(Confirmation::Key(thumbprint)), Some(proofs)) => {
                Some(Binding::Key(HolderKey::new(thumbprint, token, Arc::clone(proofs))))
            }
            // A stolen token must not get by as another kind of token (RFC 9449 section 7.2).
            (Some(Confirmation::Certificate(_)), Some(_)) | (Some(Confirmation::Key(_)), None) => {
                return Err(Fault::HolderNotProven.into());
            }
        };
        let facts = claims.into_facts("jwt", &self.config.claims, audience, Some(expires_at))?;
        Ok(Proof { facts, validity, binding: binding.map(Arc::new), revision: keys.revision() })
    }

    /// The token of a credential as [`credential`] gives it.
    fn shown<'c>(&'c self, credential: &'c [u8]) -> Shown<'c> {
        let of_dpop =
            self.proofs.as_ref().and_then(|proofs| Some((proofs, after_scheme(credential, DPOP_SCHEME)?)));
        of_dpop.map_or(Shown { token: credential, proofs: None }, |(proofs, token)| Shown {
            token,
            proofs: Some(proofs),
        })
    }

    fn verdict(&self, denial: Denial, credential: &[u8]) -> Verdict {
        let scheme = self.shown(credential).proofs.map_or(Scheme::Bearer, |proofs| proofs.scheme());
        match denial {
            Denial::Fault(fault) => Verdict::Refused(fault.rejection(scheme)),
            Denial::Foreign(fault) => Verdict::Foreign(fault.rejection(scheme)),
            Denial::NoKeys => Verdict::Unavailable(NO_KEYS),
        }
    }
}

/// The token in the header `name`, with its scheme where that is `DPoP`'s. Looks at as little of it as can be: one seen before is
/// known by its hash, whatever is in it.
pub(super) fn token<'r>(
    name: &HeaderName,
    presented: &Presented<'r>,
    speaks_dpop: bool,
) -> Result<Option<&'r [u8]>, Fault> {
    let value = match header::only(presented.headers, name) {
        Ok(None) => return Ok(None),
        Ok(Some(value)) => value,
        Err(Ambiguous) => return Err(Fault::SeveralCredentials),
    };
    let token = if name == AUTHORIZATION { credential(value, speaks_dpop)? } else { Some(value) };
    let Some(token) = token else { return Ok(None) };
    // RFC 6750 section 2: not more than one way to send a token in one request.
    if header::query_has(presented.query, "access_token") {
        return Err(Fault::SeveralCredentials);
    }
    if token.len() > TOKEN_BYTES_MAX + DPOP_SCHEME.len() {
        return Err(Fault::TooLarge);
    }
    Ok(Some(token))
}

/// The credential of an `Authorization` value (RFC 9110 section 11.4): a bearer's token alone (RFC 6750 section 2.1), or
/// the whole value with the `DPoP` scheme (RFC 9449 section 7.1), so that a token presented one way is not known the other
/// way. `None` for another scheme.
fn credential(value: &[u8], speaks_dpop: bool) -> Result<Option<&[u8]>, Fault> {
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t' | b','));
    let (scheme, _) = value.split_at(end.unwrap_or(value.len()));
    let is = |wanted: &[u8]| scheme.eq_ignore_ascii_case(wanted);
    // Exactly one space: RFC 9110 has more in its grammar, and nobody sends them in good faith.
    if is(b"bearer") {
        return after_scheme(value, BEARER_SCHEME).map(Some).ok_or(Fault::Malformed);
    }
    if speaks_dpop && is(b"dpop") {
        return after_scheme(value, DPOP_SCHEME).map(|_| Some(value)).ok_or(Fault::Malformed);
    }
    // Two credentials joined by a comma: someone downstream might take the second.
    let hidden = value.split(|byte| *byte == b',').skip(1).any(|part| {
        let part = part.trim_ascii_start();
        let begins =
            |scheme: &[u8]| part.get(..scheme.len()).is_some_and(|part| part.eq_ignore_ascii_case(scheme));
        begins(b"bearer") || (speaks_dpop && begins(b"dpop"))
    });
    if hidden { Err(Fault::SeveralCredentials) } else { Ok(None) }
}

/// What follows a scheme and its one space.
fn after_scheme<'v>(value: &'v [u8], scheme: &[u8]) -> Option<&'v [u8]> {
    let (given, rest) = value.split_at_checked(scheme.len())?;
    given.eq_ignore_ascii_case(scheme).then_some(rest)
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
            assert_eq!(credential(value.as_bytes(), true), Ok(Some(&b"a.b.c"[..])), "{value}");
        }
        for value in ["Basic YTpi", "", "Digest a=\"b\", c=\"d\"", "BearerX a.b.c", "Basic a, Basic b"] {
            assert_eq!(credential(value.as_bytes(), true), Ok(None), "{value}");
        }
        for value in ["DPoP a.b.c", "dpop a.b.c"] {
            assert_eq!(credential(value.as_bytes(), true), Ok(Some(value.as_bytes())), "{value}");
            assert_eq!(credential(value.as_bytes(), false), Ok(None), "{value}");
        }
        for value in ["Bearer", "Bearer\ta.b.c", "Bearer,a", "DPoP", "DPoP\ta.b.c"] {
            assert_eq!(credential(value.as_bytes(), true), Err(Fault::Malformed), "{value}");
        }
        for value in ["Basic a, Bearer a.b.c", "Basic a,bearer a.b.c", "Basic a, DPoP a.b.c"] {
            assert_eq!(credential(value.as_bytes(), true), Err(Fault::SeveralCredentials), "{value}");
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
