//! The abstract interpreter behind [`Footprint`].

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::tree::{
        Body, Callee, Path, Rule, RuleId, Shape, Statement, StatementKind, Target, Term, TermKind, Tree,
        WithTarget, walk_statements,
    },
    Footprint, ReadPath, Segment, deepest, minimal,
};

/// Longest path followed; a longer one is cut, which reads more.
const PATH_MAX: usize = 12;
/// Most paths one value may have; beyond it the value counts as read.
const ORIGINS_MAX: usize = 32;
/// Work after which the analysis gives up and answers "everything".
const WORK_MAX: usize = 2_000_000;
/// Most argument combinations one function is analysed for.
const CALLS_MAX: usize = 200;

/// A part of the input or of the data a value may be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Input(ReadPath),
    Data(ReadPath),
}

/// What is known of a value: the parts it may be; none if nothing of it is still unread.
type Value = BTreeSet<Origin>;
type Locals = BTreeMap<String, Value>;

/// The footprint of evaluating the value of a data path.
pub(crate) fn analyse(tree: &Tree, entrypoint: &[String]) -> Footprint {
    let mut analysis = Analysis::new(tree);
    let whole = Value::from([Origin::Data(Vec::new())]);
    let value =
        entrypoint.iter().fold(whole, |value, key| analysis.deepen(value, &Segment::Key(key.clone())));
    analysis.read(value);
    if analysis.work > WORK_MAX {
        analysis.input.insert(Vec::new());
        analysis.base.insert(Vec::new());
    }
    // Data is there or not for all requests alike: what is only looked for counts as read.
    let mut base = analysis.base;
    base.extend(deepest(&minimal(&base), analysis.base_present));
    Footprint::new(&analysis.input, analysis.present, &base, analysis.builtins)
}

struct Analysis<'a> {
    tree: &'a Tree,
    input: BTreeSet<ReadPath>,
    present: BTreeSet<ReadPath>,
    base: BTreeSet<ReadPath>,
    /// Base documents that are looked for, whatever is done with them.
    base_present: BTreeSet<ReadPath>,
    builtins: BTreeSet<String>,
    rules: BTreeMap<RuleId, Value>,
    calls: BTreeMap<(Path, Vec<Value>), Value>,
    /// Functions being analysed: a mock may call what it replaces, which is then the original.
    active: Vec<Path>,
    read: BTreeSet<Origin>,
    mocks: Vec<(&'a Target, &'a Target)>,
    work: usize,
}

impl<'a> Analysis<'a> {
    fn new(tree: &'a Tree) -> Self {
        // A function replaced anywhere may be replaced in any call below that place.
        let mut mocks = Vec::new();
        for rule in &tree.rules {
            walk_statements(rule, &mut |statement| {
                for with in &statement.withs {
                    if let WithTarget::Function { callee, replacement: Some(replacement) } = &with.target {
                        mocks.push((&callee.target, &replacement.target));
                    }
                }
            });
        }
        mocks.sort();
        mocks.dedup();
        Self {
            tree,
            mocks,
            input: BTreeSet::new(),
            present: BTreeSet::new(),
            base: BTreeSet::new(),
            base_present: BTreeSet::new(),
            builtins: BTreeSet::new(),
            rules: BTreeMap::new(),
            calls: BTreeMap::new(),
            active: Vec::new(),
            read: BTreeSet::new(),
            work: 0,
        }
    }

    /// The value is looked at in full.
    fn read(&mut self, value: Value) {
        for origin in value {
            if !self.read.insert(origin.clone()) {
                continue;
            }
            match origin {
                Origin::Input(path) => {
                    self.input.insert(path);
                }
                Origin::Data(path) => {
                    let keys: Vec<Option<String>> = path.iter().map(key_of).collect();
                    for id in super::super::graph::values(self.tree, &keys) {
                        let value = self.rule(id);
                        self.read(value);
                    }
                    self.base.insert(path);
                }
            }
        }
    }

