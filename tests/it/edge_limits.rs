//! Every limit and timeout of a listener, with real sockets. The socket's own end is the clock: nothing sleeps.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::edge_support::{Answer, PREFACE, WINDOW_UPDATE};
use crate::edge_support::{
    DATA, End, GOAWAY, HEADERS, RawHttp2, TLS, TestTls, converse, gateway, gateway_with, get_fields, head,
    read_to_end, responses, statuses, timed,
};
use crate::gateway::{ALLOW_ALL, TestGateway, eventually};
use crate::wire::{RawResponse, RecordingUpstream, ask, connect, get, read_response};

/// Far longer than the timeouts tested, far shorter than the others' defaults.
const SOON: Duration = Duration::from_secs(5);

fn limited(limits: &str) -> (RecordingUpstream, TestGateway) {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream.url(), &format!(", limits: {{{limits}}}"), ALLOW_ALL);
    (upstream, gateway)
}

/// The reason that the gateway gives in its problem document.
fn reason(response: &RawResponse) -> String {
    let document: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    document["reason"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(gateway: &TestGateway, bytes: impl AsRef<[u8]>, status: u16, why: &str) {
    let (responses, end) = converse(gateway.address("public"), bytes);
    assert_eq!((statuses(&responses), end), (vec![status], End::Closed));
    assert_eq!(reason(&responses[0]), why);
    assert_eq!(responses[0].header("connection"), Some("close"));
}

#[test]
fn one_connection_too_many_is_closed_and_its_place_is_free_again_later() {
    let (_upstream, gateway) = limited("connections: 2");
    let address = gateway.address("public");
    let ok = |stream: &mut TcpStream| {
        stream.write_all(head("GET /", "").as_bytes()).is_ok()
            && read_response(stream).is_ok_and(|response| response.status == 200)
    };
    let (mut first, mut second) = (connect(address), connect(address));
    assert!(ok(&mut first) && ok(&mut second));
    let (bytes, end) = read_to_end(&mut connect(address));
    assert_eq!((bytes, end), (Vec::new(), End::Closed));
    assert!(ok(&mut first), "the others are not disturbed");
    drop(second);
    eventually("a free place", || ok(&mut connect(address)).then_some(()));
}

#[test]
fn a_head_is_bounded_in_bytes_and_fields() {
    let (upstream, gateway) = limited("header_bytes: 8KiB, headers: 10");
    let fill = |bytes: usize| head("GET /", &format!("X-A: {}\r\n", "a".repeat(bytes)));
    let fits = fill(8 * 1024 - fill(0).len());
    assert_eq!(ask(gateway.address("public"), &fits).status, 200);
    refused(&gateway, fill(8 * 1024 - fill(0).len() + 1), 431, "head_too_large");
    refused(&gateway, fill(1 << 20), 431, "head_too_large");
    refused(&gateway, format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000)), 431, "head_too_large");
    // Before the head is there: nobody waits for its end.
    refused(&gateway, format!("GET / HTTP/1.1\r\nX-A: {}", "a".repeat(9000)), 431, "head_too_large");
    let fields = |count: usize| head("GET /", &"X-A: 1\r\n".repeat(count));
    assert_eq!(ask(gateway.address("public"), fields(9)).status, 200);
    refused(&gateway, fields(10), 431, "too_many_headers");
    refused(&gateway, fields(500), 431, "too_many_headers");
    assert_eq!(upstream.requests(), 2);
}

#[test]
fn a_head_may_be_larger_where_the_listener_says_so() {
    let (upstream, gateway) = limited("header_bytes: 1MiB, headers: 1000");
    assert_eq!(
        ask(gateway.address("public"), head("GET /", &"X-Some: 1234567890\r\n".repeat(900))).status,
        200
    );
    let long = head("GET /", &format!("X-A: {}\r\n", "a".repeat(300 * 1024)));
    assert_eq!(ask(gateway.address("public"), long).status, 200);
    let target = format!("GET /?{}", "a".repeat(60 * 1024));
    assert_eq!(ask(gateway.address("public"), head(&target, "")).status, 200);
    assert_eq!(upstream.requests(), 3);
}

