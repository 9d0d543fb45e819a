//! Tokens for tests: generated keys, their public JWKs, and signatures over whatever a test wants signed.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

/// A key pair with the name and algorithm it is used under.
#[derive(Debug)]
pub(crate) struct Signer {
    key_id: String,
    algorithm: &'static str,
    pair: Pair,
    public: Value,
}

#[derive(Debug)]
enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// A new RSA key of 2048 bits.
    pub(crate) fn rs256(key_id: &str) -> Self {
        Self::rsa(key_id, "RS256", KeySize::Rsa2048)
    }

    /// A new RSA key for `RS256` to `PS512`.
    pub(crate) fn rsa(key_id: &str, algorithm: &'static str, size: KeySize) -> Self {
        let pair = RsaKeyPair::generate(size).unwrap();
        let der = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        let (_, info) = SubjectPublicKeyInfo::from_der(der.as_ref()).unwrap();
        let PublicKey::RSA(key) = info.parsed().unwrap() else { panic!("an RSA key") };
        let modulus = key.modulus.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
        let public = json!({"kty": "RSA", "n": base64url(&modulus), "e": base64url(key.exponent)});
        Self { key_id: key_id.to_owned(), algorithm, pair: Pair::Rsa(pair), public }
    }

    /// A new P-256 key.
    pub(crate) fn es256(key_id: &str) -> Self {
        Self::ec(key_id, "ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    /// A new P-384 key.
    pub(crate) fn es384(key_id: &str) -> Self {
        Self::ec(key_id, "ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn ec(
        key_id: &str,
        algorithm: &'static str,
        curve: &str,
        signing: &'static EcdsaSigningAlgorithm,
    ) -> Self {
        let pair = EcdsaKeyPair::generate(signing).unwrap();
        let point = pair.public_key().as_ref()[1..].to_vec();
        let (x, y) = point.split_at(point.len() / 2);
        let public = json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)});
        Self { key_id: key_id.to_owned(), algorithm, pair: Pair::Ec(pair), public }
    }

    /// A new Ed25519 key.
    pub(crate) fn ed25519(key_id: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())});
        Self { key_id: key_id.to_owned(), algorithm: "EdDSA", pair: Pair::Ed(pair), public }
    }

    /// The public key with `kid`, `alg` and `use`.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = self.bare_jwk();
        jwk["kid"] = json!(self.key_id);
        jwk["alg"] = json!(self.algorithm);
        jwk["use"] = json!("sig");
        jwk
    }

    /// The public key alone.
    pub(crate) fn bare_jwk(&self) -> Value {
        self.public.clone()
    }

    /// A token with the usual header.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm, "kid": self.key_id, "typ": "JWT"});
        self.sign_parts(&header.to_string(), &claims.to_string())
    }

    /// A token of any header and payload.
    pub(crate) fn sign_parts(&self, header: &str, payload: &str) -> String {
        self.sign_input(&format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes())))
    }

    /// A token of any signing input.
    pub(crate) fn sign_input(&self, input: &str) -> String {
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(rsa_encoding(self.algorithm), &random, input.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, input.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(input.as_bytes()).as_ref().to_vec(),
        };
        format!("{input}.{}", base64url(&signature))
    }
}

fn rsa_encoding(algorithm: &str) -> &'static dyn RsaEncoding {
    match algorithm {
        "RS256" => &RSA_PKCS1_SHA256,
        "RS384" => &RSA_PKCS1_SHA384,
        "RS512" => &RSA_PKCS1_SHA512,
        "PS256" => &RSA_PSS_SHA256,
        "PS384" => &RSA_PSS_SHA384,
        "PS512" => &RSA_PSS_SHA512,
        other => panic!("{other} is not for RSA"),
    }
}

/// A token of any header and payload with an HMAC-SHA-256.
pub(crate) fn hs256(secret: &[u8], header: &str, payload: &str) -> String {
    let input = format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
    format!("{input}.{}", base64url(signature.as_ref()))
}

/// A key set of these keys.
pub(crate) fn jwks(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

/// Base64url without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
