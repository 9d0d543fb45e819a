//! Byte-level strictness of HTTP/1 messages, in front of the HTTP library.
//!
//! The library accepts what two parsers can read in two ways: bare LF, Content-Length beside Transfer-Encoding, doubled
//! codings, several Hosts. Here such a message is refused before the library sees it (RFC 9112 sections 2.2, 5.1, 6.1, 6.3).
//! Pure: it looks at bytes and never does IO.

use memchr::memchr;

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FramingError {
    /// LF without CR, or CR without LF.
    #[error("a line does not end with CRLF")]
    LineEnd,
    /// Not `method SP target SP HTTP/1.x`.
    #[error("the request line is malformed")]
    RequestLine,
    /// `HTTP/2.0` without its preface, `HTTP/1.2`, ...
    #[error("the HTTP version is not supported")]
    Version,
    /// A header name with something other than token characters, or a line that continues the one before.
    #[error("a header name is malformed")]
    HeaderName,
    /// A header name with an underscore: the same as its dashed twin to many servers.
    #[error("a header name has an underscore")]
    HeaderUnderscore,
    /// A control character in a header value.
    #[error("a header value has a control character")]
    HeaderValue,
    /// Content-Length that is not one plain number, or several of them.
    #[error("Content-Length is malformed or repeated")]
    ContentLength,
    /// Transfer-Encoding that is not exactly `chunked`, repeated, or in HTTP/1.0.
    #[error("Transfer-Encoding is malformed, repeated or not `chunked`")]
    TransferEncoding,
    /// Both Content-Length and Transfer-Encoding.
    #[error("both Content-Length and Transfer-Encoding are present")]
    LengthConflict,
    /// No Host, or several.
    #[error("Host is missing or repeated")]
    Host,
    /// The head is larger than the listener allows.
    #[error("the request head is too large")]
    HeadTooLarge,
    /// More header fields than the listener allows.
    #[error("the request has too many header fields")]
    TooManyHeaders,
    /// A chunk that is malformed.
    #[error("the chunked body is malformed")]
    Chunk,
    /// A trailer section that is malformed or too large.
    #[error("the trailer section is malformed or too large")]
    Trailer,
}

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A complete, well-formed head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes, final empty line included.
    pub length: usize,
    /// How the body is delimited.
    pub framing: Framing,
    /// The client asks for another protocol: bytes after the head belong to nobody until that is answered.
    pub upgrade: bool,
}

/// Bounds of a head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes in all.
    pub bytes: usize,
    /// Header fields.
    pub fields: usize,
}

/// Scans a head as it arrives; each line is looked at once.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that was seen in the head")]
pub struct HeadScanner {
    line_start: usize,
    fields: usize,
    seen_request_line: bool,
    http10: bool,
    hosts: usize,
    content_length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// The most a trailer section may hold.
const TRAILER_BYTES: usize = 8 * 1024;
/// Hexadecimal digits of a chunk size: 16 MiB × 16 is beyond every body limit that fits a `u64`.
const CHUNK_SIZE_DIGITS: usize = 15;

// === impl HeadScanner ===

impl HeadScanner {
    /// Looks at the new part of `buffer`, which begins with the head's first byte. `None` means more is needed.
    pub fn advance(&mut self, buffer: &[u8], limits: HeadLimits) -> Result<Option<Head>, FramingError> {
        while let Some(rest) = buffer.get(self.line_start..) {
            let Some(end) = memchr(b'\n', rest) else { break };
            let line = match rest.get(..end).and_then(|line| line.strip_suffix(b"\r")) {
                Some(line) if memchr(b'\r', line).is_none() => line,
                Some(_) | None => return Err(FramingError::LineEnd),
            };
            self.line_start += end + 1;
            if self.line_start > limits.bytes {
                return Err(FramingError::HeadTooLarge);
            }
            if !self.seen_request_line {
                self.request_line(line)?;
            } else if line.is_empty() {
                return self.finish().map(Some);
            } else {
                self.field(line, limits)?;
            }
        }
        if buffer.len() > limits.bytes {
            return Err(FramingError::HeadTooLarge);
        }
        Ok(None)
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), FramingError> {
        self.seen_request_line = true;
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
            return Err(FramingError::RequestLine);
        };
        let well_formed = !method.is_empty()
            && method.iter().all(|byte| is_token(*byte))
            && !target.is_empty()
            && target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
        if !well_formed {
            return Err(FramingError::RequestLine);
        }
        match (parts.next(), parts.next()) {
            (Some(b"HTTP/1.1"), None) => {}
            (Some(b"HTTP/1.0"), None) => self.http10 = true,
            (Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']), None) => {
                return Err(FramingError::Version);
            }
            (None | Some(_), _) => return Err(FramingError::RequestLine),
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8], limits: HeadLimits) -> Result<(), FramingError> {
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(FramingError::TooManyHeaders);
        }
        let (name, value) = split_field(line)?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.hosts += 1,
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => self.length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || self.http10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(FramingError::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn length(&mut self, value: &[u8]) -> Result<(), FramingError> {
        let repeated = self.content_length.replace(content_length(value)?).is_some();
        if repeated { Err(FramingError::ContentLength) } else { Ok(()) }
    }

    fn finish(&self) -> Result<Head, FramingError> {
        if self.hosts != 1 {
            return Err(FramingError::Host);
        }
        let framing = match (self.content_length, self.chunked) {
            (Some(_), true) => return Err(FramingError::LengthConflict),
            (None, true) => Framing::Chunked,
            (Some(0) | None, false) => Framing::None,
            (Some(length), false) => Framing::Length(length),
        };
        Ok(Head { length: self.line_start, framing, upgrade: self.upgrade })
    }
}

/// Splits `name: value`, with optional white space around the value removed.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), FramingError> {
    let colon = memchr(b':', line).ok_or(FramingError::HeaderName)?;
    let (name, value) = line.split_at_checked(colon).ok_or(FramingError::HeaderName)?;
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(FramingError::HeaderName);
    }
    if memchr(b'_', name).is_some() {
        return Err(FramingError::HeaderUnderscore);
    }
    let value = value.get(1..).unwrap_or_default();
    // Without a way out of the loop, so that it is vectorised.
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    if value.iter().fold(false, |found, byte| found | is_control(*byte)) {
        return Err(FramingError::HeaderValue);
    }
    Ok((name, value.trim_ascii()))
}

