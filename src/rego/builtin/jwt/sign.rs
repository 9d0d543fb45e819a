//! Making tokens.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPairComponents, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair,
    },
};
use regorus::Value;

use super::{
    super::{
        Failure, argument,
        encoding::{from_json, to_base64url, to_json},
        evaluation,
    },
    ALGORITHMS, key,
    key::Curve,
    verify::{hmac_of, rsa_padding},
};

/// Longest payload signed.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

pub(super) fn encode_sign(arguments: &[Value]) -> Result<Value, Failure> {
    let text = |index| argument::get(arguments, index).map(to_json);
    // Some signatures are drawn by chance, and one decision must not see two of the same.
    evaluation::memoise("io.jwt.encode_sign", arguments, || encode(&text(0)?, &text(1)?, &text(2)?))
}

pub(super) fn encode_sign_raw(arguments: &[Value]) -> Result<Value, Failure> {
    let text = |index| argument::string(arguments, index);
    evaluation::memoise("io.jwt.encode_sign_raw", arguments, || encode(text(0)?, text(1)?, text(2)?))
}

fn encode(headers: &str, payload: &str, key: &str) -> Result<Value, Failure> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Failure::Refused(format!("payload longer than {} MiB", PAYLOAD_BYTES_MAX >> 20)));
    }
    let keys = key::entries(key)?;
    let key = keys.first().ok_or_else(|| Failure::Error("no keys found in JWK set".to_owned()))?;
    let parsed = from_json(headers)?;
    let text = |name: &str| {
        argument::field(&parsed, name).and_then(|value| value.as_string().ok()).map(|text| &**text)
    };
    let algorithm =
        text("alg").ok_or_else(|| Failure::Error("missing or invalid 'alg' header".to_owned()))?;
    if !ALGORITHMS.contains(&algorithm) {
        return Err(Failure::Error(format!("unknown JWS algorithm: {algorithm}")));
    }
    if text("typ").is_none_or(|typ| typ == "JWT") && from_json(payload).is_err() {
        return Err(Failure::Error("type is JWT but payload is not JSON".to_owned()));
    }
    let signed = [to_base64url(headers.as_bytes()), to_base64url(payload.as_bytes())].join(".");
    let signature = sign(key, algorithm, signed.as_bytes())?;
    Ok(Value::from([signed, to_base64url(&signature)].join(".")))
}

fn sign(key: &Value, algorithm: &str, message: &[u8]) -> Result<Vec<u8>, Failure> {
    let kind = argument::field(key, "kty").and_then(|kty| kty.as_string().ok()).map(|kty| &**kty);
    match kind {
        Some("oct") => {
            let algorithm = hmac_of(algorithm).ok_or_else(wrong_kind)?;
            let secret = hmac::Key::new(algorithm, &key::bytes_of(key, "k")?);
            Ok(hmac::sign(&secret, message).as_ref().to_vec())
        }
        Some("RSA") => sign_rsa(key, algorithm, message),
        Some("EC") => sign_ecdsa(key, algorithm, message),
        Some("OKP") if algorithm == "EdDSA" => {
            let (seed, public) = (key::bytes_of(key, "d")?, key::bytes_of(key, "x")?);
            let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, &public).map_err(|_| unusable())?;
            Ok(pair.sign(message).as_ref().to_vec())
        }
        _ => Err(wrong_kind()),
    }
}

fn sign_rsa(key: &Value, algorithm: &str, message: &[u8]) -> Result<Vec<u8>, Failure> {
    let padding = rsa_padding(algorithm).ok_or_else(wrong_kind)?;
    let number = |name| key::member(key, name);
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n: number("n")?, e: number("e")? },
        d: number("d")?,
        p: number("p")?,
        q: number("q")?,
        dP: number("dp")?,
        dQ: number("dq")?,
        qInv: number("qi")?,
    };
    let pair = RsaKeyPair::from_components(&components).map_err(|_| unusable())?;
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(padding, &SystemRandom::new(), message, &mut signature).map_err(|_| unusable())?;
    Ok(signature)
}

fn sign_ecdsa(key: &Value, algorithm: &str, message: &[u8]) -> Result<Vec<u8>, Failure> {
    let curve = key::curve_of(key)?;
    let signing = match (algorithm, curve) {
        ("ES256", Curve::P256) => &ECDSA_P256_SHA256_FIXED_SIGNING,
        ("ES384", Curve::P384) => &ECDSA_P384_SHA384_FIXED_SIGNING,
        ("ES512", Curve::P521) => &ECDSA_P521_SHA512_FIXED_SIGNING,
        _ => return Err(wrong_kind()),
    };
    let point = key::point_of(key, curve)?;
    let mut private = key::member(key, "d")?;
    let missing = curve.field_bytes().saturating_sub(private.len());
    private.splice(0..0, std::iter::repeat_n(0, missing));
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(signing, &private, &point).map_err(|_| unusable())?;
    let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| unusable())?;
    Ok(signature.as_ref().to_vec())
}

fn wrong_kind() -> Failure {
    Failure::Error("key is of another kind than the algorithm".to_owned())
}

fn unusable() -> Failure {
    Failure::Error("key cannot sign".to_owned())
}
