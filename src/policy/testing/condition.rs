//! Which conditions the tests saw true and which they saw false.
//!
//! Lines alone do not tell: a condition that no test ever failed could as well be absent. So the policies are written anew
//! with marks between their conditions, on lines of their own; the tests run on that text once more, and the lines they
//! reach tell what held and what did not.

use std::collections::BTreeSet;

use super::{TestOptions, reached};
use crate::policy::bundle::Bundle;
use crate::rego::coverage::FileCoverage;
use crate::rego::fault::{BundleErrors, Place};
use crate::rego::program::{Module, Program};
use crate::rego::tree::{
    Body, ModuleId, ModuleTree, Rule, Shape, Statement, StatementKind, Term, TermKind, Tree, walk_own,
    walk_term,
};

/// A statement that is evaluated where it is reached, and changes nothing.
const MARK: &str = "1 == 1";

/// A condition of a rule, and what the tests have seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Where it stands.
    pub place: Place,
    /// The rule it is part of: `data.gateway.allow`.
    pub rule: String,
    /// As it is written.
    pub text: String,
    /// Whether it was evaluated at all.
    pub is_reached: bool,
    /// Whether it held at least once.
    pub was_true: bool,
    /// Whether it failed at least once; `None` for what binds variables, which need not fail.
    pub was_false: Option<bool>,
}

impl Condition {
    /// What the tests lack; nothing where they have seen it both ways.
    pub fn lack(&self) -> Option<&'static str> {
        match (self.is_reached, self.was_true, self.was_false) {
            (false, ..) => Some("never reached"),
            (true, false, _) => Some("never true"),
            (true, true, Some(false)) => Some("never false"),
            (true, true, Some(true) | None) => None,
        }
    }

    /// Ways it can go, and those the tests have seen.
    pub fn branches(&self) -> (usize, usize) {
        let seen = usize::from(self.was_true) + usize::from(self.was_false == Some(true));
        (1 + usize::from(self.was_false.is_some()), seen)
    }
}

/// All conditions of a bundle's policies, in the order of files and lines. `None` where the marked text does not compile,
/// which the policy's own text did.
pub(super) fn cover(bundle: &Bundle, program: &Program, options: &TestOptions) -> Option<Vec<Condition>> {
    let tree = program.tree();
    let mut marked = bundle.clone();
    let mut writers = Vec::new();
    for (id, module) in tree.modules.iter().enumerate() {
        let Some(target) = marked.modules.iter_mut().find(|target| *target.path == *module.text.path) else {
            continue;
        };
        let mut writer = Writer { tree, module: id, inserts: Vec::new(), conditions: Vec::new() };
        tree.rules.iter().filter(|rule| rule.module == id).for_each(|rule| writer.rule(rule));
        let (text, lines) = writer.text(module);
        *target = Module { path: target.path.clone(), text };
        writers.push((module.text.path.clone(), writer.conditions, lines));
    }
    let options = TestOptions { coverage: true, conditions: false, ..options.clone() };
    let reached: Result<Vec<FileCoverage>, BundleErrors> = reached(&marked, &options);
    let reached = reached.ok()?;
    let none = BTreeSet::new();
    let mut conditions = Vec::new();
    for (path, found, lines) in writers {
        let covered = reached.iter().find(|file| file.file == path).map_or(&none, |file| &file.covered);
        let seen = |mark: usize| lines.get(mark).is_some_and(|line| covered.contains(line));
        conditions.extend(found.into_iter().map(|marks| Condition {
            is_reached: seen(marks.before),
            was_true: seen(marks.after),
            was_false: marks.failed.map(seen),
            ..marks.condition
        }));
    }
    conditions.sort_by(|left, right| left.place.cmp(&right.place));
    Some(conditions)
}

/// A condition, and the marks that tell of it.
struct Marks {
    condition: Condition,
    before: usize,
    after: usize,
    failed: Option<usize>,
}

/// Something written between what is there.
struct Insert {
    at: usize,
    /// Before the mark, the mark if there is one, and after it.
    before: String,
    mark: Option<usize>,
    after: &'static str,
}

/// Writes one module anew.
struct Writer<'t> {
    tree: &'t Tree,
    module: ModuleId,
    inserts: Vec<Insert>,
    conditions: Vec<Marks>,
}

