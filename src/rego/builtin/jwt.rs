//! `io.jwt.*`: JSON Web Tokens in compact form (RFC 7519, RFC 7515), with OPA's answers.
//!
//! Nothing here trusts a token: which keys and algorithms count is the caller's word alone, and the
//! header only chooses among them.

pub(super) mod key;
mod sign;
mod verify;

use regorus::Value;

use self::key::VerificationKey;
use super::{
    Entry, Failure, argument,
    encoding::{base64url, from_json, to_hex},
    evaluation,
};

pub(super) const TABLE: &[Entry] = &[
    ("io.jwt.decode", 1, decode),
    ("io.jwt.decode_verify", 2, decode_verify),
    ("io.jwt.encode_sign", 3, sign::encode_sign),
    ("io.jwt.encode_sign_raw", 3, sign::encode_sign_raw),
    ("io.jwt.verify_eddsa", 2, |arguments| verify_with(arguments, "EdDSA")),
    ("io.jwt.verify_es256", 2, |arguments| verify_with(arguments, "ES256")),
    ("io.jwt.verify_es384", 2, |arguments| verify_with(arguments, "ES384")),
    ("io.jwt.verify_es512", 2, |arguments| verify_with(arguments, "ES512")),
    ("io.jwt.verify_hs256", 2, |arguments| verify_secret(arguments, "HS256")),
    ("io.jwt.verify_hs384", 2, |arguments| verify_secret(arguments, "HS384")),
    ("io.jwt.verify_hs512", 2, |arguments| verify_secret(arguments, "HS512")),
    ("io.jwt.verify_ps256", 2, |arguments| verify_with(arguments, "PS256")),
    ("io.jwt.verify_ps384", 2, |arguments| verify_with(arguments, "PS384")),
    ("io.jwt.verify_ps512", 2, |arguments| verify_with(arguments, "PS512")),
    ("io.jwt.verify_rs256", 2, |arguments| verify_with(arguments, "RS256")),
    ("io.jwt.verify_rs384", 2, |arguments| verify_with(arguments, "RS384")),
    ("io.jwt.verify_rs512", 2, |arguments| verify_with(arguments, "RS512")),
];

/// Longest token read.
const TOKEN_BYTES_MAX: usize = 1 << 20;
/// Most tokens in one another.
const NESTING_MAX: usize = 16;
const NANOSECONDS: f64 = 1e9;

/// The algorithms OPA knows; a key for another one is passed over.
const ALGORITHMS: &[&str] = &[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256", "HS384",
    "HS512", "EdDSA",
];

/// The three parts of a token.
struct Token<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// What is signed: header, dot, payload.
    signed: &'a str,
}

impl<'a> Token<'a> {
    fn split(text: &'a str) -> Result<Self, Failure> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Failure::Refused(format!("token longer than {} MiB", TOKEN_BYTES_MAX >> 20)));
        }
        let parts: Vec<&str> = text.splitn(5, '.').collect();
        let [header, payload, signature] = *parts else {
            return Err(Failure::Error(format!(
                "encoded JWT must have 3 sections, found {}",
                text.matches('.').count() + 1
            )));
        };
        let signed = text.get(..header.len() + 1 + payload.len()).unwrap_or_default();
        Ok(Self { header, payload, signature, signed })
    }

    fn header(&self) -> Result<Value, Failure> {
        let header = json_object(&decoded("header", self.header)?)?;
        if argument::field(&header, "enc").is_some() {
            return Err(Failure::Error("JWT is a JWE object, which is not supported".to_owned()));
        }
        Ok(header)
    }

    fn payload_bytes(&self) -> Result<Vec<u8>, Failure> {
        decoded("payload", self.payload)
    }

    fn signature(&self) -> Result<Vec<u8>, Failure> {
        decoded("signature", self.signature)
    }
}

fn decoded(part: &str, text: &str) -> Result<Vec<u8>, Failure> {
    base64url(text).map_err(|failure| match failure {
        Failure::Error(reason) => Failure::Error(format!("JWT {part} had invalid encoding: {reason}")),
        ends @ (Failure::Refused(_) | Failure::Unanswered(_)) => ends,
    })
}

fn json_object(bytes: &[u8]) -> Result<Value, Failure> {
    let value = from_json(&String::from_utf8_lossy(bytes))?;
    if matches!(value, Value::Object(_)) {
        Ok(value)
    } else {
        Err(Failure::Error("decoded JSON type was not an Object".to_owned()))
    }
}

