//! Requests in the spirit of the hostile ones, beside those that are allowed to look odd: what each connection's bytes
//! are answered with, and what the upstream gets to see.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::edge_support::{End, converse, gateway, head, responses, statuses};
use crate::gateway::{ALLOW_ALL, TestGateway};
use crate::wire::{RecordingUpstream, connect, read_response};

/// A request that must never be a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: gw.test\r\nX-A: y\r\n\r\n";

struct Edge {
    upstream: RecordingUpstream,
    gateway: TestGateway,
}

impl Edge {
    fn new() -> Self {
        let upstream = RecordingUpstream::start();
        let policy = "package gateway\n\ndecision := input.request.path != \"/smuggled\"\n";
        let gateway =
            gateway(&upstream.url(), ", limits: {header_timeout: 300ms, body_timeout: 300ms}", policy);
        Self { upstream, gateway }
    }

    /// The statuses that `bytes` are answered with on a connection of their own, after which it is closed.
    fn answers(&self, bytes: impl AsRef<[u8]>) -> Vec<u16> {
        let (responses, end) = converse(self.gateway.address("public"), &bytes);
        assert_eq!(end, End::Closed, "{:?}", String::from_utf8_lossy(bytes.as_ref()));
        statuses(&responses)
    }

    #[track_caller]
    fn refused(&self, bytes: impl AsRef<[u8]>) {
        let answers = self.answers(&bytes);
        assert_eq!(answers, [400], "{:?}", String::from_utf8_lossy(bytes.as_ref()));
    }

    /// Sends one request with `headers` and `body`, and a last one after it: both are answered.
    #[track_caller]
    fn taken(&self, line: &str, headers: &str, body: &str) {
        let bytes = head(line, headers) + body + &head("GET /last", "Connection: close\r\n");
        assert_eq!(self.answers(&bytes), [200, 200], "{bytes:?}");
    }

    fn seen(&self) -> String {
        self.upstream.received().to_ascii_lowercase()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let seen = self.seen();
        assert!(std::thread::panicking() || !seen.contains("get /smuggled"), "{seen}");
    }
}

#[test]
fn lengths_that_are_not_one_plain_number_are_refused() {
    let edge = Edge::new();
    let post = |headers: &str| head("POST /", headers) + SMUGGLED;
    for length in [
        "+5",
        "-5",
        "0x5",
        "5,5",
        "5, 5",
        "5 5",
        "5;",
        "5.0",
        "5e1",
        "\"5\"",
        "05",
        "00",
        "five",
        "",
        "5\u{b}",
        "18446744073709551621",
        "99999999999999999999999999",
        "\u{665}",
    ] {
        edge.refused(post(&format!("Content-Length: {length}\r\n")));
    }
    edge.refused(post("Content-Length: 5\r\nContent-Length: 5\r\n"));
    edge.refused(post("Content-Length: 5\r\ncontent-length: 49\r\n"));
    edge.refused(post("Content-Length: 0\r\nContent-Length:\r\n"));
    edge.refused(post("Content-Length\r\n"));
    edge.refused(post("Content-Length=5\r\n"));
    edge.refused(post("Content-Length : 5\r\n"));
    edge.refused(post("Content-Length\u{a0}: 5\r\n"));
    assert_eq!(edge.upstream.requests(), 0);
    edge.taken("POST /", "Content-Length:\t 5 \t\r\n", "hello");
    edge.taken("POST /", "CONTENT-LENGTH:0\r\n", "");
    edge.taken("GET /", "Content-Length: 5\r\n", "hello");
}

