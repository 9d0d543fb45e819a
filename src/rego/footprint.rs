//! What an entry point can read: an abstract run of its rules over paths instead of values.
//!
//! Every value is the set of input and data paths it may be a part of. Looking into a value
//! deepens its paths; anything else done with it reads them whole. Unsure is always the larger path.

mod analysis;

use std::{collections::BTreeSet, fmt};

pub(crate) use self::analysis::analyse;
use super::builtin;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// This key.
    Key(String),
    /// Every key or element.
    Any,
}

/// A path below `input` or `data`; it covers everything below it.
pub type ReadPath = Vec<Segment>;

/// The input paths, data paths and built-ins an entry point can read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Footprint {
    input: BTreeSet<ReadPath>,
    present: BTreeSet<ReadPath>,
    data: BTreeSet<ReadPath>,
    builtins: BTreeSet<String>,
}

impl Footprint {
    pub(crate) fn new(
        input: BTreeSet<ReadPath>,
        present: BTreeSet<ReadPath>,
        data: BTreeSet<ReadPath>,
        builtins: BTreeSet<String>,
    ) -> Self {
        let input = minimal(input);
        // Whatever keeps a path keeps the objects on the way to it.
        let implied = |path: &ReadPath| input.iter().any(|read| read.starts_with(path) || covers(read, path));
        let present: BTreeSet<ReadPath> = present.into_iter().filter(|path| !implied(path)).collect();
        let present = present
            .iter()
            .filter(|path| !present.iter().any(|other| other != *path && other.starts_with(path)));
        Self { present: present.cloned().collect(), input, data: minimal(data), builtins }
    }

    /// Input paths that are read, each with all below it; the empty path is the whole input.
    pub fn input(&self) -> impl Iterator<Item = &ReadPath> {
        self.input.iter()
    }

    /// Input paths of which only the presence matters.
    pub fn present(&self) -> impl Iterator<Item = &ReadPath> {
        self.present.iter()
    }

    /// Paths of base documents that are read.
    pub fn data(&self) -> impl Iterator<Item = &ReadPath> {
        self.data.iter()
    }

    /// Names of the built-ins that may be called.
    pub fn builtins(&self) -> impl Iterator<Item = &str> {
        self.builtins.iter().map(String::as_str)
    }

    /// Whether the policy may tell apart two inputs that differ only at or below `path`.
    pub fn touches(&self, path: &[&str]) -> bool {
        let meets = |read: &ReadPath| {
            read.iter()
                .zip(path)
                .all(|(segment, key)| matches!(segment, Segment::Any) || is_key(segment, key))
        };
        self.input.iter().any(meets)
            || self.present.iter().any(|read| read.len() >= path.len() && meets(read))
    }

    /// Whether the entry point has one answer for all inputs: it reads none, and neither clock nor
    /// chance. Data may still change it, so the answer holds for one program.
    pub fn is_constant(&self) -> bool {
        self.input.is_empty()
            && self.present.is_empty()
            && !self.builtins.iter().any(|name| builtin::is_volatile(name))
    }
}

fn is_key(segment: &Segment, key: &str) -> bool {
    matches!(segment, Segment::Key(own) if own == key)
}

/// Whether all below `inner` is below `outer` too.
fn covers(outer: &[Segment], inner: &[Segment]) -> bool {
    outer.len() <= inner.len()
        && outer.iter().zip(inner).all(|(outer, inner)| *outer == Segment::Any || outer == inner)
}

fn minimal(paths: BTreeSet<ReadPath>) -> BTreeSet<ReadPath> {
    let redundant = |path: &ReadPath| paths.iter().any(|other| other != path && covers(other, path));
    paths.iter().filter(|path| !redundant(path)).cloned().collect()
}

/// A path as a policy writes it: `input.request.headers[*]`.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a str, pub &'a [Segment]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = self.0.to_owned();
        for segment in self.1 {
            match segment {
                Segment::Key(key) => super::tree::push_component(&mut out, key),
                Segment::Any => out.push_str("[*]"),
            }
        }
        f.write_str(&out)
    }
}
