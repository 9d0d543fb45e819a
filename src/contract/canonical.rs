//! The canonical form of a request's head, as far as the connection it came by has no part in it.
//!
//! Traffic and the test cases of policies both come through here, so that a case shows a policy what traffic would.
//! What two readers could take in two ways is refused, never repaired.

use http::header::Entry;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use crate::base::path::{CanonicalPath, PathError, PathRules};
use crate::contract::hop::{self, HopRequest};

/// More passes through gateways than this are a loop.
const HOPS_MAX: usize = 8;
/// More query parameters than this are an attack on whoever parses them.
const QUERY_PARAMETERS_MAX: usize = 1000;

/// Why a request is refused before any policy is asked, for what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A method the gateway does not pass (`CONNECT`, `TRACE`).
    #[error("the method is not supported")]
    Method,
    /// The target is not `/path?query` or an absolute `http` URI.
    #[error("the request target is malformed")]
    Target,
    /// The path is ambiguous.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Too many query parameters.
    #[error("the query has too many parameters")]
    QueryTooLarge,
    /// The policy reads the query, and it has a malformed escape or bytes that are not text.
    #[error("the query has a malformed escape or is not UTF-8")]
    QueryMalformed,
    /// `Host` is malformed, repeated, or disagrees with the target.
    #[error("the host is malformed or disagrees with the request target")]
    Host,
    /// A header name with `_`, which some servers take for `-`.
    #[error("a header name has an underscore")]
    HeaderUnderscore,
    /// A header value that is not UTF-8, so that the policy could not see it as it is.
    #[error("a header value is not UTF-8")]
    HeaderText,
    /// A header that can be there once only is there twice.
    #[error("a header that can be there only once is repeated")]
    RepeatedHeader,
    /// `Connection` names a header that must reach the upstream or the policy.
    #[error("`Connection` names a header that cannot be hop-by-hop")]
    ConnectionHeader,
    /// `Expect` with something other than `100-continue`.
    #[error("the expectation cannot be met")]
    Expectation,
    /// The request has passed gateways too often.
    #[error("the request has passed gateways too often")]
    Loop,
    /// The body is not what its type says.
    #[error("the body is not what its content type says")]
    BodyMalformed,
    /// The policy reads bodies, and this one's coding or type cannot be read.
    #[error("the body's type or coding is not accepted")]
    BodyUnsupported,
}

impl Refusal {
    /// The status that the gateway answers with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::BodyUnsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Target
            | Self::Path(_)
            | Self::QueryTooLarge
            | Self::QueryMalformed
            | Self::Host
            | Self::HeaderUnderscore
            | Self::HeaderText
            | Self::RepeatedHeader
            | Self::ConnectionHeader
            | Self::BodyMalformed => StatusCode::BAD_REQUEST,
        }
    }
}

/// A request target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Canonical path.
    pub path: CanonicalPath,
    /// The path as it was received, where it differs.
    pub raw_path: Option<String>,
    /// The query without `?`, as it was received.
    pub query: Option<String>,
}

/// Refuses methods that mean something to a proxy itself.
pub fn check_method(method: &Method) -> Result<(), Refusal> {
    if method == Method::CONNECT || method == Method::TRACE { Err(Refusal::Method) } else { Ok(()) }
}

/// Path and query of a target.
pub fn target(uri: &Uri, rules: PathRules) -> Result<Target, Refusal> {
    let raw_path = uri.path();
    let path = CanonicalPath::parse(raw_path, rules)?;
    let raw_path = (raw_path != path.as_str()).then(|| raw_path.to_owned());
    let query = uri.query().map(str::to_owned);
    // HTTP/2 has no guard that looks at bytes.
    if !query.as_ref().is_none_or(|query| query.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Refusal::Target);
    }
    let ampersands = |query: &String| memchr::memchr_iter(b'&', query.as_bytes()).count();
    if query.as_ref().is_some_and(|query| ampersands(query) >= QUERY_PARAMETERS_MAX) {
        return Err(Refusal::QueryTooLarge);
    }
    Ok(Target { path, raw_path, query })
}

/// The authority that the request names, in lower case: from the target (HTTP/2, absolute form) and from `Host`, which
/// must agree where both are there (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
pub fn authority(parts: &Parts) -> Result<String, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refusal::Host),
        (Some(host), None) => Some(host.to_str().map_err(|_| Refusal::Host)?),
        (None, None) => None,
    };
    // Not of the path, for which an empty one is `/`: `?a` is no target.
    if !parts.uri.path_and_query().is_some_and(|target| target.as_str().starts_with('/')) {
        return Err(Refusal::Target);
    }
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    let named = match (target, host) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => return Err(Refusal::Host),
        (Some(named), _) | (None, Some(named)) => named,
        (None, None) => return Err(Refusal::Host),
    };
    if !is_authority(named) {
        return Err(Refusal::Host);
    }
    Ok(named.to_ascii_lowercase())
}

