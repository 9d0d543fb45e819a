//! Sets of networks in CIDR notation.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// A set of networks, for `allow_from` and `trusted_proxies`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSet(Vec<IpNet>);

impl NetworkSet {
    /// The set of `networks`.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether `address` lies in one of the networks. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = canonical_ip(address);
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether the set has no network.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Parses `10.0.0.0/8`, or a single address as the network of just that address.
pub fn parse_network(text: &str) -> Option<IpNet> {
    if let Ok(network) = text.parse::<IpNet>() {
        return Some(network);
    }
    text.parse::<IpAddr>().ok().map(IpNet::from)
}

/// `::ffff:1.2.3.4` as `1.2.3.4`: a dual-stack socket must not escape an IPv4 allowlist.
pub fn canonical_ip(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whether `address` is a loopback address, IPv4-mapped ones included.
pub fn is_loopback(address: IpAddr) -> bool {
    canonical_ip(address).is_loopback() || address == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(networks: &[&str]) -> NetworkSet {
        NetworkSet::new(networks.iter().map(|n| parse_network(n).unwrap()).collect())
    }

    #[test]
    fn mapped_addresses_count_as_ipv4() {
        let private = set(&["10.0.0.0/8", "fd00::/8", "192.0.2.1"]);
        for inside in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "192.0.2.1"] {
            assert!(private.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.1", "::ffff:11.0.0.1", "fe80::1", "192.0.2.2"] {
            assert!(!private.contains(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn nonsense_is_no_network() {
        for text in ["", "10.0.0.0/33", "10.0.0", "localhost", "::/129"] {
            assert_eq!(parse_network(text), None, "{text}");
        }
    }

    #[test]
    fn loopback() {
        for (text, want) in
            [("127.0.0.9", true), ("::1", true), ("::ffff:127.0.0.1", true), ("10.0.0.1", false)]
        {
            assert_eq!(is_loopback(text.parse().unwrap()), want, "{text}");
        }
    }
}