    fn settle(&mut self, value: Value) -> Value {
        if value.len() <= ORIGINS_MAX {
            return value;
        }
        self.read(value);
        Value::new()
    }

    fn deepen(&mut self, value: Value, segment: &Segment) -> Value {
        let mut deeper = Value::new();
        for origin in value {
            match origin {
                Origin::Input(mut path) => {
                    if path.len() < PATH_MAX {
                        path.push(segment.clone());
                    }
                    self.present.insert(path.clone());
                    deeper.insert(Origin::Input(path));
                }
                Origin::Data(mut path) => {
                    if path.len() < PATH_MAX {
                        path.push(segment.clone());
                    }
                    deeper.extend(self.data(&path));
                }
            }
        }
        self.settle(deeper)
    }

    /// The value of a data path: of the rules exactly there, and of what lies below it.
    fn data(&mut self, path: &[Segment]) -> Value {
        let mut value = Value::new();
        let keys: Vec<Option<String>> = path.iter().map(key_of).collect();
        let mut below = false;
        let touched = super::super::graph::values(self.tree, &keys);
        for id in &touched {
            let Some(rule) = self.tree.rule(*id) else { continue };
            if rule.path.len() < path.len() {
                // Beyond a rule: its own value, which whoever came past it has deepened already.
                continue;
            }
            if rule.path.len() == path.len() {
                value.extend(self.rule(*id));
            } else {
                below = true;
            }
        }
        if touched.is_empty() {
            self.base_present.insert(path.to_vec());
        }
        if below || touched.is_empty() || path.contains(&Segment::Any) {
            value.insert(Origin::Data(path.to_vec()));
        }
        value
    }

    fn rule(&mut self, id: RuleId) -> Value {
        if let Some(value) = self.rules.get(&id) {
            return value.clone();
        }
        let Some(rule) = self.tree.rule(id) else { return Value::new() };
        let whole = matches!(rule.shape, Shape::Value) && rule.keys.is_empty();
        let mut value = self.bodies(id, &Locals::new());
        if !whole {
            self.read(std::mem::take(&mut value));
        }
        self.rules.insert(id, value.clone());
        value
    }

    /// The union of what the bodies of a rule give, under these arguments.
    fn bodies(&mut self, id: RuleId, locals: &Locals) -> Value {
        let Some(rule) = self.tree.rule(id) else { return Value::new() };
        let mut value = Value::new();
        if rule.branches.is_empty() {
            let mut locals = locals.clone();
            value.extend(self.head(compared(rule), rule.value.as_ref(), &mut locals));
        }
        for branch in &rule.branches {
            let mut locals = locals.clone();
            self.body(&branch.body, &mut locals);
            let head = if branch.is_else { branch.value.as_ref() } else { rule.value.as_ref() };
            value.extend(self.head(compared(rule), head, &mut locals));
        }
        self.settle(value)
    }

    fn head(
        &mut self,
        keys: impl Iterator<Item = &'a Term>,
        value: Option<&'a Term>,
        locals: &mut Locals,
    ) -> Value {
        for key in keys {
            let key = self.term(key, locals);
            self.read(key);
        }
        value.map(|value| self.term(value, locals)).unwrap_or_default()
    }

