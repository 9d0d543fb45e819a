//! JSON Web Key Sets (RFC 7517), each key read to the end when the set is loaded, so that no weak or broken one is
//! found out by a request.
//!
//! A key is usable for signatures only if everything it says about itself agrees: `kty`, `crv`, `alg`, `use`,
//! `key_ops`. Keys that are not usable are left out and counted; a set in which two keys answer to the same name and
//! algorithm is refused whole. Signatures are checked by aws-lc with keys parsed once, points on their curve and
//! RSA moduli of 2048 to 8192 bits.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use crate::base::json::{self, StrictJsonError};
use crate::identity::digest::{Sha256, sha256};
use crate::identity::jwt::fault::Fault;

/// Largest document read.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Most keys in a set.
const KEYS_MAX: usize = 100;

const JSON_DEPTH_MAX: usize = 16;

const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The private parts of asymmetric keys (RFC 7518 section 6, RFC 8037); `oct` has its secret in `k`.
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// A key set that is not usable at all.
#[derive(Debug, thiserror::Error)]
pub enum KeySetFault {
    /// Not the JSON of a key set.
    #[error("not a JSON Web Key Set: {0}")]
    NotJson(#[from] StrictJsonError),
    /// No list of keys in it.
    #[error("not a JSON Web Key Set: an object with a `keys` list is expected")]
    NoKeyList,
    /// More keys than `KEYS_MAX`.
    #[error("more than {KEYS_MAX} keys in one set")]
    TooManyKeys,
    /// Shared secrets beside public keys: whoever may read the one must not read the other.
    #[error("shared secrets (`oct`) and public keys in one set; keep them in two")]
    Mixed,
    /// Two keys answer to the same name.
    #[error(
        "two keys have the `kid` `{key_id}` and the algorithm `{algorithm:?}`; a `kid` must name one key"
    )]
    DuplicateKey {
        /// The name, shortened.
        key_id: String,
        /// The algorithm both can be used with.
        algorithm: Algorithm,
    },
}

/// Why one key of a set is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Not an object, or a member of the wrong kind.
    #[error("malformed")]
    Malformed,
    /// `kty` or `crv` is not one of those supported.
    #[error("unsupported kty or crv")]
    UnsupportedType,
    /// `alg` is unknown or does not fit the key.
    #[error("alg is unsupported or does not fit the key")]
    Algorithm,
    /// `use` or `key_ops` says it is not for verifying signatures.
    #[error("not for verifying signatures")]
    NotForVerifying,
    /// A private key, which is none any more once it is published.
    #[error("holds private key material; replace the key pair")]
    PrivateKey,
    /// A shared secret where anyone can read it.
    #[error("a symmetric key is only taken from a file")]
    SymmetricKey,
    /// Shorter than 2048 (RSA) bits or than its hash (HMAC), or longer than 8192 bits.
    #[error("too weak or too large")]
    Size,
    /// Not a point on the curve, or not a modulus and exponent.
    #[error("not a valid public key")]
    InvalidKey,
}

/// Where a key set came from, which decides whether it may hold shared secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A file: shared secrets are taken.
    File,
    /// The network: shared secrets are left out.
    Network,
}

/// The usable keys of a set.
#[derive(Debug, Default)]
pub struct Keys {
    verifiers: Vec<Verifier>,
    left_out: Vec<(String, KeyFault)>,
    revision: u64,
}

