//! Reads YAML into a tree that knows the place of every value.
//!
//! It drives the event parser itself rather than a ready-made loader, because the depth, the number of values and the
//! expansion of aliases must have bounds. It refuses what two readers could take in two ways: duplicate keys, custom
//! tags, several documents, keys without a value.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr::Scalar as YamlScalar;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use serde_json::Value;

use crate::config::diagnostic::Position;
use crate::config::place::{Place, Step};

/// Nesting beyond which a document is refused.
const DEPTH_MAX: usize = 64;
/// Values, aliases expanded, beyond which a document is refused.
const NODES_MAX: usize = 100_000;
/// Characters of a value that a message quotes.
const QUOTE_MAX: usize = 80;

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Where it begins.
    pub(crate) position: Position,
    /// What it is.
    pub(crate) data: Data,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// A scalar.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping, in the order of the file, keys unique.
    Mapping(Vec<Entry>),
}

/// A scalar: what stands in the file, and what it means.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    /// The text in the file, quotes taken off.
    pub(crate) source: String,
    /// Null, a boolean, a number or a string; a string after its interpolation.
    pub(crate) value: Value,
    /// The value holds something that came from the environment or another file, and is a secret.
    pub(crate) interpolated: bool,
}

/// One key of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// Where the key begins.
    pub(crate) position: Position,
    /// Its value.
    pub(crate) value: Node,
}

/// A fault of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct YamlFault {
    /// Where.
    pub(crate) position: Position,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: &'static str,
}

// === impl Node ===

impl Node {
    /// Where the value at `place` begins, or the innermost value around it that the file has.
    pub(super) fn position(&self, place: &Place) -> Position {
        self.walk(place).0
    }

    /// Where the key that leads to `place` begins; of a list's item, where the item does.
    pub(super) fn key_position(&self, place: &Place) -> Position {
        self.walk(place).1
    }

    /// The value at `place`.
    pub(super) fn get(&self, place: &Place) -> Option<&Self> {
        place.steps().iter().try_fold(self, |node, step| node.child(step).map(|(child, _)| child))
    }

