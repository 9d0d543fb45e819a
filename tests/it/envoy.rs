//! `contract: envoy/v3`: policies written for OPA beside Envoy, unchanged, on a real gateway.

use postern::server::gateway::StartError;

use crate::gateway::TestGateway;
use crate::policy_cli::{files, gatewayctl};
use crate::wire::{RecordingUpstream, ask, get};

/// The example of opa-envoy-plugin's documentation, its object response included.
const RESULT: &str = r#"package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow if http_request.method == "GET"

allow if {
	http_request.headers["x-admin"] == "yes"
	input.parsed_path == ["people", "1"]
	input.parsed_query.lang == ["en"]
}

headers["x-ext-auth-allow"] := "yes" if allow

headers["x-validated-by"] := "security-checkpoint"

request_headers_to_remove := ["one-auth-header", "another-auth-header"] if allow

result["allowed"] := allow

result["headers"] := headers

result["response_headers_to_add"] := {"x-foo": "bar"} if allow

result["request_headers_to_remove"] := request_headers_to_remove

result["query_parameters_to_set"] := {"tenant": "t1"} if allow

result["query_parameters_to_remove"] := ["debug"] if allow

result["body"] := "Unauthorized Request" if not allow

result["http_status"] := 401 if not allow

result["dynamic_metadata"] := {"from": input.attributes.source.address.socketAddress.address}
"#;

/// The example of its tutorial.
const TUTORIAL: &str = r#"package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow if {
	is_token_valid
	action_allowed
}

is_token_valid if {
	token.valid
	now := time.now_ns() / 1000000000
	token.payload.nbf <= now
	now < token.payload.exp
}

action_allowed if {
	http_request.method == "GET"
	token.payload.role == "guest"
	glob.match("/people*", ["/"], http_request.path)
}

action_allowed if {
	http_request.method == "POST"
	token.payload.role == "admin"
	glob.match("/people", ["/"], http_request.path)
	lower(input.parsed_body.firstname) != base64url.decode(token.payload.sub)
}

token := {"valid": valid, "payload": payload} if {
	[_, encoded] := split(http_request.headers.authorization, " ")
	[valid, _, payload] := io.jwt.decode_verify(encoded, {"secret": "secret"})
}
"#;

/// The rule of the plugin's default path.
const ALLOW: &str = ", decision: envoy/authz/allow";

fn config(upstream: &RecordingUpstream, policy: &str) -> String {
    format!(
        "version: 1\nworkers: 1\nlisteners: [{{name: public, address: \"127.0.0.1:0\"}}]\n\
         upstreams: {{up: {{endpoints: [\"{}\"]}}}}\n\
         policies: {{main: {{bundle: policy, contract: envoy/v3, budget: 5s{policy}}}}}\n\
         apis: [{{name: all, policy: main, upstream: up}}]\n\
         decision_logs: [{{type: file, path: decisions.jsonl}}]\nreload: {{watch: false}}\n",
        upstream.url()
    )
}

fn refused(policy: &str, rego: &str) -> String {
    let upstream = RecordingUpstream::start();
    match TestGateway::try_start(&config(&upstream, policy), &[("policy/p.rego", rego)]) {
        Ok(_) => panic!("{rego} is served"),
        Err(StartError::Build(errors)) => errors.to_string(),
        Err(other) => other.to_string(),
    }
}

#[test]
fn an_object_response_says_what_it_says_to_envoy() {
    let upstream = RecordingUpstream::start();
    let config = config(&upstream, ", decision: envoy/authz/result");
    let gateway = TestGateway::start(&config, &[("policy/p.rego", RESULT)]);
    let address = gateway.address("public");
    let allowed =
        get(address, "/people/1?debug=1&lang=en", "One-Auth-Header: x\r\nX-Ext-Auth-Allow: forged\r\n");
    assert_eq!((allowed.status, allowed.header("x-foo")), (200, Some("bar")));
    let received = upstream.received().to_ascii_lowercase();
    assert!(received.starts_with("get /people/1?lang=en&tenant=t1 http/1.1\r\n"), "{received}");
    assert!(received.contains("x-ext-auth-allow: yes\r\n") && !received.contains("forged"), "{received}");
    assert!(received.contains("x-validated-by: security-checkpoint\r\n"), "{received}");
    assert!(!received.contains("one-auth-header"), "{received}");
    let request = |headers: &str| {
        format!("DELETE /people/1?lang=en HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{headers}\r\n")
    };
    let denied = ask(address, request(""));
    assert_eq!((denied.status, denied.text().as_str()), (401, "Unauthorized Request"));
    assert_eq!(denied.header("x-validated-by"), Some("security-checkpoint"));
    assert_eq!(denied.header("x-foo"), None);
    assert_eq!(ask(address, request("X-Admin: yes\r\n")).status, 200);
    let events = gateway.events(3);
    let input = &events[0]["input"];
    assert_eq!(input["attributes"]["request"]["http"]["method"], "GET");
    assert_eq!(events[0]["gateway"]["fields"]["from"], "127.0.0.1");
    assert_eq!(events[0]["path"], "envoy/authz/result");
}

