//! The contract `envoy/v3`: opa-envoy-plugin's input and result, so that policies written for OPA beside Envoy run unchanged.
//!
//! The input is Envoy's `CheckRequest` as protojson with the plugin's `parsed_*` fields; `input.gateway` holds the gateway's
//! own document beside it. What Envoy's result can say becomes the same decision as the gateway's own.
//! <https://www.openpolicyagent.org/docs/envoy#example-input>, <https://www.openpolicyagent.org/docs/envoy#example-policy-with-object-response>

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use regorus::Value;

use crate::base::clock;
use crate::contract::decision::{
    Allow, Body, Decision, DecisionError, Deny, HeaderEdits, Problem, any_object, deny_status, error,
    is_reserved, text,
};
use crate::contract::input::{Facts, InputBuilder, query_value_of_all};
use crate::contract::reads::Reads;
use crate::contract::request::{BodyFacts, Source};

/// What Envoy can put into the input and the gateway does not. A policy that names one of them is not served: what is always
/// absent could turn a denial off.
const NOT_PROVIDED: [&[&str]; 8] = [
    &["attributes", "destination"],
    &["attributes", "tlsSession"],
    &["attributes", "source", "certificate"],
    &["attributes", "source", "service"],
    &["attributes", "source", "labels"],
    &["attributes", "request", "http", "body"],
    &["attributes", "request", "http", "rawBody"],
    &["source_principal"],
];

/// The paths that a policy names and that the gateway does not provide, as the policy writes them.
pub fn not_provided(reads: &Reads) -> Vec<String> {
    let names = |path: &&[&str]| {
        let above = path.iter().try_fold(reads, |at, key| match at {
            Reads::Keys(keys) => keys.get(*key),
            Reads::Nothing | Reads::Whole => None,
        });
        above.is_some()
    };
    NOT_PROVIDED.into_iter().filter(names).map(|path| format!("input.{}", path.join("."))).collect()
}

/// Builds inputs for one entry point: the fields it can read.
#[derive(Debug)]
pub struct EnvoyInputBuilder {
    reads: Reads,
    /// The gateway's own document, at `input.gateway`.
    own: InputBuilder,
    needs_body: bool,
}

// === impl EnvoyInputBuilder ===

impl EnvoyInputBuilder {
    /// A builder for what `reads` covers.
    pub fn new(reads: &Reads) -> Self {
        let own = InputBuilder::new(reads.key("gateway"));
        let needs_body = reads.key("parsed_body").any() || own.needs_body();
        Self { reads: reads.clone(), own, needs_body }
    }

    /// Whether the policy can read the request's body, which is then buffered whole or refused.
    pub fn needs_body(&self) -> bool {
        self.needs_body
    }

    /// The input document for `facts`.
    pub fn build(&self, facts: &Facts<'_>) -> Value {
        object(
            &self.reads,
            |name, reads| match name {
                "attributes" => Some(attributes(reads, facts)),
                "parsed_path" => Some(parsed_path(facts)),
                "parsed_query" => Some(query_value_of_all(facts.head.query.as_deref())),
                "parsed_body" => Some(match facts.body {
                    BodyFacts::Parsed(value) => value.clone(),
                    // The plugin leaves what it cannot parse as null.
                    BodyFacts::Unread | BodyFacts::Absent | BodyFacts::Text(_) | BodyFacts::Binary => {
                        Value::Null
                    }
                }),
                // A body is whole or refused before.
                "truncated_body" => Some(Value::from(false)),
                "version" => Some(Value::from(BTreeMap::from([
                    (Value::from("encoding"), Value::from("protojson")),
                    (Value::from("ext_authz"), Value::from("v3")),
                ]))),
                "gateway" => Some(self.own.build(facts)),
                _ => None,
            },
            &[
                "attributes",
                "parsed_path",
                "parsed_query",
                "parsed_body",
                "truncated_body",
                "version",
                "gateway",
            ],
        )
    }
}

/// The fields of `names` that are read.
fn object(reads: &Reads, mut field: impl FnMut(&str, &Reads) -> Option<Value>, names: &[&str]) -> Value {
    let read = names.iter().filter(|name| reads.key(name).any());
    let fields = read.filter_map(|name| Some((Value::from(*name), field(name, reads.key(name))?)));
    Value::from(fields.collect::<BTreeMap<_, _>>())
}

