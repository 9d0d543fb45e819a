//! `providers.aws.sign_req`: AWS Signature Version 4 over a request object.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac};
use regorus::Value;

use super::{
    Entry, Failure, argument,
    argument::field,
    encoding::{to_hex, to_json},
    outside::HTTP_REQUEST_KEYS,
    uri,
};

pub(super) const TABLE: &[Entry] = &[("providers.aws.sign_req", 3, sign_request)];

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const REQUIRED: [&str; 4] = ["aws_access_key", "aws_region", "aws_secret_access_key", "aws_service"];
/// Headers a proxy may change on the way are not signed.
const UNSIGNED_HEADERS: [&str; 3] = ["authorization", "user-agent", "x-amzn-trace-id"];

fn error<T>(reason: String) -> Result<T, Failure> {
    Err(Failure::Error(reason))
}

/// When a request is signed, as the signature spells it.
struct Moment {
    date: String,
    time: String,
}

impl Moment {
    fn read(value: &Value) -> Result<Self, Failure> {
        let nanoseconds = value.as_i64().ok().filter(|time| *time >= 0);
        let timestamp = nanoseconds.and_then(|time| jiff::Timestamp::from_nanosecond(i128::from(time)).ok());
        let Some(timestamp) = timestamp else {
            return error("operand 3 could not convert time_ns value into a unix timestamp".to_owned());
        };
        let time = timestamp.strftime("%Y%m%dT%H%M%SZ").to_string();
        Ok(Self { date: time.chars().take(8).collect(), time })
    }
}

fn sign_request(arguments: &[Value]) -> Result<Value, Failure> {
    let request = argument::object(arguments, 0)?;
    let config = argument::object(arguments, 1)?;
    let moment = Moment::read(argument::get(arguments, 2)?)?;
    let [access_key, region, secret_key, service] = credentials(config)?;
    let (method, url) = target(request)?;
    let url = uri::split(url).map_err(|reason| Failure::Error(format!("parse \"{url}\": {reason}")))?;
    let signs_payload = match field(config, "disable_payload_signing") {
        None => true,
        Some(Value::Bool(disabled)) => !disabled,
        Some(_) => {
            return error("operand 2 invalid value for 'disable_payload_signing' in AWS config".to_owned());
        }
    };
    let payload_hash = if signs_payload { sha256(body(request).as_bytes()) } else { UNSIGNED.to_owned() };
    let headers = headers(request)?;

    let mut added = BTreeMap::from([
        ("host".to_owned(), url.host.clone()),
        ("x-amz-date".to_owned(), moment.time.clone()),
    ]);
    if matches!(service, "s3" | "glacier") {
        added.insert("x-amz-content-sha256".to_owned(), payload_hash.clone());
    }
    if let Some(Value::String(token)) = field(config, "aws_session_token")
        && !token.is_empty()
    {
        added.insert("x-amz-security-token".to_owned(), token.to_string());
    }
    let mut signed = added.clone();
    for (name, value) in &headers {
        let name = name.to_ascii_lowercase();
        if !UNSIGNED_HEADERS.contains(&name.as_str()) {
            signed.insert(name, value.clone());
        }
    }
    let names = signed.keys().map(String::as_str).collect::<Vec<_>>().join(";");
    let lines: String = signed.iter().map(|(name, value)| [name, ":", value, "\n"].concat()).collect();
    let canonical = [method, &url.escaped_path(), &url.raw_query, &lines, &names, &payload_hash].join("\n");
    let scope = [&moment.date, region, service, "aws4_request"].join("/");
    let to_sign = ["AWS4-HMAC-SHA256", &moment.time, &scope, &sha256(canonical.as_bytes())].join("\n");
    let key = [moment.date.as_str(), region, service, "aws4_request"]
        .iter()
        .fold(["AWS4", secret_key].concat().into_bytes(), |key, part| mac(&key, part));
    let signature = to_hex(&mac(&key, &to_sign));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={access_key}/{scope},SignedHeaders={names},Signature={signature}"
    );

    let all = headers.into_iter().chain([("Authorization".to_owned(), authorization)]).chain(added);
    let all: BTreeMap<Value, Value> =
        all.map(|(name, value)| (Value::from(name), Value::from(value))).collect();
    let mut answer = request.clone();
    if let Ok(fields) = answer.as_object_mut() {
        fields.insert(Value::from("headers"), Value::from(all));
    }
    Ok(answer)
}

/// The required settings, in the order of their names.
fn credentials(config: &Value) -> Result<[&str; 4], Failure> {
    let missing: Vec<&str> = REQUIRED.into_iter().filter(|name| field(config, name).is_none()).collect();
    if !missing.is_empty() {
        return error(format!("operand 2 missing required AWS config parameters(s): {}", missing.join(", ")));
    }
    let mut found = [""; 4];
    for (slot, name) in found.iter_mut().zip(REQUIRED) {
        match field(config, name) {
            Some(Value::String(text)) => *slot = text,
            _ => {
                return error(format!(
                    "operand 2 invalid values for required AWS config parameters(s): {name}"
                ));
            }
        }
    }
    Ok(found)
}

