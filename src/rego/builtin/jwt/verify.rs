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

use super::key::{Curve, Key};

/// Whether a signature is right; a key of another kind than the algorithm's verifies nothing.
pub(super) fn verify(key: &Key, algorithm: &str, signed: &str, signature: &[u8]) -> bool {
    let signed = signed.as_bytes();
    match key {
        Key::Rsa { modulus, exponent } => rsa_of(algorithm).is_some_and(|parameters| {
            let key = RsaPublicKeyComponents { n: modulus, e: exponent };
            key.verify(parameters, signed, signature).is_ok()
        }),
        Key::Ec { curve, point } => ecdsa_of(algorithm, *curve).is_some_and(|algorithm| {
            UnparsedPublicKey::new(algorithm, point).verify(signed, &to_der(signature)).is_ok()
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

/// `r` and `s` of equal length (RFC 7518, section 3.4) as an ASN.1 sequence of two integers.
fn to_der(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(signature.len() / 2);
    let body = [integer(r), integer(s)].concat();
    tagged(0x30, &body)
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    tagged(2, &[sign, digits].concat())
}

fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let length = length.get(zeros..).unwrap_or_default();
    let mut out = vec![tag];
    if body.len() >= 0x80 {
        // A length has at most eight bytes.
        out.push(0x80 | u8::try_from(length.len()).unwrap_or(8));
    }
    out.extend(if body.is_empty() { &[0] } else { length });
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_canonical_sequences() {
        assert_eq!(to_der(&[1, 2]), [0x30, 6, 2, 1, 1, 2, 1, 2]);
        assert_eq!(to_der(&[0, 0x80, 0, 0]), [0x30, 7, 2, 2, 0, 0x80, 2, 1, 0]);
        assert_eq!(to_der(&[]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
        let long = to_der(&[0x7f; 400]);
        assert_eq!(long[..8], [0x30, 0x82, 1, 0x96, 2, 0x81, 200, 0x7f]);
    }
}
