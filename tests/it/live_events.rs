//! Decision events of a running gateway: one for every parsed request, of an exact shape, without a secret.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use crate::gateway::{ALLOW_ALL, TestGateway, eventually};
use crate::live_support::*;
use crate::wire::{RecordingUpstream, ask, connect, get, read_response};

#[test]
fn an_event_has_exactly_the_documented_members() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": input.request.method == \"GET\", \"reason\": \"reads\", \
        \"limits\": [{\"name\": \"l\", \"key\": input.api.name, \"rate\": \"5/1h\"}], \"labels\": {\"team\": \"pay\"}, \
        \"log\": {\"fields\": {\"n\": 1}}}\n";
    let config = plain_config(&upstream.url(), "labels: {app: orders}")
        .replace("name: all,", "name: all, version: v2, base_path: /v2,");
    let files = [("policy/main.rego", policy), ("policy/.manifest", r#"{"revision": "r7"}"#)];
    let gateway = TestGateway::start(&config, &files);
    let mut stream = connect(gateway.address("public"));
    let client = stream.local_addr().unwrap();
    let response = get_over(&mut stream, "gw.test", "/v2/a?b=c").unwrap();
    assert_eq!(response.status, 200);
    let mut event = gateway.events(1)[0].clone();
    let take = |event: &mut Value, pointer: &str| event.pointer_mut(pointer).unwrap().take();
    let id = take(&mut event, "/decision_id");
    assert_eq!(id.as_str().unwrap().as_bytes()[14], b'7', "a UUIDv7");
    let timestamp = take(&mut event, "/timestamp");
    assert!(
        timestamp.as_str().unwrap().parse::<jiff::Timestamp>().is_ok()
            && timestamp.as_str().unwrap().len() == 30
    );
    assert_eq!(take(&mut event, "/labels/id").as_str().unwrap().len(), 36);
    for timing in ["/metrics/timer_rego_query_eval_ns", "/metrics/timer_server_handler_ns"] {
        assert!(take(&mut event, timing).as_u64().unwrap() > 0, "{timing}");
    }
    let timings = take(&mut event, "/gateway/timings_us");
    let names: Vec<_> = timings.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["identity", "policy", "total", "upstream"]);
    let spent = |name: &str| timings[name].as_u64().unwrap();
    assert!(spent("total") >= spent("policy") + spent("upstream") && spent("upstream") > 0);
    let result = json!({"allow": true, "reason": "reads", "limits": [{"name": "l", "key": "all", "rate": "5/1h"}],
        "labels": {"team": "pay"}, "log": {"fields": {"n": 1}}});
    let want = json!({
        "labels": {"app": "orders", "team": "pay", "id": null, "version": env!("CARGO_PKG_VERSION")},
        "decision_id": null,
        "bundles": {"main": {"revision": "r7"}},
        "path": "gateway/decision",
        "input": {"request": {"method": "GET"}, "api": {"name": "all"}},
        "result": result,
        "requested_by": client.to_string(),
        "timestamp": null,
        "metrics": {"timer_rego_query_eval_ns": null, "timer_server_handler_ns": null},
        "gateway": {"listener": "public", "api": "all", "version": "v2", "route": "all", "method": "GET", "path": "/v2/a",
            "status": 200, "outcome": "allowed", "reason": "reads", "policy": "main",
            "upstream": upstream.url().trim_start_matches("http://"), "limits": [{"name": "l", "remaining": 4}],
            "response_bytes": 2, "fields": {"n": 1}, "timings_us": null},
    });
    assert_eq!(event, want);
}

#[test]
fn every_parsed_request_has_one_event_and_malformed_bytes_have_none() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": input.request.path != \"/deny\", \"limits\": [{\"name\": \"l\", \
        \"key\": input.request.path, \"rate\": \"1/1h\"}]}\n";
    let gateway = start(&upstream, policy, "");
    let address = gateway.address("public");
    let raw = |line: &str, headers: &str| {
        ask(address, format!("{line} HTTP/1.1\r\nHost: gw.test\r\n{headers}\r\n")).status
    };
    let statuses = [
        raw("GET /a", ""),
        raw("GET /a", ""),
        raw("GET /deny", ""),
        raw("GET /a%2fb", ""),
        raw("GET //a", ""),
        raw("TRACE /a", ""),
        raw("GET /a", "Connection: authorization\r\n"),
        raw("GET /a", "Bad_Name: 1\r\n"),
        raw("GET /a", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        raw("GET /last", ""),
    ];
    assert_eq!(statuses, [200, 429, 403, 400, 400, 501, 400, 400, 400, 200]);
    let events = gateway.events(8);
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (event["gateway"]["outcome"].as_str().unwrap(), event["gateway"]["status"].as_u64().unwrap())
        })
        .collect();
    let want = [
        ("allowed", 200),
        ("limited", 429),
        ("denied", 403),
        ("refused", 400),
        ("refused", 400),
        ("refused", 501),
        ("refused", 400),
        ("allowed", 200),
    ];
    assert_eq!(told, want);
    let ids: std::collections::BTreeSet<_> =
        events.iter().map(|event| event["decision_id"].to_string()).collect();
    assert_eq!(ids.len(), events.len(), "each has its own id");
    assert_eq!(events[3]["gateway"]["path"], "/a%2fb", "a refused path is told as it came");
}

