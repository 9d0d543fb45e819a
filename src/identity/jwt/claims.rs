//! A token's claims: which must be there, when they hold, and what they say about the subject (RFC 7519).
//!
//! A claim of the wrong kind is an error, never "absent": a policy that says who is *not* in a group must not be
//! answered by a list that could not be read.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use regorus::Value as PolicyValue;
use serde_json::{Map, Value};

use crate::base::hex::hex;
use crate::config::model::ClaimPaths;
use crate::contract::identity::Facts;
use crate::identity::Validity;
use crate::identity::digest::Sha256;
use crate::identity::jwt::fault::Fault;

/// Last second of the year 9999: a later time is a mistake or a trick.
const SECONDS_MAX: u64 = 253_402_300_799;

/// The claims of one token.
#[derive(Debug)]
pub(in crate::identity) struct Claims(Map<String, Value>);

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::identity) enum Confirmation {
    /// A client certificate's SHA-256, lower-case hexadecimal (RFC 8705 section 3.1).
    Certificate(String),
    /// A public key's thumbprint (RFC 9449 section 6.1).
    Key(Sha256),
}

impl Claims {
    pub(in crate::identity) fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    /// The issuer: required, and a string.
    pub(in crate::identity) fn issuer(&self) -> Result<&str, Fault> {
        self.text("iss")?.ok_or(Fault::MissingClaim)
    }

    /// A claim that is a string where it is there.
    pub(in crate::identity) fn text(&self, name: &str) -> Result<Option<&str>, Fault> {
        text(self.0.get(name))
    }

    /// The claims themselves.
    pub(in crate::identity) fn members(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The audiences, one of which must be accepted.
    pub(in crate::identity) fn audience(&self, accepted: &[String]) -> Result<Vec<String>, Fault> {
        let audience = self.audiences()?.ok_or(Fault::MissingClaim)?;
        if audience.iter().any(|name| accepted.contains(name)) {
            Ok(audience)
        } else {
            Err(Fault::WrongAudience)
        }
    }

    /// The audiences, if any are named.
    pub(in crate::identity) fn audiences(&self) -> Result<Option<Vec<String>>, Fault> {
        match self.0.get("aud") {
            None => Ok(None),
            Some(Value::String(one)) => Ok(Some(vec![one.clone()])),
            Some(Value::Array(list)) => strings(list).map(Some),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
                Err(Fault::InvalidClaim)
            }
        }
    }

    /// When the token holds, clock skew allowed for, and its `exp`; an error when that is not `now`.
    pub(in crate::identity) fn validity(
        &self,
        now: Duration,
        leeway: Duration,
    ) -> Result<(Validity, Duration), Fault> {
        let expires_at = self.time("exp")?.ok_or(Fault::MissingClaim)?;
        let not_before = self.time("nbf")?.unwrap_or_default().saturating_sub(leeway);
        let issued_at = self.time("iat")?.unwrap_or_default().saturating_sub(leeway);
        let until = expires_at.saturating_add(leeway);
        if now >= until {
            return Err(Fault::Expired);
        }
        if now < not_before {
            return Err(Fault::NotYetValid);
        }
        if now < issued_at {
            return Err(Fault::IssuedInFuture);
        }
        Ok((Validity { from: not_before.max(issued_at), until }, expires_at))
    }

    /// A `NumericDate`: seconds since the epoch, fractions allowed (RFC 7519 section 2).
    pub(in crate::identity) fn time(&self, name: &str) -> Result<Option<Duration>, Fault> {
        let number = match self.0.get(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number,
            Some(Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                return Err(Fault::InvalidClaim);
            }
        };
        let time = match number.as_u64() {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => number.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        };
        time.filter(|time| time.as_secs() <= SECONDS_MAX).map(Some).ok_or(Fault::InvalidClaim)
    }

    /// What the token is bound to (RFC 7800). A binding of a kind that cannot be checked here, or of two kinds, makes a
    /// token that proves nothing.
    pub(in crate::identity) fn confirmation(&self) -> Result<Option<Confirmation>, Fault> {
        let confirmation = match self.0.get("cnf") {
            None => return Ok(None),
            Some(Value::Object(confirmation)) => confirmation,
            Some(_) => return Err(Fault::InvalidClaim),
        };
        let mut members = confirmation.iter();
        let (Some((member, Value::String(hash))), None) = (members.next(), members.next()) else {
            return Err(Fault::HolderNotProven);
        };
        let hash = || -> Result<Sha256, Fault> {
            let hash = URL_SAFE_NO_PAD.decode(hash).map_err(|_| Fault::InvalidClaim)?;
            hash.try_into().map_err(|_| Fault::InvalidClaim)
        };
        match member.as_str() {
            "x5t#S256" => Ok(Some(Confirmation::Certificate(hex(&hash()?)))),
            "jkt" => Ok(Some(Confirmation::Key(hash()?))),
            _ => Err(Fault::HolderNotProven),
        }
    }

