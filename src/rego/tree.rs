//! The resolved syntax tree: what every analysis and the rewriter work on.
//!
//! Names are already decided here (a local, `input`, a data path, a function), extents are exact
//! byte ranges of the original text, and nothing of regorus's own tree is left.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::{fault::Place, source::Text};

/// Index of a module in [`Tree::modules`].
pub(crate) type ModuleId = usize;
/// Index of a rule in [`Tree::rules`].
pub(crate) type RuleId = usize;
/// A path below `data`, one string a component.
pub(crate) type Path = Vec<String>;

/// A byte range of a module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Extent {
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.start..self.end
    }
}

/// All modules of a program, resolved.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) modules: Vec<ModuleTree>,
    pub(crate) rules: Vec<Rule>,
    by_path: BTreeMap<Path, Vec<RuleId>>,
}

/// One file: its text and its package.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    pub(crate) text: Text,
    pub(crate) package: Path,
    pub(crate) package_extent: Extent,
    pub(crate) imports: Vec<Extent>,
    /// The names that imports of documents give, and where each import stands.
    pub(crate) import_names: Vec<(String, Extent)>,
    /// Where an import's alias stands for its path, and the path in full.
    pub(crate) aliases: Vec<(Extent, String)>,
    /// `import input` and `import data`: they mean nothing, and the interpreter prints about them.
    pub(crate) bare_imports: Vec<Extent>,
}

/// One rule as written: all its bodies, under one head.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) module: ModuleId,
    /// Package and the constant part of the head: `data.a.b["c"]` is `[a, b, c]`.
    pub(crate) path: Path,
    /// What follows the constant part: `k` in `p[k] := v`.
    pub(crate) keys: Vec<Term>,
    /// Whether more follows the first key: `p[k].q[l]`.
    pub(crate) is_deep: bool,
    pub(crate) shape: Shape,
    pub(crate) is_default: bool,
    /// The head's value, or the element of a partial set; absent means `true`.
    pub(crate) value: Option<Term>,
    /// Bodies in order; none means the head holds unconditionally.
    pub(crate) branches: Vec<Branch>,
    pub(crate) extent: Extent,
    /// The end of the head: where a body would be added.
    pub(crate) head_end: usize,
    /// Whether its METADATA says `entrypoint: true`.
    pub(crate) is_entrypoint: bool,
    /// Set where the head begins with a keyword, which the interpreter cannot read.
    pub(crate) lift: Option<Lift>,
}

/// How a rule whose head begins with a keyword is written instead: `not.foo` of the package `a` is
/// the rule `foo` of the package `a.not`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lift {
    pub(crate) package: Path,
    /// The part of the head that goes into the package.
    pub(crate) cut: Extent,
}

/// What a rule makes.
#[derive(Debug)]
pub(crate) enum Shape {
    Value,
    Set,
    Function(Vec<Term>),
}

/// One body of a rule, with the value an `else` gives.
#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) is_else: bool,
    pub(crate) value: Option<Term>,
    pub(crate) body: Body,
}

/// A conjunction of statements.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) statements: Vec<Statement>,
    /// From the brace (or the `|` of a comprehension) to the closing delimiter.
    pub(crate) extent: Extent,
    /// Whether the body stands in its own braces, comprehension delimiters included.
    pub(crate) is_delimited: bool,
}

#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) kind: StatementKind,
    pub(crate) withs: Vec<With>,
    pub(crate) extent: Extent,
}

#[derive(Debug)]
pub(crate) enum StatementKind {
    /// `some x, y`.
    Declare(Vec<String>),
    SomeIn {
        key: Option<Term>,
        value: Term,
        collection: Term,
    },
    Holds(Term),
    Not(Term),
    Every {
        key: Option<String>,
        value: String,
        domain: Term,
        body: Body,
    },
}

/// A `with` modifier.
#[derive(Debug)]
pub(crate) struct With {
    pub(crate) target: WithTarget,
    pub(crate) value: Term,
    pub(crate) extent: Extent,
}

#[derive(Debug)]
pub(crate) enum WithTarget {
    /// `input`, `data`, or a path below one of them.
    Document(DocumentPath),
    /// A function replaced by another one, or by a value.
    Function { callee: Callee, replacement: Option<Callee> },
}

/// A document a `with` replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DocumentPath {
    /// Below `input`, rather than below `data`.
    pub(crate) of_input: bool,
    pub(crate) path: Path,
}

/// The name in call position, resolved.
#[derive(Debug, Clone)]
pub(crate) struct Callee {
    pub(crate) target: Target,
    /// The whole dotted name.
    pub(crate) extent: Extent,
}

