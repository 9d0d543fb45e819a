//! Chunked bodies: the scanner against a decoder that is as plain as can be.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::pipeline::framing::ChunkScanner;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (cuts, bytes) = input;
    let whole = ChunkScanner::default().advance(&bytes);
    let mut scanner = ChunkScanner::default();
    let mut at = 0;
    let mut outcome = Ok((0, false));
    for cut in cuts.iter().map(|cut| usize::from(*cut)).chain([usize::MAX]) {
        let end = at + cut.min(bytes.len() - at);
        outcome = scanner.advance(&bytes[at..end]).map(|(taken, ended)| (at + taken, ended));
        match outcome {
            Ok((_, false)) => at = end,
            Ok((_, true)) | Err(_) => break,
        }
    }
    assert_eq!(outcome, whole);
    if let Ok((end, true)) = whole {
        assert_eq!(plain_end(&bytes), Some(end));
    }
});

fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let length = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[at..at + length], at + length + 2))
}

fn plain_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let (size, next) = line(bytes, at)?;
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        at = next;
        if size > 0 {
            at += size + 2;
            continue;
        }
        loop {
            let (trailer, next) = line(bytes, at)?;
            at = next;
            if trailer.is_empty() {
                return Some(at);
            }
        }
    }
}
