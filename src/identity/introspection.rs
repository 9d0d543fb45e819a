//! `type: introspection`: bearer tokens that the authorization server is asked about (RFC 7662).
//!
//! A token is good only where the server says `"active": true`, with status 200, as JSON, and what else it says does not speak
//! against it. Whatever is not such an answer is an outage; it is never taken for a yes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};

use crate::base::clock::Clock;
use crate::base::hex::hex;
use crate::base::secret::Secret;
use crate::config::model::{self, IntrospectionProvider, Name};
use crate::contract::identity::Facts;
use crate::fetch::credentials::CredentialsError;
use crate::identity::binding::Binding;
use crate::identity::digest::sha256;
use crate::identity::jwt;
use crate::identity::jwt::claims::{Claims, Confirmation};
use crate::identity::jwt::fault::{Fault, Scheme};
use crate::identity::oauth::{Client, NoAnswer};
use crate::identity::remote::remotes::{Remotes, Settings};
use crate::identity::remote::{Asking, Finding, Inquiry, Outage, Patience, Refused, Remote};
use crate::identity::{Answer, Authenticator, Presented, Rejection, Verdict};

/// More than the server's own time, so that the server's word comes first.
const SLACK: Duration = Duration::from_millis(200);

/// The server does not know the token, or it is not valid any more.
const INACTIVE: &str = "inactive_token";

const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

const BAD_TOKEN: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// Proves bearer tokens by asking.
#[derive(Debug)]
pub struct Introspection {
    config: IntrospectionProvider,
    remote: Arc<Remote<Endpoint>>,
}

/// The introspection endpoint.
#[derive(Debug)]
struct Endpoint {
    config: IntrospectionProvider,
    client: Client,
    clock: Arc<dyn Clock>,
}

// === impl Introspection ===

impl Introspection {
    /// The provider `name` as configured; its answers go on where its settings are the same.
    pub fn open(
        name: &Name,
        config: &IntrospectionProvider,
        remotes: &Remotes,
    ) -> Result<Self, CredentialsError> {
        let credentials = Client::credentials(&config.client)?;
        let settings = Settings {
            config: model::Provider::Introspection(config.clone()),
            files: credentials.contents(),
        };
        let patience = Patience {
            timeout: config.client.timeout.saturating_add(SLACK),
            ttl: config.cache,
            negative_ttl: config.negative_cache,
            stale: config.stale,
            entries: config.entries,
        };
        let remote = remotes.open(name, settings, patience, || -> Result<_, CredentialsError> {
            let client = Client::new(&config.client, credentials)?;
            Ok(Endpoint { config: config.clone(), client, clock: Arc::clone(remotes.clock()) })
        })?;
        Ok(Self { config: config.clone(), remote })
    }
}

impl Authenticator for Introspection {
    fn header(&self) -> Option<&HeaderName> {
        Some(&self.config.header)
    }

    fn forwards_credential(&self) -> bool {
        self.config.forward_credential
    }

    fn challenge(&self) -> HeaderValue {
        CHALLENGE
    }

    fn find<'r>(&self, presented: &Presented<'r>) -> Result<Option<Cow<'r, [u8]>>, Rejection> {
        match jwt::token(&self.config.header, presented, false) {
            Ok(token) => Ok(token.map(Cow::Borrowed)),
            Err(fault) => Err(fault.rejection(Scheme::Bearer)),
        }
    }

    fn verify(&self, token: &[u8], presented: &Presented<'_>) -> Answer {
        // The server is not bothered with what cannot be a token.
        if let Err(fault) = jwt::check_token68(token) {
            return Answer::Settled(Verdict::Refused(fault.rejection(Scheme::Bearer)));
        }
        let question = Secret::new(String::from_utf8_lossy(token).into_owned());
        match self.remote.verify(sha256(token), question, BAD_TOKEN, presented.now) {
            Answer::Settled(verdict) => Answer::Settled(bound(verdict)),
            Answer::Pending(answer) => Answer::Pending(Box::pin(async move { bound(answer.await) })),
        }
    }
}

/// A token that is bound to a certificate is good only with it (RFC 8705 section 3.2), which the chain looks at each time.
fn bound(verdict: Verdict) -> Verdict {
    let Verdict::Proven(mut proof) = verdict else { return verdict };
    proof.binding = bound_certificate(&proof.facts).map(Binding::Certificate).map(Arc::new);
    Verdict::Proven(proof)
}

