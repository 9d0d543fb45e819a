//! The one canonical form of a request path, and what is refused instead of repaired.
//!
//! Policy, route match and upstream all see this form (ARCHITECTURE.md, invariant 4): percent-escapes of characters
//! that need none are decoded, all others are written in upper case, and whatever two parsers could read in two ways
//! is an error (RFC 3986 section 6.2.2, RFC 9110 section 4.2.3).

use std::fmt::Write as _;

/// A path that could mean different things to different readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Does not begin with `/`.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a malformed percent-escape")]
    BadEscape,
    /// A control character, raw or escaped.
    #[error("the path has a control character")]
    Control,
    /// Bytes that are not UTF-8, or not escaped.
    #[error("the path is not UTF-8, or has characters that must be escaped")]
    NotUtf8,
    /// `%2f`, `%5c` or a backslash: a separator to some readers.
    #[error("the path has an escaped slash or a backslash")]
    EncodedSeparator,
    /// A `.` or `..` segment, raw or escaped.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `..` above the root.
    #[error("the path goes above the root")]
    AboveRoot,
    /// `//`.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `;`, raw or escaped: a path parameter to some readers.
    #[error("the path has a `;` parameter")]
    PathParameter,
}

/// How lenient to be with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathRules {
    /// Merge `//`, and resolve `/./` and `/../`, instead of refusing them.
    pub merge_slashes: bool,
    /// Take `;` as an ordinary character.
    pub path_parameters: bool,
}

/// A canonical path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath {
    text: String,
}

impl CanonicalPath {
    /// Brings the raw path of a request target (without its query) into canonical form.
    pub fn parse(raw: &str, rules: PathRules) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if is_canonical(raw.as_bytes()) {
            return Ok(Self { text: raw.to_owned() });
        }
        canonicalise(raw, rules)
    }

    /// `/`.
    pub fn root() -> Self {
        Self { text: "/".to_owned() }
    }

    /// The canonical text, percent-encoded, as it is matched and sent upstream.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The decoded segments: `/orders/a%20b` gives `orders`, `a b`; `/` gives none. A trailing slash gives a last
    /// empty segment.
    pub fn segments(&self) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
        let inner = self.text.strip_prefix('/').unwrap_or(&self.text);
        let count = if inner.is_empty() { 0 } else { usize::MAX };
        inner
            .split('/')
            .take(count)
            .map(|segment| percent_encoding::percent_decode_str(segment).decode_utf8_lossy())
    }
}

/// Whether every byte stands for itself and no segment is empty or begins with a dot: the path of nearly all requests.
fn is_canonical(raw: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in raw {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.' | b'/');
        if !plain || (previous == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        previous = byte;
    }
    true
}

fn canonicalise(raw: &str, rules: PathRules) -> Result<CanonicalPath, PathError> {
    let mut kept: Vec<String> = Vec::new();
    let mut trailing = false;
    let mut parts = raw.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let decoded = decode(part, rules)?;
        match decoded.as_str() {
            "" if last => trailing = true,
            "" if rules.merge_slashes => {}
            "" => return Err(PathError::EmptySegment),
            // An escaped dot segment is never resolved: some readers would not see it.
            "." | ".." if part.contains('%') || !rules.merge_slashes => return Err(PathError::DotSegment),
            "." => trailing = last,
            ".." => {
                kept.pop().ok_or(PathError::AboveRoot)?;
                trailing = last;
            }
            _ => kept.push(decoded),
        }
    }
    let mut text = String::with_capacity(raw.len());
    for segment in &kept {
        text.push('/');
        encode(segment, &mut text);
    }
    if trailing || kept.is_empty() {
        text.push('/');
    }
    Ok(CanonicalPath { text })
}