    /// The keys of the mapping here, none if it is no mapping.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Mapping(entries) => entries,
            Data::Sequence(_) | Data::Scalar(_) => &[],
        }
    }

    /// The items of the list here, none if it is no list.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.data {
            Data::Sequence(items) => items,
            Data::Mapping(_) | Data::Scalar(_) => &[],
        }
    }

    /// The value under `key`.
    pub(super) fn field(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The text at `place` as it stands in the file, made fit for one line of a message: interpolations are shown
    /// as they are written, so that no secret is.
    pub(super) fn shown(&self, place: &Place) -> String {
        match self.get(place).map(|node| &node.data) {
            Some(Data::Scalar(scalar)) => quotable(&scalar.source),
            Some(Data::Sequence(_)) => "[..]".to_owned(),
            Some(Data::Mapping(_)) => "{..}".to_owned(),
            None => String::new(),
        }
    }

    /// Whether a part of the value came from the environment or another file.
    pub(super) fn is_interpolated(&self) -> bool {
        match &self.data {
            Data::Scalar(scalar) => scalar.interpolated,
            Data::Sequence(items) => items.iter().any(Self::is_interpolated),
            Data::Mapping(entries) => entries.iter().any(|entry| entry.value.is_interpolated()),
        }
    }

    /// The value without its places.
    pub(crate) fn to_value(&self) -> Value {
        match &self.data {
            Data::Scalar(scalar) => scalar.value.clone(),
            Data::Sequence(items) => items.iter().map(Self::to_value).collect(),
            Data::Mapping(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value())).collect()
            }
        }
    }

    /// Calls `visit` for each scalar in here, outermost first.
    pub(super) fn visit_scalars(
        &mut self,
        place: &Place,
        visit: &mut dyn FnMut(&Place, Position, &mut Scalar),
    ) {
        match &mut self.data {
            Data::Scalar(scalar) => visit(place, self.position, scalar),
            Data::Sequence(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    item.visit_scalars(&place.index(index), visit);
                }
            }
            Data::Mapping(entries) => {
                for entry in entries {
                    entry.value.visit_scalars(&place.key(&entry.key), visit);
                }
            }
        }
    }

    fn child(&self, step: &Step) -> Option<(&Self, Position)> {
        match (&self.data, step) {
            (Data::Mapping(entries), Step::Key(key)) => {
                entries.iter().find(|entry| entry.key == *key).map(|entry| (&entry.value, entry.position))
            }
            (Data::Sequence(items), Step::Index(index)) => {
                items.get(*index).map(|item| (item, item.position))
            }
            (Data::Scalar(_) | Data::Mapping(_) | Data::Sequence(_), Step::Key(_) | Step::Index(_)) => None,
        }
    }

    fn walk(&self, place: &Place) -> (Position, Position) {
        let mut node = self;
        let mut key = self.position;
        for step in place.steps() {
            let Some((child, position)) = node.child(step) else {
                return (key, key);
            };
            (node, key) = (child, position);
        }
        (node.position, key)
    }

    fn size(&self) -> usize {
        match &self.data {
            Data::Scalar(_) => 1,
            Data::Sequence(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Data::Mapping(entries) => 1 + entries.iter().map(|entry| entry.value.size()).sum::<usize>(),
        }
    }

    fn depth(&self) -> usize {
        match &self.data {
            Data::Scalar(_) => 1,
            Data::Sequence(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Data::Mapping(entries) => 1 + entries.iter().map(|entry| entry.value.depth()).max().unwrap_or(0),
        }
    }
}

/// `text` cut to a length and freed of control characters, for one line of a message.
pub(crate) fn quotable(text: &str) -> String {
    let mut out = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == QUOTE_MAX {
            out.push_str("..");
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Parses one document. The second list holds the faults that reading could go on after; an error is one that it
/// could not.
pub(crate) fn parse(text: &str) -> Result<(Node, Vec<YamlFault>), YamlFault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder::default();
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|error| YamlFault {
            position: position(*error.marker()),
            message: format!("not valid YAML: {}", quotable(error.info())),
            help: "check the indentation, quotes and brackets before this place",
        })?;
        builder.event(event, span)?;
    }
    match builder.root {
        Some(root) => Ok((root, builder.faults)),
        None => Err(YamlFault {
            position: Position { line: 1, column: 1 },
            message: "the file is empty".to_owned(),
            help: "a configuration begins with `version: 1`; `gatewayctl config schema` prints what it may hold",
        }),
    }
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col().saturating_add(1) }
}

/// A collection that is still open.
#[derive(Debug)]
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<(String, Position)>,
    /// Where each key was first given.
    seen: HashMap<String, Position>,
}

