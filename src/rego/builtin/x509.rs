//! `crypto.x509.*` and `crypto.parse_private_keys`: certificates, requests and keys as objects.
//!
//! The objects have the fields of Go's `crypto/x509` types, since that is what policies written for
//! OPA read. Nothing is fetched: a chain is verified with the certificates given and no others.

mod certificate;
mod name;
mod private_key;
mod verify;

use regorus::Value;
use x509_parser::{
    certification_request::X509CertificationRequest,
    prelude::{FromDer, X509Certificate},
};

use self::{private_key::PrivateKey, verify::Requirements};
use super::{
    Entry, Failure, argument,
    argument::object_of,
    encoding::{base64, to_base64},
    pem,
};

pub(super) const TABLE: &[Entry] = &[
    ("crypto.parse_private_keys", 1, parse_private_keys),
    ("crypto.x509.parse_and_verify_certificates", 1, parse_and_verify),
    ("crypto.x509.parse_and_verify_certificates_with_options", 2, parse_and_verify_with_options),
    ("crypto.x509.parse_certificate_request", 1, parse_request),
    ("crypto.x509.parse_certificates", 1, parse_certificates),
    ("crypto.x509.parse_keypair", 2, parse_keypair),
    ("crypto.x509.parse_rsa_private_key", 1, parse_private_key_as_jwk),
];

/// Most certificates or keys in one text.
const COUNT_MAX: usize = 100;

fn error<T>(reason: &str) -> Result<T, Failure> {
    Err(Failure::Error(reason.to_owned()))
}

/// The DER of all certificates in a text: PEM, or base64 of PEM or of DER.
fn certificates_in(text: &str) -> Result<Vec<u8>, Failure> {
    let decoded;
    let pem_text = if text.starts_with("-----BEGIN") {
        text
    } else {
        let bytes = base64(text)?;
        if !bytes.starts_with(b"-----BEGIN") {
            return Ok(bytes);
        }
        decoded = String::from_utf8_lossy(&bytes).into_owned();
        &decoded
    };
    let mut der = Vec::new();
    for block in pem::blocks(pem_text) {
        if block.label != "CERTIFICATE" {
            return error("PEM block is no certificate");
        }
        der.extend(block.bytes);
    }
    Ok(der)
}

/// Reads certificates that stand one after the other.
fn read_all(mut der: &[u8]) -> Result<Vec<X509Certificate<'_>>, Failure> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        if certificates.len() >= COUNT_MAX {
            return Err(Failure::Refused(format!("more than {COUNT_MAX} certificates")));
        }
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|_| Failure::Error("x509: malformed certificate".to_owned()))?;
        certificates.push(certificate);
        der = rest;
    }
    Ok(certificates)
}

fn parse_certificates(arguments: &[Value]) -> Result<Value, Failure> {
    let der = certificates_in(argument::string(arguments, 0)?)?;
    let certificates = read_all(&der)?;
    let objects = certificates.iter().map(certificate::with_uri_strings);
    Ok(Value::from(objects.collect::<Result<Vec<_>, _>>()?))
}

fn parse_and_verify(arguments: &[Value]) -> Result<Value, Failure> {
    let text = argument::string(arguments, 0)?;
    verified(text, &Requirements::default(), certificate::with_uri_strings)
}

fn parse_and_verify_with_options(arguments: &[Value]) -> Result<Value, Failure> {
    let text = argument::string(arguments, 0)?;
    let requirements = Requirements::read(argument::object(arguments, 1)?)?;
    verified(text, &requirements, certificate::to_value)
}

/// Whether the last certificate of a text chains up to the first one, and the chain.
fn verified(
    text: &str,
    requirements: &Requirements,
    show: impl Fn(&X509Certificate<'_>) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    let chain = certificates_in(text).and_then(|der| {
        let certificates = read_all(&der)?;
        let chain = verify::chain(&certificates, requirements)?;
        chain.into_iter().map(show).collect::<Result<Vec<_>, _>>()
    });
    match chain {
        Ok(chain) => Ok(Value::from(vec![Value::from(true), Value::from(chain)])),
        Err(Failure::Error(_)) => Ok(Value::from(vec![Value::from(false), Value::new_array()])),
        Err(ends @ (Failure::Refused(_) | Failure::Unanswered(_))) => Err(ends),
    }
}

