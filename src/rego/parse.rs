//! Text to regorus's syntax tree, with faults that have a place.
//!
//! The parser recurses, backtracks, and trusts its input; so a scan over the tokens first refuses
//! text whose nesting would overflow a stack or parse in exponential time.

use std::num::{NonZeroU32, NonZeroUsize};

use regorus::{
    Engine, PolicyLengthConfig, Source,
    unstable::{self, Lexer, Ref, TokenKind},
};

use super::{
    desugar::desugar,
    fault::Fault,
    source::Text,
    v0::{self, RegoVersion},
};

/// Longest policy file, in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 4 << 20;
/// Deepest brackets in one another. The parser's time doubles with each level.
const NESTING_MAX: usize = 14;
/// Deepest expression: brackets and operators together.
const DEPTH_MAX: usize = 96;
/// Longest chain of `.name` and `[key]`.
const STEPS_MAX: usize = 48;

/// One token with its true extent: quotes belong to a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Symbol,
    Text,
    Number,
    Word,
}

/// A parsed file.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) text: Text,
    pub(crate) tokens: Vec<Token>,
    pub(crate) syntax: Ref<unstable::Module>,
}

/// Limits wide enough for embedded certificates and key sets.
pub(crate) fn length_limits() -> PolicyLengthConfig {
    PolicyLengthConfig {
        max_col: NonZeroU32::MAX,
        max_file_bytes: NonZeroUsize::new(FILE_BYTES_MAX * 2).unwrap_or(NonZeroUsize::MAX),
        max_lines: NonZeroUsize::new(1 << 20).unwrap_or(NonZeroUsize::MAX),
    }
}

/// Parses one file, or says what is wrong with it.
pub(crate) fn parse(path: &str, source: &str, version: RegoVersion) -> Result<Parsed, Fault> {
    let text = Text::new(path, source);
    if source.len() > FILE_BYTES_MAX {
        return Err(Fault::new(
            text.place(0),
            "file_too_large",
            format!("policy file is longer than {} MiB", FILE_BYTES_MAX >> 20),
        )
        .hint("move tables into data.json"));
    }
    let edits = match version {
        RegoVersion::V1 => desugar(source).map_err(|unreadable| {
            Fault::new(text.place(unreadable.at), "parse_error", unreadable.message)
                .hint("write `$\"text {expression}\"`, and `\\{` for a brace")
        })?,
        RegoVersion::V0 => v0::edits(&text, &scan(&text)?),
    };
    let text = Text::edited(path, source, edits);
    let tokens = scan(&text)?;
    check_nesting(&text, &tokens)?;
    let mut engine = Engine::new();
    engine.set_policy_length_config(length_limits());
    engine
        .add_policy(path.to_owned(), text.content.to_string())
        .map_err(|error| fault_of(&text, "parse_error", &error.to_string()))?;
    let syntax = engine.get_modules().first().cloned().ok_or_else(|| {
        Fault::new(text.place(0), "parse_error", "file holds no module").hint("begin it with `package name`")
    })?;
    Ok(Parsed { text, tokens, syntax })
}

/// Splits regorus's message into a place and a message of our own form.
pub(crate) fn fault_of(text: &Text, code: &'static str, message: &str) -> Fault {
    let place = message.find("--> ").and_then(|at| {
        let line = message.get(at + 4..)?.lines().next()?;
        let mut parts = line.rsplitn(3, ':');
        let column = parts.next()?.parse().ok()?;
        let row = parts.next()?.parse().ok()?;
        Some(text.place_of_tabbed(row, column))
    });
    // What follows the first error only shows the other place it speaks of.
    let lines = || message.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find_map(|line| line.strip_prefix("error: "));
    let said =
        error.or_else(|| lines().next_back()).unwrap_or(message).trim_end_matches("definition:").trim();
    let fault = Fault::new(place.unwrap_or_else(|| text.place(0)), code, said);
    match hint_for(said) {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

const V1_IF: &str = "write `rule if { .. }`: this is Rego v1; for v0 say `rego_version` in the bundle's manifest, or `--v0-compatible`";
const V1_CONTAINS: &str = "write `rule contains element if { .. }`: this is Rego v1; for v0 say `rego_version` in the bundle's manifest, or `--v0-compatible`";

fn hint_for(message: &str) -> Option<&'static str> {
    let hints = [
        ("`if` keyword is required", V1_IF),
        ("`contains` keyword is required", V1_CONTAINS),
        ("invalid character", "Rego knows no such character here; text stands in double quotes"),
        ("Missing package declaration", "begin the file with `package name`"),
        ("maximum expression depth", "split the expression with `:=` into several statements"),
    ];
    hints.iter().find(|(part, _)| message.contains(part)).map(|(_, hint)| *hint)
}

pub(super) fn scan(text: &Text) -> Result<Vec<Token>, Fault> {
    let fail = |error: &dyn std::fmt::Display| fault_of(text, "parse_error", &error.to_string());
    let limits = length_limits();
    let source = Source::from_contents_with_limits(
        text.path.to_string(),
        text.content.to_string(),
        limits.max_file_bytes,
        limits.max_lines,
    )
    .map_err(|error| fail(&error))?;
    let mut lexer = Lexer::new(&source);
    lexer.set_max_col(limits.max_col);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next_token().map_err(|error| fail(&error))?;
        let (start, end) = (token.1.start as usize, token.1.end as usize);
        let (kind, quotes) = match token.0 {
            TokenKind::Eof => return Ok(tokens),
            TokenKind::Symbol => (Kind::Symbol, 0),
            TokenKind::String | TokenKind::RawString => (Kind::Text, 1),
            TokenKind::Number => (Kind::Number, 0),
            TokenKind::Ident => (Kind::Word, 0),
        };
        tokens.push(Token { kind, start: start.saturating_sub(quotes), end: end + quotes });
    }
}

