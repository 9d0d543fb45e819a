//! Bodies that nobody reads, `Expect`, responses without a body, and what one connection's requests do to each other.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::edge_support::{
    Answer, DATA, END_STREAM, End, HEADERS, RawHttp2, converse, gateway, gateway_with, get_fields, head,
    read_to_end, responses, statuses,
};
use crate::gateway::{ALLOW_ALL, TestGateway};
use crate::wire::{RecordingUpstream, connect, read_response};

/// `/deny` is denied, all else allowed.
const DENY_SOME: &str = "package gateway\n\ndefault decision := true\n\ndecision := false if startswith(input.request.path, \"/deny\")\n";

fn denying() -> (RecordingUpstream, TestGateway) {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream.url(), "", DENY_SOME);
    (upstream, gateway)
}

const CLOSE: &str = "Connection: close\r\n";

fn last(path: &str) -> String {
    head(&format!("GET {path}"), CLOSE)
}

#[test]
fn a_small_unread_body_is_drained_and_the_connection_kept() {
    let (upstream, gateway) = denying();
    let denied = head("POST /deny", "Content-Length: 11\r\n") + "GET /admin ";
    let (responses, end) = converse(gateway.address("public"), denied.clone() + &denied + &last("/ok"));
    assert_eq!((statuses(&responses), end), (vec![403, 403, 200], End::Closed));
    assert_eq!(responses[0].header("connection"), None);
    assert_eq!(upstream.requests(), 1);
    assert!(!upstream.received().contains("admin"));
}

