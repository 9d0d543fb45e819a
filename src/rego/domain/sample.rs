//! Values that a test is about: what a pattern matches, what a network holds, what a computed value came from.

use std::net::IpAddr;

use ipnet::IpNet;
use regex_syntax::hir::{Class, Hir, HirKind};
use regorus::Value;

/// Longest sample of a pattern.
const SAMPLE_MAX: usize = 200;
/// Longest array that a number of elements is turned back into.
const COUNT_MAX: i64 = 16;

/// What was done with a part of the input before it was compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Via {
    /// Its number of elements or characters.
    Count,
    /// In small letters, or capitals; either way the value itself is one that leads there.
    Case,
    /// Without a text at its beginning.
    TrimPrefix(String),
    /// Without a text at its end.
    TrimSuffix(String),
    /// Between two texts.
    Between(String, String),
    /// Taken apart at a text.
    Split(String),
    /// One element of what it was taken apart into.
    Item(String, usize),
    /// As a number.
    ToNumber,
    /// As a text.
    ToText,
    /// A number added.
    Plus(i64),
    /// Multiplied.
    Times(i64),
}

impl Via {
    /// Values of which `value` is made this way.
    pub(super) fn invert(&self, value: &Value) -> Vec<Value> {
        let text = value.as_string().ok().map(|text| &**text);
        let number = value.as_i64().ok();
        let texts = |all: Vec<String>| all.into_iter().map(Value::from).collect::<Vec<_>>();
        match self {
            Self::Case => vec![value.clone()],
            Self::Count => {
                let count = number.filter(|count| (0..=COUNT_MAX).contains(count));
                let count = count.and_then(|count| usize::try_from(count).ok());
                count.map(|count| Value::from(vec![Value::from("x"); count])).into_iter().collect()
            }
            Self::TrimPrefix(prefix) => {
                text.map(|text| texts(vec![format!("{prefix}{text}"), text.to_owned()])).unwrap_or_default()
            }
            Self::TrimSuffix(suffix) => {
                text.map(|text| texts(vec![format!("{text}{suffix}"), text.to_owned()])).unwrap_or_default()
            }
            Self::Between(before, after) => {
                let Some(text) = text else { return Vec::new() };
                let rest = text.strip_prefix(before.as_str()).unwrap_or(text);
                let inner = rest.strip_suffix(after.as_str()).unwrap_or(rest);
                let mut all = vec![inner.to_owned()];
                if inner != rest {
                    all.push(rest.to_owned());
                }
                texts(all)
            }
            Self::Split(delimiter) => {
                let Ok(items) = value.as_array() else { return Vec::new() };
                let items: Vec<&str> =
                    items.iter().filter_map(|item| item.as_string().ok()).map(|item| &**item).collect();
                texts(vec![items.join(delimiter)])
            }
            Self::Item(delimiter, index) => {
                let Some(text) = text else { return Vec::new() };
                let mut items = vec!["x"; *index];
                items.push(text);
                let short = items.join(delimiter);
                items.push("x");
                texts(vec![short, items.join(delimiter)])
            }
            Self::ToNumber => number.map(|number| Value::from(number.to_string())).into_iter().collect(),
            Self::ToText => {
                let number = text.and_then(|text| text.parse::<i64>().ok());
                number.map(Value::from).into_iter().collect()
            }
            Self::Plus(more) => {
                number.map(|number| Value::from(number.saturating_sub(*more))).into_iter().collect()
            }
            Self::Times(by) => {
                number.and_then(|number| number.checked_div(*by)).map(Value::from).into_iter().collect()
            }
        }
    }
}

/// A text that a pattern matches, if it can be told.
pub(super) fn of_regex(pattern: &str) -> Option<String> {
    let parsed = regex_syntax::Parser::new().parse(pattern).ok()?;
    let mut sample = String::new();
    write_sample(&parsed, &mut sample)?;
    Some(sample)
}

