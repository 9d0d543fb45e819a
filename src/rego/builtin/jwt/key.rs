//! Keys for tokens: PEM certificates, PEM public keys, JSON Web Keys and sets of them.

use regorus::Value;
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::super::{
    Failure, argument,
    der::without_zeros,
    encoding::{base64url, from_json},
    pem,
};

/// Most keys in a set: a token may make each of them verify.
const KEYS_MAX: usize = 256;

/// A key as signatures are checked with it.
#[derive(Clone, PartialEq, Eq)]
pub(in super::super) enum Key {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// The point is uncompressed: 4, x, y.
    Ec {
        curve: Curve,
        point: Vec<u8>,
    },
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
    /// Well formed, and good for no signature that is known here.
    Unusable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(in super::super) fn named(name: &str) -> Option<Self> {
        match name {
            "P-256" | "1.2.840.10045.3.1.7" => Some(Self::P256),
            "P-384" | "1.3.132.0.34" => Some(Self::P384),
            "P-521" | "1.3.132.0.35" => Some(Self::P521),
            _ => None,
        }
    }

    /// Bytes of a coordinate.
    pub(in super::super) fn field_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// A key and what a set says about it; empty where it says nothing.
pub(super) struct VerificationKey {
    pub(super) key: Key,
    pub(super) algorithm: String,
    pub(super) id: String,
}

/// Reads a PEM certificate, a PEM public key, a JSON Web Key or a set of them.
pub(super) fn read(text: &str) -> Result<Vec<VerificationKey>, Failure> {
    let Some((block, rest)) = pem::decode(text) else { return read_set(text) };
    if !rest.is_empty() {
        return Err(Failure::Error("extra data after a PEM certificate block".to_owned()));
    }
    let failed = |what: &str| Failure::Error(format!("failed to parse a PEM {what}"));
    let key = match block.label.as_str() {
        "CERTIFICATE" => {
            let (_, certificate) =
                X509Certificate::from_der(&block.bytes).map_err(|_| failed("certificate"))?;
            of_subject(certificate.public_key())
        }
        "PUBLIC KEY" => {
            let (_, info) = SubjectPublicKeyInfo::from_der(&block.bytes).map_err(|_| failed("public key"))?;
            of_subject(&info)
        }
        _ => return Err(Failure::Error("failed to extract a key from the PEM block".to_owned())),
    };
    Ok(vec![VerificationKey { key, algorithm: String::new(), id: String::new() }])
}

/// The key a certificate or a public key is of.
pub(in super::super) fn of_subject(info: &SubjectPublicKeyInfo<'_>) -> Key {
    const ED25519: &str = "1.3.101.112";
    if info.algorithm.algorithm.to_id_string() == ED25519 {
        return Key::Ed25519(info.subject_public_key.data.to_vec());
    }
    match info.parsed() {
        Ok(PublicKey::RSA(rsa)) => Key::Rsa {
            modulus: without_zeros(rsa.modulus).to_vec(),
            exponent: without_zeros(rsa.exponent).to_vec(),
        },
        Ok(PublicKey::EC(point)) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            match curve.and_then(|oid| Curve::named(&oid.to_id_string())) {
                Some(curve) => Key::Ec { curve, point: point.data().to_vec() },
                None => Key::Unusable,
            }
        }
        _ => Key::Unusable,
    }
}

fn read_set(text: &str) -> Result<Vec<VerificationKey>, Failure> {
    let keys = entries(text)?;
    if keys.len() > KEYS_MAX {
        return Err(Failure::Refused(format!("more than {KEYS_MAX} keys in a set")));
    }
    let mut read = Vec::with_capacity(keys.len());
    for entry in &keys {
        let text = |name: &str| match argument::field(entry, name) {
            Some(Value::String(text)) => text.to_string(),
            _ => String::new(),
        };
        let key = of_entry(entry)?;
        let algorithm = text("alg");
        if algorithm.is_empty() || super::ALGORITHMS.contains(&algorithm.as_str()) {
            read.push(VerificationKey { key, algorithm, id: text("kid") });
        }
    }
    Ok(read)
}

/// The keys of a JSON Web Key Set, or the one JSON Web Key.
pub(super) fn entries(text: &str) -> Result<Vec<Value>, Failure> {
    let failed = |reason: &str| Failure::Error(format!("failed to parse a JWK key (set): {reason}"));
    let value = from_json(text).map_err(|_| failed("not JSON"))?;
    match argument::field(&value, "keys") {
        Some(Value::Array(keys)) => Ok(keys.to_vec()),
        Some(_) => Err(failed("`keys` is no list")),
        None if argument::field(&value, "kty").is_some() => Ok(vec![value]),
        None => Err(failed("no `kty`")),
    }
}

fn of_entry(entry: &Value) -> Result<Key, Failure> {
    // A private key is no public one, whatever could be derived from it.
    let is_private = argument::field(entry, "d").is_some();
    let key = match argument::field(entry, "kty").and_then(|kty| kty.as_string().ok()).map(|kty| &**kty) {
        Some("RSA") => Key::Rsa { modulus: member(entry, "n")?, exponent: member(entry, "e")? },
        Some("EC") => {
            let curve = curve_of(entry)?;
            Key::Ec { curve, point: point_of(entry, curve)? }
        }
        Some("OKP") => match name_of_curve(entry) {
            "Ed25519" => Key::Ed25519(bytes_of(entry, "x")?),
            _ => Key::Unusable,
        },
        Some("oct") => Key::Secret(bytes_of(entry, "k")?),
        _ => return Err(Failure::Error("unsupported JWK key type".to_owned())),
    };
    Ok(if is_private && !matches!(key, Key::Secret(_)) { Key::Unusable } else { key })
}

fn name_of_curve(entry: &Value) -> &str {
    if let Some(Value::String(name)) = argument::field(entry, "crv") { name } else { "" }
}

/// The curve of an elliptic-curve JWK.
pub(super) fn curve_of(entry: &Value) -> Result<Curve, Failure> {
    Curve::named(name_of_curve(entry)).ok_or_else(|| Failure::Error("unsupported JWK curve".to_owned()))
}

/// The uncompressed point of an elliptic-curve JWK.
pub(super) fn point_of(entry: &Value, curve: Curve) -> Result<Vec<u8>, Failure> {
    let mut point = vec![4];
    for name in ["x", "y"] {
        let coordinate = member(entry, name)?;
        let missing = curve
            .field_bytes()
            .checked_sub(coordinate.len())
            .ok_or_else(|| Failure::Error(format!("JWK `{name}` is too long for its curve")))?;
        point.resize(point.len() + missing, 0);
        point.extend(coordinate);
    }
    Ok(point)
}

/// A number of a JWK, big-endian, without leading zeros.
pub(super) fn member(entry: &Value, name: &str) -> Result<Vec<u8>, Failure> {
    Ok(without_zeros(&bytes_of(entry, name)?).to_vec())
}

/// Bytes of a JWK.
pub(super) fn bytes_of(entry: &Value, name: &str) -> Result<Vec<u8>, Failure> {
    match argument::field(entry, name) {
        Some(Value::String(text)) => base64url(text),
        _ => Err(Failure::Error(format!("JWK has no `{name}`"))),
    }
}
