//! Who somebody would be to a provider, without a credential: for asking a policy what they may do.
//!
//! What a provider makes of a credential's content is made by its own code here too, so that an answer holds for traffic.
//! Nothing on the way of a request may call this.

use std::time::Duration;

use regorus::Value as PolicyValue;
use serde_json::{Map, Value};

use crate::config::model::{
    ApiKeyProvider, CertificateSubject, ClientCertificateProvider, JwtProvider, Provider,
};
use crate::config::suggest;
use crate::contract::identity::Facts;
use crate::contract::request::ClientCertificate;
use crate::identity::Verdict;
use crate::identity::api_key;
use crate::identity::api_key::keys_file::{self, KeyRecord, KeysFileErrors};
use crate::identity::client_certificate::ClientCertificates;
use crate::identity::jwt;

/// How long the credential that nobody sends would be good for.
const GOOD_FOR: Duration = Duration::from_hours(1);
/// The issuer of a certificate of which it is not said.
const ISSUER: &str = "CN=unknown";

/// What is said of somebody.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// Whom the credential would be about.
    pub subject: String,
    /// Roles.
    pub roles: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// Claims, by name.
    pub claims: Map<String, Value>,
    /// Attributes, by name.
    pub attributes: Map<String, Value>,
}

/// What a provider would prove.
#[derive(Debug)]
pub struct Assumed {
    /// Without the provider's name.
    pub facts: Facts,
    /// The certificate that the connection would have been made with.
    pub certificate: Option<ClientCertificate>,
}

/// Why a provider would never prove what is said.
#[derive(Debug, thiserror::Error)]
pub enum AssumeError {
    /// Its tokens carry no such list.
    #[error(
        "its tokens have no {list}: name their claim in `claims.{list}` of the provider, or say a claim itself"
    )]
    NoClaim {
        /// `roles`, `groups` or `scopes`.
        list: &'static str,
    },
    /// One of the claims stands where another one has to.
    #[error("the claim `{path}` has no place: a part of its path is no object")]
    NoPlace {
        /// Its path.
        path: String,
    },
    /// A token with these claims is refused.
    #[error("a token with these claims is refused: `{reason}`")]
    Token {
        /// As in a decision event.
        reason: &'static str,
    },
    /// A certificate of that name is refused.
    #[error("a certificate of this subject is refused: `{reason}`")]
    Certificate {
        /// As in a decision event.
        reason: &'static str,
    },
    /// It proves nobody's identity.
    #[error(
        "it adds to what others prove, and proves nobody: ask as somebody of another provider, with these groups and attributes"
    )]
    Enriches,
    /// The keys file is not usable.
    #[error(transparent)]
    KeysFile(#[from] KeysFileErrors),
    /// Nobody of that name has a key.
    #[error("nobody called `{owner}` has a key in `{file}`; {hint}")]
    NoKey {
        /// Who has none.
        owner: String,
        /// The keys file.
        file: String,
        /// Who has.
        hint: String,
    },
    /// Several keys are of one owner.
    #[error("`{owner}` has several keys: choose one by the attribute `key_id`, one of {ids}")]
    SeveralKeys {
        /// Their owner.
        owner: String,
        /// Their ids.
        ids: String,
    },
    /// The key has expired.
    #[error("the key `{id}` has expired: its requests are refused")]
    Expired {
        /// The key's id.
        id: String,
    },
}

/// What `provider` would prove of somebody.
pub fn assume(provider: &Provider, said: Said, now: Duration) -> Result<Assumed, AssumeError> {
    let facts = match provider {
        Provider::Jwt(config) => token(config, said, now)?,
        Provider::ApiKey(config) => key(config, said, now)?,
        Provider::ClientCertificate(config) => return certificate(config, said, now),
        Provider::Ldap(config) if config.enrich.is_some() => return Err(AssumeError::Enriches),
        Provider::Ldap(_) => plain("ldap", said),
        Provider::External(_) => plain("external", said),
        Provider::Introspection(_) => plain("introspection", said),
        Provider::Oidc(_) => plain("oidc", said),
    };
    Ok(Assumed { facts, certificate: None })
}

/// Just what is said, by a provider of this type of which nothing else is known.
pub fn plain(kind: &'static str, said: Said) -> Facts {
    let object =
        |fields: Map<String, Value>| (!fields.is_empty()).then(|| PolicyValue::from(Value::Object(fields)));
    Facts {
        kind: Some(kind),
        subject: Some(said.subject),
        roles: said.roles,
        groups: said.groups,
        scopes: said.scopes,
        claims: object(said.claims),
        attributes: object(said.attributes),
        ..Facts::default()
    }
}