#[test]
fn the_tutorial_runs_unchanged() {
    use jsonwebtoken::{EncodingKey, Header, encode};
    let token = |role: &str, sub: &str| {
        let claims = serde_json::json!({
            "exp": 2_241_081_539_u64, "nbf": 1_514_851_139_u64, "role": role, "sub": sub,
        });
        encode(&Header::default(), &claims, &EncodingKey::from_secret(b"secret")).unwrap()
    };
    let upstream = RecordingUpstream::start();
    let gateway = TestGateway::start(&config(&upstream, ALLOW), &[("policy/p.rego", TUTORIAL)]);
    let address = gateway.address("public");
    let send = |token: &str, body: Option<&str>| {
        let authorization = format!("Authorization: Bearer {token}\r\n");
        match body {
            None => get(address, "/people?lang=en", &authorization).status,
            Some(body) => {
                let length = body.len();
                let head = "POST /people HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
                ask(address, format!("{head}Content-Length: {length}\r\n{authorization}\r\n{body}")).status
            }
        }
    };
    let (alice, bob) = (token("guest", "YWxpY2U"), token("admin", "Ym9i"));
    assert_eq!(send(&alice, None), 200);
    assert_eq!(send(&alice, Some("{\"firstname\": \"Charlie\"}")), 403);
    assert_eq!(send(&bob, Some("{\"firstname\": \"Charlie\"}")), 200);
    assert_eq!(send(&bob, Some("{\"firstname\": \"Bob\"}")), 403, "an admin cannot be created by himself");
    assert_eq!(send("no.good.token", None), 403);
    let events = gateway.events(5);
    assert!(!events.iter().any(|event| event.to_string().contains(&alice)), "the token is not logged");
}

#[test]
fn a_result_that_is_none_fails_closed() {
    let upstream = RecordingUpstream::start();
    for rego in [
        "package envoy.authz\n\nallow := {\"allow\": true} if input.attributes.request.http.method\n",
        "package envoy.authz\n\nallow := {\"allowed\": \"yes\"} if input.attributes.request.http.method\n",
        "package envoy.authz\n\nallow := {\"allowed\": true, \"headers\": 5} if input.attributes.request.http.method\n",
        "package envoy.authz\n\nallow := {\"allowed\": false, \"http_status\": 200} if input.attributes.request.http.method\n",
        "package envoy.authz\n\nallow := {\"allowed\": true, \"headers\": {\"host\": \"x\"}} if input.attributes.request.http.method\n",
        "package envoy.authz\n\nallow if input.attributes.request.http.method == \"PUT\"\n",
    ] {
        let gateway = TestGateway::start(&config(&upstream, ALLOW), &[("policy/p.rego", rego)]);
        let response = get(gateway.address("public"), "/", "");
        assert_eq!((response.status, upstream.requests()), (503, 0), "{rego}");
    }
}

#[test]
fn what_the_gateway_does_not_provide_is_refused_at_load() {
    let told =
        refused(ALLOW, "package envoy.authz\n\nallow if input.attributes.request.http.body == \"x\"\n");
    assert!(
        told.contains("reads `input.attributes.request.http.body`, which the gateway does not provide"),
        "{told}"
    );
    let told = refused(ALLOW, "package envoy.authz\n\nallow if not input.attributes.destination.principal\n");
    assert!(told.contains("input.attributes.destination"), "{told}");
    let told = refused(
        ", decision: envoy/authz/allow, response: envoy/authz/allow",
        "package envoy.authz\n\nallow := true\n",
    );
    assert!(told.contains("cannot be asked of a policy with `contract: envoy/v3`"), "{told}");
}

