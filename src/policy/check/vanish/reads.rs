//! Which input paths an expression needs to have a value at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::rego::footprint::{ReadPath, Segment};
use crate::rego::graph::data_path;
use crate::rego::tree::{
    Body, Operator, Rule, Shape, Statement, StatementKind, Target, Term, TermKind, Tree,
};

/// What a value needs of the input.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reads {
    /// Without one of these it is undefined.
    pub(super) needs: BTreeSet<ReadPath>,
    /// The path it is the value of, if it is nothing more.
    pub(super) is: Option<ReadPath>,
}

/// Rules followed below one another for what they need.
const DEPTH_MAX: usize = 4;

/// What the locals of a body stand for.
#[derive(Debug, Clone, Default)]
pub(super) struct Locals<'t> {
    known: BTreeMap<&'t str, Local<'t>>,
    depth: usize,
}

#[derive(Debug, Clone)]
struct Local<'t> {
    reads: Reads,
    term: Option<&'t Term>,
}

/// Input paths known to be there, and those known to be of the right type.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Assured {
    pub(super) present: BTreeSet<ReadPath>,
    pub(super) typed: BTreeSet<ReadPath>,
}

// === impl Reads ===

impl Reads {
    fn of_path(path: ReadPath) -> Self {
        let needs = if path.is_empty() { BTreeSet::new() } else { BTreeSet::from([path.clone()]) };
        Self { needs, is: Some(path) }
    }

    /// What is found below it.
    fn below(mut self, steps: &[Term]) -> Self {
        if let Some(path) = self.is.take().filter(|_| !steps.is_empty()) {
            self.needs.remove(&path);
            let keys = steps.iter().map(|step| match step.constant_key() {
                Some(key) => Segment::Key(key.to_owned()),
                None => Segment::Any,
            });
            let whole: ReadPath = path.into_iter().chain(keys).collect();
            self.needs.insert(whole.clone());
            self.is = Some(whole);
        }
        self
    }

    fn with(mut self, other: Self) -> Self {
        self.needs.extend(other.needs);
        self.is = None;
        self
    }
}

// === impl Locals ===

impl<'t> Locals<'t> {
    /// The parameters of a function, and what is given for them.
    pub(super) fn of_parameters(rule: &'t Rule, given: &[Reads]) -> Self {
        let mut locals = Self::default();
        if let Shape::Function(parameters) = &rule.shape {
            for (parameter, reads) in parameters.iter().zip(given) {
                if let TermKind::Local(name) = &parameter.kind {
                    locals.known.insert(name, Local { reads: reads.clone(), term: None });
                }
            }
        }
        locals
    }

    /// Those of a rule that is read, or nothing where it is too far away.
    fn inner_of(outer: &Locals<'_>) -> Option<Self> {
        (outer.depth < DEPTH_MAX).then(|| Self { known: BTreeMap::new(), depth: outer.depth + 1 })
    }

    /// Adds the locals of a body.
    pub(super) fn enter(&mut self, tree: &'t Tree, body: &'t Body) {
        for statement in &body.statements {
            match &statement.kind {
                StatementKind::Holds(Term { kind: TermKind::Unify { left, right, .. }, .. }) => {
                    self.bind(tree, left, right);
                }
                StatementKind::SomeIn { value, collection, .. } => {
                    // An element is there; what is looked up in it may not be.
                    let is = reads(tree, self, collection).is.map(|mut path| {
                        path.push(Segment::Any);
                        path
                    });
                    if let TermKind::Local(name) = &value.kind {
                        self.known
                            .insert(name, Local { reads: Reads { needs: BTreeSet::new(), is }, term: None });
                    }
                }
                StatementKind::Declare(_)
                | StatementKind::Holds(_)
                | StatementKind::Not(_)
                | StatementKind::Every { .. } => {}
            }
        }
    }

    fn bind(&mut self, tree: &'t Tree, left: &'t Term, right: &'t Term) {
        let of_right = reads(tree, self, right);
        if let TermKind::Local(name) = &left.kind {
            if !self.known.contains_key(name.as_str()) {
                self.known.insert(name, Local { reads: of_right, term: Some(right) });
            }
            return;
        }
        let part = Reads { needs: of_right.needs, is: None };
        for child in left.children() {
            if let TermKind::Local(name) = &child.kind {
                self.known.entry(name).or_insert(Local { reads: part.clone(), term: None });
            }
        }
    }

