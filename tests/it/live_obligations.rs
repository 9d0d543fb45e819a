//! What a decision obliges the gateway to: denials, limits, bounds, labels, log levels, timeouts.

use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::live_support::*;
use crate::wire::{RawResponse, RecordingUpstream, get};

fn deny(result: &str) -> (RawResponse, Value) {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, &format!("package gateway\n\ndecision := {result}\n"), "");
    let response = get(gateway.address("public"), "/", "");
    assert_eq!(upstream.requests(), 0);
    let event = gateway.events(1)[0].clone();
    assert_eq!(event["gateway"]["outcome"], "denied", "{result}");
    assert_eq!(event["gateway"]["status"], response.status);
    assert!(event["gateway"].get("aborted").is_none(), "{event}");
    (response, event)
}

#[test]
fn a_denial_is_a_problem_document_unless_the_policy_says_otherwise() {
    let (response, event) = deny("false");
    assert_eq!((response.status, response.header("content-type")), (403, Some("application/problem+json")));
    let problem: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem["decision_id"], event["decision_id"]);
    assert_eq!((&problem["reason"], &problem["detail"]), (&json!("denied"), &json!("denied by policy")));
    assert_eq!(response.header("cache-control"), Some("no-store"));
}

#[test]
fn the_policy_words_a_denial() {
    let (response, event) = deny(
        r#"{"allow": false, "status": 401, "reason": "no token", "headers": {"WWW-Authenticate": ["Bearer", "Basic"], "Content-Type": "text/html"}, "body": "<p>log in</p>"}"#,
    );
    assert_eq!((response.status, response.text().as_str()), (401, "<p>log in</p>"));
    assert_eq!(response.header("content-type"), Some("text/html"));
    assert_eq!(response.head.to_ascii_lowercase().matches("www-authenticate: ").count(), 2);
    assert_eq!(response.head.to_ascii_lowercase().matches("content-type: ").count(), 1);
    assert_eq!(event["gateway"]["reason"], "no token");

    let (response, _) = deny(
        r#"{"allow": false, "status": 302, "headers": {"Location": "https://login.test/"}, "body": ""}"#,
    );
    assert_eq!((response.status, response.header("location")), (302, Some("https://login.test/")));
    let (response, _) = deny(r#"{"allow": false, "body": {"error": ["a", 1]}}"#);
    assert_eq!(
        (response.header("content-type"), response.text().as_str()),
        (Some("application/json"), r#"{"error":["a",1]}"#)
    );
    let (response, _) = deny(r#"{"allow": false, "status": 304, "body": "never sent"}"#);
    assert_eq!((response.status, response.body.len()), (304, 0));
}

#[test]
fn the_reason_is_shown_only_where_the_policy_exposes_it() {
    for (exposed, shown) in [(false, false), (true, true)] {
        let (response, event) =
            deny(&format!(r#"{{"allow": false, "reason": "quota of acme", "expose_reason": {exposed}}}"#));
        assert_eq!(response.text().contains("quota of acme"), shown);
        assert_eq!(event["gateway"]["reason"], "quota of acme");
    }
}

#[test]
fn a_limit_is_kept_and_told() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"limits\": [{\"name\": \"per-client\", \
        \"key\": input.request.headers[\"x-client\"], \"rate\": \"2/1h\"}]}\n";
    let gateway = start(&upstream, policy, "");
    let ask = |client: &str| get(gateway.address("public"), "/", &format!("X-Client: {client}\r\n"));
    let first = ask("a");
    assert_eq!((first.status, first.header("ratelimit-policy")), (200, Some("\"per-client\";q=2;w=3600")));
    assert!(
        first.header("ratelimit").unwrap().starts_with("\"per-client\";r=1;t="),
        "{:?}",
        first.header("ratelimit")
    );
    assert_eq!(ask("a").status, 200);
    let refused = ask("a");
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&wait), "{wait}");
    assert!(refused.header("ratelimit").unwrap().starts_with("\"per-client\";r=0;t="));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"per-client\";q=2;w=3600"));
    assert_eq!(ask("b").status, 200, "another client has its own");
    assert_eq!(upstream.requests(), 3);
    let told = gateway.events(4)[2]["gateway"].clone();
    assert_eq!((&told["outcome"], &told["reason"]), (&json!("limited"), &json!("limited")));
    assert_eq!(told["limits"], json!([{"name": "per-client", "remaining": 0, "exceeded": true}]));
    assert_eq!(metric(&gateway, "postern_limit_keys"), Some(2));
    assert_eq!(
        metric(
            &gateway,
            "postern_requests_total{listener=\"public\",api=\"all\",outcome=\"limited\",status=\"4xx\"}"
        ),
        Some(1)
    );
}

