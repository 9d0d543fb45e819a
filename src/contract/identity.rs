//! Who is asking, as the policy sees it: `input.identity`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regorus::Value;

/// The types of providers, as `input.identity.type` names them.
pub const KINDS: [&str; 7] =
    ["jwt", "api_key", "client_certificate", "ldap", "introspection", "oidc", "external"];

/// A proven identity, or the anonymous one.
///
/// The document that the policy sees is built once, here, so that a cached identity costs a request nothing.
#[derive(Debug, Clone)]
pub struct Identity {
    facts: Facts,
    document: Value,
}

/// What a provider proved about its subject.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The provider's configured name.
    pub provider: Option<Arc<str>>,
    /// The provider's type, such as `jwt`.
    pub kind: Option<&'static str>,
    /// The subject.
    pub subject: Option<String>,
    /// A token's issuer, a certificate's issuer.
    pub issuer: Option<String>,
    /// A token's audiences.
    pub audience: Vec<String>,
    /// Roles.
    pub roles: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// A token's claims.
    pub claims: Option<Value>,
    /// Further attributes: a key's owner, a directory entry's fields.
    pub attributes: Option<Value>,
    /// When the credential ends, since the Unix epoch.
    pub expires_at: Option<Duration>,
    /// The provider's server is down, and this is what it said before.
    pub stale: bool,
}

/// A credential that was given and is not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The provider that refused it.
    pub provider: Arc<str>,
    /// Why, a stable `snake_case` word: `expired`, `bad_signature`, `unknown_key`, ...
    pub reason: &'static str,
}

impl Facts {
    /// Adds what a directory knows of the same subject. What the credential itself proves is not replaced.
    pub fn enrich(&mut self, known: Facts) {
        for (list, more) in [(&mut self.roles, known.roles), (&mut self.groups, known.groups)] {
            for item in more {
                if !list.contains(&item) {
                    list.push(item);
                }
            }
        }
        let more = known.attributes.as_ref().and_then(|known| known.as_object().ok());
        if let Some(more) = more {
            let own = self.attributes.as_ref().and_then(|own| own.as_object().ok());
            let mut merged = more.clone();
            merged.extend(
                own.into_iter().flat_map(regorus::value::Object::iter).map(|(k, v)| (k.clone(), v.clone())),
            );
            self.attributes = Some(Value::from(merged));
        }
        self.stale |= known.stale;
    }
}

impl Identity {
    /// The first of these identities, with all of them in its document, by their providers' names.
    pub fn combined(identities: &[&Self]) -> Self {
        let Some(first) = identities.first() else { return Self::anonymous() };
        let all = identities.iter().filter_map(|identity| {
            let provider = identity.facts.provider.as_deref()?;
            Some((Value::from(provider), identity.document.clone()))
        });
        let mut object = first.document.as_object().cloned().unwrap_or_default();
        object.insert(Value::from("all"), Value::from(all.collect::<BTreeMap<_, _>>()));
        let mut facts = first.facts.clone();
        facts.stale = identities.iter().any(|identity| identity.facts.stale);
        Self { facts, document: Value::from(object) }
    }

    /// An authenticated identity.
    pub fn authenticated(facts: Facts) -> Self {
        let document = document(&facts, true, None);
        Self { facts, document }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        let facts = Facts::default();
        let document = document(&facts, false, None);
        Self { facts, document }
    }

    /// Nobody in particular, because a credential was refused and the API wants the policy to know.
    pub fn failed(failure: &Failure) -> Self {
        Self::refused(&failure.provider, failure.reason)
    }

    /// As [`Identity::failed`], in words that no provider has to know.
    pub fn refused(provider: &str, reason: &str) -> Self {
        let facts = Facts::default();
        let document = document(&facts, false, Some((provider, reason)));
        Self { facts, document }
    }

    /// Whether a provider vouches for this identity.
    pub fn is_authenticated(&self) -> bool {
        self.facts.provider.is_some()
    }

    /// What was proven.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The document at `input.identity`.
    pub fn document(&self) -> &Value {
        &self.document
    }
}

fn document(facts: &Facts, authenticated: bool, failure: Option<(&str, &str)>) -> Value {
    let mut object = BTreeMap::new();
    let mut put = |key: &str, value: Value| object.insert(Value::from(key), value);
    put("authenticated", Value::from(authenticated));
    let texts = [
        ("provider", facts.provider.as_deref()),
        ("type", facts.kind),
        ("subject", facts.subject.as_deref()),
        ("issuer", facts.issuer.as_deref()),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            put(key, Value::from(text));
        }
    }
    // Lists are always there for an authenticated identity: `"admin" in input.identity.roles` is then false, not
    // undefined, which keeps a negation of it from failing open (trap 3 of evaluators on missing fields).
    let lists = [
        ("audience", &facts.audience),
        ("roles", &facts.roles),
        ("groups", &facts.groups),
        ("scopes", &facts.scopes),
    ];
    for (key, list) in lists {
        if authenticated || !list.is_empty() {
            put(key, Value::from(list.iter().map(|item| Value::from(item.as_str())).collect::<Vec<_>>()));
        }
    }
    if let Some(claims) = &facts.claims {
        put("claims", claims.clone());
    }
    if let Some(attributes) = &facts.attributes {
        put("attributes", attributes.clone());
    }
    if let Some(expires_at) = facts.expires_at {
        put("expires_at", Value::from(expires_at.as_secs()));
    }
    if facts.stale {
        put("stale", Value::from(true));
    }
    if let Some((provider, reason)) = failure {
        let fields = [("provider", provider), ("reason", reason)];
        let fields = fields.into_iter().map(|(key, text)| (Value::from(key), Value::from(text)));
        put("failure", Value::from(fields.collect::<BTreeMap<_, _>>()));
    }
    Value::from(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(identity: &Identity, want: &serde_json::Value) {
        assert_eq!(&serde_json::to_value(identity.document()).unwrap(), want);
    }

    #[test]
    fn an_anonymous_identity_has_no_lists_and_no_provider() {
        check(&Identity::anonymous(), &json!({"authenticated": false}));
        assert!(!Identity::anonymous().is_authenticated());
    }

    #[test]
    fn an_authenticated_identity_always_has_its_lists() {
        let facts = Facts {
            provider: Some("corp".into()),
            kind: Some("jwt"),
            subject: Some("alice".into()),
            roles: vec!["reader".into()],
            ..Facts::default()
        };
        let want = json!({"authenticated": true, "provider": "corp", "type": "jwt", "subject": "alice",
            "audience": [], "roles": ["reader"], "groups": [], "scopes": []});
        check(&Identity::authenticated(facts), &want);
    }

    #[test]
    fn a_refused_credential_is_a_fact() {
        let failure = Failure { provider: "corp".into(), reason: "expired" };
        let want = json!({"authenticated": false, "failure": {"provider": "corp", "reason": "expired"}});
        check(&Identity::failed(&failure), &want);
    }
}