fn write_sample(pattern: &Hir, sample: &mut String) -> Option<()> {
    if sample.len() > SAMPLE_MAX {
        return None;
    }
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(()),
        HirKind::Literal(literal) => {
            sample.push_str(std::str::from_utf8(&literal.0).ok()?);
            Some(())
        }
        HirKind::Class(class) => {
            sample.push(character(class)?);
            Some(())
        }
        HirKind::Repetition(repetition) => {
            // Once where it may be left out: a longer sample tells more.
            for _ in 0..repetition.min.max(1) {
                write_sample(&repetition.sub, sample)?;
            }
            Some(())
        }
        HirKind::Capture(capture) => write_sample(&capture.sub, sample),
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| write_sample(part, sample)),
        HirKind::Alternation(parts) => write_sample(parts.first()?, sample),
    }
}

fn character(class: &Class) -> Option<char> {
    let ranges: Vec<(char, char)> = match class {
        Class::Unicode(class) => class.iter().map(|range| (range.start(), range.end())).collect(),
        Class::Bytes(class) => {
            class.iter().map(|range| (char::from(range.start()), char::from(range.end()))).collect()
        }
    };
    let holds = |wanted: char| ranges.iter().any(|(start, end)| (*start..=*end).contains(&wanted));
    let ordinary = ['x', 'a', 'A', '1', '-'].into_iter().find(|wanted| holds(*wanted));
    ordinary.or_else(|| ranges.first().map(|(start, _)| *start))
}

/// Texts that a glob matches, or nearly: `*` within a part and across parts.
pub(super) fn of_glob(pattern: &str, delimiter: &str) -> Vec<String> {
    let mut short = String::new();
    let mut long = String::new();
    let mut rest = pattern.chars().peekable();
    while let Some(character) = rest.next() {
        let (one, other) = match character {
            '*' => {
                let is_across = rest.next_if_eq(&'*').is_some();
                // A single one does not match across parts: that is what the longer text tries.
                let long =
                    if is_across { format!("x{delimiter}x{delimiter}x") } else { format!("x{delimiter}x") };
                ("x".to_owned(), long)
            }
            '?' => ("x".to_owned(), "x".to_owned()),
            '\\' => rest.next().map(|next| (next.to_string(), next.to_string())).unwrap_or_default(),
            '{' => {
                let all: String = rest.by_ref().take_while(|next| *next != '}').collect();
                let first = all.split(',').next().unwrap_or_default().to_owned();
                (first.clone(), first)
            }
            '[' => {
                let all: String = rest.by_ref().take_while(|next| *next != ']').collect();
                let first = if all.starts_with('!') { "x".to_owned() } else { all.chars().take(1).collect() };
                (first.clone(), first)
            }
            other => (other.to_string(), other.to_string()),
        };
        short.push_str(&one);
        long.push_str(&other);
    }
    if short == long { vec![short] } else { vec![short, long] }
}

/// An address inside a network, its last one, and those on both sides of it.
pub(super) fn of_network(network: &str) -> Vec<String> {
    let parsed = network.parse::<IpNet>().or_else(|_| network.parse::<IpAddr>().map(IpNet::from));
    let Ok(network) = parsed else { return Vec::new() };
    let (first, last) = (network.network(), network.broadcast());
    let inside = network.hosts().next().unwrap_or(first);
    let mut all = vec![inside, last];
    all.extend(moved(first, false));
    all.extend(moved(last, true));
    all.dedup();
    all.into_iter().map(|address| address.to_string()).collect()
}

/// The next address, or the one before.
fn moved(address: IpAddr, up: bool) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let bits = u32::from(address);
            let bits = if up { bits.checked_add(1) } else { bits.checked_sub(1) };
            bits.map(|bits| IpAddr::V4(bits.into()))
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let bits = if up { bits.checked_add(1) } else { bits.checked_sub(1) };
            bits.map(|bits| IpAddr::V6(bits.into()))
        }
    }
}

/// A text that begins with a prefix, and the prefix itself.
pub(super) fn of_prefix(prefix: &str) -> Vec<String> {
    let mut all = vec![prefix.to_owned(), format!("{prefix}x")];
    if prefix.starts_with('/') && !prefix.ends_with('/') {
        all.push(format!("{prefix}/x"));
    }
    all
}
