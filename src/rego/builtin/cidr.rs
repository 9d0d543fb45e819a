//! `net.cidr_*`: networks as Go's `net` package understands them.
//!
//! An IPv4 address inside IPv6 (`::ffff:a.b.c.d`) is the IPv4 address, in networks too.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use regorus::Value;

use super::{Entry, Failure, argument};

pub(super) const TABLE: &[Entry] = &[
    ("net.cidr_contains", 2, contains),
    ("net.cidr_contains_matches", 2, contains_matches),
    ("net.cidr_intersects", 2, intersects),
    ("net.cidr_merge", 1, merge),
    // Deprecated name of `net.cidr_contains`.
    ("net.cidr_overlap", 2, contains),
];

/// Most pairs `net.cidr_contains_matches` compares.
const PAIRS_MAX: usize = 1_000_000;
/// Where IPv4 lies in IPv6.
const MAPPED: u128 = 0xffff_0000_0000;
const MAPPED_BITS: u8 = 96;

/// A network in the 128 bits of IPv6, IPv4 mapped into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    first: u128,
    last: u128,
    prefix: u8,
}

impl Network {
    fn new(address: u128, prefix: u8) -> Self {
        let hosts = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        Self { first: address & !hosts, last: address | hosts, prefix }
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let invalid = || Failure::Error(format!("invalid CIDR address: {text}"));
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| digits).ok_or_else(invalid)?;
        match address {
            IpAddr::V4(_) if prefix <= 32 => Ok(Self::new(bits(address), prefix + MAPPED_BITS)),
            IpAddr::V6(_) if prefix <= 128 => Ok(Self::new(bits(address), prefix)),
            IpAddr::V4(_) | IpAddr::V6(_) => Err(invalid()),
        }
    }

    fn is_v4(&self) -> bool {
        self.prefix >= MAPPED_BITS && is_v4(self.first)
    }

    // An IPv6 network never holds IPv4 addresses, although the bits would.
    fn holds(&self, address: u128) -> bool {
        self.is_v4() == is_v4(address) && (self.first..=self.last).contains(&address)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written(self.first, self.prefix))
    }
}

/// An address with a prefix, in the notation of its family.
fn written(address: u128, prefix: u8) -> String {
    let ip = std::net::Ipv6Addr::from_bits(address);
    match ip.to_ipv4_mapped() {
        Some(ip) if prefix >= MAPPED_BITS => format!("{ip}/{}", prefix - MAPPED_BITS),
        Some(_) | None => format!("{ip}/{prefix}"),
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn is_v4(address: u128) -> bool {
    address >> 32 == MAPPED >> 32
}

fn contains(arguments: &[Value]) -> Result<Value, Failure> {
    let network = Network::parse(argument::string(arguments, 0)?)?;
    let ends = ends_of(argument::string(arguments, 1)?)?;
    Ok(Value::from(ends.into_iter().all(|end| network.holds(end))))
}

/// The first and the last address of a network, or the one address twice.
fn ends_of(text: &str) -> Result<[u128; 2], Failure> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok([bits(address); 2]);
    }
    let inner = Network::parse(text).map_err(|_| {
        Failure::Error(format!("not a valid textual representation of an IP address or CIDR: {text}"))
    })?;
    Ok([inner.first, inner.last])
}

fn intersects(arguments: &[Value]) -> Result<Value, Failure> {
    let left = Network::parse(argument::string(arguments, 0)?)?;
    let right = Network::parse(argument::string(arguments, 1)?)?;
    Ok(Value::from(left.holds(right.first) || right.holds(left.first)))
}

