//! An identity provider for the demo: one ES256 key, its key set, and tokens of its making (RFC 7515, RFC 7519).

use anyhow::anyhow;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::base::clock::{Clock, SystemClock};

const ISSUER: &str = "https://idp.demo.example";
const KEY_ID: &str = "demo";
const HOUR: u64 = 3600;
/// How long a token is good: longer than anyone looks at a demo.
const LIFETIME: u64 = 24 * HOUR;

/// A signer of tokens.
pub(super) struct Issuer {
    pair: EcdsaKeyPair,
}

/// What a token says.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    subject: &'static str,
    role: &'static str,
    issued_at: u64,
    expires_at: u64,
}

// === impl Issuer ===

impl Issuer {
    /// An issuer with a new key.
    pub(super) fn generate() -> anyhow::Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Ok(Self { pair: pair.map_err(|_| anyhow!("the system has no randomness to make a key from"))? })
    }

    /// The public key as a JSON Web Key Set.
    pub(super) fn key_set(&self) -> String {
        // An uncompressed point: a marker, then both coordinates.
        let point = self.pair.public_key().as_ref().get(1..).unwrap_or_default();
        let (x, y) = point.split_at(point.len() / 2);
        let key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        format!("{:#}\n", json!({"keys": [key]}))
    }

    /// A signed token.
    pub(super) fn token(&self, claims: &Claims) -> anyhow::Result<String> {
        let text = claims.encode();
        Ok(format!("{text}.{}", self.sign(&text)?))
    }

    /// A token that says one thing with the signature of another.
    pub(super) fn tampered(&self, signed: &Claims, written: &Claims) -> anyhow::Result<String> {
        Ok(format!("{}.{}", written.encode(), self.sign(&signed.encode())?))
    }

    fn sign(&self, text: &str) -> anyhow::Result<String> {
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes());
        Ok(URL_SAFE_NO_PAD.encode(signature.map_err(|_| anyhow!("a token cannot be signed"))?))
    }
}

// === impl Claims ===

impl Claims {
    /// The claims of somebody with a role, from now on.
    pub(super) fn of(subject: &'static str, role: &'static str) -> Self {
        let now = SystemClock.now().as_secs();
        Self { subject, role, issued_at: now, expires_at: now + LIFETIME }
    }

    /// The same claims a day ago.
    pub(super) fn expired(&self) -> Self {
        let ago = LIFETIME + HOUR;
        Self {
            issued_at: self.issued_at.saturating_sub(ago),
            expires_at: self.expires_at.saturating_sub(ago),
            ..self.clone()
        }
    }

    fn encode(&self) -> String {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": KEY_ID});
        let claims = json!({
            "iss": ISSUER, "aud": "orders", "sub": self.subject, "roles": [self.role],
            "iat": self.issued_at, "exp": self.expires_at,
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", part(header), part(claims))
    }
}