#[test]
fn codings_that_are_not_chunked_alone_are_refused() {
    let edge = Edge::new();
    let post = |headers: &str| head("POST /", headers) + "0\r\n\r\n" + SMUGGLED;
    for coding in [
        "identity",
        "chunked, identity",
        "identity, chunked",
        "gzip",
        "gzip, chunked",
        "chunked,",
        ", chunked",
        "chunked chunked",
        "chunked;q=1",
        "xchunked",
        "chunk",
        "\"chunked\"",
        "'chunked'",
        "chunked\u{b}",
        "\u{b}chunked",
        "",
        "\u{130}chunked",
        "ch\u{212a}unked",
    ] {
        edge.refused(post(&format!("Transfer-Encoding: {coding}\r\n")));
        edge.refused(post(&format!("Content-Length: 5\r\nTransfer-Encoding: {coding}\r\n")));
    }
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X-A: 1\r\n Transfer-Encoding: chunked\r\n",
        "X-A: 1\r\n\tchunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer-Encoding\0: chunked\r\n",
        "Transfer-Encoding: chunked\0\r\n",
        "X-A: 1\0\r\nTransfer-Encoding: chunked\r\n",
        "X-A: 1\nTransfer-Encoding: chunked\r\n",
        "X-A: 1\rTransfer-Encoding: chunked\r\n",
        "X-A: 1\r\r\nTransfer-Encoding: chunked\r\n",
        "X-A\nTransfer-Encoding: chunked\r\n",
    ] {
        edge.refused(post(headers));
    }
    edge.refused("POST / HTTP/1.0\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(edge.upstream.requests(), 0);
    edge.taken("POST /", "transfer-ENCODING:\tCHUNKED \r\n", "5\r\nhello\r\n0\r\n\r\n");
    edge.taken("GET /", "Transfer-Encoding: chunked\r\n", "0005\r\nhello\r\n000\r\n\r\n");
    edge.taken(
        "POST /",
        "Transfer-Encoding: chunked\r\n",
        "0\r\nContent-Length: 49\r\nTransfer-Encoding: identity\r\nHost: evil\r\n\r\n",
    );
    assert!(!edge.seen().contains("evil") && !edge.seen().contains("identity"), "{}", edge.seen());
}

#[test]
fn chunks_that_two_readers_could_read_differently_are_refused() {
    let edge = Edge::new();
    let post = |body: &str| head("POST /", "Transfer-Encoding: chunked\r\n") + body + SMUGGLED;
    for body in [
        "5;ext=1\r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\n\n",
        "0 \r\n\r\n",
        "0x0\r\n\r\n",
        "-0\r\n\r\n",
        "g\r\n\r\n",
        "\r\n\r\n",
        "ffffffffffffffff\r\nhello",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "0000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\nX-Trailer: a\n\r\n",
        "0\r\n X-Trailer: a\r\n\r\n",
        "0\r\nX_Trailer: a\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nX-Trailer: a\0\r\n\r\n",
    ] {
        edge.refused(post(body));
    }
    let seen = edge.seen();
    assert!(!seen.contains("ext=1") && !seen.contains("0\r\n\r\n"), "none of them was whole: {seen}");
}

