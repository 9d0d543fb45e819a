//! The fourth stage: the facts that the policy can read and that are not there yet, above all the body.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, header};
use hyper::body::{Body as _, Incoming};
use regorus::Value;

use crate::contract::identity::Identity;
use crate::contract::input::form_pairs;
use crate::contract::request::BodyFacts;
use crate::identity::json;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::identified::Identified;
use crate::pipeline::received::Origin;
use crate::pipeline::reject::Cause;
use crate::pipeline::request_body::{LimitedBody, UpstreamRequestBody};
use crate::pipeline::respond::Reject;
use crate::pipeline::routed::Target;

/// JSON deeper than this is refused: it takes stack to walk, and no API needs it.
const JSON_DEPTH_MAX: usize = 64;

/// A request with all facts that its policy can read.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) exchange: Exchange,
    pub(crate) from: Origin,
    pub(crate) target: Target,
    pub(crate) identity: Arc<Identity>,
    pub(crate) facts: BodyFacts,
    pub(crate) body: UpstreamRequestBody,
}

// === impl Identified ===

impl Identified {
    /// Reads what the policy reads; a body is whole or refused.
    pub(crate) async fn inspect(self) -> Result<Inspected, Reject> {
        let Self { exchange, body, from, target, identity } = self;
        let local = Rc::clone(&exchange.local);
        let Some((api, route)) = local.resolve(target.api, target.route) else {
            return Err(Reject::new(exchange, Cause::Internal));
        };
        let listener = local.runtime().listener(exchange.connection.listener);
        let (Some(decider), Some(listener)) = (local.decider(api.policy), listener) else {
            return Err(Reject::new(exchange, Cause::Internal));
        };
        let limits = &listener.config.limits;
        let bounds = Bounds {
            bytes: route.body_limit.unwrap_or(limits.body_bytes.bytes()),
            timeout: limits.body_timeout,
        };
        let (reads_body, reads_query) = {
            let decider = decider.borrow();
            (decider.needs_body(), decider.reads_query())
        };
        if reads_query && !exchange.head.query.as_deref().is_none_or(is_decodable) {
            return Err(Reject::new(exchange, Cause::QueryMalformed));
        }
        match inspect(&exchange, body, bounds, reads_body).await {
            Ok((facts, body)) => Ok(Inspected { exchange, from, target, identity, facts, body }),
            Err(cause) => Err(Reject::new(exchange, cause)),
        }
    }
}

/// Bounds of a body.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    bytes: u64,
    timeout: Duration,
}

async fn inspect(
    exchange: &Exchange,
    body: Incoming,
    bounds: Bounds,
    reads_body: bool,
) -> Result<(BodyFacts, UpstreamRequestBody), Cause> {
    if body.is_end_stream() {
        let facts = if reads_body { BodyFacts::Absent } else { BodyFacts::Unread };
        return Ok((facts, UpstreamRequestBody::Empty));
    }
    let length = exchange.head.content_length;
    if length.is_some_and(|length| length > bounds.bytes) {
        return Err(Cause::BodyTooLarge);
    }
    let body = LimitedBody::new(body, bounds.bytes, bounds.timeout, Rc::clone(&exchange.connection));
    if !reads_body {
        return Ok((BodyFacts::Unread, UpstreamRequestBody::Stream(body)));
    }
    let kind = Kind::of(&exchange.head.headers)?;
    let bytes = body.collect(length).await.map_err(|fault| fault.cause())?;
    let facts = if bytes.is_empty() { BodyFacts::Absent } else { kind.read(&bytes)? };
    Ok((facts, UpstreamRequestBody::whole(bytes)))
}

/// How a body is read, by its declared type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
    Text,
    Binary,
}

// === impl Kind ===

