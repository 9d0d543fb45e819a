//! The hostile requests of `../shared/data/attacks`, HTTP/1 groups, against an upstream that records every byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use serde::Deserialize;

use crate::edge_support::{End, converse, gateway_with, head};
use crate::gateway::TestGateway;
use crate::wire::{RecordingUpstream, ask, get};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/attacks/cases.jsonl");
const EXCEPTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/data/attacks-exceptions.txt");

#[derive(Debug, Deserialize)]
struct Case {
    id: String,
    group: String,
    raw: Option<String>,
    #[serde(default)]
    status: Vec<u16>,
    #[serde(default)]
    conn_close: bool,
    upstream_requests: Option<usize>,
}

/// `/public` for everyone, `/admin` and `/healthz` for nobody, `/api` for administrators inside; the identity header is
/// the gateway's to set.
const BASE_POLICY: &str = r#"
package gateway

default decision := {"allow": false}

decision := {"allow": true, "upstream": {"headers": {"set": {"X-User": "anonymous"}}}} if public

decision := true if {
	input.api.route == "api"
	net.cidr_contains("10.0.0.0/8", input.source.ip)
	input.request.headers["x-role"] == "admin"
}

decision := {"allow": false, "status": 404} if input.api.route == "health"

public if input.api.route in {"public", "public-root", "ws"}
"#;

const BASE_APIS: &str = r#"
identity: {keys: {type: api_key, header: X-Api-Key, keys: keys.yaml}}
apis:
  - name: base
    hosts: [gw.test]
    policy: main
    upstream: up
    routes:
      - {name: public-root, path: /public, methods: [GET, HEAD, POST, PUT]}
      - {name: public, path: "/public/{*rest}", methods: [GET, HEAD, POST, PUT]}
      - {name: admin-root, path: /admin}
      - {name: admin, path: "/admin/{*rest}"}
      - {name: api, path: /api, identity: [keys]}
      - {name: health, path: /healthz}
      - {name: ws, path: /ws, methods: [GET], websocket: true}
"#;

const KEYS: &str = r#"keys: [{id: key-1, sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", owner: acme, roles: []}]
"#;

fn base(upstream: &str) -> TestGateway {
    gateway_with(upstream, "", BASE_POLICY, BASE_APIS, &[("keys.yaml", KEYS)])
}

/// What must not be in what the upstream got, by case; and `/admin` never.
fn forbidden(id: &str) -> &'static [&'static str] {
    match id {
        "SMG-061" | "SMG-064" => &["upgrade", "http2-settings", "connection:"],
        "HDR-007" => &["admin.test"],
        "HDR-008" | "HDR-009" | "HDR-010" => &["10.0.0.1"],
        "HDR-013" => &["admin", "root"],
        "HDR-015" => &["x.user"],
        "HDR-019" | "PATH-040" | "PATH-041" => &["evil"],
        "HDR-020" => &["proxy-", "keep-alive", "te:", "basic"],
        _ => &[],
    }
}

/// The bytes of a case whose input is told in words.
fn long_input(id: &str) -> Option<Vec<u8>> {
    let get = |target: String| head(&format!("GET {target}"), "").into_bytes();
    Some(match id {
        "SMG-040" => ["\r\n".repeat(10_000), head("GET /public", "")].concat().into_bytes(),
        "SMG-056" => {
            let trailer = format!("0\r\nX-Trailer: {}\r\n\r\n", "a".repeat(1 << 20));
            [head("POST /public", "Transfer-Encoding: chunked\r\n"), trailer].concat().into_bytes()
        }
        "PATH-036" => get(format!("/public{}", "/a".repeat(4096))),
        "PATH-047" => get(format!("/public?a=%2b+&=x&b&{}", "c&".repeat(10_000))),
        "HDR-022" => head("GET /public", &format!("X-A: {}\r\n", "a".repeat(70 << 10))).into_bytes(),
        "HDR-023" => head("GET /public", &format!("X-A: {}\r\n", "a".repeat(100)).repeat(5_000)).into_bytes(),
        _ => return None,
    })
}

/// The bytes of `raw`, whose escapes are those of Rust, and whose other characters are single bytes.
fn unescape(raw: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = raw.chars();
    while let Some(char) = rest.next() {
        let byte = match char {
            '\\' => match rest.next().unwrap() {
                'r' => b'\r',
                'n' => b'\n',
                't' => b'\t',
                '0' => 0,
                '\\' => b'\\',
                'x' => {
                    let digits: String = rest.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16).unwrap()
                }
                other => panic!("escape `{other}` in {raw}"),
            },
            plain => u8::try_from(plain).unwrap(),
        };
        bytes.push(byte);
    }
    bytes
}

