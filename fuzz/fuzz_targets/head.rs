//! Heads of HTTP/1 requests: the strict scanner against a lenient parser.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::pipeline::framing::{FramingError, Head, HeadLimits, HeadScanner};

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 64 };

fuzz_target!(|input: (u16, Vec<u8>)| {
    let (cut, bytes) = input;
    let whole = HeadScanner::default().advance(&bytes, LIMITS);
    assert_eq!(in_two(&bytes, usize::from(cut)), whole);
    if let Ok(Some(head)) = whole {
        check(head, &bytes[..head.length]);
    }
});

/// What the scanner says of the bytes when they come in two parts.
fn in_two(bytes: &[u8], cut: usize) -> Result<Option<Head>, FramingError> {
    let mut scanner = HeadScanner::default();
    match scanner.advance(&bytes[..cut.min(bytes.len())], LIMITS) {
        Ok(None) => scanner.advance(bytes, LIMITS),
        done => done,
    }
}

fn check(head: Head, bytes: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    // The library is stricter with some characters of targets, and refuses them itself.
    let Ok(parsed) = request.parse(bytes) else { return };
    assert_eq!(parsed, httparse::Status::Complete(head.length));
    let has = |name: &str| request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
    assert_eq!(has("host"), 1);
    assert!(has("content-length") + has("transfer-encoding") <= 1);
    assert_eq!(has("upgrade") > 0, head.upgrade);
    assert!(!request.headers.iter().any(|field| field.name.contains('_')));
}