impl Kind {
    /// A body that is coded, of several parts, or of no declared type cannot be judged, and is refused.
    fn of(headers: &HeaderMap) -> Result<Self, Cause> {
        let coded = headers.get(header::CONTENT_ENCODING);
        if coded.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Cause::BodyUnsupported);
        }
        let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let declared = declared.ok_or(Cause::BodyUnsupported)?;
        let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Ok(Self::Json),
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            _ if essence.starts_with("application/") && essence.ends_with("+json") => Ok(Self::Json),
            _ if essence.starts_with("text/") => Ok(Self::Text),
            _ if essence.starts_with("multipart/") || !essence.contains('/') => Err(Cause::BodyUnsupported),
            _ => Ok(Self::Binary),
        }
    }

    fn read(self, bytes: &[u8]) -> Result<BodyFacts, Cause> {
        let text = || std::str::from_utf8(bytes).map_err(|_| Cause::BodyMalformed);
        match self {
            Self::Json => {
                let document = json::parse(bytes, JSON_DEPTH_MAX).map_err(|_| Cause::BodyMalformed)?;
                Ok(BodyFacts::Parsed(Value::from(document)))
            }
            Self::Form => {
                let text = text()?;
                if !is_decodable(text) {
                    return Err(Cause::BodyMalformed);
                }
                Ok(BodyFacts::Parsed(form(text)))
            }
            Self::Text => Ok(BodyFacts::Text(Value::from(text()?))),
            Self::Binary => Ok(BodyFacts::Binary),
        }
    }
}

fn form(text: &str) -> Value {
    let mut fields = std::collections::BTreeMap::<Value, Vec<Value>>::new();
    for (name, value) in form_pairs(text) {
        fields.entry(Value::from(&*name)).or_default().push(Value::from(&*value));
    }
    let fields = fields.into_iter().map(|(name, values)| (name, Value::from(values)));
    Value::from(fields.collect::<std::collections::BTreeMap<_, _>>())
}

/// Whether every escape is whole and the decoded bytes are text: otherwise policy and upstream might read them in two
/// ways.
fn is_decodable(text: &str) -> bool {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return true;
    }
    let bytes = text.as_bytes();
    let whole = memchr::memchr_iter(b'%', bytes)
        .all(|at| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
    whole && percent_encoding::percent_decode(bytes).decode_utf8().is_ok_and(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn kind(content_type: &str, encoding: Option<&'static str>) -> Option<Kind> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        Kind::of(&headers).ok()
    }

    #[test]
    fn bodies_are_read_by_their_declared_type() {
        assert_eq!(kind("application/json; charset=utf-8", None), Some(Kind::Json));
        assert_eq!(kind("Application/Problem+JSON", Some("identity")), Some(Kind::Json));
        assert_eq!(kind("application/x-www-form-urlencoded", None), Some(Kind::Form));
        assert_eq!(kind("text/plain", None), Some(Kind::Text));
        assert_eq!(kind("application/octet-stream", None), Some(Kind::Binary));
        for (content_type, encoding) in [
            ("application/json", Some("gzip")),
            ("multipart/form-data; boundary=x", None),
            ("", None),
            ("json", None),
        ] {
            assert_eq!(kind(content_type, encoding), None, "{content_type}");
        }
        assert!(Kind::of(&HeaderMap::new()).is_err());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        assert!(Kind::Json.read(br#"{"a":1,"a":2}"#).is_err());
        assert!(Kind::Json.read("[".repeat(65).as_bytes()).is_err());
        assert!(Kind::Json.read(b"{\"a\":").is_err());
        assert!(Kind::Text.read(b"\xff\xfe").is_err());
        assert!(Kind::Form.read(b"a=%zz").is_err());
        assert!(matches!(Kind::Form.read(b"a=1&a=2+3"), Ok(BodyFacts::Parsed(_))));
    }

    #[test]
    fn queries_that_decode_to_text() {
        for good in ["", "a=1;b=2&c=%20+x", "%C3%A9"] {
            assert!(is_decodable(good), "{good}");
        }
        for bad in ["100%", "%zz", "a=%4", "%ff", "%00"] {
            assert!(!is_decodable(bad), "{bad}");
        }
    }
}
