//! An abstract run of a policy over what values may be: parts of the input, or values that are known.
//!
//! Where two values meet (comparison, membership, look-up), the part of the input is noted with the known values it meets.
//! As in the footprint, statements are repeated until nothing is learnt, and unsure means more.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::super::tree::{
    Body, Operator, Path, Rule, RuleId, Shape, Statement, StatementKind, Term, TermKind, Tree,
};
use super::node::Node;
use super::sample::{self, Via};

/// Work after which the analysis stops; what was found so far is what there is.
pub(super) const WORK_MAX: usize = 1_500_000;
/// Most atoms of one value.
const ATOMS_MAX: usize = 600;
/// Longest place followed.
pub(super) const PLACE_MAX: usize = 12;
/// Most steps between a part of the input and what is compared.
const VIA_MAX: usize = 6;
/// Combinations of known values that are gone through.
const COMBINATIONS_MAX: usize = 256;
/// Known keys that a part of the input is looked up with one by one.
pub(super) const KEYS_MAX: usize = 48;

/// One step below the input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
    /// Any element or value.
    Element,
    /// Any key.
    Name,
}

/// A place in the input.
pub(super) type Place = Vec<Step>;

/// What a value may be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    /// A part of the input, or something made of it.
    Input(Place, Vec<Via>),
    Known(Value),
    /// A collection, with its keys and its elements.
    Items(Abstract, Abstract),
    /// A path with rules below it.
    Below(Path),
}

pub(super) type Abstract = BTreeSet<Atom>;

/// What the analysis of all policies finds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) root: Node,
    /// Parts of the input that are compared with each other.
    pub(super) links: BTreeSet<(Place, Place)>,
    /// Where each rule looks.
    pub(super) touched: BTreeMap<Path, BTreeSet<Place>>,
    /// The rules each rule asks.
    pub(super) asks: BTreeMap<Path, BTreeSet<Path>>,
    pub(super) is_cut: bool,
}

impl Found {
    /// Parts that are compared with each other are tested with each other's values, and with one of their own.
    pub(super) fn settle_links(&mut self) {
        // Twice: what is equal to an equal one is equal.
        for _ in 0..2 {
            for (one, other) in self.links.clone() {
                let mut both = self.root.at(&one).tested.clone();
                both.extend(self.root.at(&other).tested.iter().cloned());
                for place in [&one, &other] {
                    for value in both.iter().chain([&Value::from("same")]) {
                        self.is_cut |= !self.root.at(place).test(value.clone());
                    }
                }
            }
        }
    }
}

/// Variables and what they may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Locals {
    values: BTreeMap<String, Abstract>,
    /// Those that are bound by looking at every key.
    free: BTreeSet<String>,
}

pub(super) struct Analysis<'a> {
    pub(super) tree: &'a Tree,
    pub(super) data: &'a Value,
    pub(super) found: &'a mut Found,
    rules: BTreeMap<RuleId, Abstract>,
    calls: BTreeMap<(Path, Path, Vec<Abstract>), Abstract>,
    active: Vec<Path>,
    /// The rules being analysed, each asked by the one before.
    pub(super) owners: Vec<Path>,
    pub(super) work: usize,
}

impl<'a> Analysis<'a> {
    pub(super) fn new(tree: &'a Tree, data: &'a Value, found: &'a mut Found) -> Self {
        Self {
            tree,
            data,
            found,
            rules: BTreeMap::new(),
            calls: BTreeMap::new(),
            active: Vec::new(),
            owners: Vec::new(),
            work: 0,
        }
    }

    pub(super) fn run(mut self, entrypoint: &[String]) {
        self.owners.push(entrypoint.to_vec());
        let value = self.data(entrypoint);
        self.read(&value);
        if self.work > WORK_MAX {
            self.found.is_cut = true;
        }
    }

