//! Upstreams behind a running gateway: what they get, what clients get of them, and how their failures are told apart.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::gateway::{ALLOW_ALL, TestGateway};
use crate::live_support::*;
use crate::wire::{RecordingUpstream, ask, get};

/// An address at which nobody listens.
fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The header lines of the first recorded request, in lower case.
fn received_headers(upstream: &RecordingUpstream) -> Vec<String> {
    let received = upstream.received();
    let head = received.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().skip(1).map(str::to_ascii_lowercase).collect()
}

#[test]
fn the_policy_edits_what_goes_upstream_and_what_comes_back() {
    let api = RecordingUpstream::start();
    let other = RecordingUpstream::answering(
        b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nServer: secret/1.0\r\nX-Frame-Options: none\r\n\
          X_Frame_Options: evil\r\nX-Many: up\r\n\r\nok",
    );
    let policy = r#"package gateway

decision := {
	"allow": true,
	"upstream": {
		"name": "other",
		"path": "/internal/caf%C3%A9",
		"headers": {
			"set": {"X-Tenant-Id": "acme", "Authorization": "Bearer internal"},
			"add": {"X-Tag": ["a", "b"]},
			"remove": ["Cookie"],
		},
		"query": {"set": {"tenant": "a&b"}, "remove": ["debug"]},
	},
	"response": {"headers": {"set": {"X-Frame-Options": "DENY"}, "add": {"X-Many": "gateway"}, "remove": ["Server"]}},
}
"#;
    let config = plain_config(&api.url(), "")
        .replace("}}\npolicies", &format!("}}, other: {{endpoints: [\"{}\"]}}}}\npolicies", other.url()));
    let gateway = TestGateway::start(&config, &[("policy/main.rego", policy)]);
    let headers = "X-Tenant-Id: evil\r\nX.Tenant.Id: evil\r\nAuthorization: Bearer client\r\nCookie: a=b\r\nX-Tag: client\r\nX-User: mallory\r\n";
    let response = get(gateway.address("public"), "/orders?debug=1&x=%7e&tenant=evil&debug", headers);
    assert_eq!(response.status, 201);
    assert_eq!(api.requests(), 0);
    let request_line = other.received().lines().next().unwrap().to_owned();
    assert_eq!(request_line, "GET /internal/caf%C3%A9?x=%7e&tenant=a%26b HTTP/1.1");
    let mut sent = received_headers(&other);
    sent.retain(|line| !line.starts_with("x-request-id: "));
    sent.sort();
    let want = [
        "authorization: bearer internal",
        "host: gw.test",
        "via: 1.1 postern",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: gw.test",
        "x-forwarded-proto: http",
        "x-tag: a",
        "x-tag: b",
        "x-tag: client",
        "x-tenant-id: acme",
    ];
    assert_eq!(sent, want);
    let names: Vec<_> = response.head.to_ascii_lowercase().lines().skip(1).map(str::to_owned).collect();
    assert!(!names.iter().any(|line| line.starts_with("server:") || line.contains("evil")), "{names:?}");
    assert!(names.contains(&"x-frame-options: deny".to_owned()));
    assert!(names.contains(&"x-many: up".to_owned()) && names.contains(&"x-many: gateway".to_owned()));
}

#[track_caller]
fn check_policy_error(result: &str) {
    let upstream = RecordingUpstream::start();
    // What can be known at load is refused there.
    let rule = format!("decision := d if {{ input.request.path; d := {result} }}");
    let gateway = start(&upstream, &format!("package gateway\n\n{rule}\n"), "");
    let response = get(gateway.address("public"), "/", "");
    assert_eq!((response.status, upstream.requests()), (503, 0), "{result}");
    assert_eq!(gateway.events(1)[0]["gateway"]["reason"], "policy_error", "{result}");
}

