//! Terms and expressions, read as OPA's parser reads them, with its attempts in its order.
//!
//! A term read at a token is remembered, so that going back costs no more than it does in OPA, and
//! never doubles with each bracket. Recursion is bounded by the depth a term may have.

use std::collections::{BTreeSet, HashMap};

use regorus::Value;

use super::{
    lexer::{self, Kind as Lexeme, Token, template_text, unescaped},
    syntax::{DEPTH_MAX, Expr, Kind, Node, Pairs, Part, Term, Terms, too_deep},
};
use crate::rego::builtin::Failure;

pub(super) type Parsed<T> = Result<T, Failure>;

/// Binary operators and their functions, those that bind weakest first.
const LEVELS: [&[(&str, &str)]; 5] = [
    &[("==", "equal"), ("!=", "neq"), ("<", "lt"), (">", "gt"), ("<=", "lte"), (">=", "gte")],
    &[("|", "or")],
    &[("&", "and")],
    &[("+", "plus"), ("-", "minus")],
    &[("*", "mul"), ("/", "div"), ("%", "rem")],
];

/// Where the parser stands; all there is to going back.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    at: usize,
    wildcards: usize,
    /// The keyword that was found to begin a reference.
    named: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Parser<'a> {
    filename: &'a str,
    text: &'a str,
    tokens: &'a [Token],
    pub(super) state: State,
    /// By token, and whether that is a keyword taken for a name.
    read: HashMap<(usize, bool), (Parsed<Node>, State)>,
    nesting: usize,
}

// === Tokens ===

impl<'a> Parser<'a> {
    pub(super) fn new(filename: &'a str, text: &'a str, tokens: &'a [Token]) -> Self {
        let state = State { at: 0, wildcards: 0, named: None };
        Self { filename, text, tokens, state, read: HashMap::new(), nesting: 0 }
    }

    fn token(&self) -> Token {
        self.ahead(0)
    }

    fn ahead(&self, count: usize) -> Token {
        let end = Token {
            kind: Lexeme::End,
            start: self.text.len(),
            end: self.text.len(),
            follows_blank: true,
            follows_line_end: true,
            follows_comment: false,
        };
        self.tokens.get(self.state.at + count).copied().unwrap_or(end)
    }

    pub(super) fn lexeme(&self) -> Lexeme {
        if self.state.named == Some(self.state.at) { Lexeme::Name } else { self.token().kind }
    }

    pub(super) fn word(&self) -> &'a str {
        let token = self.token();
        self.text.get(token.start..token.end).unwrap_or_default()
    }

    pub(super) fn is(&self, symbol: &str) -> bool {
        matches!(self.lexeme(), Lexeme::Symbol(found) if found == symbol)
    }

    pub(super) fn is_keyword(&self, word: &str) -> bool {
        self.lexeme() == Lexeme::Keyword && self.word() == word
    }

    pub(super) fn advance(&mut self) {
        self.state.at += usize::from(self.state.at < self.tokens.len());
    }

    pub(super) fn follows_blank(&self) -> bool {
        self.token().follows_blank
    }

    pub(super) fn fail<T>(&self, message: &str) -> Parsed<T> {
        Err(lexer::error(self.filename, self.text, self.token().start, message))
    }

    fn unexpected<T>(&self, wanted: &str) -> Parsed<T> {
        let found = if self.lexeme() == Lexeme::End { "eof" } else { self.word() };
        self.fail(&format!("unexpected {found} token: expected {wanted}"))
    }

    pub(super) fn expect(&mut self, symbol: &str) -> Parsed<()> {
        if !self.is(symbol) {
            return self.unexpected(symbol);
        }
        self.advance();
        Ok(())
    }

    /// Whether the next token continues a reference right here.
    fn is_next_step(&self) -> bool {
        let next = self.ahead(1);
        !next.follows_blank && matches!(next.kind, Lexeme::Symbol("." | "["))
    }

    /// A keyword that begins a reference is a name.
    pub(super) fn name_if_reference(&mut self) -> bool {
        let is_reference = self.lexeme() == Lexeme::Keyword && self.is_next_step();
        if is_reference {
            self.name_keyword();
        }
        is_reference
    }

    pub(super) fn name_keyword(&mut self) {
        self.state.named = Some(self.state.at);
    }

    /// Nothing where what was tried does not stand here; refusals end everything.
    pub(super) fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<Option<T>> {
        match read(self) {
            Ok(found) => Ok(Some(found)),
            Err(Failure::Error(_)) => Ok(None),
            Err(ends @ (Failure::Refused(_) | Failure::Unanswered(_))) => Err(ends),
        }
    }

    pub(super) fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.nesting >= DEPTH_MAX {
            return Err(too_deep());
        }
        self.nesting += 1;
        let found = read(self);
        self.nesting -= 1;
        found
    }
}

