//! Credentials in header fields and query parameters: exactly one, in one place, in one reading.

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

/// The header comes more than once, so nobody can tell which one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ambiguous;

/// The header's only value, `None` where the header is absent.
pub(super) fn only<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Result<Option<&'r [u8]>, Ambiguous> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(HeaderValue::as_bytes)),
        (_, Some(_)) => Err(Ambiguous),
    }
}

/// Whether the query has a parameter of this name, in whatever case, percent-encoding or use of `-` for `_`.
pub(super) fn query_has(query: Option<&str>, name: &str) -> bool {
    let parameters = query.unwrap_or_default().split(['&', ';']);
    parameters.into_iter().any(|parameter| {
        let written = parameter.split_once('=').map_or(parameter, |(written, _)| written);
        let decoded = percent_decode_str(written).map(fold);
        decoded.eq(name.bytes().map(fold))
    })
}

fn fold(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_value_is_a_credential() {
        let name = HeaderName::from_static("x-api-key");
        let mut headers = HeaderMap::new();
        assert_eq!(only(&headers, &name), Ok(None));
        headers.append(&name, HeaderValue::from_static("one"));
        assert_eq!(only(&headers, &name), Ok(Some(&b"one"[..])));
        headers.append(&name, HeaderValue::from_static("one"));
        assert_eq!(only(&headers, &name), Err(Ambiguous));
    }

    #[test]
    fn query_parameters_are_found_in_every_spelling() {
        for query in ["api_key=1", "a=b&API_KEY", "x&api-key=", "api%5Fkey=1", "%61pi_key=1", "a=1;api_key=2"]
        {
            assert!(query_has(Some(query), "api_key"), "{query}");
        }
        for query in ["", "api_keys=1", "a=api_key", "xapi_key=1", "api__key=1"] {
            assert!(!query_has(Some(query), "api_key"), "{query}");
        }
        assert!(!query_has(None, "api_key"));
    }
}
