//! Which conditions of a denial vanish, and what to write instead.

use std::collections::BTreeSet;

use super::reads::{Assured, Reads, before_not, reads};
use super::walk::{Denial, What};
use crate::contract::form::Contract;
use crate::policy::fields::promise;
use crate::rego::fault::Fault;
use crate::rego::footprint::{ReadPath, Segment, Shown};
use crate::rego::tree::{Body, Operator, Statement, StatementKind, Target, Term, TermKind, Tree, walk_own};

/// Built-ins that test a text, and are undefined for anything else.
const TEXT_TESTS: [&str; 9] = [
    "contains",
    "endswith",
    "glob.match",
    "net.cidr_contains",
    "regex.match",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "regex.globs_match",
];

pub(super) struct Judge<'a> {
    tree: &'a Tree,
    contract: Option<Contract>,
    denials: &'a [Denial<'a>],
    /// What some denial says of inputs that lack a field, or have it of another type.
    guards: Assured,
}

/// How a denial vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Missing,
    OfAnotherType,
    Either,
}

impl<'a> Judge<'a> {
    pub(super) fn new(tree: &'a Tree, contract: Option<Contract>, denials: &'a [Denial<'a>]) -> Self {
        let mut judge = Self { tree, contract, denials, guards: Assured::default() };
        for denial in denials {
            if let What::Body(body, _) = &denial.what {
                judge.guard(denial, body);
            }
        }
        judge
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for denial in self.denials {
            match &denial.what {
                What::Body(body, head) => self.body(denial, body, head, &mut faults),
                What::Negated(statement, term) => self.negated(denial, statement, term, &mut faults),
            }
        }
        faults.sort();
        faults.dedup();
        faults
    }

    /// Learns what a denial covers: `not input.a`, `not is_number(input.a)`, `object.get(input, ["a"], null)`.
    fn guard(&mut self, denial: &Denial<'_>, body: &Body) {
        for statement in &body.statements {
            if let StatementKind::Not(term) = &statement.kind {
                let first = before_not(self.tree, &denial.locals, term);
                let needs = reads(self.tree, &denial.locals, term).needs;
                self.guards.present.extend(needs.difference(&first).cloned());
                self.guards.learn_rule(self.tree, &denial.locals, term);
                for argument in type_tested(term) {
                    self.guards.typed.extend(reads(self.tree, &denial.locals, argument).is);
                    self.guards.typed.extend(looked_up(self.tree, denial, argument));
                }
            }
            for term in statement.terms() {
                let present = &mut self.guards.present;
                walk_own(term, &mut |term| present.extend(looked_up(self.tree, denial, term)));
            }
        }
    }

    fn body(&self, denial: &Denial<'_>, body: &Body, head: &[&Term], faults: &mut Vec<Fault>) {
        let of = |term: &Term| reads(self.tree, &denial.locals, term);
        let mut tested = BTreeSet::new();
        let mut typed = BTreeSet::new();
        for statement in &body.statements {
            match &statement.kind {
                StatementKind::Holds(term) if is_test_of_value(term) => {
                    tested.extend(of(term).needs);
                    typed.extend(type_tested(term).into_iter().filter_map(|argument| of(argument).is));
                }
                StatementKind::SomeIn { collection, .. } => tested.extend(of(collection).needs),
                StatementKind::Declare(_)
                | StatementKind::Holds(_)
                | StatementKind::Not(_)
                | StatementKind::Every { .. } => {}
            }
        }
        let mut considered = tested.clone();
        for statement in &body.statements {
            match &statement.kind {
                StatementKind::Holds(Term { kind: TermKind::Infix { operator, left, right }, .. })
                    if is_comparison(*operator) =>
                {
                    let (left_reads, right_reads) = (of(left), of(right));
                    considered.extend(left_reads.needs.iter().chain(&right_reads.needs).cloned());
                    let wanted = wanted_type(left, right);
                    for (side, other) in [(&left_reads, right), (&right_reads, left)] {
                        for path in side.needs.difference(&tested) {
                            let direct = side.is.as_ref() == Some(path);
                            let may_differ = *operator != Operator::NotEqual || !direct;
                            let is_typed = !may_differ || typed.contains(path) || self.is_typed(denial, path);
                            let Some(when) = self.when(denial, path, is_typed) else { continue };
                            let hint = if *operator == Operator::NotEqual && when == When::Missing && direct {
                                let other = self.tree.slice(denial.module, other.extent);
                                format!("write `not {} == {other}`, which holds without it too", shown(path))
                            } else {
                                format!("deny that too: `not {wanted}({})`", getter(path, "null"))
                            };
                            faults.push(self.fault(denial, statement, path, when, "", &hint));
                        }
                    }
                }
                StatementKind::Holds(term) => self.text_test(denial, statement, term, &typed, faults),
                StatementKind::Not(term) => {
                    let needs = before_not(self.tree, &denial.locals, term);
                    considered.extend(needs.iter().cloned());
                    for path in needs.difference(&tested) {
                        let Some(When::Missing) = self.when(denial, path, true) else { continue };
                        let is_list = matches!(&term.kind, TermKind::Membership { collection, .. }
                            if of(collection).needs.contains(path));
                        let hint = format!(
                            "read it by `{}`, or give the condition a rule of its own and write `not` before that",
                            getter(path, if is_list { "[]" } else { "\"\"" })
                        );
                        let because =
                            ": what a call, an operator or a look-up is given comes before the `not`";
                        faults.push(self.fault(denial, statement, path, When::Missing, because, &hint));
                    }
                }
                StatementKind::Declare(_) | StatementKind::SomeIn { .. } | StatementKind::Every { .. } => {}
            }
        }
        self.message(denial, body, head, &considered, faults);
    }

    /// What only the message of a denial needs.
    fn message(
        &self,
        denial: &Denial<'_>,
        body: &Body,
        head: &[&Term],
        considered: &BTreeSet<ReadPath>,
        faults: &mut Vec<Fault>,
    ) {
        let assigned = body.statements.iter().filter_map(|statement| match &statement.kind {
            StatementKind::Holds(Term { kind: TermKind::Unify { declares: true, right, .. }, .. }) => {
                Some(&**right)
            }
            StatementKind::Holds(_)
            | StatementKind::Declare(_)
            | StatementKind::SomeIn { .. }
            | StatementKind::Not(_)
            | StatementKind::Every { .. } => None,
        });
        let mut seen = BTreeSet::new();
        for term in assigned.chain(head.iter().copied()) {
            for path in reads(self.tree, &denial.locals, term).needs {
                if considered.iter().any(|known| known.starts_with(&path)) || !seen.insert(path.clone()) {
                    continue;
                }
                let Some(When::Missing) = self.when(denial, &path, true) else { continue };
                let path = &path;
                let message = format!(
                    "this denial vanishes where the input has no `{}`, which is read here and not tested",
                    shown(path)
                );
                let hint = format!("read it by `{}`", getter(path, "\"unknown\""));
                let place = self.tree.place(denial.module, term.extent.start);
                faults.push(Fault::new(place, "vanishing_deny", message).hint(hint));
            }
        }
    }

    /// A test of a text, given something else: undefined, so that nothing is denied.
    fn text_test(
        &self,
        denial: &Denial<'_>,
        statement: &Statement,
        term: &Term,
        typed: &BTreeSet<ReadPath>,
        faults: &mut Vec<Fault>,
    ) {
        let TermKind::Call { callee, arguments } = &term.kind else { return };
        let Target::Builtin(name) = &callee.target else { return };
        if !TEXT_TESTS.contains(&name.as_str()) {
            return;
        }
        for argument in arguments {
            let Reads { needs, .. } = reads(self.tree, &denial.locals, argument);
            for path in needs.iter().filter(|path| !typed.contains(*path) && !self.is_typed(denial, path)) {
                let hint = format!("deny that too: `not is_string({})`", getter(path, "\"\""));
                faults.push(self.fault(denial, statement, path, When::OfAnotherType, "", &hint));
            }
        }
    }

    /// `not input.a > 5` where that allows: what the input lacks does not allow, but another type does.
    fn negated(&self, denial: &Denial<'_>, statement: &Statement, term: &Term, faults: &mut Vec<Fault>) {
        if let TermKind::Infix { operator, left, right } = &term.kind
            && is_comparison(*operator)
            && *operator != Operator::NotEqual
        {
            let wanted = wanted_type(left, right);
            for path in reads(self.tree, &denial.locals, term).needs {
                if !self.is_typed(denial, &path) {
                    let hint = format!("test its type before: `{wanted}({})`", shown(&path));
                    faults.push(self.fault(denial, statement, &path, When::OfAnotherType, "", &hint));
                }
            }
        } else {
            let mut found = Vec::new();
            self.text_test(denial, statement, term, &BTreeSet::new(), &mut found);
            faults.extend(found.into_iter().map(|fault| fault.hint("test its type before, by `is_string`")));
        }
    }

    fn is_typed(&self, denial: &Denial<'_>, path: &ReadPath) -> bool {
        self.promise(path).is_typed || denial.context.typed.contains(path) || self.guards.typed.contains(path)
    }

    fn when(&self, denial: &Denial<'_>, path: &ReadPath, is_typed: bool) -> Option<When> {
        let is_present = self.promise(path).is_present || denial.context.has(path) || self.guards.has(path);
        match (is_present, is_typed) {
            (true, true) => None,
            (true, false) => Some(When::OfAnotherType),
            (false, true) => Some(When::Missing),
            (false, false) => Some(When::Either),
        }
    }

    fn promise(&self, path: &ReadPath) -> crate::policy::fields::Promise {
        let keys: Vec<Option<&str>> = path
            .iter()
            .map(|segment| match segment {
                Segment::Key(key) => Some(key.as_str()),
                Segment::Any => None,
            })
            .collect();
        promise(self.contract, &keys)
    }

    fn fault(
        &self,
        denial: &Denial<'_>,
        statement: &Statement,
        path: &ReadPath,
        when: When,
        because: &str,
        hint: &str,
    ) -> Fault {
        let path = shown(path);
        let (when, then) = match when {
            When::Missing => (format!("the input has no `{path}`"), "undefined"),
            When::OfAnotherType => (format!("`{path}` is of another type"), "false or undefined"),
            When::Either => (format!("`{path}` is missing or of another type"), "false or undefined"),
        };
        let written: Vec<&str> =
            self.tree.slice(denial.module, statement.extent).split_whitespace().collect();
        let message =
            format!("this denial vanishes where {when}: `{}` is then {then}{because}", written.join(" "));
        let place = self.tree.place(denial.module, statement.extent.start);
        Fault::new(place, "vanishing_deny", message).hint(hint)
    }
}

fn shown(path: &ReadPath) -> String {
    Shown("input", path).to_string().replace("[*]", "[_]")
}

/// An expression that reads a path and is never undefined.
fn getter(path: &ReadPath, or: &str) -> String {
    let wild = path.iter().rposition(|segment| *segment == Segment::Any);
    let base = if wild.is_some() { "element" } else { "input" };
    let keys = path.iter().skip(wild.map_or(0, |at| at + 1)).filter_map(|segment| match segment {
        Segment::Key(key) => Some(serde_json::Value::from(key.as_str()).to_string()),
        Segment::Any => None,
    });
    format!("object.get({base}, [{}], {or})", keys.collect::<Vec<_>>().join(", "))
}

fn is_comparison(operator: Operator) -> bool {
    match operator {
        Operator::NotEqual
        | Operator::Less
        | Operator::LessOrEqual
        | Operator::Greater
        | Operator::GreaterOrEqual => true,
        Operator::Equal
        | Operator::Add
        | Operator::Subtract
        | Operator::Multiply
        | Operator::Divide
        | Operator::Remainder
        | Operator::Intersection
        | Operator::Union => false,
    }
}

/// Whether a condition asks for one value or pattern, or for the presence: what is missing is not that, as it should be.
fn is_test_of_value(term: &Term) -> bool {
    match &term.kind {
        TermKind::Infix { operator, .. } => !is_comparison(*operator),
        TermKind::Unify { declares, .. } => !declares,
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
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => true,
    }
}

/// What a call of `is_number` and its like is given.
fn type_tested(term: &Term) -> Vec<&Term> {
    let mut found = Vec::new();
    walk_own(term, &mut |term| {
        if let TermKind::Call { callee, arguments } = &term.kind
            && let Target::Builtin(name) = &callee.target
            && name.starts_with("is_")
        {
            found.extend(arguments);
        }
    });
    found
}

/// The path that `object.get` looks up in the input.
fn looked_up(tree: &Tree, denial: &Denial<'_>, term: &Term) -> Option<ReadPath> {
    let TermKind::Call { callee, arguments } = &term.kind else { return None };
    let (Target::Builtin(name), [base, key, ..]) = (&callee.target, arguments.as_slice()) else {
        return None;
    };
    if name != "object.get" {
        return None;
    }
    let keys =
        if let TermKind::Array(keys) = &key.kind { keys.as_slice() } else { std::slice::from_ref(key) };
    let mut path = reads(tree, &denial.locals, base).is?;
    path.extend(keys.iter().map(|key| match key.constant_key() {
        Some(key) => Segment::Key(key.to_owned()),
        None => Segment::Any,
    }));
    Some(path)
}

/// The built-in that tells whether something can be compared with what it is compared with.
fn wanted_type(left: &Term, right: &Term) -> &'static str {
    let is_text = |term: &Term| term.constant_key().is_some();
    if is_text(left) || is_text(right) { "is_string" } else { "is_number" }
}
