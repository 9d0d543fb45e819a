//! The policy's result (contract section 4), parsed into a decision that cannot contradict itself.
//!
//! Anything unknown, mistyped or impossible is an error, which fails closed: a policy's typing mistake never becomes
//! an obligation that is silently left out.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use regorus::Value;
use smallvec::SmallVec;

use crate::base::path::{CanonicalPath, PathRules};
use crate::base::size::{self, ByteLimit};
use crate::contract::event::LogLevel;
use crate::contract::rate::{self, Quota, Rate, RateError};

/// What the policy decided.
#[derive(Debug, Clone)]
pub enum Decision {
    /// The request may pass, with obligations.
    Allow(Box<Allow>),
    /// It may not. A denial carries no edit of what goes upstream.
    Deny(Box<Deny>),
}

/// Obligations of an allow.
#[derive(Debug, Clone, Default)]
pub struct Allow {
    /// For the log.
    pub reason: Option<String>,
    /// What is changed on the way to the upstream.
    pub upstream: UpstreamEdits,
    /// What is changed on the response's headers.
    pub response: HeaderEdits,
    /// Limits to take from, all or none.
    pub limits: Vec<LimitSpec>,
    /// Bound of the request's body, tighter than the route's.
    pub max_body: Option<ByteLimit>,
    /// How it is logged.
    pub log: Log,
}

/// What a denied client gets.
#[derive(Debug, Clone)]
pub struct Deny {
    /// For the log, and for the client where `expose_reason`.
    pub reason: Option<String>,
    /// 300 to 599, default 403.
    pub status: StatusCode,
    /// Response headers.
    pub headers: HeaderMap,
    /// Response body.
    pub body: Option<Body>,
    /// Whether the client may read the reason.
    pub expose_reason: bool,
    /// How it is logged.
    pub log: Log,
}

/// The body of a denial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Sent as `text/plain`, unless the policy sets `content-type`.
    Text(String),
    /// Sent as `application/json`.
    Json(String),
}

/// Changes to the request on its way to the upstream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpstreamEdits {
    /// Another upstream than the API's.
    pub name: Option<String>,
    /// Another path.
    pub path: Option<CanonicalPath>,
    /// Header changes.
    pub headers: HeaderEdits,
    /// Query parameters set, each replacing all of that name.
    pub query_set: Vec<(String, String)>,
    /// Query parameters removed.
    pub query_remove: Vec<String>,
    /// Response timeout.
    pub timeout: Option<Duration>,
}

/// Changes to a header section.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderEdits {
    /// Removed first.
    pub remove: Vec<HeaderName>,
    /// Each replaces all of that name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// One limit to take from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSpec {
    /// Its name, in header fields and events.
    pub name: String,
    /// Who shares the counter.
    pub key: String,
    /// What it allows and what this request takes.
    pub quota: Quota,
}

/// How a decision is logged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Log {
    /// How much.
    pub level: LogLevel,
    /// `log.fields`, an object.
    pub fields: Option<Value>,
    /// `labels`, an object.
    pub labels: Option<Value>,
}

/// Which question a result answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// May this request pass?
    Request,
    /// May this response pass? Nothing can be said about the upstream or limits any more.
    Response,
}

