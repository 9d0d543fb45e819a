//! `crypto.*`: digests and keyed digests. Certificates and keys are in `x509`.

use aws_lc_rs::{constant_time, digest, hmac};
use md5::{Digest as _, Md5};
use regorus::Value;

use super::{Entry, Failure, argument, encoding::to_hex};

pub(super) const TABLE: &[Entry] = &[
    ("crypto.hmac.equal", 2, equal),
    ("crypto.hmac.md5", 2, hmac_md5),
    ("crypto.hmac.sha1", 2, |arguments| keyed(arguments, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY)),
    ("crypto.hmac.sha256", 2, |arguments| keyed(arguments, hmac::HMAC_SHA256)),
    ("crypto.hmac.sha512", 2, |arguments| keyed(arguments, hmac::HMAC_SHA512)),
    ("crypto.md5", 1, md5),
    ("crypto.sha1", 1, |arguments| digested(arguments, &digest::SHA1_FOR_LEGACY_USE_ONLY)),
    ("crypto.sha256", 1, |arguments| digested(arguments, &digest::SHA256)),
];

/// Bytes in a block of MD5.
const MD5_BLOCK: usize = 64;

fn digested(arguments: &[Value], algorithm: &'static digest::Algorithm) -> Result<Value, Failure> {
    let text = argument::string(arguments, 0)?;
    Ok(Value::from(to_hex(digest::digest(algorithm, text.as_bytes()).as_ref())))
}

fn keyed(arguments: &[Value], algorithm: hmac::Algorithm) -> Result<Value, Failure> {
    let (message, key) = (argument::string(arguments, 0)?, argument::string(arguments, 1)?);
    let key = hmac::Key::new(algorithm, key.as_bytes());
    Ok(Value::from(to_hex(hmac::sign(&key, message.as_bytes()).as_ref())))
}

fn md5(arguments: &[Value]) -> Result<Value, Failure> {
    Ok(Value::from(to_hex(&Md5::digest(argument::string(arguments, 0)?))))
}

// RFC 2104; the crypto provider has no MD5.
fn hmac_md5(arguments: &[Value]) -> Result<Value, Failure> {
    let (message, key) = (argument::string(arguments, 0)?, argument::string(arguments, 1)?);
    let hashed;
    let key = if key.len() > MD5_BLOCK {
        hashed = Md5::digest(key);
        hashed.as_slice()
    } else {
        key.as_bytes()
    };
    let padded = |pad: u8| {
        let key = key.iter().copied().chain(std::iter::repeat(0)).take(MD5_BLOCK);
        key.map(|byte| byte ^ pad).collect::<Vec<u8>>()
    };
    let inner = Md5::new().chain_update(padded(0x36)).chain_update(message).finalize();
    let outer = Md5::new().chain_update(padded(0x5c)).chain_update(inner).finalize();
    Ok(Value::from(to_hex(&outer)))
}

fn equal(arguments: &[Value]) -> Result<Value, Failure> {
    let (left, right) = (argument::string(arguments, 0)?, argument::string(arguments, 1)?);
    let equal = constant_time::verify_slices_are_equal(left.as_bytes(), right.as_bytes()).is_ok();
    Ok(Value::from(equal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_md5_follows_rfc_2202() {
        let hmac = |message: &str, key: &str| hmac_md5(&[Value::from(message), Value::from(key)]).unwrap();
        assert_eq!(hmac("what do ya want for nothing?", "Jefe"), "750c783e6ab0b503eaa86e310a5db738".into());
        let long = "\u{2a}".repeat(80);
        assert_eq!(hmac("x", &long), hmac("x", &long));
        assert_ne!(hmac("x", &long), hmac("x", &long[..64]));
    }

    #[test]
    fn digests_are_those_everybody_knows() {
        let text = [Value::from("abc")];
        assert_eq!(md5(&text).unwrap(), "900150983cd24fb0d6963f7d28e17f72".into());
        let sha1 = digested(&text, &digest::SHA1_FOR_LEGACY_USE_ONLY).unwrap();
        assert_eq!(sha1, "a9993e364706816aba3e25717850c26c9cd0d89d".into());
        assert!(md5(&[Value::from(1)]).is_err());
    }
}
