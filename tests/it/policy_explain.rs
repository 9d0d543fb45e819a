//! Why a recorded decision, told by the real binary; the events come from a real gateway.

use std::fs;

use serde_json::json;

use crate::gateway::TestGateway;
use crate::policy_cli::{Ran, gatewayctl};
use crate::wire::{RecordingUpstream, get};

const POLICY: &str = r#"package gateway

import data.lib

decision := {"allow": allowed}

default allowed := false

allowed if {
	input.request.method == "GET"
	lib.within(input.request.path, data.open)
	not blocked
}

allowed if input.request.headers["x-admin"] == "yes"

blocked if input.request.headers["x-client"] == "scraper"
"#;

const LIB: &str = r#"package lib

within(path, prefixes) if {
	some prefix in prefixes
	startswith(path, prefix)
}
"#;

fn decided(headers: &str, path: &str) -> (TestGateway, String) {
    let upstream = RecordingUpstream::start();
    let config = format!(
        "version: 1\nworkers: 1\nlisteners: [{{name: public, address: \"127.0.0.1:0\"}}]\n\
         upstreams: {{up: {{endpoints: [\"{}\"]}}}}\n\
         policies: {{main: {{bundle: policy, budget: 5s}}}}\n\
         apis: [{{name: all, policy: main, upstream: up}}]\n\
         decision_logs: [{{type: file, path: decisions.jsonl}}]\nreload: {{watch: false}}\n",
        upstream.url()
    );
    let files = [
        ("policy/main.rego", POLICY),
        ("policy/lib.rego", LIB),
        ("policy/data.json", "{\"open\": [\"/docs\", \"/help\"]}"),
    ];
    let gateway = TestGateway::start(&config, &files);
    get(gateway.address("public"), path, headers);
    let id = gateway.events(1)[0]["decision_id"].as_str().unwrap().to_owned();
    (gateway, id)
}

fn explain(gateway: &TestGateway, id: &str, more: &[&str]) -> Ran {
    let arguments = ["policy", "explain", "decisions.jsonl", "--decision", id, "--against", "policy"];
    gatewayctl(&gateway.path(""), &[&arguments, more].concat())
}

#[test]
fn a_denial_is_explained_condition_by_condition() {
    let (gateway, id) = decided("X-Client: browser\r\n", "/orders");
    let ran = explain(&gateway, &id, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let want = "\
data.gateway.decision = {\"allow\":false}
  policy/main.rego:5:1: unconditional
    data.gateway.allowed = false
      policy/main.rego:15:1: condition 1 of 1 does not hold
        line 15: input.request.headers[\"x-admin\"] == \"yes\"
          input.request.headers[\"x-admin\"] = undefined
      policy/main.rego:9:1: condition 2 of 3 does not hold
        line 11: lib.within(input.request.path, data.open)
          input.request.path = \"/orders\"
          data.open = [\"/docs\",\"/help\"]
        data.lib.within(\"/orders\", [\"/docs\",\"/help\"])
          policy/lib.rego:3:1: condition 2 of 2 does not hold
            line 5: startswith(path, prefix)
              path = \"/orders\"
              prefix = \"/docs\" | \"/help\"
";
    assert_eq!(ran.out, want);
}

#[test]
fn what_stood_in_the_way_is_named() {
    let (gateway, id) = decided("X-Client: scraper\r\n", "/docs/1");
    let document = explain(&gateway, &id, &["-f", "json"]).json();
    let allowed = &document["rule"]["bodies"][0]["causes"][0];
    let nearest = &allowed["bodies"][0];
    assert_eq!((&nearest["held"], &nearest["conditions"]), (&json!(2), &json!(3)));
    assert_eq!(nearest["failed"]["expression"], "not blocked");
    let blocked = &nearest["failed"]["causes"][0];
    assert_eq!((&blocked["name"], &blocked["negated"]), (&json!("data.gateway.blocked"), &json!(true)));
    assert_eq!(document["result"], json!({"allow": false}));
}

#[test]
fn a_redacted_explanation_has_no_values() {
    let (gateway, id) = decided("X-Client: browser\r\n", "/orders");
    for format in ["pretty", "json"] {
        let ran = explain(&gateway, &id, &["--redacted", "-f", format]);
        assert_eq!(ran.code, Some(0), "{}", ran.notes);
        for value in ["/orders\"", "/docs", "browser"] {
            assert!(!ran.out.contains(value), "{value}: {}", ran.out);
        }
        assert!(ran.out.contains("startswith(path, prefix)"), "{}", ran.out);
    }
}

#[test]
fn an_input_is_explained_as_well_and_what_cannot_be_is_refused() {
    let (gateway, _) = decided("", "/orders");
    fs::write(gateway.path("input.json"), r#"{"request": {"method": "POST", "path": "/docs"}}"#).unwrap();
    let root = gateway.path("");
    let ran = gatewayctl(
        &root,
        &["policy", "explain", "--input", "input.json", "--against", "policy", "--rule", "gateway/allowed"],
    );
    assert!(ran.out.contains("input.request.method = \"POST\""), "{}{}", ran.out, ran.notes);
    let ran = explain(&gateway, "nobody", &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.notes.contains("no decision `nobody` in `decisions.jsonl`"), "{}", ran.notes);
    let ran = gatewayctl(&root, &["policy", "explain", "--against", "policy"]);
    assert_eq!(ran.code, Some(64), "{}", ran.notes);
}
