//! A template's text to its nodes.

use regorus::Value;

use super::{super::Failure, Item, fault};

/// Deepest blocks and parentheses in one another.
const NESTING_MAX: usize = 64;

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    Set { target: Target, pipeline: Pipeline },
    If(Vec<Branch>),
    With(Vec<Branch>),
    Range { names: Vec<String>, pipeline: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    Break,
    Continue,
}

/// One way an `if` or a `with` may go; without a condition, the last one.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) target: Option<Target>,
    pub(super) condition: Option<Pipeline>,
    pub(super) body: Vec<Node>,
}

#[derive(Debug)]
pub(super) enum Target {
    Declare(String),
    Assign(String),
}

/// Commands, each given the result of the one before.
#[derive(Debug)]
pub(super) struct Pipeline(pub(super) Vec<Command>);

#[derive(Debug)]
pub(super) enum Command {
    Operand(Operand),
    Call { name: String, arguments: Vec<Operand> },
}

/// A value; where it is not literal, with the fields looked up in it.
#[derive(Debug)]
pub(super) enum Operand {
    Literal(Item),
    Dot(Vec<String>),
    Variable(String, Vec<String>),
    Parenthesis(Box<Pipeline>, Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// `.a.b`, or `.` without any name.
    Path(Vec<String>),
    /// `$x` and the fields behind it.
    Variable(String, Vec<String>),
    Literal(Item),
    Symbol(&'static str),
}

/// Text and actions as they stand one after the other.
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

pub(super) fn parse(template: &str) -> Result<Vec<Node>, Failure> {
    let mut parser = Parser { pieces: pieces(template)?.into_iter(), depth: 0, loops: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        None => Ok(nodes),
        Some(_) => fault("unexpected {{end}} or {{else}}"),
    }
}

fn pieces(template: &str) -> Result<Vec<Piece>, Failure> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut trims = false;
    loop {
        let open = rest.find("{{");
        let text = rest.get(..open.unwrap_or(rest.len())).unwrap_or_default();
        let text = if trims { text.trim_start() } else { text };
        let Some(open) = open else {
            pieces.push(Piece::Text(text.to_owned()));
            return Ok(pieces);
        };
        rest = rest.get(open + 2..).unwrap_or_default();
        let trimmed = rest.strip_prefix('-').filter(|rest| rest.starts_with(char::is_whitespace));
        let text = if trimmed.is_some() { text.trim_end() } else { text };
        rest = trimmed.unwrap_or(rest);
        pieces.push(Piece::Text(text.to_owned()));
        let inner = rest.trim_start();
        let is_comment = inner.starts_with("/*");
        let (tokens, after) = if is_comment { comment(inner)? } else { tokens(rest)? };
        trims = after.1;
        rest = after.0;
        if !is_comment {
            pieces.push(Piece::Action(tokens));
        }
    }
}

/// What follows an action, and whether white space there is left out.
type After<'a> = (&'a str, bool);

fn closing(text: &str) -> Option<After<'_>> {
    let inner = text.trim_start();
    if let Some(rest) = inner.strip_prefix("}}") {
        return Some((rest, false));
    }
    let has_space = inner.len() < text.len();
    inner.strip_prefix("-}}").filter(|_| has_space).map(|rest| (rest, true))
}

fn comment(text: &str) -> Result<(Vec<Token>, After<'_>), Failure> {
    let after = text.find("*/").and_then(|end| closing(text.get(end + 2..)?));
    match after {
        Some(after) => Ok((Vec::new(), after)),
        None => fault("unclosed comment"),
    }
}

fn tokens(text: &str) -> Result<(Vec<Token>, After<'_>), Failure> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        if let Some(after) = closing(rest) {
            return Ok((tokens, after));
        }
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return fault("unclosed action") };
        let symbols = [":=", "=", "|", "(", ")", ","];
        if let Some(symbol) = symbols.iter().find(|symbol| rest.starts_with(**symbol)) {
            rest = rest.get(symbol.len()..).unwrap_or_default();
            tokens.push(Token::Symbol(symbol));
            // A closed parenthesis may be looked into.
            if *symbol == ")" && rest.starts_with('.') {
                let (path, after) = path(rest)?;
                tokens.push(Token::Path(path));
                rest = after;
            }
            continue;
        }
        let (token, after) = match first {
            '"' => quoted(rest)?,
            '`' => raw(rest)?,
            '.' => {
                let (path, after) = path(rest)?;
                (Token::Path(path), after)
            }
            '$' => {
                let (name, after) = word(rest.get(1..).unwrap_or_default());
                let (path, after) = if after.starts_with('.') { path(after)? } else { (Vec::new(), after) };
                (Token::Variable(format!("${name}"), path), after)
            }
            '-' | '+' | '0'..='9' => number(rest)?,
            _ if first == '_' || first.is_alphabetic() => {
                let (name, after) = word(rest);
                let token = match name {
                    "true" | "false" => Token::Literal(Item::Data(Value::from(name == "true"))),
                    "nil" => Token::Literal(Item::Nothing),
                    _ => Token::Word(name.to_owned()),
                };
                (token, after)
            }
            _ => return fault(format!("unexpected {first:?} in action")),
        };
        tokens.push(token);
        rest = after;
    }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|character: char| character != '_' && !character.is_alphanumeric());
    text.split_at(end.unwrap_or(text.len()))
}