/// What a call runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Builtin(String),
    Function(Path),
    /// Refused already; kept so that the rest of the tree can be analysed.
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Term {
    pub(crate) kind: TermKind,
    pub(crate) extent: Extent,
}

#[derive(Debug)]
pub(crate) enum TermKind {
    Scalar(Value),
    Wildcard,
    Local(String),
    Input,
    Data,
    /// A base and what is looked up in it; a rule's name is a path below `Data`.
    Reference {
        base: Box<Term>,
        steps: Vec<Term>,
    },
    Call {
        callee: Callee,
        arguments: Vec<Term>,
    },
    Array(Vec<Term>),
    Set(Vec<Term>),
    Object(Vec<(Term, Term)>),
    Comprehension {
        makes: Collection,
        heads: Vec<Term>,
        body: Body,
    },
    Infix {
        operator: Operator,
        left: Box<Term>,
        right: Box<Term>,
    },
    /// `=`, or `:=` where it declares what stands left.
    Unify {
        declares: bool,
        left: Box<Term>,
        right: Box<Term>,
    },
    Membership {
        key: Option<Box<Term>>,
        value: Box<Term>,
        collection: Box<Term>,
    },
    Negative(Box<Term>),
}

/// What a comprehension makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collection {
    Array,
    Set,
    Object,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Intersection,
    Union,
}

// === impl Tree ===

impl Tree {
    pub(crate) fn new(modules: Vec<ModuleTree>, rules: Vec<Rule>) -> Self {
        let mut by_path: BTreeMap<Path, Vec<RuleId>> = BTreeMap::new();
        for (id, rule) in rules.iter().enumerate() {
            by_path.entry(rule.path.clone()).or_default().push(id);
        }
        Self { modules, rules, by_path }
    }

    pub(crate) fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(id)
    }

    pub(crate) fn place(&self, module: ModuleId, offset: usize) -> Place {
        self.modules.get(module).map_or_else(|| Place::whole("?"), |module| module.text.place(offset))
    }

    pub(crate) fn slice(&self, module: ModuleId, extent: Extent) -> &str {
        self.modules.get(module).map_or("", |module| module.text.slice(extent.range()))
    }

    /// Rules whose constant path is exactly `path`.
    pub(crate) fn rules_at(&self, path: &[String]) -> &[RuleId] {
        self.by_path.get(path).map_or(&[], Vec::as_slice)
    }

    /// Every rule a read of `path` may evaluate: those at a prefix of it, at it, and below it.
    /// `None` components are unknown keys.
    pub(crate) fn rules_touched(&self, path: &[Option<String>]) -> Vec<RuleId> {
        let constant: Path = path.iter().map_while(Clone::clone).collect();
        let mut touched = BTreeSet::new();
        for length in 1..=constant.len() {
            touched.extend(constant.get(..length).into_iter().flat_map(|prefix| self.rules_at(prefix)));
        }
        let below = self.by_path.range(constant.clone()..).take_while(|(at, _)| at.starts_with(&constant));
        for (at, ids) in below {
            let compatible =
                at.iter().zip(path).all(|(have, want)| want.as_ref().is_none_or(|want| want == have));
            if compatible {
                touched.extend(ids);
            }
        }
        touched.into_iter().collect()
    }

    /// Function rules with exactly this path.
    pub(crate) fn functions_at(&self, path: &[String]) -> impl Iterator<Item = (RuleId, &Rule)> {
        self.rules_at(path).iter().filter_map(|id| self.rule(*id).map(|rule| (*id, rule)))
    }
}

// === impl Rule ===

impl Rule {
    /// The rule's name as a user writes it: `data.a.b`.
    pub(crate) fn name(&self) -> String {
        dotted(&self.path)
    }

    pub(crate) fn is_function(&self) -> bool {
        matches!(self.shape, Shape::Function(_))
    }

    /// Whether the rule looks something up in a literal that does not have it, as in `{"a": 1}.b`.
    /// OPA finds this when it compiles, and the rule never has a value.
    pub(crate) fn misses_constant(&self) -> bool {
        let mut misses = false;
        walk_rule(self, &mut |term| {
            if let TermKind::Reference { base, steps } = &term.kind {
                misses |= lacks(base, steps);
            }
        });
        misses
    }

    /// Arguments of a function that are no patterns: what is given has to equal them.
    pub(crate) fn computed_arguments(&self) -> impl Iterator<Item = &Term> {
        let arguments = if let Shape::Function(arguments) = &self.shape { arguments.as_slice() } else { &[] };
        arguments.iter().filter(|argument| argument.is_computed())
    }
}