/// A result that is not a decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("decision `{path}`: {problem}")]
pub struct DecisionError {
    /// Where, as a dotted path; `result` for the whole.
    pub path: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a part of a decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Another type is wanted.
    #[error("must be {0}")]
    Type(&'static str),
    /// A key the contract does not know.
    #[error("unknown key")]
    UnknownKey,
    /// A key that must be there.
    #[error("is required")]
    Missing,
    /// A key that belongs to the other phase.
    #[error("cannot be decided in the response phase")]
    WrongPhase,
    /// A value out of its range or form.
    #[error("{0}")]
    Invalid(&'static str),
    /// A limit's name or numbers.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// A header that belongs to the connection, not to the policy.
    #[error("the policy cannot set this header")]
    ReservedHeader,
    /// An obligation that this version cannot keep.
    #[error("is not built yet, and an obligation is never ignored")]
    NotBuilt,
}

/// Every key that a part of a decision may have, for hints.
pub const KEYS: [&str; 31] = [
    "allow",
    "reason",
    "status",
    "headers",
    "body",
    "expose_reason",
    "upstream",
    "response",
    "limits",
    "max_body",
    "redact",
    "log",
    "labels",
    "name",
    "path",
    "query",
    "timeout",
    "set",
    "add",
    "remove",
    "key",
    "rate",
    "burst",
    "cost",
    "level",
    "fields",
    "target",
    "detect",
    "pattern",
    "action",
    "keep_last",
];

/// Bounds on what one decision may ask for.
const LIMITS_MAX: usize = 16;
const HEADERS_MAX: usize = 64;

// === impl Decision ===

impl Decision {
    /// Parses a result.
    pub fn parse(result: &Value, phase: Phase) -> Result<Self, DecisionError> {
        if let Value::Bool(allow) = result {
            return Ok(if *allow { Self::Allow(Box::default()) } else { Self::Deny(Box::default()) });
        }
        let mut allow = None;
        let mut allowed = Allow::default();
        let mut denied = Deny::default();
        let mut log = Log::default();
        for (key, value) in entries(result, At::Key("result"), "a boolean or an object")? {
            if phase == Phase::Response && matches!(key, "upstream" | "limits" | "max_body") {
                return Err(error(key, Problem::WrongPhase));
            }
            match key {
                "allow" => allow = Some(boolean(value, key)?),
                "reason" => denied.reason = Some(text(value, key)?.to_owned()),
                "status" => denied.status = deny_status(value, key)?,
                "headers" => denied.headers = header_map(value)?,
                "body" => denied.body = Some(deny_body(value)?),
                "expose_reason" => denied.expose_reason = boolean(value, key)?,
                "upstream" => allowed.upstream = upstream_edits(value)?,
                "response" => allowed.response = response_edits(value)?,
                "limits" => allowed.limits = limits(value)?,
                "max_body" => allowed.max_body = Some(ByteLimit::new(whole_number(value, key)?)),
                "log" => (log.level, log.fields) = log_options(value)?,
                "labels" => log.labels = Some(any_object(value, key)?),
                "redact" => return Err(error(key, Problem::NotBuilt)),
                unknown => return Err(error(unknown, Problem::UnknownKey)),
            }
        }
        match allow {
            Some(true) => {
                allowed.reason = denied.reason;
                allowed.log = log;
                Ok(Self::Allow(Box::new(allowed)))
            }
            Some(false) => {
                denied.log = log;
                Ok(Self::Deny(Box::new(denied)))
            }
            None => Err(error("allow", Problem::Missing)),
        }
    }
}

impl Default for Deny {
    fn default() -> Self {
        Self {
            reason: None,
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::new(),
            body: None,
            expose_reason: false,
            log: Log::default(),
        }
    }
}

// === impl Log ===

impl Log {
    /// What holds when the response phase has spoken too: the lesser level, and its fields and labels beside the earlier
    /// ones. What the request phase keeps out of the log stays out.
    pub fn add(&mut self, later: &Self) {
        self.level = self.level.max(later.level);
        merge(&mut self.fields, later.fields.as_ref());
        merge(&mut self.labels, later.labels.as_ref());
    }
}

fn merge(object: &mut Option<Value>, later: Option<&Value>) {
    let Some(later) = later else { return };
    match (object.as_mut().and_then(|value| value.as_object_mut().ok()), later.as_object()) {
        (Some(object), Ok(later)) => {
            for (key, value) in later.iter() {
                object.insert(key.clone(), value.clone());
            }
        }
        (Some(_) | None, _) => *object = Some(later.clone()),
    }
}

// === impl HeaderEdits ===

impl HeaderEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Applies the edits. What is set or added replaces every header whose *folded* name is the same (`x_user`,
    /// `X-User`), so that no twin sent by the other side survives beside the gateway's own.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            remove_folded(headers, name);
        }
        for (name, _) in &self.set {
            remove_folded(headers, name);
        }
        for (name, value) in self.set.iter().chain(&self.add) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// Removes `name` and every header whose name differs from it only in characters that are not letters or digits.
fn remove_folded(headers: &mut HeaderMap, name: &HeaderName) {
    let twins = headers.keys().filter(|other| same_folded(other.as_str(), name.as_str()));
    let twins: SmallVec<[HeaderName; 2]> = twins.cloned().collect();
    for twin in twins {
        headers.remove(twin);
    }
}

/// A set of header names, compared with every character that is no letter or digit taken for one.
#[derive(Debug, Clone, Default)]
pub struct FoldedNames {
    names: Vec<HeaderName>,
    /// Bit n: a name of n bytes is in it; the last bit stands for all longer ones. Most headers are ruled out by it.
    lengths: u64,
}

// === impl FoldedNames ===

impl FoldedNames {
    /// The set of `names`.
    pub fn new(names: &[HeaderName]) -> Self {
        let lengths = names.iter().fold(0, |lengths, name| lengths | length_bit(name));
        Self { names: names.to_vec(), lengths }
    }

    /// Removes every header whose name is in the set.
    pub fn remove_from(&self, headers: &mut HeaderMap) {
        let found = headers.keys().filter(|name| self.contains(name));
        let found: SmallVec<[HeaderName; 4]> = found.cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }

    fn contains(&self, name: &HeaderName) -> bool {
        self.lengths & length_bit(name) != 0
            && self.names.iter().any(|own| same_folded(own.as_str(), name.as_str()))
    }
}

fn length_bit(name: &HeaderName) -> u64 {
    1 << name.as_str().len().min(63)
}

/// Whether two header names are the same to a server that turns them into variables (CGI and its heirs).
fn same_folded(a: &str, b: &str) -> bool {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'_' };
    a.len() == b.len() && a.bytes().map(fold).eq(b.bytes().map(fold))
}

/// Headers of the connection and of routing, which a policy cannot set: they would make the message ambiguous.
pub(super) fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: [HeaderName; 9] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::HOST,
        header::EXPECT,
        header::PROXY_AUTHORIZATION,
    ];
    RESERVED.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