#[test]
fn a_mistyped_input_path_is_refused_at_load() {
    // Under `not`, what is never there opens the door.
    let told = refused(ALLOW, "package envoy.authz\n\nallow if not input.attributes.request.http.heders.x\n");
    assert!(told.contains("p.rego:3:") && told.contains("headers"), "{told}");
    let own = "version: 1\nlisteners: [{name: public, address: \"127.0.0.1:0\"}]\n\
        upstreams: {up: {endpoints: [\"http://127.0.0.1:9\"]}}\npolicies: {main: {bundle: policy}}\n\
        apis: [{name: all, policy: main, upstream: up}]\n";
    let rego = "package gateway\n\ndecision if not input.request.heders.x\n";
    let Err(error) = TestGateway::try_start(own, &[("policy/p.rego", rego)]) else { panic!("it is served") };
    assert!(error.to_string().contains("did you mean `input.request.headers`?"), "{error}");
}

#[test]
fn case_files_can_be_written_for_it() {
    let root = files(&[
        ("p.rego", RESULT),
        (
            "p.case.yaml",
            "policy: {decision: envoy/authz/result, contract: envoy/v3}\n\
             cases:\n\
             - {name: get, request: {method: GET, path: /}, expect: {allow: true}}\n\
             - {name: post, request: {method: POST, path: /}, expect: {allow: false, status: 401}}\n",
        ),
    ]);
    let ran = gatewayctl(root.path(), &["policy", "test", "."]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "PASS: 2/2\n"), "{}", ran.notes);
}

/// Events of the object response, replayed against a candidate.
fn replayed(candidate: &str, more: &[&str]) -> (Option<i32>, String, Vec<serde_json::Value>) {
    let upstream = RecordingUpstream::start();
    let config = config(&upstream, ", decision: envoy/authz/result");
    let gateway = TestGateway::start(&config, &[("policy/p.rego", RESULT), ("candidate/p.rego", candidate)]);
    let address = gateway.address("public");
    get(address, "/people/1?lang=en", "");
    for headers in ["", "X-Admin: yes\r\n"] {
        let request =
            format!("DELETE /people/1?lang=en HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{headers}\r\n");
        ask(address, request);
    }
    let events = gateway.events(3);
    let arguments = ["policy", "replay", "decisions.jsonl", "--against", "candidate"];
    let ran = gatewayctl(&gateway.path(""), &[&arguments, more].concat());
    (ran.code, ran.out, events)
}

#[test]
fn recorded_objects_are_replayed_as_the_decisions_they_were() {
    let (code, out, events) = replayed(RESULT, &[]);
    assert_eq!((code, out.as_str()), (Some(0), "0 of 3 decisions changed\n"));
    assert_eq!(events[1]["result"]["allowed"], false);
    // The door is opened for the one that was denied, and the one that was allowed by its header is denied.
    let candidate = RESULT.replace("headers[\"x-admin\"] == \"yes\"", "headers[\"x-admin\"] != \"yes\"");
    let candidate = candidate.replace(
        "allow if http_request.method == \"GET\"",
        "allow if http_request.method == \"GET\"\n\nallow if not http_request.headers[\"x-admin\"]",
    );
    let (code, out, _) = replayed(&candidate, &[]);
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("deny -> allow: 1\n") && out.contains("allow -> deny: 1\n"), "{out}");
    assert!(out.ends_with("2 of 3 decisions changed\n"), "{out}");
    // Read as the gateway's own, the candidate's objects are no decisions, then as little as now.
    let (code, out, _) = replayed(&candidate, &["--contract", "gateway/v1"]);
    assert_eq!((code, out.as_str()), (Some(0), "0 of 3 decisions changed\n"));
    let (code, out, _) = replayed(&candidate, &["--contract", "envoy/v3", "-f", "json"]);
    assert_eq!(code, Some(2), "{out}");
}

#[test]
fn a_candidate_whose_object_envoy_would_refuse_fails() {
    let candidate =
        "package envoy.authz\n\nresult := {\"allow\": true} if input.attributes.request.http.method\n";
    let (code, out, _) = replayed(candidate, &[]);
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("allow -> failure: 2\n"), "{out}");
}