    /// The expression a local was assigned.
    pub(super) fn term(&self, name: &str) -> Option<&'t Term> {
        self.known.get(name)?.term
    }
}

/// What a term needs.
pub(super) fn reads(tree: &Tree, locals: &Locals<'_>, term: &Term) -> Reads {
    match &term.kind {
        TermKind::Scalar(_) | TermKind::Wildcard | TermKind::Data | TermKind::Comprehension { .. } => {
            Reads::default()
        }
        TermKind::Input => Reads::of_path(ReadPath::new()),
        TermKind::Local(name) => {
            locals.known.get(name.as_str()).map(|local| local.reads.clone()).unwrap_or_default()
        }
        TermKind::Reference { base, steps } => {
            let found = if matches!(base.kind, TermKind::Data) {
                of_document(tree, locals, steps)
            } else {
                reads(tree, locals, base).below(steps)
            };
            // What is looked up has to be known too.
            steps.iter().fold(found, |found, step| {
                let needs = reads(tree, locals, step).needs;
                Reads { needs: found.needs.into_iter().chain(needs).collect(), is: found.is }
            })
        }
        TermKind::Call { callee, arguments } => {
            // What `object.get` looks up may be missing.
            let given = match &callee.target {
                Target::Builtin(name) if name == "object.get" => arguments.get(..1).unwrap_or_default(),
                Target::Builtin(_) | Target::Function(_) | Target::Unknown => arguments,
            };
            given.iter().fold(Reads::default(), |all, term| all.with(reads(tree, locals, term)))
        }
        TermKind::Array(_)
        | TermKind::Set(_)
        | TermKind::Object(_)
        | TermKind::Infix { .. }
        | TermKind::Unify { .. }
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => {
            let children = term.children().into_iter();
            children.fold(Reads::default(), |all, term| all.with(reads(tree, locals, term)))
        }
    }
}

/// What a rule needs that is read as a value: only a rule with one definition and no default is followed.
fn of_document(tree: &Tree, outer: &Locals<'_>, steps: &[Term]) -> Reads {
    let keys: Vec<String> = data_path(steps).into_iter().map_while(|key| key).collect();
    let at = (1..=keys.len()).rev().find_map(|length| {
        let ids = tree.rules_at(keys.get(..length)?);
        (!ids.is_empty()).then_some((length, ids))
    });
    let Some((length, [id])) = at else { return Reads::default() };
    let Some(rule) = tree.rule(*id).filter(|rule| matches!(rule.shape, Shape::Value) && rule.keys.is_empty())
    else {
        return Reads::default();
    };
    let Some(mut locals) = Locals::inner_of(outer).filter(|_| rule.branches.len() <= 1) else {
        return Reads::default();
    };
    let mut needs = BTreeSet::new();
    if let Some(branch) = rule.branches.first() {
        locals.enter(tree, &branch.body);
        needs = assured(tree, &locals, &branch.body).present;
    }
    let value = rule.value.as_ref().map(|value| reads(tree, &locals, value)).unwrap_or_default();
    let value = value.below(steps.get(length..).unwrap_or_default());
    Reads { needs: needs.into_iter().chain(value.needs).collect(), is: value.is }
}

/// What the input has wherever a body holds.
pub(super) fn assured(tree: &Tree, locals: &Locals<'_>, body: &Body) -> Assured {
    let mut assured = Assured::default();
    for statement in &body.statements {
        assured.learn(tree, locals, statement);
    }
    assured
}

impl Assured {
    fn learn(&mut self, tree: &Tree, locals: &Locals<'_>, statement: &Statement) {
        match &statement.kind {
            StatementKind::Declare(_) | StatementKind::Every { .. } => {}
            StatementKind::SomeIn { collection, .. } => {
                let found = reads(tree, locals, collection);
                self.typed.extend(found.is);
                self.present.extend(found.needs);
            }
            StatementKind::Holds(term) => {
                let found = reads(tree, locals, term);
                self.present.extend(found.needs);
                self.learn_types(tree, locals, term);
                self.learn_rule(tree, locals, term);
            }
            StatementKind::Not(term) => {
                self.present.extend(before_not(tree, locals, term));
            }
        }
    }