// === Expressions ===

impl Parser<'_> {
    /// A body up to its closing bracket, which stays.
    pub(super) fn body(&mut self, end: &str) -> Parsed<Vec<Expr>> {
        self.nested(|this| this.query(end))
    }

    fn query(&mut self, end: &str) -> Parsed<Vec<Expr>> {
        if self.is(end) {
            return self.fail("found empty body");
        }
        let mut body = Vec::new();
        loop {
            body.push(self.literal()?);
            if self.is(";") {
                self.advance();
            } else if self.is(end) {
                return Ok(body);
            } else if !self.token().follows_line_end {
                return self.unexpected(&format!("\\n or ; or {end}"));
            }
        }
    }

    /// The expressions of a statement that is no rule with a body.
    pub(super) fn statement(&mut self) -> Parsed<Vec<Expr>> {
        let mut body = vec![self.literal()?];
        while self.is(";") {
            self.advance();
            body.push(self.literal()?);
        }
        Ok(body)
    }

    pub(super) fn literal(&mut self) -> Parsed<Expr> {
        if self.name_if_reference() {
            return self.expression(false);
        }
        let is_negated = self.is_keyword("not");
        if is_negated {
            self.advance();
        }
        if self.is_keyword("some") || self.is_keyword("every") {
            if is_negated {
                return self.fail(&format!("illegal negation of `{}`", self.word()));
            }
            return if self.is_keyword("some") { self.some() } else { self.every() };
        }
        self.expression(is_negated)
    }

    fn expression(&mut self, is_negated: bool) -> Parsed<Expr> {
        let left = self.infix()?;
        let operator = if self.is(":=") {
            Some("assign")
        } else if self.is("=") {
            Some("eq")
        } else {
            None
        };
        let terms = if let Some(operator) = operator {
            self.advance();
            let right = self.infix()?;
            Terms::Call(vec![function(&[operator])?, left, right])
        } else if let Kind::Call(items) = &left.kind {
            Terms::Call(items.clone())
        } else {
            Terms::Term(left)
        };
        Ok(Expr { terms, is_negated, withs: self.withs()? })
    }

    fn withs(&mut self) -> Parsed<Vec<(Node, Node)>> {
        let mut withs = Vec::new();
        while self.is_keyword("with") {
            self.advance();
            if self.lexeme() != Lexeme::Name {
                return self.unexpected("ident");
            }
            let target = self.term()?;
            if !matches!(target.kind, Kind::Ref(_) | Kind::Var(_)) {
                return self.unexpected("with target path");
            }
            if !self.is_keyword("as") {
                return self.unexpected("as keyword");
            }
            self.advance();
            withs.push((target, self.infix()?));
        }
        Ok(withs)
    }

    fn some(&mut self) -> Parsed<Expr> {
        let before = self.state;
        self.advance();
        let found = self.attempt(Self::infix)?;
        if let Some(term) = found
            && let Kind::Call(items) = &term.kind
        {
            if membership_of(items).is_none() {
                return self.unexpected("`x in xs` or `x, y in xs` expression");
            }
            let withs = self.withs()?;
            return Ok(Expr { terms: Terms::Some(vec![term]), is_negated: false, withs });
        }
        self.state = before;
        let mut symbols = Vec::new();
        loop {
            self.advance();
            if self.lexeme() != Lexeme::Name {
                return self.unexpected("var");
            }
            symbols.push(self.var()?);
            self.advance();
            if !self.is(",") {
                return Ok(Expr::new(Terms::Some(symbols)));
            }
        }
    }

    fn every(&mut self) -> Parsed<Expr> {
        self.advance();
        let term = self.infix()?;
        let parts = if let Kind::Call(items) = &term.kind { membership_of(items) } else { None };
        let Some((key, value, domain)) = parts else {
            return self.unexpected("`x[, y] in xs { ... }` expression");
        };
        if key.is_some_and(|key| key.as_var().is_none()) || value.as_var().is_none() {
            return self.unexpected("key and value to be variables");
        }
        self.expect("{")?;
        let body = self.body("}")?;
        self.advance();
        let (key, value, domain) = (key.cloned(), value.clone(), domain.clone());
        let terms = Terms::Every { key, value, domain, body };
        Ok(Expr { terms, is_negated: false, withs: self.withs()? })
    }
}