pub(super) fn error(path: impl Into<String>, problem: Problem) -> DecisionError {
    DecisionError { path: path.into(), problem }
}

/// A place in a result. It becomes text only in an error.
#[derive(Debug, Clone, Copy)]
enum At<'a> {
    Key(&'a str),
    Below(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Below(at, key) => write!(f, "{at}.{key}"),
            Self::Index(at, index) => write!(f, "{at}[{index}]"),
        }
    }
}

impl From<At<'_>> for String {
    fn from(at: At<'_>) -> Self {
        at.to_string()
    }
}

fn entries<'a>(
    value: &'a Value,
    path: At<'_>,
    wanted: &'static str,
) -> Result<impl Iterator<Item = (&'a str, &'a Value)>, DecisionError> {
    let object = value.as_object().map_err(|_| error(path, Problem::Type(wanted)))?;
    if object.keys().any(|key| key.as_string().is_err()) {
        return Err(error(path, Problem::Type("an object with string keys")));
    }
    Ok(object.iter().filter_map(|(key, value)| Some((&**key.as_string().ok()?, value))))
}

fn boolean(value: &Value, path: impl Into<String>) -> Result<bool, DecisionError> {
    value.as_bool().copied().map_err(|_| error(path, Problem::Type("a boolean")))
}

pub(super) fn text(value: &Value, path: impl Into<String>) -> Result<&str, DecisionError> {
    value.as_string().map(|text| &**text).map_err(|_| error(path, Problem::Type("a string")))
}

fn whole_number(value: &Value, path: impl Into<String>) -> Result<u64, DecisionError> {
    value.as_u64().map_err(|_| error(path, Problem::Type("a whole number that is not negative")))
}

/// A list, or a set: Rego's partial rules make sets.
fn list<'a>(value: &'a Value, path: At<'_>) -> Result<Vec<&'a Value>, DecisionError> {
    match value {
        Value::Array(items) => Ok(items.iter().collect()),
        Value::Set(items) => Ok(items.iter().collect()),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Object(_)
        | Value::Undefined => Err(error(path, Problem::Type("a list"))),
    }
}