fn path(text: &str) -> Result<(Vec<String>, &str), Failure> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        let (name, after) = word(after);
        if name.is_empty() {
            // A dot alone is the value at hand.
            return if names.is_empty() { Ok((names, after)) } else { fault("field without a name") };
        }
        names.push(name.to_owned());
        rest = after;
    }
    Ok((names, rest))
}

fn quoted(text: &str) -> Result<(Token, &str), Failure> {
    let mut is_escaped = true;
    let end = text.find(|character| {
        let ends = character == '"' && !is_escaped;
        // The opening quote is passed like an escaped one.
        is_escaped = character == '\\' && !is_escaped;
        ends
    });
    let (literal, rest) = text.split_at(end.map_or(text.len(), |end| end + 1));
    match serde_json::from_str::<String>(literal) {
        Ok(text) => Ok((Token::Literal(Item::text(text)), rest)),
        Err(_) => fault("malformed string constant"),
    }
}

fn raw(text: &str) -> Result<(Token, &str), Failure> {
    match text.get(1..).and_then(|text| text.split_once('`')) {
        Some((text, rest)) => Ok((Token::Literal(Item::text(text)), rest)),
        None => fault("unterminated raw string constant"),
    }
}

fn number(text: &str) -> Result<(Token, &str), Failure> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "+-._".contains(character);
    let (digits, rest) = text.split_at(text.find(|character| !is_part(character)).unwrap_or(text.len()));
    if let Ok(number) = digits.parse() {
        return Ok((Token::Literal(Item::Int(number)), rest));
    }
    match digits.parse() {
        Ok(number) => Ok((Token::Literal(Item::Float(number)), rest)),
        Err(_) => fault(format!("bad number {digits:?}")),
    }
}

/// What ended a list of nodes.
enum End {
    End,
    /// `else`, with what follows it: another `if` or `with`, or nothing.
    Else(Vec<Token>),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
    loops: usize,
}

impl Parser {
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<End>), Failure> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let Some(Token::Word(keyword)) = tokens.first() else {
                nodes.push(action(&tokens)?);
                continue;
            };
            let rest = tokens.get(1..).unwrap_or_default();
            match keyword.as_str() {
                "end" if rest.is_empty() => return Ok((nodes, Some(End::End))),
                "else" => return Ok((nodes, Some(End::Else(rest.to_vec())))),
                "if" => nodes.push(Node::If(self.branches("if", rest)?)),
                "with" => nodes.push(Node::With(self.branches("with", rest)?)),
                "range" => nodes.push(self.range(rest)?),
                "break" if rest.is_empty() && self.loops > 0 => nodes.push(Node::Break),
                "continue" if rest.is_empty() && self.loops > 0 => nodes.push(Node::Continue),
                "end" | "break" | "continue" | "define" | "template" | "block" => {
                    return fault(format!("unexpected {{{{{keyword}}}}}"));
                }
                _ => nodes.push(action(&tokens)?),
            }
        }
        Ok((nodes, None))
    }

    fn block(&mut self) -> Result<(Vec<Node>, End), Failure> {
        if self.depth >= NESTING_MAX {
            return Err(Failure::Refused(format!("template is nested deeper than {NESTING_MAX} blocks")));
        }
        self.depth += 1;
        let (nodes, end) = self.nodes()?;
        self.depth -= 1;
        match end {
            Some(end) => Ok((nodes, end)),
            None => fault("unexpected end of the template in a block"),
        }
    }

    fn branches(&mut self, keyword: &str, condition: &[Token]) -> Result<Vec<Branch>, Failure> {
        let mut branches = Vec::new();
        let mut condition = condition.to_vec();
        loop {
            let (target, tokens) = target(&condition);
            let pipeline = pipeline(tokens)?;
            let (body, end) = self.block()?;
            branches.push(Branch { target, condition: Some(pipeline), body });
            match end {
                End::End => return Ok(branches),
                End::Else(rest) if rest.is_empty() => {
                    let (body, end) = self.block()?;
                    branches.push(Branch { target: None, condition: None, body });
                    return match end {
                        End::End => Ok(branches),
                        End::Else(_) => fault("expected {{end}}, found {{else}}"),
                    };
                }
                End::Else(rest) => match rest.split_first() {
                    Some((Token::Word(word), rest)) if word == keyword => condition = rest.to_vec(),
                    _ => return fault("unexpected token after else"),
                },
            }
        }
    }

    fn range(&mut self, tokens: &[Token]) -> Result<Node, Failure> {
        let (names, tokens) = match tokens {
            [
                Token::Variable(index, a),
                Token::Symbol(","),
                Token::Variable(element, b),
                Token::Symbol(":="),
                rest @ ..,
            ] if a.is_empty() && b.is_empty() => (vec![index.clone(), element.clone()], rest),
            [Token::Variable(element, path), Token::Symbol(":="), rest @ ..] if path.is_empty() => {
                (vec![element.clone()], rest)
            }
            _ => (Vec::new(), tokens),
        };
        let pipeline = pipeline(tokens)?;
        self.loops += 1;
        let (body, end) = self.block()?;
        self.loops -= 1;
        let otherwise = match end {
            End::End => Vec::new(),
            End::Else(rest) if rest.is_empty() => match self.block()? {
                (nodes, End::End) => nodes,
                (_, End::Else(_)) => return fault("expected {{end}}, found {{else}}"),
            },
            End::Else(_) => return fault("unexpected token after else"),
        };
        Ok(Node::Range { names, pipeline, body, otherwise })
    }
}