/// Key, value and collection of a call that tells a membership.
fn membership_of(items: &[Node]) -> Option<(Option<&Node>, &Node, &Node)> {
    let is_member =
        |operator: &Node, name: &str| function(&["internal", name]).is_ok_and(|wanted| *operator == wanted);
    match items {
        [operator, value, domain] if is_member(operator, "member_2") => Some((None, value, domain)),
        [operator, key, value, domain] if is_member(operator, "member_3") => Some((Some(key), value, domain)),
        _ => None,
    }
}

/// The reference that names a function.
fn function(path: &[&str]) -> Parsed<Node> {
    let step = |(index, name): (usize, &&str)| {
        Term::node(if index == 0 { Kind::Var((*name).to_owned()) } else { Kind::String((*name).to_owned()) })
    };
    Term::node(Kind::Ref(path.iter().enumerate().map(step).collect::<Parsed<_>>()?))
}

fn call(path: &[&str], arguments: Vec<Node>) -> Parsed<Node> {
    Term::node(Kind::Call(std::iter::once(function(path)?).chain(arguments).collect()))
}

// === Terms ===

impl Parser<'_> {
    /// A term with its operators, where `key, value in collection` may stand.
    pub(super) fn infix(&mut self) -> Parsed<Node> {
        self.nested(|this| this.membership(true))
    }

    fn infix_in_list(&mut self) -> Parsed<Node> {
        self.nested(|this| this.membership(false))
    }

    fn membership(&mut self, may_have_key: bool) -> Parsed<Node> {
        let mut left = self.binary(0)?;
        loop {
            let before = self.state;
            if may_have_key && self.is(",") {
                let key = left.clone();
                if let Some(found) = self.attempt(|this| this.member_with_key(key))? {
                    left = found;
                    if self.is_keyword("in") {
                        continue;
                    }
                    return Ok(left);
                }
                self.state = before;
            }
            self.name_if_reference();
            if !self.is_keyword("in") {
                return Ok(left);
            }
            self.advance();
            left = call(&["internal", "member_2"], vec![left, self.binary(0)?])?;
        }
    }

    fn member_with_key(&mut self, key: Node) -> Parsed<Node> {
        self.advance();
        let value = self.binary(0)?;
        if !self.is_keyword("in") {
            return self.unexpected("in");
        }
        self.advance();
        call(&["internal", "member_3"], vec![key, value, self.binary(0)?])
    }

    fn binary(&mut self, level: usize) -> Parsed<Node> {
        let Some(operators) = LEVELS.get(level) else { return self.term() };
        let mut left = self.binary(level + 1)?;
        while let Some((_, name)) = operators.iter().find(|(symbol, _)| self.is(symbol)) {
            self.advance();
            left = call(&[name], vec![left, self.binary(level + 1)?])?;
        }
        Ok(left)
    }

    pub(super) fn term(&mut self) -> Parsed<Node> {
        let key = (self.state.at, self.state.named == Some(self.state.at));
        if let Some((found, after)) = self.read.get(&key) {
            self.state = *after;
            return found.clone();
        }
        let found = self.nested(Self::new_term);
        self.read.insert(key, (found.clone(), self.state));
        found
    }

    fn new_term(&mut self) -> Parsed<Node> {
        let head = match (self.lexeme(), self.word()) {
            (Lexeme::Keyword, "null") => Term::node(Kind::Null)?,
            (Lexeme::Keyword, word @ ("true" | "false")) => Term::node(Kind::Boolean(word == "true"))?,
            (Lexeme::Name, _) | (Lexeme::Keyword, "contains") => self.var()?,
            (Lexeme::Number, digits) => self.number(digits)?,
            (Lexeme::Text, inner) => match unescaped(inner) {
                Some(text) => Term::node(Kind::String(text))?,
                None => return self.fail("illegal string literal"),
            },
            (Lexeme::RawText, text) => Term::node(Kind::String(text.to_owned()))?,
            (Lexeme::Template { is_first: true, is_raw, .. }, _) => self.template(is_raw)?,
            (Lexeme::Symbol("-"), _) => return self.negative(),
            (Lexeme::Symbol("["), _) => self.array()?,
            (Lexeme::Symbol("{"), _) => self.set_or_object()?,
            (Lexeme::Symbol("("), _) => {
                self.advance();
                let inner = self.infix()?;
                if !self.is(")") {
                    return self.fail("non-terminated expression");
                }
                inner
            }
            _ => return self.unexpected("a term"),
        };
        self.finish(head)
    }

    /// The variable at hand, which stays; each `_` is another.
    pub(super) fn var(&mut self) -> Parsed<Node> {
        if self.word() == "_" {
            return self.wildcard();
        }
        Term::node(Kind::Var(self.word().to_owned()))
    }

    pub(super) fn wildcard(&mut self) -> Parsed<Node> {
        let name = format!("${}", self.state.wildcards);
        self.state.wildcards += 1;
        Term::node(Kind::Var(name))
    }

    fn negative(&mut self) -> Parsed<Node> {
        self.advance();
        match self.lexeme() {
            Lexeme::Number => {
                let number = self.number(&format!("-{}", self.word()))?;
                self.finish(number)
            }
            Lexeme::Name => {
                let zero = Term::node(Kind::Number(Value::from(0)))?;
                call(&["minus"], vec![zero, self.term()?])
            }
            _ => self.unexpected("number"),
        }
    }

    fn number(&self, text: &str) -> Parsed<Node> {
        let digits = text.trim_start_matches('-');
        let exponent = digits.split(['e', 'E']).nth(1).unwrap_or_default().trim_start_matches(['+', '-']);
        let second = digits.strip_prefix('0').and_then(|rest| rest.chars().next());
        if second.is_some_and(|second| !matches!(second, '.' | 'e' | 'E')) {
            return self.unexpected("number without leading zero");
        }
        if digits.len() > 1_024 || exponent.trim_start_matches('0').len() > 4 {
            return self.fail("number too big");
        }
        match Value::from_json_str(text) {
            Ok(number @ Value::Number(_)) => Term::node(Kind::Number(number)),
            Ok(_) | Err(_) => self.fail("number too big"),
        }
    }

    /// What follows the head of a term, whose last token is at hand.
    pub(super) fn finish(&mut self, head: Node) -> Parsed<Node> {
        self.advance();
        let continues = self.is("(") || self.is(".") || self.is("[");
        if continues && !self.token().follows_blank {
            return self.nested(|this| this.reference(head));
        }
        rooted(head)
    }

    /// Steps and calls after a head; the first may stand after blanks where that is the head of a rule.
    pub(super) fn reference(&mut self, head: Node) -> Parsed<Node> {
        if matches!(
            head.kind,
            Kind::Null
                | Kind::Boolean(_)
                | Kind::Number(_)
                | Kind::String(_)
                | Kind::Template { .. }
                | Kind::Ref(_)
        ) {
            return self.fail(&format!("illegal ref (head cannot be {})", head.name()));
        }
        let mut steps = vec![head];
        loop {
            let is_tight = steps.len() == 1 || !self.token().follows_blank;
            match self.lexeme() {
                Lexeme::Symbol(".") if is_tight => {
                    self.advance();
                    let is_name = matches!(self.token().kind, Lexeme::Name | Lexeme::Keyword);
                    if !is_name || self.token().follows_blank {
                        return self.unexpected("identifier");
                    }
                    steps.push(Term::node(Kind::String(self.word().to_owned()))?);
                    self.advance();
                }
                Lexeme::Symbol("(") if is_tight => {
                    let called = self.call(Term::node(Kind::Ref(steps))?)?;
                    if (self.is(".") || self.is("[")) && !self.token().follows_blank {
                        return self.nested(|this| this.reference(called));
                    }
                    return Ok(called);
                }
                Lexeme::Symbol("[") if is_tight => {
                    self.advance();
                    steps.push(self.infix()?);
                    self.expect("]")?;
                }
                _ => return Term::node(Kind::Ref(steps)),
            }
        }
    }

    fn call(&mut self, operator: Node) -> Parsed<Node> {
        self.advance();
        let is_set = self.is(")") && function(&["set"])? == operator;
        let items = self.list(")", vec![operator])?;
        self.advance();
        Term::node(if is_set { Kind::Set(BTreeSet::new()) } else { Kind::Call(items) })
    }

    /// The elements up to a closing bracket, which stays.
    fn list(&mut self, end: &str, mut items: Vec<Node>) -> Parsed<Vec<Node>> {
        while !self.is(end) {
            items.push(self.infix_in_list()?);
            if self.is(end) {
                break;
            }
            self.expect(",")?;
        }
        Ok(items)
    }

    fn template(&mut self, is_raw: bool) -> Parsed<Node> {
        let mut parts = Vec::new();
        loop {
            let Lexeme::Template { is_last, .. } = self.lexeme() else {
                return self.unexpected("} to end template string expression");
            };
            match template_text(self.word(), is_raw) {
                Some(text) if text.is_empty() => {}
                Some(text) => parts.push(Part::Term(Term::node(Kind::String(text))?)),
                None => return self.fail("illegal template-string part"),
            }
            if is_last {
                return Term::node(Kind::Template { parts, is_multi_line: is_raw });
            }
            self.advance();
            let follows_comment = self.token().follows_comment;
            let expr = self.literal()?;
            let is_binding = |items: &[Node]| {
                let operator = items.first();
                items.len() == 3
                    && ["eq", "assign"].iter().any(|name| function(&[name]).ok().as_ref() == operator)
            };
            parts.push(match &expr.terms {
                Terms::Some(_) | Terms::Every { .. } => return self.unexpected("an expression"),
                _ if expr.is_negated => return self.unexpected("an expression without `not`"),
                Terms::Call(items) if is_binding(items) => return self.unexpected("no assignment"),
                Terms::Term(term)
                    if !follows_comment
                        && matches!(
                            term.kind,
                            Kind::String(_) | Kind::Number(_) | Kind::Boolean(_) | Kind::Null
                        ) =>
                {
                    Part::Term(term.clone())
                }
                Terms::Term(_) | Terms::Call(_) => Part::Expr(expr),
            });
            if matches!(self.lexeme(), Lexeme::Template { is_first: true, .. }) {
                return self.unexpected("} to end template string expression");
            }
        }
    }
}

