//! Lists of networks in data, parsed once at load: asking which of them hold an address is then a
//! comparison of numbers for each.
//!
//! Only plain IPv4 and IPv6 are known here; anything else is asked of the built-in.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use foldhash::fast::RandomState;
use regorus::Value;

/// Elements of lists parsed at the most.
const ELEMENTS_MAX: usize = 1 << 20;
/// Lists shorter than this are not worth it.
const LENGTH_MIN: usize = 2;

/// The networks of each list, by the list's own address: values of data live as long as the plan.
#[derive(Debug, Default)]
pub(super) struct Networks {
    lists: HashMap<usize, Box<[Option<Network>]>, RandomState>,
}

/// A network of one family, from its first to its last address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Network {
    is_v4: bool,
    first: u128,
    last: u128,
}

/// An address of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    is_v4: bool,
    bits: u128,
}

impl Networks {
    /// Parses all lists below a value.
    pub(super) fn gather(data: &Value) -> Self {
        let mut networks = Self::default();
        let mut left = ELEMENTS_MAX;
        let mut open = vec![data];
        while let Some(value) = open.pop() {
            let items: Vec<&Value> = match value {
                Value::Array(items) => items.iter().collect(),
                Value::Set(items) => items.iter().collect(),
                Value::Object(fields) => {
                    open.extend(fields.values());
                    continue;
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => {
                    continue;
                }
            };
            let first = items.first().and_then(|item| Network::parse(item));
            if let (Some(_), Some(address)) = (first, address_of(value))
                && (LENGTH_MIN..=left).contains(&items.len())
            {
                left -= items.len();
                let parsed = items.iter().map(|item| Network::parse(item)).collect();
                networks.lists.insert(address, parsed);
            }
            open.extend(items);
        }
        networks
    }

    /// The networks of a list, one for each element; none for an element that is no plain network.
    pub(super) fn of(&self, list: &Value) -> Option<&[Option<Network>]> {
        self.lists.get(&address_of(list)?).map(|networks| &**networks)
    }
}

/// What tells a list apart as long as it lives.
fn address_of(list: &Value) -> Option<usize> {
    match list {
        Value::Array(items) => Some(Arc::as_ptr(items).addr()),
        Value::Set(items) => Some(Arc::as_ptr(items).addr()),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Object(_)
        | Value::Undefined => None,
    }
}

impl Network {
    fn parse(value: &Value) -> Option<Self> {
        let Value::String(text) = value else { return None };
        let (address, prefix) = text.split_once('/')?;
        let plain = prefix == "0" || !prefix.starts_with('0');
        let digits = plain && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u32 = prefix.parse().ok().filter(|_| digits)?;
        let Address { is_v4, bits } = Address::parse(address)?;
        let width: u32 = if is_v4 { 32 } else { 128 };
        let hosts = u128::MAX.checked_shr(128 - width.checked_sub(prefix)?).unwrap_or(0);
        Some(Self { is_v4, first: bits & !hosts, last: bits | hosts })
    }

    pub(super) fn holds(&self, address: Address) -> bool {
        self.is_v4 == address.is_v4 && (self.first..=self.last).contains(&address.bits)
    }
}

impl Address {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.parse().ok()? {
            IpAddr::V4(ip) => Some(Self { is_v4: true, bits: u128::from(ip.to_bits()) }),
            // IPv4 inside IPv6 is a matter for the built-in.
            IpAddr::V6(ip) if is_plain(ip) => Some(Self { is_v4: false, bits: ip.to_bits() }),
            IpAddr::V6(_) => None,
        }
    }
}

fn is_plain(ip: Ipv6Addr) -> bool {
    // All of ::/32, where the ways of writing IPv4 lie.
    ip.segments().iter().take(2).any(|segment| *segment != 0)
}