#[test]
fn a_body_that_is_still_on_its_way_is_not_waited_for() {
    let (upstream, gateway) = denying();
    for (framing, body) in [
        ("Content-Length: 1000\r\n", String::new()),
        ("Content-Length: 1000\r\n", "GET /admin HTTP/1.1\r\nHost: gw.test\r\n\r\n".to_owned()),
        ("Transfer-Encoding: chunked\r\n", "5\r\nGET /\r\n".to_owned()),
        ("Content-Length: 1000\r\nExpect: 100-continue\r\n", String::new()),
        // More than any buffer on the way: it is cut off, and still the answer is read.
        ("Content-Length: 1000000\r\n", "x".repeat(1_000_000)),
    ] {
        let (responses, end) = converse(gateway.address("public"), head("POST /deny", framing) + &body);
        assert_eq!((statuses(&responses), end), (vec![403], End::Closed), "{framing:?}");
        assert_eq!(responses[0].header("connection"), Some("close"), "{framing:?}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn an_answer_is_read_whatever_the_client_is_still_sending() {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream.url(), ", limits: {body_bytes: 1GiB}", DENY_SOME);
    let mut stream = connect(gateway.address("public"));
    stream.write_all(head("POST /deny", "Content-Length: 1000000000\r\n").as_bytes()).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sending = thread::spawn(move || while writer.write_all(&[b'x'; 64 * 1024]).is_ok() {});
    // Some of it has been sent before the answer is looked at.
    assert_eq!(read_response(&mut stream).unwrap().status, 403);
    drop(stream);
    sending.join().unwrap();
}

#[test]
fn chunked_bodies_that_are_read_whole_keep_the_connection() {
    let policy = "package gateway\n\ndefault decision := false\n\ndecision := true if input.request.body == \"open\"\n";
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream.url(), "", policy);
    let post =
        |chunks: &str| head("POST /", "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n") + chunks;
    let requests = post("2\r\nop\r\n2\r\nen\r\n0\r\n\r\n")
        + &post("4\r\nshut\r\n0\r\nX-Trailer: 1\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\n")
        + &post("1\r\no\r\n1\r\np\r\n1\r\ne\r\n1\r\nn\r\n0\r\n\r\n")
        + &head("POST /", &format!("Content-Type: text/plain\r\nContent-Length: 4\r\n{CLOSE}"))
        + "open";
    let (responses, end) = converse(gateway.address("public"), requests);
    assert_eq!((statuses(&responses), end), (vec![200, 403, 200, 200], End::Closed));
    let received = upstream.received().to_ascii_lowercase();
    assert_eq!(received.matches("content-length: 4\r\n").count(), 3, "{received}");
    assert!(!received.contains("x-trailer") && !received.contains("transfer-encoding"), "{received}");
}

#[test]
fn a_chunked_body_is_passed_on_without_its_trailers() {
    let (upstream, gateway) = denying();
    let body = "5\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\nX-User: admin\r\n\r\n";
    let request =
        head("POST /", &format!("Trailer: X-Trailer\r\nTransfer-Encoding: chunked\r\n{CLOSE}")) + body;
    let (responses, _) = converse(gateway.address("public"), request);
    assert_eq!(statuses(&responses), [200]);
    let received = upstream.received();
    assert!(received.contains("hello") && received.contains(" world"), "{received}");
    assert!(received.ends_with("0\r\n\r\n"), "{received}");
    assert!(!received.to_ascii_lowercase().contains("trailer"), "{received}");
}

#[test]
fn a_body_of_the_wrong_length_is_never_taken_for_a_whole_one() {
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"labels\": {\"state\": input.request.body_state}}\n";
    for policy in [ALLOW_ALL, policy] {
        let upstream = RecordingUpstream::start();
        let gateway = gateway(&upstream.url(), ", limits: {header_timeout: 200ms}", policy);
        let post = |framing: &str| head("POST /", &format!("Content-Type: text/plain\r\n{framing}"));
        for (framing, body) in [
            ("Content-Length: 10\r\n", "hello"),
            ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
            ("Transfer-Encoding: chunked\r\n", "5\r\nhel"),
        ] {
            let mut stream = connect(gateway.address("public"));
            stream.write_all((post(framing) + body).as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let (responses, end) = responses(&mut stream);
            assert!(statuses(&responses).iter().all(|status| *status == 400), "{responses:?}");
            assert!(end != End::Open);
        }
        // Longer than said: what is over is the next request's.
        let (responses, end) = converse(gateway.address("public"), post("Content-Length: 5\r\n") + "hello!!");
        assert_eq!((statuses(&responses), end), (vec![200, 408], End::Closed));
        let (responses, end) =
            converse(gateway.address("public"), post("Content-Length: 5\r\n") + "hello!!\r\n");
        assert_eq!((statuses(&responses), end), (vec![200, 400], End::Closed));
    }
}

/// An upstream that gives the test each head it gets, and answers with what the test says.
fn scripted(answers: Vec<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for (mut stream, answer) in listener.incoming().map_while(Result::ok).zip(answers) {
            read_head(&mut stream);
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    url
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn continue_is_sent_only_when_the_body_is_wanted() {
    let (upstream, gateway) = denying();
    let expecting =
        |path: &str| head(&format!("POST {path}"), "Content-Length: 5\r\nExpect: 100-continue\r\n");
    let mut stream = connect(gateway.address("public"));
    stream.write_all(expecting("/ok").as_bytes()).unwrap();
    assert_eq!(read_response(&mut stream).unwrap().status, 100);
    stream.write_all(b"hello").unwrap();
    assert_eq!(read_response(&mut stream).unwrap().status, 200);
    assert!(!upstream.received().to_ascii_lowercase().contains("expect"), "{}", upstream.received());

    let (responses, end) = converse(gateway.address("public"), expecting("/deny"));
    assert_eq!((statuses(&responses), end), (vec![403], End::Closed));
    // A client that does not wait for the answer.
    let (responses, end) = converse(gateway.address("public"), expecting("/deny") + "hello" + &last("/ok"));
    assert_eq!((statuses(&responses)[0], end), (403, End::Closed));
    assert!(responses.len() == 1 || responses[1].status == 200, "{responses:?}");

    let other = head("POST /ok", "Content-Length: 5\r\nExpect: the-unexpected\r\n");
    let (responses, end) = converse(gateway.address("public"), other);
    assert_eq!((statuses(&responses), end), (vec![417], End::Closed));
    let too_large = head("POST /ok", "Content-Length: 5000000\r\nExpect: 100-continue\r\n");
    let (responses, end) = converse(gateway.address("public"), too_large);
    assert_eq!((statuses(&responses), end), (vec![413], End::Closed));
}

#[test]
fn a_body_that_the_policy_reads_is_asked_for() {
    let policy = "package gateway\n\ndefault decision := false\n\ndecision := true if input.request.body == \"hello\"\n";
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream.url(), "", policy);
    let mut stream = connect(gateway.address("public"));
    let expecting =
        head("POST /", "Content-Type: text/plain\r\nContent-Length: 5\r\nExpect: 100-continue\r\n");
    for (body, status) in [("hello", 200), ("other", 403)] {
        stream.write_all(expecting.as_bytes()).unwrap();
        assert_eq!(read_response(&mut stream).unwrap().status, 100);
        stream.write_all(body.as_bytes()).unwrap();
        assert_eq!(read_response(&mut stream).unwrap().status, status);
    }
}

/// The head of the next response, of which no body follows.
fn bodiless(stream: &mut TcpStream) -> String {
    let head = read_head(stream);
    assert!(!head.is_empty());
    head
}

#[test]
fn responses_without_a_body_have_none() {
    let not_modified = "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: \"a\"\r\n\r\n";
    let no_content = "HTTP/1.1 204 No Content\r\n\r\n";
    let of_head = "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n";
    let of_chunked_head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (method, answer, status, length) in [
        ("GET", not_modified, "304", None),
        ("GET", no_content, "204", None),
        ("HEAD", of_head, "200", Some("content-length: 12345")),
        ("HEAD", of_chunked_head, "200", None),
        ("HEAD", not_modified, "304", None),
    ] {
        let gateway = gateway(&scripted(vec![answer]), "", DENY_SOME);
        let mut stream = connect(gateway.address("public"));
        stream.write_all(head(&format!("{method} /ok"), "").as_bytes()).unwrap();
        let answer = bodiless(&mut stream).to_ascii_lowercase();
        assert!(answer.contains(status), "{answer}");
        assert!(length.is_none_or(|length| answer.contains(length)), "{answer}");
        // The next response begins where the head ended.
        stream.write_all(head("HEAD /deny", "").as_bytes()).unwrap();
        let denied = bodiless(&mut stream);
        assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");
        stream.write_all(last("/deny").as_bytes()).unwrap();
        let (responses, end) = responses(&mut stream);
        assert_eq!((statuses(&responses), end), (vec![403], End::Closed), "{method} {answer}");
        let whole = responses[0].header("content-length").unwrap();
        assert!(denied.to_ascii_lowercase().contains(&format!("content-length: {whole}\r\n")), "{denied}");
        let events = gateway.events(3);
        assert!(events.iter().all(|event| event["gateway"]["reason"] != "aborted"), "{events:#?}");
    }
}

#[test]
fn responses_without_a_body_have_none_on_http2() {
    let (_upstream, gateway) = denying();
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    let mut fields = get_fields("/deny", &[]);
    fields[0] = (":method", "HEAD");
    client.request(1, &fields, true);
    let answer = client.read_until(|frame| frame.stream == 1).unwrap();
    assert_eq!((answer.kind, answer.flags & END_STREAM), (HEADERS, END_STREAM), "{answer:?}");
    client.request(3, &get_fields("/deny", &[]), true);
    assert_eq!(client.answer(3), Answer::Status(403));
    let data = client.read_until(|frame| frame.kind == DATA).unwrap();
    assert_eq!((data.stream, data.flags & END_STREAM), (3, END_STREAM));
}

#[test]
fn a_denial_with_304_has_no_body() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": false, \"status\": 304, \"body\": \"text\"}\n";
    let gateway = gateway(&upstream.url(), "", policy);
    let mut stream = connect(gateway.address("public"));
    for _ in 0..2 {
        stream.write_all(head("GET /", "").as_bytes()).unwrap();
        assert!(bodiless(&mut stream).starts_with("HTTP/1.1 304 "));
    }
}

fn http10(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.0\r\nHost: gw.test\r\n{headers}\r\n")
}

#[test]
fn http10_clients_get_what_they_understand() {
    let (upstream, gateway) = denying();
    for path in ["/ok", "/deny"] {
        let (responses, end) = converse(gateway.address("public"), http10(path, ""));
        assert_eq!((responses.len(), end), (1, End::Closed), "closed unless asked otherwise");
        assert!(responses[0].head.starts_with("HTTP/1.0 ") || responses[0].head.starts_with("HTTP/1.1 "));
        assert_eq!(responses[0].header("transfer-encoding"), None);
    }
    let mut stream = connect(gateway.address("public"));
    for _ in 0..3 {
        stream.write_all(http10("/ok", "Connection: keep-alive\r\n").as_bytes()).unwrap();
        let response = read_response(&mut stream).unwrap();
        assert_eq!((response.status, response.header("connection")), (200, Some("keep-alive")));
    }
    assert!(upstream.received().starts_with("GET /ok HTTP/1.1\r\n"));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let gateway = gateway_with(
        &scripted(vec![chunked]),
        "",
        ALLOW_ALL,
        "apis: [{name: all, policy: main, upstream: up}]",
        &[],
    );
    let (responses, end) = converse(gateway.address("public"), http10("/ok", "Connection: keep-alive\r\n"));
    assert_eq!((responses[0].text().as_str(), end), ("hello", End::Closed));
    assert_eq!(responses[0].header("transfer-encoding"), None);
    let no_host = converse(gateway.address("public"), "GET / HTTP/1.0\r\n\r\n");
    assert_eq!((statuses(&no_host.0), no_host.1), (vec![400], End::Closed));
}

#[test]
fn a_connection_is_used_again_and_again() {
    let (upstream, gateway) = denying();
    let mut stream = connect(gateway.address("public"));
    for at in 0..150 {
        let (request, status) = match at % 3 {
            0 => (head("GET /ok", ""), 200),
            1 => (head("POST /ok", "Content-Length: 5\r\n") + "hello", 200),
            _ => (head("GET /deny", ""), 403),
        };
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(read_response(&mut stream).unwrap().status, status, "{at}");
    }
    assert_eq!(upstream.requests(), 100);
    assert_eq!(gateway.events(150).len(), 150);
}

/// An upstream that answers with the path it was asked for.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                loop {
                    let head = read_head(&mut stream);
                    let Some(path) = head.split(' ').nth(1) else { return };
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gateway = gateway(&echo(), "", DENY_SOME);
    let path = |at: usize| if at % 7 == 3 { format!("/deny/{at}") } else { format!("/{at}") };
    let mut requests: String = (0..60).map(|at| head(&format!("GET {}", path(at)), "")).collect();
    requests += &last("/last");
    for pieces in [requests.len(), 1000, 37] {
        let mut stream = connect(gateway.address("public"));
        let mut writer = stream.try_clone().unwrap();
        let bytes = requests.clone();
        let sending = thread::spawn(move || {
            for piece in bytes.as_bytes().chunks(pieces) {
                writer.write_all(piece).unwrap();
            }
        });
        let (responses, end) = responses(&mut stream);
        sending.join().unwrap();
        assert_eq!((responses.len(), end), (61, End::Closed));
        for (at, response) in responses.iter().take(60).enumerate() {
            let want = if at % 7 == 3 { 403 } else { 200 };
            assert_eq!(response.status, want, "{at}");
            assert!(want == 403 || response.text() == path(at), "{at}: {}", response.text());
        }
    }
}

/// The refused request of each pipeline is answered in its turn, and nothing after it.
#[test]
fn a_refused_head_is_answered_after_those_before_it_and_ends_the_connection() {
    let (upstream, gateway) = denying();
    let bad = [
        "GET /bad HTTP/1.1\r\n\r\n",
        "GET /bad HTTP/1.1\nHost: gw.test\n\n",
        "POST /bad HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /bad HTTP/1.1\r\nHost: gw.test\r\npostern_refused: 1\r\n\r\n",
    ];
    let before = [
        head("GET /ok", ""),
        head("GET /deny", ""),
        head("POST /ok", "Content-Length: 3\r\n") + "abc",
        head("POST /ok", "Transfer-Encoding: chunked\r\n") + "3\r\nabc\r\n0\r\n\r\n",
        "\r\n".to_owned() + &head("GET /ok", ""),
    ];
    for bad in bad {
        for before in &before {
            let first = if before.contains("/deny") { 403 } else { 200 };
            let (responses, end) =
                converse(gateway.address("public"), format!("{before}{bad}{}", last("/after")));
            assert_eq!((statuses(&responses), end), (vec![first, 400], End::Closed), "{before:?} {bad:?}");
        }
    }
    let received = upstream.received();
    assert!(
        !received.contains("/bad") && !received.contains("/after") && !received.contains("refused"),
        "{received}"
    );
}

#[test]
fn an_upgrade_that_is_not_passed_on_does_not_disturb_what_follows() {
    let (upstream, gateway) = denying();
    for upgrade in [
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Upgrade: TLS/1.0\r\n",
    ] {
        let pipeline = head("GET /ok", "")
            + &head("GET /ok", upgrade)
            + &head("GET /ok", upgrade)
            + &head("GET /deny", "")
            + &last("/ok");
        let (responses, end) = converse(gateway.address("public"), pipeline);
        assert_eq!((statuses(&responses), end), (vec![200, 200, 200, 403, 200], End::Closed), "{upgrade}");
    }
    assert!(!upstream.received().to_ascii_lowercase().contains("upgrade"), "{}", upstream.received());
}

#[test]
fn a_client_that_goes_away_ends_the_exchange_with_the_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = gateway(&url, "", ALLOW_ALL);
    // Before the response's head, and in the middle of its body.
    for (answer, status) in [("", 0), ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", 200)] {
        let mut client = connect(gateway.address("public"));
        client.write_all(head("GET /", "").as_bytes()).unwrap();
        let (mut upstream, _) = listener.accept().unwrap();
        upstream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert!(read_head(&mut upstream).starts_with("GET / "));
        upstream.write_all(answer.as_bytes()).unwrap();
        if !answer.is_empty() {
            let mut some = [0; 10];
            assert!(client.read(&mut some).unwrap() > 0);
        }
        drop(client);
        assert_eq!(read_to_end(&mut upstream), (Vec::new(), End::Closed), "the exchange is given up");
        let events = gateway.events(if status == 0 { 1 } else { 2 });
        let event = &events.last().unwrap()["gateway"];
        assert_eq!(event["outcome"], "failed", "{event}");
        assert_eq!(event["status"], status, "{event}");
    }
}