#[test]
fn heads_are_bounded_on_http2() {
    let (upstream, gateway) = limited("header_bytes: 8KiB, headers: 10");
    let value = "a".repeat(4000);
    let large = [("x-a", value.as_str()), ("x-b", &value), ("x-c", &value)];
    let many = [("x-a", "1"); 11];
    for more in [large.as_slice(), &many] {
        let mut client = RawHttp2::connect(gateway.address("public"), &[]);
        client.request(1, &get_fields("/", more), true);
        assert_eq!(client.answer(1), Answer::Status(431), "{} fields", more.len());
    }
    let crumbs = [("cookie", "a=1"); 11];
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    client.request(1, &get_fields("/", &crumbs), true);
    assert_eq!(client.answer(1), Answer::Status(431), "each crumb of a cookie counts");
    client.request(3, &get_fields("/", &many[..10]), true);
    assert_eq!(client.answer(3), Answer::Status(200));
    assert_eq!(upstream.requests(), 1);
}

/// An API of which one route takes larger bodies, and one smaller, than the listener says.
fn body_limits(policy: &str) -> (RecordingUpstream, TestGateway) {
    let upstream = RecordingUpstream::start();
    let apis = r#"
apis:
  - name: all
    policy: main
    upstream: up
    routes:
      - {name: large, path: /large, body_bytes: 4KiB}
      - {name: small, path: /small, body_bytes: 10}
      - {name: rest, path: "/{*rest}"}
"#;
    let gateway = gateway_with(&upstream.url(), ", limits: {body_bytes: 1KiB}", policy, apis, &[]);
    (upstream, gateway)
}

fn post(path: &str, length: usize) -> String {
    head(&format!("POST {path}"), &format!("Content-Type: text/plain\r\nContent-Length: {length}\r\n"))
        + &"b".repeat(length)
}

fn post_chunked(path: &str, length: usize) -> String {
    let body = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "b".repeat(length));
    head(&format!("POST {path}"), "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n") + &body
}

#[test]
fn bodies_are_bounded_declared_or_not_and_read_by_the_policy_or_not() {
    let reading = "package gateway\n\ndecision := {\"allow\": true, \"labels\": {\"state\": input.request.body_state}}\n";
    for policy in [ALLOW_ALL, reading] {
        let (upstream, gateway) = body_limits(policy);
        let address = gateway.address("public");
        for (path, limit) in [("/any", 1024), ("/large", 4096), ("/small", 10)] {
            assert_eq!(ask(address, post(path, limit)).status, 200, "{path}");
            assert_eq!(ask(address, post_chunked(path, limit)).status, 200, "{path}");
            let declared = upstream.requests();
            refused(&gateway, post(path, limit + 1), 413, "body_too_large");
            assert_eq!(upstream.requests(), declared, "what is declared too large is never begun");
            refused(&gateway, post_chunked(path, limit + 1), 413, "body_too_large");
        }
        // No end is waited for.
        let endless = head("POST /any", "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n");
        refused(&gateway, format!("{endless}500\r\n{}", "b".repeat(0x500)), 413, "body_too_large");
        refused(&gateway, head("POST /any", "Content-Length: 999999999999999\r\n"), 413, "body_too_large");
    }
}

#[test]
fn bodies_are_bounded_on_http2() {
    let (_upstream, gateway) = body_limits(ALLOW_ALL);
    let post = |more| {
        let mut fields = get_fields("/any", more);
        fields[0] = (":method", "POST");
        fields
    };
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    client.request(1, &post(&[("content-length", "1025")]), false);
    assert_eq!(client.answer(1), Answer::Status(413));
    client.request(3, &post(&[]), false);
    client.send(DATA, 0, 3, &[b'b'; 1025]).unwrap();
    assert_eq!(client.answer(3), Answer::Status(413));
    client.request(5, &post(&[]), false);
    client.send(DATA, 1, 5, &[b'b'; 1024]).unwrap();
    assert_eq!(client.answer(5), Answer::Status(200));
}

#[test]
fn a_policy_may_take_smaller_bodies() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"max_body\": 100}\n";
    let gateway = gateway(&upstream.url(), "", policy);
    assert_eq!(ask(gateway.address("public"), post("/", 100)).status, 200);
    refused(&gateway, post("/", 101), 413, "body_too_large");
    refused(&gateway, post_chunked("/", 101), 413, "body_too_large");
}

