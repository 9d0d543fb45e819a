//! The call graph: which rules a rule may evaluate, recursion, and how deep a chain gets.
//!
//! The interpreter recurses on the stack of the worker that evaluates. A recursive rule would
//! abort the process, and so would a long chain; both are refused here, before anything runs.

use std::collections::BTreeSet;

use super::{
    fault::Fault,
    tree::{
        Body, Path, Rule, RuleId, Statement, StatementKind, Target, Term, TermKind, Tree, WithTarget,
        walk_own, walk_rule, walk_statements,
    },
};

/// Stack a chain of rules may take. Workers have 2 MiB, and something else stands on it already.
const STACK_BYTES_MAX: usize = 1 << 20;
/// Stack of one rule or function in a chain, without what is nested in it (measured, rounded up).
pub(crate) const RULE_BYTES: usize = 6 << 10;
/// Stack of one nested term or body inside a rule (measured, rounded up).
pub(crate) const NESTING_BYTES: usize = 3 << 10;

/// What each rule may evaluate next, by rule.
#[derive(Debug)]
pub(crate) struct CallGraph {
    next: Vec<BTreeSet<RuleId>>,
}

impl CallGraph {
    pub(crate) fn new(tree: &Tree) -> Self {
        Self { next: (0..tree.rules.len()).map(|id| edges(tree, id)).collect() }
    }

    fn next(&self, id: RuleId) -> &BTreeSet<RuleId> {
        static NONE: BTreeSet<RuleId> = BTreeSet::new();
        self.next.get(id).unwrap_or(&NONE)
    }

    /// All rules that evaluating some rules may evaluate, those themselves included.
    pub(crate) fn reachable(&self, from: impl IntoIterator<Item = RuleId>) -> BTreeSet<RuleId> {
        let mut open: Vec<RuleId> = from.into_iter().collect();
        let mut reached = BTreeSet::new();
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                open.extend(self.next(id));
            }
        }
        reached
    }

    /// Faults for recursion and for chains that are too deep for a worker's stack.
    pub(crate) fn check(&self, tree: &Tree) -> Vec<Fault> {
        let mut search =
            Search { graph: self, tree, state: vec![State::New; self.next.len()], faults: Vec::new() };
        for id in 0..self.next.len() {
            search.visit(id);
        }
        search.faults
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    /// Stack the rule and all below it take.
    Done(usize),
}

struct Search<'a> {
    graph: &'a CallGraph,
    tree: &'a Tree,
    state: Vec<State>,
    faults: Vec<Fault>,
}

impl Search<'_> {
    fn state(&self, id: RuleId) -> State {
        self.state.get(id).copied().unwrap_or(State::Done(0))
    }

    fn set(&mut self, id: RuleId, state: State) {
        if let Some(slot) = self.state.get_mut(id) {
            *slot = state;
        }
    }

    // Depth first with a stack of our own: a chain of rules must not overflow the checker either.
    fn visit(&mut self, root: RuleId) {
        if self.state(root) != State::New {
            return;
        }
        let mut path = vec![(root, self.graph.next(root).iter())];
        self.set(root, State::Open);
        while let Some((id, rest)) = path.last_mut() {
            let id = *id;
            let Some(next) = rest.next().copied() else {
                path.pop();
                self.close(id);
                continue;
            };
            match self.state(next) {
                State::Done(_) => {}
                State::New => {
                    self.set(next, State::Open);
                    path.push((next, self.graph.next(next).iter()));
                }
                State::Open => {
                    let cycle: Vec<RuleId> =
                        path.iter().map(|(id, _)| *id).skip_while(|id| *id != next).collect();
                    self.report_cycle(&cycle);
                }
            }
        }
    }

    fn close(&mut self, id: RuleId) {
        let below = self.graph.next(id).iter().map(|next| match self.state(*next) {
            State::Done(bytes) => bytes,
            State::New | State::Open => 0,
        });
        let below = below.max().unwrap_or(0);
        let own = RULE_BYTES + NESTING_BYTES * nesting_of(self.tree, id);
        let bytes = below + own;
        // Only the first rule that is too much is reported, not all that lead to it.
        if bytes > STACK_BYTES_MAX
            && below <= STACK_BYTES_MAX
            && let Some(rule) = self.tree.rule(id)
        {
            let place = self.tree.place(rule.module, rule.extent.start);
            let message =
                format!("rule `{}` heads a chain of rules that is too deep to evaluate", rule.name());
            let hint = "replace the chain by a table in data and one rule that looks things up in it";
            self.faults.push(Fault::new(place, "chain_too_deep", message).hint(hint));
        }
        self.set(id, State::Done(bytes));
    }

    fn report_cycle(&mut self, cycle: &[RuleId]) {
        let names: Vec<String> = cycle.iter().filter_map(|id| self.tree.rule(*id)).map(Rule::name).collect();
        let Some((rule, first)) = cycle.first().and_then(|id| self.tree.rule(*id)).zip(names.first()) else {
            return;
        };
        let shown: Vec<&str> = names.iter().take(8).chain([first]).map(String::as_str).collect();
        let place = self.tree.place(rule.module, rule.extent.start);
        self.faults.push(
            Fault::new(place, "recursion", format!("rule `{first}` is recursive: {}", shown.join(" -> ")))
                .hint("a rule may not depend on itself; for graphs use `graph.reachable`"),
        );
    }
}

