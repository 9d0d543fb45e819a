//! Hostile HTTP/2, frame by frame: pseudo-header tricks, floods, and what must not reach an HTTP/1 upstream.

use std::io::Write;
use std::time::Duration;

use crate::edge_support::{
    ACK, Answer, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, RawHttp2,
    SETTINGS, WINDOW_UPDATE, block, frame, gateway, gateway_with, get_fields, read_to_end, timed,
};
use crate::gateway::{ALLOW_ALL, TestGateway, eventually};
use crate::wire::RecordingUpstream;

fn allowing() -> (RecordingUpstream, TestGateway) {
    let upstream = RecordingUpstream::start();
    let gateway = gateway(&upstream.url(), "", ALLOW_ALL);
    (upstream, gateway)
}

/// How one request of `fields` is answered, on a connection of its own.
fn ask(gateway: &TestGateway, fields: &[(&str, &str)]) -> Answer {
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    client.request(1, fields, true);
    client.answer(1)
}

#[track_caller]
fn refused(gateway: &TestGateway, fields: &[(&str, &str)]) {
    let answer = ask(gateway, fields);
    assert!(answer.refuses(), "{fields:?}: {answer:?}");
}

/// The fields of a GET for `/`, with `name` set to `value`, or left out.
fn with<'a>(name: &str, value: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let fields = get_fields("/", &[]).into_iter();
    fields
        .filter_map(
            |(known, old)| if known == name { value.map(|value| (known, value)) } else { Some((known, old)) },
        )
        .collect()
}

#[test]
fn a_plain_request_passes() {
    let (upstream, gateway) = allowing();
    assert_eq!(
        ask(&gateway, &get_fields("/a?b=c", &[("x-some", "1"), ("te", "trailers")])),
        Answer::Status(200)
    );
    let seen = upstream.received().to_ascii_lowercase();
    assert!(seen.starts_with("get /a?b=c http/1.1\r\n"), "{seen}");
    assert!(seen.contains("x-some: 1\r\n") && seen.contains("via: 2 postern\r\n"), "{seen}");
    assert!(!seen.contains("\nte:") && seen.matches("\nhost:").count() == 1, "{seen}");
}

