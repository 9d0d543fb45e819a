//! The admin endpoint of a running gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};

use crate::gateway::{ALLOW_ALL, TestGateway, eventually};
use crate::live_support::*;
use crate::wire::{RawResponse, RecordingUpstream, ask, connect, get, read_response};

fn request(gateway: &TestGateway, line: &str, headers: &str) -> RawResponse {
    let address = gateway.running().admin().unwrap();
    ask(address, format!("{line} HTTP/1.1\r\n{headers}Content-Length: 0\r\n\r\n"))
}

fn local(gateway: &TestGateway, line: &str) -> RawResponse {
    request(gateway, line, "Host: localhost\r\n")
}

#[test]
fn each_page_answers_its_method() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, ALLOW_ALL, "");
    let health = local(&gateway, "GET /health");
    assert_eq!((health.status, health.text().trim()), (200, "{}"));
    let ready: Value = serde_json::from_slice(&local(&gateway, "GET /ready").body).unwrap();
    assert_eq!(ready, json!({"ready": true}));
    for line in ["GET /metrics", "GET /status", "HEAD /nothing"] {
        let want = if line.starts_with("GET") { 200 } else { 404 };
        if want == 200 {
            assert_eq!(local(&gateway, line).status, want, "{line}");
        }
    }
    assert_eq!(local(&gateway, "GET /").status, 404);
    for (line, allow) in [
        ("POST /health", "GET, HEAD"),
        ("DELETE /status", "GET, HEAD"),
        ("GET /reload", "POST"),
        ("PUT /rollback", "POST"),
    ] {
        let refused = local(&gateway, line);
        assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)), "{line}");
    }
    let posted = local(&gateway, "POST /reload");
    assert_eq!((posted.status, posted.text().trim()), (200, r#"{"reloaded":true}"#));
    assert_eq!(local(&gateway, "POST /rollback").status, 200);
}

#[test]
fn the_status_tells_what_is_in_force() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, ALLOW_ALL, "");
    assert_eq!(get(gateway.address("public"), "/", "").status, 200);
    gateway.events(1);
    let status: Value = serde_json::from_slice(&admin(&gateway, "/status").body).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["draining"], false);
    assert_eq!(status["snapshot"]["generation"], 1);
    assert_eq!(status["snapshot"]["revision"].as_str().unwrap().len(), 12);
    assert_eq!(status["policies"]["main"]["decision"], "gateway/decision");
    let endpoint = &status["upstreams"]["up"][0];
    assert_eq!(endpoint["endpoint"], upstream.url().trim_start_matches("http://"));
    assert_eq!((&endpoint["healthy"], &endpoint["in_flight"]), (&json!(true), &json!(0)));
    let log = &status["decision_logs"][0];
    assert_eq!((&log["health"], &log["dropped"]), (&json!("ok"), &json!(0)));

    let before = status["snapshot"]["revision"].clone();
    gateway.write("policy/more.rego", "package more\n");
    gateway.running().reloader().reload().unwrap();
    let status: Value = serde_json::from_slice(&admin(&gateway, "/status").body).unwrap();
    assert_eq!(status["snapshot"]["revision"], before, "the revision is the configuration file's");
}

#[test]
fn only_local_requests_for_a_loopback_host_are_answered() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, ALLOW_ALL, "");
    let check = |headers: &str, status: u16| {
        for line in ["GET /status", "POST /reload"] {
            assert_eq!(request(&gateway, line, headers).status, status, "{line} {headers}");
        }
    };
    for host in
        ["localhost", "LOCALHOST:9901", "127.0.0.1", "127.0.0.1:9901", "127.9.9.9", "[::1]", "[::1]:9901"]
    {
        check(&format!("Host: {host}\r\n"), 200);
    }
    for host in [
        "rebind.test",
        "rebind.test:9901",
        "localhost.rebind.test",
        "10.0.0.1",
        "127.0.0.1.rebind.test",
        "x@localhost",
        "",
    ] {
        check(&format!("Host: {host}\r\n"), 403);
    }
    check("Host: localhost\r\nOrigin: http://localhost:3000\r\n", 403);
    check("Host: localhost\r\nOrigin: null\r\n", 403);
    check("Host: localhost\r\nHost: localhost\r\n", 400);
    check("Host: localhost\r\nHost: rebind.test\r\n", 400);
}

#[test]
fn metrics_can_be_turned_off() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, ALLOW_ALL, "telemetry: {metrics: false}");
    assert_eq!(local(&gateway, "GET /metrics").status, 404);
    assert_eq!(local(&gateway, "GET /status").status, 200);
}

/// A sample's name, labels and value.
type Sample = (String, BTreeMap<String, String>, f64);

/// What a Prometheus server makes of the text (exposition format 0.0.4), or why it refuses it.
fn parse_metrics(text: &str) -> Result<(BTreeMap<String, String>, Vec<Sample>), String> {
    let mut kinds = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or(line)?;
            if help.is_empty() || !helped.insert(name.to_owned()) {
                return Err(format!("help: {line}"));
            }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or(line)?;
            let known = matches!(kind, "counter" | "gauge" | "histogram");
            if !known || !helped.contains(name) || kinds.insert(name.to_owned(), kind.to_owned()).is_some() {
                return Err(format!("type: {line}"));
            }
        } else {
            samples.push(parse_sample(line).ok_or_else(|| format!("sample: {line}"))?);
        }
    }
    Ok((kinds, samples))
}

fn parse_sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (_, '\\') => match chars.next()?.1 {
                        'n' => value.push('\n'),
                        c @ ('\\' | '"') => value.push(c),
                        _ => return None,
                    },
                    (at, '"') => break at + 1,
                    (_, c) => value.push(c),
                }
            };
            if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = &after[end..];
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',')?;
        }
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    is_name(name).then(|| (name.to_owned(), labels, value))
}

