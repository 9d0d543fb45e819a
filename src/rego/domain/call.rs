//! Calls, as the abstract run sees them: what a built-in tests of its arguments, and what comes through it.

use regorus::Value;

use super::super::builtin;
use super::super::outside::Settled;
use super::super::tree::{Shape, Target, Term, TermKind};
use super::analysis::{Abstract, Analysis, Atom, Locals, children, combinations, only, prefixes, through};
use super::sample::{self, Via};

impl<'a> Analysis<'a> {
    pub(super) fn call(
        &mut self,
        target: &'a Target,
        arguments: &'a [Term],
        locals: &mut Locals,
    ) -> Abstract {
        let mut values: Vec<Abstract> = arguments.iter().map(|term| self.term(term, locals)).collect();
        match target {
            Target::Unknown => Abstract::new(),
            Target::Builtin(name) => {
                let known = builtin::lookup(name).map(|builtin| builtin.arity);
                let output =
                    arguments.last().filter(|_| known.is_some_and(|arity| values.len() == arity + 1));
                if output.is_some() {
                    values.pop();
                }
                let terms = arguments.get(..values.len()).unwrap_or(arguments);
                let result = self.builtin(name, terms, &values, locals);
                self.result(output, result, locals)
            }
            Target::Function(path) => {
                let tree = self.tree;
                let arity = tree.functions_at(path).find_map(|(_, rule)| match &rule.shape {
                    Shape::Function(parameters) => Some(parameters.len()),
                    Shape::Value | Shape::Set => None,
                });
                let output =
                    arguments.last().filter(|_| arity.is_some_and(|arity| values.len() == arity + 1));
                if output.is_some() {
                    values.pop();
                }
                let result = self.function(path, &values);
                self.result(output, result, locals)
            }
        }
    }

    /// The result, or nothing where the last argument takes it.
    fn result(&mut self, output: Option<&'a Term>, result: Abstract, locals: &mut Locals) -> Abstract {
        let Some(output) = output else { return result };
        self.pattern(output, &result, locals);
        Abstract::new()
    }

    fn builtin(
        &mut self,
        name: &str,
        terms: &'a [Term],
        values: &[Abstract],
        locals: &mut Locals,
    ) -> Abstract {
        if !builtin::is_volatile(name)
            && let Some(known) = fold(name, values)
        {
            return known;
        }
        for value in values {
            self.read(value);
        }
        let empty = Abstract::new();
        let value = |index: usize| values.get(index).unwrap_or(&empty);
        let (first, second) = (value(0), value(1));
        match name {
            "count" => through(first, &Via::Count),
            "lower" | "upper" | "trim_space" | "trim" | "trim_left" | "trim_right" => {
                through(first, &Via::Case)
            }
            "to_number" => through(first, &Via::ToNumber),
            "format_int" => through(first, &Via::ToText),
            "trim_prefix" => each_known(first, second, &Via::TrimPrefix),
            "trim_suffix" => each_known(first, second, &Via::TrimSuffix),
            "split" => each_known(first, second, &Via::Split),
            "concat" => self.concat(first, terms.get(1), locals),
            "sprintf" => self.formatted(first, terms.get(1), locals),
            "object.get" => self.object_get(first, second, value(2)),
            "object.keys" => {
                let (keys, _) = self.iterate(first);
                Abstract::from([Atom::Items(keys.clone(), keys)])
            }
            "union" | "intersection" | "object.union_n" | "array.flatten" => {
                let (_, elements) = self.iterate(first);
                elements
            }
            "object.union" | "array.concat" => first.iter().chain(second).cloned().collect(),
            "sort" | "cast_set" | "cast_array" | "array.reverse" | "array.slice" | "object.filter"
            | "object.remove" | "json.filter" | "json.remove" | "abs" | "round" | "ceil" | "floor" => {
                first.clone()
            }
            "min" | "max" | "sum" => self.iterate(first).1,
            _ => {
                self.tested_by(name, values);
                Abstract::new()
            }
        }
    }

    /// Built-ins that answer yes or no, or where.
    fn tested_by(&mut self, name: &str, values: &[Abstract]) {
        let empty = Abstract::new();
        let value = |index: usize| values.get(index).unwrap_or(&empty);
        let (first, second) = (value(0), value(1));
        let all = |texts: Vec<String>| texts.into_iter().map(Value::from).collect::<Vec<_>>();
        let texts = |with: &Value, make: &dyn Fn(&str) -> Vec<String>| {
            with.as_string().map(|text| all(make(text))).unwrap_or_default()
        };
        match name {
            "startswith" => {
                self.test_all(first, second, &prefixes);
                self.test_all(second, first, &prefixes);
            }
            "endswith" => {
                let ends = |with: &Value| texts(with, &|text| vec![text.to_owned(), format!("x{text}")]);
                self.test_all(first, second, &ends);
                self.test_all(second, first, &ends);
            }
            "contains" | "indexof" => {
                let holds = |with: &Value| texts(with, &|text| vec![text.to_owned(), format!("x{text}x")]);
                self.test_all(first, second, &holds);
                self.test_all(second, first, &holds);
            }
            "strings.any_prefix_match" => {
                let (one, other) = (self.each(first), self.each(second));
                self.test_all(&one, &other, &prefixes);
            }
            "strings.any_suffix_match" => {
                let (one, other) = (self.each(first), self.each(second));
                self.test_all(&one, &other, &|with| {
                    texts(with, &|text| vec![text.to_owned(), format!("x{text}")])
                });
            }
            "regex.match" | "re_match" | "regex.is_valid" => {
                let matches =
                    |with: &Value| texts(with, &|text| sample::of_regex(text).into_iter().collect());
                self.test_all(second, first, &matches);
            }
            "glob.match" => {
                let delimiter = self.iterate(second).1.iter().find_map(|atom| match atom {
                    Atom::Known(text) => text.as_string().ok().map(ToString::to_string),
                    Atom::Input(..) | Atom::Items(..) | Atom::Below(_) => None,
                });
                let delimiter = delimiter.unwrap_or_else(|| ".".to_owned());
                let matches = |with: &Value| texts(with, &|text| sample::of_glob(text, &delimiter));
                self.test_all(value(2), first, &matches);
            }
            "net.cidr_contains" | "net.cidr_intersects" | "net.cidr_contains_matches" => {
                let (networks, addresses) = (self.each(first), self.each(second));
                let inside = |with: &Value| texts(with, &sample::of_network);
                self.test_all(&addresses, &networks, &inside);
                self.test_all(&networks, &addresses, &|with| vec![with.clone()]);
            }
            "semver.compare" | "time.parse_rfc3339_ns" | "time.parse_duration_ns" => {
                self.compare(first, second);
            }
            _ => {}
        }
    }

