//! WebSocket through a running gateway: the handshake, the tunnel, and its event.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::gateway::{ALLOW_ALL, TestGateway};
use crate::live_support::*;
use crate::wire::{RecordingUpstream, connect, read_response};

const HANDSHAKE: &str = "Host: gw.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn config(url: &str) -> String {
    let routes = "routes: [{name: chat, path: /chat, websocket: true}, {name: rest, path: \"/{*rest}\"}]";
    plain_config(url, "")
        .replace("policy: main, upstream: up}]", &format!("policy: main, upstream: up, {routes}}}]"))
}

fn gateway(url: &str, policy: &str) -> TestGateway {
    TestGateway::start(&config(url), &[("policy/main.rego", policy)])
}

/// A server that echoes messages, and takes the subprotocol `b`.
async fn echo() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                #[expect(clippy::result_large_err, reason = "the library's own signature")]
                let choose = |request: &Request, mut response: Response| {
                    if request.headers().contains_key("sec-websocket-protocol") {
                        response.headers_mut().insert("sec-websocket-protocol", "b".parse().unwrap());
                    }
                    Ok(response)
                };
                let mut socket = tokio_tungstenite::accept_hdr_async(stream, choose).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn messages_pass_both_ways_and_the_event_is_written_at_the_end() {
    block_on(async {
        let upstream = echo().await;
        let gateway = gateway(&format!("http://{upstream}"), ALLOW_ALL);
        let address = gateway.address("public");
        let mut request = format!("ws://{address}/chat?room=1").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "a, b".parse().unwrap());
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "b");
        for size in [0, 5, 200_000] {
            socket.send(Message::binary(vec![7; size])).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().into_data().len(), size);
        }
        let log = gateway.path("decisions.jsonl");
        assert_eq!(std::fs::read_to_string(&log).unwrap_or_default(), "", "the tunnel has not ended");
        socket.close(None).await.unwrap();
        while socket.next().await.is_some() {}
        drop(socket);
        tokio::task::spawn_blocking(move || {
            let told = gateway.events(1)[0]["gateway"].clone();
            assert_eq!(
                (&told["status"], &told["outcome"], &told["route"]),
                (&json!(101), &json!("allowed"), &json!("chat"))
            );
            assert!(told.get("aborted").is_none(), "{told}");
            assert!(told["response_bytes"].as_u64().unwrap() > 200_000);
        })
        .await
        .unwrap();
    });
}

/// An upstream that switches protocols and then echoes raw bytes.
fn raw_echo(accept: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    head.push(byte[0]);
                }
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: {accept}\r\nX-Up: yes\r\n\r\nhello"
                );
                stream.write_all(answer.as_bytes()).unwrap();
                let mut buffer = [0; 1024];
                while let Ok(read) = stream.read(&mut buffer) {
                    if read == 0 || stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[test]
fn bytes_sent_right_after_the_handshake_are_not_lost() {
    let gateway = gateway(&raw_echo(ACCEPT), ALLOW_ALL);
    let mut stream = connect(gateway.address("public"));
    stream.write_all(format!("GET /chat HTTP/1.1\r\n{HANDSHAKE}\r\nearly").as_bytes()).unwrap();
    assert_eq!(read_response(&mut stream).unwrap().status, 101);
    stream.write_all(b"late").unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"helloearlylate");
}

#[test]
fn a_switch_that_does_not_answer_the_handshake_opens_no_tunnel() {
    let gateway = gateway(&raw_echo("AAAAALMBiTxaQ9kYGzzhZRbK+xO="), ALLOW_ALL);
    let mut stream = connect(gateway.address("public"));
    stream.write_all(format!("GET /chat HTTP/1.1\r\n{HANDSHAKE}\r\n").as_bytes()).unwrap();
    assert_eq!(read_response(&mut stream).unwrap().status, 502);
    assert_eq!(gateway.events(1)[0]["gateway"]["reason"], "upstream_bad_upgrade");
}

