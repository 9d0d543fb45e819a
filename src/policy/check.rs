//! What is wrong with a bundle beyond not compiling, and what only looks wrong.
//!
//! What every check reports stands here; what only `--strict` asks for is in the modules below, one question each. Nothing
//! here evaluates a policy: a finding is read off the resolved tree, so that it is the same on every run.

mod constant;
mod dead;
mod defined;
mod ignore;
pub mod rule;
mod shadow;
mod unreadable;
mod vanish;

use std::collections::{BTreeMap, BTreeSet};

use self::ignore::Ignores;

use super::{
    bundle::Bundle,
    fields::{ENVOY_V3, Field, GATEWAY_V1},
    result,
};
use crate::contract::decision::Phase;
use crate::contract::form::Contract;
use crate::rego::{
    fault::{BundleErrors, Fault},
    outside::Outside,
    plan::reason::NotPlanned,
    program::{Options, Program},
    tree::{ModuleId, Rule, RuleId, Target, Term, TermKind, Tree, walk_rule},
};

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The bundle must not be served.
    Error,
    /// It may be, but it is probably not what was meant.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// What and where.
    pub fault: Fault,
}

/// All findings, and whether the bundle compiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The findings, in order of place.
    pub findings: Vec<Finding>,
    /// Whether there is a program at all.
    pub compiles: bool,
}

impl Report {
    /// The report of a bundle that could not be loaded or compiled.
    pub fn of_errors(errors: &BundleErrors) -> Self {
        let error = |fault: &Fault| Finding { severity: Severity::Error, fault: fault.clone() };
        Self { findings: errors.faults().iter().map(error).collect(), compiles: false }
    }
}

/// The rules that are to be decisions: each path as `gateway/decision`, and the phase it is asked in. A path without a
/// rule is passed over: a bundle may be a library, and whoever serves it names its entry points.
pub type Decisions<'a> = &'a [(&'a str, Phase)];

/// Compiles a bundle, tests included, and lists what is wrong with it. Without a contract no input path is checked.
/// `strict` makes errors of warnings, and asks more.
pub fn check(bundle: &Bundle, contract: Option<Contract>, decisions: Decisions<'_>, strict: bool) -> Report {
    let program = match bundle.compile_with_tests(Options::developing()) {
        Ok(program) => program,
        Err(errors) => return Report::of_errors(&errors),
    };
    let doubtful = if strict { Severity::Error } else { Severity::Warning };
    let unknown = unknown_inputs(&program, contract).into_iter();
    let unknown = unknown.map(|fault| Finding { severity: Severity::Error, fault });
    let warnings = program.warnings().iter().cloned();
    let warnings = warnings.map(|fault| Finding { severity: doubtful, fault });
    let asked = decisions.iter().filter(|_| contract == Some(Contract::GatewayV1));
    let asked = asked.filter_map(|(path, phase)| Some((program.entrypoint(path).ok()?, *phase)));
    let undecided = asked.flat_map(|(entrypoint, phase)| result::check(&program, &entrypoint, phase));
    let undecided = undecided.map(|fault| Finding { severity: Severity::Error, fault });
    let mut findings: Vec<Finding> = unknown.chain(undecided).chain(warnings).collect();
    if strict {
        findings.extend(doubts(&program, contract, decisions));
        findings.extend(warned(off_plan(bundle)));
    }
    findings.extend(warned(asks_outside(bundle, &program)));
    let ignores = Ignores::gather(bundle.modules.iter().chain(&bundle.tests));
    findings.retain(|finding| !ignores.covers(&finding.fault));
    if strict {
        findings.extend(ignores.useless().map(|fault| Finding { severity: Severity::Error, fault }));
    }
    findings.sort_by(|left, right| left.fault.cmp(&right.fault));
    findings.dedup();
    Report { findings, compiles: true }
}

/// Calls, tests aside, that a gateway refuses unless it is told whom they may ask. A warning even when strict.
fn asks_outside(bundle: &Bundle, program: &Program) -> Vec<Fault> {
    let tree = program.tree();
    let mut faults = Vec::new();
    for rule in &tree.rules {
        walk_rule(rule, &mut |term| {
            let TermKind::Call { callee, .. } = &term.kind else { return };
            let Target::Builtin(name) = &callee.target else { return };
            let Some(outside) = Outside::named(name) else { return };
            let place = tree.place(rule.module, callee.extent.start);
            if !bundle.tests.iter().any(|test| *test.path == *place.file) {
                let message = format!("`{name}` asks outside, which a gateway has to be told to allow");
                let hint = format!("configure `{}` for the policy, with whom it may ask", outside.setting());
                faults.push(Fault::new(place, "asks_outside", message).hint(&hint));
            }
        });
    }
    faults
}

fn warned(faults: Vec<Fault>) -> impl Iterator<Item = Finding> {
    faults.into_iter().map(|fault| Finding { severity: Severity::Warning, fault })
}

/// What a strict check asks besides.
fn doubts(program: &Program, contract: Option<Contract>, decisions: Decisions<'_>) -> Vec<Finding> {
    let tree = program.tree();
    let asked = entries(program, decisions);
    let errors = [
        shadow::names(tree),
        constant::conditions(tree),
        dead::duplicates(tree),
        dead::unreachable(tree),
        dead::unread(tree, &asked),
        dead::deprecated(tree),
        unreadable::constants(tree),
        vanish::denials(tree, &asked, contract),
    ];
    let errors = errors.into_iter().flatten().map(|fault| Finding { severity: Severity::Error, fault });
    // A response rule that is undefined stops the response, as a denial does; starter policies rely on it.
    let of_responses = decisions.iter().filter(|(_, phase)| *phase == Phase::Response);
    let of_responses = entries_named(program, of_responses);
    let deciding: BTreeSet<RuleId> = asked.difference(&of_responses).copied().collect();
    errors.chain(warned(defined::without_default(tree, program.data(), &deciding, contract))).collect()
}

/// The rules that are asked for from outside: those named, and those whose METADATA says so.
fn entries(program: &Program, decisions: Decisions<'_>) -> BTreeSet<RuleId> {
    let tree = program.tree();
    let named = entries_named(program, decisions.iter()).into_iter();
    let annotated = tree.rules.iter().filter(|rule| rule.is_entrypoint && !rule.is_function());
    named.chain(annotated.flat_map(|rule| tree.rules_at(&rule.path).to_vec())).collect()
}

fn entries_named<'a>(
    program: &Program,
    decisions: impl Iterator<Item = &'a (&'a str, Phase)>,
) -> BTreeSet<RuleId> {
    let named = decisions.filter_map(|(path, _)| program.entrypoint(path).ok());
    named.flat_map(|entrypoint| program.tree().rules_at(entrypoint.path()).to_vec()).collect()
}

