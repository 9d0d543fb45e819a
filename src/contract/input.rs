//! The only builder of the policy's input, `gateway/v1` (contract section 3).
//!
//! It builds engine values directly, with interned keys, and only what the policy can read. The server, `eval`, test
//! cases and replay all go through it.

mod selector;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use http::{HeaderMap, HeaderName, header};
use regorus::Value;

use crate::base::clock;
use crate::base::id::DecisionId;
use crate::contract::identity::Identity;
use crate::contract::reads::Reads;
use crate::contract::request::{ApiFacts, BodyFacts, RequestHead, ResponseFacts, Source};

pub use self::selector::Selector;

/// The contract's version, `input.version`.
pub const VERSION: &str = "gateway/v1";

/// All facts of a request.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The decision's id.
    pub decision_id: DecisionId,
    /// When the request was received, since the Unix epoch.
    pub time: Duration,
    /// Listener name.
    pub listener: &'a str,
    /// `X-Request-Id` as sent upstream.
    pub request_id: &'a str,
    /// Where it came from.
    pub source: &'a Source,
    /// Its head.
    pub head: &'a RequestHead,
    /// Its body.
    pub body: &'a BodyFacts,
    /// What it matched.
    pub api: ApiFacts<'a>,
    /// Who is asking.
    pub identity: &'a Identity,
    /// The upstream's answer, in the response phase.
    pub response: Option<ResponseFacts<'a>>,
}

/// Builds inputs for one entry point: the fields it can read, with their interned keys.
///
/// One per worker, so that reference counts of the keys stay on one core.
#[derive(Debug)]
pub struct InputBuilder {
    shape: Shape<Field>,
    texts: Texts,
    needs_body: bool,
}

#[derive(Debug)]
enum Field {
    Version(Value),
    DecisionId,
    Time,
    Listener,
    Source(Shape<SourceField>),
    Request(Shape<RequestField>),
    Api(Shape<ApiField>),
    Identity,
    Response(Shape<ResponseField>),
}

#[derive(Debug, Clone)]
enum SourceField {
    Ip,
    Port,
    ForwardedFor,
    Tls,
}

#[derive(Debug, Clone)]
enum RequestField {
    Id,
    Method,
    Scheme,
    Host,
    Path,
    RawPath,
    Segments,
    Query(Selection<Value>),
    Headers(Selection<HeaderName>),
    Cookies(Selection<Value>),
    Protocol,
    ContentType,
    Size,
    Body,
    BodyState,
}

#[derive(Debug, Clone)]
enum ApiField {
    Name,
    Version,
    Route,
    Params,
    Lifecycle,
}

#[derive(Debug, Clone)]
enum ResponseField {
    Status,
    Headers(Selection<HeaderName>),
    Latency,
}

/// Fields of an object, and the object with nothing in them, which is copied and filled.
#[derive(Debug)]
struct Shape<F> {
    fields: Vec<(Value, F)>,
    template: Value,
    /// Whole objects of repeating texts, by those texts.
    known: RefCell<Known>,
}

/// Objects made before, and room for the key of the next.
#[derive(Debug, Default)]
struct Known {
    objects: HashMap<Box<str>, Value, RandomState>,
    key: String,
}

/// Values of texts that nearly every request has, such as its method: shared, not made anew.
#[derive(Debug, Default)]
struct Texts(RefCell<HashMap<Box<str>, Value, RandomState>>);

/// Texts kept; whoever makes up methods does not fill the memory.
const TEXTS_MAX: usize = 1_024;

/// All entries of a map, or some by name.
#[derive(Debug, Clone)]
enum Selection<K> {
    All,
    Named(Vec<(Value, K)>),
}

// === impl InputBuilder ===

impl InputBuilder {
    /// A builder for what `reads` covers.
    pub fn new(reads: &Reads) -> Self {
        let request = reads.key("request");
        let candidates = [
            ("version", Field::Version(Value::from(VERSION))),
            ("decision_id", Field::DecisionId),
            ("time", Field::Time),
            ("listener", Field::Listener),
            ("source", Field::Source(source_fields(reads.key("source")))),
            ("request", Field::Request(request_fields(request))),
            ("api", Field::Api(api_fields(reads.key("api")))),
            ("identity", Field::Identity),
            ("response", Field::Response(response_fields(reads.key("response")))),
        ];
        Self {
            shape: Shape::select(reads, candidates),
            texts: Texts::default(),
            needs_body: request.key("body").any() || request.key("body_state").any(),
        }
    }

    /// Whether the policy can read the request's body, which is then buffered whole or refused.
    pub fn needs_body(&self) -> bool {
        self.needs_body
    }