#[test]
fn a_response_that_breaks_off_never_ends_cleanly() {
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n";
    for answer in [sized, chunked] {
        for request in [head("GET /", ""), http10("/", "")] {
            let gateway = gateway(&scripted(vec![answer]), "", ALLOW_ALL);
            let mut stream = connect(gateway.address("public"));
            stream.write_all(request.as_bytes()).unwrap();
            let (bytes, end) = read_to_end(&mut stream);
            assert_eq!(end, End::Reset, "{request:?}: {:?}", String::from_utf8_lossy(&bytes));
            assert!(!bytes.ends_with(b"0\r\n\r\n"));
            let event = &gateway.events(1)[0]["gateway"];
            assert_eq!(
                (&event["outcome"], &event["reason"]),
                (&"failed".into(), &"upstream_body_broken".into())
            );
        }
        let gateway = gateway(&scripted(vec![answer]), "", ALLOW_ALL);
        let mut client = RawHttp2::connect(gateway.address("public"), &[]);
        client.request(1, &get_fields("/", &[]), true);
        // The library drops a head that is not sent yet when its stream breaks off.
        let answer = client.answer(1);
        let end = if answer == Answer::Status(200) { client.answer(1) } else { answer };
        assert!(matches!(end, Answer::Reset(_)), "{answer:?} {end:?}");
    }
}

