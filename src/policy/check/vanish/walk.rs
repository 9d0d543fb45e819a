//! From the entry points to the denials: what lets a request through, and what keeps it out.

use std::collections::BTreeSet;

use regorus::Value;

use super::reads::{Assured, Locals, Reads, assured, exact_rules, reads};
use crate::rego::footprint::ReadPath;
use crate::rego::graph::data_path;
use crate::rego::tree::{
    Body, ModuleId, Operator, Rule, RuleId, Shape, Statement, StatementKind, Target, Term, TermKind, Tree,
};

/// Visits of rules at the most; a policy needs few.
const VISITS_MAX: usize = 10_000;

/// What it means that something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sense {
    /// The request comes nearer to being allowed.
    Allows,
    /// The request is kept out.
    Denies,
}

/// Something that denies where it holds.
#[derive(Debug)]
pub(super) struct Denial<'t> {
    pub(super) module: ModuleId,
    pub(super) what: What<'t>,
    pub(super) locals: Locals<'t>,
    /// What the input has wherever the denial is asked for.
    pub(super) context: Assured,
}

#[derive(Debug)]
pub(super) enum What<'t> {
    /// A body, and the terms of its head that have to be defined too.
    Body(&'t Body, Vec<&'t Term>),
    /// An expression under `not` in a rule that allows.
    Negated(&'t Statement, &'t Term),
}

/// A rule, what it is read for, and where from.
type Visit = (RuleId, Sense, Assured, Vec<Option<ReadPath>>);

/// The walk, and the denials met.
pub(super) struct Walk<'t> {
    tree: &'t Tree,
    visited: BTreeSet<Visit>,
    pub(super) denials: Vec<Denial<'t>>,
}

/// Where the walk is: in the module of a rule, with what is known of its locals and of the input.
struct At<'w, 't> {
    module: ModuleId,
    locals: &'w Locals<'t>,
    context: &'w Assured,
}

impl<'t> Walk<'t> {
    pub(super) fn new(tree: &'t Tree) -> Self {
        Self { tree, visited: BTreeSet::new(), denials: Vec::new() }
    }

    /// Follows a rule that allows where it holds.
    pub(super) fn allows(&mut self, id: RuleId) {
        self.rule(id, Sense::Allows, &Assured::default(), &[]);
    }

    /// Follows a rule that denies where it holds.
    pub(super) fn denies(&mut self, id: RuleId) {
        self.rule(id, Sense::Denies, &Assured::default(), &[]);
    }

    /// Whether the walk has come to a rule.
    pub(super) fn has_met(&self, id: RuleId) -> bool {
        self.visited.iter().any(|(met, ..)| *met == id)
    }

    fn rule(&mut self, id: RuleId, sense: Sense, context: &Assured, given: &[Reads]) {
        let Some(rule) = self.tree.rule(id).filter(|rule| !rule.is_default) else { return };
        let arguments = given.iter().map(|reads| reads.is.clone()).collect();
        if self.visited.len() >= VISITS_MAX || !self.visited.insert((id, sense, context.clone(), arguments)) {
            return;
        }
        let is_document = matches!(rule.shape, Shape::Value | Shape::Function(_)) && rule.keys.is_empty();
        if rule.branches.is_empty() {
            if let (true, Some(value)) = (is_document, &rule.value) {
                let locals = Locals::of_parameters(rule, given);
                self.term(value, sense, &At { module: rule.module, locals: &locals, context });
            }
            return;
        }
        for (index, branch) in rule.branches.iter().enumerate() {
            let value = if index == 0 { rule.value.as_ref() } else { branch.value.as_ref() };
            let verdict = if is_document { verdict(value) } else { Some(true) };
            let sense = match verdict {
                // Where nothing else could answer, what is undefined fails closed.
                Some(false) if !self.may_hold_else(rule, index) => continue,
                Some(false) => sense.turned(),
                Some(true) | None => sense,
            };
            let mut locals = Locals::of_parameters(rule, given);
            locals.enter(self.tree, &branch.body);
            let head = value.into_iter().chain(rule.keys.iter().filter(|_| index == 0)).collect();
            self.body(&branch.body, head, sense, &At { module: rule.module, locals: &locals, context });
            if let (None, Some(value)) = (verdict, value) {
                let mut context = context.clone();
                context.add(assured(self.tree, &locals, &branch.body));
                self.term(value, sense, &At { module: rule.module, locals: &locals, context: &context });
            }
        }
    }

