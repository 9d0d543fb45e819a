//! Rules that are asked for decisions, and can be undefined: the request then fails with 503 instead of a denial.

use std::collections::BTreeSet;

use regorus::Value;

use super::constant::is_unconditional;
use crate::contract::form::Contract;
use crate::rego::fault::Fault;
use crate::rego::graph::{data_path, values};
use crate::rego::tree::{Rule, RuleId, Shape, Target, Term, TermKind, Tree};

/// The rules among `entries` that some input may leave undefined.
pub(super) fn without_default(
    tree: &Tree,
    data: &Value,
    entries: &BTreeSet<RuleId>,
    contract: Option<Contract>,
) -> Vec<Fault> {
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for rule in entries.iter().filter_map(|id| tree.rule(*id)) {
        if !seen.insert(&rule.path) || !matches!(rule.shape, Shape::Value) || !rule.keys.is_empty() {
            continue;
        }
        let search = Search { tree, data };
        let Err(culprit) = search.rules(tree.rules_at(&rule.path)) else { continue };
        let name = rule.name();
        let because = match culprit {
            Some((module, extent)) => {
                let place = tree.place(module, extent.start);
                format!(": `{}` at line {} may be", tree.slice(module, extent), place.line)
            }
            None => ", where none of its definitions holds".to_owned(),
        };
        let short = rule.path.last().map_or("decision", String::as_str);
        let hint = match contract {
            Some(Contract::EnvoyV3) | None => format!("add `default {short} := false`"),
            Some(Contract::GatewayV1) => {
                format!("add `default {short} := false`, or an object with `\"allow\": false` and a reason")
            }
        };
        let message = format!("`{name}` can be undefined, and the request then fails with 503{because}");
        let place = tree.place(rule.module, rule.extent.start);
        faults.push(Fault::new(place, "no_default", message).hint(hint));
    }
    faults
}

/// What may be undefined: a term, or nothing in particular.
type Culprit = Option<(usize, crate::rego::tree::Extent)>;

struct Search<'a> {
    tree: &'a Tree,
    data: &'a Value,
}

impl Search<'_> {
    /// Whether definitions of one document always give it a value.
    fn rules(&self, ids: &[RuleId]) -> Result<(), Culprit> {
        let mut culprit = None;
        for rule in ids.iter().filter_map(|id| self.tree.rule(*id)) {
            match self.rule(rule) {
                Ok(()) => return Ok(()),
                Err(found) => culprit = culprit.or(found),
            }
        }
        Err(culprit)
    }

    fn rule(&self, rule: &Rule) -> Result<(), Culprit> {
        if rule.is_default || matches!(rule.shape, Shape::Set) || !rule.keys.is_empty() {
            return Ok(());
        }
        let holds = |value: Option<&Term>| value.map_or(Ok(()), |value| self.term(rule, value));
        if rule.branches.is_empty() {
            return holds(rule.value.as_ref());
        }
        // The first body that always holds decides.
        for (index, branch) in rule.branches.iter().enumerate() {
            let value = if index == 0 { rule.value.as_ref() } else { branch.value.as_ref() };
            if is_unconditional(&branch.body) {
                return holds(value);
            }
        }
        Err(None)
    }

    fn term(&self, rule: &Rule, term: &Term) -> Result<(), Culprit> {
        let missing = Err(Some((rule.module, term.extent)));
        match &term.kind {
            TermKind::Scalar(_) | TermKind::Comprehension { .. } | TermKind::Data => Ok(()),
            TermKind::Reference { base, steps } if matches!(base.kind, TermKind::Data) => {
                self.document(steps).or(missing)
            }
            TermKind::Wildcard | TermKind::Local(_) | TermKind::Input | TermKind::Reference { .. } => missing,
            TermKind::Call { callee, arguments } => {
                let defined = match &callee.target {
                    // What is given is of a right type, or else the policy would always fail.
                    Target::Builtin(_) | Target::Unknown => Ok(()),
                    Target::Function(path) => self.rules(self.tree.rules_at(path)).or(missing),
                };
                let given: Vec<&Term> = match &callee.target {
                    // What it looks up may be missing.
                    Target::Builtin(name) if name == "object.get" => {
                        let input = |term: &&Term| !matches!(term.kind, TermKind::Input);
                        arguments.iter().filter(input).collect()
                    }
                    Target::Builtin(_) | Target::Function(_) | Target::Unknown => arguments.iter().collect(),
                };
                defined.and_then(|()| given.into_iter().try_for_each(|argument| self.term(rule, argument)))
            }
            TermKind::Array(_)
            | TermKind::Set(_)
            | TermKind::Object(_)
            | TermKind::Infix { .. }
            | TermKind::Unify { .. }
            | TermKind::Membership { .. }
            | TermKind::Negative(_) => {
                term.children().into_iter().try_for_each(|child| self.term(rule, child))
            }
        }
    }

    /// Whether a path below `data` always has a value: base data, or rules that always hold.
    fn document(&self, steps: &[Term]) -> Result<(), ()> {
        let path = data_path(steps);
        let mut at = Some(self.data);
        for key in &path {
            at = match (at, key) {
                (Some(Value::Object(fields)), Some(key)) => fields.get(&Value::from(key.as_str())),
                _ => None,
            };
        }
        let constant: Vec<String> = path.iter().map_while(Clone::clone).collect();
        let exact = self.tree.rules_at(&constant);
        let is_whole = constant.len() == path.len();
        let found = at.is_some()
            || (is_whole && !exact.is_empty() && self.rules(exact).is_ok())
            // A package, or a set or object made of parts, is never undefined.
            || (is_whole && exact.is_empty() && !values(self.tree, &path).is_empty());
        if found { Ok(()) } else { Err(()) }
    }
}
