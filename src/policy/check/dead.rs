//! Rules that cannot matter: written twice, after one that always holds, or read by nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::constant::is_unconditional;
use super::is_test;
use crate::rego::fault::Fault;
use crate::rego::graph::CallGraph;
use crate::rego::tree::{Path, Rule, RuleId, Shape, Target, Term, TermKind, Tree, walk_rule};

/// Rules written twice in the same words.
pub(super) fn duplicates(tree: &Tree) -> Vec<Fault> {
    let mut first: BTreeMap<(&Path, String), &Rule> = BTreeMap::new();
    let mut faults = Vec::new();
    for rule in &tree.rules {
        let words: Vec<&str> = tree.slice(rule.module, rule.extent).split_whitespace().collect();
        let key = (&rule.path, words.join(" "));
        if let Some(other) = first.get(&key) {
            let place = tree.place(other.module, other.extent.start);
            let message = format!("`{}` is defined in the same words at {place}", rule.name());
            faults.push(fault(
                tree,
                rule,
                rule.extent.start,
                "duplicate_rule",
                message,
                "remove one of them",
            ));
        } else {
            first.insert(key, rule);
        }
    }
    faults
}

fn fault(tree: &Tree, rule: &Rule, at: usize, code: &'static str, message: String, hint: &str) -> Fault {
    Fault::new(tree.place(rule.module, at), code, message).hint(hint)
}

/// Definitions beside one that always holds, and `else` after a body that always does.
pub(super) fn unreachable(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut always: BTreeMap<&Path, &Rule> = BTreeMap::new();
    for rule in tree.rules.iter().filter(|rule| is_settled(rule)) {
        always.entry(&rule.path).or_insert(rule);
    }
    for rule in &tree.rules {
        let name = rule.name();
        if let Some(settled) = always.get(&rule.path).filter(|settled| !std::ptr::eq(**settled, rule)) {
            let place = tree.place(settled.module, settled.extent.start);
            let (message, hint) = if rule.is_default {
                (
                    format!("`{name}` never takes this default: it has a value always, by {place}"),
                    "remove the default",
                )
            } else if same_value(rule, settled) {
                (
                    format!("`{name}` has this value always, by {place}"),
                    "remove this definition, or give the other one a condition",
                )
            } else {
                (
                    format!(
                        "`{name}` has another value always, by {place}: where this holds too, it is an error"
                    ),
                    "give the other definition a condition, or make it the default",
                )
            };
            faults.push(fault(tree, rule, rule.extent.start, "unreachable_rule", message, hint));
        }
        let bodies = rule.branches.iter().zip(rule.branches.iter().skip(1));
        let after = bodies.filter(|(before, next)| next.is_else && is_unconditional(&before.body));
        faults.extend(after.take(1).map(|(before, next)| {
            let line = tree.place(rule.module, before.body.extent.start).line;
            let at = next.value.as_ref().map_or(next.body.extent.start, |value| value.extent.start);
            let message = format!(
                "this `else` of `{name}` is never reached: the body before it, on line {line}, always holds"
            );
            fault(
                tree,
                rule,
                at,
                "unreachable_rule",
                message,
                "remove it, or give the body before it a condition",
            )
        }));
    }
    faults
}

/// Whether a rule gives one document its one value, whatever the input is.
fn is_settled(rule: &Rule) -> bool {
    let takes_all = match &rule.shape {
        Shape::Value => true,
        Shape::Function(arguments) => {
            let mut names = BTreeSet::new();
            arguments.iter().all(|argument| {
                matches!(argument.kind, TermKind::Wildcard)
                    || argument.as_local().is_some_and(|name| names.insert(name))
            })
        }
        Shape::Set => false,
    };
    takes_all
        && !rule.is_default
        && rule.keys.is_empty()
        && rule.value.as_ref().is_none_or(is_literal)
        && rule.branches.first().is_none_or(|first| is_unconditional(&first.body))
}

fn is_literal(term: &Term) -> bool {
    term.as_scalar().is_some() || (term.is_collection() && term.children().into_iter().all(is_literal))
}

fn same_value(left: &Rule, right: &Rule) -> bool {
    let scalar = |rule: &Rule| match &rule.value {
        None => Some(regorus::Value::from(true)),
        Some(value) => value.as_scalar().cloned(),
    };
    left.branches.len() <= 1 && scalar(left).is_some() && scalar(left) == scalar(right)
}

/// Rules and functions that no entry point and no test reads. Without an entry point everything may be one.
pub(super) fn unread(tree: &Tree, entries: &BTreeSet<RuleId>) -> Vec<Fault> {
    if entries.is_empty() {
        return Vec::new();
    }
    let is_root = |rule: &Rule| is_test(tree, rule) || rule.path.first().is_some_and(|root| root == "system");
    let ids = tree.rules.iter().enumerate();
    let roots = ids.filter(|(_, rule)| is_root(rule)).map(|(id, _)| id);
    let read = CallGraph::new(tree).reachable(entries.iter().copied().chain(roots));
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for (id, rule) in tree.rules.iter().enumerate() {
        if read.contains(&id) || !seen.insert(&rule.path) {
            continue;
        }
        let what = if rule.is_function() { "function" } else { "rule" };
        let message = format!("{what} `{}` is read by no entry point and no test", rule.name());
        let hint = "remove it; or name it with `--decision`, or by `entrypoint: true` in its METADATA, if it is asked for";
        faults.push(fault(tree, rule, rule.extent.start, "unread_rule", message, hint));
    }
    faults
}

/// Calls of built-ins that OPA has deprecated.
pub(super) fn deprecated(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for rule in &tree.rules {
        walk_rule(rule, &mut |term| {
            if let TermKind::Call { callee, .. } = &term.kind
                && let Target::Builtin(name) = &callee.target
                && let Some((_, instead)) = DEPRECATED.iter().find(|(deprecated, _)| deprecated == name)
            {
                let message = format!("built-in `{name}` is deprecated, and OPA refuses it in Rego v1");
                let hint = format!("write {instead}");
                faults.push(fault(tree, rule, callee.extent.start, "deprecated_builtin", message, &hint));
            }
        });
    }
    faults
}

/// What OPA has deprecated, and what to write instead (OPA's table of built-ins).
const DEPRECATED: [(&str, &str); 11] = [
    ("all", "`every x in xs { x }`"),
    ("any", "`some x in xs; x`, or `true in xs`"),
    ("cast_array", "`is_array` and, from a set, `[x | some x in xs]`"),
    ("cast_boolean", "`is_boolean`"),
    ("cast_null", "`is_null`"),
    ("cast_object", "`is_object`"),
    ("cast_set", "`is_set` and, from an array, `{x | some x in xs}`"),
    ("cast_string", "`is_string`"),
    ("net.cidr_overlap", "`net.cidr_contains`"),
    ("re_match", "`regex.match`"),
    ("set_diff", "`left - right`"),
];