#[test]
fn the_metrics_are_what_prometheus_expects() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": input.request.path != \"/no\"}\n";
    let gateway = start(&upstream, policy, "");
    for path in ["/a", "/no", "/a%2f"] {
        get(gateway.address("public"), path, "");
    }
    gateway.events(3);
    let response = admin(&gateway, "/metrics");
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let (kinds, samples) = parse_metrics(&response.text()).unwrap();
    let names = [
        ("postern_build_info", "gauge"),
        ("postern_config_info", "gauge"),
        ("postern_config_reloads_total", "counter"),
        ("postern_connections_accepted_total", "counter"),
        ("postern_connections_open", "gauge"),
        ("postern_connections_refused_total", "counter"),
        ("postern_decision_log_events_total", "counter"),
        ("postern_limit_keys", "gauge"),
        ("postern_limit_keys_evicted_total", "counter"),
        ("postern_policy_decisions_total", "counter"),
        ("postern_policy_info", "gauge"),
        ("postern_refusals_total", "counter"),
        ("postern_requests_total", "counter"),
        ("postern_stage_duration_seconds", "histogram"),
        ("postern_task_panics_total", "counter"),
        ("postern_tls_handshakes_total", "counter"),
        ("postern_upstream_requests_total", "counter"),
        ("postern_upstream_retries_total", "counter"),
    ];
    let names: BTreeMap<String, String> =
        names.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
    let missing: Vec<_> = names.iter().filter(|(name, kind)| kinds.get(*name) != Some(*kind)).collect();
    assert!(missing.is_empty(), "{missing:?}");

    let mut seen = BTreeSet::new();
    for (name, labels, _) in &samples {
        assert!(seen.insert((name.clone(), labels.clone())), "twice: {name} {labels:?}");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            let family = name.strip_suffix(suffix)?;
            (kinds.get(family).map(String::as_str) == Some("histogram")).then_some(family)
        });
        assert!(kinds.contains_key(family.unwrap_or(name)), "{name} has no type");
    }
    let value = |name: &str, labels: &[(&str, &str)]| {
        let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        samples.iter().find(|sample| sample.0 == name && sample.1 == labels).map(|sample| sample.2)
    };
    let requests = |api, outcome, status| {
        value(
            "postern_requests_total",
            &[("listener", "public"), ("api", api), ("outcome", outcome), ("status", status)],
        )
    };
    assert_eq!(requests("all", "allowed", "2xx"), Some(1.0));
    assert_eq!(requests("all", "denied", "4xx"), Some(1.0));
    assert_eq!(requests("", "refused", "4xx"), Some(1.0));
    assert_eq!(value("postern_refusals_total", &[("reason", "path_encoded_separator")]), Some(1.0));
    let dropped = samples
        .iter()
        .filter(|sample| sample.0 == "postern_decision_log_events_total" && sample.1["result"] == "dropped");
    let dropped: Vec<_> = dropped.map(|sample| is(sample.2, 0)).collect();
    assert_eq!(dropped, [true], "one log, and it has lost nothing");
    check_histogram(&samples, "total", 3);
    check_histogram(&samples, "upstream", 1);
}

/// Counts are whole, so that there is nothing to round.
fn is(value: f64, want: u32) -> bool {
    (value - f64::from(want)).abs() < f64::EPSILON
}

/// Buckets that only grow, up to the count, and a sum.
fn check_histogram(samples: &[Sample], stage: &str, count: u32) {
    let of = |suffix: &str| {
        let name = format!("postern_stage_duration_seconds{suffix}");
        let of_stage = samples.iter().filter(move |sample| sample.0 == name && sample.1["stage"] == stage);
        of_stage.collect::<Vec<_>>()
    };
    let mut last = (f64::NEG_INFINITY, 0.0);
    for (_, labels, value) in of("_bucket") {
        let bound: f64 = labels["le"].parse().unwrap();
        assert!(bound > last.0 && *value >= last.1, "{stage} {bound}");
        last = (bound, *value);
    }
    assert!(last.0.is_infinite() && is(last.1, count), "{stage} {last:?}");
    assert!(is(of("_count")[0].2, count));
    assert!(of("_sum")[0].2 > 0.0);
}

#[test]
fn a_reload_counts_and_names_stay() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, ALLOW_ALL, "reload: {watch: false}");
    get(gateway.address("public"), "/", "");
    gateway.running().reloader().reload().unwrap();
    get(gateway.address("public"), "/", "");
    gateway.events(2);
    let series = "postern_requests_total{listener=\"public\",api=\"all\",outcome=\"allowed\",status=\"2xx\"}";
    assert_eq!(metric(&gateway, series), Some(2));
    assert_eq!(metric(&gateway, "postern_config_reloads_total{result=\"ok\"}"), Some(2));
}

#[test]
fn a_draining_gateway_is_alive_but_not_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut gateway = TestGateway::start(&plain_config(&url, ""), &[("policy/main.rego", ALLOW_ALL)]);
    let admin = gateway.running().admin().unwrap();
    let mut client = connect(gateway.address("public"));
    client.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    assert!(upstream.read(&mut [0; 1024]).unwrap() > 0);
    let stopping = thread::spawn(move || gateway.stop());
    let page = |path: &str| ask(admin, format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
    eventually("not ready", || (page("/ready").status == 503).then_some(()));
    assert_eq!(page("/health").status, 200);
    let status: Value = serde_json::from_slice(&page("/status").body).unwrap();
    assert_eq!(status["draining"], true);
    // The request in flight is answered, and only then it is over.
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    assert_eq!(read_response(&mut client).unwrap().status, 200);
    stopping.join().unwrap();
    assert!(std::net::TcpStream::connect(admin).is_err());
}
