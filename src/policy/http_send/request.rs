//! The argument of a call, read field by field: each is honoured or refused.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use regorus::Value;

use crate::fetch::exchange::Outgoing;
use crate::policy::http_send::redirect::is_web;
use crate::policy::http_send::{Decoding, Keeping, Raising, Send};
use crate::rego::builtin;

/// Retries of one send.
const RETRIES_MAX: u64 = 10;
/// Longest time an answer may be kept.
const KEPT_SECONDS_MAX: u64 = 86_400 * 30;
/// Largest body of a request.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Parameters that OPA knows and that are refused here, with what to do instead.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("tls_ca_cert", "configure `ca`"),
    ("tls_ca_cert_file", "configure `ca`"),
    ("tls_ca_cert_env_variable", "configure `ca`"),
    ("tls_client_cert", "configure `client_tls`"),
    ("tls_client_cert_file", "configure `client_tls`"),
    ("tls_client_cert_env_variable", "configure `client_tls`"),
    ("tls_client_key", "configure `client_tls`"),
    ("tls_client_key_file", "configure `client_tls`"),
    ("tls_client_key_env_variable", "configure `client_tls`"),
    ("tls_server_name", "use the name that is in the server's certificate"),
];

/// Headers that frame a message or belong to the connection: the client sets them.
const FRAMING: &[HeaderName] = &[
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Why a request cannot be read.
pub(super) enum Fault {
    /// OPA has an error here too.
    Invalid(String),
    /// OPA does this, and we do not: never passed over.
    Unsupported(String),
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::Invalid(message)
    }
}

/// Reads the fields of an argument.
pub(super) struct Reader<'a> {
    pub(super) argument: &'a Value,
}