#[test]
fn an_http2_request_that_is_parsed_and_refused_has_its_event() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, ALLOW_ALL, "");
    let address = gateway.address("public");
    block_on(async {
        let mut client = H2Client::plaintext(address).await;
        let request = http::Request::get("http://gw.test/a").header("x_user", "root").body(()).unwrap();
        assert_eq!(client.send(request, b"").await.unwrap().status(), 400);
    });
    let told = gateway.events(1)[0]["gateway"].clone();
    assert_eq!((&told["outcome"], &told["reason"]), (&json!("refused"), &json!("header_underscore")));
    assert_eq!(upstream.requests(), 0);
}

/// An upstream that answers with what the test sends it, when it sends it. An empty piece ends the connection.
fn scripted() -> (String, mpsc::Sender<&'static str>, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (script, pieces) = mpsc::channel::<&'static str>();
    let (asked, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut buffer = [0; 1024];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => head.extend_from_slice(&buffer[..read]),
                }
            }
            if asked.send(()).is_err() {
                return;
            }
            while let Ok(piece) = pieces.recv() {
                if piece.is_empty() || stream.write_all(piece.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    (url, script, requests)
}

#[test]
fn the_event_is_written_when_the_response_ends() {
    let (url, script, requests) = scripted();
    let gateway = TestGateway::start(&plain_config(&url, ""), &[("policy/main.rego", ALLOW_ALL)]);
    let log = || std::fs::read_to_string(gateway.path("decisions.jsonl")).unwrap_or_default();
    let mut stream = connect(gateway.address("public"));
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    requests.recv().unwrap();
    script.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"first") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert_eq!(log(), "", "half a response is no event");
    script.send("-last").unwrap();
    let mut rest = [0; 5];
    stream.read_exact(&mut rest).unwrap();
    let told = gateway.events(1)[0]["gateway"].clone();
    assert_eq!((&told["response_bytes"], &told["outcome"]), (&json!(10), &json!("allowed")));
}