/// `data` and `input` are references even alone.
pub(super) fn rooted(head: Node) -> Parsed<Node> {
    if matches!(head.as_var(), Some("data" | "input")) { Term::node(Kind::Ref(vec![head])) } else { Ok(head) }
}

// === Collections ===

impl Parser<'_> {
    fn array(&mut self) -> Parsed<Node> {
        self.advance();
        if self.is("]") {
            return Term::node(Kind::Array(Vec::new()));
        }
        let may_be_comprehension = !self.leading_comma();
        let before = self.state;
        // Comprehensions win over unions: `[1 | 1]` is one.
        let head = self.term()?;
        if self.is("]") || self.is(",") {
            self.pass_comma();
            let items = self.list("]", vec![head])?;
            return Term::node(Kind::Array(items));
        }
        if self.is("|")
            && may_be_comprehension
            && let Some(body) = self.comprehension("]")?
        {
            return Term::node(Kind::ArrayComprehension { term: head, body });
        }
        self.state = before;
        let items = self.list("]", Vec::new())?;
        Term::node(Kind::Array(items))
    }

    /// The body after a `|`; nothing where a comma says that this is a union in a list.
    fn comprehension(&mut self, end: &str) -> Parsed<Option<Vec<Expr>>> {
        self.advance();
        match self.body(end) {
            Ok(body) => Ok(Some(body)),
            Err(Failure::Error(_)) if self.is(",") => Ok(None),
            Err(ends) => Err(ends),
        }
    }

    fn leading_comma(&mut self) -> bool {
        let is_there = self.is(",");
        self.pass_comma();
        is_there
    }

    fn pass_comma(&mut self) {
        if self.is(",") {
            self.advance();
        }
    }

    fn set_or_object(&mut self) -> Parsed<Node> {
        self.advance();
        if self.is("}") {
            return Term::node(Kind::Object(Pairs::new(Vec::new())));
        }
        let may_be_comprehension = !self.leading_comma();
        let before = self.state;
        let head = self.term()?;
        if self.is(":") {
            return self.object(head, may_be_comprehension);
        }
        if self.is("}") || self.is(",") {
            return self.set(head);
        }
        if self.is("|") && may_be_comprehension {
            if let Some(body) = self.comprehension("}")? {
                return Term::node(Kind::SetComprehension { term: head, body });
            }
            self.state = before;
            return set_of(self.list("}", Vec::new())?);
        }
        self.state = before;
        let head = self.infix_in_list()?;
        if self.is(":") {
            return self.object(head, may_be_comprehension);
        }
        if self.is("}") || self.is(",") {
            return self.set(head);
        }
        self.fail("non-terminated set")
    }

    fn set(&mut self, head: Node) -> Parsed<Node> {
        self.pass_comma();
        set_of(self.list("}", vec![head])?)
    }

    fn object(&mut self, key: Node, may_be_comprehension: bool) -> Parsed<Node> {
        self.advance();
        let before = self.state;
        let value = self.term()?;
        if may_be_comprehension {
            if self.is("}") || self.is(",") {
                return self.fields(key, value);
            }
            if self.is("|") {
                self.advance();
                if let Some(body) = self.attempt(|this| this.body("}"))? {
                    return Term::node(Kind::ObjectComprehension { key, value, body });
                }
            }
        }
        self.state = before;
        let value = self.infix_in_list()?;
        if self.is("}") || self.is(",") {
            return self.fields(key, value);
        }
        self.fail("non-terminated object")
    }

    fn fields(&mut self, key: Node, value: Node) -> Parsed<Node> {
        let mut fields = vec![(key, value)];
        self.pass_comma();
        while !self.is("}") {
            let key = self.infix_in_list()?;
            self.expect(":")?;
            fields.push((key, self.infix_in_list()?));
            if self.is("}") {
                break;
            }
            self.expect(",")?;
        }
        Term::node(Kind::Object(Pairs::new(fields)))
    }
}

/// A set; of equal elements the first one written stays.
fn set_of(items: Vec<Node>) -> Parsed<Node> {
    let mut set = BTreeSet::new();
    for item in items.into_iter().rev() {
        set.replace(item);
    }
    Term::node(Kind::Set(set))
}