/// Decodes one segment, refusing what is ambiguous in it.
fn decode(part: &str, rules: PathRules) -> Result<String, PathError> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        let value = match byte {
            b'%' => {
                let high = rest.next().and_then(hex_value).ok_or(PathError::BadEscape)?;
                let low = rest.next().and_then(hex_value).ok_or(PathError::BadEscape)?;
                let value = high << 4 | low;
                if value == b'/' {
                    return Err(PathError::EncodedSeparator);
                }
                value
            }
            0x80.. => return Err(PathError::NotUtf8),
            _ => byte,
        };
        match value {
            b'\\' => return Err(PathError::EncodedSeparator),
            0..=0x1f | 0x7f => return Err(PathError::Control),
            b';' if !rules.path_parameters => return Err(PathError::PathParameter),
            _ => bytes.push(value),
        }
    }
    String::from_utf8(bytes).map_err(|_| PathError::NotUtf8)
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Escapes all but `pchar` (RFC 3986 section 3.3), in upper case.
fn encode(segment: &str, out: &mut String) {
    for byte in segment.bytes() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b':'
                    | b'@'
            );
        if plain {
            out.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENIENT: PathRules = PathRules { merge_slashes: true, path_parameters: true };

    #[track_caller]
    fn check(raw: &str, want: Result<&str, PathError>) {
        let got = CanonicalPath::parse(raw, PathRules::default());
        assert_eq!(got.as_ref().map(CanonicalPath::as_str).map_err(|error| *error), want, "{raw}");
    }

    #[test]
    fn one_form_for_one_path() {
        check("/", Ok("/"));
        check("/orders/42", Ok("/orders/42"));
        check("/orders/", Ok("/orders/"));
        check("/%61dmin", Ok("/admin"));
        check("/a%20b/%7e", Ok("/a%20b/~"));
        check("/caf%c3%a9", Ok("/caf%C3%A9"));
        check("/a:b@c+d", Ok("/a:b@c+d"));
        check("/100%25", Ok("/100%25"));
        check("/a%23b%3f", Ok("/a%23b%3F"));
        check("/a/.hidden/..b", Ok("/a/.hidden/..b"));
    }

    #[test]
    fn ambiguity_is_refused() {
        check("", Err(PathError::NotAbsolute));
        check("admin", Err(PathError::NotAbsolute));
        check("//admin", Err(PathError::EmptySegment));
        check("/a//b", Err(PathError::EmptySegment));
        check("/public/../admin", Err(PathError::DotSegment));
        check("/a/./b", Err(PathError::DotSegment));
        check("/public/%2e%2e/admin", Err(PathError::DotSegment));
        check("/public/.%2E/admin", Err(PathError::DotSegment));
        check("/public/..;/admin", Err(PathError::PathParameter));
        check("/admin%3bx", Err(PathError::PathParameter));
        check("/public%2fadmin", Err(PathError::EncodedSeparator));
        check("/public%5cadmin", Err(PathError::EncodedSeparator));
        check("/public\\admin", Err(PathError::EncodedSeparator));
        check("/admin%00.png", Err(PathError::Control));
        check("/admin%09", Err(PathError::Control));
        check("/%", Err(PathError::BadEscape));
        check("/%zz", Err(PathError::BadEscape));
        check("/%+1", Err(PathError::BadEscape));
        check("/%c0%ae", Err(PathError::NotUtf8));
        check("/admi\u{f1}", Err(PathError::NotUtf8));
    }

    #[test]
    fn merging_resolves_but_never_above_the_root() {
        let parse = |raw| CanonicalPath::parse(raw, LENIENT).map(|path| path.text);
        assert_eq!(parse("//a/./b//../c;v=1"), Ok("/a/c;v=1".to_owned()));
        assert_eq!(parse("/a/.."), Ok("/".to_owned()));
        assert_eq!(parse("/a/b/.."), Ok("/a/".to_owned()));
        assert_eq!(parse("/../etc"), Err(PathError::AboveRoot));
        assert_eq!(parse("/a/%2e%2e/b"), Err(PathError::DotSegment));
    }

    #[test]
    fn segments_are_decoded() {
        let segments = |raw| -> Vec<String> {
            let path = CanonicalPath::parse(raw, PathRules::default()).unwrap();
            path.segments().map(std::borrow::Cow::into_owned).collect()
        };
        assert_eq!(segments("/"), Vec::<String>::new());
        assert_eq!(segments("/orders/a%20b"), ["orders", "a b"]);
        assert_eq!(segments("/orders/"), ["orders", ""]);
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_stable(raw in "/[ -~]{0,40}", merge in any::<bool>(), parameters in any::<bool>()) {
            let rules = PathRules { merge_slashes: merge, path_parameters: parameters };
            if let Ok(path) = CanonicalPath::parse(&raw, rules) {
                prop_assert_eq!(&CanonicalPath::parse(path.as_str(), rules).unwrap(), &path);
                prop_assert!(path.as_str().starts_with('/'));
                prop_assert!(!path.segments().any(|segment| segment == ".." || segment == "."));
            }
        }
    }
}