#[test]
fn edits_cannot_smuggle_another_request() {
    check_policy_error(r#"{"allow": true, "upstream": {"path": "/a/../b"}}"#);
    check_policy_error(r#"{"allow": true, "upstream": {"path": "a"}}"#);
    check_policy_error(r#"{"allow": true, "upstream": {"headers": {"set": {"x": "a\r\nb: c"}}}}"#);
    check_policy_error(
        r#"{"allow": true, "upstream": {"headers": {"set": {"Transfer-Encoding": "chunked"}}}}"#,
    );
    check_policy_error(r#"{"allow": true, "upstream": {"headers": {"set": {"Host": "elsewhere"}}}}"#);
    check_policy_error(r#"{"allow": true, "response": {"headers": {"set": {"Content-Length": "1"}}}}"#);
}

#[test]
fn a_path_with_a_question_mark_is_no_query() {
    let upstream = RecordingUpstream::start();
    let policy =
        "package gateway\n\ndecision := {\"allow\": true, \"upstream\": {\"path\": \"/a?admin=1\"}}\n";
    let gateway = start(&upstream, policy, "");
    let response = get(gateway.address("public"), "/", "");
    assert!(!upstream.received().contains("?admin"), "{}", upstream.received());
    assert!(response.status == 503 || upstream.received().starts_with("GET /a%3Fadmin=1 "), "{response:?}");
}

#[test]
fn an_upstream_that_does_not_exist_fails_closed() {
    let upstream = RecordingUpstream::start();
    let gateway = start(
        &upstream,
        "package gateway\n\ndecision := {\"allow\": true, \"upstream\": {\"name\": \"gone\"}}\n",
        "",
    );
    assert_eq!(get(gateway.address("public"), "/", "").status, 503);
    assert_eq!(upstream.requests(), 0);
    assert_eq!(gateway.events(1)[0]["gateway"]["reason"], "unknown_upstream");
}

#[test]
fn the_chain_of_proxies_is_believed_only_from_trusted_ones() {
    for (trusted, forwarded, source, scheme) in [
        ("[]", "127.0.0.1", "127.0.0.1", "http"),
        ("[127.0.0.0/8]", "203.0.113.7, 127.0.0.1", "203.0.113.7", "https"),
    ] {
        let upstream = RecordingUpstream::start();
        let policy = "package gateway\n\ndecision := {\"allow\": true, \"log\": {\"fields\": {\"ip\": input.source.ip, \
            \"scheme\": input.request.scheme}}}\n";
        let config = plain_config(&upstream.url(), "").replace(
            r#"address: "127.0.0.1:0"}]"#,
            &format!(r#"address: "127.0.0.1:0", trusted_proxies: {trusted}}}]"#),
        );
        let gateway = TestGateway::start(&config, &[("policy/main.rego", policy)]);
        let headers = "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 6.6.6.6\r\n\
            X-Forwarded-Host: evil\r\nForwarded: for=203.0.113.7\r\n";
        assert_eq!(get(gateway.address("public"), "/", headers).status, 200);
        let sent = received_headers(&upstream);
        assert!(sent.contains(&format!("x-forwarded-for: {forwarded}")), "{sent:?}");
        assert!(sent.contains(&format!("x-forwarded-proto: {scheme}")), "{sent:?}");
        assert!(sent.contains(&"x-forwarded-host: gw.test".to_owned()), "{sent:?}");
        assert!(!upstream.received().contains("6.6.6.6") && !upstream.received().contains("evil"));
        let fields = gateway.events(1)[0]["gateway"]["fields"].clone();
        assert_eq!(fields, json!({"ip": source, "scheme": scheme}));
    }
}

#[test]
fn a_request_that_comes_round_again_ends() {
    let upstream = RecordingUpstream::start();
    let gateway = start(&upstream, ALLOW_ALL, "reload: {watch: false}");
    // The gateway becomes its own upstream.
    let config = std::fs::read_to_string(gateway.path("gateway.yaml")).unwrap();
    gateway.write(
        "gateway.yaml",
        &config.replace(&upstream.url(), &format!("http://{}", gateway.address("public"))),
    );
    gateway.running().reloader().reload().unwrap();
    assert_eq!(get(gateway.address("public"), "/", "").status, 508);
    let statuses: Vec<_> = gateway.events(9).iter().map(|event| event["gateway"]["status"].clone()).collect();
    assert_eq!(statuses, vec![json!(508); 9]);
}

/// Status and reason of a GET whose upstream is at `url`.
fn failure(url: &str) -> (u16, Value) {
    let config = plain_config(url, "").replace(
        "endpoints:",
        "timeouts: {connect: 300ms, response: 300ms}, retries: {attempts: 0}, endpoints:",
    );
    let gateway = TestGateway::start(&config, &[("policy/main.rego", ALLOW_ALL)]);
    let response = get(gateway.address("public"), "/", "");
    let event = &gateway.events(1)[0];
    assert_eq!(event["gateway"]["outcome"], "failed");
    assert_eq!(event["gateway"]["status"], response.status);
    assert_eq!(
        metric(
            &gateway,
            &format!(
                "postern_refusals_total{{reason=\"{}\"}}",
                match response.status {
                    502 => "upstream_failed",
                    503 => "upstream_unavailable",
                    _ => "upstream_timeout",
                }
            )
        ),
        Some(1)
    );
    assert!(!response.text().contains("127.0.0.1"), "no internal address: {}", response.text());
    (response.status, event["gateway"]["reason"].clone())
}

#[test]
fn failures_of_upstreams_are_told_apart() {
    assert_eq!(failure(&format!("http://{}", dead())), (503, json!("upstream_connect_failed")));
    let garbage = RecordingUpstream::answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
    assert_eq!(failure(&garbage.url()), (502, json!("upstream_invalid_response")));
    let ambiguous = RecordingUpstream::answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    assert_eq!(failure(&ambiguous.url()), (502, json!("upstream_ambiguous_framing")));
    let silent = RecordingUpstream::answering(b"");
    assert_eq!(failure(&silent.url()), (504, json!("upstream_response_timeout")));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closing = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut head = [0; 64];
            let _length = stream.unwrap().read(&mut head).unwrap();
        }
    });
    assert_eq!(failure(&format!("http://{closing}")), (502, json!("upstream_connection_broken")));
    let switching = RecordingUpstream::answering(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(failure(&switching.url()), (502, json!("upstream_unexpected_upgrade")));
}

#[test]
fn a_response_that_breaks_off_is_cut_and_recorded() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _length = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").unwrap();
        }
    });
    let gateway = TestGateway::start(&plain_config(&url, ""), &[("policy/main.rego", ALLOW_ALL)]);
    let mut stream = crate::wire::connect(gateway.address("public"));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    // What has come so far may be passed on or not, but the connection ends before the length that was told.
    assert!(answer.is_empty() || answer.ends_with(b"half"), "{}", String::from_utf8_lossy(&answer));
    let told = gateway.events(1)[0]["gateway"].clone();
    assert_eq!((&told["outcome"], &told["aborted"]), (&json!("failed"), &json!(true)));
    assert_eq!((&told["reason"], &told["response_bytes"]), (&json!("upstream_body_broken"), &json!(4)));
}

