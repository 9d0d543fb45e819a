//! `type: api_key`: a shared secret in a header, known to the gateway by its SHA-256.
//!
//! A key is looked up by its hash in a map. That is as good as a comparison in constant time: timing could at most tell
//! how much of a *hash* is right, and whoever cannot invert SHA-256 cannot steer towards a hash. Keys made by
//! `gatewayctl key new` have 256 random bits, so a fast hash without salt gives nothing away either.
//!
//! A key is taken from the header alone; one in the query ends up in logs and histories, and is not a credential here. A
//! request that has both is refused: the upstream may take the other one for the key.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use regorus::Value as PolicyValue;
use serde_json::Value;

use crate::config::model::ApiKeyProvider;
use crate::contract::identity::Facts;
use crate::identity::api_key::keys_file::{KeyRecord, KeysFileErrors};
use crate::identity::digest::sha256;
use crate::identity::header::{self, Ambiguous};
use crate::identity::{Answer, Authenticator, Presented, Proof, Rejection, Validity, Verdict};

pub mod keys_file;
pub mod mint;

/// Longest key read.
const KEY_BYTES_MAX: usize = 512;

/// Query parameters that clients use for keys, besides the header's own name.
const QUERY_NAMES: [&str; 2] = ["api_key", "apikey"];

/// No scheme is registered for API keys, and RFC 9110 section 15.5.2 wants a challenge with each 401.
const CHALLENGE: HeaderValue = HeaderValue::from_static("ApiKey");

/// Proves API keys of one file.
#[derive(Debug)]
pub struct ApiKeys {
    header: HeaderName,
    forward_credential: bool,
    records: HashMap<[u8; 32], KeyRecord>,
}

impl ApiKeys {
    /// Reads the keys file.
    pub fn load(config: &ApiKeyProvider) -> Result<Self, KeysFileErrors> {
        let keys = Self::new(config.header.clone(), keys_file::load(&config.keys)?);
        Ok(Self { forward_credential: config.forward_credential, ..keys })
    }

    /// These keys, in this header, which goes to the upstream.
    pub fn new(header: HeaderName, records: Vec<KeyRecord>) -> Self {
        let records = records.into_iter().map(|record| (record.sha256, record)).collect();
        Self { header, forward_credential: true, records }
    }

    fn prove(&self, key: &[u8], now: Duration) -> Result<Proof, &'static str> {
        let record = self.records.get(&sha256(key)).ok_or("unknown_key")?;
        let until = record.expires.unwrap_or(Duration::MAX);
        let validity = Validity { until, ..Validity::ALWAYS };
        if !validity.contains(now) {
            return Err("expired");
        }
        Ok(Proof { facts: facts(record), validity, binding: None, revision: 0 })
    }
}

impl Authenticator for ApiKeys {
    fn header(&self) -> Option<&HeaderName> {
        Some(&self.header)
    }

    fn forwards_credential(&self) -> bool {
        self.forward_credential
    }

    fn challenge(&self) -> HeaderValue {
        CHALLENGE
    }

    fn find<'r>(&self, presented: &Presented<'r>) -> Result<Option<Cow<'r, [u8]>>, Rejection> {
        let key = match header::only(presented.headers, &self.header) {
            Ok(None) => return Ok(None),
            Ok(Some(key)) => key,
            Err(Ambiguous) => return Err(rejection("several_credentials")),
        };
        let names = QUERY_NAMES.into_iter().chain([self.header.as_str()]);
        if names.into_iter().any(|name| header::query_has(presented.query, name)) {
            return Err(rejection("several_credentials"));
        }
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.is_ascii() {
            return Err(rejection("malformed_key"));
        }
        Ok(Some(Cow::Borrowed(key)))
    }

    fn verify(&self, key: &[u8], presented: &Presented<'_>) -> Answer {
        Answer::Settled(match self.prove(key, presented.now) {
            Ok(proof) => Verdict::Proven(Box::new(proof)),
            Err(reason) => Verdict::Refused(rejection(reason)),
        })
    }
}

fn rejection(reason: &'static str) -> Rejection {
    Rejection::plain(reason, CHALLENGE)
}