impl<'a> Reader<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        if let Value::Object(fields) = self.argument { fields.get(&Value::from(name)) } else { None }
    }

    pub(super) fn send(&self, raising: Raising) -> Result<Send, Fault> {
        self.check_names()?;
        let url = self.url()?;
        let method = self.text("method")?.unwrap_or_default().to_uppercase();
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("invalid method `{method}`"))?;
        if method == Method::CONNECT {
            return Err(Fault::Unsupported("the method `CONNECT` is not supported".to_owned()));
        }
        if self.flag("tls_insecure_skip_verify")? {
            let message = "`tls_insecure_skip_verify` is not supported: configure `ca`";
            return Err(Fault::Unsupported(message.to_owned()));
        }
        self.flag("tls_use_system_certs")?;
        let headers = self.headers(&url)?;
        let body = self.body()?;
        let retries = self.number("max_retry_attempts")?.unwrap_or(0);
        if retries > RETRIES_MAX {
            return Err(Fault::Unsupported(format!("`max_retry_attempts` is {RETRIES_MAX} at most")));
        }
        Ok(Send {
            request: Outgoing { method, url, headers, body },
            follows: self.flag("enable_redirect")?,
            timeout: self.get("timeout").map(timeout).transpose()?,
            retries: u32::try_from(retries).unwrap_or(0),
            keeping: self.keeping()?,
            decoding: Decoding {
                json: self.flag("force_json_decode")?,
                yaml: self.flag("force_yaml_decode")?,
            },
            raising,
        })
    }

    fn check_names(&self) -> Result<(), Fault> {
        let Value::Object(fields) = self.argument else { return Ok(()) };
        let names = fields.iter().map(|(name, _)| name);
        let unknown: Vec<String> = names
            .filter(|name| !name.as_string().is_ok_and(|name| builtin::HTTP_REQUEST_KEYS.contains(&&**name)))
            .map(ToString::to_string)
            .collect();
        if !unknown.is_empty() {
            let message = format!("invalid request parameters(s): {{{}}}", unknown.join(", "));
            return Err(Fault::Invalid(message));
        }
        if let Some((name, instead)) = UNSUPPORTED.iter().find(|(name, _)| self.get(name).is_some()) {
            return Err(Fault::Unsupported(format!("`{name}` is not supported: {instead}")));
        }
        for name in ["method", "url"] {
            if self.get(name).is_none() {
                return Err(Fault::Invalid(format!(
                    "missing required request parameters(s): {{\"{name}\"}}"
                )));
            }
        }
        Ok(())
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("\"{name}\" must be a string")),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(format!("invalid value for \"{name}\" field")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = if let Value::Number(_) = value { value.as_u64().ok() } else { None };
        number.map(Some).ok_or_else(|| format!("invalid value {value} for field \"{name}\""))
    }

    fn url(&self) -> Result<Uri, Fault> {
        let text = self.text("url")?.unwrap_or_default();
        // The text is not quoted: it may hold credentials.
        let url: Uri = text.parse().map_err(|_| "`url` is not a URL".to_owned())?;
        match url.scheme_str() {
            Some("http" | "https") => {}
            Some("unix") => {
                return Err(Fault::Unsupported("a `unix` URL is not supported".to_owned()));
            }
            Some(_) | None => return Err(Fault::Invalid("`url` is neither `http` nor `https`".to_owned())),
        }
        if !is_web(&url) {
            let message = "user name and password in `url` are not supported: use `headers`";
            return Err(Fault::Unsupported(message.to_owned()));
        }
        Ok(url)
    }

    fn headers(&self, url: &Uri) -> Result<HeaderMap, Fault> {
        let mut headers = HeaderMap::new();
        match self.get("headers") {
            None => {}
            Some(Value::Object(fields)) => {
                for (name, value) in fields.iter() {
                    let (name, value) = header(name, value)?;
                    if FRAMING.contains(&name) {
                        return Err(Fault::Unsupported(format!("the header `{name}` cannot be set")));
                    }
                    let is_own = url.authority().is_some_and(|own| own.as_str() == value);
                    if name == header::HOST && url.scheme_str() == Some("https") && !is_own {
                        let message = "a `Host` other than that of an `https` URL is not supported";
                        return Err(Fault::Unsupported(message.to_owned()));
                    }
                    headers.append(name, value);
                }
            }
            Some(_) => return Err(Fault::Invalid("invalid type for headers key".to_owned())),
        }
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("postern/", env!("CARGO_PKG_VERSION"))));
        Ok(headers)
    }

    fn body(&self) -> Result<Bytes, Fault> {
        let body = match (self.text("raw_body")?, self.get("body")) {
            (Some(text), _) => text.to_owned(),
            (None, Some(value)) => {
                let marshal = builtin::lookup("json.marshal");
                let text = marshal.and_then(|marshal| marshal.call(std::slice::from_ref(value), true).ok());
                let text = text.and_then(|text| text.as_string().map(ToString::to_string).ok());
                text.ok_or_else(|| "`body` has no JSON form".to_owned())?
            }
            (None, None) => String::new(),
        };
        if body.len() > BODY_BYTES_MAX {
            let message = format!("the body is larger than {} MiB", BODY_BYTES_MAX >> 20);
            return Err(Fault::Unsupported(message));
        }
        Ok(Bytes::from(body))
    }

    fn keeping(&self) -> Result<Keeping, Fault> {
        match self.text("caching_mode")? {
            None | Some("serialized" | "deserialized") => {}
            Some(other) => {
                let message = format!("invalid value specified for \"caching_mode\" field: {other}");
                return Err(Fault::Invalid(message));
            }
        }
        let (cache, force) = (self.flag("cache")?, self.flag("force_cache")?);
        let name = self.name_of_kept()?;
        if !force {
            return Ok(if cache { Keeping::AsToldBy(name) } else { Keeping::No });
        }
        let seconds = self.number("force_cache_duration_seconds")?.ok_or_else(|| {
            "'force_cache' set but 'force_cache_duration_seconds' parameter is missing".to_owned()
        })?;
        Ok(if seconds == 0 {
            Keeping::AsToldBy(name)
        } else {
            Keeping::For(name, Duration::from_secs(seconds.min(KEPT_SECONDS_MAX)))
        })
    }

    /// The request without the headers that do not matter.
    fn name_of_kept(&self) -> Result<Value, String> {
        let Value::Object(fields) = self.argument else { return Ok(self.argument.clone()) };
        let ignored = match self.get("cache_ignored_headers") {
            None => return Ok(self.argument.clone()),
            Some(Value::Array(names)) if names.iter().all(|name| name.as_string().is_ok()) => names,
            Some(_) => return Err("invalid value for \"cache_ignored_headers\" field".to_owned()),
        };
        let kept = fields.iter().filter(|(name, _)| **name != Value::from("cache_ignored_headers"));
        let kept = kept.map(|(name, value)| {
            let (true, Value::Object(headers)) = (*name == Value::from("headers"), value) else {
                return (name.clone(), value.clone());
            };
            let matters = headers.iter().filter(|(header, _)| !ignored.contains(header));
            let matters = matters.map(|(header, value)| (header.clone(), value.clone()));
            (name.clone(), Value::from(matters.collect::<BTreeMap<_, _>>()))
        });
        Ok(Value::from(kept.collect::<BTreeMap<_, _>>()))
    }
}