#[test]
fn a_second_try_goes_to_another_endpoint() {
    let upstream = RecordingUpstream::start();
    let config = plain_config(&upstream.url(), "").replace(
        "endpoints: [",
        &format!(
            "balance: round_robin, retries: {{attempts: 1, budget: 1.0}}, endpoints: [\"http://{}\", ",
            dead()
        ),
    );
    let gateway = TestGateway::start(&config, &[("policy/main.rego", ALLOW_ALL)]);
    for _ in 0..4 {
        assert_eq!(send(gateway.address("public"), "POST", "/", "", "x").status, 200);
    }
    assert_eq!(upstream.requests(), 4);
    assert!(metric(&gateway, "postern_upstream_retries_total{upstream=\"up\"}").unwrap() >= 2);
}

/// A TLS upstream that asks for a client certificate, answering each request with `ok`.
fn tls_upstream(authority: &Authority) -> u16 {
    let issued = authority.server(&["orders.internal"]);
    let mut roots = RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![issued.der.clone()], rustls_pem_key(&issued.key))
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(session, stream.unwrap());
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                    let subject = stream.conn.peer_certificates().map_or(0, <[_]>::len);
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{subject}");
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    port
}

#[test]
fn an_upstream_may_want_the_gateways_certificate() {
    let authority = Authority::new("internal");
    let port = tls_upstream(&authority);
    let own = authority.client("gateway");
    let ca = authority.pem();
    let config = |tls: &str| {
        plain_config(&format!("https://127.0.0.1:{port}"), "").replace(
            "endpoints:",
            &format!("tls: {{ca: up.pem, server_name: orders.internal{tls}}}, endpoints:"),
        )
    };
    let files = [
        ("policy/main.rego", ALLOW_ALL),
        ("up.pem", ca.as_str()),
        ("own.pem", own.cert.as_str()),
        ("own.key", own.key.as_str()),
    ];
    let gateway = TestGateway::start(&config(", cert: own.pem, key: own.key"), &files);
    let response = get(gateway.address("public"), "/", "");
    assert_eq!((response.status, response.text().as_str()), (200, "1"));
    let without = TestGateway::start(&config(""), &files);
    assert!(matches!(get(without.address("public"), "/", "").status, 502 | 503));
}

