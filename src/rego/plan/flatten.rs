//! A body of the tree to a list of goals: nested calls and comprehensions become goals of their
//! own in front of what uses them, and names become variables. OPA's compiler does the same.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::reason::Reason;
use crate::rego::{
    builtin::{self, Known},
    tree::{
        Body, Callee, Collection, DocumentPath, Operator, Path, Statement, StatementKind, Target, Term,
        TermKind, Tree, With, WithTarget,
    },
};

/// A variable of a rule: also its register.
pub(super) type Var = u16;

/// A term without calls and comprehensions in it.
#[derive(Debug, Clone)]
pub(super) enum Atom {
    Constant(Value),
    Var(Var),
    Reference { root: Root, steps: Vec<Atom> },
    Array(Vec<Atom>),
    Set(Vec<Atom>),
    Object(Vec<(Atom, Atom)>),
}

#[derive(Debug, Clone)]
pub(super) enum Root {
    Input,
    Data,
    Atom(Box<Atom>),
}

/// What a body has to fulfil, in the order of the text.
#[derive(Debug)]
pub(super) struct Goal {
    pub(super) kind: GoalKind,
    /// Index into the `with`s of the body; goals of one statement share one.
    pub(super) withs: Option<usize>,
    /// Where in the text it is.
    pub(super) offset: usize,
}

#[derive(Debug)]
pub(super) enum GoalKind {
    Holds(Atom),
    Unify(Atom, Atom),
    Call { function: Function, arguments: Vec<Atom>, result: Option<Atom> },
    Collect { makes: Collection, heads: Vec<Atom>, body: Goals, result: Var },
    Not(Box<GoalKind>),
    Every { key: Option<Var>, value: Var, domain: Atom, body: Goals },
}

#[derive(Debug, Clone)]
pub(super) enum Function {
    Operator(Operator),
    Member,
    MemberAt,
    Builtin(String),
    Rule(Path),
}

/// A body's goals, and the `with`s of its statements.
#[derive(Debug, Default)]
pub(super) struct Goals {
    pub(super) goals: Vec<Goal>,
    pub(super) withs: Vec<Vec<FlatWith>>,
}

#[derive(Debug)]
pub(super) enum FlatWith {
    Document { path: DocumentPath, value: Atom },
    Function { mocked: Target, by: FlatReplacement },
}

#[derive(Debug)]
pub(super) enum FlatReplacement {
    Value(Atom),
    Function(Target),
}

/// Why a rule cannot be planned, and where.
pub(super) type Refused = (usize, Reason);

pub(super) struct Flattener<'t> {
    tree: &'t Tree,
    scopes: Vec<Scope>,
    next: Var,
    /// How often each variable is named; once means that nothing reads it.
    pub(super) uses: BTreeMap<Var, usize>,
}

#[derive(Debug, Default)]
struct Scope {
    names: BTreeMap<String, Var>,
    /// Declared further down: not to be named yet.
    pending: BTreeSet<String>,
}

impl<'t> Flattener<'t> {
    /// Starts with the arguments of a function in the first registers.
    pub(super) fn new(tree: &'t Tree, arguments: usize) -> Result<Self, Refused> {
        let next = Var::try_from(arguments).map_err(|_| (0, Reason::TooLarge))?;
        let scopes = vec![Scope::default()];
        Ok(Self { tree, scopes, next, uses: BTreeMap::new() })
    }

    /// Variables used so far.
    pub(super) fn frame(&self) -> usize {
        usize::from(self.next)
    }

    fn fresh(&mut self) -> Result<Var, Refused> {
        let var = self.next;
        // The upper half is for what steps need between variables.
        if var >= Var::MAX / 2 {
            return Err((0, Reason::TooLarge));
        }
        self.next += 1;
        Ok(var)
    }