#[test]
fn a_response_is_passed_on_as_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = gateway(&url, "", ALLOW_ALL);
    let mut client = connect(gateway.address("public"));
    client.write_all(head("GET /events", "").as_bytes()).unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    read_head(&mut upstream);
    let start = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    upstream.write_all(start.as_bytes()).unwrap();
    assert!(read_head(&mut client).contains("text/event-stream"), "before any event");
    for at in 0..20 {
        let event = format!("data: {at:02}\n\n");
        upstream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).unwrap();
        // Only when this one has come the next is sent.
        let mut chunk = vec![0; 3 + event.len() + 2];
        client.read_exact(&mut chunk).unwrap();
        assert!(String::from_utf8_lossy(&chunk).contains(&event), "{chunk:?}");
    }
    upstream.write_all(b"0\r\n\r\n").unwrap();
    let mut end = [0; 5];
    client.read_exact(&mut end).unwrap();
    assert_eq!(&end, b"0\r\n\r\n");
    assert_eq!(gateway.events(1)[0]["gateway"]["outcome"], "allowed");
}

#[test]
fn a_request_is_passed_on_as_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = gateway(&url, "", ALLOW_ALL);
    let mut client = connect(gateway.address("public"));
    client.write_all(head("POST /", "Transfer-Encoding: chunked\r\n").as_bytes()).unwrap();
    client.write_all(b"3\r\none\r\n").unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    assert!(read_head(&mut upstream).to_ascii_lowercase().contains("transfer-encoding: chunked"));
    let mut chunk = [0; 8];
    upstream.read_exact(&mut chunk).unwrap();
    assert_eq!(&chunk, b"3\r\none\r\n");
    client.write_all(b"3\r\ntwo\r\n").unwrap();
    upstream.read_exact(&mut chunk).unwrap();
    assert_eq!(&chunk, b"3\r\ntwo\r\n");
    // An answer before the request's end reaches the client at once.
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").unwrap();
    assert_eq!(read_response(&mut client).unwrap().text(), "early");
}

