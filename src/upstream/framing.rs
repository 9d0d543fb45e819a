//! Response heads that two readers could frame differently are refused, never repaired.
//!
//! hyper lets `Transfer-Encoding` win over `Content-Length` but leaves both in the head (RFC 9112 section 6.3); passed
//! on, the wrong one could frame the response for the client.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};

/// Whether `headers` frame a response with `status` in exactly one way: no `Content-Length` or one decimal, or
/// `Transfer-Encoding: chunked` alone; and no length where no body can be.
pub(crate) fn is_unambiguous(status: StatusCode, headers: &HeaderMap) -> bool {
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
    let (length, encoding) = (single(headers, &CONTENT_LENGTH), single(headers, &TRANSFER_ENCODING));
    match (length, encoding) {
        (Ok(None), Ok(None)) => true,
        (Ok(Some(length)), Ok(None)) => {
            let decimal = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            decimal && (!bodiless || length == b"0")
        }
        (Ok(None), Ok(Some(encoding))) => encoding.eq_ignore_ascii_case(b"chunked") && !bodiless,
        (Ok(Some(_)), Ok(Some(_))) | (Err(Repeated), _) | (_, Err(Repeated)) => false,
    }
}

/// A field that must come once came twice.
struct Repeated;

fn single<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Result<Option<&'a [u8]>, Repeated> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first.map(http::HeaderValue::as_bytes)),
        (_, Some(_)) => Err(Repeated),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[track_caller]
    fn check(status: u16, fields: &[(&str, &str)], want: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        assert_eq!(is_unambiguous(status.try_into().unwrap(), &headers), want, "{status} {fields:?}");
    }

    #[test]
    fn one_way_to_frame_is_needed() {
        let (length, encoding) = ("content-length", "transfer-encoding");
        check(200, &[], true);
        check(200, &[(length, "0")], true);
        check(200, &[(length, "5")], true);
        check(200, &[(encoding, "chunked")], true);
        check(200, &[(encoding, "Chunked")], true);
        check(304, &[(length, "5")], true);
        check(204, &[(length, "0")], true);
        check(204, &[(length, "5")], false);
        check(204, &[(encoding, "chunked")], false);
        check(101, &[(encoding, "chunked")], false);
        check(200, &[(length, "5"), (encoding, "chunked")], false);
        check(200, &[(length, "5"), (length, "5")], false);
        check(200, &[(length, "5"), (length, "6")], false);
        check(200, &[(length, "5, 5")], false);
        check(200, &[(length, "+5")], false);
        check(200, &[(length, "")], false);
        check(200, &[(encoding, "gzip, chunked")], false);
        check(200, &[(encoding, "chunked"), (encoding, "chunked")], false);
        check(200, &[(encoding, "identity")], false);
    }
}
