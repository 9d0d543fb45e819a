//! One signature under one key.

use aws_lc_rs::{
    hmac,
    signature::{
        self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
        ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
        ECDSA_P521_SHA512_ASN1, ED25519, EcdsaVerificationAlgorithm,
        RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
        RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};

use super::{
    super::der,
    key::{Curve, Key},
};

/// Whether a signature is right; a key of another kind than the algorithm's verifies nothing.
pub(super) fn verify(key: &Key, algorithm: &str, signed: &str, signature: &[u8]) -> bool {
    let signed = signed.as_bytes();
    match key {
        Key::Rsa { modulus, exponent } => rsa_of(algorithm).is_some_and(|parameters| {
            let key = RsaPublicKeyComponents { n: modulus, e: exponent };
            key.verify(parameters, signed, signature).is_ok()
        }),
        Key::Ec { curve, point } => ecdsa_of(algorithm, *curve).is_some_and(|algorithm| {
            UnparsedPublicKey::new(algorithm, point).verify(signed, &der::signature_of(signature)).is_ok()
        }),
        Key::Ed25519(key) => {
            algorithm == "EdDSA" && UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok()
        }
        Key::Secret(secret) => hmac_of(algorithm).is_some_and(|algorithm| {
            hmac::verify(&hmac::Key::new(algorithm, secret), signed, signature).is_ok()
        }),
        Key::Unusable => false,
    }
}

// OPA takes RSA keys from 1 024 bits; the provider has no such minimum for SHA-384 and PSS.
fn rsa_of(algorithm: &str) -> Option<&'static RsaParameters> {
    match algorithm {
        "RS256" => Some(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
        "RS384" => Some(&RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Some(&RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
        "PS256" => Some(&RSA_PSS_2048_8192_SHA256),
        "PS384" => Some(&RSA_PSS_2048_8192_SHA384),
        "PS512" => Some(&RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

// The algorithm's name fixes the digest; like OPA, this leaves the curve to the key.
fn ecdsa_of(algorithm: &str, curve: Curve) -> Option<&'static EcdsaVerificationAlgorithm> {
    match (algorithm, curve) {
        ("ES256", Curve::P256) => Some(&ECDSA_P256_SHA256_ASN1),
        ("ES256", Curve::P384) => Some(&ECDSA_P384_SHA256_ASN1),
        ("ES256", Curve::P521) => Some(&ECDSA_P521_SHA256_ASN1),
        ("ES384", Curve::P256) => Some(&ECDSA_P256_SHA384_ASN1),
        ("ES384", Curve::P384) => Some(&ECDSA_P384_SHA384_ASN1),
        ("ES384", Curve::P521) => Some(&ECDSA_P521_SHA384_ASN1),
        ("ES512", Curve::P256) => Some(&ECDSA_P256_SHA512_ASN1),
        ("ES512", Curve::P384) => Some(&ECDSA_P384_SHA512_ASN1),
        ("ES512", Curve::P521) => Some(&ECDSA_P521_SHA512_ASN1),
        _ => None,
    }
}

/// The digest of an algorithm with a shared secret.
pub(super) fn hmac_of(algorithm: &str) -> Option<hmac::Algorithm> {
    match algorithm {
        "HS256" => Some(hmac::HMAC_SHA256),
        "HS384" => Some(hmac::HMAC_SHA384),
        "HS512" => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

/// The padding of a signing algorithm with an RSA key.
pub(super) fn rsa_padding(algorithm: &str) -> Option<&'static signature::RsaSignatureEncoding> {
    match algorithm {
        "RS256" => Some(&signature::RSA_PKCS1_SHA256),
        "RS384" => Some(&signature::RSA_PKCS1_SHA384),
        "RS512" => Some(&signature::RSA_PKCS1_SHA512),
        "PS256" => Some(&signature::RSA_PSS_SHA256),
        "PS384" => Some(&signature::RSA_PSS_SHA384),
        "PS512" => Some(&signature::RSA_PSS_SHA512),
        _ => None,
    }
}