    /// The input document for `facts`.
    pub fn build(&self, facts: &Facts<'_>) -> Value {
        self.shape.build(|field| self.field(field, facts))
    }

    fn field(&self, field: &Field, facts: &Facts<'_>) -> Option<Value> {
        let texts = &self.texts;
        match field {
            Field::Version(version) => Some(version.clone()),
            Field::DecisionId => Some(Value::from(facts.decision_id.encode(&mut [0; 36]) as &str)),
            Field::Time => {
                let mut text = String::with_capacity(30);
                clock::write_rfc3339(&mut text, facts.time);
                Some(Value::from(text))
            }
            Field::Listener => Some(texts.value(facts.listener)),
            Field::Source(shape) => Some(shape.build(|field| source_value(field, facts.source))),
            Field::Request(shape) => Some(
                shape
                    .repeated(|field| repeating_request_text(field, facts))
                    .unwrap_or_else(|| shape.build(|field| request_value(field, facts, texts))),
            ),
            Field::Api(shape) => Some(
                shape
                    .repeated(|field| repeating_api_text(field, &facts.api))
                    .unwrap_or_else(|| shape.build(|field| api_value(field, &facts.api, texts))),
            ),
            Field::Identity => Some(facts.identity.document().clone()),
            Field::Response(shape) => {
                let response = facts.response.as_ref()?;
                Some(shape.build(|field| Some(response_value(field, response))))
            }
        }
    }
}

// === impl Shape ===

impl<F> Shape<F> {
    fn select<const N: usize>(reads: &Reads, candidates: [(&str, F); N]) -> Self {
        let wanted = candidates.into_iter().filter(|(key, _)| reads.key(key).any());
        let fields: Vec<_> = wanted.map(|(key, field)| (Value::from(key), field)).collect();
        let empty = fields.iter().map(|(key, _)| (key.clone(), Value::Null));
        let template = Value::from(empty.collect::<BTreeMap<_, _>>());
        Self { fields, template, known: RefCell::default() }
    }

    fn field(&self, key: &Value) -> Option<&F> {
        self.fields.iter().find(|(known, _)| known == key).map(|(_, field)| field)
    }

    /// The object of all fields that have a value.
    fn build(&self, mut value: impl FnMut(&F) -> Option<Value>) -> Value {
        let mut built = self.template.clone();
        let Ok(object) = built.as_object_mut() else { return built };
        for (key, field) in &self.fields {
            match (value(field), object.get_mut(key)) {
                (Some(value), Some(place)) => *place = value,
                (Some(value), None) => drop(object.insert(key.clone(), value)),
                (None, _) => drop(object.remove(key)),
            }
        }
        built
    }
}

impl<F> Shape<F> {
    /// The object of fields that all are texts most requests share: made once for the same texts.
    /// `None` where a field is anything else.
    fn repeated<'t>(&self, text: impl Fn(&F) -> Option<&'t str>) -> Option<Value> {
        let mut known = self.known.borrow_mut();
        let Known { objects, key } = &mut *known;
        key.clear();
        for (_, field) in &self.fields {
            key.push_str(text(field)?);
            // No such text holds a line break.
            key.push('\n');
        }
        if let Some(object) = objects.get(key.as_str()) {
            return Some(object.clone());
        }
        let object = self.build(|field| text(field).map(Value::from));
        if objects.len() < TEXTS_MAX {
            objects.insert(Box::from(key.as_str()), object.clone());
        }
        Some(object)
    }
}

// === impl Texts ===

impl Texts {
    fn value(&self, text: &str) -> Value {
        let mut known = self.0.borrow_mut();
        if let Some(value) = known.get(text) {
            return value.clone();
        }
        let value = Value::from(text);
        if known.len() < TEXTS_MAX {
            known.insert(Box::from(text), value.clone());
        }
        value
    }
}

fn named<K>(reads: &Reads, key: impl Fn(&str) -> Option<K>) -> Selection<K> {
    match reads {
        Reads::Whole => Selection::All,
        Reads::Nothing => Selection::Named(Vec::new()),
        Reads::Keys(keys) => {
            let entries = keys.keys().filter_map(|name| Some((Value::from(name.as_str()), key(name)?)));
            Selection::Named(entries.collect())
        }
    }
}

/// Header names that can occur: a policy that reads `headers["X-User"]` reads nothing, for names are lower case.
fn header_names(reads: &Reads) -> Selection<HeaderName> {
    named(reads, |name| {
        let header = HeaderName::from_bytes(name.as_bytes()).ok()?;
        (header.as_str() == name).then_some(header)
    })
}

