//! Tokens to syntax trees (GraphQL, sections 2 and 3), the executable half.
//!
//! The type-system half is in `definitions`.

mod definitions;

use super::{
    super::Failure,
    ast::{
        Argument, Child, DEPTH_MAX, Directive, Field, Fragment, FragmentSpread, InlineFragment, Literal,
        LiteralKind, Operation, QueryDocument, Selection, Type, VariableDefinition,
    },
    lexer::{Placed, TEXT_BYTES_MAX, Token, tokens},
};

type Parsed<T> = Result<T, Failure>;

/// Reads tokens from the front; the last one is [`Token::End`] and is never passed.
pub(super) struct Parser {
    tokens: std::vec::IntoIter<Placed>,
    depth: usize,
}

impl Parser {
    fn new(text: &str) -> Parsed<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Failure::Refused(format!("document longer than {} MiB", TEXT_BYTES_MAX >> 20)));
        }
        Ok(Self { tokens: tokens(text).map_err(Failure::Error)?.into_iter(), depth: 0 })
    }

    pub(super) fn query(text: &str) -> Parsed<QueryDocument> {
        let mut parser = Self::new(text)?;
        let mut document = QueryDocument::default();
        while *parser.peek() != Token::End {
            if parser.is_name("fragment") {
                document.fragments.push(parser.fragment()?);
            } else {
                document.operations.push(parser.operation()?);
            }
        }
        Ok(document)
    }

    fn peek(&self) -> &Token {
        self.tokens.as_slice().first().map_or(&Token::End, |placed| &placed.token)
    }

    fn next(&mut self) -> Token {
        if self.tokens.len() > 1 {
            self.tokens.next().map_or(Token::End, |placed| placed.token)
        } else {
            self.peek().clone()
        }
    }

    fn is(&self, punctuator: char) -> bool {
        *self.peek() == Token::Punctuator(punctuator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if found == name)
    }

    fn skip(&mut self, punctuator: char) -> bool {
        let found = self.is(punctuator);
        if found {
            self.next();
        }
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, punctuator: char) -> Parsed<()> {
        if self.skip(punctuator) { Ok(()) } else { Err(self.unexpected(&format!("expected `{punctuator}`"))) }
    }

    fn expect_name(&mut self, name: &str) -> Parsed<()> {
        if self.skip_name(name) { Ok(()) } else { Err(self.unexpected(&format!("expected `{name}`"))) }
    }

    fn name(&mut self) -> Parsed<String> {
        match self.peek() {
            Token::Name(name) => {
                let name = name.clone();
                self.next();
                Ok(name)
            }
            _ => Err(self.unexpected("expected a name")),
        }
    }

    /// An error at the next token.
    fn unexpected(&self, expected: &str) -> Failure {
        let found = match self.peek() {
            Token::Punctuator('.') => "`...`".to_owned(),
            Token::Punctuator(punctuator) => format!("`{punctuator}`"),
            Token::Name(text) | Token::Int(text) | Token::Float(text) => format!("`{text}`"),
            Token::Text(_) | Token::Block(_) => "a string".to_owned(),
            Token::End => "the end".to_owned(),
        };
        let (line, column) =
            self.tokens.as_slice().first().map_or((0, 0), |placed| (placed.line, placed.column));
        Failure::Error(format!("{expected}, found {found} in GraphQL string at location {line}:{column}"))
    }

    /// What stands between two punctuators, if the first one is there.
    fn list<T>(
        &mut self,
        [open, close]: [char; 2],
        may_be_empty: bool,
        element: impl Fn(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let mut elements = Vec::new();
        if !self.skip(open) {
            return Ok(elements);
        }
        while !self.skip(close) {
            elements.push(element(self)?);
        }
        if elements.is_empty() && !may_be_empty {
            return Err(self.unexpected("expected at least one definition before"));
        }
        Ok(elements)
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEPTH_MAX {
            return Err(Failure::Refused(format!("document is nested deeper than {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn operation(&mut self) -> Parsed<Operation> {
        if self.is('{') {
            let selections = self.selections()?;
            return Ok(Operation { kind: "query".to_owned(), selections, ..Operation::default() });
        }
        let kind = self.operation_kind()?;
        let name = if matches!(self.peek(), Token::Name(_)) { self.name()? } else { String::new() };
        Ok(Operation {
            kind,
            name,
            variables: self.variables()?,
            directives: self.directives(false)?,
            selections: self.selections()?,
        })
    }

    fn operation_kind(&mut self) -> Parsed<String> {
        if ["query", "mutation", "subscription"].iter().any(|kind| self.is_name(kind)) {
            self.name()
        } else {
            Err(self.unexpected("expected an operation"))
        }
    }

    fn fragment(&mut self) -> Parsed<Fragment> {
        self.expect_name("fragment")?;
        if self.is_name("on") {
            return Err(self.unexpected("expected the name of a fragment"));
        }
        let name = self.name()?;
        let variables = self.variables()?;
        self.expect_name("on")?;
        Ok(Fragment {
            name,
            variables,
            type_condition: self.name()?,
            directives: self.directives(false)?,
            selections: self.selections()?,
        })
    }

    fn variables(&mut self) -> Parsed<Vec<VariableDefinition>> {
        self.list(['(', ')'], true, |parser| {
            parser.expect('$')?;
            let name = parser.name()?;
            parser.expect(':')?;
            let kind = parser.type_reference()?;
            let default = if parser.skip('=') { Some(parser.literal(true)?) } else { None };
            let directives = parser.directives(false)?;
            Ok(VariableDefinition { name, kind, default, directives, used: false })
        })
    }

    fn selections(&mut self) -> Parsed<Vec<Selection>> {
        if !self.is('{') {
            return Err(self.unexpected("expected `{`"));
        }
        self.deeper(|parser| parser.list(['{', '}'], false, Self::selection))
    }

    fn selection(&mut self) -> Parsed<Selection> {
        if self.skip('.') {
            return self.spread();
        }
        let alias = self.name()?;
        let name = if self.skip(':') { self.name()? } else { alias.clone() };
        let arguments = self.arguments(false)?;
        let directives = self.directives(false)?;
        let selections = if self.is('{') { self.selections()? } else { Vec::new() };
        Ok(Selection::Field(Field { alias, name, arguments, directives, selections }))
    }

    fn spread(&mut self) -> Parsed<Selection> {
        if matches!(self.peek(), Token::Name(name) if name != "on") {
            return Ok(Selection::Spread(FragmentSpread {
                name: self.name()?,
                directives: self.directives(false)?,
            }));
        }
        let type_condition = if self.skip_name("on") { self.name()? } else { String::new() };
        Ok(Selection::Inline(InlineFragment {
            type_condition,
            directives: self.directives(false)?,
            selections: self.selections()?,
        }))
    }

    fn arguments(&mut self, is_constant: bool) -> Parsed<Vec<Argument>> {
        self.list(['(', ')'], true, |parser| {
            let name = parser.name()?;
            parser.expect(':')?;
            Ok(Argument { name, value: parser.literal(is_constant)? })
        })
    }

    fn directives(&mut self, is_constant: bool) -> Parsed<Vec<Directive>> {
        let mut directives = Vec::new();
        while self.skip('@') {
            let name = self.name()?;
            let arguments = self.arguments(is_constant)?;
            directives.push(Directive { name, arguments, location: String::new() });
        }
        Ok(directives)
    }

    fn literal(&mut self, is_constant: bool) -> Parsed<Literal> {
        let written = |kind, raw| Literal { kind, raw, ..Literal::default() };
        match self.peek() {
            Token::Punctuator('$') if !is_constant => {
                self.next();
                return Ok(written(LiteralKind::Variable, self.name()?));
            }
            Token::Punctuator('[') => {
                let children = self.deeper(|parser| {
                    parser.list(['[', ']'], true, |parser| {
                        Ok(Child { name: String::new(), value: parser.literal(is_constant)? })
                    })
                })?;
                return Ok(Literal { kind: LiteralKind::List, children, ..Literal::default() });
            }
            Token::Punctuator('{') => {
                let children = self.deeper(|parser| {
                    parser.list(['{', '}'], true, |parser| {
                        let name = parser.name()?;
                        parser.expect(':')?;
                        Ok(Child { name, value: parser.literal(is_constant)? })
                    })
                })?;
                return Ok(Literal { kind: LiteralKind::Object, children, ..Literal::default() });
            }
            Token::Punctuator(_) | Token::End => return Err(self.unexpected("expected a value")),
            Token::Name(_) | Token::Int(_) | Token::Float(_) | Token::Text(_) | Token::Block(_) => {}
        }
        Ok(match self.next() {
            Token::Name(raw) => match raw.as_str() {
                "true" | "false" => written(LiteralKind::Boolean, raw),
                "null" => written(LiteralKind::Null, raw),
                _ => written(LiteralKind::Enum, raw),
            },
            Token::Int(raw) => written(LiteralKind::Int, raw),
            Token::Float(raw) => written(LiteralKind::Float, raw),
            Token::Text(raw) => written(LiteralKind::String, raw),
            Token::Block(raw) => written(LiteralKind::Block, raw),
            Token::Punctuator(_) | Token::End => Literal::default(),
        })
    }

    fn type_reference(&mut self) -> Parsed<Type> {
        let mut kind = if self.skip('[') {
            let element = self.deeper(Self::type_reference)?;
            self.expect(']')?;
            Type { element: Some(Box::new(element)), ..Type::default() }
        } else {
            Type::of(&self.name()?)
        };
        kind.non_null = self.skip('!');
        Ok(kind)
    }
}
