//! Bodies as the policy reads them: whole, of a declared type, in one reading only, or refused.

use std::collections::BTreeMap;

use http::{HeaderMap, header};
use regorus::Value;

use crate::base::json;
use crate::contract::canonical::{Refusal, is_decodable};
use crate::contract::input::form_pairs;
use crate::contract::request::BodyFacts;

/// JSON deeper than this is refused: it takes stack to walk, and no API needs it.
const JSON_DEPTH_MAX: usize = 64;

/// How a body is read, by its declared type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// `application/json` and `application/*+json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `text/*`.
    Text,
    /// Anything else.
    Binary,
}

impl BodyKind {
    /// The kind that the headers declare. A body that is coded, of several parts, or of no declared type cannot be
    /// judged, and is refused.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let coded = headers.get(header::CONTENT_ENCODING);
        if coded.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Refusal::BodyUnsupported);
        }
        let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let declared = declared.ok_or(Refusal::BodyUnsupported)?;
        let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Ok(Self::Json),
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            _ if essence.starts_with("application/") && essence.ends_with("+json") => Ok(Self::Json),
            _ if essence.starts_with("text/") => Ok(Self::Text),
            _ if essence.starts_with("multipart/") || !essence.contains('/') => Err(Refusal::BodyUnsupported),
            _ => Ok(Self::Binary),
        }
    }

    /// Reads a whole body.
    pub fn read(self, bytes: &[u8]) -> Result<BodyFacts, Refusal> {
        if bytes.is_empty() {
            return Ok(BodyFacts::Absent);
        }
        let text = || std::str::from_utf8(bytes).map_err(|_| Refusal::BodyMalformed);
        match self {
            Self::Json => {
                let document = json::parse(bytes, JSON_DEPTH_MAX).map_err(|_| Refusal::BodyMalformed)?;
                Ok(BodyFacts::Parsed(Value::from(document)))
            }
            Self::Form => {
                let text = text()?;
                if !is_decodable(text) {
                    return Err(Refusal::BodyMalformed);
                }
                Ok(BodyFacts::Parsed(form(text)))
            }
            Self::Text => Ok(BodyFacts::Text(Value::from(text()?))),
            Self::Binary => Ok(BodyFacts::Binary),
        }
    }
}

fn form(text: &str) -> Value {
    let mut fields = BTreeMap::<Value, Vec<Value>>::new();
    for (name, value) in form_pairs(text) {
        fields.entry(Value::from(&*name)).or_default().push(Value::from(&*value));
    }
    let fields = fields.into_iter().map(|(name, values)| (name, Value::from(values)));
    Value::from(fields.collect::<BTreeMap<_, _>>())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn kind(content_type: &str, encoding: Option<&'static str>) -> Option<BodyKind> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        BodyKind::of(&headers).ok()
    }

    #[test]
    fn bodies_are_read_by_their_declared_type() {
        assert_eq!(kind("application/json; charset=utf-8", None), Some(BodyKind::Json));
        assert_eq!(kind("Application/Problem+JSON", Some("identity")), Some(BodyKind::Json));
        assert_eq!(kind("application/x-www-form-urlencoded", None), Some(BodyKind::Form));
        assert_eq!(kind("text/plain", None), Some(BodyKind::Text));
        assert_eq!(kind("application/octet-stream", None), Some(BodyKind::Binary));
        for (content_type, encoding) in [
            ("application/json", Some("gzip")),
            ("multipart/form-data; boundary=x", None),
            ("", None),
            ("json", None),
        ] {
            assert_eq!(kind(content_type, encoding), None, "{content_type}");
        }
        assert!(BodyKind::of(&HeaderMap::new()).is_err());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        assert!(BodyKind::Json.read(br#"{"a":1,"a":2}"#).is_err());
        assert!(BodyKind::Json.read("[".repeat(65).as_bytes()).is_err());
        assert!(BodyKind::Json.read(b"{\"a\":").is_err());
        assert!(BodyKind::Text.read(b"\xff\xfe").is_err());
        assert!(BodyKind::Form.read(b"a=%zz").is_err());
        assert!(matches!(BodyKind::Form.read(b"a=1&a=2+3"), Ok(BodyFacts::Parsed(_))));
        assert!(matches!(BodyKind::Json.read(b""), Ok(BodyFacts::Absent)));
    }
}