/// One key with one algorithm.
pub(super) struct Verifier {
    key_id: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

enum Material {
    Public(ParsedPublicKey),
    Shared(Box<hmac::Key>),
}

/// What a key says it is for.
pub(super) struct Purpose<'j> {
    jwk: &'j Map<String, Value>,
    key_id: Option<&'j str>,
    algorithms: Vec<Algorithm>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("key_id", &self.key_id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads a key set.
    pub fn parse(document: &[u8], origin: Origin) -> Result<Self, KeySetFault> {
        let Value::Object(document) = json::parse(document, JSON_DEPTH_MAX)? else {
            return Err(KeySetFault::NoKeyList);
        };
        let Some(Value::Array(list)) = document.get("keys") else {
            return Err(KeySetFault::NoKeyList);
        };
        if list.len() > KEYS_MAX {
            return Err(KeySetFault::TooManyKeys);
        }
        let mut keys = Self::default();
        let mut names = Vec::new();
        for item in list {
            let purpose = match Purpose::of(item, origin) {
                Ok(purpose) => purpose,
                Err(fault) => {
                    keys.left_out.push((label(item), fault));
                    continue;
                }
            };
            purpose.check_against(&names)?;
            match purpose.verifiers() {
                Ok(verifiers) => keys.verifiers.extend(verifiers),
                Err(fault) => keys.left_out.push((label(item), fault)),
            }
            // A twin that turns out to be broken is still a twin.
            names.push(purpose);
        }
        Ok(keys)
    }

    /// Whether no key is usable.
    pub fn is_empty(&self) -> bool {
        self.verifiers.is_empty()
    }

    /// The keys that are left out, by `kid`, and why.
    pub fn left_out(&self) -> &[(String, KeyFault)] {
        &self.left_out
    }

    /// Counts the distinct contents of the set they belong to.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn at_revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// The only key for a token's `kid` and `alg`. A token without `kid` finds a key only where just one fits.
    pub(super) fn select(&self, key_id: Option<&str>, algorithm: Algorithm) -> Result<&Verifier, Fault> {
        let mut fitting = self.verifiers.iter().filter(|verifier| {
            verifier.algorithm == algorithm && (key_id.is_none() || verifier.key_id.as_deref() == key_id)
        });
        let verifier = fitting.next().ok_or(Fault::UnknownKey)?;
        if fitting.next().is_some() { Err(Fault::AmbiguousKey) } else { Ok(verifier) }
    }
}

impl Verifier {
    /// The algorithm that it checks.
    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether this key made the signature over the message; in constant time for shared secrets.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Public(key) => key.verify_sig(message, signature).is_ok(),
            Material::Shared(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

impl<'j> Purpose<'j> {
    /// Reads what the key says of itself. One that holds its private part is none.
    pub(super) fn of(item: &'j Value, origin: Origin) -> Result<Self, KeyFault> {
        let Value::Object(jwk) = item else { return Err(KeyFault::Malformed) };
        check_use(jwk)?;
        let key_id = text(jwk, "kid")?;
        let kind = text(jwk, "kty")?.ok_or(KeyFault::Malformed)?;
        let fitting: &[Algorithm] = match (kind, text(jwk, "crv")?) {
            ("RSA", _) => &RSA,
            ("EC", Some("P-256")) => &[Algorithm::ES256],
            ("EC", Some("P-384")) => &[Algorithm::ES384],
            ("OKP", Some("Ed25519")) => &[Algorithm::EdDSA],
            ("oct", _) if origin == Origin::Network => return Err(KeyFault::SymmetricKey),
            ("oct", _) => &HMAC,
            _ => return Err(KeyFault::UnsupportedType),
        };
        let algorithms = match text(jwk, "alg")? {
            None => fitting.to_vec(),
            Some(name) => match Algorithm::from_str(name) {
                Ok(declared) if fitting.contains(&declared) => vec![declared],
                Ok(_) | Err(_) => return Err(KeyFault::Algorithm),
            },
        };
        if PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
            return Err(KeyFault::PrivateKey);
        }
        Ok(Self { jwk, key_id, algorithms })
    }

    /// A `kid` names one key for each algorithm, and shared secrets stand apart from public keys.
    fn check_against(&self, others: &[Self]) -> Result<(), KeySetFault> {
        for other in others {
            if self.is_shared() != other.is_shared() {
                return Err(KeySetFault::Mixed);
            }
            let twice = self.algorithms.iter().find(|algorithm| other.algorithms.contains(algorithm));
            if let (Some(key_id), Some(algorithm)) = (self.key_id, twice)
                && other.key_id == Some(key_id)
            {
                return Err(KeySetFault::DuplicateKey { key_id: shorten(key_id), algorithm: *algorithm });
            }
        }
        Ok(())
    }

    fn is_shared(&self) -> bool {
        self.algorithms.iter().any(|algorithm| HMAC.contains(algorithm))
    }

    /// The key with one of its algorithms.
    pub(super) fn verifier(&self, algorithm: Algorithm) -> Result<Verifier, KeyFault> {
        if !self.algorithms.contains(&algorithm) {
            return Err(KeyFault::Algorithm);
        }
        let material = material(self.jwk, algorithm)?;
        Ok(Verifier { key_id: self.key_id.map(str::to_owned), algorithm, material })
    }

    /// The hash by which a public key is known (RFC 7638 section 3, RFC 8037 section 2). `None` for one that lacks a
    /// member, or has one that is not base64url.
    pub(super) fn thumbprint(&self) -> Option<Sha256> {
        let plain =
            |name| text(self.jwk, name).ok().flatten().filter(|text| URL_SAFE_NO_PAD.decode(text).is_ok());
        // Members in the order of their names, without white space; none of the values needs an escape.
        let canonical = match (text(self.jwk, "kty").ok()??, text(self.jwk, "crv").ok()?) {
            ("RSA", _) => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, plain("e")?, plain("n")?),
            ("EC", Some(curve)) => {
                format!(r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#, plain("x")?, plain("y")?)
            }
            ("OKP", Some(curve)) => format!(r#"{{"crv":"{curve}","kty":"OKP","x":"{}"}}"#, plain("x")?),
            _ => return None,
        };
        Some(sha256(canonical.as_bytes()))
    }

    fn verifiers(&self) -> Result<Vec<Verifier>, KeyFault> {
        let mut verifiers = Vec::new();
        for algorithm in self.algorithms.iter().copied() {
            match material(self.jwk, algorithm) {
                Ok(material) => {
                    let key_id = self.key_id.map(str::to_owned);
                    verifiers.push(Verifier { key_id, algorithm, material });
                }
                // A secret long enough for SHA-256 need not be so for SHA-512.
                Err(KeyFault::Size) if self.is_shared() && self.algorithms.len() > 1 => {}
                Err(fault) => return Err(fault),
            }
        }
        if verifiers.is_empty() { Err(KeyFault::Size) } else { Ok(verifiers) }
    }
}

/// RFC 7517 sections 4.2 and 4.3.
fn check_use(jwk: &Map<String, Value>) -> Result<(), KeyFault> {
    if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(KeyFault::NotForVerifying);
    }
    match jwk.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(operations)) => {
            if !operations.iter().all(Value::is_string) {
                return Err(KeyFault::Malformed);
            }
            let verifies = operations.iter().any(|operation| operation == "verify");
            if verifies { Ok(()) } else { Err(KeyFault::NotForVerifying) }
        }
        Some(_) => Err(KeyFault::Malformed),
    }
}

