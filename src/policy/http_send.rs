//! `http.send` as OPA has it: what its argument asks for, and what an answer becomes.
//!
//! Pure: nothing here sends. Whatever the argument says is either honoured or refused; nothing is passed over.

pub mod redirect;
mod request;

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{self, HeaderMap};
use regorus::Value;

use crate::fetch::exchange::{Outgoing, Received};
use crate::policy::http_send::request::{Fault, Reader};
use crate::rego::builtin;
use crate::rego::outside::Reply;

/// What a call asks for.
#[derive(Debug, Clone)]
pub struct Send {
    /// What goes to the server.
    pub request: Outgoing,
    /// Redirects are followed.
    pub follows: bool,
    /// The call's own timeout.
    pub timeout: Option<Duration>,
    /// Further tries after a failure to get an answer.
    pub retries: u32,
    /// Whether an answer may be kept for other decisions.
    pub keeping: Keeping,
    /// How to read a body.
    pub decoding: Decoding,
    /// What an error becomes.
    pub raising: Raising,
}

/// Whether an answer may be kept for other decisions, and by what name.
#[derive(Clone, PartialEq, Eq)]
pub enum Keeping {
    /// It may not.
    No,
    /// As long as the server's headers say.
    AsToldBy(Value),
    /// As long as the policy says, whatever the server says.
    For(Value, Duration),
}

/// How to read a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decoding {
    json: bool,
    yaml: bool,
}

/// What an error becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raising {
    /// An error of the call.
    Error,
    /// A result with `error` and the status code 0.
    Result,
}

/// The kinds of errors that OPA tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No answer.
    Network,
    /// Anything else.
    Internal,
}

/// Reads the argument of a call, or says what the call is answered without sending anything.
pub fn parse(argument: &Value) -> Result<Send, Reply> {
    let Value::Object(fields) = argument else {
        return Err(Reply::Error("the request must be an object".to_owned()));
    };
    let raising = match fields.get(&Value::from("raise_error")) {
        None | Some(Value::Bool(true)) => Raising::Error,
        Some(Value::Bool(false)) => Raising::Result,
        Some(_) => return Err(Reply::Error("invalid value for raise_error field".to_owned())),
    };
    let reader = Reader { argument };
    reader.send(raising).map_err(|fault| match fault {
        Fault::Invalid(message) => raising.reply(Kind::Internal, &message),
        Fault::Unsupported(message) => Reply::Refused(message),
    })
}

/// The result of a call that was answered.
pub fn result(received: &Received, decoding: Decoding) -> Value {
    let text = String::from_utf8_lossy(&received.body);
    let status = format!("{} {}", received.status.as_u16(), received.reason);
    let mut headers: BTreeMap<Value, Value> = BTreeMap::new();
    for name in received.headers.keys() {
        let values = received.headers.get_all(name).iter();
        let values = values.map(|value| Value::from(&*String::from_utf8_lossy(value.as_bytes())));
        headers.insert(Value::from(name.as_str()), Value::from(values.collect::<Vec<_>>()));
    }
    object([
        ("status", Value::from(status.trim_end())),
        ("status_code", Value::from(u64::from(received.status.as_u16()))),
        ("body", decoding.body(&received.headers, &text)),
        ("raw_body", Value::from(&*text)),
        ("headers", Value::from(headers)),
    ])
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::from(BTreeMap::from(fields.map(|(name, value)| (Value::from(name), value))))
}

// === impl Keeping ===

impl std::fmt::Debug for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The name is the whole request, with its credentials.
        f.write_str(match self {
            Self::No => "No",
            Self::AsToldBy(_) => "AsToldBy",
            Self::For(..) => "For",
        })
    }
}

// === impl Decoding ===

impl Decoding {
    /// The decoded body; null where it cannot be decoded, as in OPA.
    fn body(self, headers: &HeaderMap, text: &str) -> Value {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default();
        if self.json || is_json(content_type) {
            return Value::from_json_str(text).unwrap_or(Value::Null);
        }
        let is_yaml =
            ["application/yaml", "application/x-yaml"].iter().any(|kind| content_type.contains(kind));
        if self.yaml || is_yaml {
            // The table's built-in has bounds.
            let decoded = builtin::lookup("yaml.unmarshal")
                .and_then(|decode| decode.call(&[Value::from(text)], false).ok())
                .filter(|value| *value != Value::Undefined);
            return decoded.unwrap_or(Value::Null);
        }
        Value::Null
    }
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.strip_prefix("application/")
        .is_some_and(|kind| !kind.contains('/') && (kind == "json" || kind.ends_with("+json")))
}

// === impl Raising ===

impl Raising {
    /// What a call is answered where there is no answer.
    pub fn reply(self, kind: Kind, message: &str) -> Reply {
        if self == Self::Error {
            return Reply::Error(message.to_owned());
        }
        let code = match kind {
            Kind::Network => "eval_http_send_network_error",
            Kind::Internal => "eval_http_send_internal_error",
        };
        let error = object([("code", Value::from(code)), ("message", Value::from(message))]);
        Reply::Value(object([("status_code", Value::from(0_u64)), ("error", error)]))
    }
}