    // Statements run in an order of the engine's choosing, so all of them are repeated until no
    // local learns of another path.
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
            // What runs below sees the replacement where it would see the input: reading it whole
            // here, and the input's own paths there, is the larger of both.
            let value = self.term(&with.value, locals);
            self.read(value);
            if let WithTarget::Function { replacement: Some(Callee { target, .. }), .. } = &with.target {
                self.note(target);
            }
        }
        match &statement.kind {
            StatementKind::Declare(_) => {}
            StatementKind::SomeIn { key, value, collection } => {
                let collection = self.term(collection, locals);
                self.iterate(key.as_ref(), value, collection, locals);
            }
            StatementKind::Holds(term) => {
                if let TermKind::Unify { .. } = term.kind {
                    self.term(term, locals);
                } else {
                    let value = self.term(term, locals);
                    self.read(value);
                }
            }
            StatementKind::Not(term) => {
                let value = self.term(term, locals);
                self.read(value);
            }
            StatementKind::Every { key, value, domain, body } => {
                let domain = self.term(domain, locals);
                let element = self.deepen(domain, &Segment::Any);
                if let Some(key) = key {
                    locals.entry(key.clone()).or_default();
                }
                locals.entry(value.clone()).or_default().extend(element);
                self.body(body, locals);
            }
        }
    }

    fn iterate(&mut self, key: Option<&'a Term>, value: &'a Term, collection: Value, locals: &mut Locals) {
        let plain = |term: &Term| matches!(term.kind, TermKind::Local(_) | TermKind::Wildcard);
        if !plain(value) || !key.is_none_or(plain) {
            self.read(collection);
            for pattern in key.into_iter().chain([value]) {
                let pattern = self.term(pattern, locals);
                self.read(pattern);
            }
            return;
        }
        let element = self.deepen(collection, &Segment::Any);
        if let TermKind::Local(name) = &value.kind {
            let known = locals.entry(name.clone()).or_default();
            // A variable with a value already is compared with the element.
            let compared = !known.is_empty() && *known != element;
            known.extend(element.iter().cloned());
            if compared {
                let known = known.clone();
                self.read(known);
            }
        }
    }

    fn term(&mut self, term: &'a Term, locals: &mut Locals) -> Value {
        self.work += 1;
        if self.work > WORK_MAX {
            return Value::new();
        }
        match &term.kind {
            TermKind::Scalar(_) | TermKind::Wildcard => Value::new(),
            TermKind::Local(name) => locals.get(name).cloned().unwrap_or_default(),
            TermKind::Input => Value::from([Origin::Input(Vec::new())]),
            TermKind::Data => Value::from([Origin::Data(Vec::new())]),
            TermKind::Reference { base, steps } => {
                let mut value = self.term(base, locals);
                for step in steps {
                    let segment = if let Some(key) = step.constant_key() {
                        Segment::Key(key.to_owned())
                    } else {
                        let key = self.term(step, locals);
                        self.read(key);
                        Segment::Any
                    };
                    value = self.deepen(value, &segment);
                }
                value
            }
            TermKind::Call { callee, arguments } => self.call(callee, arguments, locals),
            TermKind::Comprehension { heads, body, .. } => {
                self.body(body, locals);
                self.read_all(heads.iter(), locals)
            }
            TermKind::Unify { declares, left, right } => self.unify(*declares, left, right, locals),
            TermKind::Array(_)
            | TermKind::Set(_)
            | TermKind::Object(_)
            | TermKind::Infix { .. }
            | TermKind::Membership { .. }
            | TermKind::Negative(_) => self.read_all(term.children().into_iter(), locals),
        }
    }

    fn read_all(&mut self, terms: impl Iterator<Item = &'a Term>, locals: &mut Locals) -> Value {
        for term in terms {
            let value = self.term(term, locals);
            self.read(value);
        }
        Value::new()
    }

    fn unify(&mut self, declares: bool, left: &'a Term, right: &'a Term, locals: &mut Locals) -> Value {
        let (from_left, from_right) = (self.term(left, locals), self.term(right, locals));
        let names = [(left, &from_right), (right, &from_left)];
        let simple = declares && matches!(left.kind, TermKind::Local(_) | TermKind::Wildcard);
        for (side, other) in names {
            if let TermKind::Local(name) = &side.kind
                && !(simple && std::ptr::eq(side, right))
            {
                locals.entry(name.clone()).or_default().extend(other.iter().cloned());
            }
        }
        if !simple {
            // `=` may compare, and a pattern looks into what it takes apart.
            self.read(from_left);
            self.read(from_right);
        }
        Value::new()
    }

    fn note(&mut self, target: &Target) {
        match target {
            Target::Builtin(name) => {
                self.builtins.insert(name.clone());
            }
            Target::Function(_) | Target::Unknown => {}
        }
    }

    fn call(&mut self, callee: &'a Callee, arguments: &'a [Term], locals: &mut Locals) -> Value {
        let mut result = self.call_target(&callee.target, arguments, locals);
        let mocks: Vec<&'a Target> =
            self.mocks.iter().filter(|(from, _)| **from == callee.target).map(|(_, to)| *to).collect();
        for mock in mocks {
            result.extend(self.call_target(mock, arguments, locals));
        }
        self.settle(result)
    }

    fn call_target(&mut self, target: &'a Target, arguments: &'a [Term], locals: &mut Locals) -> Value {
        self.note(target);
        match target {
            Target::Function(path) => {
                let mut values: Vec<Value> = arguments.iter().map(|term| self.term(term, locals)).collect();
                let arity = self.tree.functions_at(path).find_map(|(_, rule)| match &rule.shape {
                    Shape::Function(parameters) => Some(parameters.len()),
                    Shape::Value | Shape::Set => None,
                });
                let output = arity.filter(|arity| values.len() == arity + 1).and_then(|_| values.pop());
                let result = self.function(path, values);
                match output {
                    // The last argument takes or is compared with the result: both are read.
                    Some(output) => {
                        self.read(output);
                        self.read(result);
                        Value::new()
                    }
                    None => result,
                }
            }
            Target::Builtin(name) if name == "object.get" => self.object_get(arguments, locals),
            Target::Builtin(_) | Target::Unknown => self.read_all(arguments.iter(), locals),
        }
    }

    fn function(&mut self, path: &Path, mut arguments: Vec<Value>) -> Value {
        let known = (path.clone(), arguments.clone());
        if let Some(result) = self.calls.get(&known) {
            return result.clone();
        }
        if self.active.contains(path) {
            for argument in arguments {
                self.read(argument);
            }
            return Value::new();
        }
        self.active.push(path.clone());
        if self.calls.range((path.clone(), Vec::new())..).take_while(|((at, _), _)| at == path).count()
            > CALLS_MAX
        {
            for argument in &mut arguments {
                self.read(std::mem::take(argument));
            }
        }
        let mut result = Value::new();
        let ids: Vec<RuleId> = self.tree.functions_at(path).map(|(id, _)| id).collect();
        for id in ids {
            let Some(rule) = self.tree.rule(id) else { continue };
            let mut locals = Locals::new();
            if let Shape::Function(parameters) = &rule.shape {
                for (parameter, argument) in parameters.iter().zip(&arguments) {
                    if let Some(name) = parameter.as_local() {
                        locals.entry(name.to_owned()).or_default().extend(argument.iter().cloned());
                    } else if !matches!(parameter.kind, TermKind::Wildcard) {
                        self.read(argument.clone());
                    }
                }
            }
            result.extend(self.bodies(id, &locals));
        }
        let result = self.settle(result);
        self.active.pop();
        self.calls.insert(known, result.clone());
        result
    }

    /// `object.get` with a constant key or path looks no further than that.
    fn object_get(&mut self, arguments: &'a [Term], locals: &mut Locals) -> Value {
        let [object, key, default] = arguments else { return self.read_all(arguments.iter(), locals) };
        let keys: Option<Vec<&str>> = if let TermKind::Array(items) = &key.kind {
            items.iter().map(Term::constant_key).collect()
        } else {
            key.constant_key().map(|key| vec![key])
        };
        let Some(keys) = keys else { return self.read_all(arguments.iter(), locals) };
        let mut value = self.term(object, locals);
        for key in keys {
            value = self.deepen(value, &Segment::Key(key.to_owned()));
        }
        value.extend(self.term(default, locals));
        self.settle(value)
    }
}

fn key_of(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Key(key) => Some(key.clone()),
        Segment::Any => None,
    }
}

/// The terms of a head that are computed after the body: keys, and arguments that are no patterns.
fn compared(rule: &Rule) -> impl Iterator<Item = &Term> {
    rule.keys.iter().chain(rule.computed_arguments())
}
