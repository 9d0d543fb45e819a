//! What an entry point can read: an abstract run of its rules over paths instead of values.
//!
//! Every value is the set of input and data paths it may be a part of. Looking into a value
//! deepens its paths; anything else done with it reads them whole. Unsure is always the larger path.

mod analysis;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use regorus::Value;

pub(crate) use self::analysis::analyse;
use super::builtin;

/// Built-ins that may answer anything each time they are asked: signatures have random salts and nonces, and servers have
/// minds of their own.
const RANDOM: [&str; 6] = [
    "http.send",
    "io.jwt.encode_sign",
    "io.jwt.encode_sign_raw",
    "net.lookup_ip_addr",
    "rand.intn",
    "uuid.rfc4122",
];

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
        input: &BTreeSet<ReadPath>,
        present: BTreeSet<ReadPath>,
        data: &BTreeSet<ReadPath>,
        builtins: BTreeSet<String>,
    ) -> Self {
        let input = minimal(input);
        Self { present: deepest(&input, present), input, data: minimal(data), builtins }
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

    /// Whether chance has a say, so that two evaluations of the same input may differ.
    pub fn is_left_to_chance(&self) -> bool {
        self.builtins.iter().any(|name| RANDOM.contains(&name.as_str()))
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

    /// The part of an input that can be read: an evaluation answers for it what it answers for all.
    pub fn project_input(&self, input: &Value) -> Value {
        let whole = self.input.iter().map(|path| (path.as_slice(), Depth::Whole));
        let present = self.present.iter().map(|path| (path.as_slice(), Depth::Presence));
        project(input, &whole.chain(present).collect::<Vec<_>>())
    }

    /// The part of the base data that can be read.
    pub fn project_data(&self, data: &Value) -> Value {
        project(data, &self.data.iter().map(|path| (path.as_slice(), Depth::Whole)).collect::<Vec<_>>())
    }

    /// Whether the entry point has one answer for all inputs: it reads none, and neither clock nor
    /// chance. Data may still change it, so the answer holds for one program.
    pub fn is_constant(&self) -> bool {
        self.input.is_empty() && self.present.is_empty() && !self.is_volatile()
    }

    /// Whether the answer may differ for the same input and data: it depends on the clock, on chance, or on the
    /// world outside.
    pub fn is_volatile(&self) -> bool {
        self.builtins.iter().any(|name| builtin::is_volatile(name))
    }
}

/// Paths that are looked for beside those that are read: whatever keeps a path keeps the objects on the way to it.
fn deepest(read: &BTreeSet<ReadPath>, present: BTreeSet<ReadPath>) -> BTreeSet<ReadPath> {
    let implied = |path: &ReadPath| read.iter().any(|read| read.starts_with(path) || covers(read, path));
    let present: BTreeSet<ReadPath> = present.into_iter().filter(|path| !implied(path)).collect();
    let deepest =
        present.iter().filter(|path| !present.iter().any(|other| other != *path && other.starts_with(path)));
    deepest.cloned().collect()
}

/// How much of the value at the end of a path is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Whole,
    Presence,
}

