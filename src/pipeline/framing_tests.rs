use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 512, fields: 8 };

fn scan(head: &str) -> Result<Option<Head>, FramingError> {
    HeadScanner::default().advance(head.as_bytes(), LIMITS)
}

/// A head of `POST /` with `fields` and a good Host.
fn with(fields: &str) -> Result<Option<Head>, FramingError> {
    scan(&format!("POST / HTTP/1.1\r\nHost: gw.test\r\n{fields}\r\n"))
}

#[track_caller]
fn framing(fields: &str, want: Framing) {
    assert_eq!(with(fields).unwrap().unwrap().framing, want, "{fields:?}");
}

#[track_caller]
fn refused(fields: &str, want: FramingError) {
    assert_eq!(with(fields), Err(want), "{fields:?}");
}

#[test]
fn bodies_are_delimited_in_one_way() {
    framing("", Framing::None);
    framing("Content-Length: 0\r\n", Framing::None);
    framing("content-length:5\r\n", Framing::Length(5));
    framing("Transfer-Encoding: cHuNkEd\r\n", Framing::Chunked);
    for value in ["", "05", "00", "010", "-1", "+1", "1_0", "5, 5", "0x5", "1 1", "9999999999999999999"] {
        refused(&format!("Content-Length: {value}\r\n"), FramingError::ContentLength);
    }
    refused("Content-Length: 5\r\nContent-Length: 5\r\n", FramingError::ContentLength);
    for value in ["identity", "gzip, chunked", "chunked, chunked", "chunked,", "\"chunked\"", "xchunked", ""]
    {
        refused(&format!("Transfer-Encoding: {value}\r\n"), FramingError::TransferEncoding);
    }
    refused("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", FramingError::TransferEncoding);
    refused("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", FramingError::LengthConflict);
    refused("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", FramingError::LengthConflict);
}

#[test]
fn names_and_values_are_plain() {
    refused("Content-Length : 5\r\n", FramingError::HeaderName);
    refused("Content-Length\t: 5\r\n", FramingError::HeaderName);
    refused(" folded\r\n", FramingError::HeaderName);
    refused("X-A: b\r\n c\r\n", FramingError::HeaderName);
    refused("no colon\r\n", FramingError::HeaderName);
    refused(": empty\r\n", FramingError::HeaderName);
    refused("X-\u{e9}: 1\r\n", FramingError::HeaderName);
    refused("Content_Length: 5\r\n", FramingError::HeaderUnderscore);
    refused("X-A: a\u{1}b\r\n", FramingError::HeaderValue);
    refused("X-A: a\u{7f}b\r\n", FramingError::HeaderValue);
    refused("X-A: a\0b\r\n", FramingError::HeaderValue);
    refused("X-A: a\rTransfer-Encoding: chunked\r\n", FramingError::LineEnd);
    refused("X-A: a\nb: c\r\n", FramingError::LineEnd);
    framing("X-A: a\tb\u{e9}\r\n", Framing::None);
}

#[test]
fn one_host() {
    assert_eq!(scan("GET / HTTP/1.1\r\n\r\n"), Err(FramingError::Host));
    refused("HOST: other\r\n", FramingError::Host);
}

#[test]
fn request_lines() {
    let check = |line: &str, want| assert_eq!(scan(&format!("{line}\r\n")), Err(want), "{line:?}");
    check("GET /public", FramingError::RequestLine);
    check("GET / HTTP/2.0", FramingError::Version);
    check("GET / HTTP/1.2", FramingError::Version);
    check("GET  / HTTP/1.1", FramingError::RequestLine);
    check("GET / HTTP/1.1 ", FramingError::RequestLine);
    check("GET /a b HTTP/1.1", FramingError::RequestLine);
    check("G(T / HTTP/1.1", FramingError::RequestLine);
    check("GET /\u{e9} HTTP/1.1", FramingError::RequestLine);
    check("", FramingError::RequestLine);
    assert_eq!(
        scan("GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Err(FramingError::TransferEncoding)
    );
}

#[test]
fn heads_are_bounded_whether_complete_or_not() {
    let long = format!("X-A: {}\r\n", "a".repeat(600));
    refused(&long, FramingError::HeadTooLarge);
    assert_eq!(scan(&"a".repeat(513)), Err(FramingError::HeadTooLarge));
    refused(&"a: b\r\n".repeat(8), FramingError::TooManyHeaders);
    assert!(with(&"a: b\r\n".repeat(7)).is_ok());
}

#[test]
fn a_head_may_come_in_any_pieces() {
    let head = b"POST /a HTTP/1.1\r\nHost: gw.test\r\nUpgrade: x\r\nContent-Length: 12\r\n\r\nrest";
    let mut scanner = HeadScanner::default();
    let complete = (1..=head.len()).find_map(|end| scanner.advance(&head[..end], LIMITS).unwrap()).unwrap();
    assert_eq!(complete, Head { length: head.len() - 4, framing: Framing::Length(12), upgrade: true });
}

fn chunks(body: &str) -> Result<(usize, bool), FramingError> {
    ChunkScanner::default().advance(body.as_bytes())
}

#[test]
fn chunked_bodies() {
    assert_eq!(chunks("3\r\nabc\r\n0\r\n\r\nGET"), Ok((13, true)));
    assert_eq!(chunks("A\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n"), Ok((28, true)));
    assert_eq!(chunks("5\r\nhel"), Ok((6, false)));
    for body in [
        "0x5\r\nhello\r\n",
        "0_2e\r\n",
        "+5\r\n",
        " 5\r\n",
        "5 \r\n",
        "\r\nhello",
        "5\nhello",
        "5;a=b\r\nhello",
        "5;a\nb\r\n",
        "5\r\nhelloXX0\r\n",
        "5\r\nhello\n0\r\n",
        "1000000000000000\r\n",
        "-1\r\n",
    ] {
        assert_eq!(chunks(body), Err(FramingError::Chunk), "{body:?}");
    }
    assert_eq!(chunks("0\r\nno colon\r\n\r\n"), Err(FramingError::Trailer));
    assert_eq!(chunks("0\r\nX: y\n\r\n"), Err(FramingError::Trailer));
    assert_eq!(chunks(&format!("0\r\nX: {}", "y".repeat(TRAILER_BYTES))), Err(FramingError::Trailer));
}

proptest! {
    #[test]
    fn pieces_of_a_body_give_what_the_whole_gives(body in "[0-9a-f\r\n;x]{0,60}", cut in 0usize..60) {
        let whole = chunks(&body);
        let cut = cut.min(body.len());
        let mut scanner = ChunkScanner::default();
        let first = scanner.advance(&body.as_bytes()[..cut]);
        let pieces = match first {
            Ok((_, false)) => scanner.advance(&body.as_bytes()[cut..]).map(|(taken, ended)| (taken + cut, ended)),
            done => done,
        };
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _outcome = HeadScanner::default().advance(&bytes, LIMITS);
        let _outcome = ChunkScanner::default().advance(&bytes);
    }
}