    /// What the claims say about the subject, the claims themselves included.
    pub(in crate::identity) fn into_facts(
        self,
        kind: &'static str,
        paths: &ClaimPaths,
        audience: Vec<String>,
        expires_at: Option<Duration>,
    ) -> Result<Facts, Fault> {
        let subject = match self.lookup(&paths.subject)? {
            None => None,
            Some(Value::String(subject)) => Some(subject.clone()),
            Some(_) => return Err(Fault::InvalidClaim),
        };
        Ok(Facts {
            provider: None,
            kind: Some(kind),
            subject,
            issuer: self.text("iss")?.map(str::to_owned),
            audience,
            roles: self.names(paths.roles.as_deref())?,
            groups: self.names(paths.groups.as_deref())?,
            scopes: self.names(paths.scopes.as_deref())?,
            attributes: None,
            expires_at,
            stale: false,
            claims: Some(PolicyValue::from(Value::Object(self.0))),
        })
    }

    /// A list of strings, or one string of words, at a configured path.
    fn names(&self, path: Option<&[String]>) -> Result<Vec<String>, Fault> {
        match path.map(|path| self.lookup(path)).transpose()?.flatten() {
            None => Ok(Vec::new()),
            Some(Value::String(words)) => Ok(words.split_ascii_whitespace().map(str::to_owned).collect()),
            Some(Value::Array(list)) => strings(list),
            Some(_) => Err(Fault::InvalidClaim),
        }
    }

    /// The value at a path; `null` counts as absent, as issuers write it for "none".
    fn lookup(&self, path: &[String]) -> Result<Option<&Value>, Fault> {
        let Some((first, rest)) = path.split_first() else { return Ok(None) };
        let mut value = self.0.get(first);
        for name in rest {
            value = match value {
                None | Some(Value::Null) => return Ok(None),
                Some(Value::Object(object)) => object.get(name),
                Some(_) => return Err(Fault::InvalidClaim),
            };
        }
        Ok(value.filter(|value| !value.is_null()))
    }
}

fn text(value: Option<&Value>) -> Result<Option<&str>, Fault> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Fault::InvalidClaim),
    }
}

