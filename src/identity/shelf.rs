//! What all workers have proven, packed: a second memory behind each worker's own.
//!
//! A worker's [`crate::identity::cache`] holds few identities, ready to use. The shelf holds many, each in a few hundred
//! bytes of text, for whoever comes back later or to another worker: unpacking one costs a tenth of proving it. It is looked
//! at only where a worker's own memory has nothing. As there, the key is a hash of the credential, and only good ones get
//! in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use regorus::Value;
use serde::{Deserialize, Serialize, Serializer};

use crate::contract::identity::{Facts, KINDS};
use crate::identity::binding::Binding;
use crate::identity::cache::Key;
use crate::identity::{Proof, Validity};

/// What the shelf may weigh: room for about 100 000 identities of ordinary tokens.
const BYTES_MAX: u64 = 80 << 20;

/// How many the tables are made for at first; they grow.
const ENTRIES: usize = 4_096;

/// What an entry weighs on top of its text: key, validity, counts, its share of the tables.
const ENTRY_OVERHEAD_BYTES: usize = 200;

/// The largest integer up to which floats hold each one, 2^53.
const SAFE_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Packed identities, least used ones evicted. Survives reloads, but not what a reload makes anew: a provider of a new
/// snapshot has a new number.
pub struct Shelf(Cache<Key, Arc<Packed>, ByWeight, foldhash::fast::RandomState>);

/// A proof, packed.
#[derive(Debug)]
struct Packed {
    text: Box<[u8]>,
    validity: Validity,
    binding: Option<Arc<Binding>>,
    revision: u64,
}

#[derive(Clone)]
struct ByWeight;

/// The text of a packed identity.
#[derive(Debug, Serialize, Deserialize)]
struct Text {
    /// Its place among the types of providers.
    #[serde(rename = "k")]
    kind: usize,
    #[serde(rename = "s", skip_serializing_if = "Option::is_none", default)]
    subject: Option<String>,
    #[serde(rename = "i", skip_serializing_if = "Option::is_none", default)]
    issuer: Option<String>,
    #[serde(rename = "u", skip_serializing_if = "Vec::is_empty", default)]
    audience: Vec<String>,
    #[serde(rename = "r", skip_serializing_if = "Vec::is_empty", default)]
    roles: Vec<String>,
    #[serde(rename = "g", skip_serializing_if = "Vec::is_empty", default)]
    groups: Vec<String>,
    #[serde(rename = "o", skip_serializing_if = "Vec::is_empty", default)]
    scopes: Vec<String>,
    #[serde(rename = "c", skip_serializing_if = "Option::is_none", serialize_with = "exactly", default)]
    claims: Option<Value>,
    #[serde(rename = "a", skip_serializing_if = "Option::is_none", serialize_with = "exactly", default)]
    attributes: Option<Value>,
    #[serde(rename = "e", skip_serializing_if = "Option::is_none", default)]
    expires_at: Option<Duration>,
    #[serde(rename = "t", skip_serializing_if = "std::ops::Not::not", default)]
    stale: bool,
}

impl Weighter<Key, Arc<Packed>> for ByWeight {
    fn weight(&self, _: &Key, packed: &Arc<Packed>) -> u64 {
        let binding = packed.binding.as_ref().map_or(0, |binding| binding.weight());
        (packed.text.len() + binding + ENTRY_OVERHEAD_BYTES) as u64
    }
}

impl Shelf {
    /// An empty shelf.
    pub fn new() -> Self {
        Self::bounded(BYTES_MAX)
    }

    fn bounded(bytes: u64) -> Self {
        let hasher = foldhash::fast::RandomState::default();
        Self(Cache::with(ENTRIES, bytes, ByWeight, hasher, DefaultLifecycle::default()))
    }

    /// Identities on the shelf, expired ones included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts a proof there, whose identity is of the provider that the key names.
    pub(super) fn put(&self, key: Key, facts: &Facts, proof: &Proof) {
        let Some(text) = pack(facts) else { return };
        let packed = Packed {
            text,
            validity: proof.validity,
            binding: proof.binding.clone(),
            revision: proof.revision,
        };
        self.0.insert(key, Arc::new(packed));
    }

    /// A proof as it was put there, without its provider's name.
    pub(super) fn get(&self, key: &Key) -> Option<Proof> {
        let packed = self.0.get(key)?;
        Some(Proof {
            facts: unpack(&packed.text)?,
            validity: packed.validity,
            binding: packed.binding.clone(),
            revision: packed.revision,
        })
    }
}

impl Default for Shelf {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A value whose numbers come back as they are: the engine writes a large float in digits that read as another number.
struct Exact<'v>(&'v Value);

impl Serialize for Exact<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            // Integers beyond it are not given as floats: this is one.
            Value::Number(number) => match number.as_f64().filter(|float| float.abs() > SAFE_INTEGER) {
                Some(float) => serializer.serialize_f64(float),
                None => number.serialize(serializer),
            },
            Value::Array(items) => serializer.collect_seq(items.iter().map(Exact)),
            Value::Object(fields) => {
                serializer.collect_map(fields.iter().map(|(key, value)| (key, Exact(value))))
            }
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Set(_) | Value::Undefined => {
                self.0.serialize(serializer)
            }
        }
    }
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn exactly<S: Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(Exact).serialize(serializer)
}