/// The largest resident size of this process so far, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

const LARGE: usize = 64 << 20;

#[test]
fn a_large_download_takes_little_memory_and_does_not_run_ahead_of_its_reader() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = gateway(&url, "", ALLOW_ALL);
    let before = peak_memory();
    let mut client = connect(gateway.address("public"));
    client.write_all(head("GET /", "").as_bytes()).unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    read_head(&mut upstream);
    let sending = thread::spawn(move || {
        upstream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes()).unwrap();
        upstream.set_nonblocking(true).unwrap();
        // Nobody reads: the buffers on the way fill up, and then it stands still.
        let piece = [b'x'; 64 * 1024];
        let mut ahead = 0;
        let mut still = 0;
        while still < 50 && ahead < LARGE {
            match upstream.write(&piece[..piece.len().min(LARGE - ahead)]) {
                Ok(sent) => (ahead, still) = (ahead + sent, 0),
                Err(_) => {
                    still += 1;
                    thread::park_timeout(Duration::from_millis(2));
                }
            }
        }
        upstream.set_nonblocking(false).unwrap();
        (upstream, ahead)
    });
    let (mut upstream, ahead) = sending.join().unwrap();
    assert!(ahead < LARGE / 2, "{ahead} bytes were taken though nobody reads");
    let rest = thread::spawn(move || {
        let piece = [b'x'; 64 * 1024];
        let mut left = LARGE - ahead;
        while left > 0 {
            let length = left.min(piece.len());
            upstream.write_all(&piece[..length]).unwrap();
            left -= length;
        }
        upstream
    });
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
    let mut buffer = vec![0; 1 << 20];
    let mut left = LARGE;
    while left > 0 {
        left -= client.read(&mut buffer).unwrap();
    }
    drop(rest.join().unwrap());
    let grown = peak_memory() - before;
    assert!(grown < 16 * 1024, "{grown} KiB more at the peak");
    assert_eq!(gateway.events(1)[0]["gateway"]["response_bytes"], LARGE);
}