#[test]
fn request_lines_are_plain() {
    let edge = Edge::new();
    let after = "\r\nHost: gw.test\r\n\r\n";
    for line in [
        "GET / HTTP/1.1 ",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/1.1 x",
        "GET / http/1.1",
        "GET / HTTP/1.1\u{b}",
        "GET /",
        "GET / HTTP/11.1",
        "GET / HTTP/",
        "GET / HTTP/1.1.1",
        "GET / HTTP/1",
        "GET",
        "GET / x HTTP/1.1",
        "GET / /smuggled HTTP/1.1",
        "G(ET / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /a\u{b}b HTTP/1.1",
        "GET /#f HTTP/1.1",
        "GET /?a#f HTTP/1.1",
        "GET # HTTP/1.1",
        "GET ?a HTTP/1.1",
        "GET * HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET smuggled HTTP/1.1",
        "GET gw.test:80 HTTP/1.1",
        "GET ://gw.test/ HTTP/1.1",
        "GET http:/smuggled HTTP/1.1",
        "GET http:///smuggled HTTP/1.1",
        "GET http://evil.test/ HTTP/1.1",
        "GET http://gw.test@evil.test/ HTTP/1.1",
        "GET http://evil.test@gw.test/ HTTP/1.1",
        "GET https://gw.test/ HTTP/1.1",
        "GET ftp://gw.test/ HTTP/1.1",
        "GET file:///etc/passwd HTTP/1.1",
        "GET http://gw.test:80/ HTTP/1.1",
        "GET http://gw.test//a HTTP/1.1",
        "GET http://gw.test/../a HTTP/1.1",
        "GET http://gw.test?a HTTP/1.1",
        "GET //gw.test/a HTTP/1.1",
        "GET /\\evil HTTP/1.1",
        "GET /<> HTTP/1.1",
        "GET /?a=<> HTTP/1.1",
    ] {
        edge.refused(format!("{line}{after}{SMUGGLED}"));
    }
    for line in ["GET / HTTP/1.2", "GET / HTTP/2.0", "GET / HTTP/0.9", "PRI * HTTP/2.0"] {
        assert_eq!(edge.answers(format!("{line}{after}{SMUGGLED}")), [505], "{line}");
    }
    for line in [
        "CONNECT gw.test:80 HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "CONNECT 127.0.0.1:22 HTTP/1.1",
        "TRACE / HTTP/1.1",
    ] {
        let answers = edge.answers(format!("{line}{after}{SMUGGLED}"));
        assert!(answers == [501] || answers == [400], "{line}: {answers:?}");
    }
    assert_eq!(edge.upstream.requests(), 0, "{}", edge.seen());
    for line in ["GET http://gw.test/a", "GET HTTP://GW.TEST/a", "GET http://gw.test"] {
        edge.taken(line, "", "");
    }
    assert_eq!(edge.seen().matches("get /a http/1.1\r\n").count(), 2);
    assert!(!edge.seen().contains("get http:"), "{}", edge.seen());
}

#[test]
fn extension_methods_are_passed_as_they_are() {
    let edge = Edge::new();
    for method in ["PATCH", "get", "Get", "PROPFIND", "M-SEARCH", "X"] {
        edge.taken(&format!("{method} /"), "", "");
        assert!(edge.upstream.received().contains(&format!("{method} / HTTP/1.1\r\n")), "{method}");
    }
}

#[test]
fn headers_that_are_there_once_are_not_there_twice() {
    let edge = Edge::new();
    for name in ["Authorization", "Content-Type", "Host", "Content-Encoding"] {
        let name_again = name.to_ascii_uppercase();
        let twice = format!("{name}: gw.test\r\n{name_again}: gw.test\r\nConnection: close\r\n");
        assert_eq!(edge.answers(head("GET /", &twice)), [400], "{name}");
    }
    for header in [
        "X-A: \u{1}",
        "X-A: \u{7f}",
        "X-A: a\0",
        "X\u{e9}: 1",
        "X A: 1",
        ": 1",
        "X-A",
        "X/A: 1",
        "X[]: 1",
        "\"X\": 1",
        "X-User_Name: 1",
    ] {
        edge.refused(head("GET /", &format!("{header}\r\n")) + SMUGGLED);
    }
    let not_text =
        [b"GET / HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\nX-A: \xff\xfe\r\n\r\n".as_slice()]
            .concat();
    assert_eq!(edge.answers(not_text), [400]);
    assert_eq!(edge.upstream.requests(), 0);
    edge.taken("GET /", "X-A: caf\u{e9} \t tab\r\nX-Empty:\r\nX-A: again\r\n", "");
    let seen = edge.upstream.received();
    assert!(seen.contains("caf\u{e9} \t tab\r\n") && seen.contains("again\r\n"), "{seen}");
}