    /// The value of a path below `data`.
    pub(super) fn data(&mut self, path: &[String]) -> Abstract {
        let mut value = Abstract::new();
        let ids: Vec<RuleId> = self.tree.rules_at(path).to_vec();
        for id in ids {
            if self.tree.rule(id).is_some_and(|rule| !rule.is_function()) {
                value.extend(self.rule(id));
            }
        }
        let keys: Vec<Option<String>> = path.iter().cloned().map(Some).collect();
        let touched = self.tree.rules_touched(&keys);
        let is_above =
            touched.iter().any(|id| self.tree.rule(*id).is_some_and(|rule| rule.path.len() > path.len()));
        if is_above {
            value.insert(Atom::Below(path.to_vec()));
        } else if let Some(base) = base(self.data, path) {
            value.insert(Atom::Known(base.clone()));
        }
        self.settle(value)
    }

    pub(super) fn settle(&mut self, mut value: Abstract) -> Abstract {
        while value.len() > ATOMS_MAX {
            self.found.is_cut = true;
            value.pop_last();
        }
        value
    }

    pub(super) fn rule(&mut self, id: RuleId) -> Abstract {
        let Some(rule) = self.tree.rule(id) else { return Abstract::new() };
        if let Some(owner) = self.owners.last()
            && *owner != rule.path
        {
            self.found.asks.entry(owner.clone()).or_default().insert(rule.path.clone());
        }
        if let Some(value) = self.rules.get(&id) {
            return value.clone();
        }
        // Recursion was refused; a name that is on its way all the same has no more to say.
        self.rules.insert(id, Abstract::new());
        self.owners.push(rule.path.clone());
        let value = self.bodies(rule, &Locals::default());
        self.owners.pop();
        self.rules.insert(id, value.clone());
        value
    }

    /// The union of what the bodies of a rule give, under these arguments.
    fn bodies(&mut self, rule: &'a Rule, locals: &Locals) -> Abstract {
        let mut value = Abstract::new();
        if rule.branches.is_empty() {
            value.extend(self.head(rule, rule.value.as_ref(), &mut locals.clone()));
        }
        for branch in &rule.branches {
            let mut locals = locals.clone();
            self.body(&branch.body, &mut locals);
            let head = if branch.is_else { branch.value.as_ref() } else { rule.value.as_ref() };
            value.extend(self.head(rule, head, &mut locals));
        }
        self.settle(value)
    }

    fn head(&mut self, rule: &'a Rule, value: Option<&'a Term>, locals: &mut Locals) -> Abstract {
        for argument in rule.computed_arguments() {
            let argument = self.term(argument, locals);
            self.read(&argument);
        }
        let value = match value {
            Some(value) => self.term(value, locals),
            None => Abstract::from([Atom::Known(Value::from(true))]),
        };
        if matches!(rule.shape, Shape::Set) {
            return Abstract::from([Atom::Items(value.clone(), value)]);
        }
        rule.keys.iter().rev().fold(value, |value, key| {
            let key = self.term(key, locals);
            Abstract::from([Atom::Items(key, value)])
        })
    }

    fn body(&mut self, body: &'a Body, locals: &mut Locals) {
        loop {
            let before = locals.clone();
            for statement in &body.statements {
                self.statement(statement, locals);
            }
            if *locals == before || self.work > WORK_MAX {
                return;
            }
        }
    }

    fn statement(&mut self, statement: &'a Statement, locals: &mut Locals) {
        for with in &statement.withs {
            let value = self.term(&with.value, locals);
            self.read(&value);
        }
        match &statement.kind {
            StatementKind::Declare(_) => {}
            StatementKind::SomeIn { key, value, collection } => {
                let collection = self.term(collection, locals);
                let (keys, elements) = self.iterate(&collection);
                if let Some(key) = key {
                    self.pattern(key, &keys, locals);
                }
                self.pattern(value, &elements, locals);
            }
            StatementKind::Holds(term) | StatementKind::Not(term) => {
                let value = self.term(term, locals);
                self.condition(&value);
            }
            StatementKind::Every { key, value, domain, body } => {
                let domain = self.term(domain, locals);
                let (keys, elements) = self.iterate(&domain);
                if let Some(key) = key {
                    locals.extend(key, &keys);
                }
                locals.extend(value, &elements);
                self.body(body, locals);
            }
        }
    }