fn project(value: &Value, paths: &[(&[Segment], Depth)]) -> Value {
    if paths.iter().any(|(path, depth)| path.is_empty() && *depth == Depth::Whole) {
        return value.clone();
    }
    let below = |is: &dyn Fn(&Segment) -> bool| -> Vec<(&[Segment], Depth)> {
        let steps = paths.iter().filter_map(|(path, depth)| Some((path.split_first()?, *depth)));
        steps.filter(|((first, _), _)| is(first)).map(|((_, rest), depth)| (rest, depth)).collect()
    };
    match value {
        Value::Object(fields) => {
            let mut kept = BTreeMap::new();
            for (key, value) in fields.iter() {
                let name = key.as_string().ok();
                let paths = below(&|segment| match segment {
                    Segment::Any => true,
                    Segment::Key(own) => name.is_some_and(|name| **name == **own),
                });
                if !paths.is_empty() {
                    kept.insert(key.clone(), project(value, &paths));
                }
            }
            Value::from(kept)
        }
        Value::Array(items) => {
            let paths = below(&|segment| *segment == Segment::Any);
            if paths.is_empty() {
                return Value::new_array();
            }
            Value::from(items.iter().map(|item| project(item, &paths)).collect::<Vec<_>>())
        }
        // The elements of a set are its keys.
        Value::Set(_) if below(&|segment| *segment == Segment::Any).is_empty() => Value::new_set(),
        Value::Set(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Undefined => value.clone(),
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

fn minimal(paths: &BTreeSet<ReadPath>) -> BTreeSet<ReadPath> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::program::{Module, Options, compile};

    fn footprint(text: &str) -> Footprint {
        let modules = vec![Module { path: "p.rego".into(), text: format!("package a\n{text}\n") }];
        let program =
            compile(&modules, Value::new_object(), Options::default()).unwrap_or_else(|e| panic!("{e}"));
        program.footprint(&program.entrypoint("a/p").unwrap())
    }

    #[track_caller]
    fn check(text: &str, reads: &[&str], present: &[&str]) {
        let footprint = footprint(text);
        let shown = |paths: &mut dyn Iterator<Item = &ReadPath>| -> Vec<String> {
            paths.map(|path| Shown("input", path).to_string()).collect()
        };
        assert_eq!(shown(&mut footprint.input()), reads, "{text}");
        assert_eq!(shown(&mut footprint.present()), present, "{text}");
    }

    #[test]
    fn direct_paths_are_exact() {
        check("p if input.request.method == \"GET\"", &["input.request.method"], &[]);
        check("p if input.request[\"odd key\"]", &["input.request[\"odd key\"]"], &[]);
        check("p if { input.a; input.a.b }", &["input.a"], &[]);
        check("p := 1", &[], &[]);
        check("p if input.list[0].name", &["input.list[*].name"], &[]);
        check("p if not input.a.b", &["input.a.b"], &[]);
    }

    #[test]
    fn names_and_imports_and_rules_are_followed() {
        check("p if { r := input.request; r.method == \"GET\" }", &["input.request.method"], &[]);
        check("import input.request as r\np if r.method", &["input.request.method"], &[]);
        check("r := input.request\np if r.method", &["input.request.method"], &[]);
        check("r := s\ns := input.request\np if { x := r; x.a.b }", &["input.request.a.b"], &[]);
        check("p if q\nq if r\nr if input.x", &["input.x"], &[]);
        check("p if data.a.q\nq := input.x", &["input.x"], &[]);
    }

    #[test]
    fn functions_are_followed_by_argument() {
        check("f(x) if x.a\np if f(input.b)", &["input.b.a"], &[]);
        check("f(x) := x.a\np if { y := f(input.b); y.c }", &["input.b.a.c"], &[]);
        check("f(x) := x.a\np if { f(input.b) == f(input.c) }", &["input.b.a", "input.c.a"], &[]);
        check("f({\"a\": x}) if x\np if f(input.b)", &["input.b"], &[]);
        check("f(_) := 1\np if f(input.b)", &[], &["input.b"]);
        check("g(x) if x.z\nf(x) if x.a\np if f(input.b) with f as g", &["input.b.a", "input.b.z"], &[]);
    }

    #[test]
    fn unknown_keys_cover_all_keys() {
        check("p if input.headers[input.name]", &["input.headers[*]", "input.name"], &[]);
        check("p if { some k, v in input.headers; v == \"x\" }", &["input.headers[*]"], &[]);
        check("p if { some k, _ in input.headers; startswith(k, \"x\") }", &[], &["input.headers[*]"]);
        check("p if { some x in input.list; x.name == \"a\" }", &["input.list[*].name"], &[]);
        check("p if { every x in input.list { x.ok } }", &["input.list[*].ok"], &[]);
        check("p if { some [a, b] in input.pairs; a == b }", &["input.pairs"], &[]);
    }

    #[test]
    fn what_is_used_as_a_whole_is_read_as_a_whole() {
        check("p if count(input.list) > 1", &["input.list"], &[]);
        check("p if \"a\" in input.list", &["input.list"], &[]);
        check("p if { x = input.a; x.b }", &["input.a"], &[]);
        check("p if { input.a == input.b }", &["input.a", "input.b"], &[]);
        check("p := input", &["input"], &[]);
        check("p := {\"x\": input.a}", &["input.a"], &[]);
        check("p if q with input as input.other\nq if input.x", &["input.other", "input.x"], &[]);
        check("p contains input.a.b", &["input.a.b"], &[]);
        check("p[input.k] := input.v", &["input.k", "input.v"], &[]);
        check("p if walk(input.a, [_, v])\nv := 1", &["input.a"], &[]);
        check("p := [x | x := input.a.b]", &["input.a.b"], &[]);
        check("p := 1 if false else := input.z", &["input.z"], &[]);
    }

    #[test]
    fn presence_alone_is_told_apart() {
        check("p if { x := input.identity; true }", &[], &["input.identity"]);
        check("p if { x := input.identity; x.subject }", &["input.identity.subject"], &[]);
    }

    #[test]
    fn object_get_is_precise() {
        check("p if object.get(input.a, \"k\", 1) == 2", &["input.a.k"], &[]);
        check("p if object.get(input.a, [\"k\", \"l\"], 1) == 2", &["input.a.k.l"], &[]);
        check("p if object.get(input.a, input.k, 1) == 2", &["input.a", "input.k"], &[]);
    }

    #[test]
    fn order_of_statements_does_not_matter() {
        check("p if { y.c == 1; y = x.b; x = input.a }", &["input.a"], &[]);
    }

    #[test]
    fn touching_is_meeting_from_either_side() {
        let footprint =
            footprint("p if { input.request.body.amount > 1; some k, _ in input.request.headers; k }");
        for (path, want) in [
            (&["request"][..], true),
            (&["request", "body"], true),
            (&["request", "body", "amount", "x"], true),
            (&["request", "body", "other"], false),
            (&["request", "headers"], true),
            (&["request", "headers", "host"], true),
            (&["request", "method"], false),
            (&["identity"], false),
        ] {
            assert_eq!(footprint.touches(path), want, "{path:?}");
        }
    }

    #[test]
    fn constants_read_no_input_clock_or_chance() {
        assert!(footprint("p := data.table").is_constant());
        assert!(footprint("p if count([1]) == 1").is_constant());
        for volatile in [
            "p if input.x",
            "p if { x := input.x; true }",
            "p := time.now_ns()",
            "p := f(1)\nf(_) := rand.intn(\"a\", 5)",
        ] {
            assert!(!footprint(volatile).is_constant(), "{volatile}");
        }
    }

    #[test]
    fn projection_keeps_what_is_read() {
        let footprint =
            footprint("p if { input.a.b == 1; some x in input.list; x.k == 2; y := input.c; true }");
        let input = r#"{"a": {"b": 1, "z": 1}, "list": [{"k": 2, "z": 1}, 5], "c": {"z": 1}, "z": 1}"#;
        let want = r#"{"a": {"b": 1}, "list": [{"k": 2}, 5], "c": {}}"#;
        let projected = footprint.project_input(&Value::from_json_str(input).unwrap());
        assert_eq!(projected, Value::from_json_str(want).unwrap());
    }
}
