//! Rewrites a module so that the interpreter answers what OPA answers.
//!
//! OPA's compiler takes what may be undefined out of `not`, out of membership tests and out of the
//! heads of partial rules, so that undefined makes the body undefined. The interpreter does not:
//! `not input.user in data.banned` holds there without a user. The same is done here on the text,
//! with every function call and `with` target spelt out in full, because the interpreter matches
//! mocks by spelling. No line is added or removed.

use std::collections::BTreeMap;

use super::{
    source::{Edit, Text},
    tree::{
        Body, Callee, Extent, ModuleId, Operator, Path, Rule, Shape, Statement, StatementKind, Target, Term,
        TermKind, Tree, With, WithTarget, dotted,
    },
};

/// The edits that normalise a module, sorted and disjoint.
pub(crate) fn normalise(tree: &Tree, module: ModuleId) -> Vec<Edit> {
    let Some(source) = tree.modules.get(module) else { return Vec::new() };
    let mut rewriter =
        Rewriter { text: &source.text, edits: BTreeMap::new(), braced: BTreeMap::new(), next: 0 };
    for extent in &source.bare_imports {
        rewriter.replace(*extent, " ".repeat(extent.range().len()));
    }
    // The interpreter evaluates all that an alias stands for before it looks for what follows.
    for (extent, full) in &source.aliases {
        rewriter.replace(*extent, full.clone());
    }
    for rule in tree.rules.iter().filter(|rule| rule.module == module) {
        rewriter.rule(rule);
    }
    rewriter
        .edits
        .into_iter()
        .map(|((start, end), (text, origin))| Edit { range: start..end, text, origin })
        .collect()
}

struct Rewriter<'a> {
    text: &'a Text,
    /// By start and end; an insertion has both the same and comes before a replacement there.
    edits: BTreeMap<(usize, usize), (String, usize)>,
    /// Bodies of one statement that need braces: their extents, and what else goes at their end.
    braced: BTreeMap<(usize, usize), String>,
    next: usize,
}

/// A name taken for a term, and the text the term had.
struct Hoisted {
    name: String,
    text: String,
    origin: usize,
}