/// Built for each worker anew: see [`crate::identity::cache`].
pub(super) fn facts(record: &KeyRecord) -> Facts {
    let mut attributes = record.attributes.clone();
    attributes.insert("key_id".to_owned(), Value::from(record.id.as_str()));
    attributes.insert("owner".to_owned(), Value::from(record.owner.as_str()));
    Facts {
        kind: Some("api_key"),
        subject: Some(record.owner.clone()),
        roles: record.roles.clone(),
        groups: record.groups.clone(),
        scopes: record.scopes.clone(),
        attributes: Some(PolicyValue::from(Value::Object(attributes))),
        expires_at: record.expires,
        ..Facts::default()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::identity::Target;

    fn provider() -> ApiKeys {
        let record = |id: &str, key: &[u8], expires| KeyRecord {
            id: id.into(),
            sha256: sha256(key),
            owner: "acme".into(),
            roles: vec!["partner".into()],
            groups: vec![],
            scopes: vec!["orders:read".into()],
            attributes: json!({"tier": "gold"}).as_object().unwrap().clone(),
            expires,
        };
        let records = vec![record("k1", b"one", None), record("k2", b"two", Some(Duration::from_secs(100)))];
        ApiKeys::new(HeaderName::from_static("x-api-key"), records)
    }

    /// What is proven, or why the key is bad.
    fn ask(keys: &[&[u8]], query: Option<&str>, now: u64) -> Option<Result<Facts, &'static str>> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append("x-api-key", HeaderValue::from_bytes(key).unwrap());
        }
        let provider = provider();
        let presented = Presented {
            headers: &headers,
            query,
            tls: None,
            target: Target::default(),
            now: Duration::from_secs(now),
        };
        let key = match provider.find(&presented) {
            Ok(key) => key?,
            Err(rejection) => return Some(Err(rejection.reason)),
        };
        match provider.verify(&key, &presented) {
            Answer::Settled(Verdict::Proven(proof)) => Some(Ok(proof.facts)),
            Answer::Settled(Verdict::Refused(rejection)) => Some(Err(rejection.reason)),
            Answer::Settled(_) | Answer::Pending(_) => panic!("a key is good or bad at once"),
        }
    }

    #[track_caller]
    fn check(keys: &[&[u8]], query: Option<&str>, want: &'static str) {
        assert_eq!(ask(keys, query, 0).unwrap().map(drop), Err(want));
    }

    #[test]
    fn a_listed_key_proves_its_owner() {
        let facts = ask(&[b"one"], Some("page=2"), 0).unwrap().unwrap();
        assert_eq!(facts.subject.as_deref(), Some("acme"));
        assert_eq!((facts.roles, facts.scopes), (vec!["partner".to_owned()], vec!["orders:read".to_owned()]));
        let want = json!({"key_id": "k1", "owner": "acme", "tier": "gold"});
        assert_eq!(serde_json::to_value(facts.attributes.unwrap()).unwrap(), want);
    }

    #[test]
    fn without_the_header_there_is_no_credential_not_even_in_the_query() {
        assert!(ask(&[], None, 0).is_none());
        assert!(ask(&[], Some("api_key=one"), 0).is_none());
    }

    #[test]
    fn any_other_spelling_of_a_key_is_unknown() {
        for key in ["One", "one ", "one,one", "one two", "on", "ones", "\"one\"", "one;", "b25l"] {
            check(&[key.as_bytes()], None, "unknown_key");
        }
        check(&[b""], None, "malformed_key");
        check(&[b"one\xff"], None, "malformed_key");
        check(&["k".repeat(KEY_BYTES_MAX + 1).as_bytes()], None, "malformed_key");
        assert!(HeaderValue::from_bytes(b"one\0").is_err());
    }

    #[test]
    fn two_keys_in_one_request_are_refused_wherever_they_are() {
        check(&[b"one", b"one"], None, "several_credentials");
        check(&[b"one", b"two"], None, "several_credentials");
        for query in ["api_key=one", "api_key=two", "a=1&API-KEY=x", "x-api-key=one", "apikey=1", "api%5fkey"]
        {
            check(&[b"one"], Some(query), "several_credentials");
        }
    }

    #[test]
    fn a_key_ends_when_it_expires() {
        assert!(ask(&[b"two"], None, 99).unwrap().is_ok());
        assert_eq!(ask(&[b"two"], None, 100).unwrap().map(drop), Err("expired"));
    }

    proptest! {
        #[test]
        fn only_listed_keys_are_proven(key in prop::collection::vec(32_u8..=255, 0..40)) {
            prop_assume!(key != b"one" && key != b"two" && !key.contains(&127));
            prop_assert!(ask(&[&key], None, 0).unwrap().is_err());
        }
    }
}