    /// Whether something else than a branch with the value `false` may give its rule another value.
    fn may_hold_else(&self, rule: &Rule, index: usize) -> bool {
        let later =
            rule.branches.iter().skip(index + 1).any(|branch| verdict(branch.value.as_ref()) != Some(false));
        let ids = self.tree.rules_at(&rule.path).iter().filter_map(|id| self.tree.rule(*id));
        let mut others = ids.filter(|other| !std::ptr::eq(*other, rule));
        later || others.any(|other| verdict(other.value.as_ref()) != Some(false))
    }

    fn body(&mut self, body: &'t Body, head: Vec<&'t Term>, sense: Sense, at: &At<'_, 't>) {
        let mut context = at.context.clone();
        match sense {
            Sense::Allows => context.add(assured(self.tree, at.locals, body)),
            Sense::Denies => self.denials.push(Denial {
                module: at.module,
                what: What::Body(body, head),
                locals: at.locals.clone(),
                context: context.clone(),
            }),
        }
        let at = At { context: &context, ..*at };
        for statement in &body.statements {
            match &statement.kind {
                StatementKind::Holds(term) => self.term(term, sense, &at),
                StatementKind::Not(term) => {
                    if sense == Sense::Allows {
                        self.denials.push(Denial {
                            module: at.module,
                            what: What::Negated(statement, term),
                            locals: at.locals.clone(),
                            context: context.clone(),
                        });
                    }
                    self.term(term, sense.turned(), &at);
                }
                StatementKind::Every { body, .. } => {
                    let mut locals = at.locals.clone();
                    locals.enter(self.tree, body);
                    if sense == Sense::Allows {
                        self.body(body, Vec::new(), sense, &At { locals: &locals, ..at });
                    }
                }
                StatementKind::Declare(_) | StatementKind::SomeIn { .. } => {}
            }
        }
    }

    fn term(&mut self, term: &'t Term, sense: Sense, at: &At<'_, 't>) {
        match &term.kind {
            TermKind::Reference { base, steps } if matches!(base.kind, TermKind::Data) => {
                // `deny`, and `deny[_]`.
                let constant: Vec<String> = data_path(steps).into_iter().map_while(|key| key).collect();
                let ids = exact_rules(self.tree, term).unwrap_or_else(|| self.tree.rules_at(&constant));
                for id in ids {
                    self.rule(*id, sense, at.context, &[]);
                }
            }
            TermKind::Local(name) => {
                if let Some(term) = at.locals.term(name) {
                    self.term(term, sense, at);
                }
            }
            TermKind::Infix { operator, left, right } => self.comparison(*operator, left, right, sense, at),
            TermKind::Unify { declares: false, left, right } => {
                self.comparison(Operator::Equal, left, right, sense, at);
            }
            TermKind::Call { callee, arguments } => {
                let Target::Function(path) = &callee.target else { return };
                let given: Vec<Reads> =
                    arguments.iter().map(|argument| reads(self.tree, at.locals, argument)).collect();
                for id in self.tree.rules_at(path) {
                    self.rule(*id, sense, at.context, &given);
                }
            }
            TermKind::Comprehension { body, .. } => {
                let mut locals = at.locals.clone();
                locals.enter(self.tree, body);
                self.body(body, Vec::new(), sense, &At { locals: &locals, ..*at });
            }
            TermKind::Membership { collection, .. } => self.term(collection, sense, at),
            TermKind::Object(_) => {
                if let Some(allow) = allow_of(term) {
                    self.term(allow, sense, at);
                }
            }
            TermKind::Scalar(_)
            | TermKind::Wildcard
            | TermKind::Input
            | TermKind::Data
            | TermKind::Reference { .. }
            | TermKind::Array(_)
            | TermKind::Set(_)
            | TermKind::Unify { .. }
            | TermKind::Negative(_) => {}
        }
    }