fn strings(list: &[Value]) -> Result<Vec<String>, Fault> {
    list.iter().map(|item| item.as_str().map(str::to_owned).ok_or(Fault::InvalidClaim)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn claims(value: &Value) -> Claims {
        Claims::new(value.as_object().unwrap().clone())
    }

    #[track_caller]
    fn check_time(value: &Value, want: Result<(), Fault>) {
        let validity = claims(value).validity(Duration::from_secs(1_000), Duration::from_secs(30));
        assert_eq!(validity.map(drop), want);
    }

    #[test]
    fn times() {
        check_time(&json!({"exp": 1_001}), Ok(()));
        check_time(&json!({"exp": 1_000.5, "nbf": 999.5, "iat": 0}), Ok(()));
        check_time(&json!({"exp": 971}), Ok(()));
        check_time(&json!({"exp": 970}), Err(Fault::Expired));
        check_time(&json!({"exp": 970.5}), Ok(()));
        check_time(&json!({}), Err(Fault::MissingClaim));
        check_time(&json!({"exp": 2_000, "nbf": 1_030}), Ok(()));
        check_time(&json!({"exp": 2_000, "nbf": 1_031}), Err(Fault::NotYetValid));
        check_time(&json!({"exp": 2_000, "iat": 1_031}), Err(Fault::IssuedInFuture));
        for wrong in
            [json!("1001"), json!(null), json!(-1), json!(-0.5), json!(1e300), json!(u64::MAX), json!([])]
        {
            check_time(&json!({"exp": wrong}), Err(Fault::InvalidClaim));
            check_time(&json!({"exp": 2_000, "nbf": wrong}), Err(Fault::InvalidClaim));
            check_time(&json!({"exp": 2_000, "iat": wrong}), Err(Fault::InvalidClaim));
        }
        check_time(
            &serde_json::from_str(r#"{"exp": 18446744073709551616}"#).unwrap(),
            Err(Fault::InvalidClaim),
        );
    }

    #[test]
    fn a_proof_holds_exactly_as_long_as_the_token() {
        let leeway = Duration::from_secs(30);
        let token = claims(&json!({"exp": 2_000, "nbf": 1_000, "iat": 1_010}));
        let (validity, expires_at) = token.validity(Duration::from_secs(1_501), leeway).unwrap();
        assert_eq!(validity, Validity { from: Duration::from_secs(980), until: Duration::from_secs(2_030) });
        assert_eq!(expires_at, Duration::from_secs(2_000));
    }

    #[track_caller]
    fn check_audience(value: &Value, want: Result<(), Fault>) {
        let accepted = ["gw".to_owned(), "gw2".to_owned()];
        assert_eq!(claims(value).audience(&accepted).map(drop), want);
    }

    #[test]
    fn audiences() {
        check_audience(&json!({"aud": "gw"}), Ok(()));
        check_audience(&json!({"aud": ["evil", "gw2"]}), Ok(()));
        check_audience(&json!({}), Err(Fault::MissingClaim));
        check_audience(&json!({"aud": []}), Err(Fault::WrongAudience));
        check_audience(&json!({"aud": "GW"}), Err(Fault::WrongAudience));
        for wrong in [json!(1), json!({"gw": 1}), json!(["gw", 1]), json!(null), json!([["gw"]])] {
            check_audience(&json!({"aud": wrong}), Err(Fault::InvalidClaim));
        }
    }

    #[test]
    fn the_issuer_is_a_string() {
        assert_eq!(claims(&json!({"iss": "https://i"})).issuer(), Ok("https://i"));
        assert_eq!(claims(&json!({})).issuer(), Err(Fault::MissingClaim));
        for wrong in [json!(["https://evil", "https://i"]), json!(null), json!(1)] {
            assert_eq!(claims(&json!({"iss": wrong})).issuer(), Err(Fault::InvalidClaim));
        }
    }

    fn facts(value: &Value) -> Result<Facts, Fault> {
        let paths = ClaimPaths {
            subject: vec!["sub".into()],
            roles: Some(vec!["realm".into(), "roles".into()]),
            groups: Some(vec!["groups".into()]),
            scopes: Some(vec!["scope".into()]),
        };
        claims(value).into_facts("jwt", &paths, vec![], Some(Duration::ZERO))
    }

    #[test]
    fn claims_are_mapped_by_path() {
        let facts =
            facts(&json!({"iss": "i", "sub": "alice", "realm": {"roles": ["a", "b"]}, "scope": " x  y ",
            "groups": null}));
        let facts = facts.unwrap();
        assert_eq!(facts.subject.as_deref(), Some("alice"));
        assert_eq!(facts.roles, ["a", "b"]);
        assert_eq!(facts.scopes, ["x", "y"]);
        assert!(facts.groups.is_empty());
    }

    #[test]
    fn what_is_not_there_is_absent() {
        let facts = facts(&json!({"iss": "i", "realm": null})).unwrap();
        assert_eq!(facts.subject, None);
        assert!(facts.roles.is_empty() && facts.scopes.is_empty());
    }

    #[test]
    fn a_claim_of_the_wrong_kind_is_refused_not_ignored() {
        for wrong in [
            json!({"iss": "i", "sub": 7}),
            json!({"iss": "i", "realm": "x"}),
            json!({"iss": "i", "realm": {"roles": {"a": true}}}),
            json!({"iss": "i", "groups": ["a", 1]}),
            json!({"iss": "i", "scope": 5}),
        ] {
            assert_eq!(facts(&wrong).map(drop), Err(Fault::InvalidClaim), "{wrong}");
        }
    }

    #[track_caller]
    fn check_bound(cnf: &Value, want: &Result<Option<Confirmation>, Fault>) {
        assert_eq!(claims(&json!({"cnf": cnf})).confirmation(), *want);
    }

    #[test]
    fn a_bound_token_names_what_it_is_bound_to() {
        assert_eq!(claims(&json!({})).confirmation(), Ok(None));
        let hash = URL_SAFE_NO_PAD.encode([0xab; 32]);
        check_bound(&json!({"x5t#S256": hash}), &Ok(Some(Confirmation::Certificate("ab".repeat(32)))));
        check_bound(&json!({"jkt": hash}), &Ok(Some(Confirmation::Key([0xab; 32]))));
        check_bound(&json!({"x5t#S256": hash, "jkt": hash}), &Err(Fault::HolderNotProven));
        for unknown in
            [json!({}), json!({"kid": "a"}), json!({"jwk": {}}), json!({"JKT": hash}), json!({"jkt": [hash]})]
        {
            check_bound(&unknown, &Err(Fault::HolderNotProven));
        }
        check_bound(&json!({"x5t#S256": "YQ"}), &Err(Fault::InvalidClaim));
        check_bound(&json!({"jkt": "x"}), &Err(Fault::InvalidClaim));
        check_bound(&json!("x"), &Err(Fault::InvalidClaim));
    }

    proptest! {
        #[test]
        fn any_numeric_date_is_judged_without_panic(exp in any::<f64>(), now in any::<u64>(), leeway in any::<u64>()) {
            let token = claims(&json!({"exp": exp}));
            let now = Duration::from_secs(now);
            if let Ok((validity, _)) = token.validity(now, Duration::from_secs(leeway)) {
                prop_assert!(validity.contains(now));
            }
        }
    }
}