/// The networks of an operand, and what names each in the result.
fn named(operand: usize, value: &Value) -> Result<Vec<(&str, Value)>, Failure> {
    match value {
        Value::String(text) => Ok(vec![(&**text, value.clone())]),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| Ok((network_of(operand, item)?, Value::from(index))))
            .collect(),
        Value::Set(items) => {
            items.iter().map(|item| Ok((network_of(operand, item)?, item.clone()))).collect()
        }
        Value::Object(fields) => {
            fields.iter().map(|(key, item)| Ok((network_of(operand, item)?, key.clone()))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => Ok(Vec::new()),
    }
}

/// The network an element stands for: itself, or the first element of an array.
fn network_of(operand: usize, element: &Value) -> Result<&str, Failure> {
    let network = if let Value::Array(items) = element { items.first() } else { Some(element) };
    match network {
        Some(Value::String(text)) => Ok(text),
        _ => Err(Failure::Error(format!("operand {operand}: element must be string or non-empty array"))),
    }
}

fn contains_matches(arguments: &[Value]) -> Result<Value, Failure> {
    let outer = named(1, argument::get(arguments, 0)?)?;
    let inner = named(2, argument::get(arguments, 1)?)?;
    if outer.len().saturating_mul(inner.len()) > PAIRS_MAX {
        return Err(Failure::Refused(format!("more than {PAIRS_MAX} pairs to compare")));
    }
    let mut found = BTreeSet::new();
    if inner.is_empty() || outer.is_empty() {
        // OPA reads nothing it has nothing to compare with.
        return Ok(Value::from(found));
    }
    let inner =
        inner.into_iter().map(|(text, name)| Ok((ends_of(text)?, name))).collect::<Result<Vec<_>, _>>()?;
    for (text, outer_name) in &outer {
        let network = Network::parse(text)?;
        for (ends, inner_name) in &inner {
            if ends.iter().all(|end| network.holds(*end)) {
                found.insert(Value::from(vec![outer_name.clone(), inner_name.clone()]));
            }
        }
    }
    Ok(Value::from(found))
}

/// A range of addresses, and how it was written if nothing was merged into it.
struct Range {
    first: u128,
    last: u128,
    written: Option<String>,
}

fn merge(arguments: &[Value]) -> Result<Value, Failure> {
    let operand = argument::get(arguments, 0)?;
    let elements = argument::members(operand).ok_or_else(|| argument::wrong_type(0, "array", operand))?;
    let mut ranges = elements.into_iter().map(range_of).collect::<Result<Vec<_>, _>>()?;
    ranges.sort_by_key(|range| (range.last, range.first));
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    // From the highest down: a range reaches into the one before it or begins right behind it.
    for range in ranges.into_iter().rev() {
        match merged.last_mut() {
            Some(above) if above.first.saturating_sub(1) <= range.last => {
                above.first = above.first.min(range.first);
                above.written = None;
            }
            Some(_) | None => merged.push(range),
        }
    }
    let mut networks = BTreeSet::new();
    for range in merged {
        match range.written {
            Some(written) => {
                networks.insert(Value::from(written));
            }
            None => networks
                .extend(cover(range.first, range.last).map(|network| Value::from(network.to_string()))),
        }
    }
    Ok(Value::from(networks))
}

fn range_of(element: &Value) -> Result<Range, Failure> {
    let Value::String(text) = element else {
        return Err(Failure::Error("element must be string".to_owned()));
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        let network = Network::parse(text)?;
        return Ok(Range { first: network.first, last: network.last, written: Some(network.to_string()) });
    };
    let address = bits(address);
    let Some(ip) = std::net::Ipv6Addr::from_bits(address).to_ipv4_mapped() else {
        return Err(Failure::Error("IPv6 invalid: needs prefix length".to_owned()));
    };
    // OPA takes an address without a prefix for the classful network it is in.
    let [class, ..] = ip.octets();
    let prefix = MAPPED_BITS
        + if class < 0x80 {
            8
        } else if class < 0xc0 {
            16
        } else {
            24
        };
    let network = Network::new(address, prefix);
    Ok(Range { first: network.first, last: network.last, written: Some(written(address, prefix)) })
}

/// The fewest networks that cover a range exactly: at most two for each bit.
fn cover(first: u128, last: u128) -> impl Iterator<Item = Network> {
    let mut next = Some(first).filter(|first| *first <= last);
    std::iter::from_fn(move || {
        let at = next?;
        let size = last - at;
        // The widest block that starts here and does not reach past the end.
        let fits = if size == u128::MAX { 128 } else { (size + 1).ilog2() };
        let hosts = at.trailing_zeros().min(fits);
        let network = Network::new(at, u8::try_from(128 - hosts).unwrap_or(0));
        next = network.last.checked_add(1).filter(|next| *next <= last);
        Some(network)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(items: &[&str]) -> [Value; 1] {
        [Value::from(items.iter().map(|item| Value::from(*item)).collect::<Vec<_>>())]
    }

    #[track_caller]
    fn merged(items: &[&str], want: &[&str]) {
        let want: BTreeSet<Value> = want.iter().map(|item| Value::from(*item)).collect();
        assert_eq!(merge(&list(items)).unwrap(), Value::from(want), "{items:?}");
    }

    #[test]
    fn networks_are_merged_as_opa_does() {
        merged(&["192.0.2.112"], &["192.0.2.112/24"]);
        merged(&["10.1.2.3", "10.0.0.0/8"], &["10.0.0.0/8"]);
        merged(&["10.0.0.0/8", "::/0"], &["::/0"]);
        merged(&["10.0.0.0/8", "ffff::/16", "11.0.0.0/8"], &["10.0.0.0/7", "ffff::/16"]);
        merged(&["::ffff:1.2.3.4/120"], &["1.2.3.0/24"]);
        merged(&["0.0.0.0/1", "128.0.0.0/1"], &["0.0.0.0/0"]);
        merged(&["::/1", "8000::/1"], &["::/0"]);
        merged(&["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/25"], &["10.0.0.0/23", "10.0.2.0/25"]);
        assert!(merge(&list(&["::1"])).is_err());
        assert!(merge(&list(&["10.0.0.0/+8"])).is_err());
        assert!(merge(&list(&["10.0.0.0/33"])).is_err());
    }

    #[track_caller]
    fn holds(network: &str, inner: &str, want: bool) {
        let arguments = [Value::from(network), Value::from(inner)];
        assert_eq!(contains(&arguments), Ok(Value::from(want)), "{network} {inner}");
    }

    #[test]
    fn addresses_and_networks_lie_in_networks_of_their_family() {
        holds("1.2.3.0/24", "::ffff:1.2.3.4", true);
        holds("::ffff:1.2.3.0/120", "1.2.3.4", true);
        holds("::/0", "1.2.3.4", false);
        holds("::/0", "::1", true);
        holds("10.0.0.0/8", "10.1.0.0/16", true);
        holds("10.1.0.0/16", "10.0.0.0/8", false);
        assert!(contains(&[Value::from("10.0.0.0"), Value::from("10.0.0.1")]).is_err());
    }

    proptest! {
        #[test]
        fn a_cover_is_exact_and_in_order(a: u128, b: u128) {
            let (first, last) = (a.min(b), a.max(b));
            let networks: Vec<Network> = cover(first, last).collect();
            prop_assert!(networks.len() <= 256);
            prop_assert_eq!(networks.first().unwrap().first, first);
            prop_assert_eq!(networks.last().unwrap().last, last);
            for pair in networks.windows(2) {
                prop_assert_eq!(pair[0].last + 1, pair[1].first);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            drop(merge(&list(&[&text])));
            drop(contains(&[Value::from(text.as_str()), Value::from(text.as_str())]));
        }
    }
}
