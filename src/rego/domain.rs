//! The inputs that a policy can tell apart: for each input path it reads, the values it compares it with.
//!
//! Policies and their data are run abstractly, as for the footprint, but over what values are compared with. Each part of
//! the input becomes a dimension with a few choices: absent, each tested value, one that equals none of them, a wrong type.
//! A request made of these choices stands for all that the policy treats alike. Nothing here evaluates a policy.

mod analysis;
mod call;
mod choice;
mod compare;
mod lookup;
mod node;
mod sample;

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use self::analysis::{Analysis, Found, Place, Step};
pub use self::choice::{Choice, Kind};
use super::program::{Entrypoint, Program};
use super::tree::{Path, push_component};

/// Children of one object or array in the data that are looked at.
const CHILDREN_MAX: usize = 48;
/// Dimensions of one domain; what is beyond stays absent.
const DIMENSIONS_MAX: usize = 64;

/// The inputs one or more policies can tell apart.
#[derive(Debug)]
pub struct Domain {
    dimensions: Vec<Dimension>,
    rules: Vec<RuleReads>,
    is_cut: bool,
}

/// A part of the input, and what may stand there.
#[derive(Debug)]
pub struct Dimension {
    /// Keys below `input`.
    pub path: Vec<String>,
    /// Choices, the simplest first; the first one is absence.
    pub choices: Vec<Choice>,
}

/// A rule, what it reads of the input by itself, and the rules it asks.
#[derive(Debug)]
pub struct RuleReads {
    /// Its path below `data`.
    pub path: Path,
    /// Dimensions it looks at itself, by index.
    pub own: Vec<usize>,
    /// Rules it asks, by index; all of them stand before it.
    pub asks: Vec<usize>,
    /// All dimensions it depends on, by index.
    pub all: Vec<usize>,
}

/// A request: the index of a choice for each dimension.
pub type Point = Vec<u16>;

/// One policy whose tested values are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// The policy.
    pub program: &'a Program,
    /// What is asked.
    pub entrypoint: &'a Entrypoint,
}

impl Domain {
    /// The tested values of all these policies together.
    pub fn of(policies: &[Policy<'_>]) -> Self {
        let mut found = Found::default();
        let data: Vec<&Value> = policies.iter().map(|policy| policy.program.data()).collect();
        let mut pruned = Vec::new();
        for own in &data {
            let others: Vec<&Value> =
                data.iter().copied().filter(|other| !std::ptr::eq(*other, *own)).collect();
            pruned.push(prune(own, &others, &mut found.is_cut));
        }
        for (policy, data) in policies.iter().zip(&pruned) {
            Analysis::new(policy.program.tree(), data, &mut found).run(policy.entrypoint.path());
        }
        found.settle_links();
        let mut dimensions = Vec::new();
        found.root.dimensions(&mut Vec::new(), &mut dimensions, &mut found.is_cut);
        if dimensions.len() > DIMENSIONS_MAX {
            dimensions.truncate(DIMENSIONS_MAX);
            found.is_cut = true;
        }
        let entries: Vec<&[String]> = policies.iter().map(|policy| policy.entrypoint.path()).collect();
        let rules = order(&found, &entries, &dimensions);
        Self { dimensions, rules, is_cut: found.is_cut }
    }

    /// The parts of the input that matter, containers before what is in them.
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    /// The rules the entry points depend on, each after those that it asks.
    pub fn rules(&self) -> &[RuleReads] {
        &self.rules
    }

    /// Whether there were more tested values than are kept.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// How many requests there are; saturates.
    pub fn size(&self) -> u64 {
        let sizes = self.dimensions.iter().map(|dimension| dimension.choices.len() as u64);
        sizes.fold(1, u64::saturating_mul)
    }

    /// The request without anything.
    pub fn origin(&self) -> Point {
        vec![0; self.dimensions.len()]
    }

    /// The index of the dimension at this path, or at the nearest path above it.
    pub fn dimension(&self, path: &[String]) -> Option<usize> {
        let held =
            self.dimensions.iter().enumerate().filter(|(_, dimension)| path.starts_with(&dimension.path));
        held.max_by_key(|(_, dimension)| dimension.path.len()).map(|(index, _)| index)
    }

    /// Leaves one value to whatever lies at a path. What lies above it keeps the choices that have this value.
    pub fn fix(&mut self, path: &[String], value: &Value) {
        for dimension in &mut self.dimensions {
            if let Some(below) = dimension.path.strip_prefix(path) {
                let inner = part_of(value, below).cloned();
                dimension.choices = vec![inner.map_or_else(Choice::absent, Choice::tested)];
            } else if let Some(below) = path.strip_prefix(dimension.path.as_slice()) {
                let has = |choice: &Choice| choice.value().and_then(|own| part_of(own, below)) == Some(value);
                dimension.choices.retain(has);
                if dimension.choices.is_empty() {
                    let mut whole = Value::new_object();
                    put(&mut whole, below, value);
                    dimension.choices.push(Choice::tested(whole));
                }
            }
        }
    }

    /// Leaves only absence to all dimensions but these.
    pub fn pin_all_but(&mut self, free: &[usize]) {
        for (index, dimension) in self.dimensions.iter_mut().enumerate() {
            if !free.contains(&index) {
                dimension.choices = vec![Choice::absent()];
            }
        }
    }

    /// The choice that a point has for a dimension.
    pub fn choice(&self, point: &[u16], dimension: usize) -> Option<&Choice> {
        let index = usize::from(*point.get(dimension)?);
        self.dimensions.get(dimension)?.choices.get(index)
    }

    /// The input document of a point, upon `base`.
    pub fn input(&self, base: &Value, point: &[u16]) -> Value {
        let mut input = base.clone();
        for (index, dimension) in self.dimensions.iter().enumerate() {
            if let Some(value) = self.choice(point, index).and_then(Choice::value) {
                put(&mut input, &dimension.path, value);
            }
        }
        input
    }
}

impl Dimension {
    /// The path as a policy writes it.
    pub fn name(&self) -> String {
        let mut name = "input".to_owned();
        for key in &self.path {
            push_component(&mut name, key);
        }
        name
    }
}

/// What lies at a path in a value.
fn part_of<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| value.as_object().ok()?.get(&Value::from(key.as_str())))
}

