//! Built-ins that are answered from outside the evaluation: they know no network, only what is settled.

use std::{collections::BTreeSet, net::IpAddr};

use regorus::Value;

use super::{Entry, Failure, argument, evaluation};
use crate::rego::outside::{Outside, Question, Reply};

/// What the request of `http.send` may hold, and that of whatever signs one.
pub(crate) const HTTP_REQUEST_KEYS: &[&str] = &[
    "body",
    "cache",
    "cache_ignored_headers",
    "caching_mode",
    "enable_redirect",
    "force_cache",
    "force_cache_duration_seconds",
    "force_json_decode",
    "force_yaml_decode",
    "headers",
    "max_retry_attempts",
    "method",
    "raise_error",
    "raw_body",
    "timeout",
    "tls_ca_cert",
    "tls_ca_cert_env_variable",
    "tls_ca_cert_file",
    "tls_client_cert",
    "tls_client_cert_env_variable",
    "tls_client_cert_file",
    "tls_client_key",
    "tls_client_key_env_variable",
    "tls_client_key_file",
    "tls_insecure_skip_verify",
    "tls_server_name",
    "tls_use_system_certs",
    "url",
];

pub(super) const TABLE: &[Entry] = &[("http.send", 1, http_send), ("net.lookup_ip_addr", 1, lookup_ip_addr)];

fn http_send(arguments: &[Value]) -> Result<Value, Failure> {
    argument::object(arguments, 0)?;
    ask(Outside::HttpSend, arguments)
}

fn lookup_ip_addr(arguments: &[Value]) -> Result<Value, Failure> {
    let name = argument::string(arguments, 0)?;
    // An address is its own answer; nobody needs to be asked.
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(Value::from(BTreeSet::from([Value::from(address.to_string())]))),
        Err(_) => ask(Outside::LookupIpAddr, arguments),
    }
}

fn ask(builtin: Outside, arguments: &[Value]) -> Result<Value, Failure> {
    let argument = argument::get(arguments, 0)?.clone();
    let question = Question { builtin, argument };
    match evaluation::reply(&question) {
        Some(Reply::Value(value)) => Ok(value),
        Some(Reply::Error(reason)) => Err(Failure::Error(reason)),
        Some(Reply::Refused(reason)) => Err(Failure::Refused(reason)),
        None => Err(Failure::Unanswered(Box::new(question))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::outside::Settled;

    #[test]
    fn answers_are_what_was_settled() {
        let request = Value::from_json_str(r#"{"method": "GET", "url": "http://a"}"#).unwrap();
        let question = Question { builtin: Outside::HttpSend, argument: request.clone() };
        let arguments = [request];
        evaluation::start(0, &Value::new_object(), Settled::default());
        assert_eq!(http_send(&arguments), Err(Failure::Unanswered(Box::new(question.clone()))));
        let check = |reply: Reply, want: Result<Value, Failure>| {
            let mut settled = Settled::default();
            settled.answer(question.clone(), reply);
            evaluation::start(0, &Value::new_object(), settled);
            assert_eq!(http_send(&arguments), want);
        };
        check(Reply::Value(Value::from(1)), Ok(Value::from(1)));
        check(Reply::Error("down".to_owned()), Err(Failure::Error("down".to_owned())));
        check(Reply::Refused("no".to_owned()), Err(Failure::Refused("no".to_owned())));
        assert!(matches!(http_send(&[Value::from("GET")]), Err(Failure::Error(_))));
    }

    #[test]
    fn an_address_needs_no_lookup() {
        evaluation::start(0, &Value::new_object(), Settled::default());
        for (text, shown) in [("10.0.0.1", "10.0.0.1"), ("2001:DB8::0:1", "2001:db8::1")] {
            let want = Value::from(BTreeSet::from([Value::from(shown)]));
            assert_eq!(lookup_ip_addr(&[Value::from(text)]), Ok(want));
        }
        assert!(matches!(lookup_ip_addr(&[Value::from("a.test")]), Err(Failure::Unanswered(_))));
    }
}
