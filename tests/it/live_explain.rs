//! Why a recent decision, answered by the admin endpoint of a running gateway.

use serde_json::{Value, json};

use crate::gateway::TestGateway;
use crate::live_support::*;
use crate::policy_cli::{Ran, gatewayctl};
use crate::wire::{RecordingUpstream, ask, get};

const POLICY: &str = "package gateway

default decision := false

decision := true if {
\tinput.request.method == \"GET\"
\tinput.request.headers.role == \"reader\"
}

decision := true if input.request.headers.authorization == \"Bearer abcdefghijklmnop\"

decision := {\"allow\": true, \"log\": {\"level\": \"summary\"}} if input.request.path == \"/summary\"
";

fn explaining(upstream: &RecordingUpstream, explain: &str) -> TestGateway {
    let config = plain_config(&upstream.url(), "reload: {watch: false, history: 1}")
        .replace("admin: {", &format!("admin: {{explain: {explain}, "))
        .replace("upstream: up}]", "upstream: up, base_path: /}]");
    TestGateway::start(&config, &[("policy/main.rego", POLICY)])
}

/// The id of the decision about a request.
fn decide(gateway: &TestGateway, path: &str, headers: &str) -> String {
    let before = gateway.events(0).len();
    get(gateway.address("public"), path, headers);
    gateway.events(before + 1)[before]["decision_id"].as_str().unwrap().to_owned()
}

fn explain(gateway: &TestGateway, target: &str) -> (u16, Value) {
    let answer = admin(gateway, &format!("/explain/{target}"));
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

fn command(gateway: &TestGateway, id: &str, more: &[&str]) -> Ran {
    let address = gateway.running().admin().unwrap().to_string();
    let arguments = [&["policy", "explain", "--admin", address.as_str(), "--decision", id], more].concat();
    gatewayctl(&gateway.path(""), &arguments)
}

#[test]
fn a_recent_decision_is_explained_as_from_the_log() {
    let upstream = RecordingUpstream::start();
    let gateway = explaining(&upstream, "{}");
    let id = decide(&gateway, "/orders", "Role: writer\r\n");
    let (status, document) = explain(&gateway, &id);
    assert_eq!((status, &document["decision_id"], &document["result"]), (200, &json!(id), &json!(false)));
    let from_log = ["policy", "explain", "decisions.jsonl", "--decision", &id, "--against"];
    // Files are named by the configuration's directory there, and by the one given here.
    let root = gateway.path("");
    let policy = gateway.path("policy").display().to_string();
    let ran = gatewayctl(&root, &[&from_log[..], &[policy.as_str()]].concat());
    let live = command(&gateway, &id, &[]);
    assert_eq!((ran.code, live.code), (Some(0), Some(0)), "{} {}", ran.notes, live.notes);
    assert_eq!(live.out, ran.out);
    assert!(live.out.contains("input.request.headers.role = \"writer\""), "{}", live.out);
    let as_json = gatewayctl(&root, &[&from_log[..], &[policy.as_str(), "-f", "json"]].concat()).json();
    assert_eq!(document["rule"], as_json["rule"]);
    assert_eq!(command(&gateway, &id, &["-f", "json"]).json(), document);
}

#[test]
fn a_redacted_answer_has_no_values() {
    let upstream = RecordingUpstream::start();
    let gateway = explaining(&upstream, "{recent: 10}");
    let id = decide(&gateway, "/orders", "Role: writer\r\n");
    for query in ["redacted=true", "format=text&redacted=true"] {
        let answer = admin(&gateway, &format!("/explain/{id}?{query}")).text();
        assert!(answer.contains("input.request.headers.role") && !answer.contains("writer"), "{answer}");
    }
    assert!(!command(&gateway, &id, &["--redacted"]).out.contains("writer"));
    for query in ["redacted=true&redacted=false", "redacted&redacted=false", "format=json&format=json"] {
        let (status, error) = explain(&gateway, &format!("{id}?{query}"));
        assert_eq!(status, 400, "{query}: {error}");
        assert!(error["error"].as_str().unwrap().contains("is given twice"), "{error}");
    }
    let (status, error) = explain(&gateway, &format!("{id}?redact=true"));
    assert_eq!(status, 400, "what is misspelt must not show what was to be hidden: {error}");
}

#[test]
fn credentials_are_not_kept_and_what_that_means_is_said() {
    let upstream = RecordingUpstream::start();
    let gateway = explaining(&upstream, "{}");
    let id = decide(&gateway, "/orders", "Authorization: Bearer abcdefghijklmnop\r\n");
    let (status, document) = explain(&gateway, &id);
    assert_eq!((status, &document["missing"]), (200, &json!(["/input/request/headers/authorization"])));
    // The rule itself names it; the request's copy is nowhere.
    let text = admin(&gateway, &format!("/explain/{id}?format=text")).text();
    assert!(text.contains("note: the event lacks `/input/request/headers/authorization`"), "{text}");
    assert!(text.contains("input.request.headers.authorization = undefined"), "{text}");
}

#[test]
fn what_no_policy_was_asked_about_is_not_explained_by_one() {
    let upstream = RecordingUpstream::start();
    let gateway = explaining(&upstream, "{}");
    ask(gateway.address("public"), "GET /a%2fb HTTP/1.1\r\nHost: gw.test\r\n\r\n");
    let id = gateway.events(1)[0]["decision_id"].as_str().unwrap().to_owned();
    let (status, document) = explain(&gateway, &id);
    let refused = json!({"reason": "path_encoded_separator", "status": 400});
    assert_eq!((status, &document["refused"]), (200, &refused));
    let told =
        "no policy was asked: the gateway itself refused the request with 400, `path_encoded_separator`\n";
    assert_eq!(command(&gateway, &id, &[]).out, told);
    let from_log = ["policy", "explain", "decisions.jsonl", "--decision", &id, "--against", "policy"];
    assert_eq!(gatewayctl(&gateway.path(""), &from_log).out, told);
    let as_json = gatewayctl(&gateway.path(""), &[&from_log[..], &["-f", "json"]].concat()).json();
    assert_eq!(as_json, json!({"refused": refused}));
}

#[test]
fn the_policy_that_decided_explains_or_is_gone() {
    let upstream = RecordingUpstream::start();
    let gateway = explaining(&upstream, "{}");
    let id = decide(&gateway, "/orders", "");
    gateway.write("policy/main.rego", "package gateway\n\ndecision := true\n");
    gateway.running().reloader().reload().unwrap();
    let (status, document) = explain(&gateway, &id);
    assert_eq!((status, &document["result"]), (200, &json!(false)), "kept for a rollback");
    gateway.running().reloader().reload().unwrap();
    let (status, document) = explain(&gateway, &id);
    assert_eq!(status, 410);
    assert!(document["error"].as_str().unwrap().contains("the policy that decided is gone"), "{document}");
}

#[test]
fn what_is_not_kept_is_said() {
    let upstream = RecordingUpstream::start();
    let gateway = explaining(&upstream, "{recent: 1}");
    let first = decide(&gateway, "/orders", "");
    let summary = decide(&gateway, "/summary", "");
    let (status, document) = explain(&gateway, &first);
    assert_eq!(status, 404);
    assert!(document["error"].as_str().unwrap().contains("no decision"), "{document}");
    assert_eq!(explain(&gateway, &summary).0, 422);
    let ran = command(&gateway, &first, &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.notes.contains("no decision"), "{}", ran.notes);
    let off = start(&upstream, POLICY, "");
    let (status, document) = explain(&off, &first);
    assert_eq!(status, 404);
    assert!(document["error"].as_str().unwrap().contains("configure `admin.explain`"), "{document}");
    let posted = ask(
        gateway.running().admin().unwrap(),
        format!("POST /explain/{first} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"),
    );
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
    for more in [&["--against", "policy"][..], &["--input", "x"]] {
        assert_eq!(command(&gateway, &first, more).code, Some(64), "{more:?}");
    }
}