fn edges(tree: &Tree, id: RuleId) -> BTreeSet<RuleId> {
    let mut next = BTreeSet::new();
    let Some(rule) = tree.rule(id) else { return next };
    let mut functions: Vec<&Path> = Vec::new();
    walk_rule(rule, &mut |term| {
        if let Some(steps) = term.data_steps() {
            next.extend(values(tree, &data_path(steps)));
        }
        if let TermKind::Call { callee, .. } = &term.kind
            && let Target::Function(path) = &callee.target
        {
            functions.push(path);
        }
    });
    walk_statements(rule, &mut |statement| {
        for with in &statement.withs {
            if let WithTarget::Function { replacement: Some(replacement), .. } = &with.target
                && let Target::Function(path) = &replacement.target
            {
                functions.push(path);
            }
        }
    });
    for path in functions {
        next.extend(tree.functions_at(path).map(|(id, _)| id));
    }
    next
}

/// The rules whose value a read of a data path may evaluate; functions are not values.
pub(crate) fn values(tree: &Tree, path: &[Option<String>]) -> Vec<RuleId> {
    let touched = tree.rules_touched(path);
    touched.into_iter().filter(|id| tree.rule(*id).is_some_and(|rule| !rule.is_function())).collect()
}

/// The keys of a reference's steps, unknown where they are not constant strings.
pub(crate) fn data_path(steps: &[Term]) -> Vec<Option<String>> {
    steps
        .iter()
        .map(|step| {
            // No rule has a number for a name, so this matches none.
            let number = if let TermKind::Scalar(key) = &step.kind { Some(format!("\0{key}")) } else { None };
            step.constant_key().map(str::to_owned).or(number)
        })
        .collect()
}

/// The deepest nesting of terms and bodies in a rule.
fn nesting_of(tree: &Tree, id: RuleId) -> usize {
    let Some(rule) = tree.rule(id) else { return 0 };
    let heads = rule.value.iter().chain(&rule.keys).map(depth_of_term);
    let bodies = rule
        .branches
        .iter()
        .flat_map(|branch| branch.value.iter().map(depth_of_term).chain([depth_of_body(&branch.body)]));
    heads.chain(bodies).max().unwrap_or(0)
}

fn depth_of_body(body: &Body) -> usize {
    let depths = body.statements.iter().map(|statement| {
        let own = statement.terms().into_iter().map(depth_of_term).max().unwrap_or(0);
        match &statement.kind {
            StatementKind::Every { body, .. } => own.max(depth_of_body(body)),
            StatementKind::Declare(_)
            | StatementKind::SomeIn { .. }
            | StatementKind::Holds(_)
            | StatementKind::Not(_) => own,
        }
    });
    // A statement that loops runs the rest of its body from inside the loop.
    depths.max().unwrap_or(0) + body.statements.iter().map(loops_in).sum::<usize>() + 1
}

fn loops_in(statement: &Statement) -> usize {
    let mut loops = usize::from(matches!(statement.kind, StatementKind::SomeIn { .. }));
    for term in statement.terms() {
        walk_own(term, &mut |term| {
            if let TermKind::Reference { steps, .. } = &term.kind {
                let open = |step: &&Term| matches!(step.kind, TermKind::Local(_) | TermKind::Wildcard);
                loops += steps.iter().filter(open).count();
            } else if let TermKind::Call { callee, .. } = &term.kind {
                loops += usize::from(callee.target == Target::Builtin("walk".to_owned()));
            }
        });
    }
    loops
}

fn depth_of_term(term: &Term) -> usize {
    let below = term.children().into_iter().map(depth_of_term).max().unwrap_or(0);
    let body = if let TermKind::Comprehension { body, .. } = &term.kind { depth_of_body(body) } else { 0 };
    below.max(body) + 1
}