    pub(super) fn term(&mut self, term: &'a Term, locals: &mut Locals) -> Abstract {
        self.work += 1;
        if self.work > WORK_MAX {
            return Abstract::new();
        }
        match &term.kind {
            TermKind::Scalar(value) => Abstract::from([Atom::Known(value.clone())]),
            TermKind::Wildcard => Abstract::new(),
            TermKind::Local(name) => locals.values.get(name).cloned().unwrap_or_default(),
            TermKind::Input => Abstract::from([Atom::Input(Vec::new(), Vec::new())]),
            TermKind::Data => Abstract::from([Atom::Below(Vec::new())]),
            TermKind::Reference { base, steps } => {
                let mut value = self.term(base, locals);
                for step in steps {
                    value = self.step(&value, step, locals);
                }
                value
            }
            TermKind::Call { callee, arguments } => self.call(&callee.target, arguments, locals),
            TermKind::Array(items) => self.literal(items, &|items| Value::from(items), locals),
            TermKind::Set(items) => {
                self.literal(items, &|items| Value::from(items.into_iter().collect::<BTreeSet<_>>()), locals)
            }
            TermKind::Object(fields) => self.object(fields, locals),
            TermKind::Comprehension { heads, body, .. } => {
                let mut locals = locals.clone();
                self.body(body, &mut locals);
                let mut values: Vec<Abstract> =
                    heads.iter().map(|head| self.term(head, &mut locals)).collect();
                let elements = values.pop().unwrap_or_default();
                Abstract::from([Atom::Items(values.pop().unwrap_or_default(), elements)])
            }
            TermKind::Infix { operator, left, right } => self.infix(*operator, left, right, locals),
            TermKind::Unify { left, right, .. } => self.unify(left, right, locals),
            TermKind::Membership { key, value, collection } => {
                let collection = self.term(collection, locals);
                let (keys, elements) = self.iterate(&collection);
                if let Some(key) = key {
                    let key = self.term(key, locals);
                    self.compare(&key, &keys);
                }
                let value = self.term(value, locals);
                self.compare(&value, &elements);
                Abstract::new()
            }
            TermKind::Negative(inner) => {
                let inner = self.term(inner, locals);
                self.read(&inner);
                Abstract::new()
            }
        }
    }

    fn step(&mut self, value: &Abstract, step: &'a Term, locals: &mut Locals) -> Abstract {
        match &step.kind {
            TermKind::Wildcard => self.iterate(value).1,
            TermKind::Local(name) if locals.is_free(name) => {
                let (keys, elements) = self.iterate(value);
                locals.free.insert(name.clone());
                locals.extend(name, &keys);
                elements
            }
            TermKind::Scalar(_)
            | TermKind::Local(_)
            | TermKind::Input
            | TermKind::Data
            | TermKind::Reference { .. }
            | TermKind::Call { .. }
            | TermKind::Array(_)
            | TermKind::Set(_)
            | TermKind::Object(_)
            | TermKind::Comprehension { .. }
            | TermKind::Infix { .. }
            | TermKind::Unify { .. }
            | TermKind::Membership { .. }
            | TermKind::Negative(_) => {
                let key = self.term(step, locals);
                self.look_up(value, &key)
            }
        }
    }

    fn literal(
        &mut self,
        items: &'a [Term],
        make: &dyn Fn(Vec<Value>) -> Value,
        locals: &mut Locals,
    ) -> Abstract {
        let items: Vec<Abstract> = items.iter().map(|item| self.term(item, locals)).collect();
        if let Some(known) = combinations(&items) {
            return known.into_iter().map(|known| Atom::Known(make(known))).collect();
        }
        let indexes = (0..items.len()).map(|index| Atom::Known(Value::from(index))).collect();
        Abstract::from([Atom::Items(indexes, items.into_iter().flatten().collect())])
    }