/// What [`Endpoint::read`] has found to be well-formed.
fn bound_certificate(facts: &Facts) -> Option<String> {
    let claims = facts.claims.as_ref()?;
    let thumbprint = claims["cnf"]["x5t#S256"].as_string().ok()?;
    Some(hex(&URL_SAFE_NO_PAD.decode(thumbprint.as_bytes()).ok()?))
}

// === impl Endpoint ===

impl Inquiry for Endpoint {
    type Question = Secret<String>;

    fn ask<'a>(&'a self, token: &'a Secret<String>) -> Asking<'a> {
        Box::pin(async move {
            let form = [("token", token.expose().as_str()), ("token_type_hint", "access_token")];
            let answered = self.client.post(&self.config.endpoint, &form).await.map_err(outage)?;
            if answered.status != StatusCode::OK {
                // 400 and 401 mean the gateway, not the token (RFC 7662 section 2.3).
                return Err(Outage { reason: "introspection_refused" });
            }
            Ok(read(&self.config, answered.document, self.clock.now()))
        })
    }
}

fn outage(none: NoAnswer) -> Outage {
    let reason = match none {
        NoAnswer::Timeout => "introspection_timeout",
        NoAnswer::Unreachable => "introspection_unreachable",
        NoAnswer::Status => "introspection_failed",
        NoAnswer::Malformed => "introspection_malformed",
    };
    Outage { reason }
}

/// What the server says of the token. Pure.
fn read(config: &IntrospectionProvider, document: Map<String, Value>, now: Duration) -> Finding {
    // Only JSON's true: `"true"`, 1 or a missing member is no yes.
    if document.get("active") != Some(&Value::Bool(true)) {
        return Finding::Refused(Refused::plain(INACTIVE));
    }
    match accept(config, Claims::new(document), now) {
        Ok((facts, until)) => Finding::Proven { facts: Box::new(facts), until },
        Err(fault) => Finding::Refused(Refused::plain(fault.reason())),
    }
}