#[test]
fn targets_are_as_strict_as_on_http1() {
    let (upstream, gateway) = allowing();
    for path in [
        "",
        "*",
        "admin",
        "//",
        "//admin",
        "/a//b",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a/./b",
        "/a%2fb",
        "/a%5cb",
        "/a\\b",
        "/a;b",
        "/a%3bb",
        "/a%00",
        "/a\0",
        "/%",
        "/%zz",
        "/a b",
        "/a\tb",
        "/caf\u{e9}",
        "/%ff",
        "/a?b=\u{e9}",
        "/a?b c",
        "/a?b\tc",
        "/a HTTP/1.1\r\nX: y",
        "/a\r\nHost: evil",
        "/a\n",
        "/a?b\r\nX: y",
        "http://gw.test/a",
        "http://evil.test/a",
        "?a",
    ] {
        refused(&gateway, &with(":path", Some(path)));
    }
    refused(&gateway, &with(":path", None));
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn a_fragment_is_not_part_of_what_policy_and_upstream_see() {
    // The library cuts it off before anybody can refuse it, so both see the same.
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := input.request.path == \"/public\"\n";
    let gateway = gateway(&upstream.url(), "", policy);
    assert_eq!(ask(&gateway, &with(":path", Some("/public#/admin"))), Answer::Status(200));
    assert_eq!(ask(&gateway, &with(":path", Some("#/admin"))), Answer::Status(403), "which is `/`");
    assert!(upstream.received().starts_with("GET /public HTTP/1.1\r\n"), "{}", upstream.received());
}

#[test]
fn authorities_must_be_good_and_agree() {
    let (upstream, gateway) = allowing();
    for authority in [
        "",
        "user@gw.test",
        "gw.test:bad",
        "gw.test:99999",
        "gw.test/",
        "gw test",
        "gw.test,evil",
        "a\r\nb",
        "gw.test@",
        "[::1",
    ] {
        refused(&gateway, &with(":authority", Some(authority)));
    }
    refused(&gateway, &with(":authority", None));
    refused(&gateway, &get_fields("/", &[("host", "evil.test")]));
    refused(&gateway, &get_fields("/", &[("host", "gw.test"), ("host", "gw.test")]));
    refused(&gateway, &get_fields("/", &[("host", "gw.test:80")]));
    let mut twice = get_fields("/", &[]);
    twice.insert(1, (":authority", "evil.test"));
    refused(&gateway, &twice);
    assert_eq!(upstream.requests(), 0);
    assert_eq!(ask(&gateway, &get_fields("/", &[("host", "GW.test")])), Answer::Status(200));
    let mut only_host = with(":authority", None);
    only_host.push(("host", "gw.test"));
    assert_eq!(ask(&gateway, &only_host), Answer::Status(200));
    assert_eq!(upstream.received().matches("x-forwarded-host: gw.test\r\n").count(), 2);
}

#[test]
fn schemes_are_the_connections_own() {
    let (upstream, gateway) = allowing();
    for scheme in ["https", "file", "ftp", "https://x/admin?", "", "h ttp"] {
        refused(&gateway, &with(":scheme", Some(scheme)));
    }
    refused(&gateway, &with(":scheme", None));
    assert_eq!(upstream.requests(), 0);
    // A proxy that has ended TLS says what the client used.
    let trusting = crate::edge_support::gateway(&upstream.url(), ", trusted_proxies: [127.0.0.1]", ALLOW_ALL);
    assert_eq!(ask(&trusting, &with(":scheme", Some("https"))), Answer::Status(200));
}

#[test]
fn pseudo_headers_are_there_once_and_first_and_known() {
    let (upstream, gateway) = allowing();
    let after =
        [(":method", "GET"), (":scheme", "http"), (":authority", "gw.test"), ("foo", "1"), (":path", "/")];
    refused(&gateway, &after);
    for extra in [
        (":path", "/admin"),
        (":method", "DELETE"),
        (":scheme", "https"),
        (":status", "200"),
        (":unknown", "1"),
        (":protocol", "websocket"),
    ] {
        refused(&gateway, &get_fields("/", &[extra]));
        let mut first = get_fields("/", &[]);
        first.insert(0, extra);
        refused(&gateway, &first);
    }
    for method in ["", "GE T", "CONNECT", "TRACE", "GET /admin HTTP/1.1\r\n", "G\r\nET"] {
        let answer = ask(&gateway, &with(":method", Some(method)));
        assert!(answer.refuses() || answer == Answer::Status(501), "{method:?}: {answer:?}");
    }
    refused(&gateway, &with(":method", None));
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn fields_of_the_connection_and_malformed_ones_are_refused() {
    let (upstream, gateway) = allowing();
    for field in [
        ("connection", "close"),
        ("connection", "x-user"),
        ("keep-alive", "1"),
        ("proxy-connection", "close"),
        ("upgrade", "h2c"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("Foo", "1"),
        ("X-User", "1"),
        ("foo ", "1"),
        ("foo:", "1"),
        ("", "1"),
        ("fo\u{e9}", "1"),
        ("foo\r\nbar", "1"),
        ("foo\0", "1"),
        ("foo", "a\0b"),
        ("foo", "a\r\nb: c"),
        ("foo", "a\nb"),
        ("foo", "a\rb"),
        ("foo", "a\u{1}b"),
        ("foo", "a\u{7f}b"),
        ("content_length", "5"),
        ("x_user", "admin"),
        ("postern_refused", "1"),
        ("content-length", "5"),
        ("content-length", "-1"),
        ("content-length", "5, 5"),
        ("content-length", "x"),
        ("content-length", ""),
        ("expect", "the-unexpected"),
    ] {
        let answer = ask(&gateway, &get_fields("/", &[field]));
        assert!(
            answer.refuses() || (field.0 == "expect" && answer == Answer::Status(417)),
            "{field:?}: {answer:?}"
        );
    }
    for twice in [["authorization", "content-type"].as_slice(), &["content-length"]] {
        for name in twice {
            refused(&gateway, &get_fields("/", &[(name, "0"), (name, "1")]));
        }
    }
    assert_eq!(upstream.requests(), 0, "{}", upstream.received());
}

#[test]
fn hop_and_identity_headers_are_the_gateways() {
    let upstream = RecordingUpstream::start();
    let policy = "package gateway\n\ndecision := {\"allow\": true, \"upstream\": {\"headers\": {\"set\": {\"X-User\": \"anonymous\"}}}}\n";
    let gateway = gateway(&upstream.url(), "", policy);
    let forged = [
        ("x-user", "admin"),
        ("x.user", "admin"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("proxy", "evil"),
        ("proxy-authorization", "evil"),
        ("trailer", "evil"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    assert_eq!(ask(&gateway, &get_fields("/", &forged)), Answer::Status(200));
    let seen = upstream.received().to_ascii_lowercase();
    assert!(!seen.contains("admin") && !seen.contains("evil") && !seen.contains("10.0.0.1"), "{seen}");
    assert!(seen.contains("x-user: anonymous\r\n") && seen.contains("cookie: a=1; b=2\r\n"), "{seen}");
}

#[test]
fn a_body_of_another_length_than_declared_is_never_a_whole_one() {
    let (upstream, gateway) = allowing();
    for (declared, body) in
        [("10", "hello"), ("3", "hello"), ("0", "GET /admin HTTP/1.1\r\nHost: gw.test\r\n\r\n"), ("1", "")]
    {
        let mut client = RawHttp2::connect(gateway.address("public"), &[]);
        let mut fields = get_fields("/", &[("content-length", declared)]);
        fields[0] = (":method", "POST");
        client.request(1, &fields, false);
        drop(client.send(DATA, END_STREAM, 1, body.as_bytes()));
        let answer = client.answer(1);
        assert!(answer.refuses(), "{declared} {body}: {answer:?}");
    }
    let received = upstream.received();
    assert!(!received.contains("/admin"), "{received}");
}

#[test]
fn trailers_are_dropped() {
    let (upstream, gateway) = allowing();
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    let mut fields = get_fields("/", &[]);
    fields[0] = (":method", "POST");
    client.request(1, &fields, false);
    client.send(DATA, 0, 1, b"hello").unwrap();
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-user", "admin")])).unwrap();
    assert_eq!(client.answer(1), Answer::Status(200));
    assert!(
        upstream.received().contains("hello") && !upstream.received().contains("admin"),
        "{}",
        upstream.received()
    );
}

/// Sends `frames` until the gateway closes, at most `count` times; how many it took.
fn flood(client: &mut RawHttp2, count: usize, mut frames: impl FnMut(usize) -> Vec<u8>) -> usize {
    let reader = client.stream.try_clone().unwrap();
    // What the gateway writes is read, so that it is the flood that ends the connection, and not a full buffer.
    let reading = std::thread::spawn(move || {
        let mut reader = reader;
        read_to_end(&mut reader).0
    });
    let sent = (0..count).take_while(|at| client.stream.write_all(&frames(*at)).is_ok()).count();
    drop(reading.join().unwrap());
    sent
}

type Flood = Box<dyn Fn(usize) -> Vec<u8>>;

/// Frames that fit into buffers on the way after the gateway has closed already.
const IN_FLIGHT: usize = 250_000;

#[test]
fn floods_of_control_frames_are_cut_off() {
    let (_upstream, gateway) = allowing();
    let stream = |at: usize| u32::try_from(at).unwrap() * 2 + 1;
    let floods: [(&str, Flood); 7] = [
        ("ping", Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        ("settings", Box::new(|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]))),
        ("settings acknowledgement", Box::new(|_| frame(SETTINGS, ACK, 0, &[]))),
        ("window", Box::new(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))),
        ("priority", Box::new(|_| frame(0x2, 0, 1, &[0, 0, 0, 3, 1]))),
        ("unknown", Box::new(|_| frame(0xbe, 0, 0, &[]))),
        ("reset of nothing", Box::new(move |at| frame(RST_STREAM, 0, stream(at), &[0, 0, 0, 8]))),
    ];
    for (name, frames) in floods {
        let mut client = RawHttp2::connect(gateway.address("public"), &[]);
        let sent = flood(&mut client, 400_000, frames);
        assert!(sent < 400_000, "{name}: {sent}");
    }
}

#[test]
fn rapid_resets_are_cut_off() {
    let (upstream, gateway) = allowing();
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    let headers = block(&get_fields("/", &[]));
    let sent = flood(&mut client, 500_000, |at| {
        let stream = u32::try_from(at).unwrap() * 2 + 1;
        [
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &headers),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat()
    });
    assert!(sent < IN_FLIGHT, "{sent}");
    assert!(upstream.requests() <= 1100, "{}", upstream.requests());
    eventually("another client is served", || {
        (crate::wire::get(gateway.address("public"), "/", "").status == 200).then_some(())
    });
}

#[test]
fn resets_that_the_client_provokes_are_cut_off() {
    let (upstream, gateway) = allowing();
    let headers = block(&get_fields("/", &[]));
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    // A window update of nothing makes the gateway reset the stream itself (CVE-2025-8671).
    let sent = flood(&mut client, 500_000, |at| {
        let stream = u32::try_from(at).unwrap() * 2 + 1;
        let zero = frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
        [frame(HEADERS, END_HEADERS, stream, &headers), zero].concat()
    });
    assert!(sent < IN_FLIGHT, "{sent}");
    assert!(upstream.requests() <= 1200, "{}", upstream.requests());
    // As does a head that is malformed.
    let malformed = block(&[(":method", "GET"), ("connection", "close")]);
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    let sent = flood(&mut client, 500_000, |at| {
        frame(HEADERS, END_HEADERS | END_STREAM, u32::try_from(at).unwrap() * 2 + 1, &malformed)
    });
    assert!(sent < IN_FLIGHT, "{sent}");
}

#[test]
fn heads_without_end_are_cut_off() {
    let (_upstream, gateway) = allowing();
    for payload in [16 * 1024, 100, 0] {
        let mut client = RawHttp2::connect(gateway.address("public"), &[]);
        client.send(HEADERS, 0, 1, &block(&get_fields("/", &[]))).unwrap();
        let value = "a".repeat(payload);
        let part = if payload == 0 { Vec::new() } else { block(&[("x-a", value.as_str())]) };
        let sent = flood(&mut client, 200_000, |_| {
            frame(CONTINUATION, 0, 1, part.get(..part.len().min(16_384)).unwrap())
        });
        assert!(sent < 200_000, "{payload}: {sent}");
        assert!(payload < 16 * 1024 || sent < 1000, "{payload}: {sent}");
    }
}

#[test]
fn bodies_of_empty_frames_are_cut_off() {
    let (_upstream, gateway) = allowing();
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    let mut fields = get_fields("/", &[]);
    fields[0] = (":method", "POST");
    client.request(1, &fields, false);
    let sent = flood(&mut client, 400_000, |_| frame(DATA, 0, 1, &[]));
    assert!(sent < 400_000, "{sent}");
}

#[test]
fn frames_that_are_not_allowed_end_the_connection() {
    let (_upstream, gateway) = allowing();
    let push = [&[0, 0, 0, 2], block(&get_fields("/", &[])).as_slice()].concat();
    for (name, bytes) in [
        ("push promise", frame(0x5, END_HEADERS, 1, &push)),
        ("too large", frame(DATA, 0, 1, &vec![0; 20_000])),
        ("even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &block(&get_fields("/", &[])))),
        ("stream zero", frame(HEADERS, END_HEADERS | END_STREAM, 0, &block(&get_fields("/", &[])))),
        ("data on an idle stream", frame(DATA, 0, 7, b"x")),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[])),
        ("short ping", frame(PING, 0, 0, &[0; 7])),
        ("bad header block", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 20])),
        (
            "window overflow",
            [
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            ]
            .concat(),
        ),
        ("continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &[])),
    ] {
        let mut client = RawHttp2::connect(gateway.address("public"), &[]);
        client.stream.write_all(&bytes).unwrap();
        let goaway = client.read_until(|frame| frame.kind == GOAWAY);
        assert!(goaway.is_none_or(|frame| frame.payload[4..8] != [0; 4]), "{name}");
        assert_ne!(read_to_end(&mut client.stream).1, crate::edge_support::End::Open, "{name}");
    }
    // A stream that depends on itself is a stream error, or nothing.
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    let dependent = [&[0, 0, 0, 1, 1], block(&get_fields("/", &[])).as_slice()].concat();
    client.send(HEADERS, END_HEADERS | END_STREAM | 0x20, 1, &dependent).unwrap();
    client.answer(1);
}

#[test]
fn a_client_that_says_goodbye_is_answered_to_the_end() {
    let (_upstream, gateway) = allowing();
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    client.request(1, &get_fields("/", &[]), true);
    client.send(GOAWAY, 0, 0, &[0; 8]).unwrap();
    assert_eq!(client.answer(1), Answer::Status(200));
    let (_, took) = timed(|| read_to_end(&mut client.stream));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A client that reads fast sends very many window updates, and is no flood.
#[test]
fn a_large_download_is_no_flood() {
    const LARGE: usize = 4 << 20;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 4096];
            drop(std::io::Read::read(&mut stream, &mut buffer));
            drop(stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes()));
            drop(stream.write_all(&vec![b'x'; LARGE]));
        }
    });
    let gateway = gateway_with(&url, "", ALLOW_ALL, "apis: [{name: all, policy: main, upstream: up}]", &[]);
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    client.request(1, &get_fields("/", &[]), true);
    let mut left = LARGE;
    while left > 0 {
        let data = client.read_until(|frame| frame.kind == DATA).expect("the connection lives");
        left -= data.payload.len();
        for piece in data.payload.chunks(2048) {
            let opened = u32::try_from(piece.len()).unwrap().to_be_bytes();
            for stream in [0, 1] {
                drop(client.send(WINDOW_UPDATE, 0, stream, &opened));
            }
        }
    }
}

#[test]
fn many_requests_share_a_connection() {
    let (upstream, gateway) = allowing();
    let mut client = RawHttp2::connect(gateway.address("public"), &[]);
    for round in 0..20u32 {
        let streams: Vec<u32> = (0..50).map(|at| (round * 50 + at) * 2 + 1).collect();
        for stream in &streams {
            client.request(*stream, &get_fields("/", &[]), true);
        }
        let mut ended = 0;
        while ended < streams.len() {
            let frame = client
                .read_until(|frame| frame.flags & END_STREAM != 0 && matches!(frame.kind, DATA | HEADERS));
            assert!(frame.is_some(), "the connection lives");
            ended += 1;
        }
        client.send(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 100]).unwrap();
    }
    assert_eq!(upstream.requests(), 1000);
}