#[derive(Debug, Default)]
struct Builder {
    root: Option<Node>,
    documents: usize,
    nodes: usize,
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    faults: Vec<YamlFault>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlFault> {
        let at = position(span.start);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(YamlFault {
                        position: at,
                        message: "a second document begins here".to_owned(),
                        help: "one file holds one document; take out the `---`",
                    });
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = self.scalar(text, style, tag.as_ref(), at);
                self.insert(Node { position: at, data: Data::Scalar(scalar) }, anchor)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(Data::Sequence(Vec::new()), anchor, tag.as_deref(), at)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.open(Data::Mapping(Vec::new()), anchor, tag.as_deref(), at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.stack.pop() {
                    self.insert(open.node, open.anchor)?;
                }
            }
            Event::Alias(anchor) => self.alias(anchor, at)?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn open(&mut self, data: Data, anchor: usize, tag: Option<&Tag>, at: Position) -> Result<(), YamlFault> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(too_deep(at));
        }
        if self
            .stack
            .last()
            .is_some_and(|open| matches!(open.node.data, Data::Mapping(_)) && open.key.is_none())
        {
            return Err(not_a_key(at));
        }
        self.refuse_tag(tag, at);
        let node = Node { position: at, data };
        self.stack.push(Open { node, anchor, key: None, seen: HashMap::new() });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), YamlFault> {
        let Some(target) = self.anchors.get(&anchor) else {
            return Err(YamlFault {
                position: at,
                message: "the alias stands inside the value it refers to".to_owned(),
                help: "write the value out",
            });
        };
        if self.stack.len() + target.depth() > DEPTH_MAX {
            return Err(too_deep(at));
        }
        // Counted before it is copied; `insert` counts the copy's own node.
        self.nodes = self.nodes.saturating_add(target.size() - 1);
        if self.nodes > NODES_MAX {
            return Err(too_many(at));
        }
        let mut node = target.clone();
        node.position = at;
        self.insert(node, 0)
    }

    /// Puts a finished value where it belongs: below the innermost open collection, as a key or a value.
    fn insert(&mut self, node: Node, anchor: usize) -> Result<(), YamlFault> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(too_many(node.position));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root.get_or_insert(node);
            return Ok(());
        };
        match &mut open.node.data {
            Data::Scalar(_) => {}
            Data::Sequence(items) => items.push(node),
            Data::Mapping(entries) => match (open.key.take(), node.data) {
                (None, Data::Scalar(scalar)) => {
                    open.key = Some((scalar.source, node.position));
                }
                (None, Data::Sequence(_) | Data::Mapping(_)) => return Err(not_a_key(node.position)),
                (Some((key, at)), data) => {
                    if let Some(first) = open.seen.get(&key) {
                        self.faults.push(YamlFault {
                            position: at,
                            message: format!(
                                "duplicate key `{}`, first given in line {}",
                                quotable(&key),
                                first.line
                            ),
                            help: "keep one of them",
                        });
                    } else {
                        open.seen.insert(key.clone(), at);
                        entries.push(Entry {
                            key,
                            position: at,
                            value: Node { position: node.position, data },
                        });
                    }
                }
            },
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Cow<'_, Tag>>,
        at: Position,
    ) -> Scalar {
        self.refuse_tag(tag.map(AsRef::as_ref), at);
        let source = text.clone().into_owned();
        let value = match YamlScalar::parse_from_cow_and_metadata(text, style, tag) {
            Some(YamlScalar::Null) => Value::Null,
            Some(YamlScalar::Boolean(value)) => Value::Bool(value),
            Some(YamlScalar::Integer(value)) => Value::from(value),
            Some(YamlScalar::FloatingPoint(value)) => number(value.into_inner()).unwrap_or_else(|| {
                self.faults.push(YamlFault {
                    position: at,
                    message: format!("`{}` is no number that can be used", quotable(&source)),
                    help: "write a finite number, or put a text in quotes",
                });
                Value::from(0)
            }),
            Some(YamlScalar::String(text)) => Value::String(text.into_owned()),
            None => {
                self.faults.push(YamlFault {
                    position: at,
                    message: format!("`{}` does not have the type its tag says", quotable(&source)),
                    help: "take out the tag",
                });
                Value::String(source.clone())
            }
        };
        Scalar { source, value, interpolated: false }
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, at: Position) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            self.faults.push(YamlFault {
                position: at,
                message: format!("unknown tag `{}`", quotable(&format!("{}{}", tag.handle, tag.suffix))),
                help: "take out the tag; for a variable or a file write `${env:NAME}` or `${file:PATH}`",
            });
        }
    }
}

/// A finite number; `4.0` becomes the whole number that the schema takes it for.
fn number(value: f64) -> Option<Value> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers up to 2^53 are exact")]
        return Some(Value::from(value as i64));
    }
    serde_json::Number::from_f64(value).map(Value::Number)
}

fn too_deep(at: Position) -> YamlFault {
    YamlFault {
        position: at,
        message: format!("nested deeper than {DEPTH_MAX} levels"),
        help: "write it flatter",
    }
}

fn too_many(at: Position) -> YamlFault {
    YamlFault {
        position: at,
        message: format!("more than {NODES_MAX} values, aliases written out"),
        help: "use fewer aliases, or split the file",
    }
}