/// Whether a literal lacks what the first constant steps look up in it.
fn lacks(base: &Term, steps: &[Term]) -> bool {
    let Some((step, rest)) = steps.split_first() else { return false };
    let TermKind::Scalar(key) = &step.kind else { return false };
    let found = match &base.kind {
        TermKind::Object(fields) => {
            let is_constant = |(key, _): &(Term, Term)| matches!(key.kind, TermKind::Scalar(_));
            if !fields.iter().all(is_constant) {
                return false;
            }
            let has = |field: &Term| matches!(&field.kind, TermKind::Scalar(name) if name == key);
            fields.iter().find(|(field, _)| has(field)).map(|(_, value)| value)
        }
        TermKind::Array(items) => {
            let index = key.as_i64().ok().and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| items.get(index))
        }
        TermKind::Scalar(_)
        | TermKind::Wildcard
        | TermKind::Local(_)
        | TermKind::Input
        | TermKind::Data
        | TermKind::Reference { .. }
        | TermKind::Call { .. }
        | TermKind::Set(_)
        | TermKind::Comprehension { .. }
        | TermKind::Infix { .. }
        | TermKind::Unify { .. }
        | TermKind::Membership { .. }
        | TermKind::Negative(_) => return false,
    };
    found.is_none_or(|value| lacks(value, rest))
}

// === impl Term ===

impl Term {
    /// Whether it has to be looked up or computed, rather than standing as it is written.
    pub(crate) fn is_computed(&self) -> bool {
        match &self.kind {
            TermKind::Reference { .. }
            | TermKind::Call { .. }
            | TermKind::Infix { .. }
            | TermKind::Unify { .. }
            | TermKind::Membership { .. }
            | TermKind::Negative(_) => true,
            TermKind::Scalar(_)
            | TermKind::Wildcard
            | TermKind::Local(_)
            | TermKind::Input
            | TermKind::Data
            | TermKind::Array(_)
            | TermKind::Set(_)
            | TermKind::Object(_)
            | TermKind::Comprehension { .. } => false,
        }
    }

    /// The constant key a reference step looks up, if it is one.
    pub(crate) fn constant_key(&self) -> Option<&str> {
        if let TermKind::Scalar(Value::String(key)) = &self.kind { Some(key) } else { None }
    }

    /// The value of a scalar literal.
    pub(crate) fn as_scalar(&self) -> Option<&Value> {
        if let TermKind::Scalar(value) = &self.kind { Some(value) } else { None }
    }

    /// Whether it is an array, a set or an object, written out.
    pub(crate) fn is_collection(&self) -> bool {
        matches!(self.kind, TermKind::Array(_) | TermKind::Set(_) | TermKind::Object(_))
    }

    /// The name of a local variable.
    pub(crate) fn as_local(&self) -> Option<&str> {
        if let TermKind::Local(name) = &self.kind { Some(name) } else { None }
    }

    /// The steps of a path below `input`; none of them for `input` itself.
    pub(crate) fn input_steps(&self) -> Option<Vec<&Term>> {
        if matches!(self.kind, TermKind::Input) {
            return Some(Vec::new());
        }
        let TermKind::Reference { base, steps } = &self.kind else { return None };
        matches!(base.kind, TermKind::Input).then(|| steps.iter().collect())
    }

    /// The steps of a path below `data`; none of them for `data` itself.
    pub(crate) fn data_steps(&self) -> Option<&[Term]> {
        if matches!(self.kind, TermKind::Data) {
            return Some(&[]);
        }
        let TermKind::Reference { base, steps } = &self.kind else { return None };
        matches!(base.kind, TermKind::Data).then_some(steps)
    }

    /// The terms directly inside this one: not comprehension bodies, and not the root of a
    /// reference, since `input.a` does not use `input`.
    pub(crate) fn children(&self) -> Vec<&Term> {
        match &self.kind {
            TermKind::Scalar(_)
            | TermKind::Wildcard
            | TermKind::Local(_)
            | TermKind::Input
            | TermKind::Data => Vec::new(),
            TermKind::Reference { base, steps } => {
                let root = matches!(base.kind, TermKind::Input | TermKind::Data);
                (!root).then_some(&**base).into_iter().chain(steps).collect()
            }
            TermKind::Call { arguments, .. } => arguments.iter().collect(),
            TermKind::Array(items) | TermKind::Set(items) => items.iter().collect(),
            TermKind::Object(fields) => fields.iter().flat_map(|(key, value)| [key, value]).collect(),
            TermKind::Comprehension { heads, .. } => heads.iter().collect(),
            TermKind::Infix { left, right, .. } | TermKind::Unify { left, right, .. } => {
                vec![&**left, &**right]
            }
            TermKind::Membership { key, value, collection } => {
                key.as_deref().into_iter().chain([&**value, &**collection]).collect()
            }
            TermKind::Negative(inner) => vec![&**inner],
        }
    }
}

