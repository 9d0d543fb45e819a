//! What is known of each place of the input: a tree of what is looked up there and compared with.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::Dimension;
use super::analysis::Step;
use super::choice::{self, Choice};

/// Tested values kept for one place.
const TESTED_MAX: usize = 96;
/// Choices of one dimension.
const CHOICES_MAX: usize = 400;
/// Choices of a part within a larger value.
const PARTS_MAX: usize = 48;
/// Elements of which pairs are tried.
const PAIRED_MAX: usize = 8;
/// Longest array made, in elements.
const LENGTH_MAX: usize = 16;
/// Deepest part of a value that is made up.
const DEPTH_MAX: usize = 6;

/// A place of the input.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Values it is compared with.
    pub(super) tested: BTreeSet<Value>,
    /// Numbers of elements it is compared with.
    pub(super) sizes: BTreeSet<usize>,
    /// It stands alone as a condition.
    pub(super) is_condition: bool,
    /// Looked up with these keys.
    keys: BTreeMap<String, Node>,
    /// Looked up with these numbers.
    items: BTreeMap<usize, Node>,
    /// What is known of every element or value.
    element: Option<Box<Node>>,
    /// What its keys are compared with.
    name: Option<Box<Node>>,
}

impl Node {
    /// The node at a place below; made if it is not there.
    pub(super) fn at(&mut self, place: &[Step]) -> &mut Self {
        let Some((step, rest)) = place.split_first() else { return self };
        let below = match step {
            Step::Key(key) => self.keys.entry(key.clone()).or_default(),
            Step::Index(index) => self.items.entry(*index).or_default(),
            Step::Element => &mut **self.element.get_or_insert_with(Box::default),
            Step::Name => &mut **self.name.get_or_insert_with(Box::default),
        };
        below.at(rest)
    }

    /// Adds a tested value; false where there are too many.
    pub(super) fn test(&mut self, value: Value) -> bool {
        if self.tested.len() >= TESTED_MAX && !self.tested.contains(&value) {
            return false;
        }
        self.tested.insert(value);
        true
    }

    /// The dimensions of the input at and below `path`.
    pub(super) fn dimensions(&self, path: &mut Vec<String>, into: &mut Vec<Dimension>, is_cut: &mut bool) {
        let is_container = !self.keys.is_empty()
            && self.element.is_none()
            && self.name.is_none()
            && self.items.is_empty()
            && self.sizes.is_empty();
        if !is_container {
            if path.is_empty() && self.is_plain() {
                return;
            }
            let mut choices = self.choices(0, is_cut);
            if choices.len() > CHOICES_MAX {
                *is_cut = true;
                choices.truncate(CHOICES_MAX);
            }
            into.push(Dimension { path: path.clone(), choices });
            return;
        }
        // A container that is itself compared has other choices than what its parts make of it.
        if !path.is_empty() && (!self.tested.is_empty() || self.is_condition) {
            let mut choices = vec![Choice::absent()];
            choices.extend(self.tested.iter().cloned().map(Choice::tested));
            choices.push(Choice::odd(Value::new_object()));
            choices.push(Choice::wrong(Value::from("x")));
            into.push(Dimension { path: path.clone(), choices });
        }
        for (key, below) in &self.keys {
            path.push(key.clone());
            below.dimensions(path, into, is_cut);
            path.pop();
        }
    }

    /// Whether it is compared with texts.
    pub(super) fn is_text(&self) -> bool {
        self.tested.iter().any(|value| value.as_string().is_ok())
    }

    fn is_plain(&self) -> bool {
        self.tested.is_empty() && self.element.is_none() && self.name.is_none() && self.items.is_empty()
    }

    /// What may stand here, absence first.
    fn choices(&self, depth: usize, is_cut: &mut bool) -> Vec<Choice> {
        let mut choices = vec![Choice::absent()];
        if depth < DEPTH_MAX {
            choices.extend(self.arrays(depth, is_cut));
            choices.extend(self.objects(depth, is_cut));
        } else {
            *is_cut = true;
        }
        let is_whole = choices.len() > 1;
        choices.extend(self.tested.iter().cloned().map(Choice::tested));
        if self.is_condition && self.tested.is_empty() {
            choices.extend([true, false].map(|value| Choice::tested(Value::from(value))));
        }
        choices.extend(choice::others(&self.tested, is_whole || self.is_condition));
        choice::tidy(choices)
    }

    /// The choices of a part, none of them absence.
    fn parts(&self, depth: usize, is_cut: &mut bool) -> Vec<Choice> {
        let mut parts: Vec<Choice> =
            self.choices(depth, is_cut).into_iter().filter(|choice| choice.value().is_some()).collect();
        *is_cut |= parts.len() > PARTS_MAX;
        parts.truncate(PARTS_MAX);
        parts
    }

