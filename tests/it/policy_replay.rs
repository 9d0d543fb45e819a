//! Recorded decisions replayed against other policies, by the real binary; the events come from a real gateway.

use std::fs;
use std::io::Write as _;

use serde_json::{Value as Json, json};

use crate::gateway::TestGateway;
use crate::policy_cli::{Ran, gatewayctl};
use crate::wire::{RecordingUpstream, get};

const RECORDING: &str = r#"package gateway

decision := {"allow": allowed, "reason": reason}

default allowed := false

allowed if startswith(input.request.path, "/open")

allowed if input.request.headers["x-admin"] == "yes"

default reason := "closed"

reason := "open" if allowed
"#;

/// A gateway that has decided six requests, and their events.
fn recorded() -> (TestGateway, Vec<Json>) {
    let upstream = RecordingUpstream::start();
    let config = format!(
        "version: 1\nworkers: 1\nlisteners: [{{name: public, address: \"127.0.0.1:0\"}}]\n\
         upstreams: {{up: {{endpoints: [\"{}\"]}}}}\n\
         policies: {{main: {{bundle: policy, budget: 5s}}}}\n\
         apis: [{{name: all, policy: main, upstream: up, routes: [{{name: any, path: \"/{{*rest}}\"}}]}}]\n\
         decision_logs: [{{type: file, path: decisions.jsonl}}]\nreload: {{watch: false}}\n",
        upstream.url()
    );
    let gateway = TestGateway::start(&config, &[("policy/main.rego", RECORDING)]);
    let address = gateway.address("public");
    for (path, headers) in [
        ("/open/1", ""),
        ("/open/2", ""),
        ("/shut/1", "X-Admin: yes\r\n"),
        ("/shut/2", "X-Admin: no\r\n"),
        ("/shut/3", ""),
        ("/shut/4", ""),
    ] {
        get(address, path, headers);
    }
    let events = gateway.events(6);
    (gateway, events)
}

fn replay(gateway: &TestGateway, candidate: &str, more: &[&str]) -> Ran {
    gateway.write("candidate/main.rego", candidate);
    let root = gateway.path("");
    let arguments = ["policy", "replay", "decisions.jsonl", "--against", "candidate"];
    gatewayctl(&root, &[&arguments, more].concat())
}

#[test]
fn the_same_policy_decides_the_same() {
    let (gateway, events) = recorded();
    assert_eq!(events.len(), 6);
    let ran = gatewayctl(&gateway.path(""), &["policy", "replay", "decisions.jsonl", "--against", "policy"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "0 of 6 decisions changed\n"), "{}", ran.notes);
}