/// Whether a rule is a test, or stands in a file of tests.
fn is_test(tree: &Tree, rule: &Rule) -> bool {
    let Some(module) = tree.modules.get(rule.module) else { return false };
    let is_name = |name: &String| name.starts_with("test_") || name.starts_with("todo_test_");
    module.text.path.ends_with("_test.rego") || rule.path.get(module.package.len()).is_some_and(is_name)
}

/// The rules that decide and that run on the interpreter: right, but many times slower. A warning even when strict.
fn off_plan(bundle: &Bundle) -> Vec<Fault> {
    let Ok(program) = bundle.compile(Options::developing()) else { return Vec::new() };
    let fault = |NotPlanned { rule, place, reason }| {
        let message = format!("`{rule}` is evaluated by the interpreter, which is slower: {reason}");
        Fault::new(place, "off_plan", message)
    };
    program.not_planned().into_iter().map(fault).collect()
}

/// Input paths a program reads that the contract does not know; without a contract every path is known.
pub fn unknown_inputs(program: &Program, contract: Option<Contract>) -> Vec<Fault> {
    let fields = match contract {
        Some(Contract::GatewayV1) => &GATEWAY_V1,
        Some(Contract::EnvoyV3) => &ENVOY_V3,
        None => return Vec::new(),
    };
    let tree = program.tree();
    let mut faults = Vec::new();
    for rule in &tree.rules {
        // Rules under `system` are asked about other documents: decision events, admin calls.
        if rule.path.first().is_some_and(|root| root == "system") {
            continue;
        }
        let aliases = aliases_of(rule);
        walk_rule(rule, &mut |term| {
            faults.extend(unknown_in(tree, rule.module, term, &aliases, fields));
        });
    }
    faults.sort();
    faults.dedup();
    faults
}

type Steps<'tree> = Vec<&'tree Term>;

/// Locals that are only ever another name for an input path: `request := input.request`.
fn aliases_of(rule: &Rule) -> BTreeMap<&str, Steps<'_>> {
    let mut aliases: BTreeMap<&str, Option<Steps<'_>>> = BTreeMap::new();
    walk_rule(rule, &mut |term| {
        let TermKind::Unify { left, right, .. } = &term.kind else { return };
        let TermKind::Local(name) = &left.kind else { return };
        let path = right.input_steps();
        // A name with two meanings in one rule is followed for neither.
        let seen = aliases.contains_key(name.as_str());
        aliases.insert(name, path.filter(|_| !seen));
    });
    aliases.into_iter().filter_map(|(name, path)| Some((name, path?))).collect()
}