fn source_fields(reads: &Reads) -> Shape<SourceField> {
    let candidates = [
        ("ip", SourceField::Ip),
        ("port", SourceField::Port),
        ("forwarded_for", SourceField::ForwardedFor),
        ("tls", SourceField::Tls),
    ];
    Shape::select(reads, candidates)
}

fn request_fields(reads: &Reads) -> Shape<RequestField> {
    let text = |name: &str| Some(Value::from(name));
    let candidates = [
        ("id", RequestField::Id),
        ("method", RequestField::Method),
        ("scheme", RequestField::Scheme),
        ("host", RequestField::Host),
        ("path", RequestField::Path),
        ("raw_path", RequestField::RawPath),
        ("segments", RequestField::Segments),
        ("query", RequestField::Query(named(reads.key("query"), text))),
        ("headers", RequestField::Headers(header_names(reads.key("headers")))),
        ("cookies", RequestField::Cookies(named(reads.key("cookies"), text))),
        ("protocol", RequestField::Protocol),
        ("content_type", RequestField::ContentType),
        ("size", RequestField::Size),
        ("body", RequestField::Body),
        ("body_state", RequestField::BodyState),
    ];
    Shape::select(reads, candidates)
}

fn api_fields(reads: &Reads) -> Shape<ApiField> {
    let candidates = [
        ("name", ApiField::Name),
        ("version", ApiField::Version),
        ("route", ApiField::Route),
        ("params", ApiField::Params),
        ("lifecycle", ApiField::Lifecycle),
    ];
    Shape::select(reads, candidates)
}

fn response_fields(reads: &Reads) -> Shape<ResponseField> {
    let candidates = [
        ("status", ResponseField::Status),
        ("headers", ResponseField::Headers(header_names(reads.key("headers")))),
        ("latency_ms", ResponseField::Latency),
    ];
    Shape::select(reads, candidates)
}

fn source_value(field: &SourceField, source: &Source) -> Option<Value> {
    match field {
        SourceField::Ip => Some(ip_value(source.client_ip)),
        SourceField::Port => Some(Value::from(u32::from(source.peer.port()))),
        SourceField::ForwardedFor => {
            let chain = source.forwarded_for.iter().map(|ip| ip_value(*ip));
            Some(Value::from(chain.collect::<Vec<_>>()))
        }
        SourceField::Tls => source.tls.as_ref().map(|tls| tls.document.clone()),
    }
}

fn request_value(field: &RequestField, facts: &Facts<'_>, texts: &Texts) -> Option<Value> {
    let head = facts.head;
    match field {
        RequestField::Id => Some(Value::from(facts.request_id)),
        RequestField::Method => Some(texts.value(head.method.as_str())),
        RequestField::Scheme => Some(texts.value(head.scheme)),
        RequestField::Host => Some(Value::from(head.host.as_str())),
        RequestField::Path => Some(Value::from(head.path.as_str())),
        RequestField::RawPath => {
            Some(Value::from(head.raw_path.as_deref().unwrap_or_else(|| head.path.as_str())))
        }
        RequestField::Segments => {
            Some(Value::from(head.path.segments().map(|segment| text_value(&segment)).collect::<Vec<_>>()))
        }
        RequestField::Query(selection) => Some(query_value(selection, head.query.as_deref())),
        RequestField::Headers(selection) => Some(headers_value(selection, &head.headers)),
        RequestField::Cookies(selection) => Some(cookies_value(selection, &head.headers)),
        RequestField::Protocol => Some(texts.value(head.protocol)),
        RequestField::ContentType => {
            let value = head.headers.get(header::CONTENT_TYPE)?;
            Some(text_value(&String::from_utf8_lossy(value.as_bytes())))
        }
        RequestField::Size => head.content_length.map(Value::from),
        RequestField::Body => match facts.body {
            BodyFacts::Parsed(value) | BodyFacts::Text(value) => Some(value.clone()),
            BodyFacts::Unread | BodyFacts::Absent | BodyFacts::Binary => None,
        },
        RequestField::BodyState => Some(Value::from(match facts.body {
            BodyFacts::Parsed(_) => "parsed",
            BodyFacts::Text(_) => "text",
            BodyFacts::Binary => "binary",
            BodyFacts::Absent => "absent",
            BodyFacts::Unread => return None,
        })),
    }
}

