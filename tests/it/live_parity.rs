//! Parity: what a running gateway decided is what the command line decides from the same event, byte for byte.

use std::time::Duration;

use postern::policy::bundle::{self, Purpose};
use postern::policy::eval::eval;
use postern::rego::evaluator::Facts;
use postern::rego::program::Options;
use regorus::Value as PolicyValue;
use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::live_support::*;
use crate::wire::{RecordingUpstream, get};

/// Decides each event of the log again; `policy` names the directory of each policy's bundle.
fn check_parity(gateway: &TestGateway, count: usize, runtime: &Value) {
    gateway.events(count);
    let log = std::fs::read_to_string(gateway.path("decisions.jsonl")).unwrap();
    let mut decided = 0;
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let Some(input) = event.get("input") else { continue };
        assert!(event.get("erased").is_none(), "nothing is missing: {event}");
        let runtime = PolicyValue::from_json_str(&runtime.to_string()).unwrap();
        let loaded = bundle::load(&[gateway.path("policy")], Purpose::Serve(None)).unwrap();
        let program = loaded.compile(Options { runtime, ..Options::default() }).unwrap();
        let timestamp: jiff::Timestamp = event["timestamp"].as_str().unwrap().parse().unwrap();
        let facts = Facts {
            input: PolicyValue::from_json_str(&input.to_string()).unwrap(),
            now_ns: i64::try_from(timestamp.as_nanosecond()).unwrap(),
            budget: Duration::from_secs(5),
        };
        let query = format!("data.{}", event["path"].as_str().unwrap().replace('/', "."));
        let rows = eval(&mut program.evaluator(), &query, facts);
        let again =
            rows.ok().and_then(|rows| rows.into_iter().next()).map(|row| row.expressions[0].value.clone());
        match again {
            Some(value) => {
                assert_eq!(member(line, "result"), serde_json::to_string(&value).unwrap());
            }
            None => assert!(event.get("result").is_none() && event["error"].is_object(), "{event}"),
        }
        decided += 1;
    }
    assert_eq!(decided, count);
}

/// The text of a member of a JSON object, as it stands.
fn member<'l>(line: &'l str, name: &str) -> &'l str {
    let (_, rest) = line.split_once(&format!(",\"{name}\":")).unwrap();
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<serde::de::IgnoredAny>();
    values.next().unwrap().unwrap();
    &rest[..values.byte_offset()]
}

#[test]
fn every_decision_can_be_made_again_from_its_event() {
    let upstream = RecordingUpstream::start();
    let policy = r#"package gateway

default decision := {"allow": false, "reason": "default", "status": 404}

facts := {
	"at": time.now_ns(),
	"time": input.time,
	"id": input.decision_id,
	"request": input.request,
	"api": input.api,
	"identity": input.identity,
	"source": input.source,
	"listener": input.listener,
	"region": opa.runtime().config.labels.region,
	"ratio": 1 / 3,
	"large": 12345678901234567890,
}

decision := {"allow": true, "log": {"fields": {"facts": facts}}, "labels": {"n": sprintf("%d", [count(facts)])}} if {
	startswith(input.request.path, "/facts")
}

decision := {"allow": true, "limits": [{"name": "l", "key": input.source.ip, "rate": data.rate}]} if {
	input.request.path == "/limited"
}

decision := {"allow": false, "status": 403, "body": {"at": time.now_ns(), "seen": {x | some x in input.request.segments}}} if {
	startswith(input.request.path, "/body")
}

decision := input.request.query.q[0] if input.request.path == "/odd"

response := {"allow": input.response.status < 300, "reason": sprintf("%v %v", [input.response.status, time.now_ns()])}
"#;
    let config = plain_config(&upstream.url(), "labels: {region: eu-1}")
        .replace("budget: 5s", "budget: 5s, response: gateway/response")
        .replace("upstream: up}]", "upstream: up, routes: [{name: facts, path: \"/facts/{id}\"}, {name: rest, path: \"/{*rest}\"}]}]");
    let gateway = TestGateway::start(
        &config,
        &[("policy/main.rego", policy), ("policy/data.json", r#"{"rate": "1/1h"}"#)],
    );
    let address = gateway.address("public");
    let requests = [
        ("/facts/a%20%C3%A9?x=1&x=%C3%A9&y=%22%5C%0A", 200),
        ("/facts/plain", 200),
        ("/limited", 200),
        ("/limited", 429),
        ("/body/b/a", 403),
        ("/odd?q=1", 503),
        ("/nothing", 404),
    ];
    for (path, status) in requests {
        let headers = "X-Text: caf\u{e9} \"quoted\" \\ back\r\nX-Many: 1\r\nX-Many: 2\r\n";
        assert_eq!(get(address, path, headers).status, status, "{path}");
    }
    let body = r#"{"a":[1.5,1e3,-0.0,123456789012345678,{"b":null}],"t":"\u2028"}"#;
    assert_eq!(send(address, "POST", "/facts/json", "Content-Type: application/json\r\n", body).status, 200);
    check_parity(&gateway, requests.len() + 1, &json!({"config": {"labels": {"region": "eu-1"}}}));
}

#[test]
fn a_stopped_response_can_be_decided_again() {
    let upstream =
        RecordingUpstream::answering(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nX-A: 1\r\nX-A: 2\r\n\r\n");
    let policy = "package gateway\n\ndecision := true\n\nresponse := {\"allow\": false, \"body\": {\"r\": input.response, \"at\": time.now_ns()}}\n";
    let config =
        plain_config(&upstream.url(), "").replace("budget: 5s", "budget: 5s, response: gateway/response");
    let gateway = TestGateway::start(&config, &[("policy/main.rego", policy)]);
    assert_eq!(get(gateway.address("public"), "/", "").status, 403);
    check_parity(&gateway, 1, &json!({}));
}
