//! Why a test failed: its body is evaluated again, one statement longer each time.
//!
//! Probes are rules of a generated module in the test's own package, so that they see what the
//! test sees; they exist only in a program made for the purpose.

use std::collections::{BTreeMap, btree_map::Entry};

use regorus::Value;

use super::{bundle::Bundle, testing::Failure};
use crate::rego::{
    evaluator::Facts,
    program::{Module, Options, Program, compile},
    tree::{Body, Extent, ModuleId, Rule, RuleId, Statement, StatementKind, Term, TermKind, Tree, written},
};

/// Most values shown for one failure.
pub(super) const VALUES_MAX: usize = 6;
/// Longest value shown, in characters.
const VALUE_LENGTH_MAX: usize = 200;

/// The first statement of a test's body that does not hold, with the values in it.
pub(crate) fn first_failure(
    bundle: &Bundle,
    program: &Program,
    rule: RuleId,
    facts: Facts,
) -> Option<Failure> {
    let tree = program.tree();
    let probes = Probes { bundle, tree, rule: tree.rule(rule)?, facts };
    let body = &probes.rule.branches.first()?.body;
    let prefixes: Vec<String> = (1..=body.statements.len())
        .map(|length| format!("if {{ {} }}", probes.statements(body, length)))
        .collect();
    let held = probes.holding(&prefixes)?;
    let statement = body.statements.get(held)?;
    let mut values = Vec::new();
    for term in operands(statement) {
        let text = probes.text(term.extent);
        if values.len() == VALUES_MAX || values.iter().any(|(known, _)| *known == text) {
            continue;
        }
        let rule =
            values_rule(&probes.statements(body, held), &text, &withs(tree, probes.rule.module, statement));
        if let Some(value) = probes.value(&rule) {
            values.push((text, value));
        }
    }
    Some(Failure {
        place: tree.place(probes.rule.module, statement.extent.start),
        expression: probes.text(statement.extent),
        values,
    })
}

/// The names a test with parts goes through, whether they hold or not.
pub(crate) fn part_names(bundle: &Bundle, program: &Program, rule: RuleId, facts: Facts) -> Vec<Value> {
    let tree = program.tree();
    let Some(rule) = tree.rule(rule) else { return Vec::new() };
    let probes = Probes { bundle, tree, rule, facts };
    let (Some(branch), Some(key)) = (rule.branches.first(), rule.keys.first()) else { return Vec::new() };
    let key = probes.text(key.extent);
    // The fewest statements that give the name a value; what follows may already be the test.
    for length in 1..=branch.body.statements.len() {
        let rule = format!("contains {key} if {{ {} }}", probes.statements(&branch.body, length));
        let Some(answer) = probes.evaluate(&[rule]).and_then(|answers| answers.into_iter().next()) else {
            continue;
        };
        return match answer {
            Some(Value::Set(names)) => names.iter().cloned().collect(),
            _ => Vec::new(),
        };
    }
    Vec::new()
}

struct Probes<'a> {
    bundle: &'a Bundle,
    tree: &'a Tree,
    rule: &'a Rule,
    facts: Facts,
}

impl Probes<'_> {
    fn text(&self, extent: Extent) -> String {
        self.tree.slice(self.rule.module, extent).to_owned()
    }

    fn statements(&self, body: &Body, length: usize) -> String {
        statements(self.tree, self.rule.module, body, length)
    }

    /// How many of the growing bodies hold before the first that does not.
    fn holding(&self, bodies: &[String]) -> Option<usize> {
        let answers = self.evaluate(bodies)?;
        answers.iter().position(|answer| *answer != Some(Value::from(true)))
    }

    fn value(&self, rule: &str) -> Option<String> {
        shown_values(&self.evaluate(&[rule.to_owned()])?.into_iter().next()??)
    }

    /// Evaluates rules beside the test; an error of one counts as undefined.
    fn evaluate(&self, rules: &[String]) -> Option<Vec<Option<Value>>> {
        let mut set = ProbeSet::new(self.tree);
        for rule in rules {
            set.add(self.rule.module, rule);
        }
        set.run(self.bundle, &self.facts)
    }
}

/// Rules to be evaluated beside those of a program, each in the package, and with the imports, of a module.
pub(super) struct ProbeSet<'a> {
    tree: &'a Tree,
    probes: Vec<(ModuleId, String)>,
}