/// A certificate of this subject.
pub fn certificate(
    config: &ClientCertificateProvider,
    said: Said,
    now: Duration,
) -> Result<Assumed, AssumeError> {
    let until = now.saturating_add(GOOD_FOR);
    let text = |name: &str| said.attributes.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut certificate = ClientCertificate {
        subject: text("distinguished_name").unwrap_or_else(|| format!("CN={}", said.subject)),
        issuer: text("issuer").unwrap_or_else(|| ISSUER.to_owned()),
        common_name: text("common_name"),
        serial: text("serial").unwrap_or_else(|| "01".to_owned()),
        fingerprint_sha256: text("fingerprint_sha256").unwrap_or_else(|| "0".repeat(64)),
        san_dns: Vec::new(),
        san_uri: text("spiffe_id").into_iter().collect(),
        san_email: Vec::new(),
        san_ip: Vec::new(),
        not_after: i64::try_from(until.as_secs()).unwrap_or(i64::MAX),
        forwarded_by: None,
        field: None,
    };
    let subject = said.subject.clone();
    match config.subject {
        CertificateSubject::SanUri | CertificateSubject::SpiffeId => certificate.san_uri = vec![subject],
        CertificateSubject::SanDns => certificate.san_dns = vec![subject],
        CertificateSubject::SanEmail => certificate.san_email = vec![subject],
        CertificateSubject::CommonName => certificate.common_name = Some(subject),
    }
    let facts = match ClientCertificates::new(config.clone()).prove(&certificate, now) {
        Verdict::Proven(proof) => with(proof.facts, said),
        Verdict::Foreign(refusal) | Verdict::Refused(refusal) => {
            return Err(AssumeError::Certificate { reason: refusal.reason });
        }
        Verdict::Unavailable(reason) => return Err(AssumeError::Certificate { reason }),
    };
    Ok(Assumed { facts, certificate: Some(certificate) })
}

/// A token of the provider's issuer, read as its tokens are.
fn token(config: &JwtProvider, said: Said, now: Duration) -> Result<Facts, AssumeError> {
    let mut claims = said.claims;
    claims.entry("iss").or_insert_with(|| Value::from(config.issuer.as_str()));
    claims.entry("aud").or_insert_with(|| Value::from(config.audiences.clone()));
    put(&mut claims, &config.claims.subject, Value::from(said.subject))?;
    let lists = [
        ("roles", said.roles, config.claims.roles.as_deref()),
        ("groups", said.groups, config.claims.groups.as_deref()),
        ("scopes", said.scopes, config.claims.scopes.as_deref()),
    ];
    for (list, names, path) in lists {
        if !names.is_empty() {
            let path = path.ok_or(AssumeError::NoClaim { list })?;
            put(&mut claims, path, Value::from(names))?;
        }
    }
    let proven = jwt::claimed(config, claims, now.saturating_add(GOOD_FOR));
    let mut facts = proven.map_err(|fault| AssumeError::Token { reason: fault.reason() })?;
    if !said.attributes.is_empty() {
        facts.attributes = Some(PolicyValue::from(Value::Object(said.attributes)));
    }
    Ok(facts)
}

fn put(claims: &mut Map<String, Value>, path: &[String], value: Value) -> Result<(), AssumeError> {
    let Some((last, parents)) = path.split_last() else { return Ok(()) };
    let mut at = claims;
    for name in parents {
        let inner = at.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
        at = inner.as_object_mut().ok_or_else(|| AssumeError::NoPlace { path: path.join(".") })?;
    }
    at.insert(last.clone(), value);
    Ok(())
}

/// The owner's key as the keys file has it; what is said besides takes the place of what the file says.
fn key(config: &ApiKeyProvider, said: Said, now: Duration) -> Result<Facts, AssumeError> {
    let records = keys_file::load(&config.keys)?;
    let id = said.attributes.get("key_id").and_then(Value::as_str);
    let is_meant = |record: &&KeyRecord| record.owner == said.subject && id.is_none_or(|id| record.id == id);
    let found: Vec<&KeyRecord> = records.iter().filter(is_meant).collect();
    let record = match found.as_slice() {
        [record] => *record,
        [] => return Err(no_key(config, &records, said.subject)),
        [..] => {
            let ids: Vec<&str> = found.iter().map(|record| record.id.as_str()).collect();
            return Err(AssumeError::SeveralKeys { owner: said.subject, ids: suggest::listed(&ids) });
        }
    };
    if record.expires.is_some_and(|until| now >= until) {
        return Err(AssumeError::Expired { id: record.id.clone() });
    }
    Ok(with(api_key::facts(record), said))
}

