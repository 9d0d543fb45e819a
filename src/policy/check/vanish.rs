//! Denials that vanish: conditions of a denial that are undefined, or silently false, where the input lacks a field or has
//! it of another type, so that nothing denies what should be.
//!
//! From the entry points it is followed what allows and what denies (`walk`): `not`, `count(..) == 0` and the value `false`
//! turn one into the other. Each condition of a denial is then judged by the input paths that it needs (`reads`). Not
//! reported is what the contract promises, what the allowing rule itself needs, what another denial covers, and a test for
//! one value or pattern: what is missing is not that value, and that is what was meant.

mod judge;
mod reads;
mod walk;

use std::collections::BTreeSet;

use self::judge::Judge;
use self::walk::Walk;
use crate::contract::form::Contract;
use crate::rego::fault::Fault;
use crate::rego::tree::{RuleId, Tree};

/// Names of rules that deny wherever they stand, in libraries too.
const DENIES: [&str; 6] = ["deny", "denied", "denials", "violation", "violations", "deny_reasons"];
/// Names of rules that allow, for bundles without an entry point.
const ALLOWS: [&str; 3] = ["allow", "allowed", "decision"];

/// The denials of a program that may vanish.
pub(super) fn denials(tree: &Tree, entries: &BTreeSet<RuleId>, contract: Option<Contract>) -> Vec<Fault> {
    let mut walk = Walk::new(tree);
    for id in entries {
        walk.allows(*id);
    }
    let rules = || tree.rules.iter().enumerate().filter(|(_, rule)| !super::is_test(tree, rule));
    let is_named =
        |path: &[String], names: &[&str]| path.last().is_some_and(|name| names.contains(&name.as_str()));
    if entries.is_empty() {
        for (id, _) in rules().filter(|(_, rule)| is_named(&rule.path, &ALLOWS)) {
            walk.allows(id);
        }
    }
    for (id, rule) in rules().filter(|(_, rule)| is_named(&rule.path, &DENIES)) {
        if !walk.has_met(id) && !rule.is_function() {
            walk.denies(id);
        }
    }
    Judge::new(tree, contract, &walk.denials).faults()
}

#[cfg(test)]
mod tests;