fn action(tokens: &[Token]) -> Result<Node, Failure> {
    let (target, tokens) = target(tokens);
    let pipeline = pipeline(tokens)?;
    Ok(match target {
        Some(target) => Node::Set { target, pipeline },
        None => Node::Print(pipeline),
    })
}

/// The variable a pipeline goes to, and the pipeline's tokens.
fn target(tokens: &[Token]) -> (Option<Target>, &[Token]) {
    match tokens {
        [Token::Variable(name, path), Token::Symbol(":="), rest @ ..] if path.is_empty() => {
            (Some(Target::Declare(name.clone())), rest)
        }
        [Token::Variable(name, path), Token::Symbol("="), rest @ ..] if path.is_empty() => {
            (Some(Target::Assign(name.clone())), rest)
        }
        _ => (None, tokens),
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, Failure> {
    let mut reader = Reader { tokens, depth: 0 };
    let pipeline = reader.pipeline()?;
    if reader.tokens.is_empty() { Ok(pipeline) } else { fault("unexpected token in an action") }
}

struct Reader<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl Reader<'_> {
    fn pipeline(&mut self) -> Result<Pipeline, Failure> {
        let mut commands = vec![self.command()?];
        while let Some((Token::Symbol("|"), rest)) = self.tokens.split_first() {
            self.tokens = rest;
            commands.push(self.command()?);
        }
        Ok(Pipeline(commands))
    }

    fn command(&mut self) -> Result<Command, Failure> {
        if let Some((Token::Word(name), rest)) = self.tokens.split_first() {
            self.tokens = rest;
            let mut arguments = Vec::new();
            while let Some(operand) = self.operand()? {
                arguments.push(operand);
            }
            return Ok(Command::Call { name: name.clone(), arguments });
        }
        let Some(operand) = self.operand()? else { return fault("missing value for an action") };
        Ok(Command::Operand(operand))
    }

    fn operand(&mut self) -> Result<Option<Operand>, Failure> {
        let Some((first, rest)) = self.tokens.split_first() else { return Ok(None) };
        let operand = match first {
            Token::Path(path) => Operand::Dot(path.clone()),
            Token::Variable(name, path) => Operand::Variable(name.clone(), path.clone()),
            Token::Literal(item) => Operand::Literal(item.clone()),
            // A function without arguments.
            Token::Word(name) => {
                let call = Command::Call { name: name.clone(), arguments: Vec::new() };
                Operand::Parenthesis(Box::new(Pipeline(vec![call])), Vec::new())
            }
            Token::Symbol("(") => {
                if self.depth >= NESTING_MAX {
                    return Err(Failure::Refused("template has too many parentheses".to_owned()));
                }
                self.tokens = rest;
                self.depth += 1;
                let inner = self.pipeline()?;
                self.depth -= 1;
                let Some((Token::Symbol(")"), rest)) = self.tokens.split_first() else {
                    return fault("unclosed left parenthesis");
                };
                self.tokens = rest;
                let path = match rest.split_first() {
                    Some((Token::Path(path), rest)) if !path.is_empty() => {
                        self.tokens = rest;
                        path.clone()
                    }
                    _ => Vec::new(),
                };
                return Ok(Some(Operand::Parenthesis(Box::new(inner), path)));
            }
            Token::Symbol(_) => return Ok(None),
        };
        self.tokens = rest;
        Ok(Some(operand))
    }
}
