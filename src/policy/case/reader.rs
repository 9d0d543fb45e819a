//! Typed reading of a case file's YAML: every fault has its place, and reading goes on after it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::diagnostic::Position;
use crate::config::suggest;
use crate::config::yaml::{Data, Entry, Node};
use crate::rego::fault::{Fault, Place};

/// Collects what is wrong with one file.
#[derive(Debug)]
pub(super) struct Reader {
    file: Arc<str>,
    faults: Vec<Fault>,
}

/// A mapping, and the dotted path that messages name it by.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    pub(super) position: Position,
    path: String,
    entries: &'n [Entry],
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.into(), faults: Vec::new() }
    }

    pub(super) fn place(&self, at: Position) -> Place {
        place(&self.file, at)
    }

    pub(super) fn fault(&mut self, at: Position, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(Fault::new(self.place(at), "bad_case", message).hint(hint));
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<Fault>> {
        if self.faults.is_empty() { Ok(value) } else { Err(self.faults) }
    }

    /// The mapping at `node`, whose keys must be among `known`; an empty one after a fault.
    pub(super) fn fields<'n>(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Fields<'n> {
        if !matches!(node.data, Data::Mapping(_)) {
            let what = if path.is_empty() { "the file".to_owned() } else { format!("`{path}`") };
            self.fault(node.position, format!("{what} must be a mapping"), "write `key: value` pairs");
        }
        let fields = Fields { position: node.position, path: path.to_owned(), entries: node.entries() };
        for entry in fields.entries {
            if !known.contains(&entry.key.as_str()) {
                let hint = suggest::suggestion(&entry.key, known.iter().copied())
                    .unwrap_or_else(|| format!("known are {}", suggest::listed(known)));
                self.fault(entry.position, format!("unknown key `{}`", fields.path_of(&entry.key)), hint);
            }
        }
        fields
    }

    /// The mapping under `key`, if it is there.
    pub(super) fn below<'n>(&mut self, fields: &Fields<'n>, key: &str, known: &[&str]) -> Option<Fields<'n>> {
        fields.get(key).map(|node| self.fields(node, &fields.path_of(key), known))
    }

    /// The mapping under `key`, whose keys are names of the user's own, if it is there.
    pub(super) fn named<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Option<Fields<'n>> {
        let node = fields.get(key)?;
        let known: Vec<&str> = node.entries().iter().map(|entry| entry.key.as_str()).collect();
        Some(self.fields(node, &fields.path_of(key), &known))
    }

    /// The text under `key`, if it is there.
    pub(super) fn text(&mut self, fields: &Fields<'_>, key: &str) -> Option<String> {
        fields.get(key).and_then(|node| self.text_of(node, &fields.path_of(key)))
    }

    /// The text under `key`, which must be there.
    pub(super) fn required(&mut self, fields: &Fields<'_>, key: &str) -> Option<String> {
        if fields.get(key).is_none() {
            self.fault(fields.position, format!("`{}` is missing", fields.path_of(key)), "add it");
        }
        self.text(fields, key)
    }

    pub(super) fn text_of(&mut self, node: &Node, path: &str) -> Option<String> {
        if let Data::Scalar(scalar) = &node.data
            && let Some(text) = scalar.value.as_str()
        {
            return Some(text.to_owned());
        }
        self.fault(node.position, format!("`{path}` must be text"), "put it in quotes");
        None
    }

    /// One of `words` under `key`.
    pub(super) fn word<const N: usize>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        words: [&'static str; N],
    ) -> Option<&'static str> {
        let text = self.text(fields, key)?;
        let found = words.into_iter().find(|word| *word == text);
        if found.is_none() {
            let message = format!("`{}` cannot be `{text}`", fields.path_of(key));
            self.fault(fields.at(key), message, format!("it is one of {}", suggest::listed(&words)));
        }
        found
    }

    /// The texts of the list under `key`; none if it is not there.
    pub(super) fn texts(&mut self, fields: &Fields<'_>, key: &str) -> Vec<String> {
        let path = fields.path_of(key);
        let items = self.items(fields, key);
        items.iter().filter_map(|item| self.text_of(item, &path)).collect()
    }

    /// The items of the list under `key`; none if it is not there.
    pub(super) fn items<'n>(&mut self, fields: &Fields<'n>, key: &str) -> &'n [Node] {
        match fields.get(key).map(|node| (&node.data, node.position)) {
            None => &[],
            Some((Data::Sequence(items), _)) => items,
            Some((Data::Scalar(_) | Data::Mapping(_), position)) => {
                let message = format!("`{}` must be a list", fields.path_of(key));
                self.fault(position, message, "write it as `[one, other]`");
                &[]
            }
        }
    }

    /// The whole number under `key`, if it is there.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, fields: &Fields<'_>, key: &str) -> Option<T> {
        let node = fields.get(key)?;
        let number = match &node.data {
            Data::Scalar(scalar) => scalar.value.as_u64().and_then(|number| T::try_from(number).ok()),
            Data::Sequence(_) | Data::Mapping(_) => None,
        };
        if number.is_none() {
            let message = format!("`{}` is no number that fits", fields.path_of(key));
            self.fault(node.position, message, "write a whole number that is not negative");
        }
        number
    }

    /// `true` or `false` under `key`, if it is there.
    pub(super) fn flag(&mut self, fields: &Fields<'_>, key: &str) -> Option<bool> {
        let node = fields.get(key)?;
        let flag = match &node.data {
            Data::Scalar(scalar) => scalar.value.as_bool(),
            Data::Sequence(_) | Data::Mapping(_) => None,
        };
        if flag.is_none() {
            let message = format!("`{}` must be true or false", fields.path_of(key));
            self.fault(node.position, message, "write it without quotes");
        }
        flag
    }

    /// The IP address under `key`, if it is there.
    pub(super) fn address(&mut self, fields: &Fields<'_>, key: &str) -> Option<IpAddr> {
        fields.get(key).and_then(|node| self.address_of(node, &fields.path_of(key)))
    }

    /// The IP addresses of the list under `key`.
    pub(super) fn addresses(&mut self, fields: &Fields<'_>, key: &str) -> Vec<IpAddr> {
        let path = fields.path_of(key);
        let items = self.items(fields, key);
        items.iter().filter_map(|item| self.address_of(item, &path)).collect()
    }

    fn address_of(&mut self, node: &Node, path: &str) -> Option<IpAddr> {
        let text = self.text_of(node, path)?;
        let address = text.parse().ok();
        if address.is_none() {
            let message = format!("`{path}`: `{text}` is no IP address");
            self.fault(node.position, message, "write it as `192.0.2.1` or `2001:db8::1`");
        }
        address
    }
}

// === impl Fields ===

impl<'n> Fields<'n> {
    /// The value under `key`; `null` is none.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        let found = self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
        found.filter(|node| !is_null(node))
    }

    /// Where the value under `key` stands, or else the mapping.
    pub(super) fn at(&self, key: &str) -> Position {
        self.get(key).map_or(self.position, |node| node.position)
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The keys that have a value.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'n str> {
        self.entries.iter().filter(|entry| !is_null(&entry.value)).map(|entry| entry.key.as_str())
    }
}

/// A position in a file.
pub(super) fn place(file: &Arc<str>, at: Position) -> Place {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Place { file: Arc::clone(file), line: number(at.line), column: number(at.column) }
}

pub(super) fn is_null(node: &Node) -> bool {
    matches!(&node.data, Data::Scalar(scalar) if scalar.value.is_null())
}
