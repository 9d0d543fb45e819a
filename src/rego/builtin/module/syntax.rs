//! The syntax tree, OPA's order of its terms (sets and objects are sorted by it), and its JSON form.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use regorus::Value;

use super::lexer::Comment;
use crate::rego::builtin::Failure;

/// Deepest term: everything that walks the tree or the value made of it may recurse.
pub(super) const DEPTH_MAX: usize = 64;

/// A term, shared: the parser goes back and reads again what it has read.
pub(super) type Node = Rc<Term>;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Term {
    pub(super) kind: Kind,
    depth: usize,
}

/// The kinds of term, in OPA's order of them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Null,
    Boolean(bool),
    Number(Value),
    String(String),
    Template { parts: Vec<Part>, is_multi_line: bool },
    Var(String),
    Ref(Vec<Node>),
    Array(Vec<Node>),
    Object(Pairs),
    Set(BTreeSet<Node>),
    ArrayComprehension { term: Node, body: Vec<Expr> },
    ObjectComprehension { key: Node, value: Node, body: Vec<Expr> },
    SetComprehension { term: Node, body: Vec<Expr> },
    Call(Vec<Node>),
}

/// The fields of an object, sorted by key; a key that is written twice stays twice.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pairs(Vec<(Node, Node)>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Term(Node),
    Expr(Expr),
}

/// What an expression consists of, in OPA's order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Terms {
    Some(Vec<Node>),
    Term(Node),
    Call(Vec<Node>),
    Every { key: Option<Node>, value: Node, domain: Node, body: Vec<Expr> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expr {
    pub(super) terms: Terms,
    pub(super) is_negated: bool,
    /// Targets and values.
    pub(super) withs: Vec<(Node, Node)>,
}

#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) name: Option<String>,
    pub(super) reference: Vec<Node>,
    pub(super) args: Vec<Node>,
    pub(super) key: Option<Node>,
    pub(super) value: Option<Node>,
    pub(super) is_assigned: bool,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) head: Head,
    pub(super) body: Vec<Expr>,
    pub(super) is_default: bool,
    pub(super) otherwise: Option<Box<Rule>>,
}

#[derive(Debug)]
pub(super) struct Import {
    pub(super) path: Node,
    pub(super) alias: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) package: Vec<Node>,
    pub(super) imports: Vec<Import>,
    pub(super) rules: Vec<Rule>,
}

// === impl Term ===

impl Term {
    /// A term, refused where it is nested too deep.
    pub(super) fn node(kind: Kind) -> Result<Node, Failure> {
        let deepest = match &kind {
            Kind::Null | Kind::Boolean(_) | Kind::Number(_) | Kind::String(_) | Kind::Var(_) => 0,
            Kind::Template { parts, .. } => parts.iter().map(Part::depth).max().unwrap_or(0),
            Kind::Ref(items) | Kind::Array(items) | Kind::Call(items) => deepest(items),
            Kind::Object(Pairs(fields)) => {
                fields.iter().map(|(key, value)| key.depth.max(value.depth)).max().unwrap_or(0)
            }
            Kind::Set(items) => items.iter().map(|item| item.depth).max().unwrap_or(0),
            Kind::ArrayComprehension { term, body } | Kind::SetComprehension { term, body } => {
                term.depth.max(body_depth(body))
            }
            Kind::ObjectComprehension { key, value, body } => {
                key.depth.max(value.depth).max(body_depth(body))
            }
        };
        if deepest >= DEPTH_MAX {
            return Err(too_deep());
        }
        Ok(Rc::new(Self { kind, depth: deepest + 1 }))
    }

    pub(super) fn as_var(&self) -> Option<&str> {
        if let Kind::Var(name) = &self.kind { Some(name) } else { None }
    }