fn header(name: &Value, value: &Value) -> Result<(HeaderName, HeaderValue), String> {
    let (Value::String(name), Value::String(value)) = (name, value) else {
        return Err("invalid type for headers value".to_owned());
    };
    // The value is not quoted: it may be a credential.
    let wrong = || format!("the header `{}` is not valid", name.escape_default());
    let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value))
}

/// Nanoseconds, or a duration as Go writes it.
fn timeout(value: &Value) -> Result<Duration, String> {
    let wrong = || format!("invalid timeout value {value}");
    let nanos = match value {
        Value::Number(_) => value.as_i64().map_err(|_| wrong())?,
        Value::String(text) => match text.parse() {
            Ok(nanos) => nanos,
            Err(_) => nanos_of(value).ok_or_else(wrong)?,
        },
        Value::Null
        | Value::Bool(_)
        | Value::Array(_)
        | Value::Set(_)
        | Value::Object(_)
        | Value::Undefined => return Err("'timeout' must be one of {string, number}".to_owned()),
    };
    // As in Go, 0 is no timeout of its own, and a negative one is over at once.
    Ok(if nanos == 0 { Duration::MAX } else { Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)) })
}

/// A duration as Go writes it, `1.5s`.
fn nanos_of(written: &Value) -> Option<i64> {
    let parse = builtin::lookup("time.parse_duration_ns")?;
    parse.call(std::slice::from_ref(written), false).ok()?.as_i64().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::http_send::parse;

    fn sent(json: &str) -> Send {
        parse(&Value::from_json_str(json).unwrap()).unwrap_or_else(|reply| panic!("{json}: {reply:?}"))
    }

    #[test]
    fn timeouts_are_those_of_go() {
        let check = |written: &str, want: Duration| {
            let send = sent(&format!(r#"{{"method": "GET", "url": "http://a", "timeout": {written}}}"#));
            assert_eq!(send.timeout, Some(want), "{written}");
        };
        check("1000000", Duration::from_millis(1));
        check("\"1000000\"", Duration::from_millis(1));
        check("\"1.5s\"", Duration::from_millis(1500));
        check("0", Duration::MAX);
        check("-5", Duration::ZERO);
    }

    #[test]
    fn a_kept_answer_is_named_by_all_that_matters() {
        let name = |json: &str| match sent(json).keeping {
            Keeping::No => None,
            Keeping::AsToldBy(name) | Keeping::For(name, _) => Some(name),
        };
        let with = |headers: &str, ignored: &str| {
            name(&format!(
                r#"{{"method": "GET", "url": "http://a", "cache": true, "headers": {headers}, "cache_ignored_headers": {ignored}}}"#
            ))
        };
        assert_eq!(with(r#"{"a": "1", "b": "1"}"#, r#"["b"]"#), with(r#"{"a": "1", "b": "2"}"#, r#"["b"]"#));
        assert_ne!(with(r#"{"a": "1", "b": "1"}"#, r#"["b"]"#), with(r#"{"a": "2", "b": "1"}"#, r#"["b"]"#));
        assert_eq!(name(r#"{"method": "GET", "url": "http://a"}"#), None);
        let forced =
            r#"{"method": "GET", "url": "http://a", "force_cache": true, "force_cache_duration_seconds": 5}"#;
        assert!(matches!(sent(forced).keeping, Keeping::For(_, duration) if duration.as_secs() == 5));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let send = sent(
            r#"{"method": "GET", "url": "http://a/?k=s3cret", "headers": {"Authorization": "s3cret"}, "raw_body": "s3cret", "cache": true}"#,
        );
        let shown = format!("{send:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
