//! `policy eval --as`: what somebody may do, without an input document, by the real binary.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::policy_cli::{Ran, files, gatewayctl};

/// Answers with the input, so that tests see what a policy would.
const ECHO: &str = "package gateway\n\ndecision := {\"allow\": input.request.method != \"DELETE\", \"reason\": \"echo\", \"seen\": input}\n";
const DECISION: &str = r#"package gateway

default decision := {"allow": false, "reason": "not_yours"}

decision := {"allow": true, "reason": "reader"} if {
	"reader" in input.identity.roles
	input.request.method in {"GET", "HEAD"}
} else := {"allow": true, "reason": "own"} if {
	input.api.params.id == input.identity.subject
} else := {"allow": true, "reason": "device"} if {
	input.source.tls.client_certificate.spiffe_id == input.identity.subject
	input.api.route == "record-scan"
}
"#;
const CONFIG: &str = r#"version: 1
listeners:
  - {name: public, address: 127.0.0.1:0, apis: [orders, closed]}
  - {name: internal, address: 127.0.0.1:0, apis: [devices, old]}
identity:
  corp: {type: jwt, issuer: "https://idp.example", audiences: [orders], jwks_file: jwks.json, algorithms: [RS256], claims: {roles: realm_access.roles}}
  partners: {type: api_key, header: X-Api-Key, keys: keys.yaml}
  devices: {type: client_certificate, subject: san_uri}
upstreams:
  up: {endpoints: ["http://127.0.0.1:9"]}
policies:
  main: {bundle: p}
apis:
  - name: orders
    version: v2
    hosts: [orders.example]
    base_path: /v2
    identity: [corp, partners]
    policy: main
    upstream: up
    routes:
      - {name: list-orders, path: /orders, methods: [GET, HEAD]}
      - {name: create-order, path: /orders, methods: [POST]}
      - {name: read-order, path: "/orders/{id}", methods: [GET]}
      - {name: record-scan, path: "/orders/{id}/scans", methods: [POST], identity: [devices]}
  - {name: closed, base_path: /closed, identity: [corp], anonymous: reject, policy: main, upstream: up}
  - {name: devices, base_path: /devices, identity: [devices, corp], require: all, policy: main, upstream: up, routes: [{name: record-scan, path: /, methods: [POST]}]}
  - {name: old, base_path: /old, lifecycle: {state: retired}, policy: main, upstream: up}
"#;
const KEYS: &str = "keys:\n\
  - {id: k1, sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, owner: acme, roles: [reader], attributes: {tier: gold}}\n\
  - {id: k2, sha256: 3bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, owner: globex}\n\
  - {id: k3, sha256: 4bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, owner: globex, roles: [reader]}\n\
  - {id: k4, sha256: 5bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, owner: late, expires: 2020-01-01T00:00:00Z}\n";

fn root(policy: &str) -> tempfile::TempDir {
    files(&[
        ("p/p.rego", policy),
        ("gateway.yaml", CONFIG),
        ("keys.yaml", KEYS),
        ("jwks.json", "{\"keys\": []}"),
    ])
}

fn eval(root: &Path, arguments: &[&str]) -> Ran {
    gatewayctl(root, &[&["policy", "eval"], arguments].concat())
}

/// What a policy sees of a request asked for with these arguments.
#[track_caller]
fn seen(arguments: &[&str]) -> Json {
    let root = root(ECHO);
    let ran = eval(root.path(), arguments);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    ran.json()["seen"].clone()
}

/// The answer to arguments on the deciding policy.
fn asked(arguments: &[&str]) -> Ran {
    let root = root(DECISION);
    eval(root.path(), &[&["--config", "gateway.yaml"], arguments].concat())
}

#[track_caller]
fn refused(arguments: &[&str], code: i32, part: &str) {
    let ran = asked(arguments);
    assert!(ran.code == Some(code) && ran.notes.contains(part), "{:?} {} {}", ran.code, ran.out, ran.notes);
}