#[test]
fn a_handshake_has_its_time() {
    let upstream = RecordingUpstream::start();
    let tls = TestTls::new();
    let listener = format!("{TLS}, limits: {{handshake_timeout: 200ms}}");
    let gateway = gateway_with(
        &upstream.url(),
        &listener,
        ALLOW_ALL,
        "apis: [{name: all, policy: main, upstream: up}]",
        &tls.files(),
    );
    for hello in [b"".as_slice(), b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = connect(gateway.address("public"));
        stream.write_all(hello).unwrap();
        let ((bytes, end), took) = timed(|| read_to_end(&mut stream));
        assert_eq!((bytes, end), (Vec::new(), End::Closed));
        assert!(took > Duration::from_millis(150) && took < SOON, "{took:?}");
    }
    let mut good = tls.connect(gateway.address("public"), &["http/1.1"]);
    good.write_all(head("GET /", "").as_bytes()).unwrap();
    assert_eq!(read_response(&mut good).unwrap().status, 200);
}

#[test]
fn a_connection_that_sends_nothing_is_closed() {
    for protocols in ["[h2, http/1.1]", "[http/1.1]", "[h2]"] {
        let upstream = RecordingUpstream::start();
        let listener =
            format!(", protocols: {protocols}, limits: {{header_timeout: 200ms, body_timeout: 300ms}}");
        let gateway = gateway(&upstream.url(), &listener, ALLOW_ALL);
        let ((bytes, end), took) = timed(|| read_to_end(&mut connect(gateway.address("public"))));
        assert_eq!(end, End::Closed, "{protocols}");
        assert!(protocols == "[h2]" || bytes.is_empty(), "{bytes:?}");
        assert!(took > Duration::from_millis(150) && took < SOON, "{protocols}: {took:?}");
    }
}

#[test]
fn half_a_head_gets_408_in_its_time() {
    let (upstream, gateway) = limited("header_timeout: 200ms, idle_timeout: 1h");
    for part in [
        "G",
        "GET",
        "PRI * HTTP/2",
        "GET / HTTP/1.1\r\nHost: gw",
        "GET / HTTP/1.1\r\nHost: gw.test\r\n",
        "\r\nG",
    ] {
        let ((responses, end), took) = timed(|| converse(gateway.address("public"), part));
        assert_eq!((statuses(&responses), end), (vec![408], End::Closed), "{part:?}");
        assert!(took > Duration::from_millis(150) && took < SOON, "{part:?}: {took:?}");
    }
    assert_eq!(upstream.requests(), 0);
}

/// Sends `piece` again and again, as long as the gateway takes it, waiting a little for it to close each time.
fn drip(stream: &mut TcpStream, piece: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = Vec::new();
    for _ in 0..500 {
        let sent = stream.write_all(piece);
        let (more, end) = read_to_end(stream);
        bytes.extend(more);
        if end != End::Open || sent.is_err() {
            return bytes;
        }
    }
    panic!("the drip is never cut off");
}

#[test]
fn a_head_that_drips_gets_no_more_time() {
    let (_upstream, gateway) = limited("header_timeout: 300ms");
    let mut stream = connect(gateway.address("public"));
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let (bytes, took) = timed(|| drip(&mut stream, b"X-A: 1\r\n"));
    assert!(bytes.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&bytes));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn the_next_head_on_a_kept_connection_has_its_time_from_its_first_byte() {
    let (_upstream, gateway) = limited("header_timeout: 300ms, idle_timeout: 1h");
    let mut stream = connect(gateway.address("public"));
    // The second head begins in the same bytes as the first one's body ends.
    for end in ["", "abcGET /two HT"] {
        stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        let request = if end.is_empty() {
            head("GET /one", "")
        } else {
            head("POST /one", "Content-Length: 3\r\n") + end
        };
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(read_response(&mut stream).unwrap().status, 200);
        if end.is_empty() {
            // Longer than a head may take, and shorter than a connection may be idle.
            let (bytes, end) = read_to_end(&mut stream);
            assert_eq!((bytes.len(), end), (0, End::Open));
        }
    }
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"TP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    assert_eq!(read_response(&mut stream).unwrap().status, 200, "the head had only just begun");
    stream.write_all(b"GET /three").unwrap();
    let ((responses, end), took) = timed(|| responses(&mut stream));
    assert_eq!((statuses(&responses), end), (vec![408], End::Closed));
    assert!(took > Duration::from_millis(250), "{took:?}");
}