#[test]
fn changed_decisions_are_told_apart_opened_doors_first() {
    let (gateway, events) = recorded();
    // `/shut/3` is opened, the header no longer counts, and `/open/2` is answered with another reason.
    let candidate = r#"package gateway

decision := {"allow": true, "reason": "open"} if input.request.path in {"/open/1", "/shut/3"}

else := {"allow": true, "reason": "other"} if input.request.path == "/open/2"

else := {"allow": false, "reason": "closed"}
"#;
    let ran = replay(&gateway, candidate, &["-f", "json"]);
    assert_eq!(ran.code, Some(2), "{}", ran.notes);
    let report = ran.json();
    let id = |path: &str| {
        let event = events.iter().find(|event| event["gateway"]["path"] == path).unwrap();
        event["decision_id"].clone()
    };
    let changed = |change: &str, before: &str, after: &str, path: &str| {
        json!({
            "change": change, "route": "all/any", "count": 1, "decision_ids": [id(path)],
            "before": {"reason": before}, "after": {"reason": after},
        })
    };
    assert_eq!(
        report["changed"],
        json!([
            changed("deny_to_allow", "closed", "open", "/shut/3"),
            changed("allow_to_deny", "open", "closed", "/shut/1"),
            changed("allow_differs", "open", "other", "/open/2"),
        ])
    );
    assert_eq!(
        (&report["events"], &report["replayed"], &report["unchanged"]),
        (&json!(6), &json!(6), &json!(3))
    );
    let ran = replay(&gateway, candidate, &["--allow-changes"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.starts_with("deny -> allow: 1\n"), "{}", ran.out);
    assert!(ran.out.ends_with("3 of 6 decisions changed\n"), "{}", ran.out);
}

#[test]
fn what_was_never_recorded_is_not_guessed() {
    let (gateway, _) = recorded();
    // The recording policy never read the query, so it is in no event; the header is in some, and so was looked for in all.
    let candidate = r#"package gateway

decision := false if input.request.query.debug[0] == "1"

else := input.request.headers["x-admin"] == "yes"
"#;
    let ran = replay(&gateway, candidate, &["-f", "json"]);
    assert_eq!(ran.code, Some(2), "a gate that has checked nothing does not open");
    let report = ran.json();
    assert_eq!(report["replayed"], 0);
    let skipped = &report["not_replayed"][0];
    assert_eq!((&skipped["reason"], &skipped["count"]), (&json!("not_recorded"), &json!(6)));
    assert!(skipped["message"].as_str().unwrap().contains("input.request.query.debug"), "{skipped}");
    let candidate = "package gateway\n\ndefault decision := false\n\n\
        decision if input.request.headers[\"x-admin\"] == \"yes\"\n";
    let report = replay(&gateway, candidate, &["-f", "json"]).json();
    assert_eq!((&report["replayed"], &report["not_replayed"]), (&json!(6), &json!([])));
}

#[test]
fn every_event_is_counted_whatever_it_is() {
    let (gateway, events) = recorded();
    let mut lines: Vec<String> = events.iter().map(Json::to_string).collect();
    let with = |change: &dyn Fn(&mut Json)| {
        let mut event = events[0].clone();
        change(&mut event);
        event.to_string()
    };
    lines.push("not JSON".to_owned());
    lines.push(String::new());
    lines.push(with(&|event| drop(event.as_object_mut().unwrap().remove("path"))));
    lines.push(with(&|event| drop(event.as_object_mut().unwrap().remove("input"))));
    lines.push(with(&|event| drop(event.as_object_mut().unwrap().remove("result"))));
    lines.push(with(&|event| event["path"] = "other/rule".into()));
    lines.push(with(&|event| event["erased"] = json!(["/input/request/headers"])));
    lines.push(with(&|event| event["timestamp"] = "yesterday".into()));
    lines.push(format!("{{\"x\": \"{}\"}}", "y".repeat(5 << 20)));
    let log = lines.join("\n");
    fs::write(gateway.path("mixed.jsonl"), &log).unwrap();
    let packed = fs::File::create(gateway.path("mixed.jsonl.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    packed.write_all(log.as_bytes()).unwrap();
    packed.finish().unwrap();
    for log in ["mixed.jsonl", "mixed.jsonl.gz"] {
        let arguments = ["policy", "replay", log, "--against", "policy", "-f", "json", "--parallel", "3"];
        let report = gatewayctl(&gateway.path(""), &arguments).json();
        assert_eq!((&report["events"], &report["unchanged"]), (&json!(14), &json!(6)), "{report}");
        let skipped: Vec<_> = report["not_replayed"]
            .as_array()
            .unwrap()
            .iter()
            .map(|skipped| (skipped["reason"].as_str().unwrap(), skipped["count"].as_u64().unwrap()))
            .collect();
        assert_eq!(
            skipped,
            [
                ("unreadable", 3),
                ("undecided", 1),
                ("no_input", 1),
                ("no_result", 1),
                ("no_rule", 1),
                ("erased", 1)
            ]
        );
    }
}

#[test]
fn a_policy_is_asked_at_the_time_of_the_event() {
    let (gateway, events) = recorded();
    let after = events[2]["timestamp"].as_str().unwrap();
    let candidate = format!(
        "package gateway\n\ndefault decision := false\n\n\
         decision if time.now_ns() < time.parse_rfc3339_ns(\"{after}\")\n"
    );
    let report = replay(&gateway, &candidate, &["-f", "json"]).json();
    let allowed = report["changed"].as_array().unwrap().iter();
    let allowed: u64 = allowed
        .filter(|changed| changed["change"] == "allow_differs")
        .map(|changed| changed["count"].as_u64().unwrap())
        .sum();
    assert_eq!(allowed, 2, "{report}");
}