fn attributes(reads: &Reads, facts: &Facts<'_>) -> Value {
    let field = |name: &str, reads: &Reads| match name {
        "source" => Some(source(facts.source)),
        "request" => Some(request(reads, facts)),
        "metadataContext" | "contextExtensions" | "routeMetadataContext" => Some(Value::new_object()),
        _ => None,
    };
    object(
        reads,
        field,
        &["source", "request", "metadataContext", "contextExtensions", "routeMetadataContext"],
    )
}

fn source(source: &Source) -> Value {
    let socket = BTreeMap::from([
        (Value::from("address"), Value::from(source.client_ip.to_string())),
        (Value::from("portValue"), Value::from(u32::from(source.peer.port()))),
    ]);
    let address = BTreeMap::from([(Value::from("socketAddress"), Value::from(socket))]);
    let mut fields = BTreeMap::from([(Value::from("address"), Value::from(address))]);
    let certificate = source.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
    if let Some(certificate) = certificate {
        // As Envoy: the first URI name, else the first DNS name, else the subject.
        let names = certificate.san_uri.first().or(certificate.san_dns.first());
        let principal = names.unwrap_or(&certificate.subject);
        fields.insert(Value::from("principal"), Value::from(principal.as_str()));
    }
    Value::from(fields)
}

fn request(reads: &Reads, facts: &Facts<'_>) -> Value {
    let field = |name: &str, reads: &Reads| match name {
        "time" => {
            let mut text = String::with_capacity(30);
            clock::write_rfc3339(&mut text, facts.time);
            Some(Value::from(text))
        }
        "http" => Some(http_request(reads, facts)),
        _ => None,
    };
    object(reads, field, &["time", "http"])
}

fn http_request(reads: &Reads, facts: &Facts<'_>) -> Value {
    let head = facts.head;
    let target = || match &head.query {
        Some(query) => format!("{}?{query}", head.path.as_str()),
        None => head.path.as_str().to_owned(),
    };
    let field = |name: &str, _: &Reads| match name {
        "id" => Some(Value::from(facts.request_id)),
        "method" => Some(Value::from(head.method.as_str())),
        "path" => Some(Value::from(target())),
        "host" => Some(Value::from(head.authority.as_str())),
        "scheme" => Some(Value::from(head.scheme)),
        "protocol" => Some(Value::from(head.protocol)),
        // An int64 is a string in protojson; -1 is unknown.
        "size" => {
            Some(Value::from(head.content_length.map_or_else(|| "-1".to_owned(), |size| size.to_string())))
        }
        "headers" => {
            let mut headers = headers(&head.headers);
            headers.insert(Value::from(":authority"), Value::from(head.authority.as_str()));
            headers.insert(Value::from(":method"), Value::from(head.method.as_str()));
            headers.insert(Value::from(":path"), Value::from(target()));
            headers.insert(Value::from(":scheme"), Value::from(head.scheme));
            Some(Value::from(headers))
        }
        _ => None,
    };
    object(reads, field, &["id", "method", "path", "host", "scheme", "protocol", "size", "headers"])
}

/// Header fields by lower-case name, several lines joined with a comma as Envoy does.
fn headers(headers: &HeaderMap) -> BTreeMap<Value, Value> {
    let joined = |name: &HeaderName| {
        let lines: Vec<_> =
            headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        lines.join(",")
    };
    headers.keys().map(|name| (Value::from(name.as_str()), Value::from(joined(name)))).collect()
}

/// The segments of the decoded path. The gateway refuses an encoded slash before, so none of them hides one.
fn parsed_path(facts: &Facts<'_>) -> Value {
    let segments = facts.head.path.segments().map(|segment| Value::from(&*segment));
    let segments: Vec<Value> = segments.collect();
    // As the plugin: the root is one empty segment.
    Value::from(if segments.is_empty() { vec![Value::from("")] } else { segments })
}