#[test]
fn several_limits_are_taken_all_or_none() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"limits\": [\
        {\"name\": \"large\", \"key\": \"all\", \"rate\": \"10/1h\"}, \
        {\"name\": \"small\", \"key\": input.request.headers[\"x-client\"], \"rate\": \"1/1h\"}]}\n";
    let gateway = start(&upstream, policy, "");
    let statuses: Vec<_> = ["a", "a", "a", "b"]
        .iter()
        .map(|client| get(gateway.address("public"), "/", &format!("X-Client: {client}\r\n")).status)
        .collect();
    assert_eq!(statuses, [200, 429, 429, 200]);
    let limits: Vec<_> = gateway.events(4).iter().map(|event| event["gateway"]["limits"].clone()).collect();
    assert_eq!(limits[0], json!([{"name": "large", "remaining": 9}, {"name": "small", "remaining": 0}]));
    assert_eq!(limits[2][1]["exceeded"], true);
    assert_eq!(limits[3][0]["remaining"], 8, "what was refused took nothing from the large one");
}

#[test]
fn a_denied_request_takes_nothing() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": input.request.path == \"/ok\", \"limits\": [{\"name\": \"l\", \"key\": \"k\", \"rate\": \"1/1h\"}]}\n";
    let gateway = start(&upstream, policy, "");
    assert_eq!(get(gateway.address("public"), "/no", "").status, 403);
    assert_eq!(get(gateway.address("public"), "/ok", "").status, 200);
    assert_eq!(get(gateway.address("public"), "/ok", "").status, 429);
}

#[test]
fn max_body_is_tighter_than_the_route() {
    let upstream = RecordingUpstream::start();
    for reads in ["", ", \"labels\": {\"state\": input.request.body_state}"] {
        let gateway = start(
            &upstream,
            &format!("package gateway\n\ndecision := {{\"allow\": true, \"max_body\": 4{reads}}}\n"),
            "",
        );
        let address = gateway.address("public");
        let text = "Content-Type: text/plain\r\n";
        assert_eq!(send(address, "POST", "/", text, "1234").status, 200);
        assert_eq!(send(address, "POST", "/", text, "12345").status, 413);
        let chunked = |body: &str| {
            let length = body.len();
            format!(
                "POST / HTTP/1.1\r\nHost: gw.test\r\n{text}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            )
        };
        assert_eq!(crate::wire::ask(address, chunked("1234")).status, 200);
        assert_eq!(crate::wire::ask(address, chunked("12345")).status, 413);
        let outcomes: Vec<_> =
            gateway.events(4).iter().map(|event| event["gateway"]["outcome"].clone()).collect();
        assert_eq!(outcomes, ["allowed", "refused", "allowed", "refused"]);
    }
}

#[test]
fn labels_fields_and_levels_shape_the_event() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"reason\": \"because\", \"labels\": {\"team\": \"pay\", \"region\": \"policy\"}, \
        \"log\": {\"level\": input.request.headers[\"x-level\"], \"fields\": {\"n\": 1}}}\n";
    let gateway = start(&upstream, policy, "labels: {region: eu-1, app: orders}");
    for level in ["none", "summary", "full"] {
        assert_eq!(get(gateway.address("public"), "/", &format!("X-Level: {level}\r\n")).status, 200);
    }
    let events = gateway.events(2);
    assert_eq!(events.len(), 2, "`none` writes none");
    assert!(events[0].get("input").is_none() && events[0].get("result").is_none());
    assert_eq!(events[1]["input"]["request"]["headers"]["x-level"], "full");
    for event in &events {
        assert_eq!((&event["labels"]["app"], &event["labels"]["team"]), (&json!("orders"), &json!("pay")));
        assert_eq!(
            (&event["gateway"]["fields"], &event["gateway"]["reason"]),
            (&json!({"n": 1}), &json!("because"))
        );
    }
    assert_eq!(
        metric(
            &gateway,
            "postern_requests_total{listener=\"public\",api=\"all\",outcome=\"allowed\",status=\"2xx\"}"
        ),
        Some(3)
    );
}

#[test]
fn the_policy_sets_a_response_timeout() {
    let upstream = RecordingUpstream::answering(b"");
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"upstream\": {\"timeout\": \"100ms\"}}\n";
    let config =
        plain_config(&upstream.url(), "").replace("endpoints:", "retries: {attempts: 0}, endpoints:");
    let gateway = TestGateway::start(&config, &[("policy/main.rego", policy)]);
    assert_eq!(get(gateway.address("public"), "/", "").status, 504);
}
