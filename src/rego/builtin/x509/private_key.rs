//! Private keys: PKCS #1, PKCS #8 and SEC 1, as Go's types and as JSON Web Keys.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use regorus::Value;
use x509_parser::{der_parser::oid::Oid, x509::SubjectPublicKeyInfo};

use super::{
    super::{
        Failure,
        argument::object_of,
        der::{OBJECT_ID, OCTET_STRING, Reader},
        encoding::{to_base64, to_base64url},
        jwt::key::{Curve, Key, of_subject},
        pem::Block,
    },
    certificate::big_number,
};

/// A private key, its numbers big-endian without leading zeros.
pub(super) enum PrivateKey {
    Rsa(RsaKey),
    Ec { curve: Curve, secret: Vec<u8>, point: Vec<u8> },
    Ed25519 { seed: Vec<u8>, public: Vec<u8> },
}

/// The numbers of an RSA key (RFC 8017, appendix A.1.2).
pub(super) struct RsaKey {
    modulus: Vec<u8>,
    public_exponent: Vec<u8>,
    private_exponent: Vec<u8>,
    primes: [Vec<u8>; 2],
    exponents: [Vec<u8>; 2],
    coefficient: Vec<u8>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl PrivateKey {
    /// The key in a block; nothing if it is a block of something else.
    pub(super) fn read(block: &Block) -> Result<Option<Self>, Failure> {
        let key = match block.label.as_str() {
            "RSA PRIVATE KEY" => rsa(&block.bytes),
            "EC PRIVATE KEY" => ec(&block.bytes, None),
            "PRIVATE KEY" => pkcs8(&block.bytes),
            _ => return Ok(None),
        };
        match key {
            Some(key) => Ok(Some(key)),
            None => Err(Failure::Error("failed to parse a private key".to_owned())),
        }
    }

    pub(super) fn belongs_to(&self, info: &SubjectPublicKeyInfo<'_>) -> bool {
        match (self, of_subject(info)) {
            (Self::Rsa(key), Key::Rsa { modulus, exponent }) => {
                key.modulus == modulus && key.public_exponent == exponent
            }
            (Self::Ec { curve, point, .. }, Key::Ec { curve: other, point: public }) => {
                *curve == other && *point == public
            }
            (Self::Ed25519 { public, .. }, Key::Ed25519(other)) => *public == other,
            (Self::Rsa(_) | Self::Ec { .. } | Self::Ed25519 { .. }, _) => false,
        }
    }

    /// The key as Go's type for it.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Rsa(key) => {
                let [p, q] = key.primes.each_ref().map(|prime| big_number(prime));
                let [dp, dq] = key.exponents.each_ref().map(|exponent| big_number(exponent));
                let precomputed = object_of([
                    ("CRTValues", Value::new_array()),
                    ("Dp", dp),
                    ("Dq", dq),
                    ("Qinv", big_number(&key.coefficient)),
                ]);
                object_of([
                    ("D", big_number(&key.private_exponent)),
                    ("E", big_number(&key.public_exponent)),
                    ("N", big_number(&key.modulus)),
                    ("Precomputed", precomputed),
                    ("Primes", Value::from(vec![p, q])),
                ])
            }
            Self::Ec { curve, secret, point } => {
                let (x, y) = coordinates(*curve, point);
                object_of([
                    ("Curve", Value::new_object()),
                    ("D", big_number(secret)),
                    ("X", big_number(x)),
                    ("Y", big_number(y)),
                ])
            }
            Self::Ed25519 { seed, public } => {
                Value::from(to_base64(&[seed.as_slice(), public.as_slice()].concat()))
            }
        }
    }

    /// The key as a JSON Web Key (RFC 7518, section 6).
    pub(super) fn to_jwk(&self) -> Value {
        let number = |bytes: &[u8]| Value::from(to_base64url(bytes));
        match self {
            Self::Rsa(key) => {
                let [p, q] = key.primes.each_ref().map(|prime| number(prime));
                let [dp, dq] = key.exponents.each_ref().map(|exponent| number(exponent));
                object_of([
                    ("kty", Value::from("RSA")),
                    ("n", number(&key.modulus)),
                    ("e", number(&key.public_exponent)),
                    ("d", number(&key.private_exponent)),
                    ("p", p),
                    ("q", q),
                    ("dp", dp),
                    ("dq", dq),
                    ("qi", number(&key.coefficient)),
                ])
            }
            Self::Ec { curve, secret, point } => {
                let (x, y) = coordinates(*curve, point);
                let name = match curve {
                    Curve::P256 => "P-256",
                    Curve::P384 => "P-384",
                    Curve::P521 => "P-521",
                };
                let mut padded = vec![0; curve.field_bytes().saturating_sub(secret.len())];
                padded.extend(secret);
                object_of([
                    ("kty", Value::from("EC")),
                    ("crv", Value::from(name)),
                    ("d", number(&padded)),
                    ("x", number(x)),
                    ("y", number(y)),
                ])
            }
            Self::Ed25519 { seed, public } => object_of([
                ("kty", Value::from("OKP")),
                ("crv", Value::from("Ed25519")),
                ("d", number(seed)),
                ("x", number(public)),
            ]),
        }
    }
}