    /// A value and, where it is a collection, its elements.
    fn each(&mut self, value: &Abstract) -> Abstract {
        let is_collection = |atom: &Atom| match atom {
            Atom::Known(value) => !children(value).is_empty(),
            Atom::Items(..) => true,
            Atom::Input(..) | Atom::Below(_) => false,
        };
        let (collections, single): (Vec<Atom>, Vec<Atom>) = value.iter().cloned().partition(is_collection);
        let collections: Abstract = collections.into_iter().collect();
        let (_, elements) = self.iterate(&collections);
        single.into_iter().chain(elements).collect()
    }

    fn object_get(&mut self, object: &Abstract, key: &Abstract, default: &Abstract) -> Abstract {
        let mut found = Abstract::new();
        // A path is a list of keys; a key of another kind is one.
        match only(key) {
            Some(Value::Array(path)) => {
                let mut at = object.clone();
                for key in path.iter() {
                    at = self.look_up(&at, &Abstract::from([Atom::Known(key.clone())]));
                }
                found.extend(at);
            }
            Some(_) | None => found.extend(self.look_up(object, key)),
        }
        self.read(&found);
        found.extend(default.iter().cloned());
        found
    }

    /// Texts put together: what stands around a part of the input is known where it is one text.
    fn concat(&mut self, delimiter: &Abstract, items: Option<&'a Term>, locals: &mut Locals) -> Abstract {
        let (Some(delimiter), Some(TermKind::Array(items))) =
            (text_of(delimiter), items.map(|term| &term.kind))
        else {
            return Abstract::new();
        };
        let items: Vec<Abstract> = items.iter().map(|item| self.term(item, locals)).collect();
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                pieces.push(Piece::Text(delimiter.clone()));
            }
            pieces.push(text_of(item).map_or(Piece::Value(item), Piece::Text));
        }
        between(&pieces)
    }

    fn formatted(&mut self, format: &Abstract, items: Option<&'a Term>, locals: &mut Locals) -> Abstract {
        let (Some(format), Some(TermKind::Array(items))) = (text_of(format), items.map(|term| &term.kind))
        else {
            return Abstract::new();
        };
        let items: Vec<Abstract> = items.iter().map(|item| self.term(item, locals)).collect();
        let mut pieces = Vec::new();
        let mut texts = format.split('%');
        pieces.push(Piece::Text(texts.next().unwrap_or_default().to_owned()));
        for (text, item) in texts.zip(&items) {
            pieces.push(text_of(item).map_or(Piece::Value(item), Piece::Text));
            // After the verb's letter.
            pieces.push(Piece::Text(text.chars().skip(1).collect()));
        }
        between(&pieces)
    }
}

enum Piece<'v> {
    Text(String),
    Value(&'v Abstract),
}

/// Each part of the input among the pieces, with the known texts on both sides up to the next unknown one.
fn between(pieces: &[Piece<'_>]) -> Abstract {
    let mut made = Abstract::new();
    let text = |piece: &Piece<'_>| match piece {
        Piece::Text(text) => Some(text.clone()),
        Piece::Value(_) => None,
    };
    for (index, piece) in pieces.iter().enumerate() {
        let Piece::Value(value) = piece else { continue };
        let (before, rest) = pieces.split_at(index);
        let mut prefix: Vec<String> = before.iter().rev().map_while(text).collect();
        prefix.reverse();
        let suffix: String = rest.iter().skip(1).map_while(text).collect();
        made.extend(through(value, &Via::Between(prefix.concat(), suffix)));
    }
    made
}

/// The one known text.
fn text_of(value: &Abstract) -> Option<String> {
    only(value)?.as_string().ok().map(ToString::to_string)
}

/// Each known text of `with` applied to the parts of the input in `value`.
fn each_known(value: &Abstract, with: &Abstract, via: &dyn Fn(String) -> Via) -> Abstract {
    let texts = with.iter().filter_map(|atom| match atom {
        Atom::Known(text) => text.as_string().ok().map(ToString::to_string),
        Atom::Input(..) | Atom::Items(..) | Atom::Below(_) => None,
    });
    texts.flat_map(|text| through(value, &via(text))).collect()
}

/// The results of a built-in where all arguments are known.
fn fold(name: &str, values: &[Abstract]) -> Option<Abstract> {
    let builtin = builtin::lookup(name)?;
    let combinations = combinations(values)?;
    builtin::start(0, &Value::Undefined, Settled::default());
    let results = combinations.iter().filter_map(|arguments| builtin.call(arguments, false).ok());
    let results: Abstract = results.filter(|result| *result != Value::Undefined).map(Atom::Known).collect();
    // What a bound refused is no concern of the next evaluation.
    drop(builtin::take_refusal());
    Some(results)
}