#[test]
fn an_idle_connection_is_closed_in_its_time() {
    let (_upstream, gateway) = limited("idle_timeout: 200ms, header_timeout: 1h, body_timeout: 1h");
    let mut stream = connect(gateway.address("public"));
    for _ in 0..3 {
        stream.write_all(head("GET /", "").as_bytes()).unwrap();
        assert_eq!(read_response(&mut stream).unwrap().status, 200);
    }
    let ((bytes, end), took) = timed(|| read_to_end(&mut stream));
    assert_eq!((bytes, end), (Vec::new(), End::Closed));
    assert!(took > Duration::from_millis(150) && took < SOON, "{took:?}");
}

#[test]
fn an_idle_http2_connection_is_told_to_go_in_its_time() {
    let (_upstream, gateway) = limited("idle_timeout: 200ms, header_timeout: 1h, body_timeout: 400ms");
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    client.request(1, &get_fields("/", &[]), true);
    assert_eq!(client.answer(1), Answer::Status(200));
    let (goaway, took) = timed(|| client.read_until(|frame| frame.kind == GOAWAY).unwrap());
    assert_eq!(goaway.payload[4..8], [0; 4], "no error");
    assert!(took > Duration::from_millis(150) && took < SOON, "{took:?}");
    let (end, took) = timed(|| read_to_end(&mut client.stream).1);
    assert!(end != End::Open && took < SOON, "{end:?} {took:?}: whether it answers or not");
}

#[test]
fn an_http2_connection_without_a_request_is_closed() {
    let (_upstream, gateway) = limited("header_timeout: 200ms, body_timeout: 300ms");
    let unfinished_headers =
        [PREFACE, &crate::edge_support::frame(4, 0, 0, &[]), &[0, 0, 9, HEADERS, 0, 0, 0, 0, 1]].concat();
    let settings_only = [PREFACE, &crate::edge_support::frame(4, 0, 0, &[])].concat();
    for bytes in [PREFACE, &settings_only, &unfinished_headers, &PREFACE[..20]] {
        let mut stream = connect(gateway.address("public"));
        stream.write_all(bytes).unwrap();
        let ((_, end), took) = timed(|| read_to_end(&mut stream));
        assert!(end != End::Open, "{bytes:?}");
        assert!(took > Duration::from_millis(150) && took < SOON, "{bytes:?}: {took:?}");
    }
}

#[test]
fn a_tls_http2_connection_that_says_nothing_is_closed() {
    let upstream = RecordingUpstream::start();
    let tls = TestTls::new();
    let listener = format!("{TLS}, limits: {{header_timeout: 200ms, body_timeout: 200ms}}");
    let apis = "apis: [{name: all, policy: main, upstream: up}]";
    let gateway = gateway_with(&upstream.url(), &listener, ALLOW_ALL, apis, &tls.files());
    let mut stream = tls.connect(gateway.address("public"), &["h2"]);
    let (end, took) = timed(|| {
        let mut buffer = [0; 1024];
        while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    let () = end;
    assert!(took > Duration::from_millis(150) && took < SOON, "{took:?}");
}

#[test]
fn a_body_that_stalls_or_drips_gets_408() {
    let reading = "package gateway\n\ndecision := input.request.body != \"x\"\n";
    for policy in [ALLOW_ALL, reading] {
        let upstream = RecordingUpstream::start();
        let gateway = gateway(&upstream.url(), ", limits: {body_timeout: 300ms}", policy);
        let begun = head("POST /", "Content-Type: text/plain\r\nContent-Length: 5000\r\n") + "some";
        let ((responses, end), took) = timed(|| converse(gateway.address("public"), &begun));
        assert_eq!((statuses(&responses), end), (vec![408], End::Closed));
        assert!(took > Duration::from_millis(250) && took < SOON, "{took:?}");
        let mut stream = connect(gateway.address("public"));
        stream.write_all(begun.as_bytes()).unwrap();
        let (bytes, took) = timed(|| drip(&mut stream, b"a"));
        assert!(bytes.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&bytes));
        assert!(took < SOON, "{took:?}");
    }
}

#[test]
fn a_body_that_comes_slowly_but_steadily_is_taken() {
    let (upstream, gateway) = limited("body_timeout: 200ms");
    let mut stream = connect(gateway.address("public"));
    stream.write_all(head("POST /", "Content-Length: 20480\r\n").as_bytes()).unwrap();
    // Twenty pieces, each awaited at the upstream: longer than the timeout in all, and none of them late.
    for piece in 1..=20 {
        stream.write_all(&[b'a'; 1024]).unwrap();
        eventually("the piece", || (upstream.received().len() > piece * 1024).then_some(()));
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        assert!(piece == 20 || read_to_end(&mut stream).1 == End::Open);
    }
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(read_response(&mut stream).unwrap().status, 200);
}

#[test]
fn a_stalled_http2_body_gets_408() {
    let (_upstream, gateway) = limited("body_timeout: 300ms");
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    let mut fields = get_fields("/", &[]);
    fields[0] = (":method", "POST");
    client.request(1, &fields, false);
    client.send(DATA, 0, 1, b"some").unwrap();
    let (answer, took) = timed(|| client.answer(1));
    assert_eq!(answer, Answer::Status(408));
    assert!(took > Duration::from_millis(250) && took < SOON, "{took:?}");
    client.request(3, &get_fields("/", &[]), true);
    assert_eq!(client.answer(3), Answer::Status(200), "the other streams go on");
}

#[test]
fn a_stream_too_many_is_refused() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let gateway = gateway(&url, ", limits: {streams: 3}", ALLOW_ALL);
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    let settings = client.read_until(|frame| frame.kind == 4 && frame.flags == 0).unwrap();
    assert!(settings.payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 3]), "{settings:?}");
    for stream in [1, 3, 5, 7, 9] {
        client.request(stream, &get_fields("/", &[]), true);
    }
    assert_eq!(client.answer(7), Answer::Reset(7));
    assert_eq!(client.answer(9), Answer::Reset(7));
}