fn accept(
    config: &IntrospectionProvider,
    claims: Claims,
    now: Duration,
) -> Result<(Facts, Option<Duration>), Fault> {
    if let Some(kind) = claims.text("token_type")?
        && !kind.eq_ignore_ascii_case("bearer")
    {
        // DPoP and others are bound to a key that was not shown (RFC 9449 section 6.2).
        return Err(Fault::HolderNotProven);
    }
    if let Some(Confirmation::Key(_)) = claims.confirmation()? {
        return Err(Fault::HolderNotProven);
    }
    let expires_at = claims.time("exp")?;
    let until = expires_at.map(|end| end.saturating_add(config.leeway));
    if until.is_some_and(|until| now >= until) {
        return Err(Fault::Expired);
    }
    let latest = now.saturating_add(config.leeway);
    if claims.time("nbf")?.is_some_and(|begin| begin > latest) {
        return Err(Fault::NotYetValid);
    }
    if claims.time("iat")?.is_some_and(|issued| issued > latest) {
        return Err(Fault::IssuedInFuture);
    }
    if let Some(issuer) = &config.issuer
        && claims.issuer()? != issuer
    {
        return Err(Fault::WrongIssuer);
    }
    let audience = if config.audiences.is_empty() {
        claims.audiences()?.unwrap_or_default()
    } else {
        claims.audience(&config.audiences)?
    };
    Ok((claims.into_facts("introspection", &config.claims, audience, expires_at)?, until))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::model::{ClaimPaths, ClientAuthentication, OAuthClient};
    use crate::identity::Proof;

    const NOW: Duration = Duration::from_secs(1_000);

    fn config() -> IntrospectionProvider {
        IntrospectionProvider {
            endpoint: "https://idp.test/introspect".parse().unwrap(),
            client: OAuthClient {
                id: "gw".to_owned(),
                authentication: ClientAuthentication::None,
                ca: None,
                certificate: None,
                timeout: Duration::from_secs(1),
            },
            issuer: None,
            audiences: Vec::new(),
            claims: ClaimPaths {
                subject: vec!["sub".to_owned()],
                roles: Some(vec!["ext".to_owned(), "roles".to_owned()]),
                groups: None,
                scopes: Some(vec!["scope".to_owned()]),
            },
            leeway: Duration::from_secs(30),
            header: http::header::AUTHORIZATION,
            forward_credential: true,
            cache: Duration::from_secs(30),
            negative_cache: Duration::from_secs(10),
            stale: Duration::ZERO,
            entries: 10,
        }
    }

    fn ask(
        config: &IntrospectionProvider,
        answer: &Value,
    ) -> Result<(Facts, Option<Duration>), &'static str> {
        match read(config, answer.as_object().unwrap().clone(), NOW) {
            Finding::Proven { facts, until } => Ok((*facts, until)),
            Finding::Refused(refused) => Err(refused.reason),
        }
    }

    #[track_caller]
    fn check(config: &IntrospectionProvider, answer: &Value, want: Result<(), &'static str>) {
        assert_eq!(ask(config, answer).map(drop), want, "{answer}");
    }

    #[test]
    fn only_true_is_true() {
        check(&config(), &json!({"active": true}), Ok(()));
        for active in [json!("true"), json!(1), json!(false), json!(null), json!([true]), json!({"a": true})]
        {
            check(&config(), &json!({"active": active}), Err("inactive_token"));
        }
        check(&config(), &json!({}), Err("inactive_token"));
        check(&config(), &json!({"Active": true}), Err("inactive_token"));
    }

    #[test]
    fn what_the_answer_says_must_not_speak_against_it() {
        for (more, want) in [
            (json!({"exp": 971}), Ok(())),
            (json!({"exp": 970}), Err("expired")),
            (json!({"exp": "2000"}), Err("invalid_claim")),
            (json!({"nbf": 1030}), Ok(())),
            (json!({"nbf": 1031}), Err("not_yet_valid")),
            (json!({"iat": 1031}), Err("issued_in_future")),
            (json!({"token_type": "bearer"}), Ok(())),
            (json!({"token_type": "DPoP"}), Err("holder_not_proven")),
            (json!({"token_type": 1}), Err("invalid_claim")),
            (json!({"cnf": {"jkt": "x"}}), Err("invalid_claim")),
            (json!({"cnf": {"jkt": URL_SAFE_NO_PAD.encode([7; 32])}}), Err("holder_not_proven")),
            (json!({"scope": ["a", 1]}), Err("invalid_claim")),
            (json!({"sub": 7}), Err("invalid_claim")),
        ] {
            let mut answer = json!({"active": true});
            answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            check(&config(), &answer, want);
        }
    }

    #[test]
    fn issuer_and_audience_are_required_where_they_are_configured() {
        let strict = IntrospectionProvider {
            issuer: Some("https://idp.test".to_owned()),
            audiences: vec!["orders".to_owned()],
            ..config()
        };
        let good = json!({"active": true, "iss": "https://idp.test", "aud": ["other", "orders"]});
        check(&strict, &good, Ok(()));
        check(&strict, &json!({"active": true, "aud": "orders"}), Err("missing_claim"));
        check(
            &strict,
            &json!({"active": true, "iss": "https://evil.test", "aud": "orders"}),
            Err("wrong_issuer"),
        );
        check(&strict, &json!({"active": true, "iss": "https://idp.test"}), Err("missing_claim"));
        check(
            &strict,
            &json!({"active": true, "iss": "https://idp.test", "aud": "x"}),
            Err("wrong_audience"),
        );
    }

    #[test]
    fn the_identity_is_taken_from_the_answer() {
        let answer = json!({"active": true, "sub": "alice", "scope": "read write", "ext": {"roles": ["admin"]},
            "iss": "https://idp.test", "aud": "orders", "exp": 2_000});
        let (facts, until) = ask(&config(), &answer).unwrap();
        assert_eq!((facts.subject.as_deref(), facts.kind), (Some("alice"), Some("introspection")));
        assert_eq!(
            (facts.scopes, facts.roles),
            (vec!["read".to_owned(), "write".to_owned()], vec!["admin".to_owned()])
        );
        assert_eq!(facts.issuer.as_deref(), Some("https://idp.test"));
        assert_eq!(facts.expires_at, Some(Duration::from_secs(2_000)));
        assert_eq!(until, Some(Duration::from_secs(2_030)));
    }

    #[test]
    fn a_bound_token_needs_its_certificate() {
        let thumbprint = URL_SAFE_NO_PAD.encode([0xab; 32]);
        let (facts, _) = ask(&config(), &json!({"active": true, "cnf": {"x5t#S256": thumbprint}})).unwrap();
        let proven = || {
            let validity = crate::identity::Validity::ALWAYS;
            Verdict::Proven(Box::new(Proof { facts: facts.clone(), validity, binding: None, revision: 0 }))
        };
        let fingerprint = "ab".repeat(32);
        let Verdict::Proven(proof) = bound(proven()) else { panic!() };
        assert!(matches!(proof.binding.as_deref(), Some(Binding::Certificate(held)) if *held == fingerprint));
    }
}
