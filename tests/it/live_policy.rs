//! What a running gateway asks its policy, and what it makes of every kind of answer.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::gateway::{ALLOW_ALL, TestGateway};
use crate::live_support::*;
use crate::wire::{RawResponse, RecordingUpstream, ask, connect, get, read_response};

fn with_response_rule(upstream: &RecordingUpstream, policy: &str) -> TestGateway {
    let config =
        plain_config(&upstream.url(), "").replace("budget: 5s", "budget: 5s, response: gateway/response");
    TestGateway::start(&config, &[("policy/main.rego", policy)])
}

#[test]
fn the_response_phase_sees_request_and_response() {
    let upstream = RecordingUpstream::answering(
        b"HTTP/1.1 203 Non-Authoritative Information\r\nContent-Length: 2\r\nX-Class: secret\r\nX-Class: top\r\n\r\nok",
    );
    let policy = r#"package gateway

decision := {"allow": true, "reason": "asked", "upstream": {"headers": {"remove": ["X-Team"]}}}

response := {
	"allow": true,
	"response": {"headers": {"set": {
		"X-Seen": sprintf("%v %v %v %v", [
			input.response.status, input.response.headers["x-class"], input.request.headers["x-team"], input.request.path,
		]),
		"X-Fast": sprintf("%v", [input.response.latency_ms < 5000]),
	}, "remove": ["X-Class"]}},
}
"#;
    let gateway = with_response_rule(&upstream, policy);
    let response = get(gateway.address("public"), "/a", "X-Team: blue\r\n");
    assert_eq!((response.status, response.text().as_str()), (203, "ok"));
    assert_eq!(response.header("x-seen"), Some("203 secret, top blue /a"));
    assert_eq!((response.header("x-fast"), response.header("x-class")), (Some("true"), None));
    assert!(!upstream.received().to_ascii_lowercase().contains("x-team"), "the upstream's copy is edited");
    let event = gateway.events(1)[0].clone();
    assert_eq!((&event["path"], &event["gateway"]["reason"]), (&json!("gateway/decision"), &json!("asked")));
}

#[test]
fn the_response_phase_may_stop_a_response_and_is_then_the_decision() {
    let upstream = RecordingUpstream::answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Class: secret\r\n\r\nsecret",
    );
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"reason\": \"fine\"}\n\n\
        response := {\"allow\": input.response.headers[\"x-class\"] != \"secret\", \"reason\": \"classified\", \"status\": 451}\n";
    let gateway = with_response_rule(&upstream, policy);
    let response = get(gateway.address("public"), "/", "");
    assert_eq!((response.status, response.header("x-class")), (451, None));
    assert!(!response.text().contains("secret"));
    let event = gateway.events(1)[0].clone();
    assert_eq!((&event["path"], &event["result"]["allow"]), (&json!("gateway/response"), &json!(false)));
    assert_eq!(event["input"], json!({"response": {"headers": {"x-class": "secret"}}}));
    let told = &event["gateway"];
    assert_eq!((&told["outcome"], &told["reason"]), (&json!("denied"), &json!("classified")));
}

#[test]
fn a_response_phase_without_an_answer_fails_closed() {
    let upstream = RecordingUpstream::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
    for rule in [
        "response if input.response.status == 500",
        "response := d if { input.response.status; d := {\"allow\": true, \"limits\": []} }",
    ] {
        let gateway =
            with_response_rule(&upstream, &format!("package gateway\n\ndecision := true\n\n{rule}\n"));
        let response = get(gateway.address("public"), "/", "");
        assert_eq!(response.status, 503, "{rule}");
        assert!(!response.text().contains("secret"));
        let event = gateway.events(1)[0].clone();
        assert_eq!(
            (&event["gateway"]["reason"], &event["path"]),
            (&json!("policy_error"), &json!("gateway/response"))
        );
    }
}

#[test]
fn what_the_request_phase_keeps_out_of_the_log_stays_out() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": input.request.path == \"/x\", \"log\": {\"level\": \"summary\", \
        \"fields\": {\"a\": 1, \"b\": 1}}, \"labels\": {\"team\": \"pay\"}}\n\n\
        response := {\"allow\": true, \"log\": {\"fields\": {\"b\": 2}}, \"labels\": {\"status\": sprintf(\"%v\", [input.response.status])}}\n";
    let gateway = with_response_rule(&upstream, policy);
    assert_eq!(get(gateway.address("public"), "/x", "").status, 200);
    let event = gateway.events(1)[0].clone();
    assert!(event.get("input").is_none() && event.get("result").is_none(), "{event}");
    assert_eq!(event["gateway"]["fields"], json!({"a": 1, "b": 2}));
    assert_eq!((&event["labels"]["team"], &event["labels"]["status"]), (&json!("pay"), &json!("200")));
}