fn target(request: &Value) -> Result<(&str, &str), Failure> {
    if let Value::Object(fields) = request {
        let unknown = |key: &&Value| !key.as_string().is_ok_and(|key| HTTP_REQUEST_KEYS.contains(&&**key));
        if let Some(key) = fields.keys().find(unknown) {
            return error(format!("operand 1 invalid request parameters(s): {key}"));
        }
    }
    match (field(request, "method"), field(request, "url")) {
        (Some(Value::String(method)), Some(Value::String(url))) => Ok((method, url)),
        (Some(_), Some(_)) => error("operand 1 invalid values for required request parameters(s)".to_owned()),
        (None, _) | (_, None) => error("operand 1 missing required request parameters(s)".to_owned()),
    }
}

fn body(request: &Value) -> String {
    match (field(request, "raw_body"), field(request, "body")) {
        (Some(Value::String(raw)), _) => raw.to_string(),
        (Some(_), _) | (None, None) => String::new(),
        (None, Some(body)) => to_json(body),
    }
}

fn headers(request: &Value) -> Result<BTreeMap<String, String>, Failure> {
    let text = |value: &Value| value.as_string().map(ToString::to_string).unwrap_or_default();
    match field(request, "headers") {
        None => Ok(BTreeMap::new()),
        Some(Value::Object(fields)) => {
            Ok(fields.iter().map(|(name, value)| (text(name), text(value))).collect())
        }
        Some(_) => error("operand 1: `headers` must be an object".to_owned()),
    }
}

fn sha256(bytes: &[u8]) -> String {
    to_hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn signature(request: &str, service: &str, extra: &str) -> String {
        let json = |text: &str| Value::from_json_str(text).unwrap();
        let config = format!(
            r#"{{"aws_access_key": "A", "aws_secret_access_key": "S", "aws_service": "{service}", "aws_region": "r"{extra}}}"#
        );
        let moment = Value::from(1_451_311_705_000_000_000_u64);
        let answer = sign_request(&[json(request), json(&config), moment]).unwrap();
        let header = answer["headers"]["Authorization"].as_string().unwrap().to_string();
        header.split_once("Signature=").unwrap().1[..16].to_owned()
    }

    #[test]
    fn signatures_are_those_of_opa() {
        let request = r#"{"method": "get", "url": "http://h:80/a%20b/%7Ec/é?q=a b&a=1",
            "headers": {"X-A": "1", "User-Agent": "x"}, "body": {"b": "<&>"}}"#;
        assert_eq!(signature(request, "ec2", ""), "8666dbac3d30424e");
        let plain = r#"{"method": "get", "url": "http://h"}"#;
        let unsigned = r#", "disable_payload_signing": true"#;
        assert_eq!(signature(plain, "s3", unsigned), "1b3f45cf7849f674");
        assert_eq!(signature(plain, "ec2", unsigned), "1c7d0d5e230872f6");
        let with = |headers: &str| format!(r#"{{"method": "get", "url": "http://h", "headers": {headers}}}"#);
        let given = with(r#"{"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}"#);
        assert_eq!(signature(&given, "s3", ""), "89825a1ad9b0ba94");
        let given = with(r#"{"x-amz-content-sha256": "abc"}"#);
        assert_eq!(signature(&given, "s3", unsigned), "a965ecabf8151d3f");
        let given = with(r#"{"X-Amz-Content-Sha256": "abc", "Host": "zz", "n": 1}"#);
        assert_eq!(signature(&given, "ec2", ""), "4c29148c86fde76e");
    }

    #[test]
    fn incomplete_requests_are_errors() {
        let json = |text: &str| Value::from_json_str(text).unwrap();
        let config = json(
            r#"{"aws_access_key": "A", "aws_secret_access_key": "S", "aws_service": "s3", "aws_region": "r"}"#,
        );
        for wrong in [
            r#"{"url": "http://h"}"#,
            r#"{"method": 1, "url": "http://h"}"#,
            r#"{"method": "get", "url": "http://h", "foo": 1}"#,
        ] {
            assert!(sign_request(&[json(wrong), config.clone(), Value::from(0)]).is_err(), "{wrong}");
        }
        let request = json(r#"{"method": "get", "url": "http://h"}"#);
        assert!(sign_request(&[request.clone(), json("{}"), Value::from(0)]).is_err());
        assert!(sign_request(&[request.clone(), config.clone(), Value::from(-1)]).is_err());
        assert!(sign_request(&[request, config, Value::from(1.5)]).is_err());
    }
}