#[test]
fn cookies_become_one_line() {
    let edge = Edge::new();
    edge.taken("GET /", "Cookie: a=1\r\nX-A: 1\r\nCookie: b=2; c=3\r\ncookie: d=4\r\n", "");
    assert!(edge.seen().contains("cookie: a=1; b=2; c=3; d=4\r\n"), "{}", edge.seen());
}

#[test]
fn what_belongs_to_the_connection_ends_here() {
    let edge = Edge::new();
    edge.taken("GET /", "Connection: keep-alive, te, X\r\nTE: trailers, deflate\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nX: 1\r\n", "");
    edge.taken("GET /", "Connection: keep-alive\r\nConnection: foo , ,bar\r\nFoo: 1\r\nBar: 1\r\nProxy: http://evil\r\nTrailer: Expires\r\n", "");
    let seen = edge.seen();
    for gone in
        ["\nconnection", "\nte:", "keep-alive", "proxy", "\nx:", "\nfoo:", "\nbar:", "evil", "trailer"]
    {
        assert!(!seen.contains(gone), "{gone:?} in {seen}");
    }
    for name in [
        "Authorization",
        "Cookie",
        "X-User",
        "Host",
        "Content-Length",
        "X-Forwarded-For",
        "Via",
        "Forwarded",
        "(",
        "a b",
    ] {
        let named = format!("Connection: close, {name}\r\n");
        assert_eq!(edge.answers(head("GET /", &named)), [400], "{name}");
    }
    // Asked to close, it closes; what comes after is nobody's.
    for close in ["close", "Close", "keep-alive, close", "close, te"] {
        assert_eq!(
            edge.answers(head("GET /", &format!("Connection: {close}\r\n")) + SMUGGLED),
            [200],
            "{close}"
        );
    }
}

#[test]
fn one_empty_line_before_a_request_is_skipped_and_no_more() {
    let edge = Edge::new();
    edge.taken("GET /", "", "\r\n");
    edge.refused("\r\n\r\n".to_owned() + SMUGGLED);
    edge.refused("\n".to_owned() + SMUGGLED);
    edge.refused("\r".to_owned() + SMUGGLED);
    edge.refused(" ".to_owned() + SMUGGLED);
    edge.refused("\0".to_owned() + SMUGGLED);
    assert_eq!(edge.answers(head("GET /", "") + "\r\n\r\n" + SMUGGLED), [200, 400]);
}

#[test]
fn an_answer_before_the_requests_end_does_not_shift_the_next_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = gateway(&url, "", ALLOW_ALL);
    let mut client = connect(gateway.address("public"));
    client.write_all(head("POST /first", "Content-Length: 100\r\n").as_bytes()).unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    let mut buffer = [0; 4096];
    assert!(upstream.read(&mut buffer).unwrap() > 0);
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").unwrap();
    assert_eq!(read_response(&mut client).unwrap().text(), "early");
    // The rest of the body looks like requests, and another follows.
    let body = (SMUGGLED.to_owned() + SMUGGLED + SMUGGLED)[..100].to_owned();
    let answering = std::thread::spawn(move || {
        let mut received = String::new();
        drop(upstream.set_read_timeout(Some(std::time::Duration::from_millis(300))));
        while let Ok(read) = upstream.read(&mut buffer) {
            if read == 0 {
                break;
            }
            received += &String::from_utf8_lossy(&buffer[..read]);
        }
        drop(listener);
        received
    });
    drop(client.write_all((body.clone() + &head("GET /next", "Connection: close\r\n")).as_bytes()));
    let (responses, end) = responses(&mut client);
    // Answered in its turn, with an error as the upstream gives none, or not at all: never what the body says.
    assert!(responses.is_empty() || responses.len() == 1 && responses[0].status >= 500, "{responses:?}");
    assert!(end != End::Open);
    let received = answering.join().unwrap();
    assert!(body.starts_with(received.split("GET /next").next().unwrap()), "{received}");
    let events = gateway.events(1);
    assert!(events.iter().all(|event| event["gateway"]["path"] != "/smuggled"), "{events:?}");
}