/// Whether the value of a Content-Length is one plain number. Leading zeros are not plain: some readers take them for
/// octal.
pub(crate) fn is_length(value: &[u8]) -> bool {
    let plain = value.iter().all(u8::is_ascii_digit) && (value.len() == 1 || !value.starts_with(b"0"));
    plain && !value.is_empty() && value.len() <= 18
}

fn content_length(value: &[u8]) -> Result<u64, FramingError> {
    if !is_length(value) {
        return Err(FramingError::ContentLength);
    }
    Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// `tchar` of RFC 9110 section 5.6.2.
pub fn is_token(byte: u8) -> bool {
    const TOKENS: [bool; 256] = {
        let mut tokens = [false; 256];
        let mut rest: &[u8] =
            b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        while let [first, others @ ..] = rest {
            if let Some(token) = tokens.as_mut_slice().split_at_mut(*first as usize).1.first_mut() {
                *token = true;
            }
            rest = others;
        }
        tokens
    };
    TOKENS.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Follows a chunked body byte by byte.
#[derive(Debug, Clone, Default)]
pub struct ChunkScanner {
    state: ChunkState,
}

#[derive(Debug, Clone)]
enum ChunkState {
    Size {
        digits: usize,
        value: u64,
    },
    SizeEnd {
        value: u64,
    },
    Data {
        remaining: u64,
    },
    DataCr,
    DataLf,
    /// The line so far, and the bytes of the whole section.
    Trailer {
        line: Vec<u8>,
        total: usize,
    },
}

impl Default for ChunkState {
    fn default() -> Self {
        Self::Size { digits: 0, value: 0 }
    }
}

// === impl ChunkScanner ===

impl ChunkScanner {
    /// Looks at `bytes`. Gives how many of them belong to the body, and whether it has ended with them.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), FramingError> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match &mut self.state {
                ChunkState::Size { digits, value } => {
                    self.state = size_byte(byte, *digits, *value)?;
                    at += 1;
                }
                ChunkState::SizeEnd { value } => {
                    self.state = match (byte, *value) {
                        (b'\n', 0) => ChunkState::Trailer { line: Vec::new(), total: 0 },
                        (b'\n', remaining) => ChunkState::Data { remaining },
                        _ => return Err(FramingError::Chunk),
                    };
                    at += 1;
                }
                ChunkState::Data { remaining } => {
                    let available = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX);
                    let taken = available.min(*remaining);
                    *remaining -= taken;
                    at += usize::try_from(taken).unwrap_or(usize::MAX);
                    if *remaining == 0 {
                        self.state = ChunkState::DataCr;
                    }
                }
                ChunkState::DataCr => {
                    self.state = expect(byte, b'\r', ChunkState::DataLf)?;
                    at += 1;
                }
                ChunkState::DataLf => {
                    self.state = expect(byte, b'\n', ChunkState::default())?;
                    at += 1;
                }
                ChunkState::Trailer { line, total } => {
                    at += 1;
                    if trailer_byte(byte, line, total)? {
                        return Ok((at, true));
                    }
                }
            }
        }
        Ok((at, false))
    }
}

/// A chunk size is hexadecimal digits and CRLF: extensions are refused, as nobody needs them and readers differ.
fn size_byte(byte: u8, digits: usize, value: u64) -> Result<ChunkState, FramingError> {
    match char::from(byte).to_digit(16) {
        Some(digit) if digits < CHUNK_SIZE_DIGITS => {
            Ok(ChunkState::Size { digits: digits + 1, value: value << 4 | u64::from(digit) })
        }
        None if byte == b'\r' && digits > 0 => Ok(ChunkState::SizeEnd { value }),
        Some(_) | None => Err(FramingError::Chunk),
    }
}

fn expect(byte: u8, wanted: u8, next: ChunkState) -> Result<ChunkState, FramingError> {
    if byte == wanted { Ok(next) } else { Err(FramingError::Chunk) }
}

/// Whether the section has ended.
fn trailer_byte(byte: u8, line: &mut Vec<u8>, total: &mut usize) -> Result<bool, FramingError> {
    *total += 1;
    if *total > TRAILER_BYTES {
        return Err(FramingError::Trailer);
    }
    if byte != b'\n' {
        line.push(byte);
        return Ok(false);
    }
    let complete = line.strip_suffix(b"\r").ok_or(FramingError::Trailer)?;
    if complete.is_empty() {
        return Ok(true);
    }
    split_field(complete).map_err(|_| FramingError::Trailer)?;
    line.clear();
    Ok(false)
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