pub(super) fn any_object(value: &Value, path: impl Into<String>) -> Result<Value, DecisionError> {
    value.as_object().map_err(|_| error(path, Problem::Type("an object")))?;
    Ok(value.clone())
}

/// A denial that says 200 would look like an answer of the upstream.
pub(super) fn deny_status(value: &Value, path: impl Into<String>) -> Result<StatusCode, DecisionError> {
    let number = match value.as_u16() {
        Ok(number) if (300..=599).contains(&number) => number,
        Ok(_) => {
            let problem = Problem::Invalid("must be from 300 to 599: a denial is no success");
            return Err(error(path, problem));
        }
        Err(_) => return Err(error(path, Problem::Type("a whole number"))),
    };
    StatusCode::from_u16(number).map_err(|_| error(path, Problem::Invalid("is not an HTTP status")))
}

fn deny_body(value: &Value) -> Result<Body, DecisionError> {
    match value {
        Value::String(text) => Ok(Body::Text(text.to_string())),
        Value::Undefined => Err(error("body", Problem::Type("a string or JSON"))),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Set(_)
        | Value::Object(_) => serde_json::to_string(value)
            .map(Body::Json)
            .map_err(|_| error("body", Problem::Invalid("cannot be written as JSON"))),
    }
}

fn header_map(value: &Value) -> Result<HeaderMap, DecisionError> {
    let pairs = header_pairs(value, At::Key("headers"))?;
    Ok(pairs.into_iter().fold(HeaderMap::new(), |mut headers, (name, value)| {
        headers.append(name, value);
        headers
    }))
}

/// `{"x-a": "1", "x-b": ["1", "2"]}`.
fn header_pairs(value: &Value, path: At<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, DecisionError> {
    let mut pairs = Vec::new();
    for (name, value) in entries(value, path, "an object of headers")? {
        let place = At::Below(&path, name);
        let header = header_name(name).map_err(|problem| error(place, problem))?;
        match value {
            Value::String(text) => pairs.push((header, header_value(text).map_err(|p| error(place, p))?)),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Set(_)
            | Value::Object(_)
            | Value::Undefined => {
                for line in list(value, place)
                    .map_err(|_| error(place, Problem::Type("a string or a list of strings")))?
                {
                    let line = text(line, place)?;
                    pairs.push((header.clone(), header_value(line).map_err(|p| error(place, p))?));
                }
            }
        }
        if pairs.len() > HEADERS_MAX {
            return Err(error(path, Problem::Invalid("has more than 64 headers")));
        }
    }
    Ok(pairs)
}

fn header_name(name: &str) -> Result<HeaderName, Problem> {
    let header =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| Problem::Invalid("is not a header name"))?;
    if is_reserved(&header) {
        return Err(Problem::ReservedHeader);
    }
    Ok(header)
}

fn header_value(value: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(value)
        .map_err(|_| Problem::Invalid("is not a header value (line breaks and control characters)"))
}

fn header_edits(value: &Value, path: At<'_>) -> Result<HeaderEdits, DecisionError> {
    let mut edits = HeaderEdits::default();
    for (key, value) in entries(value, path, "an object with set, add, remove")? {
        let place = At::Below(&path, key);
        match key {
            "set" => edits.set = header_pairs(value, place)?,
            "add" => edits.add = header_pairs(value, place)?,
            "remove" => {
                for name in list(value, place)? {
                    let name = text(name, place)?;
                    edits.remove.push(header_name(name).map_err(|problem| error(place, problem))?);
                }
            }
            _ => return Err(error(place, Problem::UnknownKey)),
        }
    }
    Ok(edits)
}

fn upstream_edits(value: &Value) -> Result<UpstreamEdits, DecisionError> {
    let mut edits = UpstreamEdits::default();
    let upstream = At::Key("upstream");
    for (key, value) in entries(value, upstream, "an object")? {
        let place = At::Below(&upstream, key);
        match key {
            "name" => edits.name = Some(text(value, place)?.to_owned()),
            "path" => {
                let path = CanonicalPath::parse(text(value, place)?, PathRules::default());
                edits.path =
                    Some(path.map_err(|_| error(place, Problem::Invalid("is not a canonical path")))?);
            }
            "headers" => edits.headers = header_edits(value, place)?,
            "query" => query_edits(value, &mut edits)?,
            "timeout" => {
                let timeout = size::parse_duration(text(value, place)?);
                edits.timeout = Some(
                    timeout.map_err(|_| error(place, Problem::Invalid("is not a duration such as `2s`")))?,
                );
            }
            _ => return Err(error(place, Problem::UnknownKey)),
        }
    }
    Ok(edits)
}