fn coordinates(curve: Curve, point: &[u8]) -> (&[u8], &[u8]) {
    let coordinates = point.get(1..).unwrap_or_default();
    coordinates.split_at(curve.field_bytes().min(coordinates.len()))
}

fn rsa(der: &[u8]) -> Option<PrivateKey> {
    let mut key = Reader(der).sequence()?;
    // Version 0: two primes.
    key.integer().filter(|version| version.is_empty())?;
    let mut number = || key.integer().map(<[u8]>::to_vec);
    Some(PrivateKey::Rsa(RsaKey {
        modulus: number()?,
        public_exponent: number()?,
        private_exponent: number()?,
        primes: [number()?, number()?],
        exponents: [number()?, number()?],
        coefficient: number()?,
    }))
}

fn pkcs8(der: &[u8]) -> Option<PrivateKey> {
    let mut info = Reader(der).sequence()?;
    info.integer()?;
    let mut algorithm = info.sequence()?;
    let kind = object_id(&mut algorithm)?;
    let key = info.next(OCTET_STRING)?;
    match kind.as_str() {
        "1.2.840.113549.1.1.1" => rsa(key),
        "1.2.840.10045.2.1" => ec(key, Curve::named(&object_id(&mut algorithm)?)),
        "1.3.101.112" => {
            let seed = Reader(key).next(OCTET_STRING)?;
            let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
            let public = pair.public_key().as_ref().to_vec();
            Some(PrivateKey::Ed25519 { seed: seed.to_vec(), public })
        }
        _ => None,
    }
}

fn object_id(reader: &mut Reader<'_>) -> Option<String> {
    let body = reader.next(OBJECT_ID)?;
    Some(Oid::new(body.to_vec().into()).to_id_string())
}

/// A key of SEC 1, section C.4; the curve is in it or known from around it.
fn ec(der: &[u8], known: Option<Curve>) -> Option<PrivateKey> {
    const PARAMETERS: u8 = 0xa0;
    let mut key = Reader(der).sequence()?;
    key.integer()?;
    let secret = key.next(OCTET_STRING)?;
    let named = key.next(PARAMETERS).and_then(|body| Curve::named(&object_id(&mut Reader(body))?));
    let curve = named.or(known)?;
    let algorithm: &'static EcdsaSigningAlgorithm = match curve {
        Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        Curve::P521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
    };
    let secret = super::super::der::without_zeros(secret).to_vec();
    let pair = EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?;
    Some(PrivateKey::Ec { curve, secret, point: pair.public_key().as_ref().to_vec() })
}