/// The host of an authority, without port and without the root's trailing dot.
pub fn host_of(authority: &str) -> &str {
    let host = split_port(authority).0;
    host.strip_suffix('.').unwrap_or(host)
}

/// Leaves the headers that go from end to end, each in one form only; `Host` is the authority's.
pub fn headers(headers: &mut HeaderMap) -> Result<HopRequest, Refusal> {
    check_fields(headers)?;
    check_expectation(headers)?;
    if hop::hops(headers) >= HOPS_MAX {
        return Err(Refusal::Loop);
    }
    let asked = hop::strip_request(headers)?;
    headers.remove(header::HOST);
    Ok(asked)
}

/// Whether every escape is whole and the decoded bytes are text: otherwise policy and upstream might read them in two
/// ways.
pub fn is_decodable(text: &str) -> bool {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return true;
    }
    let bytes = text.as_bytes();
    let whole = memchr::memchr_iter(b'%', bytes)
        .all(|at| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
    whole && percent_encoding::percent_decode(bytes).decode_utf8().is_ok_and(|text| !text.contains('\0'))
}

/// `host`, `host:port`, `[ipv6]` or `[ipv6]:port`, of characters that no reader can mistake.
fn is_authority(text: &str) -> bool {
    let (host, port) = split_port(text);
    let port_is_good =
        port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()));
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_good =
        bracketed.map_or_else(|| is_name(host), |address| address.parse::<std::net::Ipv6Addr>().is_ok());
    host_is_good && port_is_good
}

fn is_name(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let name = host.strip_suffix('.').unwrap_or(host);
    !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(plain)
        && !name.starts_with('.')
        && !name.contains("..")
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    }
}

/// What the byte guard checks in HTTP/1 holds for HTTP/2 as well, and more that both need.
fn check_fields(headers: &mut HeaderMap) -> Result<(), Refusal> {
    const ONCE: [HeaderName; 4] =
        [header::AUTHORIZATION, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LENGTH];
    for (name, value) in &*headers {
        if memchr::memchr(b'_', name.as_str().as_bytes()).is_some() {
            return Err(Refusal::HeaderUnderscore);
        }
        if !value.as_bytes().is_ascii() && std::str::from_utf8(value.as_bytes()).is_err() {
            return Err(Refusal::HeaderText);
        }
    }
    // Nearly all requests have each name once, and are done here.
    if headers.keys_len() == headers.len() {
        return Ok(());
    }
    if ONCE.iter().any(|name| headers.get_all(name).iter().nth(1).is_some()) {
        return Err(Refusal::RepeatedHeader);
    }
    join_cookies(headers);
    Ok(())
}

/// HTTP/2 may split cookies into several lines; to whoever reads one line they must be one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(mut entry) = headers.entry(header::COOKIE) else { return };
    if entry.iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = entry.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(b"; ".as_slice())) {
        entry.insert(joined);
    }
}

/// The library answers `100-continue` when the body is first asked for; the header itself ends here.
fn check_expectation(headers: &mut HeaderMap) -> Result<(), Refusal> {
    match headers.remove(header::EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Err(Refusal::Expectation),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for good in ["gw.test", "gw.test:443", "gw.test.", "[::1]", "[::1]:8080", "127.0.0.1:1", "a_b.test"] {
            assert!(is_authority(good), "{good}");
        }
        let bad = [
            "",
            ":80",
            "gw.test:bad",
            "gw.test:99999x",
            "gw.test:99999",
            "gw.test:",
            "gw.test:+1",
            "u@gw.test",
            "gw.test/x",
            "a b",
            "a,b",
            "a..b",
            ".a",
            "[::1",
            "[zz]",
            "::1",
            "gw%2etest",
            "gw.test:80:80",
        ];
        for bad in bad {
            assert!(!is_authority(bad), "{bad}");
        }
        assert_eq!(host_of("gw.test.:80"), "gw.test");
        assert_eq!(host_of("[::1]:80"), "[::1]");
    }

    #[test]
    fn split_cookies_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn queries_that_decode_to_text() {
        for good in ["", "a=1;b=2&c=%20+x", "%C3%A9"] {
            assert!(is_decodable(good), "{good}");
        }
        for bad in ["100%", "%zz", "a=%4", "%ff", "%00"] {
            assert!(!is_decodable(bad), "{bad}");
        }
    }
}
