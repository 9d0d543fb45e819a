//! Counts interim (1xx) responses in the bytes before a final response's head.
//!
//! It reads no more of HTTP than it must: the first digit of each status, and where a head ends. Whether the bytes are
//! a valid response is the parser's to say.

use crate::upstream::INTERIM_RESPONSES_MAX;

/// More interim responses than are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {INTERIM_RESPONSES_MAX} interim responses")]
pub(crate) struct TooManyInterim;

/// Where in a sequence of heads the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// In `HTTP/1.1 2`, that many bytes read (empty lines before it are skipped, as the parser does).
    StatusLine(u8),
    /// In the digits after a first `1`: a 101 is final. The digits so far, as a number.
    Interim(u16),
    /// In the rest of an interim head; bytes in the current line, `\r` not counted.
    Head { line_empty: bool },
}

/// `HTTP/1.1 `.
const BEFORE_STATUS: u8 = 9;

/// The scanner of one connection; it starts anew after each final response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InterimScanner {
    position: Position,
    seen: u32,
}

impl Default for InterimScanner {
    fn default() -> Self {
        Self { position: Position::StatusLine(0), seen: 0 }
    }
}

impl InterimScanner {
    /// Takes the next bytes. `true` once the final response has begun; what follows then is not the scanner's.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<bool, TooManyInterim> {
        // Nearly every response: a whole status line at once, and not a 1xx.
        if self.position == Position::StatusLine(0)
            && let [b'H', _, _, _, _, _, _, _, _, digit, ..] = bytes
            && *digit != b'1'
        {
            return Ok(self.finish());
        }
        for &byte in bytes {
            self.position = match self.position {
                Position::StatusLine(0) if matches!(byte, b'\r' | b'\n') => Position::StatusLine(0),
                Position::StatusLine(read) if read < BEFORE_STATUS => Position::StatusLine(read + 1),
                Position::StatusLine(_) if byte == b'1' => Position::Interim(1),
                Position::StatusLine(_) => return Ok(self.finish()),
                Position::Interim(digits) if digits < 100 && byte.is_ascii_digit() => {
                    match digits * 10 + u16::from(byte - b'0') {
                        101 => return Ok(self.finish()),
                        more => Position::Interim(more),
                    }
                }
                Position::Interim(_) => {
                    self.seen += 1;
                    if self.seen > INTERIM_RESPONSES_MAX {
                        return Err(TooManyInterim);
                    }
                    Position::Head { line_empty: false }
                }
                Position::Head { line_empty: true } if byte == b'\n' => Position::StatusLine(0),
                Position::Head { .. } if byte == b'\n' => Position::Head { line_empty: true },
                Position::Head { line_empty } => Position::Head { line_empty: line_empty && byte == b'\r' },
            };
        }
        Ok(false)
    }

    fn finish(&mut self) -> bool {
        *self = Self::default();
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    const FINAL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    fn interims(count: u32, last: &str) -> Vec<u8> {
        let mut bytes: Vec<u8> = EARLY.repeat(count as usize).into_bytes();
        bytes.extend_from_slice(last.as_bytes());
        bytes
    }

    #[test]
    fn a_final_response_is_seen_at_its_first_digit() {
        for head in [FINAL, "\r\n\r\nHTTP/1.1 404 Not Found\r\n", "HTTP/1.0 500 x\r\n", "HTTP/1.1 101 x\r\n"]
        {
            assert_eq!(InterimScanner::default().scan(head.as_bytes()), Ok(true), "{head}");
        }
        assert_eq!(InterimScanner::default().scan(b"HTTP/1.1 10"), Ok(false));
    }

    #[test]
    fn the_count_starts_anew_for_each_final_response() {
        let mut scanner = InterimScanner::default();
        for _ in 0..3 {
            assert_eq!(scanner.scan(&interims(INTERIM_RESPONSES_MAX, FINAL)), Ok(true));
        }
    }

    #[test]
    fn one_too_many_is_an_error() {
        let mut scanner = InterimScanner::default();
        assert_eq!(scanner.scan(&interims(INTERIM_RESPONSES_MAX + 1, FINAL)), Err(TooManyInterim));
    }

    #[test]
    fn bare_newlines_do_not_hide_a_flood() {
        let flood = "HTTP/1.1 100 Continue\n\n".repeat(40);
        assert_eq!(InterimScanner::default().scan(flood.as_bytes()), Err(TooManyInterim));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(count in 0u32..40, cuts in prop::collection::vec(0usize..2_000, 0..20)) {
            let bytes = interims(count, FINAL);
            let whole = InterimScanner::default().scan(&bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut scanner = InterimScanner::default();
            let mut result = Ok(false);
            let mut from = 0;
            for cut in cuts {
                if result == Ok(false) {
                    result = scanner.scan(&bytes[from..cut]);
                    from = cut;
                }
            }
            prop_assert_eq!(result, whole);
        }
    }
}