#[test]
fn what_is_said_is_what_the_policy_sees() {
    let input = seen(&[
        "p",
        "--as",
        "devices:spiffe://example.org/7",
        "--type",
        "external",
        "--request",
        "POST /v2/orders/a%20b?x=1&x=2",
        "--role",
        "r1",
        "--role",
        "r2",
        "--group",
        "g",
        "--scope",
        "s",
        "--claim",
        "org={\"id\": 7}",
        "--claim",
        "dept=it",
        "--attribute",
        "mail=a@x",
        "--attribute",
        "mail=b@x",
        "--attribute",
        "key_id=k1",
        "--header",
        "X-Trace: abc",
        "--header",
        "Host: api.example:8443",
        "--source",
        "2001:db8::7",
        "--api",
        "orders",
        "--route",
        "read-order",
        "--param",
        "id=a b",
    ]);
    let want = json!({
        "authenticated": true, "provider": "devices", "type": "external", "subject": "spiffe://example.org/7",
        "audience": [], "roles": ["r1", "r2"], "groups": ["g"], "scopes": ["s"],
        "claims": {"org": {"id": 7}, "dept": "it"}, "attributes": {"mail": ["a@x", "b@x"], "key_id": "k1"},
    });
    assert_eq!(input["identity"], want);
    assert_eq!(input["source"]["ip"], "2001:db8::7");
    assert_eq!(input["api"]["params"], json!({"id": "a b"}));
    assert_eq!((&input["api"]["name"], &input["api"]["route"]), (&json!("orders"), &json!("read-order")));
    assert_eq!(input["api"]["lifecycle"], json!({"state": "active"}));
    let request = &input["request"];
    assert_eq!(
        (&request["method"], &request["path"], &request["host"]),
        (&json!("POST"), &json!("/v2/orders/a%20b"), &json!("api.example"))
    );
    assert_eq!(request["query"], json!({"x": ["1", "2"]}));
    assert_eq!(request["headers"]["x-trace"], "abc");
    assert_eq!(request["body_state"], "absent");
}

#[test]
fn anonymous_is_nobody() {
    let input = seen(&["p", "--as", "anonymous", "--request", "/"]);
    assert_eq!(input["identity"], json!({"authenticated": false}));
    let root = root(ECHO);
    let ran = eval(root.path(), &["p", "--as", "anonymous", "--role", "r", "--request", "/"]);
    assert!(ran.code == Some(1) && ran.notes.contains("`anonymous` is nobody"), "{}", ran.notes);
}

#[test]
fn several_identities_meet() {
    let input = seen(&["p", "--as", "devices:d7", "--as", "corp:alice", "--role", "r", "--request", "/"]);
    assert_eq!(input["identity"]["provider"], "devices");
    assert_eq!(input["identity"]["all"]["devices"]["roles"], json!(["r"]));
    assert_eq!(input["identity"]["all"]["corp"]["subject"], "alice");
    assert_eq!(input["identity"]["all"]["corp"]["roles"], json!([]));
    let root = root(ECHO);
    let ran = eval(root.path(), &["p", "--as", "corp:a", "--as", "corp:b", "--request", "/"]);
    assert!(ran.code == Some(1) && ran.notes.contains("`corp` is asked for two identities"), "{}", ran.notes);
}

#[test]
fn a_certificate_is_shown_in_the_handshake() {
    let id = "devices:spiffe://example.org/7";
    let arguments =
        ["--as", id, "--type", "client_certificate", "--attribute", "issuer=CN=CA", "--request", "/"];
    let input = seen(&[&["p"], &arguments[..]].concat());
    assert_eq!(input["identity"]["issuer"], "CN=CA");
    assert_eq!(input["identity"]["attributes"]["spiffe_id"], "spiffe://example.org/7");
    assert_eq!(input["source"]["tls"]["client_certificate"]["spiffe_id"], "spiffe://example.org/7");
}

#[test]
fn fail_says_no_with_2_and_refusals_count_as_no() {
    let root = root(ECHO);
    let code = |request: &str| {
        let ran = eval(root.path(), &["p", "--as", "corp:alice", "--fail", "--request", request]);
        (ran.code, ran.out)
    };
    assert_eq!(code("GET /").0, Some(0));
    assert_eq!(code("DELETE /").0, Some(2));
    let (ended, out) = code("GET /a/../b");
    assert_eq!(ended, Some(2));
    assert!(out.starts_with("refused with 400: "), "{out}");
}

#[test]
fn a_configuration_finds_route_and_parameters_and_reads_tokens_as_its_provider_does() {
    let arguments =
        ["--config", "gateway.yaml", "--as", "corp:alice", "--role", "reader", "--claim", "dept=it"];
    let more =
        ["--header", "Host: orders.example", "--header", "X-User: root", "--request", "GET /v2/orders/a%2Db"];
    let input = seen(&[&arguments[..], &more[..]].concat());
    let identity = &input["identity"];
    let claims = json!({"iss": "https://idp.example", "aud": ["orders"], "sub": "alice", "dept": "it",
        "realm_access": {"roles": ["reader"]}});
    assert_eq!((&identity["claims"], &identity["roles"]), (&claims, &json!(["reader"])));
    assert_eq!((&identity["issuer"], &identity["type"]), (&json!("https://idp.example"), &json!("jwt")));
    assert_eq!(
        (&input["api"]["name"], &input["api"]["version"], &input["api"]["route"], &input["api"]["params"]),
        (&json!("orders"), &json!("v2"), &json!("read-order"), &json!({"id": "a-b"}))
    );
    assert_eq!((&input["listener"], &input["request"]["scheme"]), (&json!("public"), &json!("http")));
    assert_eq!(input["request"]["headers"].get("x-user"), None);
}