fn repeating_request_text<'f>(field: &RequestField, facts: &Facts<'f>) -> Option<&'f str> {
    let head = facts.head;
    match field {
        RequestField::Method => Some(head.method.as_str()),
        RequestField::Scheme => Some(head.scheme),
        RequestField::Protocol => Some(head.protocol),
        RequestField::Id
        | RequestField::Host
        | RequestField::Path
        | RequestField::RawPath
        | RequestField::Segments
        | RequestField::Query(_)
        | RequestField::Headers(_)
        | RequestField::Cookies(_)
        | RequestField::ContentType
        | RequestField::Size
        | RequestField::Body
        | RequestField::BodyState => None,
    }
}

fn repeating_api_text<'f>(field: &ApiField, api: &ApiFacts<'f>) -> Option<&'f str> {
    match field {
        ApiField::Name => Some(api.name),
        ApiField::Version => api.version,
        ApiField::Route => Some(api.route),
        ApiField::Params | ApiField::Lifecycle => None,
    }
}

fn api_value(field: &ApiField, api: &ApiFacts<'_>, texts: &Texts) -> Option<Value> {
    match field {
        ApiField::Name => Some(texts.value(api.name)),
        ApiField::Version => api.version.map(|version| texts.value(version)),
        ApiField::Route => Some(texts.value(api.route)),
        ApiField::Params => {
            let params = api.params.iter();
            let params = params.map(|(name, value)| (Value::from(&**name), Value::from(value.as_str())));
            Some(Value::from(params.collect::<BTreeMap<_, _>>()))
        }
        ApiField::Lifecycle => Some(api.lifecycle.clone()),
    }
}

fn response_value(field: &ResponseField, response: &ResponseFacts<'_>) -> Value {
    match field {
        ResponseField::Status => Value::from(u32::from(response.status)),
        ResponseField::Headers(selection) => headers_value(selection, response.headers),
        ResponseField::Latency => Value::from(response.latency_ms),
    }
}

/// Header fields by lower-case name, several lines joined with `, ` (RFC 9110 section 5.3).
fn headers_value(selection: &Selection<HeaderName>, headers: &HeaderMap) -> Value {
    let entries: BTreeMap<Value, Value> = match selection {
        Selection::All => {
            let names = headers.keys();
            names.filter_map(|name| Some((Value::from(name.as_str()), joined(headers, name)?))).collect()
        }
        Selection::Named(names) => {
            names.iter().filter_map(|(key, name)| Some((key.clone(), joined(headers, name)?))).collect()
        }
    };
    Value::from(entries)
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Value> {
    let mut lines = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let first = lines.next()?;
    let Some(second) = lines.next() else { return Some(text_value(&first)) };
    let mut text = first.into_owned();
    for line in std::iter::once(second).chain(lines) {
        text.push_str(", ");
        text.push_str(&line);
    }
    Some(Value::from(text))
}

/// All query parameters, decoded as forms are (`+` is a space), each with the list of its values.
pub(crate) fn query_value_of_all(query: Option<&str>) -> Value {
    query_value(&Selection::All, query)
}

fn query_value(selection: &Selection<Value>, query: Option<&str>) -> Value {
    let mut entries: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    for (name, value) in form_pairs(query.unwrap_or_default()) {
        let name = text_value(&name);
        if is_selected(selection, &name) {
            entries.entry(name).or_default().push(text_value(&value));
        }
    }
    let entries = entries.into_iter().map(|(name, values)| (name, Value::from(values)));
    Value::from(entries.collect::<BTreeMap<_, _>>())
}

/// The pairs of a query or form body (WHATWG URL, `application/x-www-form-urlencoded`); `;` is data.
pub fn form_pairs(text: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decode(name), form_decode(value))
    })
}

fn form_decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

/// Cookies by name; the first of a name wins, as browsers send the most specific first (RFC 6265 section 5.4).
fn cookies_value(selection: &Selection<Value>, headers: &HeaderMap) -> Value {
    let mut entries = BTreeMap::new();
    for line in headers.get_all(header::COOKIE) {
        let line = String::from_utf8_lossy(line.as_bytes());
        for (name, value) in cookie_pairs(&line) {
            let name = Value::from(name);
            if is_selected(selection, &name) {
                entries.entry(name).or_insert_with(|| Value::from(value));
            }
        }
    }
    Value::from(entries)
}

fn cookie_pairs(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = line.split(';').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.trim(), value.trim()))
}

fn is_selected(selection: &Selection<Value>, name: &Value) -> bool {
    match selection {
        Selection::All => true,
        Selection::Named(names) => names.iter().any(|(wanted, _)| wanted == name),
    }
}

fn ip_value(ip: IpAddr) -> Value {
    Value::from(ip.to_string())
}

fn text_value(text: &str) -> Value {
    Value::from(text)
}
