//! What must hold between rules, and between rules and data, before a program may run.

use std::collections::BTreeMap;

use regorus::Value;

use super::{
    fault::Fault,
    tree::{Path, Rule, Shape, Term, TermKind, Tree, dotted},
};

/// Siblings of a package in a data object from which each evaluation gets slow.
const SIBLINGS_MAX: usize = 1_000;

/// Faults of the rules as a set: kinds that conflict, defaults that are no constants.
pub(crate) fn rules(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut first: BTreeMap<&Path, &Rule> = BTreeMap::new();
    let mut defaults: BTreeMap<&Path, &Rule> = BTreeMap::new();
    for rule in &tree.rules {
        let fault =
            |code, message: String| Fault::new(tree.place(rule.module, rule.extent.start), code, message);
        if rule.is_default {
            if rule.value.as_ref().is_some_and(|value| !is_constant(value)) {
                let message = format!("default value of `{}` is not a constant", rule.name());
                faults.push(
                    fault("default_not_constant", message)
                        .hint("a default may not read input, data or rules"),
                );
            }
            if let Some(other) = defaults.insert(&rule.path, rule) {
                let other = tree.place(other.module, other.extent.start);
                let message = format!("`{}` has another default at {other}", rule.name());
                faults.push(fault("multiple_defaults", message).hint("keep one of them"));
            }
            continue;
        }
        let known = first.entry(&rule.path).or_insert(rule);
        if kind(known) != kind(rule) {
            let other = tree.place(known.module, known.extent.start);
            let message =
                format!("`{}` is a {} here and a {} at {other}", rule.name(), kind(rule), kind(known));
            faults.push(fault("conflicting_rules", message).hint("rename one of them"));
        }
    }
    faults
}

fn kind(rule: &Rule) -> &'static str {
    match (&rule.shape, rule.keys.is_empty()) {
        (Shape::Function(_), _) => "function",
        (Shape::Set, _) => "partial set",
        (Shape::Value, false) => "partial object",
        (Shape::Value, true) => "complete rule",
    }
}

// A comprehension is a closure: OPA allows anything inside one.
fn is_constant(value: &Term) -> bool {
    match &value.kind {
        TermKind::Input | TermKind::Data | TermKind::Reference { .. } | TermKind::Call { .. } => false,
        TermKind::Scalar(_) | TermKind::Wildcard | TermKind::Local(_) | TermKind::Comprehension { .. } => {
            true
        }
        TermKind::Array(_)
        | TermKind::Set(_)
        | TermKind::Object(_)
        | TermKind::Infix { .. }
        | TermKind::Unify { .. }
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => value.children().into_iter().all(is_constant),
    }
}

/// Faults where a rule and a base document claim the same path.
pub(crate) fn data(tree: &Tree, data: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    for rule in &tree.rules {
        let mut at = data;
        let mut walked = Vec::new();
        for component in &rule.path {
            walked.push(component.clone());
            let Value::Object(object) = at else { break };
            let Some(next) = object.get(&Value::from(component.as_str())) else { break };
            at = next;
            let ends = walked.len() == rule.path.len();
            if ends || !matches!(at, Value::Object(_)) {
                let place = tree.place(rule.module, rule.extent.start);
                let message = format!("rule `{}` conflicts with data at `{}`", rule.name(), dotted(&walked));
                faults.push(
                    Fault::new(place, "rule_data_conflict", message)
                        .hint("move the data or the rule to another path"),
                );
                break;
            }
        }
    }
    faults
}

/// Warnings for rules that look something up in a literal that does not have it.
pub(crate) fn missed_constants(tree: &Tree) -> Vec<Fault> {
    let rules = tree.rules.iter().filter(|rule| rule.misses_constant());
    let warnings = rules.map(|rule| {
        let message =
            format!("`{}` never has a value: it looks up what a literal does not have", rule.name());
        Fault::new(tree.place(rule.module, rule.extent.start), "undefined_reference", message)
            .hint("OPA refuses it; correct the key, or use `object.get` with a default")
    });
    warnings.collect()
}

/// Warnings for packages that share a large data object: every evaluation copies it.
pub(crate) fn crowded_packages(tree: &Tree, data: &Value) -> Vec<Fault> {
    let mut warnings = Vec::new();
    for module in &tree.modules {
        let mut at = data;
        let mut walked = Vec::new();
        for component in &module.package {
            let Value::Object(object) = at else { break };
            if object.len() > SIBLINGS_MAX {
                let message = format!(
                    "package `{}` lies in `{}`, a data object of {} entries: every evaluation copies it",
                    dotted(&module.package),
                    dotted(&walked),
                    object.len()
                );
                warnings.push(
                    Fault::new(module.text.place(module.package_extent.start), "crowded_package", message)
                        .hint("keep large tables under a root that no package uses"),
                );
                break;
            }
            walked.push(component.clone());
            let Some(next) = object.get(&Value::from(component.as_str())) else { break };
            at = next;
        }
        // The package's own object is copied as well.
        if walked.len() == module.package.len()
            && let Value::Object(object) = at
            && object.len() > SIBLINGS_MAX
        {
            let message = format!(
                "package `{}` has {} data entries beside its rules: every evaluation copies them",
                dotted(&module.package),
                object.len()
            );
            warnings.push(
                Fault::new(module.text.place(module.package_extent.start), "crowded_package", message)
                    .hint("keep large tables under a root that no package uses"),
            );
        }
    }
    warnings
}