/// The header parameters that decide how a token is read (RFC 7515, section 4.1).
#[derive(Default)]
struct Header {
    algorithm: String,
    key_id: String,
    content_type: String,
    /// Whether a critical parameter is one nobody here understands.
    is_critical_unknown: bool,
}

impl Header {
    const KNOWN: [&'static str; 5] = ["alg", "kid", "typ", "cty", "crit"];

    fn read(header: &Value) -> Result<Self, Failure> {
        let text = |name: &str| match argument::field(header, name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.to_string()),
            Some(_) => Err(Failure::Error(format!("{name}: must be a string"))),
        };
        text("typ")?;
        let mut is_critical_unknown = false;
        if let Some(critical) = argument::field(header, "crit") {
            let Value::Array(critical) = critical else {
                return Err(Failure::Error("crit: must be a list".to_owned()));
            };
            if !critical.iter().any(|name| matches!(name, Value::String(_))) {
                return Err(Failure::Error("crit: must be a nonempty list".to_owned()));
            }
            is_critical_unknown = critical.iter().any(|name| {
                let Value::String(name) = name else { return false };
                !Self::KNOWN.contains(&&**name) && argument::field(header, name).is_some()
            });
        }
        Ok(Self {
            algorithm: text("alg")?,
            key_id: text("kid")?,
            content_type: text("cty")?,
            is_critical_unknown,
        })
    }
}

fn decode(arguments: &[Value]) -> Result<Value, Failure> {
    let mut text = argument::string(arguments, 0)?.to_owned();
    for _ in 0..NESTING_MAX {
        let token = Token::split(&text)?;
        let header = token.header()?;
        let payload = token.payload_bytes()?;
        match argument::field(&header, "cty") {
            Some(Value::String(content_type)) if &**content_type == "JWT" => {
                // Some put the inner token in quotes.
                let inner = String::from_utf8_lossy(&payload);
                inner.trim_matches(['"', '\'']).clone_into(&mut text);
            }
            Some(Value::String(_)) | None => {
                let signature = Value::from(to_hex(&token.signature()?));
                return Ok(Value::from(vec![header, json_object(&payload)?, signature]));
            }
            Some(_) => return Err(Failure::Error("cty: must be a string".to_owned())),
        }
    }
    Err(Failure::Refused(format!("more than {NESTING_MAX} tokens in one another")))
}

fn verify_with(arguments: &[Value], algorithm: &str) -> Result<Value, Failure> {
    let token = Token::split(argument::string(arguments, 0)?)?;
    let keys = key::read(argument::string(arguments, 1)?)?;
    let signature = token.signature()?;
    let header = Header::read(&token.header()?)?;
    let verifies = |key: &VerificationKey| verify::verify(&key.key, algorithm, token.signed, &signature);
    Ok(Value::from(any_key(&keys, &header, verifies)))
}

fn verify_secret(arguments: &[Value], algorithm: &str) -> Result<Value, Failure> {
    let token = Token::split(argument::string(arguments, 0)?)?;
    let secret = key::Key::Secret(argument::string(arguments, 1)?.as_bytes().to_vec());
    let signature = token.signature()?;
    Ok(Value::from(verify::verify(&secret, algorithm, token.signed, &signature)))
}

/// Whether the key the header names verifies or, where it names none of them, any key whose own
/// algorithm does not say otherwise.
fn any_key(keys: &[VerificationKey], header: &Header, verifies: impl Fn(&VerificationKey) -> bool) -> bool {
    if !header.key_id.is_empty()
        && let Some(key) = keys.iter().find(|key| key.id == header.key_id)
    {
        return verifies(key);
    }
    keys.iter().filter(|key| key.algorithm.is_empty() || key.algorithm == header.algorithm).any(verifies)
}

/// What `io.jwt.decode_verify` is told to require.
#[derive(Default)]
struct Constraints {
    keys: Option<Vec<VerificationKey>>,
    secret: String,
    algorithm: String,
    issuer: String,
    audience: String,
    time_ns: Option<f64>,
}