/// Puts a value at a path; what stands in the way and is no object stays.
fn put(at: &mut Value, path: &[String], value: &Value) {
    let Some((key, rest)) = path.split_first() else {
        *at = value.clone();
        return;
    };
    let Ok(fields) = at.as_object_mut() else { return };
    let below = fields.get_or_insert_with(Value::from(key.as_str()), Value::new_object);
    put(below, rest, value);
}

/// Data with as many children of each object and array as are looked at; those that no other data has come first.
fn prune(data: &Value, others: &[&Value], is_cut: &mut bool) -> Value {
    match data {
        Value::Object(fields) => {
            let in_other = |key: &Value| -> Vec<&Value> {
                let objects = others.iter().filter_map(|other| other.as_object().ok());
                objects.filter_map(|other| other.get(key)).collect()
            };
            let is_same = |(key, value): &(&Value, &Value)| {
                let same = in_other(key);
                !others.is_empty() && same.len() == others.len() && same.iter().all(|other| other == value)
            };
            let (same, own): (Vec<_>, Vec<_>) = fields.iter().partition(is_same);
            *is_cut |= fields.len() > CHILDREN_MAX;
            let kept = own.into_iter().chain(same).take(CHILDREN_MAX);
            let kept = kept.map(|(key, value)| (key.clone(), prune(value, &in_other(key), is_cut)));
            Value::from(kept.collect::<BTreeMap<_, _>>())
        }
        Value::Array(items) => {
            let in_others = |item: &Value| {
                !others.is_empty()
                    && others.iter().all(|other| other.as_array().is_ok_and(|items| items.contains(item)))
            };
            if items.len() <= CHILDREN_MAX {
                return Value::from(items.iter().map(|item| prune(item, &[], is_cut)).collect::<Vec<_>>());
            }
            *is_cut = true;
            // Searching is quadratic; of lists this long only as much is compared as is kept many times over.
            let (same, own): (Vec<_>, Vec<_>) =
                items.iter().take(CHILDREN_MAX * 64).partition(|item| in_others(item));
            let kept = own.into_iter().chain(same).take(CHILDREN_MAX);
            Value::from(kept.map(|item| prune(item, &[], is_cut)).collect::<Vec<_>>())
        }
        Value::Set(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Undefined => data.clone(),
    }
}

/// The rules below the entry points, each after those it asks.
fn order(found: &Found, entries: &[&[String]], dimensions: &[Dimension]) -> Vec<RuleReads> {
    let mut ordering = Ordering { found, dimensions, known: BTreeMap::new(), rules: Vec::new() };
    for entry in entries {
        ordering.visit(entry);
    }
    ordering.rules
}

struct Ordering<'a> {
    found: &'a Found,
    dimensions: &'a [Dimension],
    /// Index of each rule seen; none while it is being visited.
    known: BTreeMap<Path, Option<usize>>,
    rules: Vec<RuleReads>,
}

