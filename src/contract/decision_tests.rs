use serde_json::json;

use super::*;

fn parse(result: serde_json::Value) -> Result<Decision, DecisionError> {
    Decision::parse(&Value::from(result), Phase::Request)
}

#[track_caller]
fn allow(result: serde_json::Value) -> Allow {
    match parse(result).unwrap() {
        Decision::Allow(allow) => *allow,
        Decision::Deny(deny) => panic!("denied: {deny:?}"),
    }
}

#[track_caller]
fn refused(result: serde_json::Value, want: &str) {
    assert_eq!(parse(result).unwrap_err().to_string(), want);
}

#[test]
fn a_boolean_is_a_decision() {
    assert!(matches!(parse(json!(true)), Ok(Decision::Allow(_))));
    let Ok(Decision::Deny(deny)) = parse(json!(false)) else { panic!("not a denial") };
    assert_eq!(deny.status, StatusCode::FORBIDDEN);
}

#[test]
fn whatever_is_not_a_decision_is_an_error() {
    refused(json!("yes"), "decision `result`: must be a boolean or an object");
    refused(json!(null), "decision `result`: must be a boolean or an object");
    refused(json!({}), "decision `allow`: is required");
    refused(json!({"allow": "true"}), "decision `allow`: must be a boolean");
    refused(json!({"allow": true, "alow": 1}), "decision `alow`: unknown key");
    refused(
        json!({"allow": true, "redact": []}),
        "decision `redact`: is not built yet, and an obligation is never ignored",
    );
    refused(
        json!({"allow": false, "status": 200}),
        "decision `status`: must be from 300 to 599: a denial is no success",
    );
    refused(json!({"allow": false, "status": "403"}), "decision `status`: must be a whole number");
    refused(
        json!({"allow": true, "max_body": -1}),
        "decision `max_body`: must be a whole number that is not negative",
    );
    refused(
        json!({"allow": true, "log": {"level": "quiet"}}),
        "decision `log.level`: must be full, summary or none",
    );
    assert!(Decision::parse(&Value::Undefined, Phase::Request).is_err());
}

#[test]
fn a_header_cannot_carry_a_line_break_or_reframe_the_message() {
    refused(
        json!({"allow": true, "upstream": {"headers": {"set": {"x": "a\r\nb: c"}}}}),
        "decision `upstream.headers.set.x`: is not a header value (line breaks and control characters)",
    );
    for name in ["Content-Length", "transfer-encoding", "Host", "Connection", "keep-alive", "TE"] {
        assert!(
            parse(json!({"allow": true, "upstream": {"headers": {"set": {name: "1"}}}})).is_err(),
            "{name}"
        );
        assert!(
            parse(json!({"allow": true, "response": {"headers": {"add": {name: "1"}}}})).is_err(),
            "{name}"
        );
        assert!(parse(json!({"allow": false, "headers": {name: "1"}})).is_err(), "{name}");
    }
    refused(
        json!({"allow": true, "upstream": {"headers": {"set": {"a b": "1"}}}}),
        "decision `upstream.headers.set.a b`: is not a header name",
    );
}

#[test]
fn upstream_edits() {
    let edits = allow(json!({"allow": true, "upstream": {
        "name": "other", "path": "/v3/%61", "timeout": "2s",
        "headers": {"set": {"X-User": "alice", "x-roles": ["a", "b"]}, "remove": ["cookie"]},
        "query": {"set": {"tenant": "t1"}, "remove": ["debug"]},
    }}))
    .upstream;
    assert_eq!(edits.name.as_deref(), Some("other"));
    assert_eq!(edits.path.unwrap().as_str(), "/v3/a");
    assert_eq!(edits.timeout, Some(Duration::from_secs(2)));
    assert_eq!(edits.headers.set.len(), 3);
    assert_eq!(edits.query_set, [("tenant".to_owned(), "t1".to_owned())]);
    assert_eq!(edits.query_remove, ["debug"]);
    refused(
        json!({"allow": true, "upstream": {"path": "/a/../b"}}),
        "decision `upstream.path`: is not a canonical path",
    );
}

#[test]
fn a_denial_drops_edits_but_still_checks_them() {
    let deny =
        parse(json!({"allow": false, "upstream": {"headers": {"set": {"x-user": "a"}}}, "reason": "no"}));
    assert!(matches!(deny, Ok(Decision::Deny(deny)) if deny.reason.as_deref() == Some("no")));
    assert!(parse(json!({"allow": false, "upstream": {"unknown": 1}})).is_err());
}

#[test]
fn limits_are_complete() {
    let good = json!({"name": "tier", "key": "alice", "rate": "100/1m", "burst": 10, "cost": 2});
    let limits = allow(json!({"allow": true, "limits": [good]})).limits;
    assert_eq!((limits[0].name.as_str(), limits[0].quota.burst(), limits[0].quota.cost()), ("tier", 10, 2));
    refused(
        json!({"allow": true, "limits": [{"name": "a", "key": "k"}]}),
        "decision `limits[0].rate`: is required",
    );
    for bad in [
        json!({"name": "a", "key": "k", "rate": "fast"}),
        json!({"name": "\n", "key": "k", "rate": "1/s"}),
        json!({"name": "a", "key": "k", "rate": "1/s", "burst": 0}),
        json!({"name": "a", "key": "k", "rate": "1/s", "cost": -1}),
        json!({"name": "a", "key": 7, "rate": "1/s"}),
    ] {
        assert!(parse(json!({"allow": true, "limits": [bad]})).is_err(), "{bad}");
    }
}

#[test]
fn the_response_phase_says_nothing_about_the_upstream() {
    let decision = Decision::parse(&Value::from(json!({"allow": true, "limits": []})), Phase::Response);
    assert_eq!(
        decision.unwrap_err().to_string(),
        "decision `limits`: cannot be decided in the response phase"
    );
}

#[test]
fn what_the_gateway_sets_replaces_every_twin() {
    let mut headers = HeaderMap::new();
    for name in ["x-user", "x_user", "x.user", "x-users"] {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("evil"));
    }
    allow(json!({"allow": true, "upstream": {"headers": {"set": {"X-User": "alice"}}}}))
        .upstream
        .headers
        .apply(&mut headers);
    let left: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(left, [("x-users", "evil"), ("x-user", "alice")]);
}

#[test]
fn identity_headers_go_whatever_joins_their_words() {
    let long = HeaderName::from_bytes("x".repeat(80).as_bytes()).unwrap();
    let names = FoldedNames::new(&[HeaderName::from_static("x-user"), long.clone()]);
    let mut headers = HeaderMap::new();
    for name in ["x-user", "x.user", "x~user", "x-users", "y-user", "accept", long.as_str()] {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
    }
    names.remove_from(&mut headers);
    let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["accept", "x-users", "y-user"]);
}
