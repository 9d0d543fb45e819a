//! ID tokens (OpenID Connect Core 1.0 section 3.1.3.7) and logout tokens (Back-Channel Logout 1.0 section 2.6), judged by the
//! same strict reading of tokens and claims as bearer tokens. Pure.

use std::time::Duration;

use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use crate::identity::jwt::claims::Claims;
use crate::identity::jwt::fault::Fault;
use crate::identity::jwt::jwk::Keys;
use crate::identity::jwt::jws::{self, Jws};

/// The event that makes a token a logout token.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A logout token is used at once.
const LOGOUT_AGE_MAX: Duration = Duration::from_mins(5);

/// The longest `sub` (OpenID Connect Core 1.0 section 2) and `sid` taken.
const NAME_BYTES_MAX: usize = 255;

/// Whose tokens are accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) algorithms: &'a [Algorithm],
    pub(super) leeway: Duration,
    pub(super) now: Duration,
}

/// What an ID token must go with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Login<'a> {
    /// `None` after a renewal, where there need not be one.
    pub(super) nonce: Option<&'a str>,
    pub(super) access_token: &'a str,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenFault {
    /// As any token.
    Token(Fault),
    /// The nonce is not that of this login.
    WrongNonce,
    /// `at_hash` is another access token's.
    WrongAccessToken,
    /// `azp` is another client.
    WrongClient,
    /// Not a logout token.
    NoLogout,
}

/// Whom the provider has logged out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Logout {
    pub(super) subject: Option<String>,
    pub(super) session: Option<String>,
}

impl From<Fault> for TokenFault {
    fn from(fault: Fault) -> Self {
        Self::Token(fault)
    }
}

impl TokenFault {
    /// A stable word.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Token(fault) => fault.reason(),
            Self::WrongNonce => "oidc_wrong_nonce",
            Self::WrongAccessToken => "oidc_wrong_access_token",
            Self::WrongClient => "oidc_wrong_client",
            Self::NoLogout => "oidc_no_logout_token",
        }
    }
}

/// The claims of an ID token, where all is as it should be.
pub(super) fn id_token(
    token: &str,
    keys: &Keys,
    expected: &Expected<'_>,
    login: Login<'_>,
) -> Result<Map<String, Value>, TokenFault> {
    let (jws, claims) = verified(token, keys, expected, &["jwt"])?;
    claims.validity(expected.now, expected.leeway)?;
    claims.time("iat")?.ok_or(Fault::MissingClaim)?;
    if claims.text("sub")?.is_none_or(|subject| subject.is_empty() || subject.len() > NAME_BYTES_MAX) {
        return Err(Fault::InvalidClaim.into());
    }
    let audience = claims.audience(&[expected.client_id.to_owned()])?;
    let party = claims.text("azp")?;
    if party.is_some_and(|party| party != expected.client_id) || (party.is_none() && audience.len() > 1) {
        return Err(TokenFault::WrongClient);
    }
    match (login.nonce, claims.text("nonce")?) {
        (Some(sent), Some(got)) if are_equal(sent.as_bytes(), got.as_bytes()) => {}
        (None, _) => {}
        (Some(_), _) => return Err(TokenFault::WrongNonce),
    }
    if let Some(hash) = claims.text("at_hash")?
        && !are_equal(hash.as_bytes(), half_hash(jws.algorithm(), login.access_token).as_bytes())
    {
        return Err(TokenFault::WrongAccessToken);
    }
    Ok(claims.members().clone())
}

/// Whom a logout token logs out.
pub(super) fn logout_token(token: &str, keys: &Keys, expected: &Expected<'_>) -> Result<Logout, TokenFault> {
    let (_, claims) = verified(token, keys, expected, &["logout+jwt", "jwt"])?;
    claims.audience(&[expected.client_id.to_owned()])?;
    let latest = expected.now.saturating_add(expected.leeway);
    let issued_at = claims.time("iat")?.ok_or(Fault::MissingClaim)?;
    if issued_at > latest {
        return Err(Fault::IssuedInFuture.into());
    }
    // Older providers send no `exp`; a logout that comes late is a replay all the same.
    let end = claims.time("exp")?.unwrap_or(issued_at.saturating_add(LOGOUT_AGE_MAX));
    if expected.now >= end.saturating_add(expected.leeway) {
        return Err(Fault::Expired.into());
    }
    if claims.text("jti")?.is_none_or(str::is_empty) {
        return Err(Fault::MissingClaim.into());
    }
    let event = claims.members().get("events").and_then(|events| events.get(LOGOUT_EVENT));
    // With a nonce it could pass for an ID token (section 2.4).
    if !event.is_some_and(Value::is_object) || claims.members().contains_key("nonce") {
        return Err(TokenFault::NoLogout);
    }
    let name = |claim: &str| -> Result<Option<String>, TokenFault> {
        let name = claims.text(claim)?;
        if name.is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            return Err(Fault::InvalidClaim.into());
        }
        Ok(name.map(str::to_owned))
    };
    let (subject, session) = (name("sub")?, name("sid")?);
    if subject.is_none() && session.is_none() {
        return Err(TokenFault::NoLogout);
    }
    Ok(Logout { subject, session })
}

/// A token of the issuer: signed by it, and of one of these types or without one.
fn verified<'t>(
    token: &'t str,
    keys: &Keys,
    expected: &Expected<'_>,
    types: &[&str],
) -> Result<(Jws<'t>, Claims), TokenFault> {
    let jws = Jws::parse(token.as_bytes())?;
    let claims = Claims::new(jws::parse_object(jws.payload())?);
    if claims.issuer()? != expected.issuer {
        return Err(Fault::WrongIssuer.into());
    }
    jws.verify(keys, expected.algorithms)?;
    let kind = jws.token_type().map(str::to_ascii_lowercase);
    let kind = kind.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
    if kind.is_some_and(|kind| !types.contains(&kind)) {
        return Err(Fault::WrongType.into());
    }
    Ok((jws, claims))
}

/// Half of the hash that goes with the signature's algorithm (OpenID Connect Core 1.0 section 3.1.3.6).
fn half_hash(algorithm: Algorithm, token: &str) -> String {
    let hash = match algorithm {
        Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 | Algorithm::HS384 => &digest::SHA384,
        Algorithm::RS512 | Algorithm::PS512 | Algorithm::HS512 | Algorithm::EdDSA => &digest::SHA512,
        Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256 | Algorithm::HS256 => &digest::SHA256,
        // Of an algorithm that is not known here, no hash is right.
        _ => return String::new(),
    };
    let digest = digest::digest(hash, token.as_bytes());
    let bytes = digest.as_ref();
    URL_SAFE_NO_PAD.encode(bytes.get(..bytes.len() / 2).unwrap_or_default())
}

/// In constant time for texts of one length.
pub(super) fn are_equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}