/// Sends a case's bytes and says what is wrong with the outcome.
fn wrong(case: &Case, bytes: &[u8], gateway: &TestGateway, upstream: &RecordingUpstream) -> Option<String> {
    let before = upstream.received().len();
    let requests = upstream.requests();
    let mut stream = crate::wire::connect(gateway.address("public"));
    drop(stream.write_all(bytes));
    let status = match crate::wire::read_response(&mut stream) {
        Ok(response) => response.status,
        Err(error) => return Some(format!("no response: {error}")),
    };
    let good = if case.status.is_empty() { status < 500 } else { case.status.contains(&status) };
    if !good {
        return Some(format!("status {status} is not in {:?}", case.status));
    }
    if case.conn_close {
        let (rest, end) = crate::edge_support::read_to_end(&mut stream);
        if end == End::Open || !rest.is_empty() {
            return Some(format!("after the response {:?}, {end:?}", String::from_utf8_lossy(&rest)));
        }
    }
    let received = upstream.received()[before..].to_ascii_lowercase();
    if received.contains("/admin") {
        return Some(format!("the upstream saw {received:?}"));
    }
    if let Some(word) = forbidden(&case.id).iter().find(|word| received.contains(**word)) {
        return Some(format!("the upstream saw `{word}` in {received:?}"));
    }
    let got = upstream.requests() - requests;
    match case.upstream_requests {
        Some(wanted) if got != wanted => Some(format!("{got} requests at the upstream, not {wanted}")),
        _ => None,
    }
}

/// As [`wrong`], for the cases that are told as steps.
fn wrong_steps(case: &Case) -> Option<String> {
    let expect = |status: u16| {
        (!case.status.contains(&status)).then(|| format!("status {status} is not in {:?}", case.status))
    };
    match case.id.as_str() {
        "SMG-076" => {
            let both: &[u8] =
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
            let upstream = RecordingUpstream::answering(both);
            expect(get(base(&upstream.url()).address("public"), "/public", "").status)
        }
        "SMG-077" => {
            let two: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
            let upstream = RecordingUpstream::answering(two);
            let gateway = base(&upstream.url());
            let poisoned = (0..20).find(|_| get(gateway.address("public"), "/public", "").text() != "ok");
            poisoned.map(|at| format!("request {at} got another's response"))
        }
        "SMG-078" => {
            let gateway = base(&interim_flood());
            expect(get(gateway.address("public"), "/public", "").status)
        }
        "HDR-034" => expect(looping()),
        "HDR-035" => {
            let policy = "package gateway\n\ndecision := d if { input.request.path; d := {\"allow\": true, \"upstream\": {\"headers\": {\"set\": {\"x\": \"a\\r\\nb: c\"}}}} }\n";
            let upstream = RecordingUpstream::start();
            let gateway = gateway_with(&upstream.url(), "", policy, BASE_APIS, &[("keys.yaml", KEYS)]);
            let response = get(gateway.address("public"), "/public", "");
            assert_eq!((response.status, upstream.requests()), (503, 0));
            assert!(response.text().contains("policy_error"), "{}", response.text());
            expect(response.status)
        }
        _ => Some("there is no test of it".to_owned()),
    }
}

fn interim_flood() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            drop(stream.read(&mut buffer));
            let early = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
            while stream.write_all(early.as_bytes()).is_ok() {}
        }
    });
    format!("http://{address}")
}

/// The status that a gateway gives whose upstream is itself.
fn looping() -> u16 {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        r#"
version: 1
workers: 1
listeners: [{{name: public, address: "127.0.0.1:{port}"}}]
upstreams: {{up: {{endpoints: ["http://127.0.0.1:{port}"], retries: {{attempts: 0}}}}}}
policies: {{main: {{bundle: policy, decision: gateway/decision, budget: 5s}}}}
apis: [{{name: all, policy: main, upstream: up}}]
"#
    );
    let gateway = TestGateway::start(&config, &[("policy/main.rego", crate::gateway::ALLOW_ALL)]);
    get(gateway.address("public"), "/public", "").status
}

fn exceptions() -> BTreeMap<String, String> {
    let text = fs::read_to_string(EXCEPTIONS).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(id, reason)| (id.to_owned(), reason.to_owned()))
        .collect()
}