    fn arrays(&self, depth: usize, is_cut: &mut bool) -> Vec<Choice> {
        let is_object = self.name.is_some() || !self.keys.is_empty();
        let mut made = Vec::new();
        if let Some(length) =
            self.items.keys().max().map(|index| index + 1).filter(|length| *length <= LENGTH_MAX)
        {
            let parts = (0..length).map(|index| match (self.items.get(&index), &self.element) {
                (Some(item), _) => item.parts(depth + 1, is_cut),
                (None, Some(element)) => element.parts(depth + 1, is_cut),
                (None, None) => vec![Choice::odd(Value::from("x"))],
            });
            let parts: Vec<Vec<Choice>> = parts.collect();
            made.extend(product(&parts, is_cut).into_iter().map(|choices| choice::array(&choices)));
        }
        if is_object || (self.element.is_none() && self.sizes.is_empty() && made.is_empty()) {
            return made;
        }
        let elements = match &self.element {
            Some(element) => element.parts(depth + 1, is_cut),
            None if made.is_empty() => vec![Choice::odd(Value::from("x"))],
            None => Vec::new(),
        };
        made.push(Choice::odd(Value::new_array()));
        made.extend(elements.iter().map(|element| choice::array(&[element])));
        let paired = if elements.len() <= PAIRED_MAX { elements.len() } else { 1 };
        for (index, one) in elements.iter().enumerate().take(paired) {
            let rest = elements.iter().skip(index + 1);
            made.extend(rest.map(|other| choice::array(&[one, other])));
        }
        // Something unwanted beside what is wanted.
        if let Some(other) = elements.iter().find(|element| !element.is_tested()) {
            let tested = elements.iter().filter(|element| element.is_tested());
            made.extend(tested.map(|element| choice::array(&[element, other])));
        }
        for size in self.sizes.iter().filter(|size| **size <= LENGTH_MAX) {
            if let Some(element) = elements.first() {
                made.push(choice::array(&vec![element; *size]));
            }
        }
        made
    }

    fn objects(&self, depth: usize, is_cut: &mut bool) -> Vec<Choice> {
        if self.keys.is_empty() && self.name.is_none() {
            return Vec::new();
        }
        let mut made = vec![Choice::odd(Value::new_object())];
        let mut fields: Vec<(Value, Vec<Choice>)> = Vec::new();
        for (key, below) in &self.keys {
            fields.push((Value::from(key.as_str()), below.choices(depth + 1, is_cut)));
        }
        let names: BTreeSet<Value> = match &self.name {
            Some(name) => name.tested.iter().filter(|name| name.as_string().is_ok()).cloned().collect(),
            None => BTreeSet::new(),
        };
        let values = match &self.element {
            Some(element) => element.parts(depth + 1, is_cut),
            None => vec![Choice::odd(Value::from("x"))],
        };
        let other = [Value::from("x"), Value::from("other")].into_iter().find(|name| !names.contains(name));
        let all_names =
            names.into_iter().chain(other.filter(|_| self.name.is_some() || self.element.is_some()));
        for name in
            all_names.filter(|name| name.as_string().is_ok_and(|name| !self.keys.contains_key(&**name)))
        {
            made.extend(values.iter().map(|value| choice::object(&[(&name, value)])));
        }
        let wanted = fields.iter().map(|(_, choices)| choices.clone()).collect::<Vec<_>>();
        for choices in product(&wanted, is_cut) {
            let chosen = fields.iter().zip(choices).map(|((name, _), choice)| (name, choice));
            let present: Vec<(&Value, &Choice)> =
                chosen.filter(|(_, choice)| choice.value().is_some()).collect();
            made.push(choice::object(&present));
        }
        if self.name.is_some() {
            // Something unwanted beside each of the others.
            let name = Value::from("other");
            let beside: Vec<Choice> =
                made.iter().take(PARTS_MAX).filter_map(|one| one.beside(&name, values.first()?)).collect();
            made.extend(beside);
        }
        made
    }
}

/// Combinations of one choice of each part, so many as are kept of one value.
fn product<'a>(parts: &'a [Vec<Choice>], is_cut: &mut bool) -> Vec<Vec<&'a Choice>> {
    let mut all: Vec<Vec<&Choice>> = vec![Vec::new()];
    for part in parts {
        let room = (CHOICES_MAX / 2 / all.len().max(1)).max(1);
        *is_cut |= part.len() > room;
        let longer = all.iter().flat_map(|chosen| {
            part.iter().take(room).map(|choice| chosen.iter().copied().chain([choice]).collect())
        });
        all = longer.collect();
    }
    all
}