impl Constraints {
    fn read(value: &Value) -> Result<Self, Failure> {
        let Value::Object(fields) = value else { return Err(argument::wrong_type(1, "object", value)) };
        let mut constraints = Self::default();
        for (name, value) in fields.iter() {
            let text = || match value {
                Value::String(text) => Ok(text.to_string()),
                _ => Err(Failure::Error(format!("{name} constraint: must be a string"))),
            };
            match name.as_string().map(|name| &**name) {
                Ok("cert") => constraints.keys = Some(key::read(&text()?)?),
                Ok("secret") => constraints.secret = text()?,
                Ok("alg") => constraints.algorithm = text()?,
                Ok("iss") => constraints.issuer = text()?,
                Ok("aud") => constraints.audience = text()?,
                Ok("time") => constraints.time_ns = Some(time_of(value)?),
                _ => return Err(Failure::Error(format!("unknown token validation constraint: {name}"))),
            }
        }
        match (&constraints.keys, constraints.secret.is_empty()) {
            (Some(_), false) => Err(Failure::Error("duplicate key constraints".to_owned())),
            (None, true) => Err(Failure::Error("no key constraint".to_owned())),
            (Some(_), true) | (None, false) => Ok(constraints),
        }
    }

    fn verify(&self, header: &Header, token: &Token<'_>, signature: &[u8]) -> bool {
        let verify = |key: &key::Key| verify::verify(key, &header.algorithm, token.signed, signature);
        match &self.keys {
            Some(keys) => any_key(keys, header, |key| verify(&key.key)),
            None => verify(&key::Key::Secret(self.secret.as_bytes().to_vec())),
        }
    }

    /// Whether the registered claims hold (RFC 7519, section 4.1).
    fn allow(&self, payload: &Value, now_ns: i64) -> Result<bool, Failure> {
        if !self.issuer.is_empty() {
            let issuer = argument::field(payload, "iss");
            if issuer != Some(&Value::from(self.issuer.as_str())) {
                return Ok(false);
            }
        }
        let audience = Value::from(self.audience.as_str());
        let is_meant = match argument::field(payload, "aud") {
            // A token for somebody must not be taken by someone who does not say who they are.
            Some(Value::Array(audiences)) => audiences.contains(&audience),
            Some(one) => *one == audience,
            None => self.audience.is_empty(),
        };
        if !is_meant {
            return Ok(false);
        }
        #[expect(clippy::cast_precision_loss, reason = "OPA compares times as floating-point seconds")]
        let now = Value::from(self.time_ns.unwrap_or(now_ns as f64) / NANOSECONDS);
        let time = |name: &str| match argument::field(payload, name) {
            time @ (None | Some(Value::Number(_))) => Ok(time),
            Some(_) => Err(Failure::Error(format!("{name} value must be a number"))),
        };
        let is_expired = time("exp")?.is_some_and(|expires| now >= *expires);
        let is_early = !is_expired && time("nbf")?.is_some_and(|begins| now < *begins);
        Ok(!is_expired && !is_early)
    }
}

fn time_of(value: &Value) -> Result<f64, Failure> {
    let time = argument::approximate(value)
        .ok_or_else(|| Failure::Error("token time constraint: must be a number".to_owned()))?;
    if time < 0.0 {
        return Err(Failure::Error("token time constraint: must not be negative".to_owned()));
    }
    Ok(time)
}

fn decode_verify(arguments: &[Value]) -> Result<Value, Failure> {
    let mut text = argument::string(arguments, 0)?.to_owned();
    let constraints = Constraints::read(argument::get(arguments, 1)?)?;
    let unverified = || Ok(Value::from(vec![Value::from(false), Value::new_object(), Value::new_object()]));
    for _ in 0..NESTING_MAX {
        let token = Token::split(&text)?;
        let header_value = token.header()?;
        let header = Header::read(&header_value)?;
        if header.algorithm.is_empty() || header.is_critical_unknown {
            return unverified();
        }
        if !constraints.algorithm.is_empty() && constraints.algorithm != header.algorithm {
            return unverified();
        }
        let signature = token.signature()?;
        if !constraints.verify(&header, &token, &signature) {
            return unverified();
        }
        let payload = token.payload_bytes()?;
        if header.content_type.eq_ignore_ascii_case("JWT") {
            text = String::from_utf8(payload)
                .map_err(|_| Failure::Error("nested token is not text".to_owned()))?;
            continue;
        }
        let payload = json_object(&payload)?;
        if !constraints.allow(&payload, evaluation::now_ns())? {
            return unverified();
        }
        return Ok(Value::from(vec![Value::from(true), header_value, payload]));
    }
    Err(Failure::Refused(format!("more than {NESTING_MAX} tokens in one another")))
}

#[cfg(test)]
mod tests;