#[test]
fn a_key_has_the_roles_of_the_keys_file() {
    let ask = |arguments: &[&str]| {
        let ran = asked(&[&["--api", "orders", "--request", "GET /v2/orders"], arguments].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.notes);
        ran.json()["reason"].clone()
    };
    assert_eq!(ask(&["--as", "partners:acme"]), "reader");
    assert_eq!(ask(&["--as", "partners:acme", "--role", "other"]), "not_yours");
    assert_eq!(ask(&["--as", "partners:globex", "--attribute", "key_id=k3"]), "reader");
    assert_eq!(ask(&["--as", "partners:globex", "--attribute", "key_id=k2"]), "not_yours");
    let request = ["--api", "orders", "--request", "GET /v2/orders", "--as"];
    refused(
        &[&request[..], &["partners:globex"]].concat(),
        1,
        "choose one by the attribute `key_id`, one of `k2`, `k3`",
    );
    refused(&[&request[..], &["partners:acm"]].concat(), 1, "did you mean `acme`?");
    refused(&[&request[..], &["partners:late"]].concat(), 1, "the key `k4` has expired");
}

#[test]
fn who_cannot_ask_here_is_an_error_with_a_hint() {
    let orders = ["--api", "orders", "--request", "GET /v2/orders", "--as"];
    refused(&[&orders[..], &["corpp:alice"]].concat(), 1, "unknown provider `corpp`: did you mean `corp`?");
    refused(
        &[&orders[..], &["devices:spiffe://x/7"]].concat(),
        1,
        "API `orders`, route `list-orders` does not accept `devices`: it accepts `corp`, `partners`",
    );
    refused(&[&orders[..], &["corp:alice", "--as", "partners:acme"]].concat(), 1, "takes one identity");
    refused(&[&orders[..], &["corp:alice", "--group", "g"]].concat(), 1, "its tokens have no groups");
    refused(&[&orders[..], &["corp:alice", "--claim", "aud=others"]].concat(), 1, "`wrong_audience`");
    refused(
        &[&orders[..], &["corp:a", "--claim", "realm_access=x", "--role", "r"]].concat(),
        1,
        "the claim `realm_access.roles` has no place",
    );
    let device = ["--request", "POST /devices/", "--as", "devices:spiffe://x/7"];
    refused(&device, 1, "asks for all of its identities, `corp` too: add `--as corp:SUBJECT`");
    refused(&[&orders[..], &["corp:a", "--listener", "publik"]].concat(), 1, "unknown listener `publik`");
    refused(
        &["--request", "/", "--as", "corp:a", "--api", "order"],
        1,
        "unknown API `order`: there are `orders`",
    );
    refused(&["--request", "/", "--as", "corp:a", "--param", "a=b"], 1, "parameters are in the path");
}

#[test]
fn all_of_several_identities_decide() {
    let ran = asked(&["--request", "POST /devices/", "--as", "devices:spiffe://x/7", "--as", "corp:alice"]);
    assert_eq!(ran.json()["reason"], "device", "{}", ran.notes);
    // The first one is that of the provider listed first, whatever the order here.
    let arguments = ["--config", "gateway.yaml", "--as", "corp:alice", "--as", "devices:spiffe://x/7"];
    let identity = seen(&[&arguments[..], &["--request", "POST /devices/"]].concat())["identity"].clone();
    assert_eq!(
        (&identity["provider"], &identity["all"]["corp"]["subject"]),
        (&json!("devices"), &json!("alice"))
    );
}

#[test]
fn what_the_gateway_refuses_by_itself_is_an_answer() {
    for (arguments, answer, note) in [
        (["anonymous", "GET /closed/x"], "refused with 401: credential_required\n", ""),
        (
            ["corp:a", "GET /nowhere"],
            "refused with 404: no_route\n",
            "host `localhost` has no such path; APIs are `orders` at",
        ),
        (["anonymous", "GET /old/x"], "refused with 410: api_retired\n", ""),
        (
            ["anonymous", "GET /devices/"],
            "refused with 405: method_not_allowed\n",
            "routes of this path take POST",
        ),
    ] {
        let [who, request] = arguments;
        let ran = asked(&["--as", who, "--request", request]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), answer), "{}", ran.notes);
        assert!(ran.notes.contains(note), "{}", ran.notes);
        assert_eq!(asked(&["--as", who, "--request", request, "--fail"]).code, Some(2));
    }
    let ran = asked(&["--as", "anonymous", "--request", "GET /closed/x", "-f", "json"]);
    assert_eq!(ran.json(), json!({"refused": {"status": 401, "reason": "credential_required"}}));
}