#[test]
fn a_large_upload_takes_little_memory_and_does_not_run_ahead_of_the_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = gateway(&url, ", limits: {body_bytes: 64MiB}", ALLOW_ALL);
    let before = peak_memory();
    let mut client = connect(gateway.address("public"));
    client.write_all(head("POST /", &format!("Content-Length: {LARGE}\r\n")).as_bytes()).unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    read_head(&mut upstream);
    client.set_nonblocking(true).unwrap();
    let piece = [b'x'; 64 * 1024];
    let mut ahead = 0;
    let mut still = 0;
    while still < 50 && ahead < LARGE {
        match client.write(&piece[..piece.len().min(LARGE - ahead)]) {
            Ok(sent) => (ahead, still) = (ahead + sent, 0),
            Err(_) => {
                still += 1;
                thread::park_timeout(Duration::from_millis(2));
            }
        }
    }
    assert!(ahead < LARGE / 2, "{ahead} bytes were taken though the upstream does not read");
    client.set_nonblocking(false).unwrap();
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        let mut left = LARGE;
        while left > 0 {
            left -= upstream.read(&mut buffer).unwrap();
        }
        upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        upstream
    });
    let mut left = LARGE - ahead;
    while left > 0 {
        let length = left.min(piece.len());
        client.write_all(&piece[..length]).unwrap();
        left -= length;
    }
    assert_eq!(read_response(&mut client).unwrap().status, 200);
    drop(reading.join().unwrap());
    let grown = peak_memory() - before;
    assert!(grown < 16 * 1024, "{grown} KiB more at the peak");
}

