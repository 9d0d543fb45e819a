//! Which paths of a document a policy can read, so that only those are resolved, buffered and built.

use std::collections::BTreeMap;

/// The part of a document that can be read. Always at least what is read: in doubt it is larger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reads {
    /// Nothing of it.
    #[default]
    Nothing,
    /// Some of its keys.
    Keys(BTreeMap<String, Reads>),
    /// All of it.
    Whole,
}

impl Reads {
    /// The union of `paths` below this document; a path covers all below it, and an unknown key (`None`) the whole
    /// document it is a key of.
    pub fn from_paths<P>(paths: impl IntoIterator<Item = P>) -> Self
    where
        P: IntoIterator<Item = Option<String>>,
    {
        let mut reads = Self::Nothing;
        for path in paths {
            reads.add(path.into_iter());
        }
        reads
    }

    fn add(&mut self, mut path: impl Iterator<Item = Option<String>>) {
        match path.next() {
            Some(Some(key)) => match self {
                Self::Whole => {}
                Self::Keys(keys) => keys.entry(key).or_default().add(path),
                Self::Nothing => {
                    let mut below = Self::Nothing;
                    below.add(path);
                    *self = Self::Keys(BTreeMap::from([(key, below)]));
                }
            },
            Some(None) | None => *self = Self::Whole,
        }
    }

    /// Adds all that `other` reads.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Whole, _) | (_, Self::Whole) => Self::Whole,
            (Self::Nothing, reads) | (reads, Self::Nothing) => reads,
            (Self::Keys(mut mine), Self::Keys(theirs)) => {
                for (key, reads) in theirs {
                    let merged = mine.remove(&key).unwrap_or_default().union(reads);
                    mine.insert(key, merged);
                }
                Self::Keys(mine)
            }
        }
    }

    /// What is read of the value at `key`.
    pub fn key(&self, key: &str) -> &Self {
        match self {
            Self::Nothing => &Self::Nothing,
            Self::Whole => &Self::Whole,
            Self::Keys(keys) => keys.get(key).unwrap_or(&Self::Nothing),
        }
    }

    /// What is read of the value at `path`.
    pub fn at(&self, path: &[&str]) -> &Self {
        path.iter().fold(self, |reads, key| reads.key(key))
    }

    /// Whether anything is read.
    pub fn any(&self) -> bool {
        *self != Self::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(paths: &[&str]) -> Reads {
        let key = |key: &str| (key != "*").then(|| key.to_owned());
        Reads::from_paths(paths.iter().map(|path| path.split('.').map(key).collect::<Vec<_>>()))
    }

    #[test]
    fn a_path_covers_what_is_below_it() {
        let reads = reads(&["request.path", "identity", "request.headers.*"]);
        assert!(reads.at(&["request", "path"]).any());
        assert_eq!(reads.at(&["identity", "claims", "sub"]), &Reads::Whole);
        assert_eq!(reads.at(&["request", "headers"]), &Reads::Whole);
        assert!(!reads.at(&["request", "body"]).any());
        assert!(!reads.key("source").any());
    }

    #[test]
    fn the_larger_of_two_reads_wins() {
        assert_eq!(reads(&["a.b", "a"]).key("a"), &Reads::Whole);
        assert_eq!(reads(&["a", "a.b"]).key("a"), &Reads::Whole);
        assert_eq!(Reads::from_paths([Vec::new()]), Reads::Whole);
        assert_eq!(reads(&["a.b"]).union(reads(&["a.c", "d"])), reads(&["a.b", "a.c", "d"]));
        assert_eq!(reads(&["a.b"]).union(Reads::Whole), Reads::Whole);
    }
}