fn material(jwk: &Map<String, Value>, algorithm: Algorithm) -> Result<Material, KeyFault> {
    match algorithm {
        Algorithm::HS256 => shared(jwk, hmac::HMAC_SHA256),
        Algorithm::HS384 => shared(jwk, hmac::HMAC_SHA384),
        Algorithm::HS512 => shared(jwk, hmac::HMAC_SHA512),
        Algorithm::RS256 => rsa(jwk, &RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => rsa(jwk, &RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => rsa(jwk, &RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => rsa(jwk, &RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => rsa(jwk, &RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => rsa(jwk, &RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => point(jwk, &ECDSA_P256_SHA256_FIXED, 32),
        Algorithm::ES384 => point(jwk, &ECDSA_P384_SHA384_FIXED, 48),
        Algorithm::EdDSA => {
            let x = fixed(jwk, "x", 32)?;
            public(ParsedPublicKey::new(&ED25519, x))
        }
        _ => Err(KeyFault::Algorithm),
    }
}

fn shared(jwk: &Map<String, Value>, algorithm: hmac::Algorithm) -> Result<Material, KeyFault> {
    let secret = bytes(jwk, "k")?;
    // RFC 7518 section 3.2: at least as long as the hash.
    if secret.len() < algorithm.digest_algorithm().output_len() {
        return Err(KeyFault::Size);
    }
    Ok(Material::Shared(Box::new(hmac::Key::new(algorithm, &secret))))
}

fn rsa(jwk: &Map<String, Value>, parameters: &'static RsaParameters) -> Result<Material, KeyFault> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    let (Some(high), Some(low)) = (n.first(), n.last()) else { return Err(KeyFault::InvalidKey) };
    let leading_zeros = usize::try_from(high.leading_zeros()).unwrap_or(8);
    let bits = (n.len() * 8).saturating_sub(leading_zeros);
    if !(2048..=8192).contains(&bits) {
        return Err(KeyFault::Size);
    }
    // A small odd exponent above one, as every real key has: a large one makes each verification slow.
    if e.len() > 4 || e.first().is_none_or(|high| *high == 0) {
        return Err(KeyFault::InvalidKey);
    }
    let exponent = e.iter().fold(0_u64, |sum, digit| (sum << 8) | u64::from(*digit));
    if low % 2 == 0 || *high == 0 || exponent < 3 || exponent % 2 == 0 {
        return Err(KeyFault::InvalidKey);
    }
    public(RsaPublicKeyComponents { n, e }.to_parsed_public_key(parameters))
}

fn point(
    jwk: &Map<String, Value>,
    algorithm: &'static dyn VerificationAlgorithm,
    coordinate_bytes: usize,
) -> Result<Material, KeyFault> {
    // SEC 1 section 2.3.3: an uncompressed point.
    let mut point = vec![4];
    point.extend(fixed(jwk, "x", coordinate_bytes)?);
    point.extend(fixed(jwk, "y", coordinate_bytes)?);
    public(ParsedPublicKey::new(algorithm, point))
}

fn public<E>(parsed: Result<ParsedPublicKey, E>) -> Result<Material, KeyFault> {
    parsed.map(Material::Public).map_err(|_| KeyFault::InvalidKey)
}

fn fixed(jwk: &Map<String, Value>, name: &str, length: usize) -> Result<Vec<u8>, KeyFault> {
    let bytes = bytes(jwk, name)?;
    if bytes.len() == length { Ok(bytes) } else { Err(KeyFault::InvalidKey) }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, KeyFault> {
    let encoded = text(jwk, name)?.ok_or(KeyFault::Malformed)?;
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_| KeyFault::Malformed)
}

fn text<'j>(jwk: &'j Map<String, Value>, name: &str) -> Result<Option<&'j str>, KeyFault> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(KeyFault::Malformed),
    }
}

fn label(item: &Value) -> String {
    let key_id = item.get("kid").and_then(Value::as_str);
    key_id.map_or_else(|| "(no kid)".to_owned(), shorten)
}

fn shorten(key_id: &str) -> String {
    key_id.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_thumbprint_is_that_of_the_required_members() {
        // RFC 7638 section 3.1.
        let modulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi\
                       FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgn\
                       Yb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqb\
                       w0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let jwk = json!({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"});
        let thumbprint = Purpose::of(&jwk, Origin::Network).unwrap().thumbprint().unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(thumbprint), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        // RFC 8037 appendix A.3.
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let thumbprint = Purpose::of(&jwk, Origin::Network).unwrap().thumbprint().unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(thumbprint), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_key_with_a_private_member_is_none() {
        for name in PRIVATE {
            let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", name: "AA"});
            assert_eq!(Purpose::of(&jwk, Origin::Network).map(drop), Err(KeyFault::PrivateKey), "{name}");
        }
    }
}