#[test]
fn an_upgrade_is_tunnelled_only_after_the_upstream_has_agreed() {
    let apis = "apis: [{name: all, policy: main, upstream: up, routes: [{name: ws, path: /ws, websocket: true}, {name: rest, path: \"/{*rest}\"}]}]";
    let handshake = head(
        "GET /ws",
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    );
    // Refused by the upstream: what follows is the next request, as it always was.
    let gateway = gateway_with(&echo(), "", DENY_SOME, apis, &[]);
    let (responses, end) =
        converse(gateway.address("public"), handshake.clone() + &head("GET /deny", "") + &last("/b"));
    assert_eq!((statuses(&responses), end), (vec![200, 403, 200], End::Closed));
    // Agreed: bytes that came early belong to the tunnel, and were nobody's before.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = gateway_with(&url, "", DENY_SOME, apis, &[]);
    let mut client = connect(gateway.address("public"));
    client.write_all((handshake.clone() + "early\n").as_bytes()).unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    let asked = read_head(&mut upstream).to_ascii_lowercase();
    assert!(asked.contains("upgrade: websocket\r\n") && asked.contains("connection: upgrade\r\n"), "{asked}");
    upstream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(read_to_end(&mut upstream), (Vec::new(), End::Open), "nothing before the 101");
    upstream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello";
    upstream.write_all(switched.as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
    let mut five = [0; 5];
    client.read_exact(&mut five).unwrap();
    assert_eq!(&five, b"hello");
    let mut early = [0; 6];
    upstream.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early\n");
    client.write_all(b"to and ").unwrap();
    let mut seven = [0; 7];
    upstream.read_exact(&mut seven).unwrap();
    assert_eq!(&seven, b"to and ");
    drop(upstream);
    assert_eq!(read_to_end(&mut client).0, Vec::<u8>::new());
    drop(client);
    let event = &gateway.events(1)[0]["gateway"];
    assert_eq!((&event["status"], &event["outcome"]), (&101.into(), &"allowed".into()), "{event}");
}

#[test]
fn a_switch_that_nobody_asked_for_is_a_bad_gateway() {
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let gateway = gateway(&scripted(vec![switched]), "", ALLOW_ALL);
    let (responses, _) = converse(gateway.address("public"), last("/"));
    assert_eq!(statuses(&responses), [502]);
    assert_eq!(gateway.events(1)[0]["gateway"]["outcome"], "failed");
}