    /// OPA's name of the kind.
    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Boolean(_) => "boolean",
            Kind::Number(_) => "number",
            Kind::String(_) => "string",
            Kind::Template { .. } => "templatestring",
            Kind::Var(_) => "var",
            Kind::Ref(_) => "ref",
            Kind::Array(_) => "array",
            Kind::Object(_) => "object",
            Kind::Set(_) => "set",
            Kind::ArrayComprehension { .. } => "arraycomprehension",
            Kind::ObjectComprehension { .. } => "objectcomprehension",
            Kind::SetComprehension { .. } => "setcomprehension",
            Kind::Call(_) => "call",
        }
    }

    /// Whether no variable is in it; what leads a reference is none.
    pub(super) fn is_ground(&self) -> bool {
        match &self.kind {
            Kind::Null | Kind::Boolean(_) | Kind::Number(_) | Kind::String(_) => true,
            Kind::Var(_)
            | Kind::Template { .. }
            | Kind::ArrayComprehension { .. }
            | Kind::ObjectComprehension { .. }
            | Kind::SetComprehension { .. } => false,
            Kind::Ref(steps) => is_ground(steps),
            Kind::Array(items) | Kind::Call(items) => items.iter().all(|item| item.is_ground()),
            Kind::Set(items) => items.iter().all(|item| item.is_ground()),
            Kind::Object(Pairs(fields)) => {
                fields.iter().all(|(key, value)| key.is_ground() && value.is_ground())
            }
        }
    }

    /// The kind of what a default rule's value may not hold, where it holds one.
    pub(super) fn open_part(&self) -> Option<&'static str> {
        match &self.kind {
            Kind::Var(_) | Kind::Ref(_) | Kind::Call(_) => Some(self.name()),
            Kind::Null
            | Kind::Boolean(_)
            | Kind::Number(_)
            | Kind::String(_)
            | Kind::ArrayComprehension { .. }
            | Kind::ObjectComprehension { .. }
            | Kind::SetComprehension { .. } => None,
            Kind::Template { parts, .. } => parts.iter().find_map(|part| match part {
                Part::Term(term) => term.open_part(),
                Part::Expr(_) => Some("var"),
            }),
            Kind::Array(items) => items.iter().find_map(|item| item.open_part()),
            Kind::Set(items) => items.iter().find_map(|item| item.open_part()),
            Kind::Object(Pairs(fields)) => {
                fields.iter().find_map(|(key, value)| key.open_part().or_else(|| value.open_part()))
            }
        }
    }
}

/// Whether no step of a reference is a variable.
pub(super) fn is_ground(steps: &[Node]) -> bool {
    steps.iter().skip(1).all(|step| step.is_ground())
}

/// The refusal of what is nested too deep.
pub(super) fn too_deep() -> Failure {
    Failure::Refused(format!("module is nested deeper than {DEPTH_MAX} terms"))
}

fn deepest(items: &[Node]) -> usize {
    items.iter().map(|item| item.depth).max().unwrap_or(0)
}

fn body_depth(body: &[Expr]) -> usize {
    body.iter().map(Expr::depth).max().unwrap_or(0)
}

// === impl Pairs ===

impl Pairs {
    pub(super) fn new(mut fields: Vec<(Node, Node)>) -> Self {
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        Self(fields)
    }
}

// === impl Expr ===

impl Expr {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, is_negated: false, withs: Vec::new() }
    }

    /// The body of what is written without one.
    pub(super) fn always() -> Result<Vec<Self>, Failure> {
        Ok(vec![Self::new(Terms::Term(Term::node(Kind::Boolean(true))?))])
    }

    fn kind(&self) -> u8 {
        match self.terms {
            Terms::Some(_) => 0,
            Terms::Term(_) => 1,
            Terms::Call(_) => 2,
            Terms::Every { .. } => 3,
        }
    }

    fn depth(&self) -> usize {
        let own = match &self.terms {
            Terms::Some(items) | Terms::Call(items) => deepest(items),
            Terms::Term(term) => term.depth,
            Terms::Every { value, domain, body, .. } => value.depth.max(domain.depth).max(body_depth(body)),
        };
        let withs = self.withs.iter().map(|(target, value)| target.depth.max(value.depth)).max();
        own.max(withs.unwrap_or(0)) + 1
    }
}

/// The negated come after the others of their kind.
impl Ord for Expr {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.kind(), self.is_negated, &self.terms, &self.withs).cmp(&(
            other.kind(),
            other.is_negated,
            &other.terms,
            &other.withs,
        ))
    }
}

impl PartialOrd for Expr {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Part {
    fn depth(&self) -> usize {
        match self {
            Self::Term(term) => term.depth,
            Self::Expr(expr) => expr.depth(),
        }
    }
}

// === JSON ===

/// An object of what is there.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let present = fields.into_iter().filter_map(|(name, value)| Some((Value::from(name), value?)));
    Value::from(present.collect::<BTreeMap<_, _>>())
}

fn list<'a, T: 'a>(items: impl IntoIterator<Item = &'a T>, value: impl Fn(&T) -> Value) -> Value {
    Value::from(items.into_iter().map(value).collect::<Vec<_>>())
}

