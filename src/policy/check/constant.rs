//! Conditions that hold for no input, or for every one.

use std::collections::BTreeMap;

use regorus::Value;

use crate::rego::fault::Fault;
use crate::rego::tree::{
    Body, Operator, Rule, Statement, StatementKind, Term, TermKind, Tree, walk_own, walk_rule,
    walk_statements,
};

/// Such conditions in a program's rules; those of tests may say `false` to say something.
pub(super) fn conditions(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for rule in tree.rules.iter().filter(|rule| !super::is_test(tree, rule)) {
        walk_statements(rule, &mut |statement| faults.extend(constant(tree, rule, statement)));
        for branch in &rule.branches {
            faults.extend(contradiction(tree, rule, &branch.body));
        }
        walk_rule(rule, &mut |term| {
            if let TermKind::Comprehension { body, .. } = &term.kind {
                faults.extend(contradiction(tree, rule, body));
            }
        });
    }
    faults
}

fn constant(tree: &Tree, rule: &Rule, statement: &Statement) -> Option<Fault> {
    let holds = holds_always(statement)?;
    // `true` alone says what it means.
    if matches!(&statement.kind, StatementKind::Holds(term) if is_true(term)) {
        return None;
    }
    let written = tree.slice(rule.module, statement.extent);
    let word = if holds { "always" } else { "never" };
    let hint =
        if holds { "remove it" } else { "remove what depends on it, or compare with something of the input" };
    let place = tree.place(rule.module, statement.extent.start);
    Some(
        Fault::new(place, "constant_condition", format!("`{written}` {word} holds, whatever the input is"))
            .hint(hint),
    )
}

fn is_true(term: &Term) -> bool {
    matches!(&term.kind, TermKind::Scalar(value) if *value == Value::from(true))
}

/// Whether a statement holds for every input, or for none; `None` where it depends.
pub(super) fn holds_always(statement: &Statement) -> Option<bool> {
    match &statement.kind {
        StatementKind::Holds(term) => truth(term),
        StatementKind::Not(term) => Some(!truth(term)?),
        StatementKind::Declare(_) | StatementKind::SomeIn { .. } | StatementKind::Every { .. } => None,
    }
}

/// Whether a body holds for every input.
pub(super) fn is_unconditional(body: &Body) -> bool {
    body.statements.iter().all(|statement| holds_always(statement) == Some(true))
}

fn truth(term: &Term) -> Option<bool> {
    let (operator, left, right) = match &term.kind {
        TermKind::Scalar(value) => return Some(*value != Value::from(false)),
        TermKind::Infix { operator, left, right } => (*operator, left, right),
        TermKind::Unify { declares: false, left, right } => (Operator::Equal, left, right),
        TermKind::Wildcard
        | TermKind::Local(_)
        | TermKind::Input
        | TermKind::Data
        | TermKind::Reference { .. }
        | TermKind::Call { .. }
        | TermKind::Array(_)
        | TermKind::Set(_)
        | TermKind::Object(_)
        | TermKind::Comprehension { .. }
        | TermKind::Unify { .. }
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => return None,
    };
    let (TermKind::Scalar(left), TermKind::Scalar(right)) = (&left.kind, &right.kind) else { return None };
    match operator {
        Operator::Equal => Some(left == right),
        Operator::NotEqual => Some(left != right),
        Operator::Less => Some(left < right),
        Operator::LessOrEqual => Some(left <= right),
        Operator::Greater => Some(left > right),
        Operator::GreaterOrEqual => Some(left >= right),
        Operator::Add
        | Operator::Subtract
        | Operator::Multiply
        | Operator::Divide
        | Operator::Remainder
        | Operator::Intersection
        | Operator::Union => None,
    }
}

/// One thing that is to equal two constants at once.
fn contradiction(tree: &Tree, rule: &Rule, body: &Body) -> Option<Fault> {
    let mut known: BTreeMap<&str, (&Value, usize)> = BTreeMap::new();
    for statement in body.statements.iter().filter(|statement| statement.withs.is_empty()) {
        let StatementKind::Holds(term) = &statement.kind else { continue };
        let Some((what, value)) = equated(term) else { continue };
        let written = tree.slice(rule.module, what.extent);
        let Some((before, at)) = known.insert(written, (value, statement.extent.start)) else { continue };
        if before != value {
            let first = tree.place(rule.module, at).line;
            let message =
                format!("this never holds: on line {first} `{written}` has to be {before}, and here {value}");
            let place = tree.place(rule.module, statement.extent.start);
            return Some(
                Fault::new(place, "constant_condition", message)
                    .hint("write two rules for two values, or `in {..}` for one of several"),
            );
        }
    }
    None
}

/// What a condition says is equal to a constant, if it is the same thing each time it is written.
fn equated(term: &Term) -> Option<(&Term, &Value)> {
    let (left, right) = match &term.kind {
        TermKind::Infix { operator: Operator::Equal, left, right }
        | TermKind::Unify { declares: false, left, right } => (left, right),
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
        | TermKind::Unify { .. }
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => return None,
    };
    let (what, value) = match (&left.kind, &right.kind) {
        (_, TermKind::Scalar(value)) => (left, value),
        (TermKind::Scalar(value), _) => (right, value),
        _ => return None,
    };
    let mut is_same = matches!(what.kind, TermKind::Reference { .. } | TermKind::Local(_));
    walk_own(what, &mut |term| {
        is_same &=
            !matches!(term.kind, TermKind::Wildcard | TermKind::Call { .. } | TermKind::Comprehension { .. });
    });
    is_same.then_some((what, value))
}