/// An upstream that answers with more than all buffers on the way hold, and says whether it could send all.
fn endless() -> (String, std::sync::mpsc::Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (gone, is_gone) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            drop(stream.read(&mut buffer));
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"));
            while stream.write_all(&[b'x'; 16 * 1024]).is_ok() {}
            let _test_is_over = gone.send(()).is_err();
        }
    });
    (url, is_gone)
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let (url, upstream_gone) = endless();
    let gateway = gateway(&url, ", limits: {body_timeout: 300ms}", ALLOW_ALL);
    let mut stream = connect(gateway.address("public"));
    stream.write_all(head("GET /", "").as_bytes()).unwrap();
    upstream_gone.recv_timeout(SOON).unwrap();
    assert_eq!(read_to_end(&mut stream).1, End::Reset);
    let event = &gateway.events(1)[0]["gateway"];
    assert_eq!((&event["outcome"], &event["reason"]), (&"failed".into(), &"aborted".into()));
}

#[test]
fn an_http2_client_that_opens_no_window_is_cut_off() {
    let (url, upstream_gone) = endless();
    let gateway = gateway(&url, ", limits: {body_timeout: 300ms, idle_timeout: 1h}", ALLOW_ALL);
    // Windows of nothing, of a byte, and of the default size, never opened further.
    for settings in [[(4, 0)].as_slice(), &[(4, 1)], &[]] {
        let mut client = RawHttp2::connect(gateway.address("public"), settings);
        client.request(1, &get_fields("/", &[]), true);
        assert_eq!(client.answer(1), Answer::Status(200));
        upstream_gone.recv_timeout(SOON).unwrap_or_else(|_| panic!("{settings:?}"));
        while client.read().is_some() {}
    }
    // A small answer of the gateway's own needs a window as well.
    let policy = "package gateway\n\ndecision := false\n";
    let gateway =
        crate::edge_support::gateway(&url, ", limits: {body_timeout: 300ms, idle_timeout: 1h}", policy);
    let mut client = RawHttp2::connect(gateway.address("public"), &[(4, 0)]);
    client.request(1, &get_fields("/", &[]), true);
    assert_eq!(client.answer(1), Answer::Status(403));
    let ((), took) = timed(|| while client.read().is_some() {});
    assert!(took < SOON, "{took:?}");
}