impl Ordering<'_> {
    fn visit(&mut self, path: &[String]) -> Option<usize> {
        // Two policies together may ask in a circle, which is left out.
        if let Some(known) = self.known.get(path) {
            return *known;
        }
        self.known.insert(path.to_vec(), None);
        let below = self.found.asks.get(path).cloned().unwrap_or_default();
        let asks: BTreeSet<usize> = below.iter().filter_map(|path| self.visit(path)).collect();
        let touched = self.found.touched.get(path);
        let own: BTreeSet<usize> = touched.into_iter().flatten().flat_map(|place| self.of(place)).collect();
        let below = asks.iter().filter_map(|index| self.rules.get(*index)).flat_map(|rule| rule.all.clone());
        let all: BTreeSet<usize> = below.chain(own.iter().copied()).collect();
        self.rules.push(RuleReads {
            path: path.to_vec(),
            own: own.into_iter().collect(),
            asks: asks.into_iter().collect(),
            all: all.into_iter().collect(),
        });
        let index = self.rules.len() - 1;
        self.known.insert(path.to_vec(), Some(index));
        Some(index)
    }

    /// The dimensions a place lies in, or that lie below it.
    fn of(&self, place: &Place) -> Vec<usize> {
        let keys: Vec<&str> = place
            .iter()
            .map_while(|step| match step {
                Step::Key(key) => Some(key.as_str()),
                Step::Index(_) | Step::Element | Step::Name => None,
            })
            .collect();
        let meets = |dimension: &Dimension| dimension.path.iter().zip(&keys).all(|(own, key)| own == key);
        let met = self.dimensions.iter().enumerate().filter(|(_, dimension)| meets(dimension));
        met.map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::program::{Module, Options, compile};

    fn domain(text: &str, data: &str) -> Domain {
        let modules = vec![Module { path: "p.rego".into(), text: format!("package a\n{text}\n") }];
        let data = Value::from_json_str(data).unwrap();
        let program = compile(&modules, data, Options::default()).unwrap_or_else(|e| panic!("{e}"));
        let entrypoint = program.entrypoint("a/p").unwrap();
        Domain::of(&[Policy { program: &program, entrypoint: &entrypoint }])
    }

    /// Each dimension as `name: tested | tested`.
    #[track_caller]
    fn check_with(text: &str, data: &str, want: &[&str]) {
        let domain = domain(text, data);
        let shown = |dimension: &Dimension| {
            let tested = dimension.choices.iter().filter(|choice| choice.kind() == Kind::Tested);
            let tested: Vec<String> = tested.filter_map(|choice| Some(choice.value()?.to_string())).collect();
            format!("{}: {}", dimension.name(), tested.join(" | "))
        };
        let got: Vec<String> = domain.dimensions().iter().map(shown).collect();
        assert_eq!(got, want, "{text}");
    }

    #[track_caller]
    fn check(text: &str, want: &[&str]) {
        check_with(text, "{}", want);
    }

    #[test]
    fn comparisons_test_their_constants() {
        check("p if input.a.b == \"x\"", &["input.a.b: \"x\""]);
        check("p if input.n > 5", &["input.n: 4 | 5 | 6"]);
        check("p if not input.a.b", &["input.a.b: true | false"]);
        check("p if { input.a; input.a == input.b }", &["input.a: \"same\"", "input.b: \"same\""]);
        check("p := 1", &[]);
    }

    #[test]
    fn collections_are_tested_with_what_their_elements_are() {
        let data = r#"{"admins": ["a", "b"], "t": {"k1": 1, "k2": 2}}"#;
        let want = [r#"input.roles: ["a"] | ["b"] | ["a","b"]"#];
        check_with("p if { some role in input.roles; role in data.admins }", data, &want);
        check_with("p if input.roles[_] == data.admins[_]", data, &want);
        check_with("p if data.t[input.k] == 1", data, &[r#"input.k: "k1" | "k2""#]);
        // The first of them is whatever it is.
        check("p if input.segments[1] == \"a\"", &["input.segments: "]);
    }

    #[test]
    fn values_flow_through_functions_and_builtins() {
        check("f(x) if x == \"k\"\np if f(input.z)", &[r#"input.z: "k""#]);
        check("p if trim_suffix(input.s, \".json\") == \"a\"", &[r#"input.s: "a" | "a.json""#]);
        check("p if startswith(input.s, \"/a\")", &[r#"input.s: "/a" | "/ax" | "/a/x""#]);
        check("p if regex.match(\"^v[0-9]+$\", input.s)", &[r#"input.s: "v1""#]);
        check(
            "p if net.cidr_contains(\"10.0.0.0/24\", input.ip)",
            &[r#"input.ip: "10.0.0.1" | "10.0.1.0" | "10.0.0.255" | "9.255.255.255""#],
        );
    }

    #[test]
    fn rules_stand_after_those_they_ask() {
        let domain = domain("q if input.x == 1\nr if { q; input.y == 1 }\np if { r; input.z == 1 }", "{}");
        let names: Vec<&str> =
            domain.rules().iter().filter_map(|rule| rule.path.last().map(String::as_str)).collect();
        assert_eq!(names, ["q", "r", "p"]);
        let last = domain.rules().last().unwrap();
        assert_eq!(
            (last.own.as_slice(), last.asks.as_slice(), last.all.as_slice()),
            (&[2][..], &[1][..], &[0, 1, 2][..])
        );
    }

    #[test]
    fn large_data_keeps_what_only_one_policy_has() {
        let object = |more: &str| {
            let fields: Vec<String> = (0..500).map(|n| format!("\"k{n:03}\": 1")).collect();
            Value::from_json_str(&format!("{{{}{more}}}", fields.join(","))).unwrap()
        };
        let (old, new) = (object(""), object(", \"zz\": 1"));
        let mut is_cut = false;
        let pruned = prune(&new, &[&old], &mut is_cut);
        assert!(is_cut && pruned.as_object().unwrap().contains_key(&Value::from("zz")));
        assert_eq!(pruned.as_object().unwrap().len(), CHILDREN_MAX);
    }
}