/// Parses a result: a boolean, or an object with `allowed`.
pub fn parse(result: &Value) -> Result<Decision, DecisionError> {
    if let Value::Bool(allowed) = result {
        return Ok(if *allowed { Decision::Allow(Box::default()) } else { Decision::Deny(Box::default()) });
    }
    let fields = result.as_object().map_err(|_| error("result", Problem::Type("a boolean or an object")))?;
    let field = |name: &str| fields.get(&Value::from(name));
    let allowed = field("allowed").ok_or_else(|| error("allowed", Problem::Missing))?;
    let allowed = *allowed.as_bool().map_err(|_| error("allowed", Problem::Type("a boolean")))?;
    let headers = field("headers").map(|value| pairs(value, "headers")).transpose()?.unwrap_or_default();
    let metadata =
        field("dynamic_metadata").map(|value| any_object(value, "dynamic_metadata")).transpose()?;
    // The plugin does not know it, many policies give it, and the log is better for it.
    let reason = field("reason").and_then(|reason| reason.as_string().ok()).map(ToString::to_string);
    let body = field("body").map(|body| text(body, "body").map(str::to_owned)).transpose()?;
    let status = field("http_status").map(|status| deny_status(status, "http_status")).transpose()?;
    let added = field("response_headers_to_add");
    let added = added.map(|value| pairs(value, "response_headers_to_add")).transpose()?.unwrap_or_default();
    let removed = field("request_headers_to_remove");
    let removed = removed.map(|value| texts(value, "request_headers_to_remove")).transpose()?;
    let query_set = field("query_parameters_to_set").map(query_parameters).transpose()?;
    let query_remove = field("query_parameters_to_remove");
    let query_remove = query_remove.map(|value| texts(value, "query_parameters_to_remove")).transpose()?;
    if !allowed {
        let mut deny = Deny { reason, ..Deny::default() };
        deny.status = status.unwrap_or(deny.status);
        deny.body = body.map(Body::Text);
        for (name, value) in headers {
            deny.headers.append(name, value);
        }
        deny.log.fields = metadata;
        return Ok(Decision::Deny(Box::new(deny)));
    }
    let mut allow = Allow { reason, ..Allow::default() };
    allow.upstream.headers = HeaderEdits { set: headers, ..HeaderEdits::default() };
    for name in removed.unwrap_or_default() {
        let name = HeaderName::try_from(name).map_err(|_| {
            error("request_headers_to_remove", Problem::Invalid("holds what is no header name"))
        })?;
        allow.upstream.headers.remove.push(name);
    }
    allow.upstream.query_set = query_set.unwrap_or_default();
    allow.upstream.query_remove = query_remove.unwrap_or_default();
    allow.response = HeaderEdits { add: added, ..HeaderEdits::default() };
    allow.log.fields = metadata;
    Ok(Decision::Allow(Box::new(allow)))
}

/// Headers as an object, each value a text or a list of texts, or as a list of such objects.
fn pairs(value: &Value, path: &'static str) -> Result<Vec<(HeaderName, HeaderValue)>, DecisionError> {
    if let Value::Array(items) = value {
        let parts = items.iter().map(|item| pairs(item, path)).collect::<Result<Vec<_>, _>>()?;
        return Ok(parts.into_iter().flatten().collect());
    }
    let fields =
        value.as_object().map_err(|_| error(path, Problem::Type("an object or a list of objects")))?;
    let mut found = Vec::new();
    for (name, value) in fields.iter_sorted() {
        let name = text(name, path)?;
        let name = HeaderName::try_from(name)
            .map_err(|_| error(path, Problem::Invalid("holds what is no header name")))?;
        if is_reserved(&name) {
            return Err(error(format!("{path}.{name}"), Problem::ReservedHeader));
        }
        for text in texts(value, path)? {
            let value = HeaderValue::try_from(text)
                .map_err(|_| error(format!("{path}.{name}"), Problem::Invalid("is no header value")))?;
            found.push((name.clone(), value));
        }
    }
    Ok(found)
}

/// One text or a list of them.
fn texts(value: &Value, path: &'static str) -> Result<Vec<String>, DecisionError> {
    let of = |value: &Value| text(value, path).map(str::to_owned);
    match value {
        Value::Array(items) => items.iter().map(of).collect(),
        Value::Set(items) => items.iter().map(of).collect(),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Object(_)
        | Value::Undefined => Ok(vec![of(value)?]),
    }
}

fn query_parameters(value: &Value) -> Result<Vec<(String, String)>, DecisionError> {
    const PATH: &str = "query_parameters_to_set";
    let fields = value.as_object().map_err(|_| error(PATH, Problem::Type("an object")))?;
    let mut found = Vec::new();
    for (name, value) in fields.iter_sorted() {
        let name = text(name, PATH)?;
        found.extend(texts(value, PATH)?.into_iter().map(|value| (name.to_owned(), value)));
    }
    Ok(found)
}