#[test]
fn a_window_opened_by_the_byte_is_cut_off() {
    let (url, upstream_gone) = endless();
    let gateway = gateway(&url, ", limits: {body_timeout: 300ms}", ALLOW_ALL);
    let mut client = RawHttp2::connect(gateway.address("public"), &[(4, 0)]);
    client.request(1, &get_fields("/", &[]), true);
    assert_eq!(client.answer(1), Answer::Status(200));
    while client.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).is_ok() {}
    upstream_gone.recv_timeout(SOON).unwrap();
}

#[test]
fn who_may_not_connect_is_refused_before_tls() {
    let upstream = RecordingUpstream::start();
    let tls = TestTls::new();
    let apis = "apis: [{name: all, policy: main, upstream: up}]";
    for listener in [TLS, ""] {
        let listener = format!("{listener}, allow_from: [10.0.0.0/8, \"::1/128\"]");
        let gateway = gateway_with(&upstream.url(), &listener, ALLOW_ALL, apis, &tls.files());
        let (bytes, end) = read_to_end(&mut connect(gateway.address("public")));
        assert_eq!((bytes, end), (Vec::new(), End::Closed));
    }
    let gateway = gateway(&upstream.url(), ", allow_from: [127.0.0.0/8]", ALLOW_ALL);
    assert_eq!(get(gateway.address("public"), "/", "").status, 200);
    assert_eq!(upstream.requests(), 1);
}

/// Tells the client what the policy sees of its address.
const ECHO_SOURCE: &str = r#"
package gateway

chain := concat(",", object.get(input.source, "forwarded_for", []))

decision := {"allow": false, "status": 418, "headers": {"X-Ip": input.source.ip, "X-Chain": chain, "X-Scheme": input.request.scheme}}
"#;

#[test]
fn only_trusted_proxies_say_who_the_client_is() {
    let upstream = RecordingUpstream::start();
    let forged = "X-Forwarded-For: 203.0.113.7, 10.1.1.1\r\nX-Forwarded-Proto: https\r\n";
    let see = |gateway: &TestGateway, headers: &str| {
        let response = get(gateway.address("public"), "/", headers);
        let header = |name| response.header(name).unwrap_or_default().to_owned();
        (header("x-ip"), header("x-chain"), header("x-scheme"))
    };
    let untrusting = gateway(&upstream.url(), ", trusted_proxies: [10.0.0.0/8]", ECHO_SOURCE);
    assert_eq!(see(&untrusting, forged), ("127.0.0.1".into(), String::new(), "http".into()));
    let trusting = gateway(&upstream.url(), ", trusted_proxies: [127.0.0.1, 10.0.0.0/8]", ECHO_SOURCE);
    assert_eq!(see(&trusting, forged), ("203.0.113.7".into(), "203.0.113.7,10.1.1.1".into(), "https".into()));
    let spoofed = "X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-For: 198.51.100.1\r\n";
    assert_eq!(see(&trusting, spoofed), ("198.51.100.1".into(), "198.51.100.1".into(), "http".into()));
    let standard = "Forwarded: for=10.9.9.9, for=\"[2001:db8::1]:80\";proto=https\r\n";
    assert_eq!(see(&trusting, standard), ("2001:db8::1".into(), "2001:db8::1".into(), "https".into()));
    let both = "X-Forwarded-For: 203.0.113.7\r\nForwarded: for=10.9.9.9\r\n";
    let response = get(trusting.address("public"), "/", both);
    assert_eq!((response.status, reason(&response).as_str()), (400, "forwarded_conflict"));
}

#[test]
fn the_upstream_is_told_who_the_client_is_by_the_gateway_alone() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream.url(), "", ALLOW_ALL);
    let forged = "X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\n";
    assert_eq!(get(gateway.address("public"), "/", forged).status, 200);
    let seen = upstream.received().to_ascii_lowercase();
    assert!(!seen.contains("10.0.0.1") && !seen.contains("mine"), "{seen}");
    for line in [
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: gw.test\r\n",
        "via: 1.1 postern\r\n",
    ] {
        assert_eq!(seen.matches(line).count(), 1, "{line} in {seen}");
    }
}