fn no_key(config: &ApiKeyProvider, records: &[KeyRecord], owner: String) -> AssumeError {
    let mut owners: Vec<&str> = records.iter().map(|record| record.owner.as_str()).collect();
    owners.sort_unstable();
    owners.dedup();
    let hint = suggest::suggestion(&owner, owners.iter().copied())
        .unwrap_or_else(|| format!("its keys are of {}", suggest::listed(&owners)));
    AssumeError::NoKey { owner, file: config.keys.display().to_string(), hint }
}

/// What a credential proves, with what is said in its place where something is said.
fn with(mut facts: Facts, said: Said) -> Facts {
    let lists =
        [(&mut facts.roles, said.roles), (&mut facts.groups, said.groups), (&mut facts.scopes, said.scopes)];
    for (list, names) in lists {
        if !names.is_empty() {
            *list = names;
        }
    }
    if !said.claims.is_empty() {
        facts.claims = Some(PolicyValue::from(Value::Object(said.claims)));
    }
    if !said.attributes.is_empty() {
        let proven = facts.attributes.as_ref().and_then(|proven| proven.as_object().ok());
        let mut attributes = proven.cloned().unwrap_or_default();
        let more = said.attributes.into_iter();
        attributes.extend(more.map(|(name, value)| (PolicyValue::from(name), PolicyValue::from(value))));
        facts.attributes = Some(PolicyValue::from(attributes));
    }
    facts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::from_hours(500_000);

    fn said(value: &Value) -> Said {
        let texts = |name: &str| {
            let list = value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
            list.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
        };
        let object = |name: &str| value.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        Said {
            subject: value["subject"].as_str().unwrap().to_owned(),
            roles: texts("roles"),
            groups: texts("groups"),
            scopes: texts("scopes"),
            claims: object("claims"),
            attributes: object("attributes"),
        }
    }

    #[test]
    fn a_claims_path_is_made_and_never_replaces_something_else() {
        let path = ["realm_access".to_owned(), "roles".to_owned()];
        let mut claims = Map::new();
        put(&mut claims, &path, json!(["a"])).unwrap();
        assert_eq!(Value::Object(claims.clone()), json!({"realm_access": {"roles": ["a"]}}));
        claims.insert("realm_access".to_owned(), json!("x"));
        assert!(matches!(put(&mut claims, &path, json!([])), Err(AssumeError::NoPlace { .. })));
    }

    #[test]
    fn a_certificate_proves_what_the_provider_reads_from_it() {
        let config =
            ClientCertificateProvider { subject: CertificateSubject::SanUri, trust_domains: Vec::new() };
        let id = "spiffe://example.org/device/7";
        let alice = said(&json!({"subject": id, "attributes": {"issuer": "CN=CA", "site": "north"}}));
        let assumed = certificate(&config, alice.clone(), NOW).unwrap();
        assert_eq!(assumed.facts.subject.as_deref(), Some(id));
        assert_eq!(assumed.facts.issuer.as_deref(), Some("CN=CA"));
        let attributes = serde_json::to_value(assumed.facts.attributes.unwrap()).unwrap();
        assert_eq!((&attributes["spiffe_id"], &attributes["site"]), (&json!(id), &json!("north")));
        assert_eq!(assumed.certificate.unwrap().spiffe_id(), Some(id));
        let elsewhere =
            ClientCertificateProvider { trust_domains: vec!["other.example".to_owned()], ..config };
        assert!(matches!(certificate(&elsewhere, alice, NOW), Err(AssumeError::Certificate { .. })));
    }

    #[test]
    fn what_is_not_said_is_not_there() {
        let facts = plain("external", said(&json!({"subject": "alice", "roles": ["r"]})));
        assert_eq!((facts.kind, facts.roles), (Some("external"), vec!["r".to_owned()]));
        assert!(facts.claims.is_none() && facts.attributes.is_none());
    }
}