impl<'t> Writer<'t> {
    fn rule(&mut self, rule: &'t Rule) {
        let package = self.tree.modules.get(self.module).map_or(0, |module| module.package.len());
        let is_test = rule
            .path
            .get(package)
            .is_some_and(|name| name.starts_with("test_") || name.starts_with("todo_test_"));
        if is_test {
            return;
        }
        let mut bound = BTreeSet::new();
        if let Shape::Function(arguments) = &rule.shape {
            for argument in arguments {
                locals(argument, &mut bound);
            }
        }
        for branch in &rule.branches {
            self.body(rule, &branch.body, &bound);
        }
    }

    fn body(&mut self, rule: &'t Rule, body: &'t Body, outer: &BTreeSet<&'t str>) {
        let (Some(first), Some(last)) = (body.statements.first(), body.statements.last()) else { return };
        if !body.is_delimited {
            self.insert(first.extent.start, "{\n".to_owned(), None, "");
        }
        let mut before = self.mark(first.extent.start, "\n".to_owned(), ";\n");
        let mut bound = outer.clone();
        for statement in &body.statements {
            if matches!(statement.kind, StatementKind::Declare(_)) {
                continue;
            }
            let failed = self.failure(statement, &bound);
            if let StatementKind::Every { key, value, body, .. } = &statement.kind {
                let mut inner = bound.clone();
                inner.extend(key.iter().chain([value]).map(String::as_str));
                self.body(rule, body, &inner);
            }
            let after = self.mark(statement.extent.end, ";\n".to_owned(), "");
            let text = self.tree.slice(self.module, statement.extent);
            self.conditions.push(Marks {
                condition: Condition {
                    place: self.tree.place(self.module, statement.extent.start),
                    rule: rule.name(),
                    text: text.split_whitespace().collect::<Vec<_>>().join(" "),
                    is_reached: false,
                    was_true: false,
                    was_false: None,
                },
                before,
                after,
                failed,
            });
            before = after;
            statement.terms().into_iter().for_each(|term| locals(term, &mut bound));
        }
        if !body.is_delimited {
            self.insert(last.extent.end, "\n}".to_owned(), None, "");
        }
    }

    /// A mark that is reached where a condition does not hold. What binds variables has none.
    fn failure(&mut self, statement: &'t Statement, bound: &BTreeSet<&'t str>) -> Option<usize> {
        let is_condition = match &statement.kind {
            StatementKind::Holds(Term { kind: TermKind::Unify { declares, .. }, .. }) => !declares,
            StatementKind::Holds(_) | StatementKind::Not(_) => true,
            StatementKind::Declare(_) | StatementKind::SomeIn { .. } | StatementKind::Every { .. } => false,
        };
        let mut used = BTreeSet::new();
        for term in statement.terms() {
            walk_own(term, &mut |term| used.extend(term.as_local()));
        }
        let mut has_body = false;
        statement.terms().into_iter().for_each(|term| {
            walk_term(term, &mut |term| has_body |= matches!(term.kind, TermKind::Comprehension { .. }));
        });
        if !is_condition || has_body || !used.is_subset(bound) {
            return None;
        }
        let text = self.tree.slice(self.module, statement.extent);
        let before = format!("\ncount([1 | count([1 | {text}]) == 0;\n");
        Some(self.mark(statement.extent.start, before, "\n]) >= 0;\n"))
    }

    fn mark(&mut self, at: usize, before: String, after: &'static str) -> usize {
        let mark = self.inserts.iter().filter(|insert| insert.mark.is_some()).count();
        self.insert(at, before, Some(mark), after);
        mark
    }

    fn insert(&mut self, at: usize, before: String, mark: Option<usize>, after: &'static str) {
        self.inserts.push(Insert { at, before, mark, after });
    }

