//! Who the client is when proxies stand in between, believed only from proxies that are trusted.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::base::net::{NetworkSet, canonical_ip};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Longer chains are cut: nobody has so many proxies.
const CHAIN_MAX: usize = 32;

/// Where a request came from, by the connection and what trusted proxies add to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// The client's address.
    pub(crate) client_ip: IpAddr,
    /// The believed chain, nearest client first.
    pub(crate) chain: Vec<IpAddr>,
    /// `https` or `http` as the client used it, where a trusted proxy says.
    pub(crate) scheme: Option<&'static str>,
}

/// `X-Forwarded-For` and `Forwarded` tell of different clients: the trusted proxy writes one of them, and the other may
/// be the client's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict;

/// Reads the forwarding headers of a request from `peer`.
///
/// The chain is walked from the gateway outwards for as long as the hop before is trusted; the first address that is not
/// a trusted proxy is the client. What cannot be parsed ends the walk.
pub(crate) fn read(
    peer: SocketAddr,
    headers: &HeaderMap,
    trusted: &NetworkSet,
) -> Result<Forwarded, Conflict> {
    let peer = canonical_ip(peer.ip());
    if trusted.is_empty() || !trusted.contains(peer) {
        return Ok(Forwarded { client_ip: peer, chain: Vec::new(), scheme: None });
    }
    let (client_ip, chain) =
        match (headers.contains_key(X_FORWARDED_FOR), headers.contains_key(header::FORWARDED)) {
            (true, false) => walk(peer, x_forwarded_for(headers), trusted),
            (false, _) => walk(peer, forwarded(headers), trusted),
            (true, true) => {
                let walked = walk(peer, x_forwarded_for(headers), trusted);
                if walk(peer, forwarded(headers), trusted).0 != walked.0 {
                    return Err(Conflict);
                }
                walked
            }
        };
    Ok(Forwarded { client_ip, chain, scheme: scheme(headers) })
}

fn walk(peer: IpAddr, listed: Vec<Option<IpAddr>>, trusted: &NetworkSet) -> (IpAddr, Vec<IpAddr>) {
    let mut client_ip = peer;
    let mut chain = Vec::new();
    for address in listed.into_iter().rev().take(CHAIN_MAX) {
        let Some(address) = address else { break };
        client_ip = address;
        chain.push(address);
        if !trusted.contains(address) {
            break;
        }
    }
    chain.reverse();
    (client_ip, chain)
}

fn x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|item| address(item.trim())).collect()
}

/// `for=` of each element of `Forwarded` (RFC 7239 section 4).
fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(header::FORWARDED).iter().filter_map(|value| value.to_str().ok());
    let elements = lines.flat_map(|line| line.split(','));
    elements
        .map(|element| parameter(element, "for").and_then(|value| address(value.trim_matches('"'))))
        .collect()
}

fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then(|| value.trim()))
}

/// An address, with or without port and brackets; zones and names are nothing that can be believed.
fn address(text: &str) -> Option<IpAddr> {
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    address.or_else(bracketed).map(canonical_ip)
}

fn scheme(headers: &HeaderMap) -> Option<&'static str> {
    let stated = headers.get(X_FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    let stated = stated.or_else(|| {
        let line = headers.get(header::FORWARDED)?.to_str().ok()?;
        line.rsplit(',').next().and_then(|element| parameter(element, "proto"))
    });
    match stated?.trim() {
        "https" => Some("https"),
        "http" => Some("http"),
        _ => None,
    }
}

/// Tells the upstream who the client is; what the client itself said is already gone.
pub(crate) fn write(
    headers: &mut HeaderMap,
    forwarded: &[IpAddr],
    peer: IpAddr,
    scheme: &'static str,
    authority: &str,
) {
    let mut chain = String::with_capacity(48);
    for address in forwarded {
        // Writing to a `String` cannot fail.
        let _infallible = write!(chain, "{address}, ");
    }
    let _infallible = write!(chain, "{}", canonical_ip(peer));
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(chain)) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    if let Ok(value) = HeaderValue::from_str(authority) {
        headers.insert(X_FORWARDED_HOST, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::net::parse_network;

    fn from(peer: &str, name: &HeaderName, values: &[&'static str]) -> Forwarded {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        let trusted = NetworkSet::new(vec![parse_network("10.0.0.0/8").unwrap()]);
        read(SocketAddr::new(peer.parse().unwrap(), 1), &headers, &trusted).unwrap()
    }

    #[track_caller]
    fn check(peer: &str, values: &[&'static str], client: &str, chain: &[&str]) {
        let got = from(peer, &X_FORWARDED_FOR, values);
        assert_eq!(got.client_ip, client.parse::<IpAddr>().unwrap());
        assert_eq!(got.chain, chain.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>());
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        check("192.0.2.1", &["10.0.0.1"], "192.0.2.1", &[]);
        check("10.0.0.1", &["203.0.113.7"], "203.0.113.7", &["203.0.113.7"]);
        check("::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7", &["203.0.113.7"]);
        check("10.0.0.1", &["1.1.1.1, 203.0.113.7, 10.9.9.9"], "203.0.113.7", &["203.0.113.7", "10.9.9.9"]);
        check("10.0.0.1", &["1.1.1.1", "203.0.113.7:444"], "203.0.113.7", &["203.0.113.7"]);
        check("10.0.0.1", &[], "10.0.0.1", &[]);
    }

    #[test]
    fn what_cannot_be_parsed_ends_the_walk() {
        check("10.0.0.1", &["203.0.113.7, ::1%eth0, 10.2.2.2"], "10.2.2.2", &["10.2.2.2"]);
        check("10.0.0.1", &["x, 999.1.1.1"], "10.0.0.1", &[]);
    }

    #[test]
    fn two_accounts_must_agree() {
        let trusted = NetworkSet::new(vec![parse_network("10.0.0.0/8").unwrap()]);
        let check = |peer: &str, forwarded: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static("203.0.113.7"));
            headers.append(header::FORWARDED, HeaderValue::from_static(forwarded));
            read(SocketAddr::new(peer.parse().unwrap(), 1), &headers, &trusted).is_ok()
        };
        assert!(check("10.0.0.1", "for=203.0.113.7;proto=https"));
        assert!(!check("10.0.0.1", "for=10.0.0.9"));
        assert!(!check("10.0.0.1", "for=unknown"));
        assert!(check("192.0.2.1", "for=10.0.0.9"), "neither is believed");
    }

    #[test]
    fn forwarded_elements() {
        let got = from("10.0.0.1", &header::FORWARDED, &["for=\"[2001:db8::1]:80\";proto=https"]);
        assert_eq!(got.client_ip, "2001:db8::1".parse::<IpAddr>().unwrap());
        assert_eq!(got.scheme, Some("https"));
        assert_eq!(from("192.0.2.1", &header::FORWARDED, &["for=10.0.0.1;proto=https"]).scheme, None);
    }
}
