//! `.signatures.json`: who vouches for a bundle's files, made and verified as OPA does it.
//!
//! The signature is one JWT that lists a hash of every file. A bundle is taken only if the signature is good, its scope is
//! the expected one, and its list is exactly the files that are there.
//! <https://www.openpolicyagent.org/docs/management-bundles#signing>

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use globset::{Glob, GlobSet, GlobSetBuilder};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::{canonical, files::File};
use crate::base::clock::{Clock as _, SystemClock};
use crate::base::hex::hex;
use crate::rego::fault::{Fault, Place};

/// The file's name.
pub(crate) const FILE_NAME: &str = ".signatures.json";
/// The hash that new signatures use.
const HASH: &str = "SHA-256";

/// What is asked of a bundle's signature.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// Keys by id.
    pub keys: BTreeMap<String, VerificationKey>,
    /// The key that must have signed; `None` lets the signature name one of `keys`.
    pub key_id: Option<String>,
    /// The scope that the signature must state; `None` takes that of the key.
    pub scope: Option<String>,
    /// Patterns of files that need not be signed, such as `*/data.json`.
    pub exclude: Exclude,
}

/// A key that signs bundles, the public half or a shared secret.
#[derive(Clone)]
pub struct VerificationKey {
    algorithm: Algorithm,
    key: DecodingKey,
    scope: Option<String>,
}

/// Patterns of files that a signature need not list.
#[derive(Debug, Clone, Default)]
pub struct Exclude(GlobSet);

/// What a new signature is made with.
pub struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    /// Its id, told in the signature.
    pub key_id: Option<String>,
    /// What the signature is for.
    pub scope: Option<String>,
}

/// A key or an algorithm that bundles cannot be signed with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No algorithm of this name.
    #[error("unknown algorithm `{0}`; one of {list}", list = ALGORITHMS.map(|(name, ..)| name).join(", "))]
    UnknownAlgorithm(String),
    /// The key is not of the algorithm's kind.
    #[error("is no key for {algorithm:?}: {source}")]
    WrongKey {
        /// The algorithm.
        algorithm: Algorithm,
        /// Why.
        source: jsonwebtoken::errors::Error,
    },
    /// A shared secret that can be guessed.
    #[error("a secret of less than 32 bytes can be guessed; use a longer one, or a key pair")]
    ShortSecret,
}

/// A signature that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A file that cannot be hashed.
    #[error("{0}")]
    File(Fault),
    /// The key does not sign.
    #[error("cannot sign: {0}")]
    Key(#[from] jsonwebtoken::errors::Error),
}

const ALGORITHMS: [(&str, Algorithm, Kind); 12] = [
    ("RS256", Algorithm::RS256, Kind::Rsa),
    ("RS384", Algorithm::RS384, Kind::Rsa),
    ("RS512", Algorithm::RS512, Kind::Rsa),
    ("PS256", Algorithm::PS256, Kind::Rsa),
    ("PS384", Algorithm::PS384, Kind::Rsa),
    ("PS512", Algorithm::PS512, Kind::Rsa),
    ("ES256", Algorithm::ES256, Kind::Ec),
    ("ES384", Algorithm::ES384, Kind::Ec),
    ("EdDSA", Algorithm::EdDSA, Kind::Ed),
    ("HS256", Algorithm::HS256, Kind::Secret),
    ("HS384", Algorithm::HS384, Kind::Secret),
    ("HS512", Algorithm::HS512, Kind::Secret),
];
const SECRET_BYTES_MIN: usize = 32;

