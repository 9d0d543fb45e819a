//! Packages, imports and rules: what OPA makes of the statements of a Rego v1 module.
//!
//! A rule without a body is read as an expression first, and then taken for a rule.

use super::{
    lexer::{self, Kind as Lexeme},
    parser::{Parsed, Parser, rooted},
    syntax::{Expr, Head, Import, Kind, Module, Node, Rule, Term, Terms, is_ground},
};
use crate::rego::builtin;

/// Keywords that only an import of `future.keywords` makes known, and whose syntax is not read here.
const PREVIEWED: &[&str] = &["and", "not", "or"];
/// Keywords of Rego v1 that may be imported still.
const IMPORTED: &[&str] = &["contains", "every", "if", "in"];
/// OPA's functions behind operators, which no rule may be named after.
const OPERATORS: &[&str] = &[
    "and",
    "assign",
    "div",
    "eq",
    "equal",
    "gt",
    "gte",
    "internal.member_2",
    "internal.member_3",
    "lt",
    "lte",
    "minus",
    "mul",
    "neq",
    "or",
    "plus",
    "rem",
];

impl Parser<'_> {
    pub(super) fn module(mut self) -> Parsed<Module> {
        if self.lexeme() == Lexeme::End {
            return self.fail("empty module");
        }
        let Some(package) = self.package()? else { return self.fail("package expected") };
        let mut module = Module { package, ..Module::default() };
        while self.lexeme() != Lexeme::End {
            let before = self.state;
            if self.package()?.is_some() {
                return self.fail("unexpected package");
            }
            self.state = before;
            if let Some(import) = self.import()? {
                module.imports.push(import);
                continue;
            }
            self.state = before;
            if let Some(rules) = self.rules()? {
                module.rules.extend(rules);
                continue;
            }
            self.state = before;
            let mut statement = self.statement()?.into_iter();
            match (statement.next(), statement.next()) {
                (Some(expr), None) => module.rules.push(self.rule_of(expr)?),
                _ => return self.fail("multiple expressions cannot be used for rule head"),
            }
        }
        Ok(module)
    }

    /// Whether a statement begins with this keyword, which is passed; one that begins a reference does not.
    fn begins(&mut self, keyword: &str) -> bool {
        if !self.is_keyword(keyword) {
            return false;
        }
        let before = self.state;
        if self.name_if_reference() {
            self.state = before;
            return false;
        }
        self.advance();
        true
    }

    /// The path of a package or an import: any word may begin it.
    fn path(&mut self) -> Parsed<Vec<Node>> {
        match self.lexeme() {
            Lexeme::Name => {}
            Lexeme::Keyword => self.name_keyword(),
            _ => return self.fail("expected ident"),
        }
        let head = self.var()?;
        let path = self.finish(head)?;
        match &path.kind {
            Kind::Var(_) => Ok(vec![path]),
            Kind::Ref(steps) if steps.first().is_some_and(|first| first.as_var().is_some()) => {
                if steps.iter().skip(1).any(|step| !matches!(step.kind, Kind::String(_))) {
                    return self.fail("unexpected token: expecting string");
                }
                Ok(steps.clone())
            }
            _ => self.fail("expected path"),
        }
    }

    fn package(&mut self) -> Parsed<Option<Vec<Node>>> {
        if !self.begins("package") {
            return Ok(None);
        }
        let path = self.path()?;
        let mut steps = vec![Term::node(Kind::Var("data".to_owned()))?];
        for step in path {
            steps.push(match step.as_var() {
                Some(name) => Term::node(Kind::String(name.to_owned()))?,
                None => step,
            });
        }
        Ok(Some(steps))
    }

    fn import(&mut self) -> Parsed<Option<Import>> {
        if !self.begins("import") {
            return Ok(None);
        }
        let steps = self.path()?;
        let names: Vec<&str> = steps
            .iter()
            .filter_map(|step| {
                if let Kind::Var(name) | Kind::String(name) = &step.kind { Some(name.as_str()) } else { None }
            })
            .collect();
        match names.as_slice() {
            ["data" | "input", ..] | ["rego", "v1"] | ["future", "keywords"] => {}
            ["future", "keywords", keyword] if IMPORTED.contains(keyword) => {}
            ["future", "keywords", keyword] if PREVIEWED.contains(keyword) => {
                return self.fail(&format!("the syntax of `future.keywords.{keyword}` is not known here"));
            }
            ["future", "keywords", _] => return self.fail("unexpected keyword"),
            ["rego", ..] => return self.fail("invalid import, must be `rego.v1`"),
            ["future", ..] => return self.fail("invalid import, must be `future.keywords`"),
            _ => {
                return self
                    .fail("unexpected import path, must begin with one of: {data, future, input, rego}");
            }
        }
        let ends_with_keyword = names.last().is_some_and(|last| lexer::is_keyword(last));
        let is_future = names.first() == Some(&"future");
        let path = Term::node(Kind::Ref(steps.clone()))?;
        if self.is_keyword("as") {
            self.advance();
            if is_future {
                return self.fail("`future` imports cannot be aliased");
            }
            if self.lexeme() != Lexeme::Name {
                return self.fail("expected var");
            }
            let alias = self.term()?;
            let Some(alias) = alias.as_var() else { return self.fail("expected var") };
            return Ok(Some(Import { path, alias: Some(alias.to_owned()) }));
        }
        if ends_with_keyword && !is_future {
            return self.fail("unexpected import path, must not end with a keyword");
        }
        Ok(Some(Import { path, alias: None }))
    }

    /// The rules of a head with bodies, a default, or a set's element; nothing where none begins here.
    fn rules(&mut self) -> Parsed<Option<Vec<Rule>>> {
        self.name_if_reference();
        let is_default = self.is_keyword("default");
        if is_default {
            self.advance();
            self.name_if_reference();
        }
        if self.lexeme() != Lexeme::Name {
            return Ok(None);
        }
        let (mut head, is_element) = self.head()?;
        if is_default {
            return Ok(Some(vec![self.default_rule(head)?]));
        }
        if self.is("{") {
            return self.fail("`if` keyword is required before rule body");
        }
        if !self.is_keyword("if") {
            let element = Rule { head, body: Expr::always()?, is_default: false, otherwise: None };
            return Ok(is_element.then(|| vec![element]));
        }
        if !is_element {
            complete(&mut head)?;
        }
        self.advance();
        let body = self.body_of_if()?;
        let otherwise = if self.is_keyword("else") && !self.name_if_reference() {
            if head.reference.len() > 1 && !is_ground(&head.reference) {
                return self.fail("else keyword cannot be used on rules with variables in head");
            }
            if head.key.is_some() {
                return self.fail("else keyword cannot be used on multi-value rules");
            }
            Some(Box::new(self.nested(|this| this.otherwise(&head))?))
        } else {
            None
        };
        let has_else = otherwise.is_some();
        let mut rules = vec![Rule { head, body, is_default: false, otherwise }];
        while self.is("{") {
            if has_else {
                return self.fail("expected else keyword");
            }
            self.advance();
            let body = self.body("}")?;
            self.advance();
            let Some(first) = rules.first().map(|rule| rule.head.clone()) else { break };
            let head = self.renumbered(&first)?;
            rules.push(Rule { head, body, is_default: false, otherwise: None });
        }
        Ok(Some(rules))
    }

    /// A copy whose wildcard arguments are others.
    fn renumbered(&mut self, head: &Head) -> Parsed<Head> {
        let mut copy = head.clone();
        for argument in &mut copy.args {
            if argument.as_var().is_some_and(|name| name.starts_with('$')) {
                *argument = self.wildcard()?;
            }
        }
        Ok(copy)
    }

    /// The head, and whether it adds an element to a set.
    fn head(&mut self) -> Parsed<(Head, bool)> {
        let name = self.var()?;
        let operators = ["+", "-", "*", "/", "%", "&", "|", "==", "!=", ">", ">=", "<", "<="];
        self.advance();
        if !self.follows_blank() && operators.iter().any(|operator| self.is(operator)) {
            return self.fail("unexpected operator");
        }
        let term = if self.is("(") || self.is(".") || self.is("[") {
            self.nested(|this| this.reference(name))?
        } else {
            rooted(name)?
        };
        let (reference, args) = match &term.kind {
            Kind::Call(items) => match items.split_first() {
                Some((operator, arguments)) => (steps_of(operator), arguments.to_vec()),
                None => (Vec::new(), Vec::new()),
            },
            _ => (steps_of(&term), Vec::new()),
        };
        let is_function = matches!(term.kind, Kind::Call(_));
        let Some(first) = reference.first().and_then(|first| first.as_var()) else {
            return self.fail("invalid rule head");
        };
        let name = (reference.len() == 1).then(|| first.to_owned());
        let mut head = Head { name, reference, args, key: None, value: None, is_assigned: false };
        if self.is_keyword("contains") {
            if is_function {
                return self.fail("the contains keyword can only be used with multi-value rule definitions");
            }
            self.advance();
            head.key = Some(self.infix()?);
            return Ok((head, true));
        }
        if self.is("=") || self.is(":=") {
            head.is_assigned = self.is(":=");
            self.advance();
            head.value = Some(self.infix()?);
        } else if head.reference.len() != 2 || !head.args.is_empty() {
            head.value = Some(Term::node(Kind::Boolean(true))?);
        }
        Ok((head, false))
    }

    fn default_rule(&self, head: Head) -> Parsed<Rule> {
        let Some(value) = &head.value else { return self.fail("illegal default rule (must have a value)") };
        if let Some(part) = value.open_part() {
            return self.fail(&format!("illegal default rule (value cannot contain {part})"));
        }
        for (index, argument) in head.args.iter().enumerate() {
            if argument.as_var().is_none() || head.args.iter().take(index).any(|other| other == argument) {
                return self.fail("illegal default rule (arguments must be different variables)");
            }
        }
        Ok(Rule { head, body: Expr::always()?, is_default: true, otherwise: None })
    }

    fn body_of_if(&mut self) -> Parsed<Vec<Expr>> {
        let before = self.state;
        let found = self.attempt(Self::literal)?;
        let is_set =
            |expr: &Expr| matches!(&expr.terms, Terms::Term(term) if matches!(term.kind, Kind::Set(_)));
        if let Some(expr) = found.filter(|expr| !is_set(expr)) {
            return Ok(vec![expr]);
        }
        self.state = before;
        self.expect("{")?;
        let body = self.body("}")?;
        self.advance();
        Ok(body)
    }

    fn otherwise(&mut self, of: &Head) -> Parsed<Rule> {
        let mut head = self.renumbered(of)?;
        self.advance();
        if self.is("=") || self.is(":=") {
            head.is_assigned = self.is(":=");
            self.advance();
            head.value = Some(self.infix()?);
        } else if self.is("{") || self.is_keyword("if") {
            head.value = Some(Term::node(Kind::Boolean(true))?);
        } else {
            return self.fail("expected else value term or rule body");
        }
        if self.is("{") {
            return self.fail("`if` keyword is required before rule body");
        }
        if !self.is_keyword("if") {
            return Ok(Rule { head, body: Expr::always()?, is_default: false, otherwise: None });
        }
        self.advance();
        let body = if self.is("{") {
            self.advance();
            let body = self.body("}")?;
            self.advance();
            body
        } else {
            vec![self.literal()?]
        };
        let otherwise = if self.is_keyword("else") {
            Some(Box::new(self.nested(|this| this.otherwise(of))?))
        } else {
            None
        };
        Ok(Rule { head, body, is_default: false, otherwise })
    }

    /// The rule that an expression without a body stands for.
    fn rule_of(&self, expr: Expr) -> Parsed<Rule> {
        if expr.is_negated || !expr.withs.is_empty() {
            return self.fail("negated expressions and those with `with` cannot be used for rule head");
        }
        let items = match expr.terms {
            Terms::Call(items) => items,
            Terms::Term(term) => {
                return self.fail(&format!("{} cannot be used for rule name", term.name()));
            }
            Terms::Some(_) | Terms::Every { .. } => {
                return self.fail("expression cannot be used for rule head");
            }
        };
        let Some((operator, arguments)) = items.split_first() else { return self.fail("empty expression") };
        let name = written(operator);
        if let (Some("eq" | "assign"), [left, right, ..]) = (name.as_deref(), arguments) {
            let mut head = self.head_of(left)?;
            head.value = Some(right.clone());
            head.is_assigned = name.as_deref() == Some("assign");
            return Ok(Rule { head, body: Expr::always()?, is_default: false, otherwise: None });
        }
        if name.as_deref().is_none_or(|name| OPERATORS.contains(&name) || builtin::is_known(name)) {
            return self.fail("rule name conflicts with built-in function");
        }
        if arguments.is_empty() {
            return self.fail("rule argument list must take at least one argument");
        }
        let mut head = self.named(steps_of(operator))?;
        head.args = arguments.to_vec();
        head.value = Some(Term::node(Kind::Boolean(true))?);
        Ok(Rule { head, body: Expr::always()?, is_default: false, otherwise: None })
    }

    /// The head on the left of an assignment.
    fn head_of(&self, left: &Node) -> Parsed<Head> {
        match &left.kind {
            Kind::Call(items) => {
                let Some((operator, arguments)) = items.split_first() else {
                    return self.fail("invalid rule head");
                };
                let mut head = self.named(steps_of(operator))?;
                head.args = arguments.to_vec();
                Ok(head)
            }
            Kind::Var(_) => self.named(vec![left.clone()]),
            Kind::Ref(steps) => {
                let [first, step] = steps.as_slice() else { return self.named(steps.clone()) };
                let Some(name) = first.as_var() else { return self.fail("invalid rule head") };
                Ok(Head {
                    name: Some(name.to_owned()),
                    key: Some(step.clone()),
                    reference: steps.clone(),
                    args: Vec::new(),
                    value: None,
                    is_assigned: false,
                })
            }
            _ => self.fail(&format!("{} cannot be used for rule name", left.name())),
        }
    }

    /// A head without key and value; only one without steps has a name of its own.
    fn named(&self, reference: Vec<Node>) -> Parsed<Head> {
        let Some(first) = reference.first().and_then(|first| first.as_var()) else {
            return self.fail("invalid rule head");
        };
        if reference.len() == 1 && lexer::is_keyword(first) {
            return self.fail(&format!("{first} keyword cannot be used for rule name"));
        }
        let name = (reference.len() == 1).then(|| first.to_owned());
        Ok(Head { name, reference, args: Vec::new(), key: None, value: None, is_assigned: false })
    }
}

/// The steps of a reference; a variable is one step.
fn steps_of(term: &Node) -> Vec<Node> {
    if let Kind::Ref(steps) = &term.kind { steps.clone() } else { vec![term.clone()] }
}

/// The dotted name of a function.
fn written(operator: &Node) -> Option<String> {
    let names =
        steps_of(operator)
            .iter()
            .map(|step| {
                if let Kind::Var(name) | Kind::String(name) = &step.kind { Some(name.clone()) } else { None }
            })
            .collect::<Option<Vec<_>>>()?;
    Some(names.join("."))
}

/// What `if` makes of a head with one step.
fn complete(head: &mut Head) -> Parsed<()> {
    let [first, step] = head.reference.as_slice() else { return Ok(()) };
    let is_open = !step.is_ground() || matches!(step.kind, Kind::Ref(_));
    let name = first.as_var().map(str::to_owned);
    if is_open && head.args.is_empty() {
        head.key = Some(step.clone());
    }
    match head.value {
        Some(_) => head.name = name,
        None => head.value = Some(Term::node(Kind::Boolean(true))?),
    }
    Ok(())
}