/// One bracket level of the scan: the operators and steps of the expression it is in.
#[derive(Default)]
struct Level {
    operators: usize,
    steps: usize,
    /// The last token could end an operand, so another operand begins another expression.
    after_operand: bool,
}

/// Walks the tokens with a stack of levels; `depth` is what a recursive reader would need.
#[derive(Default)]
struct Nesting {
    outer: Vec<Level>,
    level: Level,
    depth: usize,
}

impl Nesting {
    fn take(&mut self, kind: Kind, word: &str) {
        match word {
            _ if kind == Kind::Text || kind == Kind::Number => self.operand(),
            "[" | "{" | "(" | "set(" => self.open(word),
            "]" | "}" | ")" => self.close(),
            "." => {
                self.level.steps += 1;
                self.level.after_operand = false;
            }
            "+" | "-" | "*" | "/" | "%" | "&" | "|" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" => {
                self.level.operators += 1;
                self.depth += 1;
                self.level.steps = 0;
                self.level.after_operand = false;
            }
            _ if kind == Kind::Symbol => self.end_expression(),
            _ => self.operand(),
        }
    }

    fn operand(&mut self) {
        if self.level.after_operand {
            self.end_expression();
        }
        self.level.after_operand = true;
    }

    fn open(&mut self, bracket: &str) {
        if bracket == "[" && self.level.after_operand {
            self.level.steps += 1;
        } else if bracket == "{" && self.level.after_operand {
            self.end_expression();
        }
        self.depth += 1;
        self.outer.push(std::mem::take(&mut self.level));
    }

    fn close(&mut self) {
        self.end_expression();
        if let Some(outer) = self.outer.pop() {
            self.depth -= 1;
            self.level = outer;
        }
        self.level.after_operand = true;
    }

    fn end_expression(&mut self) {
        self.depth -= self.level.operators;
        self.level = Level::default();
    }

    fn is_too_deep(&self) -> bool {
        self.outer.len() > NESTING_MAX || self.depth > DEPTH_MAX || self.level.steps > STEPS_MAX
    }
}

fn check_nesting(text: &Text, tokens: &[Token]) -> Result<(), Fault> {
    let mut nesting = Nesting::default();
    for token in tokens {
        nesting.take(token.kind, text.slice(token.start..token.end));
        if nesting.is_too_deep() {
            return Err(Fault::new(
                text.place(token.start),
                "nested_too_deep",
                format!(
                    "expression is nested deeper than {NESTING_MAX} brackets, {DEPTH_MAX} operators or {STEPS_MAX} steps"
                ),
            )
            .hint("split it with `:=` into several statements, or move the value into data.json"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(source: &str, code: &str, line: u32, column: u32) {
        let fault = parse("p.rego", source, RegoVersion::V1).expect_err("refused");
        assert_eq!((fault.code, fault.place.line, fault.place.column), (code, line, column), "{fault}");
    }

    #[test]
    fn faults_have_places_and_hints() {
        refused("package a\np { true }\n", "parse_error", 2, 3);
        refused("package a\n\tp := $\"{x\"\n", "parse_error", 2, 9);
        refused("package a\np := $\"{x} {)}\"\n", "parse_error", 2, 12);
        refused("p := 1\n", "parse_error", 1, 1);
        let fault = parse("p.rego", "package a\np { true }\n", RegoVersion::V1).unwrap_err();
        assert!(fault.hint.unwrap().contains("Rego v1"));
    }

    #[test]
    fn deep_text_is_refused_before_it_is_parsed() {
        let nested = |open: &str, close: &str, n: usize| {
            format!("package a\np := {}1{}", open.repeat(n), close.repeat(n))
        };
        refused(&nested("[", "]", 100_000), "nested_too_deep", 2, 20);
        refused(&nested("{\"a\": ", "}", 100_000), "nested_too_deep", 2, 90);
        refused(&nested("(", ")", 100_000), "nested_too_deep", 2, 20);
        assert!(parse("p.rego", &nested("[", "]", NESTING_MAX), RegoVersion::V1).is_ok());
        let sum = |n: usize| format!("package a\np := {}1", "1 + ".repeat(n));
        assert_eq!(parse("p.rego", &sum(100_000), RegoVersion::V1).unwrap_err().code, "nested_too_deep");
        assert!(parse("p.rego", &sum(50), RegoVersion::V1).is_ok());
        let steps = |n: usize| format!("package a\np := input{}", ".a[x]".repeat(n));
        assert_eq!(parse("p.rego", &steps(50_000), RegoVersion::V1).unwrap_err().code, "nested_too_deep");
        assert!(parse("p.rego", &steps(10), RegoVersion::V1).is_ok());
    }

    #[test]
    fn many_flat_statements_and_elements_are_fine() {
        let body = "  input.a[7].b.c + 1 == 7\n".repeat(2_000);
        assert!(parse("p.rego", &format!("package a\np if {{\n{body}}}\n"), RegoVersion::V1).is_ok());
        let items = "{\"a\": input.x[7] + 1}, ".repeat(2_000);
        assert!(parse("p.rego", &format!("package a\np := [{items}1]\n"), RegoVersion::V1).is_ok());
    }

    #[test]
    fn long_lines_are_fine() {
        let line = format!("package a\np := \"{}\"\n", "x".repeat(100_000));
        assert!(parse("p.rego", &line, RegoVersion::V1).is_ok());
    }
}