fn not_a_key(at: Position) -> YamlFault {
    YamlFault {
        position: at,
        message: "a list or a mapping cannot be a key".to_owned(),
        help: "put a text that begins with `{` or `[` in quotes",
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn fatal(text: &str) -> String {
        let fault = parse(text).unwrap_err();
        format!("{}:{}: {}", fault.position.line, fault.position.column, fault.message)
    }

    #[track_caller]
    fn check_fault(text: &str, want: &str) {
        let (_, faults) = parse(text).unwrap();
        let got: Vec<String> = faults
            .iter()
            .map(|fault| format!("{}:{}: {}", fault.position.line, fault.position.column, fault.message))
            .collect();
        assert_eq!(got, [want], "{text}");
    }

    #[test]
    fn every_value_knows_its_place() {
        let (root, faults) = parse("a: 1\nlist:\n  - x: true\n  - [p, 'q']\n").unwrap();
        assert_eq!(faults, []);
        let at = |place: &Place| {
            let position = root.position(place);
            (position.line, position.column)
        };
        let list = Place::root().key("list");
        assert_eq!(at(&Place::root().key("a")), (1, 4));
        assert_eq!(at(&list.index(0).key("x")), (3, 8));
        assert_eq!(at(&list.index(1).index(1)), (4, 9));
        assert_eq!(at(&list.index(0).key("absent")), (3, 5), "the innermost place that exists");
        assert_eq!(root.to_value(), serde_json::json!({"a": 1, "list": [{"x": true}, ["p", "q"]]}));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        check_fault("a: 1\nb: 2\na: 3", "3:1: duplicate key `a`, first given in line 1");
        check_fault("{a: 1, \"a\": 3}", "1:8: duplicate key `a`, first given in line 1");
        check_fault("a: !env HOME", "1:4: unknown tag `!env`");
        check_fault("a: .nan", "1:4: `.nan` is no number that can be used");
        check_fault("a: !!int x", "1:4: `x` does not have the type its tag says");
        assert_eq!(fatal("a: 1\n---\nb: 2"), "2:1: a second document begins here");
        assert_eq!(fatal("? [a, b]\n: 1"), "1:3: a list or a mapping cannot be a key");
        assert_eq!(fatal(""), "1:1: the file is empty");
        assert!(fatal("a: [1, 2").contains("not valid YAML: "));
    }

    #[test]
    fn aliases_are_written_out_within_bounds() {
        let (root, _) = parse("a: &x {k: 1}\nb: *x").unwrap();
        assert_eq!(root.to_value(), serde_json::json!({"a": {"k": 1}, "b": {"k": 1}}));
        let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for level in 1..10 {
            let item = format!("*a{}", level - 1);
            writeln!(laughs, "a{level}: &a{level} [{}]", [item.as_str(); 9].join(", ")).unwrap();
        }
        assert!(fatal(&laughs).ends_with("more than 100000 values, aliases written out"));
        assert!(fatal("a: &x [1, *x]").contains("inside the value it refers to"));
        let mut deep = "a0: &a0 [1]\n".to_owned();
        for level in 1..100 {
            writeln!(deep, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
        }
        assert!(fatal(&deep).ends_with("nested deeper than 64 levels"));
    }

    #[test]
    fn whole_numbers_are_whole_however_they_are_written() {
        let (root, _) = parse("[4, 4.0, 4e0, -0.0, 0.5, 0x10]").unwrap();
        assert_eq!(root.to_value(), serde_json::json!([4, 4, 4, 0, 0.5, 16]));
    }

    #[test]
    fn depth_has_a_bound() {
        assert!(fatal(&"[".repeat(100)).contains("nested deeper"));
        // The scanner has a bound of its own for what it looks ahead.
        assert!(fatal(&"[".repeat(100_000)).contains("not valid YAML: "));
        let block: Vec<String> = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        assert!(fatal(&block.concat()).contains("nested deeper"));
    }

    #[test]
    fn a_quoted_text_stays_on_one_line_and_is_short() {
        assert_eq!(quotable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(quotable(&"x".repeat(200)).len(), QUOTE_MAX + 2);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n\t]{0,200}") {
            drop(parse(&text));
        }

        #[test]
        fn no_yaml_like_text_panics(parts in prop::collection::vec(
            prop::sample::select(vec![
                "a", ":", " ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "&x", "*x", "!t", "|", ">", "'", "\"", "?",
                "---\n", "...\n", "%YAML 1.2\n", "#", "<<", "${", "~", "\t", "\u{feff}", "\u{2028}", "1e999", "@", "`",
            ]), 0..60)) {
            drop(parse(&parts.concat()));
        }
    }
}