fn query_edits(value: &Value, edits: &mut UpstreamEdits) -> Result<(), DecisionError> {
    let query = At::Key("upstream.query");
    for (key, value) in entries(value, query, "an object with set, remove")? {
        let place = At::Below(&query, key);
        match key {
            "set" => {
                for (name, value) in entries(value, place, "an object of strings")? {
                    edits.query_set.push((name.to_owned(), text(value, At::Below(&place, name))?.to_owned()));
                }
            }
            "remove" => {
                for name in list(value, place)? {
                    edits.query_remove.push(text(name, place)?.to_owned());
                }
            }
            _ => return Err(error(place, Problem::UnknownKey)),
        }
    }
    Ok(())
}

fn response_edits(value: &Value) -> Result<HeaderEdits, DecisionError> {
    let mut edits = HeaderEdits::default();
    for (key, value) in entries(value, At::Key("response"), "an object")? {
        match key {
            "headers" => edits = header_edits(value, At::Key("response.headers"))?,
            _ => return Err(error(format!("response.{key}"), Problem::UnknownKey)),
        }
    }
    Ok(edits)
}

fn limits(value: &Value) -> Result<Vec<LimitSpec>, DecisionError> {
    let limits = At::Key("limits");
    let items = list(value, limits)?;
    if items.len() > LIMITS_MAX {
        return Err(error("limits", Problem::Invalid("has more than 16 limits")));
    }
    items.into_iter().enumerate().map(|(index, item)| limit(item, At::Index(&limits, index))).collect()
}

fn limit(value: &Value, path: At<'_>) -> Result<LimitSpec, DecisionError> {
    let (mut name, mut key, mut rate, mut burst, mut cost) = (None, None, None, None, None);
    for (field, value) in entries(value, path, "an object")? {
        let place = At::Below(&path, field);
        match field {
            "name" => {
                let given = text(value, place)?;
                rate::check_name(given).map_err(|fault| error(place, Problem::Rate(fault)))?;
                name = Some(given.to_owned());
            }
            "key" => key = Some(text(value, place)?.to_owned()),
            "rate" => {
                let parsed = Rate::parse(text(value, place)?);
                rate = Some(parsed.map_err(|fault| error(place, Problem::Rate(fault)))?);
            }
            "burst" => burst = Some(whole_number(value, place)?),
            "cost" => cost = Some(whole_number(value, place)?),
            _ => return Err(error(place, Problem::UnknownKey)),
        }
    }
    let missing = |field: &str| error(At::Below(&path, field), Problem::Missing);
    let rate = rate.ok_or_else(|| missing("rate"))?;
    let quota = Quota::new(rate, burst, cost).map_err(|fault| error(path, Problem::Rate(fault)))?;
    let name = name.ok_or_else(|| missing("name"))?;
    Ok(LimitSpec { name, key: key.ok_or_else(|| missing("key"))?, quota })
}

fn log_options(value: &Value) -> Result<(LogLevel, Option<Value>), DecisionError> {
    let (mut level, mut fields) = (LogLevel::Full, None);
    for (key, value) in entries(value, At::Key("log"), "an object")? {
        match key {
            "level" => {
                level = match text(value, "log.level")? {
                    "full" => LogLevel::Full,
                    "summary" => LogLevel::Summary,
                    "none" => LogLevel::None,
                    _ => return Err(error("log.level", Problem::Invalid("must be full, summary or none"))),
                }
            }
            "fields" => fields = Some(any_object(value, "log.fields")?),
            _ => return Err(error(format!("log.{key}"), Problem::UnknownKey)),
        }
    }
    Ok((level, fields))
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