    fn declare(&mut self, name: &str) -> Result<(), Refused> {
        let var = self.fresh()?;
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name.to_owned(), var);
        }
        Ok(())
    }

    fn lookup(&mut self, name: &str, offset: usize) -> Result<Var, Refused> {
        for scope in self.scopes.iter().rev() {
            if let Some(var) = scope.names.get(name).copied() {
                if scope.pending.contains(name) {
                    return Err((offset, Reason::UsedBeforeDeclared(name.to_owned())));
                }
                *self.uses.entry(var).or_default() += 1;
                return Ok(var);
            }
        }
        Err((offset, Reason::Unsafe(name.to_owned())))
    }

    /// Declares the names of argument patterns and flattens those.
    pub(super) fn arguments(&mut self, arguments: &[Term], goals: &mut Goals) -> Result<Vec<Atom>, Refused> {
        for argument in arguments {
            for name in pattern_names(argument) {
                let known = self.scopes.last().is_some_and(|scope| scope.names.contains_key(&name));
                if !known {
                    self.declare(&name)?;
                }
            }
        }
        arguments.iter().map(|argument| self.atom(argument, goals, None)).collect()
    }

    /// Opens the scope of a body; `heads` are the terms it gives its variables to.
    pub(super) fn open(&mut self, body: &Body, heads: &[&Term]) -> Result<(), Refused> {
        let mut scope = Scope::default();
        for statement in &body.statements {
            for name in declared_names(statement) {
                if !scope.pending.insert(name.clone()) {
                    return Err((statement.extent.start, Reason::DeclaredTwice(name)));
                }
            }
        }
        let arguments = self.scopes.len() == 1;
        for name in &scope.pending {
            // A name that hides an argument is refused by OPA.
            if arguments && self.scopes.first().is_some_and(|outer| outer.names.contains_key(name)) {
                return Err((body.extent.start, Reason::DeclaredTwice(name.clone())));
            }
        }
        let mut names = scope.pending.clone();
        for statement in &body.statements {
            for term in statement.terms() {
                own_names(term, &mut names);
            }
        }
        for head in heads {
            own_names(head, &mut names);
        }
        for name in names {
            let outer = self.scopes.iter().any(|outer| outer.names.contains_key(&name));
            if scope.pending.contains(&name) || !outer {
                scope.names.insert(name, self.fresh()?);
            }
        }
        self.scopes.push(scope);
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    fn declared(&mut self, names: &[String]) {
        if let Some(scope) = self.scopes.last_mut() {
            for name in names {
                scope.pending.remove(name);
            }
        }
    }

    /// The goals of an open body.
    pub(super) fn body(&mut self, body: &Body, goals: &mut Goals) -> Result<(), Refused> {
        body.statements.iter().try_for_each(|statement| self.statement(statement, goals))
    }

    fn statement(&mut self, statement: &Statement, goals: &mut Goals) -> Result<(), Refused> {
        let offset = statement.extent.start;
        let withs = self.withs(&statement.withs, goals)?;
        let kind = match &statement.kind {
            StatementKind::Declare(names) => {
                self.declared(names);
                return Ok(());
            }
            StatementKind::SomeIn { key, value, collection } => {
                let collection = self.atom(collection, goals, withs)?;
                self.declared(&declared_names(statement));
                let key = match key {
                    Some(key) => self.atom(key, goals, withs)?,
                    None => Atom::Var(self.fresh()?),
                };
                let value = self.atom(value, goals, withs)?;
                GoalKind::Unify(value, below(collection, key))
            }
            StatementKind::Holds(term) => self.condition(term, goals, withs)?,
            StatementKind::Not(term) => GoalKind::Not(Box::new(self.condition(term, goals, withs)?)),
            StatementKind::Every { key, value, domain, body } => {
                let domain = self.atom(domain, goals, withs)?;
                self.scopes.push(Scope::default());
                key.iter().chain([value]).try_for_each(|name| self.declare(name))?;
                let key = key.as_deref().and_then(|key| self.named(key));
                let value = self.named(value).ok_or((offset, Reason::TooLarge))?;
                self.open(body, &[])?;
                let mut inner = Goals::default();
                self.body(body, &mut inner)?;
                self.close();
                self.close();
                GoalKind::Every { key, value, domain, body: inner }
            }
        };
        goals.goals.push(Goal { kind, withs, offset });
        Ok(())
    }

    fn named(&self, name: &str) -> Option<Var> {
        self.scopes.last()?.names.get(name).copied()
    }

    fn withs(&mut self, withs: &[With], goals: &mut Goals) -> Result<Option<usize>, Refused> {
        if withs.is_empty() {
            return Ok(None);
        }
        let mut flat = Vec::new();
        for with in withs {
            flat.push(match &with.target {
                WithTarget::Document(path) => {
                    FlatWith::Document { path: path.clone(), value: self.atom(&with.value, goals, None)? }
                }
                WithTarget::Function { callee, replacement } => {
                    let by = match replacement {
                        Some(replacement) => FlatReplacement::Function(replacement.target.clone()),
                        None => FlatReplacement::Value(self.atom(&with.value, goals, None)?),
                    };
                    FlatWith::Function { mocked: callee.target.clone(), by }
                }
            });
        }
        goals.withs.push(flat);
        Ok(Some(goals.withs.len() - 1))
    }

    fn condition(
        &mut self,
        term: &Term,
        goals: &mut Goals,
        withs: Option<usize>,
    ) -> Result<GoalKind, Refused> {
        match &term.kind {
            TermKind::Unify { declares, left, right } => {
                let right = self.atom(right, goals, withs)?;
                if *declares {
                    self.declared(&pattern_names(left));
                }
                let left = self.atom(left, goals, withs)?;
                Ok(GoalKind::Unify(left, right))
            }
            TermKind::Infix { .. } | TermKind::Membership { .. } => {
                let (function, arguments) = self.operation(term, goals, withs)?;
                Ok(GoalKind::Call { function, arguments, result: None })
            }
            TermKind::Call { callee, arguments } => {
                let function = function(callee, term.extent.start)?;
                let mut arguments = self.atoms(arguments, goals, withs)?;
                let arity = self.arity(&function);
                let result = if arity.is_some_and(|arity| arguments.len() == arity + 1) {
                    arguments.pop()
                } else {
                    None
                };
                Ok(GoalKind::Call { function, arguments, result })
            }
            TermKind::Scalar(_)
            | TermKind::Wildcard
            | TermKind::Local(_)
            | TermKind::Input
            | TermKind::Data
            | TermKind::Reference { .. }
            | TermKind::Array(_)
            | TermKind::Set(_)
            | TermKind::Object(_)
            | TermKind::Comprehension { .. }
            | TermKind::Negative(_) => Ok(GoalKind::Holds(self.atom(term, goals, withs)?)),
        }
    }

    fn arity(&self, function: &Function) -> Option<usize> {
        match function {
            Function::Operator(_) | Function::Member | Function::MemberAt => None,
            Function::Builtin(name) => match builtin::find(name) {
                Known::Available { arity } => arity,
                Known::Outside(_) => Some(1),
                Known::Unknown => None,
            },
            Function::Rule(path) => self.tree.functions_at(path).find_map(|(_, rule)| {
                if let crate::rego::tree::Shape::Function(arguments) = &rule.shape {
                    Some(arguments.len())
                } else {
                    None
                }
            }),
        }
    }

    fn operation(
        &mut self,
        term: &Term,
        goals: &mut Goals,
        withs: Option<usize>,
    ) -> Result<(Function, Vec<Atom>), Refused> {
        if let TermKind::Infix { operator, left, right } = &term.kind {
            let arguments = vec![self.atom(left, goals, withs)?, self.atom(right, goals, withs)?];
            return Ok((Function::Operator(*operator), arguments));
        }
        let keyed = matches!(&term.kind, TermKind::Membership { key: Some(_), .. });
        let function = if keyed { Function::MemberAt } else { Function::Member };
        let arguments = term.children().into_iter().map(|child| self.atom(child, goals, withs));
        Ok((function, arguments.collect::<Result<_, _>>()?))
    }

    fn atoms(
        &mut self,
        terms: &[Term],
        goals: &mut Goals,
        withs: Option<usize>,
    ) -> Result<Vec<Atom>, Refused> {
        terms.iter().map(|term| self.atom(term, goals, withs)).collect()
    }

    /// A term as an atom, with goals in front of it for what has to be computed.
    pub(super) fn atom(
        &mut self,
        term: &Term,
        goals: &mut Goals,
        withs: Option<usize>,
    ) -> Result<Atom, Refused> {
        let offset = term.extent.start;
        let kind = match &term.kind {
            TermKind::Scalar(value) => return Ok(Atom::Constant(value.clone())),
            TermKind::Wildcard => return Ok(Atom::Var(self.fresh()?)),
            TermKind::Local(name) => return Ok(Atom::Var(self.lookup(name, offset)?)),
            TermKind::Input => return Ok(Atom::Reference { root: Root::Input, steps: Vec::new() }),
            TermKind::Data => return Ok(Atom::Reference { root: Root::Data, steps: Vec::new() }),
            TermKind::Reference { base, steps } => {
                let base = self.atom(base, goals, withs)?;
                let steps = self.atoms(steps, goals, withs)?;
                return Ok(steps.into_iter().fold(base, below));
            }
            TermKind::Array(items) => return Ok(Atom::Array(self.atoms(items, goals, withs)?)),
            TermKind::Set(items) => return Ok(Atom::Set(self.atoms(items, goals, withs)?)),
            TermKind::Object(fields) => {
                let mut flat = Vec::new();
                for (key, value) in fields {
                    flat.push((self.atom(key, goals, withs)?, self.atom(value, goals, withs)?));
                }
                return Ok(Atom::Object(flat));
            }
            TermKind::Unify { .. } => return Err((offset, Reason::UnificationAsValue)),
            TermKind::Call { callee, arguments } => {
                let function = function(callee, offset)?;
                let arguments = self.atoms(arguments, goals, withs)?;
                let result = self.fresh()?;
                return Ok(self.call(function, arguments, result, goals, withs, offset));
            }
            TermKind::Infix { .. } | TermKind::Membership { .. } => {
                let (function, arguments) = self.operation(term, goals, withs)?;
                let result = self.fresh()?;
                return Ok(self.call(function, arguments, result, goals, withs, offset));
            }
            TermKind::Negative(inner) => {
                let arguments = vec![Atom::Constant(Value::from(0)), self.atom(inner, goals, withs)?];
                let result = self.fresh()?;
                let function = Function::Operator(Operator::Subtract);
                return Ok(self.call(function, arguments, result, goals, withs, offset));
            }
            TermKind::Comprehension { makes, heads, body } => {
                self.open(body, &heads.iter().collect::<Vec<_>>())?;
                let mut inner = Goals::default();
                self.body(body, &mut inner)?;
                let heads = self.atoms(heads, &mut inner, None)?;
                self.close();
                let result = self.fresh()?;
                GoalKind::Collect { makes: *makes, heads, body: inner, result }
            }
        };
        let GoalKind::Collect { result, .. } = &kind else { return Err((offset, Reason::TooLarge)) };
        let result = Atom::Var(*result);
        goals.goals.push(Goal { kind, withs, offset });
        Ok(result)
    }

    fn call(
        &mut self,
        function: Function,
        arguments: Vec<Atom>,
        result: Var,
        goals: &mut Goals,
        withs: Option<usize>,
        offset: usize,
    ) -> Atom {
        *self.uses.entry(result).or_default() += 1;
        let kind = GoalKind::Call { function, arguments, result: Some(Atom::Var(result)) };
        goals.goals.push(Goal { kind, withs, offset });
        Atom::Var(result)
    }
}