fn unknown_in(
    tree: &Tree,
    module: ModuleId,
    term: &Term,
    aliases: &BTreeMap<&str, Steps<'_>>,
    fields: &Field,
) -> Option<Fault> {
    let TermKind::Reference { base, steps } = &term.kind else { return None };
    let before: &[&Term] = match base.as_local() {
        Some(name) => aliases.get(name)?,
        None if matches!(base.kind, TermKind::Input) => &[],
        None => return None,
    };
    let all: Vec<&Term> = before.iter().copied().chain(steps).collect();
    let keys: Vec<Option<&str>> = all.iter().map(|step| step.constant_key()).collect();
    let unknown = fields.check(&keys).err()?;
    let at = all.get(unknown.step)?;
    let written = keys.iter().take(unknown.step + 1).fold(String::from("input"), |mut out, key| {
        match key {
            Some(key) => crate::rego::tree::push_component(&mut out, key),
            None => out.push_str("[_]"),
        }
        out
    });
    let place = tree.place(module, at.extent.start);
    let hint = match unknown.near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "see the fields of the policy input; values of your own come from data, claims or labels"
            .to_owned(),
    };
    Some(Fault::new(place, "unknown_input", format!("the input has no `{written}`")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::program::Module;

    const DECISIONS: Decisions<'_> = &[("a/decision", Phase::Request), ("a/response", Phase::Response)];

    fn findings(text: &str, strict: bool) -> Vec<(String, Severity, &'static str)> {
        let modules = vec![Module { path: "p.rego".into(), text: text.into() }];
        let bundle = Bundle {
            v0: std::sync::Arc::default(),
            revision: String::new(),
            modules,
            tests: Vec::new(),
            case_files: Vec::new(),
            data: regorus::Value::new_object(),
            digest: [0; 32],
        };
        let found = check(&bundle, Some(Contract::GatewayV1), DECISIONS, strict).findings;
        found
            .into_iter()
            .map(|found| {
                let place = format!("{}:{}", found.fault.place.line, found.fault.place.column);
                (place, found.severity, found.fault.code)
            })
            .collect()
    }

    #[test]
    fn unknown_inputs_are_errors_where_they_stand() {
        let text = "package a\n\
                    allow if input.method == \"GET\"\n\
                    b if { r := input.request; r.headers.x; r.meth }\n\
                    c if input.identity.claims.anything.below\n\
                    d contains x if some x in input.request.quer\n";
        let want = [("2:16", "unknown_input"), ("3:43", "unknown_input"), ("5:41", "unknown_input")];
        let got = findings(text, false);
        let got: Vec<_> = got.iter().map(|(place, _, code)| (place.as_str(), *code)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn other_documents_are_not_judged_by_the_contract() {
        assert_eq!(findings("package system.log\nmask contains \"/input/a\" if input.input.a\n", false), []);
    }

    #[test]
    fn what_can_be_no_decision_is_an_error() {
        let text =
            "package a\ndecision := {\"allow\": input.api, \"reson\": \"x\"}\nresponse := 5 if input.api\n";
        let got = findings(text, false);
        let got: Vec<_> =
            got.iter().map(|(place, severity, code)| (place.as_str(), *severity, *code)).collect();
        assert_eq!(
            got,
            [("2:34", Severity::Error, "bad_decision"), ("3:13", Severity::Error, "bad_decision")]
        );
    }

    #[test]
    fn rules_off_the_plan_are_told_when_strict_and_are_no_errors() {
        let text = "package a\np if { print(input.api) }\n";
        assert_eq!(findings(text, false), []);
        let found = findings(text, true);
        let found: Vec<_> =
            found.iter().map(|(place, severity, code)| (place.as_str(), *severity, *code)).collect();
        assert_eq!(found, [("2:8", Severity::Warning, "off_plan")]);
    }

    #[test]
    fn warnings_are_errors_when_strict() {
        let text = "package a\nimport data.b\np if { x := 1 }\n";
        let severities = |strict| findings(text, strict).iter().map(|found| found.1).collect::<Vec<_>>();
        assert_eq!(severities(false), [Severity::Warning; 2]);
        assert_eq!(severities(true), [Severity::Error; 2]);
    }
}