#[test]
fn the_response_phase_judges_a_switch_too() {
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"response\": {\"headers\": {\"set\": {\"X-Gateway\": \"1\"}, \
        \"remove\": [\"X-Up\"]}}}\n\nresponse := {\"allow\": input.request.headers.origin == \"https://good.test\", \"status\": 418} \
        if input.response.status == 101\n\nresponse := true if input.response.status != 101\n";
    let config = config(&raw_echo(ACCEPT)).replace("budget: 5s", "budget: 5s, response: gateway/response");
    let gateway = TestGateway::start(&config, &[("policy/main.rego", policy)]);
    for (origin, status) in [("https://good.test", 101), ("https://evil.test", 418)] {
        let mut stream = connect(gateway.address("public"));
        stream
            .write_all(format!("GET /chat HTTP/1.1\r\n{HANDSHAKE}Origin: {origin}\r\n\r\n").as_bytes())
            .unwrap();
        let response = read_response(&mut stream).unwrap();
        assert_eq!(response.status, status, "{origin}");
        if status == 101 {
            assert_eq!((response.header("x-gateway"), response.header("x-up")), (Some("1"), None));
        }
    }
}

#[test]
fn an_upstream_may_refuse_the_handshake() {
    let upstream = RecordingUpstream::answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let gateway = gateway(&upstream.url(), ALLOW_ALL);
    let mut stream = connect(gateway.address("public"));
    for _ in 0..2 {
        // The connection goes on: nothing was switched.
        stream.write_all(format!("GET /chat HTTP/1.1\r\n{HANDSHAKE}\r\n").as_bytes()).unwrap();
        let response = read_response(&mut stream).unwrap();
        assert_eq!((response.status, response.text().as_str()), (403, "no"));
    }
    assert!(upstream.received().to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n"));
    let events = gateway.events(2);
    assert!(
        events
            .iter()
            .all(|event| event["gateway"]["outcome"] == "allowed" && event["gateway"]["status"] == 403)
    );
}

#[test]
fn a_denied_handshake_never_reaches_the_upstream() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream.url(), "package gateway\n\ndecision := false\n");
    let mut stream = connect(gateway.address("public"));
    stream.write_all(format!("GET /chat HTTP/1.1\r\n{HANDSHAKE}\r\n").as_bytes()).unwrap();
    assert_eq!(read_response(&mut stream).unwrap().status, 403);
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn only_a_whole_handshake_on_a_route_for_it_is_passed_on() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream.url(), ALLOW_ALL);
    let requests = [
        format!("GET /other HTTP/1.1\r\n{HANDSHAKE}\r\n"),
        format!("POST /chat HTTP/1.1\r\n{HANDSHAKE}\r\n"),
        format!("GET /chat HTTP/1.1\r\n{}\r\n", HANDSHAKE.replace("Version: 13", "Version: 8")),
        format!("GET /chat HTTP/1.1\r\n{}\r\n", HANDSHAKE.replace("nonce", "").replace("dGhl", "")),
        format!("GET /chat HTTP/1.1\r\n{}\r\n", HANDSHAKE.replace("Upgrade: websocket", "Upgrade: h2c")),
    ];
    for request in requests {
        let mut stream = connect(gateway.address("public"));
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(read_response(&mut stream).unwrap().status, 200, "{request}");
    }
    assert!(!upstream.received().to_ascii_lowercase().contains("\r\nupgrade:"), "{}", upstream.received());
}

#[test]
fn a_client_that_vanishes_ends_the_tunnel() {
    let gateway = gateway(&raw_echo(ACCEPT), ALLOW_ALL);
    let mut stream = connect(gateway.address("public"));
    stream.write_all(format!("GET /chat HTTP/1.1\r\n{HANDSHAKE}\r\n").as_bytes()).unwrap();
    assert_eq!(read_response(&mut stream).unwrap().status, 101);
    drop(stream);
    assert_eq!(gateway.events(1)[0]["gateway"]["status"], 101);
}