#[test]
fn a_client_that_leaves_is_recorded() {
    let (url, script, requests) = scripted();
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"reason\": \"fine\"}\n";
    let gateway = TestGateway::start(&plain_config(&url, ""), &[("policy/main.rego", policy)]);
    let mut stream = connect(gateway.address("public"));
    stream.write_all(b"GET /early HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    requests.recv().unwrap();
    drop(stream);
    let told = gateway.events(1)[0]["gateway"].clone();
    assert_eq!((&told["status"], &told["outcome"]), (&json!(0), &json!("failed")));
    assert_eq!((&told["reason"], &told["aborted"]), (&json!("client_gone"), &json!(true)));

    // The next one leaves with half a response.
    script.send("").unwrap();
    let mut stream = connect(gateway.address("public"));
    stream.write_all(b"GET /late HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    requests.recv().unwrap();
    script.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").unwrap();
    stream.read_exact(&mut [0; 15]).unwrap();
    drop(stream);
    let told = gateway.events(2)[1]["gateway"].clone();
    assert_eq!(
        (&told["status"], &told["outcome"], &told["aborted"]),
        (&json!(200), &json!("failed"), &json!(true))
    );
    assert_eq!(told["reason"], "aborted");
    let failed = "postern_requests_total{listener=\"public\",api=\"all\",outcome=\"failed\",status=\"none\"}";
    assert_eq!(metric(&gateway, failed), Some(1));
}

#[test]
fn responses_without_a_body_are_complete() {
    for answer in [
        &b"HTTP/1.1 204 No Content\r\n\r\n"[..],
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let upstream = RecordingUpstream::answering(answer);
        let gateway = start(&upstream, ALLOW_ALL, "");
        let mut stream = connect(gateway.address("public"));
        stream.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 "));
        let event = gateway.events(1)[0].clone();
        assert_eq!(event["gateway"]["outcome"], "allowed", "{event}");
        assert!(event["gateway"].get("aborted").is_none());
    }
    let upstream = RecordingUpstream::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
    let gateway = start(&upstream, ALLOW_ALL, "");
    let mut stream = connect(gateway.address("public"));
    for count in 1..=2 {
        stream.write_all(b"HEAD / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
        assert!(read_head(&mut stream).to_ascii_lowercase().contains("content-length: 100"));
        let event = gateway.events(count)[count - 1].clone();
        assert_eq!(
            (&event["gateway"]["outcome"], event["gateway"].get("aborted")),
            (&json!("allowed"), None)
        );
    }
}

fn read_head(stream: &mut std::net::TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn no_secret_ever_gets_into_an_event() {
    let upstream = RecordingUpstream::answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: sid=canary-upstream\r\nLocation: /cb?code=canary-upstream\r\n\r\nok",
    );
    // It reads everything, and puts credentials into its result, as a policy that swaps tokens would.
    let policy = r#"package gateway

decision := {
	"allow": input.request.path != "/deny",
	"labels": {"size": sprintf("%v", [count(input)])},
	"upstream": {
		"headers": {"set": {"Authorization": "Bearer canary-result", "X-Api-Key": "canary-result"}},
		"query": {"set": {"access_token": "canary-result"}},
	},
	"response": {"headers": {"set": {"Set-Cookie": "s=canary-result"}}},
}

response := {"allow": count(input) > 0}
"#;
    let config = plain_config(
        &upstream.url(),
        "identity: {partners: {type: api_key, header: X-Partner-Id, keys: keys.yaml}}",
    )
    .replace("budget: 5s", "budget: 5s, response: gateway/response")
    .replace("upstream: up}]", "upstream: up, identity: [partners], on_bad_credential: fact}]");
    let keys = format!("keys:\n  - {{id: k, sha256: \"{}\", owner: acme}}\n", "0".repeat(64));
    let gateway = TestGateway::start(&config, &[("policy/main.rego", policy), ("keys.yaml", &keys)]);
    let headers = [
        "Authorization: Bearer {}",
        "Authorization: Basic {}",
        "Authorization: {}",
        "Proxy-Authorization: Basic {}",
        "Cookie: session={}; theme=dark",
        "X-Partner-Id: {}",
        "x-partner-id: {}",
        "X-Api-Key: {}",
        "X-Auth-Token: {}",
        "X-Csrf-Token: {}",
        "X-Amz-Security-Token: {}",
        "Ocp-Apim-Subscription-Key: {}",
        "X-Forwarded-Access-Token: {}",
        "X-Odd: Bearer {}",
        "Referer: https://app.test/?access_token={}",
    ];
    let queries = [
        "api_key={}",
        "access_token={}",
        "token={}&page=1",
        "password={}",
        "X-Amz-Signature={}",
        "client_secret=a&client_secret={}",
        "c%6fde={}",
    ];
    let mut asked = 0;
    for path in ["/allow", "/deny", "/a%2fb"] {
        for header in headers {
            let line = header.replace("{}", &format!("canary-{asked}"));
            let status = get(gateway.address("public"), path, &format!("{line}\r\n")).status;
            assert_eq!(
                status,
                if path == "/allow" {
                    200
                } else if path == "/deny" {
                    403
                } else {
                    400
                },
                "{line}"
            );
            asked += 1;
        }
        for query in queries {
            let query = query.replace("{}", &format!("canary-{asked}"));
            let status = get(gateway.address("public"), &format!("{path}?{query}"), "").status;
            assert!(matches!(status, 200 | 400 | 403), "{query}");
            asked += 1;
        }
    }
    let events = gateway.events(asked);
    assert!(events.iter().any(|event| event["input"]["request"]["headers"]["host"].is_null() && event["erased"].is_array()));
    let log = std::fs::read_to_string(gateway.path("decisions.jsonl")).unwrap();
    let leak = log.lines().find(|line| line.contains("canary"));
    assert_eq!(leak, None);
    let status = admin(&gateway, "/status").text() + &admin(&gateway, "/metrics").text();
    assert!(!status.contains("canary"));
}

#[test]
fn events_go_on_after_a_reload_that_moves_the_log() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, ALLOW_ALL, "reload: {watch: false}");
    assert_eq!(get(gateway.address("public"), "/1", "").status, 200);
    let first = gateway.events(1);
    let config = std::fs::read_to_string(gateway.path("gateway.yaml")).unwrap();
    gateway.write("gateway.yaml", &config.replace("path: decisions.jsonl", "path: other.jsonl"));
    gateway.running().reloader().reload().unwrap();
    assert_eq!(get(gateway.address("public"), "/2", "").status, 200);
    let moved = eventually("an event in the other file", || {
        let text = std::fs::read_to_string(gateway.path("other.jsonl")).ok()?;
        text.lines().next().map(|line| serde_json::from_str::<Value>(line).unwrap())
    });
    assert_eq!(moved["gateway"]["path"], "/2");
    assert_eq!(moved["labels"]["id"], first[0]["labels"]["id"], "the same process");
    assert_eq!(gateway.events(1).len(), 1);
    drop(read_response(&mut std::io::empty()));
}
