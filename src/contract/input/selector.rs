//! Single values of the input, taken from the facts by their path without building the document.
//!
//! INVARIANT: a selector gives what the document of the same builder holds at its path, or nothing where that has
//! nothing; the tests below compare the two.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use regorus::Value;

use super::{
    ApiField, Facts, Field, InputBuilder, RequestField, ResponseField, Selection, SourceField, api_value,
    cookie_pairs, form_pairs, is_selected, joined, request_value, response_value, source_value, text_value,
};
use crate::contract::request::BodyFacts;

/// Where a value of the input comes from.
#[derive(Debug)]
pub struct Selector {
    from: From,
    covers: usize,
}

#[derive(Debug)]
enum From {
    /// No such path in what the builder builds.
    Nothing,
    Document,
    /// A field of the document, by its place among the builder's.
    Field(usize),
    Source(SourceField),
    Request(RequestField),
    RequestHeader(HeaderName),
    Query(Value),
    Cookie(Value),
    Segment(usize),
    Api(ApiField),
    Param(Box<str>),
    Response(ResponseField),
    ResponseHeader(HeaderName),
}

// === impl Selector ===

impl Selector {
    /// How many keys of its path it has followed: what it gives is to be looked into for the others.
    pub fn covers(&self) -> usize {
        self.covers
    }
}

// === impl InputBuilder ===

impl InputBuilder {
    /// Where the value at `path` comes from.
    pub fn selector(&self, path: &[Value]) -> Selector {
        let Some((first, rest)) = path.split_first() else {
            return Selector { from: From::Document, covers: 0 };
        };
        let found = self.shape.fields.iter().position(|(key, _)| key == first);
        let Some((index, (_, field))) = found.and_then(|at| Some((at, self.shape.fields.get(at)?))) else {
            return Selector { from: From::Nothing, covers: 1 };
        };
        let Some((second, rest)) = rest.split_first() else {
            return Selector { from: From::Field(index), covers: 1 };
        };
        let third = rest.first();
        let deeper = match field {
            Field::Source(shape) => shape.field(second).map(|field| (From::Source(field.clone()), 2)),
            Field::Request(shape) => shape.field(second).map(|field| request_leaf(field, third)),
            Field::Api(shape) => shape.field(second).map(|field| match (field, third) {
                (ApiField::Params, Some(Value::String(name))) => (From::Param(Box::from(&**name)), 3),
                _ => (From::Api(field.clone()), 2),
            }),
            Field::Response(shape) => shape.field(second).map(|field| match (field, third) {
                (ResponseField::Headers(selection), Some(name)) => match header(selection, name) {
                    Some(name) => (From::ResponseHeader(name), 3),
                    None => (From::Nothing, 3),
                },
                _ => (From::Response(field.clone()), 2),
            }),
            Field::Version(_) | Field::DecisionId | Field::Time | Field::Listener | Field::Identity => {
                Some((From::Field(index), 1))
            }
        };
        let (from, covers) = deeper.unwrap_or((From::Nothing, 2));
        Selector { from, covers }
    }

    /// The value a selector stands for; `None` where the document has none.
    pub fn select<'f>(&'f self, selector: &Selector, facts: &'f Facts<'_>) -> Option<Cow<'f, Value>> {
        let texts = &self.texts;
        let value = match &selector.from {
            From::Nothing => return None,
            From::Document => self.build(facts),
            From::Field(index) => match &self.shape.fields.get(*index)?.1 {
                Field::Version(version) => return Some(Cow::Borrowed(version)),
                Field::Identity => return Some(Cow::Borrowed(facts.identity.document())),
                field @ (Field::DecisionId
                | Field::Time
                | Field::Listener
                | Field::Source(_)
                | Field::Request(_)
                | Field::Api(_)
                | Field::Response(_)) => self.field(field, facts)?,
            },
            From::Source(SourceField::Tls) => {
                return facts.source.tls.as_ref().map(|tls| Cow::Borrowed(&tls.document));
            }
            From::Source(field) => source_value(field, facts.source)?,
            From::Request(RequestField::Body) => match facts.body {
                BodyFacts::Parsed(value) | BodyFacts::Text(value) => return Some(Cow::Borrowed(value)),
                BodyFacts::Unread | BodyFacts::Absent | BodyFacts::Binary => return None,
            },
            From::Request(field) => request_value(field, facts, texts)?,
            From::RequestHeader(name) => joined(&facts.head.headers, name)?,
            From::Query(name) => parameter(name, facts.head.query.as_deref())?,
            From::Cookie(name) => cookie(name, &facts.head.headers)?,
            From::Segment(index) => text_value(&facts.head.path.segments().nth(*index)?),
            From::Api(ApiField::Lifecycle) => return Some(Cow::Borrowed(facts.api.lifecycle)),
            From::Api(field) => api_value(field, &facts.api, texts)?,
            From::Param(name) => {
                let found = facts.api.params.iter().rfind(|(known, _)| **known == **name);
                Value::from(found?.1.as_str())
            }
            From::Response(field) => response_value(field, facts.response.as_ref()?),
            From::ResponseHeader(name) => joined(facts.response.as_ref()?.headers, name)?,
        };
        Some(Cow::Owned(value))
    }
}