#[test]
fn every_hostile_request_is_answered_as_it_should_be() {
    if !Path::new(CASES).exists() {
        eprintln!("skipped: no {CASES}");
        return;
    }
    let text = fs::read_to_string(CASES).unwrap();
    let cases: Vec<Case> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Those that may reach the upstream in part are kept apart from those whose requests there are counted.
    let (counted, others) = (RecordingUpstream::start(), RecordingUpstream::start());
    let (counting, other) = (base(&counted.url()), base(&others.url()));
    let mut failed = BTreeMap::new();
    let mut seen = 0;
    for case in cases.iter().filter(|case| matches!(case.group.as_str(), "SMG" | "HDR" | "PATH")) {
        seen += 1;
        let bytes = case.raw.as_deref().map(unescape).or_else(|| long_input(&case.id));
        let outcome = match bytes {
            Some(bytes) if case.upstream_requests.is_some() => wrong(case, &bytes, &counting, &counted),
            Some(bytes) => wrong(case, &bytes, &other, &others),
            None => wrong_steps(case),
        };
        if let Some(wrong) = outcome {
            failed.insert(case.id.clone(), wrong);
        }
    }
    for upstream in [&counted, &others] {
        assert!(!upstream.received().contains("/admin"), "{}", upstream.received());
    }
    let listed = exceptions();
    let unlisted: BTreeMap<_, _> = failed.iter().filter(|(id, _)| !listed.contains_key(*id)).collect();
    assert!(unlisted.is_empty(), "{unlisted:#?}");
    let passing: BTreeSet<_> = listed.keys().filter(|id| !failed.contains_key(*id)).collect();
    assert!(passing.is_empty(), "listed as exceptions, but they pass: {passing:?}");
    assert!(seen > 80, "{seen}");
}

/// What a careless upstream makes of a path: decoded as often as it goes, slashes merged, parameters cut, dots resolved.
fn careless(path: &str) -> String {
    let mut text = path.split('?').next().unwrap().to_owned();
    for _ in 0..4 {
        text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
    }
    let text = text.replace('\\', "/").split('\0').next().unwrap().to_owned();
    let mut kept: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap() {
            "" | "." => {}
            ".." => drop(kept.pop()),
            plain => kept.push(plain),
        }
    }
    format!("/{}", kept.join("/"))
}

/// The precondition of the PATH group: everything is allowed but what the policy sees as `/admin`.
#[test]
fn a_careless_upstream_never_gets_to_a_path_that_the_policy_denies() {
    let upstream = RecordingUpstream::start();
    let policy = r#"
package gateway

default decision := true

decision := false if input.request.path == "/admin"
decision := false if startswith(input.request.path, "/admin/")
"#;
    let apis = "apis: [{name: all, policy: main, upstream: up}]";
    let gateway = gateway_with(&upstream.url(), "", policy, apis, &[]);
    let parts = [
        "/",
        "//",
        "/./",
        "/%2e/",
        "/%2f",
        "\\",
        "%5c",
        "/..;/",
        "/;a=b/",
        "/%00/",
        "/%20/",
        "/%09",
        "/x/../",
        "/x/%2e%2e/",
    ];
    let names = [
        "admin",
        "%61dmin",
        "%2561dmin",
        "a%64min",
        "admin;x",
        "admin%3bx",
        "admin%00",
        "admin.",
        "admin%23",
        "admin?",
        "admin%3f",
    ];
    for part in parts {
        for name in names {
            let target = format!("{part}{name}");
            let target = if target.starts_with('/') { target } else { format!("/{target}") };
            let response = ask(gateway.address("public"), head(&format!("GET {target}"), ""));
            assert!(matches!(response.status, 200 | 400 | 403), "{target}: {}", response.status);
        }
    }
    let lines = upstream.received();
    let reached: Vec<&str> =
        lines.lines().filter_map(|line| line.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")).collect();
    // Decoding twice is the upstream's own fault.
    let denied = reached.iter().filter(|path| !path.contains("%25") && careless(path) == "/admin");
    assert_eq!(denied.collect::<Vec<_>>(), Vec::<&&str>::new());
    assert!(!reached.is_empty(), "`/admin%23` and its like are allowed");
}

#[test]
fn a_host_that_is_not_served_has_no_routes() {
    let upstream = RecordingUpstream::start();
    let gateway = base(&upstream.url());
    for host in ["evil.test", "gw.test.evil.test", "127.0.0.1", "[::1]", "xgw.test"] {
        let response =
            ask(gateway.address("public"), format!("GET /public HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(response.status, 404, "{host}");
    }
    for host in ["gw.test", "GW.test.", "gw.test:1", "Gw.TeSt.:65535"] {
        let response =
            ask(gateway.address("public"), format!("GET /public HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(response.status, 200, "{host}");
    }
    for host in [
        "",
        " ",
        "gw.test,gw.test",
        "gw.test gw.test",
        "gw.test/",
        "gw.test:",
        "gw.test:0x50",
        "u:p@gw.test",
        "gw%2etest",
        "gw.test\t",
        "[::1",
        "[v1.x]",
        "*",
    ] {
        let (responses, end) = converse(
            gateway.address("public"),
            format!(
                "GET /public HTTP/1.1\r\nHost: {host}\r\n\r\nGET /admin HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n\r\n"
            ),
        );
        let good = host.trim() == "gw.test";
        assert_eq!(responses[0].status, if good { 200 } else { 400 }, "{host:?}");
        assert!(good || (responses.len(), end) == (1, End::Closed), "{host:?}: {responses:?} {end:?}");
    }
    assert_eq!(upstream.requests(), 5);
}
