//! The whole way of a request: client, gateway, policy, upstream, event.

use std::io::{Read as _, Write as _};

use crate::gateway::{ALLOW_ALL, TestGateway};
use crate::wire::{RecordingUpstream, connect, get, read_response};

fn config(upstream: &RecordingUpstream) -> String {
    format!(
        r#"
version: 1
workers: 1
listeners: [{{name: public, address: "127.0.0.1:0"}}]
upstreams: {{up: {{endpoints: ["{}"]}}}}
policies: {{main: {{bundle: policy, decision: gateway/decision, budget: 5s}}}}
apis: [{{name: all, policy: main, upstream: up}}]
decision_logs: [{{type: file, path: decisions.jsonl}}]
"#,
        upstream.url()
    )
}

#[test]
fn an_allowed_request_is_answered_by_the_upstream_and_recorded() {
    let upstream = RecordingUpstream::start();
    let gateway = TestGateway::start(&config(&upstream), &[("policy/main.rego", ALLOW_ALL)]);
    let response = get(gateway.address("public"), "/orders/1?a=b", "");
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert!(upstream.received().starts_with("GET /orders/1?a=b HTTP/1.1\r\n"), "{}", upstream.received());
    let event = &gateway.events(1)[0];
    assert_eq!(event["gateway"]["outcome"], "allowed");
    assert_eq!(event["gateway"]["path"], "/orders/1");
    assert_eq!(event["result"], true);
}

#[test]
fn an_upstreams_http_1_0_is_not_the_clients() {
    let upstream = RecordingUpstream::answering(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = TestGateway::start(&config(&upstream), &[("policy/main.rego", ALLOW_ALL)]);
    let mut client = connect(gateway.address("public"));
    for _ in 0..3 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
        let mut line = [0; 17];
        client.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"HTTP/1.1 200 OK\r\n");
        let response = read_response(&mut line.as_slice().chain(&mut client)).unwrap();
        assert_eq!(
            (response.status, response.header("connection"), response.text().as_str()),
            (200, None, "ok")
        );
    }
}

#[test]
fn a_denied_request_never_reaches_the_upstream() {
    let upstream = RecordingUpstream::start();
    let policy =
        "package gateway\n\ndecision := {\"allow\": false, \"reason\": \"closed\", \"status\": 451}\n";
    let gateway = TestGateway::start(&config(&upstream), &[("policy/main.rego", policy)]);
    let response = get(gateway.address("public"), "/orders/1", "");
    assert_eq!(response.status, 451);
    assert!(!response.text().contains("closed"), "the reason is for the log alone");
    assert_eq!(upstream.requests(), 0);
    let event = &gateway.events(1)[0];
    assert_eq!(
        (&event["gateway"]["outcome"], &event["gateway"]["reason"]),
        (&"denied".into(), &"closed".into())
    );
}