    /// `count(deny) == 0`, `deny == set()`, `denied == false`, and their like.
    fn comparison(
        &mut self,
        operator: Operator,
        left: &'t Term,
        right: &'t Term,
        sense: Sense,
        at: &At<'_, 't>,
    ) {
        let (what, constant, operator) = match (&left.kind, is_constant(right)) {
            (_, true) => (left, right, operator),
            _ if is_constant(left) => (right, left, swapped(operator)),
            _ => return,
        };
        let Some((what, holds)) = compared(what, constant, operator) else { return };
        self.term(what, if holds { sense } else { sense.turned() }, at);
    }
}

impl Sense {
    fn turned(self) -> Self {
        match self {
            Self::Allows => Self::Denies,
            Self::Denies => Self::Allows,
        }
    }
}

/// What a value says: `true` allows, `false` denies; nothing where it has to be computed.
fn verdict(value: Option<&Term>) -> Option<bool> {
    let Some(term) = value else { return Some(true) };
    let value = term.as_scalar().or_else(|| allow_of(term)?.as_scalar())?;
    Some(*value != Value::from(false))
}

/// The `allow` of `gateway/v1`'s decisions, the `allowed` of `envoy/v3`'s.
fn allow_of(term: &Term) -> Option<&Term> {
    let TermKind::Object(fields) = &term.kind else { return None };
    let is_allow = |key: &Term| matches!(key.constant_key(), Some("allow" | "allowed"));
    fields.iter().find(|(key, _)| is_allow(key)).map(|(_, value)| value)
}

fn is_constant(term: &Term) -> bool {
    term.as_scalar().is_some() || (term.is_collection() && term.children().is_empty())
}

fn swapped(operator: Operator) -> Operator {
    match operator {
        Operator::Less => Operator::Greater,
        Operator::LessOrEqual => Operator::GreaterOrEqual,
        Operator::Greater => Operator::Less,
        Operator::GreaterOrEqual => Operator::LessOrEqual,
        Operator::Equal
        | Operator::NotEqual
        | Operator::Add
        | Operator::Subtract
        | Operator::Multiply
        | Operator::Divide
        | Operator::Remainder
        | Operator::Intersection
        | Operator::Union => operator,
    }
}

/// What a comparison is about, and whether it says that this holds (is `true`, has elements) or that it does not.
fn compared<'t>(what: &'t Term, constant: &Term, operator: Operator) -> Option<(&'t Term, bool)> {
    let equality = matches!(operator, Operator::Equal | Operator::NotEqual);
    let is_equal = equality.then_some(operator == Operator::Equal);
    let TermKind::Scalar(value) = &constant.kind else {
        // An empty collection.
        return is_equal.map(|is_equal| (what, !is_equal));
    };
    if let Value::Bool(value) = value {
        return is_equal.map(|is_equal| (what, is_equal == *value));
    }
    let TermKind::Call { callee, arguments } = &what.kind else { return None };
    if callee.target != Target::Builtin("count".to_owned()) {
        return None;
    }
    let holds = match (operator, value.as_i64().ok()?) {
        (Operator::Greater | Operator::NotEqual, 0) | (Operator::GreaterOrEqual, 1) => true,
        (Operator::Equal | Operator::LessOrEqual, 0) | (Operator::Less, 1) => false,
        _ => return None,
    };
    arguments.first().map(|what| (what, holds))
}