    fn object(&mut self, fields: &'a [(Term, Term)], locals: &mut Locals) -> Abstract {
        let fields: Vec<(Abstract, Abstract)> =
            fields.iter().map(|(key, value)| (self.term(key, locals), self.term(value, locals))).collect();
        let known = fields.iter().map(|(key, value)| Some((only(key)?, only(value)?)));
        if let Some(known) = known.collect::<Option<BTreeMap<Value, Value>>>() {
            return Abstract::from([Atom::Known(Value::from(known))]);
        }
        let (keys, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
        Abstract::from([Atom::Items(
            keys.into_iter().flatten().collect(),
            values.into_iter().flatten().collect(),
        )])
    }

    fn infix(
        &mut self,
        operator: Operator,
        left: &'a Term,
        right: &'a Term,
        locals: &mut Locals,
    ) -> Abstract {
        let (left, right) = (self.term(left, locals), self.term(right, locals));
        match operator {
            Operator::Equal | Operator::NotEqual => {
                self.compare(&left, &right);
                Abstract::new()
            }
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                self.compare_order(&left, &right);
                Abstract::new()
            }
            Operator::Intersection => {
                self.compare(&left, &right);
                left
            }
            Operator::Union => left.into_iter().chain(right).collect(),
            Operator::Add => self.shifted(&left, &right, &Via::Plus),
            Operator::Subtract => {
                self.compare(&left, &right);
                self.shifted(&left, &right, &|by| Via::Plus(by.saturating_neg()))
            }
            Operator::Multiply => self.shifted(&left, &right, &Via::Times),
            Operator::Divide | Operator::Remainder => {
                self.read(&left);
                self.read(&right);
                Abstract::new()
            }
        }
    }

    /// Parts of the input with a known number added or multiplied.
    fn shifted(&mut self, left: &Abstract, right: &Abstract, via: &dyn Fn(i64) -> Via) -> Abstract {
        let mut made = Abstract::new();
        for (value, by) in [(left, right), (right, left)] {
            self.read(value);
            let known = by.iter().filter_map(|atom| match atom {
                Atom::Known(by) => by.as_i64().ok(),
                Atom::Input(..) | Atom::Items(..) | Atom::Below(_) => None,
            });
            for by in known.take(KEYS_MAX) {
                made.extend(through(value, &via(by)));
            }
        }
        // Sets are subtracted too.
        made.extend(
            left.iter().filter(|atom| matches!(atom, Atom::Items(..) | Atom::Known(Value::Set(_)))).cloned(),
        );
        made
    }

    fn unify(&mut self, left: &'a Term, right: &'a Term, locals: &mut Locals) -> Abstract {
        match (is_pattern(left), is_pattern(right)) {
            (true, is_pattern) => {
                let value = self.term(right, locals);
                self.pattern(left, &value, locals);
                if is_pattern {
                    let value = self.term(left, locals);
                    self.pattern(right, &value, locals);
                }
            }
            (false, true) => {
                let value = self.term(left, locals);
                self.pattern(right, &value, locals);
            }
            (false, false) => {
                let (left, right) = (self.term(left, locals), self.term(right, locals));
                self.compare(&left, &right);
            }
        }
        Abstract::new()
    }

    /// A pattern takes a value apart.
    pub(super) fn pattern(&mut self, pattern: &'a Term, value: &Abstract, locals: &mut Locals) {
        match &pattern.kind {
            TermKind::Wildcard => self.read(value),
            TermKind::Local(name) => {
                self.read(value);
                let known = locals.values.get(name).cloned().unwrap_or_default();
                if !known.is_empty() && !known.is_superset(value) {
                    self.compare(&known, value);
                }
                locals.extend(name, value);
            }
            TermKind::Array(items) => {
                let size = Abstract::from([Atom::Known(Value::from(items.len()))]);
                let counted = through(value, &Via::Count);
                self.compare_order(&counted, &size);
                for (index, item) in items.iter().enumerate() {
                    let index = Abstract::from([Atom::Known(Value::from(index))]);
                    let part = self.look_up(value, &index);
                    self.pattern(item, &part, locals);
                }
            }
            TermKind::Object(fields) => {
                for (key, item) in fields {
                    let key = self.term(key, locals);
                    let part = self.look_up(value, &key);
                    self.pattern(item, &part, locals);
                }
            }
            TermKind::Scalar(_)
            | TermKind::Input
            | TermKind::Data
            | TermKind::Reference { .. }
            | TermKind::Call { .. }
            | TermKind::Set(_)
            | TermKind::Comprehension { .. }
            | TermKind::Infix { .. }
            | TermKind::Unify { .. }
            | TermKind::Membership { .. }
            | TermKind::Negative(_) => {
                let own = self.term(pattern, locals);
                self.compare(&own, value);
            }
        }
    }