#[test]
fn slashes_and_parameters_are_taken_where_the_listener_says_so() {
    let upstream = RecordingUpstream::start();
    let strict = gateway(&upstream.url(), "", ALLOW_ALL);
    let lenient = gateway(&upstream.url(), ", merge_slashes: true, path_parameters: true", ALLOW_ALL);
    for path in ["/a//b", "/a/./b", "/a/c/../b", "/a;x=1/b"] {
        assert_eq!(get(strict.address("public"), path, "").status, 400, "{path}");
    }
    assert_eq!(upstream.requests(), 0);
    for path in ["/a//b", "/a/./b", "/a/c/../b"] {
        assert_eq!(get(lenient.address("public"), path, "").status, 200, "{path}");
    }
    assert_eq!(upstream.received().matches("GET /a/b HTTP/1.1\r\n").count(), 3);
    assert_eq!(get(lenient.address("public"), "/a;x=1/b", "").status, 200);
    assert!(upstream.received().contains("GET /a;x=1/b HTTP/1.1\r\n"));
    for path in ["/../b", "/a/%2e%2e/b", "/a%2fb", "/a\\b"] {
        assert_eq!(get(lenient.address("public"), path, "").status, 400, "{path}");
    }
}

#[test]
fn a_listener_speaks_only_its_protocols() {
    let upstream = RecordingUpstream::start();
    let tls = TestTls::new();
    let apis = "apis: [{name: all, policy: main, upstream: up}]";
    let start = |listener: &str| gateway_with(&upstream.url(), listener, ALLOW_ALL, apis, &tls.files());
    let only_http2 = start(", protocols: [h2]");
    let (bytes, end) = {
        let mut stream = connect(only_http2.address("public"));
        stream.write_all(head("GET /", "").as_bytes()).unwrap();
        read_to_end(&mut stream)
    };
    assert!(end != End::Open && !bytes.starts_with(b"HTTP/1"), "{bytes:?}");
    let mut client = RawHttp2::connect(only_http2.address("public"), &[]);
    client.request(1, &get_fields("/", &[]), true);
    assert_eq!(client.answer(1), Answer::Status(200));

    let only_http1 = start(", protocols: [http/1.1]");
    let (responses, end) = converse(only_http1.address("public"), PREFACE);
    assert_eq!((statuses(&responses), end), (vec![505], End::Closed));
    assert_eq!(get(only_http1.address("public"), "/", "").status, 200);

    for (listener, offered, chosen) in [
        ("[h2, http/1.1]", ["h2", "http/1.1"].as_slice(), Some("h2")),
        ("[h2, http/1.1]", &["http/1.1"], Some("http/1.1")),
        ("[h2, http/1.1]", &[], None),
        ("[http/1.1]", &["h2", "http/1.1"], Some("http/1.1")),
        ("[h2]", &["http/1.1", "h2"], Some("h2")),
    ] {
        let gateway = start(&format!("{TLS}, protocols: {listener}"));
        let stream = tls.connect(gateway.address("public"), offered);
        assert_eq!(stream.conn.alpn_protocol(), chosen.map(str::as_bytes), "{listener} {offered:?}");
    }
    let gateway = start(&format!("{TLS}, protocols: [h2]"));
    let mut stream = tls.connect(gateway.address("public"), &[]);
    drop(stream.write_all(head("GET /", "").as_bytes()));
    let mut buffer = [0; 1];
    assert!(
        !matches!(stream.read(&mut buffer), Ok(read) if read > 0),
        "no ALPN is HTTP/1.1, not spoken here"
    );
}

#[test]
fn both_protocols_are_spoken_over_tls() {
    let upstream = RecordingUpstream::start();
    let tls = TestTls::new();
    let apis = "apis: [{name: all, policy: main, upstream: up}]";
    let gateway = gateway_with(&upstream.url(), TLS, ALLOW_ALL, apis, &tls.files());
    let mut stream = tls.connect(gateway.address("public"), &["http/1.1"]);
    for _ in 0..2 {
        stream.write_all(head("GET /", "").as_bytes()).unwrap();
        assert_eq!(read_response(&mut stream).unwrap().status, 200);
    }
    let received = upstream.received();
    assert!(received.contains("x-forwarded-proto: https\r\n"), "{received}");
    // Plaintext to a TLS port is no request.
    let (bytes, end) = {
        let mut stream = connect(gateway.address("public"));
        stream.write_all(head("GET /", "").as_bytes()).unwrap();
        read_to_end(&mut stream)
    };
    assert!(end != End::Open && !bytes.starts_with(b"HTTP"), "{bytes:?}");
}