fn parse_request(arguments: &[Value]) -> Result<Value, Failure> {
    let text = argument::string(arguments, 0)?;
    let mut der = if text.starts_with("-----BEGIN CERTIFICATE REQUEST-----") {
        text.as_bytes().to_vec()
    } else {
        base64(text)?
    };
    if let Some((block, _)) = std::str::from_utf8(&der).ok().and_then(pem::decode) {
        if block.label != "CERTIFICATE REQUEST" {
            return error("invalid PEM-encoded certificate signing request");
        }
        der = block.bytes;
    }
    let (rest, request) = X509CertificationRequest::from_der(&der)
        .map_err(|_| Failure::Error("asn1: structure error".to_owned()))?;
    if !rest.is_empty() {
        return error("asn1: trailing data");
    }
    certificate::request_to_value(&request)
}

/// The private keys in a text of PEM blocks, which may be in base64.
fn private_keys_in(text: &str) -> Result<Vec<PrivateKey>, Failure> {
    let decoded = base64(text).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let mut keys = Vec::new();
    for block in pem::blocks(decoded.as_deref().unwrap_or(text)) {
        keys.extend(PrivateKey::read(&block)?);
        if keys.len() > COUNT_MAX {
            return Err(Failure::Refused(format!("more than {COUNT_MAX} keys")));
        }
    }
    Ok(keys)
}

fn parse_private_keys(arguments: &[Value]) -> Result<Value, Failure> {
    let text = argument::string(arguments, 0)?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    Ok(Value::from(private_keys_in(text)?.iter().map(PrivateKey::to_value).collect::<Vec<_>>()))
}

fn parse_private_key_as_jwk(arguments: &[Value]) -> Result<Value, Failure> {
    let text = argument::string(arguments, 0)?;
    if text.is_empty() {
        return error("input PEM data was empty");
    }
    let decoded;
    let text = if text.starts_with("-----BEGIN") {
        text
    } else {
        decoded = String::from_utf8_lossy(&base64(text)?).into_owned();
        &decoded
    };
    Ok(private_keys_in(text)?.first().map_or(Value::Null, PrivateKey::to_jwk))
}

fn parse_keypair(arguments: &[Value]) -> Result<Value, Failure> {
    let blocks = |index: usize, label: &str| -> Result<Vec<pem::Block>, Failure> {
        let text = argument::string(arguments, index)?;
        let bytes = if text.starts_with("-----BEGIN ") { text.as_bytes().to_vec() } else { base64(text)? };
        if !bytes.starts_with(b"-----BEGIN ") {
            return Ok(vec![pem::Block { label: label.to_owned(), bytes }]);
        }
        Ok(pem::blocks(&String::from_utf8_lossy(&bytes)).take(COUNT_MAX).collect())
    };
    let certificates: Vec<Vec<u8>> = blocks(0, "CERTIFICATE")?
        .into_iter()
        .filter(|block| block.label == "CERTIFICATE")
        .map(|block| block.bytes)
        .collect();
    let keys = blocks(1, "PRIVATE KEY")?;
    let key = keys.iter().find(|block| block.label == "PRIVATE KEY" || block.label.ends_with(" PRIVATE KEY"));
    let key = key.map(PrivateKey::read).transpose()?.flatten();
    let (Some(leaf), Some(key)) = (certificates.first(), key) else {
        return error("no certificate or no private key to be found");
    };
    let (_, leaf) = X509Certificate::from_der(leaf)
        .map_err(|_| Failure::Error("x509: malformed certificate".to_owned()))?;
    if !key.belongs_to(leaf.public_key()) {
        return error("tls: private key does not match public key");
    }
    let ders = certificates.iter().map(|der| Value::from(to_base64(der)));
    Ok(object_of([
        ("Certificate", Value::from(ders.collect::<Vec<_>>())),
        ("Leaf", certificate::to_value(&leaf)?),
        ("OCSPStaple", Value::Null),
        ("PrivateKey", key.to_value()),
        ("SignedCertificateTimestamps", Value::Null),
        ("SupportedSignatureAlgorithms", Value::Null),
    ]))
}

#[cfg(test)]
mod tests;