    /// The result of one of the policy's functions.
    pub(super) fn function(&mut self, path: &Path, arguments: &[Abstract]) -> Abstract {
        let owner = self.owners.last().cloned().unwrap_or_default();
        let known = (owner, path.clone(), arguments.to_vec());
        if let Some(result) = self.calls.get(&known) {
            return result.clone();
        }
        if self.active.contains(path) {
            return Abstract::new();
        }
        self.active.push(path.clone());
        let tree = self.tree;
        let mut result = Abstract::new();
        for (_, rule) in tree.functions_at(path) {
            let mut locals = Locals::default();
            if let Shape::Function(parameters) = &rule.shape {
                for (parameter, argument) in parameters.iter().zip(arguments) {
                    self.pattern(parameter, argument, &mut locals);
                }
            }
            result.extend(self.bodies(rule, &locals));
        }
        let result = self.settle(result);
        self.active.pop();
        self.calls.insert(known, result.clone());
        result
    }
}

// === impl Locals ===

impl Locals {
    fn is_free(&self, name: &str) -> bool {
        self.free.contains(name) || self.values.get(name).is_none_or(BTreeSet::is_empty)
    }

    fn extend(&mut self, name: &str, value: &Abstract) {
        self.values.entry(name.to_owned()).or_default().extend(value.iter().cloned());
    }
}

/// What stands at a path of the base data.
pub(super) fn base<'v>(data: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(data, |value, key| value.as_object().ok()?.get(&Value::from(key.as_str())))
}

/// Parts of the input after one more step; nothing else comes through it.
pub(super) fn through(value: &Abstract, via: &Via) -> Abstract {
    let after = value.iter().filter_map(|atom| match atom {
        Atom::Input(place, before) if before.len() < VIA_MAX => {
            Some(Atom::Input(place.clone(), before.iter().cloned().chain([via.clone()]).collect()))
        }
        Atom::Input(..) | Atom::Known(_) | Atom::Items(..) | Atom::Below(_) => None,
    });
    after.collect()
}

/// Keys and elements of a known collection.
pub(super) fn children(value: &Value) -> Vec<(Value, Value)> {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| (Value::from(index), item.clone())).collect()
        }
        Value::Set(items) => items.iter().map(|item| (item.clone(), item.clone())).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => Vec::new(),
    }
}

/// All combinations of values that are all known, unless there are too many.
pub(super) fn combinations(values: &[Abstract]) -> Option<Vec<Vec<Value>>> {
    let mut all: Vec<Vec<Value>> = vec![Vec::new()];
    for value in values {
        let known = value.iter().map(|atom| match atom {
            Atom::Known(value) => Some(value.clone()),
            Atom::Input(..) | Atom::Items(..) | Atom::Below(_) => None,
        });
        let known: Vec<Value> = known.collect::<Option<_>>()?;
        if known.is_empty() || known.len() * all.len() > COMBINATIONS_MAX {
            return None;
        }
        let longer = all.iter().flat_map(|before| {
            known.iter().map(|value| before.iter().cloned().chain([value.clone()]).collect())
        });
        all = longer.collect();
    }
    Some(all)
}

/// The one known value.
pub(super) fn only(value: &Abstract) -> Option<Value> {
    match value.first() {
        Some(Atom::Known(known)) if value.len() == 1 => Some(known.clone()),
        Some(Atom::Known(_) | Atom::Input(..) | Atom::Items(..) | Atom::Below(_)) | None => None,
    }
}

fn is_pattern(term: &Term) -> bool {
    match &term.kind {
        TermKind::Local(_) | TermKind::Wildcard => true,
        TermKind::Array(items) => items.iter().any(is_pattern),
        TermKind::Object(fields) => fields.iter().any(|(_, value)| is_pattern(value)),
        TermKind::Scalar(_)
        | TermKind::Input
        | TermKind::Data
        | TermKind::Reference { .. }
        | TermKind::Call { .. }
        | TermKind::Set(_)
        | TermKind::Comprehension { .. }
        | TermKind::Infix { .. }
        | TermKind::Unify { .. }
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => false,
    }
}

/// Texts for a prefix test, for whoever tests with one.
pub(super) fn prefixes(value: &Value) -> Vec<Value> {
    let text = value.as_string().ok();
    text.map(|text| sample::of_prefix(text).into_iter().map(Value::from).collect()).unwrap_or_default()
}
