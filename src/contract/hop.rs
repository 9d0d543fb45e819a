//! Headers that end at this hop, and headers that only the gateway may set.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use crate::contract::canonical::Refusal;

/// Hop-by-hop headers (RFC 9110 section 7.6.1), and `Proxy`, which some CGI servers take for their own setting.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "proxy"
    )
}

/// Who the client is, in the words of some other proxy: only the gateway says that. Where a trusted proxy may say it, that
/// is read before.
fn is_forwarding(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-forwarded-port"
            | "x-real-ip"
            | "x-client-ip"
            | "true-client-ip"
            | "cf-connecting-ip"
            | "x-cluster-client-ip"
            | "client-cert"
            | "client-cert-chain"
            | "x-forwarded-client-cert"
    )
}

/// What a request asked of the connection itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HopRequest {
    /// `Connection: upgrade` and `Upgrade: websocket`.
    pub websocket: bool,
    /// `TE: trailers`.
    pub trailers: bool,
}

/// Removes what ends at this hop from a request.
pub fn strip_request(headers: &mut HeaderMap) -> Result<HopRequest, Refusal> {
    let gone = names_where(headers, |name| is_hop_by_hop(name) || is_forwarding(name));
    if gone.is_empty() {
        return Ok(HopRequest::default());
    }
    let asked = HopRequest {
        websocket: has_token(headers, &header::CONNECTION, "upgrade")
            && headers
                .get(header::UPGRADE)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket")),
        trailers: has_token(headers, &header::TE, "trailers"),
    };
    for name in connection_names(headers)?.into_iter().chain(gone) {
        headers.remove(name);
    }
    Ok(asked)
}

/// Removes what ends at this hop from a response.
pub fn strip_response(headers: &mut HeaderMap) {
    let gone = names_where(headers, is_hop_by_hop);
    if gone.is_empty() {
        return;
    }
    for name in connection_names(headers).unwrap_or_default().into_iter().chain(gone) {
        headers.remove(name);
    }
}

/// The names that are there and meant: one look at each, for most requests have none of them.
fn names_where(headers: &HeaderMap, is_meant: impl Fn(&HeaderName) -> bool) -> SmallVec<[HeaderName; 4]> {
    headers.keys().filter(|name| is_meant(name)).cloned().collect()
}

/// The headers that `Connection` names. One that the policy or the upstream relies on is refused: naming it would
/// make it vanish between the two.
fn connection_names(headers: &HeaderMap) -> Result<Vec<HeaderName>, Refusal> {
    let mut names = Vec::new();
    for token in tokens(headers, &header::CONNECTION) {
        if token.eq_ignore_ascii_case("close")
            || token.eq_ignore_ascii_case("keep-alive")
            || token.eq_ignore_ascii_case("upgrade")
        {
            continue;
        }
        let name = HeaderName::from_bytes(token.as_bytes()).map_err(|_| Refusal::ConnectionHeader)?;
        if is_protected(&name) {
            return Err(Refusal::ConnectionHeader);
        }
        names.push(name);
    }
    Ok(names)
}

/// End-to-end headers that cannot be hop-by-hop.
fn is_protected(name: &HeaderName) -> bool {
    const PROTECTED: [HeaderName; 9] = [
        header::HOST,
        header::AUTHORIZATION,
        header::COOKIE,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::ORIGIN,
        header::VIA,
        header::CACHE_CONTROL,
    ];
    PROTECTED.contains(name) || name.as_str().starts_with("x-") || is_forwarding(name)
}

fn tokens<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// How many hops `Via` already lists.
pub fn hops(headers: &HeaderMap) -> usize {
    tokens(headers, &header::VIA).count()
}

/// Adds this hop to `Via`.
pub fn add_via(headers: &mut HeaderMap, protocol: &str) {
    let value = if protocol == "HTTP/2" { "2 postern" } else { "1.1 postern" };
    headers.append(header::VIA, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut map = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn what_ends_at_this_hop_is_gone() {
        let mut map = headers(&[
            ("connection", "keep-alive, hop-thing"),
            ("hop-thing", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers, deflate"),
            ("proxy", "http://evil"),
            ("proxy-authorization", "Basic eDp5"),
            ("x-forwarded-for", "10.0.0.1"),
            ("true-client-ip", "10.0.0.1"),
            ("accept", "*/*"),
        ]);
        let asked = strip_request(&mut map).unwrap();
        assert!(asked.trailers && !asked.websocket);
        assert_eq!(map, headers(&[("accept", "*/*")]));
    }

    #[test]
    fn a_header_that_matters_cannot_be_named_away() {
        for name in ["authorization", "Cookie", "x-user", "X-Forwarded-For", "host"] {
            let mut map = HeaderMap::new();
            map.insert(header::CONNECTION, HeaderValue::from_str(&format!("close, {name}")).unwrap());
            assert!(strip_request(&mut map).is_err(), "{name}");
        }
    }

    #[test]
    fn only_a_whole_websocket_request_counts() {
        let check = |pairs, want| assert_eq!(strip_request(&mut headers(pairs)).unwrap().websocket, want);
        check(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")], true);
        check(&[("connection", "keep-alive"), ("upgrade", "websocket")], false);
        check(&[("connection", "upgrade"), ("upgrade", "h2c")], false);
    }
}