#[derive(Debug, Deserialize, Serialize)]
struct Signatures {
    signatures: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Payload {
    files: Vec<Listed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keyid: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Listed {
    name: String,
    hash: String,
    algorithm: String,
}

// === impl VerificationKey ===

impl VerificationKey {
    /// `key` is a public key in PEM, or the secret itself for an `HS` algorithm.
    pub fn new(algorithm: Algorithm, key: &str, scope: Option<String>) -> Result<Self, KeyError> {
        let kind = kind(algorithm)?;
        let wrong = |source| KeyError::WrongKey { algorithm, source };
        let pem = key.as_bytes();
        let key = match kind {
            Kind::Secret => DecodingKey::from_secret(secret(key)?),
            Kind::Rsa => DecodingKey::from_rsa_pem(pem).map_err(wrong)?,
            Kind::Ec => DecodingKey::from_ec_pem(pem).map_err(wrong)?,
            Kind::Ed => DecodingKey::from_ed_pem(pem).map_err(wrong)?,
        };
        Ok(Self { algorithm, key, scope })
    }
}

impl std::fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerificationKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

// === impl Signer ===

impl Signer {
    /// `key` is a private key in PEM, or the secret itself for an `HS` algorithm.
    pub fn new(algorithm: Algorithm, key: &str) -> Result<Self, KeyError> {
        let kind = kind(algorithm)?;
        let wrong = |source| KeyError::WrongKey { algorithm, source };
        let pem = key.as_bytes();
        let key = match kind {
            Kind::Secret => EncodingKey::from_secret(secret(key)?),
            Kind::Rsa => EncodingKey::from_rsa_pem(pem).map_err(wrong)?,
            Kind::Ec => EncodingKey::from_ec_pem(pem).map_err(wrong)?,
            Kind::Ed => EncodingKey::from_ed_pem(pem).map_err(wrong)?,
        };
        Ok(Self { algorithm, key, key_id: None, scope: None })
    }

    /// The text of a `.signatures.json` for `files`.
    pub(super) fn sign(&self, files: &[File]) -> Result<String, SignError> {
        let mut listed = Vec::with_capacity(files.len());
        for file in files.iter().filter(|file| file.name() != FILE_NAME) {
            let hash = hash(file, HASH).map_err(SignError::File)?;
            listed.push(Listed { name: file.name(), hash, algorithm: HASH.to_owned() });
        }
        let payload = Payload {
            files: listed,
            scope: self.scope.clone(),
            iat: Some(SystemClock.now().as_secs()),
            keyid: self.key_id.clone(),
        };
        let mut header = Header::new(self.algorithm);
        header.kid.clone_from(&self.key_id);
        let token = jsonwebtoken::encode(&header, &payload, &self.key)?;
        let signatures = Signatures { signatures: vec![token], plugin: None };
        Ok(serde_json::to_string(&signatures).unwrap_or_default())
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

// === impl Exclude ===

impl Exclude {
    /// Patterns on the whole path inside the bundle; `*` stays inside a directory, `**` does not.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern)?);
        }
        Ok(Self(set.build()?))
    }
}

// === impl Verification ===

impl Verification {
    /// Whether the signature among `files` vouches for all of them. `root` is what messages call the bundle.
    pub(super) fn verify(&self, files: &[File], root: &str) -> Result<(), Vec<Fault>> {
        let Some(signatures) = files.iter().find(|file| file.name() == FILE_NAME) else {
            let fault = Fault::new(Place::whole(root), "unsigned", "bundle is not signed");
            return Err(vec![fault.hint("sign it with `gatewayctl policy sign`")]);
        };
        let refused = |message: String| {
            vec![
                Fault::new(Place::whole(signatures.shown.as_str()), "bad_signature", message)
                    .hint("sign the bundle again, and check the configured keys"),
            ]
        };
        let payload = self.open(&signatures.bytes).map_err(refused)?;
        let mut listed: BTreeMap<&str, &Listed> = BTreeMap::new();
        for file in &payload.files {
            if listed.insert(file.name.trim_start_matches('/'), file).is_some() {
                return Err(refused(format!("signature lists `{}` twice", file.name)));
            }
        }
        let mut faults = Vec::new();
        for file in files.iter().filter(|file| file.name() != FILE_NAME) {
            let name = file.name();
            let listed = listed.remove(name.as_str());
            if self.exclude.0.is_match(&name) {
                continue;
            }
            let outcome = match listed {
                None => Err("is not in the bundle's signature".to_owned()),
                Some(listed) => match hash(file, &listed.algorithm) {
                    Ok(hash) if hash.eq_ignore_ascii_case(&listed.hash) => Ok(()),
                    Ok(_) => Err("is not what was signed".to_owned()),
                    Err(fault) => Err(fault.message),
                },
            };
            if let Err(message) = outcome {
                let fault = Fault::new(Place::whole(file.shown.as_str()), "bad_signature", message);
                faults.push(fault.hint("restore the file, or sign the bundle again"));
            }
        }
        for name in listed.into_keys().filter(|name| !self.exclude.0.is_match(name)) {
            faults.extend(refused(format!("signed file `{name}` is missing")));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// What the one signature says, if it is good.
    fn open(&self, text: &[u8]) -> Result<Payload, String> {
        let signatures: Signatures =
            serde_json::from_slice(text).map_err(|error| format!("not valid JSON: {error}"))?;
        if let Some(plugin) = signatures.plugin {
            return Err(format!("signature is for the plugin `{plugin}`, which is not here"));
        }
        let [token] = signatures.signatures.as_slice() else {
            return Err(format!("{} signatures, of exactly one", signatures.signatures.len()));
        };
        let header = jsonwebtoken::decode_header(token).map_err(|error| format!("no signature: {error}"))?;
        let named = self.key_id.as_deref().or(header.kid.as_deref());
        let (id, key) = match named {
            Some(id) => (id, self.keys.get(id)),
            // A signature without a name can only be meant for the only key.
            None => match self.keys.iter().next() {
                Some((id, key)) if self.keys.len() == 1 => (id.as_str(), Some(key)),
                Some(_) | None => return Err("signature names no key; set `keyid`".to_owned()),
            },
        };
        let key = key.ok_or_else(|| format!("signed with the unknown key `{id}`"))?;
        let mut validation = Validation::new(key.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let payload = jsonwebtoken::decode::<Payload>(token, &key.key, &validation)
            .map_err(|error| format!("not signed by the key `{id}`: {error}"))?
            .claims;
        let scope = self.scope.as_deref().or(key.scope.as_deref());
        if payload.scope.as_deref().unwrap_or_default() != scope.unwrap_or_default() {
            let got = payload.scope.as_deref().unwrap_or_default();
            return Err(format!("signed for the scope `{got}`, not `{}`", scope.unwrap_or_default()));
        }
        Ok(payload)
    }
}

/// The algorithm of a name such as `RS256`.
pub fn algorithm(name: &str) -> Result<Algorithm, KeyError> {
    let known = ALGORITHMS.iter().find(|(known, ..)| *known == name);
    known.map(|(_, algorithm, _)| *algorithm).ok_or_else(|| KeyError::UnknownAlgorithm(name.to_owned()))
}

fn kind(algorithm: Algorithm) -> Result<Kind, KeyError> {
    let known = ALGORITHMS.iter().find(|(_, known, _)| *known == algorithm);
    known.map(|(.., kind)| *kind).ok_or_else(|| KeyError::UnknownAlgorithm(format!("{algorithm:?}")))
}

/// What a key is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Secret,
    Rsa,
    Ec,
    Ed,
}

fn secret(key: &str) -> Result<&[u8], KeyError> {
    if key.len() < SECRET_BYTES_MIN {
        return Err(KeyError::ShortSecret);
    }
    Ok(key.as_bytes())
}

/// A file's hash in hex. Documents are hashed by what they say, everything else by its bytes.
fn hash(file: &File, algorithm: &str) -> Result<String, Fault> {
    let fault = |message: String| Fault::new(Place::whole(file.shown.as_str()), "bad_signature", message);
    let algorithm = match algorithm {
        "SHA-224" => &digest::SHA224,
        "SHA-256" => &digest::SHA256,
        "SHA-384" => &digest::SHA384,
        "SHA-512" => &digest::SHA512,
        "SHA-512-256" => &digest::SHA512_256,
        // Collisions can be made at will.
        "MD5" | "SHA-1" => return Err(fault(format!("is hashed with the broken {algorithm}"))),
        _ => return Err(fault(format!("is hashed with the unknown `{algorithm}`"))),
    };
    let digest = match canonical::document(file).map_err(fault)? {
        Some(text) => digest::digest(algorithm, text.as_bytes()),
        None => digest::digest(algorithm, &file.bytes),
    };
    Ok(hex(digest.as_ref()))
}