    /// A value that passed a test of its type, or that is one of known values.
    fn learn_types(&mut self, tree: &Tree, locals: &Locals<'_>, term: &Term) {
        let tested: Vec<&Term> = match &term.kind {
            TermKind::Call { callee, arguments } if matches!(callee.target, Target::Builtin(_)) => {
                arguments.iter().collect()
            }
            TermKind::Infix { operator: Operator::Equal, left, right }
            | TermKind::Unify { left, right, .. } => {
                vec![left, right]
            }
            TermKind::Membership { value, .. } => vec![value],
            TermKind::Scalar(_)
            | TermKind::Wildcard
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
            | TermKind::Negative(_) => Vec::new(),
        };
        self.typed.extend(tested.into_iter().filter_map(|term| reads(tree, locals, term).is));
    }

    /// What all definitions of a rule need.
    pub(super) fn learn_rule(&mut self, tree: &Tree, outer: &Locals<'_>, term: &Term) {
        let Some(ids) = exact_rules(tree, term) else { return };
        let rules = ids.iter().filter_map(|id| tree.rule(*id));
        let rules: Vec<&Rule> = rules.filter(|rule| !(rule.is_default && is_false(rule))).collect();
        if rules.is_empty() || rules.iter().any(|rule| rule.is_default || rule.branches.len() != 1) {
            return;
        }
        let all = rules.iter().filter_map(|rule| rule.branches.first()).filter_map(|branch| {
            let mut locals = Locals::inner_of(outer)?;
            locals.enter(tree, &branch.body);
            Some(assured(tree, &locals, &branch.body))
        });
        let common = all.reduce(|left, right| Self {
            present: left.present.intersection(&right.present).cloned().collect(),
            typed: left.typed.intersection(&right.typed).cloned().collect(),
        });
        if let Some(common) = common {
            self.present.extend(common.present);
            self.typed.extend(common.typed);
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.present.extend(other.present);
        self.typed.extend(other.typed);
    }

    /// Whether a path is there: it, or something below it, is needed.
    pub(super) fn has(&self, path: &ReadPath) -> bool {
        self.present.iter().any(|known| known.starts_with(path))
    }
}

/// The definitions of the rule that a term is the value of.
pub(super) fn exact_rules<'t>(tree: &'t Tree, term: &Term) -> Option<&'t [usize]> {
    let keys = data_path(term.data_steps()?);
    let path: Vec<String> = keys.into_iter().collect::<Option<_>>()?;
    let ids = tree.rules_at(&path);
    (!ids.is_empty()).then_some(ids)
}

pub(super) fn is_false(rule: &Rule) -> bool {
    rule.value.as_ref().and_then(Term::as_scalar) == Some(&regorus::Value::from(false))
}

/// What a negated term needs before the `not`: what a call, an operator or a look-up is given. A reference itself, and the
/// sides of an equation that are references, may be undefined within: then `not` holds.
pub(super) fn before_not(tree: &Tree, locals: &Locals<'_>, term: &Term) -> BTreeSet<ReadPath> {
    match &term.kind {
        TermKind::Reference { base, steps } => {
            let base = if base.is_computed() { reads(tree, locals, base).needs } else { BTreeSet::new() };
            let looked_up = steps.iter().flat_map(|step| reads(tree, locals, step).needs);
            looked_up.chain(base).collect()
        }
        TermKind::Infix { operator: Operator::Equal, left, right } | TermKind::Unify { left, right, .. } => {
            [left, right].into_iter().flat_map(|side| before_not(tree, locals, side)).collect()
        }
        TermKind::Local(_)
        | TermKind::Input
        | TermKind::Data
        | TermKind::Scalar(_)
        | TermKind::Wildcard
        | TermKind::Comprehension { .. } => BTreeSet::new(),
        TermKind::Call { .. }
        | TermKind::Array(_)
        | TermKind::Set(_)
        | TermKind::Object(_)
        | TermKind::Infix { .. }
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => reads(tree, locals, term).needs,
    }
}
