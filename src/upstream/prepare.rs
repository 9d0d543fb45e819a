//! A request as each HTTP version wants it: target, authority, framing. No other field is touched.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Uri, Version, uri};
use http_body::Body;

use crate::upstream::body::RequestBody;
use crate::upstream::error::Unsendable;
use crate::upstream::outgoing::Outgoing;

/// A request that is to be sent; empty once any of it may have been.
pub(crate) type Slot<B> = Option<Request<Outgoing<B>>>;

/// What a request must be to be sent at all.
pub(crate) fn check<B: Body>(request: &Request<B>) -> Result<(), Unsendable> {
    let (method, uri) = (request.method(), request.uri());
    if method == Method::CONNECT {
        return Err(Unsendable::Connect);
    }
    let origin_form = uri.path().starts_with('/') || (uri.path() == "*" && method == Method::OPTIONS);
    if uri.authority().is_some() || !origin_form {
        return Err(Unsendable::Target);
    }
    match request.headers().get(CONTENT_LENGTH) {
        // hyper would send this field as it stands, and the body as it is.
        Some(length) if !is_length_of(length, request.body()) => Err(Unsendable::BodyLength),
        Some(_) | None => Ok(()),
    }
}

fn is_length_of<B: Body>(length: &HeaderValue, body: &B) -> bool {
    let exact = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let declared = length.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    match (exact, declared) {
        (Some(exact), Some(declared)) => exact == declared,
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

/// A request that tells how far its body is.
pub(crate) fn wrap<B: RequestBody>(request: Request<B>) -> Request<Outgoing<B>> {
    request.map(Outgoing::new)
}

/// A copy to be sent again; `None` if its body cannot be.
pub(crate) fn copy<B: RequestBody>(request: &Request<B>) -> Option<Request<B>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Makes `request` one for HTTP/1.1; `host` replaces its `Host`.
pub(crate) fn for_http1<B: RequestBody>(
    request: Option<&mut Request<Outgoing<B>>>,
    host: Option<HeaderValue>,
) -> Result<(), Unsendable> {
    let Some(request) = request else { return Ok(()) };
    *request.version_mut() = Version::HTTP_11;
    match host {
        Some(host) => drop(request.headers_mut().insert(HOST, host)),
        None if request.headers().contains_key(HOST) => {}
        None => return Err(Unsendable::Host),
    }
    // hyper sends no body at all with these methods unless told how it is framed; the upstream would then get another
    // request than the one that was judged.
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.body().is_end_stream()
        && request.body().size_hint().exact().is_none()
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    Ok(())
}

/// Makes `request` one for HTTP/2: `:scheme` and `:authority` in its URI; `host` replaces its `Host`.
pub(crate) fn for_http2<B>(
    request: Option<&mut Request<B>>,
    tls: bool,
    host: Option<HeaderValue>,
) -> Result<(), Unsendable> {
    let Some(request) = request else { return Ok(()) };
    let own = request.headers_mut().remove(HOST);
    let host = host.or(own).ok_or(Unsendable::Host)?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| Unsendable::Host)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Unsendable::Target)?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// Brings a request that was not sent back into the form in which it came: origin form, `Host`, nothing sent.
pub(crate) fn restore<B: RequestBody>(mut request: Request<Outgoing<B>>) -> Request<Outgoing<B>> {
    let uri = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = uri.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    let mut parts = uri::Parts::default();
    parts.path_and_query = Some(uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    request.map(|body| Outgoing::new(body.into_inner()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http_body::{Frame, SizeHint};

    use super::*;

    /// A body of which only the length is told.
    #[derive(Debug)]
    struct Sized(Option<u64>);

    impl Body for Sized {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(None)
        }

        fn is_end_stream(&self) -> bool {
            self.0 == Some(0)
        }

        fn size_hint(&self) -> SizeHint {
            self.0.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    impl RequestBody for Sized {
        fn try_clone(&self) -> Option<Self> {
            Some(Self(self.0))
        }
    }

    fn request(method: &str, target: &str, length: Option<u64>) -> Request<Sized> {
        Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "client.example")
            .body(Sized(length))
            .unwrap()
    }

    #[test]
    fn tunnels_and_absolute_targets_are_refused() {
        assert_eq!(check(&request("CONNECT", "a:1", Some(0))), Err(Unsendable::Connect));
        assert_eq!(check(&request("GET", "http://a/b", Some(0))), Err(Unsendable::Target));
        assert_eq!(check(&request("GET", "*", Some(0))), Err(Unsendable::Target));
        assert_eq!(check(&request("OPTIONS", "*", Some(0))), Ok(()));
        assert_eq!(check(&request("GET", "/a?b", Some(0))), Ok(()));
    }

    #[test]
    fn a_length_that_is_not_the_bodys_is_refused() {
        let check_length = |declared: &str, actual| {
            let mut request = request("POST", "/", actual);
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_str(declared).unwrap());
            check(&request)
        };
        for (declared, actual) in [("5", Some(5)), ("0", Some(0)), ("5", None)] {
            assert_eq!(check_length(declared, actual), Ok(()), "{declared} {actual:?}");
        }
        for (declared, actual) in [("5", Some(0)), ("5", Some(6)), ("x", None), ("", Some(0))] {
            assert_eq!(check_length(declared, actual), Err(Unsendable::BodyLength), "{declared} {actual:?}");
        }
    }

    #[test]
    fn a_get_with_a_body_of_unknown_length_is_sent_chunked() {
        let framed = |method, length| {
            let mut request = request(method, "/", length).map(Outgoing::new);
            for_http1(Some(&mut request), None).unwrap();
            request.headers().contains_key(TRANSFER_ENCODING)
        };
        assert!(framed("GET", None));
        assert!(!framed("GET", Some(3)));
        assert!(!framed("GET", Some(0)));
        assert!(!framed("POST", None), "hyper frames these itself");
    }

    #[test]
    fn http2_and_back() {
        let mut sent = request("GET", "/a?b=c", Some(0)).map(Outgoing::new);
        for_http2(Some(&mut sent), true, None).unwrap();
        assert_eq!(sent.uri(), "https://client.example/a?b=c");
        assert!(!sent.headers().contains_key(HOST));
        let back = restore(sent);
        assert_eq!(back.uri(), "/a?b=c");
        assert_eq!(back.headers()[HOST], "client.example");
        let mut other = back;
        for_http2(Some(&mut other), false, Some(HeaderValue::from_static("orders:80"))).unwrap();
        assert_eq!(other.uri(), "http://orders:80/a?b=c");
    }

    #[test]
    fn no_host_no_request() {
        let mut bare = request("GET", "/", Some(0)).map(Outgoing::new);
        bare.headers_mut().remove(HOST);
        assert_eq!(for_http1(Some(&mut bare), None), Err(Unsendable::Host));
        assert_eq!(for_http2(Some(&mut bare), false, None), Err(Unsendable::Host));
        let mut bad = request("GET", "/", Some(0)).map(Outgoing::new);
        bad.headers_mut().insert(HOST, HeaderValue::from_static("a/b"));
        assert_eq!(for_http2(Some(&mut bad), false, None), Err(Unsendable::Host));
    }
}