fn request_leaf(field: &RequestField, third: Option<&Value>) -> (From, usize) {
    match (field, third) {
        (RequestField::Headers(selection), Some(name)) => match header(selection, name) {
            Some(name) => (From::RequestHeader(name), 3),
            None => (From::Nothing, 3),
        },
        (RequestField::Query(selection), Some(name)) if is_selected(selection, name) => {
            (From::Query(name.clone()), 3)
        }
        (RequestField::Cookies(selection), Some(name)) if is_selected(selection, name) => {
            (From::Cookie(name.clone()), 3)
        }
        (RequestField::Segments, Some(Value::Number(index))) => {
            let index = index.as_u64().and_then(|index| usize::try_from(index).ok());
            (index.map_or(From::Nothing, From::Segment), 3)
        }
        _ => (From::Request(field.clone()), 2),
    }
}

/// The header a key names, if the builder reads it: a name in upper case is in no document.
fn header(selection: &Selection<HeaderName>, key: &Value) -> Option<HeaderName> {
    match selection {
        Selection::All => {
            let Value::String(text) = key else { return None };
            HeaderName::from_bytes(text.as_bytes()).ok().filter(|name| name.as_str() == &**text)
        }
        Selection::Named(names) => {
            names.iter().find(|(wanted, _)| wanted == key).map(|(_, name)| name.clone())
        }
    }
}

/// The values of one query parameter.
fn parameter(name: &Value, query: Option<&str>) -> Option<Value> {
    let Value::String(name) = name else { return None };
    let pairs = form_pairs(query.unwrap_or_default()).filter(|(known, _)| **known == **name);
    let values: Vec<Value> = pairs.map(|(_, value)| text_value(&value)).collect();
    (!values.is_empty()).then(|| Value::from(values))
}