/// An HTTP/2 upstream that speaks as a gRPC server: it echoes the body, and ends with trailers.
async fn grpc_upstream() -> (SocketAddr, tokio::sync::mpsc::Receiver<Request<()>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = tokio::sync::mpsc::channel(64);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::task::spawn_local(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let seen = seen.clone();
                    tokio::task::spawn_local(async move {
                        let (parts, mut body) = request.into_parts();
                        let mut bytes = Vec::new();
                        while let Some(Ok(chunk)) = body.data().await {
                            body.flow_control().release_capacity(chunk.len()).unwrap();
                            bytes.extend_from_slice(&chunk);
                        }
                        drop(seen.send(Request::from_parts(parts, ())).await);
                        let response =
                            Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut stream = respond.send_response(response, false).unwrap();
                        stream.send_data(Bytes::from(bytes), false).unwrap();
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("7"));
                        trailers.insert("grpc-message", HeaderValue::from_static("denied"));
                        stream.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    (address, requests)
}

#[test]
fn grpc_passes_with_its_trailers() {
    block_on(async {
        let (upstream, mut requests) = grpc_upstream().await;
        let config =
            plain_config(&format!("http://{upstream}"), "").replace("endpoints:", "protocol: h2, endpoints:");
        let gateway = TestGateway::start(&config, &[("policy/main.rego", ALLOW_ALL)]);
        let mut client = H2Client::plaintext(gateway.address("public")).await;
        let request = Request::post("http://grpc.test/pkg.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "1S")
            .body(())
            .unwrap();
        let response = client.send(request, b"\0\0\0\0\x03abc").await.unwrap();
        assert_eq!((response.status(), response.body.as_slice()), (200, &b"\0\0\0\0\x03abc"[..]));
        let trailers = response.trailers.unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"7".parse().unwrap(), &"denied".parse().unwrap())
        );
        assert_eq!(response.head.headers()["content-type"], "application/grpc");
        let seen = requests.recv().await.unwrap();
        assert_eq!(seen.uri(), "http://grpc.test/pkg.Service/Method");
        assert_eq!(
            (&seen.headers()["te"], &seen.headers()["grpc-timeout"]),
            (&"trailers".parse().unwrap(), &"1S".parse().unwrap())
        );
        assert_eq!(seen.headers()["via"], "2 postern");
        drop(client);
        tokio::task::spawn_blocking(move || {
            let event = gateway.events(1)[0].clone();
            assert_eq!(
                (&event["gateway"]["outcome"], &event["gateway"]["status"]),
                (&json!("allowed"), &json!(200))
            );
            assert!(event["gateway"].get("aborted").is_none());
        })
        .await
        .unwrap();
    });
}

#[test]
fn an_http1_client_and_an_http2_upstream_understand_each_other() {
    block_on(async {
        let (upstream, mut requests) = grpc_upstream().await;
        let config =
            plain_config(&format!("http://{upstream}"), "").replace("endpoints:", "protocol: h2, endpoints:");
        let gateway = TestGateway::start(&config, &[("policy/main.rego", ALLOW_ALL)]);
        let address = gateway.address("public");
        let response = tokio::task::spawn_blocking(move || {
            ask(
                address,
                "POST /a?b HTTP/1.1\r\nHost: gw.test:81\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            )
        });
        let response = response.await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "abc"));
        let seen = requests.recv().await.unwrap();
        assert_eq!(seen.uri(), "http://gw.test:81/a?b");
        assert!(!seen.headers().contains_key("transfer-encoding"));
        tokio::task::spawn_blocking(move || drop(gateway)).await.unwrap();
    });
}