impl<'a> ProbeSet<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self { tree, probes: Vec::new() }
    }

    /// Adds a rule, written without its name.
    pub(super) fn add(&mut self, module: ModuleId, rule: &str) {
        self.probes.push((module, rule.to_owned()));
    }

    /// Compiles all rules and evaluates each; an error of one counts as undefined. `None` where they do not compile.
    pub(super) fn run(&self, bundle: &Bundle, facts: &Facts) -> Option<Vec<Option<Value>>> {
        let name = |index: usize| format!("__postern_probe_{index}");
        let mut texts: BTreeMap<ModuleId, Vec<String>> = BTreeMap::new();
        for (index, (id, rule)) in self.probes.iter().enumerate() {
            let lines = match texts.entry(*id) {
                Entry::Occupied(lines) => lines.into_mut(),
                Entry::Vacant(vacant) => {
                    let module = self.tree.modules.get(*id)?;
                    let mut lines = vec![format!("package {}", written(&module.package))];
                    let imports = module.imports.iter();
                    lines.extend(imports.map(|import| module.text.slice(import.range()).to_owned()));
                    vacant.insert(lines)
                }
            };
            lines.push(format!("{} {rule}", name(index)));
        }
        let probes =
            texts.iter().map(|(id, lines)| Module { path: format!("<probe {id}>"), text: lines.join("\n") });
        let modules: Vec<Module> =
            bundle.modules.iter().chain(&bundle.tests).cloned().chain(probes).collect();
        let options = bundle.versions(Options::developing());
        let program = compile(&modules, bundle.data.clone(), options).ok()?;
        let mut evaluator = program.evaluator();
        let answers = self.probes.iter().enumerate().map(|(index, (id, _))| {
            let package = self.tree.modules.get(*id)?.package.iter().cloned();
            let entrypoint = program.entrypoint_at(package.chain([name(index)]).collect()).ok()?;
            evaluator.evaluate(&entrypoint, facts.clone()).ok()?
        });
        Some(answers.collect())
    }
}

/// The first statements of a body as text.
///
/// A declaration without the statement that uses it would be refused as unused; the variable is bound all the same.
pub(super) fn statements(tree: &Tree, module: ModuleId, body: &Body, length: usize) -> String {
    let kept = body
        .statements
        .iter()
        .take(length)
        .filter(|statement| !matches!(statement.kind, StatementKind::Declare(_)));
    let texts: Vec<&str> = kept.map(|statement| tree.slice(module, statement.extent)).collect();
    if texts.is_empty() && length > 0 { "true".to_owned() } else { texts.join("\n") }
}

/// A rule that gathers the values of an expression after the statements `before` it.
pub(super) fn values_rule(before: &str, expression: &str, withs: &str) -> String {
    let separator = if before.is_empty() { "" } else { "\n" };
    format!(":= [__value | {before}{separator}__value := {expression} {withs}]")
}

/// The values such a rule gathered, as they are shown: `undefined`, one, or some.
pub(super) fn shown_values(answer: &Value) -> Option<String> {
    let Value::Array(values) = answer else { return None };
    let mut shown: Vec<String> = Vec::new();
    for value in values.iter() {
        let text = abridged(&value.to_string());
        if !shown.contains(&text) {
            shown.push(text);
        }
    }
    match shown.as_slice() {
        [] => Some("undefined".to_owned()),
        [some @ .., _] if some.len() >= 3 => Some(format!("{} | ..", some.get(..3)?.join(" | "))),
        all => Some(all.join(" | ")),
    }
}

/// The `with` modifiers of a statement, as text.
pub(super) fn withs(tree: &Tree, module: ModuleId, statement: &Statement) -> String {
    let texts: Vec<&str> = statement.withs.iter().map(|with| tree.slice(module, with.extent)).collect();
    texts.join(" ")
}

fn abridged(text: &str) -> String {
    match text.char_indices().nth(VALUE_LENGTH_MAX) {
        Some((at, _)) => format!("{}..", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The parts of a statement whose values explain it: what it compares, passes and looks up.
pub(super) fn operands(statement: &Statement) -> Vec<&Term> {
    let mut found = Vec::new();
    match &statement.kind {
        StatementKind::Declare(_) => {}
        StatementKind::SomeIn { collection, .. } => collect(collection, &mut found),
        StatementKind::Every { domain, .. } => collect(domain, &mut found),
        StatementKind::Holds(term) | StatementKind::Not(term) => {
            if matches!(term.kind, TermKind::Reference { .. }) {
                found.push(term);
            } else {
                collect_all(term, &mut found);
            }
        }
    }
    found
}

fn collect_all<'tree>(term: &'tree Term, found: &mut Vec<&'tree Term>) {
    for child in term.children() {
        collect(child, found);
    }
}

fn collect<'tree>(term: &'tree Term, found: &mut Vec<&'tree Term>) {
    match &term.kind {
        TermKind::Scalar(_) | TermKind::Wildcard | TermKind::Data => {}
        TermKind::Local(_)
        | TermKind::Input
        | TermKind::Reference { .. }
        | TermKind::Comprehension { .. } => {
            found.push(term);
        }
        TermKind::Call { .. } | TermKind::Infix { .. } => {
            found.push(term);
            collect_all(term, found);
        }
        TermKind::Array(_)
        | TermKind::Set(_)
        | TermKind::Object(_)
        | TermKind::Unify { .. }
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => collect_all(term, found),
    }
}