/// A gateway whose route takes bodies of up to 8 MiB, on a listener with the default of 1 MiB.
fn with_large_bodies(upstream: &RecordingUpstream, policy: &str) -> TestGateway {
    let routes = "routes: [{name: large, path: /large, body_bytes: 8MiB}, {name: rest, path: \"/{*rest}\"}]";
    let config = plain_config(&upstream.url(), "")
        .replace("policy: main, upstream: up}]", &format!("policy: main, upstream: up, {routes}}}]"));
    TestGateway::start(&config, &[("policy/main.rego", policy)])
}

#[test]
fn a_body_nobody_reads_is_streamed_and_bounded() {
    let upstream = RecordingUpstream::start();
    let gateway = with_large_bodies(&upstream, ALLOW_ALL);
    let address = gateway.address("public");
    let body = "x".repeat(3 << 20);
    // Not JSON, whatever it says: nobody looks.
    assert_eq!(send(address, "POST", "/large", "Content-Type: application/json\r\n", &body).status, 200);
    assert!(upstream.received().len() > body.len());
    assert_eq!(send(address, "POST", "/small", "", &body).status, 413);
    let mut stream = connect(address);
    let write = stream.write_all(format!("POST /small HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes());
    if write.is_ok() {
        assert_eq!(read_response(&mut stream).unwrap().status, 413);
    }
    let reasons: Vec<_> = gateway.events(3).iter().map(|event| event["gateway"]["reason"].clone()).collect();
    assert_eq!(reasons, [Value::Null, json!("body_too_large"), json!("body_too_large")]);
}

#[test]
fn a_streamed_body_goes_out_before_it_is_whole() {
    let upstream = RecordingUpstream::start();
    let gateway = with_large_bodies(&upstream, ALLOW_ALL);
    let mut stream = connect(gateway.address("public"));
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .unwrap();
    crate::gateway::eventually("the first chunk", || upstream.received().contains("first").then_some(()));
    stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
    assert_eq!(read_response(&mut stream).unwrap().status, 200);
    assert!(upstream.received().contains("second"));
}

const TELLS_BODY: &str = "package gateway\n\nbody := input.request.body\n\ndefault body := \"none\"\n\n\
    decision := {\"allow\": true, \"log\": {\"fields\": {\"body\": body, \"state\": input.request.body_state}}}\n";

#[test]
fn a_body_the_policy_reads_is_parsed_by_its_type() {
    let upstream = RecordingUpstream::start();
    let policy = TELLS_BODY.replace(
        "body := input.request.body\n\ndefault body := \"none\"",
        "default body := \"none\"\n\nbody := input.request.body",
    );
    let gateway = with_large_bodies(&upstream, &policy);
    let address = gateway.address("public");
    let bodies = [
        (
            "application/json",
            r#"{"a":[1,2.5,"\u00e9"],"b":null}"#,
            json!({"a": [1, 2.5, "\u{e9}"], "b": null}),
            "parsed",
        ),
        ("application/merge-patch+json; charset=utf-8", "[]", json!([]), "parsed"),
        (
            "application/x-www-form-urlencoded",
            "a=1&a=2+3&b=%C3%A9",
            json!({"a": ["1", "2 3"], "b": ["\u{e9}"]}),
            "parsed",
        ),
        ("text/plain", "hello", json!("hello"), "text"),
        ("application/octet-stream", "\u{1}\u{2}", json!("none"), "binary"),
    ];
    for (index, (content_type, body, parsed, state)) in bodies.iter().enumerate() {
        let response = send(address, "POST", "/", &format!("Content-Type: {content_type}\r\n"), body);
        assert_eq!(response.status, 200, "{content_type}");
        let fields = gateway.events(index + 1)[index]["gateway"]["fields"].clone();
        assert_eq!(fields, json!({"body": parsed, "state": state}), "{content_type}");
        assert!(upstream.received().ends_with(body), "what was judged is what is sent");
    }
    assert_eq!(get(address, "/", "").status, 200);
    assert_eq!(gateway.events(6)[5]["gateway"]["fields"], json!({"body": "none", "state": "absent"}));
    let chunked = "POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(ask(address, chunked).status, 200);
    assert_eq!(gateway.events(7)[6]["gateway"]["fields"], json!({"body": "abcde", "state": "text"}));
}

#[test]
fn a_body_the_policy_cannot_read_as_the_upstream_will_is_refused() {
    let upstream = RecordingUpstream::start();
    let gateway =
        with_large_bodies(&upstream, "package gateway\n\ndecision if input.request.body.amount < 10\n");
    let address = gateway.address("public");
    let json = "Content-Type: application/json\r\n";
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let large = format!("\"{}\"", "x".repeat(2 << 20));
    let refused = [
        (json, "{\"amount\":1,\"amount\":100}", 400, "body_malformed"),
        (json, "{\"amount\":1", 400, "body_malformed"),
        (json, "{\"amount\":1}x", 400, "body_malformed"),
        (json, deep.as_str(), 400, "body_malformed"),
        (json, large.as_str(), 413, "body_too_large"),
        ("", "{\"amount\":1}", 415, "body_unsupported"),
        ("Content-Type: multipart/form-data; boundary=x\r\n", "--x--", 415, "body_unsupported"),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", "x", 415, "body_unsupported"),
    ];
    for (index, (headers, body, status, reason)) in refused.iter().enumerate() {
        assert_eq!(send(address, "POST", "/", headers, body).status, *status, "{headers} {index}");
        assert_eq!(gateway.events(index + 1)[index]["gateway"]["reason"], *reason);
    }
    assert_eq!(upstream.requests(), 0);
    assert_eq!(send(address, "POST", "/", json, "{\"amount\":1}").status, 200);
    assert_eq!(send(address, "POST", "/", json, "{\"amount\":100}").status, 503, "undefined is no decision");
}

/// What comes of a policy that fails: the response, its event, and the count of `kind`.
fn failing(policy: &str, options: &str, kind: &str) -> (RawResponse, Value) {
    let upstream = RecordingUpstream::start();
    let config = plain_config(&upstream.url(), "").replace("budget: 5s", options);
    let gateway = TestGateway::start(&config, &[("policy/main.rego", policy)]);
    let response = get(gateway.address("public"), "/", "");
    let event = gateway.events(1)[0].clone();
    assert_eq!(upstream.requests(), usize::from(response.status == 200));
    let series = format!("postern_policy_decisions_total{{policy=\"main\",kind=\"{kind}\"}}");
    assert_eq!(metric(&gateway, &series), Some(1), "{policy}");
    (response, event)
}

#[test]
fn a_policy_that_does_not_decide_fails_closed_marked_and_counted() {
    let head = "package gateway\n\n";
    let slow = "decision if count([1 | some x in numbers.range(1, 3000); some y in numbers.range(1, 3000); x + y == input.request.path]) == 0";
    let failures = [
        ("decision if input.request.path == \"/other\"", "budget: 5s", "error", "undefined"),
        ("decision := d if { input.request.path; d := \"yes\" }", "budget: 5s", "error", "must be"),
        ("decision := d if d := {\"reason\": input.request.path}", "budget: 5s", "error", "required"),
        (
            "decision := d if d := {\"allow\": true, \"alow\": input.request.path}",
            "budget: 5s",
            "error",
            "unknown key",
        ),
        (
            "decision := d if d := {\"allow\": \"true\", \"reason\": input.request.path}",
            "budget: 5s",
            "error",
            "boolean",
        ),
        (
            "decision := d if d := {\"allow\": false, \"status\": 200, \"reason\": input.request.path}",
            "budget: 5s",
            "error",
            "300 to 599",
        ),
        (
            "decision := d if d := {\"allow\": true, \"redact\": [], \"reason\": input.request.path}",
            "budget: 5s",
            "error",
            "not built",
        ),
        (
            "decision := true if input.request.path\ndecision := false if input.request.method",
            "budget: 5s",
            "error",
            "",
        ),
        (slow, "budget: 5ms", "budget", "budget"),
    ];
    for (rule, options, kind, message) in failures {
        let (response, event) = failing(&format!("{head}{rule}\n"), options, kind);
        assert_eq!(response.status, 503, "{rule}");
        assert!(response.text().contains("policy_error"), "{}", response.text());
        let told = &event["gateway"];
        assert_eq!((&told["reason"], &told["outcome"]), (&json!("policy_error"), &json!("failed")), "{rule}");
        assert_eq!(event["error"]["code"], "policy_error");
        let told = event["error"]["message"].as_str().unwrap();
        assert!(told.contains(message), "{rule}: {told}");
        assert!(!response.text().contains(told), "the client does not learn why");
    }
}

#[test]
fn an_obligation_that_is_not_built_is_never_ignored() {
    let rule = |value: &str| format!("package gateway\n\ndecision := {value}\n");
    let obligation = "{\"allow\": true, \"redact\": [{\"target\": \"response\", \"detect\": [\"pan\"], \"action\": \"mask\"}]}";
    let upstream = RecordingUpstream::start();
    let policy = rule(obligation);
    let files = [("policy/main.rego", policy.as_str())];
    let Err(refused) = TestGateway::try_start(&plain_config(&upstream.url(), ""), &files) else {
        panic!("it started")
    };
    assert!(refused.to_string().contains("not built yet"), "{refused}");
    let hidden = rule(&format!("d if {{ input.request.path; d := {obligation} }}"));
    let (response, event) = failing(&hidden, "budget: 5s", "error");
    assert_eq!((response.status, &event["gateway"]["reason"]), (503, &json!("policy_error")));
}

#[test]
fn failing_open_is_marked_and_counted() {
    let (response, event) = failing(
        "package gateway\n\ndecision if input.request.path == \"/other\"\n",
        "budget: 5s, on_error: allow",
        "fail_open",
    );
    assert_eq!(response.status, 200);
    assert_eq!(
        (&event["gateway"]["fail_open"], &event["gateway"]["outcome"]),
        (&json!(true), &json!("allowed"))
    );
    assert!(event["error"]["message"].as_str().unwrap().contains("undefined"));
}

#[test]
fn a_malformed_query_is_refused_only_where_the_policy_reads_it() {
    let upstream = RecordingUpstream::start();
    let reads = start(
        &upstream,
        "package gateway\n\ndecision := {\"allow\": true, \"labels\": {\"q\": input.request.query.q[0]}}\n",
        "",
    );
    assert_eq!(get(reads.address("public"), "/?q=%zz", "").status, 400);
    assert_eq!(get(reads.address("public"), "/?q=a%20b", "").status, 200);
    assert_eq!(reads.events(2)[1]["labels"]["q"], "a b");
    let ignores = start(&upstream, ALLOW_ALL, "");
    assert_eq!(get(ignores.address("public"), "/?q=%zz", "").status, 200);
    assert!(upstream.received().contains("GET /?q=%zz HTTP/1.1"));
}

#[test]
fn under_load_and_reloads_every_request_sees_one_snapshot() {
    let upstream = RecordingUpstream::start();
    let version = |number: usize| {
        let policy = format!(
            "package gateway\n\ndecision := {{\"allow\": true, \"response\": {{\"headers\": {{\"set\": {{\"X-Version\": \
             sprintf(\"{number} %v %v\", [data.number, input.api.version])}}}}}}}}\n"
        );
        (policy, format!("{{\"number\": {number}}}"))
    };
    let (policy, data) = version(0);
    let config = plain_config(&upstream.url(), "reload: {watch: false}")
        .replace("name: all,", "name: all, version: \"0\",")
        .replace("workers: 1", "workers: 2");
    let gateway = TestGateway::start(&config, &[("policy/main.rego", &policy), ("policy/data.json", &data)]);
    let address = gateway.address("public");
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let mut seen = std::collections::BTreeSet::new();
                let mut stream = connect(address);
                while !over.load(Ordering::Relaxed) {
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
                    let response = read_response(&mut stream).unwrap();
                    assert_eq!(response.status, 200);
                    let version = response.header("x-version").unwrap().to_owned();
                    let parts: Vec<&str> = version.split(' ').collect();
                    assert!(parts.iter().all(|part| *part == parts[0]), "{version}");
                    seen.insert(version);
                }
                seen.len()
            })
        })
        .collect();
    let text = std::fs::read_to_string(gateway.path("gateway.yaml")).unwrap();
    for number in 1..=20 {
        let (policy, data) = version(number);
        gateway.write("policy/main.rego", &policy);
        gateway.write("policy/data.json", &data);
        gateway.write("gateway.yaml", &text.replace("version: \"0\"", &format!("version: \"{number}\"")));
        gateway.running().reloader().reload().unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let seen: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(seen > 4, "the clients saw more than one version: {seen}");
}

#[test]
fn an_upstream_that_answers_before_the_body_is_whole_is_passed_on() {
    let upstream = RecordingUpstream::answering(
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
    );
    let gateway = start(&upstream, ALLOW_ALL, "");
    let mut stream = connect(gateway.address("public"));
    stream.write_all(b"POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    let response = read_response(&mut stream).unwrap();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
    drop(stream.read(&mut [0; 16]));
}

#[test]
fn the_response_phase_may_read_the_requests_body() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := true\n\nresponse := {\"allow\": input.request.body.amount < 10, \
        \"reason\": input.request.body_state}\n";
    let gateway = with_response_rule(&upstream, policy);
    let status = |body: &str| {
        send(gateway.address("public"), "POST", "/", "Content-Type: application/json\r\n", body).status
    };
    assert_eq!((status("{\"amount\":1}"), status("{\"amount\":10}"), status("{")), (200, 403, 400));
    assert_eq!(upstream.requests(), 2);
}