// === impl Statement ===

impl Statement {
    /// The terms directly inside this statement, `with` values included, nested bodies left out.
    pub(crate) fn terms(&self) -> Vec<&Term> {
        let mut terms: Vec<&Term> = match &self.kind {
            StatementKind::Declare(_) => Vec::new(),
            StatementKind::SomeIn { key, value, collection } => {
                key.iter().chain([value, collection]).collect()
            }
            StatementKind::Holds(term) | StatementKind::Not(term) => vec![term],
            StatementKind::Every { domain, .. } => vec![domain],
        };
        terms.extend(self.withs.iter().map(|with| &with.value));
        terms
    }
}

/// Visits every term below `term`, parents first, and the bodies of its comprehensions.
pub(crate) fn walk_term<'tree>(term: &'tree Term, visit: &mut dyn FnMut(&'tree Term)) {
    visit(term);
    for child in term.children() {
        walk_term(child, visit);
    }
    if let TermKind::Comprehension { body, .. } = &term.kind {
        walk_body(body, visit);
    }
}

/// Visits every term of a body, nested bodies included.
pub(crate) fn walk_body<'tree>(body: &'tree Body, visit: &mut dyn FnMut(&'tree Term)) {
    for statement in &body.statements {
        for term in statement.terms() {
            walk_term(term, visit);
        }
        if let StatementKind::Every { body, .. } = &statement.kind {
            walk_body(body, visit);
        }
    }
}

/// Visits every statement of a rule, nested ones included.
pub(crate) fn walk_statements<'tree>(rule: &'tree Rule, visit: &mut dyn FnMut(&'tree Statement)) {
    for branch in &rule.branches {
        statements_of_body(&branch.body, visit);
        branch.value.iter().for_each(|term| statements_of_term(term, visit));
    }
    rule.value.iter().chain(&rule.keys).for_each(|term| statements_of_term(term, visit));
}

fn statements_of_body<'tree>(body: &'tree Body, visit: &mut dyn FnMut(&'tree Statement)) {
    for statement in &body.statements {
        visit(statement);
        statement.terms().into_iter().for_each(|term| statements_of_term(term, visit));
        if let StatementKind::Every { body, .. } = &statement.kind {
            statements_of_body(body, visit);
        }
    }
}

fn statements_of_term<'tree>(term: &'tree Term, visit: &mut dyn FnMut(&'tree Statement)) {
    walk_own(term, &mut |term| {
        if let TermKind::Comprehension { body, .. } = &term.kind {
            statements_of_body(body, visit);
        }
    });
}

/// Visits a term and those inside it, without entering comprehension bodies.
pub(crate) fn walk_own<'tree>(term: &'tree Term, visit: &mut dyn FnMut(&'tree Term)) {
    visit(term);
    for child in term.children() {
        walk_own(child, visit);
    }
}

/// Visits every term of a rule: arguments, keys, values and bodies.
pub(crate) fn walk_rule<'tree>(rule: &'tree Rule, visit: &mut dyn FnMut(&'tree Term)) {
    let arguments = if let Shape::Function(arguments) = &rule.shape { arguments.as_slice() } else { &[] };
    for term in arguments.iter().chain(&rule.keys).chain(&rule.value) {
        walk_term(term, visit);
    }
    for branch in &rule.branches {
        if let Some(value) = &branch.value {
            walk_term(value, visit);
        }
        walk_body(&branch.body, visit);
    }
}

/// `data` and the components, quoted in brackets where they are no identifiers.
pub(crate) fn dotted(path: &[String]) -> String {
    let mut out = String::from("data");
    for component in path {
        push_component(&mut out, component);
    }
    out
}

/// The components as a package or a function is written: `a.b["c d"]`.
pub(crate) fn written(path: &[String]) -> String {
    let mut out = String::new();
    for component in path {
        push_component(&mut out, component);
    }
    out.strip_prefix('.').map(str::to_owned).unwrap_or(out)
}

/// Appends `.name`, or `["odd name"]`.
pub(crate) fn push_component(out: &mut String, component: &str) {
    let identifier =
        component.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if identifier {
        out.push('.');
        out.push_str(component);
    } else {
        out.push('[');
        out.push_str(&serde_json::Value::from(component).to_string());
        out.push(']');
    }
}