/// A list where it has elements.
fn some_list<T>(items: &[T], value: impl Fn(&T) -> Value) -> Option<Value> {
    (!items.is_empty()).then(|| list(items, value))
}

fn flag(is_set: bool) -> Option<Value> {
    is_set.then(|| Value::from(true))
}

/// The tree of a module, as OPA gives it out.
pub(super) fn module_value(filename: &str, module: &Module, comments: &[Comment<'_>]) -> Value {
    let comment = |comment: &Comment<'_>| {
        let location = object([
            ("file", Some(Value::from(filename))),
            ("row", Some(Value::from(comment.line as u64))),
            ("col", Some(Value::from(comment.column as u64))),
        ]);
        let text = Value::from(STANDARD.encode(comment.text));
        object([("Location", Some(location)), ("Text", Some(text))])
    };
    let import = |import: &Import| {
        object([
            ("path", Some(term_value(&import.path))),
            ("alias", import.alias.as_deref().map(Value::from)),
        ])
    };
    object([
        ("package", Some(object([("path", Some(list(&module.package, term_value)))]))),
        ("imports", some_list(&module.imports, import)),
        ("rules", some_list(&module.rules, rule_value)),
        ("comments", some_list(comments, comment)),
    ])
}

fn rule_value(rule: &Rule) -> Value {
    let head = &rule.head;
    let head = object([
        ("name", head.name.as_deref().map(Value::from)),
        ("ref", Some(list(&head.reference, term_value))),
        ("args", some_list(&head.args, term_value)),
        ("key", head.key.as_ref().map(term_value)),
        ("value", head.value.as_ref().map(term_value)),
        ("assign", flag(head.is_assigned)),
    ]);
    object([
        ("head", Some(head)),
        ("body", Some(body_value(&rule.body))),
        ("default", flag(rule.is_default)),
        ("else", rule.otherwise.as_deref().map(rule_value)),
    ])
}

fn body_value(body: &[Expr]) -> Value {
    Value::from(body.iter().zip(0_u64..).map(|(expr, index)| expr_value(expr, index)).collect::<Vec<_>>())
}

fn expr_value(expr: &Expr, index: u64) -> Value {
    let terms = match &expr.terms {
        Terms::Some(symbols) => object([("symbols", Some(list(symbols, term_value)))]),
        Terms::Term(term) => term_value(term),
        Terms::Call(items) => list(items, term_value),
        Terms::Every { key, value, domain, body } => object([
            ("key", Some(key.as_ref().map_or(Value::Null, term_value))),
            ("value", Some(term_value(value))),
            ("domain", Some(term_value(domain))),
            ("body", Some(body_value(body))),
        ]),
    };
    let with = |(target, value): &(Node, Node)| {
        object([("target", Some(term_value(target))), ("value", Some(term_value(value)))])
    };
    object([
        ("index", Some(Value::from(index))),
        ("terms", Some(terms)),
        ("negated", flag(expr.is_negated)),
        ("with", some_list(&expr.withs, with)),
    ])
}

fn term_value(term: &Node) -> Value {
    let comprehension = |term: &Node, body: &[Expr]| {
        object([("term", Some(term_value(term))), ("body", Some(body_value(body)))])
    };
    let value = match &term.kind {
        Kind::Null => Value::new_object(),
        Kind::Boolean(value) => Value::from(*value),
        Kind::Number(value) => value.clone(),
        Kind::String(text) | Kind::Var(text) => Value::from(text.as_str()),
        Kind::Template { parts, is_multi_line } => {
            let part = |part: &Part| match part {
                Part::Term(term) => term_value(term),
                Part::Expr(expr) => expr_value(expr, 0),
            };
            object([("parts", Some(list(parts, part))), ("multi_line", Some(Value::from(*is_multi_line)))])
        }
        Kind::Ref(items) | Kind::Array(items) | Kind::Call(items) => list(items, term_value),
        Kind::Set(items) => list(items, term_value),
        Kind::Object(Pairs(fields)) => {
            list(fields, |(key, value)| Value::from(vec![term_value(key), term_value(value)]))
        }
        Kind::ArrayComprehension { term, body } | Kind::SetComprehension { term, body } => {
            comprehension(term, body)
        }
        Kind::ObjectComprehension { key, value, body } => object([
            ("key", Some(term_value(key))),
            ("value", Some(term_value(value))),
            ("body", Some(body_value(body))),
        ]),
    };
    object([("type", Some(Value::from(term.name()))), ("value", Some(value))])
}