#[test]
fn all_routes_make_a_table() {
    let ran = asked(&["--as", "corp:alice", "--role", "reader", "--all-routes", "--param", "id=alice"]);
    assert_eq!(ran.code, Some(0), "{}", ran.notes);
    let want = "\
corp:alice
                        GET     HEAD    POST    PUT     PATCH   DELETE
orders v2 list-orders   /v2/orders       allow   allow   -       -       -       -
orders v2 create-order  /v2/orders       -       -       deny 1  -       -       -
orders v2 read-order    /v2/orders/{id}  allow   -       -       -       -       -
closed all              /closed/{*rest}  allow   allow   deny 1  deny 1  deny 1  deny 1
old all                 /old/{*rest}     deny 2  deny 2  deny 2  deny 2  deny 2  deny 2

1  not_yours (403)
2  api_retired (410)
";
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (mut got, mut want) = (lines(&ran.out), lines(want));
    // The head of the table is as wide as its columns.
    assert_eq!(got.remove(1).trim_start(), want.remove(1).trim_start());
    assert_eq!(got, want, "{}", ran.out);
    assert!(
        ran.notes.contains("note: left out: API `orders`, route `record-scan` does not accept `corp`"),
        "{}",
        ran.notes
    );
    assert!(ran.notes.contains("note: left out: API `devices` asks for all"), "{}", ran.notes);
    let ran = asked(&["--as", "corp:alice", "--all-routes", "--api", "orders", "-f", "json", "--fail"]);
    assert_eq!(ran.code, Some(2));
    let table = ran.json();
    assert_eq!(table["as"], "corp:alice");
    let want = json!({"api": "orders", "version": "v2", "route": "create-order", "path": "/v2/orders",
        "methods": {"POST": {"allow": false, "reason": "not_yours", "status": 403}}});
    assert_eq!(table["routes"][1], want);
    let whole = ["--as", "corp:ab", "--all-routes", "--api", "closed", "--param", "rest=a/b", "-f", "json"];
    assert_eq!(asked(&whole).json()["routes"][0]["methods"]["PUT"]["reason"], "not_yours");
    let own = asked(&["--as", "corp:id", "--all-routes", "--api", "orders", "-f", "json"]).json();
    assert_eq!(own["routes"][2]["methods"]["GET"], json!({"allow": true, "reason": "own"}));
}

#[test]
fn a_policy_that_fails_is_shown_as_such() {
    let root = root("package gateway\n\ndecision := true if input.request.method == \"GET\"\n");
    let arguments = ["--config", "gateway.yaml", "--as", "corp:a", "--all-routes", "--api", "orders"];
    let ran = eval(root.path(), &arguments);
    assert!(ran.out.contains("1  policy_error (503): the decision is undefined\n"), "{}", ran.out);
}

#[test]
fn what_does_not_go_together_is_refused_as_usage() {
    for arguments in [
        &["p", "--as", "corp:alice"][..],
        &["p", "--request", "/"],
        &["p", "--role", "r"],
        &["p", "--as", "corp:alice", "--request", "/", "--input", "i.json"],
        &["p", "--as", "corp", "--request", "/"],
        &["p", "--as", "corp:a", "--request", "orders"],
        &["p", "--as", "corp:a", "--all-routes"],
        &["p", "--config", "gateway.yaml", "--as", "corp:a", "--request", "/"],
        &["--config", "gateway.yaml"],
        &["--config", "gateway.yaml", "--as", "corp:a", "--request", "/", "--all-routes"],
        &["--config", "gateway.yaml", "--as", "corp:a", "--request", "/", "--route", "r"],
        &["--config", "gateway.yaml", "--as", "corp:a", "--request", "/", "--type", "jwt"],
        &["--config", "gateway.yaml", "--as", "corp:a", "--request", "/", "--query", "data.x"],
        &["p", "--as", "corp:a", "--request", "/", "--type", "saml"],
        &["p", "--as", "corp:a", "--request", "/", "--header", "nothing"],
        &["p", "--as", "corp:a", "--request", "/", "--source", "here"],
        &["p", "--as", "corp:a", "--request", "/", "--listener", "public"],
    ] {
        let root = root(ECHO);
        let ran = eval(root.path(), arguments);
        assert_eq!(ran.code, Some(64), "{arguments:?}: {} {}", ran.out, ran.notes);
        assert_eq!(ran.out, "");
    }
}

#[test]
fn a_bad_configuration_tells_all_its_faults() {
    let root = files(&[("gateway.yaml", "version: 1\nlisteners: 7\napis: x\n")]);
    let ran = eval(root.path(), &["--config", "gateway.yaml", "--as", "anonymous", "--all-routes"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.notes.contains("gateway.yaml:2:12") && ran.notes.contains("gateway.yaml:3:7"),
        "{}",
        ran.notes
    );
}