    /// The text with all marks, and the line of each, by its number.
    fn text(&mut self, module: &ModuleTree) -> (String, Vec<u32>) {
        // Stable: what was written first at one place stands first.
        self.inserts.sort_by_key(|insert| insert.at);
        let mut out = String::with_capacity(module.text.content.len() * 2);
        let mut marks = Vec::new();
        let mut at = 0;
        for insert in &self.inserts {
            out.push_str(module.text.slice(at..insert.at));
            at = insert.at;
            out.push_str(&insert.before);
            if let Some(mark) = insert.mark {
                marks.push((mark, out.len()));
                out.push_str(MARK);
            }
            out.push_str(insert.after);
        }
        out.push_str(module.text.slice(at..module.text.content.len()));
        let mut lines = vec![0; marks.len()];
        let (mut line, mut counted) = (1, 0);
        for (mark, offset) in marks {
            let between = out.get(counted..offset).unwrap_or_default();
            line += u32::try_from(between.matches('\n').count()).unwrap_or(u32::MAX);
            counted = offset;
            if let Some(slot) = lines.get_mut(mark) {
                *slot = line;
            }
        }
        (out, lines)
    }
}

fn locals<'t>(term: &'t Term, into: &mut BTreeSet<&'t str>) {
    walk_own(term, &mut |term| into.extend(term.as_local()));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use regorus::Value;

    use super::*;
    use crate::policy::testing::run;

    #[track_caller]
    fn check(policy: &str, tests: &str, want: &[&str]) {
        let module = |path: &str, text: String| Module { path: path.into(), text };
        let bundle = Bundle {
            v0: std::sync::Arc::default(),
            revision: String::new(),
            modules: vec![module("p.rego", format!("package p\n\n{policy}\n"))],
            tests: vec![module("p_test.rego", format!("package p_test\nimport data.p\n{tests}\n"))],
            case_files: Vec::new(),
            data: Value::new_object(),
        };
        let options = TestOptions {
            run: None,
            timeout: Duration::from_secs(5),
            coverage: true,
            conditions: true,
            parallel: 1,
            now_ns: 7,
        };
        let report = run(&bundle, &options).unwrap_or_else(|e| panic!("{e}"));
        let conditions = report.conditions.expect("the marked text compiles");
        let lacking = conditions.iter().filter_map(|condition| {
            let Place { line, column, .. } = condition.place;
            Some(format!("{line}:{column} {} `{}`", condition.lack()?, condition.text))
        });
        assert_eq!(lacking.collect::<Vec<_>>(), want, "{policy}");
    }

    #[test]
    fn conditions_are_told_apart_by_what_was_seen_of_them() {
        let policy = "allow if {\n\tinput.a == 1\n\tinput.b == 2; input.c == 3\n}\n\nother if input.d";
        let tests = "test_a if p.allow with input as {\"a\": 1, \"b\": 2, \"c\": 3}\n\
            test_b if not p.allow with input as {\"a\": 1, \"b\": 2, \"c\": 4}\n\
            test_c if not p.allow with input as {\"b\": 1}\n";
        check(policy, tests, &["5:2 never false `input.b == 2`", "8:10 never reached `input.d`"]);
        check(
            policy,
            "test_d if not p.other with input as {}",
            &[
                "4:2 never reached `input.a == 1`",
                "5:2 never reached `input.b == 2`",
                "5:16 never reached `input.c == 3`",
                "8:10 never true `input.d`",
            ],
        );
    }

    #[test]
    fn what_binds_need_not_fail_and_functions_and_else_are_covered() {
        let policy = "f(x) if x > 1\n\nr := n if {\n\tsome n in input.xs\n\tf(n)\n\tm := n + 1\n\tnot m == 7\n} else := 0 if not input.y";
        let tests = "test_a if p.r == 2 with input as {\"xs\": [1, 2]}\n\
            test_b if p.r == 0 with input as {\"xs\": [1]}\n";
        check(policy, tests, &["9:2 never false `not m == 7`", "10:16 never false `not input.y`"]);
        let policy = "r if every x in input.xs { x > 1 }";
        check(policy, "test_a if p.r with input.xs as [2]", &["3:28 never false `x > 1`"]);
    }

    #[test]
    fn modifiers_comments_and_templates_stay_what_they_are() {
        let policy = "q if input.z\n\nr if {\n\tq with input.z as true # always\n\tx := $\"{input.a}!\"\n\tx == \"1!\"\n}";
        let tests = "test_a if p.r with input as {\"a\": 1}\ntest_b if not p.r with input as {\"a\": 2}\n\
            test_c if not p.q with input as {\"z\": false}";
        check(policy, tests, &["6:2 never false `q with input.z as true`"]);
    }
}