impl Rewriter<'_> {
    fn rule(&mut self, rule: &Rule) {
        self.hoist_rule(rule);
        for ((start, end), tail) in std::mem::take(&mut self.braced) {
            self.prepend(start, "{ ");
            self.insert(end, &format!("{tail} }}"), start);
        }
    }

    fn hoist_rule(&mut self, rule: &Rule) {
        if let Shape::Function(arguments) = &rule.shape {
            arguments.iter().for_each(|argument| self.inside(argument));
        }
        let terms =
            rule.keys.iter().chain(&rule.value).chain(rule.branches.iter().filter_map(|b| b.value.as_ref()));
        terms.for_each(|term| self.inside(term));
        for branch in &rule.branches {
            self.body(&branch.body);
        }
        if rule.is_default {
            return;
        }
        let partial = matches!(rule.shape, Shape::Set) || !rule.keys.is_empty();
        let mut hoisted = Vec::new();
        for term in rule.keys.iter().chain(&rule.value) {
            if partial {
                self.hoist_operand(term, &mut hoisted);
            } else {
                self.hoist_memberships(term, &mut hoisted);
            }
        }
        // The head belongs to every body but those of an `else`.
        let heads: Vec<&Body> = rule.branches.iter().filter(|b| !b.is_else).map(|b| &b.body).collect();
        self.append(&heads, rule.head_end, &hoisted);
        for branch in rule.branches.iter().filter(|branch| branch.is_else) {
            let Some(value) = &branch.value else { continue };
            let mut hoisted = Vec::new();
            self.hoist_memberships(value, &mut hoisted);
            let bodies = [&branch.body];
            let has_body = !branch.body.statements.is_empty();
            self.append(if has_body { &bodies } else { &[] }, value.extent.end, &hoisted);
        }
    }

    /// Adds statements at the end of bodies, or a body after a head that has none.
    fn append(&mut self, bodies: &[&Body], head_end: usize, hoisted: &[Hoisted]) {
        if hoisted.is_empty() {
            return;
        }
        let text = statements(hoisted);
        let origin = hoisted.first().map_or(head_end, |hoisted| hoisted.origin);
        if bodies.is_empty() {
            self.insert(head_end, &format!(" if {{ {text} }}"), origin);
        }
        for body in bodies {
            if body.is_delimited {
                let end = body.extent.end.saturating_sub(1);
                self.insert(end, &format!("; {text} "), origin);
            } else {
                self.brace(body).push_str(&format!("; {text}"));
            }
        }
    }

    fn body(&mut self, body: &Body) {
        let mut wrapped = false;
        for statement in &body.statements {
            let hoisted = self.statement(statement);
            if hoisted.is_empty() {
                continue;
            }
            let withs: String = statement
                .withs
                .iter()
                .map(|With { extent, .. }| format!(" {}", self.rendered(*extent)))
                .collect();
            let text: String = hoisted
                .iter()
                .map(|Hoisted { name, text, .. }| format!("{name} := {text}{withs}; "))
                .collect();
            self.prepend(statement.extent.start, &text);
            wrapped = true;
        }
        if wrapped && !body.is_delimited {
            self.brace(body);
        }
    }

    fn brace(&mut self, body: &Body) -> &mut String {
        self.braced.entry((body.extent.start, body.extent.end)).or_default()
    }

    fn statement(&mut self, statement: &Statement) -> Vec<Hoisted> {
        let mut hoisted = Vec::new();
        for with in &statement.withs {
            if let WithTarget::Function { callee, replacement } = &with.target {
                self.qualify(callee);
                replacement.iter().for_each(|replacement| self.qualify(replacement));
            }
        }
        statement.terms().into_iter().for_each(|term| self.inside(term));
        match &statement.kind {
            StatementKind::Declare => {}
            StatementKind::SomeIn { collection, .. } => self.hoist_memberships(collection, &mut hoisted),
            StatementKind::Every { domain, body, .. } => {
                self.body(body);
                self.hoist_memberships(domain, &mut hoisted);
            }
            // An undefined membership fails the statement as a false one does; below it is another
            // matter.
            StatementKind::Holds(term) => match &term.kind {
                TermKind::Membership { .. } => {
                    term.children().into_iter().for_each(|child| self.hoist_memberships(child, &mut hoisted));
                }
                _ => self.hoist_memberships(term, &mut hoisted),
            },
            StatementKind::Not(term) => self.hoist_below_not(term, &mut hoisted),
        }
        hoisted
    }

    /// Rewrites calls and comprehensions inside a term.
    fn inside(&mut self, term: &Term) {
        if let TermKind::Call { callee, .. } = &term.kind {
            self.qualify(callee);
        }
        term.children().into_iter().for_each(|child| self.inside(child));
        if let TermKind::Comprehension { heads, body } = &term.kind {
            self.body(body);
            let mut hoisted = Vec::new();
            heads.iter().for_each(|head| self.hoist_memberships(head, &mut hoisted));
            self.append(&[body], body.extent.end, &hoisted);
        }
    }

    fn qualify(&mut self, callee: &Callee) {
        let Target::Function(path) = &callee.target else { return };
        let full = dotted(path);
        // The interpreter takes only names that begin so for full ones.
        if is_full_name(path, &full) && self.text.slice(callee.extent.range()) != full {
            self.replace(callee.extent, full);
        }
    }

    /// The operands of a negated term that OPA evaluates before it.
    fn hoist_below_not(&mut self, term: &Term, hoisted: &mut Vec<Hoisted>) {
        match &term.kind {
            TermKind::Call { .. }
            | TermKind::Membership { .. }
            | TermKind::Infix { operator: Operator::Other, .. } => {
                term.children().into_iter().for_each(|child| self.hoist_operand(child, hoisted));
            }
            // Equality unifies, and a reference in it may be undefined.
            TermKind::Infix { operator: Operator::Equal, left, right }
            | TermKind::Unify { left, right, .. } => {
                for side in [left, right] {
                    match &side.kind {
                        TermKind::Reference { .. } => self.hoist_below_not(side, hoisted),
                        _ => self.hoist_operand(side, hoisted),
                    }
                }
            }
            TermKind::Reference { base, steps } => {
                if matches!(base.kind, TermKind::Call { .. }) {
                    self.hoist_operand(base, hoisted);
                }
                steps.iter().for_each(|step| self.hoist_operand(step, hoisted));
            }
            TermKind::Array(_) | TermKind::Set(_) | TermKind::Object(_) | TermKind::Negative(_) => {
                term.children().into_iter().for_each(|child| self.hoist_operand(child, hoisted));
            }
            TermKind::Scalar(_)
            | TermKind::Wildcard
            | TermKind::Local(_)
            | TermKind::Input
            | TermKind::Data
            | TermKind::Comprehension { .. } => {}
        }
    }

    /// Takes out whatever may be undefined in a term.
    fn hoist_operand(&mut self, term: &Term, hoisted: &mut Vec<Hoisted>) {
        match &term.kind {
            TermKind::Reference { .. } | TermKind::Call { .. } | TermKind::Infix { .. } => {
                self.hoist_memberships(term, hoisted);
                self.hoist(term, hoisted);
            }
            TermKind::Membership { .. } => {
                self.hoist_memberships(term, hoisted);
                self.hoist(term, hoisted);
            }
            TermKind::Input => self.hoist(term, hoisted),
            TermKind::Array(_) | TermKind::Set(_) | TermKind::Object(_) | TermKind::Negative(_) => {
                term.children().into_iter().for_each(|child| self.hoist_operand(child, hoisted));
            }
            TermKind::Scalar(_)
            | TermKind::Wildcard
            | TermKind::Local(_)
            | TermKind::Data
            | TermKind::Unify { .. }
            | TermKind::Comprehension { .. } => {}
        }
    }

    /// Takes the operands of membership tests out of a term.
    fn hoist_memberships(&mut self, term: &Term, hoisted: &mut Vec<Hoisted>) {
        let operands = matches!(term.kind, TermKind::Membership { .. });
        for child in term.children() {
            if operands {
                self.hoist_operand(child, hoisted);
            } else {
                // A comprehension's heads belong to its own body.
                if !matches!(term.kind, TermKind::Comprehension { .. }) {
                    self.hoist_memberships(child, hoisted);
                }
            }
        }
    }

    fn hoist(&mut self, term: &Term, hoisted: &mut Vec<Hoisted>) {
        let name = format!("__postern_{}", self.next);
        self.next += 1;
        let text = self.rendered(term.extent);
        let lines = text.matches('\n').count();
        // Lines stay where they were, unless a comment or a raw string would swallow what follows.
        let (text, filler) = if text.contains(['#', '`']) {
            (text, String::new())
        } else {
            (text.replace('\n', " "), "\n".repeat(lines))
        };
        self.replace(term.extent, format!("{name}{filler}"));
        hoisted.push(Hoisted { name, text, origin: term.extent.start });
    }

    fn rendered(&self, extent: Extent) -> String {
        let mut out = String::new();
        let mut at = extent.start;
        for ((start, end), (text, _)) in self.edits.range((extent.start, 0)..(extent.end, usize::MAX)) {
            // An insertion at either edge belongs to what stands around the term.
            if *end > extent.end || (start == end && (*start == extent.start || *start == extent.end)) {
                continue;
            }
            out.push_str(self.text.slice(at..*start));
            out.push_str(text);
            at = *end;
        }
        out.push_str(self.text.slice(at..extent.end));
        out
    }

    fn replace(&mut self, extent: Extent, text: String) {
        let inner: Vec<(usize, usize)> = self
            .edits
            .range((extent.start, extent.start)..=(extent.end, extent.end))
            .map(|(at, _)| *at)
            .filter(|(start, end)| {
                *end <= extent.end && !(start == end && (*start == extent.start || *start == extent.end))
            })
            .collect();
        for at in inner {
            self.edits.remove(&at);
        }
        self.edits.insert((extent.start, extent.end), (text, extent.start));
    }

    fn insert(&mut self, at: usize, text: &str, origin: usize) {
        self.edits.entry((at, at)).or_insert_with(|| (String::new(), origin)).0.push_str(text);
    }

    fn prepend(&mut self, at: usize, text: &str) {
        self.edits.entry((at, at)).or_insert_with(|| (String::new(), at)).0.insert_str(0, text);
    }
}

fn statements(hoisted: &[Hoisted]) -> String {
    let statements: Vec<String> =
        hoisted.iter().map(|Hoisted { name, text, .. }| format!("{name} := {text}")).collect();
    statements.join("; ")
}

fn is_full_name(path: &Path, full: &str) -> bool {
    !path.is_empty() && full.starts_with("data.")
}