/// `None` for what would not come back as it is.
fn pack(facts: &Facts) -> Option<Box<[u8]>> {
    let text = Text {
        kind: KINDS.iter().position(|kind| facts.kind == Some(*kind))?,
        subject: facts.subject.clone(),
        issuer: facts.issuer.clone(),
        audience: facts.audience.clone(),
        roles: facts.roles.clone(),
        groups: facts.groups.clone(),
        scopes: facts.scopes.clone(),
        claims: facts.claims.clone(),
        attributes: facts.attributes.clone(),
        expires_at: facts.expires_at,
        stale: facts.stale,
    };
    serde_json::to_vec(&text).ok().map(Vec::into_boxed_slice)
}

fn unpack(text: &[u8]) -> Option<Facts> {
    let text: Text = serde_json::from_slice(text).ok()?;
    Some(Facts {
        provider: None,
        kind: Some(*KINDS.get(text.kind)?),
        subject: text.subject,
        issuer: text.issuer,
        audience: text.audience,
        roles: text.roles,
        groups: text.groups,
        scopes: text.scopes,
        claims: text.claims,
        attributes: text.attributes,
        expires_at: text.expires_at,
        stale: text.stale,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::identity::Identity;

    fn key(number: u64) -> Key {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        Key { provider: 1, digest }
    }

    fn proof(facts: Facts) -> Proof {
        let validity = Validity { from: Duration::from_secs(1), until: Duration::from_secs(2) };
        let binding = Some(Arc::new(Binding::Certificate("ab".to_owned())));
        Proof { facts, validity, binding, revision: 7 }
    }

    fn token() -> Facts {
        let claims = r#"{"iss": "https://idp.example/", "sub": "7c4c0f0e-5f0b-4b0e-9b5e-0b8f1d2c3a4e", "aud": ["orders"],
            "exp": 4000000000, "iat": 1700000000, "jti": "a1b2c3d4e5f6", "azp": "web", "scope": "openid profile email",
            "realm_access": {"roles": ["reader", "writer", "auditor"]}, "email": "alice@example.com"}"#;
        Facts {
            kind: Some("jwt"),
            subject: Some("7c4c0f0e-5f0b-4b0e-9b5e-0b8f1d2c3a4e".to_owned()),
            issuer: Some("https://idp.example/".to_owned()),
            audience: vec!["orders".to_owned()],
            roles: ["reader", "writer", "auditor"].map(str::to_owned).to_vec(),
            scopes: ["openid", "profile", "email"].map(str::to_owned).to_vec(),
            claims: Some(Value::from_json_str(claims).unwrap()),
            expires_at: Some(Duration::from_secs(4_000_000_000)),
            ..Facts::default()
        }
    }

    #[test]
    fn what_comes_back_is_what_was_put_there() {
        let shelf = Shelf::new();
        let facts = token();
        shelf.put(key(1), &facts, &proof(Facts::default()));
        let back = shelf.get(&key(1)).unwrap();
        let document = |facts| Identity::authenticated(facts).document().clone();
        assert_eq!(document(back.facts), document(facts));
        assert_eq!((back.validity.until, back.revision), (Duration::from_secs(2), 7));
        assert!(matches!(back.binding.as_deref(), Some(Binding::Certificate(held)) if held == "ab"));
        assert!(shelf.get(&key(2)).is_none());
    }

    #[test]
    fn what_has_no_known_kind_is_not_put_there() {
        let shelf = Shelf::new();
        shelf.put(key(1), &Facts::default(), &proof(Facts::default()));
        assert!(shelf.is_empty());
    }

    #[test]
    fn it_holds_a_hundred_thousand_identities_and_has_a_bound() {
        let shelf = Shelf::new();
        let facts = token();
        for number in 0..100_000 {
            shelf.put(key(number), &facts, &proof(Facts::default()));
        }
        assert!(shelf.len() >= 99_000, "{}", shelf.len());
        let small = Shelf::bounded(1 << 20);
        for number in 0..100_000 {
            small.put(key(number), &facts, &proof(Facts::default()));
        }
        assert!(small.len() < 2_000, "{}", small.len());
    }

    #[test]
    fn a_large_float_stays_the_number_that_it_is() {
        let claims =
            Value::from_json_str(r#"{"n": [9.94735884116282e18, -9.94735884116282e18, 1e300]}"#).unwrap();
        let facts = Facts { kind: Some("jwt"), claims: Some(claims.clone()), ..Facts::default() };
        assert_eq!(unpack(&pack(&facts).unwrap()).unwrap().claims, Some(claims));
    }

    proptest! {
        #[test]
        fn any_json_survives(text in "[\\PC]{0,40}", number in any::<f64>(), big in any::<u64>()) {
            let claims = serde_json::json!({"text": text, "number": number, "big": big, "list": [null, true, -1]});
            let claims = Value::from_json_str(&claims.to_string()).unwrap();
            let facts = Facts { kind: Some("oidc"), subject: Some(text), claims: Some(claims.clone()), ..Facts::default() };
            let back = unpack(&pack(&facts).unwrap()).unwrap();
            prop_assert_eq!(back.claims, Some(claims));
            prop_assert_eq!(back.subject, facts.subject);
        }
    }
}