fn cookie(name: &Value, headers: &HeaderMap) -> Option<Value> {
    let Value::String(name) = name else { return None };
    headers.get_all(http::header::COOKIE).iter().find_map(|line| {
        let line = String::from_utf8_lossy(line.as_bytes());
        cookie_pairs(&line).find(|(known, _)| *known == &**name).map(|(_, value)| Value::from(value))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, SocketAddr},
        sync::Arc,
        time::Duration,
    };

    use http::{HeaderValue, Method};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::{
            id::DecisionIds,
            path::{CanonicalPath, PathRules},
        },
        contract::{
            identity::{Facts as IdentityFacts, Identity},
            reads::Reads,
            request::{ApiFacts, RequestHead, ResponseFacts, Source, TlsFacts},
        },
    };

    const PATHS: [&str; 44] = [
        "",
        "version",
        "decision_id",
        "time",
        "listener",
        "absent",
        "source",
        "source.ip",
        "source.port",
        "source.forwarded_for",
        "source.forwarded_for.#0",
        "source.tls",
        "source.tls.sni",
        "source.absent",
        "request",
        "request.id",
        "request.method",
        "request.method.x",
        "request.host",
        "request.path",
        "request.raw_path",
        "request.segments",
        "request.segments.#1",
        "request.segments.#9",
        "request.segments.a",
        "request.query",
        "request.query.a",
        "request.query.a.#1",
        "request.query.none",
        "request.headers",
        "request.headers.x-a",
        "request.headers.X-A",
        "request.headers.#1",
        "request.cookies.c",
        "request.cookies.none",
        "request.body.k",
        "request.body_state",
        "request.size",
        "api.params.id",
        "api.params",
        "api.lifecycle.state",
        "identity.roles.#0",
        "identity",
        "response.headers.x-a",
    ];

    fn keys(path: &str) -> Vec<Value> {
        let keys = path.split('.').filter(|key| !key.is_empty());
        keys.map(|key| match key.strip_prefix('#') {
            Some(index) => Value::from(index.parse::<u64>().unwrap()),
            None => Value::from(key),
        })
        .collect()
    }

    fn at<'v>(value: &'v Value, path: &[Value]) -> Option<&'v Value> {
        path.iter().try_fold(value, |at, key| match at {
            Value::Object(fields) => fields.get(key),
            Value::Array(items) => items.get(usize::try_from(key.as_u64().ok()?).ok()?),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Set(_)
            | Value::Undefined => None,
        })
    }

    fn headers(lines: &[(&'static str, String)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    proptest! {
        #[test]
        fn a_selector_gives_what_the_document_holds(
            read in prop::collection::vec(prop::sample::select(&PATHS), 1..6),
            asked in prop::sample::select(&PATHS),
            query in prop::option::of("[ab=&+%2]{0,12}"),
            cookies in prop::collection::vec("[cd=; ]{0,10}", 0..3),
            lines in prop::collection::vec("[a-z ]{0,4}", 0..3),
            path in "/[ab/%]{0,6}",
            body in prop::sample::select(vec!["unread", "absent", "parsed", "text", "binary"]),
            with_response in any::<bool>(),
            with_tls in any::<bool>(),
        ) {
            let Ok(path) = CanonicalPath::parse(&path, PathRules::default()) else { return Ok(()) };
            let lines = lines.into_iter().map(|line| ("x-a", line.trim().to_owned()));
            let all: Vec<_> = lines.chain(cookies.into_iter().map(|line| ("cookie", line))).collect();
            let head = RequestHead {
                method: Method::GET,
                scheme: "https",
                host: "h.example".to_owned(),
                authority: "h.example".to_owned(),
                path,
                raw_path: None,
                query,
                headers: headers(&all),
                protocol: "HTTP/1.1",
                content_length: with_tls.then_some(7),
            };
            let client_ip = IpAddr::from([192, 0, 2, 1]);
            let source = Source {
                peer: SocketAddr::from(([192, 0, 2, 1], 40_000)),
                client_ip,
                forwarded_for: vec![client_ip],
                tls: with_tls.then(|| Arc::new(TlsFacts::new("TLSv1.3", "AES".to_owned(), Some("s".to_owned()), None))),
            };
            let identity =
                Identity::authenticated(IdentityFacts { roles: vec!["r".to_owned()], ..IdentityFacts::default() });
            let body = match body {
                "absent" => BodyFacts::Absent,
                "parsed" => BodyFacts::Parsed(Value::from_json_str(r#"{"k": [1]}"#).unwrap()),
                "text" => BodyFacts::Text(Value::from("k")),
                "binary" => BodyFacts::Binary,
                _ => BodyFacts::Unread,
            };
            let lifecycle = Value::from_json_str(r#"{"state": "active"}"#).unwrap();
            let params = [(Arc::from("id"), "7".to_owned())];
            let facts = Facts {
                decision_id: DecisionIds::new().next(Duration::from_secs(9)),
                time: Duration::from_secs(9),
                listener: "public",
                request_id: "r1",
                source: &source,
                head: &head,
                body: &body,
                api: ApiFacts {
                    name: "orders",
                    version: None,
                    route: "read",
                    params: &params,
                    lifecycle: &lifecycle,
                },
                identity: &identity,
                response: with_response
                    .then_some(ResponseFacts { status: 200, headers: &head.headers, latency_ms: 3 }),
            };
            let reads = Reads::from_paths(read.iter().map(|path| {
                let keys = path.split('.').filter(|key| !key.is_empty());
                keys.map(|key| (!key.starts_with('#')).then(|| key.to_owned())).collect::<Vec<_>>()
            }));
            let builder = InputBuilder::new(&reads);
            let path = keys(asked);
            let selector = builder.selector(&path);
            let selected = builder.select(&selector, &facts);
            let rest = path.get(selector.covers()..).unwrap_or_default();
            let selected = selected.as_deref().and_then(|value| at(value, rest));
            let document = builder.build(&facts);
            prop_assert_eq!(selected, at(&document, &path), "{:?} of {:?}", asked, reads);
        }
    }
}