/// A reference one step deeper.
fn below(base: Atom, step: Atom) -> Atom {
    match base {
        Atom::Reference { root, mut steps } => {
            steps.push(step);
            Atom::Reference { root, steps }
        }
        Atom::Constant(_) | Atom::Var(_) | Atom::Array(_) | Atom::Set(_) | Atom::Object(_) => {
            Atom::Reference { root: Root::Atom(Box::new(base)), steps: vec![step] }
        }
    }
}

fn function(callee: &Callee, offset: usize) -> Result<Function, Refused> {
    match &callee.target {
        Target::Builtin(name) if name == "print" => Err((offset, Reason::Prints)),
        Target::Builtin(name) => Ok(Function::Builtin(name.clone())),
        Target::Function(path) => Ok(Function::Rule(path.clone())),
        Target::Unknown => Err((offset, Reason::UnknownFunction)),
    }
}

/// The names a statement declares.
fn declared_names(statement: &Statement) -> Vec<String> {
    match &statement.kind {
        StatementKind::Declare(names) => names.clone(),
        StatementKind::SomeIn { key, value, .. } => {
            let mut names: Vec<String> = key.iter().chain([value]).flat_map(pattern_names).collect();
            names.sort();
            names.dedup();
            names
        }
        StatementKind::Holds(Term { kind: TermKind::Unify { declares: true, left, .. }, .. }) => {
            let mut names = pattern_names(left);
            names.sort();
            names.dedup();
            names
        }
        StatementKind::Holds(_) | StatementKind::Not(_) | StatementKind::Every { .. } => Vec::new(),
    }
}

/// The names a pattern declares: those of a set are only compared, and so are keys.
fn pattern_names(pattern: &Term) -> Vec<String> {
    match &pattern.kind {
        TermKind::Local(name) => vec![name.clone()],
        TermKind::Array(items) | TermKind::Set(items) => items.iter().flat_map(pattern_names).collect(),
        TermKind::Object(fields) => fields.iter().flat_map(|(_, value)| pattern_names(value)).collect(),
        TermKind::Scalar(_)
        | TermKind::Wildcard
        | TermKind::Input
        | TermKind::Data
        | TermKind::Reference { .. }
        | TermKind::Call { .. }
        | TermKind::Comprehension { .. }
        | TermKind::Infix { .. }
        | TermKind::Unify { .. }
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => Vec::new(),
    }
}

/// Names that stand in a term itself, not in the bodies of comprehensions.
fn own_names(term: &Term, names: &mut BTreeSet<String>) {
    if let TermKind::Local(name) = &term.kind {
        names.insert(name.clone());
    } else if !matches!(term.kind, TermKind::Comprehension { .. }) {
        for child in term.children() {
            own_names(child, names);
        }
    }
}
