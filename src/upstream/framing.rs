//! Response heads that two readers could frame differently are refused, never repaired.
//!
//! hyper lets `Transfer-Encoding` win over `Content-Length` but leaves both in the head (RFC 9112 section 6.3); passed
//! on, the wrong one could frame the response for the client.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};

/// Whether `headers` frame a response with `status` in exactly one way: no `Content-Length` or one decimal, or
/// `Transfer-Encoding: chunked` alone; and no length where no body can be.
pub(crate) fn is_unambiguous(status: StatusCode, headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH);
    let encoding = headers.get(TRANSFER_ENCODING);
    match (length, encoding) {
        (None, None) => true,
        (Some(length), None) => {
            let decimal = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
            let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
            decimal && is_single(headers, &CONTENT_LENGTH) && (!bodiless || length.as_bytes() == b"0")
        }
        (None, Some(encoding)) => {
            encoding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && is_single(headers, &TRANSFER_ENCODING)
                && !status.is_informational()
                && status != StatusCode::NO_CONTENT
        }
        (Some(_), Some(_)) => false,
    }
}

fn is_single(headers: &HeaderMap, name: &http::HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_none()
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
